//! What ends a right ends it on the live session: the very next message is withheld (W11, W12, W15, W34).
//!
//! Times are measured from the moment the block is visible at the node to what the recorder saw.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::common::raw::{Connect, Got, Publish, Raw, acknowledge, property};
use crate::common::{
    BOUND, FAR, PATIENCE, PUBLIC, RETAIN, Right, Stage, V5, V311, Version, Way, run,
};
use eyre::{Result, ensure, eyre};
use flytrap_site::{Direction, Packet, SiteOptions, unix_now};
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(Stage::new).await
}

/// When the broker was told that `filter` is not wanted any more.
fn unsubscribed_at(stage: &Stage, filter: &str) -> Result<Vec<Instant>> {
    let of = |packet: &Packet| matches!(packet, Packet::Unsubscribe { filters, .. } if filters.iter().any(|seen| seen == filter));
    let seen = stage.site.recorder()?.seen();
    Ok(seen
        .iter()
        .filter(|seen| seen.direction == Direction::ToBroker && of(&seen.packet))
        .map(|seen| seen.at)
        .collect())
}

fn closing(version: Version, ended: &[Got], code: u8) -> Result<()> {
    match (version, ended.last()) {
        (V5, Some(Got::Disconnect { code: found, reason: Some(_) })) if *found == code => Ok(()),
        (V5, other) => Err(eyre!("wanted DISCONNECT {code:#04x} with a reason, got {other:?}")),
        (_, None) => Ok(()),
        (_, other) => Err(eyre!("wanted a plain close, got {other:?}")),
    }
}

/// ACCEPTANCE W11. Nothing is waited for between the block and the message, so the pump itself must ask the newest state.
#[test]
fn after_a_revocation_the_very_next_message_is_withheld_and_the_broker_unsubscribed_within_the_bound()
-> Result<()> {
    run(async {
        let stage = stage().await?;
        let wallet = stage.site.wallets.reader.address();
        for way in Way::ALL {
            let name = format!("rev/{}", way.word());
            let other = format!("rev/other-{}", way.word());
            let (topic, keep) = (stage.topic(&name).await?, stage.topic(&other).await?);
            stage.grant(&topic, wallet, Right::Subscribe).await?;
            stage.grant(&keep, wallet, Right::Subscribe).await?;
            stage.caught_up().await?;
            // Two live sessions of the wallet; the second subscription keeps them open beyond the revocation.
            let mut readers = Vec::new();
            for n in 0..2 {
                let mut reader =
                    stage.session(way, &stage.reader(&format!("rev-{}-{n}", way.word()))?).await?;
                assert_eq!(reader.subscribe(&[(&name, 1), (&other, 0)]).await?, [1, 0]);
                readers.push(reader);
            }
            let mut broker = stage.direct(V5, "").await?;
            broker.publish(&Publish::new(&name, b"before").qos(1, 1)).await?;
            for reader in &mut readers {
                let delivery = reader.delivery().await?;
                assert_eq!(delivery.payload, b"before");
                reader.send(acknowledge(0x40, delivery.id)).await?;
            }

            let revoked = stage.revoke(&topic, wallet, Right::Subscribe).await?;
            stage
                .site
                .recorder()?
                .until(PATIENCE, |_| unsubscribed_at(stage, &name).is_ok_and(|at| at.len() >= 2))
                .await?;
            let last =
                unsubscribed_at(stage, &name)?.into_iter().max().ok_or_else(|| eyre!("never"))?;
            let took = last.saturating_duration_since(revoked.seen);
            eprintln!("{way:?}: unsubscribed {took:?} after the block was visible");
            ensure!(took < BOUND, "{way:?}: {took:?}, wanted {BOUND:?}");

            broker.publish(&Publish::new(&name, b"after").qos(1, 2)).await?;
            broker.publish(&Publish::new(&other, b"marker")).await?;
            for reader in &mut readers {
                let delivery = reader.delivery().await?;
                assert_eq!(
                    delivery.payload, b"marker",
                    "{way:?}: something came after the revocation"
                );
                let no = if way.version == V5 { 0x87 } else { 0x80 };
                assert_eq!(
                    reader.subscribe(&[(&name, 1)]).await?,
                    [no],
                    "{way:?}: W12, the old session"
                );
            }
            let mut fresh =
                stage.session(way, &stage.reader(&format!("rev-{}-new", way.word()))?).await?;
            let no = if way.version == V5 { 0x87 } else { 0x80 };
            assert_eq!(fresh.subscribe(&[(&name, 1)]).await?, [no], "{way:?}: W12, a new session");
        }
        Ok(())
    })
}

/// The broker does not yet know of the revocation and delivers: only the gateway's look at each message keeps it from the client.
#[test]
fn a_message_that_the_broker_delivers_after_the_revocation_is_withheld_and_acknowledged_in_the_clients_stead()
-> Result<()> {
    run(async {
        // A stage whose recorder may be held, which would stop the others.
        let stage = Stage::new().await?;
        let wallet = stage.site.wallets.reader.address();
        for way in [Way::plain(V311), Way::plain(V5)] {
            for qos in 0..3_u8 {
                let name = format!("late/{}-{qos}", way.word());
                let other = format!("{name}-other");
                let (topic, keep) = (stage.topic(&name).await?, stage.topic(&other).await?);
                stage.grant(&topic, wallet, Right::Subscribe).await?;
                stage.grant(&keep, wallet, Right::Subscribe).await?;
                stage.caught_up().await?;
                let mut reader = stage
                    .session(way, &stage.reader(&format!("late-{}-{qos}", way.word()))?)
                    .await?;
                assert_eq!(reader.subscribe(&[(&name, qos), (&other, qos)]).await?, [qos, qos]);

                // Everything between broker and gateway stands still, while the right ends and a message is published.
                stage.site.recorder()?.hold();
                let mut broker = stage.direct(V5, "").await?;
                broker.publish_whole(&Publish::new(&name, b"too late").qos(qos, 1)).await?;
                stage.revoke(&topic, wallet, Right::Subscribe).await?;
                stage.caught_up().await?;
                broker.publish_whole(&Publish::new(&other, b"marker").qos(qos, 2)).await?;
                stage.site.recorder()?.release();

                let delivery = reader.delivery().await?;
                assert_eq!(
                    (delivery.topic, delivery.payload.as_slice()),
                    (other.clone(), &b"marker"[..]),
                    "{way:?}, QoS {qos}"
                );
                let tape = stage.site.recorder()?;
                tape.until(PATIENCE, |tape| {
                    tape.deliveries().iter().any(|seen| seen.topic == name)
                })
                .await?;
                // The broker gets its acknowledgement, so that its window does not fill up with what may not be delivered.
                let kinds: &[u8] = [&[][..], &[4], &[5, 7]][usize::from(qos)];
                for kind in kinds {
                    let wanted = |packet: &Packet| matches!(packet, Packet::Other { kind: seen, .. } if seen == kind);
                    tape.until(PATIENCE, |tape| tape.to_broker().iter().any(wanted)).await?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_publisher_whose_right_ended_is_refused_from_the_next_message_on() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let wallet = stage.site.wallets.publisher.address();
        let spy = stage.site.spy("revpub/#").await?;
        for way in Way::ALL {
            let name = format!("revpub/{}", way.word());
            let topic = stage.topic(&name).await?;
            stage.grant(&topic, wallet, Right::Publish).await?;
            stage.caught_up().await?;
            let mut publisher =
                stage.session(way, &stage.publisher(&format!("revpub-{}", way.word()))?).await?;
            publisher.publish(&Publish::new(&name, b"before").qos(1, 1)).await?;
            let Got::Ack { kind: 4, id: 1, code: 0 | 0x10, .. } = publisher.get().await? else {
                return Err(eyre!("no PUBACK"));
            };
            let ended = if way.tls {
                stage.block_wallet(&topic, wallet).await?
            } else {
                stage.revoke(&topic, wallet, Right::Publish).await?
            };
            let (mut after, mut code) = (Duration::ZERO, 0);
            while after < BOUND * 2 {
                after = ended.seen.elapsed();
                publisher
                    .publish(
                        &Publish::new(&name, after.as_millis().to_string().as_bytes()).qos(1, 2),
                    )
                    .await?;
                let Got::Ack { kind: 4, id: 2, code: found, .. } = publisher.get().await? else {
                    return Err(eyre!("no PUBACK"));
                };
                code = found;
            }
            assert_eq!(code, if way.version == V5 { 0x87 } else { 0 }, "{way:?}");
            // An allowed name behind it, so that the spy has heard whatever was let through.
            let mark = format!("revpub/mark-{}", way.word());
            stage.direct(V311, "").await?.publish(&Publish::new(&mark, b"")).await?;
            spy.until(PATIENCE, |heard| heard.topic == mark).await?;
            let passed = spy
                .heard()
                .into_iter()
                .filter(|heard| heard.topic == name && heard.payload != b"before");
            let latest = passed
                .filter_map(|heard| String::from_utf8_lossy(&heard.payload).parse::<u64>().ok())
                .max();
            ensure!(
                latest.is_none_or(|latest| u128::from(latest) < BOUND.as_millis()),
                "{way:?}: published {latest:?} ms after the block"
            );
        }
        Ok(())
    })
}

#[test]
fn a_revoked_device_key_ends_its_session_and_no_other() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let wallet = stage.site.wallets.spare[0].address();
        stage.topic_with("dev", RETAIN, PUBLIC, PUBLIC).await?;
        for (n, version) in [(1, V311), (2, V5)] {
            let way = Way::tls(version);
            let first = stage.device(wallet, n, &format!("dev-{n}"), FAR).await?;
            let second = stage.device(wallet, n + 10, &format!("dev-{n}-other"), FAR).await?;
            stage.caught_up().await?;
            let mut revoked = stage.session(way, &first.login).await?;
            let mut stays = stage.session(way, &second.login).await?;
            let mut owners = stage
                .session(way, &stage.site.token(&stage.site.wallets.spare[0], &format!("own-{n}"))?)
                .await?;
            let done = stage.revoke_device(wallet, first.address()).await?;
            closing(version, &revoked.ended(PATIENCE).await?, 0x87)?;
            ensure!(done.seen.elapsed() < BOUND, "{:?}", done.seen.elapsed());
            assert_eq!(stays.ping().await?, [], "another device of the wallet goes on");
            assert_eq!(owners.ping().await?, [], "the wallet itself goes on");
            let code = stage.dial(way).await?.connect(&Connect::of(version, &first.login)).await?;
            assert_eq!(code, if version == V5 { 0x86 } else { 4 }, "it cannot come back");
        }
        Ok(())
    })
}

#[test]
fn tokens_issued_before_a_moment_end_with_their_sessions_and_later_ones_do_not() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let wallets = &stage.site.wallets;
        for (n, version, key) in [(0, V311, &wallets.spare[1]), (1, V5, &wallets.stranger)] {
            let way = Way::plain(version);
            let now = unix_now();
            let old = flytrap_site::token_between(
                key,
                &stage.site.place(),
                &format!("old-{n}"),
                now - 100 + n,
                now + 3_600,
            )?;
            let new = flytrap_site::token_between(
                key,
                &stage.site.place(),
                &format!("new-{n}"),
                now - 50 + n,
                now + 3_600,
            )?;
            let (mut ends, mut stays) =
                (stage.session(way, &old).await?, stage.session(way, &new).await?);
            let done = stage.invalidate_before(key.address(), now - 50 + n).await?;
            closing(version, &ends.ended(PATIENCE).await?, 0x87)?;
            ensure!(done.seen.elapsed() < BOUND, "{:?}", done.seen.elapsed());
            assert_eq!(stays.ping().await?, [], "a token of that very second goes on");
            let code = stage.dial(way).await?.connect(&Connect::of(version, &old)).await?;
            assert_eq!(code, if version == V5 { 0x86 } else { 4 }, "an old token opens nothing");
        }
        Ok(())
    })
}

/// ACCEPTANCE W34.
#[test]
fn a_banned_wallet_is_disconnected_everywhere_and_refused_at_the_door_until_the_ban_is_lifted()
-> Result<()> {
    run(async {
        let stage = Stage::new().await?;
        let key = &stage.site.wallets.stranger;
        let ways = Way::ALL;
        let mut sessions = Vec::new();
        for way in ways {
            sessions.push(
                stage.session(way, &stage.site.token(key, &format!("ban-{}", way.word()))?).await?,
            );
        }
        let done = stage.ban_wallet(key.address(), FAR.min(unix_now() + 3_600)).await?;
        for session in &mut sessions {
            let version = session.version;
            closing(version, &session.ended(PATIENCE).await?, 0x98)?;
        }
        ensure!(done.seen.elapsed() < Duration::from_secs(1), "{:?}", done.seen.elapsed());
        for way in ways {
            let login = stage.site.token(key, &format!("back-{}", way.word()))?;
            let code = stage.dial(way).await?.connect(&Connect::of(way.version, &login)).await?;
            assert_eq!(code, if way.version == V5 { 0x8a } else { 5 }, "{way:?}");
        }
        ensure!(
            !stage.site.recorder()?.connects().iter().any(|seen| seen.client_id.contains("-back-")),
            "the broker saw a banned wallet"
        );
        stage.unban(false, crate::common::onchain::subject(key.address())).await?;
        stage.caught_up().await?;
        for way in ways {
            stage.session(way, &stage.site.token(key, &format!("again-{}", way.word()))?).await?;
        }
        Ok(())
    })
}

/// ACCEPTANCE W15: the broker kept messages for a persistent session; the right ended while the client was away.
#[test]
fn messages_queued_before_a_revocation_are_not_delivered_after_it_nor_are_retained_ones()
-> Result<()> {
    run(async {
        let stage = stage().await?;
        let wallet = stage.site.wallets.reader.address();
        for way in Way::ALL {
            let name = format!("queued/{}", way.word());
            let other = format!("queued/other-{}", way.word());
            let (topic, keep) = (stage.topic(&name).await?, stage.topic(&other).await?);
            stage.grant(&topic, wallet, Right::Subscribe).await?;
            stage.grant(&keep, wallet, Right::Subscribe).await?;
            stage.caught_up().await?;
            let login = stage.reader(&format!("queue-{}", way.word()))?;
            let properties =
                if way.version == V5 { property::session_expiry(600) } else { Vec::new() };
            let connect = Connect { clean: false, properties, ..Connect::of(way.version, &login) };
            let mut reader = stage.session_of(way, &connect).await?;
            assert_eq!(reader.subscribe(&[(&name, 1), (&other, 1)]).await?, [1, 1]);
            reader.send(crate::common::raw::DISCONNECT).await?;
            reader.ended(PATIENCE).await?;

            let mut broker = stage.direct(V5, "").await?;
            for n in 1..=5_u16 {
                broker.publish(&Publish::new(&name, b"queued").qos(1, n)).await?;
                let Got::Ack { code: 0, .. } = broker.get().await? else {
                    return Err(eyre!("the broker queued nothing"));
                };
            }
            broker.publish(&Publish::new(&name, b"retained").qos(1, 6).retained()).await?;
            broker.publish(&Publish::new(&other, b"marker").qos(1, 7)).await?;
            broker.ping().await?;
            stage.revoke(&topic, wallet, Right::Subscribe).await?;
            stage.caught_up().await?;

            let mut reader = stage.dial(way).await?;
            let Got::ConnAck { code: 0, present, .. } = reader.connack(&connect).await? else {
                return Err(eyre!("refused"));
            };
            ensure!(present, "the session was kept");
            let delivery = reader.delivery().await?;
            assert_eq!(
                delivery.payload, b"marker",
                "{way:?}: a queued message came after the revocation"
            );
            reader.send(acknowledge(0x40, delivery.id)).await?;
            // Acknowledged in her stead: the broker has nothing left for a third visit either.
            reader.send(crate::common::raw::DISCONNECT).await?;
            reader.ended(PATIENCE).await?;
            stage.grant(&topic, wallet, Right::Subscribe).await?;
            stage.caught_up().await?;
            let mut reader = stage.session_of(way, &connect).await?;
            assert_eq!(reader.ping().await?, [], "{way:?}: something was left in the queue");
        }
        Ok(())
    })
}

#[test]
fn a_grant_that_runs_out_stops_delivery_by_itself_within_a_second() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let wallet = stage.site.wallets.reader.address();
        for way in [Way::plain(V311), Way::tls(V5)] {
            let name = format!("short/{}", way.word());
            let topic = stage.topic(&name).await?;
            let until = unix_now() + 3;
            stage.grant_until(&topic, wallet, Right::Subscribe, until).await?;
            stage.caught_up().await?;
            let mut reader: Raw =
                stage.session(way, &stage.reader(&format!("short-{}", way.word()))?).await?;
            assert_eq!(reader.subscribe(&[(&name, 0)]).await?, [0]);
            // No block is made meanwhile: time alone ends the right.
            closing(way.version, &reader.ended(Duration::from_secs(6)).await?, 0x87)?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            let end = Duration::from_secs(until);
            ensure!(
                now >= end && now < end + Duration::from_secs(1),
                "{way:?}: ended at {now:?}, wanted {end:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_token_or_device_key_that_runs_out_ends_its_session_within_a_second() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let key = &stage.site.wallets.spare[0];
        for (n, version) in [(0, V311), (1, V5)] {
            let (way, end) = (Way::tls(version), unix_now() + 3);
            let place = stage.site.place();
            let id = format!("short-token-{n}");
            let token = flytrap_site::token_between(key, &place, &id, end - 60, end)?;
            let device =
                stage.device(key.address(), 50 + n, &format!("short-key-{n}"), end).await?;
            stage.caught_up().await?;
            let mut sessions =
                [stage.session(way, &token).await?, stage.session(way, &device.login).await?];
            for session in &mut sessions {
                closing(version, &session.ended(Duration::from_secs(6)).await?, 0x87)?;
                let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
                let end = Duration::from_secs(end);
                ensure!(
                    now >= end && now < end + Duration::from_secs(1),
                    "{now:?}, wanted {end:?}"
                );
            }
        }
        Ok(())
    })
}

/// DESIGN section 5: restrictions act at first sight, permissions when settled.
#[test]
fn with_confirmations_a_grant_waits_for_its_blocks_and_a_revocation_does_not() -> Result<()> {
    run(async {
        // Without the gateway's own transactions, whose blocks would confirm too.
        let stage =
            Stage::configured("[chain]\nconfirmations = 2\n[audit]\ninterval = \"1h\"").await?;
        let wallet = stage.site.wallets.reader.address();
        let topic = stage.topic("slow").await?;
        stage.site.chain.mine(2).await?;
        stage.grant(&topic, wallet, Right::Subscribe).await?;
        let mut reader = stage.session(Way::plain(V5), &stage.reader("slow")?).await?;
        for more in 0..2 {
            stage.caught_up().await?;
            assert_eq!(reader.subscribe(&[("slow", 0)]).await?, [0x87], "{more} blocks on top");
            stage.site.chain.mine(1).await?;
        }
        stage.caught_up().await?;
        assert_eq!(reader.subscribe(&[("slow", 0)]).await?, [0], "2 blocks on top");
        let done = stage.revoke(&topic, wallet, Right::Subscribe).await?;
        closing(V5, &reader.ended(PATIENCE).await?, 0x87)?;
        ensure!(done.seen.elapsed() < BOUND, "{:?}", done.seen.elapsed());
        Ok(())
    })
}

/// The default configuration, not the site's quicker one, has to keep the bound.
#[test]
fn the_bound_holds_with_the_default_poll_and_by_websocket() -> Result<()> {
    run(async {
        for websocket in [false, true] {
            let mut stage =
                Stage::with(SiteOptions { websocket, ..SiteOptions::default() }).await?;
            let gateway = stage.site.gateway_mut()?;
            let mut config: toml::Table = std::fs::read_to_string(&gateway.config)?.parse()?;
            let chain = config.get_mut("chain").and_then(toml::Value::as_table_mut);
            ensure!(
                chain.and_then(|chain| chain.remove("poll")).is_some(),
                "the site sets no poll any more"
            );
            std::fs::write(&gateway.config, config.to_string())?;
            gateway.restart().await?;
            let wallet = stage.site.wallets.reader.address();
            let mut worst = Duration::ZERO;
            for n in 0..5 {
                let name = format!("poll/{n}");
                let topic = stage.topic(&name).await?;
                stage.grant(&topic, wallet, Right::Subscribe).await?;
                stage.caught_up().await?;
                let mut reader = stage.session(Way::plain(V5), &stage.reader(&name)?).await?;
                assert_eq!(reader.subscribe(&[(&name, 0)]).await?, [0]);
                // Not in step with the gateway's timer.
                tokio::time::sleep(Duration::from_millis(37 * n)).await;
                let done = stage.revoke(&topic, wallet, Right::Subscribe).await?;
                reader.ended(PATIENCE).await?;
                worst = worst.max(done.seen.elapsed());
            }
            eprintln!("websocket {websocket}: at worst {worst:?}");
            ensure!(worst < BOUND, "websocket {websocket}: {worst:?}, wanted {BOUND:?}");
        }
        Ok(())
    })
}
