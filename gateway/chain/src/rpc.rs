//! JSON-RPC to Ethereum nodes: every request has a deadline, every answer a size limit, every method a counter.
//!
//! A [`Node`] is one URL; the follower stays with one as long as it answers. [`Rpc`] is several, the next one tried when one
//! fails, for whoever asks now and then.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use alloy::{
    primitives::{B256, Bytes},
    pubsub::{ConnectionHandle, PubSubConnect, RawSubscription},
    rpc::client::{RpcClient, WsConnect},
    transports::{
        TransportErrorKind, TransportResult,
        http::reqwest::{self, header},
        ws::WebSocketConfig,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::timeout};
use url::Url;

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

/// Why a request brought no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RpcError {
    /// Nothing came in time.
    #[error("node {node}: no answer to {method} within {waited:?}")]
    Timeout {
        /// Scheme, host and port; paths may hold access keys.
        node: String,
        /// The request.
        method: &'static str,
        /// For how long.
        waited: Duration,
    },
    /// No connection, or it broke.
    #[error("node {node}: {method}: {detail}: is it up, is the URL right?")]
    Unreachable {
        /// Scheme, host and port.
        node: String,
        /// The request.
        method: &'static str,
        /// What happened.
        detail: String,
    },
    /// The node answered with an error.
    #[error("node {node} refused {method}: {message} (code {code})")]
    Refused {
        /// Scheme, host and port.
        node: String,
        /// The request.
        method: &'static str,
        /// JSON-RPC error code.
        code: i64,
        /// The node's words.
        message: String,
        /// What a contract reverted with.
        data: Option<Bytes>,
    },
    /// An answer that is not one.
    #[error("node {node}: the answer to {method} is unusable: {detail}")]
    Unusable {
        /// Scheme, host and port.
        node: String,
        /// The request.
        method: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

impl RpcError {
    /// What a contract reverted with, if that is why the node refused. Some nodes say so only in words.
    pub(crate) fn reverted(&self) -> Option<Bytes> {
        match self {
            Self::Refused { code, message, data, .. }
                if *code == 3 || data.is_some() || message.contains("revert") =>
            {
                Some(data.clone().unwrap_or_default())
            }
            _ => None,
        }
    }

    /// Does the node's refusal contain one of these words? Every node program spells them in its own way, so spaces and upper case
    /// are left out of the comparison.
    pub(crate) fn says(&self, words: &[&str]) -> bool {
        let Self::Refused { message, .. } = self else { return false };
        let message = message.replace(' ', "").to_lowercase();
        words.iter().any(|word| message.contains(word))
    }

    /// May asking for less help?
    pub(crate) const fn may_be_too_much(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Refused { .. } | Self::Unusable { .. })
    }
}

/// Requests sent, by method.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts([AtomicU64; METHODS.len() + 1]);

const METHODS: [&str; 16] = [
    "eth_chainId",
    "eth_blockNumber",
    "eth_getBlockByNumber",
    "eth_getBlockByHash",
    "eth_getLogs",
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
    let host = url.host_str().unwrap_or("?");
    match url.port_or_known_default() {
        Some(port) => format!("{}://{host}:{port}", url.scheme()),
        None => format!("{}://{host}", url.scheme()),
    }
}

/// One node behind one URL.
pub(crate) struct Node {
    pub(crate) shown: String,
    line: Line,
    counts: Arc<RequestCounts>,
    bounds: Bounds,
}

enum Line {
    Http { client: reqwest::Client, url: Url, next_id: AtomicU64 },
    WebSocket(RpcClient),
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.shown).finish()
    }
}

impl Node {
    /// Connects (WebSocket) or gets ready to (HTTP).
    pub(crate) async fn connect(url: &Url, counts: Arc<RequestCounts>) -> Result<Self, RpcError> {
        Self::bounded(url, counts, Bounds::default()).await
    }

    async fn bounded(
        url: &Url,
        counts: Arc<RequestCounts>,
        bounds: Bounds,
    ) -> Result<Self, RpcError> {
        let shown = shown(url);
        let unreachable = |detail: String| RpcError::Unreachable {
            node: shown.clone(),
            method: "connect",
            detail,
        };
        let line = match url.scheme() {
            "http" | "https" => Line::Http {
                client: reqwest::Client::builder()
                    .connect_timeout(bounds.deadline / 2)
                    .redirect(reqwest::redirect::Policy::none())
                    .build()
                    .map_err(|error| unreachable(chain_of(&error.without_url())))?,
                url: url.clone(),
                next_id: AtomicU64::new(1),
            },
            "ws" | "wss" => {
                let config = WebSocketConfig::default()
                    .max_message_size(Some(bounds.answer_octets))
                    .max_frame_size(Some(bounds.answer_octets));
                let connect = ConnectOnce(WsConnect::new(url.as_str()).with_config(config));
                match timeout(bounds.deadline, RpcClient::connect_pubsub(connect)).await {
                    Ok(Ok(client)) => Line::WebSocket(client),
                    Ok(Err(error)) => return Err(unreachable(error.to_string())),
                    Err(_) => {
                        return Err(RpcError::Timeout {
                            node: shown,
                            method: "connect",
                            waited: bounds.deadline,
                        });
                    }
                }
            }
            other => {
                return Err(unreachable(format!(
                    "scheme `{other}`, wanted http, https, ws or wss"
                )));
            }
        };
        Ok(Self { shown, line, counts, bounds })
    }

    /// Over an HTTP client that is already there.
    pub(crate) fn over(
        client: reqwest::Client,
        url: Url,
        counts: Arc<RequestCounts>,
        bounds: Bounds,
    ) -> Self {
        let shown = shown(&url);
        Self { shown, line: Line::Http { client, url, next_id: AtomicU64::new(1) }, counts, bounds }
    }

    /// One request under the deadline.
    pub(crate) async fn call<R: DeserializeOwned + fmt::Debug + Send + Sync + Unpin + 'static>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<R, RpcError> {
        self.counts.count(method);
        let answer = async {
            match &self.line {
                Line::Http { client, url, next_id } => {
                    let id = next_id.fetch_add(1, Relaxed);
                    self.post(client, url, id, method, params).await
                }
                Line::WebSocket(client) => {
                    client.request(method, params).await.map_err(|e| self.told(method, e))
                }
            }
        };
        let waited = self.bounds.deadline;
        timeout(waited, answer)
            .await
            .unwrap_or_else(|_| Err(RpcError::Timeout { node: self.shown.clone(), method, waited }))
    }

    async fn post<R: DeserializeOwned>(
        &self,
        client: &reqwest::Client,
        url: &Url,
        id: u64,
        method: &'static str,
        params: Value,
    ) -> Result<R, RpcError> {
        let unreachable = |error: reqwest::Error| RpcError::Unreachable {
            node: self.shown.clone(),
            method,
            detail: chain_of(&error.without_url()),
        };
        let body = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let mut response = client
            .post(url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.to_string())
            .send()
            .await
            .map_err(unreachable)?;
        let status = response.status();
        let mut octets = Vec::new();
        while let Some(part) = response.chunk().await.map_err(unreachable)? {
            let most = self.bounds.answer_octets;
            if octets.len() + part.len() > most {
                return Err(self.unusable(method, format!("more than {most} octets")));
            }
            octets.extend_from_slice(&part);
        }
        let answer: Answer<R> = serde_json::from_slice(&octets).map_err(|error| {
            let detail = if status.is_success() { error.to_string() } else { status.to_string() };
            self.unusable(method, detail)
        })?;
        if let Some(error) = answer.error {
            return Err(self.refused(method, error.code, error.message, error.data.as_ref()));
        }
        if answer.id != Some(id) {
            return Err(self.unusable(method, format!("id {:?}, wanted {id}", answer.id)));
        }
        match answer.result {
            Some(result) => Ok(result),
            // `null` is an answer where an option is asked for, and none elsewhere.
            None => serde_json::from_value(Value::Null)
                .map_err(|_| self.unusable(method, "null".to_owned())),
        }
    }

    fn unusable(&self, method: &'static str, detail: String) -> RpcError {
        RpcError::Unusable { node: self.shown.clone(), method, detail }
    }

    fn refused(
        &self,
        method: &'static str,
        code: i64,
        message: String,
        data: Option<&Value>,
    ) -> RpcError {
        // A node's words go to logs: bounded, and on one line.
        let message: String = message.chars().filter(|c| !c.is_control()).take(300).collect();
        let data = data.and_then(revert_data);
        RpcError::Refused { node: self.shown.clone(), method, code, message, data }
    }

    fn told(&self, method: &'static str, error: alloy::transports::TransportError) -> RpcError {
        use alloy::transports::RpcError as E;
        match error {
            E::ErrorResp(payload) => {
                let data =
                    payload.data.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok());
                self.refused(method, payload.code, payload.message.into_owned(), data.as_ref())
            }
            E::NullResp => self.unusable(method, "null".to_owned()),
            E::DeserError { err, .. } => self.unusable(method, err.to_string()),
            other => RpcError::Unreachable {
                node: self.shown.clone(),
                method,
                detail: other.to_string(),
            },
        }
    }

    /// Notifications of new heads, where the node offers them. They are hints: some get lost, none is needed.
    pub(crate) async fn new_heads(&self) -> Option<RawSubscription> {
        let Line::WebSocket(client) = &self.line else { return None };
        let id: B256 = match self.call("eth_subscribe", json!(["newHeads"])).await {
            Ok(id) => id,
            Err(error) => {
                tracing::warn!(%error, "node offers no notifications, polling only");
                return None;
            }
        };
        let subscription = client.pubsub_frontend()?.get_subscription(id);
        timeout(DEADLINE, subscription).await.ok()?.ok()
    }
}

/// A dead socket is reported rather than silently replaced: a new one would resume the subscription without the gap.
#[derive(Clone)]
struct ConnectOnce(WsConnect);

impl PubSubConnect for ConnectOnce {
    fn is_local(&self) -> bool {
        self.0.is_local()
    }

    async fn connect(&self) -> TransportResult<ConnectionHandle> {
        self.0.connect().await
    }

    async fn try_reconnect(&self) -> TransportResult<ConnectionHandle> {
        Err(TransportErrorKind::non_retryable_str("the socket is dead"))
    }
}

#[derive(Deserialize)]
struct Answer<R> {
    id: Option<u64>,
    #[serde(default = "Option::default")]
    result: Option<R>,
    error: Option<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    #[serde(default)]
    code: i64,
    #[serde(default)]
    message: String,
    data: Option<Value>,
}

/// Nodes put what a contract reverted with into `data`, or into `data.data`.
fn revert_data(data: &Value) -> Option<Bytes> {
    let text = data.as_str().or_else(|| data.get("data")?.as_str())?;
    text.parse().ok()
}

/// An error with its causes, in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
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
                Err(error @ RpcError::Unusable { .. }) => last = error,
                answered => {
                    self.current.store(at, Relaxed);
                    return answered;
                }
            }
        }
        Err(last)
    }

    async fn node(&self, at: usize) -> Result<Arc<Node>, RpcError> {
        let mut slot = self.nodes[at].lock().await;
        if let Some(node) = slot.as_ref() {
            return Ok(node.clone());
        }
        let node = Node::bounded(&self.urls[at], self.counts.clone(), self.bounds).await?;
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
    }

    #[test]
    fn refusals_are_recognised_as_each_node_program_spells_them() {
        let refused = |message: &str| RpcError::Refused {
            node: "n".to_owned(),
            method: "eth_sendRawTransaction",
            code: -32_000,
            message: message.to_owned(),
            data: None,
        };
        for known in ["already known", "AlreadyKnown", "Known transaction"] {
            assert!(refused(known).says(&["alreadyknown", "knowntransaction"]), "{known}");
        }
        assert!(!refused("insufficient funds").says(&["alreadyknown"]));
        assert!(refused("execution reverted").reverted().is_some());
        assert!(refused("insufficient funds").reverted().is_none());
    }

    #[test]
    fn what_a_contract_reverted_with_is_found_where_nodes_put_it() {
        let wanted: Bytes = "0x08c379a0".parse().unwrap();
        assert_eq!(revert_data(&json!("0x08c379a0")), Some(wanted.clone()));
        assert_eq!(revert_data(&json!({"data": "0x08c379a0"})), Some(wanted));
        assert_eq!(revert_data(&json!({"data": 7})), None);
    }
}
