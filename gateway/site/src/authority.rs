//! A certificate authority for one site: made at start, gone with the site.

use std::fs;
use std::path::PathBuf;

use eyre::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::ground::Ground;

/// The files of a key and its certificate, PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key, PKCS#8.
    pub key: PathBuf,
}

/// The site's certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's certificate, for `--cafile`.
    pub certificate: PathBuf,
    dir: PathBuf,
}

impl Authority {
    pub(crate) fn new(ground: &Ground) -> Result<Self> {
        Self::named(ground, "ca")
    }

    /// An authority whose certificate is `<name>.pem`; a second one serves tests of refused certificates.
    pub(crate) fn named(ground: &Ground, name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("FlyTrap local site {name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = ground.path(&format!("{name}.pem"));
        fs::write(&certificate, params.self_signed(&key)?.pem())?;
        Ok(Self { issuer: Issuer::new(params, key), certificate, dir: ground.dir().to_owned() })
    }

    /// A server certificate for `localhost`, `127.0.0.1` and `::1`, as `<name>.pem` and `<name>.key`.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn identify(&self, name: &str) -> Result<Identity> {
        self.identify_as(name, &["localhost", "127.0.0.1", "::1"])
    }

    /// A server certificate for the given names and addresses.
    ///
    /// # Errors
    /// If a name is none or a file cannot be written.
    pub fn identify_as(&self, name: &str, hosts: &[&str]) -> Result<Identity> {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let files = Identity {
            certificate: self.dir.join(format!("{name}.pem")),
            key: self.dir.join(format!("{name}.key")),
        };
        fs::write(&files.certificate, certificate.pem())?;
        write_secret(&files.key, &key.serialize_pem())?;
        Ok(files)
    }
}

/// Writes a file that only its owner may read.
pub(crate) fn write_secret(file: &std::path::Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut out = fs::OpenOptions::new();
    out.write(true).create(true).truncate(true).mode(0o600);
    out.open(file)?.write_all(text.as_bytes())?;
    Ok(())
}
