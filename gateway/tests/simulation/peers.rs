//! The two ends, as the standard wants them and as an attacker might be: what they send, and what they make of what reaches them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flytrap_mqtt::Version;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::model::Terms;
use super::wire::{Fields, PUBACK, PUBCOMP, PUBREC, PUBREL, Packet, Publish, Seen, number};

/// What arrived at a peer and what it means there: topic aliases are looked up in the peer's own map.
#[derive(Debug)]
pub enum Arrived {
    Message { topic: String, retain: bool },
    Filters(Vec<String>),
    Other,
}

/// A peer's memory of the topic aliases that it was sent.
#[derive(Default)]
pub struct Aliases(BTreeMap<u16, String>);

impl Aliases {
    fn message(&mut self, version: Version, seen: &Seen) -> Option<(String, bool, u8, u16)> {
        let mut fields = Fields(&seen.body);
        let flags = seen.octets[0] & 15;
        let mut topic = fields.text()?;
        let qos = flags >> 1 & 3;
        let id = if qos > 0 { fields.u16()? } else { 0 };
        if let Some(alias) = fields.properties(version)?.alias {
            if topic.is_empty() {
                topic = self.0.get(&alias)?.clone();
            } else {
                self.0.insert(alias, topic.clone());
            }
        }
        (!topic.is_empty()).then_some((topic, flags & 1 == 1, qos, id))
    }
}

#[derive(Default)]
pub struct Broker {
    aliases: Aliases,
    /// What it will say, in order.
    pub answers: VecDeque<Packet>,
    pub subscriptions: BTreeSet<String>,
    /// It has said what no broker should, or nothing where it should: no promise of the end holds.
    pub is_strange: bool,
    means: BTreeMap<u16, String>,
}

impl Broker {
    /// Takes a packet in; `None` if it is none that a client may send.
    pub fn takes(&mut self, version: Version, seen: &Seen, rng: &mut StdRng) -> Option<Arrived> {
        let mut fields = Fields(&seen.body);
        match seen.octets[0] >> 4 {
            3 => {
                let (topic, retain, qos, id) = self.aliases.message(version, seen)?;
                match qos {
                    1 => self.answers.push_back(Packet::Ack { kind: PUBACK, id, code: 0 }),
                    2 => self.answers.push_back(Packet::Ack { kind: PUBREC, id, code: 0 }),
                    _ => {}
                }
                return Some(Arrived::Message { topic, retain });
            }
            PUBREL => {
                let id = fields.u16()?;
                self.answers.push_back(Packet::Ack { kind: PUBCOMP, id, code: 0 });
            }
            PUBREC => {
                let id = fields.u16()?;
                if fields.u8().unwrap_or(0) < 0x80 {
                    self.answers.push_back(Packet::Ack { kind: PUBREL, id, code: 0 });
                }
            }
            8 => {
                let id = fields.u16()?;
                fields.properties(version)?;
                let (mut codes, mut filters) = (Vec::new(), Vec::new());
                while !fields.0.is_empty() {
                    let filter = fields.text()?;
                    let qos = fields.u8()? & 3;
                    if rng.random_ratio(1, 12) {
                        codes.push(0x80);
                    } else {
                        codes.push(qos);
                        self.subscriptions.insert(filter.clone());
                    }
                    filters.push(filter);
                }
                self.answers.push_back(Packet::SubAck { id, codes });
                return (!filters.is_empty()).then_some(Arrived::Filters(filters));
            }
            10 => {
                let id = fields.u16()?;
                fields.properties(version)?;
                let mut codes = Vec::new();
                while !fields.0.is_empty() {
                    let known = self.subscriptions.remove(&fields.text()?);
                    codes.push(if known { 0 } else { 0x11 });
                }
                self.answers.push_back(Packet::UnsubAck { id, codes });
            }
            12 => self.answers.push_back(Packet::PingResp),
            4 | 7 | 14 => {}
            _ => return None,
        }
        Some(Arrived::Other)
    }

    /// A message that it sends of its own accord: perhaps to one who may not have it.
    pub fn message(&mut self, terms: &Terms, names: &[String], rng: &mut StdRng) -> Option<Packet> {
        let mut publish =
            some_publish(terms.version, terms.client_aliases, &self.means, names, rng);
        if terms.version == Version::V5 && rng.random_ratio(1, 4) {
            publish.properties.extend([0x0B, 0x81, 0x01]);
        }
        let packet = Packet::Publish(publish);
        if packet.encode(terms.version).len() > terms.client_takes {
            return None;
        }
        if let Packet::Publish(publish) = &packet
            && let Some(alias) = publish.alias
            && !publish.topic.is_empty()
        {
            self.means.insert(alias, publish.topic.clone());
        }
        Some(packet)
    }

    /// What a broker must not say, or not now.
    pub fn strange(&mut self, terms: &Terms, rng: &mut StdRng) -> Packet {
        self.is_strange = true;
        let id = some_id(rng);
        let v5 = terms.version == Version::V5;
        match rng.random_range(0..12) {
            0 => Packet::Wrong(vec![0x20, 2, 0, 0], "a second CONNACK"),
            1 => Packet::Wrong(vec![0x82, 0], "SUBSCRIBE from a broker"),
            2 => Packet::Wrong(vec![0x40, 2, 0, 0], "packet identifier 0"),
            3 => Packet::Wrong(vec![0xD0, 1, 0], "PINGRESP with a body"),
            4 if v5 => Packet::Auth { code: 0x18, method: "x".into(), data: None },
            5 if v5 => Packet::Publish(Publish {
                alias: Some(terms.client_aliases + 1),
                topic: "a".into(),
                ..Publish::default()
            }),
            6 => Packet::SubAck { id, codes: vec![0] },
            7 => Packet::Wrong(wrong_publish(terms.version, rng), "a wrong PUBLISH"),
            8 if v5 => Packet::Disconnect { code: 0x8B, expiry: None },
            _ => Packet::Ack {
                kind: [PUBACK, PUBREC, PUBREL, PUBCOMP][rng.random_range(0..4)],
                id,
                code: 0,
            },
        }
    }
}

#[derive(Default)]
pub struct Client {
    aliases: Aliases,
    pub answers: VecDeque<Packet>,
    means: BTreeMap<u16, String>,
    asked: Vec<String>,
}

impl Client {
    pub fn takes(&mut self, version: Version, seen: &Seen) -> Option<Arrived> {
        let mut fields = Fields(&seen.body);
        match seen.octets[0] >> 4 {
            3 => {
                let (topic, retain, qos, id) = self.aliases.message(version, seen)?;
                match qos {
                    1 => self.answers.push_back(Packet::Ack { kind: PUBACK, id, code: 0 }),
                    2 => self.answers.push_back(Packet::Ack { kind: PUBREC, id, code: 0 }),
                    _ => {}
                }
                return Some(Arrived::Message { topic, retain });
            }
            PUBREC => {
                let id = fields.u16()?;
                if fields.u8().unwrap_or(0) < 0x80 {
                    self.answers.push_back(Packet::Ack { kind: PUBREL, id, code: 0 });
                }
            }
            PUBREL => {
                let id = fields.u16()?;
                self.answers.push_back(Packet::Ack { kind: PUBCOMP, id, code: 0 });
            }
            4 | 7 | 9 | 11 | 13 => {}
            14 | 15 if version == Version::V5 => {}
            _ => return None,
        }
        Some(Arrived::Other)
    }

    pub fn some_packet(&mut self, terms: &Terms, names: &[String], rng: &mut StdRng) -> Packet {
        let version = terms.version;
        match rng.random_range(0..100) {
            0..55 => {
                let publish = some_publish(version, terms.broker_aliases, &self.means, names, rng);
                let packet = Packet::Publish(publish);
                if packet.encode(version).len() > terms.broker_takes {
                    return Packet::PingReq;
                }
                if let Packet::Publish(Publish { alias: Some(alias), topic, .. }) = &packet
                    && !topic.is_empty()
                {
                    self.means.insert(*alias, topic.clone());
                }
                packet
            }
            55..70 => {
                let count = [1, 1, 2, 4][rng.random_range(0..4)];
                let filters: Vec<_> =
                    (0..count).map(|_| some_filter(version, names, rng)).collect();
                self.asked.extend(filters.iter().map(|(filter, _)| filter.clone()));
                let has_id = version == Version::V5 && rng.random_ratio(1, 3);
                let properties = if has_id { vec![0x0B, rng.random_range(1..100)] } else { vec![] };
                Packet::Subscribe { id: some_id(rng), properties, filters }
            }
            70..77 => {
                let known = self.asked.choose(rng).cloned();
                let filter = known.unwrap_or_else(|| some_filter(version, names, rng).0);
                let mut filters = vec![filter];
                if rng.random_ratio(1, 3) {
                    filters.push(some_filter(version, names, rng).0);
                }
                Packet::Unsubscribe { id: some_id(rng), filters }
            }
            77..82 => Packet::PingReq,
            82..92 => Packet::Ack {
                kind: [PUBACK, PUBREC, PUBREL, PUBCOMP, PUBREL][rng.random_range(0..5)],
                // Seldom for a delivery that waits for another answer, which ends the session.
                id: if rng.random_ratio(1, 10) { some_id(rng) } else { 1_000 },
                code: 0,
            },
            92..95 if terms.may_renew || (version == Version::V5 && rng.random_ratio(1, 20)) => {
                Packet::Auth {
                    code: if rng.random_ratio(1, 6) { 0x18 } else { 0x19 },
                    method: if rng.random_ratio(1, 20) {
                        "other".into()
                    } else {
                        "FLYTRAP-EIP712".into()
                    },
                    data: rng.random::<bool>().then(|| b"data".to_vec()),
                }
            }
            95 if rng.random_ratio(1, 3) => Packet::Disconnect {
                code: if version == Version::V5 && rng.random() { 4 } else { 0 },
                expiry: (version == Version::V5 && rng.random_ratio(1, 3))
                    .then(|| rng.random_range(0..2)),
            },
            96 if rng.random_ratio(1, 3) => wrong(version, rng),
            _ => Packet::PingReq,
        }
    }
}

fn some_id(rng: &mut StdRng) -> u16 {
    match rng.random_range(0..8) {
        0 => u16::MAX - rng.random_range(0..4),
        _ => rng.random_range(1..7),
    }
}

/// A user property and a payload format.
const OTHERS: [u8; 9] = [0x26, 0, 1, b'k', 0, 1, b'v', 0x01, 1];

fn some_publish(
    version: Version,
    aliases: u16,
    means: &BTreeMap<u16, String>,
    names: &[String],
    rng: &mut StdRng,
) -> Publish {
    let qos = rng.random_range(0..3);
    let mut publish = Publish {
        dup: qos > 0 && rng.random_ratio(1, 6),
        qos,
        retain: rng.random_ratio(1, 5),
        topic: names.choose(rng).unwrap().clone(),
        id: some_id(rng),
        alias: None,
        properties: vec![],
        payload: (0..[0, 3, 20, 60, 150][rng.random_range(0..5)]).map(|_| rng.random()).collect(),
    };
    if version == Version::V5 {
        if aliases > 0 && rng.random_ratio(2, 3) {
            let alias = rng.random_range(1..=aliases);
            let is_known = means.contains_key(&alias);
            if (is_known && rng.random_ratio(2, 3)) || rng.random_ratio(1, 100) {
                publish.topic.clear();
            }
            publish.alias = Some(alias);
            if rng.random_ratio(1, 200) {
                publish.alias = Some(aliases + 1);
            }
        }
        if rng.random_ratio(1, 4) {
            publish.properties = OTHERS.to_vec();
        }
    }
    publish
}

/// Messages that begin like this one of QoS 0, and some that only nearly do.
pub fn some_like(
    version: Version,
    first: &Publish,
    names: &[String],
    rng: &mut StdRng,
) -> Vec<Publish> {
    if first.qos > 0 || first.alias.is_some() || rng.random_ratio(2, 3) {
        return Vec::new();
    }
    let like = |_| {
        let mut next = first.clone();
        rng.fill(&mut next.payload[..]);
        match rng.random_range(0..8) {
            0 => next.retain ^= true,
            1 => {
                let other = names.choose(rng).unwrap();
                if other.len() == next.topic.len() {
                    next.topic.clone_from(other);
                }
            }
            // Properties in the place of a part of the payload.
            2 if version == Version::V5 && next.properties.is_empty() && next.payload.len() > 8 => {
                next.properties = OTHERS.to_vec();
                next.payload.truncate(next.payload.len() - OTHERS.len());
            }
            _ => {}
        }
        next
    };
    (0..4).map(like).collect()
}

/// Whether they differ in their payloads alone, and not in the length of those.
pub fn are_alike(one: &Packet, other: &Packet) -> bool {
    let (Packet::Publish(one), Packet::Publish(other)) = (one, other) else { return false };
    let blank = Publish { payload: vec![0; one.payload.len()], ..one.clone() };
    one.qos == 0 && blank == Publish { payload: vec![0; other.payload.len()], ..other.clone() }
}

fn some_filter(version: Version, names: &[String], rng: &mut StdRng) -> (String, u8) {
    let mut levels: Vec<String> =
        names.choose(rng).unwrap().split('/').map(str::to_owned).collect();
    // What stands before the key's own level does not become a wildcard: such a filter may be refused though all that it matches may be read.
    let first = levels.iter().position(|level| level.starts_with("0x")).map_or(0, |own| own + 1);
    if rng.random_ratio(1, 2) && first < levels.len() {
        let at = rng.random_range(first..levels.len());
        levels[at] = "+".into();
    }
    if rng.random_ratio(1, 3) {
        levels.truncate(rng.random_range(0..=levels.len()));
        levels.push("#".into());
    }
    let is_shared = rng.random_ratio(1, 6);
    let filter = format!("{}{}", if is_shared { "$share/g/" } else { "" }, levels.join("/"));
    let mut options = rng.random_range(0..3);
    if version == Version::V5 {
        options |= [0, 0x08, 0x10, 0x20, 0x28][rng.random_range(0..5)];
        if !is_shared && rng.random() {
            options |= 4;
        }
    }
    (filter, options)
}

/// Something that is not MQTT, or not in this version, or not from a client.
fn wrong(version: Version, rng: &mut StdRng) -> Packet {
    let v5 = version == Version::V5;
    let whole = |first: u8, body: &[u8]| {
        let mut out = vec![first];
        number(body.len(), &mut out);
        out.extend(body);
        out
    };
    let empty: &[u8] = if v5 { &[0] } else { &[] };
    let list = |first: u8, rest: &[u8]| whole(first, &[&[0, 5][..], empty, rest].concat());
    let (octets, why) = match rng.random_range(0..19) {
        0 => (vec![0x10, 0], "a second CONNECT"),
        1 => (vec![0x00, 0], "packet type 0"),
        2 => (vec![0x20, 2, 0, 0], "CONNACK from a client"),
        3 => (vec![0xD0, 0], "PINGRESP from a client"),
        4 => (vec![0xC1, 0], "flags of PINGREQ"),
        5 => (vec![0x60, 2, 0, 1], "flags of PUBREL"),
        6 => (vec![0xC0, 0x80, 0], "a length in two octets that fits one"),
        7 => (vec![0xC0, 1, 0], "PINGREQ with a body"),
        8 => (list(0x82, &[]), "no filter"),
        9 => (list(0x82, b"\x00\x02a#\x00"), "a wildcard that is no level"),
        10 => (list(0x82, b"\x00\x03#/a\x00"), "# before the end"),
        11 => (list(0x82, b"\x00\x0A$share//ab\x00"), "a share without a name"),
        12 => (list(0x82, b"\x00\x01a\x03"), "QoS 3"),
        13 if !v5 => (list(0x82, b"\x00\x01a\x04"), "No Local before MQTT 5"),
        13 => (list(0x82, b"\x00\x0A$share/g/a\x04"), "No Local on a share"),
        14 => (list(0xA2, b"\x00\x01"), "a filter cut short"),
        15 => (vec![0x30, 0x80, 0x80, 0x80, 0x01], "larger than anyone may"),
        16 if !v5 => (vec![0xF0, 0], "AUTH before MQTT 5"),
        16 => (vec![0xF0, 2, 0x18, 0], "AUTH without a method"),
        17 => (list(0x82, b"\x00\x01\x80\x00"), "no UTF-8"),
        _ => (wrong_publish(version, rng), "a wrong PUBLISH"),
    };
    Packet::Wrong(octets, why)
}

fn wrong_publish(version: Version, rng: &mut StdRng) -> Vec<u8> {
    let v5 = version == Version::V5;
    let octets: &[u8] = match (rng.random_range(0..10), v5) {
        (0, _) => b"\x36\x06\x00\x01a\x00\x01\x00",
        (1, _) => b"\x38\x04\x00\x01a\x00",
        (2, _) => b"\x32\x06\x00\x01a\x00\x00\x00",
        (3, _) => b"\x30\x04\x00\x01+\x00",
        (4, _) => b"\x30\x03\x00\x00\x00",
        (5, _) => b"\x30\x02\x00\x09",
        (6, true) => b"\x30\x07\x00\x01a\x03\x23\x00\x00",
        (7, true) => b"\x30\x0A\x00\x01a\x06\x23\x00\x01\x23\x00\x01",
        (8, true) => b"\x30\x06\x00\x01a\x02\x11\x00",
        (9, true) => b"\x30\x05\x00\x01a\x7F\x00",
        _ => b"\x30\x04\x00\x01\x00\x00",
    };
    octets.to_vec()
}
