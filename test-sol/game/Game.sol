// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {AccessMarket} from "../../src-sol/AccessMarket.sol";
import {AuditLog} from "../../src-sol/AuditLog.sol";
import {BrokerRegistry} from "../../src-sol/BrokerRegistry.sol";
import {DeviceRegistry} from "../../src-sol/DeviceRegistry.sol";
import {TopicRegistry} from "../../src-sol/TopicRegistry.sol";
import {IBrokerRegistry} from "../../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../../src-sol/interfaces/ITopicRegistry.sol";
import {BombPayee, BurningPayee, ChattyPayee, ReentrantPayee, RefusingPayee, ThoroughPayee} from "../Payees.sol";
import {MeddlingPayee} from "./MeddlingPayee.sol";
import {Test} from "forge-std/Test.sol";
import {Vm} from "forge-std/Vm.sol";

interface IScribe {
    function hear(Vm.Log[] calldata logs) external;
}

/// @title A whole deployment, everybody who has to do with it, and a book of what should have come of what they did.
/// @dev The book is a second account of all facts, kept in the plainest way there is: it asks the contracts nothing. What anybody does is
/// in the contracts derived from this one, one for each subject. Everybody is everything: each actor may own topics and brokers, manage,
/// buy, be bought for, run a gateway, be blocked and banned. Actors 0 to 2 are wallets with keys, the rest contracts that take money badly.
abstract contract Game is Test {
    uint64 internal constant START = 1_800_000_000;
    uint32 internal constant PERIOD = 1 hours;
    uint256 internal constant MOST_BROKERS = 5;
    /// @dev Topics 0 to 2 have names on chain, two of them the same with different brokers, and one that lies below another.
    uint256 internal constant VISIBLE = 3;
    uint256 internal constant KEYED = 3;

    BrokerRegistry public immutable brokers;
    AccessMarket public immutable market;
    TopicRegistry public immutable topics;
    DeviceRegistry public immutable devices;
    AuditLog public immutable audit;

    address[] public actors;
    mapping(address actor => uint256) internal keys;
    /// @dev Can the address take what a payment sends?
    mapping(address payee => bool) internal takes;
    ReentrantPayee public immutable reentrant;
    MeddlingPayee public immutable meddler;

    bytes32[] public topicIds;

    /// @notice Calls so far, and how many of them succeeded.
    uint256 public calls;
    uint256 public changes;
    /// @dev Told the logs of each call that succeeded, if there is one.
    IScribe private _scribe;
    // What happened, counted, so that a test can tell a game in which nothing happens.
    mapping(string deed => uint256) public times;
    string[] public deeds;
    /// @notice What somebody succeeded in who had no right to.
    string[] public trespasses;
    /// @notice What went back that only goes forward.
    string[] public relapses;

    // The book: brokers.

    struct Fee {
        uint96 announced;
        uint96 inForceThen;
        uint64 announcedAt;
    }

    struct BrokerPage {
        address owner;
        address candidate;
        IBrokerRegistry.NamingPolicy policy;
        Fee publishFee;
        Fee saleFee;
    }

    struct BanPage {
        uint64 until;
        bool byOwner;
    }

    uint256 public brokerTotal;
    mapping(uint256 brokerId => BrokerPage) internal brokerPages;
    mapping(uint256 brokerId => mapping(address wallet => bool)) public isRegistrar;
    mapping(uint256 brokerId => mapping(address wallet => bool)) public isGateway;
    mapping(uint256 brokerId => mapping(bytes32 subject => BanPage)) internal walletBans;

    // The book: topics.

    struct TopicPage {
        address owner;
        address candidate;
        uint64 epoch;
        uint256 brokerId;
    }

    mapping(bytes32 topicId => TopicPage) internal topicPages;
    mapping(bytes32 topicId => mapping(ITopicRegistry.Right => ITopicRegistry.Offer)) internal offers;
    mapping(bytes32 topicId => mapping(uint256 epoch => mapping(address wallet => bool))) public managed;
    mapping(bytes32 topicId => mapping(uint256 epoch => mapping(address wallet => bool))) public blocked;

    constructor() {
        vm.warp(START);
        brokers = new BrokerRegistry();
        market = new AccessMarket(brokers);
        topics = TopicRegistry(address(market.topicRegistry()));
        devices = new DeviceRegistry();
        audit = new AuditLog(brokers);

        string[3] memory names = ["ann", "ben", "cid"];
        for (uint256 i = 0; i < KEYED; ++i) {
            (address actor_, uint256 key) = makeAddrAndKey(names[i]);
            admit(actor_, true);
            keys[actor_] = key;
        }
        (reentrant, meddler) = (new ReentrantPayee(market), new MeddlingPayee(topics));
        admit(address(new RefusingPayee()), false);
        admit(address(new BurningPayee()), false);
        admit(address(new BombPayee()), false);
        admit(address(new ChattyPayee()), true);
        admit(address(new ThoroughPayee()), true);
        admit(address(reentrant), true);
        admit(address(meddler), true);

        for (uint256 i = 0; i < VISIBLE; ++i) {
            topicIds.push(topics.topicIdOf(brokerOf(i), nameOf(i)));
        }
        topicIds.push(topics.hiddenTopicIdOf(1, topicIds[0], commitmentOf(3)));
        topicIds.push(topics.hiddenTopicIdOf(1, topicIds[3], commitmentOf(4)));
        // It owns that one from the beginning, so that what it tries while it is paid would be its right at any other time.
        reentrant.aim(topicIds[2]);
    }

    function tell(IScribe scribe) external {
        _scribe = scribe;
    }

    // What the book says

    function actorCount() external view returns (uint256) {
        return actors.length;
    }

    function topicCount() external view returns (uint256) {
        return topicIds.length;
    }

    function deedCount() external view returns (uint256) {
        return deeds.length;
    }

    function trespassCount() external view returns (uint256) {
        return trespasses.length;
    }

    function relapseCount() external view returns (uint256) {
        return relapses.length;
    }

    function brokerPage(uint256 brokerId) external view returns (BrokerPage memory) {
        return brokerPages[brokerId];
    }

    function topicPage(bytes32 topicId) external view returns (TopicPage memory) {
        return topicPages[topicId];
    }

    function banPage(uint256 brokerId, address wallet) external view returns (BanPage memory) {
        return walletBans[brokerId][subjectOf(wallet)];
    }

    function offerPage(bytes32 topicId, ITopicRegistry.Right right)
        external
        view
        returns (ITopicRegistry.Offer memory)
    {
        return offers[topicId][right];
    }

    function isBanned(uint256 brokerId, address wallet) public view returns (bool) {
        return block.timestamp < walletBans[brokerId][subjectOf(wallet)].until;
    }

    function isBannedFrom(bytes32 topicId, address wallet) external view returns (bool) {
        return isBanned(topicPages[topicId].brokerId, wallet);
    }

    /// @dev An owner never is.
    function isBlocked(bytes32 topicId, address wallet) external view returns (bool) {
        TopicPage storage page = topicPages[topicId];
        return page.owner != wallet && blocked[topicId][page.epoch][wallet];
    }

    function exists(bytes32 topicId) public view returns (bool) {
        return topicPages[topicId].owner != address(0);
    }

    /// @notice Broker of topic number `topic`.
    function brokerOf(uint256 topic) public pure returns (uint256) {
        return topic == 2 ? 2 : 1;
    }

    function nameOf(uint256 topic) public pure returns (string memory) {
        return topic == 1 ? "hall/line" : "hall";
    }

    function commitmentOf(uint256 topic) public pure returns (bytes32) {
        return keccak256(abi.encodePacked("salt", topic));
    }

    /// @dev A rise counts a day after it was announced, anything else at once.
    function feeNow(Fee memory fee) public view returns (uint96) {
        if (fee.announced <= fee.inForceThen || block.timestamp >= fee.announcedAt + 1 days) return fee.announced;
        return fee.inForceThen;
    }

    function ownsOrManages(bytes32 topicId, address who) public view returns (bool) {
        TopicPage memory page = topicPages[topicId];
        return page.owner != address(0) && (page.owner == who || managed[topicId][page.epoch][who]);
    }

    // What acts are made of

    function did(string memory deed) internal {
        if (times[deed]++ == 0) deeds.push(deed);
    }

    function admit(address who, bool taking) private {
        actors.push(who);
        takes[who] = taking;
    }

    function attempt(address who, address target, uint256 valueWei, bytes memory data)
        internal
        returns (bool success, bytes memory answer)
    {
        ++calls;
        vm.prank(who);
        // Bounded, since some payees burn whatever a withdrawal has.
        (success, answer) = target.call{value: valueWei, gas: 3_000_000}(data);
        if (success) ++changes;
        if (address(_scribe) == address(0)) return (success, answer);
        // Recorded is also what a call logged that reverted in the end; the chain keeps nothing of that.
        Vm.Log[] memory logs = vm.getRecordedLogs();
        if (success) _scribe.hear(logs);
    }

    /// @dev A refusal of what the book says is right fails the run with its reason.
    function must(address who, address target, uint256 valueWei, bytes memory data) internal returns (bytes memory) {
        (bool success, bytes memory answer) = attempt(who, target, valueWei, data);
        if (!success) {
            assembly {
                revert(add(answer, 32), mload(answer))
            }
        }
        return answer;
    }

    /// @dev Success of what the book says is wrong is a trespass; so is a refusal for another reason, which would hide one.
    function mustNot(address who, address target, bytes memory data, bytes4 refusal, string memory deed) internal {
        (bool success, bytes memory answer) = attempt(who, target, 0, data);
        if (success) trespasses.push(deed);
        else assertEq(bytes4(answer), refusal, deed);
        did(deed);
    }

    function relapse(string memory what) internal {
        relapses.push(what);
    }

    function actor(uint256 seed) internal view returns (address) {
        return actors[seed % actors.length];
    }

    /// @dev The first as often as all others, so that much happens on one.
    function anyTopic(uint256 seed) internal view returns (bytes32) {
        uint256 topic = seed % 8;
        return topicIds[topic < topicIds.length ? topic : 0];
    }

    function anyBroker(uint256 seed) internal view returns (uint256) {
        return seed % brokerTotal + 1;
    }

    /// @dev The owner, or for an odd seed a manager if there is one.
    function stewardOf(bytes32 topicId, uint256 seed) internal view returns (address) {
        TopicPage memory page = topicPages[topicId];
        for (uint256 i = 0; i < actors.length && seed % 2 == 1; ++i) {
            address who = actor(seed / 2 % actors.length + i);
            if (managed[topicId][page.epoch][who]) return who;
        }
        return page.owner;
    }

    function subjectOf(address wallet) internal pure returns (bytes32) {
        return bytes32(uint256(uint160(wallet)));
    }

    function later(uint64 a, uint64 b) internal pure returns (uint64) {
        return a > b ? a : b;
    }

    function clock() internal view returns (uint64) {
        return uint64(block.timestamp);
    }
}
