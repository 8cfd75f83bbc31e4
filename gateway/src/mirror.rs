//! What the gateway knows of the chain: one consistent view, swapped as a whole.
//!
//! There is one writer ([`MirrorWriter`]): the follower gives it what the chain says, [`HiddenNames`](crate::hidden_names) what owners
//! have told of hidden names, and it lays the one over the other. Sessions hold the [`Mirror`] and read without waiting. A session
//! that sleeps is woken through [`Mirror::changed`] when something it stands on may have changed. How far the view can
//! be trusted is a question of age, and [`Mirror::fitness`] answers it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};
use flytrap_chain::ChainHealth;
use flytrap_policy::{Concern, Names, Options, Registry, View};
use tokio::sync::watch;

use crate::config::ChainConfig;

/// The view that decisions are taken from.
#[derive(Debug)]
pub struct Mirror {
    view: ArcSwap<View>,
    version: AtomicU64,
    block_time: AtomicU64,
    synced: AtomicBool,
    moved: watch::Sender<u64>,
    /// Set once the follower exists, which needs the mirror first.
    health: OnceLock<Arc<ChainHealth>>,
    ages: Ages,
}

/// How far the mirror can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// Decisions of every kind.
    Fresh,
    /// Sessions go on, new ones are refused (CONNACK 0x88 / 3).
    Stale,
    /// Nothing is published or delivered until it has caught up.
    Distrusted,
    /// No state has been read yet: as [`Fitness::Distrusted`].
    Unsynced,
}

impl Fitness {
    /// Whether a new session may start.
    pub fn admits(self) -> bool {
        self == Self::Fresh
    }

    /// Whether packets of sessions that exist may be judged.
    pub fn decides(self) -> bool {
        matches!(self, Self::Fresh | Self::Stale)
    }

    /// For logs and readiness.
    pub fn word(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Distrusted => "distrusted",
            Self::Unsynced => "unsynced",
        }
    }
}

/// The ages at which trust ends.
#[derive(Debug, Clone, Copy)]
struct Ages {
    stale_after: Duration,
    distrust_after: Duration,
    max_head_age: Option<Duration>,
}

impl Ages {
    /// `unseen`: since the node last answered about its head. `head`: age of that head's own time, where it is known to count.
    fn fitness(self, unseen: Duration, head: Duration) -> Fitness {
        // A node that answers but whose head stands still is as good as one that is silent since the head got too old.
        let stuck = self.max_head_age.map_or(Duration::ZERO, |most| head.saturating_sub(most));
        let age = unseen.max(stuck);
        if age > self.distrust_after {
            Fitness::Distrusted
        } else if age > self.stale_after {
            Fitness::Stale
        } else {
            Fitness::Fresh
        }
    }
}

/// One look at both clocks. A packet needs the time for several things, and each look costs as much as a decision.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For spans of time.
    pub at: Instant,
    unix: u64,
}

impl Moment {
    /// This one.
    pub fn now() -> Self {
        Self { at: Instant::now(), unix: wall_clock() }
    }
}

/// The one handle that changes the mirror.
#[derive(Debug)]
pub struct MirrorWriter {
    mirror: Arc<Mirror>,
    sources: Mutex<Sources>,
}

/// What the mirror's view is made of.
#[derive(Debug, Default)]
struct Sources {
    /// As the chain has it.
    chain: Option<Arc<View>>,
    names: Names,
    /// How often the names have changed: the view's version counts that too.
    changes: u64,
    /// States of the chain and what was made of them: most blocks change neither.
    made: Option<Made>,
    /// The version that is shown, and whom it concerns.
    shown: Option<(u64, Concern)>,
}

#[derive(Debug)]
struct Made {
    of: Arc<View>,
    named: View,
}

impl Sources {
    /// The view that both make together.
    fn joined(&mut self) -> Option<View> {
        let chain = self.chain.as_ref()?;
        let version = chain.version + self.changes;
        if self.names.count() == 0 {
            return Some(View { version, ..View::clone(chain) });
        }
        let is_same = |made: &Made| {
            Arc::ptr_eq(&made.of.head, &chain.head) && Arc::ptr_eq(&made.of.settled, &chain.settled)
        };
        let made = self.made.take().filter(is_same);
        let made = made
            .unwrap_or_else(|| Made { of: chain.clone(), named: chain.with_names(&self.names) });
        let (head, settled) = (made.named.head.clone(), made.named.settled.clone());
        self.made = Some(made);
        Some(View { version, head, settled, ..View::clone(chain) })
    }
}

impl Mirror {
    /// An empty mirror, unsynced until the writer gives it the first view.
    pub fn new(config: &ChainConfig, options: Options) -> (Arc<Self>, MirrorWriter) {
        let nothing = Arc::new(Registry::new(config.broker_id));
        let empty = View {
            settled: nothing.clone(),
            head: nothing,
            height: 0,
            time: 0,
            version: 0,
            concern: Concern::EVERYONE,
            options,
        };
        let mirror = Arc::new(Self {
            view: ArcSwap::from_pointee(empty),
            version: AtomicU64::new(0),
            block_time: AtomicU64::new(0),
            synced: AtomicBool::new(false),
            moved: watch::Sender::new(0),
            health: OnceLock::new(),
            ages: Ages {
                stale_after: config.stale_after,
                distrust_after: config.distrust_after,
                max_head_age: config.max_head_age,
            },
        });
        (mirror.clone(), MirrorWriter { mirror, sources: Mutex::default() })
    }

    /// The newest view, to keep.
    pub fn current(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// The newest view, for a moment: cheaper than [`Mirror::current`], not to be held across an await.
    pub fn peek(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Whether any view was published yet.
    pub fn is_synced(&self) -> bool {
        self.synced.load(Ordering::Acquire)
    }

    /// Version of the newest view: equal as long as nothing that a decision could depend on has changed, but time.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The earlier of newest block and wall clock: a second that is over, whichever of the two is ahead.
    pub fn surely_past(&self) -> u64 {
        self.block_time.load(Ordering::Relaxed).min(wall_clock())
    }

    /// Wakes its holder when the view's version changed, or when block time ran ahead of the wall clock.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// Wakes all that wait for a change, although the chain has none: something else that they stand on does.
    pub fn nudge(&self) {
        self.moved.send_modify(|_| {});
    }

    /// The time that ends are compared with: the later of newest block and wall clock, in Unix seconds.
    pub fn now(&self) -> u64 {
        self.now_at(Moment::now())
    }

    /// [`Mirror::now`] for who has just looked at the clocks.
    pub fn now_at(&self, moment: Moment) -> u64 {
        self.block_time.load(Ordering::Relaxed).max(moment.unix)
    }

    /// From now on trust is a question of what `health` says.
    pub fn trust(&self, health: Arc<ChainHealth>) {
        // Only the first call counts: there is one follower.
        let _ = self.health.set(health);
    }

    /// How far the view can be trusted now.
    pub fn fitness(&self) -> Fitness {
        self.fitness_at(Moment::now())
    }

    /// [`Mirror::fitness`] for who has just looked at the clocks.
    pub fn fitness_at(&self, moment: Moment) -> Fitness {
        let Some(health) = self.health.get().filter(|_| self.synced.load(Ordering::Acquire)) else {
            return Fitness::Unsynced;
        };
        let head = moment.unix.saturating_sub(self.block_time.load(Ordering::Relaxed));
        self.ages.fitness(health.age_at(moment.at.into()), Duration::from_secs(head))
    }
}

impl MirrorWriter {
    /// Makes what the chain says now, as the follower sees it, what decisions are taken from.
    pub fn publish(&self, view: Arc<View>) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.chain = Some(view);
        if let Some(mut view) = sources.joined() {
            // A block that changes nothing has the concern of the version that there is already.
            if let Some((_, concern)) = sources.shown.take_if(|(shown, _)| *shown == view.version) {
                view.concern = concern;
            }
            sources.shown = Some((view.version, view.concern.clone()));
            self.show(view);
        }
    }

    /// Makes these the hidden names that are known. When it returns, no decision is taken without them any more, and all sessions are
    /// told to judge again.
    pub fn know(&self, names: Names) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.names = names;
        sources.made = None;
        sources.changes += 1;
        if let Some(view) = sources.joined() {
            sources.shown = Some((view.version, Concern::EVERYONE));
            self.show(View { concern: Concern::EVERYONE, ..view });
        }
    }

    /// Only ever called with the sources locked.
    fn show(&self, view: View) {
        let mirror = &self.mirror;
        let (version, time) = (view.version, view.time);
        let first = !mirror.synced.load(Ordering::Acquire);
        let moved = first || version != mirror.version();
        mirror.view.store(Arc::new(view));
        mirror.block_time.store(time, Ordering::Relaxed);
        // After the view: whoever sees the new version finds at least the view that belongs to it.
        mirror.version.store(version, Ordering::Release);
        mirror.synced.store(true, Ordering::Release);
        // Time that passes by itself wakes sessions by their own deadlines; time that jumps must be told.
        if moved || time > wall_clock() {
            mirror.moved.send_replace(version);
        }
    }
}

fn wall_clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use alloy_primitives::B256;
    use flytrap_policy::NameEntry;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const AGES: Ages = Ages {
        stale_after: Duration::from_secs(60),
        distrust_after: Duration::from_secs(600),
        max_head_age: None,
    };

    fn view(version: u64, time: u64) -> Arc<View> {
        let nothing = Arc::new(Registry::new(alloy_primitives::U256::ONE));
        let (settled, options) = (nothing.clone(), Options::default());
        Arc::new(View {
            settled,
            head: nothing,
            height: 1,
            time,
            version,
            concern: Concern::EVERYONE,
            options,
        })
    }

    fn mirror() -> (Arc<Mirror>, MirrorWriter) {
        Mirror::new(&ChainConfig::for_tests(), Options::default())
    }

    #[test]
    fn trust_ends_in_two_steps_with_the_time_since_the_node_was_seen() {
        let cases = [
            (Duration::ZERO, Fitness::Fresh),
            (AGES.stale_after, Fitness::Fresh),
            (AGES.stale_after + SECOND, Fitness::Stale),
            (AGES.distrust_after, Fitness::Stale),
            (AGES.distrust_after + SECOND, Fitness::Distrusted),
            (Duration::MAX, Fitness::Distrusted),
        ];
        for (unseen, wanted) in cases {
            assert_eq!(AGES.fitness(unseen, Duration::MAX), wanted, "unseen for {unseen:?}");
        }
    }

    #[test]
    fn a_head_that_stands_still_counts_only_where_an_age_is_configured() {
        let most = Duration::from_secs(90);
        let ages = Ages { max_head_age: Some(most), ..AGES };
        let cases = [
            (most + AGES.stale_after, Fitness::Fresh),
            (most + AGES.stale_after + SECOND, Fitness::Stale),
            (most + AGES.distrust_after + SECOND, Fitness::Distrusted),
        ];
        for (head, wanted) in cases {
            assert_eq!(ages.fitness(Duration::ZERO, head), wanted, "head is {head:?} old");
        }
    }

    #[test]
    fn a_mirror_without_a_view_is_unsynced_and_admits_nobody() {
        let (mirror, _writer) = mirror();
        mirror.trust(Arc::default());
        assert_eq!(mirror.fitness(), Fitness::Unsynced);
        assert!(!mirror.fitness().admits() && !mirror.fitness().decides());
    }

    #[test]
    fn a_synced_mirror_whose_node_was_never_seen_is_distrusted() {
        let (mirror, writer) = mirror();
        mirror.trust(Arc::default());
        writer.publish(view(1, 1));
        assert_eq!(mirror.fitness(), Fitness::Distrusted);
    }

    #[tokio::test]
    async fn sessions_wake_for_a_change_and_sleep_through_empty_blocks() {
        let (mirror, writer) = mirror();
        let mut changed = mirror.changed();
        writer.publish(view(0, 1));
        assert!(changed.has_changed().unwrap(), "the first view");
        changed.mark_unchanged();
        writer.publish(view(0, 2));
        assert!(!changed.has_changed().unwrap(), "an empty block");
        writer.publish(view(1, 3));
        assert!(changed.has_changed().unwrap(), "a change");
        assert_eq!((mirror.version(), mirror.current().version), (1, 1));
    }

    fn told(number: u8) -> Names {
        let entry = NameEntry { epoch: 1, at: 1, name: Some("p/x".into()) };
        [(B256::repeat_byte(number), entry)].into_iter().collect()
    }

    #[tokio::test]
    async fn names_are_in_force_at_once_and_concern_everyone_until_something_else_changes() {
        let nobody = |version, time| {
            Arc::new(View { concern: Concern::NOBODY, ..View::clone(&view(version, time)) })
        };
        let (mirror, writer) = mirror();
        writer.know(told(1));
        assert!(!mirror.is_synced(), "names alone are no view");
        writer.publish(nobody(4, 1));
        let mut changed = mirror.changed();
        assert_eq!((mirror.version(), mirror.current().version), (5, 5));
        changed.mark_unchanged();
        writer.know(told(2));
        assert!(changed.has_changed().unwrap());
        let seen = mirror.current();
        assert_eq!((mirror.version(), seen.version), (6, 6));
        assert_eq!((&seen.concern, seen.height), (&Concern::EVERYONE, 1));
        // Who has not seen that yet must see it in the next block as well.
        writer.publish(nobody(4, 2));
        let next = mirror.current();
        assert_eq!((next.version, next.time, &next.concern), (6, 2, &Concern::EVERYONE));
        writer.publish(nobody(5, 3));
        let last = mirror.current();
        assert_eq!((last.version, &last.concern), (7, &Concern::NOBODY));
        writer.know(Names::default());
        assert_eq!(mirror.version(), 8);
    }

    #[tokio::test]
    async fn block_time_ahead_of_the_clock_is_the_time_and_wakes_sessions() {
        let (mirror, writer) = mirror();
        let ahead = wall_clock() + 10_000;
        writer.publish(view(0, 1));
        assert!(mirror.now() < ahead);
        let changed = mirror.changed();
        writer.publish(view(0, ahead));
        assert_eq!(mirror.now(), ahead);
        assert!(changed.has_changed().unwrap());
    }
}
