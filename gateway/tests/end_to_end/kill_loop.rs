//! ACCEPTANCE F01, W48 to W50; THREATS F01, E29, E33: a gateway under load is killed with SIGKILL again and again, at random instants and at
//! the worst ones, while the node reorganises its chain or is away. Afterwards everything that had been stored is on chain exactly once.
//!
//! The judge is `script/judge-kills`, which shares no code with the gateway: it reads the chain's logs and what the harness found in the
//! state directory after each kill. `make kill-loop` kills 200 times; the seed is printed, and `SEED=` repeats its choices.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alloy::providers::Provider as _;
use alloy_primitives::Address;
use eyre::{Result, WrapErr, bail, ensure, eyre};
use flytrap_chain::keys::Key;
use flytrap_policy::credential;
use flytrap_site::{Child, SiteOptions, token};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::common::process::set;
use crate::common::raw::{Connect, Got, Publish, Raw};
use crate::common::relay::Relay;
use crate::common::{CLOSED, RETAIN, Stage, TICK, V5, http, run};

/// Blocks come this often.
const BLOCK_TIME: Duration = Duration::from_millis(250);
/// Between two transactions of the gateway.
const INTERVAL: Duration = Duration::from_millis(150);
/// Between two things of a client, so that what comes in while gateways are killed can get out while they are not: a transaction
/// carries 64, and takes a second from its signature until it is settled.
const PACE: Duration = Duration::from_millis(150);
/// How long the last gateway may take to put on chain what is left.
const DRAIN: Duration = Duration::from_secs(300);
/// Longest life of a gateway between two kills.
const LONGEST_LIFE: Duration = Duration::from_millis(1_800);

#[test]
fn killed_again_and_again_it_puts_what_it_had_stored_on_chain_exactly_once() -> Result<()> {
    run(kill_loop(6, 1))
}

#[test]
#[ignore = "takes minutes: make kill-loop"]
fn killed_as_often_as_asked_it_puts_what_it_had_stored_on_chain_exactly_once() -> Result<()> {
    let number = |name: &str, usual: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
    };
    run(kill_loop(number("KILLS", 200), number("SEED", rand::random::<u32>().into())))
}

/// When a gateway is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    /// At a random time after its start.
    AtRandom,
    /// As soon as an intent is in its file.
    IntentWritten,
    /// As soon as a signed transaction is, which is before it is sent.
    FlightWritten,
    /// Right after it was sent, or a little later.
    Sent,
    /// Right after its transaction was found settled, while what it carried is being removed.
    Confirmed,
}

/// What the node does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Serves,
    /// Replaces this many blocks by empty ones.
    Reorganises(u64),
    /// Refuses connections until the next gateway has run for a while.
    IsAway,
    /// Takes requests and does not answer.
    Hangs,
}

async fn kill_loop(kills: u64, seed: u64) -> Result<()> {
    println!("kill loop: {kills} kills, SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let stage = Stage::with(SiteOptions::default()).await?;
    stage.topic_with("closed", RETAIN, CLOSED, CLOSED).await?;
    // Blocks come by themselves, but never during a reorganisation: anvil's own timer could then leave a hole in its chain.
    stage.site.chain.automine(false).await?;
    let (turn, mining) = (Arc::new(tokio::sync::Mutex::new(())), CancellationToken::new());
    let miner = tokio::spawn({
        let (turn, mining) = (turn.clone(), mining.clone());
        let provider = stage.site.chain.provider().clone();
        async move {
            while !mining.is_cancelled() {
                let mine = async {
                    let _turn = turn.lock().await;
                    let params = serde_json::json!(["0x1"]);
                    provider.raw_request::<_, serde_json::Value>("anvil_mine".into(), params).await
                };
                // A node that hangs mines when it is let go on.
                let _ = mine.await;
                tokio::time::sleep(BLOCK_TIME).await;
            }
        }
    });
    let node = SocketAddr::from(([127, 0, 0, 1], stage.site.chain.port()));
    let relay = Relay::start(node, true).await?;
    let ports = free_ports(&mut StdRng::from_os_rng())?;
    let url = format!("http://{}", relay.address());
    let (config, state) = stage.write_config("victim", |table| {
        set(table, "chain", "urls", vec![url]);
        set(table, "chain", "confirmations", 2);
        set(table, "chain", "poll", "30ms");
        set(table, "audit", "interval", format!("{}ms", INTERVAL.as_millis()));
        set(table, "audit", "max_gas_per_day", 1_000_000_000_000_i64);
        set(table, "audit", "max_gwei_per_day", 1_000_000_000_000_i64);
        set(table, "limits", "failures", 0);
        set(table, "limits", "ban", "1d");
        set(table, "health", "bind", format!("127.0.0.1:{}", ports[1]));
        let listener = table["listener"].as_array_mut().and_then(|all| all.first_mut());
        if let Some(listener) = listener.and_then(toml::Value::as_table_mut) {
            listener.insert("bind".into(), format!("127.0.0.1:{}", ports[0]).into());
        }
    })?;
    // The site's own gateway would alert and ban with the same key.
    stage.site.gateway()?.child.terminate();
    let (mqtt, health) = (local(ports[0]), local(ports[1]));
    let journal = Journal::new(stage.site.dir().join("journal.jsonl"), state.join("submitter"));
    let load = Load::start(&stage, mqtt);

    let mut tally = BTreeMap::<String, u32>::new();
    let mut child = stage.launch("victim", &config)?;
    for kill in 1..=kills {
        let moment = [
            Moment::AtRandom,
            Moment::IntentWritten,
            Moment::FlightWritten,
            Moment::Sent,
            Moment::Confirmed,
        ][random.random_range(0..5)];
        let trouble = match random.random_range(0..10) {
            0..=2 => Node::Reorganises(random.random_range(1..=4)),
            3 => Node::IsAway,
            4 => Node::Hangs,
            _ => Node::Serves,
        };
        let life = LONGEST_LIFE.mul_f64(random.random_range(0.0..1.0));
        *tally.entry(format!("{moment:?}")).or_default() += 1;
        *tally
            .entry(match trouble {
                Node::Reorganises(_) => "node reorganises".into(),
                other => format!("node {other:?}"),
            })
            .or_default() += 1;
        // Half of its life it serves as it should; then the trouble begins, and the next gateway starts into it.
        let troubling = async {
            tokio::time::sleep(life / 2).await;
            relay.open();
            match trouble {
                Node::Serves => Ok(()),
                Node::Reorganises(depth) => {
                    let _turn = turn.lock().await;
                    stage.site.chain.reorganise(depth).await
                }
                Node::IsAway => {
                    relay.shut();
                    Ok(())
                }
                Node::Hangs => {
                    stage.site.chain.child.freeze();
                    Ok(())
                }
            }
        };
        let (troubled, ()) = tokio::join!(troubling, moment.wait(&child, &journal.directory, life));
        troubled.wrap_err_with(|| format!("kill {kill}"))?;
        child.kill();
        stage.site.chain.child.thaw();
        journal.note()?;
        if kill % 20 == 0 {
            println!(
                "  {kill} kills, {} bans and {} alerts were stored",
                journal.bans(),
                journal.alerts()
            );
        }
        child = stage.launch("victim", &config)?;
    }
    relay.open();
    let sent = load.stop().await?;
    // The last one is left alone until nothing waits any more.
    let began = Instant::now();
    let drained = async || {
        let Ok((200, metrics)) = http::get(health, "/metrics").await else { return false };
        let waits = |name: &str| !metrics.contains(&format!("flytrap_submitter_{name}_queued 0\n"));
        !waits("bans") && !waits("alerts") && journal.is_empty()
    };
    // What was counted last becomes a record, and the record an anchor, each after an interval.
    let stays_drained = async || {
        drained().await && {
            tokio::time::sleep(INTERVAL * 4).await;
            drained().await
        }
    };
    while !stays_drained().await {
        if let Some(status) = child.ended() {
            bail!("SEED={seed}: the last gateway ended: {status}\n{}", child.tail());
        }
        if began.elapsed() > DRAIN {
            let left = journal.intents().len();
            bail!("SEED={seed}: after {DRAIN:?} {left} intents still wait\n{}", child.tail());
        }
        tokio::time::sleep(TICK).await;
    }
    println!("  drained in {:?}", began.elapsed());
    mining.cancel();
    miner.await?;
    stage.site.chain.mine(3).await?;
    // A gateway that ends by itself would record that, and leave the anchor for its next start.
    child.kill();

    let sent_file = stage.site.dir().join("sent.json");
    fs::write(&sent_file, serde_json::to_string(&sent)?)?;
    println!("  {tally:?}");
    let judged = Command::new("node")
        .arg(stage.site.root().join("script/judge-kills"))
        .arg(stage.site.chain.http().as_str())
        .args([&stage.site.deployment_file, &journal.directory, &journal.file, &sent_file])
        .args([stage.site.broker_id.to_string(), stage.site.wallets.gateway.address().to_string()])
        .output()?;
    let told = String::from_utf8_lossy(&judged.stdout).into_owned();
    println!("{told}");
    ensure!(
        judged.status.success(),
        "SEED={seed}: {told}{}",
        String::from_utf8_lossy(&judged.stderr)
    );
    let anchors = journal.count("\"anchor\"");
    ensure!(
        journal.bans() > 0 && journal.alerts() > 0 && anchors > 0,
        "nothing was stored when it was killed"
    );
    Ok(())
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Ports that are the same for every gateway of the loop: below those that the system gives to outgoing connections, of which one could have
/// taken them while no gateway lives.
fn free_ports(random: &mut StdRng) -> Result<[u16; 2]> {
    for _ in 0..100 {
        let port = random.random_range(20_000..32_000);
        let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(port) && free(port + 1) {
            return Ok([port, port + 1]);
        }
    }
    Err(eyre!("no two free ports between 20000 and 32000"))
}

impl Moment {
    /// Waits for the moment, no longer than the gateway is to live.
    async fn wait(self, child: &Child, directory: &Path, life: Duration) {
        let log = child.log_file().to_owned();
        let (started, begins) = (Instant::now(), fs::metadata(&log).map_or(0, |log| log.len()));
        let flight = directory.join("flight.json");
        let written = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        let before = written(&flight);
        let names = || -> BTreeSet<_> {
            let entries = fs::read_dir(directory.join("intents")).into_iter().flatten();
            entries.flatten().map(|entry| entry.file_name()).collect()
        };
        let intents = names();
        let says = |words: &str| {
            // Only what this gateway wrote: the log has everything of those before.
            let mut new = Vec::new();
            let read = fs::File::open(&log).and_then(|mut log| {
                log.seek(SeekFrom::Start(begins))?;
                log.read_to_end(&mut new)
            });
            read.is_ok() && String::from_utf8_lossy(&new).contains(words)
        };
        // The half of its life in which it is let be, also here, so that most moments come at all.
        let least = life / 2;
        let most = if self == Self::AtRandom { life } else { LONGEST_LIFE * 2 };
        while started.elapsed() < most {
            let has_come = started.elapsed() >= least
                && match self {
                    Self::AtRandom => false,
                    Self::IntentWritten => names().difference(&intents).next().is_some(),
                    Self::FlightWritten => flight.exists() && written(&flight) != before,
                    Self::Sent => says("transaction takes off"),
                    Self::Confirmed => says("transaction confirmed"),
                };
            if has_come {
                return;
            }
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    }
}

/// What was found in the submitter's directory after each kill.
struct Journal {
    file: PathBuf,
    directory: PathBuf,
    seen: Mutex<BTreeSet<String>>,
}

impl Journal {
    fn new(file: PathBuf, directory: PathBuf) -> Self {
        Self { file, directory, seen: Mutex::default() }
    }

    fn intents(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.directory.join("intents")).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries.map(|entry| entry.path()).collect();
        // What was not renamed into place was promised to nobody.
        files.retain(|file| file.extension().is_some_and(|end| end == "json"));
        files
    }

    fn is_empty(&self) -> bool {
        self.intents().is_empty() && !self.directory.join("flight.json").exists()
    }

    /// Adds the files as they are, each once, for the judge to read.
    fn note(&self) -> Result<()> {
        let mut out = OpenOptions::new().create(true).append(true).open(&self.file)?;
        let mut seen = self.seen.lock().map_err(|_| eyre!("poisoned"))?;
        for file in self.intents() {
            let text = fs::read_to_string(&file)?;
            if seen.insert(text.clone()) {
                writeln!(out, "{text}")?;
            }
        }
        Ok(())
    }

    fn count(&self, what: &str) -> usize {
        let seen =
            self.seen.lock().map(|seen| seen.iter().map(|text| text.matches(what).count()).sum());
        seen.unwrap_or_default()
    }

    fn bans(&self) -> usize {
        self.count("\"subject\"")
    }

    fn alerts(&self) -> usize {
        self.count("\"first_at\"")
    }
}

/// Clients that are refused: each ban is of an origin of its own, each alert of a wallet of its own, so that the judge can tell one
/// that was sent twice from two.
struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
    sent: Arc<Mutex<BTreeMap<Address, u32>>>,
}

impl Load {
    fn start(stage: &Stage, mqtt: SocketAddr) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let place = stage.site.place();
        let mut tasks = Vec::new();
        let origins = Arc::new(AtomicU32::new(1));
        for _ in 0..2 {
            let (stop, origins) = (stop.clone(), origins.clone());
            tasks.push(tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let number = origins.fetch_add(1, Relaxed);
                    // Until it is heard: a gateway that is down bans nobody.
                    while !stop.load(Relaxed) && fail_once(number, mqtt).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    tokio::time::sleep(PACE).await;
                }
            }));
        }
        let (ends, counts) = (stop.clone(), Arc::clone(&sent));
        tasks.push(tokio::spawn(async move {
            while !ends.load(Relaxed) {
                let _ = be_refused(&place, mqtt, &counts).await;
                tokio::time::sleep(PACE).await;
            }
        }));
        Self { stop, tasks, sent }
    }

    /// Ends it; says how often each wallet may have been refused.
    async fn stop(self) -> Result<BTreeMap<Address, u32>> {
        self.stop.store(true, Relaxed);
        for task in self.tasks {
            task.await?;
        }
        Ok(self.sent.lock().map_err(|_| eyre!("poisoned"))?.clone())
    }
}

/// A proof that is none, from an origin that nobody else uses.
async fn fail_once(number: u32, mqtt: SocketAddr) -> Result<()> {
    let [a, b, c, d] = (number + (127 << 24) + (1 << 16)).to_be_bytes();
    let from = IpAddr::from(Ipv4Addr::new(a, b, c, d));
    let mut client = Raw::plain_from(V5, from, mqtt).await?;
    let connect = Connect { client_id: "stranger".into(), ..Connect::anonymous() };
    client.send(connect.octets(V5)).await?;
    let _ = client.next(Duration::from_secs(5)).await;
    Ok(())
}

/// A wallet that nobody has seen before publishes three times where it may not.
async fn be_refused(
    place: &credential::Site,
    mqtt: SocketAddr,
    sent: &Mutex<BTreeMap<Address, u32>>,
) -> Result<()> {
    let key = Key::random();
    let mut client = Raw::plain(V5, mqtt).await?;
    let login = token(&key, place, "refused", 3600)?;
    ensure!(client.connect(&Connect::of(V5, &login)).await? == 0, "not let in");
    for id in 1..=3 {
        *sent.lock().map_err(|_| eyre!("poisoned"))?.entry(key.address()).or_default() += 1;
        client.send(Publish::new("closed/x", b"x").qos(1, id).octets(V5)).await?;
        ensure!(matches!(client.get().await?, Got::Ack { kind: 4, .. }), "no answer");
    }
    Ok(())
}
