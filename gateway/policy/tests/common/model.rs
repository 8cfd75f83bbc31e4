//! The rules of the interfaces, told naively: a list of facts, and every question answered by going through all of it.

use alloy_primitives::{Address, B256};
use flytrap_policy::{
    Action, Country, CountryMode, Event, OfferMode, Principal, Right, Stamp, Traits, Ungoverned,
};

use super::topic_id;

#[derive(Clone, Default)]
pub struct Model {
    pub facts: Vec<(Event, Stamp)>,
}

/// One registration of a topic: where in the facts it stands, and what holds now.
#[derive(Clone)]
pub struct Known {
    pub since: usize,
    pub name: String,
    pub owner: Address,
    pub epoch: u64,
    pub traits: Traits,
    pub offers: [OfferMode; 2],
    pub countries: (CountryMode, Vec<Country>),
}

/// A hidden topic, and the nearest name above it that is known.
#[derive(Clone)]
pub struct Veiled {
    pub id: B256,
    pub owner: Address,
    pub epoch: u64,
    pub below: String,
}

impl Model {
    pub fn topic(&self, wanted: &str) -> Option<Known> {
        let mut known: Option<Known> = None;
        for (since, (event, _)) in self.facts.iter().enumerate() {
            match event {
                Event::TopicRegistered {
                    owner,
                    epoch,
                    name,
                    traits,
                    publish_offer,
                    subscribe_offer,
                    ..
                } if name == wanted => {
                    known = Some(Known {
                        since,
                        name: name.clone(),
                        owner: *owner,
                        epoch: *epoch,
                        traits: *traits,
                        offers: [publish_offer.mode, subscribe_offer.mode],
                        countries: (CountryMode::Any, Vec::new()),
                    });
                }
                Event::TopicDeleted { topic_id: id, .. } if *id == topic_id(wanted) => known = None,
                Event::TopicOwnershipTransferred { topic_id: id, new_owner, .. }
                    if *id == topic_id(wanted) =>
                {
                    if let Some(known) = &mut known {
                        known.owner = *new_owner;
                    }
                }
                Event::TraitsSet { topic_id: id, traits, .. } if *id == topic_id(wanted) => {
                    if let Some(known) = &mut known {
                        known.traits = *traits;
                    }
                }
                Event::OfferSet { topic_id: id, right, offer, .. } if *id == topic_id(wanted) => {
                    if let Some(known) = &mut known {
                        known.offers[*right as usize] = offer.mode;
                    }
                }
                Event::CountriesSet { topic_id: id, mode, codes, .. }
                    if *id == topic_id(wanted) =>
                {
                    if let Some(known) = &mut known {
                        known.countries = (*mode, codes.clone());
                    }
                }
                _ => (),
            }
        }
        known
    }

    /// The nearest registered topic above a name, found level by level from the name upwards.
    pub fn governing(&self, name: &str) -> Option<Known> {
        let mut levels: Vec<&str> = name.split('/').collect();
        while !levels.is_empty() {
            if let Some(known) = self.topic(&levels.join("/")) {
                return Some(known);
            }
            levels.pop();
        }
        None
    }

    /// The hidden topics that are registered now.
    pub fn hidden(&self) -> Vec<Veiled> {
        let mut names: Vec<(B256, String)> = Vec::new();
        let mut live: Vec<Veiled> = Vec::new();
        for (event, _) in &self.facts {
            match event {
                Event::TopicRegistered { topic_id, name, .. } => {
                    names.push((*topic_id, name.clone()));
                }
                Event::HiddenTopicRegistered { topic_id, owner, epoch, parent_id, .. } => {
                    let above = live.iter().map(|hidden| (hidden.id, &hidden.below));
                    let named = names.iter().map(|(id, name)| (*id, name));
                    let below = above.chain(named).find(|(id, _)| id == parent_id);
                    let below = below.map(|(_, name)| name.clone()).unwrap_or_default();
                    live.push(Veiled { id: *topic_id, owner: *owner, epoch: *epoch, below });
                }
                Event::TopicDeleted { topic_id, .. } => {
                    live.retain(|hidden| hidden.id != *topic_id);
                }
                _ => (),
            }
        }
        live
    }

    /// Might a hidden topic govern the name? It lies below the known name above the hidden one, and no topic nearer to
    /// the name is known to govern it.
    pub fn is_veiled(&self, name: &str) -> bool {
        let governing = self.governing(name).map_or(0, |topic| topic.name.len());
        let may_lie_below =
            |above: &str| name.starts_with(&format!("{above}/")) && governing <= above.len();
        self.hidden().iter().any(|hidden| may_lie_below(&hidden.below))
    }

    pub fn grant(&self, topic: &Known, who: Address, wanted: Right) -> Option<u64> {
        let id = topic_id(&topic.name);
        self.facts.iter().skip(topic.since).fold(None, |until, (event, at)| match event {
            Event::AccessGranted { topic_id, wallet, right, until, .. }
            | Event::AccessBought { topic_id, wallet, right, until, .. }
                if (*topic_id, *wallet, *right) == (id, who, wanted) =>
            {
                Some(*until)
            }
            Event::AccessRevoked { topic_id, wallet, right, .. }
                if (*topic_id, *wallet, *right) == (id, who, wanted) =>
            {
                until.map(|until| until.min(at.time))
            }
            _ => until,
        })
    }

    pub fn is_blocked(&self, topic: &Known, who: Address) -> bool {
        let id = topic_id(&topic.name);
        self.facts.iter().skip(topic.since).fold(false, |is_blocked, (event, _)| match event {
            Event::WalletBlocked { topic_id, wallet, .. } if (*topic_id, *wallet) == (id, who) => {
                true
            }
            Event::WalletUnblocked { topic_id, wallet, .. }
                if (*topic_id, *wallet) == (id, who) =>
            {
                false
            }
            _ => is_blocked,
        })
    }

    pub fn is_banned(&self, who: Address, now: u64) -> bool {
        let until = self.facts.iter().fold(0, |until, (event, _)| match event {
            Event::WalletBanned { wallet, until, .. } if *wallet == who => *until,
            Event::WalletUnbanned { wallet, .. } if *wallet == who => 0,
            _ => until,
        });
        now < until
    }

    /// For whom the key acts or acted, and until when.
    pub fn device(&self, key: Address) -> Option<(Address, u64)> {
        self.facts.iter().fold(None, |acting, (event, at)| match (event, acting) {
            (Event::DeviceAuthorized { wallet, device, until, .. }, _) if *device == key => {
                Some((*wallet, *until))
            }
            (Event::DeviceRevoked { device, .. }, Some((wallet, until))) if *device == key => {
                Some((wallet, until.min(at.time)))
            }
            (Event::AllDevicesRevoked { wallet, .. }, Some((of, _))) if *wallet == of => {
                Some((of, 0))
            }
            _ => acting,
        })
    }

    pub fn generation(&self, of: Address) -> u64 {
        let revoked = |event: &Event| matches!(event, Event::AllDevicesRevoked { wallet, .. } if *wallet == of);
        self.facts.iter().filter(|(event, _)| revoked(event)).count() as u64
    }

    pub fn tokens_valid_from(&self, of: Address) -> u64 {
        self.facts.iter().fold(0, |from, (event, _)| match event {
            Event::TokensInvalidated { wallet, before } if *wallet == of => *before,
            _ => from,
        })
    }

    pub fn stands(&self, who: &Principal, now: u64) -> bool {
        let is_who_it_was = match self.device(who.key) {
            None => who.key == who.wallet,
            Some((wallet, until)) => who.key != who.wallet && who.wallet == wallet && now < until,
        };
        is_who_it_was
            && !self.is_banned(who.wallet, now)
            && !self.is_banned(who.key, now)
            && (who.key != who.wallet
                || who.credential.issued_at >= self.tokens_valid_from(who.wallet))
            && now < who.credential.expires_at
    }

    /// Owner, public offer or valid grant, not blocked.
    pub fn has_right(&self, topic: &Known, who: Address, right: Right, now: u64) -> bool {
        topic.owner == who
            || (!self.is_blocked(topic, who)
                && (topic.offers[right as usize] == OfferMode::Public
                    || self.grant(topic, who, right).is_some_and(|until| now < until)))
    }

    pub fn allows(
        &self,
        who: &Principal,
        action: Action,
        name: &str,
        now: u64,
        ungoverned: Ungoverned,
    ) -> bool {
        let (right, is_retained) = match action {
            Action::Publish { retain } => (Right::Publish, retain),
            Action::Deliver => (Right::Subscribe, false),
        };
        if !self.stands(who, now) || name.starts_with('$') {
            return false;
        }
        if self.is_veiled(name) {
            return false;
        }
        let Some(topic) = self.governing(name) else { return ungoverned == Ungoverned::Allow };
        let own = format!("{}/{:#x}", topic.name, who.key).to_lowercase();
        let is_in_own = name == own || name.starts_with(&format!("{own}/"));
        let is_admitted = match (&topic.countries, who.country) {
            ((CountryMode::Any, _), _) => true,
            ((CountryMode::Only, codes), Some(from)) => codes.contains(&from),
            ((CountryMode::Except, codes), Some(from)) => !codes.contains(&from),
            (_, None) => false,
        };
        is_admitted
            && name.split('/').all(|level| !level.is_empty())
            && self.has_right(&topic, who.wallet, right, now)
            && (!topic.traits.own_branch || topic.owner == who.key || is_in_own)
            && (!is_retained || topic.traits.retain)
    }
}
