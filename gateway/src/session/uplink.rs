//! What frames of the client do: forwarded with a permit, refused with the answer of their version, or the end of the session.

use std::num::NonZeroU16;
use std::ops::Range;

use flytrap_mqtt::{
    Disconnect, Frame, FromClient, Malformed, Peer, Publish, QoS, Subscribe, Unsubscribe, encode,
    frame, kind, property, read_from_client, read_raw_publish, reason, rewrite_disconnect,
    rewrite_publish, rewrite_subscribe,
};
use flytrap_policy::{Action, AlertKind, Denial};

use super::alike::Head;
use super::end::End;
use super::lane::Lane;
use super::leases::lease_short;
use super::machine::{Asked, FORWARDED, MOST_ASKED, MOST_FILTER_OCTETS, MOST_UNANSWERED, Machine};
use crate::config::DenyAction;

/// The code that takes a refused filter's place in a SUBACK of MQTT 3 [MQTT-3.9.3-2]; MQTT 3.1 has none and gets the same.
const SUBSCRIBE_FAILED: u8 = 0x80;

impl Machine {
    /// Works off the whole frames at the front of `octets`, which are the source of `to_broker`. Returns how many octets they took.
    pub fn client_octets(
        &mut self,
        octets: &[u8],
        to_broker: &mut Lane<'_>,
        to_client: &mut Lane<'_>,
    ) -> (usize, Result<(), End>) {
        let (mut taken, mut publishes) = (0, 0);
        let done = loop {
            let next = match frame(&octets[taken..], self.terms.max_packet_octets) {
                Ok(Some(next)) => next,
                Ok(None) => break Ok(()),
                Err(fault) => break Err(End::ClientFault(fault)),
            };
            let start = taken;
            taken += next.octets().len();
            let at = start..taken;
            let done = if next.kind() == kind::PUBLISH {
                publishes += 1;
                self.client_publish(at, next, to_broker, to_client)
            } else {
                self.client_frame(at, next, to_broker, to_client).map(|()| None)
            };
            match done {
                Ok(Some(head)) if taken < octets.len() => {
                    let run = head.run_behind(&octets[start..]);
                    if run.frames > 0 {
                        publishes += run.frames;
                        self.count_to_broker(run.frames, head.payload());
                        to_broker.forward_all(taken..taken + run.octets, run.frames);
                        taken += run.octets;
                    }
                }
                Ok(_) => {}
                Err(end) => break Err(end),
            }
        };
        self.used.messages += publishes;
        self.used.octets += taken as u64;
        (taken, done)
    }

    /// Where the permit is one for frames that begin alike too, what they begin with.
    #[inline]
    fn client_publish(
        &mut self,
        at: Range<usize>,
        frame: Frame<'_>,
        to_broker: &mut Lane<'_>,
        to_client: &mut Lane<'_>,
    ) -> Result<Option<Head>, End> {
        let raw = read_raw_publish(self.version, Peer::Client, frame).map_err(End::ClientFault)?;
        let rest = raw.rest();
        if rest.topic_alias.is_some() {
            let publish = raw.check().map_err(End::ClientFault)?;
            return self.aliased_publish(at, &publish, to_broker, to_client).map(|()| None);
        }
        let lease = self.publish.slot(raw.topic());
        let version = self.judged_at;
        // A lease is for a name that was read before: equal octets are as good as read again.
        let permit = match lease.permit(version, self.clock.now, raw.topic(), rest.retain) {
            Some(permit) => permit,
            None => {
                let publish = raw.check().map_err(End::ClientFault)?;
                let action = Action::Publish { retain: publish.retain };
                match self.view.authorize(&self.principal, action, publish.topic, self.clock.now) {
                    Ok(permit) => {
                        lease_short(lease, &permit, version, raw.topic());
                        permit
                    }
                    Err(denial) => {
                        return self.refuse(&publish, &denial, to_client).map(|()| None);
                    }
                }
            }
        };
        if let Some(id) = rest.packet_id {
            self.expect_answer(id, rest.qos, rest.dup)?;
        }
        let spent = self.tallies.spend(permit, raw.topic(), rest.payload.len(), self.clock);
        self.rearm |= spent.is_soon();
        self.count_to_broker(1, rest.payload.len());
        to_broker.forward(at);
        Ok(Head::of(spent, &frame, rest))
    }

    /// A PUBLISH with a topic alias. The broker must never resolve it to another name than the gateway judged, so the name is spelt out
    /// wherever the broker did not see the packet that set the alias.
    #[cold]
    fn aliased_publish(
        &mut self,
        at: Range<usize>,
        publish: &Publish<'_>,
        to_broker: &mut Lane<'_>,
        to_client: &mut Lane<'_>,
    ) -> Result<(), End> {
        let Some(alias) = publish.topic_alias else { return Ok(()) };
        if alias.get() > self.broker_alias_maximum {
            return Err(End::ClientAlias);
        }
        if !publish.topic.is_empty() {
            // Recorded even if the packet is refused: the client goes on to mean this name by the alias.
            self.client_aliases
                .set(alias, publish.topic)
                .map_err(|_| End::ClientExcess("topic aliases stand for too many octets"))?;
        }
        let Some(topic) = self.client_aliases.topic(alias) else {
            return Err(End::ClientAlias);
        };
        let action = Action::Publish { retain: publish.retain };
        let permit = match self.view.authorize(&self.principal, action, topic, self.clock.now) {
            Ok(permit) => permit,
            Err(denial) => return self.refuse(publish, &denial, to_client),
        };
        let mut spelt = Vec::new();
        if publish.topic.is_empty() && !self.client_aliases.is_shared(alias) {
            rewrite_publish(self.version, publish, topic, publish.retain, &mut spelt);
            // The name makes the packet longer than the client could know, and a broker would end the session for it [MQTT-3.2.2-15].
            if spelt.len() > self.broker_takes {
                return self.answer_publish(publish, reason::QUOTA_EXCEEDED, None, to_client);
            }
        }
        if let Some(id) = publish.packet_id {
            self.expect_answer(id, publish.qos, publish.dup)?;
        }
        if spelt.is_empty() {
            to_broker.forward(at);
        } else {
            to_broker.buffer().extend_from_slice(&spelt);
        }
        // Asked again, as the topic may not be held on to while answers are counted.
        let Some(topic) = self.client_aliases.topic(alias) else {
            return Err(End::ClientAlias);
        };
        let spent = self.tallies.spend(permit, topic.as_bytes(), publish.payload.len(), self.clock);
        self.rearm |= spent.is_soon();
        self.client_aliases.share(alias);
        self.count_to_broker(1, publish.payload.len());
        Ok(())
    }

    #[inline]
    fn expect_answer(&mut self, id: NonZeroU16, qos: QoS, dup: bool) -> Result<(), End> {
        if self.answers.len() >= self.most_in_flight {
            return Err(End::ClientInFlight);
        }
        if qos == QoS::ExactlyOnce {
            self.refused.remove(id);
            // What is sent again was counted before; who says so of everything is still bounded by what is unanswered.
            if !dup {
                if self.incomplete >= self.most_in_flight {
                    return Err(End::ClientInFlight);
                }
                self.incomplete += 1;
            }
        }
        self.answers
            .forwarded(id)
            .map_err(|_| End::ClientExcess("more publishes unanswered than packet identifiers"))
    }

    /// Answers a PUBLISH that the broker never sees [MQTT-3.3.5-2].
    #[cold]
    fn refuse(
        &mut self,
        publish: &Publish<'_>,
        denial: &Denial,
        to_client: &mut Lane<'_>,
    ) -> Result<(), End> {
        self.traffic.publishes_refused += 1;
        self.note(AlertKind::PublishRefused, denial);
        // A 3.1.1 client cannot be told that it was refused: acknowledge as usual, or close. The operator chooses, since some would
        // rather lose a session than have a device believe delivered what was dropped.
        if !self.version.is_v5() && self.terms.deny_action == DenyAction::Close {
            return Err(End::Refused(denial.clone()));
        }
        let code = if self.version.is_v5() { reason::NOT_AUTHORIZED } else { reason::SUCCESS };
        let sentence = self.reason_string(denial, 0);
        self.answer_publish(publish, code, sentence.as_deref(), to_client)
    }

    /// Answers in the broker's stead, in the order of the publishes.
    fn answer_publish(
        &mut self,
        publish: &Publish<'_>,
        code: u8,
        sentence: Option<&str>,
        to_client: &mut Lane<'_>,
    ) -> Result<(), End> {
        let Some(id) = publish.packet_id else { return Ok(()) };
        let mut answer = Vec::new();
        if publish.qos == QoS::ExactlyOnce {
            self.refused.insert(id);
            encode::pubrec(self.version, id, code, sentence, &mut answer);
        } else {
            encode::puback(self.version, id, code, sentence, &mut answer);
        }
        self.answers
            .refused(id, &answer, to_client.buffer())
            .map_err(|_| End::ClientExcess("too many refused publishes behind one unanswered"))
    }

    fn client_frame(
        &mut self,
        at: Range<usize>,
        frame: Frame<'_>,
        to_broker: &mut Lane<'_>,
        to_client: &mut Lane<'_>,
    ) -> Result<(), End> {
        let packet = read_from_client(self.version, frame).map_err(End::ClientFault)?;
        match packet {
            FromClient::Publish(_) => {
                return self.client_publish(at, frame, to_broker, to_client).map(drop);
            }
            FromClient::PubRel(ack) if self.refused.remove(ack.packet_id) => {
                self.used.messages += 1;
                // Towards MQTT 5 the exchange ended with the PUBREC, so the identifier is not known any more.
                let code = if self.version.is_v5() {
                    reason::PACKET_IDENTIFIER_NOT_FOUND
                } else {
                    reason::SUCCESS
                };
                encode::pubcomp(self.version, ack.packet_id, code, None, to_client.buffer());
            }
            FromClient::PubRel(_) => {
                self.used.messages += 1;
                to_broker.forward(at);
            }
            FromClient::PubAck(ack) | FromClient::PubRec(ack) | FromClient::PubComp(ack) => {
                self.deliveries
                    .answered(frame.kind(), ack.packet_id, ack.is_failure())
                    .map_err(|_| End::ClientAnswer)?;
                match self.answers_due.checked_sub(1) {
                    Some(left) => self.answers_due = left,
                    None => self.used.messages += 1,
                }
                to_broker.forward(at);
            }
            FromClient::Subscribe(subscribe) => {
                self.used.requests += subscribe.len() as u64;
                return self.client_subscribe(at, &subscribe, to_broker, to_client);
            }
            FromClient::Unsubscribe(unsubscribe) => {
                self.used.requests += unsubscribe.len() as u64;
                self.client_unsubscribe(&unsubscribe)?;
                to_broker.forward(at);
            }
            FromClient::PingReq => {
                self.used.requests += 1;
                self.client_pings = self.client_pings.saturating_add(1);
                to_broker.forward(at);
            }
            FromClient::Disconnect(disconnect) => {
                if self.raises_expiry(disconnect.session_expiry) {
                    let id = property::id::SESSION_EXPIRY_INTERVAL;
                    return Err(End::ClientFault(Malformed::PropertyValue { id }));
                }
                self.client_disconnect(at, &disconnect, to_broker);
                return Err(End::ClientLeft);
            }
            FromClient::Auth(auth) => return self.client_auth(&auth),
        }
        Ok(())
    }

    fn client_subscribe(
        &mut self,
        at: Range<usize>,
        subscribe: &Subscribe<'_>,
        to_broker: &mut Lane<'_>,
        to_client: &mut Lane<'_>,
    ) -> Result<(), End> {
        if self.asked.len() >= MOST_UNANSWERED || self.asked_codes + subscribe.len() > MOST_ASKED {
            return Err(End::ClientExcess("too many SUBSCRIBE packets unanswered"));
        }
        let (mut codes, mut forwarded, mut why) = (Vec::new(), Vec::new(), None);
        let waiting: usize = self.asked.iter().map(|asked| asked.forwarded.len()).sum();
        let mut room =
            self.terms.max_subscriptions.saturating_sub(self.subscriptions.len() + waiting);
        let mut octets = self.filter_octets;
        for wanted in subscribe.filters() {
            let filter = wanted.filter;
            match self.view.authorize_filter(&self.principal, filter, self.clock.now) {
                Ok(_) => {
                    let is_new = !self.subscriptions.contains_key(filter);
                    if octets + filter.len() > MOST_FILTER_OCTETS || (is_new && room == 0) {
                        codes.push(reason::QUOTA_EXCEEDED);
                        continue;
                    }
                    room = room.saturating_sub(usize::from(is_new));
                    octets += filter.len();
                    codes.push(FORWARDED);
                    forwarded.push(Some(filter.into()));
                }
                Err(denial) => {
                    self.note(AlertKind::SubscribeRefused, &denial);
                    why.get_or_insert(denial);
                    codes.push(reason::NOT_AUTHORIZED);
                }
            }
        }
        if !self.version.is_v5() {
            for code in codes.iter_mut().filter(|code| **code != FORWARDED) {
                *code = SUBSCRIBE_FAILED;
            }
        }
        if forwarded.is_empty() {
            let others = codes.len();
            let sentence = why.as_ref().and_then(|denial| self.reason_string(denial, others));
            let (version, id) = (self.version, subscribe.packet_id);
            encode::suback(version, id, codes, sentence.as_deref(), to_client.buffer());
            return Ok(());
        }
        if forwarded.len() == codes.len() {
            to_broker.forward(at);
        } else {
            rewrite_subscribe(subscribe, |nth| codes[nth] == FORWARDED, to_broker.buffer());
        }
        self.asked_codes += codes.len();
        self.filter_octets = octets;
        self.asked.push_back(Asked { id: subscribe.packet_id, codes, forwarded });
        Ok(())
    }

    fn client_unsubscribe(&mut self, unsubscribe: &Unsubscribe<'_>) -> Result<(), End> {
        if self.unsubscribes.len() >= MOST_UNANSWERED {
            return Err(End::ClientExcess("too many UNSUBSCRIBE packets unanswered"));
        }
        let filters: Vec<&str> = unsubscribe.filters().collect();
        self.forget(filters.iter().copied());
        self.unsubscribes.push_back((unsubscribe.packet_id, false));
        Ok(())
    }

    /// Forwards the goodbye; but where it asks for a will that may not fire [MQTT-3.1.2-10], an ordinary one, and with no longer a session
    /// than CONNECT could have had.
    fn client_disconnect(
        &mut self,
        at: Range<usize>,
        disconnect: &Disconnect<'_>,
        to_broker: &mut Lane<'_>,
    ) {
        let cap = self.terms.session_expiry_cap;
        if disconnect.reason == reason::DISCONNECT_WITH_WILL && !self.will_may_fire() {
            encode::disconnect(self.version, reason::SUCCESS, None, to_broker.buffer());
        } else if disconnect.session_expiry.is_some_and(|seconds| seconds > cap) {
            rewrite_disconnect(disconnect, cap, to_broker.buffer());
        } else {
            to_broker.forward(at);
        }
    }
}
