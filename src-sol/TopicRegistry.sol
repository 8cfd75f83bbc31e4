// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "./interfaces/IAccessMarket.sol";
import {IBrokerRegistry} from "./interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "./interfaces/ITopicRegistry.sol";
import {TopicName} from "./libraries/TopicName.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title The one registry of topics on a chain: names, owners, managers, offers, countries.
/// @dev Knows nothing of grants and money but whom to ask before a topic is deleted.
contract TopicRegistry is ITopicRegistry {
    using SafeCast for uint256;

    /// @notice Longest period of an offer in seconds.
    uint32 public constant MAX_PERIOD = 3650 days;
    /// @notice Highest price of a period in wei, more than all the ether there is. Two offers fit one slot because of it.
    uint128 public constant MAX_PRICE = type(uint88).max;
    /// @notice Most countries in one rule; there are 249.
    uint256 public constant MAX_COUNTRIES = 256;

    /// @dev One slot. `epoch` outlives a deletion, the rest does not.
    struct Topic {
        address owner;
        uint32 epoch;
        uint40 brokerId;
        bool retain;
        bool sensitive;
        bool ownBranch;
    }

    /// @dev One slot; flat, since nested structs would each take a slot of their own.
    struct Offers {
        OfferMode publishMode;
        uint32 publishPeriod;
        uint88 publishPriceWei;
        OfferMode subscribeMode;
        uint32 subscribePeriod;
        uint88 subscribePriceWei;
    }

    struct Countries {
        CountryMode mode;
        bytes2[] codes;
    }

    /// @inheritdoc ITopicRegistry
    IBrokerRegistry public immutable brokerRegistry;
    /// @inheritdoc ITopicRegistry
    IAccessMarket public immutable accessMarket;

    mapping(bytes32 topicId => Topic) private _topics;
    mapping(bytes32 topicId => Offers) private _offers;
    mapping(bytes32 topicId => address) private _candidates;
    mapping(bytes32 topicId => mapping(uint256 epoch => Countries)) private _countries;
    mapping(bytes32 topicId => mapping(uint256 epoch => mapping(address wallet => bool))) private _managers;

    constructor(IBrokerRegistry brokers, IAccessMarket market) {
        brokerRegistry = brokers;
        accessMarket = market;
    }

    /// @inheritdoc ITopicRegistry
    function registerTopic(
        uint256 brokerId,
        string calldata name,
        Traits calldata traits,
        Offer calldata publishOffer,
        Offer calldata subscribeOffer
    ) external returns (bytes32 topicId) {
        TopicName.check(name);
        bytes memory path = TopicName.path(brokerId, name);
        topicId = keccak256(path);
        if (_topics[topicId].owner != address(0)) revert TopicExists(topicId);
        _checkNaming(brokerId, name, path);
        uint64 epoch = _put(topicId, brokerId, traits, publishOffer, subscribeOffer);
        emit TopicRegistered(brokerId, topicId, msg.sender, epoch, name, traits, publishOffer, subscribeOffer);
    }

    /// @inheritdoc ITopicRegistry
    function registerHiddenTopic(
        bytes32 parentId,
        bytes32 commitment,
        Traits calldata traits,
        Offer calldata publishOffer,
        Offer calldata subscribeOffer
    ) external returns (bytes32 topicId) {
        uint256 brokerId = _owned(parentId).brokerId;
        if (commitment == 0) revert EmptyCommitment(parentId);
        topicId = hiddenTopicIdOf(brokerId, parentId, commitment);
        if (_topics[topicId].owner != address(0)) revert TopicExists(topicId);
        uint64 epoch = _put(topicId, brokerId, traits, publishOffer, subscribeOffer);
        emit HiddenTopicRegistered(
            brokerId, topicId, msg.sender, epoch, parentId, commitment, traits, publishOffer, subscribeOffer
        );
    }

    /// @inheritdoc ITopicRegistry
    function setTraits(bytes32 topicId, Traits calldata traits) external {
        Topic memory topic = _ownedOrManaged(topicId, msg.sender);
        if (topic.retain == traits.retain && topic.sensitive == traits.sensitive && topic.ownBranch == traits.ownBranch)
        {
            revert NothingToChange();
        }
        (topic.retain, topic.sensitive, topic.ownBranch) = (traits.retain, traits.sensitive, traits.ownBranch);
        _topics[topicId] = topic;
        emit TraitsSet(topic.brokerId, topicId, traits);
    }

    /// @inheritdoc ITopicRegistry
    function setOffer(bytes32 topicId, Right right, Offer calldata offer) external {
        Topic memory topic = _ownedOrManaged(topicId, msg.sender);
        Offer memory current = offerOf(topicId, right);
        if (current.mode == offer.mode && current.period == offer.period && current.priceWei == offer.priceWei) {
            revert NothingToChange();
        }
        Offers memory offers = _offers[topicId];
        _putOffer(offers, right, offer);
        _offers[topicId] = offers;
        emit OfferSet(topic.brokerId, topicId, right, offer);
    }

    /// @inheritdoc ITopicRegistry
    function setCountries(bytes32 topicId, CountryMode mode, bytes2[] calldata codes) external {
        Topic memory topic = _ownedOrManaged(topicId, msg.sender);
        if ((mode == CountryMode.Any) != (codes.length == 0) || codes.length > MAX_COUNTRIES) {
            revert InvalidCountryCount(mode, codes.length, MAX_COUNTRIES);
        }
        bytes2 last = 0;
        for (uint256 i = 0; i < codes.length; ++i) {
            bytes2 code = codes[i];
            if (code <= last || !_isCountry(code)) revert InvalidCountry(i, code);
            last = code;
        }
        Countries storage rule = _countries[topicId][topic.epoch];
        if (rule.mode == mode && keccak256(abi.encode(rule.codes)) == keccak256(abi.encode(codes))) {
            revert NothingToChange();
        }
        rule.mode = mode;
        rule.codes = codes;
        emit CountriesSet(topic.brokerId, topicId, mode, codes);
    }

    /// @inheritdoc ITopicRegistry
    function setManager(bytes32 topicId, address manager, bool allowed) external {
        Topic memory topic = _owned(topicId);
        if (manager == address(0)) revert ZeroAddress();
        if (_managers[topicId][topic.epoch][manager] == allowed) revert NothingToChange();
        _managers[topicId][topic.epoch][manager] = allowed;
        emit ManagerSet(topic.brokerId, topicId, manager, allowed);
    }

    /// @inheritdoc ITopicRegistry
    function offerTopicOwnership(bytes32 topicId, address candidate) external {
        Topic memory topic = _owned(topicId);
        if (candidate == _candidates[topicId] || candidate == msg.sender) revert NothingToChange();
        _candidates[topicId] = candidate;
        emit TopicOwnershipOffered(topic.brokerId, topicId, candidate, msg.sender);
    }

    /// @inheritdoc ITopicRegistry
    function acceptTopicOwnership(bytes32 topicId) external {
        Topic memory topic = _registered(topicId);
        address candidate = _candidates[topicId];
        if (candidate == address(0) || candidate != msg.sender) {
            revert NotTopicCandidate(topicId, msg.sender, candidate);
        }
        _topics[topicId].owner = msg.sender;
        _candidates[topicId] = address(0);
        emit TopicOwnershipTransferred(topic.brokerId, topicId, msg.sender, topic.owner);
    }

    /// @inheritdoc ITopicRegistry
    function deleteTopic(bytes32 topicId) external {
        Topic memory topic = _owned(topicId);
        uint64 paidUntil = accessMarket.paidUntil(topicId);
        if (block.timestamp < paidUntil) revert PaidGrantsRunning(topicId, paidUntil);
        delete _topics[topicId];
        _topics[topicId].epoch = topic.epoch;
        delete _offers[topicId];
        delete _candidates[topicId];
        emit TopicDeleted(topic.brokerId, topicId, msg.sender, topic.epoch);
    }

    /// @inheritdoc ITopicRegistry
    function topicManagedBy(bytes32 topicId, address wallet)
        external
        view
        returns (uint256 brokerId, uint64 epoch, address owner)
    {
        Topic storage topic = _ownedOrManaged(topicId, wallet);
        return (topic.brokerId, topic.epoch, topic.owner);
    }

    /// @inheritdoc ITopicRegistry
    function saleTerms(bytes32 topicId, Right right)
        external
        view
        returns (uint256 brokerId, uint64 epoch, address owner, Offer memory offer)
    {
        Topic storage topic = _registered(topicId);
        return (topic.brokerId, topic.epoch, topic.owner, offerOf(topicId, right));
    }

    /// @inheritdoc ITopicRegistry
    function topicOf(bytes32 topicId) external view returns (uint256 brokerId, uint64 epoch, address owner) {
        Topic memory topic = _topics[topicId];
        return (topic.brokerId, topic.epoch, topic.owner);
    }

    /// @inheritdoc ITopicRegistry
    function topicIdOf(uint256 brokerId, string calldata name) external pure returns (bytes32) {
        return keccak256(TopicName.path(brokerId, name));
    }

    /// @inheritdoc ITopicRegistry
    function topicOwner(bytes32 topicId) external view returns (address) {
        return _topics[topicId].owner;
    }

    /// @inheritdoc ITopicRegistry
    function topicCandidate(bytes32 topicId) external view returns (address) {
        return _candidates[topicId];
    }

    /// @inheritdoc ITopicRegistry
    function topicEpoch(bytes32 topicId) external view returns (uint64) {
        return _topics[topicId].epoch;
    }

    /// @inheritdoc ITopicRegistry
    function topicBroker(bytes32 topicId) external view returns (uint256) {
        return _topics[topicId].brokerId;
    }

    /// @inheritdoc ITopicRegistry
    function traitsOf(bytes32 topicId) external view returns (Traits memory) {
        Topic memory topic = _topics[topicId];
        return Traits(topic.retain, topic.sensitive, topic.ownBranch);
    }

    /// @inheritdoc ITopicRegistry
    function offerOf(bytes32 topicId, Right right) public view returns (Offer memory) {
        Offers storage offers = _offers[topicId];
        return right == Right.Publish
            ? Offer(offers.publishMode, offers.publishPeriod, offers.publishPriceWei)
            : Offer(offers.subscribeMode, offers.subscribePeriod, offers.subscribePriceWei);
    }

    /// @inheritdoc ITopicRegistry
    function countriesOf(bytes32 topicId) external view returns (CountryMode mode, bytes2[] memory codes) {
        Topic memory topic = _topics[topicId];
        if (topic.owner == address(0)) return (mode, codes);
        Countries storage rule = _countries[topicId][topic.epoch];
        return (rule.mode, rule.codes);
    }

    /// @inheritdoc ITopicRegistry
    function hiddenTopicIdOf(uint256 brokerId, bytes32 parentId, bytes32 commitment) public pure returns (bytes32) {
        // No name encodes to this: where the parent's id stands, a name has the small number that tells where it begins.
        return keccak256(abi.encode(brokerId, parentId, commitment));
    }

    /// @inheritdoc ITopicRegistry
    function isManager(bytes32 topicId, address wallet) public view returns (bool) {
        Topic memory topic = _topics[topicId];
        return topic.owner != address(0) && _managers[topicId][topic.epoch][wallet];
    }

    function _registered(bytes32 topicId) private view returns (Topic storage topic) {
        topic = _topics[topicId];
        if (topic.owner == address(0)) revert UnknownTopic(topicId);
    }

    function _ownedOrManaged(bytes32 topicId, address wallet) private view returns (Topic storage topic) {
        topic = _registered(topicId);
        if (topic.owner != wallet && !_managers[topicId][topic.epoch][wallet]) {
            revert NotTopicOwnerOrManager(topicId, wallet);
        }
    }

    function _owned(bytes32 topicId) private view returns (Topic storage topic) {
        topic = _registered(topicId);
        if (topic.owner != msg.sender) revert NotTopicOwner(topicId, msg.sender);
    }

    /// @dev Makes the caller owner of a topic that does not exist, in its next epoch.
    function _put(
        bytes32 topicId,
        uint256 brokerId,
        Traits calldata traits,
        Offer calldata publishOffer,
        Offer calldata subscribeOffer
    ) private returns (uint64) {
        uint32 epoch = _topics[topicId].epoch + 1;
        _topics[topicId] =
            Topic(msg.sender, epoch, brokerId.toUint40(), traits.retain, traits.sensitive, traits.ownBranch);
        // All zeroes, and filled below.
        // slither-disable-next-line uninitialized-local
        Offers memory offers;
        _putOffer(offers, Right.Publish, publishOffer);
        _putOffer(offers, Right.Subscribe, subscribeOffer);
        _offers[topicId] = offers;
        return epoch;
    }

    /// @dev May the caller register the name? The nearest registered topic above decides, where there is none the broker's policy.
    /// `path` is used up.
    function _checkNaming(uint256 brokerId, string calldata name, bytes memory path) private view {
        while (TopicName.cutLastLevel(path)) {
            bytes32 governor = keccak256(path);
            address owner = _topics[governor].owner;
            if (owner == address(0)) continue;
            if (owner != msg.sender && !isManager(governor, msg.sender)) {
                revert NameNotYours(name, msg.sender, governor);
            }
            return;
        }

        if (brokerRegistry.brokerOwner(brokerId) == address(0)) revert UnknownBroker(brokerId);
        IBrokerRegistry.NamingPolicy policy = brokerRegistry.namingPolicy(brokerId);
        if (policy == IBrokerRegistry.NamingPolicy.Open) return;
        if (policy == IBrokerRegistry.NamingPolicy.OwnBranch && TopicName.isBranchOf(name, msg.sender)) return;
        if (!brokerRegistry.isRegistrar(brokerId, msg.sender)) revert NameNotYours(name, msg.sender, 0);
    }

    function _putOffer(Offers memory offers, Right right, Offer calldata offer) private pure {
        bool isValid = offer.mode == OfferMode.Priced
            ? offer.period > 0 && offer.period <= MAX_PERIOD && offer.priceWei <= MAX_PRICE
            : offer.period == 0 && offer.priceWei == 0;
        if (!isValid) revert InvalidOffer(offer.mode, offer.period, offer.priceWei);
        uint88 priceWei = uint256(offer.priceWei).toUint88();
        if (right == Right.Publish) {
            (offers.publishMode, offers.publishPeriod, offers.publishPriceWei) = (offer.mode, offer.period, priceWei);
        } else {
            (offers.subscribeMode, offers.subscribePeriod, offers.subscribePriceWei) =
            (offer.mode, offer.period, priceWei);
        }
    }

    /// @dev Two letters; which of them are countries today is for the tools to know. Databases say `ZZ` where they know none.
    function _isCountry(bytes2 code) private pure returns (bool) {
        return code[0] >= "A" && code[0] <= "Z" && code[1] >= "A" && code[1] <= "Z" && code != "ZZ";
    }
}
