//! Group D: how much does EVE take away from others?
//!
//! The bounds are those of the honest pair, the memory and the recovery, which every row has; an attack succeeds here by what it breaks
//! besides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use eyre::{Result, ensure};
use flytrap_site::raw::{self, Connect, PINGREQ, Publish, Raw, Version, property};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::arena::{Arena, OPEN, SECRET};
use super::{Outcome, Row, Side, row};
use crate::process;

const V3: Version = Version::V311;
const V5: Version = Version::V5;
/// When the gateway gives up on a client that does not connect.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row!("D01", "thousands of silent connections", silent),
        row!("D02", "CONNECT octet by octet", slow),
        row!("D03", "ClientHello and silence, 1,000 times", hellos),
        row!("D04", "more connections than descriptors", descriptors),
        row!("D05", "1,000 frames announced with 256 MB", announced),
        row!("D06", "60,000 user properties in a packet", properties),
        row!("D07", "a subscriber that stops reading", stops_reading),
        row!("D08", "the broker stands still under load", frozen_broker, MayWait),
        row!("D09", "65,535 exchanges of QoS 2 never released", never_released),
        row!("D11", "100,000 subscriptions of one client", subscriptions),
        row!("D12", "a million denied names", denied_names),
        row!("D13", "read all retained messages, again and again", resubscribe),
        row!("D14", "denied events as fast as they go, odd ids", denied_events),
        row!("D15", "drain the gateway's purse by refusals", audit_drain),
        row!("D17", "failures from very many origins", many_origins),
        row!("D18", "largest wills, aliases and in-flight times many", largest),
        row!("D19", "connect and close, as fast as it goes", churn),
        row!("D20", "a flood of PINGREQ and UNSUBSCRIBE", pings),
    ]
}

fn until(arena: &Arena) -> Instant {
    Instant::now() + Duration::from_secs(arena.seconds)
}

/// So many connections from origins of 500 each.
async fn many(arena: &Arena, side: Side, count: usize) -> Result<Vec<Raw>> {
    let mut all = Vec::with_capacity(count);
    let mut origin = arena.origin();
    for number in 0..count {
        if number % 500 == 0 {
            origin = arena.origin();
        }
        match Raw::plain_from(V5, origin, arena.address(side)?).await {
            Ok(client) => all.push(client),
            // A full house that turns people away has done what it should.
            Err(_) => break,
        }
    }
    Ok(all)
}

/// Waits until the descriptors are about what they were.
async fn let_go(arena: &Arena, side: Side, base: usize, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if process::descriptors(arena.pid(side)) <= base + 20 {
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(false)
}

async fn silent(arena: &Arena, side: Side) -> Result<Outcome> {
    let base = process::descriptors(arena.pid(side));
    let held = many(arena, side, 4_000).await?;
    tokio::time::sleep(Duration::from_secs(arena.seconds)).await;
    // They stay open on this side: the other has to let go.
    let gone = let_go(arena, side, base, CONNECT_DEADLINE + Duration::from_secs(5)).await?;
    drop(held);
    Ok(Outcome::of(!gone, "silent connections are kept"))
}

async fn slow(arena: &Arena, side: Side) -> Result<Outcome> {
    let base = process::descriptors(arena.pid(side));
    let mut held = many(arena, side, 200).await?;
    let octets = arena.connect(side, &arena.site.wallets.stranger, "slow")?.octets(V5);
    let began = Instant::now();
    let mut next = 0;
    while began.elapsed() < CONNECT_DEADLINE + Duration::from_secs(3) {
        for client in &mut held {
            let _ = client.send(&octets[next..=next]).await;
        }
        next = (next + 1).min(octets.len() - 2);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let gone = let_go(arena, side, base, Duration::from_secs(2)).await?;
    drop(held);
    Ok(Outcome::of(!gone, "whoever sends an octet a second is kept"))
}

async fn hellos(arena: &Arena, side: Side) -> Result<Outcome> {
    let address = if side == Side::Plain { arena.address(side)? } else { arena.site.mqtts()? };
    let mut held = Vec::new();
    let base = process::descriptors(arena.pid(side));
    for _ in 0..1_000 {
        if let Ok(mut client) = Raw::plain_from(V5, arena.origin(), address).await {
            // A record of a ClientHello whose rest never comes.
            let _ = client.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").await;
            held.push(client);
        }
    }
    let gone = let_go(arena, side, base, CONNECT_DEADLINE + Duration::from_secs(5)).await?;
    drop(held);
    Ok(Outcome::of(!gone, "they are kept"))
}

async fn descriptors(arena: &Arena, side: Side) -> Result<Outcome> {
    // A gateway with few descriptors, before the same broker: who holds all of them must not end it.
    if side == Side::Plain {
        return Ok(Outcome::Absent);
    }
    let name = arena.fresh("few");
    let gateway = arena.site.start_gateway(&name, &arena.site.wallets.spare[0], "").await?;
    let pid = gateway.child.id().to_string();
    let limited = tokio::process::Command::new("prlimit")
        .args(["--pid", &pid, "--nofile=256:256"])
        .status()
        .await?;
    ensure!(limited.success(), "prlimit failed: is util-linux there?");
    let address = gateway.listener("mqtt")?;
    let mut honest = Raw::plain_from(V5, arena.origin(), address).await?;
    let connect = arena.connect(side, &arena.site.wallets.publisher, &arena.fresh("d04-"))?;
    ensure!(honest.connect(&connect).await? == 0, "VIC is refused");
    let mut held = Vec::new();
    for _ in 0..1_000 {
        if let Ok(client) = Raw::plain_from(V5, arena.origin(), address).await {
            held.push(client);
        }
    }
    let cpu = process::cpu_seconds(gateway.child.id());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spun = process::cpu_seconds(gateway.child.id()) - cpu;
    let lives = honest.ping().await.is_ok();
    drop(held);
    let began = Instant::now();
    let mut resumed = false;
    while began.elapsed() < Duration::from_secs(5) && !resumed {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if let Ok(mut client) = Raw::plain_from(V5, arena.origin(), address).await {
            let id = arena.fresh("d04-");
            let connect = arena.connect(side, &arena.site.wallets.publisher, &id)?;
            let answered = tokio::time::timeout(Duration::from_secs(1), client.connect(&connect));
            resumed = matches!(answered.await, Ok(Ok(0)));
        }
    }
    Ok(Outcome::of(
        !lives || !resumed || spun > 1.0,
        format!(
            "an old session lives {lives}, new ones again {resumed}, {spun:.1} s of CPU in 2 s"
        ),
    ))
}

async fn announced(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut held = many(arena, side, 900).await?;
    for client in &mut held {
        let _ = client.send([0x10, 0xff, 0xff, 0xff, 0x7f]).await;
    }
    let mut sessions = Vec::new();
    for _ in 0..100 {
        let mut eve = arena.eve(side, V5).await?;
        let _ = eve.send([0x30, 0xff, 0xff, 0xff, 0x7f]).await;
        sessions.push(eve);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop((held, sessions));
    Ok(Outcome::Failed)
}

async fn properties(arena: &Arena, side: Side) -> Result<Outcome> {
    let many: Vec<u8> = (0..60_000).flat_map(|_| property::user("k", "v")).collect();
    let deadline = until(arena);
    let mut slowest = Duration::ZERO;
    while Instant::now() < deadline {
        let mut eve = arena.eve(side, V5).await?;
        let began = Instant::now();
        let publish = Publish::new(OPEN, b"x").with(many.clone());
        let _ = eve.publish(&publish).await;
        arena.drain(&mut eve).await?;
        slowest = slowest.max(began.elapsed());
        let mut client = arena.dial(side, V5).await?;
        let connect = Connect { properties: many.clone(), ..Connect::anonymous() };
        let _ = client.send(connect.octets(V5)).await;
        arena.drain(&mut client).await?;
    }
    Ok(Outcome::of(slowest > Duration::from_secs(1), format!("one takes {slowest:?}")))
}

async fn stops_reading(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut subs = Vec::new();
    for _ in 0..5 {
        let mut sub = arena.eve(side, V5).await?;
        sub.subscribe(&[("open/d07", 0)]).await?;
        subs.push(sub);
    }
    let mut pusher = arena.eve(side, V5).await?;
    let payload = vec![b'x'; 64 * 1024];
    let (deadline, mut pushed) = (until(arena), 0);
    while pushed < 100 * 1024 * 1024 && Instant::now() < deadline {
        if pusher.publish(&Publish::new("open/d07", &payload)).await.is_err() {
            break;
        }
        pushed += payload.len();
    }
    drop((subs, pusher));
    Ok(Outcome::Failed)
}

async fn frozen_broker(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut pusher = arena.eve(side, V5).await?;
    arena.site.broker.child.freeze();
    let deadline = until(arena);
    let payload = vec![b'x'; 16 * 1024];
    while Instant::now() < deadline {
        let publish = Publish::new(OPEN, &payload);
        let sent = tokio::time::timeout(Duration::from_millis(100), pusher.publish(&publish));
        if matches!(sent.await, Ok(Err(_))) {
            break;
        }
    }
    arena.site.broker.child.thaw();
    Ok(Outcome::Failed)
}

async fn never_released(arena: &Arena, side: Side) -> Result<Outcome> {
    for topic in [OPEN, SECRET] {
        let mut eve = arena.eve(side, V5).await?;
        for id in 1..=u16::MAX {
            if eve.publish(&Publish::new(topic, b"x").qos(2, id)).await.is_err() {
                break;
            }
        }
        for _ in 0..10_000 {
            if eve.publish(&Publish::new(topic, b"x").qos(2, 7)).await.is_err() {
                break;
            }
        }
    }
    Ok(Outcome::Failed)
}

async fn subscriptions(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut eve = arena.eve(side, V5).await?;
    let (deadline, mut granted) = (until(arena), 0_usize);
    for round in 0..1_000_u32 {
        let names: Vec<String> = (0..100).map(|n| format!("open/{round}/{n}")).collect();
        let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 0)).collect();
        match eve.subscribe(&filters).await {
            Ok(codes) => granted += codes.iter().filter(|code| **code < 0x80).count(),
            Err(_) => break,
        }
        if Instant::now() > deadline {
            break;
        }
    }
    Ok(Outcome::of(granted > 20_000, format!("{granted} subscriptions of one client")))
}

/// Does the same in four sessions until the time is over; how often.
async fn flood(
    arena: &Arena,
    side: Side,
    octets: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
) -> Result<u64> {
    let (octets, count) = (Arc::new(octets), Arc::new(AtomicU64::new(0)));
    let deadline = until(arena);
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let mut eve = arena.eve(side, V5).await?;
        let (octets, count) = (octets.clone(), count.clone());
        tasks.spawn(async move {
            while Instant::now() < deadline {
                let (mut batch, mut pongs) = (Vec::new(), 1);
                for _ in 0..100 {
                    let one = octets(count.fetch_add(1, Ordering::Relaxed));
                    pongs += u32::from(one == PINGREQ);
                    batch.extend(one);
                }
                batch.extend(PINGREQ);
                // Whatever comes is taken, as a client does that wants to go on for long.
                if eve.send(batch).await.is_err() {
                    return;
                }
                while pongs > 0
                    && let Ok(Some(packet)) = eve.next(Duration::from_secs(2)).await
                {
                    pongs -= u32::from(packet[0] == 0xd0);
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    Ok(count.load(Ordering::Relaxed))
}

async fn denied_names(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = |n| Publish::new(&format!("secret/{n}/nobody"), b"x").qos(1, 1).octets(V5);
    flood(arena, side, name).await?;
    Ok(Outcome::Failed)
}

async fn resubscribe(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut broker = arena.direct().await?;
    for n in 0..2_000 {
        broker.publish(&Publish::new(&format!("open/r/{n}"), b"kept").retained()).await?;
    }
    broker.ping().await?;
    flood(arena, side, |n| {
        if n % 100 == 0 { raw::subscribe(V5, 9, &[("open/r/#", 0)]) } else { Vec::new() }
    })
    .await?;
    for n in 0..2_000 {
        broker.publish(&Publish::new(&format!("open/r/{n}"), b"").retained()).await?;
    }
    broker.ping().await?;
    Ok(Outcome::Failed)
}

async fn denied_events(arena: &Arena, side: Side) -> Result<Outcome> {
    let before = arena.site.gateway()?.child.log().len();
    let count = flood(arena, side, |n| {
        let name = format!("secret/\u{1b}[31m{n}\u{202e}");
        [Publish::new(&name, b"x").octets(V5), raw::subscribe(V5, 9, &[(&name, 0)])].concat()
    })
    .await?;
    let log = arena.site.gateway()?.child.log();
    let new = &log[before.min(log.len())..];
    let escaped = !new.contains('\u{1b}') && !new.contains('\u{202e}');
    let megabytes = new.len() / 1_048_576;
    Ok(Outcome::of(
        side == Side::FlyTrap && (megabytes > 10 || !escaped),
        format!("{megabytes} MB of log for {count} events, escaped: {escaped}"),
    ))
}

async fn audit_drain(arena: &Arena, side: Side) -> Result<Outcome> {
    if side == Side::Plain {
        return Ok(Outcome::Absent);
    }
    let gateway = arena.site.wallets.gateway.address();
    let sent = async || -> Result<u64> {
        let params = serde_json::json!([gateway, "latest"]);
        let count = arena.site.chain.call("eth_getTransactionCount", params).await?;
        let count: alloy_primitives::U256 = serde_json::from_value(count)?;
        Ok(count.to())
    };
    let (before, began) = (sent().await?, Instant::now());
    let name = |n| Publish::new(&format!("secret/{n}"), b"x").qos(1, 1).octets(V5);
    let count = flood(arena, side, name).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let transactions = sent().await? - before;
    // One at most in each interval, which is a second here.
    let most = began.elapsed().as_secs() + 2;
    Ok(Outcome::of(
        transactions > most,
        format!("{transactions} transactions for {count} refusals, wanted at most {most}"),
    ))
}

async fn many_origins(arena: &Arena, side: Side) -> Result<Outcome> {
    let deadline = until(arena);
    while Instant::now() < deadline {
        let mut clients = Vec::new();
        for _ in 0..50 {
            clients.push(arena.dial(side, V3).await?);
        }
        for client in &mut clients {
            let connect = Connect {
                client_id: "x".into(),
                user_name: Some("nobody".into()),
                password: Some(b"wrong".to_vec()),
                ..Connect::anonymous()
            };
            let _ = client.send(connect.octets(V3)).await;
        }
    }
    Ok(Outcome::Failed)
}

async fn largest(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut sessions = Vec::new();
    for _ in 0..200 {
        let connect = Connect {
            will: Some(raw::Will {
                topic: OPEN.into(),
                payload: vec![b'w'; 15_000],
                qos: 0,
                retain: false,
            }),
            ..arena.connect(side, &arena.site.wallets.stranger, &arena.fresh("d18-"))?
        };
        let mut client = arena.session_of(side, V5, &connect).await?;
        for alias in 1..=10_u16 {
            let name = format!("open/{}", "n".repeat(240));
            let publish = Publish::new(&name, b"").with(property::alias(alias));
            let _ = client.publish(&publish).await;
        }
        for id in 1..=20 {
            let payload = vec![b'p'; 4_000];
            let _ = client.publish(&Publish::new(OPEN, &payload).qos(2, id)).await;
        }
        sessions.push(client);
    }
    for mut client in sessions {
        let _ = client.send(raw::DISCONNECT).await;
    }
    Ok(Outcome::Failed)
}

async fn churn(arena: &Arena, side: Side) -> Result<Outcome> {
    let base = process::descriptors(arena.pid(side));
    let (deadline, address) = (until(arena), arena.address(side)?);
    let mut n = 0_u64;
    while Instant::now() < deadline {
        n += 1;
        if n.is_multiple_of(20) {
            // Past the rate of her wallet she is refused, which is an end as good as another.
            if let Ok(mut eve) = arena.eve(side, V5).await {
                let _ = eve.send(raw::DISCONNECT).await;
            }
            continue;
        }
        let Ok(stream) = TcpStream::connect(address).await else { continue };
        if n.is_multiple_of(2) {
            // Reset rather than closed.
            let _ = stream.set_zero_linger();
        }
    }
    let gone = let_go(arena, side, base, Duration::from_secs(15)).await?;
    Ok(Outcome::of(!gone, "descriptors are left over"))
}

async fn pings(arena: &Arena, side: Side) -> Result<Outcome> {
    flood(arena, side, |n| {
        if n % 2 == 0 { PINGREQ.to_vec() } else { raw::unsubscribe(V5, 3, &["open/none"]) }
    })
    .await?;
    Ok(Outcome::Failed)
}
