//! MQTT 3.1, 3.1.1 and 5.0: octets to packet facts, and back.
//!
//! This crate is the gateway's one reading of MQTT. A gateway that decides on a packet and forwards
//! its octets is only as safe as its agreement with the broker on what those octets say, so there is
//! one strict reading per protocol version and everything else is an error that ends the session.
//!
//! The way of the data: [`frame`] cuts one whole packet off the front of a buffer; [`read_connect`],
//! [`read_from_client`] and [`read_from_broker`] turn it into facts that borrow from those octets;
//! the caller decides; then either the octets go on as they came ([`Frame::octets`]), or [`rewrite`]
//! splices a changed packet from them, or [`encode`] makes a new one of the gateway's own.
//!
//! * **Pure**: no socket, no clock, no `unsafe`, and no allocation for any reading: lists (filters,
//!   properties, reason codes) are iterators over slices that have been validated in full before.
//! * **One rule for text** ([`text`]): every UTF-8 field of every version refuses the same characters.
//! * **Bounded**: no recursion, and no memory is sized by what a packet claims.

#![cfg_attr(test, allow(clippy::indexing_slicing))]

use std::num::NonZeroU16;

mod acknowledge;
mod connack;
mod connect;
mod cursor;
mod disconnect;
pub mod encode;
mod frame;
mod malformed;
mod packet;
pub mod property;
mod publish;
pub mod reason;
pub mod rewrite;
mod subscribe;
pub mod text;
pub mod topic;

pub use acknowledge::{Ack, SubAck, UnsubAck};
pub use connack::ConnAck;
pub use connect::{Connect, Will, read_connect};
pub use disconnect::{Auth, Disconnect};
pub use frame::{Frame, MAX_FRAME_OCTETS, frame, kind, variable_byte_integer};
pub use malformed::{ConnectError, Malformed, Offer};
pub use packet::{FromBroker, FromClient, read_from_broker, read_from_client};
pub use property::{Properties, Property};
pub use publish::{
    Publish, RawPublish, peek_publish_topic, read_publish, read_publish_known_topic,
    read_raw_publish,
};
pub use rewrite::{
    ConnAckChange, ConnectChange, rewrite_connack, rewrite_connect, rewrite_disconnect,
    rewrite_publish, rewrite_suback, rewrite_subscribe, rewrite_unsuback, rewrite_unsubscribe,
};
pub use subscribe::{Filters, Subscribe, SubscribeFilter, Unsubscribe};

/// Identifies one exchange of packets within a session; never 0.
pub type PacketId = NonZeroU16;

/// A protocol version that the gateway speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V31,
    /// MQTT 3.1.1: protocol name `MQTT`, level 4.
    V311,
    /// MQTT 5.0: protocol name `MQTT`, level 5.
    V5,
}

impl Version {
    /// The protocol level octet of CONNECT.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }

    /// The protocol name of CONNECT.
    #[must_use]
    pub const fn protocol_name(self) -> &'static str {
        match self {
            Self::V31 => "MQIsdp",
            Self::V311 | Self::V5 => "MQTT",
        }
    }

    /// Whether packets have properties and reason codes.
    #[must_use]
    #[inline]
    pub const fn is_v5(self) -> bool {
        matches!(self, Self::V5)
    }
}

/// How often a message may arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS of two bits, or `None` for 3.
    #[must_use]
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Who sent a packet. Some properties and reason codes may come from one side only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// The client.
    Client,
    /// The broker.
    Broker,
}
