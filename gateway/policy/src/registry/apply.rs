//! How the state follows from events.

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};

use super::Registry;
use super::facts::{ById, ByName, Device, Fee, Grant, Hidden, Mark, Party, Place, Topic, id_hash};
use super::names::{hidden_topic_id, is_topic_name, name_hash, topic_id as id_of};
use super::table::{Entry, PARTS};
use crate::{CountryRule, Event, Right, Stamp};

/// Fewer origin bans than this are never looked through for ended ones.
pub(super) const ORIGIN_BANS_SWEEP_AT: usize = 1_024;

/// Parts of each table that one event sweeps while there is something to sweep.
const PARTS_PER_EVENT: u32 = 16;

/// An event cannot follow on what is known: something was missed or made up, and the state must be built anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// The event belongs to another broker.
    #[error("event of broker {found} given to the registry of broker {wanted}")]
    OtherBroker {
        /// In the event.
        found: U256,
        /// Of the registry.
        wanted: U256,
    },
    /// The broker was created twice, or something happened to it before it was created.
    #[error("broker {broker_id} was created twice, or not before this event")]
    Creation {
        /// The broker.
        broker_id: U256,
    },
    /// The owner whom the event names is not the one who is known.
    #[error("the event names {found} as owner, known is {known}")]
    Owner {
        /// In the event.
        found: Address,
        /// In the state.
        known: Address,
    },
    /// The event is about a topic that is not registered.
    #[error("topic {topic_id} is not registered")]
    UnknownTopic {
        /// The topic.
        topic_id: B256,
    },
    /// A topic was registered that is registered already.
    #[error("topic {topic_id} is registered already")]
    TopicExists {
        /// The topic.
        topic_id: B256,
    },
    /// The id is not that of the name, or of the parent and the commitment that stand for a hidden one.
    #[error("topic {found} is registered with a name or commitment whose id is {wanted}")]
    TopicId {
        /// In the event.
        found: B256,
        /// As the contracts make it.
        wanted: B256,
    },
    /// The event is of another epoch than the topic.
    #[error("event of epoch {found} for topic {topic_id}, which is in epoch {known}")]
    Epoch {
        /// The topic.
        topic_id: B256,
        /// In the event.
        found: u64,
        /// In the state.
        known: u64,
    },
    /// A right was revoked whose end was another.
    #[error("a grant for topic {topic_id} that ended at {found} was revoked, known is {known:?}")]
    End {
        /// The topic.
        topic_id: B256,
        /// In the event.
        found: u64,
        /// In the state.
        known: Option<u64>,
    },
    /// A device key was revoked that did not act for this wallet.
    #[error("key {device} was revoked by {wallet}, for whom it did not act")]
    Device {
        /// The key.
        device: Address,
        /// In the event.
        wallet: Address,
    },
    /// A wallet's generation of device keys, or the moment from which its tokens count, went back.
    #[error("{what} of {wallet} is {found} in the event, known is {known}")]
    WentBack {
        /// Which of the two.
        what: &'static str,
        /// Whose.
        wallet: Address,
        /// In the event.
        found: u64,
        /// In the state.
        known: u64,
    },
    /// More than 2^31 topics were registered.
    #[error("too many topics were registered")]
    TooManyTopics,
}

impl Registry {
    /// Takes in the next event of the chain. After an error the state is as before.
    ///
    /// A topic whose name no contract registers (wildcards, a leading `$`, an empty level ...) is remembered, so that
    /// later events for it are no contradiction, and governs nothing.
    ///
    /// # Errors
    /// [`Inconsistent`] if the event cannot follow on what is known.
    pub fn apply(&mut self, event: &Event, at: Stamp) -> Result<(), Inconsistent> {
        if let Some(found) = event.broker_id() {
            let wanted = self.broker_id;
            if found != wanted {
                return Err(Inconsistent::OtherBroker { found, wanted });
            }
            if self.owner.is_some() == matches!(event, Event::BrokerCreated { .. }) {
                return Err(Inconsistent::Creation { broker_id: found });
            }
        }
        self.apply_checked(event, at)?;
        self.sweep();
        Ok(())
    }

    fn apply_checked(&mut self, event: &Event, at: Stamp) -> Result<(), Inconsistent> {
        match event {
            Event::BrokerCreated { owner, policy, name, .. } => {
                self.owner = Some(*owner);
                self.policy = *policy;
                self.name = Arc::from(name.as_str());
            }
            Event::BrokerOwnershipTransferred { previous_owner, new_owner, .. } => {
                if let Some(owner) = self.owner {
                    same_owner(*previous_owner, owner)?;
                }
                self.owner = Some(*new_owner);
            }
            Event::NamingPolicySet { policy, .. } => self.policy = *policy,
            Event::RegistrarSet { registrar, allowed: true, .. } => {
                self.registrars.insert(*registrar);
            }
            Event::RegistrarSet { registrar, allowed: false, .. } => {
                self.registrars.remove(registrar);
            }
            Event::GatewaySet { gateway, uri, .. } => {
                self.gateways.insert(*gateway, Arc::from(uri.as_str()));
            }
            Event::GatewayRemoved { gateway, .. } => {
                self.gateways.remove(gateway);
            }
            Event::PublishFeeSet { wei_per_day, effective_from, .. } => {
                self.publish_fee = followed_by(self.publish_fee, *wei_per_day, *effective_from, at);
            }
            Event::SaleFeeSet { basis_points, effective_from, .. } => {
                self.sale_fee = followed_by(self.sale_fee, *basis_points, *effective_from, at);
            }
            Event::WalletBanned { wallet, until, .. } => {
                self.update_party(*wallet, |party| party.banned_until = *until);
            }
            Event::WalletUnbanned { wallet, .. } => {
                self.update_party(*wallet, |party| party.banned_until = 0);
            }
            Event::OriginBanned { origin, until, .. } => self.ban_origin(*origin, *until, at),
            Event::OriginUnbanned { origin, .. } => {
                self.origin_bans.remove(origin);
            }

            Event::TopicRegistered {
                topic_id,
                owner,
                epoch,
                name,
                traits,
                publish_offer,
                subscribe_offer,
                ..
            } => {
                let topic = Topic {
                    id: *topic_id,
                    name: Arc::from(name.as_str()),
                    hidden: None,
                    owner: *owner,
                    epoch: *epoch,
                    traits: *traits,
                    publish_offer: *publish_offer,
                    subscribe_offer: *subscribe_offer,
                    countries: CountryRule::Any,
                    slot: self.next_slot,
                };
                return self.register(topic);
            }
            Event::HiddenTopicRegistered {
                topic_id,
                owner,
                epoch,
                parent_id,
                commitment,
                traits,
                publish_offer,
                subscribe_offer,
                ..
            } => {
                let parent = self.known(*parent_id)?;
                let below = parent.hidden.as_ref().map_or(&parent.name, |hidden| &hidden.below);
                let hidden = Hidden {
                    parent_id: *parent_id,
                    commitment: *commitment,
                    below: Arc::clone(below),
                };
                let topic = Topic {
                    id: *topic_id,
                    name: Arc::from(""),
                    hidden: Some(hidden),
                    owner: *owner,
                    epoch: *epoch,
                    traits: *traits,
                    publish_offer: *publish_offer,
                    subscribe_offer: *subscribe_offer,
                    countries: CountryRule::Any,
                    slot: self.next_slot,
                };
                return self.register(topic);
            }
            Event::TraitsSet { topic_id, traits, .. } => {
                return self.update_topic(*topic_id, |topic| topic.traits = *traits);
            }
            Event::OfferSet { topic_id, right, offer, .. } => {
                return self.update_topic(*topic_id, |topic| match right {
                    Right::Publish => topic.publish_offer = *offer,
                    Right::Subscribe => topic.subscribe_offer = *offer,
                });
            }
            Event::CountriesSet { topic_id, mode, codes, .. } => {
                let countries = CountryRule::new(*mode, codes);
                return self.update_topic(*topic_id, |topic| topic.countries = countries);
            }
            Event::TopicOwnershipTransferred { topic_id, new_owner, previous_owner, .. } => {
                same_owner(*previous_owner, self.known(*topic_id)?.owner)?;
                return self.update_topic(*topic_id, |topic| topic.owner = *new_owner);
            }
            Event::TopicDeleted { topic_id, owner, epoch, .. } => {
                return self.delete(*topic_id, *owner, *epoch);
            }
            Event::ManagerSet { topic_id, manager, allowed, .. } => {
                let mark = Mark { slot: self.known(*topic_id)?.slot, wallet: *manager };
                if *allowed {
                    self.managers.put(mark);
                } else {
                    self.managers.remove(mark.hash(), |held| *held == mark);
                }
            }

            Event::AccessGranted { topic_id, wallet, right, epoch, until, .. }
            | Event::AccessBought { topic_id, wallet, right, epoch, until, .. } => {
                let topic = self.in_epoch(*topic_id, *epoch)?;
                let grant = Grant::new(topic, *wallet, *right, *until);
                self.grants.put(grant);
            }
            Event::AccessRevoked { topic_id, wallet, right, epoch, was, .. } => {
                let topic = self.in_epoch(*topic_id, *epoch)?;
                let known = self.granted_until(topic, *wallet, *right);
                if known != Some(*was) {
                    return Err(Inconsistent::End { topic_id: *topic_id, found: *was, known });
                }
                let grant = Grant::new(topic, *wallet, *right, at.time.min(*was));
                self.grants.put(grant);
            }
            Event::WalletBlocked { topic_id, wallet, .. } => {
                let mark = Mark { slot: self.known(*topic_id)?.slot, wallet: *wallet };
                self.blocks.put(mark);
            }
            Event::WalletUnblocked { topic_id, wallet, .. } => {
                let mark = Mark { slot: self.known(*topic_id)?.slot, wallet: *wallet };
                self.blocks.remove(mark.hash(), |held| *held == mark);
            }

            Event::DeviceAuthorized { wallet, device, until, generation } => {
                self.raise_generation(*wallet, *generation, false)?;
                let acting = Device { wallet: *wallet, until: *until, generation: *generation };
                self.update_party(*device, |party| party.device = Some(acting));
            }
            Event::DeviceRevoked { wallet, device } => {
                let acting =
                    self.device(*device).copied().filter(|acting| acting.wallet == *wallet);
                let Some(acting) = acting else {
                    return Err(Inconsistent::Device { device: *device, wallet: *wallet });
                };
                let ended = Device { until: at.time.min(acting.until), ..acting };
                self.update_party(*device, |party| party.device = Some(ended));
            }
            Event::AllDevicesRevoked { wallet, generation } => {
                self.raise_generation(*wallet, *generation, true)?;
            }
            Event::TokensInvalidated { wallet, before } => {
                let known = self.tokens_valid_from(*wallet);
                if *before <= known {
                    let what = "the start of valid tokens";
                    return Err(Inconsistent::WentBack {
                        what,
                        wallet: *wallet,
                        found: *before,
                        known,
                    });
                }
                self.update_party(*wallet, |party| party.tokens_valid_from = *before);
            }

            Event::TopicOwnershipOffered { topic_id, .. } => {
                self.known(*topic_id)?;
            }
            Event::BrokerOwnershipOffered { .. }
            | Event::Credited { .. }
            | Event::PayoutSet { .. }
            | Event::Withdrawn { .. }
            | Event::NonceUsed { .. }
            | Event::AlertRaised { .. } => (),
            Event::Anchored { gateway, sequence, root, .. } => {
                self.anchors.insert(*gateway, (*sequence, *root));
            }
        }
        Ok(())
    }

    fn known(&self, topic_id: B256) -> Result<&Topic, Inconsistent> {
        self.topic_by_id(topic_id).ok_or(Inconsistent::UnknownTopic { topic_id })
    }

    fn in_epoch(&self, topic_id: B256, found: u64) -> Result<&Topic, Inconsistent> {
        let topic = self.known(topic_id)?;
        let known = topic.epoch;
        if found == known { Ok(topic) } else { Err(Inconsistent::Epoch { topic_id, found, known }) }
    }

    fn register(&mut self, topic: Topic) -> Result<(), Inconsistent> {
        let wanted = match &topic.hidden {
            None => id_of(self.broker_id, &topic.name),
            Some(hidden) => hidden_topic_id(self.broker_id, hidden.parent_id, hidden.commitment),
        };
        if topic.id != wanted {
            return Err(Inconsistent::TopicId { found: topic.id, wanted });
        }
        if self.topic_by_id(topic.id).is_some() {
            return Err(Inconsistent::TopicExists { topic_id: topic.id });
        }
        self.next_slot = self.next_slot.next().ok_or(Inconsistent::TooManyTopics)?;
        if let Some(hidden) = &topic.hidden {
            let nested = u32::from(hidden.is_nested(self.broker_id));
            self.change_place(&hidden.below, |place| {
                place.hidden_below = place.hidden_below.saturating_add(1);
                place.nested_below = place.nested_below.saturating_add(nested);
            });
        }
        self.put_topic(topic);
        Ok(())
    }

    fn update_topic(
        &mut self,
        topic_id: B256,
        change: impl FnOnce(&mut Topic),
    ) -> Result<(), Inconsistent> {
        let mut topic = self.known(topic_id)?.clone();
        change(&mut topic);
        self.put_topic(topic);
        Ok(())
    }

    pub(super) fn put_topic(&mut self, topic: Topic) {
        let topic = Arc::new(topic);
        if is_topic_name(&topic.name) {
            // Hidden topics below outlive a deletion, and are still below what is registered again.
            let there = self.in_order.get(&topic.name);
            let (hidden_below, nested_below) =
                there.map_or((0, 0), |place| (place.hidden_below, place.nested_below));
            let topic = Arc::clone(&topic);
            self.put_place(Place { topic, is_registered: true, hidden_below, nested_below });
        }
        self.by_id.put(ById(topic));
    }

    pub(super) fn change_place(&mut self, name: &str, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.in_order.get(name) {
            let mut place = place.clone();
            change(&mut place);
            self.put_place(place);
        }
    }

    pub(super) fn put_place(&mut self, place: Place) {
        let name = Arc::clone(&place.topic.name);
        let hash = name_hash(&name);
        if place.is_registered || place.hidden_below > 0 {
            if self.in_order.insert(Arc::clone(&name), place.clone()).is_none() {
                self.depths.add(&name);
            }
            self.by_name.put(ByName { hash, place });
        } else if self.in_order.remove(&name).is_some() {
            self.depths.remove(&name);
            self.by_name.remove(hash, |held| held.place.topic.name == name);
        }
    }

    fn delete(&mut self, topic_id: B256, owner: Address, epoch: u64) -> Result<(), Inconsistent> {
        let topic = self.in_epoch(topic_id, epoch)?;
        same_owner(owner, topic.owner)?;
        let (name, hidden, slot) = (Arc::clone(&topic.name), topic.hidden.clone(), topic.slot);
        self.by_id.remove(id_hash(topic_id), |held| held.0.id == topic_id);
        match hidden {
            None => self.change_place(&name, |place| place.is_registered = false),
            Some(hidden) => self.uncount(&hidden),
        }
        self.dead.insert(slot);
        Ok(())
    }

    /// Counts a hidden topic no longer among those that lie somewhere below a known name.
    pub(super) fn uncount(&mut self, hidden: &Hidden) {
        let nested = u32::from(hidden.is_nested(self.broker_id));
        self.change_place(&hidden.below, |place| {
            place.hidden_below = place.hidden_below.saturating_sub(1);
            place.nested_below = place.nested_below.saturating_sub(nested);
        });
    }

    /// Frees what deleted topics left behind, a little with each event, so that no event is slow. A round goes over
    /// all parts for those who were dead when it began.
    fn sweep(&mut self) {
        if self.parts_to_sweep == 0 {
            self.sweeping = std::mem::take(&mut self.dead);
            if self.sweeping.is_empty() {
                return;
            }
            self.parts_to_sweep = PARTS;
        }
        let swept = &self.sweeping;
        let first = self.parts_to_sweep.saturating_sub(PARTS_PER_EVENT);
        for part in (first..self.parts_to_sweep).rev() {
            let is_dead =
                |grant: &Grant| grant.key.slot().is_some_and(|slot| swept.contains(&slot));
            self.grants.sweep(part, is_dead);
            self.blocks.sweep(part, |mark| swept.contains(&mark.slot));
            self.managers.sweep(part, |mark| swept.contains(&mark.slot));
        }
        self.parts_to_sweep = first;
    }

    fn update_party(&mut self, address: Address, change: impl FnOnce(&mut Party)) {
        let mut party = self.party(address).copied().unwrap_or(Party::new(address));
        change(&mut party);
        self.parties.put(party);
    }

    fn raise_generation(
        &mut self,
        wallet: Address,
        found: u64,
        is_new: bool,
    ) -> Result<(), Inconsistent> {
        let known = self.party(wallet).map_or(0, |party| party.generation);
        if found < known + u64::from(is_new) {
            let what = "the generation";
            return Err(Inconsistent::WentBack { what, wallet, found, known });
        }
        if found > known {
            self.update_party(wallet, |party| party.generation = found);
        }
        Ok(())
    }

    fn ban_origin(&mut self, origin: B256, until: u64, at: Stamp) {
        self.origin_bans.insert(origin, until);
        if self.origin_bans.len() >= self.origin_bans_sweep_at {
            self.origin_bans = self
                .origin_bans
                .iter()
                .filter(|(_, until)| at.time < **until)
                .map(|(origin, until)| (*origin, *until))
                .collect();
            self.origin_bans_sweep_at = ORIGIN_BANS_SWEEP_AT.max(self.origin_bans.len() * 2);
        }
    }
}

fn same_owner(found: Address, known: Address) -> Result<(), Inconsistent> {
    if found == known { Ok(()) } else { Err(Inconsistent::Owner { found, known }) }
}

const fn followed_by(fee: Fee, next: u128, next_from: u64, at: Stamp) -> Fee {
    Fee { amount: fee.at(at.time), next, next_from }
}
