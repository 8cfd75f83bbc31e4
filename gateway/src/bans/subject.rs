//! Whom a ban is against, as people write it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use alloy_primitives::{Address, B256};
use flytrap_policy::Origin;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Whom a ban is against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A wallet, or a device key by itself.
    Wallet(Address),
    /// One origin: an IPv4 address, an IPv6 /64.
    Origin(Origin),
    /// More than one origin. Holds on this gateway only, as the chain has no word for it.
    Network(IpNet),
    /// An origin of which only the pseudonym is known: banned by another gateway.
    Pseudonym(B256),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wallet(wallet) => write!(f, "{wallet:#x}"),
            Self::Origin(origin) => origin.fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Pseudonym(pseudonym) => pseudonym.fmt(f),
        }
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "{text:?} {what}, wanted a wallet (0x and 40 hexadecimal digits), an address, a network such as \
                 192.0.2.0/24 or 2001:db8::/48, or an origin's pseudonym (0x and 64)"
            )
        };
        if let Some(digits) = text.strip_prefix("0x") {
            return match digits.len() {
                40 => digits.parse().map(Self::Wallet).map_err(|_| wrong("is no wallet")),
                64 => digits.parse().map(Self::Pseudonym).map_err(|_| wrong("is no pseudonym")),
                _ => Err(wrong("is neither wallet nor pseudonym")),
            };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Origin(address.into()));
        }
        let network: IpNet = text.parse().map_err(|_| wrong("is none of these"))?;
        let network = network.trunc();
        match (network, network.prefix_len()) {
            (_, 0) => Err(wrong("is everyone")),
            (IpNet::V4(_), 32) | (IpNet::V6(_), 64) => Ok(Self::Origin(network.addr().into())),
            (IpNet::V6(_), 65..) => {
                Err(wrong("is less than an IPv6 origin, which is a /64: name that"))
            }
            _ => Ok(Self::Network(network)),
        }
    }
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_as_the_same() {
        for (text, kind) in [
            ("0x00000000000000000000000000000000000000aB", "wallet"),
            ("192.0.2.7", "origin"),
            ("192.0.2.7/32", "origin"),
            ("::ffff:192.0.2.7", "origin"),
            ("2001:db8:1:2::3", "origin"),
            ("2001:db8:1:2::/64", "origin"),
            ("192.0.2.9/24", "network"),
            ("2001:db8::/48", "network"),
            (&format!("0x{}", "ab".repeat(32)), "pseudonym"),
        ] {
            let subject: Subject = text.parse().unwrap();
            let found = match subject {
                Subject::Wallet(_) => "wallet",
                Subject::Origin(_) => "origin",
                Subject::Network(_) => "network",
                Subject::Pseudonym(_) => "pseudonym",
            };
            assert_eq!(found, kind, "{text}");
            assert_eq!(subject.to_string().parse(), Ok(subject), "{text}");
        }
        let network: Subject = "192.0.2.9/24".parse().unwrap();
        assert_eq!(network.to_string(), "192.0.2.0/24");
    }

    #[test]
    fn nobody_and_everybody_are_refused() {
        for text in
            ["", "0x", "0x12", "host", "192.0.2.0/33", "0.0.0.0/0", "::/0", "2001:db8::/65", "é"]
        {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }
}
