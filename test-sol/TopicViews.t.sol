// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Fixture} from "./Fixture.sol";

/// @title What the contracts ask each other about a topic.
contract TopicViewsTest is Fixture {
    function buyFor(address wallet, ITopicRegistry.Right right, uint32 periods) private returns (uint64) {
        IAccessMarket.Order memory wanted = order(right, periods);
        wanted.wallet = wallet;
        uint256 costWei = uint256(topics.offerOf(topicId, right).priceWei) * periods;
        vm.prank(buyer);
        return market.buy{value: costWei}(wanted);
    }

    function remove() private {
        vm.prank(topicOwner);
        topics.deleteTopic(topicId);
    }

    function refuseToRemove(uint64 until) private {
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.PaidGrantsRunning.selector, topicId, until));
        remove();
    }

    // topicOf

    function test_TopicOf() public {
        (uint256 broker, uint64 epoch, address owner) = topics.topicOf(topicId);
        assertEq(broker, brokerId);
        assertEq(epoch, 1);
        assertEq(owner, topicOwner);
        remove();
        (broker, epoch, owner) = topics.topicOf(topicId);
        assertEq(broker, 0);
        assertEq(epoch, 1, "that of the last registration");
        assertEq(owner, address(0));
        register(stranger, NAME);
        (broker, epoch, owner) = topics.topicOf(topicId);
        assertEq(broker, brokerId);
        assertEq(epoch, 2);
        assertEq(owner, stranger);
        (broker, epoch, owner) = topics.topicOf("none");
        assertEq(broker + epoch, 0);
        assertEq(owner, address(0));
    }

    // topicManagedBy

    function test_TopicManagedBy() public view {
        address[2] memory both = [topicOwner, manager];
        for (uint256 i = 0; i < both.length; ++i) {
            (uint256 broker, uint64 epoch, address owner) = topics.topicManagedBy(topicId, both[i]);
            assertEq(broker, brokerId);
            assertEq(epoch, 1);
            assertEq(owner, topicOwner);
        }
    }

    function test_RevertWhen_TopicIsNotManagedBy() public {
        address[5] memory others = [stranger, brokerOwner, registrar, gateway, address(0)];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicOwnerOrManager.selector, topicId, others[i]));
            topics.topicManagedBy(topicId, others[i]);
        }
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32("none")));
        topics.topicManagedBy("none", topicOwner);
        remove();
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, topicId));
        topics.topicManagedBy(topicId, topicOwner);
        register(topicOwner, NAME);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicOwnerOrManager.selector, topicId, manager));
        topics.topicManagedBy(topicId, manager);
    }

    // saleTerms

    function test_SaleTerms() public view {
        (uint256 broker, uint64 epoch, address owner, ITopicRegistry.Offer memory offer) =
            topics.saleTerms(topicId, SUBSCRIBE);
        assertEq(broker, brokerId);
        assertEq(epoch, 1);
        assertEq(owner, topicOwner);
        assertEq(abi.encode(offer), abi.encode(priced(PRICE)));
        (,,, offer) = topics.saleTerms(topicId, PUBLISH);
        assertEq(abi.encode(offer), abi.encode(closed()));
    }

    function test_RevertWhen_NoTermsOfUnknownTopic() public {
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32("none")));
        topics.saleTerms("none", SUBSCRIBE);
        remove();
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, topicId));
        topics.saleTerms(topicId, SUBSCRIBE);
    }

    function test_ContractsKnowEachOther() public view {
        assertEq(address(topics.accessMarket()), address(market));
        assertEq(address(topics.brokerRegistry()), address(brokers));
        assertEq(address(market.topicRegistry()), address(topics));
        assertEq(address(market.brokerRegistry()), address(brokers));
    }

    // What is unknown reads as nothing

    function test_NothingOfAnUnknownTopic() public view {
        assertEq(market.grantedUntil("none", buyer, SUBSCRIBE), 0);
        assertEq(market.refundOf("none", buyer, SUBSCRIBE), 0);
        assertEq(market.paidUntil("none"), 0);
        assertEq(market.grantFee("none", buyer, PUBLISH, START + 1 days), 0);
        assertFalse(market.isBlocked("none", buyer));
        assertFalse(topics.isManager("none", address(0)));
        assertEq(topics.topicCandidate("none"), address(0));
        (ITopicRegistry.CountryMode mode, bytes2[] memory codes) = topics.countriesOf("none");
        assertEq(uint8(mode) + codes.length, 0);
    }

    function test_RevertWhen_ActingOnUnknownTopic() public {
        bytes memory refusal = abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32("none"));
        vm.startPrank(topicOwner);
        vm.expectRevert(refusal);
        topics.setTraits("none", noTraits());
        vm.expectRevert(refusal);
        topics.setOffer("none", SUBSCRIBE, open());
        vm.expectRevert(refusal);
        topics.setManager("none", stranger, true);
        vm.expectRevert(refusal);
        topics.offerTopicOwnership("none", stranger);
        vm.expectRevert(refusal);
        topics.acceptTopicOwnership("none");
        vm.expectRevert(refusal);
        topics.deleteTopic("none");
        vm.expectRevert(refusal);
        market.revoke("none", buyer, SUBSCRIBE, PURPOSE, "");
        vm.expectRevert(refusal);
        market.blockWallet("none", buyer, PURPOSE, "");
        vm.expectRevert(refusal);
        market.unblockWallet("none", buyer);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.NothingToSettle.selector, bytes32("none"), buyer, PUBLISH));
        market.settle("none", buyer, PUBLISH);
    }

    // paidUntil

    function test_PaidUntil() public {
        assertEq(market.paidUntil(topicId), 0);
        grantFree(stranger, SUBSCRIBE, START + 900 days);
        assertEq(market.paidUntil(topicId), 0, "time that was given does not count");
        uint64 longest = buyFor(buyer, SUBSCRIBE, 30);
        assertEq(market.paidUntil(topicId), longest);
        buyFor(stranger, SUBSCRIBE, 1);
        assertEq(market.paidUntil(topicId), START + 901 days, "after what it was given");
        buyFor(registrar, SUBSCRIBE, 1);
        assertEq(market.paidUntil(topicId), START + 901 days, "an earlier end does not bring it nearer");
    }

    function test_PaidUntilOfBothRights() public {
        setOffer(PUBLISH, priced(PRICE));
        buyFor(buyer, PUBLISH, 5);
        buyFor(buyer, SUBSCRIBE, 3);
        assertEq(market.paidUntil(topicId), START + 5 days);
        revokeFrom(buyer, SUBSCRIBE);
        refuseToRemove(START + 5 days);
        revokeFrom(buyer, PUBLISH);
        assertEq(market.paidUntil(topicId), 0);
        remove();
    }

    function test_PaidUntilOfWhatIsFree() public {
        setOffer(SUBSCRIBE, priced(0));
        buyFor(buyer, SUBSCRIBE, 30);
        assertEq(market.paidUntil(topicId), 0);
        remove();
    }

    function test_DeletableFromTheSecondOn() public {
        uint64 until = buyFor(buyer, SUBSCRIBE, 3);
        vm.warp(until - 1);
        refuseToRemove(until);
        vm.warp(until);
        remove();
    }

    function test_SettledGrantsCountNoMore() public {
        uint64 first = buyFor(buyer, SUBSCRIBE, 1);
        uint64 longest = buyFor(stranger, SUBSCRIBE, 30);
        vm.warp(first);
        market.settle(topicId, buyer, SUBSCRIBE);
        assertEq(market.paidUntil(topicId), longest);
        revokeFrom(stranger, SUBSCRIBE);
        assertEq(market.paidUntil(topicId), 0);
        remove();
    }

    /// @dev What was paid back must not keep a topic for as long as it would have run once others buy a little.
    function test_PaidBackTimeIsForgotten() public {
        buyFor(buyer, SUBSCRIBE, 30);
        revokeFrom(buyer, SUBSCRIBE);
        uint64 until = buyFor(stranger, SUBSCRIBE, 1);
        assertEq(market.paidUntil(topicId), until);
        refuseToRemove(until);
        vm.warp(until);
        remove();
    }

    function test_PaidBackTimeCountsWhileAnotherRuns() public {
        uint64 longest = buyFor(buyer, SUBSCRIBE, 30);
        uint64 until = buyFor(stranger, SUBSCRIBE, 1);
        revokeFrom(buyer, SUBSCRIBE);
        assertEq(market.paidUntil(topicId), longest);
        vm.warp(until);
        refuseToRemove(longest);
        market.settle(topicId, stranger, SUBSCRIBE);
        assertEq(market.paidUntil(topicId), 0);
        remove();
    }

    function test_SettledWalletBuysAgain() public {
        uint64 first = buyFor(buyer, SUBSCRIBE, 1);
        grantFree(buyer, SUBSCRIBE, first + 2 days);
        vm.warp(first);
        market.settle(topicId, buyer, SUBSCRIBE);
        uint64 again = buyFor(buyer, SUBSCRIBE, 1);
        assertEq(again, first + 3 days);
        assertEq(market.paidUntil(topicId), again);
        refuseToRemove(again);
        revokeFrom(buyer, SUBSCRIBE);
        remove();
    }
}
