//! What can be wrong with records, in words for whoever runs the gateway.

use alloy_primitives::Address;

use super::schema::VERSION;

/// What is wrong with the records.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite says so.
    #[error("records in {place}: {error}")]
    Sqlite {
        /// Where.
        place: String,
        /// Why.
        error: rusqlite::Error,
    },
    /// PostgreSQL says so.
    #[error("records in {place}: {why}")]
    Postgres {
        /// Where.
        place: String,
        /// In the server's words.
        why: String,
    },
    /// The server cannot be reached, or does not answer.
    #[error(
        "records in {place}: no connection: {why}; is the server up, are `audit.database.url` and its password right?"
    )]
    Away {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
    /// Another process writes.
    #[error(
        "the records of gateway {gateway} in {place} are written by another process: end it, or give each gateway a key of its own; one that was cut off is let go by the server within a minute"
    )]
    Held {
        /// Where.
        place: String,
        /// Whose.
        gateway: Address,
    },
    /// A server that may lose what it has acknowledged.
    #[error("{place} has `{setting}`, so what it has acknowledged can be lost: set it to on")]
    NotDurable {
        /// Where.
        place: String,
        /// What it is set to.
        setting: String,
    },
    /// Somebody else wrote, or something was put back.
    #[error(
        "records of gateway {gateway} in {place} end with number {found} and not, as this process left them, with {wanted}: a copy was put back, or another process has written; restart the gateway to go on from there (what was anchored is then missing in exports)"
    )]
    Changed {
        /// Where.
        place: String,
        /// Whose.
        gateway: Address,
        /// The last number there.
        found: u64,
        /// The last number that was written.
        wanted: u64,
    },
    /// Tables of another version.
    #[error(
        "records in {place} have format {found}, this program knows {VERSION}: use the program that wrote them, or a newer one"
    )]
    Version {
        /// Where.
        place: String,
        /// Its version.
        found: i64,
    },
    /// Tables of a version before, where only the newest will do.
    #[error(
        "records in {place} have format {found}, wanted {VERSION}: start and stop the gateway with them once"
    )]
    Old {
        /// Where.
        place: String,
        /// Its version.
        found: i64,
    },
    /// Records cannot go where there are some.
    #[error(
        "{place} has records of gateway {gateway} already: only an empty place takes those of a file; name another database, or have its owner delete the rows of this gateway if they are of a try"
    )]
    Taken {
        /// Where.
        place: String,
        /// Whose.
        gateway: Address,
    },
    /// Somebody took the file away while it was in use.
    #[error(
        "records in {place}: the file was removed or replaced while the gateway uses it; put it back where it was, or restart the gateway to begin a new one (what was anchored is then missing in exports)"
    )]
    Gone {
        /// Where.
        place: String,
    },
    /// Retention was faster than whoever reads.
    #[error(
        "interval {sequence} of the records in {place} is not kept any more and was removed just now: do it again"
    )]
    Outlived {
        /// Where.
        place: String,
        /// Number of the batch.
        sequence: u64,
    },
    /// A key was deleted, and can still be found.
    #[error(
        "the key is deleted, but {place} still holds it, because somebody reads there (an export?): do it again when that has ended"
    )]
    Lingers {
        /// Where.
        place: String,
    },
    /// What is there is not what was written.
    #[error(
        "records in {place} are damaged: {what}; restore them from a copy, or move them away to begin anew (what was anchored is then missing in exports)"
    )]
    Damaged {
        /// Where.
        place: String,
        /// What does not fit.
        what: String,
    },
}
