//! Proofs: what is accepted, and every way in which something close to it is not. Rows of the threat list that a
//! claim is for stand in its doc comment.

#![allow(clippy::unwrap_used, reason = "in a test a panic is a failure")]

mod common;

use alloy_primitives::{Address, B256, U256, address, b256, hex, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::*;
use flytrap_policy::credential::{
    Accepts, CLOCK_SKEW, Claim, Finding, Refusal, Site, authenticate, device_key, device_password,
    encode_token, token_digest, user_name,
};
use flytrap_policy::{CredentialKind, Event, Principal, View};
use k256::ecdsa::SigningKey;
use k256::elliptic_curve::PrimeField as _;
use proptest::prelude::*;

const SITE: Site = Site {
    chain_id: 31_337,
    broker_registry: address!("0x5FbDB2315678afecb367f032d93F642f64180aa3"),
    broker_id: U256::from_limbs([1, 0, 0, 0]),
};
const ISSUED: u32 = 1_700_000_000;
const EXPIRES: u32 = 1_731_536_000;
const NOW: u64 = 1_710_000_000;
const YEAR: u64 = 366 * 86_400;
const KEYS_ONLY: Accepts = Accepts { longest_life: YEAR, contract_wallets: false };
const CLIENT_ID: &str = "sensor-1";

fn signer(name: &str) -> SigningKey {
    SigningKey::from_slice(keccak256(name).as_slice()).unwrap()
}

fn address_of(key: &SigningKey) -> Address {
    Address::from_public_key(key.verifying_key())
}

fn sign(key: &SigningKey, digest: B256) -> [u8; 65] {
    let (signature, recovery) = key.sign_prehash_recoverable(digest.as_slice()).unwrap();
    let mut octets = [0; 65];
    octets[..64].copy_from_slice(&signature.to_bytes());
    octets[64] = 27 + recovery.to_byte();
    octets
}

fn token_by(key: &SigningKey, site: &Site, client_id: &str, issued: u32, expires: u32) -> String {
    let digest = token_digest(site, client_id, issued.into(), expires.into());
    encode_token(issued, expires, &sign(key, digest))
}

fn vic() -> SigningKey {
    signer("VIC")
}

fn token() -> String {
    token_by(&vic(), &SITE, CLIENT_ID, ISSUED, EXPIRES)
}

fn try_as(
    user_name: &str,
    password: impl AsRef<[u8]>,
    view: &View,
    now: u64,
) -> Result<Principal, Refusal> {
    let claim = Claim { client_id: CLIENT_ID, user_name, password: password.as_ref() };
    match authenticate(&claim, &SITE, view, now, &KEYS_ONLY)? {
        Finding::Proved(proven) => Ok(proven.principal),
        Finding::Ask(question) => panic!("{question:?} although no contract wallet is accepted"),
    }
}

fn try_token(password: impl AsRef<[u8]>) -> Result<Principal, Refusal> {
    try_as(&user_name(address_of(&vic())), password, &Broker::new().view(), NOW)
}

/// For other implementations: this key, site, client id and times must give this token. It was made with
/// `cast wallet sign --data`.
#[test]
fn the_published_vector_is_accepted() {
    let key = SigningKey::from_slice(&hex!(
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    ));
    let key = key.unwrap();
    assert_eq!(address_of(&key), address!("0xFCAd0B19bB29D4674531d6f115237E16AfCE377c"));
    assert_eq!(
        SITE.domain_separator(),
        b256!("0x60416bf321733437e714341852b7b75a24b9f83894a9dc7990fc4e8ac93d1ad2")
    );
    let digest = token_digest(&SITE, CLIENT_ID, ISSUED.into(), EXPIRES.into());
    assert_eq!(digest, b256!("0x5580993d5974777af1c2bc1e0a9cdeec34b6c7db2bbfe3fb650dd0847fc2b1e2"));
    let token = token_by(&key, &SITE, CLIENT_ID, ISSUED, EXPIRES);
    assert_eq!(
        token,
        "AWVT8QBnNSSAz0abNyivZTPyNjaob4lyzGMLjzWxQoX7jKmgmbeMnUZ0gDDs5fAJeaL68gM8olYawgKgx89phCH5qIFwvDX3cBs"
    );
    let principal =
        try_as("0xfcad0b19bb29d4674531d6f115237e16afce377c", &token, &Broker::new().view(), NOW);
    assert_eq!(principal.unwrap().wallet, address_of(&key));
}

/// For other implementations: this password must give this key and address.
#[test]
fn the_published_device_password_gives_its_key() {
    let password = device_password(&hex!("000102030405060708090a0b0c0d0e0f10111213"));
    assert_eq!(password, "AAECAwQFBgcICQoLDA0ODxAREhM");
    let key = device_key(password.as_bytes()).unwrap();
    let mut derivation = b"FlyTrap device".to_vec();
    derivation.extend(hex!("000102030405060708090a0b0c0d0e0f10111213"));
    assert_eq!(*key.secret(), keccak256(derivation).0);
    assert_eq!(key.address(), address!("0x20DbE58a2016D2e980DAe90bdd7cD46600A9A770"));
    assert!(!format!("{key:?}").contains(&hex::encode(*key.secret())));
    let digest = keccak256("consent");
    let signature =
        alloy_primitives::Signature::from_raw_array(&key.sign(&digest).unwrap()).unwrap();
    assert_eq!(signature.recover_address_from_prehash(&digest).unwrap(), key.address());
    assert!(signature.normalize_s().is_none());
}

#[test]
fn digests_are_those_of_eip_712() {
    sol! {
        struct Session { string clientId; uint64 issuedAt; uint64 expiresAt; }
    }
    let domain = Eip712Domain::new(
        Some("FlyTrap".into()),
        Some("1".into()),
        Some(U256::from(SITE.chain_id)),
        Some(SITE.broker_registry),
        Some(B256::from(SITE.broker_id)),
    );
    assert_eq!(SITE.domain_separator(), domain.separator());
    for client_id in ["", CLIENT_ID, "é/#"] {
        let session = Session { clientId: client_id.into(), issuedAt: 7, expiresAt: u64::MAX };
        assert_eq!(
            token_digest(&SITE, client_id, 7, u64::MAX),
            session.eip712_signing_hash(&domain)
        );
    }
}

#[test]
fn a_token_proves_the_wallet_that_signed_it() {
    let principal = try_token(token()).unwrap();
    assert_eq!((principal.wallet, principal.key), (address_of(&vic()), address_of(&vic())));
    assert_eq!(principal.credential.kind, CredentialKind::Token);
    assert_eq!(
        (principal.credential.issued_at, principal.credential.expires_at),
        (ISSUED.into(), EXPIRES.into())
    );
    assert_eq!(token().len(), 99);
}

/// A05
#[test]
fn the_other_signature_of_the_same_key_and_digest_is_refused() {
    let digest = token_digest(&SITE, CLIENT_ID, ISSUED.into(), EXPIRES.into());
    let mut signature = sign(&vic(), digest);
    let s = k256::Scalar::from_repr(*k256::FieldBytes::from_slice(&signature[32..64])).unwrap();
    signature[32..64].copy_from_slice(&(-s).to_repr());
    signature[64] ^= 27 ^ 28;
    assert_eq!(try_token(encode_token(ISSUED, EXPIRES, &signature)), Err(Refusal::Signature));
    signature[64] ^= 27 ^ 28;
    assert_eq!(try_token(encode_token(ISSUED, EXPIRES, &signature)), Err(Refusal::Signature));
}

/// A06
#[test]
fn only_one_form_of_a_signature_is_accepted() {
    let digest = token_digest(&SITE, CLIENT_ID, ISSUED.into(), EXPIRES.into());
    let good = sign(&vic(), digest);
    for v in 0..=u8::MAX {
        let mut signature = good;
        signature[64] = v;
        let wanted = match v {
            _ if v == good[64] => Ok(()),
            27 | 28 => Err(Refusal::Signer),
            _ => Err(Refusal::Signature),
        };
        assert_eq!(
            try_token(encode_token(ISSUED, EXPIRES, &signature)).map(|_| ()),
            wanted,
            "v {v}"
        );
    }
    let n_minus_1 = hex!("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140");
    for (r, s) in [
        ([0; 32], [0; 32]),
        ([1; 32], [0; 32]),
        ([0; 32], [1; 32]),
        ([0xFF; 32], [1; 32]),
        (n_minus_1, n_minus_1),
    ] {
        let signature: [u8; 65] = [&r[..], &s, &[27]].concat().try_into().unwrap();
        let refusal = try_token(encode_token(ISSUED, EXPIRES, &signature)).unwrap_err();
        assert!(matches!(refusal, Refusal::Signature | Refusal::Signer), "{refusal:?}");
    }
}

/// A06
#[test]
fn passwords_of_any_other_length_or_alphabet_are_refused() {
    let user = user_name(address_of(&vic()));
    let view = Broker::new().view();
    let octets = URL_SAFE_NO_PAD.decode(token()).unwrap();
    let mut cases = 0;
    for length in (1..140).chain([1_000, 65_535]).filter(|length| ![27, 99].contains(length)) {
        assert_eq!(
            try_as(&user, vec![b'A'; length], &view, NOW),
            Err(Refusal::Password),
            "{length}"
        );
        cases += 1;
    }
    for length in [1, 63, 64, 65, 66, 73, 75] {
        let part: Vec<u8> = octets.iter().copied().cycle().take(length).collect();
        assert_eq!(try_token(URL_SAFE_NO_PAD.encode(part)), Err(Refusal::Password));
        cases += 1;
    }
    let good = token();
    let last = good.as_bytes()[98];
    for password in [
        format!("{good}="),
        hex::encode(&octets),
        STANDARD.encode(&octets),
        good.replacen(|_: char| true, "+", 1),
        good.replacen(|_: char| true, "/", 1),
        good.replacen(|_: char| true, "=", 1),
        good.replacen(|_: char| true, " ", 1),
        // The same octets with stray bits in the last character.
        format!("{}{}", &good[..98], char::from(last + 1)),
    ] {
        assert_eq!(try_token(&password), Err(Refusal::Password), "{password}");
        cases += 1;
    }
    for password in [[0xFF; 99], [0; 99], [0xC0; 99]] {
        assert_eq!(try_token(password), Err(Refusal::Password));
        cases += 1;
    }
    assert_eq!(cases, 139 + 2 - 2 + 7 + 8 + 3);
    let mut other_version = octets;
    other_version[0] = 2;
    assert_eq!(try_token(URL_SAFE_NO_PAD.encode(&other_version)), Err(Refusal::Version(2)));
}

/// A08
#[test]
fn the_signature_of_another_is_refused() {
    let eve = signer("EVE");
    let by_eve = token_by(&eve, &SITE, CLIENT_ID, ISSUED, EXPIRES);
    assert_eq!(try_token(&by_eve), Err(Refusal::Signer));
    let view = Broker::new().view();
    let principal = try_as(&user_name(address_of(&eve)), &by_eve, &view, NOW).unwrap();
    assert_eq!(principal.wallet, address_of(&eve));
}

/// A03, A04
#[test]
fn a_proof_for_another_place_or_client_id_is_refused() {
    let others = [
        Site { chain_id: 1, ..SITE },
        Site { chain_id: 0, ..SITE },
        Site { broker_registry: Address::ZERO, ..SITE },
        Site { broker_id: U256::from(2), ..SITE },
    ];
    for site in others {
        assert_eq!(
            try_token(token_by(&vic(), &site, CLIENT_ID, ISSUED, EXPIRES)),
            Err(Refusal::Signer)
        );
    }
    for client_id in ["", "sensor-2", "Sensor-1", "sensor-1 "] {
        assert_eq!(
            try_token(token_by(&vic(), &SITE, client_id, ISSUED, EXPIRES)),
            Err(Refusal::Signer)
        );
    }
}

/// A10
#[test]
fn raw_and_personal_signatures_are_refused() {
    let digest = token_digest(&SITE, CLIENT_ID, ISSUED.into(), EXPIRES.into());
    let personal = alloy_primitives::eip191_hash_message(digest);
    for wrong in [personal, keccak256(digest), keccak256(CLIENT_ID)] {
        assert_eq!(
            try_token(encode_token(ISSUED, EXPIRES, &sign(&vic(), wrong))),
            Err(Refusal::Signer)
        );
    }
}

/// A09
#[test]
fn one_wallet_is_one_principal_however_its_name_is_cased_and_nothing_else_names_it() {
    let address = address_of(&vic());
    let lower = user_name(address);
    let view = Broker::new().view();
    let checksum = address.to_checksum(None);
    let upper = format!("0x{}", lower[2..].to_uppercase());
    assert_ne!(checksum, lower);
    for name in [&lower, &checksum, &upper] {
        assert_eq!(try_as(name, token(), &view, NOW).unwrap().wallet, address);
    }
    let digits = &lower[2..];
    let mut cases = 0;
    for name in [
        digits.to_owned(),
        format!("0X{digits}"),
        format!("0x0x{}", &digits[2..]),
        format!("0x{}0x", &digits[2..]),
        format!("0x{:0>64}", digits),
        format!("{lower} "),
        format!(" {lower}"),
        format!("{lower}\0"),
        format!("0x{}", &digits[1..]),
        format!("0x{digits}0"),
        format!("0x{}é", &digits[2..]),
        format!("0x{}g", &digits[1..]),
        format!("0x{}", "0".repeat(40)),
        format!("\u{FEFF}{lower}"),
        "0x".to_owned(),
        "x".repeat(65_535),
    ] {
        assert_eq!(try_as(&name, token(), &view, NOW), Err(Refusal::UserName), "{name:?}");
        cases += 1;
    }
    assert_eq!(cases, 16);
}

/// A20
#[test]
fn tokens_hold_from_two_minutes_before_their_start_until_before_their_end() {
    let user = user_name(address_of(&vic()));
    let view = Broker::new().view();
    let at = |now| try_as(&user, token(), &view, now).map(|_| ());
    let (issued, expires) = (u64::from(ISSUED), u64::from(EXPIRES));
    assert_eq!(at(issued - CLOCK_SKEW - 1), Err(Refusal::NotYetValid));
    assert_eq!(at(issued - CLOCK_SKEW), Ok(()));
    assert_eq!(at(issued - 600), Err(Refusal::NotYetValid));
    assert_eq!(at(expires - 1), Ok(()));
    assert_eq!(at(expires), Err(Refusal::Expired));
    assert_eq!(at(expires + 1), Err(Refusal::Expired));
    for now in [0, u64::MAX] {
        assert!(at(now).is_err());
    }
    let with = |issued, expires| {
        try_as(&user, token_by(&vic(), &SITE, CLIENT_ID, issued, expires), &view, NOW)
    };
    let now = u32::try_from(NOW).unwrap();
    assert_eq!(with(now, now), Err(Refusal::Times));
    assert_eq!(with(now + 1, now), Err(Refusal::Times));
    assert_eq!(with(u32::MAX, 0), Err(Refusal::Times));
    assert_eq!(with(0, 0), Err(Refusal::Times));
    assert_eq!(with(0, u32::MAX), Err(Refusal::LivesTooLong));
    assert!(with(now, now + 1).is_ok());
    let year = u32::try_from(YEAR).unwrap();
    assert!(with(now, now + year).is_ok());
    assert_eq!(with(now, now + year + 1), Err(Refusal::LivesTooLong));
}

/// A21
#[test]
fn missing_credentials_are_refused_as_such() {
    let user = user_name(address_of(&vic()));
    let view = Broker::new().view();
    assert_eq!(try_as("", "", &view, NOW), Err(Refusal::Missing));
    assert_eq!(try_as(&user, "", &view, NOW), Err(Refusal::Missing));
    assert_eq!(try_as("", token(), &view, NOW), Err(Refusal::Missing));
    assert!(Refusal::Missing.blames_client());
}

#[test]
fn a_token_of_a_device_key_proves_its_wallet_while_the_key_is_authorized() {
    let (wallet, key) = (wallet(1), address_of(&vic()));
    let mut broker = Broker::new();
    let user = user_name(key);
    broker.device(wallet, key, NOW + 10);
    let at = |broker: &Broker, now| try_as(&user, token(), &broker.view(), now);
    let principal = at(&broker, NOW + 9).unwrap();
    assert_eq!((principal.wallet, principal.key), (wallet, key));
    assert_eq!(at(&broker, NOW + 10), Err(Refusal::DeviceEnded));
    let mut revoked = broker.clone();
    revoked.apply(&Event::DeviceRevoked { wallet, device: key });
    assert_eq!(at(&revoked, NOW), Err(Refusal::DeviceEnded));
    let mut all = broker.clone();
    all.apply(&Event::AllDevicesRevoked { wallet, generation: 1 });
    assert_eq!(at(&all, NOW), Err(Refusal::DeviceEnded));
    // Tokens of the wallet itself are another matter.
    broker.apply(&Event::TokensInvalidated { wallet, before: GENESIS + 1 });
    assert!(at(&broker, NOW).is_ok());
}

#[test]
fn a_device_key_counts_once_its_authorization_has_settled_and_nobody_is_blamed_before() {
    let (wallet, key) = (wallet(1), address_of(&vic()));
    let settled = Broker::new();
    let mut head = settled.clone();
    head.device(wallet, key, NOW + 10);
    let refusal =
        try_as(&user_name(key), token(), &head.view_settled_at(&settled), NOW).unwrap_err();
    assert_eq!(refusal, Refusal::NotSettled);
    assert!(!refusal.blames_client());
    let mut revoked = head.clone();
    revoked.apply(&Event::DeviceRevoked { wallet, device: key });
    let refusal =
        try_as(&user_name(key), token(), &revoked.view_settled_at(&head), NOW).unwrap_err();
    assert_eq!(refusal, Refusal::DeviceEnded);
}

#[test]
fn tokens_issued_before_the_wallet_invalidated_them_are_refused() {
    let wallet = address_of(&vic());
    let (before, mut same, mut later) = (Broker::new(), Broker::new(), Broker::new());
    same.apply(&Event::TokensInvalidated { wallet, before: ISSUED.into() });
    later.apply(&Event::TokensInvalidated { wallet, before: u64::from(ISSUED) + 1 });
    let with = |view: &View| try_as(&user_name(wallet), token(), view, NOW).map(|_| ());
    assert_eq!(with(&same.view()), Ok(()));
    assert_eq!(with(&later.view()), Err(Refusal::Invalidated));
    assert_eq!(with(&later.view_settled_at(&before)), Err(Refusal::Invalidated));
}

#[test]
fn a_device_password_proves_the_wallet_that_authorized_its_key() {
    let password = device_password(&[7; 20]);
    assert_eq!(password.len(), 27);
    let key = device_key(password.as_bytes()).unwrap().address();
    let mut broker = Broker::new();
    let with = |broker: &Broker, user: Address, password: &str, now| {
        try_as(&user_name(user), password, &broker.view(), now)
    };
    assert_eq!(with(&broker, key, &password, NOW), Err(Refusal::UnknownDevice));
    broker.device(wallet(1), key, NOW + 10).device(wallet(2), wallet(0xD2), NOW + 10);
    let principal = with(&broker, key, &password, NOW).unwrap();
    assert_eq!((principal.wallet, principal.key), (wallet(1), key));
    assert_eq!(principal.credential.kind, CredentialKind::DevicePassword);
    assert_eq!(principal.credential.expires_at, u64::MAX);
    assert_eq!(broker.view().standing(&principal, NOW), Ok(NOW + 10));
    assert_eq!(with(&broker, key, &password, NOW + 10), Err(Refusal::DeviceEnded));
    assert_eq!(with(&broker, key, &device_password(&[8; 20]), NOW), Err(Refusal::Signer));
    assert_eq!(with(&broker, wallet(0xD2), &password, NOW), Err(Refusal::Signer));
    let stray_bits = format!("{}{}", &password[..26], char::from(password.as_bytes()[26] + 1));
    assert_eq!(with(&broker, key, &stray_bits, NOW), Err(Refusal::Password));
    assert_eq!(with(&broker, key, &"!".repeat(27), NOW), Err(Refusal::Password));
}

#[test]
fn a_device_password_that_has_not_settled_blames_nobody_and_a_wrong_one_does() {
    let password = device_password(&[7; 20]);
    let key = device_key(password.as_bytes()).unwrap().address();
    let settled = Broker::new();
    let mut head = settled.clone();
    head.device(wallet(1), key, NOW + 10);
    let view = head.view_settled_at(&settled);
    assert_eq!(try_as(&user_name(key), &password, &view, NOW), Err(Refusal::NotSettled));
    let wrong = device_password(&[8; 20]);
    assert_eq!(try_as(&user_name(key), wrong, &view, NOW), Err(Refusal::Signer));
}

#[test]
fn debug_output_has_no_password() {
    let claim = Claim { client_id: "c", user_name: "u", password: b"hunter2" };
    let shown = format!("{claim:?}");
    assert!(
        shown.contains("[redacted]") && !shown.contains("hunter2") && !shown.contains("104"),
        "{shown}"
    );
}

proptest! {
    #[test]
    fn nothing_random_is_accepted_and_nothing_panics(
        client_id in ".{0,40}",
        user in prop_oneof![".{0,60}", "0x[0-9a-fA-F]{40}"],
        password in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[A-Za-z0-9_-]{99}".prop_map(String::into_bytes),
            "AW[A-Za-z0-9_-]{97}".prop_map(String::into_bytes),
            "[A-Za-z0-9_-]{27}".prop_map(String::into_bytes),
        ],
        now in any::<u64>(),
        longest_life in any::<u64>(),
    ) {
        let claim = Claim { client_id: &client_id, user_name: &user, password: &password };
        let accepts = Accepts { longest_life, contract_wallets: false };
        let refusal = authenticate(&claim, &SITE, &Broker::new().view(), now, &accepts).unwrap_err();
        prop_assert!(refusal.blames_client());
    }

    #[test]
    fn no_octet_of_a_token_can_be_changed(position in 0..74_usize, change in 1..=255_u8) {
        let mut octets = URL_SAFE_NO_PAD.decode(token()).unwrap();
        octets[position] ^= change;
        prop_assert!(try_token(URL_SAFE_NO_PAD.encode(&octets)).is_err());
    }
}
