// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {AccessMarket} from "../src-sol/AccessMarket.sol";
import {AuditLog} from "../src-sol/AuditLog.sol";
import {BrokerRegistry} from "../src-sol/BrokerRegistry.sol";
import {DeviceRegistry} from "../src-sol/DeviceRegistry.sol";
import {TopicRegistry} from "../src-sol/TopicRegistry.sol";
import {Script} from "forge-std/Script.sol";
import {VmSafe} from "forge-std/Vm.sol";

/// @title Deploys the contracts, as far as they are missing, and writes down where they are.
/// @dev `make deploy RPC=URL ...`. The addresses follow from the code alone, so they are the same on every chain and whoever deploys;
/// a second run finds everything there and sends nothing. Writes `deployments/<chain id>.json`, or the file that the environment
/// variable DEPLOYMENT_FILE names, only when broadcasting. The addresses are known, and written, before the transactions are mined:
/// where broadcasting fails, deploy again.
contract Deploy is Script {
    /// @notice Changes with every version whose contracts should stand beside those of the one before.
    bytes32 public constant SALT = keccak256("FlyTrap 1");

    struct Deployment {
        uint256 chainId;
        uint256 fromBlock;
        BrokerRegistry brokerRegistry;
        TopicRegistry topicRegistry;
        AccessMarket accessMarket;
        DeviceRegistry deviceRegistry;
        AuditLog auditLog;
    }

    error NoFactory(address factory, uint256 chainId);
    error NotDeployed(address wanted);

    function run() external virtual returns (Deployment memory deployed) {
        vm.startBroadcast();
        deployed = deploy();
        vm.stopBroadcast();
        if (vm.isContext(VmSafe.ForgeContext.ScriptBroadcast)) {
            string memory standard =
                string.concat(vm.projectRoot(), "/deployments/", vm.toString(deployed.chainId), ".json");
            vm.writeFile(vm.envOr("DEPLOYMENT_FILE", standard), render(deployed));
        }
    }

    function deploy() public returns (Deployment memory deployed) {
        if (CREATE2_FACTORY.code.length == 0) revert NoFactory(CREATE2_FACTORY, block.chainid);
        deployed.chainId = block.chainid;
        bool isNew;
        address at;
        (at, isNew) = put(type(BrokerRegistry).creationCode);
        deployed.brokerRegistry = BrokerRegistry(at);
        // The head at this moment lies before the first event, so reading from it misses none.
        deployed.fromBlock = isNew ? vm.getBlockNumber() : firstBlockOf(at);
        bytes memory registry = abi.encode(at);
        (at,) = put(abi.encodePacked(type(AccessMarket).creationCode, registry));
        deployed.accessMarket = AccessMarket(at);
        deployed.topicRegistry = TopicRegistry(address(deployed.accessMarket.topicRegistry()));
        (at,) = put(type(DeviceRegistry).creationCode);
        deployed.deviceRegistry = DeviceRegistry(at);
        (at,) = put(abi.encodePacked(type(AuditLog).creationCode, registry));
        deployed.auditLog = AuditLog(at);
    }

    function render(Deployment memory deployed) public pure returns (string memory) {
        string memory registries = string.concat(
            field("brokerRegistry", address(deployed.brokerRegistry)),
            field("topicRegistry", address(deployed.topicRegistry)),
            field("accessMarket", address(deployed.accessMarket)),
            field("deviceRegistry", address(deployed.deviceRegistry)),
            field("auditLog", address(deployed.auditLog))
        );
        string memory chainId = vm.toString(deployed.chainId);
        return string.concat('{"chainId":', chainId, ',"block":', vm.toString(deployed.fromBlock), registries, "}\n");
    }

    function field(string memory name, address value) private pure returns (string memory) {
        return string.concat(',"', name, '":"', vm.toString(value), '"');
    }

    /// @dev Where the code is or now comes to be.
    function put(bytes memory creation) private returns (address at, bool isNew) {
        at = vm.computeCreate2Address(SALT, keccak256(creation), CREATE2_FACTORY);
        if (at.code.length > 0) return (at, false);
        (bool success,) = CREATE2_FACTORY.call(abi.encodePacked(SALT, creation));
        if (!success || at.code.length == 0) revert NotDeployed(at);
        return (at, true);
    }

    /// @dev The block before the one that brought the code, found by halving; 0, from which reading misses nothing either, if the node has
    /// not kept what that takes.
    function firstBlockOf(address at) private returns (uint256 before) {
        uint256 there = vm.getBlockNumber();
        while (there - before > 1) {
            uint256 middle = (before + there) / 2;
            string memory number = vm.replace(vm.toString(bytes32(middle)), "0x", "");
            string memory question = string.concat('["', vm.toString(at), '","0x', trimmed(number), '"]');
            try vm.rpc("eth_getCode", question) returns (bytes memory code) {
                if (code.length > 0) there = middle;
                else before = middle;
            } catch {
                return 0;
            }
        }
    }

    /// @dev JSON-RPC takes no leading zeroes.
    function trimmed(string memory digits) private pure returns (string memory) {
        bytes memory all = bytes(digits);
        uint256 start = 0;
        while (start + 1 < all.length && all[start] == "0") ++start;
        bytes memory rest = new bytes(all.length - start);
        for (uint256 i = 0; i < rest.length; ++i) {
            rest[i] = all[start + i];
        }
        return string(rest);
    }
}
