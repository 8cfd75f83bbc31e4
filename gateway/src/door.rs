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
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy_primitives::{B256, keccak256};
use flytrap_policy::{BanLedger, BanLimit, Origin, View};
use tracing::{info, warn};

use crate::config::{Limits, Secret};
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::outbox::{BanNote, Outbox};
use crate::shared::Peer;

/// Time between two attempts from a banned origin.
const TRIAL_GAP: Duration = Duration::from_secs(1);
/// Origins whose failures are remembered, and banned origins of which more is known. Some 100 octets each.
const TRACKED: usize = 65_536;

/// The ban ledger, shared bans, and attempts from behind bans.
#[derive(Debug)]
pub struct Door {
    inner: Arc<Mutex<Inner>>,
    ban: Duration,
    failures: u32,
    proof_beats_ban: bool,
    pseudonym_key: Secret<[u8; 32]>,
    mirror: Arc<Mirror>,
    outbox: Outbox,
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
    pseudonym: B256,
    /// Forgotten from here on, unless renewed.
    until: Instant,
    next_trial: Instant,
    /// Number of the attempt that is under way.
    on_trial: Option<u64>,
    /// The ban was seen on chain, so that its absence there means that it was lifted.
    seen_on_chain: bool,
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
    /// An empty ledger; bans on chain are read from `mirror`.
    pub fn new(
        limits: &Limits,
        pseudonym_key: Secret<[u8; 32]>,
        mirror: Arc<Mirror>,
        outbox: Outbox,
        metrics: Arc<Metrics>,
    ) -> Self {
        let ledger = BanLedger::new(BanLimit {
            failures: limits.failures,
            duration: limits.ban,
            tracked: TRACKED,
        });
        Self {
            inner: Arc::new(Mutex::new(Inner { ledger, banned: HashMap::new(), trials: 0 })),
            ban: limits.ban,
            failures: limits.failures,
            proof_beats_ban: limits.proof_beats_ban,
            pseudonym_key,
            mirror,
            outbox,
            metrics,
        }
    }

    /// What to do with a connection from `origin`.
    pub fn admit(&self, origin: Origin) -> Verdict {
        self.admit_at(origin, Instant::now())
    }

    fn admit_at(&self, origin: Origin, now: Instant) -> Verdict {
        let (view, time) = (self.mirror.peek(), self.mirror.now());
        let pseudonym = self.pseudonym(origin);
        let on_chain = view.origin_banned(pseudonym, time);
        let mut inner = locked(&self.inner);
        if !on_chain && !inner.ledger.is_banned(origin, now) {
            return Verdict::Open;
        }
        if !self.proof_beats_ban {
            return Verdict::Closed;
        }
        let number = inner.trials.wrapping_add(1);
        let Some(banned) = inner.remember(origin, pseudonym, now, now + self.ban) else {
            return Verdict::Closed;
        };
        banned.seen_on_chain |= on_chain;
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
        peer.trial.is_some() || !locked(&self.inner).ledger.is_banned(peer.origin, Instant::now())
    }

    /// Counts a failed proof, and bans the origin here and on chain if it was one too many. `rule` says which kind.
    pub fn failed(&self, peer: &Peer, rule: &'static str) {
        self.failed_at(peer.origin, rule, Instant::now());
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

    fn failed_at(&self, origin: Origin, rule: &'static str, now: Instant) {
        let pseudonym = self.pseudonym(origin);
        let until = {
            let mut inner = locked(&self.inner);
            let Some(until) = inner.ledger.record_failure(origin, now) else { return };
            if let Some(banned) = inner.remember(origin, pseudonym, now, until) {
                banned.until = until;
                banned.next_trial = now + TRIAL_GAP;
                banned.seen_on_chain = false;
            }
            until
        };
        self.metrics.bans.inc();
        let at = self.mirror.now();
        let ends = at.saturating_add(until.duration_since(now).as_secs());
        // The chain gets only the hash; who has this line of the log can show what it stood for.
        let evidence = format!(
            "flytrap ban of origin {pseudonym}: {} failed proofs in a row, the last {rule} at {at}",
            self.failures.saturating_add(1)
        );
        let hash = keccak256(evidence.as_bytes());
        warn!(origin = %pseudonym, rule, until = ends, evidence, evidence_hash = %hash, "origin banned");
        self.outbox.ban(BanNote { origin: pseudonym, until: ends, evidence: hash });
    }

    /// Lifts local bans that were seen on chain and are there no longer. Called whenever the mirror moved.
    pub fn follow(&self, view: &View, time: u64) {
        let now = Instant::now();
        let inner = &mut *locked(&self.inner);
        inner.banned.retain(|origin, banned| {
            if view.origin_banned(banned.pseudonym, time) {
                banned.seen_on_chain = true;
                return true;
            }
            if std::mem::take(&mut banned.seen_on_chain) && inner.ledger.is_banned(*origin, now) {
                inner.ledger.lift(*origin);
                info!(origin = %banned.pseudonym, "ban lifted on chain");
            }
            banned.on_trial.is_some() || now < banned.until
        });
    }

    fn pseudonym(&self, origin: Origin) -> B256 {
        origin.pseudonym(self.pseudonym_key.expose())
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

    /// What is known of a banned origin; `None` if too many others are. Those are then simply closed.
    fn remember(
        &mut self,
        origin: Origin,
        pseudonym: B256,
        now: Instant,
        until: Instant,
    ) -> Option<&mut Banned> {
        if self.banned.len() >= TRACKED && !self.banned.contains_key(&origin) {
            self.banned.retain(|_, b| b.on_trial.is_some() || now < b.until);
            if self.banned.len() >= TRACKED {
                return None;
            }
        }
        Some(self.banned.entry(origin).or_insert(Banned {
            pseudonym,
            until,
            next_trial: now,
            on_trial: None,
            seen_on_chain: false,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use alloy_primitives::{Address, U256};
    use flytrap_policy::{Event, NamingPolicy, Options, Registry, Stamp};
    use prometheus_client::registry::Registry as Series;

    use super::*;
    use crate::config::ChainConfig;
    use crate::mirror::MirrorWriter;

    const BAN: Duration = Duration::from_secs(600);
    const TICK: Duration = Duration::from_millis(1);
    const KEY: [u8; 32] = [7; 32];

    fn origin(last: u8) -> Origin {
        Origin::from(IpAddr::from([192, 0, 2, last]))
    }

    fn door(proof_beats_ban: bool) -> (Door, MirrorWriter) {
        let metrics = Metrics::register(&mut Series::default());
        let (mirror, writer) = Mirror::new(&ChainConfig::for_tests(), Options::default());
        let limits = Limits { failures: 5, ban: BAN, proof_beats_ban, ..Limits::for_tests() };
        let outbox = Outbox::new(true, metrics.clone());
        (Door::new(&limits, Secret::new(KEY), mirror, outbox, metrics), writer)
    }

    fn fail(door: &Door, origin: Origin, times: usize, now: Instant) {
        for _ in 0..times {
            door.failed_at(origin, "bad_signature", now);
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
        Arc::new(View { settled, head: registry, height: version, time: 1, version, options })
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
        fail(&door, origin(1), 5, start);
        assert!(matches!(door.admit_at(origin(1), start), Verdict::Open));
        fail(&door, origin(1), 1, start);
        assert!(matches!(door.admit_at(origin(1), start), Verdict::Closed));
        assert!(matches!(door.admit_at(origin(2), start), Verdict::Open));
        assert!(matches!(door.admit_at(origin(1), start + BAN - TICK), Verdict::Closed));
        assert!(matches!(door.admit_at(origin(1), start + BAN), Verdict::Open));
    }

    #[test]
    fn behind_a_ban_one_attempt_at_a_time_and_a_second_is_let_through() {
        let ((door, _writer), start) = (door(true), Instant::now());
        fail(&door, origin(1), 6, start);
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
        fail(&door, origin(1), 6, start);
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
        fail(&door, origin(1), 6, now);
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

    #[test]
    fn a_hundred_failures_at_once_make_one_ban() {
        let (door, _writer) = door(true);
        fail(&door, origin(1), 100, Instant::now());
        assert_eq!(door.metrics.bans.get(), 1);
    }
}
