//! CONNACK, as the broker sends it.

use std::num::{NonZeroU16, NonZeroU32};

use crate::cursor::Cursor;
use crate::property::Place;
use crate::{Frame, Malformed, Properties, Property, Version, reason};

/// A CONNACK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Decides the packet's shape.
    pub version: Version,
    /// Whether the broker had a session for this client identifier.
    pub session_present: bool,
    /// 0 for success; otherwise 1 to 5 before MQTT 5, 0x80 and above since.
    pub code: u8,
    /// All properties.
    pub properties: Properties<'a>,
    /// Session expiry in seconds, if the broker has changed it.
    pub session_expiry: Option<u32>,
    /// Unacknowledged QoS 1 and 2 messages the broker takes at a time; 65,535 if it does not say.
    pub receive_maximum: NonZeroU16,
    /// Octets of the largest whole packet that the broker takes, if it says.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The highest topic alias that the broker takes, 0 for none.
    pub topic_alias_maximum: u16,
    /// The client identifier that the broker chose for a client that gave none.
    pub assigned_client_id: Option<&'a str>,
    /// Keep alive in seconds that replaces the client's.
    pub server_keep_alive: Option<u16>,
    /// The authentication method of the CONNECT.
    pub authentication_method: Option<&'a str>,
    /// What the method has to say.
    pub authentication_data: Option<&'a [u8]>,
}

impl<'a> ConnAck<'a> {
    pub(crate) fn read(version: Version, frame: Frame<'a>) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(frame.body());
        let flags = cursor.u8()?;
        let code = cursor.u8()?;
        // In 3.1 the octet of the flags is reserved; brokers send 0, or 3.1.1's flag.
        if flags > 1 || (flags == 1 && code != 0) {
            return Err(Malformed::ConnectFlags { flags });
        }
        let is_known = if version.is_v5() { reason::is_connack(code) } else { code <= 5 };
        if !is_known {
            return Err(Malformed::ReasonCode { code });
        }
        let mut connack = Self {
            version,
            session_present: flags == 1,
            code,
            properties: Properties::NONE,
            session_expiry: None,
            receive_maximum: NonZeroU16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            assigned_client_id: None,
            server_keep_alive: None,
            authentication_method: None,
            authentication_data: None,
        };
        if version.is_v5() {
            connack.properties =
                Properties::read(&mut cursor, Place::CONNACK, |property| match property {
                    Property::SessionExpiryInterval(seconds) => {
                        connack.session_expiry = Some(seconds);
                    }
                    Property::ReceiveMaximum(messages) => connack.receive_maximum = messages,
                    Property::MaximumPacketSize(octets) => {
                        connack.maximum_packet_size = Some(octets);
                    }
                    Property::TopicAliasMaximum(alias) => connack.topic_alias_maximum = alias,
                    Property::AssignedClientIdentifier(id) => connack.assigned_client_id = Some(id),
                    Property::ServerKeepAlive(seconds) => connack.server_keep_alive = Some(seconds),
                    Property::AuthenticationMethod(method) => {
                        connack.authentication_method = Some(method);
                    }
                    Property::AuthenticationData(data) => connack.authentication_data = Some(data),
                    _ => (),
                })?;
            if connack.authentication_data.is_some() && connack.authentication_method.is_none() {
                return Err(Malformed::NoAuthenticationMethod);
            }
        }
        cursor.end()?;
        Ok(connack)
    }
}
