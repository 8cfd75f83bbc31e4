//! What people type, read into what the contracts take: amounts, spans of time, moments, addresses, offers.
//!
//! Every error says what was found and shows how it is written, and nothing is guessed: an amount without a unit could be
//! off by eighteen digits, an address whose checksum is wrong could be somebody else's.

use std::fmt;
use std::str::FromStr;

use alloy::primitives::{Address, B256, U256};
use flytrap_policy::{Offer, OfferMode};
use flytrap_record::text;
pub(crate) use flytrap_record::text::utc;

/// Something typed that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misread(pub(crate) String);

impl fmt::Display for Misread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misread {}

fn misread<T>(sentence: impl Into<String>) -> Result<T, Misread> {
    Err(Misread(sentence.into()))
}

/// An amount of ether, in wei.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount(pub(crate) u128);

const UNITS: [(&str, u32); 4] = [("ether", 18), ("eth", 18), ("gwei", 9), ("wei", 0)];

impl FromStr for Amount {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let wanted = || {
            Misread(format!(
                "`{text}` is no amount: write a number and its unit, such as 0.01ether, 20gwei or 5wei"
            ))
        };
        let text = text.trim();
        let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(wanted)?;
        let (number, unit) = (text[..split].trim(), text[split..].to_ascii_lowercase());
        let (_, decimals) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wanted)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|octet| octet.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || number.ends_with('.') {
            return Err(wanted());
        }
        let places = u32::try_from(fraction.len()).map_err(|_| wanted())?;
        if places > *decimals {
            return misread(format!(
                "`{text}` is finer than one wei: at most {decimals} digits after the point for {unit}"
            ));
        }
        let scaled: Option<u128> = (|| {
            let whole: u128 = whole.parse().ok()?;
            let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
            let whole = whole.checked_mul(10u128.pow(*decimals))?;
            whole.checked_add(fraction.checked_mul(10u128.pow(decimals - places))?)
        })();
        scaled.map(Self).ok_or_else(|| Misread(format!("`{text}` is more ether than there can be")))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&ether(U256::from(self.0)))
    }
}

/// An amount as people read it: in ether from a millionth on, else in wei; always exact.
pub(crate) fn ether(wei: U256) -> String {
    let unit = U256::from(10u64).pow(U256::from(18));
    if wei < U256::from(1_000_000_000_000u64) {
        return format!("{wei} wei");
    }
    let (whole, fraction) = (wei / unit, wei % unit);
    let fraction = format!("{fraction:0>18}");
    let fraction = fraction.trim_end_matches('0');
    if fraction.is_empty() { format!("{whole} ether") } else { format!("{whole}.{fraction} ether") }
}

/// A span of time, in seconds: `90s`, `15m`, `12h`, `30d`, `1h30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) u64);

const SPANS: [(char, u64); 5] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];

impl FromStr for Span {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let wanted = || {
            Misread(format!(
                "`{text}` is no span of time: write a number and its unit, such as 90s, 15m, 12h or 30d"
            ))
        };
        let mut seconds = 0u64;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wanted());
        }
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit())
                .filter(|end| *end > 0)
                .ok_or_else(wanted)?;
            let count: u64 = rest[..end].parse().map_err(|_| wanted())?;
            let unit = rest[end..].chars().next().ok_or_else(wanted)?;
            let (_, length) = SPANS.iter().find(|(name, _)| *name == unit).ok_or_else(wanted)?;
            seconds = count
                .checked_mul(*length)
                .and_then(|part| seconds.checked_add(part))
                .ok_or_else(wanted)?;
            rest = &rest[end + unit.len_utf8()..];
        }
        if seconds == 0 {
            return misread(format!("`{text}` is no time at all: at least 1s"));
        }
        Ok(Self(seconds))
    }
}

/// A span as people read it: `30d`, `1h30m`.
pub(crate) fn span(seconds: u64) -> String {
    let mut rest = seconds;
    let mut text = String::new();
    for (name, length) in [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)] {
        if rest >= length {
            text.push_str(&format!("{}{name}", rest / length));
            rest %= length;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}

/// A place in history: a block, a second, or so long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// `block:1234`
    Block(u64),
    /// `2026-11-24T12:00:00Z`, `2026-11-24`, or Unix seconds
    Second(u64),
    /// `2h`: so long before now
    Ago(u64),
}

impl FromStr for Moment {
    type Err = Misread;

    fn from_str(text: &str) -> Result<Self, Misread> {
        let wanted = || {
            Misread(format!(
                "`{text}` is no moment: write 2026-11-24T12:00:00Z, 2026-11-24, Unix seconds, block:1234, or 2h for two hours ago"
            ))
        };
        let text = text.trim();
        if let Some(height) = text.strip_prefix("block:") {
            return height.parse().map(Self::Block).map_err(|_| wanted());
        }
        if text.bytes().all(|octet| octet.is_ascii_digit()) && !text.is_empty() {
            return text.parse().map(Self::Second).map_err(|_| wanted());
        }
        if let Ok(Span(seconds)) = text.parse() {
            return Ok(Self::Ago(seconds));
        }
        text::moment(text).map(Self::Second).ok_or_else(wanted)
    }
}

impl Moment {
    /// The second it means, unless it is a block.
    pub(crate) fn second(self, now: u64) -> Option<u64> {
        match self {
            Self::Block(_) => None,
            Self::Second(second) => Some(second),
            Self::Ago(seconds) => Some(now.saturating_sub(seconds)),
        }
    }
}

/// An address in any spelling that is valid, with 0x or without; mixed case is a checksum and must be right (EIP-55).
pub(crate) fn address(text: &str) -> Result<Address, Misread> {
    text::wallet(text).map_err(|error| Misread(error.to_string()))
}

/// 32 octets in hexadecimal.
pub(crate) fn word(text: &str) -> Result<B256, Misread> {
    let wanted =
        || Misread(format!("`{text}` is no 32 octets: wanted 0x and 64 hexadecimal digits"));
    if !text.starts_with("0x") || text.len() != 66 {
        return Err(wanted());
    }
    text.parse().map_err(|_| wanted())
}

/// An offer: `closed`, `public`, `free/30d`, `0.01ether/30d`.
pub(crate) fn offer(text: &str) -> Result<Offer, Misread> {
    let wanted = || {
        Misread(format!(
            "`{text}` is no offer: write closed (only you grant), public (anyone, no transaction), free/30d (anyone claims 30 days at a \
             time) or a price and its period, such as 0.01ether/30d"
        ))
    };
    match text {
        "closed" => return Ok(Offer { mode: OfferMode::Closed, period: 0, price_wei: 0 }),
        "public" => return Ok(Offer { mode: OfferMode::Public, period: 0, price_wei: 0 }),
        _ => {}
    }
    let (price, period) = text.split_once('/').ok_or_else(wanted)?;
    let Amount(price_wei) = if price == "free" { Amount(0) } else { price.parse()? };
    let Span(seconds) = period.parse()?;
    let period = u32::try_from(seconds).map_err(|_| wanted())?;
    Ok(Offer { mode: OfferMode::Priced, period, price_wei })
}

/// An offer as [`offer`] reads it.
pub(crate) fn offer_text(offer: &Offer) -> String {
    match offer.mode {
        OfferMode::Closed => "closed".into(),
        OfferMode::Public => "public".into(),
        OfferMode::Priced if offer.price_wei == 0 => format!("free/{}", span(offer.period.into())),
        OfferMode::Priced => {
            format!("{}/{}", ether(U256::from(offer.price_wei)), span(offer.period.into()))
        }
    }
}

/// Per cent with at most two digits after the point, as basis points: `2.5`, `2.5%`.
pub(crate) fn per_cent(text: &str) -> Result<u128, Misread> {
    let wanted = || {
        Misread(format!(
            "`{text}` is no percentage: write a number from 0 to 100 such as 2.5 or 5%"
        ))
    };
    let number = text.strip_suffix('%').unwrap_or(text);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let plain = |part: &str| part.bytes().all(|octet| octet.is_ascii_digit());
    if whole.is_empty()
        || fraction.len() > 2
        || !plain(whole)
        || !plain(fraction)
        || whole.len() > 3
    {
        return Err(wanted());
    }
    let points: u128 = format!("{whole}{fraction:0<2}").parse().map_err(|_| wanted())?;
    if points > 10_000 { Err(wanted()) } else { Ok(points) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_need_a_unit_and_are_exact_to_the_wei() {
        let good = [
            ("0.01ether", 10_000_000_000_000_000),
            ("0.01 ETH", 10_000_000_000_000_000),
            ("5wei", 5),
            ("0wei", 0),
            ("1.5gwei", 1_500_000_000),
            ("0.000000000000000001ether", 1),
            ("340282366920938463463374607431768211455wei", u128::MAX),
        ];
        for (text, wei) in good {
            assert_eq!(text.parse(), Ok(Amount(wei)), "{text}");
        }
        let bad = [
            "5", "", "ether", "-1wei", "1.wei", ".5ether", "1,5ether", "0x5wei", "1 finney",
            "1e3wei", "5.5wei",
        ];
        for text in bad {
            assert!(text.parse::<Amount>().is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_finer_than_a_wei_or_beyond_the_type_are_refused() {
        assert!("0.0000000000000000001ether".parse::<Amount>().is_err());
        assert!("340282366920938463463374607431768211456wei".parse::<Amount>().is_err());
        assert!("340282366920938463464ether".parse::<Amount>().is_err());
    }

    #[test]
    fn amounts_are_shown_in_the_unit_that_reads_best_and_exactly() {
        assert_eq!(ether(U256::from(10_000_000_000_000_000u64)), "0.01 ether");
        assert_eq!(ether(U256::from(5)), "5 wei");
        assert_eq!(ether(U256::from(1_000_000_000_000_000_001u64)), "1.000000000000000001 ether");
        assert_eq!(ether(U256::from(2_000_000_000_000_000_000u64)), "2 ether");
    }

    #[test]
    fn spans_of_time_are_read_with_their_units() {
        let good =
            [("30d", 2_592_000), ("12h", 43_200), ("90s", 90), ("1h30m", 5_400), ("2w", 1_209_600)];
        for (text, seconds) in good {
            assert_eq!(text.parse(), Ok(Span(seconds)), "{text}");
        }
        let bad = [
            "30",
            "",
            "d",
            "1.5h",
            "-1d",
            "30 d",
            "1y",
            "0s",
            "99999999999999999999d",
            "18446744073709551615w",
            "3é",
        ];
        for text in bad {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert_eq!(span(5_400), "1h30m");
        assert_eq!(span(2_592_000), "30d");
    }

    const CHECKSUMMED: &str = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266";

    #[test]
    fn addresses_in_every_valid_spelling_are_the_same_address() {
        let wanted = address(CHECKSUMMED).expect("an address");
        let upper = format!("0x{}", CHECKSUMMED[2..].to_uppercase());
        let bare = CHECKSUMMED[2..].to_owned();
        for text in [CHECKSUMMED.to_lowercase(), upper.clone(), upper.replace("0x", "0X"), bare] {
            assert_eq!(address(&text), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn addresses_with_a_wrong_checksum_or_length_are_refused() {
        let swapped = CHECKSUMMED.replace("f39F", "F39f");
        let error = address(&swapped).expect_err("a wrong checksum");
        assert!(error.to_string().contains("checksum"), "{error}");
        for text in
            [&CHECKSUMMED[..41], &CHECKSUMMED[3..], "0x", "", &format!("{CHECKSUMMED}0"), "reader"]
        {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn offers_are_closed_public_free_or_priced_per_period() {
        assert_eq!(offer("closed").map(|offer| offer.mode), Ok(OfferMode::Closed));
        assert_eq!(offer("public").map(|offer| offer.mode), Ok(OfferMode::Public));
        let priced =
            Offer { mode: OfferMode::Priced, period: 86_400, price_wei: 10_000_000_000_000_000 };
        assert_eq!(offer("0.01ether/1d"), Ok(priced));
        assert_eq!(offer_text(&priced), "0.01 ether/1d");
        assert_eq!(
            offer("free/1h").map(|offer| (offer.mode, offer.price_wei)),
            Ok((OfferMode::Priced, 0))
        );
        for text in ["", "free", "0.01ether", "0.01/1d", "0.01ether/", "5wei/200y", "5wei/9999999d"]
        {
            assert!(offer(text).is_err(), "{text}");
        }
    }

    #[test]
    fn per_cent_becomes_basis_points() {
        for (text, points) in [("0", 0), ("2.5", 250), ("2.5%", 250), ("0.01%", 1), ("100", 10_000)]
        {
            assert_eq!(per_cent(text), Ok(points), "{text}");
        }
        for text in ["", "%", "100.01", "101", "-1", "1.234", "abc", "1e2"] {
            assert!(per_cent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_blocks_seconds_dates_or_so_long_ago() {
        assert_eq!("block:12".parse(), Ok(Moment::Block(12)));
        assert_eq!("1700000000".parse(), Ok(Moment::Second(1_700_000_000)));
        assert_eq!("2h".parse(), Ok(Moment::Ago(7_200)));
        assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(Moment::Second(1_700_000_000)));
        assert_eq!("2023-11-14T23:43:20+01:30".parse(), Ok(Moment::Second(1_700_000_000)));
        assert_eq!("2023-11-14 17:13:20-05:00".parse(), Ok(Moment::Second(1_700_000_000)));
        assert_eq!("2024-02-29".parse(), Ok(Moment::Second(1_709_164_800)));
        for text in [
            "",
            "yesterday",
            "block:",
            "2023-02-29",
            "2023-13-01",
            "2023-01-00",
            "2023-01-01T25:00:00Z",
            "2023-01-01T00:00:00",
            "2023-01-01T00:00:00+2",
            "2023-01-01T00:00:00+24:00",
            "2023-01-01T00:00:00Z+02:00",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_are_shown_as_utc() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(1_700_000_000), "2023-11-14 22:13:20 UTC");
        assert_eq!(utc(1_709_251_199), "2024-02-29 23:59:59 UTC");
        assert_eq!(utc(951_868_800), "2000-03-01 00:00:00 UTC");
    }
}
