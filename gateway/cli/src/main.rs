//! `flytrap`: the wallet and auditor side. It reads its commands ([`args`]), asks the contracts ([`context`]) and tells the
//! answer ([`tell`]); `flytrap demo` runs a whole site of its own.

mod access;
mod args;
mod audit;
mod broker;
mod context;
mod countries;
mod demo;
mod device;
mod explain;
mod names;
mod settings;
mod tell;
mod units;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use eyre::Result;

use args::{Cli, Command};

fn main() -> ExitCode {
    // The one provider of cryptography for TLS, before anything asks for it.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("error: another TLS provider was installed first");
        return ExitCode::FAILURE;
    }
    let cli = Cli::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "error".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime =
        match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("error: the system gives no threads: {error}");
                return ExitCode::FAILURE;
            }
        };
    match runtime.block_on(run(&cli)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> Result<ExitCode> {
    let global = &cli.global;
    match &cli.command {
        Command::Broker(command) => broker::broker(global, command).await?,
        Command::Topic(command) => broker::topic(global, command).await?,
        Command::Access(command) => access::access(global, command).await?,
        Command::Payout(command) => access::payout(global, command).await?,
        Command::Device(command) => device::device(global, command).await?,
        Command::Token(command) => access::token(global, command).await?,
        Command::Ban(command) => broker::ban(global, command).await?,
        Command::Audit(args) => audit::audit(global, args).await?,
        Command::Can(args) => return explain::can(global, args).await,
        Command::Demo(args) => return demo::demo(args).await,
    }
    Ok(ExitCode::SUCCESS)
}
