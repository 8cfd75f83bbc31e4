//! No claim is believed but one that its key has signed, to the last bit, for this client and this time.
#![no_main]

use std::sync::{Arc, LazyLock};

use alloy_primitives::{Address, B256, Keccak256, U256, keccak256};
use flytrap_policy::credential::{Accepts, Claim, Finding, Site, authenticate, encode_token, judge_answer, token_digest, user_name};
use flytrap_policy::{Concern, Options, Registry, View};
use k256::ecdsa::SigningKey;
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 2_000_000_000;

struct World {
    key: SigningKey,
    address: Address,
    site: Site,
    view: View,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let key = SigningKey::from_slice(&[7; 32]).expect("a number below the order");
    let point = key.verifying_key().to_encoded_point(false);
    let address = Address::from_slice(&keccak256(&point.as_bytes()[1..])[12..]);
    let registry = Arc::new(Registry::new(U256::from(1)));
    let view = View { settled: registry.clone(), head: registry, height: 1, time: NOW, version: 1, concern: Concern::EVERYONE, options: Options::default() };
    World { key, address, site: Site { chain_id: 31337, broker_registry: Address::repeat_byte(9), broker_id: U256::from(1) }, view }
});

fn accepted(user: &str, client_id: &str, password: &[u8]) -> bool {
    let world = &*WORLD;
    let accepts = Accepts { longest_life: 1 << 24, contract_wallets: false };
    let claim = Claim { client_id, user_name: user, password };
    matches!(authenticate(&claim, &world.site, &world.view, NOW, &accepts), Ok(Finding::Proved(_)))
}

fuzz_target!(|data: &[u8]| {
    let world = &*WORLD;
    let Some((mode, data)) = data.split_first() else { return };
    match mode % 8 {
        // Of a token that holds, every other writing is refused.
        0 => {
            let Some((times, data)) = data.split_first_chunk::<8>() else { return };
            let [a, b, c, d, e, f, g, h] = *times;
            let (issued, expires) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
            let digest = token_digest(&world.site, "client", issued.into(), expires.into());
            let (signature, recovery) = world.key.sign_prehash_recoverable(digest.as_slice()).expect("a digest of 32 octets");
            let mut octets = signature.to_bytes().to_vec();
            octets.push(27 + recovery.to_byte());
            let token = encode_token(issued, expires, &octets);
            let user = user_name(world.address);
            let holds = u64::from(issued) <= NOW + 120 && NOW < expires.into() && u64::from(expires) - u64::from(issued) <= 1 << 24;
            assert_eq!(accepted(&user, "client", token.as_bytes()), holds && issued < expires);
            assert!(!accepted(&user, "Client", token.as_bytes()));
            let mut other = token.clone().into_bytes();
            for change in data.chunks_exact(2).take(4) {
                let place = usize::from(change[0]) % other.len();
                other[place] ^= change[1];
            }
            other.extend(data.chunks_exact(2).remainder());
            if other != token.as_bytes() {
                assert!(!accepted(&user, "client", &other), "{:?}", String::from_utf8_lossy(&other));
            }
        }
        1 => {
            let challenge = flytrap_policy::credential::Challenge { client_id: "client", nonce: B256::repeat_byte(3), server: "s" };
            for contract_wallets in [false, true] {
                let accepts = Accepts { longest_life: 60, contract_wallets };
                if let Ok(Finding::Proved(proven)) = judge_answer(data, &challenge, &world.site, &world.view, NOW, &accepts) {
                    assert!(proven.principal.key != world.address);
                }
            }
        }
        // Any user name and password. What is proved by chance is proved by a key that nobody knows, and of that name.
        _ => {
            let at = data.iter().position(|octet| *octet == b'\n').unwrap_or(data.len());
            let Ok(user) = std::str::from_utf8(&data[..at]) else { return };
            let password = data.get(at + 1..).unwrap_or_default();
            let is_theirs = user.eq_ignore_ascii_case(&user_name(world.address));
            assert!(!(accepted(user, "client", password) && is_theirs));
            let mut hash = Keccak256::new();
            hash.update(password);
            for contract_wallets in [false, true] {
                let _ = Claim::in_data("client", data).map(|claim| {
                    let accepts = Accepts { longest_life: 1 << 24, contract_wallets };
                    authenticate(&claim, &world.site, &world.view, NOW, &accepts).map(|_| ())
                });
            }
        }
    }
});
