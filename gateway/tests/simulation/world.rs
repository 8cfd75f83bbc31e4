//! What happens on chain meanwhile: the real registries that the machine is given, and beside them rules that are told naively.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};
use flytrap_policy::{
    Concern, Country, CountryMode, Event, NamingPolicy, Offer, OfferMode, Options, Principal,
    Registry, Right, Stamp, Traits, Ungoverned, View, Wildcards, topic_id,
};
use rand::Rng;
use rand::rngs::StdRng;

const BROKER: U256 = U256::ONE;

pub fn wallet(number: u8) -> Address {
    Address::repeat_byte(number)
}

pub fn country(code: &str) -> Country {
    Country::new(code.as_bytes().try_into().unwrap()).unwrap()
}

/// A device key of wallet 1 that comes and goes; the sessions are those of wallet 1.
pub const DEVICE: u8 = 0xD1;
pub const TOPICS: [&str; 7] = ["a", "a/b", "a/b/c", "b", "b/c", "c", "a/a"];

/// One thing that happens on chain.
#[derive(Debug, Clone)]
pub enum Change {
    Register {
        name: &'static str,
        owner: u8,
        retain: bool,
        own_branch: bool,
        offers: [OfferMode; 2],
    },
    Delete {
        name: &'static str,
    },
    Traits {
        name: &'static str,
        retain: bool,
        own_branch: bool,
    },
    Offer {
        name: &'static str,
        right: Right,
        mode: OfferMode,
    },
    Only {
        name: &'static str,
        countries: Vec<&'static str>,
    },
    Transfer {
        name: &'static str,
        to: u8,
    },
    Grant {
        name: &'static str,
        wallet: u8,
        right: Right,
        until: u64,
    },
    Revoke {
        name: &'static str,
        wallet: u8,
        right: Right,
    },
    Block {
        name: &'static str,
        wallet: u8,
    },
    Unblock {
        name: &'static str,
        wallet: u8,
    },
    Ban {
        wallet: u8,
        until: u64,
    },
    Unban {
        wallet: u8,
    },
    Device {
        until: u64,
    },
    EndDevice,
    EndAllDevices,
    Invalidate {
        before: u64,
    },
}

/// Ends of what is allowed, by right and by state.
type Verdicts = [[Option<u64>; 2]; 2];

#[derive(Debug, Clone)]
struct Topic {
    owner: Address,
    retain: bool,
    own_branch: bool,
    public: [bool; 2],
    /// An empty list: from everywhere.
    countries: Vec<&'static str>,
    grants: BTreeMap<(Address, usize), u64>,
    blocked: BTreeSet<Address>,
}

/// One state of the chain, as the contracts' interfaces tell it.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    topics: BTreeMap<&'static str, Topic>,
    epochs: BTreeMap<&'static str, u64>,
    bans: BTreeMap<Address, u64>,
    device: Option<(Address, u64)>,
    generation: u64,
    tokens_from: u64,
}

impl Rules {
    /// What happens in the registry if this happens here; `None` if the contracts would not have it.
    fn happen(&mut self, change: &Change, time: u64) -> Option<Event> {
        let (broker_id, by, purpose, note) = (BROKER, wallet(9), B256::ZERO, String::new);
        let (id, offer) = (
            |name: &str| topic_id(BROKER, name),
            |mode: OfferMode| Offer {
                mode,
                period: u32::from(mode == OfferMode::Priced) * 60,
                price_wei: 0,
            },
        );
        Some(match change {
            Change::Register { name, owner, retain, own_branch, offers } => {
                if self.topics.contains_key(name) {
                    return None;
                }
                let epoch = self.epochs.entry(*name).or_default();
                *epoch += 1;
                let topic = Topic {
                    owner: wallet(*owner),
                    retain: *retain,
                    own_branch: *own_branch,
                    public: offers.map(|mode| mode == OfferMode::Public),
                    countries: vec![],
                    grants: BTreeMap::new(),
                    blocked: BTreeSet::new(),
                };
                self.topics.insert(*name, topic);
                Event::TopicRegistered {
                    broker_id,
                    topic_id: id(name),
                    owner: wallet(*owner),
                    epoch: *epoch,
                    name: (*name).into(),
                    traits: Traits { retain: *retain, sensitive: false, own_branch: *own_branch },
                    publish_offer: offer(offers[0]),
                    subscribe_offer: offer(offers[1]),
                }
            }
            Change::Delete { name } => {
                let gone = self.topics.remove(name)?;
                let epoch = self.epochs[name];
                Event::TopicDeleted { broker_id, topic_id: id(name), owner: gone.owner, epoch }
            }
            Change::Traits { name, retain, own_branch } => {
                let topic = self.topics.get_mut(name)?;
                (topic.retain, topic.own_branch) = (*retain, *own_branch);
                let traits = Traits { retain: *retain, sensitive: false, own_branch: *own_branch };
                Event::TraitsSet { broker_id, topic_id: id(name), traits }
            }
            Change::Offer { name, right, mode } => {
                self.topics.get_mut(name)?.public[*right as usize] = *mode == OfferMode::Public;
                Event::OfferSet {
                    broker_id,
                    topic_id: id(name),
                    right: *right,
                    offer: offer(*mode),
                }
            }
            Change::Only { name, countries } => {
                self.topics.get_mut(name)?.countries.clone_from(countries);
                let mode = if countries.is_empty() { CountryMode::Any } else { CountryMode::Only };
                let codes = countries.iter().map(|code| country(code)).collect();
                Event::CountriesSet { broker_id, topic_id: id(name), mode, codes }
            }
            Change::Transfer { name, to } => {
                let topic = self.topics.get_mut(name)?;
                let previous_owner = std::mem::replace(&mut topic.owner, wallet(*to));
                let new_owner = topic.owner;
                Event::TopicOwnershipTransferred {
                    broker_id,
                    topic_id: id(name),
                    new_owner,
                    previous_owner,
                }
            }
            Change::Grant { name, wallet: to, right, until } => {
                let topic = self.topics.get_mut(name)?;
                topic.grants.insert((wallet(*to), *right as usize), *until);
                Event::AccessGranted {
                    broker_id,
                    topic_id: id(name),
                    wallet: wallet(*to),
                    right: *right,
                    epoch: self.epochs[name],
                    until: *until,
                    by,
                    fee_wei: U256::ZERO,
                    purpose,
                    note: note(),
                }
            }
            Change::Revoke { name, wallet: from, right } => {
                let topic = self.topics.get_mut(name)?;
                let until = topic.grants.get_mut(&(wallet(*from), *right as usize))?;
                if *until <= time {
                    return None;
                }
                let was = std::mem::replace(until, time);
                Event::AccessRevoked {
                    broker_id,
                    topic_id: id(name),
                    wallet: wallet(*from),
                    right: *right,
                    epoch: self.epochs[name],
                    was,
                    refund_wei: U256::ZERO,
                    by,
                    purpose,
                    note: note(),
                }
            }
            Change::Block { name, wallet: whom } => {
                if !self.topics.get_mut(name)?.blocked.insert(wallet(*whom)) {
                    return None;
                }
                Event::WalletBlocked {
                    broker_id,
                    topic_id: id(name),
                    wallet: wallet(*whom),
                    by,
                    purpose,
                    note: note(),
                }
            }
            Change::Unblock { name, wallet: whom } => {
                if !self.topics.get_mut(name)?.blocked.remove(&wallet(*whom)) {
                    return None;
                }
                Event::WalletUnblocked { broker_id, topic_id: id(name), wallet: wallet(*whom), by }
            }
            Change::Ban { wallet: whom, until } => {
                self.bans.insert(wallet(*whom), *until);
                let (evidence, reason) = (B256::ZERO, String::new());
                Event::WalletBanned {
                    broker_id,
                    wallet: wallet(*whom),
                    by,
                    until: *until,
                    evidence,
                    reason,
                }
            }
            Change::Unban { wallet: whom } => {
                self.bans.remove(&wallet(*whom))?;
                Event::WalletUnbanned { broker_id, wallet: wallet(*whom), by }
            }
            Change::Device { until } => {
                self.device = Some((wallet(1), *until));
                let (device, generation) = (wallet(DEVICE), self.generation);
                Event::DeviceAuthorized { wallet: wallet(1), device, until: *until, generation }
            }
            Change::EndDevice => {
                let (of, until) = self.device.filter(|(_, until)| *until > time)?;
                self.device = Some((of, until.min(time)));
                Event::DeviceRevoked { wallet: of, device: wallet(DEVICE) }
            }
            Change::EndAllDevices => {
                self.generation += 1;
                if let Some((_, until)) = &mut self.device {
                    *until = 0;
                }
                Event::AllDevicesRevoked { wallet: wallet(1), generation: self.generation }
            }
            Change::Invalidate { before } => {
                if *before <= self.tokens_from {
                    return None;
                }
                self.tokens_from = *before;
                Event::TokensInvalidated { wallet: wallet(1), before: *before }
            }
        })
    }

    fn stands(&self, who: &Principal, now: u64) -> bool {
        let is_live = match self.device {
            Some((of, until)) if who.key == wallet(DEVICE) => of == who.wallet && now < until,
            _ => who.key == who.wallet && who.credential.issued_at >= self.tokens_from,
        };
        is_live && !self.is_banned(who, now) && now < who.credential.expires_at
    }

    fn is_banned(&self, who: &Principal, now: u64) -> bool {
        [who.wallet, who.key].iter().any(|one| self.bans.get(one).is_some_and(|until| now < *until))
    }

    /// The nearest registered topic at or above a name.
    fn governing(&self, name: &str) -> Option<(&'static str, &Topic)> {
        let above = self.topics.iter().filter(|(topic, _)| lies_in(name, topic));
        above.max_by_key(|(topic, _)| topic.len()).map(|(topic, facts)| (*topic, facts))
    }

    /// Until when may the wallet use the name, as far as the topics are concerned? `None`: not at all, and time will not mend it.
    fn until(
        &self,
        who: &Principal,
        right: Right,
        retain: bool,
        name: &str,
        options: Options,
    ) -> Option<u64> {
        if name.is_empty() || name.starts_with('$') || name.contains(['+', '#']) {
            return None;
        }
        let Some((above, topic)) = self.governing(name) else {
            return (options.ungoverned == Ungoverned::Allow).then_some(u64::MAX);
        };
        let may = name.split('/').all(|level| !level.is_empty())
            && (!topic.is_shut(who) || is_own(name, above, who))
            && (!retain || topic.retain);
        if may { topic.until(who, right) } else { None }
    }

    /// Until when is the filter covered, and until when does it touch anything that may be read?
    ///
    /// By trying names: each level may be what topics are made of, the wallet's own, or anything else.
    fn filter_until(
        &self,
        who: &Principal,
        filter: &str,
        names: &[String],
        options: Options,
    ) -> [Option<u64>; 2] {
        let (inner, is_shared) = without_share(filter);
        if inner.starts_with('$') {
            return [None; 2];
        }
        if !inner.contains(['+', '#']) {
            return [self.until(who, Right::Subscribe, false, inner, options), None];
        }
        let is_wild = |level: &&str| matches!(*level, "+" | "#");
        let prefix: Vec<&str> = inner.split('/').take_while(|level| !is_wild(level)).collect();
        let prefix = prefix.join("/");
        let governing = self.governing(&prefix);
        if governing.is_some() && inner.split('/').any(str::is_empty) {
            return [None; 2];
        }
        let is_below = |topic: &str| prefix.is_empty() || topic.starts_with(&format!("{prefix}/"));
        let met = self
            .topics
            .iter()
            .filter(|(topic, _)| is_below(topic) && names.iter().any(|name| lies_in(name, topic)));
        let concerned: Vec<(&str, &Topic)> =
            met.map(|(name, topic)| (*name, topic)).chain(governing).collect();
        let covered = concerned.iter().try_fold(u64::MAX, |least, (name, topic)| {
            let may = !topic.is_shut(who) || is_own(&prefix, name, who);
            if may {
                topic.until(who, Right::Subscribe).map(|until| least.min(until))
            } else {
                None
            }
        });
        let covered =
            covered.filter(|_| governing.is_some() || options.ungoverned == Ungoverned::Allow);
        if let Some(covered) = covered
            && names.len() < 100
        {
            // The rule is only a shorter way to say this.
            for name in names.iter().filter(|name| name.split('/').all(|level| !level.is_empty())) {
                let until = self.until(who, Right::Subscribe, false, name, options);
                assert!(
                    until.is_some_and(|until| until >= covered),
                    "{filter} is covered, {name} is not"
                );
            }
        }
        let touched = if options.wildcards == Wildcards::Covered || is_shared {
            None
        } else if options.ungoverned == Ungoverned::Allow {
            Some(u64::MAX)
        } else {
            let reaches = |name: &str, topic: &Topic| {
                !topic.is_shut(who) || names.iter().any(|one| is_own(one, name, who))
            };
            let touched = concerned.iter().filter(|(name, topic)| reaches(name, topic));
            touched.filter_map(|(_, topic)| topic.until(who, Right::Subscribe)).max()
        };
        [covered, touched]
    }
}

impl Topic {
    fn is_shut(&self, who: &Principal) -> bool {
        self.own_branch && self.owner != who.key
    }

    fn until(&self, who: &Principal, right: Right) -> Option<u64> {
        let is_from = |code: &&str| who.country.is_some_and(|from| from.to_string() == **code);
        if !self.countries.is_empty() && !self.countries.iter().any(is_from) {
            return None;
        }
        if self.owner == who.wallet {
            return Some(u64::MAX);
        }
        if self.blocked.contains(&who.wallet) {
            return None;
        }
        if self.public[right as usize] {
            return Some(u64::MAX);
        }
        self.grants.get(&(who.wallet, right as usize)).copied()
    }
}

/// The filter that decides on names, and whether a group shares it.
fn without_share(filter: &str) -> (&str, bool) {
    let share = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    share.map_or((filter, false), |(_, inner)| (inner, true))
}

/// Whether the name is that of the branch or below it.
fn lies_in(name: &str, branch: &str) -> bool {
    name.strip_prefix(branch).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether the name lies in what belongs to this key alone below the topic.
fn is_own(name: &str, topic: &str, who: &Principal) -> bool {
    lies_in(name, &format!("{topic}/{:#x}", who.key))
}

/// Names that a filter matches. The deepest topic has three levels, its own branches four; what is below them is like them.
fn names_of(filter: &str, own: &str) -> Vec<String> {
    let any = ["a", "b", "c", "else", own];
    let grow = |names: &[Vec<String>], with: &[&str]| -> Vec<Vec<String>> {
        let longer =
            |name: &Vec<String>, level: &&str| [&name[..], &[(*level).to_owned()]].concat();
        names.iter().flat_map(|name| with.iter().map(move |level| longer(name, level))).collect()
    };
    let mut names: Vec<Vec<String>> = vec![vec![]];
    for level in filter.split('/') {
        match level {
            "+" => names = grow(&names, &any),
            "#" => {
                let mut last = names.clone();
                while last[0].len() < 4 {
                    last = grow(&last, &any);
                    names.extend(last.iter().cloned());
                }
            }
            level => names = grow(&names, &[level]),
        }
    }
    names.into_iter().filter(|name| !name.is_empty()).map(|name| name.join("/")).collect()
}

/// A chain that grows and is reorganised, and what the gateway can see of it.
pub struct World {
    /// The states after each block, and whom it concerned.
    states: Vec<(Rules, Arc<Registry>, Concern)>,
    /// Whose decisions may differ from those of the last version.
    concern: Concern,
    confirmations: usize,
    options: Options,
    pub now: u64,
    version: u64,
    height: u64,
    /// What each filter matches.
    names: HashMap<(Address, String), Arc<[String]>>,
    /// Of head and settled state, see [`Rules::filter_until`].
    verdicts: HashMap<(Address, Option<Country>, String), Verdicts>,
}

impl World {
    pub fn new(rng: &mut StdRng) -> Self {
        let mut registry = Registry::new(BROKER);
        let created = Event::BrokerCreated {
            broker_id: BROKER,
            owner: wallet(9),
            policy: NamingPolicy::Open,
            name: "b".into(),
        };
        registry.apply(&created, Stamp { height: 1, time: 1_000 }).unwrap();
        let options = Options {
            ungoverned: if rng.random_ratio(1, 3) { Ungoverned::Allow } else { Ungoverned::Deny },
            wildcards: if rng.random_ratio(1, 3) { Wildcards::Narrow } else { Wildcards::Covered },
            ..Options::default()
        };
        let mut world = Self {
            states: vec![(Rules::default(), Arc::new(registry), Concern::EVERYONE)],
            concern: Concern::EVERYONE,
            confirmations: [0, 0, 2][rng.random_range(0..3)],
            options,
            now: 1_000,
            version: 1,
            height: 1,
            names: HashMap::new(),
            verdicts: HashMap::new(),
        };
        for _ in 0..12 {
            world.block(rng);
        }
        world
    }

    /// One block with a few changes, or none.
    pub fn block(&mut self, rng: &mut StdRng) -> Vec<Change> {
        let (mut rules, registry, _) = self.states.last().cloned().unwrap();
        let mut registry = Registry::clone(&registry);
        self.height += 1;
        let (mut happened, mut concern) = (Vec::new(), Concern::NOBODY);
        for _ in 0..rng.random_range(0..4) {
            let change = some_change(rng, self.now);
            if let Some(event) = rules.happen(&change, self.now) {
                let at = Stamp { height: self.height, time: self.now };
                registry.apply(&event, at).unwrap_or_else(|error| panic!("{event:?}: {error}"));
                concern.add(&event);
                happened.push(change);
            }
        }
        // An empty block is the same state again, which sessions are not woken for unless an older one settles by it.
        let next = if happened.is_empty() {
            self.states.last().unwrap().1.clone()
        } else {
            Arc::new(registry)
        };
        let (version, mut concerned) = (self.version, concern.clone());
        self.moved(|states| states.push((rules, next, concern)));
        if self.version != version {
            // What settles by it is seen anew as well.
            concerned.merge(&self.settled().2);
            self.concern = concerned;
        }
        happened
    }

    /// Some of the newest blocks were not to be.
    pub fn reorganise(&mut self, rng: &mut StdRng) {
        let depth = rng.random_range(1..4).min(self.states.len() - 1);
        let left = self.states.len() - depth;
        self.moved(|states| states.truncate(left));
        self.concern = Concern::EVERYONE;
        for _ in 0..=depth {
            self.block(rng);
        }
    }

    fn moved(&mut self, change: impl FnOnce(&mut Vec<(Rules, Arc<Registry>, Concern)>)) {
        let before = (self.head().1.clone(), self.settled().1.clone());
        change(&mut self.states);
        let is_same =
            Arc::ptr_eq(&before.0, &self.head().1) && Arc::ptr_eq(&before.1, &self.settled().1);
        self.version += u64::from(!is_same);
        self.verdicts.clear();
    }

    fn head(&self) -> &(Rules, Arc<Registry>, Concern) {
        self.states.last().unwrap()
    }

    fn settled(&self) -> &(Rules, Arc<Registry>, Concern) {
        &self.states[(self.states.len() - 1).saturating_sub(self.confirmations)]
    }

    pub fn view(&self) -> Arc<View> {
        Arc::new(View {
            settled: self.settled().1.clone(),
            head: self.head().1.clone(),
            height: self.height,
            time: self.now,
            version: self.version,
            concern: self.concern.clone(),
            options: self.options,
        })
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn stands(&self, who: &Principal) -> bool {
        [self.head(), self.settled()].iter().all(|(rules, ..)| rules.stands(who, self.now))
    }

    pub fn is_banned(&self, who: &Principal) -> bool {
        [self.head(), self.settled()].iter().any(|(rules, ..)| rules.is_banned(who, self.now))
    }

    pub fn may_publish(&self, who: &Principal, name: &str, retain: bool) -> bool {
        self.may(who, Right::Publish, retain, name)
    }

    pub fn may_receive(&self, who: &Principal, name: &str) -> bool {
        self.may(who, Right::Subscribe, false, name)
    }

    fn may(&self, who: &Principal, right: Right, retain: bool, name: &str) -> bool {
        let both = [self.head(), self.settled()];
        self.stands(who)
            && both.iter().all(|(rules, ..)| {
                rules
                    .until(who, right, retain, name, self.options)
                    .is_some_and(|until| self.now < until)
            })
    }

    /// Names to try: mostly such as may be received, or nearly everything would be refused.
    pub fn likely(&self, who: &Principal, names: &[String], rng: &mut StdRng) -> Vec<String> {
        let mut likely = names.to_vec();
        if rng.random_ratio(2, 3) {
            likely.retain(|name| self.may_receive(who, name));
        }
        if likely.is_empty() { names.to_vec() } else { likely }
    }

    pub fn may_subscribe(&mut self, who: &Principal, filter: &str) -> bool {
        if !self.stands(who) {
            return false;
        }
        let key = (who.key, who.country, filter.to_owned());
        let verdict = match self.verdicts.get(&key) {
            Some(verdict) => *verdict,
            None => {
                let names = self.names.entry((who.key, filter.to_owned())).or_insert_with(|| {
                    names_of(without_share(filter).0, &format!("{:#x}", who.key)).into()
                });
                let (names, options) = (Arc::clone(names), self.options);
                let both = [self.head(), self.settled()];
                let verdict =
                    both.map(|(rules, ..)| rules.filter_until(who, filter, &names, options));
                self.verdicts.insert(key, verdict);
                verdict
            }
        };
        verdict.iter().all(|either| either.iter().flatten().any(|until| self.now < *until))
    }
}

fn some_change(rng: &mut StdRng, now: u64) -> Change {
    let name = TOPICS[rng.random_range(0..TOPICS.len())];
    let modes = [OfferMode::Closed, OfferMode::Public, OfferMode::Closed];
    let mut mode = || modes[rng.random_range(0..3)];
    let offers = [mode(), mode()];
    let right = if rng.random() { Right::Publish } else { Right::Subscribe };
    let end = [now + rng.random_range(1..40), now + rng.random_range(1..1_000), u64::MAX];
    let until = end[rng.random_range(0..3)];
    let whom = [1, 1, 1, 2][rng.random_range(0..4)];
    let (retain, own_branch) = (rng.random(), rng.random_ratio(1, 5));
    match rng.random_range(0..34) {
        0..7 => Change::Register {
            name,
            owner: [3, 3, 1, 2][rng.random_range(0..4)],
            retain,
            own_branch,
            offers,
        },
        7..9 => Change::Delete { name },
        9 => Change::Traits { name, retain, own_branch },
        10..12 => Change::Offer { name, right, mode: offers[0] },
        12 => Change::Only {
            name,
            countries: [vec![], vec!["GB"], vec!["FR", "GB"], vec!["FR"]][rng.random_range(0..4)]
                .clone(),
        },
        13 => Change::Transfer { name, to: [1, 2, 3][rng.random_range(0..3)] },
        14..22 => Change::Grant { name, wallet: whom, right, until },
        22..25 => Change::Revoke { name, wallet: whom, right },
        25..27 => Change::Block { name, wallet: whom },
        27..29 => Change::Unblock { name, wallet: whom },
        29 if rng.random_ratio(1, 4) => {
            Change::Ban { wallet: [1, 2, DEVICE][rng.random_range(0..3)], until: end[0] }
        }
        30 => Change::Unban { wallet: [1, DEVICE][rng.random_range(0..2)] },
        31 => Change::Device { until },
        32 if rng.random_ratio(1, 4) => {
            if rng.random() {
                Change::EndDevice
            } else {
                Change::EndAllDevices
            }
        }
        33 if rng.random_ratio(1, 4) => {
            Change::Invalidate { before: now.saturating_sub(rng.random_range(0..20)) }
        }
        _ => Change::Grant { name, wallet: whom, right, until: end[0] },
    }
}
