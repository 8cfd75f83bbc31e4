//! DISCONNECT and AUTH, which share their shape: a reason code and properties, each of which may be
//! left out at the end.

use crate::cursor::Cursor;
use crate::property::Place;
use crate::{Frame, Malformed, Peer, Properties, Property, Version, reason};

/// A DISCONNECT. Before MQTT 5 it comes from the client only and says nothing but goodbye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// The reason code; from a client, 0x04 asks for the will to be published.
    pub reason: u8,
    /// A new session expiry interval in seconds; from a client only. Raising it from 0 is a
    /// protocol error [MQTT-3.14.2-2], which only who knows the CONNECT can see.
    pub session_expiry: Option<u32>,
    /// All properties.
    pub properties: Properties<'a>,
}

impl<'a> Disconnect<'a> {
    pub(crate) fn read(version: Version, from: Peer, frame: Frame<'a>) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(frame.body());
        let mut disconnect =
            Self { reason: reason::SUCCESS, session_expiry: None, properties: Properties::NONE };
        if version.is_v5() {
            if !cursor.is_empty() {
                disconnect.reason = cursor.u8()?;
            }
            if !reason::is_disconnect(disconnect.reason, from) {
                return Err(Malformed::ReasonCode { code: disconnect.reason });
            }
            if !cursor.is_empty() {
                let place = match from {
                    Peer::Client => Place::DISCONNECT_FROM_CLIENT,
                    Peer::Broker => Place::DISCONNECT_FROM_BROKER,
                };
                disconnect.properties = Properties::read(&mut cursor, place, |property| {
                    if let Property::SessionExpiryInterval(seconds) = property {
                        disconnect.session_expiry = Some(seconds);
                    }
                })?;
            }
        }
        cursor.end()?;
        Ok(disconnect)
    }
}

/// An AUTH: one step of enhanced authentication, MQTT 5 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// [`reason::SUCCESS`] (from the broker), [`reason::CONTINUE_AUTHENTICATION`] or
    /// [`reason::REAUTHENTICATE`] (from the client).
    pub reason: u8,
    /// The method. Only a bare success, `F0 00` or `F0 01 00`, comes without.
    pub method: Option<&'a str>,
    /// What the method has to say.
    pub data: Option<&'a [u8]>,
    /// All properties.
    pub properties: Properties<'a>,
}

impl<'a> Auth<'a> {
    pub(crate) fn read(from: Peer, frame: Frame<'a>) -> Result<Self, Malformed> {
        let mut cursor = Cursor::new(frame.body());
        let mut auth = Self {
            reason: reason::SUCCESS,
            method: None,
            data: None,
            properties: Properties::NONE,
        };
        if !cursor.is_empty() {
            auth.reason = cursor.u8()?;
        }
        if !reason::is_auth(auth.reason, from) {
            return Err(Malformed::ReasonCode { code: auth.reason });
        }
        if !cursor.is_empty() {
            auth.properties =
                Properties::read(&mut cursor, Place::AUTH, |property| match property {
                    Property::AuthenticationMethod(method) => auth.method = Some(method),
                    Property::AuthenticationData(data) => auth.data = Some(data),
                    _ => (),
                })?;
        }
        cursor.end()?;
        // 3.15.2.2.2 demands the method, 3.15.2.1 lets a success leave out everything.
        let may_lack_method = auth.reason == reason::SUCCESS && auth.properties.is_empty();
        if auth.method.is_none() && !may_lack_method {
            return Err(Malformed::NoAuthenticationMethod);
        }
        Ok(auth)
    }
}
