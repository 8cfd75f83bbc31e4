//! What people and their tools write and read: moments, wallets, the cells of a table.

use std::str::FromStr as _;

use alloy_primitives::Address;

/// Text that is no wallet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misspelt {
    /// Not an address at all.
    #[error("`{0}` is no address: wanted 0x and 40 hexadecimal digits")]
    NoAddress(String),
    /// Mixed case is a checksum (EIP-55), and it is wrong.
    #[error(
        "`{0}` has a wrong checksum, so a character is probably wrong: compare it with its source (all in lower case, it would be read without a check)"
    )]
    Checksum(String),
}

/// An address in any spelling that is valid, with 0x or without; mixed case is a checksum and must be right (EIP-55).
///
/// # Errors
/// [`Misspelt`].
pub fn wallet(text: &str) -> Result<Address, Misspelt> {
    let no_address = || Misspelt::NoAddress(text.to_owned());
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if digits.len() != 40 || !digits.bytes().all(|octet| octet.is_ascii_hexdigit()) {
        return Err(no_address());
    }
    let address = Address::from_str(digits).map_err(|_| no_address())?;
    let mixed = digits.bytes().any(|octet| octet.is_ascii_lowercase())
        && digits.bytes().any(|octet| octet.is_ascii_uppercase());
    if mixed && address.to_string()[2..] != *digits {
        return Err(Misspelt::Checksum(text.to_owned()));
    }
    Ok(address)
}

/// Reads `2026-11-24` (UTC) or, with its zone, `2026-11-24T12:00:00Z` or `2026-11-24T14:00:00+02:00` (RFC 3339 without parts of
/// seconds, proleptic Gregorian calendar) as a Unix second.
#[must_use]
pub fn moment(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, "00:00:00Z"));
    let (time, zone) = time.split_at(time.find(['Z', 'z', '+', '-'])?);
    let local = local_seconds(date, time)?;
    let away = |text: &str| {
        let (hours, minutes) = text.split_once(':')?;
        let is_plain = |part: &str| part.len() == 2;
        let (hours, minutes) =
            (is_plain(hours).then_some(hours)?, is_plain(minutes).then_some(minutes)?);
        let (hours, minutes) = (digits(hours)?, digits(minutes)?);
        (hours < 24 && minutes < 60).then_some(hours * 3_600 + minutes * 60)
    };
    match zone.split_at(1) {
        ("Z" | "z", "") => Some(local),
        ("+", east) => local.checked_sub(away(east)?),
        ("-", west) => local.checked_add(away(west)?),
        _ => None,
    }
}

/// A number of digits only: Rust's own reading takes a sign as well.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|octet| octet.is_ascii_digit()).then(|| text.parse().ok())?
}

fn local_seconds(date: &str, time: &str) -> Option<u64> {
    let mut date = date.split('-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split(':').map(digits);
    let (hour, minute, second) = (time.next()??, time.next()??, time.next().unwrap_or(Some(0))?);
    if date.next().is_some()
        || time.next().is_some()
        || !(1970..=9999).contains(&year)
        || !(1..=12).contains(&month)
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let days = days_before(year, month, day);
    // A day that its month does not have names another day: read back, it must be the same.
    (civil(days) == (year, month, day))
        .then_some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Days from 1970-01-01 to a date. The year starts in March, so that the leap day is its last.
fn days_before(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.clamp(1, 31) - 1;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_468)
}

fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// A second as people read it, UTC.
#[must_use]
pub fn utc(second: u64) -> String {
    if second == u64::MAX {
        return "for ever".into();
    }
    let (year, month, day) = civil(second / 86_400);
    let (hour, minute, second) = (second / 3_600 % 24, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

/// A day (Unix seconds / 86,400) as `2026-11-24`.
#[must_use]
pub fn day(day: u64) -> String {
    let (year, month, day) = civil(day);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Whether a terminal or a table does something else with it than show it.
#[must_use]
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A line of CSV (RFC 4180) that no spreadsheet takes for a formula: a cell that begins like one gets a quote before it.
#[must_use]
pub fn csv(cells: &[impl AsRef<str>]) -> String {
    let cell = |cell: &str| {
        let begins = ['=', '+', '-', '@', '\t', '\r'];
        let cell = if cell.starts_with(begins) { format!("'{cell}") } else { cell.to_owned() };
        if cell.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell
        }
    };
    cells.iter().map(|text| cell(text.as_ref())).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_or_times_with_their_zone() {
        assert_eq!(moment("2023-11-14T22:13:20Z"), Some(1_700_000_000));
        assert_eq!(moment("2023-11-14T23:43:20+01:30"), Some(1_700_000_000));
        assert_eq!(moment("2024-02-29"), Some(1_709_164_800));
        for text in [
            "",
            "2023-02-29",
            "2023-+1-01",
            "2023-01-01-01",
            "2023-01-18446744073709551615",
            "2023-01-01T00:00:00",
            "2023-01-01T00:00:00:00Z",
            "2023-01-01T00:00:00Z+02:00",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    #[test]
    fn a_day_is_written_as_it_is_read() {
        for number in [0, 59, 19_000, 19_782, 20_000] {
            assert_eq!(moment(&day(number)), Some(number * 86_400));
        }
    }

    #[test]
    fn no_cell_is_taken_for_a_formula() {
        assert_eq!(
            csv(&["=1+1", "-x", "@a", "a\"b,c", "plain"]),
            "'=1+1,'-x,'@a,\"a\"\"b,c\",plain"
        );
    }
}
