//! `mqttbytes` as a second opinion: what this crate accepts, it accepts too and reads the same facts
//! from, as far as it can express them. The other way round does not hold, which is why it is not
//! what the gateway decides on.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use bytes::BytesMut;
use common::*;
use flytrap_mqtt::*;
use mqttbytes::{v4, v5};
use proptest::prelude::*;

fn whole(octets: &[u8]) -> Option<Frame<'_>> {
    frame(octets, 100_000).ok()?.filter(|frame| frame.octets().len() == octets.len())
}

fn damaged(octets: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3);
    (octets, damage).prop_map(|(mut octets, damage)| {
        for (place, octet) in damage {
            let place = place.index(octets.len());
            octets[place] = octet;
        }
        octets
    })
}

fn of_version(wanted: Version) -> impl Strategy<Value = PublishParts> {
    some_publish().prop_map(move |parts| {
        let properties = if wanted == Version::V5 { parts.properties } else { vec![] };
        PublishParts { version: wanted, properties, ..parts }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn publish_of_3_1_1_is_read_alike(
        octets in damaged(of_version(Version::V311).prop_map(|parts| parts.octets())),
    ) {
        let Some(frame) = whole(&octets) else { return Ok(()) };
        let Ok(FromClient::Publish(ours)) = read_from_client(Version::V311, frame) else {
            return Ok(());
        };
        let theirs = v4::read(&mut BytesMut::from(&octets[..]), 100_000);
        let Ok(v4::Packet::Publish(theirs)) = theirs else {
            return Err(TestCaseError::fail(format!("{theirs:?}")));
        };
        prop_assert_eq!(ours.topic, theirs.topic);
        prop_assert_eq!(ours.payload, &theirs.payload[..]);
        prop_assert_eq!((ours.dup, ours.retain), (theirs.dup, theirs.retain));
        prop_assert_eq!(ours.qos as u8, theirs.qos as u8);
        prop_assert_eq!(ours.packet_id.map_or(0, PacketId::get), theirs.pkid);
    }

    #[test]
    fn publish_of_5_is_read_alike(
        octets in damaged(of_version(Version::V5).prop_map(|parts| parts.octets())),
    ) {
        let Some(frame) = whole(&octets) else { return Ok(()) };
        let Ok(FromBroker::Publish(ours)) = read_from_broker(Version::V5, frame) else {
            return Ok(());
        };
        let theirs = v5::read(&mut BytesMut::from(&octets[..]), 100_000);
        let Ok(v5::Packet::Publish(theirs)) = theirs else {
            return Err(TestCaseError::fail(format!("{theirs:?}")));
        };
        prop_assert_eq!(ours.topic, theirs.topic);
        prop_assert_eq!(ours.payload, &theirs.payload[..]);
        prop_assert_eq!((ours.dup, ours.retain), (theirs.dup, theirs.retain));
        prop_assert_eq!(ours.qos as u8, theirs.qos as u8);
        prop_assert_eq!(ours.packet_id.map_or(0, PacketId::get), theirs.pkid);
        let Some(properties) = theirs.properties else {
            prop_assert!(ours.properties.is_empty());
            return Ok(());
        };
        prop_assert_eq!(ours.topic_alias.map(|alias| alias.get()), properties.topic_alias);
        prop_assert_eq!(ours.response_topic, properties.response_topic.as_deref());
        let user: Vec<_> = ours
            .properties
            .user_properties()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        prop_assert_eq!(user, properties.user_properties);
        for property in ours.properties {
            match property {
                Property::PayloadFormatIndicator(is_text) => {
                    prop_assert_eq!(properties.payload_format_indicator, Some(u8::from(is_text)));
                }
                Property::MessageExpiryInterval(seconds) => {
                    prop_assert_eq!(properties.message_expiry_interval, Some(seconds));
                }
                Property::ContentType(text) => {
                    prop_assert_eq!(properties.content_type.as_deref(), Some(text));
                }
                Property::CorrelationData(data) => {
                    prop_assert_eq!(properties.correlation_data.as_deref(), Some(data));
                }
                _ => (),
            }
        }
    }

    #[test]
    fn connect_is_read_alike(
        octets in damaged(
            some_connect()
                .prop_filter("mqttbytes knows no 3.1", |parts| parts.version != Version::V31)
                // ... takes passwords for text, and knows none without a user name.
                .prop_map(|parts| {
                    let password = parts.user_name.is_some().then(|| b"password".to_vec());
                    ConnectParts { password, ..parts }.octets()
                }),
        ),
    ) {
        let Some(Ok(ours)) = whole(&octets).map(read_connect) else { return Ok(()) };
        let is_text = |password: &[u8]| std::str::from_utf8(password).is_ok();
        if ours.user_name.is_none() != ours.password.is_none()
            || !ours.password.is_none_or(is_text)
        {
            return Ok(());
        }
        let mut buffer = BytesMut::from(&octets[..]);
        let (client_id, keep_alive, clean, will, login) = if ours.version == Version::V311 {
            let theirs = v4::read(&mut buffer, 100_000);
            let Ok(v4::Packet::Connect(theirs)) = theirs else {
                return Err(TestCaseError::fail(format!("{theirs:?}")));
            };
            let will = theirs.last_will.map(|will| (will.topic, will.message, will.qos, will.retain));
            let login = theirs.login.map(|login| (login.username, login.password));
            (theirs.client_id, theirs.keep_alive, theirs.clean_session, will, login)
        } else {
            let theirs = v5::read(&mut buffer, 100_000);
            let Ok(v5::Packet::Connect(theirs)) = theirs else {
                return Err(TestCaseError::fail(format!("{theirs:?}")));
            };
            if let Some(properties) = theirs.properties {
                prop_assert_eq!(
                    ours.session_expiry,
                    properties.session_expiry_interval.unwrap_or(0)
                );
                prop_assert_eq!(
                    ours.receive_maximum.get(),
                    properties.receive_maximum.unwrap_or(u16::MAX)
                );
                prop_assert_eq!(
                    ours.maximum_packet_size.map(|octets| octets.get()),
                    properties.max_packet_size
                );
                prop_assert_eq!(ours.topic_alias_maximum, properties.topic_alias_max.unwrap_or(0));
                prop_assert_eq!(
                    ours.authentication_method,
                    properties.authentication_method.as_deref()
                );
                prop_assert_eq!(ours.user_properties().count(), properties.user_properties.len());
            } else {
                prop_assert!(ours.properties.is_empty());
            }
            let will = theirs.last_will.map(|will| (will.topic, will.message, will.qos, will.retain));
            let login = theirs.login.map(|login| (login.username, login.password));
            (theirs.client_id, theirs.keep_alive, theirs.clean_session, will, login)
        };
        prop_assert_eq!(ours.client_id, client_id);
        prop_assert_eq!((ours.keep_alive, ours.clean_start), (keep_alive, clean));
        prop_assert_eq!(ours.will.is_some(), will.is_some());
        if let (Some(ours), Some((topic, message, qos, retain))) = (ours.will, will) {
            prop_assert_eq!((ours.topic, ours.payload), (topic.as_str(), &message[..]));
            prop_assert_eq!((ours.qos as u8, ours.retain), (qos as u8, retain));
        }
        let (user_name, password) = login.unzip();
        prop_assert_eq!(ours.user_name, user_name.as_deref());
        prop_assert_eq!(ours.password, password.as_ref().map(|password| password.as_bytes()));
    }

    #[test]
    fn subscribe_is_read_alike(
        (version, octets) in (some_subscribe(), any::<prop::sample::Index>(), any::<Option<u8>>())
            .prop_map(|((version, packet_id, properties, filters), place, damage)| {
                let version = if version == Version::V31 { Version::V311 } else { version };
                let mut octets = subscribe_octets(version, packet_id, &properties, &filters);
                if let Some(octet) = damage {
                    let place = place.index(octets.len());
                    octets[place] = octet;
                }
                (version, octets)
            }),
    ) {
        let Some(frame) = whole(&octets) else { return Ok(()) };
        let Ok(FromClient::Subscribe(ours)) = read_from_client(version, frame) else {
            return Ok(());
        };
        let mut buffer = BytesMut::from(&octets[..]);
        let (packet_id, filters): (_, Vec<_>) = if version == Version::V311 {
            let theirs = v4::read(&mut buffer, 100_000);
            let Ok(v4::Packet::Subscribe(theirs)) = theirs else {
                return Err(TestCaseError::fail(format!("{theirs:?}")));
            };
            let filters = theirs.filters.into_iter().map(|one| (one.path, one.qos as u8, 0, false));
            (theirs.pkid, filters.collect())
        } else {
            let theirs = v5::read(&mut buffer, 100_000);
            let Ok(v5::Packet::Subscribe(theirs)) = theirs else {
                return Err(TestCaseError::fail(format!("{theirs:?}")));
            };
            if let Some(properties) = theirs.properties {
                let id = ours.subscription_id.map(|id| usize::try_from(id.get()).unwrap());
                prop_assert_eq!(id, properties.id);
            }
            let filters = theirs.filters.into_iter().map(|one| {
                let handling = match one.retain_forward_rule {
                    v5::RetainForwardRule::OnEverySubscribe => 0,
                    v5::RetainForwardRule::OnNewSubscribe => 1,
                    v5::RetainForwardRule::Never => 2,
                };
                (one.path, one.qos as u8, handling, one.nolocal)
            });
            (theirs.pkid, filters.collect())
        };
        prop_assert_eq!(ours.packet_id.get(), packet_id);
        let read: Vec<_> = ours
            .filters()
            .map(|one| (one.filter.into(), one.qos as u8, one.retain_handling(), one.no_local()))
            .collect();
        prop_assert_eq!(read, filters);
    }

    #[test]
    fn acknowledgements_are_read_alike(
        version in prop::sample::select(vec![Version::V311, Version::V5]),
        first in prop::sample::select(vec![0x40_u8, 0x50, 0x62, 0x70]),
        packet_id in 1..=u16::MAX,
        code in prop::sample::select(vec![None, Some(0_u8), Some(0x80), Some(0x87), Some(0x92)]),
        of in prop::option::of(some_properties(&[0x1F])),
    ) {
        let mut body = packet_id.to_be_bytes().to_vec();
        body.extend(code);
        if let (Some(_), Some(of)) = (code, &of) {
            body.extend(properties(version, of));
        }
        let octets = packet(first, &body);
        let Ok(read) = read_from_client(version, whole(&octets).unwrap()) else { return Ok(()) };
        let (FromClient::PubAck(ours) | FromClient::PubRec(ours) | FromClient::PubRel(ours)
        | FromClient::PubComp(ours)) = read else {
            return Err(TestCaseError::fail("another packet"));
        };
        let mut buffer = BytesMut::from(&octets[..]);
        let theirs = if version == Version::V311 {
            match v4::read(&mut buffer, 1_000) {
                Ok(v4::Packet::PubAck(ack)) => (ack.pkid, 0),
                Ok(v4::Packet::PubRec(ack)) => (ack.pkid, 0),
                Ok(v4::Packet::PubRel(ack)) => (ack.pkid, 0),
                Ok(v4::Packet::PubComp(ack)) => (ack.pkid, 0),
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        } else {
            match v5::read(&mut buffer, 1_000) {
                Ok(v5::Packet::PubAck(ack)) => (ack.pkid, ack.reason as u8),
                Ok(v5::Packet::PubRec(ack)) => (ack.pkid, ack.reason as u8),
                Ok(v5::Packet::PubRel(ack)) => (ack.pkid, ack.reason as u8),
                Ok(v5::Packet::PubComp(ack)) => (ack.pkid, ack.reason as u8),
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            }
        };
        prop_assert_eq!(ours.packet_id.get(), theirs.0);
        prop_assert_eq!(ours.reason, theirs.1);
    }
}
