// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAuditLog} from "../../src-sol/interfaces/IAuditLog.sol";
import {IBrokerRegistry} from "../../src-sol/interfaces/IBrokerRegistry.sol";
import {Game} from "./Game.sol";

/// @title What owners of brokers and their gateways do.
abstract contract BrokerActs is Game {
    struct Anchored {
        uint64 sequence;
        bytes32 root;
    }

    mapping(uint256 brokerId => mapping(address gateway => Anchored)) internal chains;
    uint256 public alertTotal;

    constructor() {
        found(actors[0], IBrokerRegistry.NamingPolicy.Open);
        found(actors[1], IBrokerRegistry.NamingPolicy.Curated);
        setGateway(1, actors[2], true);
        enlist(2, address(reentrant));
        // Fees that are in force from the beginning, since most games are over before a rise counts.
        setPublishFee(1, 0.001 ether);
        setSaleFee(1, 1000);
        vm.warp(block.timestamp + 1 days);
    }

    function chainOf(uint256 brokerId, address gateway) external view returns (Anchored memory) {
        return chains[brokerId][gateway];
    }

    // The broker's owner

    function createBroker(uint256 by, uint256 policy) external {
        if (brokerTotal == MOST_BROKERS) return;
        found(actor(by), IBrokerRegistry.NamingPolicy(policy % 3));
        did("create a broker");
    }

    function found(address owner, IBrokerRegistry.NamingPolicy policy) private {
        ++brokerTotal;
        brokerPages[brokerTotal].owner = owner;
        brokerPages[brokerTotal].policy = policy;
        bytes memory id = must(owner, address(brokers), 0, abi.encodeCall(brokers.createBroker, (policy, "plant")));
        assertEq(abi.decode(id, (uint256)), brokerTotal, "the next number");
    }

    function offerBroker(uint256 broker, uint256 to, uint256 nobody) external {
        uint256 brokerId = anyBroker(broker);
        BrokerPage storage page = brokerPages[brokerId];
        address candidate = nobody % 4 == 0 ? address(0) : actor(to);
        if (candidate == page.owner || candidate == page.candidate) return;
        must(page.owner, address(brokers), 0, abi.encodeCall(brokers.offerBrokerOwnership, (brokerId, candidate)));
        page.candidate = candidate;
        did("offer a broker");
    }

    function acceptBroker(uint256 broker) external {
        uint256 brokerId = anyBroker(broker);
        BrokerPage storage page = brokerPages[brokerId];
        if (page.candidate == address(0)) return;
        must(page.candidate, address(brokers), 0, abi.encodeCall(brokers.acceptBrokerOwnership, (brokerId)));
        (page.owner, page.candidate) = (page.candidate, address(0));
        did("accept a broker");
    }

    function namingPolicy(uint256 broker, uint256 wanted) external {
        uint256 brokerId = anyBroker(broker);
        BrokerPage storage page = brokerPages[brokerId];
        IBrokerRegistry.NamingPolicy next = IBrokerRegistry.NamingPolicy(wanted % 3);
        if (next == page.policy) return;
        must(page.owner, address(brokers), 0, abi.encodeCall(brokers.setNamingPolicy, (brokerId, next)));
        page.policy = next;
        did("set a naming policy");
    }

    function turnRegistrar(uint256 broker, uint256 wallet) external {
        uint256 brokerId = anyBroker(broker);
        enlist(brokerId, actor(wallet));
        did("set or remove a registrar");
    }

    function enlist(uint256 brokerId, address who) private {
        bool allowed = !isRegistrar[brokerId][who];
        address owner = brokerPages[brokerId].owner;
        must(owner, address(brokers), 0, abi.encodeCall(brokers.setRegistrar, (brokerId, who, allowed)));
        isRegistrar[brokerId][who] = allowed;
    }

    function turnGateway(uint256 broker, uint256 wallet, uint256 again) external {
        uint256 brokerId = anyBroker(broker);
        address who = actor(wallet);
        setGateway(brokerId, who, !isGateway[brokerId][who] || again % 4 == 0);
        did("set or remove a gateway");
    }

    function setGateway(uint256 brokerId, address who, bool wanted) private {
        bytes memory set = abi.encodeCall(brokers.setGateway, (brokerId, who, "mqtts://gateway.example:8883"));
        bytes memory removal = abi.encodeCall(brokers.removeGateway, (brokerId, who));
        must(brokerPages[brokerId].owner, address(brokers), 0, wanted ? set : removal);
        isGateway[brokerId][who] = wanted;
    }

    function publishFee(uint256 broker, uint256 weiPerDay) external {
        if (setPublishFee(anyBroker(broker), uint96(_bound(weiPerDay, 0, 1 ether)))) did("set a publish fee");
    }

    function setPublishFee(uint256 brokerId, uint96 wanted) private returns (bool isNew) {
        BrokerPage storage page = brokerPages[brokerId];
        isNew = announce(page.publishFee, wanted);
        if (!isNew) return false;
        must(page.owner, address(brokers), 0, abi.encodeCall(brokers.setPublishFee, (brokerId, wanted)));
    }

    function saleFee(uint256 broker, uint256 basisPoints) external {
        if (setSaleFee(anyBroker(broker), uint96(_bound(basisPoints, 0, 2500)))) did("set a sale fee");
    }

    function setSaleFee(uint256 brokerId, uint96 wanted) private returns (bool isNew) {
        BrokerPage storage page = brokerPages[brokerId];
        isNew = announce(page.saleFee, wanted);
        if (!isNew) return false;
        must(page.owner, address(brokers), 0, abi.encodeCall(brokers.setSaleFee, (brokerId, wanted)));
    }

    function announce(Fee storage fee, uint96 wanted) private returns (bool) {
        uint96 inForce = feeNow(fee);
        if (wanted == inForce && wanted == fee.announced) return false;
        (fee.announced, fee.inForceThen, fee.announcedAt) = (wanted, inForce, clock());
        return true;
    }

    /// @dev Caps are tried from above by whom nothing else stops.
    function overcharge(uint256 broker, uint256 excess) external {
        uint256 brokerId = anyBroker(broker);
        address owner = brokerPages[brokerId].owner;
        bytes4 refusal = IBrokerRegistry.FeeTooHigh.selector;
        uint96 more = uint96(_bound(excess, 1, 1 ether));
        mustNot(
            owner, address(brokers), abi.encodeCall(brokers.setSaleFee, (brokerId, 2500 + more)), refusal, "overcharge"
        );
        bytes memory data = abi.encodeCall(brokers.setPublishFee, (brokerId, 1 ether + more));
        mustNot(owner, address(brokers), data, refusal, "overcharge");
    }

    // Bans, by the owner or a gateway

    function ban(uint256 broker, uint256 by, uint256 wallet, uint256 time) external {
        uint256 brokerId = anyBroker(broker);
        address owner = brokerPages[brokerId].owner;
        address judge = gatewayOf(brokerId, by);
        // Gateways often meet whom somebody banned before, which may have been the owner.
        bytes32 subject = judge != owner && by % 2 == 0 ? bannedFrom(brokerId, wallet) : bytes32(0);
        if (subject == 0) subject = subjectOf(actor(wallet));
        BanPage storage page = walletBans[brokerId][subject];
        // The origin seldom, since the owner's ban of it keeps the gateways from naming it.
        IBrokerRegistry.Ban[] memory bans = new IBrokerRegistry.Ban[](time % 4 == 0 ? 2 : 1);
        uint64 until = uint64(block.timestamp + _bound(time, 1, judge == owner ? 90 days : 2 days));
        bans[0] = IBrokerRegistry.Ban(IBrokerRegistry.BanKind.Wallet, subject, until, 0, "flapping");
        if (bans.length == 2) {
            bans[1] = IBrokerRegistry.Ban(IBrokerRegistry.BanKind.Origin, keccak256("origin"), until, 0, "");
        }

        bytes memory data = abi.encodeCall(brokers.ban, (brokerId, bans));
        if (subject == subjectOf(owner)) {
            return mustNot(judge, address(brokers), data, IBrokerRegistry.CannotBanOwner.selector, "ban the owner");
        }
        bool shielded = judge != owner && page.byOwner && block.timestamp < page.until;
        if (shielded) {
            return mustNot(judge, address(brokers), data, IBrokerRegistry.BannedByOwner.selector, "soften a ban");
        }
        (bool success, bytes memory answer) = attempt(judge, address(brokers), 0, data);
        // The origin may be under the owner's ban.
        if (!success) return assertEq(bytes4(answer), IBrokerRegistry.BannedByOwner.selector);
        (page.until, page.byOwner) = (until, judge == owner);
        did(judge == owner ? "ban by the owner" : "ban by a gateway");
    }

    function banTooLong(uint256 broker, uint256 by, uint256 wallet) external {
        uint256 brokerId = anyBroker(broker);
        address judge = gatewayOf(brokerId, by);
        if (judge == brokerPages[brokerId].owner) return;
        IBrokerRegistry.Ban[] memory bans = new IBrokerRegistry.Ban[](1);
        bans[0] = IBrokerRegistry.Ban(
            IBrokerRegistry.BanKind.Wallet, subjectOf(actor(wallet)), uint64(block.timestamp + 30 days + 1), 0, ""
        );
        bytes memory data = abi.encodeCall(brokers.ban, (brokerId, bans));
        mustNot(judge, address(brokers), data, IBrokerRegistry.BanTooLong.selector, "ban for too long");
    }

    function unban(uint256 broker, uint256 by, uint256 wallet) external {
        uint256 brokerId = anyBroker(broker);
        address judge = gatewayOf(brokerId, by);
        bytes32 subject = bannedFrom(brokerId, wallet);
        BanPage storage page = walletBans[brokerId][subject];
        if (subject == 0) return;
        bytes memory data = abi.encodeCall(brokers.unban, (brokerId, IBrokerRegistry.BanKind.Wallet, subject));
        if (judge != brokerPages[brokerId].owner && page.byOwner) {
            return
                mustNot(judge, address(brokers), data, IBrokerRegistry.BannedByOwner.selector, "lift the owner's ban");
        }
        must(judge, address(brokers), 0, data);
        page.until = clock();
        did("unban");
    }

    function unbanOrigin(uint256 broker, uint256 by) external {
        uint256 brokerId = anyBroker(broker);
        bytes32 origin = keccak256("origin");
        if (block.timestamp >= brokers.bannedUntil(brokerId, IBrokerRegistry.BanKind.Origin, origin)) return;
        bytes memory data = abi.encodeCall(brokers.unban, (brokerId, IBrokerRegistry.BanKind.Origin, origin));
        (bool success, bytes memory answer) = attempt(gatewayOf(brokerId, by), address(brokers), 0, data);
        if (!success) return assertEq(bytes4(answer), IBrokerRegistry.BannedByOwner.selector);
        did("unban an origin");
    }

    // The record

    function anchor(uint256 broker, uint256 by, uint256 root, uint256 count) external {
        uint256 brokerId = anyBroker(broker);
        address gateway = gatewayOf(brokerId, by);
        if (!isGateway[brokerId][gateway]) return;
        Anchored storage chain = chains[brokerId][gateway];
        bytes32 next = keccak256(abi.encode(root));
        uint64 records = uint64(_bound(count, 1, type(uint64).max));

        // First what would tell a second story.
        bytes memory data = abi.encodeCall(audit.anchor, (brokerId, chain.sequence, next, chain.root, records));
        mustNot(gateway, address(audit), data, IAuditLog.WrongSequence.selector, "anchor one twice");
        data = abi.encodeCall(audit.anchor, (brokerId, chain.sequence + 2, next, chain.root, records));
        mustNot(gateway, address(audit), data, IAuditLog.WrongSequence.selector, "leave an anchor out");
        data = abi.encodeCall(audit.anchor, (brokerId, chain.sequence + 1, next, ~chain.root, records));
        mustNot(gateway, address(audit), data, IAuditLog.WrongPrevious.selector, "anchor to another root");

        data = abi.encodeCall(audit.anchor, (brokerId, chain.sequence + 1, next, chain.root, records));
        must(gateway, address(audit), 0, data);
        (chain.sequence, chain.root) = (chain.sequence + 1, next);
        did("anchor");
    }

    function alert(uint256 broker, uint256 by, uint256 topic, uint256 wallet, uint256 count) external {
        uint256 brokerId = anyBroker(broker);
        address gateway = gatewayOf(brokerId, by);
        if (!isGateway[brokerId][gateway]) return;
        IAuditLog.Alert[] memory alerts = new IAuditLog.Alert[](count % 3 + 1);
        for (uint256 i = 0; i < alerts.length; ++i) {
            alerts[i] = IAuditLog.Alert(
                IAuditLog.AlertKind(i), actor(wallet), anyTopic(topic), uint32(i + 1), clock(), clock(), bytes32(count)
            );
        }
        must(gateway, address(audit), 0, abi.encodeCall(audit.raiseAlerts, (brokerId, alerts)));
        alertTotal += alerts.length;
        did("alert");
    }

    function scribble(uint256 broker, uint256 by, uint256 root) external {
        uint256 brokerId = anyBroker(broker);
        address who = actor(by);
        if (isGateway[brokerId][who]) return;
        Anchored memory chain = chains[brokerId][who];
        bytes memory data =
            abi.encodeCall(audit.anchor, (brokerId, chain.sequence + 1, bytes32(root | 1), chain.root, 1));
        string memory deed = chain.sequence > 0 ? "anchor as former gateway" : "anchor as no gateway";
        mustNot(who, address(audit), data, IAuditLog.NotGateway.selector, deed);
        IAuditLog.Alert[] memory alerts = new IAuditLog.Alert[](1);
        alerts[0].wallet = who;
        alerts[0].count = 1;
        data = abi.encodeCall(audit.raiseAlerts, (brokerId, alerts));
        mustNot(who, address(audit), data, IAuditLog.NotGateway.selector, "alert as no gateway");
    }

    /// @dev The first banned one from there on, so that there often is one; zero if there is none.
    function bannedFrom(uint256 brokerId, uint256 seed) private view returns (bytes32) {
        for (uint256 i = 0; i < actors.length; ++i) {
            address who = actor(seed % actors.length + i);
            if (isBanned(brokerId, who)) return subjectOf(who);
        }
        return 0;
    }

    /// @dev A gateway from there on; for every third seed, or if there is none, the owner.
    function gatewayOf(uint256 brokerId, uint256 seed) internal view returns (address) {
        for (uint256 i = 0; i < actors.length && seed % 3 != 0; ++i) {
            address who = actor(seed / 3 % actors.length + i);
            if (isGateway[brokerId][who]) return who;
        }
        return brokerPages[brokerId].owner;
    }
}
