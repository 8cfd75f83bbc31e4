//! `flytrap-eval`: what `make eval`, `make shadow`, `make attack`, `make revocations` and `make forensics` start.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use eyre::Result;
use flytrap_bench::rig;
use flytrap_eval::{attack, forensics, revocations, scale, shadow, suite};

/// Judges and measures the whole system from outside.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Random traffic and changes on chain; every packet judged by a second opinion.
    Shadow(shadow::Options),
    /// Attacks on a plain broker and through the gateway, beside an honest pair.
    Attack(attack::Options),
    /// How long a right outlives the block that ends it.
    Revocations(revocations::Options),
    /// A breach that a script hides among records, found with the product's commands alone.
    Forensics(forensics::Options),
    /// What the gateway costs and how far it goes, beside the broker alone and other proxies; writes one page.
    Eval(suite::Options),
    /// What so many devices would need, from the kept figures.
    Scale(scale::Options),
    /// Many gateways' followers of one chain: what they ask the node, what they cost, when the last of them knows.
    Followers(scale::followers::Options),
    /// Load and sink, told what to do on standard input.
    #[command(hide = true)]
    Rig { patience: u64 },
}

fn main() -> ExitCode {
    flytrap_eval::install_provider();
    let what = Arguments::parse().what;
    match act(&what) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(what: &What) -> Result<()> {
    // One thread, and no runtime of many beside it.
    if let What::Rig { patience } = what {
        return rig::serve(Duration::from_secs(*patience));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match what {
            What::Shadow(options) => shadow::run(options).await,
            What::Attack(options) => attack::run(options).await,
            What::Revocations(options) => revocations::run(options).await,
            What::Forensics(options) => forensics::run(options).await,
            What::Eval(options) => suite::run(options).await,
            What::Scale(options) => scale::run(options),
            What::Followers(options) => scale::followers::run(options).await,
            What::Rig { .. } => Ok(()),
        }
    })
}
