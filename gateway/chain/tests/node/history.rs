//! The past as an auditor reads it.

use flytrap_chain::{
    Rpc,
    history::{HistoryError, Query, history},
    keys::Key,
    wallet::Reason,
};
use flytrap_policy::{Event, Offer, Right, Traits};

use crate::site::{Anvil, Site, http, key};

fn names(entries: &[flytrap_chain::history::Entry]) -> Vec<String> {
    let name = |event: &Event| format!("{event:?}").split([' ', '{']).next().unwrap().to_owned();
    entries.iter().map(|entry| name(&entry.event)).collect()
}

#[tokio::test]
async fn a_topics_and_a_wallets_past_are_told_in_full_and_nothing_else() {
    let site = Site::start().await;
    let (reader, other) = (key(1).address(), key(2).address());
    let until = site.soon().await;
    let reason = Reason { note: "order 7".into(), ..Reason::default() };
    let grant = |topic, wallet| site.owner.grant(topic, wallet, Right::Subscribe, until, &reason);
    let name = format!("{:#x}/below", site.owner.address());
    let (below, _) = site
        .owner
        .register_topic(
            site.broker_id,
            &name,
            Traits::default(),
            Offer::default(),
            Offer::default(),
        )
        .await
        .unwrap();
    let granting = grant(site.topic, reader).await.unwrap();
    grant(site.topic, other).await.unwrap();
    grant(below, reader).await.unwrap();
    site.owner.revoke(site.topic, reader, Right::Subscribe, &reason).await.unwrap();
    let wallet = site.wallet(1).await;
    let device = Key::random();
    wallet.authorize_device_key(&device, until).await.unwrap();
    site.mine(300).await;
    wallet.revoke_device(device.address()).await.unwrap();
    wallet.set_payout(other, false).await.unwrap();

    let all = Query { broker_id: site.broker_id, ..Query::default() };
    let (rpc, deployment) = (&site.rpc, &site.deployment);
    let of = |query: Query| async move { history(rpc, deployment, &query).await };
    let topic = of(Query { topic: Some(site.topic), ..all.clone() }).await.unwrap();
    assert_eq!(
        names(&topic),
        ["TopicRegistered", "AccessGranted", "AccessGranted", "AccessRevoked"]
    );
    assert_eq!((topic[1].tx, topic[1].height), (granting.tx, granting.height));
    assert!(topic.iter().all(|entry| entry.time > 1_600_000_000));
    let contracts: Vec<_> = topic.iter().map(|entry| entry.contract).collect();
    let market = site.deployment.access_market;
    assert_eq!(contracts, [site.deployment.topic_registry, market, market, market]);
    assert!(topic.is_sorted_by_key(|entry| (entry.height, entry.log_index)));

    let wallet_of = |wallet| Query { wallet: Some(wallet), ..all.clone() };
    let theirs = of(wallet_of(reader)).await.unwrap();
    assert_eq!(
        names(&theirs),
        [
            "AccessGranted",
            "AccessGranted",
            "AccessRevoked",
            "DeviceAuthorized",
            "DeviceRevoked",
            "PayoutSet"
        ]
    );
    let both = of(Query { topic: Some(site.topic), ..wallet_of(reader) }).await.unwrap();
    assert_eq!(names(&both), ["AccessGranted", "AccessRevoked"]);
    let devices = of(wallet_of(device.address())).await.unwrap();
    assert_eq!(names(&devices), ["DeviceAuthorized", "DeviceRevoked"]);
    let broker = of(all.clone()).await.unwrap();
    assert_eq!(broker.len(), 8 - 1);
    let early = of(Query { to: Some(granting.height - 1), ..all.clone() }).await.unwrap();
    assert_eq!(names(&early), ["BrokerCreated", "TopicRegistered", "TopicRegistered"]);

    // A node that is behind has no answer, rather than one that looks whole.
    let newest = site.height().await;
    let behind = of(Query { to: Some(newest + 1), ..all.clone() }).await;
    assert!(matches!(behind, Err(HistoryError::Behind { .. })), "{behind:?}");
    // Who asks again is told by the next one.
    let fresh = Anvil::start(&[]);
    let nodes = Rpc::new(vec![http(fresh.port), site.http()]);
    let until = Query { to: Some(newest), ..all.clone() };
    let first = history(&nodes, &site.deployment, &until).await;
    assert!(matches!(first, Err(HistoryError::Behind { newest: 0, .. })), "{first:?}");
    assert_eq!(history(&nodes, &site.deployment, &until).await.unwrap().len(), broker.len());

    let enough = of(Query { most: Some(7), ..all.clone() }).await;
    assert_eq!(enough.unwrap().len(), 7);
    let refused = of(Query { most: Some(6), ..all }).await;
    assert!(matches!(refused, Err(HistoryError::TooMany { most: 6, .. })), "{refused:?}");
}
