//! The octets of a record as a database holds them. Two of three octets of the encoding that hashes stand on are zeros that fill up words:
//! they are left out on the disk and put back when a record is read.
//!
//! ```text
//! stored = 0x01, then again and again: 0x00 to 0x7F: so many and one octets follow as they are
//!                                      0x80 to 0xFF: so many less 0x7F zeros
//!        | 32 octets: the leaf of a record of which nothing else is left
//!        | else the encoding itself, as all were stored at first; it begins with zeros
//! ```
//!
//! Nothing rests on this: what comes back is hashed, and has to fit its link.

use std::borrow::Cow;

use alloy_primitives::B256;
use flytrap_record::leaf;

/// Octets in place of a record of which only the leaf is left.
pub(super) const LEAF_OCTETS: usize = 32;
/// First octet of a packed record.
const PACKED: u8 = 1;
/// Zeros and up.
const ZEROS: u8 = 0x80;
/// A run of either kind is no longer than this.
const MOST_RUN: usize = 128;
/// Zeros that are worth ending a run of other octets.
const WORTH: usize = 3;
/// No record has as many octets.
const MOST_OCTETS: usize = 16_384;

/// What to store for a record with this encoding.
pub(super) fn pack(encoding: Vec<u8>) -> Vec<u8> {
    let mut packed = Vec::with_capacity(encoding.len() / 2 + 64);
    packed.push(PACKED);
    let mut rest = &encoding[..];
    while !rest.is_empty() {
        let zeros = zeros_at(rest).min(MOST_RUN);
        if zeros > 0 {
            packed.push(ZEROS + octet(zeros - 1));
            rest = &rest[zeros..];
            continue;
        }
        let plain = plain_at(rest);
        packed.push(octet(plain - 1));
        packed.extend_from_slice(&rest[..plain]);
        rest = &rest[plain..];
    }
    // It would be taken for a leaf.
    if packed.len() == LEAF_OCTETS { encoding } else { packed }
}

/// A run has at most [`MOST_RUN`] octets.
fn octet(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// Zeros that octets begin with.
fn zeros_at(octets: &[u8]) -> usize {
    octets.iter().position(|octet| *octet != 0).unwrap_or(octets.len())
}

/// Octets of a run before the next zeros that are worth ending it, at least one.
fn plain_at(octets: &[u8]) -> usize {
    let octets = &octets[..octets.len().min(MOST_RUN)];
    let mut at = 1;
    while let Some(zero) = octets.get(at..).and_then(|rest| rest.iter().position(|o| *o == 0)) {
        at += zero;
        let zeros = zeros_at(&octets[at..]);
        if zeros >= WORTH {
            return at;
        }
        at += zeros;
    }
    octets.len()
}

/// What a database holds of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored<'a> {
    /// All of it: its encoding.
    Whole(Cow<'a, [u8]>),
    /// Its leaf.
    Leaf(B256),
}

impl<'a> Stored<'a> {
    /// Reads what was stored. `None` if that was never stored.
    pub(super) fn read(octets: &'a [u8]) -> Option<Self> {
        if let Ok(leaf) = <[u8; LEAF_OCTETS]>::try_from(octets) {
            return Some(Self::Leaf(leaf.into()));
        }
        let Some((&PACKED, mut rest)) = octets.split_first() else {
            return Some(Self::Whole(octets.into()));
        };
        let mut encoding = Vec::with_capacity(1_024);
        while let Some((&run, after)) = rest.split_first() {
            if run >= ZEROS {
                encoding.resize(encoding.len() + usize::from(run - ZEROS) + 1, 0);
                rest = after;
            } else {
                let (plain, after) = after.split_at_checked(usize::from(run) + 1)?;
                encoding.extend_from_slice(plain);
                rest = after;
            }
            if encoding.len() > MOST_OCTETS {
                return None;
            }
        }
        Some(Self::Whole(encoding.into()))
    }

    /// The encoding of a record that is to be whole.
    pub(super) fn whole(octets: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        match Self::read(octets)? {
            Self::Whole(encoding) => Some(encoding),
            Self::Leaf(_) => None,
        }
    }

    pub(super) fn leaf(&self) -> B256 {
        match self {
            Self::Whole(encoding) => leaf(encoding),
            Self::Leaf(leaf) => *leaf,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(stored: &[u8]) -> Vec<u8> {
        match Stored::read(stored) {
            Some(Stored::Whole(encoding)) => encoding.into_owned(),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// Whatever its zeros and their places, an encoding comes back as it was.
        #[test]
        fn what_was_packed_comes_back_as_it_was(
            parts in prop::collection::vec((0..300_usize, prop::collection::vec(any::<u8>(), 0..300)), 1..12),
        ) {
            // As all encodings, it begins with zeros.
            let mut encoding = vec![0; 31];
            for (zeros, plain) in parts {
                encoding.resize(encoding.len() + zeros, 0);
                encoding.extend(plain);
            }
            prop_assert_eq!(whole(&pack(encoding.clone())), encoding);
        }

        /// Octets that were never stored are refused or read, and never cost more than a record.
        #[test]
        fn whatever_stands_there_is_read_within_bounds(octets in prop::collection::vec(any::<u8>(), 0..2_000)) {
            for octets in [&octets[..], &[&[PACKED][..], &octets[..]].concat()] {
                if let Some(Stored::Whole(encoding)) = Stored::read(octets) {
                    prop_assert!(encoding.len() <= MOST_OCTETS);
                }
            }
        }
    }

    #[test]
    fn nothing_that_is_packed_is_taken_for_a_leaf() {
        let mut lengths = Vec::new();
        for plain in 1..60 {
            let encoding = [vec![0; 31], vec![7; plain]].concat();
            let packed = pack(encoding.clone());
            lengths.push(packed.len());
            assert_eq!(whole(&packed), encoding);
        }
        // What would have been 32 is stored as it is.
        assert!(
            lengths.windows(3).any(|three| three[0] + 1 == 32 && three[1] > 33 && three[2] == 33)
        );
    }

    #[test]
    fn what_grows_past_every_record_or_ends_within_a_run_was_never_stored() {
        let most = [&[PACKED][..], &[0xFF; MOST_OCTETS / MOST_RUN]].concat();
        assert_eq!(whole(&most).len(), MOST_OCTETS);
        assert_eq!(Stored::read(&[&most[..], &[0x80]].concat()), None);
        assert_eq!(Stored::read(&[PACKED, 2, 7, 7]), None);
    }
}
