//! Frames are taken off a stream as RFC 6455 says, however it is cut, and hold nothing back.
#![no_main]

use flytrap_gateway::fuzzing::websocket;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 4_096;

/// Reads the whole stream at once, frame by frame. Payload, and whether it is as it should be so far.
fn naive(mut octets: &[u8]) -> (Vec<u8>, bool, bool) {
    let (mut payload, mut is_open) = (Vec::new(), false);
    let mut idle = 0;
    while octets.len() >= 2 {
        let (first, second) = (octets[0], octets[1]);
        let mut at = 2;
        let mut length = u64::from(second & 0x7F);
        if length >= 126 {
            let more = if length == 126 { 2 } else { 8 };
            if octets.len() < at + more {
                return (payload, true, false);
            }
            length = octets[at..at + more].iter().fold(0, |sum, octet| sum << 8 | u64::from(*octet));
            at += more;
        }
        let (is_last, opcode) = (first & 0x80 != 0, first & 15);
        let is_control = opcode >= 8;
        // What is wrong is told when the header is there, mask included where there is one.
        let masked = second & 0x80 != 0;
        if masked && octets.len() < at + 4 {
            return (payload, true, false);
        }
        let is_right = masked
            && first & 0x70 == 0
            && match opcode {
                0 => is_open,
                2 => !is_open,
                8..=10 => is_last && length <= 125,
                _ => false,
            }
            && length <= LIMIT as u64;
        if !is_right {
            return (payload, false, false);
        }
        if is_control || length == 0 {
            idle += 1;
            if idle > 128 {
                return (payload, false, false);
            }
        }
        if !is_control {
            is_open = !is_last;
        }
        let mask: [u8; 4] = octets[at..at + 4].try_into().expect("four octets");
        at += 4;
        let there = (octets.len() - at).min(usize::try_from(length).expect("within the limit"));
        if !is_control {
            payload.extend(octets[at..at + there].iter().zip(mask.iter().cycle()).map(|(octet, mask)| octet ^ mask));
        }
        if (there as u64) < length {
            return (payload, true, false);
        }
        if opcode == 8 {
            return (payload, true, true);
        }
        octets = &octets[at + there..];
    }
    (payload, true, false)
}

fuzz_target!(|data: &[u8]| {
    let Some((cuts, octets)) = data.split_first_chunk::<4>() else { return };
    let at_once = websocket(LIMIT, &[octets]);
    let mut pieces = Vec::new();
    let mut rest = octets;
    for cut in cuts.iter().cycle().take(512) {
        let (piece, behind) = rest.split_at(usize::from(*cut % 32 + 1).min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces.push(rest);
    let in_pieces = websocket(LIMIT, &pieces);
    let (payload, is_right, is_closed) = naive(octets);
    assert_eq!((at_once.is_right, in_pieces.is_right), (is_right, is_right));
    if is_right {
        assert_eq!(at_once.payload, payload);
        assert_eq!(in_pieces.payload, payload);
        assert_eq!((at_once.is_closed, in_pieces.is_closed), (is_closed, is_closed));
    }
});
