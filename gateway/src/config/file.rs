//! The shape of the configuration file: every key, its type and its default.
//!
//! Only [`super::resolve`] sees these; `docs/configuration.md` explains each key to operators.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use alloy_primitives::Address;
use flytrap_chain::Proof;
use flytrap_policy::{Dialect, Options};
use serde::Deserialize;
use toml::Spanned;
use url::Url;

use super::value::{Addresses, BrokerId, Network, NodeUrl, Span};
use super::{Authentication, DenyAction};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) state_dir: PathBuf,
    pub(super) chain: Chain,
    #[serde(default)]
    pub(super) listener: Vec<Listener>,
    pub(super) broker: Broker,
    pub(super) gateway: Spanned<Gateway>,
    #[serde(default)]
    pub(super) authentication: Authentication,
    #[serde(default)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) rates: Rates,
    #[serde(default)]
    pub(super) conduct: Conduct,
    #[serde(default)]
    pub(super) access: Options,
    #[serde(default)]
    pub(super) countries: Countries,
    #[serde(default)]
    pub(super) audit: Audit,
    #[serde(default)]
    pub(super) health: Health,
    pub(super) api: Option<Api>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Chain {
    pub(super) urls: Spanned<Vec<NodeUrl>>,
    pub(super) deployment: Spanned<PathBuf>,
    pub(super) broker_id: BrokerId,
    #[serde(default)]
    pub(super) confirmations: u64,
    #[serde(default = "Chain::poll")]
    pub(super) poll: Span,
    #[serde(default = "Chain::stale_after")]
    pub(super) stale_after: Spanned<Span>,
    #[serde(default = "Chain::distrust_after")]
    pub(super) distrust_after: Spanned<Span>,
    pub(super) max_head_age: Option<Span>,
    #[serde(default = "Chain::history")]
    pub(super) history: Spanned<usize>,
    #[serde(default = "Chain::quorum")]
    pub(super) quorum: Spanned<usize>,
    #[serde(default)]
    pub(super) proof: Proof,
    #[serde(default)]
    pub(super) prove_history: bool,
    #[serde(default = "Chain::request_timeout")]
    pub(super) request_timeout: Span,
    #[serde(default = "Chain::snapshot_interval")]
    pub(super) snapshot_interval: Span,
}

impl Chain {
    fn poll() -> Span {
        Span(Duration::from_millis(150))
    }
    fn stale_after() -> Spanned<Span> {
        Spanned::new(0..0, Span(Duration::from_secs(60)))
    }
    fn distrust_after() -> Spanned<Span> {
        Spanned::new(0..0, Span(Duration::from_secs(600)))
    }
    fn history() -> Spanned<usize> {
        Spanned::new(0..0, 128)
    }
    fn quorum() -> Spanned<usize> {
        Spanned::new(0..0, 1)
    }
    fn request_timeout() -> Span {
        Span(Duration::from_secs(3))
    }
    fn snapshot_interval() -> Span {
        Span(Duration::from_secs(600))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listener {
    pub(super) name: Spanned<String>,
    pub(super) bind: Spanned<SocketAddr>,
    #[serde(default)]
    pub(super) allow_tokens_without_tls: bool,
    #[serde(default = "Listener::deny_action")]
    pub(super) deny_action: DenyAction,
    pub(super) tls: Option<ListenerTls>,
    pub(super) websocket: Option<WebSocket>,
    #[serde(default = "Listener::proxy_protocol")]
    pub(super) proxy_protocol: Spanned<ProxyProtocol>,
    #[serde(default = "Listener::trusted_peers")]
    pub(super) trusted_peers: Spanned<Vec<Network>>,
}

impl Listener {
    fn deny_action() -> DenyAction {
        DenyAction::Acknowledge
    }
    fn proxy_protocol() -> Spanned<ProxyProtocol> {
        Spanned::new(0..0, ProxyProtocol::Off)
    }
    fn trusted_peers() -> Spanned<Vec<Network>> {
        Spanned::new(0..0, Vec::new())
    }

    /// What is used where the file names no listener: this machine only.
    pub(super) fn loopback() -> Self {
        Self {
            name: Spanned::new(0..0, "mqtt".to_owned()),
            bind: Spanned::new(0..0, SocketAddr::from((Ipv4Addr::LOCALHOST, 1883))),
            allow_tokens_without_tls: false,
            deny_action: Self::deny_action(),
            tls: None,
            websocket: None,
            proxy_protocol: Self::proxy_protocol(),
            trusted_peers: Self::trusted_peers(),
        }
    }
}

/// Whether connections begin with a PROXY header. There is no "optional": whoever reaches the port could then choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ProxyProtocol {
    Off,
    Required,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebSocket {
    #[serde(default = "WebSocket::path")]
    pub(super) path: Spanned<String>,
    #[serde(default)]
    pub(super) allowed_origins: Vec<Spanned<String>>,
}

impl WebSocket {
    fn path() -> Spanned<String> {
        Spanned::new(0..0, "/mqtt".to_owned())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListenerTls {
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
    #[serde(default)]
    pub(super) also: Vec<Identity>,
    pub(super) client_ca: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {
    pub(super) certificate: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Broker {
    /// One or a list, under either name.
    #[serde(alias = "addresses")]
    pub(super) address: Addresses,
    #[serde(default)]
    pub(super) dialect: Dialect,
    pub(super) tls: Option<BrokerTls>,
    #[serde(default)]
    pub(super) credentials: Credentials,
    #[serde(default = "Broker::connect_timeout")]
    pub(super) connect_timeout: Span,
    #[serde(default = "Broker::probe_interval")]
    pub(super) probe_interval: Span,
    #[serde(default)]
    pub(super) send_proxy: bool,
}

impl Broker {
    fn connect_timeout() -> Span {
        Span(Duration::from_secs(5))
    }
    fn probe_interval() -> Span {
        Span(Duration::from_secs(5))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BrokerTls {
    pub(super) server_name: Option<Spanned<String>>,
    pub(super) ca: Option<Spanned<PathBuf>>,
}

/// `"none"`, `"wallet"`, `"client"`, or a table with a fixed user name and password.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Credentials {
    #[default]
    None,
    Wallet,
    Client,
    Fixed(Fixed),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fixed {
    pub(super) user_name: String,
    pub(super) password_file: Spanned<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gateway {
    pub(super) name: Option<Spanned<String>>,
    pub(super) record: Option<Record>,
    pub(super) key_file: Option<Spanned<PathBuf>>,
    pub(super) keystore: Option<Spanned<PathBuf>>,
    pub(super) passphrase_file: Option<Spanned<PathBuf>>,
    pub(super) remote_signer: Option<Spanned<RemoteSigner>>,
    pub(super) aws_kms: Option<Spanned<AwsKms>>,
    pub(super) gcp_kms: Option<Spanned<GcpKms>>,
}

/// A signer that is asked by JSON-RPC.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoteSigner {
    pub(super) url: Spanned<Url>,
    pub(super) address: Address,
    pub(super) ca: Option<Spanned<PathBuf>>,
}

/// A key at AWS KMS.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AwsKms {
    pub(super) key_id: String,
}

/// A key version at Google Cloud KMS.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GcpKms {
    pub(super) project: String,
    pub(super) location: String,
    pub(super) key_ring: String,
    pub(super) key: String,
    pub(super) version: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Record {
    On,
    Off,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub(super) connect_deadline: Span,
    pub(super) connect_max_octets: Spanned<usize>,
    pub(super) max_connections: Spanned<usize>,
    pub(super) max_connections_per_origin: Spanned<usize>,
    pub(super) max_packet_octets: Spanned<usize>,
    pub(super) max_subscriptions: Spanned<usize>,
    pub(super) max_in_flight: Spanned<u16>,
    pub(super) session_expiry_cap: Spanned<Span>,
    pub(super) failures: Spanned<u32>,
    pub(super) ban: Spanned<Span>,
    pub(super) proof_beats_ban: bool,
    pub(super) longest_token_life: Span,
    pub(super) drain: Span,
}

impl Default for Limits {
    fn default() -> Self {
        let count = |n| Spanned::new(0..0, n);
        Self {
            connect_deadline: Span(Duration::from_secs(10)),
            connect_max_octets: count(16 * 1024),
            max_connections: count(20_000),
            max_connections_per_origin: count(1_000),
            max_packet_octets: count(1024 * 1024),
            max_subscriptions: count(10_000),
            max_in_flight: Spanned::new(0..0, 4_096),
            session_expiry_cap: Spanned::new(0..0, Span(Duration::from_secs(30 * 86_400))),
            failures: Spanned::new(0..0, 5),
            ban: Spanned::new(0..0, Span(Duration::from_secs(600))),
            proof_beats_ban: true,
            longest_token_life: Span(Duration::from_secs(366 * 86_400)),
            drain: Span(Duration::from_secs(10)),
        }
    }
}

/// Each a second; 0: no limit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Rates {
    pub(super) burst: Spanned<Span>,
    pub(super) session_messages: u32,
    pub(super) session_octets: u64,
    pub(super) session_requests: u32,
    pub(super) wallet_messages: u32,
    pub(super) wallet_octets: u64,
    pub(super) connects: u32,
}

impl Default for Rates {
    fn default() -> Self {
        let mib = 1024 * 1024;
        Self {
            burst: Spanned::new(0..0, Span(Duration::from_secs(10))),
            session_messages: 50_000,
            session_octets: 64 * mib,
            session_requests: 200,
            wallet_messages: 500_000,
            wallet_octets: 512 * mib,
            connects: 200,
        }
    }
}

/// Each in a window; 0: never bans for that.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Conduct {
    pub(super) window: Spanned<Span>,
    pub(super) refusals: u32,
    pub(super) faults: u32,
    pub(super) connects: u32,
    pub(super) ban: Spanned<Span>,
}

impl Default for Conduct {
    fn default() -> Self {
        Self {
            window: Spanned::new(0..0, Span(Duration::from_secs(60))),
            refusals: 6_000,
            faults: 600,
            connects: 60_000,
            ban: Spanned::new(0..0, Span(Duration::from_secs(600))),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Countries {
    /// One, or several under the other name.
    pub(super) database: Option<Spanned<PathBuf>>,
    pub(super) databases: Vec<Spanned<PathBuf>>,
    pub(super) poll: Span,
}

impl Default for Countries {
    fn default() -> Self {
        Self { database: None, databases: Vec::new(), poll: Span(Duration::from_secs(10)) }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Audit {
    pub(super) interval: Span,
    pub(super) each_message: bool,
    pub(super) pseudonym_key_file: Option<Spanned<PathBuf>>,
    pub(super) max_gas_per_day: u64,
    pub(super) max_gwei_per_day: u64,
    pub(super) max_fee_gwei: Spanned<u64>,
    pub(super) replace_after: Span,
    pub(super) rules: Option<Spanned<PathBuf>>,
    pub(super) retention: Retention,
    pub(super) database: Option<Database>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Database {
    pub(super) url: Spanned<String>,
    pub(super) password_file: Option<Spanned<PathBuf>>,
    pub(super) ca: Option<Spanned<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retention {
    pub(super) all: Option<Spanned<Span>>,
    pub(super) refusals: Option<Spanned<Span>>,
}

impl Default for Audit {
    fn default() -> Self {
        Self {
            interval: Span(Duration::from_secs(15)),
            each_message: false,
            pseudonym_key_file: None,
            max_gas_per_day: 50_000_000,
            max_gwei_per_day: 1_000_000_000,
            max_fee_gwei: Spanned::new(0..0, 100),
            replace_after: Span(Duration::from_secs(60)),
            rules: None,
            retention: Retention::default(),
            database: None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Health {
    pub(super) bind: SocketAddr,
}

impl Default for Health {
    fn default() -> Self {
        Self { bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 9100)) }
    }
}

/// Off unless the section is there. Whom it serves has no default: what is public should be so on purpose.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Api {
    #[serde(default = "Api::bind")]
    pub(super) bind: SocketAddr,
    pub(super) access: Spanned<ApiAccess>,
    pub(super) token_file: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) hosts: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) allowed_origins: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) trusted_peers: Vec<Network>,
    #[serde(default = "Api::requests_per_second")]
    pub(super) requests_per_second: Spanned<u64>,
    #[serde(default = "Api::request_timeout")]
    pub(super) request_timeout: Spanned<Span>,
    #[serde(default = "Api::most_rows")]
    pub(super) most_rows: Spanned<usize>,
    #[serde(default = "Api::most_octets")]
    pub(super) most_octets: Spanned<usize>,
    #[serde(default = "Api::most_queries")]
    pub(super) most_queries: Spanned<usize>,
    #[serde(default = "Api::most_connections")]
    pub(super) most_connections: Spanned<usize>,
}

impl Api {
    fn bind() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 9180))
    }
    fn requests_per_second() -> Spanned<u64> {
        Spanned::new(0..0, 10)
    }
    fn request_timeout() -> Spanned<Span> {
        Spanned::new(0..0, Span(Duration::from_secs(10)))
    }
    fn most_rows() -> Spanned<usize> {
        Spanned::new(0..0, 500)
    }
    fn most_octets() -> Spanned<usize> {
        Spanned::new(0..0, 2 * 1024 * 1024)
    }
    fn most_queries() -> Spanned<usize> {
        Spanned::new(0..0, 2)
    }
    fn most_connections() -> Spanned<usize> {
        Spanned::new(0..0, 256)
    }
}

/// Who sees what of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ApiAccess {
    All,
    Aggregated,
    Token,
}
