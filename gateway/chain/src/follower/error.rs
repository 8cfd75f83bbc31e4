//! What goes wrong while following: for good, or until the next attempt.

use alloy::primitives::{Address, U256};

use crate::{ChainError, decode::DecodeError, rpc::RpcError};

/// What no retry can heal. Everything else is retried for ever.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// Nothing to ask.
    #[error(
        "`chain.urls` is empty, wanted at least one node: add one, such as \"http://127.0.0.1:8545\""
    )]
    NoUrl,
    /// The node is on another chain than the contracts.
    #[error(
        "node {node} is on chain {found}, but the deployment file is for chain {wanted}: correct the node's URL or the \
         deployment file"
    )]
    WrongChain {
        /// Scheme, host and port of the node.
        node: String,
        /// Its chain id.
        found: u64,
        /// That of the deployment.
        wanted: u64,
    },
    /// Nothing is at an address.
    #[error(
        "`{contract}` {address} has no code on chain {chain_id} (node {node}): deploy with `make deploy`, or correct the address"
    )]
    NoCode {
        /// Field of the deployment.
        contract: &'static str,
        /// Its value.
        address: Address,
        /// The chain.
        chain_id: u64,
        /// Scheme, host and port of the node.
        node: String,
    },
    /// The node cannot prove that it leaves nothing out.
    #[error(
        "node {node} does not offer `eth_getBlockReceipts`, by which is proven that no log is missing: take another node, or \
         set `chain.proof = \"logs\"` and believe it"
    )]
    NoReceipts {
        /// Scheme, host and port of the node.
        node: String,
    },
    /// Something else is at an address than before.
    #[error(
        "`{contract}` {address} has other code than when it was first seen (node {node}): the chain was built again, or the \
         node is not to be trusted; look into it, then start again"
    )]
    OtherCode {
        /// Field of the deployment.
        contract: &'static str,
        /// Its value.
        address: Address,
        /// Scheme, host and port of the node.
        node: String,
    },
    /// The contracts do not belong together.
    #[error(
        "`{contract}` {address} works with {found}, but the deployment file says {wanted}: the file mixes \
         two deployments, take it as the deploy script wrote it"
    )]
    Mixed {
        /// Field of the deployment.
        contract: &'static str,
        /// Its value.
        address: Address,
        /// What the contract answers, zero if nothing.
        found: Address,
        /// Field `brokerRegistry` or `topicRegistry`.
        wanted: Address,
    },
    /// Nobody created the broker.
    #[error(
        "broker {broker_id} does not exist in `brokerRegistry` {registry}: create it with `flytrap broker create`, or correct \
         `chain.broker_id`"
    )]
    NoBroker {
        /// The broker that was asked for.
        broker_id: U256,
        /// The registry.
        registry: Address,
    },
    /// The deployment file starts too late to see everything.
    #[error(
        "broker {broker_id} exists, yet no block from {block} on tells of its creation: `block` of the deployment file is \
         too high, take the block of the first contract's deployment"
    )]
    BlockTooHigh {
        /// The broker.
        broker_id: U256,
        /// Field `block`.
        block: u64,
    },
}

impl FollowError {
    /// Is a node on its own the fault, so that another of the list may be as good as ever?
    pub(super) const fn is_of_one_node(&self) -> bool {
        matches!(self, Self::WrongChain { .. } | Self::NoCode { .. } | Self::NoReceipts { .. })
    }
}

/// What goes wrong while following, and heals.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("node {node} contradicts itself: {detail}")]
    Contradiction { node: String, detail: String },
    #[error("node {node} is at height {height}, far below {wanted}: is it still syncing?")]
    Behind { node: String, height: u64, wanted: u64 },
    #[error("node {node} has no block up to {height} that tells of the broker's creation")]
    Ownerless { node: String, height: u64 },
    #[error(
        "nodes {node} and {other} disagree on block {height}: one of them is wrong, or on a fork"
    )]
    Disagreement { node: String, other: String, height: u64 },
    #[error(
        "node {node} has so many new blocks that block {height} of {head} is as far as it got: is there no end to its chain?"
    )]
    Endless { node: String, height: u64, head: u64 },
    #[error("no second node to ask: {0}")]
    Unwitnessed(String),
    #[error("node {node} does not have block {block}")]
    NoBlock { node: String, block: String },
    #[error(transparent)]
    Permanent(#[from] FollowError),
}

impl Trouble {
    /// May what was taken in before be what is wrong?
    pub(super) const fn is_about_the_state(&self) -> bool {
        matches!(self, Self::Decode(_) | Self::Chain(ChainError::Inconsistent { .. }))
    }
}
