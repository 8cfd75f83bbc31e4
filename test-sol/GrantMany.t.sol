// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {BatchFixture} from "./BatchFixture.sol";
import {CountingPayee, MeddlingPayee} from "./BatchPayees.sol";
import {BombPayee, BurningPayee, RefusingPayee} from "./Payees.sol";

contract GrantManyTest is BatchFixture {
    uint64 private constant END = BEGIN + 10 days;

    bytes32 private millTopic;

    /// @dev {manager} manages a topic at each of the two brokers, of two owners, so one batch can be about both.
    function setUp() public override {
        super.setUp();
        vm.prank(otherOwner);
        topics.setManager(otherTopic, manager, true);
        millTopic = topicFor(topicOwner, "saw-mill");
        vm.deal(manager, 1_000_000_000 ether);
    }

    function grantAll(uint256 valueWei, bytes32[] memory ids, address[] memory wallets, ITopicRegistry.Right right)
        private
    {
        vm.prank(manager);
        market.grantMany{value: valueWei}(ids, wallets, right, END, PURPOSE, "fleet");
    }

    function refuseGrants(
        bytes memory refusal,
        uint256 valueWei,
        bytes32[] memory ids,
        address[] memory wallets,
        ITopicRegistry.Right right
    ) private {
        uint256 had = manager.balance;
        vm.expectRevert(refusal);
        grantAll(valueWei, ids, wallets, right);
        assertEq(manager.balance, had);
        assertEq(address(market).balance, 0);
        for (uint256 t = 0; t < ids.length; ++t) {
            for (uint256 w = 0; w < wallets.length; ++w) {
                assertFalse(market.grantedUntil(ids[t], wallets[w], right) == END, "nothing of it happened");
            }
        }
    }

    function revokeAll(uint256 valueWei, bytes32[] memory ids, address[] memory wallets) private {
        vm.prank(manager);
        market.revokeMany{value: valueWei}(ids, wallets, SUBSCRIBE, PURPOSE, "season over");
    }

    function sell(bytes32 id, address wallet, uint32 periods) private {
        IAccessMarket.Order memory wanted = orderOf(id, SUBSCRIBE, wallet, periods);
        uint256 costWei = costOf(wanted);
        vm.prank(buyer);
        market.buy{value: costWei}(wanted);
    }

    function expectGranted(bytes32 id, address wallet, ITopicRegistry.Right right, uint256 feeWei) private {
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessGranted(
            topics.topicBroker(id), id, wallet, right, 1, END, manager, feeWei, PURPOSE, "fleet"
        );
    }

    function expectRevoked(bytes32 id, address wallet, uint64 was, uint256 refundWei) private {
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessRevoked(
            topics.topicBroker(id), id, wallet, SUBSCRIBE, 1, was, refundWei, manager, PURPOSE, "season over"
        );
    }

    function refundsOf(bytes32[] memory ids, address[] memory wallets) private view returns (uint256 sumWei) {
        for (uint256 t = 0; t < ids.length; ++t) {
            for (uint256 w = 0; w < wallets.length; ++w) {
                sumWei += market.refundOf(ids[t], wallets[w], SUBSCRIBE);
            }
        }
    }

    // grantMany

    function test_GrantMany() public {
        bytes32[] memory ids = list(otherTopic, topicId);
        address[] memory wallets = list(buyer, stranger);
        expectGranted(otherTopic, buyer, SUBSCRIBE, 0);
        expectGranted(otherTopic, stranger, SUBSCRIBE, 0);
        expectGranted(topicId, buyer, SUBSCRIBE, 0);
        expectGranted(topicId, stranger, SUBSCRIBE, 0);
        grantAll(0, ids, wallets, SUBSCRIBE);
        for (uint256 t = 0; t < 2; ++t) {
            for (uint256 w = 0; w < 2; ++w) {
                assertEq(market.grantedUntil(ids[t], wallets[w], SUBSCRIBE), END);
                assertEq(market.grantedUntil(ids[t], wallets[w], PUBLISH), 0);
            }
        }
        assertFalse(market.mayAccess(topicId, registrar, SUBSCRIBE));
    }

    function test_GrantManyToBlockedWallet() public {
        blockBuyer();
        banBuyer(END);
        grantAll(0, list(topicId), list(buyer, stranger), SUBSCRIBE);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), END, "recorded");
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE), "and unusable");
    }

    function test_RevertWhen_NothingToGrant() public {
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.EmptyBatch.selector);
        refuseGrants(refusal, 0, new bytes32[](0), list(buyer), SUBSCRIBE);
        refuseGrants(refusal, 1 ether, list(topicId), new address[](0), SUBSCRIBE);
        refuseGrants(refusal, 0, new bytes32[](0), new address[](0), SUBSCRIBE);
    }

    function test_RevertWhen_OneTopicIsAnothers() public {
        bytes32 foreign = register(otherOwner, "foreign");
        bytes memory refusal = abi.encodeWithSelector(ITopicRegistry.NotTopicOwnerOrManager.selector, foreign, manager);
        refuseGrants(refusal, 0, list(topicId, foreign), list(buyer), SUBSCRIBE);
        refuseGrants(refusal, 0, list(foreign, topicId), list(buyer), SUBSCRIBE);
        refusal = abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32("none"));
        refuseGrants(refusal, 0, list(topicId, "none"), list(buyer), SUBSCRIBE);
    }

    function test_RevertWhen_GrantingTwiceInABatch() public {
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.EndNotLater.selector, END, END);
        refuseGrants(refusal, 0, list(topicId), list(buyer, stranger, buyer), SUBSCRIBE);
        refuseGrants(refusal, 0, list(topicId, topicId), list(buyer), SUBSCRIBE);
    }

    function test_RevertWhen_OneWalletIsBad() public {
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.ZeroAddress.selector);
        refuseGrants(refusal, 0, list(topicId), list(buyer, address(0), stranger), SUBSCRIBE);
        grantFree(stranger, SUBSCRIBE, END + 1);
        refusal = abi.encodeWithSelector(IAccessMarket.EndNotLater.selector, END, END + 1);
        refuseGrants(refusal, 0, list(topicId), list(buyer, stranger), SUBSCRIBE);
    }

    function test_RevertWhen_EndOfBatchIsBad() public {
        vm.startPrank(manager);
        uint64 latest = uint64(BEGIN + YEARS_100);
        bytes32[] memory ids = list(topicId);
        address[] memory wallets = list(buyer);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.EndTooFar.selector, latest + 1, latest));
        market.grantMany(ids, wallets, SUBSCRIBE, latest + 1, PURPOSE, "");
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.EndNotLater.selector, BEGIN, 0));
        market.grantMany(ids, wallets, SUBSCRIBE, BEGIN, PURPOSE, "");
        market.grantMany(ids, wallets, SUBSCRIBE, BEGIN + 1, PURPOSE, "");
        market.grantMany(ids, wallets, SUBSCRIBE, latest, PURPOSE, "");
    }

    function test_RevertWhen_TextOfBatchIsBad() public {
        bytes32 bad = bytes32(bytes1(0x07));
        bytes32[] memory ids = list(topicId);
        address[] memory wallets = list(buyer);
        vm.startPrank(manager);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.InvalidPurpose.selector, bad));
        market.grantMany(ids, wallets, SUBSCRIBE, END, bad, "");
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.TextTooLong.selector, 257, 256));
        market.grantMany(ids, wallets, SUBSCRIBE, END, PURPOSE, text(257));
        market.grantMany(ids, wallets, SUBSCRIBE, END, PURPOSE, text(256));
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.InvalidPurpose.selector, bad));
        market.revokeMany(ids, wallets, SUBSCRIBE, bad, "");
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.TextTooLong.selector, 257, 256));
        market.revokeMany(ids, wallets, SUBSCRIBE, PURPOSE, text(257));
        market.revokeMany(ids, wallets, SUBSCRIBE, PURPOSE, text(256));
    }

    // The publish fee

    function test_FeesOfABatch() public {
        uint256 feeWei = 10 * uint256(FEE_PER_DAY);
        uint256 otherFeeWei = 10 * uint256(OTHER_FEE_PER_DAY);
        uint256 sumWei = 2 * (feeWei + otherFeeWei);
        bytes32[] memory ids = list(topicId, otherTopic);
        address[] memory wallets = list(buyer, stranger);
        refuseGrants(abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, 0, sumWei), 0, ids, wallets, PUBLISH);
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, sumWei - 1, sumWei);
        refuseGrants(refusal, sumWei - 1, ids, wallets, PUBLISH);

        uint256 had = manager.balance;
        expectGranted(topicId, buyer, PUBLISH, feeWei);
        expectGranted(topicId, stranger, PUBLISH, feeWei);
        expectGranted(otherTopic, buyer, PUBLISH, otherFeeWei);
        expectGranted(otherTopic, stranger, PUBLISH, otherFeeWei);
        grantAll(sumWei + 1 ether, ids, wallets, PUBLISH);
        assertEq(manager.balance, had - sumWei, "what was too much is back");
        assertEq(market.creditOf(brokerOwner), 2 * feeWei);
        assertEq(market.creditOf(otherBrokerOwner), 2 * otherFeeWei);
        assertEq(address(market).balance, sumWei);
    }

    function test_BatchOfSubscribersCostsNothing() public {
        uint256 had = manager.balance;
        grantAll(1 ether, list(topicId, otherTopic), list(buyer, stranger), SUBSCRIBE);
        assertEq(manager.balance, had);
        assertEq(address(market).balance, 0);
    }

    function test_ChangeOfABatchIsCreditedIfRefused() public {
        RefusingPayee payee = new RefusingPayee();
        vm.prank(topicOwner);
        topics.setManager(topicId, address(payee), true);
        vm.deal(address(payee), 1 ether);
        vm.expectEmit(address(market));
        emit IAccessMarket.Credited(address(payee), 1 ether);
        vm.prank(address(payee));
        market.grantMany{value: 1 ether}(list(topicId), list(buyer), SUBSCRIBE, END, PURPOSE, "");
    }

    function testFuzz_FeesOfABatch(uint96[2] memory fees, uint64[3] memory held, uint64 until) public {
        fees = [uint96(bound(fees[0], 1, 1 ether)), uint96(bound(fees[1], 1, 1 ether))];
        vm.prank(brokerOwner);
        brokers.setPublishFee(brokerId, fees[0] == FEE_PER_DAY ? 1 : fees[0]);
        vm.prank(otherBrokerOwner);
        brokers.setPublishFee(otherBroker, fees[1] == OTHER_FEE_PER_DAY ? 1 : fees[1]);
        vm.warp(BEGIN + 1 days);
        until = uint64(bound(until, block.timestamp + 1 days, block.timestamp + YEARS_100));
        address[] memory wallets = list(buyer, stranger, registrar);
        bytes32[] memory ids = list(topicId, otherTopic);
        for (uint256 w = 0; w < wallets.length; ++w) {
            uint64 end = uint64(bound(held[w], block.timestamp + 1, until - 1));
            vm.prank(manager);
            market.grant{value: 1000 ether * 36_500}(ids[w % 2], wallets[w], PUBLISH, end, PURPOSE, "");
        }
        uint256[2] memory feesWei;
        for (uint256 t = 0; t < 2; ++t) {
            for (uint256 w = 0; w < wallets.length; ++w) {
                feesWei[t] += market.grantFee(ids[t], wallets[w], PUBLISH, until);
            }
        }
        uint256[2] memory before = [market.creditOf(brokerOwner), market.creditOf(otherBrokerOwner)];
        uint256 sumWei = feesWei[0] + feesWei[1];
        vm.startPrank(manager);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, sumWei - 1, sumWei));
        market.grantMany{value: sumWei - 1}(ids, wallets, PUBLISH, until, PURPOSE, "");
        market.grantMany{value: sumWei}(ids, wallets, PUBLISH, until, PURPOSE, "");
        assertEq(market.creditOf(brokerOwner) - before[0], feesWei[0]);
        assertEq(market.creditOf(otherBrokerOwner) - before[1], feesWei[1]);
        assertEq(address(market).balance, market.creditOf(brokerOwner) + market.creditOf(otherBrokerOwner));
    }

    // revokeMany

    function test_RevokeMany() public {
        bytes32[] memory ids = list(topicId, otherTopic);
        address[] memory wallets = list(buyer, stranger);
        sell(topicId, buyer, 4);
        sell(otherTopic, stranger, 2);
        vm.startPrank(manager);
        market.grant(topicId, stranger, SUBSCRIBE, END, PURPOSE, "");
        market.grant(otherTopic, buyer, SUBSCRIBE, END, PURPOSE, "");
        vm.stopPrank();
        vm.warp(BEGIN + 1 days);
        uint256[2] memory had = [buyer.balance, stranger.balance];
        uint256 managerHad = manager.balance;
        uint256 sumWei = 3 * PRICE + OTHER_PRICE;
        expectRevoked(topicId, buyer, BEGIN + 4 days, 3 * PRICE);
        expectRevoked(topicId, stranger, END, 0);
        expectRevoked(otherTopic, buyer, END, 0);
        expectRevoked(otherTopic, stranger, BEGIN + 2 days, OTHER_PRICE);
        revokeAll(sumWei + 1 ether, ids, wallets);
        assertEq(buyer.balance - had[0], 3 * PRICE);
        assertEq(stranger.balance - had[1], OTHER_PRICE);
        assertEq(manager.balance, managerHad - sumWei, "what was too much is back");
        for (uint256 t = 0; t < 2; ++t) {
            for (uint256 w = 0; w < 2; ++w) {
                assertEq(market.grantedUntil(ids[t], wallets[w], SUBSCRIBE), BEGIN + 1 days);
            }
            assertEq(market.paidUntil(ids[t]), 0);
        }
        assertEq(address(market).balance, market.creditOf(brokerOwner) + market.creditOf(otherBrokerOwner));
    }

    function test_RevertWhen_RefundsTooSmall() public {
        sell(topicId, buyer, 2);
        sell(topicId, stranger, 3);
        uint256[3] memory sent = [uint256(0), 2 * PRICE, 5 * PRICE - 1];
        for (uint256 i = 0; i < sent.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IAccessMarket.RefundTooSmall.selector, sent[i], 5 * PRICE));
            revokeAll(sent[i], list(topicId), list(buyer, stranger));
        }
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
        revokeAll(5 * PRICE, list(topicId), list(buyer, stranger));
    }

    function test_RevertWhen_NothingToRevokeInABatch() public {
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.EmptyBatch.selector);
        vm.expectRevert(refusal);
        revokeAll(0, new bytes32[](0), list(buyer));
        vm.expectRevert(refusal);
        revokeAll(0, list(topicId), new address[](0));

        sell(topicId, buyer, 1);
        refusal = abi.encodeWithSelector(IAccessMarket.NothingToRevoke.selector, topicId, stranger, SUBSCRIBE);
        vm.expectRevert(refusal);
        revokeAll(1 ether, list(topicId), list(buyer, stranger));
        vm.expectRevert(refusal);
        revokeAll(1 ether, list(topicId), list(stranger, buyer));
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_RevertWhen_RevokingTwiceInABatch() public {
        sell(topicId, buyer, 1);
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.NothingToRevoke.selector, topicId, buyer, SUBSCRIBE);
        vm.expectRevert(refusal);
        revokeAll(2 * PRICE, list(topicId), list(buyer, buyer));
        vm.expectRevert(refusal);
        revokeAll(2 * PRICE, list(topicId, topicId), list(buyer));
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_RevertWhen_RevokingOnAnothersTopic() public {
        bytes32 foreign = register(otherOwner, "foreign", closed(), priced(PRICE));
        sell(topicId, buyer, 1);
        sell(foreign, buyer, 1);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicOwnerOrManager.selector, foreign, manager));
        revokeAll(2 * PRICE, list(topicId, foreign), list(buyer));
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32("none")));
        revokeAll(2 * PRICE, list(topicId, "none"), list(buyer));
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_EachWalletIsRefundedOnce() public {
        CountingPayee wallet = new CountingPayee();
        bytes32[] memory ids = new bytes32[](3);
        (ids[0], ids[1], ids[2]) = (topicId, otherTopic, millTopic);
        for (uint256 t = 0; t < ids.length; ++t) {
            sell(ids[t], address(wallet), 2);
            sell(ids[t], stranger, 1);
        }
        uint256 sumWei = 6 * PRICE + 3 * uint256(OTHER_PRICE);
        revokeAll(sumWei, ids, list(address(wallet), stranger));
        assertEq(wallet.times(), 1);
        assertEq(address(wallet).balance, 4 * PRICE + 2 * OTHER_PRICE);
    }

    function test_BadWalletsInTheMiddle() public {
        address[] memory wallets =
            list(address(new RefusingPayee()), address(new BurningPayee()), address(new BombPayee()));
        address[] memory all = new address[](5);
        (all[0], all[1], all[2], all[3], all[4]) = (buyer, wallets[0], wallets[1], wallets[2], stranger);
        for (uint256 w = 0; w < all.length; ++w) {
            sell(topicId, all[w], 2);
        }
        uint256[2] memory had = [buyer.balance, stranger.balance];
        for (uint256 w = 0; w < wallets.length; ++w) {
            vm.expectEmit(address(market));
            emit IAccessMarket.Credited(wallets[w], 2 * PRICE);
        }
        revokeAll(10 * PRICE, list(topicId), all);
        assertEq(buyer.balance - had[0], 2 * PRICE);
        assertEq(stranger.balance - had[1], 2 * PRICE);
        for (uint256 w = 0; w < wallets.length; ++w) {
            assertEq(market.creditOf(wallets[w]), 2 * PRICE);
            assertFalse(market.mayAccess(topicId, wallets[w], SUBSCRIBE));
        }
        assertEq(address(market).balance, 6 * PRICE + market.creditOf(brokerOwner));
    }

    function test_MeddlingWalletInTheMiddle() public {
        for (uint256 i = 0; i < 8; ++i) {
            uint256 snapshot = vm.snapshotState();
            MeddlingPayee wallet = new MeddlingPayee(address(market), meddlings(topicId, stranger)[i], i < 2);
            vm.prank(topicOwner);
            topics.setManager(topicId, address(wallet), true);
            address[] memory wallets = list(buyer, address(wallet), stranger);
            for (uint256 w = 0; w < wallets.length; ++w) {
                sell(topicId, wallets[w], 2);
            }
            uint256 strangerHad = stranger.balance;
            revokeAll(6 * PRICE, list(topicId), wallets);
            assertRefused(wallet, i);
            assertEq(address(wallet).balance, 2 * PRICE);
            assertEq(stranger.balance - strangerHad, 2 * PRICE);
            assertEq(address(market).balance, market.creditOf(brokerOwner));
            vm.revertToState(snapshot);
        }
    }

    function testFuzz_RefundsOfABatch(uint32[6] memory periods, uint32 pause) public {
        bytes32[] memory ids = list(topicId, otherTopic);
        address[] memory wallets = list(buyer, stranger, registrar);
        uint32 shortest = type(uint32).max;
        for (uint256 i = 0; i < periods.length; ++i) {
            uint32 count = uint32(bound(periods[i], 1, 500));
            if (count < shortest) shortest = count;
            sell(ids[i % 2], wallets[i / 2], count);
        }
        vm.warp(BEGIN + pause % (uint256(shortest) * 1 days));
        uint256 sumWei = refundsOf(ids, wallets);
        uint256[3] memory due;
        uint256[3] memory had;
        for (uint256 w = 0; w < wallets.length; ++w) {
            due[w] = refundsOf(ids, list(wallets[w]));
            had[w] = wallets[w].balance;
        }
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.RefundTooSmall.selector, sumWei - 1, sumWei));
        revokeAll(sumWei - 1, ids, wallets);
        revokeAll(sumWei, ids, wallets);
        for (uint256 w = 0; w < wallets.length; ++w) {
            assertEq(wallets[w].balance - had[w], due[w]);
        }
        assertEq(refundsOf(ids, wallets), 0);
        assertEq(address(market).balance, market.creditOf(brokerOwner) + market.creditOf(otherBrokerOwner));
    }
}
