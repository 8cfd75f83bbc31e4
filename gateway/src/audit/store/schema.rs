//! The tables, as the steps that lead to them: one list for both engines, which differ in some words, and in that a server holds the records of
//! many gateways and a file those of one.
//!
//! The number of steps that were taken stands in the database. Each is taken whole or not at all; a database that has taken more than
//! this program knows is left alone.

/// One step.
pub(super) struct Step {
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

/// The version that this program writes.
pub(super) const VERSION: i64 = 3;

/// From nothing to [`VERSION`].
pub(super) const STEPS: [Step; 3] = [
    Step {
        sqlite: "
            CREATE TABLE record (
                idx INTEGER PRIMARY KEY, link BLOB NOT NULL, kind INTEGER NOT NULL, wallet BLOB NOT NULL, topic BLOB NOT NULL,
                first_at INTEGER NOT NULL, last_at INTEGER NOT NULL, octets BLOB NOT NULL
            ) STRICT;
            CREATE TABLE batch (
                sequence INTEGER PRIMARY KEY, first INTEGER NOT NULL, count INTEGER NOT NULL, before BLOB NOT NULL,
                root BLOB NOT NULL, previous BLOB NOT NULL
            ) STRICT;
            CREATE TABLE subject (tag BLOB PRIMARY KEY, key BLOB NOT NULL, last_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;",
        postgres: "
            CREATE TABLE record (
                gateway bytea NOT NULL, idx bigint NOT NULL, link bytea NOT NULL, kind smallint NOT NULL, wallet bytea NOT NULL,
                topic bytea NOT NULL, first_at bigint NOT NULL, last_at bigint NOT NULL, octets bytea NOT NULL,
                PRIMARY KEY (gateway, idx)
            );
            CREATE TABLE batch (
                gateway bytea NOT NULL, sequence bigint NOT NULL, first bigint NOT NULL, count bigint NOT NULL, before bytea NOT NULL,
                root bytea NOT NULL, previous bytea NOT NULL, PRIMARY KEY (gateway, sequence)
            );
            CREATE TABLE subject (
                gateway bytea NOT NULL, tag bytea NOT NULL, key bytea NOT NULL, last_at bigint NOT NULL, PRIMARY KEY (gateway, tag)
            );",
    },
    // Up to which record refusals were looked at. The indices by topic and wallet that files had are gone: nobody asked by them, and each
    // record wrote two pages for them.
    Step {
        sqlite: "
            CREATE TABLE retention (refusals_to INTEGER NOT NULL) STRICT;
            INSERT INTO retention VALUES (0);
            DROP INDEX IF EXISTS record_by_topic;
            DROP INDEX IF EXISTS record_by_wallet;",
        postgres: "CREATE TABLE retention (gateway bytea PRIMARY KEY, refusals_to bigint NOT NULL);",
    },
    // Octets are packed from here on, and the columns that say again what they say (wallet, topic, first_at) are empty. What was written before
    // stays as it is.
    Step { sqlite: "", postgres: "" },
];

/// The steps that a database of version `found` has not taken; `None` if it is of no version that this program knows.
pub(super) fn missing(found: i64) -> Option<&'static [Step]> {
    STEPS.get(usize::try_from(found).ok()?..)
}
