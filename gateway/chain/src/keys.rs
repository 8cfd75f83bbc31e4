//! Private keys from files: who may read the file is checked, what was read is never shown.
//!
//! A key file is either a keystore (JSON, Web3 Secret Storage version 3) with its passphrase in a file of its own or typed at a
//! terminal, or the key itself as 64 hexadecimal digits.

mod keystore;
mod shut;

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Read, Write},
    path::{Path, PathBuf},
};

use alloy::{
    primitives::{Address, B256},
    signers::{SignerSync, local::PrivateKeySigner},
};
use zeroize::Zeroizing;

pub use self::shut::shut_memory;

/// Most that a key or passphrase file may hold.
const MAX_FILE_OCTETS: u64 = 64 * 1024;
/// Shortest passphrase that a new keystore is made with.
const LEAST_PASSPHRASE: usize = 8;

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
    /// A keystore without a passphrase file, and no terminal to ask at.
    #[error(
        "keystore {path} needs its passphrase: name the file that holds it, or start this at a terminal to type it", path = .path.display()
    )]
    NoPassphrase {
        /// The keystore.
        path: PathBuf,
    },
    /// A key was to be typed where nobody can.
    #[error("no key file is named, and there is no terminal to type the key at: name one")]
    NoTerminal,
    /// A passphrase that guards nothing.
    #[error(
        "the passphrase has {octets} octets, wanted at least {LEAST_PASSPHRASE}: choose a longer one"
    )]
    Weak {
        /// Its length.
        octets: usize,
    },
    /// Typed twice, and differently.
    #[error("the two passphrases differ: nothing was written, try again")]
    Differ,
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
    /// Reads a key file. `passphrase` is the file with the passphrase of a keystore; line ends at its end do not belong to it.
    /// Without it the passphrase is asked for at the terminal, if there is one.
    ///
    /// # Errors
    /// [`KeyError`]; above all if others than the file's owner can read it.
    pub fn read(path: impl AsRef<Path>, passphrase: Option<&Path>) -> Result<Self, KeyError> {
        let path = path.as_ref();
        let text = secret(path)?;
        if text.trim_start().starts_with('{') {
            let words = match passphrase {
                Some(file) => secret_line(file)?,
                None => asked(path)?,
            };
            return keystore::open(&text, path, words.as_bytes());
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

    /// Writes the key into a new keystore that only this user can read, under a passphrase from a file, or typed twice at the terminal.
    ///
    /// # Errors
    /// [`KeyError`], also if the file exists: a key is never overwritten.
    pub fn write_keystore(
        &self,
        path: impl AsRef<Path>,
        passphrase: Option<&Path>,
    ) -> Result<(), KeyError> {
        let path = path.as_ref();
        let words = match passphrase {
            Some(file) => secret_line(file)?,
            None => {
                let (first, second) = (asked(path)?, prompt(path, "The same again: ")?);
                if first != second {
                    return Err(KeyError::Differ);
                }
                first
            }
        };
        if words.len() < LEAST_PASSPHRASE {
            return Err(KeyError::Weak { octets: words.len() });
        }
        let octets = Zeroizing::new(self.0.to_bytes().0);
        let text = keystore::sealed(octets.as_slice(), words.as_bytes());
        let text = text.map_err(|source| KeyError::File { path: path.into(), source })?;
        write_new(path, text.as_bytes())
    }

    /// A key of 64 hexadecimal digits typed at the terminal.
    ///
    /// # Errors
    /// [`KeyError`] if there is no terminal, or what was typed is no key.
    pub fn ask() -> Result<Self, KeyError> {
        if !io::stdin().is_terminal() {
            return Err(KeyError::NoTerminal);
        }
        let path = Path::new("(typed)");
        let digits = prompt(path, "Private key, 64 hexadecimal digits (not shown): ")?;
        Self::from_hex(&digits).ok_or_else(|| KeyError::NoKey { path: path.into() })
    }

    /// Writes the key as hexadecimal digits to a new file that only this user can read.
    ///
    /// # Errors
    /// [`KeyError::File`], also if the file exists: a key is never overwritten.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<(), KeyError> {
        let octets = Zeroizing::new(self.0.to_bytes().0);
        let digits = Zeroizing::new(alloy::hex::encode(octets.as_slice()));
        write_new(path.as_ref(), digits.as_bytes())
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

/// Text of a file with a secret, without the line ends at its end.
fn secret_line(path: &Path) -> Result<Zeroizing<String>, KeyError> {
    let mut text = secret(path)?;
    let length = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(length);
    Ok(text)
}

fn asked(keystore: &Path) -> Result<Zeroizing<String>, KeyError> {
    prompt(keystore, &format!("Passphrase of {} (not shown): ", keystore.display()))
}

/// What is typed at the terminal, without an echo. Where nobody sits, nobody is waited for.
fn prompt(path: &Path, words: &str) -> Result<Zeroizing<String>, KeyError> {
    if !io::stdin().is_terminal() {
        return Err(KeyError::NoPassphrase { path: path.into() });
    }
    let typed = rpassword::prompt_password(words);
    typed.map(Zeroizing::new).map_err(|source| KeyError::File { path: path.into(), source })
}

/// Writes a file that only its owner can read, and that was not there.
fn write_new(path: &Path, octets: &[u8]) -> Result<(), KeyError> {
    let failed = |source| KeyError::File { path: path.into(), source };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(failed)?;
    file.write_all(octets).and_then(|()| file.sync_all()).map_err(failed)
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
    fn a_damaged_keystore_and_an_open_passphrase_file_are_refused() {
        let (_dir, path) = written("{\"version\":3}", 0o600);
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
    fn a_new_keystore_is_private_opens_with_its_passphrase_and_is_never_overwritten() {
        let (dir, words) = written("correct horse\n", 0o600);
        let (_dir2, wrong) = written("correct house\n", 0o600);
        let path = dir.path().join("keystore.json");
        let key = Key::random();
        key.write_keystore(&path, Some(&words)).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(Key::read(&path, Some(&words)).unwrap().address(), key.address());
        assert!(matches!(Key::read(&path, Some(&wrong)), Err(KeyError::Locked { .. })));
        let again = Key::random().write_keystore(&path, Some(&words));
        assert!(matches!(again, Err(KeyError::File { .. })), "{again:?}");
        assert_eq!(Key::read(&path, Some(&words)).unwrap().address(), key.address());
        let text = std::fs::read_to_string(&path).unwrap();
        let digits = alloy::hex::encode(key.signer().to_bytes());
        assert!(
            text.contains("\"version\":3") && !text.contains(&digits) && !text.contains("horse")
        );
    }

    #[test]
    fn a_short_passphrase_is_refused_and_nothing_is_written() {
        for (words, taken) in [("1234567", false), ("12345678", true)] {
            let (dir, file) = written(words, 0o600);
            let path = dir.path().join("keystore.json");
            let made = Key::random().write_keystore(&path, Some(&file));
            match made {
                Ok(()) => assert!(taken),
                Err(KeyError::Weak { octets: 7 }) => assert!(!taken),
                Err(other) => panic!("{other}"),
            }
            assert_eq!(path.exists(), taken);
        }
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
