//! Nodes that answer with logs in the wrong order, twice, too few, or of someone else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use alloy::{
    primitives::{B256, Bytes},
    sol_types::SolCall,
    transports::http::reqwest,
};
use flytrap_chain::{
    FollowerConfig, Proof,
    bindings::{IAccessMarket, ITopicRegistry},
    wallet::Reason,
};
use flytrap_policy::{Right, View};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::site::{Following, Site, http, key};

/// What becomes of an answer: method, parameters, result.
pub(crate) type Twist = dyn Fn(&str, &Value, &mut Value) + Send + Sync;

type Lie = fn(&mut Value);

/// A node that passes on what another one answers, twisted. Returns its port.
pub(crate) async fn liar(behind: u16, twist: Arc<Twist>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, behind, twist.clone()));
        }
    });
    port
}

/// Follows nodes that are believed without proof, so that what they say of logs counts.
fn believing(site: &Site, urls: Vec<url::Url>) -> FollowerConfig {
    FollowerConfig { proof: Proof::Logs, ..site.config(urls) }
}

async fn serve(socket: TcpStream, behind: u16, twist: Arc<Twist>) {
    let client = reqwest::Client::new();
    let mut socket = BufReader::new(socket);
    while let Some(request) = read_request(&mut socket).await {
        let answer = client
            .post(http(behind))
            .header("content-type", "application/json")
            .body(request.to_string());
        let text = answer.send().await.unwrap().text().await.unwrap();
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        twist(request["method"].as_str().unwrap(), &request["params"], &mut answer["result"]);
        if let Some([code, message]) = answer["result"]["refuse"].as_array().map(Vec::as_slice) {
            let error = json!({"code": code, "message": message});
            answer = json!({"jsonrpc": "2.0", "id": request["id"], "error": error});
        }
        let body = answer.to_string();
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        if socket.get_mut().write_all((head + &body).as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn read_request(socket: &mut BufReader<TcpStream>) -> Option<Value> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?.to_lowercase();
    let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    serde_json::from_slice(&body).ok()
}

/// A manager comes, goes, and is blocked, in one block: in another order the state would be another.
pub(crate) async fn three_in_one_block(site: &Site) {
    let wallet = key(1).address();
    let set = |allowed| {
        ITopicRegistry::setManagerCall { topicId: site.topic, manager: wallet, allowed }
            .abi_encode()
    };
    let (topic, purpose, note) = (site.topic, B256::ZERO, String::new());
    let block =
        IAccessMarket::blockWalletCall { topicId: topic, wallet, purpose, note }.abi_encode();
    site.ask("evm_setAutomine", json!([false])).await;
    let (topics, market) = (site.deployment.topic_registry, site.deployment.access_market);
    for (to, data) in [(topics, set(true)), (topics, set(false)), (market, block)] {
        let from = site.owner.address();
        let call = json!([{"from": from, "to": to, "data": Bytes::from(data), "gas": "0x493e0"}]);
        site.ask("eth_sendTransaction", call).await;
    }
    site.mine(1).await;
    site.ask("evm_setAutomine", json!([true])).await;
}

pub(crate) fn blocked(site: &Site) -> impl Fn(&View) -> bool {
    let topic = site.topic;
    move |view| view.head.is_blocked(topic, key(1).address())
}

pub(crate) async fn digest(site: &Site) -> B256 {
    site.follow().until(|_| true).await.head.digest()
}

#[tokio::test]
async fn order_repetition_and_orphans_in_an_answer_change_nothing() {
    let site = Site::start().await;
    let twist = |method: &str, _: &Value, result: &mut Value| {
        if let ("eth_getLogs", Some(logs)) = (method, result.as_array_mut()) {
            let mut orphans: Vec<Value> = logs.first().cloned().into_iter().collect();
            for orphan in &mut orphans {
                orphan["removed"] = json!(true);
                orphan["logIndex"] = json!("0xff");
            }
            let twice = logs.clone();
            logs.extend(twice);
            logs.extend(orphans);
            logs.reverse();
        }
    };
    let port = liar(site.anvil.port, Arc::new(twist)).await;
    let mut following = Following::start(believing(&site, vec![http(port)]));
    following.until(|_| true).await;
    three_in_one_block(&site).await;
    let view = following.until(blocked(&site)).await;
    assert!(!view.head.is_manager(site.topic, key(1).address()));
    assert_eq!(view.head.digest(), digest(&site).await);
    assert_eq!(following.health.errors(), 0, "{:?}", following.health.last_error());
}

#[tokio::test]
async fn logs_that_a_node_does_not_have_yet_are_asked_for_again() {
    let site = Site::start().await;
    let hidden = Arc::new(AtomicUsize::new(0));
    let count = hidden.clone();
    let twist = move |method: &str, params: &Value, result: &mut Value| {
        let by_hash = params[0]["blockHash"].is_string();
        if method == "eth_getLogs"
            && by_hash
            && result.as_array().is_some_and(|logs| !logs.is_empty())
        {
            // Every first answer about a block is empty.
            if count.fetch_add(1, Relaxed).is_multiple_of(2) {
                *result = json!([]);
            }
        }
    };
    let port = liar(site.anvil.port, Arc::new(twist)).await;
    let mut following = Following::start(believing(&site, vec![http(port)]));
    following.until(|_| true).await;
    three_in_one_block(&site).await;
    let view = following.until(blocked(&site)).await;
    assert_eq!(view.head.digest(), digest(&site).await);
    assert!(hidden.load(Relaxed) >= 2);
}

#[tokio::test]
async fn a_log_of_someone_else_and_a_log_of_another_block_are_not_believed() {
    let twists: [(&str, Lie); 3] = [
        ("that its own bloom excludes", |log| {
            log["address"] = json!("0x00000000000000000000000000000000000000ee")
        }),
        ("asked for logs of block", |log| log["blockNumber"] = json!("0x1")),
        ("it answered with one of", |log| log["blockHash"] = json!(B256::repeat_byte(1))),
    ];
    let site = Site::start().await;
    for (wanted, twist) in twists {
        let until = site.soon().await;
        let lie = move |method: &str, params: &Value, result: &mut Value| {
            if method == "eth_getLogs" && params[0]["blockHash"].is_string() {
                result.as_array_mut().into_iter().flatten().for_each(twist);
            }
        };
        let port = liar(site.anvil.port, Arc::new(lie)).await;
        let mut following = Following::start(believing(&site, vec![http(port)]));
        let before = following.until(|_| true).await;
        let reason = Reason::default();
        site.owner
            .grant(site.topic, key(1).address(), Right::Subscribe, until + 1, &reason)
            .await
            .unwrap();
        following
            .until_health(wanted, |health| {
                health.last_error().is_some_and(|error| error.contains(wanted))
            })
            .await;
        assert_eq!(following.view().version, before.version, "{wanted}");
        assert!(following.health.undecodable() + following.health.inconsistent() > 0);
        // The truth from another node is believed at once.
        let mut following = Following::start(believing(&site, vec![http(port), site.http()]));
        following
            .until(|view| {
                view.head.grant(site.topic, key(1).address(), Right::Subscribe) == Some(until + 1)
            })
            .await;
        site.owner.revoke(site.topic, key(1).address(), Right::Subscribe, &reason).await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_takes_only_narrow_ranges_is_asked_for_narrower_ones() {
    let site = Site::start().await;
    site.mine(600).await;
    let height = site.height().await;
    let widest = Arc::new(AtomicUsize::new(0));
    let seen = widest.clone();
    let twist = move |method: &str, params: &Value, result: &mut Value| {
        let number = |at: &str| {
            let text = params[0][at].as_str()?;
            usize::from_str_radix(text.trim_start_matches("0x"), 16).ok()
        };
        if let ("eth_getLogs", Some(from), Some(to)) =
            (method, number("fromBlock"), number("toBlock"))
        {
            if to - from >= 50 {
                *result = Value::Null;
            } else {
                seen.fetch_max(to - from + 1, Relaxed);
            }
        }
    };
    let port = liar(site.anvil.port, Arc::new(twist)).await;
    let mut config = site.config(vec![http(port)]);
    config.history = 20;
    let mut following = Following::start(config);
    let view = following.until(|view| view.height == height).await;
    assert_eq!(view.head.digest(), digest(&site).await);
    let widest = widest.load(Relaxed);
    assert!((25..=50).contains(&widest), "{widest}");
}
