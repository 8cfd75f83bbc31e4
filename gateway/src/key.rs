//! `flytrap-gateway key`: makes the gateway's keystore, and tells whose key a file holds.
//!
//! What is secret comes from a file that only its owner can read, or is typed at the terminal; never from an argument or the environment,
//! which every process of the machine can see.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use eyre::Result;
use flytrap_chain::keys::Key;

/// The key that signs what the gateway puts on chain.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key nobody had before, in a new keystore.
    New(Keystore),
    /// Put a key that exists into a new keystore. Ends without a change if the keystore exists.
    Import {
        #[command(flatten)]
        keystore: Keystore,
        /// File with the key, 64 hexadecimal digits, readable by you only. Without it the key is asked for at the terminal.
        #[arg(long, value_name = "FILE")]
        key_file: Option<PathBuf>,
    },
    /// Print the address of a key: what the broker's owner registers with `flytrap broker set-gateway`.
    Address {
        /// File with the key, 64 hexadecimal digits, readable by you only.
        #[arg(long, value_name = "FILE", conflicts_with = "keystore")]
        key_file: Option<PathBuf>,
        /// JSON keystore, as this program, geth, foundry and others write it.
        #[arg(long, value_name = "FILE", required_unless_present = "key_file")]
        keystore: Option<PathBuf>,
        /// File with the keystore's passphrase, readable by you only. Without it the passphrase is asked for at the terminal.
        #[arg(long, value_name = "FILE", requires = "keystore")]
        passphrase_file: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Keystore {
    /// The keystore to write: JSON, Web3 Secret Storage version 3, with mode 0600.
    #[arg(long, value_name = "FILE")]
    keystore: PathBuf,
    /// File with the passphrase, readable by you only. Without it the passphrase is asked for at the terminal, twice.
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Keystore {
    fn write(&self, key: &Key) -> Result<()> {
        key.write_keystore(&self.keystore, self.passphrase_file.as_deref())?;
        println!("{}", key.address());
        Ok(())
    }
}

impl KeyCommand {
    /// Prints the address and nothing else, so that scripts can use it.
    pub(crate) fn act(self) -> Result<()> {
        match self {
            Self::New(keystore) => keystore.write(&Key::random()),
            Self::Import { keystore, key_file } => {
                let key = match key_file {
                    Some(file) => Key::read(file, None)?,
                    None => Key::ask()?,
                };
                keystore.write(&key)
            }
            Self::Address { key_file, keystore, passphrase_file } => {
                let file = key_file.or(keystore).unwrap_or_default();
                println!("{}", Key::read(file, passphrase_file.as_deref())?.address());
                Ok(())
            }
        }
    }
}
