// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {DeviceRegistry} from "../src-sol/DeviceRegistry.sol";
import {IDeviceRegistry} from "../src-sol/interfaces/IDeviceRegistry.sol";
import {DeviceFixture} from "./DeviceFixture.sol";
import {ContractWallet} from "./Wallets.sol";

/// @title What a wallet signs and another hands in.
contract DeviceSignatureTest is DeviceFixture {
    /// @dev Gas of handing in two keys for a contract wallet, beside what that spends.
    uint256 private constant HAND_IN_GAS = 200_000;

    function signature() private view returns (bytes memory) {
        return signed(owner, devices.authorizeDevicesDigest(owner.addr, keys(), END, DEADLINE));
    }

    function handIn(address wallet, bytes memory proof) private {
        bytes[] memory consents = consentsFor(wallet);
        vm.prank(stranger);
        devices.authorizeDevicesFor(wallet, keys(), END, consents, DEADLINE, proof);
    }

    function refuse(address wallet, uint256 nonce, bytes memory proof) private {
        bytes[] memory consents = consentsFor(wallet);
        bytes memory refusal = abi.encodeWithSelector(IDeviceRegistry.InvalidSignature.selector, wallet, nonce);
        vm.expectRevert(refusal);
        vm.prank(stranger);
        devices.authorizeDevicesFor(wallet, keys(), END, consents, DEADLINE, proof);
        vm.expectRevert(refusal);
        vm.prank(stranger);
        devices.revokeAllDevicesFor(wallet, DEADLINE, proof);
        assertEq(devices.walletOf(sensor.addr), address(0));
        assertEq(devices.generationOf(wallet), 0);
        assertEq(devices.nonces(wallet), nonce);
    }

    function handInRevocation(bytes memory proof) private {
        vm.prank(stranger);
        devices.revokeAllDevicesFor(owner.addr, DEADLINE, proof);
    }

    // authorizeDevicesFor

    function test_AuthorizeDevicesFor() public {
        bytes memory proof = signature();
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.NonceUsed(owner.addr, 0);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceAuthorized(owner.addr, sensor.addr, END, 0);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.DeviceAuthorized(owner.addr, valve.addr, END, 0);
        handIn(owner.addr, proof);
        assertEq(devices.walletOf(sensor.addr), owner.addr, "the wallet's, not the caller's");
        assertEq(devices.walletOf(valve.addr), owner.addr);
        assertEq(devices.nonces(owner.addr), 1);
        assertEq(devices.nonces(stranger), 0);
    }

    function test_ShortSignatureOfWallet() public {
        bytes32 digest = devices.authorizeDevicesDigest(owner.addr, keys(), END, DEADLINE);
        (bytes32 r, bytes32 vs) = vm.signCompact(owner.privateKey, digest);
        handIn(owner.addr, abi.encodePacked(r, vs));
        assertEq(devices.walletOf(valve.addr), owner.addr);
    }

    function test_RevertWhen_DeadlineIsOver() public {
        bytes memory proof = signature();
        bytes[] memory consents = consentsFor(owner.addr);
        vm.warp(DEADLINE);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.SignatureExpired.selector, DEADLINE, DEADLINE));
        devices.authorizeDevicesFor(owner.addr, keys(), END, consents, DEADLINE, proof);
        vm.warp(DEADLINE - 1);
        handIn(owner.addr, proof);
    }

    function testFuzz_Deadline(uint64 deadline) public {
        bytes memory proof = signed(owner, devices.authorizeDevicesDigest(owner.addr, keys(), END, deadline));
        bytes[] memory consents = consentsFor(owner.addr);
        bytes memory refusal = abi.encodeWithSelector(IDeviceRegistry.SignatureExpired.selector, deadline, START);
        if (deadline <= START) vm.expectRevert(refusal);
        devices.authorizeDevicesFor(owner.addr, keys(), END, consents, deadline, proof);
        proof = signed(owner, devices.revokeAllDevicesDigest(owner.addr, deadline));
        if (deadline <= START) vm.expectRevert(refusal);
        devices.revokeAllDevicesFor(owner.addr, deadline, proof);
        assertEq(devices.nonces(owner.addr), deadline <= START ? 0 : 2);
    }

    function test_RevertWhen_Replayed() public {
        bytes memory proof = signature();
        handIn(owner.addr, proof);
        vm.prank(owner.addr);
        devices.revokeDevices(keys());
        bytes[] memory consents = consentsFor(owner.addr);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidSignature.selector, owner.addr, 1));
        devices.authorizeDevicesFor(owner.addr, keys(), END, consents, DEADLINE, proof);
        assertEq(devices.walletOf(sensor.addr), address(0));
        handIn(owner.addr, signature());
        assertEq(devices.nonces(owner.addr), 2);
    }

    function test_RevertWhen_NonceIsNotTheNext() public {
        for (uint256 nonce = 1; nonce < 4; ++nonce) {
            refuse(owner.addr, 0, signed(owner, digestOf(authorizeStruct(owner.addr, keys(), END, nonce, DEADLINE))));
        }
        bytes memory proof = signed(owner, digestOf(authorizeStruct(owner.addr, keys(), END, 1, DEADLINE)));
        vm.prank(owner.addr);
        devices.cancelNonce();
        handIn(owner.addr, proof);
    }

    function test_RevertWhen_SignedForElsewhere() public {
        bytes32 content = authorizeStruct(owner.addr, keys(), END, 0, DEADLINE);
        refuse(owner.addr, 0, signed(owner, digestOf(domain(block.chainid + 1, address(devices)), content)));
        refuse(owner.addr, 0, signed(owner, digestOf(domain(block.chainid, address(brokers)), content)));
        DeviceRegistry other = new DeviceRegistry();
        bytes32 digest = other.authorizeDevicesDigest(owner.addr, keys(), END, DEADLINE);
        refuse(owner.addr, 0, signed(owner, digest));
        bytes memory here = signature();
        uint256 chain = block.chainid;
        vm.chainId(chain + 1);
        refuse(owner.addr, 0, here);
        vm.chainId(chain);
        handIn(owner.addr, here);
    }

    function test_RevertWhen_SignedByOrForAnother() public {
        bytes32 digest = devices.authorizeDevicesDigest(owner.addr, keys(), END, DEADLINE);
        refuse(owner.addr, 0, signed(vm.createWallet("thief"), digest));
        refuse(owner.addr, 0, signed(sensor, digest));
        refuse(owner.addr, 0, signed(owner, devices.authorizeDevicesDigest(stranger, keys(), END, DEADLINE)));
        refuse(stranger, 0, signature());
        refuse(stranger, 0, signed(owner, devices.authorizeDevicesDigest(stranger, keys(), END, DEADLINE)));
    }

    function test_RevertWhen_ContentIsAnother() public {
        address[] memory swapped = keys();
        (swapped[0], swapped[1]) = (swapped[1], swapped[0]);
        address[] memory fewer = new address[](1);
        fewer[0] = sensor.addr;
        refuse(owner.addr, 0, signed(owner, devices.authorizeDevicesDigest(owner.addr, swapped, END, DEADLINE)));
        refuse(owner.addr, 0, signed(owner, devices.authorizeDevicesDigest(owner.addr, fewer, END, DEADLINE)));
        refuse(owner.addr, 0, signed(owner, devices.authorizeDevicesDigest(owner.addr, keys(), END + 1, DEADLINE)));
        refuse(owner.addr, 0, signed(owner, devices.authorizeDevicesDigest(owner.addr, keys(), END, DEADLINE + 1)));
        refuse(owner.addr, 0, signed(owner, devices.consentDigest(owner.addr)));
        refuse(owner.addr, 0, signed(owner, authorizeStruct(owner.addr, keys(), END, 0, DEADLINE)));
    }

    function test_RevertWhen_WalletSignatureMalformed() public {
        bytes32 digest = devices.authorizeDevicesDigest(owner.addr, keys(), END, DEADLINE);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(owner.privateKey, digest);
        uint8 otherV = v == 27 ? 28 : 27;
        refuse(owner.addr, 0, abi.encodePacked(r, bytes32(N - uint256(s)), otherV));
        refuse(owner.addr, 0, abi.encodePacked(r, bytes32(N - uint256(s)), v));
        refuse(owner.addr, 0, abi.encodePacked(r, s, otherV));
        refuse(owner.addr, 0, abi.encodePacked(r, s, v - 27));
        refuse(owner.addr, 0, abi.encodePacked(r, s, v, uint8(0)));
        refuse(owner.addr, 0, abi.encodePacked(r, uint256(s) | (v == 27 ? 1 << 255 : 0)));
        refuse(owner.addr, 0, abi.encodePacked(r, uint248(uint256(s))));
        refuse(owner.addr, 0, abi.encodePacked(r));
        refuse(owner.addr, 0, "");
        refuse(owner.addr, 0, new bytes(64));
        refuse(owner.addr, 0, new bytes(65));
        handIn(owner.addr, abi.encodePacked(r, s, v));
    }

    function testFuzz_GarbageSignsNothing(address wallet, bytes calldata garbage) public {
        vm.assume(wallet != sensor.addr && wallet != valve.addr && wallet.code.length == 0);
        refuse(wallet, 0, garbage);
        refuse(wallet, 0, abi.encodePacked(keccak256(garbage), keccak256("s") >> 1, uint8(27)));
        refuse(wallet, 0, abi.encodePacked(keccak256(garbage), keccak256("s") >> 1));
    }

    function test_RevertWhen_WalletIsZero() public {
        refuse(address(0), 0, "");
        refuse(address(0), 0, new bytes(64));
        refuse(address(0), 0, new bytes(65));
        refuse(address(0), 0, abi.encodePacked(bytes32(uint256(1)), bytes32(uint256(1)), uint8(29)));
        refuse(address(0), 0, signature());
    }

    /// @dev They answer whoever calls them, some with a word and more.
    function test_RevertWhen_WalletIsPrecompile() public {
        bytes[2] memory proofs = [signature(), bytes("")];
        for (uint160 i = 1; i <= 20; ++i) {
            // Some use up all the gas there is for what is no input to them.
            vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidSignature.selector, address(i % 10 + 1), 0));
            devices.revokeAllDevicesFor{gas: 3_000_000}(address(i % 10 + 1), DEADLINE, proofs[i / 11]);
        }
    }

    /// @dev What the wallet would be refused for if it called itself is refused with its signature too, and uses no nonce up.
    function test_RevertWhen_SignedContentIsBad() public {
        bytes[] memory consents = consentsFor(owner.addr);
        bytes memory good = signature();
        bytes memory proof = signed(owner, devices.authorizeDevicesDigest(owner.addr, new address[](0), END, DEADLINE));
        vm.expectRevert(IDeviceRegistry.NoDevices.selector);
        devices.authorizeDevicesFor(owner.addr, new address[](0), END, new bytes[](0), DEADLINE, proof);

        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.WrongConsentCount.selector, 2, 1));
        devices.authorizeDevicesFor(owner.addr, keys(), END, new bytes[](1), DEADLINE, good);

        consents[1] = consents[0];
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.DeviceDidNotConsent.selector, owner.addr, valve.addr));
        devices.authorizeDevicesFor(owner.addr, keys(), END, consents, DEADLINE, good);

        address[] memory own = keys();
        own[1] = owner.addr;
        proof = signed(owner, devices.authorizeDevicesDigest(owner.addr, own, END, DEADLINE));
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.DeviceIsWallet.selector, owner.addr));
        devices.authorizeDevicesFor(owner.addr, own, END, consents, DEADLINE, proof);

        bytes memory taken = consentOf(valve, buyer);
        vm.prank(buyer);
        devices.authorizeDevice(valve.addr, END, taken);
        consents = consentsFor(owner.addr);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.DeviceTaken.selector, valve.addr, buyer, END));
        devices.authorizeDevicesFor(owner.addr, keys(), END, consents, DEADLINE, good);
        assertEq(devices.nonces(owner.addr), 0);
        assertEq(devices.walletOf(sensor.addr), address(0));
    }

    function testFuzz_EndOfSignedDevices(uint64 until) public {
        uint64 latest = uint64(START + YEARS_100);
        bytes[] memory consents = consentsFor(owner.addr);
        bytes memory proof = signed(owner, devices.authorizeDevicesDigest(owner.addr, keys(), until, DEADLINE));
        if (until <= START) {
            vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.EndNotInFuture.selector, until, START));
        } else if (until > latest) {
            vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.EndTooFar.selector, until, latest));
        }
        devices.authorizeDevicesFor(owner.addr, keys(), until, consents, DEADLINE, proof);
        until = uint64(bound(until, START + 1, latest));
        proof = signed(owner, devices.authorizeDevicesDigest(owner.addr, keys(), until, DEADLINE));
        devices.authorizeDevicesFor(owner.addr, keys(), until, consents, DEADLINE, proof);
        assertEq(devices.deviceUntil(sensor.addr), until);
    }

    function testFuzz_DigestsAreWhatOthersCompute(
        address wallet,
        address[] calldata all,
        uint64 until,
        uint64 deadline,
        uint8 used
    ) public {
        uint256 nonce = used % 4;
        vm.startPrank(wallet);
        for (uint256 i = 0; i < nonce; ++i) {
            devices.cancelNonce();
        }
        assertEq(
            devices.authorizeDevicesDigest(wallet, all, until, deadline),
            digestOf(authorizeStruct(wallet, all, until, nonce, deadline))
        );
        assertEq(devices.revokeAllDevicesDigest(wallet, deadline), digestOf(revokeAllStruct(wallet, nonce, deadline)));
    }

    // Wallets that are contracts

    /// @dev The wallet's address is part of what it signs, and its digest part of its code: so the code goes to where it will be.
    function contractWallet(ContractWallet.Answer answer, bytes memory proof) private returns (address wallet) {
        wallet = makeAddr("contract wallet");
        bytes32 digest = devices.authorizeDevicesDigest(wallet, keys(), END, DEADLINE);
        vm.etch(wallet, address(new ContractWallet(answer, digest, proof)).code);
    }

    function test_ContractWalletSaysYes() public {
        address wallet = contractWallet(ContractWallet.Answer.Yes, "two of three");
        refuse(wallet, 0, "one of three");
        refuse(wallet, 0, "");
        handIn(wallet, "two of three");
        assertEq(devices.walletOf(sensor.addr), wallet);
        bytes[] memory consents = consentsFor(wallet);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidSignature.selector, wallet, 1));
        devices.authorizeDevicesFor(wallet, keys(), END, consents, DEADLINE, "two of three");
    }

    function test_ContractWalletOfAnyLength() public {
        uint256[6] memory lengths = [uint256(0), 31, 64, 65, 96, 5000];
        for (uint256 i = 0; i < lengths.length; ++i) {
            uint256 snapshot = vm.snapshotState();
            handIn(contractWallet(ContractWallet.Answer.Yes, bytes(text(lengths[i]))), bytes(text(lengths[i])));
            vm.revertToState(snapshot);
        }
    }

    function test_RevertWhen_ContractWalletDoesNotSayYes() public {
        ContractWallet.Answer[10] memory answers = [
            ContractWallet.Answer.No,
            ContractWallet.Answer.Empty,
            ContractWallet.Answer.Short,
            ContractWallet.Answer.RightAligned,
            ContractWallet.Answer.DirtyTail,
            ContractWallet.Answer.Reverts,
            ContractWallet.Answer.RevertsWithYes,
            ContractWallet.Answer.Writes,
            ContractWallet.Answer.NoAtLength,
            ContractWallet.Answer.Yes
        ];
        for (uint256 i = 0; i < answers.length; ++i) {
            address wallet = contractWallet(answers[i], "proof");
            bytes[] memory consents = consentsFor(wallet);
            if (i < answers.length - 1) {
                vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidSignature.selector, wallet, 0));
            }
            devices.authorizeDevicesFor(wallet, keys(), END, consents, DEADLINE, "proof");
        }
    }

    function test_MegabyteFromContractWallet() public {
        address wallet = contractWallet(ContractWallet.Answer.YesAtLength, "proof");
        handIn(wallet, "proof");
        // A megabyte is 2.1 million gas to whoever makes it, and were that again to whoever copies it.
        assertLt(vm.lastCallGas().gasTotalUsed, 2_200_000 + HAND_IN_GAS);
        assertEq(devices.walletOf(sensor.addr), wallet);
    }

    function test_RevertWhen_ContractWalletUsesAllGas() public {
        ContractWallet.Answer[2] memory answers = [ContractWallet.Answer.Loops, ContractWallet.Answer.Invalid];
        for (uint256 i = 0; i < answers.length; ++i) {
            address wallet = contractWallet(answers[i], "proof");
            bytes[] memory consents = consentsFor(wallet);
            vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidSignature.selector, wallet, 0));
            devices.authorizeDevicesFor{gas: 3_000_000}(wallet, keys(), END, consents, DEADLINE, "proof");
            assertEq(devices.nonces(wallet), 0);
        }
    }

    /// @dev As EIP-7702 makes it: an address with a key and with code.
    function test_KeyOfAWalletWithCode() public {
        vm.etch(owner.addr, address(new ContractWallet(ContractWallet.Answer.No, 0, "")).code);
        handIn(owner.addr, signature());
        assertEq(devices.walletOf(sensor.addr), owner.addr);
        handInRevocation(signed(owner, devices.revokeAllDevicesDigest(owner.addr, DEADLINE)));
        assertEq(devices.walletOf(sensor.addr), address(0));
    }

    function test_RevertWhen_KeyOfAWalletWithCodeSignedAnother() public {
        bytes memory proof = signature();
        vm.etch(owner.addr, address(new ContractWallet(ContractWallet.Answer.Loops, 0, "")).code);
        refuse(owner.addr, 0, signed(owner, devices.authorizeDevicesDigest(owner.addr, keys(), END + 1, DEADLINE)));
        refuse(owner.addr, 0, signed(sensor, devices.authorizeDevicesDigest(owner.addr, keys(), END, DEADLINE)));
        handIn(owner.addr, proof);
    }

    function test_CodeOfAWalletWithKey() public {
        bytes32 digest = devices.authorizeDevicesDigest(owner.addr, keys(), END, DEADLINE);
        vm.etch(owner.addr, address(new ContractWallet(ContractWallet.Answer.Yes, digest, "session key")).code);
        handIn(owner.addr, "session key");
        assertEq(devices.walletOf(sensor.addr), owner.addr);
    }

    // revokeAllDevicesFor

    function test_RevokeAllDevicesFor() public {
        handIn(owner.addr, signature());
        bytes memory proof = signed(owner, devices.revokeAllDevicesDigest(owner.addr, DEADLINE));
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.NonceUsed(owner.addr, 1);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.AllDevicesRevoked(owner.addr, 1);
        handInRevocation(proof);
        assertEq(devices.generationOf(owner.addr), 1);
        assertEq(devices.generationOf(stranger), 0);
        assertEq(devices.walletOf(sensor.addr), address(0));
        assertEq(devices.nonces(owner.addr), 2);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidSignature.selector, owner.addr, 2));
        handInRevocation(proof);
    }

    function test_RevertWhen_DeadlineOfRevocationIsOver() public {
        bytes memory proof = signed(owner, devices.revokeAllDevicesDigest(owner.addr, DEADLINE));
        vm.warp(DEADLINE);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.SignatureExpired.selector, DEADLINE, DEADLINE));
        handInRevocation(proof);
        vm.warp(DEADLINE - 1);
        handInRevocation(proof);
    }

    function test_RevertWhen_RevocationIsForElsewhereOrAnother() public {
        bytes32 content = revokeAllStruct(owner.addr, 0, DEADLINE);
        refuse(owner.addr, 0, signed(owner, digestOf(domain(block.chainid + 1, address(devices)), content)));
        refuse(owner.addr, 0, signed(owner, digestOf(domain(block.chainid, address(brokers)), content)));
        refuse(owner.addr, 0, signed(owner, digestOf(revokeAllStruct(owner.addr, 1, DEADLINE))));
        refuse(owner.addr, 0, signed(owner, digestOf(revokeAllStruct(stranger, 0, DEADLINE))));
        refuse(owner.addr, 0, signed(owner, digestOf(revokeAllStruct(owner.addr, 0, DEADLINE + 1))));
        refuse(stranger, 0, signed(owner, digestOf(content)));
        refuse(owner.addr, 0, signed(sensor, digestOf(content)));
        handInRevocation(signed(owner, digestOf(content)));
    }

    /// @dev One kind of signature is worth nothing as the other.
    function test_RevertWhen_SignedForTheOther() public {
        bytes memory toRevoke = signed(owner, devices.revokeAllDevicesDigest(owner.addr, DEADLINE));
        bytes memory toAuthorize = signature();
        bytes[] memory consents = consentsFor(owner.addr);
        bytes memory refusal = abi.encodeWithSelector(IDeviceRegistry.InvalidSignature.selector, owner.addr, 0);
        vm.expectRevert(refusal);
        devices.authorizeDevicesFor(owner.addr, keys(), END, consents, DEADLINE, toRevoke);
        vm.expectRevert(refusal);
        handInRevocation(toAuthorize);
        // Both stood on the same nonce, so either ends the other.
        handInRevocation(toRevoke);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidSignature.selector, owner.addr, 1));
        devices.authorizeDevicesFor(owner.addr, keys(), END, consents, DEADLINE, toAuthorize);
    }

    // cancelNonce

    function test_CancelNonce() public {
        bytes memory proof = signature();
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.NonceUsed(owner.addr, 0);
        vm.prank(owner.addr);
        devices.cancelNonce();
        assertEq(devices.nonces(owner.addr), 1);
        refuse(owner.addr, 1, proof);
        vm.expectEmit(address(devices));
        emit IDeviceRegistry.NonceUsed(owner.addr, 1);
        vm.prank(owner.addr);
        devices.cancelNonce();
    }

    /// @dev Ending keys and taking back what was signed are two things: a wallet in doubt does both.
    function test_RevokingAllLeavesWhatWasSigned() public {
        bytes memory proof = signature();
        vm.prank(owner.addr);
        devices.revokeAllDevices();
        uint256 snapshot = vm.snapshotState();
        handIn(owner.addr, proof);
        assertEq(devices.walletOf(sensor.addr), owner.addr);
        vm.revertToState(snapshot);
        vm.prank(owner.addr);
        devices.cancelNonce();
        bytes[] memory consents = consentsFor(owner.addr);
        vm.expectRevert(abi.encodeWithSelector(IDeviceRegistry.InvalidSignature.selector, owner.addr, 1));
        devices.authorizeDevicesFor(owner.addr, keys(), END, consents, DEADLINE, proof);
    }

    function test_OthersCancelTheirOwn() public {
        bytes memory proof = signature();
        vm.prank(stranger);
        devices.cancelNonce();
        assertEq(devices.nonces(stranger), 1);
        assertEq(devices.nonces(owner.addr), 0);
        handIn(owner.addr, proof);
    }
}
