//! Ranges as text, as Debian's `tor-geoipdb` has them: `first,last,CC`, IPv4 addresses as decimal numbers, IPv6 ones as they are written,
//! `??` where no country is known, `#` before what is for people.

use std::net::Ipv6Addr;
use std::time::SystemTime;

use flytrap_policy::Country;

use super::certain;
use super::ranges::{Misplaced, Ranges};

/// A line that does not tell a range, or the end that the file does not have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {wrong}")]
pub struct Unreadable {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// Something else than a range.
    #[error(
        "no range; wanted `first,last,CC` with IPv4 addresses as decimal numbers or IPv6 addresses, as in Debian's tor-geoipdb, or else a whole MaxMind database"
    )]
    NoRange,
    /// Something else than a country.
    #[error("wanted a country of two upper-case letters, or `??`")]
    NoCountry,
    /// A range where it cannot be.
    #[error(transparent)]
    Misplaced(#[from] Misplaced),
    /// The file ends within it.
    #[error("it has no end: the file was cut off, fetch it again")]
    Cut,
}

/// What marks the line that says when the data were made.
const MADE: &str = "# Generated: ";

/// All ranges, and when the data were made, if the file says so.
pub(super) fn read(octets: &[u8]) -> Result<(Ranges, Option<SystemTime>), Unreadable> {
    let (mut ranges, mut made, mut lines) = (Ranges::default(), None, 0);
    for whole in octets.split_inclusive(|octet| *octet == b'\n') {
        lines += 1;
        let at = |wrong| Unreadable { line: lines, wrong };
        let text = whole.strip_suffix(b"\n").ok_or_else(|| at(Wrong::Cut))?;
        let text = std::str::from_utf8(text).map_err(|_| at(Wrong::NoRange))?.trim_end();
        if text.starts_with('#') {
            let told =
                text.strip_prefix(MADE).and_then(|date| httpdate::parse_http_date(date).ok());
            made = made.or(told);
        } else if !text.is_empty() {
            add(text, &mut ranges).map_err(at)?;
        }
    }
    Ok((ranges, made))
}

fn add(text: &str, ranges: &mut Ranges) -> Result<(), Wrong> {
    let mut fields = text.split(',');
    let (Some(first), Some(last), Some(code), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Wrong::NoRange);
    };
    let country = match code.as_bytes() {
        b"??" | b"ZZ" => None,
        letters => {
            let letters = letters.try_into().map_err(|_| Wrong::NoCountry)?;
            certain(Country::new(letters).ok_or(Wrong::NoCountry)?)
        }
    };
    match (number(first), number(last)) {
        (Some(first), Some(last)) => ranges.v4.push(first, last, country)?,
        (None, None) => {
            let address = |text: &str| text.parse::<Ipv6Addr>().map_err(|_| Wrong::NoRange);
            ranges.v6.push(address(first)?.to_bits(), address(last)?.to_bits(), country)?;
        }
        _ => return Err(Wrong::NoRange),
    }
    Ok(())
}

/// Digits only: the standard's parser takes a sign as well.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> (usize, Wrong) {
        let Unreadable { line, wrong } = read(text.as_bytes()).expect_err(text);
        (line, wrong)
    }

    #[test]
    fn ranges_of_both_families_are_read_with_the_date_of_their_header() {
        let text = "# by people\n#\n# Generated: Thu, 25 Jun 2026 04:33:59 GMT\n\n\
            16777216,16777471,AU\r\n16777472,16778239,??\n16778240,16779263,EU\n4294967295,4294967295,GB\n\
            2001:200::,2001:200:ffff:ffff:ffff:ffff:ffff:ffff,JP\n";
        let (ranges, made) = read(text.as_bytes()).unwrap();
        let told = |address: &str| ranges.find(address.parse().unwrap()).map(|c| c.to_string());
        for (address, wanted) in [
            ("1.0.0.0", Some("AU")),
            ("1.0.0.255", Some("AU")),
            ("1.0.1.0", None),
            ("1.0.4.0", None),
            ("255.255.255.255", Some("GB")),
            ("2001:200::1", Some("JP")),
            ("2001:201::", None),
        ] {
            assert_eq!(told(address).as_deref(), wanted, "{address}");
        }
        let since = made.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_secs(), 1_782_362_039);
    }

    #[test]
    fn what_is_no_range_is_refused_with_its_line() {
        for line in [
            "1,2",
            "1,2,GB,x",
            "a,b,GB",
            "1,::2,GB",
            "+1,2,GB",
            "-1,2,GB",
            "4294967296,4294967297,GB",
            "99999999999999999999999999,99999999999999999999999999,GB",
            "1.0.0.0,1.0.0.255,AU",
            ":::,::1,GB",
            "\u{2460},2,GB",
            "garbage",
            " 1,2,GB",
        ] {
            assert_eq!(wrong(&format!("# ok\n{line}\n")), (2, Wrong::NoRange), "{line}");
        }
        for code in ["gb", "G", "GBR", "", "G1", "é"] {
            assert_eq!(wrong(&format!("1,2,{code}\n")), (1, Wrong::NoCountry), "{code}");
        }
        assert!(read(b"1,2,GB\n\xFF\xFE\n").is_err());
    }

    #[test]
    fn ranges_that_overlap_or_are_out_of_order_are_refused_with_their_line() {
        let disordered = || Wrong::Misplaced(Misplaced::Disordered);
        assert_eq!(wrong("1,5,GB\n5,9,FR\n"), (2, disordered()));
        assert_eq!(wrong("9,9,GB\n1,2,FR\n"), (2, disordered()));
        assert_eq!(wrong("1,9,??\n2,3,FR\n"), (2, disordered()));
        assert_eq!(wrong("::1,::5,GB\n::4,::9,FR\n"), (2, disordered()));
        assert_eq!(wrong("#\n5,1,GB\n"), (2, Wrong::Misplaced(Misplaced::Backwards)));
    }

    #[test]
    fn a_file_that_ends_within_a_line_was_cut_off() {
        let whole = "1,2,GB\n30,45,FR\n";
        for cut in 1..whole.len() {
            let read = read(&whole.as_bytes()[..cut]);
            assert_eq!(read.is_ok(), whole[..cut].ends_with('\n'), "{cut}: {read:?}");
        }
        assert_eq!(wrong("1,2,GB\n30,45,FR"), (2, Wrong::Cut));
    }
}
