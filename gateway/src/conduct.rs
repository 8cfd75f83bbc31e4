//! What wallets and device keys do after they have proved themselves: who is here, how much each wallet uses, and who goes too far.
//!
//! A session enters before anything is asked of the broker, and stays until it drops its [`Stay`]. A ban is written into the book of
//! [`bans`](crate::bans) and ends every session that it concerns in the same moment, before the chain is told of it.
//!
//! Blame goes by the key that signed. A device key is banned by itself and a wallet for what it signed itself, so one device costs its
//! fleet nothing. What others do (messages they send, rights they take, failures from behind the same address) counts against nobody here, and
//! the broker's owner is never banned: the contract would not have it either.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use flytrap_policy::{ConductLedger, ConductLimit, Offence, Principal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::audit::{Audit, Penalty};
use crate::bans::{Ban, Bans, By, Full, OnChain, Subject};
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::session::WalletUse;

/// Wallets without a session whose use is remembered, at least.
const REMEMBERED: usize = 4_096;

/// What a ban by a rule of the operator says on chain. The rule's name may tell more than the public should know.
pub const RULE_REASON: &str = "against a rule of the operator";

/// Live sessions, their use and their offences.
#[derive(Debug)]
pub struct Conduct {
    inner: Arc<Mutex<Inner>>,
    window: Duration,
    ban: Duration,
    began: Instant,
    bans: Arc<Bans>,
    mirror: Arc<Mirror>,
    audit: Audit,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Inner {
    ledger: ConductLedger,
    uses: HashMap<Address, Arc<WalletUse>>,
    /// Looked through for what is settled when there are this many.
    sweep_at: usize,
    live: HashMap<u64, Live>,
    next: u64,
}

/// A session, as far as it concerns a ban.
#[derive(Debug)]
struct Live {
    wallet: Address,
    key: Address,
    address: IpAddr,
    ended: CancellationToken,
    banned_until: Arc<AtomicU64>,
}

/// A session that is here. Dropping it says that it is over.
#[derive(Debug)]
pub struct Stay {
    /// Cancelled when the gateway stops or a ban ends the session.
    pub ended: CancellationToken,
    /// What all sessions of the wallet use.
    pub wallet: Arc<WalletUse>,
    banned_until: Arc<AtomicU64>,
    number: u64,
    inner: Arc<Mutex<Inner>>,
}

impl Stay {
    /// The end of the ban that ended the session, if one did.
    pub fn banned_until(&self) -> Option<u64> {
        Some(self.banned_until.load(Ordering::Acquire)).filter(|until| *until != 0)
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        locked(&self.inner).live.remove(&self.number);
    }
}

/// Why a proven client may not enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// It is banned until then.
    Banned(u64),
    /// It opens sessions too fast.
    TooFast,
}

fn locked(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    // Each change below is complete at every point where it could panic.
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Conduct {
    /// Nobody is here. `ban`: how long a ban for conduct lasts.
    pub fn new(
        limit: ConductLimit,
        ban: Duration,
        bans: Arc<Bans>,
        mirror: Arc<Mirror>,
        audit: Audit,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Self {
        let inner = Inner {
            ledger: ConductLedger::new(limit),
            uses: HashMap::new(),
            sweep_at: REMEMBERED,
            live: HashMap::new(),
            next: 0,
        };
        let began = Instant::now();
        let (inner, window) = (Arc::new(Mutex::new(inner)), limit.window);
        Self { inner, window, ban, began, bans, mirror, audit, metrics, stop }
    }

    /// The clock that wallets' use is counted by, at `then`.
    pub fn since_start(&self, then: Instant) -> Duration {
        then.saturating_duration_since(self.began)
    }

    /// A proven client from `peer` wants a session.
    ///
    /// # Errors
    /// [`Turned`] says why it may not have one.
    pub fn enter(&self, who: &Principal, peer: SocketAddr) -> Result<Stay, Turned> {
        let (now, time) = (self.since_start(Instant::now()), self.mirror.now());
        let (went_too_far, entered) = {
            let mut inner = locked(&self.inner);
            let went_too_far = inner.ledger.record(who.key, Offence::Connect, 1, now);
            // Under the lock that a ban takes when it looks for sessions to end: none slips in between.
            let banned = self.bans.wallet_until(who.wallet, who.key, time);
            let entered = match banned.or_else(|| self.bans.operators_until(peer.ip(), time)) {
                Some(until) => Err(Turned::Banned(until)),
                None if went_too_far || !inner.ledger.may_open(who.key, now) => {
                    Err(Turned::TooFast)
                }
                None => Ok(inner.open(&self.inner, who, peer.ip(), self.stop.child_token(), now)),
            };
            (went_too_far, entered)
        };
        if went_too_far && !matches!(entered, Err(Turned::Banned(_))) {
            self.go_too_far(who, Offence::Connect, "connect", peer);
            if let Some(until) = self.bans.wallet_until(who.wallet, who.key, time) {
                return Err(Turned::Banned(until));
            }
        }
        entered
    }

    /// A proven client did something that it may not, `count` times; `rule` says what of that kind the last was.
    pub fn offended(
        &self,
        who: &Principal,
        offence: Offence,
        count: u32,
        rule: &'static str,
        peer: SocketAddr,
    ) {
        let now = self.since_start(Instant::now());
        if locked(&self.inner).ledger.record(who.key, offence, count, now) {
            self.go_too_far(who, offence, rule, peer);
        }
    }

    /// A rule of the operator bans whoever this is.
    pub fn punish(&self, who: &Principal, penalty: &Penalty, peer: SocketAddr) {
        let cause = format!("audit rule \"{}\"", penalty.rule);
        self.ban_key(who, RULE_REASON, "rule", &cause, penalty.ban, peer);
    }

    fn go_too_far(&self, who: &Principal, offence: Offence, rule: &'static str, peer: SocketAddr) {
        let cause = format!("{} within {:?}, the last {rule}", offence.reason(), self.window);
        self.ban_key(who, offence.reason(), offence.word(), &cause, self.ban, peer);
    }

    /// Bans the key that signed, unless it is banned already or is the owner's. `reason` is public for ever, of `cause` only the hash.
    fn ban_key(
        &self,
        who: &Principal,
        reason: &str,
        word: &'static str,
        cause: &str,
        time: Duration,
        peer: SocketAddr,
    ) {
        let (key, now) = (who.key, self.mirror.now());
        let owner = self.mirror.peek().head.owner();
        if owner == Some(key) || self.bans.wallet_until(who.wallet, key, now).is_some() {
            return;
        }
        let ban = Ban {
            subject: Subject::Wallet(key),
            until: now.saturating_add(time.as_secs().max(1)),
            since: now,
            by: By::Gateway,
            reason: reason.to_owned(),
            evidence: format!(
                "flytrap ban of {key:#x} for wallet {:#x}: {cause} at {now}",
                who.wallet
            ),
            chain: OnChain::Untold,
        };
        let (until, evidence) = (ban.until, ban.evidence_hash());
        self.metrics.wallet_banned(word);
        // `docs/abuse.md` has filters for this very sentence.
        warn!(
            wallet = %who.wallet, cause, evidence = ban.evidence, evidence_hash = %evidence,
            "banned {} from {} until {until}: {}", ban.subject, peer.ip(), ban.reason
        );
        self.audit.banned(&ban, word);
        if let Err(full) = self.bans.add(ban, now) {
            // It still ends what is open, and the chain has it soon.
            self.metrics.notes_dropped.inc();
            warn!(error = %full, wallet = %key, "a ban is not kept here");
        }
        self.end_sessions(&Subject::Wallet(key), until);
    }

    /// Ends every session that a ban concerns.
    pub fn end_sessions(&self, subject: &Subject, until: u64) -> usize {
        let inner = locked(&self.inner);
        let concerned = inner.live.values().filter(|live| live.is_concerned(subject));
        let mut ended = 0;
        for live in concerned {
            live.banned_until.store(until, Ordering::Release);
            live.ended.cancel();
            ended += 1;
        }
        ended
    }

    /// Forgets what is held against a key whose ban was lifted.
    pub fn forgive(&self, who: Address) {
        locked(&self.inner).ledger.forgive(who);
    }

    /// Bans somebody at an operator's word: written down and in force when this returns. Returns how many sessions it ended.
    ///
    /// # Errors
    /// [`Full`].
    pub fn ban(&self, ban: Ban) -> Result<usize, Full> {
        let (subject, until) = (ban.subject, ban.until);
        let note = ban.clone();
        self.bans.add(ban, self.mirror.now())?;
        self.audit.banned(&note, "operator");
        Ok(self.end_sessions(&subject, until))
    }
}

impl Live {
    fn is_concerned(&self, subject: &Subject) -> bool {
        match subject {
            Subject::Wallet(who) => self.wallet == *who || self.key == *who,
            Subject::Origin(origin) => flytrap_policy::Origin::from(self.address) == *origin,
            Subject::Network(network) => network.contains(&self.address),
            Subject::Pseudonym(_) => false,
        }
    }
}

impl Inner {
    fn open(
        &mut self,
        shared: &Arc<Mutex<Self>>,
        who: &Principal,
        address: IpAddr,
        ended: CancellationToken,
        now: Duration,
    ) -> Stay {
        if self.uses.len() >= self.sweep_at {
            self.uses.retain(|_, wallet| Arc::strong_count(wallet) > 1 || !wallet.is_settled(now));
            self.sweep_at = REMEMBERED.max(2 * self.uses.len());
        }
        let wallet = self.uses.entry(who.wallet).or_default().clone();
        let (number, banned_until) = (self.next, Arc::new(AtomicU64::new(0)));
        self.next += 1;
        let live = Live {
            wallet: who.wallet,
            key: who.key,
            address: address.to_canonical(),
            ended: ended.clone(),
            banned_until: banned_until.clone(),
        };
        self.live.insert(number, live);
        Stay { ended, wallet, banned_until, number, inner: shared.clone() }
    }
}

#[cfg(test)]
mod tests {
    use flytrap_policy::{Credential, CredentialKind, Options, Rate, Rules};
    use prometheus_client::registry::Registry as Series;

    use super::*;
    use crate::bans::tests::KEY;
    use crate::config::{ChainConfig, Secret};
    use crate::outbox::Outbox;

    const BAN: Duration = Duration::from_secs(600);
    const HOUR: Duration = Duration::from_secs(3_600);

    fn conduct() -> Conduct {
        let metrics = Metrics::register(&mut Series::default());
        let (mirror, _writer) = Mirror::new(&ChainConfig::for_tests(), Options::default());
        let limit = ConductLimit {
            refusals: 10,
            faults: 2,
            connects: 100,
            window: HOUR,
            connect_rate: Rate::new(5, HOUR, HOUR),
            tracked: 1_000,
        };
        let bans = Arc::new(Bans::new(Secret::new(KEY), Vec::new()));
        let outbox = Outbox::new(true, bans.clone(), metrics.clone());
        let (audit, _) = Audit::new(Rules::default(), outbox, mirror.clone(), metrics.clone());
        Conduct::new(limit, BAN, bans, mirror, audit, metrics, CancellationToken::new())
    }

    fn who(wallet: u8, key: u8) -> Principal {
        let credential =
            Credential { kind: CredentialKind::Token, issued_at: 0, expires_at: u64::MAX };
        let [wallet, key] = [wallet, key].map(Address::with_last_byte);
        Principal { wallet, key, credential, country: None }
    }

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 1_000))
    }

    #[test]
    fn a_wallet_that_goes_too_far_is_out_with_all_its_sessions_and_nobody_else_is() {
        let conduct = conduct();
        let enter = |wallet, key| conduct.enter(&who(wallet, key), peer(1)).unwrap();
        let (first, second) = (enter(1, 1), enter(1, 1));
        let (device, other) = (enter(1, 11), enter(2, 2));
        conduct.offended(&who(1, 1), Offence::Refused, 10, "no_grant", peer(1));
        assert!(!first.ended.is_cancelled(), "as many as are borne");
        conduct.offended(&who(1, 1), Offence::Refused, 1, "no_grant", peer(1));
        for stay in [&first, &second, &device] {
            assert!(stay.ended.is_cancelled());
            assert!(stay.banned_until().is_some());
        }
        assert!(!other.ended.is_cancelled() && other.banned_until().is_none());
        for key in [1, 11] {
            let turned = conduct.enter(&who(1, key), peer(1)).unwrap_err();
            assert!(matches!(turned, Turned::Banned(_)), "{turned:?}");
        }
        assert!(conduct.enter(&who(2, 2), peer(1)).is_ok(), "from the same address");
    }

    #[test]
    fn a_device_that_goes_too_far_is_out_by_itself() {
        let conduct = conduct();
        let (device, fleet) = (
            conduct.enter(&who(1, 11), peer(1)).unwrap(),
            conduct.enter(&who(1, 12), peer(1)).unwrap(),
        );
        for _ in 0..3 {
            conduct.offended(&who(1, 11), Offence::Fault, 1, "client_fault", peer(1));
        }
        assert!(device.ended.is_cancelled() && !fleet.ended.is_cancelled());
        assert!(conduct.enter(&who(1, 11), peer(1)).is_err());
        assert!(conduct.enter(&who(1, 1), peer(1)).is_ok(), "the wallet itself");
    }

    #[test]
    fn sessions_are_refused_past_their_rate_and_who_goes_on_for_long_is_banned() {
        let conduct = conduct();
        let enter = || conduct.enter(&who(1, 1), peer(1));
        for _ in 0..5 {
            assert!(enter().is_ok());
        }
        for _ in 0..95 {
            assert_eq!(enter().unwrap_err(), Turned::TooFast);
        }
        assert!(matches!(enter().unwrap_err(), Turned::Banned(_)), "the hundred and first");
        assert_eq!(conduct.metrics.wallet_bans_for("connects"), 1);
    }

    #[test]
    fn a_ban_by_an_operator_ends_the_sessions_it_concerns_at_once() {
        for (text, concerned) in [
            ("192.0.2.1", vec![1]),
            ("192.0.2.0/30", vec![1, 2]),
            ("0x0000000000000000000000000000000000000003", vec![3]),
        ] {
            let conduct = conduct();
            let stays: Vec<_> = [1, 2, 3]
                .map(|n| {
                    let last = if n == 3 { 200 } else { n };
                    (n, conduct.enter(&who(n, n), peer(last)).unwrap())
                })
                .into();
            let subject: Subject = text.parse().unwrap();
            let until = conduct.mirror.now() + 100;
            let ban = Ban { by: By::Operator, ..crate::bans::tests::ban(subject, until) };
            assert_eq!(conduct.ban(ban).unwrap(), concerned.len());
            for (n, stay) in &stays {
                assert_eq!(stay.ended.is_cancelled(), concerned.contains(n), "{text}: {n}");
            }
        }
    }

    #[test]
    fn who_left_is_forgotten_and_what_a_wallet_has_used_is_not() {
        let conduct = conduct();
        let stay = conduct.enter(&who(1, 1), peer(1)).unwrap();
        let wallet = stay.wallet.clone();
        drop(stay);
        assert!(locked(&conduct.inner).live.is_empty());
        let again = conduct.enter(&who(1, 1), peer(1)).unwrap();
        assert!(Arc::ptr_eq(&again.wallet, &wallet));
    }

    /// THREATS D17
    #[test]
    fn uses_of_wallets_that_left_are_bounded() {
        let conduct = conduct();
        for number in 0..20_000_u32 {
            let mut one = who(1, 1);
            one.wallet = Address::left_padding_from(&number.to_be_bytes());
            one.key = one.wallet;
            drop(conduct.enter(&one, peer(1)).unwrap());
        }
        assert!(locked(&conduct.inner).uses.len() <= REMEMBERED);
    }

    #[test]
    fn a_rule_of_the_operator_bans_the_key_that_signed_for_its_own_time() {
        let conduct = conduct();
        let (device, other) = (
            conduct.enter(&who(1, 11), peer(1)).unwrap(),
            conduct.enter(&who(1, 1), peer(1)).unwrap(),
        );
        let penalty = Penalty { rule: "guessing".to_owned(), ban: HOUR };
        conduct.punish(&who(1, 11), &penalty, peer(1));
        assert!(device.ended.is_cancelled() && !other.ended.is_cancelled());
        let subject = Subject::Wallet(Address::with_last_byte(11));
        let ban = conduct.bans.get(&subject, conduct.mirror.now()).unwrap();
        assert_eq!((ban.until - ban.since, ban.reason.as_str()), (3_600, RULE_REASON));
        assert!(ban.evidence.contains("guessing"));
        assert_eq!(conduct.metrics.wallet_bans_for("rule"), 1);
        conduct.punish(&who(1, 11), &penalty, peer(1));
        assert_eq!(conduct.metrics.wallet_bans_for("rule"), 1, "it is banned already");
    }
}
