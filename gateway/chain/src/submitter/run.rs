//! The task that owns the nonce: one transaction at a time, from its signature until it is deep enough.

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
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    AlertRecord, Ban, Intent, SubmitterConfig, SubmitterError, SubmitterHandle, SubmitterHealth,
    intents::{Attempt, Batch, Flight, Limits, Queue},
    unix_now,
};
use crate::{
    bindings::{IAuditLog, IBrokerRegistry},
    keys::Key,
    revert::Reverted,
    rpc::{Rpc, RpcError},
    transact::{self, Draft, Fees, Receipt, TransactError},
};

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// How often a transaction that is in no block is handed in again.
const RESEND: Duration = Duration::from_secs(5);
/// How far a block's time may be ahead of the clock, s.
const BLOCK_AHEAD: u64 = 15;
/// How often a used nonce without a receipt is looked at before the transaction is given up.
const PATIENT_LOOKS: u32 = 20;

/// Puts on chain what its handle is given. See the module.
#[derive(Debug)]
pub struct Submitter {
    config: SubmitterConfig,
    key: Key,
    rpc: Rpc,
    handle: SubmitterHandle,
    /// When the last transaction took off.
    last: Option<Instant>,
    /// The newest attempt of the transaction under way, and since when it has waited for a block.
    aloft: Option<(B256, Instant)>,
    /// Intents that the next transaction carries at most: one, after several together were refused.
    most: usize,
}

impl Submitter {
    /// Takes the directory and what waits in it.
    ///
    /// # Errors
    /// [`SubmitterError`].
    pub fn open(
        config: SubmitterConfig,
        key: Key,
    ) -> Result<(Self, SubmitterHandle), SubmitterError> {
        if config.urls.is_empty() {
            return Err(SubmitterError::NoUrl);
        }
        let limits = Limits { bans: config.max_bans, alerts: config.max_alerts };
        let queue = Queue::open(&config.directory, limits, unix_now())?;
        let health = Arc::new(SubmitterHealth::default());
        health.update(&queue, unix_now());
        let rpc = Rpc::counted(config.urls.clone(), health.requests.clone());
        let handle =
            SubmitterHandle { queue: Arc::new(StdMutex::new(queue)), wake: Arc::default(), health };
        Ok((
            Self {
                config,
                key,
                rpc,
                handle: handle.clone(),
                last: None,
                aloft: None,
                most: usize::MAX,
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
        loop {
            match self.step().await {
                Ok(Step::Idle) => {
                    failures = 0;
                    self.handle.health.set_alarm(None);
                    self.handle.wake.notified().await;
                }
                Ok(Step::Wait(pause)) => {
                    failures = 0;
                    sleep(pause).await;
                }
                Err(hitch) => {
                    failures = failures.saturating_add(1);
                    self.handle.health.set_alarm(Some(hitch.to_string()));
                    let pause = self.pause(failures);
                    warn!(error = %hitch, ?pause, "nothing can be put on chain, trying again");
                    sleep(pause).await;
                }
            }
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        let first = self.config.interval.clamp(Duration::from_millis(100), MAX_PAUSE / 60);
        first.saturating_mul(1 << failures.min(12)).min(MAX_PAUSE)
    }

    async fn with<T: Send + 'static>(
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
        if let Some(left) =
            self.last.and_then(|last| self.config.interval.checked_sub(last.elapsed()))
            && !left.is_zero()
        {
            return Ok(Step::Wait(left));
        }
        let most = self.most;
        // A block's time may be a little ahead of the clock; a ban that ends within that is over.
        let batch = self.with(move |queue| queue.batch(unix_now() + BLOCK_AHEAD, most)).await?;
        let Some(batch) = batch else { return Ok(Step::Idle) };
        self.take_off(batch).await
    }

    async fn take_off(&mut self, batch: Batch) -> Result<Step, Hitch> {
        let from = self.key.address();
        let found: U64 = self.rpc.call("eth_chainId", json!([])).await?;
        if found.to::<u64>() != self.config.deployment.chain_id {
            let (found, wanted) = (found.to(), self.config.deployment.chain_id);
            return Err(Hitch::WrongChain { found, wanted });
        }
        let draft = self.draft(&batch.content);
        let gas = match transact::estimate(&self.rpc, from, &draft).await {
            Ok(gas) => gas,
            Err(TransactError::Reverted { reverted }) => {
                return self.refused(&batch, reverted).await;
            }
            Err(other) => return Err(other.into()),
        };
        let spent = self.with(|queue| Ok(queue.spent(unix_now()))).await?;
        let most = self.config.max_gas_per_day;
        if spent.saturating_add(gas) > most {
            return Err(Hitch::Budget { spent, gas, most });
        }
        let fees = transact::fees(&self.rpc, Some(self.config.max_fee_wei)).await?;
        transact::afford(&self.rpc, from, &draft, gas, fees).await?;
        let nonce = transact::nonce(&self.rpc, from, "pending").await?;
        let chain = self.config.deployment.chain_id;
        let (raw, hash) = transact::sign(&self.key, chain, nonce, gas, fees, &draft);
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
        self.with(move |queue| queue.take_off(kept)).await?;
        self.last = Some(Instant::now());
        self.handle.health.sent.fetch_add(1, Relaxed);
        info!(tx = %hash, nonce, intents = flight.sequences.len(), "transaction takes off");
        self.fly(flight).await
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
        self.handle.health.failed.fetch_add(1, Relaxed);
        if reverted.is(&[
            "NotGateway",
            "NotBrokerOwnerOrGateway",
            "UnknownBroker",
            "Unknown",
            "Panic",
        ]) {
            // Not what it carries, but who carries it: it waits.
            return Err(TransactError::Reverted { reverted }.into());
        }
        match batch.sequences[..] {
            [only] => {
                error!(%reverted, sequence = only, "intent refused by the contract, set aside");
                self.with(move |queue| queue.set_aside(only)).await?;
                self.most = usize::MAX;
            }
            _ => self.most = 1,
        }
        Ok(Step::Wait(Duration::ZERO))
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
        };
        Draft { to, data: data.into(), value: U256::ZERO }
    }

    /// Looks after the transaction under way until it has landed, failed, or must be given up.
    async fn fly(&mut self, mut flight: Flight) -> Result<Step, Hitch> {
        let mut handed_in: Option<Instant> = None;
        let mut missing = 0;
        loop {
            let mut mined = None;
            for attempt in &flight.attempts {
                mined = mined.or(transact::receipt(&self.rpc, attempt.hash).await?);
            }
            if let Some(receipt) = mined {
                missing = 0;
                if let Some(step) = self.land(receipt).await? {
                    return Ok(step);
                }
            } else if transact::nonce(&self.rpc, self.key.address(), "latest").await? > flight.nonce
            {
                // The nonce is used, yet by none of ours that the node knows. It may only be slow to tell.
                missing += 1;
                if missing > PATIENT_LOOKS {
                    warn!(
                        nonce = flight.nonce,
                        "nonce used by a transaction that is not ours, making a new one"
                    );
                    self.with(Queue::give_up).await?;
                    return Ok(Step::Wait(Duration::ZERO));
                }
            } else {
                missing = 0;
                if self.has_waited_long(&flight)
                    && let Some(dearer) = self.dearer(&flight).await?
                {
                    flight.attempts.push(dearer);
                    let kept = flight.clone();
                    self.with(move |queue| queue.take_off(kept)).await?;
                    self.handle.health.replaced.fetch_add(1, Relaxed);
                    handed_in = None;
                }
                if handed_in.is_none_or(|at| at.elapsed() >= RESEND) {
                    // Also what was handed in before: a node may have dropped it.
                    self.hand_in(&flight).await?;
                    handed_in = Some(Instant::now());
                }
            }
            sleep(self.look()).await;
        }
    }

    /// Has the newest attempt been on its way for so long that it should pay more? Asked again only after as long again. Kept
    /// outside the flight's own loop: a node that fails now and then must not put it off for ever.
    fn has_waited_long(&mut self, flight: &Flight) -> bool {
        let Some(newest) = flight.attempts.last().map(|attempt| attempt.hash) else { return false };
        match &mut self.aloft {
            Some((hash, since)) if *hash == newest => {
                let long = since.elapsed() >= self.config.replace_after;
                if long {
                    *since = Instant::now();
                }
                long
            }
            aloft => {
                *aloft = Some((newest, Instant::now()));
                false
            }
        }
    }

    fn look(&self) -> Duration {
        (self.config.interval / 10).clamp(Duration::from_millis(20), Duration::from_secs(2))
    }

    async fn hand_in(&self, flight: &Flight) -> Result<(), Hitch> {
        let Some(newest) = flight.attempts.last() else { return Ok(()) };
        match transact::send(&self.rpc, &newest.raw).await {
            Ok(()) => Ok(()),
            // Mined in this moment, or an equal one is waiting already: the next look tells.
            Err(error) if error.says(&["noncetoolow", "oldnonce", "underpriced"]) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// The same transaction at a price that nodes accept in its place, unless that is above the limit.
    async fn dearer(&self, flight: &Flight) -> Result<Option<Attempt>, Hitch> {
        let Some(last) = flight.attempts.last() else { return Ok(None) };
        let now = match transact::fees(&self.rpc, None).await {
            Ok(now) => now,
            Err(error) => return Err(error.into()),
        };
        let Some(fees) = bumped(last.max_fee, last.priority, now, self.config.max_fee_wei) else {
            let alarm = format!(
                "transaction {} is stuck at {} wei per gas, and the limit of {} wei allows no replacement: raise \
                 `max_fee_wei`, or wait",
                last.hash, last.max_fee, self.config.max_fee_wei
            );
            self.handle.health.set_alarm(Some(alarm));
            return Ok(None);
        };
        let draft = Draft { to: flight.to, data: flight.data.clone(), value: U256::ZERO };
        let chain = self.config.deployment.chain_id;
        let (raw, hash) = transact::sign(&self.key, chain, flight.nonce, flight.gas, fees, &draft);
        info!(tx = %hash, replaces = %last.hash, max_fee_wei = fees.max_fee, "transaction replaced");
        Ok(Some(Attempt { raw, hash, max_fee: fees.max_fee, priority: fees.priority }))
    }

    /// The transaction is in a block. `None` while that block may still be orphaned.
    async fn land(&mut self, receipt: Receipt) -> Result<Option<Step>, Hitch> {
        let height: u64 = receipt.block_number.unwrap_or_default().to();
        let head: U64 = self.rpc.call("eth_blockNumber", json!([])).await?;
        if head.to::<u64>() < height.saturating_add(self.config.confirmations) {
            return Ok(None);
        }
        let gas = receipt.gas_used.to();
        let tx = receipt.transaction_hash;
        match receipt.done() {
            Ok(done) => {
                self.with(move |queue| queue.spend(gas, unix_now()).and_then(|()| queue.land()))
                    .await?;
                self.handle.health.confirmed.fetch_add(1, Relaxed);
                self.handle.health.set_alarm(None);
                self.most = usize::MAX;
                info!(%tx, height = done.height, gas, "transaction confirmed");
                Ok(Some(Step::Wait(Duration::ZERO)))
            }
            Err(failed) => {
                // It waits again; the next estimate says what is wrong.
                self.with(move |queue| queue.spend(gas, unix_now()).and_then(|()| queue.give_up()))
                    .await?;
                self.handle.health.failed.fetch_add(1, Relaxed);
                Err(failed.into())
            }
        }
    }
}

/// What to do next.
enum Step {
    /// Nothing, until something is handed in.
    Idle,
    /// The next step, after a while.
    Wait(Duration),
}

/// What keeps the submitter from making progress, for now.
#[derive(Debug, thiserror::Error)]
enum Hitch {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Transact(#[from] TransactError),
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
    Budget { spent: u64, gas: u64, most: u64 },
    #[error("the process is ending")]
    Stopped,
}

/// At least an eighth more than before, as nodes want for a replacement, and not less than what is asked for now. `None` if that
/// is above the limit.
fn bumped(max_fee: u128, priority: u128, now: Fees, limit: u128) -> Option<Fees> {
    let eighth = |fee: u128| fee.saturating_add(fee.div_ceil(8)).saturating_add(1);
    let least = eighth(max_fee);
    let max_fee = now.max_fee.max(least).min(limit.max(least));
    let priority = now.priority.max(eighth(priority)).min(max_fee);
    (max_fee <= limit).then_some(Fees { max_fee, priority })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_pays_an_eighth_more_for_both_fees_and_never_above_the_limit() {
        let now = Fees { max_fee: 10, priority: 1 };
        let fees = bumped(1_000, 80, now, 2_000).unwrap();
        assert!(fees.max_fee * 8 >= 1_000 * 9 && fees.priority * 8 >= 80 * 9, "{fees:?}");
        // What is asked for now, if that is more.
        let dear = Fees { max_fee: 1_500, priority: 300 };
        assert_eq!(bumped(1_000, 80, dear, 2_000), Some(dear));
        assert_eq!(
            bumped(1_000, 80, Fees { max_fee: 9_000, priority: 300 }, 2_000).unwrap().max_fee,
            2_000
        );
        // The last limit that leaves room for an eighth, and the first that does not.
        assert_eq!(bumped(1_000, 80, now, 1_126).unwrap().max_fee, 1_126);
        assert_eq!(bumped(1_000, 80, now, 1_125), None);
    }
}
