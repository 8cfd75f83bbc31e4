//! Questions to the index. Each has a deadline, and ends with whoever asked it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use alloy_primitives::{Address, B256};
use flytrap_record::export::Line;
use flytrap_record::{Batch as Header, Blocks, Kind, Path};
use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, params, params_from_iter};

use super::follow::decision;
use super::{Index, IndexError, SCHEMA, address};
use crate::audit::Reader;
use crate::numbers::{hash, number, unsigned};

/// Steps of SQLite's machine between two looks at the clock.
const LOOK_EVERY: i32 = 4_096;

/// One question's view of the index and the store behind it.
pub(in crate::api) struct Search {
    index: Index,
    database: Connection,
    records: Option<Reader>,
}

/// Which records are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(in crate::api) struct Wanted {
    pub(in crate::api) topic: Option<B256>,
    pub(in crate::api) wallet: Option<Address>,
    pub(in crate::api) device: Option<Address>,
    pub(in crate::api) kind: Option<Kind>,
    pub(in crate::api) decision: Option<flytrap_record::Decision>,
    pub(in crate::api) country: Option<String>,
    /// Seconds, both included; what a record counts was in between.
    pub(in crate::api) from: Option<u64>,
    pub(in crate::api) to: Option<u64>,
    pub(in crate::api) newest_first: bool,
}

/// Up to where the index knows everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::api) struct Coverage {
    /// The first and the last record, 0 without any.
    pub(in crate::api) first: u64,
    pub(in crate::api) last: u64,
    /// Number of the last interval, 0 without one.
    pub(in crate::api) sequence: u64,
}

/// An interval of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) struct Batch {
    pub(in crate::api) sequence: u64,
    pub(in crate::api) first: u64,
    pub(in crate::api) count: u64,
    pub(in crate::api) before: B256,
    pub(in crate::api) root: B256,
}

/// An anchor as the chain has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) struct AnchorRow {
    pub(in crate::api) gateway: Address,
    pub(in crate::api) sequence: u64,
    pub(in crate::api) root: B256,
    pub(in crate::api) previous: B256,
    pub(in crate::api) count: u64,
    pub(in crate::api) height: u64,
    pub(in crate::api) time: u64,
    pub(in crate::api) tx: B256,
}

/// How much one wallet did of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) struct Use {
    pub(in crate::api) wallet: Address,
    pub(in crate::api) kind: Kind,
    pub(in crate::api) records: u64,
    pub(in crate::api) count: u64,
    pub(in crate::api) octets: u64,
    pub(in crate::api) first_at: u64,
    pub(in crate::api) last_at: u64,
}

/// A sum over records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::api) struct Cell {
    /// Unix seconds / 86,400.
    pub(in crate::api) day: u64,
    pub(in crate::api) topic: B256,
    pub(in crate::api) kind: Kind,
    /// `None`: several, which are too few to be told each.
    pub(in crate::api) country: Option<String>,
    pub(in crate::api) wallets: u64,
    pub(in crate::api) records: u64,
    pub(in crate::api) count: u64,
    pub(in crate::api) octets: u64,
}

type Answer<T> = Result<T, IndexError>;

impl Search {
    pub(super) fn new(
        index: Index,
        mut database: Connection,
        stop: Arc<AtomicBool>,
        deadline: Instant,
    ) -> Answer<Self> {
        let is_over = move || stop.load(Ordering::Relaxed) || Instant::now() >= deadline;
        database.progress_handler(LOOK_EVERY, Some(is_over))?;
        database.busy_timeout(std::time::Duration::from_secs(1))?;
        // One state of the index for the whole question: what is dropped meanwhile must not look like a damage.
        database.execute_batch("BEGIN")?;
        let found: i64 = database.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found == 0 {
            // It is being made.
            return Err(IndexError::Late);
        }
        if found != SCHEMA {
            return Err(IndexError::Wrong("its version".to_owned()));
        }
        Ok(Self { index, database, records: None })
    }

    /// What became of a question.
    fn told<T>(&self, outcome: rusqlite::Result<T>) -> Answer<T> {
        let outcome = outcome.map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => IndexError::Late,
            _ => error.into(),
        });
        self.index.noted(outcome)
    }

    fn all<T>(
        &self,
        question: &str,
        values: Vec<Value>,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Answer<Vec<T>> {
        let asked = || {
            let mut asked = self.database.prepare_cached(question)?;
            asked.query_map(params_from_iter(values), read)?.collect()
        };
        self.told(asked())
    }

    pub(in crate::api) fn coverage(&self) -> Answer<Coverage> {
        let question = "SELECT coalesce(min(first), 0), coalesce(max(first + count) - 1, 0), coalesce(max(sequence), 0) FROM batch";
        self.told(self.database.query_row(question, [], |row| {
            Ok(Coverage {
                first: unsigned(row, 0)?,
                last: unsigned(row, 1)?,
                sequence: unsigned(row, 2)?,
            })
        }))
    }

    /// Numbers of the records that are wanted, in their order, each with that of its interval; those after `after`, at most `most`.
    pub(in crate::api) fn numbers(
        &self,
        wanted: &Wanted,
        after: Option<u64>,
        most: usize,
    ) -> Answer<Vec<(u64, u64)>> {
        let (low, high) = self.range(wanted.from, wanted.to)?;
        let (mut low, mut high) = (number(low), number(high));
        match (after, wanted.newest_first) {
            (Some(after), true) => high = high.min(number(after).saturating_sub(1)),
            (Some(after), false) => low = low.max(number(after).saturating_add(1)),
            (None, _) => {}
        }
        let mut question = "SELECT idx, (SELECT sequence FROM batch WHERE first <= idx ORDER BY first DESC LIMIT 1)
            FROM record WHERE idx BETWEEN ? AND ?".to_owned();
        let mut values: Vec<Value> = vec![low.into(), high.into()];
        let mut and = |condition: &str, value: Option<Value>| {
            if let Some(value) = value {
                question.push_str(condition);
                values.push(value);
            }
        };
        and(" AND topic = ?", wanted.topic.map(|topic| topic.to_vec().into()));
        and(" AND wallet = ?", wanted.wallet.map(|wallet| wallet.to_vec().into()));
        and(" AND key = ?", wanted.device.map(|device| device.to_vec().into()));
        let decided = wanted.decision.map(|wanted| match wanted {
            flytrap_record::Decision::Allowed => 1_i64,
            flytrap_record::Decision::Refused => 2,
        });
        and(" AND decision = ?", decided.or(wanted.kind.map(decision)).map(Value::from));
        and(" AND kind = ?", wanted.kind.map(|kind| i64::from(kind.number()).into()));
        and(" AND country = ?", wanted.country.clone().map(Value::from));
        and(" AND last_at >= ?", wanted.from.map(|from| number(from).into()));
        and(" AND first_at <= ?", wanted.to.map(|to| number(to).into()));
        question.push_str(if wanted.newest_first { " ORDER BY idx DESC" } else { " ORDER BY idx" });
        question.push_str(" LIMIT ?");
        values.push(i64::try_from(most).unwrap_or(i64::MAX).into());
        self.all(&question, values, |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?)))
    }

    /// Numbers between which everything lies that was in these seconds.
    fn range(&self, from: Option<u64>, to: Option<u64>) -> Answer<(u64, u64)> {
        let question = "SELECT coalesce(min(first), 1), coalesce(max(first + count) - 1, 0) FROM batch WHERE last_at >= ? AND first_at <= ?";
        let values = [number(from.unwrap_or(0)), number(to.unwrap_or(u64::MAX))];
        self.told(
            self.database
                .query_row(question, values, |row| Ok((unsigned(row, 0)?, unsigned(row, 1)?))),
        )
    }

    /// The record itself, from the store; `None` if it is not kept any more.
    pub(in crate::api) fn record(&mut self, index: u64) -> Answer<Option<Line>> {
        let reader = match self.records.take() {
            Some(reader) => reader,
            None => self.index.reader()?,
        };
        let found = reader.record(index);
        self.records = Some(reader);
        Ok(found?)
    }

    /// The interval of a record; `None` if that is not among those that are closed and kept.
    pub(in crate::api) fn batch_of(&self, index: u64) -> Answer<Option<Batch>> {
        let question = "SELECT sequence, first, count, before, root FROM batch WHERE first <= ?1 AND first + count > ?1 ORDER BY first DESC LIMIT 1";
        let found = self.database.query_row(question, [number(index)], |row| {
            Ok(Batch {
                sequence: unsigned(row, 0)?,
                first: unsigned(row, 1)?,
                count: unsigned(row, 2)?,
                before: hash(row, 3)?,
                root: hash(row, 4)?,
            })
        });
        self.told(found.optional())
    }

    /// The way from a record's leaf to the top of its interval's tree, followed to the root before it is told.
    pub(in crate::api) fn path(&self, batch: &Batch, index: u64, leaf: B256) -> Answer<Path> {
        let wrong = || IndexError::Wrong(format!("interval {}", batch.sequence));
        let place = index.checked_sub(batch.first).ok_or_else(wrong)?;
        let size = u64::try_from(Blocks::LEAVES).unwrap_or(u64::MAX);
        let (part, place) = (place / size, place % size);
        let tops = self.all(
            "SELECT top FROM part WHERE sequence = ? ORDER BY part",
            vec![number(batch.sequence).into()],
            |row| hash(row, 0),
        )?;
        let (from, end) = (batch.first + part * size, batch.first.saturating_add(batch.count));
        let to = end.min(from.saturating_add(size)).saturating_sub(1);
        let leaves = self.all(
            "SELECT leaf FROM leaf WHERE idx BETWEEN ? AND ? ORDER BY idx",
            vec![number(from).into(), number(to).into()],
            |row| hash(row, 0),
        )?;
        let (Ok(part), Ok(place)) = (usize::try_from(part), usize::try_from(place)) else {
            return Err(wrong());
        };
        let path = Blocks::path(&tops, part, &leaves, place, batch.count);
        let leads = |path: &Path| {
            let Batch { first, count, before, .. } = *batch;
            path.top(leaf).map(|top| Header { first, count, before, top }.root())
                == Some(batch.root)
        };
        self.index.noted(path.filter(leads).ok_or_else(wrong))
    }

    /// What was done on a topic in these seconds, by wallet and kind.
    pub(in crate::api) fn uses(
        &self,
        topic: B256,
        from: u64,
        to: u64,
        most: usize,
    ) -> Answer<Vec<Use>> {
        let (low, high) = self.range(Some(from), Some(to))?;
        let question = "SELECT wallet, kind, count(*), sum(count), sum(octets), min(first_at), max(last_at) FROM record
            WHERE topic = ? AND idx BETWEEN ? AND ? AND last_at >= ? AND first_at <= ? AND decision > 0 GROUP BY wallet, kind ORDER BY wallet, kind LIMIT ?";
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let values = vec![
            topic.to_vec().into(),
            number(low).into(),
            number(high).into(),
            number(from).into(),
            number(to).into(),
            most.into(),
        ];
        self.all(question, values, |row| {
            Ok(Use {
                wallet: address(row, 0)?,
                kind: kind(row, 1)?,
                records: unsigned(row, 2)?,
                count: unsigned(row, 3)?,
                octets: unsigned(row, 4)?,
                first_at: unsigned(row, 5)?,
                last_at: unsigned(row, 6)?,
            })
        })
    }

    /// Whether a wallet ever did something of this kind on a topic, as far as records are kept.
    pub(in crate::api) fn has_done(&self, topic: B256, wallet: Address, of: Kind) -> Answer<bool> {
        let question =
            "SELECT EXISTS (SELECT 1 FROM tally WHERE topic = ? AND wallet = ? AND kind = ?)";
        let values = params![topic.as_slice(), wallet.as_slice(), of.number()];
        let asked = || self.database.prepare_cached(question)?.query_row(values, |row| row.get(0));
        self.told(asked())
    }

    /// Sums by day, topic, kind and country, in that order, after the cell `after`. A cell that stands for fewer than `least` wallets is told with
    /// the other small ones of its day, topic and kind, and not at all where these are too few too. What nobody is named for (failed proofs,
    /// starts) is told always, without a country. The cells are parts of one whole, so that no difference of two says what is in a third.
    pub(in crate::api) fn cells(
        &self,
        days: (u64, u64),
        topic: Option<B256>,
        least: u64,
        skip: u64,
        most: usize,
    ) -> Answer<Vec<Cell>> {
        let question = "WITH chosen AS (SELECT * FROM tally WHERE day BETWEEN ?1 AND ?2 AND (?3 IS NULL OR topic = ?3)),
            cell AS (SELECT day, topic, kind, country, count(*) AS wallets FROM chosen WHERE wallet <> zeroblob(20) GROUP BY 1, 2, 3, 4)
            SELECT c.day, c.topic, c.kind, CASE WHEN cell.wallets >= ?4 THEN c.country END AS place,
                count(DISTINCT nullif(c.wallet, zeroblob(20))) AS people, sum(c.records), sum(c.count), sum(c.octets), c.wallet = zeroblob(20) AS nobody
            FROM chosen c LEFT JOIN cell USING (day, topic, kind, country)
            GROUP BY c.day, c.topic, c.kind, place, nobody HAVING nobody OR people >= ?4
            ORDER BY c.day, c.topic, c.kind, place, nobody LIMIT ?5 OFFSET ?6";
        let values = vec![
            number(days.0).into(),
            number(days.1).into(),
            topic.map_or(Value::Null, |topic| topic.to_vec().into()),
            number(least).into(),
            i64::try_from(most).unwrap_or(i64::MAX).into(),
            number(skip).into(),
        ];
        self.all(question, values, |row| {
            Ok(Cell {
                day: unsigned(row, 0)?,
                topic: hash(row, 1)?,
                kind: kind(row, 2)?,
                country: row.get(3)?,
                wallets: unsigned(row, 4)?,
                records: unsigned(row, 5)?,
                count: unsigned(row, 6)?,
                octets: unsigned(row, 7)?,
            })
        })
    }

    /// Anchors of the broker's gateways, or of one, in the order of gateways and numbers, after one of them.
    pub(in crate::api) fn anchors(
        &self,
        gateway: Option<Address>,
        after: Option<(Address, u64)>,
        most: usize,
    ) -> Answer<Vec<AnchorRow>> {
        let question = "SELECT gateway, sequence, root, previous, count, height, time, tx FROM anchor
            WHERE (?1 IS NULL OR gateway = ?1) AND (gateway, sequence) > (?2, ?3) ORDER BY gateway, sequence LIMIT ?4";
        let (of, sequence) = after.unwrap_or_default();
        let values = vec![
            gateway.map_or(Value::Null, |gateway| gateway.to_vec().into()),
            of.to_vec().into(),
            number(sequence).into(),
            i64::try_from(most).unwrap_or(i64::MAX).into(),
        ];
        self.all(question, values, anchor)
    }

    /// One anchor.
    pub(in crate::api) fn anchor(
        &self,
        gateway: Address,
        sequence: u64,
    ) -> Answer<Option<AnchorRow>> {
        let question = "SELECT gateway, sequence, root, previous, count, height, time, tx FROM anchor WHERE gateway = ? AND sequence = ?";
        let values = params![gateway.as_slice(), number(sequence)];
        self.told(self.database.query_row(question, values, anchor).optional())
    }

    /// Up to which block anchors are known.
    pub(in crate::api) fn anchors_to(&self) -> Answer<u64> {
        let question = "SELECT anchors_to FROM progress";
        self.told(self.database.query_row(question, [], |row| unsigned(row, 0)))
    }
}

fn anchor(row: &Row<'_>) -> rusqlite::Result<AnchorRow> {
    Ok(AnchorRow {
        gateway: address(row, 0)?,
        sequence: unsigned(row, 1)?,
        root: hash(row, 2)?,
        previous: hash(row, 3)?,
        count: unsigned(row, 4)?,
        height: unsigned(row, 5)?,
        time: unsigned(row, 6)?,
        tx: hash(row, 7)?,
    })
}

fn kind(row: &Row<'_>, column: usize) -> rusqlite::Result<Kind> {
    let found: i64 = row.get(column)?;
    let kind = u8::try_from(found).ok().and_then(Kind::from_number);
    kind.ok_or(rusqlite::Error::IntegralValueOutOfRange(column, found))
}
