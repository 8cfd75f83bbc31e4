//! The rows of groups A to D that are not attacks of this program, each with the reason and where it is shown.

pub(crate) const ROWS: &[(&str, &str)] = &[
    ("A22", "a node that is away at the start: gateway/tests/end_to_end/faults.rs"),
    (
        "A29",
        "contract wallets that lie or loop need contracts compiled for it: gateway/tests/end_to_end/contract_wallets.rs",
    ),
    (
        "A30",
        "an account that gains code (EIP-7702): gateway/tests/end_to_end/contract_wallets.rs has ECDSA first; the node of this site makes no such transaction",
    ),
    (
        "A33",
        "TLS towards the broker is a matter of start and configuration: gateway/tests/end_to_end/transports.rs",
    ),
    (
        "A36",
        "X-Forwarded-For needs a WebSocket listener with listed peers: gateway/tests/end_to_end/proxy_protocol.rs",
    ),
    (
        "B23",
        "what a revoked author has retained stays until the owner clears it: documented, nothing to attack",
    ),
    ("B33", "no fee lapses here: the publish fee is paid with the grant"),
    (
        "B48",
        "no attack but a comparison with the broker: gateway/tests/end_to_end/direct_vs_gateway.rs",
    ),
    ("C01", "the broker makers' own sequences as an oracle: gateway/mqtt/tests and the vectors"),
    (
        "C18",
        "every reason code of a broker needs one that gives them: gateway/tests/end_to_end/packets.rs",
    ),
    ("C25", "no attack but a comparison: gateway/tests/end_to_end/direct_vs_gateway.rs"),
    ("C26", "no attack but a comparison: gateway/tests/end_to_end/direct_vs_gateway.rs"),
    (
        "C29",
        "a broker that misbehaves is not before a plain broker: gateway/tests/end_to_end/brokers.rs",
    ),
    ("C31", "frames of WebSocket: gateway/tests/end_to_end/websocket.rs"),
    ("C33", "ten million frames and more: the fuzz targets"),
    (
        "D10",
        "2,000 clients at once after a restart: needs minutes on two cores; later with `make eval`",
    ),
    ("D16", "the base fee of a chain: gateway/chain/tests/node/submit.rs"),
    ("D22", "costs of a look-up: make bench-mirror"),
];
