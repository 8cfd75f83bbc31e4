// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {ITopicRegistry} from "../interfaces/ITopicRegistry.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";

/// @title The names of topics: which are valid, what their ids are, and which names stand above them.
/// @dev A name is worked on as its *path*, the octets whose hash is the topic's id: `abi.encode(brokerId, name)`. {cutLastLevel}
/// turns a path into that of the name one level up in place, so a walk to the top makes one copy of the name, not one per level.
library TopicName {
    uint256 internal constant MAX_OCTETS = 256;
    uint256 internal constant MAX_LEVELS = 16;

    /// @dev Bit `c` is set if octet `c` may stand in a name: visible ASCII, 0x21 to 0x7E, but for `#` (0x23) and `+` (0x2B), which are
    /// MQTT's wildcards.
    uint256 private constant ALLOWED = ((1 << 0x7F) - (1 << 0x21)) & ~uint256((1 << 0x23) | (1 << 0x2B));

    /// @dev A path before the octets of the name: broker id, offset, length.
    uint256 private constant PATH_HEAD = 0x60;

    /// @dev "0x" and 40 digits.
    uint256 private constant ADDRESS_OCTETS = 42;

    /// @notice Reverts with {ITopicRegistry-InvalidName} unless the name is valid. Of a name that is too long it quotes the beginning.
    function check(string calldata name) internal pure {
        string memory why = _faultOf(bytes(name));
        if (bytes(why).length == 0) return;
        if (bytes(name).length > MAX_OCTETS) revert ITopicRegistry.InvalidName(string(bytes(name)[:MAX_OCTETS]), why);
        revert ITopicRegistry.InvalidName(name, why);
    }

    /// @notice The path of a name, whose hash is the topic's id.
    function path(uint256 brokerId, string calldata name) internal pure returns (bytes memory) {
        return abi.encode(brokerId, name);
    }

    /// @notice Turns a path into that of the name one level up, in place.
    /// @return False at the top, where nothing is above; the path is then worthless.
    function cutLastLevel(bytes memory encoded) internal pure returns (bool) {
        uint256 length;
        assembly ("memory-safe") {
            length := mload(add(encoded, PATH_HEAD))
        }
        // What follows the name up to a whole word is zeroes in the encoding, so each octet that goes is cleared.
        while (length > 0) {
            --length;
            bool isSeparator = encoded[PATH_HEAD + length] == "/";
            encoded[PATH_HEAD + length] = 0;
            if (isSeparator) break;
        }
        // Solidity cannot shorten bytes in memory; both lengths only shrink here, so nothing outside the bytes is touched.
        assembly ("memory-safe") {
            mstore(add(encoded, PATH_HEAD), length)
            mstore(encoded, add(PATH_HEAD, and(add(length, 31), not(31))))
        }
        return length > 0;
    }

    /// @notice Is the first level of the name the lower-case address of `wallet`?
    function isBranchOf(string calldata name, address wallet) internal pure returns (bool) {
        bytes calldata octets = bytes(name);
        if (octets.length < ADDRESS_OCTETS) return false;
        if (octets.length > ADDRESS_OCTETS && octets[ADDRESS_OCTETS] != "/") return false;
        return keccak256(octets[:ADDRESS_OCTETS]) == keccak256(bytes(Strings.toHexString(wallet)));
    }

    /// @return Why the name is invalid, in words; empty if it is valid.
    function _faultOf(bytes calldata octets) private pure returns (string memory) {
        uint256 length = octets.length;
        if (length == 0) return "empty";
        if (length > MAX_OCTETS) return "longer than 256 octets";
        if (octets[0] == "$") return "starts with $";

        uint256 levels = 1;
        uint256 levelStart = 0;
        for (uint256 i = 0; i < length; ++i) {
            bytes1 octet = octets[i];
            if (octet == "/") {
                if (i == levelStart) return "empty level";
                levelStart = i + 1;
                ++levels;
            } else if ((ALLOWED >> uint8(octet)) & 1 == 0) {
                return "octet not allowed";
            }
        }
        if (levelStart == length) return "empty level";
        return levels > MAX_LEVELS ? "more than 16 levels" : "";
    }
}
