//! The one task that writes records, and closes what has gathered for an anchor.
//!
//! At most one anchor is under way: what comes while it is gathers for the next, so that a chain that is slow or dear, or a node that is
//! away for an hour, makes batches larger and not more. An anchor that the chain does not show is handed over again, also after a
//! restart; the contract takes each sequence number once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use flytrap_record::Kind;
use flytrap_record::seal::Subject;
use tokio::sync::{Notify, mpsc};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::fold::Fold;
use super::store::{Closed, Draft, Retention, Store};
use super::unwritten::Unwritten;
use super::{Inbox, Work, mark, rules_word};
use crate::metrics::Metrics;
use crate::mirror::Mirror;

/// Batches of records that one transaction takes.
const AT_ONCE: usize = 1_024;
/// Time between two tries to write to a disk that did not take it.
const AGAIN: Duration = Duration::from_secs(1);

/// Time between two steps of retention.
const BETWEEN: Duration = Duration::from_millis(25);

/// Where anchors go.
pub trait Anchors: Send + 'static {
    /// Keeps an anchor until it is on chain; one of the same sequence number is kept once.
    fn hand_over(&self, closed: Closed) -> impl Future<Output = Result<(), String>> + Send;
}

/// What the writer needs besides what it writes.
#[derive(Debug)]
pub struct Terms {
    /// Whose anchors the chain is asked about.
    pub gateway: Address,
    /// Time between two anchors.
    pub interval: Duration,
    /// What is known of the chain.
    pub mirror: Arc<Mirror>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Hash of the file with the audit rules that are in force, zero without one.
    pub rules: B256,
    /// How long records are kept.
    pub retention: Retention,
}

/// Writes until it is stopped.
#[derive(Debug)]
pub struct Writer {
    /// Away while a thread works with it.
    store: Option<Store>,
    waiting: mpsc::Receiver<Work>,
    unwritten: Arc<Unwritten>,
    fold: Arc<Mutex<Fold>>,
    soon: Arc<Notify>,
}

impl Writer {
    /// Writes what comes out of `inbox` into `store`.
    #[must_use]
    pub fn new(store: Store, inbox: Inbox) -> Self {
        let Inbox { waiting, unwritten, fold, soon } = inbox;
        Self { store: Some(store), waiting, unwritten, fold, soon }
    }

    /// Writes what comes until `stop`, and then what is left. Without `anchors` (`gateway.record` is off) records are kept and proved by nothing but
    /// their chain.
    pub async fn run(
        mut self,
        terms: Terms,
        anchors: Option<impl Anchors>,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(terms.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut started = mark(Kind::Started, terms.mirror.now());
        started.record.rule = rules_word(terms.rules);
        self.unwritten.add([&started]);
        self.write(vec![started], &terms, &stop).await;
        // Not a pause in the loop below, which work that never ends would keep from its end.
        let mut steps = tokio::time::interval(BETWEEN);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut retains = false;
        loop {
            let mut work = Vec::new();
            tokio::select! {
                () = stop.cancelled() => break,
                count = self.waiting.recv_many(&mut work, AT_ONCE) => if count == 0 { break },
                () = self.soon.notified() => {
                    let singles = self.moved(Fold::take_singles);
                    self.write(singles, &terms, &stop).await;
                }
                _ = ticks.tick() => {
                    // What waits goes first: on a disk that takes nothing each try to put together costs seconds.
                    let waiting = std::iter::from_fn(|| self.waiting.try_recv().ok()).take(AT_ONCE).collect();
                    self.work_off(waiting, &terms, &stop).await;
                    let folded = self.folded();
                    self.write(folded, &terms, &stop).await;
                    self.put_together(&terms, anchors.as_ref()).await;
                    retains = true;
                }
                // In small steps, with room between them for what must be written.
                _ = steps.tick(), if retains => retains = self.retain(&terms, anchors.is_some()).await,
            }
            self.work_off(work, &terms, &stop).await;
            if self.store.is_none() {
                // A panic took the database with it: the gateway is told by the end of this part.
                return;
            }
        }
        // Sessions that wait have room with each turn.
        while let Ok(first) = self.waiting.try_recv() {
            let more = std::iter::from_fn(|| self.waiting.try_recv().ok());
            let left = std::iter::once(first).chain(more).collect();
            self.work_off(left, &terms, &stop).await;
        }
        let mut rest = self.folded();
        let stopped = mark(Kind::Stopped, terms.mirror.now());
        self.unwritten.add([&stopped]);
        rest.push(stopped);
        self.write(rest, &terms, &stop).await;
        self.put_together(&terms, anchors.as_ref()).await;
    }

    fn folded(&self) -> Vec<Draft> {
        self.moved(Fold::drain)
    }

    /// Takes something out of what is folded, which is counted as unwritten from then on.
    fn moved(&self, take: impl FnOnce(&mut Fold) -> Vec<Draft>) -> Vec<Draft> {
        let mut fold = self.lock();
        let taken = take(&mut fold);
        self.unwritten.add(&taken);
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Fold> {
        self.fold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what was asked, in its order, and with as few transactions as that takes.
    async fn work_off(&mut self, work: Vec<Work>, terms: &Terms, stop: &CancellationToken) {
        let mut drafts = Vec::new();
        for one in work {
            match one {
                Work::Append(more) => drafts.extend(more),
                Work::Erase { subject, done } => {
                    // What was refused until now is not to be written under a new key.
                    drafts.extend(self.folded());
                    self.write(std::mem::take(&mut drafts), terms, stop).await;
                    let erased = self.erase(subject, terms.mirror.now()).await;
                    let _ = done.send(erased);
                }
            }
        }
        self.write(drafts, terms, stop).await;
    }

    async fn erase(&mut self, subject: Subject, now: u64) -> Result<bool, String> {
        let mut told = mark(Kind::Erased, now);
        match subject {
            Subject::Wallet(wallet) => told.record.wallet = wallet,
            Subject::Origin(_) => "origin".clone_into(&mut told.record.rule),
        }
        match self.on_thread(move |store| store.erase(subject, &told)).await {
            Some(done) => done.map_err(|why| why.to_string()),
            None => Err("records cannot be written: see the log".to_owned()),
        }
    }

    /// Writes until it is on the disk. While the disk does not take it, nothing more is taken from the sessions, which then wait in
    /// turn; when the gateway stops there is one last try.
    async fn write(&mut self, drafts: Vec<Draft>, terms: &Terms, stop: &CancellationToken) {
        if drafts.is_empty() {
            return;
        }
        let drafts = Arc::new(drafts);
        let count = u64::try_from(drafts.len()).unwrap_or(u64::MAX);
        let mut is_behind = false;
        loop {
            let batch = drafts.clone();
            match self.on_thread(move |store| store.append(&batch)).await {
                None => return,
                Some(Ok(_)) => {
                    self.unwritten.written(drafts.iter());
                    terms.metrics.records.inc_by(count);
                    if is_behind {
                        terms.metrics.records_waiting.set(0);
                        info!(records = count, "records are written again");
                    }
                    return;
                }
                Some(Err(why)) => {
                    terms.metrics.records_waiting.set(i64::try_from(count).unwrap_or(i64::MAX));
                    if !is_behind {
                        error!(%why, records = count, "records cannot be written: sessions on sensitive topics wait until this is mended");
                    }
                    is_behind = true;
                    if stop.is_cancelled() {
                        error!(%why, records = count, "the gateway stops and cannot write these records");
                        return;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// One step towards keeping nothing longer than it is to be kept; whether there are more to take now.
    async fn retain(&mut self, terms: &Terms, is_anchored: bool) -> bool {
        let retention = terms.retention;
        if retention == Retention::FOR_EVER || !terms.mirror.fitness().decides() {
            return false;
        }
        // Without anchors nothing is to be proved by the chain, so age alone counts.
        let settled = terms.mirror.peek().anchored(terms.gateway).0;
        let anchored = if is_anchored { settled } else { u64::MAX };
        // By the earlier of both clocks, so that neither this machine's nor a node that lies can put it forward: what goes does not come back.
        let now = terms.mirror.surely_past();
        match self.on_thread(move |store| store.retain(retention, now, anchored)).await {
            Some(Ok(done)) => {
                terms.metrics.records_removed.inc_by(done.deleted + done.emptied);
                if done.batches > 0 {
                    info!(batches = done.batches, "records past their retention are removed");
                }
                done.more
            }
            Some(Err(why)) => {
                warn!(%why, "records past their retention cannot be removed");
                false
            }
            None => false,
        }
    }

    /// Closes what has gathered, and hands its anchor over; while one is still under way, that one once more and nothing else. Without
    /// anchors too, so that a start has no more to check than what came last.
    async fn put_together(&mut self, terms: &Terms, anchors: Option<&impl Anchors>) {
        if anchors.is_some() && !terms.mirror.fitness().decides() {
            // Which anchors the chain has is not known.
            return;
        }
        let on_chain = anchors.map(|_| terms.mirror.peek().anchored(terms.gateway));
        let next = self.on_thread(move |store| {
            let Some(on_chain) = on_chain else { return store.close((0, B256::ZERO)) };
            match store.closed_after(on_chain.0, 1)?.into_iter().next() {
                Some(under_way) => Ok(Some(under_way)),
                None => store.close(on_chain),
            }
        });
        match (next.await, anchors) {
            (Some(Ok(Some(closed))), Some(anchors)) => {
                if let Err(why) = anchors.hand_over(closed).await {
                    warn!(why, sequence = closed.sequence, "an anchor waits to be handed over");
                }
            }
            (Some(Err(why)), _) => error!(%why, "records cannot be put together for an anchor"),
            (None | Some(Ok(_)), _) => {}
        }
    }

    /// Works on the store where waiting for the disk hurts nobody. `None` if that panicked.
    async fn on_thread<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Store) -> T + Send + 'static,
    ) -> Option<T> {
        let mut store = self.store.take()?;
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&mut store);
            (store, done)
        });
        let (store, done) = done.await.ok()?;
        self.store = Some(store);
        Some(done)
    }
}
