//! How long decisions and proofs take: `cargo run --release -p flytrap-policy --example timing [most grants]`.
//!
//! Prints nanoseconds per decision for growing numbers of grants, with and without a lease, and microseconds per proof.

#![allow(clippy::unwrap_used, reason = "what fails here is the measurement")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, U256, keccak256};
use flytrap_policy::credential::{
    Accepts, Claim, Site, authenticate, device_key, device_password, encode_token, token_digest,
    user_name,
};
use flytrap_policy::{
    Action, Concern, Credential, CredentialKind, Event, Lease, NamingPolicy, Offer, Options,
    Principal, Registry, Right, Stamp, Traits, View, topic_id,
};

const BROKER: U256 = U256::from_limbs([1, 0, 0, 0]);
const NOW: u64 = 1_700_000_000;
const AT: Stamp = Stamp { height: 1, time: NOW };
const TOPICS: u32 = 1_000;
const ASKED: u32 = 1_000_000;

/// Time that this thread has had a processor for: other work on the machine does not count, its cache misses do.
fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn main() {
    let most = std::env::args().nth(1).and_then(|most| most.parse().ok()).unwrap_or(1_000_000);
    println!(
        "{:>10} {:>12} {:>12} {:>12} {:>12} {:>12} {:>14}",
        "grants", "1,000 online", "200,000", "two states", "refused", "leased", "one more grant"
    );
    let mut registry = site();
    let mut made = 0;
    for grants in
        [100, 10_000, 1_000_000, 10_000_000_u32].into_iter().filter(|&grants| grants <= most)
    {
        // Those that the last measurement added are put again.
        for number in made..grants {
            registry.apply(&grant(number), AT).unwrap();
        }
        made = grants;
        measure(&mut registry, grants);
    }
    proofs(&registry);
}

fn site() -> Registry {
    let mut registry = Registry::new(BROKER);
    let (owner, policy, name) = (Address::repeat_byte(1), NamingPolicy::Open, "timing".to_owned());
    registry.apply(&Event::BrokerCreated { broker_id: BROKER, owner, policy, name }, AT).unwrap();
    for topic in 0..TOPICS {
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
    // Wallets about which something is known, as on a real site: look-ups for others are misses.
    for number in 0..1_000 {
        let event = Event::TokensInvalidated { wallet: wallet(number * 7), before: 1 };
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

fn grant(number: u32) -> Event {
    Event::AccessGranted {
        broker_id: BROKER,
        topic_id: topic_id(BROKER, &topic_name(number % TOPICS)),
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

fn principal(wallet: Address) -> Principal {
    let credential =
        Credential { kind: CredentialKind::Token, issued_at: NOW, expires_at: u64::MAX };
    Principal { wallet, key: wallet, credential, country: None }
}

fn measure(registry: &mut Registry, grants: u32) {
    let head = Arc::new(registry.clone());
    let view = |settled| View {
        settled,
        head: Arc::clone(&head),
        height: 1,
        time: NOW,
        version: 1,
        concern: Concern::EVERYONE,
        options: Options::default(),
    };
    let (one, two) = (view(Arc::clone(&head)), view(Arc::new(registry.clone())));
    let publish = Action::Publish { retain: false };
    // Each decision for another wallet than the last, of as many as are online at a time.
    let each = |view: &View, online: u32, action: Action| {
        let asked: Vec<(Principal, String)> = (0..online)
            .map(|i| i.wrapping_mul(2_654_435_761) % grants)
            .map(|number| {
                (principal(wallet(number)), format!("{}/room/t", topic_name(number % TOPICS)))
            })
            .collect();
        let start = busy();
        let mut allowed = 0_u32;
        for (who, name) in asked.iter().cycle().take(ASKED as usize) {
            allowed +=
                u32::from(view.authorize(black_box(who), action, black_box(name), NOW).is_ok());
        }
        assert_eq!(allowed, if action == publish { ASKED } else { 0 });
        (busy() - start).as_nanos() / u128::from(ASKED)
    };
    let few = each(&one, 1_000, publish);
    let many = each(&one, 200_000, publish);
    let both = each(&two, 1_000, publish);
    let refused = each(&one, 1_000, Action::Deliver);

    let name = format!("{}/room/t", topic_name(0));
    let mut lease = Lease::new();
    let permit = one.authorize(&principal(wallet(0)), publish, &name, NOW).unwrap();
    lease.keep(&permit, one.version, name.as_bytes());
    let start = busy();
    for _ in 0..ASKED * 10 {
        black_box(
            lease.permit(black_box(1), NOW, black_box(name.as_bytes()), false).unwrap().until(),
        );
    }
    let leased = (busy() - start).as_nanos() / u128::from(ASKED);

    // Each in a block of its own, with the state before kept.
    let mut kept = Vec::new();
    let start = busy();
    for number in 0..1_000 {
        kept.push(registry.clone());
        registry.apply(&grant(grants + number), AT).unwrap();
    }
    let update = (busy() - start) / 1_000;
    println!(
        "{grants:>10} {few:>9} ns {many:>9} ns {both:>9} ns {refused:>9} ns {:>7}.{} ns {update:>14?}",
        leased / 10,
        leased % 10
    );
}

fn proofs(registry: &Registry) {
    let mut with_device = registry.clone();
    let password = device_password(&[7; 20]);
    let device = device_key(password.as_bytes()).unwrap();
    let event = Event::DeviceAuthorized {
        wallet: wallet(1),
        device: device.address(),
        until: u64::MAX,
        generation: 0,
    };
    with_device.apply(&event, AT).unwrap();
    let head = Arc::new(with_device);
    let view = View {
        settled: Arc::clone(&head),
        head,
        height: 1,
        time: NOW,
        version: 1,
        concern: Concern::EVERYONE,
        options: Options::default(),
    };
    let site =
        Site { chain_id: 31_337, broker_registry: Address::repeat_byte(2), broker_id: BROKER };
    let (issued, expires) = (1_699_999_000_u32, 1_800_000_000_u32);
    let signature =
        device.sign(&token_digest(&site, "client", issued.into(), expires.into())).unwrap();
    let token = encode_token(issued, expires, &signature);
    let user = user_name(device.address());
    let accepts = Accepts { longest_life: u64::MAX, contract_wallets: false };
    for (what, password) in [("token", &token), ("device password", &password)] {
        let claim = Claim { client_id: "client", user_name: &user, password: password.as_bytes() };
        let start = busy();
        for _ in 0..2_000 {
            black_box(authenticate(black_box(&claim), &site, &view, NOW, &accepts)).unwrap();
        }
        println!("{what}: {:?} per proof", (busy() - start) / 2_000);
    }
    let start = busy();
    for _ in 0..2_000 {
        black_box(token_digest(black_box(&site), "client", 1, 2));
    }
    println!("digest of a token: {:?}", (busy() - start) / 2_000);
}
