//! Network origins, and how many failures in a row they may have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
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
