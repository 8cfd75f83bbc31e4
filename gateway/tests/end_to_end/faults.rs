//! Each thing the gateway leans on, taken away: the node, the broker, the process itself, the newest blocks.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::process::{Process, set};
use crate::common::raw::{Connect, Got, Publish, Raw};
use crate::common::relay::Relay;
use crate::common::{PATIENCE, PUBLIC, RETAIN, Right, Stage, V5, V311, Way, http, run, until};
use eyre::{Result, bail, ensure, eyre};
use serde_json::json;
use toml::Value;

fn unavailable(version: crate::common::Version) -> u8 {
    if version == V5 { 0x88 } else { 3 }
}

async fn open() -> Result<Stage> {
    open_with("").await
}

async fn open_with(config: &str) -> Result<Stage> {
    let stage = Stage::configured(config).await?;
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.caught_up().await?;
    Ok(stage)
}

/// A gateway of its own whose node is behind a relay that a test can shut.
async fn behind_a_relay(
    stage: &Stage,
    name: &str,
    open: bool,
    more: impl FnOnce(&mut toml::Table),
) -> Result<(Relay, Process)> {
    let relay = Relay::start(([127, 0, 0, 1], stage.site.chain.port()).into(), open).await?;
    let url = format!("http://{}", relay.address());
    let gateway = stage.spawn_gateway(name, |table| {
        set(table, "chain", "urls", Value::Array(vec![url.into()]));
        more(table);
    })?;
    Ok((relay, gateway))
}

/// THREATS A22, E01, and I22.
#[test]
fn without_a_node_at_start_the_gateway_waits_refuses_and_says_so_and_serves_when_it_comes()
-> Result<()> {
    run(async {
        let stage = open().await?;
        let (relay, mut gateway) = behind_a_relay(&stage, "no-node", false, |_| ()).await?;
        let (mqtt, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
        let (status, body) = http::get(health, "/readyz").await?;
        assert_eq!(status, 503, "{body}");
        ensure!(body.contains("no node has answered"), "{body}");
        assert_eq!(http::get(health, "/healthz").await?.0, 200, "it lives");
        for version in [V311, V5] {
            // Ten wrong proofs too: while nothing can be decided nobody is to blame.
            for n in 0..10 {
                let code = Raw::plain(version, mqtt)
                    .await?
                    .connect(&Connect::of(version, &stage.wrong_proof(&format!("{n}"))?))
                    .await?;
                assert_eq!(code, unavailable(version));
            }
            let code = Raw::plain(version, mqtt)
                .await?
                .connect(&Connect::of(version, &stage.stranger("early")?))
                .await?;
            assert_eq!(code, unavailable(version));
        }
        until("another try", || async { Ok((relay.connections() > 1).then_some(())) }).await?;
        relay.open();
        until("readiness", || async {
            Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
        })
        .await?;
        for version in [V311, V5] {
            assert_eq!(
                Raw::plain(version, mqtt)
                    .await?
                    .connect(&Connect::of(version, &stage.stranger("late")?))
                    .await?,
                0
            );
        }
        ensure!(
            !stage
                .site
                .recorder()?
                .connects()
                .iter()
                .any(|connect| connect.client_id.ends_with("-early")),
            "the broker saw a client too early"
        );
        Ok(())
    })
}

/// THREATS E02.
#[test]
fn without_a_node_in_the_middle_sessions_go_on_until_stale_then_new_ones_are_refused_then_all_stand_still()
-> Result<()> {
    run(async {
        let stage = open().await?;
        let (relay, mut gateway) = behind_a_relay(&stage, "lost-node", true, |table| {
            set(table, "chain", "stale_after", "2s");
            set(table, "chain", "distrust_after", "5s");
        })
        .await?;
        let (mqtt, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
        until("readiness", || async {
            Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
        })
        .await?;
        let connect = |version, id: &str| -> Result<Connect> {
            Ok(Connect::of(version, &stage.stranger(id)?))
        };
        let (mut old, mut five) = (Raw::plain(V311, mqtt).await?, Raw::plain(V5, mqtt).await?);
        assert_eq!(old.connect(&connect(V311, "old")?).await?, 0);
        assert_eq!(five.connect(&connect(V5, "five")?).await?, 0);
        assert_eq!(old.subscribe(&[("open/#", 1)]).await?, [1]);
        let spy = stage.site.spy("open/#").await?;

        let away = Instant::now();
        relay.shut();
        // Fresh enough: nothing changes.
        assert_eq!(
            Raw::plain(V311, mqtt).await?.connect(&connect(V311, "still")?).await?,
            0,
            "{:?} after",
            away.elapsed()
        );
        until("staleness", || async {
            Ok((http::get(health, "/readyz").await?.0 == 503).then_some(()))
        })
        .await?;
        ensure!(away.elapsed() >= Duration::from_millis(1_800), "stale after {:?}", away.elapsed());
        // Stale: no new sessions, the old ones publish and receive.
        for version in [V311, V5] {
            assert_eq!(
                Raw::plain(version, mqtt).await?.connect(&connect(version, "new")?).await?,
                unavailable(version)
            );
        }
        five.publish(&Publish::new("open/a", b"while stale").qos(1, 1)).await?;
        let Got::Ack { code: 0, .. } = five.get().await? else {
            bail!("not forwarded while stale")
        };
        assert_eq!(old.delivery().await?.payload, b"while stale");
        ensure!(away.elapsed() < Duration::from_secs(5), "too slow to tell stale from distrusted");

        // Distrusted: nothing is published or delivered.
        tokio::time::sleep_until((away + Duration::from_millis(5_200)).into()).await;
        // The broker's own QoS 0 octets towards a session make it look.
        let mut broker = stage.direct(V311, "").await?;
        broker.publish(&Publish::new("open/a", b"distrusted")).await?;
        let _ = five.publish(&Publish::new("open/a", b"not now").qos(1, 2)).await;
        for got in old.ended(PATIENCE).await? {
            ensure!(!matches!(got, Got::Publish(_)), "delivered while distrusted: {got:?}");
        }
        let ended = five.ended(PATIENCE).await?;
        ensure!(
            matches!(ended.last(), Some(Got::Disconnect { code: 0x83 | 0x88, .. })),
            "{ended:?}"
        );
        broker.publish(&Publish::new("open/a", b"mark")).await?;
        spy.until(PATIENCE, |heard| heard.payload == b"mark").await?;
        ensure!(
            !spy.heard().iter().any(|heard| heard.payload == b"not now"),
            "published while distrusted"
        );

        let back = Instant::now();
        relay.open();
        until("readiness again", || async {
            Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
        })
        .await?;
        ensure!(back.elapsed() < Duration::from_secs(8), "{:?}", back.elapsed());
        assert_eq!(Raw::plain(V5, mqtt).await?.connect(&connect(V5, "again")?).await?, 0);
        Ok(())
    })
}

/// A node that hangs is as bad as one that is gone, and no packet waits for it (THREATS E20).
#[test]
fn a_node_that_hangs_holds_up_no_packet() -> Result<()> {
    run(async {
        let stage = open().await?;
        let mut client = stage.session(Way::plain(V5), &stage.stranger("unmoved")?).await?;
        stage.site.chain.child.freeze();
        let began = Instant::now();
        for id in 1..=100 {
            client.publish(&Publish::new("open/x", b"x").qos(1, id)).await?;
            let Got::Ack { .. } = client.get().await? else { bail!("no PUBACK") };
        }
        let mut other = stage.session(Way::plain(V5), &stage.stranger("beside")?).await?;
        assert_eq!(other.subscribe(&[("open/x", 0)]).await?, [0]);
        let took = began.elapsed();
        stage.site.chain.child.thaw();
        ensure!(took < Duration::from_secs(2), "{took:?}");
        Ok(())
    })
}

#[test]
fn without_a_broker_at_start_the_gateway_waits_and_says_so_and_serves_when_it_comes() -> Result<()>
{
    run(async {
        let stage = open().await?;
        let relay = Relay::start(stage.site.broker.address(), false).await?;
        let address = relay.address().to_string();
        let mut gateway =
            stage.spawn_gateway("no-broker", |table| set(table, "broker", "address", address))?;
        let (mqtt, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
        let body = until("readiness to name the broker", || async {
            let (status, body) = http::get(health, "/readyz").await?;
            ensure!(status == 503, "{body}");
            Ok((body.contains("fresh at") && !body.contains("not asked yet")).then_some(body))
        })
        .await?;
        ensure!(body.contains("broker"), "{body}");
        for version in [V311, V5] {
            let began = Instant::now();
            let code = Raw::plain(version, mqtt)
                .await?
                .connect(&Connect::of(version, &stage.stranger("early")?))
                .await?;
            ensure!(code == unavailable(version), "{code:#04x}");
            ensure!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        }
        relay.open();
        until("readiness", || async {
            Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
        })
        .await?;
        for version in [V311, V5] {
            assert_eq!(
                Raw::plain(version, mqtt)
                    .await?
                    .connect(&Connect::of(version, &stage.stranger("late")?))
                    .await?,
                0
            );
        }
        Ok(())
    })
}

/// THREATS F07.
#[test]
fn a_broker_that_dies_ends_its_sessions_within_two_seconds_and_one_that_returns_is_used_within_five()
-> Result<()> {
    run(async {
        let mut stage = open().await?;
        let (mut old, mut five) = (
            stage.session(Way::plain(V311), &stage.stranger("old")?).await?,
            stage.session(Way::tls(V5), &stage.stranger("five")?).await?,
        );
        let address = stage.site.broker.address();
        let died = Instant::now();
        stage.site.broker.child.kill();
        assert_eq!(old.ended(PATIENCE).await?, []);
        let ended = five.ended(PATIENCE).await?;
        ensure!(
            ended.is_empty()
                || matches!(ended.as_slice(), [Got::Disconnect { code: 0x80..=0x9f, .. }]),
            "{ended:?}"
        );
        ensure!(died.elapsed() < Duration::from_secs(2), "{:?}", died.elapsed());
        for version in [V311, V5] {
            let code = stage
                .dial(Way::plain(version))
                .await?
                .connect(&Connect::of(version, &stage.stranger("meanwhile")?))
                .await?;
            // The recorder takes the connection and finds nobody behind it. That it speaks MQTT 5 is known from before.
            ensure!(code == unavailable(version), "{code:#04x}");
        }
        until("readiness to be gone", || async {
            Ok((http::get(stage.site.gateway()?.health(), "/readyz").await?.0 == 503).then_some(()))
        })
        .await?;

        let conf = stage.site.dir().join("mosquitto.conf");
        let mut command =
            Command::new(flytrap_site::on_path("mosquitto").ok_or_else(|| eyre!("no mosquitto"))?);
        command.arg("-c").arg(conf);
        let _broker = stage.site.spawn("mosquitto-again", command)?;
        until("the broker to return", || async {
            Ok(tokio::net::TcpStream::connect(address).await.ok())
        })
        .await?;
        let back = Instant::now();
        for version in [V311, V5] {
            stage.session(Way::plain(version), &stage.stranger("again")?).await?;
        }
        ensure!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
        Ok(())
    })
}

/// W39, THREATS D08.
#[test]
fn a_broker_that_hangs_costs_new_clients_a_0x88_within_the_time_out_and_nobody_else_anything()
-> Result<()> {
    run(async {
        let stage = open_with("[broker]\nconnect_timeout = \"1s\"").await?;
        stage.site.recorder()?.hold();
        for version in [V311, V5] {
            let began = Instant::now();
            let (mut first, mut second) =
                (stage.dial(Way::plain(version)).await?, stage.dial(Way::plain(version)).await?);
            let (one, two) = (
                Connect::of(version, &stage.stranger("one")?),
                Connect::of(version, &stage.stranger("two")?),
            );
            let (one, two) = tokio::join!(first.connect(&one), second.connect(&two));
            assert_eq!((one?, two?), (unavailable(version), unavailable(version)));
            ensure!(began.elapsed() < Duration::from_millis(2_500), "{:?}", began.elapsed());
        }
        // Refusals need no broker and come at once.
        let began = Instant::now();
        assert_eq!(
            stage
                .dial(Way::plain(V311))
                .await?
                .connect(&Connect::of(V311, &stage.wrong_proof("wrong")?))
                .await?,
            4
        );
        ensure!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        stage.site.recorder()?.release();
        stage.session(Way::plain(V5), &stage.stranger("after")?).await?;
        Ok(())
    })
}

/// W41: the broker must learn of a client's end, so that its will fires.
#[test]
fn a_client_that_is_lost_is_lost_at_the_broker_within_a_second_and_its_will_fires() -> Result<()> {
    run(async {
        let stage = open().await?;
        let spy = stage.site.spy("open/#").await?;
        for way in Way::ALL {
            let will = crate::common::raw::Will {
                topic: "open/will".into(),
                payload: way.word().into_bytes(),
                qos: 0,
                retain: false,
            };
            let connect = Connect {
                will: Some(will),
                ..Connect::of(way.version, &stage.stranger(&way.word())?)
            };
            let client = stage.session_of(way, &connect).await?;
            drop(client);
            spy.until(Duration::from_secs(1), |heard| heard.payload == way.word().as_bytes())
                .await?;
        }
        // A proper goodbye lets none fire.
        let will = crate::common::raw::Will {
            topic: "open/will".into(),
            payload: b"no".to_vec(),
            qos: 0,
            retain: false,
        };
        let connect = Connect { will: Some(will), ..Connect::of(V311, &stage.stranger("polite")?) };
        let mut client = stage.session_of(Way::plain(V311), &connect).await?;
        client.send(crate::common::raw::DISCONNECT).await?;
        client.ended(PATIENCE).await?;
        stage.direct(V311, "").await?.publish(&Publish::new("open/mark", b"mark")).await?;
        spy.until(PATIENCE, |heard| heard.payload == b"mark").await?;
        ensure!(
            !spy.heard().iter().any(|heard| heard.payload == b"no"),
            "a will fired after a goodbye"
        );
        Ok(())
    })
}

/// THREATS F05.
#[test]
fn sigterm_tells_clients_of_5_and_ends_with_0_within_ten_seconds_also_under_load() -> Result<()> {
    run(async {
        let mut stage = open().await?;
        let mut sessions = Vec::new();
        for way in Way::ALL {
            for n in 0..5 {
                sessions.push(
                    stage
                        .session(way, &stage.stranger(&format!("stop-{n}-{}", way.word()))?)
                        .await?,
                );
            }
        }
        let mut busy = stage.session(Way::plain(V5), &stage.stranger("busy")?).await?;
        let load = tokio::spawn(async move {
            let mut sent = 0_u32;
            while busy.publish(&Publish::new("open/load", &[b'x'; 5_000])).await.is_ok() {
                sent += 1;
                tokio::task::yield_now().await;
            }
            sent
        });
        // A connection that says nothing, and one that takes nothing of what is published, must not hold it up.
        let silent = stage.dial(Way::plain(V311)).await?;
        let mut deaf = stage.session(Way::plain(V5), &stage.stranger("deaf")?).await?;
        assert_eq!(deaf.subscribe(&[("open/load", 0)]).await?, [0]);
        let mqtt = stage.site.mqtt()?;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let began = Instant::now();
        let status = stage.site.gateway_mut()?.child.stop(Duration::from_secs(10)).await?;
        ensure!(status.code() == Some(0), "{status}");
        eprintln!("stopped in {:?}", began.elapsed());
        for session in &mut sessions {
            let (version, ended) = (session.version, session.ended(PATIENCE).await?);
            match version {
                V5 => ensure!(
                    matches!(ended.as_slice(), [Got::Disconnect { code: 0x8b, .. }]),
                    "{ended:?}"
                ),
                _ => assert_eq!(ended, []),
            }
        }
        ensure!(load.await? > 0, "there was no load");
        ensure!(Raw::plain(V311, mqtt).await.is_err(), "it still listens");
        drop((silent, deaf));
        Ok(())
    })
}

fn json_files(dir: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        // Before it has its name it is not on disk.
        if path.extension().is_some_and(|extension| extension == "json") {
            found.push(
                String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned(),
            );
        }
    }
}

async fn six_failures(stage: &Stage, from: &str, mqtt: std::net::SocketAddr) -> Result<()> {
    for n in 0..6 {
        let wrong = Connect::of(V311, &stage.wrong_proof(&format!("bad-{n}"))?);
        let code = Raw::plain_from(V311, from.parse()?, mqtt).await?.connect(&wrong).await?;
        assert_eq!(code, 4);
    }
    Ok(())
}

/// THREATS F01. The two moments that matter: noted and not sent, sent and not mined.
#[test]
fn a_ban_that_was_on_its_way_when_the_gateway_was_killed_is_on_chain_exactly_once_after_its_return()
-> Result<()> {
    run(async {
        for sent in [false, true] {
            let mut stage = open().await?;
            // Only one process may use the key, so the site's own gateway goes.
            stage.site.gateway_mut()?.child.kill();
            let (relay, mut gateway) = behind_a_relay(&stage, "killed", true, |_| ()).await?;
            let (mqtt, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
            until("readiness", || async {
                Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
            })
            .await?;
            let key = stage.site.wallets.gateway.address();
            let count = async |block: &str| {
                stage.site.chain.call("eth_getTransactionCount", json!([key, block])).await
            };
            if sent {
                stage.site.chain.automine(false).await?;
            } else {
                relay.shut();
            }
            six_failures(&stage, "127.0.0.1", mqtt).await?;
            let intents = gateway.state.join("submitter/intents");
            until("the intent on disk", || async {
                let mut found = Vec::new();
                json_files(&intents, &mut found);
                let is_ban = |text: &String| text.contains("bans") && text.contains("origin");
                Ok(found.iter().any(is_ban).then_some(()))
            })
            .await?;
            if sent {
                until("the transaction in the pool", || async {
                    Ok((count("pending").await? != count("latest").await?).then_some(()))
                })
                .await?;
            }
            gateway.child.kill();
            assert_eq!(stage.origin_bans().await?.len(), 0, "sent {sent}: nothing is on chain yet");
            relay.open();
            gateway.child = stage.launch("killed-again", &gateway.config)?;
            let (mqtt, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
            until("readiness", || async {
                Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
            })
            .await?;
            if sent {
                // Two intervals before the block comes: every chance to send another transaction for the same ban.
                tokio::time::sleep(Duration::from_secs(2)).await;
                stage.site.chain.automine(true).await?;
                stage.site.chain.mine(1).await?;
            }
            until("the ban on chain", || async {
                Ok((!stage.origin_bans().await?.is_empty()).then_some(()))
            })
            .await?;
            // A second ban behind it in the same queue: once that is on chain, a second record of the first would be as well.
            six_failures(&stage, "127.0.0.9", mqtt).await?;
            let bans = until("the second ban", || async {
                Ok(Some(stage.origin_bans().await?).filter(|bans| bans.len() >= 2))
            })
            .await?;
            ensure!(
                bans.len() == 2 && bans[0].topics[2] != bans[1].topics[2],
                "sent {sent}: {bans:?}"
            );
        }
        Ok(())
    })
}

/// FR2: three blocks with a grant and a revocation are replaced by others without them.
#[test]
fn after_a_reorganisation_decisions_are_those_of_a_fresh_replay() -> Result<()> {
    run(async {
        // Without the gateway's own transactions, which would be among the last three blocks.
        let stage = open_with("[audit]\ninterval = \"1h\"").await?;
        let (reader, other) =
            (stage.site.wallets.reader.address(), stage.site.wallets.other_reader.address());
        let topic = stage.topic("fork").await?;
        stage.grant(&topic, reader, Right::Subscribe).await?;
        stage.site.chain.mine(3).await?;
        stage.revoke(&topic, reader, Right::Subscribe).await?;
        stage.grant(&topic, other, Right::Subscribe).await?;
        stage.site.chain.mine(1).await?;
        stage.caught_up().await?;

        let ask = async |mqtt: std::net::SocketAddr| -> Result<(u8, u8)> {
            let mut codes = Vec::new();
            for key in [&stage.site.wallets.reader, &stage.site.wallets.other_reader] {
                let mut client = Raw::plain(V311, mqtt).await?;
                assert_eq!(
                    client.connect(&Connect::of(V311, &stage.site.token(key, "fork")?)).await?,
                    0
                );
                codes.extend(client.subscribe(&[("fork", 0)]).await?);
            }
            Ok((codes[0], codes[1]))
        };
        let mqtt = stage.site.mqtt()?;
        assert_eq!(ask(mqtt).await?, (0x80, 0), "before: revoked, granted");
        stage.site.chain.reorganise(3).await?;
        stage.site.chain.mine(1).await?;
        // The orphaned grant is gone, the orphaned revocation undone once the new blocks have been read.
        until("the new branch to be followed", || async {
            Ok((ask(mqtt).await? == (0, 0x80)).then_some(()))
        })
        .await?;
        let health = stage.site.gateway()?.health();
        ensure!(
            http::metric(health, "flytrap_mirror_reorgs_total").await? >= 1.0,
            "no reorganisation was counted"
        );

        let mut fresh = stage.spawn_gateway("fresh", |_| ())?;
        let (fresh_mqtt, fresh_health) = (fresh.listener("mqtt").await?, fresh.health().await?);
        until("the fresh one", || async {
            Ok((http::get(fresh_health, "/readyz").await?.0 == 200).then_some(()))
        })
        .await?;
        assert_eq!(ask(fresh_mqtt).await?, (0, 0x80), "a fresh replay says the same");

        // And the chain goes on: a revocation on the new branch holds.
        stage.revoke(&topic, reader, Right::Subscribe).await?;
        stage.caught_up().await?;
        assert_eq!(ask(mqtt).await?, (0x80, 0x80));
        Ok(())
    })
}
