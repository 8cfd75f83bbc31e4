//! How long decisions and proofs take: `cargo run --release -p flytrap-policy --example timing [most grants]`.
//!
//! Prints nanoseconds per decision for growing numbers of grants, with and without a lease, and microseconds per proof.

#![allow(clippy::unwrap_used, reason = "what fails here is the measurement")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use alloy_primitives::{Address, B256, U256, keccak256};
use flytrap_policy::credential::{
    Claim, Site, authenticate, device_key, device_password, encode_token, token_digest, user_name,
};
use flytrap_policy::{
    Action, Credential, CredentialKind, Event, Lease, NamingPolicy, Offer, Options, Principal,
    Registry, Right, Stamp, Traits, View, topic_id,
};

const BROKER: U256 = U256::from_limbs([1, 0, 0, 0]);
const NOW: u64 = 1_700_000_000;
const AT: Stamp = Stamp { height: 1, time: NOW };
const TOPICS: u32 = 1_000;
const ASKED: u32 = 1_000_000;

fn main() {
    let most = std::env::args().nth(1).and_then(|most| most.parse().ok()).unwrap_or(1_000_000);
    println!(
        "{:>10} {:>12} {:>12} {:>12} {:>12} {:>14}",
        "grants", "decision", "two states", "refused", "leased", "one more grant"
    );
    let mut registry = site();
    let mut made = 0;
    for grants in
        [100, 10_000, 1_000_000, 10_000_000_u32].into_iter().filter(|&grants| grants <= most)
    {
        while made < grants {
            registry.apply(&grant(made), AT).unwrap();
            made += 1;
        }
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
    Principal { wallet, key: wallet, credential }
}

fn measure(registry: &mut Registry, grants: u32) {
    let head = Arc::new(registry.clone());
    let view = |settled| View {
        settled,
        head: Arc::clone(&head),
        height: 1,
        time: NOW,
        version: 1,
        options: Options::default(),
    };
    let (one, two) = (view(Arc::clone(&head)), view(Arc::new(registry.clone())));
    let number = |i: u32| i.wrapping_mul(2_654_435_761) % grants;
    let asked: Vec<(Principal, String)> = (0..ASKED.min(200_000))
        .map(|i| {
            (
                principal(wallet(number(i))),
                format!("{}/room/temperature", topic_name(number(i) % TOPICS)),
            )
        })
        .collect();
    let publish = Action::Publish { retain: false };
    let each = |view: &View, action: Action| {
        let start = Instant::now();
        let mut allowed = 0_u32;
        for (who, name) in asked.iter().cycle().take(ASKED as usize) {
            allowed +=
                u32::from(view.authorize(black_box(who), action, black_box(name), NOW).is_ok());
        }
        (start.elapsed().as_nanos() / u128::from(ASKED), allowed)
    };
    let (decision, allowed) = each(&one, publish);
    assert_eq!(allowed, ASKED);
    let (both, _) = each(&two, publish);
    let (refused, allowed) = each(&one, Action::Deliver);
    assert_eq!(allowed, 0);

    let (who, name) = &asked[0];
    let mut lease = Lease::new();
    lease.keep(&one.authorize(who, publish, name, NOW).unwrap(), one.version, name.as_bytes());
    let start = Instant::now();
    for _ in 0..ASKED {
        let permit = lease.permit(black_box(1), NOW, black_box(name.as_bytes()), false);
        black_box(permit.unwrap().until());
    }
    let leased = start.elapsed().as_nanos() * 10 / u128::from(ASKED);

    let start = Instant::now();
    let next = grant(grants);
    registry.apply(&next, AT).unwrap();
    let update = start.elapsed();
    println!(
        "{grants:>10} {decision:>9} ns {both:>9} ns {refused:>9} ns {:>7}.{} ns {update:>14?}",
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
        options: Options::default(),
    };
    let site =
        Site { chain_id: 31_337, broker_registry: Address::repeat_byte(2), broker_id: BROKER };
    let (issued, expires) = (1_699_999_000_u32, 1_800_000_000_u32);
    let signature =
        device.sign(&token_digest(&site, "client", issued.into(), expires.into())).unwrap();
    let token = encode_token(issued, expires, &signature);
    let user = user_name(device.address());
    for (what, password) in [("token", &token), ("device password", &password)] {
        let claim = Claim { client_id: "client", user_name: &user, password: password.as_bytes() };
        let start = Instant::now();
        for _ in 0..2_000 {
            black_box(authenticate(black_box(&claim), &site, &view, NOW, u64::MAX)).unwrap();
        }
        println!("{what}: {:?} per proof", start.elapsed() / 2_000);
    }
    let start = Instant::now();
    for _ in 0..2_000 {
        black_box(token_digest(black_box(&site), "client", 1, 2));
    }
    println!("digest of a token: {:?}", start.elapsed() / 2_000);
}
