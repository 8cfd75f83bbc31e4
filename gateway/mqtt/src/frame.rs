//! Cutting whole packets off the front of a buffer.

use crate::Malformed;

/// The largest frame that is ever accepted, whatever limit the caller gives: 128 MiB.
///
/// MQTT would allow twice that. Staying below leaves room for what a rewritten packet may gain
/// (identifiers, credentials, reason codes), so that rewriting an accepted packet cannot overflow.
pub const MAX_FRAME_OCTETS: usize = 128 * 1024 * 1024;

/// Packet types, the high four bits of the first octet.
pub mod kind {
    /// CONNECT, from the client.
    pub const CONNECT: u8 = 1;
    /// CONNACK, from the broker.
    pub const CONNACK: u8 = 2;
    /// PUBLISH, from either side.
    pub const PUBLISH: u8 = 3;
    /// PUBACK, from either side.
    pub const PUBACK: u8 = 4;
    /// PUBREC, from either side.
    pub const PUBREC: u8 = 5;
    /// PUBREL, from either side.
    pub const PUBREL: u8 = 6;
    /// PUBCOMP, from either side.
    pub const PUBCOMP: u8 = 7;
    /// SUBSCRIBE, from the client.
    pub const SUBSCRIBE: u8 = 8;
    /// SUBACK, from the broker.
    pub const SUBACK: u8 = 9;
    /// UNSUBSCRIBE, from the client.
    pub const UNSUBSCRIBE: u8 = 10;
    /// UNSUBACK, from the broker.
    pub const UNSUBACK: u8 = 11;
    /// PINGREQ, from the client.
    pub const PINGREQ: u8 = 12;
    /// PINGRESP, from the broker.
    pub const PINGRESP: u8 = 13;
    /// DISCONNECT, from the client, in MQTT 5 from either side.
    pub const DISCONNECT: u8 = 14;
    /// AUTH, from either side, MQTT 5 only.
    pub const AUTH: u8 = 15;
}

/// One whole packet, nothing of it read but the fixed header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    octets: &'a [u8],
    header_octets: usize,
}

impl<'a> Frame<'a> {
    /// The whole packet as it came, fixed header included.
    #[must_use]
    #[inline]
    pub const fn octets(&self) -> &'a [u8] {
        self.octets
    }

    /// What follows the fixed header.
    #[must_use]
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        &self.octets[self.header_octets..]
    }

    /// The packet type, see [`kind`].
    #[must_use]
    #[inline]
    pub const fn kind(&self) -> u8 {
        self.octets[0] >> 4
    }

    /// The low four bits of the first octet.
    #[must_use]
    #[inline]
    pub const fn flags(&self) -> u8 {
        self.octets[0] & 0x0F
    }
}

/// The first whole packet in `octets`, or `None` if there is more to come.
///
/// `limit` is the most octets a whole frame may have, checked as soon as the header is there and
/// before the body is; [`MAX_FRAME_OCTETS`] applies on top. What follows the frame is not looked at.
///
/// # Errors
/// [`Malformed::Length`], [`Malformed::TooLarge`], and [`Malformed::PacketType`] for the reserved
/// packet type 0, which no version has, so that there is no use in waiting for its body.
#[inline]
pub fn frame(octets: &[u8], limit: usize) -> Result<Option<Frame<'_>>, Malformed> {
    let [first, after_first @ ..] = octets else { return Ok(None) };
    if first >> 4 == 0 {
        return Err(Malformed::PacketType { kind: 0 });
    }
    let Some((body, length_octets)) = variable_byte_integer(after_first)? else { return Ok(None) };
    let header_octets = 1 + length_octets;
    let whole = header_octets + body as usize;
    let limit = limit.min(MAX_FRAME_OCTETS);
    if whole > limit {
        return Err(Malformed::TooLarge { octets: whole, limit });
    }
    Ok(octets.get(..whole).map(|octets| Frame { octets, header_octets }))
}

/// Decodes a Variable Byte Integer (MQTT 5.0 section 1.5.5; in 3.x only the remaining length).
///
/// `octets` starts at the integer and may run past it. Returns the value (0 to 268 435 455) and
/// the octets it took (1 to 4), or `None` when it is cut short.
///
/// # Errors
/// [`Malformed::Length`] if a fifth octet follows, or fewer could have held it [MQTT-1.5.5-1]. The
/// 3.x texts do not ask for the shortest form, but no client is known to use another, and two
/// readings of one length are what an attacker wants.
#[inline]
pub fn variable_byte_integer(octets: &[u8]) -> Result<Option<(u32, usize)>, Malformed> {
    match octets {
        [first, ..] if *first < 0x80 => Ok(Some((u32::from(*first), 1))),
        _ => long_variable_byte_integer(octets),
    }
}

fn long_variable_byte_integer(octets: &[u8]) -> Result<Option<(u32, usize)>, Malformed> {
    let mut value = 0;
    for (index, octet) in octets.iter().enumerate() {
        if index == 4 {
            // The fourth octet announced a fifth.
            return Err(Malformed::Length);
        }
        value |= u32::from(octet & 0x7F) << (7 * index);
        if octet & 0x80 == 0 {
            let is_minimal = index == 0 || *octet != 0;
            return if is_minimal { Ok(Some((value, index + 1))) } else { Err(Malformed::Length) };
        }
        if index == 3 {
            return Err(Malformed::Length);
        }
    }
    Ok(None)
}

/// The octets of a Variable Byte Integer, and how many of the four it takes.
///
/// Values above 268 435 455 do not occur, see [`MAX_FRAME_OCTETS`].
pub(crate) const fn variable_byte_integer_octets(mut value: usize) -> ([u8; 4], usize) {
    debug_assert!(value <= 268_435_455);
    let mut octets = [0; 4];
    let mut index = 0;
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 || index == 3 {
            octets[index] = low & 0x7F;
            return (octets, index + 1);
        }
        octets[index] = low | 0x80;
        index += 1;
    }
}

/// Appends a Variable Byte Integer.
pub(crate) fn put_variable_byte_integer(value: usize, out: &mut Vec<u8>) {
    let (octets, taken) = variable_byte_integer_octets(value);
    out.extend_from_slice(&octets[..taken]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn variable_byte_integers_are_read_at_the_boundaries_of_each_length() {
        let cases: [(u32, &[u8]); 8] = [
            (0, &[0]),
            (127, &[0x7F]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (268_435_455, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ];
        for (value, octets) in cases {
            assert_eq!(variable_byte_integer(octets), Ok(Some((value, octets.len()))));
            let mut written = Vec::new();
            put_variable_byte_integer(value as usize, &mut written);
            assert_eq!(written, octets);
            // With the continuation bit still set at its end, it is not yet all there.
            for cut in 0..octets.len() {
                assert_eq!(variable_byte_integer(&octets[..cut]), Ok(None), "{octets:02x?} {cut}");
            }
        }
    }

    #[test]
    fn lengths_with_a_needless_or_a_fifth_octet_are_refused() {
        let cases: [&[u8]; 7] = [
            &[0x80, 0x00],
            &[0xFF, 0x00],
            &[0x80, 0x80, 0x00],
            &[0x80, 0x80, 0x80, 0x00],
            &[0x80, 0x80, 0x80, 0x80],
            &[0x80, 0x80, 0x80, 0x80, 0x01],
            &[0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
        ];
        for octets in cases {
            assert_eq!(variable_byte_integer(octets), Err(Malformed::Length), "{octets:02x?}");
        }
    }

    #[test]
    fn a_frame_is_cut_off_only_when_it_is_whole() {
        let octets = [0x30, 0x03, b'a', b'b', b'c', 0xC0];
        for cut in 0..5 {
            assert_eq!(frame(&octets[..cut], 100), Ok(None));
        }
        let whole = frame(&octets, 100).unwrap().unwrap();
        assert_eq!(whole.octets(), &octets[..5]);
        assert_eq!((whole.body(), whole.kind(), whole.flags()), (&octets[2..5], 3, 0));
    }

    #[test]
    fn the_limit_counts_the_whole_frame_and_acts_on_the_header_alone() {
        let header = [0x32, 0x80, 0x01];
        assert_eq!(frame(&header, 131), Ok(None));
        let refused = Malformed::TooLarge { octets: 131, limit: 130 };
        assert_eq!(frame(&header, 130), Err(refused));
        assert_eq!(refused.reason_code(), 0x95);
        assert!(matches!(
            frame(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F], usize::MAX),
            Err(Malformed::TooLarge { limit: MAX_FRAME_OCTETS, .. })
        ));
    }

    #[test]
    fn packet_type_0_is_refused_before_its_length_is_there() {
        assert_eq!(frame(&[0x0A], 100), Err(Malformed::PacketType { kind: 0 }));
        assert_eq!(frame(&[0x1A], 100), Ok(None));
    }

    proptest! {
        #[test]
        fn frames_stay_within_the_limit_and_the_buffer(
            octets in prop::collection::vec(any::<u8>(), 0..300),
            limit in 0_usize..300,
        ) {
            if let Ok(Some(found)) = frame(&octets, limit) {
                prop_assert!(found.octets().len() <= limit);
                prop_assert!(octets.starts_with(found.octets()));
                prop_assert!(found.octets().ends_with(found.body()));
                // What comes behind changes nothing.
                prop_assert_eq!(frame(found.octets(), limit), Ok(Some(found)));
            }
        }
    }
}
