//! Records that move: all of a file into a database, where they go on as the same chain.
//!
//! One transaction takes records, intervals, keys and how far retention has come, and is committed when what the database then holds was read back and
//! fits, link by link and interval by interval. Whatever fails before leaves nothing there; the file is only read.

use std::collections::VecDeque;
use std::path::Path;

use alloy_primitives::{Address, B256};
use flytrap_record::{Batch, link, top};

use super::engine::{BatchRow, Change, Engine, Last, NewRow, Row};
use super::packed::Stored;
use super::postgres::{Postgres, Role};
use super::sqlite::Sqlite;
use super::{Place, StoreError};
use crate::config::DatabaseConfig;

/// Rows that are written, or intervals and keys that are asked for, at once.
const AT_ONCE: u32 = 1_000;

/// What was moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::audit) struct Moved {
    /// Records.
    pub(in crate::audit) records: u64,
    /// Intervals.
    pub(in crate::audit) batches: u64,
    /// Keys of wallets and origins.
    pub(in crate::audit) keys: u64,
    /// Number and link of the last record.
    pub(in crate::audit) last: (u64, B256),
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::audit) enum Step {
    /// The file is read and checked, and written to the database.
    Writing,
    /// What the database holds is read back and checked.
    Checking,
}

/// Moves the records of a gateway. `tell` hears how many records of how many are done.
///
/// # Errors
/// [`StoreError`]. Nothing was moved then.
pub(in crate::audit) fn relocate(
    file: &Path,
    database: &DatabaseConfig,
    gateway: Address,
    mut tell: impl FnMut(Step, u64, u64),
) -> Result<Moved, StoreError> {
    let from = Source {
        engine: Sqlite::read_current(file)?,
        place: Place::File(file.to_owned()).to_string(),
    };
    let place = Place::Database(Box::new(database.clone())).to_string();
    let mut to = Postgres::open(database.clone(), gateway, Role::Writer)?;
    if !to.is_empty()? {
        return Err(StoreError::Taken { place, gateway });
    }
    to.begin()?;
    let keys = from.keys(&mut to)?;
    let last = from.engine.last()?.map_or(0, |last| last.0);
    let sum = from.records(&mut to, |done| tell(Step::Writing, done, last))?;
    from.batches(&mut to)?;
    to.apply_part(Change { refusals_to: Some(from.engine.refusals_to()?), ..Change::default() })?;
    let found = walk(&to, &place, |walked, _| {
        tell(Step::Checking, walked.last.0, last);
        Ok(())
    })?;
    if found != sum {
        return Err(StoreError::Damaged {
            place,
            what: format!("{found:?} are there, wanted {sum:?}"),
        });
    }
    to.commit()?;
    let Sum { records, batches, last } = sum;
    Ok(Moved { records, batches, keys, last })
}

struct Source {
    engine: Sqlite,
    place: String,
}

impl Source {
    fn keys(&self, to: &mut Postgres) -> Result<u64, StoreError> {
        let (mut after, mut moved) = (None, 0);
        loop {
            let keys = self.engine.keys_after(after, AT_ONCE)?;
            let Some(last) = keys.last() else { return Ok(moved) };
            after = Some(last.tag);
            moved += u64::try_from(keys.len()).unwrap_or(u64::MAX);
            to.apply_part(Change { keys, ..Change::default() })?;
        }
    }

    fn records(&self, to: &mut Postgres, mut tell: impl FnMut(u64)) -> Result<Sum, StoreError> {
        let mut part = Change::default();
        let sum = walk(&self.engine, &self.place, |sum, row| {
            if let Some(Stored::Leaf(leaf)) = Stored::read(row.octets) {
                part.emptied.push((row.index, leaf));
            }
            part.rows.push(NewRow {
                index: row.index,
                link: row.link,
                // That of one of which only the leaf is left is written with the leaf.
                kind: u8::try_from(row.kind).unwrap_or_default(),
                last_at: row.last_at,
                octets: row.octets.to_vec(),
            });
            if part.rows.len() < usize::try_from(AT_ONCE).unwrap_or(1) {
                return Ok(());
            }
            tell(sum.last.0);
            to.apply_part(std::mem::take(&mut part))
        })?;
        to.apply_part(part)?;
        Ok(sum)
    }

    fn batches(&self, to: &mut Postgres) -> Result<(), StoreError> {
        let mut from = 0;
        loop {
            let closed = self.engine.batches(from, AT_ONCE)?;
            let Some(last) = closed.last() else { return Ok(()) };
            from = last.sequence + 1;
            to.apply_part(Change { closed, ..Change::default() })?;
        }
    }
}

/// What there is of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    records: u64,
    batches: u64,
    last: Last,
}

/// Looks at all records in their order, whether each fits its link and each interval its root, and hands them to `each` with what there is up to and
/// with them.
fn walk(
    engine: &dyn Engine,
    place: &str,
    mut each: impl FnMut(Sum, &Row<'_>) -> Result<(), StoreError>,
) -> Result<Sum, StoreError> {
    let mut walk = Walk {
        engine,
        place,
        sum: Sum::default(),
        batches: VecDeque::new(),
        next: 0,
        leaves: Vec::new(),
    };
    walk.batch()?;
    let mut done = Ok(());
    engine.records(0, u64::MAX, &mut |row| {
        done = walk.take(&row).and_then(|()| each(walk.sum, &row));
        done.is_ok()
    })?;
    done?;
    match walk.batches.front() {
        Some(open) => Err(walk.damaged(format!("interval {} is not whole", open.sequence))),
        None => Ok(walk.sum),
    }
}

struct Walk<'a> {
    engine: &'a dyn Engine,
    place: &'a str,
    sum: Sum,
    /// The next ones, the first of which may have begun.
    batches: VecDeque<BatchRow>,
    /// Sequence number to ask for next.
    next: u64,
    /// Leaves of the one that has begun.
    leaves: Vec<B256>,
}

impl Walk<'_> {
    /// The interval that is next, if there is one.
    fn batch(&mut self) -> Result<Option<BatchRow>, StoreError> {
        if self.batches.is_empty() {
            self.batches = self.engine.batches(self.next, AT_ONCE)?.into();
            self.next = self.batches.back().map_or(self.next, |last| last.sequence + 1);
        }
        Ok(self.batches.front().copied())
    }

    fn take(&mut self, row: &Row<'_>) -> Result<(), StoreError> {
        let (batch, index) = (self.batch()?, row.index);
        let wrong = || format!("record {index} is not as it was written");
        let stored = Stored::read(row.octets).ok_or_else(|| self.damaged(wrong()))?;
        let is_first = self.sum.records == 0;
        // Of what is left of an interval that is not kept any more nobody knows what came before.
        let before = match batch {
            _ if !is_first => Some(self.sum.last.1),
            Some(batch) if batch.first == index => Some(batch.before),
            _ if index == 1 => Some(B256::ZERO),
            _ => None,
        };
        let leaf = stored.leaf();
        if !is_first && index != self.sum.last.0 + 1 {
            return Err(self.damaged(format!("record {} is missing", self.sum.last.0 + 1)));
        }
        if before.is_some_and(|before| link(before, leaf) != row.link) {
            return Err(self.damaged(wrong()));
        }
        self.sum.records += 1;
        if let Some(batch) = batch.filter(|batch| batch.first <= index) {
            if batch.first == index && before != Some(batch.before) {
                return Err(self.damaged(format!(
                    "interval {} does not go on from the one before",
                    batch.sequence
                )));
            }
            self.leaves.push(leaf);
            if u64::try_from(self.leaves.len()) == Ok(batch.count) {
                self.close(batch)?;
            }
        }
        self.sum.last = (index, row.link);
        Ok(())
    }

    fn close(&mut self, row: BatchRow) -> Result<(), StoreError> {
        let BatchRow { first, count, before, .. } = row;
        let batch = Batch { first, count, before, top: top(self.leaves.drain(..)) };
        if batch.root() != row.root {
            return Err(self
                .damaged(format!("interval {} has another root than was anchored", row.sequence)));
        }
        self.batches.pop_front();
        self.sum.batches += 1;
        Ok(())
    }

    fn damaged(&self, what: String) -> StoreError {
        StoreError::Damaged { place: self.place.to_owned(), what }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use flytrap_record::Kind;
    use flytrap_record::seal::Subject;

    use super::super::tests::{Bed, GATEWAY, NONE, draft};
    use super::super::{Draft, Retention, Store};
    use super::*;

    fn file(bed: &Bed) -> &Path {
        let Place::File(path) = &bed.place else { panic!("no file") };
        path
    }

    fn go(from: &Bed, to: &Bed) -> Result<Moved, StoreError> {
        let Place::Database(database) = &to.place else { panic!("no database") };
        relocate(file(from), database, GATEWAY, |_, _, _| {})
    }

    /// Everything that records can have gone through: intervals that are gone, one that half is, refusals of which the leaf is left, and records that no
    /// interval has yet.
    fn history(store: &mut Store) {
        for n in 0..2_500 {
            let mut refused = draft(n + 1);
            refused.record.kind = Kind::PublishRefused;
            refused.record.last_at = 100 + n;
            store.append(&[draft(n + 1), refused]).unwrap();
            if n % 100 == 99 {
                store.close(NONE).unwrap().unwrap();
            }
        }
        store.append(&[draft(9), draft(10)]).unwrap();
        let retention = Retention { all: None, refusals: Some(Duration::from_secs(1_000)) };
        while store.retain(retention, 2_000, 25).unwrap().more {}
        let retention = Retention { all: Some(Duration::from_secs(1_000)), ..retention };
        for _ in 0..4 {
            assert!(store.retain(retention, 1_450, 25).unwrap().more);
        }
    }

    fn lines(bed: &Bed) -> Vec<String> {
        let reader = bed.reader().unwrap();
        let mut all = Vec::new();
        for batch in reader.batches(0, 1_000).unwrap() {
            all.push(format!("{batch:?}"));
            let each = |line| {
                all.push(serde_json::to_string(&line).unwrap());
                Ok::<_, StoreError>(())
            };
            reader.records(&batch, each).unwrap();
        }
        all
    }

    #[test]
    fn what_was_moved_is_the_same_chain_and_goes_on() {
        let (from, to) = (Bed::sqlite(), Bed::postgres());
        let mut store = from.open().unwrap();
        history(&mut store);
        let tail = store.append(&[]).unwrap();
        drop(store);
        let before = fs::read(file(&from)).unwrap();
        // Another gateway's records are in nobody's way.
        to.open_as(Address::repeat_byte(8)).unwrap().append(&[draft(1)]).unwrap();
        let moved = go(&from, &to).unwrap();
        assert_eq!((moved.last.0, moved.keys), (tail, 1));
        assert!(moved.batches < 25 && moved.records > 4_000, "{moved:?}");
        assert_eq!(fs::read(file(&from)).unwrap(), before, "the file is as it was");
        let (there, here) = (lines(&to), lines(&from));
        assert!(there == here && here.iter().any(|line| line.contains("removed")));
        assert_eq!(
            to.number("SELECT refusals_to FROM retention"),
            from.number("SELECT refusals_to FROM retention")
        );

        let mut store = to.open().expect("whole");
        assert_eq!(store.append(&[draft(1)]).unwrap(), tail + 1);
        let closed = store.close(NONE).unwrap().unwrap();
        assert_eq!((closed.sequence, closed.count), (26, 3));
        let told = Draft { personal: None, ..draft(1) };
        assert!(
            store.erase(Subject::Wallet(Address::repeat_byte(1)), &told).unwrap(),
            "its key came along"
        );
        drop(store);
        assert!(matches!(go(&from, &to), Err(StoreError::Taken { .. })));
    }

    #[test]
    fn records_that_do_not_fit_or_find_no_room_leave_nothing_there() {
        let (from, to) = (Bed::sqlite(), Bed::postgres());
        let mut store = from.open().unwrap();
        for n in 0..2_500 {
            store.append(&[draft(n + 1)]).unwrap();
        }
        store.close(NONE).unwrap().unwrap();
        drop(store);
        let count = "SELECT (SELECT count(*) FROM record) + (SELECT count(*) FROM batch) + (SELECT count(*) FROM subject)";
        drop(to.open_as(Address::repeat_byte(8)).unwrap());
        to.sql("ALTER TABLE record ADD CONSTRAINT room CHECK (idx < 2200)");
        assert!(matches!(go(&from, &to), Err(StoreError::Postgres { .. })));
        assert_eq!(to.number(count), 0);
        to.sql("ALTER TABLE record DROP CONSTRAINT room");

        for (spoil, wanted) in [
            (
                "UPDATE record SET link = zeroblob(32) WHERE idx = 2345",
                "record 2345 is not as it was written",
            ),
            ("UPDATE batch SET root = zeroblob(32)", "interval 1 has another root"),
            ("DELETE FROM record WHERE idx = 1700", "record 1700 is missing"),
            ("DELETE FROM record WHERE idx > 2000", "interval 1 is not whole"),
        ] {
            let spoiled = Bed::sqlite();
            fs::copy(file(&from), file(&spoiled)).unwrap();
            spoiled.sql(spoil);
            let refused = go(&spoiled, &to).expect_err(spoil).to_string();
            assert!(refused.contains(wanted), "{spoil}: {refused}");
            assert_eq!(to.number(count), 0);
        }
        assert_eq!(go(&from, &to).unwrap().records, 2_500);
    }

    #[test]
    fn a_writer_there_and_a_file_of_a_version_before_are_refused() {
        let (from, to) = (Bed::sqlite(), Bed::postgres());
        from.open().unwrap().append(&[draft(1)]).unwrap();
        let writer = to.open().unwrap();
        assert!(matches!(go(&from, &to), Err(StoreError::Held { .. })));
        drop(writer);
        from.sql("PRAGMA user_version = 2");
        assert!(matches!(go(&from, &to), Err(StoreError::Old { found: 2, .. })));
    }
}
