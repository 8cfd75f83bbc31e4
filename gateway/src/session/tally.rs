//! What went through on sensitive topics, and on all where an audit rule asks for it, counted exactly until it is handed to the record.

use std::time::Duration;

use alloy_primitives::B256;
use flytrap_policy::{Basis, Permit, Right};

use super::machine::Clock;

/// Messages of one session on one topic in one direction, since the last time they were handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Published by the client, or delivered to it.
    pub right: Right,
    /// On what their permits stood.
    pub basis: Basis,
    /// The governing topic; zero where none governs.
    pub topic_id: B256,
    /// Was it marked as sensitive?
    pub sensitive: bool,
    /// Its epoch.
    pub epoch: u64,
    /// How many messages.
    pub count: u64,
    /// Octets of their payloads.
    pub octets: u64,
    /// Unix second of the first.
    pub first_at: u64,
    /// Unix second of the last.
    pub last_at: u64,
    /// Height of the newest block that the last permit was read at.
    pub height: u64,
    /// The topic name, if all of them had the same; of one below a hidden name only what follows that.
    pub name: Option<Box<[u8]>>,
}

/// What a permit was spent on.
#[derive(Debug, Clone, Copy, Default)]
#[must_use = "tallies may have to be handed over soon"]
pub(super) struct Spent {
    is_counted: bool,
    is_soon: bool,
}

impl Spent {
    pub(super) fn counted(is_soon: bool) -> Self {
        Self { is_counted: true, is_soon }
    }

    /// Whether it is in a tally.
    pub(super) fn is_counted(self) -> bool {
        self.is_counted
    }

    /// Whether the tallies are to be handed over soon although they were not before.
    pub(super) fn is_soon(self) -> bool {
        self.is_soon
    }
}

/// All tallies of one session. Empty, and without memory of its own, for as long as no topic is sensitive.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    open: Vec<Tally>,
    since: Duration,
    /// Whether what went through on other topics is counted too, because some audit rule asks for it.
    pub(super) plain_too: bool,
    /// Whether each message on a sensitive topic stands for itself.
    pub(super) each: bool,
}

/// Tallies past which they are handed over before their time. Each topic among them is one that the principal has a right on.
const MANY: usize = 256;

impl Tallies {
    /// Spends a permit: the message goes on, and is counted if its topic is sensitive or all are counted.
    #[inline]
    pub(super) fn spend(
        &mut self,
        permit: Permit,
        name: &[u8],
        payload: usize,
        clock: Clock,
    ) -> Spent {
        if permit.is_sensitive() || self.plain_too {
            Spent::counted(self.add(&permit, name, payload, clock))
        } else {
            Spent::default()
        }
    }

    #[cold]
    fn add(&mut self, permit: &Permit, name: &[u8], payload: usize, clock: Clock) -> bool {
        let (topic_id, epoch) =
            (permit.topic_id().unwrap_or_default(), permit.epoch().unwrap_or_default());
        let key = (permit.right(), permit.basis(), topic_id, epoch, permit.is_sensitive());
        let octets = u64::try_from(payload).unwrap_or(u64::MAX);
        // The owner of a hidden name may have it erased, and what is sealed about whoever used it cannot be.
        let name = name.get(permit.veiled()..).unwrap_or_default();
        let same = |t: &&mut Tally| (t.right, t.basis, t.topic_id, t.epoch, t.sensitive) == key;
        let stands_alone = self.each && permit.is_sensitive();
        if let Some(tally) = self.open.iter_mut().find(same).filter(|_| !stands_alone) {
            tally.count += 1;
            tally.octets = tally.octets.saturating_add(octets);
            tally.last_at = tally.last_at.max(clock.now);
            tally.height = tally.height.max(permit.height());
            if tally.name.as_deref().is_some_and(|held| held != name) {
                tally.name = None;
            }
            return false;
        }
        if self.open.is_empty() {
            self.since = clock.elapsed;
        }
        self.open.push(Tally {
            right: permit.right(),
            basis: permit.basis(),
            topic_id,
            sensitive: permit.is_sensitive(),
            epoch,
            count: 1,
            octets,
            first_at: clock.now,
            last_at: clock.now,
            height: permit.height(),
            name: Some(name.into()),
        });
        self.open.len() == 1 || self.open.len() == MANY
    }

    /// When they are due: at once if there are many or each stands for itself, an `interval` after the first otherwise. On the clock of [`Clock::elapsed`].
    #[must_use]
    pub(super) fn due(&self, interval: Duration) -> Option<Duration> {
        match self.open.len() {
            0 => None,
            MANY.. => Some(Duration::ZERO),
            _ if self.each && self.open.iter().any(|tally| tally.sensitive) => Some(Duration::ZERO),
            _ => Some(self.since.saturating_add(interval)),
        }
    }

    /// Takes them out.
    pub(super) fn take(&mut self) -> Vec<Tally> {
        std::mem::take(&mut self.open)
    }
}
