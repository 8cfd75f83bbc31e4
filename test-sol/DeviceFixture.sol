// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Fixture} from "./Fixture.sol";
import {Vm} from "forge-std/Vm.sol";

/// @title Two device keys and a wallet that signs; what they sign, by a second reading of EIP-712.
abstract contract DeviceFixture is Fixture {
    /// @dev Order of the curve, to turn a signature into its twin with high s.
    uint256 internal constant N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    uint64 internal constant END = START + 30 days;
    uint64 internal constant DEADLINE = START + 1 hours;

    Vm.Wallet internal sensor;
    Vm.Wallet internal valve;
    Vm.Wallet internal owner;

    function setUp() public virtual override {
        super.setUp();
        sensor = vm.createWallet("sensor");
        valve = vm.createWallet("valve");
        owner = vm.createWallet("owner");
    }

    function signed(Vm.Wallet memory key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key.privateKey, digest);
        return abi.encodePacked(r, s, v);
    }

    function consentOf(Vm.Wallet memory key, address wallet) internal view returns (bytes memory) {
        return signed(key, devices.consentDigest(wallet));
    }

    function keys() internal view returns (address[] memory all) {
        all = new address[](2);
        (all[0], all[1]) = (sensor.addr, valve.addr);
    }

    function consentsFor(address wallet) internal view returns (bytes[] memory all) {
        all = new bytes[](2);
        (all[0], all[1]) = (consentOf(sensor, wallet), consentOf(valve, wallet));
    }

    function domain(uint256 chainId, address verifier) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak256("FlyTrap"),
                keccak256("1"),
                chainId,
                verifier
            )
        );
    }

    function authorizeStruct(address wallet, address[] memory all, uint64 until, uint256 nonce, uint64 deadline)
        internal
        pure
        returns (bytes32)
    {
        bytes memory words;
        for (uint256 i = 0; i < all.length; ++i) {
            words = abi.encodePacked(words, bytes32(uint256(uint160(all[i]))));
        }
        return keccak256(
            abi.encode(
                keccak256(
                    "AuthorizeDevices(address wallet,address[] devices,uint64 until,uint256 nonce,uint64 deadline)"
                ),
                wallet,
                keccak256(words),
                until,
                nonce,
                deadline
            )
        );
    }

    function revokeAllStruct(address wallet, uint256 nonce, uint64 deadline) internal pure returns (bytes32) {
        return keccak256(
            abi.encode(
                keccak256("RevokeAllDevices(address wallet,uint256 nonce,uint64 deadline)"), wallet, nonce, deadline
            )
        );
    }

    function digestOf(bytes32 structHash) internal view returns (bytes32) {
        return digestOf(domain(block.chainid, address(devices)), structHash);
    }

    function digestOf(bytes32 domainHash, bytes32 structHash) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(hex"1901", domainHash, structHash));
    }
}
