//! The book of bans on the disk, so that a restart frees nobody.
//!
//! A file of [kept rows](crate::kept_rows) in the state directory, written by one task, whatever has changed in one transaction.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Ban, Bans, MOST, MOST_NETWORKS, Subject};
use crate::kept_rows::{KeptRows, Table, Unreadable};
use crate::metrics::Metrics;

/// Between two tries while the disk takes nothing.
const PAUSE: Duration = Duration::from_secs(1);
const TABLE: Table = Table {
    name: "bans",
    file: "bans.sqlite",
    key: "subject",
    value: "ban",
    most: 2 * MOST + MOST_NETWORKS,
};

/// The file. [`Shelf::run`] keeps it like the book.
#[derive(Debug)]
pub struct Shelf(KeptRows);

impl Shelf {
    /// Opens `bans.sqlite` in the state directory, made if it is missing, and reads what is in force at `now`.
    ///
    /// # Errors
    /// [`Unreadable`] if any of it is damaged: to start without it would free whoever it names.
    pub fn open(state_dir: &Path, now: u64) -> Result<(Self, Vec<Ban>), Unreadable> {
        let parse = |_: &str, text: &str| {
            serde_json::from_str::<Ban>(text).map_err(|error| error.to_string())
        };
        let (rows, bans) = KeptRows::open(state_dir, TABLE, parse)?;
        let mut shelf = Self(rows);
        let (kept, ended): (Vec<_>, Vec<_>) = bans.into_iter().partition(|ban| now < ban.until);
        let ended: Vec<_> = ended.into_iter().map(|ban| (ban.subject, None)).collect();
        shelf.write(&ended).map_err(|error| shelf.0.unreadable(&error))?;
        if !kept.is_empty() {
            info!(bans = kept.len(), "bans of an earlier run are in force");
        }
        Ok((shelf, kept))
    }

    fn write(&mut self, changes: &[(Subject, Option<Ban>)]) -> rusqlite::Result<()> {
        let text = |ban: &Ban| {
            serde_json::to_string(ban)
                .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
        };
        let changes: Vec<_> = changes
            .iter()
            .map(|(subject, ban)| Ok((subject.to_string(), ban.as_ref().map(text).transpose()?)))
            .collect::<rusqlite::Result<_>>()?;
        self.0.write(&changes)
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
                    error!(%error, file = %self.0.path().display(), "bans cannot be written down: they hold, but not after a restart until this is mended");
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
            shelf.0.database.execute(harm, []).unwrap();
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
