//! What one session must do, told naively from DESIGN and the standard: each packet in, and exactly what has to come out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flytrap_gateway::session::End;
use flytrap_mqtt::Version;
use flytrap_policy::Principal;

use super::wire::{Fields, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Publish, Seen};
use super::world::World;

/// What has to come out.
#[derive(Debug, Clone, PartialEq)]
pub enum Expect {
    /// These octets.
    Exactly(Vec<u8>),
    /// An acknowledgement of the gateway's own, which may say why if the client wants to know.
    Ack { first: u8, id: u16, code: u8 },
    /// A SUBACK of the gateway's own, likewise.
    SubAck { id: u16, codes: Vec<u8> },
    /// An UNSUBSCRIBE of the gateway's own.
    TakeBack(BTreeSet<String>),
}

/// Why a session ends, as far as anyone can tell from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    ClientLeft,
    ClientFault,
    ClientAlias,
    ClientExcess,
    BrokerLeft,
    BrokerFault,
    KeepAlive,
    Denied,
    NotRenewed,
    Refused,
}

impl Ending {
    pub fn of(end: &End) -> Option<Self> {
        Some(match end {
            End::ClientLeft => Self::ClientLeft,
            End::ClientFault(_) | End::ClientAnswer => Self::ClientFault,
            End::ClientAlias => Self::ClientAlias,
            End::ClientExcess(_) => Self::ClientExcess,
            End::BrokerLeft => Self::BrokerLeft,
            End::BrokerFault(_) => Self::BrokerFault,
            End::KeepAlive => Self::KeepAlive,
            End::Denied(_) => Self::Denied,
            End::NotRenewed { .. } => Self::NotRenewed,
            End::Refused(_) => Self::Refused,
            _ => return None,
        })
    }
}

#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    pub to_broker: Vec<Expect>,
    pub to_client: Vec<Expect>,
    pub end: Option<Ending>,
}

impl Outcome {
    fn end(mut self, end: Ending) -> Self {
        self.end = Some(end);
        self
    }
}

/// A SUBSCRIBE that the broker has yet to answer.
#[derive(Debug)]
struct Asked {
    id: u16,
    /// Of each filter the code of its refusal, or none.
    codes: Vec<Option<u8>>,
    /// What the broker was asked for, and whether it was unsubscribed since.
    forwarded: Vec<(String, bool)>,
}

#[derive(Debug, PartialEq)]
pub enum Renewing {
    Impossible,
    Idle { not_before: u64 },
    Judged,
    Asked { until: u64 },
}

/// What was agreed in CONNECT and CONNACK, and what the operator decided.
#[derive(Debug, Clone)]
pub struct Terms {
    pub version: Version,
    pub closes_on_refusal: bool,
    pub most_octets: usize,
    pub most_subscriptions: usize,
    pub wants_reasons: bool,
    pub client_takes: usize,
    pub broker_takes: usize,
    pub broker_aliases: u16,
    pub client_aliases: u16,
    pub keep_alive: u64,
    pub will: Option<(String, bool)>,
    pub expires_at_once: bool,
    pub may_renew: bool,
}

pub struct Model {
    pub terms: Terms,
    pub who: Principal,
    /// Topic aliases: what the client means, and what the broker knows.
    client_means: BTreeMap<u16, String>,
    broker_knows: BTreeMap<u16, String>,
    /// And the other way round.
    broker_means: BTreeMap<u16, String>,
    client_knows: BTreeMap<u16, String>,
    /// Publishes that the client waits for, oldest first, with the gateway's own answers.
    answers: VecDeque<(u16, Option<Expect>)>,
    refused: BTreeSet<u16>,
    withheld: BTreeSet<u16>,
    /// What the client may answer a QoS 2 delivery with.
    owed: BTreeMap<u16, Vec<u8>>,
    pub live: BTreeSet<String>,
    asked: VecDeque<Asked>,
    /// UNSUBSCRIBE packets unanswered; `true`: of the gateway's own.
    unsubscribes: VecDeque<(u16, bool)>,
    has_published: bool,
    pings: VecDeque<bool>,
    pub renewing: Renewing,
    heard: u64,
    told: u64,
}

impl Model {
    pub fn new(terms: Terms, who: Principal, elapsed: u64) -> Self {
        Self {
            renewing: if terms.may_renew {
                Renewing::Idle { not_before: elapsed }
            } else {
                Renewing::Impossible
            },
            terms,
            who,
            client_means: BTreeMap::new(),
            broker_knows: BTreeMap::new(),
            broker_means: BTreeMap::new(),
            client_knows: BTreeMap::new(),
            answers: VecDeque::new(),
            refused: BTreeSet::new(),
            withheld: BTreeSet::new(),
            owed: BTreeMap::new(),
            live: BTreeSet::new(),
            asked: VecDeque::new(),
            unsubscribes: VecDeque::new(),
            has_published: false,
            pings: VecDeque::new(),
            heard: elapsed,
            told: elapsed,
        }
    }

    fn is_v5(&self) -> bool {
        self.terms.version == Version::V5
    }

    pub fn client_sends(
        &mut self,
        packet: &Packet,
        octets: &[u8],
        world: &mut World,
        elapsed: u64,
    ) -> Outcome {
        let mut out = Outcome::default();
        let forward = |mut out: Outcome| {
            out.to_broker.push(Expect::Exactly(octets.to_vec()));
            out
        };
        if octets.len() > self.terms.most_octets {
            return out.end(Ending::ClientFault);
        }
        match packet {
            Packet::Wrong(..) => out.end(Ending::ClientFault),
            Packet::Publish(publish) => self.client_publishes(publish, octets, world, out),
            Packet::Ack { kind: PUBREL, id, .. } if self.refused.remove(id) => {
                let code = if self.is_v5() { 0x92 } else { 0 };
                out.to_client.push(Expect::Ack { first: 0x70, id: *id, code });
                out
            }
            Packet::Ack { kind, id, code } if *kind != PUBREL => {
                if self.owed.get(id).is_some_and(|owed| !owed.contains(kind)) {
                    return out.end(Ending::ClientFault);
                }
                if *kind == PUBCOMP || *code >= 0x80 {
                    self.owed.remove(id);
                }
                forward(out)
            }
            Packet::Ack { .. } => forward(out),
            Packet::Subscribe { id, properties, filters } => {
                self.client_subscribes(*id, properties, filters, octets, world, out)
            }
            Packet::Unsubscribe { id, filters } => {
                for filter in filters {
                    self.unsubscribed(filter);
                }
                self.unsubscribes.push_back((*id, false));
                forward(out)
            }
            Packet::PingReq => {
                self.pings.push_back(false);
                forward(out)
            }
            Packet::Disconnect { code, expiry } => {
                if self.terms.expires_at_once && expiry.is_some_and(|seconds| seconds > 0) {
                    return out.end(Ending::ClientFault);
                }
                let out = if *code == 4 && !self.will_may_fire(world) {
                    out.to_broker.push(Expect::Ack { first: 0xE0, id: 0, code: 0 });
                    out
                } else {
                    forward(out)
                };
                out.end(Ending::ClientLeft)
            }
            Packet::Auth { code, method, .. } => {
                if method != "FLYTRAP-EIP712" {
                    return out.end(Ending::ClientFault);
                }
                match (&self.renewing, code) {
                    (Renewing::Idle { not_before }, 0x19) if elapsed < *not_before => {
                        return out.end(Ending::ClientExcess);
                    }
                    (Renewing::Idle { .. }, 0x19) | (Renewing::Asked { .. }, 0x18) => {
                        self.renewing = Renewing::Judged
                    }
                    _ => return out.end(Ending::ClientFault),
                }
                out
            }
            _ => unreachable!("a client does not send {packet:?}"),
        }
    }

    fn client_publishes(
        &mut self,
        publish: &Publish,
        octets: &[u8],
        world: &World,
        mut out: Outcome,
    ) -> Outcome {
        let name = match publish.alias {
            None => publish.topic.clone(),
            Some(alias) if alias > self.terms.broker_aliases => {
                return out.end(Ending::ClientAlias);
            }
            Some(alias) => {
                if !publish.topic.is_empty() {
                    mean(alias, &publish.topic, &mut self.client_means, &mut self.broker_knows);
                }
                match self.client_means.get(&alias) {
                    Some(name) => name.clone(),
                    None => return out.end(Ending::ClientAlias),
                }
            }
        };
        let allowed = world.may_publish(&self.who, &name, publish.retain);
        let mut sent = octets.to_vec();
        if let Some(alias) = publish.alias
            && publish.topic.is_empty()
            && self.broker_knows.get(&alias) != Some(&name)
        {
            sent = Packet::Publish(Publish { topic: name.clone(), ..publish.clone() })
                .encode(self.terms.version);
        }
        let fits = sent.len() == octets.len() || sent.len() <= self.terms.broker_takes;
        if allowed && fits {
            if let Some(alias) = publish.alias
                && (!publish.topic.is_empty() || sent != octets)
            {
                self.broker_knows.insert(alias, name);
            }
            out.to_broker.push(Expect::Exactly(sent));
            self.has_published = true;
            if publish.qos > 0 {
                self.answers.push_back((publish.id, None));
            }
            if publish.qos == 2 {
                self.refused.remove(&publish.id);
            }
            return out;
        }
        if !allowed && !self.is_v5() && self.terms.closes_on_refusal {
            return out.end(Ending::Refused);
        }
        if publish.qos > 0 {
            let first = if publish.qos == 1 { PUBACK << 4 } else { PUBREC << 4 };
            let code = match (self.is_v5(), allowed) {
                (false, _) => 0,
                (true, false) => 0x87,
                (true, true) => 0x97,
            };
            if publish.qos == 2 {
                self.refused.insert(publish.id);
            }
            self.answers.push_back((publish.id, Some(Expect::Ack { first, id: publish.id, code })));
            self.release(&mut out);
        }
        out
    }

    /// The gateway's own answers, as far as nothing older waits.
    fn release(&mut self, out: &mut Outcome) {
        while let Some((_, Some(answer))) = self.answers.front() {
            out.to_client.push(answer.clone());
            self.answers.pop_front();
        }
    }

    fn client_subscribes(
        &mut self,
        id: u16,
        properties: &[u8],
        filters: &[(String, u8)],
        octets: &[u8],
        world: &mut World,
        mut out: Outcome,
    ) -> Outcome {
        let mut room = self.terms.most_subscriptions.saturating_sub(
            self.live.len() + self.asked.iter().map(|asked| asked.forwarded.len()).sum::<usize>(),
        );
        let (mut codes, mut kept) = (Vec::new(), Vec::new());
        for (filter, options) in filters {
            codes.push(if !world.may_subscribe(&self.who, filter) {
                Some(if self.is_v5() { 0x87 } else { 0x80 })
            } else if !self.live.contains(filter) && room == 0 {
                Some(if self.is_v5() { 0x97 } else { 0x80 })
            } else {
                room -= usize::from(!self.live.contains(filter));
                kept.push((filter.clone(), *options));
                None
            });
        }
        if kept.is_empty() {
            let codes = codes.into_iter().flatten().collect();
            out.to_client.push(Expect::SubAck { id, codes });
            return out;
        }
        let forwarded = kept.iter().map(|(filter, _)| (filter.clone(), false)).collect();
        let sent = if kept.len() == filters.len() {
            octets.to_vec()
        } else {
            Packet::Subscribe { id, properties: properties.to_vec(), filters: kept }
                .encode(self.terms.version)
        };
        out.to_broker.push(Expect::Exactly(sent));
        self.asked.push_back(Asked { id, codes, forwarded });
        out
    }

    fn unsubscribed(&mut self, filter: &str) {
        self.live.remove(filter);
        for asked in &mut self.asked {
            for (one, is_cancelled) in &mut asked.forwarded {
                *is_cancelled |= one == filter;
            }
        }
    }

    pub fn broker_sends(&mut self, packet: &Packet, octets: &[u8], world: &mut World) -> Outcome {
        let mut out = Outcome::default();
        let forward = |mut out: Outcome| {
            out.to_client.push(Expect::Exactly(octets.to_vec()));
            out
        };
        match packet {
            Packet::Wrong(..) | Packet::Auth { .. } => out.end(Ending::BrokerFault),
            Packet::Publish(publish) => self.broker_publishes(publish, octets, world, out),
            Packet::Ack { kind: PUBACK | PUBREC, id, .. } => {
                let found = self.answers.iter().position(|(one, own)| one == id && own.is_none());
                if let Some(at) = found {
                    self.answers.remove(at);
                }
                let mut out = forward(out);
                self.release(&mut out);
                out
            }
            Packet::Ack { kind: PUBREL, id, .. } if self.withheld.remove(id) => {
                out.to_broker.push(Expect::Ack { first: PUBCOMP << 4, id: *id, code: 0 });
                out
            }
            Packet::Ack { kind: PUBREL, id, .. } => {
                if let Some(owed) = self.owed.get_mut(id) {
                    *owed = vec![PUBREC, PUBCOMP];
                }
                forward(out)
            }
            Packet::Ack { .. } => forward(out),
            Packet::SubAck { id, codes } => {
                let Some(at) = self.asked.iter().position(|asked| asked.id == *id) else {
                    return out.end(Ending::BrokerFault);
                };
                let asked = self.asked.remove(at).unwrap();
                if codes.len() != asked.forwarded.len() {
                    return out.end(Ending::BrokerFault);
                }
                let mut granted = codes.iter();
                let merged =
                    asked.codes.iter().map(|code| code.unwrap_or_else(|| *granted.next().unwrap()));
                let merged = Packet::SubAck { id: *id, codes: merged.collect() };
                out.to_client.push(Expect::Exactly(merged.encode(self.terms.version)));
                let mut gone = BTreeSet::new();
                for ((filter, is_cancelled), code) in asked.forwarded.into_iter().zip(codes) {
                    if *code >= 0x80 || is_cancelled {
                        continue;
                    }
                    if world.may_subscribe(&self.who, &filter) {
                        self.live.insert(filter);
                    } else {
                        self.live.remove(&filter);
                        gone.insert(filter);
                    }
                }
                if !gone.is_empty() {
                    out.to_broker.push(Expect::TakeBack(gone));
                }
                out
            }
            Packet::UnsubAck { id, .. } => {
                let at = self.unsubscribes.iter().position(|(one, _)| one == id);
                let is_own =
                    at.and_then(|at| self.unsubscribes.remove(at)).is_some_and(|(_, own)| own);
                if is_own { out } else { forward(out) }
            }
            Packet::PingResp => {
                let is_own = self.pings.pop_front().unwrap_or(false);
                if is_own { out } else { forward(out) }
            }
            Packet::Disconnect { .. } => forward(out).end(Ending::BrokerLeft),
            _ => unreachable!("a broker does not send {packet:?}"),
        }
    }

    fn broker_publishes(
        &mut self,
        publish: &Publish,
        octets: &[u8],
        world: &World,
        mut out: Outcome,
    ) -> Outcome {
        let name = match publish.alias {
            None => publish.topic.clone(),
            Some(alias) if alias > self.terms.client_aliases => {
                return out.end(Ending::BrokerFault);
            }
            Some(alias) => {
                if !publish.topic.is_empty() {
                    mean(alias, &publish.topic, &mut self.broker_means, &mut self.client_knows);
                }
                match self.broker_means.get(&alias) {
                    Some(name) => name.clone(),
                    None => return out.end(Ending::BrokerFault),
                }
            }
        };
        let mut sent = octets.to_vec();
        if let Some(alias) = publish.alias
            && publish.topic.is_empty()
            && self.client_knows.get(&alias) != Some(&name)
        {
            sent = Packet::Publish(Publish { topic: name.clone(), ..publish.clone() })
                .encode(self.terms.version);
        }
        let fits = sent.len() == octets.len() || sent.len() <= self.terms.client_takes;
        if world.may_receive(&self.who, &name) && fits {
            if let Some(alias) = publish.alias
                && (!publish.topic.is_empty() || sent != octets)
            {
                self.client_knows.insert(alias, name);
            }
            match publish.qos {
                2 => {
                    self.withheld.remove(&publish.id);
                    self.owed.insert(publish.id, vec![PUBREC]);
                }
                1 => {
                    self.withheld.remove(&publish.id);
                    self.owed.remove(&publish.id);
                }
                _ => {}
            }
            out.to_client.push(Expect::Exactly(sent));
        } else if publish.qos > 0 {
            if publish.qos == 2 {
                self.withheld.insert(publish.id);
                self.owed.remove(&publish.id);
            }
            let first = if publish.qos == 1 { PUBACK << 4 } else { PUBREC << 4 };
            out.to_broker.push(Expect::Ack { first, id: publish.id, code: 0 });
        }
        out
    }

    /// What the session stands on is looked at again, before anything else happens at this moment.
    pub fn follows(&mut self, world: &mut World) -> Outcome {
        let mut out = Outcome::default();
        if !world.stands(&self.who) || (self.terms.will.is_some() && !self.will_may_fire(world)) {
            return out.end(Ending::Denied);
        }
        let gone: BTreeSet<String> = self
            .live
            .iter()
            .filter(|filter| !world.may_subscribe(&self.who, filter))
            .cloned()
            .collect();
        if gone.is_empty() {
            return out;
        }
        self.live.retain(|filter| !gone.contains(filter));
        out.to_broker.push(Expect::TakeBack(gone));
        if self.live.is_empty() && self.asked.is_empty() && !self.has_published {
            return out.end(Ending::Denied);
        }
        out
    }

    pub fn ticks(&mut self, world: &mut World, elapsed: u64) -> Outcome {
        let mut out = Outcome::default();
        if matches!(self.renewing, Renewing::Asked { until } if elapsed >= until) {
            return out.end(Ending::NotRenewed);
        }
        let keep_alive = self.terms.keep_alive;
        if keep_alive > 0 {
            if 2 * (elapsed - self.heard) >= 3 * keep_alive {
                return out.end(Ending::KeepAlive);
            }
            if elapsed - self.told >= keep_alive && !self.pings.contains(&true) {
                out.to_broker.push(Expect::Exactly(vec![0xC0, 0]));
                self.pings.push_back(true);
                self.told = elapsed;
            }
        }
        let then = self.follows(world);
        out.to_broker.extend(then.to_broker);
        out.end = then.end;
        out
    }

    /// Whole packets of the client were worked off.
    pub fn heard_client(&mut self, told_broker: bool, elapsed: u64) {
        self.heard = elapsed;
        if told_broker {
            self.told = elapsed;
        }
    }

    pub fn will_may_fire(&self, world: &World) -> bool {
        self.terms
            .will
            .as_ref()
            .is_none_or(|(name, retain)| world.may_publish(&self.who, name, *retain))
    }

    /// Seconds that the broker has heard nothing, if there is a limit to it.
    pub fn broker_waits(&self, elapsed: u64) -> u64 {
        elapsed - self.told
    }

    /// Holds what came out against what had to; takes note of packet identifiers of the gateway's own.
    pub fn check(
        &mut self,
        expected: &[Expect],
        seen: &[Seen],
        side: &str,
        elapsed: u64,
    ) -> Result<(), String> {
        for (at, expect) in expected.iter().enumerate() {
            let Some(one) = seen.get(at) else {
                return Err(format!("to the {side}: missing {expect:02x?}"));
            };
            self.check_one(expect, one, elapsed).ok_or_else(|| {
                format!("to the {side}: {:02x?}\n    in place of {expect:02x?}", one.octets)
            })?;
        }
        match seen.get(expected.len()) {
            Some(one) => Err(format!("to the {side}: too much: {:02x?}", one.octets)),
            None => Ok(()),
        }
    }

    fn check_one(&mut self, expect: &Expect, seen: &Seen, elapsed: u64) -> Option<()> {
        let version = self.terms.version;
        let mut fields = Fields(&seen.body);
        let said = match expect {
            Expect::Exactly(octets) => return (*octets == seen.octets).then_some(()),
            Expect::Ack { first, id, code } => {
                let has_id = *first != 0xE0;
                if seen.octets[0] != *first || (has_id && fields.u16()? != *id) {
                    return None;
                }
                let found =
                    if version == Version::V5 && !fields.0.is_empty() { fields.u8()? } else { 0 };
                if found != *code {
                    return None;
                }
                let has_more = version == Version::V5 && !fields.0.is_empty();
                let said = if has_more { fields.properties(version)?.reason } else { None };
                fields.0.is_empty().then_some(said)?
            }
            Expect::SubAck { id, codes } => {
                if seen.octets[0] != 0x90 || fields.u16()? != *id {
                    return None;
                }
                let said = fields.properties(version)?.reason;
                (fields.0 == codes).then_some(said)?
            }
            Expect::TakeBack(filters) => {
                let id = fields.u16()?;
                fields.properties(version)?;
                let mut found = BTreeSet::new();
                while !fields.0.is_empty() {
                    found.insert(fields.text()?);
                }
                let is_free = !self.answers.iter().any(|(one, _)| *one == id)
                    && !self.asked.iter().any(|asked| asked.id == id)
                    && !self.unsubscribes.iter().any(|(one, _)| *one == id);
                if seen.octets[0] != 0xA2 || id == 0 || found != *filters || !is_free {
                    return None;
                }
                self.unsubscribes.push_back((id, true));
                self.told = elapsed;
                for filter in filters {
                    self.unsubscribed(filter);
                }
                return Some(());
            }
        };
        let may_say = self.terms.wants_reasons && seen.octets.len() <= self.terms.client_takes;
        (said.is_none() || may_say).then_some(())
    }

    /// Nothing is under way any more: nothing may be left over.
    pub fn is_at_rest(&self) -> Result<(), String> {
        if !self.answers.is_empty() || !self.asked.is_empty() || !self.unsubscribes.is_empty() {
            return Err(format!(
                "left over: {:?} {:?} {:?}",
                self.answers, self.asked, self.unsubscribes
            ));
        }
        Ok(())
    }
}

/// A sender sets an alias. Where it meant something else before, the receiver is told anew, even if that is what it knows: the name is then spelt
/// out once more than it has to be.
fn mean(
    alias: u16,
    topic: &str,
    means: &mut BTreeMap<u16, String>,
    knows: &mut BTreeMap<u16, String>,
) {
    if means.insert(alias, topic.to_owned()).is_some_and(|before| before != topic) {
        knows.remove(&alias);
    }
}
