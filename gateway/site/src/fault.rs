//! A JSON-RPC proxy in front of the node that lies, hangs and breaks in every way a node has been seen to.
//!
//! HTTP and WebSocket on one port. One fault at a time; [`FaultProxy::set`] changes it for everybody at once, and cuts the
//! connections that there are where that is the fault.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy::transports::http::reqwest::Client;
use eyre::{Result, eyre};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use url::Url;

/// What is wrong with the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Connections end as soon as they are made.
    Down,
    /// Requests are taken and never answered.
    Hang,
    /// Its head stays three blocks below the real one.
    Lag,
    /// It has lost its last three blocks, and gets no new ones.
    Rewind,
    /// No answer has a log in it.
    Drop,
    /// Every answer ends in the middle.
    Truncate,
    /// Everything in lists is there twice.
    Duplicate,
    /// Lists are in the wrong order.
    Shuffle,
    /// Logs are there that nobody emitted.
    Forge,
    /// A page for people instead of an answer.
    Garbage,
    /// An answer without end.
    Gigabyte,
    /// HTTP 429 with `Retry-After`, or the like.
    TooMany,
    /// HTTP 400 and "filter not found".
    FilterGone,
    /// Another chain id.
    OtherChain,
    /// Every answer takes a second.
    Slow,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 15] = [
        Self::Down,
        Self::Hang,
        Self::Lag,
        Self::Rewind,
        Self::Drop,
        Self::Truncate,
        Self::Duplicate,
        Self::Shuffle,
        Self::Forge,
        Self::Garbage,
        Self::Gigabyte,
        Self::TooMany,
        Self::FilterGone,
        Self::OtherChain,
        Self::Slow,
    ];

    /// Its name in `docs/operations.md`.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Down => "down",
            Self::Hang => "hang",
            Self::Lag => "lag",
            Self::Rewind => "rewind",
            Self::Drop => "drop",
            Self::Truncate => "truncate",
            Self::Duplicate => "duplicate",
            Self::Shuffle => "shuffle",
            Self::Forge => "forge",
            Self::Garbage => "garbage",
            Self::Gigabyte => "gigabyte",
            Self::TooMany => "429",
            Self::FilterGone => "400",
            Self::OtherChain => "other-chain",
            Self::Slow => "slow",
        }
    }
}

/// Blocks that [`Fault::Lag`] and [`Fault::Rewind`] are about.
const BLOCKS: u64 = 3;
const SLOW: Duration = Duration::from_secs(1);
/// More than any reader should take: read to the end it would be a gigabyte.
const GIGABYTE_OCTETS: usize = 1 << 30;
/// A WebSocket message is sent as one: more than the 32 MiB that are read.
const MESSAGE_OCTETS: usize = 40 << 20;

/// A proxy; ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    state: Arc<State>,
    accept: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    node: Url,
    client: Client,
    /// With the height at which it was set.
    fault: watch::Sender<(Fault, u64)>,
    requests: Mutex<BTreeMap<String, u64>>,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl FaultProxy {
    /// Listens on a free port in front of a node that speaks HTTP.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn before(node: Url) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let fault = watch::Sender::new((Fault::None, 0));
        let state = Arc::new(State {
            node,
            client: Client::builder().build()?,
            fault,
            requests: Mutex::default(),
        });
        let serving = state.clone();
        let accept = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (state, mut fault) = (serving.clone(), serving.fault.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        _ = serve(socket, &state) => {}
                        _ = fault.wait_for(|(fault, _)| *fault == Fault::Down) => {}
                    }
                });
            }
        });
        Ok(Self { address, state, accept })
    }

    /// Breaks or heals the node.
    ///
    /// # Errors
    /// If the node does not say how high it is.
    pub async fn set(&self, fault: Fault) -> Result<()> {
        let height = self.state.height().await.ok_or_else(|| eyre!("the node has no height"))?;
        self.state.fault.send_replace((fault, height));
        Ok(())
    }

    /// For HTTP.
    #[must_use]
    pub fn http(&self) -> String {
        format!("http://{}", self.address)
    }

    /// For WebSocket.
    #[must_use]
    pub fn ws(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Requests so far, by method.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<String, u64> {
        self.state.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What goes back for a request.
enum Answer {
    Right(Value),
    Never,
    Page,
    Endless,
    TooMany,
    /// HTTP 400, with this body.
    Bad(Value),
    /// The first half of it.
    Half(Value),
}

impl State {
    async fn ask(&self, request: &Value) -> Option<Value> {
        let post = self.client.post(self.node.clone()).header("content-type", "application/json");
        let text = post.body(request.to_string()).send().await.ok()?.text().await.ok()?;
        serde_json::from_str(&text).ok()
    }

    async fn height(&self) -> Option<u64> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "eth_blockNumber", "params": []});
        number(&self.ask(&request).await?["result"])
    }

    async fn answer(&self, mut request: Value) -> Answer {
        let (fault, since) = *self.fault.borrow();
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        *self
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(method.clone())
            .or_default() += 1;
        match fault {
            Fault::Down | Fault::Hang => return Answer::Never,
            Fault::Garbage => return Answer::Page,
            Fault::Gigabyte => return Answer::Endless,
            Fault::TooMany => return Answer::TooMany,
            Fault::FilterGone => {
                let error = json!({"code": -32_000, "message": "filter not found"});
                return Answer::Bad(json!({"jsonrpc": "2.0", "id": request["id"], "error": error}));
            }
            Fault::Slow => tokio::time::sleep(SLOW).await,
            Fault::Lag | Fault::Rewind => {
                let head = if fault == Fault::Rewind { Some(since) } else { self.height().await };
                let head = head.unwrap_or(since).saturating_sub(BLOCKS);
                if request["params"][0] == "latest" {
                    request["params"][0] = json!(format!("{head:#x}"));
                }
                if number(&request["params"][0]).is_some_and(|wanted| wanted > head)
                    && method == "eth_getBlockByNumber"
                {
                    let id = request["id"].clone();
                    return Answer::Right(json!({"jsonrpc": "2.0", "id": id, "result": null}));
                }
            }
            _ => {}
        }
        let Some(mut answer) = self.ask(&request).await else { return Answer::Never };
        match fault {
            Fault::OtherChain if method == "eth_chainId" => answer["result"] = json!("0x1"),
            Fault::Truncate => return Answer::Half(answer),
            _ => twist(fault, &mut answer["result"]),
        }
        Answer::Right(answer)
    }
}

fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// Changes the lists of an answer, and the logs of the receipts in it.
fn twist(fault: Fault, result: &mut Value) {
    let Some(list) = result.as_array_mut() else { return };
    for of in list.iter_mut().filter_map(|entry| entry.get_mut("logs")) {
        twist(fault, of);
    }
    match fault {
        Fault::Drop => list.retain(|entry| entry.get("topics").is_none()),
        Fault::Duplicate => list.extend(list.clone()),
        Fault::Shuffle => list.reverse(),
        Fault::Forge => {
            if let Some(mut log) = list.iter().find(|entry| entry.get("topics").is_some()).cloned()
            {
                log["logIndex"] = json!("0x7f");
                list.push(log);
            }
        }
        _ => {}
    }
}

async fn serve(socket: TcpStream, state: &State) -> Result<()> {
    let mut first = [0; 4];
    while socket.peek(&mut first).await? < first.len() {}
    if &first == b"GET " {
        serve_websocket(socket, state).await
    } else {
        serve_http(socket, state).await
    }
}

async fn serve_http(mut socket: TcpStream, state: &State) -> Result<()> {
    let mut octets = Vec::new();
    loop {
        let Some(request) = read_request(&mut socket, &mut octets).await? else { return Ok(()) };
        let (status, more, body) = match state.answer(request).await {
            Answer::Right(answer) => ("200 OK", "", answer.to_string()),
            Answer::Half(answer) => {
                let mut text = answer.to_string();
                text.truncate(text.len() / 2);
                ("200 OK", "", text)
            }
            Answer::Never => return std::future::pending().await,
            Answer::Page => ("200 OK", "", "<html><body>Welcome</body></html>".to_owned()),
            Answer::TooMany => ("429 Too Many Requests", "retry-after: 1\r\n", String::new()),
            Answer::Bad(answer) => ("400 Bad Request", "", answer.to_string()),
            Answer::Endless => {
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {GIGABYTE_OCTETS}\r\n\r\n");
                socket.write_all(head.as_bytes()).await?;
                let part = vec![b' '; 1 << 20];
                for _ in 0..GIGABYTE_OCTETS / part.len() {
                    socket.write_all(&part).await?;
                }
                return Ok(());
            }
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{more}content-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all((head + &body).as_bytes()).await?;
    }
}

/// The next request of a connection, `None` at its end.
async fn read_request(socket: &mut TcpStream, octets: &mut Vec<u8>) -> Result<Option<Value>> {
    loop {
        if let Some(end) = octets.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&octets[..end]).to_lowercase();
            let length = head.split("content-length:").nth(1).and_then(|rest| {
                rest.lines().next().and_then(|line| line.trim().parse::<usize>().ok())
            });
            let length = length.ok_or_else(|| eyre!("a request without a length"))?;
            if octets.len() >= end + 4 + length {
                let request: Vec<u8> = octets.drain(..end + 4 + length).skip(end + 4).collect();
                return Ok(Some(serde_json::from_slice(&request)?));
            }
        }
        if socket.read_buf(octets).await? == 0 {
            return Ok(None);
        }
    }
}

async fn serve_websocket(socket: TcpStream, state: &State) -> Result<()> {
    let mut near = tokio_tungstenite::accept_async(socket).await?;
    let mut node = state.node.clone();
    node.set_scheme("ws").map_err(|()| eyre!("the node's URL cannot be a WebSocket"))?;
    let far = TcpStream::connect((
        node.host_str().unwrap_or("127.0.0.1"),
        node.port_or_known_default().unwrap_or(80),
    ));
    // Only for notifications: what is asked goes by HTTP, where it can be twisted.
    let (mut far, _) = tokio_tungstenite::client_async(node.as_str(), far.await?).await?;
    loop {
        tokio::select! {
            told = far.next() => {
                let told = told.ok_or_else(|| eyre!("the node has closed"))??;
                // A node that stands still or hangs tells nothing either.
                let fault = state.fault.borrow().0;
                if !matches!(fault, Fault::Hang | Fault::Rewind) {
                    near.send(told).await?;
                }
            }
            asked = near.next() => {
                let asked = asked.ok_or_else(|| eyre!("the client has closed"))??;
                let Message::Text(text) = &asked else { continue };
                let request: Value = serde_json::from_str(text)?;
                let (id, method) = (request["id"].clone(), request["method"].clone());
                if method == "eth_subscribe" && state.fault.borrow().0 == Fault::None {
                    far.send(asked).await?;
                    continue;
                }
                let refused = |code: i64, message: &str| {
                    let error = json!({"code": code, "message": message});
                    json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string()
                };
                let text = match state.answer(request).await {
                    Answer::Right(answer) | Answer::Bad(answer) => answer.to_string(),
                    Answer::Half(answer) => {
                        let mut text = answer.to_string();
                        text.truncate(text.len() / 2);
                        text
                    }
                    Answer::Never => continue,
                    Answer::Page => "<html><body>Welcome</body></html>".to_owned(),
                    Answer::TooMany => refused(429, "too many requests"),
                    Answer::Endless => " ".repeat(MESSAGE_OCTETS),
                };
                near.send(Message::text(text)).await?;
            }
        }
    }
}
