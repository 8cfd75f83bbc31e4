//! Reading whole packets by direction: each side may send its own packet types only.

use crate::{
    Ack, Auth, ConnAck, Disconnect, Frame, Malformed, Peer, Publish, SubAck, Subscribe, UnsubAck,
    Unsubscribe, Version, kind, read_publish,
};

/// A packet that a client may send after its CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromClient<'a> {
    /// A message.
    Publish(Publish<'a>),
    /// Has received a QoS 1 message.
    PubAck(Ack<'a>),
    /// Has received a QoS 2 message.
    PubRec(Ack<'a>),
    /// Will not send the QoS 2 message again.
    PubRel(Ack<'a>),
    /// Is done with a QoS 2 message.
    PubComp(Ack<'a>),
    /// Wants messages.
    Subscribe(Subscribe<'a>),
    /// Wants no more messages.
    Unsubscribe(Unsubscribe<'a>),
    /// Is alive.
    PingReq,
    /// Leaves.
    Disconnect(Disconnect<'a>),
    /// Goes on with its authentication, or starts it over (MQTT 5).
    Auth(Auth<'a>),
}

/// A packet that a broker may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FromBroker<'a> {
    /// Accepts or refuses the connection.
    ConnAck(ConnAck<'a>),
    /// A message.
    Publish(Publish<'a>),
    /// Has received a QoS 1 message.
    PubAck(Ack<'a>),
    /// Has received a QoS 2 message.
    PubRec(Ack<'a>),
    /// Will not send the QoS 2 message again.
    PubRel(Ack<'a>),
    /// Is done with a QoS 2 message.
    PubComp(Ack<'a>),
    /// Answers a SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// Answers an UNSUBSCRIBE.
    UnsubAck(UnsubAck<'a>),
    /// Is alive.
    PingResp,
    /// Ends the session (MQTT 5).
    Disconnect(Disconnect<'a>),
    /// Goes on with the authentication (MQTT 5).
    Auth(Auth<'a>),
}

/// Reads a packet that came from the client after its CONNECT.
///
/// # Errors
/// Anything that is wrong with it, see [`Malformed`]; among them [`Malformed::SecondConnect`], and
/// [`Malformed::WrongDirection`] for what only a broker sends.
#[inline]
pub fn read_from_client<'a>(
    version: Version,
    frame: Frame<'a>,
) -> Result<FromClient<'a>, Malformed> {
    const FROM: Peer = Peer::Client;
    let kind = frame.kind();
    if kind == kind::PUBLISH {
        return read_publish(version, FROM, frame).map(FromClient::Publish);
    }
    match kind {
        kind::CONNECT => return Err(Malformed::SecondConnect),
        kind::CONNACK | kind::SUBACK | kind::UNSUBACK | kind::PINGRESP => {
            return Err(Malformed::WrongDirection { kind });
        }
        _ => check_flags(version, frame)?,
    }
    Ok(match kind {
        kind::PUBACK => FromClient::PubAck(Ack::read(version, FROM, frame)?),
        kind::PUBREC => FromClient::PubRec(Ack::read(version, FROM, frame)?),
        kind::PUBREL => FromClient::PubRel(Ack::read(version, FROM, frame)?),
        kind::PUBCOMP => FromClient::PubComp(Ack::read(version, FROM, frame)?),
        kind::SUBSCRIBE => FromClient::Subscribe(Subscribe::read(version, frame)?),
        kind::UNSUBSCRIBE => FromClient::Unsubscribe(Unsubscribe::read(version, frame)?),
        kind::PINGREQ => {
            check_empty(frame)?;
            FromClient::PingReq
        }
        kind::DISCONNECT => FromClient::Disconnect(Disconnect::read(version, FROM, frame)?),
        kind::AUTH if version.is_v5() => FromClient::Auth(Auth::read(FROM, frame)?),
        kind => return Err(Malformed::PacketType { kind }),
    })
}

/// Reads a packet that came from the broker.
///
/// # Errors
/// Anything that is wrong with it, see [`Malformed`]; among them [`Malformed::WrongDirection`] for
/// what only a client sends.
#[inline]
pub fn read_from_broker<'a>(
    version: Version,
    frame: Frame<'a>,
) -> Result<FromBroker<'a>, Malformed> {
    const FROM: Peer = Peer::Broker;
    let kind = frame.kind();
    if kind == kind::PUBLISH {
        return read_publish(version, FROM, frame).map(FromBroker::Publish);
    }
    match kind {
        kind::CONNECT | kind::SUBSCRIBE | kind::UNSUBSCRIBE | kind::PINGREQ => {
            return Err(Malformed::WrongDirection { kind });
        }
        kind::DISCONNECT if !version.is_v5() => return Err(Malformed::WrongDirection { kind }),
        _ => check_flags(version, frame)?,
    }
    Ok(match kind {
        kind::CONNACK => FromBroker::ConnAck(ConnAck::read(version, frame)?),
        kind::PUBACK => FromBroker::PubAck(Ack::read(version, FROM, frame)?),
        kind::PUBREC => FromBroker::PubRec(Ack::read(version, FROM, frame)?),
        kind::PUBREL => FromBroker::PubRel(Ack::read(version, FROM, frame)?),
        kind::PUBCOMP => FromBroker::PubComp(Ack::read(version, FROM, frame)?),
        kind::SUBACK => FromBroker::SubAck(SubAck::read(version, frame)?),
        kind::UNSUBACK => FromBroker::UnsubAck(UnsubAck::read(version, frame)?),
        kind::PINGRESP => {
            check_empty(frame)?;
            FromBroker::PingResp
        }
        kind::DISCONNECT => FromBroker::Disconnect(Disconnect::read(version, FROM, frame)?),
        kind::AUTH if version.is_v5() => FromBroker::Auth(Auth::read(FROM, frame)?),
        kind => return Err(Malformed::PacketType { kind }),
    })
}

/// The flags of every fixed header but PUBLISH and CONNECT are reserved [MQTT-2.2.2-1 of 3.1.1,
/// MQTT-2.1.3-1 of 5.0].
///
/// In 3.1 SUBSCRIBE, UNSUBSCRIBE and PUBREL are sent with QoS 1 and may be repeated with DUP. That
/// version leaves the flags of all other packets unused, and a broker may accept any; no client sets
/// them, so they must be 0 here too.
#[inline]
fn check_flags(version: Version, frame: Frame<'_>) -> Result<(), Malformed> {
    let (kind, flags) = (frame.kind(), frame.flags());
    let is_right = match kind {
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => {
            flags == 0b0010 || (version == Version::V31 && flags == 0b1010)
        }
        _ => flags == 0,
    };
    if is_right { Ok(()) } else { Err(Malformed::HeaderFlags { kind, flags }) }
}

fn check_empty(frame: Frame<'_>) -> Result<(), Malformed> {
    if frame.body().is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
}
