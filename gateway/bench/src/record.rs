//! How many records a second the store takes, each transaction synced to the disk before the next begins, by records in a transaction.
//! `make bench-record`; the argument is the folder to write into, by default that for temporary files, or `postgresql://USER@HOST/DATABASE` of a
//! database (the password in the file that FLYTRAP_PASSWORD_FILE names), where each size is a gateway of its own. Numbers after it are the sizes.
#![allow(clippy::unwrap_used, reason = "what fails here is the measurement")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bytes};
use flytrap_gateway::audit::{Draft, Place, Retention, Store, file_in};
use flytrap_gateway::config::{DatabaseConfig, Secret};
use flytrap_record::seal::{Personal, Subject};
use flytrap_record::{Kind, Record};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const GATEWAY: Address = Address::repeat_byte(9);
/// Wallets and topics that take turns.
const WALLETS: u64 = 1_000;
const TOPICS: u64 = 200;
/// How long each size is measured.
const TIME: Duration = Duration::from_secs(10);

/// Gateways that were measured in a database, so that each begins anew.
static MEASURED: AtomicU64 = AtomicU64::new(0);

fn main() {
    let place = std::env::args().nth(1);
    println!(
        "{:>10} {:>10} {:>12} {:>12} {:>10} {:>10}",
        "records", "records/s", "median ms", "worst ms", "cpu us", "octets"
    );
    let mut sizes: Vec<u64> = std::env::args().skip(2).map(|size| size.parse().unwrap()).collect();
    if sizes.is_empty() {
        sizes = vec![1, 16, 256, 1_024, 4_096];
    }
    for at_once in sizes {
        match place.as_deref() {
            Some(url) if url.contains("://") => measure(&database(url), None, at_once),
            folder => {
                let folder = folder.map_or_else(std::env::temp_dir, PathBuf::from);
                let dir = tempfile::tempdir_in(folder).unwrap();
                let file = file_in(dir.path(), GATEWAY);
                measure(&Place::File(file.clone()), Some(&file), at_once);
            }
        }
    }
}

fn database(url: &str) -> Place {
    flytrap_gateway::tls::install_provider();
    let password = std::env::var_os("FLYTRAP_PASSWORD_FILE").map(|file| {
        let mut password = std::fs::read(file).unwrap();
        password.truncate(password.trim_ascii_end().len());
        Secret::new(password)
    });
    Place::Database(Box::new(DatabaseConfig::new(url, password, None).unwrap()))
}

fn measure(place: &Place, file: Option<&Path>, at_once: u64) {
    let number = MEASURED.fetch_add(1, Ordering::Relaxed) + u64::from(std::process::id()) * 8;
    let gateway = match place {
        Place::File(_) => GATEWAY,
        Place::Database(_) => Address::left_padding_from(&number.to_be_bytes()),
    };
    let mut store = Store::open(place, gateway, Secret::new([7; 32])).unwrap();
    let (mut written, mut times) = (0, Vec::new());
    let (began, used) = (Instant::now(), processor_time());
    while began.elapsed() < TIME {
        let drafts: Vec<Draft> = (written..written + at_once).map(draft).collect();
        let start = Instant::now();
        store.append(&drafts).unwrap();
        times.push(start.elapsed());
        written += at_once;
    }
    let seconds = began.elapsed().as_secs_f64();
    // Of all threads and of the system for them. What others do on the machine moves it less than it moves the records a second.
    let used = processor_time().saturating_sub(used).as_secs_f64() * 1e6 / written as f64;
    times.sort_unstable();
    let octets = file.map_or(0, |file| std::fs::metadata(file).unwrap().len() / written.max(1));
    println!(
        "{at_once:>10} {:>10.0} {:>12.2} {:>12.2} {used:>10.1} {octets:>10}",
        written as f64 / seconds,
        times[times.len() / 2].as_secs_f64() * 1e3,
        times[times.len() - 1].as_secs_f64() * 1e3,
    );
    if at_once == 256 {
        forget(&mut store, written);
    }
}

fn processor_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
}

/// All of it is past its retention: how long one step keeps what must be written from being written.
fn forget(store: &mut Store, written: u64) {
    while store.close((0, B256::ZERO)).unwrap().is_some() {}
    store.append(&[draft(written)]).unwrap();
    store.close((0, B256::ZERO)).unwrap();
    let retention = Retention { all: Some(Duration::from_secs(1)), refusals: None };
    let (mut deleted, mut times) = (0, Vec::new());
    let began = Instant::now();
    loop {
        let start = Instant::now();
        let done = store.retain(retention, u64::MAX, u64::MAX).unwrap();
        times.push(start.elapsed());
        deleted += done.deleted;
        if !done.more {
            break;
        }
    }
    times.sort_unstable();
    println!(
        "retention: {deleted} records, {:.0} a second without pauses; a step takes {:.2} ms, at worst {:.2} ms",
        deleted as f64 / began.elapsed().as_secs_f64(),
        times[times.len() / 2].as_secs_f64() * 1e3,
        times[times.len() - 1].as_secs_f64() * 1e3,
    );
}

/// A session's deliveries on a sensitive topic in one interval.
fn draft(n: u64) -> Draft {
    let wallet = Address::left_padding_from(&(n % WALLETS + 1).to_be_bytes());
    let record = Record {
        index: 0,
        kind: Kind::Delivered,
        wallet,
        key: wallet,
        session: n,
        topic_id: B256::left_padding_from(&(n % TOPICS + 1).to_be_bytes()),
        epoch: 1,
        count: 15,
        octets: 900,
        first_at: 1_700_000_000 + n / 1_000,
        last_at: 1_700_000_015 + n / 1_000,
        height: n / 10_000,
        rule: "grant".to_owned(),
        country: "DE".to_owned(),
        personal: Bytes::new(),
    };
    let personal = Personal {
        origin: B256::repeat_byte(1),
        client_id: format!("monitor-{n}"),
        name: "hospital/w1/hr/7".to_owned(),
    };
    Draft { record, personal: Some((Subject::Wallet(wallet), personal)) }
}
