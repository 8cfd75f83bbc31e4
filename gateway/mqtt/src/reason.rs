//! Which reason codes each packet may carry, from which side (MQTT 5.0 section 2.4 and the tables of
//! chapter 3), and the codes that the gateway uses by name.

use crate::Peer;

/// Success, normal disconnection, granted QoS 0.
pub const SUCCESS: u8 = 0x00;
/// DISCONNECT by the client: the will is to be published all the same.
pub const DISCONNECT_WITH_WILL: u8 = 0x04;
/// Accepted, but nobody has subscribed. From the broker only.
pub const NO_MATCHING_SUBSCRIBERS: u8 = 0x10;
/// UNSUBACK: there was no such subscription.
pub const NO_SUBSCRIPTION_EXISTED: u8 = 0x11;
/// AUTH: the next step.
pub const CONTINUE_AUTHENTICATION: u8 = 0x18;
/// AUTH: the client starts over.
pub const REAUTHENTICATE: u8 = 0x19;
/// No other code fits; in SUBACK of 3.1.1 the only refusal.
pub const UNSPECIFIED_ERROR: u8 = 0x80;
/// The octets are not what the standard says.
pub const MALFORMED_PACKET: u8 = 0x81;
/// The octets are well-formed but may not be sent here and now.
pub const PROTOCOL_ERROR: u8 = 0x82;
/// The packet is valid, but this implementation does not accept it.
pub const IMPLEMENTATION_SPECIFIC_ERROR: u8 = 0x83;
/// CONNACK: version not supported.
pub const UNSUPPORTED_PROTOCOL_VERSION: u8 = 0x84;
/// CONNACK: client identifier not accepted.
pub const CLIENT_IDENTIFIER_NOT_VALID: u8 = 0x85;
/// CONNACK: the proof does not hold.
pub const BAD_USER_NAME_OR_PASSWORD: u8 = 0x86;
/// The principal has no right to this.
pub const NOT_AUTHORIZED: u8 = 0x87;
/// CONNACK: cannot serve now.
pub const SERVER_UNAVAILABLE: u8 = 0x88;
/// Too much to do.
pub const SERVER_BUSY: u8 = 0x89;
/// CONNACK: banned.
pub const BANNED: u8 = 0x8A;
/// DISCONNECT: the server goes down.
pub const SERVER_SHUTTING_DOWN: u8 = 0x8B;
/// The authentication method is not supported, or not the one in use.
pub const BAD_AUTHENTICATION_METHOD: u8 = 0x8C;
/// DISCONNECT: nothing was heard for one and a half times the keep alive.
pub const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
/// DISCONNECT: the client identifier is in use by a newer connection.
pub const SESSION_TAKEN_OVER: u8 = 0x8E;
/// Topic filter not accepted.
pub const TOPIC_FILTER_INVALID: u8 = 0x8F;
/// Topic name not accepted.
pub const TOPIC_NAME_INVALID: u8 = 0x90;
/// Packet identifier already in use.
pub const PACKET_IDENTIFIER_IN_USE: u8 = 0x91;
/// Packet identifier not known.
pub const PACKET_IDENTIFIER_NOT_FOUND: u8 = 0x92;
/// More unacknowledged messages than were allowed.
pub const RECEIVE_MAXIMUM_EXCEEDED: u8 = 0x93;
/// Topic alias above the maximum, or unknown.
pub const TOPIC_ALIAS_INVALID: u8 = 0x94;
/// Larger than the maximum packet size.
pub const PACKET_TOO_LARGE: u8 = 0x95;
/// Too many messages.
pub const MESSAGE_RATE_TOO_HIGH: u8 = 0x96;
/// A limit was exceeded.
pub const QUOTA_EXCEEDED: u8 = 0x97;
/// DISCONNECT: by decision of the operator, e.g. a ban.
pub const ADMINISTRATIVE_ACTION: u8 = 0x98;
/// Connections come too fast.
pub const CONNECTION_RATE_EXCEEDED: u8 = 0x9F;
/// The connection has lasted as long as it may.
pub const MAXIMUM_CONNECT_TIME: u8 = 0xA0;

/// CONNACK of 3.1 and 3.1.1: version not supported.
pub const V3_UNACCEPTABLE_PROTOCOL_VERSION: u8 = 1;
/// CONNACK of 3.1 and 3.1.1: client identifier not accepted.
pub const V3_IDENTIFIER_REJECTED: u8 = 2;
/// CONNACK of 3.1 and 3.1.1: cannot serve now.
pub const V3_SERVER_UNAVAILABLE: u8 = 3;
/// CONNACK of 3.1 and 3.1.1: the proof does not hold.
pub const V3_BAD_USER_NAME_OR_PASSWORD: u8 = 4;
/// CONNACK of 3.1 and 3.1.1: the principal has no right to this.
pub const V3_NOT_AUTHORIZED: u8 = 5;

/// The code of a CONNACK of 3.1 and 3.1.1 that says the same as one of MQTT 5.
#[must_use]
pub const fn v3_connack(code: u8) -> u8 {
    match code {
        SUCCESS => 0,
        UNSUPPORTED_PROTOCOL_VERSION => V3_UNACCEPTABLE_PROTOCOL_VERSION,
        CLIENT_IDENTIFIER_NOT_VALID => V3_IDENTIFIER_REJECTED,
        SERVER_UNAVAILABLE | SERVER_BUSY | CONNECTION_RATE_EXCEEDED | QUOTA_EXCEEDED => {
            V3_SERVER_UNAVAILABLE
        }
        BAD_USER_NAME_OR_PASSWORD | BAD_AUTHENTICATION_METHOD => V3_BAD_USER_NAME_OR_PASSWORD,
        _ => V3_NOT_AUTHORIZED,
    }
}

pub(crate) const fn is_connack(code: u8) -> bool {
    matches!(code, 0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
}

/// PUBACK and PUBREC. "No matching subscribers" is the broker's to say.
pub(crate) const fn is_puback(code: u8, from: Peer) -> bool {
    match code {
        0x10 => matches!(from, Peer::Broker),
        code => matches!(code, 0x00 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99),
    }
}

/// PUBREL and PUBCOMP.
pub(crate) const fn is_pubrel(code: u8) -> bool {
    matches!(code, 0x00 | 0x92)
}

pub(crate) const fn is_suback(code: u8) -> bool {
    matches!(code, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
}

pub(crate) const fn is_unsuback(code: u8) -> bool {
    matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
}

pub(crate) const fn is_disconnect(code: u8, from: Peer) -> bool {
    match from {
        Peer::Client => matches!(code, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99),
        Peer::Broker => matches!(
            code,
            0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2
        ),
    }
}

pub(crate) const fn is_auth(code: u8, from: Peer) -> bool {
    match from {
        Peer::Client => matches!(code, CONTINUE_AUTHENTICATION | REAUTHENTICATE),
        Peer::Broker => matches!(code, SUCCESS | CONTINUE_AUTHENTICATION),
    }
}
