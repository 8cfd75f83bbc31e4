//! What a restart costs, and what survives a fault of the follower itself.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use flytrap_chain::{ChainHealth, Follower, FollowerConfig, wallet::Reason};
use flytrap_policy::{Right, View};
use serde_json::Value;
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    lie::{digest, liar},
    site::{Following, PATIENCE, Site, http, key},
};

/// Keeps what is four blocks deep, and never by itself.
fn keeping(site: &Site, path: &Path) -> FollowerConfig {
    let snapshot = Some((path.to_owned(), Duration::from_secs(3_600)));
    FollowerConfig { history: 4, snapshot, ..site.config(vec![site.http()]) }
}

fn logs(following: &Following) -> u64 {
    following.health.requests().find(|(method, _)| *method == "eth_getLogs").unwrap().1
}

async fn granted(site: &Site, wallet: usize) -> u64 {
    let until = site.soon().await;
    let wallet = key(wallet).address();
    site.owner
        .grant(site.topic, wallet, Right::Subscribe, until, &Reason::default())
        .await
        .unwrap();
    until
}

#[tokio::test]
async fn a_restart_goes_on_from_the_snapshot_and_ends_in_the_state_of_a_fresh_replay() {
    let site = Site::start().await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("mirror.snapshot");
    granted(&site, 1).await;
    site.mine(30).await;
    let mut following = Following::start(keeping(&site, &path));
    following.until(|_| true).await;
    assert!(logs(&following) > 0, "the first start reads ranges");
    following.stop().await.unwrap();
    assert!(path.exists(), "written when it stops");

    // What happens meanwhile is caught up, block by block: nothing is so far above the snapshot that it would be read in ranges.
    let until = granted(&site, 2).await;
    site.mine(2).await;
    let mut following = Following::start(FollowerConfig { history: 16, ..keeping(&site, &path) });
    let view = following.until(|_| true).await;
    assert_eq!(view.head.grant(site.topic, key(2).address(), Right::Subscribe), Some(until));
    assert_eq!(view.head.digest(), digest(&site).await);
    let health = &following.health;
    assert!(health.snapshot_height() > 0);
    assert_eq!((health.resyncs(), health.snapshots_refused(), logs(&following)), (0, 0, 0));
    following.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_is_behind_the_snapshot_does_not_cost_it() {
    let site = Site::start().await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("mirror.snapshot");
    let until = granted(&site, 1).await;
    // The node remembers the first head that it was asked for, and names it again when it lags.
    let (first, lags) = (Arc::new(OnceLock::<Value>::new()), Arc::new(AtomicBool::new(false)));
    let twist = {
        let (first, lags) = (first.clone(), lags.clone());
        move |method: &str, params: &Value, result: &mut Value| {
            if method == "eth_getBlockByNumber" && params[0] == "latest" {
                let first = first.get_or_init(|| result.clone());
                if lags.load(Relaxed) {
                    *result = first.clone();
                }
            }
        }
    };
    let node = http(liar(site.anvil.port, Arc::new(twist)).await);
    let keeping = || FollowerConfig { urls: vec![node.clone()], ..keeping(&site, &path) };
    let mut following = Following::start(keeping());
    following.until(|_| true).await;
    site.mine(30).await;
    let tip = site.height().await;
    following.until(|view| view.height == tip).await;
    following.stop().await.unwrap();

    lags.store(true, Relaxed);
    let mut following = Following::start(keeping());
    let is_behind =
        |health: &ChainHealth| health.last_error().is_some_and(|error| error.contains("far below"));
    following.until_health("the node to be found behind", is_behind).await;
    lags.store(false, Relaxed);
    let view = following.until(|_| true).await;
    assert_eq!(view.head.grant(site.topic, key(1).address(), Right::Subscribe), Some(until));
    assert_eq!(view.head.digest(), digest(&site).await);
    let refused = following.health.snapshots_refused();
    assert_eq!((refused, logs(&following)), (0, 0), "nothing was read again");
    following.stop().await.unwrap();
}

/// THREATS F04.
#[tokio::test]
async fn a_snapshot_that_was_damaged_costs_a_reading_and_nothing_else() {
    let site = Site::start().await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("mirror.snapshot");
    let until = granted(&site, 1).await;
    site.mine(30).await;
    let mut following = Following::start(keeping(&site, &path));
    following.until(|_| true).await;
    following.stop().await.unwrap();
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    for damaged in [&flipped, &whole[..whole.len() - 7], &[][..]] {
        fs::write(&path, damaged).unwrap();
        let mut following = Following::start(keeping(&site, &path));
        let view = following.until(|_| true).await;
        assert_eq!(view.head.grant(site.topic, key(1).address(), Right::Subscribe), Some(until));
        assert_eq!(following.health.snapshots_refused(), 1);
        assert!(logs(&following) > 0);
        following.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_of_a_block_that_was_replaced_meanwhile_is_not_believed() {
    let site = Site::start().await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("mirror.snapshot");
    site.mine(30).await;
    let wallet = key(1).address();
    granted(&site, 1).await;
    site.mine(6).await;
    let mut following = Following::start(keeping(&site, &path));
    let view = following.until(|_| true).await;
    assert!(view.head.grant(site.topic, wallet, Right::Subscribe).is_some());
    following.stop().await.unwrap();
    site.reorganise(10).await;
    let mut following = Following::start(keeping(&site, &path));
    let view = following.until(|_| true).await;
    assert_eq!(view.head.grant(site.topic, wallet, Right::Subscribe), None);
    assert_eq!(view.head.digest(), digest(&site).await);
    assert_eq!(following.health.snapshots_refused(), 1);
}

#[tokio::test]
async fn a_follower_that_dies_is_started_again_and_its_versions_go_on() {
    let site = Site::start().await;
    let (sender, mut views) = watch::channel::<Option<Arc<View>>>(None);
    let (fatal, has_died) = (site.height().await + 1, AtomicBool::new(false));
    let follower = Follower::new(site.config(vec![site.http()]), move |view| {
        let dies = view.height == fatal && !has_died.swap(true, Relaxed);
        assert!(!dies, "the fault of this test");
        sender.send_replace(Some(view));
    });
    let (health, stop) = (follower.health(), CancellationToken::new());
    assert!(!health.is_running());
    let task = tokio::spawn(follower.run(stop.clone()));
    let first = timeout(PATIENCE, views.wait_for(Option::is_some)).await.unwrap().unwrap().clone();
    assert!(health.is_running());
    let until = granted(&site, 1).await;
    let has_it = |view: &Option<Arc<View>>| {
        view.as_ref().is_some_and(|view| {
            view.head.grant(site.topic, key(1).address(), Right::Subscribe) == Some(until)
        })
    };
    let view = timeout(PATIENCE, views.wait_for(has_it)).await.unwrap().unwrap().clone().unwrap();
    assert!(view.version > first.unwrap().version);
    assert_eq!(health.starts(), 2);
    assert!(health.is_running() && health.alarm().unwrap().contains("restarts"));
    stop.cancel();
    timeout(PATIENCE, task).await.unwrap().unwrap().unwrap();
}
