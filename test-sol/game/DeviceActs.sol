// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IDeviceRegistry} from "../../src-sol/interfaces/IDeviceRegistry.sol";
import {Game} from "./Game.sol";

/// @title What wallets do with the keys of their devices, and what others try with them.
abstract contract DeviceActs is Game {
    uint256 internal constant DEVICES = 4;

    struct DevicePage {
        address wallet;
        uint64 until;
        uint64 generation;
    }

    address[] public deviceKeys;
    mapping(address device => uint256) private _deviceKeys;
    mapping(address device => DevicePage) internal devicePages;
    mapping(address wallet => uint64) public generations;
    mapping(address wallet => uint256) public nonces;
    mapping(address wallet => uint64) public validFrom;

    mapping(address wallet => uint64) private _seenGeneration;
    mapping(address wallet => uint256) private _seenNonce;
    mapping(address wallet => uint64) private _seenValidFrom;

    bytes private _oldCall;
    uint256 private _oldNonce;
    address private _oldWallet;

    constructor() {
        for (uint256 i = 0; i < DEVICES; ++i) {
            (address device, uint256 key) = makeAddrAndKey(string.concat("device", vm.toString(i)));
            deviceKeys.push(device);
            _deviceKeys[device] = key;
        }
    }

    modifier numbersWatched() {
        _;
        for (uint256 i = 0; i < KEYED; ++i) {
            address who = actors[i];
            (uint64 generation, uint256 nonce, uint64 from) =
                (devices.generationOf(who), devices.nonces(who), devices.tokensValidFrom(who));
            if (generation < _seenGeneration[who]) relapse("a generation");
            if (nonce < _seenNonce[who]) relapse("a nonce");
            if (from < _seenValidFrom[who]) relapse("the begin of valid tokens");
            (_seenGeneration[who], _seenNonce[who], _seenValidFrom[who]) = (generation, nonce, from);
        }
    }

    function deviceCount() external view returns (uint256) {
        return deviceKeys.length;
    }

    function devicePage(address device) external view returns (DevicePage memory) {
        return devicePages[device];
    }

    function walletOf(address device) public view returns (address) {
        DevicePage memory page = devicePages[device];
        bool isOver = block.timestamp >= page.until || page.generation != generations[page.wallet];
        return isOver ? address(0) : page.wallet;
    }

    /// @dev Directly, in a batch, or handed in by another with the wallet's signature. A key that acts for another wallet stays with it.
    function authorize(uint256 wallet, uint256 device, uint256 time, uint256 form) external numbersWatched {
        (address who, address key) = (keyed(wallet), deviceKeys[device % DEVICES]);
        uint64 until = uint64(block.timestamp + _bound(time, 1, 2 days));
        address from = form % 3 == 2 ? actor(form / 3) : who;
        bytes memory data = authorization(who, key, who, until, form % 3);
        if (walletOf(key) != address(0) && walletOf(key) != who) {
            return mustNot(from, address(devices), data, IDeviceRegistry.DeviceTaken.selector, "take a device over");
        }
        must(from, address(devices), 0, data);
        if (form % 3 == 2) {
            (_oldCall, _oldNonce, _oldWallet) = (data, nonces[who]++, who);
            did("authorize a device by signature");
        }
        devicePages[key] = DevicePage(who, until, generations[who]);
        did("authorize a device");
    }

    /// @dev With the consent to act for somebody else, the key has not consented.
    function claim(uint256 wallet, uint256 device, uint256 form) external numbersWatched {
        (address who, address key) = (keyed(wallet), deviceKeys[device % DEVICES]);
        if (walletOf(key) != address(0) && walletOf(key) != who) return;
        bytes memory data = authorization(who, key, keyed(wallet % KEYED + 1), clock() + 1, form % 2);
        mustNot(who, address(devices), data, IDeviceRegistry.DeviceDidNotConsent.selector, "claim a device");
    }

    function revokeDevice(uint256 device, uint256 form) external numbersWatched {
        address key = deviceKeys[device % DEVICES];
        address who = walletOf(key);
        if (who == address(0)) return;
        must(who, address(devices), 0, revocation(key, form % 2 == 0));
        devicePages[key].until = clock();
        did("revoke a device");
    }

    function revokeAnothers(uint256 wallet, uint256 device, uint256 form) external numbersWatched {
        (address who, address key) = (actor(wallet), deviceKeys[device % DEVICES]);
        if (walletOf(key) == who) return;
        bytes memory data = revocation(key, form % 2 == 0);
        mustNot(who, address(devices), data, IDeviceRegistry.NotYourDevice.selector, "revoke another's device");
    }

    function revokeAll(uint256 wallet, uint256 form) external numbersWatched {
        address who = keyed(wallet);
        if (form % 2 == 0) {
            must(who, address(devices), 0, abi.encodeCall(devices.revokeAllDevices, ()));
        } else {
            uint64 deadline = clock() + 1;
            bytes memory signature = sign(keys[who], devices.revokeAllDevicesDigest(who, deadline));
            bytes memory data = abi.encodeCall(devices.revokeAllDevicesFor, (who, deadline, signature));
            must(actor(form / 2), address(devices), 0, data);
            (_oldCall, _oldNonce, _oldWallet) = (data, nonces[who]++, who);
        }
        ++generations[who];
        did("revoke all devices");
    }

    /// @dev What was handed in already, as long as its deadline is not over.
    function replay(uint256 by) external numbersWatched {
        if (_oldCall.length == 0 || nonces[_oldWallet] <= _oldNonce) return;
        (bool success, bytes memory answer) = attempt(actor(by), address(devices), 0, _oldCall);
        if (success) trespasses.push("hand in twice");
        bytes4 refusal = bytes4(answer);
        bool known = refusal == IDeviceRegistry.InvalidSignature.selector
            || refusal == IDeviceRegistry.SignatureExpired.selector;
        assertTrue(success || known, "a signature is used once");
        did("hand in twice");
    }

    /// @dev Signed by a wallet for itself, handed in for another.
    function forge(uint256 wallet, uint256 by) external numbersWatched {
        (address who, address other) = (keyed(wallet), keyed(wallet % KEYED + 1));
        uint64 deadline = clock() + 1;
        bytes memory signature = sign(keys[other], devices.revokeAllDevicesDigest(who, deadline));
        bytes memory data = abi.encodeCall(devices.revokeAllDevicesFor, (who, deadline, signature));
        mustNot(actor(by), address(devices), data, IDeviceRegistry.InvalidSignature.selector, "sign for another");
    }

    function invalidate(uint256 wallet, uint256 back) external numbersWatched {
        address who = keyed(wallet);
        if (clock() <= validFrom[who]) return;
        uint64 before = clock() - uint64(_bound(back, 0, clock() - validFrom[who] - 1));
        must(who, address(devices), 0, abi.encodeCall(devices.invalidateBefore, (before)));
        validFrom[who] = before;
        did("invalidate tokens");

        bytes memory data = abi.encodeCall(devices.invalidateBefore, (before - uint64(back % 2)));
        mustNot(who, address(devices), data, IDeviceRegistry.NotLater.selector, "make old tokens valid");
    }

    function cancel(uint256 wallet) external numbersWatched {
        address who = keyed(wallet);
        must(who, address(devices), 0, abi.encodeCall(devices.cancelNonce, ()));
        ++nonces[who];
        did("give a nonce up");
    }

    function keyed(uint256 seed) private view returns (address) {
        return actors[seed % KEYED];
    }

    /// @param consentFor For whom the key consents to act.
    /// @param form 0 for one key, 1 for a list, 2 for a list with the wallet's signature.
    function authorization(address who, address key, address consentFor, uint64 until, uint256 form)
        private
        view
        returns (bytes memory)
    {
        bytes memory consent = sign(_deviceKeys[key], devices.consentDigest(consentFor));
        if (form == 0) return abi.encodeCall(devices.authorizeDevice, (key, until, consent));
        (address[] memory list, bytes[] memory consents) = (new address[](1), new bytes[](1));
        (list[0], consents[0]) = (key, consent);
        if (form == 1) return abi.encodeCall(devices.authorizeDevices, (list, until, consents));
        uint64 deadline = clock() + 1 days;
        bytes memory signature = sign(keys[who], devices.authorizeDevicesDigest(who, list, until, deadline));
        return abi.encodeCall(devices.authorizeDevicesFor, (who, list, until, consents, deadline, signature));
    }

    function revocation(address key, bool isOne) private view returns (bytes memory) {
        if (isOne) return abi.encodeCall(devices.revokeDevice, (key));
        address[] memory list = new address[](1);
        list[0] = key;
        return abi.encodeCall(devices.revokeDevices, (list));
    }

    function sign(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }
}
