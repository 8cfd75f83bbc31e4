// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {Fixture} from "./Fixture.sol";
import {BombPayee, BurningPayee, ChattyPayee, Payee, ReentrantPayee, RefusingPayee, ThoroughPayee} from "./Payees.sol";

contract PayoutsTest is Fixture {
    /// @dev Gas of a purchase beside what its payee may burn.
    uint256 private constant PURCHASE_GAS = 100_000;
    uint256 private constant PUSH_GAS = 60_000;

    function sellFor(address payee) private {
        vm.prank(topicOwner);
        topics.offerTopicOwnership(topicId, payee);
        vm.prank(payee);
        topics.acceptTopicOwnership(topicId);
    }

    function giveBrokerTo(address payee) private {
        vm.startPrank(brokerOwner);
        brokers.setSaleFee(brokerId, 1000);
        brokers.offerBrokerOwnership(brokerId, payee);
        vm.stopPrank();
        vm.prank(payee);
        brokers.acceptBrokerOwnership(brokerId);
        vm.warp(START + 1 days);
    }

    function gasOfBuying() private returns (uint256) {
        buy(1);
        return vm.lastCallGas().gasTotalUsed;
    }

    // push

    function test_RefusingOwnerIsCredited() public {
        RefusingPayee payee = new RefusingPayee();
        sellFor(address(payee));
        vm.expectEmit(address(market));
        emit IAccessMarket.Credited(address(payee), PRICE);
        buy(1);
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
        assertEq(market.creditOf(address(payee)), PRICE);
        assertEq(address(market).balance, PRICE);
        buy(2);
        assertEq(market.creditOf(address(payee)), 3 * PRICE);
    }

    function test_BurningOwnerCostsBounded() public {
        BurningPayee payee = new BurningPayee();
        sellFor(address(payee));
        assertLt(gasOfBuying(), PURCHASE_GAS + PUSH_GAS + 30_000);
        assertEq(market.creditOf(address(payee)), PRICE);
    }

    function test_BombOwnerCostsBounded() public {
        BombPayee payee = new BombPayee();
        sellFor(address(payee));
        assertLt(gasOfBuying(), PURCHASE_GAS + PUSH_GAS + 30_000);
        assertEq(market.creditOf(address(payee)), PRICE);
    }

    function test_ChattyOwnerIsPaid() public {
        ChattyPayee payee = new ChattyPayee();
        sellFor(address(payee));
        assertLt(gasOfBuying(), PURCHASE_GAS + PUSH_GAS);
        assertEq(address(payee).balance, PRICE);
    }

    function test_ThoroughOwnerIsPaid() public {
        ThoroughPayee payee = new ThoroughPayee();
        sellFor(address(payee));
        buy(1);
        assertEq(address(payee).balance, PRICE);
        assertEq(market.creditOf(address(payee)), 0);
    }

    function test_BrokerOwnerIsCreditedInAnyCase() public {
        ThoroughPayee payee = new ThoroughPayee();
        giveBrokerTo(address(payee));
        uint256 ownerHad = topicOwner.balance;
        buy(1);
        assertEq(address(payee).balance, 0);
        assertEq(market.creditOf(address(payee)), PRICE / 10);
        assertEq(topicOwner.balance, ownerHad + PRICE - PRICE / 10);
    }

    function test_BothRefuse() public {
        RefusingPayee payee = new RefusingPayee();
        BurningPayee burner = new BurningPayee();
        giveBrokerTo(address(burner));
        sellFor(address(payee));
        buy(1);
        assertEq(market.creditOf(address(burner)), PRICE / 10);
        assertEq(market.creditOf(address(payee)), PRICE - PRICE / 10);
        assertEq(address(market).balance, PRICE);
    }

    function test_RevertWhen_GasIsTooLow() public {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        vm.expectPartialRevert(IAccessMarket.GasTooLow.selector);
        vm.prank(buyer);
        market.buy{value: PRICE, gas: 170_000}(wanted);
    }

    /// @dev A wallet that estimates gas looks for the least that succeeds; it must not find a sum that only starves the payee.
    function testFuzz_FrugalBuyerCannotForceCredit(uint256 gasLimit) public {
        gasLimit = bound(gasLimit, 30_000, 400_000);
        ThoroughPayee payee = new ThoroughPayee();
        sellFor(address(payee));
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        vm.prank(buyer);
        try market.buy{value: PRICE, gas: gasLimit}(wanted) {
            assertEq(address(payee).balance, PRICE);
            assertEq(market.creditOf(address(payee)), 0);
        } catch {
            assertLt(gasLimit, 250_000, "enough gas is enough");
            assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), 0);
        }
    }

    // withdraw

    function credited() private returns (RefusingPayee payee) {
        payee = new RefusingPayee();
        sellFor(address(payee));
        buy(2);
    }

    function test_Withdraw() public {
        RefusingPayee payee = credited();
        address elsewhere = makeAddr("elsewhere");
        vm.expectEmit(address(market));
        emit IAccessMarket.Withdrawn(address(payee), elsewhere, 2 * PRICE);
        assertEq(payee.withdrawFrom(market, elsewhere), 2 * PRICE);
        assertEq(elsewhere.balance, 2 * PRICE);
        assertEq(market.creditOf(address(payee)), 0);
        assertEq(address(market).balance, 0);
    }

    function test_WithdrawToThoroughPayee() public {
        RefusingPayee payee = credited();
        ThoroughPayee safe = new ThoroughPayee();
        payee.withdrawFrom(market, address(safe));
        assertEq(address(safe).balance, 2 * PRICE);
    }

    function test_RevertWhen_NoCredit() public {
        RefusingPayee payee = credited();
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.NoCredit.selector, stranger));
        vm.prank(stranger);
        market.withdraw(stranger);
        payee.withdrawFrom(market, stranger);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.NoCredit.selector, address(payee)));
        payee.withdrawFrom(market, stranger);
    }

    function test_RevertWhen_ReceiverRefuses() public {
        RefusingPayee payee = credited();
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.PaymentFailed.selector, address(payee), 2 * PRICE));
        payee.withdrawFrom(market, address(payee));
        assertEq(market.creditOf(address(payee)), 2 * PRICE);
    }

    function test_RevertWhen_WithdrawingToNowhere() public {
        RefusingPayee payee = credited();
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.PaymentFailed.selector, address(0), 0));
        payee.withdrawFrom(market, address(0));
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.PaymentFailed.selector, address(market), 2 * PRICE));
        payee.withdrawFrom(market, address(market));
    }

    function test_BannedPayeeWithdraws() public {
        RefusingPayee payee = credited();
        vm.prank(brokerOwner);
        brokers.ban(brokerId, walletBan(address(payee), START + 1000 days));
        payee.withdrawFrom(market, stranger);
    }

    function test_CreditStaysWithFormerOwner() public {
        RefusingPayee payee = credited();
        vm.prank(address(payee));
        topics.offerTopicOwnership(topicId, stranger);
        vm.prank(stranger);
        topics.acceptTopicOwnership(topicId);
        assertEq(market.creditOf(address(payee)), 2 * PRICE);
        assertEq(market.creditOf(stranger), 0);
        payee.withdrawFrom(market, buyer);
    }

    // A payee that comes back

    function reentrant() private returns (ReentrantPayee payee) {
        payee = new ReentrantPayee(market);
        payee.aim(topicId);
    }

    function test_ReentrantOwnerGainsNothing() public {
        ReentrantPayee payee = reentrant();
        sellFor(address(payee));
        buy(1);
        assertEq(payee.succeeded(), 0);
        assertEq(address(payee).balance + market.creditOf(address(payee)), PRICE);
        assertEq(address(market).balance, market.creditOf(address(payee)));
    }

    function test_ReentrantWalletGainsNothing() public {
        ReentrantPayee payee = reentrant();
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 2);
        wanted.wallet = address(payee);
        vm.prank(buyer);
        market.buy{value: 2 * PRICE}(wanted);
        revokeFrom(address(payee), SUBSCRIBE);
        assertEq(payee.succeeded(), 0);
        assertEq(address(payee).balance + market.creditOf(address(payee)), 2 * PRICE);
        assertEq(market.refundOf(topicId, address(payee), SUBSCRIBE), 0);
    }

    function test_ReentrantWithdrawGainsNothing() public {
        ReentrantPayee payee = reentrant();
        sellFor(address(payee));
        // Made unable to take the push, so that there is something to withdraw, then itself again.
        bytes memory code = address(payee).code;
        vm.etch(address(payee), address(new RefusingPayee()).code);
        buy(3);
        assertEq(market.creditOf(address(payee)), 3 * PRICE);
        vm.etch(address(payee), code);
        vm.deal(address(market), address(market).balance + 1 ether);
        payee.withdrawFrom(market, address(payee));
        assertEq(payee.succeeded(), 0);
        assertEq(payee.seenCredit(), 0, "gone before the money moves");
        assertEq(address(payee).balance, 3 * PRICE);
        assertEq(address(market).balance, 1 ether);
    }

    // Ether that nobody owes

    function test_RevertWhen_PlainTransfer() public {
        address[5] memory targets =
            [address(market), address(topics), address(brokers), address(devices), address(audit)];
        for (uint256 i = 0; i < targets.length; ++i) {
            vm.prank(buyer);
            (bool success,) = targets[i].call{value: 1}("");
            assertFalse(success);
        }
    }

    function test_RevertWhen_UnknownFunction() public {
        vm.prank(buyer);
        (bool success,) = address(market).call(abi.encodeWithSignature("initialize(address)", buyer));
        assertFalse(success);
    }

    function test_ForcedEtherChangesNothing() public {
        RefusingPayee payee = credited();
        vm.deal(address(market), address(market).balance + 5 ether);
        buy(1);
        assertEq(market.creditOf(address(payee)), 3 * PRICE);
        payee.withdrawFrom(market, stranger);
        assertEq(address(market).balance, 5 ether);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.NoCredit.selector, address(payee)));
        payee.withdrawFrom(market, stranger);
    }
}
