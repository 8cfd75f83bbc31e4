//! Headers and logs from a node, each checked against the others before anything believes them.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
};

use alloy::{
    primitives::{B256, BloomInput, Log as InnerLog, U256},
    rpc::types::Log,
};
use flytrap_policy::{Event, Stamp};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{
    Trouble,
    proof::{self, Proof, Receipt},
};
use crate::{
    Block, Deployment, Header,
    bindings::IDeviceRegistry::IDeviceRegistryEvents,
    decode,
    rpc::{Node, RpcError},
};

/// Requests under way at once.
const AT_ONCE: usize = 8;
/// Up to this many blocks are asked one by one, by hash; more of them by a range.
const FEW_BLOCKS: usize = 4;

/// How much longer than for a block a node may take for a range of them.
const RANGE_PATIENCE: u32 = 4;
/// Providers that cut an answer off do so at a round number, silently at times.
const ROUND: usize = 500;

/// Whose logs are wanted, and how sure it must be that they are all.
pub(super) struct Scope {
    pub(super) deployment: Deployment,
    pub(super) broker_id: U256,
    pub(super) proof: Proof,
}

impl Scope {
    /// Is a log that somebody emitted about our broker or about devices?
    fn is_ours(&self, log: &InnerLog) -> bool {
        let d = &self.deployment;
        log.address == d.device_registry
            || (d.of_brokers().contains(&log.address)
                && log.topics().get(1) == Some(&B256::from(self.broker_id)))
    }
}

impl Node {
    /// The newest block.
    pub(super) async fn head(&self, proof: Proof) -> Result<Header, Trouble> {
        self.block("latest".to_owned(), proof).await
    }

    /// The block of a height on the chain as the node sees it now.
    pub(super) async fn header(&self, height: u64, proof: Proof) -> Result<Header, Trouble> {
        let header = self.block(format!("{height:#x}"), proof).await?;
        if header.height != height {
            let detail = format!("asked for block {height}, it answered with {}", header.height);
            return Err(self.contradiction(detail));
        }
        Ok(header)
    }

    async fn block(&self, which: String, proof: Proof) -> Result<Header, Trouble> {
        let block: Value = self.call("eth_getBlockByNumber", json!([which, false])).await?;
        let no_block = || Trouble::NoBlock { node: self.shown.clone(), block: which };
        if block.is_null() {
            return Err(no_block());
        }
        let header = proof::header(block, proof).map_err(|wrong| self.contradiction(wrong))?;
        header.ok_or_else(no_block)
    }

    /// Every log of a block that is about us, proven to be every one.
    async fn proven_logs(&self, scope: &Scope, header: &Header) -> Result<Vec<InnerLog>, Trouble> {
        let answer: Option<Vec<Receipt>> =
            self.call("eth_getBlockReceipts", json!([header.hash])).await?;
        let Some(receipts) = answer else {
            // It may have the block and not yet its receipts.
            return Err(Trouble::NoBlock {
                node: self.shown.clone(),
                block: header.hash.to_string(),
            });
        };
        let mut logs = proof::logs(header, receipts).map_err(|wrong| self.contradiction(wrong))?;
        logs.retain(|log| scope.is_ours(log));
        Ok(logs)
    }

    fn contradiction(&self, detail: String) -> Trouble {
        Trouble::Contradiction { node: self.shown.clone(), detail }
    }

    /// Logs of our contracts: those of one broker, and of all devices.
    async fn logs(&self, scope: &Scope, blocks: Value) -> Result<Vec<Log>, RpcError> {
        let deadline = self.deadline() * RANGE_PATIENCE;
        let d = &scope.deployment;
        let (mut of_broker, mut of_devices) = (blocks.clone(), blocks);
        of_broker["address"] = json!(d.of_brokers());
        of_broker["topics"] = json!([null, B256::from(scope.broker_id)]);
        of_devices["address"] = json!(d.device_registry);
        let (mut logs, devices) = futures::try_join!(
            self.call_within::<Vec<Log>>(deadline, "eth_getLogs", json!([of_broker])),
            self.call_within::<Vec<Log>>(deadline, "eth_getLogs", json!([of_devices])),
        )?;
        for count in [logs.len(), devices.len()] {
            if count > 0 && count.is_multiple_of(ROUND) && blocks_of_range(&of_broker) > 1 {
                let message = format!("{count} results look like an answer that was cut off");
                let (node, method) = (self.shown.clone(), "eth_getLogs");
                return Err(RpcError::Refused { node, method, code: 0, message, data: None });
            }
        }
        logs.extend(devices);
        // A log that was orphaned does not belong to any block that is asked for.
        logs.retain(|log| !log.removed);
        Ok(logs)
    }
}

/// Headers of these heights, lowest first.
pub(super) async fn headers(
    node: &Node,
    proof: Proof,
    from: u64,
    to: u64,
) -> Result<Vec<Header>, Trouble> {
    // Boxed here and below: rustc cannot otherwise see that a future that holds this is `Send`.
    stream::iter(from..=to)
        .map(|height| node.header(height, proof))
        .buffered(AT_ONCE)
        .boxed()
        .try_collect()
        .await
}

/// The blocks of these headers with what happened in them.
pub(super) async fn blocks(
    node: &Node,
    scope: &Scope,
    headers: &[Header],
) -> Result<Vec<Block>, Trouble> {
    let (Some(first), Some(last)) = (headers.first(), headers.last()) else {
        return Ok(Vec::new());
    };
    if scope.proof == Proof::Receipts {
        return proven_blocks(node, scope, headers).await;
    }
    let logs = if headers.len() <= FEW_BLOCKS {
        one_by_one(node, scope, headers).await?
    } else {
        let found = match node.logs(scope, blocks_between(first.height..=last.height)).await {
            Ok(found) => Ok(found),
            // Perhaps the range was too wide for the node.
            Err(error) if error.may_be_too_much() => one_by_one(node, scope, headers).await,
            Err(error) => Err(error.into()),
        };
        found?
    };
    let mut of_block: HashMap<B256, Vec<Log>> = HashMap::new();
    for log in logs {
        let Some(hash) = log.block_hash else {
            return Err(node.contradiction("a log of no block".to_owned()));
        };
        of_block.entry(hash).or_default().push(log);
    }
    let mut blocks = Vec::with_capacity(headers.len());
    for header in headers {
        let mut logs = of_block.remove(&header.hash).unwrap_or_default();
        if logs.is_empty() && may_hold(header, scope) {
            // Most often another contract's log happens to look like ours in the bloom; but a node that knows the block and not
            // yet its logs has been seen to answer with none, and a revocation must not get lost that way.
            logs = node.logs(scope, json!({"blockHash": header.hash})).await?;
        }
        blocks.push(Block { header: *header, events: events(node, scope, header, logs)? });
    }
    if let Some((hash, _)) = of_block.into_iter().next() {
        return Err(node.contradiction(format!("a log of block {hash}, which is not on its chain")));
    }
    Ok(blocks)
}

async fn proven_blocks(
    node: &Node,
    scope: &Scope,
    headers: &[Header],
) -> Result<Vec<Block>, Trouble> {
    stream::iter(headers)
        .map(|header| async move {
            let logs = if may_hold(header, scope) {
                node.proven_logs(scope, header).await?
            } else {
                Vec::new()
            };
            let mut events = Vec::with_capacity(logs.len());
            for log in logs {
                events.extend(decode(&log, &scope.deployment)?);
            }
            Ok::<_, Trouble>(Block { header: *header, events })
        })
        .buffered(AT_ONCE)
        .boxed()
        .try_collect()
        .await
}

async fn one_by_one(node: &Node, scope: &Scope, headers: &[Header]) -> Result<Vec<Log>, Trouble> {
    let each: Vec<Vec<Log>> = stream::iter(headers)
        .map(|header| node.logs(scope, json!({"blockHash": header.hash})))
        .buffered(AT_ONCE)
        .boxed()
        .try_collect()
        .await?;
    Ok(each.into_iter().flatten().collect())
}

/// How many blocks a filter is about.
fn blocks_of_range(filter: &Value) -> u64 {
    let height =
        |end: &str| u64::from_str_radix(filter[end].as_str()?.strip_prefix("0x")?, 16).ok();
    match (height("fromBlock"), height("toBlock")) {
        (Some(from), Some(to)) => to.saturating_sub(from) + 1,
        _ => 1,
    }
}

fn blocks_between(heights: RangeInclusive<u64>) -> Value {
    json!({"fromBlock": format!("{:#x}", heights.start()), "toBlock": format!("{:#x}", heights.end())})
}

/// Does the header's bloom say that there may be logs of ours?
fn may_hold(header: &Header, scope: &Scope) -> bool {
    let d = &scope.deployment;
    let has = |octets: &[u8]| header.bloom.contains_input(BloomInput::Raw(octets));
    let broker = B256::from(scope.broker_id);
    let of_devices = || IDeviceRegistryEvents::SELECTORS.iter().any(|event| has(event));
    (has(d.device_registry.as_slice()) && of_devices())
        || (has(broker.as_slice()) && d.of_brokers().iter().any(|address| has(address.as_slice())))
}

/// What one block's logs say, in their order, each once.
fn events(
    node: &Node,
    scope: &Scope,
    header: &Header,
    logs: Vec<Log>,
) -> Result<Vec<Event>, Trouble> {
    let mut ordered = BTreeMap::new();
    for log in logs {
        let place = (log.block_hash, log.block_number);
        if place != (Some(header.hash), Some(header.height)) {
            return Err(node.contradiction(format!(
                "asked for logs of block {} {}, it answered with one of {place:?}",
                header.height, header.hash
            )));
        }
        if header.bloom.is_zero()
            || !header.bloom.contains_input(BloomInput::Raw(log.address().as_slice()))
        {
            return Err(node.contradiction(format!(
                "block {} has a log of {} that its own bloom excludes",
                header.height,
                log.address()
            )));
        }
        let Some(index) = log.log_index else {
            return Err(node.contradiction("a log without an index".to_owned()));
        };
        ordered.insert(index, log);
    }
    let mut events = Vec::with_capacity(ordered.len());
    for log in ordered.into_values() {
        events.extend(decode(&log.inner, &scope.deployment)?);
    }
    Ok(events)
}

/// What the logs of a range of old blocks say, in their order, each once, with the time of its block.
pub(super) async fn range(
    node: &Node,
    scope: &Scope,
    from: u64,
    to: u64,
) -> Result<Vec<(Stamp, Event)>, Trouble> {
    let logs = node.logs(scope, blocks_between(from..=to)).await?;
    let mut ordered = BTreeMap::new();
    let mut hashes: BTreeMap<u64, (B256, Option<u64>)> = BTreeMap::new();
    for log in logs {
        let (Some(height), Some(hash), Some(index)) =
            (log.block_number, log.block_hash, log.log_index)
        else {
            return Err(node.contradiction("a log without a place".to_owned()));
        };
        if !(from..=to).contains(&height) {
            return Err(node.contradiction(format!(
                "asked for logs of blocks {from} to {to}, it answered with one of {height}"
            )));
        }
        let known = hashes.entry(height).or_insert((hash, log.block_timestamp));
        if known.0 != hash {
            return Err(node.contradiction(format!("two blocks of height {height}")));
        }
        ordered.insert((height, index), log);
    }
    let untimed = hashes.iter().filter(|(_, (_, time))| time.is_none());
    let untimed: Vec<(u64, B256)> = untimed.map(|(height, (hash, _))| (*height, *hash)).collect();
    let headers: Vec<Header> = stream::iter(&untimed)
        .map(|(height, _)| node.header(*height, scope.proof))
        .buffered(AT_ONCE)
        .boxed()
        .try_collect()
        .await?;
    for (header, (height, hash)) in headers.iter().zip(&untimed) {
        if header.hash != *hash {
            return Err(node.contradiction(format!("block {height} changed while it was read")));
        }
        hashes.insert(*height, (*hash, Some(header.time)));
    }
    let mut events = Vec::with_capacity(ordered.len());
    for ((height, _), log) in ordered {
        let time = hashes.get(&height).and_then(|(_, time)| *time).unwrap_or_default();
        let event = decode(&log.inner, &scope.deployment)?;
        events.extend(event.map(|event| (Stamp { height, time }, event)));
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, Bloom};

    use super::*;

    fn scope() -> Scope {
        let deployment = Deployment {
            chain_id: 31337,
            block: 1,
            broker_registry: Address::with_last_byte(1),
            topic_registry: Address::with_last_byte(2),
            access_market: Address::with_last_byte(5),
            device_registry: Address::with_last_byte(3),
            audit_log: Address::with_last_byte(4),
        };
        Scope { deployment, broker_id: U256::from(9), proof: Proof::Receipts }
    }

    fn header(inputs: &[&[u8]]) -> Header {
        let mut bloom = Bloom::ZERO;
        for input in inputs {
            bloom.accrue(BloomInput::Raw(input));
        }
        Header {
            height: 5,
            hash: B256::ZERO,
            parent: B256::ZERO,
            time: 7,
            bloom,
            receipts: B256::ZERO,
        }
    }

    #[test]
    fn a_bloom_points_to_logs_of_ours_only_with_contract_and_broker() {
        let scope = scope();
        let device = scope.deployment.device_registry;
        let (ours, other) = (B256::from(scope.broker_id), B256::from(U256::from(8)));
        for contract in scope.deployment.of_brokers() {
            assert!(may_hold(&header(&[contract.as_slice(), ours.as_slice()]), &scope));
            assert!(!may_hold(&header(&[contract.as_slice(), other.as_slice()]), &scope));
        }
        assert!(!may_hold(&header(&[ours.as_slice()]), &scope));
        for event in IDeviceRegistryEvents::SELECTORS {
            assert!(may_hold(&header(&[device.as_slice(), event]), &scope));
        }
        assert!(!may_hold(&header(&[device.as_slice()]), &scope));
        assert!(!may_hold(&header(&[]), &scope));
    }
}
