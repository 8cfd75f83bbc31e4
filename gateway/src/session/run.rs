//! The task of one session: wakes for octets, for the chain, for deadlines and for the end.

use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use alloy_primitives::B256;
use flytrap_policy::credential::{Challenge, Claim, Refusal};
use flytrap_policy::{AlertKind, Denial, Offence, Principal};
use tokio::time::{Instant as Timer, sleep_until, timeout};
use tracing::{debug, info};

use super::end::End;
use super::handshake::{Opened, open};
use super::machine::Machine;
use super::pace::Pace;
use super::proof::{self, Prover, Unproven};
use super::pump::{Pump, Stop, World};
use super::renewal::Step;
use super::seldom::Seldom;
use crate::audit::{self, Happening, Penalty, Waiting, Who};
use crate::conduct::Stay;
use crate::metrics::AuthorizationLabel;
use crate::shared::{Peer, Shared};
use crate::upstream::Stream;
use crate::upstreams::Carried;

/// Longest sleep: by then a session looks at peers that stall and at the age of the mirror, whatever else is due.
const ROUND: Duration = Duration::from_secs(30);
/// Time for what is on its way to either side when a session ends.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// As [`Denial::rule`] names it.
const COUNTRY: &str = "country";

/// Serves one connection from its CONNECT to its end. Everything that can go wrong ends here, and ends this session only.
pub async fn run(client: Stream, peer: Peer, shared: Arc<Shared>) {
    let begun = tokio::select! {
        // On the heap, so that what only the handshake needs is given back when it is over.
        begun = Box::pin(Session::begin(client, &peer, &shared)) => begun,
        () = shared.stop.cancelled() => None,
    };
    let Some(session) = begun else { return };
    let Principal { wallet, key, .. } = session.who.principal;
    shared.metrics.sessions.inc();
    if shared.log.may_say() {
        info!(peer = %peer.addr, %wallet, %key, listener = %peer.listener.name, "session opened");
    }
    let end = session.live().await;
    shared.metrics.sessions.dec();
    shared.metrics.session_ended(end.word());
    if shared.log.may_say() {
        info!(peer = %peer.addr, %wallet, %key, end = %end, "session ended");
    }
}

struct Session<'a> {
    pump: Pump<Stream, Stream>,
    machine: Machine,
    pace: Pace,
    stay: Stay,
    who: Who,
    /// By which databases its country is known.
    located: u64,
    proofs: Proofs<'a>,
    /// What went through and finds no room in the record yet. Nothing is read meanwhile.
    waits: Option<Waiting>,
    shared: &'a Shared,
    began: Instant,
    stalls: Stalls,
    /// When a round ends.
    round: Timer,
    #[expect(dead_code, reason = "it counts among those of its broker until it is dropped")]
    carried: Carried,
}

/// What a proof of a live session is judged with.
struct Proofs<'a> {
    prover: Prover<'a>,
    /// The question that the client has to answer.
    nonce: B256,
}

/// A proof that is being judged.
type Judging<'a> = Pin<Box<dyn Future<Output = Result<Principal, Unproven>> + Send + 'a>>;

/// Why a session woke.
enum Wake {
    Pump(Stop),
    /// Somebody wants its end.
    Ended,
    /// The mirror or the databases of countries did; `false` if there is no mirror any more.
    Moved(bool),
    Timer,
    Judged(Result<Principal, Unproven>),
    /// The record has room again.
    Recorded,
}

impl<'a> Session<'a> {
    /// The client's proof, and the broker's consent. On the heap: futures keep a copy of what is handed to each of them.
    async fn begin(client: Stream, peer: &'a Peer, shared: &'a Shared) -> Option<Box<Self>> {
        let Opened { pump, machine, principal, located, client_id, carried, stay } =
            open(client, peer, shared).await?;
        let began = Instant::now();
        let at = shared.conduct.since_start(began);
        let pace = Pace::new(shared.config.rates, stay.wallet.clone(), at);
        let proofs = Proofs { prover: Prover { peer, shared }, nonce: B256::ZERO };
        let (session, origin) = (shared.audit.next_session(), shared.door.pseudonym(peer.origin));
        let who = Who { principal, session, origin, client_id };
        Some(Box::new(Self {
            pump,
            machine,
            pace,
            stay,
            who,
            located,
            proofs,
            waits: None,
            shared,
            began,
            stalls: Stalls::default(),
            round: Timer::now() + ROUND,
            carried,
        }))
    }

    async fn live(mut self: Box<Self>) -> End {
        let shared = self.shared;
        let mut moved = shared.mirror.changed();
        if self.located != shared.countries.generation() {
            // Exchanged between the look and this subscription.
            moved.mark_changed();
        }
        let world = World { mirror: &shared.mirror, began: self.began };
        let timer = sleep_until(Timer::now());
        tokio::pin!(timer);
        // One for both, and kept.
        let ended = self.stay.ended.clone();
        let ended = ended.cancelled();
        tokio::pin!(ended);
        let bell = Arc::default();
        let mut judging: Option<Judging<'a>> = None;
        let end = loop {
            timer.as_mut().reset(self.wake(&world).min(self.round));
            let wake = {
                let seldom = std::pin::pin!(async {
                    tokio::select! {
                        biased;
                        () = &mut ended => Wake::Ended,
                        changed = moved.changed() => Wake::Moved(changed.is_ok()),
                        () = &mut timer => Wake::Timer,
                        judged = async {
                            match &mut judging {
                                Some(judging) => judging.await,
                                None => pending().await,
                            }
                        } => Wake::Judged(judged),
                    }
                });
                tokio::select! {
                    biased;
                    wake = Seldom::new(seldom, &bell) => wake,
                    wake = poll_fn(|cx| self.poll_octets(cx, &world)) => wake,
                }
            };
            let woken = match wake {
                Wake::Pump(Stop::Rearm) => Ok(()),
                Wake::Pump(Stop::End(end)) => Err(end),
                Wake::Ended => Err(match self.stay.banned_until() {
                    Some(until) => End::Denied(Denial::Banned { until }),
                    None => End::Stopping,
                }),
                Wake::Moved(true) if self.located != shared.countries.generation() => {
                    self.relocate(&world)
                }
                Wake::Moved(true) => self.follow(&world),
                Wake::Moved(false) => Err(End::Distrusted),
                Wake::Timer => self.tick(&world),
                Wake::Judged(judged) => {
                    judging = None;
                    self.renew(judged, &world)
                }
                Wake::Recorded => {
                    self.machine.set_clock(world.clock());
                    self.machine.resume();
                    Ok(())
                }
            };
            let woken = match self.machine.take_step() {
                Some(step) => woken.and_then(|()| self.judge(step).map(|begun| judging = begun)),
                None => woken,
            };
            self.report();
            if let Err(end) = woken {
                break end;
            }
            let due = self.machine.tallies_due(shared.config.audit.interval);
            if due.is_some_and(|due| self.began.elapsed() >= due) {
                self.hand_over();
            }
            if Timer::now() >= self.round {
                self.round = Timer::now() + ROUND;
                if let Some(end) = self.stalls.check(&self.pump) {
                    break end;
                }
            }
        };
        Box::pin(self.leave(&end)).await;
        end
    }

    /// Moves octets; but while the record has no room for what went through, only those that are on their way: what must be recorded goes no
    /// faster than the disk.
    fn poll_octets(&mut self, cx: &mut Context<'_>, world: &World<'_>) -> Poll<Wake> {
        if let Some(waits) = &mut self.waits {
            if let Err(end) = self.pump.drain(cx) {
                return Poll::Ready(Wake::Pump(Stop::End(end)));
            }
            ready!(waits.as_mut().poll(cx));
            self.waits = None;
            return Poll::Ready(Wake::Recorded);
        }
        // Before anything is read: a rule counts from the next message on.
        let each = self.shared.config.audit.each_message;
        self.machine.tally(self.shared.audit.wants_plain(), each);
        let stop = self.pump.poll(cx, &mut self.machine, world, &mut self.pace);
        self.report();
        stop.map(Wake::Pump)
    }

    /// Hands what went through to the record, which may have no room for it yet.
    fn hand_over(&mut self) {
        let accessed = self.shared.audit.access(&self.who, self.machine.take_tallies());
        self.punish(accessed.penalty);
        if let Some(waits) = accessed.waits {
            // A session that waits lets nothing through, so there is no other one that would be dropped here.
            debug_assert!(
                self.waits.is_none(),
                "something went through while the record had no room"
            );
            self.waits = Some(waits);
        }
    }

    /// Acts on a step of the client's towards a new proof.
    fn judge(&mut self, step: Step) -> Result<Option<Judging<'a>>, End> {
        let (prover, client_id) = (self.proofs.prover, self.who.client_id.clone());
        let server = prover.shared.config.name.as_deref();
        Ok(match (step, server) {
            (Step::Secret(data), _) => Some(Box::pin(async move {
                match Claim::in_data(&client_id, &data) {
                    Ok(claim) => prover.by_secret(&claim).await,
                    Err(refusal) => Err(prover.refuse(proof::Step::Secret, refusal)),
                }
            })),
            (Step::Begin | Step::Answer(_), None) => {
                Some(Box::pin(
                    async move { Err(prover.refuse(proof::Step::Secret, Refusal::Method)) },
                ))
            }
            (Step::Begin, Some(_)) => {
                self.proofs.nonce = B256::from(rand::random::<[u8; 32]>());
                let mut question = Vec::new();
                self.machine.ask(&self.proofs.nonce, &mut question)?;
                self.pump.tell_client(&question);
                None
            }
            (Step::Answer(answer), Some(server)) => {
                // Taken, so that no nonce is answered twice.
                let nonce = std::mem::take(&mut self.proofs.nonce);
                Some(Box::pin(async move {
                    let challenge = Challenge { client_id: &client_id, nonce, server };
                    prover.by_answer(&answer, &challenge).await
                }))
            }
        })
    }

    fn renew(&mut self, judged: Result<Principal, Unproven>, world: &World<'_>) -> Result<(), End> {
        let mut proved = judged
            .map_err(|why| End::NotRenewed { code: why.disconnect(), why: why.to_string() })?;
        proved.country = self.who.principal.country;
        self.machine.set_clock(world.clock());
        let mut done = Vec::new();
        self.machine.renew(proved, &mut done)?;
        self.pump.tell_client(&done);
        info!(peer = %self.proofs.prover.peer.addr, wallet = %proved.wallet, "session proved again");
        self.follow(world)
    }

    fn follow(&mut self, world: &World<'_>) -> Result<(), End> {
        self.machine.set_clock(world.clock());
        let machine = &mut self.machine;
        self.pump.act(|to_broker| machine.follow(world.view(), to_broker))
    }

    /// Looks where the client is by the databases of now. If that is elsewhere, everything is judged again.
    fn relocate(&mut self, world: &World<'_>) -> Result<(), End> {
        let shared = self.shared;
        self.located = shared.countries.generation();
        let country = shared.countries.country_of_client(self.proofs.prover.peer);
        if country != self.who.principal.country {
            // What went through until now did so from where the client was believed to be.
            self.report();
            self.hand_over();
            self.who.principal.country = country;
            self.machine.relocate(country);
        }
        self.follow(world)
    }

    fn tick(&mut self, world: &World<'_>) -> Result<(), End> {
        if world.is_distrusted() {
            return Err(End::Distrusted);
        }
        if self.waits.is_some() {
            // Nothing is read, so nobody is held to what it owes; and the broker is not told of a client that nobody hears that it is alive.
            return self.follow(world);
        }
        self.machine.set_clock(world.clock());
        if self.pace.held_until().is_some() {
            // It may have said much that we do not read.
            self.machine.heard_client(false);
        }
        let machine = &mut self.machine;
        self.pump.act(|to_broker| machine.tick(world.view(), to_broker))
    }

    /// When to wake if nothing else happens.
    fn wake(&self, world: &World<'_>) -> Timer {
        let (alive, rights) = self.machine.deadline();
        let clock = world.clock();
        let tallies = self.machine.tallies_due(self.shared.config.audit.interval);
        let alive = [alive, tallies, self.pace.held_until()].into_iter().flatten().min();
        let alive = alive.filter(|_| self.waits.is_none());
        let alive = alive.map_or(ROUND, |at| at.saturating_sub(clock.elapsed));
        // Seconds are compared as whole numbers: the right is gone when the next one begins.
        let rights = rights.map_or(ROUND, |at| Duration::from_secs(at.saturating_sub(clock.now)));
        Timer::now() + alive.min(rights).min(ROUND)
    }

    /// Hands what was refused to the record, and holds against the client what it did itself.
    fn report(&mut self) {
        let shared = self.shared;
        shared.metrics.add(&mut self.machine.traffic);
        if let Some(rate) = self.pace.take_throttled() {
            shared.metrics.throttled(rate);
        }
        if !self.machine.has_notes() {
            return;
        }
        let (principal, peer) = (&self.who.principal, self.proofs.prover.peer.addr);
        let (now, height) = (shared.mirror.now(), shared.mirror.peek().height);
        for note in self.machine.take_notes() {
            let (wallet, kind) = (principal.wallet, note.kind);
            debug!(%wallet, ?kind, rule = note.rule, count = note.count, "refused");
            let label = AuthorizationLabel { action: action_word(kind), outcome: note.rule };
            shared.metrics.authorizations.get_or_create(&label).inc_by(u64::from(note.count));
            let penalty = shared.audit.note(&Happening {
                kind: audit::kind_of(kind),
                rule: note.rule,
                topic_id: note.topic_id,
                count: u64::from(note.count),
                at: now,
                height,
                who: Some(&self.who),
                country: principal.country,
                origin: self.who.origin,
                blames_client: note.blames_client,
            });
            self.punish(penalty);
            if note.rule == COUNTRY {
                shared.countries.refused_by_rule();
            }
            if note.blames_client {
                shared.conduct.offended(principal, Offence::Refused, note.count, note.rule, peer);
            }
        }
    }

    /// Says farewell to both sides, giving what is on its way a moment to arrive.
    async fn leave(mut self: Box<Self>, end: &End) {
        let (mut to_client, mut to_broker) = (Vec::new(), Vec::new());
        let mirror = &self.shared.mirror;
        self.machine.set_clock(World { mirror, began: self.began }.clock());
        let view = mirror.fitness().decides().then(|| mirror.current());
        let countries = &self.shared.countries;
        if self.located != countries.generation() {
            // Where it is decides whether its will may fire.
            let country = countries.country_of_client(self.proofs.prover.peer);
            self.machine.relocate(country);
        }
        self.machine.leave(end, view, &mut to_client, &mut to_broker);
        self.report();
        if end.is_clients_fault() {
            let (conduct, peer) = (&self.shared.conduct, self.proofs.prover.peer.addr);
            conduct.offended(&self.who.principal, Offence::Fault, 1, end.word(), peer);
        }
        // Before anything is waited for, so that it is known of what is not written when the gateway stops.
        self.hand_over();
        let Pump { client, broker } = self.pump;
        let client_end = timeout(LAST_WORDS, client.finish(&to_client));
        let broker_end = timeout(LAST_WORDS, async {
            // Without a DISCONNECT the connection just ends, and the broker lets the will fire.
            match end {
                End::ClientLeft => broker.finish(&[]).await,
                _ if to_broker.is_empty() => broker.abandon().await,
                _ => broker.finish(&to_broker).await,
            }
        });
        let _ = tokio::join!(client_end, broker_end);
        // Last, so that a slow disk keeps nobody from hearing of the end.
        if let Some(waits) = self.waits {
            waits.await;
        }
    }

    /// Does what an audit rule has in store for whoever this is.
    fn punish(&self, penalty: Option<Penalty>) {
        if let Some(penalty) = penalty {
            let peer = self.proofs.prover.peer.addr;
            self.shared.conduct.punish(&self.who.principal, &penalty, peer);
        }
    }
}

/// Peers that take nothing although something waits for them. A session must not wait for them for ever.
#[derive(Default)]
struct Stalls {
    client: Option<(u64, Instant)>,
    broker: Option<(u64, Instant)>,
}

impl Stalls {
    fn check(&mut self, pump: &Pump<Stream, Stream>) -> Option<End> {
        if is_stalled(&mut self.client, pump.client.stalled_at()) {
            return Some(End::ClientStalled);
        }
        is_stalled(&mut self.broker, pump.broker.stalled_at()).then_some(End::BrokerStalled)
    }
}

/// Whether a peer that had taken so many octets `before` has still not taken more, a whole round later.
fn is_stalled(before: &mut Option<(u64, Instant)>, now: Option<u64>) -> bool {
    match (*before, now) {
        (Some((then, since)), Some(now)) if then == now => since.elapsed() >= ROUND,
        (_, now) => {
            *before = now.map(|sent| (sent, Instant::now()));
            false
        }
    }
}

fn action_word(kind: AlertKind) -> &'static str {
    match kind {
        AlertKind::PublishRefused => "publish",
        AlertKind::SubscribeRefused => "subscribe",
        AlertKind::WillRefused => "will",
        AlertKind::DeliveryWithheld => "deliver",
        AlertKind::SessionEnded => "keep",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There may be tens of thousands of them, mostly idle; allocators round up to 1,536.
    #[test]
    fn a_session_is_small() {
        let octets = size_of::<Session<'_>>();
        assert!(octets <= 1_536, "{octets} octets");
    }
}
