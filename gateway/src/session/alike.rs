//! Frames that begin like the one before them.

use flytrap_mqtt::{Frame, Publish};

/// How a PUBLISH of QoS 0 begins: flags, remaining length, topic name and properties. A frame that begins with the same octets is of the same
/// length and differs in its payload alone, so at the same moment whoever may send the one may send the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    octets: usize,
    frame: usize,
}

/// Frames that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// How many.
    pub(super) frames: u64,
    /// All their octets.
    pub(super) octets: usize,
}

impl Head {
    /// `None` for a message that has an identifier, which no other one has.
    #[inline]
    pub(super) fn of(frame: &Frame<'_>, publish: &Publish<'_>) -> Option<Self> {
        let frame = frame.octets().len();
        let octets = frame - publish.payload.len();
        publish.packet_id.is_none().then_some(Self { octets, frame })
    }

    /// Octets of payload of each such frame.
    #[inline]
    pub(super) fn payload(&self) -> usize {
        self.frame - self.octets
    }

    /// The whole frames right behind the one that `octets` begin with which begin as it does.
    #[inline]
    pub(super) fn run_behind(&self, octets: &[u8]) -> Run {
        let (first, behind) = octets.split_at(self.frame.min(octets.len()));
        let head = &first[..self.octets.min(first.len())];
        let frames = behind
            .chunks_exact(self.frame.max(1))
            .take_while(|next| next.starts_with(head))
            .count();
        Run { frames: frames as u64, octets: frames * self.frame }
    }
}

#[cfg(test)]
mod tests {
    use flytrap_mqtt::{Peer, Version, frame, read_raw_publish};

    use super::*;

    fn head(octets: &[u8]) -> Option<Head> {
        let frame = frame(octets, octets.len()).unwrap().unwrap();
        let raw = read_raw_publish(Version::V311, Peer::Client, frame).unwrap();
        Head::of(&frame, raw.rest())
    }

    #[test]
    fn whole_frames_that_differ_in_their_payload_alone_are_a_run() {
        let first = b"\x30\x05\x00\x01a12";
        let head = head(first).unwrap();
        assert_eq!(head.payload(), 2);
        let run = |behind: &[u8]| head.run_behind(&[first, behind].concat());
        let frames = |frames: usize| Run { frames: frames as u64, octets: 7 * frames };
        assert_eq!(run(b""), frames(0));
        assert_eq!(run(b"\x30\x05\x00\x01a34\x30\x05\x00\x01a56"), frames(2));
        for other in [
            &b"\x30\x05\x00\x01b34"[..],
            b"\x31\x05\x00\x01a34",
            b"\x30\x05\x00\x02a34",
            b"\x30\x04\x00\x01a3",
            b"\x30\x06\x00\x01a345",
            b"\x30\x05\x00\x01a3",
        ] {
            assert_eq!(run(other), frames(0), "{other:?}");
            assert_eq!(run(&[b"\x30\x05\x00\x01a34", other].concat()), frames(1), "{other:?}");
        }
    }

    #[test]
    fn what_has_an_identifier_is_alone() {
        assert!(head(b"\x32\x06\x00\x01a\x00\x071").is_none());
    }
}
