// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {TopicName} from "../src-sol/libraries/TopicName.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";
import {Test} from "forge-std/Test.sol";

/// @notice Makes the library's functions callable, with names in calldata as the registry has them.
contract TopicNameCaller {
    function check(string calldata name) external pure {
        TopicName.check(name);
    }

    function id(uint256 brokerId, string calldata name) external pure returns (bytes32) {
        return keccak256(TopicName.path(brokerId, name));
    }

    function idsAbove(uint256 brokerId, string calldata name) external pure returns (bytes32[] memory ids) {
        bytes memory path = TopicName.path(brokerId, name);
        ids = new bytes32[](TopicName.MAX_OCTETS);
        uint256 found;
        while (TopicName.cutLastLevel(path)) {
            ids[found++] = keccak256(path);
        }
        assembly ("memory-safe") {
            mstore(ids, found)
        }
    }

    function isBranchOf(string calldata name, address wallet) external pure returns (bool) {
        return TopicName.isBranchOf(name, wallet);
    }
}

contract TopicNameTest is Test {
    TopicNameCaller private names = new TopicNameCaller();

    function refuse(string memory name, string memory why) private {
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.InvalidName.selector, name, why));
        names.check(name);
    }

    function levels(uint256 count) private pure returns (string memory name) {
        name = "l";
        for (uint256 i = 1; i < count; ++i) {
            name = string.concat(name, "/l");
        }
    }

    function repeated(uint256 octets) private pure returns (string memory) {
        bytes memory filled = new bytes(octets);
        for (uint256 i = 0; i < octets; ++i) {
            filled[i] = "n";
        }
        return string(filled);
    }

    function test_NameOf256OctetsIsValid() public view {
        names.check(repeated(256));
    }

    function test_RevertWhen_NameHas257Octets() public {
        vm.expectRevert(
            abi.encodeWithSelector(ITopicRegistry.InvalidName.selector, repeated(256), "longer than 256 octets")
        );
        names.check(repeated(257));
    }

    function test_RevertWhen_NameIsHuge() public {
        vm.expectRevert(
            abi.encodeWithSelector(ITopicRegistry.InvalidName.selector, repeated(256), "longer than 256 octets")
        );
        names.check(repeated(100_000));
    }

    function test_NameOf16LevelsIsValid() public view {
        names.check(levels(16));
    }

    function test_RevertWhen_NameHas17Levels() public {
        refuse(levels(17), "more than 16 levels");
    }

    function test_RevertWhen_NameIsEmpty() public {
        refuse("", "empty");
    }

    function test_RevertWhen_LevelIsEmpty() public {
        refuse("/", "empty level");
        refuse("/a", "empty level");
        refuse("a/", "empty level");
        refuse("a//b", "empty level");
    }

    function test_RevertWhen_NameHoldsWildcard() public {
        refuse("#", "octet not allowed");
        refuse("+", "octet not allowed");
        refuse("a/#", "octet not allowed");
        refuse("a/+/b", "octet not allowed");
        refuse("a+b", "octet not allowed");
    }

    function test_RevertWhen_NameStartsWithDollar() public {
        refuse("$", "starts with $");
        refuse("$SYS/broker", "starts with $");
        refuse("$share/group/topic", "starts with $");
    }

    function test_DollarInsideIsValid() public view {
        names.check("price/$/ounce");
        names.check("a$");
    }

    function test_RevertWhen_NameIsNotVisibleAscii() public {
        refuse("a b", "octet not allowed");
        refuse("a\tb", "octet not allowed");
        refuse("a\x00b", "octet not allowed");
        refuse("a\x7Fb", "octet not allowed");
        refuse(unicode"caf\u00e9", "octet not allowed");
        refuse(unicode"a\u200db", "octet not allowed");
        refuse(string(bytes(hex"61C0AF62")), "octet not allowed");
        refuse(string(bytes(hex"FF")), "octet not allowed");
    }

    function test_EveryOctetAlone() public {
        uint256 valid;
        for (uint256 octet = 0; octet < 256; ++octet) {
            string memory name = string(abi.encodePacked(uint8(octet)));
            if (isValid(bytes(name))) {
                names.check(name);
                ++valid;
            } else {
                vm.expectPartialRevert(ITopicRegistry.InvalidName.selector);
                names.check(name);
            }
        }
        // 94 visible characters but for $ # + and the separator, which leaves two empty levels.
        assertEq(valid, 90);
    }

    function testFuzz_AgreesWithPlainReading(bytes memory raw, uint256 mildness) public {
        // Raw octets are hardly ever valid; most runs map them onto characters that are, with few that are not.
        bytes memory alphabet = "ab/cd/e-fg_h.0~!$+# /";
        mildness = bound(mildness, 0, 3);
        if (mildness > 0) {
            for (uint256 i = 0; i < raw.length; ++i) {
                raw[i] = alphabet[uint8(raw[i]) % (mildness == 1 ? alphabet.length : 16)];
            }
        }
        if (!isValid(raw)) vm.expectPartialRevert(ITopicRegistry.InvalidName.selector);
        names.check(string(raw));
    }

    function testFuzz_PathHashesToId(uint256 brokerId, string memory name) public view {
        assertEq(names.id(brokerId, name), keccak256(abi.encode(brokerId, name)));
    }

    function test_IdsOfShiftedPairsDiffer() public view {
        assertNotEq(names.id(1, "ab/c"), names.id(1, "a/bc"));
        assertNotEq(names.id(1, "a"), names.id(2, "a"));
        assertNotEq(names.id(1, "a"), names.id(1, "a\x00"));
        assertNotEq(names.id(1, ""), names.id(1, "\x00"));
    }

    function testFuzz_WalkVisitsEachNameAbove(uint256 brokerId, uint8[16] memory lengths, uint256 count) public view {
        count = bound(count, 1, 16);
        string memory name;
        bytes32[] memory prefixes = new bytes32[](count);
        for (uint256 i = 0; i < count; ++i) {
            string memory level = repeated(1 + lengths[i] % 40);
            name = i == 0 ? level : string.concat(name, "/", level);
            prefixes[i] = keccak256(abi.encode(brokerId, name));
        }
        bytes32[] memory above = names.idsAbove(brokerId, name);
        assertEq(above.length, count - 1);
        for (uint256 i = 0; i < above.length; ++i) {
            assertEq(above[i], prefixes[count - 2 - i], "nearest first");
        }
    }

    function test_WalkFromSixteenLevels() public view {
        bytes32[] memory above = names.idsAbove(7, levels(16));
        assertEq(above.length, 15);
        assertEq(above[0], names.id(7, levels(15)));
        assertEq(above[14], names.id(7, "l"));
    }

    function test_TopHasNothingAbove() public view {
        assertEq(names.idsAbove(7, "top").length, 0);
    }

    function test_OwnBranch() public view {
        address wallet = 0xABcdEFABcdEFabcdEfAbCdefabcdeFABcDEFabCD;
        assertTrue(names.isBranchOf("0xabcdefabcdefabcdefabcdefabcdefabcdefabcd", wallet));
        assertTrue(names.isBranchOf("0xabcdefabcdefabcdefabcdefabcdefabcdefabcd/room", wallet));
    }

    function test_ChecksummedAddressIsNoBranch() public view {
        address wallet = 0xABcdEFABcdEFabcdEfAbCdefabcdeFABcDEFabCD;
        assertFalse(names.isBranchOf("0xABcdEFABcdEFabcdEfAbCdefabcdeFABcDEFabCD/room", wallet));
    }

    function test_LongerLevelIsNoBranch() public view {
        address wallet = 0xABcdEFABcdEFabcdEfAbCdefabcdeFABcDEFabCD;
        assertFalse(names.isBranchOf("0xabcdefabcdefabcdefabcdefabcdefabcdefabcd0/room", wallet));
    }

    function test_ShorterLevelIsNoBranch() public view {
        address wallet = 0xABcdEFABcdEFabcdEfAbCdefabcdeFABcDEFabCD;
        assertFalse(names.isBranchOf("0xabcdefabcdefabcdefabcdefabcdefabcdefabc", wallet));
        assertFalse(names.isBranchOf("0xabcdefabcdefabcdefabcdefabcdefabcdefabc/d", wallet));
    }

    function testFuzz_BranchOfAnotherIsNot(address wallet, address other) public view {
        vm.assume(wallet != other);
        assertTrue(names.isBranchOf(string.concat(Strings.toHexString(wallet), "/x"), wallet));
        assertFalse(names.isBranchOf(string.concat(Strings.toHexString(other), "/x"), wallet));
    }

    /// @dev The rules as a person would read them, slowly.
    function isValid(bytes memory name) private pure returns (bool) {
        if (name.length == 0 || name.length > 256 || name[0] == "$") return false;
        if (name[0] == "/" || name[name.length - 1] == "/") return false;
        uint256 separators;
        for (uint256 i = 0; i < name.length; ++i) {
            if (name[i] < 0x21 || name[i] > 0x7E || name[i] == "+" || name[i] == "#") return false;
            if (name[i] != "/") continue;
            if (name[i + 1] == "/") return false;
            ++separators;
        }
        return separators < 16;
    }
}
