// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IBrokerRegistry} from "../../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../../src-sol/interfaces/ITopicRegistry.sol";
import {DeviceActs} from "./DeviceActs.sol";
import {MoneyActs} from "./MoneyActs.sol";

/// @title All of them, and those who try what is not theirs. Each call would change something if only the caller had the right to it.
contract Everybody is MoneyActs, DeviceActs {
    /// @dev What only owner or manager of a topic may, and hiding below it, which only the owner may.
    function trespassAsManager(uint256 topic, uint256 by, uint256 what, uint256 wallet) external {
        (bytes32 topicId, address who) = (anyTopic(topic), actor(by));
        if (!exists(topicId) || ownsOrManages(topicId, who)) return;
        bytes4 refusal = ITopicRegistry.NotTopicOwnerOrManager.selector;
        string[4] memory told =
            ["set another's traits", "set another's offer", "set another's countries", "hide below another's"];
        bytes memory data;
        if (what % 4 == 0) {
            data = abi.encodeCall(topics.setTraits, (topicId, traitsFrom(what)));
        } else if (what % 4 == 1) {
            data = abi.encodeCall(topics.setOffer, (topicId, rightFrom(wallet), offerFrom(what, wallet)));
        } else if (what % 4 == 2) {
            bytes2[] memory codes = new bytes2[](1);
            codes[0] = "AQ";
            data = abi.encodeCall(topics.setCountries, (topicId, ITopicRegistry.CountryMode.Only, codes));
        } else {
            ITopicRegistry.Offer memory none;
            refusal = ITopicRegistry.NotTopicOwner.selector;
            data = abi.encodeCall(topics.registerHiddenTopic, (topicId, bytes32(what | 1), traitsFrom(0), none, none));
        }
        mustNot(who, address(topics), data, refusal, told[what % 4]);
    }

    function trespassOnAccess(uint256 topic, uint256 by, uint256 what, uint256 wallet_) external {
        (bytes32 topicId, address who, address wallet) = (anyTopic(topic), actor(by), actor(wallet_));
        if (!exists(topicId) || ownsOrManages(topicId, who)) return;
        bytes4 refusal = ITopicRegistry.NotTopicOwnerOrManager.selector;
        (bytes memory data, string memory deed) = ("", "grant what is another's");
        ITopicRegistry.Right right = rightFrom(what / 4);
        if (what % 4 == 0) {
            uint64 until = later(clock(), endOf(topicId, wallet, right)) + 1;
            data = abi.encodeCall(market.grant, (topicId, wallet, right, until, 0, ""));
        } else if (what % 4 == 1) {
            (data, deed) = (abi.encodeCall(market.revoke, (topicId, wallet, right, 0, "")), "revoke what is another's");
        } else if (what % 4 == 2) {
            (data, deed) = (abi.encodeCall(market.blockWallet, (topicId, wallet, 0, "")), "block on another's");
        } else {
            (data, deed) = (abi.encodeCall(market.unblockWallet, (topicId, wallet)), "unblock on another's");
        }
        mustNot(who, address(market), data, refusal, deed);
    }

    /// @dev What only the owner of a topic may, and not its managers.
    function trespassAsOwner(uint256 topic, uint256 by, uint256 what, uint256 wallet) external {
        (bytes32 topicId, address who) = (anyTopic(topic), actor(by));
        TopicPage memory page = topicPages[topicId];
        if (page.owner == address(0) || page.owner == who) return;
        (bytes4 refusal, bytes memory data, string memory deed) =
            (ITopicRegistry.NotTopicOwner.selector, bytes(""), "delete another's topic");
        if (what % 4 == 0) {
            data = abi.encodeCall(topics.deleteTopic, (topicId));
        } else if (what % 4 == 1) {
            bool allowed = !managed[topicId][page.epoch][actor(wallet)];
            data = abi.encodeCall(topics.setManager, (topicId, actor(wallet), allowed));
            deed = "appoint on another's topic";
        } else if (what % 4 == 2) {
            (data, deed) = (abi.encodeCall(topics.offerTopicOwnership, (topicId, who)), "give another's topic");
        } else {
            if (who == page.candidate) return;
            data = abi.encodeCall(topics.acceptTopicOwnership, (topicId));
            (refusal, deed) = (ITopicRegistry.NotTopicCandidate.selector, "accept what was not offered");
        }
        mustNot(who, address(topics), data, refusal, deed);
    }

    /// @dev What only the owner of a broker may, and not its gateways.
    function trespassOnBroker(uint256 broker, uint256 by, uint256 what, uint256 wallet) external {
        (uint256 brokerId, address who) = (anyBroker(broker), actor(by));
        BrokerPage memory page = brokerPages[brokerId];
        if (page.owner == who) return;
        bytes[9] memory calls = [
            abi.encodeCall(
                brokers.setNamingPolicy, (brokerId, IBrokerRegistry.NamingPolicy((uint256(page.policy) + 1) % 3))
            ),
            abi.encodeCall(brokers.setRegistrar, (brokerId, actor(wallet), !isRegistrar[brokerId][actor(wallet)])),
            abi.encodeCall(brokers.setGateway, (brokerId, who, "")),
            abi.encodeCall(brokers.removeGateway, (brokerId, gatewayOf(brokerId, 1))),
            abi.encodeCall(brokers.setPublishFee, (brokerId, feeNow(page.publishFee) / 2 + 1)),
            abi.encodeCall(brokers.setSaleFee, (brokerId, feeNow(page.saleFee) / 2 + 1)),
            abi.encodeCall(brokers.offerBrokerOwnership, (brokerId, who)),
            abi.encodeCall(brokers.acceptBrokerOwnership, (brokerId)),
            abi.encodeCall(brokers.unban, (brokerId, IBrokerRegistry.BanKind.Wallet, subjectOf(actor(wallet))))
        ];
        string[9] memory told = [
            "set another's policy",
            "set another's registrar",
            "set another's gateway",
            "remove another's gateway",
            "set another's publish fee",
            "set another's sale fee",
            "give another's broker",
            "accept a broker not offered",
            "unban at another's"
        ];
        uint256 i = what % 9;
        bytes4 refusal = IBrokerRegistry.NotBrokerOwner.selector;
        if (i == 7) {
            if (who == page.candidate) return;
            refusal = IBrokerRegistry.NotOwnershipCandidate.selector;
        } else if (i == 8) {
            if (isGateway[brokerId][who]) return;
            refusal = IBrokerRegistry.NotBrokerOwnerOrGateway.selector;
        }
        mustNot(who, address(brokers), calls[i], refusal, told[i]);
    }

    function trespassByBan(uint256 broker, uint256 by, uint256 wallet) external {
        (uint256 brokerId, address who) = (anyBroker(broker), actor(by));
        if (brokerPages[brokerId].owner == who || isGateway[brokerId][who]) return;
        IBrokerRegistry.Ban[] memory bans = new IBrokerRegistry.Ban[](1);
        bans[0] = IBrokerRegistry.Ban(IBrokerRegistry.BanKind.Wallet, subjectOf(actor(wallet)), clock() + 1, 0, "");
        bytes memory data = abi.encodeCall(brokers.ban, (brokerId, bans));
        mustNot(who, address(brokers), data, IBrokerRegistry.NotBrokerOwnerOrGateway.selector, "ban at another's");
    }
}
