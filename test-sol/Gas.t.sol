// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Fixture} from "./Fixture.sol";
import {Vm} from "forge-std/Vm.sol";

/// @title What a user pays: each call a transaction of its own, as on a chain, below a ceiling.
/// @dev Kept in test-sol/gas/, where a change shows; `make gas` prints it. *Transaction* is all that is paid for; *execution* is that
/// without the 21,000 and the octets of the call, which no contract can change, and is what forge reports for a call.
contract GasTest is Fixture {
    uint256 private constant BATCH = 50;

    function setUp() public override {
        super.setUp();
        vm.deal(brokerOwner, 1 ether);
        vm.deal(topicOwner, 1 ether);
        register(topicOwner, "mill");
        register(topicOwner, "mill/line1");
        vm.startPrank(brokerOwner);
        brokers.setSaleFee(brokerId, 500);
        vm.warp(START + 2 days);
        vm.stopPrank();
    }

    /// @dev Calls, checks and writes down. `times` is how many equal things the call did; the figures are for each.
    function measure(string memory what, address by, address to, uint256 value, bytes memory data, uint256 times)
        private
        returns (uint256 execution)
    {
        vm.prank(by);
        (bool success, bytes memory answer) = to.call{value: value}(data);
        assertTrue(success, string(answer));
        uint256 whole = vm.lastCallGas().gasTotalUsed;
        assertGt(whole, 21_000, "measured without the base cost: is isolation on?");
        execution = (whole - intrinsic(data)) / times;
        vm.snapshotValue("transaction", what, whole / times);
        vm.snapshotValue("execution", what, execution);
    }

    function ceiling(
        string memory what,
        address by,
        address to,
        uint256 value,
        bytes memory data,
        uint256 times,
        uint256 most
    ) private {
        assertLe(measure(what, by, to, value, data, times), most, what);
    }

    /// @dev What a transaction costs before it does anything (EIP-2028).
    function intrinsic(bytes memory data) private pure returns (uint256 sum) {
        sum = 21_000;
        for (uint256 i = 0; i < data.length; ++i) {
            sum += data[i] == 0 ? 4 : 16;
        }
    }

    function several(uint256 count) private pure returns (address[] memory wallets) {
        wallets = new address[](count);
        for (uint256 i = 0; i < count; ++i) {
            wallets[i] = address(uint160(uint256(keccak256(abi.encode("wallet", i)))));
        }
    }

    function thisTopic() private view returns (bytes32[] memory ids) {
        ids = new bytes32[](1);
        ids[0] = topicId;
    }

    /// forge-config: default.isolate = true
    function test_RegisterAtDepthThreeWithOffers() public {
        bytes memory data = abi.encodeCall(
            ITopicRegistry.registerTopic, (brokerId, "mill/line1/temperature", noTraits(), priced(PRICE), priced(PRICE))
        );
        ceiling("register a topic at depth 3 with offers", topicOwner, address(topics), 0, data, 1, 110_000);
    }

    /// forge-config: default.isolate = true
    function test_RegisterHidden() public {
        bytes memory data = abi.encodeCall(
            ITopicRegistry.registerHiddenTopic,
            (topicId, keccak256("salt and name"), noTraits(), priced(PRICE), priced(PRICE))
        );
        ceiling("register a hidden topic with offers", topicOwner, address(topics), 0, data, 1, 110_000);
    }

    /// forge-config: default.isolate = true
    function test_Grant() public {
        bytes memory data =
            abi.encodeCall(IAccessMarket.grant, (topicId, buyer, SUBSCRIBE, START + 30 days, PURPOSE, ""));
        ceiling("grant", topicOwner, address(market), 0, data, 1, 50_000);
    }

    /// forge-config: default.isolate = true
    function test_GrantMany() public {
        bytes memory data = abi.encodeCall(
            IAccessMarket.grantMany, (thisTopic(), several(BATCH), SUBSCRIBE, START + 30 days, PURPOSE, "")
        );
        ceiling("grant 50 wallets at once, each", topicOwner, address(market), 0, data, BATCH, 28_500);
    }

    /// forge-config: default.isolate = true
    function test_BuyFirst() public {
        bytes memory data = abi.encodeCall(IAccessMarket.buy, (order(SUBSCRIBE, 1)));
        ceiling("buy, first sale of topic and broker", buyer, address(market), PRICE, data, 1, 110_000);
    }

    /// forge-config: default.isolate = true
    function test_Buy() public {
        buy(1);
        IAccessMarket.Order memory wanted = order(SUBSCRIBE, 1);
        wanted.wallet = stranger;
        bytes memory data = abi.encodeCall(IAccessMarket.buy, (wanted));
        ceiling("buy", stranger, address(market), PRICE, data, 1, 75_000);
        ceiling("buy again", stranger, address(market), PRICE, data, 1, 60_000);
    }

    /// forge-config: default.isolate = true
    function test_BuyMany() public {
        buy(1);
        address[] memory wallets = several(BATCH);
        IAccessMarket.Order[] memory orders = new IAccessMarket.Order[](BATCH);
        for (uint256 i = 0; i < BATCH; ++i) {
            orders[i] = order(SUBSCRIBE, 1);
            orders[i].wallet = wallets[i];
        }
        bytes memory data = abi.encodeCall(IAccessMarket.buyMany, (orders));
        ceiling("buy for 50 wallets at once, each", buyer, address(market), BATCH * PRICE, data, BATCH, 44_000);
    }

    /// forge-config: default.isolate = true
    function test_Claim() public {
        setOffer(SUBSCRIBE, priced(0));
        bytes memory data = abi.encodeCall(IAccessMarket.buy, (order(SUBSCRIBE, 1)));
        ceiling("claim what is free", buyer, address(market), 0, data, 1, 52_000);
    }

    /// forge-config: default.isolate = true
    function test_RevokeFree() public {
        grantFree(buyer, SUBSCRIBE, START + 30 days);
        bytes memory data = abi.encodeCall(IAccessMarket.revoke, (topicId, buyer, SUBSCRIBE, PURPOSE, ""));
        ceiling("revoke a free grant", topicOwner, address(market), 0, data, 1, 30_000);
    }

    /// forge-config: default.isolate = true
    function test_RevokePaid() public {
        buy(30);
        bytes memory data = abi.encodeCall(IAccessMarket.revoke, (topicId, buyer, SUBSCRIBE, PURPOSE, ""));
        ceiling("revoke with refund", topicOwner, address(market), 30 * PRICE, data, 1, 60_000);
    }

    /// forge-config: default.isolate = true
    function test_RevokeMany() public {
        vm.prank(topicOwner);
        market.grantMany(thisTopic(), several(BATCH), SUBSCRIBE, START + 30 days, PURPOSE, "");
        bytes memory data =
            abi.encodeCall(IAccessMarket.revokeMany, (thisTopic(), several(BATCH), SUBSCRIBE, PURPOSE, ""));
        ceiling("revoke 50 free grants at once, each", topicOwner, address(market), 0, data, BATCH, 12_500);
    }

    /// forge-config: default.isolate = true
    function test_Countries() public {
        bytes2[] memory codes = new bytes2[](30);
        for (uint256 i = 0; i < codes.length; ++i) {
            codes[i] = bytes2(abi.encodePacked(bytes1(uint8(0x41 + i / 2)), bytes1(uint8(0x41 + i % 2))));
        }
        bytes memory data =
            abi.encodeCall(ITopicRegistry.setCountries, (topicId, ITopicRegistry.CountryMode.Only, codes));
        ceiling("set 30 countries", topicOwner, address(topics), 0, data, 1, 140_000);
    }

    /// forge-config: default.isolate = true
    function test_DeviceKey() public {
        Vm.Wallet memory device = vm.createWallet("sensor");
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(device, devices.consentDigest(topicOwner));
        bytes memory data =
            abi.encodeCall(devices.authorizeDevice, (device.addr, START + 30 days, abi.encodePacked(r, s, v)));
        ceiling("authorize a device key", topicOwner, address(devices), 0, data, 1, 48_000);
    }

    /// forge-config: default.isolate = true
    function test_Anchor() public {
        bytes32 root = keccak256("records");
        bytes memory data = abi.encodeCall(audit.anchor, (brokerId, 1, root, 0, 1));
        ceiling("anchor, the first of a gateway", gateway, address(audit), 0, data, 1, 60_000);
        data = abi.encodeCall(audit.anchor, (brokerId, 2, keccak256("more"), root, 1));
        uint256 one = measure("anchor 1 record", gateway, address(audit), 0, data, 1);
        data = abi.encodeCall(audit.anchor, (brokerId, 3, keccak256("many"), keccak256("more"), 1_000_000));
        uint256 million = measure("anchor 1,000,000 records", gateway, address(audit), 0, data, 1);
        assertEq(one, million, "an anchor costs the same whatever it is over");
        assertLe(one, 60_000);
    }
}
