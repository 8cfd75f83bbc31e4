//! Frames that begin like the one before them.

use flytrap_mqtt::{Frame, Publish};

use super::tally::Spent;

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
    /// Of a message whose permit was spent. `None` if that was counted, as each has to be then, and for one that has an identifier, which no
    /// other has.
    #[inline]
    pub(super) fn of(spent: Spent, frame: &Frame<'_>, publish: &Publish<'_>) -> Option<Self> {
        let is_one_of_many = !spent.is_counted() && publish.packet_id.is_none();
        let frame = frame.octets().len();
        let octets = frame - publish.payload.len();
        is_one_of_many.then_some(Self { octets, frame })
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

    fn head(version: Version, octets: &[u8], spent: Spent) -> Option<Head> {
        let frame = frame(octets, octets.len()).unwrap().unwrap();
        let raw = read_raw_publish(version, Peer::Client, frame).unwrap();
        Head::of(spent, &frame, raw.rest())
    }

    /// How many of the frames behind the first are a run with it.
    fn run(version: Version, first: &[u8], behind: &[&[u8]]) -> u64 {
        let head = head(version, first, Spent::default()).unwrap();
        let behind = behind.concat();
        let run = head.run_behind(&[first, &behind].concat());
        assert_eq!(run.octets as u64, run.frames * first.len() as u64);
        run.frames
    }

    #[test]
    fn whole_frames_that_differ_in_their_payload_alone_are_a_run() {
        let first = b"\x30\x05\x00\x01a12";
        assert_eq!(head(Version::V311, first, Spent::default()).unwrap().payload(), 2);
        let run = |behind: &[&[u8]]| run(Version::V311, first, behind);
        assert_eq!(run(&[]), 0);
        let like = b"\x30\x05\x00\x01a34";
        assert_eq!(run(&[like, b"\x30\x05\x00\x01a\x00\xFF"]), 2);
        for other in [
            &b"\x30\x05\x00\x01b34"[..],
            b"\x31\x05\x00\x01a34",
            b"\x30\x05\x00\x02a34",
            b"\x30\x04\x00\x01a3",
            b"\x30\x06\x00\x01a345",
            b"\x30\x05\x00\x01a3",
        ] {
            assert_eq!((run(&[other]), run(&[like, other])), (0, 1), "{other:?}");
        }
        let long = |octet| [&b"\x30\xCB\x01\x00\x01a"[..], &[octet; 200]].concat();
        assert_eq!(super::tests::run(Version::V311, &long(1), &[&long(2), &long(3)]), 2);
    }

    /// Or a topic alias in the place of a payload would go past what reads it.
    #[test]
    fn properties_are_no_payload() {
        let bare = b"\x30\x07\x00\x01a\x00123";
        let aliased = b"\x30\x07\x00\x01a\x03\x23\x00\x01";
        assert_eq!(run(Version::V5, bare, &[b"\x30\x07\x00\x01a\x00456", aliased]), 1);
        let with = |key, value| {
            [b"\x30\x0c\x00\x01a\x07\x26\x00\x01", &[key, 0, 1, value][..], b"x"].concat()
        };
        assert_eq!(run(Version::V5, &with(b'k', b'v'), &[&with(b'k', b'v'), &with(b'k', b'w')]), 1);
    }

    #[test]
    fn what_is_counted_or_has_an_identifier_is_alone() {
        let counted = Spent::counted(false);
        assert!(head(Version::V311, b"\x30\x05\x00\x01a12", counted).is_none());
        assert!(head(Version::V311, b"\x32\x06\x00\x01a\x00\x071", Spent::default()).is_none());
    }
}
