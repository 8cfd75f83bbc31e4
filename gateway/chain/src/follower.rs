//! Follows the chain and publishes what it says: the only writer of the mirror.
//!
//! A timer (and, with WebSocket or a Unix socket, a notification, which is no more than a hint) makes it look at the head. A head
//! that is new is linked down by parent hashes to a block that the [`Chain`] has, what happened in the blocks between is read and
//! proven to be all of it ([`proof`]), and only then the chain takes all of it in at once. Whatever goes wrong on the way leaves
//! the published view as it was; its age, in [`ChainHealth`], is what tells the gateway to stop trusting it.
//!
//! [`Follower::run`] watches over the task that does this: one that dies or stands still is started again, from the last snapshot.

mod check;
mod config;
mod error;
mod fetch;
mod look;
mod pace;
mod proof;
mod quorum;
mod save;
#[cfg(test)]
mod simulation;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use alloy::{primitives::B256, pubsub::RawSubscription};
use flytrap_policy::{Concern, View};
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use url::Url;

use self::{
    config::Dialer,
    error::Trouble,
    pace::{Pauses, Span},
    quorum::{Question, Verdict, Witnesses},
    save::Saver,
};
pub use self::{config::FollowerConfig, error::FollowError, proof::Proof};
use crate::{
    Chain, ChainHealth, Sight,
    chain::Settled,
    health::FROZEN,
    rpc::{Node, RpcError},
};

/// How often a node that answers is asked again which chain it is on, new blocks apart, and for the contracts' code.
const RECHECK_CHAIN: Duration = Duration::from_secs(5);
const RECHECK_CODE: Duration = Duration::from_secs(30);

type Publish = Arc<dyn Fn(Arc<View>) + Send + Sync>;

/// Follows one broker on one chain. See the module.
pub struct Follower {
    config: FollowerConfig,
    publish: Publish,
    health: Arc<ChainHealth>,
    sight: Arc<Sight>,
    dialer: Dialer,
    pauses: Pauses,
    chain: Option<Chain>,
    /// What permissions are judged by where a second node has to agree: the state it last agreed to.
    agreed: Option<Settled>,
    /// No node agrees with the followed one, and one contradicts it.
    is_disputed: bool,
    /// Version and mark of the last published view, with its height and time.
    published: Option<Published>,
    span: Span,
    lagging: Option<Instant>,
    /// How long the next look may take.
    patience: Duration,
    /// The newest block that the followed node has named as its own head. The chain may still hold what another one told before,
    /// and that one must not be the second to agree with itself.
    vouched: Option<B256>,
    /// Since when another node is ahead of the followed one.
    outrun: Option<Instant>,
    /// Hashes of the contracts' code as first seen.
    code: Arc<OnceLock<[B256; 5]>>,
    /// How often in a row the state at the head had no owner of the broker, and the head was below what is known.
    ownerless: u32,
    behind: usize,
    /// Until when each node wants no requests, and how often in a row it has said so.
    rests: Vec<(Option<Instant>, u32)>,
    /// Which nodes were last found to be of no use, such as on another chain.
    useless: Vec<bool>,
    /// The last that was found to be good.
    source: Option<usize>,
    /// For reading old blocks twice.
    second: Option<Witnesses>,
    saver: Option<Saver>,
}

struct Published {
    /// `None` once the state is being built again: no mark of the new one compares with it.
    mark: Option<[u64; 2]>,
    /// Whom the version of that view concerned.
    concern: Concern,
    height: u64,
    time: u64,
    settled: u64,
    hash: B256,
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower")
            .field("broker_id", &self.config.broker_id)
            .finish_non_exhaustive()
    }
}

impl Follower {
    /// A follower that has not started. `publish` is called with each new view, first when the state is complete; it must
    /// not block.
    #[must_use]
    pub fn new(
        mut config: FollowerConfig,
        publish: impl Fn(Arc<View>) + Send + Sync + 'static,
    ) -> Self {
        // The settled state must be among the remembered ones.
        let deep = usize::try_from(config.confirmations).unwrap_or(usize::MAX);
        config.history = config.history.max(deep).max(1);
        let health = Arc::new(ChainHealth::of(&config.urls));
        Self::made(config, Arc::new(publish), health, Dialer::ByUrl, Pauses::new())
    }

    fn made(
        config: FollowerConfig,
        publish: Publish,
        health: Arc<ChainHealth>,
        dialer: Dialer,
        pauses: Pauses,
    ) -> Self {
        Self {
            rests: vec![(None, 0); config.urls.len()],
            useless: vec![false; config.urls.len()],
            source: None,
            saver: config.snapshot.clone().map(|(path, every)| Saver::new(path, every)),
            config,
            publish,
            health,
            sight: Arc::default(),
            dialer,
            pauses,
            chain: None,
            agreed: None,
            is_disputed: false,
            published: None,
            span: Span::new(),
            lagging: None,
            patience: look::PATIENCE,
            vouched: None,
            outrun: None,
            code: Arc::default(),
            ownerless: 0,
            behind: 0,
            second: None,
        }
    }

    /// One that knows nothing of what this one has read, but whose views go on where those of this one ended.
    fn again(&mut self) -> Self {
        let (config, publish, health) =
            (self.config.clone(), self.publish.clone(), self.health.clone());
        // The code stays what it was when it was first seen.
        let (code, sight) = (self.code.clone(), self.sight.clone());
        let pauses = self.pauses.others();
        Self { code, sight, ..Self::made(config, publish, health, self.dialer.clone(), pauses) }
    }

    /// How it is doing, also while it runs.
    #[must_use]
    pub fn health(&self) -> Arc<ChainHealth> {
        self.health.clone()
    }

    /// What it has seen, for the submitter to believe.
    #[must_use]
    pub fn sight(&self) -> Arc<Sight> {
        self.sight.clone()
    }

    /// Runs until `stop`, through every fault of the nodes that can pass and every fault of its own.
    ///
    /// # Errors
    /// [`FollowError`] for what cannot pass: at the start only; later on the same faults make [`ChainHealth::distrusted`] true
    /// and are retried.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), FollowError> {
        if self.config.urls.is_empty() {
            return Err(FollowError::NoUrl);
        }
        let mut falls = 0;
        loop {
            self.health.start();
            // Ends with this future, whatever ends that.
            let mut work = JoinSet::new();
            work.spawn(self.again().work(stop.clone()));
            let mut asked = 0;
            let ended = loop {
                tokio::select! {
                    ended = work.join_next() => break ended,
                    () = sleep(FROZEN / 8) => {
                        let requests = self.health.request_counts().each().map(|(_, count)| count).sum();
                        if requests != asked {
                            // A long look is not at its end, but gets on.
                            asked = requests;
                            self.health.beat();
                        } else if self.health.stood_still() > FROZEN {
                            error!("the follower stands still and is ended");
                            work.abort_all();
                        }
                    }
                }
            };
            match ended {
                None => return Ok(()),
                Some(Ok(outcome)) => return outcome,
                Some(Err(_)) if stop.is_cancelled() => return Ok(()),
                Some(Err(fault)) => {
                    self.health.fell(&fault.to_string());
                    let pause = self.pauses.after(falls);
                    falls += 1;
                    error!(%fault, ?pause, "the follower has ended by a fault and is started again");
                    if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn work(mut self, stop: CancellationToken) -> Result<(), FollowError> {
        let outcome = stop.run_until_cancelled(self.follow()).await;
        if outcome.is_none()
            && let (Some(saver), Some(chain)) = (&mut self.saver, &self.chain)
        {
            saver.finish(chain, &self.config.deployment, &self.health).await;
        }
        outcome.unwrap_or(Ok(()))
    }

    async fn follow(&mut self) -> Result<(), FollowError> {
        let mut failures: u32 = 0;
        let nodes = self.config.urls.len();
        let mut next = 0;
        loop {
            let at = self.rested(next).await;
            next = (at + 1) % nodes;
            let url = self.config.urls[at].clone();
            let trouble = match self.stay_with(at, &url, &mut failures).await {
                Ok(never) => match never {},
                Err(Trouble::Permanent(error)) => {
                    if self.published.is_none() && self.health.version() == 0 {
                        return Err(error);
                    }
                    self.useless[at] = true;
                    // What was read from a good node is as good as its age while there may be one. Unless that is the node which has changed.
                    let none_is_left = self.useless.iter().all(|useless| *useless);
                    if !error.is_of_one_node() || none_is_left || self.source == Some(at) {
                        self.health.distrust(Some(error.to_string()));
                    }
                    Trouble::Permanent(error)
                }
                Err(other) => other,
            };
            self.health.use_node(None);
            self.note(at, &trouble);
            self.health.count_reconnect();
            failures = failures.saturating_add(1);
            // A full round over the nodes is one attempt.
            let round = failures.saturating_sub(1) / u32::try_from(nodes).unwrap_or(1);
            let pause = self.pauses.after(round);
            let node = self.health.nodes()[at].label();
            warn!(node, error = %trouble, ?pause, "chain cannot be followed, trying again");
            self.health.beat();
            sleep(pause).await;
        }
    }

    /// The next node that may be asked, from `next` on; waits where all want to be left alone.
    async fn rested(&self, next: usize) -> usize {
        let nodes = self.config.urls.len();
        let order = (next..nodes).chain(0..next);
        let soonest =
            order.min_by_key(|at| self.rests[*at].0.filter(|rest| *rest > Instant::now()));
        let at = soonest.unwrap_or(0);
        if let (Some(rest), _) = self.rests[at] {
            sleep_until(rest).await;
        }
        self.health.beat();
        at
    }

    fn note(&mut self, at: usize, trouble: &Trouble) {
        self.health.failed(at, trouble.to_string());
        match trouble {
            Trouble::Decode(_) => self.health.count_undecodable(),
            Trouble::Contradiction { .. } | Trouble::Chain(_) | Trouble::Behind { .. } => {
                self.health.count_inconsistent();
            }
            Trouble::Rpc(error) => self.rest(at, error),
            _ => {}
        }
        // What contradicts the state may be the state's fault: build it again.
        if trouble.is_about_the_state() {
            self.start_over();
        }
        if matches!(trouble, Trouble::Endless { .. }) {
            // What this node told; the snapshot is from before, and is compared with the next node's chain.
            self.let_go();
        }
    }

    fn rest(&mut self, at: usize, error: &RpcError) {
        let Some(said) = error.rest() else { return };
        let rest = self.pauses.rest(said, self.rests[at].1);
        self.rests[at] = (Some(Instant::now() + rest), self.rests[at].1 + 1);
    }

    fn start_over(&mut self) {
        if let Some(saver) = &mut self.saver {
            saver.forget();
        }
        self.let_go();
    }

    /// The state that is being built is of no use; the published one is until there is another.
    fn let_go(&mut self) {
        if self.chain.take().is_some() && self.published.is_some() {
            self.health.count_resync();
        }
        if let Some(published) = &mut self.published {
            published.mark = None;
        }
        if let Some(agreed) = &mut self.agreed {
            agreed.of_another_chain();
        }
    }

    /// Follows by one node until it fails.
    async fn stay_with(
        &mut self,
        at: usize,
        url: &Url,
        failures: &mut u32,
    ) -> Result<std::convert::Infallible, Trouble> {
        let node = self.dialer.dial(url, &self.health, self.config.bounds()).await?;
        self.check(&node).await?;
        (self.useless[at], self.source) = (false, Some(at));
        if !self.is_disputed {
            self.health.distrust(None);
        }
        self.health.use_node(Some(at));
        let mut hints = node.new_heads().await;
        let (mut chain_checked, mut code_checked) = (Instant::now(), Instant::now());
        let mut timer = interval(self.config.poll.max(Duration::from_millis(10)));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        (self.lagging, self.outrun, self.vouched) = (None, None, None);
        self.second = None;
        let mut witnesses = self.config.quorum.then(|| self.witnesses(at));
        let mut opinion: Option<BoxFuture<'static, (Witnesses, Verdict)>> = None;
        let mut last_asked: Option<(Question, Instant)> = None;
        loop {
            self.health.beat();
            if chain_checked.elapsed() >= RECHECK_CHAIN {
                self.check_chain_id(&node).await?;
                chain_checked = Instant::now();
            }
            if code_checked.elapsed() >= RECHECK_CODE {
                self.check_code(&node).await?;
                code_checked = Instant::now();
            }
            match self.look(&node, at).await {
                Ok(()) => {
                    if !self.is_disputed {
                        *failures = 0;
                    }
                    self.rests[at] = (None, 0);
                }
                // It answers, and nobody else would: reading its contracts again would be more requests, not fewer.
                Err(Trouble::Rpc(error)) if error.rest().is_some() && self.rests.len() == 1 => {
                    self.note(at, &Trouble::Rpc(error));
                    self.rested(at).await;
                    continue;
                }
                Err(other) => return Err(other),
            }
            let is_due = |question: &Question| {
                last_asked.as_ref().is_none_or(|(last, when)| {
                    last != question || when.elapsed() >= self.config.poll
                })
            };
            if opinion.is_none()
                && let Some(question) = self.question().filter(is_due)
                && let Some(mut asked) = witnesses.take()
            {
                last_asked = Some((question.clone(), Instant::now()));
                opinion = Some(
                    async move {
                        let verdict = asked.ask(&question).await;
                        (asked, verdict)
                    }
                    .boxed(),
                );
            }
            self.save();
            tokio::select! {
                _ = timer.tick() => {}
                () = hint(&mut hints) => {
                    self.health.count_hint();
                    timer.reset();
                }
                (asked, verdict) = given(&mut opinion) => {
                    opinion = None;
                    witnesses = Some(asked);
                    self.hear(&node, &verdict)?;
                }
            }
        }
    }

    fn witnesses(&self, followed: usize) -> Witnesses {
        let config = &self.config;
        let about = (config.proof, config.deployment.chain_id);
        Witnesses::new(
            &config.urls,
            followed,
            self.dialer.clone(),
            self.health.clone(),
            config.bounds(),
            about,
        )
    }

    /// What a second node is asked about the state as it is now.
    fn question(&self) -> Option<Question> {
        let chain = self.chain.as_ref().filter(|chain| self.vouched == Some(chain.hash()))?;
        let settled = chain.height().checked_sub(self.config.confirmations)?;
        let hashes = (settled..=chain.height()).map(|height| chain.hash_at(height));
        Some(Question { settled, hashes: hashes.collect::<Option<_>>()? })
    }

    fn save(&mut self) {
        if let (Some(saver), Some(chain)) = (&mut self.saver, &self.chain) {
            saver.tick(chain, &self.config.deployment, &self.health);
        }
    }

    /// What a second node has said of the state as it was when it was asked.
    fn hear(&mut self, node: &Node, verdict: &Verdict) -> Result<(), Trouble> {
        match verdict {
            Verdict::Agreed { height, hash, ahead } => {
                let Some(chain) = &self.chain else { return Ok(()) };
                if chain.hash_at(*height) != Some(*hash) {
                    // Reorganised meanwhile: asked again with the next look.
                    return Ok(());
                }
                if self.is_disputed {
                    info!(height, "two nodes agree again");
                    self.is_disputed = false;
                }
                self.health.distrust(None);
                let deep = chain.height().saturating_sub(*height).max(self.config.confirmations);
                if let Some(settled) = chain.settled(deep) {
                    self.agreed = Some(settled);
                    self.arrive(node)?;
                }
                self.witnessed(node, *ahead)
            }
            Verdict::Nobody(why) => {
                self.health.unwitnessed(why);
                Ok(())
            }
            Verdict::Contradicted { node: other, height } => {
                self.health.count_disagreement();
                self.is_disputed = true;
                let (node, other) = (node.shown.clone(), other.clone());
                let trouble = Trouble::Disagreement { node, other, height: *height };
                error!(%trouble, "nothing is allowed until two nodes agree");
                self.health.distrust(Some(trouble.to_string()));
                Err(trouble)
            }
        }
    }
}

/// Waits for a notification; for ever where there are none.
async fn hint(hints: &mut Option<RawSubscription>) {
    use tokio::sync::broadcast::error::RecvError;
    if let Some(subscription) = hints {
        match subscription.recv().await {
            Ok(_) => {
                // Several at once need one look.
                while subscription.try_recv().is_ok() {}
                return;
            }
            Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => *hints = None,
        }
    }
    std::future::pending::<()>().await;
}

/// Waits for an opinion; for ever where none was asked for.
async fn given<T>(opinion: &mut Option<BoxFuture<'static, T>>) -> T {
    match opinion {
        Some(opinion) => opinion.await,
        None => std::future::pending().await,
    }
}
