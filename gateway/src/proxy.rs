//! Whose connection it is, where a balancer stands in between: the PROXY protocol in both directions, and who is believed.
//!
//! Towards clients, a listener that requires a header reads it before anything else, and only from listed peers; what anyone else
//! says about addresses is never looked at. Towards the broker, one of version 2 names the client.

use std::io;
use std::net::{IpAddr, SocketAddr};

use axum::http::header::{HeaderMap, HeaderName};
use ipnet::IpNet;
use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The rest of its fixed part: version and command, family, length.
const FIXED_OCTETS: usize = 16;
/// Longest variable part that is taken. With every known TLV and a client certificate's names it stays far below.
const MOST_VARIABLE: usize = 4096;
/// Longest header of version 1, its line end included.
const MOST_TEXT: usize = 107;

/// Networks whose word about a client's address is taken.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedPeers(Vec<IpNet>);

impl TrustedPeers {
    /// These networks.
    pub fn new(networks: Vec<IpNet>) -> Self {
        Self(networks)
    }

    /// Whether nobody is believed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `peer` is believed. An IPv4-mapped address counts as the IPv4 one.
    pub fn contains(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }

    #[cfg(test)]
    pub(crate) fn of(networks: &[&str]) -> Self {
        Self(networks.iter().map(|network| network.parse().unwrap()).collect())
    }
}

/// An address as proxies write it: with or without port, brackets, zone.
pub(crate) fn address(text: &str) -> Option<IpAddr> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        // An IPv6 address without brackets has no port but more than one colon.
        None => match text.split_once(':') {
            Some((host, port)) if !port.contains(':') => {
                port.parse::<u16>().ok()?;
                host
            }
            _ => text,
        },
    };
    // The zone means something on the proxy's machine only.
    let bare = bare.split_once('%').map_or(bare, |(address, _)| address);
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Who sent a request, as a listed peer and the listed ones before it say: the right-most hop that is not listed itself, since
/// everything to the left of it is only a claim. `None` if there is no such header.
///
/// # Errors
/// If that hop cannot be read.
pub(crate) fn forwarded_for(
    headers: &HeaderMap,
    trusted: &TrustedPeers,
) -> Result<Option<IpAddr>, ()> {
    let mut client = None;
    for hop in listed(headers, &FORWARDED_FOR)?.iter().rev() {
        let hop = address(hop).ok_or(())?;
        client = Some(hop);
        if !trusted.contains(hop) {
            break;
        }
    }
    Ok(client)
}

/// The elements of a list that may be spread over several headers.
pub(crate) fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Vec<&'a str>, ()> {
    let mut elements = Vec::new();
    for value in headers.get_all(name) {
        let text = value.to_str().map_err(|_| ())?;
        elements.extend(text.split(',').map(str::trim).filter(|element| !element.is_empty()));
    }
    Ok(elements)
}

/// Why there is no believable header.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoHeader {
    /// The connection ended, or broke.
    #[error("the connection ended before its PROXY header did: {0}")]
    Closed(#[from] io::Error),
    /// Something else came first.
    #[error("no PROXY header; does the balancer send one?")]
    Missing,
    /// More than anyone needs.
    #[error("a PROXY header of {0} octets")]
    TooLong(usize),
    /// Not as the specification says.
    #[error("a malformed PROXY header: {0}")]
    Malformed(String),
}

/// Reads a header of version 1 or 2 and not one octet more. Returns the client's address, `None` for a connection of the balancer's own
/// (LOCAL, UNKNOWN) or one that is no TCP connection: those count as what they are.
///
/// # Errors
/// [`NoHeader`]; the connection is then of no use.
pub(crate) async fn read_header<S: AsyncRead + Unpin>(
    stream: &mut S,
) -> Result<Option<SocketAddr>, NoHeader> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header[..6]).await?;
    if &header[..6] == b"PROXY " {
        header.truncate(6);
        // One by one, since what follows the line belongs to TLS or MQTT.
        while !header.ends_with(b"\r\n") {
            if header.len() == MOST_TEXT {
                return Err(NoHeader::TooLong(MOST_TEXT + 1));
            }
            header.push(stream.read_u8().await?);
        }
        return parse(&header);
    }
    if header[..6] != SIGNATURE[..6] {
        return Err(NoHeader::Missing);
    }
    stream.read_exact(&mut header[6..]).await?;
    if header != SIGNATURE {
        return Err(NoHeader::Missing);
    }
    header.resize(FIXED_OCTETS, 0);
    stream.read_exact(&mut header[SIGNATURE.len()..]).await?;
    let variable = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if variable > MOST_VARIABLE {
        return Err(NoHeader::TooLong(FIXED_OCTETS + variable));
    }
    header.resize(FIXED_OCTETS + variable, 0);
    stream.read_exact(&mut header[FIXED_OCTETS..]).await?;
    parse(&header)
}

fn parse(octets: &[u8]) -> Result<Option<SocketAddr>, NoHeader> {
    let malformed = |why: &dyn std::fmt::Display| NoHeader::Malformed(why.to_string());
    // The parser takes any octets behind UNKNOWN; the specification has ASCII text, and a space before what is to be ignored.
    let unknown = octets.strip_prefix(b"PROXY UNKNOWN");
    if unknown.is_some_and(|rest| !rest.is_ascii() || !rest.starts_with(b" ") && rest != b"\r\n") {
        return Err(malformed(&"what follows UNKNOWN is no text behind a space"));
    }
    let config = ParseConfig { include_tlvs: true, ..ParseConfig::default() };
    let (header, length) = ProxyHeader::parse(octets, config).map_err(|e| malformed(&e))?;
    if length != octets.len() {
        return Err(malformed(&"octets are left over"));
    }
    for tlv in header.tlvs() {
        tlv.map_err(|e| malformed(&e))?;
    }
    Ok(header
        .proxied_address()
        .filter(|proxied| proxied.protocol == Protocol::Stream)
        .map(|proxied| SocketAddr::new(proxied.source.ip().to_canonical(), proxied.source.port())))
}

/// Both ends of a client's connection, for the broker's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub client: SocketAddr,
    /// The address that it reached.
    pub gateway: SocketAddr,
}

/// A header of version 2; without ends, that of a connection of the gateway's own.
pub(crate) fn header(ends: Option<Ends>) -> Vec<u8> {
    let mut octets = Vec::new();
    let header = match ends {
        None => ProxyHeader::with_local(),
        Some(Ends { client, gateway }) => {
            // A header has one family: behind a balancer the client may be of another than the connection that brought it.
            let destination = if client.is_ipv4() == gateway.is_ipv4() {
                gateway
            } else {
                let unspecified: IpAddr =
                    if client.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
                SocketAddr::new(unspecified, gateway.port())
            };
            ProxyHeader::with_address(ProxiedAddress {
                protocol: Protocol::Stream,
                source: client,
                destination,
            })
        }
    };
    // The buffer grows, and addresses always fit.
    let _ = header.encode_v2(&mut octets);
    octets
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    /// A header of version 2 by hand: command, family, variable part.
    fn v2(command: u8, family: u8, variable: &[u8]) -> Vec<u8> {
        let length = u16::try_from(variable.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, variable].concat()
    }

    const ENDS: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x22, 0xb3];

    async fn read(octets: &[u8]) -> Result<Option<SocketAddr>, NoHeader> {
        let (mut ours, mut theirs) = duplex(8192);
        theirs.write_all(octets).await.unwrap();
        drop(theirs);
        read_header(&mut ours).await
    }

    #[tokio::test]
    async fn both_versions_name_the_client_and_leave_what_follows_unread() {
        let client = "192.0.2.7:4711".parse().unwrap();
        let six = "[2001:db8::7]:4711".parse().unwrap();
        let mut addresses = [0; 36];
        addresses[..16].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        addresses[32..34].copy_from_slice(&4711_u16.to_be_bytes());
        let mut mapped = [0; 36];
        mapped[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 7]);
        mapped[32..34].copy_from_slice(&4711_u16.to_be_bytes());
        let tlvs = [&ENDS[..], &[0x02, 0, 4], b"host", &[0x04, 0, 0]].concat();
        for (header, wanted) in [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 8883\r\n".to_vec(), Some(client)),
            (b"PROXY TCP6 2001:db8::7 ::1 4711 8883\r\n".to_vec(), Some(six)),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 8883\r\n".to_vec(), Some(client)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN 192.0.2.7 198.51.100.1 4711 8883\r\n".to_vec(), None),
            (v2(0x21, 0x11, &ENDS), Some(client)),
            (v2(0x21, 0x11, &tlvs), Some(client)),
            (v2(0x21, 0x21, &addresses), Some(six)),
            (v2(0x21, 0x21, &mapped), Some(client)),
            (v2(0x20, 0x11, &ENDS), None),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x21, 0x00, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let (mut ours, mut theirs) = duplex(8192);
            theirs.write_all(&[&header[..], b"\x10rest"].concat()).await.unwrap();
            drop(theirs);
            assert_eq!(read_header(&mut ours).await.unwrap(), wanted, "{header:02x?}");
            let mut rest = Vec::new();
            ours.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"\x10rest", "{header:02x?}");
        }
    }

    #[tokio::test]
    async fn a_header_may_come_octet_by_octet() {
        for header in
            [b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 8883\r\n".to_vec(), v2(0x21, 0x11, &ENDS)]
        {
            let (mut ours, mut theirs) = duplex(1);
            let writer = tokio::spawn(async move { theirs.write_all(&header).await });
            let read = tokio::time::timeout(Duration::from_secs(5), read_header(&mut ours)).await;
            assert!(read.unwrap().unwrap().is_some());
            writer.await.unwrap().unwrap();
        }
    }

    /// THREATS A35.
    #[tokio::test]
    async fn what_is_no_header_or_a_wrong_one_is_refused() {
        let tlv = |tlv: &[u8]| v2(0x21, 0x11, &[&ENDS, tlv].concat());
        for (octets, wanted) in [
            (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c".to_vec(), "no PROXY header"),
            (b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), "no PROXY header"),
            (b"GET /mqtt HTTP/1.1\r\n".to_vec(), "no PROXY header"),
            (b"PROXYTCP4 1.1.1.1".to_vec(), "no PROXY header"),
            (b"\r\n\r\n\0\r\nQUIX\n\x21\x11".to_vec(), "no PROXY header"),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 88830\r\n".to_vec(), "malformed"),
            (b"PROXY TCP4 2001:db8::7 ::1 4711 8883\r\n".to_vec(), "malformed"),
            (b"PROXY UDP4 192.0.2.7 198.51.100.1 4711 8883\r\n".to_vec(), "malformed"),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 8883\nXX\r\n".to_vec(), "malformed"),
            (b"PROXY X\r\n".to_vec(), "malformed"),
            (b"PROXY UNKNOWNX\r\n".to_vec(), "malformed"),
            (b"PROXY UNKNOWN\r\r\n".to_vec(), "malformed"),
            (b"PROXY UNKNOWN \xff\r\n".to_vec(), "malformed"),
            ([&b"PROXY "[..], &[b'x'; 200]].concat(), "108 octets"),
            (v2(0x31, 0x11, &ENDS), "malformed"),
            (v2(0x22, 0x11, &ENDS), "malformed"),
            (v2(0x21, 0x41, &ENDS), "malformed"),
            (v2(0x21, 0x11, &ENDS[..11]), "malformed"),
            (v2(0x21, 0x21, &ENDS), "malformed"),
            (tlv(&[0x02, 0, 5, b'h']), "malformed"),
            (tlv(&[0x02, 0xff, 0xff, b'h']), "malformed"),
            (tlv(&[0x02, 0]), "malformed"),
            (tlv(&[0x20, 0, 1, 1]), "malformed"),
            (v2(0x21, 0x11, &[0; 5000]), "5016 octets"),
            (v2(0x21, 0x11, &ENDS)[..20].to_vec(), "ended before"),
            (b"PROXY TCP4 192.0.2.7".to_vec(), "ended before"),
            (Vec::new(), "ended before"),
        ] {
            let refused = read(&octets).await.unwrap_err().to_string();
            assert!(refused.contains(wanted), "{octets:02x?}: {refused}");
        }
    }

    #[test]
    fn addresses_are_read_as_proxies_write_them() {
        for (text, wanted) in [
            ("192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7:4711", Some("192.0.2.7")),
            ("2001:db8::7", Some("2001:db8::7")),
            ("[2001:db8::7]", Some("2001:db8::7")),
            ("[2001:db8::7]:4711", Some("2001:db8::7")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("::ffff:192.0.2.7", Some("192.0.2.7")),
            ("192.0.2.7:port", None),
            ("192.0.2", None),
            ("[2001:db8::7", None),
            ("unknown", None),
            ("_hidden", None),
            ("", None),
        ] {
            assert_eq!(address(text), wanted.map(|ip| ip.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn only_listed_networks_are_believed() {
        let trusted = TrustedPeers::of(&["10.0.0.0/8", "2001:db8::/32"]);
        for (peer, wanted) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("::ffff:10.0.0.1", true),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
            ("::1", false),
        ] {
            assert_eq!(trusted.contains(peer.parse().unwrap()), wanted, "{peer}");
        }
        assert!(!TrustedPeers::default().contains([10, 0, 0, 1].into()));
    }

    #[tokio::test]
    async fn what_is_sent_is_what_is_read() {
        let gateway = "198.51.100.1:8883".parse().unwrap();
        for client in ["192.0.2.7:4711", "[2001:db8::7]:4711"] {
            let client = client.parse().unwrap();
            let sent = header(Some(Ends { client, gateway }));
            assert_eq!(read(&sent).await.unwrap(), Some(client), "{sent:02x?}");
        }
        assert_eq!(header(None), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        assert_eq!(read(&header(None)).await.unwrap(), None);
    }

    proptest! {
        #[test]
        fn no_octets_make_it_panic(octets in proptest::collection::vec(any::<u8>(), 0..300), command in any::<u8>(), family in any::<u8>()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let _ = read(&octets).await;
                let _ = read(&v2(command, family, &octets)).await;
                let _ = read(&v2(0x21, 0x11, &octets)).await;
                let _ = read(&[b"PROXY ", &octets[..], b"\r\n"].concat()).await;
            });
        }
    }
}
