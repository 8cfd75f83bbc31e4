//! CONNECT: who asks, for which version, and what is to be published when it is gone.

use std::num::{NonZeroU16, NonZeroU32};

use crate::cursor::Cursor;
use crate::frame::MAX_FRAME_OCTETS;
use crate::property::Place;
use crate::{
    ConnectError, Frame, Malformed, Offer, Properties, Property, QoS, Version, kind, text,
};

const USER_NAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_QOS: u8 = 0x18;
const WILL: u8 = 0x04;
const CLEAN_START: u8 = 0x02;
const RESERVED: u8 = 0x01;

/// A CONNECT. Nothing in it is proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version of everything that follows on this connection.
    pub version: Version,
    /// Whether a former session is to be forgotten; "clean session" before MQTT 5.
    pub clean_start: bool,
    /// Seconds, 0 for none.
    pub keep_alive: u16,
    /// May be empty in MQTT 5, and in 3.1.1 with [`clean_start`](Self::clean_start).
    pub client_id: &'a str,
    /// The user name, if there is one; it may be empty.
    pub user_name: Option<&'a str>,
    /// The password, if there is one; before MQTT 5 only with a user name.
    pub password: Option<&'a [u8]>,
    /// What to publish when the client is gone.
    pub will: Option<Will<'a>>,
    /// All properties.
    pub properties: Properties<'a>,
    /// Seconds that the session outlives the connection, `u32::MAX` for ever. Before MQTT 5: 0 with
    /// a clean session, otherwise for ever, which is how MQTT 5 (3.1.2.11.2) reads them.
    pub session_expiry: u32,
    /// Unacknowledged QoS 1 and 2 messages the client takes at a time; 65,535 if it does not say.
    pub receive_maximum: NonZeroU16,
    /// Octets of the largest whole packet that the client takes, if it says.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The highest topic alias that the client takes, 0 for none.
    pub topic_alias_maximum: u16,
    /// Whether reason strings and user properties may be sent on any packet, not only on PUBLISH,
    /// CONNACK and DISCONNECT. True if the client does not say.
    pub request_problem_information: bool,
    /// Whether the client wants response information.
    pub request_response_information: bool,
    /// The authentication method: asks for enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// The first step of the method; only with a method.
    pub authentication_data: Option<&'a [u8]>,
}

/// What is to be published when the client is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// A topic name.
    pub topic: &'a str,
    /// Any octets, also where 3.1 wanted text.
    pub payload: &'a [u8],
    /// The QoS to publish with.
    pub qos: QoS,
    /// Whether to retain it.
    pub retain: bool,
    /// All properties.
    pub properties: Properties<'a>,
    /// Seconds between the end of the connection and the will, 0 for none.
    pub delay: u32,
    /// Will properties (with their length, in MQTT 5), topic and payload as they came.
    pub octets: &'a [u8],
}

impl<'a> Connect<'a> {
    /// Names and values of the user properties, in the order they came.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.properties.user_properties()
    }

    /// The value of the first user property of this name.
    #[must_use]
    pub fn user_property(&self, name: &str) -> Option<&'a str> {
        self.user_properties().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// A CONNECT that says nothing: clean start, no keep alive, no client identifier.
    #[must_use]
    pub const fn bare(version: Version) -> Self {
        Self {
            version,
            clean_start: true,
            keep_alive: 0,
            client_id: "",
            user_name: None,
            password: None,
            will: None,
            properties: Properties::NONE,
            session_expiry: 0,
            receive_maximum: NonZeroU16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_problem_information: true,
            request_response_information: false,
            authentication_method: None,
            authentication_data: None,
        }
    }

    /// The flags octet that describes this CONNECT.
    pub(crate) fn flags(&self) -> u8 {
        let mut flags = 0;
        let mut set = |bit, is_set| flags |= if is_set { bit } else { 0 };
        set(CLEAN_START, self.clean_start);
        set(USER_NAME, self.user_name.is_some());
        set(PASSWORD, self.password.is_some());
        if let Some(will) = &self.will {
            set(WILL | (will.qos as u8) << 3, true);
            set(WILL_RETAIN, will.retain);
        }
        flags
    }

    fn read_properties(&mut self, cursor: &mut Cursor<'a>) -> Result<(), Malformed> {
        self.properties = Properties::read(cursor, Place::CONNECT, |property| match property {
            Property::SessionExpiryInterval(seconds) => self.session_expiry = seconds,
            Property::ReceiveMaximum(messages) => self.receive_maximum = messages,
            Property::MaximumPacketSize(octets) => self.maximum_packet_size = Some(octets),
            Property::TopicAliasMaximum(alias) => self.topic_alias_maximum = alias,
            Property::RequestProblemInformation(wanted) => {
                self.request_problem_information = wanted;
            }
            Property::RequestResponseInformation(wanted) => {
                self.request_response_information = wanted;
            }
            Property::AuthenticationMethod(method) => self.authentication_method = Some(method),
            Property::AuthenticationData(data) => self.authentication_data = Some(data),
            _ => (),
        })?;
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(Malformed::NoAuthenticationMethod);
        }
        Ok(())
    }

    /// Reads what follows the protocol level.
    fn read(version: Version, frame: Frame<'a>, mut cursor: Cursor<'a>) -> Result<Self, Malformed> {
        // The standard of 3.1 says that it does not use the flags of this fixed header, and clients
        // of that age are known to set them; the CONNECT towards the broker is written anew.
        if frame.flags() != 0 && version != Version::V31 {
            return Err(Malformed::HeaderFlags { kind: frame.kind(), flags: frame.flags() });
        }
        if frame.octets().len() > MAX_FRAME_OCTETS / 2 {
            let octets = frame.octets().len();
            return Err(Malformed::TooLarge { octets, limit: MAX_FRAME_OCTETS / 2 });
        }
        let flags = cursor.u8()?;
        check_flags(version, flags)?;
        let mut connect = Self::bare(version);
        connect.clean_start = flags & CLEAN_START != 0;
        connect.keep_alive = cursor.u16()?;
        if version.is_v5() {
            connect.read_properties(&mut cursor)?;
        } else if !connect.clean_start {
            connect.session_expiry = u32::MAX;
        }
        connect.client_id = cursor.text()?;
        if flags & WILL != 0 {
            connect.will = Some(Will::read(version, flags, &mut cursor)?);
        }
        // "The Remaining Length takes precedence over the User Name flag" (3.1 section 3.1, for the
        // sake of clients older still): a field whose flag is set may be missing at the end.
        let may_be_missing = version == Version::V31;
        if flags & USER_NAME != 0 && !(may_be_missing && cursor.is_empty()) {
            connect.user_name = Some(cursor.text()?);
        }
        if flags & PASSWORD != 0 && !(may_be_missing && cursor.is_empty()) {
            connect.password = Some(cursor.binary()?);
        }
        cursor.end()?;
        Ok(connect)
    }
}

impl<'a> Will<'a> {
    fn read(version: Version, flags: u8, cursor: &mut Cursor<'a>) -> Result<Self, Malformed> {
        let before = cursor.rest();
        let mut delay = 0;
        let properties = if version.is_v5() {
            Properties::read(cursor, Place::WILL, |property| {
                if let Property::WillDelayInterval(seconds) = property {
                    delay = seconds;
                }
            })?
        } else {
            Properties::NONE
        };
        let topic = text::check_topic_name(cursor.binary()?)?;
        let payload = cursor.binary()?;
        let octets = &before[..before.len() - cursor.rest().len()];
        let qos = QoS::from_bits((flags & WILL_QOS) >> 3).ok_or(Malformed::QoS)?;
        let retain = flags & WILL_RETAIN != 0;
        Ok(Self { topic, payload, qos, retain, properties, delay, octets })
    }
}

fn check_flags(version: Version, flags: u8) -> Result<(), Malformed> {
    // 3.1 does not use the lowest bit; from 3.1.1 on it must be 0 [MQTT-3.1.2-3].
    let is_reserved_bit_set = flags & RESERVED != 0 && version != Version::V31;
    let is_will_without_flag = flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0;
    let is_password_alone = flags & (USER_NAME | PASSWORD) == PASSWORD && version != Version::V5;
    if is_reserved_bit_set || is_will_without_flag || is_password_alone {
        return Err(Malformed::ConnectFlags { flags });
    }
    if flags & WILL_QOS == WILL_QOS {
        return Err(Malformed::QoS);
    }
    Ok(())
}

/// Reads the first packet of a connection.
///
/// # Errors
/// See [`ConnectError`], and [`ConnectError::connack`] for the answer to give.
pub fn read_connect(frame: Frame<'_>) -> Result<Connect<'_>, ConnectError> {
    if frame.kind() != kind::CONNECT {
        return Err(ConnectError::NotConnect { kind: frame.kind() });
    }
    let mut cursor = Cursor::new(frame.body());
    let unknown = |fault| ConnectError::Malformed { version: None, fault };
    let name = cursor.binary().map_err(unknown)?;
    let offer_of: fn(u8) -> Offer = match name {
        b"MQIsdp" => |_| Offer::V3,
        // 0x83 and 0x84 are 3.1 and 3.1.1 with the bit by which some brokers mark a bridge.
        b"MQTT" => |level| match level {
            0..=5 | 0x83 | 0x84 => Offer::V3,
            _ => Offer::V5OrLater,
        },
        _ => return Err(unknown(Malformed::ProtocolName)),
    };
    let level = cursor.u8().map_err(unknown)?;
    let version = match (name, level) {
        (b"MQIsdp", 3) => Version::V31,
        (b"MQTT", 4) => Version::V311,
        (b"MQTT", 5) => Version::V5,
        _ => return Err(ConnectError::UnsupportedVersion { level, offer: offer_of(level) }),
    };
    let connect = Connect::read(version, frame, cursor)
        .map_err(|fault| ConnectError::Malformed { version: Some(version), fault })?;
    let needs_client_id = match version {
        Version::V31 => true,
        Version::V311 => !connect.clean_start,
        Version::V5 => false,
    };
    if needs_client_id && connect.client_id.is_empty() {
        return Err(ConnectError::ClientIdRejected { version });
    }
    Ok(connect)
}
