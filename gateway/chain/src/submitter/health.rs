//! How the submitter is doing.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use alloy::primitives::U256;

use super::{Alarm, alarm::Board, intents::Queue};
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
    pub(super) superseded: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) orphaned: AtomicU64,
    pub(super) gas_today: AtomicU64,
    pub(super) gwei_today: AtomicU64,
    pub(super) balance_gwei: AtomicU64,
    pub(super) requests: Arc<RequestCounts>,
    pub(super) board: Board,
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
    /// Transactions that failed in a block, were refused before, or were given up for another of the same nonce.
    failed;
    /// Happenings of alerts that found no place.
    dropped;
    /// Bans that had ended before they got on chain.
    expired;
    /// Bans that were on chain already, by someone else.
    superseded;
    /// Files that moved to `refused/` since the start.
    refused;
    /// Confirmed transactions that were orphaned and sent again.
    orphaned;
    /// Gas used today (UTC).
    gas_today;
    /// Gwei paid today (UTC).
    gwei_today;
    /// What the wallet had in gwei before the newest transaction.
    balance_gwei;
}

impl SubmitterHealth {
    /// What an operator has to see to, each with what was found.
    #[must_use]
    pub fn alarms(&self) -> Vec<(Alarm, String)> {
        self.board.on()
    }

    /// How often an alarm went on.
    #[must_use]
    pub fn raised(&self, alarm: Alarm) -> u64 {
        self.board.raised(alarm)
    }

    /// Requests sent to nodes, by method.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.requests.each()
    }

    pub(super) fn update(&self, queue: &Queue, now: u64) {
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        self.queued_bans.store(number(queue.bans()), Relaxed);
        self.queued_alerts.store(number(queue.alerts()), Relaxed);
        let losses = queue.losses();
        self.dropped.store(losses.dropped, Relaxed);
        self.expired.store(losses.expired, Relaxed);
        self.superseded.store(losses.superseded, Relaxed);
        self.refused.store(losses.refused, Relaxed);
        let spent = queue.spent(now);
        self.gas_today.store(spent.gas, Relaxed);
        self.gwei_today.store(gwei(spent.wei), Relaxed);
        if losses.dropped > 0 {
            let detail = format!("{} happenings of alerts were dropped", losses.dropped);
            self.board.raise(Alarm::QueueFull, detail);
        }
    }
}

pub(super) fn gwei(wei: U256) -> u64 {
    (wei / U256::from(1_000_000_000_u64)).saturating_to()
}
