//! How well the chain is being followed: numbers that any task reads without waiting.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use flytrap_policy::View;
use tokio::time::Instant;
use url::Url;

use crate::rpc::{RequestCounts, shown};

/// A follower that has not got on for so long is taken for dead: every wait of its own is shorter.
pub(crate) const FROZEN: Duration = Duration::from_secs(120);
/// By then it has been ended and started again, if that is possible.
const STUCK: Duration = Duration::from_secs(180);

/// Shared by the follower, which writes, and everyone who asks.
#[derive(Debug)]
pub struct ChainHealth {
    started: Instant,
    /// Milliseconds since `started`, plus one; 0 is never.
    last_seen: AtomicU64,
    last_moved: AtomicU64,
    height: AtomicU64,
    settled_height: AtomicU64,
    time: AtomicU64,
    target: AtomicU64,
    views: AtomicU64,
    reorgs: AtomicU64,
    last_reorg: AtomicU64,
    deepest_reorg: AtomicU64,
    resyncs: AtomicU64,
    reconnects: AtomicU64,
    errors: AtomicU64,
    undecodable: AtomicU64,
    inconsistent: AtomicU64,
    disagreements: AtomicU64,
    hints: AtomicU64,
    /// Milliseconds since `started` at which the follower last got on; 0 while it does not run.
    beat: AtomicU64,
    starts: AtomicU64,
    version: AtomicU64,
    snapshots_written: AtomicU64,
    snapshots_failed: AtomicU64,
    snapshots_refused: AtomicU64,
    snapshot_height: AtomicU64,
    requests: Arc<RequestCounts>,
    nodes: Vec<NodeHealth>,
    distrusted: Mutex<Option<String>>,
    /// Whether there is such a reason: this is asked with every packet.
    is_distrusted: AtomicBool,
    last_error: Mutex<Option<String>>,
}

/// One node, as the follower has found it.
#[derive(Debug)]
pub struct NodeHealth {
    label: String,
    errors: AtomicU64,
    height: AtomicU64,
    in_use: AtomicU64,
}

impl NodeHealth {
    /// Scheme, host and port; a number behind it where two nodes would look the same.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What went wrong with it so far.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Height of its head when it last told.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.height.load(Relaxed)
    }

    /// Is it the one that is followed?
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.in_use.load(Relaxed) != 0
    }
}

impl Default for ChainHealth {
    fn default() -> Self {
        Self::of(&[])
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
    /// Answers of a node that contradicted each other, their own proof, or the state.
    inconsistent, count_inconsistent;
    /// Times that no node agreed with the followed one on a settled block, and one contradicted it.
    disagreements, count_disagreement;
    /// Notifications of new blocks by WebSocket or Unix socket.
    hints, count_hint;
    /// Times that the follower began: more than one means that it ended by a fault.
    starts, count_start;
    /// Snapshots that are on disk whole.
    snapshots_written, count_snapshot_written;
    /// Snapshots that could not be written.
    snapshots_failed, count_snapshot_failed;
    /// Snapshots that were found and not used.
    snapshots_refused, count_snapshot_refused;
}

impl ChainHealth {
    /// Nothing has been seen yet of these nodes.
    pub(crate) fn of(urls: &[Url]) -> Self {
        let nodes = urls.iter().enumerate().map(|(at, url)| {
            let label = shown(url);
            let earlier = urls[..at].iter().filter(|other| shown(other) == label).count();
            let label = if earlier == 0 { label } else { format!("{label}#{}", earlier + 1) };
            NodeHealth {
                label,
                errors: AtomicU64::new(0),
                height: AtomicU64::new(0),
                in_use: AtomicU64::new(0),
            }
        });
        Self {
            started: Instant::now(),
            last_seen: AtomicU64::new(0),
            last_moved: AtomicU64::new(0),
            height: AtomicU64::new(0),
            settled_height: AtomicU64::new(0),
            time: AtomicU64::new(0),
            target: AtomicU64::new(0),
            views: AtomicU64::new(0),
            reorgs: AtomicU64::new(0),
            last_reorg: AtomicU64::new(0),
            deepest_reorg: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            undecodable: AtomicU64::new(0),
            inconsistent: AtomicU64::new(0),
            disagreements: AtomicU64::new(0),
            hints: AtomicU64::new(0),
            beat: AtomicU64::new(0),
            starts: AtomicU64::new(0),
            version: AtomicU64::new(0),
            snapshots_written: AtomicU64::new(0),
            snapshots_failed: AtomicU64::new(0),
            snapshots_refused: AtomicU64::new(0),
            snapshot_height: AtomicU64::new(0),
            requests: Arc::default(),
            nodes: nodes.collect(),
            distrusted: Mutex::new(None),
            is_distrusted: AtomicBool::new(false),
            last_error: Mutex::new(None),
        }
    }

    /// How long ago the view was last known to be the newest: [`Duration::MAX`] before the first full sync, and while a
    /// node's answers are not trusted (see [`Self::distrusted`]).
    #[must_use]
    pub fn age(&self) -> Duration {
        self.age_at(Instant::now())
    }

    /// [`Self::age`] for who has just looked at the clock.
    #[must_use]
    pub fn age_at(&self, now: Instant) -> Duration {
        if self.is_distrusted.load(Acquire) {
            return Duration::MAX;
        }
        self.last_seen().map_or(Duration::MAX, |seen| now.saturating_duration_since(seen))
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

    /// Version of the published view, 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// Does the follower run? Not before it begins, and not between a fault of its own and its next start.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.beat.load(Relaxed) != 0
    }

    /// Does it stand still and cannot even be ended, as with a thread that does not come back? Only a new process helps.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.is_running() && self.stood_still() > STUCK
    }

    /// Height of the block up to which permissions count.
    #[must_use]
    pub fn settled_height(&self) -> u64 {
        self.settled_height.load(Relaxed)
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

    /// Blocks that the last reorganisation orphaned.
    #[must_use]
    pub fn last_reorg(&self) -> u64 {
        self.last_reorg.load(Relaxed)
    }

    /// Blocks that the deepest reorganisation orphaned.
    #[must_use]
    pub fn deepest_reorg(&self) -> u64 {
        self.deepest_reorg.load(Relaxed)
    }

    /// Height of the block of the last snapshot that was written or resumed from, 0 if none was.
    #[must_use]
    pub fn snapshot_height(&self) -> u64 {
        self.snapshot_height.load(Relaxed)
    }

    /// The nodes in the order of preference.
    #[must_use]
    pub fn nodes(&self) -> &[NodeHealth] {
        &self.nodes
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

    /// Why the state must not be trusted at this moment: a node has changed its chain or lost the contracts, or two disagree.
    #[must_use]
    pub fn distrusted(&self) -> Option<String> {
        self.distrusted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What an operator has to look into although the mirror may be fresh again.
    #[must_use]
    pub fn alarm(&self) -> Option<String> {
        if let Some(why) = self.distrusted() {
            return Some(format!("the chain is not trusted: {why}"));
        }
        let faults: Vec<String> = [
            (self.disagreements(), "disagreements of nodes"),
            (self.undecodable(), "logs that cannot be decoded"),
            (self.resyncs(), "resyncs"),
            (self.starts().saturating_sub(1), "restarts of the follower"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        (!faults.is_empty())
            .then(|| format!("since the start: {}; the log says when and why", faults.join(", ")))
    }

    /// The last error, also of a look that has since succeeded.
    #[must_use]
    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn request_counts(&self) -> Arc<RequestCounts> {
        self.requests.clone()
    }

    pub(crate) fn seen(&self) {
        self.last_seen.store(self.moment(), Relaxed);
    }

    pub(crate) fn published(&self, view: &View, settled: u64) {
        if self.height.swap(view.height, Relaxed) != view.height {
            self.last_moved.store(self.moment(), Relaxed);
        }
        self.time.store(view.time, Relaxed);
        self.version.store(view.version, Relaxed);
        self.settled_height.store(settled, Relaxed);
        self.count_view();
    }

    pub(crate) fn start(&self) {
        self.beat();
        self.count_start();
    }

    pub(crate) fn beat(&self) {
        self.beat.store(self.moment(), Relaxed);
    }

    /// For how long it has not got on.
    pub(crate) fn stood_still(&self) -> Duration {
        let still = self.moment().saturating_sub(self.beat.load(Relaxed));
        Duration::from_millis(still)
    }

    pub(crate) fn fell(&self, fault: &str) {
        self.beat.store(0, Relaxed);
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault.to_owned());
    }

    /// No second node has confirmed what the first one says.
    pub(crate) fn unwitnessed(&self, why: &str) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(format!("no second node agrees: {why}"));
    }

    pub(crate) fn aim(&self, node: usize, height: u64) {
        self.target.store(height, Relaxed);
        self.head_of(node, height);
    }

    pub(crate) fn head_of(&self, node: usize, height: u64) {
        if let Some(node) = self.nodes.get(node) {
            node.height.store(height, Relaxed);
        }
    }

    pub(crate) fn use_node(&self, used: Option<usize>) {
        for (at, node) in self.nodes.iter().enumerate() {
            node.in_use.store(u64::from(Some(at) == used), Relaxed);
        }
    }

    pub(crate) fn reorganised(&self, depth: u64) {
        self.count_reorg();
        self.last_reorg.store(depth, Relaxed);
        self.deepest_reorg.fetch_max(depth, Relaxed);
    }

    pub(crate) fn snapshot_at(&self, height: u64) {
        self.snapshot_height.store(height, Relaxed);
    }

    pub(crate) fn failed(&self, node: usize, error: String) {
        self.count_error();
        if let Some(node) = self.nodes.get(node) {
            node.errors.fetch_add(1, Relaxed);
        }
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    pub(crate) fn distrust(&self, why: Option<String>) {
        let mut distrusted = self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_distrusted.store(why.is_some(), Release);
        *distrusted = why;
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

    #[tokio::test(start_paused = true)]
    async fn only_a_follower_that_runs_can_be_stuck() {
        let health = ChainHealth::default();
        tokio::time::advance(STUCK * 2).await;
        assert!(!health.is_stuck(), "it has not begun");
        health.start();
        tokio::time::advance(STUCK).await;
        assert!(!health.is_stuck());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(health.is_stuck());
        health.beat();
        assert!(!health.is_stuck());
        tokio::time::advance(STUCK * 2).await;
        health.fell("a fault");
        assert!(!health.is_stuck(), "it ended, and is started again");
    }

    #[test]
    fn nodes_that_look_the_same_are_told_apart_and_show_no_key() {
        let urls = ["https://a.example/k1", "https://a.example/k2", "ws://b:1"]
            .map(|url| Url::parse(url).unwrap());
        let health = ChainHealth::of(&urls);
        let labels: Vec<_> = health.nodes().iter().map(NodeHealth::label).collect();
        assert_eq!(labels, ["https://a.example:443", "https://a.example:443#2", "ws://b:1"]);
        health.failed(1, "x".to_owned());
        health.use_node(Some(2));
        let told = |at: usize| (health.nodes()[at].errors(), health.nodes()[at].is_in_use());
        assert_eq!([told(0), told(1), told(2)], [(0, false), (1, false), (0, true)]);
    }
}
