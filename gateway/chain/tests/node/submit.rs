//! Bans and alerts get on chain exactly once, whatever happens on the way.

use std::{path::Path, time::Duration};

use alloy::primitives::{Address, B256, U256};
use flytrap_chain::{
    AlertRecord, Ban, BanSubject, Intent, Submitter, SubmitterConfig, SubmitterError,
    SubmitterHandle,
    history::{Query, history},
    keys::Key,
};
use flytrap_policy::{AlertKind, Event};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::site::{PATIENCE, Site, key, until};

/// The gateway's key.
fn gateway() -> Key {
    key(3)
}

async fn site() -> Site {
    let site = Site::start().await;
    site.owner.set_gateway(site.broker_id, gateway().address(), "mqtts://gateway").await.unwrap();
    site
}

fn config(site: &Site, directory: &Path) -> SubmitterConfig {
    let mut config = SubmitterConfig::new(
        vec![site.http()],
        site.deployment.clone(),
        site.broker_id,
        directory.into(),
    );
    config.interval = Duration::from_millis(50);
    config
}

struct Submitting {
    handle: SubmitterHandle,
    task: JoinHandle<()>,
}

impl Submitting {
    fn start(config: SubmitterConfig, key: Key) -> Self {
        let (submitter, handle) = Submitter::open(config, key).unwrap();
        Self { handle, task: tokio::spawn(submitter.run(CancellationToken::new())) }
    }

    /// As `kill -9`: whatever it was about to do, it does not.
    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    async fn drained(&self) {
        let health = self.handle.health();
        let deadline = std::time::Instant::now() + PATIENCE;
        while health.queued_bans() + health.queued_alerts() > 0 {
            assert!(std::time::Instant::now() < deadline, "queue kept: {:?}", health.alarm());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn ban(number: u8, until: u64) -> Ban {
    Ban {
        subject: BanSubject::Origin(B256::repeat_byte(number)),
        until,
        evidence: B256::repeat_byte(7),
        reason: "too many failures".into(),
    }
}

fn alert(number: u8, count: u32) -> AlertRecord {
    AlertRecord {
        kind: AlertKind::SubscribeRefused,
        wallet: Address::repeat_byte(number),
        topic_id: B256::ZERO,
        count,
        first_at: 1_700_000_000,
        last_at: 1_700_000_001,
        evidence: B256::ZERO,
    }
}

/// Pseudonyms that were banned on chain, as often as they were.
async fn banned(site: &Site) -> Vec<u8> {
    let query = Query { broker_id: site.broker_id, ..Query::default() };
    let entries = history(&site.rpc, &site.deployment, &query).await.unwrap();
    let mut found: Vec<u8> = entries
        .iter()
        .filter_map(|entry| match entry.event {
            Event::OriginBanned { origin, .. } => Some(origin[0]),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found
}

async fn nonce(site: &Site, wallet: Address) -> U256 {
    site.rpc.call("eth_getTransactionCount", json!([wallet, "latest"])).await.unwrap()
}

#[tokio::test]
async fn bans_and_alerts_get_on_chain_folded_into_few_transactions() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    let (submitter, handle) = Submitter::open(config(&site, place.path()), gateway()).unwrap();
    for number in 1..=5 {
        handle.submit(Intent::Bans(vec![ban(number, end)])).await.unwrap();
        handle.submit(Intent::Alerts(vec![alert(1, 2), alert(2, 1)])).await.unwrap();
    }
    let task = tokio::spawn(submitter.run(CancellationToken::new()));
    let submitting = Submitting { handle, task };
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1, 2, 3, 4, 5]);
    let query = Query { broker_id: site.broker_id, ..Query::default() };
    let entries = history(&site.rpc, &site.deployment, &query).await.unwrap();
    let alerts: Vec<(u8, u32)> = entries
        .iter()
        .filter_map(|entry| match entry.event {
            Event::AlertRaised { wallet, count, .. } => Some((wallet[0], count)),
            _ => None,
        })
        .collect();
    assert_eq!(alerts, [(1, 10), (2, 5)]);
    assert_eq!(nonce(&site, gateway().address()).await, U256::from(2));
    let health = submitting.handle.health();
    assert_eq!((health.sent(), health.confirmed(), health.alarm()), (2, 2, None));
    assert!(health.gas_today() > 50_000);
}

#[tokio::test]
async fn killed_at_any_moment_it_puts_everything_on_chain_exactly_once() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    // Blocks come by themselves, so that a kill may fall before, between and after sending and mining.
    site.ask("evm_setAutomine", json!([false])).await;
    let miner = {
        let rpc = flytrap_chain::Rpc::new(vec![site.http()]);
        tokio::spawn(async move {
            loop {
                let mined = rpc.call::<serde_json::Value>("anvil_mine", json!(["0x1"])).await;
                assert!(mined.is_ok(), "{mined:?}");
                tokio::time::sleep(Duration::from_millis(45)).await;
            }
        })
    };
    let mut wanted = Vec::new();
    for round in 1..=40u8 {
        let mut config = config(&site, place.path());
        config.interval = Duration::from_millis(1);
        config.confirmations = u64::from(round % 3);
        let submitting = loop {
            // What the killed one was writing in the background may still hold the directory.
            match Submitter::open(config.clone(), gateway()) {
                Ok((submitter, handle)) => {
                    let task = tokio::spawn(submitter.run(CancellationToken::new()));
                    break Submitting { handle, task };
                }
                Err(SubmitterError::Locked { .. }) => {
                    tokio::time::sleep(Duration::from_millis(1)).await
                }
                Err(other) => panic!("{other}"),
            }
        };
        submitting.handle.submit(Intent::Bans(vec![ban(round, end)])).await.unwrap();
        wanted.push(round);
        tokio::time::sleep(Duration::from_micros(u64::from(round) * 2_711 % 60_000)).await;
        submitting.kill().await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let last = Submitting::start(config(&site, place.path()), gateway());
    last.drained().await;
    miner.abort();
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
    let submitting = Submitting::start(config, gateway());
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
    let submitting = Submitting::start(config, gateway());
    submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
    let health = submitting.handle.health();
    until("an alarm", || health.alarm().is_some_and(|alarm| alarm.contains("is stuck at"))).await;
    assert_eq!(health.replaced(), 0);
    site.mine(1).await;
    submitting.drained().await;
    assert_eq!((banned(&site).await, health.alarm()), (vec![1], None));
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
    let submitting = Submitting::start(config(&site, place.path()), gateway());
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
    config.confirmations = 2;
    let end = site.soon().await;
    site.mine(3).await;
    let submitting = Submitting::start(config, gateway());
    submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
    while banned(&site).await.is_empty() {}
    // It has seen its receipt, more than once, and is not content.
    let health = submitting.handle.health();
    let looks = || health.requests().find(|(method, _)| *method == "eth_blockNumber").unwrap().1;
    let before = looks();
    until("looks at the head", || looks() > before + 2).await;
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
    let submitting = Submitting::start(config(&site, place.path()), gateway());
    submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
    let health = submitting.handle.health();
    until("an alarm", || health.alarm().is_some()).await;
    let alarm = health.alarm().unwrap();
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
    assert_eq!((banned(&site).await, health.alarm()), (vec![1], None));
}

#[tokio::test]
async fn an_empty_wallet_raises_an_alarm_and_the_queue_drains_after_a_top_up() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let poor = Key::random();
    site.owner.set_gateway(site.broker_id, poor.address(), "mqtts://gateway").await.unwrap();
    let end = site.soon().await;
    let submitting = Submitting::start(config(&site, place.path()), poor.clone());
    submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
    let health = submitting.handle.health();
    until("an alarm", || health.alarm().is_some_and(|alarm| alarm.contains("send ether to it")))
        .await;
    assert_eq!(nonce(&site, poor.address()).await, U256::ZERO);
    site.owner.transfer(poor.address(), U256::from(10u64.pow(18))).await.unwrap();
    submitting.drained().await;
    assert_eq!((banned(&site).await, health.alarm()), (vec![1], None));
}

#[tokio::test]
async fn the_budget_and_the_highest_fee_hold() {
    let site = site().await;
    let end = site.soon().await;
    for (budget, fee, wanted) in [
        (40_000, 100_000_000_000, "`max_gas_per_day` is 40000"),
        (20_000_000, 1, "the limit is 1 wei"),
    ] {
        let place = tempfile::tempdir().unwrap();
        let mut config = config(&site, place.path());
        (config.max_gas_per_day, config.max_fee_wei) = (budget, fee);
        let submitting = Submitting::start(config, gateway());
        submitting.handle.submit(Intent::Bans(vec![ban(1, end)])).await.unwrap();
        let health = submitting.handle.health();
        until("an alarm", || health.alarm().is_some_and(|alarm| alarm.contains(wanted))).await;
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
    let (submitter, handle) = Submitter::open(config(&site, place.path()), gateway()).unwrap();
    for ban in [ban(1, end), ban(2, u64::MAX), ban(3, end)] {
        handle.submit(Intent::Bans(vec![ban])).await.unwrap();
    }
    let task = tokio::spawn(submitter.run(CancellationToken::new()));
    let submitting = Submitting { handle, task };
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1, 3]);
    assert_eq!(submitting.handle.health().refused(), 1);
    assert_eq!(std::fs::read_dir(place.path().join("refused")).unwrap().count(), 1);
}
