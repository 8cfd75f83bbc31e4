// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {BatchFixture} from "./BatchFixture.sol";
import {CountingPayee, MeddlingPayee, SwitchingPayee} from "./BatchPayees.sol";
import {BombPayee, BurningPayee, RefusingPayee} from "./Payees.sol";

contract PayoutChoiceTest is BatchFixture {
    uint256 private constant SHARE = PRICE - PRICE / 10;

    address private elsewhere = makeAddr("elsewhere");

    function choose(address payee, address to, bool isPull) private {
        vm.prank(payee);
        market.setPayout(to, isPull);
    }

    function assertPayout(address payee, address wantedTo, bool wantedPull) private view {
        (address to, bool isPull) = market.payoutOf(payee);
        assertEq(to, wantedTo);
        assertEq(isPull, wantedPull);
    }

    // setPayout

    function test_PaidElsewhere() public {
        assertPayout(topicOwner, topicOwner, false);
        vm.expectEmit(address(market));
        emit IAccessMarket.PayoutSet(topicOwner, elsewhere, false);
        choose(topicOwner, elsewhere, false);
        assertPayout(topicOwner, elsewhere, false);
        assertPayout(otherOwner, otherOwner, false);
        uint256 had = topicOwner.balance;
        buy(1);
        assertEq(elsewhere.balance, SHARE);
        assertEq(topicOwner.balance, had);
        assertEq(market.creditOf(topicOwner) + market.creditOf(elsewhere), 0);
    }

    function test_Pull() public {
        CountingPayee payee = new CountingPayee();
        bytes32 id = topicFor(address(payee), "a");
        vm.expectEmit(address(market));
        emit IAccessMarket.PayoutSet(address(payee), address(0), true);
        choose(address(payee), address(0), true);
        assertPayout(address(payee), address(payee), true);
        IAccessMarket.Order memory wanted = orderOf(id, SUBSCRIBE, buyer, 1);
        vm.expectEmit(address(market));
        emit IAccessMarket.Credited(address(payee), SHARE);
        vm.prank(buyer);
        market.buy{value: PRICE}(wanted);
        assertEq(payee.times(), 0, "not even tried");
        assertEq(market.creditOf(address(payee)), SHARE);
        assertEq(payee.withdrawFrom(market, elsewhere), SHARE);
        assertEq(elsewhere.balance, SHARE);
    }

    /// @dev An address beside the wish for credits counts for nothing until the wish is withdrawn.
    function test_PullFromElsewhere() public {
        choose(topicOwner, elsewhere, true);
        assertPayout(topicOwner, elsewhere, true);
        buy(1);
        assertEq(market.creditOf(topicOwner), SHARE);
        assertEq(market.creditOf(elsewhere), 0);
        assertEq(elsewhere.balance, 0);
        choose(topicOwner, elsewhere, false);
        buy(1);
        assertEq(elsewhere.balance, SHARE);
    }

    function test_BackToItself() public {
        choose(topicOwner, elsewhere, true);
        buy(1);
        vm.expectEmit(address(market));
        emit IAccessMarket.PayoutSet(topicOwner, address(0), false);
        choose(topicOwner, address(0), false);
        assertPayout(topicOwner, topicOwner, false);
        uint256 had = topicOwner.balance;
        buy(1);
        assertEq(topicOwner.balance - had, SHARE);
        assertEq(market.creditOf(topicOwner), SHARE, "what waited keeps waiting");
        vm.prank(topicOwner);
        market.withdraw(elsewhere);
        assertEq(elsewhere.balance, SHARE);
    }

    function test_RevertWhen_PayoutUnchanged() public {
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.PayoutUnchanged.selector, topicOwner);
        vm.expectRevert(refusal);
        choose(topicOwner, address(0), false);
        choose(topicOwner, elsewhere, false);
        vm.expectRevert(refusal);
        choose(topicOwner, elsewhere, false);
        choose(topicOwner, elsewhere, true);
        vm.expectRevert(refusal);
        choose(topicOwner, elsewhere, true);
        choose(topicOwner, address(0), true);
        choose(topicOwner, address(0), false);
    }

    function testFuzz_PayoutRoundTrip(address payee, address to, bool isPull) public {
        vm.assume(to != address(0) || isPull);
        choose(payee, to, isPull);
        assertPayout(payee, to == address(0) ? payee : to, isPull);
        address other = address(uint160(payee) ^ 1);
        assertPayout(other, other, false);
    }

    // An address that takes no money

    function test_RefusedElsewhereIsCredited() public {
        address[4] memory bad =
            [address(new RefusingPayee()), address(new BurningPayee()), address(new BombPayee()), address(market)];
        for (uint256 i = 0; i < bad.length; ++i) {
            choose(topicOwner, bad[i], false);
            vm.expectEmit(address(market));
            emit IAccessMarket.Credited(topicOwner, SHARE);
            buy(1);
            assertEq(market.creditOf(topicOwner), (i + 1) * SHARE, "the payee's, not the address's");
            assertEq(market.creditOf(bad[i]), 0);
        }
        vm.prank(topicOwner);
        market.withdraw(elsewhere);
        assertEq(elsewhere.balance, 4 * SHARE);
    }

    function test_MeddlingElsewhere() public {
        for (uint256 i = 0; i < 8; ++i) {
            uint256 snapshot = vm.snapshotState();
            MeddlingPayee payout = new MeddlingPayee(address(market), meddlings(topicId, buyer)[i], i < 2);
            vm.prank(topicOwner);
            topics.setManager(topicId, address(payout), true);
            choose(topicOwner, address(payout), false);
            buy(1);
            assertRefused(payout, i);
            assertEq(address(payout).balance, SHARE);
            assertEq(address(market).balance, market.creditOf(brokerOwner));
            vm.revertToState(snapshot);
        }
    }

    function test_SwitchingWhileBeingPaid() public {
        SwitchingPayee payee = new SwitchingPayee(market, elsewhere);
        bytes32 id = topicFor(address(payee), "a");
        IAccessMarket.Order[] memory all = new IAccessMarket.Order[](3);
        all[0] = orderOf(id, SUBSCRIBE, buyer, 1);
        all[1] = orderOf(topicId, SUBSCRIBE, buyer, 1);
        all[2] = orderOf(id, SUBSCRIBE, buyer, 1);
        uint256 ownerHad = topicOwner.balance;
        buyAll(all, 3 * PRICE);
        assertEq(address(payee).balance, 2 * SHARE, "this payment is under way");
        assertEq(topicOwner.balance - ownerHad, SHARE);
        all = new IAccessMarket.Order[](1);
        all[0] = orderOf(id, SUBSCRIBE, buyer, 1);
        buyAll(all, PRICE);
        assertEq(elsewhere.balance, SHARE, "the next goes where it wished");
        assertEq(address(payee).balance, 2 * SHARE);
    }

    // What follows the choice

    function test_RefundFollows() public {
        buy(2);
        choose(buyer, elsewhere, false);
        revokeFrom(buyer, SUBSCRIBE);
        assertEq(elsewhere.balance, 2 * PRICE);
        buy(1);
        choose(buyer, elsewhere, true);
        revokeFrom(buyer, SUBSCRIBE);
        assertEq(market.creditOf(buyer), PRICE);
        buy(3);
        blockBuyer();
        assertEq(market.creditOf(buyer), 4 * PRICE);
    }

    function test_ChangeFollows() public {
        choose(topicOwner, elsewhere, false);
        vm.prank(topicOwner);
        market.grant{value: 1 ether}(topicId, buyer, SUBSCRIBE, BEGIN + 1 days, PURPOSE, "");
        assertEq(elsewhere.balance, 1 ether);
        choose(topicOwner, address(0), true);
        vm.startPrank(topicOwner);
        market.revoke{value: 1 ether}(topicId, buyer, SUBSCRIBE, PURPOSE, "");
        market.blockWallet{value: 1 ether}(topicId, buyer, PURPOSE, "");
        market.grantMany{value: 1 ether}(list(topicId), list(stranger), SUBSCRIBE, BEGIN + 1 days, PURPOSE, "");
        market.revokeMany{value: 1 ether}(list(topicId), list(stranger), SUBSCRIBE, PURPOSE, "");
        assertEq(market.creditOf(topicOwner), 4 ether);
    }

    function test_BatchFollows() public {
        CountingPayee payout = new CountingPayee();
        choose(topicOwner, address(payout), false);
        choose(otherOwner, address(payout), false);
        IAccessMarket.Order[] memory all = new IAccessMarket.Order[](3);
        all[0] = orderOf(topicId, SUBSCRIBE, buyer, 1);
        all[1] = orderOf(otherTopic, SUBSCRIBE, buyer, 1);
        all[2] = orderOf(topicId, SUBSCRIBE, buyer, 1);
        buyAll(all, costOf(all));
        assertEq(payout.times(), 2, "once for each payee");
        uint256 otherShare = OTHER_PRICE - uint256(OTHER_PRICE) * OTHER_SALE_FEE / 10_000;
        assertEq(address(payout).balance, 2 * SHARE + otherShare);
    }

    function test_BrokerFeesAreCreditsInAnyCase() public {
        choose(brokerOwner, elsewhere, false);
        buy(1);
        assertEq(market.creditOf(brokerOwner), PRICE / 10);
        assertEq(elsewhere.balance, 0);
        vm.prank(brokerOwner);
        market.withdraw(stranger);
        assertEq(elsewhere.balance, 0, "and go where they are withdrawn to");
    }

    function test_ChoiceIsThePayeesNotTheTopics() public {
        choose(topicOwner, elsewhere, false);
        vm.prank(topicOwner);
        topics.offerTopicOwnership(topicId, stranger);
        vm.prank(stranger);
        topics.acceptTopicOwnership(topicId);
        uint256 had = stranger.balance;
        buy(1);
        assertEq(stranger.balance - had, SHARE);
        assertEq(elsewhere.balance, 0);
    }
}
