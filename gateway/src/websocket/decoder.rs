//! Takes the frames off what a client sent, in place: no buffer, no socket, no clock.

use std::io::Cursor;
use std::time::{Duration, Instant};

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// Longest header of a frame.
const HEADER_OCTETS: usize = 14;
/// Longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL_OCTETS: u64 = 125;
/// Frames without an octet of MQTT (pings, pongs, empty ones) that are borne in any such time. A client that pings each second stays
/// far below it.
const IDLE: (u32, Duration) = (128, Duration::from_secs(10));

/// What a client may not do. The connection ends with a Close frame that carries [`Violation::code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Violation {
    /// RFC 6455 section 5.1.
    #[error("a frame without a mask")]
    Unmasked,
    /// [MQTT-6.0.0-1].
    #[error("a text frame")]
    Text,
    /// No extension was agreed on, so these bits have no meaning (RFC 6455 section 5.2).
    #[error("a reserved bit or opcode")]
    Reserved,
    /// A message begins within another, or goes on without having begun (RFC 6455 section 5.4).
    #[error("a fragment out of order")]
    Fragment,
    /// RFC 6455 section 5.5.
    #[error("a control frame that is fragmented or too long")]
    Control,
    /// Longer than any packet may be.
    #[error("a frame of {octets} octets, {most} are taken")]
    TooLong {
        /// As it claims.
        octets: u64,
        /// The limit.
        most: u64,
    },
    /// See [`IDLE`].
    #[error("a flood of frames without content")]
    Flood,
}

impl Violation {
    /// For the Close frame (RFC 6455 section 7.4.1).
    pub(crate) fn code(self) -> CloseCode {
        match self {
            Self::Text => CloseCode::Unsupported,
            Self::TooLong { .. } => CloseCode::Size,
            Self::Flood => CloseCode::Policy,
            Self::Unmasked | Self::Reserved | Self::Fragment | Self::Control => CloseCode::Protocol,
        }
    }
}

/// Where in the stream of frames a client is.
#[derive(Debug)]
pub(crate) struct Decoder {
    most_octets: u64,
    /// The octets of a header whose end has not come yet.
    header: [u8; HEADER_OCTETS],
    header_length: usize,
    open: Option<Open>,
    /// A message has begun and its last frame has not.
    fragmented: bool,
    /// Payload so far of a control frame.
    control: Vec<u8>,
    ping: Option<Vec<u8>>,
    closed: bool,
    idle: u32,
    idle_since: Option<Instant>,
}

/// A frame whose payload has not all come.
#[derive(Debug)]
struct Open {
    opcode: OpCode,
    mask: [u8; 4],
    /// Which octet of the mask is next.
    at: usize,
    left: u64,
}

impl Open {
    fn unmask(&mut self, octets: &mut [u8]) {
        // For most of the payload, whole words.
        self.mask.rotate_left(std::mem::take(&mut self.at));
        let mut words = octets.chunks_exact_mut(4);
        for word in &mut words {
            for (octet, mask) in word.iter_mut().zip(self.mask) {
                *octet ^= mask;
            }
        }
        let rest = words.into_remainder();
        self.at = rest.len();
        for (octet, mask) in rest.iter_mut().zip(self.mask) {
            *octet ^= mask;
        }
    }
}

impl Decoder {
    /// At the start of a stream whose frames may hold so many octets.
    pub(crate) fn new(most_octets: usize) -> Self {
        Self {
            most_octets: most_octets.try_into().unwrap_or(u64::MAX),
            header: [0; HEADER_OCTETS],
            header_length: 0,
            open: None,
            fragmented: false,
            control: Vec::new(),
            ping: None,
            closed: false,
            idle: 0,
            idle_since: None,
        }
    }

    /// Moves the payload of data frames in `octets` to their front, unmasked, and returns how many there are.
    ///
    /// # Errors
    /// [`Violation`]; the stream is then over.
    pub(crate) fn decode(&mut self, octets: &mut [u8], now: Instant) -> Result<usize, Violation> {
        let (mut read, mut payload) = (0, 0);
        while read < octets.len() && !self.closed {
            let Some(open) = &mut self.open else {
                read += self.take_header(&octets[read..], now)?;
                continue;
            };
            let take = (octets.len() - read).min(usize::try_from(open.left).unwrap_or(usize::MAX));
            open.unmask(&mut octets[read..read + take]);
            open.left -= take as u64;
            let (is_whole, opcode) = (open.left == 0, open.opcode);
            if let OpCode::Control(_) = opcode {
                self.control.extend_from_slice(&octets[read..read + take]);
            } else {
                octets.copy_within(read..read + take, payload);
                payload += take;
            }
            read += take;
            if is_whole {
                self.end_frame(opcode);
            }
        }
        Ok(payload)
    }

    /// Payload of the newest ping that has no answer yet.
    pub(crate) fn take_ping(&mut self) -> Option<Vec<u8>> {
        self.ping.take()
    }

    /// Whether the client has sent Close.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes what belongs to a header and returns how much that was.
    fn take_header(&mut self, octets: &[u8], now: Instant) -> Result<usize, Violation> {
        let before = self.header_length;
        let take = octets.len().min(HEADER_OCTETS - before);
        self.header[before..before + take].copy_from_slice(&octets[..take]);
        let mut cursor = Cursor::new(&self.header[..before + take]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| Violation::Reserved)?;
        let length = usize::try_from(cursor.position()).unwrap_or_default();
        let Some((header, payload)) = parsed else {
            self.header_length += take;
            return Ok(take);
        };
        self.header_length = 0;
        self.begin_frame(&header, payload, now)?;
        Ok(length - before)
    }

    fn begin_frame(
        &mut self,
        header: &FrameHeader,
        left: u64,
        now: Instant,
    ) -> Result<(), Violation> {
        let mask = header.mask.ok_or(Violation::Unmasked)?;
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(Violation::Reserved);
        }
        match header.opcode {
            OpCode::Data(Data::Text) => return Err(Violation::Text),
            OpCode::Data(Data::Binary) if self.fragmented => return Err(Violation::Fragment),
            OpCode::Data(Data::Continue) if !self.fragmented => return Err(Violation::Fragment),
            OpCode::Data(Data::Binary | Data::Continue) => self.fragmented = !header.is_final,
            OpCode::Control(Control::Close | Control::Ping | Control::Pong) => {
                if !header.is_final || left > CONTROL_OCTETS {
                    return Err(Violation::Control);
                }
            }
            OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
                return Err(Violation::Reserved);
            }
        }
        if left > self.most_octets {
            return Err(Violation::TooLong { octets: left, most: self.most_octets });
        }
        if left == 0 || matches!(header.opcode, OpCode::Control(_)) {
            self.count_idle(now)?;
        }
        if left == 0 {
            self.end_frame(header.opcode);
        } else {
            self.open = Some(Open { opcode: header.opcode, mask, at: 0, left });
        }
        Ok(())
    }

    fn end_frame(&mut self, opcode: OpCode) {
        self.open = None;
        let payload = std::mem::take(&mut self.control);
        match opcode {
            OpCode::Control(Control::Ping) => self.ping = Some(payload),
            OpCode::Control(Control::Close) => self.closed = true,
            _ => {}
        }
    }

    fn count_idle(&mut self, now: Instant) -> Result<(), Violation> {
        let (most, span) = IDLE;
        if self.idle_since.is_none_or(|since| now.saturating_duration_since(since) >= span) {
            (self.idle, self.idle_since) = (0, Some(now));
        }
        self.idle += 1;
        if self.idle > most { Err(Violation::Flood) } else { Ok(()) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A masked frame; `first` is its first octet.
    pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut octets = vec![first];
        match payload.len() {
            short @ ..126 => octets.push(0x80 | u8::try_from(short).unwrap()),
            medium @ ..=0xffff => {
                octets.push(0x80 | 126);
                octets.extend(u16::try_from(medium).unwrap().to_be_bytes());
            }
            long => {
                octets.push(0x80 | 127);
                octets.extend((long as u64).to_be_bytes());
            }
        }
        octets.extend(MASK);
        octets.extend(payload.iter().zip(MASK.iter().cycle()).map(|(octet, mask)| octet ^ mask));
        octets
    }

    fn decode(octets: &[u8]) -> Result<Vec<u8>, Violation> {
        let mut octets = octets.to_vec();
        let length = Decoder::new(100_000).decode(&mut octets, Instant::now())?;
        octets.truncate(length);
        Ok(octets)
    }

    /// The example of RFC 6455 section 5.7, as binary.
    #[test]
    fn the_masked_hello_of_the_standard_is_read() {
        let octets = [0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(decode(&octets).unwrap(), b"Hello");
    }

    #[test]
    fn what_the_standards_forbid_is_named() {
        let long = |first, length: u64| [&[first, 0xff][..], &length.to_be_bytes(), &MASK].concat();
        let too_long = |octets| Violation::TooLong { octets, most: 100_000 };
        for (octets, wanted) in [
            (vec![0x82, 0x01, b'x'], Violation::Unmasked),
            (frame(0x81, b"text"), Violation::Text),
            (frame(0x01, b"text"), Violation::Text),
            (frame(0xc2, b"x"), Violation::Reserved),
            (frame(0xa2, b"x"), Violation::Reserved),
            (frame(0x92, b"x"), Violation::Reserved),
            (frame(0x83, b"x"), Violation::Reserved),
            (frame(0x8b, b"x"), Violation::Reserved),
            (frame(0x80, b"x"), Violation::Fragment),
            ([frame(0x02, b"x"), frame(0x82, b"y")].concat(), Violation::Fragment),
            (frame(0x09, b"x"), Violation::Control),
            (frame(0x89, &[0; 126]), Violation::Control),
            (long(0x82, 100_001), too_long(100_001)),
            (long(0x82, 1 << 63), too_long(1 << 63)),
            (long(0x82, u64::MAX), too_long(u64::MAX)),
        ] {
            assert_eq!(decode(&octets).unwrap_err(), wanted, "{octets:02x?}");
        }
        assert_eq!(decode(&long(0x82, 100_000)).unwrap(), b"", "the longest that is taken");
        assert!(decode(&frame(0x89, &[0; 125])).is_ok());
    }

    #[test]
    fn an_unmasked_frame_is_refused_before_its_payload_has_come() {
        assert_eq!(decode(&[0x82, 0x05]).unwrap_err(), Violation::Unmasked);
    }

    #[test]
    fn a_flood_of_frames_without_content_ends_and_a_steady_trickle_does_not() {
        let now = Instant::now();
        for (empty, name) in [
            (frame(0x89, b"ping"), "ping"),
            (frame(0x8a, b""), "pong"),
            (frame(0x82, b""), "empty"),
        ] {
            let mut decoder = Decoder::new(100);
            for n in 0..IDLE.0 {
                assert_eq!(decoder.decode(&mut empty.clone(), now), Ok(0), "{name} {n}");
            }
            assert_eq!(decoder.decode(&mut empty.clone(), now), Err(Violation::Flood), "{name}");
            let mut decoder = Decoder::new(100);
            for second in 0..1_000 {
                let now = now + Duration::from_secs(second);
                assert_eq!(decoder.decode(&mut empty.clone(), now), Ok(0), "{name}");
            }
        }
    }

    proptest! {
        #[test]
        fn payload_is_the_same_however_it_is_framed_and_cut(
            pieces in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..300), any::<bool>()), 1..12),
            pings in proptest::collection::vec(0_usize..12, 0..4),
            cuts in proptest::collection::vec(1_usize..40, 1..20),
        ) {
            let (mut octets, mut wanted, mut fragmented) = (Vec::new(), Vec::new(), false);
            for (n, (piece, is_final)) in pieces.iter().enumerate() {
                if pings.contains(&n) {
                    octets.extend(frame(0x89, b"between"));
                }
                let opcode = if fragmented { 0 } else { 2 };
                fragmented = !is_final;
                octets.extend(frame(opcode | u8::from(*is_final) << 7, piece));
                wanted.extend_from_slice(piece);
            }
            let (mut decoder, mut found, mut rest) = (Decoder::new(300), Vec::new(), &octets[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, more) = rest.split_at(rest.len().min(*cut));
                let mut part = part.to_vec();
                let length = decoder.decode(&mut part, Instant::now()).unwrap();
                found.extend_from_slice(&part[..length]);
                rest = more;
            }
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn no_octets_make_it_panic(mut octets in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Decoder::new(200).decode(&mut octets, Instant::now());
        }
    }
}
