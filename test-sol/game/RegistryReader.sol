// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAuditLog} from "../../src-sol/interfaces/IAuditLog.sol";
import {IBrokerRegistry} from "../../src-sol/interfaces/IBrokerRegistry.sol";
import {IDeviceRegistry} from "../../src-sol/interfaces/IDeviceRegistry.sol";
import {Vm} from "forge-std/Vm.sol";

/// @title Knows brokers, devices and the record from events alone, as an auditor does who has nothing but the chain's logs.
/// @dev Calls nothing. It is told each log in its order and the second of its block.
abstract contract RegistryReader {
    struct FeeRead {
        uint96 before;
        uint96 next;
        uint64 from;
    }

    struct BrokerRead {
        address owner;
        address candidate;
        IBrokerRegistry.NamingPolicy policy;
        FeeRead publishFee;
        FeeRead saleFee;
        mapping(address => bool) registrars;
        mapping(address => bool) gateways;
        mapping(address => uint64) walletBans;
        mapping(bytes32 => uint64) originBans;
    }

    struct DeviceRead {
        address wallet;
        uint64 until;
        uint64 generation;
    }

    struct AnchorRead {
        uint64 sequence;
        bytes32 root;
    }

    error UnknownEvent(bytes32 topic0);
    error StoryBroken(string what);

    uint256 public brokerCount;
    mapping(uint256 => BrokerRead) internal _brokers;
    mapping(address => DeviceRead) internal _devices;
    mapping(address => uint64) public generationOf;
    mapping(address => uint64) public tokensValidFrom;
    mapping(address => uint256) public nonces;
    mapping(uint256 => mapping(address => AnchorRead)) public lastAnchor;
    uint256 public alerts;
    uint256 public read;

    function brokerOwner(uint256 id) public view returns (address) {
        return _brokers[id].owner;
    }

    function brokerCandidate(uint256 id) external view returns (address) {
        return _brokers[id].candidate;
    }

    function namingPolicy(uint256 id) external view returns (IBrokerRegistry.NamingPolicy) {
        return _brokers[id].policy;
    }

    function isRegistrar(uint256 id, address wallet) external view returns (bool) {
        return _brokers[id].registrars[wallet] || _brokers[id].owner == wallet;
    }

    function isGateway(uint256 id, address wallet) external view returns (bool) {
        return _brokers[id].gateways[wallet];
    }

    function publishFee(uint256 id, uint256 time) external view returns (uint96) {
        return feeAt(_brokers[id].publishFee, time);
    }

    function saleFee(uint256 id, uint256 time) external view returns (uint96) {
        return feeAt(_brokers[id].saleFee, time);
    }

    function walletBan(uint256 id, address wallet) public view returns (uint64) {
        return _brokers[id].walletBans[wallet];
    }

    function originBan(uint256 id, bytes32 origin) external view returns (uint64) {
        return _brokers[id].originBans[origin];
    }

    function deviceUntil(address device) external view returns (uint64) {
        return _devices[device].until;
    }

    function walletOf(address device, uint256 time) external view returns (address) {
        DeviceRead memory entry = _devices[device];
        return time < entry.until && entry.generation == generationOf[entry.wallet] ? entry.wallet : address(0);
    }

    function readBroker(Vm.Log memory log, uint64 time) internal {
        bytes32 kind = log.topics[0];
        BrokerRead storage broker = _brokers[uint256(log.topics[1])];
        if (kind == IBrokerRegistry.BrokerCreated.selector) {
            if (uint256(log.topics[1]) != ++brokerCount) revert StoryBroken("ids of brokers");
            (broker.policy,) = abi.decode(log.data, (IBrokerRegistry.NamingPolicy, string));
            broker.owner = addressIn(log.topics[2]);
        } else if (kind == IBrokerRegistry.BrokerOwnershipOffered.selector) {
            broker.candidate = addressIn(log.topics[3]);
        } else if (kind == IBrokerRegistry.BrokerOwnershipTransferred.selector) {
            if (broker.owner != addressIn(log.topics[2])) revert StoryBroken("previous owner of a broker");
            (broker.owner, broker.candidate) = (addressIn(log.topics[3]), address(0));
        } else if (kind == IBrokerRegistry.NamingPolicySet.selector) {
            broker.policy = abi.decode(log.data, (IBrokerRegistry.NamingPolicy));
        } else if (kind == IBrokerRegistry.RegistrarSet.selector) {
            broker.registrars[addressIn(log.topics[2])] = abi.decode(log.data, (bool));
        } else if (kind == IBrokerRegistry.GatewaySet.selector) {
            broker.gateways[addressIn(log.topics[2])] = true;
        } else if (kind == IBrokerRegistry.GatewayRemoved.selector) {
            broker.gateways[addressIn(log.topics[2])] = false;
        } else if (kind == IBrokerRegistry.PublishFeeSet.selector) {
            readFee(broker.publishFee, log.data, time);
        } else if (kind == IBrokerRegistry.SaleFeeSet.selector) {
            readFee(broker.saleFee, log.data, time);
        } else if (kind == IBrokerRegistry.WalletBanned.selector) {
            (broker.walletBans[addressIn(log.topics[2])],) = abi.decode(log.data, (uint64, bytes32));
        } else if (kind == IBrokerRegistry.WalletUnbanned.selector) {
            broker.walletBans[addressIn(log.topics[2])] = time;
        } else if (kind == IBrokerRegistry.OriginBanned.selector) {
            (broker.originBans[log.topics[2]],) = abi.decode(log.data, (uint64, bytes32));
        } else if (kind == IBrokerRegistry.OriginUnbanned.selector) {
            broker.originBans[log.topics[2]] = time;
        } else {
            revert UnknownEvent(kind);
        }
    }

    function readDevice(Vm.Log memory log, uint64 time) internal {
        bytes32 kind = log.topics[0];
        address wallet = addressIn(log.topics[1]);
        if (kind == IDeviceRegistry.DeviceAuthorized.selector) {
            (uint64 until, uint64 generation) = abi.decode(log.data, (uint64, uint64));
            _devices[addressIn(log.topics[2])] = DeviceRead(wallet, until, generation);
        } else if (kind == IDeviceRegistry.DeviceRevoked.selector) {
            _devices[addressIn(log.topics[2])].until = time;
        } else if (kind == IDeviceRegistry.AllDevicesRevoked.selector) {
            generationOf[wallet] = abi.decode(log.data, (uint64));
        } else if (kind == IDeviceRegistry.TokensInvalidated.selector) {
            tokensValidFrom[wallet] = abi.decode(log.data, (uint64));
        } else if (kind == IDeviceRegistry.NonceUsed.selector) {
            nonces[wallet] = abi.decode(log.data, (uint256)) + 1;
        } else {
            revert UnknownEvent(kind);
        }
    }

    function readRecord(Vm.Log memory log) internal {
        if (log.topics[0] == IAuditLog.AlertRaised.selector) {
            ++alerts;
        } else if (log.topics[0] == IAuditLog.Anchored.selector) {
            (bytes32 root, bytes32 previous,) = abi.decode(log.data, (bytes32, bytes32, uint64));
            AnchorRead storage last = lastAnchor[uint256(log.topics[1])][addressIn(log.topics[2])];
            if (uint256(log.topics[3]) != last.sequence + 1 || previous != last.root) revert StoryBroken("anchors");
            (last.sequence, last.root) = (last.sequence + 1, root);
        } else {
            revert UnknownEvent(log.topics[0]);
        }
    }

    /// @dev What was in force when the fee was announced stays so until the announced one begins.
    function readFee(FeeRead storage fee, bytes memory data, uint64 time) private {
        uint96 before = feeAt(fee, time);
        (fee.next, fee.from) = abi.decode(data, (uint96, uint64));
        fee.before = before;
    }

    function feeAt(FeeRead memory fee, uint256 time) private pure returns (uint96) {
        return time < fee.from ? fee.before : fee.next;
    }

    function addressIn(bytes32 word) internal pure returns (address) {
        return address(uint160(uint256(word)));
    }
}
