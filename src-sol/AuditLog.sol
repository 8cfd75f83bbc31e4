// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAuditLog} from "./interfaces/IAuditLog.sol";
import {IBrokerRegistry} from "./interfaces/IBrokerRegistry.sol";

/// @title The one audit log on a chain.
contract AuditLog is IAuditLog {
    /// @notice Most alerts in one transaction.
    uint256 public constant MAX_ALERTS = 64;

    struct Last {
        uint64 sequence;
        bytes32 root;
    }

    /// @inheritdoc IAuditLog
    IBrokerRegistry public immutable brokerRegistry;

    mapping(uint256 brokerId => mapping(address gateway => Last)) private _last;

    modifier onlyGateway(uint256 brokerId) {
        if (!brokerRegistry.isGateway(brokerId, msg.sender)) revert NotGateway(brokerId, msg.sender);
        _;
    }

    constructor(IBrokerRegistry registry) {
        brokerRegistry = registry;
    }

    /// @inheritdoc IAuditLog
    function raiseAlerts(uint256 brokerId, Alert[] calldata alerts) external onlyGateway(brokerId) {
        if (alerts.length == 0) revert NoAlerts();
        if (alerts.length > MAX_ALERTS) revert TooManyAlerts(alerts.length, MAX_ALERTS);
        for (uint256 i = 0; i < alerts.length; ++i) {
            Alert calldata alert = alerts[i];
            if (alert.wallet == address(0) || alert.count == 0 || alert.firstAt > alert.lastAt) revert InvalidAlert(i);
            emit AlertRaised(
                brokerId,
                alert.topicId,
                alert.wallet,
                msg.sender,
                alert.kind,
                alert.count,
                alert.firstAt,
                alert.lastAt,
                alert.evidence
            );
        }
    }

    /// @inheritdoc IAuditLog
    function anchor(uint256 brokerId, uint64 sequence, bytes32 root, bytes32 previous, uint64 count)
        external
        onlyGateway(brokerId)
    {
        if (root == 0 || count == 0) revert EmptyAnchor();
        Last storage last = _last[brokerId][msg.sender];
        if (sequence != last.sequence + 1) revert WrongSequence(sequence, last.sequence + 1);
        if (previous != last.root) revert WrongPrevious(previous, last.root);
        last.sequence = sequence;
        last.root = root;
        emit Anchored(brokerId, msg.sender, sequence, root, previous, count);
    }

    /// @inheritdoc IAuditLog
    function lastAnchor(uint256 brokerId, address gateway) external view returns (uint64 sequence, bytes32 root) {
        Last storage last = _last[brokerId][gateway];
        return (last.sequence, last.root);
    }
}
