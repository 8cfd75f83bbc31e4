// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {AccessMarket} from "../src-sol/AccessMarket.sol";
import {IAccessMarket} from "../src-sol/interfaces/IAccessMarket.sol";
import {ITopicRegistry} from "../src-sol/interfaces/ITopicRegistry.sol";

/// @title Contracts that own topics and brokers, and take money badly or worse.
abstract contract Payee {
    function withdrawFrom(AccessMarket market, address to) external returns (uint256) {
        return market.withdraw(to);
    }
}

/// @notice Refuses every payment.
contract RefusingPayee is Payee {
    error Refused();

    receive() external payable {
        revert Refused();
    }
}

/// @notice Uses up whatever gas it gets.
contract BurningPayee is Payee {
    receive() external payable {
        assembly {
            invalid()
        }
    }
}

/// @notice Answers with as much as its gas buys, and fails while it does.
contract BombPayee is Payee {
    receive() external payable {
        assembly {
            revert(0, 1000000)
        }
    }
}

/// @notice Takes the money and answers with as many octets as the bounded gas allows.
contract ChattyPayee is Payee {
    receive() external payable {
        assembly {
            return(0, 100000)
        }
    }
}

/// @notice Like a Safe behind a proxy with a guard: takes the money and spends about 40,000 gas on it.
contract ThoroughPayee is Payee {
    uint256 private _received;
    uint256 private _times;

    receive() external payable {
        // Two fresh slots are 44,200 gas.
        _received += msg.value;
        if (_times == 0) _times = 1;
    }
}

/// @notice Comes back into the market with everything it can think of while it is being paid.
contract ReentrantPayee is Payee {
    AccessMarket private immutable _market;
    bytes32 public topicId;
    /// @dev One bit for each attempt that succeeded: withdraw, buy, grant, revoke, then setOffer, which may.
    uint256 public succeeded;
    uint256 public seenCredit;

    constructor(AccessMarket market) {
        _market = market;
    }

    function aim(bytes32 id) external {
        topicId = id;
    }

    receive() external payable {
        seenCredit = _market.creditOf(address(this));
        IAccessMarket.Order memory wanted = IAccessMarket.Order({
            topicId: topicId,
            right: ITopicRegistry.Right.Subscribe,
            wallet: address(this),
            periods: 1,
            period: 1 days,
            epoch: 1,
            maxPriceWei: type(uint256).max,
            purpose: 0,
            note: ""
        });
        _try(0, abi.encodeCall(IAccessMarket.withdraw, (address(this))), 0);
        _try(1, abi.encodeCall(IAccessMarket.buy, (wanted)), msg.value);
        _try(
            2,
            abi.encodeCall(
                IAccessMarket.grant,
                (topicId, address(this), ITopicRegistry.Right.Subscribe, uint64(block.timestamp + 1), 0, "")
            ),
            0
        );
        _try(
            3, abi.encodeCall(IAccessMarket.revoke, (topicId, address(this), ITopicRegistry.Right.Subscribe, 0, "")), 0
        );
    }

    function _try(uint256 bit, bytes memory data, uint256 value) private {
        (bool success,) = address(_market).call{value: value}(data);
        if (success) succeeded |= 1 << bit;
    }
}
