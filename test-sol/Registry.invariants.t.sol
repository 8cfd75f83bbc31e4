// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {BrokerActs} from "./game/BrokerActs.sol";
import {Claims} from "./game/Claims.sol";
import {Game} from "./game/Game.sol";

contract RegistryInvariants is Claims {
    function suite() internal pure override returns (string memory) {
        return "Registry";
    }

    function acts() internal view override returns (bytes4[] memory selectors) {
        bytes4[46] memory all = [
            game.register.selector,
            game.register.selector,
            game.register.selector,
            game.remove.selector,
            game.remove.selector,
            game.remove.selector,
            game.offer.selector,
            game.traits.selector,
            game.countries.selector,
            game.countries.selector,
            game.turnManager.selector,
            game.turnManager.selector,
            game.turnManager.selector,
            game.offerTopic.selector,
            game.offerTopic.selector,
            game.acceptTopic.selector,
            game.comeBack.selector,
            game.comeBack.selector,
            game.createBroker.selector,
            game.offerBroker.selector,
            game.offerBroker.selector,
            game.acceptBroker.selector,
            game.namingPolicy.selector,
            game.turnRegistrar.selector,
            game.turnGateway.selector,
            game.turnGateway.selector,
            game.publishFee.selector,
            game.saleFee.selector,
            game.overcharge.selector,
            game.ban.selector,
            game.ban.selector,
            game.banTooLong.selector,
            game.unban.selector,
            game.anchor.selector,
            game.alert.selector,
            game.scribble.selector,
            game.grant.selector,
            game.wait.selector,
            game.wait.selector,
            game.wait.selector,
            game.wait.selector,
            game.wait.selector,
            game.trespassAsManager.selector,
            game.trespassAsOwner.selector,
            game.trespassOnBroker.selector,
            game.trespassByBan.selector
        ];
        selectors = new bytes4[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            selectors[i] = all[i];
        }
    }

    // Topics

    function invariant_OwnerMeansExisting() public view {
        eachTopic(checkOwner);
    }

    function checkOwner(uint256, bytes32 topicId) private view {
        Game.TopicPage memory page = game.topicPage(topicId);
        (uint256 brokerId, uint64 epoch, address owner) = topics.topicOf(topicId);
        assertEq(owner, page.owner);
        assertEq(epoch, page.epoch);
        bool exists = owner != address(0);
        assertEq(brokerId, exists ? page.brokerId : 0);
        try topics.saleTerms(topicId, ITopicRegistry.Right.Publish) {
            assertTrue(exists, "what has no owner has no terms");
        } catch {
            assertFalse(exists, "what has an owner has terms");
        }
    }

    function invariant_EpochsNeverFall() public view {
        assertNoRelapse();
    }

    function invariant_CandidateIsNeverOwner() public view {
        eachTopic(checkTopicCandidate);
        checkBrokerCandidate(brokerInTurn());
    }

    function checkTopicCandidate(uint256, bytes32 topicId) private view {
        address candidate = topics.topicCandidate(topicId);
        assertEq(candidate, game.topicPage(topicId).candidate);
        if (candidate != address(0)) assertNotEq(candidate, topics.topicOwner(topicId));
    }

    function checkBrokerCandidate(uint256 brokerId) private view {
        address candidate = brokers.brokerCandidate(brokerId);
        assertEq(candidate, game.brokerPage(brokerId).candidate);
        if (candidate != address(0)) assertNotEq(candidate, brokers.brokerOwner(brokerId));
    }

    function invariant_ManagersOfOldEpochsArePowerless() public view {
        bytes32 topicId = topicInTurn();
        uint64 epoch = game.topicPage(topicId).epoch;
        for (uint256 a = 0; a < actors.length; ++a) {
            address who = actors[a];
            bool isManager = game.exists(topicId) && game.managed(topicId, epoch, who);
            assertEq(topics.isManager(topicId, who), isManager);
            try topics.topicManagedBy(topicId, who) {
                assertTrue(game.ownsOrManages(topicId, who), "may act");
            } catch {
                assertFalse(game.ownsOrManages(topicId, who), "may not act");
            }
        }
    }

    function invariant_NamesAreUnique() public view {
        for (uint256 t = 0; t < 3; ++t) {
            bytes32 topicId = topics.topicIdOf(game.brokerOf(t), game.nameOf(t));
            assertEq(topicId, keccak256(abi.encode(game.brokerOf(t), game.nameOf(t))));
            assertEq(topics.topicOwner(topicId), game.topicPage(topicId).owner, "of the one who registered it first");
        }
        eachTopic(checkApart);
    }

    function checkApart(uint256 t, bytes32 topicId) private view {
        for (uint256 other = t + 1; other < game.topicCount(); ++other) {
            assertNotEq(topicId, game.topicIds(other), "names of two brokers, and hidden ones");
        }
    }

    function invariant_HiddenIdsAreApart() public view {
        for (uint256 t = 3; t < game.topicCount(); ++t) {
            bytes32 parentId = game.topicIds(t == 3 ? 0 : 3);
            bytes32 id = topics.hiddenTopicIdOf(1, parentId, game.commitmentOf(t));
            assertEq(id, keccak256(abi.encode(uint256(1), parentId, game.commitmentOf(t))));
            assertEq(id, game.topicIds(t));
        }
        eachTopic(checkApart);
    }

    function invariant_OffersAndCountriesAreThoseOfTheEpoch() public view {
        bytes32 topicId = topicInTurn();
        for (uint256 r = 0; r < 2; ++r) {
            ITopicRegistry.Right right = ITopicRegistry.Right(r);
            assertEq(abi.encode(topics.offerOf(topicId, right)), abi.encode(game.offerPage(topicId, right)));
        }
        (ITopicRegistry.CountryMode mode, bytes2[] memory codes) = topics.countriesOf(topicId);
        assertEq(keccak256(abi.encode(mode, codes)), game.countriesOf(topicId));
    }

    // Brokers

    function invariant_BrokerIdsAreNeverUsedAgain() public view {
        assertEq(brokers.brokerCount(), game.brokerTotal());
        assertEq(brokers.brokerOwner(0), address(0));
        assertEq(brokers.brokerOwner(game.brokerTotal() + 1), address(0));
        checkBroker(brokerInTurn());
    }

    function checkBroker(uint256 brokerId) private view {
        Game.BrokerPage memory page = game.brokerPage(brokerId);
        assertNotEq(page.owner, address(0));
        assertEq(brokers.brokerOwner(brokerId), page.owner);
        assertEq(uint256(brokers.namingPolicy(brokerId)), uint256(page.policy));
        for (uint256 a = 0; a < actors.length; ++a) {
            address who = actors[a];
            assertEq(brokers.isGateway(brokerId, who), game.isGateway(brokerId, who));
            assertEq(brokers.isRegistrar(brokerId, who), game.isRegistrar(brokerId, who) || page.owner == who);
        }
    }

    function invariant_FeesStayWithinCaps() public view {
        checkCaps(brokerInTurn());
    }

    function checkCaps(uint256 brokerId) private view {
        assertLe(brokers.publishFee(brokerId), 1 ether);
        assertLe(brokers.saleFee(brokerId), 2500);
    }

    function invariant_NoFeeRisesWithinADay() public view {
        checkFees(brokerInTurn());
    }

    function checkFees(uint256 brokerId) private view {
        Game.BrokerPage memory page = game.brokerPage(brokerId);
        checkFee(page.publishFee, brokers.publishFee(brokerId));
        checkFee(page.saleFee, brokers.saleFee(brokerId));
    }

    function checkFee(Game.Fee memory fee, uint96 inForce) private view {
        if (block.timestamp < fee.announcedAt + 1 days) assertLe(inForce, fee.inForceThen, "no rise within a day");
        else assertEq(inForce, fee.announced, "as announced");
        if (fee.announced <= fee.inForceThen) assertEq(inForce, fee.announced, "a cut at once");
    }

    function invariant_BansAreThoseOfOwnersAndGateways() public view {
        checkBans(brokerInTurn());
    }

    function checkBans(uint256 brokerId) private view {
        for (uint256 a = 0; a < actors.length; ++a) {
            address who = actors[a];
            Game.BanPage memory page = game.banPage(brokerId, who);
            (,, uint64 until) = brokers.saleTerms(brokerId, who);
            assertEq(until, page.until);
            if (!page.byOwner) assertLe(until, block.timestamp + 30 days, "a stolen key's bans end by themselves");
        }
    }

    // The record

    function invariant_AnchorsAreChained() public view {
        checkAnchors(brokerInTurn());
    }

    function checkAnchors(uint256 brokerId) private view {
        for (uint256 a = 0; a < actors.length; ++a) {
            (uint64 sequence, bytes32 root) = game.audit().lastAnchor(brokerId, actors[a]);
            BrokerActs.Anchored memory last = game.chainOf(brokerId, actors[a]);
            assertEq(sequence, last.sequence, "one at a time, and only by a gateway");
            assertEq(root, last.root);
        }
    }

    function invariant_NobodyDoesWhatIsAnothers() public view {
        assertNoTrespass();
    }

    /// @dev Acts that always returned early would prove nothing: plays a fixed game and counts.
    function test_RegistryGameHasABitOfEverything() public {
        for (uint256 i = 0; i < 40; ++i) {
            play(i, 100);
            invariant_OwnerMeansExisting();
            invariant_ManagersOfOldEpochsArePowerless();
            invariant_OffersAndCountriesAreThoseOfTheEpoch();
            invariant_NoFeeRisesWithinADay();
            invariant_NobodyDoesWhatIsAnothers();
        }
        assertDeeds(59, 1);
    }
}
