//! What the commands work with: the contracts, a key, and the broker's state rebuilt from the chain's events.

use std::path::PathBuf;

use alloy::primitives::{Address, U64, U256};
use eyre::{Result, bail, eyre};
use flytrap_chain::entitled;
use flytrap_chain::history::{self, Entry, Query};
use flytrap_chain::keys::Key;
use flytrap_chain::wallet::Contracts;
use flytrap_chain::{Deployment, Done, Rpc, Wallet};
use flytrap_policy::credential::Site;
use flytrap_policy::{Registry, Topic, topic_id};
use serde_json::{Value, json};

use crate::args::Global;
use crate::tell;
use crate::units::{self, Moment, ether};

/// The state of a broker at one block.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) registry: Registry,
    pub(crate) height: u64,
    pub(crate) time: u64,
    /// The second that is asked about, where it is not this one.
    pub(crate) at: Option<u64>,
    pub(crate) entries: Vec<Entry>,
}

impl Global {
    /// The broker's number as the contracts take it.
    pub(crate) fn broker_id(&self) -> U256 {
        U256::from(self.broker)
    }

    /// Where the contracts are.
    pub(crate) async fn deployment(&self) -> Result<Deployment> {
        let file = match &self.deployment {
            Some(file) => file.clone(),
            None => self.usual_deployment().await?,
        };
        Ok(Deployment::read(file)?)
    }

    async fn usual_deployment(&self) -> Result<PathBuf> {
        let chain: U64 = Rpc::new(vec![self.rpc.clone()]).call("eth_chainId", json!([])).await?;
        let file = PathBuf::from(format!("deployments/{chain}.json", chain = chain.to::<u64>()));
        if !file.is_file() {
            bail!(
                "chain {} has no {}: name the deployment file with --deployment or FLYTRAP_DEPLOYMENT",
                chain.to::<u64>(),
                file.display()
            );
        }
        Ok(file)
    }

    /// The contracts, for reading.
    pub(crate) async fn contracts(&self) -> Result<Contracts> {
        Ok(Contracts::connect(vec![self.rpc.clone()], self.deployment().await?).await?)
    }

    /// The contracts, with the key that signs.
    pub(crate) async fn wallet(&self) -> Result<Wallet> {
        let key = self.key()?;
        Ok(Wallet::connect(vec![self.rpc.clone()], self.deployment().await?, key).await?)
    }

    /// The key that signs.
    pub(crate) fn key(&self) -> Result<Key> {
        let key = &self.key;
        match (&key.key_file, &key.keystore) {
            (Some(file), _) => Ok(Key::read(file, None)?),
            (None, Some(file)) => Ok(Key::read(file, key.passphrase_file.as_deref())?),
            (None, None) => bail!(
                "this needs a key: name its file with --key-file or FLYTRAP_KEY_FILE, or a keystore with --keystore and --passphrase-file"
            ),
        }
    }

    /// The place that proofs are made for.
    pub(crate) async fn site(&self) -> Result<Site> {
        let deployment = self.deployment().await?;
        Ok(Site {
            chain_id: deployment.chain_id,
            broker_registry: deployment.broker_registry,
            broker_id: self.broker_id(),
        })
    }

    /// The broker's state, rebuilt from events alone, with the device keys of these wallets.
    pub(crate) async fn state(&self, contracts: &Contracts, wallets: &[Address]) -> Result<State> {
        state(contracts, self.broker_id(), wallets, None).await
    }
}

/// Rebuilds the state of a broker from its events and those of the wallets' device keys, as of the newest block or of a moment.
pub(crate) async fn state(
    contracts: &Contracts,
    broker_id: U256,
    wallets: &[Address],
    at: Option<Moment>,
) -> Result<State> {
    // Everything up to one block, so that the questions below are about one state.
    let (height, time, at) = place(contracts, at).await?;
    let ask = async |wallet| {
        let query = Query { broker_id, wallet, to: Some(height), ..Query::default() };
        history::history(contracts.rpc(), contracts.deployment(), &query).await
    };
    let mut entries = ask(None).await?;
    for wallet in wallets {
        entries.extend(ask(Some(*wallet)).await?);
    }
    entries.sort_by_key(|entry| (entry.height, entry.log_index));
    entries.dedup_by_key(|entry| (entry.height, entry.log_index));
    if entries.is_empty() {
        bail!(
            "broker {broker_id} does not exist on chain {} at block {height}: correct its number with --broker, or create it with `flytrap broker create`",
            contracts.deployment().chain_id
        );
    }
    let registry = entitled::replay(broker_id, &entries).map_err(|(entry, why)| {
        eyre!("transaction {} in block {}: {why}", entry.tx, entry.height)
    })?;
    Ok(State { registry, height, time, at, entries })
}

/// Height and time of the newest block at that moment, and the second that is meant where it is not the present one. Of a moment that is
/// still to come, as far as the chain knows now.
async fn place(contracts: &Contracts, at: Option<Moment>) -> Result<(u64, u64, Option<u64>)> {
    let (newest, time) = history::newest_block(contracts.rpc()).await?;
    match at {
        None => Ok((newest, time, None)),
        Some(Moment::Block(height)) if height > newest => {
            bail!("there is no block {height} yet: the newest is {newest}")
        }
        Some(Moment::Block(height)) => {
            let time = block_time(contracts, height).await?;
            Ok((height, time, Some(time)))
        }
        Some(moment) => {
            let second = moment.second(flytrap_site::unix_now()).unwrap_or_default();
            let (height, time) = history::block_at(contracts.rpc(), second, newest).await?;
            Ok((height, time, Some(second)))
        }
    }
}

/// Time of a block, Unix seconds.
pub(crate) async fn block_time(contracts: &Contracts, height: u64) -> Result<u64> {
    Ok(history::block_time(contracts.rpc(), height).await?)
}

impl State {
    /// The topic that is registered under exactly this name, or has this id.
    pub(crate) fn topic(&self, name: &str) -> Result<&Topic> {
        let found = match units::word(name) {
            Ok(id) => self.registry.topic_by_id(id),
            Err(_) => self.registry.topic(name),
        };
        let Some(topic) = found else {
            let broker = self.registry.broker_id();
            match self.registry.governing(name) {
                Some(above) => bail!(
                    "`{name}` is not registered at broker {broker}; `{}` above it is, and governs it: use that name, or register this one",
                    tell::safe(&above.name)
                ),
                None => bail!(
                    "`{name}` is not registered at broker {broker}: see `flytrap topic list`, or register it with `flytrap topic register`"
                ),
            }
        };
        Ok(topic)
    }

    /// The second that is asked about; else the later of block time and wall clock, as the gateways take it.
    pub(crate) fn now(&self) -> u64 {
        self.at.unwrap_or_else(|| self.time.max(flytrap_site::unix_now()))
    }
}

/// The id of a topic's name at this broker, or the id itself, as hidden topics are called; the contract says if it does not
/// exist.
pub(crate) fn id_of(global: &Global, name: &str) -> alloy::primitives::B256 {
    units::word(name).unwrap_or_else(|_| topic_id(global.broker_id(), name))
}

/// Tells that a transaction happened; `facts` are what it changed.
pub(crate) fn done(global: &Global, sentence: &str, done: &Done, facts: Value) {
    if global.json {
        let mut answer = json!({
            "tx": done.tx, "block": done.height, "gasUsed": done.gas_used, "feeWei": done.fee_wei.to_string(),
        });
        if let (Some(answer), Value::Object(facts)) = (answer.as_object_mut(), facts) {
            answer.extend(facts);
        }
        tell::line(answer.to_string());
    } else {
        tell::line(sentence);
        tell::line(tell::faint(&format!(
            "transaction {} in block {}, gas {} ({})",
            done.tx,
            done.height,
            done.gas_used,
            ether(done.fee_wei)
        )));
    }
}
