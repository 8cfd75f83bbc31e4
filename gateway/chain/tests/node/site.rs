//! A node with the contracts deployed, and what the tests ask of both.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU16, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use alloy::{
    hex,
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall,
};
use flytrap_chain::{
    ChainHealth, Deployment, FollowError, Follower, FollowerConfig, Rpc, Sight, Wallet,
    bindings::IAccessMarket, keys::Key,
};
use flytrap_policy::{NamingPolicy, Offer, Traits, View};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{broadcast, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use url::Url;

/// What has not happened by then does not happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Keys of the accounts that a development chain is born with.
const KEYS: [&str; 5] = [
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d",
    "5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a",
    "7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6",
    "47e179ec197488593b187f80a00eb0da91f1b9d0b13f8733639f19c30a34926a",
];

pub(crate) fn key(number: usize) -> Key {
    Key::from_hex(KEYS[number]).unwrap()
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A program of the npm packages.
pub(crate) fn program(name: &str) -> PathBuf {
    let packages = root().join("node_modules/@foundry-rs");
    let found = fs::read_dir(&packages).ok().and_then(|entries| {
        entries
            .filter_map(Result::ok)
            .map(|entry| entry.path().join("bin").join(name))
            .find(|path| path.is_file())
    });
    found.unwrap_or_else(|| {
        panic!("no {name} in {}: run `make setup`, these tests need it", packages.display())
    })
}

/// Where forge puts what it makes for these tests: never where others work.
fn artifacts() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forge");
        let output =
            forge("build", &place).arg("--skip").args(["test", "script"]).output().unwrap();
        assert!(
            output.status.success(),
            "forge build failed: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        place.join("out")
    })
}

pub(crate) fn forge(command: &str, place: &Path) -> Command {
    let mut forge = Command::new(program("forge"));
    forge
        .arg(command)
        .current_dir(root())
        .env("FOUNDRY_SOLC", root().join("script/solc"))
        .env("FOUNDRY_OFFLINE", "true")
        .env("FOUNDRY_OUT", place.join("out"))
        .env("FOUNDRY_CACHE_PATH", place.join("cache"))
        .env("FOUNDRY_BROADCAST", place.join("broadcast"))
        .stdin(Stdio::null());
    forge
}

/// A node that ends with the test.
pub(crate) struct Anvil {
    child: Child,
    pub(crate) port: u16,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Anvil {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(program("anvil"))
            .args(["--port", "0", "--prune-history", "128"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("anvil ended before it listened").unwrap();
            if let Some(address) = line.strip_prefix("Listening on ") {
                break address.rsplit(':').next().unwrap().parse().unwrap();
            }
        };
        // A pipe that nobody reads would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port }
    }
}

/// A node, the contracts, and a broker of account 0 with one topic, closed to everyone.
pub(crate) struct Site {
    pub(crate) anvil: Anvil,
    pub(crate) deployment: Deployment,
    pub(crate) rpc: Rpc,
    pub(crate) broker_id: U256,
    pub(crate) owner: Wallet,
    pub(crate) topic: B256,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let anvil = Anvil::start(arguments);
        let rpc = Rpc::new(vec![http(anvil.port)]);
        let deployment = deploy(&rpc).await;
        let owner =
            Wallet::connect(vec![http(anvil.port)], deployment.clone(), key(0)).await.unwrap();
        let (broker_id, _) = owner.create_broker(NamingPolicy::OwnBranch, "works").await.unwrap();
        let name = format!("{:#x}", owner.address());
        let (topic, _) = owner
            .register_topic(broker_id, &name, Traits::default(), Offer::default(), Offer::default())
            .await
            .unwrap();
        Self { anvil, deployment, rpc, broker_id, owner, topic }
    }

    pub(crate) fn http(&self) -> Url {
        http(self.anvil.port)
    }

    pub(crate) fn ws(&self) -> Url {
        Url::parse(&format!("ws://127.0.0.1:{}", self.anvil.port)).unwrap()
    }

    pub(crate) async fn wallet(&self, number: usize) -> Wallet {
        Wallet::connect(vec![self.http()], self.deployment.clone(), key(number)).await.unwrap()
    }

    pub(crate) fn config(&self, urls: Vec<Url>) -> FollowerConfig {
        FollowerConfig::new(urls, self.deployment.clone(), self.broker_id)
    }

    /// A follower at work, by HTTP.
    pub(crate) fn follow(&self) -> Following {
        Following::start(self.config(vec![self.http()]))
    }

    pub(crate) async fn mine(&self, blocks: u64) {
        self.ask("anvil_mine", json!([format!("{blocks:#x}")])).await;
    }

    /// Waits until something waits for a block.
    pub(crate) async fn until_pending(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.ask("txpool_status", json!([])).await["pending"] == "0x0" {
            assert!(Instant::now() < deadline, "nothing was handed in");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Replaces the last blocks by as many empty ones.
    pub(crate) async fn reorganise(&self, depth: u64) {
        self.ask("anvil_reorg", json!([depth, []])).await;
    }

    pub(crate) async fn ask(&self, method: &'static str, params: Value) -> Value {
        self.rpc.call(method, params).await.unwrap()
    }

    pub(crate) async fn height(&self) -> u64 {
        let height = self.ask("eth_blockNumber", json!([])).await;
        u64::from_str_radix(height.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }

    /// End of a grant that starts now.
    pub(crate) async fn soon(&self) -> u64 {
        self.owner.block_time().await.unwrap() + 86_400
    }
}

pub(crate) fn http(port: u16) -> Url {
    Url::parse(&format!("http://127.0.0.1:{port}")).unwrap()
}

pub(crate) async fn deploy(rpc: &Rpc) -> Deployment {
    let broker_registry = create(rpc, "BrokerRegistry", None).await;
    let access_market = create(rpc, "AccessMarket", Some(broker_registry)).await;
    let topic_registry = topics_of(rpc, access_market).await;
    let device_registry = create(rpc, "DeviceRegistry", None).await;
    let audit_log = create(rpc, "AuditLog", Some(broker_registry)).await;
    let deployment = Deployment {
        chain_id: 31337,
        block: 1,
        broker_registry,
        topic_registry,
        access_market,
        device_registry,
        audit_log,
    };
    // Read back as everyone else does.
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("31337.json");
    fs::write(&path, serde_json::to_vec(&deployment).unwrap()).unwrap();
    Deployment::read(path).unwrap()
}

/// Another market at the same broker registry.
pub(crate) async fn another_market(site: &Site) -> Address {
    create(&site.rpc, "AccessMarket", Some(site.deployment.broker_registry)).await
}

/// The registry of topics that a market has deployed.
async fn topics_of(rpc: &Rpc, market: Address) -> Address {
    let data = Bytes::from(IAccessMarket::topicRegistryCall {}.abi_encode());
    let answer: B256 =
        rpc.call("eth_call", json!([{"to": market, "data": data}, "latest"])).await.unwrap();
    Address::from_word(answer)
}

async fn create(rpc: &Rpc, contract: &str, argument: Option<Address>) -> Address {
    let path = artifacts().join(format!("{contract}.sol/{contract}.json"));
    let artifact: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let mut code = hex::decode(artifact["bytecode"]["object"].as_str().unwrap()).unwrap();
    code.extend(argument.into_iter().flat_map(|argument| argument.into_word().0));
    let call = json!([{"from": key(0).address(), "data": Bytes::from(code)}]);
    let tx: B256 = rpc.call("eth_sendTransaction", call).await.unwrap();
    // The answer may come before the block.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let receipt: Value = rpc.call("eth_getTransactionReceipt", json!([tx])).await.unwrap();
        if let Some(address) = receipt["contractAddress"].as_str() {
            return address.parse().unwrap();
        }
        assert!(Instant::now() < deadline, "{contract} was not deployed");
    }
}

/// A door before a node that can be shut, and behind which the node can be exchanged.
pub(crate) struct Door {
    pub(crate) port: u16,
    open: Arc<AtomicBool>,
    behind: Arc<AtomicU16>,
    cut: broadcast::Sender<()>,
}

impl Door {
    pub(crate) async fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door = Self {
            port: listener.local_addr().unwrap().port(),
            open: Arc::new(AtomicBool::new(true)),
            behind: Arc::new(AtomicU16::new(port)),
            cut: broadcast::channel(1).0,
        };
        let (open, behind, cut) = (door.open.clone(), door.behind.clone(), door.cut.clone());
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if !open.load(Relaxed) {
                    continue;
                }
                let (port, mut cut) = (behind.load(Relaxed), cut.subscribe());
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        door
    }

    pub(crate) fn shut(&self) {
        self.open.store(false, Relaxed);
        let _ = self.cut.send(());
    }

    pub(crate) fn open(&self) {
        self.open.store(true, Relaxed);
    }

    pub(crate) fn lead_to(&self, port: u16) {
        self.behind.store(port, Relaxed);
        let _ = self.cut.send(());
    }

    pub(crate) fn ws(&self) -> Url {
        Url::parse(&format!("ws://127.0.0.1:{}", self.port)).unwrap()
    }
}

/// A follower at work.
pub(crate) struct Following {
    pub(crate) views: watch::Receiver<Option<(Arc<View>, Instant)>>,
    pub(crate) health: Arc<ChainHealth>,
    pub(crate) sight: Arc<Sight>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), FollowError>>,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    pub(crate) fn start(config: FollowerConfig) -> Self {
        let (sender, views) = watch::channel(None);
        let follower = Follower::new(config, move |view| {
            sender.send_replace(Some((view, Instant::now())));
        });
        let (health, sight) = (follower.health(), follower.sight());
        let stop = CancellationToken::new();
        let task = tokio::spawn(follower.run(stop.clone()));
        Self { views, health, sight, stop, task }
    }

    /// Waits for a view that is as wanted.
    pub(crate) async fn until(&mut self, wanted: impl Fn(&View) -> bool) -> Arc<View> {
        self.until_at(wanted).await.0
    }

    /// The same, with the moment of its publication.
    pub(crate) async fn until_at(
        &mut self,
        wanted: impl Fn(&View) -> bool,
    ) -> (Arc<View>, Instant) {
        let found = self.views.wait_for(|view| view.as_ref().is_some_and(|(view, _)| wanted(view)));
        match timeout(PATIENCE, found).await {
            Ok(Ok(view)) => view.clone().unwrap(),
            Ok(Err(_)) => panic!("the follower has ended: {:?}", self.health.last_error()),
            Err(_) => panic!(
                "no such view within {PATIENCE:?}, at height {}, last error {:?}",
                self.health.height(),
                self.health.last_error()
            ),
        }
    }

    pub(crate) fn view(&self) -> Arc<View> {
        self.views.borrow().clone().expect("no view yet").0
    }

    /// Waits until the follower says so of itself.
    pub(crate) async fn until_health(&self, what: &str, wanted: impl Fn(&ChainHealth) -> bool) {
        until(what, || wanted(&self.health)).await;
    }

    pub(crate) async fn stop(mut self) -> Result<(), FollowError> {
        self.stop.cancel();
        timeout(PATIENCE, &mut self.task).await.expect("it stops when asked to").unwrap()
    }

    pub(crate) async fn end(mut self) -> Result<(), FollowError> {
        timeout(PATIENCE, &mut self.task).await.expect("it ends by itself").unwrap()
    }
}

/// Waits until something holds.
pub(crate) async fn until(what: &str, wanted: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !wanted() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
