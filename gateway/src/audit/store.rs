//! The records of this gateway on disk: appended, chained, never changed, and not kept longer than they are to be.
//!
//! One SQLite file in the state directory with one writer. A transaction is durable when [`Store::append`] returns, and holds all of
//! its records or none. Others may read at the same time ([`Reader`]).

mod retention;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::slice;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use flytrap_record::export::{BatchLine, Line, MOST_RECORDS, RecordLine, RemovedLine};
use flytrap_record::seal::{Personal, Subject, SubjectKey};
use flytrap_record::{Batch, Record, leaf, link, top};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, TransactionBehavior, params};

pub use retention::{Retained, Retention};

/// Version of the tables.
const SCHEMA: i64 = 2;
/// Octets in place of a record of which only the leaf is left; no record is so short.
const LEAF_OCTETS: usize = 32;
/// How long a writer waits for a reader that is in its way.
const BUSY: Duration = Duration::from_secs(5);

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

/// What is wrong with the file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite says so.
    #[error("records in \"{path}\": {error}", path = .path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        error: rusqlite::Error,
    },
    /// Tables of another version.
    #[error("records in \"{path}\" have format {found}, this program knows {SCHEMA}: use the program that wrote them, or a newer one", path = .path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// Somebody took the file away while it was in use.
    #[error("records in \"{path}\": the file was removed or replaced while the gateway uses it; put it back where it was, or restart the gateway to begin a new one (what was anchored is then missing in exports)", path = .path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// Retention was faster than whoever reads.
    #[error("interval {sequence} of the records in \"{path}\" is not kept any more and was removed just now: do it again", path = .path.display())]
    Outlived {
        /// The file.
        path: PathBuf,
        /// Number of the batch.
        sequence: u64,
    },
    /// A key was deleted, and is still in the log.
    #[error("the key is deleted, but \"{path}-wal\" still holds it, because somebody reads the records (an export?): do it again when that has ended", path = .path.display())]
    Lingers {
        /// The file.
        path: PathBuf,
    },
    /// What is on disk is not what was written.
    #[error("records in \"{path}\" are damaged: {what}; restore the file from a copy, or move it away to begin a new one (what was anchored is then missing in exports)", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
}

/// The writer's side.
#[derive(Debug)]
pub struct Store {
    database: Connection,
    path: PathBuf,
    gateway: Address,
    pseudonym_key: crate::config::Secret<[u8; 32]>,
    /// Number and link of the last record; 0 and zero if there is none.
    tail: (u64, B256),
    /// Device and number of the file that is open.
    inode: (u64, u64),
    keys_swept: Option<Instant>,
    /// SQLite's log may hold what retention has removed from the file.
    log_holds_removed: bool,
}

/// File of a gateway's records in a state directory. Anchors go by the gateway's key, so another key begins another file.
#[must_use]
pub fn file_in(state_dir: &Path, gateway: Address) -> PathBuf {
    state_dir.join(format!("records-{gateway:#x}.sqlite"))
}

impl Store {
    /// Opens the file, and makes it if it is missing. Checks that what has not been closed yet is as it was written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(
        path: &Path,
        gateway: Address,
        pseudonym_key: crate::config::Secret<[u8; 32]>,
    ) -> Result<Self, StoreError> {
        let wrong = |error| StoreError::Database { path: path.to_owned(), error };
        let database = Connection::open(path).map_err(wrong)?;
        database.busy_timeout(BUSY).map_err(wrong)?;
        prepare(&database, path)?;
        let inode = inode_of(path).ok_or_else(|| StoreError::Gone { path: path.to_owned() })?;
        let mut store = Self {
            database,
            path: path.to_owned(),
            gateway,
            pseudonym_key,
            tail: (0, B256::ZERO),
            inode,
            keys_swept: None,
            log_holds_removed: false,
        };
        store.tail = store.checked_tail()?;
        Ok(store)
    }

    /// Appends records; when it returns they are on the disk. Returns the number of the last.
    ///
    /// # Errors
    /// [`StoreError`]; none of them was appended then.
    pub fn append(&mut self, drafts: &[Draft]) -> Result<u64, StoreError> {
        self.append_and(drafts, |_| Ok(()))?;
        Ok(self.tail.0)
    }

    /// Appends records and does something else, both or neither.
    fn append_and<T>(
        &mut self,
        drafts: &[Draft],
        also: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.is_in_place()?;
        let wrong = |error| StoreError::Database { path: self.path.clone(), error };
        let key = self.pseudonym_key.expose();
        let transaction = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(wrong)?;
        let done = also(&transaction).map_err(wrong)?;
        let (mut index, mut at) = self.tail;
        {
            let insert = "INSERT INTO record (idx, link, kind, wallet, topic, first_at, last_at, octets) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
            let mut insert = transaction.prepare_cached(insert).map_err(wrong)?;
            for Draft { record, personal } in drafts {
                let mut record = record.clone();
                index += 1;
                record.index = index;
                if let Some((subject, personal)) = personal {
                    let key = subject_key(&transaction, subject.tag(key), record.last_at)
                        .map_err(wrong)?;
                    record.personal = key.seal(self.gateway, index, personal);
                }
                let octets = record.encode();
                at = link(at, leaf(&octets));
                insert
                    .execute(params![
                        number(index),
                        at.as_slice(),
                        record.kind.number(),
                        record.wallet.as_slice(),
                        record.topic_id.as_slice(),
                        number(record.first_at),
                        number(record.last_at),
                        octets
                    ])
                    .map_err(wrong)?;
            }
        }
        transaction.commit().map_err(wrong)?;
        self.tail = (index, at);
        Ok(done)
    }

    /// Deletes the key of `subject`, so that what is personal about it cannot be read any more, here or in any copy, and appends the record
    /// that says so. Says whether there was a key.
    ///
    /// # Errors
    /// [`StoreError`]; neither was done then, except with [`StoreError::Lingers`].
    pub fn erase(&mut self, subject: Subject, told: &Draft) -> Result<bool, StoreError> {
        let tag = subject.tag(self.pseudonym_key.expose());
        let delete = "DELETE FROM subject WHERE tag = ?";
        let had = self.append_and(slice::from_ref(told), |transaction| {
            transaction.execute(delete, [tag.as_slice()])
        })?;
        // The key was overwritten in the file; now it leaves SQLite's log as well.
        if self.truncate_log()? {
            return Err(StoreError::Lingers { path: self.path.clone() });
        }
        Ok(had > 0)
    }

    /// Takes SQLite's log into the file and empties it. Says whether somebody who reads was in the way.
    fn truncate_log(&self) -> Result<bool, StoreError> {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy = self.database.query_row(checkpoint, [], |row| row.get::<_, bool>(0));
        busy.map_err(|error| StoreError::Database { path: self.path.clone(), error })
    }

    /// Puts the records that came since the last time together for an anchor; `None` if there are none. `on_chain` tells sequence and root of
    /// the last anchor that the chain has of this gateway, which counts where the file knows of fewer: a gateway that lost its disk, or came back
    /// with an older copy of it, goes on after that.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn close(&mut self, on_chain: (u64, B256)) -> Result<Option<Closed>, StoreError> {
        let wrong = |error| StoreError::Database { path: self.path.clone(), error };
        let last = "SELECT sequence, first + count, root FROM batch ORDER BY sequence DESC LIMIT 1";
        let last = self
            .database
            .query_row(last, [], |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?, hash(row, 2)?)))
            .optional()
            .map_err(wrong)?;
        let (known, first, root) = last.unwrap_or((0, 1, B256::ZERO));
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
        let closed = Closed { sequence: before + 1, root: batch.root(), previous, count };
        let insert = "INSERT INTO batch (sequence, first, count, before, root, previous) VALUES (?, ?, ?, ?, ?, ?)";
        self.database
            .execute(
                insert,
                params![
                    number(closed.sequence),
                    number(first),
                    number(count),
                    batch.before.as_slice(),
                    closed.root.as_slice(),
                    previous.as_slice()
                ],
            )
            .map_err(wrong)?;
        Ok(Some(closed))
    }

    /// Closed batches after the one with this sequence number, in order, at most `most`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn closed_after(&self, sequence: u64, most: u32) -> Result<Vec<Closed>, StoreError> {
        let wrong = |error| StoreError::Database { path: self.path.clone(), error };
        let select = "SELECT sequence, root, previous, count FROM batch WHERE sequence > ? ORDER BY sequence LIMIT ?";
        let mut select = self.database.prepare_cached(select).map_err(wrong)?;
        let rows = select
            .query_map(params![number(sequence), most], |row| {
                Ok(Closed {
                    sequence: unsigned(row, 0)?,
                    root: hash(row, 1)?,
                    previous: hash(row, 2)?,
                    count: unsigned(row, 3)?,
                })
            })
            .map_err(wrong)?;
        rows.collect::<Result<_, _>>().map_err(wrong)
    }

    fn link_of(&self, index: u64) -> Result<B256, StoreError> {
        if index == 0 {
            return Ok(B256::ZERO);
        }
        let select = "SELECT link FROM record WHERE idx = ?";
        let found = self.database.query_row(select, [number(index)], |row| hash(row, 0)).optional();
        found
            .map_err(|error| StoreError::Database { path: self.path.clone(), error })?
            .ok_or_else(|| self.damaged(format!("record {index} is missing")))
    }

    fn leaves(&self, first: u64, count: u64) -> Result<Vec<B256>, StoreError> {
        let wrong = |error| StoreError::Database { path: self.path.clone(), error };
        let select = "SELECT octets FROM record WHERE idx >= ? ORDER BY idx LIMIT ?";
        let mut select = self.database.prepare_cached(select).map_err(wrong)?;
        let rows = select
            .query_map([number(first), number(count)], |row| Ok(leaf(row.get_ref(0)?.as_blob()?)))
            .map_err(wrong)?;
        let leaves: Vec<B256> = rows.collect::<Result<_, _>>().map_err(wrong)?;
        if u64::try_from(leaves.len()) == Ok(count) {
            return Ok(leaves);
        }
        Err(self.damaged(format!("of {count} records from {first} there are {}", leaves.len())))
    }

    /// The last record, after reading again what no anchor stands for yet.
    fn checked_tail(&self) -> Result<(u64, B256), StoreError> {
        let wrong = |error| StoreError::Database { path: self.path.clone(), error };
        let last = "SELECT coalesce(max(first + count), 1) FROM batch";
        let first: u64 =
            self.database.query_row(last, [], |row| unsigned(row, 0)).map_err(wrong)?;
        let mut at = self.link_of(first - 1)?;
        let mut index = first - 1;
        let select = "SELECT idx, link, octets FROM record WHERE idx >= ? ORDER BY idx";
        let mut select = self.database.prepare(select).map_err(wrong)?;
        let mut rows = select.query([number(first)]).map_err(wrong)?;
        while let Some(row) = rows.next().map_err(wrong)? {
            index += 1;
            let octets = row.get_ref(2).and_then(|value| Ok(value.as_blob()?)).map_err(wrong)?;
            at = link(at, leaf(octets));
            let found = (unsigned(row, 0).map_err(wrong)?, hash(row, 1).map_err(wrong)?);
            if found != (index, at) {
                return Err(self.damaged(format!("record {index} is not as it was written")));
            }
        }
        Ok((index, at))
    }

    /// Whether what is written is still to be found: SQLite goes on with a file that nobody sees any more.
    fn is_in_place(&self) -> Result<(), StoreError> {
        match inode_of(&self.path) {
            Some(found) if found == self.inode => Ok(()),
            _ => Err(StoreError::Gone { path: self.path.clone() }),
        }
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), what }
    }
}

/// Up to which record refusals were looked at; new with version 2. The indices by topic and wallet of version 1 are gone: nobody asked by
/// them, and each record wrote two pages for them.
const RETENTION_TABLE: &str = "CREATE TABLE retention (refusals_to INTEGER NOT NULL) STRICT; INSERT INTO retention VALUES (0);";

fn inode_of(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino()))
}

/// Tables and settings.
fn prepare(database: &Connection, path: &Path) -> Result<(), StoreError> {
    let wrong = |error| StoreError::Database { path: path.to_owned(), error };
    // Durable with each transaction; what is deleted is overwritten, for keys are deleted to erase.
    database
        .execute_batch(
            // What a kill left in the log is taken in: a key may be there whose erasure was under way.
            // A page that is written often goes into the file once in so many (64 MB of cache, 32 MB of log), not with each transaction.
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA cache_size = -65536;
             PRAGMA wal_autocheckpoint = 8192; PRAGMA journal_size_limit = 33554432; PRAGMA wal_checkpoint(TRUNCATE);",
        )
        .map_err(wrong)?;
    let found: i64 =
        database.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(wrong)?;
    match found {
        SCHEMA => Ok(()),
        1 => database
            .execute_batch(&format!(
                "BEGIN IMMEDIATE; {RETENTION_TABLE} DROP INDEX IF EXISTS record_by_topic; DROP INDEX IF EXISTS record_by_wallet; PRAGMA user_version = {SCHEMA}; COMMIT;"
            ))
            .map_err(wrong),
        0 => database
            .execute_batch(&format!(
                "BEGIN IMMEDIATE;
                 CREATE TABLE record (
                     idx INTEGER PRIMARY KEY, link BLOB NOT NULL, kind INTEGER NOT NULL, wallet BLOB NOT NULL, topic BLOB NOT NULL,
                     first_at INTEGER NOT NULL, last_at INTEGER NOT NULL, octets BLOB NOT NULL
                 ) STRICT;
                 CREATE TABLE batch (
                     sequence INTEGER PRIMARY KEY, first INTEGER NOT NULL, count INTEGER NOT NULL, before BLOB NOT NULL,
                     root BLOB NOT NULL, previous BLOB NOT NULL
                 ) STRICT;
                 CREATE TABLE subject (tag BLOB PRIMARY KEY, key BLOB NOT NULL, last_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
                 {RETENTION_TABLE}
                 PRAGMA user_version = {SCHEMA};
                 COMMIT;"
            ))
            .map_err(wrong),
        found => Err(StoreError::Version { path: path.to_owned(), found }),
    }
}

/// The subject's key; a new one if it has none, or had one that was erased.
fn subject_key(database: &Connection, tag: B256, at: u64) -> rusqlite::Result<SubjectKey> {
    let select = "UPDATE subject SET last_at = max(last_at, ?2) WHERE tag = ?1 RETURNING key";
    let mut select = database.prepare_cached(select)?;
    let found: Option<[u8; 32]> =
        select.query_row(params![tag.as_slice(), number(at)], |row| row.get(0)).optional()?;
    if let Some(octets) = found {
        return Ok(SubjectKey::new(octets));
    }
    let key = SubjectKey::new(rand::random());
    let mut insert =
        database.prepare_cached("INSERT INTO subject (tag, key, last_at) VALUES (?, ?, ?)")?;
    insert.execute(params![tag.as_slice(), key.octets(), number(at)])?;
    Ok(key)
}

/// The other side: reads closed batches while a gateway may be writing.
#[derive(Debug)]
pub struct Reader {
    database: Connection,
    path: PathBuf,
}

impl Reader {
    /// Opens a file that is there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let wrong = |error| StoreError::Database { path: path.to_owned(), error };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let database = Connection::open_with_flags(path, flags).map_err(wrong)?;
        database.busy_timeout(BUSY).map_err(wrong)?;
        let found: i64 =
            database.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(wrong)?;
        // What version 2 added, only the writer uses.
        if !(1..=SCHEMA).contains(&found) {
            return Err(StoreError::Version { path: path.to_owned(), found });
        }
        Ok(Self { database, path: path.to_owned() })
    }

    /// Closed batches from this sequence number on, at most `most`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn batches(&self, from: u64, most: u32) -> Result<Vec<BatchLine>, StoreError> {
        let wrong = |error| StoreError::Database { path: self.path.clone(), error };
        let select = "SELECT sequence, first, count, before FROM batch WHERE sequence >= ? ORDER BY sequence LIMIT ?";
        let mut select = self.database.prepare_cached(select).map_err(wrong)?;
        let rows = select
            .query_map(params![number(from), most], |row| {
                Ok(BatchLine {
                    sequence: unsigned(row, 0)?,
                    first: unsigned(row, 1)?,
                    count: unsigned(row, 2)?,
                    before: hash(row, 3)?,
                })
            })
            .map_err(wrong)?;
        rows.collect::<Result<_, _>>().map_err(wrong)
    }

    /// Hands the records of a batch to `each`, in order, as lines of an export: with their links, and of some only what is left.
    ///
    /// # Errors
    /// [`StoreError`], or what `each` says.
    pub fn records<E: From<StoreError>>(
        &self,
        batch: &BatchLine,
        mut each: impl FnMut(Line) -> Result<(), E>,
    ) -> Result<(), E> {
        let wrong = |error| E::from(StoreError::Database { path: self.path.clone(), error });
        let select = "SELECT octets, link, idx FROM record WHERE idx >= ? ORDER BY idx LIMIT ?";
        let mut select = self.database.prepare_cached(select).map_err(wrong)?;
        let mut next = batch.first;
        let mut rows = select.query([number(batch.first), number(batch.count)]).map_err(wrong)?;
        while let Some(row) = rows.next().map_err(wrong)? {
            let octets = row.get_ref(0).and_then(|value| Ok(value.as_blob()?)).map_err(wrong)?;
            let (link, index) = (hash(row, 1).map_err(wrong)?, unsigned(row, 2).map_err(wrong)?);
            if index != next {
                break;
            }
            next += 1;
            each(self.line(index, octets, link)?)?;
        }
        if next == batch.first + batch.count {
            return Ok(());
        }
        let (path, sequence) = (self.path.clone(), batch.sequence);
        Err(E::from(match self.batches(sequence, 1)?.first() {
            Some(there) if there.sequence == sequence => {
                StoreError::Damaged { path, what: format!("record {next} is missing") }
            }
            _ => StoreError::Outlived { path, sequence },
        }))
    }
}

impl Reader {
    /// One record by its number, or what is left of it; `None` if there is nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn record(&self, index: u64) -> Result<Option<Line>, StoreError> {
        let wrong = |error| StoreError::Database { path: self.path.clone(), error };
        let select = "SELECT octets, link FROM record WHERE idx = ?";
        let mut select = self.database.prepare_cached(select).map_err(wrong)?;
        let found = select
            .query_row([number(index)], |row| Ok((row.get::<_, Vec<u8>>(0)?, hash(row, 1)?)))
            .optional()
            .map_err(wrong)?;
        found.map(|(octets, link)| self.line(index, &octets, link)).transpose()
    }

    fn line(&self, index: u64, octets: &[u8], link: B256) -> Result<Line, StoreError> {
        if let Ok(leaf) = <[u8; LEAF_OCTETS]>::try_from(octets) {
            return Ok(Line::Removed(RemovedLine { index, leaf: leaf.into(), link }));
        }
        let damaged = |what| StoreError::Damaged { path: self.path.clone(), what };
        let record = Record::decode(octets).map_err(|error| damaged(error.to_string()))?;
        Ok(Line::Record(Box::new(RecordLine { record, link })))
    }
}

/// SQLite has signed numbers only; what is counted here never comes near the difference.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

fn hash(row: &Row<'_>, column: usize) -> rusqlite::Result<B256> {
    row.get::<_, [u8; 32]>(column).map(B256::from)
}

#[cfg(test)]
pub(super) mod tests {
    use alloy_primitives::Bytes;
    use flytrap_record::Kind;

    use super::*;
    use crate::config::Secret;

    pub(in crate::audit) const GATEWAY: Address = Address::repeat_byte(9);
    pub(in crate::audit) const NONE: (u64, B256) = (0, B256::ZERO);

    pub(in crate::audit) fn draft(count: u64) -> Draft {
        let wallet = Address::repeat_byte(1);
        let record = Record {
            index: 0,
            kind: Kind::Delivered,
            wallet,
            key: wallet,
            session: 1,
            topic_id: B256::repeat_byte(2),
            epoch: 1,
            count,
            octets: 8,
            first_at: 10,
            last_at: 12,
            height: 3,
            rule: "grant".to_owned(),
            country: String::new(),
            personal: Bytes::new(),
        };
        let personal = Personal { client_id: "pump-7".to_owned(), ..Personal::default() };
        Draft { record, personal: Some((Subject::Wallet(wallet), personal)) }
    }

    pub(in crate::audit) fn open(dir: &Path) -> Result<Store, StoreError> {
        Store::open(&file_in(dir, GATEWAY), GATEWAY, Secret::new([7; 32]))
    }

    fn records(dir: &Path, batch: &BatchLine) -> Vec<Record> {
        let mut all = Vec::new();
        let reader = Reader::open(&file_in(dir, GATEWAY)).expect("a reader");
        reader
            .records(batch, |line| {
                if let Line::Record(line) = line {
                    all.push(line.record);
                }
                Ok::<_, StoreError>(())
            })
            .expect("records");
        all
    }

    #[test]
    fn records_are_numbered_chained_and_closed_in_batches_across_restarts() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("a store");
        assert_eq!(store.close(NONE).expect("nothing"), None);
        assert_eq!(store.append(&[draft(1), draft(2)]).expect("appended"), 2);
        let first = store.close(NONE).expect("closed").expect("a batch");
        assert_eq!((first.sequence, first.count, first.previous), (1, 2, B256::ZERO));
        store.append(&[draft(3)]).expect("appended");
        drop(store);

        let mut store = open(dir.path()).expect("a store");
        assert_eq!(store.append(&[draft(4)]).expect("appended"), 4);
        let second = store.close((1, first.root)).expect("closed").expect("a batch");
        assert_eq!((second.sequence, second.count, second.previous), (2, 2, first.root));
        assert_eq!(store.closed_after(0, 10).expect("batches"), [first, second]);
        assert_eq!(store.closed_after(1, 10).expect("batches"), [second]);
        let batches = Reader::open(&file_in(dir.path(), GATEWAY)).expect("a reader").batches(1, 9);
        let batches = batches.expect("batches");
        let counts: Vec<u64> =
            batches.iter().flat_map(|batch| records(dir.path(), batch)).map(|r| r.count).collect();
        assert_eq!(counts, [1, 2, 3, 4]);
    }

    #[test]
    fn a_gateway_that_lost_its_disk_goes_on_after_its_last_anchor_on_chain() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("a store");
        store.append(&[draft(1)]).expect("appended");
        let root = B256::repeat_byte(5);
        let closed = store.close((6, root)).expect("closed").expect("a batch");
        assert_eq!((closed.sequence, closed.previous), (7, root));
    }

    #[test]
    fn an_older_copy_of_the_file_goes_on_after_the_last_anchor_on_chain_too() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("a store");
        store.append(&[draft(1)]).expect("appended");
        let first = store.close(NONE).expect("closed").expect("a batch");
        store.append(&[draft(2)]).expect("appended");
        let root = B256::repeat_byte(5);
        let closed = store.close((4, root)).expect("closed").expect("a batch");
        assert_eq!((closed.sequence, closed.previous), (5, root));
        assert_eq!(store.closed_after(0, 9).expect("batches"), [first, closed]);
        // What the chain has not seen settled yet does not count less than what is known here.
        store.append(&[draft(3)]).expect("appended");
        let next = store.close((4, root)).expect("closed").expect("a batch");
        assert_eq!((next.sequence, next.previous), (6, closed.root));
    }

    #[test]
    fn a_record_that_was_changed_or_taken_out_is_found_at_the_next_start() {
        let spoils = [
            "UPDATE record SET octets = zeroblob(length(octets)) WHERE idx = 2",
            "UPDATE record SET link = zeroblob(32) WHERE idx = 1",
            "DELETE FROM record WHERE idx = 1",
        ];
        for spoil in spoils {
            let dir = tempfile::tempdir().expect("a directory");
            let mut store = open(dir.path()).expect("a store");
            store.append(&[draft(1), draft(2), draft(3)]).expect("appended");
            assert_eq!(store.database.execute(spoil, []).expect("changed"), 1, "{spoil}");
            drop(store);
            let found = open(dir.path());
            assert!(matches!(found, Err(StoreError::Damaged { .. })), "{spoil}: {found:?}");
        }
    }

    #[test]
    fn without_its_subjects_key_a_record_proves_the_same_and_says_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("a store");
        store.append(&[draft(1)]).expect("appended");
        let closed = store.close(NONE).expect("closed").expect("a batch");
        let subject = Subject::Wallet(Address::repeat_byte(1));
        let tag = subject.tag(&[7; 32]);
        let key = subject_key(&store.database, tag, 1).expect("the key");
        let batch =
            Reader::open(&file_in(dir.path(), GATEWAY)).and_then(|reader| reader.batches(1, 1));
        let batch = batch.expect("batches").remove(0);
        let sealed = &records(dir.path(), &batch)[0];
        assert_eq!(key.open(GATEWAY, 1, &sealed.personal).expect("readable").client_id, "pump-7");

        let told = Draft { personal: None, ..draft(1) };
        assert!(store.erase(subject, &told).expect("erased"));
        for file in std::fs::read_dir(dir.path()).expect("the directory").flatten() {
            let left = std::fs::read(file.path()).expect("a file");
            let found = left.windows(32).any(|part| part == key.octets());
            assert!(!found, "the key is in {file:?}");
        }
        assert_eq!(store.append(&[]).expect("nothing"), 2, "that it was erased is a record");
        assert!(!store.erase(subject, &told).expect("erased"), "there is nothing left");
        let again = subject_key(&store.database, tag, 1).expect("a new key");
        assert_eq!(again.open(GATEWAY, 1, &sealed.personal), None);
        let leaves = records(dir.path(), &batch).into_iter().map(|r| leaf(&r.encode()));
        let batch = Batch { first: 1, count: 1, before: B256::ZERO, top: top(leaves) };
        assert_eq!(batch.root(), closed.root);
    }

    #[test]
    fn while_somebody_reads_a_key_is_deleted_and_said_to_linger() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("a store");
        store.append(&[draft(1)]).expect("appended");
        store.database.busy_timeout(Duration::from_millis(50)).expect("set");
        let reader = Connection::open(file_in(dir.path(), GATEWAY)).expect("the file");
        reader.execute_batch("BEGIN; SELECT * FROM record").expect("reading");
        let subject = Subject::Wallet(Address::repeat_byte(1));
        let told = Draft { personal: None, ..draft(1) };
        assert!(matches!(store.erase(subject, &told), Err(StoreError::Lingers { .. })));
        drop(reader);
        assert!(!store.erase(subject, &told).expect("erased"), "it was deleted before");
    }

    #[test]
    fn a_failed_transaction_leaves_nothing_and_the_next_goes_on_as_if_it_had_not_been() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("a store");
        store.append(&[draft(1)]).expect("appended");
        store.database.execute_batch("PRAGMA query_only = ON").expect("no writing");
        assert!(matches!(store.append(&[draft(2)]), Err(StoreError::Database { .. })));
        store.database.execute_batch("PRAGMA query_only = OFF").expect("writing");
        assert_eq!(store.append(&[draft(3)]).expect("appended"), 2);
        drop(store);
        assert_eq!(open(dir.path()).expect("whole").append(&[draft(4)]).expect("appended"), 3);
    }

    #[test]
    fn a_file_of_another_version_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(open(dir.path()).expect("a store"));
        let database = Connection::open(file_in(dir.path(), GATEWAY)).expect("the file");
        database.execute_batch("PRAGMA user_version = 3").expect("changed");
        assert!(matches!(open(dir.path()), Err(StoreError::Version { found: 3, .. })));
        let found = Reader::open(&file_in(dir.path(), GATEWAY));
        assert!(matches!(found, Err(StoreError::Version { found: 3, .. })), "{found:?}");
    }

    #[test]
    fn a_file_of_the_version_before_is_taken_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("a store");
        store.append(&[draft(1)]).expect("appended");
        store
            .database
            .execute_batch("DROP TABLE retention; PRAGMA user_version = 1")
            .expect("changed");
        drop(store);
        Reader::open(&file_in(dir.path(), GATEWAY)).expect("an older one can be read");
        let mut store = open(dir.path()).expect("taken over");
        assert_eq!(store.append(&[draft(2)]).expect("appended"), 2);
        let retention = Retention { all: None, refusals: Some(Duration::from_secs(1)) };
        assert_eq!(store.retain(retention, 100, 0).expect("done"), Retained::default());
    }

    #[test]
    fn a_file_that_was_taken_away_takes_nothing_until_it_is_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut store = open(dir.path()).expect("a store");
        store.append(&[draft(1)]).expect("appended");
        let (file, away) = (file_in(dir.path(), GATEWAY), dir.path().join("away"));
        fs::rename(&file, &away).expect("moved");
        assert!(matches!(store.append(&[draft(2)]), Err(StoreError::Gone { .. })));
        fs::write(&file, "").expect("another file");
        assert!(matches!(store.append(&[draft(2)]), Err(StoreError::Gone { .. })));
        fs::rename(&away, &file).expect("moved back");
        assert_eq!(store.append(&[draft(2)]).expect("appended"), 2);
    }
}
