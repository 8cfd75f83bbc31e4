// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Fixture} from "./Fixture.sol";

/// @title What a user pays: whole transactions, each in isolation as on a chain, below a ceiling.
contract GasTest is Fixture {
    function setUp() public override {
        super.setUp();
        vm.deal(brokerOwner, 1 ether);
        register(topicOwner, "mill");
        register(topicOwner, "mill/line1");
    }

    function ceiling(string memory what, uint256 most) private {
        uint256 used = vm.snapshotGasLastCall("FlyTrap", what);
        assertGt(used, 21_000, "measured without the base cost: is isolation on?");
        assertLe(used, most, what);
    }

    /// forge-config: default.isolate = true
    function test_RegisterAtDepthThreeWithOffers() public {
        vm.prank(topicOwner);
        topics.registerTopic(brokerId, "mill/line1/temperature", noTraits(), priced(PRICE), priced(PRICE));
        ceiling("register depth 3 with offers", 110_000);
    }

    /// forge-config: default.isolate = true
    function test_Grant() public {
        vm.prank(topicOwner);
        market.grant(topicId, buyer, SUBSCRIBE, START + 30 days, PURPOSE, "");
        ceiling("grant", 60_000);
    }

    /// forge-config: default.isolate = true
    function test_BuyFirst() public {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        vm.prank(buyer);
        market.buy{value: PRICE}(wanted);
        ceiling("buy, first sale of the topic", 110_000);
    }

    /// forge-config: default.isolate = true
    function test_Buy() public {
        buy(1);
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.wallet = stranger;
        vm.prank(stranger);
        market.buy{value: PRICE}(wanted);
        ceiling("buy", 93_000);
        vm.prank(stranger);
        market.buy{value: PRICE}(wanted);
        ceiling("buy again", 80_000);
    }

    /// forge-config: default.isolate = true
    function test_Claim() public {
        setOffer(SUBSCRIBE, priced(0));
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        vm.prank(buyer);
        market.buy(wanted);
        ceiling("claim what is free", 78_000);
    }

    /// forge-config: default.isolate = true
    function test_RevokeFree() public {
        grantFree(buyer, SUBSCRIBE, START + 30 days);
        vm.prank(topicOwner);
        market.revoke(topicId, buyer, SUBSCRIBE, PURPOSE, "");
        ceiling("revoke free", 40_000);
    }

    /// forge-config: default.isolate = true
    function test_RevokePaid() public {
        buy(30);
        vm.warp(START + 1 days);
        vm.prank(topicOwner);
        market.revoke{value: 29 * PRICE}(topicId, buyer, SUBSCRIBE, PURPOSE, "");
        ceiling("revoke with refund", 60_000);
    }
}
