//! Who signs the gateway's transactions: a key in this process, a signer elsewhere, or a key management service.
//!
//! Wherever the signature comes from, what is sent is checked here first: it is the very transaction that was asked for, and the signature
//! is that of the address that the signer is known by. So a signer that errs, or that someone has taken over, cannot make the gateway
//! send anything else.

mod remote;

use std::{fmt, sync::Arc};

use alloy::{
    consensus::{SignableTransaction, TxEip1559, TxEnvelope, transaction::SignerRecoverable},
    eips::Encodable2718,
    primitives::{Address, B256, Bytes},
};

pub use self::remote::{RemoteSigner, RemoteSignerConfig};
use crate::{keys::Key, rpc::RpcError, transact};

/// Signs transactions for one address. Cheap to clone.
#[derive(Clone)]
pub enum Signer {
    /// A key in this process.
    Local(Key),
    /// A signer that is asked by JSON-RPC, such as Web3Signer.
    Remote(Arc<RemoteSigner>),
    /// A key management service, or whatever else can sign a digest.
    Service(Arc<dyn alloy::signers::Signer + Send + Sync>),
}

/// Why there is no signature.
#[derive(Debug, thiserror::Error)]
pub enum SignerError {
    /// It did not answer, or refused.
    #[error(
        "the signer gave no signature: {0}: is it up, is its address right, does it hold the key?"
    )]
    Away(String),
    /// It answered something else than what was asked for. Nothing was sent.
    #[error("the signer's answer is refused: {0}: see who has changed the signer or its keys")]
    Wrong(String),
}

impl From<RpcError> for SignerError {
    fn from(error: RpcError) -> Self {
        match error {
            RpcError::Unusable { .. } => Self::Wrong(error.to_string()),
            other => Self::Away(other.to_string()),
        }
    }
}

/// A signed transaction as it is sent, and its hash.
pub(crate) type Sealed = (Bytes, B256);

impl Signer {
    /// The key at AWS KMS with this id, alias or ARN. Credentials and region come from where AWS's own tools take them.
    ///
    /// # Errors
    /// [`SignerError::Away`] if the service does not tell the key's address.
    #[cfg(feature = "aws-kms")]
    pub async fn aws_kms(key_id: String) -> Result<Self, SignerError> {
        use alloy::signers::aws::{AwsSigner, aws_sdk_kms};
        let config = aws_config::load_defaults(aws_config::BehaviorVersion::latest()).await;
        let client = aws_sdk_kms::Client::new(&config);
        let signer = AwsSigner::new(client, key_id, None).await;
        Ok(Self::Service(Arc::new(signer.map_err(|error| SignerError::Away(error.to_string()))?)))
    }

    /// The key version at Google Cloud KMS. Credentials come from where Google's own tools take them.
    ///
    /// # Errors
    /// [`SignerError::Away`] if the service does not tell the key's address.
    #[cfg(feature = "gcp-kms")]
    pub async fn gcp_kms(key: GcpKey) -> Result<Self, SignerError> {
        use alloy::signers::gcp::{
            GcpKeyRingRef, GcpSigner, KeySpecifier,
            gcloud_sdk::{
                GoogleApi,
                google::cloud::kms::v1::key_management_service_client::KeyManagementServiceClient,
            },
        };
        let away = |error: &dyn fmt::Display| SignerError::Away(error.to_string());
        let ring = GcpKeyRingRef::new(&key.project, &key.location, &key.key_ring);
        let specifier = KeySpecifier::new(ring, &key.key, key.version);
        let client = GoogleApi::from_function(
            KeyManagementServiceClient::new,
            "https://cloudkms.googleapis.com",
            None,
        );
        let client = client.await.map_err(|error| away(&error))?;
        let signer = GcpSigner::new(client, specifier, None).await.map_err(|error| away(&error))?;
        Ok(Self::Service(Arc::new(signer)))
    }

    /// The address whose signatures it makes.
    #[must_use]
    pub fn address(&self) -> Address {
        match self {
            Self::Local(key) => key.address(),
            Self::Remote(remote) => remote.address(),
            Self::Service(service) => service.address(),
        }
    }

    /// Is it there, for this chain and this address? Asked before it is used, and again after it failed.
    ///
    /// # Errors
    /// [`SignerError`].
    pub async fn check(&self, chain_id: u64) -> Result<(), SignerError> {
        match self {
            Self::Remote(remote) => remote.check(chain_id).await,
            Self::Local(_) | Self::Service(_) => Ok(()),
        }
    }

    /// The signed transaction, checked.
    pub(crate) async fn sign(&self, tx: TxEip1559) -> Result<Sealed, SignerError> {
        let signed = match self {
            Self::Local(key) => transact::sign(key, tx.clone()),
            Self::Remote(remote) => remote.sign(&tx).await?,
            Self::Service(service) => {
                let digest = tx.signature_hash();
                let signing = service.sign_hash(&digest);
                let signature = tokio::time::timeout(crate::rpc::DEADLINE, signing)
                    .await
                    .map_err(|_| SignerError::Away("no answer in time".into()))?
                    .map_err(|error| SignerError::Away(error.to_string()))?;
                tx.clone().into_signed(signature).into()
            }
        };
        checked(&tx, &signed, self.address())
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Local(_) => "Local",
            Self::Remote(_) => "Remote",
            Self::Service(_) => "Service",
        };
        write!(f, "{kind}({}, [redacted])", self.address())
    }
}

impl From<Key> for Signer {
    fn from(key: Key) -> Self {
        Self::Local(key)
    }
}

/// A key version at Google Cloud KMS.
#[derive(Debug, Clone)]
pub struct GcpKey {
    /// Project id.
    pub project: String,
    /// Such as `europe-west3`.
    pub location: String,
    /// Key ring.
    pub key_ring: String,
    /// Key.
    pub key: String,
    /// Version of the key.
    pub version: u64,
}

/// Is it what was asked for, signed by whom it should be?
fn checked(wanted: &TxEip1559, signed: &TxEnvelope, by: Address) -> Result<Sealed, SignerError> {
    let Some(found) = signed.as_eip1559() else {
        return Err(SignerError::Wrong("it signed a transaction of another type".into()));
    };
    if found.tx() != wanted {
        let what = altered(wanted, found.tx());
        return Err(SignerError::Wrong(format!("it signed another transaction: {what} differs")));
    }
    // Refuses the higher of the two values of s as well.
    let signer = signed
        .recover_signer()
        .map_err(|error| SignerError::Wrong(format!("its signature is none: {error}")))?;
    if signer != by {
        return Err(SignerError::Wrong(format!("it signed as {signer}, wanted {by}")));
    }
    Ok((signed.encoded_2718().into(), *signed.tx_hash()))
}

/// The first part of a transaction that is not as wanted.
fn altered(wanted: &TxEip1559, found: &TxEip1559) -> &'static str {
    let parts = [
        ("the chain id", wanted.chain_id == found.chain_id),
        ("the nonce", wanted.nonce == found.nonce),
        ("the receiver", wanted.to == found.to),
        ("the value", wanted.value == found.value),
        ("the data", wanted.input == found.input),
        ("the gas limit", wanted.gas_limit == found.gas_limit),
        (
            "the fee",
            wanted.max_fee_per_gas == found.max_fee_per_gas
                && wanted.max_priority_fee_per_gas == found.max_priority_fee_per_gas,
        ),
    ];
    parts.iter().find(|(_, same)| !same).map_or("the access list", |(part, _)| part)
}

#[cfg(test)]
mod tests {
    use alloy::{
        primitives::{TxKind, U256},
        signers::local::PrivateKeySigner,
    };

    use super::*;

    fn transaction() -> TxEip1559 {
        TxEip1559 {
            chain_id: 31337,
            nonce: 7,
            gas_limit: 50_000,
            max_fee_per_gas: 9,
            max_priority_fee_per_gas: 3,
            to: TxKind::Call(Address::repeat_byte(1)),
            value: U256::ZERO,
            input: vec![1, 2, 3].into(),
            ..TxEip1559::default()
        }
    }

    fn signed_by(key: &Key, tx: &TxEip1559) -> TxEnvelope {
        transact::sign(key, tx.clone())
    }

    #[tokio::test]
    async fn what_a_local_key_signs_is_taken_and_what_another_signs_is_not() {
        let (key, tx) = (Key::random(), transaction());
        let (raw, hash) = Signer::from(key.clone()).sign(tx.clone()).await.unwrap();
        assert_eq!(checked(&tx, &signed_by(&key, &tx), key.address()).unwrap(), (raw, hash));
        let other = signed_by(&Key::random(), &tx);
        let refused = checked(&tx, &other, key.address());
        assert!(matches!(refused, Err(SignerError::Wrong(_))), "{refused:?}");
    }

    #[test]
    fn no_part_of_a_transaction_may_be_altered() {
        let (key, tx) = (Key::random(), transaction());
        type Alter = fn(&mut TxEip1559);
        let alterations: [(&str, Alter); 9] = [
            ("chain id", |tx| tx.chain_id = 1),
            ("nonce", |tx| tx.nonce += 1),
            ("receiver", |tx| tx.to = TxKind::Call(Address::repeat_byte(2))),
            ("receiver", |tx| tx.to = TxKind::Create),
            ("value", |tx| tx.value = U256::ONE),
            ("data", |tx| tx.input = vec![1, 2].into()),
            ("gas limit", |tx| tx.gas_limit += 1),
            ("fee", |tx| tx.max_fee_per_gas += 1),
            ("access list", |tx| {
                tx.access_list = vec![alloy::eips::eip2930::AccessListItem::default()].into();
            }),
        ];
        for (what, alter) in alterations {
            let mut altered = tx.clone();
            alter(&mut altered);
            let refused = checked(&tx, &signed_by(&key, &altered), key.address()).unwrap_err();
            assert!(refused.to_string().contains(what), "{what}: {refused}");
        }
    }

    #[tokio::test]
    async fn a_service_is_believed_no_more_than_its_signature() {
        let signer = PrivateKeySigner::random();
        let service = Signer::Service(Arc::new(signer.clone()));
        assert_eq!(service.address(), signer.address());
        assert!(service.sign(transaction()).await.is_ok());
        let credential = signer.into_credential();
        let liar = PrivateKeySigner::new_with_credential(credential, Address::ZERO, None);
        let refused = Signer::Service(Arc::new(liar)).sign(transaction()).await;
        assert!(matches!(refused, Err(SignerError::Wrong(_))), "{refused:?}");
    }
}
