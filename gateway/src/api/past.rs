//! What the chain tells of rights, from the beginning: read once, kept, and read on as the chain settles. One question at a time goes to the
//! node, whoever asks how often.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flytrap_chain::history::{self, Entry, HistoryError, Query, Told};
use flytrap_chain::{ChainHealth, Rpc};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Facts;
use super::problem::Problem;

/// Events that are kept in memory, at some 500 octets each.
const MOST: usize = 200_000;
/// Between two questions to the node.
const PAUSE: Duration = Duration::from_millis(500);
/// After one that came to nothing: the node is the one that sessions need, and strangers may ask.
const FAULT_PAUSE: Duration = Duration::from_secs(15);

/// The past, as far as it is settled.
#[derive(Debug)]
pub(super) struct Past {
    rpc: Rpc,
    facts: Facts,
    chain: Arc<ChainHealth>,
    wanted: Notify,
    /// To ask for one block, one at a time.
    turn: Semaphore,
    known: watch::Sender<Known>,
}

/// What is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    /// Oldest first.
    pub(super) entries: Arc<Vec<Entry>>,
    /// Up to which block.
    pub(super) to: u64,
    /// Reorganisations and resyncs that were seen.
    forks: (u64, u64),
    /// How often the node was asked.
    round: u64,
    fault: Option<&'static str>,
    faulted: Option<Instant>,
}

impl Past {
    pub(super) fn new(facts: Facts, chain: Arc<ChainHealth>) -> Self {
        let rpc = Rpc::new(facts.urls.clone());
        let known = watch::Sender::new(Known::default());
        Self { rpc, facts, chain, wanted: Notify::new(), turn: Semaphore::new(1), known }
    }

    fn is_fresh(&self, known: &Known) -> bool {
        known.to == self.chain.settled_height() && known.forks == self.forks() && known.to > 0
    }

    fn forks(&self) -> (u64, u64) {
        (self.chain.reorgs(), self.chain.resyncs())
    }

    /// All that is settled at this moment.
    pub(super) async fn now(&self) -> Result<Known, Problem> {
        let mut seen = self.known.subscribe();
        let known = seen.borrow_and_update().clone();
        if self.is_fresh(&known) {
            return Ok(known);
        }
        if let Some(fault) = known.fault
            && known.faulted.is_some_and(|since| since.elapsed() < FAULT_PAUSE)
        {
            return Err(Problem::later(fault).after(FAULT_PAUSE));
        }
        self.wanted.notify_one();
        // The caller's deadline ends it; what was read by then is not lost.
        loop {
            if seen.changed().await.is_err() {
                return Err(Problem::fault(""));
            }
            let found = seen.borrow_and_update().clone();
            match found.fault {
                Some(fault) => return Err(Problem::later(fault).after(FAULT_PAUSE)),
                None if found.round > known.round => return Ok(found),
                None => {}
            }
        }
    }

    /// Time of a block.
    pub(super) async fn time_of(&self, height: u64) -> Result<u64, Problem> {
        let told = {
            let known = self.known.borrow();
            let at = known.entries.partition_point(|entry| entry.height < height);
            known.entries.get(at).filter(|entry| entry.height == height).map(|entry| entry.time)
        };
        if let Some(time) = told {
            return Ok(time);
        }
        let later = || Problem::later("no node tells the past at this moment").after(PAUSE);
        let _turn = self.turn.acquire().await.map_err(|_| later())?;
        history::block_time(&self.rpc, height).await.map_err(|error| {
            debug!(%error, height, "the time of a block cannot be asked for");
            later()
        })
    }

    /// Asks the node when somebody wants to know, until `stop`.
    pub(super) async fn run(&self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wanted.notified() => {}
            }
            let known = self.known.borrow().clone();
            let next = tokio::select! {
                () = stop.cancelled() => return,
                next = self.read_on(known) => next,
            };
            let faulted = next.fault.map(|_| Instant::now());
            let next = Known { faulted, ..next };
            let pause = if next.fault.is_some() { FAULT_PAUSE } else { PAUSE };
            self.known.send_replace(next);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn read_on(&self, mut known: Known) -> Known {
        known.round += 1;
        known.fault = None;
        let (forks, settled) = (self.forks(), self.chain.settled_height());
        if settled == 0 {
            known.fault = Some("the gateway does not know enough of the chain at this moment");
            return known;
        }
        if known.forks != forks || known.to > settled {
            known = Known { forks, round: known.round, ..Known::default() };
        }
        if known.to == settled {
            return known;
        }
        let query = Query {
            broker_id: self.facts.broker_id,
            told: Told::Rights,
            from: Some(known.to.saturating_add(1)),
            to: Some(settled),
            most: Some(MOST.saturating_sub(known.entries.len())),
            ..Query::default()
        };
        match history::history(&self.rpc, &self.facts.deployment, &query).await {
            // Between the two the chain may have become another one.
            Ok(_) if self.forks() != forks => {
                known.fault = Some("the chain was reorganised just now: ask again");
            }
            Ok(found) => {
                // Whoever asks holds what was known, so adding to it copies it.
                if !found.is_empty() {
                    Arc::make_mut(&mut known.entries).extend(found);
                }
                known.to = settled;
            }
            Err(HistoryError::TooMany { .. }) => {
                known.fault = Some(
                    "the broker's past has more events than this API keeps: use `flytrap audit at`",
                );
            }
            Err(error) => {
                warn!(%error, "the past cannot be asked for");
                known.fault = Some("no node tells the past at this moment");
            }
        }
        known
    }
}
