// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {DeviceRegistry} from "../src-sol/DeviceRegistry.sol";
import {IDeviceRegistry} from "../src-sol/interfaces/IDeviceRegistry.sol";
import {Fixture} from "./Fixture.sol";
import {Vm} from "forge-std/Vm.sol";

contract DeviceRegistryTest is Fixture {
    /// @dev Order of the curve, to turn a signature into its twin with high s.
    uint256 private constant N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    uint64 private constant END = START + 30 days;

    Vm.Wallet private sensor;

    function setUp() public override {
        super.setUp();
        sensor = vm.createWallet("sensor");
    }

    function consentOf(Vm.Wallet memory key, address wallet) private returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, devices.consentDigest(wallet));
        return abi.encodePacked(r, s, v);
    }

    function authorize(address wallet, Vm.Wallet memory key, uint64 until) private {
        bytes memory consent = consentOf(key, wallet);
        vm.prank(wallet);
        devices.authorizeDevice(key.addr, until, consent);
    }

    function refuseConsent(bytes memory consent) private {
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.DeviceDidNotConsent.selector, topicOwner, sensor.addr));
        vm.prank(topicOwner);
        devices.authorizeDevice(sensor.addr, END, consent);
    }

    // authorizeDevice

    function test_AuthorizeDevice() public {
        bytes memory consent = consentOf(sensor, topicOwner);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceAuthorized(topicOwner, sensor.addr, END, 0);
        vm.prank(topicOwner);
        devices.authorizeDevice(sensor.addr, END, consent);
        assertEq(devices.walletOf(sensor.addr), topicOwner);
        assertEq(devices.deviceUntil(sensor.addr), END);
        assertEq(devices.walletOf(stranger), address(0));
    }

    function test_AuthorizeAgainChangesTheEnd() public {
        authorize(topicOwner, sensor, END);
        authorize(topicOwner, sensor, END + 1);
        assertEq(devices.deviceUntil(sensor.addr), END + 1);
        authorize(topicOwner, sensor, START + 1);
        assertEq(devices.deviceUntil(sensor.addr), START + 1);
    }

    function test_ShortSignature() public {
        (bytes32 r, bytes32 vs) = vm.signCompact(sensor, devices.consentDigest(topicOwner));
        vm.prank(topicOwner);
        devices.authorizeDevice(sensor.addr, END, abi.encodePacked(r, vs));
        assertEq(devices.walletOf(sensor.addr), topicOwner);
    }

    function test_DeviceIsHalfOpen() public {
        authorize(topicOwner, sensor, END);
        vm.warp(END - 1);
        assertEq(devices.walletOf(sensor.addr), topicOwner);
        vm.warp(END);
        assertEq(devices.walletOf(sensor.addr), address(0));
    }

    function test_DeviceEndsWithin100Years() public {
        uint64 latest = uint64(START + YEARS_100);
        authorize(topicOwner, sensor, latest);
        bytes memory consent = consentOf(sensor, topicOwner);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.EndTooFar.selector, latest + 1, latest));
        vm.prank(topicOwner);
        devices.authorizeDevice(sensor.addr, latest + 1, consent);
    }

    function test_RevertWhen_DeviceEndsNow() public {
        bytes memory consent = consentOf(sensor, topicOwner);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.EndNotInFuture.selector, START, START));
        vm.prank(topicOwner);
        devices.authorizeDevice(sensor.addr, START, consent);
        authorize(topicOwner, sensor, START + 1);
    }

    function test_RevertWhen_DeviceIsZeroOrWallet() public {
        vm.expectRevert(IDeviceRegistry.ZeroAddress.selector);
        vm.prank(topicOwner);
        devices.authorizeDevice(address(0), END, "");
        bytes memory consent = consentOf(sensor, sensor.addr);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.DeviceIsWallet.selector, sensor.addr));
        vm.prank(sensor.addr);
        devices.authorizeDevice(sensor.addr, END, consent);
    }

    function test_RevertWhen_DeviceTaken() public {
        authorize(topicOwner, sensor, END);
        bytes memory consent = consentOf(sensor, stranger);
        bytes memory refusal =
            abi.encodeWithSelector(IDeviceRegistry.DeviceTaken.selector, sensor.addr, topicOwner, END);
        vm.expectRevert(refusal);
        vm.prank(stranger);
        devices.authorizeDevice(sensor.addr, END, consent);
        vm.warp(END - 1);
        vm.expectRevert(refusal);
        vm.prank(stranger);
        devices.authorizeDevice(sensor.addr, END + 1, consent);
    }

    function test_FreeKeyChangesWallet() public {
        authorize(topicOwner, sensor, END);
        vm.warp(END);
        authorize(stranger, sensor, END + 10);
        assertEq(devices.walletOf(sensor.addr), stranger);
        vm.prank(stranger);
        devices.revokeDevice(sensor.addr);
        authorize(buyer, sensor, END + 10);
        vm.prank(buyer);
        devices.revokeAllDevices();
        authorize(topicOwner, sensor, END + 10);
        assertEq(devices.walletOf(sensor.addr), topicOwner);
    }

    function test_RevertWhen_SignedByAnother() public {
        refuseConsent(consentOf(vm.createWallet("thief"), topicOwner));
    }

    function test_RevertWhen_ConsentForAnotherWallet() public {
        refuseConsent(consentOf(sensor, stranger));
    }

    function test_RevertWhen_ConsentForElsewhere() public {
        DeviceRegistry other = new DeviceRegistry();
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(sensor, other.consentDigest(topicOwner));
        refuseConsent(abi.encodePacked(r, s, v));
        bytes memory here = consentOf(sensor, topicOwner);
        vm.chainId(10);
        refuseConsent(here);
    }

    function test_RevertWhen_SignatureMalformed() public {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(sensor, devices.consentDigest(topicOwner));
        refuseConsent(abi.encodePacked(r, bytes32(N - uint256(s)), v == 27 ? uint8(28) : uint8(27)));
        refuseConsent(abi.encodePacked(r, s, v == 27 ? uint8(28) : uint8(27)));
        refuseConsent(abi.encodePacked(r, s, v - 27));
        refuseConsent(abi.encodePacked(r, s, v, uint8(0)));
        // Without v it is a short signature, whose highest bit says which of two keys signed: here the other.
        refuseConsent(abi.encodePacked(r, uint256(s) | (v == 27 ? 1 << 255 : 0)));
        refuseConsent(abi.encodePacked(r));
        refuseConsent("");
        refuseConsent(new bytes(65));
        authorize(topicOwner, sensor, END);
    }

    function testFuzz_GarbageNeverPasses(bytes calldata garbage) public {
        refuseConsent(garbage);
        refuseConsent(abi.encodePacked(keccak256(garbage), keccak256("s") >> 1, uint8(27)));
        refuseConsent(abi.encodePacked(keccak256(garbage), keccak256("s") >> 1));
    }

    function test_ConsentDigest() public view {
        bytes32 domain = keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("FlyTrap"),
                keccak256("1"),
                block.chainid,
                address(devices)
            )
        );
        bytes32 consent = keccak256(abi.encode(keccak256("Device(address wallet)"), topicOwner));
        assertEq(devices.consentDigest(topicOwner), keccak256(abi.encodePacked(hex"1901", domain, consent)));
    }

    // revokeDevice

    function test_RevokeDevice() public {
        Vm.Wallet memory second = vm.createWallet("second");
        authorize(topicOwner, sensor, END);
        authorize(topicOwner, second, END);
        vm.warp(START + 5);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceRevoked(topicOwner, sensor.addr);
        vm.prank(topicOwner);
        devices.revokeDevice(sensor.addr);
        assertEq(devices.walletOf(sensor.addr), address(0));
        assertEq(devices.deviceUntil(sensor.addr), START + 5);
        assertEq(devices.walletOf(second.addr), topicOwner);
    }

    function test_RevertWhen_NotYourDevice() public {
        authorize(topicOwner, sensor, END);
        vm.startPrank(stranger);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotYourDevice.selector, stranger, sensor.addr));
        devices.revokeDevice(sensor.addr);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotYourDevice.selector, stranger, buyer));
        devices.revokeDevice(buyer);
        vm.stopPrank();
        // Nobody's key belongs to the zero address.
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotYourDevice.selector, address(0), buyer));
        vm.prank(address(0));
        devices.revokeDevice(buyer);
    }

    function test_RevertWhen_DeviceEnded() public {
        authorize(topicOwner, sensor, END);
        vm.startPrank(topicOwner);
        devices.revokeDevice(sensor.addr);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotYourDevice.selector, topicOwner, sensor.addr));
        devices.revokeDevice(sensor.addr);
    }

    // revokeAllDevices

    function test_RevokeAllDevices() public {
        Vm.Wallet memory second = vm.createWallet("second");
        Vm.Wallet memory others = vm.createWallet("others");
        authorize(topicOwner, sensor, END);
        authorize(topicOwner, second, END);
        authorize(stranger, others, END);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.AllDevicesRevoked(topicOwner, 1);
        vm.prank(topicOwner);
        devices.revokeAllDevices();
        assertEq(devices.generationOf(topicOwner), 1);
        assertEq(devices.walletOf(sensor.addr), address(0));
        assertEq(devices.walletOf(second.addr), address(0));
        assertEq(devices.walletOf(others.addr), stranger);
    }

    function test_AuthorizeInNextGeneration() public {
        authorize(topicOwner, sensor, END);
        vm.prank(topicOwner);
        devices.revokeAllDevices();
        bytes memory consent = consentOf(sensor, topicOwner);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceAuthorized(topicOwner, sensor.addr, END, 1);
        vm.prank(topicOwner);
        devices.authorizeDevice(sensor.addr, END, consent);
        assertEq(devices.walletOf(sensor.addr), topicOwner);
    }

    /// forge-config: default.isolate = true
    function test_RevokeAllIsConstant() public {
        vm.startPrank(topicOwner);
        devices.revokeAllDevices();
        devices.revokeAllDevices();
        uint256 withNone = vm.lastCallGas().gasTotalUsed;
        vm.stopPrank();
        for (uint256 i = 1; i <= 30; ++i) {
            authorize(topicOwner, vm.createWallet(i), END);
        }
        vm.prank(topicOwner);
        devices.revokeAllDevices();
        assertEq(vm.lastCallGas().gasTotalUsed, withNone);
    }

    // invalidateBefore

    function test_InvalidateBefore() public {
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.TokensInvalidated(topicOwner, START - 10);
        vm.prank(topicOwner);
        devices.invalidateBefore(START - 10);
        assertEq(devices.tokensValidFrom(topicOwner), START - 10);
        assertEq(devices.tokensValidFrom(stranger), 0);
    }

    function test_InvalidateUpToNow() public {
        vm.startPrank(topicOwner);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotInPast.selector, START + 1, START));
        devices.invalidateBefore(START + 1);
        devices.invalidateBefore(START);
        assertEq(devices.tokensValidFrom(topicOwner), START);
    }

    function test_RevertWhen_NotLater() public {
        vm.startPrank(topicOwner);
        devices.invalidateBefore(START - 10);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotLater.selector, START - 10, START - 10));
        devices.invalidateBefore(START - 10);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.NotLater.selector, 0, START - 10));
        devices.invalidateBefore(0);
        devices.invalidateBefore(START - 9);
    }
}
