//! DESIGN section 6, THREATS D09, D11, D13, D18, D20, ACCEPTANCE US8: how fast and how much a proven client may, judged by what comes to
//! the broker and by a bystander.

use std::time::{Duration, Instant};

use crate::common::raw::{
    self, Connect, DISCONNECT, Got, Publish, Raw, packet, property, unsubscribe,
};
use crate::common::{PATIENCE, PUBLIC, RETAIN, Stage, V5, V311, Way, http, run, until};
use eyre::{Result, bail, ensure};
use flytrap_site::{Direction, Packet};

async fn open(config: &str) -> Result<Stage> {
    let config = format!("[broker]\nprobe_interval = \"1h\"\n{config}");
    let stage = Stage::configured(&config).await?;
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.caught_up().await?;
    Ok(stage)
}

async fn throttled(stage: &Stage, rate: &str) -> Result<f64> {
    let (_, body) = http::get(stage.site.gateway()?.health(), "/metrics").await?;
    let series = format!("flytrap_throttled_total{{rate=\"{rate}\"}} ");
    let found = body.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
    Ok(found.unwrap_or(0.0))
}

#[test]
fn a_client_past_its_rate_is_slowed_down_and_loses_nothing_while_others_are_not_held_up()
-> Result<()> {
    run(async {
        let stage = open("[rates]\nburst = \"1s\"\nsession_messages = 100").await?;
        for version in [V311, V5] {
            let level = version.level();
            let way = Way::plain(version);
            let topic = format!("open/flood-{level}");
            let spy = stage.site.spy(&topic).await?;
            let connect = Connect {
                // The pause is longer than one and a half of it: what is not read must not be taken for silence.
                keep_alive: 2,
                ..Connect::of(version, &stage.stranger(&format!("flood-{level}"))?)
            };
            let mut flood = stage.session_of(way, &connect).await?;
            let mut other = stage.session(way, &stage.reader(&format!("other-{level}"))?).await?;
            let began = Instant::now();
            let all: Vec<u8> = (0..500_u32)
                .flat_map(|n| Publish::new(&topic, &n.to_be_bytes()).octets(version))
                .collect();
            flood.send(all).await?;
            until("all to be heard", || async { Ok((spy.heard().len() >= 500).then_some(())) })
                .await?;
            // It may come in one read, and is charged for then: what follows it waits until the rate has earned it.
            let mut waits = Vec::new();
            let answered = flood.ping();
            tokio::pin!(answered);
            loop {
                let bystander = async {
                    let asked = Instant::now();
                    ensure!(other.ping().await?.is_empty());
                    let waited = asked.elapsed();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(waited)
                };
                tokio::select! {
                    others = &mut answered => break assert_eq!(others?, []),
                    waited = bystander => waits.push(waited?),
                }
            }
            let took = began.elapsed();
            ensure!(took > Duration::from_millis(3_500), "{version:?}: 500 messages in {took:?}");
            ensure!(took < Duration::from_secs(8), "{version:?}: 500 messages in {took:?}");
            // Whoever was held up with the flood would wait again and again, or once for very long; a busy machine stalls once.
            waits.sort_unstable_by(|a, b| b.cmp(a));
            ensure!(
                waits.len() > 20
                    && waits[0] < Duration::from_millis(2_500)
                    && waits[2] < Duration::from_millis(500),
                "{version:?}: a bystander waited {waits:?}"
            );
            let numbers: Vec<Vec<u8>> = spy.heard().into_iter().map(|p| p.payload).collect();
            let wanted: Vec<Vec<u8>> = (0..500_u32).map(|n| n.to_be_bytes().to_vec()).collect();
            assert_eq!(numbers, wanted, "{version:?}: all, once, in order");
        }
        ensure!(throttled(&stage, "messages").await? >= 2.0);
        Ok(())
    })
}

#[test]
fn all_sessions_of_a_wallet_share_its_rate_and_another_wallet_has_its_own() -> Result<()> {
    run(async {
        let stage = open("[rates]\nburst = \"1s\"\nwallet_octets = 20000").await?;
        let way = Way::plain(V5);
        let mut sessions = Vec::new();
        for n in 0..4 {
            sessions.push(stage.session(way, &stage.stranger(&format!("share-{n}"))?).await?);
        }
        let mut other = stage.session(way, &stage.reader("not-shared")?).await?;
        let began = Instant::now();
        for session in &mut sessions {
            session.publish(&Publish::new("open/share", &[b'x'; 20_000]).qos(1, 1)).await?;
        }
        for session in &mut sessions {
            let Got::Ack { code: 0 | 0x10, .. } = session.get().await? else { bail!("no PUBACK") };
        }
        other.publish(&Publish::new("open/share", &[b'y'; 20_000]).qos(1, 1)).await?;
        let Got::Ack { code: 0 | 0x10, .. } = other.get().await? else { bail!("no PUBACK") };
        ensure!(began.elapsed() < Duration::from_millis(2_500), "nothing was held up yet");
        // Eighty thousand octets were used, one second's worth was there: what comes now waits for three.
        for session in &mut sessions {
            session.publish(&Publish::new("open/share", b"late").qos(1, 2)).await?;
        }
        other.publish(&Publish::new("open/share", b"at once").qos(1, 2)).await?;
        let Got::Ack { code: 0 | 0x10, .. } = other.get().await? else { bail!("no PUBACK") };
        ensure!(began.elapsed() < Duration::from_millis(2_500), "the other wallet was held up");
        // One of them was within the rate when it was read, so it may be read once more.
        let mut last = Duration::ZERO;
        for session in &mut sessions {
            let Got::Ack { code: 0 | 0x10, .. } = session.get().await? else { bail!("no PUBACK") };
            last = last.max(began.elapsed());
        }
        ensure!(last > Duration::from_millis(2_500), "the last came after {last:?}");
        ensure!(throttled(&stage, "wallet_octets").await? >= 1.0);
        Ok(())
    })
}

/// THREATS D20, D13.
#[test]
fn a_flood_of_pings_or_unsubscribes_ends_that_session_and_holds_up_nobody() -> Result<()> {
    run(async {
        let stage = open("").await?;
        for (n, version) in [(0, V311), (1, V5)] {
            let way = Way::plain(version);
            let mut other = stage.session(way, &stage.reader(&format!("calm-{n}"))?).await?;
            let pings = [0xc0, 0].repeat(100_000);
            let leave: Vec<u8> =
                (1..=20_000_u16).flat_map(|id| unsubscribe(version, id, &["open/x"])).collect();
            for (what, flood) in [("pings", pings), ("unsubscribes", leave)] {
                let id = format!("{what}-{n}");
                let client = stage.session(way, &stage.stranger(&id)?).await?;
                let asked = Instant::now();
                let ended = flood_until_it_ends(client, flood).await?;
                ensure!(
                    version != V5
                        || ended
                            .iter()
                            .any(|got| matches!(got, Got::Disconnect { code: 0x96 | 0x97, .. })),
                    "{what}: {:?}",
                    ended.last()
                );
                assert_eq!(other.ping().await?, []);
                ensure!(asked.elapsed() < PATIENCE);
                let seen = stage.seen_of(&id)?;
                let to_broker = seen.iter().filter(|s| s.direction == Direction::ToBroker).count();
                ensure!(to_broker < 60_000, "{what}: {to_broker} went to the broker");
            }
        }
        let (_, body) = http::get(stage.site.gateway()?.health(), "/metrics").await?;
        ensure!(body.contains("flytrap_sessions_ended_total{end=\"client_rate\"}"), "{body}");
        Ok(())
    })
}

/// Writes and reads at once, as who floods would, until the connection ends.
async fn flood_until_it_ends(mut client: Raw, octets: Vec<u8>) -> Result<Vec<Got>> {
    let mut before = Vec::new();
    for chunk in octets.chunks(8 * 1024) {
        if client.send(chunk).await.is_err() {
            break;
        }
    }
    match client.ended(PATIENCE).await {
        Ok(more) => before.extend(more),
        // What we had yet to send when it ended makes the system say "reset", which may swallow the goodbye.
        Err(_) => before.push(Got::Disconnect { code: 0x96, reason: None }),
    }
    Ok(before)
}

/// THREATS D11.
#[test]
fn past_the_number_of_subscriptions_each_filter_is_refused_and_the_others_stay() -> Result<()> {
    run(async {
        let stage = open("[limits]\nmax_subscriptions = 3").await?;
        for version in [V311, V5] {
            let id = format!("filters-{}", version.level());
            let mut client = stage.session(Way::plain(version), &stage.stranger(&id)?).await?;
            let full = if version == V5 { 0x97 } else { 0x80 };
            let filters = [("open/a", 0), ("open/b", 0), ("open/c", 0), ("open/d", 0)];
            assert_eq!(client.subscribe(&filters).await?, [0, 0, 0, full]);
            assert_eq!(client.subscribe(&[("open/a", 1), ("open/e", 0)]).await?, [1, full]);
            client.send(unsubscribe(version, 77, &["open/b"])).await?;
            let Got::UnsubAck { .. } = client.get().await? else { bail!("no UNSUBACK") };
            assert_eq!(client.subscribe(&[("open/d", 0)]).await?, [0]);
        }
        ensure!(!stage.site.recorder()?.saw_subscribe("open/e"), "it went to the broker");
        Ok(())
    })
}

/// THREATS D09.
#[test]
fn publishes_under_way_are_bounded_and_a_client_of_5_is_told_how_many() -> Result<()> {
    run(async {
        let stage = open("[limits]\nmax_in_flight = 4").await?;
        for version in [V311, V5] {
            // Released never, and one identifier again and again while the broker is silent.
            for (what, qos) in [("released never", 2), ("the same again", 1)] {
                let id = format!("{}-{}", what.replace(' ', "-"), version.level());
                let mut client = stage.dial(Way::plain(version)).await?;
                let connect = Connect::of(version, &stage.stranger(&id)?);
                let Got::ConnAck { code: 0, in_flight, .. } = client.connack(&connect).await?
                else {
                    bail!("refused")
                };
                ensure!(version != V5 || in_flight == 4, "told {in_flight}");
                if qos == 1 {
                    stage.site.recorder()?.hold();
                }
                for n in 1..=5_u8 {
                    let id = if qos == 1 { 9 } else { n.into() };
                    client.publish(&Publish::new("open/q", &[b'0' + n]).qos(qos, id)).await?;
                }
                let ended = client.ended(PATIENCE).await?;
                stage.site.recorder()?.release();
                ensure!(
                    version != V5
                        || matches!(ended.last(), Some(Got::Disconnect { code: 0x93, .. })),
                    "{what}: {ended:?}"
                );
                let published = || -> Result<usize> {
                    let seen = stage.seen_of(&id)?;
                    let of_client = seen.iter().filter(|s| s.direction == Direction::ToBroker);
                    Ok(of_client.filter(|s| matches!(s.packet, Packet::Publish(_))).count())
                };
                until("what was allowed", || async { Ok((published()? >= 4).then_some(())) })
                    .await?;
                assert_eq!(published()?, 4, "{what}");
            }
            // Who waits for its answers may go on for ever.
            let id = format!("patient-{}", version.level());
            let mut client = stage.session(Way::plain(version), &stage.stranger(&id)?).await?;
            for n in 1..=50_u8 {
                client
                    .publish_whole(&Publish::new("open/q", b"x").qos(1 + n % 2, n.into()))
                    .await?;
            }
            assert_eq!(client.ping().await?, []);
        }
        Ok(())
    })
}

/// ACCEPTANCE US8: flapping.
#[test]
fn sessions_beyond_the_rate_of_their_wallet_are_refused_before_the_broker_hears_of_them()
-> Result<()> {
    run(async {
        let stage = open("[rates]\nburst = \"5s\"\nconnects = 1").await?;
        for (n, (version, code)) in [(V311, 3), (V5, 0x9f)].into_iter().enumerate() {
            let role =
                if n == 0 { &stage.site.wallets.stranger } else { &stage.site.wallets.reader };
            let (mut opened, mut refused, began) = (0, 0, Instant::now());
            for k in 0..12 {
                let login = stage.site.token(role, &format!("flap-{n}-{k}"))?;
                let mut client = stage.dial(Way::plain(version)).await?;
                match client.connect(&Connect::of(version, &login)).await? {
                    0 => opened += 1,
                    found if found == code => refused += 1,
                    other => bail!("{version:?}: {other:#04x}"),
                }
                let _ = client.send(DISCONNECT).await;
            }
            // What is there at once, and one more for each second that it took.
            let most = 6 + usize::try_from(began.elapsed().as_secs())?;
            ensure!(
                (5..=most).contains(&opened),
                "{version:?}: {opened} opened, {refused} refused"
            );
            let prefix = format!("-flap-{n}-");
            let seen = stage.site.recorder()?.connects();
            let seen = seen.iter().filter(|c| c.client_id.contains(&prefix)).count();
            assert_eq!(seen, opened, "{version:?}: at the broker");
        }
        // Another wallet has a rate of its own, and the first is not locked out.
        let login = stage.publisher("calm")?;
        let mut client = stage.dial(Way::plain(V5)).await?;
        assert_eq!(client.connect(&Connect::of(V5, &login)).await?, 0);
        until("one more of the first", || async {
            let mut client = stage.dial(Way::plain(V5)).await?;
            let code = client.connect(&Connect::of(V5, &stage.reader("again")?)).await?;
            Ok((code == 0).then_some(()))
        })
        .await?;
        ensure!(throttled(&stage, "connects").await? >= 10.0);
        Ok(())
    })
}

/// MQTT 5.0 sections 3.1.2.11.2, 3.2.2.3.2 and 3.14.2.2.2.
#[test]
fn a_session_outlives_its_connection_no_longer_than_the_cap_and_the_client_is_told() -> Result<()> {
    run(async {
        let stage = open("[limits]\nsession_expiry_cap = \"2s\"").await?;
        let way = Way::plain(V5);
        let kept = |id: &str, properties: Vec<u8>| -> Result<Connect> {
            Ok(Connect { clean: false, properties, ..Connect::of(V5, &stage.stranger(id)?) })
        };
        for (n, asked, told) in
            [(0, 1, None), (1, 2, None), (2, 3, Some(2)), (3, u32::MAX, Some(2))]
        {
            let connect = kept(&format!("expiry-{n}"), property::session_expiry(asked))?;
            let mut client = stage.dial(way).await?;
            let Got::ConnAck { code: 0, expiry, .. } = client.connack(&connect).await? else {
                bail!("refused")
            };
            assert_eq!(expiry, told, "asked for {asked} s");
        }
        // The broker keeps it for the capped time, and no longer; also where DISCONNECT asks for more.
        for (id, at_connect, at_disconnect) in
            [("long", u32::MAX, None), ("raised", 1, Some(1_000_u32))]
        {
            let connect = kept(id, property::session_expiry(at_connect))?;
            let present = async || -> Result<bool> {
                let mut client = stage.dial(way).await?;
                let Got::ConnAck { code: 0, present, .. } = client.connack(&connect).await? else {
                    bail!("refused")
                };
                client.subscribe(&[("open/kept", 1)]).await?;
                let goodbye = match at_disconnect {
                    None => DISCONNECT.to_vec(),
                    Some(seconds) => {
                        let expiry = property::session_expiry(seconds);
                        packet(0xe0, &[&[0_u8][..], &raw::length(expiry.len()), &expiry].concat())
                    }
                };
                client.send(goodbye).await?;
                client.ended(PATIENCE).await?;
                Ok(present)
            };
            ensure!(!present().await?, "{id}: the first");
            ensure!(present().await?, "{id}: at once");
            tokio::time::sleep(Duration::from_millis(4_500)).await;
            ensure!(!present().await?, "{id}: after the cap");
        }
        Ok(())
    })
}
