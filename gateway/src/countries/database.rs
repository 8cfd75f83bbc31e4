//! One file that says in which country addresses are.

use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use flytrap_policy::Country;
use sha2::{Digest as _, Sha256};

use super::mmdb;
use super::ranges::Ranges;
use super::text;

/// Octets of the largest file that is read; it is in memory while it is.
const MOST_OCTETS: u64 = 256 * 1024 * 1024;
/// Of a digest, what a record has room for.
const DIGEST_OCTETS: usize = 8;
/// Of a name likewise.
const MOST_NAME: usize = 24;
/// Dates beyond the year 9999 have no text.
const LAST_DATE: Duration = Duration::from_secs(253_402_300_799);

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The system's.
    #[error("{0}; install a database of countries there, or correct the path")]
    Unreadable(#[from] std::io::Error),
    /// A directory, a pipe, a device.
    #[error("is no regular file; correct the path")]
    NoFile,
    /// It grows without end, or is something else.
    #[error("has {0} octets, wanted at most {MOST_OCTETS}; correct the path")]
    TooLarge(u64),
    /// Neither format, or one that is broken.
    #[error(transparent)]
    Text(#[from] text::Unreadable),
    /// As its reader says.
    #[error(transparent)]
    Mmdb(#[from] mmdb::Unusable),
    /// A whole file about something else.
    #[error(
        "it knows the country of no address: wanted a database of countries (`country.iso_code` or `country_code`)"
    )]
    NoCountry,
    /// It says so.
    #[error("it says that it was made after the year 9999")]
    Date,
    /// Somebody writes to it.
    #[error("it changes while it is read: write it beside and rename it into place")]
    Changing,
}

/// The countries that one file knows.
#[derive(Debug)]
pub struct Database {
    /// What it calls itself, or its file's name; visible ASCII.
    name: String,
    /// When its data were made, by its own word or that of the file.
    made: SystemTime,
    digest: [u8; DIGEST_OCTETS],
    ranges: Ranges,
}

impl Database {
    /// Reads a whole file, in whichever format it is.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn read(path: &Path) -> Result<Self, Fault> {
        // Before it is opened: opening a pipe waits for somebody to write into it.
        let facts = fs::metadata(path)?;
        if !facts.is_file() {
            return Err(Fault::NoFile);
        }
        if facts.len() > MOST_OCTETS {
            return Err(Fault::TooLarge(facts.len()));
        }
        let mut octets =
            Vec::with_capacity(usize::try_from(facts.len()).unwrap_or_default().saturating_add(1));
        File::open(path)?.take(MOST_OCTETS).read_to_end(&mut octets)?;
        let of_file = path.file_name().map(|name| name.to_string_lossy().into_owned());
        Self::parse(&octets, of_file.unwrap_or_default(), facts.modified()?)
    }

    /// From what is in a file, its name, and when it was changed.
    fn parse(octets: &[u8], name: String, changed: SystemTime) -> Result<Self, Fault> {
        let (mut ranges, name, made) = if mmdb::is_meant(octets) {
            mmdb::read(octets)?
        } else {
            let (ranges, made) = text::read(octets)?;
            (ranges, name, made.unwrap_or(changed))
        };
        if ranges.is_empty() {
            return Err(Fault::NoCountry);
        }
        if made.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since > LAST_DATE) {
            return Err(Fault::Date);
        }
        ranges.v4.shrink();
        ranges.v6.shrink();
        // It goes into logs and records.
        let name = name.chars().filter(char::is_ascii_graphic).take(MOST_NAME).collect();
        let mut digest = [0; DIGEST_OCTETS];
        digest.copy_from_slice(&Sha256::digest(octets)[..DIGEST_OCTETS]);
        Ok(Self { name, made, digest, ranges })
    }

    pub(super) fn country_of(&self, address: IpAddr) -> Option<Country> {
        self.ranges.find(address)
    }

    /// When its data were made.
    pub(super) fn made(&self) -> SystemTime {
        self.made
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }

    /// For the record: which database, of which day, and the beginning of the SHA-256 of its file.
    pub(super) fn mark(&self) -> String {
        let digest = alloy_primitives::hex::encode(self.digest);
        format!("countries {} {digest} {}", self.day(), self.name)
    }

    /// Such as `25 Jun 2026`.
    fn day(&self) -> String {
        let before = self.made.duration_since(SystemTime::UNIX_EPOCH).is_err();
        let made = if before { SystemTime::UNIX_EPOCH } else { self.made };
        // `Thu, 25 Jun 2026 04:33:59 GMT`
        httpdate::fmt_http_date(made).get(5..16).unwrap_or_default().to_owned()
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ranges { v4, v6 } = &self.ranges;
        write!(
            f,
            "{} of {}, {} ranges of IPv4 and {} of IPv6, SHA-256 {}...",
            self.name,
            self.day(),
            v4.len(),
            v6.len(),
            alloy_primitives::hex::encode(self.digest)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(octets: &[u8]) -> Result<Database, Fault> {
        Database::parse(octets, "geo ip\n".to_owned(), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn the_mark_names_database_day_and_digest_and_fits_a_record() {
        let text = b"# Generated: Thu, 25 Jun 2026 04:33:59 GMT\n1,2,GB\n";
        let mark = parse(text).unwrap().mark();
        // Digest by `sha256sum`.
        assert_eq!(mark, "countries 25 Jun 2026 b1cae565241bee17 geoip");
        let long = Database::parse(text, "x".repeat(200), SystemTime::UNIX_EPOCH).unwrap();
        assert!(long.mark().len() <= flytrap_record::MOST_TEXT, "{}", long.mark());
    }

    #[test]
    fn a_file_without_a_date_is_as_old_as_the_file() {
        assert_eq!(parse(b"1,2,GB\n").unwrap().day(), "01 Jan 1970");
    }

    #[test]
    fn a_file_that_knows_no_country_is_refused_rather_than_believed() {
        for text in ["", "# nothing\n", "1,2,??\n"] {
            assert!(matches!(parse(text.as_bytes()), Err(Fault::NoCountry)), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(Database::read(dir.path()), Err(Fault::NoFile)));
        assert!(matches!(Database::read(Path::new("/dev/zero")), Err(Fault::NoFile)));
        assert!(matches!(Database::read(&dir.path().join("none")), Err(Fault::Unreadable(_))));
        let large = dir.path().join("large");
        File::create(&large).unwrap().set_len(MOST_OCTETS + 1).unwrap();
        assert!(matches!(Database::read(&large), Err(Fault::TooLarge(_))));
    }
}
