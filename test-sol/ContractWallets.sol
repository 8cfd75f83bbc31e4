// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

/// @notice The plainest ERC-1271 wallet: whatever its owner signed is signed. It binds nothing to itself, as many in use do not.
contract OwnedWallet {
    bytes4 private constant MAGIC = 0x1626ba7e;

    address public owner;

    constructor(address owner_) {
        owner = owner_;
    }

    function handOver(address to) external {
        require(msg.sender == owner, "not the owner");
        owner = to;
    }

    function isValidSignature(bytes32 hash, bytes calldata signature) external view returns (bytes4) {
        if (signature.length < 65) return 0xffffffff;
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        // What follows the 65th octet is of no interest here, as the second owner's signature may be to another wallet.
        return ecrecover(hash, uint8(signature[64]), r, s) == owner ? MAGIC : bytes4(0xffffffff);
    }
}

/// @notice Says yes to everything: whoever claims it is it.
contract YesWallet {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return 0x1626ba7e;
    }
}

/// @notice Says yes in every second block.
contract FickleWallet {
    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        return block.number % 2 == 0 ? bytes4(0x1626ba7e) : bytes4(0);
    }
}

/// @notice Never ends.
contract LoopingWallet {
    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        uint256 sum = block.number;
        while (sum != 0) sum = uint256(keccak256(abi.encode(sum)));
        return 0x1626ba7e;
    }
}

/// @notice Answers with ten million octets that begin as a yes does.
contract LongWindedWallet {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        assembly {
            mstore(0, shl(224, 0x1626ba7e))
            return(0, 10000000)
        }
    }
}

/// @notice Reverts with the yes as its reason.
contract RevertingWallet {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        assembly {
            mstore(0, shl(224, 0x1626ba7e))
            revert(0, 32)
        }
    }
}
