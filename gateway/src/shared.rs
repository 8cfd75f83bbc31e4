//! What every session is given: handles to the rest of the gateway.

use std::net::SocketAddr;
use std::sync::Arc;

use flytrap_policy::Origin;
use flytrap_policy::credential::Site;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::audit::Audit;
use crate::conduct::Conduct;
use crate::config::{Config, ListenerConfig};
use crate::countries::Countries;
use crate::door::{Door, Trial};
use crate::log_budget::LogBudget;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::proxy::Ends;
use crate::upstreams::Upstreams;
use crate::used_tokens::UsedTokens;
use crate::wallet_desk::WalletDesk;

/// Handles that all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// What the operator asked for.
    pub config: Arc<Config>,
    /// What is known of the chain.
    pub mirror: Arc<Mirror>,
    /// Failed proofs and banned origins.
    pub door: Arc<Door>,
    /// Live sessions, and what is held against whoever has them.
    pub conduct: Arc<Conduct>,
    /// Lines of the log that clients may cause.
    pub log: Arc<LogBudget>,
    /// Where what happened is left, for the record and the chain.
    pub audit: Audit,
    /// Where clients are.
    pub countries: Arc<Countries>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The ways to the broker.
    pub upstreams: Arc<Upstreams>,
    /// Asks contract wallets, where the site takes them.
    pub wallet_desk: Option<Arc<WalletDesk>>,
    /// Where each token counts once.
    pub used_tokens: Option<UsedTokens>,
    /// Which chain, contract and broker a proof must name.
    pub site: Site,
    /// Cancelled when the gateway stops: sessions then say 0x8B and end.
    pub stop: CancellationToken,
}

/// The client's end of one connection.
#[derive(Debug)]
pub struct Peer {
    /// As the socket tells it, or a balancer that is believed; an IPv4 address in IPv6 clothes unclothed.
    pub addr: SocketAddr,
    /// Whether that is the client's own address; else a balancer that is believed named nobody, and it is the balancer's.
    pub is_named: bool,
    /// Our address that it, or the balancer, reached.
    pub reached: SocketAddr,
    /// What failures and bans are counted by.
    pub origin: Origin,
    /// Where it came in.
    pub listener: Arc<ListenerConfig>,
    /// Whether its octets are encrypted.
    pub tls: bool,
    /// When it was accepted: the connect deadline counts from here.
    pub accepted: Instant,
    /// Set when the origin is banned and this is its one attempt to prove itself; keep it until CONNECT is decided.
    pub trial: Option<Trial>,
}

impl Peer {
    /// For brokers that are told whose connection it is.
    pub fn ends(&self) -> Ends {
        Ends { client: self.addr, gateway: self.reached }
    }

    /// When an unproven connection must end.
    pub fn deadline(&self, config: &Config) -> Instant {
        self.accepted + config.limits.connect_deadline
    }
}
