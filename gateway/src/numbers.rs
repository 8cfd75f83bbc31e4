//! What databases hold, as what it stands for here.

use alloy_primitives::B256;
use rusqlite::Row;

/// Databases have signed numbers only; what is counted here never comes near the difference.
pub(crate) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A number that was written by [`number`].
pub(crate) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}

/// 32 octets.
pub(crate) fn hash(row: &Row<'_>, column: usize) -> rusqlite::Result<B256> {
    row.get::<_, [u8; 32]>(column).map(B256::from)
}
