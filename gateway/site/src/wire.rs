//! A deliberately simple reading of MQTT 3.1, 3.1.1 and 5, for recorder and spy only.
//!
//! It shares nothing with the gateway's, so that what the gateway misreads is not misread here in the same way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A packet as the recorder reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNECT.
    Connect(Connect),
    /// PUBLISH.
    Publish(Publish),
    /// SUBSCRIBE: the filters with their option octets.
    Subscribe {
        /// Packet id.
        id: u16,
        /// Filters in order, each with its options (QoS in the lowest two bits).
        filters: Vec<(String, u8)>,
    },
    /// UNSUBSCRIBE.
    Unsubscribe {
        /// Packet id.
        id: u16,
        /// Filters in order.
        filters: Vec<String>,
    },
    /// Any other packet: its type (the high four bits of the first octet) and its whole length.
    Other {
        /// 1 CONNECT … 15 AUTH.
        kind: u8,
        /// Octets, fixed header included.
        length: usize,
    },
}

/// What a CONNECT said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// 3, 4 or 5.
    pub level: u8,
    /// Client id as the broker gets it.
    pub client_id: String,
    /// User name, if any.
    pub user_name: Option<String>,
    /// Password, if any.
    pub password: Option<Vec<u8>>,
    /// Topic of the will, if any.
    pub will_topic: Option<String>,
    /// The keep alive, s.
    pub keep_alive: u16,
}

/// What a PUBLISH said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Topic name; where only an alias was sent, what that alias stood for.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// 0, 1, 2.
    pub qos: u8,
    /// The retain flag.
    pub retain: bool,
    /// The packet id, 0 at QoS 0.
    pub id: u16,
}

/// Reads one direction of one connection.
#[derive(Debug)]
pub struct Reader {
    level: Arc<Mutex<u8>>,
    pending: Vec<u8>,
    aliases: HashMap<u16, String>,
    /// Set once something was no MQTT; nothing is read from then on.
    lost: bool,
}

impl Reader {
    /// `level` is set by a CONNECT and shared with the reader of the other direction, whose packets depend on it.
    #[must_use]
    pub fn new(level: Arc<Mutex<u8>>) -> Self {
        Self { level, pending: Vec::new(), aliases: HashMap::new(), lost: false }
    }

    /// Takes what came and returns the packets that it completed.
    pub fn take(&mut self, octets: &[u8]) -> Vec<Packet> {
        self.take_whole(octets).into_iter().map(|(packet, _)| packet).collect()
    }

    /// As [`Reader::take`], each packet with its octets.
    pub fn take_whole(&mut self, octets: &[u8]) -> Vec<(Packet, Vec<u8>)> {
        let mut packets = Vec::new();
        if self.lost {
            return packets;
        }
        self.pending.extend_from_slice(octets);
        let mut from = 0;
        loop {
            match whole(&self.pending[from..]) {
                Length::Impossible => {
                    self.lost = true;
                    break;
                }
                Length::Known { header, total } if self.pending.len() - from >= total => {
                    let frame = self.pending[from..from + total].to_vec();
                    packets.push((self.read(&frame, header), frame));
                    from += total;
                }
                Length::Unknown | Length::Known { .. } => break,
            }
        }
        self.pending.drain(..from);
        packets
    }

    fn read(&mut self, frame: &[u8], header: usize) -> Packet {
        let kind = frame[0] >> 4;
        let body = &frame[header..];
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let read = match kind {
            1 => connect(body).inspect(|connect| *level = connect.level).map(Packet::Connect),
            3 => publish(frame[0], body, *level, &mut self.aliases).map(Packet::Publish),
            8 => subscribe(body, *level),
            10 => unsubscribe(body, *level),
            _ => None,
        };
        read.unwrap_or(Packet::Other { kind, length: frame.len() })
    }
}

enum Length {
    Unknown,
    Impossible,
    Known { header: usize, total: usize },
}

fn whole(octets: &[u8]) -> Length {
    let mut value = 0;
    for index in 1..=4 {
        let Some(&octet) = octets.get(index) else { return Length::Unknown };
        value |= usize::from(octet & 0x7f) << (7 * (index - 1));
        if octet & 0x80 == 0 {
            return Length::Known { header: index + 1, total: index + 1 + value };
        }
    }
    Length::Impossible
}

/// What is left of a packet's body.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn octets(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn octet(&mut self) -> Option<u8> {
        self.octets(1).map(|octets| octets[0])
    }

    fn number(&mut self) -> Option<u16> {
        self.octets(2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
    }

    fn binary(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.octets(length.into())
    }

    fn text(&mut self) -> Option<String> {
        self.binary().map(|text| String::from_utf8_lossy(text).into_owned())
    }

    /// The properties of an MQTT 5 packet.
    fn properties(&mut self) -> Option<&'a [u8]> {
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let octet = self.octet()?;
            length |= usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return self.octets(length);
            }
        }
        None
    }
}

fn connect(body: &[u8]) -> Option<Connect> {
    let mut rest = Rest(body);
    rest.binary()?;
    let level = rest.octet()?;
    let flags = rest.octet()?;
    let keep_alive = rest.number()?;
    if level == 5 {
        rest.properties()?;
    }
    let client_id = rest.text()?;
    let mut will_topic = None;
    if flags & 0x04 != 0 {
        if level == 5 {
            rest.properties()?;
        }
        will_topic = Some(rest.text()?);
        rest.binary()?;
    }
    let user_name = if flags & 0x80 == 0 { None } else { Some(rest.text()?) };
    let password = if flags & 0x40 == 0 { None } else { Some(rest.binary()?.to_vec()) };
    Some(Connect { level, client_id, user_name, password, will_topic, keep_alive })
}

fn publish(
    first: u8,
    body: &[u8],
    level: u8,
    aliases: &mut HashMap<u16, String>,
) -> Option<Publish> {
    let mut rest = Rest(body);
    let mut topic = rest.text()?;
    let qos = (first >> 1) & 3;
    let id = if qos == 0 { 0 } else { rest.number()? };
    if level == 5
        && let Some(alias) = topic_alias(rest.properties()?)
    {
        if topic.is_empty() {
            topic = aliases.get(&alias).cloned().unwrap_or_default();
        } else {
            aliases.insert(alias, topic.clone());
        }
    }
    Some(Publish { topic, payload: rest.0.to_vec(), qos, retain: first & 1 == 1, id })
}

/// Finds the topic alias (35) among the properties that a PUBLISH can have.
fn topic_alias(properties: &[u8]) -> Option<u16> {
    let mut rest = Rest(properties);
    while let Some(property) = rest.octet() {
        match property {
            1 => drop(rest.octets(1)?),
            2 => drop(rest.octets(4)?),
            3 | 8 | 9 => drop(rest.binary()?),
            11 => while rest.octet()? & 0x80 != 0 {},
            35 => return rest.number(),
            38 => drop((rest.binary()?, rest.binary()?)),
            _ => return None,
        }
    }
    None
}

fn subscribe(body: &[u8], level: u8) -> Option<Packet> {
    let mut rest = Rest(body);
    let id = rest.number()?;
    if level == 5 {
        rest.properties()?;
    }
    let mut filters = Vec::new();
    while !rest.0.is_empty() {
        filters.push((rest.text()?, rest.octet()?));
    }
    Some(Packet::Subscribe { id, filters })
}

fn unsubscribe(body: &[u8], level: u8) -> Option<Packet> {
    let mut rest = Rest(body);
    let id = rest.number()?;
    if level == 5 {
        rest.properties()?;
    }
    let mut filters = Vec::new();
    while !rest.0.is_empty() {
        filters.push(rest.text()?);
    }
    Some(Packet::Unsubscribe { id, filters })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(octets: &[u8]) -> Vec<Packet> {
        let mut reader = Reader::new(Arc::new(Mutex::new(4)));
        let whole = Reader::new(Arc::new(Mutex::new(4))).take(octets);
        // One octet at a time: the splits of the network must not matter.
        let split: Vec<Packet> = octets.iter().flat_map(|octet| reader.take(&[*octet])).collect();
        assert_eq!(whole, split);
        split
    }

    #[test]
    fn connect_publish_and_subscribe_of_3_1_1_are_read() {
        let octets = b"\x10\x14\x00\x04MQTT\x04\xc2\x00\x3c\x00\x01c\x00\x01u\x00\x02pw\x32\x08\x00\x03a/b\x00\x07x\x82\x08\x00\x01\x00\x03a/#\x01\xc0\x00";
        let packets = read(octets);
        assert_eq!(packets.len(), 4);
        let Packet::Connect(connect) = &packets[0] else { panic!("{packets:?}") };
        assert_eq!((connect.level, connect.client_id.as_str(), connect.keep_alive), (4, "c", 60));
        assert_eq!(
            (connect.user_name.as_deref(), connect.password.as_deref()),
            (Some("u"), Some(&b"pw"[..]))
        );
        let Packet::Publish(publish) = &packets[1] else { panic!("{packets:?}") };
        assert_eq!((publish.topic.as_str(), publish.qos, publish.id), ("a/b", 1, 7));
        assert_eq!(publish.payload, b"x");
        assert_eq!(packets[2], Packet::Subscribe { id: 1, filters: vec![("a/#".into(), 1)] });
        assert_eq!(packets[3], Packet::Other { kind: 12, length: 2 });
    }

    #[test]
    fn topic_alias_of_5_stands_for_its_name() {
        let octets = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c\x30\x07\x00\x01t\x03\x23\x00\x05\x30\x07\x00\x00\x03\x23\x00\x05x";
        let packets = read(octets);
        let topics: Vec<_> = packets
            .iter()
            .filter_map(|packet| match packet {
                Packet::Publish(publish) => Some(publish.topic.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(topics, ["t", "t"]);
    }

    #[test]
    fn what_is_no_mqtt_is_not_read_and_hides_nothing_before_it() {
        assert_eq!(read(b"\x10\xff\xff\xff\xff\xff\xff"), []);
        assert_eq!(read(b"\x30\x01\x00"), [Packet::Other { kind: 3, length: 3 }]);
    }
}
