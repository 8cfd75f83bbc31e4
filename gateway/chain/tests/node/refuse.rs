//! What no retry can heal ends the follower at once, with a sentence that says what to do.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use alloy::primitives::{Address, U256};
use flytrap_chain::{ChainHealth, FollowError, FollowerConfig, WalletError};
use serde_json::{Value, json};

use crate::lie::liar;
use crate::site::{Anvil, Door, Following, Site, another_market, deploy, http, key};

async fn refusal(config: FollowerConfig) -> FollowError {
    Following::start(config).end().await.unwrap_err()
}

#[tokio::test]
async fn a_node_of_another_chain_is_refused() {
    let site = Site::start().await;
    let other = Anvil::start(&["--chain-id", "1337"]);
    let error = refusal(site.config(vec![http(other.port)])).await;
    assert!(matches!(error, FollowError::WrongChain { found: 1337, wanted: 31337, .. }), "{error}");
    let urls = vec![http(other.port)];
    let error =
        flytrap_chain::Wallet::connect(urls, site.deployment.clone(), key(0)).await.unwrap_err();
    assert!(matches!(error, WalletError::WrongChain { found: 1337, wanted: 31337 }), "{error}");
}

#[tokio::test]
async fn an_address_without_code_is_refused_by_its_name() {
    let site = Site::start().await;
    let nobody = Address::repeat_byte(9);
    let mut config = site.config(vec![site.http()]);
    config.deployment.device_registry = nobody;
    let error = refusal(config).await;
    assert!(
        matches!(error, FollowError::NoCode { contract: "deviceRegistry", address, .. } if address == nobody),
        "{error}"
    );
    assert!(error.to_string().contains("make deploy"), "{error}");
    // The same on a chain that has never seen the contracts.
    let empty = Anvil::start(&[]);
    let error = refusal(site.config(vec![http(empty.port)])).await;
    assert!(matches!(error, FollowError::NoCode { contract: "brokerRegistry", .. }), "{error}");
}

#[tokio::test]
async fn contracts_that_do_not_belong_together_are_refused() {
    let site = Site::start().await;
    let other = deploy(&site.rpc).await;
    let mut config = site.config(vec![site.http()]);
    config.deployment.audit_log = other.audit_log;
    let error = refusal(config).await;
    assert!(
        matches!(error, FollowError::Mixed { contract: "auditLog", found, .. } if found == other.broker_registry),
        "{error}"
    );
    // A market that serves other topics, at another broker registry or at the same.
    for market in [other.access_market, another_market(&site).await] {
        let mut config = site.config(vec![site.http()]);
        config.deployment.access_market = market;
        let error = refusal(config).await;
        assert!(matches!(error, FollowError::Mixed { contract: "accessMarket", .. }), "{error}");
    }
    // One that has no registry at all.
    let mut config = site.config(vec![site.http()]);
    config.deployment.topic_registry = other.device_registry;
    let error = refusal(config).await;
    assert!(
        matches!(error, FollowError::Mixed { contract: "topicRegistry", found: Address::ZERO, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_broker_that_nobody_created_is_refused() {
    let site = Site::start().await;
    let mut config = site.config(vec![site.http()]);
    config.broker_id = site.broker_id + U256::ONE;
    let error = refusal(config).await;
    assert!(matches!(error, FollowError::NoBroker { .. }), "{error}");
}

#[tokio::test]
async fn a_deployment_block_after_the_brokers_creation_is_refused() {
    let site = Site::start().await;
    site.mine(3).await;
    let mut config = site.config(vec![site.http()]);
    config.deployment.block = site.height().await;
    let error = refusal(config).await;
    assert!(matches!(error, FollowError::BlockTooHigh { .. }), "{error}");
}

#[tokio::test]
async fn contracts_that_vanish_later_end_the_trust_and_not_the_follower() {
    let site = Site::start().await;
    let door = Door::before(site.anvil.port).await;
    let mut following = Following::start(site.config(vec![http(door.port)]));
    let view = following.until(|_| true).await;
    let registry = site.deployment.broker_registry;
    let code = site.ask("eth_getCode", json!([registry, "latest"])).await;
    site.ask("anvil_setCode", json!([registry, "0x"])).await;
    // Seen at the next contact.
    door.shut();
    following.until_health("an error", |health| health.errors() > 0).await;
    door.open();
    following.until_health("distrust", |health| health.distrusted().is_some()).await;
    assert_eq!(following.health.age(), std::time::Duration::MAX);
    assert_eq!(following.view().version, view.version);
    site.ask("anvil_setCode", json!([registry, code])).await;
    until_trusted(&following).await;
    // Other code is no better than none.
    site.ask("anvil_setCode", json!([registry, "0x60806040"])).await;
    let before = following.health.errors();
    door.shut();
    following.until_health("another error", |health| health.errors() > before).await;
    door.open();
    following
        .until_health("distrust", |health| {
            health.distrusted().is_some_and(|why| why.contains("has other code"))
        })
        .await;
    site.ask("anvil_setCode", json!([registry, code])).await;
    until_trusted(&following).await;
}

/// A forgotten entry of the list must not shut the door that a good one keeps open.
#[tokio::test]
async fn a_useless_node_of_the_list_costs_no_trust_while_another_may_be_good() {
    let site = Site::start().await;
    let other = Anvil::start(&["--chain-id", "1337"]);
    for quorum in [false, true] {
        let door = Door::before(site.anvil.port).await;
        let urls = vec![http(door.port), http(other.port)];
        let urls = if quorum { [urls, vec![site.http()]].concat() } else { urls };
        let mut following =
            Following::start(FollowerConfig { quorum, history: 4, ..site.config(urls) });
        let view = following.until(|_| true).await;
        door.shut();
        let tried = |health: &ChainHealth| health.nodes()[1].errors() > 0;
        following.until_health("a look at the useless one", tried).await;
        site.mine(1).await;
        assert_eq!(following.health.distrusted(), None, "quorum: {quorum}");
        assert!(following.health.age().as_secs() < 60, "known for as long as it is not too old");
        door.open();
        following.until(|now| now.height > view.height).await;
        assert_eq!(following.health.distrusted(), None);
    }
    // The followed one itself is another matter: what it told may have been as wrong.
    let (turned, door) = (Arc::new(AtomicBool::new(false)), Door::before(site.anvil.port).await);
    let has_turned = turned.clone();
    let turning = move |method: &str, _: &Value, result: &mut Value| {
        if method == "eth_chainId" && has_turned.load(Relaxed) {
            *result = json!("0x539");
        }
    };
    let port = liar(site.anvil.port, Arc::new(turning)).await;
    let mut following = Following::start(site.config(vec![http(port), http(door.port)]));
    following.until(|_| true).await;
    door.shut();
    turned.store(true, Relaxed);
    following.until_health("distrust", |health| health.distrusted().is_some()).await;
    // With nobody left who may be good there is nothing to wait for.
    let door = Door::before(site.anvil.port).await;
    let mut following = Following::start(site.config(vec![http(door.port), http(other.port)]));
    following.until(|_| true).await;
    door.shut();
    site.ask("anvil_setCode", json!([site.deployment.broker_registry, "0x"])).await;
    door.open();
    following.until_health("distrust", |health| health.distrusted().is_some()).await;
}

async fn until_trusted(following: &Following) {
    following.until_health("trust", |health| health.distrusted().is_none()).await;
    following.until_health("a fresh look", |health| health.age().as_secs() < 5).await;
}
