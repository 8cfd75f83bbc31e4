//! JSON-RPC to Ethereum nodes: every request has a deadline, every answer a size limit, every method a counter.
//!
//! A [`Node`] is one URL; the follower stays with one as long as it answers. [`Rpc`] is several, the next one tried when one
//! fails, for whoever asks now and then.

mod error;
mod ipc;
mod node;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Mutex;
use url::Url;

pub use error::RpcError;
pub(crate) use node::Node;
#[cfg(test)]
pub(crate) use node::Simulated;

/// How long one request may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// Largest answer that is read.
const MAX_ANSWER_OCTETS: usize = 32 << 20;

/// What one request may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long one request may take.
    pub(crate) deadline: Duration,
    /// Largest answer that is read, octets.
    pub(crate) answer_octets: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { deadline: DEADLINE, answer_octets: MAX_ANSWER_OCTETS }
    }
}

/// Requests sent, by method.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts([AtomicU64; METHODS.len() + 1]);

const METHODS: [&str; 17] = [
    "eth_chainId",
    "eth_blockNumber",
    "eth_getBlockByNumber",
    "eth_getBlockByHash",
    "eth_getLogs",
    "eth_getBlockReceipts",
    "eth_subscribe",
    "eth_getCode",
    "eth_call",
    "eth_getTransactionCount",
    "eth_getBalance",
    "eth_estimateGas",
    "eth_feeHistory",
    "eth_gasPrice",
    "eth_maxPriorityFeePerGas",
    "eth_sendRawTransaction",
    "eth_getTransactionReceipt",
];

impl RequestCounts {
    fn count(&self, method: &str) {
        let at = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len());
        self.0[at].fetch_add(1, Relaxed);
    }

    pub(crate) fn each(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        METHODS
            .iter()
            .copied()
            .chain(["other"])
            .zip(&self.0)
            .map(|(method, count)| (method, count.load(Relaxed)))
    }
}

/// Scheme, host and port of a node: all of its URL that may be shown.
pub(crate) fn shown(url: &Url) -> String {
    if url.scheme() == "ipc" {
        return format!("ipc://{}", url.path());
    }
    let host = url.host_str().unwrap_or("?");
    match url.port_or_known_default() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

/// Several nodes, asked one after the other until one answers. For wallets, the submitter and auditors.
#[derive(Debug)]
pub struct Rpc {
    urls: Vec<Url>,
    nodes: Vec<Mutex<Option<Arc<Node>>>>,
    current: AtomicUsize,
    counts: Arc<RequestCounts>,
    bounds: Bounds,
}

impl Rpc {
    /// Nodes in the order in which they are preferred. Nothing is connected yet.
    #[must_use]
    pub fn new(urls: Vec<Url>) -> Self {
        Self::counted(urls, Arc::default())
    }

    pub(crate) fn counted(urls: Vec<Url>, counts: Arc<RequestCounts>) -> Self {
        Self::bounded(urls, counts, Bounds::default())
    }

    pub(crate) fn bounded(urls: Vec<Url>, counts: Arc<RequestCounts>, bounds: Bounds) -> Self {
        let nodes = urls.iter().map(|_| Mutex::new(None)).collect();
        Self { urls, nodes, current: AtomicUsize::new(0), counts, bounds }
    }

    /// One request, to the next node if one fails. An error that a node answered is an answer.
    ///
    /// # Errors
    /// [`RpcError`] of the last node tried.
    pub async fn call<R: DeserializeOwned + fmt::Debug + Send + Sync + Unpin + 'static>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<R, RpcError> {
        let first = self.current.load(Relaxed);
        let mut last = RpcError::Unreachable {
            node: "none".to_owned(),
            method,
            detail: "no node URL is configured".to_owned(),
        };
        for offset in 0..self.urls.len() {
            let at = (first + offset) % self.urls.len();
            let answer = match self.node(at).await {
                Ok(node) => node.call(method, params.clone()).await,
                Err(error) => Err(error),
            };
            match answer {
                Err(error @ (RpcError::Timeout { .. } | RpcError::Unreachable { .. })) => {
                    *self.nodes[at].lock().await = None;
                    last = error;
                }
                Err(error @ (RpcError::Unusable { .. } | RpcError::Limited { .. })) => last = error,
                answered => {
                    self.current.store(at, Relaxed);
                    return answered;
                }
            }
        }
        Err(last)
    }

    /// Has the next request begin with another node: this one answers, and does not have what is wanted.
    pub(crate) fn pass_over(&self) {
        let next = self.current.load(Relaxed) + 1;
        self.current.store(next % self.urls.len().max(1), Relaxed);
    }

    async fn node(&self, at: usize) -> Result<Arc<Node>, RpcError> {
        let mut slot = self.nodes[at].lock().await;
        if let Some(node) = slot.as_ref() {
            return Ok(node.clone());
        }
        let node = Node::connect(&self.urls[at], self.counts.clone(), self.bounds).await?;
        let node = Arc::new(node);
        *slot = Some(node.clone());
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_shown_without_the_access_key_in_its_url() {
        let url = Url::parse("https://user:secret@node.example/v3/0123456789abcdef?k=1").unwrap();
        assert_eq!(shown(&url), "https://node.example:443");
        assert_eq!(shown(&Url::parse("ipc:///run/geth.ipc").unwrap()), "ipc:///run/geth.ipc");
    }
}
