//! Records in a PostgreSQL database: those of several gateways side by side, each a chain of its own with one writer.
//!
//! Everything is in a schema of its own, `flytrap`, by the gateway's address. All calls here block, as SQLite's do; what speaks to the server is
//! in [`link`].

mod link;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use flytrap_record::seal::SubjectKey;
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};

use super::StoreError;
use super::engine::{Applied, BatchRow, Change, Engine, KeyRow, Last, Row};
use crate::config::DatabaseConfig;
use crate::numbers::number;
pub(super) use link::Role;
use link::{Fault, Link, Session};

/// Records that are asked for at once.
const PAGE: u64 = 1_000;
/// How long anything but a large transaction may take, and how much longer one for each of its records.
const PATIENCE: Duration = Duration::from_secs(15);
const PER_RECORD: Duration = Duration::from_millis(1);
/// How long taking deleted keys out may take, which writes their table anew.
const SCRUBBING: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Postgres {
    link: Link,
    gateway: [u8; 20],
}

impl Postgres {
    /// Connects.
    pub(super) fn open(
        database: DatabaseConfig,
        gateway: Address,
        role: Role,
    ) -> Result<Self, StoreError> {
        Ok(Self { link: Link::open(database, gateway, role)?, gateway: gateway.into_array() })
    }

    /// Whether there is nothing of this gateway.
    pub(super) fn is_empty(&self) -> Result<bool, StoreError> {
        let question = "SELECT EXISTS (SELECT FROM record WHERE gateway = $1) OR EXISTS (SELECT FROM batch WHERE gateway = $1)
            OR EXISTS (SELECT FROM subject WHERE gateway = $1) OR EXISTS (SELECT FROM retention WHERE gateway = $1)";
        let found = self.ask(question, Vec::new())?;
        found.first().map_or(Ok(true), |row| Ok(!self.link.read(row.try_get::<_, bool>(0))?))
    }

    /// Begins a transaction of many [parts](Self::apply_part). Nothing of it stays unless it is [committed](Self::commit).
    pub(super) fn begin(&mut self) -> Result<(), StoreError> {
        self.execute("BEGIN")
    }

    /// Does one part of a transaction.
    pub(super) fn apply_part(&mut self, change: Change) -> Result<(), StoreError> {
        let gateway = self.gateway;
        self.link.work(patience(&change), move |session| async move {
            apply(&session, &gateway, &change).await.map(drop)
        })
    }

    /// Ends a transaction; when it returns, it is durable.
    pub(super) fn commit(&mut self) -> Result<(), StoreError> {
        self.execute("COMMIT")
    }

    fn execute(&self, statement: &'static str) -> Result<(), StoreError> {
        self.link.work(PATIENCE, move |session| async move {
            Ok(session.client.batch_execute(statement).await?)
        })
    }

    /// Rows of one question, to be asked in one go.
    fn ask(
        &self,
        question: &'static str,
        values: Vec<(Value, Type)>,
    ) -> Result<Vec<tokio_postgres::Row>, StoreError> {
        let gateway = self.gateway;
        self.link.work(PATIENCE, move |session| async move {
            let gateway = gateway.as_slice();
            let mut all: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&gateway, Type::BYTEA)];
            all.extend(values.iter().map(|(value, kind)| (value.as_ref() as _, kind.clone())));
            Ok(session.client.query_typed(question, &all).await?)
        })
    }

    fn select_batches(
        &self,
        question: &'static str,
        limit: [i64; 2],
    ) -> Result<Vec<BatchRow>, StoreError> {
        let rows = self.ask(question, limit.map(int).into())?;
        rows.iter()
            .map(|row| {
                Ok(BatchRow {
                    sequence: self.unsigned(row, 0)?,
                    first: self.unsigned(row, 1)?,
                    count: self.unsigned(row, 2)?,
                    before: self.hash(row, 3)?,
                    root: self.hash(row, 4)?,
                    previous: self.hash(row, 5)?,
                })
            })
            .collect()
    }

    fn unsigned(&self, row: &tokio_postgres::Row, column: usize) -> Result<u64, StoreError> {
        let value: i64 = self.link.read(row.try_get(column))?;
        u64::try_from(value).map_err(|_| self.link.damaged(format!("{value} is below zero")))
    }

    fn octets<const N: usize>(
        &self,
        row: &tokio_postgres::Row,
        column: usize,
    ) -> Result<[u8; N], StoreError> {
        let octets: &[u8] = self.link.read(row.try_get(column))?;
        let found = octets.len();
        octets.try_into().map_err(|_| self.link.damaged(format!("{found} octets, wanted {N}")))
    }

    fn hash(&self, row: &tokio_postgres::Row, column: usize) -> Result<B256, StoreError> {
        self.octets(row, column).map(B256::from)
    }
}

/// How long a change may take.
fn patience(change: &Change) -> Duration {
    PATIENCE + PER_RECORD * u32::try_from(change.rows.len()).unwrap_or(u32::MAX)
}

type Value = Box<dyn ToSql + Sync + Send>;

fn int(value: i64) -> (Value, Type) {
    (Box::new(value), Type::INT8)
}

impl Engine for Postgres {
    fn ready(&mut self) -> Result<bool, StoreError> {
        self.link.ready()
    }

    fn last(&self) -> Result<Option<Last>, StoreError> {
        let question = "SELECT idx, link FROM record WHERE gateway = $1 ORDER BY idx DESC LIMIT 1";
        let found = self.ask(question, Vec::new())?;
        found.first().map(|row| Ok((self.unsigned(row, 0)?, self.hash(row, 1)?))).transpose()
    }

    fn records(
        &self,
        first: u64,
        count: u64,
        each: &mut dyn FnMut(Row<'_>) -> bool,
    ) -> Result<(), StoreError> {
        let question = "SELECT idx, link, kind, last_at, octets FROM record WHERE gateway = $1 AND idx >= $2 ORDER BY idx LIMIT $3";
        let (mut next, mut left) = (first, count);
        loop {
            let most = left.min(PAGE);
            let rows = self.ask(question, vec![int(number(next)), int(number(most))])?;
            for row in &rows {
                let index = self.unsigned(row, 0)?;
                let told = Row {
                    index,
                    link: self.hash(row, 1)?,
                    kind: self.link.read(row.try_get::<_, i16>(2))?.into(),
                    last_at: self.unsigned(row, 3)?,
                    octets: self.link.read(row.try_get(4))?,
                };
                if !each(told) {
                    return Ok(());
                }
                next = index + 1;
            }
            let found = u64::try_from(rows.len()).unwrap_or(u64::MAX);
            left = left.saturating_sub(found);
            if found < most || left == 0 {
                return Ok(());
            }
        }
    }

    fn batches(&self, from: u64, most: u32) -> Result<Vec<BatchRow>, StoreError> {
        let question = "SELECT sequence, first, count, before, root, previous FROM batch WHERE gateway = $1 AND sequence >= $2 ORDER BY sequence LIMIT $3";
        self.select_batches(question, [number(from), most.into()])
    }

    fn last_batch(&self, to: u64) -> Result<Option<BatchRow>, StoreError> {
        let question = "SELECT sequence, first, count, before, root, previous FROM batch WHERE gateway = $1 AND sequence <= $2 ORDER BY sequence DESC LIMIT $3";
        Ok(self.select_batches(question, [number(to), 1])?.into_iter().next())
    }

    fn keys(&self, tags: Vec<B256>) -> Result<Vec<KeyRow>, StoreError> {
        let question = "SELECT tag, key, last_at FROM subject WHERE gateway = $1 AND tag = ANY($2)";
        let tags: Vec<Vec<u8>> = tags.iter().map(|tag| tag.to_vec()).collect();
        let rows = self.ask(question, vec![(Box::new(tags), Type::BYTEA_ARRAY)])?;
        rows.iter()
            .map(|row| {
                let key = SubjectKey::new(self.octets(row, 1)?);
                Ok(KeyRow { tag: self.hash(row, 0)?, key, last_at: self.unsigned(row, 2)? })
            })
            .collect()
    }

    fn refusals_to(&self) -> Result<u64, StoreError> {
        let question = "SELECT refusals_to FROM retention WHERE gateway = $1";
        let found = self.ask(question, Vec::new())?;
        found.first().map_or(Ok(0), |row| self.unsigned(row, 0))
    }

    fn apply(&mut self, change: Change) -> Result<Applied, StoreError> {
        let gateway = self.gateway;
        self.link.work(patience(&change), move |session| async move {
            session.client.batch_execute("BEGIN").await?;
            let applied = apply(&session, &gateway, &change).await?;
            session.client.batch_execute("COMMIT").await?;
            Ok(applied)
        })
    }

    /// Writes the table with the keys anew. VACUUM would leave what was deleted in its pages until they are used again, and VACUUM FULL takes along
    /// what an older transaction might still look at; this takes what is there. The server's log and its copies it does not reach.
    fn scrub_keys(&mut self) -> Result<bool, StoreError> {
        let file = "SELECT pg_relation_filenode('subject')::bigint";
        self.link.work(SCRUBBING, move |session| async move {
            let client = &session.client;
            let before: Option<i64> = client.query_typed_one(file, &[]).await?.try_get(0)?;
            let anew = "ALTER TABLE subject ALTER COLUMN last_at TYPE bigint USING (last_at + 0)";
            let written = client.batch_execute(anew).await;
            if let Err(error) = &written
                && error.code().is_some_and(is_in_the_way)
            {
                return Ok(false);
            }
            written?;
            let after: Option<i64> = client.query_typed_one(file, &[]).await?.try_get(0)?;
            Ok(before != after)
        })
    }

    /// What it deletes and when it is overwritten is the server's business.
    fn scrub_records(&mut self) -> Result<bool, StoreError> {
        Ok(true)
    }
}

fn is_in_the_way(code: &SqlState) -> bool {
    *code == SqlState::LOCK_NOT_AVAILABLE || *code == SqlState::QUERY_CANCELED
}

async fn apply(
    session: &Arc<Session>,
    gateway: &[u8; 20],
    change: &Change,
) -> Result<Applied, Fault> {
    let client = &session.client;
    let gateway = gateway.as_slice();
    let mut applied = Applied::default();
    if let Some(tag) = &change.erased {
        let delete = "DELETE FROM subject WHERE gateway = $1 AND tag = $2";
        let gone = run(client, delete, gateway, &[(&tag.as_slice(), Type::BYTEA)]).await?;
        applied.erased = gone > 0;
    }
    if !change.keys.is_empty() {
        let keep = "INSERT INTO subject SELECT $1, * FROM unnest($2, $3, $4)
            ON CONFLICT (gateway, tag) DO UPDATE SET last_at = greatest(subject.last_at, excluded.last_at)";
        let keys = change.keys.iter();
        let tags: Vec<&[u8]> = keys.clone().map(|row| row.tag.as_slice()).collect();
        let secrets: Vec<&[u8]> = keys.clone().map(|row| row.key.octets().as_slice()).collect();
        let last: Vec<i64> = keys.map(|row| number(row.last_at)).collect();
        let values: [(&(dyn ToSql + Sync), Type); 3] =
            [(&tags, Type::BYTEA_ARRAY), (&secrets, Type::BYTEA_ARRAY), (&last, Type::INT8_ARRAY)];
        run(client, keep, gateway, &values).await?;
    }
    append(session, gateway, change).await?;
    if !change.closed.is_empty() {
        let insert = "INSERT INTO batch (gateway, sequence, first, count, before, root, previous) SELECT $1, * FROM unnest($2, $3, $4, $5, $6, $7)";
        let numbers = |of: fn(&BatchRow) -> u64| -> Vec<i64> {
            change.closed.iter().map(|batch| number(of(batch))).collect()
        };
        let hashes = |of: fn(&BatchRow) -> &B256| -> Vec<&[u8]> {
            change.closed.iter().map(|batch| of(batch).as_slice()).collect()
        };
        let values: [(&(dyn ToSql + Sync), Type); 6] = [
            (&numbers(|batch| batch.sequence), Type::INT8_ARRAY),
            (&numbers(|batch| batch.first), Type::INT8_ARRAY),
            (&numbers(|batch| batch.count), Type::INT8_ARRAY),
            (&hashes(|batch| &batch.before), Type::BYTEA_ARRAY),
            (&hashes(|batch| &batch.root), Type::BYTEA_ARRAY),
            (&hashes(|batch| &batch.previous), Type::BYTEA_ARRAY),
        ];
        run(client, insert, gateway, &values).await?;
    }
    if let Some(sequence) = change.batch {
        let delete = "DELETE FROM batch WHERE gateway = $1 AND sequence = $2";
        run(client, delete, gateway, &[(&number(sequence), Type::INT8)]).await?;
    }
    if let Some((before, most)) = change.before {
        let delete = "DELETE FROM record WHERE gateway = $1 AND idx IN (SELECT idx FROM record WHERE gateway = $1 AND idx < $2 ORDER BY idx LIMIT $3)";
        let values: [(&(dyn ToSql + Sync), Type); 2] =
            [(&number(before), Type::INT8), (&i64::from(most), Type::INT8)];
        applied.deleted = run(client, delete, gateway, &values).await?;
    }
    if !change.emptied.is_empty() {
        let empty = "UPDATE record SET kind = -1, wallet = '', topic = '', first_at = 0, octets = emptied.leaf
            FROM unnest($2, $3) AS emptied (idx, leaf) WHERE gateway = $1 AND record.idx = emptied.idx";
        let places: Vec<i64> = change.emptied.iter().map(|(index, _)| number(*index)).collect();
        let leaves: Vec<&[u8]> = change.emptied.iter().map(|(_, leaf)| leaf.as_slice()).collect();
        let values: [(&(dyn ToSql + Sync), Type); 2] =
            [(&places, Type::INT8_ARRAY), (&leaves, Type::BYTEA_ARRAY)];
        run(client, empty, gateway, &values).await?;
    }
    if let Some(to) = change.refusals_to {
        let keep = "INSERT INTO retention VALUES ($1, $2) ON CONFLICT (gateway) DO UPDATE SET refusals_to = excluded.refusals_to";
        run(client, keep, gateway, &[(&number(to), Type::INT8)]).await?;
    }
    if let Some(before) = change.keys_before {
        let delete = "DELETE FROM subject WHERE gateway = $1 AND last_at < $2";
        run(client, delete, gateway, &[(&number(before), Type::INT8)]).await?;
    }
    Ok(applied)
}

/// One statement about a gateway, in one go. Says how many rows it is about.
async fn run(
    client: &Client,
    statement: &str,
    gateway: &[u8],
    values: &[(&(dyn ToSql + Sync), Type)],
) -> Result<u64, Fault> {
    let mut all: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&gateway, Type::BYTEA)];
    all.extend_from_slice(values);
    Ok(client.execute_typed(statement, &all).await?)
}

async fn append(session: &Session, gateway: &[u8], change: &Change) -> Result<(), Fault> {
    if change.rows.is_empty() {
        return Ok(());
    }
    let kinds = [
        Type::BYTEA,
        Type::INT8,
        Type::BYTEA,
        Type::INT2,
        Type::BYTEA,
        Type::BYTEA,
        Type::INT8,
        Type::INT8,
        Type::BYTEA,
    ];
    let sink = session.client.copy_in(&session.copy).await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &kinds));
    for row in &change.rows {
        let nothing: &[u8] = &[];
        let values: [&(dyn ToSql + Sync); 9] = [
            &gateway,
            &number(row.index),
            &row.link.as_slice(),
            &i16::from(row.kind),
            // As in a file: of the first format, and never asked for.
            &nothing,
            &nothing,
            &0_i64,
            &number(row.last_at),
            &row.octets,
        ];
        writer.as_mut().write(&values).await?;
    }
    writer.finish().await?;
    Ok(())
}
