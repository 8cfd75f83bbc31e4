//! The read-only API: whether it is served, to whom, and what it may cost.

use std::net::SocketAddr;
use std::time::Duration;

use flytrap_policy::Rate;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use toml::Spanned;

use super::file;
use super::read::Readers;
use super::resolve::{Resolver, told};
use crate::proxy::TrustedPeers;

/// What is served of the record and the chain, where, to whom and how much.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Address and port; port 0 lets the system choose.
    pub bind: SocketAddr,
    /// Who sees what.
    pub access: Access,
    /// Host names under which it is asked for, beside addresses of this machine.
    pub hosts: Vec<String>,
    /// Web origins whose pages may read answers.
    pub allowed_origins: Vec<String>,
    /// Proxies whose word about a client's address is taken.
    pub trusted_peers: TrustedPeers,
    /// Requests of one address.
    pub rate: Rate,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// Rows of the largest page.
    pub most_rows: usize,
    /// Octets of the largest answer.
    pub most_octets: usize,
    /// Queries at once.
    pub most_queries: usize,
    /// Connections at once.
    pub most_connections: usize,
}

/// Who sees what.
#[derive(Debug, Clone)]
pub enum Access {
    /// Everybody everything.
    All,
    /// Everybody what the chain tells and sums that name nobody; the rest whoever has the token, if there is one.
    Aggregated(Option<TokenHash>),
    /// Whoever has the token everything, others nothing.
    Token(TokenHash),
}

/// Hash of the token, which itself is not kept.
#[derive(Clone)]
pub struct TokenHash([u8; 32]);

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash([redacted])")
    }
}

impl TokenHash {
    /// Of this token.
    #[must_use]
    pub fn of(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }

    /// Whether it is this token's, in a time that does not tell how much of it was right.
    #[must_use]
    pub fn is_of(&self, token: &[u8]) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }
}

/// A token that cannot be guessed is no shorter.
const SHORTEST_TOKEN: usize = 32;

impl Resolver<'_> {
    pub(super) fn api(&mut self, api: file::Api) -> Option<ApiConfig> {
        let token = api.token_file.as_ref().and_then(|path| {
            let text = self.read("api.token_file", path, Readers::OwnerOnly)?;
            let token = text.trim_ascii();
            if token.len() < SHORTEST_TOKEN || !token.iter().all(u8::is_ascii_graphic) {
                self.problem(path, format!("`api.token_file`: wanted one line of at least {SHORTEST_TOKEN} visible ASCII characters; make one with `openssl rand -hex 32`"));
                return None;
            }
            Some(TokenHash::of(token))
        });
        let access = match (api.access.get_ref(), token) {
            (file::ApiAccess::All, _) if api.token_file.is_some() => {
                self.problem(&api.access, "`api.access` is \"all\", and yet `api.token_file` is named: everybody sees everything without it. Remove one of them");
                None
            }
            (file::ApiAccess::All, _) => Some(Access::All),
            (file::ApiAccess::Aggregated, token) => Some(Access::Aggregated(token)),
            (file::ApiAccess::Token, Some(token)) => Some(Access::Token(token)),
            (file::ApiAccess::Token, None) => {
                if api.token_file.is_none() {
                    self.problem(&api.access, "`api.access` is \"token\" and there is none: name a file that holds it with `api.token_file`");
                }
                None
            }
        };
        for host in &api.hosts {
            let text = host.get_ref();
            let is_host = !text.is_empty()
                && text.len() <= 253
                && text
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b));
            if !is_host {
                self.problem(host, format!("`api.hosts`: {text:?} is no host name: write it in lower case and without scheme and port, such as \"audit.example\""));
            }
        }
        for origin in &api.allowed_origins {
            self.web_origin("api.allowed_origins", origin);
        }
        let burst = Duration::from_secs(10);
        let rate = self.within("api.requests_per_second", &api.requests_per_second, 1, 100_000);
        let second = Duration::from_secs(1);
        let request_timeout =
            self.between("api.request_timeout", &api.request_timeout, second, 60 * second);
        let inner = |all: Vec<Spanned<String>>| all.into_iter().map(Spanned::into_inner).collect();
        Some(ApiConfig {
            bind: api.bind,
            access: access?,
            hosts: inner(api.hosts),
            allowed_origins: inner(api.allowed_origins),
            trusted_peers: TrustedPeers::new(api.trusted_peers.into_iter().map(|n| n.0).collect()),
            rate: Rate::new(rate, second, burst),
            request_timeout,
            most_rows: self.within("api.most_rows", &api.most_rows, 1, 10_000),
            most_octets: self.within(
                "api.most_octets",
                &api.most_octets,
                64 * 1024,
                64 * 1024 * 1024,
            ),
            most_queries: self.within("api.most_queries", &api.most_queries, 1, 64),
            most_connections: self.within("api.most_connections", &api.most_connections, 1, 10_000),
        })
    }
}

impl std::fmt::Display for ApiConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let whom = match &self.access {
            Access::All => "everybody sees every record",
            Access::Aggregated(None) => "everybody sees the chain and sums, nobody a record",
            Access::Aggregated(Some(_)) => {
                "everybody sees the chain and sums, whoever has the token every record"
            }
            Access::Token(_) => "only whoever has the token sees anything",
        };
        write!(
            f,
            "API on {}: {whom}; {} queries at once, {} each",
            self.bind,
            self.most_queries,
            told(self.request_timeout)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_itself_is_taken_and_none_is_printed() {
        let hash = TokenHash::of(b"0123456789abcdef0123456789abcdef");
        assert!(hash.is_of(b"0123456789abcdef0123456789abcdef"));
        for wrong in [&b""[..], b"0123456789abcdef0123456789abcdeF", b"0123456789abcdef"] {
            assert!(!hash.is_of(wrong));
        }
        assert_eq!(format!("{hash:?}"), "TokenHash([redacted])");
    }
}
