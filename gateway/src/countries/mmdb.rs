//! Databases in MaxMind's format, whoever made them, read into ranges once.
//!
//! Not asked as they are: a look-up would decode what a file says at each connection, and what is wrong somewhere in it would show
//! when a client from there comes. So every network is asked for here, and a file that is wrong is refused as a whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant, SystemTime};

use flytrap_policy::Country;
use maxminddb::{LookupResult, MaxMindDbError, Reader};

use super::ranges::{Misplaced, Number, Ranges, Table};
use super::{TUNNELS, certain};

/// Why a file is no database of countries.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// By the reader's word.
    #[error("no whole MaxMind database: {0}")]
    Broken(#[from] MaxMindDbError),
    /// Its search tree.
    #[error("no whole MaxMind database: its search tree has more networks than nodes")]
    Tree,
    /// Too many ranges.
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
    /// Made to be read for ever.
    #[error("it takes more than {} s to read", PATIENCE.as_secs())]
    Slow,
}

/// An honest database takes a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a MaxMind database has towards its end, and no text.
const MARK: &[u8] = b"\xAB\xCD\xEFMaxMind.com";
/// How far from the end at most.
const MARK_WITHIN: usize = 128 * 1024;

/// Addresses that the Internet routes begin here.
const FIRST_V6: u128 = 0x2000 << 112;
const LAST_V6: u128 = FIRST_V6 | (u128::MAX >> 3);
/// Whether it looks like one from afar.
pub(super) fn is_meant(octets: &[u8]) -> bool {
    let end = &octets[octets.len().saturating_sub(MARK_WITHIN)..];
    end.windows(MARK.len()).any(|at| at == MARK)
}

/// All ranges, what the database calls itself, and when it was made.
pub(super) fn read(octets: &[u8]) -> Result<(Ranges, String, SystemTime), Unusable> {
    let reader = Reader::from_source(octets)?;
    let facts = reader.metadata();
    let made = facts.build_time()?;
    // A tree has one leaf more than nodes; what has more goes in circles.
    let mut left = u64::from(facts.node_count).saturating_mul(2).saturating_add(64);
    let mut ranges = Ranges::default();
    let begun = Instant::now();
    walk(&mut ranges.v4, 0, u32::MAX, &mut left, begun, |at| {
        network(&reader, IpAddr::V4(Ipv4Addr::from_bits(at)), u32::BITS).map(|found| {
            let (prefix, country) = found?;
            Some((at | u32::MAX.checked_shr(prefix).unwrap_or_default(), country))
        })
    })?;
    if facts.ip_version == 6 {
        walk(&mut ranges.v6, FIRST_V6, LAST_V6, &mut left, begun, |at| {
            // Databases repeat there all they say of IPv4.
            if let Some((_, last)) = TUNNELS.iter().find(|(first, _)| *first == at) {
                return Ok(Some((*last, None)));
            }
            network(&reader, IpAddr::V6(Ipv6Addr::from_bits(at)), u128::BITS).map(|found| {
                let (prefix, country) = found?;
                let last = at | u128::MAX.checked_shr(prefix).unwrap_or_default();
                // One network may hold a tunnel and more.
                let tunnel = TUNNELS.iter().find(|(first, _)| at < *first && *first <= last);
                Some((tunnel.map_or(last, |(first, _)| first - 1), country))
            })
        })?;
    }
    Ok((ranges, facts.database_type.clone(), made))
}

/// Asks for one network after the other, from `first` on, until there are no more addresses or `ask` knows nothing of this family.
fn walk<N: Number>(
    table: &mut Table<N>,
    first: N,
    end: N,
    left: &mut u64,
    begun: Instant,
    mut ask: impl FnMut(N) -> Result<Option<(N, Option<Country>)>, Unusable>,
) -> Result<(), Unusable> {
    let mut at = Some(first);
    while let Some(first) = at.filter(|at| *at <= end) {
        *left = left.checked_sub(1).ok_or(Unusable::Tree)?;
        if begun.elapsed() > PATIENCE {
            return Err(Unusable::Slow);
        }
        let Some((last, country)) = ask(first)? else { break };
        let last = last.min(end);
        table.push(first, last, country)?;
        at = last.next();
    }
    Ok(())
}

/// Prefix length and country of the network of an address. `None`: the database is of another family.
fn network(
    reader: &Reader<&[u8]>,
    address: IpAddr,
    bits: u32,
) -> Result<Option<(u32, Option<Country>)>, Unusable> {
    let found = reader.lookup(address)?;
    let network = found.network()?;
    if network.is_ipv4() != address.is_ipv4() {
        return Ok(None);
    }
    let prefix = u32::from(network.prefix()).min(bits);
    Ok(Some((prefix, country(&found)?)))
}

/// Where the address is used. Not `registered_country`: that is where its owner is at home.
fn country(found: &LookupResult<'_, &[u8]>) -> Result<Option<Country>, Unusable> {
    for path in [&maxminddb::path!["country", "iso_code"][..], &maxminddb::path!["country_code"]] {
        match found.decode_path::<&str>(path) {
            Ok(Some(code)) => {
                let code = code.as_bytes().try_into().ok();
                return Ok(code.and_then(Country::new).and_then(certain));
            }
            // Other databases have something else by this name.
            Ok(None) | Err(MaxMindDbError::Decoding { .. }) => {}
            Err(broken) => return Err(broken.into()),
        }
    }
    Ok(None)
}
