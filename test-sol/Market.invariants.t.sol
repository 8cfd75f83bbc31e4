// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {AccessMarket} from "../src-sol/AccessMarket.sol";
import {BrokerRegistry} from "../src-sol/BrokerRegistry.sol";
import {TopicRegistry} from "../src-sol/TopicRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {MarketHandler} from "./MarketHandler.sol";
import {Test} from "forge-std/Test.sol";

contract MarketInvariants is Test {
    BrokerRegistry private brokers;
    AccessMarket private market;
    TopicRegistry private topics;
    MarketHandler private handler;

    function setUp() public {
        vm.warp(1_800_000_000);
        brokers = new BrokerRegistry();
        market = new AccessMarket(brokers);
        topics = TopicRegistry(address(market.topicRegistry()));
        handler = new MarketHandler(brokers, market);
        targetContract(address(handler));
        bytes4[] memory selectors = actions();
        targetSelector(FuzzSelector(address(handler), selectors));
    }

    /// @dev Buying and granting twice, for they are what the rest is about.
    function actions() private view returns (bytes4[] memory selectors) {
        bytes4[16] memory all = [
            handler.buy.selector,
            handler.buy.selector,
            handler.grant.selector,
            handler.grant.selector,
            handler.revoke.selector,
            handler.turnBlock.selector,
            handler.turnBan.selector,
            handler.offer.selector,
            handler.fees.selector,
            handler.transferTopic.selector,
            handler.transferBroker.selector,
            handler.deleteOrRegister.selector,
            handler.settle.selector,
            handler.withdraw.selector,
            handler.force.selector,
            handler.wait.selector
        ];
        selectors = new bytes4[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            selectors[i] = all[i];
        }
    }

    function invariant_BalanceIsCreditsAndForcedEther() public view {
        assertEq(address(market).balance, handler.creditsOfAll() + handler.forced());
    }

    function invariant_OwnerMeansExisting() public view {
        for (uint256 t = 0; t < handler.topicCount(); ++t) {
            bytes32 topicId = handler.topicIds(t);
            assertEq(topics.topicOwner(topicId) != address(0), handler.exists(topicId));
            // A refund is only ever owed on a topic that exists; the handler asserts it at each deletion too.
            if (handler.hasPaidGrantRunning(topicId)) assertTrue(handler.exists(topicId));
        }
    }

    function invariant_RightsAreWhatTheBookSays() public view {
        for (uint256 t = 0; t < handler.topicCount(); ++t) {
            for (uint256 a = 0; a < handler.actorCount(); ++a) {
                checkRight(handler.topicIds(t), handler.actors(a), ITopicRegistry.Right.Publish);
                checkRight(handler.topicIds(t), handler.actors(a), ITopicRegistry.Right.Subscribe);
            }
        }
    }

    function checkRight(bytes32 topicId, address wallet, ITopicRegistry.Right right) private view {
        MarketHandler.Book memory book = handler.bookOf(topicId, wallet, right);
        assertEq(market.grantedUntil(topicId, wallet, right), book.until, "bought or granted, to that second");
        assertLe(market.refundOf(topicId, wallet, right), book.paidWei, "no refund beyond what was paid");

        bool isOwner = topics.topicOwner(topicId) == wallet;
        bool mayAccess = handler.exists(topicId) && block.timestamp >= handler.bannedUntil(wallet);
        if (handler.blocked(topicId, wallet) && !isOwner) mayAccess = false;
        bool isPublic = topics.offerOf(topicId, right).mode == ITopicRegistry.OfferMode.Public;
        if (!isOwner && !isPublic && block.timestamp >= book.until) mayAccess = false;
        assertEq(market.mayAccess(topicId, wallet, right), mayAccess, "the decision");
    }

    /// @dev A handler that always returned early would prove nothing: plays a fixed game and counts.
    function test_EverythingHappens() public {
        bytes4[] memory selectors = actions();
        for (uint256 i = 0; i < 1500; ++i) {
            uint256[5] memory words;
            for (uint256 w = 0; w < words.length; ++w) {
                words[w] = uint256(keccak256(abi.encode(i, w)));
            }
            bytes4 selector = selectors[words[4] % selectors.length];
            (bool success, bytes memory reason) = address(handler).call(abi.encodePacked(selector, abi.encode(words)));
            assertTrue(success, string(reason));
        }
        assertEq(handler.actionCount(), 14);
        for (uint256 i = 0; i < handler.actionCount(); ++i) {
            assertGe(handler.times(handler.actions(i)), 15, handler.actions(i));
        }
        assertGt(handler.creditsOfAll(), 0);
        invariant_BalanceIsCreditsAndForcedEther();
        invariant_OwnerMeansExisting();
        invariant_RightsAreWhatTheBookSays();
    }
}
