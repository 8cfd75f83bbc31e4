//! Reads databases again: at SIGHUP, and when a file was exchanged.
//!
//! Each file by itself. One that is wrong leaves what is in use of it as it was. A database comes into the record before anything rests on it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{Countries, Database, Fault};
use crate::audit::Audit;
use crate::config::CountriesConfig;
use crate::mirror::Mirror;

/// The one that exchanges the databases of [`Countries`].
#[derive(Debug)]
pub struct Keeper {
    countries: Arc<Countries>,
    poll: Duration,
    files: Vec<Watched>,
    /// In use since the start, and not in the record yet.
    fresh: Vec<Arc<Database>>,
}

/// A configured file.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    /// As it was when it was last read; `None`: it was not there.
    read: Option<Stamp>,
    /// As it was at the last look.
    seen: Option<Stamp>,
}

/// What of a file tells that it is another one, or has been written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    octets: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let facts = fs::metadata(path).ok()?;
        Some(Self {
            device: facts.dev(),
            inode: facts.ino(),
            octets: facts.len(),
            changed: (facts.mtime(), facts.mtime_nsec()),
        })
    }
}

/// Why files are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Occasion {
    /// Somebody says that they are to be.
    Asked,
    /// They may have changed.
    Poll,
}

/// A file that was read, by its place in the configuration.
type Read = (usize, Result<Database, Fault>);

impl Watched {
    /// Reads the file if there is reason to.
    fn look(&mut self, occasion: Occasion) -> Option<Result<Database, Fault>> {
        let stamp = Stamp::of(&self.path);
        // Whoever copies over it may be half-way: two looks must see the same.
        let is_settled = std::mem::replace(&mut self.seen, stamp) == stamp;
        if occasion == Occasion::Poll && (stamp == self.read || !is_settled) {
            return None;
        }
        let found = Database::read(&self.path);
        let is_still = Stamp::of(&self.path) == stamp;
        if occasion == Occasion::Poll && !is_still {
            return None;
        }
        self.read = stamp;
        Some(if is_still { found } else { Err(Fault::Changing) })
    }
}

impl Keeper {
    pub(super) fn new(countries: Arc<Countries>, config: &CountriesConfig) -> Self {
        let watched = |path: &PathBuf| Watched { path: path.clone(), read: None, seen: None };
        let files = config.databases.iter().map(watched).collect();
        let mut keeper = Self { countries, poll: config.poll, files, fresh: Vec::new() };
        let found = look(&mut keeper.files, Occasion::Asked);
        let fresh = keeper.judge(found);
        keeper.fresh = fresh.iter().map(|(_, database)| database.clone()).collect();
        let count = fresh.len();
        keeper.take(fresh);
        keeper.count(count);
        keeper
    }

    /// Puts into the record which databases were there at the start. Call before there are sessions.
    pub async fn record(&mut self, audit: &Audit, now: u64) {
        for database in self.fresh.drain(..) {
            audit.began(database.mark(), now).await;
        }
    }

    /// Follows the files until `stop`.
    pub async fn run(
        mut self,
        mut hangups: Signal,
        audit: Audit,
        mirror: Arc<Mirror>,
        stop: CancellationToken,
    ) {
        if self.files.is_empty() {
            stop.cancelled().await;
            return;
        }
        let mut ticks = tokio::time::interval(self.poll);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let occasion = tokio::select! {
                () = stop.cancelled() => return,
                _ = hangups.recv() => Occasion::Asked,
                _ = ticks.tick() => Occasion::Poll,
            };
            let mut files = std::mem::take(&mut self.files);
            // Tens of megabytes, and disks that may be slow.
            let looked = tokio::task::spawn_blocking(move || {
                let found = look(&mut files, occasion);
                (files, found)
            });
            let looked = tokio::select! {
                looked = looked => looked,
                () = stop.cancelled() => return,
            };
            // A panic took the files with it: the gateway is told by the end of this part.
            let Ok((files, found)) = looked else { return };
            self.files = files;
            let fresh = self.judge(found);
            if fresh.is_empty() {
                continue;
            }
            // Before it is used, so that nothing in the record rests on what comes after it.
            for (_, database) in &fresh {
                audit.began(database.mark(), mirror.now()).await;
            }
            let count = fresh.len();
            self.take(fresh);
            // By the way that sessions wait on anyhow: a second one would cost each of their steps a lock.
            mirror.nudge();
            self.count(count);
        }
    }

    /// Tells what was read, and picks what is new.
    fn judge(&self, found: Vec<Read>) -> Vec<(usize, Arc<Database>)> {
        let (mut fresh, countries) = (Vec::new(), &self.countries);
        let slots = countries.slots.load();
        for (n, found) in found {
            let file = self.files[n].path.display();
            match found {
                Ok(database) if slots[n].as_ref().is_some_and(|old| old.is_same(&database)) => {
                    info!(%file, "the country database is as it was");
                    countries.metrics.country_database_read("unchanged");
                }
                Ok(database) => {
                    info!(%file, %database, "using a country database");
                    fresh.push((n, Arc::new(database)));
                }
                Err(fault) => {
                    let instead = match &slots[n] {
                        Some(old) => format!("the one in use stays: {old}"),
                        None => "what only it knows has no country".to_owned(),
                    };
                    error!(%file, %fault, instead, "a country database cannot be used");
                    countries.metrics.country_database_read("refused");
                }
            }
        }
        fresh
    }

    fn take(&self, fresh: Vec<(usize, Arc<Database>)>) {
        let mut slots = (**self.countries.slots.load()).clone();
        for (n, database) in fresh {
            slots[n] = Some(database);
        }
        self.countries.exchange(slots);
    }

    /// Counts what is in use now, also for sessions.
    fn count(&self, fresh: usize) {
        for _ in 0..fresh {
            self.countries.metrics.country_database_read("ok");
        }
    }
}

fn look(files: &mut [Watched], occasion: Occasion) -> Vec<Read> {
    let looked = files.iter_mut().enumerate();
    looked.filter_map(|(n, file)| Some((n, file.look(occasion)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(path: &Path) -> Watched {
        Watched { path: path.to_owned(), read: None, seen: None }
    }

    #[test]
    fn a_file_is_read_again_once_it_has_changed_and_rests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("geoip");
        fs::write(&path, "1,2,GB\n").unwrap();
        let mut file = watched(&path);
        let mut poll = || file.look(Occasion::Poll).map(|found| found.is_ok());
        assert_eq!([poll(), poll(), poll()], [None, Some(true), None]);
        fs::write(&path, "1,2,GB\n3,4,FR\n").unwrap();
        assert_eq!(poll(), None, "it may still be written to");
        fs::write(&path, "1,2,GB\n3,4,FR\n5,6,").unwrap();
        assert_eq!([poll(), poll(), poll()], [None, Some(false), None]);
        fs::remove_file(&path).unwrap();
        assert_eq!([poll(), poll(), poll()], [None, Some(false), None], "told once");
        fs::write(&path, "1,2,GB\n").unwrap();
        assert_eq!([poll(), poll(), poll()], [None, Some(true), None]);
    }

    #[test]
    fn who_asks_has_it_read_at_once_and_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("geoip");
        let mut file = watched(&path);
        assert!(matches!(file.look(Occasion::Asked), Some(Err(Fault::Unreadable(_)))));
        fs::write(&path, "1,2,GB\n").unwrap();
        assert!(matches!(file.look(Occasion::Asked), Some(Ok(_))));
        assert!(matches!(file.look(Occasion::Asked), Some(Ok(_))));
    }
}
