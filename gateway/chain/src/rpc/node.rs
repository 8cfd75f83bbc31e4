//! One node behind one URL.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use alloy::{
    primitives::{B256, Bytes},
    pubsub::{ConnectionHandle, PubSubConnect, RawSubscription},
    rpc::client::{RpcClient, WsConnect},
    transports::{
        TransportErrorKind, TransportResult,
        http::reqwest::{self, StatusCode, header},
        ws::WebSocketConfig,
    },
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::timeout;
use url::Url;

use super::{Bounds, RequestCounts, RpcError, error::is_about_rate, ipc::Ipc, shown};

/// Longest rest that a node's word is taken for.
const MAX_REST: Duration = Duration::from_secs(60);

/// One node behind one URL.
pub(crate) struct Node {
    pub(crate) shown: String,
    line: Line,
    counts: Arc<RequestCounts>,
    bounds: Bounds,
}

enum Line {
    Http {
        client: reqwest::Client,
        url: Url,
        next_id: AtomicU64,
    },
    /// WebSocket or a Unix socket: one connection that also brings notifications.
    Socket(RpcClient),
    #[cfg(test)]
    Simulated(Arc<dyn Simulated>),
}

/// A node that a test has made up.
#[cfg(test)]
pub(crate) trait Simulated: Send + Sync {
    fn answer(
        &self,
        method: &'static str,
        params: Value,
    ) -> futures::future::BoxFuture<'static, Result<Value, RpcError>>;
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Node").field(&self.shown).finish()
    }
}

impl Node {
    /// Connects (WebSocket, Unix socket) or gets ready to (HTTP).
    pub(crate) async fn connect(
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
            "ws" | "wss" | "ipc" => {
                let connect = async {
                    if url.scheme() == "ipc" {
                        let (path, most) = (PathBuf::from(url.path()), bounds.answer_octets);
                        RpcClient::connect_pubsub(Once(Ipc { path, most })).await
                    } else {
                        let config = WebSocketConfig::default()
                            .max_message_size(Some(bounds.answer_octets))
                            .max_frame_size(Some(bounds.answer_octets));
                        let connect = WsConnect::new(url.as_str()).with_config(config);
                        RpcClient::connect_pubsub(Once(connect)).await
                    }
                };
                match timeout(bounds.deadline, connect).await {
                    Ok(Ok(client)) => Line::Socket(client),
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
                    "scheme `{other}`, wanted http, https, ws, wss or ipc"
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

    #[cfg(test)]
    pub(crate) fn simulated(
        url: &Url,
        node: Arc<dyn Simulated>,
        counts: Arc<RequestCounts>,
        bounds: Bounds,
    ) -> Self {
        Self { shown: shown(url), line: Line::Simulated(node), counts, bounds }
    }

    /// One request under the deadline.
    pub(crate) async fn call<R: DeserializeOwned + fmt::Debug + Send + Sync + Unpin + 'static>(
        &self,
        method: &'static str,
        params: Value,
    ) -> Result<R, RpcError> {
        self.call_within(self.bounds.deadline, method, params).await
    }

    /// One request under a deadline of its own.
    pub(crate) async fn call_within<
        R: DeserializeOwned + fmt::Debug + Send + Sync + Unpin + 'static,
    >(
        &self,
        deadline: Duration,
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
                Line::Socket(client) => {
                    client.request(method, params).await.map_err(|e| self.told(method, e))
                }
                #[cfg(test)]
                Line::Simulated(node) => {
                    let answer = node.answer(method, params).await?;
                    serde_json::from_value(answer)
                        .map_err(|error| self.unusable(method, error.to_string()))
                }
            }
        };
        timeout(deadline, answer).await.unwrap_or_else(|_| {
            Err(RpcError::Timeout { node: self.shown.clone(), method, waited: deadline })
        })
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.bounds.deadline
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
        let retry_after = response
            .headers()
            .get(header::RETRY_AFTER)
            .and_then(|seconds| seconds.to_str().ok()?.trim().parse().ok())
            .map(|seconds| Duration::from_secs(seconds).min(MAX_REST));
        let is_limit = status == StatusCode::TOO_MANY_REQUESTS
            || (status == StatusCode::SERVICE_UNAVAILABLE && retry_after.is_some());
        if is_limit {
            let (node, message) = (self.shown.clone(), status.to_string());
            return Err(RpcError::Limited { node, method, message, retry_after });
        }
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
        RpcError::Unusable { node: self.shown.clone(), method, detail: bounded(&detail) }
    }

    fn refused(
        &self,
        method: &'static str,
        code: i64,
        message: String,
        data: Option<&Value>,
    ) -> RpcError {
        let message = bounded(&message);
        if is_about_rate(code, &message) {
            let node = self.shown.clone();
            return RpcError::Limited { node, method, message, retry_after: None };
        }
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
                detail: bounded(&other.to_string()),
            },
        }
    }

    /// Notifications of new heads, where the node offers them. They are hints: some get lost, none is needed.
    pub(crate) async fn new_heads(&self) -> Option<RawSubscription> {
        let Line::Socket(client) = &self.line else { return None };
        let id: B256 = match self.call("eth_subscribe", json!(["newHeads"])).await {
            Ok(id) => id,
            Err(error) => {
                tracing::warn!(%error, "node offers no notifications, polling only");
                return None;
            }
        };
        let subscription = client.pubsub_frontend()?.get_subscription(id);
        timeout(self.bounds.deadline, subscription).await.ok()?.ok()
    }
}

/// A dead socket is reported rather than silently replaced: a new one would resume the subscription without the gap.
#[derive(Clone)]
struct Once<C>(C);

impl<C: PubSubConnect> PubSubConnect for Once<C> {
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

/// A node's words go to logs: bounded, and on one line.
fn bounded(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(300).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_contract_reverted_with_is_found_where_nodes_put_it() {
        let wanted: Bytes = "0x08c379a0".parse().unwrap();
        assert_eq!(revert_data(&json!("0x08c379a0")), Some(wanted.clone()));
        assert_eq!(revert_data(&json!({"data": "0x08c379a0"})), Some(wanted));
        assert_eq!(revert_data(&json!({"data": 7})), None);
    }
}
