//! Records as they are read: by export, and by whoever asks.

use alloy_primitives::Address;
use flytrap_record::Record;
use flytrap_record::export::{BatchLine, Line, RecordLine, RemovedLine};

use super::engine::{BatchRow, Engine, Row};
use super::packed::Stored;
use super::postgres::{Postgres, Role};
use super::sqlite::Sqlite;
use super::{Place, StoreError};

/// The other side: reads closed batches while a gateway may be writing.
#[derive(Debug)]
pub struct Reader {
    engine: Box<dyn Engine>,
    place: String,
}

impl Reader {
    /// Opens the records of a gateway that are there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(place: &Place, gateway: Address) -> Result<Self, StoreError> {
        let engine: Box<dyn Engine> = match place {
            Place::File(path) => Box::new(Sqlite::read(path)?),
            Place::Database(database) => {
                Box::new(Postgres::open(database.as_ref().clone(), gateway, Role::Reader)?)
            }
        };
        Ok(Self { engine, place: place.to_string() })
    }

    /// Closed batches from this sequence number on, at most `most`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn batches(&self, from: u64, most: u32) -> Result<Vec<BatchLine>, StoreError> {
        let found = self.engine.batches(from, most)?.into_iter();
        let line = |BatchRow { sequence, first, count, before, .. }| BatchLine {
            sequence,
            first,
            count,
            before,
        };
        Ok(found.map(line).collect())
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
        let (mut next, mut stopped) = (batch.first, None);
        self.engine.records(batch.first, batch.count, &mut |row| {
            if row.index != next {
                return false;
            }
            next += 1;
            let told = self.line(&row).map_err(E::from).and_then(&mut each);
            stopped = told.err();
            stopped.is_none()
        })?;
        if let Some(why) = stopped {
            return Err(why);
        }
        if next == batch.first + batch.count {
            return Ok(());
        }
        let (place, sequence) = (self.place.clone(), batch.sequence);
        Err(E::from(match self.batches(sequence, 1)?.first() {
            Some(there) if there.sequence == sequence => {
                StoreError::Damaged { place, what: format!("record {next} is missing") }
            }
            _ => StoreError::Outlived { place, sequence },
        }))
    }

    /// One record by its number, or what is left of it; `None` if there is nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn record(&self, index: u64) -> Result<Option<Line>, StoreError> {
        let mut found = None;
        self.engine.records(index, 1, &mut |row| {
            found = (row.index == index).then(|| self.line(&row));
            false
        })?;
        found.transpose()
    }

    fn line(&self, row: &Row<'_>) -> Result<Line, StoreError> {
        let Row { index, link, octets, .. } = *row;
        let damaged = |what| StoreError::Damaged { place: self.place.clone(), what };
        match Stored::read(octets) {
            Some(Stored::Leaf(leaf)) => Ok(Line::Removed(RemovedLine { index, leaf, link })),
            Some(Stored::Whole(encoding)) => {
                let record =
                    Record::decode(&encoding).map_err(|error| damaged(error.to_string()))?;
                Ok(Line::Record(Box::new(RecordLine { record, link })))
            }
            None => Err(damaged(format!("record {index} is not as it was written"))),
        }
    }
}
