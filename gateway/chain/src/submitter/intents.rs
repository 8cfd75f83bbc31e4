//! What waits to be put on chain, as files that survive a crash at any moment.
//!
//! `<directory>/lock` is held by the one process that uses the directory. `intents/<sequence>.json` is one intent,
//! `flight.json` the signed transaction that carries some of them, `spent.json` today's gas. Each file is written beside its place,
//! synced and renamed, so it is whole or absent. What cannot be read or is refused by the contracts moves to `refused/`: nothing is
//! deleted that was not put on chain.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use alloy::primitives::{Address, B256, Bytes, keccak256};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{AlertRecord, Ban, BanSubject, Intent, IntentId, SubmitError, SubmitterError};

/// Most bans or alerts in one transaction: the contracts' own limit.
pub(super) const MOST_PER_TRANSACTION: usize = 64;
/// Longest reason of a ban.
const MAX_REASON_OCTETS: usize = 256;

/// A transaction that was signed and is not yet forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Flight {
    /// The intents that it carries.
    pub(super) sequences: Vec<u64>,
    pub(super) to: Address,
    pub(super) data: Bytes,
    pub(super) nonce: u64,
    pub(super) gas: u64,
    /// Each with the same nonce, so that at most one of them can ever be mined.
    pub(super) attempts: Vec<Attempt>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) raw: Bytes,
    pub(super) hash: B256,
    // As text: what reads JSON numbers of 128 bits often reads them wrongly.
    #[serde(with = "alloy::serde::quantity")]
    pub(super) max_fee: u128,
    #[serde(with = "alloy::serde::quantity")]
    pub(super) priority: u128,
}

/// What one transaction is to carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) sequences: Vec<u64>,
    pub(super) content: Intent,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bans: usize,
    pub(super) alerts: usize,
}

/// Happenings that were lost or set aside, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Alerts (their counts) that found no place.
    pub(super) dropped: u64,
    /// Bans that had ended before they could be put on chain.
    pub(super) expired: u64,
    /// Files that moved to `refused/`.
    pub(super) refused: u64,
}

/// The directory. See the module.
#[derive(Debug)]
pub(super) struct Queue {
    directory: PathBuf,
    limits: Limits,
    next: u64,
    waiting: BTreeMap<u64, Intent>,
    flight: Option<Flight>,
    spent: Spent,
    losses: Losses,
    /// Held until the queue is dropped.
    _lock: File,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    day: u64,
    gas: u64,
}

/// Content of a file with its checksum.
#[derive(Debug, Serialize, Deserialize)]
struct Sealed<T> {
    version: u32,
    id: B256,
    content: T,
}

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    sequence: u64,
    intent: Intent,
}

const VERSION: u32 = 1;

impl Queue {
    /// Takes the directory, made if there is none, and reads what waits in it. `now` is in Unix seconds.
    pub(super) fn open(directory: &Path, limits: Limits, now: u64) -> Result<Self, SubmitterError> {
        let failed = |source| SubmitterError::Directory { path: directory.into(), source };
        fs::create_dir_all(directory.join("intents")).map_err(failed)?;
        fs::create_dir_all(directory.join("refused")).map_err(failed)?;
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(SubmitterError::Locked { path: directory.into() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        let mut queue = Self {
            directory: directory.into(),
            limits,
            // Never a number that was used before, also after the directory was empty: ids are not to repeat.
            next: now << 20,
            waiting: BTreeMap::new(),
            flight: None,
            spent: Spent::default(),
            losses: Losses::default(),
            _lock: lock,
        };
        queue.load().map_err(failed)?;
        let flight = queue.directory.join("flight.json");
        if flight.exists() {
            let content = unseal(&flight)
                .map_err(|source| SubmitterError::Flight { path: flight.clone(), source })?;
            queue.flight = Some(content);
        }
        // A budget that cannot be read was not spent by anyone we know of.
        queue.spent = unseal(&queue.directory.join("spent.json")).unwrap_or_default();
        let flying = queue.flight.iter().flat_map(|flight| &flight.sequences).max();
        let last = queue.waiting.keys().next_back().max(flying).copied();
        queue.next = queue.next.max(last.map_or(0, |last| last + 1));
        Ok(queue)
    }

    fn load(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(self.directory.join("intents"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                // Written by a process that died before it had promised anything.
                fs::remove_file(&path)?;
                continue;
            }
            match unseal::<Stored>(&path) {
                Ok(stored) if path == self.intent(stored.sequence) => {
                    self.waiting.insert(stored.sequence, stored.intent);
                }
                _ => {
                    tracing::error!(path = %path.display(), "intent cannot be read, set aside");
                    self.set_aside_file(&path)?;
                }
            }
        }
        Ok(())
    }

    fn intent(&self, sequence: u64) -> PathBuf {
        self.directory.join("intents").join(format!("{sequence:020}.json"))
    }

    fn set_aside_file(&mut self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default();
        fs::rename(path, self.directory.join("refused").join(name))?;
        self.losses.refused += 1;
        Ok(())
    }

    /// Keeps an intent. Once this returns, a crash does not lose it. One with more than a transaction can carry becomes several.
    pub(super) fn push(&mut self, intent: Intent) -> Result<Vec<IntentId>, SubmitError> {
        let parts = parts(intent);
        let (bans, alerts) = parts.iter().fold((0, 0), |(bans, alerts), part| match part {
            Intent::Bans(more) => (bans + more.len(), alerts),
            Intent::Lifts(more) => (bans + more.len(), alerts),
            Intent::Alerts(more) => (bans, alerts + more.len()),
        });
        if bans > 0 && self.bans() + bans > self.limits.bans {
            return Err(SubmitError::Full { waiting: self.bans(), most: self.limits.bans });
        }
        self.make_room(alerts).map_err(SubmitError::Disk)?;
        for part in &parts {
            if let Intent::Lifts(subjects) = part {
                self.take_back(subjects).map_err(SubmitError::Disk)?;
            }
        }
        let mut ids = Vec::with_capacity(parts.len());
        for part in parts {
            let sequence = self.next;
            let stored = Stored { sequence, intent: part };
            let id = write(&self.intent(sequence), &stored).map_err(SubmitError::Disk)?;
            self.next += 1;
            self.waiting.insert(sequence, stored.intent);
            ids.push(id);
        }
        Ok(ids)
    }

    /// Drops the oldest alerts that are not on their way.
    fn make_room(&mut self, alerts: usize) -> io::Result<()> {
        while alerts > 0 && self.alerts() + alerts > self.limits.alerts {
            let oldest = self.waiting.iter().find(|(sequence, intent)| {
                matches!(intent, Intent::Alerts(_)) && !self.is_flying(**sequence)
            });
            let Some((&sequence, Intent::Alerts(lost))) = oldest else { break };
            self.losses.dropped += lost.iter().map(|alert| u64::from(alert.count)).sum::<u64>();
            self.remove(sequence)?;
        }
        Ok(())
    }

    /// Bans that are lifted before they took off. A crash in between loses nothing: the lift was not promised yet.
    fn take_back(&mut self, lifted: &[BanSubject]) -> io::Result<()> {
        let concerned: Vec<(u64, Vec<Ban>)> = self
            .waiting
            .iter()
            .filter_map(|(sequence, intent)| match intent {
                Intent::Bans(bans) if bans.iter().any(|ban| lifted.contains(&ban.subject)) => {
                    Some((*sequence, bans.clone()))
                }
                _ => None,
            })
            .collect();
        for (sequence, mut bans) in concerned {
            if self.is_flying(sequence) {
                continue;
            }
            bans.retain(|ban| !lifted.contains(&ban.subject));
            if bans.is_empty() {
                self.remove(sequence)?;
                continue;
            }
            let stored = Stored { sequence, intent: Intent::Bans(bans) };
            write(&self.intent(sequence), &stored)?;
            self.waiting.insert(sequence, stored.intent);
        }
        Ok(())
    }

    /// Whether a ban against `subject` waits or is on its way.
    pub(super) fn holds_ban(&self, subject: BanSubject) -> bool {
        self.waiting.values().any(|intent| match intent {
            Intent::Bans(bans) => bans.iter().any(|ban| ban.subject == subject),
            _ => false,
        })
    }

    fn is_flying(&self, sequence: u64) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.sequences.contains(&sequence))
    }

    fn remove(&mut self, sequence: u64) -> io::Result<()> {
        match fs::remove_file(self.intent(sequence)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.waiting.remove(&sequence);
        Ok(())
    }

    /// Bans and ends of bans that wait.
    pub(super) fn bans(&self) -> usize {
        let count = |intent: &Intent| match intent {
            Intent::Bans(bans) => bans.len(),
            Intent::Lifts(lifts) => lifts.len(),
            Intent::Alerts(_) => 0,
        };
        self.waiting.values().map(count).sum()
    }

    /// Alerts that wait.
    pub(super) fn alerts(&self) -> usize {
        self.waiting.values().map(|i| if let Intent::Alerts(a) = i { a.len() } else { 0 }).sum()
    }

    pub(super) const fn losses(&self) -> Losses {
        self.losses
    }

    /// What the next transaction is to carry: bans and their ends before alerts, the oldest first, folded. `most` intents at most. The
    /// end of a ban has a transaction of its own, as the contract has it, and is neither overtaken by later bans nor overtakes earlier ones.
    pub(super) fn batch(&mut self, now: u64, most: usize) -> io::Result<Option<Batch>> {
        self.expire(now)?;
        let mut bans: BTreeMap<BanSubject, Ban> = BTreeMap::new();
        let mut sequences = Vec::new();
        for (&sequence, intent) in &self.waiting {
            let more = match intent {
                Intent::Bans(more) => more,
                Intent::Lifts(_) if sequences.is_empty() => {
                    let content = intent.clone();
                    return Ok(Some(Batch { sequences: vec![sequence], content }));
                }
                Intent::Lifts(_) => break,
                Intent::Alerts(_) => continue,
            };
            let mut folded = bans.clone();
            for ban in more.iter().filter(|ban| ban.until > now) {
                let place = folded.entry(ban.subject).or_insert_with(|| ban.clone());
                if place.until < ban.until {
                    *place = ban.clone();
                }
            }
            if folded.len() > MOST_PER_TRANSACTION || sequences.len() >= most {
                break;
            }
            bans = folded;
            sequences.push(sequence);
        }
        if !bans.is_empty() {
            let content = Intent::Bans(bans.into_values().collect());
            return Ok(Some(Batch { sequences, content }));
        }
        let mut alerts: Vec<AlertRecord> = Vec::new();
        for (&sequence, intent) in &self.waiting {
            let Intent::Alerts(more) = intent else { continue };
            let mut folded = alerts.clone();
            more.iter().for_each(|alert| fold(&mut folded, alert));
            if folded.len() > MOST_PER_TRANSACTION || sequences.len() >= most {
                break;
            }
            alerts = folded;
            sequences.push(sequence);
        }
        let content = Intent::Alerts(alerts);
        Ok((!sequences.is_empty()).then_some(Batch { sequences, content }))
    }

    /// Forgets bans that have ended while they waited: the contract would refuse them, and with them their neighbours.
    fn expire(&mut self, now: u64) -> io::Result<()> {
        let ended: Vec<(u64, usize)> = self
            .waiting
            .iter()
            .filter_map(|(sequence, intent)| match intent {
                Intent::Bans(bans) if bans.iter().all(|ban| ban.until <= now) => {
                    Some((*sequence, bans.len()))
                }
                _ => None,
            })
            .collect();
        for (sequence, bans) in ended {
            self.losses.expired += u64::try_from(bans).unwrap_or(u64::MAX);
            self.remove(sequence)?;
        }
        Ok(())
    }

    pub(super) const fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref()
    }

    /// Keeps a signed transaction before it is sent.
    pub(super) fn take_off(&mut self, flight: Flight) -> io::Result<()> {
        write(&self.directory.join("flight.json"), &flight)?;
        self.flight = Some(flight);
        Ok(())
    }

    /// The transaction is on chain: what it carried is done.
    pub(super) fn land(&mut self) -> io::Result<()> {
        // In this order: a crash in between finds the flight again, and that it has landed.
        for sequence in self.flight.iter().flat_map(|f| f.sequences.clone()).collect::<Vec<_>>() {
            self.remove(sequence)?;
        }
        self.give_up()
    }

    /// The transaction can no longer be mined, or failed: what it carried waits again.
    pub(super) fn give_up(&mut self) -> io::Result<()> {
        match fs::remove_file(self.directory.join("flight.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        sync_directory(&self.directory)?;
        self.flight = None;
        Ok(())
    }

    /// What the intent wants is so already.
    pub(super) fn needless(&mut self, sequence: u64) -> io::Result<()> {
        self.remove(sequence)
    }

    /// Moves an intent that the contracts will never take out of the way.
    pub(super) fn set_aside(&mut self, sequence: u64) -> io::Result<()> {
        self.set_aside_file(&self.intent(sequence))?;
        self.waiting.remove(&sequence);
        Ok(())
    }

    /// Gas used on the day of `now`.
    pub(super) const fn spent(&self, now: u64) -> u64 {
        if self.spent.day == now / 86_400 { self.spent.gas } else { 0 }
    }

    pub(super) fn spend(&mut self, gas: u64, now: u64) -> io::Result<()> {
        self.spent = Spent { day: now / 86_400, gas: self.spent(now).saturating_add(gas) };
        write(&self.directory.join("spent.json"), &self.spent)?;
        Ok(())
    }
}

/// Parts that fit into a transaction, and into what the contracts accept.
fn parts(intent: Intent) -> Vec<Intent> {
    match intent {
        Intent::Bans(mut bans) => {
            bans.iter_mut().for_each(|ban| cut(&mut ban.reason, MAX_REASON_OCTETS));
            bans.chunks(MOST_PER_TRANSACTION).map(|part| Intent::Bans(part.to_vec())).collect()
        }
        Intent::Lifts(lifts) => lifts.into_iter().map(|lift| Intent::Lifts(vec![lift])).collect(),
        Intent::Alerts(mut alerts) => {
            // The contract refuses an alert of nothing.
            alerts.retain(|alert| alert.count > 0);
            alerts.chunks(MOST_PER_TRANSACTION).map(|part| Intent::Alerts(part.to_vec())).collect()
        }
    }
}

fn cut(text: &mut String, octets: usize) {
    let end = (0..=octets.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
}

fn fold(alerts: &mut Vec<AlertRecord>, alert: &AlertRecord) {
    let key = |a: &AlertRecord| (a.kind, a.wallet, a.topic_id);
    match alerts.iter_mut().find(|known| key(known) == key(alert)) {
        Some(known) => {
            known.count = known.count.saturating_add(alert.count);
            known.first_at = known.first_at.min(alert.first_at);
            known.last_at = known.last_at.max(alert.last_at);
            if known.evidence != alert.evidence {
                known.evidence = B256::ZERO;
            }
        }
        None => alerts.push(alert.clone()),
    }
}

/// Writes a file so that it is whole or absent, whenever the machine stops. Returns its id.
fn write<T: Serialize>(path: &Path, content: &T) -> io::Result<B256> {
    let id = keccak256(serde_json::to_vec(content)?);
    let text = serde_json::to_vec(&Sealed { version: VERSION, id, content })?;
    let beside = path.with_extension("tmp");
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        // Best effort: a leftover is removed at the next start.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    sync_directory(path.parent().unwrap_or(path))?;
    Ok(id)
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Reads a file and checks that it is what was written.
fn unseal<T: Serialize + DeserializeOwned>(path: &Path) -> io::Result<T> {
    let sealed: Sealed<T> = serde_json::from_slice(&fs::read(path)?)?;
    let id = keccak256(serde_json::to_vec(&sealed.content)?);
    if sealed.version != VERSION || sealed.id != id {
        let detail = format!(
            "version {} with checksum {}, wanted version {VERSION} with {id}",
            sealed.version, sealed.id
        );
        return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
    }
    Ok(sealed.content)
}

#[cfg(test)]
mod tests;
