//! What happens on the chain is in the view, soon, and with few requests.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flytrap_chain::wallet::Reason;
use flytrap_policy::{Right, View};
use serde_json::json;
use url::Url;

use crate::site::{Following, Site, key};

fn reader() -> alloy::primitives::Address {
    key(1).address()
}

fn granted(site: &Site) -> impl Fn(&View) -> bool {
    let topic = site.topic;
    move |view| {
        view.head.grant(topic, reader(), Right::Subscribe).is_some_and(|until| until > view.time)
    }
}

fn ended(site: &Site) -> impl Fn(&View) -> bool {
    let topic = site.topic;
    move |view| {
        view.head.grant(topic, reader(), Right::Subscribe).is_some_and(|until| until <= view.time)
    }
}

#[tokio::test]
async fn a_view_has_what_was_there_before_and_what_comes_after_by_http() {
    let site = Site::start().await;
    follow(&site, site.http()).await;
}

#[tokio::test]
async fn a_view_has_what_was_there_before_and_what_comes_after_by_websocket() {
    let site = Site::start().await;
    follow(&site, site.ws()).await;
}

async fn follow(site: &Site, url: Url) {
    let mut following = Following::start(site.config(vec![url]));
    let name = format!("{:#x}", site.owner.address());
    let view = following.until(|view| view.head.topic(&name).is_some()).await;
    assert_eq!((view.version, view.height), (1, site.height().await));
    assert_eq!(view.head.owner(), Some(site.owner.address()));

    let until = site.soon().await;
    let reason = Reason::default();
    let granting =
        site.owner.grant(site.topic, reader(), Right::Subscribe, until, &reason).await.unwrap();
    let view = following.until(granted(site)).await;
    assert_eq!((view.version, view.height), (2, granting.height));
    assert_eq!(view.settled.digest(), view.head.digest());

    // An empty block moves height and time, and changes nothing.
    site.mine(1).await;
    let later = following.until(|later| later.height > view.height).await;
    assert!(later.time >= view.time);
    assert_eq!(later.version, 2);

    site.owner.revoke(site.topic, reader(), Right::Subscribe, &reason).await.unwrap();
    let view = following.until(ended(site)).await;
    assert_eq!(view.version, 3);
    let device = flytrap_chain::keys::Key::random();
    site.owner.authorize_device_key(&device, until).await.unwrap();
    following
        .until(|view| {
            view.head.wallet_of(device.address(), view.time) == Some(site.owner.address())
        })
        .await;
    assert_eq!(following.health.errors(), 0, "{:?}", following.health.last_error());
    assert!(following.health.age() < Duration::from_secs(5));
    following.stop().await.unwrap();
}

#[tokio::test]
async fn a_view_has_what_was_there_before_and_what_comes_after_by_unix_socket() {
    let place = tempfile::tempdir().unwrap();
    let socket = place.path().join("node.ipc");
    let site = Site::start_with(&["--ipc", socket.to_str().unwrap()]).await;
    follow(&site, Url::parse(&format!("ipc://{}", socket.display())).unwrap()).await;
}

#[tokio::test]
async fn a_permission_counts_when_it_is_settled_and_a_restriction_at_once() {
    let site = Site::start().await;
    let mut config = site.config(vec![site.http()]);
    config.confirmations = 2;
    let mut following = Following::start(config);
    let until = site.soon().await;
    let reason = Reason::default();
    let done =
        site.owner.grant(site.topic, reader(), Right::Subscribe, until, &reason).await.unwrap();
    let settled =
        |view: &View| view.settled.grant(site.topic, reader(), Right::Subscribe).is_some();
    for depth in 0..3 {
        let view = following.until(|view| view.height == done.height + depth).await;
        assert_eq!(settled(&view), depth == 2, "{depth} blocks deep");
        assert!(granted(&site)(&view));
        site.mine(1).await;
    }
    site.owner.revoke(site.topic, reader(), Right::Subscribe, &reason).await.unwrap();
    let view = following.until(ended(&site)).await;
    assert_eq!(view.settled.grant(site.topic, reader(), Right::Subscribe), Some(until));
}

#[tokio::test]
async fn a_long_past_is_read_in_ranges_and_gives_the_same_state() {
    let site = Site::start().await;
    let until = site.soon().await;
    let reason = Reason::default();
    site.owner.grant(site.topic, reader(), Right::Publish, until, &reason).await.unwrap();
    site.mine(700).await;
    site.owner.grant(site.topic, reader(), Right::Subscribe, until + 9_999, &reason).await.unwrap();
    site.mine(30).await;
    let mut short = site.config(vec![site.http()]);
    short.history = 16;
    let mut short = Following::start(short);
    let mut whole = site.config(vec![site.http()]);
    whole.history = 10_000;
    let mut whole = Following::start(whole);
    let (short_view, whole_view) = (short.until(|_| true).await, whole.until(|_| true).await);
    assert_eq!(short_view.height, site.height().await);
    assert_eq!(short_view.head.digest(), whole_view.head.digest());
    let logs = |following: &Following| {
        following.health.requests().find(|(method, _)| *method == "eth_getLogs").unwrap().1
    };
    assert!(logs(&short) < 40, "{} requests for logs", logs(&short));
}

#[tokio::test]
async fn a_quiet_chain_costs_one_request_per_look_and_a_block_that_excludes_us_two() {
    let site = Site::start().await;
    let mut config = site.config(vec![site.http()]);
    config.poll = Duration::from_millis(20);
    let mut following = Following::start(config);
    following.until(|_| true).await;
    let count = |wanted: &str| {
        following
            .health
            .requests()
            .filter(|(method, _)| *method == wanted)
            .map(|(_, n)| n)
            .sum::<u64>()
    };
    // The chain id is asked for now and then.
    let all = || following.health.requests_total() - count("eth_chainId");
    let (before, looks) = (all(), count("eth_getBlockByNumber"));
    while count("eth_getBlockByNumber") < looks + 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(all() - before, count("eth_getBlockByNumber") - looks, "only looks at the head");
    let (ids, before, looks) = (count("eth_chainId"), all(), count("eth_getBlockByNumber"));
    site.mine(1).await;
    let height = site.height().await;
    let mut views = following.views.clone();
    views.wait_for(|view| view.as_ref().unwrap().0.height == height).await.unwrap();
    assert_eq!(all() - before, count("eth_getBlockByNumber") - looks, "its bloom says enough");
    assert!(count("eth_chainId") > ids, "every new block is of a chain that is asked for its id");
}

/// Times from the moment at which the node begins to make a block with a revocation to the view that has it, without those in which the
/// machine let nobody run.
async fn latencies(url: Url, site: &Site) -> Vec<Duration> {
    let stalls = Stalls::watch();
    let mut following = Following::start(site.config(vec![url]));
    following.until(|_| true).await;
    let reason = Reason::default();
    let mut found = Vec::new();
    for round in 0..20u64 {
        let until = site.soon().await;
        site.owner.grant(site.topic, reader(), Right::Subscribe, until, &reason).await.unwrap();
        following.until(granted(site)).await;
        site.ask("evm_setAutomine", json!([false])).await;
        let mining = async {
            site.until_pending().await;
            // So that blocks come at any time between two looks.
            tokio::time::sleep(Duration::from_millis(37 * (round % 5))).await;
            let before = Instant::now();
            site.mine(1).await;
            before
        };
        let revoking = site.owner.revoke(site.topic, reader(), Right::Subscribe, &reason);
        let (before, done) = tokio::join!(mining, revoking);
        done.unwrap();
        site.ask("evm_setAutomine", json!([true])).await;
        let (_, at) = following.until_at(ended(site)).await;
        found.push(at.saturating_duration_since(before).saturating_sub(stalls.between(before, at)));
    }
    found.sort();
    found
}

/// When a thread that only sleeps was woken late, and by how much: what it was late by, the machine held back everybody.
struct Stalls {
    found: Arc<Mutex<Vec<(Instant, Duration)>>>,
}

impl Stalls {
    fn watch() -> Self {
        const NAP: Duration = Duration::from_millis(5);
        let found: Arc<Mutex<Vec<_>>> = Arc::default();
        let watched = Arc::downgrade(&found);
        std::thread::spawn(move || {
            while let Some(found) = watched.upgrade() {
                let before = Instant::now();
                std::thread::sleep(NAP);
                let late = before.elapsed().saturating_sub(2 * NAP);
                if !late.is_zero() {
                    found.lock().unwrap().push((Instant::now(), late));
                }
            }
        });
        Self { found }
    }

    /// In all, of those that ended then.
    fn between(&self, from: Instant, to: Instant) -> Duration {
        let found = self.found.lock().unwrap();
        found.iter().filter(|(at, _)| (from..=to).contains(at)).map(|(_, late)| *late).sum()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_is_in_the_view_within_a_quarter_of_a_second_of_its_block() {
    let site = Site::start().await;
    for (how, url) in [("HTTP", site.http()), ("WebSocket", site.ws())] {
        let found = latencies(url, &site).await;
        println!(
            "{how}: median {:?}, longest {:?}",
            found[found.len() / 2],
            found[found.len() - 1]
        );
        assert!(found[found.len() - 1] < Duration::from_millis(250), "{how}: {found:?}");
    }
}
