//! Rights that change while sessions live.

use std::time::{Duration, Instant};

use alloy_primitives::{Address, keccak256};
use eyre::{Result, ensure, eyre};
use flytrap_bench::rig::{Order, Trip, Way};
use flytrap_bench::spread::quantile;
use flytrap_bench::{ground, keep};
use flytrap_policy::{Offer, OfferMode, Right};
use flytrap_site::Site;
use flytrap_site::raw::{Connect, Raw, Version};

use crate::onchain::{CLOSED, FAR, RETAIN, Scribe};
use crate::revocations::{self, visible};
use crate::suite::stage::{OURS, Stage};

const PINGS_PER_SECOND: f64 = 200.0;
/// Grants of one transaction.
const GRANTS: u32 = 200;
const PATIENCE: Duration = Duration::from_secs(30);

/// The worst PINGREQ while grants change, and while none does.
pub(super) async fn changes(stage: &mut Stage) -> Result<()> {
    let changes = u32::try_from(stage.plan.of(10_000))?.next_multiple_of(GRANTS);
    let client = stage.client("ping-0", "bench/ping")?;
    let gateway = Way::plain(stage.broker.gateway.listener("mqtt")?);
    let case = format!("{changes} grants change");
    let seconds = f64::from(changes) / 2_500.0;
    for round in 0..stage.plan.rounds {
        for busy in [false, true] {
            let order = Order::Trips {
                to: gateway.clone(),
                client: client.clone(),
                trip: Trip::Ping,
                count: u32::try_from(flytrap_bench::spread::whole(PINGS_PER_SECOND * seconds))?,
                per_second: PINGS_PER_SECOND,
            };
            let Stage { rig, site, .. } = stage;
            let (times, height) = tokio::task::block_in_place(|| {
                std::thread::scope(|scope| {
                    let pings = scope.spawn(|| rig.times(&order));
                    let first = round * changes;
                    let changed = if busy { change(site, first, changes, seconds) } else { Ok(0) };
                    let pings = pings.join().map_err(|_| eyre!("the pings panicked"))?;
                    Ok::<_, eyre::Report>((pings?, changed?))
                })
            })?;
            // They have been seen, or nothing was measured.
            stage.broker.gateway.until_height(height, PATIENCE).await?;
            let target = if busy { OURS } else { "FlyTrap, no changes" };
            stage.put_times(&case, target, &times);
        }
    }
    Ok(())
}

/// So many grants of wallets that nobody has, evenly over most of the time. Returns the height of the last.
fn change(site: &Site, first: u32, changes: u32, seconds: f64) -> Result<u64> {
    let scribe = Scribe(site);
    let (owner, topic) = (site.wallets.topic_owner.address(), [ground::TOPIC.to_owned()]);
    let pause = Duration::from_secs_f64(seconds * 0.9 * f64::from(GRANTS) / f64::from(changes));
    tokio::runtime::Handle::current().block_on(async {
        let mut due = tokio::time::interval(pause);
        let mut height = 0;
        for start in (first..first + changes).step_by(GRANTS as usize) {
            due.tick().await;
            let wallet = |number: u32| Address::from_word(keccak256(number.to_be_bytes()));
            let wallets = (start..start + GRANTS).map(wallet).collect();
            height = scribe
                .done(&scribe.grant_many(owner, &topic, wallets, Right::Subscribe, FAR))
                .await?;
        }
        Ok(height)
    })
}

/// How long rights outlive what ends them, and how long what is bought does not count yet.
pub(super) async fn play(stage: &mut Stage) -> Result<()> {
    let options = revocations::Options {
        sessions: u32::try_from(stage.plan.of(2_000))?.max(160),
        rounds: if stage.plan.full { 100 } else { 4 * stage.plan.rounds },
        bound_ms: 250,
        websocket: false,
    };
    revocations::run(&options).await?;
    let kept = keep::read("revocations")?.ok_or_else(|| eyre!("no revocations were kept"))?;
    let mut late: Vec<f64> = serde_json::from_value(kept["milliseconds"].clone())?;
    ensure!(!late.is_empty(), "no revocations were measured");
    late.sort_by(f64::total_cmp);
    for (metric, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("most", 1.0)] {
        stage.put("revocation to last delivery", OURS, (metric, "ms"), quantile(&late, share));
    }
    purchases(stage).await
}

async fn purchases(stage: &mut Stage) -> Result<()> {
    let site = &stage.site;
    let (scribe, owner) = (Scribe(site), site.wallets.topic_owner.address());
    let key = &site.wallets.other_gateway;
    let fast = ("purchases", key);
    let gateway =
        ground::gateway(site, fast, stage.mosquitto.plain, "chain.poll = \"50ms\"\n").await?;
    let login = site.token(&site.wallets.reader, "buyer")?;
    let mut client = Raw::plain(Version::V311, gateway.listener("mqtt")?).await?;
    ensure!(client.connect(&Connect::of(Version::V311, &login)).await? == 0, "not let in");
    let offer = Offer { mode: OfferMode::Priced, period: 3_600, price_wei: 1 };
    let mut late = Vec::new();
    for round in 0..10 * stage.plan.rounds {
        let name = format!("sale/{round}");
        let height = scribe.done(&scribe.register(owner, &name, RETAIN, CLOSED, offer)).await?;
        gateway.until_height(height, PATIENCE).await?;
        ensure!(client.subscribe(&[(&name, 0)]).await? == [0x80], "{name} is open to everybody");
        let buy = scribe.buy(site.wallets.reader.address(), &name, Right::Subscribe).await?;
        let shown = visible(site, scribe, &buy).await?;
        while client.subscribe(&[(&name, 0)]).await? != [0] {
            ensure!(shown.elapsed() < PATIENCE, "{name} was bought and is not open");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        late.push(Instant::now().duration_since(shown).as_secs_f64() * 1e3);
    }
    drop(gateway);
    late.sort_by(f64::total_cmp);
    for (metric, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("most", 1.0)] {
        stage.put("purchase to first SUBSCRIBE", OURS, (metric, "ms"), quantile(&late, share));
    }
    Ok(())
}
