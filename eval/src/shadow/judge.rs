//! Judges what the broker saw and what clients got, by the second opinion on the chain.
//!
//! Everything that is seen goes into one queue with its moment. A while later, when the states of that moment are known, it is judged:
//! unauthorised if no state that may have been in force allowed it, falsely refused if all of them did.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use alloy_primitives::Address;
use flytrap_shadow::{Acl, No, Right, Timeline, Who};
use flytrap_site::{Direction, Packet, Recorder, Seen, Spy};
use serde::Serialize;

/// A session: the number of the client, and the tag that its CONNECT carries as keep alive.
pub(super) type SessionId = (u16, u16);

/// Who a session is, as the harness knows it before CONNECT is sent.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) key: Address,
    pub(super) issued_at: Option<u64>,
    pub(super) expires_at: u64,
    /// Topic and retain flag.
    pub(super) will: Option<(String, bool)>,
}

/// What was seen, not yet judged.
#[derive(Debug)]
pub(super) enum Sight {
    /// The broker was sent a CONNECT.
    Connected { session: SessionId, wallet: Option<Address>, has_secret: bool },
    /// The broker was sent a PUBLISH.
    Forwarded { session: SessionId, topic: String, retain: bool, id: u64 },
    /// The broker was asked for a filter.
    Asked { session: SessionId, filter: String },
    /// The broker sent a PUBLISH towards a session.
    Sent { session: SessionId, topic: String, id: u64 },
    /// A client got a PUBLISH.
    Delivered { session: SessionId, topic: String, id: u64 },
    /// A subscriber at the broker got the will of a session.
    WillFired { session: SessionId },
    /// A subscriber at the broker got a PUBLISH of a session.
    Heard { session: SessionId, topic: String, id: u64 },
    /// A client's PUBLISH was sent at `from` and has been decided on by `to`.
    Published {
        session: SessionId,
        topic: String,
        retain: bool,
        id: u64,
        from: Instant,
        to: Instant,
    },
    /// A client's filter was refused; it was sent at `from`.
    FilterRefused { session: SessionId, filter: String, code: u8, from: Instant },
    /// CONNECT was answered with a refusal, or not at all.
    ConnectRefused { session: SessionId, code: Option<u8>, from: Instant },
    /// The gateway ended a session that held these filters. Last heard of at `from`.
    Ended { session: SessionId, filters: Vec<String>, code: Option<u8>, from: Instant },
    /// Everything sent towards the session before `from` has come, or never will.
    Barrier { session: SessionId, from: Instant },
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Fault {
    /// The broker saw a PUBLISH that nobody may have let through.
    PublishForwarded,
    /// The broker saw a SUBSCRIBE that reaches too far.
    FilterForwarded,
    /// The broker saw a CONNECT of someone who may not.
    ConnectForwarded,
    /// A client got a message that it may not read.
    Delivered,
    /// A will fired that may not.
    WillFired,
    /// A proof went to the broker.
    SecretForwarded,
    /// The broker passed on what no gateway sent it.
    PastTheGateway,
    /// Allowed, and refused: PUBLISH.
    PublishRefused,
    /// Allowed, and refused: filter.
    FilterRefused,
    /// Allowed, and refused: CONNECT.
    ConnectRefused,
    /// Allowed, and withheld.
    Withheld,
    /// A session was ended without a reason on chain.
    EndedForNothing,
}

impl Fault {
    /// Octets went where they may not, rather than not going where they may.
    #[must_use]
    pub fn is_leak(self) -> bool {
        !matches!(
            self,
            Self::PublishRefused
                | Self::FilterRefused
                | Self::ConnectRefused
                | Self::Withheld
                | Self::EndedForNothing
        )
    }
}

/// What was judged, and how.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Findings {
    /// PUBLISH packets of clients that were decided on.
    pub publishes: u64,
    /// Of them, seen by the broker.
    pub publishes_forwarded: u64,
    /// Messages that clients got.
    pub deliveries: u64,
    /// Filters that the broker was asked for.
    pub filters_forwarded: u64,
    /// Filters that were refused.
    pub filters_refused: u64,
    /// CONNECT packets that the broker saw.
    pub sessions: u64,
    /// CONNECT packets that were refused.
    pub connects_refused: u64,
    /// Sessions that the gateway ended.
    pub sessions_ended: u64,
    /// Wills that fired.
    pub wills_fired: u64,
    /// Messages that the broker sent towards a client and the gateway withheld.
    pub withheld: u64,
    /// Things that only the time for a change to take effect makes right: allowed just before.
    pub within_the_bound: u64,
    /// The most that the machine itself delayed what was judged, which is not held against the gateway, ms.
    pub longest_delay_ms: f64,
    /// How often of what.
    pub faults: BTreeMap<String, u64>,
    /// The first of them, told.
    pub told: Vec<String>,
    /// Octets that went where they may not.
    pub leaks: u64,
    /// What was refused or withheld and may not have been.
    pub false_refusals: u64,
}

/// Told in full are only so many faults.
const MOST_TOLD: usize = 40;
/// Clients wait while more than this is to be judged.
const BACKLOG: usize = 200_000;
/// A refusal of the gateway's own may be this much earlier than what was sent before it is at the broker.
const OVERTAKEN: Duration = Duration::from_secs(1);
/// Sights may be queued this much after their moment.
const SETTLE: Duration = Duration::from_millis(100);

struct Inner {
    timeline: Timeline,
    /// The chain is known up to here.
    chain_known: Instant,
    queue: Vec<(Instant, Sight)>,
    logins: HashMap<SessionId, Login>,
    wallets: HashMap<SessionId, Address>,
    /// PUBLISH ids that the broker was sent, by the session that sent them.
    forwarded: HashSet<u64>,
    /// What the broker sent towards each session less what has come.
    underway: HashMap<SessionId, HashMap<u64, (i32, String, Instant)>>,
    /// The session of each connection at the recorder.
    connections: HashMap<usize, SessionId>,
    /// How late this program itself was, or the machine let the gateway run, and when.
    lags: VecDeque<(Instant, Duration)>,
    found: Findings,
    /// When the spy was looked at last.
    looked: Instant,
    plain: bool,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Judge {
    inner: Arc<Mutex<Inner>>,
    seed: u64,
}

impl Judge {
    pub(super) fn new(bound: Duration, seed: u64, plain: bool) -> Self {
        let inner = Inner {
            timeline: Timeline::new(bound),
            chain_known: Instant::now(),
            queue: Vec::new(),
            logins: HashMap::new(),
            wallets: HashMap::new(),
            forwarded: HashSet::new(),
            underway: HashMap::new(),
            connections: HashMap::new(),
            lags: VecDeque::new(),
            found: Findings::default(),
            looked: Instant::now(),
            plain,
        };
        Self { inner: Arc::new(Mutex::new(inner)), seed }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session is about to begin.
    pub(super) fn login(&self, session: SessionId, login: Login) {
        self.lock().logins.insert(session, login);
    }

    /// Something was seen.
    pub(super) fn saw(&self, at: Instant, sight: Sight) {
        self.lock().queue.push((at, sight));
    }

    /// Waits while there is too much to judge.
    pub(super) async fn pace(&self) {
        while self.lock().queue.len() > BACKLOG {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A block appeared between these moments.
    pub(super) fn block(&self, earliest: Instant, visible: Instant, time: u64, acl: Arc<Acl>) {
        self.lock().timeline.push(earliest, visible, time, acl);
    }

    /// The chain was asked at this moment, and all that it said has been told.
    pub(super) fn chain_known(&self, until: Instant) {
        self.lock().chain_known = until;
    }

    /// This program ran late by so much, or the gateway had to wait for the machine.
    pub(super) fn lagged(&self, at: Instant, by: Duration) {
        let lags = &mut self.lock().lags;
        lags.push_back((at, by));
        while lags.front().is_some_and(|(then, _)| *then + Duration::from_secs(30) < at) {
            lags.pop_front();
        }
    }

    pub(super) fn findings(&self) -> Findings {
        self.lock().found.clone()
    }

    /// Takes what recorder and spy have, and judges what can be judged.
    pub(super) fn look(&self, recorder: &Recorder, spy: &Spy) {
        let now = Instant::now();
        let (seen, heard) = (recorder.drain(), spy.drain());
        let mut inner = self.lock();
        for seen in seen {
            inner.read(seen);
        }
        // The spy does not say when: after the last look at it, so that no will seems later than it was.
        let heard_at = std::mem::replace(&mut inner.looked, now);
        for publish in heard {
            let Some(tag) = Tag::read(&publish.payload) else { continue };
            let (at, sight) = if tag.is_will {
                (heard_at, Sight::WillFired { session: tag.session })
            } else {
                // Later than the recorder saw it, if the recorder did.
                let (session, topic, id) = (tag.session, publish.topic, tag.id);
                (Instant::now(), Sight::Heard { session, topic, id })
            };
            inner.queue.push((at, sight));
        }
        let horizon = now.checked_sub(SETTLE).unwrap_or(now).min(inner.chain_known);
        let queue = std::mem::take(&mut inner.queue);
        let (mut due, later): (Vec<_>, Vec<_>) =
            queue.into_iter().partition(|(at, _)| *at <= horizon);
        inner.queue = later;
        due.sort_by_key(|(at, _)| *at);
        for (at, sight) in due {
            inner.judge(at, sight, self.seed);
        }
    }

    pub(super) fn waits(&self) -> usize {
        self.lock().queue.len()
    }
}

/// What the payload of every message here begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) is_will: bool,
    pub(super) session: SessionId,
    pub(super) id: u64,
}

impl Tag {
    pub(super) fn write(self) -> Vec<u8> {
        let mut octets = vec![if self.is_will { b'W' } else { b'P' }];
        octets.extend(self.session.0.to_be_bytes());
        octets.extend(self.session.1.to_be_bytes());
        octets.extend(self.id.to_be_bytes());
        octets
    }

    pub(super) fn read(octets: &[u8]) -> Option<Self> {
        let is_will = match octets.first()? {
            b'W' => true,
            b'P' => false,
            _ => return None,
        };
        let number = |at: usize| Some(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?]));
        let id = u64::from_be_bytes(octets.get(5..13)?.try_into().ok()?);
        Some(Self { is_will, session: (number(1)?, number(3)?), id })
    }
}

/// The number in a client id such as `c12`, and the wallet before it, if there is one.
fn parties(client_id: &str) -> Option<(u16, Option<Address>)> {
    match client_id.split_once('-') {
        Some((wallet, own)) => Some((own.strip_prefix('c')?.parse().ok()?, wallet.parse().ok())),
        None => Some((client_id.strip_prefix('c')?.parse().ok()?, None)),
    }
}

impl Inner {
    fn read(&mut self, seen: Seen) {
        let Seen { connection, direction, at, packet } = seen;
        if let (Direction::ToBroker, Packet::Connect(connect)) = (direction, &packet) {
            if let Some((client, wallet)) = parties(&connect.client_id) {
                let session = (client, connect.keep_alive);
                self.connections.insert(connection, session);
                let has_secret = connect.password.is_some() || connect.user_name.is_some();
                self.queue.push((at, Sight::Connected { session, wallet, has_secret }));
            }
            return;
        }
        let Some(session) = self.connections.get(&connection).copied() else { return };
        match (direction, packet) {
            (Direction::ToBroker, Packet::Publish(publish)) => {
                let id = Tag::read(&publish.payload).map_or(0, |tag| tag.id);
                let (topic, retain) = (publish.topic, publish.retain);
                self.queue.push((at, Sight::Forwarded { session, topic, retain, id }));
            }
            (Direction::ToBroker, Packet::Subscribe { filters, .. }) => {
                for (filter, _) in filters {
                    self.queue.push((at, Sight::Asked { session, filter }));
                }
            }
            (Direction::ToGateway, Packet::Publish(publish)) => {
                let Some(tag) = Tag::read(&publish.payload) else { return };
                // A will has an id of its own kind.
                let topic = publish.topic;
                self.queue.push((at, Sight::Sent { session, topic, id: tag.id }));
            }
            _ => {}
        }
    }

    fn who(&self, session: SessionId) -> Option<Who> {
        let login = self.logins.get(&session)?;
        let known = self.wallets.get(&session).copied();
        let wallet = known.or_else(|| Some(self.timeline.newest()?.wallet_of(login.key)))?;
        Some(Who {
            key: login.key,
            wallet,
            issued_at: login.issued_at,
            expires_at: login.expires_at,
        })
    }

    fn slack(&self, at: Instant) -> Duration {
        // What happened before has been made up for by then. A wait is told when it is over.
        let from = at.checked_sub(Duration::from_millis(300)).unwrap_or(at);
        let near = self.lags.iter().rev().skip_while(|(then, _)| *then > at + SETTLE / 2);
        let near = near.take_while(|(then, _)| *then >= from);
        near.map(|(_, by)| *by).sum()
    }

    fn fault(&mut self, fault: Fault, seed: u64, what: &str) {
        *self.found.faults.entry(format!("{fault:?}")).or_default() += 1;
        if fault.is_leak() {
            self.found.leaks += 1;
        } else {
            self.found.false_refusals += 1;
        }
        if self.found.told.len() < MOST_TOLD {
            let told = format!("{fault:?}: {what} (replay: SEED={seed})");
            eprintln!("  FAULT {told}");
            self.found.told.push(told);
        }
    }

    /// Judges something that needs a right at this moment.
    fn need(
        &mut self,
        at: Instant,
        session: SessionId,
        fault: Fault,
        seed: u64,
        what: &str,
        allows: impl Fn(&Acl, &Who, u64) -> Result<(), No>,
    ) {
        let Some(who) = self.who(session) else {
            return self.fault(fault, seed, &format!("{what} by nobody that is known"));
        };
        let slack = self.slack(at);
        self.found.longest_delay_ms = self.found.longest_delay_ms.max(slack.as_secs_f64() * 1000.0);
        let check = |acl: &Acl, now| allows(acl, &who, now);
        let Err(no) = self.timeline.possible(at, at, slack, check) else {
            if !self.timeline.certain(at, at, Duration::ZERO, check) {
                self.found.within_the_bound += 1;
            }
            return;
        };
        let late = (1..40)
            .map(|step| Duration::from_millis(50 * step))
            .find(|more| self.timeline.possible(at, at, slack + *more, check).is_ok());
        let late = match late {
            Some(more) => format!("{} ms past the bound", more.as_millis()),
            None => "not allowed at any time near".to_owned(),
        };
        let what = format!(
            "client {} session {}: {what}: {no:?}, {late} (the machine's own delay {slack:?}, key {}, wallet {})",
            session.0, session.1, who.key, who.wallet
        );
        self.fault(fault, seed, &what);
    }

    fn was_certain(
        &self,
        session: SessionId,
        from: Instant,
        to: Instant,
        allows: impl Fn(&Acl, &Who, u64) -> Result<(), No>,
    ) -> bool {
        let Some(who) = self.who(session) else { return false };
        let slack = self.slack(from).max(self.slack(to));
        self.timeline.certain(from, to, slack, |acl, now| {
            // Before a CONNECT has succeeded the wallet is what the chain says at that moment.
            let wallet = acl.wallet_of(who.key);
            allows(acl, &Who { wallet, ..who }, now)
        })
    }

    fn judge(&mut self, at: Instant, sight: Sight, seed: u64) {
        match sight {
            Sight::Connected { session, wallet, has_secret } => {
                self.found.sessions += 1;
                if let Some(wallet) = wallet {
                    self.wallets.insert(session, wallet);
                }
                if has_secret && !self.plain {
                    let what = format!("client {} session {}", session.0, session.1);
                    self.fault(Fault::SecretForwarded, seed, &what);
                }
                let will = self.logins.get(&session).and_then(|login| login.will.clone());
                self.need(
                    at,
                    session,
                    Fault::ConnectForwarded,
                    seed,
                    "CONNECT",
                    |acl, who, now| {
                        acl.stands(who, now)?;
                        will.as_ref().map_or(Ok(()), |(topic, retain)| {
                            acl.may(who, Right::Publish, topic, *retain, now)
                        })
                    },
                );
            }
            Sight::Forwarded { session, topic, retain, id } => {
                self.forwarded.insert(id);
                let what = format!("step {id}: PUBLISH {topic} retain {retain}");
                let fault = Fault::PublishForwarded;
                self.need(at, session, fault, seed, &what, |acl, who, now| {
                    acl.may(who, Right::Publish, &topic, retain, now)
                });
            }
            Sight::Asked { session, filter } => {
                self.found.filters_forwarded += 1;
                let what = format!("SUBSCRIBE {filter}");
                self.need(at, session, Fault::FilterForwarded, seed, &what, |acl, who, now| {
                    acl.may_subscribe(who, &filter, now)
                });
            }
            Sight::Sent { session, topic, id } => {
                let underway = self.underway.entry(session).or_default();
                let entry = underway.entry(id).or_insert((0, topic, at));
                (entry.0, entry.2) = (entry.0 + 1, at);
                if entry.0 == 0 {
                    underway.remove(&id);
                }
            }
            Sight::Delivered { session, topic, id } => {
                self.found.deliveries += 1;
                let what = format!("step {id}: delivery of {topic}");
                self.need(at, session, Fault::Delivered, seed, &what, |acl, who, now| {
                    acl.may(who, Right::Subscribe, &topic, false, now)
                });
                let underway = self.underway.entry(session).or_default();
                let entry = underway.entry(id).or_insert((0, topic, at));
                entry.0 -= 1;
                if entry.0 == 0 {
                    underway.remove(&id);
                }
            }
            Sight::WillFired { session } => {
                self.found.wills_fired += 1;
                let Some((topic, retain)) =
                    self.logins.get(&session).and_then(|login| login.will.clone())
                else {
                    return;
                };
                let what = format!("will on {topic}");
                self.need(at, session, Fault::WillFired, seed, &what, |acl, who, now| {
                    acl.may(who, Right::Publish, &topic, retain, now)
                });
            }
            Sight::Heard { session, topic, id } => {
                if !self.forwarded.contains(&id) {
                    let what = format!("client {}: step {id} on {topic}", session.0);
                    self.fault(Fault::PastTheGateway, seed, &what);
                }
            }
            Sight::Published { session, topic, retain, id, from, to } => {
                let is_forwarded = self.forwarded.contains(&id);
                if !is_forwarded && at == to {
                    // What the gateway answers itself overtakes what it forwards, so it is looked for again.
                    let again = Sight::Published { session, topic, retain, id, from, to };
                    self.queue.push((at + OVERTAKEN, again));
                    return;
                }
                self.found.publishes += 1;
                if is_forwarded {
                    self.found.publishes_forwarded += 1;
                } else if self.was_certain(session, from, to, |acl, who, now| {
                    acl.may(who, Right::Publish, &topic, retain, now)
                }) {
                    let what = format!(
                        "client {} session {} step {id}: PUBLISH {topic} retain {retain}",
                        session.0, session.1
                    );
                    self.fault(Fault::PublishRefused, seed, &what);
                }
            }
            Sight::FilterRefused { session, filter, code, from } => {
                self.found.filters_refused += 1;
                if self.was_certain(session, from, at, |acl, who, now| {
                    acl.may_subscribe(who, &filter, now)
                }) {
                    let what = format!(
                        "client {} session {}: SUBSCRIBE {filter}, code {code:#04x}",
                        session.0, session.1
                    );
                    self.fault(Fault::FilterRefused, seed, &what);
                }
            }
            Sight::ConnectRefused { session, code, from } => {
                self.found.connects_refused += 1;
                let will = self.logins.get(&session).and_then(|login| login.will.clone());
                if self.was_certain(session, from, at, |acl, who, now| {
                    stands_with(acl, who, will.as_ref(), now)
                }) {
                    let what =
                        format!("client {} session {}: code {code:02x?}", session.0, session.1);
                    self.fault(Fault::ConnectRefused, seed, &what);
                }
                self.forget(session);
            }
            Sight::Ended { session, filters, code, from } => {
                self.found.sessions_ended += 1;
                let will = self.logins.get(&session).and_then(|login| login.will.clone());
                if self.was_certain(session, from, at, |acl, who, now| {
                    stands_with(acl, who, will.as_ref(), now)?;
                    filters.iter().try_for_each(|filter| acl.may_subscribe(who, filter, now))
                }) {
                    let what = format!(
                        "client {} session {}: code {code:02x?}, filters {filters:?}",
                        session.0, session.1
                    );
                    self.fault(Fault::EndedForNothing, seed, &what);
                }
                self.underway.remove(&session);
            }
            Sight::Barrier { session, from } => {
                let Some(underway) = self.underway.get_mut(&session) else { return };
                let old: Vec<(u64, (i32, String, Instant))> =
                    underway.extract_if(|_, entry| entry.2 < from).collect();
                for (id, (count, topic, sent)) in old {
                    if count <= 0 {
                        continue;
                    }
                    self.found.withheld += 1;
                    if self.was_certain(session, sent, at, |acl, who, now| {
                        acl.may(who, Right::Subscribe, &topic, false, now)
                    }) {
                        let what = format!(
                            "client {} session {} step {id}: delivery of {topic}",
                            session.0, session.1
                        );
                        self.fault(Fault::Withheld, seed, &what);
                    }
                }
            }
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.underway.remove(&session);
    }
}

fn stands_with(acl: &Acl, who: &Who, will: Option<&(String, bool)>, now: u64) -> Result<(), No> {
    acl.stands(who, now)?;
    will.map_or(Ok(()), |(topic, retain)| acl.may(who, Right::Publish, topic, *retain, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_read_as_it_was_written() {
        let tag = Tag { is_will: true, session: (7, 65_000), id: 1 << 40 };
        assert_eq!(Tag::read(&tag.write()), Some(tag));
        assert_eq!(Tag::read(b"P123"), None);
    }

    #[test]
    fn client_ids_name_client_and_wallet() {
        assert_eq!(parties("c12"), Some((12, None)));
        let wallet = "00000000000000000000000000000000000000aa";
        assert_eq!(
            parties(&format!("{wallet}-c3")),
            Some((3, Some(wallet.parse().expect("an address"))))
        );
        assert_eq!(parties("probe-1"), None);
    }
}
