// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Invariants} from "./Invariants.sol";

/// @title All that a suite of invariants claims, looked at after each act of one and the same game.
/// @dev Forge plays a game of its own for each invariant. What is short may cost that; of a long one it would be the same again 34 times,
/// so `make invariants-deep` plays only this.
abstract contract Claims is Invariants {
    /// @dev Signatures of the suite's invariants.
    string[] private _claims;

    function setUp() public virtual override {
        super.setUp();
        // From the artifact, since a list written by hand would miss one without a word.
        string memory file = string.concat("out/", suite(), ".invariants.t.sol/", suite(), "Invariants.json");
        string[] memory functions = vm.parseJsonKeys(vm.readFile(file), ".methodIdentifiers");
        for (uint256 i = 0; i < functions.length; ++i) {
            bool isItself = bytes4(keccak256(bytes(functions[i]))) == this.invariant_AllAtOnce.selector;
            if (vm.indexOf(functions[i], "invariant_") == 0 && !isItself) _claims.push(functions[i]);
        }
    }

    /// @dev Names the file and the contract.
    function suite() internal pure virtual returns (string memory);

    /// @dev Five has the smallest suite.
    function invariant_AllAtOnce() public view {
        uint256 count = _claims.length;
        assertGe(count, 5, "nothing to look at");
        for (uint256 i = 0; i < count; ++i) {
            (bool holds, bytes memory why) = address(this).staticcall(abi.encodeWithSignature(_claims[i]));
            if (!holds) revert(string.concat(_claims[i], " does not hold: ", textOf(why)));
        }
    }

    // Nearly all hold, and asking forge is most of what looking would take.

    function assertEq(uint256 left, uint256 right) internal pure override {
        if (left != right) super.assertEq(left, right);
    }

    function assertEq(bool left, bool right) internal pure override {
        if (left != right) super.assertEq(left, right);
    }

    function assertEq(address left, address right) internal pure override {
        if (left != right) super.assertEq(left, right);
    }

    function assertLe(uint256 left, uint256 right) internal pure override {
        if (left > right) super.assertLe(left, right);
    }

    /// @dev Of an error whose argument is a text, as those of assertions are; of any other its octets.
    function textOf(bytes memory answer) private pure returns (string memory) {
        bytes4 selector = bytes4(answer);
        if (selector != bytes4(keccak256("Error(string)")) && selector != bytes4(keccak256("CheatcodeError(string)"))) {
            return vm.toString(answer);
        }
        bytes memory arguments = new bytes(answer.length - 4);
        for (uint256 i = 0; i < arguments.length; ++i) {
            arguments[i] = answer[i + 4];
        }
        return abi.decode(arguments, (string));
    }
}
