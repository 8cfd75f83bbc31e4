//! SUBSCRIBE and UNSUBSCRIBE: lists of topic filters.

use std::num::NonZeroU32;

use crate::cursor::Cursor;
use crate::property::Place;
use crate::topic::Filter;
use crate::{Frame, Malformed, PacketId, Properties, Property, QoS, Version};

const QOS: u8 = 0b0000_0011;
const NO_LOCAL: u8 = 0b0000_0100;
const RETAIN_AS_PUBLISHED: u8 = 0b0000_1000;
const RETAIN_HANDLING: u8 = 0b0011_0000;
const RESERVED: u8 = 0b1100_0000;

/// A SUBSCRIBE with at least one topic filter, all of which have been validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// Decides the packet's shape.
    pub version: Version,
    /// The SUBACK will quote it.
    pub packet_id: PacketId,
    /// All properties.
    pub properties: Properties<'a>,
    /// The name under which the broker is to deliver what these filters match.
    pub subscription_id: Option<NonZeroU32>,
    payload: &'a [u8],
    filters: usize,
}

/// One topic filter of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscribeFilter<'a> {
    /// The topic filter, `$share/<group>/` included; a valid one, see [`Filter::parse`].
    pub filter: &'a str,
    /// The options octet as it came.
    pub options: u8,
    /// The highest QoS wanted.
    pub qos: QoS,
    /// The filter with its length and options, as it came.
    pub octets: &'a [u8],
}

impl SubscribeFilter<'_> {
    /// Whether the client's own messages are to be left out (MQTT 5).
    #[must_use]
    pub const fn no_local(&self) -> bool {
        self.options & NO_LOCAL != 0
    }

    /// Whether deliveries keep the publisher's retain flag (MQTT 5).
    #[must_use]
    pub const fn retain_as_published(&self) -> bool {
        self.options & RETAIN_AS_PUBLISHED != 0
    }

    /// Retained messages: 0 send now, 1 send now if the subscription is new, 2 do not send (MQTT 5).
    #[must_use]
    pub const fn retain_handling(&self) -> u8 {
        (self.options & RETAIN_HANDLING) >> 4
    }
}

impl<'a> Subscribe<'a> {
    pub(crate) fn read(version: Version, frame: Frame<'a>) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(frame.body());
        let packet_id = cursor.packet_id()?;
        let mut subscription_id = None;
        let properties = if version.is_v5() {
            Properties::read(&mut cursor, Place::SUBSCRIBE, |property| {
                if let Property::SubscriptionIdentifier(id) = property {
                    subscription_id = Some(id);
                }
            })?
        } else {
            Properties::NONE
        };
        let payload = cursor.rest();
        let mut filters = 0;
        while !cursor.is_empty() {
            read_filter(version, &mut cursor)?;
            filters += 1;
        }
        if filters == 0 {
            return Err(Malformed::Empty);
        }
        Ok(Self { version, packet_id, properties, subscription_id, payload, filters })
    }

    /// The topic filters in the order they came.
    #[must_use]
    pub const fn filters(&self) -> Filters<'a> {
        Filters { version: self.version, rest: Cursor::new(self.payload) }
    }

    /// How many topic filters there are, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub const fn len(&self) -> usize {
        self.filters
    }
}

fn read_filter<'a>(
    version: Version,
    cursor: &mut Cursor<'a>,
) -> Result<SubscribeFilter<'a>, Malformed> {
    let before = cursor.rest();
    let filter = cursor.text()?;
    let parsed = Filter::parse(filter).map_err(|_| Malformed::TopicFilter)?;
    let options = cursor.u8()?;
    let octets = &before[..before.len() - cursor.rest().len()];
    let qos = QoS::from_bits(options & QOS).ok_or(Malformed::QoS)?;
    let is_reserved = if version.is_v5() {
        options & RESERVED != 0 || options & RETAIN_HANDLING == RETAIN_HANDLING
    } else {
        options & !QOS != 0
    };
    if is_reserved {
        return Err(Malformed::SubscriptionOptions { options });
    }
    if options & NO_LOCAL != 0 && parsed.share_group().is_some() {
        return Err(Malformed::NoLocalShared);
    }
    Ok(SubscribeFilter { filter, options, qos, octets })
}

/// The topic filters of a SUBSCRIBE, one after the other. Made by [`Subscribe::filters`].
#[derive(Debug, Clone)]
pub struct Filters<'a> {
    version: Version,
    rest: Cursor<'a>,
}

impl<'a> Iterator for Filters<'a> {
    type Item = SubscribeFilter<'a>;

    fn next(&mut self) -> Option<SubscribeFilter<'a>> {
        // An empty rest is the only error left: reading the packet has validated all of them.
        read_filter(self.version, &mut self.rest).ok()
    }
}

/// An UNSUBSCRIBE with at least one topic filter, all of which have been validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// Decides the packet's shape.
    pub version: Version,
    /// The UNSUBACK will quote it.
    pub packet_id: PacketId,
    /// All properties.
    pub properties: Properties<'a>,
    payload: &'a [u8],
    filters: usize,
}

impl<'a> Unsubscribe<'a> {
    pub(crate) fn read(version: Version, frame: Frame<'a>) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(frame.body());
        let packet_id = cursor.packet_id()?;
        let properties = if version.is_v5() {
            Properties::read(&mut cursor, Place::UNSUBSCRIBE, |_| ())?
        } else {
            Properties::NONE
        };
        let payload = cursor.rest();
        let mut filters = 0;
        while !cursor.is_empty() {
            Filter::parse(cursor.text()?).map_err(|_| Malformed::TopicFilter)?;
            filters += 1;
        }
        if filters == 0 {
            return Err(Malformed::Empty);
        }
        Ok(Self { version, packet_id, properties, payload, filters })
    }

    /// The topic filters in the order they came.
    pub fn filters(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut rest = Cursor::new(self.payload);
        // An empty rest is the only error left: reading the packet has validated all of them.
        std::iter::from_fn(move || rest.text().ok())
    }

    /// How many topic filters there are, at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub const fn len(&self) -> usize {
        self.filters
    }
}
