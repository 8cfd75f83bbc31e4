// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {IAuditLog} from "../src-sol/interfaces/IAuditLog.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {IDeviceRegistry} from "../src-sol/interfaces/IDeviceRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Fixture} from "./Fixture.sol";
import {RefusingPayee} from "./Payees.sol";
import {Vm} from "forge-std/Vm.sol";

/// @title Every state-changing function against every kind of caller.
/// @dev Each row is one call in a state where it makes sense; each cell is tried from that same state.
contract AccessMatrixTest is Fixture {
    struct Row {
        address target;
        bytes data;
        uint256 value;
        /// @dev Who may, as bits of the callers below.
        uint256 allowed;
        /// @dev What the others are told.
        bytes4 refusal;
        /// @dev Topic 0 of each event, in order: one for each change.
        bytes32[] emitted;
    }

    uint256 private constant STRANGER = 1 << 0;
    uint256 private constant OWNER = 1 << 1;
    uint256 private constant OTHER_OWNER = 1 << 2;
    uint256 private constant MANAGER = 1 << 3;
    uint256 private constant BROKER = 1 << 4;
    uint256 private constant GATEWAY = 1 << 5;
    uint256 private constant REGISTRAR = 1 << 6;
    uint256 private constant BANNED = 1 << 7;
    uint256 private constant BLOCKED = 1 << 8;
    uint256 private constant ZERO = 1 << 9;
    uint256 private constant CANDIDATE = 1 << 10;
    uint256 private constant CREDITED = 1 << 11;
    uint256 private constant WITH_DEVICE = 1 << 12;
    uint256 private constant EVERYONE = (1 << 13) - 1;

    IBrokerRegistry.BanKind private constant WALLET = IBrokerRegistry.BanKind.Wallet;
    bytes32 private constant ORIGIN_SUBJECT = keccak256("origin");

    address[] private callers;
    Row[] private rows;
    Vm.Wallet private device;
    Vm.Wallet private secondDevice;
    Vm.Wallet private withDevice;
    bytes32 private otherTopic;
    bytes32 private doomedTopic;
    bytes32 private paidTopic;
    address private victim = makeAddr("victim");
    address private secondVictim = makeAddr("second victim");

    function setUp() public override {
        super.setUp();
        RefusingPayee payee = new RefusingPayee();
        address otherOwner = makeAddr("other owner");
        address banned = makeAddr("banned");
        address blocked = makeAddr("blocked");
        address candidate = makeAddr("candidate");
        withDevice = vm.createWallet("with device");
        callers = [stranger, topicOwner, otherOwner, manager, brokerOwner, gateway, registrar, banned, blocked];
        callers.push(address(0));
        callers.push(candidate);
        callers.push(address(payee));
        callers.push(withDevice.addr);
        for (uint256 i = 0; i < callers.length; ++i) {
            vm.deal(callers[i], 1000 ether);
        }

        otherTopic = register(otherOwner, "other");
        doomedTopic = register(address(payee), "paid", closed(), priced(PRICE));
        vm.prank(brokerOwner);
        brokers.ban(brokerId, walletBan(banned, START + 10 days));
        banBuyer(START + 10 days);
        vm.startPrank(topicOwner);
        market.blockWallet(topicId, blocked, PURPOSE, "");
        market.blockWallet(topicId, victim, PURPOSE, "");
        market.grant(topicId, victim, SUBSCRIBE, START + 10 days, PURPOSE, "");
        market.grant(topicId, secondVictim, SUBSCRIBE, START + 10 days, PURPOSE, "");
        topics.offerTopicOwnership(topicId, candidate);
        vm.stopPrank();
        vm.prank(brokerOwner);
        brokers.offerBrokerOwnership(brokerId, candidate);
        device = vm.createWallet("device");
        secondDevice = vm.createWallet("second device");
        (address[] memory keys, bytes[] memory consents) = bothDevices();
        vm.prank(withDevice.addr);
        devices.authorizeDevices(keys, START + 10 days, consents);

        // A sale whose price could not be delivered, and whose time is over: a credit, and something to settle.
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.topicId = doomedTopic;
        wanted.wallet = victim;
        vm.prank(stranger);
        market.buy{value: PRICE}(wanted);
        // And one whose time still runs.
        paidTopic = register(topicOwner, "paid-too", closed(), priced(PRICE));
        vm.prank(topicOwner);
        topics.setManager(paidTopic, manager, true);
        wanted.topicId = paidTopic;
        wanted.periods = 5;
        vm.prank(stranger);
        market.buy{value: 5 * PRICE}(wanted);
        vm.warp(START + 1 days);

        brokerRows();
        topicRows();
        marketRows();
        deviceRows();
        auditRows();
    }

    function add(address target, bytes memory data, uint256 allowed, bytes4 refusal, bytes32 emitted) private {
        add(target, data, 0, allowed, refusal, one(emitted));
    }

    function add(
        address target,
        bytes memory data,
        uint256 value,
        uint256 allowed,
        bytes4 refusal,
        bytes32[] memory emitted
    ) private {
        rows.push(Row(target, data, value, allowed, refusal, emitted));
    }

    function none() private pure returns (bytes32[] memory) {}

    function one(bytes32 first) private pure returns (bytes32[] memory all) {
        all = new bytes32[](1);
        all[0] = first;
    }

    function two(bytes32 first, bytes32 second) private pure returns (bytes32[] memory all) {
        all = new bytes32[](2);
        (all[0], all[1]) = (first, second);
    }

    function three(bytes32 first, bytes32 second, bytes32 third) private pure returns (bytes32[] memory all) {
        all = new bytes32[](3);
        (all[0], all[1], all[2]) = (first, second, third);
    }

    function both(address first, address second) private pure returns (address[] memory all) {
        all = new address[](2);
        (all[0], all[1]) = (first, second);
    }

    function signed(Vm.Wallet storage key, bytes32 digest) private returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function bothDevices() private returns (address[] memory keys, bytes[] memory consents) {
        keys = both(device.addr, secondDevice.addr);
        consents = new bytes[](2);
        consents[0] = signed(device, devices.consentDigest(withDevice.addr));
        consents[1] = signed(secondDevice, devices.consentDigest(withDevice.addr));
    }

    function brokerRows() private {
        address b = address(brokers);
        bytes4 notOwner = IBrokerRegistry.NotBrokerOwner.selector;
        bytes4 notEither = IBrokerRegistry.NotBrokerOwnerOrGateway.selector;
        add(
            b,
            abi.encodeCall(brokers.createBroker, (IBrokerRegistry.NamingPolicy.Open, "mine")),
            EVERYONE,
            0,
            IBrokerRegistry.BrokerCreated.selector
        );
        add(
            b,
            abi.encodeCall(brokers.offerBrokerOwnership, (brokerId, victim)),
            BROKER,
            notOwner,
            IBrokerRegistry.BrokerOwnershipOffered.selector
        );
        add(
            b,
            abi.encodeCall(brokers.acceptBrokerOwnership, (brokerId)),
            CANDIDATE,
            IBrokerRegistry.NotOwnershipCandidate.selector,
            IBrokerRegistry.BrokerOwnershipTransferred.selector
        );
        add(
            b,
            abi.encodeCall(brokers.setNamingPolicy, (brokerId, IBrokerRegistry.NamingPolicy.Curated)),
            BROKER,
            notOwner,
            IBrokerRegistry.NamingPolicySet.selector
        );
        add(
            b,
            abi.encodeCall(brokers.setRegistrar, (brokerId, victim, true)),
            BROKER,
            notOwner,
            IBrokerRegistry.RegistrarSet.selector
        );
        add(
            b,
            abi.encodeCall(brokers.setGateway, (brokerId, victim, "")),
            BROKER,
            notOwner,
            IBrokerRegistry.GatewaySet.selector
        );
        add(
            b,
            abi.encodeCall(brokers.removeGateway, (brokerId, gateway)),
            BROKER,
            notOwner,
            IBrokerRegistry.GatewayRemoved.selector
        );
        add(
            b,
            abi.encodeCall(brokers.setPublishFee, (brokerId, 1)),
            BROKER,
            notOwner,
            IBrokerRegistry.PublishFeeSet.selector
        );
        add(b, abi.encodeCall(brokers.setSaleFee, (brokerId, 1)), BROKER, notOwner, IBrokerRegistry.SaleFeeSet.selector);
        add(
            b,
            abi.encodeCall(brokers.ban, (brokerId, walletBan(victim, START + 2 days))),
            BROKER | GATEWAY,
            notEither,
            IBrokerRegistry.WalletBanned.selector
        );
        add(
            b,
            abi.encodeCall(brokers.ban, (brokerId, originBan(ORIGIN_SUBJECT, START + 2 days))),
            BROKER | GATEWAY,
            notEither,
            IBrokerRegistry.OriginBanned.selector
        );
        add(
            b,
            abi.encodeCall(brokers.unban, (brokerId, WALLET, subjectOf(buyer))),
            BROKER | GATEWAY,
            notEither,
            IBrokerRegistry.WalletUnbanned.selector
        );
    }

    function topicRows() private {
        address t = address(topics);
        bytes4 notOwner = ITopicRegistry.NotTopicOwner.selector;
        bytes4 notEither = ITopicRegistry.NotTopicOwnerOrManager.selector;
        bytes2[] memory codes = new bytes2[](2);
        (codes[0], codes[1]) = ("AT", "DE");
        add(
            t,
            abi.encodeCall(
                topics.registerTopic, (brokerId, string.concat(NAME, "/raw"), noTraits(), closed(), closed())
            ),
            OWNER | MANAGER,
            ITopicRegistry.NameNotYours.selector,
            ITopicRegistry.TopicRegistered.selector
        );
        add(
            t,
            abi.encodeCall(
                topics.registerHiddenTopic, (topicId, keccak256("salt and name"), noTraits(), closed(), closed())
            ),
            OWNER,
            notOwner,
            ITopicRegistry.HiddenTopicRegistered.selector
        );
        add(
            t,
            abi.encodeCall(topics.setCountries, (topicId, ITopicRegistry.CountryMode.Only, codes)),
            OWNER | MANAGER,
            notEither,
            ITopicRegistry.CountriesSet.selector
        );
        add(
            t,
            abi.encodeCall(topics.setTraits, (topicId, ITopicRegistry.Traits(true, true, true))),
            OWNER | MANAGER,
            notEither,
            ITopicRegistry.TraitsSet.selector
        );
        add(
            t,
            abi.encodeCall(topics.setOffer, (topicId, PUBLISH, open())),
            OWNER | MANAGER,
            notEither,
            ITopicRegistry.OfferSet.selector
        );
        add(
            t,
            abi.encodeCall(topics.setManager, (topicId, victim, true)),
            OWNER,
            notOwner,
            ITopicRegistry.ManagerSet.selector
        );
        add(
            t,
            abi.encodeCall(topics.offerTopicOwnership, (topicId, victim)),
            OWNER,
            notOwner,
            ITopicRegistry.TopicOwnershipOffered.selector
        );
        add(
            t,
            abi.encodeCall(topics.acceptTopicOwnership, (topicId)),
            CANDIDATE,
            ITopicRegistry.NotTopicCandidate.selector,
            ITopicRegistry.TopicOwnershipTransferred.selector
        );
        add(t, abi.encodeCall(topics.deleteTopic, (topicId)), OWNER, notOwner, ITopicRegistry.TopicDeleted.selector);
    }

    function marketRows() private {
        address m = address(market);
        bytes4 notEither = ITopicRegistry.NotTopicOwnerOrManager.selector;
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.wallet = makeAddr("beneficiary");
        bytes32 bought = IAccessMarket.AccessBought.selector;
        add(m, abi.encodeCall(market.buy, (wanted)), PRICE, EVERYONE, 0, one(bought));
        IAccessMarket.Order[] memory orders = new IAccessMarket.Order[](2);
        (orders[0], orders[1]) = (wanted, wanted);
        add(m, abi.encodeCall(market.buyMany, (orders)), 2 * PRICE, EVERYONE, 0, two(bought, bought));
        add(m, abi.encodeCall(market.setPayout, (victim, true)), EVERYONE, 0, IAccessMarket.PayoutSet.selector);
        add(
            m,
            abi.encodeCall(market.grant, (topicId, victim, PUBLISH, START + 5 days, PURPOSE, "")),
            OWNER | MANAGER,
            notEither,
            IAccessMarket.AccessGranted.selector
        );
        add(
            m,
            abi.encodeCall(market.revoke, (topicId, victim, SUBSCRIBE, PURPOSE, "")),
            OWNER | MANAGER,
            notEither,
            IAccessMarket.AccessRevoked.selector
        );
        add(
            m,
            abi.encodeCall(market.blockWallet, (topicId, buyer, PURPOSE, "")),
            OWNER | MANAGER,
            notEither,
            IAccessMarket.WalletBlocked.selector
        );
        add(
            m,
            abi.encodeCall(market.blockWallet, (paidTopic, victim, PURPOSE, "")),
            4 * PRICE,
            OWNER | MANAGER,
            notEither,
            two(IAccessMarket.WalletBlocked.selector, IAccessMarket.AccessRevoked.selector)
        );
        manyRows(m, notEither);
        add(
            m,
            abi.encodeCall(market.unblockWallet, (topicId, victim)),
            OWNER | MANAGER,
            notEither,
            IAccessMarket.WalletUnblocked.selector
        );
        add(
            m,
            abi.encodeCall(market.withdraw, (victim)),
            CREDITED,
            IAccessMarket.NoCredit.selector,
            IAccessMarket.Withdrawn.selector
        );
        add(m, abi.encodeCall(market.settle, (doomedTopic, victim, SUBSCRIBE)), 0, EVERYONE, 0, none());
    }

    function manyRows(address m, bytes4 notEither) private {
        bytes32[] memory ids = one(topicId);
        address[] memory wallets = both(victim, secondVictim);
        bytes32 granted = IAccessMarket.AccessGranted.selector;
        bytes32 revoked = IAccessMarket.AccessRevoked.selector;
        add(
            m,
            abi.encodeCall(market.grantMany, (ids, wallets, PUBLISH, START + 5 days, PURPOSE, "")),
            0,
            OWNER | MANAGER,
            notEither,
            two(granted, granted)
        );
        add(
            m,
            abi.encodeCall(market.revokeMany, (ids, wallets, SUBSCRIBE, PURPOSE, "")),
            0,
            OWNER | MANAGER,
            notEither,
            two(revoked, revoked)
        );
    }

    function deviceRows() private {
        address d = address(devices);
        (address[] memory keys, bytes[] memory consents) = bothDevices();
        bytes32 authorized = IDeviceRegistry.DeviceAuthorized.selector;
        bytes32 revoked = IDeviceRegistry.DeviceRevoked.selector;
        add(
            d,
            abi.encodeCall(devices.authorizeDevices, (keys, START + 9 days, consents)),
            0,
            WITH_DEVICE,
            IDeviceRegistry.DeviceTaken.selector,
            two(authorized, authorized)
        );
        add(
            d,
            abi.encodeCall(devices.revokeDevices, (keys)),
            0,
            WITH_DEVICE,
            IDeviceRegistry.NotYourDevice.selector,
            two(revoked, revoked)
        );
        relayedRows(d, keys, consents);
        add(
            d,
            abi.encodeCall(devices.authorizeDevice, (device.addr, START + 9 days, consents[0])),
            WITH_DEVICE,
            IDeviceRegistry.DeviceTaken.selector,
            IDeviceRegistry.DeviceAuthorized.selector
        );
        add(
            d,
            abi.encodeCall(devices.revokeDevice, (device.addr)),
            WITH_DEVICE,
            IDeviceRegistry.NotYourDevice.selector,
            IDeviceRegistry.DeviceRevoked.selector
        );
        add(d, abi.encodeCall(devices.revokeAllDevices, ()), EVERYONE, 0, IDeviceRegistry.AllDevicesRevoked.selector);
        add(
            d,
            abi.encodeCall(devices.invalidateBefore, (START)),
            EVERYONE,
            0,
            IDeviceRegistry.TokensInvalidated.selector
        );
    }

    function relayedRows(address d, address[] memory keys, bytes[] memory consents) private {
        address wallet = withDevice.addr;
        uint64 until = START + 9 days;
        uint64 deadline = START + 2 days;
        bytes32 used = IDeviceRegistry.NonceUsed.selector;
        bytes32 authorized = IDeviceRegistry.DeviceAuthorized.selector;
        bytes memory signature = signed(withDevice, devices.authorizeDevicesDigest(wallet, keys, until, deadline));
        add(
            d,
            abi.encodeCall(devices.authorizeDevicesFor, (wallet, keys, until, consents, deadline, signature)),
            0,
            EVERYONE,
            0,
            three(used, authorized, authorized)
        );
        signature = signed(withDevice, devices.revokeAllDevicesDigest(wallet, deadline));
        add(
            d,
            abi.encodeCall(devices.revokeAllDevicesFor, (wallet, deadline, signature)),
            0,
            EVERYONE,
            0,
            two(used, IDeviceRegistry.AllDevicesRevoked.selector)
        );
        add(d, abi.encodeCall(devices.cancelNonce, ()), EVERYONE, 0, used);
    }

    function auditRows() private {
        IAuditLog.Alert[] memory alerts = new IAuditLog.Alert[](2);
        alerts[0] = IAuditLog.Alert(IAuditLog.AlertKind.SessionEnded, victim, topicId, 1, START, START, 0);
        alerts[1] = alerts[0];
        bytes4 refusal = IAuditLog.NotGateway.selector;
        add(
            address(audit),
            abi.encodeCall(audit.raiseAlerts, (brokerId, alerts)),
            0,
            GATEWAY,
            refusal,
            two(IAuditLog.AlertRaised.selector, IAuditLog.AlertRaised.selector)
        );
        add(
            address(audit),
            abi.encodeCall(audit.anchor, (brokerId, 1, keccak256("root"), 0, 1)),
            GATEWAY,
            refusal,
            IAuditLog.Anchored.selector
        );
    }

    function test_ExactlyTheDocumentedCallersSucceed() public {
        uint256 cells;
        for (uint256 r = 0; r < rows.length; ++r) {
            Row memory row = rows[r];
            for (uint256 c = 0; c < callers.length; ++c) {
                uint256 snapshot = vm.snapshotState();
                vm.prank(callers[c]);
                (bool success, bytes memory answer) = row.target.call{value: row.value}(row.data);
                bool allowed = (row.allowed >> c) & 1 == 1;
                string memory cell = string.concat("row ", vm.toString(r), " caller ", vm.getLabel(callers[c]));
                assertEq(success, allowed, cell);
                if (!allowed) assertEq(bytes4(answer), row.refusal, cell);
                vm.revertToState(snapshot);
                ++cells;
            }
        }
        assertEq(cells, 44 * 13);
    }

    /// @dev A function added to a contract without a row here would go untested, so the artifacts are asked what there is.
    function test_EveryStateChangingFunctionIsListed() public view {
        string[5] memory artifacts = ["BrokerRegistry", "TopicRegistry", "AccessMarket", "DeviceRegistry", "AuditLog"];
        address[5] memory targets =
            [address(brokers), address(topics), address(market), address(devices), address(audit)];
        uint256 functions;
        for (uint256 i = 0; i < artifacts.length; ++i) {
            string memory json = vm.readFile(string.concat("out/", artifacts[i], ".sol/", artifacts[i], ".json"));
            string memory changes =
                "$.abi[?(@.type=='function' && @.stateMutability!='view' && @.stateMutability!='pure')].name";
            string[] memory changing = abi.decode(vm.parseJson(json, changes), (string[]));
            string[] memory signatures = vm.parseJsonKeys(json, "$.methodIdentifiers");
            for (uint256 f = 0; f < signatures.length; ++f) {
                string memory name = vm.split(signatures[f], "(")[0];
                if (!contains(changing, name)) continue;
                ++functions;
                assertTrue(isListed(targets[i], bytes4(keccak256(bytes(signatures[f])))), signatures[f]);
            }
        }
        assertEq(functions, 42, "of the 44 rows two are for ban, two for blockWallet");
    }

    function contains(string[] memory all, string memory wanted) private pure returns (bool) {
        for (uint256 i = 0; i < all.length; ++i) {
            if (keccak256(bytes(all[i])) == keccak256(bytes(wanted))) return true;
        }
        return false;
    }

    function isListed(address target, bytes4 selector) private view returns (bool) {
        for (uint256 r = 0; r < rows.length; ++r) {
            if (rows[r].target == target && bytes4(rows[r].data) == selector) return true;
        }
        return false;
    }

    /// @dev Ether that nobody owes would be stuck: what costs nothing takes none, not from those who may either.
    function test_WhatCostsNothingTakesNothing() public {
        bytes4[7] memory payable_ = [
            market.buy.selector,
            market.buyMany.selector,
            market.grant.selector,
            market.grantMany.selector,
            market.revoke.selector,
            market.revokeMany.selector,
            market.blockWallet.selector
        ];
        uint256 tried;
        for (uint256 r = 0; r < rows.length; ++r) {
            Row memory row = rows[r];
            bool isPayable;
            for (uint256 i = 0; i < payable_.length; ++i) {
                if (bytes4(row.data) == payable_[i]) isPayable = true;
            }
            if (isPayable) continue;
            uint256 caller = 0;
            while ((row.allowed >> caller) & 1 == 0) ++caller;
            vm.prank(callers[caller]);
            (bool success,) = row.target.call{value: 1}(row.data);
            assertFalse(success, vm.toString(r));
            ++tried;
        }
        assertEq(tried, 44 - 8);
    }

    /// @dev Calls that change several things have several rows' worth of events, in the order of what they were given.
    function test_EveryChangeHasExactlyOneEvent() public {
        for (uint256 r = 0; r < rows.length; ++r) {
            Row memory row = rows[r];
            uint256 caller = 0;
            while ((row.allowed >> caller) & 1 == 0) ++caller;
            uint256 snapshot = vm.snapshotState();
            vm.recordLogs();
            vm.prank(callers[caller]);
            (bool success,) = row.target.call{value: row.value}(row.data);
            assertTrue(success, vm.toString(r));
            Vm.Log[] memory logs = vm.getRecordedLogs();
            string memory which = string.concat("row ", vm.toString(r));
            assertEq(logs.length, row.emitted.length, which);
            for (uint256 e = 0; e < logs.length; ++e) {
                assertEq(logs[e].topics[0], row.emitted[e], which);
                assertEq(logs[e].emitter, row.target, which);
            }
            vm.revertToState(snapshot);
        }
    }
}
