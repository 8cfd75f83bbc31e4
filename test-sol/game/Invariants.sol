// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {AccessMarket} from "../../src-sol/AccessMarket.sol";
import {BrokerRegistry} from "../../src-sol/BrokerRegistry.sol";
import {TopicRegistry} from "../../src-sol/TopicRegistry.sol";
import {ITopicRegistry} from "../../src-sol/interfaces/ITopicRegistry.sol";
import {Everybody} from "./Everybody.sol";
import {Test} from "forge-std/Test.sol";

/// @title A game in which the acts of one subject are played at random, and how to look over it.
abstract contract Invariants is Test {
    Everybody internal game;
    BrokerRegistry internal brokers;
    AccessMarket internal market;
    TopicRegistry internal topics;
    /// @dev A copy, since a call for each one at each look is what looking would mostly be.
    address[] internal actors;

    function setUp() public virtual {
        game = new Everybody();
        (brokers, market, topics) = (game.brokers(), game.market(), game.topics());
        for (uint256 a = 0; a < game.actorCount(); ++a) {
            actors.push(game.actors(a));
        }
        targetContract(address(game));
        targetSelector(FuzzSelector(address(game), acts()));
    }

    /// @dev What is played, an act as often as it is to weigh.
    function acts() internal view virtual returns (bytes4[] memory);

    /// @dev Plays so many acts, the same ones for the same seed.
    function play(uint256 seed, uint256 count) internal {
        bytes4[] memory selectors = acts();
        for (uint256 i = 0; i < count; ++i) {
            playOne(selectors, uint256(keccak256(abi.encode(seed, i))));
        }
    }

    function playOne(bytes4[] memory selectors, uint256 seed) internal {
        uint256[5] memory words;
        for (uint256 w = 0; w < words.length; ++w) {
            words[w] = uint256(keccak256(abi.encode(seed, w)));
        }
        bytes memory data = abi.encodePacked(selectors[seed % selectors.length], abi.encode(words));
        (bool success, bytes memory reason) = address(game).call(data);
        if (success) return;
        assembly {
            revert(add(reason, 32), mload(reason))
        }
    }

    function assertDeeds(uint256 count, uint256 least) internal view {
        for (uint256 i = 0; i < game.deedCount(); ++i) {
            string memory deed = game.deeds(i);
            assertGe(game.times(deed), least, deed);
        }
        assertEq(game.deedCount(), count, "as many kinds of deeds as there are");
    }

    function assertNoRelapse() internal view {
        if (game.relapseCount() > 0) revert(game.relapses(0));
    }

    function assertNoTrespass() internal view {
        if (game.trespassCount() > 0) revert(game.trespasses(0));
    }

    /// @dev One topic after each call, in turn: what is wrong stays wrong, and all of them each time would be slow.
    function topicInTurn() internal view returns (bytes32) {
        return game.topicIds(game.calls() % game.topicCount());
    }

    /// @dev As {topicInTurn}.
    function brokerInTurn() internal view returns (uint256) {
        return game.calls() % game.brokerTotal() + 1;
    }

    function eachRight(function(bytes32, address, ITopicRegistry.Right) internal view check) internal view {
        bytes32 topicId = topicInTurn();
        for (uint256 a = 0; a < actors.length; ++a) {
            address wallet = actors[a];
            check(topicId, wallet, ITopicRegistry.Right.Publish);
            check(topicId, wallet, ITopicRegistry.Right.Subscribe);
        }
    }

    function eachActor(function(address) internal view check) internal view {
        for (uint256 a = 0; a < actors.length; ++a) {
            check(actors[a]);
        }
    }

    function eachTopic(function(uint256, bytes32) internal view check) internal view {
        for (uint256 t = 0; t < game.topicCount(); ++t) {
            check(t, game.topicIds(t));
        }
    }
}
