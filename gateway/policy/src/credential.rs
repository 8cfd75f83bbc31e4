//! Who a client is, by what it proves: tokens, device passwords and answers to challenges.
//!
//! A **token** is a password of 99 characters, unpadded base64url of
//! `0x01 | issuedAt u32 BE | expiresAt u32 BE | r | s | v`, whose signature is EIP-712 over
//! `Session(string clientId,uint64 issuedAt,uint64 expiresAt)` in the domain of one broker, see [`Site`]. A
//! **device password** is 27 characters, unpadded base64url of a 20-octet seed, see [`DeviceKey`]. An **answer** is
//! `0x01 | address | r | s | v` with a signature over a [`Challenge`]. [`Presented`] finds where in a CONNECT a proof is.
//!
//! There is one way to write everything, so that one proof is one string and one principal one user name:
//! - the user name is `0x` and 40 hexadecimal digits in any case: no checksum is asked for, no prefix `0X` or none,
//!   no padding is taken;
//! - v is 27 or 28: neither 0 and 1, nor the 64 octets of ERC-2098;
//! - s is in the lower half of its range, bits beyond the last octet are zero.
//!
//! A key proves itself by its own signature, always tried first. Where the site takes contract wallets (ERC-1271), what the claimed
//! address did not sign itself becomes a [`WalletQuestion`]: the signature may then have 65 to 2,048 octets, and what it is over has
//! the wallet's address in it.
//!
//! A token counts from two minutes before `issuedAt` ([`CLOCK_SKEW`], for clocks that are behind) and while
//! `now < expiresAt`.

mod device;
mod digest;
mod presented;

use std::fmt;

use alloy_primitives::{Address, B256, Keccak256, Signature, hex};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

pub use device::{DEVICE_PASSWORD_CHARS, DeviceKey, device_key, device_password};
pub use digest::{
    Challenge, Site, challenge_digest, name_request_digest, token_digest, wallet_challenge_digest,
    wallet_token_digest,
};
pub use presented::{ADDRESS_PROPERTY, METHOD, Presented, TOKEN_PROPERTY};

use crate::{Credential, CredentialKind, Principal, View};

/// Characters of a token that a key has signed.
pub const TOKEN_CHARS: usize = 99;
/// Octets of the longest signature of a contract wallet.
pub const LONGEST_SIGNATURE: usize = 2_048;
/// Seconds that the yes of a contract wallet holds: what its contract would say later, only another question can tell.
pub const WALLET_PROOF_HOLDS: u64 = 3_600;
/// Seconds by which a token may be from the future.
pub const CLOCK_SKEW: u64 = 120;

const SIGNATURE_OCTETS: usize = 65;
const TOKEN_HEADER: usize = 9;
const TOKEN_VERSION: u8 = 1;
const ANSWER_VERSION: u8 = 1;

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
    /// No user name or no password, or one of the two user properties.
    #[error("user name or password is missing")]
    Missing,
    /// Proofs in more than one place, or one place twice.
    #[error(
        "more than one proof: user name and password, user properties or authentication method"
    )]
    Several,
    /// An authentication method that is not known, or a challenge where the gateway has no name.
    #[error(
        "the authentication method is not {METHOD}, or this gateway has no name to be challenged by"
    )]
    Method,
    /// The answer to a challenge has another form.
    #[error("the answer to the challenge is not version, address and signature")]
    Answer,
    /// The user name is not an address, or the zero address.
    #[error("the user name is not `0x` and the 40 hexadecimal digits of an address")]
    UserName,
    /// The password has the form of neither kind.
    #[error(
        "it is neither a token of 99 characters (more for a contract wallet) nor a device password of 27"
    )]
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
    /// The contract of the claimed wallet did not say yes, or there is none.
    #[error("the claimed address did not sign, nor does a contract there say that it did")]
    Wallet,
    /// The site takes each token once, and this one was taken.
    #[error("the token was used before")]
    Used,
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
            Self::Several => "several",
            Self::Method => "method",
            Self::Answer => "answer",
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
            Self::Wallet => "wallet",
            Self::Used => "used",
            Self::NotSettled => "not-settled",
        }
    }
}

/// What a site accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// The most seconds from a token's start to its end, and that a challenge holds.
    pub longest_life: u64,
    /// Whether the contract of a claimed wallet may be asked.
    pub contract_wallets: bool,
}

/// A principal, and what of its proof must be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// Who it is.
    pub principal: Principal,
    /// The token, if it was one.
    pub token: Option<TokenUse>,
}

/// Names a token, so that a site can take each one once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenUse {
    /// Of the key and what it signed. Not of the signature, of which there may be several that say the same.
    pub id: B256,
    /// From when the token is worthless, Unix seconds.
    pub expires_at: u64,
}

/// What a proof comes to.
#[derive(Debug)]
pub enum Finding {
    /// The key has signed.
    Proved(Proven),
    /// It has not. If there is a contract at the claimed address, only that can say more.
    Ask(WalletQuestion),
}

/// A question to the contract of a claimed wallet: `isValidSignature(digest, signature)` (ERC-1271).
pub struct WalletQuestion {
    /// Whom to ask.
    pub wallet: Address,
    /// Holds the wallet's address, so that the answer says nothing of any other wallet.
    pub digest: B256,
    /// 65 to [`LONGEST_SIGNATURE`] octets.
    pub signature: Zeroizing<Vec<u8>>,
    proven: Proven,
}

impl WalletQuestion {
    /// What is proved if the contract said yes.
    #[must_use]
    pub fn answered_yes(self) -> Proven {
        self.proven
    }
}

impl fmt::Debug for WalletQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WalletQuestion({}, [redacted])", self.wallet)
    }
}

/// Proves who a client is by a secret. Whether that principal is banned is for [`View::standing`] to say, so that a ban is not
/// mistaken for a failed proof.
///
/// `now` is the later of block time and wall clock in Unix seconds. What is cheap is checked first; a proof that has the right form
/// costs one signature recovery (token) or one multiplication (device password), and this asks nobody.
///
/// # Errors
/// [`Refusal`]. Each counts as one failed attempt if it [blames the client](Refusal::blames_client).
pub fn authenticate(
    claim: &Claim<'_>,
    site: &Site,
    view: &View,
    now: u64,
    accepts: &Accepts,
) -> Result<Finding, Refusal> {
    if claim.user_name.is_empty() || claim.password.is_empty() {
        return Err(Refusal::Missing);
    }
    let key = address_of(claim.user_name).ok_or(Refusal::UserName)?;
    match claim.password.len() {
        DEVICE_PASSWORD_CHARS => {
            let principal = by_device_password(claim.password, key, view, now)?;
            Ok(Finding::Proved(Proven { principal, token: None }))
        }
        _ => by_token(claim, key, site, view, now, accepts),
    }
}

fn by_token(
    claim: &Claim<'_>,
    key: Address,
    site: &Site,
    view: &View,
    now: u64,
    accepts: &Accepts,
) -> Result<Finding, Refusal> {
    let token = Token::decode(claim.password, accepts.contract_wallets)?;
    let (issued_at, expires_at) = (u64::from(token.issued_at), u64::from(token.expires_at));
    let life = expires_at.checked_sub(issued_at).filter(|&life| life > 0).ok_or(Refusal::Times)?;
    if issued_at > now.saturating_add(CLOCK_SKEW) {
        return Err(Refusal::NotYetValid);
    }
    if now >= expires_at {
        return Err(Refusal::Expired);
    }
    if life > accepts.longest_life {
        return Err(Refusal::LivesTooLong);
    }
    let digest = token_digest(site, claim.client_id, issued_at, expires_at);
    let mut id = Keccak256::new();
    id.update(key);
    id.update(digest);
    let used = TokenUse { id: id.finalize(), expires_at };
    let credential = Credential { kind: CredentialKind::Token, issued_at, expires_at };
    let signed = Signed { key, digest, signature: token.signature, credential, token: Some(used) };
    signed.judge(view, now, accepts, |wallet| {
        wallet_token_digest(site, wallet, claim.client_id, issued_at, expires_at)
    })
}

/// Proves who a client is by its answer to a challenge: `0x01 | address | signature`.
///
/// # Errors
/// [`Refusal`], as [`authenticate`].
pub fn judge_answer(
    answer: &[u8],
    challenge: &Challenge<'_>,
    site: &Site,
    view: &View,
    now: u64,
    accepts: &Accepts,
) -> Result<Finding, Refusal> {
    let (version, rest) = answer.split_first().ok_or(Refusal::Answer)?;
    let (key, signature) = rest.split_first_chunk::<20>().ok_or(Refusal::Answer)?;
    let key = Address::from(*key);
    let has_length = is_signature_length(signature.len(), accepts.contract_wallets);
    if *version != ANSWER_VERSION || key.is_zero() || !has_length {
        return Err(Refusal::Answer);
    }
    let expires_at = now.saturating_add(accepts.longest_life);
    let credential = Credential { kind: CredentialKind::Challenge, issued_at: now, expires_at };
    let digest = challenge_digest(site, challenge);
    let signature = Zeroizing::new(signature.to_vec());
    let signed = Signed { key, digest, signature, credential, token: None };
    signed.judge(view, now, accepts, |wallet| wallet_challenge_digest(site, wallet, challenge))
}

/// The answer to a challenge, of whoever can sign. `signature` is r, s, v with v 27 or 28, or what the contract of a wallet takes.
#[must_use]
pub fn encode_answer(key: Address, signature: &[u8]) -> Vec<u8> {
    [&[ANSWER_VERSION][..], key.as_slice(), signature].concat()
}

/// A claim that `key` made a signature.
struct Signed {
    key: Address,
    digest: B256,
    signature: Zeroizing<Vec<u8>>,
    credential: Credential,
    token: Option<TokenUse>,
}

impl Signed {
    fn judge(
        self,
        view: &View,
        now: u64,
        accepts: &Accepts,
        wallet_digest: impl FnOnce(Address) -> B256,
    ) -> Result<Finding, Refusal> {
        let Self { key, digest, signature, credential, token } = self;
        let is_by_key = match recover(&signature, &digest) {
            Ok(found) if found == key => true,
            _ if accepts.contract_wallets => false,
            Ok(_) => return Err(Refusal::Signer),
            Err(refusal) => return Err(refusal),
        };
        let wallet = view.wallet_behind(key, now)?;
        if wallet == key {
            let valid_from = |registry: &crate::Registry| registry.tokens_valid_from(wallet);
            if credential.issued_at < valid_from(&view.head).max(valid_from(&view.settled)) {
                return Err(Refusal::Invalidated);
            }
        }
        let principal = Principal { wallet, key, credential, country: None };
        if is_by_key {
            return Ok(Finding::Proved(Proven { principal, token }));
        }
        if wallet != key {
            // A device key acts by its own signature; its authorization on chain took one.
            return Err(Refusal::Signer);
        }
        let holds = credential.expires_at.min(now.saturating_add(WALLET_PROOF_HOLDS));
        let credential = Credential { expires_at: holds, ..credential };
        let proven = Proven { principal: Principal { credential, ..principal }, token };
        Ok(Finding::Ask(WalletQuestion {
            wallet,
            digest: wallet_digest(wallet),
            signature,
            proven,
        }))
    }
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

/// A token as a password. `signature` is r, s, v with v 27 or 28, or what the contract of a wallet takes.
#[must_use]
pub fn encode_token(issued_at: u32, expires_at: u32, signature: &[u8]) -> String {
    let mut octets = Zeroizing::new(Vec::with_capacity(TOKEN_HEADER + signature.len()));
    octets.push(TOKEN_VERSION);
    octets.extend_from_slice(&issued_at.to_be_bytes());
    octets.extend_from_slice(&expires_at.to_be_bytes());
    octets.extend_from_slice(signature);
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
    signature: Zeroizing<Vec<u8>>,
}

impl Token {
    fn decode(password: &[u8], contract_wallets: bool) -> Result<Self, Refusal> {
        // Nothing is decoded that is too long to be a token.
        let most = TOKEN_HEADER + LONGEST_SIGNATURE;
        if password.len() < TOKEN_CHARS || password.len() > most.div_ceil(3) * 4 {
            return Err(Refusal::Password);
        }
        let octets = URL_SAFE_NO_PAD.decode(password).map_err(|_| Refusal::Password)?;
        let octets = Zeroizing::new(octets);
        let (version, rest) = octets.split_first().ok_or(Refusal::Password)?;
        let (issued_at, rest) = rest.split_first_chunk().ok_or(Refusal::Password)?;
        let (expires_at, signature) = rest.split_first_chunk().ok_or(Refusal::Password)?;
        if !is_signature_length(signature.len(), contract_wallets) {
            return Err(Refusal::Password);
        }
        if *version != TOKEN_VERSION {
            return Err(Refusal::Version(*version));
        }
        Ok(Self {
            issued_at: u32::from_be_bytes(*issued_at),
            expires_at: u32::from_be_bytes(*expires_at),
            signature: Zeroizing::new(signature.to_vec()),
        })
    }
}

fn is_signature_length(octets: usize, contract_wallets: bool) -> bool {
    octets == SIGNATURE_OCTETS
        || (contract_wallets && (SIGNATURE_OCTETS..=LONGEST_SIGNATURE).contains(&octets))
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

/// The key that made the signature, in the one form that there is.
pub(crate) fn recover(signature: &[u8], digest: &B256) -> Result<Address, Refusal> {
    let signature: &[u8; SIGNATURE_OCTETS] =
        signature.try_into().map_err(|_| Refusal::Signature)?;
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
