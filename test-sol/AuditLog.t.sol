// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAuditLog} from "../src-sol/interfaces/IAuditLog.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {Fixture} from "./Fixture.sol";

contract AuditLogTest is Fixture {
    bytes32 private constant ROOT = keccak256("root");
    bytes32 private constant NEXT = keccak256("next root");

    function alert() private view returns (IAuditLog.Alert memory) {
        return IAuditLog.Alert({
            kind: IAuditLog.AlertKind.PublishRefused,
            wallet: stranger,
            topicId: topicId,
            count: 12,
            firstAt: START - 60,
            lastAt: START - 1,
            evidence: keccak256("records")
        });
    }

    function alerts(uint256 count) private view returns (IAuditLog.Alert[] memory all) {
        all = new IAuditLog.Alert[](count);
        for (uint256 i = 0; i < count; ++i) {
            all[i] = alert();
        }
    }

    function raise(IAuditLog.Alert[] memory all) private {
        vm.prank(gateway);
        audit.raiseAlerts(brokerId, all);
    }

    function expectAlert(IAuditLog.Alert memory one) private {
        vm.expectEmit(address(audit));
        emit IAuditLog.AlertRaised(
            brokerId, one.topicId, one.wallet, gateway, one.kind, one.count, one.firstAt, one.lastAt, one.evidence
        );
    }

    function anchorAs(address by, uint64 sequence, bytes32 root, bytes32 previous) private {
        vm.prank(by);
        audit.anchor(brokerId, sequence, root, previous, 100);
    }

    // raiseAlerts

    function test_RaiseAlert() public {
        expectAlert(alert());
        raise(alerts(1));
    }

    function test_RaiseSeveralAlerts() public {
        IAuditLog.Alert[] memory all = alerts(5);
        for (uint8 kind = 0; kind < 5; ++kind) {
            all[kind].kind = IAuditLog.AlertKind(kind);
            all[kind].topicId = kind == 4 ? bytes32(0) : topicId;
        }
        for (uint256 i = 0; i < all.length; ++i) {
            expectAlert(all[i]);
        }
        raise(all);
    }

    function test_MostAlerts() public {
        raise(alerts(64));
        IAuditLog.Alert[] memory tooMany = alerts(65);
        vm.expectRevert(abi.encodeWithSelector(IAuditLog.TooManyAlerts.selector, 65, 64));
        raise(tooMany);
    }

    function test_RevertWhen_NoAlerts() public {
        vm.expectRevert(IAuditLog.NoAlerts.selector);
        raise(new IAuditLog.Alert[](0));
    }

    function test_RevertWhen_AlertMakesNoSense() public {
        bytes memory refusal = abi.encodeWithSelector(IAuditLog.InvalidAlert.selector, 1);
        IAuditLog.Alert[] memory all = alerts(3);
        all[1].wallet = address(0);
        vm.expectRevert(refusal);
        raise(all);
        all[1] = alert();
        all[1].count = 0;
        vm.expectRevert(refusal);
        raise(all);
        all[1] = alert();
        all[1].firstAt = all[1].lastAt + 1;
        vm.expectRevert(refusal);
        raise(all);
        all[1].firstAt = all[1].lastAt;
        raise(all);
    }

    function test_RevertWhen_AlertByNoGateway() public {
        address[4] memory others = [stranger, brokerOwner, topicOwner, registrar];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IAuditLog.NotGateway.selector, brokerId, others[i]));
            vm.prank(others[i]);
            audit.raiseAlerts(brokerId, alerts(1));
        }
    }

    function test_RevertWhen_AlertForAnotherBroker() public {
        vm.prank(stranger);
        uint256 other = brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, "other");
        vm.expectRevert(abi.encodeWithSelector(IAuditLog.NotGateway.selector, other, gateway));
        vm.prank(gateway);
        audit.raiseAlerts(other, alerts(1));
    }

    function test_RevertWhen_AlertByRemovedGateway() public {
        vm.prank(brokerOwner);
        brokers.removeGateway(brokerId, gateway);
        vm.expectRevert(abi.encodeWithSelector(IAuditLog.NotGateway.selector, brokerId, gateway));
        raise(alerts(1));
    }

    // anchor

    function test_Anchor() public {
        vm.expectEmit(address(audit));
        emit IAuditLog.Anchored(brokerId, gateway, 1, ROOT, 0, 100);
        anchorAs(gateway, 1, ROOT, 0);
        vm.expectEmit(address(audit));
        emit IAuditLog.Anchored(brokerId, gateway, 2, NEXT, ROOT, 100);
        anchorAs(gateway, 2, NEXT, ROOT);
        (uint64 sequence, bytes32 root) = audit.lastAnchor(brokerId, gateway);
        assertEq(sequence, 2);
        assertEq(root, NEXT);
    }

    function test_RevertWhen_SequenceDoesNotFollow() public {
        vm.expectRevert(abi.encodeWithSelector(IAuditLog.WrongSequence.selector, 0, 1));
        anchorAs(gateway, 0, ROOT, 0);
        vm.expectRevert(abi.encodeWithSelector(IAuditLog.WrongSequence.selector, 2, 1));
        anchorAs(gateway, 2, ROOT, 0);
        anchorAs(gateway, 1, ROOT, 0);
    }

    function test_RevertWhen_PreviousIsNotLast() public {
        vm.expectRevert(abi.encodeWithSelector(IAuditLog.WrongPrevious.selector, NEXT, 0));
        anchorAs(gateway, 1, ROOT, NEXT);
        anchorAs(gateway, 1, ROOT, 0);
        vm.expectRevert(abi.encodeWithSelector(IAuditLog.WrongPrevious.selector, 0, ROOT));
        anchorAs(gateway, 2, NEXT, 0);
    }

    function test_RevertWhen_AnchoredTwice() public {
        anchorAs(gateway, 1, ROOT, 0);
        vm.expectRevert(abi.encodeWithSelector(IAuditLog.WrongSequence.selector, 1, 2));
        anchorAs(gateway, 1, NEXT, 0);
    }

    function test_RevertWhen_AnchorIsEmpty() public {
        vm.startPrank(gateway);
        vm.expectRevert(IAuditLog.EmptyAnchor.selector);
        audit.anchor(brokerId, 1, 0, 0, 1);
        vm.expectRevert(IAuditLog.EmptyAnchor.selector);
        audit.anchor(brokerId, 1, ROOT, 0, 0);
        audit.anchor(brokerId, 1, ROOT, 0, 1);
    }

    function test_AnchorsApart() public {
        address second = makeAddr("second gateway");
        vm.startPrank(brokerOwner);
        brokers.setGateway(brokerId, second, "");
        uint256 other = brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, "other");
        brokers.setGateway(other, gateway, "");
        vm.stopPrank();
        anchorAs(gateway, 1, ROOT, 0);
        anchorAs(second, 1, NEXT, 0);
        vm.prank(gateway);
        audit.anchor(other, 1, NEXT, 0, 1);
        (, bytes32 root) = audit.lastAnchor(brokerId, gateway);
        assertEq(root, ROOT);
    }

    function test_ChainSurvivesRemoval() public {
        anchorAs(gateway, 1, ROOT, 0);
        vm.startPrank(brokerOwner);
        brokers.removeGateway(brokerId, gateway);
        brokers.setGateway(brokerId, gateway, "");
        vm.stopPrank();
        vm.expectRevert(abi.encodeWithSelector(IAuditLog.WrongSequence.selector, 1, 2));
        anchorAs(gateway, 1, NEXT, 0);
        anchorAs(gateway, 2, NEXT, ROOT);
    }

    function test_RevertWhen_AnchorByNoGateway() public {
        vm.expectRevert(abi.encodeWithSelector(IAuditLog.NotGateway.selector, brokerId, brokerOwner));
        anchorAs(brokerOwner, 1, ROOT, 0);
    }

    /// forge-config: default.isolate = true
    function test_AnchorIsConstant() public {
        anchorAs(gateway, 1, ROOT, 0);
        vm.startPrank(gateway);
        audit.anchor(brokerId, 2, NEXT, ROOT, 1);
        uint256 one = vm.lastCallGas().gasTotalUsed;
        audit.anchor(brokerId, 3, ROOT, NEXT, 10_000_000);
        // Three more octets of calldata that are not zero.
        assertApproxEqAbs(vm.lastCallGas().gasTotalUsed, one, 3 * 12);
    }
}
