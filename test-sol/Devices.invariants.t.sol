// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {DeviceRegistry} from "../src-sol/DeviceRegistry.sol";
import {Claims} from "./game/Claims.sol";
import {DeviceActs} from "./game/DeviceActs.sol";

contract DevicesInvariants is Claims {
    DeviceRegistry private devices;

    function setUp() public override {
        super.setUp();
        devices = game.devices();
    }

    function suite() internal pure override returns (string memory) {
        return "Devices";
    }

    function acts() internal view override returns (bytes4[] memory selectors) {
        bytes4[12] memory all = [
            game.authorize.selector,
            game.authorize.selector,
            game.authorize.selector,
            game.claim.selector,
            game.revokeDevice.selector,
            game.revokeAnothers.selector,
            game.revokeAll.selector,
            game.replay.selector,
            game.forge.selector,
            game.invalidate.selector,
            game.cancel.selector,
            game.wait.selector
        ];
        selectors = new bytes4[](all.length);
        for (uint256 i = 0; i < all.length; ++i) {
            selectors[i] = all[i];
        }
    }

    function eachDevice(function(address) internal view check) private view {
        for (uint256 d = 0; d < game.deviceCount(); ++d) {
            check(game.deviceKeys(d));
        }
    }

    function invariant_DeviceActsOnlyForTheWalletItConsentedTo() public view {
        eachDevice(checkWallet);
    }

    function checkWallet(address device) private view {
        assertEq(devices.walletOf(device), game.walletOf(device));
    }

    function invariant_DeviceEndsMoveOnlyByItsWallet() public view {
        eachDevice(checkEnd);
    }

    function checkEnd(address device) private view {
        assertEq(devices.deviceUntil(device), game.devicePage(device).until);
    }

    function invariant_KeysOfDeadGenerationsActForNobody() public view {
        eachDevice(checkGeneration);
    }

    function checkGeneration(address device) private view {
        DeviceActs.DevicePage memory page = game.devicePage(device);
        if (page.generation < devices.generationOf(page.wallet)) assertEq(devices.walletOf(device), address(0));
    }

    function invariant_GenerationsNoncesAndTokensOnlyGoForward() public view {
        assertNoRelapse();
        for (uint256 a = 0; a < 3; ++a) {
            address wallet = actors[a];
            assertEq(devices.generationOf(wallet), game.generations(wallet));
            assertEq(devices.nonces(wallet), game.nonces(wallet));
            assertEq(devices.tokensValidFrom(wallet), game.validFrom(wallet));
            assertLe(devices.tokensValidFrom(wallet), block.timestamp);
        }
    }

    function invariant_NobodyUsesAnothersKey() public view {
        assertNoTrespass();
    }

    /// @dev Acts that always returned early would prove nothing: plays a fixed game and counts.
    function test_DevicesGameHasABitOfEverything() public {
        for (uint256 i = 0; i < 10; ++i) {
            play(i, 100);
            invariant_DeviceActsOnlyForTheWalletItConsentedTo();
            invariant_GenerationsNoncesAndTokensOnlyGoForward();
            invariant_NobodyUsesAnothersKey();
        }
        assertDeeds(13, 30);
    }
}
