//! Follows the chain and publishes what it says: the only writer of the mirror.
//!
//! A timer (and, with WebSocket, a notification, which is no more than a hint) makes it look at the head. A head that is new is
//! linked down by parent hashes to a block that the [`Chain`] has, the logs of the blocks between are fetched and checked against
//! their headers, and only then the chain takes all of it in at once. Whatever goes wrong on the way leaves the published view as
//! it was; its age, in [`ChainHealth`], is what tells the gateway to stop trusting it.

mod error;
mod fetch;

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    pubsub::RawSubscription,
    sol_types::SolCall,
};
use flytrap_policy::{Options, View};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use url::Url;

pub use self::error::FollowError;
use self::error::Trouble;
use crate::{
    Block, Branch, Chain, ChainError, ChainHealth, Deployment, Header, Joined, Sight,
    bindings::{IAccessMarket, IAuditLog, IBrokerRegistry, ITopicRegistry},
    chain::Place,
    rpc::{Node, RpcError, shown},
};

/// Widest range of blocks that logs are asked for at once.
const MAX_SPAN: u64 = 50_000;
const FIRST_SPAN: u64 = 2_000;
/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How often a node that answers is asked again which chain it is on.
const RECHECK: Duration = Duration::from_secs(30);
/// A node whose head stays below the view's for this long is left for the next one.
const MAX_LAGGING: Duration = Duration::from_secs(10);

/// So many complete readings without the broker's creation are no coincidence.
const OWNERLESS: u32 = 3;

/// What to follow and how.
#[derive(Debug, Clone)]
pub struct FollowerConfig {
    /// Nodes (http, https, ws, wss), the preferred one first. All must be of the same chain.
    pub urls: Vec<Url>,
    /// Where the contracts are.
    pub deployment: Deployment,
    /// The broker whose state is wanted.
    pub broker_id: U256,
    /// How many blocks deep a permission must be before it counts.
    pub confirmations: u64,
    /// Pause between two looks at the head.
    pub poll: Duration,
    /// How many blocks can be undone without building the state again.
    pub history: usize,
    /// Rules of the site, handed on with each view.
    pub options: Options,
}

impl FollowerConfig {
    /// Defaults for a development chain: no confirmations, ten looks a second, 128 blocks to undo.
    #[must_use]
    pub fn new(urls: Vec<Url>, deployment: Deployment, broker_id: U256) -> Self {
        Self {
            urls,
            deployment,
            broker_id,
            confirmations: 0,
            poll: Duration::from_millis(100),
            history: 128,
            options: Options::default(),
        }
    }
}

/// Follows one broker on one chain. See the module.
pub struct Follower {
    config: FollowerConfig,
    publish: Box<dyn FnMut(Arc<View>) + Send + Sync>,
    health: Arc<ChainHealth>,
    sight: Arc<Sight>,
    chain: Option<Chain>,
    /// Version and mark of the last published view, with its height and time.
    published: Option<Published>,
    span: u64,
    lagging: Option<Instant>,
    /// Hashes of the contracts' code as first seen.
    code: Option<[B256; 5]>,
    /// How often in a row the state at the head had no owner of the broker.
    ownerless: u32,
}

#[derive(Clone, Copy)]
struct Published {
    version: u64,
    /// `None` once the state is being built again: no mark of the new one compares with it.
    mark: Option<[u64; 2]>,
    height: u64,
    time: u64,
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
        publish: impl FnMut(Arc<View>) + Send + Sync + 'static,
    ) -> Self {
        // The settled state must be among the remembered ones.
        let deep = usize::try_from(config.confirmations).unwrap_or(usize::MAX);
        config.history = config.history.max(deep).max(1);
        Self {
            config,
            publish: Box::new(publish),
            health: Arc::default(),
            sight: Arc::default(),
            chain: None,
            published: None,
            span: FIRST_SPAN,
            lagging: None,
            code: None,
            ownerless: 0,
        }
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

    /// Runs until `stop`, through every fault of the nodes that can pass.
    ///
    /// # Errors
    /// [`FollowError`] for what cannot: at the start only; later on the same faults make [`ChainHealth::distrusted`] true
    /// and are retried.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), FollowError> {
        if self.config.urls.is_empty() {
            return Err(FollowError::NoUrl);
        }
        stop.clone().run_until_cancelled_owned(self.follow()).await.unwrap_or(Ok(()))
    }

    async fn follow(&mut self) -> Result<(), FollowError> {
        let mut failures: u32 = 0;
        for at in (0..self.config.urls.len()).cycle() {
            let url = self.config.urls[at].clone();
            let trouble = match self.stay_with(&url, &mut failures).await {
                Ok(never) => match never {},
                Err(Trouble::Permanent(error)) => {
                    if self.published.is_none() {
                        return Err(error);
                    }
                    self.health.distrust(Some(error.to_string()));
                    Trouble::Permanent(error)
                }
                Err(other) => other,
            };
            self.note(&trouble);
            self.health.count_reconnect();
            failures = failures.saturating_add(1);
            // A full round over the nodes is one attempt.
            let round =
                failures.saturating_sub(1) / u32::try_from(self.config.urls.len()).unwrap_or(1);
            let pause = pause(round);
            warn!(node = %shown(&url), error = %trouble, ?pause, "chain cannot be followed, trying again");
            sleep(pause).await;
        }
        Ok(())
    }

    fn note(&mut self, trouble: &Trouble) {
        self.health.failed(trouble.to_string());
        match trouble {
            Trouble::Decode(_) => self.health.count_undecodable(),
            Trouble::Contradiction { .. } | Trouble::Chain(_) => self.health.count_inconsistent(),
            _ => {}
        }
        // What contradicts the state may be the state's fault: build it again.
        if matches!(trouble, Trouble::Decode(_) | Trouble::Chain(ChainError::Inconsistent { .. })) {
            self.start_over();
        }
    }

    fn start_over(&mut self) {
        if self.chain.take().is_some() && self.published.is_some() {
            self.health.count_resync();
        }
        if let Some(published) = &mut self.published {
            published.mark = None;
        }
    }

    /// Follows by one node until it fails.
    async fn stay_with(
        &mut self,
        url: &Url,
        failures: &mut u32,
    ) -> Result<std::convert::Infallible, Trouble> {
        let node = Node::connect(url, self.health.request_counts()).await?;
        self.check(&node).await?;
        self.health.distrust(None);
        let mut hints = node.new_heads().await;
        let mut checked = Instant::now();
        let mut timer = interval(self.config.poll.max(Duration::from_millis(10)));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.lagging = None;
        loop {
            if checked.elapsed() >= RECHECK {
                self.check_chain_id(&node).await?;
                checked = Instant::now();
            }
            self.look(&node).await?;
            *failures = 0;
            tokio::select! {
                _ = timer.tick() => {}
                () = hint(&mut hints) => {
                    self.health.count_hint();
                    timer.reset();
                }
            }
        }
    }

    /// Is this the chain, and are these the contracts, the same as ever?
    async fn check(&mut self, node: &Node) -> Result<(), Trouble> {
        self.check_chain_id(node).await?;
        let d = &self.config.deployment;
        let mut hashes = [B256::ZERO; 5];
        for ((contract, address), hash) in d.addresses().into_iter().zip(&mut hashes) {
            let code: Bytes = node.call("eth_getCode", json!([address, "latest"])).await?;
            if code.is_empty() {
                return Err(FollowError::NoCode {
                    contract,
                    address,
                    chain_id: d.chain_id,
                    node: node.shown.clone(),
                }
                .into());
            }
            *hash = keccak256(&code);
        }
        let known = *self.code.get_or_insert(hashes);
        for (at, (contract, address)) in d.addresses().into_iter().enumerate() {
            if known[at] != hashes[at] {
                let node = node.shown.clone();
                return Err(FollowError::OtherCode { contract, address, node }.into());
            }
        }
        let topic = ITopicRegistry::brokerRegistryCall {}.abi_encode();
        let market = IAccessMarket::brokerRegistryCall {}.abi_encode();
        let of_market = IAccessMarket::topicRegistryCall {}.abi_encode();
        let audit = IAuditLog::brokerRegistryCall {}.abi_encode();
        for (contract, address, call, wanted) in [
            ("topicRegistry", d.topic_registry, topic, d.broker_registry),
            ("accessMarket", d.access_market, market, d.broker_registry),
            ("accessMarket", d.access_market, of_market, d.topic_registry),
            ("auditLog", d.audit_log, audit, d.broker_registry),
        ] {
            let found = asked(node, address, call).await?.map_or(Address::ZERO, |answer| {
                answer.get(12..32).map_or(Address::ZERO, Address::from_slice)
            });
            if found != wanted {
                return Err(FollowError::Mixed { contract, address, found, wanted }.into());
            }
        }
        let call =
            IBrokerRegistry::brokerOwnerCall { brokerId: self.config.broker_id }.abi_encode();
        let owner = asked(node, d.broker_registry, call).await?;
        if owner.is_none_or(|answer| answer.iter().all(|octet| *octet == 0)) {
            return Err(FollowError::NoBroker {
                broker_id: self.config.broker_id,
                registry: d.broker_registry,
            }
            .into());
        }
        Ok(())
    }

    async fn check_chain_id(&self, node: &Node) -> Result<(), Trouble> {
        let found: U256 = node.call("eth_chainId", json!([])).await?;
        let wanted = self.config.deployment.chain_id;
        if found != U256::from(wanted) {
            let found = found.saturating_to();
            return Err(FollowError::WrongChain { node: node.shown.clone(), found, wanted }.into());
        }
        Ok(())
    }

    /// One look at the head, and everything that follows from it.
    async fn look(&mut self, node: &Node) -> Result<(), Trouble> {
        let head = node.head().await?;
        self.health.aim(head.height);
        if self.chain.is_none() {
            self.chain = Some(self.base(node, &head).await?);
        }
        loop {
            let Some(chain) = &self.chain else { return Ok(()) };
            match chain.place(&head) {
                Place::Tip => {
                    self.lagging = None;
                    return self.arrive(node);
                }
                Place::Older => return self.lag(node, &head),
                Place::Forgotten => {
                    let wanted = chain.height();
                    return Err(Trouble::Behind {
                        node: node.shown.clone(),
                        height: head.height,
                        wanted,
                    });
                }
                Place::Ahead => {}
            }
            let history = u64::try_from(self.config.history).unwrap_or(u64::MAX);
            if head.height - chain.height().min(head.height) > history {
                self.leap(node, head.height - history).await?;
            } else {
                self.join(node, head).await?;
            }
        }
    }

    /// The state before the first block that matters.
    async fn base(&self, node: &Node, head: &Header) -> Result<Chain, Trouble> {
        let height = self.config.deployment.block.saturating_sub(1);
        if head.height < self.config.deployment.block {
            let wanted = self.config.deployment.block;
            return Err(Trouble::Behind { node: node.shown.clone(), height: head.height, wanted });
        }
        let base = node.header(height).await?;
        info!(from = height + 1, to = head.height, "reading the chain from the deployment on");
        Ok(Chain::new(self.config.broker_id, &base, self.config.history))
    }

    /// A head below the tip, on the same chain: a balancer has sent us to a node that is behind.
    fn lag(&mut self, node: &Node, head: &Header) -> Result<(), Trouble> {
        let since = *self.lagging.get_or_insert_with(Instant::now);
        if since.elapsed() > MAX_LAGGING {
            let wanted = self.chain.as_ref().map_or(0, Chain::height);
            return Err(Trouble::Behind { node: node.shown.clone(), height: head.height, wanted });
        }
        Ok(())
    }

    /// Takes in a range of blocks too old to be reorganised, up to `limit` at most.
    async fn leap(&mut self, node: &Node, limit: u64) -> Result<(), Trouble> {
        let Some(chain) = &self.chain else { return Ok(()) };
        if node.header(chain.height()).await?.hash != chain.hash() {
            return self.rejoin(node).await;
        }
        let from = chain.height() + 1;
        let to = limit.min(chain.height().saturating_add(self.span)).max(from);
        let scope = self.scope();
        let before = node.header(to).await?;
        let events = match fetch::range(node, &scope, from, to).await {
            Ok(events) => events,
            Err(Trouble::Rpc(error)) if self.span > 1 && error.may_be_too_much() => {
                self.span = (self.span / 2).max(1);
                info!(%error, blocks = self.span, "asking for fewer blocks at once");
                self.health.failed(error.to_string());
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        let after = node.header(to).await?;
        let below = node.header(from - 1).await?;
        let Some(chain) = &mut self.chain else { return Ok(()) };
        if after.hash != before.hash || below.hash != chain.hash() {
            return Err(Trouble::Contradiction {
                node: node.shown.clone(),
                detail: format!("blocks up to {to} changed while they were read"),
            });
        }
        chain.leap(&after, &events)?;
        self.span = (self.span + self.span / 2 + 1).min(MAX_SPAN);
        Ok(())
    }

    /// The tip is no longer on the chain and far below the head: goes back to the newest block that is.
    async fn rejoin(&mut self, node: &Node) -> Result<(), Trouble> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let tip = chain.height();
        for height in chain.heights().collect::<Vec<_>>() {
            if Some(node.header(height).await?.hash) == chain.hash_at(height) {
                chain.rewind(height);
                self.health.reorganised(tip - height);
                return Ok(());
            }
        }
        self.rebuild(node).await
    }

    /// Links the head to the chain and takes in what lies between.
    async fn join(&mut self, node: &Node, head: Header) -> Result<(), Trouble> {
        let Some(chain) = &self.chain else { return Ok(()) };
        let mut branch = Branch::new(head);
        let ancestor = loop {
            match chain.join(&branch) {
                Joined::At(ancestor) => break ancestor,
                Joined::Needs { from, to } => {
                    let headers = fetch::headers(node, from, to).await?;
                    branch.extend_down(chain, headers.into_iter().rev())?;
                }
                Joined::TooDeep => return self.rebuild(node).await,
            }
        };
        let scope = self.scope();
        let blocks: Vec<Block> = fetch::blocks(node, &scope, branch.headers()).await?;
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let orphaned = chain.adopt(ancestor, &blocks)?;
        if orphaned > 0 {
            let depth = u64::try_from(orphaned).unwrap_or(u64::MAX);
            info!(ancestor, orphaned = depth, height = head.height, "chain reorganised");
            self.health.reorganised(depth);
        }
        Ok(())
    }

    /// A reorganisation deeper than what is remembered. The old view stays published until the new state is complete.
    async fn rebuild(&mut self, node: &Node) -> Result<(), Trouble> {
        warn!("chain reorganised below everything that is remembered, reading it again");
        self.check(node).await?;
        self.start_over();
        let head = node.head().await?;
        self.chain = Some(self.base(node, &head).await?);
        Ok(())
    }

    fn scope(&self) -> fetch::Scope {
        fetch::Scope {
            deployment: self.config.deployment.clone(),
            broker_id: self.config.broker_id,
        }
    }

    /// The chain is at the head: publishes what is new.
    fn arrive(&mut self, node: &Node) -> Result<(), Trouble> {
        let Some(chain) = &self.chain else { return Ok(()) };
        let last = self.published;
        if last.is_some_and(|last| last.mark.is_some() && last.hash == chain.hash()) {
            self.health.seen();
            return Ok(());
        }
        if chain.registry().owner().is_none() {
            // A node behind a balancer may not have the block in which another one has seen the broker.
            self.ownerless += 1;
            let node = node.shown.clone();
            if self.ownerless < OWNERLESS {
                return Err(Trouble::Ownerless { node, height: chain.height() });
            }
            return Err(FollowError::BlockTooHigh {
                broker_id: self.config.broker_id,
                block: self.config.deployment.block,
            }
            .into());
        }
        self.ownerless = 0;
        let (mut view, mark) = chain.view(self.config.confirmations, self.config.options, 0);
        let unchanged = last.is_some_and(|last| last.mark == Some(mark));
        view.version = last.map_or(1, |last| last.version + u64::from(!unchanged));
        let published = Published {
            version: view.version,
            mark: Some(mark),
            height: view.height,
            time: view.time,
            hash: chain.hash(),
        };
        let moved = last.is_none_or(|last| (last.height, last.time) != (view.height, view.time));
        self.published = Some(published);
        let view = Arc::new(view);
        self.sight.update(chain, self.config.confirmations, view.clone());
        if moved || !unchanged {
            self.health.published(view.height, view.time);
            (self.publish)(view);
        }
        self.health.seen();
        Ok(())
    }
}

/// The answer of a view call, `None` if the contract has none to give.
async fn asked(node: &Node, to: Address, call: Vec<u8>) -> Result<Option<Bytes>, RpcError> {
    let params = json!([{"to": to, "data": Bytes::from(call)}, "latest"]);
    match node.call::<Bytes>("eth_call", params).await {
        Ok(answer) => Ok((answer.len() == 32).then_some(answer)),
        // A contract that says no, rather than a node that refuses to work.
        Err(error) if error.reverted().is_some() => Ok(None),
        Err(other) => Err(other),
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

/// Grows with each failure up to a limit, and differs between gateways that fail together.
fn pause(failures: u32) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(MAX_PAUSE);
    let jitter = RandomState::new().hash_one(failures) % 512;
    full.mul_f64(0.5 + f64::from(u32::try_from(jitter).unwrap_or(0)) / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_are_never_longer() {
        for failures in 0..40 {
            let pause = pause(failures);
            let full = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(MAX_PAUSE);
            assert!(pause >= full / 2 && pause < full, "{failures}: {pause:?}");
        }
    }
}
