//! The book of bans on the disk, so that a restart frees nobody.
//!
//! A SQLite file in the state directory, written by one task, whatever has changed in one transaction: a kill leaves the state before or
//! after it. Each row carries a checksum, so that a file that was damaged is told from one that says that nobody is banned.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::keccak256;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Ban, Bans, MOST, MOST_NETWORKS, Subject};
use crate::metrics::Metrics;

/// Between two tries while the disk takes nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// Most octets of a row: longer ones are not ours.
const ROW_OCTETS: i64 = 8 * 1024;

/// The file. [`Shelf::run`] keeps it like the book.
#[derive(Debug)]
pub struct Shelf {
    database: Connection,
    path: PathBuf,
}

/// The file does not say who is banned.
#[derive(Debug, thiserror::Error)]
#[error("the ban ledger \"{path}\" cannot be read: {wrong}", path = .path.display())]
pub struct Unreadable {
    path: PathBuf,
    wrong: String,
}

impl Shelf {
    /// Opens `bans.sqlite` in the state directory, made if it is missing, and reads what is in force at `now`.
    ///
    /// # Errors
    /// [`Unreadable`] if any of it is damaged: to start without it would free whoever it names.
    pub fn open(state_dir: &Path, now: u64) -> Result<(Self, Vec<Ban>), Unreadable> {
        let path = state_dir.join("bans.sqlite");
        let wrong = |wrong: String| Unreadable { path: path.clone(), wrong };
        match std::fs::metadata(&path) {
            Ok(found) if found.len() == 0 => return Err(wrong("it is empty".to_owned())),
            Ok(_) => {}
            Err(_) => {
                info!(file = %path.display(), "no bans of an earlier run: a new ledger is begun")
            }
        }
        let opened = || {
            let database = Connection::open(&path)?;
            // No write-ahead log: its end is what its checksums say, so damage to it would look like bans that never were.
            database.execute_batch(
                "PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = FULL; PRAGMA secure_delete = ON;
                 CREATE TABLE IF NOT EXISTS bans (subject TEXT PRIMARY KEY, ban TEXT NOT NULL, seal BLOB NOT NULL) STRICT, WITHOUT ROWID;",
            )?;
            let sound: String =
                database.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            Ok::<_, rusqlite::Error>((database, sound))
        };
        let (database, sound) = opened().map_err(|error| wrong(error.to_string()))?;
        if sound != "ok" {
            return Err(wrong(sound));
        }
        let mut shelf = Self { database, path: path.clone() };
        let bans = shelf.read().map_err(wrong)?;
        let (kept, ended): (Vec<_>, Vec<_>) = bans.into_iter().partition(|ban| now < ban.until);
        let ended: Vec<_> = ended.into_iter().map(|ban| (ban.subject, None)).collect();
        shelf.write(&ended).map_err(|error| wrong(error.to_string()))?;
        if !kept.is_empty() {
            info!(bans = kept.len(), "bans of an earlier run are in force");
        }
        Ok((shelf, kept))
    }

    fn read(&self) -> Result<Vec<Ban>, String> {
        let told = |error: rusqlite::Error| error.to_string();
        let mut bans = Vec::new();
        let mut all = self
            .database
            .prepare("SELECT subject, ban, seal FROM bans WHERE length(ban) <= ?1")
            .map_err(told)?;
        let mut rows = all.query([ROW_OCTETS]).map_err(told)?;
        while let Some(row) = rows.next().map_err(told)? {
            let (subject, text): (String, String) =
                row.get(0).and_then(|subject| Ok((subject, row.get(1)?))).map_err(told)?;
            let sealed: Vec<u8> = row.get(2).map_err(told)?;
            if sealed != seal(&text) {
                return Err(format!(
                    "the row of {subject} does not have the checksum it was written with"
                ));
            }
            let ban: Ban = serde_json::from_str(&text)
                .map_err(|error| format!("the row of {subject} makes no sense: {error}"))?;
            bans.push(ban);
            if bans.len() > 2 * MOST + MOST_NETWORKS {
                return Err("it has more rows than were ever written".to_owned());
            }
        }
        let count: i64 = self
            .database
            .query_row("SELECT count(*) FROM bans", [], |row| row.get(0))
            .map_err(told)?;
        if usize::try_from(count) == Ok(bans.len()) {
            Ok(bans)
        } else {
            Err("a row is longer than any that was written".to_owned())
        }
    }

    fn write(&mut self, changes: &[(Subject, Option<Ban>)]) -> rusqlite::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let write = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut put = write.prepare_cached(
                "INSERT OR REPLACE INTO bans (subject, ban, seal) VALUES (?1, ?2, ?3)",
            )?;
            let mut strike = write.prepare_cached("DELETE FROM bans WHERE subject = ?1")?;
            for (subject, ban) in changes {
                let subject = subject.to_string();
                match ban {
                    Some(ban) => {
                        let text = serde_json::to_string(ban).map_err(|error| {
                            rusqlite::Error::ToSqlConversionFailure(error.into())
                        })?;
                        put.execute(params![subject, text, seal(&text)])?;
                    }
                    None => {
                        strike.execute([subject])?;
                    }
                }
            }
        }
        write.commit()
    }

    /// Writes what changes in the book until `stop`, and once more then. What the disk does not take is offered again; the bans hold
    /// meanwhile.
    pub async fn run(mut self, bans: Arc<Bans>, metrics: Arc<Metrics>, stop: CancellationToken) {
        let mut is_told = false;
        loop {
            let is_last = tokio::select! {
                () = stop.cancelled() => true,
                () = bans.changed.notified() => false,
            };
            let (taken, changes) = bans.take_unwritten();
            let written = tokio::task::spawn_blocking(move || {
                let outcome = self.write(&changes);
                (self, changes, outcome)
            });
            // Only a panic in between loses the database; the part that ended is then told of.
            let Ok((back, changes, outcome)) = written.await else { return };
            self = back;
            if let Err(error) = outcome {
                bans.still_unwritten(changes.into_iter().map(|(subject, _)| subject));
                metrics.bans_unwritten.inc();
                if !is_told || is_last {
                    error!(%error, file = %self.path.display(), "bans cannot be written down: they hold, but not after a restart until this is mended");
                    is_told = true;
                }
                if !is_last {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = sleep(PAUSE) => {}
                    }
                    bans.changed.notify_one();
                }
            } else {
                bans.wrote(taken);
                if std::mem::take(&mut is_told) {
                    info!("bans are written down again");
                }
            }
            if is_last {
                return;
            }
        }
    }
}

fn seal(text: &str) -> Vec<u8> {
    keccak256(text.as_bytes())[..8].to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{KEY, ban, wallet};
    use super::*;
    use crate::config::Secret;

    fn opened(dir: &Path, now: u64) -> Result<Vec<Ban>, Unreadable> {
        Shelf::open(dir, now).map(|(_, bans)| bans)
    }

    #[test]
    fn what_was_written_is_there_after_a_kill_and_what_has_ended_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut shelf, bans) = Shelf::open(dir.path(), 1).unwrap();
        assert_eq!(bans, []);
        let all: Vec<_> = ["192.0.2.0/24", "192.0.3.1", "2001:db8::1"]
            .iter()
            .map(|text| ban(text.parse().unwrap(), 100))
            .chain([ban(wallet(1), 200)])
            .collect();
        let changes: Vec<_> = all.iter().map(|ban| (ban.subject, Some(ban.clone()))).collect();
        shelf.write(&changes).unwrap();
        shelf.write(&[(all[1].subject, None)]).unwrap();
        // Ended without a word, as by a kill.
        std::mem::forget(shelf);
        let mut found = opened(dir.path(), 99).unwrap();
        found.sort_by_key(|ban| ban.subject);
        let mut wanted = vec![all[0].clone(), all[2].clone(), all[3].clone()];
        wanted.sort_by_key(|ban| ban.subject);
        assert_eq!(found, wanted);
        assert_eq!(opened(dir.path(), 100).unwrap(), [all[3].clone()]);
        assert_eq!(opened(dir.path(), 1).unwrap().len(), 1, "ended ones are gone for good");
    }

    #[test]
    fn a_damaged_file_is_told_and_never_read_as_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bans.sqlite");
        let (mut shelf, _) = Shelf::open(dir.path(), 1).unwrap();
        shelf.write(&[(wallet(1), Some(ban(wallet(1), 200)))]).unwrap();
        // Another end than was written.
        let (changed, long) = (
            "UPDATE bans SET ban = replace(ban, '200', '100')",
            "UPDATE bans SET ban = ban || hex(zeroblob(9000))",
        );
        for (harm, word) in [(changed, "checksum"), (long, "longer")] {
            shelf.write(&[(wallet(1), Some(ban(wallet(1), 200)))]).unwrap();
            shelf.database.execute(harm, []).unwrap();
            let wrong = opened(dir.path(), 1).unwrap_err().to_string();
            assert!(wrong.contains(word) && wrong.contains("bans.sqlite"), "{wrong}");
        }
        drop(shelf);
        for octets in [&b"no database at all"[..], &[0; 4096], b""] {
            std::fs::write(&path, octets).unwrap();
            assert!(opened(dir.path(), 1).is_err());
        }
    }

    #[tokio::test]
    async fn what_changes_in_the_book_is_on_the_disk_when_it_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let (shelf, left) = Shelf::open(dir.path(), 1).unwrap();
        let bans = Arc::new(Bans::new(Secret::new(KEY), left));
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let stop = CancellationToken::new();
        let running = tokio::spawn(shelf.run(bans.clone(), metrics, stop.clone()));
        for number in 0..100 {
            bans.add(ban(wallet(number), 100), 1).unwrap();
            tokio::task::yield_now().await;
        }
        bans.remove(&wallet(7));
        assert!(bans.is_written().await);
        let there = opened(dir.path(), 1).unwrap();
        assert_eq!(there.len(), 99, "what was waited for");
        bans.add(ban(wallet(200), 100), 1).unwrap();
        stop.cancel();
        running.await.unwrap();
        let found = opened(dir.path(), 1).unwrap();
        assert_eq!(found.len(), 100);
        assert!(!found.iter().any(|ban| ban.subject == wallet(7)));
    }
}
