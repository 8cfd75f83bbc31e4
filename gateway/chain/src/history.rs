//! The past of a broker, a topic or a wallet, from the chain alone: what `flytrap audit` shows.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    primitives::{Address, B256, U64, U256},
    rpc::types::Log,
    sol_types::SolEvent as _,
};
use flytrap_policy::Event;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    DecodeError, Deployment,
    bindings::IAuditLog::Anchored,
    decode,
    rpc::{Rpc, RpcError},
};

/// Blocks asked for at once, to begin with.
const FIRST_SPAN: u64 = 5_000;
const MAX_SPAN: u64 = 50_000;
/// Requests under way at once.
const AT_ONCE: usize = 8;

/// Whose events are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Told {
    /// Of all contracts.
    #[default]
    All,
    /// Only what rights come from: not what gateways put into the audit log, which is the most.
    Rights,
    /// Only the anchors of the broker's gateways.
    Anchors,
}

/// Which part of the past is wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// The broker. Device keys and credit belong to no broker, and come with a wallet.
    pub broker_id: U256,
    /// Of which events.
    pub told: Told,
    /// Only this topic.
    pub topic: Option<B256>,
    /// Only what is about this wallet, or done by it where the event says so in an indexed field.
    pub wallet: Option<Address>,
    /// First block; the deployment's if none.
    pub from: Option<u64>,
    /// Last block; the newest if none.
    pub to: Option<u64>,
    /// Most entries; the query fails beyond rather than leaving any out.
    pub most: Option<usize>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Height of its block.
    pub height: u64,
    /// Time of its block, Unix seconds.
    pub time: u64,
    /// Hash of its block.
    pub block: B256,
    /// The transaction.
    pub tx: B256,
    /// Place of its log in the block.
    pub log_index: u64,
    /// Who emitted it.
    pub contract: Address,
    /// What happened.
    pub event: Event,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// No node answered.
    #[error("{0}: a node that keeps the whole history is needed, such as an archive or a full one")]
    Rpc(#[from] RpcError),
    /// A log of the contracts that cannot be read.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The node does not have the last of the blocks yet, and an answer without it would look like a whole one.
    #[error("the node is at block {newest}, wanted {wanted}: ask again, or another node")]
    Behind {
        /// The last that was asked for.
        wanted: u64,
        /// The last that it has.
        newest: u64,
    },
    /// A node's answer contradicts itself.
    #[error("the node contradicts itself: {0}: ask again, or another node")]
    Contradiction(String),
    /// More than what was asked for.
    #[error(
        "more than {most} entries between blocks {from} and {reached}: narrow the query, or raise the limit"
    )]
    TooMany {
        /// The limit.
        most: usize,
        /// First block.
        from: u64,
        /// The block at which there were too many.
        reached: u64,
    },
}

/// Reads the past, oldest first.
///
/// # Errors
/// [`HistoryError`]. An answer is complete or none.
pub async fn history(
    rpc: &Rpc,
    deployment: &Deployment,
    query: &Query,
) -> Result<Vec<Entry>, HistoryError> {
    let from = query.from.unwrap_or(deployment.block).max(deployment.block);
    let (newest, _) = newest_block(rpc).await?;
    let to = query.to.unwrap_or(newest);
    if to > newest {
        rpc.pass_over();
        return Err(HistoryError::Behind { wanted: to, newest });
    }
    let most = query.most.unwrap_or(usize::MAX);
    let filters = filters(deployment, query);
    let mut logs: BTreeMap<(u64, u64), Log> = BTreeMap::new();
    let (mut next, mut span) = (from, FIRST_SPAN);
    while next <= to {
        let end = to.min(next.saturating_add(span - 1));
        let answers: Result<Vec<Vec<Log>>, RpcError> = stream::iter(filters.clone())
            .map(|mut filter| {
                filter["fromBlock"] = json!(format!("{next:#x}"));
                filter["toBlock"] = json!(format!("{end:#x}"));
                rpc.call("eth_getLogs", json!([filter]))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await;
        let found = match answers {
            Ok(found) => found,
            Err(error) if span > 1 && error.may_be_too_much() => {
                span = (span / 2).max(1);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        for log in found.into_iter().flatten().filter(|log| !log.removed) {
            let (Some(height), Some(index)) = (log.block_number, log.log_index) else {
                return Err(HistoryError::Contradiction("a log without a place".to_owned()));
            };
            logs.insert((height, index), log);
        }
        if logs.len() > most {
            return Err(HistoryError::TooMany { most, from, reached: end });
        }
        next = end.saturating_add(1);
        span = (span + span / 2).min(MAX_SPAN);
    }
    entries(rpc, deployment, query, logs).await
}

/// What a node is asked for. An address or topic may stand in different places, so there are several questions.
fn filters(deployment: &Deployment, query: &Query) -> Vec<Value> {
    let d = deployment;
    let ours = json!(d.of_brokers());
    let broker = json!(B256::from(query.broker_id));
    let wallet = query.wallet.map(|wallet| wallet.into_word());
    let of_broker = |second: Value, third: Value| json!({"address": ours.clone(), "topics": [null, broker.clone(), second, third]});
    match (query.topic, wallet) {
        (None, None) => {
            let (of, first) = match query.told {
                Told::All => (ours.clone(), Value::Null),
                Told::Rights => {
                    (json!([d.broker_registry, d.topic_registry, d.access_market]), Value::Null)
                }
                Told::Anchors => (json!(d.audit_log), json!(Anchored::SIGNATURE_HASH)),
            };
            vec![json!({"address": of, "topics": [first, broker.clone()]})]
        }
        (Some(topic), None) => {
            let of_topics = json!([d.topic_registry, d.access_market, d.audit_log]);
            vec![json!({"address": of_topics, "topics": [null, broker.clone(), topic]})]
        }
        (Some(topic), Some(wallet)) => vec![of_broker(json!(topic), json!(wallet))],
        (None, Some(wallet)) => vec![
            of_broker(Value::Null, json!(wallet)),
            json!({"address": ours.clone(), "topics": [null, broker.clone(), wallet]}),
            // Device keys, and money: no broker in them.
            json!({"address": d.device_registry, "topics": [null, wallet]}),
            json!({"address": d.device_registry, "topics": [null, null, wallet]}),
            json!({"address": d.access_market, "topics": [money(), wallet]}),
        ],
    }
}

fn money() -> Vec<B256> {
    use crate::bindings::IAccessMarket as market;
    vec![
        market::Credited::SIGNATURE_HASH,
        market::PayoutSet::SIGNATURE_HASH,
        market::Withdrawn::SIGNATURE_HASH,
    ]
}

async fn entries(
    rpc: &Rpc,
    deployment: &Deployment,
    query: &Query,
    logs: BTreeMap<(u64, u64), Log>,
) -> Result<Vec<Entry>, HistoryError> {
    let untimed: BTreeSet<u64> = logs
        .iter()
        .filter(|(_, log)| log.block_timestamp.is_none())
        .map(|((height, _), _)| *height)
        .collect();
    let times: BTreeMap<u64, u64> = stream::iter(untimed)
        .map(|height| async move {
            let block = header(rpc, format!("{height:#x}")).await?;
            Ok::<_, HistoryError>((height, block.timestamp.to()))
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    let mut entries = Vec::with_capacity(logs.len());
    for ((height, log_index), log) in logs {
        let Some(event) = decode(&log.inner, deployment)? else { continue };
        // A broker's number may look like somebody's address.
        if event.broker_id().is_some_and(|broker| broker != query.broker_id) {
            continue;
        }
        let (Some(block), Some(tx)) = (log.block_hash, log.transaction_hash) else {
            return Err(HistoryError::Contradiction("a log without a place".to_owned()));
        };
        entries.push(Entry {
            height,
            time: log.block_timestamp.or_else(|| times.get(&height).copied()).unwrap_or_default(),
            block,
            tx,
            log_index,
            contract: log.address(),
            event,
        });
    }
    Ok(entries)
}

/// Height and time of the newest block.
///
/// # Errors
/// [`HistoryError`] if no node answers.
pub async fn newest_block(rpc: &Rpc) -> Result<(u64, u64), HistoryError> {
    let newest = header(rpc, "latest".to_owned()).await?;
    Ok((newest.number.unwrap_or_default().to(), newest.timestamp.to()))
}

/// Time of a block, Unix seconds.
///
/// # Errors
/// [`HistoryError`] if no node answers, or none has it.
pub async fn block_time(rpc: &Rpc, height: u64) -> Result<u64, HistoryError> {
    Ok(header(rpc, format!("{height:#x}")).await?.timestamp.to())
}

/// Height and time of the last block up to `newest` that is not younger than a second: times never fall from block to block.
///
/// # Errors
/// [`HistoryError`] if no node answers.
pub async fn block_at(rpc: &Rpc, second: u64, newest: u64) -> Result<(u64, u64), HistoryError> {
    let (mut from, mut to) = (0, newest);
    while from < to {
        let middle = to - (to - from) / 2;
        if block_time(rpc, middle).await? <= second {
            from = middle;
        } else {
            to = middle - 1;
        }
    }
    Ok((from, block_time(rpc, from).await?))
}

#[derive(Debug, Deserialize)]
struct Numbered {
    number: Option<U64>,
    timestamp: U64,
}

async fn header(rpc: &Rpc, which: String) -> Result<Numbered, HistoryError> {
    let block: Option<Numbered> = rpc.call("eth_getBlockByNumber", json!([which, false])).await?;
    block.ok_or_else(|| HistoryError::Contradiction(format!("no block {which}")))
}
