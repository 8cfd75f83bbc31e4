//! What this gateway has to tell the chain: bans at once, alerts folded, both through the submitter's durable queue.
//!
//! Sessions and the door leave notes under a lock that is held for a few hash-map operations and never across an await.
//! Everything is bounded: equal alerts become one with a count, different ones beyond the folder's room are only counted
//! (`notes_dropped`), as are bans beyond [`MOST_BANS`]; the ban itself holds here all the same. [`Outbox::run`] hands
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

use crate::metrics::Metrics;
use crate::mirror::Mirror;

/// Bans that wait for the submitter; more come only if it is stuck.
const MOST_BANS: usize = 1_024;

/// Where notes for the chain are left. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Outbox {
    pending: Arc<Mutex<Pending>>,
    bans_wait: Arc<Notify>,
    metrics: Arc<Metrics>,
    /// Without a key to sign with, nothing is kept.
    records: bool,
}

#[derive(Debug)]
struct Pending {
    bans: Vec<BanNote>,
    alerts: AlertFolder,
    overflowed: u64,
}

/// An origin that was banned here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BanNote {
    /// Keyed pseudonym, never an address.
    pub origin: B256,
    /// Unix second of its end.
    pub until: u64,
    /// Hash of the log line that says why.
    pub evidence: B256,
}

impl Outbox {
    /// `records`: whether there is a submitter that takes the notes.
    pub fn new(records: bool, metrics: Arc<Metrics>) -> Self {
        let limit = FoldLimit { keys: 4_096, per_wallet: 64, gather: 0 };
        let pending = Pending { bans: Vec::new(), alerts: AlertFolder::new(limit), overflowed: 0 };
        Self {
            pending: Arc::new(Mutex::new(pending)),
            bans_wait: Arc::new(Notify::new()),
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

    /// Notes that an origin was banned.
    pub fn ban(&self, note: BanNote) {
        if !self.records {
            return;
        }
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.bans.len() >= MOST_BANS {
            self.metrics.notes_dropped.inc();
            return;
        }
        pending.bans.push(note);
        drop(pending);
        self.bans_wait.notify_one();
    }
}

/// Alerts handed over at a time; the others gather on.
const ALERTS_AT_ONCE: usize = 256;
/// What bans by this gateway say on chain: public for ever, so the details stay in the log whose hash is the evidence.
const BAN_REASON: &str = "too many failed proofs in a row";

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
        let mut refused: Vec<Intent> = Vec::new();
        loop {
            let (alerts_too, last) = tokio::select! {
                () = stop.cancelled() => (true, true),
                _ = ticks.tick() => (true, false),
                () = self.bans_wait.notified() => (false, false),
            };
            let mut intents = std::mem::take(&mut refused);
            if intents.is_empty() || last {
                intents.extend(self.take(mirror.now(), alerts_too));
            }
            for intent in intents {
                if let Err(error) = submit.submit(intent.clone()).await {
                    warn!(%error, "the queue towards the chain did not take what waits for it");
                    refused.push(intent);
                }
            }
            if last {
                return;
            }
        }
    }

    /// Everything that waits.
    fn take(&self, now: u64, alerts_too: bool) -> Vec<Intent> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let bans = std::mem::take(&mut pending.bans);
        let alerts =
            if alerts_too { pending.alerts.drain(now, ALERTS_AT_ONCE) } else { Vec::new() };
        let overflowed = pending.alerts.overflowed();
        let more = overflowed.saturating_sub(pending.overflowed);
        pending.overflowed = overflowed;
        drop(pending);
        if more > 0 {
            self.metrics.notes_dropped.inc_by(more);
        }
        let mut intents = Vec::new();
        if !bans.is_empty() {
            let ban = |note: BanNote| Ban {
                subject: BanSubject::Origin(note.origin),
                until: note.until,
                evidence: note.evidence,
                reason: BAN_REASON.to_owned(),
            };
            intents.push(Intent::Bans(bans.into_iter().map(ban).collect()));
        }
        if !alerts.is_empty() {
            intents.push(Intent::alerts(alerts));
        }
        intents
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    fn outbox(records: bool) -> Outbox {
        Outbox::new(records, Metrics::register(&mut Registry::default()))
    }

    fn note(n: u8) -> BanNote {
        BanNote { origin: B256::with_last_byte(n), until: 100, evidence: B256::ZERO }
    }

    #[test]
    fn bans_are_taken_at_once_and_alerts_only_at_an_interval() {
        let outbox = outbox(true);
        outbox.ban(note(1));
        outbox.alert(AlertKind::PublishRefused, Address::with_last_byte(1), None, 3, 10);
        let first = outbox.take(11, false);
        assert!(matches!(&first[..], [Intent::Bans(bans)] if bans.len() == 1), "{first:?}");
        let second = outbox.take(12, true);
        assert!(
            matches!(&second[..], [Intent::Alerts(alerts)] if alerts.len() == 1 && alerts[0].count == 3),
            "{second:?}"
        );
        assert_eq!(outbox.take(13, true), vec![]);
    }

    #[test]
    fn bans_beyond_the_bound_are_counted_and_not_kept() {
        let outbox = outbox(true);
        for _ in 0..MOST_BANS + 2 {
            outbox.ban(note(1));
        }
        let taken = outbox.take(0, false);
        assert!(matches!(&taken[..], [Intent::Bans(bans)] if bans.len() == MOST_BANS));
        assert_eq!(outbox.metrics.notes_dropped.get(), 2);
    }

    #[test]
    fn without_a_key_nothing_is_kept() {
        let outbox = outbox(false);
        outbox.ban(note(1));
        outbox.alert(AlertKind::PublishRefused, Address::ZERO, None, 1, 0);
        assert_eq!(outbox.take(0, true), vec![]);
    }
}
