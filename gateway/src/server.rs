//! Starts everything, watches over it, and stops it in order.
//!
//! Stopping: listeners and sessions first (an MQTT 5 client is told 0x8B), then what still waits for the chain goes to
//! the submitter's files, then the submitter itself and the rest.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use flytrap_chain::signer::SignerError;
use flytrap_chain::{
    Deployment, DeploymentError, FollowError, Follower, FollowerConfig, Submitter, SubmitterConfig,
    SubmitterError, SubmitterHandle,
};
use flytrap_policy::Rules;
use flytrap_policy::credential::Site;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::api::{self, Api};
use crate::audit::{self, Audit, Place, Store, StoreError};
use crate::bans::{Bans, OnChain, Shelf};
use crate::conduct::Conduct;
use crate::config::{self, Config, PseudonymKey, Readers, Recording, Secret};
use crate::control::{self, Office};
use crate::countries::{Countries, CountriesCollector};
use crate::door::Door;
use crate::health::{self, Vitals, VitalsCollector};
use crate::hidden_names::{HiddenNames, Known};
use crate::kept_rows::Unreadable;
use crate::listener::{BindError, Listener, check_open_files};
use crate::log_budget::LogBudget;
use crate::metrics::{Metrics, ReloadLabel};
use crate::mirror::Mirror;
use crate::outbox::Outbox;
use crate::probe;
use crate::seats::Seats;
use crate::shared::Shared;
use crate::upstreams::Upstreams;
use crate::used_tokens::{Unwritten, UsedTokens};
use crate::wallet_desk::WalletDesk;

/// Why the gateway did not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The state directory.
    #[error("`state_dir` \"{path}\": {error}; make it a directory that this user can write to", path = .path.display())]
    State {
        /// What could not be used.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another process has it.
    #[error("`state_dir` \"{path}\" is in use by another gateway: end it, or give each its own", path = .path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The pseudonym key that an earlier start made.
    #[error("pseudonym key \"{path}\": {wrong}", path = .path.display())]
    PseudonymKey {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// A port.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The deployments file.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// The chain is not the one the contracts are on, or they are not there.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The queue towards the chain.
    #[error(transparent)]
    Submitter(#[from] SubmitterError),
    /// The key that signs, at a key management service.
    #[error("`gateway`: {0}")]
    Key(SignerError),
    /// The tokens that were used.
    #[error("{0}; mend it, or remove the file: every token then counts once more")]
    UsedTokens(#[from] Unwritten),
    /// The bans of an earlier run.
    #[error(
        "the ban ledger {0}; restore it, or remove it: bans of this gateway that are not on chain then end"
    )]
    Bans(Unreadable),
    /// The hidden names that were told.
    #[error(
        "the hidden names {0}; restore it, or remove it: owners then have to tell their names again, and take back again what they had taken back within a day"
    )]
    HiddenNames(Unreadable),
    /// Where `flytrap-gateway bans` is answered.
    #[error(
        "control socket in `state_dir`: {0}; make it a directory on a file system that has sockets"
    )]
    Control(io::Error),
    /// The records.
    #[error(transparent)]
    Records(#[from] StoreError),
    /// A fault of ours while they were opened.
    #[error("opening the records: {0}; report it")]
    RecordsThread(tokio::task::JoinError),
    /// A fault of ours while country databases were read.
    #[error("reading the country databases: {0}; report it, and start without them")]
    Countries(tokio::task::JoinError),
    /// Health and metrics can no longer be served.
    #[error("health and metrics cannot be served: {0}")]
    Health(io::Error),
    /// The API can no longer be served.
    #[error("the API cannot be served: {0}")]
    Api(io::Error),
    /// The system's.
    #[error("cannot listen for SIGHUP: {0}")]
    Signal(io::Error),
    /// The follower has no thread.
    #[error("no thread for following the chain: {0}")]
    Thread(io::Error),
    /// The ready file.
    #[error("ready file \"{path}\": {error}; name a path that can be written", path = .path.display())]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// How long a start waits for the database with the records.
const RECORDS_PATIENCE: Duration = Duration::from_secs(10);
/// Time for the rest to end once sessions have, before it is ended by force.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

/// Runs a gateway until `stop`. `ready_file` gets the addresses once it is ready for clients.
///
/// # Errors
/// [`ServerError`] if it cannot start, or finds what no waiting can heal.
pub async fn run(
    config: Config,
    ready_file: Option<PathBuf>,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    let config = Arc::new(config);
    // Before anything else: until someone listens for it, this signal ends the process.
    let hangups = signal(SignalKind::hangup()).map_err(ServerError::Signal)?;
    let _lock = lock_state(&config.state_dir)?;
    let pseudonym_key = pseudonym_key(&config)?;
    let deployment = Deployment::read(&config.chain.deployment)?;
    let listeners =
        config.listeners.iter().cloned().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
    let (health_socket, health_address) = crate::listener::bind("health", config.health.bind)?;
    let api_socket = match &config.api {
        Some(api) => Some(crate::listener::bind("api", api.bind)?),
        None => None,
    };
    check_open_files(config.limits.max_connections);

    let mut registry = Registry::with_prefix("flytrap");
    let metrics = Metrics::register(&mut registry);
    let (mirror, writer) = Mirror::new(&config.chain, config.access);
    let mirror_writer = Arc::new(writer);
    let follower = Follower::new(follower_config(&config, &deployment), {
        let writer = mirror_writer.clone();
        move |view| writer.publish(view)
    });
    let (chain_health, sight) = (follower.health(), follower.sight());
    mirror.trust(chain_health.clone());

    let submitter = match &config.recording {
        Recording::Off => {
            warn!(
                "`gateway.record` is off: bans and alerts stay here and are not recorded on chain"
            );
            None
        }
        Recording::On(key) => {
            let signer = key.open().await.map_err(ServerError::Key)?;
            Some(Submitter::open(submitter_config(&config, &deployment), signer, sight)?)
        }
    };
    let submitter_health = submitter.as_ref().map(|(_, handle)| handle.health());
    let gateway = submitter.as_ref().map_or(Address::ZERO, |(_, handle)| handle.address());
    let store = open_records(&config, gateway, &pseudonym_key).await?;
    let (shelf, left) = Shelf::open(&config.state_dir, mirror.now()).map_err(ServerError::Bans)?;
    let known = Known::open(&config.state_dir).map_err(ServerError::HiddenNames)?;
    let bans = Arc::new(Bans::new(pseudonym_key, left));
    let control = control::bind(&config.state_dir).map_err(ServerError::Control)?;
    let outbox = Outbox::new(submitter.is_some(), bans.clone(), metrics.clone());
    let rules = config.audit.rules.clone();
    let own = rules.as_ref().map(|file| file.rules.clone()).unwrap_or_default();
    let (audit, inbox) =
        Audit::new(Rules::new(own), outbox.clone(), mirror.clone(), metrics.clone());
    let writer = audit::Writer::new(store, inbox);
    let log = Arc::new(LogBudget::default());
    let door = Arc::new(Door::new(
        &config.limits,
        bans.clone(),
        mirror.clone(),
        audit.clone(),
        log.clone(),
        metrics.clone(),
    ));
    let conduct = Arc::new(Conduct::new(
        config.conduct.limit,
        config.conduct.ban,
        bans.clone(),
        mirror.clone(),
        audit.clone(),
        metrics.clone(),
        stop.clone(),
    ));
    let (countries, mut keeper) = {
        let (wanted, metrics) = (config.countries.clone(), metrics.clone());
        // Files are read in it, and a signal must not have to wait for them.
        tokio::task::spawn_blocking(move || Countries::open(&wanted, metrics))
            .await
            .map_err(ServerError::Countries)?
    };
    keeper.record(&audit, mirror.now()).await;
    let wallet_desk = config
        .authentication
        .contract_wallets
        .then(|| Arc::new(WalletDesk::new(config.chain.urls.clone(), &chain_health)));
    let used_tokens = match config.authentication.single_use_tokens {
        true => Some(UsedTokens::open(&config.state_dir)?),
        false => None,
    };
    let (used_tokens, ledger) = used_tokens.unzip();
    let upstreams = Arc::new(Upstreams::new(&config.broker));
    let site = Site {
        chain_id: deployment.chain_id,
        broker_registry: deployment.broker_registry,
        broker_id: config.chain.broker_id,
    };
    let names = Arc::new(HiddenNames::new(
        known,
        site,
        mirror.clone(),
        mirror_writer,
        wallet_desk.clone(),
        audit.clone(),
    ));
    let api_socket = config.api.clone().zip(api_socket).map(|(api, (socket, address))| {
        let facts = api::Facts {
            gateway,
            anchors: submitter.is_some(),
            drops_refusals: config.audit.retention.refusals.is_some(),
            deployment: deployment.clone(),
            broker_id: config.chain.broker_id,
            urls: config.chain.urls.clone(),
            history: u64::try_from(config.chain.history).unwrap_or(u64::MAX),
        };
        let health = chain_health.clone();
        let (records, dir) = (Place::of(&config, facts.gateway), &config.state_dir);
        let api = Api::new(api, facts, dir, records, health, names.clone(), metrics.clone());
        (api, socket, address)
    });
    let vitals = Arc::new(Vitals::new(
        mirror.clone(),
        chain_health,
        upstreams.clone(),
        submitter_health,
        stop.clone(),
    ));
    registry.register_collector(Box::new(VitalsCollector(vitals.clone())));
    registry.register_collector(Box::new(CountriesCollector(countries.clone())));
    let shared = Arc::new(Shared {
        config: config.clone(),
        mirror: mirror.clone(),
        door: door.clone(),
        conduct: conduct.clone(),
        log,
        audit: audit.clone(),
        countries,
        metrics: metrics.clone(),
        upstreams: upstreams.clone(),
        wallet_desk,
        used_tokens,
        site,
        stop: stop.clone(),
    });

    // `after` ends what sessions and the outbox need while they end; `last` ends the submitter.
    let (after, last) = (CancellationToken::new(), CancellationToken::new());
    let (mut parts, mut outward) = (Parts::default(), Parts::default());
    let terms = audit::Terms {
        gateway,
        interval: config.audit.interval,
        mirror: mirror.clone(),
        metrics: metrics.clone(),
        rules: rules.as_ref().map_or(B256::ZERO, |file| file.hash),
        retention: config.audit.retention,
    };
    let anchors = submitter.as_ref().map(|(_, handle)| handle.clone());
    parts.spawn("records", {
        let after = after.clone();
        async move {
            writer.run(terms, anchors, after).await;
            Ok(())
        }
    });
    parts.spawn("follower", {
        let after = after.clone();
        apart(follower, after)
    });
    if let Some(rules) = rules {
        // A second listener for the same signal: each gets each.
        let hangups = signal(SignalKind::hangup()).map_err(ServerError::Signal)?;
        let (audit, metrics, after) = (audit.clone(), metrics.clone(), after.clone());
        parts.spawn("audit rules", async move {
            audit::follow_rules(rules, hangups, audit, metrics, after).await;
            Ok(())
        });
    }
    parts.spawn("countries", {
        let hangups = signal(SignalKind::hangup()).map_err(ServerError::Signal)?;
        let (audit, mirror, after) = (audit.clone(), mirror.clone(), after.clone());
        async move {
            keeper.run(hangups, audit, mirror, after).await;
            Ok(())
        }
    });
    let records = audit.clone();
    let office = Office {
        bans: bans.clone(),
        door,
        conduct,
        mirror: mirror.clone(),
        outbox: outbox.clone(),
        audit,
    };
    parts.spawn("hidden names", {
        let after = after.clone();
        async move {
            names.run(after).await;
            Ok(())
        }
    });
    let queue = submitter.as_ref().map(|(_, handle)| handle.clone());
    parts.spawn("bans", follow_mirror(office.clone(), queue, after.clone()));
    parts.spawn("control", {
        let after = after.clone();
        async move {
            control::serve(control, office, after).await;
            Ok(())
        }
    });
    // After all that bans: what they did last is written too.
    outward.spawn("ban ledger", {
        let (metrics, last) = (metrics.clone(), last.clone());
        async move {
            shelf.run(bans, metrics, last).await;
            Ok(())
        }
    });
    for broker in upstreams.all() {
        let (broker, every, after) = (broker.clone(), config.broker.probe_interval, after.clone());
        parts.spawn("broker probe", async move {
            probe::run(broker, every, after).await;
            Ok(())
        });
    }
    parts.spawn(
        "certificates",
        reload_certificates(hangups, config.clone(), metrics, after.clone()),
    );
    parts.spawn("health", {
        let (vitals, after) = (vitals.clone(), after.clone());
        async move {
            health::serve(health_socket, vitals, registry, after).await.map_err(ServerError::Health)
        }
    });
    let mut api_address = None;
    if let Some((api, socket, address)) = api_socket {
        info!("API on http://{address}/v1");
        api_address = Some(address);
        let after = after.clone();
        parts.spawn("api", async move { api.serve(socket, after).await.map_err(ServerError::Api) });
    }
    if let Some(ledger) = ledger {
        let after = after.clone();
        parts.spawn("used tokens", async move {
            ledger.run(after).await;
            Ok(())
        });
    }
    if let Some((submitter, handle)) = submitter {
        outward.spawn("submitter", {
            let last = last.clone();
            async move {
                submitter.run(last).await;
                Ok(())
            }
        });
        let (interval, after) = (config.audit.interval, after.clone());
        parts.spawn("outbox", async move {
            outbox.run(handle, mirror, interval, after).await;
            Ok(())
        });
    }
    let sessions = TaskTracker::new();
    let seats = Seats::new(config.limits.max_connections, config.limits.max_connections_per_origin);
    let mut addresses = HashMap::new();
    for listener in listeners {
        addresses.insert(listener.name().to_owned(), listener.address());
        // Tests and people read this very line.
        info!("listening on {} ({})", listener.address(), listener.name());
        let (shared, seats, tasks) = (shared.clone(), seats.clone(), sessions.clone());
        parts.spawn("listener", async move {
            listener.serve(shared, seats, tasks).await;
            Ok(())
        });
    }
    info!("health and metrics on http://{health_address}");
    if let Some(path) = ready_file {
        // One of an earlier run would tell wrong addresses.
        let _ = fs::remove_file(&path);
        parts.spawn_passing(announce(
            path,
            addresses,
            health_address,
            api_address,
            vitals.clone(),
            stop.clone(),
        ));
    }

    let outcome = watch(&mut parts, &mut outward, &vitals, &stop).await;
    // Listeners and sessions wait for this token; where it was not the reason, it now is the means.
    stop.cancel();
    sessions.close();
    if timeout(config.limits.drain, sessions.wait()).await.is_err() {
        warn!(sessions = sessions.len(), "sessions did not end in `limits.drain` and are cut off");
    }
    after.cancel();
    parts.end().await;
    let lost = records.unwritten();
    if !lost.is_empty() {
        error!(
            accesses = lost.accesses(),
            refusals = lost.refusals(),
            others = lost.others(),
            "the gateway stops and has not written these records: they are lost, unless the database finishes by itself what it was told last"
        );
    }
    last.cancel();
    outward.end().await;
    info!("stopped");
    outcome
}

/// Waits for `stop`, and tells of parts that end before. Only what cannot heal ends the gateway.
async fn watch(
    parts: &mut Parts,
    outward: &mut Parts,
    vitals: &Vitals,
    stop: &CancellationToken,
) -> Result<(), ServerError> {
    loop {
        let (name, outcome) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            Some(ended) = parts.ended() => ended,
            Some(ended) = outward.ended() => ended,
        };
        match outcome {
            Some(Ok(())) if name == PASSING || stop.is_cancelled() => {}
            Some(Err(fatal @ (ServerError::Follow(_) | ServerError::ReadyFile { .. }))) => {
                return Err(fatal);
            }
            Some(Ok(())) => fault(vitals, name, "it ended early"),
            Some(Err(error)) => fault(vitals, name, &error.to_string()),
            None => fault(vitals, name, "it panicked"),
        }
    }
}

fn fault(vitals: &Vitals, name: &'static str, why: &str) {
    error!(part = name, why, "a part of the gateway has ended: it is no longer ready, restart it");
    vitals.part_ended(name);
}

const PASSING: &str = "passing";

/// Tasks that run as long as the gateway, by name.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<Result<(), ServerError>>,
    names: HashMap<Id, &'static str>,
}

impl Parts {
    fn spawn(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), ServerError>> + Send + 'static,
    ) {
        let id = self.tasks.spawn(part).id();
        self.names.insert(id, name);
    }

    /// A task that may end by itself.
    fn spawn_passing(
        &mut self,
        part: impl Future<Output = Result<(), ServerError>> + Send + 'static,
    ) {
        self.spawn(PASSING, part);
    }

    /// The next that ended, `None` in place of its outcome if by a panic. `None` at once if there are none.
    async fn ended(&mut self) -> Option<(&'static str, Option<Result<(), ServerError>>)> {
        let (id, outcome) = match self.tasks.join_next_with_id().await? {
            Ok((id, outcome)) => (id, Some(outcome)),
            Err(error) => (error.id(), None),
        };
        Some((self.names.remove(&id).unwrap_or("unnamed"), outcome))
    }

    async fn end(mut self) {
        let all = async { while self.ended().await.is_some() {} };
        if timeout(LAST_PATIENCE, all).await.is_err() {
            let left: Vec<_> = self.names.values().collect();
            warn!(?left, "parts did not end in time and are cut off");
        }
    }
}

/// Reads the certificates of all listeners again at each SIGHUP. Each listener by itself: what is wrong with one keeps no other
/// from its renewed certificate.
async fn reload_certificates(
    mut hangups: Signal,
    config: Arc<Config>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = hangups.recv() => info!("SIGHUP: reading the certificates again"),
        }
        for listener in &config.listeners {
            let Some(tls) = &listener.tls else { continue };
            let outcome = match tls.reload() {
                Ok(()) => {
                    info!(listener = listener.name, "certificates read again");
                    "ok"
                }
                Err(faults) => {
                    for fault in faults {
                        error!(listener = listener.name, %fault, "the certificates stay as they were: correct the file and send SIGHUP again");
                    }
                    "refused"
                }
            };
            let label = ReloadLabel { listener: listener.name.as_str().into(), outcome };
            metrics.tls_reloads.get_or_create(&label).inc();
        }
    }
}

/// Lets bans follow the chain when the mirror moved. At its first sight, bans of an earlier run that never got into the queue towards the
/// chain are handed in: a kill may have come in between.
async fn follow_mirror(
    office: Office,
    queue: Option<SubmitterHandle>,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    let mut moved = office.mirror.changed();
    let (mut left_over, mut is_due) = (queue, true);
    loop {
        // Before there is a view, or by one that is too old, bans that are on chain would look lifted.
        if is_due && office.mirror.fitness().admits() {
            is_due = false;
            office.follow();
            if let Some(queue) = left_over.take() {
                hand_in_left_over(&office, &queue).await;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = moved.changed() => match changed {
                Ok(()) => is_due = true,
                Err(_) => return Ok(()),
            },
            // A view is there a moment before it is fit.
            () = tokio::time::sleep(Duration::from_millis(200)), if is_due => {}
        }
    }
}

async fn hand_in_left_over(office: &Office, queue: &SubmitterHandle) {
    for ban in office.bans.page(None, usize::MAX, office.mirror.now()) {
        let Some(subject) = office.outbox.subject_on_chain(&ban.subject) else { continue };
        // One that was queued is held, or was lost with a damaged intent: then it is told once more.
        if ban.chain == OnChain::Seen {
            continue;
        }
        if queue.holds_ban(subject, ban.until).await {
            office.bans.told([(ban.subject, ban.until)], OnChain::Queued);
        } else {
            office.outbox.ban(&ban);
        }
    }
}

/// Writes the ready file once the gateway is ready.
async fn announce(
    path: PathBuf,
    listeners: HashMap<String, SocketAddr>,
    health: SocketAddr,
    api: Option<SocketAddr>,
    vitals: Arc<Vitals>,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    while !vitals.readiness().ready {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(25)) => {}
        }
    }
    let text =
        serde_json::json!({ "listeners": listeners, "health": health, "api": api }).to_string();
    // Renamed into place, so that whoever waits for it never reads half of it.
    let mut unfinished = path.clone().into_os_string();
    unfinished.push(".new");
    let written = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &path));
    written.map_err(|error| ServerError::ReadyFile { path, error })
}

/// Makes the state directory and keeps others out of it as long as the file lives.
pub(crate) fn lock_state(path: &Path) -> Result<File, ServerError> {
    let wrong = |error| ServerError::State { path: path.to_owned(), error };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(wrong)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path.join("lock"))
        .map_err(wrong)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => Err(ServerError::InUse { path: path.to_owned() }),
        Err(fs::TryLockError::Error(error)) => Err(wrong(error)),
    }
}

/// The given key, or the one that the first start made.
/// The records. A server may be started at the same time as this, or not have noticed yet that a gateway of before has ended.
async fn open_records(
    config: &Config,
    gateway: Address,
    pseudonym_key: &Secret<[u8; 32]>,
) -> Result<Store, ServerError> {
    let place = Place::of(config, gateway);
    let deadline = tokio::time::Instant::now() + RECORDS_PATIENCE;
    loop {
        let (place, key) = (place.clone(), pseudonym_key.clone());
        let opened = tokio::task::spawn_blocking(move || Store::open(&place, gateway, key));
        match opened.await.map_err(ServerError::RecordsThread)? {
            Err(why @ (StoreError::Away { .. } | StoreError::Held { .. }))
                if tokio::time::Instant::now() < deadline =>
            {
                warn!(%why, "the records cannot be opened yet");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            opened => return Ok(opened?),
        }
    }
}

fn pseudonym_key(config: &Config) -> Result<Secret<[u8; 32]>, ServerError> {
    if let PseudonymKey::Given(key) = &config.audit.pseudonym_key {
        return Ok(key.clone());
    }
    let path = config.state_dir.join("pseudonym.key");
    if path.exists() {
        let wrong = |wrong: String| ServerError::PseudonymKey { path: path.clone(), wrong };
        let text = config::read(&path, Readers::OwnerOnly).map_err(wrong)?;
        return config::pseudonym_key(&text).ok_or_else(|| wrong("it holds no 64 hexadecimal digits; restore it, or remove it to begin with a new one".to_owned()));
    }
    let key = Zeroizing::new(rand::random::<[u8; 32]>());
    let text = Zeroizing::new(alloy_primitives::hex::encode(*key));
    let unfinished = config.state_dir.join("pseudonym.key.new");
    let write = || {
        let mut file = File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)
    };
    write().map_err(|error| ServerError::State { path: path.clone(), error })?;
    info!(file = %path.display(), "made a pseudonym key; gateways of one broker must share it, see `audit.pseudonym_key_file`");
    Ok(Secret::new(*key))
}

fn follower_config(config: &Config, deployment: &Deployment) -> FollowerConfig {
    FollowerConfig {
        urls: config.chain.urls.clone(),
        deployment: deployment.clone(),
        broker_id: config.chain.broker_id,
        confirmations: config.chain.confirmations,
        poll: config.chain.poll,
        history: config.chain.history,
        quorum: config.chain.quorum,
        proof: config.chain.proof,
        prove_history: config.chain.prove_history,
        request_timeout: config.chain.request_timeout,
        snapshot: Some((config.state_dir.join("mirror.snapshot"), config.chain.snapshot_interval)),
        options: config.access,
    }
}

/// Runs the follower on a thread of its own: however long it takes to apply a block, it never holds up a session that waits for
/// the same thread of the runtime.
async fn apart(follower: Follower, stop: CancellationToken) -> Result<(), ServerError> {
    let (done, outcome) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServerError::Thread)?;
    std::thread::Builder::new()
        .name("follower".to_owned())
        .spawn(move || {
            // Nobody listens any more where the gateway has not waited for it.
            let _ = done.send(runtime.block_on(follower.run(stop)));
            runtime.shutdown_timeout(Duration::from_millis(500));
        })
        .map_err(ServerError::Thread)?;
    match outcome.await {
        Ok(outcome) => outcome.map_err(ServerError::from),
        Err(_) => Err(ServerError::Thread(io::Error::other("the follower's thread ended"))),
    }
}

fn submitter_config(config: &Config, deployment: &Deployment) -> SubmitterConfig {
    SubmitterConfig {
        interval: config.audit.interval,
        replace_after: config.audit.replace_after,
        max_fee_wei: config.audit.max_fee_wei,
        max_gas_per_day: config.audit.max_gas_per_day,
        max_wei_per_day: config.audit.max_wei_per_day,
        ..SubmitterConfig::new(
            config.chain.urls.clone(),
            deployment.clone(),
            config.chain.broker_id,
            config.state_dir.join("submitter"),
        )
    }
}
