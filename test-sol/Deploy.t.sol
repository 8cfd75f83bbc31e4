// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {Demo} from "../script/Demo.s.sol";
import {Deploy} from "../script/Deploy.s.sol";
import {AccessMarket} from "../src-sol/AccessMarket.sol";
import {IBrokerRegistry} from "../src-sol/interfaces/IBrokerRegistry.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Test} from "forge-std/Test.sol";
import {Vm, VmSafe} from "forge-std/Vm.sol";

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
        assertEq(address(deployed.accessMarket.brokerRegistry()), address(deployed.brokerRegistry));
        assertEq(address(deployed.topicRegistry.accessMarket()), address(deployed.accessMarket));
        assertEq(address(deployed.auditLog.brokerRegistry()), address(deployed.brokerRegistry));
        assertNotEq(deployed.deviceRegistry.consentDigest(address(1)), 0);
    }

    function test_RevertWhen_RegistryIsZero() public {
        vm.expectRevert(ITopicRegistry.ZeroAddress.selector);
        new AccessMarket(IBrokerRegistry(address(0)));
    }

    function test_SizesBelowTheLimit() public {
        Deploy.Deployment memory deployed = script.deploy();
        address[5] memory contracts = [
            address(deployed.brokerRegistry),
            address(deployed.topicRegistry),
            address(deployed.accessMarket),
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
        assertEq(vm.parseJsonKeys(json, "$").length, 7);
        assertEq(vm.parseJsonUint(json, ".chainId"), block.chainid);
        assertEq(vm.parseJsonUint(json, ".block"), deployed.fromBlock);
        assertEq(vm.parseJsonAddress(json, ".brokerRegistry"), address(deployed.brokerRegistry));
        assertEq(vm.parseJsonAddress(json, ".topicRegistry"), address(deployed.topicRegistry));
        assertEq(vm.parseJsonAddress(json, ".accessMarket"), address(deployed.accessMarket));
        assertEq(vm.parseJsonAddress(json, ".deviceRegistry"), address(deployed.deviceRegistry));
        assertEq(vm.parseJsonAddress(json, ".auditLog"), address(deployed.auditLog));
    }

    function test_SameAddressesWhoeverDeploysAndWherever() public {
        uint256 before = vm.snapshotState();
        Deploy.Deployment memory first = script.deploy();
        vm.revertToState(before);
        assertEq(address(first.brokerRegistry).code.length, 0);
        vm.chainId(8453);
        vm.prank(makeAddr("another"));
        Deploy.Deployment memory second = new Deploy().deploy();
        assertEq(address(first.brokerRegistry), address(second.brokerRegistry));
        assertEq(address(first.topicRegistry), address(second.topicRegistry));
        assertEq(address(first.accessMarket), address(second.accessMarket));
        assertEq(address(first.deviceRegistry), address(second.deviceRegistry));
        assertEq(address(first.auditLog), address(second.auditLog));
    }

    function test_SecondDeploymentChangesNothing() public {
        script.deploy();
        vm.startStateDiffRecording();
        script.deploy();
        Vm.AccountAccess[] memory accesses = vm.stopAndReturnStateDiff();
        for (uint256 i = 0; i < accesses.length; ++i) {
            assertTrue(accesses[i].kind != VmSafe.AccountAccessKind.Create, "deployed again");
        }
        assertGt(accesses.length, 0);
    }

    function test_RevertWhen_ChainHasNoFactory() public {
        vm.etch(CREATE2_FACTORY, "");
        vm.expectRevert(abi.encodeWithSelector(Deploy.NoFactory.selector, CREATE2_FACTORY, block.chainid));
        script.deploy();
    }

    function test_DemoLaysOutASite() public {
        Demo demo = new Demo();
        Deploy.Deployment memory deployed = demo.run();
        uint256 brokerId = demo.brokerId();
        bytes32 north = deployed.topicRegistry.topicIdOf(brokerId, "farm/north");
        address reader = vm.addr(vm.deriveKey("test test test test test test test test test test test junk", 3));
        assertTrue(deployed.accessMarket.mayAccess(north, reader, ITopicRegistry.Right.Subscribe));
        assertFalse(deployed.accessMarket.mayAccess(north, reader, ITopicRegistry.Right.Publish));
    }

    function test_RevertWhen_DemoOnARealChain() public {
        Demo demo = new Demo();
        vm.chainId(1);
        vm.expectRevert(abi.encodeWithSelector(Demo.NotADevelopmentChain.selector, 1));
        demo.run();
    }
}
