//! Countries, and from which of them a topic may be used.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Letters of the alphabet.
const LETTERS: u8 = 26;
/// Words of 64 bits that have a bit for each pair of letters.
const WORDS: usize = (LETTERS as usize * LETTERS as usize).div_ceil(64);

/// A country by the two upper-case letters of ISO 3166-1. Which pairs are countries today is for the tools to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

impl Country {
    /// `None` unless it is two letters A to Z; nor for `ZZ`, which databases say where they know no country.
    #[must_use]
    pub const fn new(code: [u8; 2]) -> Option<Self> {
        let [first, second] = code;
        let is_code = first.is_ascii_uppercase() && second.is_ascii_uppercase();
        if is_code && !(first == b'Z' && second == b'Z') { Some(Self(code)) } else { None }
    }

    /// Its letters.
    #[must_use]
    pub const fn code(self) -> [u8; 2] {
        self.0
    }

    /// Word and bit of a [`Countries`].
    fn place(self) -> (usize, u64) {
        let [first, second] = self.0.map(|letter| usize::from(letter - b'A'));
        let number = first * usize::from(LETTERS) + second;
        (number / 64, 1 << (number % 64))
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", char::from(self.0[0]), char::from(self.0[1]))
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Country {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let code = String::deserialize(deserializer)?;
        let letters = <[u8; 2]>::try_from(code.as_bytes()).ok();
        letters.and_then(Self::new).ok_or_else(|| D::Error::custom(format!("no country: {code}")))
    }
}

/// A set of countries: one bit for each pair of letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Countries([u64; WORDS]);

impl Countries {
    /// Is it one of them?
    #[must_use]
    #[inline]
    pub fn contains(&self, country: Country) -> bool {
        let (word, bit) = country.place();
        self.0[word] & bit != 0
    }

    /// All of them, in the order of their letters.
    pub fn iter(&self) -> impl Iterator<Item = Country> {
        let letters = || b'A'..=b'Z';
        let all = letters().flat_map(move |first| letters().map(move |second| [first, second]));
        all.filter_map(Country::new).filter(|country| self.contains(*country))
    }
}

impl FromIterator<Country> for Countries {
    fn from_iter<I: IntoIterator<Item = Country>>(all: I) -> Self {
        let mut set = Self::default();
        for country in all {
            let (word, bit) = country.place();
            set.0[word] |= bit;
        }
        set
    }
}

/// How the countries of a rule are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CountryMode {
    /// There is no rule.
    #[default]
    Any,
    /// They are the only ones.
    Only,
    /// All but they.
    Except,
}

/// From which countries a topic may be used, by whom ever.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum CountryRule {
    /// From everywhere, and if nobody knows from where.
    #[default]
    Any,
    /// From these only.
    Only(Arc<Countries>),
    /// From all but these.
    Except(Arc<Countries>),
}

impl CountryRule {
    /// The rule that an event tells. `codes` mean nothing where the mode is `Any`.
    #[must_use]
    pub fn new(mode: CountryMode, codes: &[Country]) -> Self {
        let set = || Arc::new(codes.iter().copied().collect());
        match mode {
            CountryMode::Any => Self::Any,
            CountryMode::Only => Self::Only(set()),
            CountryMode::Except => Self::Except(set()),
        }
    }

    /// How its countries are meant.
    #[must_use]
    pub const fn mode(&self) -> CountryMode {
        match self {
            Self::Any => CountryMode::Any,
            Self::Only(_) => CountryMode::Only,
            Self::Except(_) => CountryMode::Except,
        }
    }

    /// Its countries, none where there is no rule.
    #[must_use]
    pub fn countries(&self) -> Option<&Countries> {
        match self {
            Self::Any => None,
            Self::Only(set) | Self::Except(set) => Some(set),
        }
    }

    /// May it be used from there? `None` is a country that is not known, from which nothing with a rule may be used.
    #[must_use]
    #[inline]
    pub fn admits(&self, from: Option<Country>) -> bool {
        match (self, from) {
            (Self::Any, _) => true,
            (_, None) => false,
            (Self::Only(set), Some(country)) => set.contains(country),
            (Self::Except(set), Some(country)) => !set.contains(country),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every() -> Vec<Country> {
        let letters = || b'A'..=b'Z';
        letters()
            .flat_map(|first| letters().map(move |second| [first, second]))
            .filter_map(Country::new)
            .collect()
    }

    #[test]
    fn a_country_is_two_upper_case_letters_and_not_zz() {
        assert_eq!(every().len(), 26 * 26 - 1);
        for code in [*b"ZZ", *b"gb", *b"G1", *b"@A", *b"A[", [0, 0], [0xC3, 0x9C]] {
            assert_eq!(Country::new(code), None, "{code:?}");
        }
        assert_eq!(Country::new(*b"GB").map(|country| country.to_string()).as_deref(), Some("GB"));
    }

    #[test]
    fn a_set_has_what_was_put_in_and_nothing_else() {
        for country in every() {
            let set: Countries = [country].into_iter().collect();
            assert_eq!(set.iter().collect::<Vec<_>>(), [country]);
        }
        let all: Countries = every().into_iter().collect();
        assert_eq!(all.iter().collect::<Vec<_>>(), every());
        assert_eq!(Countries::default().iter().count(), 0);
    }

    #[test]
    fn a_rule_admits_by_its_mode_and_never_an_unknown_country() {
        let [gb, us] = [*b"GB", *b"US"].map(|code| Country::new(code).unwrap());
        let admits = |mode, from| CountryRule::new(mode, &[gb]).admits(from);
        assert!(admits(CountryMode::Only, Some(gb)) && !admits(CountryMode::Only, Some(us)));
        assert!(!admits(CountryMode::Except, Some(gb)) && admits(CountryMode::Except, Some(us)));
        assert!(!admits(CountryMode::Only, None) && !admits(CountryMode::Except, None));
        assert!([None, Some(gb)].iter().all(|from| admits(CountryMode::Any, *from)));
    }

    #[test]
    fn countries_are_json_strings_that_must_be_codes() {
        let gb = Country::new(*b"GB").unwrap();
        assert_eq!(serde_json::to_string(&gb).unwrap(), r#""GB""#);
        assert_eq!(serde_json::from_str::<Country>(r#""GB""#).unwrap(), gb);
        for wrong in [r#""ZZ""#, r#""gb""#, r#""GBR""#, r#""""#, "1"] {
            assert!(serde_json::from_str::<Country>(wrong).is_err(), "{wrong}");
        }
    }
}
