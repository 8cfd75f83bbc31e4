//! `make shadow`: does one octet get through that may not, does one stay out that may?
//!
//! Real clients do random things through a real gateway to a real broker, while real transactions register, grant, sell, revoke, block,
//! ban, delete and hand over. A recorder between gateway and broker, a spy at the broker and the clients' own sockets tell the [`judge`]
//! everything that passed; it asks a second opinion ([`flytrap_shadow`]) that knows the contracts' events and nothing of the gateway.
//!
//! Seed and number of operations decide what each client and the chain do; how these meet in time the machine decides.

mod chain;
mod client;
mod judge;
mod names;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, bail};
use flytrap_bench::keep;
use flytrap_site::{ChainOptions, Device, Site, SiteOptions, raw::Version};
use serde_json::json;

pub use judge::{Fault, Findings};

use crate::process;
use crate::table::Table;
use chain::Actor;
use client::{Ground, Proof};
use judge::Judge;
use names::Names;

/// What is documented: this long after a node shows a block, what it changed is in force.
const BOUND: Duration = Duration::from_millis(250);

/// What to play.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Random operations for each version of MQTT.
    #[arg(long, default_value_t = 20_000)]
    pub operations: u64,
    /// Decides what everyone does; a new one each time if not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Clients at once.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub clients: u16,
    /// Play this version only: 4 (3.1.1) or 5.
    #[arg(long)]
    pub only: Option<u8>,
    /// Leave the gateway out: clients reach the broker directly. The judge must then find a lot.
    #[arg(long)]
    pub without_gateway: bool,
}

/// What came of one game.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Version of MQTT.
    pub version: Version,
    /// The seed.
    pub seed: u64,
    /// What was judged, and how.
    pub found: Findings,
    /// Transactions sent meanwhile.
    pub changes: u64,
    /// How long it took.
    pub took: Duration,
}

/// Plays both versions and tells. Fails if anything passed that may not, or stayed out that may.
///
/// # Errors
/// If a bound is broken, or something does not start.
pub async fn run(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(rand::random);
    println!(
        "seed {seed}: `make shadow N={} SEED={seed}` plays the same again",
        options.operations
    );
    let mut outcomes = Vec::new();
    for version in [Version::V311, Version::V5] {
        if options.only.is_some_and(|only| only != version.level()) {
            continue;
        }
        outcomes.push(play(options, version, seed).await.wrap_err_with(|| format!("{version:?}"))?);
    }
    tell(&outcomes, options)?;
    let (leaks, refusals) = outcomes.iter().fold((0, 0), |(leaks, refusals), outcome| {
        (leaks + outcome.found.leaks, refusals + outcome.found.false_refusals)
    });
    let idle = outcomes.iter().any(|of| {
        of.found.publishes_forwarded == 0
            || of.found.deliveries == 0
            || of.found.filters_refused == 0
    });
    if outcomes.is_empty() || idle {
        bail!("too little happened to say anything: play more operations");
    }
    if leaks + refusals > 0 {
        bail!("{leaks} unauthorised, {refusals} falsely refused: replay with SEED={seed}");
    }
    Ok(())
}

/// Plays one version.
///
/// # Errors
/// If something does not start, or a client cannot go on.
pub async fn play(options: &Options, version: Version, seed: u64) -> Result<Outcome> {
    // What is measured here is decisions, so nothing that punishes strangers for trying may end the game.
    let config = "[limits]\nfailures = 1000\nmax_connections_per_origin = 20000\n[broker]\nprobe_interval = \"1h\"\n\
        [rates]\nsession_messages = 0\nsession_octets = 0\nsession_requests = 0\nwallet_messages = 0\nwallet_octets = 0\nconnects = 0\n\
        [conduct]\nrefusals = 0\nfaults = 0\nconnects = 0";
    let site = Site::start(SiteOptions {
        gateway_config: config.into(),
        broker: crate::quiet_broker(),
        chain: ChainOptions { block_time: Some(Duration::from_secs(1)), chain_id: None },
        progress: |step| eprintln!("  {step}"),
        ..SiteOptions::default()
    })
    .await?;
    let of = &site.wallets;
    let owners = [&of.topic_owner, &of.spare[0], &of.spare[1]].map(|key| key.address()).to_vec();
    let players = [&of.reader, &of.publisher, &of.stranger, &of.other_reader, &of.spare[0]];
    let wallets: Vec<_> = players.iter().map(|key| key.address()).collect();
    let (mut proofs, mut devices) = (Vec::new(), Vec::new());
    for number in 0..options.clients {
        let wallet = players[usize::from(number) % players.len()];
        // A third acts by device keys, half of them with a password.
        if number % 3 == 2 {
            let mut octets = [0x5e; 20];
            octets[..2].copy_from_slice(&number.to_be_bytes());
            let device = Device::from_seed(&octets, "")?;
            devices.push((wallet.address(), device.key.clone()));
            proofs.push(if number % 2 == 0 {
                Proof::Password(device.key, device.login.password)
            } else {
                Proof::Token(device.key)
            });
        } else {
            proofs.push(Proof::Token(wallet.clone()));
        }
    }
    if devices.is_empty() {
        bail!("at least three clients must play");
    }
    let names = Names::new(proofs.iter().map(|proof| proof.key().address()).collect());
    let judge = Judge::new(BOUND, seed, options.without_gateway);
    let spy = site.spy("#").await?;
    let recorder = site.recorder()?;
    let address = if options.without_gateway { recorder.address() } else { site.mqtt()? };
    let ground = Arc::new(Ground {
        judge: judge.clone(),
        address,
        version,
        place: site.place(),
        names: names.clone(),
        seed,
        left: AtomicU64::new(options.operations),
        next_id: AtomicU64::new(1),
        plain: options.without_gateway,
    });
    let mut actor = Actor::new(&site, seed, names, owners, wallets, devices);
    eprintln!("  preparing the chain");
    actor.begin().await?;
    eprintln!("  playing {version:?}");
    let began = Instant::now();
    let mut clients: tokio::task::JoinSet<Result<()>> = tokio::task::JoinSet::new();
    let mut waiting: Vec<_> = proofs.into_iter().zip(0..).collect();
    let lag = tokio::spawn(lag(judge.clone(), site.gateway()?.child.id()));
    let watching = chain::watch(&site, &judge);
    let playing = async {
        // The first state must be known before the first sight of it is judged.
        tokio::time::sleep(Duration::from_millis(500)).await;
        for (proof, number) in waiting.drain(..) {
            clients.spawn(client::play(number, proof, ground.clone()));
        }
        while let Some(done) = clients.join_next().await {
            done??;
        }
        Ok::<_, eyre::Report>(())
    };
    let looking = async {
        let mut told = Instant::now();
        loop {
            judge.look(recorder, &spy);
            if told.elapsed() >= Duration::from_secs(10) {
                told = Instant::now();
                let found = judge.findings();
                let left = ground.left.load(Ordering::Relaxed);
                eprintln!(
                    "  {:>4} s  {left} operations left; judged: {} publishes, {} deliveries; {} unauthorised, {} falsely refused",
                    began.elapsed().as_secs(),
                    found.publishes,
                    found.deliveries,
                    found.leaks,
                    found.false_refusals
                );
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let game = async {
        tokio::select! {
            done = playing => done,
            acted = actor.act() => acted.wrap_err("changing the chain"),
        }
    };
    let whole = async {
        game.await?;
        let took = began.elapsed();
        // What was seen last is judged when the states of that moment are known.
        let deadline = Instant::now() + Duration::from_secs(30);
        while judge.waits() > 0 {
            if Instant::now() > deadline {
                bail!("{} sights cannot be judged", judge.waits());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(took)
    };
    let took = tokio::select! {
        done = whole => done?,
        ended = watching => {
            ended?;
            bail!("the chain is not watched any more");
        }
        () = looking => bail!("nobody looks any more"),
    };
    lag.abort();
    if std::fs::read_to_string(site.gateway()?.child.log_file())?.contains("panicked at") {
        bail!("the gateway panicked\n{}", site.gateway()?.child.tail());
    }
    let changes = actor.changes;
    Ok(Outcome { version, seed, found: judge.findings(), changes, took })
}

/// Tells the judge how late this program runs, and how long the machine keeps the gateway waiting though it is ready to run: neither is
/// the gateway's fault, and on a machine with too much to do both are more than its own work.
async fn lag(judge: Judge, gateway: u32) {
    const NAP: Duration = Duration::from_millis(10);
    let mut before = (Instant::now(), process::kept_waiting(gateway));
    loop {
        tokio::time::sleep(NAP).await;
        let now = (Instant::now(), process::kept_waiting(gateway));
        let own = now.0.duration_since(before.0).saturating_sub(NAP);
        let gateways = process::longest_wait(&before.1, &now.1);
        let late = own + gateways;
        if late > Duration::from_millis(2) {
            judge.lagged(now.0, late);
        }
        before = now;
    }
}

/// A line of the table: its title, and what stands in it.
type Line<'a> = (&'a str, &'a dyn Fn(&Outcome) -> String);

fn tell(outcomes: &[Outcome], options: &Options) -> Result<()> {
    let head = ["", "MQTT 3.1.1", "MQTT 5"];
    let mut table = Table::new(head);
    let of = |version, value: &dyn Fn(&Outcome) -> String| {
        outcomes.iter().find(|outcome| outcome.version == version).map_or("-".to_owned(), value)
    };
    let rows: [Line<'_>; 16] = [
        ("publishes decided", &|of| of.found.publishes.to_string()),
        ("  of them forwarded", &|of| of.found.publishes_forwarded.to_string()),
        ("deliveries", &|of| of.found.deliveries.to_string()),
        ("deliveries withheld", &|of| of.found.withheld.to_string()),
        ("filters forwarded", &|of| of.found.filters_forwarded.to_string()),
        ("filters refused", &|of| of.found.filters_refused.to_string()),
        ("sessions", &|of| of.found.sessions.to_string()),
        ("CONNECTs refused", &|of| of.found.connects_refused.to_string()),
        ("sessions ended by the gateway", &|of| of.found.sessions_ended.to_string()),
        ("wills fired", &|of| of.found.wills_fired.to_string()),
        ("transactions meanwhile", &|of| of.changes.to_string()),
        ("within the 250 ms after a change", &|of| of.found.within_the_bound.to_string()),
        ("the machine's own delay, most, ms", &|of| format!("{:.0}", of.found.longest_delay_ms)),
        ("seconds", &|of| format!("{:.0}", of.took.as_secs_f64())),
        ("UNAUTHORISED", &|of| of.found.leaks.to_string()),
        ("FALSELY REFUSED", &|of| of.found.false_refusals.to_string()),
    ];
    println!();
    for (title, value) in rows {
        table.row([title.to_owned(), of(Version::V311, value), of(Version::V5, value)]);
    }
    table.print();
    for outcome in outcomes {
        for (fault, count) in &outcome.found.faults {
            println!("{:?}: {fault} {count} times", outcome.version);
        }
    }
    let raw: Vec<_> = outcomes
        .iter()
        .map(|of| {
            json!({"mqtt": of.version.level(), "seed": of.seed, "operations": options.operations,
                "transactions": of.changes, "seconds": of.took.as_secs_f64(), "found": of.found})
        })
        .collect();
    keep::write(
        if options.without_gateway { "shadow-without-gateway" } else { "shadow" },
        &json!(raw),
    )?;
    Ok(())
}
