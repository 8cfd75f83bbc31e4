//! Group C: octets that gateway and broker might understand differently, or that hurt whoever reads them.
//!
//! A malformed packet succeeds if its octets reach the broker, or if what follows on the same connection does.

use std::time::{Duration, Instant};

use eyre::{Result, ensure};
use flytrap_site::raw::{self, Connect, Publish, Version, acknowledge, property};

use super::arena::{Arena, OPEN, SECRET};
use super::{Outcome, Row, Side, row};

const V3: Version = Version::V311;
const V5: Version = Version::V5;

pub(crate) fn rows() -> Vec<Row> {
    vec![
        row!("C02", "every packet type before CONNECT", before_connect),
        row!("C03", "lengths of five octets, of 256 MB, without end", lengths),
        row!("C05", "octets behind CONNECT's payload, a stray password", behind_connect),
        row!("C06", "reserved bits of fixed headers", reserved_bits),
        row!("C07", "CONNECT's flags", connect_flags),
        row!("C08", "text that is none", bad_text),
        row!("C09", "wildcards in names, wildcards in the wrong place", bad_topics),
        row!("C10", "an empty name, an unknown alias", bad_aliases),
        row!("C11", "QoS 3, DUP at QoS 0", bad_qos),
        row!("C12", "packet id 0, ids in flight, all of them", packet_ids),
        row!("C13", "SUBSCRIBE without filters, with odd options", bad_subscribes),
        row!("C17", "AUTH that nobody asked for", bad_auth),
        row!("C20", "a payload past the limit", too_large),
        row!("C21", "a client that falls silent", silent),
        row!("C22", "features of MQTT 5 in 3.1.1", wrong_version),
        row!("C23", "a session that keeps for ever, raised at DISCONNECT", raised_expiry),
        row!("C24", "properties that are wrong, double or misplaced", bad_properties),
        row!("C27", "granted and denied names in turn", alternating),
        row!("C28", "packets that only brokers send", brokers_packets),
        row!("C30", "PUBLISH behind DISCONNECT", behind_disconnect),
        row!("C32", "refusals amid a large delivery", interleaved),
    ]
}

/// Octets of a session of EVE, and then a PUBLISH that she may make. Does either reach the broker?
async fn gets_on(arena: &Arena, side: Side, version: Version, octets: &[u8]) -> Result<bool> {
    let mut eve = arena.eve(side, version).await?;
    let mark = arena.mark();
    let after = Publish::new(OPEN, &mark).octets(version);
    let _ = eve.send([octets, &after].concat()).await;
    arena.drain(&mut eve).await?;
    arena.heard(&mark).await
}

async fn any_gets_on(
    arena: &Arena,
    side: Side,
    cases: impl IntoIterator<Item = (&str, Version, Vec<u8>)>,
) -> Result<Outcome> {
    for (what, version, octets) in cases {
        if gets_on(arena, side, version, &octets).await? {
            return Ok(Outcome::Succeeded(format!("{what}, {version:?}")));
        }
    }
    Ok(Outcome::Failed)
}

/// The same for what stands in the place of CONNECT.
async fn any_connects(
    arena: &Arena,
    side: Side,
    cases: impl IntoIterator<Item = (&str, Version, Vec<u8>)>,
) -> Result<Outcome> {
    for (what, version, octets) in cases {
        let mut client = arena.dial(side, version).await?;
        let mark = arena.mark();
        let after = Publish::new(OPEN, &mark).octets(version);
        let _ = client.send([octets, after].concat()).await;
        arena.drain(&mut client).await?;
        if arena.heard(&mark).await? {
            return Ok(Outcome::Succeeded(format!("{what}, {version:?}")));
        }
    }
    Ok(Outcome::Failed)
}

/// EVE's own good CONNECT, to be spoilt.
fn connect(arena: &Arena, side: Side, name: &str) -> Result<Connect> {
    arena.connect(side, &arena.site.wallets.stranger, &arena.fresh(name))
}

async fn before_connect(arena: &Arena, side: Side) -> Result<Outcome> {
    for kind in (0..16_u8).filter(|kind| *kind != 1) {
        for version in [V3, V5] {
            let mark = arena.mark();
            let mut client = arena.dial(side, version).await?;
            let first = match kind {
                3 => Publish::new(OPEN, &mark).octets(version),
                8 => raw::subscribe(version, 1, &[(SECRET, 0)]),
                6 | 10 => raw::packet(kind << 4 | 2, &[0, 1]),
                _ => raw::packet(kind << 4, &[]),
            };
            let then = connect(arena, side, "c02-")?.octets(version);
            let last = Publish::new(OPEN, &mark).octets(version);
            let _ = client.send([first, then, last].concat()).await;
            arena.drain(&mut client).await?;
            if arena.heard(&mark).await? {
                return Ok(Outcome::Succeeded(format!("type {kind}")));
            }
        }
    }
    Ok(Outcome::Failed)
}

async fn lengths(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut open = Vec::new();
    for octets in [
        vec![0x10, 0xff, 0xff, 0xff, 0xff, 0x7f],
        vec![0x10, 0xff, 0xff, 0xff, 0x7f],
        vec![0x10, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80],
        vec![0x10, 0x80, 0x00],
    ] {
        let mut client = arena.dial(side, V5).await?;
        let _ = client.send(&octets).await;
        // Closed at once: whoever waits for what is announced holds memory for it.
        if client.next(Duration::from_millis(1_500)).await.is_err() {
            open.push(format!("{octets:02x?}"));
        }
    }
    let mut after = Vec::new();
    for octets in [
        vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x7f],
        vec![0x30, 0xff, 0xff, 0xff, 0x7f],
        vec![0xc0, 0x80, 0x00],
    ] {
        let mut eve = arena.eve(side, V5).await?;
        let _ = eve.send(&octets).await;
        if eve.ended(Duration::from_millis(1_500)).await.is_err() {
            after.push(format!("{octets:02x?}"));
        }
    }
    let all = [open, after].concat();
    Ok(Outcome::of(!all.is_empty(), format!("waited for the rest of {}", all.join(" "))))
}

async fn behind_connect(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut cases = Vec::new();
    for version in [V3, V5] {
        let good = connect(arena, side, "c05-")?;
        // The length says that three more octets belong to it.
        let octets = good.octets(version);
        let header = octets.iter().skip(1).take_while(|octet| **octet & 0x80 != 0).count() + 2;
        let body = [&octets[header..], b"\x00\x01x"].concat();
        cases.push(("octets behind", version, raw::packet(0x10, &body)));
    }
    any_connects(arena, side, cases).await
}

async fn reserved_bits(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut cases = Vec::new();
    for version in [V3, V5] {
        let mut subscribe = raw::subscribe(version, 9, &[("open/c06", 0)]);
        subscribe[0] = 0x80;
        cases.push(("SUBSCRIBE 80", version, subscribe.clone()));
        subscribe[0] = 0x83;
        cases.push(("SUBSCRIBE 83", version, subscribe));
        cases.push(("PUBREL 60", version, vec![0x60, 2, 0, 1]));
        cases.push(("PINGREQ C1", version, vec![0xc1, 0]));
        cases.push(("PUBACK 41", version, vec![0x41, 2, 0, 1]));
        cases.push(("type 0", version, vec![0x00, 0]));
    }
    any_gets_on(arena, side, cases).await
}

async fn connect_flags(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut cases = Vec::new();
    for version in [V3, V5] {
        for (what, set) in [
            ("the reserved bit", 0x01_u8),
            ("QoS of a will, and no will", 0x08),
            ("retain of a will, and no will", 0x20),
        ] {
            let mut octets = connect(arena, side, "c07-")?.octets(version);
            let header = octets.iter().skip(1).take_while(|octet| **octet & 0x80 != 0).count() + 2;
            // Protocol name of six octets, level, flags.
            octets[header + 7] |= set;
            cases.push((what, version, octets));
        }
    }
    any_connects(arena, side, cases).await
}

async fn bad_text(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut cases = Vec::new();
    for version in [V3, V5] {
        for (what, text) in [
            ("NUL", &b"open/\x00"[..]),
            ("a surrogate", &b"open/\xed\xa0\x80"[..]),
            ("an overlong slash", &b"open\xc0\xaf"[..]),
            ("past the end of Unicode", &b"open/\xf4\x90\x80\x80"[..]),
            ("cut short", &b"open/\xe2\x82"[..]),
        ] {
            let mut body = raw::binary(text);
            body.extend((version == V5).then_some(0));
            cases.push((what, version, raw::packet(0x30, &body)));
            let mut body = vec![0, 9];
            body.extend((version == V5).then_some(0));
            body.extend(raw::binary(text));
            body.push(0);
            cases.push((what, version, raw::packet(0x82, &body)));
        }
    }
    any_gets_on(arena, side, cases).await
}

async fn bad_topics(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut cases = Vec::new();
    for version in [V3, V5] {
        for name in ["open/#", "open/+", "open/a#"] {
            cases.push(("a name", version, Publish::new(name, b"x").octets(version)));
        }
        for filter in ["open+/b", "open/#/b", "open/++", "open/a#", ""] {
            cases.push(("a filter", version, raw::subscribe(version, 9, &[(filter, 0)])));
        }
    }
    any_gets_on(arena, side, cases).await
}

async fn bad_aliases(arena: &Arena, side: Side) -> Result<Outcome> {
    let publish =
        |name: &str, properties: Vec<u8>| Publish::new(name, b"x").with(properties).octets(V5);
    any_gets_on(
        arena,
        side,
        [
            ("no name", V5, publish("", Vec::new())),
            ("no name", V3, Publish::new("", b"x").octets(V3)),
            ("an alias that was never set", V5, publish("", property::alias(3))),
            ("alias 0", V5, publish(OPEN, property::alias(0))),
            ("an alias past the maximum", V5, publish(OPEN, property::alias(60_000))),
        ],
    )
    .await
}

async fn bad_qos(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut cases = Vec::new();
    for version in [V3, V5] {
        let mut three = Publish::new(OPEN, b"x").qos(1, 3).octets(version);
        three[0] |= 0x06;
        cases.push(("QoS 3", version, three));
        let dup = Publish { dup: true, ..Publish::new(OPEN, b"x") };
        cases.push(("DUP at QoS 0", version, dup.octets(version)));
    }
    any_gets_on(arena, side, cases).await
}

async fn packet_ids(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut cases = Vec::new();
    for version in [V3, V5] {
        cases.push(("PUBLISH 0", version, Publish::new(OPEN, b"x").qos(1, 0).octets(version)));
        cases.push(("SUBSCRIBE 0", version, raw::subscribe(version, 0, &[("open/x", 0)])));
        cases.push(("PUBREL 0", version, acknowledge(0x62, 0)));
    }
    let outcome = any_gets_on(arena, side, cases).await?;
    // All ids in flight: whatever becomes of that session, no other may notice.
    let mut eve = arena.eve(side, V5).await?;
    for id in 1..=u16::MAX {
        if eve.publish(&Publish::new(SECRET, b"x").qos(2, id)).await.is_err() {
            break;
        }
    }
    Ok(outcome)
}

async fn bad_subscribes(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut cases = Vec::new();
    for version in [V3, V5] {
        cases.push(("no filter", version, raw::subscribe(version, 3, &[])));
        cases.push(("no filter", version, raw::unsubscribe(version, 3, &[])));
        for options in [0x03, 0x40, 0x80, 0x30] {
            let octets = raw::subscribe(version, 3, &[("open/c13", options)]);
            cases.push(("options", version, octets));
        }
    }
    cases.push(("retain handling in 3.1.1", V3, raw::subscribe(V3, 3, &[("open/c13", 0x10)])));
    any_gets_on(arena, side, cases).await
}

async fn bad_auth(arena: &Arena, side: Side) -> Result<Outcome> {
    any_gets_on(
        arena,
        side,
        [
            ("F0 00", V5, vec![0xf0, 0]),
            ("F0 02 18 00", V5, vec![0xf0, 2, 0x18, 0]),
            ("F0 00", V3, vec![0xf0, 0]),
            ("another method", V5, raw::auth(0x19, "OTHER", Some(b"x"))),
        ],
    )
    .await
}

async fn too_large(arena: &Arena, side: Side) -> Result<Outcome> {
    // One more octet than a gateway takes unless told otherwise.
    let mark = arena.mark();
    let payload = [vec![b'x'; 1024 * 1024], mark.clone()].concat();
    let mut eve = arena.eve(side, V5).await?;
    let _ = eve.publish(&Publish::new(OPEN, &payload)).await;
    arena.drain(&mut eve).await?;
    Ok(Outcome::of(arena.heard(&mark).await?, "it was passed on"))
}

async fn silent(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        let connect = Connect { keep_alive: 1, ..connect(arena, side, "c21-")? };
        let mut eve = arena.session_of(side, version, &connect).await?;
        let began = Instant::now();
        if eve.ended(Duration::from_secs(4)).await.is_err() {
            return Ok(Outcome::Succeeded("it may be silent for ever".into()));
        }
        ensure!(began.elapsed() > Duration::from_millis(1_000), "ended before its time");
    }
    Ok(Outcome::Failed)
}

async fn wrong_version(arena: &Arena, side: Side) -> Result<Outcome> {
    any_gets_on(
        arena,
        side,
        [
            ("AUTH", V3, raw::auth(0x18, "x", None)),
            ("DISCONNECT with a reason", V3, vec![0xe0, 1, 4]),
            ("subscription options", V3, raw::subscribe(V3, 3, &[("open/x", 0x04)])),
        ],
    )
    .await
}

async fn raised_expiry(arena: &Arena, side: Side) -> Result<Outcome> {
    let connect = connect(arena, side, "c23-")?;
    let mut eve = arena.session_of(side, V5, &connect).await?;
    eve.subscribe(&[("open/c23", 1)]).await?;
    let raise = [&[0x00_u8, 5][..], &property::session_expiry(600)].concat();
    eve.send(raw::packet(0xe0, &raise)).await?;
    eve.ended(Duration::from_secs(5)).await?;
    let mut again = arena.dial(side, V5).await?;
    let got = again.connack(&Connect { clean: false, ..connect }).await?;
    let present = matches!(got, raw::Got::ConnAck { present: true, .. });
    Ok(Outcome::of(present, "a session of a moment was kept"))
}

async fn bad_properties(arena: &Arena, side: Side) -> Result<Outcome> {
    let of_connect = |properties: &[u8]| -> Result<Vec<u8>> {
        let good = connect(arena, side, "c24-")?;
        Ok(Connect { properties: properties.to_vec(), ..good }.octets(V5))
    };
    let connects = [
        ("Receive Maximum 0", V5, of_connect(&[0x21, 0, 0])?),
        ("Maximum Packet Size 0", V5, of_connect(&[0x27, 0, 0, 0, 0])?),
        ("Request Problem 2", V5, of_connect(&[0x17, 2])?),
        ("one twice", V5, of_connect(&[0x17, 1, 0x17, 1])?),
        ("of another packet", V5, of_connect(&[0x23, 0, 1])?),
        ("unknown", V5, of_connect(&[0x7f, 0])?),
        ("cut short", V5, of_connect(&[0x11, 0, 0])?),
    ];
    let outcome = any_connects(arena, side, connects).await?;
    if matches!(outcome, Outcome::Succeeded(_)) {
        return Ok(outcome);
    }
    let publish = |properties: &[u8]| Publish::new(OPEN, b"x").with(properties.to_vec()).octets(V5);
    let subscribe_zero =
        raw::packet(0x82, &[&[0, 9, 2, 0x0b, 0][..], &raw::text("open/x"), &[0]].concat());
    any_gets_on(
        arena,
        side,
        [
            ("expiry twice", V5, publish(&[2, 0, 0, 0, 1, 2, 0, 0, 0, 1])),
            ("a subscription identifier", V5, publish(&[0x0b, 1])),
            ("payload format 2", V5, publish(&[1, 2])),
            ("past its end", V5, publish(&[0x26, 0, 9, b'x'])),
            ("subscription identifier 0", V5, subscribe_zero),
        ],
    )
    .await
}

async fn alternating(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        let (mark, mut eve) = (arena.mark(), arena.eve(side, version).await?);
        let mut octets = Vec::new();
        for id in 1..=40_u16 {
            let topic = if id % 2 == 0 { OPEN } else { SECRET };
            let payload = [format!("{id:02}").as_bytes(), &mark].concat();
            octets.extend(Publish::new(topic, &payload).qos(1, id).octets(version));
        }
        eve.send(octets).await?;
        let acks = arena.drain(&mut eve).await?;
        arena.heard(b"fence").await?;
        let got: Vec<_> = arena.spy.heard();
        let got: Vec<_> = got.iter().filter(|seen| seen.payload.ends_with(&mark)).collect();
        if got.iter().any(|seen| seen.topic == SECRET) {
            return Ok(Outcome::Succeeded("denied ones".into()));
        }
        let order: Vec<&[u8]> = got.iter().map(|seen| &seen.payload[..2]).collect();
        ensure!(order.is_sorted() && order.len() == 20, "{} granted, in order?", order.len());
        let ids: Vec<u16> = acks
            .iter()
            .filter(|packet| packet[0] == 0x40)
            .map(|packet| u16::from_be_bytes([packet[2], packet[3]]))
            .collect();
        ensure!(ids.is_sorted() && ids.len() == 40, "{} acknowledgements, in order?", ids.len());
    }
    Ok(Outcome::Failed)
}

async fn brokers_packets(arena: &Arena, side: Side) -> Result<Outcome> {
    let mut cases = Vec::new();
    for version in [V3, V5] {
        let tail = if version == V5 { vec![0] } else { Vec::new() };
        cases.push(("CONNACK", version, raw::packet(0x20, &[&[0, 0][..], &tail].concat())));
        cases.push(("SUBACK", version, raw::packet(0x90, &[&[0, 1][..], &tail, &[0]].concat())));
        cases.push(("UNSUBACK", version, raw::packet(0xb0, &[&[0, 1][..], &tail].concat())));
        cases.push(("PINGRESP", version, vec![0xd0, 0]));
    }
    any_gets_on(arena, side, cases).await
}

async fn behind_disconnect(arena: &Arena, side: Side) -> Result<Outcome> {
    any_gets_on(
        arena,
        side,
        [("", V3, raw::DISCONNECT.to_vec()), ("", V5, raw::DISCONNECT.to_vec())],
    )
    .await
}

async fn interleaved(arena: &Arena, side: Side) -> Result<Outcome> {
    for version in [V3, V5] {
        let mut eve = arena.eve(side, version).await?;
        ensure!(eve.subscribe(&[("open/c32", 0)]).await? == [0], "EVE is refused");
        let large = vec![0xa5; 900 * 1024];
        for _ in 0..4 {
            arena.put("open/c32", &large, false).await?;
        }
        for id in 1..=50 {
            eve.publish(&Publish::new(SECRET, b"x").qos(1, id)).await?;
            eve.send(raw::subscribe(version, 100 + id, &[(SECRET, 0)])).await?;
        }
        let got = arena.drain(&mut eve).await?;
        let whole = got.iter().filter(|packet| packet.ends_with(&large)).count();
        let (acks, subacks) = (
            got.iter().filter(|packet| packet[0] == 0x40).count(),
            got.iter().filter(|packet| packet[0] == 0x90).count(),
        );
        if side == Side::FlyTrap && (whole, acks, subacks) != (4, 50, 50) {
            let what = format!("{whole} deliveries, {acks} PUBACK, {subacks} SUBACK came whole");
            return Ok(Outcome::Succeeded(what));
        }
    }
    Ok(Outcome::Failed)
}
