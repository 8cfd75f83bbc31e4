//! What can be wrong with a packet, and the reason code that MQTT 5 has for it.

use crate::Version;

/// Why a packet was refused. It ends the session: there is no second reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A length that is longer than needed, or of more than four octets.
    #[error("a length takes more octets than it needs, or more than four")]
    Length,
    /// The frame is larger than the limit that applies.
    #[error("a packet of {octets} octets, at most {limit} are accepted")]
    TooLarge {
        /// What the header says the whole frame has.
        octets: usize,
        /// What was allowed.
        limit: usize,
    },
    /// Packet type 0, or AUTH before MQTT 5.
    #[error("packet type {kind} does not exist in this version")]
    PacketType {
        /// The packet type, 0 to 15.
        kind: u8,
    },
    /// The low four bits of the first octet are not what the packet type demands.
    #[error("packet type {kind} has the fixed header flags {flags:#06b}")]
    HeaderFlags {
        /// The packet type, 0 to 15.
        kind: u8,
        /// The flags found.
        flags: u8,
    },
    /// A packet type that only the other side may send.
    #[error("packet type {kind} may not come from this side")]
    WrongDirection {
        /// The packet type, 0 to 15.
        kind: u8,
    },
    /// A CONNECT on a connection that has had one.
    #[error("a second CONNECT on one connection")]
    SecondConnect,
    /// A field runs past the end of the packet, or of the properties that hold it.
    #[error("a field runs past the end of what holds it")]
    Truncated,
    /// Octets are left after the last field.
    #[error("octets are left after the last field")]
    Trailing,
    /// Text that is not well-formed UTF-8.
    #[error("text is not well-formed UTF-8")]
    Utf8,
    /// Text with U+0000, a control character or a noncharacter, see [`text`](crate::text).
    #[error("text has a control character or a noncharacter")]
    Character,
    /// A topic name with a wildcard, or an empty one where none may be.
    #[error("not a topic name: empty, or with a wildcard")]
    TopicName,
    /// A topic filter with a wildcard out of place, a broken `$share`, or an empty one.
    #[error("not a topic filter: empty, or with a wildcard or `$share` out of place")]
    TopicFilter,
    /// Packet identifier 0.
    #[error("packet identifier 0")]
    PacketId,
    /// QoS 3.
    #[error("QoS 3")]
    QoS,
    /// DUP on a PUBLISH of QoS 0.
    #[error("DUP on a PUBLISH of QoS 0")]
    DupQoS0,
    /// An empty topic name without a topic alias.
    #[error("neither a topic name nor a topic alias")]
    NoTopic,
    /// A property that does not exist.
    #[error("property {id:#04x} does not exist")]
    UnknownProperty {
        /// The property's identifier, or its first octet if it takes several.
        id: u8,
    },
    /// A property that may not be in this packet, or not from this side.
    #[error("property {id:#04x} may not be here")]
    MisplacedProperty {
        /// The property's identifier.
        id: u8,
    },
    /// A property twice that may be there once.
    #[error("property {id:#04x} is there twice")]
    RepeatedProperty {
        /// The property's identifier.
        id: u8,
    },
    /// A property with a value outside its range.
    #[error("property {id:#04x} has a value outside its range")]
    PropertyValue {
        /// The property's identifier.
        id: u8,
    },
    /// Authentication data without an authentication method, or AUTH without a method.
    #[error("authentication data, or AUTH, without an authentication method")]
    NoAuthenticationMethod,
    /// AUTH with another method than the CONNECT had [MQTT-4.12.0-5].
    #[error("AUTH with another method than that of CONNECT")]
    AnotherMethod,
    /// AUTH where none is awaited.
    #[error("AUTH where none is awaited")]
    UnexpectedAuth,
    /// Anything but AUTH between a CONNECT with an authentication method and its CONNACK [MQTT-3.1.2-30].
    #[error("a packet that has to wait for CONNACK")]
    BeforeConnAck,
    /// A reason code which this packet does not have, or not from this side.
    #[error("reason code {code:#04x} may not be here")]
    ReasonCode {
        /// The code found.
        code: u8,
    },
    /// A protocol name that is neither `MQIsdp` nor `MQTT`.
    #[error("the protocol name is neither MQIsdp nor MQTT")]
    ProtocolName,
    /// CONNECT or CONNACK flags that exclude each other or are reserved.
    #[error("connect flags {flags:#010b} exclude each other or are reserved")]
    ConnectFlags {
        /// The flags found.
        flags: u8,
    },
    /// SUBSCRIBE or UNSUBSCRIBE without a topic filter, or their acknowledgement without a code.
    #[error("a list that may not be empty is")]
    Empty,
    /// Subscription options with reserved bits or retain handling 3.
    #[error("subscription options {options:#010b} are reserved")]
    SubscriptionOptions {
        /// The options found.
        options: u8,
    },
    /// No Local on a shared subscription [MQTT-3.8.3-4].
    #[error("No Local on a shared subscription")]
    NoLocalShared,
}

impl Malformed {
    /// The MQTT 5 reason code: 0x81 malformed, 0x82 protocol error, or a more exact one.
    #[must_use]
    pub const fn reason_code(&self) -> u8 {
        match self {
            Self::TooLarge { .. } => 0x95,
            Self::TopicName => 0x90,
            Self::TopicFilter => 0x8F,
            Self::WrongDirection { .. }
            | Self::SecondConnect
            | Self::PacketId
            | Self::NoTopic
            | Self::MisplacedProperty { .. }
            | Self::RepeatedProperty { .. }
            | Self::PropertyValue { .. }
            | Self::NoAuthenticationMethod
            | Self::AnotherMethod
            | Self::UnexpectedAuth
            | Self::BeforeConnAck
            | Self::ReasonCode { .. }
            | Self::Empty
            | Self::NoLocalShared => 0x82,
            Self::Length
            | Self::PacketType { .. }
            | Self::HeaderFlags { .. }
            | Self::Truncated
            | Self::Trailing
            | Self::Utf8
            | Self::Character
            | Self::QoS
            | Self::DupQoS0
            | Self::UnknownProperty { .. }
            | Self::ProtocolName
            | Self::ConnectFlags { .. }
            | Self::SubscriptionOptions { .. } => 0x81,
        }
    }

    /// The code in a CONNACK, which has no 0x8F; everything else that can go wrong before there is a session exists there.
    #[must_use]
    pub const fn connack_code(&self) -> u8 {
        match self.reason_code() {
            0x8F => 0x81,
            code => code,
        }
    }
}

/// The family of versions that a CONNECT of an unknown level belongs to: decides the answer's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Shaped like 3.x: answer in the format of 3.1.1 with code 0x01.
    V3,
    /// Level 6 and above, shaped like 5: answer in the format of 5.0 with code 0x84.
    V5OrLater,
}

/// Why the first packet of a connection is not a CONNECT to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Another packet than CONNECT came first [MQTT-3.1.0-1]: close without an answer.
    #[error("packet type {kind} came before CONNECT")]
    NotConnect {
        /// The packet type, 0 to 15.
        kind: u8,
    },
    /// `MQIsdp` or `MQTT` with a level that the gateway does not speak.
    #[error("protocol level {level:#04x} is not supported")]
    UnsupportedVersion {
        /// The level octet found.
        level: u8,
        /// Whom the answer is for.
        offer: Offer,
    },
    /// An empty client identifier where the version has none: always in 3.1, and in 3.1.1 without
    /// a clean session [MQTT-3.1.3-8 of 3.1.1].
    #[error("an empty client identifier without a clean session")]
    ClientIdRejected {
        /// The version asked for; it has no reason codes, the answer is 0x02.
        version: Version,
    },
    /// Everything else.
    #[error("CONNECT: {fault}")]
    Malformed {
        /// The version, if the packet was read that far.
        version: Option<Version>,
        /// What is wrong.
        fault: Malformed,
    },
}

impl ConnectError {
    /// The version to answer in and the code of the CONNACK, or `None` to close without a word.
    ///
    /// A malformed CONNECT of 3.x gets no answer, only the versions and identifiers have codes there.
    #[must_use]
    pub const fn connack(&self) -> Option<(Version, u8)> {
        match self {
            Self::UnsupportedVersion { offer: Offer::V3, .. } => Some((Version::V311, 0x01)),
            Self::UnsupportedVersion { offer: Offer::V5OrLater, .. } => Some((Version::V5, 0x84)),
            Self::ClientIdRejected { version } => Some((*version, 0x02)),
            Self::Malformed { version: Some(Version::V5), fault } => {
                Some((Version::V5, fault.connack_code()))
            }
            Self::NotConnect { .. } | Self::Malformed { .. } => None,
        }
    }
}
