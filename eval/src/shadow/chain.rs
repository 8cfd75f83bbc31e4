//! The chain of a game: who changes it at random, and who watches it for the judge.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, U256};
use eyre::{Result, WrapErr};
use flytrap_chain::keys::Key;
use flytrap_policy::{Offer, OfferMode, Right, Traits};
use flytrap_shadow::{Acl, Contracts};
use flytrap_site::Site;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::judge::Judge;
use super::names::Names;
use crate::onchain::{CLOSED, Change, FAR, PUBLIC, Scribe};

/// How often the chain is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How often it is changed.
pub(super) const PACE: Duration = Duration::from_millis(250);

/// Watches the chain and tells the judge each state, with the moments between which its block appeared.
pub(super) async fn watch(site: &Site, judge: &Judge) -> Result<()> {
    let at = &site.deployment;
    let contracts = Contracts {
        brokers: at.broker_registry,
        topics: at.topic_registry,
        market: at.access_market,
        devices: at.device_registry,
        broker_id: site.broker_id,
    };
    let mut acl = Acl::new(contracts);
    let mut next = 0;
    // The last time at which the next block was not there yet.
    let mut absent = Instant::now();
    loop {
        let asked = Instant::now();
        let height = site.chain.height().await?;
        let answered = Instant::now();
        if height >= next {
            for number in next..=height {
                let time = read(site, &mut acl, number).await?;
                judge.block(absent, answered, time, Arc::new(acl.clone()));
            }
            next = height + 1;
        }
        absent = asked;
        judge.chain_known(asked);
        tokio::time::sleep(LOOK).await;
    }
}

/// Takes in one block; returns its time.
async fn read(site: &Site, acl: &mut Acl, number: u64) -> Result<u64> {
    let tag = format!("{number:#x}");
    let block = site.chain.call("eth_getBlockByNumber", json!([tag, false])).await?;
    let time: U256 = serde_json::from_value(block["timestamp"].clone())?;
    let filter = json!([{"fromBlock": tag, "toBlock": tag}]);
    let logs: Value = site.chain.call("eth_getLogs", filter).await?;
    for log in logs.as_array().into_iter().flatten() {
        acl.apply(log, time.to()).wrap_err("the second opinion cannot follow the chain")?;
    }
    Ok(time.to())
}

/// Changes the chain at random.
pub(super) struct Actor<'a> {
    scribe: Scribe<'a>,
    rng: StdRng,
    names: Names,
    owners: Vec<Address>,
    wallets: Vec<Address>,
    devices: Vec<(Address, Key)>,
    /// Names with their owners, as far as the actor knows: what a contract refuses changes nothing.
    owned: Vec<(String, Address)>,
    pub(super) changes: u64,
}

impl<'a> Actor<'a> {
    pub(super) fn new(
        site: &'a Site,
        seed: u64,
        names: Names,
        owners: Vec<Address>,
        wallets: Vec<Address>,
        devices: Vec<(Address, Key)>,
    ) -> Self {
        let rng = StdRng::seed_from_u64(seed ^ 0xC4A1);
        let scribe = Scribe(site);
        Self { scribe, rng, names, owners, wallets, devices, owned: Vec::new(), changes: 0 }
    }

    /// The world that the game begins in: most names registered, devices authorized, some grants.
    pub(super) async fn begin(&mut self) -> Result<()> {
        let mut height = 0;
        let tops = self.names.topics.clone();
        for name in tops {
            if self.rng.random_bool(0.7)
                && let Some(change) = self.register(&name)
            {
                self.scribe.send(&change).await?;
            }
        }
        for (wallet, device) in self.devices.clone() {
            let change = self.scribe.authorize_device(wallet, &device, FAR);
            height = self.scribe.done(&change).await?;
        }
        for _ in 0..80 {
            if let Some(change) = self.grant() {
                self.scribe.send(&change).await?;
            }
        }
        let (wallet, device) = &self.devices[0];
        let change = self.scribe.authorize_device(*wallet, device, FAR);
        height = height.max(self.scribe.done(&change).await?);
        self.scribe.0.gateway()?.until_height(height, Duration::from_secs(20)).await?;
        Ok(())
    }

    /// Goes on until dropped.
    pub(super) async fn act(&mut self) -> Result<()> {
        loop {
            for change in self.change().await {
                self.scribe.send(&change).await?;
                self.changes += 1;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    async fn now(&self) -> u64 {
        self.scribe.0.chain.time().await.unwrap_or(0).max(flytrap_site::unix_now())
    }

    fn topic(&mut self) -> Option<(String, Address)> {
        self.owned.choose(&mut self.rng).cloned()
    }

    fn wallet(&mut self) -> Address {
        self.wallets.choose(&mut self.rng).copied().unwrap_or_default()
    }

    fn right(&mut self) -> Right {
        if self.rng.random_bool(0.5) { Right::Publish } else { Right::Subscribe }
    }

    fn offer(&mut self) -> Offer {
        match self.rng.random_range(0..6) {
            0..4 => CLOSED,
            4 => Offer { mode: OfferMode::Priced, period: 20, price_wei: 1_000 },
            _ => PUBLIC,
        }
    }

    fn register(&mut self, name: &str) -> Option<Change> {
        // Below a registered topic only its owner registers.
        let above = |(held, _): &&(String, Address)| {
            name.strip_prefix(held.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        let owner = match self.owned.iter().filter(above).max_by_key(|(held, _)| held.len()) {
            Some((_, owner)) => *owner,
            None => self.owners.choose(&mut self.rng).copied()?,
        };
        let traits = Traits {
            retain: self.rng.random_bool(0.6),
            sensitive: false,
            own_branch: self.rng.random_ratio(1, 6),
        };
        let (publish, subscribe) = (self.offer(), self.offer());
        self.owned.retain(|(held, _)| held != name);
        self.owned.push((name.to_owned(), owner));
        Some(self.scribe.register(owner, name, traits, publish, subscribe))
    }

    fn grant(&mut self) -> Option<Change> {
        let (name, owner) = self.topic()?;
        let (wallet, right) = (self.wallet(), self.right());
        Some(self.scribe.grant(owner, &name, wallet, right, FAR))
    }

    async fn change(&mut self) -> Vec<Change> {
        let scribe = self.scribe;
        let Some((name, owner)) = self.topic() else { return Vec::new() };
        let (wallet, right) = (self.wallet(), self.right());
        let one = match self.rng.random_range(0..100) {
            0..10 => {
                let name = self.names.topics.choose(&mut self.rng).cloned().unwrap_or_default();
                return self.register(&name).into_iter().collect();
            }
            10..15 => {
                self.owned.retain(|(held, _)| *held != name);
                scribe.delete(owner, &name)
            }
            15..33 => scribe.grant(owner, &name, wallet, right, FAR),
            33..41 => {
                let until = self.now().await + self.rng.random_range(2..12);
                scribe.grant(owner, &name, wallet, right, until)
            }
            41..58 => scribe.revoke(owner, &name, wallet, right),
            58..63 => match scribe.buy(wallet, &name, right).await {
                Ok(change) => change,
                // Not for sale.
                Err(_) => return Vec::new(),
            },
            63..67 => scribe.block(owner, &name, wallet),
            67..71 => scribe.unblock(owner, &name, wallet),
            71..73 => {
                let until = self.now().await + self.rng.random_range(2..8);
                scribe.ban(wallet, until)
            }
            73..75 => scribe.unban(wallet),
            75..81 => {
                let offer = self.offer();
                scribe.offer(owner, &name, right, offer)
            }
            81..84 => {
                let traits = Traits {
                    retain: self.rng.random_bool(0.6),
                    sensitive: self.rng.random_bool(0.5),
                    own_branch: self.rng.random_ratio(1, 6),
                };
                scribe.traits(owner, &name, traits)
            }
            84 => scribe.countries(owner, &name, &[b"AT", b"DE"]),
            85..88 => scribe.countries(owner, &name, &[]),
            88..91 => {
                let to = self.owners.choose(&mut self.rng).copied().unwrap_or_default();
                let held = self.owned.iter_mut().find(|(held, _)| *held == name);
                if let Some((_, owner)) = held {
                    *owner = to;
                }
                return scribe.hand_over(owner, &name, to).to_vec();
            }
            91..98 => {
                let Some((wallet, device)) = self.devices.choose(&mut self.rng).cloned() else {
                    return Vec::new();
                };
                match self.rng.random_range(0..5) {
                    0 => scribe.revoke_device(wallet, device.address()),
                    1 => {
                        let until = self.now().await + self.rng.random_range(2..10);
                        scribe.authorize_device(wallet, &device, until)
                    }
                    _ => scribe.authorize_device(wallet, &device, FAR),
                }
            }
            98 => scribe.revoke_all_devices(wallet),
            _ => {
                let now = self.now().await;
                scribe.invalidate_before(wallet, now.saturating_sub(2))
            }
        };
        vec![one]
    }
}
