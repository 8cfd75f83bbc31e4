//! Rewritten packets: what was to change has changed, and not one octet else.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::num::NonZeroU16;

use common::*;
use flytrap_mqtt::*;
use proptest::prelude::*;

fn whole(octets: &[u8]) -> Frame<'_> {
    frame(octets, octets.len()).unwrap().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn a_connect_keeps_all_that_is_not_changed(
        parts in some_connect(),
        client_id in text(0..60),
        user_name in prop::option::of(text(0..9)),
        password in prop::option::of(binary(0..300)),
        before in binary(0..9),
    ) {
        let octets = parts.octets();
        let connect = read_connect(whole(&octets)).unwrap();
        let change = ConnectChange {
            user_name: user_name.as_deref(),
            password: password.as_deref(),
            remove_authentication: false,
            ..ConnectChange::new(&client_id)
        };
        let mut out = before.clone();
        rewrite_connect(&connect, &change, &mut out);
        prop_assert!(out.starts_with(&before));
        let has_login = user_name.is_some() || parts.version == Version::V5;
        let password = password.filter(|_| has_login);
        let wanted = ConnectParts { client_id, user_name, password, ..parts };
        prop_assert_eq!(&out[before.len()..], wanted.octets());
    }

    #[test]
    fn a_subscribe_keeps_the_filters_chosen_as_they_came(
        (version, packet_id, properties, filters) in some_subscribe(),
        keep in prop::collection::vec(any::<bool>(), 6),
    ) {
        let octets = subscribe_octets(version, packet_id, &properties, &filters);
        let Ok(FromClient::Subscribe(subscribe)) = read_from_client(version, whole(&octets)) else {
            return Err(TestCaseError::fail("not read"));
        };
        let mut out = Vec::new();
        let kept = rewrite_subscribe(&subscribe, |index| keep[index], &mut out);
        let chosen: Vec<_> = filters
            .iter()
            .zip(&keep)
            .filter(|(_, keep)| **keep)
            .map(|(filter, _)| filter.clone())
            .collect();
        prop_assert_eq!(kept, chosen.len());
        if chosen.is_empty() {
            prop_assert!(out.is_empty());
        } else {
            prop_assert_eq!(out, subscribe_octets(version, packet_id, &properties, &chosen));
        }
    }

    #[test]
    fn a_publish_gets_its_topic_name_and_keeps_the_rest(
        parts in some_publish(),
        topic in topic_name(),
        retain: bool,
    ) {
        let octets = parts.octets();
        let publish = read_publish(parts.version, Peer::Client, whole(&octets)).unwrap();
        let mut out = Vec::new();
        rewrite_publish(parts.version, &publish, &topic, retain, &mut out);
        prop_assert_eq!(out, PublishParts { topic, retain, ..parts }.octets());
    }

    #[test]
    fn a_suback_gets_other_codes_and_keeps_the_rest(
        version in versions(),
        packet_id in 1..=u16::MAX,
        of in some_properties(&[0x1F]),
        codes in prop::collection::vec(prop::sample::select(vec![0_u8, 1, 2, 0x80]), 1..200),
        others in prop::collection::vec(prop::sample::select(vec![0_u8, 1, 2, 0x80]), 1..200),
    ) {
        let build = |codes: &[u8]| {
            let head = [packet_id.to_be_bytes().to_vec(), properties(version, &of)].concat();
            packet(0x90, &[&head, codes].concat())
        };
        let octets = build(&codes);
        let Ok(FromBroker::SubAck(suback)) = read_from_broker(version, whole(&octets)) else {
            return Err(TestCaseError::fail("not read"));
        };
        prop_assert_eq!(suback.codes, &codes);
        let mut out = Vec::new();
        rewrite_suback(&suback, others.iter().copied(), &mut out);
        prop_assert_eq!(out, build(&others));
    }

    #[test]
    fn a_connack_without_changes_stays_as_it_came(
        of in some_properties(&[0x11, 0x21, 0x24, 0x25, 0x22, 0x1F, 0x28, 0x2A, 0x13, 0x1A, 0x15]),
        session_present: bool,
    ) {
        let body = [vec![u8::from(session_present), 0], properties(Version::V5, &of)].concat();
        let octets = packet(0x20, &body);
        let Ok(FromBroker::ConnAck(connack)) = read_from_broker(Version::V5, whole(&octets)) else {
            return Err(TestCaseError::fail("not read"));
        };
        let mut out = Vec::new();
        rewrite_connack(&connack, &ConnAckChange::default(), &mut out);
        prop_assert_eq!(out, octets);
    }
}

#[test]
fn proofs_are_left_out_of_a_connect_and_other_user_properties_are_not() {
    let user = |name, value| property(0x26, [field(name), field(value)].concat());
    let parts = ConnectParts {
        version: Version::V5,
        clean_start: false,
        keep_alive: 0,
        client_id: "id".into(),
        properties: [
            user("flytrap-token", "secret"),
            property(0x11, 100_u32.to_be_bytes()),
            property(0x15, field("METHOD")),
            user("kept", "1"),
            property(0x16, field("secret")),
            property(0x22, 5_u16.to_be_bytes()),
            user("kept", "2"),
            user("flytrap-token", "secret"),
        ]
        .concat(),
        will: None,
        user_name: Some("0xabc".into()),
        password: Some(b"secret".to_vec()),
    };
    let octets = parts.octets();
    let connect = read_connect(whole(&octets)).unwrap();
    let change = ConnectChange {
        remove_user_properties: &["flytrap-token"],
        keep_alive_cap: std::num::NonZeroU16::new(60),
        session_expiry_cap: Some(30),
        ..ConnectChange::new("wallet-id")
    };
    let mut out = Vec::new();
    rewrite_connect(&connect, &change, &mut out);
    let wanted = ConnectParts {
        keep_alive: 60,
        client_id: "wallet-id".into(),
        properties: [
            property(0x11, 30_u32.to_be_bytes()),
            user("kept", "1"),
            property(0x22, 5_u16.to_be_bytes()),
            user("kept", "2"),
        ]
        .concat(),
        user_name: None,
        password: None,
        ..parts
    };
    assert_eq!(out, wanted.octets());
    assert!(!out.windows(6).any(|octets| octets == b"secret"));
}

#[test]
fn caps_lower_but_never_raise() {
    for (sent, cap, wanted) in [(10, 60, 10), (60, 60, 60), (61, 60, 60), (0, 60, 60)] {
        let parts = ConnectParts {
            version: Version::V311,
            clean_start: true,
            keep_alive: sent,
            client_id: "id".into(),
            properties: vec![],
            will: None,
            user_name: None,
            password: None,
        };
        let octets = parts.octets();
        let connect = read_connect(whole(&octets)).unwrap();
        let keep_alive_cap = std::num::NonZeroU16::new(cap);
        let mut out = Vec::new();
        rewrite_connect(
            &connect,
            &ConnectChange { keep_alive_cap, ..ConnectChange::new("id") },
            &mut out,
        );
        assert_eq!(out, ConnectParts { keep_alive: wanted, ..parts }.octets());
    }
}

#[test]
fn a_will_can_be_left_out_with_all_its_flags() {
    let parts = ConnectParts {
        version: Version::V5,
        clean_start: true,
        keep_alive: 1,
        client_id: "id".into(),
        properties: vec![],
        will: Some(WillParts {
            topic: "t".into(),
            payload: vec![0, 255],
            qos: 2,
            retain: true,
            properties: property(0x18, 9_u32.to_be_bytes()),
        }),
        user_name: None,
        password: None,
    };
    let octets = parts.octets();
    let connect = read_connect(whole(&octets)).unwrap();
    assert_eq!(connect.will.unwrap().delay, 9);
    let mut out = Vec::new();
    let change = ConnectChange { remove_will: true, ..ConnectChange::new("id") };
    rewrite_connect(&connect, &change, &mut out);
    assert_eq!(out, ConnectParts { will: None, ..parts }.octets());
}

#[test]
fn a_connect_of_3_1_loses_the_bits_that_mean_nothing() {
    let odd = packet(0x1F, &[&field("MQIsdp")[..], &[3, 0xC3, 0, 1], &field("id")].concat());
    let connect = read_connect(whole(&odd)).unwrap();
    let mut out = Vec::new();
    rewrite_connect(&connect, &ConnectChange::new("id"), &mut out);
    assert_eq!(out, packet(0x10, &[&field("MQIsdp")[..], &[3, 2, 0, 1], &field("id")].concat()));
}

#[test]
fn a_connack_gets_what_the_gateway_owns() {
    let of = [
        property(0x12, field("wallet-made-up")),
        property(0x27, 5_000_u32.to_be_bytes()),
        property(0x13, 300_u16.to_be_bytes()),
        property(0x21, 7_u16.to_be_bytes()),
    ]
    .concat();
    let octets = packet(0x20, &[vec![1, 0], properties(Version::V5, &of)].concat());
    let Ok(FromBroker::ConnAck(connack)) = read_from_broker(Version::V5, whole(&octets)) else {
        panic!("not read")
    };
    let change = ConnAckChange {
        assigned_client_id: Some("made-up"),
        authentication_method: Some("METHOD"),
        authentication_data: Some(b"bye"),
        server_keep_alive: Some(60),
        session_expiry: Some(9),
        maximum_packet_size_cap: Some(6_000),
        receive_maximum_cap: NonZeroU16::new(8),
    };
    let mut out = Vec::new();
    rewrite_connack(&connack, &change, &mut out);
    let Ok(FromBroker::ConnAck(changed)) = read_from_broker(Version::V5, whole(&out)) else {
        panic!("not read")
    };
    assert!(changed.session_present);
    assert_eq!(changed.receive_maximum.get(), 7);
    assert_eq!(changed.assigned_client_id, Some("made-up"));
    assert_eq!(changed.authentication_method, Some("METHOD"));
    assert_eq!(changed.authentication_data, Some(&b"bye"[..]));
    assert_eq!(changed.server_keep_alive, Some(60));
    assert_eq!(changed.session_expiry, Some(9));
    assert_eq!(changed.maximum_packet_size.unwrap().get(), 5_000);
    // The smaller one counts, whoever it is of; it is said once.
    let change = ConnAckChange { receive_maximum_cap: NonZeroU16::new(6), ..change };
    let mut out = Vec::new();
    rewrite_connack(&connack, &change, &mut out);
    let Ok(FromBroker::ConnAck(changed)) = read_from_broker(Version::V5, whole(&out)) else {
        panic!("not read")
    };
    assert_eq!(changed.receive_maximum.get(), 6);
    // Without a word about it, the identifier of the gateway's making is not shown.
    let mut out = Vec::new();
    rewrite_connack(&connack, &ConnAckChange::default(), &mut out);
    assert!(!out.windows(6).any(|octets| octets == b"wallet"));
}

#[test]
fn a_disconnect_asks_for_no_longer_expiry_than_the_cap_and_keeps_all_else() {
    let build = |expiry: u32| {
        let of = [
            property(0x26, [field("k"), field("v")].concat()),
            property(0x11, expiry.to_be_bytes()),
            property(0x1F, field("why")),
        ];
        packet(0xE0, &[vec![0x04], properties(Version::V5, &of.concat())].concat())
    };
    for (asked, sent) in [(59, 59), (60, 60), (61, 60), (u32::MAX, 60)] {
        let octets = build(asked);
        let Ok(FromClient::Disconnect(disconnect)) = read_from_client(Version::V5, whole(&octets))
        else {
            panic!("not read")
        };
        let mut out = Vec::new();
        rewrite_disconnect(&disconnect, 60, &mut out);
        assert_eq!(out, build(sent), "{asked} s");
    }
}

#[test]
fn an_unsubscribe_and_its_acknowledgement_are_cut_alike() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let build = |filters: &[&str]| {
            let filters: Vec<u8> = filters.iter().flat_map(field).collect();
            packet(0xA2, &[vec![0, 9], properties(version, &[]), filters].concat())
        };
        let octets = build(&["a", "b/#", "c"]);
        let Ok(FromClient::Unsubscribe(unsubscribe)) = read_from_client(version, whole(&octets))
        else {
            panic!("not read")
        };
        let mut out = Vec::new();
        assert_eq!(rewrite_unsubscribe(&unsubscribe, |index| index != 1, &mut out), 2);
        assert_eq!(out, build(&["a", "c"]));
        out.clear();
        assert_eq!(rewrite_unsubscribe(&unsubscribe, |_| false, &mut out), 0);
        assert!(out.is_empty());

        let codes: &[u8] = if version.is_v5() { &[0, 0x11] } else { &[] };
        let build =
            |codes: &[u8]| packet(0xB0, &[&[0, 9], &properties(version, &[])[..], codes].concat());
        let octets = build(codes);
        let Ok(FromBroker::UnsubAck(unsuback)) = read_from_broker(version, whole(&octets)) else {
            panic!("not read")
        };
        rewrite_unsuback(&unsuback, [0x87, 0, 0x11], &mut out);
        assert_eq!(out, build(if version.is_v5() { &[0x87, 0, 0x11] } else { &[] }));
    }
}
