//! Packets of the gateway's own: refusals, acknowledgements in a peer's stead, pings, goodbyes.
//!
//! Each function appends one packet to `out`, in the shape of the version it goes to. UNSUBSCRIBE,
//! DISCONNECT and PINGREQ are left to `mqttbytes`. The rest is written here: acknowledgements because
//! they are frequent and must not allocate, CONNACK because `mqttbytes` cannot make its code from a
//! number, CONNECT because it takes passwords for text, AUTH because it has none.
//!
//! Whether the client wants reason strings at all (Request Problem Information), and whether the
//! packet with one still fits its Maximum Packet Size, is for the caller to see: pass `None`, or cut
//! off what was appended and ask again without. A reason that is not valid [`text`], or
//! too long for its length field, is left out.

use bytes::BytesMut;

use crate::frame::variable_byte_integer_octets;
use crate::property::id;
use crate::{Connect, ConnectChange, PacketId, Version, kind, reason, rewrite_connect, text};

/// Appends a CONNACK that refuses. `code` is in the numbers of the version, see
/// [`reason::v3_connack`]; `reason` is sent in MQTT 5 only.
pub fn connack_refused(version: Version, code: u8, reason: Option<&str>, out: &mut Vec<u8>) {
    packet(kind::CONNACK << 4, out, |out| {
        out.extend_from_slice(&[0, code]);
        if version.is_v5() {
            PropertyWriter::write(out, |out| PropertyWriter::new(out).reason(reason));
        }
    });
}

/// Appends a PUBACK. Code and reason are sent in MQTT 5 only, where they say anything.
pub fn puback(version: Version, id: PacketId, code: u8, reason: Option<&str>, out: &mut Vec<u8>) {
    ack(kind::PUBACK << 4, version, id, code, reason, out);
}

/// Appends a PUBREC. Code and reason are sent in MQTT 5 only, where they say anything.
pub fn pubrec(version: Version, id: PacketId, code: u8, reason: Option<&str>, out: &mut Vec<u8>) {
    ack(kind::PUBREC << 4, version, id, code, reason, out);
}

/// Appends a PUBREL. Code and reason are sent in MQTT 5 only, where they say anything.
pub fn pubrel(version: Version, id: PacketId, code: u8, reason: Option<&str>, out: &mut Vec<u8>) {
    ack(kind::PUBREL << 4 | 0b0010, version, id, code, reason, out);
}

/// Appends a PUBCOMP. Code and reason are sent in MQTT 5 only, where they say anything.
pub fn pubcomp(version: Version, id: PacketId, code: u8, reason: Option<&str>, out: &mut Vec<u8>) {
    ack(kind::PUBCOMP << 4, version, id, code, reason, out);
}

fn ack(
    first: u8,
    version: Version,
    packet_id: PacketId,
    code: u8,
    reason: Option<&str>,
    out: &mut Vec<u8>,
) {
    let [high, low] = packet_id.get().to_be_bytes();
    match reason {
        Some(_) if version.is_v5() => packet(first, out, |out| {
            out.extend_from_slice(&[high, low, code]);
            PropertyWriter::write(out, |out| PropertyWriter::new(out).reason(reason));
        }),
        None if version.is_v5() && code != reason::SUCCESS => {
            out.extend_from_slice(&[first, 3, high, low, code]);
        }
        _ => out.extend_from_slice(&[first, 2, high, low]),
    }
}

/// Appends a SUBACK with one code for each topic filter, in the order of the SUBSCRIBE.
///
/// In 3.1 and 3.1.1 every refusal becomes 0x80, the only one 3.1.1 has. 3.1 has none at all; 0x80 is
/// what brokers send there too, and better than to claim what was not granted.
pub fn suback(
    version: Version,
    packet_id: PacketId,
    codes: impl IntoIterator<Item = u8>,
    reason: Option<&str>,
    out: &mut Vec<u8>,
) {
    packet(kind::SUBACK << 4, out, |out| {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
        if version.is_v5() {
            PropertyWriter::write(out, |out| PropertyWriter::new(out).reason(reason));
            out.extend(codes);
        } else {
            out.extend(codes.into_iter().map(|code| code.min(reason::UNSPECIFIED_ERROR)));
        }
    });
}

/// Appends an UNSUBACK with one code for each topic filter; before MQTT 5 it has no codes.
pub fn unsuback(
    version: Version,
    packet_id: PacketId,
    codes: impl IntoIterator<Item = u8>,
    out: &mut Vec<u8>,
) {
    packet(kind::UNSUBACK << 4, out, |out| {
        out.extend_from_slice(&packet_id.get().to_be_bytes());
        if version.is_v5() {
            out.push(0);
            out.extend(codes);
        }
    });
}

/// Appends an UNSUBSCRIBE. Without filters there is no such packet, and nothing is appended.
pub fn unsubscribe<'f>(
    version: Version,
    packet_id: PacketId,
    filters: impl IntoIterator<Item = &'f str>,
    out: &mut Vec<u8>,
) {
    let filters: Vec<String> = filters.into_iter().map(str::to_owned).collect();
    if filters.is_empty() {
        return;
    }
    let pkid = packet_id.get();
    let mut buffer = BytesMut::new();
    let written = if version.is_v5() {
        mqttbytes::v5::Unsubscribe { pkid, filters, properties: None }.write(&mut buffer)
    } else {
        mqttbytes::v4::Unsubscribe { pkid, topics: filters }.write(&mut buffer)
    };
    append(written, &buffer, out);
}

/// Appends a DISCONNECT. Before MQTT 5 only a client says it, and `code` and `reason` are not sent.
pub fn disconnect(version: Version, code: u8, reason: Option<&str>, out: &mut Vec<u8>) {
    use mqttbytes::v5::{Disconnect, DisconnectProperties, DisconnectReasonCode};
    let mut buffer = BytesMut::new();
    let written = if version.is_v5() {
        let reason_code =
            DisconnectReasonCode::try_from(code).unwrap_or(DisconnectReasonCode::UnspecifiedError);
        // An empty set of properties would be written with a length that is not announced.
        let properties = sendable(reason).map(|reason| DisconnectProperties {
            reason_string: Some(reason.to_owned()),
            ..DisconnectProperties::new()
        });
        Disconnect { reason_code, properties }.write(&mut buffer)
    } else {
        mqttbytes::v4::Disconnect.write(&mut buffer)
    };
    append(written, &buffer, out);
}

/// Appends a PINGREQ.
pub fn pingreq(out: &mut Vec<u8>) {
    let mut buffer = BytesMut::new();
    let written = mqttbytes::v4::PingReq.write(&mut buffer);
    append(written, &buffer, out);
}

/// Appends a PINGRESP.
pub fn pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[kind::PINGRESP << 4, 0]);
}

/// Appends an AUTH, MQTT 5 only.
pub fn auth(code: u8, method: &str, data: Option<&[u8]>, out: &mut Vec<u8>) {
    packet(kind::AUTH << 4, out, |out| {
        out.push(code);
        PropertyWriter::write(out, |out| {
            let mut properties = PropertyWriter::new(out);
            properties.text(id::AUTHENTICATION_METHOD, Some(method));
            properties.binary(id::AUTHENTICATION_DATA, data);
        });
    });
}

/// Appends a CONNECT of the gateway's own, clean and without a will: to ask a broker for its health.
pub fn connect(
    version: Version,
    client_id: &str,
    keep_alive: u16,
    user_name: Option<&str>,
    password: Option<&[u8]>,
    out: &mut Vec<u8>,
) {
    let connect = Connect { keep_alive, ..Connect::bare(version) };
    let change = ConnectChange { user_name, password, ..ConnectChange::new(client_id) };
    rewrite_connect(&connect, &change, out);
}

/// `mqttbytes` fails only on packets above 256 MiB, and then has written a part of them.
fn append(written: Result<usize, mqttbytes::Error>, buffer: &[u8], out: &mut Vec<u8>) {
    debug_assert!(written.is_ok());
    if written.is_ok() {
        out.extend_from_slice(buffer);
    }
}

/// Appends a packet whose body `write` appends; its length is put before it afterwards.
pub(crate) fn packet(first: u8, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(first);
    with_length(out, write);
}

/// Appends what `write` appends, with its length before it.
fn with_length(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    // Most bodies are short, so that one octet will do; for the others there is a shift.
    let length_at = out.len();
    out.push(0);
    write(out);
    let (length, taken) = variable_byte_integer_octets(out.len() - length_at - 1);
    if taken > 1 {
        let end = out.len();
        out.resize(end + taken - 1, 0);
        out.copy_within(length_at + 1..end, length_at + taken);
    }
    out[length_at..length_at + taken].copy_from_slice(&length[..taken]);
}

pub(crate) fn put_binary(octets: &[u8], out: &mut Vec<u8>) {
    let length = u16::try_from(octets.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&octets[..usize::from(length)]);
}

pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    let end = text.floor_char_boundary(usize::from(u16::MAX));
    put_binary(&text.as_bytes()[..end], out);
}

/// A reason that may be sent as it is.
fn sendable(reason: Option<&str>) -> Option<&str> {
    let fits = |reason: &&str| reason.len() <= usize::from(u16::MAX);
    reason.filter(fits).filter(|reason| text::check(reason.as_bytes()).is_ok())
}

/// Appends properties, each only if there is a value.
pub(crate) struct PropertyWriter<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> PropertyWriter<'o> {
    pub(crate) const fn new(out: &'o mut Vec<u8>) -> Self {
        Self { out }
    }

    /// Appends the property length and what `write` appends.
    pub(crate) fn write(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        with_length(out, write);
    }

    pub(crate) fn u16(&mut self, id: u8, value: Option<u16>) {
        if let Some(value) = value {
            self.out.push(id);
            self.out.extend_from_slice(&value.to_be_bytes());
        }
    }

    pub(crate) fn u32(&mut self, id: u8, value: Option<u32>) {
        if let Some(value) = value {
            self.out.push(id);
            self.out.extend_from_slice(&value.to_be_bytes());
        }
    }

    pub(crate) fn text(&mut self, id: u8, value: Option<&str>) {
        if let Some(value) = value {
            self.out.push(id);
            put_text(value, self.out);
        }
    }

    pub(crate) fn binary(&mut self, id: u8, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.out.push(id);
            put_binary(value, self.out);
        }
    }

    fn reason(&mut self, reason: Option<&str>) {
        self.text(id::REASON_STRING, sendable(reason));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Ack, FromBroker, FromClient, frame, read_connect, read_from_broker, read_from_client,
    };

    const ALL: [Version; 3] = [Version::V31, Version::V311, Version::V5];

    fn id(id: u16) -> PacketId {
        PacketId::new(id).unwrap()
    }

    fn made(make: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = b"before".to_vec();
        make(&mut out);
        out.split_off(6)
    }

    fn from_broker(version: Version, octets: &[u8]) -> FromBroker<'_> {
        let whole = frame(octets, octets.len()).unwrap().unwrap();
        assert_eq!(whole.octets(), octets);
        read_from_broker(version, whole).unwrap()
    }

    fn from_client(version: Version, octets: &[u8]) -> FromClient<'_> {
        let whole = frame(octets, octets.len()).unwrap().unwrap();
        assert_eq!(whole.octets(), octets);
        read_from_client(version, whole).unwrap()
    }

    #[test]
    fn a_refusal_is_in_the_shape_of_the_version() {
        for version in [Version::V31, Version::V311] {
            let octets = made(|out| connack_refused(version, 5, Some("why"), out));
            assert_eq!(octets, [0x20, 2, 0, 5]);
        }
        assert_eq!(
            made(|out| connack_refused(Version::V5, 0x87, None, out)),
            [0x20, 3, 0, 0x87, 0]
        );
        let octets = made(|out| connack_refused(Version::V5, 0x87, Some("why"), out));
        let FromBroker::ConnAck(connack) = from_broker(Version::V5, &octets) else { panic!() };
        assert_eq!((connack.code, connack.session_present), (0x87, false));
        assert_eq!(connack.properties.reason_string(), Some("why"));
    }

    #[test]
    fn codes_of_mqtt_5_have_their_nearest_of_3_1_1() {
        let pairs = [(0x84, 1), (0x85, 2), (0x88, 3), (0x86, 4), (0x87, 5), (0x8A, 5), (0x9F, 3)];
        for (v5, v3) in pairs {
            assert_eq!(reason::v3_connack(v5), v3);
            assert!(reason::is_connack(v5));
        }
    }

    #[test]
    fn acknowledgements_are_as_short_as_they_can_be() {
        type Make = fn(Version, PacketId, u8, Option<&str>, &mut Vec<u8>);
        let makers: [(u8, Make); 4] =
            [(0x40, puback), (0x50, pubrec), (0x62, pubrel), (0x70, pubcomp)];
        for (first, make) in makers {
            for version in ALL {
                let octets = made(|out| make(version, id(0x1234), 0, None, out));
                assert_eq!(octets, [first, 2, 0x12, 0x34]);
            }
            let octets = made(|out| make(Version::V311, id(1), 0x92, Some("why"), out));
            assert_eq!(octets, [first, 2, 0, 1]);
            let octets = made(|out| make(Version::V5, id(1), 0x92, None, out));
            assert_eq!(octets, [first, 3, 0, 1, 0x92]);
        }
        let octets = made(|out| puback(Version::V5, id(1), 0x87, Some("why"), out));
        let FromBroker::PubAck(Ack { reason, properties, .. }) = from_broker(Version::V5, &octets)
        else {
            panic!()
        };
        assert_eq!((reason, properties.reason_string()), (0x87, Some("why")));
    }

    #[test]
    fn suback_has_one_refusal_before_mqtt_5() {
        for version in [Version::V31, Version::V311] {
            let octets = made(|out| suback(version, id(77), [1, 0x87, 2], Some("why"), out));
            assert_eq!(octets, [0x90, 5, 0, 77, 1, 0x80, 2]);
        }
        let octets = made(|out| suback(Version::V5, id(77), [1, 0x87, 2], None, out));
        assert_eq!(octets, [0x90, 6, 0, 77, 0, 1, 0x87, 2]);
        let octets = made(|out| suback(Version::V5, id(77), vec![0x87; 20_000], Some("why"), out));
        let FromBroker::SubAck(suback) = from_broker(Version::V5, &octets) else { panic!() };
        assert_eq!(suback.codes.len(), 20_000);
        assert_eq!(suback.properties.reason_string(), Some("why"));
    }

    #[test]
    fn unsubscribe_and_its_acknowledgement_are_read_back() {
        for version in ALL {
            let octets = made(|out| unsubscribe(version, id(9), ["a/+", "$share/g/b"], out));
            let FromClient::Unsubscribe(read) = from_client(version, &octets) else { panic!() };
            assert_eq!(read.packet_id, id(9));
            assert_eq!(read.filters().collect::<Vec<_>>(), ["a/+", "$share/g/b"]);
            assert!(made(|out| unsubscribe(version, id(9), [], out)).is_empty());
            let octets = made(|out| unsuback(version, id(9), [0, 0x11], out));
            let FromBroker::UnsubAck(read) = from_broker(version, &octets) else { panic!() };
            let codes: &[u8] = if version.is_v5() { &[0, 0x11] } else { &[] };
            assert_eq!((read.packet_id, read.codes), (id(9), codes));
        }
    }

    #[test]
    fn goodbyes_and_pings_are_read_back() {
        for version in ALL {
            assert_eq!(made(|out| disconnect(version, 0, None, out)), [0xE0, 0]);
        }
        let octets = made(|out| disconnect(Version::V311, 0x98, Some("why"), out));
        assert_eq!(octets, [0xE0, 0]);
        for code in 0..=u8::MAX {
            if !reason::is_disconnect(code, crate::Peer::Broker) {
                continue;
            }
            for reason in [None, Some("why")] {
                let octets = made(|out| disconnect(Version::V5, code, reason, out));
                let read = from_broker(Version::V5, &octets);
                let FromBroker::Disconnect(read) = read else { panic!() };
                assert_eq!((read.reason, read.properties.reason_string()), (code, reason));
            }
        }
        assert_eq!(from_client(Version::V5, &made(pingreq)), FromClient::PingReq);
        assert_eq!(from_broker(Version::V5, &made(pingresp)), FromBroker::PingResp);
    }

    #[test]
    fn auth_is_read_back() {
        for data in [None, Some(&[0, 255][..])] {
            let octets = made(|out| auth(0x18, "METHOD", data, out));
            let FromBroker::Auth(read) = from_broker(Version::V5, &octets) else { panic!() };
            assert_eq!((read.reason, read.method, read.data), (0x18, Some("METHOD"), data));
        }
    }

    #[test]
    fn connect_is_read_back() {
        for version in ALL {
            let octets = made(|out| connect(version, "id", 9, Some("me"), Some(&[0, 255]), out));
            let read = read_connect(frame(&octets, 100).unwrap().unwrap()).unwrap();
            assert_eq!((read.version, read.client_id, read.keep_alive), (version, "id", 9));
            assert_eq!((read.user_name, read.password), (Some("me"), Some(&[0, 255][..])));
            assert!(read.clean_start && read.will.is_none());
        }
        // A password alone can be sent in MQTT 5 only [MQTT-3.1.2-22 of 3.1.1].
        for version in ALL {
            let octets = made(|out| connect(version, "id", 9, None, Some(b"pw"), out));
            let read = read_connect(frame(&octets, 100).unwrap().unwrap()).unwrap();
            assert_eq!(read.password.is_some(), version.is_v5());
        }
    }

    #[test]
    fn a_reason_that_cannot_be_sent_is_left_out() {
        let bare = made(|out| connack_refused(Version::V5, 0x87, None, out));
        for reason in ["line\nbreak", "nul\0", &"x".repeat(65_536)] {
            assert_eq!(made(|out| connack_refused(Version::V5, 0x87, Some(reason), out)), bare);
            let bare = made(|out| disconnect(Version::V5, 0x87, None, out));
            assert_eq!(made(|out| disconnect(Version::V5, 0x87, Some(reason), out)), bare);
        }
        let longest = "x".repeat(65_535);
        let octets = made(|out| connack_refused(Version::V5, 0x87, Some(&longest), out));
        let FromBroker::ConnAck(read) = from_broker(Version::V5, &octets) else { panic!() };
        assert_eq!(read.properties.reason_string(), Some(longest.as_str()));
    }
}
