//! `make eval`: what the gateway costs and how far it goes, beside the broker alone and beside proxies that look at nothing.
//!
//! [`scenario`] lists what is measured. Each scenario plays on one [`stage`], where the same load goes through each target in turn, and
//! writes what it measured into a [`book`], round by round. [`goals`] reads from it whether what must be reached was; [`report`] makes one
//! page of all of it. A scenario in which something that was sent did not arrive has failed, and with it the whole run.

pub mod book;
mod goals;
mod machine;
mod report;
mod scenario;
mod soak;
mod stage;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use eyre::{Result, bail, ensure};
use flytrap_bench::keep;
use serde_json::{Value, json};

use report::Report;
use stage::{Plan, Stage};

/// How much, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Nine rounds of a second each and the largest numbers; without it a short form of less than ten minutes.
    #[arg(long)]
    pub full: bool,
    /// These scenarios only; `--only help` lists them.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Afterwards steady traffic for so long, such as `10m` or `24h`: memory, descriptors, loss.
    #[arg(long, value_parser = span)]
    pub soak: Option<Duration>,
    /// Rounds of each target and case, where the form's own number is not meant.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Where report and raw data go; `target/eval` without it.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// The least that still measures something, for tests.
    #[arg(long, hide = true)]
    pub tiny: bool,
    /// The sink loses messages, for the test that this is noticed.
    #[arg(long, hide = true)]
    pub lossy_sink: bool,
}

impl Options {
    fn plan(&self) -> Plan {
        let (rounds, seconds, smaller) = match (self.full, self.tiny) {
            (_, true) => (2, 0.1, 50),
            (true, _) => (9, 1.0, 1),
            (false, false) => (3, 0.5, 4),
        };
        Plan { rounds: self.rounds.unwrap_or(rounds), seconds, smaller, full: self.full }
    }
}

/// `90s`, `10m`, `24h`.
fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err(format!("`{text}` is no time: wanted such as 90s, 10m or 24h")),
    };
    let number: u32 = number.parse().map_err(|error| format!("`{text}`: {error}"))?;
    Ok(Duration::from_secs(u64::from(number) * seconds))
}

/// What became of a scenario.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Played {
    name: &'static str,
    seconds: f64,
    failure: Option<String>,
}

/// Measures, and writes raw data and report.
///
/// # Errors
/// If something does not start, or a scenario failed.
pub async fn run(options: &Options) -> Result<()> {
    let chosen: Vec<_> = scenario::ALL
        .iter()
        .filter(|of| options.only.is_empty() || options.only.iter().any(|name| name == of.name))
        .collect();
    let known = || scenario::ALL.iter().map(|of| of.name).collect::<Vec<_>>().join(", ");
    for name in &options.only {
        ensure!(chosen.iter().any(|of| of.name == name), "no scenario called {name}: {}", known());
    }
    let (plan, began) = (options.plan(), Instant::now());
    let mut facts = machine::facts();
    facts.push(("open files".into(), machine::raise_descriptors().to_string()));
    let patience = Duration::from_secs(if options.tiny { 10 } else { 120 });
    eprintln!("starting a chain, Mosquitto, and what is measured");
    let mut stage = Stage::set(plan, patience, options.lossy_sink).await?;
    facts.push(("placed".into(), stage.pinning.sentence()));
    for missing in &stage.missing {
        eprintln!("  {missing}");
    }
    let mut played = Vec::new();
    for (number, scenario) in chosen.iter().enumerate() {
        eprintln!("[{}/{}] {}", number + 1, chosen.len(), scenario.title);
        stage.enter(scenario.name);
        let began = Instant::now();
        let failure = (scenario.play)(&mut stage).await.err().map(|error| format!("{error:#}"));
        let seconds = began.elapsed().as_secs_f64();
        match &failure {
            Some(why) => {
                eprintln!("        FAILED after {seconds:.0} s: {why}");
                // What it left open would be in the way of the next.
                let _ = stage.rig.tell(&flytrap_bench::rig::Order::Close);
            }
            None => eprintln!("        {seconds:.0} s"),
        }
        played.push(Played { name: scenario.name, seconds, failure });
    }
    let soak = match options.soak {
        Some(length) => Some(soak::run(&mut stage, length).await?),
        None => None,
    };
    let report = Report {
        plan,
        facts,
        versions: stage.versions.clone(),
        missing: stage.missing.clone(),
        command: command(options),
        played,
        book: std::mem::take(&mut stage.book),
        soak,
        kept: Kept::read()?,
        took: began.elapsed(),
    };
    drop(stage);
    write(options, &report)
}

/// What other commands kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    gas: Option<[Value; 2]>,
    attack: Option<Value>,
    forensics: Option<Value>,
    path: Option<Value>,
    mirror: Option<Value>,
}

impl Kept {
    fn read() -> Result<Self> {
        let root = flytrap_site::project_root()?;
        let gas = |name: &str| {
            let text = std::fs::read(root.join(format!("test-sol/gas/{name}.json"))).ok()?;
            serde_json::from_slice(&text).ok()
        };
        Ok(Self {
            gas: gas("execution").zip(gas("transaction")).map(|(one, other)| [one, other]),
            attack: keep::read("attack")?,
            forensics: keep::read("forensics")?,
            path: keep::read("bench-path")?,
            mirror: keep::read("bench-mirror")?,
        })
    }
}

/// What a reader types to get the same.
fn command(options: &Options) -> String {
    let mut more = String::new();
    if options.full {
        more += " --full";
    }
    if !options.only.is_empty() {
        more += &format!(" --only {}", options.only.join(","));
    }
    if let Some(rounds) = options.rounds {
        more += &format!(" --rounds {rounds}");
    }
    if let Some(soak) = options.soak {
        more += &format!(" --soak {}s", soak.as_secs());
    }
    match more.trim() {
        "" => "make eval".to_owned(),
        more => format!("make eval ARGS=\"{more}\""),
    }
}

fn write(options: &Options, report: &Report) -> Result<()> {
    let dir = options.out.clone().map_or_else(keep::folder, Ok)?;
    std::fs::create_dir_all(&dir)?;
    let raw = json!({
        "command": report.command, "machine": report.facts, "versions": report.versions, "missing": report.missing,
        "rounds": report.plan.rounds, "seconds_of_a_round": report.plan.seconds, "scenarios": report.played,
        "series": report.book.series, "soak": report.soak,
    });
    std::fs::write(dir.join("eval.json"), serde_json::to_vec_pretty(&raw)?)?;
    std::fs::write(dir.join("eval.csv"), report.book.csv())?;
    let page = dir.join("eval.html");
    std::fs::write(&page, report.page()?)?;
    println!("{}", report.summary());
    println!("raw data: eval.json and eval.csv beside the report");
    println!("report: {}", page.display());
    let failed: Vec<&str> =
        report.played.iter().filter(|of| of.failure.is_some()).map(|of| of.name).collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_numbers_with_a_unit() {
        assert_eq!(span("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(span("24h"), Ok(Duration::from_secs(86_400)));
        for wrong in ["", "5", "m", "-1h", "1.5h", "1d", "9999999999h"] {
            assert!(span(wrong).is_err(), "{wrong}");
        }
    }
}
