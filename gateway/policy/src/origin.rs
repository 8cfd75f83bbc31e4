//! Network origins, and how many failures in a row they may have.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use alloy_primitives::{B256, Keccak256};

/// Where a connection comes from, as far as bans tell origins apart: one IPv4 address, or one IPv6 /64, since that is
/// what one customer gets. An IPv4 address mapped into IPv6 is the IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address.
    V6([u8; 8]),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::V4(octets) => IpAddr::from(octets).fmt(f),
            Self::V6([a, b, c, d, e, g, h, i]) => {
                write!(f, "{}/64", Ipv6Addr::from([a, b, c, d, e, g, h, i, 0, 0, 0, 0, 0, 0, 0, 0]))
            }
        }
    }
}

impl Origin {
    /// The name under which the gateways of one broker share bans: only who has their secret can tell whose it is.
    ///
    /// `keccak256(secret | "FlyTrap origin" | origin)`, the origin in 4 or 8 octets.
    #[must_use]
    pub fn pseudonym(&self, secret: &[u8; 32]) -> B256 {
        let mut hasher = Keccak256::new();
        hasher.update(secret);
        hasher.update("FlyTrap origin");
        match self {
            Self::V4(octets) => hasher.update(octets),
            Self::V6(octets) => hasher.update(octets),
        }
        hasher.finalize()
    }
}

/// When an origin is banned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BanLimit {
    /// Failures in a row that are still borne; the next one bans.
    pub failures: u32,
    /// How long a ban lasts.
    pub duration: Duration,
    /// The most origins that are remembered, at about 200 octets each.
    pub tracked: usize,
}

impl Default for BanLimit {
    fn default() -> Self {
        Self { failures: 5, duration: Duration::from_secs(600), tracked: 65_536 }
    }
}

/// Counts consecutive failed authentications per origin, and bans.
///
/// Only a success makes a count start anew. Time does not, and neither does a ban that has ended: the next failure
/// after it bans at once, so that one attempt after every window gains nothing over one attempt per ban.
///
/// Bounded: when it is full, the origin whose last failure is the longest ago is forgotten, but never one that is
/// banned. When all are banned, failures of further origins are only counted.
#[derive(Debug)]
pub struct BanLedger {
    limit: BanLimit,
    origins: BTreeMap<Origin, Record>,
    /// Those that are not banned, the longest idle first.
    idle: BTreeSet<(u64, Origin)>,
    /// Those that are banned, the first to be free first.
    banned: BTreeSet<(Instant, Origin)>,
    /// Grows with each failure, and orders `idle`.
    turn: u64,
    untracked: u64,
}

#[derive(Debug, Clone, Copy)]
struct Record {
    failures: u32,
    turn: u64,
    banned_until: Option<Instant>,
}

impl BanLedger {
    /// An empty ledger.
    #[must_use]
    pub const fn new(limit: BanLimit) -> Self {
        Self {
            limit,
            origins: BTreeMap::new(),
            idle: BTreeSet::new(),
            banned: BTreeSet::new(),
            turn: 0,
            untracked: 0,
        }
    }

    /// Counts a failure; answers the end of the ban if it was this very failure that began it.
    ///
    /// Failures of a banned origin, such as of attempts that were under way when the ban began, change nothing.
    pub fn record_failure(&mut self, origin: Origin, now: Instant) -> Option<Instant> {
        self.end_bans(now);
        let known = self.origins.get(&origin).copied();
        if known.is_none() && self.origins.len() >= self.limit.tracked && !self.forget_one() {
            self.untracked += 1;
            return None;
        }
        let mut record = known.unwrap_or(Record { failures: 0, turn: 0, banned_until: None });
        if record.banned_until.is_some() {
            return None;
        }
        self.idle.remove(&(record.turn, origin));
        self.turn += 1;
        record.turn = self.turn;
        record.failures = record.failures.saturating_add(1);
        if record.failures > self.limit.failures {
            record.banned_until = now.checked_add(self.limit.duration);
        }
        match record.banned_until {
            Some(until) => self.banned.insert((until, origin)),
            None => self.idle.insert((record.turn, origin)),
        };
        self.origins.insert(origin, record);
        record.banned_until
    }

    /// A success: the count starts anew. A ban that is under way goes on: where a proof is let through a ban, it
    /// speaks for who made it and not for the others behind the same address.
    pub fn record_success(&mut self, origin: Origin) {
        match self.origins.get_mut(&origin) {
            Some(record) if record.banned_until.is_some() => record.failures = 0,
            Some(record) => {
                self.idle.remove(&(record.turn, origin));
                self.origins.remove(&origin);
            }
            None => (),
        }
    }

    /// A ban that began before this ledger did. As after any ban, the next failure once it has ended bans again. False if there is no
    /// place for it.
    pub fn restore(&mut self, origin: Origin, until: Instant, now: Instant) -> bool {
        self.end_bans(now);
        self.lift(origin);
        if self.origins.len() >= self.limit.tracked && !self.forget_one() {
            return false;
        }
        self.turn += 1;
        let failures = self.limit.failures.saturating_add(1);
        let record = Record { failures, turn: self.turn, banned_until: Some(until) };
        self.banned.insert((until, origin));
        self.origins.insert(origin, record);
        true
    }

    /// Someone who may has lifted the origin's ban: it ends, and the count starts anew.
    pub fn lift(&mut self, origin: Origin) {
        if let Some(record) = self.origins.remove(&origin) {
            self.idle.remove(&(record.turn, origin));
            if let Some(until) = record.banned_until {
                self.banned.remove(&(until, origin));
            }
        }
    }

    /// Is the origin banned? A ban holds while `now` is before its end.
    #[must_use]
    pub fn is_banned(&self, origin: Origin, now: Instant) -> bool {
        self.banned_until(origin, now).is_some()
    }

    /// The end of the origin's ban, if it is banned.
    #[must_use]
    pub fn banned_until(&self, origin: Origin, now: Instant) -> Option<Instant> {
        self.origins.get(&origin)?.banned_until.filter(|&until| now < until)
    }

    /// How many origins are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Is none remembered?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Failures that could not be held against their origin, in all, because every place was taken by a ban.
    #[must_use]
    pub const fn untracked(&self) -> u64 {
        self.untracked
    }

    fn end_bans(&mut self, now: Instant) {
        while let Some(&(until, origin)) = self.banned.first()
            && until <= now
        {
            self.banned.pop_first();
            if let Some(record) = self.origins.get_mut(&origin) {
                record.banned_until = None;
                self.idle.insert((record.turn, origin));
            }
        }
    }

    fn forget_one(&mut self) -> bool {
        let Some((_, origin)) = self.idle.pop_first() else { return false };
        self.origins.remove(&origin);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const TICK: Duration = Duration::from_millis(1);
    const LIMIT: BanLimit = BanLimit { failures: 5, duration: MINUTE, tracked: 64 };

    fn origin(number: u32) -> Origin {
        Origin::from(IpAddr::from(number.to_be_bytes()))
    }

    fn fail(ledger: &mut BanLedger, origin: Origin, times: usize, now: Instant) -> Vec<Instant> {
        (0..times).filter_map(|_| ledger.record_failure(origin, now)).collect()
    }

    /// A23
    #[test]
    fn the_sixth_consecutive_failure_bans_the_origin_for_the_configured_time() {
        let (mut ledger, start) = (BanLedger::new(LIMIT), Instant::now());
        let here = origin(1);
        assert_eq!(fail(&mut ledger, here, 5, start), []);
        assert!(!ledger.is_banned(here, start));
        assert_eq!(ledger.record_failure(here, start), Some(start + MINUTE));
        assert!(ledger.is_banned(here, start + MINUTE - TICK));
        assert!(!ledger.is_banned(here, start + MINUTE));
        assert!(!ledger.is_banned(origin(2), start));
    }

    #[test]
    fn a_lifted_ban_is_over_and_takes_six_failures_to_come_back() {
        let (mut ledger, start) = (BanLedger::new(LIMIT), Instant::now());
        let here = origin(1);
        assert_eq!(fail(&mut ledger, here, 6, start).len(), 1);
        ledger.lift(here);
        assert!(!ledger.is_banned(here, start));
        assert!(ledger.is_empty() && ledger.banned.is_empty() && ledger.idle.is_empty());
        assert_eq!(fail(&mut ledger, here, 5, start), []);
        assert_eq!(fail(&mut ledger, here, 1, start).len(), 1);
    }

    /// A27
    #[test]
    fn a_restored_ban_is_as_if_it_had_begun_here() {
        let (mut ledger, start) = (BanLedger::new(LIMIT), Instant::now());
        let here = origin(1);
        fail(&mut ledger, here, 3, start);
        assert!(ledger.restore(here, start + MINUTE, start));
        assert!(ledger.is_banned(here, start + MINUTE - TICK));
        assert!(!ledger.is_banned(here, start + MINUTE));
        assert_eq!(ledger.record_failure(here, start + MINUTE), Some(start + 2 * MINUTE));
        // As any other it is not pushed out.
        for number in 2..1_000 {
            ledger.record_failure(origin(number), start + MINUTE);
        }
        assert!(ledger.is_banned(here, start + 2 * MINUTE - TICK));
        assert_eq!((ledger.len(), ledger.idle.len() + ledger.banned.len()), (64, 64));
    }

    /// A23
    #[test]
    fn a_success_starts_the_count_anew() {
        let (mut ledger, start) = (BanLedger::new(LIMIT), Instant::now());
        let here = origin(1);
        for _ in 0..3 {
            assert_eq!(fail(&mut ledger, here, 5, start), []);
            ledger.record_success(here);
        }
        assert_eq!(fail(&mut ledger, here, 6, start).len(), 1);
    }

    /// A23
    #[test]
    fn of_parallel_failures_exactly_one_begins_the_ban() {
        let (mut ledger, start) = (BanLedger::new(LIMIT), Instant::now());
        assert_eq!(fail(&mut ledger, origin(1), 33, start), [start + MINUTE]);
        assert_eq!(ledger.banned_until(origin(1), start), Some(start + MINUTE));
    }

    /// A25: a proof that is let through a ban does not open the door to the others behind it.
    #[test]
    fn a_success_during_a_ban_leaves_the_ban_and_starts_the_count_anew() {
        let (mut ledger, start) = (BanLedger::new(LIMIT), Instant::now());
        let here = origin(1);
        fail(&mut ledger, here, 6, start);
        ledger.record_success(here);
        assert!(ledger.is_banned(here, start + MINUTE - TICK));
        assert_eq!(fail(&mut ledger, here, 5, start + MINUTE), []);
        assert_eq!(fail(&mut ledger, here, 1, start + MINUTE).len(), 1);
    }

    /// A27
    #[test]
    fn the_next_failure_after_a_ban_bans_again() {
        let (mut ledger, start) = (BanLedger::new(LIMIT), Instant::now());
        let here = origin(1);
        fail(&mut ledger, here, 6, start);
        let mut now = start;
        for _ in 0..10 {
            now += MINUTE;
            assert!(!ledger.is_banned(here, now));
            assert_eq!(ledger.record_failure(here, now), Some(now + MINUTE));
        }
    }

    /// A27, D17
    #[test]
    fn a_flood_of_origins_stays_bounded_and_frees_no_banned_one() {
        let (mut ledger, start) = (BanLedger::new(LIMIT), Instant::now());
        fail(&mut ledger, origin(0), 6, start);
        fail(&mut ledger, origin(1), 5, start);
        for number in 2..100_000 {
            assert_eq!(ledger.record_failure(origin(number), start), None);
            assert!(ledger.len() <= LIMIT.tracked);
        }
        assert!(ledger.is_banned(origin(0), start));
        assert_eq!(ledger.untracked(), 0);
        // The one that had been idle the longest was forgotten.
        assert_eq!(fail(&mut ledger, origin(1), 5, start), []);
    }

    /// A27
    #[test]
    fn when_every_place_is_banned_further_failures_are_only_counted() {
        let (mut ledger, start) = (BanLedger::new(LIMIT), Instant::now());
        for number in 0..64 {
            assert_eq!(fail(&mut ledger, origin(number), 6, start).len(), 1);
        }
        assert_eq!(fail(&mut ledger, origin(64), 20, start), []);
        assert_eq!((ledger.len(), ledger.untracked()), (64, 20));
        assert!((0..64).all(|number| ledger.is_banned(origin(number), start)));
        // Bans that have ended make room.
        assert_eq!(fail(&mut ledger, origin(64), 6, start + MINUTE).len(), 1);
        assert_eq!(ledger.len(), 64);
    }

    /// A09
    #[test]
    fn mapped_addresses_are_ipv4_and_ipv6_counts_by_64() {
        let of = |text: &str| Origin::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(of("::ffff:192.0.2.7"), of("192.0.2.7"));
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.7"), of("192.0.2.8"));
        assert_ne!(of("::192.0.2.7"), of("192.0.2.7"));
    }

    #[test]
    fn pseudonyms_differ_by_secret_and_origin() {
        let (here, there) = (origin(1), origin(2));
        let (one, other) = ([1; 32], [2; 32]);
        assert_eq!(here.pseudonym(&one), here.pseudonym(&one));
        assert_ne!(here.pseudonym(&one), here.pseudonym(&other));
        assert_ne!(here.pseudonym(&one), there.pseudonym(&one));
        let mut octets = one.to_vec();
        octets.extend(b"FlyTrap origin");
        octets.extend([0, 0, 0, 1]);
        assert_eq!(here.pseudonym(&one), alloy_primitives::keccak256(octets));
    }

    /// What happened, all of it, gone through for each question.
    struct Naive {
        limit: BanLimit,
        happened: Vec<(Origin, bool, Instant)>,
    }

    impl Naive {
        /// Failures in a row and the end of the ban that the last of them began or met.
        fn state(&self, of: Origin) -> (u32, Option<Instant>) {
            let mine = self.happened.iter().filter(|(origin, ..)| *origin == of);
            mine.fold((0, None), |(failures, until), &(_, is_success, at)| {
                let is_banned = until.is_some_and(|until| at < until);
                match (is_success, is_banned) {
                    (true, _) => (0, until),
                    (false, true) => (failures, until),
                    (false, false) if failures == self.limit.failures => {
                        (failures, Some(at + self.limit.duration))
                    }
                    (false, false) => (failures + 1, until),
                }
            })
        }
    }

    proptest! {
        #[test]
        fn the_ledger_is_that_of_the_whole_history(
            steps in prop::collection::vec((0..4_u32, 0..8_u8, 0..40_u64), 1..200),
        ) {
            let mut ledger = BanLedger::new(LIMIT);
            let mut naive = Naive { limit: LIMIT, happened: Vec::new() };
            let mut now = Instant::now();
            for (number, what, seconds) in steps {
                let here = origin(number);
                match what {
                    0 => {
                        ledger.record_success(here);
                        naive.happened.push((here, true, now));
                    }
                    1 => now += Duration::from_secs(seconds),
                    _ => {
                        let (_, before) = naive.state(here);
                        naive.happened.push((here, false, now));
                        let (_, after) = naive.state(here);
                        let began = after.filter(|_| after != before);
                        prop_assert_eq!(ledger.record_failure(here, now), began);
                    }
                }
                for number in 0..4 {
                    let (_, until) = naive.state(origin(number));
                    let is_banned = until.is_some_and(|until| now < until);
                    prop_assert_eq!(ledger.is_banned(origin(number), now), is_banned);
                }
            }
        }
    }
}
