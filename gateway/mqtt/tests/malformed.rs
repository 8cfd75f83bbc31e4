//! Everything that is refused, each case beside its nearest neighbour that is not.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use Malformed::*;
use common::*;
use flytrap_mqtt::*;

fn whole(octets: &[u8]) -> Frame<'_> {
    frame(octets, octets.len()).unwrap().unwrap()
}

/// What a client may not send: versions, octets in hexadecimal, and what is wrong.
fn refused_from_client(cases: &[(&[Version], &str, Malformed)]) {
    assert!(!cases.is_empty());
    for (versions, octets, fault) in cases {
        let octets = hex::decode(octets.replace(' ', "")).unwrap();
        for version in *versions {
            let read = read_from_client(*version, whole(&octets));
            assert_eq!(read, Err(*fault), "{version:?} {octets:02x?}");
        }
    }
}

fn refused_from_broker(cases: &[(&[Version], &str, Malformed)]) {
    assert!(!cases.is_empty());
    for (versions, octets, fault) in cases {
        let octets = hex::decode(octets.replace(' ', "")).unwrap();
        for version in *versions {
            let read = read_from_broker(*version, whole(&octets));
            assert_eq!(read, Err(*fault), "{version:?} {octets:02x?}");
        }
    }
}

fn accepted_from_client(cases: &[(&[Version], &str)]) {
    for (versions, octets) in cases {
        let octets = hex::decode(octets.replace(' ', "")).unwrap();
        for version in *versions {
            let read = read_from_client(*version, whole(&octets));
            assert!(read.is_ok(), "{version:?} {octets:02x?}: {read:?}");
        }
    }
}

fn accepted_from_broker(cases: &[(&[Version], &str)]) {
    for (versions, octets) in cases {
        let octets = hex::decode(octets.replace(' ', "")).unwrap();
        for version in *versions {
            let read = read_from_broker(*version, whole(&octets));
            assert!(read.is_ok(), "{version:?} {octets:02x?}: {read:?}");
        }
    }
}

const ALL: &[Version] = &[Version::V31, Version::V311, Version::V5];
const V3: &[Version] = &[Version::V31, Version::V311];
const V31: &[Version] = &[Version::V31];
const V311: &[Version] = &[Version::V311];
const V5: &[Version] = &[Version::V5];

#[test]
fn publish_flags_identifiers_and_topics() {
    accepted_from_client(&[
        (V3, "30 03 0001 61"),
        (V3, "3b 05 0001 61 0001"),
        (V3, "3d 05 0001 61 ffff"),
        (V5, "30 04 0001 61 00"),
        (V5, "30 06 0000 03 23 0001"),
    ]);
    refused_from_client(&[
        (V3, "36 05 0001 61 0001", QoS),
        (V3, "3e 05 0001 61 0001", QoS),
        (V3, "38 03 0001 61", DupQoS0),
        (V3, "39 03 0001 61", DupQoS0),
        (V3, "32 05 0001 61 0000", PacketId),
        (V3, "34 05 0001 61 0000", PacketId),
        (V3, "32 04 0001 61 00", Truncated),
        (V3, "30 02 0001", Truncated),
        (ALL, "30 01 00", Truncated),
        (ALL, "30 00", Truncated),
        (V3, "30 02 0000", NoTopic),
        (V5, "30 03 0000 00", NoTopic),
        (V5, "30 03 0001 61", Truncated),
        (V3, "30 03 0001 2b", TopicName),
        (V3, "30 05 0003 612f23", TopicName),
        (V3, "30 04 0002 6100", Character),
        (V3, "30 04 0002 6107", Character),
        (V3, "30 05 0003 61c285", Character),
        (V3, "30 05 0003 efbfbf", Character),
        (V3, "30 05 0003 eda080", Utf8),
        (V3, "30 04 0002 c0af", Utf8),
    ]);
}

#[test]
fn publish_properties() {
    accepted_from_client(&[
        (V5, "30 06 0001 61 02 0100"),
        (V5, "30 06 0001 61 02 0101"),
        (V5, "30 09 0001 61 05 02 00000000"),
        (V5, "30 08 0001 61 04 08 0001 62"),
        (V5, "30 07 0001 61 03 09 0000"),
        (V5, "30 0e 0001 61 0a 26 0000 0000 26 0000 0000"),
    ]);
    refused_from_client(&[
        (V5, "30 06 0001 61 02 0102", PropertyValue { id: 0x01 }),
        (V5, "30 08 0001 61 04 0100 0100", RepeatedProperty { id: 0x01 }),
        (V5, "30 05 0001 61 01 01", Truncated),
        (V5, "30 08 0001 61 04 02 000000", Truncated),
        // A value may not run past the properties into the payload.
        (V5, "30 09 0001 61 04 02 000000 00", Truncated),
        (V5, "30 0a 0001 61 03 03 0002 7878 78", Truncated),
        (V5, "30 05 0001 61 02 01", Truncated),
        (V5, "30 07 0001 61 03 23 0000", PropertyValue { id: 0x23 }),
        (V5, "30 07 0001 61 03 08 0000", PropertyValue { id: 0x08 }),
        (V5, "30 08 0001 61 04 08 0001 23", PropertyValue { id: 0x08 }),
        (V5, "30 08 0001 61 04 08 0001 00", Character),
        (V5, "30 06 0001 61 02 0b01", MisplacedProperty { id: 0x0B }),
        (V5, "30 06 0001 61 02 0b00", PropertyValue { id: 0x0B }),
        (V5, "30 07 0001 61 03 0b8000", Length),
        (V5, "30 09 0001 61 05 11 00000001", MisplacedProperty { id: 0x11 }),
        (V5, "30 08 0001 61 04 1f 0001 61", MisplacedProperty { id: 0x1F }),
        (V5, "30 06 0001 61 02 0400", UnknownProperty { id: 0x04 }),
        (V5, "30 06 0001 61 02 2b00", UnknownProperty { id: 0x2B }),
        (V5, "30 07 0001 61 03 810000", UnknownProperty { id: 0x81 }),
        (V5, "30 05 0001 61 8000", Length),
        (V5, "30 0b 0001 61 07 26 0000 0002 c080", Utf8),
        (V5, "30 0a 0001 61 06 26 0000 0001 00", Character),
    ]);
}

#[test]
fn publish_from_the_broker() {
    accepted_from_broker(&[(V5, "30 08 0001 61 04 0b01 0b01"), (V3, "30 03 0001 61")]);
    refused_from_broker(&[
        (V5, "30 06 0001 61 02 0b00", PropertyValue { id: 0x0B }),
        (V5, "30 0a 0001 61 06 0b 8080808001", Length),
        (V3, "36 05 0001 61 0001", QoS),
        (V3, "38 03 0001 61", DupQoS0),
    ]);
}

#[test]
fn acknowledgements() {
    accepted_from_client(&[
        (ALL, "40 02 0001"),
        (ALL, "62 02 0001"),
        (V31, "6a 02 0001"),
        (V5, "40 03 0001 00"),
        (V5, "50 04 0001 99 00"),
        (V5, "62 03 0001 92"),
        (V5, "70 08 0001 92 04 1f 0001 61"),
    ]);
    refused_from_client(&[
        (ALL, "40 02 0000", PacketId),
        (ALL, "40 01 00", Truncated),
        (ALL, "40 00", Truncated),
        (V3, "40 03 0001 00", Trailing),
        (ALL, "41 02 0001", HeaderFlags { kind: 4, flags: 1 }),
        (ALL, "52 02 0001", HeaderFlags { kind: 5, flags: 2 }),
        (ALL, "60 02 0001", HeaderFlags { kind: 6, flags: 0 }),
        (ALL, "63 02 0001", HeaderFlags { kind: 6, flags: 3 }),
        (V311, "6a 02 0001", HeaderFlags { kind: 6, flags: 0b1010 }),
        (V5, "6a 02 0001", HeaderFlags { kind: 6, flags: 0b1010 }),
        (ALL, "78 02 0001", HeaderFlags { kind: 7, flags: 8 }),
        (V5, "40 03 0001 01", ReasonCode { code: 0x01 }),
        (V5, "40 03 0001 92", ReasonCode { code: 0x92 }),
        // Only the broker knows whether anybody has subscribed.
        (V5, "40 03 0001 10", ReasonCode { code: 0x10 }),
        (V5, "50 03 0001 10", ReasonCode { code: 0x10 }),
        (V5, "62 03 0001 80", ReasonCode { code: 0x80 }),
        (V5, "70 03 0001 87", ReasonCode { code: 0x87 }),
        (V5, "40 05 0001 00 00 00", Trailing),
        (V5, "40 04 0001 00 01", Truncated),
        (V5, "40 06 0001 00 02 0100", MisplacedProperty { id: 0x01 }),
        (V5, "40 0a 0001 00 06 1f0000 1f0000", RepeatedProperty { id: 0x1F }),
    ]);
    accepted_from_broker(&[(V5, "40 03 0001 10"), (V5, "50 03 0001 10")]);
}

#[test]
fn subscribe() {
    accepted_from_client(&[
        (V3, "82 06 0001 0001 61 02"),
        (V31, "8a 06 0001 0001 61 02"),
        (V5, "82 07 0001 00 0001 61 2e"),
        (V5, "82 09 0001 02 0b01 0001 61 00"),
        (V5, "82 10 0001 00 000a 2473686172652f672f61 02"),
        (V3, "82 0f 0001 000a 2473686172652f672f61 02"),
    ]);
    refused_from_client(&[
        (ALL, "80 06 0001 0001 61 00", HeaderFlags { kind: 8, flags: 0 }),
        (ALL, "83 06 0001 0001 61 00", HeaderFlags { kind: 8, flags: 3 }),
        (V311, "8a 06 0001 0001 61 00", HeaderFlags { kind: 8, flags: 0b1010 }),
        (V3, "82 06 0000 0001 61 00", PacketId),
        (V3, "82 02 0001", Empty),
        (V5, "82 03 0001 00", Empty),
        (V5, "82 02 0001", Truncated),
        (V3, "82 05 0001 0001 61", Truncated),
        (V3, "82 07 0001 0001 61 00 00", Truncated),
        (V3, "82 05 0001 0000 00", TopicFilter),
        (V3, "82 07 0001 0002 612b 00", TopicFilter),
        (V3, "82 08 0001 0003 232f61 00", TopicFilter),
        // The last of several counts as much as the first.
        (V3, "82 0b 0001 0001 61 00 0002 2323 00", TopicFilter),
        (V3, "82 06 0001 0001 01 00", Character),
        (V3, "82 06 0001 0001 ff 00", Utf8),
        (V5, "82 07 0001 00 0001 61 03", QoS),
        (V3, "82 06 0001 0001 61 03", QoS),
        (V3, "82 06 0001 0001 61 04", SubscriptionOptions { options: 0x04 }),
        (V3, "82 06 0001 0001 61 80", SubscriptionOptions { options: 0x80 }),
        (V5, "82 07 0001 00 0001 61 40", SubscriptionOptions { options: 0x40 }),
        (V5, "82 07 0001 00 0001 61 80", SubscriptionOptions { options: 0x80 }),
        (V5, "82 07 0001 00 0001 61 30", SubscriptionOptions { options: 0x30 }),
        (V5, "82 10 0001 00 000a 2473686172652f672f61 04", NoLocalShared),
        (V3, "82 0d 0001 0008 2473686172652f67 00", TopicFilter),
        (V3, "82 0e 0001 0009 2473686172652f2f61 00", TopicFilter),
        (V5, "82 09 0001 02 0b00 0001 61 00", PropertyValue { id: 0x0B }),
        (V5, "82 0b 0001 04 0b010b01 0001 61 00", RepeatedProperty { id: 0x0B }),
        (V5, "82 0a 0001 03 1f0000 0001 61 00", MisplacedProperty { id: 0x1F }),
    ]);
}

#[test]
fn unsubscribe() {
    accepted_from_client(&[
        (V3, "a2 05 0001 0001 61"),
        (V31, "aa 05 0001 0001 61"),
        (V5, "a2 06 0001 00 0001 61"),
    ]);
    refused_from_client(&[
        (ALL, "a0 05 0001 0001 61", HeaderFlags { kind: 10, flags: 0 }),
        (V3, "a2 05 0000 0001 61", PacketId),
        (V3, "a2 02 0001", Empty),
        (V5, "a2 03 0001 00", Empty),
        (V3, "a2 04 0001 0000", TopicFilter),
        (V3, "a2 06 0001 0001 61 00", Truncated),
        (V3, "a2 06 0001 0002 2b61", TopicFilter),
        (V5, "a2 08 0001 02 0b01 0001 61", MisplacedProperty { id: 0x0B }),
    ]);
}

#[test]
fn pings_and_goodbyes() {
    accepted_from_client(&[
        (ALL, "c0 00"),
        (ALL, "e0 00"),
        (V5, "e0 01 04"),
        (V5, "e0 02 99 00"),
        (V5, "e0 07 00 05 11 00000001"),
        (V5, "f0 06 18 04 15 0001 61"),
        (V5, "f0 09 19 07 15 0001 61 16 0000"),
    ]);
    refused_from_client(&[
        (ALL, "c1 00", HeaderFlags { kind: 12, flags: 1 }),
        (ALL, "c0 01 00", Trailing),
        (ALL, "e1 00", HeaderFlags { kind: 14, flags: 1 }),
        (V3, "e0 01 00", Trailing),
        (V5, "e0 01 01", ReasonCode { code: 0x01 }),
        // The broker's codes, not the client's.
        (V5, "e0 01 87", ReasonCode { code: 0x87 }),
        (V5, "e0 01 8e", ReasonCode { code: 0x8E }),
        (V5, "e0 03 00 00 00", Trailing),
        (V5, "e0 05 00 03 1c 0000", MisplacedProperty { id: 0x1C }),
        (V3, "f0 00", PacketType { kind: 15 }),
        (V5, "f1 00", HeaderFlags { kind: 15, flags: 1 }),
        (V5, "f0 00", ReasonCode { code: 0 }),
        (V5, "f0 02 18 00", NoAuthenticationMethod),
        (V5, "f0 01 18", NoAuthenticationMethod),
        (V5, "f0 05 18 03 16 0000", NoAuthenticationMethod),
        (V5, "f0 0a 18 08 15 0001 61 15 0001 61", RepeatedProperty { id: 0x15 }),
        (V5, "f0 01 80", ReasonCode { code: 0x80 }),
    ]);
    accepted_from_broker(&[
        (ALL, "d0 00"),
        (V5, "e0 01 8e"),
        (V5, "e0 01 98"),
        (V5, "e0 05 9d 03 1c 0000"),
        (V5, "f0 00"),
        (V5, "f0 06 18 04 15 0001 61"),
    ]);
    refused_from_broker(&[
        (ALL, "d0 01 00", Trailing),
        (V3, "e0 00", WrongDirection { kind: 14 }),
        (V5, "e0 00", ReasonCode { code: 0 }),
        (V5, "e0 01 04", ReasonCode { code: 4 }),
        (V5, "e0 01 8a", ReasonCode { code: 0x8A }),
        (V5, "e0 07 80 05 11 00000001", MisplacedProperty { id: 0x11 }),
        (V5, "f0 06 19 04 15 0001 61", ReasonCode { code: 0x19 }),
        (V5, "f0 05 00 03 16 0000", NoAuthenticationMethod),
    ]);
}

#[test]
fn packets_of_the_other_side() {
    for version in ALL {
        for (octets, kind) in [
            (&[0x20, 2, 0, 0][..], 2),
            (&[0x90, 3, 0, 1, 0], 9),
            (&[0xB0, 2, 0, 1], 11),
            (&[0xD0, 0], 13),
        ] {
            let read = read_from_client(*version, whole(octets));
            assert_eq!(read, Err(WrongDirection { kind }));
        }
        for (octets, kind) in [
            (&[0x10, 0][..], 1),
            (&[0x82, 6, 0, 1, 0, 1, 0x61, 0], 8),
            (&[0xA2, 5, 0, 1, 0, 1, 0x61], 10),
            (&[0xC0, 0], 12),
        ] {
            let read = read_from_broker(*version, whole(octets));
            assert_eq!(read, Err(WrongDirection { kind }));
        }
        assert_eq!(read_from_client(*version, whole(&[0x10, 0])), Err(SecondConnect));
    }
}

#[test]
fn connack_suback_and_unsuback() {
    accepted_from_broker(&[
        (V3, "20 02 0000"),
        (V3, "20 02 0100"),
        (V3, "20 02 0005"),
        (V5, "20 03 0100 00"),
        (V5, "20 03 009f 00"),
        (V5, "20 05 0000 02 2400"),
        (V3, "90 03 0001 80"),
        (V5, "90 05 0001 00 02a2"),
        (V3, "b0 02 0001"),
        (V5, "b0 04 0001 00 11"),
    ]);
    refused_from_broker(&[
        (V3, "20 02 0105", ConnectFlags { flags: 1 }),
        (V5, "20 03 0187 00", ConnectFlags { flags: 1 }),
        (V3, "20 02 0200", ConnectFlags { flags: 2 }),
        (V3, "20 02 0006", ReasonCode { code: 6 }),
        (V3, "20 02 0080", ReasonCode { code: 0x80 }),
        (V5, "20 03 0001 00", ReasonCode { code: 1 }),
        (V5, "20 03 008b 00", ReasonCode { code: 0x8B }),
        (V3, "20 03 0000 00", Trailing),
        (V5, "20 02 0000", Truncated),
        (V5, "20 05 0000 02 2402", PropertyValue { id: 0x24 }),
        (V5, "20 06 0000 03 210000", PropertyValue { id: 0x21 }),
        (V5, "20 08 0000 05 2700000000", PropertyValue { id: 0x27 }),
        (V5, "20 06 0000 03 160000", NoAuthenticationMethod),
        (V5, "20 05 0000 02 1700", MisplacedProperty { id: 0x17 }),
        (V3, "90 02 0001", Empty),
        (V5, "90 03 0001 00", Empty),
        (V3, "90 03 0000 00", PacketId),
        (V3, "90 03 0001 03", ReasonCode { code: 3 }),
        (V3, "90 03 0001 87", ReasonCode { code: 0x87 }),
        (V5, "90 04 0001 00 03", ReasonCode { code: 3 }),
        (V5, "90 04 0001 00 11", ReasonCode { code: 0x11 }),
        (V3, "b0 03 0001 00", Trailing),
        (V5, "b0 03 0001 00", Empty),
        (V5, "b0 04 0001 00 01", ReasonCode { code: 1 }),
        (ALL, "21 02 0000", HeaderFlags { kind: 2, flags: 1 }),
    ]);
}

/// Reads a CONNECT given as its protocol name, level and flags, and the rest in hexadecimal.
fn connect_error(first: u8, name: &str, level: u8, flags: u8, rest: &str) -> Option<ConnectError> {
    let rest = hex::decode(rest.replace(' ', "")).unwrap();
    let octets = packet(first, &[field(name), vec![level, flags], rest].concat());
    read_connect(whole(&octets)).err()
}

#[test]
fn connect_versions() {
    for (name, level, version) in
        [("MQIsdp", 3, Version::V31), ("MQTT", 4, Version::V311), ("MQTT", 5, Version::V5)]
    {
        let rest = if version == Version::V5 { "003c 00 0001 61" } else { "003c 0001 61" };
        assert_eq!(connect_error(0x10, name, level, 2, rest), None);
    }
    for (name, level, offer, answer) in [
        ("MQIsdp", 2, Offer::V3, (Version::V311, 0x01)),
        ("MQIsdp", 4, Offer::V3, (Version::V311, 0x01)),
        ("MQIsdp", 5, Offer::V3, (Version::V311, 0x01)),
        ("MQTT", 0, Offer::V3, (Version::V311, 0x01)),
        ("MQTT", 3, Offer::V3, (Version::V311, 0x01)),
        ("MQTT", 0x83, Offer::V3, (Version::V311, 0x01)),
        ("MQTT", 0x84, Offer::V3, (Version::V311, 0x01)),
        ("MQTT", 6, Offer::V5OrLater, (Version::V5, 0x84)),
        ("MQTT", 0xFF, Offer::V5OrLater, (Version::V5, 0x84)),
    ] {
        let error = connect_error(0x10, name, level, 2, "003c 0001 61").unwrap();
        assert_eq!(error, ConnectError::UnsupportedVersion { level, offer });
        assert_eq!(error.connack(), Some(answer));
    }
    for name in ["", "MQT", "MQTU", "mqtt", "MQTTT", "MQIsdq"] {
        let error = connect_error(0x10, name, 4, 2, "003c 0001 61").unwrap();
        assert_eq!(error, ConnectError::Malformed { version: None, fault: ProtocolName });
        assert_eq!(error.connack(), None);
    }
    let other = [0xC0, 0];
    let error = read_connect(whole(&other)).unwrap_err();
    assert_eq!((error, error.connack()), (ConnectError::NotConnect { kind: 12 }, None));
}

#[test]
fn connect_flags() {
    let v311 = |flags, rest| connect_error(0x10, "MQTT", 4, flags, rest).map(fault);
    let v5 = |flags, rest| connect_error(0x10, "MQTT", 5, flags, rest).map(fault);
    assert_eq!(v311(0x03, "003c 0001 61"), Some(ConnectFlags { flags: 0x03 }));
    assert_eq!(v311(0x0A, "003c 0001 61"), Some(ConnectFlags { flags: 0x0A }));
    assert_eq!(v311(0x22, "003c 0001 61"), Some(ConnectFlags { flags: 0x22 }));
    assert_eq!(v311(0x1E, "003c 0001 61 0001 74 0000"), Some(QoS));
    assert_eq!(v311(0x36, "003c 0001 61 0001 74 0000"), None);
    // A password alone: from MQTT 5 on.
    assert_eq!(v311(0x42, "003c 0001 61 0001 70"), Some(ConnectFlags { flags: 0x42 }));
    assert_eq!(v5(0x42, "003c 00 0001 61 0001 70"), None);
    // Fields that the flags do not announce, and flags without fields.
    assert_eq!(v311(0x02, "003c 0001 61 0001 75"), Some(Trailing));
    assert_eq!(v311(0x82, "003c 0001 61"), Some(Truncated));
    assert_eq!(v311(0xC2, "003c 0001 61 0001 75"), Some(Truncated));
    assert_eq!(v311(0x06, "003c 0001 61 0001 74"), Some(Truncated));
    assert_eq!(v311(0x82, "003c 0001 61 0001 75 00"), Some(Trailing));
    let error = connect_error(0x12, "MQTT", 4, 2, "003c 0001 61").map(fault);
    assert_eq!(error, Some(HeaderFlags { kind: 1, flags: 2 }));
}

fn fault(error: ConnectError) -> Malformed {
    match error {
        ConnectError::Malformed { fault, version: Some(_) } => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn connect_fields_and_properties() {
    for (flags, rest, wanted) in [
        (0x02, "003c 00 0001 00", Character),
        (0x02, "003c 00 0001 7f", Character),
        (0x02, "003c 00 0002 c3", Truncated),
        (0x02, "003c 00 0001 c3", Utf8),
        (0x82, "003c 00 0000 0001 1f", Character),
        (0x06, "003c 00 0000 00 0000 0000", TopicName),
        (0x06, "003c 00 0000 00 0001 2b 0000", TopicName),
        (0x06, "003c 00 0000 00 0001 00 0000", Character),
        (0x06, "003c 00 0000 02 0102 0001 74 0000", PropertyValue { id: 0x01 }),
        (0x06, "003c 00 0000 05 1100000000 0001 74 0000", MisplacedProperty { id: 0x11 }),
        (0x06, "003c 00 0000 04 0800012b 0001 74 0000", PropertyValue { id: 0x08 }),
        (0x06, "003c 00 0000 06 090000090000 0001 74 0000", RepeatedProperty { id: 0x09 }),
        (0x02, "003c 05 1800000000 0000", MisplacedProperty { id: 0x18 }),
        (0x02, "003c 03 210000 0000", PropertyValue { id: 0x21 }),
        (0x02, "003c 05 2700000000 0000", PropertyValue { id: 0x27 }),
        (0x02, "003c 02 1702 0000", PropertyValue { id: 0x17 }),
        (0x02, "003c 02 1902 0000", PropertyValue { id: 0x19 }),
        (0x02, "003c 03 160000 0000", NoAuthenticationMethod),
        (0x02, "003c 06 220001220001 0000", RepeatedProperty { id: 0x22 }),
        (0x02, "003c 03 230001 0000", MisplacedProperty { id: 0x23 }),
        (0x02, "003c", Truncated),
        (0x02, "00", Truncated),
    ] {
        let error = connect_error(0x10, "MQTT", 5, flags, rest).unwrap();
        let version = Some(Version::V5);
        assert_eq!(error, ConnectError::Malformed { version, fault: wanted }, "{rest}");
        assert_eq!(error.connack(), Some((Version::V5, wanted.reason_code())));
    }
    // The same in 3.1.1 is answered with silence.
    let error = connect_error(0x10, "MQTT", 4, 0x02, "003c 0001 00").unwrap();
    assert_eq!(error.connack(), None);
}

#[test]
fn connect_needs_a_client_identifier_where_a_session_is_kept() {
    let rejected = |version| Some(ConnectError::ClientIdRejected { version });
    assert_eq!(connect_error(0x10, "MQIsdp", 3, 2, "003c 0000"), rejected(Version::V31));
    assert_eq!(connect_error(0x10, "MQTT", 4, 0, "003c 0000"), rejected(Version::V311));
    assert_eq!(connect_error(0x10, "MQTT", 4, 2, "003c 0000"), None);
    assert_eq!(connect_error(0x10, "MQTT", 5, 0, "003c 00 0000"), None);
    let error = ConnectError::ClientIdRejected { version: Version::V31 };
    assert_eq!(error.connack(), Some((Version::V31, 0x02)));
}
