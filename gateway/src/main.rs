//! `flytrap-gateway`: stands in front of an MQTT broker and lets through what the contracts allow.

mod bans_command;
mod key;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bans_command::BansCommand;
use clap::{Args, Parser, Subcommand};
use eyre::{WrapErr as _, bail, eyre};
use flytrap_gateway::bans::Subject;
use flytrap_gateway::config::Config;
use flytrap_gateway::control::{Answer, Request};
use flytrap_gateway::{audit, check, control, health, server, tls};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Authentication, authorisation and accountability in front of any MQTT broker, ruled from Ethereum.
///
/// Logs go to standard error: text on a terminal, JSON otherwise. FLYTRAP_LOG sets what is logged, such as
/// `info` (default) or `info,flytrap_gateway=debug`.
#[derive(Debug, Parser)]
#[command(name = "flytrap-gateway", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway until SIGTERM or SIGINT.
    Run {
        #[command(flatten)]
        config: ConfigFile,
        /// Write the addresses as JSON here once the gateway is ready for clients.
        #[arg(long, value_name = "PATH")]
        ready_file: Option<PathBuf>,
    },
    /// Check the configuration, the files it names and what is on chain. Ends with 1 if anything is wrong.
    CheckConfig {
        #[command(flatten)]
        config: ConfigFile,
        /// Leave the chain out.
        #[arg(long)]
        offline: bool,
    },
    /// Make the gateway's key, or tell its address.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// List, add and lift bans at a running gateway. Ends with 1 if it was not done.
    Bans {
        #[command(flatten)]
        place: Place,
        #[command(subcommand)]
        what: BansCommand,
    },
    /// Make unreadable for ever what is personal in the records so far about a wallet or an address: client ids, topic names, origins.
    /// The records stay and prove what they proved; that this was done is one of them.
    Erase {
        #[command(flatten)]
        place: Place,
        /// A wallet (0x and 40 digits), an address, or an origin's pseudonym (0x and 64).
        subject: Subject,
    },
    /// Write the anchored records as a file that `flytrap audit verify` checks. The gateway may be running.
    Export {
        #[command(flatten)]
        config: ConfigFile,
        /// Where to; standard output if not given.
        #[arg(long, value_name = "PATH")]
        out: Option<PathBuf>,
        /// Number of the first interval to write.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
        from: u64,
    },
    /// The gateway's records as a whole.
    #[command(subcommand)]
    Records(RecordsCommand),
    /// Ask a running gateway whether it is ready. Ends with 0 only if it is.
    Health {
        /// `health.bind` of the gateway, as host:port or URL.
        #[arg(default_value = "127.0.0.1:9100")]
        address: String,
        /// Seconds to wait.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
        timeout: u64,
    },
}

#[derive(Debug, Subcommand)]
enum RecordsCommand {
    /// Move the records from the file in `state_dir` to the empty database of `audit.database`, all or none: they are read back and checked before that
    /// counts. The gateway must not be running; the file stays as it is.
    Move {
        #[command(flatten)]
        config: ConfigFile,
    },
}

/// Which gateway: by its configuration or by its state directory.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// The configuration file of the gateway that runs.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its `state_dir`.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Place {
    fn state_dir(self) -> eyre::Result<PathBuf> {
        match (self.state_dir, self.config) {
            (Some(state_dir), _) => Ok(state_dir),
            (None, config) => Config::state_dir(&config.unwrap_or_default()).map_err(|e| eyre!(e)),
        }
    }
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ConfigFile {
    /// The configuration file (TOML).
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same, as an option.
    #[arg(long = "config", value_name = "FILE")]
    option: Option<PathBuf>,
}

impl ConfigFile {
    fn path(self) -> PathBuf {
        self.file.or(self.option).unwrap_or_default()
    }
}

fn main() -> ExitCode {
    // Before any key is read. Where the system refuses, the gateway runs all the same.
    let shut = flytrap_chain::keys::shut_memory();
    tls::install_provider();
    if let Err(error) = shut {
        eprintln!(
            "warning: a crash of this process may write its memory into a core file: {error}"
        );
    }
    match act(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> eyre::Result<ExitCode> {
    match command {
        Command::Run { config, ready_file } => {
            start_log();
            let config = Config::load(&config.path())?;
            let runtime = runtime()?;
            let outcome = runtime.block_on(run(config, ready_file));
            // A name look-up that hangs sits in a blocking thread and would hold the process up.
            runtime.shutdown_timeout(Duration::from_millis(500));
            outcome.map(|()| ExitCode::SUCCESS)
        }
        Command::CheckConfig { config, offline } => {
            let runtime = runtime()?;
            let findings = runtime.block_on(check::check(&config.path(), !offline));
            runtime.shutdown_timeout(Duration::from_millis(500));
            for finding in &findings {
                println!("{finding}");
            }
            Ok(if findings.iter().all(|finding| finding.mark != check::Mark::Wrong) {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::Key(command) => command.act().map(|()| ExitCode::SUCCESS),
        Command::Bans { place, what } => {
            let state_dir = place.state_dir()?;
            let runtime = runtime()?;
            runtime.block_on(bans_command::act(&state_dir, what))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Erase { place, subject } => {
            let state_dir = place.state_dir()?;
            let request = Request::Erase { subject };
            let told = match runtime()?.block_on(control::ask(&state_dir, &request))? {
                Answer::Erased { found: true } => "Erased.",
                Answer::Erased { found: false } => "There was nothing to erase.",
                other => bail!("the gateway answered something else: {other:?}"),
            };
            println!("{told}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Export { config, out, from } => {
            let config = Config::load(&config.path())?;
            let runtime = runtime()?;
            let exported = runtime.block_on(audit::export(&config, from, out.as_deref()))?;
            eprintln!("{exported}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Records(RecordsCommand::Move { config }) => {
            let config = Config::load(&config.path())?;
            println!("{}", runtime()?.block_on(audit::move_records(&config))?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Health { address, timeout } => {
            println!("{}", health::ask(&address, Duration::from_secs(timeout))?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// An error with its causes, leaving out what a sentence before has said already.
fn told(error: &eyre::Report) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if !text.contains(&cause) {
            let colon = if text.is_empty() { "" } else { ": " };
            text.push_str(colon);
            text.push_str(&cause);
        }
    }
    text
}

async fn run(config: Config, ready_file: Option<PathBuf>) -> eyre::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).wrap_err("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).wrap_err("cannot listen for SIGINT")?;
    info!(version = env!("CARGO_PKG_VERSION"), config = %config.file.display(), "starting");
    let server = server::run(config, ready_file, stop.clone());
    tokio::pin!(server);
    tokio::select! {
        outcome = &mut server => return Ok(outcome?),
        _ = terminate.recv() => info!("SIGTERM: stopping"),
        _ = interrupt.recv() => info!("SIGINT: stopping"),
    }
    stop.cancel();
    tokio::select! {
        outcome = &mut server => Ok(outcome?),
        _ = terminate.recv() => Err(eyre!("told twice to stop: ended at once")),
        _ = interrupt.recv() => Err(eyre!("told twice to stop: ended at once")),
    }
}

fn runtime() -> eyre::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .wrap_err("cannot start the runtime")
}

fn start_log() {
    let filter =
        ["FLYTRAP_LOG", "RUST_LOG"].into_iter().find_map(|name| EnvFilter::try_from_env(name).ok());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|| EnvFilter::new("info")))
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        log.init();
    } else {
        log.json().flatten_event(true).init();
    }
}
