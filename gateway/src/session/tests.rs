//! Histories played to the machine, judged by what would have reached the broker and the client.

#![allow(clippy::cast_possible_truncation, reason = "packets made here are small")]

mod bounds;

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use flytrap_mqtt::{
    Connect, FromBroker, QoS, Version, encode, frame, read_connect, read_from_broker,
};
use flytrap_policy::{
    AlertKind, Concern, Credential, CredentialKind, Denial, Event, NameEntry, Names, NamingPolicy,
    Offer, OfferMode, Options, Principal, Registry, Right, Stamp, Traits, View, topic_id,
};

use super::renewal::Step;
use super::{Clock, End, Lane, Machine, Terms};
use crate::config::DenyAction;

const OWNER: Address = Address::repeat_byte(0x0A);
const READER: Address = Address::repeat_byte(0x0B);
const NOW: u64 = 1_000;

/// A chain of one broker, as far as a machine can see it.
struct World {
    registry: Registry,
    names: Names,
    version: u64,
    height: u64,
}

impl World {
    fn new() -> Self {
        let (registry, names) = (Registry::new(U256::ONE), Names::default());
        let mut world = Self { registry, names, version: 0, height: 0 };
        world.happen(Event::BrokerCreated {
            broker_id: U256::ONE,
            owner: OWNER,
            policy: NamingPolicy::Open,
            name: "b".into(),
        });
        world
    }

    fn happen(&mut self, event: Event) {
        self.version += 1;
        self.height += 1;
        let at = Stamp { height: self.height, time: NOW };
        self.registry.apply(&event, at).unwrap();
    }

    fn topic(mut self, name: &str) -> Self {
        let closed = Offer { mode: OfferMode::Closed, period: 0, price_wei: 0 };
        self.happen(Event::TopicRegistered {
            broker_id: U256::ONE,
            topic_id: topic_id(U256::ONE, name),
            owner: OWNER,
            epoch: 1,
            name: name.into(),
            traits: Traits { retain: false, sensitive: false, own_branch: false },
            publish_offer: closed,
            subscribe_offer: closed,
        });
        self
    }

    fn grant(mut self, name: &str, right: Right, until: u64) -> Self {
        self.happen(Event::AccessGranted {
            broker_id: U256::ONE,
            topic_id: topic_id(U256::ONE, name),
            wallet: READER,
            right,
            epoch: 1,
            until,
            by: OWNER,
            fee_wei: U256::ZERO,
            purpose: B256::ZERO,
            note: String::new(),
        });
        self
    }

    fn revoke(&mut self, name: &str, right: Right) {
        self.happen(Event::AccessRevoked {
            broker_id: U256::ONE,
            topic_id: topic_id(U256::ONE, name),
            wallet: READER,
            right,
            epoch: 1,
            was: NOW + 10,
            refund_wei: U256::ZERO,
            by: OWNER,
            purpose: B256::ZERO,
            note: String::new(),
        });
    }

    fn view(&self) -> Arc<View> {
        let registry = Arc::new(self.registry.clone());
        let view = View {
            settled: registry.clone(),
            head: registry,
            height: self.height,
            time: NOW,
            version: self.version,
            concern: Concern::EVERYONE,
            options: Options::default(),
        };
        Arc::new(view.with_names(&self.names))
    }
}

/// One machine and what it has sent.
struct Played {
    machine: Machine,
    to_broker: Vec<u8>,
    to_client: Vec<u8>,
    end: Option<End>,
}

fn principal() -> Principal {
    Principal {
        wallet: READER,
        key: READER,
        credential: Credential {
            kind: CredentialKind::Token,
            issued_at: NOW - 10,
            expires_at: u64::MAX,
        },
        country: None,
    }
}

fn clock(now: u64, elapsed: u64) -> Clock {
    Clock { now, elapsed: Duration::from_secs(elapsed) }
}

const TERMS: Terms = Terms {
    deny_action: DenyAction::Acknowledge,
    max_packet_octets: 1024 * 1024,
    max_subscriptions: 3,
    max_in_flight: 8,
    session_expiry_cap: 60,
};

impl Played {
    fn new(world: &World, connect: &Connect<'_>, terms: Terms) -> Self {
        let octets: &[u8] = if connect.version.is_v5() {
            &[0x20, 6, 0, 0, 3, 0x22, 0, 5]
        } else {
            &[0x20, 2, 0, 0]
        };
        let Ok(FromBroker::ConnAck(connack)) =
            read_from_broker(connect.version, frame(octets, 100).unwrap().unwrap())
        else {
            panic!("a CONNACK")
        };
        let machine =
            Machine::new(principal(), connect, &connack, terms, world.view(), clock(NOW, 0));
        let mut played = Self { machine, to_broker: Vec::new(), to_client: Vec::new(), end: None };
        played.follow(world);
        played
    }

    fn bare(world: &World, version: Version) -> Self {
        Self::new(world, &Connect { topic_alias_maximum: 5, ..Connect::bare(version) }, TERMS)
    }

    fn client_sends(&mut self, octets: &[u8]) -> &mut Self {
        let (mut ahead, mut back) = (Vec::new(), Vec::new());
        let (mut to_broker, mut to_client) =
            (Lane::new(octets, &mut ahead), Lane::new(&[], &mut back));
        let (taken, done) = self.machine.client_octets(octets, &mut to_broker, &mut to_client);
        self.to_broker.extend_from_slice(to_broker.octets());
        self.to_client.extend_from_slice(to_client.octets());
        self.machine.traffic.packets_to_broker += to_broker.forwarded();
        self.machine.heard_client(!to_broker.octets().is_empty());
        assert!(done.is_err() || taken == octets.len(), "whole frames are taken whole");
        self.end = done.err();
        self
    }

    fn broker_sends(&mut self, octets: &[u8]) -> &mut Self {
        let (mut ahead, mut back) = (Vec::new(), Vec::new());
        let (mut to_client, mut to_broker) =
            (Lane::new(octets, &mut ahead), Lane::new(&[], &mut back));
        let (_, done) = self.machine.broker_octets(octets, &mut to_client, &mut to_broker);
        self.to_client.extend_from_slice(to_client.octets());
        self.to_broker.extend_from_slice(to_broker.octets());
        self.machine.traffic.packets_to_client += to_client.forwarded();
        self.end = done.err();
        self
    }

    fn follow(&mut self, world: &World) -> &mut Self {
        let mut buffer = Vec::new();
        let mut to_broker = Lane::new(&[], &mut buffer);
        self.end = self.machine.follow(world.view(), &mut to_broker).err();
        self.to_broker.extend_from_slice(to_broker.octets());
        self
    }

    fn tick(&mut self, world: &World, clock: Clock) -> &mut Self {
        let mut buffer = Vec::new();
        let mut to_broker = Lane::new(&[], &mut buffer);
        self.machine.set_clock(clock);
        self.end = self.machine.tick(world.view(), &mut to_broker).err();
        self.to_broker.extend_from_slice(to_broker.octets());
        self
    }

    /// What went to the broker and to the client since the last time.
    fn sent(&mut self) -> (Vec<u8>, Vec<u8>) {
        (std::mem::take(&mut self.to_broker), std::mem::take(&mut self.to_client))
    }
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    let mut out = vec![first, body.len() as u8];
    out.extend_from_slice(body);
    out
}

fn publish(version: Version, qos: QoS, id: u16, topic: &str, alias: Option<u16>) -> Vec<u8> {
    let mut body = (topic.len() as u16).to_be_bytes().to_vec();
    body.extend_from_slice(topic.as_bytes());
    if qos != QoS::AtMostOnce {
        body.extend_from_slice(&id.to_be_bytes());
    }
    if version.is_v5() {
        match alias {
            Some(alias) => {
                body.extend_from_slice(&[3, 0x23]);
                body.extend_from_slice(&alias.to_be_bytes());
            }
            None => body.push(0),
        }
    }
    body.push(b'x');
    packet(0x30 | (qos as u8) << 1, &body)
}

fn subscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version.is_v5() {
        body.push(0);
    }
    for filter in filters {
        body.extend_from_slice(&(filter.len() as u16).to_be_bytes());
        body.extend_from_slice(filter.as_bytes());
        body.push(0);
    }
    packet(0x82, &body)
}

fn unsubscribe(version: Version, id: u16, filter: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::unsubscribe(version, id.try_into().unwrap(), [filter], &mut out);
    out
}

const VERSIONS: [Version; 3] = [Version::V31, Version::V311, Version::V5];

#[test]
fn an_allowed_publish_is_forwarded_as_it_came() {
    let world = World::new().topic("farm").grant("farm", Right::Publish, NOW + 10);
    for version in VERSIONS {
        let mut played = Played::bare(&world, version);
        let octets = [
            publish(version, QoS::AtMostOnce, 0, "farm/ph", None),
            publish(version, QoS::AtLeastOnce, 7, "farm/ph", None),
            publish(version, QoS::ExactlyOnce, 8, "farm", None),
        ]
        .concat();
        assert_eq!(played.client_sends(&octets).sent(), (octets, vec![]));
        assert_eq!(played.machine.traffic.publishes_allowed, 3);
    }
}

/// What is counted is sealed under a key of whoever published, which the owner of the name cannot have deleted.
#[test]
fn of_a_name_below_a_hidden_one_only_what_follows_that_is_counted() {
    let mut world = World::new().topic("ward");
    let closed = Offer { mode: OfferMode::Closed, period: 0, price_wei: 0 };
    let (parent_id, commitment) = (topic_id(U256::ONE, "ward"), B256::repeat_byte(1));
    let id = flytrap_policy::hidden_topic_id(U256::ONE, parent_id, commitment);
    world.happen(Event::HiddenTopicRegistered {
        broker_id: U256::ONE,
        topic_id: id,
        owner: READER,
        epoch: 1,
        parent_id,
        commitment,
        traits: Traits { retain: false, sensitive: true, own_branch: false },
        publish_offer: closed,
        subscribe_offer: closed,
    });
    let entry = NameEntry { epoch: 1, at: 1, name: Some("ward/jane".into()) };
    world.names.put(id, entry);
    let counted = |names: [&str; 2]| {
        let mut played = Played::bare(&world, Version::V5);
        for name in names {
            played.client_sends(&publish(Version::V5, QoS::AtMostOnce, 0, name, None));
        }
        let tallies = played.machine.take_tallies();
        assert_eq!((tallies.len(), tallies[0].topic_id, tallies[0].count), (1, id, 2));
        tallies[0].name.clone().map(|name| String::from_utf8(name.into_vec()).unwrap())
    };
    let mut played = Played::bare(&world, Version::V5);
    played.machine.tally(false, true);
    for _ in 0..3 {
        played.client_sends(&publish(Version::V5, QoS::AtMostOnce, 0, "ward/jane", None));
    }
    assert_eq!(played.machine.tallies_due(Duration::from_secs(9)), Some(Duration::ZERO));
    let each: Vec<u64> = played.machine.take_tallies().iter().map(|tally| tally.count).collect();
    assert_eq!(each, [1, 1, 1]);
    assert_eq!(counted(["ward/jane/pulse"; 2]).as_deref(), Some("/pulse"));
    assert_eq!(counted(["ward/jane"; 2]).as_deref(), Some(""));
    assert_eq!(counted(["ward/jane", "ward/jane/pulse"]), None);
}

/// Those of QoS 0 that begin alike are not read one by one.
#[test]
fn what_comes_at_once_is_decided_and_counted_as_if_it_came_one_by_one() {
    let mut world = World::new().topic("farm").topic("barn").topic("ward").topic("mine");
    for name in ["farm", "ward"] {
        for right in [Right::Publish, Right::Subscribe] {
            world = world.grant(name, right, NOW + 10);
        }
    }
    let traits = Traits { retain: true, sensitive: true, own_branch: false };
    world.happen(Event::TraitsSet {
        broker_id: U256::ONE,
        topic_id: topic_id(U256::ONE, "ward"),
        traits,
    });
    let modes = [(false, false), (true, false), (false, true), (true, true)];
    for (version, (plain_too, each)) in [Version::V311, Version::V5]
        .into_iter()
        .flat_map(|version| modes.map(|mode| (version, mode)))
    {
        let message = |first: u8, name: &str, payload: &str| {
            let mut octets = publish(version, QoS::AtMostOnce, 0, name, None);
            octets[0] |= first;
            octets[1] += payload.len() as u8;
            octets.extend_from_slice(payload.as_bytes());
            octets
        };
        let run = |name| ["1", "2", "3"].map(|payload| message(0, name, payload));
        let packets = [
            &run("farm")[..],
            &run("barn"),
            &run("ward"),
            &run("farm"),
            &[message(1, "farm", "r"), message(0, "farm", "longer"), message(0, "farm", "4")],
            &[publish(version, QoS::AtLeastOnce, 7, "farm", None)],
            &[publish(version, QoS::AtLeastOnce, 8, "farm", None)],
            &run("mine"),
        ]
        .concat();
        let [mut at_once, mut singly] = [(); 2].map(|()| {
            let mut played = Played::bare(&world, version);
            played.machine.tally(plain_too, each);
            played
        });
        let all = packets.concat();
        at_once.client_sends(&all).broker_sends(&all);
        for packet in &packets {
            singly.client_sends(packet);
        }
        for packet in &packets {
            singly.broker_sends(packet);
        }
        assert_eq!(at_once.sent(), singly.sent());
        let counted = |played: &mut Played| {
            let tallies = played.machine.take_tallies();
            (format!("{:?}", played.machine.traffic), format!("{:?}", played.machine.used), tallies)
        };
        let found = counted(&mut at_once);
        assert_eq!(found, counted(&mut singly));
        let wanted = if plain_too { 13 + 14 } else { 3 + 3 };
        assert_eq!(found.2.iter().map(|tally| tally.count).sum::<u64>(), wanted);
        let traffic = &at_once.machine.traffic;
        assert_eq!((traffic.publishes_allowed, traffic.publishes_refused), (13, 7));
        assert_eq!((traffic.deliveries_allowed, traffic.deliveries_withheld), (14, 6));
    }
}

#[test]
fn a_refused_publish_never_reaches_the_broker_and_is_answered_by_version_and_qos() {
    let world = World::new().topic("farm").grant("farm", Right::Subscribe, NOW + 10);
    for (version, qos, answer) in [
        (Version::V31, QoS::AtMostOnce, vec![]),
        (Version::V311, QoS::AtMostOnce, vec![]),
        (Version::V5, QoS::AtMostOnce, vec![]),
        (Version::V31, QoS::AtLeastOnce, vec![0x40, 2, 0xFF, 0xFE]),
        (Version::V311, QoS::AtLeastOnce, vec![0x40, 2, 0xFF, 0xFE]),
        (Version::V5, QoS::AtLeastOnce, vec![0x40, 3, 0xFF, 0xFE, 0x87]),
        (Version::V31, QoS::ExactlyOnce, vec![0x50, 2, 0xFF, 0xFE]),
        (Version::V311, QoS::ExactlyOnce, vec![0x50, 2, 0xFF, 0xFE]),
        (Version::V5, QoS::ExactlyOnce, vec![0x50, 3, 0xFF, 0xFE, 0x87]),
    ] {
        let mut connect = Connect::bare(version);
        connect.request_problem_information = false;
        let mut played = Played::new(&world, &connect, TERMS);
        let octets = publish(version, qos, 0xFFFE, "farm/ph", None);
        assert_eq!(played.client_sends(&octets).sent(), (vec![], answer), "{version:?} {qos:?}");
        assert!(played.end.is_none());
        let notes = played.machine.take_notes();
        assert_eq!((notes.len(), notes[0].kind, notes[0].count), (1, AlertKind::PublishRefused, 1));
        assert_eq!(notes[0].topic_id, Some(topic_id(U256::ONE, "farm")));
    }
}

#[test]
fn a_refusal_says_why_if_the_client_wants_to_know_and_it_fits() {
    let world = World::new().topic("farm");
    let octets = publish(Version::V5, QoS::AtLeastOnce, 1, "farm/ph", None);
    let mut played = Played::bare(&world, Version::V5);
    let (_, answer) = played.client_sends(&octets).sent();
    assert!(answer.windows(8).any(|w| w == b"no grant"), "{answer:02x?}");
    let mut small = Connect::bare(Version::V5);
    small.maximum_packet_size = 40.try_into().ok();
    let (_, answer) = Played::new(&world, &small, TERMS).client_sends(&octets).sent();
    assert_eq!(answer, [0x40, 3, 0, 1, 0x87]);
}

#[test]
fn a_listener_may_close_on_a_refused_publish_of_mqtt_3() {
    let world = World::new().topic("farm");
    let terms = Terms { deny_action: DenyAction::Close, ..TERMS };
    for (version, closes) in [(Version::V31, true), (Version::V311, true), (Version::V5, false)] {
        let mut played = Played::new(&world, &Connect::bare(version), terms);
        played.client_sends(&publish(version, QoS::AtMostOnce, 0, "farm/ph", None));
        assert_eq!(matches!(played.end, Some(End::Refused(_))), closes, "{version:?}");
        assert_eq!(played.sent().0, Vec::<u8>::new());
    }
}

#[test]
fn the_pubrel_of_a_refused_publish_is_answered_by_the_gateway_once() {
    let world = World::new().topic("farm");
    for (version, answer) in
        [(Version::V311, vec![0x70, 2, 0, 9]), (Version::V5, vec![0x70, 3, 0, 9, 0x92])]
    {
        let mut played = Played::bare(&world, version);
        played.client_sends(&publish(version, QoS::ExactlyOnce, 9, "farm/ph", None)).sent();
        let pubrel = [0x62, 2, 0, 9];
        assert_eq!(played.client_sends(&pubrel).sent(), (vec![], answer));
        assert_eq!(played.client_sends(&pubrel).sent(), (pubrel.to_vec(), vec![]));
    }
}

#[test]
fn answers_keep_the_order_of_the_publishes() {
    let world = World::new().topic("a").topic("b").grant("a", Right::Publish, NOW + 10);
    let mut played = Played::bare(&world, Version::V311);
    let (good, bad) = (
        publish(Version::V311, QoS::AtLeastOnce, 1, "a", None),
        publish(Version::V311, QoS::AtLeastOnce, 2, "b", None),
    );
    assert_eq!(played.client_sends(&[good.clone(), bad].concat()).sent(), (good, vec![]));
    let (_, answers) = played.broker_sends(&[0x40, 2, 0, 1]).sent();
    assert_eq!(answers, [0x40, 2, 0, 1, 0x40, 2, 0, 2]);
}

#[test]
fn subscribe_is_cut_to_what_is_allowed_and_suback_keeps_the_clients_order() {
    let world =
        World::new().topic("farm").topic("farm/secret").grant("farm", Right::Subscribe, NOW + 10);
    for (version, no) in [(Version::V31, 0x80), (Version::V311, 0x80), (Version::V5, 0x87)] {
        let mut played = Played::bare(&world, version);
        let wanted =
            subscribe(version, 77, &["farm/secret/x", "farm/a", "#", "$share/g/farm/b", "$SYS/#"]);
        let (to_broker, to_client) = played.client_sends(&wanted).sent();
        assert_eq!(to_broker, subscribe(version, 77, &["farm/a", "$share/g/farm/b"]));
        assert_eq!(to_client, Vec::<u8>::new());
        let answer = |codes: &[u8]| {
            let mut body = vec![0, 77];
            body.extend_from_slice(if version.is_v5() { &[0] } else { &[] });
            body.extend_from_slice(codes);
            packet(0x90, &body)
        };
        let (_, suback) = played.broker_sends(&answer(&[1, 0x80])).sent();
        assert_eq!(suback, answer(&[no, 1, no, 0x80, no]));
    }
}

#[test]
fn a_subscribe_of_refused_filters_alone_is_answered_by_the_gateway() {
    let world = World::new().topic("farm");
    let mut played = Played::bare(&world, Version::V311);
    let (to_broker, to_client) =
        played.client_sends(&subscribe(Version::V311, 0xFFFE, &["farm/a", "x"])).sent();
    assert_eq!((to_broker, to_client), (vec![], vec![0x90, 4, 0xFF, 0xFE, 0x80, 0x80]));
}

#[test]
fn subscriptions_are_bounded() {
    let world = World::new().topic("farm").grant("farm", Right::Subscribe, NOW + 10);
    let mut played = Played::bare(&world, Version::V5);
    played.client_sends(&subscribe(Version::V5, 1, &["farm/1", "farm/2", "farm/3", "farm/4"]));
    assert_eq!(played.sent().0, subscribe(Version::V5, 1, &["farm/1", "farm/2", "farm/3"]));
    let (_, suback) = played.broker_sends(&[0x90, 6, 0, 1, 0, 0, 0, 0]).sent();
    assert_eq!(suback, [0x90, 7, 0, 1, 0, 0, 0, 0, 0x97]);
    let (to_broker, _) = played.client_sends(&subscribe(Version::V5, 2, &["farm/3"])).sent();
    assert_eq!(to_broker, subscribe(Version::V5, 2, &["farm/3"]), "a renewed one is not a new one");
}

#[test]
fn a_delivery_without_right_is_withheld_and_answered_in_the_clients_stead() {
    let world = World::new().topic("a").topic("b").grant("a", Right::Subscribe, NOW + 10);
    for version in VERSIONS {
        let mut played = Played::bare(&world, version);
        for (qos, answer) in [
            (QoS::AtMostOnce, vec![]),
            (QoS::AtLeastOnce, vec![0x40, 2, 0, 5]),
            (QoS::ExactlyOnce, vec![0x50, 2, 0, 5]),
        ] {
            let message = publish(version, qos, 5, "b/x", None);
            assert_eq!(played.broker_sends(&message).sent(), (answer, vec![]), "{qos:?}");
        }
        let pubrel = [0x62, 2, 0, 5];
        let (to_broker, to_client) = played.broker_sends(&pubrel).sent();
        assert_eq!((to_broker, to_client), (vec![0x70, 2, 0, 5], vec![]));
        let allowed = publish(version, QoS::ExactlyOnce, 5, "a/x", None);
        assert_eq!(played.broker_sends(&allowed).sent(), (vec![], allowed));
        assert_eq!(played.broker_sends(&pubrel).sent(), (vec![], pubrel.to_vec()));
    }
}

#[test]
fn a_revocation_stops_the_next_message_and_unsubscribes_at_the_broker() {
    let mut world = World::new()
        .topic("a")
        .topic("b")
        .grant("a", Right::Subscribe, NOW + 10)
        .grant("b", Right::Subscribe, NOW + 10);
    let mut played = Played::bare(&world, Version::V311);
    played.client_sends(&subscribe(Version::V311, 1, &["a/x", "b/x"])).sent();
    played.broker_sends(&[0x90, 4, 0, 1, 0, 0]).sent();
    let message = publish(Version::V311, QoS::AtMostOnce, 0, "a/x", None);
    assert_eq!(played.broker_sends(&message).sent(), (vec![], message.clone()));
    world.revoke("a", Right::Subscribe);
    let (to_broker, _) = played.follow(&world).sent();
    assert_eq!(to_broker, unsubscribe(Version::V311, 0xFFFF, "a/x"));
    assert!(played.end.is_none(), "the other subscription lives on");
    assert_eq!(played.broker_sends(&message).sent(), (vec![], vec![]));
    let answer = [0xB0, 2, 0xFF, 0xFF];
    assert_eq!(played.broker_sends(&answer).sent(), (vec![], vec![]), "not the client's to see");
    played.client_sends(&unsubscribe(Version::V311, 0xFFFF, "b/x")).sent();
    assert_eq!(played.broker_sends(&answer).sent(), (vec![], answer.to_vec()));
}

#[test]
fn a_session_that_has_lost_all_it_was_there_for_is_told_and_ended() {
    let mut world = World::new().topic("a").grant("a", Right::Subscribe, NOW + 10);
    let mut played = Played::bare(&world, Version::V5);
    played.client_sends(&subscribe(Version::V5, 1, &["a/x"]));
    played.broker_sends(&[0x90, 4, 0, 1, 0, 0]).sent();
    world.revoke("a", Right::Subscribe);
    let end = played.follow(&world).end.take().unwrap();
    assert!(
        matches!(end, End::Denied(Denial::GrantEnded { .. } | Denial::NoGrant { .. })),
        "{end:?}"
    );
    let (mut to_client, mut to_broker) = (Vec::new(), Vec::new());
    played.machine.leave(&end, Some(world.view()), &mut to_client, &mut to_broker);
    assert_eq!((to_client[0], to_client[2]), (0xE0, 0x87));
}

#[test]
fn a_right_that_ends_between_subscribe_and_suback_is_taken_back() {
    let mut world = World::new().topic("a").grant("a", Right::Subscribe, NOW + 10);
    let mut played = Played::bare(&world, Version::V311);
    played.client_sends(&subscribe(Version::V311, 1, &["a/x"])).sent();
    world.revoke("a", Right::Subscribe);
    played.follow(&world);
    let (to_broker, to_client) = played.broker_sends(&[0x90, 3, 0, 1, 0]).sent();
    assert_eq!(to_client, [0x90, 3, 0, 1, 0]);
    assert_eq!(to_broker, unsubscribe(Version::V311, 0xFFFF, "a/x"));
}

/// What is judged again shows in what happens to a right that is gone without anybody being told.
#[test]
fn a_session_judges_again_only_what_may_concern_it() {
    let grant = |world: World, name| world.topic(name).grant(name, Right::Subscribe, NOW + 10);
    let mut world = grant(grant(World::new(), "a"), "b");
    let mut played = Played::bare(&world, Version::V311);
    played.client_sends(&subscribe(Version::V311, 1, &["a/x", "b/x"]));
    played.broker_sends(&[0x90, 4, 0, 1, 0, 0]).sent();
    let message = publish(Version::V311, QoS::AtMostOnce, 0, "a/x", None);
    assert_eq!(played.broker_sends(&message).sent().1, message);
    world.revoke("a", Right::Subscribe);
    let seen = |concern: Concern, versions: u64| {
        Arc::new(View { concern, version: world.version + versions, ..(*world.view()).clone() })
    };
    let follow = |played: &mut Played, view| {
        let mut buffer = Vec::new();
        let mut to_broker = Lane::new(&[], &mut buffer);
        played.machine.follow(view, &mut to_broker).unwrap();
        (buffer, played.broker_sends(&message).sent().1)
    };
    let gone = (unsubscribe(Version::V311, 0xFFFF, "a/x"), Vec::new());
    let kept = (Vec::new(), message.clone());
    assert_eq!(follow(&mut played, seen(Concern::NOBODY, 0)), kept, "it concerned nobody");
    // Between these two there was a third, which nobody has told it of.
    assert_eq!(follow(&mut played, seen(Concern::NOBODY, 2)), gone);
    assert_eq!(played.machine.view_version(), world.version + 2);
}

#[test]
fn paid_time_ends_by_itself() {
    let world = World::new().topic("a").grant("a", Right::Subscribe, NOW + 10).grant(
        "a",
        Right::Publish,
        NOW + 10,
    );
    let mut played = Played::bare(&world, Version::V311);
    played.client_sends(&subscribe(Version::V311, 1, &["a/x"]));
    played.broker_sends(&[0x90, 3, 0, 1, 0]).sent();
    assert!(played.machine.take_rearm());
    assert_eq!(played.machine.deadline().1, Some(NOW + 10));
    let message = publish(Version::V311, QoS::AtMostOnce, 0, "a/x", None);
    played.machine.set_clock(clock(NOW + 9, 9));
    assert_eq!(played.broker_sends(&message).sent().1, message);
    assert_eq!(played.client_sends(&message).sent().0, message);
    played.machine.set_clock(clock(NOW + 10, 10));
    assert_eq!(played.broker_sends(&message).sent(), (vec![], vec![]));
    assert_eq!(played.client_sends(&message).sent(), (vec![], vec![]));
    let (to_broker, _) = played.tick(&world, clock(NOW + 10, 10)).sent();
    assert_eq!(to_broker, unsubscribe(Version::V311, 0xFFFF, "a/x"));
}

#[test]
fn an_alias_is_spelt_out_until_the_broker_knows_it() {
    let mut world = World::new().topic("a").topic("b").grant("a", Right::Publish, NOW + 10);
    let mut played = Played::bare(&world, Version::V5);
    let v5 = |topic, alias| publish(Version::V5, QoS::AtMostOnce, 0, topic, Some(alias));
    assert_eq!(played.client_sends(&v5("a", 1)).sent().0, v5("a", 1));
    assert_eq!(played.client_sends(&v5("", 1)).sent().0, v5("", 1));
    assert_eq!(
        played.client_sends(&v5("b", 1)).sent().0,
        Vec::<u8>::new(),
        "refused, but now it means b"
    );
    assert_eq!(
        played.client_sends(&v5("", 1)).sent().0,
        Vec::<u8>::new(),
        "so it does not mean a any more"
    );
    world = world.grant("b", Right::Publish, NOW + 10);
    played.follow(&world);
    assert_eq!(
        played.client_sends(&v5("", 1)).sent().0,
        v5("b", 1),
        "spelt out: the broker knows a"
    );
    assert_eq!(played.client_sends(&v5("", 1)).sent().0, v5("", 1));
    assert!(matches!(played.client_sends(&v5("", 2)).end, Some(End::ClientAlias)), "never set");
    assert!(
        matches!(played.client_sends(&v5("a", 6)).end, Some(End::ClientAlias)),
        "past the maximum"
    );
}

#[test]
fn a_withheld_alias_is_spelt_out_to_the_client() {
    let mut world = World::new().topic("a");
    let mut played = Played::bare(&world, Version::V5);
    let v5 = |topic, alias| publish(Version::V5, QoS::AtMostOnce, 0, topic, Some(alias));
    assert_eq!(played.broker_sends(&v5("a/x", 1)).sent().1, Vec::<u8>::new());
    world = world.grant("a", Right::Subscribe, NOW + 10);
    played.follow(&world);
    assert_eq!(played.broker_sends(&v5("", 1)).sent().1, v5("a/x", 1));
    assert_eq!(played.broker_sends(&v5("", 1)).sent().1, v5("", 1));
    assert!(matches!(played.broker_sends(&v5("", 2)).end, Some(End::BrokerFault(_))));
}

#[test]
fn a_ban_ends_the_session_and_its_will_does_not_fire() {
    let mut world = World::new().topic("a").grant("a", Right::Publish, NOW + 10);
    let mut connect = Vec::new();
    encode_connect_with_will(&mut connect);
    let connect = read_connect(frame(&connect, 1000).unwrap().unwrap()).unwrap();
    let mut played = Played::new(&world, &connect, TERMS);
    let (mut to_client, mut to_broker) = (Vec::new(), Vec::new());
    played.machine.leave(&End::ClientLost, Some(world.view()), &mut to_client, &mut to_broker);
    assert_eq!(to_broker, Vec::<u8>::new(), "the right stands, so the broker may publish the will");
    world.happen(Event::WalletBanned {
        broker_id: U256::ONE,
        wallet: READER,
        by: OWNER,
        until: NOW + 60,
        evidence: B256::ZERO,
        reason: String::new(),
    });
    let end = played.follow(&world).end.take().unwrap();
    assert!(matches!(end, End::Denied(Denial::Banned { .. })), "{end:?}");
    played.machine.leave(&end, Some(world.view()), &mut to_client, &mut to_broker);
    assert_eq!((to_client[0], to_client[2]), (0xE0, 0x98));
    assert_eq!(to_broker, [0xE0, 0]);
}

fn encode_connect_with_will(out: &mut Vec<u8>) {
    let body =
        [b"\0\x04MQTT\x05\x06\0\x3c\0".as_slice(), b"\0\x01c", b"\0\0\x03a/w\0\x01x"].concat();
    out.extend_from_slice(&packet(0x10, &body));
}

#[test]
fn a_disconnect_with_will_becomes_an_ordinary_one_if_the_will_may_not_fire() {
    let mut world = World::new().topic("a").grant("a", Right::Publish, NOW + 10);
    let mut octets = Vec::new();
    encode_connect_with_will(&mut octets);
    let connect = read_connect(frame(&octets, 1000).unwrap().unwrap()).unwrap();
    let with_will = [0xE0, 1, 0x04];
    let mut played = Played::new(&world, &connect, TERMS);
    assert_eq!(played.client_sends(&with_will).sent().0, with_will);
    let mut played = Played::new(&world, &connect, TERMS);
    world.revoke("a", Right::Publish);
    played.follow(&world);
    assert_eq!(played.client_sends(&with_will).sent().0, [0xE0, 0]);
    assert!(matches!(played.end, Some(End::ClientLeft)));
}

#[test]
fn keep_alive_is_watched_on_both_sides() {
    let world = World::new().topic("a");
    let mut connect = Connect::bare(Version::V311);
    connect.keep_alive = 10;
    let mut played = Played::new(&world, &connect, TERMS);
    assert_eq!(played.machine.deadline().0, Some(Duration::from_secs(10)));
    // Refused publishes keep the client alive, but the broker hears nothing of them.
    played.machine.set_clock(clock(NOW + 9, 9));
    played.client_sends(&publish(Version::V311, QoS::AtMostOnce, 0, "a", None));
    let pingreq = vec![0xC0, 0];
    assert_eq!(played.tick(&world, clock(NOW + 10, 10)).sent().0, pingreq);
    played.client_sends(&[0xC0, 0]);
    assert_eq!(played.sent().0, pingreq);
    assert_eq!(
        played.broker_sends(&[0xD0, 0]).sent().1,
        Vec::<u8>::new(),
        "the answer to the gateway's own"
    );
    assert_eq!(played.broker_sends(&[0xD0, 0]).sent().1, [0xD0, 0]);
    assert!(played.tick(&world, clock(NOW + 24, 24)).end.is_none());
    assert!(matches!(played.tick(&world, clock(NOW + 25, 25)).end, Some(End::KeepAlive)));
}

#[test]
fn what_a_client_may_not_send_ends_the_session_unforwarded() {
    let world = World::new().topic("a").grant("a", Right::Publish, NOW + 10);
    let cases: [&[u8]; 6] = [
        b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c",
        b"\x20\x02\0\0",
        b"\x90\x03\0\x01\0",
        b"\xB0\x02\0\x01",
        b"\xD0\0",
        b"\x36\x04\0\x01ax",
    ];
    for octets in cases {
        let mut played = Played::bare(&world, Version::V311);
        assert!(
            matches!(played.client_sends(octets).end, Some(End::ClientFault(_))),
            "{octets:02x?}"
        );
        assert_eq!(played.sent(), (vec![], vec![]), "{octets:02x?}");
    }
}

#[test]
fn what_a_broker_may_not_send_ends_the_session_undelivered() {
    let world = World::new().topic("a").grant("a", Right::Subscribe, NOW + 10);
    let cases: [&[u8]; 5] = [
        b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c",
        b"\x20\x02\0\0",
        b"\x36\x04\0\x01ax",
        b"\x90\x03\0\x01\0",
        b"\xC0\0",
    ];
    for octets in cases {
        let mut played = Played::bare(&world, Version::V311);
        assert!(
            matches!(played.broker_sends(octets).end, Some(End::BrokerFault(_))),
            "{octets:02x?}"
        );
        assert_eq!(played.sent(), (vec![], vec![]), "{octets:02x?}");
    }
}

#[test]
fn a_session_whose_will_may_not_fire_any_more_ends_and_takes_it_back() {
    for by_time in [true, false] {
        let mut world = World::new().topic("a").grant("a", Right::Publish, NOW + 10);
        let mut octets = Vec::new();
        encode_connect_with_will(&mut octets);
        let connect = read_connect(frame(&octets, 1000).unwrap().unwrap()).unwrap();
        let mut played = Played::new(&world, &connect, TERMS);
        assert_eq!(played.machine.deadline().1, Some(NOW + 10));
        if by_time {
            assert!(played.tick(&world, clock(NOW + 9, 9)).end.is_none());
            played.tick(&world, clock(NOW + 10, 10));
        } else {
            world.revoke("a", Right::Publish);
            played.follow(&world);
        }
        let end = played.end.take().unwrap();
        assert!(matches!(end, End::Denied(Denial::GrantEnded { .. } | Denial::NoGrant { .. })));
        let (mut to_client, mut to_broker) = (Vec::new(), Vec::new());
        played.machine.leave(&end, Some(world.view()), &mut to_client, &mut to_broker);
        assert_eq!((to_client[2], to_broker), (0x87, vec![0xE0, 0]));
    }
}

#[test]
fn no_will_fires_while_the_chain_cannot_be_trusted() {
    let world = World::new().topic("a").grant("a", Right::Publish, NOW + 10);
    let mut octets = Vec::new();
    encode_connect_with_will(&mut octets);
    let connect = read_connect(frame(&octets, 1000).unwrap().unwrap()).unwrap();
    let mut played = Played::new(&world, &connect, TERMS);
    for end in [End::Distrusted, End::ClientLost, End::BrokerFault(flytrap_mqtt::Malformed::QoS)] {
        let (mut to_client, mut to_broker) = (Vec::new(), Vec::new());
        played.machine.leave(&end, None, &mut to_client, &mut to_broker);
        assert_eq!(to_broker, [0xE0, 0], "{end}");
    }
}

/// [MQTT-3.14.2-2] of 5.0: Mosquitto takes it for a fault and publishes the will.
#[test]
fn a_disconnect_that_raises_the_session_expiry_from_zero_is_a_fault() {
    let world = World::new().topic("a");
    let raise = [0xE0, 7, 0, 5, 0x11, 0, 0, 0, 10];
    let mut played = Played::bare(&world, Version::V5);
    assert!(matches!(played.client_sends(&raise).end, Some(End::ClientFault(_))));
    assert_eq!(played.sent().0, Vec::<u8>::new());
    let connect = Connect { session_expiry: 1, ..Connect::bare(Version::V5) };
    let mut played = Played::new(&world, &connect, TERMS);
    assert!(matches!(played.client_sends(&raise).end, Some(End::ClientLeft)));
    assert_eq!(played.sent().0, raise);
}

#[test]
fn what_one_session_may_subscribe_to_is_bounded_in_octets() {
    let world = World::new().topic("a").grant("a", Right::Subscribe, NOW + 10);
    let terms = Terms { max_subscriptions: 1_000, ..TERMS };
    let mut played = Played::new(&world, &Connect::bare(Version::V5), terms);
    let mut codes = Vec::new();
    for id in 1..=20_u16 {
        let filter = format!("a/{id:060000}");
        let mut body = vec![0, id as u8, 0];
        body.extend_from_slice(&(filter.len() as u16).to_be_bytes());
        body.extend_from_slice(filter.as_bytes());
        body.push(0);
        let mut octets = vec![0x82];
        let (low, middle, high) = (body.len() & 0x7F, body.len() >> 7 & 0x7F, body.len() >> 14);
        octets.extend([low as u8 | 0x80, middle as u8 | 0x80, high as u8]);
        octets.extend_from_slice(&body);
        let (to_broker, to_client) = played.client_sends(&octets).sent();
        if to_broker.is_empty() {
            codes.push(to_client[5]);
        } else {
            played.broker_sends(&[0x90, 4, 0, id as u8, 0, 0]).sent();
        }
    }
    assert_eq!(codes, [0x97; 12], "eight of 60,002 octets fit half a mebibyte");
}

#[test]
fn subscribe_packets_that_the_broker_does_not_answer_are_bounded() {
    let world = World::new().topic("a").grant("a", Right::Subscribe, NOW + 10);
    let terms = Terms { max_subscriptions: 5_000, ..TERMS };
    let mut played = Played::new(&world, &Connect::bare(Version::V311), terms);
    let octets = subscribe(Version::V311, 1, &["a/x", "b", "b", "b", "b", "b"]);
    let ended = (0..5_000).position(|_| played.client_sends(&octets).end.is_some());
    assert_eq!(ended, Some(1_024));
}

#[test]
fn many_lost_filters_are_taken_back_in_few_packets() {
    let mut world = World::new().topic("a").topic("b").grant("a", Right::Subscribe, NOW + 10);
    world = world.grant("b", Right::Subscribe, NOW + 10);
    let terms = Terms { max_subscriptions: 5_000, ..TERMS };
    let mut played = Played::new(&world, &Connect::bare(Version::V311), terms);
    played.client_sends(&subscribe(Version::V311, 1, &["b/x"]));
    played.broker_sends(&[0x90, 3, 0, 1, 0]);
    for id in 1..=2_000_u16 {
        let [high, low] = id.to_be_bytes();
        played.client_sends(&subscribe(Version::V311, id, &[&format!("a/{id}")]));
        played.broker_sends(&[0x90, 3, high, low, 0]).sent();
    }
    world.revoke("a", Right::Subscribe);
    let (to_broker, _) = played.follow(&world).sent();
    assert!(played.end.is_none());
    let (mut rest, mut packets, mut filters) = (&*to_broker, 0, 0);
    while let Some(next) = frame(rest, 1 << 20).unwrap() {
        rest = &rest[next.octets().len()..];
        packets += 1;
        let packet = flytrap_mqtt::read_from_client(Version::V311, next).unwrap();
        let flytrap_mqtt::FromClient::Unsubscribe(packet) = packet else { panic!("{packet:?}") };
        filters += packet.len();
    }
    assert_eq!((packets, filters, rest.len()), (1, 2_000, 0));
}

#[test]
fn octets_that_came_with_connect_are_not_left_lying() {
    use super::pump::Side;
    use std::future::poll_fn;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (ours, _theirs) = tokio::io::duplex(64);
    let mut side = Side::new(ours, b"carried".to_vec());
    let mut read = vec![0; 128 * 1024];
    let first = runtime.block_on(poll_fn(|cx| {
        super::pump::poll_fill(&mut side, cx, &mut read).map(|filled| filled.unwrap().to_vec())
    }));
    assert_eq!(first, b"carried", "before, and without, anything more from the peer");
}

/// A session that was opened by a method, and an AUTH of its client.
fn played_by_method(world: &World) -> Played {
    let connect =
        Connect { authentication_method: Some("FLYTRAP-EIP712"), ..Connect::bare(Version::V5) };
    Played::new(world, &connect, TERMS)
}

fn auth(code: u8, data: Option<&[u8]>) -> Vec<u8> {
    let mut octets = Vec::new();
    encode::auth(code, "FLYTRAP-EIP712", data, &mut octets);
    octets
}

#[test]
fn a_challenge_that_is_not_answered_in_time_ends_the_session() {
    let world = World::new();
    let mut played = played_by_method(&world);
    played.client_sends(&auth(0x19, None));
    assert_eq!(played.machine.take_step(), Some(Step::Begin));
    assert_eq!(played.machine.take_step(), None, "once");
    played.machine.ask(&B256::ZERO, &mut Vec::new()).unwrap();
    assert_eq!(played.machine.deadline().0, Some(Duration::from_secs(30)));
    let mut tick = |seconds| {
        played.machine.set_clock(clock(NOW, seconds));
        played.machine.tick(world.view(), &mut Lane::new(&[], &mut Vec::new()))
    };
    assert!(tick(29).is_ok());
    assert!(matches!(tick(30), Err(End::NotRenewed { code: 0x87, .. })));
}

#[test]
fn a_renewed_proof_ends_what_stood_on_the_old_one_when_it_ends_itself() {
    let world = World::new().topic("t").grant("t", Right::Publish, u64::MAX);
    let mut played = played_by_method(&world);
    played.client_sends(&publish(Version::V5, QoS::AtMostOnce, 0, "t", None));
    let before = played.to_broker.len();
    let mut shorter = principal();
    shorter.credential.expires_at = NOW + 5;
    played.client_sends(&auth(0x19, Some(b"x")));
    assert_eq!(played.machine.take_step(), Some(Step::Secret(b"x".to_vec())));
    let mut told = Vec::new();
    played.machine.renew(shorter, &mut told).unwrap();
    assert_eq!(told[2], 0, "AUTH with success");
    played.follow(&world);
    assert_eq!(played.machine.deadline().1, Some(NOW + 5));
    played.client_sends(&publish(Version::V5, QoS::AtMostOnce, 0, "t", None));
    assert!(played.to_broker.len() > before, "it goes on");
    played.machine.set_clock(clock(NOW + 5, 5));
    let ended = played.machine.tick(world.view(), &mut Lane::new(&[], &mut Vec::new()));
    assert!(matches!(ended, Err(End::Denied(Denial::CredentialExpired))), "{ended:?}");
}

#[test]
fn a_question_that_the_client_does_not_take_ends_the_session_unasked() {
    let world = World::new();
    let mut connect = Connect::bare(Version::V5);
    connect.authentication_method = Some("FLYTRAP-EIP712");
    connect.maximum_packet_size = 55.try_into().ok();
    let mut played = Played::new(&world, &connect, TERMS);
    played.client_sends(&auth(0x19, None));
    let mut question = Vec::new();
    let asked = played.machine.ask(&B256::ZERO, &mut question);
    assert!(matches!(asked, Err(End::NotRenewed { code: 0x95, .. })), "{asked:?}");
    assert_eq!(question, b"");
}

#[test]
fn what_is_unsubscribed_before_its_suback_does_not_count_as_live() {
    let mut world = World::new().topic("a").grant("a", Right::Subscribe, NOW + 10);
    let mut played = Played::bare(&world, Version::V311);
    for round in 0..4_u8 {
        let filter = format!("a/{round}");
        played.client_sends(&subscribe(Version::V311, 1, &[&filter]));
        played.client_sends(&unsubscribe(Version::V311, 2, &filter));
        played.broker_sends(&[0x90, 3, 0, 1, 0, 0xB0, 2, 0, 2]);
    }
    played.sent();
    let last = subscribe(Version::V311, 3, &["a/last"]);
    assert_eq!(played.client_sends(&last).sent(), (last, vec![]), "there is room for three");
    played.broker_sends(&[0x90, 3, 0, 3, 0]).sent();
    world.revoke("a", Right::Subscribe);
    let taken_back = played.follow(&world).sent().0;
    assert_eq!(taken_back, unsubscribe(Version::V311, 0xFFFF, "a/last"), "and nothing else");
}

#[test]
fn an_identifier_that_the_client_uses_is_not_taken_for_an_unsubscribe_of_our_own() {
    let mut world = World::new()
        .topic("a")
        .topic("b")
        .grant("a", Right::Subscribe, NOW + 10)
        .grant("b", Right::Publish, NOW + 10);
    let mut played = Played::bare(&world, Version::V311);
    played.client_sends(&subscribe(Version::V311, 1, &["a/x"]));
    played.broker_sends(&[0x90, 3, 0, 1, 0]);
    played.client_sends(&publish(Version::V311, QoS::AtLeastOnce, 0xFFFF, "b", None));
    played.client_sends(&unsubscribe(Version::V311, 0xFFFE, "elsewhere")).sent();
    world.revoke("a", Right::Subscribe);
    let taken_back = played.follow(&world).sent().0;
    assert_eq!(taken_back, unsubscribe(Version::V311, 0xFFFD, "a/x"));
}

#[test]
fn a_delivery_that_comes_again_and_is_allowed_now_is_the_clients_to_finish() {
    let mut world = World::new().topic("a");
    for version in VERSIONS {
        let mut played = Played::bare(&world, version);
        let message = publish(version, QoS::ExactlyOnce, 7, "a", None);
        let (answer, withheld) = played.broker_sends(&message).sent();
        assert_eq!((answer[0], withheld), (0x50, vec![]));
        world = world.grant("a", Right::Subscribe, NOW + 10);
        played.follow(&world);
        assert_eq!(played.broker_sends(&message).sent(), (vec![], message));
        let pubrel = [0x62, 2, 0, 7];
        assert_eq!(played.broker_sends(&pubrel).sent(), (vec![], pubrel.to_vec()), "{version:?}");
        world.revoke("a", Right::Subscribe);
    }
}

#[test]
fn an_alias_is_not_spelt_out_beyond_what_the_broker_takes() {
    let world = World::new().topic("a").grant("a", Right::Publish, NOW + 10);
    let octets = [0x20, 11, 0, 0, 8, 0x22, 0, 5, 0x27, 0, 0, 0, 19];
    let Ok(FromBroker::ConnAck(connack)) =
        read_from_broker(Version::V5, frame(&octets, 100).unwrap().unwrap())
    else {
        panic!("a CONNACK")
    };
    let connect = Connect { topic_alias_maximum: 5, ..Connect::bare(Version::V5) };
    for (name, fits) in [("a/345678", true), ("a/3456789", false)] {
        let now = clock(NOW, 0);
        let machine = Machine::new(principal(), &connect, &connack, TERMS, world.view(), now);
        let (to_broker, to_client) = (Vec::new(), Vec::new());
        let mut played = Played { machine, to_broker, to_client, end: None };
        // Refused, so that only the gateway knows the name.
        let mut retained = publish(Version::V5, QoS::AtMostOnce, 0, name, Some(1));
        retained[0] |= 1;
        assert_eq!(played.client_sends(&retained).sent().0, b"");
        let alone = publish(Version::V5, QoS::AtLeastOnce, 3, "", Some(1));
        let whole = publish(Version::V5, QoS::AtLeastOnce, 3, name, Some(1));
        let answer = vec![0x40, 3, 0, 3, 0x97];
        let wanted = if fits { (whole, vec![]) } else { (vec![], answer) };
        assert_eq!(played.client_sends(&alone).sent(), wanted, "{name}");
    }
}

#[test]
fn the_answer_to_a_ping_of_our_own_brings_the_next_one_nearer() {
    let world = World::new().topic("a");
    let mut connect = Connect::bare(Version::V311);
    connect.keep_alive = 10;
    let mut played = Played::new(&world, &connect, TERMS);
    played.machine.set_clock(clock(NOW + 9, 9));
    played.client_sends(&publish(Version::V311, QoS::AtMostOnce, 0, "a", None));
    played.tick(&world, clock(NOW + 10, 10));
    assert_eq!(played.machine.deadline().0, Some(Duration::from_secs(24)), "the client's patience");
    played.machine.take_rearm();
    played.broker_sends(&[0xD0, 0]);
    assert_eq!(played.machine.deadline().0, Some(Duration::from_secs(20)));
    assert!(played.machine.take_rearm(), "or the driver would sleep past it");
}
