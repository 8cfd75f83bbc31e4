// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Deploy} from "./Deploy.s.sol";

/// @title A small site on a development chain, for playing with the contracts by hand.
/// @dev `anvil`, then `forge script script/Demo.s.sol --rpc-url http://127.0.0.1:8545 --broadcast`. Signs with the accounts of anvil's
/// public mnemonic, and therefore refuses any chain but 31337: 0 owns the broker, 1 is its gateway, 2 owns the topics, 3 reads.
/// Derived from {Deploy}, since a call to another contract of the script would be broadcast as a transaction to it.
contract Demo is Deploy {
    string private constant MNEMONIC = "test test test test test test test test test test test junk";

    /// @notice The broker of the site.
    uint256 public brokerId;

    error NotADevelopmentChain(uint256 chainId);

    function run() external override returns (Deployment memory deployed) {
        if (block.chainid != 31_337) revert NotADevelopmentChain(block.chainid);
        vm.startBroadcast(key(0));
        deployed = deploy();
        IBrokerRegistry brokers = deployed.brokerRegistry;
        brokerId = brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, "demo");
        brokers.setGateway(brokerId, vm.addr(key(1)), "mqtt://127.0.0.1:1883");
        brokers.setSaleFee(brokerId, 500);
        vm.stopBroadcast();

        vm.startBroadcast(key(2));
        ITopicRegistry.Offer memory closed = ITopicRegistry.Offer(ITopicRegistry.OfferMode.Closed, 0, 0);
        ITopicRegistry.Offer memory priced = ITopicRegistry.Offer(ITopicRegistry.OfferMode.Priced, 1 days, 0.01 ether);
        ITopicRegistry.Offer memory open = ITopicRegistry.Offer(ITopicRegistry.OfferMode.Public, 0, 0);
        ITopicRegistry.Traits memory retained = ITopicRegistry.Traits(true, false, false);
        ITopicRegistry topics = deployed.topicRegistry;
        topics.registerTopic(brokerId, "farm", retained, closed, open);
        bytes32 north = topics.registerTopic(brokerId, "farm/north", retained, closed, priced);
        topics.registerTopic(brokerId, "farm/staff", ITopicRegistry.Traits(false, true, false), closed, closed);
        IAccessMarket market = deployed.accessMarket;
        // forge-lint: disable-next-line(unsafe-typecast): five octets fit
        bytes32 contractual = bytes32(bytes("\x02demo"));
        market.grant(
            north, vm.addr(key(3)), ITopicRegistry.Right.Subscribe, uint64(block.timestamp + 30 days), contractual, ""
        );
        vm.stopBroadcast();
    }

    function key(uint32 account) private pure returns (uint256) {
        return vm.deriveKey(MNEMONIC, account);
    }
}
