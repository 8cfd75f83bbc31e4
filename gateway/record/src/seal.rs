//! What is personal in a record, sealed under a key of the person it is about.
//!
//! Whoever deletes the key has erased what it sealed, from every copy and every export; the record's hash stands on the sealed octets
//! and proves the same as before.

use alloy_primitives::{Address, B256, Bytes, Keccak256};
use alloy_sol_types::{SolValue as _, sol};
use chacha20poly1305::aead::{Aead as _, Payload};
use chacha20poly1305::{Key, KeyInit as _, XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

sol! {
    /// What is sealed, as octets: no longer than the three parts and some 200 octets, whatever they hold.
    struct Encoded {
        bytes32 origin;
        string clientId;
        string name;
    }
}

/// Whom a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A wallet that has proved itself.
    Wallet(Address),
    /// A network origin, by its keyed pseudonym, where nobody has proved anything.
    Origin(B256),
}

impl Subject {
    /// What finds its key in a store, without saying whom it belongs to.
    #[must_use]
    pub fn tag(&self, pseudonym_key: &[u8; 32]) -> B256 {
        let mut hasher = Keccak256::new();
        hasher.update(b"FlyTrap subject");
        hasher.update(pseudonym_key);
        match self {
            Self::Wallet(wallet) => {
                hasher.update([0]);
                hasher.update(wallet);
            }
            Self::Origin(origin) => {
                hasher.update([1]);
                hasher.update(origin);
            }
        }
        hasher.finalize()
    }
}

/// What is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Personal {
    /// Keyed pseudonym of the client's address.
    pub origin: B256,
    /// Client id as sent, cut to [`MOST_NAME`] octets.
    pub client_id: String,
    /// Topic name or filter, where all that the record counts had the same one; cut as the client id.
    pub name: String,
}

/// Octets that are kept of a client id or a name.
pub const MOST_NAME: usize = 1_024;

/// A subject's key. Overwritten when dropped.
#[derive(Clone)]
pub struct SubjectKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for SubjectKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SubjectKey([redacted])")
    }
}

impl SubjectKey {
    /// A key of these octets, which must be random.
    #[must_use]
    pub fn new(octets: [u8; 32]) -> Self {
        Self(Zeroizing::new(octets))
    }

    /// Its octets, for the store.
    #[must_use]
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }

    /// Seals what belongs to a record of a gateway: a random nonce, which no copy of the file that comes back can make come again, and the sealed
    /// octets, bound to gateway and number.
    #[must_use]
    pub fn seal(&self, gateway: Address, index: u64, personal: &Personal) -> Bytes {
        let cut = |text: &str| text[..text.floor_char_boundary(MOST_NAME)].to_owned();
        let plain = Encoded {
            origin: personal.origin,
            clientId: cut(&personal.client_id),
            name: cut(&personal.name),
        }
        .abi_encode();
        let nonce: [u8; NONCE_OCTETS] = rand::random();
        let aad = place(gateway, index);
        let payload = Payload { msg: &plain, aad: &aad };
        // Only gigabytes of text cannot be sealed.
        let sealed = self.cipher().encrypt(XNonce::from_slice(&nonce), payload).unwrap_or_default();
        [&nonce[..], &sealed].concat().into()
    }

    /// What was sealed for this record of this gateway; `None` if not with this key, or changed since.
    #[must_use]
    pub fn open(&self, gateway: Address, index: u64, sealed: &[u8]) -> Option<Personal> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_OCTETS)?;
        let aad = place(gateway, index);
        let payload = Payload { msg: sealed, aad: &aad };
        let plain = self.cipher().decrypt(XNonce::from_slice(nonce), payload).ok()?;
        let plain = Zeroizing::new(plain);
        let Encoded { origin, clientId: client_id, name } = Encoded::abi_decode(&plain).ok()?;
        Some(Personal { origin, client_id, name })
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(Key::from_slice(&*self.0))
    }
}

/// Octets of a nonce, so many that random ones never meet.
const NONCE_OCTETS: usize = 24;

/// What a sealed part belongs to.
fn place(gateway: Address, index: u64) -> [u8; 28] {
    let mut place = [0; 28];
    place[..20].copy_from_slice(gateway.as_slice());
    place[20..].copy_from_slice(&index.to_be_bytes());
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Address = Address::repeat_byte(9);

    fn personal() -> Personal {
        Personal {
            origin: B256::repeat_byte(7),
            client_id: "pump-7".to_owned(),
            name: "hospital/w1/hr".to_owned(),
        }
    }

    #[test]
    fn only_the_same_key_and_record_open_what_was_sealed() {
        let (key, other) = (SubjectKey::new([1; 32]), SubjectKey::new([2; 32]));
        let sealed = key.seal(HERE, 9, &personal());
        assert_eq!(key.open(HERE, 9, &sealed), Some(personal()));
        assert_eq!(key.open(HERE, 10, &sealed), None, "moved to another record");
        assert_eq!(key.open(Address::ZERO, 9, &sealed), None, "moved to another gateway");
        assert_eq!(other.open(HERE, 9, &sealed), None, "another subject's key");
        for at in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[at] ^= 1;
            assert_eq!(key.open(HERE, 9, &changed), None, "octet {at} changed");
        }
    }

    #[test]
    fn nothing_personal_is_to_be_read_in_what_was_sealed() {
        let sealed = SubjectKey::new([1; 32]).seal(HERE, 9, &personal());
        for secret in ["pump-7", "hospital"] {
            assert!(!sealed.windows(secret.len()).any(|part| part == secret.as_bytes()));
        }
    }

    #[test]
    fn long_names_are_cut_between_characters_and_always_fit() {
        let long =
            Personal { client_id: "ä".repeat(40_000), name: "\u{1}".repeat(70_000), ..personal() };
        let key = SubjectKey::new([1; 32]);
        let sealed = key.seal(HERE, 1, &long);
        assert!(sealed.len() <= crate::record::MOST_PERSONAL, "{} octets", sealed.len());
        let opened = key.open(HERE, 1, &sealed).expect("sealed");
        assert_eq!((opened.client_id, opened.name), ("ä".repeat(512), "\u{1}".repeat(MOST_NAME)));
    }

    #[test]
    fn tags_differ_by_subject_and_by_key() {
        let wallet = Subject::Wallet(Address::repeat_byte(1));
        let origin = Subject::Origin(B256::repeat_byte(1));
        let tags = [wallet.tag(&[0; 32]), wallet.tag(&[1; 32]), origin.tag(&[0; 32])];
        assert_eq!(tags.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        assert_eq!(wallet.tag(&[0; 32]), tags[0]);
    }
}
