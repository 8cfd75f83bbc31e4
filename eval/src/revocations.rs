//! `make revocations`: how long a right outlives the block that ends it.
//!
//! Thousands of live sessions read through a real gateway from a real broker while messages flow. In each round one transaction ends the
//! right of some of them on one topic, on which a message is published every few milliseconds. What counts is the time from the moment at
//! which the node shows the block to the last message that a revoked session got.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, bail, ensure};
use flytrap_policy::Right;
use flytrap_site::raw::{Connect, Publish, Raw, Version};
use flytrap_site::{Site, SiteOptions};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;

use crate::onchain::{CLOSED, FAR, PUBLIC, RETAIN, Scribe};
use crate::process;
use crate::table::Table;
use flytrap_bench::keep;
use flytrap_bench::spread::quantile;

/// How much, and how often.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Live sessions.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(10..))]
    pub sessions: u32,
    /// Revocations, each of one topic for all its readers.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// The bound for the 99th percentile.
    #[arg(long, default_value_t = 250)]
    pub bound_ms: u64,
    /// Has the gateway follow the chain by WebSocket.
    #[arg(long)]
    pub websocket: bool,
}

/// From the block's being visible to its being in the mirror, over WebSocket; over HTTP so much after the next look.
const MIRROR_BOUND_MS: f64 = 50.0;
/// How often the site's gateway looks at the chain over HTTP.
const POLL_MS: f64 = 50.0;

/// Wallets that read; each has a session on each topic.
const READERS: usize = 8;
/// Messages on the topic that is being revoked.
const PACE: Duration = Duration::from_millis(3);
/// Messages on all other topics, one after the other.
const BACKGROUND: Duration = Duration::from_millis(4);
/// So long before and after a revocation.
const AROUND: Duration = Duration::from_millis(400);

/// What a session has got.
#[derive(Debug)]
struct Reader {
    /// Microseconds since the beginning at which the last message came, 0 if none did.
    last: AtomicU64,
    count: AtomicU64,
}

/// Measures and tells. Fails if the bound is broken.
///
/// # Errors
/// If the bound is broken, or something does not start.
pub async fn run(options: &Options) -> Result<()> {
    let site = Site::start(SiteOptions {
        recorder: false,
        websocket: options.websocket,
        broker: crate::quiet_broker(),
        progress: |step| eprintln!("  {step}"),
        ..SiteOptions::default()
    })
    .await?;
    let topics = usize::try_from(options.sessions)?.div_ceil(READERS);
    ensure!(
        topics >= usize::try_from(options.rounds)?,
        "{} sessions have {topics} topics, which is too few for {} rounds: take more sessions or fewer rounds",
        options.sessions,
        options.rounds
    );
    let names: Vec<String> = (0..topics).map(|topic| format!("r/{topic}")).collect();
    let of = &site.wallets;
    let readers = [
        &of.reader,
        &of.publisher,
        &of.stranger,
        &of.other_reader,
        &of.spare[0],
        &of.spare[1],
        &of.other_gateway,
        &of.broker_owner,
    ];
    let wallets: Vec<_> = readers.iter().map(|key| key.address()).collect();
    prepare(&site, &names, &wallets).await?;

    eprintln!("  opening {} sessions", topics * READERS);
    let began = Instant::now();
    let sessions: Vec<(usize, usize)> =
        (0..topics).flat_map(|topic| (0..READERS).map(move |reader| (topic, reader))).collect();
    let opened: Vec<Arc<Reader>> = stream::iter(sessions)
        .map(|(topic, reader)| {
            let (site, name, key) = (&site, &names[topic], readers[reader]);
            async move { open(site, name, key, topic * READERS + reader, began).await }
        })
        .buffered(32)
        .try_collect()
        .await?;
    eprintln!("  open after {:.1} s; revoking", began.elapsed().as_secs_f64());

    let mut publisher = Raw::plain(Version::V311, site.broker.address()).await?;
    let connect = Connect { client_id: "pub".into(), ..Connect::anonymous() };
    ensure!(publisher.connect(&connect).await? == 0, "the broker refuses the publisher");
    let background = tokio::spawn(background(publisher, names.clone()));
    let scribe = Scribe(&site);
    let (mut late, mut none, mut sent) = (Vec::new(), 0_usize, 0_u64);
    let mut mirrored = Vec::new();
    let gateway = site.gateway()?.child.id();
    let (waited, measuring) = (process::kept_waiting(gateway), Instant::now());
    for (round, name) in names.iter().take(usize::try_from(options.rounds)?).enumerate() {
        let mine = &opened[round * READERS..(round + 1) * READERS];
        let stop = Arc::new(AtomicBool::new(false));
        let singing = tokio::spawn(sing(site.broker.address(), name.clone(), stop.clone()));
        tokio::time::sleep(AROUND).await;
        let before: Vec<u64> = mine.iter().map(|of| of.count.load(Ordering::Relaxed)).collect();
        ensure!(before.iter().all(|count| *count > 0), "{name}: a reader gets nothing");
        let owner = of.topic_owner.address();
        let revoke = scribe.revoke_many(
            owner,
            std::slice::from_ref(name),
            wallets.clone(),
            Right::Subscribe,
        );
        let visible = visible(&site, scribe, &revoke).await?;
        mirrored.push(until_mirrored(&site, visible).await?.as_secs_f64() * 1000.0);
        let visible = visible.duration_since(began);
        tokio::time::sleep(AROUND * 2).await;
        stop.store(true, Ordering::Relaxed);
        sent += singing.await??;
        for reader in mine {
            let last = Duration::from_micros(reader.last.load(Ordering::Relaxed));
            let after = last.saturating_sub(visible);
            none += usize::from(after.is_zero());
            late.push(after.as_secs_f64() * 1000.0);
        }
        if round % 20 == 19 {
            eprintln!("  {} of {} rounds", round + 1, options.rounds);
        }
    }
    let waited = process::longest_wait(&waited, &process::kept_waiting(gateway));
    let share = 100.0 * waited.as_secs_f64() / measuring.elapsed().as_secs_f64();
    background.abort();
    late.sort_by(f64::total_cmp);
    mirrored.sort_by(f64::total_cmp);
    // Without it nobody could tell a slow gateway from a machine with too much to do.
    println!(
        "\nthe machine kept a thread of the gateway that was ready waiting for {share:.1} % of the time"
    );
    tell(options, &late, &mirrored, none, sent, topics * READERS)
}

async fn prepare(
    site: &Site,
    names: &[String],
    wallets: &[alloy_primitives::Address],
) -> Result<()> {
    eprintln!("  granting");
    let (scribe, owner) = (Scribe(site), site.wallets.topic_owner.address());
    scribe.done(&scribe.register(owner, "open", RETAIN, PUBLIC, PUBLIC)).await?;
    for some in names.chunks(50) {
        for name in some {
            scribe.send(&scribe.register(owner, name, RETAIN, CLOSED, CLOSED)).await?;
        }
    }
    let mut height = 0;
    for some in names.chunks(20) {
        let grant = scribe.grant_many(owner, some, wallets.to_vec(), Right::Subscribe, FAR);
        height = scribe.done(&grant).await?;
    }
    site.gateway()?.until_height(height, Duration::from_secs(30)).await.map(drop)
}

/// A session that reads one topic, and another on which nothing comes, so that it outlives the revocation.
async fn open(
    site: &Site,
    name: &str,
    key: &flytrap_chain::keys::Key,
    number: usize,
    began: Instant,
) -> Result<Arc<Reader>> {
    // Origins of 200 connections each: there is a bound on connections of one.
    let from = Ipv4Addr::new(127, 9, 1, u8::try_from(number / 200 + 1)?);
    let login = site.token(key, &format!("r-{number}"))?;
    let version = if number.is_multiple_of(2) { Version::V5 } else { Version::V311 };
    let mut client = Raw::plain_from(version, IpAddr::from(from), site.mqtt()?).await?;
    let code = client.connect(&Connect::of(version, &login)).await?;
    ensure!(code == 0, "session {number} was refused with {code:#04x}");
    let codes = client.subscribe(&[(name, 0), ("open/keep", 0)]).await?;
    ensure!(codes == [0, 0], "session {number} may not read {name}: {codes:02x?}");
    let reader = Arc::new(Reader { last: AtomicU64::new(0), count: AtomicU64::new(0) });
    let written = reader.clone();
    tokio::spawn(async move {
        while let Ok(Some(octets)) = client.next(Duration::from_secs(3_600)).await {
            if octets[0] >> 4 == 3 {
                let at = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                written.last.store(at, Ordering::Relaxed);
                written.count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    Ok(reader)
}

async fn background(mut publisher: Raw, names: Vec<String>) -> Result<()> {
    let mut due = tokio::time::interval(BACKGROUND);
    for name in names.iter().cycle() {
        due.tick().await;
        publisher.publish(&Publish::new(name, b"background")).await?;
    }
    Ok(())
}

async fn sing(broker: std::net::SocketAddr, name: String, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut client = Raw::plain(Version::V311, broker).await?;
    ensure!(client.connect(&Connect::anonymous()).await? == 0, "the broker refuses the publisher");
    let (mut due, mut sent) = (tokio::time::interval(PACE), 0);
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        client.publish(&Publish::new(&name, b"x")).await?;
        sent += 1;
    }
    Ok(sent)
}

/// Sends a change; a moment right before the node first showed its block, so that what is measured from it errs against the gateway.
pub(crate) async fn visible(
    site: &Site,
    scribe: Scribe<'_>,
    change: &crate::onchain::Change,
) -> Result<Instant> {
    let before = site.chain.height().await?;
    let sent = Instant::now();
    scribe.send(change).await.wrap_err_with(|| change.words.clone())?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut absent = sent;
    loop {
        let asked = Instant::now();
        if site.chain.height().await? > before {
            return Ok(absent);
        }
        absent = asked;
        if Instant::now() > deadline {
            bail!("in no block: {}", change.words);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// How long after `visible` the gateway is first seen to have the node's newest block; what asking takes is in it.
async fn until_mirrored(site: &Site, visible: Instant) -> Result<Duration> {
    #[allow(clippy::cast_precision_loss, reason = "heights are small here")]
    let height = site.chain.height().await? as f64;
    let gateway = site.gateway()?;
    while gateway.metric("mirror_height").await? < height {
        ensure!(visible.elapsed() < Duration::from_secs(20), "block {height} is not in the mirror");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(visible.elapsed())
}

fn tell(
    options: &Options,
    late: &[f64],
    mirrored: &[f64],
    none: usize,
    sent: u64,
    sessions: usize,
) -> Result<()> {
    let mut table =
        Table::new(["after the block is visible, ms", "last delivery", "in the mirror"]);
    let p99 = quantile(late, 0.99);
    for (title, share) in
        [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("most", 1.0)]
    {
        let [late, mirrored] = [late, mirrored].map(|of| format!("{:.1}", quantile(of, share)));
        table.row([title.into(), late, mirrored]);
    }
    println!(
        "\n{sessions} live sessions, {} revocations of {READERS} sessions each, {sent} messages on the revoked topics\n",
        options.rounds
    );
    table.print();
    println!("\n{none} of {} sessions got nothing after that moment", late.len());
    let most = quantile(late, 1.0).max(1.0);
    let step = (most / 12.0).ceil().max(1.0);
    for bin in 0..13 {
        let (from, to) = (f64::from(bin) * step, f64::from(bin + 1) * step);
        let count = late.iter().filter(|ms| **ms >= from && **ms < to).count();
        if from <= most {
            println!(
                "{from:>6.0} to {to:>4.0} ms {count:>6} {}",
                "#".repeat(60 * count / late.len().max(1))
            );
        }
    }
    let by = if options.websocket { "WebSocket" } else { "HTTP" };
    println!("\nThe gateway follows the chain by {by}.");
    keep::write(
        "revocations",
        &json!({
            "sessions": sessions, "rounds": options.rounds, "messages": sent, "milliseconds": late, "p99": p99,
            "mirrored_milliseconds": mirrored, "websocket": options.websocket,
        }),
    )?;
    #[allow(clippy::cast_precision_loss, reason = "some milliseconds")]
    let bound = options.bound_ms as f64;
    if p99 > bound {
        bail!("p99 is {p99:.1} ms, wanted at most {bound} ms");
    }
    let mirror_bound = MIRROR_BOUND_MS + if options.websocket { 0.0 } else { POLL_MS };
    let mirror_p99 = quantile(mirrored, 0.99);
    ensure!(
        mirror_p99 <= mirror_bound,
        "a block is in the mirror after {mirror_p99:.1} ms (p99, by {by}), wanted at most {mirror_bound} ms"
    );
    Ok(())
}
