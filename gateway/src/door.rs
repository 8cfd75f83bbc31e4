//! Who may knock: failures and bans by origin, this gateway's own and those that other gateways put on chain.
//!
//! [`Door::admit`] is asked for each accepted socket, before TLS and before anything is read. A banned origin is turned
//! away there, except that (`proof_beats_ban`) one connection at a time and one a second may still try a proof: an
//! honest device behind the same address as an attacker has a chance, the attacker no more than one guess a second.
//! The second counts from the failure that banned, so the attempt right after it is closed unread.
//!
//! [`Door::may_try`] is asked again right before a proof is checked, so that of many connections opened at once only
//! as many proofs are looked at as there are failures left.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use flytrap_policy::{BanLedger, BanLimit, Origin, View};
use tracing::{info, warn};

use crate::audit::{Audit, Penalty};
use crate::bans::{Ban, Bans, By, OnChain, Subject};
use crate::conduct::RULE_REASON;
use crate::config::Limits;
use crate::log_budget::LogBudget;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::shared::Peer;

/// Time between two attempts from a banned origin.
const TRIAL_GAP: Duration = Duration::from_secs(1);
/// Origins whose failures are remembered, and banned origins of which more is known. Some 100 octets each.
const TRACKED: usize = 65_536;

/// What bans by this gateway say on chain: public for ever, so the details stay in the log whose hash is the evidence.
const REASON: &str = "too many failed proofs in a row";

/// The ban ledger, shared bans, and attempts from behind bans.
#[derive(Debug)]
pub struct Door {
    inner: Arc<Mutex<Inner>>,
    ban: Duration,
    failures: u32,
    proof_beats_ban: bool,
    bans: Arc<Bans>,
    mirror: Arc<Mirror>,
    audit: Audit,
    log: Arc<LogBudget>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct Inner {
    ledger: BanLedger,
    /// Banned origins that tried again, or whose ban this gateway reported. Swept of those that are over.
    banned: HashMap<Origin, Banned>,
    /// Attempts of banned origins so far.
    trials: u64,
}

#[derive(Debug)]
struct Banned {
    /// Forgotten from here on, unless renewed.
    until: Instant,
    next_trial: Instant,
    /// Number of the attempt that is under way.
    on_trial: Option<u64>,
}

/// What is done with a connection that was just accepted.
#[derive(Debug)]
pub enum Verdict {
    /// Go on.
    Open,
    /// The origin is banned; this is its one attempt. Goes into [`Peer::trial`].
    Trial(Trial),
    /// Close at once, unread.
    Closed,
}

/// The one attempt of a banned origin. Dropping it makes room for the next.
#[derive(Debug)]
pub struct Trial {
    origin: Origin,
    number: u64,
    door: Arc<Mutex<Inner>>,
}

impl Drop for Trial {
    fn drop(&mut self) {
        locked(&self.door).end_trial(self);
    }
}

fn locked(inner: &Mutex<Inner>) -> std::sync::MutexGuard<'_, Inner> {
    // Each change below is complete at every point where it could panic, so a poisoned lock holds no half state.
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// A ledger with the bans of an earlier run that are in `bans`; those on chain are read from `mirror`.
    pub fn new(
        limits: &Limits,
        bans: Arc<Bans>,
        mirror: Arc<Mirror>,
        audit: Audit,
        log: Arc<LogBudget>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mut ledger = BanLedger::new(BanLimit {
            failures: limits.failures,
            duration: limits.ban,
            tracked: TRACKED,
        });
        let (now, time) = (Instant::now(), mirror.now());
        for ban in bans.page(None, usize::MAX, time) {
            if let (Subject::Origin(origin), By::Gateway) = (ban.subject, ban.by) {
                // The clock may have been set back since: it lasts no longer than it was to in all.
                let left = ban.until.saturating_sub(ban.since.max(time));
                let left = Duration::from_secs(left);
                ledger.restore(origin, now + left, now);
            }
        }
        Self {
            inner: Arc::new(Mutex::new(Inner { ledger, banned: HashMap::new(), trials: 0 })),
            ban: limits.ban,
            failures: limits.failures,
            proof_beats_ban: limits.proof_beats_ban,
            bans,
            mirror,
            audit,
            log,
            metrics,
        }
    }

    /// What to do with a connection from `address`.
    pub fn admit(&self, address: IpAddr) -> Verdict {
        if self.bans.operators_until(address, self.mirror.now()).is_some() {
            return Verdict::Closed;
        }
        self.admit_at(address.into(), Instant::now())
    }

    fn admit_at(&self, origin: Origin, now: Instant) -> Verdict {
        let (view, time) = (self.mirror.peek(), self.mirror.now());
        let on_chain = self.bans.is_on_chain(&Subject::Origin(origin), &view, time);
        let mut inner = locked(&self.inner);
        if !on_chain && !inner.ledger.is_banned(origin, now) {
            return Verdict::Open;
        }
        if !self.proof_beats_ban {
            return Verdict::Closed;
        }
        let number = inner.trials.wrapping_add(1);
        let Some(banned) = inner.remember(origin, now, now + self.ban) else {
            return Verdict::Closed;
        };
        if banned.on_trial.is_some() || now < banned.next_trial {
            return Verdict::Closed;
        }
        banned.on_trial = Some(number);
        banned.next_trial = now + TRIAL_GAP;
        inner.trials = number;
        Verdict::Trial(Trial { origin, number, door: self.inner.clone() })
    }

    /// Whether a proof of `peer` may still be looked at: no if its origin was banned since it was admitted.
    pub fn may_try(&self, peer: &Peer) -> bool {
        self.bans.operators_until(peer.addr.ip(), self.mirror.now()).is_none()
            && (peer.trial.is_some()
                || !locked(&self.inner).ledger.is_banned(peer.origin, Instant::now()))
    }

    /// Counts a failed proof, and bans the origin here and on chain if it was one too many. `rule` says which kind.
    pub fn failed(&self, peer: &Peer, rule: &'static str) {
        if self.log.may_say() {
            // `docs/abuse.md` has filters for this very sentence.
            warn!(listener = %peer.listener.name, "failed proof from {}: {rule}", peer.addr.ip());
        }
        self.failed_at(peer.addr.ip(), rule, Instant::now());
    }

    /// A proof was accepted: failures of the origin count from zero again.
    pub fn succeeded(&self, peer: &Peer) {
        let mut inner = locked(&self.inner);
        inner.ledger.record_success(peer.origin);
        if let Some(trial) = &peer.trial {
            // It has passed: another device behind the same address may try, though this session lives on.
            inner.end_trial(trial);
        }
    }

    /// A rule of the operator bans the origin of a failed proof.
    pub fn punish(&self, peer: &Peer, penalty: &Penalty) {
        self.punish_at(peer.addr.ip(), penalty, Instant::now());
    }

    fn punish_at(&self, address: IpAddr, penalty: &Penalty, now: Instant) {
        let (origin, until) = (Origin::from(address), now + penalty.ban);
        {
            let mut inner = locked(&self.inner);
            if inner.ledger.is_banned(origin, now) {
                return;
            }
            inner.ledger.restore(origin, until, now);
            inner.keep_out(origin, now, until);
        }
        let cause = format!("audit rule \"{}\"", penalty.rule);
        self.banned(address, penalty.ban, RULE_REASON, "rule", &cause);
    }

    fn failed_at(&self, address: IpAddr, rule: &'static str, now: Instant) {
        let origin = Origin::from(address);
        let until = {
            let mut inner = locked(&self.inner);
            let Some(until) = inner.ledger.record_failure(origin, now) else { return };
            inner.keep_out(origin, now, until);
            until
        };
        let failures = self.failures.saturating_add(1);
        let cause = format!("{failures} failed proofs in a row, the last {rule}");
        self.banned(address, until.duration_since(now), REASON, "failed-proofs", &cause);
    }

    /// Tells everyone of a ban that the ledger has. `reason` is public for ever, of `cause` only the hash.
    fn banned(&self, address: IpAddr, time: Duration, reason: &str, word: &str, cause: &str) {
        self.metrics.bans.inc();
        let (subject, at) = (Subject::Origin(Origin::from(address)), self.mirror.now());
        if self.bans.get(&subject, at).is_some_and(|ban| ban.by == By::Operator) {
            // A connection of before. What a person decided stays as it is, and on chain too.
            return;
        }
        let pseudonym = self.bans.pseudonym(&subject).unwrap_or_default();
        // The chain gets only the hash; who has this line of the log can show what it stood for.
        let evidence = format!("flytrap ban of origin {pseudonym}: {cause} at {at}");
        let ban = Ban {
            subject,
            until: at.saturating_add(time.as_secs()),
            since: at,
            by: By::Gateway,
            reason: reason.to_owned(),
            evidence,
            chain: OnChain::Untold,
        };
        let hash = ban.evidence_hash();
        // `docs/abuse.md` has filters for this very sentence.
        warn!(
            origin = %pseudonym, cause, evidence = ban.evidence, evidence_hash = %hash,
            "banned {subject} from {address} until {}: {reason}", ban.until
        );
        self.audit.banned(&ban, word);
        if let Err(full) = self.bans.add(ban, at) {
            // It holds here all the same, but not after a restart before the chain has it.
            self.metrics.notes_dropped.inc();
            warn!(error = %full, origin = %pseudonym, "a ban is not kept for a restart");
        }
    }

    /// Forgets the failures of an origin and its ban.
    pub fn forgive(&self, origin: Origin) {
        locked(&self.inner).ledger.lift(origin);
    }

    /// Lifts local bans that were seen on chain and are there no longer. Called whenever the mirror moved. Returns whose bans ended so.
    pub fn follow(&self, view: &View, time: u64) -> Vec<Subject> {
        let lifted = self.bans.follow(view, time);
        let now = Instant::now();
        let inner = &mut *locked(&self.inner);
        for subject in &lifted {
            if let Subject::Origin(origin) = subject {
                inner.ledger.lift(*origin);
            }
            info!("ban of {subject} lifted on chain");
            self.audit.ban_lifted(subject, "chain");
        }
        inner.banned.retain(|_, banned| banned.on_trial.is_some() || now < banned.until);
        lifted
    }

    /// What stands for an origin on chain and in records.
    pub fn pseudonym(&self, origin: Origin) -> B256 {
        self.bans.pseudonym(&Subject::Origin(origin)).unwrap_or_default()
    }
}

impl Inner {
    fn end_trial(&mut self, trial: &Trial) {
        if let Some(banned) = self.banned.get_mut(&trial.origin)
            && banned.on_trial == Some(trial.number)
        {
            banned.on_trial = None;
        }
    }

    /// From here on it is out.
    fn keep_out(&mut self, origin: Origin, now: Instant, until: Instant) {
        if let Some(banned) = self.remember(origin, now, until) {
            banned.until = until;
            banned.next_trial = now + TRIAL_GAP;
        }
    }

    /// What is known of a banned origin; `None` if too many others are. Those are then simply closed.
    fn remember(&mut self, origin: Origin, now: Instant, until: Instant) -> Option<&mut Banned> {
        if self.banned.len() >= TRACKED && !self.banned.contains_key(&origin) {
            self.banned.retain(|_, b| b.on_trial.is_some() || now < b.until);
            if self.banned.len() >= TRACKED {
                return None;
            }
        }
        Some(self.banned.entry(origin).or_insert(Banned { until, next_trial: now, on_trial: None }))
    }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, B256, U256};
    use flytrap_policy::{Concern, Event, NamingPolicy, Options, Registry, Rules, Stamp};
    use prometheus_client::registry::Registry as Series;

    use super::*;
    use crate::config::{ChainConfig, Secret};
    use crate::mirror::MirrorWriter;
    use crate::outbox::Outbox;

    const BAN: Duration = Duration::from_secs(600);
    const HOUR: Duration = Duration::from_secs(3_600);
    const TICK: Duration = Duration::from_millis(1);
    const KEY: [u8; 32] = [7; 32];

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn origin(last: u8) -> Origin {
        Origin::from(address(last))
    }

    fn door(proof_beats_ban: bool) -> (Door, MirrorWriter) {
        door_after(proof_beats_ban, Vec::new())
    }

    /// A door of a later run.
    fn door_after(proof_beats_ban: bool, left: Vec<Ban>) -> (Door, MirrorWriter) {
        let metrics = Metrics::register(&mut Series::default());
        let (mirror, writer) = Mirror::new(&ChainConfig::for_tests(), Options::default());
        let limits = Limits { failures: 5, ban: BAN, proof_beats_ban, ..Limits::for_tests() };
        let bans = Arc::new(Bans::new(Secret::new(KEY), left));
        let outbox = Outbox::new(true, bans.clone(), metrics.clone());
        let (audit, _) = Audit::new(Rules::default(), outbox, mirror.clone(), metrics.clone());
        (Door::new(&limits, bans, mirror, audit, Arc::default(), metrics), writer)
    }

    fn fail(door: &Door, last: u8, times: usize, now: Instant) {
        for _ in 0..times {
            door.failed_at(address(last), "bad_signature", now);
        }
    }

    /// The mirror as it is once these events are in it.
    fn view(version: u64, events: &[Event]) -> Arc<View> {
        let mut registry = Registry::new(U256::ONE);
        let created = Event::BrokerCreated {
            broker_id: U256::ONE,
            owner: Address::with_last_byte(1),
            policy: NamingPolicy::OwnBranch,
            name: String::new(),
        };
        for event in std::iter::once(&created).chain(events) {
            registry.apply(event, Stamp { height: version, time: 1 }).unwrap();
        }
        let registry = Arc::new(registry);
        let (settled, options) = (registry.clone(), Options::default());
        Arc::new(View {
            settled,
            head: registry,
            height: version,
            concern: Concern::EVERYONE,
            time: 1,
            version,
            options,
        })
    }

    fn banned_on_chain(origin: Origin) -> Event {
        Event::OriginBanned {
            broker_id: U256::ONE,
            origin: origin.pseudonym(&KEY),
            by: Address::ZERO,
            until: u64::MAX,
            evidence: B256::ZERO,
            reason: String::new(),
        }
    }

    fn unbanned_on_chain(origin: Origin) -> Event {
        Event::OriginUnbanned {
            broker_id: U256::ONE,
            origin: origin.pseudonym(&KEY),
            by: Address::ZERO,
        }
    }

    #[test]
    fn five_failures_leave_the_door_open_and_the_sixth_closes_it_for_that_origin() {
        let ((door, _writer), start) = (door(false), Instant::now());
        fail(&door, 1, 5, start);
        assert!(matches!(door.admit_at(origin(1), start), Verdict::Open));
        fail(&door, 1, 1, start);
        assert!(matches!(door.admit_at(origin(1), start), Verdict::Closed));
        assert!(matches!(door.admit_at(origin(2), start), Verdict::Open));
        assert!(matches!(door.admit_at(origin(1), start + BAN - TICK), Verdict::Closed));
        assert!(matches!(door.admit_at(origin(1), start + BAN), Verdict::Open));
    }

    #[test]
    fn behind_a_ban_one_attempt_at_a_time_and_a_second_is_let_through() {
        let ((door, _writer), start) = (door(true), Instant::now());
        fail(&door, 1, 6, start);
        let early = start + TRIAL_GAP - TICK;
        assert!(matches!(door.admit_at(origin(1), early), Verdict::Closed), "within the second");
        let Verdict::Trial(trial) = door.admit_at(origin(1), start + TRIAL_GAP) else {
            panic!("no attempt after a second")
        };
        let later = start + 2 * TRIAL_GAP;
        assert!(matches!(door.admit_at(origin(1), later), Verdict::Closed), "one is under way");
        drop(trial);
        assert!(matches!(door.admit_at(origin(1), later), Verdict::Trial(_)));
        assert!(matches!(door.admit_at(origin(1), later), Verdict::Closed), "the same second");
    }

    #[test]
    fn an_attempt_that_ended_late_does_not_end_the_one_after_it() {
        let ((door, _writer), start) = (door(true), Instant::now());
        fail(&door, 1, 6, start);
        let admit = |seconds| door.admit_at(origin(1), start + seconds * TRIAL_GAP);
        let Verdict::Trial(first) = admit(1) else { panic!("no first attempt") };
        locked(&door.inner).end_trial(&first);
        let Verdict::Trial(_second) = admit(2) else { panic!("no second attempt") };
        drop(first);
        assert!(matches!(admit(3), Verdict::Closed));
    }

    #[test]
    fn a_ban_that_another_gateway_put_on_chain_closes_the_door_here() {
        let ((door, writer), now) = (door(false), Instant::now());
        writer.publish(view(1, &[banned_on_chain(origin(1))]));
        assert!(matches!(door.admit_at(origin(1), now), Verdict::Closed));
        assert!(matches!(door.admit_at(origin(2), now), Verdict::Open));
    }

    #[test]
    fn a_ban_lifted_on_chain_is_lifted_here() {
        let ((door, writer), now) = (door(false), Instant::now());
        let mut events = vec![banned_on_chain(origin(1))];
        fail(&door, 1, 6, now);
        let follow = |version, events: &[Event]| {
            let view = view(version, events);
            writer.publish(view.clone());
            door.follow(&view, 1);
        };
        follow(1, &[]);
        assert!(matches!(door.admit_at(origin(1), now), Verdict::Closed), "not yet on chain");
        follow(2, &events);
        assert!(matches!(door.admit_at(origin(1), now), Verdict::Closed));
        events.push(unbanned_on_chain(origin(1)));
        follow(3, &events);
        assert!(matches!(door.admit_at(origin(1), now), Verdict::Open));
    }

    /// THREATS A27
    #[test]
    fn a_ban_of_an_earlier_run_holds_before_anything_is_seen_of_the_chain() {
        let (before, _writer) = door(false);
        fail(&before, 1, 6, Instant::now());
        let left = before.bans.page(None, 10, 0);
        assert_eq!(left.len(), 1);
        let ((door, _writer), now) = (door_after(false, left), Instant::now());
        assert!(matches!(door.admit_at(origin(1), now), Verdict::Closed));
        assert!(matches!(door.admit_at(origin(2), now), Verdict::Open));
        assert!(matches!(door.admit_at(origin(1), now + BAN + TICK), Verdict::Open));
    }

    #[test]
    fn an_operators_ban_is_beaten_by_no_proof() {
        let (door, _writer) = door(true);
        let ban = crate::bans::tests::ban("192.0.2.0/30".parse().unwrap(), u64::MAX);
        door.bans.add(Ban { by: By::Operator, ..ban }, 1).unwrap();
        assert!(matches!(door.admit(address(1)), Verdict::Closed));
        assert!(matches!(door.admit(address(4)), Verdict::Open));
    }

    #[test]
    fn a_hundred_failures_at_once_make_one_ban() {
        let (door, _writer) = door(true);
        fail(&door, 1, 100, Instant::now());
        assert_eq!(door.metrics.bans.get(), 1);
    }

    #[test]
    fn a_rule_of_the_operator_bans_an_origin_for_its_own_time_and_no_longer_one_that_is_banned() {
        let (door, _writer) = door(false);
        let now = Instant::now();
        let penalty = |ban| Penalty { rule: "guessing".to_owned(), ban };
        door.punish_at(address(1), &penalty(HOUR), now);
        assert!(matches!(door.admit_at(origin(1), now + HOUR - TICK), Verdict::Closed));
        assert!(matches!(door.admit_at(origin(2), now), Verdict::Open));
        let subject = Subject::Origin(origin(1));
        let ban = door.bans.get(&subject, door.mirror.now()).expect("it is in the book");
        assert_eq!((ban.until - ban.since, ban.reason.as_str()), (3_600, RULE_REASON));
        assert!(!ban.reason.contains("guessing"), "a rule's name is not for the public");
        door.punish_at(address(1), &penalty(2 * HOUR), now + TICK);
        assert!(matches!(door.admit_at(origin(1), now + HOUR), Verdict::Open));
    }
}
