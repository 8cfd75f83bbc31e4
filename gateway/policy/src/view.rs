//! What sessions read: one consistent state, and every decision over it.

use std::sync::Arc;

use alloy_primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use flytrap_mqtt::topic::Filter;

use crate::credential::Refusal;
use crate::permit::Terms;
use crate::registry::Shape;
use crate::{
    Concern, Country, Denial, Dialect, FilterPermit, Names, Permit, Reach, Registry, Right, Topic,
};

/// What to do with names that no registered topic governs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ungoverned {
    /// Refuse them.
    #[default]
    Deny,
    /// Pass them, for moving an existing site over step by step.
    Allow,
}

/// What to do with a filter that is wider than what the principal may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wildcards {
    /// Refuse it.
    #[default]
    Covered,
    /// Accept it if it can match anything readable, and narrow it message by message.
    Narrow,
}

/// Rules of the site that are not on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Names under no registered topic.
    pub ungoverned: Ungoverned,
    /// Filters wider than the rights.
    pub wildcards: Wildcards,
    /// How the broker reads names; said where the broker is configured.
    #[serde(skip)]
    pub dialect: Dialect,
}

/// How a principal proved itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// A signature over client id and times.
    Token,
    /// The seed of a device key.
    DevicePassword,
    /// A signature over a nonce of the gateway.
    Challenge,
}

/// What of the proof still matters after it was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Credential {
    /// Its kind.
    pub kind: CredentialKind,
    /// When it was signed (a challenge: when it was proved), Unix seconds; 0 for a device password.
    pub issued_at: u64,
    /// From when it is worthless, Unix seconds; [`u64::MAX`] for a device password, which ends with its key.
    pub expires_at: u64,
}

/// Who a client has proved to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Principal {
    /// Whose rights count.
    pub wallet: Address,
    /// The key that proved it: the wallet itself, or a device key that acts for it.
    pub key: Address,
    /// The proof.
    pub credential: Credential,
    /// From where it connects, if that is known. No proof says so: whoever accepts the connection fills it in.
    pub country: Option<Country>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The client sends a message to the name (a will counts as one).
    Publish {
        /// Is it to be retained?
        retain: bool,
    },
    /// The client is to receive a message that was sent to the name.
    Deliver,
}

/// One consistent state of the mirror. Cheap to share; nothing in it ever changes.
///
/// A decision needs both registries: restrictions count from `head`, permissions from `settled`.
#[derive(Debug, Clone)]
pub struct View {
    /// State `confirmations` blocks deep. The same `Arc` as `head` where that is 0.
    pub settled: Arc<Registry>,
    /// State at the newest block.
    pub head: Arc<Registry>,
    /// Height of the newest block.
    pub height: u64,
    /// Time of the newest block, Unix seconds.
    pub time: u64,
    /// Grows by one with each change of state, unchanged by empty blocks.
    pub version: u64,
    /// Whose decisions may differ from those of the version before.
    pub concern: Concern,
    /// Rules of the site.
    pub options: Options,
}

impl View {
    /// Judges one action on one topic name. `now` is the later of block time and wall clock, Unix seconds; every end
    /// is half-open: something holds while `now < until`.
    ///
    /// In this order: bans and the proof itself ([`View::standing`]), reserved names, the broker's dialect, the governing topic (and whether
    /// a hidden one may govern instead), the country, ownership, blocks, offers and grants, and at last the topic's
    /// traits. Owners have both rights, but not against a ban by the broker, and countries and traits hold for them
    /// too. Looks at the name once and allocates nothing.
    ///
    /// # Errors
    /// A [`Denial`] says why not. Both states must allow it; the newest one has the word first.
    pub fn authorize(
        &self,
        who: &Principal,
        action: Action,
        name: &str,
        now: u64,
    ) -> Result<Permit, Denial> {
        let standing = self.standing(who, now)?;
        if name.starts_with('$') {
            return Err(Denial::ReservedName);
        }
        let shape = Shape::of(name);
        if shape.has_wildcard || name.is_empty() {
            return Err(Denial::InvalidName);
        }
        if let Some(character) = self.options.dialect.clash(name) {
            return Err(Denial::Clash { character });
        }
        let (right, is_retained) = match action {
            Action::Publish { retain } => (Right::Publish, retain),
            Action::Deliver => (Right::Subscribe, false),
        };
        let judge = |registry: &'_ Registry| {
            let ungoverned = self.options.ungoverned;
            registry.judge(who, right, is_retained, (name, shape), now, ungoverned).map(|verdict| {
                let traits = verdict.topic.map(|topic| topic.traits);
                Terms {
                    right,
                    basis: verdict.basis,
                    retain: traits.is_none_or(|traits| traits.retain),
                    sensitive: traits.is_some_and(|traits| traits.sensitive),
                    veiled: verdict.topic.map_or(0, Topic::veiled),
                    topic: verdict.topic.map(|topic| (topic.id, topic.epoch)),
                    until: verdict.until.min(standing),
                    height: self.height,
                }
            })
        };
        let mut terms = judge(&self.head)?;
        if let Some(settled) = self.settled_apart() {
            let settled = judge(settled).map_err(|_| Denial::NotSettled)?;
            terms.until = terms.until.min(settled.until);
            terms.retain &= settled.retain;
            terms.sensitive |= settled.sensitive;
            terms.veiled = terms.veiled.max(settled.veiled);
        }
        Ok(Permit(terms))
    }

    /// The same view with what is known of hidden names. One that is known governs from both states on, as its topic does.
    #[must_use]
    pub fn with_names(&self, names: &Names) -> Self {
        let head = Arc::new(self.head.with_names(names));
        let settled = match self.settled_apart() {
            None => Arc::clone(&head),
            Some(settled) => Arc::new(settled.with_names(names)),
        };
        Self { settled, head, concern: self.concern.clone(), ..*self }
    }

    /// Judges one topic filter as it stands in a SUBSCRIBE, `$share/<group>/` included.
    ///
    /// A filter without wildcards is judged as a delivery. One with wildcards is covered if the part before the first
    /// wildcard is governed and readable and so is every topic further down whose branch it can match; a `#` or `+`
    /// at the start has no such part, so it is refused unless the site passes ungoverned names. Where the site narrows,
    /// a filter that is not covered is accepted if it can match anything that may be read. Each delivery is judged by
    /// itself in every case. Names that [`View::authorize`] refuses whoever asks, those with an empty level below a
    /// registered topic, are not counted among what a filter can match.
    ///
    /// At most 10,000 registered topics are looked at.
    ///
    /// # Errors
    /// A [`Denial`] says why not.
    pub fn authorize_filter(
        &self,
        who: &Principal,
        filter: &str,
        now: u64,
    ) -> Result<FilterPermit, Denial> {
        // A share's name too: a broker without shared subscriptions reads all of it as one filter.
        let clash = self.options.dialect.clash(filter);
        let filter = Filter::parse(filter).map_err(|_| Denial::InvalidName)?;
        if filter.inner().starts_with('$') {
            return Err(Denial::ReservedName);
        }
        if let Some(character) = clash {
            return Err(Denial::Clash { character });
        }
        if !filter.has_wildcard() {
            let permit = self.authorize(who, Action::Deliver, filter.inner(), now)?;
            return Ok(FilterPermit {
                reach: Reach::Exact,
                topic_id: permit.topic_id(),
                until: permit.until(),
                height: permit.height(),
            });
        }
        let standing = self.standing(who, now)?;
        // Of a shared subscription each message goes to one member: what is withheld from one who may not read it is lost to those who
        // may. So nobody joins a group that delivers more than they may read, not even where others' filters are narrowed.
        let options = match filter.share_group() {
            Some(_) => Options { wildcards: Wildcards::Covered, ..self.options },
            None => self.options,
        };
        let judge = |registry: &'_ Registry| {
            registry.judge_filter(who, filter.inner(), now, options).map(|verdict| FilterPermit {
                reach: verdict.reach,
                topic_id: verdict.topic.map(|topic| topic.id),
                until: verdict.until.min(standing),
                height: self.height,
            })
        };
        let mut permit = judge(&self.head)?;
        if let Some(settled) = self.settled_apart() {
            let settled = judge(settled).map_err(|_| Denial::NotSettled)?;
            permit.until = permit.until.min(settled.until);
            if settled.reach == Reach::Narrowed {
                permit.reach = Reach::Narrowed;
            }
        }
        Ok(permit)
    }

    /// Is the principal still who it was: not banned, its device key authorized, its token neither invalidated nor
    /// expired? Answers the second at which that ends by itself, [`u64::MAX`] if never.
    ///
    /// A ban counts against the wallet and against a device key by itself. A key that proved itself as a wallet of
    /// its own stops to be one when it becomes a device key.
    ///
    /// # Errors
    /// One of the [`Denial`]s that end a session.
    #[inline]
    pub fn standing(&self, who: &Principal, now: u64) -> Result<u64, Denial> {
        let mut until = self.head.stands(who, now)?;
        if let Some(settled) = self.settled_apart() {
            until = until.min(settled.stands(who, now)?);
        }
        let expires_at = who.credential.expires_at;
        if now < expires_at { Ok(until.min(expires_at)) } else { Err(Denial::CredentialExpired) }
    }

    /// Has this broker banned the network origin of this pseudonym? The end of a ban counts once it has settled.
    #[must_use]
    pub fn origin_banned(&self, pseudonym: B256, now: u64) -> bool {
        self.head.origin_banned_until(pseudonym, now).is_some()
            || self
                .settled_apart()
                .is_some_and(|settled| settled.origin_banned_until(pseudonym, now).is_some())
    }

    /// Number and root of the last anchor of this gateway that has settled; 0 and zero if none has.
    #[must_use]
    pub fn anchored(&self, gateway: Address) -> (u64, B256) {
        self.settled.last_anchor(gateway)
    }

    /// Whose rights count when this key has proved itself.
    pub(crate) fn wallet_behind(&self, key: Address, now: u64) -> Result<Address, Refusal> {
        let wallet = |registry: &Registry| match registry.device(key) {
            None => Ok(key),
            Some(_) => registry.wallet_of(key, now).ok_or(Refusal::DeviceEnded),
        };
        let newest = wallet(&self.head)?;
        match self.settled_apart().map(wallet) {
            None => Ok(newest),
            Some(settled) if settled == Ok(newest) => Ok(newest),
            Some(_) => Err(Refusal::NotSettled),
        }
    }

    #[inline]
    pub(crate) fn settled_apart(&self) -> Option<&Registry> {
        (!Arc::ptr_eq(&self.head, &self.settled)).then_some(&*self.settled)
    }
}
