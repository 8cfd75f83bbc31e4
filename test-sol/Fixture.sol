// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {AccessMarket} from "../src-sol/AccessMarket.sol";
import {AuditLog} from "../src-sol/AuditLog.sol";
import {BrokerRegistry} from "../src-sol/BrokerRegistry.sol";
import {DeviceRegistry} from "../src-sol/DeviceRegistry.sol";
import {TopicRegistry} from "../src-sol/TopicRegistry.sol";
import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Test} from "forge-std/Test.sol";

/// @title One deployment with a broker, a topic and everybody who has to do with them; the ground every suite starts from.
/// @dev The broker's naming policy is `Open`, so that a suite about something else can register what it likes.
abstract contract Fixture is Test {
    uint64 internal constant START = 1_800_000_000;
    uint32 internal constant PERIOD = 1 days;
    uint128 internal constant PRICE = 0.01 ether;
    uint96 internal constant FEE_PER_DAY = 0.001 ether;
    uint256 internal constant YEARS_100 = 36_500 days;
    string internal constant NAME = "factory/line1/temperature";

    ITopicRegistry.Right internal constant PUBLISH = ITopicRegistry.Right.Publish;
    ITopicRegistry.Right internal constant SUBSCRIBE = ITopicRegistry.Right.Subscribe;
    bytes32 internal constant PURPOSE = bytes32(bytes("\x02contract"));

    BrokerRegistry internal brokers;
    AccessMarket internal market;
    TopicRegistry internal topics;
    DeviceRegistry internal devices;
    AuditLog internal audit;

    address internal brokerOwner = makeAddr("broker owner");
    address internal gateway = makeAddr("gateway");
    address internal registrar = makeAddr("registrar");
    address internal topicOwner = makeAddr("topic owner");
    address internal manager = makeAddr("manager");
    address internal buyer = makeAddr("buyer");
    address internal stranger = makeAddr("stranger");

    uint256 internal brokerId;
    bytes32 internal topicId;

    function setUp() public virtual {
        vm.warp(START);
        brokers = BrokerRegistry(compiled("BrokerRegistry", ""));
        market = AccessMarket(compiled("AccessMarket", abi.encode(brokers)));
        topics = TopicRegistry(address(market.topicRegistry()));
        devices = DeviceRegistry(compiled("DeviceRegistry", ""));
        audit = AuditLog(compiled("AuditLog", abi.encode(brokers)));

        vm.startPrank(brokerOwner);
        brokerId = brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, "plant");
        brokers.setGateway(brokerId, gateway, "mqtts://gateway.example:8883");
        brokers.setRegistrar(brokerId, registrar, true);
        vm.stopPrank();

        topicId = register(topicOwner, NAME, closed(), priced(PRICE));
        vm.prank(topicOwner);
        topics.setManager(topicId, manager, true);

        vm.deal(buyer, 1_000_000 ether);
        vm.deal(topicOwner, 1_000_000 ether);
        vm.deal(stranger, 1_000_000 ether);
    }

    /// @dev `make mutants-sol` names a folder with broken contracts, so that the tests need not be compiled again for each. Else forge picks
    /// the artifact by itself: coverage finds nothing in one that was named by its path.
    function compiled(string memory name, bytes memory arguments) internal returns (address) {
        string memory folder = vm.envOr("CONTRACTS_OUT", string(""));
        if (bytes(folder).length == 0) return vm.deployCode(string.concat(name, ".sol:", name), arguments);
        return vm.deployCode(string.concat(folder, "/", name, ".sol/", name, ".json"), arguments);
    }

    function closed() internal pure returns (ITopicRegistry.Offer memory) {
        return ITopicRegistry.Offer(ITopicRegistry.OfferMode.Closed, 0, 0);
    }

    function priced(uint128 priceWei) internal pure returns (ITopicRegistry.Offer memory) {
        return ITopicRegistry.Offer(ITopicRegistry.OfferMode.Priced, PERIOD, priceWei);
    }

    function open() internal pure returns (ITopicRegistry.Offer memory) {
        return ITopicRegistry.Offer(ITopicRegistry.OfferMode.Public, 0, 0);
    }

    function noTraits() internal pure returns (ITopicRegistry.Traits memory) {
        return ITopicRegistry.Traits(false, false, false);
    }

    function register(address by, string memory name) internal returns (bytes32) {
        return register(by, name, closed(), closed());
    }

    function register(
        address by,
        string memory name,
        ITopicRegistry.Offer memory publishOffer,
        ITopicRegistry.Offer memory subscribeOffer
    ) internal returns (bytes32) {
        vm.prank(by);
        return topics.registerTopic(brokerId, name, noTraits(), publishOffer, subscribeOffer);
    }

    function setOffer(ITopicRegistry.Right right, ITopicRegistry.Offer memory offer) internal {
        vm.prank(topicOwner);
        topics.setOffer(topicId, right, offer);
    }

    /// @dev For offers that may happen to be as they are, which {setOffer} would refuse.
    function reprice(ITopicRegistry.Right right, ITopicRegistry.Offer memory offer) internal {
        vm.startPrank(topicOwner);
        if (topics.offerOf(topicId, right).mode != ITopicRegistry.OfferMode.Closed) {
            topics.setOffer(topicId, right, closed());
        }
        topics.setOffer(topicId, right, offer);
        vm.stopPrank();
    }

    /// @dev An order for `periods` as the offers stand in the fixture, for `buyer`, at any price.
    function order(ITopicRegistry.Right right, uint32 periods) internal view returns (IAccessMarket.Order memory) {
        return IAccessMarket.Order({
            topicId: topicId,
            right: right,
            wallet: buyer,
            periods: periods,
            period: PERIOD,
            epoch: topics.topicEpoch(topicId),
            maxPriceWei: type(uint256).max,
            purpose: PURPOSE,
            note: ""
        });
    }

    function buy(uint32 periods) internal returns (uint64 until) {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, periods);
        uint256 costWei = uint256(topics.offerOf(topicId, SUBSCRIBE).priceWei) * periods;
        vm.prank(buyer);
        return market.buy{value: costWei}(wanted);
    }

    function refuseToSell(bytes memory refusal, uint32 periods) internal {
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, periods);
        uint256 costWei = uint256(topics.offerOf(topicId, SUBSCRIBE).priceWei) * periods;
        vm.expectRevert(refusal);
        vm.prank(buyer);
        market.buy{value: costWei}(wanted);
    }

    function grantFree(address wallet, ITopicRegistry.Right right, uint64 until) internal {
        vm.prank(topicOwner);
        market.grant(topicId, wallet, right, until, PURPOSE, "");
    }

    function revokeFrom(address wallet, ITopicRegistry.Right right) internal {
        uint256 refundWei = market.refundOf(topicId, wallet, right);
        vm.prank(topicOwner);
        market.revoke{value: refundWei}(topicId, wallet, right, PURPOSE, "");
    }

    function blockBuyer() internal {
        uint256 refundWei = market.refundOf(topicId, buyer, PUBLISH) + market.refundOf(topicId, buyer, SUBSCRIBE);
        vm.prank(topicOwner);
        market.blockWallet{value: refundWei}(topicId, buyer, PURPOSE, "");
    }

    function subjectOf(address wallet) internal pure returns (bytes32) {
        return bytes32(uint256(uint160(wallet)));
    }

    function walletBan(address wallet, uint64 until) internal pure returns (IBrokerRegistry.Ban[] memory bans) {
        bans = new IBrokerRegistry.Ban[](1);
        bans[0] = IBrokerRegistry.Ban(IBrokerRegistry.BanKind.Wallet, subjectOf(wallet), until, 0, "flapping");
    }

    function originBan(bytes32 origin, uint64 until) internal pure returns (IBrokerRegistry.Ban[] memory bans) {
        bans = new IBrokerRegistry.Ban[](1);
        bans[0] = IBrokerRegistry.Ban(IBrokerRegistry.BanKind.Origin, origin, until, 0, "six failures");
    }

    function banBuyer(uint64 until) internal {
        vm.prank(gateway);
        brokers.ban(brokerId, walletBan(buyer, until));
    }

    function text(uint256 octets) internal pure returns (string memory) {
        bytes memory filled = new bytes(octets);
        for (uint256 i = 0; i < octets; ++i) {
            filled[i] = "x";
        }
        return string(filled);
    }

    function nowPlus(uint256 time) internal view returns (uint64) {
        return uint64(block.timestamp + time);
    }
}
