//! Tokens that were used, where each may be used once.
//!
//! A token is written down, and on the disk, before the session that it opens is asked for at the broker: whoever captured it cannot
//! use it again, not even after a crash. One task owns the database and writes whatever waits in one transaction, so that many
//! clients at once cost one write. A token is forgotten a day after its end, when no step of a clock can bring it back.
//!
//! Each gateway remembers for itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use flytrap_policy::credential::TokenUse;
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::error;

/// Tokens that are remembered at a time; some 80 octets each, on disk.
const MOST_TOKENS: usize = 2_000_000;
/// Clients that may wait for a write.
const MOST_WAITING: usize = 1_024;
/// How long one of them does.
const PATIENCE: Duration = Duration::from_secs(2);
/// Seconds after its end for which a token is remembered.
const AFTER_THE_END: u64 = 86_400;
/// Ended tokens that one write forgets.
const FORGOTTEN_AT_ONCE: u32 = 1_024;

/// The way to ask.
#[derive(Debug, Clone)]
pub struct UsedTokens {
    waiting: mpsc::Sender<Use>,
}

/// The database. [`Ledger::run`] answers until it is stopped.
#[derive(Debug)]
pub struct Ledger {
    database: Connection,
    tokens: usize,
    most: usize,
    path: PathBuf,
    waiting: mpsc::Receiver<Use>,
}

#[derive(Debug)]
struct Use {
    token: TokenUse,
    now: u64,
    answer: oneshot::Sender<Result<bool, Unwritten>>,
}

/// Why a token could not be written down. Never the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritten {
    /// More wait than the disk can serve.
    #[error("used tokens are not written down in time: is the disk of `state_dir` slow?")]
    Slow,
    /// As many as may be remembered have not ended yet.
    #[error("{MOST_TOKENS} used tokens have not ended yet: let tokens live shorter")]
    Full,
    /// The database does not take it.
    #[error("used tokens cannot be written to \"{path}\": {error}", path = .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Why.
        error: String,
    },
}

impl UsedTokens {
    /// Opens `used-tokens.sqlite` in the state directory, and makes it if it is missing.
    ///
    /// # Errors
    /// [`Unwritten::Broken`] if it is none, or cannot be written.
    pub fn open(state_dir: &Path) -> Result<(Self, Ledger), Unwritten> {
        let path = state_dir.join("used-tokens.sqlite");
        let opened = || {
            let database = Connection::open(&path)?;
            // Durable with each transaction.
            database.execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                 CREATE TABLE IF NOT EXISTS used (id BLOB PRIMARY KEY, expires_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
                 CREATE INDEX IF NOT EXISTS used_by_end ON used (expires_at);",
            )?;
            let count = "SELECT count(*) FROM used";
            let tokens: i64 = database.query_row(count, [], |row| row.get(0))?;
            Ok((database, usize::try_from(tokens).unwrap_or(usize::MAX)))
        };
        let (database, tokens) = opened().map_err(|error| broken(&path, &error))?;
        let (sender, waiting) = mpsc::channel(MOST_WAITING);
        let ledger = Ledger { database, tokens, most: MOST_TOKENS, path, waiting };
        Ok((Self { waiting: sender }, ledger))
    }

    /// Whether this is the first use of the token; then it is on the disk that there was one.
    ///
    /// # Errors
    /// [`Unwritten`]: the token was not used, or it is not known whether it was.
    pub async fn take(&self, token: TokenUse, now: u64) -> Result<bool, Unwritten> {
        let (answer, answered) = oneshot::channel();
        self.waiting.try_send(Use { token, now, answer }).map_err(|_| Unwritten::Slow)?;
        match timeout(PATIENCE, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(Unwritten::Slow),
        }
    }
}

impl Ledger {
    /// Writes down what comes, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                () = stop.cancelled() => return,
                count = self.waiting.recv_many(&mut batch, MOST_WAITING) => if count == 0 { return },
            }
            let written = tokio::task::spawn_blocking(move || {
                self.write(batch);
                self
            });
            // Only a panic in between loses the database; whoever waits is then told that it is slow.
            let Ok(back) = written.await else { return };
            self = back;
        }
    }

    fn write(&mut self, batch: Vec<Use>) {
        let uses: Vec<_> = batch.iter().map(|one| (one.token, one.now)).collect();
        let outcome = self.take(&uses).map_err(|error| broken(&self.path, &error));
        if let Err(why) = &outcome {
            error!(%why, "tokens are refused until this is mended");
        }
        for (at, one) in batch.into_iter().enumerate() {
            // Whoever has stopped waiting has a used token.
            let _ = one.answer.send(match &outcome {
                Ok(first) => first[at].ok_or(Unwritten::Full),
                Err(why) => Err(why.clone()),
            });
        }
    }

    /// For each, whether it was the first use; `None` if there was no room to remember it.
    fn take(&mut self, uses: &[(TokenUse, u64)]) -> rusqlite::Result<Vec<Option<bool>>> {
        let now = uses.iter().map(|(_, now)| *now).max().unwrap_or(0);
        let write = self.database.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let ended = i64::try_from(now.saturating_sub(AFTER_THE_END)).unwrap_or(i64::MAX);
        let forgotten = write.prepare_cached(
            "DELETE FROM used WHERE id IN (SELECT id FROM used WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)",
        )?.execute(params![ended, FORGOTTEN_AT_ONCE])?;
        let mut tokens = self.tokens.saturating_sub(forgotten);
        let mut answers = Vec::with_capacity(uses.len());
        {
            let mut insert = write
                .prepare_cached("INSERT OR IGNORE INTO used (id, expires_at) VALUES (?1, ?2)")?;
            for (token, _) in uses {
                if tokens >= self.most {
                    answers.push(None);
                    continue;
                }
                let until = i64::try_from(token.expires_at).unwrap_or(i64::MAX);
                let added = insert.execute(params![token.id.as_slice(), until])?;
                tokens += added;
                answers.push(Some(added == 1));
            }
        }
        write.commit()?;
        self.tokens = tokens;
        Ok(answers)
    }
}

fn broken(path: &Path, error: &rusqlite::Error) -> Unwritten {
    Unwritten::Broken { path: path.to_owned(), error: error.to_string() }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;

    use super::*;

    const END: u64 = 1_000_000;

    fn token(number: u8) -> TokenUse {
        TokenUse { id: B256::repeat_byte(number), expires_at: END }
    }

    #[test]
    fn a_token_counts_once_also_within_one_write_and_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut ledger) = UsedTokens::open(dir.path()).unwrap();
        let both = ledger.take(&[(token(1), 10), (token(1), 10), (token(2), 10)]).unwrap();
        assert_eq!(both, [Some(true), Some(false), Some(true)]);
        // Ended without a word, as by a kill.
        std::mem::forget(ledger);
        let (_, mut ledger) = UsedTokens::open(dir.path()).unwrap();
        assert_eq!(ledger.tokens, 2);
        assert_eq!(
            ledger.take(&[(token(1), 20), (token(3), 20)]).unwrap(),
            [Some(false), Some(true)]
        );
    }

    #[test]
    fn a_token_is_forgotten_a_day_after_its_end_and_not_before() {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut ledger) = UsedTokens::open(dir.path()).unwrap();
        let long = |number| TokenUse { expires_at: 10 * END, ..token(number) };
        ledger.take(&[(token(1), 10)]).unwrap();
        ledger.take(&[(long(2), END + AFTER_THE_END - 1)]).unwrap();
        assert_eq!(ledger.tokens, 2);
        ledger.take(&[(long(3), END + AFTER_THE_END)]).unwrap();
        assert_eq!(ledger.tokens, 2, "the first is gone, the third is there");
    }

    #[test]
    fn a_full_memory_takes_no_token_rather_than_forget_one() {
        let dir = tempfile::tempdir().unwrap();
        let (_, mut ledger) = UsedTokens::open(dir.path()).unwrap();
        ledger.most = 2;
        let uses: Vec<_> = (1..=3).map(|number| (token(number), 10)).collect();
        assert_eq!(ledger.take(&uses).unwrap(), [Some(true), Some(true), None]);
        assert_eq!(ledger.take(&[(token(1), 10)]).unwrap(), [None]);
    }

    #[tokio::test]
    async fn of_many_at_once_one_is_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let (used, ledger) = UsedTokens::open(dir.path()).unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(ledger.run(stop.clone()));
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let used = used.clone();
            all.spawn(async move { used.take(token(1), 10).await });
        }
        let answers = all.join_all().await;
        assert_eq!(answers.iter().filter(|answer| **answer == Ok(true)).count(), 1);
        assert_eq!(answers.iter().filter(|answer| **answer == Ok(false)).count(), 99);
        stop.cancel();
        running.await.unwrap();
        assert_eq!(used.take(token(2), 10).await, Err(Unwritten::Slow), "nobody writes any more");
    }

    #[test]
    fn what_is_no_database_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("used-tokens.sqlite"), "not a database at all").unwrap();
        let wrong = UsedTokens::open(dir.path()).unwrap_err().to_string();
        assert!(wrong.contains("used-tokens.sqlite"), "{wrong}");
    }
}
