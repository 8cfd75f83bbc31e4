//! How long proofs take: `cargo run --release -p flytrap-policy --example proofs`. Prints microseconds each.

#![allow(clippy::unwrap_used, reason = "what fails here is the measurement")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, U256};
use flytrap_policy::credential::{
    Accepts, Claim, Site, authenticate, device_key, device_password, encode_token, token_digest,
    user_name,
};
use flytrap_policy::{Concern, Event, Options, Registry, Stamp, View};

const BROKER: U256 = U256::from_limbs([1, 0, 0, 0]);
const NOW: u64 = 1_700_000_000;
const PROOFS: u32 = 2_000;

/// Time that this thread has had a processor for: other work on the machine does not count, its cache misses do.
fn busy() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

fn time(what: &str, mut one: impl FnMut()) {
    let began = busy();
    for _ in 0..PROOFS {
        one();
    }
    println!("{what}: {:?}", (busy() - began) / PROOFS);
}

fn main() {
    let password = device_password(&[7; 20]);
    let device = device_key(password.as_bytes()).unwrap();
    let mut registry = Registry::new(BROKER);
    let event = Event::DeviceAuthorized {
        wallet: Address::repeat_byte(1),
        device: device.address(),
        until: u64::MAX,
        generation: 0,
    };
    registry.apply(&event, Stamp { height: 1, time: NOW }).unwrap();
    let head = Arc::new(registry);
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
        time(what, || {
            black_box(authenticate(black_box(&claim), &site, &view, NOW, &accepts)).unwrap();
        });
    }
    time("digest of a token", || {
        black_box(token_digest(black_box(&site), "client", 1, 2));
    });
}
