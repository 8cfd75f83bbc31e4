//! How often one key did something lately: exact in number, a tenth of the window in time, bounded in memory.

use std::collections::HashMap;

use alloy_primitives::B256;

use super::Excess;

/// Parts of a window; one more is kept, for the one that the window begins in.
const PARTS: u64 = 10;
const KEPT: usize = 11;
/// Keys of one rule that are remembered, some 140 octets each.
const TRACKED: usize = 16_384;

/// What one rule has counted, by key.
#[derive(Debug)]
pub(super) struct Windows {
    excess: Excess,
    /// Seconds of one part.
    part: u64,
    accounts: HashMap<B256, Account>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    /// Number of the newest part, which is in place `newest % KEPT`.
    newest: u64,
    counts: [u64; KEPT],
}

impl Windows {
    pub(super) fn new(excess: Excess) -> Self {
        let part = excess.within.div_ceil(PARTS).max(1);
        Self { excess, part, accounts: HashMap::new() }
    }

    /// Counts and answers whether there are too many now: always if there were in the window, never if there were not in one that is a
    /// tenth longer. Times may step back a little, as they do between sessions.
    pub(super) fn exceeds(&mut self, who: B256, count: u64, at: u64) -> bool {
        let now = at / self.part;
        if self.accounts.len() >= TRACKED && !self.accounts.contains_key(&who) {
            self.make_room(now);
        }
        let account = self.accounts.entry(who).or_default();
        account.add(now, count);
        // The part in which the second lies that has just left the window is still counted, since only some of it has left.
        let first = (at + 1).saturating_sub(self.excess.within) / self.part;
        account.since(first) > self.excess.more_than
    }

    /// Forgets whose last is out of the window and, if that is not enough, the half with the least: whoever could push others out by
    /// using many keys would wash one with the next.
    fn make_room(&mut self, now: u64) {
        self.accounts.retain(|_, account| account.newest + PARTS >= now);
        if self.accounts.len() < TRACKED {
            return;
        }
        let total =
            |account: &Account| account.counts.iter().fold(0_u64, |a, b| a.saturating_add(*b));
        let mut totals: Vec<(u64, B256)> =
            self.accounts.iter().map(|(who, account)| (total(account), *who)).collect();
        let half = totals.len() / 2;
        totals.select_nth_unstable(half);
        for (_, who) in &totals[..half] {
            self.accounts.remove(who);
        }
    }
}

impl Account {
    fn place(part: u64) -> usize {
        usize::try_from(part % KEPT as u64).unwrap_or_default()
    }

    fn add(&mut self, part: u64, count: u64) {
        if part > self.newest {
            let passed = (part - self.newest).min(KEPT as u64);
            for n in 0..passed {
                self.counts[Self::place(part - n)] = 0;
            }
            self.newest = part;
        }
        // What comes late counts where it belongs, and what is later than all is out of every window.
        if self.newest - part < KEPT as u64 {
            let place = &mut self.counts[Self::place(part)];
            *place = place.saturating_add(count);
        }
    }

    fn since(&self, first: u64) -> u64 {
        let oldest = self.newest.saturating_sub(KEPT as u64 - 1).max(first);
        (oldest..=self.newest)
            .fold(0, |sum, part| sum.saturating_add(self.counts[Self::place(part)]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn who(n: u64) -> B256 {
        B256::left_padding_from(&n.to_be_bytes())
    }

    proptest! {
        /// Against adding up everything that ever was.
        #[test]
        fn too_many_in_the_window_are_always_found_and_few_in_a_longer_one_never(
            within in 1_u64..200,
            more_than in 0_u64..20,
            steps in prop::collection::vec((0_u64..40, 1_u64..5, 0_u64..2), 1..120),
        ) {
            let mut windows = Windows::new(Excess { more_than, within });
            let (mut at, mut all) = (1_000, Vec::new());
            for (step, count, key) in steps {
                at += step;
                all.push((key, at, count));
                let found = windows.exceeds(who(key), count, at);
                let sum = |seconds: u64| -> u64 {
                    let is_in = |e: &&(u64, u64, u64)| e.0 == key && e.1 + seconds > at;
                    all.iter().filter(is_in).map(|e| e.2).sum()
                };
                prop_assert!(found || sum(within) <= more_than, "missed at {at}");
                let longer = within + within.div_ceil(10) - 1;
                prop_assert!(!found || sum(longer) > more_than, "made up at {at}");
            }
        }
    }

    #[test]
    fn the_last_that_is_borne_and_the_first_that_is_not() {
        let mut windows = Windows::new(Excess { more_than: 3, within: 10 });
        assert!(!windows.exceeds(who(1), 3, 100));
        assert!(!windows.exceeds(who(2), 3, 100), "counted by key");
        assert!(windows.exceeds(who(1), 1, 109));
        assert!(!windows.exceeds(who(2), 1, 110));
    }

    #[test]
    fn what_comes_late_counts_and_what_comes_far_too_late_does_not() {
        let mut windows = Windows::new(Excess { more_than: 3, within: 10 });
        windows.exceeds(who(1), 2, 100);
        assert!(windows.exceeds(who(1), 2, 95));
        assert!(!windows.exceeds(who(2), 2, 1_000_000));
        assert!(!windows.exceeds(who(2), 9, 3), "it is in no window of now");
    }

    #[test]
    fn however_many_keys_come_the_busiest_are_remembered_and_the_table_is_bounded() {
        let mut windows = Windows::new(Excess { more_than: 5, within: 10 });
        windows.exceeds(who(0), 5, 100);
        for n in 1..3 * TRACKED as u64 {
            windows.exceeds(who(n), 1, 100);
        }
        assert!(windows.accounts.len() <= TRACKED);
        assert!(windows.exceeds(who(0), 1, 101));
        for n in 0..2 * TRACKED as u64 {
            windows.exceeds(who(n + 1_000_000), 1, 1_000);
        }
        assert!(!windows.exceeds(who(0), 1, 1_000), "what is over is forgotten");
    }

    #[test]
    fn counts_and_times_do_not_wrap() {
        let mut windows = Windows::new(Excess { more_than: u64::MAX - 1, within: u64::MAX });
        assert!(!windows.exceeds(who(1), u64::MAX - 1, u64::MAX - 1));
        assert!(windows.exceeds(who(1), u64::MAX, u64::MAX - 1));
    }
}
