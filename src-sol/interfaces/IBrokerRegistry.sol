// SPDX-License-Identifier: Apache-2.0 OR MIT
pragma solidity 0.8.30;

/// @title Brokers of the world: who owns one, which gateways stand before it, what it charges, whom it bans.
/// @notice Anyone may create a broker. Its id is the next number, never used again. Times are Unix seconds, amounts wei;
/// every end is half-open: something with an end `until` holds while `now < until`.
interface IBrokerRegistry {
    /// @notice Who may register a topic at the top of the name tree.
    /// `OwnBranch`: registrars anywhere, anyone below the first level that is their own lower-case address.
    /// `Curated`: registrars only. `Open`: whoever comes first.
    enum NamingPolicy {
        OwnBranch,
        Curated,
        Open
    }

    /// @notice What a ban is against. `Wallet`: `subject` is the address, left-padded with zeroes.
    /// `Origin`: `subject` is a pseudonym of a network origin, keyed with a secret of the broker's gateways, never an address.
    enum BanKind {
        Wallet,
        Origin
    }

    /// @notice One ban to record.
    /// @param kind What `subject` is.
    /// @param subject The banned wallet or pseudonym, see {BanKind}.
    /// @param until End of the ban, in the future.
    /// @param evidence Hash of what the gateway keeps as evidence, or zero.
    /// @param reason Public for ever, at most 256 octets, never personal data.
    struct Ban {
        BanKind kind;
        bytes32 subject;
        uint64 until;
        bytes32 evidence;
        string reason;
    }

    event BrokerCreated(uint256 indexed brokerId, address indexed owner, NamingPolicy policy, string name);
    event BrokerOwnershipOffered(uint256 indexed brokerId, address indexed owner, address indexed candidate);
    event BrokerOwnershipTransferred(uint256 indexed brokerId, address indexed previousOwner, address indexed newOwner);
    event NamingPolicySet(uint256 indexed brokerId, NamingPolicy policy);
    event RegistrarSet(uint256 indexed brokerId, address indexed registrar, bool allowed);
    /// @notice `uri` is where clients find the gateway, such as `mqtts://host:8883`.
    event GatewaySet(uint256 indexed brokerId, address indexed gateway, string uri);
    event GatewayRemoved(uint256 indexed brokerId, address indexed gateway);
    /// @notice From `effectiveFrom` on a publish grant costs `weiPerDay` for each day, rounded up to the wei.
    event PublishFeeSet(uint256 indexed brokerId, uint96 weiPerDay, uint64 effectiveFrom);
    /// @notice From `effectiveFrom` on the broker keeps `basisPoints` of each sale, rounded down.
    event SaleFeeSet(uint256 indexed brokerId, uint96 basisPoints, uint64 effectiveFrom);
    event WalletBanned(
        uint256 indexed brokerId,
        address indexed wallet,
        address indexed by,
        uint64 until,
        bytes32 evidence,
        string reason
    );
    event WalletUnbanned(uint256 indexed brokerId, address indexed wallet, address indexed by);
    event OriginBanned(
        uint256 indexed brokerId,
        bytes32 indexed origin,
        address indexed by,
        uint64 until,
        bytes32 evidence,
        string reason
    );
    event OriginUnbanned(uint256 indexed brokerId, bytes32 indexed origin, address indexed by);

    error UnknownBroker(uint256 brokerId);
    error NotBrokerOwner(uint256 brokerId, address caller);
    error NotOwnershipCandidate(uint256 brokerId, address caller, address candidate);
    error NotBrokerOwnerOrGateway(uint256 brokerId, address caller);
    error ZeroAddress();
    error TextTooLong(uint256 octets, uint256 most);
    error NameEmpty();
    error FeeTooHigh(uint256 fee, uint256 most);
    error EndNotInFuture(uint64 until, uint256 blockTime);
    error BanTooLong(uint64 until, uint256 latest);
    error NothingToChange();
    error InvalidBanSubject(BanKind kind, bytes32 subject);
    error NotBanned(BanKind kind, bytes32 subject);
    error CannotBanOwner(uint256 brokerId, address owner);
    /// @notice The broker owner's own ban is in force until `until`; only the broker owner changes or lifts it.
    error BannedByOwner(BanKind kind, bytes32 subject, uint64 until);

    /// @notice Creates a broker owned by the caller.
    /// @param policy Who may register at the top.
    /// @param name For people, 1 to 64 octets; identifies nothing.
    function createBroker(NamingPolicy policy, string calldata name) external returns (uint256 brokerId);

    /// @notice Offers the broker to `candidate`, who becomes owner by {acceptBrokerOwnership}. Zero withdraws the offer.
    function offerBrokerOwnership(uint256 brokerId, address candidate) external;
    function acceptBrokerOwnership(uint256 brokerId) external;

    function setNamingPolicy(uint256 brokerId, NamingPolicy policy) external;
    function setRegistrar(uint256 brokerId, address registrar, bool allowed) external;
    /// @param uri Where clients find it, at most 256 octets. Setting again changes the URI.
    function setGateway(uint256 brokerId, address gateway, string calldata uri) external;
    /// @notice One transaction switches a gateway's key off.
    function removeGateway(uint256 brokerId, address gateway) external;

    /// @notice A rise takes effect a day later, a cut at once. At most {MAX_PUBLISH_FEE} wei per day.
    function setPublishFee(uint256 brokerId, uint96 weiPerDay) external;
    /// @notice A rise takes effect a day later, a cut at once. At most {MAX_SALE_FEE} basis points.
    function setSaleFee(uint256 brokerId, uint96 basisPoints) external;

    /// @notice Records bans, all or none. Caller: broker owner or one of its gateways. A gateway's bans last at most {MAX_GATEWAY_BAN}.
    /// An existing ban is replaced, which may shorten it, and the event says by whom; but a gateway cannot replace a ban that the
    /// broker owner made while it is in force ({BannedByOwner}). The broker owner cannot be banned ({CannotBanOwner}).
    function ban(uint256 brokerId, Ban[] calldata bans) external;
    /// @notice Ends a ban at this block. Caller: broker owner, or a gateway unless the broker owner made the ban.
    function unban(uint256 brokerId, BanKind kind, bytes32 subject) external;

    /// @return How many brokers there are; their ids are 1 to this number.
    function brokerCount() external view returns (uint256);
    /// @return Zero for a broker that does not exist.
    function brokerOwner(uint256 brokerId) external view returns (address);
    /// @return To whom the broker has been offered, zero if to nobody.
    function brokerCandidate(uint256 brokerId) external view returns (address);
    function namingPolicy(uint256 brokerId) external view returns (NamingPolicy);
    /// @notice The broker owner always is one.
    function isRegistrar(uint256 brokerId, address wallet) external view returns (bool);
    function isGateway(uint256 brokerId, address wallet) external view returns (bool);
    /// @return weiPerDay The publish fee in force now.
    function publishFee(uint256 brokerId) external view returns (uint96 weiPerDay);
    /// @return basisPoints The sale fee in force now.
    function saleFee(uint256 brokerId) external view returns (uint96 basisPoints);
    /// @notice All that a sale asks the broker about, in one call.
    /// @return owner Who receives the fees.
    /// @return basisPoints The sale fee in force now.
    /// @return walletBannedUntil End of the wallet's ban, see {bannedUntil}.
    function saleTerms(uint256 brokerId, address wallet)
        external
        view
        returns (address owner, uint96 basisPoints, uint64 walletBannedUntil);
    /// @return until End of the ban, 0 if there never was one; in force while `block.timestamp < until`.
    function bannedUntil(uint256 brokerId, BanKind kind, bytes32 subject) external view returns (uint64 until);
}
