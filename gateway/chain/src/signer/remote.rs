//! A signer in another process, asked by JSON-RPC (`eth_signTransaction`), as Web3Signer and others speak it.

use std::{path::PathBuf, sync::Arc};

use alloy::{
    consensus::{TxEip1559, TxEnvelope},
    eips::Decodable2718,
    primitives::{Address, Bytes, U64},
    transports::http::reqwest::{self, Certificate, redirect},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use url::{Host, Url};

use super::SignerError;
use crate::rpc::{Bounds, DEADLINE, Node, RpcError};

/// Largest answer that is read: a transaction of the gateway's has some 20 kB, as hexadecimal digits twice that.
const MAX_ANSWER_OCTETS: usize = 256 * 1024;

/// Where the signer is, and by which address it signs.
#[derive(Debug, Clone)]
pub struct RemoteSignerConfig {
    /// `https://host/path`, `http://` on this machine only, or `unix:/path/to/socket`.
    pub url: Url,
    /// The address that must have signed.
    pub address: Address,
    /// PEM of the only authority whose certificates are taken, instead of the system's.
    pub ca: Option<Vec<u8>>,
}

/// A signer in another process.
#[derive(Debug)]
pub struct RemoteSigner {
    address: Address,
    node: Node,
    /// Set once the signer has said that it is for this chain and this address.
    checked: OnceCell<()>,
}

/// Why a configuration names no signer.
#[derive(Debug, thiserror::Error)]
pub enum RemoteSignerError {
    /// What is asked travels to where others could read and change it.
    #[error(
        "\"{0}\" is no address for a signer, wanted https://host, unix:/path/to/socket, or http:// on this machine"
    )]
    Url(String),
    /// The certificate of the authority, or the system's.
    #[error("TLS towards the signer: {0}")]
    Tls(String),
}

impl RemoteSigner {
    /// Gets ready; nothing is asked yet.
    ///
    /// # Errors
    /// [`RemoteSignerError`].
    pub fn new(config: RemoteSignerConfig) -> Result<Arc<Self>, RemoteSignerError> {
        let tls = |error: reqwest::Error| RemoteSignerError::Tls(error.without_url().to_string());
        let mut client = reqwest::Client::builder()
            .connect_timeout(DEADLINE / 2)
            .redirect(redirect::Policy::none())
            // What an environment variable says must not lead the gateway's transactions elsewhere.
            .no_proxy();
        let url = match config.url.scheme() {
            "https" => config.url,
            "http" if is_here(&config.url) => config.url,
            "unix" if config.url.host().is_none() && config.url.path().len() > 1 => {
                client = client.unix_socket(PathBuf::from(config.url.path()));
                Url::parse("http://signer.localhost/").expect("a constant")
            }
            _ => return Err(RemoteSignerError::Url(config.url.to_string())),
        };
        if let Some(pem) = &config.ca {
            let certificates = Certificate::from_pem_bundle(pem).map_err(tls)?;
            client = client.tls_certs_only(certificates);
        }
        let client = client.build().map_err(tls)?;
        let bounds = Bounds { deadline: DEADLINE, answer_octets: MAX_ANSWER_OCTETS };
        let node = Node::over(client, url, Arc::default(), bounds);
        Ok(Arc::new(Self { address: config.address, node, checked: OnceCell::new() }))
    }

    pub(super) const fn address(&self) -> Address {
        self.address
    }

    /// Does it hold the key, and is it not for another chain? The first success is remembered: each signature is checked anyway.
    pub(super) async fn check(&self, chain_id: u64) -> Result<(), SignerError> {
        self.checked.get_or_try_init(|| self.ask(chain_id)).await.copied()
    }

    async fn ask(&self, chain_id: u64) -> Result<(), SignerError> {
        let held: Vec<Address> = self.node.call("eth_accounts", json!([])).await?;
        if !held.contains(&self.address) {
            let detail =
                format!("it holds no key for {}, only {} others", self.address, held.len());
            return Err(SignerError::Wrong(detail));
        }
        // Not every signer knows of a chain; one that does must be of ours.
        match self.node.call::<U64>("eth_chainId", json!([])).await {
            Ok(found) if found.to::<u64>() != chain_id => {
                Err(SignerError::Wrong(format!("it is for chain {found}, wanted {chain_id}")))
            }
            Ok(_) | Err(RpcError::Refused { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }

    /// The transaction as it was signed; whoever asks checks it.
    pub(super) async fn sign(&self, tx: &TxEip1559) -> Result<TxEnvelope, SignerError> {
        let hex = |number: u128| format!("{number:#x}");
        let request = json!([{
            "type": "0x2",
            "from": self.address,
            "to": tx.to.to(),
            "gas": hex(tx.gas_limit.into()),
            "maxFeePerGas": hex(tx.max_fee_per_gas),
            "maxPriorityFeePerGas": hex(tx.max_priority_fee_per_gas),
            "value": tx.value,
            "nonce": hex(tx.nonce.into()),
            "data": tx.input,
            "chainId": hex(tx.chain_id.into()),
        }]);
        let answer: Value = self.node.call("eth_signTransaction", request).await?;
        // Some answer with the octets alone, some with what they mean beside them.
        let raw = answer.as_str().or_else(|| answer.get("raw")?.as_str());
        let raw: Option<Bytes> = raw.and_then(|raw| raw.parse().ok());
        let raw = raw.ok_or_else(|| SignerError::Wrong("it is no transaction".into()))?;
        TxEnvelope::decode_2718_exact(&raw)
            .map_err(|error| SignerError::Wrong(format!("it is no transaction: {error}")))
    }
}

fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signer_is_asked_only_where_nobody_can_listen() {
        for (url, taken) in [
            ("https://signer.example:9000/", true),
            ("http://127.0.0.1:9000/", true),
            ("http://[::1]:9000/", true),
            ("http://localhost:9000/", true),
            ("unix:/run/signer.sock", true),
            ("http://signer.example:9000/", false),
            ("http://10.0.0.1:9000/", false),
            ("http://localhost.example/", false),
            ("unix:", false),
            ("ws://127.0.0.1:9000/", false),
        ] {
            let config = RemoteSignerConfig {
                url: Url::parse(url).unwrap(),
                address: Address::ZERO,
                ca: None,
            };
            let made = RemoteSigner::new(config);
            assert_eq!(made.is_ok(), taken, "{url}: {made:?}");
        }
    }

    #[test]
    fn what_is_no_certificate_is_refused_before_anything_is_asked() {
        let config = RemoteSignerConfig {
            url: Url::parse("https://signer.example").unwrap(),
            address: Address::ZERO,
            ca: Some(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec()),
        };
        assert!(matches!(RemoteSigner::new(config), Err(RemoteSignerError::Tls(_))));
    }
}
