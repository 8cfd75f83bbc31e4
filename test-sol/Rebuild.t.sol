// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Everybody} from "./game/Everybody.sol";
import {IScribe} from "./game/Game.sol";
import {Invariants} from "./game/Invariants.sol";
import {MarketReader} from "./game/MarketReader.sol";
import {Vm} from "forge-std/Vm.sol";

contract RebuildTest is Invariants, IScribe {
    /// @dev Changes in one history.
    uint256 private constant HISTORY = 1000;

    MarketReader private reader;
    address[5] private emitters;
    address[] private wallets;
    uint256 private facts;

    function setUp() public override {}

    /// @dev All there is, each once, and what most of the rest is about more often.
    function acts() internal view override returns (bytes4[] memory selectors) {
        bytes4[51] memory all = [
            game.buy.selector,
            game.buy.selector,
            game.buyMany.selector,
            game.grant.selector,
            game.grant.selector,
            game.grantMany.selector,
            game.revoke.selector,
            game.revokeMany.selector,
            game.turnBlock.selector,
            game.settle.selector,
            game.payout.selector,
            game.withdraw.selector,
            game.force.selector,
            game.wait.selector,
            game.wait.selector,
            game.register.selector,
            game.register.selector,
            game.register.selector,
            game.remove.selector,
            game.remove.selector,
            game.offer.selector,
            game.traits.selector,
            game.countries.selector,
            game.turnManager.selector,
            game.offerTopic.selector,
            game.acceptTopic.selector,
            game.comeBack.selector,
            game.createBroker.selector,
            game.offerBroker.selector,
            game.acceptBroker.selector,
            game.namingPolicy.selector,
            game.turnRegistrar.selector,
            game.turnGateway.selector,
            game.publishFee.selector,
            game.saleFee.selector,
            game.ban.selector,
            game.unban.selector,
            game.unbanOrigin.selector,
            game.anchor.selector,
            game.alert.selector,
            game.authorize.selector,
            game.authorize.selector,
            game.revokeDevice.selector,
            game.revokeAll.selector,
            game.invalidate.selector,
            game.cancel.selector,
            game.trespassAsManager.selector,
            game.trespassAsOwner.selector,
            game.trespassOnBroker.selector,
            game.trespassOnAccess.selector,
            game.trespassByBan.selector
        ];
        selectors = new bytes4[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            selectors[i] = all[i];
        }
    }

    /// forge-config: default.fuzz.runs = 4
    /// forge-config: deep.fuzz.runs = 200
    function testFuzz_LogsAloneTellTheWholeState(uint256 seed) public {
        begin();
        bytes4[] memory selectors = acts();
        for (uint256 i = 0; game.changes() < HISTORY; ++i) {
            playOne(selectors, uint256(keccak256(abi.encode(seed, i))));
        }
        this.compare();
        // Fees that were announced begin, bans and grants end: without a log, as the logs said.
        vm.warp(block.timestamp + 1 days);
        this.compare();
        assertGt(facts, 1000, "a comparison of nothing proves nothing");
        assertGt(reader.read(), HISTORY, "each change has its log, and some have several");
    }

    /// @dev One fact forged, and the comparison must see it; else it compares nothing.
    function test_ForgedLogIsNoticed() public {
        begin();
        this.compare();
        Vm.Log memory log;
        log.topics = new bytes32[](2);
        log.topics[0] = keccak256("Credited(address,uint256)");
        log.topics[1] = bytes32(uint256(uint160(wallets[0])));
        log.data = abi.encode(uint256(1));
        reader.tell(log, 2, uint64(block.timestamp));
        (bool success,) = address(this).call(abi.encodeCall(this.compare, ()));
        assertFalse(success);
    }

    function begin() private {
        vm.recordLogs();
        game = new Everybody();
        (brokers, market, topics) = (game.brokers(), game.market(), game.topics());
        emitters = [address(brokers), address(topics), address(market), address(game.devices()), address(game.audit())];
        reader = new MarketReader();
        this.hear(vm.getRecordedLogs());
        game.tell(this);
        for (uint256 a = 0; a < game.actorCount(); ++a) {
            wallets.push(game.actors(a));
        }
        wallets.push(makeAddr("nobody"));
    }

    function hear(Vm.Log[] calldata logs) external {
        for (uint256 i = 0; i < logs.length; ++i) {
            for (uint256 source = 0; source < emitters.length; ++source) {
                if (logs[i].emitter == emitters[source]) reader.tell(logs[i], source, uint64(block.timestamp));
            }
        }
    }

    function compare() external {
        assertEq(reader.brokerCount(), brokers.brokerCount(), "brokers");
        for (uint256 id = 1; id <= reader.brokerCount(); ++id) {
            compareBroker(id);
        }
        assertEq(reader.topicCount(), countTopics(), "topics");
        for (uint256 t = 0; t < reader.topicCount(); ++t) {
            compareTopic(reader.topicIds(t));
        }
        for (uint256 w = 0; w < wallets.length; ++w) {
            compareWallet(wallets[w]);
        }
        for (uint256 d = 0; d < game.deviceCount(); ++d) {
            address device = game.deviceKeys(d);
            same(reader.walletOf(device, block.timestamp), game.devices().walletOf(device), "wallet of a device");
            same(reader.deviceUntil(device), game.devices().deviceUntil(device), "end of a device");
        }
        assertEq(reader.alerts(), game.alertTotal(), "alerts");
    }

    function compareBroker(uint256 id) private {
        same(reader.brokerOwner(id), brokers.brokerOwner(id), "owner of a broker");
        same(reader.brokerCandidate(id), brokers.brokerCandidate(id), "candidate of a broker");
        same(uint256(reader.namingPolicy(id)), uint256(brokers.namingPolicy(id)), "naming policy");
        same(reader.publishFee(id, block.timestamp), brokers.publishFee(id), "publish fee");
        same(reader.saleFee(id, block.timestamp), brokers.saleFee(id), "sale fee");
        bytes32 origin = keccak256("origin");
        same(
            reader.originBan(id, origin), brokers.bannedUntil(id, IBrokerRegistry.BanKind.Origin, origin), "origin ban"
        );
        for (uint256 w = 0; w < wallets.length; ++w) {
            address wallet = wallets[w];
            (,, uint64 bannedUntil) = brokers.saleTerms(id, wallet);
            same(reader.walletBan(id, wallet), bannedUntil, "ban");
            same(reader.isRegistrar(id, wallet), brokers.isRegistrar(id, wallet), "registrar");
            same(reader.isGateway(id, wallet), brokers.isGateway(id, wallet), "gateway");
            (uint64 sequence, bytes32 root) = reader.lastAnchor(id, wallet);
            (uint64 sequenceOnChain, bytes32 rootOnChain) = game.audit().lastAnchor(id, wallet);
            same(sequence, sequenceOnChain, "anchors");
            same(uint256(root), uint256(rootOnChain), "root");
        }
    }

    function compareTopic(bytes32 id) private {
        MarketReader.TopicRead memory topic = reader.topicOf(id);
        (uint256 brokerId, uint64 epoch, address owner) = topics.topicOf(id);
        same(topic.brokerId, brokerId, "broker of a topic");
        same(topic.epoch, epoch, "epoch");
        same(topic.owner, owner, "owner of a topic");
        same(topic.candidate, topics.topicCandidate(id), "candidate of a topic");
        same(keccak256(abi.encode(topic.traits)), keccak256(abi.encode(topics.traitsOf(id))), "traits");
        if (owner != address(0)) {
            bytes32 named = topic.parentId == 0
                ? topics.topicIdOf(brokerId, topic.name)
                : topics.hiddenTopicIdOf(brokerId, topic.parentId, topic.commitment);
            same(named, id, "name or commitment");
        }
        (ITopicRegistry.CountryMode mode, bytes2[] memory codes) = reader.countriesOf(id);
        (ITopicRegistry.CountryMode modeOnChain, bytes2[] memory codesOnChain) = topics.countriesOf(id);
        same(keccak256(abi.encode(mode, codes)), keccak256(abi.encode(modeOnChain, codesOnChain)), "countries");
        compareRight(id, ITopicRegistry.Right.Publish);
        compareRight(id, ITopicRegistry.Right.Subscribe);
    }

    function compareRight(bytes32 id, ITopicRegistry.Right right) private {
        same(
            keccak256(abi.encode(reader.offerOf(id, right))), keccak256(abi.encode(topics.offerOf(id, right))), "offer"
        );
        for (uint256 w = 0; w < wallets.length; ++w) {
            address wallet = wallets[w];
            same(reader.isManager(id, wallet), topics.isManager(id, wallet), "manager");
            same(reader.isBlocked(id, wallet), market.isBlocked(id, wallet), "block");
            same(reader.grantedUntil(id, wallet, right), market.grantedUntil(id, wallet, right), "end of a grant");
            bool decision = reader.mayAccess(id, wallet, right, block.timestamp);
            same(decision, market.mayAccess(id, wallet, right), "decision");
        }
    }

    function compareWallet(address wallet) private {
        same(reader.creditOf(wallet), market.creditOf(wallet), "credit");
        (address to, bool isPull) = reader.payoutOf(wallet);
        (address toOnChain, bool isPullOnChain) = market.payoutOf(wallet);
        same(to == address(0) ? wallet : to, toOnChain, "payout");
        same(isPull, isPullOnChain, "wish for credit");
        same(reader.generationOf(wallet), game.devices().generationOf(wallet), "generation");
        same(reader.tokensValidFrom(wallet), game.devices().tokensValidFrom(wallet), "begin of valid tokens");
        same(reader.nonces(wallet), game.devices().nonces(wallet), "nonce");
    }

    /// @dev Of all that the game knows, those that ever were registered.
    function countTopics() private view returns (uint256 count) {
        for (uint256 t = 0; t < game.topicCount(); ++t) {
            if (topics.topicEpoch(game.topicIds(t)) > 0) ++count;
        }
    }

    function same(uint256 told, uint256 onChain, string memory what) private {
        ++facts;
        assertEq(told, onChain, what);
    }

    function same(bytes32 told, bytes32 onChain, string memory what) private {
        ++facts;
        assertEq(told, onChain, what);
    }

    function same(address told, address onChain, string memory what) private {
        ++facts;
        assertEq(told, onChain, what);
    }

    function same(bool told, bool onChain, string memory what) private {
        ++facts;
        assertEq(told, onChain, what);
    }
}
