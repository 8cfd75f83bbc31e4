//! Properties of MQTT 5 (section 2.2.2): which there are, where they may be, and what they may say.
//!
//! They are validated in full when the packet is read, from a slice bounded by the property length,
//! so that [`Properties`] can be iterated later without errors.

use std::num::{NonZeroU16, NonZeroU32};

use crate::Malformed;
use crate::cursor::Cursor;

/// Identifiers of properties.
pub mod id {
    /// Payload Format Indicator.
    pub const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    /// Message Expiry Interval.
    pub const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    /// Content Type.
    pub const CONTENT_TYPE: u8 = 0x03;
    /// Response Topic.
    pub const RESPONSE_TOPIC: u8 = 0x08;
    /// Correlation Data.
    pub const CORRELATION_DATA: u8 = 0x09;
    /// Subscription Identifier.
    pub const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    /// Session Expiry Interval.
    pub const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    /// Assigned Client Identifier.
    pub const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    /// Server Keep Alive.
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    /// Authentication Method.
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    /// Authentication Data.
    pub const AUTHENTICATION_DATA: u8 = 0x16;
    /// Request Problem Information.
    pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    /// Will Delay Interval.
    pub const WILL_DELAY_INTERVAL: u8 = 0x18;
    /// Request Response Information.
    pub const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    /// Response Information.
    pub const RESPONSE_INFORMATION: u8 = 0x1A;
    /// Server Reference.
    pub const SERVER_REFERENCE: u8 = 0x1C;
    /// Reason String.
    pub const REASON_STRING: u8 = 0x1F;
    /// Receive Maximum.
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    /// Topic Alias Maximum.
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    /// Topic Alias.
    pub const TOPIC_ALIAS: u8 = 0x23;
    /// Maximum QoS.
    pub const MAXIMUM_QOS: u8 = 0x24;
    /// Retain Available.
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    /// User Property.
    pub const USER_PROPERTY: u8 = 0x26;
    /// Maximum Packet Size.
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    /// Wildcard Subscription Available.
    pub const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    /// Subscription Identifier Available.
    pub const SUBSCRIPTION_IDENTIFIER_AVAILABLE: u8 = 0x29;
    /// Shared Subscription Available.
    pub const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// One property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Property<'a> {
    /// Whether the payload claims to be text. The claim is not checked.
    PayloadFormatIndicator(bool),
    /// Seconds that a message may wait.
    MessageExpiryInterval(u32),
    /// What the payload is.
    ContentType(&'a str),
    /// Where an answer is wanted: a topic name, never with wildcards.
    ResponseTopic(&'a str),
    /// What an answer must quote.
    CorrelationData(&'a [u8]),
    /// Names a subscription, 1 to 268 435 455.
    SubscriptionIdentifier(NonZeroU32),
    /// Seconds that the session outlives the connection; `u32::MAX` is for ever.
    SessionExpiryInterval(u32),
    /// The client identifier that the broker chose.
    AssignedClientIdentifier(&'a str),
    /// Seconds of keep alive that the broker wants instead.
    ServerKeepAlive(u16),
    /// How the peers authenticate.
    AuthenticationMethod(&'a str),
    /// One step of the authentication.
    AuthenticationData(&'a [u8]),
    /// Whether reason strings and user properties may be sent on any packet.
    RequestProblemInformation(bool),
    /// Seconds between the end of the connection and the will.
    WillDelayInterval(u32),
    /// Whether the client wants response information.
    RequestResponseInformation(bool),
    /// Basis for response topics.
    ResponseInformation(&'a str),
    /// Another server.
    ServerReference(&'a str),
    /// For people.
    ReasonString(&'a str),
    /// Unacknowledged QoS 1 and 2 messages at a time.
    ReceiveMaximum(NonZeroU16),
    /// The highest topic alias accepted, 0 for none.
    TopicAliasMaximum(u16),
    /// Stands for a topic name.
    TopicAlias(NonZeroU16),
    /// The highest QoS that the broker takes: 0 or 1.
    MaximumQoS(u8),
    /// Whether the broker retains.
    RetainAvailable(bool),
    /// Name and value, meaning unknown.
    UserProperty(&'a str, &'a str),
    /// Octets of the largest whole packet accepted.
    MaximumPacketSize(NonZeroU32),
    /// Whether the broker takes wildcards.
    WildcardSubscriptionAvailable(bool),
    /// Whether the broker takes subscription identifiers.
    SubscriptionIdentifierAvailable(bool),
    /// Whether the broker takes shared subscriptions.
    SharedSubscriptionAvailable(bool),
}

impl<'a> Property<'a> {
    /// Reads one property with its identifier, wherever it may be.
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        // Identifiers are Variable Byte Integers, but all that exist take one octet.
        let id = cursor.u8()?;
        let out_of_range = Malformed::PropertyValue { id };
        let flag = |octet: u8| match octet {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(out_of_range),
        };
        Ok(match id {
            id::PAYLOAD_FORMAT_INDICATOR => Self::PayloadFormatIndicator(flag(cursor.u8()?)?),
            id::MESSAGE_EXPIRY_INTERVAL => Self::MessageExpiryInterval(cursor.u32()?),
            id::CONTENT_TYPE => Self::ContentType(cursor.text()?),
            id::RESPONSE_TOPIC => {
                let name = cursor.binary()?;
                match crate::text::check_topic_name(name) {
                    Ok(name) => Self::ResponseTopic(name),
                    // [MQTT-3.3.2-14], and 3.3.2.3.5 for the empty one: a protocol error.
                    Err(Malformed::TopicName) => return Err(out_of_range),
                    Err(fault) => return Err(fault),
                }
            }
            id::CORRELATION_DATA => Self::CorrelationData(cursor.binary()?),
            id::SUBSCRIPTION_IDENTIFIER => Self::SubscriptionIdentifier(
                NonZeroU32::new(cursor.variable_byte_integer()?).ok_or(out_of_range)?,
            ),
            id::SESSION_EXPIRY_INTERVAL => Self::SessionExpiryInterval(cursor.u32()?),
            id::ASSIGNED_CLIENT_IDENTIFIER => Self::AssignedClientIdentifier(cursor.text()?),
            id::SERVER_KEEP_ALIVE => Self::ServerKeepAlive(cursor.u16()?),
            id::AUTHENTICATION_METHOD => Self::AuthenticationMethod(cursor.text()?),
            id::AUTHENTICATION_DATA => Self::AuthenticationData(cursor.binary()?),
            id::REQUEST_PROBLEM_INFORMATION => Self::RequestProblemInformation(flag(cursor.u8()?)?),
            id::WILL_DELAY_INTERVAL => Self::WillDelayInterval(cursor.u32()?),
            id::REQUEST_RESPONSE_INFORMATION => {
                Self::RequestResponseInformation(flag(cursor.u8()?)?)
            }
            id::RESPONSE_INFORMATION => Self::ResponseInformation(cursor.text()?),
            id::SERVER_REFERENCE => Self::ServerReference(cursor.text()?),
            id::REASON_STRING => Self::ReasonString(cursor.text()?),
            id::RECEIVE_MAXIMUM => {
                Self::ReceiveMaximum(NonZeroU16::new(cursor.u16()?).ok_or(out_of_range)?)
            }
            id::TOPIC_ALIAS_MAXIMUM => Self::TopicAliasMaximum(cursor.u16()?),
            id::TOPIC_ALIAS => {
                Self::TopicAlias(NonZeroU16::new(cursor.u16()?).ok_or(out_of_range)?)
            }
            id::MAXIMUM_QOS => Self::MaximumQoS(u8::from(flag(cursor.u8()?)?)),
            id::RETAIN_AVAILABLE => Self::RetainAvailable(flag(cursor.u8()?)?),
            id::USER_PROPERTY => Self::UserProperty(cursor.text()?, cursor.text()?),
            id::MAXIMUM_PACKET_SIZE => {
                Self::MaximumPacketSize(NonZeroU32::new(cursor.u32()?).ok_or(out_of_range)?)
            }
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => {
                Self::WildcardSubscriptionAvailable(flag(cursor.u8()?)?)
            }
            id::SUBSCRIPTION_IDENTIFIER_AVAILABLE => {
                Self::SubscriptionIdentifierAvailable(flag(cursor.u8()?)?)
            }
            id::SHARED_SUBSCRIPTION_AVAILABLE => {
                Self::SharedSubscriptionAvailable(flag(cursor.u8()?)?)
            }
            id => return Err(Malformed::UnknownProperty { id }),
        })
    }

    /// The property's identifier, see [`id`].
    #[must_use]
    pub const fn id(&self) -> u8 {
        match self {
            Self::PayloadFormatIndicator(_) => id::PAYLOAD_FORMAT_INDICATOR,
            Self::MessageExpiryInterval(_) => id::MESSAGE_EXPIRY_INTERVAL,
            Self::ContentType(_) => id::CONTENT_TYPE,
            Self::ResponseTopic(_) => id::RESPONSE_TOPIC,
            Self::CorrelationData(_) => id::CORRELATION_DATA,
            Self::SubscriptionIdentifier(_) => id::SUBSCRIPTION_IDENTIFIER,
            Self::SessionExpiryInterval(_) => id::SESSION_EXPIRY_INTERVAL,
            Self::AssignedClientIdentifier(_) => id::ASSIGNED_CLIENT_IDENTIFIER,
            Self::ServerKeepAlive(_) => id::SERVER_KEEP_ALIVE,
            Self::AuthenticationMethod(_) => id::AUTHENTICATION_METHOD,
            Self::AuthenticationData(_) => id::AUTHENTICATION_DATA,
            Self::RequestProblemInformation(_) => id::REQUEST_PROBLEM_INFORMATION,
            Self::WillDelayInterval(_) => id::WILL_DELAY_INTERVAL,
            Self::RequestResponseInformation(_) => id::REQUEST_RESPONSE_INFORMATION,
            Self::ResponseInformation(_) => id::RESPONSE_INFORMATION,
            Self::ServerReference(_) => id::SERVER_REFERENCE,
            Self::ReasonString(_) => id::REASON_STRING,
            Self::ReceiveMaximum(_) => id::RECEIVE_MAXIMUM,
            Self::TopicAliasMaximum(_) => id::TOPIC_ALIAS_MAXIMUM,
            Self::TopicAlias(_) => id::TOPIC_ALIAS,
            Self::MaximumQoS(_) => id::MAXIMUM_QOS,
            Self::RetainAvailable(_) => id::RETAIN_AVAILABLE,
            Self::UserProperty(..) => id::USER_PROPERTY,
            Self::MaximumPacketSize(_) => id::MAXIMUM_PACKET_SIZE,
            Self::WildcardSubscriptionAvailable(_) => id::WILDCARD_SUBSCRIPTION_AVAILABLE,
            Self::SubscriptionIdentifierAvailable(_) => id::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
            Self::SharedSubscriptionAvailable(_) => id::SHARED_SUBSCRIPTION_AVAILABLE,
        }
    }
}

/// Which properties may be in one kind of packet (MQTT 5.0 table 2-4), and which of them repeatedly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    allowed: u64,
    repeatable: u64,
}

impl Place {
    const fn of(ids: &[u8]) -> Self {
        let mut allowed = 1 << id::USER_PROPERTY;
        let mut index = 0;
        while index < ids.len() {
            allowed |= 1 << ids[index];
            index += 1;
        }
        Self { allowed, repeatable: 1 << id::USER_PROPERTY }
    }

    const fn repeating(self, id: u8) -> Self {
        Self { allowed: self.allowed, repeatable: self.repeatable | 1 << id }
    }

    pub(crate) const CONNECT: Self = Self::of(&[
        id::SESSION_EXPIRY_INTERVAL,
        id::RECEIVE_MAXIMUM,
        id::MAXIMUM_PACKET_SIZE,
        id::TOPIC_ALIAS_MAXIMUM,
        id::REQUEST_RESPONSE_INFORMATION,
        id::REQUEST_PROBLEM_INFORMATION,
        id::AUTHENTICATION_METHOD,
        id::AUTHENTICATION_DATA,
    ]);
    pub(crate) const WILL: Self = Self::of(&[
        id::WILL_DELAY_INTERVAL,
        id::PAYLOAD_FORMAT_INDICATOR,
        id::MESSAGE_EXPIRY_INTERVAL,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
    ]);
    pub(crate) const CONNACK: Self = Self::of(&[
        id::SESSION_EXPIRY_INTERVAL,
        id::RECEIVE_MAXIMUM,
        id::MAXIMUM_QOS,
        id::RETAIN_AVAILABLE,
        id::MAXIMUM_PACKET_SIZE,
        id::ASSIGNED_CLIENT_IDENTIFIER,
        id::TOPIC_ALIAS_MAXIMUM,
        id::REASON_STRING,
        id::WILDCARD_SUBSCRIPTION_AVAILABLE,
        id::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
        id::SHARED_SUBSCRIPTION_AVAILABLE,
        id::SERVER_KEEP_ALIVE,
        id::RESPONSE_INFORMATION,
        id::SERVER_REFERENCE,
        id::AUTHENTICATION_METHOD,
        id::AUTHENTICATION_DATA,
    ]);
    /// From the client: without subscription identifiers [MQTT-3.3.4-6].
    pub(crate) const PUBLISH_FROM_CLIENT: Self = Self::of(&[
        id::PAYLOAD_FORMAT_INDICATOR,
        id::MESSAGE_EXPIRY_INTERVAL,
        id::TOPIC_ALIAS,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::CONTENT_TYPE,
    ]);
    /// From the broker: one subscription identifier for each subscription that matched.
    pub(crate) const PUBLISH_FROM_BROKER: Self = Self::of(&[
        id::PAYLOAD_FORMAT_INDICATOR,
        id::MESSAGE_EXPIRY_INTERVAL,
        id::TOPIC_ALIAS,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::CONTENT_TYPE,
        id::SUBSCRIPTION_IDENTIFIER,
    ])
    .repeating(id::SUBSCRIPTION_IDENTIFIER);
    /// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
    pub(crate) const ACKNOWLEDGEMENT: Self = Self::of(&[id::REASON_STRING]);
    pub(crate) const SUBSCRIBE: Self = Self::of(&[id::SUBSCRIPTION_IDENTIFIER]);
    pub(crate) const UNSUBSCRIBE: Self = Self::of(&[]);
    /// From the client: a server reference is the broker's to give.
    pub(crate) const DISCONNECT_FROM_CLIENT: Self =
        Self::of(&[id::SESSION_EXPIRY_INTERVAL, id::REASON_STRING]);
    /// From the broker: without session expiry [MQTT-3.14.2-2].
    pub(crate) const DISCONNECT_FROM_BROKER: Self =
        Self::of(&[id::REASON_STRING, id::SERVER_REFERENCE]);
    pub(crate) const AUTH: Self =
        Self::of(&[id::AUTHENTICATION_METHOD, id::AUTHENTICATION_DATA, id::REASON_STRING]);
}

/// The properties of one packet, validated, in the order they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Properties<'a> {
    octets: &'a [u8],
}

impl<'a> Properties<'a> {
    /// No properties; so has every packet before MQTT 5.
    pub const NONE: Self = Self { octets: &[] };

    /// Reads the property length and the properties, and hands each to `found`.
    #[inline]
    pub(crate) fn read(
        cursor: &mut Cursor<'a>,
        place: Place,
        found: impl FnMut(Property<'a>),
    ) -> Result<Self, Malformed> {
        if let [0, ..] = cursor.rest() {
            cursor.u8()?;
            return Ok(Self::NONE);
        }
        Self::read_some(cursor, place, found)
    }

    fn read_some(
        cursor: &mut Cursor<'a>,
        place: Place,
        mut found: impl FnMut(Property<'a>),
    ) -> Result<Self, Malformed> {
        let length = cursor.variable_byte_integer()?;
        let octets = cursor.take(length as usize)?;
        let mut seen = 0_u64;
        let mut rest = Cursor::new(octets);
        while !rest.is_empty() {
            let property = Property::read(&mut rest)?;
            let id = property.id();
            let bit = 1_u64 << id;
            if place.allowed & bit == 0 {
                return Err(Malformed::MisplacedProperty { id });
            }
            if seen & bit & !place.repeatable != 0 {
                return Err(Malformed::RepeatedProperty { id });
            }
            seen |= bit;
            found(property);
        }
        Ok(Self { octets })
    }

    /// The octets as they came, without the property length.
    #[must_use]
    pub const fn octets(&self) -> &'a [u8] {
        self.octets
    }

    /// Whether there are none.
    #[must_use]
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// The properties in the order they came.
    #[must_use]
    pub const fn iter(&self) -> PropertyIter<'a> {
        PropertyIter { rest: Cursor::new(self.octets) }
    }

    /// Names and values of the user properties, in the order they came, repeated names included.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// The reason string, if there is one.
    #[must_use]
    pub fn reason_string(&self) -> Option<&'a str> {
        self.iter().find_map(|property| match property {
            Property::ReasonString(text) => Some(text),
            _ => None,
        })
    }

    /// Each property with its octets, identifier included.
    pub(crate) fn with_octets(&self) -> impl Iterator<Item = (Property<'a>, &'a [u8])> + use<'a> {
        let mut iter = self.iter();
        std::iter::from_fn(move || {
            let before = iter.rest.rest();
            let property = iter.next()?;
            let octets = &before[..before.len() - iter.rest.rest().len()];
            Some((property, octets))
        })
    }
}

impl<'a> IntoIterator for Properties<'a> {
    type Item = Property<'a>;
    type IntoIter = PropertyIter<'a>;

    fn into_iter(self) -> PropertyIter<'a> {
        self.iter()
    }
}

/// The properties of one packet, one after the other. Made by [`Properties::iter`].
#[derive(Debug, Clone)]
pub struct PropertyIter<'a> {
    rest: Cursor<'a>,
}

impl<'a> Iterator for PropertyIter<'a> {
    type Item = Property<'a>;

    fn next(&mut self) -> Option<Property<'a>> {
        // An empty rest is the only error left: reading the packet has validated all of them.
        Property::read(&mut self.rest).ok()
    }
}
