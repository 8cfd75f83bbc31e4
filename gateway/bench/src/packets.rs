//! The packets that the load generator and the machine are fed with, made once and sent many times. MQTT 3.1.1.

use flytrap_mqtt::{QoS, Version, encode};

/// `count` PUBLISH packets one after the other, with packet ids from 1 where there are any.
#[must_use]
pub fn publishes(topic: &str, qos: QoS, payload: usize, count: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for id in 1..=count {
        publish(topic, qos, payload, id, &mut out);
    }
    out
}

/// As [`publishes`], each second one an octet shorter, so that none begins like the one before.
#[must_use]
pub fn publishes_of_two_lengths(topic: &str, qos: QoS, payload: usize, count: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for id in 1..=count {
        publish(topic, qos, payload - usize::from(id % 2 == 0), id, &mut out);
    }
    out
}

/// Appends one PUBLISH; without QoS its `id` is left out.
pub fn publish(topic: &str, qos: QoS, payload: usize, id: u16, out: &mut Vec<u8>) {
    out.push(0x30 | (qos as u8) << 1);
    let has_id = qos != QoS::AtMostOnce;
    put_length(2 + topic.len() + if has_id { 2 } else { 0 } + payload, out);
    out.extend_from_slice(&u16::try_from(topic.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    if has_id {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.resize(out.len() + payload, b'x');
}

/// A SUBSCRIBE to one filter, with packet id 1.
#[must_use]
pub fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut out = vec![0x82];
    put_length(5 + filter.len(), &mut out);
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&u16::try_from(filter.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(filter.as_bytes());
    out.push(qos);
    out
}

/// A CONNECT with a clean session and no keep alive.
#[must_use]
pub fn connect(client_id: &str, user_name: &str, password: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::connect(
        Version::V311,
        client_id,
        0,
        Some(user_name),
        Some(password.as_bytes()),
        &mut out,
    );
    out
}

fn put_length(mut rest: usize, out: &mut Vec<u8>) {
    loop {
        let seven = u8::try_from(rest % 128).unwrap_or_default();
        rest /= 128;
        out.push(if rest > 0 { seven | 0x80 } else { seven });
        if rest == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flytrap_mqtt::{FromClient, frame, read_from_client};

    #[test]
    fn what_is_sent_is_what_a_gateway_reads() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
            for payload in [0, 64, 1024, 20_000] {
                let octets = publishes("a/b", qos, payload, 3);
                let (mut rest, mut read) = (octets.as_slice(), 0);
                while let Some(next) = frame(rest, 100_000).expect("a frame") {
                    let packet = read_from_client(Version::V311, next).expect("a packet");
                    let FromClient::Publish(publish) = packet else { panic!("{packet:?}") };
                    assert_eq!(
                        (publish.topic, publish.qos, publish.payload.len()),
                        ("a/b", qos, payload)
                    );
                    rest = &rest[next.octets().len()..];
                    read += 1;
                }
                assert_eq!((read, rest.len()), (3, 0));
            }
        }
    }
}
