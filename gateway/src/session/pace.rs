//! How fast a client may go: what it uses is charged, and whoever owes too much is not read until it is earned.
//!
//! Not reading is the mildest answer: TCP slows the client down and nothing is lost. It is charged once for what one read brought, so a
//! forwarded packet costs nothing of its own. All sessions of a wallet share one count without waiting for one another.

use std::sync::Arc;
use std::time::Duration;

use flytrap_policy::{Bucket, Rate, SharedBucket};

use super::end::End;
use super::machine::Used;

/// The rates of each session, and of all sessions of a wallet together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Messages of a session, and answers nobody waits for.
    pub session_messages: Rate,
    /// Octets of a session.
    pub session_octets: Rate,
    /// Filters to subscribe to and to leave, and pings, of a session.
    pub session_requests: Rate,
    /// Messages and requests of a wallet.
    pub wallet_messages: Rate,
    /// Octets of a wallet.
    pub wallet_octets: Rate,
}

/// What all sessions of one wallet have used.
#[derive(Debug, Default)]
pub struct WalletUse {
    messages: SharedBucket,
    octets: SharedBucket,
}

impl WalletUse {
    /// Whether nothing is owed any more, so that it may as well be forgotten. `now` since the gateway started.
    #[must_use]
    pub fn is_settled(&self, now: Duration) -> bool {
        self.messages.level(now).is_zero() && self.octets.level(now).is_zero()
    }
}

/// What one session has used and owes.
#[derive(Debug)]
pub struct Pace {
    rates: Rates,
    wallet: Arc<WalletUse>,
    /// When the session began, since the gateway started.
    began: Duration,
    messages: Bucket,
    octets: Bucket,
    requests: Bucket,
    /// The client is not read until then, since the session began.
    held_until: Option<Duration>,
    throttled: Option<&'static str>,
}

/// Longest time that a client is not read: by then what is owed by its wallet is judged anew, and a session that owes more by itself is
/// beyond slowing down.
const PATIENCE: Duration = Duration::from_secs(30);

impl Pace {
    /// Nothing is owed by the session. `began`: since the gateway started.
    #[must_use]
    pub fn new(rates: Rates, wallet: Arc<WalletUse>, began: Duration) -> Self {
        let (messages, octets, requests) = Default::default();
        let (held_until, throttled) = (None, None);
        Self { rates, wallet, began, messages, octets, requests, held_until, throttled }
    }

    /// Charges what one read brought. `now`: since the session began.
    ///
    /// # Errors
    /// [`End::ClientRate`] if the session alone owes more than can be waited for.
    #[inline]
    pub fn charge(&mut self, used: Used, now: Duration) -> Result<(), End> {
        let (rates, at) = (&self.rates, self.began + now);
        let of_session = [
            self.messages.take(&rates.session_messages, used.messages, at),
            self.octets.take(&rates.session_octets, used.octets, at),
            self.requests.take(&rates.session_requests, used.requests, at),
        ];
        let of_wallet = [
            self.wallet.messages.take(&rates.wallet_messages, used.messages + used.requests, at),
            self.wallet.octets.take(&rates.wallet_octets, used.octets, at),
        ];
        let over = of_session.iter().chain(&of_wallet).any(|over| !over.is_zero());
        if over { self.hold(of_session, of_wallet, now) } else { Ok(()) }
    }

    #[cold]
    fn hold(
        &mut self,
        of_session: [Duration; 3],
        of_wallet: [Duration; 2],
        now: Duration,
    ) -> Result<(), End> {
        let [messages, octets, requests] = of_session;
        let of_session = [(messages, "messages"), (octets, "octets"), (requests, "requests")];
        if let Some((_, what)) = of_session.into_iter().find(|(over, _)| *over > PATIENCE) {
            return Err(End::ClientRate(what));
        }
        let [messages, octets] = of_wallet;
        let of_wallet = [(messages, "wallet_messages"), (octets, "wallet_octets")];
        let longest = of_session.into_iter().chain(of_wallet).max_by_key(|(over, _)| *over);
        if let Some((over, what)) = longest {
            self.held_until = Some(now + over.min(PATIENCE));
            self.throttled = Some(what);
        }
        Ok(())
    }

    /// Whether the client is not to be read now. `now`: since the session began; asked only if anything is owed.
    #[inline]
    pub fn holds(&mut self, now: impl FnOnce() -> Duration) -> bool {
        let Some(until) = self.held_until else { return false };
        if now() < until {
            return true;
        }
        self.held_until = None;
        false
    }

    /// Until when the client is not read, since the session began. What it sends meanwhile waits in the network, so it cannot be taken for
    /// silent.
    #[must_use]
    pub fn held_until(&self) -> Option<Duration> {
        self.held_until
    }

    /// The rate that the client went past since this was last asked.
    #[inline]
    pub fn take_throttled(&mut self) -> Option<&'static str> {
        self.throttled.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TICK: Duration = Duration::from_nanos(1);

    fn rates() -> Rates {
        let rate = |units| Rate::new(units, SECOND, SECOND);
        Rates {
            session_messages: rate(10),
            session_octets: rate(1_000),
            session_requests: rate(5),
            wallet_messages: rate(40),
            wallet_octets: rate(4_000),
        }
    }

    fn used(messages: u64, requests: u64, octets: u64) -> Used {
        Used { messages, requests, octets }
    }

    fn pace(wallet: &Arc<WalletUse>, began: Duration) -> Pace {
        Pace::new(rates(), wallet.clone(), began)
    }

    #[test]
    fn at_the_rate_nobody_is_held_and_past_it_until_it_is_earned() {
        for (fits, over, what) in [
            (used(10, 0, 0), used(1, 0, 0), "messages"),
            (used(0, 0, 1_000), used(0, 0, 100), "octets"),
            (used(0, 5, 0), used(0, 1, 0), "requests"),
        ] {
            let mut pace = pace(&Arc::default(), 7 * SECOND);
            pace.charge(fits, SECOND).unwrap();
            assert!(!pace.holds(|| SECOND), "{what}");
            pace.charge(over, SECOND).unwrap();
            assert_eq!(pace.take_throttled(), Some(what));
            let until = pace.held_until().unwrap();
            assert!(until <= SECOND + SECOND / 5, "{until:?}");
            assert!(pace.holds(|| until - TICK), "{what}");
            assert!(!pace.holds(|| until) && pace.held_until().is_none(), "{what}");
            assert_eq!(pace.take_throttled(), None);
        }
    }

    #[test]
    fn sessions_of_one_wallet_share_its_rate_and_a_new_one_gets_no_new_burst() {
        let wallet = Arc::default();
        let mut sessions: Vec<_> = (0..4).map(|_| pace(&wallet, SECOND)).collect();
        for session in &mut sessions {
            session.charge(used(10, 0, 0), SECOND).unwrap();
            assert!(!session.holds(|| SECOND));
        }
        // Begun later: the same moment has another number there.
        let mut late = pace(&wallet, 2 * SECOND);
        late.charge(used(1, 0, 0), Duration::ZERO).unwrap();
        assert_eq!(late.take_throttled(), Some("wallet_messages"));
        assert!(!wallet.is_settled(2 * SECOND));
        assert!(wallet.is_settled(4 * SECOND));
        let mut other = pace(&Arc::default(), 2 * SECOND);
        other.charge(used(1, 0, 0), Duration::ZERO).unwrap();
        assert!(!other.holds(|| Duration::ZERO), "another wallet");
    }

    #[test]
    fn a_session_that_cannot_be_slowed_down_ends_and_one_whose_wallet_owes_much_waits() {
        let mut flood = pace(&Arc::default(), SECOND);
        let end = flood.charge(used(10 + 301, 0, 0), SECOND);
        assert!(matches!(end, Err(End::ClientRate("messages"))), "{end:?}");
        let mut held = pace(&Arc::default(), SECOND);
        held.charge(used(10 + 300, 0, 0), SECOND).unwrap();
        assert_eq!(held.held_until(), Some(SECOND + PATIENCE));

        let wallet = Arc::<WalletUse>::default();
        wallet.messages.take(&rates().wallet_messages, 1_000_000, SECOND);
        let mut poor = pace(&wallet, SECOND);
        poor.charge(used(1, 0, 0), SECOND).unwrap();
        assert_eq!(poor.held_until(), Some(SECOND + PATIENCE));
    }
}
