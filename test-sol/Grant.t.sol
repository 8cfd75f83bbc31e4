// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Fixture} from "./Fixture.sol";
import {RefusingPayee} from "./Payees.sol";

contract GrantTest is Fixture {
    uint64 private constant END = START + 10 days;

    function setPublishFee(uint96 weiPerDay) private {
        vm.prank(brokerOwner);
        brokers.setPublishFee(brokerId, weiPerDay);
        vm.warp(START + 1 days);
    }

    function grantWith(uint256 value, ITopicRegistry.Right right, uint64 until) private {
        vm.prank(topicOwner);
        market.grant{value: value}(topicId, buyer, right, until, PURPOSE, "");
    }

    function buyAs(address payer, address wallet, ITopicRegistry.Right right, uint32 periods) private {
        IAccessMarket.Order memory wanted = order(right, periods);
        wanted.wallet = wallet;
        (uint256 priceWei, uint256 publishFeeWei,,) = market.quote(topicId, right, periods);
        vm.prank(payer);
        market.buy{value: priceWei + publishFeeWei}(wanted);
    }

    function refund() private view returns (uint256) {
        return market.refundOf(topicId, buyer, SUBSCRIBE);
    }

    // grant

    function test_Grant() public {
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessGranted(
            brokerId, topicId, buyer, SUBSCRIBE, 1, END, topicOwner, 0, PURPOSE, "contract 7"
        );
        vm.prank(topicOwner);
        market.grant(topicId, buyer, SUBSCRIBE, END, PURPOSE, "contract 7");
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), END);
        assertEq(market.grantedUntil(topicId, buyer, PUBLISH), 0);
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
        assertFalse(market.mayAccess(topicId, buyer, PUBLISH));
        assertFalse(market.mayAccess(topicId, stranger, SUBSCRIBE));
    }

    function test_ManagerGrants() public {
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessGranted(brokerId, topicId, buyer, PUBLISH, 1, END, manager, 0, PURPOSE, "");
        vm.prank(manager);
        market.grant(topicId, buyer, PUBLISH, END, PURPOSE, "");
    }

    function test_GrantIsFreeOnEveryOffer() public {
        ITopicRegistry.Offer[4] memory offers = [closed(), priced(PRICE), priced(0), open()];
        for (uint64 i = 0; i < offers.length; ++i) {
            if (i != 1) setOffer(SUBSCRIBE, offers[i]);
            grantFree(buyer, SUBSCRIBE, END + i);
            assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), END + i);
            if (i == 1) continue;
            setOffer(SUBSCRIBE, priced(PRICE));
        }
    }

    function test_GrantExtendsPurchase() public {
        uint64 until = buy(2);
        grantFree(buyer, SUBSCRIBE, until + 1);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), until + 1);
    }

    function test_GrantIsHalfOpen() public {
        grantFree(buyer, SUBSCRIBE, END);
        vm.warp(END - 1);
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
        vm.warp(END);
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), END);
    }

    function test_RevertWhen_GrantNotLater() public {
        grantFree(buyer, SUBSCRIBE, END);
        bytes4 refusal = IAccessMarket.EndNotLater.selector;
        vm.expectRevert(abi.encodeWithSelector(refusal, END, END));
        grantFree(buyer, SUBSCRIBE, END);
        vm.expectRevert(abi.encodeWithSelector(refusal, END - 1, END));
        grantFree(buyer, SUBSCRIBE, END - 1);
        grantFree(buyer, SUBSCRIBE, END + 1);
    }

    function test_RevertWhen_GrantEndsNow() public {
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.EndNotLater.selector, START, 0));
        grantFree(buyer, SUBSCRIBE, START);
        grantFree(buyer, SUBSCRIBE, START + 1);
    }

    function test_GrantEndsWithin100Years() public {
        uint64 latest = uint64(START + YEARS_100);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.EndTooFar.selector, latest + 1, latest));
        grantFree(buyer, SUBSCRIBE, latest + 1);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.EndTooFar.selector, type(uint64).max, latest));
        grantFree(buyer, SUBSCRIBE, type(uint64).max);
        grantFree(buyer, SUBSCRIBE, latest);
    }

    function test_RevertWhen_GrantingToZero() public {
        vm.expectRevert(IAccessMarket.ZeroAddress.selector);
        grantFree(address(0), SUBSCRIBE, END);
    }

    function test_RevertWhen_GrantingOnUnknownTopic() public {
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32("none")));
        market.grant("none", buyer, SUBSCRIBE, END, PURPOSE, "");
    }

    function test_LawfulBases() public {
        vm.startPrank(topicOwner);
        for (uint8 basis = 0; basis <= 6; ++basis) {
            market.grant(topicId, buyer, SUBSCRIBE, END + basis, bytes32(bytes1(basis)), "");
        }
        bytes32 bad = bytes32(bytes1(uint8(7)));
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.InvalidPurpose.selector, bad);
        vm.expectRevert(refusal);
        market.grant(topicId, buyer, SUBSCRIBE, END + 7, bad, "");
        vm.expectRevert(refusal);
        market.revoke(topicId, buyer, SUBSCRIBE, bad, "");
        vm.expectRevert(refusal);
        market.blockWallet(topicId, buyer, bad, "");
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.purpose = bad;
        vm.expectRevert(refusal);
        market.buy{value: PRICE}(wanted);
    }

    function test_NoteBounds() public {
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.TextTooLong.selector, 257, 256);
        vm.startPrank(topicOwner);
        market.grant(topicId, buyer, SUBSCRIBE, END, PURPOSE, text(256));
        vm.expectRevert(refusal);
        market.grant(topicId, buyer, SUBSCRIBE, END + 1, PURPOSE, text(257));
        vm.expectRevert(refusal);
        market.revoke(topicId, buyer, SUBSCRIBE, PURPOSE, text(257));
        market.revoke(topicId, buyer, SUBSCRIBE, PURPOSE, text(256));
        vm.expectRevert(refusal);
        market.blockWallet(topicId, buyer, PURPOSE, text(257));
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.note = text(257);
        vm.expectRevert(refusal);
        market.buy{value: PRICE}(wanted);
        wanted.note = text(256);
        market.buy{value: PRICE}(wanted);
        market.blockWallet{value: PRICE}(topicId, buyer, PURPOSE, text(256));
    }

    function test_GrantToBlockedWallet() public {
        blockBuyer();
        grantFree(buyer, SUBSCRIBE, END);
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
        vm.prank(topicOwner);
        market.unblockWallet(topicId, buyer);
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    // The publish fee

    function test_PublishFeeOnAddedTime() public {
        setPublishFee(86_400 * 3);
        uint64 begin = START + 1 days;
        assertEq(market.grantFee(topicId, buyer, PUBLISH, begin + 10), 30);
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessGranted(brokerId, topicId, buyer, PUBLISH, 1, begin + 10, topicOwner, 30, PURPOSE, "");
        grantWith(30, PUBLISH, begin + 10);
        assertEq(market.creditOf(brokerOwner), 30);
        grantWith(15, PUBLISH, begin + 15);
        assertEq(market.creditOf(brokerOwner), 45, "only the added five seconds");

        vm.prank(brokerOwner);
        brokers.setPublishFee(brokerId, 1);
        assertEq(market.grantFee(topicId, buyer, PUBLISH, begin + 16), 1, "rounded up");
        assertEq(market.grantFee(topicId, buyer, PUBLISH, begin + 15), 0);
        assertEq(market.grantFee(topicId, buyer, PUBLISH, begin + 1), 0);
    }

    function test_ExcessComesBack() public {
        setPublishFee(FEE_PER_DAY);
        uint256 before = topicOwner.balance;
        grantWith(1 ether, PUBLISH, START + 3 days);
        assertEq(topicOwner.balance, before - 2 * FEE_PER_DAY);
        assertEq(market.creditOf(brokerOwner), 2 * FEE_PER_DAY);
        assertEq(address(market).balance, 2 * FEE_PER_DAY);
    }

    function test_RevertWhen_FeeNotPaid() public {
        setPublishFee(FEE_PER_DAY);
        vm.expectRevert(
            abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, 2 * FEE_PER_DAY - 1, 2 * FEE_PER_DAY)
        );
        grantWith(2 * FEE_PER_DAY - 1, PUBLISH, START + 3 days);
        grantWith(2 * FEE_PER_DAY, PUBLISH, START + 3 days);
    }

    function test_NoFeeOnSubscribing() public {
        setPublishFee(FEE_PER_DAY);
        assertEq(market.grantFee(topicId, buyer, SUBSCRIBE, START + 3 days), 0);
        uint256 before = topicOwner.balance;
        grantWith(1 ether, SUBSCRIBE, START + 3 days);
        assertEq(topicOwner.balance, before);
        assertEq(market.creditOf(brokerOwner), 0);
    }

    function test_RiseCountsFromItsTime() public {
        setPublishFee(FEE_PER_DAY);
        vm.prank(brokerOwner);
        brokers.setPublishFee(brokerId, 2 * FEE_PER_DAY);
        assertEq(market.grantFee(topicId, buyer, PUBLISH, START + 3 days), 2 * FEE_PER_DAY);
        vm.warp(START + 2 days);
        assertEq(market.grantFee(topicId, buyer, PUBLISH, START + 3 days), 2 * FEE_PER_DAY, "one day, twice the fee");
    }

    function testFuzz_GrantFee(uint96 weiPerDay, uint64 until, uint64 extended) public {
        weiPerDay = uint96(bound(weiPerDay, 1, 1 ether));
        until = uint64(bound(until, START + 1 days + 1, START + YEARS_100 - 1));
        extended = uint64(bound(extended, until + 1, START + YEARS_100));
        setPublishFee(weiPerDay);
        uint256 first = market.grantFee(topicId, buyer, PUBLISH, until);
        assertLt(uint256(weiPerDay) * (until - START - 1 days), first * 1 days + 1);
        assertGt(uint256(weiPerDay) * (until - START - 1 days), (first - 1) * 1 days);
        grantWith(first, PUBLISH, until);
        uint256 second = market.grantFee(topicId, buyer, PUBLISH, extended);
        grantWith(second, PUBLISH, extended);
        assertEq(market.creditOf(brokerOwner), first + second);
        assertEq(address(market).balance, first + second);
    }

    // revoke

    function test_RevokeFree() public {
        grantFree(buyer, SUBSCRIBE, END);
        vm.warp(START + 1 days);
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessRevoked(brokerId, topicId, buyer, SUBSCRIBE, 1, END, 0, topicOwner, PURPOSE, "moved");
        vm.prank(topicOwner);
        market.revoke(topicId, buyer, SUBSCRIBE, PURPOSE, "moved");
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), START + 1 days, "ended now, not never granted");
    }

    function test_ManagerRevokes() public {
        grantFree(buyer, SUBSCRIBE, END);
        vm.prank(manager);
        market.revoke(topicId, buyer, SUBSCRIBE, PURPOSE, "");
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_RevokeOneRight() public {
        grantFree(buyer, SUBSCRIBE, END);
        grantFree(buyer, PUBLISH, END);
        revokeFrom(buyer, SUBSCRIBE);
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
        assertTrue(market.mayAccess(topicId, buyer, PUBLISH));
    }

    function test_RevertWhen_NothingToRevoke() public {
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.NothingToRevoke.selector, topicId, buyer, SUBSCRIBE);
        vm.expectRevert(refusal);
        vm.prank(topicOwner);
        market.revoke(topicId, buyer, SUBSCRIBE, PURPOSE, "");
        grantFree(buyer, SUBSCRIBE, END);
        vm.warp(END);
        vm.expectRevert(refusal);
        vm.prank(topicOwner);
        market.revoke(topicId, buyer, SUBSCRIBE, PURPOSE, "");
    }

    function test_RevokedWalletBuysAgain() public {
        buy(3);
        revokeFrom(buyer, SUBSCRIBE);
        assertEq(buy(1), START + PERIOD);
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_RevokePaid() public {
        buy(4);
        vm.warp(START + 1 days);
        assertEq(refund(), 3 * PRICE);
        uint256 before = buyer.balance;
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessRevoked(
            brokerId, topicId, buyer, SUBSCRIBE, 1, START + 4 days, 3 * PRICE, topicOwner, PURPOSE, ""
        );
        vm.prank(topicOwner);
        market.revoke{value: 3 * PRICE}(topicId, buyer, SUBSCRIBE, PURPOSE, "");
        assertEq(buyer.balance, before + 3 * PRICE);
        assertEq(refund(), 0);
        assertEq(address(market).balance, 0);
    }

    function test_RefundGoesToTheWallet() public {
        buyAs(stranger, buyer, SUBSCRIBE, 2);
        uint256 payerHad = stranger.balance;
        uint256 walletHad = buyer.balance;
        revokeFrom(buyer, SUBSCRIBE);
        assertEq(buyer.balance, walletHad + 2 * PRICE);
        assertEq(stranger.balance, payerHad);
    }

    function test_RefundExcessComesBack() public {
        buy(2);
        uint256 before = topicOwner.balance;
        vm.prank(topicOwner);
        market.revoke{value: 1 ether}(topicId, buyer, SUBSCRIBE, PURPOSE, "");
        assertEq(topicOwner.balance, before - 2 * PRICE);
        assertEq(address(market).balance, 0);
    }

    function test_RevertWhen_RefundTooSmall() public {
        buy(2);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.RefundTooSmall.selector, 2 * PRICE - 1, 2 * PRICE));
        vm.prank(topicOwner);
        market.revoke{value: 2 * PRICE - 1}(topicId, buyer, SUBSCRIBE, PURPOSE, "");
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_RefundBeforeWindowBegins() public {
        grantFree(buyer, SUBSCRIBE, END);
        buy(2);
        assertEq(refund(), 2 * PRICE);
        vm.warp(END);
        assertEq(refund(), 2 * PRICE);
        vm.warp(END + 1 days);
        assertEq(refund(), PRICE);
    }

    function test_RefundInLastSecond() public {
        setOffer(SUBSCRIBE, priced(86_400 * 7));
        uint64 until = buy(1);
        vm.warp(until - 1);
        assertEq(refund(), 7);
        vm.warp(until);
        assertEq(refund(), 0);
    }

    function test_NoRefundOfGrantedTime() public {
        uint64 until = buy(1);
        grantFree(buyer, SUBSCRIBE, END);
        vm.warp(until - 1 days / 2);
        assertEq(refund(), PRICE / 2, "the paid window is where it was");
        vm.warp(until);
        assertEq(refund(), 0);
        revokeFrom(buyer, SUBSCRIBE);
    }

    function test_GrantedTimeBetweenWindows() public {
        uint64 until = buy(1);
        grantFree(buyer, SUBSCRIBE, until + 4 days);
        buy(1);
        assertEq(refund(), 2 * PRICE);
        vm.warp(until);
        assertEq(refund(), PRICE);
        vm.warp(until + 4 days);
        assertEq(refund(), PRICE, "the four days in between are nobody's");
        vm.warp(until + 4 days + 6 hours);
        assertEq(refund(), uint256(PRICE) * 3 / 4);
    }

    function test_EachPriceIsRefundedForItsOwnTime() public {
        buy(2);
        vm.warp(START + 1 days);
        setOffer(SUBSCRIBE, priced(3 * PRICE));
        buy(2);
        assertEq(refund(), 7 * PRICE, "one day at 1 and two at 3");
        vm.warp(START + 2 days);
        assertEq(refund(), 6 * PRICE);
        vm.warp(START + 3 days);
        assertEq(refund(), 3 * PRICE);
        vm.warp(START + 4 days - 1);
        assertEq(refund(), uint256(3 * PRICE) / 1 days);
        revokeFrom(buyer, SUBSCRIBE);
        assertEq(refund(), 0);
        assertEq(address(market).balance, 0);
    }

    /// @dev Time that was used stays paid, however cheap the time is that is bought after a cut in price.
    function test_CheapTimeDoesNotStretchDearTime() public {
        buy(30);
        setOffer(SUBSCRIBE, priced(1));
        buy(3000);
        vm.warp(START + 30 days);
        assertEq(refund(), 3000);
    }

    function test_SamePriceMakesOneWindow() public {
        uint64 until = buy(1);
        for (uint256 i = 1; i <= 20; ++i) {
            vm.warp(START + i * 1 hours);
            until = buy(1);
        }
        assertEq(until, START + 21 days);
        assertEq(refund(), uint256(21 * PRICE) * (21 * 24 - 20) / (21 * 24));
        setOffer(SUBSCRIBE, priced(2 * PRICE));
        uint256 before = refund();
        buy(1);
        setOffer(SUBSCRIBE, priced(PRICE));
        buy(1);
        assertEq(refund(), before + 3 * PRICE);
        vm.warp(START + 21 days);
        assertEq(refund(), 3 * PRICE, "no average was taken on the way");
    }

    function test_NinthPriceMergesWithTheEighth() public {
        for (uint128 i = 1; i <= 9; ++i) {
            setOffer(SUBSCRIBE, priced(i * 86_400));
            buy(1);
        }
        assertEq(refund(), 45 * 86_400);
        vm.warp(START + 7 days);
        assertEq(refund(), 17 * 86_400);
        vm.warp(START + 8 days);
        assertEq(refund(), uint256(17 * 86_400) / 2, "the average of the last two");
        buy(1);
        assertEq(refund(), uint256(17 * 86_400) / 2 + 9 * 86_400, "nothing is lost by merging while it runs");
        vm.warp(START + 9 days);
        assertEq(refund(), (uint256(17 * 86_400) / 2 + 9 * 86_400) / 2, "used up evenly from then on");
    }

    function test_PurchaseAfterWindowStartsAnew() public {
        uint64 first = buy(1);
        grantFree(buyer, SUBSCRIBE, first + 1 days);
        vm.warp(first);
        buy(1);
        assertEq(refund(), PRICE, "the old window is used up, the new one begins after the granted time");
        vm.warp(first + 1 days);
        assertEq(refund(), PRICE);
        vm.warp(first + 1 days + 1 days / 2);
        assertEq(refund(), PRICE / 2);
    }

    function test_PublishFeeIsNotRefunded() public {
        setPublishFee(FEE_PER_DAY);
        setOffer(PUBLISH, priced(PRICE));
        buyAs(buyer, buyer, PUBLISH, 2);
        assertEq(market.refundOf(topicId, buyer, PUBLISH), 2 * PRICE);
        setOffer(PUBLISH, priced(0));
        buyAs(buyer, stranger, PUBLISH, 2);
        assertEq(market.refundOf(topicId, stranger, PUBLISH), 0, "whoever runs the broker could else make it costly");
    }

    function test_RefundToRefusingWallet() public {
        RefusingPayee wallet = new RefusingPayee();
        buyAs(buyer, address(wallet), SUBSCRIBE, 2);
        revokeFrom(address(wallet), SUBSCRIBE);
        assertFalse(market.mayAccess(topicId, address(wallet), SUBSCRIBE));
        assertEq(market.creditOf(address(wallet)), 2 * PRICE);
        address elsewhere = makeAddr("elsewhere");
        assertEq(wallet.withdrawFrom(market, elsewhere), 2 * PRICE);
        assertEq(elsewhere.balance, 2 * PRICE);
    }

    function testFuzz_RefundOnlyShrinks(uint88 priceWei, uint32[6] memory times, uint256 what) public {
        reprice(SUBSCRIBE, priced(uint128(bound(priceWei, 1, type(uint72).max))));
        buy(uint32(bound(what, 1, 30)));
        uint256 last = refund();
        for (uint256 i = 0; i < times.length; ++i) {
            // What the owner grants on top, and what time goes by, never raises it.
            uint64 held = market.grantedUntil(topicId, buyer, SUBSCRIBE);
            if ((what >> i) & 1 == 1 && held > block.timestamp) {
                grantFree(buyer, SUBSCRIBE, held + 1 + times[i] % 9 days);
            }
            assertLe(refund(), last);
            vm.warp(block.timestamp + times[i] % 5 days);
            assertLe(refund(), last);
            last = refund();
        }
    }

    function testFuzz_RefundAtMostPaid(uint72[5] memory prices, uint32[5] memory periods, uint32[5] memory pauses)
        public
    {
        uint256 paid;
        for (uint256 i = 0; i < prices.length; ++i) {
            ITopicRegistry.Offer memory offer = priced(uint128(prices[i]) + 1);
            offer.period = uint32(bound(periods[i], 1, 3650 days));
            reprice(PUBLISH, offer);
            IAccessMarket.Order memory wanted = order(PUBLISH, 2);
            wanted.period = offer.period;
            uint256 before = market.refundOf(topicId, buyer, PUBLISH);
            vm.prank(buyer);
            market.buy{value: 2 * uint256(offer.priceWei)}(wanted);
            paid += 2 * uint256(offer.priceWei);
            assertEq(market.refundOf(topicId, buyer, PUBLISH), before + 2 * uint256(offer.priceWei), "nothing used yet");
            vm.warp(block.timestamp + pauses[i]);
            assertLe(market.refundOf(topicId, buyer, PUBLISH), paid);
        }
        if (market.mayAccess(topicId, buyer, PUBLISH)) revokeFrom(buyer, PUBLISH);
        assertEq(address(market).balance, 0);
    }
}
