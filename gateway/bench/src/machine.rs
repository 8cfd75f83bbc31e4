//! The pure machine in steady state: a live session that forwards PUBLISH packets in one direction, as the pump drives it.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256};
use clap::ValueEnum;
use eyre::{Result, bail, eyre};
use flytrap_gateway::config::DenyAction;
use flytrap_gateway::session::{Clock, Lane, Machine, Pace, Rates, Terms};
use flytrap_mqtt::{Connect, FromBroker, QoS, Version, frame, read_from_broker};
use flytrap_policy::{
    Concern, Credential, CredentialKind, Event, NamingPolicy, Offer, OfferMode, Options, Principal,
    Rate, Registry, Right, Stamp, Traits, View, topic_id,
};

use flytrap_bench::packets;

/// Which way the packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// From the client to the broker.
    Publish,
    /// From the broker to the client.
    Deliver,
}

impl Way {
    /// As a reader understands it.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Publish => "client to broker",
            Self::Deliver => "broker to client",
        }
    }
}

const OWNER: Address = Address::repeat_byte(0x0A);
const WALLET: Address = Address::repeat_byte(0x0B);
const NOW: u64 = 1_000_000;
/// Topics with a grant each, so that the registry is more than one entry; the session uses one of them.
const TOPICS: u32 = 1_000;

/// A session whose right stands on a grant, and the packets of one read.
pub(crate) struct Steady {
    machine: Machine,
    pace: Pace,
    way: Way,
    octets: Vec<u8>,
    frames: u64,
    ahead: Vec<u8>,
    back: Vec<u8>,
    forwarded: u64,
}

impl Steady {
    /// A live session and `frames` PUBLISH packets with 64 octets of payload, as one read would bring them.
    pub(crate) fn new(way: Way, qos: QoS, frames: u16, two_lengths: bool) -> Result<Self> {
        let connect = Connect::bare(Version::V311);
        let connack: &[u8] = &[0x20, 2, 0, 0];
        let Some(connack) = frame(connack, connack.len())? else { bail!("half a CONNACK") };
        let FromBroker::ConnAck(connack) = read_from_broker(Version::V311, connack)? else {
            bail!("no CONNACK")
        };
        let who = Principal {
            wallet: WALLET,
            key: WALLET,
            credential: Credential {
                kind: CredentialKind::Token,
                issued_at: NOW - 10,
                expires_at: NOW + 10_000,
            },
            country: None,
        };
        let terms = Terms {
            deny_action: DenyAction::Acknowledge,
            max_packet_octets: 1024 * 1024,
            max_subscriptions: 100,
            max_in_flight: 100,
            session_expiry_cap: 3600,
        };
        let view = view()?;
        let clock = Clock { now: NOW, elapsed: Duration::ZERO };
        let mut machine = Machine::new(who, &connect, &connack, terms, view.clone(), clock);
        let mut buffer = Vec::new();
        machine
            .follow(view, &mut Lane::new(&[], &mut buffer))
            .map_err(|end| eyre!("the session ended: {end}"))?;
        let made = if two_lengths { packets::publishes_of_two_lengths } else { packets::publishes };
        let octets = made(&topic(7, "/temperature"), qos, 64, frames);
        Ok(Self {
            machine,
            pace: Pace::new(rates(), Arc::default(), Duration::ZERO),
            way,
            octets,
            frames: frames.into(),
            ahead: Vec::new(),
            back: Vec::new(),
            forwarded: 0,
        })
    }

    /// Hands over `reads` reads of packets, as the pump would. Everything must be forwarded.
    pub(crate) fn play(&mut self, reads: u64) -> Result<()> {
        for read in 0..reads {
            let clock = Clock { now: NOW, elapsed: Duration::from_micros(read) };
            self.machine.set_clock(clock);
            let (mut ahead, mut back) =
                (Lane::new(&self.octets, &mut self.ahead), Lane::new(&[], &mut self.back));
            let (taken, done) = match self.way {
                Way::Publish => self.machine.client_octets(&self.octets, &mut ahead, &mut back),
                Way::Deliver => self.machine.broker_octets(&self.octets, &mut ahead, &mut back),
            };
            if let Err(end) = done {
                bail!("the session ended: {end}");
            }
            if taken != self.octets.len()
                || ahead.octets() != self.octets
                || !back.octets().is_empty()
            {
                bail!("not everything was forwarded as it came");
            }
            self.machine.heard_client(true);
            // Rates are charged once for what a read brought.
            if self.way == Way::Publish {
                let used = std::mem::take(&mut self.machine.used);
                self.pace.charge(used, clock.elapsed).map_err(|end| eyre!("{end}"))?;
            }
            self.forwarded += self.frames;
            self.ahead.clear();
            self.back.clear();
        }
        Ok(())
    }

    /// Packets forwarded so far.
    pub(crate) fn forwarded(&self) -> u64 {
        self.forwarded
    }
}

/// So high that nothing is held up, and yet counted.
fn rates() -> Rates {
    let rate = Rate::new(u64::from(u32::MAX), Duration::from_secs(1), Duration::from_secs(3_600));
    Rates {
        session_messages: rate,
        session_octets: rate,
        session_requests: rate,
        wallet_messages: rate,
        wallet_octets: rate,
    }
}

fn topic(number: u32, below: &str) -> String {
    format!("site/hall{number}{below}")
}

fn view() -> Result<Arc<View>> {
    let broker_id = U256::ONE;
    let mut registry = Registry::new(broker_id);
    let mut events = vec![Event::BrokerCreated {
        broker_id,
        owner: OWNER,
        policy: NamingPolicy::Open,
        name: "bench".into(),
    }];
    let closed = Offer { mode: OfferMode::Closed, period: 0, price_wei: 0 };
    for number in 0..TOPICS {
        let name = topic(number, "");
        let id = topic_id(broker_id, &name);
        events.push(Event::TopicRegistered {
            broker_id,
            topic_id: id,
            owner: OWNER,
            epoch: 1,
            name,
            traits: Traits { retain: false, sensitive: false, own_branch: false },
            publish_offer: closed,
            subscribe_offer: closed,
        });
        for right in [Right::Publish, Right::Subscribe] {
            events.push(Event::AccessGranted {
                broker_id,
                topic_id: id,
                wallet: WALLET,
                right,
                epoch: 1,
                until: NOW + 5_000,
                by: OWNER,
                fee_wei: U256::ZERO,
                purpose: B256::ZERO,
                note: String::new(),
            });
        }
    }
    let mut height = 0;
    for event in &events {
        height += 1;
        registry.apply(event, Stamp { height, time: NOW })?;
    }
    let registry = Arc::new(registry);
    let head = registry.clone();
    Ok(Arc::new(View {
        settled: registry,
        head,
        height,
        time: NOW,
        version: 1,
        concern: Concern::EVERYONE,
        options: Options::default(),
    }))
}
