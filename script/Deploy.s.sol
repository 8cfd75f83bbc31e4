// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {AccessMarket} from "../src-sol/AccessMarket.sol";
import {AuditLog} from "../src-sol/AuditLog.sol";
import {BrokerRegistry} from "../src-sol/BrokerRegistry.sol";
import {DeviceRegistry} from "../src-sol/DeviceRegistry.sol";
import {Script} from "forge-std/Script.sol";
import {VmSafe} from "forge-std/Vm.sol";

/// @title Deploys the four contracts and writes down where they are.
/// @dev `forge script script/Deploy.s.sol --rpc-url URL --broadcast --private-key KEY` (or `--unlocked --sender ADDRESS`, or a keystore).
/// Writes `deployments/<chain id>.json`, or the file that the environment variable DEPLOYMENT_FILE names, only when broadcasting.
/// The addresses are known, and written, before the transactions are mined: where broadcasting fails, deploy again.
contract Deploy is Script {
    struct Deployment {
        uint256 chainId;
        uint256 fromBlock;
        BrokerRegistry brokerRegistry;
        AccessMarket topicRegistry;
        DeviceRegistry deviceRegistry;
        AuditLog auditLog;
    }

    function run() external returns (Deployment memory deployed) {
        vm.startBroadcast();
        deployed = deploy();
        vm.stopBroadcast();
        if (vm.isContext(VmSafe.ForgeContext.ScriptBroadcast)) {
            string memory standard =
                string.concat(vm.projectRoot(), "/deployments/", vm.toString(deployed.chainId), ".json");
            vm.writeFile(vm.envOr("DEPLOYMENT_FILE", standard), render(deployed));
        }
    }

    /// @dev The head at this moment lies before the first event, so reading from it misses none.
    function deploy() public returns (Deployment memory deployed) {
        deployed.chainId = block.chainid;
        deployed.fromBlock = vm.getBlockNumber();
        deployed.brokerRegistry = new BrokerRegistry();
        deployed.topicRegistry = new AccessMarket(deployed.brokerRegistry);
        deployed.deviceRegistry = new DeviceRegistry();
        deployed.auditLog = new AuditLog(deployed.brokerRegistry);
    }

    function render(Deployment memory deployed) public pure returns (string memory) {
        return string.concat(
            string.concat('{"chainId":', vm.toString(deployed.chainId)),
            string.concat(',"block":', vm.toString(deployed.fromBlock)),
            string.concat(',"brokerRegistry":"', vm.toString(address(deployed.brokerRegistry))),
            string.concat('","topicRegistry":"', vm.toString(address(deployed.topicRegistry))),
            string.concat('","deviceRegistry":"', vm.toString(address(deployed.deviceRegistry))),
            string.concat('","auditLog":"', vm.toString(address(deployed.auditLog))),
            '"}\n'
        );
    }
}
