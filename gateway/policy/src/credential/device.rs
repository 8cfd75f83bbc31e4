//! Device passwords: the seed of a device key in 27 characters.

use std::fmt;

use alloy_primitives::{Address, B256, Keccak256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use k256::ecdsa::SigningKey;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Refusal, decode_base64};

/// Characters of a device password.
pub const DEVICE_PASSWORD_CHARS: usize = 27;

/// Domain of the derivation.
const DERIVATION: &str = "FlyTrap device";

/// The key that a device password stands for: its private key is `keccak256("FlyTrap device" | seed)`.
///
/// The owner's wallet authorizes its address on chain, for which the key signs its consent; the address is the
/// device's user name. Wiped from memory when dropped.
pub struct DeviceKey(SigningKey);

impl DeviceKey {
    /// The address that a wallet authorizes.
    #[must_use]
    pub fn address(&self) -> Address {
        Address::from_public_key(self.0.verifying_key())
    }

    /// Signs a digest: r, s, v with a low s and v 27 or 28. `None` for digests that cannot be signed, of which no
    /// one knows any.
    #[must_use]
    pub fn sign(&self, digest: &B256) -> Option<[u8; 65]> {
        let (signature, recovery) = self.0.sign_prehash_recoverable(digest.as_slice()).ok()?;
        let mut octets = [0; 65];
        octets[..64].copy_from_slice(&signature.to_bytes());
        octets[64] = 27 + recovery.to_byte();
        Some(octets)
    }

    /// The private key, for tools that hand it to a signer.
    #[must_use]
    pub fn secret(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = self.0.to_bytes();
        let secret = Zeroizing::new(bytes.into());
        bytes.zeroize();
        secret
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({}, [redacted])", self.address())
    }
}

/// The password of a seed, which must be 20 random octets.
#[must_use]
pub fn device_password(seed: &[u8; 20]) -> String {
    URL_SAFE_NO_PAD.encode(seed)
}

/// Derives the key of a device password.
///
/// # Errors
/// [`Refusal::Password`] if it is none.
pub fn device_key(password: &[u8]) -> Result<DeviceKey, Refusal> {
    let seed = decode_base64::<20>(password)?;
    let mut hasher = Keccak256::new();
    hasher.update(DERIVATION);
    hasher.update(seed.as_slice());
    let mut secret = hasher.finalize();
    let key = SigningKey::from_slice(secret.as_slice()).map_err(|_| Refusal::Password);
    secret.0.zeroize();
    key.map(DeviceKey)
}
