// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Claims} from "./game/Claims.sol";
import {Everybody} from "./game/Everybody.sol";

contract MarketInvariants is Claims {
    function suite() internal pure override returns (string memory) {
        return "Market";
    }

    function acts() internal view override returns (bytes4[] memory selectors) {
        bytes4[40] memory all = [
            game.buy.selector,
            game.buy.selector,
            game.buy.selector,
            game.buyMany.selector,
            game.haggle.selector,
            game.grant.selector,
            game.grant.selector,
            game.grantMany.selector,
            game.revoke.selector,
            game.revokeMany.selector,
            game.turnBlock.selector,
            game.turnBlock.selector,
            game.settle.selector,
            game.settle.selector,
            game.payout.selector,
            game.withdraw.selector,
            game.withdrawNothing.selector,
            game.force.selector,
            game.wait.selector,
            game.wait.selector,
            game.ban.selector,
            game.unban.selector,
            game.offer.selector,
            game.offer.selector,
            game.publishFee.selector,
            game.saleFee.selector,
            game.register.selector,
            game.register.selector,
            game.remove.selector,
            game.remove.selector,
            game.turnManager.selector,
            game.offerTopic.selector,
            game.acceptTopic.selector,
            game.offerBroker.selector,
            game.acceptBroker.selector,
            game.trespassOnAccess.selector,
            game.trespassOnAccess.selector,
            game.pileUp.selector,
            game.pileUp.selector,
            game.pileUp.selector
        ];
        selectors = new bytes4[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            selectors[i] = all[i];
        }
    }

    // Money

    function invariant_BalanceIsCreditsAndForcedEther() public view {
        uint256 creditsWei = 0;
        for (uint256 a = 0; a < actors.length; ++a) {
            creditsWei += market.creditOf(actors[a]);
        }
        assertEq(address(market).balance, creditsWei + game.forcedWei());
    }

    function invariant_EveryWeiSentIsReceivedOrCredited() public view {
        assertEq(game.sentWei(), game.receivedWei() + game.creditedWei(), "the book adds up");
        uint256 pursesWei = 0;
        for (uint256 a = 0; a < actors.length; ++a) {
            pursesWei += actors[a].balance;
        }
        assertEq(pursesWei, game.receivedWei() + game.withdrawnWei(), "and is what they have");
        assertEq(address(market).balance, game.creditedWei() - game.withdrawnWei() + game.forcedWei());
    }

    function invariant_EachHasWhatItIsDue() public view {
        eachActor(checkPurse);
    }

    function checkPurse(address who) private view {
        assertEq(who.balance, game.purse(who), "received");
        assertEq(market.creditOf(who), game.owed(who), "credited");
    }

    function invariant_CreditsShrinkOnlyByWithdrawal() public view {
        assertNoRelapse();
    }

    function invariant_PayoutsAreAsChosen() public view {
        eachActor(checkPayout);
    }

    function checkPayout(address who) private view {
        (address to, bool isPull) = market.payoutOf(who);
        (address chosen, bool wishesPull) = game.payouts(who);
        assertEq(to, chosen == address(0) ? who : chosen);
        assertEq(isPull, wishesPull);
    }

    function invariant_ReentryGainsNothing() public view {
        assertEq(game.reentrant().succeeded(), 0, "into the market");
        assertFalse(game.meddler().hasDeleted(), "into the topics");
    }

    function invariant_RefundIsTheUnusedPartOfEachPrice() public view {
        eachRight(checkRefund);
    }

    function checkRefund(bytes32 topicId, address wallet, ITopicRegistry.Right right) private view {
        assertEq(market.refundOf(topicId, wallet, right), game.refundOf(topicId, wallet, right));
    }

    function invariant_RefundNeverAboveWhatWasPaid() public view {
        eachRight(checkPaid);
    }

    function checkPaid(bytes32 topicId, address wallet, ITopicRegistry.Right right) private view {
        assertLe(market.refundOf(topicId, wallet, right), game.paidFor(topicId, wallet, right));
    }

    function invariant_PaidTimeNeverShortenedWithoutRefund() public view {
        eachRight(checkPaidTime);
    }

    function checkPaidTime(bytes32 topicId, address wallet, ITopicRegistry.Right right) private view {
        uint64 paidTo = game.paidTo(topicId, wallet, right);
        if (paidTo <= block.timestamp) return;
        assertGe(market.grantedUntil(topicId, wallet, right), paidTo, "still there, or paid back");
        assertGe(market.paidUntil(topicId), paidTo, "and keeps its topic");
        assertNotEq(topics.topicOwner(topicId), address(0));
    }

    function invariant_NothingPaidMeansNothingToWaitFor() public view {
        bytes32 topicId = topicInTurn();
        for (uint256 a = 0; a < actors.length; ++a) {
            if (game.paidTo(topicId, actors[a], ITopicRegistry.Right.Publish) > 0) return;
            if (game.paidTo(topicId, actors[a], ITopicRegistry.Right.Subscribe) > 0) return;
        }
        assertEq(market.paidUntil(topicId), 0);
    }

    // Rights

    function invariant_EndsMoveOnlyAsBoughtGrantedOrRevoked() public view {
        eachRight(checkEnd);
    }

    function checkEnd(bytes32 topicId, address wallet, ITopicRegistry.Right right) private view {
        assertEq(market.grantedUntil(topicId, wallet, right), game.endOf(topicId, wallet, right));
    }

    function invariant_BlockedNeverMayAccess() public view {
        eachRight(checkBlocked);
    }

    function checkBlocked(bytes32 topicId, address wallet, ITopicRegistry.Right right) private view {
        if (game.isBlocked(topicId, wallet)) assertFalse(market.mayAccess(topicId, wallet, right));
    }

    function invariant_BannedNeverMayAccess() public view {
        eachRight(checkBanned);
    }

    function checkBanned(bytes32 topicId, address wallet, ITopicRegistry.Right right) private view {
        if (game.isBannedFrom(topicId, wallet)) assertFalse(market.mayAccess(topicId, wallet, right));
    }

    function invariant_DecisionIsThatOfTheBook() public view {
        eachRight(checkDecision);
    }

    function checkDecision(bytes32 topicId, address wallet, ITopicRegistry.Right right) private view {
        assertEq(market.mayAccess(topicId, wallet, right), game.mayAccess(topicId, wallet, right));
    }

    /// @dev Of what was before the present epoch, nothing; of a topic that is deleted, nothing at all.
    function invariant_DeadEpochsNeverComeBack() public view {
        bytes32 topicId = topicInTurn();
        uint64 epoch = game.topicPage(topicId).epoch;
        bool exists = game.exists(topicId);
        for (uint256 a = 0; a < actors.length; ++a) {
            address wallet = actors[a];
            assertEq(market.isBlocked(topicId, wallet), exists && game.blocked(topicId, epoch, wallet));
            assertEq(topics.isManager(topicId, wallet), exists && game.managed(topicId, epoch, wallet));
        }
        if (!exists) eachRight(checkOver);
    }

    function checkOver(bytes32 topicId, address wallet, ITopicRegistry.Right right) private view {
        assertEq(market.grantedUntil(topicId, wallet, right), 0);
        assertEq(market.refundOf(topicId, wallet, right), 0);
        assertFalse(market.mayAccess(topicId, wallet, right));
    }

    function invariant_NobodyTakesWhatIsAnothers() public view {
        assertNoTrespass();
    }

    // The game itself

    function afterInvariant() public view {
        eachActor(checkPurse);
    }

    /// @dev Acts that always returned early would prove nothing: plays a fixed game and counts.
    function test_MarketGameHasABitOfEverything() public {
        for (uint256 i = 0; i < 40; ++i) {
            play(i, 100);
            invariant_BalanceIsCreditsAndForcedEther();
            invariant_EveryWeiSentIsReceivedOrCredited();
            invariant_EachHasWhatItIsDue();
            invariant_RefundIsTheUnusedPartOfEachPrice();
            invariant_EndsMoveOnlyAsBoughtGrantedOrRevoked();
            invariant_DecisionIsThatOfTheBook();
            invariant_NobodyTakesWhatIsAnothers();
        }
        assertDeeds(54, 1);
        assertGt(game.feesWei(), 0);
        assertGt(game.meddler().meddled(), 0, "the meddler has had its chance");
    }
}
