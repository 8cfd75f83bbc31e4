//! What frames of the broker do: delivered with a permit, withheld and answered in the client's stead, or passed on.

use std::ops::Range;

use flytrap_mqtt::{
    Frame, FromBroker, Malformed, PacketId, Peer, Publish, QoS, SubAck, encode, frame, kind,
    property, read_from_broker, read_raw_publish, reason, rewrite_publish, rewrite_suback,
};
use flytrap_policy::{Action, AlertKind, Denial};

use super::alike::Head;
use super::end::End;
use super::lane::Lane;
use super::leases::lease_short;
use super::machine::{FORWARDED, Machine};

/// A topic alias that was never set, or past what the client takes.
const UNKNOWN_ALIAS: Malformed = Malformed::PropertyValue { id: property::id::TOPIC_ALIAS };

impl Machine {
    /// Works off the whole frames at the front of `octets`, which are the source of `to_client`. Returns how many octets they took.
    pub fn broker_octets(
        &mut self,
        octets: &[u8],
        to_client: &mut Lane<'_>,
        to_broker: &mut Lane<'_>,
    ) -> (usize, Result<(), End>) {
        let mut taken = 0;
        loop {
            let next = match frame(&octets[taken..], self.broker_limit()) {
                Ok(Some(next)) => next,
                Ok(None) => return (taken, Ok(())),
                Err(fault) => return (taken, Err(End::BrokerFault(fault))),
            };
            let start = taken;
            taken += next.octets().len();
            let at = start..taken;
            let done = if next.kind() == kind::PUBLISH {
                self.broker_publish(at, next, to_client, to_broker)
            } else {
                self.broker_frame(at, next, to_client, to_broker).map(|()| None)
            };
            match done {
                Ok(Some(head)) if taken < octets.len() => {
                    let run = head.run_behind(&octets[start..]);
                    if run.frames > 0 {
                        self.count_to_client(run.frames, head.payload());
                        to_client.forward_all(taken..taken + run.octets, run.frames);
                        taken += run.octets;
                    }
                }
                Ok(_) => {}
                Err(end) => return (taken, Err(end)),
            }
        }
    }

    /// Where the permit is one for frames that begin alike too, what they begin with.
    #[inline]
    fn broker_publish(
        &mut self,
        at: Range<usize>,
        frame: Frame<'_>,
        to_client: &mut Lane<'_>,
        to_broker: &mut Lane<'_>,
    ) -> Result<Option<Head>, End> {
        let raw = read_raw_publish(self.version, Peer::Broker, frame).map_err(End::BrokerFault)?;
        let rest = raw.rest();
        if rest.topic_alias.is_some() {
            let publish = raw.check().map_err(End::BrokerFault)?;
            return self.aliased_delivery(at, &publish, to_client, to_broker).map(|()| None);
        }
        let lease = self.deliver.slot(raw.topic());
        let (version, now) = (self.judged_at, self.clock.now);
        let permit = match lease.permit(version, now, raw.topic(), false) {
            Some(permit) => permit,
            None => {
                let publish = raw.check().map_err(End::BrokerFault)?;
                match self.view.authorize(&self.principal, Action::Deliver, publish.topic, now) {
                    Ok(permit) => {
                        lease_short(lease, &permit, version, raw.topic());
                        permit
                    }
                    Err(denial) => {
                        self.withhold(&publish, &denial, to_broker);
                        return Ok(None);
                    }
                }
            }
        };
        if let Some(id) = rest.packet_id {
            self.expect_delivered(id, rest.qos);
        }
        let spent = self.tallies.spend(permit, raw.topic(), rest.payload.len(), self.clock);
        self.rearm |= spent.is_soon();
        self.count_to_client(1, rest.payload.len());
        to_client.forward(at);
        Ok(Head::of(spent, &frame, rest))
    }

    /// A delivery goes to the client, who owes an answer.
    #[inline]
    fn expect_delivered(&mut self, id: PacketId, qos: QoS) {
        self.answers_due = self.answers_due.saturating_add(1);
        if qos == QoS::ExactlyOnce {
            self.deliveries.sent(id);
        } else {
            self.deliveries.replaced(id);
        }
    }

    /// A delivery with a topic alias; see `aliased_publish`, the other way round.
    #[cold]
    fn aliased_delivery(
        &mut self,
        at: Range<usize>,
        publish: &Publish<'_>,
        to_client: &mut Lane<'_>,
        to_broker: &mut Lane<'_>,
    ) -> Result<(), End> {
        let Some(alias) = publish.topic_alias else { return Ok(()) };
        if alias.get() > self.client_alias_maximum {
            return Err(End::BrokerFault(UNKNOWN_ALIAS));
        }
        if !publish.topic.is_empty() {
            self.broker_aliases
                .set(alias, publish.topic)
                .map_err(|_| End::BrokerFault(UNKNOWN_ALIAS))?;
        }
        let Some(topic) = self.broker_aliases.topic(alias) else {
            return Err(End::BrokerFault(UNKNOWN_ALIAS));
        };
        let permit =
            match self.view.authorize(&self.principal, Action::Deliver, topic, self.clock.now) {
                Ok(permit) => permit,
                Err(denial) => {
                    self.withhold(publish, &denial, to_broker);
                    return Ok(());
                }
            };
        if publish.topic.is_empty() && !self.broker_aliases.is_shared(alias) {
            let out = to_client.buffer();
            let start = out.len();
            rewrite_publish(self.version, publish, topic, publish.retain, out);
            // The name makes the packet longer than the broker knows; what the client cannot take is as if sent [MQTT-3.1.2-25].
            if out.len() - start > self.client_takes {
                out.truncate(start);
                self.answer_in_stead(publish, to_broker);
                return Ok(());
            }
        } else {
            to_client.forward(at);
        }
        let spent = self.tallies.spend(permit, topic.as_bytes(), publish.payload.len(), self.clock);
        self.rearm |= spent.is_soon();
        self.broker_aliases.share(alias);
        if let Some(id) = publish.packet_id {
            self.expect_delivered(id, publish.qos);
        }
        self.count_to_client(1, publish.payload.len());
        Ok(())
    }

    /// Keeps a message from the client, and from stalling the broker's queue behind it.
    #[cold]
    fn withhold(&mut self, publish: &Publish<'_>, denial: &Denial, to_broker: &mut Lane<'_>) {
        self.traffic.deliveries_withheld += 1;
        self.note(AlertKind::DeliveryWithheld, denial);
        self.answer_in_stead(publish, to_broker);
    }

    fn answer_in_stead(&mut self, publish: &Publish<'_>, to_broker: &mut Lane<'_>) {
        let Some(id) = publish.packet_id else { return };
        if publish.qos == QoS::ExactlyOnce {
            self.deliveries.withheld(id);
            encode::pubrec(self.version, id, reason::SUCCESS, None, to_broker.buffer());
        } else {
            encode::puback(self.version, id, reason::SUCCESS, None, to_broker.buffer());
        }
    }

    fn broker_frame(
        &mut self,
        at: Range<usize>,
        frame: Frame<'_>,
        to_client: &mut Lane<'_>,
        to_broker: &mut Lane<'_>,
    ) -> Result<(), End> {
        let packet = read_from_broker(self.version, frame).map_err(End::BrokerFault)?;
        match packet {
            FromBroker::Publish(_) => {
                return self.broker_publish(at, frame, to_client, to_broker).map(drop);
            }
            // The one CONNACK of a session was read before the machine began.
            FromBroker::ConnAck(_) => {
                return Err(End::BrokerFault(Malformed::WrongDirection { kind: kind::CONNACK }));
            }
            FromBroker::Auth(_) => {
                return Err(End::BrokerFault(Malformed::NoAuthenticationMethod));
            }
            FromBroker::PubAck(ack) | FromBroker::PubRec(ack) => {
                if frame.kind() == kind::PUBREC && ack.is_failure() {
                    self.incomplete = self.incomplete.saturating_sub(1);
                }
                let own_follow = self.answers.answered(ack.packet_id);
                to_client.forward(at);
                if own_follow {
                    self.answers.release(to_client.buffer());
                }
            }
            FromBroker::PubRel(ack) => {
                if self.deliveries.released(ack.packet_id) {
                    let (version, id) = (self.version, ack.packet_id);
                    encode::pubcomp(version, id, reason::SUCCESS, None, to_broker.buffer());
                } else {
                    self.answers_due = self.answers_due.saturating_add(1);
                    to_client.forward(at);
                }
            }
            FromBroker::PubComp(_) => {
                self.incomplete = self.incomplete.saturating_sub(1);
                to_client.forward(at);
            }
            FromBroker::SubAck(suback) => {
                return self.broker_suback(at, &suback, to_client, to_broker);
            }
            FromBroker::UnsubAck(unsuback) => {
                let id = unsuback.packet_id;
                let found = self.unsubscribes.iter().position(|(waiting, _)| *waiting == id);
                let own =
                    found.and_then(|at| self.unsubscribes.remove(at)).is_some_and(|(_, own)| own);
                if !own {
                    to_client.forward(at);
                }
            }
            FromBroker::PingResp => match self.own_ping {
                Some(0) => {
                    self.own_ping = None;
                    // From now on the next one is due before the client's patience ends.
                    self.rearm = true;
                }
                own => {
                    self.own_ping = own.map(|ahead| ahead - 1);
                    self.client_pings = self.client_pings.saturating_sub(1);
                    to_client.forward(at);
                }
            },
            FromBroker::Disconnect(_) => {
                to_client.forward(at);
                return Err(End::BrokerLeft);
            }
        }
        Ok(())
    }

    /// Merges the broker's codes with the gateway's refusals, in the order of the client's filters [MQTT-3.9.3-1].
    fn broker_suback(
        &mut self,
        at: Range<usize>,
        suback: &SubAck<'_>,
        to_client: &mut Lane<'_>,
        to_broker: &mut Lane<'_>,
    ) -> Result<(), End> {
        let found = self.asked.iter().position(|asked| asked.id == suback.packet_id);
        let Some(asked) = found.and_then(|at| self.asked.remove(at)) else {
            return Err(End::BrokerFault(Malformed::PacketId));
        };
        self.asked_codes -= asked.codes.len();
        let octets: usize = asked.forwarded.iter().flatten().map(|filter| filter.len()).sum();
        self.filter_octets = self.filter_octets.saturating_sub(octets);
        if suback.codes.len() != asked.forwarded.len() {
            return Err(End::BrokerFault(Malformed::PacketId));
        }
        if asked.forwarded.len() == asked.codes.len() {
            to_client.forward(at);
        } else {
            let mut granted = suback.codes.iter().copied();
            let codes = asked
                .codes
                .iter()
                .filter_map(|code| if *code == FORWARDED { granted.next() } else { Some(*code) });
            rewrite_suback(suback, codes, to_client.buffer());
        }
        let mut gone = Vec::new();
        for (filter, code) in asked.forwarded.into_iter().zip(suback.codes) {
            let Some(filter) = filter.filter(|_| *code < 0x80) else { continue };
            // Between the question and the answer the right may have ended.
            match self.view.authorize_filter(&self.principal, &filter, self.clock.now) {
                Ok(permit) => self.hold(filter, permit.until()),
                Err(denial) => {
                    self.note(AlertKind::SessionEnded, &denial);
                    gone.push(filter);
                }
            }
        }
        self.forget(gone.iter().map(|filter| &**filter));
        self.take_back(gone.into_iter(), to_broker)
    }
}
