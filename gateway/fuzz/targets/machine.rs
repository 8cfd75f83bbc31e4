//! Whatever two peers send to a session, and whatever the chain does meanwhile: the broker sees only what may be published and
//! subscribed at that moment, the client only what it may receive, each by its own understanding of topic aliases.
#![no_main]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use flytrap_fuzz::naive::{Front, front};
use flytrap_gateway::config::DenyAction;
use flytrap_gateway::session::{Clock, Lane, Machine, Terms};
use flytrap_mqtt::{Connect, FromBroker, FromClient, Version, frame, read_from_broker, read_from_client};
use flytrap_policy::{Concern, 
    Action, Credential, CredentialKind, Event, NamingPolicy, Offer, OfferMode, Options, Principal, Registry, Stamp, Traits, Ungoverned, View, topic_id,
};
use libfuzzer_sys::fuzz_target;

const BROKER: U256 = U256::ONE;
const OWNER: Address = Address::repeat_byte(1);
const WHO: Address = Address::repeat_byte(2);
const NOW: u64 = 1_000;
const LIMIT: usize = 4_096;

/// The same site at different times: what is public, and whether the wallet is banned.
static VIEWS: LazyLock<[Arc<View>; 4]> = LazyLock::new(|| {
    let view = |version: u64, open: &[&str], shut: &[&str], ungoverned, banned: bool| {
        let mut registry = Registry::new(BROKER);
        let at = Stamp { height: version, time: NOW };
        let mut happen = |event| registry.apply(&event, at).expect("a history that can be");
        happen(Event::BrokerCreated { broker_id: BROKER, owner: OWNER, policy: NamingPolicy::Open, name: "b".into() });
        let modes = open.iter().map(|name| (name, OfferMode::Public)).chain(shut.iter().map(|name| (name, OfferMode::Closed)));
        for (name, mode) in modes {
            let offer = Offer { mode, period: 0, price_wei: 0 };
            happen(Event::TopicRegistered {
                broker_id: BROKER,
                topic_id: topic_id(BROKER, name),
                owner: OWNER,
                epoch: 1,
                name: (*name).into(),
                traits: Traits::default(),
                publish_offer: offer,
                subscribe_offer: offer,
            });
        }
        if banned {
            let (evidence, reason) = (B256::ZERO, String::new());
            happen(Event::WalletBanned { broker_id: BROKER, wallet: WHO, by: OWNER, until: u64::MAX, evidence, reason });
        }
        let registry = Arc::new(registry);
        let options = Options { ungoverned, ..Options::default() };
        Arc::new(View { settled: registry.clone(), head: registry, height: version, concern: Concern::EVERYONE, time: NOW, version, options })
    };
    [
        view(1, &["a", "topic", "test-topic"], &["a/b", "p"], Ungoverned::Deny, false),
        view(2, &["a/b", "p"], &["a", "topic"], Ungoverned::Deny, false),
        view(3, &[], &["a/b"], Ungoverned::Allow, false),
        view(4, &["a"], &[], Ungoverned::Allow, true),
    ]
});

struct Ground {
    version: Version,
    who: Principal,
    view: Arc<View>,
    now: u64,
    broker_knows: BTreeMap<u16, String>,
    client_knows: BTreeMap<u16, String>,
}

fn packets(mut octets: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while !octets.is_empty() {
        let Front::Whole { octets: length, .. } = front(octets, usize::MAX) else { panic!("not whole: {octets:02x?}") };
        all.push(&octets[..length]);
        octets = &octets[length..];
    }
    all
}

fn resolve(knows: &mut BTreeMap<u16, String>, topic: &str, alias: Option<u16>) -> String {
    match alias {
        Some(alias) if topic.is_empty() => knows.get(&alias).expect("the receiver was never told this alias").clone(),
        Some(alias) => {
            knows.insert(alias, topic.to_owned());
            topic.to_owned()
        }
        None => topic.to_owned(),
    }
}

impl Ground {
    fn check(&mut self, to_broker: &[u8], to_client: &[u8]) {
        for octets in packets(to_broker) {
            let whole = frame(octets, usize::MAX).expect("a packet").expect("a whole one");
            match read_from_client(self.version, whole).expect("what a client may send") {
                FromClient::Publish(publish) => {
                    let topic = resolve(&mut self.broker_knows, publish.topic, publish.topic_alias.map(|alias| alias.get()));
                    let action = Action::Publish { retain: publish.retain };
                    assert!(self.view.authorize(&self.who, action, &topic, self.now).is_ok(), "{topic}");
                }
                FromClient::Subscribe(subscribe) => {
                    for wanted in subscribe.filters() {
                        assert!(self.view.authorize_filter(&self.who, wanted.filter, self.now).is_ok(), "{}", wanted.filter);
                    }
                }
                _ => {}
            }
        }
        for octets in packets(to_client) {
            let whole = frame(octets, usize::MAX).expect("a packet").expect("a whole one");
            if let FromBroker::Publish(publish) = read_from_broker(self.version, whole).expect("what a broker may send") {
                let topic = resolve(&mut self.client_knows, publish.topic, publish.topic_alias.map(|alias| alias.get()));
                assert!(self.view.authorize(&self.who, Action::Deliver, &topic, self.now).is_ok(), "{topic}");
            }
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, mut data)) = data.split_first() else { return };
    let version = [Version::V31, Version::V311, Version::V5][usize::from(mode % 3)];
    let credential = Credential { kind: CredentialKind::Token, issued_at: NOW, expires_at: NOW + 1_000 };
    let who = Principal { wallet: WHO, key: WHO, credential, country: None };
    let connect = Connect {
        topic_alias_maximum: 4,
        keep_alive: 10,
        authentication_method: (version.is_v5() && mode & 64 != 0).then_some("FLYTRAP-EIP712"),
        maximum_packet_size: (version.is_v5() && mode & 32 != 0).then(|| 60.try_into().expect("not 0")),
        ..Connect::bare(version)
    };
    let accepted: &[u8] = if version.is_v5() { &[0x20, 6, 0, 0, 3, 0x22, 0, 4] } else { &[0x20, 2, 0, 0] };
    let read = read_from_broker(version, frame(accepted, 100).expect("a packet").expect("a whole one"));
    let Ok(FromBroker::ConnAck(connack)) = read else { panic!("a CONNACK") };
    let deny_action = if mode & 128 != 0 { DenyAction::Close } else { DenyAction::Acknowledge };
    let terms = Terms {
        deny_action,
        max_packet_octets: LIMIT,
        max_subscriptions: 5,
        max_in_flight: 8,
        session_expiry_cap: 60,
    };
    let mut ground = Ground { version, who, view: VIEWS[0].clone(), now: NOW, broker_knows: BTreeMap::new(), client_knows: BTreeMap::new() };
    let (mut elapsed, mut end) = (0_u64, None);
    let clock = |now, elapsed| Clock { now, elapsed: Duration::from_secs(elapsed) };
    let mut machine = Machine::new(who, &connect, &connack, terms, ground.view.clone(), clock(NOW, 0));
    let (mut from_client, mut from_broker) = (Vec::new(), Vec::new());
    while let Some((order, rest)) = data.split_first() {
        let (mut ahead, mut back) = (Vec::new(), Vec::new());
        let argument = usize::from(order >> 2);
        data = rest;
        let done = match order & 3 {
            0 | 1 => {
                // As the driver: first what the chain and the clock say, then the octets.
                let mut lane = Lane::new(&[], &mut ahead);
                machine.set_clock(clock(ground.now, elapsed));
                let caught_up = machine.follow(ground.view.clone(), &mut lane);
                let sent = lane.octets().to_vec();
                ground.check(&sent, &[]);
                ahead.clear();
                let (chunk, rest) = data.split_at(argument.min(data.len()));
                data = rest;
                let buffer = if order & 1 == 0 { &mut from_client } else { &mut from_broker };
                buffer.extend_from_slice(chunk);
                let octets = buffer.clone();
                if caught_up.is_err() {
                    caught_up
                } else {
                    let (mut forth, mut reply) = (Lane::new(&octets, &mut ahead), Lane::new(&[], &mut back));
                    let (taken, done) = if order & 1 == 0 {
                        let done = machine.client_octets(&octets, &mut forth, &mut reply);
                        machine.heard_client(!forth.octets().is_empty());
                        done
                    } else {
                        machine.broker_octets(&octets, &mut forth, &mut reply)
                    };
                    assert!(taken <= octets.len());
                    buffer.drain(..taken);
                    if done.is_ok() {
                        assert!(buffer.len() < LIMIT + 128 * 1024 + 5, "a packet that is whole was not taken");
                    }
                    let (forth, reply) = (forth.octets().to_vec(), reply.octets().to_vec());
                    if order & 1 == 0 { ground.check(&forth, &reply) } else { ground.check(&reply, &forth) }
                    done
                }
            }
            2 => {
                ground.view = VIEWS[argument % 4].clone();
                Ok(())
            }
            _ => {
                elapsed += argument as u64;
                ground.now += argument as u64;
                machine.set_clock(clock(ground.now, elapsed));
                let mut lane = Lane::new(&[], &mut ahead);
                let done = machine.tick(ground.view.clone(), &mut lane);
                let sent = lane.octets().to_vec();
                ground.check(&sent, &[]);
                done
            }
        };
        if let Err(ended) = done {
            end = Some(ended);
            break;
        }
    }
    if let Some(end) = end {
        let (mut to_client, mut to_broker) = (Vec::new(), Vec::new());
        machine.leave(&end, Some(ground.view.clone()), &mut to_client, &mut to_broker);
        ground.check(&to_broker, &to_client);
    }
});
