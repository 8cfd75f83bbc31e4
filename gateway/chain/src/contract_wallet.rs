//! Asks the contract of a wallet whether it has signed (ERC-1271).
//!
//! The one question that a stranger's claim can cause, so everything about it is bounded: the gas that the contract may burn, the octets
//! that it may answer, the time that all of it may take. How many are asked at once is for the caller to bound.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, FixedBytes};
use alloy::sol_types::SolCall;
use serde_json::json;
use tokio::time::timeout;
use url::Url;

use crate::ChainHealth;
use crate::rpc::{Bounds, Rpc, RpcError};

alloy::sol! {
    /// ERC-1271.
    function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes4 magic);
}

/// What the contract answers if it has signed.
const MAGIC: FixedBytes<4> = FixedBytes(isValidSignatureCall::SELECTOR);
/// Gas of one question: curves that the chain does not know itself take some 350,000.
const GAS: u64 = 500_000;
/// For this gas no contract makes half as much, so what is longer is a fault of the node.
const ANSWER_OCTETS: usize = 2 << 20;
/// For one question, over all nodes.
const DEADLINE: Duration = Duration::from_secs(2);

/// Node programs' words for a call that the contract itself made fail.
const FAULTS_OF_THE_CONTRACT: [&str; 14] = [
    "revert",
    "outofgas",
    "oog",
    "gasrequiredexceeds",
    "gasuint64overflow",
    "evmerror",
    "opcode",
    "instruction",
    "stackunder",
    "stackover",
    "invalidjump",
    "outofbounds",
    "writeprotection",
    "calldepth",
];

/// The way to ask, over connections of its own: what contracts make of theirs does not disturb the follower's.
#[derive(Debug)]
pub struct ContractWallets {
    rpc: Rpc,
}

impl ContractWallets {
    /// Nodes in the order in which they are preferred; requests count with those of the follower.
    #[must_use]
    pub fn new(urls: Vec<Url>, health: &ChainHealth) -> Self {
        let bounds = Bounds { deadline: DEADLINE, answer_octets: ANSWER_OCTETS };
        Self { rpc: Rpc::bounded(urls, health.request_counts(), bounds) }
    }

    /// Whether there is a contract that says it has signed. Any other answer of it, or none because of it, is a no.
    ///
    /// # Errors
    /// [`RpcError`] if no node could say within two seconds: nobody's fault but ours.
    pub async fn has_signed(
        &self,
        wallet: Address,
        digest: B256,
        signature: &[u8],
    ) -> Result<bool, RpcError> {
        let call =
            isValidSignatureCall { hash: digest, signature: Bytes::copy_from_slice(signature) };
        let data = Bytes::from(call.abi_encode());
        let params = json!([{ "to": wallet, "data": data, "gas": format!("{GAS:#x}") }, "latest"]);
        let method = "eth_call";
        match timeout(DEADLINE, self.rpc.call::<Bytes>(method, params)).await {
            Ok(Ok(answer)) => Ok(is_magic(&answer)),
            Ok(Err(error)) if is_fault_of_the_contract(&error) => Ok(false),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                let node = "all".to_owned();
                Err(RpcError::Timeout { node, method, waited: DEADLINE })
            }
        }
    }
}

/// `bytes4`, as a word: the other 28 octets are zero. An account without code answers nothing.
fn is_magic(answer: &[u8]) -> bool {
    let mut word = [0; 32];
    word[..4].copy_from_slice(MAGIC.as_slice());
    answer.get(..32) == Some(&word)
}

fn is_fault_of_the_contract(error: &RpcError) -> bool {
    error.reverted().is_some() || error.says(&FAULTS_OF_THE_CONTRACT)
}

#[cfg(test)]
mod tests {
    use alloy::hex;

    use super::*;

    #[test]
    fn only_the_magic_word_is_a_yes() {
        let yes = hex!("1626ba7e00000000000000000000000000000000000000000000000000000000");
        assert!(is_magic(&yes));
        assert!(is_magic(&[&yes[..], &[1; 32]].concat()));
        let (mut wrong, mut dirty) = (yes, yes);
        wrong[0] = 0xff;
        dirty[31] = 1;
        for no in [&[][..], &yes[..4], &yes[..31], &wrong, &dirty, &[0; 32], &[0xff; 32]] {
            assert!(!is_magic(no), "{no:02x?}");
        }
    }

    #[test]
    fn what_the_contract_made_fail_is_told_from_what_the_node_did() {
        let refused = |code, message: &str| RpcError::Refused {
            node: "n".to_owned(),
            method: "eth_call",
            code,
            message: message.to_owned(),
            data: None,
        };
        for message in
            ["execution reverted", "out of gas", "EVM error MemoryOOG", "invalid opcode: INVALID"]
        {
            assert!(is_fault_of_the_contract(&refused(-32_000, message)), "{message}");
        }
        for message in ["rate limit exceeded", "header not found", "internal error"] {
            assert!(!is_fault_of_the_contract(&refused(-32_005, message)), "{message}");
        }
    }
}
