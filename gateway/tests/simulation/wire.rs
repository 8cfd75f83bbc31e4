//! Packets as the simulation writes and reads them: from the standard, not with the gateway's reader.

use flytrap_mqtt::Version;

/// A packet that someone sends.
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP, by its packet type; `code` is left out before MQTT 5 and where it is 0.
    Ack {
        kind: u8,
        id: u16,
        code: u8,
    },
    Subscribe {
        id: u16,
        properties: Vec<u8>,
        filters: Vec<(String, u8)>,
    },
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
    },
    SubAck {
        id: u16,
        codes: Vec<u8>,
    },
    UnsubAck {
        id: u16,
        codes: Vec<u8>,
    },
    PingReq,
    PingResp,
    Disconnect {
        code: u8,
        expiry: Option<u32>,
    },
    Auth {
        code: u8,
        method: String,
        data: Option<Vec<u8>>,
    },
    /// What no peer may send, and why not.
    Wrong(Vec<u8>, &'static str),
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    pub id: u16,
    pub alias: Option<u16>,
    /// Other properties, as octets.
    pub properties: Vec<u8>,
    pub payload: Vec<u8>,
}

pub const PUBACK: u8 = 4;
pub const PUBREC: u8 = 5;
pub const PUBREL: u8 = 6;
pub const PUBCOMP: u8 = 7;

fn short(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap().to_be_bytes()
}

fn text(text: &str, out: &mut Vec<u8>) {
    out.extend(short(text.len()));
    out.extend(text.as_bytes());
}

pub fn number(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(value % 128).unwrap();
        value /= 128;
        out.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return;
        }
    }
}

fn properties(version: Version, octets: &[u8], out: &mut Vec<u8>) {
    if version == Version::V5 {
        number(octets.len(), out);
        out.extend(octets);
    }
}

fn whole(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    number(body.len(), &mut out);
    out.extend(body);
    out
}

impl Packet {
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        let first = match self {
            Self::Publish(publish) => {
                text(&publish.topic, &mut body);
                if publish.qos > 0 {
                    body.extend(publish.id.to_be_bytes());
                }
                let mut all = Vec::new();
                if let Some(alias) = publish.alias {
                    all.push(0x23);
                    all.extend(alias.to_be_bytes());
                }
                all.extend(&publish.properties);
                properties(version, &all, &mut body);
                body.extend(&publish.payload);
                0x30 | u8::from(publish.dup) << 3 | publish.qos << 1 | u8::from(publish.retain)
            }
            Self::Ack { kind, id, code } => {
                body.extend(id.to_be_bytes());
                if version == Version::V5 && *code != 0 {
                    body.push(*code);
                }
                kind << 4 | if *kind == PUBREL { 2 } else { 0 }
            }
            Self::Subscribe { id, properties: of, filters } => {
                body.extend(id.to_be_bytes());
                properties(version, of, &mut body);
                for (filter, options) in filters {
                    text(filter, &mut body);
                    body.push(*options);
                }
                0x82
            }
            Self::Unsubscribe { id, filters } => {
                body.extend(id.to_be_bytes());
                properties(version, &[], &mut body);
                for filter in filters {
                    text(filter, &mut body);
                }
                0xA2
            }
            Self::SubAck { id, codes } => {
                body.extend(id.to_be_bytes());
                properties(version, &[], &mut body);
                body.extend(codes);
                0x90
            }
            Self::UnsubAck { id, codes } => {
                body.extend(id.to_be_bytes());
                if version == Version::V5 {
                    properties(version, &[], &mut body);
                    body.extend(codes);
                }
                0xB0
            }
            Self::PingReq => 0xC0,
            Self::PingResp => 0xD0,
            Self::Disconnect { code, expiry } => {
                if version == Version::V5 && (*code != 0 || expiry.is_some()) {
                    body.push(*code);
                    if let Some(seconds) = expiry {
                        body.extend([5, 0x11]);
                        body.extend(seconds.to_be_bytes());
                    }
                }
                0xE0
            }
            Self::Auth { code, method, data } => {
                let mut all = vec![0x15];
                text(method, &mut all);
                if let Some(data) = data {
                    all.push(0x16);
                    all.extend(short(data.len()));
                    all.extend(data);
                }
                body.push(*code);
                properties(version, &all, &mut body);
                0xF0
            }
            Self::Wrong(octets, _) => return octets.clone(),
        };
        whole(first, &body)
    }
}

/// One packet that came out, with nothing read but its length.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub octets: Vec<u8>,
    pub body: Vec<u8>,
}

/// Cuts what came out into packets; all of it, or it is no stream of packets.
pub fn cut(mut octets: &[u8]) -> Result<Vec<Seen>, String> {
    let mut seen = Vec::new();
    while !octets.is_empty() {
        let wrong = || format!("not a stream of packets: {octets:02x?}");
        let (mut length, mut header) = (0, 1);
        loop {
            let octet = *octets.get(header).ok_or_else(wrong)?;
            length += usize::from(octet & 0x7F) << (7 * (header - 1));
            header += 1;
            if octet < 0x80 {
                break;
            }
        }
        let packet = octets.get(..header + length).ok_or_else(wrong)?;
        seen.push(Seen { octets: packet.to_vec(), body: packet[header..].to_vec() });
        octets = &octets[header + length..];
    }
    Ok(seen)
}

/// Takes the fields of a packet one after the other.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn take(&mut self, octets: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(octets)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|octets| octets[0])
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|octets| u16::from_be_bytes([octets[0], octets[1]]))
    }

    pub fn text(&mut self) -> Option<String> {
        let length = self.u16()?;
        String::from_utf8(self.take(length.into())?.to_vec()).ok()
    }

    /// The properties, of which only topic alias, reason string and user property may be there.
    pub fn properties(&mut self, version: Version) -> Option<Found> {
        let mut found = Found::default();
        if version != Version::V5 {
            return Some(found);
        }
        let mut length = usize::from(self.u8()?);
        if length >= 0x80 {
            length = length - 0x80 + 128 * usize::from(self.u8()?);
        }
        let mut all = Fields(self.take(length)?);
        while !all.0.is_empty() {
            match all.u8()? {
                0x23 => found.alias = Some(all.u16()?),
                0x1F => found.reason = Some(all.text()?),
                0x26 => {
                    all.text()?;
                    all.text()?;
                }
                0x0B => while all.u8()? >= 0x80 {},
                0x01 => {
                    all.u8()?;
                }
                0x15 => found.method = Some(all.text()?),
                0x16 => {
                    let length = all.u16()?;
                    found.data = Some(all.take(length.into())?.to_vec());
                }
                _ => return None,
            }
        }
        Some(found)
    }
}

#[derive(Debug, Default, PartialEq)]
pub struct Found {
    pub alias: Option<u16>,
    pub reason: Option<String>,
    pub method: Option<String>,
    pub data: Option<Vec<u8>>,
}
