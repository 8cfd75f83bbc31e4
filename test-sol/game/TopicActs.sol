// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IBrokerRegistry} from "../../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../../src-sol/interfaces/ITopicRegistry.sol";
import {BrokerActs} from "./BrokerActs.sol";

/// @title What owners and managers of topics do, but for access and money.
abstract contract TopicActs is BrokerActs {
    /// @dev A mode for {offerFrom}.
    uint256 private constant PRICED = 1;

    mapping(bytes32 topicId => mapping(uint256 epoch => bytes32)) internal countryHashes;
    mapping(bytes32 topicId => uint64) private _seenEpoch;

    constructor() {
        put(0, address(meddler), PRICED, 1 ether);
        put(2, address(reentrant), PRICED, 1 ether);
        turnManager(topicIds[0], actors[1]);
    }

    modifier epochsWatched() {
        _;
        for (uint256 i = 0; i < topicIds.length; ++i) {
            uint64 epoch = topics.topicEpoch(topicIds[i]);
            if (epoch < _seenEpoch[topicIds[i]]) relapse("an epoch");
            _seenEpoch[topicIds[i]] = epoch;
        }
    }

    /// @notice Hash of the rule about countries as it should be.
    function countriesOf(bytes32 topicId) external view returns (bytes32) {
        bytes32 rule = countryHashes[topicId][topicPages[topicId].epoch];
        bool none = rule == 0 || !exists(topicId);
        return none ? keccak256(abi.encode(ITopicRegistry.CountryMode.Any, new bytes2[](0))) : rule;
    }

    // Names

    /// @dev By anyone; whom the book does not admit is refused.
    function register(uint256 topic, uint256 by, uint256 mode, uint256 priceWei) external epochsWatched {
        topic %= topicIds.length;
        address who = actor(by);
        if (topic >= VISIBLE) return hide(topic, who, mode, priceWei);
        if (exists(topicIds[topic])) {
            return mustNot(
                who,
                address(topics),
                registration(topic, mode, priceWei),
                ITopicRegistry.TopicExists.selector,
                "take a name"
            );
        }
        if (!isAdmitted(topic, who)) {
            bytes4 refusal = ITopicRegistry.NameNotYours.selector;
            mustNot(who, address(topics), registration(topic, mode, priceWei), refusal, "take a name not one's own");
            who = topic == 1 && exists(topicIds[0]) ? stewardOf(topicIds[0], by) : brokerPages[brokerOf(topic)].owner;
        }
        put(topic, who, mode, priceWei);
        did("register");
    }

    /// @dev By the owner of the parent; by another if the topic is there already, to see it refused.
    function hide(uint256 topic, address who, uint256 mode, uint256 priceWei) private {
        bytes32 parentId = parentOf(topic);
        if (exists(topicIds[topic])) {
            if (topicPages[parentId].owner != who) return;
            bytes4 refusal = ITopicRegistry.TopicExists.selector;
            return mustNot(who, address(topics), registration(topic, mode, priceWei), refusal, "take a hidden topic");
        }
        if (!exists(parentId)) {
            bytes4 refusal = ITopicRegistry.UnknownTopic.selector;
            return mustNot(who, address(topics), registration(topic, mode, priceWei), refusal, "hide below nothing");
        }
        if (topicPages[parentId].owner != who) {
            bytes4 refusal = ITopicRegistry.NotTopicOwner.selector;
            mustNot(who, address(topics), registration(topic, mode, priceWei), refusal, "hide below another's");
            who = topicPages[parentId].owner;
        }
        put(topic, who, mode, priceWei);
        did("register a hidden topic");
    }

    function remove(uint256 topic, uint256 seed) external epochsWatched {
        // Deleting ends much: seldom enough that something is left to end.
        bytes32 topicId = anyTopic(topic);
        if (!exists(topicId) || seed % 2 == 0) return;
        TopicPage storage page = topicPages[topicId];
        bytes memory data = abi.encodeCall(topics.deleteTopic, (topicId));
        if (hasPaidTimeRunning(topicId)) {
            bytes4 refusal = ITopicRegistry.PaidGrantsRunning.selector;
            return mustNot(page.owner, address(topics), data, refusal, "delete what was paid for");
        }
        bool mayGo = block.timestamp >= market.paidUntil(topicId);
        (bool success, bytes memory answer) = attempt(page.owner, address(topics), 0, data);
        assertEq(success, mayGo, "no more and no less than paidUntil keeps a topic");
        if (!success) return assertEq(bytes4(answer), ITopicRegistry.PaidGrantsRunning.selector);
        (page.owner, page.candidate) = (address(0), address(0));
        delete offers[topicId][ITopicRegistry.Right.Publish];
        delete offers[topicId][ITopicRegistry.Right.Subscribe];
        did("delete");
    }

    // Terms

    function offer(uint256 topic, uint256 right, uint256 mode, uint256 priceWei, uint256 by) external {
        bytes32 topicId = anyTopic(topic);
        if (!exists(topicId)) return;
        setOffer(topicId, ITopicRegistry.Right(right % 2), offerFrom(mode, priceWei), stewardOf(topicId, by));
    }

    function setOffer(bytes32 topicId, ITopicRegistry.Right right, ITopicRegistry.Offer memory wanted, address by)
        internal
    {
        ITopicRegistry.Offer memory now_ = offers[topicId][right];
        if (now_.mode == wanted.mode && now_.priceWei == wanted.priceWei && now_.period == wanted.period) return;
        must(by, address(topics), 0, abi.encodeCall(topics.setOffer, (topicId, right, wanted)));
        offers[topicId][right] = wanted;
        did("set an offer");
    }

    function traits(uint256 topic, uint256 wanted, uint256 by) external {
        bytes32 topicId = anyTopic(topic);
        if (!exists(topicId)) return;
        ITopicRegistry.Traits memory now_ = topics.traitsOf(topicId);
        ITopicRegistry.Traits memory next = traitsFrom(wanted);
        if (keccak256(abi.encode(now_)) == keccak256(abi.encode(next))) return;
        must(stewardOf(topicId, by), address(topics), 0, abi.encodeCall(topics.setTraits, (topicId, next)));
        did("set traits");
    }

    function countries(uint256 topic, uint256 mode, uint256 codes, uint256 by) external {
        bytes32 topicId = anyTopic(topic);
        if (!exists(topicId)) return;
        bytes2[4] memory known = [bytes2("AT"), bytes2("CH"), bytes2("DE"), bytes2("FR")];
        bytes2[] memory list = new bytes2[](mode % 3 == 0 ? 0 : codes % 3 + 1);
        for (uint256 i = 0; i < list.length; ++i) {
            list[i] = known[codes / 3 % 2 + i];
        }
        ITopicRegistry.CountryMode wanted = ITopicRegistry.CountryMode(mode % 3);
        bytes32 rule = keccak256(abi.encode(wanted, list));
        bytes32 now_ = countryHashes[topicId][topicPages[topicId].epoch];
        if (rule == now_ || (now_ == 0 && mode % 3 == 0)) return;
        must(stewardOf(topicId, by), address(topics), 0, abi.encodeCall(topics.setCountries, (topicId, wanted, list)));
        countryHashes[topicId][topicPages[topicId].epoch] = rule;
        did("set countries");
    }

    // People

    function turnManager(uint256 topic, uint256 wallet) external {
        bytes32 topicId = anyTopic(topic);
        if (!exists(topicId)) return;
        turnManager(topicId, actor(wallet));
        did("set or remove a manager");
    }

    function turnManager(bytes32 topicId, address who) private {
        TopicPage memory page = topicPages[topicId];
        bool allowed = !managed[topicId][page.epoch][who];
        must(page.owner, address(topics), 0, abi.encodeCall(topics.setManager, (topicId, who, allowed)));
        managed[topicId][page.epoch][who] = allowed;
    }

    function offerTopic(uint256 topic, uint256 to, uint256 nobody) external {
        bytes32 topicId = anyTopic(topic);
        TopicPage storage page = topicPages[topicId];
        address candidate = nobody % 4 == 0 ? address(0) : actor(to);
        if (!exists(topicId) || candidate == page.owner || candidate == page.candidate) return;
        must(page.owner, address(topics), 0, abi.encodeCall(topics.offerTopicOwnership, (topicId, candidate)));
        page.candidate = candidate;
        did("offer a topic");
    }

    function acceptTopic(uint256 topic) external {
        bytes32 topicId = anyTopic(topic);
        TopicPage storage page = topicPages[topicId];
        if (page.candidate == address(0)) return;
        must(page.candidate, address(topics), 0, abi.encodeCall(topics.acceptTopicOwnership, (topicId)));
        (page.owner, page.candidate) = (page.candidate, address(0));
        did("accept a topic");
    }

    /// @dev One who managed an earlier epoch and is neither owner nor manager now.
    function comeBack(uint256 topic, uint256 wallet, uint256 what) external {
        bytes32 topicId = anyTopic(topic);
        uint64 epoch = topicPages[topicId].epoch;
        if (epoch < 2 || !exists(topicId)) return;
        for (uint256 i = 0; i < actors.length * (epoch - 1); ++i) {
            address who = actor(wallet % actors.length + i);
            if (!managed[topicId][1 + i / actors.length][who] || ownsOrManages(topicId, who)) continue;
            ITopicRegistry.Traits memory t = traitsFrom(what);
            bytes memory data = abi.encodeCall(topics.setTraits, (topicId, t));
            bytes4 refusal = ITopicRegistry.NotTopicOwnerOrManager.selector;
            mustNot(who, address(topics), data, refusal, "manage by an old epoch");
            data = abi.encodeCall(market.grant, (topicId, who, ITopicRegistry.Right.Subscribe, clock() + 1, 0, ""));
            return mustNot(who, address(market), data, refusal, "grant by an old epoch");
        }
    }

    function hasPaidTimeRunning(bytes32 topicId) public view virtual returns (bool);

    // What the book says of names

    function isAdmitted(uint256 topic, address who) private view returns (bool) {
        if (topic == 1 && exists(topicIds[0])) return ownsOrManages(topicIds[0], who);
        uint256 brokerId = brokerOf(topic);
        BrokerPage memory page = brokerPages[brokerId];
        // No name of the game begins with an address, so that the policy `OwnBranch` admits registrars only.
        return page.policy == IBrokerRegistry.NamingPolicy.Open || page.owner == who || isRegistrar[brokerId][who];
    }

    function parentOf(uint256 topic) internal view returns (bytes32) {
        return topic == 3 ? topicIds[0] : topicIds[3];
    }

    function put(uint256 topic, address who, uint256 mode, uint256 priceWei) private {
        bytes memory id = must(who, address(topics), 0, registration(topic, mode, priceWei));
        bytes32 topicId = topicIds[topic];
        assertEq(abi.decode(id, (bytes32)), topicId, "the documented id");
        TopicPage storage page = topicPages[topicId];
        (page.owner, page.brokerId, page.epoch) = (who, brokerOf(topic), page.epoch + 1);
        offers[topicId][ITopicRegistry.Right.Publish] = offerFrom(mode, priceWei);
        offers[topicId][ITopicRegistry.Right.Subscribe] = offerFrom(PRICED, priceWei);
    }

    function registration(uint256 topic, uint256 mode, uint256 priceWei) private view returns (bytes memory) {
        (ITopicRegistry.Offer memory publish, ITopicRegistry.Offer memory subscribe) =
            (offerFrom(mode, priceWei), offerFrom(PRICED, priceWei));
        ITopicRegistry.Traits memory t = traitsFrom(priceWei);
        if (topic < VISIBLE) {
            return abi.encodeCall(topics.registerTopic, (brokerOf(topic), nameOf(topic), t, publish, subscribe));
        }
        return abi.encodeCall(topics.registerHiddenTopic, (parentOf(topic), commitmentOf(topic), t, publish, subscribe));
    }

    /// @dev Mostly priced, a tenth of that free, since sales are what most of the game is about.
    function offerFrom(uint256 mode, uint256 priceWei) internal pure returns (ITopicRegistry.Offer memory wanted) {
        if (mode % 8 == 0) wanted.mode = ITopicRegistry.OfferMode.Closed;
        else if (mode % 8 == 7) wanted.mode = ITopicRegistry.OfferMode.Public;
        else wanted.mode = ITopicRegistry.OfferMode.Priced;
        if (wanted.mode != ITopicRegistry.OfferMode.Priced) return wanted;
        wanted.period = mode % 8 < 5 ? PERIOD : PERIOD + 7;
        wanted.priceWei = priceWei % 10 == 0 ? 0 : uint128(_bound(priceWei, 1, 10 ether));
    }

    function traitsFrom(uint256 seed) internal pure returns (ITopicRegistry.Traits memory) {
        return ITopicRegistry.Traits(seed & 1 != 0, seed & 2 != 0, seed & 4 != 0);
    }
}
