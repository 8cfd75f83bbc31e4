// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Payouts} from "./Payouts.sol";
import {TopicRegistry} from "./TopicRegistry.sol";
import {IAccessMarket} from "./interfaces/IAccessMarket.sol";
import {IBrokerRegistry} from "./interfaces/IBrokerRegistry.sol";
import {Grants} from "./libraries/Grants.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title Topics and the access to them: one contract for all brokers of a chain.
contract AccessMarket is TopicRegistry, Payouts {
    using Grants for Grants.Grant;
    using SafeCast for uint256;

    /// @notice Longest note in octets.
    uint256 public constant MAX_NOTE = 256;
    /// @notice How far ahead a grant may end, in seconds.
    uint256 public constant MAX_AHEAD = 36_500 days;
    /// @notice Highest number for the lawful basis, the first octet of a purpose.
    uint256 public constant MAX_BASIS = 6;

    uint256 private constant BASIS_POINTS = 10_000;

    /// @dev Paid grants of a topic that have neither been revoked nor counted out, and the latest end of any paid time.
    struct Sold {
        uint64 open;
        uint64 latest;
    }

    /// @dev What a purchase comes to.
    struct Bill {
        uint256 brokerId;
        address topicOwner;
        address brokerOwner;
        uint256 priceWei;
        uint256 saleFeeWei;
        uint256 publishFeeWei;
    }

    mapping(
        bytes32 topicId => mapping(uint256 epoch => mapping(address wallet => mapping(Right right => Grants.Grant)))
    ) private _grants;
    mapping(bytes32 topicId => mapping(uint256 epoch => mapping(address wallet => bool))) private _blocked;
    mapping(bytes32 topicId => Sold) private _sold;

    constructor(IBrokerRegistry registry) TopicRegistry(registry) {}

    /// @inheritdoc IAccessMarket
    function grant(bytes32 topicId, address wallet, Right right, uint64 until, bytes32 purpose, string calldata note)
        external
        payable
        nonReentrant
    {
        Topic memory topic = _ownedOrManaged(topicId);
        _checkNote(purpose, note);
        if (wallet == address(0)) revert ZeroAddress();
        uint64 current = grantedUntil(topicId, wallet, right);
        if (until <= current || until <= block.timestamp) revert EndNotLater(until, current);
        _checkEnd(until);
        uint256 feeWei = _publishFee(topic.brokerId, right, until - Math.max(block.timestamp, current));
        if (msg.value < feeWei) revert WrongPayment(msg.value, feeWei);

        _grants[topicId][topic.epoch][wallet][right].extend(until);
        emit AccessGranted(
            topic.brokerId, topicId, wallet, right, topic.epoch, until, msg.sender, feeWei, purpose, note
        );
        if (feeWei > 0) _pay(brokerRegistry.brokerOwner(topic.brokerId), feeWei);
        _pay(msg.sender, msg.value - feeWei);
    }

    /// @inheritdoc IAccessMarket
    function buy(Order calldata order) external payable nonReentrant returns (uint64 until) {
        _checkNote(order.purpose, order.note);
        Bill memory bill = _bill(order);
        until = _sell(order, bill.priceWei);
        emit AccessBought(
            bill.brokerId,
            order.topicId,
            order.wallet,
            order.right,
            order.epoch,
            until,
            msg.sender,
            bill.priceWei,
            bill.saleFeeWei,
            bill.publishFeeWei,
            order.purpose,
            order.note
        );
        _pay(bill.topicOwner, bill.priceWei - bill.saleFeeWei);
        _pay(bill.brokerOwner, bill.saleFeeWei + bill.publishFeeWei);
    }

    /// @inheritdoc IAccessMarket
    function revoke(bytes32 topicId, address wallet, Right right, bytes32 purpose, string calldata note)
        external
        payable
        nonReentrant
    {
        Topic memory topic = _ownedOrManaged(topicId);
        _checkNote(purpose, note);
        Grants.Grant storage held = _grants[topicId][topic.epoch][wallet][right];
        uint64 was = held.head.until;
        if (was <= block.timestamp) revert NothingToRevoke(topicId, wallet, right);
        uint256 refundWei = held.unused();
        if (msg.value < refundWei) revert RefundTooSmall(msg.value, refundWei);

        if (held.head.paidTo != 0) --_sold[topicId].open;
        held.end();
        emit AccessRevoked(
            topic.brokerId, topicId, wallet, right, topic.epoch, was, refundWei, msg.sender, purpose, note
        );
        _pay(wallet, refundWei);
        _pay(msg.sender, msg.value - refundWei);
    }

    /// @inheritdoc IAccessMarket
    function settle(bytes32 topicId, address wallet, Right right) external {
        Topic memory topic = _registered(topicId);
        Grants.Grant storage held = _grants[topicId][topic.epoch][wallet][right];
        uint256 paidTo = held.paidTo();
        if (paidTo == 0 || block.timestamp < paidTo) revert NothingToSettle(topicId, wallet, right);
        held.settle();
        --_sold[topicId].open;
    }

    /// @inheritdoc IAccessMarket
    function blockWallet(bytes32 topicId, address wallet, bytes32 purpose, string calldata note) external {
        Topic memory topic = _ownedOrManaged(topicId);
        _checkNote(purpose, note);
        if (wallet == address(0)) revert ZeroAddress();
        if (wallet == topic.owner) revert CannotBlockOwner(topicId, wallet);
        if (_blocked[topicId][topic.epoch][wallet]) revert AlreadyBlocked(topicId, wallet);
        _blocked[topicId][topic.epoch][wallet] = true;
        emit WalletBlocked(topic.brokerId, topicId, wallet, msg.sender, purpose, note);
    }

    /// @inheritdoc IAccessMarket
    function unblockWallet(bytes32 topicId, address wallet) external {
        Topic memory topic = _ownedOrManaged(topicId);
        if (!_blocked[topicId][topic.epoch][wallet]) revert NotBlocked(topicId, wallet);
        _blocked[topicId][topic.epoch][wallet] = false;
        emit WalletUnblocked(topic.brokerId, topicId, wallet, msg.sender);
    }

    /// @inheritdoc IAccessMarket
    function quote(bytes32 topicId, Right right, uint32 periods)
        external
        view
        returns (uint256 priceWei, uint256 publishFeeWei, uint32 period, uint64 epoch)
    {
        Topic memory topic = _registered(topicId);
        Offer memory offer = _pricedOffer(topicId, right);
        if (periods == 0) revert InvalidPeriods(periods);
        priceWei = uint256(offer.priceWei) * periods;
        publishFeeWei = _publishFee(topic.brokerId, right, uint256(offer.period) * periods);
        return (priceWei, publishFeeWei, offer.period, topic.epoch);
    }

    /// @inheritdoc IAccessMarket
    function grantFee(bytes32 topicId, address wallet, Right right, uint64 until) external view returns (uint256) {
        Topic memory topic = _registered(topicId);
        uint256 from = Math.max(block.timestamp, grantedUntil(topicId, wallet, right));
        return _publishFee(topic.brokerId, right, until > from ? until - from : 0);
    }

    /// @inheritdoc IAccessMarket
    function refundOf(bytes32 topicId, address wallet, Right right) external view returns (uint256) {
        Topic memory topic = _topicOf(topicId);
        if (topic.owner == address(0)) return 0;
        return _grants[topicId][topic.epoch][wallet][right].unused();
    }

    /// @inheritdoc IAccessMarket
    function isBlocked(bytes32 topicId, address wallet) external view returns (bool) {
        Topic memory topic = _topicOf(topicId);
        return topic.owner != address(0) && _blocked[topicId][topic.epoch][wallet];
    }

    /// @inheritdoc IAccessMarket
    function mayAccess(bytes32 topicId, address wallet, Right right) external view returns (bool) {
        Topic memory topic = _topicOf(topicId);
        if (topic.owner == address(0) || wallet == address(0)) return false;
        (,, uint64 bannedUntil) = brokerRegistry.saleTerms(topic.brokerId, wallet);
        if (block.timestamp < bannedUntil) return false;
        if (wallet == topic.owner) return true;
        if (_blocked[topicId][topic.epoch][wallet]) return false;
        if (offerOf(topicId, right).mode == OfferMode.Public) return true;
        return block.timestamp < _grants[topicId][topic.epoch][wallet][right].head.until;
    }

    /// @inheritdoc IAccessMarket
    function grantedUntil(bytes32 topicId, address wallet, Right right) public view returns (uint64 until) {
        Topic memory topic = _topicOf(topicId);
        return topic.owner == address(0) ? 0 : _grants[topicId][topic.epoch][wallet][right].head.until;
    }

    /// @inheritdoc TopicRegistry
    function _beforeDelete(bytes32 topicId) internal override {
        Sold memory sold = _sold[topicId];
        if (sold.open > 0 && block.timestamp < sold.latest) revert PaidGrantsRunning(topicId, sold.latest);
        delete _sold[topicId];
    }

    /// @dev Checks an order against what is offered now, and the payment against what it costs.
    function _bill(Order calldata order) private view returns (Bill memory bill) {
        Topic memory topic = _registered(order.topicId);
        Offer memory offer = _pricedOffer(order.topicId, order.right);
        if (order.period != offer.period || order.epoch != topic.epoch) {
            revert OfferChanged(order.topicId, offer.period, topic.epoch);
        }
        if (order.periods == 0) revert InvalidPeriods(order.periods);
        if (order.wallet == address(0)) revert ZeroAddress();
        if (_blocked[order.topicId][topic.epoch][order.wallet]) revert WalletIsBlocked(order.topicId, order.wallet);
        (address brokerOwner, uint96 basisPoints, uint64 bannedUntil) =
            brokerRegistry.saleTerms(topic.brokerId, order.wallet);
        if (block.timestamp < bannedUntil) revert WalletIsBanned(topic.brokerId, order.wallet, bannedUntil);

        bill.brokerId = topic.brokerId;
        bill.topicOwner = topic.owner;
        bill.brokerOwner = brokerOwner;
        bill.priceWei = uint256(offer.priceWei) * order.periods;
        bill.saleFeeWei = bill.priceWei * basisPoints / BASIS_POINTS;
        bill.publishFeeWei = _publishFee(topic.brokerId, order.right, uint256(offer.period) * order.periods);
        uint256 costWei = bill.priceWei + bill.publishFeeWei;
        if (costWei > order.maxPriceWei) revert PriceAboveMaximum(costWei, order.maxPriceWei);
        if (msg.value != costWei) revert WrongPayment(msg.value, costWei);
    }

    /// @dev Extends the grant, from its end or from now.
    function _sell(Order calldata order, uint256 priceWei) private returns (uint64) {
        Grants.Grant storage held = _grants[order.topicId][order.epoch][order.wallet][order.right];
        uint256 from = Math.max(block.timestamp, held.head.until);
        uint256 until = from + uint256(order.period) * order.periods;
        _checkEnd(until);
        if (priceWei == 0) {
            held.extend(until);
        } else {
            Sold memory sold = _sold[order.topicId];
            if (held.sell(from, until, priceWei)) ++sold.open;
            if (until > sold.latest) sold.latest = until.toUint64();
            _sold[order.topicId] = sold;
        }
        return until.toUint64();
    }

    function _pricedOffer(bytes32 topicId, Right right) private view returns (Offer memory offer) {
        offer = offerOf(topicId, right);
        if (offer.mode != OfferMode.Priced) revert OfferNotPriced(topicId, right);
    }

    /// @dev What the broker takes for so many seconds of publishing, rounded up to the wei.
    function _publishFee(uint256 brokerId, Right right, uint256 time) private view returns (uint256) {
        if (right != Right.Publish) return 0;
        return Math.ceilDiv(brokerRegistry.publishFee(brokerId) * time, 1 days);
    }

    function _checkEnd(uint256 until) private view {
        uint256 latest = block.timestamp + MAX_AHEAD;
        if (until > latest) revert EndTooFar(until, latest);
    }

    function _checkNote(bytes32 purpose, string calldata note) private pure {
        if (uint8(purpose[0]) > MAX_BASIS) revert InvalidPurpose(purpose);
        if (bytes(note).length > MAX_NOTE) revert TextTooLong(bytes(note).length, MAX_NOTE);
    }
}
