//! `flytrap-eval`: what `make shadow`, `make attack`, `make revocations` and `make forensics` start.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use flytrap_eval::{attack, forensics, revocations, shadow};

/// Judges the whole system from outside.
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
}

fn main() -> ExitCode {
    flytrap_eval::install_provider();
    let what = Arguments::parse().what;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match &what {
            What::Shadow(options) => shadow::run(options).await,
            What::Attack(options) => attack::run(options).await,
            What::Revocations(options) => revocations::run(options).await,
            What::Forensics(options) => forensics::run(options).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
