//! From which country a client connects: by its address, and files that the operator has.
//!
//! Asked once for each connection, and again when a file was replaced: never on the way of a packet. The answer is where a network is
//! said to be, not where a person is. An address that is not routed on the Internet, or that no file knows, has no country, and from no country nothing
//! with a country rule may be used.
//!
//! ```text
//! file -> Database (read whole, refused whole) -> Keeper -> record "began to use it" -> Countries -> sessions look again
//! ```

mod database;
mod keeper;
mod mmdb;
mod ranges;
mod text;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use flytrap_policy::Country;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use tracing::warn;

pub use database::{Database, Fault};
pub use keeper::Keeper;

use crate::config::CountriesConfig;
use crate::metrics::Metrics;
use crate::shared::Peer;

/// What is in use of each configured file, in the order of the configuration.
type Slots = Vec<Option<Arc<Database>>>;

/// Where clients are. The databases behind it are exchanged by its [`Keeper`].
#[derive(Debug)]
pub struct Countries {
    slots: ArcSwap<Slots>,
    generation: AtomicU64,
    has_warned: AtomicBool,
    metrics: Arc<Metrics>,
}

impl Countries {
    /// Reads all files. One that cannot be used is told in the log and does not keep the gateway from starting: until it can be, its
    /// addresses have no country.
    pub fn open(config: &CountriesConfig, metrics: Arc<Metrics>) -> (Arc<Self>, Keeper) {
        let countries = Arc::new(Self {
            slots: ArcSwap::from_pointee(vec![None; config.databases.len()]),
            generation: AtomicU64::new(0),
            has_warned: AtomicBool::new(false),
            metrics,
        });
        let keeper = Keeper::new(countries.clone(), config);
        (countries, keeper)
    }

    /// Where a client is; not known where a balancer that is believed has not said whom it speaks for.
    pub fn country_of_client(&self, client: &Peer) -> Option<Country> {
        client.is_named.then(|| self.country_of(client.addr.ip())).flatten()
    }

    /// The country of an address, by the first database that knows it.
    pub fn country_of(&self, address: IpAddr) -> Option<Country> {
        let slots = self.slots.load();
        if slots.is_empty() {
            return None;
        }
        let address = address.to_canonical();
        let (answer, country) = match is_routed(address) {
            false => ("private", None),
            true => {
                let mut known = slots.iter().flatten().filter_map(|one| one.country_of(address));
                match known.next() {
                    Some(country) => ("found", Some(country)),
                    None => ("unknown", None),
                }
            }
        };
        self.metrics.country_looked_up(answer);
        country
    }

    /// Grows with each exchange of a database: [`Countries::country_of`] may then answer otherwise. Read it before that.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Something was refused by a country rule. Says once that without a database no client can pass one.
    pub fn refused_by_rule(&self) {
        if self.slots.load().is_empty() && !self.has_warned.swap(true, Ordering::Relaxed) {
            warn!(
                "a topic has a country rule and `countries.databases` names no file: nobody's country is known, so the topic is refused to everybody"
            );
        }
    }

    fn exchange(&self, slots: Slots) {
        self.slots.store(Arc::new(slots));
        // After the databases: whoever sees the new number finds at least what belongs to it.
        self.generation.fetch_add(1, Ordering::Release);
    }
}

/// Teredo and 6to4: IPv4 addresses in other clothes, and tunnels that end anywhere.
const TUNNELS: [(u128, u128); 2] = [
    (0x2001 << 112, (0x2001 << 112) | (u128::MAX >> 32)),
    (0x2002 << 112, (0x2002 << 112) | (u128::MAX >> 16)),
];

/// `None` for codes that files use where they know less than a country: a region, or nothing.
fn certain(country: Country) -> Option<Country> {
    let uncertain = [b"XX", b"EU", b"AP"].map(|letters| Country::new(*letters));
    (!uncertain.contains(&Some(country))).then_some(country)
}

/// Whether packets with this source cross the Internet from where it is used, so that an address says anything about that.
fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            let [first, second, ..] = a.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            let is_reserved = first == 0 || a >= Ipv4Addr::new(224, 0, 0, 0);
            !(a.is_private() || a.is_loopback() || a.is_link_local() || is_shared || is_reserved)
        }
        IpAddr::V6(a) => {
            let is_tunnel =
                TUNNELS.iter().any(|(first, last)| (*first..=*last).contains(&a.to_bits()));
            a.segments()[0] & 0xE000 == 0x2000 && !is_tunnel
        }
    }
}

/// Reads the state of the databases when metrics are asked for.
#[derive(Debug)]
pub struct CountriesCollector(pub Arc<Countries>);

impl Collector for CountriesCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let slots = self.0.slots.load();
        if slots.is_empty() {
            return Ok(());
        }
        let missing = slots.iter().filter(|slot| slot.is_none()).count();
        let age = |one: &Arc<Database>| SystemTime::now().duration_since(one.made());
        let ages = slots.iter().flatten().map(age).map(Result::unwrap_or_default);
        let oldest = ages.max().map_or(f64::INFINITY, |age| age.as_secs_f64());
        let missing = u32::try_from(missing).unwrap_or(u32::MAX).into();
        for (name, help, value) in [
            ("country_database_age_seconds", "Age of the oldest country database in use", oldest),
            ("country_databases_missing", "Country databases that cannot be used", missing),
        ] {
            let gauge = ConstGauge::<f64>::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
