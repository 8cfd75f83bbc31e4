//! What the gateway stands on: a real chain with the real contracts and grants, and the sink in the broker's place.

use std::net::SocketAddr;
use std::path::Path;

use eyre::Result;
use flytrap_chain::wallet::{Reason, topic_id};
use flytrap_policy::{Offer, OfferMode, Right, Traits};
use flytrap_site::{BrokerKind, BrokerOptions, Gateway, Site, SiteOptions, unix_now};

use crate::rig::Client;

/// The topic that is granted; each client uses a name below it.
const TOPIC: &str = "bench";
const DAY: u64 = 86_400;

/// A chain with the contracts, a topic that nobody may use but its owner, and both rights on it granted to one wallet.
/// `program` is what will be started as the gateway. The broker that comes with a site is not used.
pub(crate) async fn site(program: &Path) -> Result<Site> {
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

/// The gateway, with the sink for its broker and otherwise as an operator would have it.
pub(crate) async fn gateway(site: &Site, sink: SocketAddr, chain: &str) -> Result<Gateway> {
    let overrides = format!(
        "[chain]\n{chain}\n[broker]\naddress = \"{sink}\"\n[audit]\ninterval = \"15s\"\n\
            [rates]\nsession_messages = 0\nsession_octets = 0\nwallet_messages = 0\nwallet_octets = 0\n"
    );
    site.start_gateway("gateway", &site.wallets.gateway, &overrides).await
}

/// Clients with valid tokens, each with a topic of its own.
pub(crate) fn clients(site: &Site, count: usize) -> Result<Vec<Client>> {
    (0..count)
        .map(|number| {
            let client_id = format!("bench-{number}");
            let login = site.token(&site.wallets.publisher, &client_id)?;
            let topic = format!("{TOPIC}/hall{number}/temperature");
            Ok(Client { client_id, user_name: login.user_name, password: login.password, topic })
        })
        .collect()
}
