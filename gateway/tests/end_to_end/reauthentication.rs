//! A live session proves itself again (MQTT 5.0 section 4.12.1), and ends if it does not: ACCEPTANCE W24; THREATS A14.

use std::time::{Duration, Instant};

use crate::common::proofs::{METHOD, NAME, data_of, nonce_in, one_shot};
use crate::common::raw::{Got, Publish, Raw, auth, packet};
use crate::common::{FAR, PATIENCE, PUBLIC, RETAIN, Right, Stage, V5, Way, run, until};
use eyre::{Result, bail, ensure};
use flytrap_site::{Login, unix_now};
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    let start = || async {
        let stage = Stage::configured(&format!(
            "[gateway]\nname = \"{NAME}\"\n[broker]\nprobe_interval = \"1h\"\n[limits]\nfailures = 1000"
        ))
        .await?;
        stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
        stage.caught_up().await?;
        Ok(stage)
    };
    STAGE.get_or_try_init(start).await
}

const WAYS: [Way; 2] = [Way::plain(V5), Way::tls(V5)];

/// A token of the stranger's that ends in so many seconds.
fn living(stage: &Stage, client_id: &str, life: u64) -> Result<Login> {
    stage.site.token_of_life(&stage.site.wallets.stranger, client_id, life)
}

async fn renew(client: &mut Raw, data: &[u8]) -> Result<()> {
    client.send(auth(0x19, METHOD, Some(data))).await?;
    match client.get().await? {
        Got::Auth { code: 0, method: Some(method), .. } if method == METHOD => Ok(()),
        other => bail!("wanted AUTH 0x00, got {other:?}"),
    }
}

async fn past(second: u64) -> Result<()> {
    until("a token to end", || async move { Ok((unix_now() > second).then_some(())) }).await
}

#[test]
fn a_renewed_token_lets_a_session_outlive_the_one_that_opened_it() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for way in WAYS {
            let id = format!("outlives-{}", way.word());
            let (short, long) = (living(stage, &id, 4)?, living(stage, &id, 3_600)?);
            let end = unix_now() + 4;
            let mut client = stage.session_of(way, &one_shot(&short)).await?;
            let later = format!("open/later-{}", way.word());
            assert_eq!(client.subscribe(&[(&later, 1)]).await?, [1]);
            renew(&mut client, &data_of(&long)).await?;
            // The same session without a renewal, beside it.
            let other = format!("does-not-{}", way.word());
            let mut other = stage.session_of(way, &one_shot(&living(stage, &other, 4)?)).await?;
            assert_eq!(other.subscribe(&[(&later, 1)]).await?, [1]);
            past(end + 1).await?;
            let mut ended = other.ended(PATIENCE).await?;
            ensure!(matches!(ended.pop(), Some(Got::Disconnect { code: 0x87, .. })), "{ended:?}");
            client.publish(&Publish::new(&later, b"later").qos(1, 7)).await?;
            let (mut acknowledged, mut delivered) = (false, false);
            while !(acknowledged && delivered) {
                match client.get().await? {
                    Got::Ack { kind: 4, id: 7, code: 0 | 0x10, .. } => acknowledged = true,
                    Got::Publish(delivery) if delivery.payload == b"later" => delivered = true,
                    other => bail!("{other:?}"),
                }
            }
        }
        Ok(())
    })
}

/// "Replaces": also where it ends sooner.
#[test]
fn a_renewal_that_ends_sooner_ends_the_session_sooner() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let (long, short) = (living(stage, "sooner", 3_600)?, living(stage, "sooner", 3)?);
        let mut client = stage.session_of(Way::tls(V5), &one_shot(&long)).await?;
        let began = Instant::now();
        renew(&mut client, &data_of(&short)).await?;
        let ended = client.ended(PATIENCE).await?;
        ensure!(matches!(ended.as_slice(), [Got::Disconnect { code: 0x87, .. }]), "{ended:?}");
        ensure!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        Ok(())
    })
}

#[test]
fn a_session_is_renewed_by_a_signed_nonce_while_its_packets_go_on() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let key = &stage.site.wallets.stranger;
        for way in WAYS {
            let id = format!("nonce-{}", way.word());
            let mut client = stage.answered(way, key, &id).await?;
            client.send(auth(0x19, METHOD, None)).await?;
            let nonce = nonce_in(&client.get().await?)?;
            // Between question and answer the old proof holds.
            client.publish_whole(&Publish::new("open/between", b"x").qos(1, 1)).await?;
            assert_eq!(client.subscribe(&[("open/never", 0)]).await?, [0]);
            let answer = stage.answer(key, &id, nonce);
            client.send(auth(0x18, METHOD, Some(&answer))).await?;
            ensure!(matches!(client.get().await?, Got::Auth { code: 0, .. }));
            client.publish_whole(&Publish::new("open/after", b"x").qos(1, 2)).await?;
            // The answer was for once.
            client.send(auth(0x18, METHOD, Some(&answer))).await?;
            let ended = client.ended(PATIENCE).await?;
            ensure!(matches!(ended.as_slice(), [Got::Disconnect { code: 0x82, .. }]), "{ended:?}");
        }
        Ok(())
    })
}

#[test]
fn the_proof_of_another_principal_ends_the_session() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let owner = &stage.site.wallets.spare[0];
        let device = stage.device(owner.address(), 61, "devices", FAR).await?;
        stage.caught_up().await?;
        for way in WAYS {
            let id = format!("other-{}", way.word());
            let mut by_device = device.login.clone();
            by_device.client_id.clone_from(&id);
            // Another wallet; the same wallet by another key, whose own branches are others.
            for (first, second) in [
                (stage.stranger(&id)?, stage.publisher(&id)?),
                (stage.site.token(owner, &id)?, by_device.clone()),
                (by_device.clone(), stage.site.token(owner, &id)?),
            ] {
                let mut client = stage.session_of(way, &one_shot(&first)).await?;
                client.send(auth(0x19, METHOD, Some(&data_of(&second)))).await?;
                let ended = client.ended(PATIENCE).await?;
                ensure!(
                    matches!(ended.as_slice(), [Got::Disconnect { code: 0x87, .. }]),
                    "{ended:?}"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_renewal_that_proves_nothing_ends_the_session() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let key = &stage.site.wallets.stranger;
        for way in WAYS {
            let id = format!("nothing-{}", way.word());
            let expired = {
                let now = unix_now();
                let (key, place) = (key.clone(), stage.site.place());
                flytrap_site::token_between(&key, &place, &id, now - 100, now - 1)?
            };
            for data in [
                data_of(&stage.wrong_proof(&id)?),
                data_of(&stage.stranger("another-id")?),
                data_of(&expired),
                b"nonsense".to_vec(),
                Vec::new(),
            ] {
                let mut client = stage.session_of(way, &one_shot(&stage.stranger(&id)?)).await?;
                client.send(auth(0x19, METHOD, Some(&data))).await?;
                let ended = client.ended(PATIENCE).await?;
                ensure!(
                    matches!(ended.as_slice(), [Got::Disconnect { code: 0x87, .. }]),
                    "{ended:?}"
                );
            }
            let mut client = stage.answered(way, key, &id).await?;
            client.send(auth(0x19, METHOD, None)).await?;
            let nonce = nonce_in(&client.get().await?)?;
            let wrong = stage.answer(key, "another-id", nonce);
            client.send(auth(0x18, METHOD, Some(&wrong))).await?;
            let ended = client.ended(PATIENCE).await?;
            ensure!(matches!(ended.as_slice(), [Got::Disconnect { code: 0x87, .. }]), "{ended:?}");
        }
        Ok(())
    })
}

/// A14.
#[test]
fn steps_out_of_their_order_are_protocol_faults() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let key = &stage.site.wallets.stranger;
        for way in WAYS {
            let id = format!("order-{}", way.word());
            let cases: [(&str, Vec<u8>, u8); 5] = [
                ("an answer to nothing", auth(0x18, METHOD, Some(b"x")), 0x82),
                ("another method", auth(0x19, "OTHER", None), 0x82),
                (
                    "twice at once",
                    [auth(0x19, METHOD, None), auth(0x19, METHOD, None)].concat(),
                    0x82,
                ),
                ("success is not the client's to say", auth(0x00, METHOD, None), 0x82),
                ("without a method", packet(0xf0, &[0x19, 0]), 0x82),
            ];
            for (what, octets, wanted) in cases {
                let mut client = stage.answered(way, key, &id).await?;
                client.send(octets).await?;
                let mut ended = client.ended(PATIENCE).await?;
                let Some(Got::Disconnect { code, .. }) = ended.pop() else {
                    bail!("{what}: {ended:?}")
                };
                assert_eq!(code, wanted, "{what}");
            }
            // One that is done may not be followed at once by the next.
            let login = stage.stranger(&id)?;
            let mut client = stage.session_of(way, &one_shot(&login)).await?;
            renew(&mut client, &data_of(&login)).await?;
            client.send(auth(0x19, METHOD, Some(&data_of(&login)))).await?;
            let ended = client.ended(PATIENCE).await?;
            ensure!(matches!(ended.as_slice(), [Got::Disconnect { code: 0x97, .. }]), "{ended:?}");
        }
        Ok(())
    })
}

/// What stood on a proof ends with it, whatever the proof was.
#[test]
fn sessions_of_every_proof_end_when_the_wallet_ends_its_proofs_or_the_device_key() -> Result<()> {
    run(async {
        let stage = Stage::configured(&format!("[gateway]\nname = \"{NAME}\"")).await?;
        let topic = stage.topic("mine").await?;
        let key = &stage.site.wallets.spare[0];
        let device = stage.device(key.address(), 71, "by-device", FAR).await?;
        stage.grant(&topic, key.address(), Right::Subscribe).await?;
        stage.caught_up().await?;
        let way = Way::tls(V5);
        let mut by_wallet = vec![
            stage.session(way, &stage.site.token(key, "by-login")?).await?,
            stage.session_of(way, &one_shot(&stage.site.token(key, "by-data")?)).await?,
            stage
                .session_of(
                    way,
                    &crate::common::proofs::in_properties(&stage.site.token(key, "by-user")?),
                )
                .await?,
            stage.answered(way, key, "by-answer").await?,
        ];
        let mut by_device = vec![
            stage.session(way, &device.login).await?,
            stage.answered(way, &device.key, "device-answers").await?,
        ];
        for client in by_wallet.iter_mut().chain(&mut by_device) {
            assert_eq!(client.subscribe(&[("mine/#", 0)]).await?, [0]);
        }
        // A block later than the logins, so that all of them are of before.
        stage.site.chain.pass(30).await?;
        let moment = stage.site.chain.time().await?;
        let invalidated = stage.invalidate_before(key.address(), moment).await?;
        ensure!(invalidated.ok);
        for client in &mut by_wallet {
            let ended = client.ended(PATIENCE).await?;
            ensure!(matches!(ended.as_slice(), [Got::Disconnect { code: 0x87, .. }]), "{ended:?}");
        }
        for client in &mut by_device {
            assert_eq!(client.ping().await?, [], "device keys are another matter");
        }
        stage.revoke_device(key.address(), device.address()).await?;
        for client in &mut by_device {
            let ended = client.ended(PATIENCE).await?;
            ensure!(matches!(ended.as_slice(), [Got::Disconnect { code: 0x87, .. }]), "{ended:?}");
        }
        Ok(())
    })
}
