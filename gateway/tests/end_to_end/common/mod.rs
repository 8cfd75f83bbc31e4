//! What the end-to-end tests share: a stage with topics and wallets on it, clients of every kind, and the chain as a test sees it.
//!
//! Nothing here waits by sleeping: conditions are looked at again under a deadline, and where "nothing came" is the claim, something
//! that must come later is waited for first. The judges are [`Recorder`](flytrap_site::Recorder) and spies at the broker, never the
//! gateway's own word.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of it")]

pub mod fake_broker;
pub mod foreign;
pub mod http;
pub mod onchain;
pub mod process;
pub mod proofs;
pub mod relay;
pub mod stock;
pub mod websocket;

use std::fs::File;
use std::future::Future;
use std::io::{Read as _, Seek as _};
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use eyre::{Result, WrapErr, bail, eyre};
use flytrap_site::{Device, Login, Packet, Seen, Site, SiteOptions};
use tokio::runtime::Runtime;

pub use flytrap_mqtt::Version::{self, V5, V31, V311};
pub use flytrap_policy::{Offer, OfferMode, Right, Traits};
pub use flytrap_site::raw;

/// All that MQTT has been.
pub const EVERY_VERSION: [Version; 3] = [V31, V311, V5];

/// The code in a SUBACK that refuses a filter.
pub fn refused_filter(version: Version) -> u8 {
    if version == V5 { 0x87 } else { 0x80 }
}

/// How long anything may take that must happen. Long, since machines can be busy; what must be fast is measured by itself.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How often a condition is looked at again.
pub const TICK: Duration = Duration::from_millis(5);
/// What a revocation, ban or purchase may take from the block being visible to being in force.
pub const BOUND: Duration = Duration::from_millis(250);

/// One runtime for all tests of a program, so that a shared stage outlives the test that built it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    flytrap_gateway::tls::install_provider();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
});

/// Logs of the gateways that were started: shown when a test fails, searched for panics when it does not. They are held open, since a stage
/// of one test is gone by then, and its directory with it.
static LOGS: Mutex<Vec<(PathBuf, File)>> = Mutex::new(Vec::new());

/// Runs one test. Every end of it asks whether a gateway panicked meanwhile.
///
/// # Errors
/// As the test.
pub fn run(test: impl Future<Output = Result<()>>) -> Result<()> {
    let mut done = RUNTIME.block_on(test);
    for (path, log) in LOGS.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
        let mut text = Vec::new();
        log.rewind()?;
        log.read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        if done.is_ok() && text.contains("panicked at") {
            done = Err(eyre!("a gateway panicked"));
        }
        if done.is_err() {
            let lines: Vec<&str> = text.lines().collect();
            eprintln!(
                "--- {} ---\n{}",
                path.display(),
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
    }
    done
}

/// Waits until `look` finds something.
///
/// # Errors
/// If it does not within [`PATIENCE`]; `what` says what was wanted.
pub async fn until<T, F: Future<Output = Result<Option<T>>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> Result<T> {
    within(PATIENCE, what, &mut look).await
}

/// As [`until`], with a deadline of one's own.
///
/// # Errors
/// If it is not found in time.
pub async fn within<T, F: Future<Output = Result<Option<T>>>>(
    patience: Duration,
    what: &str,
    look: &mut impl FnMut() -> F,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("waited {patience:?} in vain for: {what}");
        }
        tokio::time::sleep(TICK).await;
    }
}

/// A site with everything a scenario needs.
pub struct Stage {
    /// The whole site.
    pub site: Site,
}

/// How a client reaches the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// MQTT version.
    pub version: Version,
    /// By TLS?
    pub tls: bool,
}

impl Way {
    /// Both versions, plain and TLS.
    pub const ALL: [Self; 4] = [Self::plain(V311), Self::plain(V5), Self::tls(V311), Self::tls(V5)];

    /// Without TLS.
    pub const fn plain(version: Version) -> Self {
        Self { version, tls: false }
    }

    /// With TLS.
    pub const fn tls(version: Version) -> Self {
        Self { version, tls: true }
    }

    /// A short word for client ids and topic names.
    pub fn word(self) -> String {
        format!("v{}{}", self.version.level(), if self.tls { "s" } else { "" })
    }
}

/// Grants that must not end during a test end then.
pub const FAR: u64 = 4_000_000_000;

/// An offer that only the owner's grants fulfil.
pub const CLOSED: Offer = Offer { mode: OfferMode::Closed, period: 0, price_wei: 0 };
/// An offer that any authenticated wallet may use.
pub const PUBLIC: Offer = Offer { mode: OfferMode::Public, period: 0, price_wei: 0 };
/// Retained messages are allowed.
pub const RETAIN: Traits = Traits { retain: true, sensitive: false, own_branch: false };

impl Stage {
    /// The site as it comes: a block per transaction, Mosquitto, recorder, one gateway.
    ///
    /// # Errors
    /// If something does not start.
    pub async fn new() -> Result<Self> {
        Self::with(SiteOptions::default()).await
    }

    /// With a few lines of TOML over the gateway's configuration.
    ///
    /// # Errors
    /// If something does not start.
    pub async fn configured(gateway_config: &str) -> Result<Self> {
        Self::with(SiteOptions { gateway_config: gateway_config.into(), ..SiteOptions::default() })
            .await
    }

    /// As the options say.
    ///
    /// # Errors
    /// If something does not start.
    pub async fn with(options: SiteOptions) -> Result<Self> {
        let site = Site::start(options).await.wrap_err("the site")?;
        watch_log(site.dir().join("gateway.log"))?;
        Ok(Self { site })
    }

    /// A stage on which below `open` everyone may do everything, below `plain` too but retain, and below `closed` nobody anything.
    ///
    /// # Errors
    /// If something does not start.
    pub async fn open_and_closed() -> Result<Self> {
        // Probes of the broker would be CONNECTs that no client caused.
        let stage = Self::configured("[broker]\nprobe_interval = \"1h\"").await?;
        stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
        let plain = Traits { retain: false, ..RETAIN };
        stage.topic_with("plain", plain, PUBLIC, PUBLIC).await?;
        stage.topic_with("closed", RETAIN, CLOSED, CLOSED).await?;
        stage.caught_up().await?;
        Ok(stage)
    }

    /// Both directions of the session with this client id as the recorder saw it, its CONNECT first.
    ///
    /// # Errors
    /// If there is no recorder.
    pub fn seen_of(&self, client_id: &str) -> Result<Vec<Seen>> {
        let (seen, end) = (self.site.recorder()?.seen(), format!("-{client_id}"));
        let connection = seen.iter().find_map(|seen| match &seen.packet {
            Packet::Connect(connect) if connect.client_id.ends_with(&end) => Some(seen.connection),
            _ => None,
        });
        Ok(seen.into_iter().filter(|seen| Some(seen.connection) == connection).collect())
    }

    /// Waits until the broker has answered a SUBSCRIBE of the session with this client id.
    ///
    /// # Errors
    /// If it does not.
    pub async fn subscribed(&self, client_id: &str) -> Result<()> {
        let suback = |seen: &Seen| matches!(seen.packet, Packet::Other { kind: 9, .. });
        let answered = |_: &_| self.seen_of(client_id).is_ok_and(|seen| seen.iter().any(suback));
        self.site.recorder()?.until(PATIENCE, answered).await
    }

    /// Where clients of this kind connect.
    ///
    /// # Errors
    /// If there is no gateway.
    pub fn target(&self, tls: bool) -> Result<stock::Target> {
        let address = if tls { self.site.mqtts()? } else { self.site.mqtt()? };
        Ok(stock::Target { address, ca: tls.then(|| self.site.ca_file().to_owned()) })
    }

    /// The broker itself, past the gateway.
    pub fn broker(&self) -> stock::Target {
        stock::Target { address: self.site.broker.address(), ca: None }
    }

    /// A token of the reader.
    ///
    /// # Errors
    /// If signing fails.
    pub fn reader(&self, client_id: &str) -> Result<Login> {
        self.site.token(&self.site.wallets.reader, client_id)
    }

    /// A token of the publisher.
    ///
    /// # Errors
    /// If signing fails.
    pub fn publisher(&self, client_id: &str) -> Result<Login> {
        self.site.token(&self.site.wallets.publisher, client_id)
    }

    /// A token of the stranger.
    ///
    /// # Errors
    /// If signing fails.
    pub fn stranger(&self, client_id: &str) -> Result<Login> {
        self.site.token(&self.site.wallets.stranger, client_id)
    }

    /// A raw client that has sent its CONNECT and got a CONNACK that accepts.
    ///
    /// # Errors
    /// If the gateway refuses.
    pub async fn session(&self, way: Way, login: &Login) -> Result<raw::Raw> {
        self.session_of(way, &raw::Connect::of(way.version, login)).await
    }

    /// As [`Stage::session`], with a CONNECT of one's own.
    ///
    /// # Errors
    /// If the gateway refuses.
    pub async fn session_of(&self, way: Way, connect: &raw::Connect) -> Result<raw::Raw> {
        let mut client = self.dial(way).await?;
        let code = client.connect(connect).await?;
        if code != 0 {
            bail!("{way:?}: {} was refused with {code:#04x}", connect.client_id);
        }
        Ok(client)
    }

    /// A raw connection to the gateway, nothing sent yet.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn dial(&self, way: Way) -> Result<raw::Raw> {
        let target = self.target(way.tls)?;
        match &target.ca {
            None => raw::Raw::plain(way.version, target.address).await,
            Some(ca) => raw::Raw::tls(way.version, target.address, ca).await,
        }
    }

    /// A raw client at the broker itself, accepted.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn direct(&self, version: Version, client_id: &str) -> Result<raw::Raw> {
        let mut client = raw::Raw::plain(version, self.site.broker.address()).await?;
        let connect = raw::Connect { client_id: client_id.into(), ..raw::Connect::anonymous() };
        match client.connect(&connect).await? {
            0 => Ok(client),
            code => bail!("the broker refused {client_id} with {code:#04x}"),
        }
    }

    /// Waits until the gateway's mirror has seen everything that is on chain now.
    ///
    /// # Errors
    /// If it does not.
    pub async fn caught_up(&self) -> Result<()> {
        let height = self.site.chain.height().await?;
        let health = self.site.gateway()?.health();
        until("the mirror to be at the head", || async move {
            Ok((http::metric(health, "flytrap_mirror_height").await? >= height as f64)
                .then_some(()))
        })
        .await
    }

    /// A device that acts for `wallet` from now on, on chain. `seed` makes it unique.
    ///
    /// # Errors
    /// If the contract refuses.
    pub async fn device(
        &self,
        wallet: Address,
        seed: u8,
        client_id: &str,
        until: u64,
    ) -> Result<Device> {
        let device = device_of(seed.into(), client_id)?;
        self.authorize_device(wallet, &device, until).await?;
        Ok(device)
    }
}

/// A device with a seed of its own; not on chain yet.
///
/// # Errors
/// If the seed gives no key.
pub fn device_of(seed: u16, client_id: &str) -> Result<Device> {
    let mut octets = [0x5a; 20];
    octets[..2].copy_from_slice(&seed.to_be_bytes());
    Device::from_seed(&octets, client_id)
}

/// The gateway log that [`run`] is to look at.
///
/// # Errors
/// If it can be neither opened nor made.
pub fn watch_log(path: PathBuf) -> Result<()> {
    let log = File::options().read(true).append(true).create(true).open(&path)?;
    LOGS.lock().unwrap_or_else(PoisonError::into_inner).push((path, log));
    Ok(())
}

/// A topic on chain.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: B256,
}
