//! Answers to challenges, questions to contract wallets, and where in a CONNECT a proof may be. Rows of the threat list that a claim is
//! for stand in its doc comment.

#![allow(clippy::unwrap_used, reason = "in a test a panic is a failure")]

mod common;

use alloy_primitives::{Address, B256, U256, address, b256, hex, keccak256};
use alloy_sol_types::{Eip712Domain, SolStruct, sol};
use common::*;
use flytrap_mqtt::{Connect, ConnectChange, Version, frame, read_connect, rewrite_connect};
use flytrap_policy::credential::{
    Accepts, Challenge, Claim, Finding, LONGEST_SIGNATURE, Presented, Proven, Refusal, Site,
    WALLET_PROOF_HOLDS, authenticate, challenge_digest, device_password, encode_answer,
    encode_token, judge_answer, token_digest, user_name, wallet_challenge_digest,
    wallet_token_digest,
};
use flytrap_policy::{CredentialKind, Event, View};
use k256::ecdsa::SigningKey;
use k256::elliptic_curve::PrimeField as _;
use proptest::prelude::*;

const SITE: Site = Site {
    chain_id: 31_337,
    broker_registry: address!("0x5FbDB2315678afecb367f032d93F642f64180aa3"),
    broker_id: U256::from_limbs([1, 0, 0, 0]),
};
const NONCE: B256 = b256!("0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f");
const ASKED: Challenge<'static> =
    Challenge { client_id: "sensor-1", nonce: NONCE, server: "mqtt.example.org" };
const ISSUED: u32 = 1_700_000_000;
const EXPIRES: u32 = 1_731_536_000;
const NOW: u64 = 1_710_000_000;
const LIFE: u64 = 366 * 86_400;
const KEYS_ONLY: Accepts = Accepts { longest_life: LIFE, contract_wallets: false };
const WALLETS_TOO: Accepts = Accepts { contract_wallets: true, ..KEYS_ONLY };
/// A contract, if any test asks.
const CONTRACT: Address = address!("0x00000000000000000000000000000000C0117ac7");

fn published_key() -> SigningKey {
    SigningKey::from_slice(&hex!(
        "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
    ))
    .unwrap()
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

fn answer_of(key: &SigningKey, asked: &Challenge<'_>) -> Vec<u8> {
    encode_answer(address_of(key), &sign(key, challenge_digest(&SITE, asked)))
}

fn judge_by(answer: &[u8], view: &View, accepts: &Accepts) -> Result<Finding, Refusal> {
    judge_answer(answer, &ASKED, &SITE, view, NOW, accepts)
}

fn judge(answer: &[u8]) -> Result<Proven, Refusal> {
    proved(judge_by(answer, &Broker::new().view(), &KEYS_ONLY))
}

fn proved(found: Result<Finding, Refusal>) -> Result<Proven, Refusal> {
    found.map(|found| match found {
        Finding::Proved(proven) => proven,
        Finding::Ask(question) => panic!("{question:?}"),
    })
}

/// For other implementations: this key, site and challenge must give this digest and this answer. It was made with
/// `cast wallet sign --data`, as the signatures of the next test.
#[test]
fn the_published_answer_is_accepted() {
    let key = published_key();
    assert_eq!(
        challenge_digest(&SITE, &ASKED),
        b256!("0xa479a680253cfef0fb17e424dad6740fdc27d2ca1f51aea9c5e308b727219d6e")
    );
    let answer = answer_of(&key, &ASKED);
    assert_eq!(
        hex::encode(&answer),
        "01fcad0b19bb29d4674531d6f115237e16afce377c\
         791c89093d5d94612dd4dc7bc3fa1093d78ff5dfb12e3a3d108939e2406a6d77\
         7f3790499784e222bdde6588f1385b75aac26e176f25cf0edd541abed30201f91c"
    );
    let principal = judge(&answer).unwrap().principal;
    assert_eq!((principal.wallet, principal.key), (address_of(&key), address_of(&key)));
    assert_eq!(principal.credential.kind, CredentialKind::Challenge);
    assert_eq!(principal.credential.issued_at, NOW);
    assert_eq!(principal.credential.expires_at, NOW + LIFE);
}

/// For wallets that are contracts: these are asked about.
#[test]
fn the_published_digests_of_contract_wallets_hold_their_address() {
    let digest = wallet_token_digest(&SITE, CONTRACT, "sensor-1", ISSUED.into(), EXPIRES.into());
    assert_eq!(digest, b256!("0xc4f796c88faeb76b1d5c172e260730a9328ceb9140714349eff317abd7de5a3d"));
    assert_eq!(
        sign(&published_key(), digest),
        hex!(
            "e19c749092cf7bdec8e9154eabaca79fb31236eaed3a7f97e920f5d70dffadce"
            "72268dbd845af2031ad2dec9d087df4d1af6a9f652bc102c36e2ac2e3a28e4741c"
        )
    );
    let digest = wallet_challenge_digest(&SITE, CONTRACT, &ASKED);
    assert_eq!(digest, b256!("0xc3b7b8d2456f9c985f9e43b079f57133f9d01deb92f9d3f5cedb780a428111c5"));
    assert_eq!(
        sign(&published_key(), digest),
        hex!(
            "dd4247e775ec8f6472953a9cb0da0bf9ce1ee9018ab710447d3e137dcfe83471"
            "1e9c0a707345414ae260e072057d307e4cd62535f450133f10bb56c81002c3f31b"
        )
    );
}

#[test]
fn digests_are_those_of_eip_712() {
    sol! {
        struct Challenge { string clientId; bytes32 nonce; string server; }
        struct WalletChallenge { address wallet; string clientId; bytes32 nonce; string server; }
        struct WalletSession { address wallet; string clientId; uint64 issuedAt; uint64 expiresAt; }
    }
    let domain = Eip712Domain::new(
        Some("FlyTrap".into()),
        Some("1".into()),
        Some(U256::from(SITE.chain_id)),
        Some(SITE.broker_registry),
        Some(B256::from(SITE.broker_id)),
    );
    for text in ["", "sensor-1", "é/#"] {
        let (client_id, server) = (text.to_owned(), format!("{text}.example"));
        let asked = flytrap_policy::credential::Challenge {
            client_id: text,
            nonce: NONCE,
            server: &server,
        };
        let signed =
            Challenge { clientId: client_id.clone(), nonce: NONCE, server: server.clone() };
        assert_eq!(challenge_digest(&SITE, &asked), signed.eip712_signing_hash(&domain));
        let signed = WalletChallenge {
            wallet: CONTRACT,
            clientId: client_id.clone(),
            nonce: NONCE,
            server: server.clone(),
        };
        let digest = wallet_challenge_digest(&SITE, CONTRACT, &asked);
        assert_eq!(digest, signed.eip712_signing_hash(&domain));
        let signed =
            WalletSession { wallet: CONTRACT, clientId: client_id, issuedAt: 7, expiresAt: 9 };
        let digest = wallet_token_digest(&SITE, CONTRACT, text, 7, 9);
        assert_eq!(digest, signed.eip712_signing_hash(&domain));
    }
}

/// A01, A03, A11: another nonce, another name, another client, another place.
#[test]
fn an_answer_to_any_other_question_is_refused() {
    let key = published_key();
    let other_nonce = keccak256("another nonce");
    for other in [
        Challenge { nonce: other_nonce, ..ASKED },
        Challenge { nonce: B256::ZERO, ..ASKED },
        Challenge { server: "mqtt.example.com", ..ASKED },
        Challenge { server: "", ..ASKED },
        Challenge { client_id: "sensor-2", ..ASKED },
        // What is moved from one text to the other is another question.
        Challenge { client_id: "sensor-1mqtt", server: ".example.org", ..ASKED },
    ] {
        assert_eq!(judge(&answer_of(&key, &other)), Err(Refusal::Signer), "{other:?}");
    }
    for site in [
        Site { chain_id: 1, ..SITE },
        Site { broker_registry: Address::ZERO, ..SITE },
        Site { broker_id: U256::from(2), ..SITE },
    ] {
        let answer = encode_answer(address_of(&key), &sign(&key, challenge_digest(&site, &ASKED)));
        assert_eq!(judge(&answer), Err(Refusal::Signer), "{site:?}");
    }
}

/// A10: neither raw, nor as a personal message, nor the signature of a token.
#[test]
fn a_signature_made_for_any_other_purpose_is_no_answer() {
    let key = published_key();
    let digest = challenge_digest(&SITE, &ASKED);
    for other in [
        alloy_primitives::eip191_hash_message(digest),
        keccak256(digest),
        NONCE,
        token_digest(&SITE, "sensor-1", ISSUED.into(), EXPIRES.into()),
        wallet_challenge_digest(&SITE, address_of(&key), &ASKED),
    ] {
        let answer = encode_answer(address_of(&key), &sign(&key, other));
        assert_eq!(judge(&answer), Err(Refusal::Signer));
    }
    // Nor does an answer make a token.
    let password = encode_token(ISSUED, EXPIRES, &sign(&key, digest));
    let name = user_name(address_of(&key));
    let claim = Claim { client_id: "sensor-1", user_name: &name, password: password.as_bytes() };
    let found = authenticate(&claim, &SITE, &Broker::new().view(), NOW, &KEYS_ONLY);
    assert_eq!(proved(found), Err(Refusal::Signer));
}

/// A12
#[test]
fn an_answer_signed_by_another_than_it_names_is_refused() {
    let eve = SigningKey::from_slice(keccak256("EVE").as_slice()).unwrap();
    let signature = sign(&eve, challenge_digest(&SITE, &ASKED));
    assert_eq!(
        judge(&encode_answer(address_of(&published_key()), &signature)),
        Err(Refusal::Signer)
    );
    assert!(judge(&encode_answer(address_of(&eve), &signature)).is_ok());
}

/// A05, A06
#[test]
fn an_answer_has_exactly_one_form() {
    let key = published_key();
    let good = answer_of(&key, &ASKED);
    assert_eq!(good.len(), 86);
    for length in (0..86).chain([87, 128, 255, 65_535]) {
        let answer: Vec<u8> = good.iter().copied().cycle().take(length).collect();
        assert_eq!(judge(&answer), Err(Refusal::Answer), "{length}");
    }
    for version in (0..=255).filter(|version| *version != 1) {
        let answer = [&[version][..], &good[1..]].concat();
        assert_eq!(judge(&answer), Err(Refusal::Answer), "{version}");
    }
    for v in 0..=u8::MAX {
        let mut answer = good.clone();
        answer[85] = v;
        let wanted = match v {
            _ if v == good[85] => Ok(()),
            27 | 28 => Err(Refusal::Signer),
            _ => Err(Refusal::Signature),
        };
        assert_eq!(judge(&answer).map(|_| ()), wanted, "v {v}");
    }
    let mut nobody = good.clone();
    nobody[1..21].fill(0);
    assert_eq!(judge(&nobody), Err(Refusal::Answer), "the zero address");
    let mut malleated = good;
    let s = k256::Scalar::from_repr(*k256::FieldBytes::from_slice(&malleated[53..85])).unwrap();
    malleated[53..85].copy_from_slice(&(-s).to_repr());
    malleated[85] ^= 27 ^ 28;
    assert_eq!(judge(&malleated), Err(Refusal::Signature));
}

#[test]
fn a_device_key_answers_for_its_wallet_while_it_is_authorized() {
    let key = published_key();
    let mut broker = Broker::new();
    broker.device(wallet(1), address_of(&key), NOW + 10);
    let with =
        |broker: &Broker| proved(judge_by(&answer_of(&key, &ASKED), &broker.view(), &WALLETS_TOO));
    let principal = with(&broker).unwrap().principal;
    assert_eq!((principal.wallet, principal.key), (wallet(1), address_of(&key)));
    assert_eq!(broker.view().standing(&principal, NOW), Ok(NOW + 10));
    broker.apply(&Event::DeviceRevoked { wallet: wallet(1), device: address_of(&key) });
    assert_eq!(with(&broker), Err(Refusal::DeviceEnded));
}

#[test]
fn sessions_that_answered_before_the_wallet_invalidated_its_proofs_end() {
    let key = published_key();
    let mut broker = Broker::new();
    let proven = judge(&answer_of(&key, &ASKED)).unwrap();
    assert_eq!(broker.view().standing(&proven.principal, NOW), Ok(NOW + LIFE));
    broker.apply(&Event::TokensInvalidated { wallet: address_of(&key), before: NOW + 1 });
    assert!(broker.view().standing(&proven.principal, NOW).is_err());
}

fn claim_of(contract: Address, signature: &[u8], accepts: &Accepts) -> Result<Finding, Refusal> {
    let (name, password) = (user_name(contract), encode_token(ISSUED, EXPIRES, signature));
    let claim = Claim { client_id: "sensor-1", user_name: &name, password: password.as_bytes() };
    authenticate(&claim, &SITE, &Broker::new().view(), NOW, accepts)
}

/// A29: what a wallet is asked about has its address in it, so an owner's signature for one wallet is none for another, nor for the
/// owner's own account.
#[test]
fn a_contract_is_asked_about_a_digest_that_only_it_can_be_asked_about() {
    let owner = published_key();
    let (one, two) = (CONTRACT, Address::repeat_byte(0xC2));
    let digest = wallet_token_digest(&SITE, one, "sensor-1", ISSUED.into(), EXPIRES.into());
    let signature = sign(&owner, digest);
    let asked = |wallet| match claim_of(wallet, &signature, &WALLETS_TOO).unwrap() {
        Finding::Ask(question) => question,
        Finding::Proved(proven) => panic!("{proven:?} without a question"),
    };
    assert_eq!((asked(one).wallet, asked(one).digest), (one, digest));
    assert_eq!(asked(one).signature.as_slice(), signature);
    assert_ne!(asked(two).digest, digest);
    // As the owner's own it is a question to an account without code, which cannot say yes.
    assert_ne!(asked(address_of(&owner)).digest, digest);
    assert_eq!(claim_of(address_of(&owner), &signature, &KEYS_ONLY).err(), Some(Refusal::Signer));
    let shown = format!("{:?}", asked(one));
    assert!(!shown.contains(&hex::encode(signature)), "{shown}");
}

/// A30
#[test]
fn a_key_that_signed_itself_is_believed_whatever_code_its_account_has() {
    let key = published_key();
    let digest = token_digest(&SITE, "sensor-1", ISSUED.into(), EXPIRES.into());
    let found = claim_of(address_of(&key), &sign(&key, digest), &WALLETS_TOO);
    let proven = proved(found).unwrap();
    assert_eq!(proven.principal.wallet, address_of(&key));
    assert_eq!(proven.principal.credential.expires_at, EXPIRES.into());
}

#[test]
fn signatures_of_other_lengths_are_for_contracts_and_where_they_are_accepted() {
    for length in [66, 97, 195, LONGEST_SIGNATURE] {
        let signature = vec![7; length];
        assert!(
            matches!(claim_of(CONTRACT, &signature, &WALLETS_TOO), Ok(Finding::Ask(_))),
            "{length}"
        );
        assert_eq!(claim_of(CONTRACT, &signature, &KEYS_ONLY).err(), Some(Refusal::Password));
        let answer = encode_answer(CONTRACT, &signature);
        let view = Broker::new().view();
        assert!(matches!(judge_by(&answer, &view, &WALLETS_TOO), Ok(Finding::Ask(_))), "{length}");
        assert_eq!(judge_by(&answer, &view, &KEYS_ONLY).err(), Some(Refusal::Answer));
    }
    for length in [0, 1, 64, LONGEST_SIGNATURE + 1, 40_000] {
        let refusal = claim_of(CONTRACT, &vec![7; length], &WALLETS_TOO).err();
        assert_eq!(refusal, Some(Refusal::Password), "{length}");
    }
}

#[test]
fn the_yes_of_a_contract_holds_an_hour_and_never_past_the_token() {
    let asked = |now| {
        let password = encode_token(ISSUED, EXPIRES, &[7; 65]);
        let name = user_name(CONTRACT);
        let claim =
            Claim { client_id: "sensor-1", user_name: &name, password: password.as_bytes() };
        match authenticate(&claim, &SITE, &Broker::new().view(), now, &WALLETS_TOO).unwrap() {
            Finding::Ask(question) => question.answered_yes(),
            Finding::Proved(proven) => panic!("{proven:?}"),
        }
    };
    assert_eq!(asked(NOW).principal.credential.expires_at, NOW + WALLET_PROOF_HOLDS);
    assert_eq!(asked(u64::from(EXPIRES) - 1).principal.credential.expires_at, EXPIRES.into());
    assert_eq!(asked(NOW).token.unwrap().expires_at, EXPIRES.into(), "remembered to its own end");
}

#[test]
fn a_device_key_is_no_contract_wallet() {
    let mut broker = Broker::new();
    broker.device(wallet(1), CONTRACT, NOW + 10);
    let answer = encode_answer(CONTRACT, &[7; 65]);
    let found = judge_by(&answer, &broker.view(), &WALLETS_TOO);
    assert_eq!(found.err(), Some(Refusal::Signer));
}

/// So that a token used once cannot be used again with another signature of the same.
#[test]
fn a_token_is_known_by_who_signed_what_and_not_by_the_signature() {
    let id = |contract, client_id: &str, signature: &[u8]| {
        let (name, password) = (user_name(contract), encode_token(ISSUED, EXPIRES, signature));
        let claim = Claim { client_id, user_name: &name, password: password.as_bytes() };
        match authenticate(&claim, &SITE, &Broker::new().view(), NOW, &WALLETS_TOO).unwrap() {
            Finding::Ask(question) => question.answered_yes().token.unwrap().id,
            Finding::Proved(proven) => proven.token.unwrap().id,
        }
    };
    assert_eq!(id(CONTRACT, "c", &[7; 65]), id(CONTRACT, "c", &[8; 195]));
    assert_ne!(id(CONTRACT, "c", &[7; 65]), id(CONTRACT, "d", &[7; 65]));
    assert_ne!(id(CONTRACT, "c", &[7; 65]), id(Address::repeat_byte(2), "c", &[7; 65]));
}

/// A CONNECT of MQTT 5 with these properties, and the octets it stands in.
fn connect(login: Option<(&str, &[u8])>, properties: &[u8]) -> Vec<u8> {
    let mut flags = 2;
    let mut end = Vec::new();
    let mut put = |octets: &[u8]| {
        end.extend_from_slice(&u16::try_from(octets.len()).unwrap().to_be_bytes());
        end.extend_from_slice(octets);
    };
    if let Some((name, password)) = login {
        flags |= 0xC0;
        put(name.as_bytes());
        put(password);
    }
    let length = u8::try_from(properties.len()).unwrap();
    let mut body = b"\0\x04MQTT\x05".to_vec();
    body.extend_from_slice(&[flags, 0, 0]);
    // Two octets, so that every length below 16,384 fits.
    if length < 128 {
        body.push(length);
    } else {
        body.extend_from_slice(&[length | 0x80, 1]);
    }
    body.extend_from_slice(properties);
    body.extend_from_slice(b"\0\x01c");
    body.extend_from_slice(&end);
    let length = body.len();
    let head = match u8::try_from(length) {
        Ok(short) if short < 128 => vec![0x10, short],
        _ => vec![
            0x10,
            0x80 | u8::try_from(length % 128).unwrap(),
            u8::try_from(length / 128).unwrap(),
        ],
    };
    [head, body].concat()
}

fn user(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    };
    [&[0x26][..], &text(name), &text(value)].concat()
}

fn method(name: &str, data: Option<&[u8]>) -> Vec<u8> {
    let mut octets = vec![0x15, 0, u8::try_from(name.len()).unwrap()];
    octets.extend_from_slice(name.as_bytes());
    if let Some(data) = data {
        octets.push(0x16);
        octets.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
        octets.extend_from_slice(data);
    }
    octets
}

fn present(octets: &[u8], passes_on: bool) -> Result<String, Refusal> {
    let connect = read_connect(frame(octets, usize::MAX).unwrap().unwrap()).unwrap();
    Presented::in_connect(&connect, passes_on).map(|found| match found {
        Presented::Login(claim) => format!("login {}", claim.user_name),
        Presented::Carried(claim) => {
            format!("carried {} {}", claim.user_name, String::from_utf8_lossy(claim.password))
        }
        Presented::Challenge => "challenge".to_owned(),
    })
}

#[test]
fn a_proof_is_found_in_exactly_one_place() {
    let both = [user("flytrap-address", "0xa"), user("flytrap-token", "t")].concat();
    let login = Some(("0xa", &b"t"[..]));
    let known = "FLYTRAP-EIP712";
    let cases: Vec<(Vec<u8>, Result<&str, Refusal>)> = vec![
        (connect(login, &[]), Ok("login 0xa")),
        (connect(login, &user("flytrap", "x")), Ok("login 0xa")),
        (connect(None, &both), Ok("carried 0xa t")),
        (connect(None, &method(known, Some(b"0xa:t:u"))), Ok("carried 0xa t:u")),
        (connect(None, &method(known, None)), Ok("challenge")),
        (connect(None, &[]), Err(Refusal::Missing)),
        (connect(None, &user("flytrap-address", "0xa")), Err(Refusal::Missing)),
        (connect(None, &user("flytrap-token", "t")), Err(Refusal::Missing)),
        (connect(None, &user("Flytrap-Token", "t")), Err(Refusal::Missing)),
        (
            connect(None, &[both.clone(), user("flytrap-token", "u")].concat()),
            Err(Refusal::Several),
        ),
        (
            connect(None, &[both.clone(), user("flytrap-address", "0xa")].concat()),
            Err(Refusal::Several),
        ),
        (connect(login, &both), Err(Refusal::Several)),
        (connect(login, &user("flytrap-token", "t")), Err(Refusal::Several)),
        (connect(login, &method(known, None)), Err(Refusal::Several)),
        (connect(login, &method(known, Some(b"0xa:t"))), Err(Refusal::Several)),
        (connect(None, &[both.clone(), method(known, None)].concat()), Err(Refusal::Several)),
        (connect(None, &method("SCRAM-SHA-1", None)), Err(Refusal::Method)),
        (connect(None, &method("flytrap-eip712", None)), Err(Refusal::Method)),
        (connect(None, &method("", None)), Err(Refusal::Method)),
        (connect(None, &method(known, Some(b""))), Err(Refusal::Password)),
        (connect(None, &method(known, Some(b"0xa"))), Err(Refusal::Password)),
        (connect(None, &method(known, Some(b"\xff:t"))), Err(Refusal::UserName)),
    ];
    for (octets, wanted) in &cases {
        let found = present(octets, false);
        let shown = String::from_utf8_lossy(octets);
        assert_eq!(found.as_deref(), wanted.as_deref(), "{shown}");
    }
}

#[test]
fn a_login_beside_another_proof_is_the_brokers_if_it_is_passed_on_and_no_proof_itself() {
    let both = [user("flytrap-address", "0xa"), user("flytrap-token", "t")].concat();
    let known = "FLYTRAP-EIP712";
    let address = user_name(address_of(&published_key()));
    let token = encode_token(ISSUED, EXPIRES, &[7; 65]);
    let device = device_password(&[7; 20]);
    for properties in [both, method(known, None), method(known, Some(b"0xa:t"))] {
        for (login, is_taken) in [
            (("factory", &b"secret"[..]), true),
            (("factory", device.as_bytes()), true),
            ((address.as_str(), b"secret"), true),
            ((address.as_str(), device.as_bytes()), false),
            ((address.as_str(), token.as_bytes()), false),
            (("factory", token.as_bytes()), false),
        ] {
            let octets = connect(Some(login), &properties);
            assert_eq!(present(&octets, true).is_ok(), is_taken, "{login:?}");
            assert_eq!(present(&octets, false), Err(Refusal::Several));
        }
    }
}

/// What goes to the broker is what came, without the two properties and the method.
#[test]
fn the_broker_gets_the_other_properties_only() {
    let properties = [
        user("a", "1"),
        user("flytrap-address", "0xa"),
        user("b", "2"),
        user("flytrap-token", "t"),
    ]
    .concat();
    let octets = connect(None, &properties);
    let connect = read_connect(frame(&octets, usize::MAX).unwrap().unwrap()).unwrap();
    let mut change = ConnectChange::new("c");
    change.remove_user_properties = &["flytrap-address", "flytrap-token"];
    let mut towards = Vec::new();
    rewrite_connect(&connect, &change, &mut towards);
    let Connect { version, properties, .. } =
        read_connect(frame(&towards, usize::MAX).unwrap().unwrap()).unwrap();
    assert_eq!(version, Version::V5);
    assert_eq!(properties.user_properties().collect::<Vec<_>>(), [("a", "1"), ("b", "2")]);
}

proptest! {
    #[test]
    fn nothing_random_is_an_answer_and_nothing_panics(
        answer in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            prop::collection::vec(any::<u8>(), 85).prop_map(|rest| [&[1][..], &rest].concat()),
        ],
        now in any::<u64>(),
        contract_wallets in any::<bool>(),
    ) {
        let accepts = Accepts { contract_wallets, ..KEYS_ONLY };
        match judge_answer(&answer, &ASKED, &SITE, &Broker::new().view(), now, &accepts) {
            Ok(Finding::Ask(_)) => prop_assert!(contract_wallets),
            Ok(Finding::Proved(proven)) => prop_assert!(false, "{:?}", proven),
            Err(refusal) => prop_assert!(refusal.blames_client()),
        }
    }

    #[test]
    fn no_octet_of_an_answer_can_be_changed(position in 0..86_usize, change in 1..=255_u8) {
        let mut answer = answer_of(&published_key(), &ASKED);
        answer[position] ^= change;
        prop_assert!(judge(&answer).is_err());
    }
}
