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
        /// @dev Topic 0 of the one event; zero if there is none.
        bytes32 emitted;
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
    bytes32 private otherTopic;
    bytes32 private doomedTopic;
    address private victim = makeAddr("victim");

    function setUp() public override {
        super.setUp();
        RefusingPayee payee = new RefusingPayee();
        address otherOwner = makeAddr("other owner");
        address banned = makeAddr("banned");
        address blocked = makeAddr("blocked");
        address candidate = makeAddr("candidate");
        address withDevice = makeAddr("with device");
        callers = [stranger, topicOwner, otherOwner, manager, brokerOwner, gateway, registrar, banned, blocked];
        callers.push(address(0));
        callers.push(candidate);
        callers.push(address(payee));
        callers.push(withDevice);
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
        topics.offerTopicOwnership(topicId, candidate);
        vm.stopPrank();
        vm.prank(brokerOwner);
        brokers.offerBrokerOwnership(brokerId, candidate);
        device = vm.createWallet("device");
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(device, devices.consentDigest(withDevice));
        vm.prank(withDevice);
        devices.authorizeDevice(device.addr, START + 10 days, abi.encodePacked(r, s, v));

        // A sale whose price could not be delivered, and whose time is over: a credit, and something to settle.
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.topicId = doomedTopic;
        wanted.wallet = victim;
        vm.prank(stranger);
        market.buy{value: PRICE}(wanted);
        vm.warp(START + 1 days);

        brokerRows();
        topicRows();
        marketRows();
        deviceRows();
        auditRows();
    }

    function add(address target, bytes memory data, uint256 allowed, bytes4 refusal, bytes32 emitted) private {
        rows.push(Row(target, data, 0, allowed, refusal, emitted));
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
        address m = address(market);
        bytes4 notOwner = ITopicRegistry.NotTopicOwner.selector;
        bytes4 notEither = ITopicRegistry.NotTopicOwnerOrManager.selector;
        add(
            m,
            abi.encodeCall(
                topics.registerTopic, (brokerId, string.concat(NAME, "/raw"), noTraits(), closed(), closed())
            ),
            OWNER | MANAGER,
            ITopicRegistry.NameNotYours.selector,
            ITopicRegistry.TopicRegistered.selector
        );
        add(
            m,
            abi.encodeCall(topics.setTraits, (topicId, ITopicRegistry.Traits(true, true, true))),
            OWNER | MANAGER,
            notEither,
            ITopicRegistry.TraitsSet.selector
        );
        add(
            m,
            abi.encodeCall(topics.setOffer, (topicId, PUBLISH, open())),
            OWNER | MANAGER,
            notEither,
            ITopicRegistry.OfferSet.selector
        );
        add(
            m,
            abi.encodeCall(topics.setManager, (topicId, victim, true)),
            OWNER,
            notOwner,
            ITopicRegistry.ManagerSet.selector
        );
        add(
            m,
            abi.encodeCall(topics.offerTopicOwnership, (topicId, victim)),
            OWNER,
            notOwner,
            ITopicRegistry.TopicOwnershipOffered.selector
        );
        add(
            m,
            abi.encodeCall(topics.acceptTopicOwnership, (topicId)),
            CANDIDATE,
            ITopicRegistry.NotTopicCandidate.selector,
            ITopicRegistry.TopicOwnershipTransferred.selector
        );
        add(m, abi.encodeCall(topics.deleteTopic, (topicId)), OWNER, notOwner, ITopicRegistry.TopicDeleted.selector);
    }

    function marketRows() private {
        address m = address(market);
        bytes4 notEither = ITopicRegistry.NotTopicOwnerOrManager.selector;
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.wallet = makeAddr("beneficiary");
        rows.push(Row(m, abi.encodeCall(market.buy, (wanted)), PRICE, EVERYONE, 0, IAccessMarket.AccessBought.selector));
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
        add(m, abi.encodeCall(market.settle, (doomedTopic, victim, SUBSCRIBE)), EVERYONE, 0, 0);
    }

    function deviceRows() private {
        address d = address(devices);
        address withDevice = callers[12];
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(device, devices.consentDigest(withDevice));
        add(
            d,
            abi.encodeCall(devices.authorizeDevice, (device.addr, START + 9 days, abi.encodePacked(r, s, v))),
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

    function auditRows() private {
        IAuditLog.Alert[] memory alerts = new IAuditLog.Alert[](1);
        alerts[0] = IAuditLog.Alert(IAuditLog.AlertKind.SessionEnded, victim, topicId, 1, START, START, 0);
        bytes4 refusal = IAuditLog.NotGateway.selector;
        add(
            address(audit),
            abi.encodeCall(audit.raiseAlerts, (brokerId, alerts)),
            GATEWAY,
            refusal,
            IAuditLog.AlertRaised.selector
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
        assertEq(cells, 32 * 13);
    }

    /// @dev A function added to a contract without a row here would go untested, so the artifacts are asked what there is.
    function test_EveryStateChangingFunctionIsListed() public view {
        string[4] memory artifacts = ["BrokerRegistry", "AccessMarket", "DeviceRegistry", "AuditLog"];
        address[4] memory targets = [address(brokers), address(market), address(devices), address(audit)];
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
        assertEq(functions, 31, "of the 32 rows two are for ban");
    }

    function contains(string[] memory all, string memory one) private pure returns (bool) {
        for (uint256 i = 0; i < all.length; ++i) {
            if (keccak256(bytes(all[i])) == keccak256(bytes(one))) return true;
        }
        return false;
    }

    function isListed(address target, bytes4 selector) private view returns (bool) {
        for (uint256 r = 0; r < rows.length; ++r) {
            if (rows[r].target == target && bytes4(rows[r].data) == selector) return true;
        }
        return false;
    }

    function test_EveryChangeHasExactlyOneEvent() public {
        for (uint256 r = 0; r < rows.length; ++r) {
            Row memory row = rows[r];
            uint256 caller = 0;
            while ((row.allowed >> caller) & 1 == 0) ++caller;
            uint256 snapshot = vm.snapshotState();
            vm.recordLogs();
            vm.prank(callers[caller]);
            (bool success,) = row.target.call{value: row.value}(row.data);
            assertTrue(success);
            Vm.Log[] memory logs = vm.getRecordedLogs();
            string memory which = string.concat("row ", vm.toString(r));
            assertEq(logs.length, row.emitted == 0 ? 0 : 1, which);
            if (row.emitted != 0) {
                assertEq(logs[0].topics[0], row.emitted, which);
                assertEq(logs[0].emitter, row.target, which);
            }
            vm.revertToState(snapshot);
        }
    }
}
