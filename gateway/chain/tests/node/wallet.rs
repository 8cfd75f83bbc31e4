//! Wallet calls: what they cost, what they say when they are refused.

use alloy::primitives::{B256, U256};
use flytrap_chain::{
    Deployment, TransactError, Wallet, WalletError,
    keys::Key,
    wallet::{Reason, consent_digest, topic_id},
};
use flytrap_policy::{NamingPolicy, Offer, OfferMode, Right, Traits};

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
    site.ask("evm_increaseTime", serde_json::json!([90_000])).await;
    site.mine(1).await;
    let fee =
        site.owner.grant_fee(site.topic, buyer.address(), Right::Publish, until).await.unwrap();
    assert!(fee > U256::from(29 * 86_400), "{fee}");
    site.owner.grant(site.topic, buyer.address(), Right::Publish, until, &reason).await.unwrap();
    assert!(buyer.may_access(site.topic, buyer.address(), Right::Publish).await.unwrap());
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
    site.ask("evm_setAutomine", serde_json::json!([false])).await;
    let error = wallet.create_broker(NamingPolicy::Open, "mine").await.unwrap_err();
    let WalletError::Transact(TransactError::Pending { tx, waited }) = error else {
        panic!("{error}")
    };
    assert_eq!(waited, patience);
    let receipt = site.ask("eth_getTransactionReceipt", serde_json::json!([tx])).await;
    assert!(receipt.is_null());
    site.mine(1).await;
    let receipt = site.ask("eth_getTransactionReceipt", serde_json::json!([tx])).await;
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
        .args(["script/Deploy.s.sol", "--broadcast", "--rpc-url"])
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
    let wallet = Wallet::connect(vec![http(anvil.port)], deployment, key(1)).await.unwrap();
    let (id, _) = wallet.create_broker(NamingPolicy::Curated, "first").await.unwrap();
    assert_eq!(wallet.broker_owner(id).await.unwrap(), wallet.address());
}
