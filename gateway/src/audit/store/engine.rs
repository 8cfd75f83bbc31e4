//! What a database must be able to do to hold records. Each engine knows its tables and statements and nothing of what they mean;
//! numbering, chaining, sealing and what may go are the same for all, in [`super`].

use std::fmt;

use alloy_primitives::B256;
use flytrap_record::seal::SubjectKey;

use super::StoreError;

/// One open database, or one gateway's part of it.
pub(super) trait Engine: fmt::Debug + Send {
    /// Sees to it that what was opened is still there, or is reached again and nobody else writes. True if the connection is a new one:
    /// what happened meanwhile, the last record tells.
    fn ready(&mut self) -> Result<bool, StoreError>;

    /// The last record.
    fn last(&self) -> Result<Option<Last>, StoreError>;

    /// Hands records to `each` by their numbers from `first` on, at most `count`, until it says false.
    fn records(
        &self,
        first: u64,
        count: u64,
        each: &mut dyn FnMut(Row<'_>) -> bool,
    ) -> Result<(), StoreError>;

    /// Batches from this sequence number on, at most `most`.
    fn batches(&self, from: u64, most: u32) -> Result<Vec<BatchRow>, StoreError>;

    /// The newest batch of those up to this sequence number.
    fn last_batch(&self, to: u64) -> Result<Option<BatchRow>, StoreError>;

    /// Those of these subjects' keys that there are.
    fn keys(&self, tags: Vec<B256>) -> Result<Vec<KeyRow>, StoreError>;

    /// Up to which record refusals were looked at.
    fn refusals_to(&self) -> Result<u64, StoreError>;

    /// Does all of it or, where it fails, nothing; when it returns, it is durable. After an error it is not known which: the connection may
    /// have ended between the two.
    fn apply(&mut self, change: Change) -> Result<Applied, StoreError>;

    /// Takes keys that were deleted out of the places where the database keeps them for a while, as far as it can. False if somebody
    /// who reads is in the way.
    fn scrub_keys(&mut self) -> Result<bool, StoreError>;

    /// The same for records.
    fn scrub_records(&mut self) -> Result<bool, StoreError>;
}

/// Number and link of a record.
pub(super) type Last = (u64, B256);

/// A record as it is read.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) index: u64,
    pub(super) link: B256,
    pub(super) kind: i64,
    pub(super) last_at: u64,
    pub(super) octets: &'a [u8],
}

/// A record as it is written.
#[derive(Debug)]
pub(super) struct NewRow {
    pub(super) index: u64,
    pub(super) link: B256,
    pub(super) kind: u8,
    pub(super) last_at: u64,
    /// As [`pack`](super::packed::pack) makes them.
    pub(super) octets: Vec<u8>,
}

/// Records that were put together for an anchor.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchRow {
    pub(super) sequence: u64,
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) before: B256,
    pub(super) root: B256,
    pub(super) previous: B256,
}

/// A subject's key, and the second of the last record that it sealed, or somewhat before that.
#[derive(Debug, Clone)]
pub(super) struct KeyRow {
    pub(super) tag: B256,
    pub(super) key: SubjectKey,
    pub(super) last_at: u64,
}

/// What one transaction does, in this order.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// The subject whose key goes.
    pub(super) erased: Option<B256>,
    /// Keys that are new, or are used later than is written.
    pub(super) keys: Vec<KeyRow>,
    /// Records that are appended.
    pub(super) rows: Vec<NewRow>,
    /// Batches that are closed.
    pub(super) closed: Vec<BatchRow>,
    /// A batch that goes, by its sequence number.
    pub(super) batch: Option<u64>,
    /// Of the records before this one the first go, so many.
    pub(super) before: Option<(u64, u32)>,
    /// Records of which only the leaf is left.
    pub(super) emptied: Vec<(u64, B256)>,
    /// Up to which record refusals were looked at.
    pub(super) refusals_to: Option<u64>,
    /// Keys go that nothing was sealed with since this second.
    pub(super) keys_before: Option<u64>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// There was a key to erase.
    pub(super) erased: bool,
    /// So many records went.
    pub(super) deleted: u64,
}
