//! What this gateway has to tell the chain: bans at once, alerts folded, both through the submitter's durable queue.
//!
//! Sessions and the door leave notes under a lock that is held for a few hash-map operations and never across an await.
//! Everything is bounded: equal alerts become one with a count, different ones beyond the folder's room are only counted
//! (`notes_dropped`), as are bans beyond [`MOST_BANS`]; the ban itself holds here all the same, and is offered again at the next start. [`Outbox::run`] hands
//! bans to the submitter as soon as they come, so that a kill loses none, and alerts once an interval.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256};
use flytrap_chain::{Ban, BanSubject, Intent, SubmitterHandle};
use flytrap_policy::{AlertFolder, AlertKind, FoldLimit};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::bans::{Ban as Banned, Bans, OnChain, Subject};
use crate::metrics::Metrics;
use crate::mirror::Mirror;

/// Bans that wait for the submitter; more come only if it is stuck.
const MOST_BANS: usize = 1_024;

/// Where notes for the chain are left. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    pending: Arc<Mutex<Pending>>,
    bans_wait: Arc<Notify>,
    bans: Arc<Bans>,
    metrics: Arc<Metrics>,
    /// Without a key to sign with, nothing is kept.
    records: bool,
}

#[derive(Debug)]
struct Pending {
    lifts: Vec<BanSubject>,
    bans: Vec<(Subject, Ban)>,
    alerts: AlertFolder,
    overflowed: u64,
}

/// Something for the submitter, and whose bans it carries until when.
#[derive(Debug, PartialEq)]
struct Note {
    intent: Intent,
    bans: Vec<(Subject, u64)>,
}

impl Outbox {
    /// `records`: whether there is a submitter that takes the notes.
    pub fn new(records: bool, bans: Arc<Bans>, metrics: Arc<Metrics>) -> Self {
        let limit = FoldLimit { keys: 4_096, per_wallet: 64, gather: 0 };
        let (lifts, waiting) = Default::default();
        let alerts = AlertFolder::new(limit);
        let pending = Pending { lifts, bans: waiting, alerts, overflowed: 0 };
        Self {
            pending: Arc::new(Mutex::new(pending)),
            bans_wait: Arc::new(Notify::new()),
            bans,
            metrics,
            records,
        }
    }

    /// Notes that `count` equal actions of a proven wallet were refused at `at` (Unix seconds).
    pub fn alert(
        &self,
        kind: AlertKind,
        wallet: Address,
        topic_id: Option<B256>,
        count: u32,
        at: u64,
    ) {
        if !self.records || count == 0 {
            return;
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.alerts.note_many(kind, wallet, topic_id.unwrap_or_default(), count, at);
    }

    /// Whether anything goes on chain.
    pub fn records(&self) -> bool {
        self.records
    }

    /// Notes that somebody was banned. Of networks the chain knows nothing.
    pub fn ban(&self, ban: &Banned) {
        let Some(subject) = self.subject_on_chain(&ban.subject).filter(|_| self.records) else {
            return;
        };
        let (until, evidence) = (ban.until, ban.evidence_hash());
        let note = Ban { subject, until, evidence, reason: ban.reason.clone() };
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.bans.len() >= MOST_BANS {
            self.metrics.notes_dropped.inc();
            return;
        }
        pending.bans.push((ban.subject, note));
        drop(pending);
        self.bans_wait.notify_one();
    }

    /// Notes that a ban is to be lifted on chain; one that still waits here goes nowhere any more. False if there is no room.
    pub fn lift(&self, subject: &Subject) -> bool {
        let Some(on_chain) = self.subject_on_chain(subject).filter(|_| self.records) else {
            return false;
        };
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.lifts.len() >= MOST_BANS {
            return false;
        }
        pending.bans.retain(|(_, ban)| ban.subject != on_chain);
        pending.lifts.push(on_chain);
        drop(pending);
        self.bans_wait.notify_one();
        true
    }

    /// What stands for an origin; networks have none.
    pub fn pseudonym(&self, subject: &Subject) -> Option<B256> {
        self.bans.pseudonym(subject)
    }

    /// As the chain knows it.
    pub fn subject_on_chain(&self, subject: &Subject) -> Option<BanSubject> {
        match subject {
            Subject::Wallet(wallet) => Some(BanSubject::Wallet(*wallet)),
            _ => self.bans.pseudonym(subject).map(BanSubject::Origin),
        }
    }
}

/// Alerts handed over at a time; the others gather on.
const ALERTS_AT_ONCE: usize = 256;

impl Outbox {
    /// Hands notes to `submit` until `stop`, and once more then. What it does not take (full, disk full) is offered again
    /// an interval later, while new alerts fold and new bans wait, both bounded.
    pub async fn run(
        self,
        submit: SubmitterHandle,
        mirror: Arc<Mirror>,
        interval: Duration,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refused: Vec<Note> = Vec::new();
        loop {
            let (alerts_too, last) = tokio::select! {
                () = stop.cancelled() => (true, true),
                _ = ticks.tick() => (true, false),
                () = self.bans_wait.notified() => (false, false),
            };
            let mut notes = std::mem::take(&mut refused);
            if notes.is_empty() || last {
                notes.extend(self.take(mirror.now(), alerts_too));
            }
            for note in notes {
                match submit.submit(note.intent.clone()).await {
                    Ok(_) => self.bans.told(note.bans, OnChain::Queued),
                    Err(error) => {
                        warn!(%error, "the queue towards the chain did not take what waits for it");
                        refused.push(note);
                    }
                }
            }
            if last {
                return;
            }
        }
    }

    /// Everything that waits.
    fn take(&self, now: u64, alerts_too: bool) -> Vec<Note> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let (lifts, bans) = (std::mem::take(&mut pending.lifts), std::mem::take(&mut pending.bans));
        let alerts =
            if alerts_too { pending.alerts.drain(now, ALERTS_AT_ONCE) } else { Vec::new() };
        let overflowed = pending.alerts.overflowed();
        let more = overflowed.saturating_sub(pending.overflowed);
        pending.overflowed = overflowed;
        drop(pending);
        if more > 0 {
            self.metrics.notes_dropped.inc_by(more);
        }
        // In this order: a ban that waits here was made after the lift of the same.
        let mut notes = Vec::new();
        if !lifts.is_empty() {
            notes.push(Note { intent: Intent::Lifts(lifts), bans: Vec::new() });
        }
        if !bans.is_empty() {
            let told = bans.iter().map(|(subject, ban)| (*subject, ban.until)).collect();
            let bans = bans.into_iter().map(|(_, ban)| ban).collect();
            notes.push(Note { intent: Intent::Bans(bans), bans: told });
        }
        if !alerts.is_empty() {
            notes.push(Note { intent: Intent::alerts(alerts), bans: Vec::new() });
        }
        notes
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::bans::tests::{KEY, ban, wallet};
    use crate::config::Secret;

    fn outbox(records: bool) -> Outbox {
        let bans = Arc::new(Bans::new(Secret::new(KEY), Vec::new()));
        Outbox::new(records, bans, Metrics::register(&mut Registry::default()))
    }

    fn intents(notes: Vec<Note>) -> Vec<Intent> {
        notes.into_iter().map(|note| note.intent).collect()
    }

    #[test]
    fn bans_are_taken_at_once_and_alerts_only_at_an_interval() {
        let outbox = outbox(true);
        outbox.ban(&ban(wallet(1), 100));
        outbox.ban(&ban("192.0.2.0/24".parse().unwrap(), 100));
        outbox.alert(AlertKind::PublishRefused, Address::with_last_byte(1), None, 3, 10);
        let first = outbox.take(11, false);
        assert_eq!(first[0].bans, [(wallet(1), 100)], "of networks the chain knows nothing");
        let first = intents(first);
        assert!(matches!(&first[..], [Intent::Bans(bans)] if bans.len() == 1), "{first:?}");
        let second = intents(outbox.take(12, true));
        assert!(
            matches!(&second[..], [Intent::Alerts(alerts)] if alerts.len() == 1 && alerts[0].count == 3),
            "{second:?}"
        );
        assert_eq!(outbox.take(13, true), vec![]);
    }

    #[test]
    fn a_lift_takes_back_what_waits_and_goes_before_what_comes_after_it() {
        let outbox = outbox(true);
        outbox.ban(&ban(wallet(1), 100));
        outbox.ban(&ban(wallet(2), 100));
        assert!(outbox.lift(&wallet(1)));
        outbox.ban(&ban(wallet(1), 200));
        let taken = intents(outbox.take(11, false));
        let [Intent::Lifts(lifts), Intent::Bans(bans)] = &taken[..] else { panic!("{taken:?}") };
        assert_eq!(lifts.len(), 1);
        assert_eq!(bans.iter().map(|ban| ban.until).collect::<Vec<_>>(), [100, 200]);
    }

    #[test]
    fn bans_beyond_the_bound_are_counted_and_not_kept() {
        let outbox = outbox(true);
        for _ in 0..MOST_BANS + 2 {
            outbox.ban(&ban(wallet(1), 100));
        }
        let taken = intents(outbox.take(0, false));
        assert!(matches!(&taken[..], [Intent::Bans(bans)] if bans.len() == MOST_BANS));
        assert_eq!(outbox.metrics.notes_dropped.get(), 2);
    }

    #[test]
    fn without_a_key_nothing_is_kept() {
        let outbox = outbox(false);
        outbox.ban(&ban(wallet(1), 100));
        assert!(!outbox.lift(&wallet(1)));
        outbox.alert(AlertKind::PublishRefused, Address::ZERO, None, 1, 0);
        assert_eq!(outbox.take(0, true), vec![]);
    }
}
