// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {TopicRegistry} from "../../src-sol/TopicRegistry.sol";
import {ITopicRegistry} from "../../src-sol/interfaces/ITopicRegistry.sol";
import {Payee} from "../Payees.sol";

/// @notice Uses being paid to do to its own topic what it may, and to delete it, which it may not while sold time runs.
contract MeddlingPayee is Payee {
    TopicRegistry private immutable _topics;
    bytes32 public topicId;
    bool public hasDeleted;
    uint256 public meddled;

    constructor(TopicRegistry topics) {
        _topics = topics;
    }

    /// @dev Zero makes it lie still.
    function aim(bytes32 id) external {
        topicId = id;
    }

    receive() external payable {
        if (topicId == 0) return;
        try _topics.deleteTopic(topicId) {
            hasDeleted = true;
        } catch {}
        // Outside the market, and so not shut while it pays: it changes what is sold next, never what was.
        ITopicRegistry.Traits memory traits = _topics.traitsOf(topicId);
        traits.retain = !traits.retain;
        try _topics.setTraits(topicId, traits) {
            ++meddled;
        } catch {}
    }
}
