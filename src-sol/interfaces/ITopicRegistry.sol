// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "./IAccessMarket.sol";
import {IBrokerRegistry} from "./IBrokerRegistry.sol";

/// @title Topics: who owns a name, what is offered below it, on which terms and to which countries.
/// @notice A registered topic governs its own name and every name below it, down to the next registered topic.
/// Id = `keccak256(abi.encode(brokerId, name))`. Names: visible ASCII (0x21 to 0x7E) without `+` and `#`, no leading `$`,
/// no empty level, at most 256 octets and 16 levels.
///
/// A *hidden* topic has no name on chain, only `commitment = keccak256(abi.encodePacked(salt, name))` with 32 random octets of
/// salt and its whole name, which lies below that of its parent. Its id is `keccak256(abi.encode(brokerId, parentId, commitment))`.
/// Its owner tells salt and name to the gateways. Where a hidden and a visible topic turn out to have the same name, the visible one governs.
interface ITopicRegistry {
    enum Right {
        Publish,
        Subscribe
    }

    /// @notice `Closed`: the owner grants, nobody buys. `Priced`: anyone buys, 0 wei = anyone claims.
    /// `Public`: any authenticated wallet, without a transaction.
    enum OfferMode {
        Closed,
        Priced,
        Public
    }

    /// @notice What the countries of a topic are: none named, the only ones it may be used from, or those it may not.
    enum CountryMode {
        Any,
        Only,
        Except
    }

    /// @notice Terms for one right.
    /// @param mode See {OfferMode}.
    /// @param period Seconds that `priceWei` buys; 1 to {MAX_PERIOD} if `Priced`, else 0.
    /// @param priceWei Wei per period, at most {MAX_PRICE}; 0 unless `Priced`.
    struct Offer {
        OfferMode mode;
        uint32 period;
        uint128 priceWei;
    }

    /// @notice What holds for a topic whoever acts.
    /// @param retain May messages be retained.
    /// @param sensitive Personal data: every access is recorded.
    /// @param ownBranch A key may use `<topic>/<its lower-case address>` and what is below, nothing else; only the owner's own wallet key
    /// may use all of it.
    struct Traits {
        bool retain;
        bool sensitive;
        bool ownBranch;
    }

    event TopicRegistered(
        uint256 indexed brokerId,
        bytes32 indexed topicId,
        address indexed owner,
        uint64 epoch,
        string name,
        Traits traits,
        Offer publishOffer,
        Offer subscribeOffer
    );
    /// @notice As {TopicRegistered}, of a topic whose name only those know who were told.
    event HiddenTopicRegistered(
        uint256 indexed brokerId,
        bytes32 indexed topicId,
        address indexed owner,
        uint64 epoch,
        bytes32 parentId,
        bytes32 commitment,
        Traits traits,
        Offer publishOffer,
        Offer subscribeOffer
    );
    event TraitsSet(uint256 indexed brokerId, bytes32 indexed topicId, Traits traits);
    event OfferSet(uint256 indexed brokerId, bytes32 indexed topicId, Right right, Offer offer);
    /// @notice The whole rule as it is from now on. `codes` is empty exactly if `mode` is `Any`.
    event CountriesSet(uint256 indexed brokerId, bytes32 indexed topicId, CountryMode mode, bytes2[] codes);
    event ManagerSet(uint256 indexed brokerId, bytes32 indexed topicId, address indexed manager, bool allowed);
    event TopicOwnershipOffered(
        uint256 indexed brokerId, bytes32 indexed topicId, address indexed candidate, address owner
    );
    /// @notice Grants, blocks and managers stay as they are.
    event TopicOwnershipTransferred(
        uint256 indexed brokerId, bytes32 indexed topicId, address indexed newOwner, address previousOwner
    );
    /// @notice All grants, blocks and managers of `epoch` are dead. Names below stay with their own topics. Registered again, the
    /// topic has the next epoch.
    event TopicDeleted(uint256 indexed brokerId, bytes32 indexed topicId, address indexed owner, uint64 epoch);

    error InvalidName(string name, string why);
    error TopicExists(bytes32 topicId);
    error UnknownTopic(bytes32 topicId);
    error UnknownBroker(uint256 brokerId);
    error NotTopicOwner(bytes32 topicId, address caller);
    error NotTopicOwnerOrManager(bytes32 topicId, address caller);
    error NotTopicCandidate(bytes32 topicId, address caller, address candidate);
    /// @notice The nearest registered topic above belongs to someone else (`governor` = its id), or the naming policy forbids it (0).
    error NameNotYours(string name, address caller, bytes32 governor);
    error EmptyCommitment(bytes32 parentId);
    /// @notice Code number `index` is not two letters A to Z, is `ZZ` (unknown), or does not come after the one before it.
    error InvalidCountry(uint256 index, bytes2 code);
    /// @notice `Any` names no country, the other modes name 1 to {MAX_COUNTRIES}.
    error InvalidCountryCount(CountryMode mode, uint256 codes, uint256 most);
    error InvalidOffer(OfferMode mode, uint32 period, uint128 priceWei);
    /// @notice Time was paid for until `until` and neither used nor paid back.
    error PaidGrantsRunning(bytes32 topicId, uint64 until);
    error ZeroAddress();
    error NothingToChange();

    /// @notice Registers `name`. Caller: owner or manager of the nearest registered topic above, who decides for whom;
    /// at the top whom the broker's naming policy admits. The caller becomes the owner.
    /// @dev Reverts with {InvalidName}, {TopicExists}, {NameNotYours}, {InvalidOffer} or UnknownBroker. Emits {TopicRegistered}.
    function registerTopic(
        uint256 brokerId,
        string calldata name,
        Traits calldata traits,
        Offer calldata publishOffer,
        Offer calldata subscribeOffer
    ) external returns (bytes32 topicId);

    /// @notice Registers a topic whose name stays off the chain. Caller: owner of the parent, hidden or not, who becomes its owner. Not a
    /// manager: gateways refuse what lies below the parent while they have not been told the name, and only the hidden topic's owner ends that.
    /// @dev Reverts with {UnknownTopic}, {NotTopicOwner} (of the parent), {EmptyCommitment}, {TopicExists} or {InvalidOffer}.
    /// Emits {HiddenTopicRegistered}.
    /// @param commitment `keccak256(abi.encodePacked(bytes32 salt, string name))`. Without a random salt a dictionary finds the name.
    function registerHiddenTopic(
        bytes32 parentId,
        bytes32 commitment,
        Traits calldata traits,
        Offer calldata publishOffer,
        Offer calldata subscribeOffer
    ) external returns (bytes32 topicId);

    /// @notice Caller of the following: owner or manager.
    function setTraits(bytes32 topicId, Traits calldata traits) external;
    function setOffer(bytes32 topicId, Right right, Offer calldata offer) external;

    /// @notice Replaces the whole rule about the countries that a client connects from. It binds everyone, the owner too; a client whose
    /// country is not known may not use a topic with a rule.
    /// @param codes ISO 3166-1 alpha-2 in upper case, strictly ascending; sets such as "EU" are expanded by who calls.
    function setCountries(bytes32 topicId, CountryMode mode, bytes2[] calldata codes) external;

    /// @notice Caller of the following: owner.
    function setManager(bytes32 topicId, address manager, bool allowed) external;
    /// @notice Zero withdraws the offer. The candidate becomes owner by {acceptTopicOwnership}.
    function offerTopicOwnership(bytes32 topicId, address candidate) external;
    function acceptTopicOwnership(bytes32 topicId) external;
    /// @notice Ends the topic and, in O(1), every grant, block and manager of it. Paid grants that still run must end (with their refund) first.
    function deleteTopic(bytes32 topicId) external;

    function brokerRegistry() external view returns (IBrokerRegistry);
    function accessMarket() external view returns (IAccessMarket);
    /// @notice All that an act on a topic's access asks about it, in one call.
    /// @dev Reverts with {UnknownTopic}, or {NotTopicOwnerOrManager} unless `wallet` is one of them.
    function topicManagedBy(bytes32 topicId, address wallet)
        external
        view
        returns (uint256 brokerId, uint64 epoch, address owner);
    /// @notice All that a sale asks about a topic, in one call.
    /// @dev Reverts with {UnknownTopic}.
    function saleTerms(bytes32 topicId, Right right)
        external
        view
        returns (uint256 brokerId, uint64 epoch, address owner, Offer memory offer);
    /// @notice The topic as it is; `owner` is zero if it is not registered; `epoch` is then that of its last registration.
    function topicOf(bytes32 topicId) external view returns (uint256 brokerId, uint64 epoch, address owner);
    function topicIdOf(uint256 brokerId, string calldata name) external pure returns (bytes32);
    function hiddenTopicIdOf(uint256 brokerId, bytes32 parentId, bytes32 commitment) external pure returns (bytes32);
    /// @return Zero if the topic is not registered.
    function topicOwner(bytes32 topicId) external view returns (address);
    /// @return To whom the topic has been offered, zero if to nobody.
    function topicCandidate(bytes32 topicId) external view returns (address);
    /// @return 1 for a topic's first registration and one more for each that followed a deletion; 0 if never registered.
    function topicEpoch(bytes32 topicId) external view returns (uint64);
    function topicBroker(bytes32 topicId) external view returns (uint256);
    function traitsOf(bytes32 topicId) external view returns (Traits memory);
    function offerOf(bytes32 topicId, Right right) external view returns (Offer memory);
    function countriesOf(bytes32 topicId) external view returns (CountryMode mode, bytes2[] memory codes);
    function isManager(bytes32 topicId, address wallet) external view returns (bool);
}
