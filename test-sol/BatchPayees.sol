// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {AccessMarket} from "../src-sol/AccessMarket.sol";
import {Payee} from "./Payees.sol";

/// @notice Counts how often it is paid.
contract CountingPayee is Payee {
    uint256 public times;

    receive() external payable {
        ++times;
    }
}

/// @notice Makes one call, whichever it was told, while it is being paid, and keeps the answer.
contract MeddlingPayee is Payee {
    address private immutable _target;
    address private immutable _blob;
    bool private immutable _withValue;
    /// @dev One slot, for there is gas for one.
    uint8 public times;
    bool public succeeded;
    bytes4 public refusal;

    constructor(address target, bytes memory data, bool withValue) {
        _target = target;
        _blob = address(new Blob(data));
        _withValue = withValue;
    }

    receive() external payable {
        bytes memory data = _blob.code;
        assembly ("memory-safe") {
            // Without the octet that keeps the blob from being run.
            let length := sub(mload(data), 1)
            data := add(data, 1)
            mstore(data, length)
        }
        (bool success, bytes memory answer) = _target.call{value: _withValue ? msg.value : 0}(data);
        (times, succeeded, refusal) = (times + 1, success, bytes4(answer));
    }
}

/// @notice Octets that are cheap to read back: the code of a contract.
contract Blob {
    constructor(bytes memory data) {
        bytes memory code = abi.encodePacked(uint8(0), data);
        assembly ("memory-safe") {
            return(add(code, 0x20), mload(code))
        }
    }
}

/// @notice Chooses to be paid elsewhere at the very moment it is paid.
contract SwitchingPayee is Payee {
    AccessMarket private immutable _market;
    address private immutable _to;

    constructor(AccessMarket market, address to) {
        _market = market;
        _to = to;
    }

    receive() external payable {
        _market.setPayout(_to, false);
    }
}
