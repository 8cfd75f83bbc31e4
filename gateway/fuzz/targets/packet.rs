//! What is read of a packet, written again, is the packet; and what is to go on unchanged is not changed.
#![no_main]

use flytrap_fuzz::reencode;
use flytrap_mqtt::{
    ConnAckChange, ConnectChange, FromBroker, FromClient, Peer, Version, frame, read_connect, read_from_broker, read_from_client, read_publish,
    read_raw_publish, rewrite_connack, rewrite_connect, rewrite_publish, rewrite_suback, rewrite_subscribe, rewrite_unsuback,
    rewrite_unsubscribe,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((mode, octets)) = data.split_first() else { return };
    let version = [Version::V31, Version::V311, Version::V5][usize::from(mode % 3)];
    let Ok(Some(frame)) = frame(octets, 1 << 20) else { return };
    let (octets, length) = (frame.octets(), frame.body().len());
    let mut out = Vec::new();
    match mode / 3 % 3 {
        0 => match read_from_client(version, frame) {
            Ok(packet) => {
                assert_eq!(reencode::from_client(version, &packet, octets[0], length), octets, "{packet:?}");
                match packet {
                    FromClient::Publish(publish) => {
                        assert_eq!(read_raw_publish(version, Peer::Client, frame).and_then(|raw| raw.check()), Ok(publish));
                        rewrite_publish(version, &publish, publish.topic, publish.retain, &mut out);
                    }
                    // 3.1 lets the first octet say DUP, which is not passed on.
                    FromClient::Subscribe(subscribe) if octets[0] == 0x82 => {
                        assert_eq!(rewrite_subscribe(&subscribe, |_| true, &mut out), subscribe.len());
                        assert_eq!(subscribe.filters().count(), subscribe.len());
                    }
                    FromClient::Unsubscribe(unsubscribe) if octets[0] == 0xA2 => {
                        assert_eq!(rewrite_unsubscribe(&unsubscribe, |_| true, &mut out), unsubscribe.len());
                    }
                    _ => return,
                }
                assert_eq!(out, octets);
            }
            Err(fault) => {
                assert!(matches!(fault.reason_code(), 0x81 | 0x82 | 0x8F | 0x90 | 0x95));
                if frame.kind() == 3 {
                    assert!(read_publish(version, Peer::Client, frame).is_err());
                }
            }
        },
        1 => {
            let Ok(packet) = read_from_broker(version, frame) else { return };
            assert_eq!(reencode::from_broker(version, &packet, octets[0], length), octets, "{packet:?}");
            match packet {
                FromBroker::Publish(publish) => rewrite_publish(version, &publish, publish.topic, publish.retain, &mut out),
                FromBroker::SubAck(suback) => rewrite_suback(&suback, suback.codes.iter().copied(), &mut out),
                FromBroker::UnsubAck(unsuback) => rewrite_unsuback(&unsuback, unsuback.codes.iter().copied(), &mut out),
                FromBroker::ConnAck(connack) if connack.assigned_client_id.is_none() && connack.maximum_packet_size.is_none() => {
                    rewrite_connack(&connack, &ConnAckChange::default(), &mut out);
                }
                _ => return,
            }
            assert_eq!(out, octets);
        }
        _ => {
            let Ok(connect) = read_connect(frame) else { return };
            let mut plain = octets.to_vec();
            if connect.version == Version::V31 {
                // Unused bits are ignored there, and cleared on the way.
                plain[0] = 0x10;
                let flags = octets.len() - length + 9;
                plain[flags] = reencode::connect(&connect)[flags];
            }
            assert_eq!(reencode::connect(&connect), plain, "{connect:?}");
            let change = ConnectChange {
                user_name: connect.user_name,
                password: connect.password,
                remove_authentication: false,
                ..ConnectChange::new(connect.client_id)
            };
            rewrite_connect(&connect, &change, &mut out);
            assert_eq!(out, plain);
        }
    }
});
