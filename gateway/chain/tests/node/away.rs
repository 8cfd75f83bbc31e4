//! Nodes that go away, hang, lag or lie: the view stays, and catches up when they are back.

use std::time::Duration;

use flytrap_chain::wallet::Reason;
use flytrap_policy::Right;
use tokio::net::TcpListener;

use crate::site::{Door, Following, Site, http, key};

#[tokio::test]
async fn what_happened_while_the_node_was_away_is_caught_up_by_http_and_websocket() {
    let site = Site::start().await;
    let wallet = key(1).address();
    let reason = Reason::default();
    for websocket in [false, true] {
        let door = Door::before(site.anvil.port).await;
        let url = if websocket { door.ws() } else { http(door.port) };
        let mut following = Following::start(site.config(vec![url]));
        let until = site.soon().await;
        site.owner.grant(site.topic, wallet, Right::Subscribe, until, &reason).await.unwrap();
        let seen = following
            .until(|view| view.head.grant(site.topic, wallet, Right::Subscribe) == Some(until))
            .await;

        door.shut();
        following.until_health("errors", |health| health.errors() >= 2).await;
        site.owner.revoke(site.topic, wallet, Right::Subscribe, &reason).await.unwrap();
        site.mine(20).await;
        assert_eq!(following.view().version, seen.version);
        let age = following.health.age();
        assert!(age > Duration::from_millis(50) && age < Duration::from_secs(20), "{age:?}");

        door.open();
        let height = site.height().await;
        let view = following.until(|view| view.height == height).await;
        assert!(view.head.grant(site.topic, wallet, Right::Subscribe) < Some(until));
        assert!(following.health.reconnects() > 0);
        assert_eq!((following.health.reorgs(), following.health.resyncs()), (0, 0));
        following.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_hangs_is_left_after_the_deadline_for_the_next_one() {
    let site = Site::start().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let started = std::time::Instant::now();
    let mut following = Following::start(site.config(vec![http(port), site.http()]));
    following.until(|_| true).await;
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(following.health.last_error().unwrap().contains("no answer to eth_chainId"));
}

#[tokio::test]
async fn a_node_that_is_not_there_yet_is_waited_for() {
    let site = Site::start().await;
    let door = Door::before(site.anvil.port).await;
    door.shut();
    let mut following = Following::start(site.config(vec![http(door.port)]));
    following.until_health("errors", |health| health.errors() >= 3).await;
    assert_eq!(following.health.age(), Duration::MAX);
    assert!(following.views.borrow().is_none());
    door.open();
    following.until(|_| true).await;
}

#[tokio::test]
async fn a_node_that_lags_behind_moves_nothing_back() {
    // Two nodes with the same first blocks, as behind a balancer: the second stays behind.
    let site = Site::start().await;
    let state = site.ask("anvil_dumpState", serde_json::json!([])).await;
    let lagging = crate::site::Anvil::start(&[]);
    let rpc = flytrap_chain::Rpc::new(vec![http(lagging.port)]);
    let loaded: bool = rpc.call("anvil_loadState", serde_json::json!([state])).await.unwrap();
    assert!(loaded);
    site.mine(3).await;
    let door = Door::before(site.anvil.port).await;
    let mut following = Following::start(site.config(vec![http(door.port)]));
    let height = site.height().await;
    let seen = following.until(|view| view.height == height).await;
    let looks = following.health.requests_total();
    door.lead_to(lagging.port);
    following.until_health("looks", |health| health.requests_total() > looks + 20).await;
    assert_eq!(following.view().height, seen.height);
    assert_eq!((following.health.reorgs(), following.health.resyncs()), (0, 0));
    door.lead_to(site.anvil.port);
    site.mine(1).await;
    let view = following.until(|view| view.height == height + 1).await;
    assert_eq!(view.version, seen.version);
    assert_eq!(following.health.reorgs(), 0);
}

#[tokio::test]
async fn nonsense_from_a_node_changes_nothing_and_the_next_node_serves() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let site = Site::start().await;
    for body in [
        "<html>502</html>".to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"resu"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":77,"result":"0x7a69"}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"result":null}"#.to_owned(),
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32005,"message":"limit exceeded"}}"#.to_owned(),
        "[]".to_owned(),
        String::new(),
    ] {
        let liar = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = liar.local_addr().unwrap().port();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = liar.accept().await {
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        let mut following = Following::start(site.config(vec![http(port), site.http()]));
        following.until(|_| true).await;
        assert!(following.health.errors() > 0, "{body}");
    }
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let liar = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = liar.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = liar.accept().await {
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n").await;
            while socket.write_all(&[b' '; 65_536]).await.is_ok() {}
        }
    });
    let rpc = flytrap_chain::Rpc::new(vec![http(port)]);
    let answer = rpc.call::<String>("eth_chainId", serde_json::json!([])).await;
    let error = answer.unwrap_err().to_string();
    assert!(error.contains("more than 33554432 octets"), "{error}");
}
