//! Which happenings become alerts on chain, folded so that no one can make them dear.

use std::collections::{BTreeMap, BTreeSet};

use alloy_primitives::{Address, B256};

use crate::AlertKind;

/// Many equal happenings folded into one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// What happened.
    pub kind: AlertKind,
    /// Who did it, proven.
    pub wallet: Address,
    /// The governing topic, zero where none governs.
    pub topic_id: B256,
    /// How many times.
    pub count: u32,
    /// Unix second of the first.
    pub first_at: u64,
    /// Unix second of the last.
    pub last_at: u64,
}

/// How happenings are folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoldLimit {
    /// The most alerts that wait at a time.
    pub keys: usize,
    /// The most of them that are about one wallet, so that none can fill all places.
    pub per_wallet: usize,
    /// Seconds that an alert gathers happenings before it is handed out.
    pub gather: u64,
}

impl Default for FoldLimit {
    fn default() -> Self {
        Self { keys: 4_096, per_wallet: 64, gather: 10 }
    }
}

/// Folds happenings by wallet, kind and topic until they are drained.
///
/// Bounded: a happening that finds no place is counted in [`AlertFolder::overflowed`] and otherwise lost to the
/// chain; whoever notes it here has logged it before.
#[derive(Debug)]
pub struct AlertFolder {
    limit: FoldLimit,
    open: BTreeMap<Key, Alert>,
    /// The same keys, the longest open first.
    by_age: BTreeSet<(u64, Key)>,
    overflowed: u64,
}

type Key = (Address, AlertKind, B256);

impl AlertFolder {
    /// An empty folder.
    #[must_use]
    pub const fn new(limit: FoldLimit) -> Self {
        Self { limit, open: BTreeMap::new(), by_age: BTreeSet::new(), overflowed: 0 }
    }

    /// Notes one happening at a Unix second.
    pub fn note(&mut self, kind: AlertKind, wallet: Address, topic_id: B256, at: u64) {
        self.note_many(kind, wallet, topic_id, 1, at);
    }

    /// Notes equal happenings that were counted elsewhere, the last of them at a Unix second.
    pub fn note_many(
        &mut self,
        kind: AlertKind,
        wallet: Address,
        topic_id: B256,
        count: u32,
        at: u64,
    ) {
        let key = (wallet, kind, topic_id);
        if count == 0 {
            return;
        }
        if let Some(alert) = self.open.get_mut(&key) {
            alert.count = alert.count.saturating_add(count);
            alert.last_at = alert.last_at.max(at);
            return;
        }
        let first = (wallet, AlertKind::PublishRefused, B256::ZERO);
        let last = (wallet, AlertKind::SessionEnded, B256::repeat_byte(0xFF));
        let of_wallet = self.open.range(first..=last).take(self.limit.per_wallet).count();
        if self.open.len() >= self.limit.keys || of_wallet >= self.limit.per_wallet {
            self.overflowed += u64::from(count);
            return;
        }
        let alert = Alert { kind, wallet, topic_id, count, first_at: at, last_at: at };
        self.open.insert(key, alert);
        self.by_age.insert((at, key));
    }

    /// Takes out what has gathered long enough, the oldest first, at most `most`.
    pub fn drain(&mut self, now: u64, most: usize) -> Vec<Alert> {
        let mut drained = Vec::new();
        while drained.len() < most
            && let Some(&(first_at, key)) = self.by_age.first()
            && first_at.saturating_add(self.limit.gather) <= now
        {
            self.by_age.pop_first();
            drained.extend(self.open.remove(&key));
        }
        drained
    }

    /// How many alerts wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Does none wait?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Happenings that found no place, in all.
    #[must_use]
    pub const fn overflowed(&self) -> u64 {
        self.overflowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: FoldLimit = FoldLimit { keys: 8, per_wallet: 3, gather: 10 };
    const REFUSED: AlertKind = AlertKind::PublishRefused;

    fn wallet(number: u8) -> Address {
        Address::repeat_byte(number)
    }

    fn topic(number: u8) -> B256 {
        B256::repeat_byte(number)
    }

    #[test]
    fn equal_happenings_become_one_alert_with_count_and_span() {
        let mut folder = AlertFolder::new(LIMIT);
        for at in [100, 105, 103] {
            folder.note(REFUSED, wallet(1), topic(1), at);
        }
        folder.note(AlertKind::SubscribeRefused, wallet(1), topic(1), 104);
        folder.note(REFUSED, wallet(1), topic(2), 104);
        let alerts = folder.drain(1_000, 10);
        let first = Alert {
            kind: REFUSED,
            wallet: wallet(1),
            topic_id: topic(1),
            count: 3,
            first_at: 100,
            last_at: 105,
        };
        assert_eq!(alerts[0], first);
        assert_eq!(alerts.len(), 3);
        assert!(folder.is_empty());
    }

    #[test]
    fn happenings_counted_elsewhere_are_added_as_many() {
        let mut folder = AlertFolder::new(LIMIT);
        folder.note_many(REFUSED, wallet(1), topic(1), 0, 100);
        assert!(folder.is_empty(), "none is no alert");
        folder.note_many(REFUSED, wallet(1), topic(1), 40, 100);
        folder.note(REFUSED, wallet(1), topic(1), 101);
        assert_eq!(folder.drain(1_000, 10)[0].count, 41);
    }

    #[test]
    fn an_alert_gathers_before_it_is_drained() {
        let mut folder = AlertFolder::new(LIMIT);
        folder.note(REFUSED, wallet(1), topic(1), 100);
        assert_eq!(folder.drain(109, 10), []);
        assert_eq!(folder.drain(110, 10).len(), 1);
        assert_eq!(folder.drain(110, 10), []);
    }

    #[test]
    fn draining_takes_the_oldest_first_and_no_more_than_asked_for() {
        let mut folder = AlertFolder::new(LIMIT);
        for (number, at) in [(1, 30), (2, 10), (3, 20)] {
            folder.note(REFUSED, wallet(number), topic(1), at);
        }
        let first_at =
            |alerts: Vec<Alert>| alerts.iter().map(|alert| alert.first_at).collect::<Vec<_>>();
        assert_eq!(folder.drain(1_000, 0), []);
        assert_eq!(first_at(folder.drain(1_000, 2)), [10, 20]);
        assert_eq!(first_at(folder.drain(1_000, 2)), [30]);
    }

    #[test]
    fn neither_one_wallet_nor_many_can_fill_more_than_the_limit() {
        let mut folder = AlertFolder::new(LIMIT);
        for number in 0..10 {
            folder.note(REFUSED, wallet(1), topic(number), 1);
        }
        assert_eq!((folder.len(), folder.overflowed()), (3, 7));
        for number in 2..20 {
            folder.note(REFUSED, wallet(number), topic(1), 1);
        }
        assert_eq!((folder.len(), folder.overflowed()), (8, 7 + 13));
        // What is open already is folded on.
        folder.note(REFUSED, wallet(1), topic(0), 2);
        assert_eq!(folder.overflowed(), 20);
        assert_eq!(folder.drain(1_000, 1)[0].count, 2);
        folder.note(REFUSED, wallet(1), topic(9), 2);
        assert_eq!((folder.len(), folder.overflowed()), (8, 20));
    }

    #[test]
    fn counts_and_times_do_not_wrap() {
        let mut folder = AlertFolder::new(FoldLimit { gather: u64::MAX, ..LIMIT });
        folder.note(REFUSED, wallet(1), topic(1), u64::MAX - 1);
        if let Some(alert) = folder.open.values_mut().next() {
            alert.count = u32::MAX;
        }
        folder.note(REFUSED, wallet(1), topic(1), u64::MAX);
        let alerts = folder.drain(u64::MAX, 1);
        assert_eq!((alerts[0].count, alerts[0].last_at), (u32::MAX, u64::MAX));
    }
}
