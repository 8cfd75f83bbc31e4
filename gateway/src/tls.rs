//! TLS on both sides: what clients are shown, and what the broker has to show.
//!
//! One provider, aws-lc-rs, named each time: with the implicit default a second one linked in by a dependency would turn
//! every handshake into a panic. Versions 1.2 (much firmware knows no other) and 1.3.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// What is wrong with certificates or a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate file.
    #[error("{0}; wanted a PEM file with the certificate first and its chain after it")]
    Certificate(String),
    /// The key file, or it does not belong to the certificate.
    #[error(
        "{0}; wanted the PEM file with the private key (PKCS#8, PKCS#1 or SEC1) of that very certificate"
    )]
    Key(String),
    /// The roots that the broker's certificate must lead to.
    #[error("{0}")]
    Roots(String),
    /// rustls itself.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// Makes aws-lc-rs the provider of everything in this process that asks for the default one. Call first in `main`.
pub fn install_provider() {
    // An error only says that it was already done.
    let _ = aws_lc_rs::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// TLS towards clients, from PEM text.
///
/// # Errors
/// [`TlsError::Certificate`] or [`TlsError::Key`] for what cannot be used, also if the two do not match.
pub fn server_config(certificate: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate).map_err(TlsError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|e| TlsError::Key(format!("no usable private key ({e})")))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| TlsError::Key(e.to_string()))?;
    // Resumption cuts a TLS 1.2 handshake to a third; for 1.3 one ticket is enough, each costs an encryption.
    config.ticketer = aws_lc_rs::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// TLS towards the broker, trusting the roots in `ca` (PEM) or, without it, those of the system.
///
/// # Errors
/// [`TlsError::Roots`] if that leaves nothing to trust.
pub fn client_config(ca: Option<&[u8]>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            for certificate in certificates(pem).map_err(TlsError::Roots)? {
                roots.add(certificate).map_err(|e| {
                    TlsError::Roots(format!("a certificate cannot be used as a root: {e}"))
                })?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(TlsError::Roots(
                    "the system has no root certificates: install `ca-certificates`".to_owned(),
                ));
            }
        }
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("no certificate in it".to_owned()),
        Ok(found) => Ok(found),
        Err(e) => Err(format!("not all of it is PEM ({e})")),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// A root, and certificate and key that it vouches for, for this name.
    fn site(name: &str) -> (String, Arc<ServerConfig>) {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        let server = server_config(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
        (ca.pem(), server.unwrap())
    }

    /// What a client that trusts `ca` and wants `name` thinks of `server`.
    async fn handshake(
        server: Arc<ServerConfig>,
        ca: &str,
        name: &str,
    ) -> std::io::Result<Vec<u8>> {
        let (ours, theirs) = duplex(64 * 1024);
        tokio::spawn(async move {
            if let Ok(mut stream) = TlsAcceptor::from(server).accept(theirs).await {
                let _ = stream.write_all(b"served").await;
                let _ = stream.shutdown().await;
            }
        });
        let client = TlsConnector::from(client_config(Some(ca.as_bytes())).unwrap());
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = client.connect(name, ours).await?;
        let mut octets = Vec::new();
        stream.read_to_end(&mut octets).await?;
        Ok(octets)
    }

    #[tokio::test]
    async fn a_broker_is_believed_for_its_name_and_by_its_root_only() {
        let (ca, server) = site("broker.example");
        let (other_ca, _) = site("broker.example");
        assert_eq!(handshake(server.clone(), &ca, "broker.example").await.unwrap(), b"served");
        let wrong_name = handshake(server.clone(), &ca, "other.example").await.unwrap_err();
        assert!(wrong_name.to_string().contains("not valid for name"), "{wrong_name}");
        let wrong_root = handshake(server, &other_ca, "broker.example").await.unwrap_err();
        assert!(wrong_root.to_string().contains("invalid peer certificate"), "{wrong_root}");
    }

    #[test]
    fn a_ca_file_without_a_certificate_is_refused() {
        for pem in
            ["", "no PEM at all", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
        {
            let refused = client_config(Some(pem.as_bytes()));
            assert!(matches!(refused, Err(TlsError::Roots(_))), "{pem:?}");
        }
    }
}
