//! Puts bans, their ends, and alerts on chain, each exactly once, whatever happens in between.
//!
//! What is handed in is in a file before [`SubmitterHandle::submit`] returns, and stays there until a transaction that carries it
//! is `confirmations` deep. A transaction is in a file, signed, before it is first sent, so that after a crash the same octets
//! are sent again rather than a second transaction; all that ever replaces it has the same nonce. One task owns the nonce, one
//! process the directory.
//!
//! A transaction counts as confirmed once its block is the follower's own and settled ([`Sight`]), and is remembered beyond that, so that
//! a reorganisation deeper than `confirmations` makes it be sent again. Every condition that keeps things from getting on chain is
//! an [`Alarm`].

mod alarm;
mod files;
mod flight;
mod health;
mod intents;
mod run;

use std::{
    io,
    path::PathBuf,
    sync::{Arc, Mutex as StdMutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use alloy::primitives::{Address, B256, U256};
use flytrap_policy::AlertKind;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use url::Url;

use self::intents::Queue;
pub use self::{alarm::Alarm, health::SubmitterHealth, run::Submitter};
use crate::{
    Deployment,
    bindings::{IAuditLog, IBrokerRegistry},
};

/// Whom a ban is against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BanSubject {
    /// A wallet.
    Wallet(Address),
    /// The keyed pseudonym of a network origin.
    Origin(B256),
}

/// One ban to record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Against whom.
    pub subject: BanSubject,
    /// Its end, Unix seconds.
    pub until: u64,
    /// Hash of what the gateway keeps as evidence, or zero.
    pub evidence: B256,
    /// Public for ever, at most 256 octets (what is longer is cut), never personal data.
    pub reason: String,
}

/// One alert to raise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertRecord {
    /// What happened.
    pub kind: AlertKind,
    /// Who did it, proven.
    pub wallet: Address,
    /// The governing topic, or zero.
    pub topic_id: B256,
    /// How many times.
    pub count: u32,
    /// Unix second of the first.
    pub first_at: u64,
    /// Unix second of the last.
    pub last_at: u64,
    /// Hash of the gateway's own records, or zero.
    pub evidence: B256,
}

/// The anchor of a batch of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// Its number among this gateway's anchors, from 1.
    pub sequence: u64,
    /// Root of the batch.
    pub root: B256,
    /// Root of the anchor before, zero for the first.
    pub previous: B256,
    /// How many records.
    pub count: u64,
}

/// Something to put on chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Intent {
    /// Bans, in `IBrokerRegistry`.
    Bans(Vec<Ban>),
    /// Ends of bans, there too. What waits of a ban that is lifted goes nowhere any more.
    Lifts(Vec<BanSubject>),
    /// Alerts, in `IAuditLog`.
    Alerts(Vec<AlertRecord>),
    /// An anchor, there too. The same one twice is one; which sequence numbers the chain has is its caller's to know.
    Anchor(Anchor),
}

impl Intent {
    /// Alerts as the folder hands them out.
    pub fn alerts(alerts: impl IntoIterator<Item = flytrap_policy::Alert>) -> Self {
        Self::Alerts(alerts.into_iter().map(AlertRecord::from).collect())
    }
}

impl From<flytrap_policy::Alert> for AlertRecord {
    fn from(alert: flytrap_policy::Alert) -> Self {
        Self {
            kind: alert.kind,
            wallet: alert.wallet,
            topic_id: alert.topic_id,
            count: alert.count,
            first_at: alert.first_at,
            last_at: alert.last_at,
            evidence: B256::ZERO,
        }
    }
}

/// Names what was handed in: keccak of its content and its place in the queue.
pub type IntentId = B256;

/// Where to put things on chain, and at which price.
#[derive(Debug, Clone)]
pub struct SubmitterConfig {
    /// Nodes (http, https, ws, wss), the preferred one first.
    pub urls: Vec<Url>,
    /// Where the contracts are.
    pub deployment: Deployment,
    /// For which broker the key is a gateway.
    pub broker_id: U256,
    /// Where what waits is kept. Only this submitter may use it.
    pub directory: PathBuf,
    /// Least time between two transactions.
    pub interval: Duration,
    /// A transaction that is in no block for so long is replaced by a dearer one.
    pub replace_after: Duration,
    /// Most wei per gas.
    pub max_fee_wei: u128,
    /// Most gas in a day (UTC).
    pub max_gas_per_day: u64,
    /// Most wei in a day (UTC).
    pub max_wei_per_day: U256,
    /// Most bans and ends of bans that wait; more are refused.
    pub max_bans: usize,
    /// Most different alerts that wait; of more the oldest are dropped, and counted.
    pub max_alerts: usize,
}

impl SubmitterConfig {
    /// Defaults: a transaction in ten seconds at most, 100 gwei, 20 million gas and an ether a day.
    #[must_use]
    pub fn new(
        urls: Vec<Url>,
        deployment: Deployment,
        broker_id: U256,
        directory: PathBuf,
    ) -> Self {
        Self {
            urls,
            deployment,
            broker_id,
            directory,
            interval: Duration::from_secs(10),
            replace_after: Duration::from_secs(60),
            max_fee_wei: 100_000_000_000,
            max_gas_per_day: 20_000_000,
            max_wei_per_day: U256::from(10_u64.pow(18)),
            max_bans: 4096,
            max_alerts: 16_384,
        }
    }
}

/// Why something was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// Too many bans wait. Nothing was taken.
    #[error(
        "{waiting} bans wait to be put on chain, at most {most} may: see why the submitter makes no progress"
    )]
    Full {
        /// How many wait.
        waiting: usize,
        /// How many may.
        most: usize,
    },
    /// It could not be kept.
    #[error("the submitter's directory cannot be written: {0}: is the disk full?")]
    Disk(#[source] io::Error),
    /// The process is ending.
    #[error("the submitter has stopped")]
    Stopped,
}

/// Why there is no submitter.
#[derive(Debug, thiserror::Error)]
pub enum SubmitterError {
    /// The directory cannot be used.
    #[error("submitter's directory {path}: {source}: make it, or make it writable for this user", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process uses it.
    #[error("submitter's directory {path} is in use by another process: give each gateway a directory of its own", path = .path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// What was under way cannot be read.
    #[error(
        "{path} is damaged ({source}), and with it what was under way: look the key's last transaction up, then remove the file; \
         what waits in `intents/` is then sent again, so remove there what that transaction carried", path = .path.display()
    )]
    Flight {
        /// The file.
        path: PathBuf,
        /// Where it stopped making sense.
        source: io::Error,
    },
    /// Nowhere to send anything.
    #[error(
        "`chain.urls` is empty, wanted at least one node: add one, such as \"http://127.0.0.1:8545\""
    )]
    NoUrl,
}

/// Hands things to the submitter. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SubmitterHandle {
    queue: Arc<StdMutex<Queue>>,
    wake: Arc<Notify>,
    health: Arc<SubmitterHealth>,
    pub(crate) address: Address,
}

impl SubmitterHandle {
    /// Keeps something until it is on chain. Once this returns, a crash does not lose it. An intent with more than 64 bans or
    /// alerts becomes several, each with its id.
    ///
    /// # Errors
    /// [`SubmitError`] if it was not taken; the caller keeps it.
    pub async fn submit(&self, intent: Intent) -> Result<Vec<IntentId>, SubmitError> {
        let pushed = self.with(move |queue| queue.push(intent)).await;
        let pushed = pushed.ok_or(SubmitError::Stopped)?;
        match &pushed {
            Ok(_) => self.wake.notify_one(),
            Err(full @ SubmitError::Full { .. }) => {
                self.health.board.raise(Alarm::QueueFull, full.to_string());
            }
            Err(disk) => self.health.board.raise(Alarm::Disk, disk.to_string()),
        }
        pushed
    }

    /// Whether a ban against `subject` that ends no sooner waits to be put on chain. False if the submitter has stopped.
    pub async fn holds_ban(&self, subject: BanSubject, until: u64) -> bool {
        self.with(move |queue| queue.holds_ban(subject, until)).await.unwrap_or(false)
    }

    /// Who signs: by this the chain knows the gateway.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// How it is doing.
    #[must_use]
    pub fn health(&self) -> Arc<SubmitterHealth> {
        self.health.clone()
    }

    /// Works on the queue where waiting for the disk hurts nobody.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Queue) -> T + Send + 'static,
    ) -> Option<T> {
        let (queue, health) = (self.queue.clone(), self.health.clone());
        let done = tokio::task::spawn_blocking(move || {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            let done = work(&mut queue);
            health.update(&queue, unix_now());
            done
        });
        done.await.ok()
    }
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn unix_now() -> u64 {
    since_1970().as_secs()
}

fn unix_now_ms() -> u64 {
    u64::try_from(since_1970().as_millis()).unwrap_or(u64::MAX)
}

impl BanSubject {
    /// Kind and subject, as the contract wants them.
    pub(crate) fn encoded(&self) -> (u8, B256) {
        match *self {
            Self::Wallet(wallet) => (0, wallet.into_word()),
            Self::Origin(pseudonym) => (1, pseudonym),
        }
    }
}

impl Ban {
    pub(crate) fn encoded(&self) -> IBrokerRegistry::Ban {
        let (kind, subject) = self.subject.encoded();
        IBrokerRegistry::Ban {
            kind,
            subject,
            until: self.until,
            evidence: self.evidence,
            reason: self.reason.clone(),
        }
    }
}

impl AlertRecord {
    fn encoded(&self) -> IAuditLog::Alert {
        let kind: u8 = match self.kind {
            AlertKind::PublishRefused => 0,
            AlertKind::SubscribeRefused => 1,
            AlertKind::WillRefused => 2,
            AlertKind::DeliveryWithheld => 3,
            AlertKind::SessionEnded => 4,
        };
        IAuditLog::Alert {
            kind,
            wallet: self.wallet,
            topicId: self.topic_id,
            count: self.count,
            firstAt: self.first_at,
            lastAt: self.last_at,
            evidence: self.evidence,
        }
    }
}
