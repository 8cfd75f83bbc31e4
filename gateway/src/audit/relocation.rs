//! `flytrap-gateway records move`: the records of a file go on in the database that the configuration names now.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use flytrap_chain::signer::SignerError;

use super::store::{Moved, Step, StoreError, file_in, relocate};
use crate::config::{Config, Recording};
use crate::server::{ServerError, lock_state};

/// Time between two words about how far it is.
const TELL: Duration = Duration::from_millis(250);
/// Characters of the bar.
const BAR: u64 = 30;

/// Why nothing was moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// Nowhere to go.
    #[error("`audit.database` is not set: it says where the records go")]
    NoDatabase,
    /// Nothing to move.
    #[error("there is no \"{path}\": are `state_dir` and the gateway's key those that the records were written with?", path = .path.display())]
    NoFile {
        /// Where it would be.
        path: PathBuf,
    },
    /// Whose records, a key management service has to say.
    #[error("the gateway's key: {0}")]
    Key(#[from] SignerError),
    /// The state directory, or the gateway that uses it.
    #[error(transparent)]
    State(#[from] ServerError),
    /// The records.
    #[error("{0}; nothing was moved")]
    Store(#[from] StoreError),
    /// A fault of ours.
    #[error("moving the records: {0}; nothing was moved, report it")]
    Thread(#[from] tokio::task::JoinError),
}

/// What was moved, and from where.
#[derive(Debug)]
pub struct Relocated {
    moved: Moved,
    from: PathBuf,
    to: String,
}

impl fmt::Display for Relocated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moved { records, batches, keys, last: (number, link) } = self.moved;
        let (from, to) = (self.from.display(), &self.to);
        write!(
            f,
            "{records} records in {batches} closed intervals and {keys} keys are in {to}, read back and checked; the last is number {number} with link {link}.\n\
             \"{from}\" is as it was. It still has the keys, so what is erased from now on can be read in it: destroy it when you need it no more, and never start the gateway with it again."
        )
    }
}

/// Moves the records of the gateway of this configuration from the file in its state directory to the database that it names. No gateway may be
/// running there meanwhile.
///
/// # Errors
/// [`MoveError`]; nothing was moved then.
pub async fn move_records(config: &Config) -> Result<Relocated, MoveError> {
    let Some(database) = config.audit.database.clone() else { return Err(MoveError::NoDatabase) };
    let gateway = match &config.recording {
        Recording::On(key) => key.open().await?.address(),
        Recording::Off => Address::ZERO,
    };
    let from = file_in(&config.state_dir, gateway);
    if !from.exists() {
        return Err(MoveError::NoFile { path: from });
    }
    let _lock = lock_state(&config.state_dir)?;
    let to = database.to_string();
    let (file, mut bar) = (from.clone(), Bar::new());
    let work = move || {
        let moved =
            relocate(&file, &database, gateway, |step, done, all| bar.show(step, done, all));
        bar.clear();
        moved
    };
    let moved = tokio::task::spawn_blocking(work).await??;
    Ok(Relocated { moved, from, to })
}

/// How far it is, in one line of a terminal.
struct Bar {
    is_seen: bool,
    said: Option<Instant>,
}

impl Bar {
    fn new() -> Self {
        Self { is_seen: io::stderr().is_terminal(), said: None }
    }

    fn show(&mut self, step: Step, done: u64, all: u64) {
        if !self.is_seen || self.said.is_some_and(|said| said.elapsed() < TELL) {
            return;
        }
        self.said = Some(Instant::now());
        let mut err = io::stderr();
        let _ = write!(err, "\r{}", line(step, done, all)).and_then(|()| err.flush());
    }

    fn clear(&self) {
        if self.said.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

fn line(step: Step, done: u64, all: u64) -> String {
    let word = match step {
        Step::Writing => "writing ",
        Step::Checking => "checking",
    };
    let full = (done * BAR).checked_div(all).unwrap_or(BAR).min(BAR);
    let [full, empty] = [full, BAR - full].map(|width| usize::try_from(width).unwrap_or(0));
    format!("{word} [{}{}] {done} of {all} records", "#".repeat(full), " ".repeat(empty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_grows_and_never_past_its_end() {
        let bars: Vec<_> = [(0, 10), (5, 10), (10, 10), (11, 10), (0, 0)]
            .map(|(done, all)| line(Step::Writing, done, all))
            .into();
        let full = |line: &String| line.matches('#').count();
        assert_eq!(bars.iter().map(full).collect::<Vec<_>>(), [0, 15, 30, 30, 30]);
        assert_eq!(
            bars[1],
            format!("writing  [{}{}] 5 of 10 records", "#".repeat(15), " ".repeat(15))
        );
    }
}
