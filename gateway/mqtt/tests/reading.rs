//! What valid packets say, and that no octets at all can harm the reader.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use common::*;
use flytrap_mqtt::*;
use proptest::prelude::*;

fn whole(octets: &[u8]) -> Frame<'_> {
    let frame = frame(octets, octets.len()).unwrap().unwrap();
    assert_eq!(frame.octets(), octets);
    frame
}

/// Reads octets in every way there is, and walks through every list that comes out.
fn read_all(octets: &[u8]) {
    let Ok(Some(frame)) = frame(octets, 4_096) else { return };
    if let Ok(connect) = read_connect(frame) {
        connect.user_properties().count();
        connect.properties.iter().count();
    }
    for version in [Version::V31, Version::V311, Version::V5] {
        match read_from_client(version, frame) {
            Ok(FromClient::Subscribe(subscribe)) => {
                assert_eq!(subscribe.filters().count(), subscribe.len());
            }
            Ok(FromClient::Unsubscribe(unsubscribe)) => {
                assert_eq!(unsubscribe.filters().count(), unsubscribe.len());
            }
            Ok(FromClient::Publish(publish)) => {
                let known = read_publish_known_topic(version, Peer::Client, frame, publish.topic);
                assert_eq!(known, Ok(publish));
                let topic = peek_publish_topic(&frame);
                assert_eq!(topic, Some(publish.topic.as_bytes()));
            }
            Ok(_) => (),
            Err(fault) => assert!(fault.reason_code() >= 0x80),
        }
        let _ = read_from_broker(version, frame);
        let _ = read_publish(version, Peer::Broker, frame);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_octets_make_a_reader_panic(octets in binary(0..200)) {
        read_all(&octets);
    }

    #[test]
    fn no_body_makes_a_reader_panic(first: u8, body in binary(0..100)) {
        read_all(&packet(first, &body));
    }

    #[test]
    fn no_small_damage_to_a_valid_packet_makes_a_reader_panic(
        octets in prop_oneof![
            some_connect().prop_map(|connect| connect.octets()),
            some_publish().prop_map(|publish| publish.octets()),
            some_subscribe().prop_map(|(version, id, properties, filters)| {
                subscribe_octets(version, id, &properties, &filters)
            }),
        ],
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut damaged = octets.clone();
        for (place, octet) in damage {
            let place = place.index(damaged.len());
            damaged[place] = octet;
        }
        read_all(&damaged);
        // Cut short, with a length that fits again.
        let header = octets.iter().skip(1).take_while(|octet| **octet >= 0x80).count() + 2;
        let body = &octets[header..];
        read_all(&packet(octets[0], &body[..cut.index(body.len() + 1)]));
    }

    #[test]
    fn a_connect_says_what_went_into_it(parts in some_connect()) {
        let octets = parts.octets();
        let connect = read_connect(whole(&octets)).unwrap();
        prop_assert_eq!(connect.version, parts.version);
        prop_assert_eq!(connect.clean_start, parts.clean_start);
        prop_assert_eq!(connect.keep_alive, parts.keep_alive);
        prop_assert_eq!(connect.client_id, parts.client_id);
        prop_assert_eq!(connect.user_name, parts.user_name.as_deref());
        prop_assert_eq!(connect.password, parts.password.as_deref());
        prop_assert_eq!(connect.properties.octets(), parts.properties);
        prop_assert_eq!(connect.will.is_some(), parts.will.is_some());
        if let (Some(will), Some(parts)) = (connect.will, &parts.will) {
            prop_assert_eq!(will.topic, &parts.topic);
            prop_assert_eq!(will.payload, &parts.payload);
            prop_assert_eq!((will.qos as u8, will.retain), (parts.qos, parts.retain));
            if connect.version.is_v5() {
                prop_assert_eq!(will.properties.octets(), &parts.properties);
            }
        }
        if !connect.version.is_v5() {
            let lasting = if connect.clean_start { 0 } else { u32::MAX };
            prop_assert_eq!(connect.session_expiry, lasting);
        }
    }

    #[test]
    fn a_publish_says_what_went_into_it(parts in some_publish()) {
        let octets = parts.octets();
        for from in [Peer::Client, Peer::Broker] {
            let publish = read_publish(parts.version, from, whole(&octets)).unwrap();
            prop_assert_eq!(publish.topic, &parts.topic);
            prop_assert_eq!(publish.payload, &parts.payload);
            prop_assert_eq!((publish.dup, publish.retain), (parts.dup, parts.retain));
            prop_assert_eq!(publish.qos as u8, parts.qos);
            let packet_id = (parts.qos > 0).then_some(parts.packet_id);
            prop_assert_eq!(publish.packet_id.map(PacketId::get), packet_id);
            if parts.version.is_v5() {
                prop_assert_eq!(publish.properties.octets(), &parts.properties);
            }
        }
    }

    #[test]
    fn a_subscribe_says_what_went_into_it(
        (version, packet_id, properties, filters) in some_subscribe(),
    ) {
        let octets = subscribe_octets(version, packet_id, &properties, &filters);
        let Ok(FromClient::Subscribe(subscribe)) = read_from_client(version, whole(&octets)) else {
            return Err(TestCaseError::fail("not read"));
        };
        prop_assert_eq!(subscribe.packet_id.get(), packet_id);
        prop_assert_eq!(subscribe.len(), filters.len());
        let read: Vec<_> =
            subscribe.filters().map(|one| (one.filter.to_owned(), one.options)).collect();
        prop_assert_eq!(&read, &filters);
        let octets: Vec<u8> =
            subscribe.filters().flat_map(|filter| filter.octets.to_vec()).collect();
        prop_assert!(whole(&subscribe_octets(version, packet_id, &properties, &filters))
            .octets()
            .ends_with(&octets));
    }
}

#[test]
fn singletons_of_connect_have_their_defaults_and_their_values() {
    let bare = packet(0x10, &[&field("MQTT")[..], &[5, 2, 0, 0, 0], &field("")].concat());
    let connect = read_connect(whole(&bare)).unwrap();
    assert_eq!(connect, Connect::bare(Version::V5));
    let properties = [
        property(0x11, 7_u32.to_be_bytes()),
        property(0x21, 8_u16.to_be_bytes()),
        property(0x27, 9_u32.to_be_bytes()),
        property(0x22, 10_u16.to_be_bytes()),
        property(0x17, [0]),
        property(0x19, [1]),
        property(0x15, field("method")),
        property(0x16, field([0, 255])),
        property(0x26, [field("name"), field("first")].concat()),
        property(0x26, [field("name"), field("second")].concat()),
    ]
    .concat();
    let head = [&field("MQTT")[..], &[5, 2, 0, 0]].concat();
    let full = packet(0x10, &[&head, &vbi(properties.len()), &properties, &field("")[..]].concat());
    let connect = read_connect(whole(&full)).unwrap();
    assert_eq!(connect.session_expiry, 7);
    assert_eq!(connect.receive_maximum.get(), 8);
    assert_eq!(connect.maximum_packet_size.unwrap().get(), 9);
    assert_eq!(connect.topic_alias_maximum, 10);
    assert!(!connect.request_problem_information);
    assert!(connect.request_response_information);
    assert_eq!(connect.authentication_method, Some("method"));
    assert_eq!(connect.authentication_data, Some(&[0, 255][..]));
    assert_eq!(connect.user_property("name"), Some("first"));
    let all: Vec<_> = connect.user_properties().collect();
    assert_eq!(all, [("name", "first"), ("name", "second")]);
}

#[test]
fn a_known_topic_is_believed_only_for_equal_octets() {
    let octets = packet(0x30, &[&field("a/b")[..], b"payload"].concat());
    let frame = whole(&octets);
    let read = |known| read_publish_known_topic(Version::V311, Peer::Client, frame, known);
    assert_eq!(read("a/b").unwrap().topic, "a/b");
    assert_eq!(read("a/c").unwrap().topic, "a/b");
    let bad = packet(0x30, &[&field("a/+")[..], b"payload"].concat());
    let read = |known| read_publish_known_topic(Version::V311, Peer::Client, whole(&bad), known);
    assert_eq!(read("a/b"), Err(Malformed::TopicName));
    // An empty name stays the alias's, whatever is known.
    let empty = packet(0x30, &field(""));
    let known = read_publish_known_topic(Version::V5, Peer::Client, whole(&empty), "");
    assert_eq!(known, Err(Malformed::Truncated));
    let empty = packet(0x30, &[field(""), vec![0]].concat());
    let known = read_publish_known_topic(Version::V5, Peer::Client, whole(&empty), "");
    assert_eq!(known, Err(Malformed::NoTopic));
}

#[test]
fn a_publish_from_the_broker_may_name_several_subscriptions() {
    let ids = [property(0x0B, vbi(1)), property(0x0B, vbi(300))].concat();
    let octets = packet(0x30, &[field("a"), properties(Version::V5, &ids)].concat());
    let publish = read_publish(Version::V5, Peer::Broker, whole(&octets)).unwrap();
    assert!(publish.has_subscription_ids);
    let ids: Vec<_> = publish
        .properties
        .iter()
        .map(|property| match property {
            Property::SubscriptionIdentifier(id) => id.get(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [1, 300]);
    assert_eq!(
        read_publish(Version::V5, Peer::Client, whole(&octets)),
        Err(Malformed::MisplacedProperty { id: 0x0B })
    );
}

#[test]
fn acknowledgements_of_mqtt_5_may_leave_out_what_is_nothing() {
    for (octets, reason) in [
        (&[0x40, 2, 0, 7][..], 0),
        (&[0x40, 3, 0, 7, 0x87], 0x87),
        (&[0x40, 4, 0, 7, 0x10, 0], 0x10),
    ] {
        let read = read_from_broker(Version::V5, whole(octets));
        let Ok(FromBroker::PubAck(ack)) = read else { panic!("{read:?}") };
        assert_eq!((ack.packet_id.get(), ack.reason), (7, reason));
        assert_eq!(ack.is_failure(), reason >= 0x80);
    }
}

#[test]
fn bare_disconnect_and_auth_are_read() {
    let read = read_from_client(Version::V5, whole(&[0xE0, 0]));
    assert!(matches!(read, Ok(FromClient::Disconnect(Disconnect { reason: 0, .. }))), "{read:?}");
    for octets in [&[0xF0, 0][..], &[0xF0, 1, 0], &[0xF0, 2, 0, 0]] {
        let read = read_from_broker(Version::V5, whole(octets));
        let Ok(FromBroker::Auth(auth)) = read else { panic!("{read:?}") };
        assert_eq!((auth.reason, auth.method), (0, None));
    }
}

/// 3.1 section 3.1: the remaining length takes precedence over the flags of user name and password.
#[test]
fn a_client_of_3_1_may_leave_out_the_login_it_announces_and_set_unused_bits() {
    let head = [&field("MQIsdp")[..], &[3, 0xC3, 0, 10], &field("id")].concat();
    for (login, user_name, password) in [
        (vec![], None, None),
        (field("me"), Some("me"), None),
        ([field("me"), field("pw")].concat(), Some("me"), Some(&b"pw"[..])),
    ] {
        let octets = packet(0x1E, &[head.clone(), login].concat());
        let connect = read_connect(whole(&octets)).unwrap();
        assert_eq!((connect.user_name, connect.password), (user_name, password));
        assert_eq!((connect.version, connect.clean_start), (Version::V31, true));
    }
    let repeated = packet(0x8A, &[&[0, 1][..], &field("a"), &[1]].concat());
    assert!(read_from_client(Version::V31, whole(&repeated)).is_ok());
    assert_eq!(
        read_from_client(Version::V311, whole(&repeated)),
        Err(Malformed::HeaderFlags { kind: 8, flags: 0b1010 })
    );
}
