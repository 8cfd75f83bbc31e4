//! `make bench-path`: what one forwarded PUBLISH costs, and how the gateway stands beside a proxy that looks at nothing.
//!
//! Three parts, from the inside out. The [`machine`] alone: instructions (callgrind, exact) and allocations, with nothing
//! but the decision and the framing in them. The [`whole`] gateway, sockets and runtime included. And the gateway beside HAProxy
//! in TCP mode ([`compare`]), with a [`rig`] of load and sink, in turns, on one core. Whatever cannot be measured on a machine
//! is said. What was is written to `target/eval/bench-path.json` too, where `make eval` reads it.

mod allocations;
mod compare;
mod machine;
mod whole;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use eyre::{Result, WrapErr as _, bail, eyre};
use flytrap_bench::{keep, process, rig};
use flytrap_mqtt::QoS;
use serde_json::{Map, Value, json};

use machine::{Steady, Way};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

/// What one forwarded PUBLISH costs, and the gateway beside HAProxy.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    /// Measure this part only; may be given more than once.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Rounds of each proxy and case.
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// About how long each round lasts.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    #[command(subcommand)]
    inner: Option<Inner>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Machine,
    Whole,
    Compare,
}

/// What this program starts itself for.
#[derive(Debug, Subcommand)]
enum Inner {
    /// Load and sink, told what to do on standard input.
    #[command(hide = true)]
    Rig { patience: u64 },
    /// The machine alone, for callgrind.
    #[command(hide = true)]
    Play { way: Way, frames: u16, two_lengths: u8, reads: u64 },
    /// The gateway, with an allocator that counts.
    #[command(hide = true)]
    Run {
        #[arg(long)]
        config: PathBuf,
        #[arg(long)]
        ready_file: PathBuf,
    },
}

/// Longer than any round can take.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    match act(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(arguments: &Arguments) -> Result<()> {
    match &arguments.inner {
        Some(Inner::Rig { patience }) => return rig::serve(Duration::from_secs(*patience)),
        Some(Inner::Play { way, frames, two_lengths, reads }) => {
            return Steady::new(*way, QoS::AtMostOnce, *frames, *two_lengths == 1)?.play(*reads);
        }
        Some(Inner::Run { config, ready_file }) => {
            return whole::counted_gateway(config, ready_file.clone());
        }
        None => {}
    }
    flytrap_gateway::tls::install_provider();
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Parts that are not run now stay as they were kept.
    let mut kept = match keep::read("bench-path")? {
        Some(Value::Object(kept)) => kept,
        _ => Map::new(),
    };
    if wanted(Part::Machine) {
        println!("The machine alone, per forwarded PUBLISH:");
        kept.insert("machine".into(), machine_alone()?);
    }
    if wanted(Part::Whole) {
        println!("\nThe whole gateway, per forwarded PUBLISH:");
        kept.insert("whole".into(), runtime.block_on(whole::run())?);
    }
    if wanted(Part::Compare) {
        println!("\nBeside HAProxy in TCP mode:");
        if process::is_there("haproxy") {
            let compared = runtime.block_on(compare::run(arguments.rounds, arguments.seconds))?;
            kept.insert("compare".into(), compared);
        } else {
            println!("not compared: haproxy is missing");
        }
    }
    keep::write("bench-path", &kept.into()).map(drop)
}

fn machine_alone() -> Result<Value> {
    let mut kept = Vec::new();
    for way in [Way::Publish, Way::Deliver] {
        // Messages that begin alike are read once, so there are some that do not.
        for (frames, two_lengths) in [(100, false), (100, true), (1, false)] {
            let mut steady = Steady::new(way, QoS::AtMostOnce, frames, two_lengths)?;
            steady.play(1_000)?;
            let (before, forwarded) = (allocations::count(), steady.forwarded());
            steady.play(100_000 / u64::from(frames))?;
            let made = allocations::count() - before;
            let messages = steady.forwarded() - forwarded;
            let counted = instructions(way, frames, two_lengths)?;
            let instructions = match counted {
                Some(count) => format!("{count:.0} instructions"),
                None => "instructions not counted (valgrind is missing)".to_owned(),
            };
            let plural = if frames == 1 { "" } else { "s" };
            let octets = if two_lengths { "64 and 63" } else { "64" };
            println!(
                "  {}, QoS 0, {octets} octets, {frames} packet{plural} a read: {instructions}, {made} allocations for {messages} messages",
                way.sentence()
            );
            if made > 0 {
                bail!("the machine allocates in steady state");
            }
            let (case, allocations) = (way.sentence(), made as f64 / messages as f64);
            kept.push(
                json!({"case": case, "octets": octets, "packets a read": frames, "instructions": counted, "allocations": allocations}),
            );
        }
    }
    Ok(kept.into())
}

/// Instructions per packet: the difference between a long run and a short one, so that the start does not count.
fn instructions(way: Way, frames: u16, two_lengths: bool) -> Result<Option<f64>> {
    if !process::is_there("valgrind") {
        return Ok(None);
    }
    let counted = |reads| under_callgrind(way, frames, two_lengths, reads);
    let (few, many) = (1_000 / u64::from(frames), 101_000 / u64::from(frames));
    let (less, more) = (counted(few)?, counted(many)?);
    Ok(Some((more - less) as f64 / ((many - few) * u64::from(frames)) as f64))
}

fn under_callgrind(way: Way, frames: u16, two_lengths: bool, reads: u64) -> Result<u64> {
    let way = way.to_possible_value().ok_or_else(|| eyre!("a way without a name"))?;
    let done = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["play", way.get_name()])
        .args([u64::from(frames), u64::from(two_lengths), reads].map(|number| number.to_string()))
        .output()
        .wrap_err("valgrind does not start")?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    let count = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .map(|(_, count)| count.trim());
    let count =
        count.filter(|_| done.status.success()).ok_or_else(|| eyre!("callgrind: {said}"))?;
    Ok(count.parse()?)
}
