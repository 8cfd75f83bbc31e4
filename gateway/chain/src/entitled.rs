//! Who could use a topic at one second: from the broker's past, by the gateways' own registry. What gateways recorded is not asked here.

use std::collections::{BTreeSet, HashMap};

use alloy::primitives::{Address, B256, U256};
use flytrap_policy::{Event, Inconsistent, OfferMode, Registry, Right, Stamp, Topic};

use crate::history::Entry;

/// A right that somebody had at that second, or had lost before it.
#[derive(Debug, Clone)]
pub struct Entitled<'a> {
    /// Who.
    pub wallet: Address,
    /// What it stood on.
    pub ground: Ground,
    /// Which right; an owner has both, a manager neither.
    pub right: Option<Right>,
    /// When it ends or ended; open for owners and managers.
    pub until: Option<u64>,
    /// Why it does not count at that second although it was given.
    pub but: Option<But>,
    /// The event that gave it, or took it away.
    pub since: Option<&'a Entry>,
}

/// What a right stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// The topic is theirs.
    Owner,
    /// They act for the owner, and have no right to its messages by that.
    Manager,
    /// They were given it, or bought it.
    Grant,
}

impl Ground {
    /// For answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Manager => "manager",
            Self::Grant => "grant",
        }
    }
}

/// Why a right does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum But {
    /// The wallet is banned at the broker.
    Banned,
    /// The wallet is blocked on the topic.
    Blocked,
    /// It has ended.
    Ended,
}

impl But {
    /// For answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Banned => "banned",
            Self::Blocked => "blocked",
            Self::Ended => "ended",
        }
    }
}

/// The state that these events, oldest first, come to.
///
/// # Errors
/// The entry that does not follow from those before, and why.
pub fn replay(broker_id: U256, entries: &[Entry]) -> Result<Registry, (&Entry, Inconsistent)> {
    let mut registry = Registry::new(broker_id);
    for entry in entries {
        let at = Stamp { height: entry.height, time: entry.time };
        registry.apply(&entry.event, at).map_err(|why| (entry, why))?;
    }
    Ok(registry)
}

/// Owner, managers, and everybody who was ever granted a right in the topic's present epoch. `registry` is what `entries` come to.
#[must_use]
pub fn entitled<'a>(
    registry: &Registry,
    entries: &'a [Entry],
    topic: &Topic,
    now: u64,
) -> Vec<Entitled<'a>> {
    let banned = |wallet| registry.wallet_banned_until(wallet, now).map(|_| But::Banned);
    let last = Last::of(entries, topic);
    let mut all = vec![Entitled {
        wallet: topic.owner,
        ground: Ground::Owner,
        right: None,
        until: None,
        but: banned(topic.owner),
        since: last.owner.map(|(_, entry)| entry),
    }];
    let managers: BTreeSet<Address> = last.managers.keys().copied().collect();
    let managers = managers.into_iter().filter(|wallet| registry.is_manager(topic.id, *wallet));
    all.extend(managers.map(|wallet| Entitled {
        wallet,
        ground: Ground::Manager,
        right: None,
        until: None,
        but: banned(wallet),
        since: last.managers.get(&wallet).map(|(_, entry)| *entry),
    }));
    let mut grants: Vec<_> = registry
        .grants()
        .filter(|(of, ..)| of.id == topic.id)
        .map(|(_, wallet, right, until)| (wallet, right, until))
        .collect();
    grants.sort_unstable_by_key(|(wallet, right, _)| (*wallet, *right == Right::Subscribe));
    all.extend(grants.into_iter().map(|(wallet, right, until)| {
        let is_blocked = registry.is_blocked(topic.id, wallet);
        let ended = (until <= now).then_some(But::Ended);
        let but = banned(wallet).or(is_blocked.then_some(But::Blocked)).or(ended);
        let block = last.blocks.get(&wallet).filter(|_| is_blocked);
        let since = last.grants.get(&(wallet, right)).into_iter().chain(block);
        let since = since.max_by_key(|(place, _)| *place).map(|(_, entry)| *entry);
        Entitled {
            wallet,
            ground: Ground::Grant,
            right: Some(right),
            until: Some(until),
            but,
            since,
        }
    }));
    all
}

/// The last events about one topic, each with its place among all.
#[derive(Debug, Default)]
struct Last<'a> {
    owner: Option<(usize, &'a Entry)>,
    managers: HashMap<Address, (usize, &'a Entry)>,
    grants: HashMap<(Address, Right), (usize, &'a Entry)>,
    blocks: HashMap<Address, (usize, &'a Entry)>,
}

impl<'a> Last<'a> {
    fn of(entries: &'a [Entry], topic: &Topic) -> Self {
        let mut last = Self::default();
        let is_it = |id: &B256| *id == topic.id;
        for at in entries.iter().enumerate() {
            match &at.1.event {
                Event::TopicRegistered { topic_id, owner, .. }
                | Event::HiddenTopicRegistered { topic_id, owner, .. }
                | Event::TopicOwnershipTransferred { topic_id, new_owner: owner, .. }
                    if is_it(topic_id) && *owner == topic.owner =>
                {
                    last.owner = Some(at);
                }
                Event::ManagerSet { topic_id, manager, .. } if is_it(topic_id) => {
                    last.managers.insert(*manager, at);
                }
                Event::AccessGranted { topic_id, wallet, right, .. }
                | Event::AccessBought { topic_id, wallet, right, .. }
                | Event::AccessRevoked { topic_id, wallet, right, .. }
                    if is_it(topic_id) =>
                {
                    last.grants.insert((*wallet, *right), at);
                }
                Event::WalletBlocked { topic_id, wallet, .. } if is_it(topic_id) => {
                    last.blocks.insert(*wallet, at);
                }
                _ => {}
            }
        }
        last
    }
}

/// Rights that any wallet has without a grant.
#[must_use]
pub fn public(topic: &Topic) -> Vec<Right> {
    [Right::Publish, Right::Subscribe]
        .into_iter()
        .filter(|right| topic.offer(*right).mode == OfferMode::Public)
        .collect()
}

/// Who held a right then and is not among those who ever used it.
pub fn idle<'a>(
    entitled: &'a [Entitled<'a>],
    has_used: impl Fn(Address, Right) -> bool + 'a,
) -> impl Iterator<Item = (Address, Right)> + 'a {
    let rights = |of: &Entitled<'_>| match (of.ground, of.right) {
        (Ground::Grant, Some(right)) => vec![right],
        (Ground::Owner, _) => vec![Right::Publish, Right::Subscribe],
        _ => Vec::new(),
    };
    entitled
        .iter()
        .filter(|of| of.but.is_none())
        .flat_map(move |of| rights(of).into_iter().map(|right| (of.wallet, right)))
        .filter(move |(wallet, right)| !has_used(*wallet, *right))
}
