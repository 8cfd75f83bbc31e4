use std::collections::BTreeSet;

use alloy::{
    json_abi::JsonAbi,
    primitives::{U256, aliases::U96},
};

use super::*;
use crate::bindings::ABI;

fn deployment() -> Deployment {
    Deployment {
        chain_id: 31337,
        block: 1,
        broker_registry: Address::with_last_byte(0xb1),
        topic_registry: Address::with_last_byte(0xb2),
        access_market: Address::with_last_byte(0xb5),
        device_registry: Address::with_last_byte(0xb3),
        audit_log: Address::with_last_byte(0xb4),
    }
}

const ID: U256 = U256::from_limbs([7, 0, 0, 0]);

fn who(number: u8) -> Address {
    Address::repeat_byte(number)
}

fn word(number: u8) -> B256 {
    B256::repeat_byte(number)
}

fn logged(address: Address, event: &impl SolEvent) -> Log {
    Log { address, data: event.encode_log_data() }
}

/// One log of every event with what it should become.
fn samples() -> Vec<(Log, Event)> {
    let d = deployment();
    let mut all = of_brokers(d.broker_registry);
    all.extend(of_topics(d.topic_registry));
    all.extend(of_access(d.access_market));
    all.extend(of_devices(d.device_registry));
    all.extend(of_audits(d.audit_log));
    all
}

fn of_brokers(at: Address) -> Vec<(Log, Event)> {
    let (a, b) = (who(1), who(2));
    vec![
        (
            logged(
                at,
                &Broker::BrokerCreated { brokerId: ID, owner: a, policy: 1, name: "Mühle".into() },
            ),
            Event::BrokerCreated {
                broker_id: ID,
                owner: a,
                policy: NamingPolicy::Curated,
                name: "Mühle".into(),
            },
        ),
        (
            logged(at, &Broker::BrokerOwnershipOffered { brokerId: ID, owner: a, candidate: b }),
            Event::BrokerOwnershipOffered { broker_id: ID, owner: a, candidate: b },
        ),
        (
            logged(
                at,
                &Broker::BrokerOwnershipTransferred { brokerId: ID, previousOwner: a, newOwner: b },
            ),
            Event::BrokerOwnershipTransferred { broker_id: ID, previous_owner: a, new_owner: b },
        ),
        (
            logged(at, &Broker::NamingPolicySet { brokerId: ID, policy: 2 }),
            Event::NamingPolicySet { broker_id: ID, policy: NamingPolicy::Open },
        ),
        (
            logged(at, &Broker::RegistrarSet { brokerId: ID, registrar: a, allowed: true }),
            Event::RegistrarSet { broker_id: ID, registrar: a, allowed: true },
        ),
        (
            logged(
                at,
                &Broker::GatewaySet { brokerId: ID, gateway: a, uri: "mqtts://a:8883".into() },
            ),
            Event::GatewaySet { broker_id: ID, gateway: a, uri: "mqtts://a:8883".into() },
        ),
        (
            logged(at, &Broker::GatewayRemoved { brokerId: ID, gateway: a }),
            Event::GatewayRemoved { broker_id: ID, gateway: a },
        ),
        (
            logged(
                at,
                &Broker::PublishFeeSet { brokerId: ID, weiPerDay: U96::MAX, effectiveFrom: 5 },
            ),
            Event::PublishFeeSet { broker_id: ID, wei_per_day: (1 << 96) - 1, effective_from: 5 },
        ),
        (
            logged(
                at,
                &Broker::SaleFeeSet { brokerId: ID, basisPoints: U96::from(250), effectiveFrom: 5 },
            ),
            Event::SaleFeeSet { broker_id: ID, basis_points: 250, effective_from: 5 },
        ),
        (
            logged(
                at,
                &Broker::WalletBanned {
                    brokerId: ID,
                    wallet: a,
                    by: b,
                    until: 9,
                    evidence: word(3),
                    reason: "r".into(),
                },
            ),
            Event::WalletBanned {
                broker_id: ID,
                wallet: a,
                by: b,
                until: 9,
                evidence: word(3),
                reason: "r".into(),
            },
        ),
        (
            logged(at, &Broker::WalletUnbanned { brokerId: ID, wallet: a, by: b }),
            Event::WalletUnbanned { broker_id: ID, wallet: a, by: b },
        ),
        (
            logged(
                at,
                &Broker::OriginBanned {
                    brokerId: ID,
                    origin: word(4),
                    by: b,
                    until: u64::MAX,
                    evidence: word(3),
                    reason: String::new(),
                },
            ),
            Event::OriginBanned {
                broker_id: ID,
                origin: word(4),
                by: b,
                until: u64::MAX,
                evidence: word(3),
                reason: String::new(),
            },
        ),
        (
            logged(at, &Broker::OriginUnbanned { brokerId: ID, origin: word(4), by: b }),
            Event::OriginUnbanned { broker_id: ID, origin: word(4), by: b },
        ),
    ]
}

fn of_topics(at: Address) -> Vec<(Log, Event)> {
    let (a, b, topic_id) = (who(1), who(2), word(5));
    let solidity_traits = || Topic::Traits { retain: true, sensitive: false, ownBranch: true };
    let traits = Traits { retain: true, sensitive: false, own_branch: true };
    let solidity_offer = || Topic::Offer { mode: 1, period: 3600, priceWei: u128::MAX };
    let offer = Offer { mode: OfferMode::Priced, period: 3600, price_wei: u128::MAX };
    let solidity_public = Topic::Offer { mode: 2, period: 0, priceWei: 0 };
    let public = Offer { mode: OfferMode::Public, period: 0, price_wei: 0 };
    vec![
        (
            logged(
                at,
                &Topic::TopicRegistered {
                    brokerId: ID,
                    topicId: topic_id,
                    owner: a,
                    epoch: 3,
                    name: "plant/1".into(),
                    traits: solidity_traits(),
                    publishOffer: solidity_offer(),
                    subscribeOffer: solidity_public,
                },
            ),
            Event::TopicRegistered {
                broker_id: ID,
                topic_id,
                owner: a,
                epoch: 3,
                name: "plant/1".into(),
                traits,
                publish_offer: offer,
                subscribe_offer: public,
            },
        ),
        (
            logged(
                at,
                &Topic::HiddenTopicRegistered {
                    brokerId: ID,
                    topicId: topic_id,
                    owner: a,
                    epoch: 3,
                    parentId: word(6),
                    commitment: word(7),
                    traits: solidity_traits(),
                    publishOffer: solidity_offer(),
                    subscribeOffer: Topic::Offer { mode: 2, period: 0, priceWei: 0 },
                },
            ),
            Event::HiddenTopicRegistered {
                broker_id: ID,
                topic_id,
                owner: a,
                epoch: 3,
                parent_id: word(6),
                commitment: word(7),
                traits,
                publish_offer: offer,
                subscribe_offer: public,
            },
        ),
        (
            logged(at, &countries_set(2, &[b"DE", b"GB"])),
            Event::CountriesSet {
                broker_id: ID,
                topic_id,
                mode: CountryMode::Except,
                codes: [*b"DE", *b"GB"].into_iter().filter_map(Country::new).collect(),
            },
        ),
        (
            logged(
                at,
                &Topic::TraitsSet { brokerId: ID, topicId: topic_id, traits: solidity_traits() },
            ),
            Event::TraitsSet { broker_id: ID, topic_id, traits },
        ),
        (
            logged(
                at,
                &Topic::OfferSet {
                    brokerId: ID,
                    topicId: topic_id,
                    right: 1,
                    offer: solidity_offer(),
                },
            ),
            Event::OfferSet { broker_id: ID, topic_id, right: Right::Subscribe, offer },
        ),
        (
            logged(
                at,
                &Topic::ManagerSet { brokerId: ID, topicId: topic_id, manager: b, allowed: false },
            ),
            Event::ManagerSet { broker_id: ID, topic_id, manager: b, allowed: false },
        ),
        (
            logged(
                at,
                &Topic::TopicOwnershipOffered {
                    brokerId: ID,
                    topicId: topic_id,
                    candidate: b,
                    owner: a,
                },
            ),
            Event::TopicOwnershipOffered { broker_id: ID, topic_id, candidate: b, owner: a },
        ),
        (
            logged(
                at,
                &Topic::TopicOwnershipTransferred {
                    brokerId: ID,
                    topicId: topic_id,
                    newOwner: b,
                    previousOwner: a,
                },
            ),
            Event::TopicOwnershipTransferred {
                broker_id: ID,
                topic_id,
                new_owner: b,
                previous_owner: a,
            },
        ),
        (
            logged(
                at,
                &Topic::TopicDeleted { brokerId: ID, topicId: topic_id, owner: a, epoch: 3 },
            ),
            Event::TopicDeleted { broker_id: ID, topic_id, owner: a, epoch: 3 },
        ),
    ]
}

fn countries_set(mode: u8, codes: &[&[u8; 2]]) -> Topic::CountriesSet {
    let codes = codes.iter().map(|code| (**code).into()).collect();
    Topic::CountriesSet { brokerId: ID, topicId: word(5), mode, codes }
}

fn of_access(at: Address) -> Vec<(Log, Event)> {
    let (wallet, by, topic_id, purpose) = (who(1), who(2), word(5), word(6));
    let note = || "contract 12".to_owned();
    vec![
        (
            logged(
                at,
                &Market::AccessGranted {
                    brokerId: ID,
                    topicId: topic_id,
                    wallet,
                    right: 0,
                    epoch: 3,
                    until: 9,
                    by,
                    feeWei: U256::from(11),
                    purpose,
                    note: note(),
                },
            ),
            Event::AccessGranted {
                broker_id: ID,
                topic_id,
                wallet,
                right: Right::Publish,
                epoch: 3,
                until: 9,
                by,
                fee_wei: U256::from(11),
                purpose,
                note: note(),
            },
        ),
        (
            logged(
                at,
                &Market::AccessBought {
                    brokerId: ID,
                    topicId: topic_id,
                    wallet,
                    right: 1,
                    epoch: 3,
                    until: 9,
                    payer: by,
                    priceWei: U256::MAX,
                    saleFeeWei: U256::from(2),
                    publishFeeWei: U256::from(3),
                    purpose,
                    note: note(),
                },
            ),
            Event::AccessBought {
                broker_id: ID,
                topic_id,
                wallet,
                right: Right::Subscribe,
                epoch: 3,
                until: 9,
                payer: by,
                price_wei: U256::MAX,
                sale_fee_wei: U256::from(2),
                publish_fee_wei: U256::from(3),
                purpose,
                note: note(),
            },
        ),
        (
            logged(
                at,
                &Market::AccessRevoked {
                    brokerId: ID,
                    topicId: topic_id,
                    wallet,
                    right: 1,
                    epoch: 3,
                    was: 9,
                    refundWei: U256::from(1),
                    by,
                    purpose,
                    note: note(),
                },
            ),
            Event::AccessRevoked {
                broker_id: ID,
                topic_id,
                wallet,
                right: Right::Subscribe,
                epoch: 3,
                was: 9,
                refund_wei: U256::from(1),
                by,
                purpose,
                note: note(),
            },
        ),
        (
            logged(
                at,
                &Market::WalletBlocked {
                    brokerId: ID,
                    topicId: topic_id,
                    wallet,
                    by,
                    purpose,
                    note: note(),
                },
            ),
            Event::WalletBlocked { broker_id: ID, topic_id, wallet, by, purpose, note: note() },
        ),
        (
            logged(at, &Market::WalletUnblocked { brokerId: ID, topicId: topic_id, wallet, by }),
            Event::WalletUnblocked { broker_id: ID, topic_id, wallet, by },
        ),
        (
            logged(at, &Market::Credited { payee: wallet, amountWei: U256::from(8) }),
            Event::Credited { payee: wallet, amount_wei: U256::from(8) },
        ),
        (
            logged(at, &Market::PayoutSet { payee: wallet, to: by, isPull: true }),
            Event::PayoutSet { payee: wallet, to: by, is_pull: true },
        ),
        (
            logged(at, &Market::Withdrawn { payee: wallet, to: by, amountWei: U256::from(8) }),
            Event::Withdrawn { payee: wallet, to: by, amount_wei: U256::from(8) },
        ),
    ]
}

fn of_devices(at: Address) -> Vec<(Log, Event)> {
    let (wallet, device) = (who(1), who(2));
    vec![
        (
            logged(at, &Device::DeviceAuthorized { wallet, device, until: 9, generation: 4 }),
            Event::DeviceAuthorized { wallet, device, until: 9, generation: 4 },
        ),
        (
            logged(at, &Device::DeviceRevoked { wallet, device }),
            Event::DeviceRevoked { wallet, device },
        ),
        (
            logged(at, &Device::AllDevicesRevoked { wallet, generation: 5 }),
            Event::AllDevicesRevoked { wallet, generation: 5 },
        ),
        (
            logged(at, &Device::TokensInvalidated { wallet, before: 77 }),
            Event::TokensInvalidated { wallet, before: 77 },
        ),
        (
            logged(at, &Device::NonceUsed { wallet, nonce: U256::MAX }),
            Event::NonceUsed { wallet, nonce: U256::MAX },
        ),
    ]
}

fn of_audits(at: Address) -> Vec<(Log, Event)> {
    let (wallet, gateway, topic_id) = (who(1), who(2), word(5));
    vec![
        (
            logged(
                at,
                &Audit::AlertRaised {
                    brokerId: ID,
                    topicId: topic_id,
                    wallet,
                    gateway,
                    kind: 4,
                    count: 6,
                    firstAt: 1,
                    lastAt: 2,
                    evidence: word(9),
                },
            ),
            Event::AlertRaised {
                broker_id: ID,
                topic_id,
                wallet,
                gateway,
                kind: AlertKind::SessionEnded,
                count: 6,
                first_at: 1,
                last_at: 2,
                evidence: word(9),
            },
        ),
        (
            logged(
                at,
                &Audit::Anchored {
                    brokerId: ID,
                    gateway,
                    sequence: 1,
                    root: word(1),
                    previous: word(0),
                    count: 5,
                },
            ),
            Event::Anchored {
                broker_id: ID,
                gateway,
                sequence: 1,
                root: word(1),
                previous: word(0),
                count: 5,
            },
        ),
    ]
}

#[test]
fn every_event_of_the_interfaces_becomes_the_event_of_the_same_name_and_fields() {
    let samples = samples();
    for (log, wanted) in &samples {
        assert_eq!(decode(log, &deployment()), Ok(Some(wanted.clone())));
    }
    // None is left out: the interfaces have as many events as there are samples, each sampled once.
    let wanted: BTreeSet<B256> = ABI
        .iter()
        .flat_map(|(_, abi)| {
            let abi: JsonAbi = serde_json::from_str(abi).unwrap();
            abi.events().map(|event| event.selector()).collect::<Vec<_>>()
        })
        .collect();
    let sampled: BTreeSet<B256> = samples.iter().map(|(log, _)| log.topics()[0]).collect();
    assert_eq!(sampled, wanted);
    assert_eq!(samples.len(), wanted.len());
}

#[test]
fn a_log_of_another_contract_is_refused_whatever_it_says() {
    let samples = samples();
    assert!(!samples.is_empty());
    for (mut log, _) in samples {
        log.address = who(0xee);
        assert_eq!(
            decode(&log, &deployment()),
            Err(DecodeError::WrongAddress { address: who(0xee) })
        );
        // Nor does one of our contracts speak for another.
        for (_, address) in deployment().addresses() {
            log.address = address;
            match decode(&log, &deployment()) {
                Ok(Some(_)) => {}
                other => {
                    assert!(matches!(other, Err(DecodeError::UnknownEvent { .. })), "{other:?}")
                }
            }
        }
    }
}

#[test]
fn an_event_that_no_interface_knows_is_an_error_and_not_skipped() {
    let address = deployment().device_registry;
    for topics in [vec![], vec![word(1)]] {
        let topic0 = topics.first().copied();
        let log = Log::new_unchecked(address, topics, Vec::new().into());
        let wanted = DecodeError::UnknownEvent { contract: "deviceRegistry", address, topic0 };
        assert_eq!(decode(&log, &deployment()), Err(wanted));
    }
}

#[test]
fn torn_lengthened_and_dirty_data_is_an_error_or_the_same_event() {
    let samples = samples();
    assert!(!samples.is_empty());
    for (log, wanted) in samples {
        let data = log.data.data.to_vec();
        for length in 0..data.len() {
            let torn = Log::new_unchecked(
                log.address,
                log.topics().to_vec(),
                data[..length].to_vec().into(),
            );
            match decode(&torn, &deployment()) {
                Err(DecodeError::Undecodable { .. }) => {}
                // Padding after a text may be missing without a change of meaning.
                Ok(Some(event)) => assert_eq!(event, wanted),
                other => panic!("{other:?}"),
            }
        }
        for topics in
            [log.topics()[..log.topics().len() - 1].to_vec(), [log.topics(), &[word(1)]].concat()]
        {
            let other = Log::new_unchecked(log.address, topics, data.clone().into());
            let decoded = decode(&other, &deployment());
            assert!(
                matches!(
                    decoded,
                    Err(DecodeError::Undecodable { .. } | DecodeError::UnknownEvent { .. })
                ),
                "{decoded:?}"
            );
        }
    }
}

#[test]
fn any_octet_changed_never_panics() {
    for (log, _) in samples() {
        for at in 0..log.data.data.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut data = log.data.data.to_vec();
                data[at] = value;
                let changed = Log::new_unchecked(log.address, log.topics().to_vec(), data.into());
                let _ = decode(&changed, &deployment());
            }
        }
    }
}

#[test]
fn a_country_rule_that_no_contract_would_take_is_an_error() {
    let d = deployment();
    let wrong: [(u8, &[&[u8; 2]]); 6] =
        [(3, &[b"GB"]), (0, &[b"GB"]), (1, &[]), (2, &[]), (1, &[b"ZZ"]), (1, &[b"GB", b"us"])];
    for (mode, codes) in wrong {
        let decoded = decode(&logged(d.topic_registry, &countries_set(mode, codes)), &d);
        assert!(matches!(decoded, Err(DecodeError::Undecodable { .. })), "{mode} {decoded:?}");
    }
    let none = decode(&logged(d.topic_registry, &countries_set(0, &[])), &d);
    assert!(matches!(none, Ok(Some(Event::CountriesSet { mode: CountryMode::Any, .. }))));
}

#[test]
fn a_number_outside_its_enum_is_an_error() {
    let d = deployment();
    let logs = [
        logged(d.broker_registry, &Broker::NamingPolicySet { brokerId: ID, policy: 3 }),
        logged(
            d.topic_registry,
            &Topic::OfferSet {
                brokerId: ID,
                topicId: word(1),
                right: 2,
                offer: Topic::Offer { mode: 0, period: 0, priceWei: 0 },
            },
        ),
        logged(
            d.topic_registry,
            &Topic::OfferSet {
                brokerId: ID,
                topicId: word(1),
                right: 1,
                offer: Topic::Offer { mode: 3, period: 0, priceWei: 0 },
            },
        ),
    ];
    for log in logs {
        let decoded = decode(&log, &d);
        assert!(matches!(decoded, Err(DecodeError::Undecodable { .. })), "{decoded:?}");
    }
}

/// Replaces the text by one of the same length that is no UTF-8.
fn garbled(log: &Log, text: &str) -> Log {
    let mut data = log.data.data.to_vec();
    let at = data.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
    data[at] = 0xff;
    Log::new_unchecked(log.address, log.topics().to_vec(), data.into())
}

#[test]
fn free_text_that_is_no_utf8_cannot_stop_anyone() {
    // Anyone can put any octets into a note: the contracts do not look at it.
    let samples = samples();
    let find = |name: &str| {
        let is_it = |event: &Event| format!("{event:?}").starts_with(name);
        samples.iter().find(|(_, event)| is_it(event)).unwrap()
    };
    for name in ["AccessGranted", "AccessBought", "AccessRevoked", "WalletBlocked"] {
        let (log, _) = find(name);
        match decode(&garbled(log, "contract 12"), &deployment()) {
            Ok(Some(
                Event::AccessGranted { note, .. }
                | Event::AccessBought { note, .. }
                | Event::AccessRevoked { note, .. }
                | Event::WalletBlocked { note, .. },
            )) => assert_eq!(note, "\u{fffd}ontract 12"),
            other => panic!("{other:?}"),
        }
    }
    let (log, _) = find("GatewaySet");
    match decode(&garbled(log, "mqtts://a:8883"), &deployment()) {
        Ok(Some(Event::GatewaySet { uri, .. })) => assert_eq!(uri, "\u{fffd}qtts://a:8883"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_topic_name_that_is_no_utf8_is_an_error() {
    // The contract checks names, so this can only be a node that answers wrongly.
    let samples = samples();
    let (log, _) =
        samples.iter().find(|(_, event)| matches!(event, Event::TopicRegistered { .. })).unwrap();
    let decoded = decode(&garbled(log, "plant/1"), &deployment());
    assert!(
        matches!(decoded, Err(DecodeError::Undecodable { event: "TopicRegistered", .. })),
        "{decoded:?}"
    );
}
