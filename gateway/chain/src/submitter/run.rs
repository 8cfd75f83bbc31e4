//! The task that owns the nonce: what goes on chain next, and whether it may.

use std::{
    io,
    sync::{Arc, Mutex as StdMutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use alloy::{
    primitives::{B256, U64, U256},
    sol_types::SolCall,
};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::{
    Alarm, AlertRecord, Anchor, Ban, Intent, SubmitterConfig, SubmitterError, SubmitterHandle,
    SubmitterHealth,
    flight::Aloft,
    health::gwei,
    intents::{Attempt, Batch, Flight, Limits, Queue},
    unix_now, unix_now_ms,
};
use crate::{
    Sight, Signer,
    bindings::{IAuditLog, IBrokerRegistry},
    revert::Reverted,
    rpc::{Rpc, RpcError},
    signer::SignerError,
    transact::{self, Draft, TransactError},
};

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How far a block's time may be ahead of the clock, s.
const BLOCK_AHEAD: u64 = 15;
/// A wallet that can pay for fewer transactions than this is told of.
const FEW_TRANSACTIONS: u64 = 10;
/// How often something may fail in a block, alone in its transaction, before it is set aside.
const MOST_FAILURES: u32 = 3;

/// Puts on chain what its handle is given. See the module.
#[derive(Debug)]
pub struct Submitter {
    pub(super) config: SubmitterConfig,
    pub(super) signer: Signer,
    pub(super) rpc: Rpc,
    pub(super) sight: Arc<Sight>,
    pub(super) handle: SubmitterHandle,
    /// When the last transaction took off.
    last: Option<Instant>,
    pub(super) aloft: Aloft,
    /// Intents that the next transaction carries at most: one, after several together were refused.
    pub(super) most: usize,
    /// The intent that failed alone in its transaction last, and how often.
    failed_alone: Option<(u64, u32)>,
}

impl Submitter {
    /// Takes the directory and what waits in it. `sight` is the follower's, of the same chain.
    ///
    /// # Errors
    /// [`SubmitterError`].
    pub fn open(
        config: SubmitterConfig,
        signer: impl Into<Signer>,
        sight: Arc<Sight>,
    ) -> Result<(Self, SubmitterHandle), SubmitterError> {
        if config.urls.is_empty() {
            return Err(SubmitterError::NoUrl);
        }
        let limits = Limits { bans: config.max_bans, alerts: config.max_alerts };
        let queue = Queue::open(&config.directory, limits, unix_now())?;
        let health = Arc::new(SubmitterHealth::default());
        health.update(&queue, unix_now());
        if !queue.damaged().is_empty() {
            health.board.raise(Alarm::Damaged, queue.damaged().join("; "));
        }
        let rpc = Rpc::counted(config.urls.clone(), health.requests.clone());
        // A process that ends and starts again and again sends no more than one that runs on.
        let ago = unix_now_ms().checked_sub(queue.spent(unix_now()).took_off);
        let last = ago.and_then(|ago| Instant::now().checked_sub(Duration::from_millis(ago)));
        let signer = signer.into();
        let handle = SubmitterHandle {
            queue: Arc::new(StdMutex::new(queue)),
            wake: Arc::default(),
            health,
            address: signer.address(),
        };
        Ok((
            Self {
                config,
                signer,
                rpc,
                sight,
                handle: handle.clone(),
                last,
                aloft: Aloft::default(),
                most: usize::MAX,
                failed_alone: None,
            },
            handle,
        ))
    }

    /// Runs until `stop`. What is not on chain by then is sent after the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled_owned(self.work()).await;
    }

    async fn work(&mut self) {
        let mut failures: u32 = 0;
        let mut moved = self.sight.changed();
        loop {
            // Before it looks: what moves the chain from now on ends its rest.
            moved.borrow_and_update();
            match self.step().await {
                Ok(Step::Idle) => {
                    failures = 0;
                    self.health().board.clear_passing();
                    self.rest(&mut moved).await;
                }
                Ok(Step::Wait(pause)) => {
                    failures = 0;
                    sleep(pause).await;
                }
                Err(hitch) => {
                    failures = failures.saturating_add(1);
                    self.health().board.raise(hitch.alarm(), hitch.to_string());
                    let pause = self.pause(failures);
                    debug!(error = %hitch, ?pause, "nothing can be put on chain, trying again");
                    sleep(pause).await;
                }
            }
        }
    }

    /// Waits until something is handed in, or the chain moved under what was confirmed.
    async fn rest(&self, moved: &mut watch::Receiver<impl Sized>) {
        let is_remembering = self.with(|queue| Ok(!queue.landed().is_empty())).await;
        tokio::select! {
            () = self.handle.wake.notified() => {}
            Ok(()) = moved.changed(), if matches!(is_remembering, Ok(true)) => {}
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        let first = self.config.interval.clamp(Duration::from_millis(100), MAX_PAUSE / 60);
        first.saturating_mul(1 << failures.min(12)).min(MAX_PAUSE)
    }

    pub(super) fn health(&self) -> &SubmitterHealth {
        &self.handle.health
    }

    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Queue) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Hitch> {
        self.handle.with(work).await.ok_or(Hitch::Stopped)?.map_err(Hitch::Disk)
    }

    /// One step: looks after the transaction under way, or makes the next one.
    async fn step(&mut self) -> Result<Step, Hitch> {
        if let Some(flight) = self.with(|queue| Ok(queue.flight().cloned())).await? {
            return self.fly(flight).await;
        }
        if !self.look_back().await? {
            return Ok(Step::Wait(self.look()));
        }
        if let Some(left) =
            self.last.and_then(|last| self.config.interval.checked_sub(last.elapsed()))
            && !left.is_zero()
        {
            return Ok(Step::Wait(left));
        }
        let (most, sight) = (self.most, self.sight.clone());
        // A block's time may be a little ahead of the clock; a ban that ends within that is over.
        let now = unix_now() + BLOCK_AHEAD;
        let batch =
            self.with(move |queue| queue.batch(now, most, |ban| is_known(&sight, ban, now)));
        let Some(batch) = batch.await? else { return Ok(Step::Idle) };
        self.take_off(batch).await
    }

    async fn take_off(&mut self, batch: Batch) -> Result<Step, Hitch> {
        let (from, chain) = (self.signer.address(), self.config.deployment.chain_id);
        let found: U64 = self.rpc.call("eth_chainId", json!([])).await?;
        if found.to::<u64>() != chain {
            return Err(Hitch::WrongChain { found: found.to(), wanted: chain });
        }
        self.signer.check(chain).await?;
        let nonce = self.next_nonce().await?;
        let draft = self.draft(&batch.content);
        let gas = match transact::estimate(&self.rpc, from, &draft).await {
            Ok(gas) => gas,
            Err(TransactError::Reverted { reverted }) => {
                return self.refused(&batch, reverted).await;
            }
            Err(other) => return Err(other.into()),
        };
        let limit = self.fee_limit(gas).await?;
        let fees = transact::fees(&self.rpc, Some(limit)).await;
        let fees = fees.map_err(|error| self.over_limit(error, limit))?;
        let balance = transact::afford(&self.rpc, from, &draft, gas, fees).await?;
        self.tell_balance(balance, gas, fees.max_fee);
        let tx = transact::unsigned(chain, nonce, gas, fees, &draft);
        let (raw, hash) = self.signer.sign(tx).await?;
        let attempt = Attempt { raw, hash, max_fee: fees.max_fee, priority: fees.priority };
        let flight = Flight {
            sequences: batch.sequences,
            to: draft.to,
            data: draft.data,
            nonce,
            gas,
            attempts: vec![attempt],
        };
        let kept = flight.clone();
        self.with(move |queue| queue.take_off(kept, unix_now_ms())).await?;
        self.last = Some(Instant::now());
        self.health().sent.fetch_add(1, Relaxed);
        info!(tx = %hash, nonce, intents = flight.sequences.len(), "transaction takes off");
        self.fly(flight).await
    }

    /// The nonce after all that there are: nobody else uses the key, and what was confirmed is there.
    async fn next_nonce(&self) -> Result<u64, Hitch> {
        let from = self.signer.address();
        let latest = transact::nonce(&self.rpc, from, "latest").await?;
        let pending = transact::nonce(&self.rpc, from, "pending").await?;
        if pending > latest {
            return Err(Hitch::Contested { nonce: latest });
        }
        let landed =
            self.with(|queue| Ok(queue.landed().last().map(|landed| landed.nonce))).await?;
        match landed {
            Some(nonce) if latest <= nonce => Err(Hitch::Behind { latest, wanted: nonce + 1 }),
            _ => Ok(latest),
        }
    }

    /// Most wei per gas that a transaction of so much gas may offer: the limit, and what the day's budget leaves.
    pub(super) async fn fee_limit(&self, gas: u64) -> Result<u128, Hitch> {
        let spent = self.with(|queue| Ok(queue.spent(unix_now()))).await?;
        let (most_gas, most_wei) = (self.config.max_gas_per_day, self.config.max_wei_per_day);
        if spent.gas.saturating_add(gas) > most_gas {
            return Err(Hitch::GasBudget { spent: spent.gas, gas, most: most_gas });
        }
        let left: u128 =
            (most_wei.saturating_sub(spent.wei) / U256::from(gas.max(1))).saturating_to();
        if left == 0 {
            return Err(Hitch::WeiBudget { spent: spent.wei, most: most_wei });
        }
        Ok(self.config.max_fee_wei.min(left))
    }

    /// Too dear for the limit, or only for what is left of the day?
    fn over_limit(&self, error: TransactError, limit: u128) -> Hitch {
        match error {
            TransactError::TooDear { .. } if limit < self.config.max_fee_wei => {
                let most = self.config.max_wei_per_day;
                Hitch::WeiBudget { spent: U256::from(self.health().gwei_today()) * GWEI, most }
            }
            other => other.into(),
        }
    }

    fn tell_balance(&self, balance: U256, gas: u64, fee: u128) {
        self.health().balance_gwei.store(gwei(balance), Relaxed);
        let cost = U256::from(gas).saturating_mul(U256::from(fee));
        if balance < cost.saturating_mul(U256::from(FEW_TRANSACTIONS)) {
            let wallet = self.signer.address();
            let detail = format!(
                "wallet {wallet} has {balance} wei, a transaction may cost {cost} wei: send ether to it"
            );
            self.health().board.raise(Alarm::WalletLow, detail);
        } else {
            self.health().board.clear(Alarm::WalletLow);
        }
    }

    /// The contracts would refuse the transaction. Whose fault is it?
    async fn refused(&mut self, batch: &Batch, reverted: Reverted) -> Result<Step, Hitch> {
        if let (Intent::Lifts(_), [only]) = (&batch.content, &batch.sequences[..])
            && reverted.is(&["NotBanned"])
        {
            // It has ended by itself, or never came to the chain.
            let only = *only;
            self.with(move |queue| queue.needless(only)).await?;
            return Ok(Step::Wait(Duration::ZERO));
        }
        if let (Intent::Anchor(_), [only]) = (&batch.content, &batch.sequences[..])
            && reverted.is(&["WrongSequence", "WrongPrevious"])
        {
            // It is on chain already, or an earlier one was orphaned: whoever handed it in looks at the chain and hands in what comes next.
            let only = *only;
            self.with(move |queue| queue.needless(only)).await?;
            return Ok(Step::Wait(Duration::ZERO));
        }
        self.health().failed.fetch_add(1, Relaxed);
        if reverted.is(&["NotGateway", "NotBrokerOwnerOrGateway", "UnknownBroker"]) {
            return Err(Hitch::Role(reverted));
        }
        if reverted.is(&["Unknown", "Panic"]) {
            // Not what it carries: it waits.
            return Err(TransactError::Reverted { reverted }.into());
        }
        match batch.sequences[..] {
            [only] if reverted.is(&["BannedByOwner"]) => {
                info!(%reverted, sequence = only, "the broker owner's own ban is in force");
                self.with(move |queue| queue.supersede(only)).await?;
                self.most = usize::MAX;
            }
            [only] => self.set_aside(only, reverted.to_string()).await?,
            _ => self.most = 1,
        }
        Ok(Step::Wait(Duration::ZERO))
    }

    async fn set_aside(&mut self, sequence: u64, why: String) -> Result<(), Hitch> {
        error!(why, sequence, "intent refused by the contract, set aside");
        self.with(move |queue| queue.set_aside(sequence)).await?;
        let detail = format!("`refused/{sequence:020}.json`: {why}");
        self.health().board.raise(Alarm::SetAside, detail);
        self.most = usize::MAX;
        Ok(())
    }

    /// A transaction failed in its block, and what it carried waits again. Each intent must then show alone that it is not to blame,
    /// and one that fails again and again is not paid for for ever.
    pub(super) async fn blame(&mut self, sequences: &[u64]) -> Result<(), Hitch> {
        self.most = 1;
        let [only] = sequences else { return Ok(()) };
        let times = match self.failed_alone {
            Some((sequence, times)) if sequence == *only => times + 1,
            _ => 1,
        };
        self.failed_alone = Some((*only, times));
        if times >= MOST_FAILURES {
            self.set_aside(*only, format!("it failed in {times} blocks")).await?;
        }
        Ok(())
    }

    fn draft(&self, content: &Intent) -> Draft {
        let (d, broker_id) = (&self.config.deployment, self.config.broker_id);
        let (to, data) = match content {
            Intent::Bans(bans) => {
                let bans = bans.iter().map(Ban::encoded).collect();
                let call = IBrokerRegistry::banCall { brokerId: broker_id, bans };
                (d.broker_registry, call.abi_encode())
            }
            Intent::Lifts(lifts) => {
                // The queue makes an intent of each.
                let (kind, subject) = lifts.first().map_or((0, B256::ZERO), |lift| lift.encoded());
                let call = IBrokerRegistry::unbanCall { brokerId: broker_id, kind, subject };
                (d.broker_registry, call.abi_encode())
            }
            Intent::Alerts(alerts) => {
                let alerts = alerts.iter().map(AlertRecord::encoded).collect();
                let call = IAuditLog::raiseAlertsCall { brokerId: broker_id, alerts };
                (d.audit_log, call.abi_encode())
            }
            Intent::Anchor(Anchor { sequence, root, previous, count }) => {
                let call = IAuditLog::anchorCall {
                    brokerId: broker_id,
                    sequence: *sequence,
                    root: *root,
                    previous: *previous,
                    count: *count,
                };
                (d.audit_log, call.abi_encode())
            }
        };
        Draft { to, data: data.into(), value: U256::ZERO }
    }

    /// How long until the transaction under way is looked at again.
    pub(super) fn look(&self) -> Duration {
        (self.config.interval / 10).clamp(Duration::from_millis(20), Duration::from_secs(2))
    }
}

const GWEI: U256 = U256::from_limbs([1_000_000_000, 0, 0, 0]);

/// Is there a ban on chain, of another gateway or the owner, that ends as late as this one, give or take a tenth of it? Two gateways that
/// a client attacks at once would otherwise each ban it, and the second ban could even shorten the first.
fn is_known(sight: &Sight, ban: &Ban, now: u64) -> bool {
    sight.banned_until(ban.subject, now).is_some_and(|until| {
        let (missing, lasts) = (ban.until.saturating_sub(until), ban.until.saturating_sub(now));
        missing.saturating_mul(10) <= lasts
    })
}

/// What to do next.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing, until something is handed in.
    Idle,
    /// The next step, after a while.
    Wait(Duration),
}

/// What keeps the submitter from making progress, for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Hitch {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Transact(#[from] TransactError),
    #[error(transparent)]
    Signer(#[from] SignerError),
    #[error("{0}")]
    Role(Reverted),
    #[error("the submitter's directory cannot be written: {0}: is the disk full?")]
    Disk(io::Error),
    #[error(
        "the node is on chain {found}, the deployment file is for chain {wanted}: correct the node's URL or the file"
    )]
    WrongChain { found: u64, wanted: u64 },
    #[error(
        "{spent} gas was used today and the next transaction may take {gas}, `max_gas_per_day` is {most}: raise it, or wait \
         until tomorrow (UTC)"
    )]
    GasBudget { spent: u64, gas: u64, most: u64 },
    #[error(
        "{spent} wei were paid today, and at today's price the next transaction may cost more than what is left of {most} wei: raise \
         `max_gwei_per_day`, or wait until tomorrow (UTC)"
    )]
    WeiBudget { spent: U256, most: U256 },
    #[error(
        "a transaction with nonce {nonce} that this gateway has not sent waits for a block: give each process a key of its own"
    )]
    Contested { nonce: u64 },
    #[error(
        "the node's next nonce is {latest}, and confirmed transactions say {wanted}: it is behind, and is waited for"
    )]
    Behind { latest: u64, wanted: u64 },
    #[error("the node says that the wallet cannot pay: {0}: send ether to it")]
    Insufficient(RpcError),
    #[error("the process is ending")]
    Stopped,
}

impl Hitch {
    pub(super) const fn alarm(&self) -> Alarm {
        match self {
            Self::Rpc(_) | Self::Behind { .. } | Self::Stopped => Alarm::NodeAway,
            Self::Transact(TransactError::Poor { .. }) | Self::Insufficient(_) => {
                Alarm::WalletEmpty
            }
            Self::Transact(TransactError::TooDear { .. }) => Alarm::FeeAboveLimit,
            Self::Transact(TransactError::Failed { .. } | TransactError::Reverted { .. }) => {
                Alarm::TransactionFailed
            }
            Self::Transact(TransactError::Rpc(_) | TransactError::Pending { .. }) => {
                Alarm::NodeAway
            }
            Self::Signer(SignerError::Away(_)) => Alarm::SignerAway,
            Self::Signer(SignerError::Wrong(_)) => Alarm::SignerWrong,
            Self::Role(_) => Alarm::RoleLost,
            Self::Disk(_) => Alarm::Disk,
            Self::WrongChain { .. } => Alarm::WrongChain,
            Self::GasBudget { .. } | Self::WeiBudget { .. } => Alarm::BudgetSpent,
            Self::Contested { .. } => Alarm::KeyUsedElsewhere,
        }
    }
}
