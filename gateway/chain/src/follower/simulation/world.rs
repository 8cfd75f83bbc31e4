//! A made-up chain: a tree of blocks with real headers, receipts and logs, of which one branch is canonical.

use std::collections::HashMap;

use alloy::{
    consensus::{self, EthereumReceipt, ReceiptWithBloom, TxType, proofs::calculate_receipt_root},
    primitives::{Address, B256, Bloom, Log, LogData, U256},
    sol_types::SolEvent,
};
use flytrap_policy::{Event, NamingPolicy, Offer, Registry, Right, Stamp, Traits, View, topic_id};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    Deployment,
    bindings::{
        IAccessMarket as Market, IBrokerRegistry as Broker, IDeviceRegistry as Devices,
        ITopicRegistry as Topics,
    },
};

pub(super) const BROKER: U256 = U256::from_limbs([7, 0, 0, 0]);
const OWNER: Address = Address::repeat_byte(0x11);
const NAMES: [&str; 3] = ["a", "a/b", "c"];
/// Blocks that are there before anything happens, so that even deep forks have something below.
const CALM: u64 = 100;

pub(super) fn deployment() -> Deployment {
    let [broker_registry, topic_registry, access_market, device_registry, audit_log] =
        [0xb1, 0xb2, 0xb3, 0xb4, 0xb5].map(Address::repeat_byte);
    Deployment {
        chain_id: 31_337,
        block: 1,
        broker_registry,
        topic_registry,
        access_market,
        device_registry,
        audit_log,
    }
}

/// One block of the tree.
pub(super) struct Block {
    pub(super) header: consensus::Header,
    pub(super) hash: B256,
    /// Its logs by transaction.
    pub(super) receipts: Vec<Vec<Log>>,
    parent: usize,
    events: Vec<Event>,
    state: Registry,
    digest: B256,
    /// Somebody made it up: it was never canonical.
    is_forged: bool,
}

pub(super) struct World {
    pub(super) blocks: Vec<Block>,
    tip: usize,
    random: StdRng,
    by_height: HashMap<u64, Vec<usize>>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let genesis = consensus::Header { timestamp: 1_700_000_000, ..Default::default() };
        let state = Registry::new(BROKER);
        let block = Block {
            hash: genesis.hash_slow(),
            header: genesis,
            receipts: Vec::new(),
            parent: 0,
            events: Vec::new(),
            digest: state.digest(),
            state,
            is_forged: false,
        };
        let mut world = Self {
            blocks: vec![block],
            tip: 0,
            random: StdRng::seed_from_u64(seed),
            by_height: HashMap::new(),
        };
        let created = Event::BrokerCreated {
            broker_id: BROKER,
            owner: OWNER,
            policy: NamingPolicy::Open,
            name: "b".into(),
        };
        world.tip = world.grow(0, vec![created], false);
        for _ in 0..CALM {
            world.tip = world.grow(world.tip, Vec::new(), false);
        }
        world
    }

    pub(super) fn tip(&self) -> usize {
        self.tip
    }

    pub(super) fn height(&self, block: usize) -> u64 {
        self.blocks[block].header.number
    }

    /// So many new blocks on the canonical branch.
    pub(super) fn extend(&mut self, blocks: u64) {
        for _ in 0..blocks {
            let events = self.happenings(self.tip);
            self.tip = self.grow(self.tip, events, false);
        }
    }

    /// The last blocks of the canonical branch are replaced by others, one more of them.
    pub(super) fn reorganise(&mut self, depth: u64) {
        let depth = depth.min(self.height(self.tip) - 2);
        self.tip = self.ancestor(self.tip, depth);
        self.extend(depth + 1);
    }

    /// A branch that somebody makes up, with a grant to a wallet of their own. Its tip.
    pub(super) fn forge(&mut self) -> usize {
        let depth = self.random.random_range(1..6);
        let mut tip = self.ancestor(self.tip, depth);
        for _ in 0..=depth {
            let events = self.happenings(tip);
            tip = self.grow(tip, events, true);
        }
        tip
    }

    pub(super) fn ancestor(&self, mut block: usize, depth: u64) -> usize {
        for _ in 0..depth {
            block = self.blocks[block].parent;
        }
        block
    }

    /// The block of a height on the branch that ends with `tip`.
    pub(super) fn at(&self, tip: usize, height: u64) -> Option<usize> {
        Some(self.ancestor(tip, self.height(tip).checked_sub(height)?))
    }

    /// What a view must be once all is well: by a fresh replay of the canonical branch.
    pub(super) fn wanted(&self, confirmations: u64) -> (u64, B256, B256) {
        let settled = self.ancestor(self.tip, confirmations);
        (self.height(self.tip), self.replayed(self.tip), self.replayed(settled))
    }

    fn replayed(&self, tip: usize) -> B256 {
        let mut branch = vec![tip];
        while let Some(last) = branch.last().filter(|last| **last != 0) {
            branch.push(self.blocks[*last].parent);
        }
        let mut state = Registry::new(BROKER);
        for block in branch.into_iter().rev().map(|at| &self.blocks[at]) {
            for event in &block.events {
                state.apply(event, stamp(&block.header)).unwrap();
            }
        }
        state.digest()
    }

    /// Is the view one that could be right? It is the state after some block that there is, with that of an ancestor of it
    /// for permissions, and where two nodes must agree nobody has made that one up.
    pub(super) fn judge(
        &self,
        view: &View,
        confirmations: u64,
        quorum: bool,
    ) -> Result<(), String> {
        let (head, settled) = (view.head.digest(), view.settled.digest());
        let heads = self.by_height.get(&view.height).into_iter().flatten().copied();
        let mut heads = heads.filter(|at| self.blocks[*at].digest == head).peekable();
        if heads.peek().is_none() {
            return Err(format!("no block of height {} has the state of the head", view.height));
        }
        if quorum {
            // Agreed to some time ago, on this branch or on one before.
            let is_known =
                self.blocks.iter().any(|block| !block.is_forged && block.digest == settled);
            return if is_known { Ok(()) } else { Err("permissions of a forged block".to_owned()) };
        }
        let settles = |at: usize| {
            let below = self.ancestor(at, confirmations.min(self.height(at)));
            self.blocks[below].digest == settled
        };
        if heads.any(settles) {
            return Ok(());
        }
        Err(format!("permissions of {} are not those {confirmations} blocks below", view.height))
    }

    fn grow(&mut self, parent: usize, events: Vec<Event>, is_forged: bool) -> usize {
        let below = &self.blocks[parent];
        let mut header = consensus::Header {
            parent_hash: below.hash,
            number: below.header.number + 1,
            timestamp: below.header.timestamp + self.random.random_range(0..15),
            base_fee_per_gas: Some(7),
            // So that siblings differ.
            mix_hash: B256::new(self.random.random()),
            ..Default::default()
        };
        let mut state = below.state.clone();
        for event in &events {
            state.apply(event, stamp(&header)).unwrap();
        }
        let mut receipts = vec![Vec::new()];
        for event in &events {
            // Some transactions have several logs, some none, and others' logs lie between.
            if self.random.random_bool(0.5) {
                receipts.push(Vec::new());
            }
            let logs = receipts.last_mut().unwrap();
            if self.random.random_bool(0.3) {
                logs.push(of_others(&mut self.random));
            }
            logs.push(logged(event));
        }
        if events.is_empty() && self.random.random_bool(0.2) {
            receipts[0].push(of_others(&mut self.random));
        }
        let with_bloom: Vec<_> =
            receipts.iter().enumerate().map(|(at, logs)| receipt(at, logs)).collect();
        header.receipts_root = calculate_receipt_root(&with_bloom);
        header.logs_bloom =
            with_bloom.iter().fold(Bloom::ZERO, |bloom, receipt| bloom | receipt.logs_bloom);
        let at = self.blocks.len();
        self.by_height.entry(header.number).or_default().push(at);
        let (hash, digest) = (header.hash_slow(), state.digest());
        self.blocks.push(Block {
            header,
            hash,
            receipts,
            parent,
            events,
            state,
            digest,
            is_forged,
        });
        at
    }

    /// What the contracts would take on top of a block.
    fn happenings(&mut self, parent: usize) -> Vec<Event> {
        let block = &self.blocks[parent];
        let mut state = block.state.clone();
        let at = Stamp { height: block.header.number + 1, time: block.header.timestamp };
        let mut events = Vec::new();
        for _ in 0..self.random.random_range(0..4) {
            let event = some_event(&mut self.random, &state, at);
            // A revocation ends at the time of its block, which is not known yet: one for each grant and block.
            if state.apply(&event, at).is_ok() {
                events.push(event);
            }
        }
        events
    }
}

fn stamp(header: &consensus::Header) -> Stamp {
    Stamp { height: header.number, time: header.timestamp }
}

/// What a receipt's place says of its type and gas.
pub(super) fn receipt(at: usize, logs: &[Log]) -> ReceiptWithBloom<EthereumReceipt> {
    let tx_type = if at.is_multiple_of(2) { TxType::Eip1559 } else { TxType::Legacy };
    let mut bloom = Bloom::ZERO;
    for log in logs {
        bloom.accrue_log(log);
    }
    let cumulative_gas_used = 21_000 * (u64::try_from(at).unwrap() + 1);
    let receipt =
        EthereumReceipt { tx_type, success: true, cumulative_gas_used, logs: logs.to_vec() };
    ReceiptWithBloom { receipt, logs_bloom: bloom }
}

/// A log of a stranger, or of our contract about another broker.
fn of_others(random: &mut StdRng) -> Log {
    if random.random_bool(0.5) {
        let topics = vec![B256::new(random.random())];
        return Log {
            address: Address::new(random.random()),
            data: LogData::new_unchecked(topics, vec![1].into()),
        };
    }
    let address = deployment().broker_registry;
    let event = Broker::GatewayRemoved { brokerId: BROKER + U256::ONE, gateway: OWNER };
    Log { address, data: event.encode_log_data() }
}

fn some_event(random: &mut StdRng, state: &Registry, at: Stamp) -> Event {
    let name = NAMES[random.random_range(0..NAMES.len())];
    let topic = topic_id(BROKER, name);
    let epoch = state.topic(name).map_or(1, |topic| topic.epoch);
    let wallet = Address::repeat_byte(random.random_range(1..5));
    let right = if random.random_bool(0.5) { Right::Publish } else { Right::Subscribe };
    let until = at.time + random.random_range(1..10_000);
    let (purpose, note, fee) = (B256::ZERO, String::new(), U256::ZERO);
    match random.random_range(0..12) {
        0..3 => Event::TopicRegistered {
            broker_id: BROKER,
            topic_id: topic,
            owner: OWNER,
            epoch: at.height,
            name: name.into(),
            traits: Traits::default(),
            publish_offer: Offer::default(),
            subscribe_offer: Offer::default(),
        },
        3 => Event::TopicDeleted { broker_id: BROKER, topic_id: topic, owner: OWNER, epoch },
        4..7 => Event::AccessGranted {
            broker_id: BROKER,
            topic_id: topic,
            wallet,
            right,
            epoch,
            until,
            by: OWNER,
            fee_wei: fee,
            purpose,
            note,
        },
        // Of what has ended already only the end in the past is known, which would be another at another time of the block.
        7 | 8 => {
            let was = state.grant(topic, wallet, right).unwrap_or(0);
            let was = if was > at.time { was } else { 0 };
            Event::AccessRevoked {
                broker_id: BROKER,
                topic_id: topic,
                wallet,
                right,
                epoch,
                was,
                by: OWNER,
                refund_wei: fee,
                purpose,
                note,
            }
        }
        9 => Event::WalletBlocked {
            broker_id: BROKER,
            topic_id: topic,
            wallet,
            by: OWNER,
            purpose,
            note,
        },
        10 => Event::WalletUnblocked { broker_id: BROKER, topic_id: topic, wallet, by: OWNER },
        _ => Event::DeviceAuthorized {
            wallet,
            device: Address::repeat_byte(random.random_range(0x20..0x23)),
            until,
            generation: 0,
        },
    }
}

/// As the contracts emit it.
fn logged(event: &Event) -> Log {
    let d = deployment();
    let offer = || Topics::Offer { mode: 0, period: 0, priceWei: 0 };
    let (address, data) = match event.clone() {
        Event::BrokerCreated { broker_id, owner, policy, name } => (
            d.broker_registry,
            Broker::BrokerCreated { brokerId: broker_id, owner, policy: policy as u8, name }
                .encode_log_data(),
        ),
        Event::TopicRegistered { broker_id, topic_id, owner, epoch, name, .. } => (
            d.topic_registry,
            Topics::TopicRegistered {
                brokerId: broker_id,
                topicId: topic_id,
                owner,
                epoch,
                name,
                traits: Topics::Traits { retain: false, sensitive: false, ownBranch: false },
                publishOffer: offer(),
                subscribeOffer: offer(),
            }
            .encode_log_data(),
        ),
        Event::TopicDeleted { broker_id, topic_id, owner, epoch } => (
            d.topic_registry,
            Topics::TopicDeleted { brokerId: broker_id, topicId: topic_id, owner, epoch }
                .encode_log_data(),
        ),
        Event::AccessGranted {
            broker_id,
            topic_id,
            wallet,
            right,
            epoch,
            until,
            by,
            fee_wei,
            purpose,
            note,
        } => (
            d.access_market,
            Market::AccessGranted {
                brokerId: broker_id,
                topicId: topic_id,
                wallet,
                right: right as u8,
                epoch,
                until,
                by,
                feeWei: fee_wei,
                purpose,
                note,
            }
            .encode_log_data(),
        ),
        Event::AccessRevoked {
            broker_id,
            topic_id,
            wallet,
            right,
            epoch,
            was,
            by,
            refund_wei,
            purpose,
            note,
        } => (
            d.access_market,
            Market::AccessRevoked {
                brokerId: broker_id,
                topicId: topic_id,
                wallet,
                right: right as u8,
                epoch,
                was,
                by,
                refundWei: refund_wei,
                purpose,
                note,
            }
            .encode_log_data(),
        ),
        Event::WalletBlocked { broker_id, topic_id, wallet, by, purpose, note } => (
            d.access_market,
            Market::WalletBlocked {
                brokerId: broker_id,
                topicId: topic_id,
                wallet,
                by,
                purpose,
                note,
            }
            .encode_log_data(),
        ),
        Event::WalletUnblocked { broker_id, topic_id, wallet, by } => (
            d.access_market,
            Market::WalletUnblocked { brokerId: broker_id, topicId: topic_id, wallet, by }
                .encode_log_data(),
        ),
        Event::DeviceAuthorized { wallet, device, until, generation } => (
            d.device_registry,
            Devices::DeviceAuthorized { wallet, device, until, generation }.encode_log_data(),
        ),
        other => unreachable!("no world has {other:?}"),
    };
    Log { address, data }
}
