//! Values of the configuration file that are more than TOML's own types: durations, host and port, broker id, node URL.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use alloy_primitives::U256;
use ipnet::IpNet;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use url::Url;

/// Host name or IP address, and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

impl std::str::FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| {
            format!(
                "`{text}` {what}, wanted host:port such as \"127.0.0.1:1883\" or \"[::1]:1883\""
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
        let port: u16 = port.parse().map_err(|_| wrong("has no valid port"))?;
        if port == 0 {
            return Err(wrong("has port 0"));
        }
        let host = match host.strip_prefix('[').map(|h| h.strip_suffix(']')) {
            Some(Some(inner)) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(wrong("has no valid IPv6 address in its brackets")),
            None if host.contains(':') => {
                return Err(wrong("has an IPv6 address without brackets"));
            }
            None => host,
        };
        let is_name = |h: &str| {
            !h.is_empty() && h.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b))
        };
        if !is_name(host) {
            return Err(wrong("has no valid host name"));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// The brokers: one address, or a list of different ones.
#[derive(Debug)]
pub(super) struct Addresses(pub(super) Vec<HostPort>);

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Addresses;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("host:port, or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Addresses, E> {
                text.parse().map(|address| Addresses(vec![address])).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Addresses, A::Error> {
                let mut addresses = Vec::<HostPort>::new();
                while let Some(address) = list.next_element::<HostPort>()? {
                    if addresses.contains(&address) {
                        let twice = format!("{address} is named twice: name each broker once");
                        return Err(de::Error::custom(twice));
                    }
                    addresses.push(address);
                }
                if addresses.is_empty() {
                    return Err(de::Error::custom(
                        "the list names no broker: name at least one host:port",
                    ));
                }
                Ok(Addresses(addresses))
            }
        }
        d.deserialize_any(OneOrMany)
    }
}

/// A duration as text: a whole number and a unit (`ms`, `s`, `m`, `h`, `d`), more than zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no duration, wanted a whole number above zero and a unit, such as \"500ms\", \"10s\", \"5m\", \"2h\" or \"30d\""
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let milliseconds = match &text[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        match number.checked_mul(milliseconds) {
            Some(0) => Err(wrong()),
            // Beyond this, sums with a clock overflow; it is a hundred years.
            Some(ms) if ms <= 3_155_760_000_000 => Ok(Self(Duration::from_millis(ms))),
            _ => Err(format!("`{text}` is longer than a hundred years")),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// A broker id: a number, or text (decimal, or hexadecimal with 0x) where it is too large for TOML.
#[derive(Debug, Clone, Copy)]
pub(super) struct BrokerId(pub(super) U256);

impl<'de> Deserialize<'de> for BrokerId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Id;
        impl Visitor<'_> for Id {
            type Value = BrokerId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of the broker in BrokerRegistry, from 1 on")
            }
            fn visit_i64<E: de::Error>(self, id: i64) -> Result<BrokerId, E> {
                match u64::try_from(id) {
                    Ok(id) if id > 0 => Ok(BrokerId(U256::from(id))),
                    _ => Err(E::invalid_value(de::Unexpected::Signed(id), &self)),
                }
            }
            fn visit_str<E: de::Error>(self, id: &str) -> Result<BrokerId, E> {
                match id.parse::<U256>() {
                    Ok(id) if !id.is_zero() => Ok(BrokerId(id)),
                    _ => Err(E::invalid_value(de::Unexpected::Str(id), &self)),
                }
            }
        }
        d.deserialize_any(Id)
    }
}

/// A network, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Network(pub(super) IpNet);

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network = network.map_err(|_| {
            format!("`{text}` is no network, wanted such as \"10.0.0.0/8\", \"192.0.2.1\" or \"2001:db8::/32\"")
        })?;
        if network.prefix_len() == 0 {
            return Err(format!(
                "`{text}` is everyone, who could then claim any address: name the balancers only"
            ));
        }
        Ok(Self(network))
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// URL of a node.
#[derive(Debug, Clone)]
pub(super) struct NodeUrl(pub(super) Url);

impl<'de> Deserialize<'de> for NodeUrl {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        // The text may carry an access key, so a message never repeats it whole.
        let text = String::deserialize(d)?;
        let url = Url::parse(&text).map_err(|e| {
            de::Error::custom(format!(
                "no valid node URL ({e}), wanted such as \"http://127.0.0.1:8545\""
            ))
        })?;
        match url.scheme() {
            "http" | "https" | "ws" | "wss" if url.has_host() => Ok(Self(url)),
            "ipc" if !url.has_host() && url.path().len() > 1 => Ok(Self(url)),
            other => Err(de::Error::custom(format!(
                "a node URL with scheme `{other}`, wanted http, https, ws or wss and a host, or ipc:///path/of/socket"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
        let good = [
            ("1ms", 1),
            ("10s", 10_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("30d", 2_592_000_000),
        ];
        for (text, ms) in good {
            assert_eq!(text.parse(), Ok(Span(Duration::from_millis(ms))), "{text}");
        }
        for text in
            ["", "5", "s", "0s", "-1s", "1.5s", "1 s", "1w", "99999999999999999999s", "40000d", "é"]
        {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_is_an_address_with_or_without_a_prefix_and_never_everyone() {
        for text in ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "::1", "0.0.0.0/1"] {
            assert!(text.parse::<Network>().is_ok(), "{text}");
        }
        for text in ["", "10.0.0.0/33", "10.0.0", "host", "0.0.0.0/0", "::/0", "10.0.0.1:80"] {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn host_and_port_are_told_apart() {
        for (text, host, port) in [
            ("127.0.0.1:1883", "127.0.0.1", 1883),
            ("[::1]:1", "::1", 1),
            ("mq-1.example:65535", "mq-1.example", 65535),
        ] {
            let found: HostPort = text.parse().unwrap();
            assert_eq!((found.host.as_str(), found.port), (host, port));
            assert_eq!(found.to_string(), text);
        }
        for text in [
            "",
            "1883",
            ":1883",
            "host",
            "host:",
            "host:0",
            "host:65536",
            "::1:1883",
            "[::1:1883",
            "[host]:1",
            "a b:1",
            "host/x:1",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }
}
