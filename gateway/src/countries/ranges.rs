//! Ranges of addresses with the country that each is in: sorted, apart from each other, found by halving.

use std::net::IpAddr;

use flytrap_policy::Country;

/// Ranges of one family that are kept at most, so that no file takes more than 10 octets (IPv4) or 34 (IPv6) times this.
pub(super) const MOST_RANGES: usize = 4_000_000;

/// Why a range cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Misplaced {
    /// Its end comes first.
    #[error("its last address comes before its first")]
    Backwards,
    /// It does not come after all that were added before.
    #[error("it overlaps a range before it, or is out of order")]
    Disordered,
    /// There are too many.
    #[error("there are more than {MOST_RANGES} ranges")]
    TooMany,
}

/// Both families.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    pub(super) v4: Table<u32>,
    pub(super) v6: Table<u128>,
}

impl Ranges {
    pub(super) fn find(&self, address: IpAddr) -> Option<Country> {
        match address {
            IpAddr::V4(address) => self.v4.find(address.to_bits()),
            IpAddr::V6(address) => self.v6.find(address.to_bits()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.len() == 0 && self.v6.len() == 0
    }
}

/// An address as a number.
pub(super) trait Number: Copy + Ord {
    fn next(self) -> Option<Self>;
}

impl Number for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Number for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// The ranges of one family. Columns, as rows would be padded to 48 octets for IPv6.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table<N> {
    firsts: Vec<N>,
    lasts: Vec<N>,
    countries: Vec<Country>,
    /// The last address of the range that was added last, in a country or not.
    passed: Option<N>,
}

impl<N> Default for Table<N> {
    fn default() -> Self {
        Self { firsts: Vec::new(), lasts: Vec::new(), countries: Vec::new(), passed: None }
    }
}

impl<N: Number> Table<N> {
    /// Adds a range behind all others; one that is in no known country only keeps its place free.
    pub(super) fn push(
        &mut self,
        first: N,
        last: N,
        country: Option<Country>,
    ) -> Result<(), Misplaced> {
        if last < first {
            return Err(Misplaced::Backwards);
        }
        if self.passed.is_some_and(|passed| first <= passed) {
            return Err(Misplaced::Disordered);
        }
        let before = self.passed.replace(last);
        let Some(country) = country else { return Ok(()) };
        // Files tell networks; neighbours in one country are one range.
        if let (Some(end), Some(of)) = (self.lasts.last_mut(), self.countries.last())
            && Some(*end) == before
            && *of == country
            && end.next() == Some(first)
        {
            *end = last;
            return Ok(());
        }
        if self.firsts.len() >= MOST_RANGES {
            return Err(Misplaced::TooMany);
        }
        self.firsts.push(first);
        self.lasts.push(last);
        self.countries.push(country);
        Ok(())
    }

    pub(super) fn find(&self, address: N) -> Option<Country> {
        let at = self.firsts.partition_point(|first| *first <= address).checked_sub(1)?;
        (address <= *self.lasts.get(at)?).then(|| self.countries.get(at).copied())?
    }

    pub(super) fn len(&self) -> usize {
        self.firsts.len()
    }

    /// Gives back what was only room to grow.
    pub(super) fn shrink(&mut self) {
        self.firsts.shrink_to_fit();
        self.lasts.shrink_to_fit();
        self.countries.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn country(code: &str) -> Option<Country> {
        Country::new(code.as_bytes().try_into().unwrap())
    }

    #[test]
    fn ranges_include_both_ends_and_nothing_beside_them() {
        let mut table = Table::<u32>::default();
        table.push(0, 0, country("AA")).unwrap();
        table.push(10, 20, country("GB")).unwrap();
        table.push(u32::MAX, u32::MAX, country("FR")).unwrap();
        for (address, wanted) in [
            (0, country("AA")),
            (1, None),
            (9, None),
            (10, country("GB")),
            (20, country("GB")),
            (21, None),
            (u32::MAX - 1, None),
            (u32::MAX, country("FR")),
        ] {
            assert_eq!(table.find(address), wanted, "{address}");
        }
        assert_eq!(Table::<u128>::default().find(7), None);
    }

    #[test]
    fn neighbours_in_one_country_are_one_range_and_a_gap_parts_them() {
        let mut table = Table::<u128>::default();
        for (first, last, code) in
            [(0, 9, "GB"), (10, 19, "GB"), (21, 29, "GB"), (30, 39, "ZZ"), (40, 41, "GB")]
        {
            table.push(first, last, country(code)).unwrap();
        }
        assert_eq!(table.len(), 3);
        assert_eq!(
            [5, 15, 20, 25, 35, 40].map(|at| table.find(at).is_some()),
            [true, true, false, true, false, true]
        );
    }

    #[test]
    fn what_is_backwards_or_not_behind_all_others_is_refused() {
        let mut table = Table::<u32>::default();
        table.push(10, 20, country("GB")).unwrap();
        table.push(30, 40, None).unwrap();
        for (first, last, wrong) in [
            (51, 50, Misplaced::Backwards),
            (5, 6, Misplaced::Disordered),
            (20, 25, Misplaced::Disordered),
            (40, 50, Misplaced::Disordered),
        ] {
            assert_eq!(table.push(first, last, country("FR")), Err(wrong), "{first}-{last}");
        }
        assert_eq!(table.push(41, 41, country("FR")), Ok(()));
    }

    proptest! {
        #[test]
        fn halving_finds_what_looking_at_each_finds(
            steps in prop::collection::vec((0_u32..50, 0_u32..50, prop::sample::select(vec!["GB", "FR", "ZZ"])), 0..80),
            asked in prop::collection::vec(0_u32..10_000, 1..200),
        ) {
            let (mut table, mut each, mut at) = (Table::default(), Vec::new(), 0);
            for (gap, length, code) in steps {
                let (first, last) = (at + gap, at + gap + length);
                table.push(first, last, country(code)).unwrap();
                each.push((first, last, country(code)));
                at = last + 1;
            }
            for address in asked.into_iter().chain(each.clone().into_iter().flat_map(|(first, last, _)| [first, last])) {
                let found = each.iter().find(|(first, last, _)| (*first..=*last).contains(&address));
                prop_assert_eq!(table.find(address), found.and_then(|(.., country)| *country));
            }
        }
    }
}
