//! Databases of MaxMind's format, written here octet by octet, and what the whole answers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use prometheus_client::registry::Registry;

use super::mmdb::{Unusable, read};
use super::ranges::Ranges;
use super::*;

/// A value of the format: maps, text and numbers are all that is needed.
#[derive(Clone)]
enum Value {
    Text(&'static str),
    Short(u16),
    Word(u32),
    Long(u64),
    Map(Vec<(&'static str, Value)>),
    List(Vec<Value>),
}
use Value::{List, Long, Map, Short, Text, Word};

impl Value {
    /// Type and size, then what is in it; sizes here stay below 29.
    fn write(&self, out: &mut Vec<u8>) {
        let small = |size: usize| u8::try_from(size).unwrap();
        match self {
            Text(text) => {
                out.push(2 << 5 | small(text.len()));
                out.extend_from_slice(text.as_bytes());
            }
            Short(number) => {
                out.push(5 << 5 | 2);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Word(number) => {
                out.push(6 << 5 | 4);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Long(number) => {
                // An extended type: 9 - 7.
                out.extend_from_slice(&[8, 2]);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Map(fields) => {
                out.push(7 << 5 | small(fields.len()));
                for (key, value) in fields {
                    Text(key).write(out);
                    value.write(out);
                }
            }
            List(values) => {
                out.extend_from_slice(&[small(values.len()), 4]);
                values.iter().for_each(|value| value.write(out));
            }
        }
    }
}

/// A node's child.
#[derive(Clone, Copy)]
enum Child {
    Nothing,
    Node(u32),
    Data(u32),
}

/// Networks as bits (first address, prefix length) with what is said of each, in a tree of an IP version.
fn mmdb(version: u16, networks: &[(u128, u32, Value)]) -> Vec<u8> {
    let bits = if version == 4 { 32 } else { 128 };
    let (mut nodes, mut data) = (vec![[Child::Nothing; 2]], Vec::new());
    for (first, prefix, value) in networks {
        let offset = u32::try_from(data.len()).unwrap();
        value.write(&mut data);
        let mut at = 0;
        for depth in 0..*prefix {
            let side = usize::try_from(first >> (bits - 1 - depth) & 1).unwrap();
            if depth + 1 == *prefix {
                nodes[at][side] = Child::Data(offset);
            } else if let Child::Node(next) = nodes[at][side] {
                at = next as usize;
            } else {
                let next = nodes.len();
                nodes[at][side] = Child::Node(u32::try_from(next).unwrap());
                nodes.push([Child::Nothing; 2]);
                at = next;
            }
        }
    }
    file(version, &nodes, &data)
}

fn file(version: u16, nodes: &[[Child; 2]], data: &[u8]) -> Vec<u8> {
    let count = u32::try_from(nodes.len()).unwrap();
    let mut out = Vec::new();
    for child in nodes.iter().flatten() {
        let record = match child {
            Child::Nothing => count,
            Child::Node(number) => *number,
            Child::Data(offset) => count + 16 + offset,
        };
        out.extend_from_slice(&record.to_be_bytes());
    }
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(data);
    out.extend_from_slice(b"\xAB\xCD\xEFMaxMind.com");
    Map(vec![
        ("binary_format_major_version", Short(2)),
        ("binary_format_minor_version", Short(0)),
        ("build_epoch", Long(1_782_362_039)),
        ("database_type", Text("Test-Country")),
        ("description", Map(vec![("en", Text("a test"))])),
        ("ip_version", Short(version)),
        ("languages", List(vec![Text("en")])),
        ("node_count", Word(count)),
        ("record_size", Short(32)),
    ])
    .write(&mut out);
    out
}

fn in_country(code: &'static str) -> Value {
    let other = Map(vec![("iso_code", Text("XX"))]);
    Map(vec![
        ("continent", Text("EU")),
        ("registered_country", other),
        ("country", Map(vec![("geoname_id", Word(7)), ("iso_code", Text(code))])),
    ])
}

fn of(address: &str) -> u128 {
    match address.parse().unwrap() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// IPv4 as it stands in databases of both families, an alias of it for 6to4 where it would be, and IPv6.
fn both() -> Vec<u8> {
    mmdb(
        6,
        &[
            (of("1.0.0.0"), 96 + 24, in_country("AU")),
            (of("1.0.1.0"), 96 + 24, in_country("AU")),
            (of("81.2.69.0"), 96 + 24, in_country("GB")),
            (of("255.255.255.255"), 128, in_country("FR")),
            (of("2001::"), 32, in_country("US")),
            (of("2001:200::"), 32, in_country("JP")),
            (of("2002::"), 16, in_country("US")),
            (of("3fff:ffff::"), 32, in_country("DE")),
            (of("fc00::"), 7, in_country("DE")),
        ],
    )
}

fn found(ranges: &Ranges, address: &str) -> Option<String> {
    ranges.find(address.parse().unwrap()).map(|country| country.to_string())
}

#[test]
fn a_maxmind_database_is_read_whole_with_name_and_date() {
    let (ranges, name, made) = read(&both()).unwrap();
    assert_eq!(name, "Test-Country");
    assert_eq!(made, UNIX_EPOCH + Duration::from_secs(1_782_362_039));
    for (address, wanted) in [
        ("1.0.0.0", Some("AU")),
        ("1.0.1.255", Some("AU")),
        ("1.0.2.0", None),
        ("0.255.255.255", None),
        ("81.2.69.142", Some("GB")),
        ("255.255.255.255", Some("FR")),
        ("2001:200::", Some("JP")),
        ("2001:200:ffff:ffff:ffff:ffff:ffff:ffff", Some("JP")),
        ("2001:201::", None),
        ("3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Some("DE")),
        // Tunnels are nowhere, whatever is said of them.
        ("2001::1", None),
        ("2002:5102:458e::1", None),
    ] {
        assert_eq!(found(&ranges, address).as_deref(), wanted, "{address}");
    }
    assert_eq!(ranges.v4.len(), 3, "neighbours are one");
}

#[test]
fn a_database_of_one_family_knows_nothing_of_the_other() {
    let (ranges, ..) = read(&mmdb(4, &[(of("81.2.69.0"), 24, in_country("GB"))])).unwrap();
    assert_eq!(found(&ranges, "81.2.69.255").as_deref(), Some("GB"));
    assert_eq!((found(&ranges, "81.2.70.0"), ranges.v6.len()), (None, 0));
    let (ranges, ..) = read(&mmdb(6, &[(of("2a00::"), 16, in_country("FR"))])).unwrap();
    assert_eq!(found(&ranges, "2a00::1").as_deref(), Some("FR"));
    assert_eq!(ranges.v4.len(), 0);
}

/// What is not where a country should be is none, and where the owner of a network is at home is not asked.
#[test]
fn a_country_is_looked_for_in_two_places_and_nowhere_else() {
    let registered = Map(vec![("iso_code", Text("US"))]);
    for (value, wanted) in [
        (in_country("GB"), Some("GB")),
        (Map(vec![("country_code", Text("GB"))]), Some("GB")),
        (Map(vec![("country", Text("Kingdom")), ("country_code", Text("GB"))]), Some("GB")),
        (Map(vec![("registered_country", registered)]), None),
        (Map(vec![("country", Map(vec![]))]), None),
        (in_country("gb"), None),
        (in_country("GBR"), None),
        (in_country("ZZ"), None),
        (Map(vec![("country_code", Word(826))]), None),
        (Text("GB"), None),
    ] {
        let (ranges, ..) = read(&mmdb(4, &[(of("1.0.0.0"), 8, value)])).unwrap();
        assert_eq!(found(&ranges, "1.2.3.4").as_deref(), wanted);
    }
}

#[test]
fn a_tree_that_goes_in_circles_is_refused_and_not_walked_for_ever() {
    let circle = [[Child::Node(0), Child::Node(0)]];
    for version in [4, 6] {
        let refused = read(&file(version, &circle, &[]));
        assert!(matches!(refused, Err(Unusable::Tree)), "{refused:?}");
    }
    // Each level twice the same: 2^32 networks in 32 nodes, two countries in turn.
    let mut data = Vec::new();
    in_country("GB").write(&mut data);
    let other = u32::try_from(data.len()).unwrap();
    in_country("FR").write(&mut data);
    let mut nodes: Vec<_> = (1..32).map(|next| [Child::Node(next); 2]).collect();
    nodes.push([Child::Data(0), Child::Data(other)]);
    let refused = read(&file(4, &nodes, &data));
    assert!(matches!(refused, Err(Unusable::Tree)), "{refused:?}");
}

/// Every cut and every changed octet is an error or another database, and never the end of the process.
#[test]
fn a_broken_maxmind_database_does_no_harm() {
    let whole = both();
    let mut refused = 0;
    for length in 0..whole.len() {
        refused += usize::from(read(&whole[..length]).is_err());
    }
    assert_eq!(refused, whole.len(), "each cut takes something of the metadata");
    for at in 0..whole.len() {
        for mask in [0x01, 0x80, 0xFF] {
            let mut broken = whole.clone();
            broken[at] ^= mask;
            let _ = read(&broken);
        }
    }
}

#[test]
fn only_addresses_that_the_internet_routes_are_anywhere() {
    for address in [
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "127.0.0.1",
        "169.254.1.1",
        "100.64.0.1",
        "100.127.255.255",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fdff::1",
        "ff02::1",
        "64:ff9b::102:304",
        "2001::1",
        "2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
        "2002::",
        "2002:5102:458e::1",
    ] {
        assert!(!is_routed(address.parse().unwrap()), "{address}");
    }
    for address in [
        "1.0.0.1",
        "172.15.0.1",
        "172.32.0.1",
        "100.63.0.1",
        "100.128.0.1",
        "2001:db8::1",
        "2001:1::1",
        "2003::1",
        "3fff::1",
    ] {
        assert!(is_routed(address.parse().unwrap()), "{address}");
    }
}

fn open(files: &[&Path]) -> (Arc<Countries>, Keeper) {
    let databases = files.iter().map(|path| (*path).to_owned()).collect();
    let config = CountriesConfig { databases, poll: Duration::from_secs(10) };
    Countries::open(&config, Metrics::register(&mut Registry::default()))
}

#[test]
fn the_first_database_that_knows_an_address_has_the_word_and_one_that_is_missing_keeps_none_away() {
    let dir = tempfile::tempdir().unwrap();
    let [text, binary, none] = ["geoip", "country.mmdb", "none"].map(|name| dir.path().join(name));
    // 1.0.0.0 to 1.0.0.255, and all of 10/8.
    fs::write(&text, "16777216,16777471,NZ\n167772160,184549375,NZ\n").unwrap();
    fs::write(&binary, both()).unwrap();
    let (countries, _keeper) = open(&[&none, &text, &binary]);
    let told: BTreeMap<&str, Option<String>> =
        ["1.0.0.1", "::ffff:1.0.0.1", "1.0.1.1", "2001:200::1", "9.9.9.9", "10.0.0.1"]
            .into_iter()
            .map(|a| (a, countries.country_of(a.parse().unwrap()).map(|c| c.to_string())))
            .collect();
    let told: Vec<_> = told.iter().map(|(at, country)| (*at, country.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("1.0.0.1", Some("NZ")),
            ("1.0.1.1", Some("AU")),
            ("10.0.0.1", None),
            ("2001:200::1", Some("JP")),
            ("9.9.9.9", None),
            ("::ffff:1.0.0.1", Some("NZ")),
        ]
    );
}

#[test]
fn metrics_tell_the_age_and_what_is_missing_and_nothing_without_databases() {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("country.mmdb");
    fs::write(&binary, both()).unwrap();
    let told = |files: &[&Path]| {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(CountriesCollector(open(files).0)));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    };
    assert_eq!(told(&[]), "# EOF\n");
    let none = dir.path().join("none");
    let text = told(&[&binary, &none]);
    assert!(text.contains("country_databases_missing 1.0"), "{text}");
    let age = text.lines().find_map(|line| line.strip_prefix("country_database_age_seconds "));
    let age: f64 = age.unwrap().parse().unwrap();
    let made = UNIX_EPOCH + Duration::from_secs(1_782_362_039);
    let wanted = SystemTime::now().duration_since(made).unwrap_or_default().as_secs_f64();
    assert!((wanted - age).abs() < 5.0, "{age}");
    assert!(told(&[&none]).contains("country_database_age_seconds inf"), "{}", told(&[&none]));
}
