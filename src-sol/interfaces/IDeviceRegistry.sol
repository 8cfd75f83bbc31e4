// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

/// @title Device keys: keys that act for a wallet at every broker, until an end.
/// @notice A key acts for one wallet. It must consent by an EIP-712 signature over `Device(address wallet)` in the domain
/// `{name "FlyTrap", version "1", chainId, verifyingContract}`, so nobody can claim a key that is not theirs. A key that acted
/// for a wallet can act for another once revoked or expired.
interface IDeviceRegistry {
    /// @notice `generation` is the wallet's generation; {AllDevicesRevoked} starts the next, in which all keys of earlier ones are dead.
    event DeviceAuthorized(address indexed wallet, address indexed device, uint64 until, uint64 generation);
    event DeviceRevoked(address indexed wallet, address indexed device);
    event AllDevicesRevoked(address indexed wallet, uint64 generation);
    /// @notice Tokens that the wallet itself signed with `issuedAt < before` are worthless from now on.
    event TokensInvalidated(address indexed wallet, uint64 before);

    error ZeroAddress();
    error DeviceIsWallet(address wallet);
    error DeviceTaken(address device, address wallet, uint64 until);
    error DeviceDidNotConsent(address wallet, address device);
    error NotYourDevice(address wallet, address device);
    error EndNotInFuture(uint64 until, uint256 blockTime);
    error EndTooFar(uint64 until, uint256 latest);
    error NotInPast(uint64 before, uint256 blockTime);
    error NotLater(uint64 before, uint64 current);

    /// @notice Lets `device` act for the caller until `until`. Calling again changes the end.
    /// @param consent The device key's signature, 64 octets (ERC-2098) or 65.
    function authorizeDevice(address device, uint64 until, bytes calldata consent) external;
    /// @notice Ends one key.
    function revokeDevice(address device) external;
    /// @notice Ends all keys of the caller, in O(1).
    function revokeAllDevices() external;
    /// @notice Ends all tokens that the caller's wallet signed before `before`, a moment not in the future and later than the last one.
    function invalidateBefore(uint64 before) external;

    /// @return wallet For whom the key acts now, zero if for nobody.
    function walletOf(address device) external view returns (address wallet);
    function deviceUntil(address device) external view returns (uint64 until);
    function generationOf(address wallet) external view returns (uint64);
    function tokensValidFrom(address wallet) external view returns (uint64);
    /// @return The digest that a device key signs to consent to act for `wallet`.
    function consentDigest(address wallet) external view returns (bytes32);
}
