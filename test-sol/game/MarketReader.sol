// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../../src-sol/interfaces/ITopicRegistry.sol";
import {RegistryReader} from "./RegistryReader.sol";
import {Vm} from "forge-std/Vm.sol";

/// @title Knows topics, access and money from events alone.
contract MarketReader is RegistryReader {
    struct TopicRead {
        uint256 brokerId;
        uint64 epoch;
        address owner;
        address candidate;
        string name;
        bytes32 parentId;
        bytes32 commitment;
        ITopicRegistry.Traits traits;
    }

    /// @dev What a deletion ends is kept by epoch, so that it ends as on chain.
    struct EpochRead {
        ITopicRegistry.CountryMode mode;
        bytes2[] codes;
        mapping(address => bool) managers;
        mapping(address => bool) blocked;
        mapping(address => mapping(ITopicRegistry.Right => uint64)) ends;
    }

    struct PayoutRead {
        address to;
        bool isPull;
    }

    bytes32[] public topicIds;
    mapping(bytes32 => TopicRead) internal _topics;
    mapping(bytes32 => mapping(ITopicRegistry.Right => ITopicRegistry.Offer)) internal _offers;
    mapping(bytes32 => mapping(uint64 => EpochRead)) internal _epochs;
    mapping(address => uint256) public creditOf;
    mapping(address => PayoutRead) public payoutOf;

    function topicCount() external view returns (uint256) {
        return topicIds.length;
    }

    function topicOf(bytes32 id) external view returns (TopicRead memory) {
        return _topics[id];
    }

    function offerOf(bytes32 id, ITopicRegistry.Right right) public view returns (ITopicRegistry.Offer memory) {
        return _offers[id][right];
    }

    function countriesOf(bytes32 id) external view returns (ITopicRegistry.CountryMode, bytes2[] memory) {
        EpochRead storage epoch = _epochs[id][_topics[id].epoch];
        return
            _topics[id].owner == address(0)
                ? (ITopicRegistry.CountryMode.Any, new bytes2[](0))
                : (epoch.mode, epoch.codes);
    }

    function isManager(bytes32 id, address wallet) external view returns (bool) {
        return _topics[id].owner != address(0) && _epochs[id][_topics[id].epoch].managers[wallet];
    }

    function isBlocked(bytes32 id, address wallet) public view returns (bool) {
        return _topics[id].owner != address(0) && _epochs[id][_topics[id].epoch].blocked[wallet];
    }

    function grantedUntil(bytes32 id, address wallet, ITopicRegistry.Right right) public view returns (uint64) {
        return _topics[id].owner == address(0) ? 0 : _epochs[id][_topics[id].epoch].ends[wallet][right];
    }

    function mayAccess(bytes32 id, address wallet, ITopicRegistry.Right right, uint256 time)
        external
        view
        returns (bool)
    {
        address owner = _topics[id].owner;
        if (owner == address(0) || time < walletBan(_topics[id].brokerId, wallet)) return false;
        if (owner == wallet) return true;
        if (isBlocked(id, wallet)) return false;
        return _offers[id][right].mode == ITopicRegistry.OfferMode.Public || time < grantedUntil(id, wallet, right);
    }

    /// @param source 0 for the brokers' registry, then topics, market, devices, audit log.
    function tell(Vm.Log memory log, uint256 source, uint64 time) external {
        ++read;
        if (source == 0) readBroker(log, time);
        else if (source == 1) readTopic(log);
        else if (source == 2) readMarket(log, time);
        else if (source == 3) readDevice(log, time);
        else readRecord(log);
    }

    function readTopic(Vm.Log memory log) private {
        (bytes32 kind, bytes32 id) = (log.topics[0], log.topics[2]);
        TopicRead storage topic = _topics[id];
        if (kind == ITopicRegistry.TopicRegistered.selector) {
            readVisible(id, log.data);
            register(id, log);
        } else if (kind == ITopicRegistry.HiddenTopicRegistered.selector) {
            readHidden(id, log.data);
            register(id, log);
        } else if (kind == ITopicRegistry.TraitsSet.selector) {
            topic.traits = abi.decode(log.data, (ITopicRegistry.Traits));
        } else if (kind == ITopicRegistry.OfferSet.selector) {
            (ITopicRegistry.Right right, ITopicRegistry.Offer memory offer) =
                abi.decode(log.data, (ITopicRegistry.Right, ITopicRegistry.Offer));
            _offers[id][right] = offer;
        } else if (kind == ITopicRegistry.CountriesSet.selector) {
            EpochRead storage epoch = _epochs[id][topic.epoch];
            (epoch.mode, epoch.codes) = abi.decode(log.data, (ITopicRegistry.CountryMode, bytes2[]));
        } else if (kind == ITopicRegistry.ManagerSet.selector) {
            _epochs[id][topic.epoch].managers[addressIn(log.topics[3])] = abi.decode(log.data, (bool));
        } else if (kind == ITopicRegistry.TopicOwnershipOffered.selector) {
            topic.candidate = addressIn(log.topics[3]);
        } else if (kind == ITopicRegistry.TopicOwnershipTransferred.selector) {
            if (abi.decode(log.data, (address)) != topic.owner) revert StoryBroken("previous owner of a topic");
            (topic.owner, topic.candidate) = (addressIn(log.topics[3]), address(0));
        } else if (kind == ITopicRegistry.TopicDeleted.selector) {
            if (abi.decode(log.data, (uint64)) != topic.epoch) revert StoryBroken("epoch that ends");
            uint64 last = topic.epoch;
            delete _topics[id];
            _topics[id].epoch = last;
            delete _offers[id][ITopicRegistry.Right.Publish];
            delete _offers[id][ITopicRegistry.Right.Subscribe];
        } else {
            revert UnknownEvent(kind);
        }
    }

    function register(bytes32 id, Vm.Log memory log) private {
        TopicRead storage topic = _topics[id];
        if (topic.epoch == 0) topicIds.push(id);
        uint64 epoch = abi.decode(log.data, (uint64));
        if (epoch != topic.epoch + 1 || topic.owner != address(0)) revert StoryBroken("epoch that begins");
        (topic.brokerId, topic.owner, topic.epoch) = (uint256(log.topics[1]), addressIn(log.topics[3]), epoch);
    }

    function readVisible(bytes32 id, bytes memory data) private {
        TopicRead storage topic = _topics[id];
        ITopicRegistry.Offer memory publish;
        ITopicRegistry.Offer memory subscribe;
        (, topic.name, topic.traits, publish, subscribe) =
            abi.decode(data, (uint64, string, ITopicRegistry.Traits, ITopicRegistry.Offer, ITopicRegistry.Offer));
        _offers[id][ITopicRegistry.Right.Publish] = publish;
        _offers[id][ITopicRegistry.Right.Subscribe] = subscribe;
    }

    function readHidden(bytes32 id, bytes memory data) private {
        TopicRead storage topic = _topics[id];
        ITopicRegistry.Offer memory publish;
        ITopicRegistry.Offer memory subscribe;
        (, topic.parentId, topic.commitment, topic.traits, publish, subscribe) = abi.decode(
            data, (uint64, bytes32, bytes32, ITopicRegistry.Traits, ITopicRegistry.Offer, ITopicRegistry.Offer)
        );
        _offers[id][ITopicRegistry.Right.Publish] = publish;
        _offers[id][ITopicRegistry.Right.Subscribe] = subscribe;
    }

    function readMarket(Vm.Log memory log, uint64 time) private {
        bytes32 kind = log.topics[0];
        address wallet = log.topics.length > 3 ? addressIn(log.topics[3]) : addressIn(log.topics[1]);
        if (kind == IAccessMarket.AccessGranted.selector) {
            (ITopicRegistry.Right right, uint64 epoch, uint64 until,, uint256 feeWei) =
                abi.decode(log.data, (ITopicRegistry.Right, uint64, uint64, address, uint256));
            _epochs[log.topics[2]][epoch].ends[wallet][right] = until;
            creditOf[brokerOwner(uint256(log.topics[1]))] += feeWei;
        } else if (kind == IAccessMarket.AccessBought.selector) {
            (ITopicRegistry.Right right, uint64 epoch, uint64 until,,, uint256 saleFeeWei, uint256 publishFeeWei) =
                abi.decode(log.data, (ITopicRegistry.Right, uint64, uint64, address, uint256, uint256, uint256));
            _epochs[log.topics[2]][epoch].ends[wallet][right] = until;
            creditOf[brokerOwner(uint256(log.topics[1]))] += saleFeeWei + publishFeeWei;
        } else if (kind == IAccessMarket.AccessRevoked.selector) {
            (ITopicRegistry.Right right, uint64 epoch, uint64 was) =
                abi.decode(log.data, (ITopicRegistry.Right, uint64, uint64));
            if (_epochs[log.topics[2]][epoch].ends[wallet][right] != was) revert StoryBroken("end that was");
            _epochs[log.topics[2]][epoch].ends[wallet][right] = time;
        } else if (kind == IAccessMarket.WalletBlocked.selector) {
            _epochs[log.topics[2]][_topics[log.topics[2]].epoch].blocked[wallet] = true;
        } else if (kind == IAccessMarket.WalletUnblocked.selector) {
            _epochs[log.topics[2]][_topics[log.topics[2]].epoch].blocked[wallet] = false;
        } else if (kind == IAccessMarket.Credited.selector) {
            creditOf[wallet] += abi.decode(log.data, (uint256));
        } else if (kind == IAccessMarket.PayoutSet.selector) {
            (payoutOf[wallet].to, payoutOf[wallet].isPull) = abi.decode(log.data, (address, bool));
        } else if (kind == IAccessMarket.Withdrawn.selector) {
            if (creditOf[wallet] != abi.decode(log.data, (uint256))) revert StoryBroken("the whole credit");
            creditOf[wallet] = 0;
        } else {
            revert UnknownEvent(kind);
        }
    }
}
