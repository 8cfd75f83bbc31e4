// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IDeviceRegistry} from "../src-sol/interfaces/IDeviceRegistry.sol";
import {DeviceFixture} from "./DeviceFixture.sol";
import {Vm} from "forge-std/Vm.sol";

contract DeviceBatchTest is DeviceFixture {
    function authorize(address[] memory all, uint64 until, bytes[] memory consents) private {
        vm.prank(topicOwner);
        devices.authorizeDevices(all, until, consents);
    }

    function refuse(bytes memory refusal, address[] memory all, uint64 until, bytes[] memory consents) private {
        vm.expectRevert(refusal);
        authorize(all, until, consents);
        assertEq(devices.walletOf(sensor.addr), address(0), "nothing of it happened");
    }

    function refuseToRevoke(address by, address device, address[] memory all) private {
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotYourDevice.selector, by, device));
        vm.prank(by);
        devices.revokeDevices(all);
    }

    // authorizeDevices

    function test_AuthorizeDevices() public {
        bytes[] memory consents = consentsFor(topicOwner);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceAuthorized(topicOwner, sensor.addr, END, 0);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceAuthorized(topicOwner, valve.addr, END, 0);
        authorize(keys(), END, consents);
        assertEq(devices.walletOf(sensor.addr), topicOwner);
        assertEq(devices.walletOf(valve.addr), topicOwner);
        assertEq(devices.deviceUntil(valve.addr), END);
        assertEq(devices.nonces(topicOwner), 0, "who calls needs no nonce");
    }

    function test_AuthorizeDevicesInNextGeneration() public {
        vm.prank(topicOwner);
        devices.revokeAllDevices();
        bytes[] memory consents = consentsFor(topicOwner);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceAuthorized(topicOwner, sensor.addr, END, 1);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceAuthorized(topicOwner, valve.addr, END, 1);
        authorize(keys(), END, consents);
        assertEq(devices.walletOf(valve.addr), topicOwner);
    }

    function test_SameKeyTwice() public {
        address[] memory all = keys();
        bytes[] memory consents = consentsFor(topicOwner);
        (all[1], consents[1]) = (all[0], consents[0]);
        authorize(all, END, consents);
        assertEq(devices.walletOf(sensor.addr), topicOwner);
        assertEq(devices.deviceUntil(sensor.addr), END);
    }

    function test_ShortConsents() public {
        bytes[] memory consents = consentsFor(topicOwner);
        (bytes32 r, bytes32 vs) = vm.signCompact(valve.privateKey, devices.consentDigest(topicOwner));
        consents[1] = abi.encodePacked(r, vs);
        authorize(keys(), END, consents);
        assertEq(devices.walletOf(valve.addr), topicOwner);
    }

    function test_RevertWhen_NoDevicesToAuthorize() public {
        bytes memory refusal = abi.encodeWithSelector(IDeviceRegistry.NoDevices.selector);
        refuse(refusal, new address[](0), END, new bytes[](0));
        refuse(refusal, new address[](0), END, consentsFor(topicOwner));
    }

    function test_RevertWhen_ConsentsAreMoreOrLess() public {
        bytes4 refusal = IDeviceRegistry.WrongConsentCount.selector;
        refuse(abi.encodeWithSelector(refusal, 2, 0), keys(), END, new bytes[](0));
        refuse(abi.encodeWithSelector(refusal, 2, 1), keys(), END, new bytes[](1));
        refuse(abi.encodeWithSelector(refusal, 2, 3), keys(), END, new bytes[](3));
        refuse(abi.encodeWithSelector(refusal, 1, 2), new address[](1), END, new bytes[](2));
    }

    function test_RevertWhen_OneKeyIsBad() public {
        address[] memory all = keys();
        bytes[] memory consents = consentsFor(topicOwner);
        all[1] = address(0);
        refuse(abi.encodeWithSelector(IDeviceRegistry.ZeroAddress.selector), all, END, consents);
        all[1] = topicOwner;
        refuse(abi.encodeWithSelector(IDeviceRegistry.DeviceIsWallet.selector, topicOwner), all, END, consents);
        all[1] = stranger;
        bytes4 noConsent = IDeviceRegistry.DeviceDidNotConsent.selector;
        refuse(abi.encodeWithSelector(noConsent, topicOwner, stranger), all, END, consents);
        all[1] = valve.addr;
        (consents[0], consents[1]) = (consents[1], consents[0]);
        refuse(abi.encodeWithSelector(noConsent, topicOwner, sensor.addr), all, END, consents);
        consents = consentsFor(topicOwner);
        consents[1] = consentOf(valve, stranger);
        refuse(abi.encodeWithSelector(noConsent, topicOwner, valve.addr), all, END, consents);

        bytes memory consent = consentOf(valve, stranger);
        vm.prank(stranger);
        devices.authorizeDevice(valve.addr, END + 5, consent);
        bytes memory taken = abi.encodeWithSelector(IDeviceRegistry.DeviceTaken.selector, valve.addr, stranger, END + 5);
        refuse(taken, keys(), END, consentsFor(topicOwner));
    }

    function testFuzz_EndOfDevices(uint64 until) public {
        uint64 latest = uint64(START + YEARS_100);
        uint64[6] memory edges = [uint64(0), START, START + 1, latest, latest + 1, type(uint64).max];
        for (uint256 i = 0; i < edges.length; ++i) {
            tryEnd(edges[i], latest);
        }
        tryEnd(until, latest);
        tryEnd(uint64(bound(until, START + 1, latest)), latest);
    }

    function tryEnd(uint64 until, uint64 latest) private {
        uint256 snapshot = vm.snapshotState();
        bytes[] memory consents = consentsFor(topicOwner);
        bytes memory refusal;
        if (until <= START) refusal = abi.encodeWithSelector(IDeviceRegistry.EndNotInFuture.selector, until, START);
        if (until > latest) refusal = abi.encodeWithSelector(IDeviceRegistry.EndTooFar.selector, until, latest);
        if (refusal.length > 0) vm.expectRevert(refusal);
        authorize(keys(), until, consents);
        if (refusal.length > 0) vm.expectRevert(refusal);
        vm.prank(topicOwner);
        devices.authorizeDevice(sensor.addr, until, consents[0]);
        assertEq(devices.deviceUntil(sensor.addr), refusal.length > 0 ? 0 : until);
        vm.revertToState(snapshot);
    }

    // revokeDevices

    function test_RevokeDevices() public {
        Vm.Wallet memory pump = vm.createWallet("pump");
        authorize(keys(), END, consentsFor(topicOwner));
        bytes memory consent = consentOf(pump, topicOwner);
        vm.prank(topicOwner);
        devices.authorizeDevice(pump.addr, END, consent);
        vm.warp(START + 5);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceRevoked(topicOwner, sensor.addr);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceRevoked(topicOwner, valve.addr);
        vm.prank(topicOwner);
        devices.revokeDevices(keys());
        assertEq(devices.walletOf(sensor.addr), address(0));
        assertEq(devices.walletOf(valve.addr), address(0));
        assertEq(devices.deviceUntil(valve.addr), START + 5);
        assertEq(devices.walletOf(pump.addr), topicOwner);
    }

    function test_RevertWhen_NoDevicesToRevoke() public {
        vm.expectRevert(IDeviceRegistry.NoDevices.selector);
        vm.prank(topicOwner);
        devices.revokeDevices(new address[](0));
    }

    function test_RevertWhen_OneKeyIsNotYours() public {
        authorize(keys(), END, consentsFor(topicOwner));
        refuseToRevoke(stranger, sensor.addr, keys());
        address[] memory all = keys();
        all[1] = buyer;
        refuseToRevoke(topicOwner, buyer, all);
        all[1] = sensor.addr;
        refuseToRevoke(topicOwner, sensor.addr, all);
        all[1] = address(0);
        refuseToRevoke(topicOwner, address(0), all);
        assertEq(devices.walletOf(sensor.addr), topicOwner, "all or nothing");
        vm.prank(topicOwner);
        devices.revokeDevice(valve.addr);
        refuseToRevoke(topicOwner, valve.addr, keys());
        vm.warp(END);
        refuseToRevoke(topicOwner, sensor.addr, keys());
    }

    // invalidateBefore

    function testFuzz_InvalidateBefore(uint64 last, uint64 before) public {
        last = uint64(bound(last, 1, START));
        vm.startPrank(topicOwner);
        devices.invalidateBefore(last);
        if (before > START) {
            vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotInPast.selector, before, START));
        } else if (before <= last) {
            vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotLater.selector, before, last));
        }
        devices.invalidateBefore(before);
        assertEq(devices.tokensValidFrom(topicOwner), before > last && before <= START ? before : last);
    }
}
