//! A day at a hospital, and what is hidden in it.

use std::collections::BTreeSet;

use alloy_primitives::{Address, B256};
use eyre::Result;
use flytrap_gateway::audit::Draft;
use flytrap_policy::{Right, Traits};
use flytrap_record::seal::{Personal, Subject};
use flytrap_record::{Kind, Record};
use flytrap_site::{Device, Site};
use rand::prelude::*;

use super::Facts;
use crate::onchain::{CLOSED, FAR, Scribe};

/// Seconds of the day.
pub(super) const DAY: u64 = 86_400;
/// How long the copy is used.
const BREACH: u64 = 90;
/// Seconds that one record counts at most.
const INTERVAL: u64 = 5;
const TOPICS: usize = 60;
const DEVICES_OF_EACH: usize = 12;
/// Topics that one device has to do with.
const TOPICS_OF_EACH: usize = 3;
const COUNTRIES: [&str; 6] = ["DE", "AT", "FR", "NL", "GB", ""];

/// The records, in the order of their seconds, and what is hidden in them.
pub(super) struct Day {
    pub(super) drafts: Vec<Draft>,
    pub(super) secret: Facts,
}

/// One device, and where it is when.
struct Worker {
    wallet: Address,
    key: Address,
    topics: Vec<usize>,
    /// Countries from these seconds of the day on; none before the first.
    journey: Vec<(u64, &'static str)>,
    /// Seconds in which it travels and does nothing.
    away: std::ops::Range<u64>,
    session: u64,
}

impl Worker {
    fn country(&self, second: u64) -> &'static str {
        self.journey.iter().rev().find(|(from, _)| *from <= second).map_or("", |(_, code)| code)
    }
}

impl Day {
    /// Registers topics, grants and devices on chain, and makes up the records of the day after.
    pub(super) async fn prepare(site: &Site, seed: u64, records: u64) -> Result<Self> {
        let rng = &mut StdRng::seed_from_u64(seed);
        let names: Vec<String> = (0..TOPICS).map(|n| format!("hospital/ward-{n:02}/hr")).collect();
        let workers = workers(site, rng, &names).await?;
        let (height, start) = (site.chain.height().await?, site.chain.time().await? + 60);
        let ids: Vec<B256> = names.iter().map(|name| Scribe(site).id(name)).collect();
        let mut facts = Vec::new();
        for n in 0..records {
            // Evenly over the day, less what the last record may last.
            let second = n * (DAY - 120) / records;
            let Some(worker) = workers.choose(rng) else { continue };
            let place = *worker.topics.choose(rng).unwrap_or(&0);
            let kind = match rng.random_range(0..100) {
                _ if worker.away.contains(&second) => continue,
                0..80 => Kind::Delivered,
                80..97 => Kind::Published,
                97..99 => Kind::SubscribeRefused,
                _ => Kind::DeliveryWithheld,
            };
            let last = second + rng.random_range(0..INTERVAL);
            let count = rng.random_range(1..20);
            let country = worker.country(second);
            facts.push((second, last, kind, worker, place, count, country));
        }
        // The copy: of a reader's device that stays in one country all day.
        let settled =
            |worker: &&Worker| worker.journey.len() == 1 && !worker.journey[0].1.is_empty();
        let honest: Vec<&Worker> = workers.iter().filter(settled).collect();
        let victim = *honest.choose(rng).ok_or_else(|| eyre::eyre!("everybody travels"))?;
        let began = rng.random_range(DAY / 4..DAY / 2);
        let copied: Vec<usize> = victim.topics.iter().copied().take(2).collect();
        let mut messages = 0;
        for (at, place) in copied.iter().enumerate() {
            // Each topic in intervals of its own; together they begin and end with the breach.
            let mut second = began + u64::try_from(at)? * 2;
            while second < began + BREACH {
                let last = (second + INTERVAL - 1).min(began + BREACH - 1);
                let count = rng.random_range(1..9);
                messages += count;
                facts.push((second, last, Kind::Delivered, victim, *place, count, "RO"));
                second = last + 1;
            }
        }
        // The device itself works on meanwhile.
        for second in (began..began + BREACH).step_by(15) {
            facts.push((
                second,
                second + 3,
                Kind::Published,
                victim,
                copied[0],
                2,
                victim.journey[0].1,
            ));
        }
        facts.sort_by_key(|(second, ..)| *second);
        let until = began + BREACH - 1;
        let readers: BTreeSet<Address> = facts
            .iter()
            .filter(|(first, last, kind, worker, place, ..)| {
                *kind == Kind::Delivered
                    && copied.contains(place)
                    && worker.key != victim.key
                    && *first <= until
                    && began <= *last
            })
            .map(|(_, _, _, worker, ..)| worker.key)
            .collect();
        let mut topics: Vec<String> = copied.iter().map(|place| names[*place].clone()).collect();
        topics.sort();
        let secret = Facts {
            wallet: victim.wallet,
            device: victim.key,
            country: "RO".to_owned(),
            topics,
            first: start + began,
            last: start + until,
            messages,
            readers: readers.into_iter().collect(),
        };
        let drafts = facts
            .into_iter()
            .map(|(first, last, kind, worker, place, count, country)| {
                let is_copy = country == "RO";
                Draft {
                    record: Record {
                        index: 0,
                        kind,
                        wallet: worker.wallet,
                        key: worker.key,
                        session: worker.session + u64::from(is_copy) * 10_000,
                        topic_id: ids[place],
                        epoch: 1,
                        count,
                        octets: count * 12,
                        first_at: start + first,
                        last_at: start + last,
                        height,
                        rule: rule(kind).to_owned(),
                        country: country.to_owned(),
                        personal: alloy_primitives::Bytes::new(),
                    },
                    personal: Some((
                        Subject::Wallet(worker.wallet),
                        Personal {
                            origin: B256::repeat_byte(if is_copy { 9 } else { 1 }),
                            client_id: format!("dev-{}", worker.session),
                            name: names[place].clone(),
                        },
                    )),
                }
            })
            .collect();
        Ok(Self { drafts, secret })
    }
}

fn rule(kind: Kind) -> &'static str {
    match kind {
        Kind::Published | Kind::Delivered => "grant",
        Kind::SubscribeRefused => "no-grant",
        _ => "grant-ended",
    }
}

/// Everybody with a right, on chain: six wallets, twelve devices of each; every fourth device travels.
async fn workers(site: &Site, rng: &mut StdRng, names: &[String]) -> Result<Vec<Worker>> {
    let of = &site.wallets;
    let wallets =
        [&of.reader, &of.publisher, &of.stranger, &of.other_reader, &of.spare[0], &of.spare[1]];
    let addresses: Vec<Address> = wallets.iter().map(|key| key.address()).collect();
    let (scribe, owner) = (Scribe(site), of.topic_owner.address());
    let traits = Traits { retain: false, sensitive: true, own_branch: false };
    for name in names {
        scribe.done(&scribe.register(owner, name, traits, CLOSED, CLOSED)).await?;
    }
    for some in names.chunks(20) {
        for right in [Right::Publish, Right::Subscribe] {
            scribe.done(&scribe.grant_many(owner, some, addresses.clone(), right, FAR)).await?;
        }
    }
    let mut workers = Vec::new();
    for (place, wallet) in addresses.iter().enumerate() {
        for number in 0..DEVICES_OF_EACH {
            let device = Device::from_seed(&rng.random(), "device")?;
            scribe.done(&scribe.authorize_device(*wallet, &device.key, FAR)).await?;
            let home = COUNTRIES[(place + number) % COUNTRIES.len()];
            // A night and a flight of hours, so that whoever looks for two countries alone finds many.
            let (journey, away) = match number % 4 {
                0 => (vec![(0, "DE"), (DAY / 2, "AT")], DAY / 2 - 7_200..DAY / 2),
                _ => (vec![(0, home)], 0..0),
            };
            let topics = (0..names.len()).choose_multiple(rng, TOPICS_OF_EACH);
            let session = u64::try_from(place * DEVICES_OF_EACH + number)? + 1;
            workers.push(Worker {
                wallet: *wallet,
                key: device.address(),
                topics,
                journey,
                away,
                session,
            });
        }
    }
    Ok(workers)
}
