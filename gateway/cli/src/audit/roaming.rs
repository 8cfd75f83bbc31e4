//! `flytrap audit roaming`: keys that were used from more than one country.
//!
//! A traveller needs time from one country to the next; a copied credential is in both at once.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256};
use eyre::{Result, bail};
use flytrap_record::Record;
use serde_json::json;

use super::past::Past;
use super::words::Names;
use super::{Question, Span, records};
use crate::args::{Global, RecordsArgs};
use crate::tell;
use crate::units::{span, utc};

/// Uses that are held in memory at most, some 48 octets each.
const MOST_USES: usize = 10_000_000;

/// One use of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    key: Address,
    first: u64,
    last: u64,
    country: [u8; 2],
}

/// What was done with a key from one country.
#[derive(Debug, Default)]
struct There {
    wallet: Address,
    records: u64,
    messages: u64,
    first: u64,
    last: u64,
    topics: BTreeSet<B256>,
}

impl There {
    fn add(&mut self, record: &Record) {
        if self.records == 0 {
            (self.wallet, self.first) = (record.wallet, record.first_at);
        }
        self.records += 1;
        // An unverified file may say any number.
        self.messages = self.messages.saturating_add(record.count);
        self.first = self.first.min(record.first_at);
        self.last = self.last.max(record.last_at);
        self.topics.insert(record.topic_id);
    }
}

/// `flytrap audit roaming`
pub(super) async fn roaming(
    global: &Global,
    question: &Question,
    args: &RecordsArgs,
) -> Result<()> {
    if args.records.is_empty() {
        bail!(
            "countries are in the gateways' records, not on chain: name their files with --records"
        );
    }
    let contracts = global.contracts().await?;
    let mut names = Names::default();
    let past = Past::read(&contracts, question.broker_id, &mut names).await?;
    let span = Span::of(&contracts, question).await?;
    let (mut uses, mut there) = (Vec::new(), BTreeMap::<(Address, String), There>::new());
    let each = |_, record: Record| {
        let Ok(country) = <[u8; 2]>::try_from(record.country.as_bytes()) else { return Ok(()) };
        if record.key.is_zero() || !span.meets(&record) {
            return Ok(());
        }
        if uses.len() >= MOST_USES {
            bail!("more than {MOST_USES} records: narrow with --from and --to");
        }
        records::room(there.len())?;
        uses.push(Use { key: record.key, first: record.first_at, last: record.last_at, country });
        there.entry((record.key, record.country.clone())).or_default().add(&record);
        Ok(())
    };
    records::read(global, &contracts, args, &past, each).await?;
    let found = fastest(uses);
    told(global, &found, &there, &names);
    Ok(())
}

/// The shortest time between two uses of each key that was used from several countries; zero where both were at once.
fn fastest(mut uses: Vec<Use>) -> BTreeMap<Address, u64> {
    uses.sort_unstable();
    let mut found = BTreeMap::new();
    for of_key in uses.chunk_by(|one, other| one.key == other.key) {
        // Until when each country has been seen so far.
        let mut until: BTreeMap<[u8; 2], u64> = BTreeMap::new();
        for use_ in of_key {
            for (country, last) in &until {
                if *country != use_.country {
                    let gap = use_.first.saturating_sub(*last);
                    let shortest = found.entry(use_.key).or_insert(u64::MAX);
                    *shortest = gap.min(*shortest);
                }
            }
            let last = until.entry(use_.country).or_default();
            *last = use_.last.max(*last);
        }
    }
    found
}

fn told(
    global: &Global,
    found: &BTreeMap<Address, u64>,
    there: &BTreeMap<(Address, String), There>,
    names: &Names,
) {
    let mut keys: Vec<(u64, Address)> = found.iter().map(|(key, gap)| (*gap, *key)).collect();
    keys.sort_unstable();
    let of = |key: Address| {
        there.range((key, String::new())..).take_while(move |((at, _), _)| *at == key)
    };
    if global.json {
        let keys: Vec<_> = keys
            .iter()
            .map(|(gap, key)| {
                let countries: Vec<_> = of(*key)
                    .map(|((_, country), there)| {
                        json!({
                            "country": country, "records": there.records, "count": there.messages, "first": there.first,
                            "last": there.last, "topics": there.topics,
                        })
                    })
                    .collect();
                let wallet = of(*key).next().map(|(_, there)| there.wallet);
                json!({ "key": key, "wallet": wallet, "secondsBetween": gap, "countries": countries })
            })
            .collect();
        tell::line(tell::json(&json!(keys)));
        return;
    }
    if keys.is_empty() {
        tell::line("No key was used from more than one country.");
    }
    for (gap, key) in keys {
        let wallet = of(key).next().map_or(Address::ZERO, |(_, there)| there.wallet);
        let whose = if wallet == key { String::new() } else { format!(", device key of {wallet}") };
        let how = match gap {
            0 => tell::bad("in two countries at once"),
            gap => format!("from one country to another within {}", span(gap)),
        };
        tell::line(format!("{key}{whose}: {how}"));
        for ((_, country), there) in of(key) {
            let mut topics: Vec<String> =
                there.topics.iter().take(4).map(|topic| names.topic(*topic)).collect();
            if there.topics.len() > topics.len() {
                topics.push(format!("{} more", there.topics.len() - topics.len()));
            }
            tell::line(format!(
                "    {country}  {} to {}  {} messages or refusals in {} records on {}",
                utc(there.first),
                utc(there.last),
                there.messages,
                there.records,
                topics.join(", ")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_in_two_countries_at_once_and_a_traveller_takes_time() {
        let [copied, traveller, home] = [1, 2, 3].map(Address::with_last_byte);
        let used = |key, country, first, last| Use { key, first, last, country };
        let found = fastest(vec![
            used(traveller, *b"FR", 10_000, 10_050),
            used(copied, *b"RO", 130, 140),
            used(home, *b"DE", 0, 9_000),
            used(copied, *b"DE", 0, 200),
            used(traveller, *b"DE", 0, 100),
            used(copied, *b"DE", 300, 400),
            used(home, *b"DE", 9_100, 9_200),
        ]);
        assert_eq!(found, BTreeMap::from([(copied, 0), (traveller, 9_900)]));
    }
}
