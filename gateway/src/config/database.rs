//! A PostgreSQL database for the records.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::Secret;
use crate::tls;

/// Time for the connection to one address of the server.
const CONNECTING: Duration = Duration::from_secs(5);
/// Time without a word from it after which it is asked whether it is there.
const IDLE: Duration = Duration::from_secs(10);

/// How the database is reached.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Without the password.
    config: tokio_postgres::Config,
    password: Option<Secret<Vec<u8>>>,
    /// `None`: not over TLS.
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl DatabaseConfig {
    /// From a URL without a password; `ca` (PEM) is whom to trust about the server's certificate in place of the system's roots.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence that does not repeat the URL: who writes a password into it must not find it in a log.
    pub fn new(
        url: &str,
        password: Option<Secret<Vec<u8>>>,
        ca: Option<&[u8]>,
    ) -> Result<Self, String> {
        if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
            return Err("`url` is wanted as postgresql://USER@HOST:PORT/DATABASE".to_owned());
        }
        let mut config: tokio_postgres::Config =
            url.parse().map_err(|error| format!("`url` cannot be read: {}", causes(&error)))?;
        if config.get_password().is_some() {
            let wrong = "`url` has a password in it: put it into a file with mode 0600 and name that in `password_file`, and change it if others could read this one";
            return Err(wrong.to_owned());
        }
        if config.get_hosts().is_empty() || config.get_user().is_none() {
            return Err("`url` names no host or no user".to_owned());
        }
        if !config.get_hostaddrs().is_empty() {
            return Err("`url` has `hostaddr`, which would be dialled whatever the host is called: name the address as the host".to_owned());
        }
        if config.get_dbname().is_none() {
            return Err("`url` names no database".to_owned());
        }
        // A server that could choose plain text would be whoever is between: TLS, or the operator's own word that there is none.
        let stays_here = config.get_hosts().iter().all(is_here);
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            SslMode::Prefer if stays_here => None,
            _ => Some(tls::client_config(ca).map_err(|wrong| format!("TLS: {wrong}"))?),
        };
        if tls.is_none() && ca.is_some() {
            return Err("`ca` is given, but there is no TLS: add `?sslmode=require` to `url`, or remove `ca`".to_owned());
        }
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        config.application_name("flytrap-gateway").keepalives_idle(IDLE).tcp_user_timeout(3 * IDLE);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECTING);
        }
        Ok(Self { config, password, tls })
    }

    /// What to connect with.
    pub(crate) fn connection(&self) -> tokio_postgres::Config {
        let mut config = self.config.clone();
        if let Some(password) = &self.password {
            config.password(password.expose());
        }
        config
    }

    pub(crate) fn tls(&self) -> Option<&Arc<rustls::ClientConfig>> {
        self.tls.as_ref()
    }

    /// Whether what is sent can be read on the way: another machine, and no TLS.
    #[must_use]
    pub fn is_readable_on_the_way(&self) -> bool {
        self.tls.is_none() && !self.config.get_hosts().iter().all(is_here)
    }
}

/// Whether what is sent there stays on this machine.
fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
        Host::Unix(_) => true,
    }
}

impl fmt::Display for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hosts = String::new();
        let ports = self.config.get_ports();
        for (n, host) in self.config.get_hosts().iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            let port = ports.get(n).or(ports.first()).unwrap_or(&5432);
            match host {
                Host::Tcp(name) => write!(hosts, "{comma}{name}:{port}")?,
                Host::Unix(path) => write!(hosts, "{comma}{} port {port}", path.display())?,
            }
        }
        let name = self.config.get_dbname().unwrap_or_default();
        write!(f, "PostgreSQL database \"{name}\" at {hosts}")
    }
}

fn causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", causes(cause)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(url: &str) -> Result<DatabaseConfig, String> {
        tls::install_provider();
        DatabaseConfig::new(url, Some(Secret::new(b"hunter2".to_vec())), None)
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_no_password_is_ever_told() {
        let refused = config("postgresql://gateway:s3cret@db.example/records").unwrap_err();
        assert!(refused.contains("password_file") && !refused.contains("s3cret"), "{refused}");
        let taken = config("postgresql://gateway@db.example/records?sslmode=disable").unwrap();
        let told = format!("{taken} {taken:?} {:?}", taken.connection());
        assert!(!told.contains("hunter2"), "{told}");
        assert_eq!(taken.connection().get_password(), Some(b"hunter2".as_slice()));
        assert_eq!(taken.to_string(), "PostgreSQL database \"records\" at db.example:5432");
    }

    #[test]
    fn another_machine_is_reached_by_tls_unless_the_operator_says_otherwise() {
        let tls = |url: &str| config(url).map(|config| config.tls().is_some());
        for (url, wanted) in [
            ("postgresql://g@db.example/r", true),
            ("postgresql://g@db.example/r?sslmode=prefer", true),
            ("postgresql://g@localhost,db.example/r", true),
            ("postgresql://g@db.example/r?sslmode=disable", false),
            ("postgresql://g@127.0.0.1:5433/r", false),
            ("postgresql://g@127.0.0.1/r?sslmode=require", true),
            ("postgresql://g@%2Fvar%2Frun%2Fpostgresql/r", false),
        ] {
            assert_eq!(tls(url), Ok(wanted), "{url}");
            let mode = config(url).unwrap().connection().get_ssl_mode();
            assert_eq!(mode == SslMode::Require, wanted, "{url}");
        }
        let readable = |url: &str| config(url).unwrap().is_readable_on_the_way();
        assert!(readable("postgresql://g@db.example/r?sslmode=disable"));
        assert!(!readable("postgresql://g@localhost/r"));
    }

    #[test]
    fn what_is_missing_in_the_url_is_named() {
        for (url, wanted) in [
            ("mysql://g@h/r", "postgresql://"),
            ("postgresql://h/r", "no user"),
            ("postgresql://g@/r", "no host"),
            ("postgresql://g@h", "no database"),
            ("postgresql://g@localhost/r?hostaddr=10.0.0.5", "hostaddr"),
            ("postgresql://g@h/r?sslmode=verify-full", "sslmode"),
        ] {
            let refused = config(url).unwrap_err();
            assert!(refused.contains(wanted), "{url}: {refused}");
        }
    }
}
