// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IBrokerRegistry} from "./IBrokerRegistry.sol";

/// @title What gateways put on record: alerts, and anchors over batches of records.
/// @notice Only a registered gateway of the broker writes, and only for itself. Nothing here grants or moves anything.
interface IAuditLog {
    /// @notice What a proven wallet tried or lost. Bans have events of their own, see {IBrokerRegistry}.
    enum AlertKind {
        PublishRefused,
        SubscribeRefused,
        WillRefused,
        DeliveryWithheld,
        SessionEnded
    }

    /// @notice Many equal happenings folded into one.
    /// @param wallet Who did it, proven.
    /// @param topicId The governing topic, or zero where none governs.
    /// @param count How many, at least 1.
    /// @param firstAt Second of the first.
    /// @param lastAt Second of the last.
    /// @param evidence Hash of the gateway's own records, or zero.
    struct Alert {
        AlertKind kind;
        address wallet;
        bytes32 topicId;
        uint32 count;
        uint64 firstAt;
        uint64 lastAt;
        bytes32 evidence;
    }

    event AlertRaised(
        uint256 indexed brokerId,
        bytes32 indexed topicId,
        address indexed wallet,
        address gateway,
        AlertKind kind,
        uint32 count,
        uint64 firstAt,
        uint64 lastAt,
        bytes32 evidence
    );
    /// @notice `root` is over `count` records; `sequence` counts this gateway's anchors from 1; `previous` is the root before.
    event Anchored(
        uint256 indexed brokerId,
        address indexed gateway,
        uint64 indexed sequence,
        bytes32 root,
        bytes32 previous,
        uint64 count
    );

    error NotGateway(uint256 brokerId, address caller);
    error TooManyAlerts(uint256 alerts, uint256 most);
    error NoAlerts();
    error InvalidAlert(uint256 index);
    error WrongSequence(uint64 sequence, uint64 wanted);
    error WrongPrevious(bytes32 previous, bytes32 wanted);
    error EmptyAnchor();

    /// @notice Records 1 to {MAX_ALERTS} alerts, all or none.
    function raiseAlerts(uint256 brokerId, Alert[] calldata alerts) external;
    /// @notice Appends an anchor. Sequence and previous root must follow the last one, so that no two anchors can tell different stories.
    function anchor(uint256 brokerId, uint64 sequence, bytes32 root, bytes32 previous, uint64 count) external;

    function brokerRegistry() external view returns (IBrokerRegistry);
    function lastAnchor(uint256 brokerId, address gateway) external view returns (uint64 sequence, bytes32 root);
}
