//! Private keys from files: who may read the file is checked, what was read is never shown.
//!
//! A key file is either a keystore (JSON, Web3 Secret Storage) with its passphrase in a file of its own, or the key itself as 64
//! hexadecimal digits.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use alloy::{
    primitives::{Address, B256},
    signers::{SignerSync, local::PrivateKeySigner},
};
use zeroize::Zeroizing;

/// Most that a key or passphrase file may hold.
const MAX_FILE_OCTETS: u64 = 64 * 1024;

/// A private key that can sign. Its memory is wiped when it goes, and it prints only its address.
#[derive(Clone)]
pub struct Key(PrivateKeySigner);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read or written.
    #[error("key file {path}: {source}: correct the path, or make the file readable for this user", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others on the machine could read it.
    #[error(
        "key file {path} has mode {mode:04o}, wanted 0600: others can read it; `chmod 600 {path}`, and think of the key as known if \
         they are not trusted", path = .path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A keystore without a passphrase file.
    #[error("key file {path} is a keystore, and no passphrase file is named: name one", path = .path.display())]
    NoPassphrase {
        /// The keystore.
        path: PathBuf,
    },
    /// Neither a keystore nor a key.
    #[error("key file {path} holds neither a keystore (JSON) nor a key of 64 hexadecimal digits", path = .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The keystore does not open.
    #[error("keystore {path} does not open: {detail}: is this its passphrase?", path = .path.display())]
    Locked {
        /// The keystore.
        path: PathBuf,
        /// Why.
        detail: String,
    },
}

impl Key {
    /// Reads a key file. `passphrase` is the file with the passphrase, needed for a keystore only; line ends at its end do
    /// not belong to it.
    ///
    /// # Errors
    /// [`KeyError`]; above all if others than the file's owner can read it.
    pub fn read(path: impl AsRef<Path>, passphrase: Option<&Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let text = secret(path)?;
        if text.trim_start().starts_with('{') {
            let passphrase =
                passphrase.ok_or_else(|| KeyError::NoPassphrase { path: path.into() })?;
            let words = secret(passphrase)?;
            let words = words.trim_end_matches(['\r', '\n']);
            return PrivateKeySigner::decrypt_keystore(path, words).map(Self).map_err(|error| {
                KeyError::Locked { path: path.into(), detail: error.to_string() }
            });
        }
        Self::from_hex(&text).ok_or_else(|| KeyError::NoKey { path: path.into() })
    }

    /// A key of 64 hexadecimal digits, with or without `0x`.
    #[must_use]
    pub fn from_hex(digits: &str) -> Option<Self> {
        let digits = digits.trim();
        let digits = digits.strip_prefix("0x").unwrap_or(digits);
        if digits.len() != 64 {
            return None;
        }
        let mut octets = Zeroizing::new([0; 32]);
        alloy::hex::decode_to_slice(digits, octets.as_mut_slice()).ok()?;
        PrivateKeySigner::from_slice(octets.as_slice()).ok().map(Self)
    }

    /// A key nobody had before.
    #[must_use]
    pub fn random() -> Self {
        Self(PrivateKeySigner::random())
    }

    /// Writes the key as hexadecimal digits to a new file that only this user can read.
    ///
    /// # Errors
    /// [`KeyError::File`], also if the file exists: a key is never overwritten.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), KeyError> {
        let path = path.as_ref();
        let failed = |source| KeyError::File { path: path.into(), source };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(failed)?;
        let octets = Zeroizing::new(self.0.to_bytes().0);
        let digits = Zeroizing::new(alloy::hex::encode(octets.as_slice()));
        file.write_all(digits.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Address of the key.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.0.address()
    }

    /// Signs a digest: r, s and v, v being 27 or 28, s the lower of the two.
    #[must_use]
    pub fn sign(&self, digest: &B256) -> [u8; 65] {
        self.0.sign_hash_sync(digest).expect("signing a digest with a valid key").as_bytes()
    }

    /// For code that takes a signer of alloy's.
    #[must_use]
    pub const fn signer(&self) -> &PrivateKeySigner {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, [redacted])", self.address())
    }
}

impl From<PrivateKeySigner> for Key {
    fn from(signer: PrivateKeySigner) -> Self {
        Self(signer)
    }
}

/// Text of a file that nobody but its owner may read.
fn secret(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let failed = |source| KeyError::File { path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyError::Exposed { path: path.into(), mode });
        }
    }
    let mut text = Zeroizing::new(String::with_capacity(4096));
    file.take(MAX_FILE_OCTETS).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // The first account of every development chain.
    const DIGITS: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    const ADDRESS: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_key_of_hexadecimal_digits_is_read_with_and_without_prefix() {
        for text in [DIGITS.to_owned(), format!("0x{DIGITS}\n")] {
            let (_dir, path) = written(&text, 0o600);
            assert_eq!(Key::read(path, None).unwrap().address().to_string(), ADDRESS);
        }
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        for (mode, accepted) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            let (_dir, path) = written(DIGITS, mode);
            match Key::read(&path, None) {
                Ok(_) => assert!(accepted, "{mode:o}"),
                Err(KeyError::Exposed { mode: found, .. }) => {
                    assert!(!accepted, "{mode:o}");
                    assert_eq!(found, mode);
                }
                Err(other) => panic!("{other}"),
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_quoted() {
        let long = format!("{DIGITS}00");
        let out_of_range = "f".repeat(64);
        for text in ["", "0x12", &DIGITS[..63], &long, &out_of_range, &"0".repeat(64)] {
            let (_dir, path) = written(text, 0o600);
            let error = Key::read(path, None).unwrap_err();
            assert!(matches!(error, KeyError::NoKey { .. }), "{error}");
            assert!(text.len() < 10 || !error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn a_keystore_needs_its_passphrase_file() {
        let (_dir, path) = written("{\"version\":3}", 0o600);
        assert!(matches!(Key::read(&path, None), Err(KeyError::NoPassphrase { .. })));
        let (_dir2, passphrase) = written("secret\n", 0o600);
        assert!(matches!(Key::read(&path, Some(&passphrase)), Err(KeyError::Locked { .. })));
        let (_dir3, exposed) = written("secret\n", 0o644);
        assert!(matches!(Key::read(&path, Some(&exposed)), Err(KeyError::Exposed { .. })));
    }

    /// The test vector of the Web3 Secret Storage definition.
    #[test]
    fn a_keystore_opens_with_its_passphrase_and_with_no_other() {
        let keystore = r#"{"crypto":{"cipher":"aes-128-ctr",
            "cipherparams":{"iv":"6087dab2f9fdbbfaddc31a909735c1e6"},
            "ciphertext":"5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf":"pbkdf2","kdfparams":{"c":262144,"dklen":32,"prf":"hmac-sha256",
            "salt":"ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"},
            "mac":"517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"},
            "id":"3198bc9c-6672-5ab3-d995-4942343ae5b6","version":3}"#;
        let digits = "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d";
        let (_dir, path) = written(keystore, 0o600);
        let (_dir2, right) = written("testpassword\n", 0o600);
        let (_dir3, wrong) = written("testpassword ", 0o600);
        let key = Key::read(&path, Some(&right)).unwrap();
        assert_eq!(key.address(), Key::from_hex(digits).unwrap().address());
        assert!(matches!(Key::read(&path, Some(&wrong)), Err(KeyError::Locked { .. })));
    }

    #[test]
    fn a_key_prints_its_address_only() {
        let key = Key::from_hex(DIGITS).unwrap();
        assert_eq!(format!("{key:?}"), format!("Key({ADDRESS}, [redacted])"));
    }

    #[test]
    fn a_written_key_is_private_read_back_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let key = Key::random();
        key.write(&path).unwrap();
        assert_eq!(Key::read(&path, None).unwrap().address(), key.address());
        assert!(matches!(Key::random().write(&path), Err(KeyError::File { .. })));
        assert_eq!(Key::read(&path, None).unwrap().address(), key.address());
    }
}
