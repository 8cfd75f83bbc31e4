// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Payouts} from "./Payouts.sol";
import {TopicRegistry} from "./TopicRegistry.sol";
import {IAccessMarket} from "./interfaces/IAccessMarket.sol";
import {IBrokerRegistry} from "./interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "./interfaces/ITopicRegistry.sol";
import {Grants} from "./libraries/Grants.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title The one market on a chain for access to topics: grants, sales, revocations, blocks.
/// @dev Deploys the registry of topics, so that each of the two knows the other for ever and nobody can set it.
contract AccessMarket is Payouts {
    using Grants for Grants.Grant;
    using SafeCast for uint256;

    /// @notice Longest note in octets.
    uint256 public constant MAX_NOTE = 256;
    /// @notice How far ahead a grant may end, in seconds.
    uint256 public constant MAX_AHEAD = 36_500 days;
    /// @notice Highest number for the lawful basis, the first octet of a purpose.
    uint256 public constant MAX_BASIS = 6;

    uint256 private constant BASIS_POINTS = 10_000;

    /// @inheritdoc IAccessMarket
    IBrokerRegistry public immutable brokerRegistry;
    /// @inheritdoc IAccessMarket
    ITopicRegistry public immutable topicRegistry;

    /// @dev Paid grants of a topic that have neither been revoked nor counted out, and the latest end of paid time since there was none.
    struct Sold {
        uint64 open;
        uint64 latest;
    }

    /// @dev One right on one topic, looked up once for all the wallets that something is done to. `feeRate` is wei per day.
    struct Scope {
        bytes32 topicId;
        uint256 brokerId;
        uint64 epoch;
        address owner;
        ITopicRegistry.Right right;
        uint256 feeRate;
    }

    /// @dev What a purchase comes to.
    struct Bill {
        uint256 brokerId;
        address topicOwner;
        address brokerOwner;
        uint256 costWei;
        uint256 priceWei;
        uint256 saleFeeWei;
        uint256 publishFeeWei;
    }

    mapping(
        bytes32 topicId
            => mapping(uint256 epoch => mapping(ITopicRegistry.Right right => mapping(address wallet => Grants.Grant)))
    ) private _grants;
    mapping(bytes32 topicId => mapping(uint256 epoch => Sold)) private _sold;

    constructor(IBrokerRegistry brokers) {
        if (address(brokers) == address(0)) revert ZeroAddress();
        brokerRegistry = brokers;
        topicRegistry = new TopicRegistry(brokers, this);
    }

    /// @inheritdoc IAccessMarket
    function grant(
        bytes32 topicId,
        address wallet,
        ITopicRegistry.Right right,
        uint64 until,
        bytes32 purpose,
        string calldata note
    ) external payable nonReentrant {
        _checkNote(purpose, bytes(note).length);
        _checkEnd(until);
        Scope memory scope = _scope(topicId, right);
        scope.feeRate = _publishFeeRate(scope.brokerId, right);
        uint256 feeWei = _grant(_held(scope), scope, wallet, until, purpose, note);
        if (msg.value < feeWei) revert WrongPayment(msg.value, feeWei);
        if (feeWei > 0) _credit(brokerRegistry.brokerOwner(scope.brokerId), feeWei);
        _pay(msg.sender, msg.value - feeWei);
    }

    /// @inheritdoc IAccessMarket
    function grantMany(
        bytes32[] calldata topicIds,
        address[] calldata wallets,
        ITopicRegistry.Right right,
        uint64 until,
        bytes32 purpose,
        string calldata note
    ) external payable nonReentrant {
        if (topicIds.length == 0 || wallets.length == 0) revert EmptyBatch();
        _checkNote(purpose, bytes(note).length);
        _checkEnd(until);
        uint256 sumWei = 0;
        for (uint256 t = 0; t < topicIds.length; ++t) {
            Scope memory scope = _scope(topicIds[t], right);
            scope.feeRate = _publishFeeRate(scope.brokerId, right);
            mapping(address wallet => Grants.Grant) storage held = _held(scope);
            uint256 feesWei = 0;
            for (uint256 w = 0; w < wallets.length; ++w) {
                feesWei += _grant(held, scope, wallets[w], until, purpose, note);
            }
            if (feesWei > 0) _credit(brokerRegistry.brokerOwner(scope.brokerId), feesWei);
            sumWei += feesWei;
        }
        if (msg.value < sumWei) revert WrongPayment(msg.value, sumWei);
        _pay(msg.sender, msg.value - sumWei);
    }

    /// @inheritdoc IAccessMarket
    function buy(Order calldata order) external payable nonReentrant returns (uint64 until) {
        Bill memory bill;
        (bill, until) = _sell(order);
        if (msg.value != bill.costWei) revert WrongPayment(msg.value, bill.costWei);
        _pay(bill.topicOwner, bill.priceWei - bill.saleFeeWei);
    }

    /// @inheritdoc IAccessMarket
    function buyMany(Order[] calldata orders) external payable nonReentrant {
        if (orders.length == 0) revert EmptyBatch();
        Due memory due = _noneDue(orders.length);
        uint256 costWei = 0;
        for (uint256 i = 0; i < orders.length; ++i) {
            (Bill memory bill,) = _sell(orders[i]);
            costWei += bill.costWei;
            _owe(due, bill.topicOwner, bill.priceWei - bill.saleFeeWei);
        }
        if (msg.value != costWei) revert WrongPayment(msg.value, costWei);
        _payAll(due);
    }

    /// @inheritdoc IAccessMarket
    function revoke(bytes32 topicId, address wallet, ITopicRegistry.Right right, bytes32 purpose, string calldata note)
        external
        payable
        nonReentrant
    {
        _checkNote(purpose, bytes(note).length);
        Scope memory scope = _scope(topicId, right);
        uint256 refundWei = _revoke(scope, wallet, purpose, note);
        if (msg.value < refundWei) revert RefundTooSmall(msg.value, refundWei);
        _pay(wallet, refundWei);
        _pay(msg.sender, msg.value - refundWei);
    }

    /// @inheritdoc IAccessMarket
    function revokeMany(
        bytes32[] calldata topicIds,
        address[] calldata wallets,
        ITopicRegistry.Right right,
        bytes32 purpose,
        string calldata note
    ) external payable nonReentrant {
        if (topicIds.length == 0 || wallets.length == 0) revert EmptyBatch();
        _checkNote(purpose, bytes(note).length);
        Due memory due = _noneDue(wallets.length);
        for (uint256 t = 0; t < topicIds.length; ++t) {
            Scope memory scope = _scope(topicIds[t], right);
            for (uint256 w = 0; w < wallets.length; ++w) {
                _owe(due, wallets[w], _revoke(scope, wallets[w], purpose, note));
            }
        }
        if (msg.value < due.sumWei) revert RefundTooSmall(msg.value, due.sumWei);
        _payAll(due);
        _pay(msg.sender, msg.value - due.sumWei);
    }

    /// @inheritdoc IAccessMarket
    function settle(bytes32 topicId, address wallet, ITopicRegistry.Right right) external {
        (, uint64 epoch,) = topicRegistry.topicOf(topicId);
        Grants.Grant storage held = _grants[topicId][epoch][right][wallet];
        uint256 paidTo = held.paidTo();
        if (paidTo == 0 || block.timestamp < paidTo) revert NothingToSettle(topicId, wallet, right);
        held.settle();
        _countOut(topicId, epoch);
    }

    /// @inheritdoc IAccessMarket
    function blockWallet(bytes32 topicId, address wallet, bytes32 purpose, string calldata note)
        external
        payable
        nonReentrant
    {
        _checkNote(purpose, bytes(note).length);
        Scope memory scope = _scope(topicId, ITopicRegistry.Right.Publish);
        if (wallet == address(0)) revert ZeroAddress();
        if (wallet == scope.owner) revert CannotBlockOwner(topicId, wallet);
        if (_isBlocked(topicId, scope.epoch, wallet)) revert AlreadyBlocked(topicId, wallet);
        _setBlocked(topicId, scope.epoch, wallet, true);
        emit WalletBlocked(scope.brokerId, topicId, wallet, msg.sender, purpose, note);

        uint256 refundWei = _revokePaid(scope, wallet, purpose, note);
        scope.right = ITopicRegistry.Right.Subscribe;
        refundWei += _revokePaid(scope, wallet, purpose, note);
        if (msg.value < refundWei) revert RefundTooSmall(msg.value, refundWei);
        _pay(wallet, refundWei);
        _pay(msg.sender, msg.value - refundWei);
    }

    /// @inheritdoc IAccessMarket
    function unblockWallet(bytes32 topicId, address wallet) external {
        (uint256 brokerId, uint64 epoch,) = topicRegistry.topicManagedBy(topicId, msg.sender);
        if (!_isBlocked(topicId, epoch, wallet)) revert NotBlocked(topicId, wallet);
        _setBlocked(topicId, epoch, wallet, false);
        emit WalletUnblocked(brokerId, topicId, wallet, msg.sender);
    }

    /// @inheritdoc IAccessMarket
    function quote(bytes32 topicId, ITopicRegistry.Right right, uint32 periods)
        external
        view
        returns (uint256 priceWei, uint256 publishFeeWei, uint32 period, uint64 epoch)
    {
        if (periods == 0) revert InvalidPeriods(periods);
        uint256 brokerId;
        ITopicRegistry.Offer memory offer;
        (brokerId, epoch,, offer) = _pricedOffer(topicId, right);
        priceWei = uint256(offer.priceWei) * periods;
        publishFeeWei = _feeFor(_publishFeeRate(brokerId, right), uint256(offer.period) * periods);
        return (priceWei, publishFeeWei, offer.period, epoch);
    }

    /// @inheritdoc IAccessMarket
    function grantFee(bytes32 topicId, address wallet, ITopicRegistry.Right right, uint64 until)
        external
        view
        returns (uint256)
    {
        (uint256 brokerId,,) = topicRegistry.topicOf(topicId);
        uint256 from = Math.max(block.timestamp, grantedUntil(topicId, wallet, right));
        return _feeFor(_publishFeeRate(brokerId, right), until > from ? until - from : 0);
    }

    /// @inheritdoc IAccessMarket
    function refundOf(bytes32 topicId, address wallet, ITopicRegistry.Right right) external view returns (uint256) {
        (, uint64 epoch, address owner) = topicRegistry.topicOf(topicId);
        return owner == address(0) ? 0 : _grants[topicId][epoch][right][wallet].unused();
    }

    /// @inheritdoc IAccessMarket
    function isBlocked(bytes32 topicId, address wallet) external view returns (bool) {
        (, uint64 epoch, address owner) = topicRegistry.topicOf(topicId);
        return owner != address(0) && _isBlocked(topicId, epoch, wallet);
    }

    /// @inheritdoc IAccessMarket
    function mayAccess(bytes32 topicId, address wallet, ITopicRegistry.Right right) external view returns (bool) {
        (uint256 brokerId, uint64 epoch, address owner) = topicRegistry.topicOf(topicId);
        if (owner == address(0) || wallet == address(0)) return false;
        (,, uint64 bannedUntil) = brokerRegistry.saleTerms(brokerId, wallet);
        if (block.timestamp < bannedUntil) return false;
        if (wallet == owner) return true;
        Grants.Head memory head = _grants[topicId][epoch][right][wallet].head;
        if (head.isBlocked) return false;
        if (topicRegistry.offerOf(topicId, right).mode == ITopicRegistry.OfferMode.Public) return true;
        return block.timestamp < head.until;
    }

    /// @inheritdoc IAccessMarket
    function paidUntil(bytes32 topicId) external view returns (uint64 until) {
        (, uint64 epoch,) = topicRegistry.topicOf(topicId);
        return _sold[topicId][epoch].latest;
    }

    /// @inheritdoc IAccessMarket
    function grantedUntil(bytes32 topicId, address wallet, ITopicRegistry.Right right)
        public
        view
        returns (uint64 until)
    {
        (, uint64 epoch, address owner) = topicRegistry.topicOf(topicId);
        return owner == address(0) ? 0 : _grants[topicId][epoch][right][wallet].head.until;
    }

    /// @dev A right on a topic that the caller owns or manages, without its fee.
    function _scope(bytes32 topicId, ITopicRegistry.Right right) private view returns (Scope memory) {
        (uint256 brokerId, uint64 epoch, address owner) = topicRegistry.topicManagedBy(topicId, msg.sender);
        return Scope(topicId, brokerId, epoch, owner, right, 0);
    }

    /// @dev The grants in a scope, looked up once.
    function _held(Scope memory scope) private view returns (mapping(address wallet => Grants.Grant) storage) {
        return _grants[scope.topicId][scope.epoch][scope.right];
    }

    function _isBlocked(bytes32 topicId, uint256 epoch, address wallet) private view returns (bool) {
        return _grants[topicId][epoch][ITopicRegistry.Right.Publish][wallet].head.isBlocked;
    }

    /// @dev On both rights, since a sale reads the one it is about anyway.
    function _setBlocked(bytes32 topicId, uint256 epoch, address wallet, bool isSet) private {
        _grants[topicId][epoch][ITopicRegistry.Right.Publish][wallet].head.isBlocked = isSet;
        _grants[topicId][epoch][ITopicRegistry.Right.Subscribe][wallet].head.isBlocked = isSet;
    }

    /// @dev Extends one grant without payment, for the publish fee of the added time, which it answers.
    function _grant(
        mapping(address wallet => Grants.Grant) storage grants,
        Scope memory scope,
        address wallet,
        uint64 until,
        bytes32 purpose,
        string calldata note
    ) private returns (uint256 feeWei) {
        if (wallet == address(0)) revert ZeroAddress();
        Grants.Grant storage held = grants[wallet];
        uint64 current = held.head.until;
        if (until <= current || until <= block.timestamp) revert EndNotLater(until, current);
        feeWei = _feeFor(scope.feeRate, until - Math.max(block.timestamp, current));
        held.extend(until);
        _tellGranted(scope, wallet, until, feeWei, purpose, note);
    }

    function _tellGranted(
        Scope memory scope,
        address wallet,
        uint64 until,
        uint256 feeWei,
        bytes32 purpose,
        string calldata note
    ) private {
        emit AccessGranted(
            scope.brokerId, scope.topicId, wallet, scope.right, scope.epoch, until, msg.sender, feeWei, purpose, note
        );
    }

    /// @dev Checks an order against what is offered now, and carries it out, but for the payment of the topic's owner.
    function _sell(Order memory order) private returns (Bill memory bill, uint64 until) {
        _checkNote(order.purpose, bytes(order.note).length);
        Grants.Grant storage held = _grants[order.topicId][order.epoch][order.right][order.wallet];
        bill = _bill(order, held);
        until = _extend(order, held, bill.priceWei);
        _credit(bill.brokerOwner, bill.saleFeeWei + bill.publishFeeWei);
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
    }

    function _bill(Order memory order, Grants.Grant storage held) private view returns (Bill memory bill) {
        ITopicRegistry.Offer memory offer;
        uint64 epoch;
        (bill.brokerId, epoch, bill.topicOwner, offer) = _pricedOffer(order.topicId, order.right);
        if (order.period != offer.period || order.epoch != epoch) {
            revert OfferChanged(order.topicId, offer.period, epoch);
        }
        if (order.periods == 0) revert InvalidPeriods(order.periods);
        if (order.wallet == address(0)) revert ZeroAddress();
        if (held.head.isBlocked) revert WalletIsBlocked(order.topicId, order.wallet);
        uint96 basisPoints;
        uint64 bannedUntil;
        (bill.brokerOwner, basisPoints, bannedUntil) = brokerRegistry.saleTerms(bill.brokerId, order.wallet);
        if (block.timestamp < bannedUntil) revert WalletIsBanned(bill.brokerId, order.wallet, bannedUntil);

        bill.priceWei = uint256(offer.priceWei) * order.periods;
        bill.saleFeeWei = bill.priceWei * basisPoints / BASIS_POINTS;
        bill.publishFeeWei = _feeFor(_publishFeeRate(bill.brokerId, order.right), uint256(offer.period) * order.periods);
        bill.costWei = bill.priceWei + bill.publishFeeWei;
        if (bill.costWei > order.maxPriceWei) revert PriceAboveMaximum(bill.costWei, order.maxPriceWei);
    }

    /// @dev Extends the grant by what was ordered, from its end or from now.
    function _extend(Order memory order, Grants.Grant storage held, uint256 priceWei) private returns (uint64 until) {
        uint256 from = Math.max(block.timestamp, held.head.until);
        uint256 end = from + uint256(order.period) * order.periods;
        _checkEnd(end);
        until = end.toUint64();
        // A price, not a balance.
        // slither-disable-next-line incorrect-equality
        if (priceWei == 0) {
            held.extend(until);
        } else {
            Sold storage stored = _sold[order.topicId][order.epoch];
            Sold memory sold = stored;
            if (held.sell(from, until, priceWei)) ++sold.open;
            if (until > sold.latest) sold.latest = until;
            (stored.open, stored.latest) = (sold.open, sold.latest);
        }
    }

    /// @dev With the last paid grant goes its end, or a later sale would keep the topic for as long as one that was paid back.
    function _countOut(bytes32 topicId, uint256 epoch) private {
        Sold memory sold = _sold[topicId][epoch];
        // A count, not a balance.
        // slither-disable-next-line incorrect-equality
        if (--sold.open == 0) sold.latest = 0;
        _sold[topicId][epoch] = sold;
    }

    /// @dev Ends a right and answers what is to be paid back.
    function _revoke(Scope memory scope, address wallet, bytes32 purpose, string calldata note)
        private
        returns (uint256 refundWei)
    {
        Grants.Grant storage held = _held(scope)[wallet];
        uint64 was = held.head.until;
        if (was <= block.timestamp) revert NothingToRevoke(scope.topicId, wallet, scope.right);
        refundWei = held.unused();
        if (held.head.paidTo != 0) _countOut(scope.topicId, scope.epoch);
        held.end();
        _tellRevoked(scope, wallet, was, refundWei, purpose, note);
    }

    function _tellRevoked(
        Scope memory scope,
        address wallet,
        uint64 was,
        uint256 refundWei,
        bytes32 purpose,
        string calldata note
    ) private {
        emit AccessRevoked(
            scope.brokerId, scope.topicId, wallet, scope.right, scope.epoch, was, refundWei, msg.sender, purpose, note
        );
    }

    /// @dev As {_revoke} if there is something to be paid back, else nothing.
    function _revokePaid(Scope memory scope, address wallet, bytes32 purpose, string calldata note)
        private
        returns (uint256)
    {
        return _held(scope)[wallet].unused() == 0 ? 0 : _revoke(scope, wallet, purpose, note);
    }

    function _pricedOffer(bytes32 topicId, ITopicRegistry.Right right)
        private
        view
        returns (uint256 brokerId, uint64 epoch, address owner, ITopicRegistry.Offer memory offer)
    {
        (brokerId, epoch, owner, offer) = topicRegistry.saleTerms(topicId, right);
        if (offer.mode != ITopicRegistry.OfferMode.Priced) revert OfferNotPriced(topicId, right);
    }

    /// @dev Wei that the broker takes for a day of the right.
    function _publishFeeRate(uint256 brokerId, ITopicRegistry.Right right) private view returns (uint256) {
        return right == ITopicRegistry.Right.Publish ? brokerRegistry.publishFee(brokerId) : 0;
    }

    /// @dev The fee for so many seconds, rounded up to the wei.
    function _feeFor(uint256 rate, uint256 time) private pure returns (uint256) {
        return rate == 0 ? 0 : Math.ceilDiv(rate * time, 1 days);
    }

    function _checkEnd(uint256 until) private view {
        uint256 latest = block.timestamp + MAX_AHEAD;
        if (until > latest) revert EndTooFar(until, latest);
    }

    /// @dev The note has so many octets.
    function _checkNote(bytes32 purpose, uint256 octets) private pure {
        if (uint8(purpose[0]) > MAX_BASIS) revert InvalidPurpose(purpose);
        if (octets > MAX_NOTE) revert TextTooLong(octets, MAX_NOTE);
    }
}
