//! Few grants and very many of one wallet: what publishing, connecting and starting again cost.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use eyre::{Result, ensure};
use flytrap_bench::ground;
use flytrap_bench::proxies::{self, Place};
use flytrap_bench::rig::{Case, Client, Order, Way};
use flytrap_policy::Right;
use flytrap_site::{Gateway, Site};

use crate::onchain::{CLOSED, FAR, RETAIN, Scribe};
use crate::suite::stage::{OURS, Stage, gateway, spent};

const FEW: u32 = 10;
const CLIENTS: usize = 10;
/// Transactions that fit into a block of the development chain.
const IN_A_BLOCK: usize = 150;
/// Topics whose grants fit into a transaction.
const IN_A_TRANSACTION: usize = 100;
const PATIENCE: Duration = Duration::from_secs(120);

/// A chain with so many grants of the publisher's wallet, and a gateway in front of the sink.
struct Side {
    name: &'static str,
    site: Site,
    gateway: Gateway,
    topics: u32,
}

pub(super) async fn play(stage: &mut Stage) -> Result<()> {
    // Each takes a transaction, so the short form has fewer.
    let most = if stage.plan.full { 100_000 } else { 40_000 };
    let many = u32::try_from(stage.plan.of(most))?;
    let mut sides = [side(stage, "10 grants", FEW).await?, side(stage, "many grants", many).await?];
    for side in &sides {
        stage.put("size of the mirror", side.name, ("grants", "grants"), f64::from(side.topics));
    }
    publishing(stage, &sides)?;
    connecting(stage, &sides)?;
    access_list(stage, &sides[1]).await?;
    for turn in stage.turns(sides.len()) {
        let side = &mut sides[turn];
        side.gateway.child.stop(PATIENCE).await?;
        let began = Instant::now();
        side.gateway.restart().await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        stage.put("restart", side.name, ("start to ready", "ms"), took);
    }
    Ok(())
}

async fn side(stage: &Stage, name: &'static str, topics: u32) -> Result<Side> {
    let site = ground::site(&stage.start).await?;
    let gateway = gateway(&site, "gateway", &site.wallets.gateway, stage.rig.sink, "").await?;
    let height = grant(&site, topics).await?;
    gateway.until_height(height, PATIENCE).await?;
    Ok(Side { name, site, gateway, topics })
}

fn topic(number: u32) -> String {
    format!("grants/t{number}")
}

/// Registers topics and grants each to the publisher. Returns the height.
async fn grant(site: &Site, topics: u32) -> Result<u64> {
    let (scribe, owner) = (Scribe(site), site.wallets.topic_owner.address());
    let names: Vec<String> = (0..topics).map(topic).collect();
    site.chain.automine(false).await?;
    for some in names.chunks(IN_A_BLOCK) {
        // One after the other: anvil gives two that come at once the same nonce.
        for name in some {
            scribe.send(&scribe.register(owner, name, RETAIN, CLOSED, CLOSED)).await?;
        }
        site.chain.mine(1).await?;
    }
    site.chain.automine(true).await?;
    let wallet: Address = site.wallets.publisher.address();
    let mut height = 0;
    for some in names.chunks(IN_A_TRANSACTION) {
        let grant = scribe.grant_many(owner, some, vec![wallet], Right::Publish, FAR);
        height = scribe.done(&grant).await?;
    }
    Ok(height)
}

/// Clients that publish to topics from one end to the other.
fn publishers(side: &Side) -> Result<Vec<Client>> {
    let mut clients = ground::clients(&side.site, "grants", CLIENTS)?;
    for (number, client) in (1..).zip(&mut clients) {
        client.topic = topic(side.topics / u32::try_from(CLIENTS)? * number - 1);
    }
    Ok(clients)
}

fn publishing(stage: &mut Stage, sides: &[Side]) -> Result<()> {
    let case = Case::SMALL;
    let each = stage.messages(5_000.0);
    for turn in stage.turns(sides.len()) {
        let side = &sides[turn];
        let (to, pid) = (Way::plain(side.gateway.listener("mqtt")?), side.gateway.child.id());
        let round = stage.rig.round(&to, Some(pid), case, &publishers(side)?, each)?;
        stage.put("publish", side.name, ("CPU per message", "ns"), round.cpu_ns);
    }
    Ok(())
}

fn connecting(stage: &mut Stage, sides: &[Side]) -> Result<()> {
    let count = stage.plan.of(1_000);
    for turn in stage.turns(sides.len()) {
        let side = &sides[turn];
        let clients = ground::clients(&side.site, "connect", count)?;
        let to = Way::plain(side.gateway.listener("mqtt")?);
        let storm = Order::Storm { to, clients, at_once: 32, publish: false };
        let pid = Some(side.gateway.child.id());
        let (times, cpu) = spent(pid, || stage.rig.times(&storm))?;
        ensure!(times.micros.len() == count, "not every client came through");
        let each = cpu.as_secs_f64() * 1e6 / count as f64;
        stage.put("connect", side.name, ("CPU per client", "µs"), each);
    }
    Ok(())
}

/// The grants in front of a broker that lets everyone in, beside a broker that has as many entries in its own list for one user.
async fn access_list(stage: &mut Stage, many: &Side) -> Result<()> {
    let mut list = String::from("user reader\ntopic read #\n\nuser bench\n");
    for number in 0..many.topics {
        writeln!(list, "topic write {}", topic(number))?;
    }
    let (dir, identity) = (stage.folder()?, stage.identity.clone());
    let place = Place { pinning: &stage.pinning, dir: &dir, identity: &identity };
    let guarded = proxies::mosquitto(place, &[], Some(&list))?;
    let site = &many.site;
    let gateway =
        gateway(site, "before-mosquitto", &site.wallets.other_gateway, stage.mosquitto.plain, "")
            .await?;
    let ours = publishers(many)?;
    let mut theirs = ours.clone();
    for client in &mut theirs {
        client.user_name = "bench".into();
    }
    let reader = Client {
        client_id: "reader-0".into(),
        user_name: "reader".into(),
        password: String::new(),
        topic: "grants/#".into(),
    };
    // Their time for a message grows with the list; a round of theirs would take minutes with as many messages as ours.
    let slow = stage.messages(2e7 / f64::from(many.topics)).max(100);
    let sides = [
        (
            OURS,
            Way::plain(gateway.listener("mqtt")?),
            stage.mosquitto.plain,
            ours,
            stage.messages(10_000.0),
        ),
        ("Mosquitto", Way::plain(guarded.plain), guarded.plain, theirs, slow),
    ];
    for turn in stage.turns(sides.len()) {
        let (name, to, broker, publishers, messages) = sides[turn].clone();
        let messages = messages.next_multiple_of(CLIENTS as u64);
        stage.rig.tell(&Order::OpenFlow {
            to,
            publishers,
            from: Way::plain(broker),
            subscribers: vec![reader.clone()],
            qos: 1,
            payload: 64,
        })?;
        let flow = Order::Flow { messages, per_second: None, arrivals: messages };
        let times = stage.rig.times(&flow)?;
        stage.rig.tell(&Order::Close)?;
        let per_second = messages as f64 / times.seconds;
        stage.put("access list", name, ("throughput", "messages/s"), per_second);
    }
    Ok(())
}
