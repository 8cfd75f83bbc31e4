//! Hidden names as their owners tell them to gateways, and take them back.
//!
//! The chain has the hash of a salt and a name. Who owns the topic signs a [`NameRequest`], for all gateways of the broker alike,
//! and hands it to each. [`Names`] is what one gateway knows by those that count: of each topic only the newest request does, and
//! of one that was taken back there is its time and no name, so that an older request cannot bring the name back. A request is for
//! one epoch of the topic, as grants are. Names are no part of the chain's state: [`View::with_names`] lays them over it.

use std::fmt;

use alloy_primitives::{Address, B256};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use crate::credential::{CLOCK_SKEW, Site, name_request_digest, recover};
use crate::{Registry, View, is_topic_name, name_commitment};

/// Topics of which something is remembered.
const MOST: usize = 16_384;
/// Seconds that a request lives at most, so that no gateway can be told by an old one what was taken back elsewhere.
const LONGEST_LIFE: u64 = 86_400;

/// What the owner of a hidden topic asks of the gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameRequest<'a> {
    /// Whose request it is.
    pub owner: Address,
    /// The topic.
    pub topic_id: B256,
    /// The registration of the topic that is meant.
    pub epoch: u64,
    /// Unix second in which it was signed; of a topic's requests the newest counts.
    pub issued_at: u64,
    /// From when it is worthless, Unix seconds.
    pub expires_at: u64,
    /// What is to be done.
    pub wish: NameWish<'a>,
}

/// To know a name, or to know it no longer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum NameWish<'a> {
    /// Know it.
    Disclose {
        /// Random octets that were hashed with it.
        salt: B256,
        /// The whole name.
        name: &'a str,
    },
    /// Forget it.
    Erase,
}

impl fmt::Debug for NameWish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disclose { .. } => "Disclose([redacted])",
            Self::Erase => "Erase",
        })
    }
}

/// Why a request is not followed. Names nobody and no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameRefusal {
    /// It lives too long, or not at all.
    #[error("it has to end after it was issued, and at most {LONGEST_LIFE} s after: sign another")]
    Life,
    /// Its time has not come.
    #[error("it was issued more than {CLOCK_SKEW} s in the future: is a clock wrong?")]
    NotYetValid,
    /// Its time is over.
    #[error("it has expired: sign another")]
    Expired,
    /// There is no such topic.
    #[error("no topic with this id is registered at this broker, as far as this gateway knows")]
    Unknown,
    /// The name is on chain.
    #[error("the topic's name is on chain, where everybody reads it")]
    NotHidden,
    /// Another registration is meant.
    #[error("it is for epoch {found} of the topic, which is in epoch {known}: sign another")]
    Epoch {
        /// In the request.
        found: u64,
        /// On chain.
        known: u64,
    },
    /// Another wallet owns the topic.
    #[error("the topic belongs to another wallet")]
    Owner,
    /// It changed hands, and that is not deep enough yet.
    #[error("the topic's new owner has not settled yet: ask again in a while")]
    NotSettled,
    /// Salt or name are wrong.
    #[error("salt and name are not those that the topic was registered with")]
    Commitment,
    /// No topic can have it.
    #[error(
        "no topic can have this name, so it governs nothing: register another, of visible ASCII without + and #, no leading $, no empty level, at most 256 octets and 16 levels"
    )]
    NoName,
    /// Somebody else signed.
    #[error("it was not signed by the owner, for this broker and with these words")]
    Signature,
    /// The topic above is hidden as well.
    #[error(
        "the topic above it is hidden too, and this gateway does not know its name: tell that first"
    )]
    Above,
    /// It lies in the branch of another topic.
    #[error(
        "the name does not lie below that of the topic it was hidden below, or another topic that is known here has it or governs it"
    )]
    Elsewhere,
    /// There was a newer one.
    #[error("a request about this topic of second {at} counts, which is no older: sign another")]
    Superseded {
        /// When that was issued.
        at: u64,
    },
    /// No more fits.
    #[error("this gateway knows of {MOST} hidden names, more than which it does not remember")]
    Full,
}

impl NameRequest<'_> {
    /// Whether it could count, by the chain and the time alone. Who signed it is still to be asked.
    ///
    /// # Errors
    /// [`NameRefusal`].
    pub fn check(&self, view: &View, now: u64) -> Result<(), NameRefusal> {
        let life = self.expires_at.checked_sub(self.issued_at);
        if life.is_none_or(|life| life == 0 || life > LONGEST_LIFE) {
            return Err(NameRefusal::Life);
        }
        if self.issued_at > now.saturating_add(CLOCK_SKEW) {
            return Err(NameRefusal::NotYetValid);
        }
        if now >= self.expires_at {
            return Err(NameRefusal::Expired);
        }
        let topic = view.head.topic_by_id(self.topic_id).ok_or(NameRefusal::Unknown)?;
        let hidden = topic.hidden.as_ref().ok_or(NameRefusal::NotHidden)?;
        if topic.epoch != self.epoch {
            return Err(NameRefusal::Epoch { found: self.epoch, known: topic.epoch });
        }
        if topic.owner != self.owner {
            return Err(NameRefusal::Owner);
        }
        let NameWish::Disclose { salt, name } = self.wish else { return Ok(()) };
        if name_commitment(salt, name) != hidden.commitment {
            return Err(NameRefusal::Commitment);
        }
        if !is_topic_name(name) {
            return Err(NameRefusal::NoName);
        }
        let before = view.settled_apart().and_then(|settled| settled.topic_by_id(self.topic_id));
        if before.is_some_and(|topic| topic.epoch == self.epoch && topic.owner != self.owner) {
            return Err(NameRefusal::NotSettled);
        }
        Ok(())
    }

    /// Whether the owner's own key has signed it. If not, a contract at that address may still say that it has, of
    /// [`name_request_digest`].
    #[must_use]
    pub fn is_signed_by_owner(&self, site: &Site, signature: &[u8]) -> bool {
        recover(signature, &name_request_digest(site, self)) == Ok(self.owner)
    }
}

/// What is known of one topic by its owner's newest request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameEntry {
    /// The registration of the topic that it was for.
    pub epoch: u64,
    /// When it was issued, Unix seconds.
    pub at: u64,
    /// The name; `None` where it was taken back.
    pub name: Option<Box<str>>,
}

impl fmt::Debug for NameEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.name.is_some() { "[redacted]" } else { "taken back" };
        write!(f, "NameEntry(epoch {}, at {}, {state})", self.epoch, self.at)
    }
}

/// What a gateway knows of hidden names. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names(OrdMap<B256, NameEntry>);

impl FromIterator<(B256, NameEntry)> for Names {
    fn from_iter<T: IntoIterator<Item = (B256, NameEntry)>>(entries: T) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl Names {
    /// The most topics of which something can be known.
    pub const MOST: usize = MOST;

    /// What a signed request puts in the place of what is remembered; `None` if it was followed before. The view is one with these names.
    ///
    /// # Errors
    /// [`NameRefusal`] for one that does not count, or no longer.
    pub fn judge(
        &self,
        request: &NameRequest<'_>,
        view: &View,
    ) -> Result<Option<NameEntry>, NameRefusal> {
        let known = self.0.get(&request.topic_id);
        let (mut at, epoch) = (request.issued_at, request.epoch);
        // Times count whatever the epoch: a reorganisation may bring an earlier one back, and with it requests that were overtaken.
        let name = match (request.wish, known) {
            // Of one second, taking back is the later.
            (NameWish::Erase, Some(known)) if known.name.is_some() && at < known.at => {
                return Err(NameRefusal::Superseded { at: known.at });
            }
            (NameWish::Erase, Some(known)) if known.name.is_none() && at <= known.at => {
                if known.epoch == epoch {
                    return Ok(None);
                }
                at = known.at;
                None
            }
            (NameWish::Erase, _) => None,
            (NameWish::Disclose { name, .. }, Some(known))
                if (at, epoch) == (known.at, known.epoch)
                    && known.name.as_deref() == Some(name) =>
            {
                return Ok(None);
            }
            (NameWish::Disclose { .. }, Some(known)) if at <= known.at => {
                return Err(NameRefusal::Superseded { at: known.at });
            }
            (NameWish::Disclose { name, .. }, _) => {
                self.find_room(request.topic_id, name, &view.head)?;
                Some(Box::from(name))
            }
        };
        if known.is_none() && self.0.len() >= MOST {
            return Err(NameRefusal::Full);
        }
        Ok(Some(NameEntry { epoch, at, name }))
    }

    /// The contracts cannot see where a hidden name lies. One that lies elsewhere than below its parent would take a branch from its owner.
    fn find_room(&self, id: B256, name: &str, head: &Registry) -> Result<(), NameRefusal> {
        let topic = head.topic_by_id(id).ok_or(NameRefusal::Unknown)?;
        let hidden = topic.hidden.as_ref().ok_or(NameRefusal::NotHidden)?;
        let above = match hidden.is_nested(head.broker_id()) {
            false => &*hidden.below,
            // Whatever its epoch: the id is of the name.
            true => {
                let above = self.0.get(&hidden.parent_id).and_then(|above| above.name.as_deref());
                above.ok_or(NameRefusal::Above)?
            }
        };
        let is_below = name.strip_prefix(above).is_some_and(|rest| rest.starts_with('/'));
        if !is_below || head.is_taken_below(above, name, id) {
            return Err(NameRefusal::Elsewhere);
        }
        Ok(())
    }

    /// Takes in what [`Names::judge`] answered.
    pub fn put(&mut self, topic_id: B256, entry: NameEntry) {
        self.0.insert(topic_id, entry);
    }

    /// Forgets that there ever was a request.
    pub fn remove(&mut self, topic_id: B256) {
        self.0.remove(&topic_id);
    }

    /// What goes with the name of a topic that is taken back: the names that begin with it. Of each, what is left.
    #[must_use]
    pub fn below(&self, topic_id: B256) -> Vec<(B256, NameEntry)> {
        let Some(above) = self.0.get(&topic_id).and_then(|entry| entry.name.as_deref()) else {
            return Vec::new();
        };
        let is_below = |entry: &NameEntry| {
            let rest = entry.name.as_deref().and_then(|name| name.strip_prefix(above));
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let all = self.0.iter().filter(|(_, entry)| is_below(entry));
        all.map(|(id, entry)| (*id, NameEntry { name: None, ..entry.clone() })).collect()
    }

    /// Topics of which nothing but a name taken back is remembered, and all requests that this keeps out have ended.
    pub fn over(&self, now: u64) -> impl Iterator<Item = B256> {
        let is_over = move |entry: &NameEntry| {
            entry.name.is_none() && entry.at.saturating_add(LONGEST_LIFE) < now
        };
        self.0.iter().filter(move |(_, entry)| is_over(entry)).map(|(id, _)| *id)
    }

    /// Topics of which something is known although they are not registered any more, or anew.
    pub fn without_topic<'a>(&'a self, view: &'a View) -> impl Iterator<Item = B256> + 'a {
        let is_there = |registry: &Registry, id: B256, epoch: u64| {
            registry.topic_by_id(id).is_some_and(|topic| topic.epoch == epoch)
        };
        let gone = self.0.iter().filter(move |(id, entry)| {
            ![&view.head, &view.settled].iter().any(|state| is_there(state, **id, entry.epoch))
        });
        gone.map(|(id, _)| *id)
    }

    /// Topics whose names are known, each with its epoch and name.
    pub(crate) fn told(&self) -> impl Iterator<Item = (B256, u64, &str)> {
        self.0.iter().filter_map(|(id, entry)| Some((*id, entry.epoch, entry.name.as_deref()?)))
    }

    /// In which epoch of the topic its name was told, if one is known.
    #[must_use]
    pub fn told_in(&self, topic_id: B256) -> Option<u64> {
        let entry = self.0.get(&topic_id).filter(|entry| entry.name.is_some());
        entry.map(|entry| entry.epoch)
    }

    /// How many names are known.
    #[must_use]
    pub fn count(&self) -> usize {
        self.told().count()
    }
}
