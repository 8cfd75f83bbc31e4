//! What to follow, and how nodes are reached.

use std::{path::PathBuf, time::Duration};

use alloy::primitives::U256;
use flytrap_policy::Options;
use url::Url;

use super::proof::Proof;
use crate::{
    ChainHealth, Deployment,
    rpc::{Bounds, Node, RpcError},
};

/// What to follow and how.
#[derive(Debug, Clone)]
pub struct FollowerConfig {
    /// Nodes (http, https, ws, wss, ipc), the preferred one first. All must be of the same chain.
    pub urls: Vec<Url>,
    /// Where the contracts are.
    pub deployment: Deployment,
    /// The broker whose state is wanted.
    pub broker_id: U256,
    /// How many blocks deep a permission must be before it counts.
    pub confirmations: u64,
    /// Must a second node agree on a block before its permissions count?
    pub quorum: bool,
    /// What nodes have to prove of new blocks.
    pub proof: Proof,
    /// Is that also asked for blocks so old that they would be read in ranges? Costs a request for each of them.
    pub prove_history: bool,
    /// Pause between two looks at the head.
    pub poll: Duration,
    /// How long a node may take for one answer before the next one is asked.
    pub request_timeout: Duration,
    /// How many blocks can be undone without building the state again.
    pub history: usize,
    /// Where the state is kept for the next start, and how often it is written.
    pub snapshot: Option<(PathBuf, Duration)>,
    /// Rules of the site, handed on with each view.
    pub options: Options,
}

impl FollowerConfig {
    /// Defaults for a development chain: no confirmations, ten looks a second, 128 blocks to undo, nothing kept.
    #[must_use]
    pub fn new(urls: Vec<Url>, deployment: Deployment, broker_id: U256) -> Self {
        Self {
            urls,
            deployment,
            broker_id,
            confirmations: 0,
            quorum: false,
            proof: Proof::default(),
            prove_history: false,
            poll: Duration::from_millis(100),
            request_timeout: Duration::from_secs(3),
            history: 128,
            snapshot: None,
            options: Options::default(),
        }
    }

    pub(super) fn bounds(&self) -> Bounds {
        Bounds { deadline: self.request_timeout, ..Bounds::default() }
    }
}

#[cfg(test)]
type SimulatedNodes = dyn Fn(&Url) -> std::sync::Arc<dyn crate::rpc::Simulated> + Send + Sync;

/// How nodes are reached.
#[derive(Clone)]
pub(super) enum Dialer {
    ByUrl,
    #[cfg(test)]
    Simulated(std::sync::Arc<SimulatedNodes>),
}

impl Dialer {
    pub(super) async fn dial(
        &self,
        url: &Url,
        health: &ChainHealth,
        bounds: Bounds,
    ) -> Result<Node, RpcError> {
        match self {
            Self::ByUrl => Node::connect(url, health.request_counts(), bounds).await,
            #[cfg(test)]
            Self::Simulated(node) => {
                Ok(Node::simulated(url, node(url), health.request_counts(), bounds))
            }
        }
    }
}
