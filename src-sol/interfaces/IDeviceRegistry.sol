// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

/// @title Device keys: keys that act for a wallet at every broker, until an end.
/// @notice A key acts for one wallet. It must consent by an EIP-712 signature over `Device(address wallet)` in the domain
/// `{name "FlyTrap", version "1", chainId, verifyingContract}`, so nobody can claim a key that is not theirs. A key that acted
/// for a wallet can act for another once revoked or expired.
///
/// What a wallet may do here, others may hand in for it (a relayer that pays the gas, say) with its signature over one of
/// `AuthorizeDevices(address wallet,address[] devices,uint64 until,uint256 nonce,uint64 deadline)` and
/// `RevokeAllDevices(address wallet,uint256 nonce,uint64 deadline)` in the same domain. `nonce` is the wallet's {nonces}, each used
/// once; `deadline` is the first second at which it is worthless. A signature that recovers to the wallet counts whether or not the
/// wallet has code (EIP-7702); of any other a wallet with code is asked by ERC-1271.
interface IDeviceRegistry {
    /// @notice `generation` is the wallet's generation; {AllDevicesRevoked} starts the next, in which all keys of earlier ones are dead.
    event DeviceAuthorized(address indexed wallet, address indexed device, uint64 until, uint64 generation);
    event DeviceRevoked(address indexed wallet, address indexed device);
    event AllDevicesRevoked(address indexed wallet, uint64 generation);
    /// @notice Tokens that the wallet itself signed with `issuedAt < before` are worthless from now on.
    event TokensInvalidated(address indexed wallet, uint64 before);
    /// @notice Something that the wallet signed with this nonce was handed in, or the wallet gave the nonce up.
    event NonceUsed(address indexed wallet, uint256 nonce);

    error ZeroAddress();
    error DeviceIsWallet(address wallet);
    error DeviceTaken(address device, address wallet, uint64 until);
    error DeviceDidNotConsent(address wallet, address device);
    error NotYourDevice(address wallet, address device);
    error NoDevices();
    error WrongConsentCount(uint256 devices, uint256 consents);
    error EndNotInFuture(uint64 until, uint256 blockTime);
    error EndTooFar(uint64 until, uint64 latest);
    error NotInPast(uint64 before, uint256 blockTime);
    error NotLater(uint64 before, uint64 current);
    error SignatureExpired(uint64 deadline, uint256 blockTime);
    /// @notice The signature is not the wallet's over this very content and its next nonce.
    error InvalidSignature(address wallet, uint256 nonce);

    /// @notice Lets `device` act for the caller until `until`. Calling again changes the end.
    /// @param consent The device key's signature, 64 octets (ERC-2098) or 65.
    function authorizeDevice(address device, uint64 until, bytes calldata consent) external;
    /// @notice As {authorizeDevice} for each of the keys; all or nothing.
    /// @param consents One for each of `devices`, in their order.
    function authorizeDevices(address[] calldata devices, uint64 until, bytes[] calldata consents) external;
    /// @notice As {authorizeDevices} for `wallet`, by its signature over `AuthorizeDevices`. Anyone.
    function authorizeDevicesFor(
        address wallet,
        address[] calldata devices,
        uint64 until,
        bytes[] calldata consents,
        uint64 deadline,
        bytes calldata signature
    ) external;

    /// @notice Ends one key.
    function revokeDevice(address device) external;
    /// @notice Ends each of the keys; all or nothing.
    function revokeDevices(address[] calldata devices) external;
    /// @notice Ends all keys of the caller, in O(1). What the caller signed and nobody has handed in yet is not among them, see {cancelNonce}.
    function revokeAllDevices() external;
    /// @notice As {revokeAllDevices} for `wallet`, by its signature over `RevokeAllDevices`. Anyone.
    function revokeAllDevicesFor(address wallet, uint64 deadline, bytes calldata signature) external;

    /// @notice Ends all tokens that the caller's wallet signed before `before`, a moment not in the future and later than the last one.
    function invalidateBefore(uint64 before) external;
    /// @notice Uses up the caller's next nonce, so that what was signed with it can no longer be handed in.
    function cancelNonce() external;

    /// @return wallet For whom the key acts now, zero if for nobody.
    function walletOf(address device) external view returns (address wallet);
    function deviceUntil(address device) external view returns (uint64 until);
    function generationOf(address wallet) external view returns (uint64);
    function tokensValidFrom(address wallet) external view returns (uint64);
    /// @return The nonce that the wallet signs next.
    function nonces(address wallet) external view returns (uint256);
    /// @return The digest that a device key signs to consent to act for `wallet`.
    function consentDigest(address wallet) external view returns (bytes32);
    /// @return The digest that `wallet` signs for {authorizeDevicesFor}, with its next nonce.
    function authorizeDevicesDigest(address wallet, address[] calldata devices, uint64 until, uint64 deadline)
        external
        view
        returns (bytes32);
    /// @return The digest that `wallet` signs for {revokeAllDevicesFor}, with its next nonce.
    function revokeAllDevicesDigest(address wallet, uint64 deadline) external view returns (bytes32);
}
