//! What is signed: EIP-712 digests of tokens and challenges in the domain of one broker.
//!
//! A key of its own signs [`token_digest`] and [`challenge_digest`]. Of a contract wallet the same structs are signed with the wallet's
//! address in front ([`wallet_token_digest`], [`wallet_challenge_digest`]): many wallets ask no more than whether their owner signed a
//! digest, so without the address one signature would open every wallet of that owner, and the owner's own account besides.

use alloy_primitives::{Address, B256, Keccak256, U256, b256, keccak256};

use crate::{NameRequest, NameWish};

/// `keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract,bytes32 salt)")`.
const DOMAIN_TYPE: B256 =
    b256!("0xd87cd6ef79d4e2b95e15ce8abf732db51ec771f1ca2edccf22a46c729ac56472");
/// `keccak256("FlyTrap")`.
const DOMAIN_NAME: B256 =
    b256!("0x02c1dd5e6f592311ca1222e521a005598d7e9c978dd5cb1970a68c56fa72e25f");
/// `keccak256("1")`.
const DOMAIN_VERSION: B256 =
    b256!("0xc89efdaa54c0f20c7adf612882df0950f5a951637e0307cdcb4c672f298b8bc6");
/// `keccak256("Session(string clientId,uint64 issuedAt,uint64 expiresAt)")`.
const SESSION_TYPE: B256 =
    b256!("0x3a10185f2275bcfec438dd0b659a645b60da53c9a084899e188cd32de05c2405");
/// `keccak256("WalletSession(address wallet,string clientId,uint64 issuedAt,uint64 expiresAt)")`.
const WALLET_SESSION_TYPE: B256 =
    b256!("0x05410787e9f1a07bbf49762a342dcf24a6f4ae0c77eecd409c89c5e2a3040039");
/// `keccak256("Challenge(string clientId,bytes32 nonce,string server)")`.
const CHALLENGE_TYPE: B256 =
    b256!("0x977f05d7b1a344a8bef216e07b66f1eeb83be9e0a10a25246980d01f488f5a7d");
/// `keccak256("WalletChallenge(address wallet,string clientId,bytes32 nonce,string server)")`.
const WALLET_CHALLENGE_TYPE: B256 =
    b256!("0xa09d3b984ac2126f2babcf282a54a6129f058356457470447d359c1fbdb553e4");

/// `keccak256("DiscloseName(address owner,bytes32 topicId,uint64 epoch,bytes32 salt,string name,uint64 issuedAt,uint64 expiresAt)")`.
const DISCLOSE_TYPE: B256 =
    b256!("0x4f1f131e365199c432d115a2ab3c70ab1b9de5877e0100865becd803fcfece93");
/// `keccak256("EraseName(address owner,bytes32 topicId,uint64 epoch,uint64 issuedAt,uint64 expiresAt)")`.
const ERASE_TYPE: B256 =
    b256!("0xedf32bf451b320642e8778f65cdf528d79065e7f2bbc76cde75286c8c48096af");

/// The place a proof is made for: none counts at another broker, contract or chain.
///
/// The EIP-712 domain is `{name "FlyTrap", version "1", chainId, verifyingContract, salt = bytes32(brokerId)}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Site {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Address of the `BrokerRegistry`.
    pub broker_registry: Address,
    /// The broker's number in it.
    pub broker_id: U256,
}

impl Site {
    /// The domain separator. Hashed anew each time, which takes a fiftieth of what a signature takes.
    #[must_use]
    pub fn domain_separator(&self) -> B256 {
        hash(&[
            DOMAIN_TYPE,
            DOMAIN_NAME,
            DOMAIN_VERSION,
            number(self.chain_id),
            self.broker_registry.into_word(),
            B256::from(self.broker_id),
        ])
    }

    fn digest(&self, content: B256) -> B256 {
        let mut digest = Keccak256::new();
        digest.update([0x19, 0x01]);
        digest.update(self.domain_separator());
        digest.update(content);
        digest.finalize()
    }
}

/// What a gateway asks of a client that holds its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge<'a> {
    /// Client id as sent in CONNECT.
    pub client_id: &'a str,
    /// Random, for this one answer.
    pub nonce: B256,
    /// The gateway's configured name. The client signs the name it meant to reach, so that an answer is worthless to whoever passed
    /// another gateway's question on.
    pub server: &'a str,
}

/// The digest that a token's signature is over.
#[must_use]
pub fn token_digest(site: &Site, client_id: &str, issued_at: u64, expires_at: u64) -> B256 {
    let client_id = keccak256(client_id);
    site.digest(hash(&[SESSION_TYPE, client_id, number(issued_at), number(expires_at)]))
}

/// The digest that a contract wallet is asked about for a token.
#[must_use]
pub fn wallet_token_digest(
    site: &Site,
    wallet: Address,
    client_id: &str,
    issued_at: u64,
    expires_at: u64,
) -> B256 {
    let (wallet, client_id) = (wallet.into_word(), keccak256(client_id));
    let times = [number(issued_at), number(expires_at)];
    site.digest(hash(&[WALLET_SESSION_TYPE, wallet, client_id, times[0], times[1]]))
}

/// The digest that the answer to a challenge is over.
#[must_use]
pub fn challenge_digest(site: &Site, challenge: &Challenge<'_>) -> B256 {
    let (client_id, server) = (keccak256(challenge.client_id), keccak256(challenge.server));
    site.digest(hash(&[CHALLENGE_TYPE, client_id, challenge.nonce, server]))
}

/// The digest that a contract wallet is asked about for the answer to a challenge.
#[must_use]
pub fn wallet_challenge_digest(site: &Site, wallet: Address, challenge: &Challenge<'_>) -> B256 {
    let (client_id, server) = (keccak256(challenge.client_id), keccak256(challenge.server));
    let wallet = wallet.into_word();
    site.digest(hash(&[WALLET_CHALLENGE_TYPE, wallet, client_id, challenge.nonce, server]))
}

/// The digest that the owner of a hidden topic signs for the gateways of a broker, whoever the owner is.
#[must_use]
pub fn name_request_digest(site: &Site, request: &NameRequest<'_>) -> B256 {
    let (owner, topic_id, epoch) =
        (request.owner.into_word(), request.topic_id, number(request.epoch));
    let times = [number(request.issued_at), number(request.expires_at)];
    site.digest(match &request.wish {
        NameWish::Disclose { salt, name } => {
            let name = keccak256(name);
            hash(&[DISCLOSE_TYPE, owner, topic_id, epoch, *salt, name, times[0], times[1]])
        }
        NameWish::Erase => hash(&[ERASE_TYPE, owner, topic_id, epoch, times[0], times[1]]),
    })
}

fn hash(words: &[B256]) -> B256 {
    let mut hash = Keccak256::new();
    for word in words {
        hash.update(word);
    }
    hash.finalize()
}

fn number(value: u64) -> B256 {
    B256::from(U256::from(value))
}
