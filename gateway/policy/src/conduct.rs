//! What proven wallets and device keys do wrong, and when it is too much.

use std::collections::HashMap;
use std::time::Duration;

use alloy_primitives::Address;

use crate::rate::{Bucket, Rate};

/// What can be held against whoever has proved itself. Only what it did itself: never a claim, nor what others send it, take from it,
/// or do from behind its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Offence {
    /// An action that it has no right to: a publish, a filter, a will.
    Refused,
    /// A session that ended because it broke the protocol or went past a bound.
    Fault,
    /// One more session asked for.
    Connect,
}

impl Offence {
    /// Of what a ban for it says there was too much. Public for ever.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Refused => "too many refused actions",
            Self::Fault => "too many sessions ended by faults",
            Self::Connect => "too many connections",
        }
    }

    /// A word for metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Refused => "refusals",
            Self::Fault => "faults",
            Self::Connect => "connects",
        }
    }
}

/// How much is borne in each `window`; one more bans. 0: never bans for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConductLimit {
    /// Of refused actions.
    pub refusals: u32,
    /// Of sessions ended by faults.
    pub faults: u32,
    /// Of sessions asked for, had or not.
    pub connects: u32,
    /// As much as this is borne at once, and earned again in this time.
    pub window: Duration,
    /// At which rate sessions may be opened; past it they are refused, which is no ban.
    pub connect_rate: Rate,
    /// The most keys that are remembered, at about 100 octets each.
    pub tracked: usize,
}

/// Counts offences by the key that proved itself: the wallet, or a device key by itself, so that one device of a fleet costs the others
/// nothing.
///
/// Bounded: when it is full, those are forgotten that have the least against them. New keys are free, so whoever could push others out
/// by using many would wash one key with the next.
#[derive(Debug)]
pub struct ConductLedger {
    limit: ConductLimit,
    rates: [Rate; 3],
    accounts: HashMap<Address, Account>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Account {
    offences: [Bucket; 3],
    opened: Bucket,
}

impl ConductLedger {
    /// Nobody has done anything.
    #[must_use]
    pub fn new(limit: ConductLimit) -> Self {
        let rate = |units: u32| Rate::new(units.into(), limit.window, limit.window);
        let rates = [rate(limit.refusals), rate(limit.faults), rate(limit.connects)];
        Self { limit, rates, accounts: HashMap::new() }
    }

    /// Counts offences; true if they are too many now. The count then starts anew, as a ban answers for all of them.
    pub fn record(&mut self, who: Address, offence: Offence, count: u32, now: Duration) -> bool {
        let kind = offence as usize;
        let rate = self.rates[kind];
        if rate == Rate::UNLIMITED {
            return false;
        }
        let account = self.account(who, now);
        let is_too_much = !account.offences[kind].take(&rate, count.into(), now).is_zero();
        if is_too_much {
            account.offences = Default::default();
        }
        is_too_much
    }

    /// Whether one more session may be opened now.
    pub fn may_open(&mut self, who: Address, now: Duration) -> bool {
        let rate = self.limit.connect_rate;
        self.account(who, now).opened.try_take(&rate, 1, now)
    }

    /// Forgets what is held against `who`.
    pub fn forgive(&mut self, who: Address) {
        self.accounts.remove(&who);
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Is none remembered?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    fn account(&mut self, who: Address, now: Duration) -> &mut Account {
        if self.accounts.len() >= self.limit.tracked && !self.accounts.contains_key(&who) {
            self.make_room(now);
        }
        self.accounts.entry(who).or_default()
    }

    /// Forgets whoever has nothing against it any more, and if that is not enough, the quarter that has the least. So the work of looking
    /// through all is done once for many keys that come.
    fn make_room(&mut self, now: Duration) {
        self.accounts.retain(|_, account| !account.level(now).is_zero());
        let most = self.limit.tracked.saturating_sub((self.limit.tracked / 4).max(1));
        let Some(surplus) = self.accounts.len().checked_sub(most).filter(|n| *n > 0) else {
            return;
        };
        let mut levels: Vec<_> =
            self.accounts.iter().map(|(who, account)| (account.level(now), *who)).collect();
        levels.select_nth_unstable(surplus - 1);
        for (_, who) in &levels[..surplus] {
            self.accounts.remove(who);
        }
    }
}

impl Account {
    fn level(&self, now: Duration) -> Duration {
        let all = self.offences.iter().chain([&self.opened]);
        all.map(|bucket| bucket.level(now)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const TICK: Duration = Duration::from_millis(1);

    fn limit() -> ConductLimit {
        ConductLimit {
            refusals: 60,
            faults: 6,
            connects: 600,
            window: MINUTE,
            connect_rate: Rate::new(2, SECOND, SECOND),
            tracked: 64,
        }
    }

    fn who(number: u64) -> Address {
        Address::left_padding_from(&number.to_be_bytes())
    }

    #[test]
    fn as_many_as_the_window_bears_ban_nobody_and_one_more_does() {
        for (offence, borne) in
            [(Offence::Refused, 60), (Offence::Fault, 6), (Offence::Connect, 600)]
        {
            let mut ledger = ConductLedger::new(limit());
            for _ in 0..borne {
                assert!(!ledger.record(who(1), offence, 1, MINUTE), "{offence:?}");
            }
            assert!(!ledger.record(who(2), offence, borne, MINUTE), "another wallet");
            assert!(ledger.record(who(1), offence, 1, MINUTE), "{offence:?}");
            assert!(!ledger.record(who(1), offence, borne, MINUTE), "the count starts anew");
        }
    }

    /// ACCEPTANCE W37
    #[test]
    fn a_refusal_each_second_for_ever_bans_nobody() {
        let mut ledger = ConductLedger::new(limit());
        let mut now = MINUTE;
        for _ in 0..10_000 {
            assert!(!ledger.record(who(1), Offence::Refused, 1, now));
            now += SECOND;
        }
        // But at twice the rate the window is used up in the end.
        let banned = (0..1_000).any(|_| {
            now += SECOND / 2;
            ledger.record(who(1), Offence::Refused, 1, now)
        });
        assert!(banned);
    }

    #[test]
    fn nothing_is_ever_too_much_where_the_limit_is_zero() {
        let mut ledger = ConductLedger::new(ConductLimit { refusals: 0, ..limit() });
        assert!(!ledger.record(who(1), Offence::Refused, u32::MAX, MINUTE));
        assert!(ledger.is_empty());
    }

    #[test]
    fn sessions_are_opened_at_the_rate_and_whoever_asks_too_often_is_not_kept_out_for_it() {
        let mut ledger = ConductLedger::new(limit());
        assert!(ledger.may_open(who(1), MINUTE) && ledger.may_open(who(1), MINUTE));
        for _ in 0..100 {
            assert!(!ledger.may_open(who(1), MINUTE));
        }
        assert!(ledger.may_open(who(2), MINUTE));
        assert!(!ledger.may_open(who(1), MINUTE + SECOND / 2 - TICK));
        assert!(ledger.may_open(who(1), MINUTE + SECOND / 2));
    }

    /// THREATS D17
    #[test]
    fn a_flood_of_keys_stays_bounded_and_washes_nobody() {
        let mut ledger = ConductLedger::new(limit());
        assert!(!ledger.record(who(0), Offence::Refused, 60, MINUTE));
        for number in 1..100_000 {
            ledger.record(who(number), Offence::Refused, 1, MINUTE);
            assert!(ledger.len() <= 64);
        }
        assert!(ledger.record(who(0), Offence::Refused, 1, MINUTE), "it was forgotten");
    }

    #[test]
    fn what_is_forgiven_counts_no_more() {
        let mut ledger = ConductLedger::new(limit());
        ledger.record(who(1), Offence::Refused, 60, MINUTE);
        ledger.forgive(who(1));
        assert!(!ledger.record(who(1), Offence::Refused, 60, MINUTE));
    }
}
