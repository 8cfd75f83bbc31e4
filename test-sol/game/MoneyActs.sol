// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../../src-sol/interfaces/ITopicRegistry.sol";
import {MoneyBook} from "./MoneyBook.sol";

/// @title What buyers do, and owners and managers about access: whatever moves rights or money.
abstract contract MoneyActs is MoneyBook {
    // Sales

    function buy(uint256 topic, uint256 payer, uint256 wallet, uint256 right, uint256 periods)
        external
        creditsWatched(address(0))
    {
        if (!isOnSale(anyTopic(topic), actor(wallet), rightFrom(right))) return;
        buyOne(orderFor(anyTopic(topic), actor(wallet), rightFrom(right), periods), actor(payer));
        did("buy");
    }

    /// @dev Again for whoever has most kinds of paid time, at a new price: windows pile up.
    function pileUp(uint256 topic, uint256 right, uint256 priceWei, uint256 periods)
        external
        creditsWatched(address(0))
    {
        bytes32 topicId = topicIds[topic % 4 == 0 ? 2 : 0];
        ITopicRegistry.Right which = rightFrom(right);
        if (!exists(topicId)) return;
        (address wallet, uint256 most) = (actor(periods), 0);
        for (uint256 i = 0; i < actors.length; ++i) {
            uint256 count = paid[key(topicId, actors[i], which)].length;
            if (paidTo(topicId, actors[i], which) > block.timestamp && count > most) {
                (wallet, most) = (actors[i], count);
            }
        }
        setOffer(topicId, which, offerFrom(1 + priceWei % 6, priceWei), topicPages[topicId].owner);
        if (!isOnSale(topicId, wallet, which)) return;
        // The longest pile is added to while its last window is still to come, or well after that has begun.
        Paid[] storage pile = paid[key(topicId, wallet, which)];
        if (most == MOST_WINDOWS && priceWei % 2 == 0) {
            vm.warp(later(clock(), (pile[most - 1].from + pile[most - 1].to) / 2));
        }
        buyOne(orderFor(topicId, wallet, which, 1 + periods % 12), wallet);
        did("buy again at a new price");
    }

    function buyOne(IAccessMarket.Order memory order, address payer) private {
        bytes32 held = key(order.topicId, order.wallet, order.right);
        aimMeddler(order);
        uint256 costWei = enterSale(order);
        enterSent(payer, costWei);
        bytes memory until = must(payer, address(market), costWei, abi.encodeCall(market.buy, (order)));
        assertEq(abi.decode(until, (uint64)), ends[held], "buying extends by what was bought");
        meddler.aim(0);
    }

    /// @dev For two wallets, or twice for the same one.
    function buyMany(uint256 topic, uint256 payer, uint256 wallet, uint256 periods)
        external
        creditsWatched(address(0))
    {
        bytes32 topicId = anyTopic(topic);
        ITopicRegistry.Right right = rightFrom(periods);
        (address first, address second) = (actor(wallet), actor(wallet / 16));
        if (!isOnSale(topicId, first, right) || !isOnSale(topicId, second, right)) return;
        IAccessMarket.Order[] memory orders = new IAccessMarket.Order[](2);
        orders[0] = orderFor(topicId, first, right, periods);
        orders[1] = orderFor(topicId, second, right, periods / 256);
        uint256 costWei = enterSale(orders[0]) + enterSale(orders[1]);
        enterSent(actor(payer), costWei);
        must(actor(payer), address(market), costWei, abi.encodeCall(market.buyMany, (orders)));
        did("buy many");
    }

    /// @dev What the seller changed since, or a wei too little or too much, must not be sold.
    function haggle(uint256 topic, uint256 payer, uint256 wallet, uint256 right, uint256 how) external {
        address who = actor(wallet);
        bytes32 topicId = anyTopic(topic);
        if (offers[topicId][rightFrom(right)].mode != ITopicRegistry.OfferMode.Priced) return;
        IAccessMarket.Order memory order = orderFor(topicId, who, rightFrom(right), how);
        bytes4 refusal = IAccessMarket.WrongPayment.selector;
        uint256 valueWei = how % 2 == 0 ? costOf(order) + 1 : costOf(order) == 0 ? 1 : costOf(order) - 1;
        string memory deed = "buy at another price";
        if (how % 3 == 0) {
            (order.epoch, refusal, deed) =
            (order.epoch + 1, IAccessMarket.OfferChanged.selector, "buy of another epoch");
        } else if (blocked[topicId][topicPages[topicId].epoch][who]) {
            (refusal, deed) = (IAccessMarket.WalletIsBlocked.selector, "buy for a blocked wallet");
        } else if (isBanned(topicPages[topicId].brokerId, who)) {
            (refusal, deed) = (IAccessMarket.WalletIsBanned.selector, "buy for a banned wallet");
        }
        address from = actor(payer);
        uint256 before = from.balance;
        vm.deal(from, before + valueWei);
        (bool success, bytes memory answer) =
            attempt(from, address(market), valueWei, abi.encodeCall(market.buy, (order)));
        if (success) trespasses.push(deed);
        else assertEq(bytes4(answer), refusal, deed);
        vm.deal(from, before);
        did(deed);
    }

    function isOnSale(bytes32 topicId, address wallet, ITopicRegistry.Right right) private view returns (bool) {
        TopicPage memory page = topicPages[topicId];
        if (!exists(topicId) || offers[topicId][right].mode != ITopicRegistry.OfferMode.Priced) return false;
        return !blocked[topicId][page.epoch][wallet] && !isBanned(page.brokerId, wallet);
    }

    function orderFor(bytes32 topicId, address wallet, ITopicRegistry.Right right, uint256 periods)
        private
        view
        returns (IAccessMarket.Order memory)
    {
        return IAccessMarket.Order({
            topicId: topicId,
            right: right,
            wallet: wallet,
            periods: uint32(_bound(periods, 1, 100)),
            period: offers[topicId][right].period,
            epoch: topicPages[topicId].epoch,
            maxPriceWei: type(uint256).max,
            purpose: 0,
            note: ""
        });
    }

    function costOf(IAccessMarket.Order memory order) private view returns (uint256) {
        uint256 publishFeeWei = feeFor(order.topicId, order.right, uint256(order.period) * order.periods);
        return uint256(offers[order.topicId][order.right].priceWei) * order.periods + publishFeeWei;
    }

    function enterSale(IAccessMarket.Order memory order) private returns (uint256 costWei) {
        TopicPage memory page = topicPages[order.topicId];
        BrokerPage memory broker = brokerPages[page.brokerId];
        bytes32 held = key(order.topicId, order.wallet, order.right);
        uint256 priceWei = uint256(offers[order.topicId][order.right].priceWei) * order.periods;
        costWei = costOf(order);
        uint256 saleFeeWei = priceWei * feeNow(broker.saleFee) / 10_000;
        uint64 from = later(clock(), ends[held]);
        ends[held] = from + order.period * order.periods;
        if (priceWei > 0) enterPaid(held, from, ends[held], priceWei);
        enterFee(broker.owner, saleFeeWei + (costWei - priceWei));
        enterDue(page.owner, priceWei - saleFeeWei);
    }

    /// @dev The meddler tries to delete while sold time begins, which must fail.
    function aimMeddler(IAccessMarket.Order memory order) private {
        bool isPaid = offers[order.topicId][order.right].priceWei > 0;
        if (isPaid && topicPages[order.topicId].owner == address(meddler)) meddler.aim(order.topicId);
    }

    // Gifts

    function grant(uint256 topic, uint256 wallet, uint256 right, uint256 time, uint256 by)
        external
        creditsWatched(address(0))
    {
        bytes32 topicId = anyTopic(topic);
        if (!exists(topicId)) return;
        (address who, address from) = (actor(wallet), stewardOf(topicId, by));
        ITopicRegistry.Right which = rightFrom(right);
        uint64 until = later(clock(), endOf(topicId, who, which)) + uint64(_bound(time, 1, 20 days));
        uint256 feeWei = enterGift(topicId, who, which, until);
        uint256 change = time % 3;
        enterSent(from, feeWei + change);
        enterDue(from, change);
        must(from, address(market), feeWei + change, abi.encodeCall(market.grant, (topicId, who, which, until, 0, "")));
        did("grant");
    }

    /// @dev Two wallets on one topic.
    function grantMany(uint256 topic, uint256 wallet, uint256 right, uint256 time, uint256 by)
        external
        creditsWatched(address(0))
    {
        (bytes32[] memory ids, address[] memory wallets) =
            pair(anyTopic(topic), actor(wallet), actor(wallet % actors.length + 1 + by % 5));
        if (!exists(ids[0])) return;
        ITopicRegistry.Right which = rightFrom(right);
        address from = stewardOf(ids[0], by);
        uint64 until = later(endOf(ids[0], wallets[0], which), endOf(ids[0], wallets[1], which));
        until = later(clock(), until) + uint64(_bound(time, 1, 20 days));
        uint256 feesWei = enterGift(ids[0], wallets[0], which, until) + enterGift(ids[0], wallets[1], which, until);
        enterSent(from, feesWei + 5);
        enterDue(from, 5);
        bytes memory data = abi.encodeCall(market.grantMany, (ids, wallets, which, until, 0, ""));
        must(from, address(market), feesWei + 5, data);
        did("grant many");
    }

    function enterGift(bytes32 topicId, address wallet, ITopicRegistry.Right right, uint64 until)
        private
        returns (uint256 feeWei)
    {
        bytes32 held = key(topicId, wallet, right);
        feeWei = feeFor(topicId, right, until - later(clock(), ends[held]));
        ends[held] = until;
        enterFee(brokerPages[topicPages[topicId].brokerId].owner, feeWei);
    }

    // Ends

    function revoke(uint256 topic, uint256 wallet, uint256 right, uint256 extra, uint256 by)
        external
        creditsWatched(address(0))
    {
        bytes32 topicId = anyTopic(topic);
        (address who, ITopicRegistry.Right which) = (holderFrom(topicId, wallet, rightFrom(right)), rightFrom(right));
        if (who == address(0)) return;
        address from = stewardOf(topicId, by);
        bytes memory data = abi.encodeCall(market.revoke, (topicId, who, which, 0, ""));
        uint256 refundWei = refundOf(topicId, who, which);
        if (refundWei > 0) {
            mustNot(from, address(market), data, IAccessMarket.RefundTooSmall.selector, "revoke unrefunded");
        }
        enterSent(from, refundWei + extra % 5);
        enterDue(who, refundWei);
        enterDue(from, extra % 5);
        enterEnd(key(topicId, who, which));
        must(from, address(market), refundWei + extra % 5, data);
        did("revoke");
    }

    function revokeMany(uint256 topic, uint256 wallet, uint256 right, uint256 by) external creditsWatched(address(0)) {
        ITopicRegistry.Right which = rightFrom(right);
        address first = holderFrom(anyTopic(topic), wallet, which);
        address second = first == address(0) ? first : holderFrom(anyTopic(topic), indexOf(first) + 1, which);
        if (first == second) return;
        (bytes32[] memory ids, address[] memory wallets) = pair(anyTopic(topic), first, second);
        address from = stewardOf(ids[0], by);
        (uint256 firstWei, uint256 secondWei) = (refundOf(ids[0], first, which), refundOf(ids[0], second, which));
        enterSent(from, firstWei + secondWei + 1);
        enterDue(first, firstWei);
        enterDue(second, secondWei);
        enterDue(from, 1);
        enterEnd(key(ids[0], first, which));
        enterEnd(key(ids[0], second, which));
        bytes memory data = abi.encodeCall(market.revokeMany, (ids, wallets, which, 0, ""));
        must(from, address(market), firstWei + secondWei + 1, data);
        did("revoke many");
    }

    function turnBlock(uint256 topic, uint256 wallet, uint256 extra, uint256 by) external creditsWatched(address(0)) {
        bytes32 topicId = anyTopic(topic);
        address who = actor(wallet);
        TopicPage memory page = topicPages[topicId];
        if (!exists(topicId)) return;
        address from = stewardOf(topicId, by);
        if (blocked[topicId][page.epoch][who]) {
            must(from, address(market), 0, abi.encodeCall(market.unblockWallet, (topicId, who)));
            blocked[topicId][page.epoch][who] = false;
            return did("unblock");
        }
        bytes memory data = abi.encodeCall(market.blockWallet, (topicId, who, 0, ""));
        if (who == page.owner) {
            return mustNot(from, address(market), data, IAccessMarket.CannotBlockOwner.selector, "block the owner");
        }
        uint256 publishWei = refundOf(topicId, who, ITopicRegistry.Right.Publish);
        uint256 subscribeWei = refundOf(topicId, who, ITopicRegistry.Right.Subscribe);
        uint256 refundWei = publishWei + subscribeWei;
        if (refundWei > 0) {
            mustNot(from, address(market), data, IAccessMarket.RefundTooSmall.selector, "block unrefunded");
            did("block with a refund");
        }
        if (publishWei > 0) enterEnd(key(topicId, who, ITopicRegistry.Right.Publish));
        if (subscribeWei > 0) enterEnd(key(topicId, who, ITopicRegistry.Right.Subscribe));
        enterSent(from, refundWei + extra % 7);
        enterDue(who, refundWei);
        enterDue(from, extra % 7);
        must(from, address(market), refundWei + extra % 7, data);
        blocked[topicId][page.epoch][who] = true;
        did("block");
    }

    /// @dev Anyone may; only sold time that is over can be.
    function settle(uint256 topic, uint256 wallet, uint256 right, uint256 by) external creditsWatched(address(0)) {
        bytes32 topicId = anyTopic(topic);
        bytes32 held = key(topicId, actor(wallet), rightFrom(right));
        uint64 to = paidTo(topicId, actor(wallet), rightFrom(right));
        bytes memory data = abi.encodeCall(market.settle, (topicId, actor(wallet), rightFrom(right)));
        if (to == 0 || block.timestamp < to) {
            return mustNot(actor(by), address(market), data, IAccessMarket.NothingToSettle.selector, "settle what runs");
        }
        must(actor(by), address(market), 0, data);
        delete paid[held];
        did("settle");
    }

    // Payees

    function payout(uint256 payee, uint256 to, uint256 pull) external creditsWatched(address(0)) {
        address who = actor(payee);
        // To anybody, and to contracts of the deployment, which take nothing; mostly to oneself.
        address[3] memory odd = [actor(to / 8), address(market), address(topics)];
        Payout memory wanted = Payout(to % 8 < 3 ? odd[to % 8] : address(0), pull % 4 == 0);
        Payout storage page = payouts[who];
        if (wanted.to == page.to && wanted.isPull == page.isPull) return;
        must(who, address(market), 0, abi.encodeCall(market.setPayout, (wanted.to, wanted.isPull)));
        payouts[who] = wanted;
        did("set a payout");
    }

    /// @dev From the first who has credit; to one who cannot take it, it must stay.
    function withdraw(uint256 payee, uint256 to) external creditsWatched(creditorFrom(payee)) {
        (address who, address sink) = (creditorFrom(payee), actor(to));
        if (who == address(0)) return;
        bytes memory data = abi.encodeCall(market.withdraw, (sink));
        if (!takes[sink]) {
            return
                mustNot(who, address(market), data, IAccessMarket.PaymentFailed.selector, "withdraw to a refusing one");
        }
        assertEq(abi.decode(must(who, address(market), 0, data), (uint256)), owed[who], "the whole credit");
        purse[sink] += owed[who];
        withdrawnWei += owed[who];
        owed[who] = 0;
        did("withdraw");
    }

    function withdrawNothing(uint256 payee, uint256 to) external {
        if (owed[actor(payee)] > 0) return;
        bytes memory data = abi.encodeCall(market.withdraw, (actor(to)));
        mustNot(actor(payee), address(market), data, IAccessMarket.NoCredit.selector, "withdraw without credit");
    }

    /// @dev As a contract that destroys itself leaves it, or a block's reward: no code of the market runs.
    function force(uint256 amountWei, uint256 how) external creditsWatched(address(0)) {
        amountWei = _bound(amountWei, 1, 1 ether);
        forcedWei += amountWei;
        if (how % 2 == 0) {
            vm.deal(address(market), address(market).balance + amountWei);
        } else {
            bytes memory dying = abi.encodePacked(hex"73", address(market), hex"ff");
            vm.deal(address(this), amountWei);
            assembly {
                pop(create(amountWei, add(dying, 32), mload(dying)))
            }
        }
        did("force ether");
    }

    /// @dev Mostly hours, so that what was sold is met running, ending and over.
    function wait(uint256 time) external {
        vm.warp(block.timestamp + _bound(time, 1, time % 4 == 0 ? 3 days : 6 hours));
        did("wait");
    }

    // Whom it is about

    function holderFrom(bytes32 topicId, uint256 seed, ITopicRegistry.Right right) private view returns (address) {
        for (uint256 i = 0; i < actors.length; ++i) {
            address who = actor(seed % actors.length + i);
            if (endOf(topicId, who, right) > block.timestamp) return who;
        }
        return address(0);
    }

    function creditorFrom(uint256 seed) private view returns (address) {
        for (uint256 i = 0; i < actors.length; ++i) {
            address who = actor(seed % actors.length + i);
            if (owed[who] > 0) return who;
        }
        return address(0);
    }

    function indexOf(address who) private view returns (uint256 i) {
        while (actors[i] != who) ++i;
    }

    function pair(bytes32 topicId, address first, address second)
        private
        pure
        returns (bytes32[] memory ids, address[] memory wallets)
    {
        (ids, wallets) = (new bytes32[](1), new address[](2));
        (ids[0], wallets[0], wallets[1]) = (topicId, first, second);
    }

    function rightFrom(uint256 seed) internal pure returns (ITopicRegistry.Right) {
        return ITopicRegistry.Right(seed % 2);
    }
}
