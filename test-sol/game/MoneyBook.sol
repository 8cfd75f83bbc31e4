// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {ITopicRegistry} from "../../src-sol/interfaces/ITopicRegistry.sol";
import {TopicActs} from "./TopicActs.sol";

/// @title The book of grants and of money: ends, what was paid for which time, purses and credits.
abstract contract MoneyBook is TopicActs {
    /// @dev Time that was paid for, and its price.
    struct Paid {
        uint64 from;
        uint64 to;
        uint256 priceWei;
    }

    struct Payout {
        address to;
        bool isPull;
    }

    uint256 internal constant MOST_WINDOWS = 8;

    mapping(bytes32 grant => uint64) internal ends;
    mapping(bytes32 grant => Paid[]) internal paid;
    /// @dev Ever paid for the grant since it last ended by revocation.
    mapping(bytes32 grant => uint256) internal sums;

    mapping(address who => uint256) public purse;
    mapping(address who => uint256) public owed;
    mapping(address payee => Payout) public payouts;
    uint256 public sentWei;
    uint256 public receivedWei;
    uint256 public creditedWei;
    uint256 public withdrawnWei;
    uint256 public feesWei;
    uint256 public forcedWei;

    mapping(address who => uint256) private _seenCredit;

    /// @dev No credit but the withdrawer's own may shrink.
    modifier creditsWatched(address withdrawer) {
        _;
        for (uint256 i = 0; i < actors.length; ++i) {
            uint256 credit = market.creditOf(actors[i]);
            if (credit < _seenCredit[actors[i]] && actors[i] != withdrawer) relapse("a credit");
            _seenCredit[actors[i]] = credit;
        }
    }

    function endOf(bytes32 topicId, address wallet, ITopicRegistry.Right right) public view returns (uint64) {
        return exists(topicId) ? ends[key(topicId, wallet, right)] : 0;
    }

    /// @notice The unused part of each price, rounded down.
    function refundOf(bytes32 topicId, address wallet, ITopicRegistry.Right right) public view returns (uint256 sum) {
        if (!exists(topicId)) return 0;
        Paid[] storage windows = paid[key(topicId, wallet, right)];
        for (uint256 i = 0; i < windows.length; ++i) {
            sum += unused(windows[i]);
        }
    }

    /// @notice What was ever paid for the grant since it last ended by revocation.
    function paidFor(bytes32 topicId, address wallet, ITopicRegistry.Right right) external view returns (uint256) {
        return sums[key(topicId, wallet, right)];
    }

    /// @notice End of the last time that was paid for and not paid back, zero if there is none.
    function paidTo(bytes32 topicId, address wallet, ITopicRegistry.Right right) public view returns (uint64) {
        Paid[] storage windows = paid[key(topicId, wallet, right)];
        return windows.length == 0 ? 0 : windows[windows.length - 1].to;
    }

    function hasPaidTimeRunning(bytes32 topicId) public view override returns (bool) {
        for (uint256 i = 0; i < actors.length; ++i) {
            if (paidTo(topicId, actors[i], ITopicRegistry.Right.Publish) > block.timestamp) return true;
            if (paidTo(topicId, actors[i], ITopicRegistry.Right.Subscribe) > block.timestamp) return true;
        }
        return false;
    }

    function mayAccess(bytes32 topicId, address wallet, ITopicRegistry.Right right) external view returns (bool) {
        TopicPage memory page = topicPages[topicId];
        if (page.owner == address(0) || isBanned(page.brokerId, wallet)) return false;
        if (wallet == page.owner) return true;
        if (blocked[topicId][page.epoch][wallet]) return false;
        bool isPublic = offers[topicId][right].mode == ITopicRegistry.OfferMode.Public;
        return isPublic || block.timestamp < endOf(topicId, wallet, right);
    }

    // Entries

    /// @dev Time in order and apart; the same price for the same time goes on, a ninth window joins the last at their average.
    function enterPaid(bytes32 held, uint64 from, uint64 to, uint256 priceWei) internal {
        Paid[] storage windows = paid[held];
        sums[held] += priceWei;
        uint256 count = windows.length;
        if (count > 0 && block.timestamp >= windows[count - 1].to) {
            delete paid[held];
            count = 0;
        }
        if (count == 0) {
            windows.push(Paid(from, to, priceWei));
            return;
        }
        Paid storage last = windows[count - 1];
        bool goesOn = last.to == from && last.priceWei * (to - from) == priceWei * (last.to - last.from);
        if (!goesOn && count < MOST_WINDOWS) {
            windows.push(Paid(from, to, priceWei));
            return;
        }
        if (!goesOn) {
            did(block.timestamp > last.from ? "join a window that began" : "join a window to come");
            (last.priceWei, last.from) = (unused(last), later(clock(), last.from));
        }
        last.to = to;
        last.priceWei += priceWei;
    }

    function enterEnd(bytes32 held) internal {
        ends[held] = clock();
        delete paid[held];
        sums[held] = 0;
    }

    /// @dev Gives somebody what it is about to send.
    function enterSent(address who, uint256 amountWei) internal {
        vm.deal(who, who.balance + amountWei);
        sentWei += amountWei;
    }

    /// @dev What a payee is due reaches whom it chose, or waits for it.
    function enterDue(address payee, uint256 amountWei) internal {
        Payout memory payout = payouts[payee];
        address to = payout.to == address(0) ? payee : payout.to;
        if (payout.isPull || !takes[to]) return enterCredit(payee, amountWei);
        purse[to] += amountWei;
        receivedWei += amountWei;
    }

    function enterFee(address brokerOwner, uint256 amountWei) internal {
        feesWei += amountWei;
        enterCredit(brokerOwner, amountWei);
    }

    function enterCredit(address payee, uint256 amountWei) private {
        owed[payee] += amountWei;
        creditedWei += amountWei;
    }

    function feeFor(bytes32 topicId, ITopicRegistry.Right right, uint256 time) internal view returns (uint256) {
        if (right == ITopicRegistry.Right.Subscribe) return 0;
        uint256 product = uint256(feeNow(brokerPages[topicPages[topicId].brokerId].publishFee)) * time;
        return product / 1 days + (product % 1 days == 0 ? 0 : 1);
    }

    function unused(Paid memory window) private view returns (uint256) {
        if (block.timestamp >= window.to) return 0;
        return window.priceWei * (window.to - later(clock(), window.from)) / (window.to - window.from);
    }

    function key(bytes32 topicId, address wallet, ITopicRegistry.Right right) internal view returns (bytes32) {
        return keccak256(abi.encode(topicId, topicPages[topicId].epoch, right, wallet));
    }
}
