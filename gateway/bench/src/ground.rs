//! What the gateway stands on: a real chain with the real contracts and grants, and the sink or a broker in the broker's place.

use std::net::SocketAddr;
use std::path::Path;

use eyre::Result;
use flytrap_chain::keys::Key;
use flytrap_chain::wallet::{Reason, topic_id};
use flytrap_policy::{Offer, OfferMode, Right, Traits};
use flytrap_site::{BrokerKind, BrokerOptions, Gateway, Site, SiteOptions, unix_now};

use crate::rig::Client;

/// The topic that is granted; each client uses a name below it.
pub const TOPIC: &str = "bench";
const DAY: u64 = 86_400;

/// As an operator would have it but for bounds: what is measured is what things cost, not when they are refused.
/// In dotted keys, so that more of the same tables can follow.
const UNBOUND: &str = "audit.interval = \"15s\"\n\
    rates.session_messages = 0\nrates.session_octets = 0\nrates.session_requests = 0\n\
    rates.wallet_messages = 0\nrates.wallet_octets = 0\nrates.connects = 0\nconduct.connects = 0\n\
    limits.max_connections = 60000\nlimits.max_connections_per_origin = 60000\n";

/// A chain with the contracts, a topic that nobody may use but its owner, and both rights on it granted to one wallet.
/// `program` is what will be started as the gateway. The broker that comes with a site is not used.
///
/// # Errors
/// If a part does not start.
pub async fn site(program: &Path) -> Result<Site> {
    let site = Site::start(SiteOptions {
        recorder: false,
        gateway: false,
        broker: BrokerOptions { kind: BrokerKind::Any, ..BrokerOptions::default() },
        gateway_bin: Some(program.to_path_buf()),
        ..SiteOptions::default()
    })
    .await?;
    let owner = site.wallet(&site.wallets.topic_owner).await?;
    let closed = Offer { mode: OfferMode::Closed, period: 0, price_wei: 0 };
    owner.register_topic(site.broker_id, TOPIC, Traits::default(), closed, closed).await?;
    let id = topic_id(site.broker_id, TOPIC);
    for right in [Right::Publish, Right::Subscribe] {
        let until = unix_now() + DAY;
        owner.grant(id, site.wallets.publisher.address(), right, until, &Reason::default()).await?;
    }
    Ok(site)
}

/// A gateway in front of this broker or sink; `more`, lines with dotted keys, is laid over its configuration.
///
/// # Errors
/// If it does not get ready.
pub async fn gateway(
    site: &Site,
    (name, key): (&str, &Key),
    broker: SocketAddr,
    more: &str,
) -> Result<Gateway> {
    let overrides = format!("{UNBOUND}broker.address = \"{broker}\"\n{more}");
    site.start_gateway(name, key, &overrides).await
}

/// Clients with valid tokens, each with a topic of its own.
///
/// # Errors
/// If the clock is past 2106.
pub fn clients(site: &Site, role: &str, count: usize) -> Result<Vec<Client>> {
    (0..count)
        .map(|number| {
            let client_id = format!("{role}-{number}");
            let login = site.token_of_life(&site.wallets.publisher, &client_id, DAY)?;
            let topic = format!("{TOPIC}/hall{number}/temperature");
            Ok(Client { client_id, user_name: login.user_name, password: login.password, topic })
        })
        .collect()
}
