// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {AccessMarket} from "../src-sol/AccessMarket.sol";
import {BrokerRegistry} from "../src-sol/BrokerRegistry.sol";
import {TopicRegistry} from "../src-sol/TopicRegistry.sol";
import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {BombPayee, BurningPayee, ChattyPayee, Payee, ReentrantPayee, RefusingPayee, ThoroughPayee} from "./Payees.sol";
import {Test} from "forge-std/Test.sol";

/// @title Owners, buyers and brokers who do what they please, and a book of what should have come of it.
/// @dev Everybody is everything: each actor may own topicIds, own the broker, buy, be bought for, be blocked and banned. Actors 0 to 2
/// are plain wallets, the rest contracts that take money badly. Every action is bent to be valid, so a revert is a fault.
contract MarketHandler is Test {
    uint256 internal constant TOPICS = 2;
    uint32 internal constant PERIOD = 1 hours;

    struct Book {
        uint64 until;
        uint256 paidWei;
    }

    AccessMarket public immutable market;
    TopicRegistry public immutable topics;
    BrokerRegistry public immutable brokers;
    uint256 public immutable brokerId;

    address[] public actors;
    bytes32[] public topicIds;
    mapping(bytes32 topicId => bool) public exists;
    mapping(bytes32 topicId => mapping(address wallet => bool)) public blocked;
    mapping(address wallet => uint64) public bannedUntil;
    mapping(bytes32 grant => Book) private _books;

    uint256 public forced;
    mapping(string action => uint256) public times;
    string[] public actions;

    constructor(BrokerRegistry brokers_, AccessMarket market_) {
        (brokers, market) = (brokers_, market_);
        topics = TopicRegistry(address(market_.topicRegistry()));
        actors = [makeAddr("ann"), makeAddr("ben"), makeAddr("cid")];
        actors.push(address(new RefusingPayee()));
        actors.push(address(new BurningPayee()));
        actors.push(address(new BombPayee()));
        actors.push(address(new ChattyPayee()));
        actors.push(address(new ThoroughPayee()));
        ReentrantPayee reentrant = new ReentrantPayee(market_);
        actors.push(address(reentrant));

        vm.prank(actors[0]);
        brokerId = brokers_.createBroker(IBrokerRegistry.NamingPolicy.Open, "plant");
        for (uint256 i = 0; i < TOPICS; ++i) {
            bytes32 topicId = topics.topicIdOf(brokerId, nameOf(i));
            topicIds.push(topicId);
            put(i, actors[3 + 5 * i], 1 ether);
        }
        reentrant.aim(topicIds[0]);
    }

    modifier counted(string memory action) {
        if (times[action] == 0) actions.push(action);
        ++times[action];
        _;
    }

    // What the book says

    function actorCount() external view returns (uint256) {
        return actors.length;
    }

    function topicCount() external view returns (uint256) {
        return topicIds.length;
    }

    function actionCount() external view returns (uint256) {
        return actions.length;
    }

    function bookOf(bytes32 topicId, address wallet, ITopicRegistry.Right right) public view returns (Book memory) {
        return _books[key(topicId, wallet, right)];
    }

    function creditsOfAll() public view returns (uint256 sum) {
        for (uint256 i = 0; i < actors.length; ++i) {
            sum += market.creditOf(actors[i]);
        }
    }

    // What happens

    function buy(uint256 topic, uint256 payer, uint256 wallet, uint256 right, uint256 periods) external {
        IAccessMarket.Order memory order;
        order.topicId = topicIds[topic % TOPICS];
        order.right = ITopicRegistry.Right(right % 2);
        order.wallet = actor(wallet);
        order.periods = uint32(bound(periods, 1, 200));
        order.period = topics.offerOf(order.topicId, order.right).period;
        order.epoch = topics.topicEpoch(order.topicId);
        order.maxPriceWei = type(uint256).max;
        if (!exists[order.topicId] || order.period == 0) return;
        if (blocked[order.topicId][order.wallet] || block.timestamp < bannedUntil[order.wallet]) return;
        sell(order, actor(payer));
    }

    function sell(IAccessMarket.Order memory order, address payer) private counted("buy") {
        (uint256 priceWei, uint256 publishFeeWei,,) = market.quote(order.topicId, order.right, order.periods);
        Book storage book = _books[key(order.topicId, order.wallet, order.right)];
        uint64 from = book.until > block.timestamp ? book.until : uint64(block.timestamp);
        address broker = brokers.brokerOwner(brokerId);
        uint256 saleFeeWei = priceWei * brokers.saleFee(brokerId) / 10_000;
        fund(payer, priceWei + publishFeeWei);
        int256[] memory due = wealthOfAll();
        owe(due, payer, -int256(priceWei + publishFeeWei));
        owe(due, topics.topicOwner(order.topicId), int256(priceWei - saleFeeWei));
        owe(due, broker, int256(saleFeeWei + publishFeeWei));
        vm.prank(payer);
        uint64 until = market.buy{value: priceWei + publishFeeWei}(order);
        assertEq(until, from + order.period * order.periods, "buying extends by what was bought");
        assertEq(wealthOfAll(), due, "each has what it is due, and nobody else anything");
        book.until = until;
        book.paidWei += priceWei;
    }

    function grant(uint256 topic, uint256 wallet, uint256 right, uint256 time) external {
        bytes32 topicId = topicIds[topic % TOPICS];
        if (!exists[topicId]) return;
        give(topicId, actor(wallet), ITopicRegistry.Right(right % 2), uint64(bound(time, 1, 30 days)));
    }

    function give(bytes32 topicId, address wallet, ITopicRegistry.Right right, uint64 time) private counted("grant") {
        Book storage book = _books[key(topicId, wallet, right)];
        uint64 until = (book.until > block.timestamp ? book.until : uint64(block.timestamp)) + time;
        uint256 feeWei = market.grantFee(topicId, wallet, right, until);
        address owner = topics.topicOwner(topicId);
        fund(owner, feeWei + 3);
        int256[] memory due = wealthOfAll();
        owe(due, owner, -int256(feeWei));
        owe(due, brokers.brokerOwner(brokerId), int256(feeWei));
        vm.prank(owner);
        market.grant{value: feeWei + 3}(topicId, wallet, right, until, 0, "");
        assertEq(wealthOfAll(), due, "the fee, and the rest back");
        book.until = until;
    }

    /// @dev From the wallet and right named on, the first that has something to lose.
    function revoke(uint256 topic, uint256 wallet, uint256 right, uint256 extra) external {
        bytes32 topicId = topicIds[topic % TOPICS];
        if (!exists[topicId]) return;
        for (uint256 i = 0; i < 2 * actors.length; ++i) {
            address holder = actors[(wallet % actors.length + i) % actors.length];
            ITopicRegistry.Right held = ITopicRegistry.Right((right % 2 + i / actors.length) % 2);
            if (bookOf(topicId, holder, held).until <= block.timestamp) continue;
            take(topicId, holder, held, extra % 5);
            return;
        }
    }

    function take(bytes32 topicId, address wallet, ITopicRegistry.Right right, uint256 extra)
        private
        counted("revoke")
    {
        uint256 refundWei = market.refundOf(topicId, wallet, right);
        address owner = topics.topicOwner(topicId);
        fund(owner, refundWei + extra);
        int256[] memory due = wealthOfAll();
        owe(due, owner, -int256(refundWei));
        owe(due, wallet, int256(refundWei));
        vm.prank(owner);
        market.revoke{value: refundWei + extra}(topicId, wallet, right, 0, "");
        assertEq(wealthOfAll(), due, "the refund, and the rest back");
        _books[key(topicId, wallet, right)] = Book(uint64(block.timestamp), 0);
    }

    function turnBlock(uint256 topic, uint256 wallet) external counted("block") {
        bytes32 topicId = topicIds[topic % TOPICS];
        if (!exists[topicId]) return;
        address who = actor(wallet);
        address owner = topics.topicOwner(topicId);
        if (who == owner) return;
        vm.prank(owner);
        if (blocked[topicId][who]) market.unblockWallet(topicId, who);
        else market.blockWallet(topicId, who, 0, "");
        blocked[topicId][who] = !blocked[topicId][who];
    }

    function turnBan(uint256 wallet, uint256 time) external counted("ban") {
        address who = actor(wallet);
        address owner = brokers.brokerOwner(brokerId);
        if (who == owner) return;
        vm.startPrank(owner);
        if (block.timestamp < bannedUntil[who]) {
            brokers.unban(brokerId, IBrokerRegistry.BanKind.Wallet, bytes32(uint256(uint160(who))));
            bannedUntil[who] = uint64(block.timestamp);
        } else {
            bannedUntil[who] = uint64(block.timestamp + bound(time, 1, 2 days));
            IBrokerRegistry.Ban[] memory bans = new IBrokerRegistry.Ban[](1);
            bans[0] = IBrokerRegistry.Ban(
                IBrokerRegistry.BanKind.Wallet, bytes32(uint256(uint160(who))), bannedUntil[who], 0, ""
            );
            brokers.ban(brokerId, bans);
        }
        vm.stopPrank();
    }

    function offer(uint256 topic, uint256 right, uint256 mode, uint256 priceWei) external counted("offer") {
        bytes32 topicId = topicIds[topic % TOPICS];
        if (!exists[topicId]) return;
        ITopicRegistry.Offer memory wanted;
        wanted.mode = ITopicRegistry.OfferMode(mode % 3);
        if (wanted.mode == ITopicRegistry.OfferMode.Priced) {
            wanted.period = PERIOD;
            wanted.priceWei = uint128(bound(priceWei, 0, 10 ether));
        }
        address owner = topics.topicOwner(topicId);
        vm.prank(owner);
        try topics.setOffer(topicId, ITopicRegistry.Right(right % 2), wanted) {}
        catch (bytes memory reason) {
            assertEq(bytes4(reason), ITopicRegistry.NothingToChange.selector);
        }
    }

    function fees(uint256 publishFee, uint256 saleFee) external counted("fees") {
        vm.startPrank(brokers.brokerOwner(brokerId));
        try brokers.setPublishFee(brokerId, uint96(bound(publishFee, 0, 1 ether))) {}
        catch (bytes memory reason) {
            assertEq(bytes4(reason), IBrokerRegistry.NothingToChange.selector);
        }
        try brokers.setSaleFee(brokerId, uint96(bound(saleFee, 0, 2500))) {}
        catch (bytes memory reason) {
            assertEq(bytes4(reason), IBrokerRegistry.NothingToChange.selector);
        }
        vm.stopPrank();
    }

    function transferTopic(uint256 topic, uint256 to) external counted("transfer a topic") {
        bytes32 topicId = topicIds[topic % TOPICS];
        address owner = topics.topicOwner(topicId);
        if (!exists[topicId] || owner == actor(to)) return;
        vm.prank(owner);
        topics.offerTopicOwnership(topicId, actor(to));
        vm.prank(actor(to));
        topics.acceptTopicOwnership(topicId);
    }

    function transferBroker(uint256 to) external counted("transfer the broker") {
        address owner = brokers.brokerOwner(brokerId);
        if (owner == actor(to)) return;
        vm.prank(owner);
        brokers.offerBrokerOwnership(brokerId, actor(to));
        vm.prank(actor(to));
        brokers.acceptBrokerOwnership(brokerId);
    }

    function deleteOrRegister(uint256 topic, uint256 by, uint256 priceWei) external counted("delete or register") {
        bytes32 topicId = topicIds[topic % TOPICS];
        if (!exists[topicId]) {
            put(topic % TOPICS, actor(by), bound(priceWei, 0, 1 ether));
            return;
        }
        address owner = topics.topicOwner(topicId);
        bool mustStay = hasPaidGrantRunning(topicId);
        vm.prank(owner);
        try topics.deleteTopic(topicId) {
            assertFalse(mustStay, "a paid grant lost its topic");
            exists[topicId] = false;
            for (uint256 i = 0; i < actors.length; ++i) {
                blocked[topicId][actors[i]] = false;
                delete _books[key(topicId, actors[i], ITopicRegistry.Right.Publish)];
                delete _books[key(topicId, actors[i], ITopicRegistry.Right.Subscribe)];
            }
        } catch (bytes memory reason) {
            assertEq(bytes4(reason), ITopicRegistry.PaidGrantsRunning.selector);
        }
    }

    function settle(uint256 topic, uint256 wallet, uint256 right) external counted("settle") {
        bytes32 topicId = topicIds[topic % TOPICS];
        try market.settle(topicId, actor(wallet), ITopicRegistry.Right(right % 2)) {}
        catch (bytes memory reason) {
            bool known = bytes4(reason) == IAccessMarket.NothingToSettle.selector
                || bytes4(reason) == ITopicRegistry.UnknownTopic.selector;
            assertTrue(known);
        }
    }

    function withdraw(uint256 payee) external counted("withdraw") {
        address who = actor(payee);
        uint256 credit = market.creditOf(who);
        if (credit == 0) return;
        address sink = makeAddr("sink");
        uint256 before = sink.balance;
        vm.prank(who);
        assertEq(market.withdraw(sink), credit);
        assertEq(sink.balance, before + credit);
    }

    function force(uint256 amountWei) external counted("force") {
        amountWei = bound(amountWei, 1, 1 ether);
        forced += amountWei;
        vm.deal(address(market), address(market).balance + amountWei);
    }

    function wait(uint256 time) external counted("wait") {
        vm.warp(block.timestamp + bound(time, 1, 5 days));
    }

    function hasPaidGrantRunning(bytes32 topicId) public view returns (bool) {
        for (uint256 i = 0; i < actors.length; ++i) {
            if (market.refundOf(topicId, actors[i], ITopicRegistry.Right.Publish) > 0) return true;
            if (market.refundOf(topicId, actors[i], ITopicRegistry.Right.Subscribe) > 0) return true;
        }
        return false;
    }

    /// @dev What each actor has and is owed. A payment moves it whether it could be delivered or not.
    function wealthOfAll() private view returns (int256[] memory wealth) {
        wealth = new int256[](actors.length);
        for (uint256 i = 0; i < actors.length; ++i) {
            wealth[i] = int256(actors[i].balance + market.creditOf(actors[i]));
        }
    }

    function owe(int256[] memory wealth, address who, int256 amountWei) private view {
        for (uint256 i = 0; i < actors.length; ++i) {
            if (actors[i] == who) wealth[i] += amountWei;
        }
    }

    function fund(address who, uint256 amountWei) private {
        vm.deal(who, who.balance + amountWei);
    }

    function put(uint256 topic, address owner, uint256 priceWei) private {
        ITopicRegistry.Offer memory priced =
            ITopicRegistry.Offer(ITopicRegistry.OfferMode.Priced, PERIOD, uint128(priceWei));
        vm.prank(owner);
        topics.registerTopic(brokerId, nameOf(topic), ITopicRegistry.Traits(false, false, false), priced, priced);
        exists[topicIds[topic]] = true;
    }

    function actor(uint256 seed) private view returns (address) {
        return actors[seed % actors.length];
    }

    function nameOf(uint256 topic) private pure returns (string memory) {
        return string.concat("topic", vm.toString(topic));
    }

    function key(bytes32 topicId, address wallet, ITopicRegistry.Right right) private pure returns (bytes32) {
        return keccak256(abi.encode(topicId, wallet, right));
    }
}
