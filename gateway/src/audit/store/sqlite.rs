//! Records in a SQLite file of the state directory: one gateway, one writer, readers beside it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy_primitives::B256;
use flytrap_record::seal::SubjectKey;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};

use super::engine::{Applied, BatchRow, Change, Engine, KeyRow, Last, NewRow, Row};
use super::schema::{self, VERSION};
use super::{Place, StoreError};
use crate::numbers::{hash, number, unsigned};

/// How long a writer waits for a reader that is in its way.
const BUSY: Duration = Duration::from_secs(5);

/// Octets of the log past which it is taken into the file.
const LOG_OCTETS: i64 = 32 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Sqlite {
    pub(super) database: Connection,
    path: PathBuf,
    /// Device and number of the file that is open.
    inode: Option<(u64, u64)>,
}

impl Sqlite {
    /// Opens the file, and makes it if it is missing.
    pub(super) fn write(path: &Path) -> Result<Self, StoreError> {
        let database = Connection::open(path).map_err(|error| wrong(path, error))?;
        let mut opened = Self { database, path: path.to_owned(), inode: inode_of(path) };
        opened.prepare()?;
        Ok(opened)
    }

    /// Opens a file that is there.
    pub(super) fn read(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || {
            let database = Connection::open_with_flags(path, flags)?;
            database.busy_timeout(BUSY)?;
            let found = version(&database)?;
            Ok((database, found))
        };
        let (database, found) = open().map_err(|error| wrong(path, error))?;
        // What later versions added, only the writer uses.
        if !(1..=VERSION).contains(&found) {
            return Err(StoreError::Version { place: place(path), found });
        }
        Ok(Self { database, path: path.to_owned(), inode: inode_of(path) })
    }

    /// Opens a file whose records go elsewhere: one that this version of the program has written.
    pub(super) fn read_current(path: &Path) -> Result<Self, StoreError> {
        let opened = Self::read(path)?;
        let found = version(&opened.database).map_err(|error| wrong(path, error))?;
        match found {
            VERSION => Ok(opened),
            _ => Err(StoreError::Old { place: place(path), found }),
        }
    }

    /// Keys behind the one with this tag, at most `most`.
    pub(super) fn keys_after(
        &self,
        tag: Option<B256>,
        most: u32,
    ) -> Result<Vec<KeyRow>, StoreError> {
        let select = "SELECT tag, key, last_at FROM subject WHERE tag > ? ORDER BY tag LIMIT ?";
        let tag = tag.map(|tag| tag.to_vec()).unwrap_or_default();
        let row = |row: &rusqlite::Row<'_>| {
            let key = SubjectKey::new(row.get(1)?);
            Ok(KeyRow { tag: hash(row, 0)?, key, last_at: unsigned(row, 2)? })
        };
        let ask = || -> rusqlite::Result<Vec<KeyRow>> {
            let mut select = self.database.prepare_cached(select)?;
            select.query_map(params![tag, most], row)?.collect()
        };
        ask().map_err(|error| self.wrong(error))
    }

    /// Tables and settings.
    fn prepare(&mut self) -> Result<(), StoreError> {
        let path = &self.path;
        let wrong = |error| wrong(path, error);
        self.database.busy_timeout(BUSY).map_err(wrong)?;
        // Durable with each transaction; what is deleted is overwritten, for keys are deleted to erase.
        self.database
            .execute_batch(
                // What a kill left in the log is taken in: a key may be there whose erasure was under way.
                // Large pages, in files that are new: each costs the same few calls of the system, twice.
                "PRAGMA page_size = 16384; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;
                 PRAGMA cache_size = -65536; PRAGMA journal_size_limit = 33554432; PRAGMA wal_checkpoint(TRUNCATE);",
            )
            .map_err(wrong)?;
        // A page that is written often goes into the file once in so many (64 MB of cache, 32 MB of log), not with each transaction.
        let page: i64 =
            self.database.query_row("PRAGMA page_size", [], |row| row.get(0)).map_err(wrong)?;
        let pages = LOG_OCTETS / page.max(512);
        self.database.pragma_update(None, "wal_autocheckpoint", pages).map_err(wrong)?;
        let found = version(&self.database).map_err(wrong)?;
        let Some(steps) = schema::missing(found) else {
            return Err(StoreError::Version { place: place(path), found });
        };
        if steps.is_empty() {
            return Ok(());
        }
        let transaction = self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(wrong)?;
        for step in steps {
            transaction.execute_batch(step.sqlite).map_err(wrong)?;
        }
        transaction.pragma_update(None, "user_version", VERSION).map_err(wrong)?;
        transaction.commit().map_err(wrong)
    }

    fn wrong(&self, error: rusqlite::Error) -> StoreError {
        wrong(&self.path, error)
    }

    fn select_batches(&self, rest: &str, values: [i64; 2]) -> rusqlite::Result<Vec<BatchRow>> {
        let select =
            format!("SELECT sequence, first, count, before, root, previous FROM batch {rest}");
        let mut select = self.database.prepare_cached(&select)?;
        let rows = select.query_map(values, |row| {
            Ok(BatchRow {
                sequence: unsigned(row, 0)?,
                first: unsigned(row, 1)?,
                count: unsigned(row, 2)?,
                before: hash(row, 3)?,
                root: hash(row, 4)?,
                previous: hash(row, 5)?,
            })
        })?;
        rows.collect()
    }

    fn find_keys(&self, tags: &[B256]) -> rusqlite::Result<Vec<KeyRow>> {
        let select = "SELECT key, last_at FROM subject WHERE tag = ?";
        let mut select = self.database.prepare_cached(select)?;
        let mut found = Vec::new();
        for tag in tags {
            let row = |row: &rusqlite::Row<'_>| {
                let key = SubjectKey::new(row.get(0)?);
                Ok(KeyRow { tag: *tag, key, last_at: unsigned(row, 1)? })
            };
            found.extend(select.query_row([tag.as_slice()], row).optional()?);
        }
        Ok(found)
    }

    fn transact(&mut self, change: &Change) -> rusqlite::Result<Applied> {
        let transaction =
            self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let applied = apply(&transaction, change)?;
        transaction.commit()?;
        Ok(applied)
    }
}

impl Engine for Sqlite {
    /// SQLite goes on with a file that nobody sees any more.
    fn ready(&mut self) -> Result<bool, StoreError> {
        match inode_of(&self.path) {
            Some(found) if Some(found) == self.inode => Ok(false),
            _ => Err(StoreError::Gone { place: place(&self.path) }),
        }
    }

    fn last(&self) -> Result<Option<Last>, StoreError> {
        let select = "SELECT idx, link FROM record ORDER BY idx DESC LIMIT 1";
        let row = |row: &rusqlite::Row<'_>| Ok((unsigned(row, 0)?, hash(row, 1)?));
        let found = self
            .database
            .prepare_cached(select)
            .and_then(|mut select| select.query_row([], row).optional());
        found.map_err(|error| self.wrong(error))
    }

    fn records(
        &self,
        first: u64,
        count: u64,
        each: &mut dyn FnMut(Row<'_>) -> bool,
    ) -> Result<(), StoreError> {
        let wrong = |error| self.wrong(error);
        let select = "SELECT idx, link, kind, last_at, octets FROM record WHERE idx >= ? ORDER BY idx LIMIT ?";
        let mut select = self.database.prepare_cached(select).map_err(wrong)?;
        let mut rows = select.query([number(first), number(count)]).map_err(wrong)?;
        while let Some(row) = rows.next().map_err(wrong)? {
            let read = || {
                Ok(Row {
                    index: unsigned(row, 0)?,
                    link: hash(row, 1)?,
                    kind: row.get(2)?,
                    last_at: unsigned(row, 3)?,
                    octets: row.get_ref(4)?.as_blob()?,
                })
            };
            if !each(read().map_err(wrong)?) {
                break;
            }
        }
        Ok(())
    }

    fn batches(&self, from: u64, most: u32) -> Result<Vec<BatchRow>, StoreError> {
        let rest = "WHERE sequence >= ? ORDER BY sequence LIMIT ?";
        self.select_batches(rest, [number(from), most.into()]).map_err(|error| self.wrong(error))
    }

    fn last_batch(&self, to: u64) -> Result<Option<BatchRow>, StoreError> {
        let rest = "WHERE sequence <= ? ORDER BY sequence DESC LIMIT ?";
        let found =
            self.select_batches(rest, [number(to), 1]).map_err(|error| self.wrong(error))?;
        Ok(found.into_iter().next())
    }

    fn keys(&self, tags: Vec<B256>) -> Result<Vec<KeyRow>, StoreError> {
        self.find_keys(&tags).map_err(|error| self.wrong(error))
    }

    fn refusals_to(&self) -> Result<u64, StoreError> {
        let select = "SELECT refusals_to FROM retention";
        let found = self.database.query_row(select, [], |row| unsigned(row, 0));
        found.map_err(|error| self.wrong(error))
    }

    fn apply(&mut self, change: Change) -> Result<Applied, StoreError> {
        self.transact(&change).map_err(|error| wrong(&self.path, error))
    }

    /// Takes SQLite's log into the file, where what was deleted is overwritten, and empties it.
    fn scrub_keys(&mut self) -> Result<bool, StoreError> {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy: Result<bool, _> = self.database.query_row(checkpoint, [], |row| row.get(0));
        busy.map(|busy| !busy).map_err(|error| self.wrong(error))
    }

    fn scrub_records(&mut self) -> Result<bool, StoreError> {
        self.scrub_keys()
    }
}

fn apply(database: &Connection, change: &Change) -> rusqlite::Result<Applied> {
    let mut applied = Applied::default();
    if let Some(tag) = change.erased {
        let gone = database.execute("DELETE FROM subject WHERE tag = ?", [tag.as_slice()])?;
        applied.erased = gone > 0;
    }
    let keep = "INSERT INTO subject (tag, key, last_at) VALUES (?, ?, ?) ON CONFLICT (tag) DO UPDATE SET last_at = max(last_at, excluded.last_at)";
    let mut keep = database.prepare_cached(keep)?;
    for KeyRow { tag, key, last_at } in &change.keys {
        keep.execute(params![tag.as_slice(), key.octets(), number(*last_at)])?;
    }
    append(database, &change.rows)?;
    for batch in &change.closed {
        let insert = "INSERT INTO batch (sequence, first, count, before, root, previous) VALUES (?, ?, ?, ?, ?, ?)";
        database.prepare_cached(insert)?.execute(params![
            number(batch.sequence),
            number(batch.first),
            number(batch.count),
            batch.before.as_slice(),
            batch.root.as_slice(),
            batch.previous.as_slice()
        ])?;
    }
    if let Some(sequence) = change.batch {
        database.execute("DELETE FROM batch WHERE sequence = ?", [number(sequence)])?;
    }
    if let Some((before, most)) = change.before {
        let delete = "DELETE FROM record WHERE idx IN (SELECT idx FROM record WHERE idx < ? ORDER BY idx LIMIT ?)";
        let gone = database.prepare_cached(delete)?.execute(params![number(before), most])?;
        applied.deleted = u64::try_from(gone).unwrap_or(u64::MAX);
    }
    let empty = "UPDATE record SET kind = -1, wallet = x'', topic = x'', first_at = 0, octets = ? WHERE idx = ?";
    let mut empty = database.prepare_cached(empty)?;
    for (index, leaf) in &change.emptied {
        empty.execute(params![leaf.as_slice(), number(*index)])?;
    }
    if let Some(to) = change.refusals_to {
        database.execute("UPDATE retention SET refusals_to = ?", [number(to)])?;
    }
    if let Some(before) = change.keys_before {
        database.execute("DELETE FROM subject WHERE last_at < ?", [number(before)])?;
    }
    Ok(applied)
}

fn append(database: &Connection, rows: &[NewRow]) -> rusqlite::Result<()> {
    // Three columns are of the first format and were never asked for; their place is worth a tenth of the file.
    let insert = "INSERT INTO record (idx, link, kind, wallet, topic, first_at, last_at, octets) VALUES (?, ?, ?, x'', x'', 0, ?, ?)";
    let mut insert = database.prepare_cached(insert)?;
    for row in rows {
        insert.execute(params![
            number(row.index),
            row.link.as_slice(),
            row.kind,
            number(row.last_at),
            row.octets
        ])?;
    }
    Ok(())
}

fn version(database: &Connection) -> rusqlite::Result<i64> {
    database.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn inode_of(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|facts| (facts.dev(), facts.ino()))
}

fn place(path: &Path) -> String {
    Place::File(path.to_owned()).to_string()
}

fn wrong(path: &Path, error: rusqlite::Error) -> StoreError {
    StoreError::Sqlite { place: place(path), error }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::Address;
    use flytrap_record::seal::Subject;

    use super::super::tests::{Bed, draft};
    use super::super::{Draft, Store};
    use super::*;

    fn file(bed: &Bed) -> &Path {
        let Place::File(path) = &bed.place else { panic!("no file") };
        path
    }

    #[test]
    fn while_somebody_reads_a_key_is_deleted_and_said_to_linger() {
        let bed = Bed::sqlite();
        drop(bed.open().expect("a store"));
        let engine = Sqlite::write(file(&bed)).expect("the file");
        engine.database.busy_timeout(Duration::from_millis(50)).expect("set");
        let mut store = Store { engine: Box::new(engine), ..bed.open().expect("a store") };
        store.append(&[draft(1)]).expect("appended");
        let reader = Connection::open(file(&bed)).expect("the file");
        reader.execute_batch("BEGIN; SELECT * FROM record").expect("reading");
        let subject = Subject::Wallet(Address::repeat_byte(1));
        let told = Draft { personal: None, ..draft(1) };
        assert!(matches!(store.erase(subject, &told), Err(StoreError::Lingers { .. })));
        drop(reader);
        assert!(!store.erase(subject, &told).expect("erased"), "it was deleted before");
    }

    #[test]
    fn a_file_that_was_taken_away_takes_nothing_until_it_is_back() {
        let bed = Bed::sqlite();
        let mut store = bed.open().expect("a store");
        store.append(&[draft(1)]).expect("appended");
        let (file, away) = (file(&bed), bed.dir.path().join("away"));
        fs::rename(file, &away).expect("moved");
        assert!(matches!(store.append(&[draft(2)]), Err(StoreError::Gone { .. })));
        fs::write(file, "").expect("another file");
        assert!(matches!(store.append(&[draft(2)]), Err(StoreError::Gone { .. })));
        fs::rename(&away, file).expect("moved back");
        assert_eq!(store.append(&[draft(2)]).expect("appended"), 2);
    }
}
