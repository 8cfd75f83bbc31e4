// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "./interfaces/IAccessMarket.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title Sends money to people who may not be able to take it.
/// @dev A payee is paid at once, within bounds; if that fails the money becomes its credit, to be withdrawn to wherever it likes. So a
/// payee can hurt nobody but itself. What the contract holds is the sum of all credits, plus what someone forced on it, on which
/// nothing depends.
abstract contract Payouts is IAccessMarket, ReentrancyGuardTransient {
    /// @dev Gas for a payee to take a payment. A Safe with its proxy, fallback handler and event needs less than 15,000.
    uint256 internal constant PUSH_GAS = 60_000;

    /// @dev What the call itself may cost beside {PUSH_GAS}: cold account, value, new account, and some slack.
    uint256 internal constant PUSH_OVERHEAD = 40_000;

    mapping(address payee => uint256 amountWei) private _credits;

    /// @inheritdoc IAccessMarket
    function withdraw(address to) external nonReentrant returns (uint256 amountWei) {
        if (to == address(0)) revert PaymentFailed(to, 0);
        amountWei = _credits[msg.sender];
        if (amountWei == 0) revert NoCredit(msg.sender);
        _credits[msg.sender] = 0;
        emit Withdrawn(msg.sender, to, amountWei);
        // The payee pays for its own gas here, so it may use what it likes.
        if (!_send(to, amountWei, gasleft())) revert PaymentFailed(to, amountWei);
    }

    /// @inheritdoc IAccessMarket
    function creditOf(address payee) public view returns (uint256) {
        return _credits[payee];
    }

    /// @dev Pays at once or credits. To be called last, when state and events are complete.
    function _pay(address payee, uint256 amountWei) internal {
        if (amountWei == 0) return;
        uint256 gasLeft = gasleft();
        if (gasLeft - gasLeft / 64 < PUSH_GAS + PUSH_OVERHEAD) revert GasTooLow(gasLeft, PUSH_GAS + PUSH_OVERHEAD);
        if (_send(payee, amountWei, PUSH_GAS)) return;
        _credits[payee] += amountWei;
        emit Credited(payee, amountWei);
    }

    function _send(address to, uint256 amountWei, uint256 gasLimit) private returns (bool success) {
        // Solidity's own call copies whatever comes back into our memory at our cost, and a payee may return megabytes.
        assembly ("memory-safe") {
            success := call(gasLimit, to, amountWei, 0, 0, 0, 0)
        }
    }
}
