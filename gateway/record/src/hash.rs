//! The three hashes of the record, each with a mark of its own, so that none can be taken for another.

use alloy_primitives::{B256, Keccak256, keccak256};

/// Marks of what is hashed.
const LEAF: u8 = 0;
pub(crate) const NODE: u8 = 1;
const LINK: u8 = 2;
const ROOT: u8 = 3;

/// The leaf of a record, from its [encoding](crate::Record::encode).
#[must_use]
pub fn leaf(encoding: &[u8]) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update([LEAF]);
    hasher.update(encoding);
    hasher.finalize()
}

/// The link of a record: what it and all before it come to. `before` is zero for the first.
#[must_use]
pub fn link(before: B256, leaf: B256) -> B256 {
    let mut octets = [0; 65];
    octets[0] = LINK;
    octets[1..33].copy_from_slice(before.as_slice());
    octets[33..].copy_from_slice(leaf.as_slice());
    keccak256(octets)
}

/// The records that are anchored together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Number of the first record.
    pub first: u64,
    /// How many there are, at least 1.
    pub count: u64,
    /// Link of the record before the first, zero if there is none.
    pub before: B256,
    /// Top of the tree over their leaves, see [`top`](crate::top).
    pub top: B256,
}

impl Batch {
    /// What goes on chain. Binds number and order of the records, so that neither a shorter nor a longer tree has the same root.
    #[must_use]
    pub fn root(&self) -> B256 {
        let mut octets = [0; 81];
        octets[0] = ROOT;
        octets[1..9].copy_from_slice(&self.first.to_be_bytes());
        octets[9..17].copy_from_slice(&self.count.to_be_bytes());
        octets[17..49].copy_from_slice(self.before.as_slice());
        octets[49..].copy_from_slice(self.top.as_slice());
        keccak256(octets)
    }
}
