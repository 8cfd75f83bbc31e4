// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {MeddlingPayee} from "./BatchPayees.sol";
import {Fixture} from "./Fixture.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";

/// @title Two brokers with fees, and a topic of another owner at the other one: the ground for what is done in batches.
abstract contract BatchFixture is Fixture {
    uint64 internal constant BEGIN = START + 1 days;
    uint128 internal constant OTHER_PRICE = 0.003 ether + 7;
    uint96 internal constant OTHER_FEE_PER_DAY = 86_400 * 5 + 1;
    uint96 internal constant SALE_FEE = 1000;
    uint96 internal constant OTHER_SALE_FEE = 333;

    address internal otherOwner = makeAddr("other owner");
    address internal otherBrokerOwner = makeAddr("other broker owner");
    uint256 internal otherBroker;
    bytes32 internal otherTopic;

    function setUp() public virtual override {
        super.setUp();
        vm.startPrank(brokerOwner);
        brokers.setPublishFee(brokerId, FEE_PER_DAY);
        brokers.setSaleFee(brokerId, SALE_FEE);
        vm.stopPrank();
        vm.startPrank(otherBrokerOwner);
        otherBroker = brokers.createBroker(IBrokerRegistry.NamingPolicy.Open, "other");
        brokers.setPublishFee(otherBroker, OTHER_FEE_PER_DAY);
        brokers.setSaleFee(otherBroker, OTHER_SALE_FEE);
        vm.stopPrank();
        vm.prank(otherOwner);
        otherTopic = topics.registerTopic(otherBroker, "mill", noTraits(), priced(OTHER_PRICE), priced(OTHER_PRICE));
        setOffer(PUBLISH, priced(PRICE));
        vm.deal(otherOwner, 1000 ether);
        vm.warp(BEGIN);
    }

    function orderOf(bytes32 id, ITopicRegistry.Right right, address wallet, uint32 periods)
        internal
        view
        returns (IAccessMarket.Order memory wanted)
    {
        wanted = order(right, periods);
        wanted.topicId = id;
        wanted.wallet = wallet;
        wanted.epoch = topics.topicEpoch(id);
    }

    function costOf(IAccessMarket.Order memory wanted) internal view returns (uint256) {
        uint256 days_ = wanted.period / 1 days * wanted.periods;
        return priceOf(wanted) + (wanted.right == PUBLISH ? days_ * feeRateOf(wanted.topicId) : 0);
    }

    function costOf(IAccessMarket.Order[] memory orders) internal view returns (uint256 sumWei) {
        for (uint256 i = 0; i < orders.length; ++i) {
            sumWei += costOf(orders[i]);
        }
    }

    function priceOf(IAccessMarket.Order memory wanted) internal view returns (uint256) {
        return uint256(topics.offerOf(wanted.topicId, wanted.right).priceWei) * wanted.periods;
    }

    function feeRateOf(bytes32 id) internal view returns (uint256) {
        return brokers.publishFee(topics.topicBroker(id));
    }

    function buyAll(IAccessMarket.Order[] memory orders, uint256 valueWei) internal {
        vm.prank(buyer);
        market.buyMany{value: valueWei}(orders);
    }

    /// @dev A topic of `owner` that {manager} manages.
    function topicFor(address owner, string memory name) internal returns (bytes32 id) {
        id = register(owner, name, priced(PRICE), priced(PRICE));
        vm.prank(owner);
        topics.setManager(id, manager, true);
    }

    function list(bytes32 first) internal pure returns (bytes32[] memory all) {
        all = new bytes32[](1);
        all[0] = first;
    }

    function list(bytes32 first, bytes32 second) internal pure returns (bytes32[] memory all) {
        all = new bytes32[](2);
        (all[0], all[1]) = (first, second);
    }

    function list(address first) internal pure returns (address[] memory all) {
        all = new address[](1);
        all[0] = first;
    }

    function list(address first, address second) internal pure returns (address[] memory all) {
        all = new address[](2);
        (all[0], all[1]) = (first, second);
    }

    function list(address first, address second, address third) internal pure returns (address[] memory all) {
        all = new address[](3);
        (all[0], all[1], all[2]) = (first, second, third);
    }

    /// @dev Each call that moves money or rights, as one who is being paid might make it: for a topic that it owns.
    function meddlings(bytes32 id, address wallet) internal view returns (bytes[8] memory) {
        IAccessMarket.Order[] memory orders = new IAccessMarket.Order[](1);
        orders[0] = orderOf(id, SUBSCRIBE, wallet, 1);
        orders[0].epoch = 1;
        uint64 until = nowPlus(500 days);
        return [
            abi.encodeCall(market.buy, (orders[0])),
            abi.encodeCall(market.buyMany, (orders)),
            abi.encodeCall(market.grant, (id, wallet, SUBSCRIBE, until, PURPOSE, "")),
            abi.encodeCall(market.grantMany, (list(id), list(wallet), SUBSCRIBE, until, PURPOSE, "")),
            abi.encodeCall(market.revoke, (id, wallet, SUBSCRIBE, PURPOSE, "")),
            abi.encodeCall(market.revokeMany, (list(id), list(wallet), SUBSCRIBE, PURPOSE, "")),
            abi.encodeCall(market.blockWallet, (id, wallet, PURPOSE, "")),
            abi.encodeCall(market.withdraw, (wallet))
        ];
    }

    function assertRefused(MeddlingPayee payee, uint256 which) internal view {
        assertEq(payee.times(), 1, vm.toString(which));
        assertFalse(payee.succeeded(), vm.toString(which));
        assertEq(
            payee.refusal(),
            ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector,
            string.concat("meddling ", vm.toString(which))
        );
    }
}
