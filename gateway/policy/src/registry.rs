//! Everything that the chain says about one broker: built from events, read by decisions.
//!
//! `apply` takes in one event; `judge` answers whether a wallet may use a name or a filter by this state alone
//! ([`View`](crate::View) asks two states and joins the answers); `digest` tells whether two states are the same.
//! All collections are persistent, so a clone is a handful of pointers: the follower keeps one per block, and a
//! reorganisation is "take the older one". `store` writes a state out and reads it again.
//!
//! Memory: about 55 octets per grant. Grants, blocks and managers of a deleted topic are dead at once, since they are
//! kept under a number that no other registration gets; they are swept out over the following 8,192 events at most.
//! Grants that merely ended stay, one per wallet, right and topic, because "ended at" is a better answer than "none".

mod apply;
mod digest;
mod facts;
mod judge;
mod names;
mod store;
mod table;
mod told;

use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use imbl::{OrdMap, OrdSet};

pub use apply::Inconsistent;
pub use facts::{Device, Hidden, Topic};
pub(crate) use names::Shape;
pub use names::{hidden_topic_id, is_topic_name, name_commitment, topic_id};
pub use store::STORE_VERSION;

use crate::{NamingPolicy, Right};
use facts::{ById, ByName, Fee, Grant, Mark, Party, Place, Slot, id_hash};
use names::{Depths, Prefixes, name_hash};
use table::{Entry, Table};

/// State of one broker, and of all device keys.
#[derive(Debug, Clone)]
pub struct Registry {
    broker_id: U256,
    owner: Option<Address>,
    name: Arc<str>,
    policy: NamingPolicy,
    publish_fee: Fee,
    sale_fee: Fee,
    registrars: OrdSet<Address>,
    gateways: OrdMap<Address, Arc<str>>,
    /// The last anchor of each gateway that ever made one: its number and root.
    anchors: OrdMap<Address, (u64, B256)>,
    origin_bans: OrdMap<B256, u64>,
    /// Origin bans that have ended are dropped when there are this many.
    origin_bans_sweep_at: usize,
    parties: Table<Party>,
    /// Every topic as the chain tells it, those included that have a hidden name, or one that no contract registers, and
    /// therefore govern nothing.
    by_id: Table<ById>,
    /// The names at which something begins, by their hash and in their order.
    by_name: Table<ByName>,
    in_order: OrdMap<Arc<str>, Place>,
    depths: Depths,
    grants: Table<Grant>,
    blocks: Table<Mark>,
    managers: Table<Mark>,
    next_slot: Slot,
    /// Slots of deleted topics that wait for the next round of sweeping, those that this round is for, and how many
    /// parts it still has to go over.
    dead: OrdSet<Slot>,
    sweeping: OrdSet<Slot>,
    parts_to_sweep: u32,
}

impl Registry {
    /// The state before the first event.
    #[must_use]
    pub fn new(broker_id: U256) -> Self {
        Self {
            broker_id,
            owner: None,
            name: Arc::from(""),
            policy: NamingPolicy::default(),
            publish_fee: Fee::default(),
            sale_fee: Fee::default(),
            registrars: OrdSet::new(),
            gateways: OrdMap::new(),
            anchors: OrdMap::new(),
            origin_bans: OrdMap::new(),
            origin_bans_sweep_at: apply::ORIGIN_BANS_SWEEP_AT,
            parties: Table::new(),
            by_id: Table::new(),
            by_name: Table::new(),
            in_order: OrdMap::new(),
            depths: Depths::default(),
            grants: Table::new(),
            blocks: Table::new(),
            managers: Table::new(),
            next_slot: Slot::FIRST,
            dead: OrdSet::new(),
            sweeping: OrdSet::new(),
            parts_to_sweep: 0,
        }
    }

    /// The broker it is about.
    #[must_use]
    pub const fn broker_id(&self) -> U256 {
        self.broker_id
    }

    /// Owner of the broker, `None` before it was created.
    #[must_use]
    pub const fn owner(&self) -> Option<Address> {
        self.owner
    }

    /// The broker's name for people, empty before it was created.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Who may register at the top.
    #[must_use]
    pub const fn naming_policy(&self) -> NamingPolicy {
        self.policy
    }

    /// Who may register anywhere, in the order of addresses.
    pub fn registrars(&self) -> impl Iterator<Item = Address> {
        self.registrars.iter().copied()
    }

    /// Gateways and where clients find them, in the order of their keys.
    pub fn gateways(&self) -> impl Iterator<Item = (Address, &str)> {
        self.gateways.iter().map(|(gateway, uri)| (*gateway, &**uri))
    }

    /// May this key write to the audit log and ban?
    #[must_use]
    pub fn is_gateway(&self, key: Address) -> bool {
        self.gateways.contains_key(&key)
    }

    /// Number and root of the last anchor that this gateway made; 0 and zero if it made none.
    #[must_use]
    pub fn last_anchor(&self, gateway: Address) -> (u64, B256) {
        self.anchors.get(&gateway).copied().unwrap_or_default()
    }

    /// Wei per day that a publish grant costs.
    #[must_use]
    pub const fn publish_fee(&self, now: u64) -> u128 {
        self.publish_fee.at(now)
    }

    /// Basis points of each sale that the broker keeps.
    #[must_use]
    pub const fn sale_fee(&self, now: u64) -> u128 {
        self.sale_fee.at(now)
    }

    /// Wallets that are banned, and until when, in the order of addresses. Walks all that is known of wallets.
    #[must_use]
    pub fn wallet_bans(&self, now: u64) -> Vec<(Address, u64)> {
        let banned = self.parties.iter().filter(|party| now < party.banned_until);
        let mut bans: Vec<_> = banned.map(|party| (party.address, party.banned_until)).collect();
        bans.sort_unstable();
        bans
    }

    /// End of the wallet's ban, if it is banned.
    #[must_use]
    pub fn wallet_banned_until(&self, wallet: Address, now: u64) -> Option<u64> {
        self.party(wallet).map(|party| party.banned_until).filter(|&until| now < until)
    }

    /// Origins (as pseudonyms) that are banned, and until when, in their order.
    pub fn origin_bans(&self, now: u64) -> impl Iterator<Item = (B256, u64)> {
        let all = self.origin_bans.iter().map(|(origin, until)| (*origin, *until));
        all.filter(move |&(_, until)| now < until)
    }

    /// End of the origin's ban, if it is banned.
    #[must_use]
    pub fn origin_banned_until(&self, pseudonym: B256, now: u64) -> Option<u64> {
        self.origin_bans.get(&pseudonym).copied().filter(|&until| now < until)
    }

    /// The topic registered under exactly this name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Topic> {
        self.named(name, name_hash(name))
    }

    /// The topic with this id.
    #[must_use]
    pub fn topic_by_id(&self, id: B256) -> Option<&Topic> {
        self.with_id(id).map(|topic| &**topic)
    }

    /// The topic that governs a name: the longest registered prefix of whole levels, octet by octet. Hidden topics
    /// are left out, but for those whose names were told.
    #[must_use]
    #[inline]
    pub fn governing(&self, name: &str) -> Option<&Topic> {
        self.rule(name).topic
    }

    /// What governs a name, and what may hide between that and the name.
    #[inline]
    fn rule(&self, name: &str) -> Rule<'_> {
        let mut rule = Rule { topic: None, hidden_at: None, hidden_below: None };
        for (prefix, hash) in Prefixes::of(name, &self.depths) {
            let Some(place) = self.place(prefix, hash) else { continue };
            if place.is_registered {
                rule = Rule { topic: Some(&place.topic), hidden_at: None, hidden_below: None };
            }
            if place.hidden_below > 0 {
                let is_it = prefix.len() == name.len();
                let found = if is_it { &mut rule.hidden_at } else { &mut rule.hidden_below };
                *found = Some(place.topic.id);
            }
        }
        rule
    }

    /// All topics whose names are on chain, in the order of the names.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.in_order.values().filter_map(Place::registered).filter(|topic| topic.hidden.is_none())
    }

    /// All topics that have a hidden name, in no order that means anything.
    pub fn hidden_topics(&self) -> impl Iterator<Item = &Topic> {
        self.by_id.iter().map(|held| &*held.0).filter(|topic| topic.hidden.is_some())
    }

    /// Those of [`Registry::topics`] below a name (not at it); all of them for the empty name.
    pub fn topics_below(&self, name: &str) -> impl Iterator<Item = &Topic> {
        self.places_below(name).filter_map(Place::registered).filter(|topic| topic.hidden.is_none())
    }

    fn places_below(&self, name: &str) -> impl Iterator<Item = &Place> {
        let (from, to) = match name {
            "" => (String::new(), None),
            // '0' is the octet after '/'.
            _ => (format!("{name}/"), Some(format!("{name}0"))),
        };
        let range = (
            std::ops::Bound::Included(from.as_str()),
            to.as_deref().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded),
        );
        self.in_order.range::<_, str>(range).map(|(_, place)| place)
    }

    /// End of the last grant of this right in the topic's present epoch, `None` if there was none. What was revoked
    /// ended when it was.
    #[must_use]
    pub fn grant(&self, topic_id: B256, wallet: Address, right: Right) -> Option<u64> {
        self.granted_until(self.topic_by_id(topic_id)?, wallet, right)
    }

    /// Every grant there ever was in the present epoch of its topic, ended or not: topic, wallet, right, end. In no
    /// order that means anything; walks all topics and all grants.
    pub fn grants(&self) -> impl Iterator<Item = (&Topic, Address, Right, u64)> {
        let by_slot = self.topics_by_slot();
        self.grants.iter().filter_map(move |grant| {
            let topic = *by_slot.get(&grant.key.slot()?)?;
            Some((topic, grant.wallet, grant.key.right(), grant.until))
        })
    }

    /// How many grants are held in memory, those of deleted topics included until they are swept.
    #[must_use]
    pub const fn grant_count(&self) -> usize {
        self.grants.len()
    }

    /// Has the topic's owner or a manager blocked the wallet?
    #[must_use]
    pub fn is_blocked(&self, topic_id: B256, wallet: Address) -> bool {
        self.topic_by_id(topic_id).is_some_and(|topic| is_marked(&self.blocks, topic, wallet))
    }

    /// Does the wallet manage the topic for its owner?
    #[must_use]
    pub fn is_manager(&self, topic_id: B256, wallet: Address) -> bool {
        self.topic_by_id(topic_id).is_some_and(|topic| is_marked(&self.managers, topic, wallet))
    }

    /// For whom a key acts as a device, `None` if for nobody (any more).
    #[must_use]
    pub fn wallet_of(&self, key: Address, now: u64) -> Option<Address> {
        let device = self.device(key)?;
        self.is_live(device, now).then_some(device.wallet)
    }

    /// What is known of a device key, whether it still acts or not.
    #[must_use]
    pub fn device(&self, key: Address) -> Option<&Device> {
        self.party(key)?.device.as_ref()
    }

    /// Tokens that the wallet itself signed before this second are worthless; 0 if all count.
    #[must_use]
    pub fn tokens_valid_from(&self, wallet: Address) -> u64 {
        self.party(wallet).map_or(0, |party| party.tokens_valid_from)
    }

    fn is_live(&self, device: &Device, now: u64) -> bool {
        let generation = self.party(device.wallet).map_or(0, |wallet| wallet.generation);
        now < device.until && device.generation == generation
    }

    #[inline]
    fn party(&self, address: Address) -> Option<&Party> {
        if self.parties.is_empty() {
            return None;
        }
        self.parties.get(Party::new(address).hash(), |party| party.address == address)
    }

    #[inline]
    fn named(&self, name: &str, hash: u64) -> Option<&Topic> {
        self.place(name, hash)?.registered()
    }

    #[inline]
    fn place(&self, name: &str, hash: u64) -> Option<&Place> {
        let is_it = |held: &ByName| held.hash == hash && *held.place.topic.name == *name;
        self.by_name.get(hash, is_it).map(|held| &held.place)
    }

    fn with_id(&self, id: B256) -> Option<&Arc<Topic>> {
        self.by_id.get(id_hash(id), |held| held.0.id == id).map(|held| &held.0)
    }

    #[inline]
    fn granted_until(&self, topic: &Topic, wallet: Address, right: Right) -> Option<u64> {
        let wanted = Grant::new(topic, wallet, right, 0);
        self.grants.get(wanted.hash(), |grant| grant.is_same(&wanted)).map(|grant| grant.until)
    }

    fn topics_by_slot(&self) -> std::collections::BTreeMap<Slot, &Topic> {
        self.by_id.iter().map(|held| (held.0.slot, &*held.0)).collect()
    }
}

/// See [`Registry::rule`].
struct Rule<'a> {
    /// The nearest registered topic, at the name or above it.
    topic: Option<&'a Topic>,
    /// The name itself, as the id of a topic, if hidden topics that it or nothing nearer governs lie below.
    hidden_at: Option<B256>,
    /// The lowest name above, no higher than the governing one, below which hidden topics lie: one of them may be what
    /// really governs.
    hidden_below: Option<B256>,
}

#[inline]
fn is_marked(marks: &Table<Mark>, topic: &Topic, wallet: Address) -> bool {
    let wanted = Mark { slot: topic.slot, wallet };
    !marks.is_empty() && marks.get(wanted.hash(), |mark| *mark == wanted).is_some()
}
