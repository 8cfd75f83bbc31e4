//! What is signed about device keys: the consent of a key, and what a wallet lets others hand in for it.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol,
    sol_types::{Eip712Domain, SolStruct, eip712_domain},
};

use super::{Wallet, WalletError};
use crate::{Deployment, keys::Key, transact::Done};

sol! {
    /// What a device key signs to consent to act for a wallet.
    struct Device {
        address wallet;
    }

    struct AuthorizeDevices {
        address wallet;
        address[] devices;
        uint64 until;
        uint256 nonce;
        uint64 deadline;
    }

    struct RevokeAllDevices {
        address wallet;
        uint256 nonce;
        uint64 deadline;
    }
}

fn domain(deployment: &Deployment) -> Eip712Domain {
    eip712_domain! {
        name: "FlyTrap",
        version: "1",
        chain_id: deployment.chain_id,
        verifying_contract: deployment.device_registry,
    }
}

/// The consent of a device key to act for a wallet, as `authorizeDevice` wants it.
#[must_use]
pub fn device_consent(deployment: &Deployment, wallet: Address, device: &Key) -> Bytes {
    let digest = consent_digest(deployment, wallet);
    Bytes::copy_from_slice(&device.sign(&digest))
}

/// What a device key signs to consent to act for a wallet.
#[must_use]
pub fn consent_digest(deployment: &Deployment, wallet: Address) -> B256 {
    Device { wallet }.eip712_signing_hash(&domain(deployment))
}

/// What a wallet signs, with its next nonce, so that another may authorize device keys for it.
#[must_use]
pub fn authorize_devices_digest(
    deployment: &Deployment,
    wallet: Address,
    devices: &[Address],
    until: u64,
    nonce: U256,
    deadline: u64,
) -> B256 {
    let signed = AuthorizeDevices { wallet, devices: devices.to_vec(), until, nonce, deadline };
    signed.eip712_signing_hash(&domain(deployment))
}

/// What a wallet signs, with its next nonce, so that another may end all its device keys.
#[must_use]
pub fn revoke_all_devices_digest(
    deployment: &Deployment,
    wallet: Address,
    nonce: U256,
    deadline: u64,
) -> B256 {
    RevokeAllDevices { wallet, nonce, deadline }.eip712_signing_hash(&domain(deployment))
}

impl Wallet {
    /// Authorizes device keys that are at hand: makes their consents and sends them, in one transaction.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn authorize_device_keys(
        &self,
        devices: &[&Key],
        until: u64,
    ) -> Result<Done, WalletError> {
        let addresses: Vec<Address> = devices.iter().map(|device| device.address()).collect();
        let consent = |device: &&Key| device_consent(self.deployment(), self.address(), device);
        let consents: Vec<Bytes> = devices.iter().map(consent).collect();
        self.authorize_devices(&addresses, until, &consents).await
    }

    /// As [`Self::authorize_device_keys`], of one.
    ///
    /// # Errors
    /// [`WalletError`].
    pub async fn authorize_device_key(
        &self,
        device: &Key,
        until: u64,
    ) -> Result<Done, WalletError> {
        let consent = device_consent(self.deployment(), self.address(), device);
        self.authorize_device(device.address(), until, &consent).await
    }
}
