//! PUBLISH, the packet that everything else is there for: read without allocation, and without
//! reading its topic name again where the caller has just read the same octets.

use std::num::NonZeroU16;

use crate::cursor::Cursor;
use crate::property::Place;
use crate::{Frame, Malformed, PacketId, Peer, Properties, Property, QoS, Version, kind, text};

const DUP: u8 = 0b1000;
const RETAIN: u8 = 0b0001;

/// A PUBLISH, read in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Whether it may have been sent before; never with QoS 0.
    pub dup: bool,
    /// How often it may arrive.
    pub qos: QoS,
    /// From the client: retain it. From the broker: it was retained.
    pub retain: bool,
    /// A topic name; empty only in MQTT 5 with a [`topic_alias`](Self::topic_alias).
    pub topic: &'a str,
    /// There if and only if the QoS is 1 or 2.
    pub packet_id: Option<PacketId>,
    /// Stands for the topic name, or is given to it if there is one.
    pub topic_alias: Option<NonZeroU16>,
    /// Where an answer is wanted: a topic name.
    pub response_topic: Option<&'a str>,
    /// Whether the broker names the subscriptions that matched.
    pub has_subscription_ids: bool,
    /// All properties.
    pub properties: Properties<'a>,
    /// Any octets.
    pub payload: &'a [u8],
}

/// A PUBLISH of which everything has been read but the topic name: [`RawPublish::check`] reads it,
/// [`RawPublish::with_known_topic`] takes the caller's word for octets seen before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawPublish<'a> {
    /// The octets of the topic name: perhaps not even text.
    topic: &'a [u8],
    /// Everything else; its topic is empty.
    rest: Publish<'a>,
}

impl<'a> RawPublish<'a> {
    #[inline]
    fn read(version: Version, from: Peer, frame: Frame<'a>) -> Result<Self, Malformed> {
        debug_assert_eq!(frame.kind(), kind::PUBLISH);
        let flags = frame.flags();
        let qos = QoS::from_bits((flags >> 1) & 0b11).ok_or(Malformed::QoS)?;
        let dup = flags & DUP != 0;
        if dup && qos == QoS::AtMostOnce {
            return Err(Malformed::DupQoS0);
        }
        let mut cursor = Cursor::new(frame.body());
        let topic = cursor.binary()?;
        let packet_id = match qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce | QoS::ExactlyOnce => Some(cursor.packet_id()?),
        };
        let mut topic_alias = None;
        let mut response_topic = None;
        let mut has_subscription_ids = false;
        let properties = if version.is_v5() {
            let place = match from {
                Peer::Client => Place::PUBLISH_FROM_CLIENT,
                Peer::Broker => Place::PUBLISH_FROM_BROKER,
            };
            Properties::read(&mut cursor, place, |property| match property {
                Property::TopicAlias(alias) => topic_alias = Some(alias),
                Property::ResponseTopic(name) => response_topic = Some(name),
                Property::SubscriptionIdentifier(_) => has_subscription_ids = true,
                _ => (),
            })?
        } else {
            Properties::NONE
        };
        if topic.is_empty() && topic_alias.is_none() {
            return Err(Malformed::NoTopic);
        }
        let rest = Publish {
            dup,
            qos,
            retain: flags & RETAIN != 0,
            topic: "",
            packet_id,
            topic_alias,
            response_topic,
            has_subscription_ids,
            properties,
            payload: cursor.rest(),
        };
        Ok(Self { topic, rest })
    }

    /// The octets of the topic name as they came, not yet read; empty only with a topic alias.
    #[must_use]
    #[inline]
    pub const fn topic(&self) -> &'a [u8] {
        self.topic
    }

    /// Everything but the topic name, which is empty here.
    #[must_use]
    #[inline]
    pub const fn rest(&self) -> &Publish<'a> {
        &self.rest
    }

    /// Reads the topic name.
    ///
    /// # Errors
    /// [`Malformed::Utf8`], [`Malformed::Character`] or [`Malformed::TopicName`].
    #[inline]
    pub fn check(self) -> Result<Publish<'a>, Malformed> {
        if self.topic.is_empty() {
            return Ok(self.rest);
        }
        let topic = text::check_topic_name(self.topic)?;
        Ok(Publish { topic, ..self.rest })
    }

    /// As [`check`](Self::check), but if the octets equal those of `known`, that is the topic name.
    ///
    /// `known` must have been read by this crate as a topic name before. It is what the result
    /// borrows: text cannot be had from the frame's own octets without reading them again.
    ///
    /// # Errors
    /// As [`check`](Self::check), if the octets differ.
    #[inline]
    pub fn with_known_topic(self, known: &'a str) -> Result<Publish<'a>, Malformed> {
        if self.topic == known.as_bytes() {
            return Ok(Publish { topic: known, ..self.rest });
        }
        self.check()
    }
}

/// The octets of the topic name of a PUBLISH, not validated, or `None` if the frame is no PUBLISH or
/// too short for the name that it announces.
///
/// For choosing the topic to try with [`read_publish_known_topic`]; nothing may be decided on them.
#[must_use]
#[inline]
pub fn peek_publish_topic<'a>(frame: &Frame<'a>) -> Option<&'a [u8]> {
    if frame.kind() != kind::PUBLISH {
        return None;
    }
    Cursor::new(frame.body()).binary().ok()
}

/// Reads a PUBLISH, all but the topic name. The frame's kind must be [`kind::PUBLISH`].
///
/// # Errors
/// Anything that is wrong with it, see [`Malformed`].
#[inline]
pub fn read_raw_publish(
    version: Version,
    from: Peer,
    frame: Frame<'_>,
) -> Result<RawPublish<'_>, Malformed> {
    if frame.kind() != kind::PUBLISH {
        return Err(Malformed::PacketType { kind: frame.kind() });
    }
    RawPublish::read(version, from, frame)
}

/// Reads a PUBLISH. The frame's kind must be [`kind::PUBLISH`].
///
/// # Errors
/// Anything that is wrong with it, see [`Malformed`].
#[inline]
pub fn read_publish(
    version: Version,
    from: Peer,
    frame: Frame<'_>,
) -> Result<Publish<'_>, Malformed> {
    read_raw_publish(version, from, frame)?.check()
}

/// As [`read_publish`], without reading the topic name again if its octets equal those of `known`,
/// which this crate must have read as a topic name before. Everything else is read as strictly.
///
/// # Errors
/// Anything that is wrong with it, see [`Malformed`].
#[inline]
pub fn read_publish_known_topic<'a>(
    version: Version,
    from: Peer,
    frame: Frame<'a>,
    known: &'a str,
) -> Result<Publish<'a>, Malformed> {
    read_raw_publish(version, from, frame)?.with_known_topic(known)
}
