//! Acknowledgements: PUBACK, PUBREC, PUBREL and PUBCOMP, which look alike, SUBACK and UNSUBACK.

use crate::cursor::Cursor;
use crate::property::Place;
use crate::{Frame, Malformed, PacketId, Peer, Properties, Version, kind, reason};

/// A PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Which PUBLISH it belongs to.
    pub packet_id: PacketId,
    /// The reason code; [`reason::SUCCESS`] where it was left out, and always before MQTT 5.
    pub reason: u8,
    /// Reason string and user properties.
    pub properties: Properties<'a>,
}

impl<'a> Ack<'a> {
    pub(crate) fn read(version: Version, from: Peer, frame: Frame<'a>) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(frame.body());
        let packet_id = cursor.packet_id()?;
        let mut ack = Self { packet_id, reason: reason::SUCCESS, properties: Properties::NONE };
        // Before MQTT 5 there is nothing more; there, reason code and properties may be left out.
        if version.is_v5() && !cursor.is_empty() {
            ack.reason = cursor.u8()?;
            let is_known = match frame.kind() {
                kind::PUBACK | kind::PUBREC => reason::is_puback(ack.reason, from),
                _ => reason::is_pubrel(ack.reason),
            };
            if !is_known {
                return Err(Malformed::ReasonCode { code: ack.reason });
            }
            if !cursor.is_empty() {
                ack.properties = Properties::read(&mut cursor, Place::ACKNOWLEDGEMENT, |_| ())?;
            }
        }
        cursor.end()?;
        Ok(ack)
    }

    /// Whether the reason code says that it did not work; only MQTT 5 can say so.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        self.reason >= 0x80
    }
}

/// A SUBACK: one code for each topic filter of the SUBSCRIBE, in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// Decides the packet's shape.
    pub version: Version,
    /// Which SUBSCRIBE it answers.
    pub packet_id: PacketId,
    /// Reason string and user properties.
    pub properties: Properties<'a>,
    /// Granted QoS (0 to 2) or a refusal (0x80 and above), at least one.
    pub codes: &'a [u8],
}

impl<'a> SubAck<'a> {
    pub(crate) fn read(version: Version, frame: Frame<'a>) -> Result<Self, Malformed> {
        // MQTT 3.1 has no code for a refusal, but brokers send 3.1.1's there too.
        let is_known = |code| match version {
            Version::V5 => reason::is_suback(code),
            Version::V31 | Version::V311 => matches!(code, 0..=2 | 0x80),
        };
        let (packet_id, properties, codes) = read_codes(version, frame)?;
        if codes.is_empty() {
            return Err(Malformed::Empty);
        }
        check_codes(codes, is_known)?;
        Ok(Self { version, packet_id, properties, codes })
    }
}

/// An UNSUBACK; before MQTT 5 without codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// Decides the packet's shape.
    pub version: Version,
    /// Which UNSUBSCRIBE it answers.
    pub packet_id: PacketId,
    /// Reason string and user properties.
    pub properties: Properties<'a>,
    /// One for each topic filter in MQTT 5, at least one; empty before.
    pub codes: &'a [u8],
}

impl<'a> UnsubAck<'a> {
    pub(crate) fn read(version: Version, frame: Frame<'a>) -> Result<Self, Malformed> {
        let (packet_id, properties, codes) = read_codes(version, frame)?;
        match version {
            Version::V5 if codes.is_empty() => return Err(Malformed::Empty),
            Version::V5 => check_codes(codes, reason::is_unsuback)?,
            Version::V31 | Version::V311 if codes.is_empty() => (),
            Version::V31 | Version::V311 => return Err(Malformed::Trailing),
        }
        Ok(Self { version, packet_id, properties, codes })
    }
}

fn read_codes<'a>(
    version: Version,
    frame: Frame<'a>,
) -> Result<(PacketId, Properties<'a>, &'a [u8]), Malformed> {
    let mut cursor = Cursor::new(frame.body());
    let packet_id = cursor.packet_id()?;
    let properties = if version.is_v5() {
        Properties::read(&mut cursor, Place::ACKNOWLEDGEMENT, |_| ())?
    } else {
        Properties::NONE
    };
    Ok((packet_id, properties, cursor.rest()))
}

fn check_codes(codes: &[u8], is_known: impl Fn(u8) -> bool) -> Result<(), Malformed> {
    match codes.iter().find(|code| !is_known(**code)) {
        Some(code) => Err(Malformed::ReasonCode { code: *code }),
        None => Ok(()),
    }
}
