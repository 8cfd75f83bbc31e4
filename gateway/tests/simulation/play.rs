//! Plays a history to the machine, as its driver would, and to the model, and holds the two against each other after each step.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use flytrap_gateway::config::DenyAction;
use flytrap_gateway::session::{Clock, End, Lane, Machine, Step, Terms as MachineTerms};
use flytrap_mqtt::{
    Connect, FromBroker, QoS, Version, Will, frame, read_connect, read_from_broker,
};
use flytrap_policy::{Country, Credential, CredentialKind, Principal};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::model::{Ending, Expect, Model, Outcome, Renewing, Terms};
use super::peers::{Arrived, Broker, Client, are_alike, some_like};
use super::wire::{Packet, Seen, cut};
use super::world::{DEVICE, World, country, wallet};

/// One step: everything random in it comes from this number, so that a step is the same whatever stands before it.
pub type Act = u64;

/// What went wrong, and where.
#[derive(Debug, Clone)]
pub struct Fault {
    pub step: usize,
    pub what: String,
}

/// What was seen to happen, so that a run that met nothing is not taken for a good one.
#[derive(Debug, Default, Clone)]
pub struct Met {
    pub sessions: u64,
    pub to_broker: u64,
    pub to_client: u64,
    pub refused: u64,
    pub taken_back: u64,
    /// Messages of QoS 0 that began like the one before them in the same read.
    pub alike: u64,
    pub ends: BTreeMap<String, u64>,
}

impl Met {
    pub fn add(&mut self, more: &Self) {
        self.sessions += more.sessions;
        self.to_broker += more.to_broker;
        self.to_client += more.to_client;
        self.refused += more.refused;
        self.taken_back += more.taken_back;
        self.alike += more.alike;
        for (end, count) in &more.ends {
            *self.ends.entry(end.clone()).or_default() += count;
        }
    }
}

/// One direction's octets that were sent and not yet read: whole packets, and where each ends.
#[derive(Default)]
struct Pipe {
    octets: Vec<u8>,
    packets: VecDeque<Packet>,
}

struct Session {
    machine: Machine,
    model: Model,
    client: Client,
    broker: Broker,
    from_client: Pipe,
    from_broker: Pipe,
    /// Seconds since it began.
    elapsed: u64,
    names: Vec<String>,
    step: Option<Step>,
}

pub struct Play {
    world: World,
    session: Option<Session>,
    pub met: Met,
    /// Told aloud, for whoever reads a failing history.
    pub told: Option<Vec<String>>,
}

impl Play {
    pub fn new(seed: u64, is_told: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self {
            world: World::new(&mut rng),
            session: None,
            met: Met::default(),
            told: is_told.then(Vec::new),
        }
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(told) = &mut self.told {
            told.push(what());
        }
    }

    /// One step.
    pub fn act(&mut self, act: Act) -> Result<(), String> {
        let mut rng = StdRng::seed_from_u64(act);
        match rng.random_range(0..100) {
            _ if self.session.is_none() => self.open(&mut rng),
            0..34 => {
                for _ in 0..rng.random_range(1..5) {
                    self.client_says(&mut rng);
                }
                self.client_is_read(&mut rng)
            }
            34..44 => {
                if let Some(session) = &mut self.session
                    && let Some(answer) = session.client.answers.pop_front()
                {
                    session.from_client.push(answer, session.model.terms.version);
                }
                self.client_is_read(&mut rng)
            }
            44..66 => {
                self.broker_answers(&mut rng);
                self.broker_is_read(&mut rng)
            }
            66..82 => {
                self.broker_says(&mut rng);
                self.broker_is_read(&mut rng)
            }
            82..87 => {
                let happened = self.world.block(&mut rng);
                self.tell(|| format!("block: {happened:?}"));
                if rng.random_ratio(1, 3) { Ok(()) } else { self.wake() }
            }
            87 => {
                self.world.reorganise(&mut rng);
                self.tell(|| "reorganisation".into());
                self.wake()
            }
            88 => self.settle(&mut rng),
            89..91 => self.prove(&mut rng),
            91 => self.relocate(&mut rng),
            _ => {
                let seconds = [1, 1, 2, 5, 9, 30][rng.random_range(0..6)];
                self.wait(seconds)
            }
        }
    }

    fn open(&mut self, rng: &mut StdRng) -> Result<(), String> {
        let version =
            [Version::V31, Version::V311, Version::V5, Version::V5][rng.random_range(0..4)];
        let v5 = version == Version::V5;
        let is_device = rng.random_ratio(1, 3);
        let who = Principal {
            wallet: wallet(1),
            key: wallet(if is_device { DEVICE } else { 1 }),
            credential: Credential {
                kind: if is_device {
                    CredentialKind::DevicePassword
                } else {
                    CredentialKind::Token
                },
                issued_at: self.world.now,
                expires_at: if rng.random_ratio(1, 3) {
                    self.world.now + rng.random_range(1..90)
                } else {
                    u64::MAX
                },
            },
            country: some_country(rng),
        };
        let names = some_names(&who);
        let will = names
            .get(rng.random_range(0..4 * names.len()))
            .cloned()
            .map(|name| (name, rng.random()));
        if !self.world.stands(&who)
            || will
                .as_ref()
                .is_some_and(|(name, retain)| !self.world.may_publish(&who, name, *retain))
        {
            self.world.now += 5;
            self.world.block(rng);
            return Ok(());
        }
        let sizes = [usize::MAX, 40, 90, 230];
        let terms = Terms {
            version,
            closes_on_refusal: rng.random_ratio(1, 6),
            most_octets: [400, 1024, 1 << 20][rng.random_range(0..3)],
            most_subscriptions: [3, 8, 100][rng.random_range(0..3)],
            wants_reasons: v5 && rng.random(),
            client_takes: if v5 { sizes[rng.random_range(0..4)] } else { usize::MAX },
            broker_takes: if v5 { sizes[rng.random_range(0..4)] } else { usize::MAX },
            broker_aliases: if v5 { rng.random_range(0..4) } else { 0 },
            client_aliases: if v5 { rng.random_range(0..4) } else { 0 },
            keep_alive: [0, 5, 10, 60][rng.random_range(0..4)],
            will,
            expires_at_once: !v5 || rng.random(),
            may_renew: v5 && rng.random(),
        };
        let machine = machine(&terms, who, &self.world);
        let model = Model::new(terms.clone(), who, 0);
        self.tell(|| format!("session of {who:?} with {terms:?}"));
        self.met.sessions += 1;
        self.session = Some(Session {
            machine,
            model,
            client: Client::default(),
            broker: Broker::default(),
            from_client: Pipe::default(),
            from_broker: Pipe::default(),
            elapsed: 0,
            names,
            step: None,
        });
        self.wake()
    }

    fn client_says(&mut self, rng: &mut StdRng) {
        let Some(session) = &mut self.session else { return };
        let names = self.world.likely(&session.model.who, &session.names, rng);
        let packet = session.client.some_packet(&session.model.terms, &names, rng);
        session.from_client.push_with_like(packet, session.model.terms.version, &names, rng);
    }

    fn broker_answers(&mut self, rng: &mut StdRng) {
        let Some(session) = &mut self.session else { return };
        let (broker, version) = (&mut session.broker, session.model.terms.version);
        if rng.random_ratio(1, 300) {
            // It forgets one, or says it twice.
            broker.is_strange = true;
            match broker.answers.front().cloned() {
                Some(twice @ Packet::Ack { .. }) if rng.random() => {
                    broker.answers.push_front(twice)
                }
                _ => drop(broker.answers.pop_front()),
            }
        }
        for _ in 0..rng.random_range(1..6) {
            if let Some(answer) = broker.answers.pop_front() {
                session.from_broker.push(answer, version);
            }
        }
    }

    fn broker_says(&mut self, rng: &mut StdRng) {
        let Some(session) = &mut self.session else { return };
        let terms = session.model.terms.clone();
        let names = self.world.likely(&session.model.who, &session.names, rng);
        for _ in 0..rng.random_range(1..4) {
            if rng.random_ratio(1, 150) {
                let packet = session.broker.strange(&terms, rng);
                session.from_broker.push(packet, terms.version);
            } else if let Some(packet) = session.broker.message(&terms, &names, rng) {
                session.from_broker.push_with_like(packet, terms.version, &names, rng);
            }
        }
    }

    /// The machine is given some of what the client sent, perhaps not all of it, perhaps in the middle of a packet.
    fn client_is_read(&mut self, rng: &mut StdRng) -> Result<(), String> {
        self.catch_up()?;
        let Some(session) = &mut self.session else { return Ok(()) };
        let version = session.model.terms.version;
        let before = session.machine.deadline();
        let (batch, packets) = session.from_client.some(version, rng);
        self.met.alike += alike_in(&packets);
        let (mut ahead, mut back) = (Vec::new(), Vec::new());
        let (mut to_broker, mut to_client) =
            (Lane::new(&batch, &mut ahead), Lane::new(&[], &mut back));
        let (taken, done) = session.machine.client_octets(&batch, &mut to_broker, &mut to_client);
        if taken > 0 {
            session.machine.heard_client(!to_broker.octets().is_empty());
        }
        let (to_broker, to_client) = (to_broker.octets().to_vec(), to_client.octets().to_vec());
        let mut expected = Outcome::default();
        let (mut worked_off, mut at) = (0, 0);
        for packet in &packets {
            let octets = packet.encode(version);
            at += octets.len();
            let next =
                session.model.client_sends(packet, &octets, &mut self.world, session.elapsed);
            if matches!(next, Outcome { end: Some(Ending::ClientFault), .. })
                && octets.len() > session.model.terms.most_octets
            {
                // Not even looked at.
                at -= octets.len();
            }
            expected.to_broker.extend(next.to_broker);
            expected.to_client.extend(next.to_client);
            expected.end = next.end;
            worked_off += 1;
            if expected.end.is_some() {
                break;
            }
        }
        if at > 0 {
            session.model.heard_client(!to_broker.is_empty(), session.elapsed);
        }
        if let Some(told) = &mut self.told {
            told.push(format!("client: {packets:?}"));
        }
        session.from_client.read(&packets[..worked_off], at);
        if done.is_ok() && taken != at {
            return Err(format!("{taken} octets taken in place of {at}"));
        }
        let step = session.machine.take_step();
        let rearm = session.machine.take_rearm();
        session.step = step.or(session.step.take());
        let after = session.machine.deadline();
        if (is_nearer(before.0, after.0) || is_nearer(before.1, after.1)) && !rearm && done.is_ok()
        {
            return Err(format!(
                "the deadline came nearer, from {before:?} to {after:?}, and nobody was told"
            ));
        }
        self.compare(&expected, &to_broker, &to_client, done.err())
    }

    fn broker_is_read(&mut self, rng: &mut StdRng) -> Result<(), String> {
        self.catch_up()?;
        let Some(session) = &mut self.session else { return Ok(()) };
        let version = session.model.terms.version;
        let before = session.machine.deadline();
        let (batch, packets) = session.from_broker.some(version, rng);
        self.met.alike += alike_in(&packets);
        let (mut ahead, mut back) = (Vec::new(), Vec::new());
        let (mut to_client, mut to_broker) =
            (Lane::new(&batch, &mut ahead), Lane::new(&[], &mut back));
        let (taken, done) = session.machine.broker_octets(&batch, &mut to_client, &mut to_broker);
        let (to_broker, to_client) = (to_broker.octets().to_vec(), to_client.octets().to_vec());
        let mut expected = Outcome::default();
        let (mut worked_off, mut at) = (0, 0);
        // What is taken back here is told the broker in the middle of its own answers, so packets are compared one by one below.
        for packet in &packets {
            let octets = packet.encode(version);
            at += octets.len();
            let next = session.model.broker_sends(packet, &octets, &mut self.world);
            // An identifier of the gateway's own is chosen with what is known at that moment.
            let has_own = next.to_broker.iter().any(|one| matches!(one, Expect::TakeBack(_)));
            expected.to_broker.extend(next.to_broker);
            expected.to_client.extend(next.to_client);
            expected.end = next.end;
            worked_off += 1;
            if has_own {
                let seen = cut(&to_broker)?;
                let so_far = seen.get(..expected.to_broker.len()).unwrap_or(&seen);
                let only = &expected.to_broker[expected.to_broker.len() - 1..];
                let last = so_far.last().cloned().into_iter().collect::<Vec<_>>();
                session.model.check(only, &last, "broker", session.elapsed)?;
                // Compared; what is left is its place.
                *expected.to_broker.last_mut().unwrap() =
                    Expect::Exactly(last.first().map(|one| one.octets.clone()).unwrap_or_default());
            }
            if expected.end.is_some() {
                break;
            }
        }
        if let Some(told) = &mut self.told {
            told.push(format!("broker: {packets:?}"));
        }
        session.from_broker.read(&packets[..worked_off], at);
        if done.is_ok() && taken != at {
            return Err(format!("{taken} octets taken in place of {at}"));
        }
        let after = session.machine.deadline();
        let rearm = session.machine.take_rearm();
        if (is_nearer(before.0, after.0) || is_nearer(before.1, after.1)) && !rearm && done.is_ok()
        {
            return Err(format!(
                "the deadline came nearer, from {before:?} to {after:?}, and nobody was told"
            ));
        }
        self.compare(&expected, &to_broker, &to_client, done.err())
    }

    /// What the driver does before each batch: only if the chain moved or a right may have ended.
    fn catch_up(&mut self) -> Result<(), String> {
        let Some(session) = &mut self.session else { return Ok(()) };
        session.machine.set_clock(session.clock(&self.world));
        let mut buffer = Vec::new();
        let mut to_broker = Lane::new(&[], &mut buffer);
        let done = if session.machine.view_version() != self.world.version()
            || session.machine.rights_are_due()
        {
            session.machine.follow(self.world.view(), &mut to_broker)
        } else {
            Ok(())
        };
        let sent = to_broker.octets().to_vec();
        let expected = session.model.follows(&mut self.world);
        self.compare(&expected, &sent, &[], done.err())
    }

    /// The chain has woken the session.
    fn wake(&mut self) -> Result<(), String> {
        let Some(session) = &mut self.session else { return Ok(()) };
        session.machine.set_clock(session.clock(&self.world));
        let mut buffer = Vec::new();
        let mut to_broker = Lane::new(&[], &mut buffer);
        let done = session.machine.follow(self.world.view(), &mut to_broker);
        let sent = to_broker.octets().to_vec();
        let expected = session.model.follows(&mut self.world);
        self.compare(&expected, &sent, &[], done.err())
    }

    /// Time passes; the machine is woken when it wanted to be, and at no other time.
    fn wait(&mut self, seconds: u64) -> Result<(), String> {
        self.tell(|| format!("{seconds} s pass"));
        let mut left = seconds;
        for _ in 0..200 {
            let Some(session) = &mut self.session else {
                self.world.now += left;
                return Ok(());
            };
            let (alive, rights) = session.machine.deadline();
            let alive =
                alive.map_or(u64::MAX, |at| whole_seconds(at).saturating_sub(session.elapsed));
            let rights = rights.map_or(u64::MAX, |at| at.saturating_sub(self.world.now));
            let next = alive.min(rights);
            if next > left {
                self.world.now += left;
                session.elapsed += left;
                let (waits, keep_alive) =
                    (session.model.broker_waits(session.elapsed), session.model.terms.keep_alive);
                if keep_alive > 0 && 2 * waits > 3 * keep_alive {
                    return Err(format!(
                        "the broker has heard nothing for {waits} s, with a keep alive of {keep_alive} s"
                    ));
                }
                return Ok(());
            }
            self.world.now += next;
            session.elapsed += next;
            left -= next;
            session.machine.set_clock(session.clock(&self.world));
            let mut buffer = Vec::new();
            let mut to_broker = Lane::new(&[], &mut buffer);
            let done = session.machine.tick(self.world.view(), &mut to_broker);
            let sent = to_broker.octets().to_vec();
            let expected = session.model.ticks(&mut self.world, session.elapsed);
            self.compare(&expected, &sent, &[], done.err())?;
        }
        Err("a deadline that comes again and again".into())
    }

    /// The driver acts on what the client sent to prove itself again.
    fn prove(&mut self, rng: &mut StdRng) -> Result<(), String> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let Some(step) = session.step.take() else { return Ok(()) };
        session.machine.set_clock(session.clock(&self.world));
        let mut to_client = Vec::new();
        if step == Step::Begin {
            let done = session.machine.ask(&B256::repeat_byte(7), &mut to_client);
            let asked = Packet::Auth {
                code: 0x18,
                method: "FLYTRAP-EIP712".into(),
                data: Some(vec![7; 32]),
            }
            .encode(Version::V5);
            let mut expected = Outcome::default();
            if asked.len() > session.model.terms.client_takes {
                expected.end = Some(Ending::NotRenewed);
            } else {
                session.model.renewing = Renewing::Asked { until: session.elapsed + 30 };
                expected.to_client.push(Expect::Exactly(asked));
            }
            return self.compare(&expected, &[], &to_client, done.err());
        }
        let mut proved = session.model.who;
        proved.credential.issued_at = self.world.now;
        proved.credential.expires_at = self.world.now + rng.random_range(1..200);
        let is_other = rng.random_ratio(1, 5);
        if is_other {
            proved.key = wallet(7);
        }
        let done = session.machine.renew(proved, &mut to_client);
        let mut expected = Outcome::default();
        if is_other {
            expected.end = Some(Ending::NotRenewed);
        } else {
            session.model.who = proved;
            session.model.renewing = Renewing::Idle { not_before: session.elapsed + 1 };
            let told = Packet::Auth { code: 0, method: "FLYTRAP-EIP712".into(), data: None };
            expected.to_client.push(Expect::Exactly(told.encode(Version::V5)));
        }
        self.compare(&expected, &[], &to_client, done.err())?;
        self.wake()
    }

    /// A database was exchanged: the client is taken to be elsewhere.
    fn relocate(&mut self, rng: &mut StdRng) -> Result<(), String> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let country = some_country(rng);
        session.machine.relocate(country);
        session.model.who.country = country;
        self.tell(|| format!("the client is in {country:?}"));
        self.wake()
    }

    /// Everybody says all they have to say, until nothing is under way.
    fn settle(&mut self, rng: &mut StdRng) -> Result<(), String> {
        self.tell(|| "all is quiet".into());
        for _ in 0..1_000 {
            let Some(session) = &mut self.session else { return Ok(()) };
            let version = session.model.terms.version;
            while let Some(answer) = session.client.answers.pop_front() {
                session.from_client.push(answer, version);
            }
            while let Some(answer) = session.broker.answers.pop_front() {
                session.from_broker.push(answer, version);
            }
            if session.from_client.octets.is_empty() && session.from_broker.octets.is_empty() {
                return self.is_at_rest();
            }
            self.client_is_read(rng)?;
            self.broker_is_read(rng)?;
        }
        Err("it never gets quiet".into())
    }

    fn is_at_rest(&mut self) -> Result<(), String> {
        self.wake()?;
        let Some(session) = &mut self.session else { return Ok(()) };
        if session.broker.is_strange || !session.broker.answers.is_empty() {
            return Ok(());
        }
        session.model.is_at_rest()?;
        if session.broker.subscriptions != session.model.live {
            return Err(format!(
                "live at the broker {:?}, known {:?}",
                session.broker.subscriptions, session.model.live
            ));
        }
        let who = session.model.who;
        match session
            .broker
            .subscriptions
            .iter()
            .find(|filter| !self.world.may_subscribe(&who, filter))
        {
            Some(filter) => Err(format!("{filter} is live at the broker, and not allowed")),
            None => Ok(()),
        }
    }

    /// Holds what came out against what had to; then both ends get it, and judge by themselves.
    fn compare(
        &mut self,
        expected: &Outcome,
        to_broker: &[u8],
        to_client: &[u8],
        end: Option<End>,
    ) -> Result<(), String> {
        let Some(session) = &mut self.session else { return Ok(()) };
        let (version, who) = (session.model.terms.version, session.model.who);
        let (ahead, back) = (cut(to_broker)?, cut(to_client)?);
        session.model.check(&expected.to_broker, &ahead, "broker", session.elapsed)?;
        session.model.check(&expected.to_client, &back, "client", session.elapsed)?;
        self.met.to_broker += ahead.len() as u64;
        self.met.to_client += back.len() as u64;
        let own = |one: &&Expect| matches!(one, Expect::Ack { .. } | Expect::SubAck { .. });
        self.met.refused += expected.to_client.iter().filter(own).count() as u64;
        self.met.taken_back +=
            expected.to_broker.iter().filter(|one| matches!(one, Expect::TakeBack(_))).count()
                as u64;
        let mut rng = StdRng::seed_from_u64(ahead.len() as u64 * 31 + back.len() as u64);
        for seen in &ahead {
            let arrived = session.broker.takes(version, seen, &mut rng);
            match arrived.ok_or_else(|| {
                format!("to the broker: no packet of a client: {:02x?}", seen.octets)
            })? {
                Arrived::Message { topic, retain }
                    if !self.world.may_publish(&who, &topic, retain) =>
                {
                    return Err(format!(
                        "the broker got a message on {topic}, which is not allowed"
                    ));
                }
                Arrived::Filters(filters) => {
                    if let Some(filter) =
                        filters.iter().find(|filter| !self.world.may_subscribe(&who, filter))
                    {
                        return Err(format!(
                            "the broker was asked for {filter}, which is not allowed"
                        ));
                    }
                }
                _ => {}
            }
        }
        for seen in &back {
            let arrived = session.client.takes(version, seen);
            match arrived.ok_or_else(|| {
                format!("to the client: no packet of a broker: {:02x?}", seen.octets)
            })? {
                Arrived::Message { topic, .. } if !self.world.may_receive(&who, &topic) => {
                    return Err(format!(
                        "the client got a message on {topic}, which is not allowed"
                    ));
                }
                _ => {}
            }
            if seen.octets.len() > session.model.terms.client_takes {
                return Err(format!(
                    "{} octets to a client that takes {}",
                    seen.octets.len(),
                    session.model.terms.client_takes
                ));
            }
        }
        let found = end.as_ref().map(Ending::of);
        if found != expected.end.map(Some) {
            return Err(format!("it ended with {end:?} in place of {:?}", expected.end));
        }
        match end {
            Some(end) => self.leave(&end),
            None => Ok(()),
        }
    }

    fn leave(&mut self, end: &End) -> Result<(), String> {
        let Some(mut session) = self.session.take() else { return Ok(()) };
        self.tell(|| format!("end: {end}"));
        let ending = Ending::of(end);
        let word = ending.map_or_else(|| end.to_string(), |ending| format!("{ending:?}"));
        *self.met.ends.entry(word).or_default() += 1;
        let (mut to_client, mut to_broker) = (Vec::new(), Vec::new());
        session.machine.set_clock(session.clock(&self.world));
        session.machine.leave(end, Some(self.world.view()), &mut to_client, &mut to_broker);
        let is_said = matches!(ending, Some(Ending::ClientLeft | Ending::BrokerLeft));
        let takes_back = !is_said && !session.model.will_may_fire(&self.world);
        let goodbye = takes_back.then_some(Expect::Ack { first: 0xE0, id: 0, code: 0 });
        let elapsed = session.elapsed;
        session.model.check(goodbye.as_slice(), &cut(&to_broker)?, "broker", elapsed)?;
        let said = cut(&to_client)?;
        if is_said || session.model.terms.version != Version::V5 {
            return if said.is_empty() {
                Ok(())
            } else {
                Err(format!("a goodbye to nobody: {to_client:02x?}"))
            };
        }
        let wanted: &[u8] = match ending {
            Some(Ending::Denied) if self.world.is_banned(&session.model.who) => &[0x98, 0x87],
            Some(Ending::Denied | Ending::Refused) => &[0x87],
            Some(Ending::NotRenewed) => &[0x87, 0x95],
            Some(Ending::ClientFault) => &[0x81, 0x82, 0x8F, 0x90, 0x95],
            Some(Ending::ClientAlias) => &[0x94],
            Some(Ending::ClientExcess) => &[0x97],
            Some(Ending::KeepAlive) => &[0x8D],
            _ => &[0x80],
        };
        let [Seen { octets, body }] = &said[..] else {
            return Err(format!("not one goodbye: {to_client:02x?}"));
        };
        let fits = octets.len() <= session.model.terms.client_takes;
        if octets[0] != 0xE0 || !fits || !body.first().is_some_and(|code| wanted.contains(code)) {
            return Err(format!("{octets:02x?} in place of DISCONNECT with one of {wanted:02x?}"));
        }
        Ok(())
    }
}

impl Session {
    fn clock(&self, world: &World) -> Clock {
        Clock { now: world.now, elapsed: Duration::from_secs(self.elapsed) }
    }
}

fn alike_in(packets: &[Packet]) -> u64 {
    packets.windows(2).filter(|pair| are_alike(&pair[0], &pair[1])).count() as u64
}

impl Pipe {
    fn push(&mut self, packet: Packet, version: Version) {
        self.octets.extend(packet.encode(version));
        self.packets.push_back(packet);
    }

    /// And behind it perhaps some that begin as it does.
    fn push_with_like(
        &mut self,
        packet: Packet,
        version: Version,
        names: &[String],
        rng: &mut StdRng,
    ) {
        let like = match &packet {
            Packet::Publish(first) => some_like(version, first, names, rng),
            _ => Vec::new(),
        };
        self.push(packet, version);
        for next in like {
            self.push(Packet::Publish(next), version);
        }
    }

    /// A batch from the front, and the packets that are whole in it.
    fn some(&self, version: Version, rng: &mut StdRng) -> (Vec<u8>, Vec<Packet>) {
        let all = self.octets.len();
        let length =
            if all == 0 || rng.random_ratio(3, 4) { all } else { rng.random_range(0..=all) };
        let mut end = 0;
        let whole = self.packets.iter().take_while(|packet| {
            end += packet.encode(version).len();
            end <= length
        });
        let packets: Vec<Packet> = whole.cloned().collect();
        // What is not whole may show what is wrong with it before its end has come, which is another story.
        let hides_fault = self.packets.get(packets.len()).is_some_and(|next| {
            matches!(next, Packet::Wrong(..)) || next.encode(version).len() > 400
        });
        let length = if hides_fault {
            packets.iter().map(|packet| packet.encode(version).len()).sum()
        } else {
            length
        };
        (self.octets[..length].to_vec(), packets)
    }

    fn read(&mut self, packets: &[Packet], octets: usize) {
        self.packets.drain(..packets.len());
        self.octets.drain(..octets.min(self.octets.len()));
    }
}

fn is_nearer<T: PartialOrd>(before: Option<T>, after: Option<T>) -> bool {
    match (before, after) {
        (None, Some(_)) => true,
        (Some(before), Some(after)) => after < before,
        _ => false,
    }
}

fn some_country(rng: &mut StdRng) -> Option<Country> {
    [None, Some(country("GB")), Some(country("FR"))][rng.random_range(0..3)]
}

fn whole_seconds(at: Duration) -> u64 {
    at.as_secs() + u64::from(at.subsec_nanos() > 0)
}

/// What topics and the names around them are called, for this session.
fn some_names(who: &Principal) -> Vec<String> {
    let mut names: Vec<String> = [
        "a",
        "a/b",
        "a/b/c",
        "b",
        "b/c",
        "c",
        "a/a",
        "a/else",
        "a/b/else/c",
        "else",
        "a//b",
        "$SYS/a",
        "c/c/c",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push(format!("a/{:#x}", who.key));
    names.push(format!("a/b/{:#x}/c", who.key));
    names
}

fn machine(terms: &Terms, who: Principal, world: &World) -> Machine {
    let v5 = terms.version == Version::V5;
    let number = |size: usize| u32::try_from(size).ok().and_then(|size| size.try_into().ok());
    let bare = Connect::bare(terms.version);
    let mut connect = Connect {
        request_problem_information: terms.wants_reasons,
        maximum_packet_size: number(terms.client_takes),
        topic_alias_maximum: terms.client_aliases,
        keep_alive: u16::try_from(terms.keep_alive).unwrap(),
        session_expiry: u32::from(!terms.expires_at_once) * 100,
        authentication_method: terms.may_renew.then_some("FLYTRAP-EIP712"),
        ..bare
    };
    // A will as it is read of a CONNECT, since nothing else makes one.
    let with_will = terms.will.as_ref().map(|(name, retain)| {
        let mut body = b"\x00\x04MQTT\x04".to_vec();
        body.extend([0x06 | u8::from(*retain) << 5, 0, 0, 0, 1, b'c']);
        body.extend(u16::try_from(name.len()).unwrap().to_be_bytes());
        body.extend(name.as_bytes());
        body.extend([0, 1, b'w']);
        let mut octets = vec![0x10];
        super::wire::number(body.len(), &mut octets);
        octets.extend(body);
        octets
    });
    if let Some(octets) = &with_will {
        let read = read_connect(frame(octets, 1 << 20).unwrap().unwrap()).unwrap();
        let Some(Will { qos: QoS::AtMostOnce, .. }) = read.will else { panic!("a will") };
        connect.will = read.will;
    }
    let mut connack = vec![0, 0];
    if v5 {
        let mut properties = vec![0x22];
        properties.extend(terms.broker_aliases.to_be_bytes());
        if let Some(size) = u32::try_from(terms.broker_takes).ok().filter(|size| *size < u32::MAX) {
            properties.push(0x27);
            properties.extend(size.to_be_bytes());
        }
        super::wire::number(properties.len(), &mut connack);
        connack.extend(properties);
    }
    let mut octets = vec![0x20];
    super::wire::number(connack.len(), &mut octets);
    octets.extend(connack);
    let read = read_from_broker(terms.version, frame(&octets, 100).unwrap().unwrap());
    let Ok(FromBroker::ConnAck(connack)) = read else { panic!("a CONNACK: {read:?}") };
    let machine_terms = MachineTerms {
        deny_action: if terms.closes_on_refusal {
            DenyAction::Close
        } else {
            DenyAction::Acknowledge
        },
        max_packet_octets: terms.most_octets,
        max_subscriptions: terms.most_subscriptions,
        // Bounds of their own subject, out of this model's reach.
        max_in_flight: u16::MAX,
        session_expiry_cap: u32::MAX,
    };
    let clock = Clock { now: world.now, elapsed: Duration::ZERO };
    Machine::new(who, &connect, &connack, machine_terms, Arc::clone(&world.view()), clock)
}
