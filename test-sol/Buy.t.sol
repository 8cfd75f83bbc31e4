// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Fixture} from "./Fixture.sol";

contract BuyTest is Fixture {
    function pay(uint256 value, IAccessMarket.Order memory wanted) private returns (uint64) {
        vm.prank(buyer);
        return market.buy{value: value}(wanted);
    }

    function setFees(uint96 publishWeiPerDay, uint96 basisPoints) private {
        vm.startPrank(brokerOwner);
        if (publishWeiPerDay > 0) brokers.setPublishFee(brokerId, publishWeiPerDay);
        if (basisPoints > 0) brokers.setSaleFee(brokerId, basisPoints);
        vm.stopPrank();
        vm.warp(START + 1 days);
    }

    // buy

    function test_Buy() public {
        uint256 ownerHad = topicOwner.balance;
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 3);
        wanted.note = "season";
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessBought(
            brokerId, topicId, buyer, SUBSCRIBE, 1, START + 3 * PERIOD, buyer, 3 * PRICE, 0, 0, PURPOSE, "season"
        );
        assertEq(pay(3 * PRICE, wanted), START + 3 * PERIOD);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), START + 3 * PERIOD);
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
        assertFalse(market.mayAccess(topicId, buyer, PUBLISH));
        assertEq(topicOwner.balance, ownerHad + 3 * PRICE);
        assertEq(address(market).balance, 0);
    }

    function test_BuyAgainBeforeTheEnd() public {
        uint64 until = buy(1);
        vm.warp(until - 1);
        assertEq(buy(2), until + 2 * PERIOD);
    }

    function test_BuyAgainAfterTheEnd() public {
        uint64 until = buy(1);
        vm.warp(until + 5);
        assertEq(buy(1), until + 5 + PERIOD);
    }

    function test_BuyAgainAtTheEnd() public {
        uint64 until = buy(1);
        vm.warp(until);
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
        assertEq(buy(1), until + PERIOD);
    }

    function test_BuyForAnother() public {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.wallet = stranger;
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessBought(
            brokerId, topicId, stranger, SUBSCRIBE, 1, START + PERIOD, buyer, PRICE, 0, 0, PURPOSE, ""
        );
        pay(PRICE, wanted);
        assertTrue(market.mayAccess(topicId, stranger, SUBSCRIBE));
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_RevertWhen_PaymentIsNotExact() public {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        uint256[4] memory wrong = [uint256(0), PRICE - 1, PRICE + 1, 2 * PRICE];
        for (uint256 i = 0; i < wrong.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, wrong[i], PRICE));
            pay(wrong[i], wanted);
        }
        pay(PRICE, wanted);
    }

    function test_EveryPairOfPrices() public {
        uint128[2][4] memory pairs = [[uint128(0), 0], [uint128(0), 5], [uint128(7), 0], [uint128(7), 5]];
        for (uint256 i = 0; i < pairs.length; ++i) {
            uint256 snapshot = vm.snapshotState();
            setOffer(PUBLISH, priced(pairs[i][0]));
            setOffer(SUBSCRIBE, priced(pairs[i][1]));
            for (uint8 r = 0; r < 2; ++r) {
                uint256 costWei = pairs[i][r];
                IAccessMarket.Order memory wanted = order(ITopicRegistry.Right(r), 1);
                vm.expectRevert(abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, costWei + 1, costWei));
                pay(costWei + 1, wanted);
                if (costWei > 0) {
                    vm.expectRevert(abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, costWei - 1, costWei));
                    pay(costWei - 1, wanted);
                }
                assertFalse(market.mayAccess(topicId, buyer, ITopicRegistry.Right(r)));
                pay(costWei, wanted);
                assertTrue(market.mayAccess(topicId, buyer, ITopicRegistry.Right(r)));
            }
            vm.revertToState(snapshot);
        }
    }

    function test_RevertWhen_OfferClosed() public {
        IAccessMarket.Order memory wanted = order(PUBLISH, 1);
        for (uint256 value = 0; value <= 1 ether; value += 0.5 ether) {
            vm.expectRevert(abi.encodeWithSelector(IAccessMarket.OfferNotPriced.selector, topicId, PUBLISH));
            pay(value, wanted);
        }
    }

    function test_RevertWhen_OfferPublic() public {
        setOffer(SUBSCRIBE, open());
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.period = 0;
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.OfferNotPriced.selector, topicId, SUBSCRIBE));
        pay(0, wanted);
    }

    function test_PublishFeeOnTop() public {
        setFees(FEE_PER_DAY, 1000);
        setOffer(PUBLISH, priced(PRICE));
        uint256 ownerHad = topicOwner.balance;
        IAccessMarket.Order memory wanted = order(PUBLISH, 2);
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessBought(
            brokerId,
            topicId,
            buyer,
            PUBLISH,
            1,
            START + 3 days,
            buyer,
            2 * PRICE,
            PRICE / 5,
            2 * FEE_PER_DAY,
            PURPOSE,
            ""
        );
        pay(2 * PRICE + 2 * FEE_PER_DAY, wanted);
        assertEq(market.creditOf(brokerOwner), PRICE / 5 + 2 * FEE_PER_DAY);
        assertEq(brokerOwner.balance, 0, "fees are credits, nobody waits for a broker's owner to take them");
        assertEq(topicOwner.balance, ownerHad + 2 * PRICE - PRICE / 5);

        setOffer(PUBLISH, priced(0));
        IAccessMarket.Order memory claim = order(PUBLISH, 1);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, 0, FEE_PER_DAY));
        pay(0, claim);
        pay(FEE_PER_DAY, claim);
    }

    function testFuzz_SharesAddUp(uint88 priceWei, uint96 basisPoints, uint96 weiPerDay, uint32 periods) public {
        priceWei = uint88(bound(priceWei, 0, 1000 ether));
        basisPoints = uint96(bound(basisPoints, 0, 2500));
        weiPerDay = uint96(bound(weiPerDay, 0, 0.01 ether));
        periods = uint32(bound(periods, 1, 900));
        setFees(weiPerDay, basisPoints);
        reprice(PUBLISH, priced(priceWei));
        uint256 ownerHad = topicOwner.balance;
        uint256 cost = uint256(priceWei) * periods + uint256(weiPerDay) * periods;
        pay(cost, order(PUBLISH, periods));
        uint256 saleFeeWei = uint256(priceWei) * periods * basisPoints / 10_000;
        assertEq(market.creditOf(brokerOwner), saleFeeWei + uint256(weiPerDay) * periods, "the broker's share");
        assertEq(topicOwner.balance - ownerHad + market.creditOf(brokerOwner), cost, "to the wei");
        assertEq(address(market).balance, market.creditOf(brokerOwner));
    }

    function testFuzz_Buy(uint88 priceWei, uint32 period, uint32 periods) public {
        ITopicRegistry.Offer memory offer = priced(uint128(bound(priceWei, 0, 1 ether)) + 3);
        offer.period = uint32(bound(period, 1, 3650 days));
        periods = uint32(bound(periods, 1, YEARS_100 / offer.period));
        reprice(SUBSCRIBE, offer);
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, periods);
        wanted.period = offer.period;
        uint256 cost = uint256(offer.priceWei) * periods;
        vm.deal(buyer, cost + 1);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, cost + 1, cost));
        pay(cost + 1, wanted);
        assertEq(pay(cost, wanted), START + uint256(offer.period) * periods);
    }

    function testFuzz_EndsNeverShrink(uint32[6] memory pauses, uint32[6] memory periods, bool[6] memory granted)
        public
    {
        uint64 last;
        for (uint256 i = 0; i < pauses.length; ++i) {
            vm.warp(block.timestamp + pauses[i] % 400 days);
            uint64 from = last > block.timestamp ? last : uint64(block.timestamp);
            if (granted[i]) {
                last = from + 1 + pauses[i] % 1000 days;
                grantFree(buyer, SUBSCRIBE, last);
            } else {
                uint32 count = 1 + periods[i] % 300;
                last = buy(count);
                assertEq(last, from + uint64(PERIOD) * count);
            }
            assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), last);
        }
    }

    function test_PurchaseEndsWithin100Years() public {
        setOffer(SUBSCRIBE, priced(0));
        uint256 latest = START + YEARS_100;
        refuseToSell(abi.encodeWithSelector(IAccessMarket.EndTooFar.selector, latest + 1 days, latest), 36_501);
        buy(36_500);
        refuseToSell(abi.encodeWithSelector(IAccessMarket.EndTooFar.selector, latest + 1 days, latest), 1);
    }

    function test_HighestPriceTimesMostPeriods() public {
        ITopicRegistry.Offer memory offer = priced(type(uint88).max);
        offer.period = 3650 days;
        setOffer(SUBSCRIBE, offer);
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, type(uint32).max);
        wanted.period = offer.period;
        uint256 cost = uint256(type(uint88).max) * type(uint32).max;
        (uint256 priceWei,,,) = market.quote(topicId, SUBSCRIBE, type(uint32).max);
        assertEq(priceWei, cost);
        vm.deal(buyer, cost);
        uint256 until = START + uint256(offer.period) * type(uint32).max;
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.EndTooFar.selector, until, START + YEARS_100));
        pay(cost, wanted);

        offer.period = 1;
        setOffer(SUBSCRIBE, offer);
        wanted.period = 1;
        wanted.periods = uint32(YEARS_100);
        pay(uint256(type(uint88).max) * uint32(YEARS_100), wanted);
        assertEq(market.refundOf(topicId, buyer, SUBSCRIBE), uint256(type(uint88).max) * uint32(YEARS_100));
        vm.warp(START + YEARS_100 - 1);
        assertEq(market.refundOf(topicId, buyer, SUBSCRIBE), type(uint88).max);
    }

    function test_RevertWhen_OrderIsEmpty() public {
        refuseToSell(abi.encodeWithSelector(IAccessMarket.InvalidPeriods.selector, 0), 0);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.InvalidPeriods.selector, 0));
        market.quote(topicId, SUBSCRIBE, 0);
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.wallet = address(0);
        vm.expectRevert(IAccessMarket.ZeroAddress.selector);
        pay(PRICE, wanted);
    }

    // What the buyer saw

    function test_RevertWhen_PriceRose() public {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.maxPriceWei = PRICE;
        setOffer(SUBSCRIBE, priced(2 * PRICE));
        uint256 had = buyer.balance;
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.PriceAboveMaximum.selector, 2 * PRICE, PRICE));
        pay(2 * PRICE, wanted);
        assertEq(buyer.balance, had);
    }

    function test_RevertWhen_PublishFeeRose() public {
        setOffer(PUBLISH, priced(PRICE));
        IAccessMarket.Order memory wanted = order(PUBLISH, 1);
        wanted.maxPriceWei = PRICE;
        setFees(FEE_PER_DAY, 0);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.PriceAboveMaximum.selector, PRICE + FEE_PER_DAY, PRICE));
        pay(PRICE + FEE_PER_DAY, wanted);
    }

    function test_RevertWhen_PeriodChanged() public {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        ITopicRegistry.Offer memory shorter = priced(PRICE);
        shorter.period = 1 hours;
        setOffer(SUBSCRIBE, shorter);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.OfferChanged.selector, topicId, 1 hours, 1));
        pay(PRICE, wanted);
    }

    function test_RevertWhen_EpochChanged() public {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        vm.prank(topicOwner);
        topics.deleteTopic(topicId);
        register(stranger, NAME, closed(), priced(PRICE));
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.OfferChanged.selector, topicId, PERIOD, 2));
        pay(PRICE, wanted);
    }

    function test_RevertWhen_OfferClosedSince() public {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        setOffer(SUBSCRIBE, closed());
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.OfferNotPriced.selector, topicId, SUBSCRIBE));
        pay(PRICE, wanted);
    }

    function test_RevertWhen_TopicGone() public {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        vm.prank(topicOwner);
        topics.deleteTopic(topicId);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, topicId));
        pay(PRICE, wanted);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, topicId));
        market.quote(topicId, SUBSCRIBE, 1);
    }

    function test_MaximumIsInclusive() public {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.maxPriceWei = PRICE - 1;
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.PriceAboveMaximum.selector, PRICE, PRICE - 1));
        pay(PRICE, wanted);
        wanted.maxPriceWei = PRICE;
        pay(PRICE, wanted);
    }

    function testFuzz_QuoteIsTheCost(uint88 priceWei, uint96 weiPerDay, uint32 period, uint32 periods) public {
        setFees(uint96(bound(weiPerDay, 0, 1 ether)), 0);
        ITopicRegistry.Offer memory offer = priced(uint128(bound(priceWei, 1, 1 ether)));
        offer.period = uint32(bound(period, 1, 3650 days));
        reprice(PUBLISH, offer);
        periods = uint32(bound(periods, 1, YEARS_100 / offer.period));
        IAccessMarket.Order memory wanted = order(PUBLISH, periods);
        uint256 publishFeeWei;
        (wanted.maxPriceWei, publishFeeWei, wanted.period, wanted.epoch) = market.quote(topicId, PUBLISH, periods);
        wanted.maxPriceWei += publishFeeWei;
        vm.deal(buyer, wanted.maxPriceWei);
        pay(wanted.maxPriceWei, wanted);
    }

    // Who may not

    function test_RevertWhen_WalletIsBlocked() public {
        blockBuyer();
        uint256 had = buyer.balance;
        refuseToSell(abi.encodeWithSelector(IAccessMarket.WalletIsBlocked.selector, topicId, buyer), 1);
        assertEq(buyer.balance, had);
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.WalletIsBlocked.selector, topicId, buyer));
        vm.prank(stranger);
        market.buy{value: PRICE}(wanted);
    }

    function test_RevertWhen_WalletIsBanned() public {
        banBuyer(START + 1 hours);
        uint256 had = buyer.balance;
        bytes memory refusal =
            abi.encodeWithSelector(IAccessMarket.WalletIsBanned.selector, brokerId, buyer, START + 1 hours);
        refuseToSell(refusal, 1);
        vm.warp(START + 1 hours - 1);
        refuseToSell(refusal, 1);
        assertEq(buyer.balance, had);
        assertEq(address(market).balance, 0);
    }

    function test_BuyAfterTheBan() public {
        banBuyer(START + 1 hours);
        vm.warp(START + 1 hours);
        buy(1);
    }

    function test_BuyWhileBannedElsewhere() public {
        vm.startPrank(stranger);
        uint256 other = brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, "other");
        brokers.ban(other, walletBan(buyer, START + 1 hours));
        vm.stopPrank();
        buy(1);
    }

    // mayAccess

    function test_BannedOwnerMayNot() public {
        assertTrue(market.mayAccess(topicId, topicOwner, PUBLISH));
        vm.prank(gateway);
        brokers.ban(brokerId, walletBan(topicOwner, START + 1 hours));
        assertFalse(market.mayAccess(topicId, topicOwner, PUBLISH));
        // Banned from the broker, not from the topic: administration and money stay.
        setOffer(SUBSCRIBE, priced(2 * PRICE));
        grantFree(stranger, SUBSCRIBE, START + 1 days);
        vm.warp(START + 1 hours);
        assertTrue(market.mayAccess(topicId, topicOwner, PUBLISH));
    }

    function test_BannedWalletMayNot() public {
        buy(3);
        setOffer(SUBSCRIBE, open());
        banBuyer(START + 1 hours);
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
        vm.prank(gateway);
        brokers.unban(brokerId, IBrokerRegistry.BanKind.Wallet, subjectOf(buyer));
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_PublicOffer() public {
        setOffer(SUBSCRIBE, open());
        assertTrue(market.mayAccess(topicId, stranger, SUBSCRIBE));
        assertFalse(market.mayAccess(topicId, stranger, PUBLISH));
        setOffer(SUBSCRIBE, closed());
        assertFalse(market.mayAccess(topicId, stranger, SUBSCRIBE));
    }

    function test_UnknownTopicAdmitsNobody() public view {
        assertFalse(market.mayAccess("none", topicOwner, SUBSCRIBE));
        assertFalse(market.mayAccess("none", address(0), SUBSCRIBE));
    }

    function test_ZeroAddressNever() public {
        setOffer(SUBSCRIBE, open());
        assertFalse(market.mayAccess(topicId, address(0), SUBSCRIBE));
    }

    function test_OfferChangeKeepsGrants() public {
        uint64 until = buy(2);
        setOffer(SUBSCRIBE, closed());
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), until);
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }
}
