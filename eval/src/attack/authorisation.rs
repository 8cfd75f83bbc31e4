//! Group B: what does a wallet get that it has no right to?

use std::time::{Duration, Instant};

use alloy_primitives::Address;
use eyre::{Result, ensure};
use flytrap_policy::{Right, Traits};
use flytrap_site::raw::{self, Connect, Publish, Raw, Version, Will, property};
use flytrap_site::unix_now;

use super::arena::{Arena, OPEN, SECRET, contains};
use super::{Outcome, Row, Side, row};
use crate::onchain::{CLOSED, FAR, PUBLIC, RETAIN};

const V3: Version = Version::V311;
const V5: Version = Version::V5;
/// What a change on chain may take to be in force.
const BOUND: Duration = Duration::from_millis(250);
/// The same for the plain broker, which knows no chain: as long as anyone would wait.
const PAUSE: Duration = Duration::from_millis(300);

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row!("B01", "publish without a grant, every QoS, retained or not", publishes),
        row!("B02", "subscribe without a grant and keep reading", subscribes),
        row!("B03", "a denied filter between two granted ones", mixed_filters),
        row!("B04", "a will on a foreign topic, connection cut", foreign_will),
        row!("B06", "a delayed will after the right has ended", delayed_will),
        row!("B07", "a will after the session was ended for its right", will_of_the_ended),
        row!("B08", "wills on $SYS, with wildcards, empty, with NUL", odd_wills),
        row!("B09", "retain where the topic takes none", retains),
        row!("B12", "wildcards over names without a grant", wildcards),
        row!("B13", "register topics named #, $SYS and the like", odd_topics),
        row!("B15", "vendors' namespaces below $", vendors),
        row!("B16", "names that RabbitMQ takes for others", dialects),
        row!("B17", "names that look like a granted one", look_alikes),
        row!("B18", "go on reading after a revocation", reads_on),
        row!("B19", "a wider filter over a topic that blocks", wider_than_a_block),
        row!("B20", "messages queued before a revocation", queued),
        row!("B21", "QoS 2 across a revocation", qos2_across),
        row!("B24", "retained messages by exact and wide filters", retained),
        row!("B25", "clear a retained message", clears),
        row!("B26", "unsubscribe what others hold", unsubscribes),
        row!("B27", "use the other right than the one granted", other_right),
        row!("B29", "use a right at the second of its end", at_the_end),
        row!("B30", "go on as owner after handing over", former_owner),
        row!("B31", "use a topic with a country rule from nowhere", countries),
        row!("B34", "a grant against a block and a ban", against_a_block),
        row!("B35", "a response topic with wildcards or foreign", response_topics),
        row!("B38", "keep reading after a second, denied SUBSCRIBE", second_subscribe),
        row!("B39", "race a SUBSCRIBE against its revocation", races),
        row!("B40", "subscribe before a grant is there", too_early),
        row!("B41", "old grants on a topic that was registered anew", reborn),
        row!("B42", "read by a second gateway after a revocation", second_gateway),
        row!("B44", "PUBREL, DUP and the id of a refused QoS 2", refused_qos2),
        row!("B45", "10,000 filters, and one of 32,000 levels", many_filters),
        row!("B49", "one refusal against a session's other work", other_work),
    ]
}

/// A reader who may read `topic` but nothing else, and is told so at the broker's side too.
async fn reader(arena: &Arena, side: Side, version: Version) -> Result<Raw> {
    arena.session(side, version, &arena.site.wallets.reader).await
}

fn readers(arena: &Arena) -> Address {
    arena.site.wallets.reader.address()
}

/// Changes the chain where a chain counts; the plain broker has none.
async fn revoked(
    arena: &Arena,
    side: Side,
    topic: &str,
    right: Right,
    wallet: Address,
) -> Result<()> {
    if side == Side::Plain {
        return Ok(());
    }
    let scribe = arena.scribe();
    scribe.done(&scribe.revoke(arena.owner(), topic, wallet, right)).await?;
    tokio::time::sleep(BOUND).await;
    Ok(())
}

async fn granted(arena: &Arena, name: &str, right: Right, wallet: Address) -> Result<()> {
    arena.topic(name).await?;
    arena.give(name, wallet, right).await
}

async fn publishes(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        for retain in [false, true] {
            let mut eve = arena.eve(side, version).await?;
            let mark = arena.mark();
            for qos in 0..3 {
                let publish = Publish::new(SECRET, &mark).qos(qos, 7);
                let _ = eve.publish(&Publish { retain, ..publish }).await;
                let _ = eve.send(raw::acknowledge(0x62, 7)).await;
            }
            arena.drain(&mut eve).await?;
            if arena.heard(&mark).await? {
                if side == Side::Plain {
                    arena.put(SECRET, b"", true).await?;
                }
                return Ok(Outcome::Succeeded(format!("{version:?}, retain {retain}")));
            }
        }
    }
    Ok(Outcome::Failed)
}

async fn subscribes(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        for filter in [SECRET, "secret/#", "secret/+", "$share/g/secret/x"] {
            let mut eve = arena.eve(side, version).await?;
            if arena.reads(&mut eve, filter, SECRET).await? {
                return Ok(Outcome::Succeeded(filter.into()));
            }
        }
    }
    Ok(Outcome::Failed)
}

async fn mixed_filters(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        let mut eve = arena.eve(side, version).await?;
        eve.send(raw::subscribe(version, 77, &[("open/a", 1), (SECRET, 1), ("open/b", 1)])).await?;
        let mut got = arena.drain(&mut eve).await?;
        let codes = got
            .iter()
            .find(|packet| packet[0] == 0x90)
            .map(|packet| packet[packet.len() - 3..].to_vec());
        let refusal = if version == V5 { 0x87 } else { 0x80 };
        let mark = arena.mark();
        arena.put(SECRET, &mark, false).await?;
        got.extend(arena.drain(&mut eve).await?);
        if contains(&got, &mark) {
            return Ok(Outcome::Succeeded("the denied one was delivered".into()));
        }
        ensure!(codes.as_deref() == Some(&[1, refusal, 1]), "SUBACK says {codes:02x?}");
    }
    Ok(Outcome::Failed)
}

/// A session with a will, by whoever; `None` if it is refused.
async fn with_will(
    arena: &Arena,
    side: Side,
    version: Version,
    connect: Connect,
) -> Result<Option<Raw>> {
    let mut client = arena.dial(side, version).await?;
    Ok(match client.connect(&connect).await {
        Ok(0) => Some(client),
        _ => None,
    })
}

fn will(topic: &str, mark: &[u8], retain: bool) -> Option<Will> {
    Some(Will { topic: topic.into(), payload: mark.to_vec(), qos: 1, retain })
}

async fn foreign_will(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        let mark = arena.mark();
        let connect = arena.connect(side, &arena.site.wallets.stranger, &arena.fresh("b04-"))?;
        let connect = Connect { will: will(SECRET, &mark, false), ..connect };
        drop(with_will(arena, side, version, connect).await?);
        tokio::time::sleep(PAUSE).await;
        if arena.heard(&mark).await? {
            return Ok(Outcome::Succeeded("it fired".into()));
        }
    }
    Ok(Outcome::Failed)
}

/// A CONNECT of MQTT 5 whose will waits, which [`Connect`] cannot say.
fn delayed(connect: &Connect, topic: &str, mark: &[u8], seconds: u32) -> Vec<u8> {
    let expiry = property::session_expiry(60);
    let delay = [&[0x18][..], &seconds.to_be_bytes()].concat();
    let mut body = raw::text("MQTT");
    let mut flags = 0x02 | 0x04 | 0x08;
    flags |= u8::from(connect.user_name.is_some()) << 7 | u8::from(connect.password.is_some()) << 6;
    body.extend([5, flags, 0, 0]);
    for properties in [&expiry, &delay] {
        if properties == &delay {
            body.extend(raw::text(&connect.client_id));
        }
        body.extend(raw::length(properties.len()));
        body.extend(properties);
    }
    body.extend(raw::text(topic));
    body.extend(raw::binary(mark));
    body.extend(connect.user_name.iter().flat_map(|name| raw::text(name)));
    body.extend(connect.password.iter().flat_map(|password| raw::binary(password)));
    raw::packet(0x10, &body)
}

async fn delayed_will(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = arena.fresh("delayed");
    let key = &arena.site.wallets.spare[1];
    granted(arena, &name, Right::Publish, key.address()).await?;
    let mark = arena.mark();
    let connect = arena.connect(side, key, &arena.fresh("b06-"))?;
    let mut client = arena.dial(side, V5).await?;
    client.send(delayed(&connect, &name, &mark, 2)).await?;
    let got = client.get().await?;
    ensure!(matches!(got, raw::Got::ConnAck { code: 0, .. }), "refused: {got:?}");
    // The right ends while the session lives; then the client vanishes.
    revoked(arena, side, &name, Right::Publish, key.address()).await?;
    drop(client);
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    Ok(Outcome::of(arena.heard(&mark).await?, "it fired"))
}

async fn will_of_the_ended(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = arena.fresh("will");
    let key = &arena.site.wallets.spare[1];
    granted(arena, &name, Right::Publish, key.address()).await?;
    let mark = arena.mark();
    for version in [V3, V5] {
        arena.give(&name, key.address(), Right::Publish).await.ok();
        let connect = arena.connect(side, key, &arena.fresh("b07-"))?;
        let connect = Connect { will: will(&name, &mark, false), ..connect };
        let client = with_will(arena, side, version, connect).await?;
        ensure!(client.is_some(), "refused although granted");
        revoked(arena, side, &name, Right::Publish, key.address()).await?;
        drop(client);
        tokio::time::sleep(PAUSE).await;
        if arena.heard(&mark).await? {
            return Ok(Outcome::Succeeded("it fired".into()));
        }
        if side == Side::FlyTrap {
            // Granted anew for the other version.
            arena.give(&name, key.address(), Right::Publish).await?;
        }
    }
    Ok(Outcome::Failed)
}

async fn odd_wills(arena: &Arena, side: Side) -> Result<Outcome> {
    for topic in ["$SYS/x", "$CONTROL/dynamic-security/v1", "open/#", "", "open\0", "$share/g/open"]
    {
        for version in [V3, V5] {
            let mark = arena.mark();
            let connect =
                arena.connect(side, &arena.site.wallets.stranger, &arena.fresh("b08-"))?;
            let connect = Connect { will: will(topic, &mark, false), ..connect };
            let accepted = with_will(arena, side, version, connect).await?.is_some();
            if accepted {
                return Ok(Outcome::Succeeded(format!("{topic:?} was accepted")));
            }
        }
    }
    Ok(Outcome::Failed)
}

async fn retains(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = arena.fresh("noretain");
    let scribe = arena.scribe();
    let register =
        scribe.register(arena.owner(), &name, Traits { retain: false, ..RETAIN }, PUBLIC, PUBLIC);
    arena.known(scribe.done(&register).await?).await?;
    for version in [V3, V5] {
        let mark = arena.mark();
        let mut eve = arena.eve(side, version).await?;
        let _ = eve.publish(&Publish::new(&name, &mark).qos(1, 3).retained()).await;
        arena.drain(&mut eve).await?;
        // A newcomer gets it if it was kept.
        let mut late = arena.direct().await?;
        late.subscribe(&[(&name, 1)]).await.ok();
        let kept = arena.drain(&mut late).await?;
        if contains(&kept, &mark) || arena.heard(&mark).await? {
            return Ok(Outcome::Succeeded("it was retained".into()));
        }
        let connect = arena.connect(side, &arena.site.wallets.stranger, &arena.fresh("b09-"))?;
        let connect = Connect { will: will(&name, &mark, true), ..connect };
        if with_will(arena, side, version, connect).await?.is_some() {
            return Ok(Outcome::Succeeded("a retained will was accepted".into()));
        }
    }
    Ok(Outcome::Failed)
}

async fn wildcards(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        for filter in ["#", "+", "+/+", "+/x", "secret/#", "secret/+", "/#", "open/#", "$share/g/#"]
        {
            let mut eve = arena.eve(side, version).await?;
            if arena.reads(&mut eve, filter, SECRET).await? {
                return Ok(Outcome::Succeeded(filter.into()));
            }
        }
    }
    Ok(Outcome::Failed)
}

async fn odd_topics(arena: &Arena, side: Side) -> Result<Outcome> {
    let scribe = arena.scribe();
    for name in ["#", "+/x", "$share/g/secret", "$SYS/#", "", "a//b", "a/", "/a", "a\0", "a#"] {
        let change = scribe.register(arena.eve_address(), name, RETAIN, PUBLIC, PUBLIC);
        if scribe.done(&change).await.is_ok() {
            return Ok(Outcome::Succeeded(format!("{name:?} was registered")));
        }
        let mut eve = arena.eve(side, V5).await?;
        if !name.is_empty() && arena.reads(&mut eve, name, SECRET).await? {
            return Ok(Outcome::Succeeded(format!("{name:?} was read")));
        }
    }
    Ok(Outcome::Failed)
}

async fn vendors(arena: &Arena, side: Side) -> Result<Outcome> {
    let names = [
        "$queue/secret/x",
        "$exclusive/secret/x",
        "$delayed/0/secret/x",
        "$stream/secret",
        "$q/secret",
        "$events/#",
        "$file/x",
        "$CONTROL/dynamic-security/v1",
        "$SYS/x",
        "$SYS/#",
        "$share/g/$SYS/#",
        "$oshare/g/secret/x",
        "$local/secret/x",
    ];
    for version in [V3, V5] {
        let mut eve = arena.eve(side, version).await?;
        let mark = arena.mark();
        for name in names {
            if !name.contains('#') {
                let _ = eve.publish(&Publish::new(name, &mark)).await;
            }
        }
        let before = arena.drain(&mut eve).await;
        ensure!(before.is_ok(), "the session ended");
        if arena.heard(&mark).await? {
            return Ok(Outcome::Succeeded("a publish".into()));
        }
        // The subscriber at the broker sees no name that begins with `$`, the recorder does.
        if side == Side::FlyTrap && contains(&[arena.octets_at_broker()?], &mark) {
            return Ok(Outcome::Succeeded("a publish reached the broker".into()));
        }
        for name in names {
            let mut eve = arena.eve(side, version).await?;
            let _ = eve.send(raw::subscribe(version, 5, &[(name, 0)])).await;
            let got = arena.drain(&mut eve).await?;
            if contains(&got, b"$SYS/broker") || arena.reads(&mut eve, name, SECRET).await? {
                return Ok(Outcome::Succeeded(name.into()));
            }
        }
    }
    Ok(Outcome::Failed)
}

async fn dialects(arena: &Arena, side: Side) -> Result<Outcome> {
    let scribe = arena.scribe();
    let eve = arena.eve_address();
    let top = arena.fresh("secret.x");
    let height = scribe.done(&scribe.register(eve, &top, RETAIN, CLOSED, CLOSED)).await?;
    arena.known(height).await?;
    let name = arena.fresh("rabbit");
    let gateway = arena
        .site
        .start_gateway(&name, &arena.site.wallets.spare[1], "[broker]\ndialect = \"rabbitmq\"")
        .await?;
    gateway.until_height(height, Duration::from_secs(20)).await?;
    let address =
        if side == Side::Plain { arena.site.broker.address() } else { gateway.listener("mqtt")? };
    let mark = arena.mark();
    let mut client = Raw::plain_from(V3, arena.origin(), address).await?;
    let connect = arena.connect(side, &arena.site.wallets.stranger, &arena.fresh("b16-"))?;
    ensure!(client.connect(&connect).await? == 0, "EVE is refused");
    for topic in [top.clone(), format!("{top}/*"), format!("{top}/a*b")] {
        let _ = client.publish(&Publish::new(&topic, &mark)).await;
    }
    arena.drain(&mut client).await?;
    Ok(Outcome::of(arena.heard(&mark).await?, "a broker would read them as names of others"))
}

async fn look_alikes(arena: &Arena, side: Side) -> Result<Outcome> {
    let ascii = arena.fresh("look");
    granted(arena, &format!("{ascii}/x"), Right::Publish, arena.eve_address()).await?;
    for other in [
        format!("{}/x", ascii.to_uppercase()),
        format!("{ascii}/X"),
        format!("{ascii}/x/"),
        format!("/{ascii}/x"),
        format!("{ascii}//x"),
        format!("{ascii}/x "),
        format!(" {ascii}/x"),
        format!("{ascii}/x\u{feff}"),
        format!("{ascii}/\u{200d}x"),
        format!("{ascii}\u{ff0f}x"),
        format!("{ascii}/x\u{301}"),
        format!("{ascii}/./x"),
    ] {
        for version in [V3, V5] {
            let mut eve = arena.eve(side, version).await?;
            if arena.writes(&mut eve, &other).await? {
                return Ok(Outcome::Succeeded(format!("{other:?}")));
            }
        }
    }
    Ok(Outcome::Failed)
}

async fn reads_on(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        let (name, other) = (arena.fresh("b18-"), arena.fresh("b18-other-"));
        granted(arena, &name, Right::Subscribe, readers(arena)).await?;
        granted(arena, &other, Right::Subscribe, readers(arena)).await?;
        let mut sub = reader(arena, side, version).await?;
        sub.subscribe(&[(&name, 1), (&other, 1)]).await?;
        revoked(arena, side, &name, Right::Subscribe, readers(arena)).await?;
        let (mark, still) = (arena.mark(), arena.mark());
        arena.put(&name, &mark, false).await?;
        arena.put(&other, &still, false).await?;
        let got = arena.drain(&mut sub).await?;
        ensure!(contains(&got, &still), "what is still granted did not come");
        if contains(&got, &mark) {
            return Ok(Outcome::Succeeded("a message after the revocation".into()));
        }
    }
    Ok(Outcome::Failed)
}

async fn wider_than_a_block(arena: &Arena, side: Side) -> Result<Outcome> {
    let top = arena.fresh("b19-");
    let inner = format!("{top}/b");
    granted(arena, &top, Right::Subscribe, readers(arena)).await?;
    let mut sub = reader(arena, side, V5).await?;
    sub.subscribe(&[(&format!("{top}/#"), 1), (&format!("{top}/+"), 1)]).await?;
    arena.topic(&inner).await?;
    let scribe = arena.scribe();
    scribe.done(&scribe.block(arena.owner(), &inner, readers(arena))).await?;
    tokio::time::sleep(BOUND).await;
    let mark = arena.mark();
    arena.put(&inner, &mark, false).await?;
    let got = arena.drain(&mut sub).await?;
    let mut again = reader(arena, side, V5).await?;
    let by_wide = arena.reads(&mut again, &format!("{top}/#"), &inner).await?;
    Ok(Outcome::of(contains(&got, &mark) || by_wide, "a message of the blocking topic"))
}

async fn queued(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        let name = arena.fresh("b20-");
        granted(arena, &name, Right::Subscribe, readers(arena)).await?;
        let properties = if version == V5 { property::session_expiry(600) } else { Vec::new() };
        let id = arena.fresh("b20-");
        let connect = || -> Result<Connect> {
            let connect = arena.connect(side, &arena.site.wallets.reader, &id)?;
            Ok(Connect { clean: false, properties: properties.clone(), ..connect })
        };
        let mut sub = arena.session_of(side, version, &connect()?).await?;
        sub.subscribe(&[(&name, 1)]).await?;
        sub.send(raw::DISCONNECT).await?;
        sub.ended(Duration::from_secs(5)).await?;
        let (queued, new) = (arena.mark(), arena.mark());
        arena.put(&name, &queued, false).await?;
        revoked(arena, side, &name, Right::Subscribe, readers(arena)).await?;
        let mut sub = arena.session_of(side, version, &connect()?).await?;
        let mut got = arena.drain(&mut sub).await?;
        arena.put(&name, &new, false).await?;
        got.extend(arena.drain(&mut sub).await?);
        if contains(&got, &queued) || contains(&got, &new) {
            return Ok(Outcome::Succeeded("what was queued".into()));
        }
    }
    Ok(Outcome::Failed)
}

async fn qos2_across(arena: &Arena, side: Side) -> Result<Outcome> {
    let (name, other) = (arena.fresh("b21-"), arena.fresh("b21-other-"));
    let key = &arena.site.wallets.spare[1];
    granted(arena, &name, Right::Publish, key.address()).await?;
    granted(arena, &other, Right::Publish, key.address()).await?;
    let mut client = arena.session(side, V5, key).await?;
    client.publish(&Publish::new(&name, b"begun").qos(2, 9)).await?;
    let _ = client.get().await?;
    revoked(arena, side, &name, Right::Publish, key.address()).await?;
    client.send(raw::acknowledge(0x62, 9)).await?;
    // The exchange ends, and its id is free for what is still allowed.
    arena.drain(&mut client).await?;
    let mark = arena.mark();
    client.publish_whole(&Publish::new(&other, &mark).qos(2, 9)).await?;
    ensure!(arena.heard(&mark).await?, "what is still granted did not go through");
    Ok(Outcome::of(arena.writes(&mut client, &name).await?, "a new message"))
}

async fn retained(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = arena.fresh("secret/b24-");
    let mark = arena.mark();
    arena.put(&name, &mark, true).await?;
    let mut found = None;
    for version in [V3, V5] {
        for filter in [name.as_str(), "secret/+", "secret/#", "#", "+/+"] {
            let mut eve = arena.eve(side, version).await?;
            let _ = eve.send(raw::subscribe(version, 5, &[(filter, 1)])).await;
            let got = arena.drain(&mut eve).await?;
            if contains(&got, &mark) {
                found = Some(filter.to_owned());
            }
        }
    }
    arena.put(&name, b"", true).await?;
    Ok(found.map_or(Outcome::Failed, Outcome::Succeeded))
}

async fn clears(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = arena.fresh("secret/b25-");
    let mark = arena.mark();
    for version in [V3, V5] {
        arena.put(&name, &mark, true).await?;
        let mut eve = arena.eve(side, version).await?;
        let _ = eve.publish(&Publish::new(&name, b"").qos(1, 1).retained()).await;
        arena.drain(&mut eve).await?;
        let mut late = arena.direct().await?;
        late.send(raw::subscribe(V5, 5, &[(&name, 1)])).await?;
        let got = arena.drain(&mut late).await?;
        if !contains(&got, &mark) {
            return Ok(Outcome::Succeeded("it is gone".into()));
        }
    }
    arena.put(&name, b"", true).await?;
    Ok(Outcome::Failed)
}

async fn unsubscribes(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut sub = reader(arena, side, V5).await?;
    ensure!(sub.subscribe(&[(SECRET, 1)]).await? == [1], "SUB is refused");
    for version in [V3, V5] {
        let mut eve = arena.eve(side, version).await?;
        let _ = eve.send(raw::unsubscribe(version, 4, &["#", SECRET, "never/was"])).await;
        arena.drain(&mut eve).await?;
        let mut eve = arena.eve(side, version).await?;
        let _ = eve.send([0xa2, 4, 0, 1, 0, 9]).await;
        arena.drain(&mut eve).await?;
    }
    let mark = arena.mark();
    arena.put(SECRET, &mark, false).await?;
    let got = arena.drain(&mut sub).await?;
    Ok(Outcome::of(!contains(&got, &mark), "SUB gets nothing any more"))
}

async fn other_right(arena: &Arena, side: Side) -> Result<Outcome> {
    let (only_in, only_out) = (arena.fresh("b27-"), arena.fresh("b27-"));
    granted(arena, &only_in, Right::Publish, arena.eve_address()).await?;
    granted(arena, &only_out, Right::Subscribe, arena.eve_address()).await?;
    for version in [V3, V5] {
        let mut eve = arena.eve(side, version).await?;
        if arena.reads(&mut eve, &only_in, &only_in).await? {
            return Ok(Outcome::Succeeded("reads what it may write".into()));
        }
        let mut eve = arena.eve(side, version).await?;
        if arena.writes(&mut eve, &only_out).await? {
            return Ok(Outcome::Succeeded("writes what it may read".into()));
        }
    }
    Ok(Outcome::Failed)
}

async fn at_the_end(arena: &Arena, side: Side) -> Result<Outcome> {
    if side == Side::Plain {
        return Ok(Outcome::Absent);
    }
    let (scribe, name) = (arena.scribe(), arena.fresh("b29-"));
    let key = &arena.site.wallets.spare[1];
    arena.topic(&name).await?;
    let until = unix_now().max(arena.site.chain.time().await?) + 3;
    let change = scribe.grant(arena.owner(), &name, key.address(), Right::Publish, until);
    arena.known(scribe.done(&change).await?).await?;
    let mut client = arena.session(side, V5, key).await?;
    let (mut last, mut before) = (None, 0);
    // Each message says when it was sent; the broker must see none that was sent at the end or later.
    while unix_now() <= until + 1 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        let said = format!("{name}@{now}");
        client.publish(&Publish::new(&name, said.as_bytes()).qos(1, 1)).await?;
        client.get().await?;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    arena.heard(b"fence").await?;
    for publish in arena.spy.heard().into_iter().filter(|publish| publish.topic == name) {
        let text = String::from_utf8_lossy(&publish.payload).into_owned();
        let at: u64 = text.rsplit('@').next().unwrap_or_default().parse()?;
        before += 1;
        last = last.max(Some(at));
    }
    ensure!(before > 0, "nothing went through before the end");
    Ok(Outcome::of(last.is_some_and(|at| at >= until * 1_000), format!("{last:?}, end {until}")))
}

async fn former_owner(arena: &Arena, side: Side) -> Result<Outcome> {
    let (scribe, name) = (arena.scribe(), arena.fresh("b30-"));
    let (old, new) = (&arena.site.wallets.spare[1], arena.owner());
    scribe.done(&scribe.register(old.address(), &name, RETAIN, CLOSED, CLOSED)).await?;
    let mut height = 0;
    let mut sub = arena.session(side, V5, old).await?;
    for change in scribe.hand_over(old.address(), &name, new) {
        height = scribe.done(&change).await?;
    }
    arena.known(height).await?;
    tokio::time::sleep(BOUND).await;
    let acts = scribe
        .done(&scribe.grant(old.address(), &name, old.address(), Right::Publish, FAR))
        .await
        .is_ok();
    let reads = arena.reads(&mut sub, &name, &name).await?;
    let mut again = arena.session(side, V5, old).await?;
    let writes = arena.writes(&mut again, &name).await?;
    Ok(Outcome::of(
        acts || reads || writes,
        format!("chain {acts}, reads {reads}, writes {writes}"),
    ))
}

async fn countries(arena: &Arena, side: Side) -> Result<Outcome> {
    let (scribe, name) = (arena.scribe(), arena.fresh("b31-"));
    scribe.done(&scribe.register(arena.owner(), &name, RETAIN, PUBLIC, PUBLIC)).await?;
    let mut eve = arena.eve(side, V5).await?;
    eve.send(raw::subscribe(V5, 5, &[(&name, 1)])).await?;
    arena.drain(&mut eve).await?;
    let rule = scribe.countries(arena.owner(), &name, &[b"AT"]);
    arena.known(scribe.done(&rule).await?).await?;
    tokio::time::sleep(BOUND).await;
    let mark = arena.mark();
    arena.put(&name, &mark, false).await?;
    let live = contains(&arena.drain(&mut eve).await?, &mark);
    let mut eve = arena.eve(side, V5).await?;
    let writes = arena.writes(&mut eve, &name).await?;
    let mut eve = arena.eve(side, V5).await?;
    ensure!(arena.writes(&mut eve, OPEN).await?, "a topic without a rule is refused too");
    Ok(Outcome::of(live || writes, format!("live session reads {live}, writes {writes}")))
}

async fn against_a_block(arena: &Arena, side: Side) -> Result<Outcome> {
    if side == Side::Plain {
        let mut eve = arena.eve(side, V5).await?;
        return Ok(Outcome::of(arena.writes(&mut eve, "b34").await?, "there are no blocks"));
    }
    let (scribe, key) = (arena.scribe(), &arena.site.wallets.spare[0]);
    for number in 0..8 {
        let (grant, block, ban) = (number & 1 != 0, number & 2 != 0, number & 4 != 0);
        let name = arena.fresh("b34-");
        arena.topic(&name).await?;
        if grant {
            arena.give(&name, key.address(), Right::Publish).await?;
        }
        if block {
            scribe.done(&scribe.block(arena.owner(), &name, key.address())).await?;
        }
        if ban {
            scribe.done(&scribe.ban(key.address(), unix_now() + 3_600)).await?;
        }
        arena.known(arena.site.chain.height().await?).await?;
        let mut client = arena.dial(side, V5).await?;
        let connect = arena.connect(side, key, &arena.fresh("b34-"))?;
        let _ = client.send(connect.octets(V5)).await;
        let writes = arena.writes(&mut client, &name).await?;
        if ban {
            scribe.done(&scribe.unban(key.address())).await?;
        }
        let may = grant && !block && !ban;
        ensure!(writes || !may, "grant {grant}, block {block}, ban {ban}: refused");
        if writes && !may {
            return Ok(Outcome::Succeeded(format!("grant {grant}, block {block}, ban {ban}")));
        }
    }
    Ok(Outcome::Failed)
}

async fn response_topics(arena: &Arena, side: Side) -> Result<Outcome> {
    for (topic, must_not_pass) in [("open/#", true), ("open/+", true), ("secret/x", false)] {
        let mark = arena.mark();
        let mut eve = arena.eve(side, V5).await?;
        let properties = [&[0x08][..], &raw::text(topic)].concat();
        let _ = eve.publish(&Publish::new(OPEN, &mark).with(properties)).await;
        arena.drain(&mut eve).await?;
        if must_not_pass && arena.heard(&mark).await? {
            return Ok(Outcome::Succeeded(format!("response topic {topic} was passed on")));
        }
    }
    // Whoever answers to a foreign topic does so under its own grant.
    let mut eve = arena.eve(side, V5).await?;
    Ok(Outcome::of(arena.writes(&mut eve, SECRET).await?, "the answer itself"))
}

async fn second_subscribe(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = arena.fresh("b38-");
    granted(arena, &name, Right::Subscribe, readers(arena)).await?;
    let mut sub = reader(arena, side, V3).await?;
    sub.subscribe(&[(&name, 1), ("open/b38", 0)]).await?;
    revoked(arena, side, &name, Right::Subscribe, readers(arena)).await?;
    Ok(Outcome::of(arena.reads(&mut sub, &name, &name).await?, "it went on"))
}

async fn races(arena: &Arena, side: Side) -> Result<Outcome> {
    if side == Side::Plain {
        return subscribes(arena, side).await;
    }
    let name = arena.fresh("b39-");
    arena.topic(&name).await?;
    let (scribe, wallet) = (arena.scribe(), readers(arena));
    for n in 0..10 * arena.seconds {
        arena.give(&name, wallet, Right::Subscribe).await?;
        let mut sub = reader(arena, side, if n % 2 == 0 { V3 } else { V5 }).await?;
        // Both at once, so that the block falls between look and answer.
        let revoke = scribe.revoke(arena.owner(), &name, wallet, Right::Subscribe);
        let filters = [(name.as_str(), 1)];
        let subscribing = async {
            tokio::time::sleep(Duration::from_millis(n % 60)).await;
            sub.send(raw::subscribe(sub.version, 3, &filters)).await
        };
        let (revoked, subscribed) = tokio::join!(scribe.done(&revoke), subscribing);
        revoked?;
        subscribed?;
        tokio::time::sleep(BOUND).await;
        let mark = arena.mark();
        arena.put(&name, &mark, false).await?;
        if contains(&arena.drain(&mut sub).await?, &mark) {
            return Ok(Outcome::Succeeded(format!("in round {n}")));
        }
    }
    Ok(Outcome::Failed)
}

async fn too_early(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = arena.fresh("b40-");
    arena.topic(&name).await?;
    let mut sub = reader(arena, side, V5).await?;
    if arena.reads(&mut sub, &name, &name).await? {
        return Ok(Outcome::Succeeded("before the grant".into()));
    }
    if side == Side::FlyTrap {
        let (scribe, began) = (arena.scribe(), Instant::now());
        let grant = scribe.grant(arena.owner(), &name, readers(arena), Right::Subscribe, FAR);
        scribe.done(&grant).await?;
        let mut sub = reader(arena, side, V5).await?;
        loop {
            if sub.subscribe(&[(&name, 1)]).await? == [1] {
                break;
            }
            ensure!(began.elapsed() < Duration::from_secs(2), "refused long after the grant");
        }
    }
    Ok(Outcome::Failed)
}

async fn reborn(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = arena.fresh("b41-");
    let (scribe, wallet) = (arena.scribe(), readers(arena));
    granted(arena, &name, Right::Subscribe, wallet).await?;
    let mut sub = reader(arena, side, V5).await?;
    sub.subscribe(&[(&name, 1), ("open/b41", 0)]).await?;
    scribe.done(&scribe.delete(arena.owner(), &name)).await?;
    let eve = arena.eve_address();
    let height = scribe.done(&scribe.register(eve, &name, RETAIN, CLOSED, CLOSED)).await?;
    arena.known(height).await?;
    tokio::time::sleep(BOUND).await;
    let mark = arena.mark();
    arena.put(&name, &mark, false).await?;
    let live = contains(&arena.drain(&mut sub).await?, &mark);
    let mut again = reader(arena, side, V5).await?;
    let new = arena.reads(&mut again, &name, &name).await?;
    Ok(Outcome::of(live || new, format!("live session {live}, new one {new}")))
}

async fn second_gateway(arena: &Arena, side: Side) -> Result<Outcome> {
    let name = arena.fresh("b42-");
    granted(arena, &name, Right::Subscribe, readers(arena)).await?;
    let other = match side {
        Side::Plain => arena.site.broker.address(),
        Side::FlyTrap => arena.strict.lock().await.listener("mqtt")?,
    };
    let mut subs = vec![reader(arena, side, V5).await?];
    let mut second = Raw::plain_from(V5, arena.origin(), other).await?;
    let connect = arena.connect(side, &arena.site.wallets.reader, &arena.fresh("b42-"))?;
    ensure!(second.connect(&connect).await? == 0, "SUB is refused");
    subs.push(second);
    for sub in &mut subs {
        sub.subscribe(&[(&name, 1), ("open/b42", 0)]).await?;
    }
    revoked(arena, side, &name, Right::Subscribe, readers(arena)).await?;
    let mark = arena.mark();
    arena.put(&name, &mark, false).await?;
    for (number, sub) in subs.iter_mut().enumerate() {
        if contains(&arena.drain(sub).await?, &mark) {
            return Ok(Outcome::Succeeded(format!("gateway {number}")));
        }
    }
    Ok(Outcome::Failed)
}

async fn refused_qos2(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        let (mark, good) = (arena.mark(), arena.mark());
        let mut eve = arena.eve(side, version).await?;
        eve.publish(&Publish::new(SECRET, &mark).qos(2, 5)).await?;
        let again = Publish { dup: true, ..Publish::new(SECRET, &mark).qos(2, 5) };
        let _ = eve.publish(&again).await;
        let _ = eve.send(raw::acknowledge(0x62, 5)).await;
        arena.drain(&mut eve).await?;
        // The id is free for what is allowed, which goes through once.
        let _ = eve.publish(&Publish::new(OPEN, &good).qos(2, 5)).await;
        let _ = eve.send(raw::acknowledge(0x62, 5)).await;
        arena.drain(&mut eve).await?;
        if arena.heard(&mark).await? {
            return Ok(Outcome::Succeeded("the refused one".into()));
        }
        let times = arena.spy.heard().iter().filter(|seen| seen.payload == good).count();
        ensure!(times == 1, "the allowed one was passed on {times} times");
    }
    Ok(Outcome::Failed)
}

async fn many_filters(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        let names: Vec<String> = (0..10_000).map(|n| format!("open/{n}")).collect();
        let mut filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 0)).collect();
        filters.push((SECRET, 1));
        let mut eve = arena.eve(side, version).await?;
        let _ = eve.send(raw::subscribe(version, 6, &filters)).await;
        arena.drain(&mut eve).await?;
        let mark = arena.mark();
        arena.put(SECRET, &mark, false).await?;
        if contains(&arena.drain(&mut eve).await?, &mark) {
            return Ok(Outcome::Succeeded("the last of 10,001".into()));
        }
        let deep = "a/".repeat(32_000) + "#";
        let mut eve = arena.eve(side, version).await?;
        let _ = eve.send(raw::subscribe(version, 6, &[(&deep, 0), ("#", 1)])).await;
        arena.drain(&mut eve).await?;
        if arena.reads(&mut eve, &deep, SECRET).await? {
            return Ok(Outcome::Succeeded("a filter of 32,000 levels".into()));
        }
    }
    Ok(Outcome::Failed)
}

async fn other_work(arena: &Arena, side: Side) -> Result<Outcome> {
    let names: Vec<String> = (0..5).map(|_| arena.fresh("b49-")).collect();
    for name in &names {
        granted(arena, name, Right::Subscribe, readers(arena)).await?;
    }
    let mut sub = reader(arena, side, V3).await?;
    let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    sub.subscribe(&filters).await?;
    revoked(arena, side, &names[0], Right::Subscribe, readers(arena)).await?;
    let mark = arena.mark();
    arena.put(&names[0], &mark, false).await?;
    let still = arena.mark();
    for name in &names[1..] {
        arena.put(name, &still, false).await?;
    }
    let got = arena.drain(&mut sub).await?;
    let came = got.iter().filter(|packet| contains(std::slice::from_ref(packet), &still)).count();
    ensure!(came == 4, "{came} of 4 topics that are still granted came");
    ensure!(!got.iter().any(|packet| packet[0] == 0xe0), "DISCONNECT to a client of MQTT 3.1.1");
    Ok(Outcome::of(contains(&got, &mark), "the revoked one"))
}
