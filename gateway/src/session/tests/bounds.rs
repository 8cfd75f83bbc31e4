//! What a client uses is counted, and what it may is bounded.

use flytrap_mqtt::Will;

use super::*;
use crate::session::Used;

fn world() -> World {
    let rights = [Right::Publish, Right::Subscribe];
    rights
        .into_iter()
        .fold(World::new().topic("a"), |world, right| world.grant("a", right, NOW + 10))
}

/// 2 of flow control, by first octet.
fn ack(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

#[test]
fn messages_requests_and_octets_are_counted_whether_they_are_allowed_or_not() {
    let world = world().topic("b");
    for version in VERSIONS {
        let mut played = Played::bare(&world, version);
        for (octets, messages, requests) in [
            (publish(version, QoS::AtMostOnce, 0, "a/x", None), 1, 0),
            (publish(version, QoS::ExactlyOnce, 3, "b/x", None), 1, 0),
            (ack(0x62, 3), 1, 0),
            (ack(0x62, 4), 1, 0),
            (subscribe(version, 1, &["a/1", "b/2", "a/3"]), 0, 3),
            (unsubscribe(version, 2, "a/1"), 0, 1),
            (vec![0xC0, 0, 0xC0, 0], 0, 2),
        ] {
            played.client_sends(&octets);
            let used = std::mem::take(&mut played.machine.used);
            let wanted = Used { messages, requests, octets: octets.len() as u64 };
            assert_eq!(used, wanted, "{version:?}: {octets:02x?}");
        }
    }
}

/// THREATS D13: others decide how many deliveries there are, so their answers cost nothing; answers to nothing do.
#[test]
fn answers_to_deliveries_cost_nothing_and_answers_to_nothing_cost_like_messages() {
    let world = world();
    for version in VERSIONS {
        let mut played = Played::bare(&world, version);
        let delivery = |qos, id| publish(version, qos, id, "a/x", None);
        let mut costs = |octets: Vec<u8>| {
            played.client_sends(&octets);
            std::mem::take(&mut played.machine.used).messages
        };
        assert_eq!(costs(ack(0x40, 1)), 1, "nothing was delivered");
        let (one, two) = (delivery(QoS::AtLeastOnce, 1), delivery(QoS::ExactlyOnce, 2));
        played.broker_sends(&[delivery(QoS::AtMostOnce, 0), one, two].concat());
        let mut costs = |octets: Vec<u8>| {
            played.client_sends(&octets);
            std::mem::take(&mut played.machine.used).messages
        };
        assert_eq!((costs(ack(0x40, 1)), costs(ack(0x50, 2))), (0, 0));
        played.broker_sends(&ack(0x62, 2));
        let mut costs = |octets: Vec<u8>| {
            played.client_sends(&octets);
            std::mem::take(&mut played.machine.used).messages
        };
        assert_eq!(costs(ack(0x70, 2)), 0);
        assert_eq!(costs(ack(0x70, 2)), 1, "once more");
    }
}

/// THREATS D09
#[test]
fn publishes_under_way_are_bounded_until_they_are_answered() {
    let world = world();
    for version in VERSIONS {
        for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
            let mut played = Played::bare(&world, version);
            let send = |id| publish(version, qos, id, "a/x", None);
            let most = TERMS.max_in_flight;
            for id in 1..=most {
                assert!(played.client_sends(&send(id)).end.is_none(), "{version:?} {qos:?} {id}");
            }
            let first = if qos == QoS::AtLeastOnce { 0x40 } else { 0x50 };
            played.broker_sends(&ack(first, 1));
            if qos == QoS::ExactlyOnce {
                // Received is not complete.
                played.client_sends(&ack(0x62, 1));
                played.broker_sends(&ack(0x70, 1));
            }
            played.sent();
            assert_eq!(played.client_sends(&send(most + 1)).sent().0, send(most + 1));
            played.client_sends(&send(most + 2));
            assert!(matches!(played.end, Some(End::ClientInFlight)), "{:?}", played.end);
            assert_eq!(played.sent().0, Vec::<u8>::new(), "it never reached the broker");
        }
    }
}

#[test]
fn what_the_broker_refuses_is_under_way_no_more() {
    let world = world();
    let mut played = Played::bare(&world, Version::V5);
    for id in 1..100 {
        played.client_sends(&publish(Version::V5, QoS::ExactlyOnce, id, "a/x", None));
        assert!(played.end.is_none(), "{id}");
        played.broker_sends(&packet(0x50, &[&id.to_be_bytes()[..], &[0x97]].concat()));
    }
}

/// MQTT 5.0 section 3.14.2.2.2
#[test]
fn a_goodbye_asks_for_no_longer_session_than_the_cap() {
    let world = world();
    let connect = Connect { session_expiry: 1, ..Connect::bare(Version::V5) };
    let goodbye =
        |seconds: u32| packet(0xE0, &[&[0, 5, 0x11][..], &seconds.to_be_bytes()].concat());
    for (asked, sent) in [(TERMS.session_expiry_cap, 60), (61, 60), (u32::MAX, 60)] {
        let mut played = Played::new(&world, &connect, TERMS);
        assert_eq!(played.client_sends(&goodbye(asked)).sent().0, goodbye(sent), "{asked}");
        assert!(matches!(played.end, Some(End::ClientLeft)));
    }
}

/// ACCEPTANCE W34: a ban may hold here before the chain knows of it, which would still let the will fire.
#[test]
fn the_will_of_whoever_is_banned_is_taken_back() {
    let world = world();
    for version in VERSIONS {
        let will = Will {
            topic: "a/will",
            payload: b"w",
            qos: QoS::AtMostOnce,
            retain: false,
            properties: flytrap_mqtt::Properties::NONE,
            delay: 0,
            octets: &[],
        };
        let connect = Connect { will: Some(will), ..Connect::bare(version) };
        for (end, is_taken_back) in
            [(End::Denied(Denial::Banned { until: NOW + 1 }), true), (End::ClientLost, false)]
        {
            let mut played = Played::new(&world, &connect, TERMS);
            let (mut to_client, mut to_broker) = (Vec::new(), Vec::new());
            played.machine.leave(&end, Some(world.view()), &mut to_client, &mut to_broker);
            assert_eq!(to_broker == [0xE0, 0], is_taken_back, "{version:?}: {end}");
            let told = [0xE0, to_client.get(1).copied().unwrap_or_default(), 0x98];
            assert_eq!(to_client.starts_with(&told), is_taken_back && version.is_v5());
        }
    }
}
