// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Deploy} from "../script/Deploy.s.sol";
import {AccessMarket} from "../src-sol/AccessMarket.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Test} from "forge-std/Test.sol";

contract DeployTest is Test {
    /// @dev EIP-170.
    uint256 private constant MAX_CODE = 24_576;

    Deploy private script = new Deploy();

    function test_DeployConnectsTheContracts() public {
        vm.roll(77);
        Deploy.Deployment memory deployed = script.deploy();
        assertEq(deployed.chainId, block.chainid);
        assertEq(deployed.fromBlock, 77);
        assertEq(address(deployed.topicRegistry.brokerRegistry()), address(deployed.brokerRegistry));
        assertEq(address(deployed.auditLog.brokerRegistry()), address(deployed.brokerRegistry));
        assertNotEq(deployed.deviceRegistry.consentDigest(address(1)), 0);
    }

    function test_RevertWhen_RegistryIsZero() public {
        vm.expectRevert(ITopicRegistry.ZeroAddress.selector);
        new AccessMarket(IBrokerRegistry(address(0)));
    }

    function test_SizesBelowTheLimit() public {
        Deploy.Deployment memory deployed = script.deploy();
        address[4] memory contracts = [
            address(deployed.brokerRegistry),
            address(deployed.topicRegistry),
            address(deployed.deviceRegistry),
            address(deployed.auditLog)
        ];
        for (uint256 i = 0; i < contracts.length; ++i) {
            assertLt(contracts[i].code.length, MAX_CODE);
            assertGt(contracts[i].code.length, 1000);
            assertFalse(delegates(contracts[i].code), "DELEGATECALL or SELFDESTRUCT in the code");
        }
    }

    /// @dev Walks the instructions, stepping over what PUSH carries.
    function delegates(bytes memory code) private pure returns (bool) {
        for (uint256 i = 0; i < code.length; ++i) {
            uint8 instruction = uint8(code[i]);
            if (instruction == 0xF4 || instruction == 0xF2 || instruction == 0xFF) return true;
            if (instruction >= 0x60 && instruction <= 0x7F) i += instruction - 0x5F;
        }
        return false;
    }

    function test_RenderIsWhatOthersRead() public {
        Deploy.Deployment memory deployed = script.deploy();
        string memory json = script.render(deployed);
        assertEq(vm.parseJsonKeys(json, "$").length, 6);
        assertEq(vm.parseJsonUint(json, ".chainId"), block.chainid);
        assertEq(vm.parseJsonUint(json, ".block"), deployed.fromBlock);
        assertEq(vm.parseJsonAddress(json, ".brokerRegistry"), address(deployed.brokerRegistry));
        assertEq(vm.parseJsonAddress(json, ".topicRegistry"), address(deployed.topicRegistry));
        assertEq(vm.parseJsonAddress(json, ".deviceRegistry"), address(deployed.deviceRegistry));
        assertEq(vm.parseJsonAddress(json, ".auditLog"), address(deployed.auditLog));
    }

    function test_SameCodeWhoeverDeploys() public {
        Deploy.Deployment memory first = script.deploy();
        vm.prank(makeAddr("another"));
        Deploy.Deployment memory second = script.deploy();
        assertEq(address(first.brokerRegistry).codehash, address(second.brokerRegistry).codehash);
    }
}
