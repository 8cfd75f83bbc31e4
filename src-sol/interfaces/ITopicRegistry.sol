// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IBrokerRegistry} from "./IBrokerRegistry.sol";

/// @title Topics: who owns a name, what is offered below it and on which terms.
/// @notice A registered topic governs its own name and every name below it, down to the next registered topic.
/// Id = `keccak256(abi.encode(brokerId, name))`. Names: visible ASCII (0x21 to 0x7E) without `+` and `#`, no leading `$`,
/// no empty level, at most 256 octets and 16 levels.
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
    event TraitsSet(uint256 indexed brokerId, bytes32 indexed topicId, Traits traits);
    event OfferSet(uint256 indexed brokerId, bytes32 indexed topicId, Right right, Offer offer);
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
    error InvalidOffer(OfferMode mode, uint32 period, uint128 priceWei);
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

    /// @notice Caller of the following: owner or manager.
    function setTraits(bytes32 topicId, Traits calldata traits) external;
    function setOffer(bytes32 topicId, Right right, Offer calldata offer) external;

    /// @notice Caller of the following: owner.
    function setManager(bytes32 topicId, address manager, bool allowed) external;
    /// @notice Zero withdraws the offer. The candidate becomes owner by {acceptTopicOwnership}.
    function offerTopicOwnership(bytes32 topicId, address candidate) external;
    function acceptTopicOwnership(bytes32 topicId) external;
    /// @notice Ends the topic and, in O(1), every grant, block and manager of it. Paid grants that still run must end (with their refund) first.
    function deleteTopic(bytes32 topicId) external;

    function brokerRegistry() external view returns (IBrokerRegistry);
    function topicIdOf(uint256 brokerId, string calldata name) external pure returns (bytes32);
    /// @return Zero if the topic is not registered.
    function topicOwner(bytes32 topicId) external view returns (address);
    /// @return To whom the topic has been offered, zero if to nobody.
    function topicCandidate(bytes32 topicId) external view returns (address);
    /// @return 1 for a topic's first registration and one more for each that followed a deletion; 0 if never registered.
    function topicEpoch(bytes32 topicId) external view returns (uint64);
    function topicBroker(bytes32 topicId) external view returns (uint256);
    function traitsOf(bytes32 topicId) external view returns (Traits memory);
    function offerOf(bytes32 topicId, Right right) external view returns (Offer memory);
    function isManager(bytes32 topicId, address wallet) external view returns (bool);
}
