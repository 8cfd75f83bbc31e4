//! Nodes that leave something out, add or change it: their blocks do not prove it, and it does not count.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use alloy::primitives::B256;
use flytrap_chain::{ChainHealth, FollowError, FollowerConfig, Proof, wallet::Reason};
use flytrap_policy::{Right, View};
use serde_json::{Value, json};

use crate::{
    lie::{Twist, blocked, digest, liar, three_in_one_block},
    site::{Anvil, Door, Following, Site, http, key},
};

type Lie = fn(&mut Value);

fn of_receipts(lie: Lie) -> impl Fn(&str, &Value, &mut Value) + Send + Sync {
    move |method, _, result| {
        if method == "eth_getBlockReceipts" && result.as_array().is_some_and(|all| !all.is_empty())
        {
            lie(result);
        }
    }
}

#[tokio::test]
async fn a_log_that_is_left_out_added_or_changed_makes_the_block_count_for_nothing() {
    let lies: [(&str, Lie); 6] = [
        ("all left out", |receipts| *receipts = json!([])),
        ("cut off", |receipts| drop(receipts.as_array_mut().unwrap().pop())),
        ("a log left out", |receipts| receipts[0]["logs"] = json!([])),
        ("a log changed", |receipts| receipts[0]["logs"][0]["data"] = json!("0x")),
        ("called removed", |receipts| receipts[0]["logs"][0]["removed"] = json!(true)),
        ("forged", |receipts| {
            let again = receipts[0]["logs"][0].clone();
            receipts[0]["logs"].as_array_mut().unwrap().push(again);
            receipts[0]["logs"][1]["logIndex"] = json!("0x63");
        }),
    ];
    let site = Site::start().await;
    let reason = Reason::default();
    for ((what, lie), later) in lies.into_iter().zip(0..) {
        let port = liar(site.anvil.port, Arc::new(of_receipts(lie))).await;
        // Two blocks may have the same time, and an end must be later than the one before.
        let until = site.soon().await + later;
        site.owner
            .grant(site.topic, key(1).address(), Right::Subscribe, until, &reason)
            .await
            .unwrap();
        let following =
            Following::start(FollowerConfig { history: 1, ..site.config(vec![http(port)]) });
        following.until_health(what, |health| health.inconsistent() > 1).await;
        assert!(following.health.last_error().unwrap().contains("have the root"), "{what}");
        assert!(following.views.borrow().is_none(), "{what}");
        // The truth from the next node counts.
        let mut following = Following::start(site.config(vec![http(port), site.http()]));
        let view = following.until(|_| true).await;
        assert_eq!(view.head.grant(site.topic, key(1).address(), Right::Subscribe), Some(until));
    }
}

#[tokio::test]
async fn order_and_repetition_of_receipts_and_logs_change_nothing() {
    let site = Site::start().await;
    let lie: Lie = |receipts| {
        let all = receipts.as_array_mut().unwrap();
        all.reverse();
        let again = all[0].clone();
        all.push(again);
        for receipt in all {
            let logs = receipt["logs"].as_array_mut().unwrap();
            logs.extend(logs.clone());
            logs.reverse();
        }
    };
    let port = liar(site.anvil.port, Arc::new(of_receipts(lie))).await;
    let mut following = Following::start(site.config(vec![http(port)]));
    following.until(|_| true).await;
    three_in_one_block(&site).await;
    let view = following.until(blocked(&site)).await;
    assert!(!view.head.is_manager(site.topic, key(1).address()));
    assert_eq!(view.head.digest(), digest(&site).await);
    assert_eq!(following.health.errors(), 0, "{:?}", following.health.last_error());
}

#[tokio::test]
async fn a_header_that_is_not_what_its_hash_says_is_not_believed_and_the_way_out_is_named() {
    let site = Site::start().await;
    let day_later = |method: &str, _: &Value, result: &mut Value| {
        if method == "eth_getBlockByNumber" {
            result["timestamp"] = json!("0xffffffff");
        }
    };
    let port = liar(site.anvil.port, Arc::new(day_later)).await;
    let following = Following::start(site.config(vec![http(port)]));
    following.until_health("contradictions", |health| health.inconsistent() > 1).await;
    let error = following.health.last_error().unwrap();
    assert!(error.contains("chain.proof"), "{error}");
    assert!(following.views.borrow().is_none());
}

#[tokio::test]
async fn a_node_that_cannot_prove_anything_is_refused_by_the_name_of_the_setting() {
    let site = Site::start().await;
    let lacking = |method: &str, _: &Value, result: &mut Value| {
        if method == "eth_getBlockReceipts" {
            *result = json!({"refuse": [-32601, "the method eth_getBlockReceipts does not exist"]});
        }
    };
    let port = liar(site.anvil.port, Arc::new(lacking)).await;
    let error = Following::start(site.config(vec![http(port)])).end().await.unwrap_err();
    assert!(matches!(error, FollowError::NoReceipts { .. }), "{error}");
    assert!(error.to_string().contains("chain.proof"), "{error}");
}

#[tokio::test]
async fn a_long_past_that_must_be_proven_gives_the_same_state_and_finds_what_is_missing() {
    let site = Site::start().await;
    let until = site.soon().await;
    let reason = Reason::default();
    site.owner.grant(site.topic, key(1).address(), Right::Publish, until, &reason).await.unwrap();
    site.mine(300).await;
    let proven = |urls| FollowerConfig { history: 8, prove_history: true, ..site.config(urls) };
    let mut following = Following::start(proven(vec![site.http()]));
    let view = following.until(|_| true).await;
    let ranges = following.health.requests().find(|(method, _)| *method == "eth_getLogs");
    assert_eq!(ranges.unwrap().1, 0, "nothing is believed without proof");
    assert_eq!(view.head.digest(), digest(&site).await);
    let port =
        liar(site.anvil.port, Arc::new(of_receipts(|receipts| receipts[0]["logs"] = json!([]))))
            .await;
    let following = Following::start(proven(vec![http(port)]));
    following.until_health("contradictions", |health| health.inconsistent() > 1).await;
    assert!(following.views.borrow().is_none());
}

/// Two nodes with the same past, of which the second makes blocks of its own.
async fn a_second_node(site: &Site) -> (Anvil, flytrap_chain::Rpc) {
    let state = site.ask("anvil_dumpState", json!([])).await;
    let other = Anvil::start(&[]);
    let rpc = flytrap_chain::Rpc::new(vec![http(other.port)]);
    assert!(rpc.call::<bool>("anvil_loadState", json!([state])).await.unwrap());
    (other, rpc)
}

fn quorum(site: &Site, urls: Vec<url::Url>) -> FollowerConfig {
    FollowerConfig { quorum: true, ..site.config(urls) }
}

/// THREATS E19.
#[tokio::test]
async fn with_a_quorum_one_node_cannot_make_up_a_grant_and_disagreement_ends_the_trust() {
    let site = Site::start().await;
    let (other, _) = a_second_node(&site).await;
    let mut following = Following::start(quorum(&site, vec![site.http(), http(other.port)]));
    let seen = following.until(|_| true).await;
    following.until_health("trust", |health| health.age() < Duration::from_secs(1)).await;
    // The first node has a block with a grant, the second one another block at that height.
    let until = site.soon().await;
    site.owner
        .grant(site.topic, key(1).address(), Right::Subscribe, until, &Reason::default())
        .await
        .unwrap();
    let rpc = flytrap_chain::Rpc::new(vec![http(other.port)]);
    rpc.call::<Value>("anvil_mine", json!(["0x1"])).await.unwrap();
    following.until_health("distrust", |health| health.distrusted().is_some()).await;
    assert!(following.health.disagreements() > 0);
    assert_eq!(following.health.age(), Duration::MAX);
    assert!(following.health.distrusted().unwrap().contains("disagree on block"));
    let granted =
        |view: &View| view.settled.grant(site.topic, key(1).address(), Right::Subscribe).is_some();
    assert!(!granted(&following.view()));
    assert!(following.view().version >= seen.version);
    // Nothing heals by waiting for as long as they disagree.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(following.health.distrusted().is_some() && !granted(&following.view()));
}

/// Says of the block at `height` that it has another hash, and of the one above that it follows that.
fn made_up(height: u64) -> Arc<Twist> {
    Arc::new(move |method: &str, _: &Value, result: &mut Value| {
        if method != "eth_getBlockByNumber" {
            return;
        }
        let at = |number: u64| json!(format!("{number:#x}"));
        if result["number"] == at(height) {
            result["hash"] = json!(B256::repeat_byte(0xbb));
        } else if result["number"] == at(height + 1) {
            result["parentHash"] = json!(B256::repeat_byte(0xbb));
        }
    })
}

#[tokio::test]
async fn with_a_quorum_no_range_begins_or_ends_on_a_block_that_only_one_node_has() {
    let site = Site::start().await;
    site.mine(40).await;
    let (history, head) = (8_u64, site.height().await);
    for height in [site.deployment.block - 1, head - history] {
        let port = liar(site.anvil.port, made_up(height)).await;
        let config = FollowerConfig {
            proof: Proof::Logs,
            history: usize::try_from(history).unwrap(),
            ..quorum(&site, vec![http(port), http(port)])
        };
        // What it makes up is consistent: alone, or with itself as the second, it is believed.
        Following::start(config.clone()).until(|_| true).await;
        let urls = vec![http(port), site.http()];
        let following = Following::start(FollowerConfig { urls, ..config });
        let disagree = |health: &ChainHealth| health.disagreements() > 0;
        following.until_health("a disagreement", disagree).await;
        assert!(following.health.last_error().unwrap().contains("disagree on block"), "{height}");
        assert!(following.health.version() == 0 || !following.health.nodes()[0].is_in_use());
    }
}

#[tokio::test]
async fn with_a_quorum_permissions_wait_for_the_second_node_and_restrictions_do_not() {
    let site = Site::start().await;
    let door = Door::before(site.anvil.port).await;
    let (wallet, reason) = (key(1).address(), Reason::default());
    let mut following = Following::start(quorum(&site, vec![site.http(), http(door.port)]));
    following.until(|_| true).await;
    let until = site.soon().await;
    let settled = |view: &View| view.settled.grant(site.topic, wallet, Right::Subscribe);
    site.owner.grant(site.topic, wallet, Right::Subscribe, until, &reason).await.unwrap();
    following.until(|view| settled(view) == Some(until)).await;

    door.shut();
    let second = key(2).address();
    site.owner.grant(site.topic, second, Right::Subscribe, until, &reason).await.unwrap();
    site.owner.revoke(site.topic, wallet, Right::Subscribe, &reason).await.unwrap();
    let ended = |view: &View| view.head.grant(site.topic, wallet, Right::Subscribe) < Some(until);
    let view = following.until(|view| ended(view)).await;
    assert_eq!(settled(&view), Some(until), "nobody else has seen the end of it yet");
    assert_eq!(view.settled.grant(site.topic, second, Right::Subscribe), None);
    let age = following.health.age();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(following.health.age() > age, "one node alone does not confirm the mirror");

    door.open();
    following
        .until(|view| view.settled.grant(site.topic, second, Right::Subscribe) == Some(until))
        .await;
    following.until_health("trust", |health| health.age() < Duration::from_millis(400)).await;
    assert_eq!(following.health.disagreements(), 0);
}

#[tokio::test]
async fn with_a_quorum_a_node_that_stands_still_is_left_for_the_one_that_goes_on() {
    let site = Site::start().await;
    let (frozen, _) = a_second_node(&site).await;
    let height = site.height().await;
    site.mine(8).await;
    let urls = vec![http(frozen.port), site.http(), site.http()];
    let mut following = Following::start(quorum(&site, urls));
    let view = following.until(|view| view.height >= height + 8).await;
    assert_eq!(view.height, height + 8);
}

/// THREATS E19: its own blocks are still in the chain while another node is followed that has not got that far.
#[tokio::test]
async fn with_a_quorum_no_node_is_the_second_to_agree_with_itself() {
    let site = Site::start().await;
    let (frozen, _) = a_second_node(&site).await;
    let door = Door::before(site.anvil.port).await;
    let mut following = Following::start(quorum(&site, vec![http(door.port), http(frozen.port)]));
    following.until(|_| true).await;
    following.until_health("trust", |health| health.age() < Duration::from_secs(1)).await;
    let (wallet, until) = (key(1).address(), site.soon().await);
    site.owner
        .grant(site.topic, wallet, Right::Subscribe, until, &Reason::default())
        .await
        .unwrap();
    following.until(|view| view.head.grant(site.topic, wallet, Right::Subscribe).is_some()).await;

    door.shut();
    following.until_health("the other node", |health| health.nodes()[1].is_in_use()).await;
    door.open();
    let opened = Instant::now();
    while following.health.nodes()[1].is_in_use() {
        assert_eq!(following.view().settled.grant(site.topic, wallet, Right::Subscribe), None);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(opened.elapsed() > Duration::from_secs(2), "long enough for many questions");
    assert_eq!(following.view().settled.grant(site.topic, wallet, Right::Subscribe), None);
}

#[tokio::test]
async fn a_second_node_must_tell_the_same_of_old_blocks() {
    let site = Site::start().await;
    site.mine(200).await;
    let hides = |method: &str, _: &Value, result: &mut Value| {
        if method == "eth_getLogs" {
            *result = json!([]);
        }
    };
    let port = liar(site.anvil.port, Arc::new(hides)).await;
    for urls in [vec![http(port), site.http()], vec![site.http(), http(port)]] {
        let config = FollowerConfig { history: 8, ..quorum(&site, urls) };
        let following = Following::start(config);
        following.until_health("disagreement", |health| health.disagreements() > 0).await;
        assert!(following.views.borrow().is_none());
    }
}

/// THREATS E21: a node that wants to be left alone is, as long as it says, and then followed again.
#[tokio::test]
async fn a_node_that_wants_fewer_requests_gets_them() {
    let site = Site::start().await;
    let limiting = Arc::new(AtomicBool::new(false));
    let (is_limiting, began) = (limiting.clone(), Instant::now());
    let limit = move |_: &str, _: &Value, result: &mut Value| {
        if is_limiting.load(Relaxed) {
            *result =
                json!({"refuse": [-32005, "daily request count exceeded, request rate limited"]});
        }
    };
    let port = liar(site.anvil.port, Arc::new(limit)).await;
    let mut following = Following::start(site.config(vec![http(port)]));
    following.until(|_| true).await;
    limiting.store(true, Relaxed);
    following.until_health("limits", |health| health.errors() > 0).await;
    let (before, from) = (following.health.requests_total(), Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = following.health.requests_total() - before;
    assert!(asked <= 4, "{asked} requests in {:?}", from.elapsed());
    limiting.store(false, Relaxed);
    site.mine(1).await;
    let height = site.height().await;
    following.until(|view| view.height == height).await;
    assert!(began.elapsed() < Duration::from_secs(40));
}
