//! Bans and alerts get on chain exactly once, whatever happens on the way.

use std::time::Duration;

use alloy::primitives::U256;
use flytrap_chain::{Alarm, Intent, keys::Key};
use flytrap_policy::Event;
use serde_json::json;

use crate::{
    site::{PATIENCE, until},
    submitting::{
        Submitting, alert, ban, banned, config, entries, follow, gateway, miner, nonce, site,
    },
};

#[tokio::test]
async fn bans_and_alerts_get_on_chain_folded_into_few_transactions() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    let following = follow(&site, 0);
    let (mut submitting, submitter) =
        Submitting::waiting(&following, config(&site, place.path()), gateway()).unwrap();
    let handle = submitting.handle.clone();
    for number in 1..=5 {
        handle.submit(Intent::Bans(vec![ban(number, end)])).await.unwrap();
        handle.submit(Intent::Alerts(vec![alert(1, 2), alert(2, 1)])).await.unwrap();
    }
    submitting.work(submitter);
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1, 2, 3, 4, 5]);
    let alerts: Vec<(u8, u32)> = entries(&site)
        .await
        .iter()
        .filter_map(|entry| match entry.event {
            Event::AlertRaised { wallet, count, .. } => Some((wallet[0], count)),
            _ => None,
        })
        .collect();
    assert_eq!(alerts, [(1, 10), (2, 5)]);
    assert_eq!(nonce(&site, gateway().address()).await, U256::from(2));
    let health = submitting.handle.health();
    assert_eq!((health.sent(), health.confirmed(), health.alarms()), (2, 2, vec![]));
    assert!(health.gas_today() > 50_000);
}

#[tokio::test]
async fn killed_at_any_moment_it_puts_everything_on_chain_exactly_once() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    // Blocks come by themselves, so that a kill may fall before, between and after sending and mining.
    let _miner = miner(&site, Duration::from_millis(45)).await;
    let followers = [follow(&site, 0), follow(&site, 1), follow(&site, 2)];
    let mut wanted = Vec::new();
    for round in 1..=40u8 {
        let mut config = config(&site, place.path());
        config.interval = Duration::from_millis(1);
        let following = &followers[usize::from(round % 3)];
        let (mut submitting, submitter) =
            Submitting::waiting(following, config.clone(), gateway()).unwrap();
        submitting.work(submitter);
        submitting.handle.submit(Intent::Bans(vec![ban(round, end)])).await.unwrap();
        wanted.push(round);
        tokio::time::sleep(Duration::from_micros(u64::from(round) * 2_711 % 60_000)).await;
        submitting.kill().await;
    }
    let last = Submitting::start(&site, config(&site, place.path()), gateway());
    last.drained().await;
    assert_eq!(banned(&site).await, wanted);
    let left: Vec<_> = std::fs::read_dir(place.path().join("intents")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!place.path().join("flight.json").exists());
}

#[tokio::test]
async fn a_transaction_that_no_block_takes_is_replaced_by_a_dearer_one_of_the_same_nonce() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let mut config = config(&site, place.path());
    config.replace_after = Duration::from_millis(200);
    site.ask("evm_setAutomine", json!([false])).await;
    let end = site.soon().await;
    let submitting = Submitting::start(&site, config, gateway());
    submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
    let health = submitting.handle.health();
    until("replacements", || health.replaced() >= 2).await;
    site.mine(1).await;
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1]);
    assert_eq!(nonce(&site, gateway().address()).await, U256::ONE);
    assert_eq!((health.sent(), health.confirmed()), (1, 1));
}

#[tokio::test]
async fn a_replacement_never_costs_more_than_the_limit() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let mut config = config(&site, place.path());
    config.replace_after = Duration::from_millis(100);
    // The first takes up to twice the base fee; a sixteenth above that leaves no room for an eighth.
    let block = site.ask("eth_getBlockByNumber", json!(["latest", false])).await;
    let base = u128::from_str_radix(&block["baseFeePerGas"].as_str().unwrap()[2..], 16).unwrap();
    let limit = base + base / 16;
    config.max_fee_wei = limit;
    site.ask("evm_setAutomine", json!([false])).await;
    let end = site.soon().await;
    let submitting = Submitting::start(&site, config, gateway());
    submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
    let health = submitting.handle.health();
    let stuck = submitting.alarmed(Alarm::FeeAboveLimit).await;
    assert!(stuck.contains("is stuck at"), "{stuck}");
    assert_eq!(health.replaced(), 0);
    site.mine(1).await;
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1]);
    assert_eq!(health.alarms(), []);
    let block = site.ask("eth_getBlockByNumber", json!(["latest", true])).await;
    let paid = block["transactions"][0]["maxFeePerGas"].as_str().unwrap();
    assert_eq!(paid, format!("{limit:#x}"));
}

#[tokio::test]
async fn a_transaction_that_the_node_dropped_is_handed_in_again() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    site.ask("evm_setAutomine", json!([false])).await;
    let end = site.soon().await;
    let submitting = Submitting::start(&site, config(&site, place.path()), gateway());
    submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
    let pending = || async { site.ask("txpool_status", json!([])).await["pending"] != "0x0" };
    while !pending().await {}
    site.ask("anvil_dropAllTransactions", json!([])).await;
    assert!(!pending().await);
    let deadline = std::time::Instant::now() + PATIENCE;
    while !pending().await {
        assert!(std::time::Instant::now() < deadline, "not handed in again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    site.mine(1).await;
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1]);
}

#[tokio::test]
async fn a_transaction_whose_block_is_orphaned_gets_on_chain_again_and_once() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let mut config = config(&site, place.path());
    config.interval = Duration::from_millis(50);
    let end = site.soon().await;
    site.mine(3).await;
    let submitting = Submitting::with(follow(&site, 2), config, gateway());
    submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
    while banned(&site).await.is_empty() {}
    // It has seen its receipt, more than once, and is not content.
    let health = submitting.handle.health();
    let method = "eth_getTransactionReceipt";
    let looks = || health.requests().find(|(known, _)| *known == method).unwrap().1;
    let before = looks();
    until("looks at the receipt", || looks() > before + 3).await;
    assert_eq!((health.confirmed(), health.queued_bans()), (0, 1));
    site.reorganise(1).await;
    assert!(banned(&site).await.is_empty());
    let deadline = std::time::Instant::now() + PATIENCE;
    while banned(&site).await.is_empty() {
        assert!(std::time::Instant::now() < deadline, "not handed in again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(submitting.handle.health().confirmed(), 0);
    site.mine(2).await;
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1]);
}

#[tokio::test]
async fn a_key_that_is_no_gateway_raises_an_alarm_and_loses_nothing() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    site.owner.remove_gateway(site.broker_id, gateway().address()).await.unwrap();
    let end = site.soon().await;
    let submitting = Submitting::start(&site, config(&site, place.path()), gateway());
    submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
    let health = submitting.handle.health();
    let alarm = submitting.alarmed(Alarm::RoleLost).await;
    assert!(
        alarm.contains("NotBrokerOwnerOrGateway") && alarm.contains("flytrap broker set-gateway"),
        "{alarm}"
    );
    let requests = health.requests().map(|(_, count)| count).sum::<u64>();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let more = health.requests().map(|(_, count)| count).sum::<u64>() - requests;
    assert!(more < 20, "{more} requests in a second");
    assert_eq!((health.sent(), health.queued_bans()), (0, 1));
    site.owner.set_gateway(site.broker_id, gateway().address(), "mqtts://gateway").await.unwrap();
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1]);
    assert_eq!(health.alarms(), []);
}

#[tokio::test]
async fn an_empty_wallet_raises_an_alarm_and_the_queue_drains_after_a_top_up() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let poor = Key::random();
    site.owner.set_gateway(site.broker_id, poor.address(), "mqtts://gateway").await.unwrap();
    let end = site.soon().await;
    let submitting = Submitting::start(&site, config(&site, place.path()), poor.clone());
    submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
    let health = submitting.handle.health();
    let alarm = submitting.alarmed(Alarm::WalletEmpty).await;
    assert!(alarm.contains("send ether to it"), "{alarm}");
    assert_eq!(nonce(&site, poor.address()).await, U256::ZERO);
    site.owner.transfer(poor.address(), U256::from(10u64.pow(18))).await.unwrap();
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1]);
    assert_eq!(health.alarms(), []);
}

#[tokio::test]
async fn the_budget_and_the_highest_fee_hold() {
    let site = site().await;
    let end = site.soon().await;
    let ether = U256::from(10u64.pow(18));
    let gwei = 1_000_000_000;
    for (budget, wei, fee, alarm, wanted) in [
        (40_000, ether, 100 * gwei, Alarm::BudgetSpent, "`max_gas_per_day` is 40000"),
        (20_000_000, U256::from(50_000), 100 * gwei, Alarm::BudgetSpent, "`max_gwei_per_day`"),
        (20_000_000, ether, 1, Alarm::FeeAboveLimit, "the limit is 1 wei"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let mut config = config(&site, place.path());
        (config.max_gas_per_day, config.max_wei_per_day) = (budget, wei);
        config.max_fee_wei = fee;
        let submitting = Submitting::start(&site, config, gateway());
        submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
        let health = submitting.handle.health();
        let told = submitting.alarmed(alarm).await;
        assert!(told.contains(wanted), "{told}");
        assert_eq!((health.sent(), health.queued_bans()), (0, 1));
        submitting.kill().await;
    }
    assert_eq!(nonce(&site, gateway().address()).await, U256::ZERO);
}

#[tokio::test]
async fn a_ban_that_the_contract_refuses_does_not_hold_up_the_others() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    let following = follow(&site, 0);
    let (mut submitting, submitter) =
        Submitting::waiting(&following, config(&site, place.path()), gateway()).unwrap();
    let handle = submitting.handle.clone();
    for ban in [ban(1, end), ban(2, u64::MAX), ban(3, end)] {
        handle.submit(Intent::Bans(vec![ban])).await.unwrap();
    }
    submitting.work(submitter);
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1, 3]);
    assert_eq!(submitting.handle.health().refused(), 1);
    let told = submitting.alarmed(Alarm::SetAside).await;
    assert!(told.contains("refused/"), "{told}");
    assert_eq!(std::fs::read_dir(place.path().join("refused")).unwrap().count(), 1);
}
