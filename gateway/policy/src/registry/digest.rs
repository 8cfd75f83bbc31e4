//! One number for a whole state, to prove that a followed state and a fresh replay are the same.

use alloy_primitives::{Address, B256, Keccak256, U256};

use super::facts::{Fee, Mark, Party};
use super::{Registry, Table};
use crate::{Offer, Topic};

impl Registry {
    /// The same for every registry with the same content, however it came about, and for no other.
    ///
    /// Each fact is hashed by itself and the hashes are added, so that no order has to be made: about a quarter of a
    /// microsecond per fact. It compares honest states; it is no commitment, as sums can be forged.
    #[must_use]
    pub fn digest(&self) -> B256 {
        let mut sum = Sum::default();
        sum.add("broker", |fact| {
            fact.update(self.broker_id.to_be_bytes::<32>());
            fact.update(self.owner.unwrap_or_default());
            fact.update([u8::from(self.owner.is_some()), self.policy as u8]);
            fee(fact, &self.publish_fee);
            fee(fact, &self.sale_fee);
            fact.update(self.name.as_bytes());
        });
        for registrar in &self.registrars {
            sum.add("registrar", |fact| fact.update(registrar));
        }
        for (gateway, uri) in &self.gateways {
            sum.add("gateway", |fact| {
                fact.update(gateway);
                fact.update(uri.as_bytes());
            });
        }
        for (gateway, (sequence, root)) in &self.anchors {
            sum.add("anchor", |fact| {
                fact.update(gateway);
                fact.update(sequence.to_be_bytes());
                fact.update(root);
            });
        }
        for (origin, until) in &self.origin_bans {
            sum.add("origin", |fact| {
                fact.update(origin);
                fact.update(until.to_be_bytes());
            });
        }
        for party in self.parties.iter().filter(|party| **party != Party::new(party.address)) {
            sum.add("party", |fact| {
                fact.update(party.address);
                fact.update(party.banned_until.to_be_bytes());
                fact.update(party.tokens_valid_from.to_be_bytes());
                fact.update(party.generation.to_be_bytes());
                if let Some(device) = party.device {
                    fact.update(device.wallet);
                    fact.update(device.until.to_be_bytes());
                    fact.update(device.generation.to_be_bytes());
                }
            });
        }
        let by_slot = self.topics_by_slot();
        for topic in by_slot.values() {
            sum.add("topic", |fact| describe(fact, topic));
        }
        for (topic, wallet, right, until) in self.grants() {
            sum.add("grant", |fact| {
                of_topic(fact, topic, wallet);
                fact.update([right as u8]);
                fact.update(until.to_be_bytes());
            });
        }
        let mut add_marks = |kind: &'static str, marks: &Table<Mark>| {
            let live =
                marks.iter().filter_map(|mark| Some((by_slot.get(&mark.slot)?, mark.wallet)));
            for (topic, wallet) in live {
                sum.add(kind, |fact| of_topic(fact, topic, wallet));
            }
        };
        add_marks("block", &self.blocks);
        add_marks("manager", &self.managers);
        sum.finish()
    }
}

#[derive(Default)]
struct Sum(U256);

impl Sum {
    fn add(&mut self, kind: &'static str, write: impl FnOnce(&mut Keccak256)) {
        let mut fact = Keccak256::new();
        fact.update(kind);
        fact.update([0]);
        write(&mut fact);
        self.0 = self.0.wrapping_add(fact.finalize().into());
    }

    fn finish(self) -> B256 {
        let mut whole = Keccak256::new();
        whole.update("FlyTrap registry 2");
        whole.update(self.0.to_be_bytes::<32>());
        whole.finalize()
    }
}

fn describe(fact: &mut Keccak256, topic: &Topic) {
    of_topic(fact, topic, topic.owner);
    let traits = topic.traits;
    fact.update([traits.retain, traits.sensitive, traits.own_branch].map(u8::from));
    offer(fact, &topic.publish_offer);
    offer(fact, &topic.subscribe_offer);
    fact.update([topic.countries.mode() as u8]);
    for country in topic.countries.countries().into_iter().flat_map(crate::Countries::iter) {
        fact.update(country.code());
    }
    // No country is 0, and no name that governs anything is empty.
    fact.update([0]);
    // What is known of a hidden one is what its id is made of.
    fact.update(topic.name.as_bytes());
}

fn of_topic(fact: &mut Keccak256, topic: &Topic, wallet: Address) {
    fact.update(topic.id);
    fact.update(topic.epoch.to_be_bytes());
    fact.update(wallet);
}

fn offer(fact: &mut Keccak256, offer: &Offer) {
    fact.update([offer.mode as u8]);
    fact.update(offer.period.to_be_bytes());
    fact.update(offer.price_wei.to_be_bytes());
}

fn fee(fact: &mut Keccak256, fee: &Fee) {
    fact.update(fee.amount.to_be_bytes());
    fact.update(fee.next.to_be_bytes());
    fact.update(fee.next_from.to_be_bytes());
}
