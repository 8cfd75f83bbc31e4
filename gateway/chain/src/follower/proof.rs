//! Why nothing can be missing from a block: its hash covers its header, the header's bloom has a bit for every log, and the root
//! in the header covers every receipt with its logs.
//!
//! So a block whose bloom excludes us has nothing of ours, for certain and without a request; and of one that may have, the
//! receipts are read, and the logs taken from receipts that are proven to be all of them. A node cannot leave out, add or
//! change a log without making up another block, which the next honest node does not have.

use alloy::{
    consensus::proofs::ordered_trie_root_with_encoder,
    primitives::{Address, B256, Bloom, Bytes, Log, LogData, U64},
    rlp::{BufMut, Encodable, Header as ListHeader},
};
use serde::Deserialize;
use serde_json::Value;

use crate::Header;

/// What a node is asked to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proof {
    /// Hashes of headers, and roots of receipts wherever there may be a log of ours.
    #[default]
    Receipts,
    /// Nothing beyond what blooms exclude: for nodes without `eth_getBlockReceipts`, and chains whose hashes are made otherwise.
    Logs,
}

/// A block as nodes describe it, where its hash is not checked; of its transactions nothing is kept.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeBlock {
    number: Option<U64>,
    hash: Option<B256>,
    parent_hash: B256,
    timestamp: U64,
    #[serde(default)]
    logs_bloom: Option<Bloom>,
    #[serde(default)]
    receipts_root: Option<B256>,
}

/// The header in a node's description of a block, `None` if it has no place yet.
///
/// # Errors
/// What is wrong with it.
pub(super) fn header(block: Value, proof: Proof) -> Result<Option<Header>, String> {
    if proof == Proof::Logs {
        let block: NodeBlock = serde_json::from_value(block).map_err(|error| error.to_string())?;
        let (Some(number), Some(hash)) = (block.number, block.hash) else { return Ok(None) };
        return Ok(Some(Header {
            height: number.to(),
            hash,
            parent: block.parent_hash,
            time: block.timestamp.to(),
            bloom: block.logs_bloom.unwrap_or_default(),
            receipts: block.receipts_root.unwrap_or_default(),
        }));
    }
    if block["hash"].is_null() || block["number"].is_null() {
        return Ok(None);
    }
    let told: alloy::rpc::types::Header = serde_json::from_value(block)
        .map_err(|error| format!("a block without a whole header: {error}"))?;
    let found = told.inner.hash_slow();
    if found != told.hash {
        return Err(format!(
            "its block {} says its hash is {}, but its header has {found}; if the chain makes hashes in its own way, set \
             `chain.proof = \"logs\"`",
            told.inner.number, told.hash
        ));
    }
    Ok(Some(Header {
        height: told.inner.number,
        hash: told.hash,
        parent: told.inner.parent_hash,
        time: told.inner.timestamp,
        bloom: told.inner.logs_bloom,
        receipts: told.inner.receipts_root,
    }))
}

/// One transaction's receipt, as far as the root covers it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Receipt {
    transaction_index: U64,
    #[serde(default, rename = "type")]
    kind: Option<U64>,
    #[serde(default)]
    status: Option<U64>,
    /// In place of a status, before Byzantium.
    #[serde(default)]
    root: Option<B256>,
    cumulative_gas_used: U64,
    logs_bloom: Bloom,
    logs: Vec<ReceiptLog>,
    /// Of deposits on rollups of the OP stack.
    #[serde(default)]
    deposit_nonce: Option<U64>,
    #[serde(default)]
    deposit_receipt_version: Option<U64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReceiptLog {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
    log_index: U64,
    #[serde(default)]
    removed: bool,
}

/// Type of a deposit on rollups of the OP stack.
const DEPOSIT: u64 = 0x7e;

/// The logs of a block in their order, if these receipts, in whatever order and however often each, are all it has.
///
/// # Errors
/// What is wrong with them.
pub(super) fn logs(header: &Header, mut receipts: Vec<Receipt>) -> Result<Vec<Log>, String> {
    receipts.sort_by_key(|receipt| receipt.transaction_index);
    receipts.dedup_by_key(|receipt| receipt.transaction_index);
    for receipt in &mut receipts {
        receipt.logs.retain(|log| !log.removed);
        receipt.logs.sort_by_key(|log| log.log_index);
        receipt.logs.dedup_by_key(|log| log.log_index);
    }
    let logs = receipts.into_iter().map(Receipt::encoded).collect::<Result<Vec<_>, _>>()?;
    let (encoded, logs): (Vec<_>, Vec<_>) = logs.into_iter().unzip();
    let root =
        ordered_trie_root_with_encoder(&encoded, |receipt: &Vec<u8>, out| out.put_slice(receipt));
    if root != header.receipts {
        return Err(format!(
            "the receipts of block {} {} have the root {root}, its header says {}: they are not all, or not its own",
            header.height, header.hash, header.receipts
        ));
    }
    Ok(logs.into_iter().flatten().collect())
}

impl Receipt {
    /// As the root covers it (EIP-2718), with its logs.
    fn encoded(self) -> Result<(Vec<u8>, Vec<Log>), String> {
        let logs: Vec<Log> = self
            .logs
            .into_iter()
            .map(|log| {
                // More topics than an event has are kept, so that the root does not fit.
                let data = LogData::new_unchecked(log.topics, log.data);
                Log { address: log.address, data }
            })
            .collect();
        let kind: u64 = self.kind.unwrap_or_default().to();
        let mut fields = Vec::new();
        match (self.status, self.root) {
            (Some(status), _) => status.to::<u64>().encode(&mut fields),
            (None, Some(root)) => root.encode(&mut fields),
            (None, None) => return Err("a receipt without status and root".to_owned()),
        }
        self.cumulative_gas_used.to::<u64>().encode(&mut fields);
        self.logs_bloom.encode(&mut fields);
        logs.encode(&mut fields);
        if let (DEPOSIT, Some(nonce), Some(version)) =
            (kind, self.deposit_nonce, self.deposit_receipt_version)
        {
            nonce.to::<u64>().encode(&mut fields);
            version.to::<u64>().encode(&mut fields);
        }
        let mut octets = Vec::new();
        if kind != 0 {
            octets.push(u8::try_from(kind).map_err(|_| format!("a receipt of type {kind}"))?);
        }
        ListHeader { list: true, payload_length: fields.len() }.encode(&mut octets);
        octets.extend_from_slice(&fields);
        Ok((octets, logs))
    }
}

#[cfg(test)]
mod tests {
    use alloy::consensus::{
        EthereumReceipt, ReceiptWithBloom, TxType, proofs::calculate_receipt_root,
    };
    use alloy::primitives::BloomInput;
    use serde_json::json;

    use super::*;

    fn log(number: u8, topics: usize) -> Log {
        let topics = vec![B256::repeat_byte(number); topics];
        let data = Bytes::from(vec![number; usize::from(number) * 9]);
        Log { address: Address::repeat_byte(number), data: LogData::new_unchecked(topics, data) }
    }

    /// Receipts as alloy encodes them, and as a node tells them.
    fn block() -> (Header, Vec<Value>, Vec<Log>) {
        let of = [
            (TxType::Legacy, true, vec![log(1, 4), log(2, 0)]),
            (TxType::Eip1559, false, vec![]),
            (TxType::Eip4844, true, vec![log(3, 2)]),
        ];
        let mut told = Vec::new();
        let mut receipts = Vec::new();
        let (mut index, mut gas) = (0, 0_u64);
        let mut all = Vec::new();
        for (at, (tx_type, success, logs)) in of.into_iter().enumerate() {
            gas += 70_000;
            let mut bloom = Bloom::ZERO;
            for log in &logs {
                bloom.accrue_log(log);
            }
            let told_logs: Vec<Value> = logs
                .iter()
                .map(|log| {
                    index += 1;
                    json!({"address": log.address, "topics": log.data.topics(), "data": log.data.data,
                        "logIndex": format!("{:#x}", index - 1)})
                })
                .collect();
            told.push(json!({"transactionIndex": format!("{at:#x}"), "type": format!("{:#x}", tx_type as u8),
                "status": if success { "0x1" } else { "0x0" }, "cumulativeGasUsed": format!("{gas:#x}"),
                "logsBloom": bloom, "logs": told_logs, "unknown": {"to": "us"}}));
            all.extend(logs.clone());
            let receipt = EthereumReceipt { tx_type, success, cumulative_gas_used: gas, logs };
            receipts.push(ReceiptWithBloom { receipt, logs_bloom: bloom });
        }
        let header = Header {
            height: 5,
            hash: B256::ZERO,
            parent: B256::ZERO,
            time: 7,
            bloom: Bloom::ZERO,
            receipts: calculate_receipt_root(&receipts),
        };
        (header, told, all)
    }

    fn parsed(told: &[Value]) -> Vec<Receipt> {
        told.iter().map(|receipt| serde_json::from_value(receipt.clone()).unwrap()).collect()
    }

    #[test]
    fn receipts_of_every_type_give_the_root_that_alloy_makes_of_them() {
        let (header, told, all) = block();
        assert_eq!(logs(&header, parsed(&told)), Ok(all));
    }

    #[test]
    fn order_and_repetition_mean_nothing() {
        let (header, mut told, all) = block();
        told[0]["logs"].as_array_mut().unwrap().reverse();
        let again = told[0]["logs"][0].clone();
        told[0]["logs"].as_array_mut().unwrap().push(again);
        told.push(told[1].clone());
        told.reverse();
        assert_eq!(logs(&header, parsed(&told)), Ok(all));
    }

    #[test]
    fn whatever_is_missing_added_or_changed_shows() {
        type Change = fn(&mut Vec<Value>);
        let changes: [(&str, Change); 9] = [
            ("nothing", |told| told.clear()),
            ("a receipt", |told| drop(told.remove(1))),
            ("a log", |told| drop(told[0]["logs"].as_array_mut().unwrap().remove(0))),
            ("a log that is called removed", |told| told[0]["logs"][1]["removed"] = json!(true)),
            ("an address", |told| told[0]["logs"][0]["address"] = json!(Address::ZERO)),
            ("a topic", |told| told[0]["logs"][0]["topics"][3] = json!(B256::ZERO)),
            ("a topic too many", |told| {
                let topics = told[0]["logs"][0]["topics"].as_array_mut().unwrap();
                topics.push(json!(B256::ZERO));
            }),
            ("data", |told| told[2]["logs"][0]["data"] = json!("0x")),
            ("a forged log", |told| {
                let forged = told[0]["logs"][0].clone();
                told[1]["logs"].as_array_mut().unwrap().push(forged);
            }),
        ];
        for (what, change) in changes {
            let (header, mut told, _) = block();
            change(&mut told);
            assert!(logs(&header, parsed(&told)).is_err(), "{what}");
        }
    }

    #[test]
    fn an_empty_block_has_no_receipts_and_proves_it() {
        let (mut header, ..) = block();
        header.receipts = alloy::consensus::EMPTY_ROOT_HASH;
        assert_eq!(logs(&header, Vec::new()), Ok(Vec::new()));
    }

    #[test]
    fn a_header_must_hash_to_what_it_says_where_that_is_asked_for() {
        let mut bloom = Bloom::ZERO;
        bloom.accrue(BloomInput::Raw(&[7]));
        let inner = alloy::consensus::Header {
            number: 9,
            timestamp: 77,
            logs_bloom: bloom,
            base_fee_per_gas: Some(7),
            receipts_root: B256::repeat_byte(2),
            ..Default::default()
        };
        let hash = inner.hash_slow();
        let mut told = serde_json::to_value(alloy::rpc::types::Header::new(inner)).unwrap();
        told["transactions"] = json!(["0x00"]);
        let found = header(told.clone(), Proof::Receipts).unwrap().unwrap();
        assert_eq!((found.height, found.hash, found.time, found.bloom), (9, hash, 77, bloom));
        assert_eq!(header(told.clone(), Proof::Logs), Ok(Some(found)));
        told["timestamp"] = json!("0x1");
        assert!(header(told.clone(), Proof::Receipts).unwrap_err().contains("chain.proof"));
        assert!(header(told.clone(), Proof::Logs).is_ok());
        told["hash"] = Value::Null;
        assert_eq!(header(told, Proof::Receipts), Ok(None));
    }
}
