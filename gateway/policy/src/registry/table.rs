//! A hash table whose snapshots are free: cloning copies one pointer, and a change after that copies the way to one
//! leaf and leaves the rest shared.
//!
//! A directory of two levels, indexed by the top bits of the hash, leads to small leaves with linear probing. The
//! directory grows with the entries, so that a small table stays in the processor's caches. With ten million entries
//! of 32 octets that is three dependent reads and about 55 octets each; `imbl::HashMap` of the same entries took four
//! times as long to read at that size, and six times with a hundred.

use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;

use alloy_primitives::Address;

/// Entries per leaf, on average, beyond which the directory grows.
const FULL_LEAF: usize = 32;
/// Bits of the hash that index the directory, at first and at most, and by how many it grows; each is even, so that
/// both levels have the same size.
const FEWEST_BITS: u32 = 4;
const MOST_BITS: u32 = 16;
const MORE_BITS: u32 = 4;
/// Parts in which a table of any size can be swept.
pub(crate) const PARTS: u32 = 1 << MOST_BITS;
/// The longest walk over taken slots that a fuller leaf is allowed to cost.
const PROBES: usize = 10;

/// What a table holds.
pub(crate) trait Entry: Clone {
    /// Hash of the key, the same for ever.
    fn hash(&self) -> u64;
    /// Same key?
    fn is_same(&self, other: &Self) -> bool;
}

type Leaf<E> = Arc<[Option<E>]>;
type Branch<E> = Arc<[Option<Leaf<E>>]>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Table<E> {
    root: Arc<[Branch<E>]>,
    bits: u32,
    len: usize,
    /// Slots of a leaf that gets its first entry.
    fresh: usize,
}

impl<E> Clone for Table<E> {
    fn clone(&self) -> Self {
        Self { root: Arc::clone(&self.root), ..*self }
    }
}

impl<E: Entry> Table<E> {
    pub(crate) fn new() -> Self {
        Self::with_bits(FEWEST_BITS)
    }

    /// An empty table that so many entries can fill without growing.
    pub(crate) fn sized_for(entries: usize) -> Self {
        let mut bits = FEWEST_BITS;
        while bits < MOST_BITS && entries > FULL_LEAF << bits {
            bits += MORE_BITS;
        }
        let share = (entries >> bits).min(FULL_LEAF);
        Self { fresh: share + share / 3 + 2, ..Self::with_bits(bits) }
    }

    /// A table of about so many entries. In the order of [`Self::iter`] each of its leaves is made once, as large as it has to be; a table
    /// that grew with them would crowd them into its first leaves.
    ///
    /// # Errors
    /// The first of `entries`.
    pub(crate) fn collect(
        count: usize,
        entries: impl Iterator<Item = io::Result<E>>,
    ) -> io::Result<Self> {
        let mut table = Self::sized_for(count);
        let (mut at, mut crowd) = ((0, 0), Vec::new());
        for entry in entries {
            let entry = entry?;
            let place = table.place(entry.hash());
            if place != at {
                table.put_crowd(at, &mut crowd);
                at = place;
            }
            crowd.push(entry);
        }
        table.put_crowd(at, &mut crowd);
        Ok(table)
    }

    /// Puts entries that belong to one leaf into it.
    fn put_crowd(&mut self, (way, at): (usize, usize), crowd: &mut Vec<E>) {
        let slots = crowd.len() + crowd.len() / 3 + 2;
        let branch = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[way]);
        branch[at].get_or_insert_with(|| empty(slots));
        for entry in crowd.drain(..) {
            self.put_in_leaf(entry);
        }
    }

    fn with_bits(bits: u32) -> Self {
        let ways = 1 << (bits / 2);
        let branch: Branch<E> = Arc::from(vec![None; ways]);
        Self { root: Arc::from(vec![branch; ways]), bits, len: 0, fresh: 2 }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry with this hash that `is` the one.
    #[inline]
    pub(crate) fn get(&self, hash: u64, is: impl Fn(&E) -> bool) -> Option<&E> {
        let (way, at) = self.place(hash);
        let leaf = self.root[way][at].as_deref()?;
        match find(leaf, hash, is) {
            Some((slot, true)) => leaf[slot].as_ref(),
            _ => None,
        }
    }

    /// Puts an entry in the place of the one with the same key, if there is one, and answers whether it is new.
    pub(crate) fn put(&mut self, entry: E) -> bool {
        let is_new = self.put_in_leaf(entry);
        if is_new && self.len > FULL_LEAF << self.bits && self.bits < MOST_BITS {
            let mut grown = Self::with_bits(self.bits + MORE_BITS);
            for entry in self.iter() {
                grown.put_in_leaf(entry.clone());
            }
            *self = grown;
        }
        is_new
    }

    fn put_in_leaf(&mut self, entry: E) -> bool {
        let hash = entry.hash();
        let (way, at) = self.place(hash);
        let branch = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[way]);
        let leaf = branch[at].get_or_insert_with(|| empty(self.fresh));
        let mut found = find(leaf, hash, |held| held.is_same(&entry));
        // A long walk over a leaf that is nearly empty means equal hashes, which more room would not part.
        while match found {
            None => true,
            Some((slot, taken)) => {
                !taken && walked(hash, slot, leaf.len()) > PROBES && is_quarter_full(leaf)
            }
        } {
            *leaf = rebuilt(leaf, leaf.len() + leaf.len() / 3 + 1, |_| true);
            found = find(leaf, hash, |held| held.is_same(&entry));
        }
        let Some((slot, taken)) = found else { return false };
        Arc::make_mut(leaf)[slot] = Some(entry);
        self.len += usize::from(!taken);
        !taken
    }

    /// Takes an entry out, and answers whether it was there.
    pub(crate) fn remove(&mut self, hash: u64, is: impl Fn(&E) -> bool) -> bool {
        if self.get(hash, &is).is_none() {
            return false;
        }
        let (way, at) = self.place(hash);
        let branch = Arc::make_mut(&mut Arc::make_mut(&mut self.root)[way]);
        let Some(leaf) = &mut branch[at] else { return false };
        *leaf = rebuilt(leaf, leaf.len(), |held| held.hash() != hash || !is(held));
        self.len -= 1;
        true
    }

    /// Drops the dead entries of one of the [`PARTS`]; copies nothing if there is none. All parts in turn, from the
    /// last to the first, go over every entry, even if the table grows meanwhile.
    pub(crate) fn sweep(&mut self, part: u32, is_dead: impl Fn(&E) -> bool) {
        // A leaf of a small directory is many parts, and swept with the last of them, which comes first.
        let others = (PARTS >> self.bits) - 1;
        if part & others != others {
            return;
        }
        let (way, at) = self.place(u64::from(part) << (64 - MOST_BITS));
        let Some(leaf) = self.root[way][at].as_deref() else { return };
        let dead = leaf.iter().flatten().filter(|entry| is_dead(entry)).count();
        if dead == 0 {
            return;
        }
        let left = leaf.iter().flatten().count() - dead;
        let swept = (left > 0).then(|| rebuilt(leaf, left + left / 3 + 1, |entry| !is_dead(entry)));
        Arc::make_mut(&mut Arc::make_mut(&mut self.root)[way])[at] = swept;
        self.len -= dead;
    }

    /// All entries, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &E> {
        let leaves = self.root.iter().flat_map(|branch| branch.iter().flatten());
        leaves.flat_map(|leaf| leaf.iter().flatten())
    }

    /// Branch and leaf of a hash.
    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "it is 16 bits at most")]
    const fn place(&self, hash: u64) -> (usize, usize) {
        let index = (hash >> (64 - self.bits)) as usize;
        let half = self.bits / 2;
        (index >> half, index & ((1 << half) - 1))
    }
}

fn empty<E>(slots: usize) -> Leaf<E> {
    std::iter::repeat_with(|| None).take(slots).collect()
}

/// Where in a leaf of `slots` the walk for a hash starts.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "it is less than `slots`")]
const fn start(hash: u64, slots: usize) -> usize {
    (((hash & 0xFFFF_FFFF) * slots as u64) >> 32) as usize
}

/// Where the entry is (true), or where it would go (false); `None` if it is not there and the leaf is full.
#[inline]
fn find<E>(leaf: &[Option<E>], hash: u64, is: impl Fn(&E) -> bool) -> Option<(usize, bool)> {
    let mut slot = start(hash, leaf.len());
    for _ in 0..leaf.len() {
        match &leaf[slot] {
            None => return Some((slot, false)),
            Some(entry) if is(entry) => return Some((slot, true)),
            Some(_) => slot = if slot + 1 == leaf.len() { 0 } else { slot + 1 },
        }
    }
    None
}

const fn walked(hash: u64, slot: usize, slots: usize) -> usize {
    let start = start(hash, slots);
    if slot >= start { slot - start } else { slot + slots - start }
}

fn is_quarter_full<E>(leaf: &[Option<E>]) -> bool {
    leaf.iter().flatten().count() * 4 >= leaf.len()
}

/// The entries to keep, in a leaf of `slots`, which are more than they are.
fn rebuilt<E: Entry>(leaf: &[Option<E>], slots: usize, keep: impl Fn(&E) -> bool) -> Leaf<E> {
    let mut room: Vec<Option<E>> = vec![None; slots];
    for entry in leaf.iter().flatten().filter(|entry| keep(entry)) {
        if let Some((slot, _)) = find(&room, entry.hash(), |_| false) {
            room[slot] = Some(entry.clone());
        }
    }
    Arc::from(room)
}

/// Hash of a number and an address.
///
/// Strangers choose addresses, so it is SipHash: keys that share a hash must be found by trying, and all that they
/// gain an attacker, for the price of as many transactions, is a longer walk within one leaf. Its keys are fixed,
/// which keeps the crate free of randomness.
#[inline]
pub(crate) fn stranger_hash(number: NonZeroU32, address: Address) -> u64 {
    let mut octets = [0; 24];
    octets[..20].copy_from_slice(address.as_slice());
    octets[20..].copy_from_slice(&number.get().to_le_bytes());
    let mut hasher = DefaultHasher::new();
    hasher.write(&octets);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Keys of which many share a leaf, a slot, or their whole hash.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Pair(u16, u32);

    impl Entry for Pair {
        fn hash(&self) -> u64 {
            hash_of(self.0)
        }
        fn is_same(&self, other: &Self) -> bool {
            self.0 == other.0
        }
    }

    fn hash_of(key: u16) -> u64 {
        match key % 4 {
            0 => 7,
            1 => u64::from(key) << 20,
            2 => u64::from(key) << 48,
            _ => stranger_hash(NonZeroU32::MIN.saturating_add(key.into()), Address::ZERO),
        }
    }

    fn contents(table: &Table<Pair>) -> BTreeMap<u16, u32> {
        let all: BTreeMap<u16, u32> = table.iter().map(|pair| (pair.0, pair.1)).collect();
        assert_eq!(all.len(), table.len());
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn behaves_like_a_map_and_never_changes_a_snapshot(
            steps in prop::collection::vec((0..7_u8, 0..2_000_u16, any::<u32>()), 1..2_000),
        ) {
            let mut table = Table::new();
            let mut model = BTreeMap::new();
            let mut kept = Vec::new();
            for (step, key, value) in steps {
                match step {
                    0..5 => prop_assert_eq!(
                        table.put(Pair(key, value)),
                        model.insert(key, value).is_none()
                    ),
                    5 => prop_assert_eq!(
                        table.remove(hash_of(key), |pair| pair.0 == key),
                        model.remove(&key).is_some()
                    ),
                    _ => kept.push((table.clone(), model.clone())),
                }
                let found = table.get(hash_of(key), |pair| pair.0 == key).map(|pair| pair.1);
                prop_assert_eq!(found, model.get(&key).copied());
            }
            kept.push((table, model));
            for (table, model) in kept {
                prop_assert_eq!(contents(&table), model);
            }
        }
    }

    #[test]
    fn collected_in_any_order_it_is_what_it_was() {
        let mut table = Table::new();
        for key in 0..2_000 {
            table.put(Pair(key, key.into()));
        }
        let in_order: Vec<Pair> = table.iter().cloned().collect();
        let by_key: Vec<Pair> = contents(&table).into_iter().map(|(key, n)| Pair(key, n)).collect();
        let twice = [in_order.clone(), by_key.clone()].concat();
        for (hint, entries) in
            [(2_000, in_order), (2_000, by_key), (0, twice.clone()), (1 << 40, twice)]
        {
            let collected = Table::collect(hint, entries.into_iter().map(Ok)).unwrap();
            assert_eq!(contents(&collected), contents(&table));
        }
        let torn = [Ok(Pair(1, 1)), Err(io::ErrorKind::UnexpectedEof.into())];
        assert!(Table::collect(2, torn.into_iter()).is_err());
    }

    #[test]
    fn sweeping_every_leaf_drops_the_dead_and_nothing_else() {
        let mut table = Table::new();
        for key in 0..2_000 {
            table.put(Pair(key, 1));
        }
        let before = table.clone();
        for part in (0..PARTS).rev() {
            table.sweep(part, |pair| pair.0 % 3 == 0);
        }
        assert!(contents(&table).keys().all(|key| key % 3 != 0));
        assert_eq!(table.len(), 2_000 - 667);
        assert_eq!(before.len(), 2_000);
        assert_eq!(contents(&before).len(), 2_000);
    }

    #[test]
    fn sweeping_misses_nothing_where_the_table_grows_meanwhile() {
        let mut table = Table::new();
        for key in 0..500 {
            table.put(Pair(key, 1));
        }
        let before = table.bits;
        for part in (0..PARTS).rev() {
            if part % 128 == 0 {
                table.put(Pair(500 + u16::try_from(part / 128).unwrap(), 0));
            }
            table.sweep(part, |pair| pair.1 == 1);
        }
        assert!(table.bits > before);
        assert!(contents(&table).values().all(|value| *value == 0));
        assert_eq!(table.len(), 512);
    }

    #[test]
    fn keys_of_one_hash_do_not_make_a_leaf_grow_without_end() {
        let mut table = Table::new();
        for key in (0..4_000).step_by(4) {
            table.put(Pair(key, 0));
        }
        let (way, at) = table.place(7);
        let slots = table.root[way][at].as_ref().unwrap().len();
        assert!((1_000..5_400).contains(&slots), "{slots} slots for 1,000 entries");
    }
}
