//! Group A: who does EVE get taken for?

use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, U256, keccak256};
use eyre::{Result, ensure};
use flytrap_chain::keys::Key;
use flytrap_policy::Right;
use flytrap_policy::credential::{self, Challenge, Site as Place};
use flytrap_site::raw::{self, Connect, Got, PINGREQ, Publish, Raw, Version, attempt, property};
use flytrap_site::{Login, token_between, unix_now};

use super::arena::{Arena, SECRET, contains};
use super::{Outcome, Row, Side, row};

const METHOD: &str = "FLYTRAP-EIP712";
/// The name of the gateway that challenges.
const NAME: &str = "gateway.test";
const V3: Version = Version::V311;
const V5: Version = Version::V5;
/// Order of the curve, for the other of two signatures.
const ORDER: &str = "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141";

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row!("A01", "replay a recorded CONNECT", replayed),
        row!("A02", "one proof twice, and again after a restart", twice),
        row!("A03", "proof made for another contract", other_contract),
        row!("A04", "proof made for another chain", other_chain),
        row!("A05", "the other signature of a proof (high s)", malleated),
        row!("A06", "proofs of wrong length, v and alphabet", odd_proofs),
        row!("A08", "VIC's name, EVE's signature", others_name),
        row!("A09", "one wallet in six spellings", spellings),
        row!("A10", "a signature over the raw digest and as personal_sign", other_digests),
        row!("A11", "an answer that VIC gave to another gateway", relayed),
        row!("A12", "challenge of A answered by B", answered_by_another),
        row!("A14", "AUTH where none may be", stray_auth),
        row!("A15", "packets behind a bad CONNECT in one segment", one_segment),
        row!("A16", "a second CONNECT for another wallet", second_connect),
        row!("A17", "take over SUB's session by its client id", take_over),
        row!("A18", "destroy SUB's session by its client id", destroy),
        row!("A20", "tokens from the future, the past and the edge", odd_times),
        row!("A21", "no or half a login", no_login),
        row!("A23", "40 guesses at once", guesses),
        row!("A25", "EVE's failures against honest neighbours", neighbours),
        row!("A27", "flush a ban by failures from many origins", flush),
        row!("A28", "a flood of well-formed wrong signatures", signature_flood),
        row!("A31", "PUB goes on after being banned", banned),
        row!("A32", "plain octets, old TLS and nonsense to the TLS port", odd_tls),
        row!("A34", "find a proof at the broker, in logs or metrics", traces),
        row!("A35", "a PROXY header that nobody asked for", proxy_header),
        row!("A37", "client ids with wildcards and patterns", odd_client_ids),
        row!("A38", "protocol names and levels that nobody knows", odd_levels),
    ]
}

fn vic(arena: &Arena) -> &Key {
    &arena.site.wallets.publisher
}

/// Sends a CONNECT from an origin of its own, then tries to read and write.
async fn breaks_in(arena: &Arena, side: Side, version: Version, connect: &Connect) -> Result<bool> {
    let mut client = arena.dial(side, version).await?;
    // What it is told does not matter.
    let _ = client.send(connect.octets(version)).await;
    arena.breach(&mut client).await
}

async fn any_breaks_in(
    arena: &Arena,
    side: Side,
    logins: impl IntoIterator<Item = (String, Login)>,
) -> Result<Outcome> {
    for (what, login) in logins {
        for version in [V3, V5] {
            if breaks_in(arena, side, version, &Connect::of(version, &login)).await? {
                return Ok(Outcome::Succeeded(what));
            }
        }
    }
    Ok(Outcome::Failed)
}

/// A connection to the gateway that takes tokens once and challenges, or to the broker.
async fn strict(arena: &Arena, side: Side, version: Version) -> Result<Raw> {
    let address = match side {
        Side::Plain => arena.site.broker.address(),
        Side::FlyTrap => arena.strict.lock().await.listener("mqtt")?,
    };
    Raw::plain_from(version, arena.origin(), address).await
}

async fn uses_up(arena: &Arena, side: Side, login: &Login) -> Result<()> {
    let mut client = strict(arena, side, V5).await?;
    ensure!(client.connect(&Connect::of(V5, login)).await? == 0, "VIC is refused");
    client.send(raw::DISCONNECT).await?;
    client.ended(Duration::from_secs(5)).await?;
    Ok(())
}

async fn replays(arena: &Arena, side: Side, login: &Login) -> Result<bool> {
    let mut client = strict(arena, side, V5).await?;
    let _ = client.send(Connect::of(V5, login).octets(V5)).await;
    arena.breach(&mut client).await
}

async fn replayed(arena: &Arena, side: Side) -> Result<Outcome> {
    let login = arena.token(vic(arena), &arena.fresh("a01-"))?;
    uses_up(arena, side, &login).await?;
    for pause in [0, 1_000] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if replays(arena, side, &login).await? {
            return Ok(Outcome::Succeeded(format!("after {pause} ms")));
        }
    }
    Ok(Outcome::Failed)
}

async fn twice(arena: &Arena, side: Side) -> Result<Outcome> {
    let login = arena.token(vic(arena), &arena.fresh("a02-"))?;
    uses_up(arena, side, &login).await?;
    if replays(arena, side, &login).await? {
        return Ok(Outcome::Succeeded("at once".into()));
    }
    if side == Side::FlyTrap {
        arena.strict.lock().await.restart().await?;
    }
    Ok(Outcome::of(replays(arena, side, &login).await?, "after a restart"))
}

fn for_place(arena: &Arena, place: Place) -> Result<Login> {
    flytrap_site::token(vic(arena), &place, &arena.fresh("place-"), 3_600)
}

async fn other_contract(arena: &Arena, side: Side) -> Result<Outcome> {
    let place = arena.site.place();
    let other = Place { broker_registry: Address::repeat_byte(0x42), ..place };
    let another = Place { broker_id: place.broker_id + U256::from(1), ..place };
    any_breaks_in(
        arena,
        side,
        [
            ("contract".into(), for_place(arena, other)?),
            ("broker".into(), for_place(arena, another)?),
        ],
    )
    .await
}

async fn other_chain(arena: &Arena, side: Side) -> Result<Outcome> {
    let place = arena.site.place();
    let mut logins = Vec::new();
    for chain_id in [1, 0] {
        logins.push((format!("chain {chain_id}"), for_place(arena, Place { chain_id, ..place })?));
    }
    any_breaks_in(arena, side, logins).await
}

/// A valid login of VIC, its parts to be spoilt.
struct Parts {
    client_id: String,
    from: u32,
    to: u32,
    signature: Vec<u8>,
}

impl Parts {
    fn of(arena: &Arena) -> Result<Self> {
        let (now, client_id) = (unix_now(), arena.fresh("parts-"));
        let digest =
            credential::token_digest(&arena.site.place(), &client_id, now - 60, now + 3_600);
        let signature = vic(arena).sign(&digest).to_vec();
        Ok(Self {
            client_id,
            from: u32::try_from(now - 60)?,
            to: u32::try_from(now + 3_600)?,
            signature,
        })
    }

    fn login(&self, arena: &Arena, signature: &[u8]) -> Login {
        Login {
            user_name: vic(arena).address().to_string(),
            password: credential::encode_token(self.from, self.to, signature),
            client_id: self.client_id.clone(),
        }
    }
}

async fn malleated(arena: &Arena, side: Side) -> Result<Outcome> {
    let parts = Parts::of(arena)?;
    let order: U256 = ORDER.parse()?;
    let mut other = parts.signature.clone();
    let s = U256::from_be_slice(&other[32..64]);
    other[32..64].copy_from_slice(&(order - s).to_be_bytes::<32>());
    other[64] = if other[64] == 27 { 28 } else { 27 };
    any_breaks_in(arena, side, [("high s".into(), parts.login(arena, &other))]).await
}

async fn odd_proofs(arena: &Arena, side: Side) -> Result<Outcome> {
    let parts = Parts::of(arena)?;
    let good = parts.signature.as_slice();
    let mut spoilt: Vec<(String, Login)> = Vec::new();
    for length in [0, 1, 63, 64] {
        spoilt.push((format!("{length} octets"), parts.login(arena, &good[..length])));
    }
    spoilt.push(("66 octets".into(), parts.login(arena, &[good, &[27]].concat())));
    for v in [0, 1, 2, 26, 29, 255] {
        let mut other = good.to_vec();
        other[64] = v;
        spoilt.push((format!("v {v}"), parts.login(arena, &other)));
    }
    let fine = parts.login(arena, good);
    for (what, password) in [
        ("padded", format!("{}=", fine.password)),
        ("other alphabet", fine.password.replace('_', "/").replace('-', "+") + "+"),
        ("hexadecimal", good.iter().map(|octet| format!("{octet:02x}")).collect()),
        ("a space behind", format!("{} ", fine.password)),
        ("12 KiB", "A".repeat(12 * 1024)),
    ] {
        spoilt.push((what.into(), Login { password, ..fine.clone() }));
    }
    let outcome = any_breaks_in(arena, side, spoilt).await?;
    if matches!(outcome, Outcome::Succeeded(_)) {
        return Ok(outcome);
    }
    let raw = Connect { password: Some(vec![0xff, 0xfe, 0x00, 0x80]), ..Connect::of(V5, &fine) };
    Ok(Outcome::of(breaks_in(arena, side, V5, &raw).await?, "octets that are no text"))
}

async fn others_name(arena: &Arena, side: Side) -> Result<Outcome> {
    let login = arena.token(&arena.site.wallets.stranger, &arena.fresh("a08-"))?;
    let login = Login { user_name: vic(arena).address().to_string(), ..login };
    any_breaks_in(arena, side, [("EVE as VIC".into(), login)]).await
}

/// Every spelling that is let in must be one and the same principal at the broker.
async fn spellings(arena: &Arena, side: Side) -> Result<Outcome> {
    if side == Side::Plain {
        return Ok(Outcome::Absent);
    }
    let address = vic(arena).address();
    let lower = format!("{address:#x}");
    let digits = &lower[2..];
    let mut seen = Vec::new();
    for (n, user_name) in [
        address.to_string(),
        lower.clone(),
        format!("0x{}", digits.to_uppercase()),
        format!("0X{digits}"),
        digits.to_owned(),
        format!(" {lower}"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = arena.fresh(&format!("a09-{n}-"));
        let login = Login { user_name, ..arena.token(vic(arena), &id)? };
        let mut client = arena.dial(side, V5).await?;
        let _ = client.send(Connect::of(V5, &login).octets(V5)).await;
        arena.drain(&mut client).await?;
        let connects = arena.site.recorder()?.connects();
        seen.extend(
            connects
                .into_iter()
                .map(|connect| connect.client_id)
                .filter(|seen| seen.ends_with(&id)),
        );
    }
    ensure!(!seen.is_empty(), "no spelling was let in");
    let strange = seen.iter().find(|id| !id.starts_with(&format!("{digits}-")));
    Ok(Outcome::of(strange.is_some(), format!("{strange:?}")))
}

async fn other_digests(arena: &Arena, side: Side) -> Result<Outcome> {
    let parts = Parts::of(arena)?;
    let digest = credential::token_digest(
        &arena.site.place(),
        &parts.client_id,
        parts.from.into(),
        parts.to.into(),
    );
    let personal = keccak256([b"\x19Ethereum Signed Message:\n32", digest.as_slice()].concat());
    let raw = keccak256(parts.client_id.as_bytes());
    let key = vic(arena);
    any_breaks_in(
        arena,
        side,
        [
            ("personal_sign".into(), parts.login(arena, key.sign(&personal).as_ref())),
            ("raw".into(), parts.login(arena, key.sign(&raw).as_ref())),
        ],
    )
    .await
}

/// Asks for a challenge; answers with what is made of the nonce; then tries to read and write.
async fn challenged(
    arena: &Arena,
    side: Side,
    answer: impl Fn(&str, B256) -> Vec<u8>,
) -> Result<bool> {
    let mut client = strict(arena, side, V5).await?;
    let id = arena.fresh("auth-");
    let connect = Connect {
        client_id: id.clone(),
        properties: property::authentication(METHOD, None),
        ..Connect::anonymous()
    };
    client.send(connect.octets(V5)).await?;
    if let Ok(Got::Auth { data: Some(nonce), .. }) = client.get().await {
        let nonce = B256::try_from(nonce.as_slice())?;
        client.send(raw::auth(0x18, METHOD, Some(&answer(&id, nonce)))).await?;
    }
    arena.breach(&mut client).await
}

async fn relayed(arena: &Arena, side: Side) -> Result<Outcome> {
    if side == Side::Plain {
        return Ok(Outcome::Absent);
    }
    let (place, key) = (arena.site.place(), vic(arena));
    let answer = |server: &'static str| {
        move |client_id: &str, nonce: B256| {
            let digest =
                credential::challenge_digest(&place, &Challenge { client_id, nonce, server });
            credential::encode_answer(key.address(), &key.sign(&digest))
        }
    };
    ensure!(challenged(arena, side, answer(NAME)).await?, "VIC itself is refused");
    Ok(Outcome::of(challenged(arena, side, answer("evil.test")).await?, "an answer for evil.test"))
}

async fn answered_by_another(arena: &Arena, side: Side) -> Result<Outcome> {
    if side == Side::Plain {
        return Ok(Outcome::Absent);
    }
    let place = arena.site.place();
    let (vic, eve) = (vic(arena).address(), &arena.site.wallets.stranger);
    let answer = |client_id: &str, nonce| {
        let digest =
            credential::challenge_digest(&place, &Challenge { client_id, nonce, server: NAME });
        credential::encode_answer(vic, &eve.sign(&digest))
    };
    Ok(Outcome::of(challenged(arena, side, answer).await?, "EVE as VIC"))
}

async fn stray_auth(arena: &Arena, side: Side) -> Result<Outcome> {
    let login = arena.token(&arena.site.wallets.stranger, &arena.fresh("a14-"))?;
    let auth = raw::auth(0x19, METHOD, Some(b"x"));
    let other = Connect {
        properties: property::authentication("OTHER", Some(b"x")),
        ..Connect { client_id: arena.fresh("a14-"), ..Connect::anonymous() }
    };
    let no_method = Connect {
        properties: vec![0x16, 0, 1, b'x'],
        ..Connect { client_id: arena.fresh("a14-"), ..Connect::anonymous() }
    };
    for (what, version, octets) in [
        ("before CONNECT", V5, auth.clone()),
        ("in MQTT 3.1.1", V3, [Connect::of(V3, &login).octets(V3), auth.clone()].concat()),
        ("without a method", V5, [Connect::of(V5, &login).octets(V5), auth].concat()),
        ("another method", V5, other.octets(V5)),
        ("data without method", V5, no_method.octets(V5)),
    ] {
        let mut client = strict(arena, side, version).await?;
        let _ = client.send(octets).await;
        if arena.breach(&mut client).await? {
            return Ok(Outcome::Succeeded(what.into()));
        }
    }
    Ok(Outcome::Failed)
}

async fn one_segment(arena: &Arena, side: Side) -> Result<Outcome> {
    let mark = arena.mark();
    let bad = Login {
        user_name: vic(arena).address().to_string(),
        ..arena.token(&arena.site.wallets.stranger, &arena.fresh("a15-"))?
    };
    let pending = Connect {
        client_id: arena.fresh("a15-"),
        properties: property::authentication(METHOD, None),
        ..Connect::anonymous()
    };
    for connect in [Connect::of(V5, &bad), pending] {
        let octets = [
            connect.octets(V5),
            raw::subscribe(V5, 1, &[(SECRET, 1)]),
            Publish::new(SECRET, &mark).octets(V5),
        ];
        let mut client = strict(arena, side, V5).await?;
        let _ = client.send(octets.concat()).await;
        arena.drain(&mut client).await?;
        if arena.heard(&mark).await? {
            return Ok(Outcome::Succeeded("the message behind it".into()));
        }
        // What EVE named must not be at the broker at all.
        let connects = arena.site.recorder()?.connects();
        if side == Side::FlyTrap
            && connects.iter().any(|seen| seen.client_id.ends_with(&connect.client_id))
        {
            return Ok(Outcome::Succeeded("its CONNECT".into()));
        }
    }
    Ok(Outcome::Failed)
}

async fn second_connect(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut client = arena.eve(side, V5).await?;
    let login = arena.token(vic(arena), &arena.fresh("a16-"))?;
    let _ = client.send(Connect::of(V5, &login).octets(V5)).await;
    Ok(Outcome::of(arena.breach(&mut client).await?, "EVE went on as VIC"))
}

/// A session of SUB that keeps, with a filter; returns its CONNECT as EVE could repeat it with her own proof.
async fn keeps(arena: &Arena, side: Side) -> Result<(Raw, Connect, Connect)> {
    let id = arena.fresh("kept-");
    let of = &arena.site.wallets;
    let with = |key: &Key| -> Result<Connect> {
        Ok(Connect {
            clean: false,
            properties: property::session_expiry(600),
            ..arena.connect(side, key, &id)?
        })
    };
    let (subs, eves) = (with(&of.reader)?, with(&of.stranger)?);
    let mut sub = arena.session_of(side, V5, &subs).await?;
    ensure!(sub.subscribe(&[(SECRET, 1)]).await? == [1], "SUB is refused");
    Ok((sub, subs, eves))
}

async fn take_over(arena: &Arena, side: Side) -> Result<Outcome> {
    let (mut sub, subs, eves) = keeps(arena, side).await?;
    let mut eve = arena.dial(side, V5).await?;
    let present = matches!(eve.connack(&eves).await, Ok(Got::ConnAck { present: true, .. }));
    let alive = sub.ping().await.is_ok();
    if present || !alive {
        return Ok(Outcome::Succeeded(format!("session present {present}, SUB alive {alive}")));
    }
    // With SUB away, is her queue EVE's?
    drop(sub);
    let mark = arena.mark();
    arena.put(SECRET, &mark, false).await?;
    drop(eve);
    let mut eve = arena.dial(side, V5).await?;
    let _ = eve.send(eves.octets(V5)).await;
    let got = arena.drain(&mut eve).await?;
    let mut sub = arena.session_of(side, V5, &subs).await?;
    let subs_own = arena.drain(&mut sub).await?;
    ensure!(
        contains(&got, &mark) || contains(&subs_own, &mark),
        "SUB's own queue did not come either"
    );
    Ok(Outcome::of(contains(&got, &mark), "SUB's queued messages"))
}

async fn destroy(arena: &Arena, side: Side) -> Result<Outcome> {
    let (sub, subs, eves) = keeps(arena, side).await?;
    drop(sub);
    let mark = arena.mark();
    arena.put(SECRET, &mark, false).await?;
    let mut eve = arena.dial(side, V5).await?;
    let _ = eve.send(Connect { clean: true, ..eves }.octets(V5)).await;
    arena.drain(&mut eve).await?;
    drop(eve);
    let mut sub = arena.session_of(side, V5, &subs).await?;
    let got = arena.drain(&mut sub).await?;
    Ok(Outcome::of(!contains(&got, &mark), "SUB's queue is gone"))
}

async fn odd_times(arena: &Arena, side: Side) -> Result<Outcome> {
    let (now, place) = (unix_now(), arena.site.place());
    let mut logins = Vec::new();
    for (what, from, to) in [
        ("from in ten minutes", now + 600, now + 4_000),
        ("ended a second ago", now - 100, now - 1),
        ("ends now", now - 100, now),
        ("ends at 0", now - 100, 0),
        ("of 1970", 0, 1),
        ("until 2106", now - 100, u64::from(u32::MAX)),
        ("backwards", now + 100, now - 100),
    ] {
        let login = token_between(vic(arena), &place, &arena.fresh("a20-"), from, to)?;
        logins.push((what.to_owned(), login));
    }
    any_breaks_in(arena, side, logins).await
}

async fn no_login(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = vic(arena).address().to_string();
    for (what, user_name, password) in [
        ("nothing", None, None),
        ("an empty name", Some(String::new()), Some(Vec::new())),
        ("a name only", Some(name), None),
        ("a password only", None, Some(b"x".to_vec())),
    ] {
        let client_id = arena.fresh("a21-");
        let connect = Connect { client_id, user_name, password, ..Connect::anonymous() };
        if breaks_in(arena, side, V5, &connect).await? {
            return Ok(Outcome::Succeeded(what.into()));
        }
    }
    Ok(Outcome::Failed)
}

/// A CONNECT with a well-formed proof that proves nothing.
fn wrong(arena: &Arena) -> Result<Connect> {
    let login = arena.token(&arena.site.wallets.stranger, "another")?;
    let client_id = arena.fresh("wrong-");
    Ok(Connect { client_id, ..Connect::of(V5, &login) })
}

/// Whether a proof was looked at: those that are not are told that they are banned, or nothing.
fn is_looked_at(code: Option<u8>) -> bool {
    matches!(code, Some(0 | 0x86))
}

/// Answers to so many wrong proofs from one origin, one after the other: those that were looked at.
async fn failures(arena: &Arena, from: std::net::IpAddr, side: Side, count: u32) -> Result<u32> {
    let mut looked_at = 0;
    for _ in 0..count {
        let code = attempt(V5, from, arena.address(side)?, &wrong(arena)?).await?;
        looked_at += u32::from(is_looked_at(code));
    }
    Ok(looked_at)
}

async fn guesses(arena: &Arena, side: Side) -> Result<Outcome> {
    let from = arena.origin();
    let mut tries = Vec::new();
    for _ in 0..40 {
        tries.push((wrong(arena)?, arena.address(side)?));
    }
    let tries = tries.iter().map(|(connect, address)| attempt(V5, from, *address, connect));
    let answers = futures::future::join_all(tries).await;
    let looked_at =
        answers.into_iter().filter_map(Result::ok).filter(|code| is_looked_at(*code)).count();
    Ok(Outcome::of(looked_at > 6, format!("{looked_at} guesses were looked at")))
}

async fn neighbours(arena: &Arena, side: Side) -> Result<Outcome> {
    let from = arena.origin();
    failures(arena, from, side, 8).await?;
    let deadline = Instant::now() + Duration::from_secs(6);
    while Instant::now() < deadline {
        let connect = arena.connect(side, vic(arena), &arena.fresh("a25-"))?;
        if attempt(V5, from, arena.address(side)?, &connect).await? == Some(0) {
            return Ok(Outcome::Failed);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(Outcome::Succeeded("an honest neighbour is shut out".into()))
}

async fn flush(arena: &Arena, side: Side) -> Result<Outcome> {
    if side == Side::Plain {
        return Ok(Outcome::Absent);
    }
    let banned = arena.origin();
    failures(arena, banned, side, 6).await?;
    for _ in 0..arena.seconds * 100 {
        failures(arena, arena.origin(), side, 1).await?;
    }
    // Behind a ban one guess a second is looked at, no more.
    let looked_at = failures(arena, banned, side, 10).await?;
    Ok(Outcome::of(looked_at > 2, format!("{looked_at} of 10 guesses of the banned origin")))
}

async fn signature_flood(arena: &Arena, side: Side) -> Result<Outcome> {
    let (deadline, mut let_in) = (Instant::now() + Duration::from_secs(arena.seconds), 0_u32);
    while Instant::now() < deadline {
        let mut tries = Vec::new();
        for _ in 0..20 {
            tries.push((arena.origin(), wrong(arena)?));
        }
        let address = arena.address(side)?;
        let tries = tries.iter().map(|(from, connect)| attempt(V5, *from, address, connect));
        let answers = futures::future::join_all(tries).await;
        let_in += u32::try_from(answers.iter().filter(|a| matches!(a, Ok(Some(0)))).count())?;
    }
    Ok(Outcome::of(let_in > 0, format!("{let_in} were let in")))
}

async fn banned(arena: &Arena, side: Side) -> Result<Outcome> {
    let of = &arena.site.wallets;
    let key = &of.spare[0];
    arena.give("secret", key.address(), Right::Publish).await?;
    let mut client = arena.session(side, V5, key).await?;
    ensure!(arena.writes(&mut client, SECRET).await?, "it may not write before the ban either");
    let scribe = arena.scribe();
    scribe.done(&scribe.ban(key.address(), unix_now() + 3_600)).await?;
    tokio::time::sleep(Duration::from_millis(250)).await;
    let goes_on = arena.writes(&mut client, SECRET).await?;
    let mut back = arena.dial(side, V5).await?;
    let _ = back.send(arena.connect(side, key, &arena.fresh("a31-"))?.octets(V5)).await;
    let comes_back = arena.breach(&mut back).await?;
    arena.known(scribe.done(&scribe.unban(key.address())).await?).await?;
    arena.take("secret", key.address(), Right::Publish).await?;
    Ok(Outcome::of(goes_on || comes_back, format!("goes on {goes_on}, comes back {comes_back}")))
}

async fn odd_tls(arena: &Arena, side: Side) -> Result<Outcome> {
    if side == Side::Plain {
        return Ok(Outcome::Absent);
    }
    let connect = Connect::of(V5, &arena.token(vic(arena), &arena.fresh("a32-"))?).octets(V5);
    // The beginning of a TLS 1.0 ClientHello; a record of a length that none has; an alert.
    let old = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x01".to_vec();
    for (what, octets) in [
        ("plain MQTT", connect),
        ("TLS 1.0", [old, vec![0; 34]].concat()),
        ("a huge record", b"\x16\x03\x03\xff\xff".to_vec()),
        ("close_notify", b"\x15\x03\x03\x00\x02\x01\x00".to_vec()),
    ] {
        let mut client = Raw::plain_from(V5, arena.origin(), arena.site.mqtts()?).await?;
        let _ = client.send(octets).await;
        if arena.breach(&mut client).await? {
            return Ok(Outcome::Succeeded(what.into()));
        }
    }
    Ok(Outcome::Failed)
}

async fn traces(arena: &Arena, side: Side) -> Result<Outcome> {
    let login = arena.token(vic(arena), &arena.fresh("a34-"))?;
    let mut client = arena.dial(side, V5).await?;
    ensure!(client.connect(&Connect::of(V5, &login)).await? == 0, "VIC is refused");
    let mut failed = arena.dial(side, V5).await?;
    let bad = Login { client_id: "another".into(), ..login.clone() };
    let _ = failed.send(Connect::of(V5, &bad).octets(V5)).await;
    arena.drain(&mut failed).await?;
    if side == Side::Plain {
        // It was sent to the broker as it is.
        return Ok(Outcome::Succeeded("the broker has it".into()));
    }
    let gateway = arena.site.gateway()?;
    let (_, metrics) = gateway.ask("metrics").await?;
    let places = [
        ("the broker", arena.octets_at_broker()?),
        ("the log", gateway.child.log().into_bytes()),
        ("the metrics", metrics.into_bytes()),
    ];
    for (place, octets) in places {
        if contains(&[octets], &login.password.as_bytes()[20..]) {
            return Ok(Outcome::Succeeded(format!("{place} has it")));
        }
    }
    Ok(Outcome::Failed)
}

async fn proxy_header(arena: &Arena, side: Side) -> Result<Outcome> {
    let login = arena.token(vic(arena), &arena.fresh("a35-"))?;
    let connect = Connect::of(V5, &login).octets(V5);
    let two =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x50\x07\x5b";
    for (what, header) in
        [("version 1", &b"PROXY TCP4 192.0.2.1 192.0.2.2 80 1883\r\n"[..]), ("version 2", &two[..])]
    {
        let mut client = arena.dial(side, V5).await?;
        let _ = client.send([header, &connect].concat()).await;
        if arena.breach(&mut client).await? {
            return Ok(Outcome::Succeeded(what.into()));
        }
    }
    Ok(Outcome::Failed)
}

async fn odd_client_ids(arena: &Arena, side: Side) -> Result<Outcome> {
    let eve = &arena.site.wallets.stranger;
    for id in ["#", "+", "+/#", "%c", "%u", "$SYS", "/", "../x", "a\u{202e}b"] {
        for version in [V3, V5] {
            let mut client = arena.dial(side, version).await?;
            let connect = match side {
                Side::Plain => Connect { client_id: id.into(), ..Connect::anonymous() },
                Side::FlyTrap => Connect::of(version, &arena.token(eve, id)?),
            };
            let _ = client.send(connect.octets(version)).await;
            if arena.breach(&mut client).await? {
                return Ok(Outcome::Succeeded(format!("client id {id}")));
            }
        }
    }
    Ok(Outcome::Failed)
}

async fn odd_levels(arena: &Arena, side: Side) -> Result<Outcome> {
    for (name, level) in [
        ("MQIsdp", 3),
        ("MQTT", 0),
        ("MQTT", 1),
        ("MQTT", 2),
        ("MQTT", 3),
        ("MQTT", 6),
        ("MQIsdp", 0x83),
        ("MQTT", 0x84),
        ("mqtt", 4),
        ("", 4),
    ] {
        let body = [raw::text(name), vec![level, 2, 0, 0], raw::text(&arena.fresh("a38-"))];
        let mut client = arena.dial(side, V3).await?;
        let _ = client.send(raw::packet(0x10, &body.concat())).await;
        if arena.breach(&mut client).await? {
            return Ok(Outcome::Succeeded(format!("{name} {level:#04x}")));
        }
    }
    // And whoever may connect is still let in.
    let mut honest = arena.session(side, V3, &arena.site.wallets.stranger).await?;
    honest.send(PINGREQ).await?;
    Ok(Outcome::Failed)
}
