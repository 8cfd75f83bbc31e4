//! Wallet calls: what they cost, what they say when they are refused.

use alloy::primitives::{B256, U256};
use flytrap_chain::{
    Deployment, TransactError, Wallet, WalletError,
    keys::Key,
    wallet::{
        Reason, Wanted, authorize_devices_digest, consent_digest, device_consent, hidden_topic_id,
        name_commitment, revoke_all_devices_digest, topic_id,
    },
};
use flytrap_policy::{
    Country, CountryMode, CountryRule, Event, NamingPolicy, Offer, OfferMode, Right, Traits,
};
use serde_json::json;

use crate::site::{Anvil, Site, forge, http, key};

const HOUR: u32 = 3600;

fn priced(price_wei: u128) -> Offer {
    Offer { mode: OfferMode::Priced, period: HOUR, price_wei }
}

fn sentence(error: WalletError) -> String {
    assert!(matches!(error, WalletError::Transact(TransactError::Reverted { .. })), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_purchase_costs_its_quote_to_the_wei_and_lasts_as_long_as_was_paid() {
    let site = Site::start().await;
    site.owner.set_offer(site.topic, Right::Subscribe, priced(1_001)).await.unwrap();
    let buyer = site.wallet(1).await;
    let quote = buyer.quote(site.topic, Right::Subscribe, 3).await.unwrap();
    assert_eq!((quote.price_wei, quote.publish_fee_wei), (U256::from(3_003), U256::ZERO));
    assert_eq!((quote.period, quote.epoch), (HOUR, 1));

    let (before, income) = (
        buyer.balance(buyer.address()).await.unwrap(),
        buyer.balance(site.owner.address()).await.unwrap(),
    );
    let limit = Some(quote.cost_wei());
    let reason = Reason { note: "order 7".into(), ..Reason::default() };
    let (until, done) =
        buyer.buy(site.topic, Right::Subscribe, buyer.address(), 3, limit, &reason).await.unwrap();
    let after = buyer.balance(buyer.address()).await.unwrap();
    assert_eq!(before - after, U256::from(3_003) + done.fee_wei);
    assert_eq!(buyer.balance(site.owner.address()).await.unwrap(), income + U256::from(3_003));
    assert_eq!(until, buyer.block_time().await.unwrap() + u64::from(3 * HOUR));
    assert_eq!(
        buyer.granted_until(site.topic, buyer.address(), Right::Subscribe).await.unwrap(),
        until
    );
    assert!(buyer.may_access(site.topic, buyer.address(), Right::Subscribe).await.unwrap());

    let limit = Some(quote.cost_wei() - U256::ONE);
    let error = buyer
        .buy(site.topic, Right::Subscribe, buyer.address(), 3, limit, &reason)
        .await
        .unwrap_err();
    assert!(matches!(error, WalletError::AboveLimit { periods: 3, .. }), "{error}");
}

#[tokio::test]
async fn a_paid_grant_is_ended_with_its_refund_and_a_publish_grant_pays_the_fee() {
    let site = Site::start().await;
    site.owner.set_publish_fee(site.broker_id, 86_400).await.unwrap();
    site.owner.set_offer(site.topic, Right::Subscribe, priced(3_600_000)).await.unwrap();
    let buyer = site.wallet(1).await;
    let reason = Reason::default();
    buyer.buy(site.topic, Right::Subscribe, buyer.address(), 2, None, &reason).await.unwrap();
    let before = buyer.balance(buyer.address()).await.unwrap();
    site.owner.revoke(site.topic, buyer.address(), Right::Subscribe, &reason).await.unwrap();
    let refund = buyer.balance(buyer.address()).await.unwrap() - before;
    assert!(refund > U256::from(7_100_000) && refund <= U256::from(7_200_000), "{refund}");

    // The fee rises a day after it is announced.
    let until = site.soon().await + 30 * 86_400;
    site.ask("evm_increaseTime", json!([90_000])).await;
    site.mine(1).await;
    let fee =
        site.owner.grant_fee(site.topic, buyer.address(), Right::Publish, until).await.unwrap();
    assert!(fee > U256::from(29 * 86_400), "{fee}");
    site.owner.grant(site.topic, buyer.address(), Right::Publish, until, &reason).await.unwrap();
    assert!(buyer.may_access(site.topic, buyer.address(), Right::Publish).await.unwrap());
}

/// What is left over then has to be paid back, for which nothing was estimated.
#[tokio::test]
async fn a_grant_gets_through_whose_fee_falls_before_its_block() {
    let site = Site::start().await;
    site.owner.set_publish_fee(site.broker_id, 86_400).await.unwrap();
    let (until, reason) = (site.soon().await + 30 * 86_400, Reason::default());
    // The fee rises a day after it is announced.
    site.ask("evm_increaseTime", json!([90_000])).await;
    site.mine(1).await;
    let reader = key(1).address();
    site.ask("evm_setAutomine", json!([false])).await;
    let later = async {
        site.until_pending().await;
        site.ask("evm_increaseTime", json!([5])).await;
        site.mine(1).await;
    };
    let granting = site.owner.grant(site.topic, reader, Right::Publish, until, &reason);
    let (done, ()) = tokio::join!(granting, later);
    done.unwrap();
    assert_eq!(site.owner.granted_until(site.topic, reader, Right::Publish).await.unwrap(), until);
}

#[tokio::test]
async fn a_refusal_names_the_contracts_error_with_its_fields() {
    let site = Site::start().await;
    let stranger = site.wallet(1).await;
    let reason = Reason::default();
    let error = stranger.block(site.topic, stranger.address(), &reason).await.unwrap_err();
    assert_eq!(
        sentence(error),
        format!(
            "the contract refused with NotTopicOwnerOrManager: topicId {}, caller {}",
            site.topic,
            stranger.address()
        )
    );
    let error = stranger.quote(site.topic, Right::Subscribe, 1).await.unwrap_err();
    assert!(sentence(error).contains("OfferNotPriced"));
    let error = stranger
        .register_topic(
            site.broker_id,
            "a/#",
            Traits::default(),
            Offer::default(),
            Offer::default(),
        )
        .await
        .unwrap_err();
    assert!(sentence(error).contains("InvalidName: name \"a/#\""));
    let error =
        stranger.set_gateway(site.broker_id, stranger.address(), "mqtts://x").await.unwrap_err();
    assert!(sentence(error).contains("NotBrokerOwner: brokerId"));
}

#[tokio::test]
async fn a_wallet_without_ether_is_told_what_it_lacks() {
    let site = Site::start().await;
    let urls = vec![site.http()];
    let poor = Wallet::connect(urls, site.deployment.clone(), Key::random()).await.unwrap();
    let error = poor.create_broker(NamingPolicy::Open, "mine").await.unwrap_err();
    let WalletError::Transact(TransactError::Poor { wallet, balance_wei, wanted_wei }) = error
    else {
        panic!("{error}")
    };
    assert_eq!((wallet, balance_wei), (poor.address(), U256::ZERO));
    site.owner.transfer(poor.address(), wanted_wei * U256::from(2)).await.unwrap();
    poor.create_broker(NamingPolicy::Open, "mine").await.unwrap();
}

#[tokio::test]
async fn a_transaction_in_no_block_is_given_up_at_the_deadline_and_named() {
    let site = Site::start().await;
    let patience = std::time::Duration::from_millis(300);
    let wallet = site.wallet(1).await.with_patience(patience);
    site.ask("evm_setAutomine", json!([false])).await;
    let error = wallet.create_broker(NamingPolicy::Open, "mine").await.unwrap_err();
    let WalletError::Transact(TransactError::Pending { tx, waited }) = error else {
        panic!("{error}")
    };
    assert_eq!(waited, patience);
    let receipt = site.ask("eth_getTransactionReceipt", json!([tx])).await;
    assert!(receipt.is_null());
    site.mine(1).await;
    let receipt = site.ask("eth_getTransactionReceipt", json!([tx])).await;
    assert_eq!(receipt["status"], "0x1");
}

#[tokio::test]
async fn several_transactions_of_one_wallet_at_once_all_happen() {
    let site = Site::start().await;
    let grants = (0..8u8).map(|number| {
        let wallet = alloy::primitives::Address::repeat_byte(number + 1);
        let owner = &site.owner;
        async move {
            let until = owner.block_time().await.unwrap() + 86_400;
            owner.grant(site.topic, wallet, Right::Subscribe, until, &Reason::default()).await
        }
    });
    for done in futures::future::join_all(grants).await {
        done.unwrap();
    }
}

#[tokio::test]
async fn a_device_key_consents_as_the_contract_wants_it() {
    let site = Site::start().await;
    let device = Key::random();
    let call = flytrap_chain::bindings::IDeviceRegistry::consentDigestCall {
        wallet: site.owner.address(),
    };
    let digest: B256 = site.owner.read(site.deployment.device_registry, &call).await.unwrap();
    assert_eq!(digest, consent_digest(&site.deployment, site.owner.address()));
    let until = site.soon().await;
    site.owner.authorize_device_key(&device, until).await.unwrap();
    assert_eq!(site.owner.wallet_of(device.address()).await.unwrap(), site.owner.address());
    let thief = site.wallet(1).await;
    let consent =
        flytrap_chain::wallet::device_consent(&site.deployment, site.owner.address(), &device);
    let error = thief.authorize_device(device.address(), until, &consent).await.unwrap_err();
    assert!(matches!(error, WalletError::Transact(TransactError::Reverted { .. })), "{error}");
    site.owner.revoke_device(device.address()).await.unwrap();
    assert!(site.owner.wallet_of(device.address()).await.unwrap().is_zero());
}

#[tokio::test]
async fn many_rights_are_given_sold_and_taken_in_one_transaction_each() {
    let site = Site::start().await;
    site.owner.set_publish_fee(site.broker_id, 86_400).await.unwrap();
    site.ask("evm_increaseTime", json!([90_000])).await;
    site.mine(1).await;
    let name = format!("{:#x}/second", site.owner.address());
    let (second, _) = site
        .owner
        .register_topic(site.broker_id, &name, Traits::default(), priced(86_400), priced(3_600_000))
        .await
        .unwrap();
    site.owner.set_offer(site.topic, Right::Subscribe, priced(7_200_000)).await.unwrap();
    let (topics, wallets) = ([site.topic, second], [key(1).address(), key(2).address()]);
    let reason = Reason::default();
    let until = site.soon().await;
    site.owner.grant_many(&topics, &wallets, Right::Publish, until, &reason).await.unwrap();
    for (topic, wallet) in topics.iter().flat_map(|topic| wallets.map(|wallet| (*topic, wallet))) {
        assert_eq!(site.owner.granted_until(topic, wallet, Right::Publish).await.unwrap(), until);
    }
    // Four publishers' days, of which the broker's owner, who is the giver here, has the fees as credit.
    let credit = site.owner.credit_of(site.owner.address()).await.unwrap();
    assert!(credit > U256::from(4 * 86_000) && credit <= U256::from(4 * 86_400), "{credit}");

    let buyer = site.wallet(1).await;
    let want = |topic_id, wallet| Wanted { topic_id, right: Right::Subscribe, wallet, periods: 1 };
    let wanted = topics.map(|topic| wallets.map(|wallet| want(topic, wallet))).concat();
    let cost = U256::from(2 * (3_600_000 + 7_200_000));
    let low = buyer.buy_many(&wanted, Some(cost - U256::ONE), &reason).await.unwrap_err();
    assert!(matches!(low, WalletError::AboveLimit { periods: 4, .. }), "{low}");
    let (before, income) = (
        buyer.balance(buyer.address()).await.unwrap(),
        buyer.balance(site.owner.address()).await.unwrap(),
    );
    let done = buyer.buy_many(&wanted, Some(cost), &reason).await.unwrap();
    assert_eq!(done.events(&site.deployment).len(), 4);
    assert_eq!(before - buyer.balance(buyer.address()).await.unwrap(), cost + done.fee_wei);
    assert_eq!(buyer.balance(site.owner.address()).await.unwrap() - income, cost);

    let before = buyer.balance(wallets[1]).await.unwrap();
    let done = site.owner.revoke_many(&topics, &wallets, Right::Subscribe, &reason).await.unwrap();
    assert_eq!(done.events(&site.deployment).len(), 4);
    let back = buyer.balance(wallets[1]).await.unwrap() - before;
    assert!(back > U256::from(10_700_000) && back <= U256::from(10_800_000), "{back}");
    let error = site.owner.grant_many(&[], &wallets, Right::Publish, until, &reason).await;
    assert!(sentence(error.unwrap_err()).contains("EmptyBatch"));
}

#[tokio::test]
async fn a_blocked_wallet_gets_back_what_it_paid_for_both_rights_and_keeps_what_it_was_given() {
    let site = Site::start().await;
    site.owner.set_offer(site.topic, Right::Subscribe, priced(3_600_000)).await.unwrap();
    site.owner.set_offer(site.topic, Right::Publish, priced(7_200_000)).await.unwrap();
    let (buyer, reason) = (site.wallet(1).await, Reason::default());
    for right in [Right::Subscribe, Right::Publish] {
        buyer.buy(site.topic, right, buyer.address(), 1, None, &reason).await.unwrap();
    }
    let before = buyer.balance(buyer.address()).await.unwrap();
    let done = site.owner.block(site.topic, buyer.address(), &reason).await.unwrap();
    let back = buyer.balance(buyer.address()).await.unwrap() - before;
    assert!(back > U256::from(10_700_000) && back <= U256::from(10_800_000), "{back}");
    let events = done.events(&site.deployment);
    assert!(
        matches!(
            events[..],
            [
                Event::WalletBlocked { .. },
                Event::AccessRevoked { right: Right::Publish, .. },
                Event::AccessRevoked { right: Right::Subscribe, .. }
            ]
        ),
        "{events:?}"
    );
    assert!(buyer.is_blocked(site.topic, buyer.address()).await.unwrap());
    site.owner.unblock(site.topic, buyer.address()).await.unwrap();
    assert!(!buyer.may_access(site.topic, buyer.address(), Right::Subscribe).await.unwrap());
    // What was given is no money of the wallet's, and runs on behind the block.
    let until = site.soon().await;
    site.owner.grant(site.topic, buyer.address(), Right::Subscribe, until, &reason).await.unwrap();
    let done = site.owner.block(site.topic, buyer.address(), &reason).await.unwrap();
    assert_eq!(done.events(&site.deployment).len(), 1);
}

#[tokio::test]
async fn a_payee_is_paid_where_it_says_or_withdraws() {
    let site = Site::start().await;
    site.owner.set_offer(site.topic, Right::Subscribe, priced(5)).await.unwrap();
    let (buyer, reason) = (site.wallet(1).await, Reason::default());
    let owner = site.owner.address();
    let till = Key::random().address();
    assert_eq!(buyer.payout_of(owner).await.unwrap(), (owner, false));
    site.owner.set_payout(till, false).await.unwrap();
    buyer.buy(site.topic, Right::Subscribe, buyer.address(), 1, None, &reason).await.unwrap();
    assert_eq!(buyer.balance(till).await.unwrap(), U256::from(5));
    site.owner.set_payout(Default::default(), true).await.unwrap();
    assert_eq!(buyer.payout_of(owner).await.unwrap(), (owner, true));
    buyer.buy(site.topic, Right::Subscribe, buyer.address(), 1, None, &reason).await.unwrap();
    assert_eq!(buyer.credit_of(owner).await.unwrap(), U256::from(5));
    site.owner.withdraw(till).await.unwrap();
    assert_eq!(buyer.balance(till).await.unwrap(), U256::from(10));
}

#[tokio::test]
async fn countries_and_hidden_topics_are_as_the_contract_keeps_them() {
    let site = Site::start().await;
    let codes: Vec<_> = [*b"US", *b"DE", *b"GB"].into_iter().filter_map(Country::new).collect();
    let rule = CountryRule::new(CountryMode::Only, &codes);
    site.owner.set_countries(site.topic, &rule).await.unwrap();
    assert_eq!(site.owner.countries_of(site.topic).await.unwrap(), rule);
    let error = site.owner.set_countries(site.topic, &rule).await.unwrap_err();
    assert!(sentence(error).contains("NothingToChange"));
    site.owner.set_countries(site.topic, &CountryRule::Any).await.unwrap();
    assert_eq!(site.owner.countries_of(site.topic).await.unwrap(), CountryRule::Any);

    let commitment = name_commitment(B256::repeat_byte(7), "patients/jane");
    let packed = [&[7; 32][..], b"patients/jane"].concat();
    assert_eq!(commitment, alloy::primitives::keccak256(packed));
    let offer = Offer::default();
    let hide = |parent| {
        site.owner.register_hidden_topic(parent, commitment, Traits::default(), offer, offer)
    };
    let (id, _) = hide(site.topic).await.unwrap();
    assert_eq!(id, hidden_topic_id(site.broker_id, site.topic, commitment));
    let (below, _) = hide(id).await.unwrap();
    assert_eq!(below, hidden_topic_id(site.broker_id, id, commitment));
    let known = site.owner.topic_of(below).await.unwrap();
    assert_eq!(known, (site.broker_id, 1, site.owner.address()));
    let error = hide(site.topic).await.unwrap_err();
    assert!(sentence(error).contains("TopicExists"));
}

#[tokio::test]
async fn what_a_wallet_signs_about_its_devices_others_may_hand_in_once() {
    let site = Site::start().await;
    let (owner, relayer) = (&site.owner, site.wallet(1).await);
    let keys = [Key::random(), Key::random()];
    let devices = keys.each_ref().map(Key::address);
    let (until, deadline) = (site.soon().await, site.soon().await);
    let nonce = owner.nonce_of(owner.address()).await.unwrap();
    let digest = authorize_devices_digest(
        &site.deployment,
        owner.address(),
        &devices,
        until,
        nonce,
        deadline,
    );
    let signature = owner.key().sign(&digest).to_vec().into();
    let consents =
        keys.each_ref().map(|key| device_consent(&site.deployment, owner.address(), key));
    let hand_in = async || {
        let wallet = owner.address();
        relayer
            .authorize_devices_for(wallet, &devices, until, &consents, deadline, &signature)
            .await
    };
    hand_in().await.unwrap();
    for device in devices {
        assert_eq!(relayer.wallet_of(device).await.unwrap(), owner.address());
    }
    assert!(sentence(hand_in().await.unwrap_err()).contains("InvalidSignature"));

    let nonce = owner.nonce_of(owner.address()).await.unwrap();
    let digest = revoke_all_devices_digest(&site.deployment, owner.address(), nonce, deadline);
    let signature = owner.key().sign(&digest).to_vec().into();
    relayer.revoke_all_devices_for(owner.address(), deadline, &signature).await.unwrap();
    assert!(relayer.wallet_of(devices[0]).await.unwrap().is_zero());
    owner.cancel_nonce().await.unwrap();
    assert_eq!(owner.nonce_of(owner.address()).await.unwrap(), nonce + U256::from(2));

    owner.authorize_device_keys(&keys.each_ref(), until).await.unwrap();
    owner.revoke_devices(&devices).await.unwrap();
    for device in devices {
        assert!(relayer.wallet_of(device).await.unwrap().is_zero());
    }
}

#[tokio::test]
async fn a_topic_id_is_the_contracts() {
    let site = Site::start().await;
    let name = format!("{:#x}", site.owner.address());
    assert_eq!(topic_id(site.broker_id, &name), site.topic);
    assert_eq!(site.owner.topic_owner(site.topic).await.unwrap(), site.owner.address());
}

#[tokio::test]
async fn the_deploy_script_writes_what_is_read_here() {
    let anvil = Anvil::start(&[]);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("deployment.json");
    let output = forge("script", &std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("script"))
        // One at a time: anvil strands transactions whose nonces arrive out of order.
        .args(["script/Deploy.s.sol", "--broadcast", "--slow", "--rpc-url"])
        .arg(format!("http://127.0.0.1:{}", anvil.port))
        .args(["--unlocked", "--sender", &key(0).address().to_string()])
        .env("DEPLOYMENT_FILE", &file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let deployment = Deployment::read(&file).unwrap();
    assert_eq!(deployment.chain_id, 31337);
    let wallet = Wallet::connect(vec![http(anvil.port)], deployment.clone(), key(1)).await.unwrap();
    let call = flytrap_chain::bindings::IAccessMarket::topicRegistryCall {};
    let topics = wallet.read(deployment.access_market, &call).await.unwrap();
    assert_eq!(topics, deployment.topic_registry);
    let (id, _) = wallet.create_broker(NamingPolicy::Curated, "first").await.unwrap();
    assert_eq!(wallet.broker_owner(id).await.unwrap(), wallet.address());
}
