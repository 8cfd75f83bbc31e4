//! Names: which the contracts can register, their ids, their prefixes, and the branch of a key.

use std::hash::{DefaultHasher, Hasher};

use alloy_primitives::{Address, B256, Keccak256, U256};

/// The most octets of a name that can be registered.
pub(crate) const MAX_NAME_OCTETS: usize = 256;
/// The most levels of a name that can be registered.
pub(crate) const MAX_NAME_LEVELS: usize = 16;

/// Whether the contracts let this name be registered: visible ASCII without `+` and `#`, no leading `$`, no empty
/// level, within the limits.
#[must_use]
pub fn is_topic_name(name: &str) -> bool {
    (1..=MAX_NAME_OCTETS).contains(&name.len())
        && !name.starts_with('$')
        && name.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'+' && octet != b'#')
        && name.split('/').all(|level| !level.is_empty())
        && name.split('/').count() <= MAX_NAME_LEVELS
}

/// The id of a topic: `keccak256(abi.encode(brokerId, name))`.
#[must_use]
pub fn topic_id(broker_id: U256, name: &str) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(broker_id.to_be_bytes::<32>());
    hasher.update(U256::from(64).to_be_bytes::<32>());
    hasher.update(U256::from(name.len()).to_be_bytes::<32>());
    hasher.update(name);
    hasher.update(&[0; 32][..name.len().next_multiple_of(32) - name.len()]);
    hasher.finalize()
}

/// The id of a topic whose name is hidden: `keccak256(abi.encode(brokerId, parentId, commitment))`.
#[must_use]
pub fn hidden_topic_id(broker_id: U256, parent_id: B256, commitment: B256) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(broker_id.to_be_bytes::<32>());
    hasher.update(parent_id);
    hasher.update(commitment);
    hasher.finalize()
}

/// What stands on chain for a hidden name: `keccak256(abi.encodePacked(salt, name))`.
#[must_use]
pub fn name_commitment(salt: B256, name: &str) -> B256 {
    let mut hasher = Keccak256::new();
    hasher.update(salt);
    hasher.update(name);
    hasher.finalize()
}

/// What can be seen of a name or filter by looking at its octets once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) has_wildcard: bool,
    pub(crate) has_empty_level: bool,
}

impl Shape {
    #[inline]
    pub(crate) fn of(name: &str) -> Self {
        let mut shape = Self::default();
        let mut before = b'/';
        for octet in name.bytes() {
            shape.has_wildcard |= octet == b'+' || octet == b'#';
            shape.has_empty_level |= octet == b'/' && before == b'/';
            before = octet;
        }
        shape.has_empty_level |= before == b'/';
        shape
    }
}

/// Of how many levels registered names are, so that prefixes of other lengths need not be looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Depths {
    names: [u32; MAX_NAME_LEVELS],
    /// Bit n is set while there are names of n + 1 levels.
    present: u32,
}

impl Depths {
    pub(crate) fn add(&mut self, name: &str) {
        self.change(name, 1);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.change(name, -1);
    }

    fn change(&mut self, name: &str, by: i32) {
        let deepest = name.bytes().filter(|&octet| octet == b'/').count();
        if let Some(names) = self.names.get_mut(deepest) {
            *names = names.saturating_add_signed(by);
            self.present = self.present & !(1 << deepest) | u32::from(*names > 0) << deepest;
        }
    }
}

/// The prefixes of whole levels of a name, shortest first, each with its hash; as far as one could be registered.
pub(crate) struct Prefixes<'a> {
    name: &'a str,
    /// Where the next level starts.
    next: usize,
    /// Bit n is set if prefixes that have n more levels are wanted.
    wanted: u32,
    hasher: DefaultHasher,
}

impl<'a> Prefixes<'a> {
    /// Those that are as deep as some registered name.
    #[inline]
    pub(crate) fn of(name: &'a str, depths: &Depths) -> Self {
        Self::wanted(name, depths.present)
    }

    fn all(name: &'a str) -> Self {
        Self::wanted(name, (1 << MAX_NAME_LEVELS) - 1)
    }

    #[inline]
    fn wanted(name: &'a str, wanted: u32) -> Self {
        // Names come from strangers, at the price of a transaction: the hasher is SipHash, and is fed level by
        // level so that all prefixes together cost one pass.
        Self { name, next: 0, wanted, hasher: DefaultHasher::new() }
    }
}

impl<'a> Iterator for Prefixes<'a> {
    type Item = (&'a str, u64);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while self.wanted != 0 {
            let rest = self.name.as_bytes().get(self.next..)?;
            let octets = rest.iter().position(|&octet| octet == b'/').unwrap_or(rest.len());
            let end = self.next + octets;
            // From an empty level on nothing can be registered.
            if octets == 0 || end > MAX_NAME_OCTETS {
                return None;
            }
            self.hasher.write(&rest[..octets]);
            self.hasher.write_u8(b'/');
            self.next = end + 1;
            let is_wanted = self.wanted & 1 != 0;
            self.wanted >>= 1;
            if is_wanted {
                return Some((&self.name[..end], self.hasher.finish()));
            }
        }
        None
    }
}

/// Hash under which a registrable name is found by its [`Prefixes`].
pub(crate) fn name_hash(name: &str) -> u64 {
    Prefixes::all(name).last().map_or(0, |(_, hash)| hash)
}

/// Whether `name` is `<topic>/<key, lower case>` or below.
pub(crate) fn is_in_own_branch(name: &str, topic: &str, key: Address) -> bool {
    let Some(rest) = name.strip_prefix(topic).and_then(|rest| rest.strip_prefix("/0x")) else {
        return false;
    };
    let Some((hex, below)) = rest.as_bytes().split_at_checked(40) else { return false };
    let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
    let is_key = key
        .iter()
        .zip(hex.chunks_exact(2))
        .all(|(octet, pair)| pair == [digit(octet >> 4), digit(octet & 15)]);
    is_key && (below.is_empty() || below[0] == b'/')
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{address, hex, keccak256};

    use super::*;

    #[test]
    fn what_the_contracts_refuse_is_not_registrable() {
        let deepest = ["a"; MAX_NAME_LEVELS].join("/");
        let longest = "a".repeat(MAX_NAME_OCTETS);
        for name in ["a", "a/b", "a$", "a/$b", "!~", "0xAb/c", &deepest, &longest] {
            assert!(is_topic_name(name), "{name:?}");
        }
        let (deeper, longer) = (format!("{deepest}/a"), format!("{longest}a"));
        for name in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            "+",
            "a/+",
            "#",
            "a/#",
            "a+",
            "$SYS",
            "$share/g/a",
            "a b",
            "a\u{7F}",
            "é",
            "a\n",
            &deeper,
            &longer,
        ] {
            assert!(!is_topic_name(name), "{name:?}");
        }
    }

    #[test]
    fn topic_ids_are_those_of_abi_encode() {
        for (broker_id, name) in
            [(0_u64, "a"), (7, "hospital/w1/hr"), (1, &"x".repeat(32)), (2, &"y".repeat(33))]
        {
            let mut encoded = U256::from(broker_id).to_be_bytes_vec();
            encoded
                .extend(hex!("0000000000000000000000000000000000000000000000000000000000000040"));
            encoded.extend(U256::from(name.len()).to_be_bytes_vec());
            encoded.extend(name.as_bytes());
            while !encoded.len().is_multiple_of(32) {
                encoded.push(0);
            }
            assert_eq!(topic_id(U256::from(broker_id), name), keccak256(encoded));
        }
    }

    #[test]
    fn prefixes_end_at_the_first_empty_level_and_at_the_limits() {
        let of =
            |name: &'static str| Prefixes::all(name).map(|(prefix, _)| prefix).collect::<Vec<_>>();
        assert_eq!(of("a/bc/d"), ["a", "a/bc", "a/bc/d"]);
        assert_eq!(of("a/é/d"), ["a", "a/é", "a/é/d"]);
        assert_eq!(of("a/b/"), ["a", "a/b"]);
        assert_eq!(of("a//b"), ["a"]);
        assert_eq!(of("/a"), [""; 0]);
        assert_eq!(of(""), [""; 0]);
        assert_eq!(Prefixes::all(&"a/".repeat(30_000)).count(), MAX_NAME_LEVELS);
        assert_eq!(Prefixes::all(&"a".repeat(MAX_NAME_OCTETS)).count(), 1);
        assert_eq!(Prefixes::all(&"a".repeat(MAX_NAME_OCTETS + 1)).count(), 0);
    }

    #[test]
    fn a_prefix_has_the_hash_of_the_name_it_is() {
        for (prefix, hash) in Prefixes::all("a/b/cc/a") {
            assert_eq!(hash, name_hash(prefix));
        }
        assert_ne!(name_hash("ab"), name_hash("a/b"));
    }

    #[test]
    fn only_prefixes_as_deep_as_a_registered_name_are_looked_up() {
        let mut depths = Depths::default();
        let of = |depths: &Depths| {
            Prefixes::of("a/b/c/d", depths).map(|(prefix, _)| prefix).collect::<Vec<_>>()
        };
        assert_eq!(of(&depths), [""; 0]);
        for name in ["x", "x/y/z", "p/q/r"] {
            depths.add(name);
        }
        assert_eq!(of(&depths), ["a", "a/b/c"]);
        depths.remove("x/y/z");
        assert_eq!(of(&depths), ["a", "a/b/c"]);
        depths.remove("p/q/r");
        assert_eq!(of(&depths), ["a"]);
        depths.add(&["a"; MAX_NAME_LEVELS].join("/"));
        assert_eq!(of(&depths), ["a"]);
        let hash = Prefixes::of("a/b/c/d", &depths).last().map(|(_, hash)| hash);
        assert_eq!(hash, Some(name_hash("a")));
    }

    #[test]
    fn shapes_show_wildcards_and_every_empty_level() {
        let shape = |has_wildcard, has_empty_level| Shape { has_wildcard, has_empty_level };
        assert_eq!(Shape::of("a/b"), shape(false, false));
        for name in ["/a", "a/", "a//b", "/", ""] {
            assert_eq!(Shape::of(name), shape(false, true), "{name:?}");
        }
        for name in ["#", "a/+", "+/a", "x#"] {
            assert_eq!(Shape::of(name), shape(true, false), "{name:?}");
        }
    }

    #[test]
    fn the_own_branch_is_the_lower_case_address_as_a_whole_level() {
        let key = address!("0x00aABBccDDeeFF00112233445566778899aAbBcC");
        let own = "fleet/0x00aabbccddeeff00112233445566778899aabbcc";
        assert!(is_in_own_branch(own, "fleet", key));
        assert!(is_in_own_branch(&format!("{own}/x"), "fleet", key));
        assert!(is_in_own_branch(&format!("{own}/é"), "fleet", key));
        for other in [
            "fleet",
            "fleet/",
            "fleet/0x",
            &own[..own.len() - 1],
            &format!("{own}0"),
            &format!("{own}é"),
            &own.to_uppercase(),
            &own.replace("fleet", "fleet/x"),
            &own.replace("aabb", "aAbb"),
            &own.replace("fleet/", "fleetx"),
        ] {
            assert!(!is_in_own_branch(other, "fleet", key), "{other}");
        }
        assert!(!is_in_own_branch(own, "fleet", Address::ZERO));
    }
}
