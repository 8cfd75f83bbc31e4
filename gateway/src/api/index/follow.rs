//! The one writer of the index: takes in what was closed, drops what retention removed, in small steps.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use alloy_primitives::B256;
use flytrap_chain::history::Entry;
use flytrap_policy::Event;
use flytrap_record::export::{BatchLine, Line};
use flytrap_record::{Batch, Blocks, Decision, Kind, Record, leaf};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::{Index, IndexError, SCHEMA};
use crate::audit::{Place, Reader};
use crate::numbers::{hash, number, unsigned};

/// Records that one step takes in or drops: some ten milliseconds, and a reader of the store for no longer.
const AT_ONCE: u64 = 1_000;
/// Most that one record counts for in a sum, so that no sum leaves SQLite's numbers.
const MOST: u64 = 1 << 44;

const TABLES: &str = "
    CREATE TABLE batch (
        sequence INTEGER PRIMARY KEY, first INTEGER NOT NULL, count INTEGER NOT NULL, before BLOB NOT NULL, root BLOB NOT NULL,
        first_at INTEGER NOT NULL, last_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX batch_by_first ON batch (first);
    CREATE TABLE part (sequence INTEGER, part INTEGER, top BLOB NOT NULL, PRIMARY KEY (sequence, part)) STRICT, WITHOUT ROWID;
    CREATE TABLE leaf (idx INTEGER PRIMARY KEY, leaf BLOB NOT NULL) STRICT;
    CREATE TABLE record (
        idx INTEGER PRIMARY KEY, kind INTEGER NOT NULL, decision INTEGER NOT NULL, wallet BLOB NOT NULL, key BLOB NOT NULL, topic BLOB NOT NULL,
        country TEXT NOT NULL, first_at INTEGER NOT NULL, last_at INTEGER NOT NULL, count INTEGER NOT NULL, octets INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX record_by_wallet ON record (wallet);
    CREATE INDEX record_by_key ON record (key);
    CREATE INDEX record_by_topic ON record (topic);
    CREATE INDEX record_by_decision ON record (decision);
    CREATE INDEX record_by_country ON record (country);
    CREATE TABLE tally (
        topic BLOB, wallet BLOB, kind INTEGER, day INTEGER, country TEXT, records INTEGER NOT NULL, count INTEGER NOT NULL, octets INTEGER NOT NULL,
        PRIMARY KEY (topic, wallet, kind, day, country)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tally_empty ON tally (records) WHERE records <= 0;
    CREATE TABLE anchor (
        gateway BLOB, sequence INTEGER, root BLOB NOT NULL, previous BLOB NOT NULL, count INTEGER NOT NULL, height INTEGER NOT NULL,
        time INTEGER NOT NULL, tx BLOB NOT NULL, PRIMARY KEY (gateway, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE progress (anchors_to INTEGER NOT NULL, refusals_to INTEGER NOT NULL) STRICT;
    INSERT INTO progress VALUES (0, 0);";

/// Sums over the records in a range of numbers.
const SUMS: &str = "SELECT topic, wallet, kind, first_at / 86400 AS day, country, count(*) AS records, sum(count) AS count, sum(octets) AS octets
    FROM record WHERE idx BETWEEN ? AND ? GROUP BY 1, 2, 3, 4, 5";

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum Step {
    /// There is more to do.
    More,
    /// All is as the store has it.
    Done,
}

/// Writes the index.
#[derive(Debug)]
pub(in crate::api) struct Follower {
    index: Index,
    open: Option<Open>,
    /// Kept between steps where the records are in a database.
    reader: Option<Reader>,
    /// Whether the store drops what refusals said before it drops the rest.
    drops_refusals: bool,
}

/// The file, and the batch that is being taken in.
#[derive(Debug)]
struct Open {
    database: Connection,
    inode: (u64, u64),
    taking: Option<Taking>,
}

/// A batch, and how far it is.
#[derive(Debug)]
struct Taking {
    batch: BatchLine,
    next: u64,
    blocks: Blocks,
    parts: u64,
    span: (u64, u64),
}

impl Follower {
    pub(in crate::api) fn new(index: Index, drops_refusals: bool) -> Self {
        Self { index, open: None, reader: None, drops_refusals }
    }

    /// One small step.
    ///
    /// # Errors
    /// [`IndexError`]; the next step tries again, with a new file where this one is damaged.
    pub(in crate::api) fn step(&mut self) -> Result<Step, IndexError> {
        let done = self.try_step();
        if done.is_err() {
            // Also where only one batch could not be read: what was taken in of it is in memory and begins anew.
            self.open = None;
        }
        self.index.is_behind.store(!matches!(done, Ok(Step::Done)), Ordering::Relaxed);
        self.index.noted(done)
    }

    fn try_step(&mut self) -> Result<Step, IndexError> {
        self.opened()?;
        let reader = match self.reader.take() {
            Some(reader) => reader,
            None => self.index.reader()?,
        };
        let step = self.step_by(&reader)?;
        // A server need not be dialled for each step; a file may be another one by the next.
        if matches!(self.index.records, Place::Database(_)) {
            self.reader = Some(reader);
        }
        Ok(step)
    }

    fn step_by(&mut self, reader: &Reader) -> Result<Step, IndexError> {
        let drops_refusals = self.drops_refusals;
        let open = self.opened()?;
        if open.taking.is_some() {
            open.take_in(reader)?;
            return Ok(Step::More);
        }
        let last =
            "SELECT sequence, first, count, before FROM batch ORDER BY sequence DESC LIMIT 1";
        let last = open.database.query_row(last, [], |row| {
            Ok(BatchLine {
                sequence: unsigned(row, 0)?,
                first: unsigned(row, 1)?,
                count: unsigned(row, 2)?,
                before: hash(row, 3)?,
            })
        });
        let last = last.optional()?;
        if let Some(last) = &last
            && reader.batches(last.sequence, 1)?.first() != Some(last)
        {
            // Another store, or one that has dropped all that is known of it here.
            return Err(IndexError::Wrong(format!("interval {}", last.sequence)));
        }
        if open.drop_old(reader)? || (drops_refusals && open.drop_refusals(reader)?) {
            return Ok(Step::More);
        }
        let from = last.map_or(0, |last| last.sequence.saturating_add(1));
        let Some(batch) = reader.batches(from, 1)?.pop() else { return Ok(Step::Done) };
        open.begin(batch)?;
        Ok(Step::More)
    }

    /// The file, made anew if there is none that can be used.
    fn opened(&mut self) -> Result<&mut Open, IndexError> {
        let file = &self.index.file;
        let is_there = |open: &Open| inode(file) == Some(open.inode);
        let is_damaged = self.index.is_damaged.swap(false, Ordering::Relaxed);
        if is_damaged || !self.open.as_ref().is_some_and(is_there) {
            self.open = None;
            let kept = if is_damaged { Ok(None) } else { Open::existing(file) };
            self.open = match kept {
                Ok(Some(open)) => Some(open),
                _ => Some(Open::anew(file)?),
            };
        }
        self.open.as_mut().ok_or(IndexError::Late)
    }

    /// Up to which block anchors are known; 0 where none was asked for.
    pub(in crate::api) fn anchors_to(&mut self) -> Result<u64, IndexError> {
        let open = self.opened()?;
        Ok(open
            .database
            .query_row("SELECT anchors_to FROM progress", [], |row| unsigned(row, 0))?)
    }

    /// Forgets the anchors after a block: the chain may have others there now.
    pub(in crate::api) fn unsettle(&mut self, height: u64) -> Result<(), IndexError> {
        let open = self.opened()?;
        let transaction = open.transaction()?;
        transaction.execute("DELETE FROM anchor WHERE height > ?", [number(height)])?;
        let back = "UPDATE progress SET anchors_to = min(anchors_to, ?)";
        transaction.execute(back, [number(height)])?;
        Ok(transaction.commit()?)
    }

    /// Takes in the anchors of all blocks up to `to`.
    pub(in crate::api) fn anchored(
        &mut self,
        entries: &[Entry],
        to: u64,
    ) -> Result<(), IndexError> {
        let open = self.opened()?;
        let transaction = open.transaction()?;
        let insert = "INSERT OR REPLACE INTO anchor VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        for entry in entries {
            let Event::Anchored { gateway, sequence, root, previous, count, .. } = &entry.event
            else {
                continue;
            };
            transaction.prepare_cached(insert)?.execute(params![
                gateway.as_slice(),
                number(*sequence),
                root.as_slice(),
                previous.as_slice(),
                number(*count),
                number(entry.height),
                number(entry.time),
                entry.tx.as_slice()
            ])?;
        }
        transaction.execute("UPDATE progress SET anchors_to = ?", [number(to)])?;
        Ok(transaction.commit()?)
    }
}

impl Open {
    /// A file that is there and of this version.
    fn existing(file: &Path) -> Result<Option<Self>, IndexError> {
        let Some(inode) = inode(file) else { return Ok(None) };
        let open = Self { database: prepared(file)?, inode, taking: None };
        let found: i64 = open.database.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found != SCHEMA {
            return Ok(None);
        }
        open.clear_unfinished()?;
        Ok(Some(open))
    }

    fn anew(file: &Path) -> Result<Self, IndexError> {
        for end in ["", "-wal", "-shm"] {
            let mut part = file.as_os_str().to_owned();
            part.push(end);
            match fs::remove_file(&part) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        let database = prepared(file)?;
        database.execute_batch(&format!(
            "BEGIN IMMEDIATE; {TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;"
        ))?;
        let inode = inode(file).ok_or(IndexError::Late)?;
        Ok(Self { database, inode, taking: None })
    }

    /// What was taken in of a batch that a stop cut short is no part of any answer, and comes again.
    fn clear_unfinished(&self) -> Result<(), IndexError> {
        self.database.execute_batch(
            "BEGIN IMMEDIATE;
             DELETE FROM record WHERE idx >= (SELECT coalesce(max(first + count), 0) FROM batch);
             DELETE FROM leaf WHERE idx >= (SELECT coalesce(max(first + count), 0) FROM batch);
             DELETE FROM part WHERE sequence > (SELECT coalesce(max(sequence), 0) FROM batch);
             COMMIT;",
        )?;
        Ok(())
    }

    fn transaction(&mut self) -> Result<Transaction<'_>, IndexError> {
        Ok(self.database.transaction_with_behavior(TransactionBehavior::Immediate)?)
    }

    fn begin(&mut self, batch: BatchLine) -> Result<(), IndexError> {
        self.clear_unfinished()?;
        let next = batch.first;
        let (blocks, span) = (Blocks::default(), (u64::MAX, 0));
        self.taking = Some(Taking { batch, next, blocks, parts: 0, span });
        Ok(())
    }

    /// The next records of the batch; with the last of them it shows.
    fn take_in(&mut self, reader: &Reader) -> Result<(), IndexError> {
        let Some(mut taking) = self.taking.take() else { return Ok(()) };
        let Taking { batch, next, blocks, parts, span } = &mut taking;
        let (sequence, end) = (batch.sequence, batch.first.saturating_add(batch.count));
        let count = AT_ONCE.min(end.saturating_sub(*next));
        let piece = BatchLine { first: *next, count, ..batch.clone() };
        let transaction =
            self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let keep_part = |part: u64, top: B256| {
            let insert = "INSERT INTO part VALUES (?, ?, ?)";
            let values = params![number(sequence), number(part), top.as_slice()];
            transaction.prepare_cached(insert)?.execute(values).map(drop)
        };
        reader.records(&piece, |line| {
            let (index, leaf) = match &line {
                Line::Record(line) => {
                    let record = &line.record;
                    *span = (span.0.min(record.first_at), span.1.max(record.last_at));
                    insert(&transaction, record)?;
                    (record.index, leaf(&record.encode()))
                }
                Line::Removed(line) => (line.index, line.leaf),
                Line::Head(_) | Line::Batch(_) | Line::End(_) => return Ok(()),
            };
            let keep = "INSERT INTO leaf VALUES (?, ?)";
            transaction.prepare_cached(keep)?.execute(params![number(index), leaf.as_slice()])?;
            if let Some(top) = blocks.push(leaf) {
                keep_part(*parts, top)?;
                *parts += 1;
            }
            Ok::<_, IndexError>(())
        })?;
        *next += count;
        let is_whole = *next >= end;
        if is_whole {
            if let Some(top) = blocks.close() {
                keep_part(*parts, top)?;
            }
            let BatchLine { first, count, before, .. } = *batch;
            let root = Batch { first, count, before, top: blocks.top() }.root();
            let insert = "INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?)";
            transaction.execute(
                insert,
                params![
                    number(sequence),
                    number(first),
                    number(count),
                    before.as_slice(),
                    root.as_slice(),
                    number(span.0),
                    number(span.1)
                ],
            )?;
            let add = format!(
                "INSERT INTO tally {SUMS} ON CONFLICT DO UPDATE SET
                 records = records + excluded.records, count = count + excluded.count, octets = octets + excluded.octets"
            );
            transaction.execute(&add, [number(first), number(end - 1)])?;
        }
        transaction.commit()?;
        if !is_whole {
            self.taking = Some(taking);
        }
        Ok(())
    }

    /// Drops what the store has dropped as a whole; whether there was anything.
    fn drop_old(&mut self, reader: &Reader) -> Result<bool, IndexError> {
        let Some(oldest) = reader.batches(0, 1)?.pop() else { return Ok(false) };
        let transaction = self.transaction()?;
        let gone = "DELETE FROM batch WHERE sequence < ?";
        let mut count = transaction.execute(gone, [number(oldest.sequence)])?;
        count += transaction
            .execute("DELETE FROM part WHERE sequence < ?", [number(oldest.sequence)])?;
        let first: Option<i64> =
            transaction.query_row("SELECT min(first) FROM batch", [], |row| row.get(0))?;
        if let Some(first) = first {
            let to =
                "SELECT max(idx) FROM (SELECT idx FROM leaf WHERE idx < ? ORDER BY idx LIMIT ?)";
            let to: Option<i64> =
                transaction.query_row(to, [first, number(AT_ONCE)], |row| row.get(0))?;
            if let Some(to) = to {
                forget(&transaction, 0, to)?;
                count += transaction.execute("DELETE FROM leaf WHERE idx <= ?", [to])?;
            }
        }
        transaction.commit()?;
        if count > 0 {
            self.scrub()?;
        }
        Ok(count > 0)
    }

    /// Takes what was deleted out of SQLite's log too, unless somebody reads just now: then the next time.
    fn scrub(&self) -> Result<(), IndexError> {
        Ok(self.database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?)
    }

    /// Drops what refusals said, where the store has emptied them: from the first on, up to the first that it still has.
    fn drop_refusals(&mut self, reader: &Reader) -> Result<bool, IndexError> {
        let transaction = self.transaction()?;
        let next =
            "SELECT idx FROM record WHERE decision = 2 AND idx > (SELECT refusals_to FROM progress)
            AND idx < (SELECT coalesce(max(first + count), 0) FROM batch) ORDER BY idx LIMIT ?";
        let next: Vec<i64> = {
            let mut next = transaction.prepare_cached(next)?;
            next.query_map([number(AT_ONCE)], |row| row.get(0))?.collect::<Result<_, _>>()?
        };
        let mut dropped = false;
        for index in next {
            let line = reader.record(u64::try_from(index).unwrap_or_default())?;
            if matches!(line, Some(Line::Record(_))) {
                break;
            }
            forget(&transaction, index, index)?;
            transaction.execute("UPDATE progress SET refusals_to = ?", [index])?;
            dropped = true;
        }
        transaction.commit()?;
        if dropped {
            self.scrub()?;
        }
        Ok(dropped)
    }
}

fn prepared(file: &Path) -> Result<Connection, IndexError> {
    let database = Connection::open(file)?;
    database.busy_timeout(std::time::Duration::from_secs(5))?;
    // It can be made anew, so a power cut may cost the last steps; what is deleted is overwritten as in the store.
    database.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON; PRAGMA cache_size = -16384;
         PRAGMA journal_size_limit = 8388608;",
    )?;
    Ok(database)
}

fn inode(file: &Path) -> Option<(u64, u64)> {
    fs::metadata(file).ok().map(|facts| (facts.dev(), facts.ino()))
}

/// A decision as a number: of what nobody asked for, allowed, refused.
pub(super) const fn decision(kind: Kind) -> i64 {
    match kind.decision() {
        None => 0,
        Some(Decision::Allowed) => 1,
        Some(Decision::Refused) => 2,
    }
}

fn insert(transaction: &Transaction<'_>, record: &Record) -> Result<(), IndexError> {
    let insert = "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    transaction.prepare_cached(insert)?.execute(params![
        number(record.index),
        record.kind.number(),
        decision(record.kind),
        record.wallet.as_slice(),
        record.key.as_slice(),
        record.topic_id.as_slice(),
        record.country,
        number(record.first_at),
        number(record.last_at),
        number(record.count.min(MOST)),
        number(record.octets.min(MOST))
    ])?;
    Ok(())
}

/// Takes records, by the range of their numbers, out of the sums and deletes them.
fn forget(transaction: &Transaction<'_>, from: i64, to: i64) -> Result<(), IndexError> {
    let subtract = format!(
        "UPDATE tally SET records = tally.records - gone.records, count = tally.count - gone.count, octets = tally.octets - gone.octets
         FROM ({SUMS}) AS gone WHERE tally.topic = gone.topic AND tally.wallet = gone.wallet AND tally.kind = gone.kind
         AND tally.day = gone.day AND tally.country = gone.country"
    );
    transaction.prepare_cached(&subtract)?.execute([from, to])?;
    transaction.prepare_cached("DELETE FROM tally WHERE records <= 0")?.execute([])?;
    transaction
        .prepare_cached("DELETE FROM record WHERE idx BETWEEN ? AND ?")?
        .execute([from, to])?;
    Ok(())
}
