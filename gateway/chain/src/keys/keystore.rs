//! Keystores: Web3 Secret Storage, version 3. The cryptography is `eth-keystore`'s; what it takes on trust is checked here first, so that a
//! damaged or hostile file is an error and neither a panic nor all of the memory.

use std::{io, path::Path};

use alloy::signers::{k256::elliptic_curve::rand_core::OsRng, local::PrivateKeySigner};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{Key, KeyError};

/// Most memory that deriving the key may take: four times what geth's own keystores take.
const MAX_SCRYPT_OCTETS: u64 = 1 << 30;
/// Most rounds of PBKDF2: some seconds.
const MAX_ROUNDS: u32 = 10_000_000;

/// As much of a keystore as its reader relies on.
#[derive(Deserialize)]
struct Shape {
    version: u32,
    crypto: Crypto,
}

#[derive(Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdfparams: KdfParams,
    mac: String,
}

#[derive(Deserialize)]
struct CipherParams {
    iv: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum KdfParams {
    Pbkdf2 { c: u32, dklen: u32, prf: String },
    Scrypt { dklen: u32, n: u64, p: u64, r: u64 },
}

/// What is wrong with a keystore, if anything.
fn fault(text: &str) -> Option<String> {
    let shape: Shape = match serde_json::from_str(text) {
        Ok(shape) => shape,
        // Where it stopped making sense, and none of what is in it.
        Err(error) => {
            return Some(format!("no keystore: line {} column {}", error.line(), error.column()));
        }
    };
    let crypto = &shape.crypto;
    let octets = |digits: &str| alloy::hex::decode(digits).map_or(0, |octets| octets.len());
    let lengths = [
        ("iv", octets(&crypto.cipherparams.iv), 16),
        ("ciphertext", octets(&crypto.ciphertext), 32),
        ("mac", octets(&crypto.mac), 32),
    ];
    if shape.version != 3 {
        return Some(format!("version {}, wanted 3", shape.version));
    }
    if crypto.cipher != "aes-128-ctr" {
        return Some("another cipher than aes-128-ctr".to_owned());
    }
    if let Some((name, found, wanted)) = lengths.iter().find(|(_, found, wanted)| found != wanted) {
        return Some(format!("`{name}` of {found} octets, wanted {wanted}"));
    }
    match &crypto.kdfparams {
        KdfParams::Pbkdf2 { c, dklen: 32, prf } if prf == "hmac-sha256" => {
            (*c == 0 || *c > MAX_ROUNDS).then(|| format!("{c} rounds, wanted 1 to {MAX_ROUNDS}"))
        }
        KdfParams::Scrypt { dklen: 32, n, p, r } => {
            let memory = n.saturating_mul(*r).saturating_mul(128).saturating_mul((*p).max(1));
            let is_sane = n.is_power_of_two() && *n > 1 && *r > 0 && *p > 0;
            (!is_sane || memory > MAX_SCRYPT_OCTETS).then(|| {
                format!(
                    "scrypt with n {n}, r {r}, p {p}, wanted at most {MAX_SCRYPT_OCTETS} octets"
                )
            })
        }
        _ => Some("a derived key of another kind than 32 octets by scrypt or hmac-sha256".into()),
    }
}

/// The key in a keystore.
pub(super) fn open(text: &str, path: &Path, passphrase: &[u8]) -> Result<Key, KeyError> {
    let locked = |detail: String| KeyError::Locked { path: path.into(), detail };
    if let Some(fault) = fault(text) {
        return Err(locked(fault));
    }
    let octets = eth_keystore::decrypt_key(path, passphrase);
    let octets = Zeroizing::new(octets.map_err(|error| locked(error.to_string()))?);
    let signer = PrivateKeySigner::from_slice(&octets);
    signer.map(Key).map_err(|_| locked("what it holds is no key".to_owned()))
}

/// A keystore as text. It is made in a directory of its own, since where it is to be in the end others may read what is being written.
pub(super) fn sealed(key: &[u8], passphrase: &[u8]) -> io::Result<String> {
    let place = tempfile::tempdir()?;
    eth_keystore::encrypt_key(place.path(), &mut OsRng, key, passphrase, Some("keystore"))
        .map_err(|error| io::Error::other(error.to_string()))?;
    std::fs::read_to_string(place.path().join("keystore"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_its_reader_would_panic_at_or_never_end_with_is_refused() {
        let key = [7; 32];
        let whole = sealed(&key, b"passphrase").unwrap();
        assert_eq!(fault(&whole), None);
        let (mut value, mut cases) =
            (serde_json::from_str::<serde_json::Value>(&whole).unwrap(), 0);
        let mut wrong = |pointer: &str, with: serde_json::Value| {
            let place = value.pointer_mut(pointer).unwrap();
            let before = std::mem::replace(place, with);
            let text = value.to_string();
            let path = Path::new("keystore");
            assert!(fault(&text).is_some(), "{text}");
            assert!(matches!(open(&text, path, b"passphrase"), Err(KeyError::Locked { .. })));
            *value.pointer_mut(pointer).unwrap() = before;
            cases += 1;
        };
        wrong("/version", 4.into());
        wrong("/crypto/cipher", "aes-256-cbc".into());
        wrong("/crypto/cipherparams/iv", "00".into());
        wrong("/crypto/ciphertext", "".into());
        wrong("/crypto/mac", "zz".into());
        for (name, with) in [("n", 3), ("n", 1), ("n", 1 << 30), ("r", 0), ("p", 0), ("dklen", 8)] {
            wrong(&format!("/crypto/kdfparams/{name}"), with.into());
        }
        assert_eq!(cases, 11);
        for text in ["{", "{}", "[]", "{\"version\":3}"] {
            assert!(fault(text).is_some(), "{text}");
        }
    }

    #[test]
    fn no_cut_keystore_panics_or_opens() {
        let whole = sealed(&[7; 32], b"passphrase").unwrap();
        for end in 0..whole.len() {
            assert!(fault(&whole[..end]).is_some(), "{}", &whole[..end]);
        }
    }
}
