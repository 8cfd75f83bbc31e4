//! The one rule for text, in every UTF-8 field of every packet and version, from either side.
//!
//! Text is well-formed UTF-8 (no surrogates, no overlong forms, nothing above U+10FFFF) without:
//!
//! * U+0000, which the standards forbid [MQTT-1.5.4-2],
//! * the control characters U+0001..U+001F and U+007F..U+009F,
//! * the noncharacters U+FDD0..U+FDEF and U+xxFFFE, U+xxFFFF.
//!
//! The standards leave the last two to the receiver. They are refused because the most used broker
//! closes the connection on them, so letting them through would give away the choice of what happens,
//! and because they serve nothing but confusing logs and whoever reads them. The byte order mark
//! U+FEFF is a character like any other and is kept [MQTT-1.5.4-3].
//!
//! Binary data (passwords, will payloads, correlation and authentication data) is not text.

use crate::Malformed;

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Eight octets of which each is `octet`.
const fn each(octet: u8) -> u64 {
    LOW_BITS * octet as u64
}

/// Non-zero if one of the eight octets may be zero, and zero only if none is.
#[inline]
const fn has_zero(word: u64) -> u64 {
    word.wrapping_sub(LOW_BITS) & !word & HIGH_BITS
}

/// Non-zero unless all eight octets are printable ASCII (0x20..0x7E).
#[inline]
const fn unless_printable(word: u64) -> u64 {
    // The highest bit catches 0x80 and above, the subtraction what is below 0x20.
    (word | word.wrapping_sub(each(0x20)) | has_zero(word ^ each(0x7F))) & HIGH_BITS
}

/// Non-zero if one of the eight octets is a wildcard character.
#[inline]
const fn if_wildcard(word: u64) -> u64 {
    has_zero(word ^ each(b'+')) | has_zero(word ^ each(b'#'))
}

/// Folds `test` over all octets, eight at a time, and tells whether it always gave zero. The last
/// octets are padded with a letter, which every test lets pass.
#[inline]
fn all_clear(octets: &[u8], test: impl Fn(u64) -> u64) -> bool {
    let (words, rest) = octets.as_chunks::<8>();
    let mut found = 0;
    for word in words {
        found |= test(u64::from_le_bytes(*word));
    }
    if !rest.is_empty() {
        let mut last = [b'a'; 8];
        last[..rest.len()].copy_from_slice(rest);
        found |= test(u64::from_le_bytes(last));
    }
    found == 0
}

/// The octets as text.
///
/// # Errors
/// [`Malformed::Utf8`] or [`Malformed::Character`].
#[inline]
pub fn check(octets: &[u8]) -> Result<&str, Malformed> {
    let text = std::str::from_utf8(octets).map_err(|_| Malformed::Utf8)?;
    if all_clear(octets, unless_printable) { Ok(text) } else { check_characters(text) }
}

/// The octets as a topic name: text that is not empty and has no wildcard.
///
/// # Errors
/// As [`check`], and [`Malformed::TopicName`].
#[inline]
pub fn check_topic_name(octets: &[u8]) -> Result<&str, Malformed> {
    if octets.is_empty() {
        return Err(Malformed::TopicName);
    }
    let text = std::str::from_utf8(octets).map_err(|_| Malformed::Utf8)?;
    if all_clear(octets, |word| unless_printable(word) | if_wildcard(word)) {
        return Ok(text);
    }
    let text = check_characters(text)?;
    if octets.iter().any(|octet| matches!(octet, b'+' | b'#')) {
        return Err(Malformed::TopicName);
    }
    Ok(text)
}

#[cold]
fn check_characters(text: &str) -> Result<&str, Malformed> {
    if text.chars().any(is_refused) { Err(Malformed::Character) } else { Ok(text) }
}

/// Whether a character may not be in any text, see the module.
#[must_use]
pub const fn is_refused(character: char) -> bool {
    let code = character as u32;
    code < 0x20
        || (0x7F <= code && code <= 0x9F)
        || (0xFDD0 <= code && code <= 0xFDEF)
        || (code & 0xFFFE) == 0xFFFE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn characters_are_refused_from_the_first_to_the_last_of_each_range() {
        let pairs = [
            ('\u{0}', None),
            ('\u{1}', None),
            ('\u{1F}', Some('\u{20}')),
            ('\u{7F}', Some('\u{7E}')),
            ('\u{9F}', Some('\u{A0}')),
            ('\u{FDD0}', Some('\u{FDCF}')),
            ('\u{FDEF}', Some('\u{FDF0}')),
            ('\u{FFFE}', Some('\u{FFFD}')),
            ('\u{FFFF}', Some('\u{10000}')),
            ('\u{1FFFE}', Some('\u{1FFFD}')),
            ('\u{10FFFF}', Some('\u{10FFFD}')),
        ];
        for (refused, allowed) in pairs {
            // At every place of a word of eight octets, and behind one.
            for before in 0..17 {
                let text = format!("{}{refused}xyz", "a".repeat(before));
                assert_eq!(check(text.as_bytes()), Err(Malformed::Character), "{text:?}");
                assert_eq!(check_topic_name(text.as_bytes()), Err(Malformed::Character));
                if let Some(allowed) = allowed {
                    let text = format!("{}{allowed}xyz", "a".repeat(before));
                    assert_eq!(check(text.as_bytes()), Ok(text.as_str()));
                    assert_eq!(check_topic_name(text.as_bytes()), Ok(text.as_str()));
                }
            }
        }
    }

    #[test]
    fn ill_formed_utf8_is_refused() {
        let cases: [&[u8]; 8] = [
            b"a\xC0\xAF",
            b"a\xED\xA0\x80",
            b"a\xED\xBF\xBF",
            b"a\xF4\x90\x80\x80",
            b"a\xE2\x82",
            b"\x80",
            b"\xFF\xFE",
            b"\xC1\xBF",
        ];
        for octets in cases {
            assert_eq!(check(octets), Err(Malformed::Utf8), "{octets:02x?}");
            assert_eq!(check_topic_name(octets), Err(Malformed::Utf8), "{octets:02x?}");
        }
    }

    #[test]
    fn the_byte_order_mark_and_empty_text_are_kept() {
        assert_eq!(check("\u{FEFF}a".as_bytes()), Ok("\u{FEFF}a"));
        assert_eq!(check(b""), Ok(""));
        assert_eq!(check_topic_name(b""), Err(Malformed::TopicName));
    }

    #[test]
    fn wildcards_are_found_at_every_place_of_a_topic_name() {
        for before in 0..17 {
            for wildcard in ["+", "#"] {
                let name = format!("{}{wildcard}z", "a".repeat(before));
                assert_eq!(check_topic_name(name.as_bytes()), Err(Malformed::TopicName));
                assert_eq!(check(name.as_bytes()), Ok(name.as_str()));
            }
            for neighbour in ["*", ",", "\"", "$", " ", "~", "ü"] {
                let name = format!("{}{neighbour}z", "a".repeat(before));
                assert_eq!(check_topic_name(name.as_bytes()), Ok(name.as_str()));
            }
        }
    }

    proptest! {
        #[test]
        fn text_is_what_a_reading_character_by_character_says(
            octets in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                prop::collection::vec(0x1E_u8..0x82, 0..40),
                any::<String>().prop_map(String::into_bytes),
            ],
        ) {
            let slow = match std::str::from_utf8(&octets) {
                Err(_) => Err(Malformed::Utf8),
                Ok(text) if text.chars().any(is_refused) => Err(Malformed::Character),
                Ok(text) => Ok(text),
            };
            prop_assert_eq!(check(&octets), slow);
            let slow_name = slow.and_then(|text| {
                let is_name = !text.is_empty() && !text.contains(['+', '#']);
                if is_name { Ok(text) } else { Err(Malformed::TopicName) }
            });
            prop_assert_eq!(check_topic_name(&octets), slow_name);
        }
    }
}
