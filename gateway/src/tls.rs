//! TLS on both sides: what clients are shown, and what the broker has to show.
//!
//! One provider, aws-lc-rs, named each time: with the implicit default a second one linked in by a dependency would turn
//! every handshake into a panic. Versions 1.2 (much firmware knows no other) and 1.3.

use std::cmp::Reverse;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::{Readers, read};

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
    /// The roots that the broker's certificate, or a client's, must lead to.
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

/// The files that a listener's TLS is made of.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// Certificates with their keys, preferred first: each client is shown the first that it can verify.
    pub identities: Vec<IdentityFiles>,
    /// If set, clients must present a certificate that leads to one of these roots.
    pub client_ca: Option<PathBuf>,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct IdentityFiles {
    /// PEM, its chain after it.
    pub certificate: PathBuf,
    /// PEM, readable by its owner only.
    pub key: PathBuf,
}

/// What a file is used as; identities count from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Of an identity.
    Certificate(usize),
    /// Of an identity.
    Key(usize),
    /// Roots of clients' certificates.
    ClientCa,
}

/// A file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("\"{path}\": {wrong}", path = .path.display())]
pub struct FileFault {
    /// What it is used as.
    pub part: Part,
    /// Which one.
    pub path: PathBuf,
    /// What was found and what was wanted.
    pub wrong: String,
}

/// TLS of one listener. Its files can be read again while it serves.
#[derive(Debug)]
pub struct ListenerTls {
    files: TlsFiles,
    current: ArcSwap<Choices>,
}

impl ListenerTls {
    /// Reads all files.
    ///
    /// # Errors
    /// Every file that cannot be used.
    pub fn open(files: TlsFiles) -> Result<Self, Vec<FileFault>> {
        let current = ArcSwap::new(files.load()?);
        Ok(Self { files, current })
    }

    /// The server's part of a handshake.
    ///
    /// # Errors
    /// If there comes to be no session. The client has been sent its alert.
    pub async fn accept<S>(&self, transport: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let opened = LazyConfigAcceptor::new(Acceptor::default(), transport).await?;
        let config = self.current.load().fit_for(&opened.client_hello());
        opened.into_stream(config).await
    }

    /// Whether clients must present a certificate.
    pub fn asks_clients(&self) -> bool {
        self.files.client_ca.is_some()
    }

    /// Reads all files again and uses them from the next handshake on. Sessions go on as they are. Tickets of before resume nothing, so
    /// that a client whose authority is gone cannot come back by one.
    ///
    /// # Errors
    /// Every file that cannot be used; everything then stays as it was.
    pub fn reload(&self) -> Result<(), Vec<FileFault>> {
        self.current.store(self.files.load()?);
        Ok(())
    }
}

impl TlsFiles {
    fn load(&self) -> Result<Arc<Choices>, Vec<FileFault>> {
        let (mut keys, mut faults) = (Vec::new(), Vec::new());
        let fault = |part, path: &Path, wrong| FileFault { part, path: path.to_owned(), wrong };
        for (n, IdentityFiles { certificate, key }) in self.identities.iter().enumerate() {
            let wrong_chain = |wrong| fault(Part::Certificate(n), certificate, wrong);
            let wrong_key = |wrong| fault(Part::Key(n), key, wrong);
            let chain = read(certificate, Readers::Anyone).map_err(wrong_chain);
            let secret = read(key, Readers::OwnerOnly).map_err(wrong_key);
            match (chain, secret) {
                (Ok(chain), Ok(secret)) => match certified_key(&chain, &secret) {
                    Ok(pair) => keys.push(Arc::new(pair)),
                    Err(wrong @ TlsError::Certificate(_)) => {
                        faults.push(wrong_chain(wrong.to_string()));
                    }
                    Err(wrong) => faults.push(wrong_key(wrong.to_string())),
                },
                (chain, secret) => faults.extend(chain.err().into_iter().chain(secret.err())),
            }
        }
        let verifier = self.client_ca.as_ref().and_then(|path| {
            read(path, Readers::Anyone)
                .and_then(|pem| client_verifier(&pem).map_err(|wrong| wrong.to_string()))
                .map_err(|wrong| faults.push(fault(Part::ClientCa, path, wrong)))
                .ok()
        });
        if !faults.is_empty() {
            return Err(faults);
        }
        Choices::of(keys, verifier).map(Arc::new).map_err(|wrong| {
            let first = self.identities.first().map(|files| files.certificate.clone());
            vec![fault(Part::Certificate(0), &first.unwrap_or_default(), wrong.to_string())]
        })
    }
}

/// Several certificates of one server, of different kinds: old firmware verifies only RSA.
#[derive(Debug)]
struct Identities(Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Identities {
    fn resolve(&self, client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let schemes = client.signature_schemes();
        let fits = |pair: &&Arc<CertifiedKey>| pair.key.choose_scheme(schemes).is_some();
        self.0.iter().find(fits).cloned()
    }
}

fn certified_key(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(chain).map_err(TlsError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|e| TlsError::Key(format!("no usable private key ({e})")))?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|e| TlsError::Key(e.to_string()))
}

fn client_verifier(ca: &[u8]) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca)?), provider())
        .build()
        .map_err(|e| TlsError::Roots(e.to_string()))
}

/// One server, with either side's order of cipher suites.
#[derive(Debug)]
struct Choices {
    ours: Arc<ServerConfig>,
    clients: Arc<ServerConfig>,
}

impl Choices {
    fn of(
        keys: Vec<Arc<CertifiedKey>>,
        verifier: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, TlsError> {
        // OpenSSL's clients name AES-256 first for everyone. AES-128 is as unbroken, and comes with SHA-256, which processors have
        // instructions for: a login by TLS takes a third less of them.
        let mut order = aws_lc_rs::default_provider();
        order.cipher_suites.sort_by_key(|suite| Reverse(is_aes_128(suite.suite())));
        let mut config = ServerConfig::builder_with_provider(Arc::new(order))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(
                verifier.unwrap_or_else(WebPkiClientVerifier::no_client_auth),
            )
            .with_cert_resolver(Arc::new(Identities(keys)));
        // Resumption cuts a TLS 1.2 handshake to a third; for 1.3 one ticket is enough, each costs an encryption.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
        config.send_tls13_tickets = 1;
        let clients = Arc::new(config.clone());
        config.ignore_client_order = true;
        Ok(Self { ours: Arc::new(config), clients })
    }

    fn fit_for(&self, client: &ClientHello<'_>) -> Arc<ServerConfig> {
        let knows_best = names_chacha20_first(client.cipher_suites());
        if knows_best { self.clients.clone() } else { self.ours.clone() }
    }
}

/// So does a client whose processor has no instructions for AES. What nobody here speaks does not count: some firmware's CCM, and the
/// values that browsers put anywhere (RFC 8701).
fn names_chacha20_first(suites: &[CipherSuite]) -> bool {
    let is_spoken = |suite: &&CipherSuite| {
        aws_lc_rs::DEFAULT_CIPHER_SUITES.iter().any(|ours| ours.suite() == **suite)
    };
    suites.iter().find(is_spoken).is_some_and(|first| is_chacha20(*first))
}

fn is_aes_128(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

fn is_chacha20(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(TlsError::Roots)? {
        roots
            .add(certificate)
            .map_err(|e| TlsError::Roots(format!("a certificate cannot be used as a root: {e}")))?;
    }
    Ok(roots)
}

/// TLS towards the broker, trusting the roots in `ca` (PEM) or, without it, those of the system.
///
/// # Errors
/// [`TlsError::Roots`] if that leaves nothing to trust.
pub fn client_config(ca: Option<&[u8]>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca {
        Some(pem) => roots(pem)?,
        None => {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(TlsError::Roots(
                    "the system has no root certificates: install `ca-certificates`".to_owned(),
                ));
            }
            roots
        }
    };
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
    use tokio_rustls::TlsConnector;

    use super::*;

    /// A root, and a listener with a certificate for this name that it vouches for.
    fn site(name: &str) -> (String, Arc<ListenerTls>) {
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        let pair = certified_key(certificate.pem().as_bytes(), key.serialize_pem().as_bytes());
        let choices = Choices::of(vec![Arc::new(pair.unwrap())], None).unwrap();
        let files = TlsFiles { identities: Vec::new(), client_ca: None };
        (ca.pem(), Arc::new(ListenerTls { files, current: ArcSwap::from_pointee(choices) }))
    }

    /// What this client that wants `name` is served, and by which cipher suite.
    async fn handshake(
        server: &Arc<ListenerTls>,
        client: impl Into<Arc<ClientConfig>>,
        name: &str,
    ) -> io::Result<(Vec<u8>, CipherSuite)> {
        let (ours, theirs) = duplex(64 * 1024);
        let server = server.clone();
        tokio::spawn(async move {
            if let Ok(mut stream) = server.accept(theirs).await {
                let _ = stream.write_all(b"served").await;
                let _ = stream.shutdown().await;
            }
        });
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut stream = TlsConnector::from(client.into()).connect(name, ours).await?;
        let mut octets = Vec::new();
        stream.read_to_end(&mut octets).await?;
        Ok((octets, stream.get_ref().1.negotiated_cipher_suite().unwrap().suite()))
    }

    fn believer(ca: &str) -> Arc<ClientConfig> {
        client_config(Some(ca.as_bytes())).unwrap()
    }

    #[tokio::test]
    async fn a_broker_is_believed_for_its_name_and_by_its_root_only() {
        let (ca, server) = site("broker.example");
        let (other_ca, _) = site("broker.example");
        let served = handshake(&server, believer(&ca), "broker.example").await.unwrap();
        assert_eq!(served.0, b"served");
        let wrong_name = handshake(&server, believer(&ca), "other.example").await.unwrap_err();
        assert!(wrong_name.to_string().contains("not valid for name"), "{wrong_name}");
        let wrong_root =
            handshake(&server, believer(&other_ca), "broker.example").await.unwrap_err();
        assert!(wrong_root.to_string().contains("invalid peer certificate"), "{wrong_root}");
    }

    #[tokio::test]
    async fn aes_128_is_taken_unless_the_client_does_without_or_names_chacha20_first() {
        use aws_lc_rs::cipher_suite::*;
        let (ca, server) = site("broker.example");
        let cases = [
            (
                [
                    TLS13_AES_256_GCM_SHA384,
                    TLS13_CHACHA20_POLY1305_SHA256,
                    TLS13_AES_128_GCM_SHA256,
                ],
                2,
            ),
            (
                [
                    TLS13_CHACHA20_POLY1305_SHA256,
                    TLS13_AES_256_GCM_SHA384,
                    TLS13_AES_128_GCM_SHA256,
                ],
                0,
            ),
            (
                [
                    TLS13_AES_256_GCM_SHA384,
                    TLS13_CHACHA20_POLY1305_SHA256,
                    TLS13_AES_256_GCM_SHA384,
                ],
                0,
            ),
            (
                [
                    TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                ],
                2,
            ),
            (
                [
                    // Its certificate is ECDSA, so this cannot be taken; the client's wish is known by it all the same.
                    TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
                    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
                    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
                ],
                1,
            ),
        ];
        for (order, taken) in cases {
            let mut provider = aws_lc_rs::default_provider();
            provider.cipher_suites = order.to_vec();
            let client = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(&[order[0].version()])
                .unwrap()
                .with_root_certificates(roots(ca.as_bytes()).unwrap())
                .with_no_client_auth();
            let (_, suite) = handshake(&server, client, "broker.example").await.unwrap();
            assert_eq!(suite, order[taken].suite(), "{order:?}");
        }
    }

    #[test]
    fn what_nobody_speaks_is_no_wish() {
        use CipherSuite::*;
        let (grease, ccm) = (CipherSuite::from(0x5a5a), TLS_ECDHE_ECDSA_WITH_AES_128_CCM);
        for (suites, wished) in [
            (vec![grease, TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256], true),
            (vec![ccm, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256], true),
            (vec![grease, TLS13_AES_128_GCM_SHA256, TLS13_CHACHA20_POLY1305_SHA256], false),
            (vec![grease], false),
            (vec![], false),
        ] {
            assert_eq!(names_chacha20_first(&suites), wished, "{suites:?}");
        }
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
