//! One look at the head, and everything that follows from it.

use std::{sync::Arc, time::Duration};

use alloy::primitives::B256;
use flytrap_policy::{Concern, Event, Stamp};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{FollowError, Follower, Published, Trouble, fetch, proof::Proof};
use crate::{Block, Branch, Chain, Header, Joined, chain::Place, rpc::Node};

/// A node whose head stays below the view's, or below another node's, for this long is left for the next one.
const MAX_LAGGING: Duration = Duration::from_secs(10);
/// Blocks by which another node may be ahead without that being strange.
const MAX_AHEAD: u64 = 3;
/// How long a look may take where another node may be quicker: as long as a mirror stays fresh by default. Each that takes longer doubles it,
/// so that a long way that is honest is gone to its end.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Most old blocks whose headers are read before the first of them is taken in.
const PROVEN_AT_ONCE: u64 = 256;
/// Most blocks of which everything is in memory before the first of them is taken in: each is one answer, which a node can fill to its bound.
const PIECE: usize = 16;
/// So many complete readings without the broker's creation are no coincidence.
const OWNERLESS: u32 = 3;
/// So many times over all nodes a head below what is known is taken for a node that is behind.
const BEHIND: usize = 3;

impl Follower {
    pub(super) async fn look(&mut self, node: &Node, at: usize) -> Result<(), Trouble> {
        let head = node.head(self.config.proof).await?;
        self.health.aim(at, head.height);
        if self.chain.is_none() {
            self.chain = Some(self.base(node, &head).await?);
        }
        let began = Instant::now();
        loop {
            self.health.beat();
            let Some(chain) = &self.chain else { return Ok(()) };
            match chain.place(&head) {
                Place::Tip => {
                    self.lagging = None;
                    self.patience = PATIENCE;
                    self.vouched = Some(head.hash);
                    return self.arrive(node);
                }
                Place::Older => return self.lag(node, head.height),
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
            // The first reading is as long as the chain is, and there is nothing yet to lose.
            let is_known = self.health.version() > 0 && self.rests.len() > 1;
            if is_known && began.elapsed() > self.patience {
                self.patience *= 2;
                let (node, height) = (node.shown.clone(), chain.height());
                return Err(Trouble::Endless { node, height, head: head.height });
            }
            let history = u64::try_from(self.config.history).unwrap_or(u64::MAX);
            if head.height - chain.height().min(head.height) > history {
                self.leap(node, at, head.height - history).await?;
            } else {
                self.join(node, head).await?;
            }
        }
    }

    /// What is known from before, or the state before the first block that matters.
    async fn base(&mut self, node: &Node, head: &Header) -> Result<Chain, Trouble> {
        let first = self.config.deployment.block;
        if head.height < first {
            let wanted = first;
            return Err(Trouble::Behind { node: node.shown.clone(), height: head.height, wanted });
        }
        let (deployment, broker_id) = (&self.config.deployment, self.config.broker_id);
        let kept = match &mut self.saver {
            Some(saver) => saver.load(deployment, broker_id, &self.health).await,
            None => None,
        };
        // What was known is not forgotten for a node that is behind; only a chain that begins anew is told so by every look.
        let known = kept.as_ref().map_or(0, |(header, _)| header.height).max(self.health.height());
        if head.height < known && self.behind < BEHIND * self.rests.len() {
            self.behind += 1;
            let (node, height) = (node.shown.clone(), head.height);
            return Err(Trouble::Behind { node, height, wanted: known });
        }
        if let (Some((header, registry)), Some(saver)) = (kept, &mut self.saver) {
            let found = match node.header(header.height, self.config.proof).await {
                Ok(found) => Some(found.hash),
                Err(Trouble::NoBlock { .. }) => None,
                Err(other) => return Err(other),
            };
            if found == Some(header.hash) {
                info!(from = header.height + 1, to = head.height, "going on from the snapshot");
                self.health.snapshot_at(header.height);
                saver.keep(header.height, &registry);
                return Ok(Chain::resumed(registry, &header, self.config.history));
            }
            self.health.count_snapshot_refused();
            warn!(
                height = header.height,
                wanted = %header.hash,
                ?found,
                "the snapshot is of a block that is not on the chain any more"
            );
        }
        let base = node.header(first.saturating_sub(1), self.config.proof).await?;
        info!(from = first, to = head.height, "reading the chain from the deployment on");
        Ok(Chain::new(self.config.broker_id, &base, self.config.history))
    }

    /// A head below the tip, on the same chain: a balancer has sent us to a node that is behind, or the node has lost blocks.
    fn lag(&mut self, node: &Node, height: u64) -> Result<(), Trouble> {
        let since = *self.lagging.get_or_insert_with(Instant::now);
        if since.elapsed() > MAX_LAGGING {
            let wanted = self.chain.as_ref().map_or(0, Chain::height);
            return Err(Trouble::Behind { node: node.shown.clone(), height, wanted });
        }
        Ok(())
    }

    /// A second node agrees; but does the followed one have the newest blocks at all?
    pub(super) fn witnessed(&mut self, node: &Node, ahead: u64) -> Result<(), Trouble> {
        if ahead <= MAX_AHEAD {
            self.outrun = None;
            self.health.seen();
            return Ok(());
        }
        let height = self.chain.as_ref().map_or(0, Chain::height);
        let since = *self.outrun.get_or_insert_with(Instant::now);
        if since.elapsed() > MAX_LAGGING {
            let wanted = height + ahead;
            return Err(Trouble::Behind { node: node.shown.clone(), height, wanted });
        }
        Ok(())
    }

    /// Takes in a range of blocks too old to be reorganised, up to `limit` at most.
    async fn leap(&mut self, node: &Node, at: usize, limit: u64) -> Result<(), Trouble> {
        let proof = self.config.proof;
        let Some(chain) = &self.chain else { return Ok(()) };
        if node.header(chain.height(), proof).await?.hash != chain.hash() {
            return self.rejoin(node).await;
        }
        let from = chain.height() + 1;
        if self.config.prove_history && proof == Proof::Receipts {
            let to = limit.min(from + PROVEN_AT_ONCE - 1);
            return self.leap_proven(node, from, to).await;
        }
        let to = limit.min(chain.height().saturating_add(self.span.blocks())).max(from);
        let scope = self.scope();
        let before = node.header(to, proof).await?;
        let events = match fetch::range(node, &scope, from, to).await {
            Ok(events) => events,
            Err(Trouble::Rpc(error)) if self.span.refused(&error, to - from + 1) => {
                info!(%error, blocks = self.span.blocks(), "asking for fewer blocks at once");
                self.health.failed(at, error.to_string());
                return Ok(());
            }
            Err(other) => return Err(other),
        };
        if self.config.quorum {
            let ends = [(from - 1, chain.hash()), (to, before.hash)];
            self.compare(node, at, ends, &events).await?;
        }
        let after = node.header(to, proof).await?;
        let below = node.header(from - 1, proof).await?;
        let Some(chain) = &mut self.chain else { return Ok(()) };
        if after.hash != before.hash || below.hash != chain.hash() {
            return Err(Trouble::Contradiction {
                node: node.shown.clone(),
                detail: format!("blocks up to {to} changed while they were read"),
            });
        }
        chain.leap(&after, &events)?;
        self.span.answered();
        Ok(())
    }

    /// The same events between the same blocks from another node, or the range counts for nothing. Without the blocks one node could have
    /// made up the one that the range begins on, which the second is never asked about again.
    async fn compare(
        &mut self,
        node: &Node,
        at: usize,
        ends: [(u64, B256); 2],
        events: &[(Stamp, Event)],
    ) -> Result<(), Trouble> {
        let (from, to) = (ends[0].0 + 1, ends[1].0);
        let mut second = self.second.take().unwrap_or_else(|| self.witnesses(at));
        let scope = self.scope();
        let other = second.any().await?;
        let theirs = match fetch::range(other, &scope, from, to).await {
            Err(Trouble::Rpc(error)) if self.span.refused(&error, to - from + 1) => {
                return Err(Trouble::Rpc(error));
            }
            theirs => theirs?,
        };
        let mut differs = (theirs != events).then_some(to);
        for (height, hash) in ends {
            if other.header(height, scope.proof).await?.hash != hash {
                differs.get_or_insert(height);
            }
        }
        if let Some(height) = differs {
            self.health.count_disagreement();
            let (node, other) = (node.shown.clone(), other.shown.clone());
            return Err(Trouble::Disagreement { node, other, height });
        }
        self.second = Some(second);
        Ok(())
    }

    /// As [`Self::leap`], block by block, each proven to have no more than what is taken in.
    async fn leap_proven(&mut self, node: &Node, from: u64, to: u64) -> Result<(), Trouble> {
        let scope = self.scope();
        let headers = fetch::headers(node, scope.proof, from, to).await?;
        let Some(chain) = &self.chain else { return Ok(()) };
        let mut parent = chain.hash();
        for header in &headers {
            if header.parent != parent {
                return Err(Trouble::Contradiction {
                    node: node.shown.clone(),
                    detail: format!("block {} does not follow the one below it", header.height),
                });
            }
            parent = header.hash;
        }
        for piece in headers.chunks(PIECE) {
            let blocks = fetch::blocks(node, &scope, piece).await?;
            let (Some(chain), Some(last)) = (&mut self.chain, piece.last()) else { return Ok(()) };
            let events: Vec<(Stamp, Event)> = blocks
                .into_iter()
                .flat_map(|Block { header, events }| {
                    let stamp = Stamp { height: header.height, time: header.time };
                    events.into_iter().map(move |event| (stamp, event))
                })
                .collect();
            chain.leap(last, &events)?;
        }
        Ok(())
    }

    /// The tip is no longer on the chain and far below the head: goes back to the newest block that is.
    async fn rejoin(&mut self, node: &Node) -> Result<(), Trouble> {
        let Some(chain) = &mut self.chain else { return Ok(()) };
        let tip = chain.height();
        for height in chain.heights().collect::<Vec<_>>() {
            let found = node.header(height, self.config.proof).await?.hash;
            if Some(found) == chain.hash_at(height) {
                chain.rewind(height);
                self.health.reorganised(tip - height);
                return Ok(());
            }
        }
        self.rebuild(node).await
    }

    /// Links the head to the chain and takes in what lies between. Where that ends in the middle nothing is published, and the next look
    /// goes on from there, or back.
    async fn join(&mut self, node: &Node, head: Header) -> Result<(), Trouble> {
        let Some(chain) = &self.chain else { return Ok(()) };
        let scope = self.scope();
        let mut branch = Branch::new(head);
        let mut ancestor = loop {
            match chain.join(&branch) {
                Joined::At(ancestor) => break ancestor,
                Joined::Needs { from, to } => {
                    let headers = fetch::headers(node, scope.proof, from, to).await?;
                    branch.extend_down(chain, headers.into_iter().rev())?;
                }
                Joined::TooDeep => return self.rebuild(node).await,
            }
        };
        for piece in branch.into_headers().chunks(PIECE) {
            // A node that changes its chain is found out before the first of its blocks counts, at no cost of time.
            let (blocks, ()) =
                futures::try_join!(fetch::blocks(node, &scope, piece), self.check_chain_id(node))?;
            let (Some(chain), Some(last)) = (&mut self.chain, piece.last()) else { return Ok(()) };
            let orphaned = chain.adopt(ancestor, &blocks)?;
            if orphaned > 0 {
                let depth = u64::try_from(orphaned).unwrap_or(u64::MAX);
                info!(ancestor, orphaned = depth, height = head.height, "chain reorganised");
                self.health.reorganised(depth);
            }
            ancestor = last.height;
        }
        Ok(())
    }

    /// A reorganisation deeper than what is remembered. The old view stays published until the new state is complete.
    async fn rebuild(&mut self, node: &Node) -> Result<(), Trouble> {
        warn!("chain reorganised below everything that is remembered, reading it again");
        self.check(node).await?;
        self.start_over();
        let head = node.head(self.config.proof).await?;
        self.chain = Some(self.base(node, &head).await?);
        Ok(())
    }

    fn scope(&self) -> fetch::Scope {
        fetch::Scope {
            deployment: self.config.deployment.clone(),
            broker_id: self.config.broker_id,
            proof: self.config.proof,
        }
    }

    /// The chain is at the head: publishes what is new.
    pub(super) fn arrive(&mut self, node: &Node) -> Result<(), Trouble> {
        let Some(chain) = &self.chain else { return Ok(()) };
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
        (self.ownerless, self.behind) = (0, 0);
        let settled = match (self.config.quorum, &self.agreed) {
            (false, _) => match chain.settled(self.config.confirmations) {
                Some(settled) => settled,
                None => {
                    // A node that is behind the snapshot, or has lost blocks: what had settled by then is not known any more.
                    let (height, confirmations) = (chain.height(), self.config.confirmations);
                    let wanted = height.saturating_add(confirmations);
                    return Err(Trouble::Behind { node: node.shown.clone(), height, wanted });
                }
            },
            (true, Some(agreed)) => agreed.clone(),
            // Nothing counts before two have agreed on anything.
            (true, None) => return Ok(()),
        };
        let last = self.published.as_ref();
        let (mut view, mark) = chain.view(&settled, self.config.options, 0);
        if self.config.quorum {
            // One node alone cannot let time run.
            view.time = settled.time;
        }
        let before = last.and_then(|last| last.mark);
        let is_same = before == Some(mark);
        view.version = match last {
            Some(_) => self.health.version() + u64::from(!is_same),
            None => self.health.version() + 1,
        };
        view.concern = match (before, last) {
            // Who has not seen this version yet has not heard whom it concerned.
            (Some(_), Some(last)) if is_same => last.concern.clone(),
            (Some(before), _) => chain.concern(before, mark),
            (None, _) => Concern::EVERYONE,
        };
        let published = Published {
            mark: Some(mark),
            concern: view.concern.clone(),
            height: view.height,
            time: view.time,
            settled: settled.height,
            hash: chain.hash(),
        };
        let is_news = !is_same
            || last.is_none_or(|last| {
                (last.height, last.time, last.settled, last.hash)
                    != (published.height, published.time, published.settled, published.hash)
            });
        self.published = Some(published);
        if is_news {
            self.health.published(&view, settled.height);
            let view = Arc::new(view);
            self.sight.update(chain, settled.height, view.clone());
            (self.publish)(view);
        }
        if !self.config.quorum {
            self.health.seen();
        }
        Ok(())
    }
}
