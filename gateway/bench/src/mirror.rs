//! What the mirror costs at 10^2 to 10^7 grants: memory, decisions by themselves and while blocks are applied, the snapshot, and how fast
//! logs become state. Times are those of the thread's own processor time, medians apart, so that a busy machine changes little. What was
//! measured is written to `target/eval/bench-mirror.json` too.
#![allow(clippy::unwrap_used, reason = "what fails here is the measurement")]

use std::hint::black_box;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, Bloom, Log, LogData, U256, keccak256};
use arc_swap::ArcSwap;
use flytrap_bench::keep;
use flytrap_chain::bindings::IAccessMarket;
use flytrap_chain::{Deployment, Header, decode, snapshot};
use flytrap_policy::{
    Action, Concern, Credential, CredentialKind, Event, Lease, NamingPolicy, Offer, Options,
    Principal, Registry, Right, Stamp, Traits, View, topic_id,
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const BROKER: U256 = U256::from_limbs([1, 0, 0, 0]);
const NOW: u64 = 1_700_000_000;
const AT: Stamp = Stamp { height: 1, time: NOW };
const PUBLISH: Action = Action::Publish { retain: false };
/// Decisions by themselves.
const DECISIONS: u32 = 1_000_000;
/// Sessions that decide in turn: few enough that what concerns them stays in the processor's caches, and too many.
const ONLINE: [u32; 2] = [1_000, 200_000];
/// Decisions between two looks at the clock, while blocks are applied.
const BATCH: u32 = 20;
/// Blocks that are applied while decisions are taken, and grants in each.
const BLOCKS: u32 = 400;
const GRANTS_PER_BLOCK: u32 = 500;

fn main() {
    let number = |at: usize| std::env::args().nth(at).and_then(|number| number.parse().ok());
    // What one size leaves behind in the allocator would count for the next: each has a process of its own.
    if let Some(grants) = number(2) {
        return measure(grants);
    }
    let most = number(1).unwrap_or(10_000_000);
    println!(
        "{:>9} {:>8} {:>9} {:>10} {:>9} {:>8} {:>13} {:>8} {:>10} {:>12} {:>6} {:>9} {:>9} {:>9}",
        "grants",
        "topics",
        "memory",
        "per grant",
        "made/s",
        "leased",
        "1,000 online",
        "200,000",
        "meanwhile",
        "worst CPU",
        "waits",
        "writing",
        "reading",
        "file"
    );
    let sizes = [100, 10_000, 1_000_000, 10_000_000_u32].into_iter().filter(|&n| n <= most);
    let sizes: Vec<Value> = sizes
        .map(|grants| {
            let program = std::env::current_exe().unwrap();
            let arguments = [most, grants].map(|number| number.to_string());
            let done =
                Command::new(program).args(arguments).stderr(Stdio::inherit()).output().unwrap();
            assert!(done.status.success());
            let said = String::from_utf8(done.stdout).unwrap();
            let (line, figures) = said.trim_end().split_once('\n').unwrap();
            println!("{line}");
            serde_json::from_str(figures).unwrap()
        })
        .collect();
    let replayed = replay(most.min(1_000_000));
    keep::write("bench-mirror", &json!({"sizes": sizes, "replayed_per_second": replayed})).unwrap();
}

fn measure(grants: u32) {
    let topics = (grants / 10).min(100_000);
    let before = resident();
    let mut registry = site(topics);
    let began = busy();
    for number in 0..grants {
        registry.apply(&grant(number, topics), AT).unwrap();
    }
    let made = f64::from(grants) / (busy() - began).as_secs_f64();
    let memory = resident().saturating_sub(before);

    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("mirror.snapshot");
    let block = block();
    let began = busy();
    snapshot::write(&path, &deployment(), &block, &registry).unwrap();
    let writing = busy() - began;
    let began = busy();
    let (_, read) = snapshot::read(&path, &deployment(), BROKER).unwrap().unwrap();
    let reading = busy() - began;
    assert_eq!(read.grant_count(), registry.grant_count());
    let octets = std::fs::metadata(&path).unwrap().len();
    drop(read);

    let registry = Arc::new(registry);
    let quiet = view(registry.clone(), 1);
    let leased = decide_again(&quiet, topics);
    let [few, many] = ONLINE.map(|online| decide(&quiet, online.min(grants), grants, topics));
    drop(quiet);
    let waits = decide_meanwhile(registry, grants, topics);
    println!(
        "{grants:>9} {topics:>8} {:>5} MiB {:>8} B {:>8.0}k {leased:>5.1} ns {few:>10.0} ns {many:>5.0} ns {:>7} ns {:>12?} {:>6} {:>6} ms {:>6} ms {:>5} MiB",
        memory >> 20,
        memory / u64::from(grants),
        made / 1000.0,
        waits.median.as_nanos(),
        waits.cpu,
        waits.waits,
        writing.as_millis(),
        reading.as_millis(),
        octets >> 20
    );
    let meanwhile = u64::try_from(waits.median.as_nanos()).unwrap();
    println!(
        "{}",
        json!({
            "grants": grants, "topics": topics, "octets_per_grant": memory / u64::from(grants), "made_per_second": made,
            "leased_ns": leased, "decision_ns": few, "cold_ns": many, "meanwhile_ns": meanwhile, "writing_s": writing.as_secs_f64(), "reading_s": reading.as_secs_f64(), "file_octets": octets,
        })
    );
}

/// Nanoseconds until a session has decided about a name that it used before.
fn decide_again(view: &View, topics: u32) -> f64 {
    let (who, name) = asking(0, topics);
    let mut lease = Lease::new();
    let permit = view.authorize(&who, PUBLISH, &name, NOW).unwrap();
    lease.keep(&permit, view.version, name.as_bytes());
    let began = busy();
    for _ in 0..DECISIONS {
        let version = black_box(view.version);
        black_box(lease.permit(version, NOW, black_box(name.as_bytes()), false).unwrap().until());
    }
    nanoseconds(busy() - began)
}

/// The same about a name that none of so many sessions used before; each decides before the first does again.
fn decide(view: &View, online: u32, grants: u32, topics: u32) -> f64 {
    let asked = all_asking(online, grants, topics);
    let began = busy();
    for (who, name) in asked.iter().cycle().take(DECISIONS as usize) {
        assert!(view.authorize(black_box(who), PUBLISH, black_box(name), NOW).is_ok());
    }
    nanoseconds(busy() - began)
}

fn nanoseconds(all: Duration) -> f64 {
    all.as_secs_f64() * 1e9 / f64::from(DECISIONS)
}

/// Who has grants from all over the table, each with a name below the granted topic.
fn all_asking(online: u32, grants: u32, topics: u32) -> Vec<(Principal, String)> {
    let numbers = (0..online).map(|i| i.wrapping_mul(2_654_435_761) % grants);
    numbers.map(|number| asking(number, topics)).collect()
}

fn asking(number: u32, topics: u32) -> (Principal, String) {
    (principal(wallet(number)), format!("{}/t", topic_name(number % topics)))
}

struct Waits {
    /// Of one decision.
    median: Duration,
    /// The longest that a batch ran: what it waited for a processor that others had is not in it.
    cpu: Duration,
    /// How often the deciding thread gave its processor away to wait for something. It has nothing to wait for but a writer.
    waits: u64,
}

/// One thread decides as a session does, another one applies block after block as the follower does.
fn decide_meanwhile(first: Arc<Registry>, grants: u32, topics: u32) -> Waits {
    let mirror = Arc::new(ArcSwap::from(Arc::new(view(first.clone(), 1))));
    let done = Arc::new(AtomicBool::new(false));
    let (watched, ended) = (mirror.clone(), done.clone());
    let deciding = std::thread::spawn(move || {
        let asked = all_asking(ONLINE[0], grants, topics);
        let (mut batches, waited) = (Vec::new(), waits());
        let mut order = asked.iter().cycle();
        while !ended.load(Relaxed) {
            let (wall, ran) = (Instant::now(), busy());
            for (who, name) in order.by_ref().take(BATCH as usize) {
                let view = watched.load();
                assert!(view.authorize(black_box(who), PUBLISH, black_box(name), NOW).is_ok());
            }
            batches.push((wall.elapsed(), busy() - ran));
        }
        (batches, waits() - waited)
    });
    let mut kept = std::collections::VecDeque::from([first]);
    for number in 0..BLOCKS {
        let mut next = Registry::clone(kept.back().unwrap());
        for grant_number in 0..GRANTS_PER_BLOCK {
            let new = grants + number * GRANTS_PER_BLOCK + grant_number;
            next.apply(&grant(new, topics), AT).unwrap();
        }
        let next = Arc::new(next);
        mirror.store(Arc::new(view(next.clone(), u64::from(number) + 2)));
        kept.push_back(next);
        // As the follower remembers them.
        if kept.len() > 129 {
            kept.pop_front();
        }
    }
    done.store(true, Relaxed);
    let (batches, waits) = deciding.join().unwrap();
    let (mut wall, cpu): (Vec<Duration>, Vec<Duration>) = batches.into_iter().unzip();
    wall.sort_unstable();
    Waits { median: wall[wall.len() / 2] / BATCH, cpu: cpu.into_iter().max().unwrap(), waits }
}

/// Logs in memory, decoded and applied: how many a second.
fn replay(events: u32) -> f64 {
    let topics = 1_000;
    let deployment = deployment();
    let logs: Vec<Log> = (0..events).map(|number| logged(number, topics, &deployment)).collect();
    let mut registry = site(topics);
    let began = busy();
    for log in &logs {
        let event = decode(log, &deployment).unwrap().unwrap();
        registry.apply(&event, AT).unwrap();
    }
    let took = busy() - began;
    let per_second = f64::from(events) / took.as_secs_f64();
    println!("replay: {events} logs decoded and applied in {took:?}, {per_second:.0} a second");
    per_second
}

/// Time that this thread has had a processor.
fn busy() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// How often this thread has slept.
fn waits() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let told = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    told.unwrap().trim().parse().unwrap()
}

/// Octets of this process that are in memory.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn view(head: Arc<Registry>, version: u64) -> View {
    let settled = head.clone();
    View {
        settled,
        head,
        height: 1,
        time: NOW,
        version,
        concern: Concern::EVERYONE,
        options: Options::default(),
    }
}

fn deployment() -> Deployment {
    let [broker_registry, topic_registry, access_market, device_registry, audit_log] =
        [1, 2, 3, 4, 5].map(Address::with_last_byte);
    Deployment {
        chain_id: 1,
        block: 1,
        broker_registry,
        topic_registry,
        access_market,
        device_registry,
        audit_log,
    }
}

fn block() -> Header {
    let none = B256::ZERO;
    Header { height: 1, hash: none, parent: none, time: NOW, bloom: Bloom::ZERO, receipts: none }
}

fn site(topics: u32) -> Registry {
    let mut registry = Registry::new(BROKER);
    let (owner, policy, name) = (Address::repeat_byte(1), NamingPolicy::Open, "bench".to_owned());
    registry.apply(&Event::BrokerCreated { broker_id: BROKER, owner, policy, name }, AT).unwrap();
    for topic in 0..topics {
        let name = topic_name(topic);
        let event = Event::TopicRegistered {
            broker_id: BROKER,
            topic_id: topic_id(BROKER, &name),
            owner,
            epoch: 1,
            name,
            traits: Traits::default(),
            publish_offer: Offer::default(),
            subscribe_offer: Offer::default(),
        };
        registry.apply(&event, AT).unwrap();
    }
    registry
}

fn topic_name(topic: u32) -> String {
    format!("site{}/floor{topic}", topic % 10)
}

fn wallet(number: u32) -> Address {
    Address::from_word(keccak256(number.to_be_bytes()))
}

fn grant(number: u32, topics: u32) -> Event {
    Event::AccessGranted {
        broker_id: BROKER,
        topic_id: topic_id(BROKER, &topic_name(number % topics)),
        wallet: wallet(number),
        right: Right::Publish,
        epoch: 1,
        until: u64::MAX,
        by: Address::ZERO,
        fee_wei: U256::ZERO,
        purpose: B256::ZERO,
        note: String::new(),
    }
}

fn logged(number: u32, topics: u32, deployment: &Deployment) -> Log {
    let event = IAccessMarket::AccessGranted {
        brokerId: BROKER,
        topicId: topic_id(BROKER, &topic_name(number % topics)),
        wallet: wallet(number),
        right: 0,
        epoch: 1,
        until: u64::MAX,
        by: Address::ZERO,
        feeWei: U256::ZERO,
        purpose: B256::ZERO,
        note: "contract 12".to_owned(),
    };
    let data: LogData = (&event).into();
    Log { address: deployment.access_market, data }
}

fn principal(wallet: Address) -> Principal {
    let credential =
        Credential { kind: CredentialKind::Token, issued_at: NOW, expires_at: u64::MAX };
    Principal { wallet, key: wallet, credential, country: None }
}
