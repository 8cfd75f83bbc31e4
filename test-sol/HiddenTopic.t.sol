// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Fixture} from "./Fixture.sol";

contract HiddenTopicTest is Fixture {
    bytes32 private constant COMMITMENT = keccak256(abi.encodePacked(keccak256("salt"), "factory/line1/temperature/7"));

    function hide(address by, bytes32 parentId, bytes32 commitment) private returns (bytes32) {
        return hide(by, parentId, commitment, closed(), priced(PRICE));
    }

    function hide(
        address by,
        bytes32 parentId,
        bytes32 commitment,
        ITopicRegistry.Offer memory publishOffer,
        ITopicRegistry.Offer memory subscribeOffer
    ) private returns (bytes32) {
        vm.prank(by);
        return topics.registerHiddenTopic(parentId, commitment, noTraits(), publishOffer, subscribeOffer);
    }

    function remove(address by, bytes32 id) private {
        vm.prank(by);
        topics.deleteTopic(id);
    }

    // registerHiddenTopic

    function test_RegisterHiddenTopic() public {
        ITopicRegistry.Traits memory traits = ITopicRegistry.Traits(true, true, false);
        bytes32 id = keccak256(abi.encode(brokerId, topicId, COMMITMENT));
        vm.expectEmit(address(topics));
        emit ITopicRegistry.HiddenTopicRegistered(
            brokerId, id, topicOwner, 1, topicId, COMMITMENT, traits, open(), priced(7)
        );
        vm.prank(topicOwner);
        bytes32 given = topics.registerHiddenTopic(topicId, COMMITMENT, traits, open(), priced(7));
        assertEq(given, id);
        assertEq(topics.hiddenTopicIdOf(brokerId, topicId, COMMITMENT), id);
        assertEq(topics.topicOwner(id), topicOwner);
        assertEq(topics.topicEpoch(id), 1);
        assertEq(topics.topicBroker(id), brokerId);
        assertEq(abi.encode(topics.traitsOf(id)), abi.encode(traits));
        assertEq(abi.encode(topics.offerOf(id, PUBLISH)), abi.encode(open()));
        assertEq(abi.encode(topics.offerOf(id, SUBSCRIBE)), abi.encode(priced(7)));
    }

    /// @dev Or a manager could have gateways refuse all that lies below the parent, and its owner could do nothing about it.
    function test_RevertWhen_ManagerRegistersHidden() public {
        assertTrue(topics.isManager(topicId, manager));
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicOwner.selector, topicId, manager));
        hide(manager, topicId, COMMITMENT);
    }

    function test_HiddenBelowHidden() public {
        bytes32 id = hide(topicOwner, topicId, COMMITMENT);
        vm.prank(topicOwner);
        topics.offerTopicOwnership(id, stranger);
        vm.prank(stranger);
        topics.acceptTopicOwnership(id);
        bytes32 below = hide(stranger, id, COMMITMENT);
        assertNotEq(below, id);
        assertEq(topics.topicOwner(below), stranger);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicOwner.selector, id, topicOwner));
        hide(topicOwner, id, "another");
    }

    function test_RevertWhen_StrangerRegistersHidden() public {
        address[5] memory others = [stranger, brokerOwner, registrar, gateway, address(0)];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicOwner.selector, topicId, others[i]));
            hide(others[i], topicId, COMMITMENT);
        }
    }

    function test_RevertWhen_ParentIsNone() public {
        bytes memory refusal = abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32("none"));
        vm.expectRevert(refusal);
        hide(topicOwner, "none", COMMITMENT);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32(0)));
        hide(topicOwner, 0, COMMITMENT);
        remove(topicOwner, topicId);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, topicId));
        hide(topicOwner, topicId, COMMITMENT);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, topicId));
        hide(address(0), topicId, COMMITMENT);
    }

    function test_RevertWhen_FormerOwnerRegistersHidden() public {
        remove(topicOwner, topicId);
        register(stranger, NAME);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicOwner.selector, topicId, topicOwner));
        hide(topicOwner, topicId, COMMITMENT);
    }

    function test_RevertWhen_CommitmentIsZero() public {
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.EmptyCommitment.selector, topicId));
        hide(topicOwner, topicId, 0);
        hide(topicOwner, topicId, bytes32(uint256(1)));
    }

    function test_RevertWhen_HiddenExists() public {
        bytes32 id = hide(topicOwner, topicId, COMMITMENT);
        bytes memory refusal = abi.encodeWithSelector(ITopicRegistry.TopicExists.selector, id);
        vm.expectRevert(refusal);
        hide(topicOwner, topicId, COMMITMENT);
        bytes32 otherParent = register(topicOwner, "mill");
        assertNotEq(hide(topicOwner, otherParent, COMMITMENT), id, "below another it is another");
    }

    function test_RevertWhen_HiddenOfferMakesNoSense() public {
        ITopicRegistry.Offer memory bad = priced(1);
        bad.period = 0;
        bytes memory refusal =
            abi.encodeWithSelector(ITopicRegistry.InvalidOffer.selector, ITopicRegistry.OfferMode.Priced, 0, 1);
        vm.expectRevert(refusal);
        hide(topicOwner, topicId, COMMITMENT, bad, closed());
        vm.expectRevert(refusal);
        hide(topicOwner, topicId, COMMITMENT, closed(), bad);
    }

    // Ids

    /// @dev What is hashed for a name is longer than what is hashed for a hidden topic, except for the empty name, which is none.
    function testFuzz_HiddenIdsAreNoNames(uint256 broker, bytes32 parentId, bytes32 commitment, string calldata name)
        public
        view
    {
        vm.assume(bytes(name).length > 0);
        assertGt(abi.encode(broker, name).length, abi.encode(broker, parentId, commitment).length);
        assertNotEq(topics.hiddenTopicIdOf(broker, parentId, commitment), topics.topicIdOf(broker, name));
        assertNotEq(
            topics.hiddenTopicIdOf(broker, bytes32(uint256(0x40)), bytes32(bytes(name).length)),
            topics.topicIdOf(broker, name)
        );
    }

    function test_OnlyTheEmptyNameCouldCollide() public {
        bytes32 id = topics.topicIdOf(brokerId, "");
        assertEq(topics.hiddenTopicIdOf(brokerId, bytes32(uint256(0x40)), 0), id);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.InvalidName.selector, "", "empty"));
        register(stranger, "");
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32(uint256(0x40))));
        hide(stranger, bytes32(uint256(0x40)), 0);
    }

    function testFuzz_HiddenIdsDiffer(uint256[2] memory broker, bytes32[2] memory parent, bytes32[2] memory commitment)
        public
        view
    {
        bool same = broker[0] == broker[1] && parent[0] == parent[1] && commitment[0] == commitment[1];
        assertEq(
            topics.hiddenTopicIdOf(broker[0], parent[0], commitment[0])
                == topics.hiddenTopicIdOf(broker[1], parent[1], commitment[1]),
            same
        );
        assertEq(
            topics.hiddenTopicIdOf(broker[0], parent[0], commitment[0])
                == topics.hiddenTopicIdOf(broker[0], commitment[0], parent[0]),
            parent[0] == commitment[0]
        );
    }

    // Its life

    function test_HiddenEpochGrows() public {
        bytes32 id = hide(topicOwner, topicId, COMMITMENT);
        vm.startPrank(topicOwner);
        topics.setManager(id, stranger, true);
        market.grant(id, buyer, SUBSCRIBE, START + 10 days, PURPOSE, "");
        vm.stopPrank();
        remove(topicOwner, id);
        assertEq(topics.topicEpoch(id), 1);
        assertEq(topics.topicBroker(id), 0);
        vm.expectEmit(address(topics));
        emit ITopicRegistry.HiddenTopicRegistered(
            brokerId, id, topicOwner, 2, topicId, COMMITMENT, noTraits(), closed(), priced(PRICE)
        );
        assertEq(hide(topicOwner, topicId, COMMITMENT), id);
        assertEq(topics.topicEpoch(id), 2);
        assertFalse(topics.isManager(id, stranger));
        assertFalse(market.mayAccess(id, buyer, SUBSCRIBE));
    }

    function test_HiddenOutlivesItsParent() public {
        bytes32 id = hide(topicOwner, topicId, COMMITMENT);
        remove(topicOwner, topicId);
        assertEq(topics.topicOwner(id), topicOwner);
        register(stranger, NAME);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.TopicExists.selector, id));
        hide(stranger, topicId, COMMITMENT);
        assertEq(topics.topicOwner(id), topicOwner, "the new owner of the name above has no say over it");
    }

    function test_HiddenGovernsNoVisibleName() public {
        hide(topicOwner, topicId, COMMITMENT);
        string memory below = string.concat(NAME, "/7");
        assertEq(topics.topicOwner(register(topicOwner, below)), topicOwner);
        vm.expectRevert(
            abi.encodeWithSelector(ITopicRegistry.NameNotYours.selector, string.concat(NAME, "/8"), stranger, topicId)
        );
        register(stranger, string.concat(NAME, "/8"));
    }

    function test_HiddenChangesHands() public {
        bytes32 id = hide(topicOwner, topicId, COMMITMENT);
        vm.prank(topicOwner);
        topics.offerTopicOwnership(id, stranger);
        vm.expectEmit(address(topics));
        emit ITopicRegistry.TopicOwnershipTransferred(brokerId, id, stranger, topicOwner);
        vm.prank(stranger);
        topics.acceptTopicOwnership(id);
        vm.prank(stranger);
        topics.setOffer(id, SUBSCRIBE, open());
        assertTrue(market.mayAccess(id, buyer, SUBSCRIBE));
    }

    function test_SaleAndGrantOnHidden() public {
        bytes32 id = hide(topicOwner, topicId, COMMITMENT);
        uint256 had = topicOwner.balance;
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 2);
        wanted.topicId = id;
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessBought(
            brokerId, id, buyer, SUBSCRIBE, 1, START + 2 days, buyer, 2 * PRICE, 0, 0, PURPOSE, ""
        );
        vm.prank(buyer);
        market.buy{value: 2 * PRICE}(wanted);
        assertEq(topicOwner.balance - had, 2 * PRICE);
        assertTrue(market.mayAccess(id, buyer, SUBSCRIBE));
        assertFalse(market.mayAccess(topicId, buyer, SUBSCRIBE), "nothing on the topic above");

        vm.startPrank(topicOwner);
        market.grant(id, stranger, PUBLISH, START + 1 days, PURPOSE, "");
        assertTrue(market.mayAccess(id, stranger, PUBLISH));
        market.revoke{value: 2 * PRICE}(id, buyer, SUBSCRIBE, PURPOSE, "");
        market.blockWallet(id, stranger, PURPOSE, "");
        assertFalse(market.mayAccess(id, stranger, PUBLISH));
        topics.deleteTopic(id);
    }
}
