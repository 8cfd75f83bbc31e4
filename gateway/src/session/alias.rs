//! Topic aliases of one direction [MQTT 5.0 section 3.3.2.3.4].

use std::num::NonZeroU16;

/// What an alias means to the side that set it, and whether the side that reads knows the same.
struct Entry {
    alias: NonZeroU16,
    topic: Box<str>,
    /// The receiver saw the packet that set it. Not so after a packet that was refused or withheld: then the receiver holds
    /// an older meaning or none, and the topic has to be spelt out to it before the alias can stand alone.
    shared: bool,
}

/// Aliases set by one sender, as the gateway resolves them, and what its receiver knows of them.
///
/// The octets of all topics together are bounded, for an alias table of 65,535 long names would be 4 GiB.
#[derive(Default)]
pub(crate) struct Aliases {
    entries: Vec<Entry>,
    octets: usize,
}

/// The table would outgrow its bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyAliases;

/// Most octets of topic names that one direction of one session may hold under aliases.
const MOST_OCTETS: usize = 128 * 1024;

impl Aliases {
    /// Sets `alias` to `topic`, as the sender did; the receiver does not know yet.
    pub(crate) fn set(&mut self, alias: NonZeroU16, topic: &str) -> Result<(), TooManyAliases> {
        let entries = self.entries.len();
        let found = self.entries.iter_mut().find(|entry| entry.alias == alias);
        let before = found.as_ref().map_or(0, |entry| entry.topic.len());
        let octets = self.octets - before + topic.len();
        // 32 octets stand for the entry itself, so that short names are bounded too.
        if octets + entries * 32 > MOST_OCTETS {
            return Err(TooManyAliases);
        }
        self.octets = octets;
        match found {
            Some(entry) if *entry.topic == *topic => {}
            Some(entry) => {
                entry.topic = topic.into();
                entry.shared = false;
            }
            None => self.entries.push(Entry { alias, topic: topic.into(), shared: false }),
        }
        Ok(())
    }

    /// The topic that `alias` stands for, if the sender set it.
    pub(crate) fn topic(&self, alias: NonZeroU16) -> Option<&str> {
        self.entries.iter().find(|entry| entry.alias == alias).map(|entry| &*entry.topic)
    }

    /// Whether the receiver reads `alias` as the sender means it.
    pub(crate) fn is_shared(&self, alias: NonZeroU16) -> bool {
        self.entries.iter().any(|entry| entry.alias == alias && entry.shared)
    }

    /// Notes that the receiver is being sent the topic together with the alias.
    pub(crate) fn share(&mut self, alias: NonZeroU16) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.alias == alias) {
            entry.shared = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Aliases, MOST_OCTETS, TooManyAliases};
    use std::num::NonZeroU16;

    const ONE: NonZeroU16 = NonZeroU16::MIN;

    #[test]
    fn a_changed_meaning_is_not_shared_until_it_was_sent() {
        let mut aliases = Aliases::default();
        aliases.set(ONE, "a").unwrap();
        assert!(!aliases.is_shared(ONE));
        aliases.share(ONE);
        aliases.set(ONE, "a").unwrap();
        assert!(aliases.is_shared(ONE), "the same meaning again changes nothing");
        aliases.set(ONE, "secret").unwrap();
        assert_eq!((aliases.topic(ONE), aliases.is_shared(ONE)), (Some("secret"), false));
    }

    #[test]
    fn the_table_is_bounded_by_octets() {
        let (mut aliases, long) = (Aliases::default(), "x".repeat(60_000));
        let alias = |n| NonZeroU16::new(n).unwrap();
        assert_eq!(aliases.set(alias(1), &long), Ok(()));
        assert_eq!(aliases.set(alias(2), &long), Ok(()));
        assert_eq!(aliases.set(alias(3), &long), Err(TooManyAliases));
        assert_eq!(aliases.set(alias(2), "short"), Ok(()), "a replaced name gives its room back");
        assert_eq!(aliases.set(alias(3), &long), Ok(()));
        assert!(aliases.octets <= MOST_OCTETS);
    }
}
