// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {BatchFixture} from "./BatchFixture.sol";
import {CountingPayee, MeddlingPayee} from "./BatchPayees.sol";
import {BombPayee, BurningPayee, ChattyPayee, RefusingPayee, ThoroughPayee} from "./Payees.sol";

contract BuyManyTest is BatchFixture {
    /// @dev What a purchase in a batch may cost beside the payment of its owner, and what that may cost at worst.
    uint256 private constant ORDER_GAS = 100_000;
    uint256 private constant PAYMENT_GAS = 60_000 + 40_000 + 30_000;

    function orders(bytes32[] memory ids) private view returns (IAccessMarket.Order[] memory all) {
        all = new IAccessMarket.Order[](ids.length);
        for (uint256 i = 0; i < ids.length; ++i) {
            all[i] = orderOf(ids[i], SUBSCRIBE, buyer, 1);
        }
    }

    /// @dev Two rights on two topics at two brokers for two wallets.
    function mixed() private view returns (IAccessMarket.Order[] memory all) {
        all = new IAccessMarket.Order[](4);
        all[0] = orderOf(topicId, SUBSCRIBE, buyer, 2);
        all[1] = orderOf(otherTopic, PUBLISH, stranger, 3);
        all[2] = orderOf(topicId, PUBLISH, stranger, 1);
        all[3] = orderOf(otherTopic, SUBSCRIBE, buyer, 5);
    }

    function refuse(bytes memory refusal, IAccessMarket.Order[] memory all, uint256 valueWei) private {
        uint256 had = buyer.balance;
        vm.expectRevert(refusal);
        buyAll(all, valueWei);
        assertEq(buyer.balance, had);
        assertEq(address(market).balance, 0);
    }

    function expectBought(IAccessMarket.Order memory wanted, uint64 until, uint256 saleFeeWei, uint256 publishFeeWei)
        private
    {
        vm.expectEmit(address(market));
        emit IAccessMarket.AccessBought(
            topics.topicBroker(wanted.topicId),
            wanted.topicId,
            wanted.wallet,
            wanted.right,
            1,
            until,
            buyer,
            priceOf(wanted),
            saleFeeWei,
            publishFeeWei,
            PURPOSE,
            ""
        );
    }

    // What it does

    function test_BuyMany() public {
        IAccessMarket.Order[] memory all = mixed();
        uint256 ownerHad = topicOwner.balance;
        uint256 otherOwnerHad = otherOwner.balance;
        uint256 costWei = costOf(all);
        uint256 otherFee = uint256(OTHER_PRICE) * 3 * OTHER_SALE_FEE / 10_000;
        uint256 lastFee = uint256(OTHER_PRICE) * 5 * OTHER_SALE_FEE / 10_000;
        expectBought(all[0], BEGIN + 2 days, PRICE / 5, 0);
        expectBought(all[1], BEGIN + 3 days, otherFee, 3 * uint256(OTHER_FEE_PER_DAY));
        expectBought(all[2], BEGIN + 1 days, PRICE / 10, FEE_PER_DAY);
        expectBought(all[3], BEGIN + 5 days, lastFee, 0);
        buyAll(all, costWei);
        for (uint256 i = 0; i < all.length; ++i) {
            assertTrue(market.mayAccess(all[i].topicId, all[i].wallet, all[i].right));
        }
        assertFalse(market.mayAccess(topicId, buyer, PUBLISH));
        assertEq(market.creditOf(brokerOwner), 3 * PRICE / 10 + FEE_PER_DAY);
        assertEq(market.creditOf(otherBrokerOwner), otherFee + lastFee + 3 * uint256(OTHER_FEE_PER_DAY));
        assertEq(topicOwner.balance - ownerHad, 3 * PRICE - 3 * PRICE / 10);
        assertEq(otherOwner.balance - otherOwnerHad, 8 * uint256(OTHER_PRICE) - otherFee - lastFee);
        assertEq(address(market).balance, market.creditOf(brokerOwner) + market.creditOf(otherBrokerOwner));
    }

    function test_SameOrderSeveralTimes() public {
        IAccessMarket.Order[] memory all = orders(list(topicId, topicId));
        expectBought(all[0], BEGIN + 1 days, PRICE / 10, 0);
        expectBought(all[0], BEGIN + 2 days, PRICE / 10, 0);
        buyAll(all, 2 * PRICE);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), BEGIN + 2 days);
        assertEq(market.refundOf(topicId, buyer, SUBSCRIBE), 2 * PRICE);
    }

    function test_BuyManyExtends() public {
        uint64 until = buy(3);
        IAccessMarket.Order[] memory all = orders(list(topicId));
        buyAll(all, PRICE);
        assertEq(market.grantedUntil(topicId, buyer, SUBSCRIBE), until + 1 days);
    }

    function test_FreeOrdersPayNobody() public {
        CountingPayee payee = new CountingPayee();
        bytes32 id = topicFor(address(payee), "free");
        vm.prank(address(payee));
        topics.setOffer(id, SUBSCRIBE, priced(0));
        buyAll(orders(list(id, id)), 0);
        assertEq(market.grantedUntil(id, buyer, SUBSCRIBE), BEGIN + 2 days);
        assertEq(payee.times(), 0);
        assertEq(market.paidUntil(id), 0);
    }

    function test_PublishFeesOfSeveralBrokers() public {
        setOffer(PUBLISH, priced(0));
        vm.prank(otherOwner);
        topics.setOffer(otherTopic, PUBLISH, priced(0));
        IAccessMarket.Order[] memory all = new IAccessMarket.Order[](3);
        all[0] = orderOf(topicId, PUBLISH, buyer, 2);
        all[1] = orderOf(otherTopic, PUBLISH, buyer, 1);
        all[2] = orderOf(topicId, PUBLISH, stranger, 1);
        uint256 feesWei = 3 * uint256(FEE_PER_DAY) + OTHER_FEE_PER_DAY;
        refuse(abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, 0, feesWei), all, 0);
        buyAll(all, feesWei);
        assertEq(market.creditOf(brokerOwner), 3 * FEE_PER_DAY);
        assertEq(market.creditOf(otherBrokerOwner), OTHER_FEE_PER_DAY);
    }

    // All or nothing

    function test_RevertWhen_NoOrders() public {
        bytes memory refusal = abi.encodeWithSelector(IAccessMarket.EmptyBatch.selector);
        refuse(refusal, new IAccessMarket.Order[](0), 0);
        refuse(refusal, new IAccessMarket.Order[](0), 1 ether);
    }

    function test_RevertWhen_BatchPaymentIsNotExact() public {
        IAccessMarket.Order[] memory all = mixed();
        uint256 costWei = costOf(all);
        uint256[5] memory wrong = [0, costOf(all[0]), costWei - 1, costWei + 1, 2 * costWei];
        for (uint256 i = 0; i < wrong.length; ++i) {
            refuse(abi.encodeWithSelector(IAccessMarket.WrongPayment.selector, wrong[i], costWei), all, wrong[i]);
        }
        for (uint256 i = 0; i < all.length; ++i) {
            assertEq(market.grantedUntil(all[i].topicId, all[i].wallet, all[i].right), 0);
        }
        buyAll(all, costWei);
    }

    function test_RevertWhen_OneOrderIsBad() public {
        blockBuyer();
        vm.prank(gateway);
        brokers.ban(brokerId, walletBan(registrar, BEGIN + 1 hours));
        bytes32 closedTopic = register(otherOwner, "closed");
        (IAccessMarket.Order[12] memory bad, bytes[12] memory refusals) = badOrders(closedTopic);
        for (uint256 i = 0; i < bad.length; ++i) {
            for (uint256 place = 0; place < 3; ++place) {
                IAccessMarket.Order[] memory all = new IAccessMarket.Order[](3);
                all[0] = orderOf(topicId, SUBSCRIBE, stranger, 1);
                all[1] = orderOf(otherTopic, SUBSCRIBE, stranger, 1);
                all[2] = orderOf(topicId, PUBLISH, stranger, 1);
                all[place] = bad[i];
                refuse(refusals[i], all, 1 ether);
                assertEq(market.grantedUntil(topicId, stranger, SUBSCRIBE), 0);
            }
        }
    }

    function badOrders(bytes32 closedTopic)
        private
        view
        returns (IAccessMarket.Order[12] memory bad, bytes[12] memory refusals)
    {
        for (uint256 i = 0; i < bad.length; ++i) {
            bad[i] = orderOf(topicId, SUBSCRIBE, stranger, 1);
        }
        bad[0].wallet = buyer;
        refusals[0] = abi.encodeWithSelector(IAccessMarket.WalletIsBlocked.selector, topicId, buyer);
        bad[1].wallet = registrar;
        refusals[1] =
            abi.encodeWithSelector(IAccessMarket.WalletIsBanned.selector, brokerId, registrar, BEGIN + 1 hours);
        bad[2].wallet = address(0);
        refusals[2] = abi.encodeWithSelector(IAccessMarket.ZeroAddress.selector);
        bad[3].topicId = "none";
        refusals[3] = abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32("none"));
        bad[4].topicId = closedTopic;
        refusals[4] = abi.encodeWithSelector(IAccessMarket.OfferNotPriced.selector, closedTopic, SUBSCRIBE);
        bad[5].period = PERIOD + 1;
        refusals[5] = abi.encodeWithSelector(IAccessMarket.OfferChanged.selector, topicId, PERIOD, 1);
        bad[6].epoch = 2;
        refusals[6] = abi.encodeWithSelector(IAccessMarket.OfferChanged.selector, topicId, PERIOD, 1);
        bad[7].periods = 0;
        refusals[7] = abi.encodeWithSelector(IAccessMarket.InvalidPeriods.selector, 0);
        bad[8].maxPriceWei = PRICE - 1;
        refusals[8] = abi.encodeWithSelector(IAccessMarket.PriceAboveMaximum.selector, PRICE, PRICE - 1);
        bad[9].purpose = bytes32(bytes1(0x07));
        refusals[9] = abi.encodeWithSelector(IAccessMarket.InvalidPurpose.selector, bytes32(bytes1(0x07)));
        bad[10].note = text(257);
        refusals[10] = abi.encodeWithSelector(IAccessMarket.TextTooLong.selector, 257, 256);
        (bad[11].wallet, bad[11].periods) = (otherOwner, 36_501);
        refusals[11] =
            abi.encodeWithSelector(IAccessMarket.EndTooFar.selector, BEGIN + YEARS_100 + 1 days, BEGIN + YEARS_100);
    }

    // Sums

    function testFuzz_BatchSharesAddUp(uint72[2] memory prices, uint96[2] memory fees, uint96[2] memory rates) public {
        rates = [uint96(bound(rates[0], 0, 2500)), uint96(bound(rates[1], 0, 2500))];
        fees = [uint96(bound(fees[0], 0, 1 ether)), uint96(bound(fees[1], 0, 1 ether))];
        setFees(brokerOwner, brokerId, fees[0], rates[0]);
        setFees(otherBrokerOwner, otherBroker, fees[1], rates[1]);
        vm.warp(BEGIN + 1 days);
        IAccessMarket.Order[] memory all = mixed();
        reprice(SUBSCRIBE, priced(uint128(prices[0])));
        reprice(PUBLISH, priced(uint128(prices[0]) + 1));
        vm.startPrank(otherOwner);
        topics.setOffer(otherTopic, PUBLISH, closed());
        topics.setOffer(otherTopic, PUBLISH, priced(uint128(prices[1])));
        vm.stopPrank();
        vm.deal(buyer, 1e30);
        uint256 ownersHad = topicOwner.balance + otherOwner.balance;
        uint256 costWei = costOf(all);
        buyAll(all, costWei);
        uint256 brokersHave = market.creditOf(brokerOwner) + market.creditOf(otherBrokerOwner);
        assertEq(topicOwner.balance + otherOwner.balance - ownersHad + brokersHave, costWei, "to the wei");
        assertEq(address(market).balance, brokersHave);
        uint256 feeWei = uint256(prices[0]) * 2 * rates[0] / 10_000 + (uint256(prices[0]) + 1) * rates[0] / 10_000;
        assertEq(market.creditOf(brokerOwner), feeWei + fees[0], "each sale's fee is rounded on its own");
    }

    function setFees(address owner, uint256 id, uint96 fee, uint96 rate) private {
        vm.startPrank(owner);
        if (brokers.publishFee(id) != fee) brokers.setPublishFee(id, fee);
        if (brokers.saleFee(id) != rate) brokers.setSaleFee(id, rate);
        vm.stopPrank();
    }

    /// @dev In any order and with any repetition a batch is its orders one by one.
    function testFuzz_BatchIsItsOrders(uint8[6] memory which) public {
        IAccessMarket.Order[] memory all = new IAccessMarket.Order[](which.length);
        for (uint256 i = 0; i < all.length; ++i) {
            all[i] = mixed()[which[i] % 4];
        }
        uint256 snapshot = vm.snapshotState();
        for (uint256 i = 0; i < all.length; ++i) {
            uint256 costWei = costOf(all[i]);
            vm.prank(buyer);
            market.buy{value: costWei}(all[i]);
        }
        bytes32 oneByOne = outcome();
        vm.revertToState(snapshot);
        buyAll(all, costOf(all));
        assertEq(outcome(), oneByOne);
    }

    function outcome() private view returns (bytes32 digest) {
        IAccessMarket.Order[] memory all = mixed();
        for (uint256 i = 0; i < all.length; ++i) {
            digest = keccak256(
                abi.encode(
                    digest,
                    market.grantedUntil(all[i].topicId, all[i].wallet, all[i].right),
                    market.refundOf(all[i].topicId, all[i].wallet, all[i].right),
                    market.paidUntil(all[i].topicId)
                )
            );
        }
        return keccak256(
            abi.encode(
                digest,
                buyer.balance,
                topicOwner.balance,
                otherOwner.balance,
                market.creditOf(brokerOwner),
                market.creditOf(otherBrokerOwner)
            )
        );
    }

    // Payees

    function test_EachPayeeIsPaidOnce() public {
        CountingPayee payee = new CountingPayee();
        CountingPayee second = new CountingPayee();
        bytes32[] memory ids = new bytes32[](6);
        ids[0] = topicFor(address(payee), "a");
        ids[1] = topicFor(address(second), "b");
        ids[2] = ids[0];
        ids[3] = topicFor(address(payee), "c");
        ids[4] = ids[1];
        ids[5] = ids[0];
        buyAll(orders(ids), 6 * PRICE);
        assertEq(payee.times(), 1);
        assertEq(second.times(), 1);
        assertEq(address(payee).balance, 4 * (PRICE - PRICE / 10));
        assertEq(address(second).balance, 2 * (PRICE - PRICE / 10));
    }

    function test_BadPayeesInTheMiddle() public {
        address payable[6] memory payees = [
            payable(topicOwner),
            payable(address(new RefusingPayee())),
            payable(address(new BurningPayee())),
            payable(address(new BombPayee())),
            payable(address(new ChattyPayee())),
            payable(otherOwner)
        ];
        bytes32[] memory ids = new bytes32[](payees.length);
        uint256[] memory had = new uint256[](payees.length);
        for (uint256 i = 0; i < payees.length; ++i) {
            ids[i] = topicFor(payees[i], string.concat("payee/", vm.toString(i)));
            had[i] = payees[i].balance;
        }
        uint256 shareWei = PRICE - PRICE / 10;
        for (uint256 i = 1; i <= 3; ++i) {
            vm.expectEmit(address(market));
            emit IAccessMarket.Credited(payees[i], shareWei);
        }
        buyAll(orders(ids), 6 * PRICE);
        assertLt(vm.lastCallGas().gasTotalUsed, 6 * ORDER_GAS + 3 * PAYMENT_GAS + 3 * 45_000);
        for (uint256 i = 0; i < payees.length; ++i) {
            assertTrue(market.mayAccess(ids[i], buyer, SUBSCRIBE));
            bool isBad = i >= 1 && i <= 3;
            assertEq(market.creditOf(payees[i]), isBad ? shareWei : 0);
            assertEq(payees[i].balance - had[i], isBad ? 0 : shareWei);
        }
        assertEq(address(market).balance, 3 * shareWei + market.creditOf(brokerOwner));
    }

    function test_MeddlingPayeeInTheMiddle() public {
        for (uint256 i = 0; i < 8; ++i) {
            uint256 snapshot = vm.snapshotState();
            bytes32 id = topics.topicIdOf(brokerId, "meddler");
            MeddlingPayee payee = new MeddlingPayee(address(market), meddlings(id, stranger)[i], i < 2);
            topicFor(address(payee), "meddler");
            bytes32[] memory ids = new bytes32[](3);
            (ids[0], ids[1], ids[2]) = (topicId, id, otherTopic);
            IAccessMarket.Order[] memory all = orders(ids);
            uint256 otherHad = otherOwner.balance;
            buyAll(all, costOf(all));
            assertRefused(payee, i);
            assertEq(address(payee).balance, PRICE - PRICE / 10);
            assertEq(otherOwner.balance - otherHad, OTHER_PRICE - uint256(OTHER_PRICE) * OTHER_SALE_FEE / 10_000);
            assertEq(address(market).balance, market.creditOf(brokerOwner) + market.creditOf(otherBrokerOwner));
            vm.revertToState(snapshot);
        }
    }

    function test_RevertWhen_BatchGasIsTooLow() public {
        RefusingPayee payee = new RefusingPayee();
        IAccessMarket.Order[] memory all = orders(list(topicFor(address(payee), "a"), topicId));
        vm.expectPartialRevert(IAccessMarket.GasTooLow.selector);
        vm.prank(buyer);
        market.buyMany{value: 2 * PRICE, gas: 280_000}(all);
    }

    /// @dev As with one purchase: whoever looks for the least gas that succeeds finds none that only starves a payee.
    function testFuzz_FrugalBatchCannotForceCredit(uint256 gasLimit) public {
        gasLimit = bound(gasLimit, 60_000, 700_000);
        ThoroughPayee payee = new ThoroughPayee();
        ThoroughPayee second = new ThoroughPayee();
        IAccessMarket.Order[] memory all = orders(list(topicFor(address(payee), "a"), topicFor(address(second), "b")));
        vm.prank(buyer);
        try market.buyMany{value: 2 * PRICE, gas: gasLimit}(all) {
            assertEq(address(payee).balance, PRICE - PRICE / 10);
            assertEq(address(second).balance, PRICE - PRICE / 10);
        } catch {
            assertLt(gasLimit, 420_000, "enough gas is enough");
            assertEq(market.grantedUntil(all[0].topicId, buyer, SUBSCRIBE), 0);
        }
    }
}
