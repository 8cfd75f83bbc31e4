// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "./interfaces/IAccessMarket.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title Sends money to people who may not be able to take it.
/// @dev A payee is paid at once, within bounds, where it wishes; if that fails, or it wishes so, the money becomes its credit, to be
/// withdrawn to wherever it likes. So a payee can hurt nobody but itself. What the contract holds is the sum of all credits, plus
/// what someone forced on it, on which nothing depends.
abstract contract Payouts is IAccessMarket, ReentrancyGuardTransient {
    /// @dev Gas for a payee to take a payment. A Safe with its proxy, fallback handler and event needs less than 15,000.
    uint256 internal constant PUSH_GAS = 60_000;

    /// @dev What the call itself may cost beside {PUSH_GAS}: cold account, value, new account, and some slack.
    uint256 internal constant PUSH_OVERHEAD = 40_000;

    /// @dev How a payee wishes to be paid; `to` zero is the payee itself.
    struct Payout {
        address to;
        bool isPull;
    }

    /// @dev Payments that are due once state and events are complete, each payee once.
    struct Due {
        address[] payees;
        uint256[] amountsWei;
        uint256 count;
        uint256 sumWei;
    }

    mapping(address payee => uint256 amountWei) private _credits;
    mapping(address payee => Payout) private _payouts;

    /// @inheritdoc IAccessMarket
    function setPayout(address to, bool isPull) external {
        Payout memory current = _payouts[msg.sender];
        if (to == current.to && isPull == current.isPull) revert PayoutUnchanged(msg.sender);
        _payouts[msg.sender] = Payout(to, isPull);
        emit PayoutSet(msg.sender, to, isPull);
    }

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

    /// @inheritdoc IAccessMarket
    function payoutOf(address payee) external view returns (address to, bool isPull) {
        Payout memory payout = _payouts[payee];
        return (payout.to == address(0) ? payee : payout.to, payout.isPull);
    }

    /// @dev Pays at once or credits. To be called last, when state and events are complete.
    function _pay(address payee, uint256 amountWei) internal {
        // An amount, not a balance.
        // slither-disable-next-line incorrect-equality
        if (amountWei == 0) return;
        Payout memory payout = _payouts[payee];
        if (!payout.isPull) {
            uint256 gasLeft = gasleft();
            if (gasLeft - gasLeft / 64 < PUSH_GAS + PUSH_OVERHEAD) {
                revert GasTooLow(gasLeft, PUSH_GAS + PUSH_OVERHEAD);
            }
            if (_send(payout.to == address(0) ? payee : payout.to, amountWei, PUSH_GAS)) return;
        }
        _credit(payee, amountWei);
        emit Credited(payee, amountWei);
    }

    /// @dev For what another event tells already.
    function _credit(address payee, uint256 amountWei) internal {
        if (amountWei > 0) _credits[payee] += amountWei;
    }

    /// @dev Room for payments to at most so many payees.
    function _noneDue(uint256 most) internal pure returns (Due memory) {
        return Due(new address[](most), new uint256[](most), 0, 0);
    }

    /// @dev Adds to what is due to a payee. Looks from the last one back, since batches come in runs.
    function _owe(Due memory due, address payee, uint256 amountWei) internal pure {
        // An amount, not a balance.
        // slither-disable-next-line incorrect-equality
        if (amountWei == 0) return;
        due.sumWei += amountWei;
        for (uint256 i = due.count; i > 0; --i) {
            if (due.payees[i - 1] == payee) {
                due.amountsWei[i - 1] += amountWei;
                return;
            }
        }
        due.payees[due.count] = payee;
        due.amountsWei[due.count] = amountWei;
        ++due.count;
    }

    /// @dev As {_pay}, for each.
    function _payAll(Due memory due) internal {
        for (uint256 i = 0; i < due.count; ++i) {
            _pay(due.payees[i], due.amountsWei[i]);
        }
    }

    function _send(address to, uint256 amountWei, uint256 gasLimit) private returns (bool success) {
        // Solidity's own call copies whatever comes back into our memory at our cost, and a payee may return megabytes.
        assembly ("memory-safe") {
            success := call(gasLimit, to, amountWei, 0, 0, 0, 0)
        }
    }
}
