//! `make attack`: what THREATS lists, done to a plain broker and through the gateway.
//!
//! One function per row. Whether an attack succeeds is judged at the broker, by a recorder and a subscriber there, or by what the attacker
//! really got, never by what it was told. Beside each attack an honest pair exchanges messages ([`canary`]); its loss and latency, the
//! memory of what is attacked, and how soon a new honest client is served again are part of the verdict.

mod arena;
mod authentication;
mod authorisation;
mod canary;
mod exhaustion;
mod protocol;
mod wanting;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eyre::{Result, bail};
use serde_json::json;

use crate::process;
use crate::table::Table;
use arena::Arena;
use canary::Canary;
use flytrap_bench::keep;

/// Which attacks, and how long.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// These rows only, such as `A01,B03`, or all of a group: `D`.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// How long each attack of group D lasts.
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// The bound for the honest pair's 99th percentile.
    #[arg(long, default_value_t = 100)]
    pub p99_ms: u64,
    /// Leave the plain broker out.
    #[arg(long)]
    pub gateway_only: bool,
}

/// What is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The broker itself.
    Plain,
    /// The gateway before it.
    FlyTrap,
}

/// What came of an attack.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    /// The attacker got what it wanted; the words say what.
    Succeeded(String),
    /// It did not.
    Failed,
    /// There is nothing of the kind on this side.
    Absent,
}

impl Outcome {
    pub(crate) fn of(succeeded: bool, what: impl Into<String>) -> Self {
        if succeeded { Self::Succeeded(what.into()) } else { Self::Failed }
    }
}

pub(crate) type Attack<'a> = Pin<Box<dyn Future<Output = Result<Outcome>> + Send + 'a>>;

/// What of the honest pair's fate counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Honest {
    /// Nothing lost, and quickly.
    Unharmed,
    /// Nothing lost, but it may wait: the row stops the broker itself.
    MayWait,
    /// Interrupted by the row itself, which restarts the gateway.
    Interrupted,
}

/// One row of THREATS.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    pub(crate) attack: &'static str,
    pub(crate) run: for<'a> fn(&'a Arena, Side) -> Attack<'a>,
    pub(crate) honest: Honest,
}

/// Writes a row: id, what the attacker does, the function.
macro_rules! row {
    ($id:literal, $attack:literal, $run:ident) => {
        row!($id, $attack, $run, Unharmed)
    };
    ($id:literal, $attack:literal, $run:ident, $honest:ident) => {
        $crate::attack::Row {
            id: $id,
            attack: $attack,
            run: |arena, side| Box::pin($run(arena, side)),
            honest: $crate::attack::Honest::$honest,
        }
    };
}
pub(crate) use row;

/// The other bounds.
const MEMORY: u64 = 200 * 1024 * 1024;
const RECOVERY: Duration = Duration::from_secs(5);
/// An attack that takes longer than this and its own time is one that hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// The honest pair is looked at for this long at least, or there would be next to nothing of it.
const SHORTEST: Duration = Duration::from_millis(500);

/// What was measured of one row on one side.
#[derive(Clone, Debug)]
struct Measured {
    outcome: Outcome,
    recorded: String,
    sent: usize,
    lost: usize,
    p99: Duration,
    grown: u64,
    recovered: Option<Duration>,
}

/// Runs the attacks and tells. Fails if one gets through the gateway or the honest pair is harmed beyond the bounds.
///
/// # Errors
/// If a bound is broken, or something does not start.
pub async fn run(options: &Options) -> Result<()> {
    let rows: Vec<Row> =
        [authentication::rows(), authorisation::rows(), protocol::rows(), exhaustion::rows()]
            .into_iter()
            .flatten()
            .collect();
    let wanted = |id: &str| {
        options.only.is_empty()
            || options
                .only
                .iter()
                .any(|only| id == only || (only.len() == 1 && id.starts_with(only.as_str())))
    };
    let chosen: Vec<&Row> = rows.iter().filter(|row| wanted(row.id)).collect();
    if chosen.is_empty() {
        bail!(
            "no row called {:?}: name some of {}",
            options.only,
            rows.iter().map(|row| row.id).collect::<Vec<_>>().join(" ")
        );
    }
    let sides: &[Side] =
        if options.gateway_only { &[Side::FlyTrap] } else { &[Side::Plain, Side::FlyTrap] };
    let mut told = Vec::new();
    // Rows of group D flood, which no recorder is to slow down or to be filled by.
    for floods in [false, true] {
        let of_kind: Vec<&&Row> =
            chosen.iter().filter(|row| row.id.starts_with('D') == floods).collect();
        if of_kind.is_empty() {
            continue;
        }
        let mut arena = Arena::new(!floods, options.seconds).await?;
        for row in of_kind {
            let mut measured = [None, None];
            for side in sides {
                eprintln!("  {} {:?}: {}", row.id, side, row.attack);
                let one = measure(&arena, row, *side).await;
                let one = match one {
                    Ok(one) => one,
                    Err(error) => Measured {
                        // Whoever cannot attack has shown nothing.
                        outcome: Outcome::Succeeded(format!("not shown: {error:#}")),
                        recorded: String::new(),
                        sent: 0,
                        lost: 0,
                        p99: Duration::ZERO,
                        grown: 0,
                        recovered: None,
                    },
                };
                if !arena.is_well().await {
                    eprintln!(
                        "  {}: the arena is not well afterwards, so a new one is built",
                        row.id
                    );
                    arena = Arena::new(!floods, options.seconds).await?;
                }
                measured[usize::from(*side == Side::FlyTrap)] = Some(one);
            }
            told.push((*row, measured));
        }
    }
    let broken = tell(options, &told, &wanted)?;
    if broken.is_empty() { Ok(()) } else { bail!("{}", broken.join("; ")) }
}

async fn measure(arena: &Arena, row: &Row, side: Side) -> Result<Measured> {
    let canary = Canary::start(arena, side)?;
    canary.until_running().await?;
    let pid = arena.pid(side);
    let base = process::resident(pid);
    let (before, logged) = (arena.recorded().await, arena.logged());
    let began = Instant::now();
    PEAK.store(base, Ordering::Relaxed);
    let watch = tokio::spawn(async move {
        loop {
            PEAK.fetch_max(process::resident(pid), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let limit = PATIENCE + Duration::from_secs(arena.seconds);
    let outcome = tokio::time::timeout(limit, (row.run)(arena, side)).await;
    let ended = Instant::now();
    watch.abort();
    let longer = SHORTEST.saturating_sub(began.elapsed());
    let outcome = match outcome {
        Ok(outcome) => outcome?,
        Err(_) => bail!("the attack did not end in {limit:?}"),
    };
    let recovered = arena.honest_again(side, ended, RECOVERY * 2).await;
    // Enough of the time after it, so that the honest messages of its last moment have come.
    tokio::time::sleep(longer + Duration::from_millis(300)).await;
    let fate = canary.stop(began, ended + longer).await;
    let peak = PEAK.load(Ordering::Relaxed);
    let recorded =
        if side == Side::FlyTrap { arena.told_since(&before, logged).await } else { String::new() };
    Ok(Measured {
        outcome,
        recorded,
        sent: fate.sent,
        lost: fate.lost,
        p99: fate.p99,
        grown: peak.saturating_sub(base),
        recovered,
    })
}

/// Most resident octets seen during the attack that runs; there is only one at a time.
static PEAK: AtomicU64 = AtomicU64::new(0);

fn faults(row: &Row, of: &Measured, most: Duration) -> Vec<String> {
    let mut faults = Vec::new();
    if let Outcome::Succeeded(what) = &of.outcome {
        faults.push(format!("{} got through: {what}", row.id));
    }
    if row.honest != Honest::Interrupted && of.lost > 0 {
        faults.push(format!("{}: the honest pair lost {} of {}", row.id, of.lost, of.sent));
    }
    if row.honest == Honest::Unharmed && of.p99 > most {
        faults.push(format!("{}: the honest pair's p99 was {:?}", row.id, of.p99));
    }
    if of.grown > MEMORY {
        faults.push(format!("{}: {} MB more memory", row.id, of.grown / 1_048_576));
    }
    if of.recovered.is_none_or(|after| after > RECOVERY) {
        faults.push(format!("{}: a new honest client was not served in {RECOVERY:?}", row.id));
    }
    faults
}

fn tell(
    options: &Options,
    told: &[(&Row, [Option<Measured>; 2])],
    wanted: &impl Fn(&str) -> bool,
) -> Result<Vec<String>> {
    let mut table = Table::new([
        "id",
        "attack",
        "plain",
        "FlyTrap",
        "canary loss",
        "p99 ms",
        "memory +MB",
        "recovered ms",
    ]);
    let (mut broken, mut raw) = (Vec::new(), Vec::new());
    for (row, [plain, trap]) in told {
        let most = Duration::from_millis(options.p99_ms);
        let plain_word = match plain {
            Some(Measured { outcome: Outcome::Succeeded(_), .. }) => "succeeds",
            Some(Measured { outcome: Outcome::Absent, .. }) | None => "-",
            // What it wanted it did not get, but honest clients had to suffer for it.
            Some(of) if !faults(row, of, most).is_empty() => "harms others",
            Some(_) => "fails",
        };
        let Some(of) = trap else { continue };
        let faults = faults(row, of, most);
        let word = match &of.outcome {
            Outcome::Succeeded(what) => format!("SUCCEEDS: {what}"),
            Outcome::Failed | Outcome::Absent if of.recorded.is_empty() => {
                "blocked: there was nothing to refuse".to_owned()
            }
            Outcome::Failed | Outcome::Absent => format!("blocked: {}", of.recorded),
        };
        table.row([
            row.id.into(),
            row.attack.chars().take(60).collect(),
            plain_word.into(),
            word.chars().take(90).collect(),
            format!("{}/{}", of.lost, of.sent),
            format!("{:.1}", of.p99.as_secs_f64() * 1000.0),
            format!("{:.1}", of.grown as f64 / 1_048_576.0),
            of.recovered.map_or("never".into(), |after| after.as_millis().to_string()),
        ]);
        let side = |of: &Measured| {
            json!({"outcome": format!("{:?}", of.outcome), "recorded": of.recorded, "sent": of.sent, "lost": of.lost,
                "p99_ms": of.p99.as_secs_f64() * 1000.0, "memory_octets": of.grown,
                "recovered_ms": of.recovered.map(|after| after.as_millis())})
        };
        raw.push(json!({"id": row.id, "attack": row.attack, "plain": plain.as_ref().map(side),
            "flytrap": side(of), "faults": faults}));
        broken.extend(faults);
    }
    println!();
    table.print();
    let wanting: Vec<&(&str, &str)> = wanting::ROWS.iter().filter(|(id, _)| wanted(id)).collect();
    if !wanting.is_empty() {
        println!("\nNot here:");
        for (id, why) in &wanting {
            println!("{id:4} {why}");
        }
    }
    println!();
    let succeeded = told.iter().filter(|(_, [plain, _])| {
        matches!(plain.as_ref().map(|of| &of.outcome), Some(Outcome::Succeeded(_)))
    });
    println!(
        "{} attacks; on the plain broker {} succeed; through the gateway {} bounds are broken; {} rows are elsewhere",
        told.len(),
        succeeded.count(),
        broken.len(),
        wanting.len()
    );
    keep::write(
        "attack",
        &json!({"rows": raw, "not_here": wanting.iter().map(|(id, why)| json!({"id": id, "why": why})).collect::<Vec<_>>()}),
    )?;
    Ok(broken)
}
