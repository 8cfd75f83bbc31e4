//! Whose key signs what the gateway puts on chain: exactly one place, or none on purpose.

use std::path::PathBuf;

use flytrap_chain::Signer;
use flytrap_chain::keys::Key;
use flytrap_chain::signer::{GcpKey, RemoteSigner, RemoteSignerConfig, SignerError};
use toml::Spanned;

use super::file::{self, Record};
use super::read::Readers;
use super::resolve::Resolver;

/// Whether this gateway writes to the chain.
#[derive(Debug, Clone)]
pub enum Recording {
    /// It only reads. Bans stay local, refusals are only counted.
    Off,
    /// Bans and alerts are sent with this key.
    On(GatewayKey),
}

/// Where the gateway's key is.
#[derive(Debug, Clone)]
pub enum GatewayKey {
    /// In this process, or with a signer whose address is known.
    Known(Signer),
    /// At AWS KMS, by its id, alias or ARN.
    AwsKms(String),
    /// At Google Cloud KMS.
    GcpKms(GcpKey),
}

impl GatewayKey {
    /// The signer. A key management service is asked for the key's address.
    ///
    /// # Errors
    /// If it does not tell.
    pub async fn open(&self) -> Result<Signer, SignerError> {
        match self {
            Self::Known(signer) => Ok(signer.clone()),
            #[cfg(feature = "aws-kms")]
            Self::AwsKms(key_id) => Signer::aws_kms(key_id.clone()).await,
            #[cfg(feature = "gcp-kms")]
            Self::GcpKms(key) => Signer::gcp_kms(key.clone()).await,
            #[allow(unreachable_patterns, reason = "where both features are on")]
            _ => Err(SignerError::Away("this build has no such service".to_owned())),
        }
    }
}

impl Resolver<'_> {
    pub(super) fn recording(&mut self, gateway: &Spanned<file::Gateway>) -> Option<Recording> {
        let g = gateway.get_ref();
        let named = [
            g.key_file.is_some(),
            g.keystore.is_some(),
            g.remote_signer.is_some(),
            g.aws_kms.is_some(),
            g.gcp_kms.is_some(),
        ];
        let keys = named.into_iter().filter(|named| *named).count();
        if g.passphrase_file.is_some() && g.keystore.is_none() {
            self.problem(gateway, "`gateway.passphrase_file` needs a `keystore`");
            return None;
        }
        if keys > 1 {
            self.problem(gateway, "`gateway` names more than one key: keep one of `key_file`, `keystore`, `remote_signer`, `aws_kms`, `gcp_kms`");
            return None;
        }
        if keys == 1 && g.record == Some(Record::Off) {
            self.problem(
                gateway,
                "`gateway.record` is \"off\" and yet a key is named: remove one of them",
            );
            return None;
        }
        let key = if let Some(path) = &g.key_file {
            self.key(path, None)
        } else if let Some(path) = &g.keystore {
            self.key(path, g.passphrase_file.as_ref())
        } else if let Some(remote) = &g.remote_signer {
            self.remote_signer(remote)
        } else if let Some(aws) = &g.aws_kms {
            let key = GatewayKey::AwsKms(aws.get_ref().key_id.clone());
            self.built_in(aws, cfg!(feature = "aws-kms"), "aws-kms", key)
        } else if let Some(gcp) = &g.gcp_kms {
            let file::GcpKms { project, location, key_ring, key, version } = gcp.get_ref();
            let key = GcpKey {
                project: project.clone(),
                location: location.clone(),
                key_ring: key_ring.clone(),
                key: key.clone(),
                version: *version,
            };
            self.built_in(gcp, cfg!(feature = "gcp-kms"), "gcp-kms", GatewayKey::GcpKms(key))
        } else if g.record == Some(Record::Off) {
            return Some(Recording::Off);
        } else {
            self.problem(
                gateway,
                "`gateway` has no key: name a `key_file`, a `keystore`, a `remote_signer` or a key management service, or say \
                 `record = \"off\"` to keep bans and alerts off the chain",
            );
            return None;
        };
        key.map(Recording::On)
    }

    fn key(
        &mut self,
        path: &Spanned<PathBuf>,
        passphrase: Option<&Spanned<PathBuf>>,
    ) -> Option<GatewayKey> {
        let passphrase = passphrase.map(|p| self.at(p.get_ref()));
        match Key::read(self.at(path.get_ref()), passphrase.as_deref()) {
            Ok(key) => Some(GatewayKey::Known(key.into())),
            Err(error) => {
                self.problem(path, format!("`gateway`: {error}"));
                None
            }
        }
    }

    fn remote_signer(&mut self, remote: &Spanned<file::RemoteSigner>) -> Option<GatewayKey> {
        let file::RemoteSigner { url, address, ca } = remote.get_ref();
        let ca = match ca {
            Some(ca) => Some(self.read("gateway.remote_signer.ca", ca, Readers::Anyone)?.to_vec()),
            None => None,
        };
        let config = RemoteSignerConfig { url: url.get_ref().clone(), address: *address, ca };
        match RemoteSigner::new(config) {
            Ok(signer) => Some(GatewayKey::Known(Signer::Remote(signer))),
            Err(error) => {
                self.problem(url, format!("`gateway.remote_signer`: {error}"));
                None
            }
        }
    }

    fn built_in<T>(
        &mut self,
        place: &Spanned<T>,
        is_built_in: bool,
        feature: &str,
        key: GatewayKey,
    ) -> Option<GatewayKey> {
        if !is_built_in {
            self.problem(place, format!("this build of the gateway has no {feature}: build it with `--features {feature}`, or use a `remote_signer`"));
            return None;
        }
        Some(key)
    }
}
