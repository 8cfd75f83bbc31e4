//! What keeps transactions from getting on chain, one condition each: what is told, and that everything drains afterwards, once.

use std::{fs, time::Duration};

use alloy::{
    primitives::{B256, Bytes, U256},
    sol_types::SolCall,
};
use flytrap_chain::{Alarm, Intent, SubmitError, bindings::IBrokerRegistry, keys::Key};
use serde_json::json;

use crate::{
    site::{Door, Site, http, until},
    submitting::{
        Submitting, alert, ban, banned, config, detail, entries, follow, gateway, miner, nonce,
        site, until_banned,
    },
};

const GWEI: u128 = 1_000_000_000;

async fn base_fee(site: &Site, wei: u128) {
    site.ask("anvil_setNextBlockBaseFeePerGas", json!([format!("{wei:#x}")])).await;
}

#[tokio::test]
async fn while_gas_costs_a_thousand_times_as_much_things_wait_and_drain_afterwards() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let mut config = config(&site, place.path());
    config.max_fee_wei = 50 * GWEI;
    base_fee(&site, 1_000 * GWEI).await;
    site.mine(1).await;
    let end = site.soon().await;
    let submitting = Submitting::start(&site, config, gateway());
    for number in 1..=3 {
        submitting.ban(number, end).await;
    }
    let told = submitting.alarmed(Alarm::FeeAboveLimit).await;
    assert!(told.contains("the limit is 50000000000 wei"), "{told}");
    assert_eq!(nonce(&site, gateway().address()).await, U256::ZERO);
    base_fee(&site, GWEI).await;
    site.mine(1).await;
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1, 2, 3]);
    assert_eq!(submitting.handle.health().alarms(), []);
    assert_eq!(nonce(&site, gateway().address()).await, U256::ONE);
}

#[tokio::test]
async fn a_spike_while_a_transaction_is_under_way_is_followed_up_to_the_limit_and_then_waited_out()
{
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let mut config = config(&site, place.path());
    (config.max_fee_wei, config.replace_after) = (50 * GWEI, Duration::from_millis(100));
    site.ask("evm_setAutomine", json!([false])).await;
    let end = site.soon().await;
    let submitting = Submitting::start(&site, config, gateway());
    submitting.ban(1, end).await;
    site.until_pending().await;
    base_fee(&site, 1_000 * GWEI).await;
    site.mine(1).await;
    submitting.alarmed(Alarm::FeeAboveLimit).await;
    let health = submitting.handle.health();
    assert!(health.replaced() >= 1);
    // Longer than nodes take to forget what they do not want: it is offered again and again.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(nonce(&site, gateway().address()).await, U256::ZERO, "too dear for a block");
    base_fee(&site, GWEI).await;
    let miner = miner(&site, Duration::from_millis(100)).await;
    submitting.drained().await;
    drop(miner);
    let (mut paid, mut height) = (Vec::new(), site.height().await);
    while paid.is_empty() {
        let block = site.ask("eth_getBlockByNumber", json!([format!("{height:#x}"), true])).await;
        paid = block["transactions"].as_array().unwrap().clone();
        height -= 1;
    }
    let paid = paid[0]["maxFeePerGas"].as_str().unwrap();
    let paid = u128::from_str_radix(&paid[2..], 16).unwrap();
    assert!(paid <= 50 * GWEI, "{paid} wei per gas");
    until("the landing", || health.confirmed() == 1).await;
    assert_eq!((banned(&site).await, health.alarms()), (vec![1], vec![]));
}

#[tokio::test]
async fn a_confirmed_transaction_that_a_deep_reorganisation_orphans_is_sent_again_and_told() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    site.mine(5).await;
    let submitting = Submitting::start(&site, config(&site, place.path()), gateway());
    for number in 1..=3 {
        submitting.ban(number, end).await;
        submitting.drained().await;
    }
    let health = submitting.handle.health();
    until("three landings", || health.confirmed() == 3).await;
    site.reorganise(2).await;
    until_banned(&site, &[1, 2, 3]).await;
    until("the alarm", || health.raised(Alarm::Orphaned) == 1).await;
    assert!(health.orphaned() >= 2);
    // Nothing new was made of it, and what comes next finds its nonce.
    submitting.ban(4, end).await;
    submitting.drained().await;
    until_banned(&site, &[1, 2, 3, 4]).await;
    assert_eq!(nonce(&site, gateway().address()).await, U256::from(4));
    until("the fourth landing", || health.confirmed() == 4).await;
    assert_eq!(health.sent(), 4);
    assert_eq!(detail(&health, Alarm::Orphaned), None);
}

#[tokio::test]
async fn a_restart_remembers_what_was_confirmed_should_it_be_orphaned() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    site.mine(5).await;
    let first = Submitting::start(&site, config(&site, place.path()), gateway());
    first.ban(1, end).await;
    first.drained().await;
    until("the landing", || first.handle.health().confirmed() == 1).await;
    first.kill().await;
    site.reorganise(1).await;
    assert!(banned(&site).await.is_empty());
    let second = Submitting::start(&site, config(&site, place.path()), gateway());
    until_banned(&site, &[1]).await;
    assert_eq!(second.handle.health().sent(), 0, "the same octets");
}

#[tokio::test]
async fn a_gateway_that_was_away_for_long_looks_whether_what_it_had_confirmed_is_still_there() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    site.mine(5).await;
    let first = Submitting::start(&site, config(&site, place.path()), gateway());
    first.ban(1, end).await;
    first.drained().await;
    first.kill().await;
    site.reorganise(1).await;
    // More blocks than a follower remembers: what it sees of the place is that it is deep.
    site.mine(300).await;
    let second = Submitting::start(&site, config(&site, place.path()), gateway());
    until_banned(&site, &[1]).await;
    second.ban(2, end).await;
    second.drained().await;
    until_banned(&site, &[1, 2]).await;
    assert_eq!(second.handle.health().sent(), 1, "the first were the same octets");
}

#[tokio::test]
async fn a_wallet_that_is_emptied_under_way_is_told_and_the_transaction_goes_on_after_a_top_up() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    site.ask("evm_setAutomine", json!([false])).await;
    let end = site.soon().await;
    let submitting = Submitting::start(&site, config(&site, place.path()), gateway());
    submitting.ban(1, end).await;
    site.until_pending().await;
    let balance = async |wei: &str| {
        site.ask("anvil_setBalance", json!([gateway().address(), wei])).await;
    };
    balance("0x0").await;
    site.ask("anvil_dropAllTransactions", json!([])).await;
    let told = submitting.alarmed(Alarm::WalletEmpty).await;
    assert!(told.contains("send ether to it"), "{told}");
    balance("0xde0b6b3a7640000").await;
    site.until_pending().await;
    site.mine(1).await;
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1]);
    let health = submitting.handle.health();
    assert_eq!((health.sent(), health.confirmed(), health.alarms()), (1, 1, vec![]));
}

#[tokio::test]
async fn a_wallet_that_pays_for_few_transactions_more_is_told_before_it_is_empty() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    // A ban takes some hundred thousand gas with its margin, at most three gwei each.
    site.ask("anvil_setBalance", json!([gateway().address(), "0x38d7ea4c68000"])).await;
    let submitting = Submitting::start(&site, config(&site, place.path()), gateway());
    submitting.ban(1, end).await;
    submitting.drained().await;
    let health = submitting.handle.health();
    assert!(detail(&health, Alarm::WalletLow).is_some(), "{:?}", health.alarms());
    assert_eq!(health.balance_gwei(), 1_000_000);
    site.ask("anvil_setBalance", json!([gateway().address(), "0xde0b6b3a7640000"])).await;
    submitting.ban(2, end).await;
    submitting.drained().await;
    assert_eq!(health.alarms(), []);
}

#[tokio::test]
async fn a_role_that_is_lost_under_way_costs_one_transaction_and_an_alarm_and_no_more() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    site.ask("evm_setAutomine", json!([false])).await;
    let end = site.soon().await;
    let submitting = Submitting::start(&site, config(&site, place.path()), gateway());
    submitting.ban(1, end).await;
    site.until_pending().await;
    // Dearer, so that it comes first in the same block.
    let remove = IBrokerRegistry::removeGatewayCall {
        brokerId: site.broker_id,
        gateway: gateway().address(),
    };
    let call = json!([{
        "from": site.owner.address(), "to": site.deployment.broker_registry,
        "data": Bytes::from(remove.abi_encode()), "gas": "0x100000",
        "maxFeePerGas": "0x174876e800", "maxPriorityFeePerGas": "0xba43b7400",
    }]);
    site.ask("eth_sendTransaction", call).await;
    site.mine(1).await;
    let told = submitting.alarmed(Alarm::RoleLost).await;
    assert!(told.contains("flytrap broker set-gateway"), "{told}");
    let health = submitting.handle.health();
    assert_eq!(health.raised(Alarm::TransactionFailed), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(nonce(&site, gateway().address()).await, U256::ONE, "no gas for what must fail");
    assert_eq!((health.sent(), health.queued_bans()), (1, 1));
    site.ask("evm_setAutomine", json!([true])).await;
    site.owner.set_gateway(site.broker_id, gateway().address(), "mqtts://gateway").await.unwrap();
    submitting.drained().await;
    assert_eq!((banned(&site).await, health.alarms()), (vec![1], vec![]));
}

/// They yield to each other instead of outbidding: everything gets on chain once, at the price of the first offer.
#[tokio::test]
async fn two_processes_with_one_key_get_everything_on_chain_once_without_a_war_and_tell() {
    let site = site().await;
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let end = site.soon().await;
    let _miner = miner(&site, Duration::from_millis(150)).await;
    let both: Vec<Submitting> = places
        .iter()
        .map(|place| {
            let mut config = config(&site, place.path());
            // Were they to outbid each other, they would do it often.
            config.replace_after = Duration::from_secs(2);
            Submitting::start(&site, config, gateway())
        })
        .collect();
    let mut rounds = 0;
    while both.iter().all(|one| one.handle.health().raised(Alarm::KeyUsedElsewhere) == 0)
        || rounds < 5
    {
        assert!(rounds < 100, "neither noticed the other");
        rounds += 1;
        for (at, one) in (0..).zip(&both) {
            one.ban(rounds * 2 + at, end).await;
        }
        for one in &both {
            one.drained().await;
        }
    }
    let wanted: Vec<u8> = (2..rounds * 2 + 2).collect();
    until_banned(&site, &wanted).await;
    let replaced: u64 = both.iter().map(|one| one.handle.health().replaced()).sum();
    assert_eq!(replaced, 0, "they outbid each other");
    assert!(nonce(&site, gateway().address()).await <= U256::from(wanted.len()));
}

/// A transaction of the same key, made by hand, waits for a block.
#[tokio::test]
async fn a_foreign_transaction_with_the_same_nonce_is_neither_outbid_nor_waited_for_without_a_word()
{
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    site.ask("evm_setAutomine", json!([false])).await;
    let mut config = config(&site, place.path());
    config.replace_after = Duration::from_millis(100);
    let submitting = Submitting::start(&site, config, gateway());
    let foreign = json!([{"from": gateway().address(), "to": gateway().address(), "value": "0x0"}]);
    site.ask("eth_sendTransaction", foreign).await;
    submitting.ban(1, end).await;
    let told = submitting.alarmed(Alarm::KeyUsedElsewhere).await;
    assert!(told.contains("a key of its own"), "{told}");
    let health = submitting.handle.health();
    assert_eq!((health.sent(), health.replaced()), (0, 0));
    site.ask("evm_setAutomine", json!([true])).await;
    site.mine(1).await;
    submitting.drained().await;
    assert_eq!((banned(&site).await, health.alarms()), (vec![1], vec![]));
    assert_eq!(nonce(&site, gateway().address()).await, U256::from(2));
}

#[tokio::test]
async fn of_two_gateways_with_two_keys_the_second_does_not_ban_again_nor_shorten() {
    let site = site().await;
    let places = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let other = Key::random();
    site.owner.set_gateway(site.broker_id, other.address(), "mqtts://other").await.unwrap();
    site.owner.transfer(other.address(), U256::from(10u64.pow(18))).await.unwrap();
    let end = site.soon().await;
    let first = Submitting::start(&site, config(&site, places[0].path()), gateway());
    first.ban(1, end).await;
    first.drained().await;
    let mut following = follow(&site, 0);
    following.until(|view| view.origin_banned(B256::repeat_byte(1), end - 1)).await;
    let second = Submitting::with(following, config(&site, places[1].path()), other.clone());
    second.ban(1, end).await;
    // A little longer and a little shorter are the same ban, seen by another clock.
    second.ban(1, end + 60).await;
    second.ban(1, end - 7_200).await;
    second.drained().await;
    assert_eq!((banned(&site).await, nonce(&site, other.address()).await), (vec![1], U256::ZERO));
    assert_eq!(second.handle.health().superseded(), 3);
    // A much longer one is another.
    second.ban(1, end + 86_400).await;
    second.drained().await;
    assert_eq!(banned(&site).await, [1, 1]);
}

#[tokio::test]
async fn a_ban_of_the_owners_is_not_fought_over() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    let mut owners = ban(1, end - 80_000);
    owners.reason = "by hand".into();
    site.owner.ban(site.broker_id, &[owners]).await.unwrap();
    let submitting = Submitting::start(&site, config(&site, place.path()), gateway());
    submitting.ban(1, end).await;
    submitting.ban(2, end).await;
    submitting.drained().await;
    assert_eq!(banned(&site).await, [1, 2]);
    let health = submitting.handle.health();
    assert_eq!((health.superseded(), health.refused(), health.alarms()), (1, 0, vec![]));
}

#[tokio::test]
async fn restarts_do_not_make_transactions_more_frequent() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    let mut config = config(&site, place.path());
    config.interval = Duration::from_secs(3);
    let started = std::time::Instant::now();
    for number in 1..=6 {
        let submitting = Submitting::start(&site, config.clone(), gateway());
        submitting.ban(number, end).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        submitting.kill().await;
    }
    let last = Submitting::start(&site, config, gateway());
    last.drained().await;
    assert_eq!(banned(&site).await, [1, 2, 3, 4, 5, 6]);
    let most = started.elapsed().as_secs() / 3 + 1;
    assert!(nonce(&site, gateway().address()).await <= U256::from(most), "one in three seconds");
}

/// Every place at which a minute-long outage of the node may begin is the same to the submitter: nothing answers.
#[tokio::test]
async fn while_no_node_answers_everything_waits_folded_and_is_told_and_drains_when_one_does() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    let door = Door::before(site.anvil.port).await;
    let mut config = config(&site, place.path());
    config.urls = vec![http(door.port)];
    config.max_alerts = 256;
    let submitting = Submitting::start(&site, config, gateway());
    door.shut();
    submitting.ban(1, end).await;
    for _ in 0..240 {
        // More than may wait, if equal ones did not become one.
        let alerts = (1..=8).map(|number| alert(number, 2)).collect();
        submitting.handle.submit(Intent::Alerts(alerts)).await.unwrap();
    }
    let told = submitting.alarmed(Alarm::NodeAway).await;
    assert!(told.contains("is it up"), "{told}");
    let health = submitting.handle.health();
    assert!(health.queued_alerts() <= 256 && health.queued_bans() == 1);
    door.open();
    submitting.drained().await;
    let counts: Vec<(u8, u32)> = entries(&site)
        .await
        .iter()
        .filter_map(|entry| match entry.event {
            flytrap_policy::Event::AlertRaised { wallet, count, .. } => Some((wallet[0], count)),
            _ => None,
        })
        .collect();
    for number in 1..=8 {
        let sum: u32 = counts.iter().filter(|(of, _)| *of == number).map(|(_, n)| n).sum();
        assert_eq!(sum, 480, "wallet {number}");
    }
    assert_eq!((banned(&site).await, health.dropped()), (vec![1], 0));
    assert_eq!(health.alarms(), []);
}

#[tokio::test]
async fn a_node_of_another_chain_gets_no_transaction() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    let mut config = config(&site, place.path());
    config.deployment.chain_id = 1;
    let submitting = Submitting::start(&site, config, gateway());
    submitting.ban(1, end).await;
    let told = submitting.alarmed(Alarm::WrongChain).await;
    assert!(told.contains("chain 31337") && told.contains("chain 1:"), "{told}");
    assert_eq!(submitting.handle.health().sent(), 0);
}

#[tokio::test]
async fn what_cannot_be_kept_is_refused_and_told() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    let mut config = config(&site, place.path());
    config.max_bans = 1;
    let following = follow(&site, 0);
    let (waiting, _submitter) = Submitting::waiting(&following, config, gateway()).unwrap();
    waiting.ban(1, end).await;
    let full = waiting.handle.submit(Intent::Bans(vec![ban(2, end)])).await;
    assert!(matches!(full, Err(SubmitError::Full { waiting: 1, most: 1 })), "{full:?}");
    waiting.alarmed(Alarm::QueueFull).await;
    // In place of the directory a file: as a disk that takes nothing more.
    fs::rename(place.path().join("intents"), place.path().join("elsewhere")).unwrap();
    fs::write(place.path().join("intents"), "").unwrap();
    let lost = waiting.handle.submit(Intent::Alerts(vec![alert(1, 1)])).await;
    assert!(matches!(lost, Err(SubmitError::Disk(_))), "{lost:?}");
    waiting.alarmed(Alarm::Disk).await;
}

#[tokio::test]
async fn damaged_files_are_told_and_what_is_whole_gets_on_chain() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    let first = Submitting::start(&site, config(&site, place.path()), gateway());
    first.ban(1, end).await;
    first.drained().await;
    until("the landing", || first.handle.health().confirmed() == 1).await;
    first.kill().await;
    for name in ["landed.json", "spent.json"] {
        let path = place.path().join(name);
        let mut octets = fs::read(&path).unwrap();
        let middle = octets.len() / 2;
        octets[middle] = b'?';
        fs::write(&path, octets).unwrap();
    }
    fs::write(place.path().join("intents/00000000000000000007.json"), "{").unwrap();
    let second = Submitting::start(&site, config(&site, place.path()), gateway());
    let told = second.alarmed(Alarm::Damaged).await;
    for name in ["landed.json", "spent.json", "00000000000000000007.json"] {
        assert!(told.contains(name), "{told}");
        assert!(place.path().join("refused").join(name).exists(), "{name}");
    }
    second.ban(2, end).await;
    second.drained().await;
    assert_eq!(banned(&site).await, [1, 2]);
    let health = second.handle.health();
    assert!(detail(&health, Alarm::Damaged).is_some(), "until someone has seen to it");
    assert_eq!(health.refused(), 3);
}

/// A node's word alone confirms nothing.
#[tokio::test]
async fn a_receipt_of_a_block_that_the_follower_has_not_got_confirms_nothing() {
    let site = site().await;
    let place = tempfile::tempdir().unwrap();
    let end = site.soon().await;
    let door = Door::before(site.anvil.port).await;
    let mut of_follower = site.config(vec![http(door.port)]);
    of_follower.poll = Duration::from_millis(20);
    let mut following = crate::site::Following::start(of_follower);
    following.until(|_| true).await;
    door.shut();
    let submitting = Submitting::with(following, config(&site, place.path()), gateway());
    submitting.ban(1, end).await;
    until_banned(&site, &[1]).await;
    let health = submitting.handle.health();
    let receipts = || {
        let known = |(method, _): &(&str, u64)| *method == "eth_getTransactionReceipt";
        health.requests().find(known).unwrap().1
    };
    let before = receipts();
    until("looks at the receipt", || receipts() > before + 3).await;
    assert_eq!((health.confirmed(), health.queued_bans()), (0, 1));
    door.open();
    submitting.drained().await;
    assert_eq!((health.confirmed(), banned(&site).await), (1, vec![1]));
}
