//! A Merkle tree in the shape of RFC 9162 section 2.1: the left half is the largest power of two that is smaller than the whole, and a leaf without a
//! neighbour goes up as it is. So no leaf counts twice, and equal tops mean equal lists.

use alloy_primitives::{B256, keccak256};
use serde::{Deserialize, Serialize};

use crate::hash::NODE;

fn node(left: B256, right: B256) -> B256 {
    let mut octets = [0; 65];
    octets[0] = NODE;
    octets[1..33].copy_from_slice(left.as_slice());
    octets[33..].copy_from_slice(right.as_slice());
    keccak256(octets)
}

/// Top of the tree over `leaves`, which come one by one. Zero if there are none.
///
/// Holds one hash per level.
#[must_use]
pub fn top(leaves: impl IntoIterator<Item = B256>) -> B256 {
    // Full subtrees from the left, the largest first: their sizes are the bits of the number of leaves.
    let mut full: Vec<B256> = Vec::new();
    for (before, leaf) in leaves.into_iter().enumerate() {
        let mut grown = leaf;
        for _ in 0..before.trailing_ones() {
            if let Some(left) = full.pop() {
                grown = node(left, grown);
            }
        }
        full.push(grown);
    }
    full.into_iter().rev().reduce(|right, left| node(left, right)).unwrap_or_default()
}

/// The way from one leaf to the top.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Path {
    /// Place of the leaf, from 0.
    pub place: u64,
    /// Leaves in all.
    pub leaves: u64,
    /// What stands beside the way, from the leaf up; at most 64.
    pub beside: Vec<B256>,
}

impl Path {
    /// The way from the leaf at `place`; `None` if there is none.
    #[must_use]
    pub fn of(leaves: &[B256], place: usize) -> Option<Self> {
        if place >= leaves.len() {
            return None;
        }
        let mut beside = Vec::new();
        let (mut part, mut at) = (leaves, place);
        while part.len() > 1 {
            let (left, right) = part.split_at(part.len().next_power_of_two() / 2);
            if at < left.len() {
                beside.push(top(right.iter().copied()));
                part = left;
            } else {
                beside.push(top(left.iter().copied()));
                at -= left.len();
                part = right;
            }
        }
        beside.reverse();
        Some(Self {
            place: u64::try_from(place).ok()?,
            leaves: u64::try_from(leaves.len()).ok()?,
            beside,
        })
    }

    /// The top that the leaf leads to by this way; `None` if it is not a way in such a tree.
    #[must_use]
    pub fn top(&self, leaf: B256) -> Option<B256> {
        if self.place >= self.leaves {
            return None;
        }
        // RFC 9162 section 2.1.3.2.
        let (mut at, mut last) = (self.place, self.leaves - 1);
        let mut grown = leaf;
        for beside in &self.beside {
            if last == 0 {
                return None;
            }
            if at & 1 == 1 || at == last {
                grown = node(*beside, grown);
                while at & 1 == 0 && at != 0 {
                    at >>= 1;
                    last >>= 1;
                }
            } else {
                grown = node(grown, *beside);
            }
            at >>= 1;
            last >>= 1;
        }
        (last == 0).then_some(grown)
    }
}

/// The tops of the parts of a tree of at most [`Blocks::LEAVES`] leaves each, so that a way to the top is found without all leaves.
///
/// The parts of a whole power of two are subtrees of their own, since the left half of each tree is one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blocks {
    tops: Vec<B256>,
    /// Leaves of the last part, while it is not full.
    open: Vec<B256>,
}

impl Blocks {
    /// Leaves of a part.
    pub const LEAVES: usize = 1_024;

    /// Takes the next leaf. Returns the top of the part that is full with it.
    pub fn push(&mut self, leaf: B256) -> Option<B256> {
        self.open.push(leaf);
        if self.open.len() < Self::LEAVES { None } else { self.close() }
    }

    /// The last part ends here, if there is one that is not full. Returns its top.
    pub fn close(&mut self) -> Option<B256> {
        if self.open.is_empty() {
            return None;
        }
        let part = top(self.open.drain(..));
        self.tops.push(part);
        Some(part)
    }

    /// Top of the tree over all leaves.
    #[must_use]
    pub fn top(&self) -> B256 {
        let open = (!self.open.is_empty()).then(|| top(self.open.iter().copied()));
        top(self.tops.iter().copied().chain(open))
    }

    /// The way from one leaf to the top, by the tops of all parts and the leaves of its own.
    #[must_use]
    pub fn path(
        tops: &[B256],
        part: usize,
        leaves: &[B256],
        place: usize,
        all: u64,
    ) -> Option<Path> {
        let mut path = Path::of(leaves, place)?;
        path.beside.extend(Path::of(tops, part)?.beside);
        let before = u64::try_from(part.checked_mul(Self::LEAVES)?).ok()?;
        path.place = path.place.checked_add(before)?;
        path.leaves = all;
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// By parts or whole, it is the same way, and leads to the same top.
        #[test]
        fn a_way_found_by_parts_is_the_way_through_the_whole_tree(
            count in prop_oneof![1..5_usize, 1_020..1_030_usize, 1..6_000_usize],
            at in any::<prop::sample::Index>(),
        ) {
            let leaves: Vec<B256> = (0..count).map(|n| keccak256(n.to_be_bytes())).collect();
            let mut blocks = Blocks::default();
            let mut tops: Vec<B256> = leaves.iter().filter_map(|leaf| blocks.push(*leaf)).collect();
            prop_assert_eq!(blocks.top(), top(leaves.iter().copied()));
            tops.extend(blocks.close());
            prop_assert_eq!(blocks.top(), top(leaves.iter().copied()));
            let place = at.index(count);
            let part = place / Blocks::LEAVES;
            let own = leaves.chunks(Blocks::LEAVES).nth(part).unwrap_or_default();
            let all = u64::try_from(count).unwrap_or_default();
            let found = Blocks::path(&tops, part, own, place % Blocks::LEAVES, all);
            prop_assert_eq!(&found, &Path::of(&leaves, place));
            prop_assert_eq!(found.and_then(|path| path.top(leaves[place])), Some(blocks.top()));
        }
    }

    fn leaves(count: u8) -> Vec<B256> {
        (0..count).map(|n| keccak256([n])).collect()
    }

    /// As RFC 9162 defines it, word for word.
    fn defined(leaves: &[B256]) -> B256 {
        match leaves {
            [] => B256::ZERO,
            [leaf] => *leaf,
            more => {
                let mut k = 1;
                while k * 2 < more.len() {
                    k *= 2;
                }
                node(defined(&more[..k]), defined(&more[k..]))
            }
        }
    }

    #[test]
    fn the_top_is_the_one_that_rfc_9162_defines() {
        for count in 0..=130 {
            let leaves = leaves(count);
            assert_eq!(top(leaves.iter().copied()), defined(&leaves), "{count} leaves");
        }
    }

    #[test]
    fn every_leaf_has_a_way_to_the_top_and_no_other_leaf_or_place_has_it() {
        for count in 1..=40 {
            let leaves = leaves(count);
            let wanted = top(leaves.iter().copied());
            for place in 0..leaves.len() {
                let path = Path::of(&leaves, place).expect("a way");
                assert_eq!(path.top(leaves[place]), Some(wanted), "{place} of {count}");
                assert_ne!(path.top(keccak256("another")), Some(wanted));
                for other in (0..u64::from(count)).filter(|other| *other != path.place) {
                    let moved = Path { place: other, ..path.clone() };
                    assert_ne!(moved.top(leaves[place]), Some(wanted), "{place} as {other}");
                }
            }
        }
    }

    #[test]
    fn a_way_that_is_too_short_too_long_or_beside_the_tree_leads_nowhere() {
        let leaves = leaves(13);
        let path = Path::of(&leaves, 5).expect("a way");
        let mut short = path.clone();
        short.beside.pop();
        let mut long = path.clone();
        long.beside.push(B256::ZERO);
        for wrong in [short, long, Path { place: 13, ..path.clone() }, Path { leaves: 0, ..path }] {
            assert_eq!(wrong.top(leaves[5]), None, "{wrong:?}");
        }
        assert_eq!(Path::of(&leaves, 13), None);
    }

    /// The trick of CVE-2012-2459: a list whose last leaf is doubled must have another top.
    #[test]
    fn doubling_the_last_leaf_changes_the_top() {
        for count in 1..40 {
            let mut doubled = leaves(count);
            let before = top(doubled.iter().copied());
            doubled.extend(doubled.last().copied());
            assert_ne!(top(doubled), before, "{count} leaves");
        }
    }
}
