//! Many gateways that follow one chain: as many followers as asked for in this process, real ones, at one node, while each second a block
//! changes rights. What they ask the node, what they cost, and when the last of them knows.

use std::time::{Duration, Instant};

use eyre::{Result, ensure, eyre};
use flytrap_bench::keep;
use flytrap_bench::process::cpu_time;
use flytrap_bench::spread::quantile;
use flytrap_chain::{Follower, FollowerConfig};
use flytrap_policy::Right;
use flytrap_site::{FaultProxy, Site, SiteOptions};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::onchain::{CLOSED, FAR, RETAIN, Scribe};
use crate::revocations::visible;
use crate::table::Table;

/// How many at most, and for how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Followers at most; 1, 4, 16, ... up to there.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub most: u32,
    /// Changes of each number of followers, one a second.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub changes: u32,
}

/// As a gateway has it by default.
const POLL: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(60);

/// What so many followers did.
struct Seen {
    followers: u32,
    requests_per_second: f64,
    /// Of one follower, share of a core.
    cpu: f64,
    /// From the block being visible to the last follower having it, milliseconds, of each change, sorted.
    last: Vec<f64>,
}

/// Measures and prints.
///
/// # Errors
/// If a follower does not come along.
pub async fn run(options: &Options) -> Result<()> {
    let site = Site::start(SiteOptions {
        recorder: false,
        gateway: false,
        progress: |step| eprintln!("  {step}"),
        ..SiteOptions::default()
    })
    .await?;
    let (scribe, owner) = (Scribe(&site), site.wallets.topic_owner.address());
    scribe.done(&scribe.register(owner, "followed", RETAIN, CLOSED, CLOSED)).await?;
    let mut table = Table::new([
        "followers",
        "requests a second at the node",
        "of each",
        "CPU of each, % of a core",
        "last one knows after, ms: median",
        "most",
    ]);
    let mut kept = Vec::new();
    let counts = std::iter::successors(Some(1), |count| Some(count * 4));
    for count in counts.take_while(|count| *count <= options.most) {
        eprintln!("  {count} followers");
        let seen = follow(&site, count, options.changes).await?;
        let each = seen.requests_per_second / f64::from(count);
        let (median, most) = (quantile(&seen.last, 0.5), quantile(&seen.last, 1.0));
        table.row([
            count.to_string(),
            format!("{:.1}", seen.requests_per_second),
            format!("{each:.2}"),
            format!("{:.2}", seen.cpu * 100.0),
            format!("{median:.0}"),
            format!("{most:.0}"),
        ]);
        kept.push(json!({
            "followers": seen.followers, "requests_per_second": seen.requests_per_second, "cpu_of_each": seen.cpu,
            "last_knows_after_ms": seen.last,
        }));
    }
    table.print();
    keep::write("followers", &json!({"poll_ms": POLL.as_millis(), "runs": kept})).map(drop)
}

async fn follow(site: &Site, count: u32, changes: u32) -> Result<Seen> {
    let scribe = Scribe(site);
    // In front of the node, since it does not count what it is asked.
    let node = FaultProxy::before(site.chain.http()).await?;
    let stop = CancellationToken::new();
    let (mut running, mut views) = (JoinSet::new(), Vec::new());
    for _ in 0..count {
        let mut config = FollowerConfig::new(
            vec![node.http().parse()?],
            site.deployment.clone(),
            site.broker_id,
        );
        config.poll = POLL;
        let (tell, told) = watch::channel(0);
        let follower = Follower::new(config, move |view| {
            tell.send_replace(view.height);
        });
        views.push(told);
        running.spawn(follower.run(stop.clone()));
    }
    reach(&mut views, site.chain.height().await?).await?;
    let requests = || node.requests().values().sum::<u64>();
    let own = std::process::id();
    let (began, before, busy) = (Instant::now(), requests(), cpu_time(own)?);
    let mut last = Vec::new();
    let wallet = site.wallets.reader.address();
    let owner = site.wallets.topic_owner.address();
    let mut due = tokio::time::interval(Duration::from_secs(1));
    for number in 0..changes {
        due.tick().await;
        let change = if number % 2 == 0 {
            scribe.grant(
                owner,
                "followed",
                wallet,
                Right::Subscribe,
                FAR + u64::from(count + number),
            )
        } else {
            scribe.revoke(owner, "followed", wallet, Right::Subscribe)
        };
        let shown = visible(site, scribe, &change).await?;
        reach(&mut views, site.chain.height().await?).await?;
        last.push(shown.elapsed().as_secs_f64() * 1e3);
    }
    let seconds = began.elapsed().as_secs_f64();
    let asked = requests() - before;
    let spent = cpu_time(own)?.saturating_sub(busy).as_secs_f64();
    ensure!(running.len() == count as usize, "a follower has ended");
    stop.cancel();
    while let Some(ended) = running.join_next().await {
        ended?.map_err(|error| eyre!("a follower: {error}"))?;
    }
    last.sort_by(f64::total_cmp);
    Ok(Seen {
        followers: count,
        requests_per_second: asked as f64 / seconds,
        cpu: spent / seconds / f64::from(count),
        last,
    })
}

/// Waits until each follower has come to a block.
async fn reach(views: &mut [watch::Receiver<u64>], height: u64) -> Result<()> {
    for view in views {
        let come = tokio::time::timeout(PATIENCE, view.wait_for(|at| *at >= height)).await;
        come.map_err(|_| eyre!("a follower has not come to block {height} in {PATIENCE:?}"))?
            .map_err(|_| eyre!("a follower has ended"))?;
    }
    Ok(())
}
