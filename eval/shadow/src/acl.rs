//! The state after one block, and what it allows.

use std::collections::{BTreeMap, HashMap, HashSet};

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolEventInterface;
use eyre::{Result, WrapErr, bail, ensure, eyre};
use serde_json::Value;

use crate::Right;
use crate::events::{
    IAccessMarketEvents as Market, IBrokerRegistryEvents as Broker,
    IDeviceRegistryEvents as Devices, ITopicRegistryEvents as Topics,
};
use crate::filter::{before_wildcard, is_at_or_below, is_wide, meets_branch};

/// Where the contracts are, and which broker's entries count.
#[derive(Clone, Copy, Debug)]
pub struct Contracts {
    /// `BrokerRegistry`.
    pub brokers: Address,
    /// `TopicRegistry`.
    pub topics: Address,
    /// `AccessMarket`.
    pub market: Address,
    /// `DeviceRegistry`.
    pub devices: Address,
    /// The broker.
    pub broker_id: U256,
}

/// Who acts, as proved at CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// The key that signed.
    pub key: Address,
    /// The wallet that it acted for then.
    pub wallet: Address,
    /// When its token was issued, Unix seconds; `None` for a device password.
    pub issued_at: Option<u64>,
    /// From when the proof is worthless, Unix seconds.
    pub expires_at: u64,
}

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum No {
    /// The broker has banned the wallet or the key.
    Banned,
    /// The device key acts for this wallet no longer, or the wallet's key is a device key now.
    Device,
    /// The token has ended.
    Token,
    /// No registered topic governs the name.
    Ungoverned,
    /// The topic has a rule about countries, and nobody's is known.
    Country,
    /// The topic's owner has blocked the wallet.
    Blocked,
    /// No offer, no grant, or one that has ended.
    NoRight,
    /// Not in the key's own branch.
    OtherBranch,
    /// The topic takes no retained messages.
    Retain,
}

#[derive(Clone, Debug)]
struct Topic {
    owner: Address,
    epoch: u64,
    retain: bool,
    own_branch: bool,
    /// Whether anyone may, for publish and subscribe.
    public: [bool; 2],
    has_countries: bool,
    blocked: HashSet<Address>,
    grants: [HashMap<Address, u64>; 2],
}

#[derive(Clone, Copy, Debug)]
struct Device {
    wallet: Address,
    until: u64,
    generation: u64,
}

/// The state after one block.
#[derive(Clone, Debug)]
pub struct Acl {
    at: Contracts,
    names: HashMap<B256, String>,
    topics: BTreeMap<String, Topic>,
    banned_until: HashMap<Address, u64>,
    devices: HashMap<Address, Device>,
    generations: HashMap<Address, u64>,
    tokens_from: HashMap<Address, u64>,
}

impl Acl {
    /// Before the first block.
    #[must_use]
    pub fn new(at: Contracts) -> Self {
        Self {
            at,
            names: HashMap::new(),
            topics: BTreeMap::new(),
            banned_until: HashMap::new(),
            devices: HashMap::new(),
            generations: HashMap::new(),
            tokens_from: HashMap::new(),
        }
    }

    /// Takes in the next log as `eth_getLogs` tells it, of a block with this time.
    ///
    /// # Errors
    /// If it cannot be read, contradicts what is known, or tells of something that is not modelled here.
    pub fn apply(&mut self, log: &Value, time: u64) -> Result<()> {
        let address: Address = serde_json::from_value(log["address"].clone())?;
        let topics: Vec<B256> = serde_json::from_value(log["topics"].clone())?;
        let data: Bytes = serde_json::from_value(log["data"].clone())?;
        let told = || format!("log of {address}: {log}");
        if address == self.at.brokers {
            self.broker(Broker::decode_raw_log(&topics, &data).wrap_err_with(told)?);
        } else if address == self.at.topics {
            self.topic(Topics::decode_raw_log(&topics, &data).wrap_err_with(told)?)?;
        } else if address == self.at.market {
            let event = Market::decode_raw_log(&topics, &data).wrap_err_with(told)?;
            self.market(event, time)?;
        } else if address == self.at.devices {
            let event = Devices::decode_raw_log(&topics, &data).wrap_err_with(told)?;
            self.device(event, time)?;
        }
        Ok(())
    }

    fn broker(&mut self, event: Broker) {
        match event {
            Broker::WalletBanned(e) if e.brokerId == self.at.broker_id => {
                self.banned_until.insert(e.wallet, e.until);
            }
            Broker::WalletUnbanned(e) if e.brokerId == self.at.broker_id => {
                self.banned_until.remove(&e.wallet);
            }
            _ => {}
        }
    }

    fn topic(&mut self, event: Topics) -> Result<()> {
        match event {
            Topics::TopicRegistered(e) if e.brokerId == self.at.broker_id => {
                ensure!(!self.topics.contains_key(&e.name), "{} is registered twice", e.name);
                let topic = Topic {
                    owner: e.owner,
                    epoch: e.epoch,
                    retain: e.traits.retain,
                    own_branch: e.traits.ownBranch,
                    public: [e.publishOffer.mode == 2, e.subscribeOffer.mode == 2],
                    has_countries: false,
                    blocked: HashSet::new(),
                    grants: [HashMap::new(), HashMap::new()],
                };
                self.names.insert(e.topicId, e.name.clone());
                self.topics.insert(e.name, topic);
            }
            Topics::HiddenTopicRegistered(e) if e.brokerId == self.at.broker_id => {
                bail!("hidden topics are not modelled here");
            }
            Topics::TraitsSet(e) if e.brokerId == self.at.broker_id => {
                let topic = self.known(e.topicId)?;
                (topic.retain, topic.own_branch) = (e.traits.retain, e.traits.ownBranch);
            }
            Topics::OfferSet(e) if e.brokerId == self.at.broker_id => {
                self.known(e.topicId)?.public[side(e.right)?] = e.offer.mode == 2;
            }
            Topics::CountriesSet(e) if e.brokerId == self.at.broker_id => {
                self.known(e.topicId)?.has_countries = e.mode != 0;
            }
            Topics::TopicOwnershipTransferred(e) if e.brokerId == self.at.broker_id => {
                self.known(e.topicId)?.owner = e.newOwner;
            }
            Topics::TopicDeleted(e) if e.brokerId == self.at.broker_id => {
                let name = self.names.remove(&e.topicId);
                let name = name.ok_or_else(|| eyre!("unknown topic {} deleted", e.topicId))?;
                self.topics.remove(&name);
            }
            _ => {}
        }
        Ok(())
    }

    fn market(&mut self, event: Market, time: u64) -> Result<()> {
        match event {
            Market::AccessGranted(e) if e.brokerId == self.at.broker_id => {
                self.in_epoch(e.topicId, e.epoch)?.grants[side(e.right)?].insert(e.wallet, e.until);
            }
            Market::AccessBought(e) if e.brokerId == self.at.broker_id => {
                self.in_epoch(e.topicId, e.epoch)?.grants[side(e.right)?].insert(e.wallet, e.until);
            }
            Market::AccessRevoked(e) if e.brokerId == self.at.broker_id => {
                let side = side(e.right)?;
                self.in_epoch(e.topicId, e.epoch)?.grants[side].insert(e.wallet, time);
            }
            Market::WalletBlocked(e) if e.brokerId == self.at.broker_id => {
                self.known(e.topicId)?.blocked.insert(e.wallet);
            }
            Market::WalletUnblocked(e) if e.brokerId == self.at.broker_id => {
                self.known(e.topicId)?.blocked.remove(&e.wallet);
            }
            _ => {}
        }
        Ok(())
    }

    fn device(&mut self, event: Devices, time: u64) -> Result<()> {
        match event {
            Devices::DeviceAuthorized(e) => {
                let device = Device { wallet: e.wallet, until: e.until, generation: e.generation };
                self.devices.insert(e.device, device);
            }
            Devices::DeviceRevoked(e) => {
                let device = self.devices.get_mut(&e.device);
                let device = device.ok_or_else(|| eyre!("unknown device {} revoked", e.device))?;
                device.until = device.until.min(time);
            }
            Devices::AllDevicesRevoked(e) => {
                self.generations.insert(e.wallet, e.generation);
            }
            Devices::TokensInvalidated(e) => {
                self.tokens_from.insert(e.wallet, e.before);
            }
            Devices::NonceUsed(_) => {}
        }
        Ok(())
    }

    fn known(&mut self, id: B256) -> Result<&mut Topic> {
        let name = self.names.get(&id).ok_or_else(|| eyre!("an event of unknown topic {id}"))?;
        self.topics.get_mut(name).ok_or_else(|| eyre!("topic {name} has no entry"))
    }

    fn in_epoch(&mut self, id: B256, epoch: u64) -> Result<&mut Topic> {
        let topic = self.known(id)?;
        ensure!(topic.epoch == epoch, "epoch {epoch} of {id}, known is {}", topic.epoch);
        Ok(topic)
    }

    /// Names of all registered topics.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.topics.keys().map(String::as_str)
    }

    /// Is the session's proof still good, and its wallet welcome?
    ///
    /// # Errors
    /// Why not.
    pub fn stands(&self, who: &Who, now: u64) -> Result<(), No> {
        let banned = |address| self.banned_until.get(&address).is_some_and(|until| now < *until);
        if banned(who.wallet) || banned(who.key) {
            return Err(No::Banned);
        }
        match self.devices.get(&who.key) {
            None if who.key != who.wallet => return Err(No::Device),
            Some(_) if who.key == who.wallet => return Err(No::Device),
            Some(device) => {
                let generation = self.generations.get(&device.wallet).copied().unwrap_or(0);
                if device.wallet != who.wallet
                    || now >= device.until
                    || device.generation < generation
                {
                    return Err(No::Device);
                }
            }
            None => {}
        }
        if now >= who.expires_at {
            return Err(No::Token);
        }
        // A device key ends by itself; what a wallet has invalidated are tokens that it signed.
        if who.key == who.wallet
            && let (Some(issued), Some(from)) = (who.issued_at, self.tokens_from.get(&who.wallet))
            && issued < *from
        {
            return Err(No::Token);
        }
        Ok(())
    }

    /// The wallet that a key acts for, to see under which name a session must run.
    #[must_use]
    pub fn wallet_of(&self, key: Address) -> Address {
        self.devices.get(&key).map_or(key, |device| device.wallet)
    }

    /// May it use this name?
    ///
    /// # Errors
    /// Why not.
    pub fn may(
        &self,
        who: &Who,
        right: Right,
        name: &str,
        retain: bool,
        now: u64,
    ) -> Result<(), No> {
        self.stands(who, now)?;
        // No registered topic begins with `$`, has an empty level or a wildcard, nor does one govern such a name.
        let strange = |level: &str| level.is_empty() || level.contains(['#', '+']);
        if name.starts_with('$') || name.split('/').any(strange) {
            return Err(No::Ungoverned);
        }
        let (top, topic) = self.governing(name).ok_or(No::Ungoverned)?;
        right_on(topic, who, right, now)?;
        if topic.own_branch && topic.owner != who.key && !is_own_branch(name, top, who.key) {
            return Err(No::OtherBranch);
        }
        if retain && right == Right::Publish && !topic.retain {
            return Err(No::Retain);
        }
        Ok(())
    }

    /// May it ask the broker for this filter, where a filter must not reach further than the rights?
    ///
    /// # Errors
    /// Why not.
    pub fn may_subscribe(&self, who: &Who, filter: &str, now: u64) -> Result<(), No> {
        self.stands(who, now)?;
        let inner = match filter.strip_prefix("$share/").map(|rest| rest.split_once('/')) {
            Some(Some((group, inner))) if !group.is_empty() => inner,
            Some(_) => return Err(No::Ungoverned),
            None => filter,
        };
        if !is_wide(inner) {
            return self.may(who, Right::Subscribe, inner, false, now);
        }
        if inner.starts_with('$') || inner.split('/').any(str::is_empty) {
            return Err(No::Ungoverned);
        }
        let prefix = before_wildcard(inner).ok_or(No::Ungoverned)?;
        let (top, topic) = self.governing(&prefix).ok_or(No::Ungoverned)?;
        let covers = |top: &str, topic: &Topic| {
            right_on(topic, who, Right::Subscribe, now)?;
            let shut_in = topic.own_branch && topic.owner != who.key;
            if shut_in && !is_own_branch(&prefix, top, who.key) {
                return Err(No::OtherBranch);
            }
            Ok(())
        };
        covers(top, topic)?;
        for (name, topic) in &self.topics {
            if is_at_or_below(name, &prefix) && meets_branch(inner, name) {
                covers(name, topic)?;
            }
        }
        Ok(())
    }

    /// The registered topic at or above a name that is nearest to it.
    fn governing<'a>(&'a self, name: &'a str) -> Option<(&'a str, &'a Topic)> {
        let mut at = name;
        loop {
            if let Some(topic) = self.topics.get(at) {
                return Some((at, topic));
            }
            at = at.rsplit_once('/')?.0;
        }
    }
}

fn right_on(topic: &Topic, who: &Who, right: Right, now: u64) -> Result<(), No> {
    if topic.has_countries {
        return Err(No::Country);
    }
    if topic.owner == who.wallet {
        return Ok(());
    }
    if topic.blocked.contains(&who.wallet) {
        return Err(No::Blocked);
    }
    let side = usize::from(right == Right::Subscribe);
    let granted = topic.grants[side].get(&who.wallet).is_some_and(|until| now < *until);
    if topic.public[side] || granted { Ok(()) } else { Err(No::NoRight) }
}

fn is_own_branch(name: &str, top: &str, key: Address) -> bool {
    is_at_or_below(name, &format!("{top}/{key:#x}"))
}

fn side(right: u8) -> Result<usize> {
    match right {
        0 => Ok(0),
        1 => Ok(1),
        other => bail!("no right has the number {other}"),
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;
    use alloy::sol_types::SolEvent;
    use serde_json::json;

    use super::*;
    use crate::events::{
        device_events as devices, market_events as market, topic_events as topics,
    };

    const OWNER: Address = Address::repeat_byte(1);
    const READER: Address = Address::repeat_byte(2);
    const DEVICE: Address = Address::repeat_byte(3);
    const NOW: u64 = 1_000;

    fn contracts() -> Contracts {
        let at = |octet| Address::repeat_byte(octet);
        Contracts {
            brokers: at(0xb0),
            topics: at(0xb1),
            market: at(0xb2),
            devices: at(0xb3),
            broker_id: U256::from(7),
        }
    }

    fn tell(acl: &mut Acl, at: Address, event: &impl SolEvent) {
        let log = event.encode_log_data();
        let log = json!({"address": at, "topics": log.topics(), "data": log.data});
        acl.apply(&log, NOW).expect("a log that follows");
    }

    fn id(name: &str) -> B256 {
        keccak256(name)
    }

    fn register(acl: &mut Acl, name: &str, own_branch: bool, mode: u8) {
        let offer = topics::Offer { mode, period: 0, priceWei: 0 };
        let event = topics::TopicRegistered {
            brokerId: U256::from(7),
            topicId: id(name),
            owner: OWNER,
            epoch: 1,
            name: name.into(),
            traits: topics::Traits { retain: false, sensitive: false, ownBranch: own_branch },
            publishOffer: offer.clone(),
            subscribeOffer: offer,
        };
        tell(acl, contracts().topics, &event);
    }

    fn grant(acl: &mut Acl, name: &str, until: u64) {
        let event = market::AccessGranted {
            brokerId: U256::from(7),
            topicId: id(name),
            wallet: READER,
            right: 1,
            epoch: 1,
            until,
            by: OWNER,
            feeWei: U256::ZERO,
            purpose: B256::ZERO,
            note: String::new(),
        };
        tell(acl, contracts().market, &event);
    }

    fn who(key: Address, wallet: Address) -> Who {
        Who { key, wallet, issued_at: Some(NOW), expires_at: NOW + 100 }
    }

    fn reads(acl: &Acl, name: &str) -> Result<(), No> {
        acl.may(&who(READER, READER), Right::Subscribe, name, false, NOW)
    }

    #[test]
    fn a_grant_holds_below_its_topic_down_to_the_next_and_until_its_end() {
        let mut acl = Acl::new(contracts());
        register(&mut acl, "a", false, 0);
        register(&mut acl, "a/b", false, 0);
        grant(&mut acl, "a", NOW + 1);
        assert_eq!(reads(&acl, "a"), Ok(()));
        assert_eq!(reads(&acl, "a/c/d"), Ok(()));
        assert_eq!(reads(&acl, "a/b/c"), Err(No::NoRight));
        assert_eq!(reads(&acl, "ab"), Err(No::Ungoverned));
        assert_eq!(reads(&acl, "a//c"), Err(No::Ungoverned));
        let reader = who(READER, READER);
        let publish = acl.may(&reader, Right::Publish, "a", false, NOW);
        assert_eq!(publish, Err(No::NoRight));
        let later = acl.may(&reader, Right::Subscribe, "a", false, NOW + 1);
        assert_eq!(later, Err(No::NoRight), "valid while now < until");
        assert_eq!(acl.may_subscribe(&reader, "a/+/x", NOW), Err(No::NoRight), "a/b is in its way");
        assert_eq!(acl.may_subscribe(&reader, "a/c/#", NOW), Ok(()));
        assert_eq!(acl.may_subscribe(&reader, "$share/g/a/c/#", NOW), Ok(()));
        assert_eq!(acl.may_subscribe(&reader, "#", NOW), Err(No::Ungoverned));
        assert_eq!(acl.may(&who(OWNER, OWNER), Right::Publish, "a/b", false, NOW), Ok(()));
        let retained = acl.may(&who(OWNER, OWNER), Right::Publish, "a", true, NOW);
        assert_eq!(retained, Err(No::Retain));
    }

    #[test]
    fn grants_die_with_their_topic() {
        let mut acl = Acl::new(contracts());
        register(&mut acl, "a", false, 0);
        grant(&mut acl, "a", NOW + 9);
        let deleted = topics::TopicDeleted {
            brokerId: U256::from(7),
            topicId: id("a"),
            owner: OWNER,
            epoch: 1,
        };
        tell(&mut acl, contracts().topics, &deleted);
        assert_eq!(reads(&acl, "a"), Err(No::Ungoverned));
        register(&mut acl, "a", false, 0);
        assert_eq!(reads(&acl, "a"), Err(No::NoRight));
    }

    #[test]
    fn a_device_key_acts_for_its_wallet_in_its_own_branch_until_its_generation_ends() {
        let mut acl = Acl::new(contracts());
        register(&mut acl, "a", true, 2);
        let authorized = devices::DeviceAuthorized {
            wallet: READER,
            device: DEVICE,
            until: NOW + 50,
            generation: 0,
        };
        tell(&mut acl, contracts().devices, &authorized);
        let device = who(DEVICE, READER);
        let own = format!("a/{DEVICE:#x}/v");
        assert_eq!(acl.may(&device, Right::Publish, &own, false, NOW), Ok(()));
        assert_eq!(acl.may(&device, Right::Publish, "a/x", false, NOW), Err(No::OtherBranch));
        assert_eq!(acl.stands(&device, NOW + 50), Err(No::Device));
        assert_eq!(acl.stands(&who(DEVICE, DEVICE), NOW), Err(No::Device));
        assert_eq!(acl.stands(&who(DEVICE, OWNER), NOW), Err(No::Device));
        let all = devices::AllDevicesRevoked { wallet: READER, generation: 1 };
        tell(&mut acl, contracts().devices, &all);
        assert_eq!(acl.stands(&device, NOW), Err(No::Device));
    }

    #[test]
    fn other_brokers_entries_count_for_nothing() {
        let mut acl = Acl::new(Contracts { broker_id: U256::from(8), ..contracts() });
        register(&mut acl, "a", false, 2);
        assert_eq!(reads(&acl, "a"), Err(No::Ungoverned));
    }
}
