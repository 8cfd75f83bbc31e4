//! Who a client is, by what it proves: tokens and device passwords.
//!
//! A **token** is a password of 99 characters, unpadded base64url of
//! `0x01 | issuedAt u32 BE | expiresAt u32 BE | r | s | v`, whose signature is EIP-712 over
//! `Session(string clientId,uint64 issuedAt,uint64 expiresAt)` in the domain of one broker, see [`Site`]. A
//! **device password** is 27 characters, unpadded base64url of a 20-octet seed, see [`DeviceKey`].
//!
//! There is one way to write everything, so that one proof is one string and one principal one user name:
//! - the user name is `0x` and 40 hexadecimal digits in any case: no checksum is asked for, no prefix `0X` or none,
//!   no padding is taken;
//! - v is 27 or 28: neither 0 and 1, nor the 64 octets of ERC-2098;
//! - s is in the lower half of its range, bits beyond the last octet are zero.
//!
//! A token counts from two minutes before `issuedAt` ([`CLOCK_SKEW`], for clocks that are behind) and while
//! `now < expiresAt`.

mod device;

use std::fmt;

use alloy_primitives::{Address, B256, Keccak256, Signature, U256, b256, hex, keccak256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

pub use device::{DEVICE_PASSWORD_CHARS, DeviceKey, device_key, device_password};

use crate::{Credential, CredentialKind, Principal, View};

/// Characters of a token.
pub const TOKEN_CHARS: usize = 99;
/// Seconds by which a token may be from the future.
pub const CLOCK_SKEW: u64 = 120;

const TOKEN_OCTETS: usize = 74;
const TOKEN_VERSION: u8 = 1;

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
        let mut domain = Keccak256::new();
        domain.update(DOMAIN_TYPE);
        domain.update(DOMAIN_NAME);
        domain.update(DOMAIN_VERSION);
        domain.update(U256::from(self.chain_id).to_be_bytes::<32>());
        domain.update(self.broker_registry.into_word());
        domain.update(self.broker_id.to_be_bytes::<32>());
        domain.finalize()
    }
}

/// What a client sent in CONNECT. Nothing of it counts before it is proved.
#[derive(Clone, Copy)]
pub struct Claim<'a> {
    /// Client id as sent; a token's signature covers it.
    pub client_id: &'a str,
    /// User name; empty if there was none.
    pub user_name: &'a str,
    /// Password; empty if there was none.
    pub password: &'a [u8],
}

impl fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .field("password", &"[redacted]")
            .finish()
    }
}

/// Why a proof was not accepted. For the operator: clients are told a reason code and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// No user name or no password.
    #[error("user name or password is missing")]
    Missing,
    /// The user name is not an address, or the zero address.
    #[error("the user name is not `0x` and the 40 hexadecimal digits of an address")]
    UserName,
    /// The password has the form of neither kind.
    #[error("the password is neither a token of 99 characters nor a device password of 27")]
    Password,
    /// The token is of a version that is not known.
    #[error("the token's version is {0}, known is {TOKEN_VERSION}")]
    Version(u8),
    /// The token does not end after it was issued.
    #[error("the token ends before it begins")]
    Times,
    /// The token was issued too far in the future.
    #[error("the token was issued more than {CLOCK_SKEW} s in the future: is a clock wrong?")]
    NotYetValid,
    /// The token has ended.
    #[error("the token has expired")]
    Expired,
    /// The token lives longer than the site accepts.
    #[error("the token lives longer than this site accepts")]
    LivesTooLong,
    /// The signature is not one: v other than 27 and 28, s in the upper half, r or s out of range.
    #[error("the signature is malformed")]
    Signature,
    /// Another key signed than the user name claims, or for another client id, times, broker, contract or chain; or
    /// the device password is that of another key.
    #[error(
        "the proof was not made by the key of the user name, for this client id and this broker"
    )]
    Signer,
    /// The wallet ended all tokens that were issued before a later moment.
    #[error("the wallet has invalidated its tokens of that time")]
    Invalidated,
    /// A device password for a key that no wallet has authorized.
    #[error("no wallet has authorized this device key")]
    UnknownDevice,
    /// The key was a device key and was revoked or has expired. It does not become a wallet of its own: whoever
    /// handed the device out expects it to be shut out.
    #[error("the device key was revoked or has expired")]
    DeviceEnded,
    /// The newest block says something else of this device key than the settled one does. Nobody's fault.
    #[error("the authorization of this device key has not settled yet")]
    NotSettled,
}

impl Refusal {
    /// Does it count as a failed attempt of the client?
    #[must_use]
    pub const fn blames_client(&self) -> bool {
        !matches!(self, Self::NotSettled)
    }

    /// One word for logs and metrics; there is a fixed set of them.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::UserName => "user-name",
            Self::Password => "password",
            Self::Version(_) => "version",
            Self::Times => "times",
            Self::NotYetValid => "not-yet-valid",
            Self::Expired => "expired",
            Self::LivesTooLong => "lives-too-long",
            Self::Signature => "signature",
            Self::Signer => "signer",
            Self::Invalidated => "invalidated",
            Self::UnknownDevice => "unknown-device",
            Self::DeviceEnded => "device-ended",
            Self::NotSettled => "not-settled",
        }
    }
}

/// Proves who a client is. Whether that principal is banned is for [`View::standing`] to say, so that a ban is not
/// mistaken for a failed proof.
///
/// `now` is the later of block time and wall clock in Unix seconds, `longest_life` the most seconds from a token's
/// start to its end. What is cheap is checked first; a proof that has the right form costs one signature recovery
/// (token) or one multiplication (device password), and never asks anyone.
///
/// # Errors
/// [`Refusal`]. Each counts as one failed attempt if it [blames the client](Refusal::blames_client).
pub fn authenticate(
    claim: &Claim<'_>,
    site: &Site,
    view: &View,
    now: u64,
    longest_life: u64,
) -> Result<Principal, Refusal> {
    if claim.user_name.is_empty() || claim.password.is_empty() {
        return Err(Refusal::Missing);
    }
    let key = address_of(claim.user_name).ok_or(Refusal::UserName)?;
    match claim.password.len() {
        TOKEN_CHARS => by_token(claim, key, site, view, now, longest_life),
        DEVICE_PASSWORD_CHARS => by_device_password(claim.password, key, view, now),
        _ => Err(Refusal::Password),
    }
}

fn by_token(
    claim: &Claim<'_>,
    key: Address,
    site: &Site,
    view: &View,
    now: u64,
    longest_life: u64,
) -> Result<Principal, Refusal> {
    let token = Token::decode(claim.password)?;
    let (issued_at, expires_at) = (u64::from(token.issued_at), u64::from(token.expires_at));
    let life = expires_at.checked_sub(issued_at).filter(|&life| life > 0).ok_or(Refusal::Times)?;
    if issued_at > now.saturating_add(CLOCK_SKEW) {
        return Err(Refusal::NotYetValid);
    }
    if now >= expires_at {
        return Err(Refusal::Expired);
    }
    if life > longest_life {
        return Err(Refusal::LivesTooLong);
    }
    let digest = token_digest(site, claim.client_id, issued_at, expires_at);
    if recover(&token.signature, &digest)? != key {
        return Err(Refusal::Signer);
    }
    let wallet = view.wallet_behind(key, now)?;
    if wallet == key {
        let valid_from = |registry: &crate::Registry| registry.tokens_valid_from(wallet);
        if issued_at < valid_from(&view.head).max(valid_from(&view.settled)) {
            return Err(Refusal::Invalidated);
        }
    }
    let credential = Credential { kind: CredentialKind::Token, issued_at, expires_at };
    Ok(Principal { wallet, key, credential, country: None })
}

fn by_device_password(
    password: &[u8],
    key: Address,
    view: &View,
    now: u64,
) -> Result<Principal, Refusal> {
    // The key of a stranger's claim is looked up before anything is computed for it. That is no oracle: which keys
    // are device keys stands on chain.
    let wallet = match view.wallet_behind(key, now) {
        Ok(wallet) if wallet == key => return Err(Refusal::UnknownDevice),
        Err(refusal) if refusal.blames_client() => return Err(refusal),
        found => found,
    };
    if device_key(password)?.address() != key {
        return Err(Refusal::Signer);
    }
    let credential =
        Credential { kind: CredentialKind::DevicePassword, issued_at: 0, expires_at: u64::MAX };
    Ok(Principal { wallet: wallet?, key, credential, country: None })
}

/// The digest that a token's signature is over.
#[must_use]
pub fn token_digest(site: &Site, client_id: &str, issued_at: u64, expires_at: u64) -> B256 {
    let mut session = Keccak256::new();
    session.update(SESSION_TYPE);
    session.update(keccak256(client_id));
    session.update(U256::from(issued_at).to_be_bytes::<32>());
    session.update(U256::from(expires_at).to_be_bytes::<32>());
    let mut digest = Keccak256::new();
    digest.update([0x19, 0x01]);
    digest.update(site.domain_separator());
    digest.update(session.finalize());
    digest.finalize()
}

/// A token as a password. `signature` is r, s, v with v 27 or 28.
#[must_use]
pub fn encode_token(issued_at: u32, expires_at: u32, signature: &[u8; 65]) -> String {
    let mut octets = Zeroizing::new([0; TOKEN_OCTETS]);
    octets[0] = TOKEN_VERSION;
    octets[1..5].copy_from_slice(&issued_at.to_be_bytes());
    octets[5..9].copy_from_slice(&expires_at.to_be_bytes());
    octets[9..].copy_from_slice(signature);
    URL_SAFE_NO_PAD.encode(octets.as_slice())
}

/// The user name of a key: `0x` and 40 lower-case digits.
#[must_use]
pub fn user_name(key: Address) -> String {
    hex::encode_prefixed(key)
}

struct Token {
    issued_at: u32,
    expires_at: u32,
    signature: Zeroizing<[u8; 65]>,
}

impl Token {
    fn decode(password: &[u8]) -> Result<Self, Refusal> {
        let octets = decode_base64::<TOKEN_OCTETS>(password)?;
        let (version, rest) = octets.split_first().ok_or(Refusal::Password)?;
        let (issued_at, rest) = rest.split_first_chunk().ok_or(Refusal::Password)?;
        let (expires_at, signature) = rest.split_first_chunk().ok_or(Refusal::Password)?;
        if *version != TOKEN_VERSION {
            return Err(Refusal::Version(*version));
        }
        Ok(Self {
            issued_at: u32::from_be_bytes(*issued_at),
            expires_at: u32::from_be_bytes(*expires_at),
            signature: Zeroizing::new(signature.try_into().map_err(|_| Refusal::Password)?),
        })
    }
}

/// Exactly `N` octets, at most 96, of canonical unpadded base64url.
fn decode_base64<const N: usize>(text: &[u8]) -> Result<Zeroizing<[u8; N]>, Refusal> {
    let mut room = Zeroizing::new([0; 96]);
    let octets = URL_SAFE_NO_PAD.decode_slice(text, &mut *room).map_err(|_| Refusal::Password)?;
    let decoded = room.get(..octets).and_then(|octets| octets.try_into().ok());
    decoded.map(Zeroizing::new).ok_or(Refusal::Password)
}

fn address_of(user_name: &str) -> Option<Address> {
    let digits = user_name.strip_prefix("0x").filter(|digits| digits.len() == 40)?;
    let mut address = Address::ZERO;
    // A second `0x` would be skipped here, and then two digits are missing.
    hex::decode_to_slice(digits, address.as_mut_slice()).ok()?;
    (!address.is_zero()).then_some(address)
}

fn recover(signature: &[u8; 65], digest: &B256) -> Result<Address, Refusal> {
    let is_odd = match signature[64] {
        27 => false,
        28 => true,
        _ => return Err(Refusal::Signature),
    };
    let signature = Signature::from_bytes_and_parity(&signature[..64], is_odd);
    // (r, n - s, v ^ 1) would be a second proof of the same.
    if signature.normalize_s().is_some() {
        return Err(Refusal::Signature);
    }
    signature.recover_address_from_prehash(digest).map_err(|_| Refusal::Signature)
}
