//! Is a node on the right chain, and are these the contracts, the same as ever?

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    sol_types::SolCall,
};
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use super::{FollowError, Follower, Trouble, proof::Proof};
use crate::{
    bindings::{IAccessMarket, IAuditLog, IBrokerRegistry, ITopicRegistry},
    rpc::{Node, RpcError},
};

/// Requests under way at once.
const AT_ONCE: usize = 5;

impl Follower {
    /// Everything that a node must be asked before its word counts.
    pub(super) async fn check(&mut self, node: &Node) -> Result<(), Trouble> {
        self.check_chain_id(node).await?;
        self.check_code(node).await?;
        self.check_links(node).await?;
        if self.config.proof == Proof::Receipts {
            // Of no block: what is asked is whether it knows the question.
            let question = json!([B256::ZERO]);
            match node.call::<Value>("eth_getBlockReceipts", question).await {
                Err(error) if error.lacks_method() => {
                    return Err(FollowError::NoReceipts { node: node.shown.clone() }.into());
                }
                Err(RpcError::Refused { .. } | RpcError::Unusable { .. }) | Ok(_) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok(())
    }

    pub(super) async fn check_chain_id(&self, node: &Node) -> Result<(), Trouble> {
        let found: U256 = node.call("eth_chainId", json!([])).await?;
        let wanted = self.config.deployment.chain_id;
        if found != U256::from(wanted) {
            let found = found.saturating_to();
            return Err(FollowError::WrongChain { node: node.shown.clone(), found, wanted }.into());
        }
        Ok(())
    }

    /// Code at every address, and the same as when it was first seen.
    pub(super) async fn check_code(&mut self, node: &Node) -> Result<(), Trouble> {
        let d = &self.config.deployment;
        // Boxed: rustc cannot otherwise see that a future that holds this is `Send`.
        let codes: Vec<Bytes> = stream::iter(d.addresses())
            .map(|(_, address)| node.call("eth_getCode", json!([address, "latest"])))
            .buffered(AT_ONCE)
            .boxed()
            .try_collect()
            .await?;
        let mut hashes = [B256::ZERO; 5];
        for (((contract, address), code), hash) in
            d.addresses().into_iter().zip(codes).zip(&mut hashes)
        {
            if code.is_empty() {
                return Err(FollowError::NoCode {
                    contract,
                    address,
                    chain_id: d.chain_id,
                    node: node.shown.clone(),
                }
                .into());
            }
            *hash = keccak256(&code);
        }
        let known = self.code.get_or_init(|| hashes);
        for (at, (contract, address)) in d.addresses().into_iter().enumerate() {
            if known[at] != hashes[at] {
                let node = node.shown.clone();
                return Err(FollowError::OtherCode { contract, address, node }.into());
            }
        }
        Ok(())
    }

    /// The contracts work with each other, and the broker exists.
    async fn check_links(&self, node: &Node) -> Result<(), Trouble> {
        let d = &self.config.deployment;
        let topic = ITopicRegistry::brokerRegistryCall {}.abi_encode();
        let market = IAccessMarket::brokerRegistryCall {}.abi_encode();
        let of_market = IAccessMarket::topicRegistryCall {}.abi_encode();
        let audit = IAuditLog::brokerRegistryCall {}.abi_encode();
        for (contract, address, call, wanted) in [
            ("topicRegistry", d.topic_registry, topic, d.broker_registry),
            ("accessMarket", d.access_market, market, d.broker_registry),
            ("accessMarket", d.access_market, of_market, d.topic_registry),
            ("auditLog", d.audit_log, audit, d.broker_registry),
        ] {
            let found = asked(node, address, call).await?.map_or(Address::ZERO, |answer| {
                answer.get(12..32).map_or(Address::ZERO, Address::from_slice)
            });
            if found != wanted {
                return Err(FollowError::Mixed { contract, address, found, wanted }.into());
            }
        }
        let call =
            IBrokerRegistry::brokerOwnerCall { brokerId: self.config.broker_id }.abi_encode();
        let owner = asked(node, d.broker_registry, call).await?;
        if owner.is_none_or(|answer| answer.iter().all(|octet| *octet == 0)) {
            return Err(FollowError::NoBroker {
                broker_id: self.config.broker_id,
                registry: d.broker_registry,
            }
            .into());
        }
        Ok(())
    }
}

/// The answer of a view call, `None` if the contract has none to give.
async fn asked(node: &Node, to: Address, call: Vec<u8>) -> Result<Option<Bytes>, RpcError> {
    let params = json!([{"to": to, "data": Bytes::from(call)}, "latest"]);
    match node.call::<Bytes>("eth_call", params).await {
        Ok(answer) => Ok((answer.len() == 32).then_some(answer)),
        // A contract that says no, rather than a node that refuses to work.
        Err(error) if error.reverted().is_some() => Ok(None),
        Err(other) => Err(other),
    }
}
