//! A second opinion: what another node says of the blocks that permissions are to count from.
//!
//! A block's hash covers everything in it (see [`super::proof`]), so two nodes that name the same hash agree on every log up to
//! there. Whoever forges a grant or hides a revocation has to name another.

use std::{sync::Arc, time::Duration};

use alloy::primitives::{B256, U256};
use serde_json::json;
use tokio::time::Instant;
use url::Url;

use super::{Dialer, FollowError, Trouble, proof::Proof};
use crate::{
    ChainHealth,
    rpc::{Bounds, Node},
};

/// How often a witness is asked again which chain it is on.
const RECHECK: Duration = Duration::from_secs(30);

/// The nodes that are not followed at the moment.
pub(super) struct Witnesses {
    nodes: Vec<Witness>,
    dialer: Dialer,
    health: Arc<ChainHealth>,
    bounds: Bounds,
    proof: Proof,
    chain_id: u64,
}

struct Witness {
    at: usize,
    url: Url,
    line: Option<(Node, Instant)>,
}

/// The followed chain from the block that would be settled up to its tip, without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) settled: u64,
    /// From `settled` on.
    pub(super) hashes: Vec<B256>,
}

impl Question {
    fn tip(&self) -> u64 {
        self.settled + u64::try_from(self.hashes.len()).unwrap_or(u64::MAX).saturating_sub(1)
    }

    fn hash(&self, height: u64) -> Option<B256> {
        let at = usize::try_from(height.checked_sub(self.settled)?).ok()?;
        self.hashes.get(at).copied()
    }
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another node has the same block at this height, which is settled or above; its head is so many blocks above our tip.
    Agreed { height: u64, hash: B256, ahead: u64 },
    /// None has the settled block yet, or none answers.
    Nobody(String),
    /// None agrees, and this node has another block in the settled one's place.
    Contradicted { node: String, height: u64 },
}

impl Witnesses {
    pub(super) fn new(
        urls: &[Url],
        followed: usize,
        dialer: Dialer,
        health: Arc<ChainHealth>,
        bounds: Bounds,
        (proof, chain_id): (Proof, u64),
    ) -> Self {
        let others = urls.iter().enumerate().filter(|(at, _)| *at != followed);
        let nodes = others.map(|(at, url)| Witness { at, url: url.clone(), line: None }).collect();
        Self { nodes, dialer, health, bounds, proof, chain_id }
    }

    /// Asks one after the other until one agrees.
    pub(super) async fn ask(&mut self, question: &Question) -> Verdict {
        let mut verdict = Verdict::Nobody("no second node is configured".to_owned());
        for at in 0..self.nodes.len() {
            match self.opinion(at, question).await {
                Ok(agreed @ Verdict::Agreed { .. }) => return agreed,
                Ok(contradicted @ Verdict::Contradicted { .. }) => verdict = contradicted,
                Ok(nobody) => verdict = keep_contradiction(verdict, nobody),
                Err(error) => {
                    let witness = &mut self.nodes[at];
                    witness.line = None;
                    self.health.failed(witness.at, error.to_string());
                    verdict = keep_contradiction(verdict, Verdict::Nobody(error.to_string()));
                }
            }
        }
        verdict
    }

    async fn opinion(&mut self, at: usize, question: &Question) -> Result<Verdict, Trouble> {
        self.connect(at).await?;
        let (proof, witness) = (self.proof, &self.nodes[at]);
        let Some((node, _)) = &witness.line else {
            return Ok(Verdict::Nobody("not connected".to_owned()));
        };
        let head = node.head(proof).await?;
        self.health.head_of(witness.at, head.height);
        let tip = question.tip();
        if head.height < question.settled {
            let told = format!("node {} is at height {} only", node.shown, head.height);
            return Ok(Verdict::Nobody(told));
        }
        let ahead = head.height.saturating_sub(tip);
        let top = head.height.min(tip);
        let theirs = if top == head.height { head } else { node.header(top, proof).await? };
        if question.hash(top) == Some(theirs.hash) {
            return Ok(Verdict::Agreed { height: top, hash: theirs.hash, ahead });
        }
        // Near the head they may differ for a while; at the settled block they may not.
        let height = question.settled;
        let theirs = node.header(height, proof).await?;
        if question.hash(height) == Some(theirs.hash) {
            return Ok(Verdict::Agreed { height, hash: theirs.hash, ahead });
        }
        Ok(Verdict::Contradicted { node: node.shown.clone(), height })
    }

    /// A node to ask more than about heads, for who reads old blocks.
    pub(super) async fn any(&mut self) -> Result<&Node, Trouble> {
        let mut last = "none is configured".to_owned();
        let mut found = None;
        for at in 0..self.nodes.len() {
            match self.connect(at).await {
                Ok(()) => {
                    found = Some(at);
                    break;
                }
                // It is not the followed node's fault, whatever it is.
                Err(error) => last = error.to_string(),
            }
        }
        match found.and_then(|at| self.nodes[at].line.as_ref()) {
            Some((node, _)) => Ok(node),
            None => Err(Trouble::Unwitnessed(last)),
        }
    }

    async fn connect(&mut self, at: usize) -> Result<(), Trouble> {
        let witness = &mut self.nodes[at];
        if let Some((_, checked)) = &witness.line
            && checked.elapsed() < RECHECK
        {
            return Ok(());
        }
        let node = match witness.line.take() {
            Some((node, _)) => node,
            None => self.dialer.dial(&witness.url, &self.health, self.bounds).await?,
        };
        let found: U256 = node.call("eth_chainId", json!([])).await?;
        if found != U256::from(self.chain_id) {
            let (node, found) = (node.shown.clone(), found.saturating_to());
            return Err(FollowError::WrongChain { node, found, wanted: self.chain_id }.into());
        }
        witness.line = Some((node, Instant::now()));
        Ok(())
    }
}

fn keep_contradiction(known: Verdict, new: Verdict) -> Verdict {
    if matches!(known, Verdict::Contradicted { .. }) { known } else { new }
}
