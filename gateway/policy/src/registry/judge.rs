//! What one state says to one question. See [`View`](crate::View) for how two states are joined.

use flytrap_mqtt::topic::{intersects_branch, literal_prefix, matches, reaches_below};

use super::names::{Shape, is_in_own_branch};
use super::{Hidden, Place, Registry, Rule, Topic, is_marked};
use crate::{Basis, Denial, OfferMode, Options, Principal, Reach, Right, Ungoverned, Wildcards};

/// The most registered topics that are looked at to judge one wildcard filter.
pub(crate) const MOST_TOPICS_PER_FILTER: usize = 10_000;

/// What is allowed, on what and until when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verdict<'a> {
    pub(crate) topic: Option<&'a Topic>,
    pub(crate) basis: Basis,
    pub(crate) until: u64,
}

/// How far a filter may reach, what governs its start, and when to ask again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FilterVerdict<'a> {
    pub(crate) reach: Reach,
    pub(crate) topic: Option<&'a Topic>,
    pub(crate) until: u64,
}

impl Registry {
    /// Is the principal who it was? Bans and ends of device keys and tokens, but not the token's own end.
    #[inline]
    pub(crate) fn stands(&self, who: &Principal, now: u64) -> Result<u64, Denial> {
        let wallet = self.party(who.wallet);
        if let Some(party) = wallet
            && now < party.banned_until
        {
            return Err(Denial::Banned { until: party.banned_until });
        }
        if who.key != who.wallet {
            return self.stands_by_device(who, now);
        }
        let Some(party) = wallet else { return Ok(u64::MAX) };
        if let Some(device) = &party.device {
            let is_live = self.is_live(device, now);
            return Err(if is_live { Denial::KeyIsDevice } else { Denial::DeviceEnded });
        }
        if who.credential.issued_at < party.tokens_valid_from {
            return Err(Denial::TokenInvalidated);
        }
        Ok(u64::MAX)
    }

    fn stands_by_device(&self, who: &Principal, now: u64) -> Result<u64, Denial> {
        let key = self.party(who.key).ok_or(Denial::DeviceEnded)?;
        if now < key.banned_until {
            return Err(Denial::Banned { until: key.banned_until });
        }
        match &key.device {
            Some(device) if device.wallet == who.wallet && self.is_live(device, now) => {
                Ok(device.until)
            }
            _ => Err(Denial::DeviceEnded),
        }
    }

    /// May the principal use the name? It has been looked at already: `shape` is the name's.
    #[inline]
    pub(crate) fn judge(
        &self,
        who: &Principal,
        right: Right,
        is_retained: bool,
        (name, shape): (&str, Shape),
        now: u64,
        ungoverned: Ungoverned,
    ) -> Result<Verdict<'_>, Denial> {
        let rule = self.rule(name);
        // Whoever asks, the owner included: what hides there may be somebody else's, or open to nobody.
        if let Some(topic_id) = rule.hidden_below {
            return Err(Denial::HiddenName { topic_id });
        }
        let Some(topic) = rule.topic else {
            return match ungoverned {
                Ungoverned::Deny => Err(Denial::Ungoverned),
                Ungoverned::Allow => {
                    Ok(Verdict { topic: None, basis: Basis::Ungoverned, until: u64::MAX })
                }
            };
        };
        // Octet by octet `secret/x/` is below `secret/x`, yet brokers and people take one for the other.
        if shape.has_empty_level {
            return Err(Denial::EmptyLevel);
        }
        let (basis, until) = self.shown_right_on(topic, who, right, now)?;
        if is_shut_in(topic, who) && !is_in_own_branch(name, &topic.name, who.key) {
            return Err(Denial::OtherBranch { topic_id: topic.id });
        }
        if is_retained && !topic.traits.retain {
            return Err(Denial::RetainNotAllowed { topic_id: topic.id });
        }
        Ok(Verdict { topic: Some(topic), basis, until })
    }

    /// [`Registry::right_on`], with a denial that whoever asks may see: that a hidden name is the right one, nobody finds out by guessing.
    #[inline]
    fn shown_right_on(
        &self,
        topic: &Topic,
        who: &Principal,
        right: Right,
        now: u64,
    ) -> Result<(Basis, u64), Denial> {
        let found = self.right_on(topic, who, right, now);
        match (&topic.hidden, found) {
            (Some(hidden), Err(denial)) => Err(self.veiled(topic, hidden, denial, who, right, now)),
            (_, found) => found,
        }
    }

    /// What would be said if the hidden topic were not known. Who has or had a right there, or had a grant, knows it anyhow.
    #[cold]
    fn veiled(
        &self,
        topic: &Topic,
        hidden: &Hidden,
        denial: Denial,
        who: &Principal,
        right: Right,
        now: u64,
    ) -> Denial {
        if topic.owner == who.wallet || self.granted_until(topic, who.wallet, right).is_some() {
            return denial;
        }
        let above = self.rule(&hidden.below);
        if let Some(topic_id) = above.hidden_at.or(above.hidden_below) {
            return Denial::HiddenName { topic_id };
        }
        let Some(above) = above.topic else { return Denial::Ungoverned };
        // A name above that is hidden too is a shorter one, so this ends.
        match self.shown_right_on(above, who, right, now) {
            Ok(_) => Denial::HiddenName { topic_id: above.id },
            Err(denial) => denial,
        }
    }

    /// The right of a principal on a topic, whatever the name: from where it may be used; then the owner has both; a
    /// block beats everything else.
    #[inline]
    fn right_on(
        &self,
        topic: &Topic,
        who: &Principal,
        right: Right,
        now: u64,
    ) -> Result<(Basis, u64), Denial> {
        let (topic_id, wallet) = (topic.id, who.wallet);
        // First, so that nobody is told the price of what they could not use.
        if !topic.countries.admits(who.country) {
            return Err(Denial::Country { topic_id });
        }
        if topic.owner == wallet {
            return Ok((Basis::Owner, u64::MAX));
        }
        if is_marked(&self.blocks, topic, wallet) {
            return Err(Denial::Blocked { topic_id });
        }
        let offer = topic.offer(right);
        if offer.mode == OfferMode::Public {
            return Ok((Basis::Public, u64::MAX));
        }
        let granted = self.granted_until(topic, wallet, right);
        if let Some(until) = granted
            && now < until
        {
            return Ok((Basis::Grant, until));
        }
        let price_hint =
            (offer.mode == OfferMode::Priced).then_some((offer.price_wei, offer.period));
        Err(match granted {
            Some(until) => Denial::GrantEnded { topic_id, until, price_hint },
            None => Denial::NoGrant { topic_id, price_hint },
        })
    }

    /// May the principal subscribe to this filter with wildcards (without `$share/<group>/`)?
    pub(crate) fn judge_filter(
        &self,
        who: &Principal,
        filter: &str,
        now: u64,
        options: Options,
    ) -> Result<FilterVerdict<'_>, Denial> {
        let asked = Asked { who, filter, prefix: literal_prefix(filter), now };
        let rule = self.rule(asked.prefix);
        let topic = rule.topic;
        if topic.is_some() && Shape::of(filter).has_empty_level {
            return Err(Denial::EmptyLevel);
        }
        let denial = match self.covers(&asked, &rule, options.ungoverned) {
            Ok(until) => return Ok(FilterVerdict { reach: Reach::Covered, topic, until }),
            Err(denial) => denial,
        };
        match options.wildcards {
            Wildcards::Covered => Err(denial),
            Wildcards::Narrow => {
                let until = self.touches(&asked, &rule, options.ungoverned, denial)?;
                Ok(FilterVerdict { reach: Reach::Narrowed, topic, until })
            }
        }
    }

    /// Every name that the filter can match may be read; answers until when.
    fn covers(
        &self,
        asked: &Asked<'_>,
        rule: &Rule<'_>,
        ungoverned: Ungoverned,
    ) -> Result<u64, Denial> {
        // A wildcard reaches below what stands before it.
        if let Some(topic_id) = rule.hidden_at.or(rule.hidden_below) {
            return Err(Denial::HiddenName { topic_id });
        }
        if rule.topic.is_none() && ungoverned == Ungoverned::Deny {
            return Err(Denial::Ungoverned);
        }
        let governing = rule.topic.map_or(Ok(u64::MAX), |topic| self.covers_all_of(asked, topic));
        let mut until = governing?;
        for place in self.meeting(asked) {
            let place = place?;
            if place.hidden_below > 0 && reaches_below(asked.filter, &place.topic.name) {
                return Err(Denial::HiddenName { topic_id: place.topic.id });
            }
            if let Some(topic) = place.registered() {
                until = until.min(self.covers_all_of(asked, topic)?);
            }
        }
        Ok(until)
    }

    /// Every name that the filter can match and this topic governs may be read.
    fn covers_all_of(&self, asked: &Asked<'_>, topic: &Topic) -> Result<u64, Denial> {
        let (_, until) = self.shown_right_on(topic, asked.who, Right::Subscribe, asked.now)?;
        if is_shut_in(topic, asked.who)
            && !is_in_own_branch(asked.prefix, &topic.name, asked.who.key)
        {
            return Err(Denial::OtherBranch { topic_id: topic.id });
        }
        Ok(until)
    }

    /// Some name that the filter can match may be read; answers until when at least. `otherwise` is the denial if
    /// none may.
    fn touches(
        &self,
        asked: &Asked<'_>,
        rule: &Rule<'_>,
        ungoverned: Ungoverned,
        otherwise: Denial,
    ) -> Result<u64, Denial> {
        if ungoverned == Ungoverned::Allow {
            return Ok(u64::MAX);
        }
        if let (Some(topic), None) = (rule.topic, rule.hidden_below) {
            let only = rule.hidden_at.map(|_| asked.prefix);
            if let Some(until) = self.touches_some_of(asked, topic, only) {
                return Ok(until);
            }
        }
        for place in self.meeting(asked) {
            let place = place?;
            let Some(topic) = place.registered() else { continue };
            let only = (place.hidden_below > 0).then_some(&*topic.name);
            if let Some(until) = self.touches_some_of(asked, topic, only) {
                return Ok(until);
            }
        }
        Err(otherwise)
    }

    /// Some name that the filter can match and this topic governs may be read. Where hidden topics lie, it is known to
    /// govern `only` one.
    fn touches_some_of(&self, asked: &Asked<'_>, topic: &Topic, only: Option<&str>) -> Option<u64> {
        let (filter, key) = (asked.filter, asked.who.key);
        let is_shut_in = is_shut_in(topic, asked.who);
        let meets = match only {
            Some(name) => {
                matches(filter, name) && (!is_shut_in || is_in_own_branch(name, &topic.name, key))
            }
            None => !is_shut_in || intersects_branch(filter, &format!("{}/{key:#x}", topic.name)),
        };
        let right = meets.then(|| self.right_on(topic, asked.who, Right::Subscribe, asked.now));
        right?.ok().map(|(_, until)| until)
    }

    /// The places below the filter's literal prefix whose branch it can match; an error in place of the first that
    /// is one too many.
    fn meeting(&self, asked: &Asked<'_>) -> impl Iterator<Item = Result<&Place, Denial>> {
        let filter = asked.filter;
        // A filter that starts with an empty level matches nothing that can be registered.
        let below = (!filter.starts_with('/')).then(|| self.places_below(asked.prefix));
        below.into_iter().flatten().enumerate().filter_map(move |(seen, place)| {
            if seen >= MOST_TOPICS_PER_FILTER {
                return Some(Err(Denial::FilterTooWide { most: MOST_TOPICS_PER_FILTER }));
            }
            intersects_branch(filter, &place.topic.name).then_some(Ok(place))
        })
    }
}

/// Whether a key may use nothing but its own branch of the topic. The owner's own key may use all of it, or nobody could read a whole
/// fleet; the owner's device keys may not.
fn is_shut_in(topic: &Topic, who: &Principal) -> bool {
    topic.traits.own_branch && topic.owner != who.key
}

/// A question about a filter.
struct Asked<'a> {
    who: &'a Principal,
    filter: &'a str,
    /// What comes before its first wildcard, in whole levels.
    prefix: &'a str,
    now: u64,
}
