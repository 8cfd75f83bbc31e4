//! A stream is cut into packets in one way, however it arrives, and the packets are its octets.
#![no_main]

use flytrap_fuzz::naive::{Front, front};
use flytrap_mqtt::frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((limit, mut octets)) = data.split_first() else { return };
    let limit = usize::from(*limit) * 16 + 2;
    loop {
        let naive = front(octets, limit);
        match frame(octets, limit) {
            Ok(None) => assert_eq!(naive, Front::Part),
            Err(_) => assert_eq!(naive, Front::Wrong),
            Ok(Some(next)) => {
                let length = next.octets().len();
                assert_eq!(naive, Front::Whole { octets: length, header: length - next.body().len() });
                assert_eq!(next.octets(), &octets[..length]);
                assert_eq!(next.octets()[0], next.kind() << 4 | next.flags());
                // Nothing is there before the last octet is, and nothing wrong is seen in what is right.
                for part in 0..length {
                    assert_eq!(frame(&octets[..part], limit), Ok(None));
                }
                octets = &octets[length..];
                if octets.is_empty() {
                    return;
                }
                continue;
            }
        }
        return;
    }
});
