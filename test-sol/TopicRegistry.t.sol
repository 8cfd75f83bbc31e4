// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Fixture} from "./Fixture.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";

contract TopicRegistryTest is Fixture {
    function policy(IBrokerRegistry.NamingPolicy wanted) private {
        vm.prank(brokerOwner);
        brokers.setNamingPolicy(brokerId, wanted);
    }

    function refuseName(address caller, string memory name, bytes32 governor) private {
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NameNotYours.selector, name, caller, governor));
        register(caller, name);
    }

    function secondBroker() private returns (uint256) {
        vm.prank(stranger);
        return brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, "other");
    }

    function remove(bytes32 id) private {
        vm.prank(topicOwner);
        topics.deleteTopic(id);
    }

    function branchOf(address wallet, string memory rest) private pure returns (string memory) {
        return string.concat(Strings.toHexString(wallet), rest);
    }

    // registerTopic

    function test_RegisterTopic() public {
        ITopicRegistry.Traits memory traits = ITopicRegistry.Traits(true, false, true);
        bytes32 id = keccak256(abi.encode(brokerId, "mill/speed"));
        vm.expectEmit(address(topics));
        emit ITopicRegistry.TopicRegistered(brokerId, id, stranger, 1, "mill/speed", traits, open(), priced(7));
        vm.prank(stranger);
        bytes32 given = topics.registerTopic(brokerId, "mill/speed", traits, open(), priced(7));
        assertEq(given, id);
        assertEq(topics.topicIdOf(brokerId, "mill/speed"), id);
        assertEq(topics.topicOwner(id), stranger);
        assertEq(topics.topicEpoch(id), 1);
        assertEq(topics.topicBroker(id), brokerId);
        assertEq(abi.encode(topics.traitsOf(id)), abi.encode(traits));
        assertEq(abi.encode(topics.offerOf(id, PUBLISH)), abi.encode(open()));
        assertEq(abi.encode(topics.offerOf(id, SUBSCRIBE)), abi.encode(priced(7)));
    }

    function test_OwnerMayAccessOwnTopic() public {
        bytes32 id = register(stranger, "mill");
        assertTrue(market.mayAccess(id, stranger, PUBLISH));
        assertTrue(market.mayAccess(id, stranger, SUBSCRIBE));
        assertFalse(market.mayAccess(id, buyer, SUBSCRIBE));
    }

    function test_SameNameOnTwoBrokers() public {
        uint256 other = secondBroker();
        vm.prank(stranger);
        bytes32 id = topics.registerTopic(other, NAME, noTraits(), closed(), closed());
        assertNotEq(id, topicId);
        assertEq(topics.topicOwner(id), stranger);
        assertEq(topics.topicOwner(topicId), topicOwner);
        assertEq(topics.topicBroker(id), other);
    }

    function test_RevertWhen_RegisteringInvalidName() public {
        string[2][14] memory bad = [
            ["", "empty"],
            ["a/#", "octet not allowed"],
            ["+/a", "octet not allowed"],
            ["a b", "octet not allowed"],
            ["a\x00", "octet not allowed"],
            ["a\x7f", "octet not allowed"],
            [unicode"gr\u00f6\u00dfe", "octet not allowed"],
            ["$SYS/uptime", "starts with $"],
            ["/a", "empty level"],
            ["a//b", "empty level"],
            ["a/", "empty level"],
            ["/", "empty level"],
            ["1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17", "more than 16 levels"],
            [text(256), "longer than 256 octets"]
        ];
        for (uint256 i = 0; i < bad.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.InvalidName.selector, bad[i][0], bad[i][1]));
            // Of one that is too long the beginning is quoted.
            register(stranger, i == bad.length - 1 ? text(257) : bad[i][0]);
        }
        register(stranger, text(256));
    }

    function test_RevertWhen_TopicExists() public {
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.TopicExists.selector, topicId));
        register(stranger, NAME);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.TopicExists.selector, topicId));
        register(topicOwner, NAME);
    }

    function test_RevertWhen_RegisteringAtUnknownBroker() public {
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownBroker.selector, 0));
        topics.registerTopic(0, "a", noTraits(), closed(), closed());
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownBroker.selector, 2));
        topics.registerTopic(2, "a/b/c", noTraits(), closed(), closed());
    }

    function test_OwnerAboveRegisters() public {
        assertEq(topics.topicOwner(register(topicOwner, string.concat(NAME, "/raw"))), topicOwner);
        assertEq(topics.topicOwner(register(topicOwner, string.concat(NAME, "/a/b/c"))), topicOwner);
    }

    function test_ManagerAboveRegisters() public {
        bytes32 id = register(manager, string.concat(NAME, "/raw"));
        assertEq(topics.topicOwner(id), manager, "the caller becomes the owner");
    }

    function test_GovernorFarAbove() public {
        register(topicOwner, "deep");
        string memory name = "deep/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16";
        refuseName(stranger, name, topics.topicIdOf(brokerId, "deep"));
        assertEq(topics.topicOwner(register(topicOwner, name)), topicOwner);
    }

    function test_RevertWhen_TopicAboveIsAnothers() public {
        string memory name = string.concat(NAME, "/raw");
        refuseName(stranger, name, topicId);
        policy(IBrokerRegistry.NamingPolicy.OwnBranch);
        refuseName(stranger, name, topicId);
        policy(IBrokerRegistry.NamingPolicy.Curated);
        refuseName(stranger, name, topicId);
    }

    function test_NearestAboveDecides() public {
        bytes32 below = register(manager, string.concat(NAME, "/cell"));
        refuseName(topicOwner, string.concat(NAME, "/cell/voltage"), below);
        register(manager, string.concat(NAME, "/cell/voltage"));
    }

    function test_RevertWhen_RegistrarBelowATopic() public {
        refuseName(registrar, string.concat(NAME, "/raw"), topicId);
        refuseName(brokerOwner, string.concat(NAME, "/raw"), topicId);
    }

    function test_TopicAboveAtAnotherBroker() public {
        uint256 other = secondBroker();
        vm.prank(stranger);
        topics.registerTopic(other, string.concat(NAME, "/raw"), noTraits(), closed(), closed());
    }

    function test_DeletedTopicGovernsNothing() public {
        bytes32 line = register(topicOwner, "mill");
        bytes32 cell = register(topicOwner, "mill/cell");
        remove(cell);
        refuseName(stranger, "mill/cell/voltage", line);
        remove(line);
        assertEq(topics.topicOwner(register(stranger, "mill/cell/voltage")), stranger);
    }

    function test_RevertWhen_ManagerOfFormerEpoch() public {
        remove(topicId);
        register(topicOwner, NAME);
        refuseName(manager, string.concat(NAME, "/raw"), topicId);
    }

    function test_OpenPolicy() public {
        assertEq(topics.topicOwner(register(stranger, "anything/at/all")), stranger);
    }

    function test_CuratedPolicyAdmitsRegistrars() public {
        policy(IBrokerRegistry.NamingPolicy.Curated);
        assertEq(topics.topicOwner(register(registrar, "a")), registrar);
        assertEq(topics.topicOwner(register(brokerOwner, "b")), brokerOwner);
    }

    function test_RevertGiven_CuratedPolicy() public {
        policy(IBrokerRegistry.NamingPolicy.Curated);
        refuseName(stranger, "a", 0);
        refuseName(gateway, "a", 0);
        refuseName(stranger, branchOf(stranger, "/a"), 0);
    }

    function test_OwnBranchPolicy() public {
        policy(IBrokerRegistry.NamingPolicy.OwnBranch);
        assertEq(topics.topicOwner(register(stranger, branchOf(stranger, "/garden/moisture"))), stranger);
        assertEq(topics.topicOwner(register(stranger, branchOf(stranger, ""))), stranger);
    }

    function test_RevertGiven_OwnBranchPolicy() public {
        policy(IBrokerRegistry.NamingPolicy.OwnBranch);
        refuseName(stranger, "a", 0);
        refuseName(stranger, branchOf(buyer, "/a"), 0);
        refuseName(stranger, branchOf(stranger, "0/a"), 0);
        refuseName(stranger, string.concat("a/", branchOf(stranger, "/a")), 0);
    }

    function test_OwnBranchPolicyAdmitsRegistrars() public {
        policy(IBrokerRegistry.NamingPolicy.OwnBranch);
        assertEq(topics.topicOwner(register(registrar, "a")), registrar);
        assertEq(topics.topicOwner(register(brokerOwner, branchOf(stranger, "/b"))), brokerOwner);
    }

    function test_PrefixIsNotAbove() public {
        register(topicOwner, "mill");
        assertEq(topics.topicOwner(register(stranger, "mill2")), stranger);
        assertEq(topics.topicOwner(register(stranger, "mill2/x")), stranger);
    }

    // Offers

    function test_SetOffer() public {
        vm.expectEmit(address(topics));
        emit ITopicRegistry.OfferSet(brokerId, topicId, PUBLISH, priced(3));
        setOffer(PUBLISH, priced(3));
        assertEq(abi.encode(topics.offerOf(topicId, PUBLISH)), abi.encode(priced(3)));
        assertEq(abi.encode(topics.offerOf(topicId, SUBSCRIBE)), abi.encode(priced(PRICE)));
        vm.expectEmit(address(topics));
        emit ITopicRegistry.OfferSet(brokerId, topicId, SUBSCRIBE, open());
        setOffer(SUBSCRIBE, open());
        assertEq(abi.encode(topics.offerOf(topicId, PUBLISH)), abi.encode(priced(3)));
        assertEq(abi.encode(topics.offerOf(topicId, SUBSCRIBE)), abi.encode(open()));
    }

    function test_ManagerSetsOffer() public {
        vm.prank(manager);
        topics.setOffer(topicId, SUBSCRIBE, closed());
        assertEq(abi.encode(topics.offerOf(topicId, SUBSCRIBE)), abi.encode(closed()));
    }

    function test_PeriodBounds() public {
        ITopicRegistry.Offer memory offer = priced(1);
        offer.period = 1;
        setOffer(PUBLISH, offer);
        offer.period = 3650 days;
        setOffer(PUBLISH, offer);
        offer.period = 3650 days + 1;
        refuseOffer(offer);
        offer.period = 0;
        refuseOffer(offer);
    }

    function test_PriceBounds() public {
        setOffer(PUBLISH, priced(type(uint88).max));
        refuseOffer(priced(uint128(type(uint88).max) + 1));
    }

    function test_RevertWhen_OfferMakesNoSense() public {
        ITopicRegistry.Offer memory offer = closed();
        offer.priceWei = 1;
        refuseOffer(offer);
        offer = closed();
        offer.period = 1;
        refuseOffer(offer);
        offer = open();
        offer.priceWei = 1;
        refuseOffer(offer);
        offer = open();
        offer.period = 1;
        refuseOffer(offer);
    }

    function refuseOffer(ITopicRegistry.Offer memory offer) private {
        vm.expectRevert(
            abi.encodeWithSelector(ITopicRegistry.InvalidOffer.selector, offer.mode, offer.period, offer.priceWei)
        );
        setOffer(PUBLISH, offer);
    }

    function test_RevertWhen_RegisteringWithBadOffer() public {
        ITopicRegistry.Offer memory bad = priced(1);
        bad.period = 0;
        bytes memory refusal =
            abi.encodeWithSelector(ITopicRegistry.InvalidOffer.selector, ITopicRegistry.OfferMode.Priced, 0, 1);
        vm.expectRevert(refusal);
        register(stranger, "a", bad, closed());
        vm.expectRevert(refusal);
        register(stranger, "a", closed(), bad);
    }

    function test_RevertWhen_OfferTheSame() public {
        vm.expectRevert(ITopicRegistry.NothingToChange.selector);
        setOffer(SUBSCRIBE, priced(PRICE));
    }

    function testFuzz_OfferRoundTrip(uint32[2] memory periods, uint88[2] memory prices) public {
        ITopicRegistry.Offer[2] memory offers = [priced(prices[0]), priced(prices[1])];
        offers[0].period = uint32(bound(periods[0], 1, 3650 days));
        offers[1].period = uint32(bound(periods[1], 1, 3650 days));
        bytes32 id = register(stranger, "a", offers[0], offers[1]);
        assertEq(abi.encode(topics.offerOf(id, PUBLISH)), abi.encode(offers[0]));
        assertEq(abi.encode(topics.offerOf(id, SUBSCRIBE)), abi.encode(offers[1]));
        bytes32 swapped = register(stranger, "b", closed(), open());
        vm.startPrank(stranger);
        topics.setOffer(swapped, PUBLISH, offers[1]);
        topics.setOffer(swapped, SUBSCRIBE, offers[0]);
        assertEq(abi.encode(topics.offerOf(swapped, PUBLISH)), abi.encode(offers[1]));
        assertEq(abi.encode(topics.offerOf(swapped, SUBSCRIBE)), abi.encode(offers[0]));
    }

    // Traits

    function test_SetTraits() public {
        ITopicRegistry.Traits memory traits = ITopicRegistry.Traits(false, true, false);
        vm.expectEmit(address(topics));
        emit ITopicRegistry.TraitsSet(brokerId, topicId, traits);
        vm.prank(manager);
        topics.setTraits(topicId, traits);
        assertEq(abi.encode(topics.traitsOf(topicId)), abi.encode(traits));
    }

    function test_RevertWhen_TraitsTheSame() public {
        vm.expectRevert(ITopicRegistry.NothingToChange.selector);
        vm.prank(topicOwner);
        topics.setTraits(topicId, noTraits());
    }

    function testFuzz_TraitsRoundTrip(bool retain, bool sensitive, bool ownBranch) public {
        vm.assume(retain || sensitive || ownBranch);
        vm.prank(topicOwner);
        topics.setTraits(topicId, ITopicRegistry.Traits(retain, sensitive, ownBranch));
        ITopicRegistry.Traits memory kept = topics.traitsOf(topicId);
        assertEq(kept.retain, retain);
        assertEq(kept.sensitive, sensitive);
        assertEq(kept.ownBranch, ownBranch);
        assertEq(topics.topicOwner(topicId), topicOwner);
        assertEq(topics.topicEpoch(topicId), 1);
        assertEq(topics.topicBroker(topicId), brokerId);
    }

    // Managers

    function test_SetManager() public {
        vm.startPrank(topicOwner);
        vm.expectEmit(address(topics));
        emit ITopicRegistry.ManagerSet(brokerId, topicId, stranger, true);
        topics.setManager(topicId, stranger, true);
        assertTrue(topics.isManager(topicId, stranger));
        vm.expectEmit(address(topics));
        emit ITopicRegistry.ManagerSet(brokerId, topicId, stranger, false);
        topics.setManager(topicId, stranger, false);
        assertFalse(topics.isManager(topicId, stranger));
        vm.stopPrank();
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicOwnerOrManager.selector, topicId, stranger));
        vm.prank(stranger);
        topics.setOffer(topicId, SUBSCRIBE, open());
    }

    function test_RevertWhen_ManagerZeroOrTheSame() public {
        vm.startPrank(topicOwner);
        vm.expectRevert(ITopicRegistry.ZeroAddress.selector);
        topics.setManager(topicId, address(0), true);
        vm.expectRevert(ITopicRegistry.NothingToChange.selector);
        topics.setManager(topicId, manager, true);
        vm.expectRevert(ITopicRegistry.NothingToChange.selector);
        topics.setManager(topicId, stranger, false);
    }

    function test_RevertWhen_ManagerActsAsOwner() public {
        bytes memory refusal = abi.encodeWithSelector(ITopicRegistry.NotTopicOwner.selector, topicId, manager);
        vm.startPrank(manager);
        vm.expectRevert(refusal);
        topics.setManager(topicId, stranger, true);
        vm.expectRevert(refusal);
        topics.offerTopicOwnership(topicId, manager);
        vm.expectRevert(refusal);
        topics.deleteTopic(topicId);
    }

    // Ownership

    function test_TopicCandidateBecomesOwner() public {
        vm.expectEmit(address(topics));
        emit ITopicRegistry.TopicOwnershipOffered(brokerId, topicId, stranger, topicOwner);
        vm.prank(topicOwner);
        topics.offerTopicOwnership(topicId, stranger);
        assertEq(topics.topicOwner(topicId), topicOwner, "an offer moves nothing");
        assertEq(topics.topicCandidate(topicId), stranger);
        vm.expectEmit(address(topics));
        emit ITopicRegistry.TopicOwnershipTransferred(brokerId, topicId, stranger, topicOwner);
        vm.prank(stranger);
        topics.acceptTopicOwnership(topicId);
        assertEq(topics.topicOwner(topicId), stranger);
        assertEq(topics.topicCandidate(topicId), address(0));
        assertFalse(market.mayAccess(topicId, topicOwner, PUBLISH), "the former owner has no right left");
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicOwner.selector, topicId, topicOwner));
        vm.prank(topicOwner);
        topics.deleteTopic(topicId);
    }

    function test_RevertWhen_TopicAcceptedByAnother() public {
        vm.prank(topicOwner);
        topics.offerTopicOwnership(topicId, stranger);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicCandidate.selector, topicId, buyer, stranger));
        vm.prank(buyer);
        topics.acceptTopicOwnership(topicId);
    }

    function test_RevertGiven_TopicOfferWithdrawn() public {
        vm.startPrank(topicOwner);
        topics.offerTopicOwnership(topicId, stranger);
        topics.offerTopicOwnership(topicId, address(0));
        vm.stopPrank();
        vm.expectRevert(
            abi.encodeWithSelector(ITopicRegistry.NotTopicCandidate.selector, topicId, stranger, address(0))
        );
        vm.prank(stranger);
        topics.acceptTopicOwnership(topicId);
    }

    function test_RevertWhen_TopicOfferChangesNothing() public {
        vm.startPrank(topicOwner);
        vm.expectRevert(ITopicRegistry.NothingToChange.selector);
        topics.offerTopicOwnership(topicId, topicOwner);
        vm.expectRevert(ITopicRegistry.NothingToChange.selector);
        topics.offerTopicOwnership(topicId, address(0));
    }

    function test_TransferKeepsManagersAndGrants() public {
        grantFree(buyer, SUBSCRIBE, START + 1 days);
        vm.prank(topicOwner);
        topics.offerTopicOwnership(topicId, stranger);
        vm.prank(stranger);
        topics.acceptTopicOwnership(topicId);
        assertTrue(topics.isManager(topicId, manager));
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }

    function test_OfferDiesWithTheTopic() public {
        vm.startPrank(topicOwner);
        topics.offerTopicOwnership(topicId, stranger);
        topics.deleteTopic(topicId);
        topics.registerTopic(brokerId, NAME, noTraits(), closed(), closed());
        vm.stopPrank();
        vm.expectRevert(
            abi.encodeWithSelector(ITopicRegistry.NotTopicCandidate.selector, topicId, stranger, address(0))
        );
        vm.prank(stranger);
        topics.acceptTopicOwnership(topicId);
    }

    // deleteTopic

    function test_DeleteTopic() public {
        vm.expectEmit(address(topics));
        emit ITopicRegistry.TopicDeleted(brokerId, topicId, topicOwner, 1);
        remove(topicId);
        assertEq(topics.topicOwner(topicId), address(0));
        assertFalse(market.mayAccess(topicId, topicOwner, SUBSCRIBE));
        assertFalse(market.mayAccess(topicId, address(0), SUBSCRIBE));
        assertEq(abi.encode(topics.offerOf(topicId, SUBSCRIBE)), abi.encode(closed()));
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, topicId));
        remove(topicId);
    }

    function test_EpochGrows() public {
        for (uint64 epoch = 2; epoch < 5; ++epoch) {
            remove(topicId);
            vm.expectEmit(address(topics));
            emit ITopicRegistry.TopicRegistered(
                brokerId, topicId, topicOwner, epoch, NAME, noTraits(), closed(), open()
            );
            register(topicOwner, NAME, closed(), open());
            assertEq(topics.topicEpoch(topicId), epoch);
        }
    }

    function test_DeletionEndsEverything() public {
        grantFree(buyer, SUBSCRIBE, START + 1 days);
        grantFree(buyer, PUBLISH, START + 1 days);
        vm.prank(topicOwner);
        market.blockWallet(topicId, stranger, PURPOSE, "");
        remove(topicId);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), 0);
        assertFalse(market.isBlocked(topicId, stranger));
        assertFalse(topics.isManager(topicId, manager));

        register(buyer, NAME, closed(), open());
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), 0);
        assertEq(market.grantedUntil(topicId, buyer, PUBLISH), 0);
        assertFalse(market.isBlocked(topicId, stranger));
        assertTrue(market.mayAccess(topicId, stranger, SUBSCRIBE));
        assertFalse(topics.isManager(topicId, manager));
    }

    function test_DeletionKeepsTopicsBelow() public {
        bytes32 below = register(manager, string.concat(NAME, "/raw"));
        remove(topicId);
        assertEq(topics.topicOwner(below), manager);
        assertTrue(market.mayAccess(below, manager, PUBLISH));
    }

    /// forge-config: default.isolate = true
    function test_DeletionIsConstantInGrants() public {
        grantFree(buyer, SUBSCRIBE, START + 1 days);
        remove(topicId);
        uint256 withOne = vm.lastCallGas().gasTotalUsed;
        register(topicOwner, NAME, closed(), priced(PRICE));
        for (uint160 i = 1; i <= 200; ++i) {
            grantFree(address(i), SUBSCRIBE, START + 1 days);
        }
        remove(topicId);
        assertApproxEqAbs(vm.lastCallGas().gasTotalUsed, withOne, 100);
    }

    function test_DeleteWithFreeGrants() public {
        grantFree(buyer, SUBSCRIBE, uint64(START + YEARS_100));
        setOffer(SUBSCRIBE, priced(0));
        IAccessMarket.Order memory claim = order(SUBSCRIBE, 1);
        claim.wallet = stranger;
        vm.prank(stranger);
        market.buy(claim);
        remove(topicId);
    }

    function test_RevertGiven_PaidGrantRunning() public {
        uint64 until = buy(2);
        bytes memory refusal = abi.encodeWithSelector(ITopicRegistry.PaidGrantsRunning.selector, topicId, until);
        vm.expectRevert(refusal);
        remove(topicId);
        vm.warp(until - 1);
        vm.expectRevert(refusal);
        remove(topicId);
    }

    function test_RevertGiven_EarlierSaleRunsLonger() public {
        uint64 longest = buy(30);
        IAccessMarket.Order memory shorter = order(SUBSCRIBE, 1);
        shorter.wallet = stranger;
        vm.prank(stranger);
        market.buy{value: PRICE}(shorter);
        vm.warp(longest - 1);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.PaidGrantsRunning.selector, topicId, longest));
        remove(topicId);
        vm.warp(longest);
        remove(topicId);
    }

    function test_DeleteAfterRefund() public {
        buy(2);
        revokeFrom(buyer, SUBSCRIBE);
        remove(topicId);
    }

    function test_PaidGrantCountsOnce() public {
        uint64 until = buy(1);
        buy(1);
        setOffer(SUBSCRIBE, priced(2 * PRICE));
        buy(1);
        vm.warp(until + 5 days);
        buy(1);
        revokeFrom(buyer, SUBSCRIBE);
        remove(topicId);
    }

    function test_DeleteAfterPaidGrantEnded() public {
        uint64 until = buy(2);
        // Time that the owner granted on top does not make the paid time longer.
        grantFree(buyer, SUBSCRIBE, until + 10 days);
        vm.warp(until);
        remove(topicId);
    }

    function test_SettleThenDelete() public {
        uint64 ended = buy(1);
        IAccessMarket.Order memory longer = order(SUBSCRIBE, 30);
        longer.wallet = stranger;
        vm.prank(stranger);
        market.buy{value: 30 * PRICE}(longer);
        vm.warp(ended);
        revokeFrom(stranger, SUBSCRIBE);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.PaidGrantsRunning.selector, topicId, START + 30 days));
        remove(topicId);
        vm.prank(makeAddr("anyone"));
        market.settle(topicId, buyer, SUBSCRIBE);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.NothingToSettle.selector, topicId, buyer, SUBSCRIBE));
        market.settle(topicId, buyer, SUBSCRIBE);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), ended, "settling leaves the end as it was");
        remove(topicId);
    }

    function test_RevertWhen_SettlingWhatRuns() public {
        uint64 until = buy(1);
        vm.warp(until - 1);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.NothingToSettle.selector, topicId, buyer, SUBSCRIBE));
        market.settle(topicId, buyer, SUBSCRIBE);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.NothingToSettle.selector, topicId, stranger, SUBSCRIBE));
        market.settle(topicId, stranger, SUBSCRIBE);
        vm.warp(until);
        market.settle(topicId, buyer, SUBSCRIBE);
    }

    function test_RevertWhen_SettlingBeforeTheLastWindow() public {
        uint64 first = buy(1);
        setOffer(SUBSCRIBE, priced(2 * PRICE));
        uint64 last = buy(1);
        vm.warp(first);
        vm.expectRevert(abi.encodeWithSelector(IAccessMarket.NothingToSettle.selector, topicId, buyer, SUBSCRIBE));
        market.settle(topicId, buyer, SUBSCRIBE);
        vm.warp(last);
        market.settle(topicId, buyer, SUBSCRIBE);
    }

    function test_NewEpochOwesNothing() public {
        uint64 until = buy(1);
        vm.warp(until);
        remove(topicId);
        register(topicOwner, NAME, closed(), priced(PRICE));
        remove(topicId);
        register(topicOwner, NAME, closed(), priced(PRICE));
        until = buy(1);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.PaidGrantsRunning.selector, topicId, until));
        remove(topicId);
        revokeFrom(buyer, SUBSCRIBE);
        remove(topicId);
    }
}
