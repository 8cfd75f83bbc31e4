//! ACCEPTANCE W9, W16 to W19, W25, W26: what a CONNECT may say, what comes before it, and what the broker learns of it.

use std::time::{Duration, Instant};

use crate::common::raw::{
    Connect, Got, PINGREQ, Publish, Will, acknowledge, packet, subscribe, unsubscribe,
};
use crate::common::{EVERY_VERSION, FAR, PATIENCE, Right, Stage, V5, V311, Way, run};
use eyre::{Result, bail, ensure};
use flytrap_site::Packet;
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(Stage::open_and_closed).await
}

/// W9.
#[test]
fn a_will_is_judged_at_connect_and_again_when_it_would_fire() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("#").await?;
        let topic = stage.topic("wills").await?;
        let key = &stage.site.wallets.publisher;
        for way in Way::ALL {
            let will = |topic: &str, payload: &str| {
                Some(Will { topic: topic.into(), payload: payload.into(), qos: 1, retain: false })
            };
            // Retain where the topic does not allow it, a reserved name, an ungoverned one.
            for (n, name) in
                ["closed/will", "$SYS/will", "nowhere/will", "plain/will"].into_iter().enumerate()
            {
                let login = stage.site.token(key, &format!("will-{n}-{}", way.word()))?;
                let mut refused =
                    Connect { will: will(name, "refused"), ..Connect::of(way.version, &login) };
                if let Some(will) = &mut refused.will {
                    will.retain = name == "plain/will";
                }
                let mut client = stage.dial(way).await?;
                let code = client.connect(&refused).await?;
                assert_eq!(code, if way.version == V5 { 0x87 } else { 5 }, "{way:?}: {name}");
                assert_eq!(client.ended(PATIENCE).await?, [], "{way:?}");
                ensure!(
                    stage.seen_of(&login.client_id)?.is_empty(),
                    "{way:?}: the broker saw the CONNECT"
                );
            }
            // Allowed at CONNECT, revoked before the socket dies.
            stage.grant(&topic, key.address(), Right::Publish).await?;
            stage.caught_up().await?;
            let mut clients = Vec::new();
            for n in 0..2 {
                let login = stage.site.token(key, &format!("will-late-{n}-{}", way.word()))?;
                let connect = Connect {
                    will: will("wills/x", &format!("{n} {}", way.word())),
                    ..Connect::of(way.version, &login)
                };
                clients.push(stage.session_of(way, &connect).await?);
            }
            drop(clients.remove(0));
            spy.until(PATIENCE, |heard| heard.payload == format!("0 {}", way.word()).as_bytes())
                .await?;
            stage.revoke(&topic, key.address(), Right::Publish).await?;
            stage.caught_up().await?;
            drop(clients);
            let gone = format!("will-late-1-{}", way.word());
            let said_goodbye = |_: &flytrap_site::Recorder| {
                stage.seen_of(&gone).is_ok_and(|seen| {
                    seen.iter().any(|seen| matches!(seen.packet, Packet::Other { kind: 14, .. }))
                })
            };
            stage.site.recorder()?.until(PATIENCE, said_goodbye).await?;
        }
        stage.direct(V311, "").await?.publish(&Publish::new("wills/mark", b"mark")).await?;
        spy.until(PATIENCE, |heard| heard.payload == b"mark").await?;
        let fired: Vec<_> = spy
            .heard()
            .into_iter()
            .filter(|heard| heard.topic == "wills/x" || heard.payload == b"refused")
            .collect();
        assert_eq!(fired.len(), Way::ALL.len(), "the allowed wills and no other: {fired:?}");
        ensure!(
            fired.iter().all(|will| will.payload.starts_with(b"0 ")),
            "a will fired after its right had ended: {fired:?}"
        );
        Ok(())
    })
}

/// The broker fires wills by itself, at the latest when the gateway is gone and nobody can be asked any more.
#[test]
fn a_will_whose_right_has_ended_does_not_fire_even_if_the_gateway_is_killed() -> Result<()> {
    run(async {
        let mut stage = Stage::open_and_closed().await?;
        let spy = stage.site.spy("#").await?;
        let wallet = stage.site.wallets.publisher.address();
        let topic = stage.topic("revoked").await?;
        stage.grant(&topic, wallet, Right::Publish).await?;
        stage.caught_up().await?;
        let mut clients = Vec::new();
        for way in Way::ALL {
            for name in ["revoked/will", "open/will"] {
                let id = format!("{}-{}", &name[..4], way.word());
                let (payload, topic) = (way.word().into_bytes(), name.to_owned());
                let will = Some(Will { topic, payload, qos: 1, retain: false });
                let connect = Connect { will, ..Connect::of(way.version, &stage.publisher(&id)?) };
                clients.push(stage.session_of(way, &connect).await?);
            }
        }
        stage.revoke(&topic, wallet, Right::Publish).await?;
        stage.caught_up().await?;
        // Each session has seen the new state once it has answered, or ended because of it.
        for client in &mut clients {
            let _ = client.ping().await;
        }
        stage.site.gateway_mut()?.child.kill();
        for way in Way::ALL {
            let fired = |heard: &flytrap_site::Publish| {
                heard.topic == "open/will" && heard.payload == way.word().as_bytes()
            };
            spy.until(PATIENCE, fired).await?;
        }
        ensure!(!spy.heard_on("revoked/will"), "it fired: {:?}", spy.heard());
        Ok(())
    })
}

/// W16 and THREATS A15: a stage of its own, where every connection to the broker can be counted.
#[test]
fn before_a_proof_the_broker_sees_not_one_octet() -> Result<()> {
    run(async {
        let stage =
            Stage::configured("[broker]\nprobe_interval = \"1h\"\n[limits]\nfailures = 1000")
                .await?;
        let (before, _) = stage.site.recorder()?.connections();
        let octets_before = stage.site.recorder()?.octets_from_gateway().len();
        let mut cases = 0;
        for way in Way::ALL {
            let version = way.version;
            let first = [
                PINGREQ.to_vec(),
                Publish::new("open/x", b"x").octets(version),
                Publish::new("open/x", b"x").qos(1, 1).octets(version),
                subscribe(version, 1, &[("open/#", 0)]),
                unsubscribe(version, 1, &["open/#"]),
                acknowledge(0x40, 1),
                packet(0x20, &[0, 0]),
                packet(0xf0, &[]),
                packet(0x00, &[]),
                vec![0xe0, 0],
                vec![0xff; 64],
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
                // A CONNECT longer than anything may be before a proof, of which only the header has come.
                vec![0x10, 0xff, 0xff, 0x7f],
                // A fifth octet of length.
                vec![0x10, 0xff, 0xff, 0xff, 0xff, 0x01],
            ];
            for octets in first {
                let mut client = stage.dial(way).await?;
                client.send(&octets).await?;
                assert_eq!(client.ended(PATIENCE).await?, [], "{way:?}: {octets:02x?}");
                cases += 1;
            }
            // A wrong proof with everything else behind it in one segment.
            let mut all = Connect::of(version, &stage.wrong_proof("one-segment")?).octets(version);
            all.extend(subscribe(version, 1, &[("open/#", 0)]));
            all.extend(Publish::new("open/x", b"x").octets(version));
            let mut client = stage.dial(way).await?;
            client.send(all).await?;
            let ended = client.ended(PATIENCE).await?;
            ensure!(
                matches!(ended.as_slice(), [Got::ConnAck { code: 0x86 | 4, .. }]),
                "{way:?}: {ended:?}"
            );
            cases += 1;
        }
        assert_eq!(cases, 60);
        assert_eq!(stage.site.recorder()?.connections().0, before, "connections to the broker");
        assert_eq!(
            stage.site.recorder()?.octets_from_gateway().len(),
            octets_before,
            "octets to the broker"
        );
        Ok(())
    })
}

/// W17.
#[test]
fn a_second_connect_ends_the_session_and_changes_nobodys_identity() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for way in Way::ALL {
            let id = format!("second-{}", way.word());
            let mut client = stage.session(way, &stage.stranger(&id)?).await?;
            client
                .send(Connect::of(way.version, &stage.publisher("other-name")?).octets(way.version))
                .await?;
            let ended = client.ended(PATIENCE).await?;
            match way.version {
                V5 => ensure!(
                    matches!(ended.as_slice(), [Got::Disconnect { code: 0x82, .. }]),
                    "{ended:?}"
                ),
                _ => assert_eq!(ended, []),
            }
            let connects = stage
                .seen_of(&id)?
                .into_iter()
                .filter(|seen| matches!(seen.packet, Packet::Connect(_)))
                .count();
            assert_eq!(connects, 1, "{way:?}");
            ensure!(
                stage.seen_of("other-name")?.is_empty(),
                "{way:?}: the broker saw the second CONNECT"
            );
        }
        Ok(())
    })
}

/// W18, W26.
#[test]
fn the_broker_sees_the_wallet_in_the_client_id_and_no_proof_of_any_kind() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let device =
            stage.device(stage.site.wallets.spare[0].address(), 77, "with a space", FAR).await?;
        stage.caught_up().await?;
        for (n, version) in EVERY_VERSION.into_iter().enumerate() {
            for login in [stage.stranger(&format!("w18-{n}"))?, device.login.clone()] {
                let mut client = stage.session(Way::tls(version), &login).await?;
                client.ping().await?;
                let wallet = if login.client_id.starts_with("w18") {
                    stage.site.wallets.stranger.address()
                } else {
                    stage.site.wallets.spare[0].address()
                };
                let wanted = format!("{}-{}", hex::encode(wallet), login.client_id);
                let connects = stage.site.recorder()?.connects();
                let found: Vec<_> = connects
                    .iter()
                    .filter(|connect| {
                        connect.client_id == wanted && connect.level == version.level()
                    })
                    .collect();
                let [connect] = found.as_slice() else {
                    bail!("{version:?}: wanted one CONNECT of {wanted}, saw {connects:?}")
                };
                assert_eq!((&connect.user_name, &connect.password), (&None, &None), "{version:?}");
                // 3.1 knows no client ids beyond 23 octets, and the broker takes longer ones; what matters is what must not be there.
                for secret in [
                    login.password.as_bytes(),
                    login.user_name.as_bytes(),
                    login.user_name.to_lowercase().as_bytes(),
                ] {
                    ensure!(
                        !stage.site.recorder()?.saw_octets(secret),
                        "{version:?}: a credential went to the broker"
                    );
                }
            }
        }
        Ok(())
    })
}

/// W26, THREATS A17 and A18.
#[test]
fn another_wallet_with_the_same_client_id_takes_nothing_over() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for way in Way::ALL {
            for clean in [true, false] {
                let id = format!("shared-{}-{clean}", way.word());
                let mut first = stage.session(way, &stage.stranger(&id)?).await?;
                let connect = Connect { clean, ..Connect::of(way.version, &stage.publisher(&id)?) };
                let mut second = stage.dial(way).await?;
                let Got::ConnAck { code: 0, present: false, .. } = second.connack(&connect).await?
                else {
                    bail!("{way:?}: no session of her own")
                };
                assert_eq!(first.ping().await?, [], "{way:?}: the first stays connected");
                assert_eq!(second.ping().await?, []);
                // The same wallet does take over its own session.
                let _third = stage.session(way, &stage.stranger(&id)?).await?;
                let ended = first.ended(PATIENCE).await?;
                // Mosquitto 2.0 just closes, other brokers say why.
                ensure!(
                    matches!(ended.as_slice(), [] | [Got::Disconnect { code: 0x8e, .. }]),
                    "{ended:?}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_client_without_an_id_gets_one_of_its_own_and_one_of_5_is_told_which() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for version in [V311, V5] {
            let mut names = Vec::new();
            for _ in 0..2 {
                let mut client = stage.dial(Way::plain(version)).await?;
                let Got::ConnAck { code: 0, assigned, .. } =
                    client.connack(&Connect::of(version, &stage.stranger("")?)).await?
                else {
                    bail!("refused")
                };
                client.ping().await?;
                assert_eq!(assigned.is_some(), version == V5);
                ensure!(
                    assigned
                        .as_ref()
                        .is_none_or(|name| !name
                            .contains(&hex::encode(stage.site.wallets.stranger.address()))),
                    "the broker's name for it leaked"
                );
                names.push(assigned);
            }
            ensure!(version != V5 || names[0] != names[1], "two clients of one name");
        }
        Ok(())
    })
}

/// W19.
#[test]
fn an_unknown_version_is_refused_in_its_own_way() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let good = Connect::of(V311, &stage.stranger("versions")?).octets(V311);
        let at = good
            .iter()
            .position(|octet| *octet == 4 && good.starts_with(b"\x10"))
            .map_or(0, |_| 9 + usize::from(good[1] >= 0x80) - 1);
        for level in [0, 1, 2, 6, 0x84, 255] {
            let mut octets = good.clone();
            assert_eq!(octets[at], 4, "the level is where it is looked for");
            octets[at] = level;
            let mut client = stage.dial(Way::plain(V311)).await?;
            client.send(octets).await?;
            let answer = client.next(PATIENCE).await?;
            if level > 5 {
                // Whoever speaks a later version reads the CONNACK of 5.
                ensure!(
                    matches!(answer.as_deref(), Some([0x20, 3, 0, 0x84, 0] | [0x20, 2, 0, 1])),
                    "level {level}: {answer:02x?}"
                );
            } else {
                ensure!(
                    matches!(answer.as_deref(), None | Some([0x20, 2, 0, 1])),
                    "level {level}: {answer:02x?}"
                );
            }
        }
        let mut octets = good;
        octets[at - 1] = b'X';
        let mut client = stage.dial(Way::plain(V311)).await?;
        client.send(octets).await?;
        ensure!(
            client.next(PATIENCE).await?.is_none_or(|answer| answer[3] != 0),
            "another protocol's name was accepted"
        );
        Ok(())
    })
}

/// W25.
#[test]
fn a_refused_connect_is_answered_and_closed_within_a_tenth_of_a_second() -> Result<()> {
    run(async {
        let stage = Stage::configured("[limits]\nfailures = 1000").await?;
        for way in Way::ALL {
            // The quickest: a machine that stalls now and then is not the gateway's doing, a pause before the answer would be in each.
            let mut quickest = Duration::MAX;
            for _ in 0..5 {
                let mut client = stage.dial(way).await?;
                let began = Instant::now();
                let code =
                    client.connect(&Connect::of(way.version, &stage.wrong_proof("slow")?)).await?;
                assert_eq!(code, if way.version == V5 { 0x86 } else { 4 });
                assert_eq!(client.ended(PATIENCE).await?, []);
                quickest = quickest.min(began.elapsed());
            }
            ensure!(quickest < Duration::from_millis(100), "{way:?}: {quickest:?}");
        }
        Ok(())
    })
}

/// THREATS D02: the deadline counts from accept, however slowly octets come.
#[test]
fn a_connection_without_a_connect_ends_at_the_deadline_even_if_octets_trickle_in() -> Result<()> {
    run(async {
        let stage = Stage::configured("[limits]\nconnect_deadline = \"1s\"").await?;
        for tls in [false, true] {
            let mut silent = stage.dial(Way { version: V311, tls }).await?;
            let mut slow = stage.dial(Way { version: V311, tls }).await?;
            let began = Instant::now();
            let octets = Connect::of(V311, &stage.stranger("slow")?).octets(V311);
            let trickle = tokio::spawn(async move {
                for octet in octets {
                    if slow.send([octet]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                slow.ended(PATIENCE).await
            });
            assert_eq!(silent.ended(PATIENCE).await?, []);
            let after = began.elapsed();
            ensure!(after < Duration::from_secs(3), "a silent one ended after {after:?}");
            assert_eq!(trickle.await??, []);
        }
        Ok(())
    })
}
