//! What the record is searched by: one SQLite file that follows the closed batches of the store.
//!
//! The store has no indices by wallet or topic, since whoever writes would pay for them on the way of packets. This file has them, and is
//! written by one task of its own ([`follow`]). It is no truth: what an answer shows comes out of the store by its number, what it
//! proves is checked against the batch's root first, and a file that is missing, damaged, or of another version or store is made anew. Readers
//! ([`search`]) open it for one question, so that nothing is held between two.

mod follow;
mod search;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use alloy_primitives::Address;
use rusqlite::{Connection, ErrorCode, OpenFlags, Row};

pub(super) use follow::{Follower, Step};
pub(super) use search::{AnchorRow, Batch, Cell, Coverage, Search, Use, Wanted};

use crate::audit::{Place, Reader, StoreError};

/// Version of the tables; one of another is thrown away.
const SCHEMA: i64 = 1;

/// Why the index has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// SQLite says so.
    #[error("the index: {0}")]
    Database(#[from] rusqlite::Error),
    /// The records say so.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It contradicts the store, or itself.
    #[error("the index is wrong about {0}")]
    Wrong(String),
    /// It could not be made anew.
    #[error("the index cannot be written: {0}")]
    File(#[from] std::io::Error),
    /// The question took too long, or nobody waits for the answer any more.
    #[error("the question took too long")]
    Late,
}

impl IndexError {
    /// Whether only a new file helps.
    fn is_damage(&self) -> bool {
        match self {
            Self::Wrong(_) => true,
            Self::Database(error) => {
                matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
                ) || error.to_string().starts_with("no such ")
            }
            _ => false,
        }
    }
}

/// Where the index is. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Index {
    file: PathBuf,
    /// Where the records are that it is about, and whose.
    records: Place,
    gateway: Address,
    /// Somebody found that it must be made anew.
    is_damaged: Arc<AtomicBool>,
    /// The store has batches that are not in it yet.
    is_behind: Arc<AtomicBool>,
}

impl Index {
    /// That of a gateway's records, in its state directory.
    pub(super) fn new(state_dir: &Path, records: Place, gateway: Address) -> Self {
        Self {
            file: state_dir.join(format!("api-index-{gateway:#x}.sqlite")),
            records,
            gateway,
            is_damaged: Arc::default(),
            is_behind: Arc::new(AtomicBool::new(true)),
        }
    }

    /// The records that it is about.
    fn reader(&self) -> Result<Reader, IndexError> {
        Ok(Reader::open(&self.records, self.gateway)?)
    }

    /// Opens it for one question, which ends at `deadline`, or when `stop` is set.
    pub(super) fn open(
        &self,
        stop: Arc<AtomicBool>,
        deadline: Instant,
    ) -> Result<Search, IndexError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&self.file, flags)
            .map_err(IndexError::from)
            .and_then(|database| Search::new(self.clone(), database, stop, deadline));
        self.noted(opened)
    }

    /// Keeps in mind that the file has to be made anew, where that is what an outcome says.
    fn noted<T>(&self, outcome: Result<T, IndexError>) -> Result<T, IndexError> {
        if let Err(error) = &outcome
            && error.is_damage()
        {
            self.is_damaged.store(true, Ordering::Relaxed);
        }
        outcome
    }

    /// Whether the store has closed batches that are not in it yet.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind.load(Ordering::Relaxed)
    }
}

fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Address> {
    row.get::<_, [u8; 20]>(column).map(Address::from)
}

#[cfg(test)]
mod tests;
