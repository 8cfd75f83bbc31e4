// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {BatchFixture} from "./BatchFixture.sol";
import {MeddlingPayee} from "./BatchPayees.sol";
import {RefusingPayee} from "./Payees.sol";

contract BlockTest is BatchFixture {
    uint64 private constant END = BEGIN + 10 days;

    /// @dev A wallet that has bought both rights, and what ending them now costs.
    function bought(address wallet, uint32 publishPeriods, uint32 subscribePeriods) private returns (uint256) {
        IAccessMarket.Order[] memory orders = new IAccessMarket.Order[](2);
        orders[0] = orderOf(topicId, PUBLISH, wallet, publishPeriods);
        orders[1] = orderOf(topicId, SUBSCRIBE, wallet, subscribePeriods);
        buyAll(orders, costOf(orders));
        return priceOf(orders[0]) + priceOf(orders[1]);
    }

    function blockWith(uint256 valueWei, address wallet) private {
        vm.prank(topicOwner);
        market.blockWallet{value: valueWei}(topicId, wallet, PURPOSE, "leaked");
    }

    // block

    function test_BlockAndUnblock() public {
        grantFree(buyer, SUBSCRIBE, END);
        vm.expectEmit(address(market));
        emit IAccessMarket.WalletBlocked(brokerId, topicId, buyer, topicOwner, PURPOSE, "leaked");
        blockWith(0, buyer);
        assertTrue(market.isBlocked(topicId, buyer));
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), END, "the grant keeps running");
        vm.expectEmit(address(market));
        emit IAccessMarket.WalletUnblocked(brokerId, topicId, buyer, topicOwner);
        vm.prank(topicOwner);
        market.unblockWallet(topicId, buyer);
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_ManagerBlocks() public {
        vm.startPrank(manager);
        market.blockWallet(topicId, buyer, PURPOSE, "");
        market.unblockWallet(topicId, buyer);
    }

    function test_BlockedOnPublicOffer() public {
        setOffer(SUBSCRIBE, open());
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
        blockBuyer();
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_BlockedWalletCannotClaim() public {
        setOffer(SUBSCRIBE, priced(0));
        blockBuyer();
        refuseToSell(abi.encodeWithSelector(IAccessMarket.WalletIsBlocked.selector, topicId, buyer), 1);
    }

    function test_BlockHoldsForBothRights() public {
        reprice(PUBLISH, priced(0));
        reprice(SUBSCRIBE, priced(0));
        blockBuyer();
        ITopicRegistry.Right[2] memory rights = [PUBLISH, SUBSCRIBE];
        for (uint256 r = 0; r < rights.length; ++r) {
            IAccessMarket.Order memory wanted = orderOf(topicId, rights[r], buyer, 1);
            vm.expectRevert(abi.encodeWithSelector(IAccessMarket.WalletIsBlocked.selector, topicId, buyer));
            market.buy(wanted);
            reprice(rights[r], open());
            assertFalse(market.mayAccess(topicId, buyer, rights[r]));
        }
        vm.prank(topicOwner);
        market.unblockWallet(topicId, buyer);
        for (uint256 r = 0; r < rights.length; ++r) {
            assertTrue(market.mayAccess(topicId, buyer, rights[r]));
        }
    }

    function test_BlockOutlivesWhatTheGrantComesTo() public {
        uint64 until = buy(1);
        vm.warp(until);
        blockBuyer();
        market.settle(topicId, buyer, SUBSCRIBE);
        assertTrue(isBlockedFor(SUBSCRIBE), "settled");
        grantFree(buyer, SUBSCRIBE, until + 1 days);
        assertTrue(isBlockedFor(SUBSCRIBE), "granted anew");
        revokeFrom(buyer, SUBSCRIBE);
        assertTrue(isBlockedFor(SUBSCRIBE), "revoked");
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    /// @dev Would a sale be refused for it?
    function isBlockedFor(ITopicRegistry.Right right) private returns (bool) {
        IAccessMarket.Order memory wanted = orderOf(topicId, right, buyer, 1);
        (bool success, bytes memory answer) = address(market).call(abi.encodeCall(market.buy, (wanted)));
        return !success && bytes4(answer) == IAccessMarket.WalletIsBlocked.selector;
    }

    function test_RevertWhen_BlockingTheOwner() public {
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.CannotBlockOwner.selector, topicId, topicOwner);
        vm.expectRevert(refusal);
        vm.prank(topicOwner);
        market.blockWallet(topicId, topicOwner, PURPOSE, "");
        vm.expectRevert(refusal);
        vm.prank(manager);
        market.blockWallet(topicId, topicOwner, PURPOSE, "");
    }

    function test_BlockedCandidateBecomesOwner() public {
        blockBuyer();
        vm.prank(topicOwner);
        topics.offerTopicOwnership(topicId, buyer);
        vm.prank(buyer);
        topics.acceptTopicOwnership(topicId);
        assertTrue(market.mayAccess(topicId, buyer, PUBLISH));
        vm.prank(buyer);
        market.unblockWallet(topicId, buyer);
    }

    function test_RevertWhen_BlockChangesNothing() public {
        vm.startPrank(topicOwner);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.NotBlocked.selector, topicId, buyer));
        market.unblockWallet(topicId, buyer);
        vm.expectRevert(IAccessMarket.ZeroAddress.selector);
        market.blockWallet(topicId, address(0), PURPOSE, "");
        market.blockWallet(topicId, buyer, PURPOSE, "");
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.AlreadyBlocked.selector, topicId, buyer));
        market.blockWallet(topicId, buyer, PURPOSE, "");
    }

    function test_BlockOnOneTopic() public {
        bytes32 other = register(topicOwner, "mill", closed(), open());
        blockBuyer();
        assertTrue(market.mayAccess(other, buyer, SUBSCRIBE));
    }

    // What was paid for

    function test_BlockRefundsBothRights() public {
        bought(buyer, 4, 2);
        vm.warp(BEGIN + 1 days);
        uint256 walletHad = buyer.balance;
        uint256 ownerHad = topicOwner.balance;
        vm.expectEmit(address(market));
        emit IAccessMarket.WalletBlocked(brokerId, topicId, buyer, topicOwner, PURPOSE, "leaked");
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessRevoked(
            brokerId, topicId, buyer, PUBLISH, 1, BEGIN + 4 days, 3 * PRICE, topicOwner, PURPOSE, "leaked"
        );
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessRevoked(
            brokerId, topicId, buyer, SUBSCRIBE, 1, BEGIN + 2 days, PRICE, topicOwner, PURPOSE, "leaked"
        );
        blockWith(4 * PRICE, buyer);
        assertEq(buyer.balance, walletHad + 4 * PRICE);
        assertEq(topicOwner.balance, ownerHad - 4 * PRICE);
        assertEq(market.grantedUntil(topicId, buyer, PUBLISH), BEGIN + 1 days);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), BEGIN + 1 days);
        assertEq(market.refundOf(topicId, buyer, PUBLISH) + market.refundOf(topicId, buyer, SUBSCRIBE), 0);
        assertEq(market.paidUntil(topicId), 0);
        assertEq(address(market).balance, market.creditOf(brokerOwner));
    }

    function test_BlockExcessComesBack() public {
        uint256 refundWei = bought(buyer, 1, 1);
        uint256 ownerHad = topicOwner.balance;
        blockWith(refundWei + 1 ether, buyer);
        assertEq(topicOwner.balance, ownerHad - refundWei);
        assertEq(address(market).balance, market.creditOf(brokerOwner));
        blockWith(1 ether, stranger);
        assertEq(topicOwner.balance, ownerHad - refundWei, "nothing paid, all of it comes back");
    }

    /// @dev Whoever is to be blocked can buy just before: what was sent with room to spare still blocks, and comes back.
    function test_PurchaseJustBeforeTheBlock() public {
        uint256 refundWei = bought(buyer, 1, 1);
        buy(1);
        bytes memory refusal =
            abi.encodeWithSelector(IAccessMarket.RefundTooSmall.selector, refundWei, refundWei + PRICE);
        vm.expectRevert(refusal);
        blockWith(refundWei, buyer);
        uint256 ownerHad = topicOwner.balance;
        blockWith(10 * refundWei, buyer);
        assertEq(topicOwner.balance, ownerHad - refundWei - PRICE);
    }

    function test_RevertWhen_BlockRefundTooSmall() public {
        uint256 refundWei = bought(buyer, 3, 2);
        uint256[3] memory sent = [uint256(0), 3 * PRICE, refundWei - 1];
        for (uint256 i = 0; i < sent.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IAccessMarket.RefundTooSmall.selector, sent[i], refundWei));
            blockWith(sent[i], buyer);
        }
        assertFalse(market.isBlocked(topicId, buyer));
        assertTrue(market.mayAccess(topicId, buyer, PUBLISH));
        blockWith(refundWei, buyer);
    }

    function test_BlockKeepsGivenRight() public {
        grantFree(buyer, SUBSCRIBE, END);
        IAccessMarket.Order memory wanted = orderOf(topicId, PUBLISH, buyer, 1);
        uint256 costWei = costOf(wanted);
        vm.prank(buyer);
        market.buy{value: costWei}(wanted);
        blockWith(PRICE, buyer);
        assertEq(market.grantedUntil(topicId, buyer, PUBLISH), BEGIN);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), END);
    }

    /// @dev A right ends as a whole: {IAccessMarket-revoke} knows no part of one.
    function test_BlockEndsGivenTimeOfAPaidRight() public {
        grantFree(buyer, SUBSCRIBE, END);
        buy(1);
        grantFree(buyer, SUBSCRIBE, END + 5 days);
        blockWith(PRICE, buyer);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), BEGIN);
    }

    function test_BlockKeepsPaidTimeThatIsUsedUp() public {
        uint64 paidTo = buy(1);
        grantFree(buyer, SUBSCRIBE, END);
        vm.warp(paidTo);
        blockWith(0, buyer);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), END);
    }

    function test_BlockWhenWhatIsLeftIsLessThanAWei() public {
        setOffer(SUBSCRIBE, priced(1));
        uint64 until = buy(1);
        vm.warp(BEGIN + 1);
        assertEq(market.refundOf(topicId, buyer, SUBSCRIBE), 0);
        blockWith(0, buyer);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), until, "nothing to pay back, so nothing ends");
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
        assertEq(market.paidUntil(topicId), until);
        revokeFrom(buyer, SUBSCRIBE);
        assertEq(market.paidUntil(topicId), 0);
    }

    function test_UnblockBringsNothingBack() public {
        uint256 refundWei = bought(buyer, 1, 1);
        blockWith(refundWei, buyer);
        vm.prank(topicOwner);
        market.unblockWallet(topicId, buyer);
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE));
        assertEq(buy(1), BEGIN + 1 days, "it may buy again");
    }

    function test_BlockedRefusingWalletIsCredited() public {
        RefusingPayee wallet = new RefusingPayee();
        uint256 refundWei = bought(address(wallet), 2, 2);
        vm.expectEmit(address(market));
        emit IAccessMarket.Credited(address(wallet), refundWei);
        blockWith(refundWei, address(wallet));
        assertTrue(market.isBlocked(topicId, address(wallet)));
        assertEq(wallet.withdrawFrom(market, stranger), refundWei);
    }

    function test_BlockedWalletGainsNothingByComingBack() public {
        for (uint256 i = 0; i < 8; ++i) {
            uint256 snapshot = vm.snapshotState();
            MeddlingPayee wallet = new MeddlingPayee(address(market), meddlings(topicId, buyer)[i], i < 2);
            vm.prank(topicOwner);
            topics.setManager(topicId, address(wallet), true);
            uint256 refundWei = bought(address(wallet), 2, 2);
            blockWith(refundWei, address(wallet));
            assertRefused(wallet, i);
            assertEq(address(wallet).balance, refundWei);
            vm.revertToState(snapshot);
        }
    }

    function test_DeleteAfterBlocking() public {
        uint256 refundWei = bought(buyer, 30, 30);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.PaidGrantsRunning.selector, topicId, BEGIN + 30 days));
        vm.prank(topicOwner);
        topics.deleteTopic(topicId);
        blockWith(refundWei, buyer);
        vm.prank(topicOwner);
        topics.deleteTopic(topicId);
    }

    function testFuzz_BlockRefund(uint72[2] memory prices, uint32[2] memory periods, uint32 pause) public {
        vm.deal(buyer, 1e30);
        vm.deal(topicOwner, 1e30);
        reprice(PUBLISH, priced(uint128(prices[0])));
        reprice(SUBSCRIBE, priced(uint128(prices[1])));
        uint32[2] memory count = [uint32(bound(periods[0], 1, 1000)), uint32(bound(periods[1], 1, 1000))];
        IAccessMarket.Order[] memory orders = new IAccessMarket.Order[](2);
        orders[0] = orderOf(topicId, PUBLISH, buyer, count[0]);
        orders[1] = orderOf(topicId, SUBSCRIBE, buyer, count[1]);
        buyAll(orders, costOf(orders));
        vm.warp(BEGIN + pause % 1001 days);
        uint256 refundWei;
        for (uint256 i = 0; i < 2; ++i) {
            uint256 until = BEGIN + uint256(count[i]) * 1 days;
            if (block.timestamp >= until) continue;
            refundWei += uint256(prices[i]) * count[i] * (until - block.timestamp) / (until - BEGIN);
        }
        uint256 walletHad = buyer.balance;
        if (refundWei > 0) {
            vm.expectRevert(abi.encodeWithSelector(IAccessMarket.RefundTooSmall.selector, refundWei - 1, refundWei));
            blockWith(refundWei - 1, buyer);
        }
        blockWith(refundWei, buyer);
        assertEq(buyer.balance, walletHad + refundWei);
        assertEq(address(market).balance, market.creditOf(brokerOwner));
    }
}
