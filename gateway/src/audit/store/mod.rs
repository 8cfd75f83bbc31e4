//! The records of this gateway: appended, chained, never changed, and not kept longer than they are to be.
//!
//! ```text
//! Writer -> Store ─ numbers, chains, seals, closes batches, forgets ─> Engine ─┬─ SQLite: a file of the state directory
//! export, API -> Reader ─────────────────────────────────────────────> Engine ─┴─ PostgreSQL: several gateways, each a chain of its own
//! ```
//!
//! A transaction is durable when [`Store::append`] returns, and holds all of its records or none. After one that failed, the last record is read
//! again before the next, since a server can have done what it could not say any more: whoever asks again for the same gets it once.

mod engine;
mod error;
mod keys;
mod moving;
mod packed;
mod postgres;
mod reader;
mod retention;
mod schema;
mod sealing;
mod sqlite;
#[cfg(test)]
pub(super) mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::Instant;

use alloy_primitives::{Address, B256};
use flytrap_record::export::MOST_RECORDS;
use flytrap_record::seal::{Personal, Subject};
use flytrap_record::{Batch, Record, leaf, link, top};

pub use error::StoreError;
pub(super) use moving::{Moved, Step, relocate};
pub use reader::Reader;
pub use retention::{Retained, Retention};

use crate::config::{Config, DatabaseConfig, Secret};
use engine::{Applied, BatchRow, Change, Engine, Last, NewRow};
use keys::Keys;
use packed::Stored;
use postgres::{Postgres, Role};
use sealing::Sealed;
use sqlite::Sqlite;

/// What happened, on its way to become a record: without a number, and with what is personal in the clear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// The record; its number and its sealed part are filled in when it is written.
    pub record: Record,
    /// Whom it is about and what of it is personal.
    pub personal: Option<(Subject, Personal)>,
}

/// Records that were put together for an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Number of its anchor.
    pub sequence: u64,
    /// What the chain gets.
    pub root: B256,
    /// Root of the anchor before.
    pub previous: B256,
    /// How many records.
    pub count: u64,
}

impl From<BatchRow> for Closed {
    fn from(row: BatchRow) -> Self {
        let BatchRow { sequence, root, previous, count, .. } = row;
        Self { sequence, root, previous, count }
    }
}

/// Where records are kept.
#[derive(Debug, Clone)]
pub enum Place {
    /// A SQLite file, of one gateway.
    File(PathBuf),
    /// A PostgreSQL database, of as many as are configured to use it.
    Database(Box<DatabaseConfig>),
}

impl Place {
    /// Where this configuration has the records of `gateway`.
    #[must_use]
    pub fn of(config: &Config, gateway: Address) -> Self {
        match &config.audit.database {
            Some(database) => Self::Database(Box::new(database.clone())),
            None => Self::File(file_in(&config.state_dir, gateway)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "\"{}\"", path.display()),
            Self::Database(database) => database.fmt(f),
        }
    }
}

/// File of a gateway's records in a state directory. Anchors go by the gateway's key, so another key begins another file.
#[must_use]
pub fn file_in(state_dir: &Path, gateway: Address) -> PathBuf {
    state_dir.join(format!("records-{gateway:#x}.sqlite"))
}

/// The writer's side.
#[derive(Debug)]
pub struct Store {
    engine: Box<dyn Engine>,
    place: String,
    gateway: Address,
    pseudonym_key: Secret<[u8; 32]>,
    /// Number and link of the last record; 0 and zero if there is none.
    tail: Last,
    keys: Keys,
    keys_swept: Option<Instant>,
    /// Whether `tail` is the last record is to be looked at again.
    is_unsure: bool,
    /// What became of the last transaction is not known.
    attempt: Option<Attempt>,
    /// It was done, and whoever asked for it does not know yet.
    done: Option<Attempt>,
    /// The database may hold for a while what retention has removed.
    holds_removed: bool,
}

/// A transaction that failed, and may have been done all the same.
#[derive(Debug)]
struct Attempt {
    drafts: Vec<Draft>,
    erased: Option<B256>,
    /// The last record if it was done.
    tail: Last,
}

impl Store {
    /// Opens the records of a gateway for writing, and begins them if there are none. Checks that what has not been closed yet is as it was
    /// written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(
        place: &Place,
        gateway: Address,
        pseudonym_key: Secret<[u8; 32]>,
    ) -> Result<Self, StoreError> {
        let engine: Box<dyn Engine> = match place {
            Place::File(path) => Box::new(Sqlite::write(path)?),
            Place::Database(database) => {
                Box::new(Postgres::open(database.as_ref().clone(), gateway, Role::Writer)?)
            }
        };
        let mut store = Self {
            engine,
            place: place.to_string(),
            gateway,
            pseudonym_key,
            tail: (0, B256::ZERO),
            keys: Keys::default(),
            keys_swept: None,
            is_unsure: false,
            attempt: None,
            done: None,
            holds_removed: false,
        };
        store.engine.ready()?;
        store.tail = store.checked_tail()?;
        Ok(store)
    }

    /// Appends records; when it returns they are durable. Returns the number of the last.
    ///
    /// # Errors
    /// [`StoreError`]. None of them was appended then, or all of them; asking for the very same again appends them once.
    pub fn append(&mut self, drafts: &[Draft]) -> Result<u64, StoreError> {
        self.recover()?;
        if drafts.is_empty() {
            return Ok(self.tail.0);
        }
        let done = self.done.take();
        let is_done = done.is_some_and(|done| done.erased.is_none() && done.drafts == drafts);
        if !is_done {
            self.write(drafts, None)?;
        }
        Ok(self.tail.0)
    }

    /// Deletes the key of `subject`, so that what is personal about it cannot be read any more, here or in any copy, and appends the record
    /// that says so. Says whether there was a key.
    ///
    /// # Errors
    /// [`StoreError`]; neither was done then, or both. Both with [`StoreError::Lingers`].
    pub fn erase(&mut self, subject: Subject, told: &Draft) -> Result<bool, StoreError> {
        let tag = subject.tag(self.pseudonym_key.expose());
        self.recover()?;
        let is_done = self.done.take().is_some_and(|done| done.erased == Some(tag));
        let had = is_done || self.write(slice::from_ref(told), Some(tag))?.erased;
        if !self.engine.scrub_keys()? {
            return Err(StoreError::Lingers { place: self.place.clone() });
        }
        Ok(had)
    }

    /// Sees to it that the last record is the one that is taken for it, where a transaction failed or the connection is a new one.
    fn recover(&mut self) -> Result<(), StoreError> {
        self.is_unsure |= self.engine.ready()?;
        if !self.is_unsure {
            return Ok(());
        }
        let found = self.engine.last()?.unwrap_or_default();
        if found != self.tail {
            match self.attempt.take().filter(|attempt| attempt.tail == found) {
                Some(attempt) => {
                    self.tail = found;
                    self.done = Some(attempt);
                }
                None => {
                    let (place, gateway) = (self.place.clone(), self.gateway);
                    let (found, wanted) = (found.0, self.tail.0);
                    return Err(StoreError::Changed { place, gateway, found, wanted });
                }
            }
        }
        self.attempt = None;
        self.is_unsure = false;
        Ok(())
    }

    /// Seals, numbers and chains records and writes them, and deletes a key: both or neither.
    fn write(&mut self, drafts: &[Draft], erased: Option<B256>) -> Result<Applied, StoreError> {
        let (tags, subjects) = self.subjects(drafts);
        if let Some(tag) = erased {
            self.keys.forget(tag);
        }
        let changed = self.keys.fetch(&subjects, erased, self.engine.as_ref())?;
        let (mut index, mut at) = self.tail;
        let sealed = self.seal(index + 1, drafts, &tags)?;
        let mut rows = Vec::with_capacity(sealed.len());
        for (Sealed { leaf, octets }, Draft { record, .. }) in sealed.into_iter().zip(drafts) {
            index += 1;
            at = link(at, leaf);
            let (kind, last_at) = (record.kind.number(), record.last_at);
            rows.push(NewRow { index, link: at, kind, last_at, octets });
        }
        let tail = (index, at);
        match self.engine.apply(Change { erased, keys: changed, rows, ..Change::default() }) {
            Ok(applied) => {
                self.tail = tail;
                Ok(applied)
            }
            Err(error) => {
                self.keys.clear();
                self.is_unsure = true;
                self.attempt = Some(Attempt { drafts: drafts.to_vec(), erased, tail });
                Err(error)
            }
        }
    }

    /// Puts the records that came since the last time together for an anchor; `None` if there are none. `on_chain` tells sequence and root of
    /// the last anchor that the chain has of this gateway, which counts where less is known here: a gateway that lost its records, or came back
    /// with an older copy of them, goes on after that.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn close(&mut self, on_chain: (u64, B256)) -> Result<Option<Closed>, StoreError> {
        self.recover()?;
        let last = self.engine.last_batch(u64::MAX)?;
        let (known, first, root) = last
            .map_or((0, 1, B256::ZERO), |last| (last.sequence, last.first + last.count, last.root));
        let (before, previous) = if known < on_chain.0 { on_chain } else { (known, root) };
        let count = (self.tail.0 + 1).saturating_sub(first).min(MOST_RECORDS);
        if count == 0 {
            return Ok(None);
        }
        let batch = Batch {
            first,
            count,
            before: self.link_of(first - 1)?,
            top: top(self.leaves(first, count)?),
        };
        let row = BatchRow {
            sequence: before + 1,
            first,
            count,
            before: batch.before,
            root: batch.root(),
            previous,
        };
        self.engine.apply(Change { closed: vec![row], ..Change::default() })?;
        Ok(Some(row.into()))
    }

    /// Closed batches after the one with this sequence number, in order, at most `most`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn closed_after(&mut self, sequence: u64, most: u32) -> Result<Vec<Closed>, StoreError> {
        self.recover()?;
        let found = self.engine.batches(sequence.saturating_add(1), most)?;
        Ok(found.into_iter().map(Closed::from).collect())
    }

    fn link_of(&self, index: u64) -> Result<B256, StoreError> {
        if index == 0 {
            return Ok(B256::ZERO);
        }
        let mut found = None;
        self.engine.records(index, 1, &mut |row| {
            found = (row.index == index).then_some(row.link);
            false
        })?;
        found.ok_or_else(|| self.damaged(format!("record {index} is missing")))
    }

    fn leaves(&self, first: u64, count: u64) -> Result<Vec<B256>, StoreError> {
        let mut leaves = Vec::new();
        self.engine.records(first, count, &mut |row| {
            leaves.extend(Stored::whole(row.octets).map(|encoding| leaf(&encoding)));
            true
        })?;
        if u64::try_from(leaves.len()) == Ok(count) {
            return Ok(leaves);
        }
        Err(self.damaged(format!("of {count} records from {first} there are {}", leaves.len())))
    }

    /// The last record, after reading again what no anchor stands for yet.
    fn checked_tail(&self) -> Result<Last, StoreError> {
        let first = self.engine.last_batch(u64::MAX)?.map_or(1, |last| last.first + last.count);
        let (mut index, mut at) = (first - 1, self.link_of(first - 1)?);
        let mut is_whole = true;
        self.engine.records(first, u64::MAX, &mut |row| {
            index += 1;
            let encoding = Stored::whole(row.octets);
            at = encoding.map_or(B256::ZERO, |encoding| link(at, leaf(&encoding)));
            is_whole = (row.index, row.link) == (index, at);
            is_whole
        })?;
        match is_whole {
            true => Ok((index, at)),
            false => Err(self.damaged(format!("record {index} is not as it was written"))),
        }
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { place: self.place.clone(), what }
    }
}
