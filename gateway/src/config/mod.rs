//! What the operator asked for, read once from a TOML file into types that leave nothing open.
//!
//! [`Config::load`] reads the text into the shape of the file ([`file`]), where every value already is what it means
//! (a duration, an address, a URL); [`resolve`] then opens the files it names and checks what concerns several keys.
//! Everything that is wrong is reported at once, each [`Problem`] with line and column, what was found and what to do.
//! The rest of the program sees only [`Config`].

mod api;
mod countries;
mod database;
mod file;
mod problem;
mod read;
mod recording;
mod resolve;
mod rules;
mod secret;
#[cfg(test)]
mod tests;
mod value;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::U256;
use flytrap_chain::Proof;
use flytrap_policy::{ConductLimit, Options};
use url::Url;

pub use api::{Access, ApiConfig, TokenHash};
pub use countries::CountriesConfig;
pub use database::DatabaseConfig;
pub use problem::{Problem, Problems};
pub(crate) use read::{Readers, pseudonym_key, read};
pub use recording::{GatewayKey, Recording};
pub use rules::RulesFile;
pub use secret::Secret;
pub use value::{HostPort, Span};

use crate::audit::Retention;
use crate::proxy::TrustedPeers;
use crate::session::Rates;
use crate::tls::ListenerTls;

/// The whole configuration of one gateway.
#[derive(Debug)]
pub struct Config {
    /// The file it came from, for messages.
    pub file: PathBuf,
    /// What clients that answer a challenge take this gateway for; without it none is challenged.
    pub name: Option<String>,
    /// Where the gateway keeps what must survive a restart.
    pub state_dir: PathBuf,
    /// Which chain, contracts and broker id to follow.
    pub chain: ChainConfig,
    /// Where clients connect; at least one.
    pub listeners: Vec<Arc<ListenerConfig>>,
    /// The broker behind the gateway.
    pub broker: BrokerConfig,
    /// Whether bans and alerts go on chain, and by whose key.
    pub recording: Recording,
    /// Which proofs are accepted.
    pub authentication: Authentication,
    /// Bounds on what clients may use.
    pub limits: Limits,
    /// How fast proven clients may go.
    pub rates: Rates,
    /// When proven clients are banned for what they do.
    pub conduct: Conduct,
    /// What the registry leaves to the operator.
    pub access: Options,
    /// Where clients' countries are known from.
    pub countries: CountriesConfig,
    /// When and at which cost things go on chain.
    pub audit: AuditConfig,
    /// Where health and metrics are served.
    pub health: HealthConfig,
    /// Whether the read-only API is served, and to whom.
    pub api: Option<ApiConfig>,
}

/// Which chain is followed and when it is believed.
#[derive(Debug, Clone)]
pub struct ChainConfig {
    /// Node URLs (http, https, ws, wss) in order of preference; at least one.
    pub urls: Vec<Url>,
    /// Path of the deployments file.
    pub deployment: PathBuf,
    /// The broker this gateway stands in front of.
    pub broker_id: U256,
    /// Blocks on top of a permission before it counts; restrictions always count at once.
    pub confirmations: u64,
    /// How often the node is asked for news.
    pub poll: Duration,
    /// Age of the last look at the chain from which on new sessions are refused.
    pub stale_after: Duration,
    /// Age from which on nothing is published or delivered.
    pub distrust_after: Duration,
    /// Oldest newest block of a node that counts as alive; `None` where blocks only come with transactions.
    pub max_head_age: Option<Duration>,
    /// Blocks that can be undone in a reorganisation without replaying all.
    pub history: usize,
    /// Whether two nodes must agree on a block before its permissions count.
    pub quorum: bool,
    /// What a node must prove of new blocks.
    pub proof: Proof,
    /// Whether it must prove the same of the oldest ones.
    pub prove_history: bool,
    /// How long a node may take for an answer before the next one is asked.
    pub request_timeout: Duration,
    /// How often the mirror is written to the state directory.
    pub snapshot_interval: Duration,
}

/// One address that clients connect to.
#[derive(Debug)]
pub struct ListenerConfig {
    /// Label in logs and metrics, unique.
    pub name: String,
    /// Address and port; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// Accept bearer secrets (tokens) although this listener has no TLS.
    pub allow_tokens_without_tls: bool,
    /// What a 3.1 or 3.1.1 client sees of a refused PUBLISH, which has no answer for it.
    pub deny_action: DenyAction,
    /// Certificates and keys, ready to use; `None` is plain text.
    pub tls: Option<ListenerTls>,
    /// MQTT over WebSocket instead of MQTT at once.
    pub websocket: Option<WebSocketConfig>,
    /// Every connection must begin with a PROXY header of one of `trusted_peers`.
    pub proxy_protocol: bool,
    /// Balancers and proxies whose word about a client's address is taken.
    pub trusted_peers: TrustedPeers,
}

impl ListenerConfig {
    /// Whether `peer` will name the client that it speaks for.
    pub fn speaks_for_others(&self, peer: IpAddr) -> bool {
        (self.proxy_protocol || self.websocket.is_some()) && self.trusted_peers.contains(peer)
    }
}

/// MQTT over WebSocket on one listener.
#[derive(Debug, Clone)]
pub struct WebSocketConfig {
    /// Path of the request, such as `/mqtt`.
    pub path: String,
    /// Web origins (scheme, host, port as browsers send them) whose pages may connect; empty: all.
    pub allowed_origins: Vec<String>,
}

/// How a refused PUBLISH looks to a client whose protocol cannot be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DenyAction {
    /// Acknowledged as usual and dropped: the session and its other topics go on.
    Acknowledge,
    /// The connection is closed, so that no device believes delivered what was dropped.
    Close,
}

/// The broker and how to reach it.
#[derive(Debug)]
pub struct BrokerConfig {
    /// Where it is reached: at least one address, several for the nodes of one cluster.
    pub addresses: Vec<BrokerAddress>,
    /// What the gateway puts into CONNECT in place of the client's proof.
    pub credentials: BrokerCredentials,
    /// Deadline for TCP and TLS, and once more for CONNACK.
    pub connect_timeout: Duration,
    /// How often a real CONNECT asks whether the broker serves.
    pub probe_interval: Duration,
    /// Whether each connection begins with a PROXY header of version 2 that names the client.
    pub send_proxy: bool,
}

/// One way to the broker.
#[derive(Debug, Clone)]
pub struct BrokerAddress {
    /// Host and port.
    pub address: HostPort,
    /// TLS, with the name its certificate must carry; `None` is plain TCP.
    pub tls: Option<BrokerTls>,
}

/// TLS towards the broker.
#[derive(Debug, Clone)]
pub struct BrokerTls {
    /// Name that is sent as SNI and that the certificate must prove.
    pub server_name: rustls::pki_types::ServerName<'static>,
    /// Roots and versions.
    pub config: Arc<rustls::ClientConfig>,
}

/// User name and password towards the broker.
#[derive(Debug, Clone)]
pub enum BrokerCredentials {
    /// Neither.
    None,
    /// The same for every session.
    Fixed {
        /// User name.
        user_name: String,
        /// Password, from a file.
        password: Secret<Vec<u8>>,
    },
    /// The wallet's address (lower case, with 0x) as user name, no password.
    Wallet,
    /// Those of a client that proves itself by other means than user name and password; of others none.
    Client,
}

/// Which proofs are accepted, beside tokens, device passwords and answers of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Authentication {
    /// Those of contract wallets (ERC-1271), for which a node is asked.
    pub contract_wallets: bool,
    /// Whether each token opens one session and no more.
    pub single_use_tokens: bool,
}

/// Bounds on clients.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From accept to accepted CONNECT, TLS included.
    pub connect_deadline: Duration,
    /// Octets a client may send before it has proved anything.
    pub connect_max_octets: usize,
    /// Connections in all.
    pub max_connections: usize,
    /// Connections of one origin (IPv4 address, IPv6 /64).
    pub max_connections_per_origin: usize,
    /// Largest packet of a proven client, header included.
    pub max_packet_octets: usize,
    /// Live subscriptions of one session.
    pub max_subscriptions: usize,
    /// QoS 1 and 2 publishes of one session that are under way.
    pub max_in_flight: u16,
    /// Longest time in seconds that a session of MQTT 5 may outlive its connection.
    pub session_expiry_cap: u32,
    /// Consecutive failures of one origin that do not ban yet.
    pub failures: u32,
    /// How long a ban lasts.
    pub ban: Duration,
    /// Whether a banned origin may still try a proof, one at a time and once a second.
    pub proof_beats_ban: bool,
    /// Longest life of a token that is accepted.
    pub longest_token_life: Duration,
    /// Time that sessions have to end when the gateway stops.
    pub drain: Duration,
}

/// When a wallet or device key is banned for what it did after its proof.
#[derive(Debug, Clone, Copy)]
pub struct Conduct {
    /// What is borne, and at which rate sessions may be opened.
    pub limit: ConductLimit,
    /// How long a ban lasts.
    pub ban: Duration,
}

/// What goes on chain, when, and at which cost.
#[derive(Debug, Clone)]
pub struct AuditConfig {
    /// Shortest time between two transactions.
    pub interval: Duration,
    /// Whether each message on a sensitive topic is a record of its own.
    pub each_message: bool,
    /// Secret of the broker's gateways that turns origins into pseudonyms.
    pub pseudonym_key: PseudonymKey,
    /// Gas the gateway may spend in a day.
    pub max_gas_per_day: u64,
    /// Wei the gateway may spend in a day.
    pub max_wei_per_day: U256,
    /// Most wei per gas.
    pub max_fee_wei: u128,
    /// A transaction that is in no block for so long is replaced by a dearer one.
    pub replace_after: Duration,
    /// What becomes of happenings, where the operator has rules for it.
    pub rules: Option<RulesFile>,
    /// How long records are kept.
    pub retention: Retention,
    /// Where they are kept, if not in a file of the state directory.
    pub database: Option<DatabaseConfig>,
}

/// Where the pseudonym key comes from.
#[derive(Debug, Clone)]
pub enum PseudonymKey {
    /// Read from the file that several gateways share.
    Given(Secret<[u8; 32]>),
    /// Made at the first start and kept in the state directory.
    Own,
}

/// Health and metrics.
#[derive(Debug, Clone)]
pub struct HealthConfig {
    /// Address and port; port 0 lets the system choose.
    pub bind: SocketAddr,
}

impl Config {
    /// Reads and checks `path` and every file it names. Relative paths in it start at its own folder.
    ///
    /// # Errors
    /// Everything that is wrong, not only the first; nothing is opened for writing or sent.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let text = std::fs::read_to_string(path).map_err(|e| Problems::unreadable(path, &e))?;
        Self::parse(path, &text)
    }

    /// Only where the state directory is, for commands that speak to a running gateway: they need to read no secret.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn state_dir(path: &Path) -> Result<PathBuf, String> {
        #[derive(serde::Deserialize)]
        struct Part {
            state_dir: PathBuf,
        }
        let wrong = |error: String| format!("\"{}\": {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let part: Part = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        Ok(path.parent().map(Path::to_owned).unwrap_or_default().join(part.state_dir))
    }

    /// As [`Config::load`], with the text in hand; `path` is for messages and relative paths.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problems> {
        let file = toml::from_str(text).map_err(|e| Problems::syntax(path, text, &e))?;
        resolve::resolve(path, text, file)
    }
}

#[cfg(test)]
impl ChainConfig {
    pub(crate) fn for_tests() -> Self {
        Self {
            urls: Vec::new(),
            deployment: PathBuf::new(),
            broker_id: U256::ONE,
            confirmations: 0,
            poll: Duration::from_millis(100),
            stale_after: Duration::from_secs(60),
            distrust_after: Duration::from_secs(600),
            max_head_age: None,
            history: 128,
            quorum: false,
            proof: Proof::default(),
            prove_history: false,
            request_timeout: Duration::from_secs(3),
            snapshot_interval: Duration::from_secs(600),
        }
    }
}

#[cfg(test)]
impl BrokerConfig {
    pub(crate) fn for_tests(addresses: &[&str]) -> Self {
        let address = |text: &&str| {
            let address = text.parse().expect("host:port");
            BrokerAddress { address, tls: None }
        };
        Self {
            addresses: addresses.iter().map(address).collect(),
            credentials: BrokerCredentials::None,
            connect_timeout: Duration::from_secs(5),
            probe_interval: Duration::from_secs(5),
            send_proxy: false,
        }
    }
}

#[cfg(test)]
impl Limits {
    pub(crate) fn for_tests() -> Self {
        Self {
            connect_deadline: Duration::from_secs(10),
            connect_max_octets: 16 * 1024,
            max_connections: 100,
            max_connections_per_origin: 100,
            max_packet_octets: 1024 * 1024,
            max_subscriptions: 100,
            max_in_flight: 100,
            session_expiry_cap: 3600,
            failures: 5,
            ban: Duration::from_secs(600),
            proof_beats_ban: true,
            longest_token_life: Duration::from_secs(3600),
            drain: Duration::from_secs(1),
        }
    }
}
