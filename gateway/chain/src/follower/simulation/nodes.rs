//! Made-up nodes: each sees the tree from a block of its own and answers in one of many wrong ways.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy::{
    primitives::{B256, Bytes, U256},
    sol_types::SolCall,
};
use futures::future::BoxFuture;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Site,
    world::{Block, World, deployment, receipt},
};
use crate::{
    bindings::{IAccessMarket, IAuditLog, IBrokerRegistry, ITopicRegistry},
    rpc::{RpcError, Simulated},
};

/// What is wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    Down,
    Hang,
    Slow,
    /// It has lost so many of its newest blocks.
    Behind(u64),
    /// It follows a branch that somebody made up, which ends with this block.
    Forged(usize),
    Dropped,
    Truncated,
    Duplicated,
    Shuffled,
    Altered,
    NoReceipts,
    /// It has the headers of so many newest blocks, and not yet their receipts.
    HeadersOnly(u64),
    Garbage,
    Limited,
    Refused,
    OtherChain,
    OtherCode,
    /// Its chain, once it is past what there is, has no end.
    Endless,
}

/// A height that nobody gets to.
const ENDLESS: u64 = 1 << 50;

impl Fault {
    pub(super) fn random(random: &mut StdRng, site: &Site) -> Self {
        // Whatever a range of old blocks leaves out shows only where it is proven, or a second node is asked.
        let quiet = site.prove_history;
        match random.random_range(0..20) {
            0 | 1 => Self::Down,
            2 => Self::Hang,
            3 => Self::Slow,
            4 => Self::Behind(random.random_range(1..5)),
            5 => Self::Behind(random.random_range(5..90)),
            6 | 7 if site.quorum => Self::Forged(usize::MAX),
            8 if quiet => Self::Dropped,
            9 if quiet => Self::Truncated,
            10 => Self::Duplicated,
            11 => Self::Shuffled,
            12 if quiet => Self::Altered,
            13 => Self::NoReceipts,
            14 => Self::Garbage,
            15 => Self::Limited,
            16 => Self::Refused,
            17 => Self::OtherChain,
            18 => Self::OtherCode,
            _ => Self::None,
        }
    }
}

pub(super) struct SimulatedNode {
    world: Arc<Mutex<World>>,
    fault: Mutex<Fault>,
    random: Mutex<StdRng>,
    /// The heights of the blocks that it answered everything of, in that order.
    answered: Mutex<Vec<u64>>,
}

impl SimulatedNode {
    pub(super) fn new(world: Arc<Mutex<World>>, seed: u64) -> Self {
        let random = Mutex::new(StdRng::seed_from_u64(seed));
        Self { world, fault: Mutex::new(Fault::None), random, answered: Mutex::default() }
    }

    /// How often it answered everything of a block, for each height.
    pub(super) fn answered(&self) -> BTreeMap<u64, usize> {
        let mut times = BTreeMap::new();
        for height in self.answered.lock().unwrap().iter() {
            *times.entry(*height).or_default() += 1;
        }
        times
    }

    pub(super) fn set(&self, fault: Fault) {
        let fault = match fault {
            Fault::Forged(_) => Fault::Forged(self.world.lock().unwrap().forge()),
            other => other,
        };
        *self.fault.lock().unwrap() = fault;
    }

    pub(super) fn heal(&self) {
        self.set(Fault::None);
    }

    /// What it answers at this moment, before anything is done to it.
    fn truth(&self, fault: Fault, method: &str, params: &Value) -> Value {
        let world = self.world.lock().unwrap();
        let tip = match fault {
            Fault::Behind(blocks) => world.ancestor(world.tip(), blocks),
            Fault::Forged(tip) => tip,
            _ => world.tip(),
        };
        let number =
            |value: &Value| u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok();
        match method {
            "eth_chainId" if fault == Fault::OtherChain => json!("0x1"),
            "eth_chainId" => json!(U256::from(deployment().chain_id)),
            "eth_getCode" if fault == Fault::OtherCode => json!("0x0badc0de"),
            "eth_getCode" => json!("0x6000"),
            "eth_call" => json!(called(params)),
            "eth_getBlockByNumber" => {
                let head = if fault == Fault::Endless { ENDLESS } else { world.height(tip) };
                let height = number(&params[0]).unwrap_or(head);
                if fault == Fault::Endless && height > world.height(tip) {
                    let mut header = world.blocks[tip].header.clone();
                    header.number = height;
                    let mut told = serde_json::to_value(&header).unwrap();
                    told["hash"] = json!(header.hash_slow());
                    return told;
                }
                let block = world.at(tip, height).map(|at| &world.blocks[at]);
                block.map_or(Value::Null, |block| {
                    let mut told = serde_json::to_value(&block.header).unwrap();
                    told["hash"] = json!(block.hash);
                    told
                })
            }
            "eth_getBlockReceipts" => {
                let block = world.blocks.iter().find(|block| json!(block.hash) == params[0]);
                let has = |block: &&Block| match fault {
                    Fault::HeadersOnly(newest) => block.header.number + newest <= world.height(tip),
                    _ => true,
                };
                block.filter(has).map_or(Value::Null, |block| {
                    self.answered.lock().unwrap().push(block.header.number);
                    let mut index = 0;
                    let told = block.receipts.iter().enumerate().map(|(at, logs)| {
                        let made = receipt(at, logs);
                        let logs: Vec<Value> = logs
                            .iter()
                            .map(|log| {
                                index += 1;
                                json!({"address": log.address, "topics": log.data.topics(),
                                    "data": log.data.data, "logIndex": format!("{:#x}", index - 1)})
                            })
                            .collect();
                        let of = &made.receipt;
                        json!({"transactionIndex": format!("{at:#x}"), "type": format!("{:#x}", of.tx_type as u8),
                            "status": "0x1", "cumulativeGasUsed": format!("{:#x}", of.cumulative_gas_used),
                            "logsBloom": made.logs_bloom, "logs": logs})
                    });
                    told.collect()
                })
            }
            "eth_getLogs" => {
                let filter = &params[0];
                let range = number(&filter["fromBlock"]).zip(number(&filter["toBlock"]));
                let (from, to) = range.expect("ranges are asked for by height");
                let mut found = Vec::new();
                for height in from..=to.min(world.height(tip)) {
                    let block = &world.blocks[world.at(tip, height).unwrap()];
                    for (index, log) in block.receipts.iter().flatten().enumerate() {
                        let addresses = &filter["address"];
                        let address = json!(log.address);
                        let is_there = addresses == &address
                            || addresses.as_array().is_some_and(|all| all.contains(&address));
                        let second = &filter["topics"][1];
                        let is_about = second.is_null()
                            || log.topics().get(1).is_some_and(|topic| &json!(topic) == second);
                        if is_there && is_about {
                            found.push(json!({"address": log.address, "topics": log.data.topics(),
                                "data": log.data.data, "blockHash": block.hash, "logIndex": format!("{index:#x}"),
                                "blockNumber": format!("{height:#x}"), "transactionHash": B256::ZERO,
                                "transactionIndex": "0x0", "removed": false}));
                        }
                    }
                }
                Value::Array(found)
            }
            other => unreachable!("nobody asks for {other}"),
        }
    }

    fn twisted(
        &self,
        fault: Fault,
        method: &'static str,
        mut answer: Value,
    ) -> Result<Value, RpcError> {
        let mut random = self.random.lock().unwrap();
        let node = || "sim".to_owned();
        if fault == Fault::Garbage && random.random_bool(0.5) {
            return Ok(json!([{"<html>": 502}]));
        }
        if fault == Fault::Limited && random.random_bool(0.7) {
            let retry_after = random.random_bool(0.5).then(|| Duration::from_secs(20));
            let message = "slow down".to_owned();
            return Err(RpcError::Limited { node: node(), method, message, retry_after });
        }
        if fault == Fault::Refused && random.random_bool(0.5) {
            let message = "filter not found".to_owned();
            return Err(RpcError::Refused {
                node: node(),
                method,
                code: -32_000,
                message,
                data: None,
            });
        }
        if fault == Fault::NoReceipts && method == "eth_getBlockReceipts" {
            return Ok(Value::Null);
        }
        let is_list = matches!(method, "eth_getLogs" | "eth_getBlockReceipts");
        let Some(list) = answer.as_array_mut().filter(|list| is_list && !list.is_empty()) else {
            return Ok(answer);
        };
        let some = random.random_range(0..list.len());
        match fault {
            Fault::Dropped => drop(list.remove(some)),
            Fault::Truncated => list.truncate(some),
            Fault::Duplicated => {
                let again = list[some].clone();
                list.push(again);
            }
            Fault::Shuffled => {
                let length = list.len();
                list.swap(some, length - 1);
                list.reverse();
            }
            Fault::Altered => {
                let logs = match method {
                    "eth_getLogs" => &mut answer,
                    _ => &mut list[some]["logs"],
                };
                if let Some(log) = logs.get_mut(0) {
                    log["data"] = json!(Bytes::from(vec![0; 32]));
                }
            }
            _ => {}
        }
        Ok(answer)
    }
}

impl Simulated for SimulatedNode {
    fn answer(
        &self,
        method: &'static str,
        params: Value,
    ) -> BoxFuture<'static, Result<Value, RpcError>> {
        let fault = *self.fault.lock().unwrap();
        let latency = Duration::from_millis(self.random.lock().unwrap().random_range(0..40));
        let refused = matches!(fault, Fault::Down).then(|| RpcError::Unreachable {
            node: "sim".to_owned(),
            method,
            detail: "down".to_owned(),
        });
        let answer = match refused {
            Some(error) => Err(error),
            None => self.twisted(fault, method, self.truth(fault, method, &params)),
        };
        Box::pin(async move {
            sleep(latency).await;
            match fault {
                Fault::Hang => std::future::pending().await,
                Fault::Slow => sleep(Duration::from_millis(2_500)).await,
                _ => {}
            }
            answer
        })
    }
}

/// What the contracts answer about each other.
fn called(params: &Value) -> Bytes {
    let d = deployment();
    let data: Bytes = serde_json::from_value(params[0]["data"].clone()).unwrap();
    let selector = data.first_chunk::<4>().copied().unwrap_or_default();
    let address = match selector {
        IAccessMarket::topicRegistryCall::SELECTOR => d.topic_registry,
        IBrokerRegistry::brokerOwnerCall::SELECTOR => d.audit_log,
        _ if [
            ITopicRegistry::brokerRegistryCall::SELECTOR,
            IAccessMarket::brokerRegistryCall::SELECTOR,
            IAuditLog::brokerRegistryCall::SELECTOR,
        ]
        .contains(&selector) =>
        {
            d.broker_registry
        }
        other => unreachable!("nobody calls {other:?}"),
    };
    address.into_word().into()
}
