//! One transaction: estimated, priced, signed, sent, and waited for. Used by wallets and by the submitter.

use std::time::Duration;

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope},
    primitives::{Address, B256, Bytes, Signature, TxKind, U64, U128, U256},
    rpc::types::Log,
};
use flytrap_policy::Event;
use serde::Deserialize;
use serde_json::json;

use crate::{
    Deployment, decode,
    keys::Key,
    revert::Reverted,
    rpc::{Rpc, RpcError},
};

/// A transaction that is in a block and did what it was to do.
#[derive(Debug, Clone)]
pub struct Done {
    /// Its hash.
    pub tx: B256,
    /// Height of its block.
    pub height: u64,
    /// Hash of its block.
    pub block: B256,
    /// Gas it used.
    pub gas_used: u64,
    /// What it cost besides its value.
    pub fee_wei: U256,
    /// What it emitted.
    pub logs: Vec<Log>,
}

impl Done {
    /// Events of our contracts that it emitted, in their order.
    #[must_use]
    pub fn events(&self, deployment: &Deployment) -> Vec<Event> {
        self.logs.iter().filter_map(|log| decode(&log.inner, deployment).ok().flatten()).collect()
    }
}

/// Why a transaction did not happen, or is not known to have.
#[derive(Debug, thiserror::Error)]
pub enum TransactError {
    /// No node answered.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// A contract said no, before or after it was sent.
    #[error("{reverted}")]
    Reverted {
        /// What it said.
        reverted: Reverted,
    },
    /// It is in a block and failed, and the chain does not say why.
    #[error(
        "transaction {tx} in block {height} failed: what it relied on changed after it was estimated; try again"
    )]
    Failed {
        /// Its hash.
        tx: B256,
        /// Height of its block.
        height: u64,
    },
    /// Not enough ether.
    #[error(
        "wallet {wallet} has {balance_wei} wei, wanted {wanted_wei} wei (value and the highest fee): send ether to it"
    )]
    Poor {
        /// Who was to pay.
        wallet: Address,
        /// What there is.
        balance_wei: U256,
        /// What it may cost.
        wanted_wei: U256,
    },
    /// The chain asks for more than the limit.
    #[error(
        "gas costs at least {base_fee_wei} wei now, the limit is {max_fee_wei} wei: wait, or raise the limit"
    )]
    TooDear {
        /// Base fee of the next block.
        base_fee_wei: u128,
        /// The limit per gas.
        max_fee_wei: u128,
    },
    /// Sent, and not in a block yet.
    #[error(
        "transaction {tx} is in no block after {waited:?}: it may still get there, look it up before trying again"
    )]
    Pending {
        /// Its hash.
        tx: B256,
        /// For how long.
        waited: Duration,
    },
}

impl TransactError {
    /// A node's refusal of a call, which is the contract's if there is revert data.
    pub(crate) fn of_call(error: RpcError) -> Self {
        match error.reverted() {
            Some(data) => Self::Reverted { reverted: Reverted::read(&data) },
            None => Self::Rpc(error),
        }
    }
}

/// What a transaction is to do.
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(crate) to: Address,
    pub(crate) data: Bytes,
    pub(crate) value: U256,
}

/// Wei per gas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fees {
    pub(crate) max_fee: u128,
    pub(crate) priority: u128,
}

/// A receipt, as far as it matters.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Receipt {
    pub(crate) transaction_hash: B256,
    pub(crate) block_number: Option<U64>,
    pub(crate) block_hash: Option<B256>,
    pub(crate) status: Option<U64>,
    pub(crate) gas_used: U64,
    #[serde(default)]
    pub(crate) effective_gas_price: U128,
    #[serde(default)]
    pub(crate) logs: Vec<Log>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FeeHistory {
    base_fee_per_gas: Vec<U256>,
    #[serde(default)]
    reward: Option<Vec<Vec<U256>>>,
}

/// Gas for a payment back: a contract wants so much left before it pays (`Payouts.sol`), and of what falls with time, such as a fee, nothing
/// may be left over when gas is estimated, and something in the block.
const TO_PAY_BACK: u64 = 120_000;

/// Gas that the draft needs, with a margin: state may change until it is mined.
pub(crate) async fn estimate(
    rpc: &Rpc,
    from: Address,
    draft: &Draft,
) -> Result<u64, TransactError> {
    let call = json!({"from": from, "to": draft.to, "data": draft.data, "value": draft.value});
    let gas: U64 =
        rpc.call("eth_estimateGas", json!([call])).await.map_err(TransactError::of_call)?;
    let gas = gas.to::<u64>();
    let pays = !draft.value.is_zero() && !draft.data.is_empty();
    let more = if pays { TO_PAY_BACK } else { 10_000 };
    Ok(gas.saturating_add(gas / 4).saturating_add(more))
}

/// What gas costs now: room for the base fee to double, never above `limit`.
pub(crate) async fn fees(rpc: &Rpc, limit: Option<u128>) -> Result<Fees, TransactError> {
    let history: FeeHistory = rpc.call("eth_feeHistory", json!(["0x5", "latest", [50]])).await?;
    let base: u128 = history.base_fee_per_gas.last().copied().unwrap_or_default().saturating_to();
    let mut rewards: Vec<u128> = history
        .reward
        .unwrap_or_default()
        .iter()
        .filter_map(|block| block.first())
        .map(|wei| wei.saturating_to())
        .collect();
    rewards.sort_unstable();
    let priority = rewards.get(rewards.len() / 2).copied().unwrap_or_default().max(1_000_000);
    let wanted = base.saturating_mul(2).saturating_add(priority);
    let Some(limit) = limit else { return Ok(Fees { max_fee: wanted, priority }) };
    if base >= limit {
        return Err(TransactError::TooDear { base_fee_wei: base, max_fee_wei: limit });
    }
    let max_fee = wanted.min(limit);
    Ok(Fees { max_fee, priority: priority.min(max_fee) })
}

/// The next nonce of a wallet as of a block: `latest`, `pending` (what waits for a block included), or its height.
pub(crate) async fn nonce(rpc: &Rpc, wallet: Address, block: &str) -> Result<u64, RpcError> {
    let nonce: U64 = rpc.call("eth_getTransactionCount", json!([wallet, block])).await?;
    Ok(nonce.to())
}

/// What the wallet has; fails if that does not pay for the draft.
pub(crate) async fn afford(
    rpc: &Rpc,
    wallet: Address,
    draft: &Draft,
    gas: u64,
    fees: Fees,
) -> Result<U256, TransactError> {
    let balance_wei: U256 = rpc.call("eth_getBalance", json!([wallet, "latest"])).await?;
    let fee = U256::from(gas).saturating_mul(U256::from(fees.max_fee));
    let wanted_wei = draft.value.saturating_add(fee);
    if balance_wei < wanted_wei {
        return Err(TransactError::Poor { wallet, balance_wei, wanted_wei });
    }
    Ok(balance_wei)
}

/// The draft as a transaction that is ready to be signed.
pub(crate) fn unsigned(
    chain_id: u64,
    nonce: u64,
    gas_limit: u64,
    fees: Fees,
    draft: &Draft,
) -> TxEip1559 {
    TxEip1559 {
        chain_id,
        nonce,
        gas_limit,
        max_fee_per_gas: fees.max_fee,
        max_priority_fee_per_gas: fees.priority,
        to: TxKind::Call(draft.to),
        value: draft.value,
        input: draft.data.clone(),
        ..TxEip1559::default()
    }
}

/// The transaction with the signature of a key.
pub(crate) fn sign(key: &Key, tx: TxEip1559) -> TxEnvelope {
    let octets = key.sign(&tx.signature_hash());
    let signature = Signature::from_raw_array(&octets).expect("just made by signing");
    tx.into_signed(signature).into()
}

/// Hands a signed transaction to a node. One that the node has already is as good as sent.
pub(crate) async fn send(rpc: &Rpc, raw: &Bytes) -> Result<(), RpcError> {
    match rpc.call::<B256>("eth_sendRawTransaction", json!([raw])).await {
        Ok(_) => Ok(()),
        Err(error) if error.says(&["alreadyknown", "knowntransaction", "alreadyimported"]) => {
            Ok(())
        }
        Err(other) => Err(other),
    }
}

/// Does the node have the transaction, in a block or waiting for one?
pub(crate) async fn is_known(rpc: &Rpc, tx: B256) -> Result<bool, RpcError> {
    let found: Option<serde::de::IgnoredAny> =
        rpc.call("eth_getTransactionByHash", json!([tx])).await?;
    Ok(found.is_some())
}

/// The receipt, if the transaction is in a block.
pub(crate) async fn receipt(rpc: &Rpc, tx: B256) -> Result<Option<Receipt>, RpcError> {
    let receipt: Option<Receipt> = rpc.call("eth_getTransactionReceipt", json!([tx])).await?;
    Ok(receipt.filter(|receipt| receipt.block_number.is_some()))
}

impl Receipt {
    /// What it cost besides its value.
    pub(crate) fn fee_wei(&self) -> U256 {
        U256::from(self.gas_used).saturating_mul(U256::from(self.effective_gas_price))
    }

    /// What became of the transaction.
    pub(crate) fn done(self) -> Result<Done, TransactError> {
        let height = self.block_number.unwrap_or_default().to();
        if self.status.unwrap_or_default().is_zero() {
            return Err(TransactError::Failed { tx: self.transaction_hash, height });
        }
        let fee_wei = self.fee_wei();
        Ok(Done {
            tx: self.transaction_hash,
            height,
            block: self.block_hash.unwrap_or_default(),
            gas_used: self.gas_used.to(),
            fee_wei,
            logs: self.logs,
        })
    }
}
