//! A submitter at work beside a follower, and what it has put on chain.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::primitives::{Address, B256, U256};
use flytrap_chain::{
    Alarm, AlertRecord, Ban, BanSubject, Intent, Signer, Submitter, SubmitterConfig,
    SubmitterError, SubmitterHandle, SubmitterHealth,
    history::{Entry, Query, history},
    keys::Key,
};
use flytrap_policy::{AlertKind, Event};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::site::{Following, PATIENCE, Site, key, until};

/// The gateway's key.
pub(crate) fn gateway() -> Key {
    key(3)
}

pub(crate) async fn site() -> Site {
    let site = Site::start().await;
    site.owner.set_gateway(site.broker_id, gateway().address(), "mqtts://gateway").await.unwrap();
    site
}

pub(crate) fn config(site: &Site, directory: &Path) -> SubmitterConfig {
    let mut config = SubmitterConfig::new(
        vec![site.http()],
        site.deployment.clone(),
        site.broker_id,
        directory.into(),
    );
    config.interval = Duration::from_millis(50);
    config
}

/// A follower that looks often.
pub(crate) fn follow(site: &Site, confirmations: u64) -> Following {
    let mut config = site.config(vec![site.http()]);
    config.confirmations = confirmations;
    config.poll = Duration::from_millis(20);
    Following::start(config)
}

pub(crate) struct Submitting {
    pub(crate) handle: SubmitterHandle,
    lock: PathBuf,
    task: JoinHandle<()>,
    following: Option<Following>,
}

impl Drop for Submitting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Submitting {
    /// With a follower of its own, for which the newest block is settled.
    pub(crate) fn start(site: &Site, config: SubmitterConfig, signer: impl Into<Signer>) -> Self {
        Self::with(follow(site, 0), config, signer)
    }

    /// With a follower of its own.
    pub(crate) fn with(
        following: Following,
        config: SubmitterConfig,
        signer: impl Into<Signer>,
    ) -> Self {
        let (mut submitting, submitter) = Self::waiting(&following, config, signer).unwrap();
        submitting.work(submitter);
        submitting.following = Some(following);
        submitting
    }

    /// Beside a follower that is there, and not at work yet.
    pub(crate) fn waiting(
        following: &Following,
        config: SubmitterConfig,
        signer: impl Into<Signer>,
    ) -> Result<(Self, Submitter), SubmitterError> {
        let lock = config.directory.join("lock");
        let (submitter, handle) = Submitter::open(config, signer, following.sight.clone())?;
        Ok((Self { handle, lock, task: tokio::spawn(async {}), following: None }, submitter))
    }

    pub(crate) fn work(&mut self, submitter: Submitter) {
        self.task = tokio::spawn(submitter.run(CancellationToken::new()));
    }

    /// As `kill -9`: whatever it was about to do, it does not.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        let path = std::mem::take(&mut self.lock);
        drop(self);
        // A process that is killed lets go of its lock at once; here a thread that still writes holds it a while.
        until("the lock to be free", || File::open(&path).unwrap().try_lock().is_ok()).await;
    }

    pub(crate) async fn ban(&self, number: u8, end: u64) {
        self.handle.submit(Intent::Bans(vec![ban(number, end)])).await.unwrap();
    }

    /// Waits until nothing waits any more, and that is told.
    pub(crate) async fn drained(&self) {
        let health = self.handle.health();
        // A node that was away for long is asked again after a minute.
        let deadline = std::time::Instant::now() + Duration::from_secs(60) + PATIENCE;
        while health.queued_bans() + health.queued_alerts() > 0 {
            assert!(std::time::Instant::now() < deadline, "queue kept: {:?}", health.alarms());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // What was under way is counted, and alarms that are over end, a moment after the files are gone.
        until("the account of it", || health.sent() <= health.confirmed() + health.failed()).await;
    }

    /// Waits until it is alarmed, and returns what it says.
    pub(crate) async fn alarmed(&self, alarm: Alarm) -> String {
        let health = self.handle.health();
        until(alarm.word(), || detail(&health, alarm).is_some()).await;
        detail(&health, alarm).unwrap()
    }
}

/// What an alarm that is on says.
pub(crate) fn detail(health: &SubmitterHealth, alarm: Alarm) -> Option<String> {
    health.alarms().into_iter().find(|(on, _)| *on == alarm).map(|(_, detail)| detail)
}

pub(crate) fn ban(number: u8, until: u64) -> Ban {
    Ban {
        subject: BanSubject::Origin(B256::repeat_byte(number)),
        until,
        evidence: B256::repeat_byte(7),
        reason: "too many failures".into(),
    }
}

pub(crate) fn alert(number: u8, count: u32) -> AlertRecord {
    AlertRecord {
        kind: AlertKind::SubscribeRefused,
        wallet: Address::repeat_byte(number),
        topic_id: B256::ZERO,
        count,
        first_at: 1_700_000_000,
        last_at: 1_700_000_001,
        evidence: B256::ZERO,
    }
}

pub(crate) async fn entries(site: &Site) -> Vec<Entry> {
    let query = Query { broker_id: site.broker_id, ..Query::default() };
    history(&site.rpc, &site.deployment, &query).await.unwrap()
}

/// Pseudonyms that were banned on chain, as often as they were.
pub(crate) async fn banned(site: &Site) -> Vec<u8> {
    let mut found: Vec<u8> = entries(site)
        .await
        .iter()
        .filter_map(|entry| match entry.event {
            Event::OriginBanned { origin, .. } => Some(origin[0]),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found
}

/// Waits until these are on chain, each once.
pub(crate) async fn until_banned(site: &Site, wanted: &[u8]) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while banned(site).await != wanted {
        assert!(std::time::Instant::now() < deadline, "banned {:?}", banned(site).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) async fn nonce(site: &Site, wallet: Address) -> U256 {
    site.rpc.call("eth_getTransactionCount", json!([wallet, "latest"])).await.unwrap()
}

/// Blocks come by themselves, every so often, until this is dropped.
pub(crate) struct Miner(JoinHandle<()>);

impl Drop for Miner {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) async fn miner(site: &Site, pace: Duration) -> Miner {
    site.ask("evm_setAutomine", json!([false])).await;
    let rpc = flytrap_chain::Rpc::new(vec![site.http()]);
    Miner(tokio::spawn(async move {
        loop {
            let mined = rpc.call::<serde_json::Value>("anvil_mine", json!(["0x1"])).await;
            assert!(mined.is_ok(), "{mined:?}");
            tokio::time::sleep(pace).await;
        }
    }))
}
