//! Packets built octet by octet, independent of the crate's own encoder, and generators of valid ones.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests may panic")]
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part of this")]

use flytrap_mqtt::Version;
use proptest::prelude::*;

/// A Variable Byte Integer, written as the standard's own pseudo code does.
pub fn vbi(mut value: usize) -> Vec<u8> {
    let mut octets = Vec::new();
    loop {
        let mut octet = (value % 128) as u8;
        value /= 128;
        if value > 0 {
            octet |= 128;
        }
        octets.push(octet);
        if value == 0 {
            return octets;
        }
    }
}

/// Two octets of length, then the octets.
pub fn field(octets: impl AsRef<[u8]>) -> Vec<u8> {
    let octets = octets.as_ref();
    let length = u16::try_from(octets.len()).unwrap();
    [&length.to_be_bytes(), octets].concat()
}

/// A whole packet.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first], vbi(body.len()).as_slice(), body].concat()
}

/// Property length and properties; nothing before MQTT 5.
pub fn properties(version: Version, properties: &[u8]) -> Vec<u8> {
    match version {
        Version::V5 => [&vbi(properties.len()), properties].concat(),
        Version::V31 | Version::V311 => Vec::new(),
    }
}

/// One property, as its identifier and what follows.
pub fn property(id: u8, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&[id], value.as_ref()].concat()
}

pub fn versions() -> impl Strategy<Value = Version> {
    prop::sample::select(vec![Version::V31, Version::V311, Version::V5])
}

/// Text that every field accepts: a little of everything that is printable.
pub fn text(octets: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    let character = prop::sample::select("abz09-_ ~$/.üß€𐍈\u{FEFF}".chars().collect::<Vec<_>>());
    prop::collection::vec(character, octets).prop_map(String::from_iter)
}

pub fn topic_name() -> impl Strategy<Value = String> {
    text(1..12)
}

pub fn topic_filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![text(0..4).prop_map(|level| level.replace('/', "-")), Just("+".into())];
    (prop::collection::vec(level, 1..4), any::<bool>(), any::<bool>())
        .prop_map(|(levels, has_hash, is_shared)| {
            let filter = levels.join("/") + if has_hash { "/#" } else { "" };
            if is_shared { format!("$share/group/{filter}") } else { filter }
        })
        .prop_filter("not empty, and no share but on purpose", |filter| {
            let is_share = filter.starts_with("$share/group/");
            !filter.is_empty()
                && (is_share || !filter.starts_with("$share"))
                && filter != "$share/group/"
        })
}

pub fn binary(octets: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), octets)
}

pub fn user_property() -> impl Strategy<Value = Vec<u8>> {
    (text(0..8), text(0..8))
        .prop_map(|(name, value)| property(0x26, [field(name), field(value)].concat()))
}

/// A valid property of this identifier.
pub fn some_property(id: u8) -> BoxedStrategy<Vec<u8>> {
    let value = match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2A => {
            (0_u8..2).prop_map(|octet| vec![octet]).boxed()
        }
        0x02 | 0x11 | 0x18 => any::<u32>().prop_map(|value| value.to_be_bytes().to_vec()).boxed(),
        0x27 => (1..=u32::MAX).prop_map(|value| value.to_be_bytes().to_vec()).boxed(),
        0x13 | 0x22 => any::<u16>().prop_map(|value| value.to_be_bytes().to_vec()).boxed(),
        0x21 | 0x23 => (1..=u16::MAX).prop_map(|value| value.to_be_bytes().to_vec()).boxed(),
        0x08 => topic_name().prop_map(field).boxed(),
        0x09 | 0x16 => binary(0..9).prop_map(field).boxed(),
        0x0B => (1..=268_435_455_usize).prop_map(vbi).boxed(),
        0x26 => return user_property().boxed(),
        _ => text(0..9).prop_map(field).boxed(),
    };
    value.prop_map(move |value| property(id, value)).boxed()
}

/// Some of these properties, each at most once, and some user properties, in any order.
pub fn some_properties(ids: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    prop::sample::subsequence(ids, 0..=ids.len())
        .prop_flat_map(|ids| {
            let each: Vec<_> = ids.into_iter().map(some_property).collect();
            (each, prop::collection::vec(user_property(), 0..3))
        })
        .prop_map(|(once, user)| [once, user].concat())
        .prop_shuffle()
        .prop_map(|properties| properties.concat())
}

pub const CONNECT_PROPERTIES: &[u8] = &[0x11, 0x21, 0x27, 0x22, 0x19, 0x17, 0x15];
pub const WILL_PROPERTIES: &[u8] = &[0x18, 0x01, 0x02, 0x03, 0x08, 0x09];
pub const PUBLISH_PROPERTIES: &[u8] = &[0x01, 0x02, 0x03, 0x08, 0x09, 0x23];
pub const CONNACK_PROPERTIES: &[u8] =
    &[0x11, 0x21, 0x24, 0x25, 0x27, 0x12, 0x22, 0x1F, 0x28, 0x29, 0x2A, 0x13, 0x1A, 0x1C, 0x15];

/// What a CONNECT is built from.
#[derive(Debug, Clone)]
pub struct ConnectParts {
    pub version: Version,
    pub clean_start: bool,
    pub keep_alive: u16,
    pub client_id: String,
    pub properties: Vec<u8>,
    pub will: Option<WillParts>,
    pub user_name: Option<String>,
    pub password: Option<Vec<u8>>,
}

#[derive(Debug, Clone)]
pub struct WillParts {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Vec<u8>,
}

impl ConnectParts {
    pub fn octets(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean_start) << 1;
        let mut payload = field(&self.client_id);
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
            payload.extend(properties(self.version, &will.properties));
            payload.extend(field(&will.topic));
            payload.extend(field(&will.payload));
        }
        if let Some(user_name) = &self.user_name {
            flags |= 0x80;
            payload.extend(field(user_name));
        }
        if let Some(password) = &self.password {
            flags |= 0x40;
            payload.extend(field(password));
        }
        let (name, level) = match self.version {
            Version::V31 => ("MQIsdp", 3),
            Version::V311 => ("MQTT", 4),
            Version::V5 => ("MQTT", 5),
        };
        let mut body = field(name);
        body.extend([level, flags]);
        body.extend(self.keep_alive.to_be_bytes());
        body.extend(properties(self.version, &self.properties));
        body.extend(payload);
        packet(0x10, &body)
    }
}

pub fn some_will() -> impl Strategy<Value = WillParts> {
    (topic_name(), binary(0..20), 0_u8..3, any::<bool>(), some_properties(WILL_PROPERTIES))
        .prop_map(|(topic, payload, qos, retain, properties)| WillParts {
            topic,
            payload,
            qos,
            retain,
            properties,
        })
}

pub fn some_connect() -> impl Strategy<Value = ConnectParts> {
    (
        versions(),
        (any::<bool>(), any::<u16>(), text(1..30)),
        some_properties(CONNECT_PROPERTIES),
        prop::option::of(some_will()),
        (prop::option::of(text(0..9)), prop::option::of(binary(0..200))),
    )
        .prop_map(
            |(version, (clean_start, keep_alive, client_id), properties, will, login)| {
                let (user_name, password) = login;
                let password = password.filter(|_| user_name.is_some() || version == Version::V5);
                let properties = if version == Version::V5 { properties } else { Vec::new() };
                ConnectParts {
                    version,
                    clean_start,
                    keep_alive,
                    client_id,
                    properties,
                    will,
                    user_name,
                    password,
                }
            },
        )
}

/// What a PUBLISH is built from.
#[derive(Debug, Clone)]
pub struct PublishParts {
    pub version: Version,
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    pub packet_id: u16,
    pub properties: Vec<u8>,
    pub payload: Vec<u8>,
}

impl PublishParts {
    pub fn octets(&self) -> Vec<u8> {
        let mut body = field(&self.topic);
        if self.qos > 0 {
            body.extend(self.packet_id.to_be_bytes());
        }
        body.extend(properties(self.version, &self.properties));
        body.extend(&self.payload);
        let flags = u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain);
        packet(0x30 | flags, &body)
    }
}

pub fn some_publish() -> impl Strategy<Value = PublishParts> {
    (
        versions(),
        (any::<bool>(), 0_u8..3, any::<bool>()),
        topic_name(),
        1..=u16::MAX,
        some_properties(PUBLISH_PROPERTIES),
        binary(0..300),
    )
        .prop_map(|(version, (dup, qos, retain), topic, packet_id, properties, payload)| {
            PublishParts {
                version,
                dup: dup && qos > 0,
                qos,
                retain,
                topic,
                packet_id,
                properties,
                payload,
            }
        })
}

/// A SUBSCRIBE: version, packet identifier, properties, filters with options.
pub fn some_subscribe() -> impl Strategy<Value = (Version, u16, Vec<u8>, Vec<(String, u8)>)> {
    (
        versions(),
        1..=u16::MAX,
        some_properties(&[0x0B]),
        prop::collection::vec(
            (topic_filter(), 0_u8..3, any::<bool>(), any::<bool>(), 0_u8..3),
            1..6,
        ),
    )
        .prop_map(|(version, packet_id, properties, filters)| {
            let filters = filters
                .into_iter()
                .map(|(filter, qos, no_local, as_published, handling)| {
                    let no_local = no_local && !filter.starts_with("$share/");
                    let more =
                        u8::from(no_local) << 2 | u8::from(as_published) << 3 | handling << 4;
                    (filter, if version == Version::V5 { qos | more } else { qos })
                })
                .collect();
            (version, packet_id, properties, filters)
        })
}

pub fn subscribe_octets(
    version: Version,
    packet_id: u16,
    of: &[u8],
    filters: &[(String, u8)],
) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.extend(properties(version, of));
    for (filter, options) in filters {
        body.extend(field(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}
