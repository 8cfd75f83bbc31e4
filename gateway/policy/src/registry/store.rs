//! A whole state as octets and back, so that a restart need not read the chain from its beginning.
//!
//! What is derived (names in their order, depths, slots) is made anew, and what is dead is left out, so the state that is read
//! has the digest of the one that was written. Whoever keeps the octets proves that they are the ones that were written; here
//! it only holds that no octets whatever make this panic, or allocate more than a little beyond their own length.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};

use super::facts::{ById, Device, Fee, Grant, Hidden, Mark, Party, Place, Slot, Topic};
use super::{Registry, Table, is_topic_name};
use crate::{Country, CountryMode, CountryRule, NamingPolicy, Offer, OfferMode, Right, Traits};

/// Changes with every change of the octets; octets of another version cannot be read.
pub const STORE_VERSION: u32 = 2;

/// Longest text that is read: far more than a transaction can hold.
const MAX_TEXT_OCTETS: u32 = 4 << 20;

impl Registry {
    /// Writes the whole state. Many small writes: give it a buffer.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn store(&self, out: &mut impl Write) -> io::Result<()> {
        let mut out = Out(out);
        out.word(self.broker_id)?;
        out.flag(self.owner.is_some())?;
        out.address(self.owner.unwrap_or_default())?;
        out.text(&self.name)?;
        out.octet(self.policy as u8)?;
        out.fee(&self.publish_fee)?;
        out.fee(&self.sale_fee)?;
        out.count(self.registrars.len())?;
        for registrar in &self.registrars {
            out.address(*registrar)?;
        }
        out.count(self.gateways.len())?;
        for (gateway, uri) in &self.gateways {
            out.address(*gateway)?;
            out.text(uri)?;
        }
        out.count(self.anchors.len())?;
        for (gateway, (sequence, root)) in &self.anchors {
            out.address(*gateway)?;
            out.number(*sequence)?;
            out.hash(*root)?;
        }
        out.count(self.origin_bans_sweep_at)?;
        out.count(self.origin_bans.len())?;
        for (origin, until) in &self.origin_bans {
            out.hash(*origin)?;
            out.number(*until)?;
        }
        out.count(self.parties.len())?;
        for party in self.parties.iter() {
            out.party(party)?;
        }

        // Slots are kept, so that grants are read in the order of their hashes, which are made of them. Elsewhere a topic is told by its
        // place in this list, which cannot be one that is not there.
        out.slot(self.next_slot)?;
        let mut places = HashMap::with_capacity(self.by_id.len());
        out.count(self.by_id.len())?;
        for ById(topic) in self.by_id.iter() {
            places.insert(topic.slot, u32::try_from(places.len()).unwrap_or(u32::MAX));
            out.slot(topic.slot)?;
            out.topic(topic)?;
        }
        // Places of which the topics do not tell everything.
        let hiding = || self.in_order.values().filter(|place| place.hidden_below > 0);
        out.count(hiding().count())?;
        for place in hiding() {
            out.number(place.hidden_below.into())?;
            out.flag(place.is_registered)?;
            out.topic(&place.topic)?;
        }
        let grants = || {
            self.grants.iter().filter_map(|grant| Some((*places.get(&grant.key.slot()?)?, grant)))
        };
        out.count(grants().count())?;
        for (place, grant) in grants() {
            out.index(place)?;
            out.octet(grant.key.right() as u8)?;
            out.address(grant.wallet)?;
            out.number(grant.until)?;
        }
        for marks in [&self.blocks, &self.managers] {
            let live = || marks.iter().filter_map(|mark| Some((*places.get(&mark.slot)?, mark)));
            out.count(live().count())?;
            for (place, mark) in live() {
                out.index(place)?;
                out.address(mark.wallet)?;
            }
        }
        Ok(())
    }

    /// Reads what [`Registry::store`] has written, and no further. Many small reads: give it a buffer.
    ///
    /// # Errors
    /// Those of `input`, and [`io::ErrorKind::InvalidData`] for octets that no state is written as.
    pub fn restore(input: &mut impl Read) -> io::Result<Self> {
        let mut input = In(input);
        let mut registry = Self::new(input.word()?);
        let (has_owner, owner) = (input.flag()?, input.address()?);
        registry.owner = has_owner.then_some(owner);
        registry.name = input.text()?;
        registry.policy = input.policy()?;
        registry.publish_fee = input.fee()?;
        registry.sale_fee = input.fee()?;
        for _ in 0..input.count()? {
            registry.registrars.insert(input.address()?);
        }
        for _ in 0..input.count()? {
            registry.gateways.insert(input.address()?, input.text()?);
        }
        for _ in 0..input.count()? {
            registry.anchors.insert(input.address()?, (input.number()?, input.hash()?));
        }
        registry.origin_bans_sweep_at =
            usize::try_from(input.count()?).map_err(|_| invalid("a limit of bans"))?;
        for _ in 0..input.count()? {
            registry.origin_bans.insert(input.hash()?, input.number()?);
        }
        let parties = input.count()?;
        registry.parties = Table::collect(hint(parties), (0..parties).map(|_| input.party()))?;

        registry.next_slot = input.slot()?;
        let (mut topics, mut slots) = (Vec::new(), Vec::new());
        for _ in 0..input.count()? {
            let slot = input.slot()?;
            slots.push(slot);
            topics.push(Arc::new(input.topic(slot)?));
        }
        if !are_of_their_own(&slots, registry.next_slot) {
            return Err(invalid("topics with one number"));
        }
        registry.put_topics(topics)?;
        for _ in 0..input.count()? {
            let hidden_below =
                u32::try_from(input.number()?).map_err(|_| invalid("a number of topics"))?;
            let is_registered = input.flag()?;
            let told = input.topic(Slot::FIRST)?;
            // The topic that is registered there, if one is, and not another with the same content.
            let known = registry.in_order.get(&told.name).map(|place| Arc::clone(&place.topic));
            if is_registered != known.is_some() {
                return Err(invalid("a place that is registered and is not"));
            }
            let topic = known.unwrap_or_else(|| Arc::new(told));
            registry.put_place(Place { topic, is_registered, hidden_below, nested_below: 0 });
        }
        registry.count_nested();
        let slot = |place: u32| {
            let at = usize::try_from(place).ok().and_then(|at| slots.get(at));
            at.copied().ok_or_else(|| invalid("something of a topic that is not there"))
        };
        let grants = input.count()?;
        let grant = |_| {
            let slot = slot(input.index()?)?;
            let (right, wallet, until) = (input.right()?, input.address()?, input.number()?);
            Ok(Grant { key: slot.with(right), wallet, until })
        };
        registry.grants = Table::collect(hint(grants), (0..grants).map(grant))?;
        for marks in [&mut registry.blocks, &mut registry.managers] {
            let count = input.count()?;
            let mark = |_| Ok(Mark { slot: slot(input.index()?)?, wallet: input.address()? });
            *marks = Table::collect(hint(count), (0..count).map(mark))?;
        }
        Ok(registry)
    }

    /// Takes in the first topics of all, in whatever order they are.
    fn put_topics(&mut self, mut topics: Vec<Arc<Topic>>) -> io::Result<()> {
        let all = topics.iter().map(|topic| Ok(ById(Arc::clone(topic))));
        self.by_id = Table::collect(topics.len(), all)?;
        self.by_name = Table::sized_for(topics.len());
        // In their order each goes beside the one before, and is not looked for.
        topics.retain(|topic| is_topic_name(&topic.name));
        topics.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        for topic in topics {
            let (hidden_below, nested_below) = (0, 0);
            self.put_place(Place { topic, is_registered: true, hidden_below, nested_below });
        }
        Ok(())
    }

    /// How many of the hidden topics below a name were registered below another hidden one is derived from them.
    fn count_nested(&mut self) {
        let all = self.hidden_topics().filter_map(|topic| topic.hidden.as_ref());
        let nested = all.filter(|hidden| hidden.is_nested(self.broker_id));
        let above: Vec<_> = nested.map(|hidden| Arc::clone(&hidden.below)).collect();
        for name in above {
            self.change_place(&name, |place| {
                place.nested_below = place.nested_below.saturating_add(1);
            });
        }
    }
}

/// Whether each registration has a number of its own, and the next one will have.
fn are_of_their_own(slots: &[Slot], next: Slot) -> bool {
    let mut slots = slots.to_vec();
    slots.sort_unstable();
    slots.push(next);
    slots.is_sorted_by(|one, other| one < other)
}

/// What a table may make room for: it has bounds of its own.
fn hint(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no state is written so: {what}"))
}

struct Out<'a, W>(&'a mut W);

impl<W: Write> Out<'_, W> {
    fn octet(&mut self, octet: u8) -> io::Result<()> {
        self.0.write_all(&[octet])
    }

    fn flag(&mut self, flag: bool) -> io::Result<()> {
        self.octet(flag.into())
    }

    fn number(&mut self, number: u64) -> io::Result<()> {
        self.0.write_all(&number.to_le_bytes())
    }

    fn index(&mut self, index: u32) -> io::Result<()> {
        self.0.write_all(&index.to_le_bytes())
    }

    fn slot(&mut self, slot: Slot) -> io::Result<()> {
        self.index(slot.get())
    }

    fn count(&mut self, count: usize) -> io::Result<()> {
        self.number(u64::try_from(count).unwrap_or(u64::MAX))
    }

    fn word(&mut self, word: U256) -> io::Result<()> {
        self.0.write_all(&word.to_be_bytes::<32>())
    }

    fn wei(&mut self, wei: u128) -> io::Result<()> {
        self.0.write_all(&wei.to_le_bytes())
    }

    fn hash(&mut self, hash: B256) -> io::Result<()> {
        self.0.write_all(hash.as_slice())
    }

    fn address(&mut self, address: Address) -> io::Result<()> {
        self.0.write_all(address.as_slice())
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        let octets = u32::try_from(text.len()).ok().filter(|octets| *octets <= MAX_TEXT_OCTETS);
        self.index(octets.ok_or_else(|| invalid("a text too long to be written"))?)?;
        self.0.write_all(text.as_bytes())
    }

    fn fee(&mut self, fee: &Fee) -> io::Result<()> {
        self.wei(fee.amount)?;
        self.wei(fee.next)?;
        self.number(fee.next_from)
    }

    fn offer(&mut self, offer: &Offer) -> io::Result<()> {
        self.octet(offer.mode as u8)?;
        self.index(offer.period)?;
        self.wei(offer.price_wei)
    }

    fn party(&mut self, party: &Party) -> io::Result<()> {
        self.address(party.address)?;
        self.number(party.banned_until)?;
        self.number(party.tokens_valid_from)?;
        self.number(party.generation)?;
        self.flag(party.device.is_some())?;
        if let Some(device) = party.device {
            self.address(device.wallet)?;
            self.number(device.until)?;
            self.number(device.generation)?;
        }
        Ok(())
    }

    fn topic(&mut self, topic: &Topic) -> io::Result<()> {
        self.hash(topic.id)?;
        self.text(&topic.name)?;
        self.flag(topic.hidden.is_some())?;
        if let Some(hidden) = &topic.hidden {
            self.hash(hidden.parent_id)?;
            self.hash(hidden.commitment)?;
            self.text(&hidden.below)?;
        }
        self.address(topic.owner)?;
        self.number(topic.epoch)?;
        for trait_ in [topic.traits.retain, topic.traits.sensitive, topic.traits.own_branch] {
            self.flag(trait_)?;
        }
        self.offer(&topic.publish_offer)?;
        self.offer(&topic.subscribe_offer)?;
        self.octet(topic.countries.mode() as u8)?;
        let countries = || topic.countries.countries().into_iter().flat_map(crate::Countries::iter);
        self.count(countries().count())?;
        for country in countries() {
            self.0.write_all(&country.code())?;
        }
        Ok(())
    }
}

struct In<'a, R>(&'a mut R);

impl<R: Read> In<'_, R> {
    fn octets<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut octets = [0; N];
        self.0.read_exact(&mut octets)?;
        Ok(octets)
    }

    fn octet(&mut self) -> io::Result<u8> {
        self.octets::<1>().map(|[octet]| octet)
    }

    fn flag(&mut self) -> io::Result<bool> {
        match self.octet()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(invalid("neither yes nor no")),
        }
    }

    fn number(&mut self) -> io::Result<u64> {
        self.octets().map(u64::from_le_bytes)
    }

    fn count(&mut self) -> io::Result<u64> {
        self.number()
    }

    fn index(&mut self) -> io::Result<u32> {
        self.octets().map(u32::from_le_bytes)
    }

    fn slot(&mut self) -> io::Result<Slot> {
        Slot::new(self.index()?).ok_or_else(|| invalid("no number of a topic"))
    }

    fn word(&mut self) -> io::Result<U256> {
        self.octets().map(U256::from_be_bytes::<32>)
    }

    fn wei(&mut self) -> io::Result<u128> {
        self.octets().map(u128::from_le_bytes)
    }

    fn hash(&mut self) -> io::Result<B256> {
        self.octets().map(B256::new)
    }

    fn address(&mut self) -> io::Result<Address> {
        self.octets().map(Address::new)
    }

    fn text(&mut self) -> io::Result<Arc<str>> {
        let length = self.index()?;
        if length > MAX_TEXT_OCTETS {
            return Err(invalid("a text too long"));
        }
        let mut octets = Vec::new();
        let found = self.0.by_ref().take(length.into()).read_to_end(&mut octets)?;
        if u32::try_from(found) != Ok(length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8(octets).map_err(|_| invalid("a text that is none"))?;
        Ok(Arc::from(text))
    }

    fn policy(&mut self) -> io::Result<NamingPolicy> {
        let all = [NamingPolicy::OwnBranch, NamingPolicy::Curated, NamingPolicy::Open];
        self.one_of(all, |policy| *policy as u8)
    }

    fn right(&mut self) -> io::Result<Right> {
        self.one_of([Right::Publish, Right::Subscribe], |right| *right as u8)
    }

    fn one_of<T, const N: usize>(&mut self, all: [T; N], as_octet: fn(&T) -> u8) -> io::Result<T> {
        let octet = self.octet()?;
        all.into_iter().find(|one| as_octet(one) == octet).ok_or_else(|| invalid("an unknown kind"))
    }

    fn fee(&mut self) -> io::Result<Fee> {
        Ok(Fee { amount: self.wei()?, next: self.wei()?, next_from: self.number()? })
    }

    fn offer(&mut self) -> io::Result<Offer> {
        let all = [OfferMode::Closed, OfferMode::Priced, OfferMode::Public];
        let mode = self.one_of(all, |mode| *mode as u8)?;
        Ok(Offer { mode, period: self.index()?, price_wei: self.wei()? })
    }

    fn party(&mut self) -> io::Result<Party> {
        let mut party = Party::new(self.address()?);
        party.banned_until = self.number()?;
        party.tokens_valid_from = self.number()?;
        party.generation = self.number()?;
        if self.flag()? {
            let (wallet, until, generation) = (self.address()?, self.number()?, self.number()?);
            party.device = Some(Device { wallet, until, generation });
        }
        Ok(party)
    }

    fn topic(&mut self, slot: Slot) -> io::Result<Topic> {
        let (id, name) = (self.hash()?, self.text()?);
        let hidden = match self.flag()? {
            false => None,
            true => Some(Hidden {
                parent_id: self.hash()?,
                commitment: self.hash()?,
                below: self.text()?,
            }),
        };
        let (owner, epoch) = (self.address()?, self.number()?);
        let traits =
            Traits { retain: self.flag()?, sensitive: self.flag()?, own_branch: self.flag()? };
        let (publish_offer, subscribe_offer) = (self.offer()?, self.offer()?);
        let all = [CountryMode::Any, CountryMode::Only, CountryMode::Except];
        let mode = self.one_of(all, |mode| *mode as u8)?;
        let mut countries = Vec::new();
        for _ in 0..self.count()? {
            let country = Country::new(self.octets()?).ok_or_else(|| invalid("no country"))?;
            countries.push(country);
        }
        Ok(Topic {
            id,
            name,
            hidden,
            owner,
            epoch,
            traits,
            publish_offer,
            subscribe_offer,
            countries: CountryRule::new(mode, &countries),
            slot,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::table::Entry;
    use crate::{Event, Stamp, topic_id};

    const BROKER: U256 = U256::from_limbs([1, 0, 0, 0]);

    fn registry() -> Registry {
        let (at, owner) = (Stamp { height: 1, time: 1 }, Address::repeat_byte(1));
        let mut registry = Registry::new(BROKER);
        let (policy, name) = (NamingPolicy::Open, "b".to_owned());
        registry
            .apply(&Event::BrokerCreated { broker_id: BROKER, owner, policy, name }, at)
            .unwrap();
        for name in ["a", "b", "c"] {
            let event = Event::TopicRegistered {
                broker_id: BROKER,
                topic_id: topic_id(BROKER, name),
                owner,
                epoch: 1,
                name: name.to_owned(),
                traits: Traits::default(),
                publish_offer: Offer::default(),
                subscribe_offer: Offer::default(),
            };
            registry.apply(&event, at).unwrap();
            for wallet in 0..100 {
                let event = Event::AccessGranted {
                    broker_id: BROKER,
                    topic_id: topic_id(BROKER, name),
                    wallet: Address::with_last_byte(wallet),
                    right: Right::Publish,
                    epoch: 1,
                    until: 9,
                    by: owner,
                    fee_wei: U256::ZERO,
                    purpose: B256::ZERO,
                    note: String::new(),
                };
                registry.apply(&event, at).unwrap();
            }
        }
        registry
    }

    fn through(registry: &Registry) -> io::Result<Registry> {
        let mut octets = Vec::new();
        registry.store(&mut octets)?;
        Registry::restore(&mut octets.as_slice())
    }

    /// In another order the reading of many would take three times as long.
    #[test]
    fn grants_are_read_in_the_order_of_their_hashes() {
        let registry = registry();
        let restored = through(&registry).unwrap();
        let order = |registry: &Registry| -> Vec<u64> {
            let places = registry.grants.iter().map(|grant| grant.hash() >> 60);
            places.collect()
        };
        assert_eq!(restored.grants.len(), 300);
        assert_eq!(order(&restored), order(&registry));
    }

    /// Two topics would have each other's grants.
    #[test]
    fn topics_with_one_number_are_refused() {
        let mut registry = registry();
        registry.next_slot = Slot::FIRST;
        assert_eq!(through(&registry).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let twice = [Slot::FIRST, Slot::FIRST];
        let next = Slot::new(9).unwrap();
        assert!(!are_of_their_own(&twice, next));
        assert!(are_of_their_own(&twice[1..], next));
        assert_eq!((Slot::new(0), Slot::new(1 << 31)), (None, None));
    }
}
