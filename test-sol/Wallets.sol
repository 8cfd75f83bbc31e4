// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

/// @title A wallet that is a contract, and answers ERC-1271 well, badly or worse.
/// @dev The answer is in the code, so that the code can be put at another address, as EIP-7702 does.
contract ContractWallet {
    enum Answer {
        Yes,
        YesAtLength,
        No,
        Empty,
        Short,
        RightAligned,
        DirtyTail,
        Reverts,
        RevertsWithYes,
        Writes,
        NoAtLength,
        Invalid,
        Loops
    }

    bytes4 private constant YES = 0x1626ba7e;

    Answer private immutable _answer;
    bytes32 private immutable _digest;
    bytes32 private immutable _signature;
    uint256 private _writes;

    /// @param digest The only one it says yes to.
    /// @param signature The only one it says yes to.
    constructor(Answer answer, bytes32 digest, bytes memory signature) {
        (_answer, _digest, _signature) = (answer, digest, keccak256(signature));
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external returns (bytes4) {
        if (digest != _digest || keccak256(signature) != _signature) return 0xffffffff;
        Answer answer = _answer;
        if (answer == Answer.Yes) return YES;
        if (answer == Answer.No) return 0xffffffff;
        if (answer == Answer.YesAtLength) give(YES, 1_000_000, true);
        if (answer == Answer.Empty) give(YES, 0, true);
        if (answer == Answer.Short) give(YES, 31, true);
        if (answer == Answer.RightAligned) give(bytes32(uint256(uint32(YES))), 32, true);
        if (answer == Answer.DirtyTail) give(bytes32(YES) | bytes32(uint256(1)), 32, true);
        if (answer == Answer.Reverts) give(0, 0, false);
        if (answer == Answer.RevertsWithYes) give(YES, 32, false);
        if (answer == Answer.NoAtLength) give(0, 1_000_000, true);
        if (answer == Answer.Invalid) {
            assembly {
                invalid()
            }
        }
        if (answer == Answer.Writes) {
            ++_writes;
            return YES;
        }
        while (true) {}
        return YES;
    }

    function give(bytes32 word, uint256 length, bool success) private pure {
        assembly {
            mstore(0, word)
            if success { return(0, length) }
            revert(0, length)
        }
    }
}
