//! Who is who on a site: anvil's well-known accounts by role, and the proofs they log in with.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use alloy::primitives::{Address, U256};
use eyre::{Result, eyre};
use flytrap_chain::keys::Key;
use flytrap_policy::credential;

use crate::authority::write_secret;
use crate::chain::Chain;
use crate::ground::Ground;

/// The accounts of a site. Everyone has 10 000 ether of the development chain.
#[derive(Clone, Debug)]
pub struct Wallets {
    /// Owns the broker; deployed the contracts.
    pub broker_owner: Key,
    /// The gateway's key.
    pub gateway: Key,
    /// Registers topics.
    pub topic_owner: Key,
    /// Buys.
    pub reader: Key,
    /// Publishes.
    pub publisher: Key,
    /// Has nothing.
    pub stranger: Key,
    /// A second reader.
    pub other_reader: Key,
    /// The key of a second gateway.
    pub other_gateway: Key,
    /// Two without a role.
    pub spare: [Key; 2],
}

impl Wallets {
    pub(crate) fn of(chain: &Chain) -> Result<Self> {
        Ok(Self {
            broker_owner: chain.key(0)?,
            gateway: chain.key(1)?,
            topic_owner: chain.key(2)?,
            reader: chain.key(3)?,
            publisher: chain.key(4)?,
            stranger: chain.key(5)?,
            other_reader: chain.key(6)?,
            other_gateway: chain.key(7)?,
            spare: [chain.key(8)?, chain.key(9)?],
        })
    }

    /// Writes every key into a file of its own, as the command line tool reads them; returns the folder.
    pub(crate) fn write(&self, ground: &Ground) -> Result<PathBuf> {
        let dir = ground.path("keys");
        std::fs::create_dir_all(&dir)?;
        for (role, key) in self.roles() {
            write_secret(&key_file(&dir, role), &format!("{}\n", key.signer().to_bytes()))?;
        }
        Ok(dir)
    }

    /// The names of the roles, as in the key files `<role>.key`.
    #[must_use]
    pub fn roles(&self) -> [(&'static str, &Key); 8] {
        [
            ("broker-owner", &self.broker_owner),
            ("gateway", &self.gateway),
            ("topic-owner", &self.topic_owner),
            ("reader", &self.reader),
            ("publisher", &self.publisher),
            ("stranger", &self.stranger),
            ("other-reader", &self.other_reader),
            ("other-gateway", &self.other_gateway),
        ]
    }
}

pub(crate) fn key_file(dir: &Path, role: &str) -> PathBuf {
    dir.join(format!("{role}.key"))
}

/// What a stock client is given to log in with.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// User name: the signing key's address.
    pub user_name: String,
    /// Password: a token, or a device password.
    pub password: String,
    /// The client id that a token is bound to; a device password goes with any.
    pub client_id: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("user_name", &self.user_name)
            .field("password", &"[redacted]")
            .field("client_id", &self.client_id)
            .finish()
    }
}

/// Makes a token for `client_id`, signed by `key`, from a minute ago until `life` seconds from now.
///
/// # Errors
/// If the end lies past 2106, where tokens end.
pub fn token(key: &Key, site: &credential::Site, client_id: &str, life: u64) -> Result<Login> {
    let now = unix_now();
    token_between(key, site, client_id, now.saturating_sub(60), now + life)
}

/// Makes a token with exactly these ends, also worthless ones.
///
/// # Errors
/// If an end lies past 2106.
pub fn token_between(
    key: &Key,
    site: &credential::Site,
    client_id: &str,
    issued_at: u64,
    expires_at: u64,
) -> Result<Login> {
    let signature = key.sign(&credential::token_digest(site, client_id, issued_at, expires_at));
    let password =
        credential::encode_token(u32::try_from(issued_at)?, u32::try_from(expires_at)?, &signature);
    Ok(Login { user_name: key.address().to_string(), password, client_id: client_id.into() })
}

/// A device: its password and the key that the password stands for.
#[derive(Debug)]
pub struct Device {
    /// How it logs in.
    pub login: Login,
    /// The key, for the consent that the contract wants.
    pub key: Key,
}

impl Device {
    /// Makes a device password from 20 octets, which have to be random.
    ///
    /// # Errors
    /// If the seed gives no key (one in 2^128).
    pub fn from_seed(seed: &[u8; 20], client_id: &str) -> Result<Self> {
        let password = credential::device_password(seed);
        let key =
            credential::device_key(password.as_bytes()).map_err(|refusal| eyre!("{refusal}"))?;
        let key = Key::from_hex(&alloy::hex::encode(key.secret().as_slice()))
            .ok_or_else(|| eyre!("the seed gives no key"))?;
        let login =
            Login { user_name: key.address().to_string(), password, client_id: client_id.into() };
        Ok(Self { login, key })
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Address {
        self.key.address()
    }
}

/// The place that proofs on this site are made for.
pub(crate) fn place(chain_id: u64, broker_registry: Address, broker_id: U256) -> credential::Site {
    credential::Site { chain_id, broker_registry, broker_id }
}

/// The wall clock, Unix seconds.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
