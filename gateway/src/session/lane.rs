//! One direction of output: octets forwarded as they came, and octets of our own between them.

use std::ops::Range;

/// Collects what one batch of frames sends in one direction.
///
/// As long as everything is forwarded as it came, nothing is copied: the lane only remembers the run within `source`, the
/// octets that one read brought. The first octets of our own, or a gap, make it copy into `buffer`, in order.
pub struct Lane<'a> {
    source: &'a [u8],
    run: Range<usize>,
    buffer: &'a mut Vec<u8>,
    forwarded: u64,
}

impl<'a> Lane<'a> {
    /// A lane over `source`, the octets that frames are forwarded from; `buffer` must be empty.
    pub fn new(source: &'a [u8], buffer: &'a mut Vec<u8>) -> Self {
        debug_assert!(buffer.is_empty(), "a lane starts with an empty buffer");
        Self { source, run: 0..0, buffer, forwarded: 0 }
    }

    /// Forwards `frame`, a range of the source, as it came.
    #[inline]
    pub fn forward(&mut self, frame: Range<usize>) {
        self.forward_all(frame, 1);
    }

    /// The same of so many frames that follow one another.
    #[inline]
    pub fn forward_all(&mut self, octets: Range<usize>, frames: u64) {
        self.forwarded += frames;
        if self.run.end == octets.start && self.buffer.is_empty() {
            self.run.end = octets.end;
        } else if self.run.is_empty() && self.buffer.is_empty() {
            self.run = octets;
        } else {
            self.settle();
            self.buffer.extend_from_slice(&self.source[octets]);
        }
    }

    /// How many frames were forwarded as they came.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.forwarded
    }

    /// The buffer to append octets of our own to, behind what was forwarded so far.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.settle();
        self.buffer
    }

    fn settle(&mut self) {
        if !self.run.is_empty() {
            let run = std::mem::take(&mut self.run);
            self.buffer.extend_from_slice(&self.source[run]);
        }
    }

    /// What is to be written, in order.
    pub fn octets(&self) -> &[u8] {
        if self.buffer.is_empty() { &self.source[self.run.clone()] } else { self.buffer }
    }
}

#[cfg(test)]
mod tests {
    use super::Lane;

    #[test]
    fn adjacent_frames_are_written_from_where_they_were_read() {
        let (source, mut buffer) = (*b"aabbcc", Vec::new());
        let mut lane = Lane::new(&source, &mut buffer);
        lane.forward(0..1);
        lane.forward_all(1..4, 2);
        assert_eq!((lane.octets(), lane.forwarded()), (&b"aabb"[..], 3));
        assert!(buffer.is_empty(), "nothing was copied");
    }

    #[test]
    fn a_run_may_start_behind_a_dropped_frame() {
        let (source, mut buffer) = (*b"aabbcc", Vec::new());
        let mut lane = Lane::new(&source, &mut buffer);
        lane.forward(2..4);
        lane.forward(4..6);
        assert_eq!(lane.octets(), b"bbcc");
        assert!(buffer.is_empty(), "nothing was copied");
    }

    #[test]
    fn gaps_and_own_octets_keep_the_order() {
        let (source, mut buffer) = (*b"aabbccdd", Vec::new());
        let mut lane = Lane::new(&source, &mut buffer);
        lane.forward(0..2);
        lane.forward(4..6);
        lane.buffer().extend_from_slice(b"__");
        lane.forward(6..8);
        assert_eq!(lane.octets(), b"aacc__dd");
    }
}
