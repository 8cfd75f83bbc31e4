//! ACCEPTANCE W20, W38, W42: silence, size, number and malformed packets end one session, cost bounded memory and hold up nobody.

use std::time::{Duration, Instant};

use crate::common::raw::{self, Connect, Got, Publish, Raw, packet, property, subscribe, text};
use crate::common::{PATIENCE, PUBLIC, Stage, V5, V311, Version, Way, run, until};
use eyre::{Result, bail, ensure, eyre};
use flytrap_site::Packet;
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(Stage::open_and_closed).await
}

#[test]
fn a_silent_client_is_ended_after_one_and_a_half_keep_alives_and_one_that_pings_is_not()
-> Result<()> {
    run(async {
        let stage = stage().await?;
        for version in [V311, V5] {
            let connect = |id: &str| -> Result<Connect> {
                Ok(Connect {
                    keep_alive: 4,
                    ..Connect::of(version, &stage.stranger(&format!("{id}-{}", version.level()))?)
                })
            };
            let opened = Instant::now();
            let mut silent = stage.session_of(Way::plain(version), &connect("silent")?).await?;
            let mut pings = stage.session_of(Way::plain(version), &connect("pings")?).await?;
            // All it sends is refused, so only the gateway's own PINGREQ keeps the broker from taking it for dead.
            let mut refused = stage.session_of(Way::plain(version), &connect("refused")?).await?;
            let began = Instant::now();
            let busy = tokio::spawn(async move {
                while began.elapsed() < Duration::from_secs(9) {
                    ensure!(pings.ping().await?.is_empty());
                    refused.publish(&Publish::new("closed/x", b"x")).await?;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                ensure!(refused.ping().await?.is_empty());
                Ok(())
            });
            let ended = silent.ended(Duration::from_secs(12)).await?;
            let (least, most) = (opened.elapsed(), began.elapsed());
            ensure!(
                least >= Duration::from_millis(5_800) && most < Duration::from_millis(8_500),
                "{version:?}: ended after {most:?} to {least:?}"
            );
            ensure!(
                version != V5 || matches!(ended.as_slice(), [Got::Disconnect { code: 0x8d, .. }]),
                "{ended:?}"
            );
            busy.await??;
        }
        Ok(())
    })
}

#[test]
fn a_refusal_fits_the_clients_largest_packet_and_respects_its_wish_for_no_reasons() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for (n, properties, reasons) in [
            (0, property::maximum_packet_size(40), false),
            (1, property::request_problem_information(false), false),
            (2, Vec::new(), true),
        ] {
            let connect =
                Connect { properties, ..Connect::of(V5, &stage.stranger(&format!("small-{n}"))?) };
            let mut client = stage.session_of(Way::plain(V5), &connect).await?;
            client.publish(&Publish::new("closed/x", b"x").qos(1, 1)).await?;
            let Got::Ack { code: 0x87, reason, .. } = client.get().await? else {
                bail!("no PUBACK 0x87")
            };
            assert_eq!(reason.is_some(), reasons, "case {n}");
            client.send(subscribe(V5, 2, &[("closed/x", 0)])).await?;
            let Got::SubAck { codes, reason, .. } = client.get().await? else { bail!("no SUBACK") };
            assert_eq!((codes.as_slice(), reason.is_some()), (&[0x87][..], reasons), "case {n}");
        }
        // The CONNACK of a refused CONNECT as well [MQTT-3.2.2-19].
        for (most, reasons) in [(40, false), (400, true)] {
            let will = raw::Will {
                topic: "closed/will".into(),
                payload: Vec::new(),
                qos: 0,
                retain: false,
            };
            let connect = Connect {
                properties: property::maximum_packet_size(most),
                will: Some(will),
                ..Connect::of(V5, &stage.stranger("small-will")?)
            };
            let Got::ConnAck { code: 0x87, reason, .. } =
                stage.dial(Way::plain(V5)).await?.connack(&connect).await?
            else {
                bail!("no CONNACK 0x87")
            };
            assert_eq!(reason.is_some(), reasons, "{most} octets");
        }
        Ok(())
    })
}

#[test]
fn a_delivery_larger_than_the_client_takes_is_not_made_and_one_that_fits_is() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let connect = Connect {
            properties: property::maximum_packet_size(100),
            ..Connect::of(V5, &stage.stranger("hundred")?)
        };
        let mut client = stage.session_of(Way::plain(V5), &connect).await?;
        assert_eq!(client.subscribe(&[("open/size", 0)]).await?, [0]);
        let mut broker = stage.direct(V311, "").await?;
        for size in [200, 86] {
            broker.publish(&Publish::new("open/size", &vec![b'x'; size])).await?;
        }
        // 2 of header, 2 + 9 of the name, 1 of properties: 86 octets of payload make 100.
        assert_eq!(client.delivery().await?.payload.len(), 86);
        Ok(())
    })
}

#[test]
fn a_packet_beyond_the_limit_ends_the_session_and_one_at_the_limit_goes_through() -> Result<()> {
    run(async {
        let stage = Stage::configured("[limits]\nmax_packet_octets = 2000").await?;
        stage.topic_with("open", crate::common::RETAIN, PUBLIC, PUBLIC).await?;
        stage.caught_up().await?;
        for version in [V311, V5] {
            let header = 3 + 2 + 4 + usize::from(version == V5);
            let mut client = stage
                .session(
                    Way::plain(version),
                    &stage.stranger(&format!("limit-{}", version.level()))?,
                )
                .await?;
            client.publish(&Publish::new("open", &vec![b'x'; 2_000 - header])).await?;
            assert_eq!(client.ping().await?, []);
            client.publish(&Publish::new("open", &vec![b'y'; 2_001 - header])).await?;
            let ended = client.ended(PATIENCE).await?;
            ensure!(
                version != V5 || matches!(ended.as_slice(), [Got::Disconnect { code: 0x95, .. }]),
                "{ended:?}"
            );
        }
        let published = stage.site.recorder()?.publishes();
        assert_eq!(published.iter().filter(|publish| publish.payload.starts_with(b"x")).count(), 2);
        ensure!(
            !published.iter().any(|publish| publish.payload.starts_with(b"y")),
            "the larger one went to the broker"
        );
        Ok(())
    })
}

/// A malformed packet ends its own session only, and not one octet of it reaches the broker.
#[test]
fn a_malformed_packet_ends_that_session_only_and_never_reaches_the_broker() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut bystander = stage.session(Way::plain(V5), &stage.stranger("bystander")?).await?;
        let id = |n: u16| n.to_be_bytes();
        let cases: Vec<(&str, Version, Vec<u8>)> = vec![
            ("QoS 3", V311, packet(0x36, &[&text("open/bad")[..], &id(1), b"x"].concat())),
            ("DUP at QoS 0", V311, packet(0x38, &[&text("open/bad")[..], b"x"].concat())),
            ("packet id 0", V311, packet(0x32, &[&text("open/bad")[..], &id(0), b"x"].concat())),
            ("a wildcard in a name", V311, packet(0x30, &text("open/+/bad"))),
            ("an empty name", V311, packet(0x30, &[0, 0, b'x'])),
            ("NUL in a name", V311, packet(0x30, &text("open/bad\0"))),
            ("no UTF-8", V311, packet(0x30, &[0, 2, 0xc3, 0x28])),
            ("a surrogate", V311, packet(0x30, &[0, 3, 0xed, 0xa0, 0x80])),
            ("a name past the end", V311, packet(0x30, &[0xff, 0xff, b'o'])),
            ("SUBSCRIBE without filters", V311, packet(0x82, &id(1))),
            ("SUBSCRIBE with QoS 3", V311, subscribe(V311, 1, &[("open/bad", 3)])),
            ("SUBSCRIBE with reserved bits", V311, subscribe(V311, 1, &[("open/bad", 0x40)])),
            (
                "SUBSCRIBE with wrong flags",
                V311,
                packet(0x80, &[&id(1)[..], &text("open/bad"), &[0]].concat()),
            ),
            ("UNSUBSCRIBE without filters", V311, packet(0xa2, &id(1))),
            ("PINGREQ with a body", V311, packet(0xc0, &[0])),
            ("a packet of the server", V311, packet(0x90, &[0, 1, 0])),
            ("AUTH in 3.1.1", V311, packet(0xf0, &[])),
            ("a length of five octets", V311, vec![0x30, 0xff, 0xff, 0xff, 0xff, 0x01]),
            (
                "a property twice",
                V5,
                Publish::new("open/bad", b"x")
                    .with([property::alias(1), property::alias(1)].concat())
                    .octets(V5),
            ),
            (
                "an unknown property",
                V5,
                Publish::new("open/bad", b"x").with(vec![0x7f, 0]).octets(V5),
            ),
            (
                "a property of CONNECT",
                V5,
                Publish::new("open/bad", b"x").with(property::session_expiry(1)).octets(V5),
            ),
            (
                "a subscription id of a client",
                V5,
                Publish::new("open/bad", b"x").with(vec![0x0b, 1]).octets(V5),
            ),
            (
                "properties past their length",
                V5,
                packet(0x30, &[&text("open/bad")[..], &[2], &property::user("a", "b")].concat()),
            ),
            (
                "a response topic with a wildcard",
                V5,
                Publish::new("open/bad", b"x")
                    .with([&[0x08][..], &text("a/#")].concat())
                    .octets(V5),
            ),
            ("AUTH without a method", V5, packet(0xf0, &[0x18, 0])),
            ("retain handling 3", V5, subscribe(V5, 1, &[("open/bad", 0x30)])),
            (
                "a length that is not minimal",
                V5,
                [&[0x30, 0x8c, 0x00][..], &text("open/bad"), &[0, b'x']].concat(),
            ),
        ];
        assert_eq!(cases.len(), 27);
        for (n, (what, version, octets)) in cases.into_iter().enumerate() {
            let id = format!("malformed-{n}");
            let mut client = stage.session(Way::plain(version), &stage.stranger(&id)?).await?;
            // An honest packet before and after it in the same segment: the one goes through, the other must not.
            let before = Publish::new("open/before", id.as_bytes()).octets(version);
            let after = Publish::new("open/after", id.as_bytes()).octets(version);
            client.send([before, octets, after].concat()).await?;
            let ended = client.ended(PATIENCE).await?;
            match version {
                V5 => ensure!(
                    matches!(ended.as_slice(), [Got::Disconnect { code: 0x80..=0x95, .. }]),
                    "{what}: {ended:?}"
                ),
                _ => assert_eq!(ended, [], "{what}"),
            }
            let seen = || stage.seen_of(&id);
            stage
                .site
                .recorder()?
                .until(PATIENCE, |_| {
                    seen().is_ok_and(|seen| {
                        seen.iter().any(|seen| matches!(&seen.packet, Packet::Publish(_)))
                    })
                })
                .await?;
            let packets: Vec<_> = seen()?
                .into_iter()
                .filter(|seen| seen.direction == flytrap_site::Direction::ToBroker)
                .map(|seen| seen.packet)
                .collect();
            let honest = matches!(packets.as_slice(), [Packet::Connect(_), Packet::Publish(publish)] if publish.topic == "open/before")
                || matches!(packets.as_slice(), [Packet::Connect(_), Packet::Publish(publish), Packet::Other { kind: 14, .. }] if publish.topic == "open/before");
            ensure!(honest, "{what}: the broker saw {packets:?}");
        }
        assert_eq!(bystander.ping().await?, [], "the bystander goes on");
        Ok(())
    })
}

/// W38, THREATS D01.
#[test]
fn among_five_hundred_silent_connections_an_honest_client_connects_within_a_second() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for tls in [false, true] {
            let target = stage.target(tls)?;
            let mut silent = Vec::new();
            for _ in 0..250 {
                let client = Raw::plain_from(V311, [127, 0, 0, 30].into(), target.address).await?;
                silent.push(client);
            }
            let began = Instant::now();
            let way = Way { version: V5, tls };
            let mut honest = stage.session(way, &stage.stranger(&format!("honest-{tls}"))?).await?;
            assert_eq!(honest.ping().await?, []);
            ensure!(began.elapsed() < Duration::from_secs(1), "{way:?}: {:?}", began.elapsed());
        }
        Ok(())
    })
}

#[test]
fn connections_of_one_origin_are_bounded_and_another_origin_has_its_own() -> Result<()> {
    run(async {
        let stage = Stage::configured("[limits]\nmax_connections_per_origin = 3").await?;
        let (mqtt, good) = (stage.site.mqtt()?, |n: u8| stage.stranger(&format!("seat-{n}")));
        let mut seated = Vec::new();
        for n in 0..3 {
            let mut client = Raw::plain_from(V311, [127, 0, 0, 31].into(), mqtt).await?;
            assert_eq!(client.connect(&Connect::of(V311, &good(n)?)).await?, 0);
            seated.push(client);
        }
        let connect = Connect::of(V311, &good(4)?);
        let fourth = raw::attempt(V311, [127, 0, 0, 31].into(), mqtt, &connect).await?;
        assert_eq!(fourth, None, "the fourth");
        let other = raw::attempt(V311, [127, 0, 0, 32].into(), mqtt, &connect).await?;
        assert_eq!(other, Some(0), "another origin");
        seated.pop();
        until("the seat to be free", || async {
            let again = raw::attempt(V311, [127, 0, 0, 31].into(), mqtt, &connect).await?;
            Ok((again == Some(0)).then_some(()))
        })
        .await
    })
}

/// THREATS D07: what one subscriber does not take is neither kept without bound nor held against others.
#[test]
fn a_subscriber_that_takes_nothing_costs_bounded_memory_and_delays_nobody() -> Result<()> {
    run(async {
        let stage = Stage::open_and_closed().await?;
        let resident = || -> Result<usize> {
            let pid = stage.site.gateway()?.child.id();
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            let kib = line.and_then(|line| line.split_whitespace().next());
            Ok(kib.ok_or_else(|| eyre!("no VmRSS"))?.parse::<usize>()? * 1024)
        };
        let mut deaf = stage.session(Way::plain(V311), &stage.stranger("deaf")?).await?;
        let mut hears = stage.session(Way::plain(V311), &stage.stranger("hears")?).await?;
        assert_eq!(deaf.subscribe(&[("open/flood", 0)]).await?, [0]);
        assert_eq!(hears.subscribe(&[("open/mark", 0)]).await?, [0]);
        let before = resident()?;
        let mut publisher = stage.session(Way::plain(V5), &stage.stranger("floods")?).await?;
        let payload = vec![b'x'; 100_000];
        for _ in 0..500 {
            publisher.publish(&Publish::new("open/flood", &payload)).await?;
        }
        publisher.publish(&Publish::new("open/mark", b"mark")).await?;
        let began = Instant::now();
        assert_eq!(hears.delivery().await?.payload, b"mark");
        let grown = resident()?.saturating_sub(before);
        eprintln!("50 MB published, {grown} octets more, mark after {:?}", began.elapsed());
        ensure!(grown < 16 * 1024 * 1024, "{grown} octets more than before");
        drop(deaf);
        Ok(())
    })
}
