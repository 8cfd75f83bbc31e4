//! A PROXY header is believed only as the specification writes it, to its last octet and no further.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use flytrap_gateway::fuzzing::proxy_header;
use libfuzzer_sys::fuzz_target;

/// Version 1, read by its grammar.
fn line(text: &str) -> Option<Option<SocketAddr>> {
    let fields: Vec<&str> = text.strip_suffix("\r\n")?.split(' ').collect();
    match fields[..] {
        ["PROXY", "UNKNOWN", ..] => Some(None),
        ["PROXY", family, source, target, port, other] => {
            let (source, target): (IpAddr, IpAddr) = (source.parse().ok()?, target.parse().ok()?);
            if source.is_ipv4() != (family == "TCP4") || target.is_ipv4() != (family == "TCP4") || !matches!(family, "TCP4" | "TCP6") {
                return None;
            }
            let (port, _): (u16, u16) = (port.parse().ok()?, other.parse().ok()?);
            Some(Some(SocketAddr::new(source.to_canonical(), port)))
        }
        _ => None,
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((found, left)) = proxy_header(data) else { return };
    let (header, behind) = data.split_at(data.len() - left);
    // Nothing behind it matters, and nothing less is it.
    assert_eq!(proxy_header(header), Some((found, 0)));
    for short in 0..header.len() {
        assert_eq!(proxy_header(&header[..short]), None);
    }
    let _ = behind;
    if header.starts_with(b"PROXY ") {
        let text = std::str::from_utf8(header).expect("a header of version 1 is text");
        assert!(header.len() <= 107);
        assert_eq!(line(text), Some(found), "{text:?}");
    } else {
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        assert_eq!(header.len(), 16 + length);
        assert_eq!(header[12] >> 4, 2);
        let wanted = match (header[12], header[13]) {
            (0x21, 0x11) => Some(SocketAddr::new(IpAddr::from([header[16], header[17], header[18], header[19]]), u16::from_be_bytes([header[24], header[25]]))),
            (0x21, 0x21) => {
                let octets: [u8; 16] = header[16..32].try_into().expect("sixteen octets");
                Some(SocketAddr::new(IpAddr::from(octets).to_canonical(), u16::from_be_bytes([header[48], header[49]])))
            }
            _ => None,
        };
        assert_eq!(found, wanted);
    }
});
