// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IDeviceRegistry} from "./interfaces/IDeviceRegistry.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title The one registry of device keys on a chain.
/// @dev A consent is bound to chain, contract and wallet. It has no nonce: what it allows, acting for that wallet, may be repeated, and
/// only that wallet can use it.
contract DeviceRegistry is IDeviceRegistry, EIP712 {
    using SafeCast for uint256;

    /// @notice How far ahead a device key may end, in seconds.
    uint256 public constant MAX_AHEAD = 36_500 days;

    bytes32 private constant DEVICE_TYPEHASH = keccak256("Device(address wallet)");

    /// @dev Two slots: the wallet with its end, and the generation the key belongs to.
    struct Device {
        address wallet;
        uint64 until;
        uint64 generation;
    }

    mapping(address device => Device) private _devices;

    /// @inheritdoc IDeviceRegistry
    mapping(address wallet => uint64) public generationOf;

    /// @inheritdoc IDeviceRegistry
    mapping(address wallet => uint64) public tokensValidFrom;

    constructor() EIP712("FlyTrap", "1") {}

    /// @inheritdoc IDeviceRegistry
    function authorizeDevice(address device, uint64 until, bytes calldata consent) external {
        if (device == address(0)) revert ZeroAddress();
        if (device == msg.sender) revert DeviceIsWallet(msg.sender);
        if (until <= block.timestamp) revert EndNotInFuture(until, block.timestamp);
        uint256 latest = block.timestamp + MAX_AHEAD;
        if (until > latest) revert EndTooFar(until, latest.toUint64());
        address current = walletOf(device);
        if (current != address(0) && current != msg.sender) {
            revert DeviceTaken(device, current, _devices[device].until);
        }
        if (_signer(consentDigest(msg.sender), consent) != device) revert DeviceDidNotConsent(msg.sender, device);

        uint64 generation = generationOf[msg.sender];
        _devices[device] = Device(msg.sender, until, generation);
        emit DeviceAuthorized(msg.sender, device, until, generation);
    }

    /// @inheritdoc IDeviceRegistry
    function revokeDevice(address device) external {
        address wallet = walletOf(device);
        if (wallet == address(0) || wallet != msg.sender) revert NotYourDevice(msg.sender, device);
        _devices[device].until = block.timestamp.toUint64();
        emit DeviceRevoked(msg.sender, device);
    }

    /// @inheritdoc IDeviceRegistry
    function revokeAllDevices() external {
        uint64 generation = ++generationOf[msg.sender];
        emit AllDevicesRevoked(msg.sender, generation);
    }

    /// @inheritdoc IDeviceRegistry
    function invalidateBefore(uint64 before) external {
        if (before > block.timestamp) revert NotInPast(before, block.timestamp);
        uint64 current = tokensValidFrom[msg.sender];
        if (before <= current) revert NotLater(before, current);
        tokensValidFrom[msg.sender] = before;
        emit TokensInvalidated(msg.sender, before);
    }

    /// @inheritdoc IDeviceRegistry
    function deviceUntil(address device) external view returns (uint64 until) {
        return _devices[device].until;
    }

    /// @inheritdoc IDeviceRegistry
    function walletOf(address device) public view returns (address wallet) {
        Device storage entry = _devices[device];
        if (block.timestamp >= entry.until || entry.generation != generationOf[entry.wallet]) return address(0);
        return entry.wallet;
    }

    /// @inheritdoc IDeviceRegistry
    function consentDigest(address wallet) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(DEVICE_TYPEHASH, wallet)));
    }

    /// @return Zero if the signature is none.
    function _signer(bytes32 digest, bytes calldata signature) private pure returns (address) {
        (address signer,,) = signature.length == 64
            ? ECDSA.tryRecover(digest, bytes32(signature[:32]), bytes32(signature[32:]))
            : ECDSA.tryRecoverCalldata(digest, signature);
        return signer;
    }
}
