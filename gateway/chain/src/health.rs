//! How well the chain is being followed: numbers that any task reads without waiting.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::rpc::RequestCounts;

/// Shared by the follower, which writes, and everyone who asks.
#[derive(Debug)]
pub struct ChainHealth {
    started: Instant,
    /// Milliseconds since `started`, plus one; 0 is never.
    last_seen: AtomicU64,
    last_moved: AtomicU64,
    height: AtomicU64,
    time: AtomicU64,
    target: AtomicU64,
    views: AtomicU64,
    reorgs: AtomicU64,
    deepest_reorg: AtomicU64,
    resyncs: AtomicU64,
    reconnects: AtomicU64,
    errors: AtomicU64,
    undecodable: AtomicU64,
    inconsistent: AtomicU64,
    hints: AtomicU64,
    requests: std::sync::Arc<RequestCounts>,
    distrusted: Mutex<Option<String>>,
    last_error: Mutex<Option<String>>,
}

impl Default for ChainHealth {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            last_seen: AtomicU64::new(0),
            last_moved: AtomicU64::new(0),
            height: AtomicU64::new(0),
            time: AtomicU64::new(0),
            target: AtomicU64::new(0),
            views: AtomicU64::new(0),
            reorgs: AtomicU64::new(0),
            deepest_reorg: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            undecodable: AtomicU64::new(0),
            inconsistent: AtomicU64::new(0),
            hints: AtomicU64::new(0),
            requests: std::sync::Arc::default(),
            distrusted: Mutex::new(None),
            last_error: Mutex::new(None),
        }
    }
}

/// Numbers that only ever grow, by name.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident, $count:ident;)*) => {
        impl ChainHealth {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(&self) -> u64 {
                    self.$name.load(Relaxed)
                }
                pub(crate) fn $count(&self) {
                    self.$name.fetch_add(1, Relaxed);
                }
            )*
        }
    };
}

counters! {
    /// Views published.
    views, count_view;
    /// Reorganisations that were followed.
    reorgs, count_reorg;
    /// Times that the state was built again from the deployment block.
    resyncs, count_resync;
    /// Times that a node was given up and connected again, or the next one taken.
    reconnects, count_reconnect;
    /// Looks at the chain that failed, for whatever reason.
    errors, count_error;
    /// Logs of our contracts that could not be decoded.
    undecodable, count_undecodable;
    /// Answers of a node that contradicted each other or the state.
    inconsistent, count_inconsistent;
    /// Notifications of new blocks by WebSocket.
    hints, count_hint;
}

impl ChainHealth {
    /// How long ago the view was last known to be the newest: [`Duration::MAX`] before the first full sync, and while a
    /// node's answers are not trusted (see [`Self::distrusted`]).
    #[must_use]
    pub fn age(&self) -> Duration {
        if self.distrusted().is_some() {
            return Duration::MAX;
        }
        self.last_seen().map_or(Duration::MAX, |seen| seen.elapsed())
    }

    /// When a look at the head last found the view to be the newest state, `None` before the first full sync.
    #[must_use]
    pub fn last_seen(&self) -> Option<Instant> {
        self.instant(self.last_seen.load(Relaxed))
    }

    /// When the head last moved. A chain that makes blocks only for transactions may rest for long.
    #[must_use]
    pub fn last_moved(&self) -> Option<Instant> {
        self.instant(self.last_moved.load(Relaxed))
    }

    fn instant(&self, stored: u64) -> Option<Instant> {
        let millis = stored.checked_sub(1)?;
        self.started.checked_add(Duration::from_millis(millis))
    }

    fn moment(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1).saturating_add(1)
    }

    /// Height of the newest block of the published view.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.height.load(Relaxed)
    }

    /// Time of the newest block of the published view, Unix seconds.
    #[must_use]
    pub fn time(&self) -> u64 {
        self.time.load(Relaxed)
    }

    /// Blocks that the node has and the view has not yet.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.target.load(Relaxed).saturating_sub(self.height())
    }

    /// Blocks that the deepest reorganisation orphaned.
    #[must_use]
    pub fn deepest_reorg(&self) -> u64 {
        self.deepest_reorg.load(Relaxed)
    }

    /// Requests sent to nodes, by method. Nothing that a client sends moves these.
    pub fn requests(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.requests.each()
    }

    /// Requests sent to nodes, in all.
    #[must_use]
    pub fn requests_total(&self) -> u64 {
        self.requests.each().map(|(_, count)| count).sum()
    }

    /// Why the state must not be trusted at this moment: a node has changed its chain or lost the contracts.
    #[must_use]
    pub fn distrusted(&self) -> Option<String> {
        self.distrusted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last error, also of a look that has since succeeded.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn request_counts(&self) -> std::sync::Arc<RequestCounts> {
        self.requests.clone()
    }

    pub(crate) fn seen(&self) {
        self.last_seen.store(self.moment(), Relaxed);
    }

    pub(crate) fn published(&self, height: u64, time: u64) {
        if self.height.swap(height, Relaxed) != height {
            self.last_moved.store(self.moment(), Relaxed);
        }
        self.time.store(time, Relaxed);
        self.count_view();
    }

    pub(crate) fn aim(&self, height: u64) {
        self.target.store(height, Relaxed);
    }

    pub(crate) fn reorganised(&self, depth: u64) {
        self.count_reorg();
        self.deepest_reorg.fetch_max(depth, Relaxed);
    }

    pub(crate) fn failed(&self, error: String) {
        self.count_error();
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(crate) fn distrust(&self, why: Option<String>) {
        *self.distrusted.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_that_was_never_seen_or_is_distrusted_is_infinitely_old() {
        let health = ChainHealth::default();
        assert_eq!(health.age(), Duration::MAX);
        health.seen();
        assert!(health.age() < Duration::from_secs(60));
        health.distrust(Some("chain id changed".into()));
        assert_eq!(health.age(), Duration::MAX);
        health.distrust(None);
        assert!(health.age() < Duration::from_secs(60));
    }
}
