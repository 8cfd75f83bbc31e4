// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {Fixture} from "./Fixture.sol";

contract BrokerRegistryTest is Fixture {
    IBrokerRegistry.BanKind private constant WALLET = IBrokerRegistry.BanKind.Wallet;
    IBrokerRegistry.BanKind private constant ORIGIN = IBrokerRegistry.BanKind.Origin;
    bytes32 private constant PSEUDONYM = keccak256("keyed pseudonym");

    function bannedUntil(address wallet) private view returns (uint64) {
        return brokers.bannedUntil(brokerId, WALLET, subjectOf(wallet));
    }

    function secondBroker() private returns (uint256) {
        vm.prank(stranger);
        return brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, "other");
    }

    function transferTo(address candidate) private {
        vm.prank(brokerOwner);
        brokers.offerBrokerOwnership(brokerId, candidate);
        vm.prank(candidate);
        brokers.acceptBrokerOwnership(brokerId);
    }

    // createBroker

    function test_CreateBroker() public {
        assertEq(brokerId, 1);
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.BrokerCreated(2, stranger, IBrokerRegistry.NamingPolicy.Curated, "second");
        vm.prank(stranger);
        uint256 second = brokers.createBroker(IBrokerRegistry.NamingPolicy.Curated, "second");
        assertEq(second, 2);
        assertEq(brokers.brokerCount(), 2);
        assertEq(brokers.brokerOwner(second), stranger);
        assertEq(brokers.brokerOwner(brokerId), brokerOwner);
        assertEq(brokers.brokerOwner(3), address(0));
        assertEq(uint256(brokers.namingPolicy(second)), uint256(IBrokerRegistry.NamingPolicy.Curated));
        assertEq(brokers.publishFee(second), 0);
        assertEq(brokers.saleFee(second), 0);
    }

    function test_CreateBrokerWithLongestName() public {
        assertEq(brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, text(64)), 2);
    }

    function test_RevertWhen_BrokerNameTooLong() public {
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.TextTooLong.selector, 65, 64));
        brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, text(65));
    }

    function test_RevertWhen_BrokerNameEmpty() public {
        vm.expectRevert(IBrokerRegistry.NameEmpty.selector);
        brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, "");
    }

    // Ownership

    function test_CandidateBecomesOwner() public {
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.BrokerOwnershipOffered(brokerId, brokerOwner, stranger);
        vm.prank(brokerOwner);
        brokers.offerBrokerOwnership(brokerId, stranger);
        assertEq(brokers.brokerOwner(brokerId), brokerOwner, "an offer moves nothing");
        assertEq(brokers.brokerCandidate(brokerId), stranger);

        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.BrokerOwnershipTransferred(brokerId, brokerOwner, stranger);
        vm.prank(stranger);
        brokers.acceptBrokerOwnership(brokerId);
        assertEq(brokers.brokerOwner(brokerId), stranger);
        assertEq(brokers.brokerCandidate(brokerId), address(0));
    }

    function test_RevertWhen_AcceptedByAnother() public {
        vm.prank(brokerOwner);
        brokers.offerBrokerOwnership(brokerId, stranger);
        vm.expectRevert(
            abi.encodeWithSelector(IBrokerRegistry.NotOwnershipCandidate.selector, brokerId, buyer, stranger)
        );
        vm.prank(buyer);
        brokers.acceptBrokerOwnership(brokerId);
    }

    function test_RevertGiven_OfferWithdrawn() public {
        vm.startPrank(brokerOwner);
        brokers.offerBrokerOwnership(brokerId, stranger);
        brokers.offerBrokerOwnership(brokerId, address(0));
        vm.stopPrank();
        vm.expectRevert(
            abi.encodeWithSelector(IBrokerRegistry.NotOwnershipCandidate.selector, brokerId, stranger, address(0))
        );
        vm.prank(stranger);
        brokers.acceptBrokerOwnership(brokerId);
    }

    function test_RevertGiven_OfferReplaced() public {
        vm.startPrank(brokerOwner);
        brokers.offerBrokerOwnership(brokerId, stranger);
        brokers.offerBrokerOwnership(brokerId, buyer);
        vm.stopPrank();
        vm.expectRevert(
            abi.encodeWithSelector(IBrokerRegistry.NotOwnershipCandidate.selector, brokerId, stranger, buyer)
        );
        vm.prank(stranger);
        brokers.acceptBrokerOwnership(brokerId);
    }

    function test_RevertGiven_NoOffer() public {
        vm.expectRevert(
            abi.encodeWithSelector(IBrokerRegistry.NotOwnershipCandidate.selector, brokerId, stranger, address(0))
        );
        vm.prank(stranger);
        brokers.acceptBrokerOwnership(brokerId);
    }

    function test_RevertWhen_OfferChangesNothing() public {
        vm.startPrank(brokerOwner);
        vm.expectRevert(IBrokerRegistry.NothingToChange.selector);
        brokers.offerBrokerOwnership(brokerId, brokerOwner);
        vm.expectRevert(IBrokerRegistry.NothingToChange.selector);
        brokers.offerBrokerOwnership(brokerId, address(0));
        brokers.offerBrokerOwnership(brokerId, stranger);
        vm.expectRevert(IBrokerRegistry.NothingToChange.selector);
        brokers.offerBrokerOwnership(brokerId, stranger);
    }

    function test_FormerOwnerIsAStranger() public {
        transferTo(stranger);
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.NotBrokerOwner.selector, brokerId, brokerOwner));
        vm.prank(brokerOwner);
        brokers.setSaleFee(brokerId, 100);
        vm.prank(stranger);
        brokers.setSaleFee(brokerId, 100);
    }

    function test_RevertGiven_BrokerUnknown() public {
        bytes memory unknown = abi.encodeWithSelector(IBrokerRegistry.UnknownBroker.selector, 2);
        vm.expectRevert(unknown);
        brokers.acceptBrokerOwnership(2);
        vm.expectRevert(unknown);
        brokers.offerBrokerOwnership(2, stranger);
        vm.expectRevert(unknown);
        brokers.ban(2, walletBan(buyer, START + 1));
        vm.expectRevert(unknown);
        brokers.unban(2, WALLET, subjectOf(buyer));
        // The owner of a broker that does not exist is zero, which must not make the zero address its owner.
        vm.prank(address(0));
        vm.expectRevert(unknown);
        brokers.acceptBrokerOwnership(2);
    }

    // Naming policy and registrars

    function test_SetNamingPolicy() public {
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.NamingPolicySet(brokerId, IBrokerRegistry.NamingPolicy.Curated);
        vm.prank(brokerOwner);
        brokers.setNamingPolicy(brokerId, IBrokerRegistry.NamingPolicy.Curated);
        assertEq(uint256(brokers.namingPolicy(brokerId)), uint256(IBrokerRegistry.NamingPolicy.Curated));
    }

    function test_RevertWhen_PolicyTheSame() public {
        vm.expectRevert(IBrokerRegistry.NothingToChange.selector);
        vm.prank(brokerOwner);
        brokers.setNamingPolicy(brokerId, IBrokerRegistry.NamingPolicy.Open);
    }

    function test_SetRegistrar() public {
        assertFalse(brokers.isRegistrar(brokerId, stranger));
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.RegistrarSet(brokerId, stranger, true);
        vm.prank(brokerOwner);
        brokers.setRegistrar(brokerId, stranger, true);
        assertTrue(brokers.isRegistrar(brokerId, stranger));
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.RegistrarSet(brokerId, stranger, false);
        vm.prank(brokerOwner);
        brokers.setRegistrar(brokerId, stranger, false);
        assertFalse(brokers.isRegistrar(brokerId, stranger));
    }

    function test_OwnerIsRegistrar() public {
        assertTrue(brokers.isRegistrar(brokerId, brokerOwner));
        assertFalse(brokers.isRegistrar(brokerId, address(0)));
        assertFalse(brokers.isRegistrar(2, address(0)), "no broker has no registrar");
        transferTo(stranger);
        assertFalse(brokers.isRegistrar(brokerId, brokerOwner));
        assertTrue(brokers.isRegistrar(brokerId, stranger));
    }

    function test_RevertWhen_RegistrarZeroOrTheSame() public {
        vm.startPrank(brokerOwner);
        vm.expectRevert(IBrokerRegistry.ZeroAddress.selector);
        brokers.setRegistrar(brokerId, address(0), true);
        vm.expectRevert(IBrokerRegistry.NothingToChange.selector);
        brokers.setRegistrar(brokerId, registrar, true);
        vm.expectRevert(IBrokerRegistry.NothingToChange.selector);
        brokers.setRegistrar(brokerId, stranger, false);
    }

    // Gateways

    function test_SetGateway() public {
        assertTrue(brokers.isGateway(brokerId, gateway));
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.GatewaySet(brokerId, gateway, text(256));
        vm.prank(brokerOwner);
        brokers.setGateway(brokerId, gateway, text(256));
        assertTrue(brokers.isGateway(brokerId, gateway));
    }

    function test_RemoveGateway() public {
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.GatewayRemoved(brokerId, gateway);
        vm.prank(brokerOwner);
        brokers.removeGateway(brokerId, gateway);
        assertFalse(brokers.isGateway(brokerId, gateway));
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.NotBrokerOwnerOrGateway.selector, brokerId, gateway));
        vm.prank(gateway);
        brokers.ban(brokerId, walletBan(buyer, START + 1));
    }

    function test_RevertWhen_RemovingNoGateway() public {
        vm.expectRevert(IBrokerRegistry.NothingToChange.selector);
        vm.prank(brokerOwner);
        brokers.removeGateway(brokerId, stranger);
    }

    function test_RevertWhen_GatewayZeroOrUriTooLong() public {
        vm.startPrank(brokerOwner);
        vm.expectRevert(IBrokerRegistry.ZeroAddress.selector);
        brokers.setGateway(brokerId, address(0), "");
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.TextTooLong.selector, 257, 256));
        brokers.setGateway(brokerId, gateway, text(257));
    }

    function test_GatewayOfOneBrokerOnly() public {
        uint256 other = secondBroker();
        assertFalse(brokers.isGateway(other, gateway));
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.NotBrokerOwnerOrGateway.selector, other, gateway));
        vm.prank(gateway);
        brokers.ban(other, walletBan(buyer, START + 1));
    }

    // Fees

    function test_RiseAfterADay() public {
        vm.startPrank(brokerOwner);
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.PublishFeeSet(brokerId, 5, START + 1 days);
        brokers.setPublishFee(brokerId, 5);
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.SaleFeeSet(brokerId, 250, START + 1 days);
        brokers.setSaleFee(brokerId, 250);
        vm.warp(START + 1 days - 1);
        assertEq(brokers.publishFee(brokerId), 0);
        assertEq(brokers.saleFee(brokerId), 0);
        vm.warp(START + 1 days);
        assertEq(brokers.publishFee(brokerId), 5);
        assertEq(brokers.saleFee(brokerId), 250);
    }

    function test_CutAtOnce() public {
        vm.startPrank(brokerOwner);
        brokers.setPublishFee(brokerId, 50);
        brokers.setSaleFee(brokerId, 500);
        vm.warp(START + 2 days);
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.PublishFeeSet(brokerId, 49, START + 2 days);
        brokers.setPublishFee(brokerId, 49);
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.SaleFeeSet(brokerId, 499, START + 2 days);
        brokers.setSaleFee(brokerId, 499);
        assertEq(brokers.publishFee(brokerId), 49);
        assertEq(brokers.saleFee(brokerId), 499);
    }

    function test_CutForgetsRise() public {
        vm.startPrank(brokerOwner);
        brokers.setSaleFee(brokerId, 100);
        vm.warp(START + 1 days);
        brokers.setSaleFee(brokerId, 200);
        brokers.setSaleFee(brokerId, 50);
        assertEq(brokers.saleFee(brokerId), 50);
        vm.warp(START + 30 days);
        assertEq(brokers.saleFee(brokerId), 50);
    }

    function test_PresentFeeWithdrawsRise() public {
        vm.startPrank(brokerOwner);
        brokers.setPublishFee(brokerId, 100);
        vm.warp(START + 1 days);
        brokers.setPublishFee(brokerId, 200);
        brokers.setPublishFee(brokerId, 100);
        assertEq(brokers.publishFee(brokerId), 100);
        vm.warp(START + 30 days);
        assertEq(brokers.publishFee(brokerId), 100);
    }

    function test_SecondRiseStartsAgain() public {
        vm.startPrank(brokerOwner);
        brokers.setPublishFee(brokerId, 100);
        vm.warp(START + 1 days - 1);
        brokers.setPublishFee(brokerId, 101);
        vm.warp(START + 2 days - 2);
        assertEq(brokers.publishFee(brokerId), 0);
        vm.warp(START + 2 days - 1);
        assertEq(brokers.publishFee(brokerId), 101);
    }

    function test_RevertWhen_FeeTheSame() public {
        vm.startPrank(brokerOwner);
        vm.expectRevert(IBrokerRegistry.NothingToChange.selector);
        brokers.setPublishFee(brokerId, 0);
        vm.expectRevert(IBrokerRegistry.NothingToChange.selector);
        brokers.setSaleFee(brokerId, 0);
    }

    function test_HighestFees() public {
        vm.startPrank(brokerOwner);
        brokers.setPublishFee(brokerId, 1 ether);
        brokers.setSaleFee(brokerId, 2500);
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.FeeTooHigh.selector, 1 ether + 1, 1 ether));
        brokers.setPublishFee(brokerId, 1 ether + 1);
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.FeeTooHigh.selector, 2501, 2500));
        brokers.setSaleFee(brokerId, 2501);
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.FeeTooHigh.selector, 10_001, 2500));
        brokers.setSaleFee(brokerId, 10_001);
    }

    /// @dev Plays announcements at odd times and looks at the fee a day after each: it is at most what stood or was announced then.
    function testFuzz_NoRiseWithinADay(uint96[8] memory fees, uint32[8] memory pauses) public {
        vm.startPrank(brokerOwner);
        uint64 lastRise;
        for (uint256 i = 0; i < fees.length; ++i) {
            uint96 wanted = uint96(bound(fees[i], 0, 2500));
            uint96 before = brokers.saleFee(brokerId);
            try brokers.setSaleFee(brokerId, wanted) {
                assertLe(brokers.saleFee(brokerId), before, "a setting never raises at once");
                if (wanted > before) {
                    lastRise = uint64(block.timestamp);
                    vm.warp(lastRise + 1 days - 1);
                    assertEq(brokers.saleFee(brokerId), before);
                    vm.warp(lastRise);
                } else {
                    assertEq(brokers.saleFee(brokerId), wanted);
                }
            } catch (bytes memory reason) {
                assertEq(bytes4(reason), IBrokerRegistry.NothingToChange.selector);
            }
            vm.warp(block.timestamp + bound(pauses[i], 0, 3 days));
        }
    }

    // Bans

    function test_GatewayBansWallet() public {
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.WalletBanned(brokerId, buyer, gateway, START + 1 hours, 0, "flapping");
        banBuyer(START + 1 hours);
        assertEq(bannedUntil(buyer), START + 1 hours);
        (address owner, uint96 basisPoints, uint64 until) = brokers.saleTerms(brokerId, buyer);
        assertEq(owner, brokerOwner);
        assertEq(basisPoints, 0);
        assertEq(until, START + 1 hours);

        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.WalletUnbanned(brokerId, buyer, gateway);
        vm.prank(gateway);
        brokers.unban(brokerId, WALLET, subjectOf(buyer));
        assertEq(bannedUntil(buyer), START, "ended now, not never banned");
    }

    function test_GatewayBansOrigin() public {
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.OriginBanned(brokerId, PSEUDONYM, gateway, START + 1 hours, 0, "six failures");
        vm.prank(gateway);
        brokers.ban(brokerId, originBan(PSEUDONYM, START + 1 hours));
        assertEq(brokers.bannedUntil(brokerId, ORIGIN, PSEUDONYM), START + 1 hours);
        assertEq(brokers.bannedUntil(brokerId, WALLET, PSEUDONYM), 0);

        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.OriginUnbanned(brokerId, PSEUDONYM, brokerOwner);
        vm.prank(brokerOwner);
        brokers.unban(brokerId, ORIGIN, PSEUDONYM);
        assertEq(brokers.bannedUntil(brokerId, ORIGIN, PSEUDONYM), START);
    }

    function test_BanIsHalfOpen() public {
        banBuyer(START + 1 hours);
        vm.warp(START + 1 hours - 1);
        assertFalse(market.mayAccess(register(topicOwner, "public", open(), open()), buyer, SUBSCRIBE));
        vm.warp(START + 1 hours);
        assertTrue(market.mayAccess(topics.topicIdOf(brokerId, "public"), buyer, SUBSCRIBE));
    }

    function test_BanSeveral() public {
        IBrokerRegistry.Ban[] memory bans = new IBrokerRegistry.Ban[](3);
        bans[0] = walletBan(buyer, START + 1)[0];
        bans[1] = originBan(PSEUDONYM, START + 2)[0];
        bans[2] = walletBan(stranger, START + 3)[0];
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.WalletBanned(brokerId, buyer, gateway, START + 1, 0, "flapping");
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.OriginBanned(brokerId, PSEUDONYM, gateway, START + 2, 0, "six failures");
        vm.expectEmit(address(brokers));
        emit IBrokerRegistry.WalletBanned(brokerId, stranger, gateway, START + 3, 0, "flapping");
        vm.prank(gateway);
        brokers.ban(brokerId, bans);
    }

    function test_RevertWhen_OneOfSeveralIsBad() public {
        IBrokerRegistry.Ban[] memory bans = new IBrokerRegistry.Ban[](2);
        bans[0] = walletBan(buyer, START + 1)[0];
        bans[1] = walletBan(stranger, START)[0];
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.EndNotInFuture.selector, START, START));
        vm.prank(gateway);
        brokers.ban(brokerId, bans);
        assertEq(bannedUntil(buyer), 0);
    }

    function test_RevertWhen_NoBans() public {
        vm.expectRevert(IBrokerRegistry.NothingToChange.selector);
        vm.prank(gateway);
        brokers.ban(brokerId, new IBrokerRegistry.Ban[](0));
    }

    function test_GatewayBanEndsWithin30Days() public {
        banBuyer(START + 30 days);
        vm.expectRevert(
            abi.encodeWithSelector(IBrokerRegistry.BanTooLong.selector, START + 30 days + 1, START + 30 days)
        );
        banBuyer(START + 30 days + 1);
    }

    function test_OwnerBanEndsWithin100Years() public {
        uint64 latest = uint64(START + YEARS_100);
        vm.startPrank(brokerOwner);
        brokers.ban(brokerId, walletBan(buyer, latest));
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.BanTooLong.selector, latest + 1, latest));
        brokers.ban(brokerId, walletBan(buyer, latest + 1));
    }

    function test_RevertWhen_BanEndsNow() public {
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.EndNotInFuture.selector, START, START));
        banBuyer(START);
        banBuyer(START + 1);
    }

    function test_RevertWhen_SubjectInvalid() public {
        IBrokerRegistry.Ban[] memory bans = originBan(0, START + 1);
        vm.startPrank(gateway);
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.InvalidBanSubject.selector, ORIGIN, bytes32(0)));
        brokers.ban(brokerId, bans);
        bans = walletBan(address(0), START + 1);
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.InvalidBanSubject.selector, WALLET, bytes32(0)));
        brokers.ban(brokerId, bans);
        // An address with something before it would never be looked up, so a ban of it would be a pretence.
        bytes32 tooWide = bytes32(uint256(1) << 160 | uint160(buyer));
        bans[0].subject = tooWide;
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.InvalidBanSubject.selector, WALLET, tooWide));
        brokers.ban(brokerId, bans);
    }

    function test_RevertWhen_ReasonTooLong() public {
        IBrokerRegistry.Ban[] memory bans = walletBan(buyer, START + 1);
        bans[0].reason = text(256);
        vm.startPrank(gateway);
        brokers.ban(brokerId, bans);
        bans[0].reason = text(257);
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.TextTooLong.selector, 257, 256));
        brokers.ban(brokerId, bans);
    }

    function test_RevertWhen_BanningTheOwner() public {
        bytes memory refusal = abi.encodeWithSelector(IBrokerRegistry.CannotBanOwner.selector, brokerId, brokerOwner);
        vm.expectRevert(refusal);
        vm.prank(gateway);
        brokers.ban(brokerId, walletBan(brokerOwner, START + 1));
        vm.expectRevert(refusal);
        vm.prank(brokerOwner);
        brokers.ban(brokerId, walletBan(brokerOwner, START + 1));
    }

    function test_GatewaysShareTheirBans() public {
        address second = makeAddr("second gateway");
        vm.prank(brokerOwner);
        brokers.setGateway(brokerId, second, "");
        banBuyer(START + 2 hours);
        vm.startPrank(second);
        brokers.ban(brokerId, walletBan(buyer, START + 1 hours));
        assertEq(bannedUntil(buyer), START + 1 hours);
        brokers.unban(brokerId, WALLET, subjectOf(buyer));
        assertEq(bannedUntil(buyer), START);
    }

    function test_RevertWhen_GatewayReplacesOwnersBan() public {
        vm.prank(brokerOwner);
        brokers.ban(brokerId, walletBan(buyer, START + 1 days));
        vm.expectRevert(
            abi.encodeWithSelector(IBrokerRegistry.BannedByOwner.selector, WALLET, subjectOf(buyer), START + 1 days)
        );
        banBuyer(START + 2 days);
    }

    function test_RevertWhen_GatewayLiftsOwnersBan() public {
        vm.prank(brokerOwner);
        brokers.ban(brokerId, originBan(PSEUDONYM, START + 1 days));
        vm.expectRevert(
            abi.encodeWithSelector(IBrokerRegistry.BannedByOwner.selector, ORIGIN, PSEUDONYM, START + 1 days)
        );
        vm.prank(gateway);
        brokers.unban(brokerId, ORIGIN, PSEUDONYM);
    }

    function test_GatewayBansAfterOwnersBanEnded() public {
        vm.prank(brokerOwner);
        brokers.ban(brokerId, walletBan(buyer, START + 1 days));
        vm.warp(START + 1 days);
        banBuyer(START + 2 days);
        vm.prank(gateway);
        brokers.unban(brokerId, WALLET, subjectOf(buyer));
    }

    function test_OwnersBanOutlivesTransfer() public {
        vm.prank(brokerOwner);
        brokers.ban(brokerId, walletBan(buyer, START + 1 days));
        transferTo(stranger);
        vm.expectRevert(
            abi.encodeWithSelector(IBrokerRegistry.BannedByOwner.selector, WALLET, subjectOf(buyer), START + 1 days)
        );
        vm.prank(gateway);
        brokers.unban(brokerId, WALLET, subjectOf(buyer));
        vm.prank(stranger);
        brokers.unban(brokerId, WALLET, subjectOf(buyer));
    }

    function test_OwnerOverrulesGateway() public {
        banBuyer(START + 30 days);
        vm.startPrank(brokerOwner);
        brokers.ban(brokerId, walletBan(buyer, START + 1 hours));
        assertEq(bannedUntil(buyer), START + 1 hours);
        brokers.unban(brokerId, WALLET, subjectOf(buyer));
        assertEq(bannedUntil(buyer), START);
    }

    function test_OwnerAsGatewayIsOwner() public {
        vm.startPrank(brokerOwner);
        brokers.setGateway(brokerId, brokerOwner, "");
        brokers.ban(brokerId, walletBan(buyer, START + 31 days));
        vm.stopPrank();
        vm.expectRevert(
            abi.encodeWithSelector(IBrokerRegistry.BannedByOwner.selector, WALLET, subjectOf(buyer), START + 31 days)
        );
        banBuyer(START + 1 days);
    }

    function test_RevertWhen_NotBanned() public {
        vm.startPrank(gateway);
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.NotBanned.selector, WALLET, subjectOf(buyer)));
        brokers.unban(brokerId, WALLET, subjectOf(buyer));
        brokers.ban(brokerId, walletBan(buyer, START + 1));
        vm.warp(START + 1);
        vm.expectRevert(abi.encodeWithSelector(IBrokerRegistry.NotBanned.selector, WALLET, subjectOf(buyer)));
        brokers.unban(brokerId, WALLET, subjectOf(buyer));
    }

    function test_BanAtOneBrokerOnly() public {
        uint256 other = secondBroker();
        banBuyer(START + 1 hours);
        assertEq(brokers.bannedUntil(other, WALLET, subjectOf(buyer)), 0);
    }
}
