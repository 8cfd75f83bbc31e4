//! Blocks that are replaced take back what they said.

use std::time::Duration;

use flytrap_chain::wallet::Reason;
use flytrap_policy::{Right, View};

use crate::site::{Door, Following, Site, http, key};

async fn fresh(site: &Site) -> alloy::primitives::B256 {
    let mut fresh = site.follow();
    fresh.until(|_| true).await.head.digest()
}

#[tokio::test]
async fn three_blocks_with_a_grant_and_a_revocation_are_taken_back() {
    let site = Site::start().await;
    for url in [site.http(), site.ws()] {
        let mut following = Following::start(site.config(vec![url]));
        let (first, second) = (key(1).address(), key(2).address());
        let until = site.soon().await;
        let reason = Reason::default();
        let grant = |wallet| site.owner.grant(site.topic, wallet, Right::Subscribe, until, &reason);
        grant(first).await.unwrap();
        let version = following
            .until(|view| view.head.grant(site.topic, first, Right::Subscribe) == Some(until))
            .await
            .version;

        grant(second).await.unwrap();
        site.owner.revoke(site.topic, first, Right::Subscribe, &reason).await.unwrap();
        site.mine(1).await;
        let height = site.height().await;
        let seen = following.until(|view| view.height == height).await;
        assert_eq!(seen.head.grant(site.topic, second, Right::Subscribe), Some(until));
        assert!(seen.head.grant(site.topic, first, Right::Subscribe) < Some(until));

        site.reorganise(3).await;
        let view = following
            .until(|view| view.head.grant(site.topic, second, Right::Subscribe).is_none())
            .await;
        assert_eq!(view.head.grant(site.topic, first, Right::Subscribe), Some(until));
        assert!(view.version > seen.version && seen.version > version);
        assert_eq!(view.head.digest(), fresh(&site).await);
        assert_eq!((following.health.reorgs(), following.health.deepest_reorg()), (1, 3));
        assert_eq!(following.health.resyncs(), 0);

        // For the next round, as it was.
        site.owner.revoke(site.topic, first, Right::Subscribe, &reason).await.unwrap();
    }
}

#[tokio::test]
async fn no_view_in_between_shows_the_old_state_without_the_new_one() {
    // A revocation that is in both branches must never look undone.
    let site = Site::start().await;
    let wallet = key(1).address();
    let until = site.soon().await;
    let reason = Reason::default();
    let mut following = site.follow();
    site.owner.grant(site.topic, wallet, Right::Subscribe, until, &reason).await.unwrap();
    site.owner.revoke(site.topic, wallet, Right::Subscribe, &reason).await.unwrap();
    site.mine(5).await;
    let height = site.height().await;
    following.until(|view| view.height == height).await;
    let open = |view: &View| view.head.grant(site.topic, wallet, Right::Subscribe) == Some(until);
    site.reorganise(4).await;
    site.mine(1).await;
    let mut views = following.views.clone();
    loop {
        views.changed().await.unwrap();
        let view = views.borrow_and_update().clone().unwrap().0;
        assert!(!open(&view));
        if view.height == height + 1 {
            break;
        }
    }
    assert_eq!(following.health.reorgs(), 1);
}

#[tokio::test]
async fn a_reorganisation_deeper_than_the_memory_is_read_again_from_the_deployment() {
    let site = Site::start().await;
    let door = Door::before(site.anvil.port).await;
    let mut config = site.config(vec![http(door.port)]);
    config.history = 4;
    config.poll = Duration::from_millis(20);
    let mut following = Following::start(config);
    let (first, second) = (key(1).address(), key(2).address());
    let until = site.soon().await;
    let reason = Reason::default();
    site.owner.grant(site.topic, first, Right::Subscribe, until, &reason).await.unwrap();
    for _ in 0..8 {
        site.mine(1).await;
        let height = site.height().await;
        following.until(|view| view.height == height).await;
    }
    let seen = following.view();
    assert_eq!(seen.head.grant(site.topic, first, Right::Subscribe), Some(until));
    // As many changes of state as before, and another state: only a new version tells them apart.
    door.shut();
    site.reorganise(9).await;
    for wallet in [second, key(3).address()] {
        site.owner.grant(site.topic, wallet, Right::Subscribe, until, &reason).await.unwrap();
    }
    door.open();
    let view = following
        .until(|view| view.head.grant(site.topic, first, Right::Subscribe).is_none())
        .await;
    assert_eq!(view.head.grant(site.topic, second, Right::Subscribe), Some(until));
    assert!(view.version > seen.version, "{} after {}", view.version, seen.version);
    assert_eq!(view.head.digest(), fresh(&site).await);
    assert_eq!(following.health.resyncs(), 1);
}

#[tokio::test]
async fn blocks_that_were_replaced_long_before_the_node_came_back_are_taken_back() {
    let site = Site::start().await;
    let door = Door::before(site.anvil.port).await;
    let mut config = site.config(vec![http(door.port)]);
    config.history = 8;
    let mut following = Following::start(config);
    let wallet = key(1).address();
    let until = site.soon().await;
    site.mine(12).await;
    let reason = Reason::default();
    site.owner.grant(site.topic, wallet, Right::Subscribe, until, &reason).await.unwrap();
    site.mine(2).await;
    let height = site.height().await;
    following.until(|view| view.height == height).await;
    door.shut();
    site.reorganise(3).await;
    // More than is remembered, so that ranges are read.
    site.mine(60).await;
    door.open();
    let view = following.until(|view| view.height == height + 60).await;
    assert_eq!(view.head.grant(site.topic, wallet, Right::Subscribe), None);
    assert_eq!(view.head.digest(), fresh(&site).await);
    assert_eq!((following.health.reorgs(), following.health.deepest_reorg()), (1, 3));
    assert_eq!(following.health.resyncs(), 0);
}
