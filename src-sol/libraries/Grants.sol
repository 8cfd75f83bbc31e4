// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title One wallet's right on one topic: until when, and which part of that time was paid for.
/// @dev Paid time is kept in windows, in order and apart, each with its own price, so that neither time that was given nor another price
/// before or after changes what a window is still worth. Nearly every grant has one window, and one slot then holds all there is;
/// a purchase at the price of the last one, without a gap, makes that longer.
library Grants {
    using SafeCast for uint256;

    /// @dev Windows beside the first. A purchase at yet another price merges with the last at their average, so revoking stays bounded.
    uint256 internal constant MAX_LATER = 7;

    /// @dev One slot, with the first window in it. `paidTo` is zero if nothing was paid. `later` counts the windows that follow.
    /// `isBlocked` is about the wallet, whatever its right: the block outlives what the grant comes to.
    struct Head {
        uint40 until;
        uint40 paidFrom;
        uint40 paidTo;
        uint120 paidWei;
        uint8 later;
        bool isBlocked;
    }

    struct Window {
        uint40 from;
        uint40 to;
        uint120 paidWei;
    }

    struct Grant {
        Head head;
        mapping(uint256 index => Window) later;
    }

    /// @notice Moves the end without payment.
    function extend(Grant storage grant, uint256 until) internal {
        grant.head.until = until.toUint40();
    }

    /// @notice Moves the end from `from` to `until` for a price above zero.
    /// @return isFirst Did the grant hold no paid time before, neither running nor over?
    function sell(Grant storage grant, uint256 from, uint256 until, uint256 priceWei) internal returns (bool isFirst) {
        Head memory head = grant.head;
        head.until = until.toUint40();
        isFirst = head.paidTo == 0;
        if (block.timestamp >= _lastTo(grant, head)) {
            (head.paidFrom, head.paidTo, head.paidWei, head.later) =
            (from.toUint40(), head.until, priceWei.toUint120(), 0);
        } else {
            _add(grant, head, Window(from.toUint40(), head.until, priceWei.toUint120()));
        }
        grant.head = head;
    }

    /// @dev Adds a window to such as are not all over.
    function _add(Grant storage grant, Head memory head, Window memory sold) private {
        Window memory last = _last(grant, head);
        bool continues = _continues(last, sold);
        if (!continues && head.later < MAX_LATER) {
            grant.later[head.later] = sold;
            ++head.later;
            return;
        }
        if (!continues) _forgetUsed(last);
        last.to = sold.to;
        last.paidWei = (uint256(last.paidWei) + sold.paidWei).toUint120();
        if (head.later == 0) (head.paidFrom, head.paidTo, head.paidWei) = (last.from, last.to, last.paidWei);
        else grant.later[head.later - 1] = last;
    }

    /// @notice Ends the right now, and with it what was paid.
    /// @dev Now rather than zero: zero reads as "never granted".
    function end(Grant storage grant) internal {
        grant.head = Head(block.timestamp.toUint40(), 0, 0, 0, 0, grant.head.isBlocked);
    }

    /// @notice Forgets what was paid; the end stays.
    function settle(Grant storage grant) internal {
        grant.head = Head(grant.head.until, 0, 0, 0, 0, grant.head.isBlocked);
    }

    /// @notice End of the last paid window, zero if nothing was paid.
    function paidTo(Grant storage grant) internal view returns (uint256) {
        return _lastTo(grant, grant.head);
    }

    /// @notice What the paid time that is left cost, each window rounded down.
    function unused(Grant storage grant) internal view returns (uint256 sum) {
        Head memory head = grant.head;
        sum = _unused(Window(head.paidFrom, head.paidTo, head.paidWei));
        for (uint256 i = 0; i < head.later; ++i) {
            sum += _unused(grant.later[i]);
        }
    }

    function _last(Grant storage grant, Head memory head) private view returns (Window memory) {
        if (head.later == 0) return Window(head.paidFrom, head.paidTo, head.paidWei);
        return grant.later[head.later - 1];
    }

    function _lastTo(Grant storage grant, Head memory head) private view returns (uint256) {
        return head.later == 0 ? head.paidTo : grant.later[head.later - 1].to;
    }

    /// @dev No gap, and the same price for the same time.
    function _continues(Window memory last, Window memory sold) private pure returns (bool) {
        return last.to == sold.from
            && uint256(last.paidWei) * (sold.to - sold.from) == uint256(sold.paidWei) * (last.to - last.from);
    }

    /// @dev Makes the window begin now, if it has begun, with what is left of it.
    function _forgetUsed(Window memory window) private view {
        window.paidWei = _unused(window).toUint120();
        window.from = Math.max(block.timestamp, window.from).toUint40();
    }

    function _unused(Window memory window) private view returns (uint256) {
        if (block.timestamp >= window.to) return 0;
        uint256 left = window.to - Math.max(block.timestamp, window.from);
        return window.paidWei * left / (window.to - window.from);
    }
}
