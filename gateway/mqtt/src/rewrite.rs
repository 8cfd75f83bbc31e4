//! Packets that go on changed: spliced from the octets that came, so that what is not changed stays
//! the same to the octet.

use std::num::NonZeroU16;

use crate::encode::{PropertyWriter, packet, put_binary, put_text};
use crate::frame::put_variable_byte_integer;
use crate::{
    ConnAck, Connect, Disconnect, Properties, Property, Publish, SubAck, Subscribe, UnsubAck,
    Unsubscribe, Version, Will, kind,
};

/// What the CONNECT says to the broker, where it differs from what the client said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectChange<'a> {
    /// The client identifier towards the broker.
    pub client_id: &'a str,
    /// The user name towards the broker, `None` for none, whatever the client gave.
    pub user_name: Option<&'a str>,
    /// The password towards the broker, `None` for none. Before MQTT 5 it goes only with a user
    /// name [MQTT-3.1.2-22] and is left out otherwise.
    pub password: Option<&'a [u8]>,
    /// Whether the authentication method and data, which are between client and gateway, are left out.
    pub remove_authentication: bool,
    /// Names of user properties to leave out, because they carry a proof.
    pub remove_user_properties: &'a [&'a str],
    /// Whether the will is left out.
    pub remove_will: bool,
    /// Whether the will's delay is left out: whoever must be asked at the moment when the will fires
    /// cannot let the broker wait on its own.
    pub remove_will_delay: bool,
    /// The longest keep alive in seconds; also replaces 0, which is none at all.
    pub keep_alive_cap: Option<NonZeroU16>,
    /// The longest session expiry in seconds. Without effect before MQTT 5, which has no such field.
    pub session_expiry_cap: Option<u32>,
}

impl<'a> ConnectChange<'a> {
    /// Changes the client identifier and leaves every proof out.
    #[must_use]
    pub const fn new(client_id: &'a str) -> Self {
        Self {
            client_id,
            user_name: None,
            password: None,
            remove_authentication: true,
            remove_user_properties: &[],
            remove_will: false,
            remove_will_delay: false,
            keep_alive_cap: None,
            session_expiry_cap: None,
        }
    }
}

/// Appends the CONNECT as it goes to the broker: changed as `change` says, everything else as it
/// came, to the octet and in its order. Reserved bits that 3.1 lets a client set become 0.
///
/// Texts and password of `change` must fit two octets of length; what is longer is cut off.
pub fn rewrite_connect(connect: &Connect<'_>, change: &ConnectChange<'_>, out: &mut Vec<u8>) {
    let has_password_alone = change.user_name.is_none() && !connect.version.is_v5();
    let will = connect.will.filter(|_| !change.remove_will);
    let changed = Connect {
        user_name: change.user_name,
        password: change.password.filter(|_| !has_password_alone),
        will,
        ..*connect
    };
    let keep_alive = match change.keep_alive_cap.map(NonZeroU16::get) {
        Some(cap) if connect.keep_alive == 0 || connect.keep_alive > cap => cap,
        _ => connect.keep_alive,
    };
    packet(kind::CONNECT << 4, out, |out| {
        put_text(connect.version.protocol_name(), out);
        out.push(connect.version.level());
        out.push(changed.flags());
        out.extend_from_slice(&keep_alive.to_be_bytes());
        if connect.version.is_v5() {
            connect_properties(connect, change, out);
        }
        put_text(change.client_id, out);
        if let Some(will) = will {
            if change.remove_will_delay && will.delay != 0 {
                will_without_delay(&will, out);
            } else {
                out.extend_from_slice(will.octets);
            }
        }
        if let Some(user_name) = changed.user_name {
            put_text(user_name, out);
        }
        if let Some(password) = changed.password {
            put_binary(password, out);
        }
    });
}

fn will_without_delay(will: &Will<'_>, out: &mut Vec<u8>) {
    PropertyWriter::write(out, |out| {
        for (property, octets) in will.properties.with_octets() {
            if !matches!(property, Property::WillDelayInterval(_)) {
                out.extend_from_slice(octets);
            }
        }
    });
    put_text(will.topic, out);
    put_binary(will.payload, out);
}

fn connect_properties(connect: &Connect<'_>, change: &ConnectChange<'_>, out: &mut Vec<u8>) {
    PropertyWriter::write(out, |out| {
        for (property, octets) in connect.properties.with_octets() {
            match property {
                Property::AuthenticationMethod(_) | Property::AuthenticationData(_)
                    if change.remove_authentication => {}
                Property::UserProperty(name, _)
                    if change.remove_user_properties.contains(&name) => {}
                Property::SessionExpiryInterval(seconds) => {
                    let cap = change.session_expiry_cap.unwrap_or(u32::MAX);
                    out.push(property.id());
                    out.extend_from_slice(&seconds.min(cap).to_be_bytes());
                }
                _ => out.extend_from_slice(octets),
            }
        }
    });
}

/// What the CONNACK says to the client, where it differs from what the broker said. MQTT 5 only;
/// before, a CONNACK has nothing to change but to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnAckChange<'a> {
    /// Replaces the assigned client identifier if the broker sent one, or adds it. `None` leaves it
    /// out: the broker's is the identifier of the gateway's making.
    pub assigned_client_id: Option<&'a str>,
    /// Adds the method of an authentication that the gateway has accepted [MQTT-4.12.0-5]. The
    /// broker's own method and data are left out if this is given.
    pub authentication_method: Option<&'a str>,
    /// Adds the last data of that authentication.
    pub authentication_data: Option<&'a [u8]>,
    /// Sets the keep alive that the client must use, seconds.
    pub server_keep_alive: Option<u16>,
    /// Sets the session expiry that the client must reckon with, seconds.
    pub session_expiry: Option<u32>,
    /// Sets the largest packet that the client may send, octets, if the broker's is not smaller.
    pub maximum_packet_size_cap: Option<u32>,
    /// Sets how many unacknowledged QoS 1 and 2 messages the client may send, if the broker takes more.
    pub receive_maximum_cap: Option<NonZeroU16>,
}

/// Appends the CONNACK as it goes to the client: changed as `change` says, other properties as they
/// came, to the octet and in their order. What is added comes last.
pub fn rewrite_connack(connack: &ConnAck<'_>, change: &ConnAckChange<'_>, out: &mut Vec<u8>) {
    packet(kind::CONNACK << 4, out, |out| {
        out.extend_from_slice(&[u8::from(connack.session_present), connack.code]);
        if !connack.version.is_v5() {
            return;
        }
        PropertyWriter::write(out, |out| {
            let broker_maximum = connack.maximum_packet_size.map(std::num::NonZeroU32::get);
            let maximum = match (broker_maximum, change.maximum_packet_size_cap) {
                (Some(broker), Some(cap)) => Some(broker.min(cap)),
                (broker, cap) => broker.or(cap),
            };
            let receive_maximum =
                change.receive_maximum_cap.filter(|cap| *cap < connack.receive_maximum);
            for (property, octets) in connack.properties.with_octets() {
                let is_left_out = match property {
                    Property::ReceiveMaximum(_) => receive_maximum.is_some(),
                    Property::AssignedClientIdentifier(_) | Property::MaximumPacketSize(_) => true,
                    Property::AuthenticationMethod(_) | Property::AuthenticationData(_) => {
                        change.authentication_method.is_some()
                    }
                    Property::ServerKeepAlive(_) => change.server_keep_alive.is_some(),
                    Property::SessionExpiryInterval(_) => change.session_expiry.is_some(),
                    _ => false,
                };
                if !is_left_out {
                    out.extend_from_slice(octets);
                }
            }
            let mut added = PropertyWriter::new(out);
            added.u32(crate::property::id::MAXIMUM_PACKET_SIZE, maximum);
            added.u32(crate::property::id::SESSION_EXPIRY_INTERVAL, change.session_expiry);
            added.u16(crate::property::id::SERVER_KEEP_ALIVE, change.server_keep_alive);
            let messages = receive_maximum.map(NonZeroU16::get);
            added.u16(crate::property::id::RECEIVE_MAXIMUM, messages);
            let id = change.assigned_client_id;
            added.text(crate::property::id::ASSIGNED_CLIENT_IDENTIFIER, id);
            let method = change.authentication_method;
            added.text(crate::property::id::AUTHENTICATION_METHOD, method);
            let data = change.authentication_data.filter(|_| method.is_some());
            added.binary(crate::property::id::AUTHENTICATION_DATA, data);
        });
    });
}

/// Appends a PUBLISH with its topic name written out and its retain flag as given; packet
/// identifier, properties (a topic alias too) and payload stay as they came.
///
/// For a topic alias that this side knows and the other does not, because the PUBLISH that
/// introduced it was refused.
pub fn rewrite_publish(
    version: Version,
    publish: &Publish<'_>,
    topic: &str,
    retain: bool,
    out: &mut Vec<u8>,
) {
    let flags = u8::from(publish.dup) << 3 | (publish.qos as u8) << 1 | u8::from(retain);
    packet(kind::PUBLISH << 4 | flags, out, |out| {
        put_text(topic, out);
        if let Some(packet_id) = publish.packet_id {
            out.extend_from_slice(&packet_id.get().to_be_bytes());
        }
        put_properties(version, &publish.properties, out);
        out.extend_from_slice(publish.payload);
    });
}

/// Appends a SUBSCRIBE with only those topic filters for whose index `keep` is true, and returns how
/// many there are; if there are none, nothing is appended. Packet identifier, properties, and the
/// octets of each filter stay as they came.
pub fn rewrite_subscribe(
    subscribe: &Subscribe<'_>,
    mut keep: impl FnMut(usize) -> bool,
    out: &mut Vec<u8>,
) -> usize {
    let start = out.len();
    let mut kept = 0;
    packet(kind::SUBSCRIBE << 4 | 0b0010, out, |out| {
        out.extend_from_slice(&subscribe.packet_id.get().to_be_bytes());
        put_properties(subscribe.version, &subscribe.properties, out);
        for (_, filter) in subscribe.filters().enumerate().filter(|(index, _)| keep(*index)) {
            out.extend_from_slice(filter.octets);
            kept += 1;
        }
    });
    if kept == 0 {
        out.truncate(start);
    }
    kept
}

/// Appends an UNSUBSCRIBE with only those topic filters for whose index `keep` is true, and returns
/// how many there are; if there are none, nothing is appended.
pub fn rewrite_unsubscribe(
    unsubscribe: &Unsubscribe<'_>,
    mut keep: impl FnMut(usize) -> bool,
    out: &mut Vec<u8>,
) -> usize {
    let start = out.len();
    let mut kept = 0;
    packet(kind::UNSUBSCRIBE << 4 | 0b0010, out, |out| {
        out.extend_from_slice(&unsubscribe.packet_id.get().to_be_bytes());
        put_properties(unsubscribe.version, &unsubscribe.properties, out);
        for (_, filter) in unsubscribe.filters().enumerate().filter(|(index, _)| keep(*index)) {
            put_text(filter, out);
            kept += 1;
        }
    });
    if kept == 0 {
        out.truncate(start);
    }
    kept
}

/// Appends a SUBACK with `codes` in place of the broker's; packet identifier and properties stay.
pub fn rewrite_suback(suback: &SubAck<'_>, codes: impl IntoIterator<Item = u8>, out: &mut Vec<u8>) {
    packet(kind::SUBACK << 4, out, |out| {
        out.extend_from_slice(&suback.packet_id.get().to_be_bytes());
        put_properties(suback.version, &suback.properties, out);
        out.extend(codes);
    });
}

/// Appends an UNSUBACK with `codes` in place of the broker's (none before MQTT 5); packet identifier
/// and properties stay.
pub fn rewrite_unsuback(
    unsuback: &UnsubAck<'_>,
    codes: impl IntoIterator<Item = u8>,
    out: &mut Vec<u8>,
) {
    packet(kind::UNSUBACK << 4, out, |out| {
        out.extend_from_slice(&unsuback.packet_id.get().to_be_bytes());
        put_properties(unsuback.version, &unsuback.properties, out);
        if unsuback.version.is_v5() {
            out.extend(codes);
        }
    });
}

/// Appends a DISCONNECT of a client with its session expiry lowered to `cap` seconds, if it has one that is longer; the reason and
/// other properties stay as they came. MQTT 5 only; before, there is nothing to change.
pub fn rewrite_disconnect(disconnect: &Disconnect<'_>, cap: u32, out: &mut Vec<u8>) {
    packet(kind::DISCONNECT << 4, out, |out| {
        out.push(disconnect.reason);
        PropertyWriter::write(out, |out| {
            for (property, octets) in disconnect.properties.with_octets() {
                match property {
                    Property::SessionExpiryInterval(seconds) => {
                        out.push(property.id());
                        out.extend_from_slice(&seconds.min(cap).to_be_bytes());
                    }
                    _ => out.extend_from_slice(octets),
                }
            }
        });
    });
}

fn put_properties(version: Version, properties: &Properties<'_>, out: &mut Vec<u8>) {
    if version.is_v5() {
        put_variable_byte_integer(properties.octets().len(), out);
        out.extend_from_slice(properties.octets());
    }
}
