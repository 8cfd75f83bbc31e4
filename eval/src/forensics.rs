//! `make forensics`: a breach that a script hides among a day's records, found with the commands of an auditor.
//!
//! A device's credential is copied, and used from another country for ninety seconds on two topics while the device itself works on. The
//! [script](script) knows wallet, device, topics, seconds, the number of messages and who else read there meanwhile; the [search](search) knows
//! the node and the file that the gateway exports, and asks `flytrap` only. At the end both are compared.
//!
//! A million messages through a broker would take hours, so the records are appended by the gateway's own store before the gateway starts.
//! Everything after that is the product's: the gateway anchors them, exports them, and what is exported verifies.

mod script;
mod search;

use std::time::{Duration, Instant};

use alloy_primitives::Address;
use eyre::{Result, bail, ensure};
use flytrap_bench::keep;
use flytrap_chain::wallet::Contracts;
use flytrap_gateway::audit::{Place, Store, file_in};
use flytrap_gateway::config::Secret;
use flytrap_site::{Site, SiteOptions};
use serde_json::json;

use crate::table::Table;
use script::Day;

/// How much there is to search.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Records of the day.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1_000..=1_000_000))]
    pub records: u64,
    /// For the same day again.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Bound of issue 6 for the search.
const BOUND: Duration = Duration::from_secs(300);
/// Records that are appended at once.
const AT_ONCE: usize = 10_000;
/// Intervals that the day is anchored in.
const INTERVALS: usize = 10;

/// What there is to find out, and what was.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Facts {
    /// Whose rights were used.
    pub(crate) wallet: Address,
    /// The key that was copied.
    pub(crate) device: Address,
    /// From where.
    pub(crate) country: String,
    /// Names, in order.
    pub(crate) topics: Vec<String>,
    /// First and last second.
    pub(crate) first: u64,
    /// See `first`.
    pub(crate) last: u64,
    /// What was read.
    pub(crate) messages: u64,
    /// Other keys that read one of the topics in that span, in order.
    pub(crate) readers: Vec<Address>,
}

/// Hides, searches, compares and tells.
///
/// # Errors
/// If something is not found as it was, takes too long, or does not start.
pub async fn run(options: &Options) -> Result<()> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let began = Instant::now();
    let site = Site::start(SiteOptions {
        recorder: false,
        gateway: false,
        progress: |step| eprintln!("  {step}"),
        ..SiteOptions::default()
    })
    .await?;
    eprintln!("  writing {} records, seed {seed}", options.records);
    let day = Day::prepare(&site, seed, options.records).await?;
    let state = site.dir().join("hospital");
    let gateway = site.wallets.gateway.address();
    let (secret, stored) = (day.secret.clone(), Instant::now());
    let place = Place::File(file_in(&state, gateway));
    std::fs::create_dir_all(&state)?;
    tokio::task::spawn_blocking(move || store(&day, &place, gateway)).await??;
    eprintln!("  written in {:.0} s; anchoring", stored.elapsed().as_secs_f64());
    // The day is over before anybody looks.
    site.chain.pass(script::DAY).await?;
    let overrides = format!("state_dir = {:?}", state.display().to_string());
    let running = site.start_gateway("hospital", &site.wallets.gateway, &overrides).await?;
    anchored(&site, gateway).await?;
    let ready = began.elapsed();

    let (searched, search) = (Instant::now(), search::Search::new(&site, &running.config)?);
    let found = tokio::task::spawn_blocking(move || search.run()).await??;
    let took = searched.elapsed();
    tell(options, seed, &secret, &found, (ready, took))
}

fn store(day: &Day, place: &Place, gateway: Address) -> Result<()> {
    let mut store = Store::open(place, gateway, Secret::new([7; 32]))?;
    let mut last = (0, alloy_primitives::B256::ZERO);
    for interval in day.drafts.chunks(day.drafts.len().div_ceil(INTERVALS)) {
        for some in interval.chunks(AT_ONCE) {
            store.append(some)?;
        }
        if let Some(closed) = store.close(last)? {
            last = (closed.sequence, closed.root);
        }
    }
    Ok(())
}

/// Waits until the gateway has put all intervals of the day on chain.
async fn anchored(site: &Site, gateway: Address) -> Result<()> {
    let contracts = Contracts::connect(vec![site.chain.http()], site.deployment.clone()).await?;
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let last = contracts.last_anchor(site.broker_id, gateway).await?;
        if usize::try_from(last)? >= INTERVALS {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "of {INTERVALS} intervals {last} are anchored");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn tell(
    options: &Options,
    seed: u64,
    secret: &Facts,
    found: &Facts,
    (ready, took): (Duration, Duration),
) -> Result<()> {
    let mut table = Table::new(["what", "hidden", "found", ""]);
    let mut row = |what: &str, hidden: String, found: String| {
        let mark = if hidden == found { "same" } else { "DIFFERS" };
        table.row([what.to_owned(), hidden, found, mark.to_owned()]);
    };
    row("wallet", secret.wallet.to_string(), found.wallet.to_string());
    row("device", secret.device.to_string(), found.device.to_string());
    row("country", secret.country.clone(), found.country.clone());
    row("topics", secret.topics.join(" "), found.topics.join(" "));
    row("first second", secret.first.to_string(), found.first.to_string());
    row("last second", secret.last.to_string(), found.last.to_string());
    row("messages", secret.messages.to_string(), found.messages.to_string());
    let readers = |facts: &Facts| {
        let digest = facts.readers.iter().map(|key| key.to_string()[2..8].to_owned());
        format!("{}: {}", facts.readers.len(), digest.collect::<Vec<_>>().join(" "))
    };
    row("other readers", readers(secret), readers(found));
    println!();
    table.print();
    keep::write(
        "forensics",
        &json!({"records": options.records, "seed": seed, "hidden": secret, "found": found, "seconds": took.as_secs_f64()}),
    )?;
    println!(
        "{} records: {:.0} s to set up, {:.0} s to find out; seed {seed}",
        options.records,
        ready.as_secs_f64(),
        took.as_secs_f64()
    );
    if secret != found {
        bail!("FAIL: what was found is not what was hidden");
    }
    if took > BOUND {
        bail!("FAIL: it took {took:?}, wanted at most {BOUND:?}");
    }
    println!("PASS");
    Ok(())
}
