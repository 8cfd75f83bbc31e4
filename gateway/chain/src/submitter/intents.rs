//! What waits to be put on chain, as files that survive a crash at any moment.
//!
//! `<directory>/lock` is held by the one process that uses the directory. `intents/<sequence>.json` is one intent, `flight.json` the signed
//! transaction that carries some of them, `landed.json` those that were confirmed last, `spent.json` the day's gas and wei. Each file is
//! written beside its place, synced and renamed, so it is whole or absent, and has a checksum. What cannot be read or is refused by the
//! contracts moves to `refused/`: nothing is deleted that was not put on chain.
//!
//! Where much waits, equal alerts become one: `merge.json` says which files take the place of which, and is done again after a crash.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use alloy::primitives::{Address, B256, Bytes, U256};
use flytrap_policy::AlertKind;
use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::{
    AlertRecord, Ban, BanSubject, Intent, IntentId, SubmitError, SubmitterError,
    files::{read, remove, sync_directory, write},
};

/// Most bans or alerts in one transaction: the contracts' own limit.
pub(super) const MOST_PER_TRANSACTION: usize = 64;
/// Longest reason of a ban.
const MAX_REASON_OCTETS: usize = 256;
/// Most intents of alerts that wait each in a file of their own.
const MOST_FILES: usize = 512;
/// Most transactions that are remembered after they were confirmed.
const MOST_LANDED: usize = 16;

/// A transaction that was signed and is not yet confirmed.
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

/// A transaction that was confirmed. Should its block be orphaned all the same, the same octets are sent again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Landed {
    pub(super) nonce: u64,
    pub(super) raw: Bytes,
    pub(super) hash: B256,
    pub(super) height: u64,
    pub(super) block: B256,
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

/// What did not get on chain, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// Happenings (the alerts' counts) that found no place.
    pub(super) dropped: u64,
    /// Bans that had ended before they could be put on chain.
    pub(super) expired: u64,
    /// Bans that someone else had put on chain before.
    pub(super) superseded: u64,
    /// Files that moved to `refused/`.
    pub(super) refused: u64,
}

/// What was paid on a day, and when the last transaction took off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spent {
    day: u64,
    pub(super) gas: u64,
    pub(super) wei: U256,
    /// The transaction that was counted last, so that it is not counted again after a crash.
    tx: B256,
    /// Milliseconds since 1970.
    pub(super) took_off: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    sequence: u64,
    intent: Intent,
}

/// Files that take the place of others.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Merge {
    replaced: Vec<u64>,
    by: Vec<Stored>,
}

/// The directory. See the module.
#[derive(Debug)]
pub(super) struct Queue {
    directory: PathBuf,
    limits: Limits,
    next: u64,
    waiting: BTreeMap<u64, Intent>,
    flight: Option<Flight>,
    landed: Vec<Landed>,
    spent: Spent,
    losses: Losses,
    /// What was found damaged when it was opened, in words.
    damaged: Vec<String>,
    /// Durable, and not yet done in the files.
    merge: Option<Merge>,
    /// Held until the queue is dropped.
    _lock: File,
}

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
            landed: Vec::new(),
            spent: Spent::default(),
            losses: Losses::default(),
            damaged: Vec::new(),
            merge: None,
            _lock: lock,
        };
        queue.merge = queue.read_whole("merge.json")?;
        queue.flight = queue.read_whole("flight.json")?;
        queue.finish_merge().map_err(failed)?;
        queue.load().map_err(failed)?;
        queue.landed = queue.read_or_move("landed.json").map_err(failed)?;
        queue.spent = queue.read_or_move("spent.json").map_err(failed)?;
        let flying = queue.flight.iter().flat_map(|flight| &flight.sequences).max();
        let last = queue.waiting.keys().next_back().max(flying).copied();
        queue.next = queue.next.max(last.map_or(0, |last| last + 1));
        Ok(queue)
    }

    /// What must not be guessed: without it something could be sent twice.
    fn read_whole<T: Serialize + serde::de::DeserializeOwned>(
        &self,
        name: &str,
    ) -> Result<Option<T>, SubmitterError> {
        let path = self.directory.join(name);
        read(&path).map_err(|source| SubmitterError::Flight { path, source })
    }

    /// What can be done without: told, and moved out of the way.
    fn read_or_move<T: Serialize + serde::de::DeserializeOwned + Default>(
        &mut self,
        name: &str,
    ) -> io::Result<T> {
        let path = self.directory.join(name);
        match read(&path) {
            Ok(content) => Ok(content.unwrap_or_default()),
            Err(wrong) => {
                self.set_aside_damaged(&path, &wrong)?;
                Ok(T::default())
            }
        }
    }

    fn load(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(self.directory.join("intents"))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                // Written by a process that died before it had promised anything.
                remove(&path)?;
                continue;
            }
            match read::<Stored>(&path) {
                Ok(Some(stored)) if path == self.intent(stored.sequence) => {
                    self.waiting.insert(stored.sequence, stored.intent);
                }
                Ok(_) => self.set_aside_damaged(&path, &"it has another's name")?,
                Err(wrong) => self.set_aside_damaged(&path, &wrong)?,
            }
        }
        Ok(())
    }

    fn intent(&self, sequence: u64) -> PathBuf {
        self.directory.join("intents").join(format!("{sequence:020}.json"))
    }

    fn set_aside_damaged(&mut self, path: &Path, wrong: &dyn std::fmt::Display) -> io::Result<()> {
        error!(path = %path.display(), %wrong, "file cannot be read, set aside");
        self.damaged
            .push(format!("{} is damaged ({wrong}) and is now in `refused/`", path.display()));
        self.set_aside_file(path)
    }

    fn set_aside_file(&mut self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default();
        fs::rename(path, self.directory.join("refused").join(name))?;
        self.losses.refused += 1;
        Ok(())
    }

    /// Keeps an intent. Once this returns, a crash does not lose it. One with more than a transaction can carry becomes several.
    pub(super) fn push(&mut self, intent: Intent) -> Result<Vec<IntentId>, SubmitError> {
        self.finish_merge().map_err(SubmitError::Disk)?;
        if matches!(intent, Intent::Anchor(_)) && self.waiting.values().any(|held| *held == intent)
        {
            return Ok(Vec::new());
        }
        let parts = parts(intent);
        let (bans, alerts) = parts.iter().fold((0, 0), |(bans, alerts), part| match part {
            Intent::Bans(more) => (bans + more.len(), alerts),
            Intent::Lifts(more) => (bans + more.len(), alerts),
            Intent::Alerts(more) => (bans, alerts + more.len()),
            Intent::Anchor(_) => (bans, alerts),
        });
        if bans > 0 && self.bans() + bans > self.limits.bans {
            return Err(SubmitError::Full { waiting: self.bans(), most: self.limits.bans });
        }
        if alerts > 0 {
            self.make_room(alerts).map_err(SubmitError::Disk)?;
        }
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

    /// Folds what waits where it is too much, and drops the oldest alerts that are not on their way where that does not help.
    fn make_room(&mut self, alerts: usize) -> io::Result<()> {
        let files = self.waiting.values().filter(|i| matches!(i, Intent::Alerts(_))).count();
        if self.alerts() + alerts > self.limits.alerts || files >= MOST_FILES {
            self.fold_waiting()?;
        }
        while self.alerts() + alerts > self.limits.alerts {
            let oldest = self.waiting.iter().find(|(sequence, intent)| {
                matches!(intent, Intent::Alerts(_)) && !self.is_flying(**sequence)
            });
            let Some((&sequence, Intent::Alerts(oldest))) = oldest else { break };
            let excess = self.alerts() + alerts - self.limits.alerts;
            let (lost, kept) = oldest.split_at(excess.min(oldest.len()));
            self.losses.dropped += lost.iter().map(|alert| u64::from(alert.count)).sum::<u64>();
            if kept.is_empty() {
                self.forget(sequence)?;
            } else {
                let stored = Stored { sequence, intent: Intent::Alerts(kept.to_vec()) };
                write(&self.intent(sequence), &stored)?;
                self.waiting.insert(sequence, stored.intent);
            }
        }
        Ok(())
    }

    /// Makes one of equal alerts that are not on their way, in as few files as hold them.
    fn fold_waiting(&mut self) -> io::Result<()> {
        let (mut replaced, mut folded) = (Vec::new(), Folded::default());
        let mut before = 0;
        for (&sequence, intent) in &self.waiting {
            let Intent::Alerts(alerts) = intent else { continue };
            if !self.is_flying(sequence) {
                replaced.push(sequence);
                before += alerts.len();
                alerts.iter().for_each(|alert| folded.add(alert));
            }
        }
        if folded.alerts.len().div_ceil(MOST_PER_TRANSACTION) >= replaced.len() {
            return Ok(());
        }
        info!(before, after = folded.alerts.len(), "equal alerts that wait are folded");
        let by = (self.next..)
            .zip(folded.alerts.chunks(MOST_PER_TRANSACTION))
            .map(|(sequence, part)| Stored { sequence, intent: Intent::Alerts(part.to_vec()) })
            .collect();
        let merge = Merge { replaced, by };
        write(&self.directory.join("merge.json"), &merge)?;
        // From here on it has happened, whatever becomes of the files.
        self.next += u64::try_from(merge.by.len()).unwrap_or(u64::MAX);
        for sequence in &merge.replaced {
            self.waiting.remove(sequence);
        }
        for stored in &merge.by {
            self.waiting.insert(stored.sequence, stored.intent.clone());
        }
        self.merge = Some(merge);
        self.finish_merge()
    }

    /// Brings the files to what `merge.json` says. Nothing else is done until that has succeeded: whatever got on chain before would
    /// be there once more when it is done again after a crash.
    fn finish_merge(&mut self) -> io::Result<()> {
        let Some(merge) = &self.merge else { return Ok(()) };
        for stored in &merge.by {
            write(&self.intent(stored.sequence), stored)?;
        }
        for sequence in &merge.replaced {
            remove(&self.intent(*sequence))?;
        }
        sync_directory(&self.directory.join("intents"))?;
        remove(&self.directory.join("merge.json"))?;
        sync_directory(&self.directory)?;
        self.merge = None;
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
                self.forget(sequence)?;
                continue;
            }
            let stored = Stored { sequence, intent: Intent::Bans(bans) };
            write(&self.intent(sequence), &stored)?;
            self.waiting.insert(sequence, stored.intent);
        }
        Ok(())
    }

    /// Whether a ban against `subject` that ends no sooner waits or is on its way.
    pub(super) fn holds_ban(&self, subject: BanSubject, until: u64) -> bool {
        self.waiting.values().any(|intent| match intent {
            Intent::Bans(bans) => {
                bans.iter().any(|ban| ban.subject == subject && ban.until >= until)
            }
            _ => false,
        })
    }

    /// Whose bans are to be lifted.
    fn lifted(&self) -> impl Iterator<Item = BanSubject> {
        self.waiting.values().flat_map(|intent| match intent {
            Intent::Lifts(subjects) => subjects.clone(),
            _ => Vec::new(),
        })
    }

    fn is_flying(&self, sequence: u64) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.sequences.contains(&sequence))
    }

    fn forget(&mut self, sequence: u64) -> io::Result<()> {
        remove(&self.intent(sequence))?;
        self.waiting.remove(&sequence);
        Ok(())
    }

    /// Bans and ends of bans that wait.
    pub(super) fn bans(&self) -> usize {
        let count = |intent: &Intent| match intent {
            Intent::Bans(bans) => bans.len(),
            Intent::Lifts(lifts) => lifts.len(),
            Intent::Alerts(_) | Intent::Anchor(_) => 0,
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

    /// What was found damaged when it was opened.
    pub(super) fn damaged(&self) -> &[String] {
        &self.damaged
    }

    /// What the next transaction is to carry: bans and their ends before alerts and anchors, the oldest first, folded. `most` intents at most. The
    /// end of a ban has a transaction of its own, as the contract has it, and is neither overtaken by later bans nor overtakes earlier ones.
    /// `known` says of a ban whether the chain has it already.
    pub(super) fn batch(
        &mut self,
        now: u64,
        most: usize,
        known: impl Fn(&Ban) -> bool,
    ) -> io::Result<Option<Batch>> {
        self.finish_merge()?;
        // What the chain has is no reason to leave out a ban behind a lift of the same that is still to come.
        let lifted: BTreeSet<BanSubject> = self.lifted().collect();
        let known = |ban: &Ban| !lifted.contains(&ban.subject) && known(ban);
        self.forget_moot(now, known)?;
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
                Intent::Alerts(_) | Intent::Anchor(_) => continue,
            };
            let mut folded = bans.clone();
            for ban in more.iter().filter(|ban| ban.until > now && !known(ban)) {
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
        let mut alerts = Folded::default();
        for (&sequence, intent) in &self.waiting {
            let more = match intent {
                Intent::Alerts(more) => more,
                // Anchors and alerts come in turn, as they came, so that neither keeps the other waiting.
                Intent::Anchor(_) if sequences.is_empty() => {
                    let content = intent.clone();
                    return Ok(Some(Batch { sequences: vec![sequence], content }));
                }
                _ => continue,
            };
            let mut folded = alerts.clone();
            more.iter().for_each(|alert| folded.add(alert));
            if folded.alerts.len() > MOST_PER_TRANSACTION || sequences.len() >= most {
                break;
            }
            alerts = folded;
            sequences.push(sequence);
        }
        let content = Intent::Alerts(alerts.alerts);
        Ok((!sequences.is_empty()).then_some(Batch { sequences, content }))
    }

    /// Forgets bans that have ended while they waited, which the contract would refuse and with them their neighbours, and those
    /// that are on chain already.
    fn forget_moot(&mut self, now: u64, known: impl Fn(&Ban) -> bool) -> io::Result<()> {
        let mut moot = Vec::new();
        for (&sequence, intent) in &self.waiting {
            let Intent::Bans(bans) = intent else { continue };
            if bans.iter().all(|ban| ban.until <= now || known(ban)) {
                moot.push((sequence, bans.clone()));
            }
        }
        for (sequence, bans) in moot {
            for ban in bans {
                let Ban { subject, until, evidence, .. } = &ban;
                if *until <= now {
                    self.losses.expired += 1;
                    warn!(?subject, until, %evidence, "ban ended before the chain could take it");
                } else {
                    self.losses.superseded += 1;
                    info!(?subject, until, %evidence, "ban is on chain already, by someone else");
                }
            }
            self.forget(sequence)?;
        }
        Ok(())
    }

    pub(super) const fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref()
    }

    /// Keeps a signed transaction before it is sent. `now` is in milliseconds.
    pub(super) fn take_off(&mut self, flight: Flight, now: u64) -> io::Result<()> {
        self.spent.took_off = now;
        write(&self.directory.join("spent.json"), &self.spent)?;
        self.replace(flight)
    }

    /// Keeps a dearer attempt of the transaction under way before it is sent.
    pub(super) fn replace(&mut self, flight: Flight) -> io::Result<()> {
        write(&self.directory.join("flight.json"), &flight)?;
        self.flight = Some(flight);
        Ok(())
    }

    /// The transaction is on chain: what it carried is done.
    pub(super) fn land(&mut self, landed: Landed) -> io::Result<()> {
        // In this order: a crash in between finds the flight again, and that it has landed.
        if self.landed.iter().all(|known| known.hash != landed.hash) {
            self.landed.push(landed);
        }
        let many = self.landed.len().saturating_sub(MOST_LANDED);
        self.landed.drain(..many);
        self.keep_landed()?;
        for sequence in self.flight.iter().flat_map(|f| f.sequences.clone()).collect::<Vec<_>>() {
            self.forget(sequence)?;
        }
        self.give_up()
    }

    fn keep_landed(&self) -> io::Result<()> {
        write(&self.directory.join("landed.json"), &self.landed).map(drop)
    }

    pub(super) fn landed(&self) -> &[Landed] {
        &self.landed
    }

    /// Remembers only these of the transactions that were confirmed.
    pub(super) fn remember(&mut self, landed: Vec<Landed>) -> io::Result<()> {
        self.landed = landed;
        self.keep_landed()
    }

    /// The transaction can no longer be mined, or failed: what it carried waits again.
    pub(super) fn give_up(&mut self) -> io::Result<()> {
        remove(&self.directory.join("flight.json"))?;
        sync_directory(&self.directory)?;
        self.flight = None;
        Ok(())
    }

    /// What the intent wants is so already.
    pub(super) fn needless(&mut self, sequence: u64) -> io::Result<()> {
        self.forget(sequence)
    }

    /// Moves an intent that the contracts will never take out of the way.
    pub(super) fn set_aside(&mut self, sequence: u64) -> io::Result<()> {
        self.set_aside_file(&self.intent(sequence))?;
        self.waiting.remove(&sequence);
        Ok(())
    }

    /// Forgets an intent whose bans someone with more right has made.
    pub(super) fn supersede(&mut self, sequence: u64) -> io::Result<()> {
        self.losses.superseded += 1;
        self.forget(sequence)
    }

    /// What was paid on the day of `now`.
    pub(super) fn spent(&self, now: u64) -> Spent {
        if self.spent.day == now / 86_400 {
            self.spent
        } else {
            Spent { day: now / 86_400, gas: 0, wei: U256::ZERO, ..self.spent }
        }
    }

    /// Counts what a transaction has cost.
    pub(super) fn spend(&mut self, tx: B256, gas: u64, wei: U256, now: u64) -> io::Result<()> {
        let spent = self.spent(now);
        if spent.tx == tx {
            return Ok(());
        }
        let (gas, wei) = (spent.gas.saturating_add(gas), spent.wei.saturating_add(wei));
        self.spent = Spent { gas, wei, tx, ..spent };
        write(&self.directory.join("spent.json"), &self.spent).map(drop)
    }
}

/// Parts that fit into a transaction, and into what the contracts accept.
fn parts(intent: Intent) -> Vec<Intent> {
    match intent {
        Intent::Bans(mut bans) => {
            bans.iter_mut().for_each(|ban| cut(&mut ban.reason, MAX_REASON_OCTETS));
            bans.chunks(MOST_PER_TRANSACTION).map(|part| Intent::Bans(part.to_vec())).collect()
        }
        Intent::Anchor(_) => vec![intent],
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

/// Alerts of which no two are equal but in number and time, in the order in which they came.
#[derive(Debug, Clone, Default)]
struct Folded {
    alerts: Vec<AlertRecord>,
    places: HashMap<(AlertKind, Address, B256), usize>,
}

impl Folded {
    fn add(&mut self, alert: &AlertRecord) {
        let key = (alert.kind, alert.wallet, alert.topic_id);
        if let Some(known) = self.places.get(&key).and_then(|at| self.alerts.get_mut(*at))
            && let Some(count) = known.count.checked_add(alert.count)
        {
            known.count = count;
            known.first_at = known.first_at.min(alert.first_at);
            known.last_at = known.last_at.max(alert.last_at);
            if known.evidence != alert.evidence {
                known.evidence = B256::ZERO;
            }
            return;
        }
        // New, or more than one record can count.
        self.places.insert(key, self.alerts.len());
        self.alerts.push(alert.clone());
    }
}

#[cfg(test)]
mod tests;
