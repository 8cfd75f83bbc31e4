// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IDeviceRegistry} from "./interfaces/IDeviceRegistry.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {SignatureChecker} from "@openzeppelin/contracts/utils/cryptography/SignatureChecker.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title The one registry of device keys on a chain.
/// @dev A consent is bound to chain, contract and wallet. It has no nonce: what it allows, acting for that wallet, may be repeated, and
/// only that wallet can use it. What a wallet signs has one, since handing it in changes what holds for that wallet.
contract DeviceRegistry is IDeviceRegistry, EIP712, Nonces {
    using SafeCast for uint256;

    /// @notice How far ahead a device key may end, in seconds.
    uint256 public constant MAX_AHEAD = 36_500 days;

    bytes32 private constant DEVICE_TYPEHASH = keccak256("Device(address wallet)");
    bytes32 private constant AUTHORIZE_TYPEHASH =
        keccak256("AuthorizeDevices(address wallet,address[] devices,uint64 until,uint256 nonce,uint64 deadline)");
    bytes32 private constant REVOKE_ALL_TYPEHASH =
        keccak256("RevokeAllDevices(address wallet,uint256 nonce,uint64 deadline)");

    /// @dev One slot: the wallet, the end, and the generation the key belongs to.
    struct Device {
        address wallet;
        uint40 until;
        uint56 generation;
    }

    mapping(address device => Device) private _devices;
    mapping(address wallet => uint56) private _generations;

    /// @inheritdoc IDeviceRegistry
    mapping(address wallet => uint64) public tokensValidFrom;

    constructor() EIP712("FlyTrap", "1") {}

    /// @inheritdoc IDeviceRegistry
    function authorizeDevice(address device, uint64 until, bytes calldata consent) external {
        _checkEnd(until);
        _authorize(msg.sender, _generations[msg.sender], consentDigest(msg.sender), device, until, consent);
    }

    /// @inheritdoc IDeviceRegistry
    function authorizeDevices(address[] calldata devices, uint64 until, bytes[] calldata consents) external {
        _authorizeAll(msg.sender, devices, until, consents);
    }

    /// @inheritdoc IDeviceRegistry
    function authorizeDevicesFor(
        address wallet,
        address[] calldata devices,
        uint64 until,
        bytes[] calldata consents,
        uint64 deadline,
        bytes calldata signature
    ) external {
        _useSignature(wallet, authorizeDevicesDigest(wallet, devices, until, deadline), deadline, signature);
        _authorizeAll(wallet, devices, until, consents);
    }

    /// @inheritdoc IDeviceRegistry
    function revokeDevice(address device) external {
        _revoke(device);
    }

    /// @inheritdoc IDeviceRegistry
    function revokeDevices(address[] calldata devices) external {
        if (devices.length == 0) revert NoDevices();
        for (uint256 i = 0; i < devices.length; ++i) {
            _revoke(devices[i]);
        }
    }

    /// @inheritdoc IDeviceRegistry
    function revokeAllDevices() external {
        _revokeAll(msg.sender);
    }

    /// @inheritdoc IDeviceRegistry
    function revokeAllDevicesFor(address wallet, uint64 deadline, bytes calldata signature) external {
        _useSignature(wallet, revokeAllDevicesDigest(wallet, deadline), deadline, signature);
        _revokeAll(wallet);
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
    function cancelNonce() external {
        emit NonceUsed(msg.sender, _useNonce(msg.sender));
    }

    /// @inheritdoc IDeviceRegistry
    function deviceUntil(address device) external view returns (uint64 until) {
        return _devices[device].until;
    }

    /// @inheritdoc IDeviceRegistry
    function generationOf(address wallet) external view returns (uint64) {
        return _generations[wallet];
    }

    /// @inheritdoc IDeviceRegistry
    function nonces(address wallet) public view override(IDeviceRegistry, Nonces) returns (uint256) {
        return super.nonces(wallet);
    }

    /// @inheritdoc IDeviceRegistry
    function walletOf(address device) public view returns (address wallet) {
        Device memory entry = _devices[device];
        if (block.timestamp >= entry.until || entry.generation != _generations[entry.wallet]) return address(0);
        return entry.wallet;
    }

    /// @inheritdoc IDeviceRegistry
    function consentDigest(address wallet) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(DEVICE_TYPEHASH, wallet)));
    }

    /// @inheritdoc IDeviceRegistry
    function authorizeDevicesDigest(address wallet, address[] calldata devices, uint64 until, uint64 deadline)
        public
        view
        returns (bytes32)
    {
        // EIP-712 hashes an array as its elements, each in a word of its own; encodePacked does that for arrays.
        bytes32 list = keccak256(abi.encodePacked(devices));
        return
            _hashTypedDataV4(keccak256(abi.encode(AUTHORIZE_TYPEHASH, wallet, list, until, nonces(wallet), deadline)));
    }

    /// @inheritdoc IDeviceRegistry
    function revokeAllDevicesDigest(address wallet, uint64 deadline) public view returns (bytes32) {
        return _hashTypedDataV4(keccak256(abi.encode(REVOKE_ALL_TYPEHASH, wallet, nonces(wallet), deadline)));
    }

    /// @dev Checks that the wallet signed `digest`, which holds its next nonce, and uses that nonce up.
    function _useSignature(address wallet, bytes32 digest, uint64 deadline, bytes calldata signature) private {
        if (block.timestamp >= deadline) revert SignatureExpired(deadline, block.timestamp);
        uint256 nonce = _useNonce(wallet);
        // Recovery first: a wallet that got code by EIP-7702 keeps signing with its key, here as at the gateways.
        bool isItsKey = wallet != address(0) && _signer(digest, signature) == wallet;
        if (!isItsKey && !SignatureChecker.isValidERC1271SignatureNowCalldata(wallet, digest, signature)) {
            revert InvalidSignature(wallet, nonce);
        }
        emit NonceUsed(wallet, nonce);
    }

    function _authorizeAll(address wallet, address[] calldata devices, uint64 until, bytes[] calldata consents)
        private
    {
        if (devices.length == 0) revert NoDevices();
        if (devices.length != consents.length) revert WrongConsentCount(devices.length, consents.length);
        _checkEnd(until);
        uint56 generation = _generations[wallet];
        bytes32 digest = consentDigest(wallet);
        for (uint256 i = 0; i < devices.length; ++i) {
            _authorize(wallet, generation, digest, devices[i], until, consents[i]);
        }
    }

    function _authorize(
        address wallet,
        uint56 generation,
        bytes32 digest,
        address device,
        uint64 until,
        bytes calldata consent
    ) private {
        if (device == address(0)) revert ZeroAddress();
        if (device == wallet) revert DeviceIsWallet(wallet);
        address current = walletOf(device);
        if (current != address(0) && current != wallet) {
            revert DeviceTaken(device, current, _devices[device].until);
        }
        if (_signer(digest, consent) != device) revert DeviceDidNotConsent(wallet, device);
        _devices[device] = Device(wallet, uint256(until).toUint40(), generation);
        emit DeviceAuthorized(wallet, device, until, generation);
    }

    function _revoke(address device) private {
        address wallet = walletOf(device);
        if (wallet == address(0) || wallet != msg.sender) revert NotYourDevice(msg.sender, device);
        _devices[device].until = block.timestamp.toUint40();
        emit DeviceRevoked(msg.sender, device);
    }

    function _revokeAll(address wallet) private {
        uint56 generation = ++_generations[wallet];
        emit AllDevicesRevoked(wallet, generation);
    }

    function _checkEnd(uint64 until) private view {
        if (until <= block.timestamp) revert EndNotInFuture(until, block.timestamp);
        uint256 latest = block.timestamp + MAX_AHEAD;
        if (until > latest) revert EndTooFar(until, latest.toUint64());
    }

    /// @return Zero if the signature is none.
    function _signer(bytes32 digest, bytes calldata signature) private pure returns (address) {
        (address signer,,) = signature.length == 64
            ? ECDSA.tryRecover(digest, bytes32(signature[:32]), bytes32(signature[32:]))
            : ECDSA.tryRecoverCalldata(digest, signature);
        return signer;
    }
}
