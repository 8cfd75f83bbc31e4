// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IBrokerRegistry} from "./IBrokerRegistry.sol";
import {ITopicRegistry} from "./ITopicRegistry.sol";

/// @title Access: grants, purchases, revocations, blocks, and the money they move.
/// @notice About the topics of {topicRegistry}, which it deploys. A grant belongs to (topic, epoch, wallet, right) and is valid while
/// `now < until`. `purpose`: first octet the lawful basis (0 none stated, 1 consent, 2 contract, 3 legal obligation, 4 vital
/// interests, 5 public task, 6 legitimate interests: GDPR Article 6(1) a to f), then a short ASCII code padded with zeroes.
/// `note`: at most 256 octets, public for ever, never personal data.
interface IAccessMarket {
    /// @notice A purchase as the buyer saw it; anything that has changed since reverts.
    /// @param topicId What is bought.
    /// @param right Which right.
    /// @param wallet Who gets it; the payer may be another.
    /// @param periods How many periods, at least 1.
    /// @param period Seconds of one period as seen.
    /// @param epoch Epoch of the topic as seen.
    /// @param maxPriceWei The most that the whole purchase may cost, publish fee included.
    struct Order {
        bytes32 topicId;
        ITopicRegistry.Right right;
        address wallet;
        uint32 periods;
        uint32 period;
        uint64 epoch;
        uint256 maxPriceWei;
        bytes32 purpose;
        string note;
    }

    /// @notice The owner or a manager gave `wallet` the right until `until`. `feeWei` is the publish fee, now
    /// credit of the broker's owner of that moment.
    event AccessGranted(
        uint256 indexed brokerId,
        bytes32 indexed topicId,
        address indexed wallet,
        ITopicRegistry.Right right,
        uint64 epoch,
        uint64 until,
        address by,
        uint256 feeWei,
        bytes32 purpose,
        string note
    );
    /// @notice `payer` bought `wallet` the right until `until`: `priceWei` went to the owner less `saleFeeWei`, which with `publishFeeWei`
    /// is now credit of the broker's owner of that moment. Paid in all: `priceWei + publishFeeWei`.
    event AccessBought(
        uint256 indexed brokerId,
        bytes32 indexed topicId,
        address indexed wallet,
        ITopicRegistry.Right right,
        uint64 epoch,
        uint64 until,
        address payer,
        uint256 priceWei,
        uint256 saleFeeWei,
        uint256 publishFeeWei,
        bytes32 purpose,
        string note
    );
    /// @notice The right ended at this block instead of at `was`. `refundWei` went back to the wallet, see {refundOf}.
    event AccessRevoked(
        uint256 indexed brokerId,
        bytes32 indexed topicId,
        address indexed wallet,
        ITopicRegistry.Right right,
        uint64 epoch,
        uint64 was,
        uint256 refundWei,
        address by,
        bytes32 purpose,
        string note
    );
    /// @notice The wallet can use, claim and buy nothing on this topic until it is unblocked. A right of which something paid for was
    /// left ended in the same transaction, as a whole, see {AccessRevoked}; any other keeps running.
    event WalletBlocked(
        uint256 indexed brokerId,
        bytes32 indexed topicId,
        address indexed wallet,
        address by,
        bytes32 purpose,
        string note
    );
    event WalletUnblocked(uint256 indexed brokerId, bytes32 indexed topicId, address indexed wallet, address by);
    /// @notice `amountWei` waits to be withdrawn by `payee`, who could not take it or wishes it so. All credit there ever was: these, and
    /// the fees in {AccessBought} and {AccessGranted}.
    event Credited(address indexed payee, uint256 amountWei);
    /// @notice What `payee` is paid from now on goes to `to` (zero: to itself), or becomes its credit if `isPull`.
    event PayoutSet(address indexed payee, address to, bool isPull);
    event Withdrawn(address indexed payee, address indexed to, uint256 amountWei);

    error OfferNotPriced(bytes32 topicId, ITopicRegistry.Right right);
    error OfferChanged(bytes32 topicId, uint32 period, uint64 epoch);
    error PriceAboveMaximum(uint256 costWei, uint256 maxPriceWei);
    error WrongPayment(uint256 sentWei, uint256 costWei);
    error InvalidPeriods(uint32 periods);
    error EndTooFar(uint256 until, uint256 latest);
    error EndNotLater(uint64 until, uint64 current);
    error WalletIsBlocked(bytes32 topicId, address wallet);
    error WalletIsBanned(uint256 brokerId, address wallet, uint64 until);
    error NothingToRevoke(bytes32 topicId, address wallet, ITopicRegistry.Right right);
    error RefundTooSmall(uint256 sentWei, uint256 refundWei);
    error NotBlocked(bytes32 topicId, address wallet);
    error AlreadyBlocked(bytes32 topicId, address wallet);
    error EmptyBatch();
    error NoCredit(address payee);
    error PayoutUnchanged(address payee);
    error PaymentFailed(address to, uint256 amountWei);
    error ZeroAddress();
    error CannotBlockOwner(bytes32 topicId, address owner);
    error TextTooLong(uint256 octets, uint256 most);
    error InvalidPurpose(bytes32 purpose);
    error NothingToSettle(bytes32 topicId, address wallet, ITopicRegistry.Right right);
    /// @notice Too little gas for the payee to take its money; without this check a frugal sender could turn a payment into a credit.
    error GasTooLow(uint256 gasLeft, uint256 wanted);

    /// @notice Gives `wallet` the right until `until`, which must be later than what it has. Caller: owner or manager.
    /// @dev Payable: a publish grant costs the broker's publish fee for the added time, which depends on the second it is mined in:
    /// send at least {grantFee}; what is more comes back to the caller. A subscribe grant costs nothing.
    function grant(
        bytes32 topicId,
        address wallet,
        ITopicRegistry.Right right,
        uint64 until,
        bytes32 purpose,
        string calldata note
    ) external payable;

    /// @notice As {grant}, of one right on each of the topics to each of the wallets; all or nothing. Send at least the sum of the fees.
    function grantMany(
        bytes32[] calldata topicIds,
        address[] calldata wallets,
        ITopicRegistry.Right right,
        uint64 until,
        bytes32 purpose,
        string calldata note
    ) external payable;

    /// @notice Buys or extends access from `max(now, until)`. Anyone, for anyone who is neither blocked nor banned. Exact price, or revert.
    function buy(Order calldata order) external payable returns (uint64 until);

    /// @notice As {buy}, for each of the orders; all or nothing. The value sent is the exact sum. Each payee is paid once.
    function buyMany(Order[] calldata orders) external payable;

    /// @notice Ends a right at this block. Caller: owner or manager. The unused part of the price paid for it goes back to the wallet:
    /// send at least {refundOf}; what is more comes back to the caller.
    /// @dev A purchase mined just before raises what is due, to the wallet's gain if that makes this revert: send more, or close the offer first.
    function revoke(bytes32 topicId, address wallet, ITopicRegistry.Right right, bytes32 purpose, string calldata note)
        external
        payable;

    /// @notice As {revoke}, of one right on each of the topics from each of the wallets; all or nothing. Send at least the sum of the refunds.
    function revokeMany(
        bytes32[] calldata topicIds,
        address[] calldata wallets,
        ITopicRegistry.Right right,
        bytes32 purpose,
        string calldata note
    ) external payable;

    /// @notice Counts out a paid grant whose paid time is over, so that {ITopicRegistry-deleteTopic} need not wait for it. Anyone. Changes
    /// nothing else, and so has no event. Needed only where a topic is to be deleted before the last paid grant would have ended.
    function settle(bytes32 topicId, address wallet, ITopicRegistry.Right right) external;

    /// @notice Blocks a wallet. Caller: owner or manager. The owner cannot be blocked; a blocked wallet that becomes owner is unaffected
    /// while it is. Whatever of either right the wallet has paid for and not used ends as by {revoke}: send at least the sum of both
    /// {refundOf}; what is more comes back to the caller.
    function blockWallet(bytes32 topicId, address wallet, bytes32 purpose, string calldata note) external payable;
    /// @notice Caller: owner or manager. Brings nothing back that ended.
    function unblockWallet(bytes32 topicId, address wallet) external;

    /// @notice Chooses how the caller is paid from now on, prices, refunds and change: at once to `to` (zero: to itself), or, if `isPull`, as
    /// a credit. Fees of a broker are credits in any case.
    function setPayout(address to, bool isPull) external;

    /// @notice Sends the caller's whole credit to `to`. Never paused.
    function withdraw(address to) external returns (uint256 amountWei);

    function brokerRegistry() external view returns (IBrokerRegistry);
    function topicRegistry() external view returns (ITopicRegistry);
    /// @notice What a purchase would cost now.
    function quote(bytes32 topicId, ITopicRegistry.Right right, uint32 periods)
        external
        view
        returns (uint256 priceWei, uint256 publishFeeWei, uint32 period, uint64 epoch);
    /// @notice What {grant} to `until` would cost now (publish fee for the added time).
    function grantFee(bytes32 topicId, address wallet, ITopicRegistry.Right right, uint64 until)
        external
        view
        returns (uint256);
    /// @return until End of the grant in the present epoch, 0 if there never was one.
    function grantedUntil(bytes32 topicId, address wallet, ITopicRegistry.Right right)
        external
        view
        returns (uint64 until);
    function isBlocked(bytes32 topicId, address wallet) external view returns (bool);
    /// @notice What {revoke} has to pay back if mined in a block of this time. It only shrinks as time goes by.
    /// @dev The sum over the windows [from, to) that were paid for, each `price * (to - max(now, from)) / (to - from)`, rounded down, 0
    /// once over. A purchase that follows the last window without a gap at the same price extends it; any other opens a window of its
    /// own, up to 8 that are not all over; from then on another price merges with the last window at their average. Time that the owner
    /// granted is in no window and not refunded, nor are publish fees, which the owner never had. It goes to the wallet, whoever paid.
    function refundOf(bytes32 topicId, address wallet, ITopicRegistry.Right right) external view returns (uint256);
    /// @notice The decision of the chain, by the same rule as the gateways. A wallet that the broker banned: no. The owner: yes. A
    /// blocked wallet: no. Else a public offer or a grant valid now. Says nothing of the branch that {ITopicRegistry-Traits} shut it in.
    function mayAccess(bytes32 topicId, address wallet, ITopicRegistry.Right right) external view returns (bool);
    /// @return until Not before the latest end of time that was paid for and neither paid back nor settled; 0 if there is none. A topic
    /// can be deleted once this is not in the future. As long as there is some such time, the end of what was paid back still counts.
    function paidUntil(bytes32 topicId) external view returns (uint64 until);
    function creditOf(address payee) external view returns (uint256);
    /// @return to Where the payee is paid, itself unless it chose otherwise.
    /// @return isPull Does it wish credits instead?
    function payoutOf(address payee) external view returns (address to, bool isPull);
}
