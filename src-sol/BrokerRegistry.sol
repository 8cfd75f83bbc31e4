// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

import {IBrokerRegistry} from "./interfaces/IBrokerRegistry.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";

/// @title The one registry of brokers on a chain.
contract BrokerRegistry is IBrokerRegistry {
    using SafeCast for uint256;

    /// @notice Longest name of a broker in octets.
    uint256 public constant MAX_NAME = 64;
    /// @notice Longest URI or reason in octets.
    uint256 public constant MAX_TEXT = 256;
    /// @notice Highest publish fee in wei per day.
    uint96 public constant MAX_PUBLISH_FEE = 1 ether;
    /// @notice Highest sale fee in basis points.
    uint96 public constant MAX_SALE_FEE = 2500;
    /// @notice Seconds between the announcement of a higher fee and its beginning.
    uint256 public constant FEE_NOTICE = 1 days;
    /// @notice Longest ban by a gateway in seconds: what a stolen gateway key can do ends by itself.
    uint256 public constant MAX_GATEWAY_BAN = 30 days;
    /// @notice Longest ban by a broker owner in seconds.
    uint256 public constant MAX_BAN = 36_500 days;

    /// @dev What a sale reads is in the first slot. The sale fee, in basis points, changes from `saleFee` to `nextSaleFee` at `saleFeeFrom`.
    struct Broker {
        address owner;
        NamingPolicy policy;
        uint16 saleFee;
        uint16 nextSaleFee;
        uint48 saleFeeFrom;
        uint96 publishFee;
        uint96 nextPublishFee;
        uint64 publishFeeFrom;
        address candidate;
    }

    struct BanState {
        uint64 until;
        bool byOwner;
    }

    /// @inheritdoc IBrokerRegistry
    uint256 public brokerCount;

    mapping(uint256 brokerId => Broker) private _brokers;
    mapping(uint256 brokerId => mapping(address wallet => bool)) private _registrars;
    mapping(uint256 brokerId => mapping(address wallet => bool)) private _gateways;
    mapping(uint256 brokerId => mapping(BanKind kind => mapping(bytes32 subject => BanState))) private _bans;

    modifier onlyOwner(uint256 brokerId) {
        _checkOwner(brokerId);
        _;
    }

    /// @inheritdoc IBrokerRegistry
    function createBroker(NamingPolicy policy, string calldata name) external returns (uint256 brokerId) {
        if (bytes(name).length == 0) revert NameEmpty();
        _checkText(name, MAX_NAME);
        brokerId = ++brokerCount;
        Broker storage broker = _brokers[brokerId];
        broker.owner = msg.sender;
        broker.policy = policy;
        emit BrokerCreated(brokerId, msg.sender, policy, name);
    }

    /// @inheritdoc IBrokerRegistry
    function offerBrokerOwnership(uint256 brokerId, address candidate) external onlyOwner(brokerId) {
        Broker storage broker = _brokers[brokerId];
        if (candidate == broker.candidate || candidate == msg.sender) revert NothingToChange();
        broker.candidate = candidate;
        emit BrokerOwnershipOffered(brokerId, msg.sender, candidate);
    }

    /// @inheritdoc IBrokerRegistry
    function acceptBrokerOwnership(uint256 brokerId) external {
        Broker storage broker = _brokers[brokerId];
        address previousOwner = broker.owner;
        if (previousOwner == address(0)) revert UnknownBroker(brokerId);
        address candidate = broker.candidate;
        if (candidate == address(0) || candidate != msg.sender) {
            revert NotOwnershipCandidate(brokerId, msg.sender, candidate);
        }
        broker.owner = msg.sender;
        broker.candidate = address(0);
        emit BrokerOwnershipTransferred(brokerId, previousOwner, msg.sender);
    }

    /// @inheritdoc IBrokerRegistry
    function setNamingPolicy(uint256 brokerId, NamingPolicy policy) external onlyOwner(brokerId) {
        if (_brokers[brokerId].policy == policy) revert NothingToChange();
        _brokers[brokerId].policy = policy;
        emit NamingPolicySet(brokerId, policy);
    }

    /// @inheritdoc IBrokerRegistry
    function setRegistrar(uint256 brokerId, address registrar, bool allowed) external onlyOwner(brokerId) {
        if (registrar == address(0)) revert ZeroAddress();
        if (_registrars[brokerId][registrar] == allowed) revert NothingToChange();
        _registrars[brokerId][registrar] = allowed;
        emit RegistrarSet(brokerId, registrar, allowed);
    }

    /// @inheritdoc IBrokerRegistry
    function setGateway(uint256 brokerId, address gateway, string calldata uri) external onlyOwner(brokerId) {
        if (gateway == address(0)) revert ZeroAddress();
        _checkText(uri, MAX_TEXT);
        _gateways[brokerId][gateway] = true;
        emit GatewaySet(brokerId, gateway, uri);
    }

    /// @inheritdoc IBrokerRegistry
    function removeGateway(uint256 brokerId, address gateway) external onlyOwner(brokerId) {
        if (!_gateways[brokerId][gateway]) revert NothingToChange();
        _gateways[brokerId][gateway] = false;
        emit GatewayRemoved(brokerId, gateway);
    }

    /// @inheritdoc IBrokerRegistry
    function setPublishFee(uint256 brokerId, uint96 weiPerDay) external onlyOwner(brokerId) {
        if (weiPerDay > MAX_PUBLISH_FEE) revert FeeTooHigh(weiPerDay, MAX_PUBLISH_FEE);
        Broker storage broker = _brokers[brokerId];
        uint96 current = publishFee(brokerId);
        uint64 from = _effectiveFrom(current, broker.nextPublishFee, weiPerDay);
        broker.publishFee = weiPerDay > current ? current : weiPerDay;
        broker.nextPublishFee = weiPerDay;
        broker.publishFeeFrom = from;
        emit PublishFeeSet(brokerId, weiPerDay, from);
    }

    /// @inheritdoc IBrokerRegistry
    function setSaleFee(uint256 brokerId, uint96 basisPoints) external onlyOwner(brokerId) {
        if (basisPoints > MAX_SALE_FEE) revert FeeTooHigh(basisPoints, MAX_SALE_FEE);
        Broker storage broker = _brokers[brokerId];
        uint96 current = _saleFee(broker);
        uint64 from = _effectiveFrom(current, broker.nextSaleFee, basisPoints);
        broker.saleFee = uint256(basisPoints > current ? current : basisPoints).toUint16();
        broker.nextSaleFee = uint256(basisPoints).toUint16();
        broker.saleFeeFrom = uint256(from).toUint48();
        emit SaleFeeSet(brokerId, basisPoints, from);
    }

    /// @inheritdoc IBrokerRegistry
    function ban(uint256 brokerId, Ban[] calldata bans) external {
        address owner = _brokers[brokerId].owner;
        bool byOwner = _checkOwnerOrGateway(brokerId, owner);
        uint256 latest = block.timestamp + (byOwner ? MAX_BAN : MAX_GATEWAY_BAN);
        if (bans.length == 0) revert NothingToChange();
        for (uint256 i = 0; i < bans.length; ++i) {
            Ban calldata entry = bans[i];
            if (entry.until <= block.timestamp) revert EndNotInFuture(entry.until, block.timestamp);
            if (entry.until > latest) revert BanTooLong(entry.until, latest);
            _checkText(entry.reason, MAX_TEXT);
            _checkSubject(entry.kind, entry.subject);
            // Who is meant, not how much.
            // slither-disable-next-line incorrect-equality
            if (entry.kind == BanKind.Wallet && entry.subject == _subjectOf(owner)) {
                revert CannotBanOwner(brokerId, owner);
            }

            BanState storage state = _bans[brokerId][entry.kind][entry.subject];
            if (!byOwner && state.byOwner && block.timestamp < state.until) {
                revert BannedByOwner(entry.kind, entry.subject, state.until);
            }
            state.until = entry.until;
            state.byOwner = byOwner;

            if (entry.kind == BanKind.Wallet) {
                emit WalletBanned(
                    brokerId, _walletOf(entry.subject), msg.sender, entry.until, entry.evidence, entry.reason
                );
            } else {
                emit OriginBanned(brokerId, entry.subject, msg.sender, entry.until, entry.evidence, entry.reason);
            }
        }
    }

    /// @inheritdoc IBrokerRegistry
    function unban(uint256 brokerId, BanKind kind, bytes32 subject) external {
        bool byOwner = _checkOwnerOrGateway(brokerId, _brokers[brokerId].owner);
        BanState storage state = _bans[brokerId][kind][subject];
        uint64 until = state.until;
        if (until <= block.timestamp) revert NotBanned(kind, subject);
        if (!byOwner && state.byOwner) revert BannedByOwner(kind, subject, until);

        // Now rather than zero: zero reads as "never banned".
        state.until = block.timestamp.toUint64();
        if (kind == BanKind.Wallet) {
            emit WalletUnbanned(brokerId, _walletOf(subject), msg.sender);
        } else {
            emit OriginUnbanned(brokerId, subject, msg.sender);
        }
    }

    /// @inheritdoc IBrokerRegistry
    function brokerOwner(uint256 brokerId) external view returns (address) {
        return _brokers[brokerId].owner;
    }

    /// @inheritdoc IBrokerRegistry
    function brokerCandidate(uint256 brokerId) external view returns (address) {
        return _brokers[brokerId].candidate;
    }

    /// @inheritdoc IBrokerRegistry
    function namingPolicy(uint256 brokerId) external view returns (NamingPolicy) {
        return _brokers[brokerId].policy;
    }

    /// @inheritdoc IBrokerRegistry
    function isRegistrar(uint256 brokerId, address wallet) external view returns (bool) {
        if (wallet == address(0)) return false;
        return _registrars[brokerId][wallet] || _brokers[brokerId].owner == wallet;
    }

    /// @inheritdoc IBrokerRegistry
    function isGateway(uint256 brokerId, address wallet) external view returns (bool) {
        return _gateways[brokerId][wallet];
    }

    /// @inheritdoc IBrokerRegistry
    function saleFee(uint256 brokerId) external view returns (uint96 basisPoints) {
        return _saleFee(_brokers[brokerId]);
    }

    /// @inheritdoc IBrokerRegistry
    function saleTerms(uint256 brokerId, address wallet)
        external
        view
        returns (address owner, uint96 basisPoints, uint64 walletBannedUntil)
    {
        Broker storage broker = _brokers[brokerId];
        return (broker.owner, _saleFee(broker), bannedUntil(brokerId, BanKind.Wallet, _subjectOf(wallet)));
    }

    /// @inheritdoc IBrokerRegistry
    function publishFee(uint256 brokerId) public view returns (uint96 weiPerDay) {
        Broker storage broker = _brokers[brokerId];
        return block.timestamp < broker.publishFeeFrom ? broker.publishFee : broker.nextPublishFee;
    }

    /// @inheritdoc IBrokerRegistry
    function bannedUntil(uint256 brokerId, BanKind kind, bytes32 subject) public view returns (uint64 until) {
        return _bans[brokerId][kind][subject].until;
    }

    function _saleFee(Broker storage broker) private view returns (uint96) {
        return block.timestamp < broker.saleFeeFrom ? broker.saleFee : broker.nextSaleFee;
    }

    /// @dev From when a newly set fee counts. What is in force stays in force until then; a rise that was still to come is forgotten.
    function _effectiveFrom(uint96 current, uint96 announced, uint96 wanted) private view returns (uint64) {
        if (wanted == current && wanted == announced) revert NothingToChange();
        return (wanted > current ? block.timestamp + FEE_NOTICE : block.timestamp).toUint64();
    }

    function _checkOwner(uint256 brokerId) private view {
        address owner = _brokers[brokerId].owner;
        if (owner == address(0)) revert UnknownBroker(brokerId);
        if (owner != msg.sender) revert NotBrokerOwner(brokerId, msg.sender);
    }

    /// @return byOwner Is the caller the owner, which goes before being a gateway?
    function _checkOwnerOrGateway(uint256 brokerId, address owner) private view returns (bool byOwner) {
        if (owner == address(0)) revert UnknownBroker(brokerId);
        byOwner = owner == msg.sender;
        if (!byOwner && !_gateways[brokerId][msg.sender]) revert NotBrokerOwnerOrGateway(brokerId, msg.sender);
    }

    function _checkSubject(BanKind kind, bytes32 subject) private pure {
        bool isWallet = uint256(subject) <= type(uint160).max;
        if (subject == 0 || (kind == BanKind.Wallet && !isWallet)) revert InvalidBanSubject(kind, subject);
    }

    function _checkText(string calldata text, uint256 most) private pure {
        if (bytes(text).length > most) revert TextTooLong(bytes(text).length, most);
    }

    function _walletOf(bytes32 subject) private pure returns (address) {
        // forge-lint: disable-next-line(unsafe-typecast): {_checkSubject} let in only what fits
        return address(uint160(uint256(subject)));
    }

    function _subjectOf(address wallet) private pure returns (bytes32) {
        return bytes32(uint256(uint160(wallet)));
    }
}
