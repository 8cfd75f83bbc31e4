//! How the submitter is doing.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::intents::Queue;
use crate::rpc::RequestCounts;

/// How the submitter is doing: numbers that any task reads without waiting.
#[derive(Debug, Default)]
pub struct SubmitterHealth {
    pub(super) queued_bans: AtomicU64,
    pub(super) queued_alerts: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) confirmed: AtomicU64,
    pub(super) replaced: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) gas_today: AtomicU64,
    pub(super) requests: Arc<RequestCounts>,
    alarm: Mutex<Option<String>>,
}

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        impl SubmitterHealth {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(&self) -> u64 {
                    self.$name.load(Relaxed)
                }
            )*
        }
    };
}

numbers! {
    /// Bans that wait, those on their way included.
    queued_bans;
    /// Alerts that wait, those on their way included.
    queued_alerts;
    /// Transactions handed to a node, replacements not counted.
    sent;
    /// Transactions that are deep enough.
    confirmed;
    /// Replacements by dearer transactions.
    replaced;
    /// Transactions that failed in a block, or were refused before.
    failed;
    /// Happenings of alerts that found no place.
    dropped;
    /// Bans that had ended before they got on chain.
    expired;
    /// Files in `refused/` since the start.
    refused;
    /// Gas used today (UTC).
    gas_today;
}

impl SubmitterHealth {
    /// What keeps it from making progress, for an operator to see to.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        self.alarm.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests sent to nodes, by method.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.requests.each()
    }

    pub(super) fn set_alarm(&self, alarm: Option<String>) {
        *self.alarm.lock().unwrap_or_else(PoisonError::into_inner) = alarm;
    }

    pub(super) fn update(&self, queue: &Queue, now: u64) {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.queued_bans.store(number(queue.bans()), Relaxed);
        self.queued_alerts.store(number(queue.alerts()), Relaxed);
        let losses = queue.losses();
        self.dropped.store(losses.dropped, Relaxed);
        self.expired.store(losses.expired, Relaxed);
        self.refused.store(losses.refused, Relaxed);
        self.gas_today.store(queue.spent(now), Relaxed);
    }
}
