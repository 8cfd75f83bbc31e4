// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";
import {Fixture} from "./Fixture.sol";

contract CountriesTest is Fixture {
    ITopicRegistry.CountryMode private constant ANY = ITopicRegistry.CountryMode.Any;
    ITopicRegistry.CountryMode private constant ONLY = ITopicRegistry.CountryMode.Only;
    ITopicRegistry.CountryMode private constant EXCEPT = ITopicRegistry.CountryMode.Except;

    function set(ITopicRegistry.CountryMode mode, bytes2[] memory codes) private {
        vm.prank(topicOwner);
        topics.setCountries(topicId, mode, codes);
    }

    function refuse(bytes memory refusal, ITopicRegistry.CountryMode mode, bytes2[] memory codes) private {
        vm.expectRevert(refusal);
        set(mode, codes);
    }

    function refuseCode(uint256 index, bytes2 code, bytes2[] memory codes) private {
        bytes memory refusal = abi.encodeWithSelector(ITopicRegistry.InvalidCountry.selector, index, code);
        refuse(refusal, ONLY, codes);
        refuse(refusal, EXCEPT, codes);
    }

    function refuseCount(ITopicRegistry.CountryMode mode, bytes2[] memory codes) private {
        refuse(
            abi.encodeWithSelector(ITopicRegistry.InvalidCountryCount.selector, mode, codes.length, 256), mode, codes
        );
    }

    function assertRule(bytes32 id, ITopicRegistry.CountryMode mode, bytes2[] memory codes) private view {
        (ITopicRegistry.CountryMode keptMode, bytes2[] memory kept) = topics.countriesOf(id);
        assertEq(uint8(keptMode), uint8(mode));
        assertEq(abi.encode(kept), abi.encode(codes));
    }

    /// @dev As many codes as text has pairs of letters.
    function codesOf(string memory letters) private pure returns (bytes2[] memory codes) {
        bytes memory octets = bytes(letters);
        codes = new bytes2[](octets.length / 2);
        for (uint256 i = 0; i < codes.length; ++i) {
            codes[i] = bytes2(abi.encodePacked(octets[2 * i], octets[2 * i + 1]));
        }
    }

    /// @dev The first so many of the codes there could be, ascending: AA, AB and so on.
    function first(uint256 count) private pure returns (bytes2[] memory codes) {
        codes = new bytes2[](count);
        for (uint256 i = 0; i < count; ++i) {
            codes[i] = bytes2(uint16((65 + i / 26) << 8 | (65 + i % 26)));
        }
    }

    function one(bytes2 code) private pure returns (bytes2[] memory codes) {
        codes = new bytes2[](1);
        codes[0] = code;
    }

    function none() private pure returns (bytes2[] memory) {
        return new bytes2[](0);
    }

    // setCountries

    function test_SetCountries() public {
        assertRule(topicId, ANY, none());
        bytes2[] memory codes = codesOf("ATDEFR");
        vm.expectEmit(address(topics));
        emit ITopicRegistry.CountriesSet(brokerId, topicId, ONLY, codes);
        set(ONLY, codes);
        assertRule(topicId, ONLY, codes);
    }

    function test_CountriesAreReplaced() public {
        set(ONLY, codesOf("ATDEFR"));
        set(EXCEPT, codesOf("ATDEFR"));
        assertRule(topicId, EXCEPT, codesOf("ATDEFR"));
        set(EXCEPT, codesOf("US"));
        assertRule(topicId, EXCEPT, codesOf("US"));
        set(ONLY, first(100));
        assertRule(topicId, ONLY, first(100));
        set(ONLY, codesOf("ATDE"));
        assertRule(topicId, ONLY, codesOf("ATDE"));
        set(ANY, none());
        assertRule(topicId, ANY, none());
        set(ONLY, codesOf("CH"));
        assertRule(topicId, ONLY, codesOf("CH"));
    }

    function test_ManagerSetsCountries() public {
        vm.prank(manager);
        topics.setCountries(topicId, EXCEPT, codesOf("US"));
        assertRule(topicId, EXCEPT, codesOf("US"));
    }

    function test_RevertWhen_StrangerSetsCountries() public {
        bytes2[] memory codes = codesOf("US");
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.NotTopicOwnerOrManager.selector, topicId, stranger));
        vm.prank(stranger);
        topics.setCountries(topicId, EXCEPT, codes);
        vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.UnknownTopic.selector, bytes32("none")));
        vm.prank(topicOwner);
        topics.setCountries("none", EXCEPT, codes);
    }

    function test_RevertWhen_CountriesTheSame() public {
        bytes memory refusal = abi.encodeWithSelector(ITopicRegistry.NothingToChange.selector);
        refuse(refusal, ANY, none());
        set(ONLY, codesOf("ATDE"));
        refuse(refusal, ONLY, codesOf("ATDE"));
        set(EXCEPT, codesOf("ATDE"));
        refuse(refusal, EXCEPT, codesOf("ATDE"));
        set(ANY, none());
        refuse(refusal, ANY, none());
    }

    // The codes

    function test_RevertWhen_CodesAreNotAscending() public {
        refuseCode(1, "AT", codesOf("DEAT"));
        refuseCode(2, "FI", codesOf("ATFRFIUS"));
        refuseCode(1, "AT", codesOf("ATAT"));
        refuseCode(3, "DE", codesOf("ATCHDEDE"));
    }

    function test_RevertWhen_CodeIsNoCountry() public {
        refuseCode(0, "de", codesOf("de"));
        refuseCode(0, "De", codesOf("De"));
        refuseCode(0, "dE", codesOf("dE"));
        refuseCode(0, "D1", codesOf("D1"));
        refuseCode(0, "1D", codesOf("1D"));
        refuseCode(0, "D ", codesOf("D "));
        refuseCode(0, "A@", codesOf("A@"));
        refuseCode(0, "@A", codesOf("@A"));
        refuseCode(0, "A[", codesOf("A["));
        refuseCode(0, "[A", codesOf("[A"));
        refuseCode(0, "ZZ", codesOf("ZZ"));
        refuseCode(1, "ZZ", codesOf("ZYZZ"));
        refuseCode(0, 0x0000, one(0x0000));
        refuseCode(0, 0xffff, one(0xffff));
        refuseCode(0, 0x4100, one(0x4100));
        refuseCode(1, "fr", codesOf("ATfr"));
        set(ONLY, codesOf("AAAZZAZY"));
    }

    /// @dev Of all the 65,536 there could be, exactly two letters A to Z will do, but for ZZ.
    function test_EveryCode() public {
        uint256 countries;
        bytes2[] memory codes = new bytes2[](1);
        vm.startPrank(topicOwner);
        // Every octet in each place, beside one that is good.
        for (uint256 octet = 0; octet < 256; ++octet) {
            for (uint256 place = 0; place < 2; ++place) {
                codes[0] = bytes2(uint16(place == 0 ? octet << 8 | 0x42 : 0x4200 | octet));
                bool good = octet >= 0x41 && octet <= 0x5a;
                if (good) ++countries;
                else vm.expectRevert(abi.encodeWithSelector(ITopicRegistry.InvalidCountry.selector, 0, codes[0]));
                topics.setCountries(topicId, place == 0 ? ONLY : EXCEPT, codes);
            }
        }
        assertEq(countries, 52);
    }

    function test_RevertWhen_ModeAndCountDisagree() public {
        refuseCount(ANY, codesOf("AT"));
        refuseCount(ANY, codesOf("ATDE"));
        refuseCount(ONLY, none());
        refuseCount(EXCEPT, none());
    }

    function test_256Countries() public {
        set(ONLY, first(256));
        assertRule(topicId, ONLY, first(256));
        refuseCount(ONLY, first(257));
        refuseCount(EXCEPT, first(257));
        refuseCount(ANY, first(257));
    }

    function testFuzz_CountriesRoundTrip(uint256 which, bool only) public {
        bytes2[] memory all = first(256);
        uint256 count;
        for (uint256 i = 0; i < 256; ++i) {
            count += (which >> i) & 1;
        }
        vm.assume(count > 0);
        bytes2[] memory codes = new bytes2[](count);
        count = 0;
        for (uint256 i = 0; i < 256; ++i) {
            if ((which >> i) & 1 == 1) codes[count++] = all[i];
        }
        set(EXCEPT, all);
        set(only ? ONLY : EXCEPT, count == 256 && !only ? codesOf("ZA") : codes);
        if (count < 256 || only) assertRule(topicId, only ? ONLY : EXCEPT, codes);
    }

    // Their life

    function test_CountriesDieWithTheEpoch() public {
        set(ONLY, codesOf("ATDE"));
        vm.prank(topicOwner);
        topics.deleteTopic(topicId);
        assertRule(topicId, ANY, none());
        register(stranger, NAME);
        assertRule(topicId, ANY, none());
        vm.prank(stranger);
        topics.setCountries(topicId, EXCEPT, codesOf("US"));
        assertRule(topicId, EXCEPT, codesOf("US"));
    }

    function test_CountriesOutliveATransfer() public {
        set(ONLY, codesOf("ATDE"));
        vm.prank(topicOwner);
        topics.offerTopicOwnership(topicId, stranger);
        vm.prank(stranger);
        topics.acceptTopicOwnership(topicId);
        assertRule(topicId, ONLY, codesOf("ATDE"));
    }

    function test_CountriesOfOneTopicOnly() public {
        bytes32 below = register(topicOwner, string.concat(NAME, "/raw"));
        set(ONLY, codesOf("ATDE"));
        assertRule(below, ANY, none());
        vm.prank(topicOwner);
        bytes32 hidden = topics.registerHiddenTopic(topicId, "commitment", noTraits(), closed(), closed());
        vm.prank(topicOwner);
        topics.setCountries(hidden, EXCEPT, codesOf("US"));
        assertRule(hidden, EXCEPT, codesOf("US"));
        assertRule(topicId, ONLY, codesOf("ATDE"));
    }

    /// @dev Where a client is is for the gateways to know; the chain sells and grants to whoever.
    function test_CountriesStopNoSale() public {
        set(ONLY, codesOf("AT"));
        buy(1);
        assertTrue(market.mayAccess(topicId, buyer, SUBSCRIBE));
    }
}
