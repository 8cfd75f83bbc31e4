//! The task that keeps the index as the store and the chain are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use flytrap_chain::Rpc;
use flytrap_chain::history::{self, HistoryError, Query, Told};
use flytrap_policy::Event;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Served;
use super::index::{Follower, IndexError, Step};

/// Between two steps while there is more to do: the disk is the store's first.
const BREATH: Duration = Duration::from_millis(3);
/// Between two looks for more.
const LOOK: Duration = Duration::from_millis(300);
/// Between two tries after a fault.
const AGAIN: Duration = Duration::from_secs(2);
/// Between two looks for anchors.
const ANCHORS: Duration = Duration::from_secs(1);
/// Blocks, and anchors, that are asked for at once.
const SPAN: u64 = 500_000;
const MOST: usize = 20_000;

/// Follows until `stop`.
pub(super) async fn follow(served: Arc<Served>, stop: CancellationToken) {
    let mut index = Some(Follower::new(served.index.clone(), served.facts.drops_refusals));
    let mut anchors = Anchors::new(&served);
    let (mut is_at_fault, mut looked) = (false, None::<Instant>);
    while !stop.is_cancelled() {
        let mut step = on_thread(&mut index, Follower::step).await;
        if matches!(step, Ok(Step::Done)) && looked.is_none_or(|then| then.elapsed() >= ANCHORS) {
            looked = Some(Instant::now());
            if let Err(error) = anchors.follow(&served, &mut index).await {
                step = Err(error);
            }
        }
        let pause = match step {
            Ok(done) => {
                if is_at_fault {
                    info!("the API's index follows again");
                }
                is_at_fault = false;
                if done == Step::More { BREATH } else { LOOK }
            }
            Err(error) => {
                if !is_at_fault {
                    warn!(%error, "the API's index cannot follow: answers say up to where it goes");
                }
                is_at_fault = true;
                AGAIN
            }
        };
        if index.is_none() {
            // A panic took it.
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Works on the index where waiting for the disk hurts nobody.
async fn on_thread<T: Send + 'static>(
    index: &mut Option<Follower>,
    work: impl FnOnce(&mut Follower) -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let Some(mut follower) = index.take() else { return Err(IndexError::Late) };
    let done = tokio::task::spawn_blocking(move || {
        let done = work(&mut follower);
        (follower, done)
    });
    let (follower, done) = done.await.map_err(|_| IndexError::Late)?;
    *index = Some(follower);
    done
}

/// The anchors of the broker's gateways, asked of the node when the mirror says that there are new ones.
struct Anchors {
    rpc: Rpc,
    known: HashMap<Address, u64>,
    /// Reorganisations and resyncs that were seen.
    forks: Option<(u64, u64)>,
    span: u64,
    is_at_fault: bool,
}

impl Anchors {
    fn new(served: &Served) -> Self {
        Self {
            rpc: Rpc::new(served.facts.urls.clone()),
            known: HashMap::new(),
            forks: None,
            span: SPAN,
            is_at_fault: false,
        }
    }

    async fn follow(
        &mut self,
        served: &Served,
        index: &mut Option<Follower>,
    ) -> Result<(), IndexError> {
        if !served.mirror.fitness().decides() {
            return Ok(());
        }
        let settled = served.chain.settled_height();
        let forks = Some((served.chain.reorgs(), served.chain.resyncs()));
        if self.forks != forks {
            // What was settled before may not be part of the chain any more, also while this gateway was away.
            let height = settled.saturating_sub(served.facts.history);
            on_thread(index, move |index| index.unsettle(height)).await?;
            self.known.clear();
            self.forks = forks;
        }
        let has_news = {
            let view = served.mirror.peek();
            let last = |gateway| view.settled.last_anchor(gateway).0;
            let news =
                |gateway: Address| last(gateway) > self.known.get(&gateway).copied().unwrap_or(0);
            let mut gateways = view.settled.gateways().map(|(gateway, _)| gateway);
            gateways.any(news) || news(served.facts.gateway)
        };
        let to = on_thread(index, Follower::anchors_to).await?;
        if !has_news || to >= settled {
            return Ok(());
        }
        let from = to.saturating_add(1).max(served.facts.deployment.block);
        let end = settled.min(from.saturating_add(self.span));
        let query = Query {
            broker_id: served.facts.broker_id,
            told: Told::Anchors,
            from: Some(from),
            to: Some(end),
            most: Some(MOST),
            ..Query::default()
        };
        let entries = match history::history(&self.rpc, &served.facts.deployment, &query).await {
            Ok(entries) => entries,
            Err(HistoryError::TooMany { .. }) if self.span > 1 => {
                self.span /= 2;
                return Ok(());
            }
            Err(error) => {
                if !self.is_at_fault {
                    warn!(%error, "anchors cannot be asked for: proofs name no transaction until then");
                }
                self.is_at_fault = true;
                return Ok(());
            }
        };
        self.is_at_fault = false;
        for entry in &entries {
            if let Event::Anchored { gateway, sequence, .. } = entry.event {
                self.known.insert(gateway, sequence);
            }
        }
        on_thread(index, move |index| index.anchored(&entries, end)).await
    }
}
