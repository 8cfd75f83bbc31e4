//! The machine of one session: `(frame | mirror moved | tick)` in, octets to both sides out.
//!
//! Pure: it opens no socket and reads no clock, so a test can play any history to it. `uplink.rs` has what frames of the client
//! do, `downlink.rs` what frames of the broker do; here is what they share and what the world does to a session.

use std::collections::{HashMap, HashSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use flytrap_mqtt::{ConnAck, Connect, Version, encode, reason};
use flytrap_policy::{Action, AlertKind, Country, Denial, Principal, View};

use super::alias::Aliases;
use super::deliveries::Deliveries;
use super::end::End;
use super::lane::Lane;
use super::leases::Leases;
use super::packet_ids::{AnswerOrder, PacketIds};
use super::renewal::{Renewal, Step};
use super::tally::{Tallies, Tally};
use crate::config::DenyAction;
use crate::metrics::Traffic;

/// What an operator decides for every session of a listener.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What an MQTT 3 client that may not publish gets, as it cannot be told.
    pub deny_action: DenyAction,
    /// Octets of the largest whole packet, either way.
    pub max_packet_octets: usize,
    /// Most live subscriptions of one session.
    pub max_subscriptions: usize,
    /// Most QoS 1 and 2 publishes of the client that are under way.
    pub max_in_flight: u16,
    /// Longest time that a session may outlive its connection, in seconds; MQTT 5 only.
    pub session_expiry_cap: u32,
}

/// The time, as decisions and deadlines see it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// Seconds that rights end by: the later of block time and wall clock.
    pub now: u64,
    /// Since the session began, by a clock that never steps.
    pub elapsed: Duration,
}

/// What a client has used of its rates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Messages, and answers that nobody waits for.
    pub messages: u64,
    /// Filters to subscribe to and to leave, and pings.
    pub requests: u64,
    /// Octets of whole packets.
    pub octets: u64,
}

/// Equal refusals of one session, folded, on their way to the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// What was refused.
    pub kind: AlertKind,
    /// The governing topic, if one governs.
    pub topic_id: Option<B256>,
    /// The rule that refused it.
    pub rule: &'static str,
    /// How often since the last note.
    pub count: u32,
    /// Whether it is to be held against the client, see [`Denial::blames_client`].
    pub blames_client: bool,
}

/// The will that the broker holds for this session.
struct Will {
    topic: Box<str>,
    retain: bool,
}

/// Octets of filters, live and asked for, that one session may hold.
pub(super) const MOST_FILTER_OCTETS: usize = 512 * 1024;
/// Filters in SUBSCRIBE packets that the broker has yet to answer, refused ones included.
pub(super) const MOST_ASKED: usize = 65_536;
/// Octets of filters in one UNSUBSCRIBE of the gateway's own.
const UNSUBSCRIBE_OCTETS: usize = 16 * 1024;
/// What a broker's packet may be larger than a client's: topic aliases spelt out, subscription identifiers, the properties of another version.
const BROKER_SLACK: usize = 128 * 1024;

/// What was asked in one SUBSCRIBE. Refused filters leave a code and no name, so that nobody fills the memory with what they may not have.
pub(super) struct Asked {
    pub(super) id: NonZeroU16,
    /// For each filter of the client, in order, the code of its refusal or [`FORWARDED`].
    pub(super) codes: Vec<u8>,
    /// The filters that the broker was asked for, in order; those that were unsubscribed since have no name any more.
    pub(super) forwarded: Vec<Option<Box<str>>>,
}

/// Stands in [`Asked::codes`] for what the broker will say.
pub(super) const FORWARDED: u8 = 0x7F;

/// One authenticated session between a client and the broker.
pub struct Machine {
    pub(super) version: Version,
    pub(super) principal: Principal,
    pub(super) terms: Terms,
    /// Whether acknowledgements may carry a reason string [MQTT-3.1.2-29].
    pub(super) problem_information: bool,
    /// Octets of the largest packet that the client takes.
    pub(super) client_takes: usize,
    /// Octets of the largest packet that the broker takes.
    pub(super) broker_takes: usize,
    pub(super) broker_alias_maximum: u16,
    pub(super) client_alias_maximum: u16,
    pub(super) view: Arc<View>,
    /// Version of the view at which this principal's decisions were last taken anew; leases hold from then on.
    pub(super) judged_at: u64,
    pub(super) clock: Clock,

    pub(super) publish: Leases,
    pub(super) client_aliases: Aliases,
    pub(super) answers: AnswerOrder,
    /// QoS 2 publishes that were refused, whose PUBREL must not reach the broker.
    pub(super) refused: PacketIds,
    /// QoS 1 and 2 publishes that may be under way, and those of QoS 2 that the broker has yet to complete.
    pub(super) most_in_flight: usize,
    pub(super) incomplete: usize,

    pub(super) deliver: Leases,
    pub(super) broker_aliases: Aliases,
    /// QoS 2 deliveries, those withheld among them, whose PUBREL must not reach the client.
    pub(super) deliveries: Deliveries,
    /// Answers that the client owes to deliveries: they cost it nothing, as others decide how many there are.
    pub(super) answers_due: u32,

    /// Live filters and when the right to each ends at the latest.
    pub(super) subscriptions: HashMap<Box<str>, u64>,
    pub(super) asked: VecDeque<Asked>,
    /// Codes in `asked`, and octets of all filters held; both bounded.
    pub(super) asked_codes: usize,
    pub(super) filter_octets: usize,
    /// UNSUBSCRIBE packets that the broker has yet to answer, oldest first; `true`: the gateway's own.
    pub(super) unsubscribes: VecDeque<(NonZeroU16, bool)>,
    next_own_id: NonZeroU16,
    has_published: bool,

    will: Option<Will>,
    keep_alive: Duration,
    heard_client: Duration,
    told_broker: Duration,
    pub(super) client_pings: u32,
    /// A PINGREQ of the gateway's own waits behind this many of the client's.
    pub(super) own_ping: Option<u32>,
    /// The first second in which something that the session stands on may have ended by itself: its principal's standing, the right to a
    /// filter, the right to the will.
    pub(super) rights_until: u64,
    pub(super) rearm: bool,
    pub(super) renewal: Renewal,
    pub(super) step: Option<Step>,
    /// Whether a session survives the connection at the broker, by the client's wish and the broker's word.
    expires_at_once: bool,

    notes: Vec<Note>,
    /// What went through on sensitive topics.
    pub(super) tallies: Tallies,
    /// What was forwarded and refused since the driver last took it.
    pub traffic: Traffic,
    /// What the client has used since the driver last took it.
    pub used: Used,
}

/// Kinds of refusal that one session folds separately between two takings.
const MOST_NOTES: usize = 32;
/// SUBSCRIBE or UNSUBSCRIBE packets that the broker may owe an answer.
pub(super) const MOST_UNANSWERED: usize = 1_024;
/// A right without an end.
const NEVER: u64 = u64::MAX;

impl Machine {
    /// A session that the broker has accepted by `connack`.
    #[must_use]
    pub fn new(
        principal: Principal,
        connect: &Connect<'_>,
        connack: &ConnAck<'_>,
        terms: Terms,
        view: Arc<View>,
        clock: Clock,
    ) -> Self {
        let keep_alive = connack.server_keep_alive.unwrap_or(connect.keep_alive);
        let takes = connect.maximum_packet_size.map_or(usize::MAX, octets);
        Self {
            version: connect.version,
            terms,
            problem_information: connect.request_problem_information,
            client_takes: takes,
            broker_takes: connack.maximum_packet_size.map_or(usize::MAX, octets),
            broker_alias_maximum: connack.topic_alias_maximum,
            client_alias_maximum: connect.topic_alias_maximum,
            // A time that has passed, so that the first `follow` looks at everything.
            rights_until: 0,
            rearm: false,
            renewal: match connect.authentication_method {
                Some(_) => Renewal::Idle { not_before: clock.elapsed },
                None => Renewal::Impossible,
            },
            step: None,
            expires_at_once: connack.session_expiry.unwrap_or(connect.session_expiry) == 0,
            principal,
            judged_at: view.version,
            view,
            clock,
            publish: Leases::default(),
            client_aliases: Aliases::default(),
            answers: AnswerOrder::default(),
            refused: PacketIds::default(),
            deliver: Leases::default(),
            broker_aliases: Aliases::default(),
            deliveries: Deliveries::default(),
            most_in_flight: terms.max_in_flight.into(),
            incomplete: 0,
            answers_due: 0,
            subscriptions: HashMap::new(),
            asked: VecDeque::new(),
            asked_codes: 0,
            filter_octets: 0,
            unsubscribes: VecDeque::new(),
            next_own_id: NonZeroU16::MAX,
            has_published: false,
            will: connect
                .will
                .as_ref()
                .map(|will| Will { topic: will.topic.into(), retain: will.retain }),
            keep_alive: Duration::from_secs(u64::from(keep_alive)),
            heard_client: clock.elapsed,
            told_broker: clock.elapsed,
            client_pings: 0,
            own_ping: None,
            notes: Vec::new(),
            tallies: Tallies::default(),
            traffic: Traffic::default(),
            used: Used::default(),
        }
    }

    /// The protocol version of both connections.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The version of the view that decisions are taken from.
    #[must_use]
    pub fn view_version(&self) -> u64 {
        self.view.version
    }

    /// Tells the time; call before each batch of octets.
    #[inline]
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// The time since the session began, as it was last told.
    #[inline]
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.elapsed
    }

    /// Notes that a batch of the client's octets was read, and whether anything goes to the broker because of it.
    #[inline]
    pub fn heard_client(&mut self, told_broker: bool) {
        self.heard_client = self.clock.elapsed;
        if told_broker {
            self.told_broker = self.clock.elapsed;
        }
    }

    /// Nothing of the client was read for a while, through no fault of its own: what it owes by now counts from here.
    pub fn resume(&mut self) {
        self.heard_client = self.clock.elapsed;
        self.renewal.extend(self.clock.elapsed);
    }

    /// The mirror moved or a deadline came: judges again everything that the session stands on.
    ///
    /// Filters whose right ended are taken back at the broker, so that a shared group loses nothing to a member who may not read.
    ///
    /// # Errors
    /// [`End::Denied`] if the principal lost its standing or the right to its will, or if the last thing that the session was there for is gone: a session
    /// that still has other subscriptions, or has published, goes on without a word, for MQTT knows no way to tell it.
    pub fn follow(&mut self, view: Arc<View>, to_broker: &mut Lane<'_>) -> Result<(), End> {
        let moved = view.version != self.view.version;
        // What a view says is about the one before it: whoever missed that one does not know what happened.
        let concerned = moved
            && (view.version != self.view.version + 1 || view.concern.includes(&self.principal));
        self.view = view;
        if !concerned && !self.rights_are_due() {
            return Ok(());
        }
        self.judged_at = self.view.version;
        let now = self.clock.now;
        let mut until = self.view.standing(&self.principal, now).map_err(End::Denied)?;
        if let Some(will) = &self.will {
            // The broker fires a will on its own in too many cases to be asked each time: a takeover, a fault, the end of this process.
            // So a session whose will may not fire any more ends, and takes its will back with an ordinary DISCONNECT.
            let action = Action::Publish { retain: will.retain };
            match self.view.authorize(&self.principal, action, &will.topic, now) {
                Ok(permit) => until = until.min(permit.until()),
                Err(denial) => {
                    self.note(AlertKind::WillRefused, &denial);
                    return Err(End::Denied(denial));
                }
            }
        }
        let mut gone: Vec<(Box<str>, Denial)> = Vec::new();
        for (filter, ends) in &mut self.subscriptions {
            match self.view.authorize_filter(&self.principal, filter, now) {
                Ok(permit) => {
                    *ends = permit.until();
                    until = until.min(*ends);
                }
                Err(denial) => gone.push((filter.clone(), denial)),
            }
        }
        self.rights_until = until;
        let Some((_, denial)) = gone.first() else { return Ok(()) };
        let denial = denial.clone();
        for (_, denial) in &gone {
            self.note(AlertKind::SessionEnded, denial);
        }
        self.forget(gone.iter().map(|(filter, _)| &**filter));
        self.take_back(gone.into_iter().map(|(filter, _)| filter), to_broker)?;
        if self.subscriptions.is_empty() && self.asked.is_empty() && !self.has_published {
            return Err(End::Denied(denial));
        }
        Ok(())
    }

    /// The client turned out to be in another country than was believed: everything is judged again by the next [`Machine::follow`], and
    /// each packet anew from now on.
    pub fn relocate(&mut self, country: Option<Country>) {
        self.principal.country = country;
        self.judge_anew();
    }

    /// Forgets what was decided about the principal until now.
    pub(super) fn judge_anew(&mut self) {
        self.publish = Leases::default();
        self.deliver = Leases::default();
        self.rights_until = 0;
        self.rearm = true;
    }

    /// Unsubscribes at the broker, in packets of the gateway's own whose answers the client never sees.
    pub(super) fn take_back(
        &mut self,
        filters: impl Iterator<Item = Box<str>>,
        to_broker: &mut Lane<'_>,
    ) -> Result<(), End> {
        let mut filters = filters.peekable();
        while filters.peek().is_some() {
            if self.unsubscribes.len() >= MOST_UNANSWERED {
                return Err(End::ClientExcess("too many UNSUBSCRIBE packets unanswered"));
            }
            let (mut batch, mut octets) = (Vec::new(), 0);
            while octets < UNSUBSCRIBE_OCTETS
                && let Some(filter) = filters.next()
            {
                octets += filter.len();
                batch.push(filter);
            }
            let id = self.own_id();
            let batch = batch.iter().map(|filter| &**filter);
            encode::unsubscribe(self.version, id, batch, to_broker.buffer());
            self.unsubscribes.push_back((id, true));
            self.told_broker = self.clock.elapsed;
        }
        Ok(())
    }

    /// A packet identifier that nothing under way of the client's has [MQTT-2.2.1-3 of 5.0, MQTT-2.3.1-2 of 3.1.1]. It may take it while
    /// ours is under way: then the kinds of the answers tell them apart.
    fn own_id(&mut self) -> NonZeroU16 {
        let mut taken = PacketIds::default();
        let asked = self.asked.iter().map(|asked| asked.id);
        let unsubscribes = self.unsubscribes.iter().map(|(id, _)| *id);
        for id in asked.chain(unsubscribes).chain(self.answers.ids()) {
            taken.insert(id);
        }
        let mut id = self.next_own_id;
        // Each that is taken is passed over once, so this ends even if all are.
        while taken.remove(id) {
            id = one_less(id);
        }
        self.next_own_id = one_less(id);
        id
    }

    /// A deadline came, see [`Machine::deadline`]: keep alive, and rights that end by themselves.
    ///
    /// # Errors
    /// [`End::KeepAlive`], [`End::NotRenewed`], or as [`Machine::follow`].
    pub fn tick(&mut self, view: Arc<View>, to_broker: &mut Lane<'_>) -> Result<(), End> {
        if self.answer_is_due().is_some_and(|at| self.clock.elapsed >= at) {
            let why = "no answer came in time".to_owned();
            return Err(End::NotRenewed { code: reason::NOT_AUTHORIZED, why });
        }
        if !self.keep_alive.is_zero() {
            let elapsed = self.clock.elapsed;
            if elapsed.saturating_sub(self.heard_client) >= self.client_patience() {
                return Err(End::KeepAlive);
            }
            // The client is alive but all it sent lately was refused: the broker must not take it for dead.
            if elapsed.saturating_sub(self.told_broker) >= self.keep_alive
                && self.own_ping.is_none()
            {
                encode::pingreq(to_broker.buffer());
                self.own_ping = Some(self.client_pings);
                self.told_broker = elapsed;
            }
        }
        self.follow(view, to_broker)
    }

    /// When [`Machine::tick`] has something to do: since the session began for what the client owes, in seconds of [`Clock::now`] for rights.
    #[must_use]
    pub fn deadline(&self) -> (Option<Duration>, Option<u64>) {
        let alive = (!self.keep_alive.is_zero()).then(|| {
            let broker = match self.own_ping {
                None => self.told_broker + self.keep_alive,
                Some(_) => Duration::MAX,
            };
            broker.min(self.heard_client + self.client_patience())
        });
        let alive = [alive, self.answer_is_due()].into_iter().flatten().min();
        (alive, (self.rights_until != NEVER).then_some(self.rights_until))
    }

    /// Remembers a live filter and the end of the right to it.
    pub(super) fn hold(&mut self, filter: Box<str>, until: u64) {
        if until < self.rights_until {
            self.rights_until = until;
            self.rearm = true;
        }
        let octets = filter.len();
        if self.subscriptions.insert(filter, until).is_none() {
            self.filter_octets += octets;
        }
    }

    /// Forgets filters that are live no more, or will not be when the broker answers: it takes what it is sent in order.
    pub(super) fn forget<'f>(&mut self, filters: impl Iterator<Item = &'f str> + Clone) {
        for filter in filters.clone() {
            if self.subscriptions.remove(filter).is_some() {
                self.filter_octets = self.filter_octets.saturating_sub(filter.len());
            }
        }
        if self.asked.is_empty() {
            return;
        }
        // Of either there may be tens of thousands.
        let gone: HashSet<&str> = filters.collect();
        for wanted in self.asked.iter_mut().flat_map(|asked| &mut asked.forwarded) {
            if let Some(filter) = wanted.take_if(|filter| gone.contains(&**filter)) {
                self.filter_octets = self.filter_octets.saturating_sub(filter.len());
            }
        }
    }

    /// Octets of the largest packet that the broker may send.
    pub(super) fn broker_limit(&self) -> usize {
        self.terms.max_packet_octets.saturating_add(BROKER_SLACK)
    }

    /// Whether a DISCONNECT asks for a session to outlive its connection that was not to [MQTT-3.14.2-2]. Brokers take that for a fault and
    /// let the will fire.
    pub(super) fn raises_expiry(&self, wanted: Option<u32>) -> bool {
        self.expires_at_once && wanted.is_some_and(|seconds| seconds != 0)
    }

    /// Whether the deadline has come nearer since the last time this was asked.
    #[inline]
    pub fn take_rearm(&mut self) -> bool {
        std::mem::take(&mut self.rearm)
    }

    /// One and a half keep alive intervals [MQTT-3.1.2-22 of 5.0, MQTT-3.1.2-24 of 3.1.1].
    fn client_patience(&self) -> Duration {
        self.keep_alive + self.keep_alive / 2
    }

    /// Whether something that the session stands on may have ended by itself.
    #[inline]
    #[must_use]
    pub fn rights_are_due(&self) -> bool {
        self.clock.now >= self.rights_until
    }

    /// Says farewell to both sides: a reason to an MQTT 5 client; to the broker a DISCONNECT wherever the will must not fire,
    /// which is asked of `view` at this moment. Without a view that can be trusted (`None`), it must not.
    pub fn leave(
        &mut self,
        end: &End,
        view: Option<Arc<View>>,
        to_client: &mut Vec<u8>,
        to_broker: &mut Vec<u8>,
    ) {
        let is_trusted = view.is_some();
        if let Some(view) = view {
            self.view = view;
        }
        if self.version.is_v5()
            && let Some((code, sentence)) = self.reason_of(end)
        {
            encode::disconnect(self.version, code, sentence.as_deref(), to_client);
        }
        let said_goodbye = matches!(end, End::ClientLeft | End::BrokerLeft);
        // A ban may hold here before the chain has it.
        let is_banned = matches!(end, End::Denied(Denial::Banned { .. }));
        let may_fire = is_trusted && (self.will.is_none() || !is_banned) && self.will_may_fire();
        if !said_goodbye && !may_fire {
            encode::disconnect(self.version, reason::SUCCESS, None, to_broker);
        }
    }

    fn reason_of(&self, end: &End) -> Option<(u8, Option<String>)> {
        let told = |code: u8, sentence: &dyn std::fmt::Display| {
            let sentence = sentence.to_string();
            // Two octets of header, one of code, three of property and its length: the reason must fit what the client takes.
            let fits = sentence.len() + 16 <= self.client_takes;
            Some((code, fits.then_some(sentence)))
        };
        match end {
            End::ClientLeft | End::ClientLost | End::BrokerLeft => None,
            End::ClientFault(fault) => Some((fault.reason_code(), None)),
            End::ClientAnswer => Some((reason::PROTOCOL_ERROR, None)),
            End::ClientAlias => Some((reason::TOPIC_ALIAS_INVALID, None)),
            End::ClientExcess(sentence) => told(reason::QUOTA_EXCEEDED, sentence),
            End::ClientStalled => Some((reason::QUOTA_EXCEEDED, None)),
            End::ClientRate(_) => told(reason::MESSAGE_RATE_TOO_HIGH, end),
            End::ClientInFlight => Some((reason::RECEIVE_MAXIMUM_EXCEEDED, None)),
            End::BrokerFault(_) | End::BrokerStalled => Some((reason::UNSPECIFIED_ERROR, None)),
            End::KeepAlive => Some((reason::KEEP_ALIVE_TIMEOUT, None)),
            End::NotRenewed { code, .. } => Some((*code, None)),
            End::Denied(denial @ Denial::Banned { .. }) => {
                told(reason::ADMINISTRATIVE_ACTION, denial)
            }
            End::Denied(denial) | End::Refused(denial) => told(reason::NOT_AUTHORIZED, denial),
            End::Distrusted => told(
                reason::IMPLEMENTATION_SPECIFIC_ERROR,
                &"the chain cannot be seen, so nothing can be decided",
            ),
            End::Stopping => Some((reason::SERVER_SHUTTING_DOWN, None)),
        }
    }

    pub(super) fn will_may_fire(&self) -> bool {
        let Some(will) = &self.will else { return true };
        let action = Action::Publish { retain: will.retain };
        self.view.authorize(&self.principal, action, &will.topic, self.clock.now).is_ok()
    }

    /// Counts a refusal towards the record.
    pub(super) fn note(&mut self, kind: AlertKind, denial: &Denial) {
        let (topic_id, rule) = (denial.topic_id(), denial.rule());
        // What others send to it, or take from it, is not its doing.
        let is_own = matches!(kind, AlertKind::PublishRefused | AlertKind::SubscribeRefused);
        let blames_client = is_own && denial.blames_client();
        let kept = self.notes.len();
        let found = self
            .notes
            .iter_mut()
            .find(|note| note.kind == kind && note.topic_id == topic_id && note.rule == rule);
        match found {
            Some(note) => note.count = note.count.saturating_add(1),
            None if kept < MOST_NOTES => {
                self.notes.push(Note { kind, topic_id, rule, count: 1, blames_client });
            }
            // Full between two takings: the rest is counted under the kind alone, as ungoverned.
            None => {
                let last = &mut self.notes[MOST_NOTES - 1];
                *last = Note {
                    kind,
                    topic_id: None,
                    rule: "many",
                    count: last.count.saturating_add(1),
                    blames_client,
                };
            }
        }
    }

    /// Whether anything was refused since the notes were last taken.
    #[inline]
    #[must_use]
    pub fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// Takes what was refused since the last time.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// When [`Machine::take_tallies`] is due, on the clock of [`Clock::elapsed`]; `None` if there is nothing to take.
    #[must_use]
    pub fn tallies_due(&self, interval: Duration) -> Option<Duration> {
        self.tallies.due(interval)
    }

    /// From now on: whether what goes through on topics that are not sensitive is counted as well, and whether `each` message on one that is
    /// stands for itself.
    pub fn tally(&mut self, plain_too: bool, each: bool) {
        (self.tallies.plain_too, self.tallies.each) = (plain_too, each);
    }

    /// Takes what went through on sensitive topics since the last time, and on others where [`Machine::tally`] asked for it.
    pub fn take_tallies(&mut self) -> Vec<Tally> {
        self.tallies.take()
    }

    /// Counts messages that had a permit, see [`Tallies::spend`], with so many octets of payload each.
    #[inline]
    pub(super) fn count_to_broker(&mut self, messages: u64, payload: usize) {
        self.has_published = true;
        self.traffic.publishes_allowed += messages;
        self.traffic.payload_to_broker += messages * payload as u64;
    }

    /// The same the other way.
    #[inline]
    pub(super) fn count_to_client(&mut self, messages: u64, payload: usize) {
        self.traffic.deliveries_allowed += messages;
        self.traffic.payload_to_client += messages * payload as u64;
    }

    /// A reason string of `denial` for an acknowledgement that has so many other octets, if the client wants one and takes as much.
    pub(super) fn reason_string(&self, denial: &Denial, others: usize) -> Option<String> {
        if !self.version.is_v5() || !self.problem_information {
            return None;
        }
        let sentence = denial.to_string();
        (sentence.len() + others + 32 <= self.client_takes).then_some(sentence)
    }
}

fn one_less(id: NonZeroU16) -> NonZeroU16 {
    NonZeroU16::new(id.get() - 1).unwrap_or(NonZeroU16::MAX)
}

fn octets(size: NonZeroU32) -> usize {
    usize::try_from(size.get()).unwrap_or(usize::MAX)
}
