//! Login by a signed nonce (MQTT 5.0 section 4.12): ACCEPTANCE W16, W21, W22, W24, W27, FR6; THREATS A01, A10 to A15.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::common::foreign::{Foreign, Library};
use crate::common::proofs::{METHOD, NAME, asking, connect, counted, facts, nonce_in, one_shot};
use crate::common::raw::{
    Connect, DISCONNECT, Got, PINGREQ, Publish, Raw, auth, packet, property, subscribe,
};
use crate::common::{FAR, PATIENCE, PUBLIC, RETAIN, Stage, V5, Way, http, run, until};
use alloy_primitives::B256;
use eyre::{Result, bail, ensure, eyre};
use flytrap_policy::credential::Challenge;
use flytrap_site::Login;
use serde_json::json;
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(start).await
}

/// Named, without probes of the broker, and where nobody is banned. Whoever counts octets to the broker has one of its own.
async fn start() -> Result<Stage> {
    let stage = Stage::configured(&format!(
        "[gateway]\nname = \"{NAME}\"\n[broker]\nprobe_interval = \"1h\"\n[limits]\nfailures = 1000"
    ))
    .await?;
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.caught_up().await?;
    Ok(stage)
}

const WAYS: [Way; 2] = [Way::plain(V5), Way::tls(V5)];

#[test]
fn a_signed_nonce_opens_a_session_and_the_method_comes_back() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for way in WAYS {
            let id = format!("signed-{}", way.word());
            let mut client = stage.answered(way, &stage.site.wallets.stranger, &id).await?;
            client.publish_whole(&Publish::new("open/signed", b"x").qos(1, 1)).await?;
            assert_eq!(client.subscribe(&[("open/#", 1)]).await?, [1]);
            // A device key answers for its wallet.
            let owner = stage.site.wallets.spare[0].address();
            let seed = 20 + u8::from(way.tls);
            let device = stage.device(owner, seed, &format!("device-{}", way.word()), FAR).await?;
            stage.caught_up().await?;
            let id = &device.login.client_id;
            stage.answered(way, &device.key, id).await?.ping().await?;
            let wanted = format!("{}-{id}", hex::encode(owner));
            let connects = stage.site.recorder()?.connects();
            ensure!(connects.iter().any(|connect| connect.client_id == wanted), "{connects:?}");
        }
        Ok(())
    })
}

/// A01, A12, W22: what proves nothing is 0x87, and the broker hears of none of it.
#[test]
fn an_answer_that_proves_nothing_is_refused_and_the_broker_sees_not_one_octet() -> Result<()> {
    run(async {
        let stage = start().await?;
        let (vic, eve) = (&stage.site.wallets.publisher, &stage.site.wallets.stranger);
        let octets = stage.site.recorder()?.octets_from_gateway().len();
        let failures = counted(&stage, "flytrap_authentications", &["challenge", "signer"]).await?;
        for way in WAYS {
            let id = format!("wrong-{}", way.word());
            let (mut first, old) = stage.asked(way, &id).await?;
            let captured = stage.answer(vic, &id, old);
            first.send(DISCONNECT).await?;
            assert_eq!(first.ended(PATIENCE).await?, []);
            type Made = Box<dyn Fn(B256) -> Vec<u8>>;
            let by =
                |key: &flytrap_chain::keys::Key, server: &'static str, client_id: &str| -> Made {
                    let (key, client_id, place) =
                        (key.clone(), client_id.to_owned(), stage.site.place());
                    Box::new(move |nonce| {
                        let asked = Challenge { client_id: &client_id, nonce, server };
                        let digest = flytrap_policy::credential::challenge_digest(&place, &asked);
                        flytrap_policy::credential::encode_answer(key.address(), &key.sign(&digest))
                    })
                };
            let (victim, by_eve) = (vic.address(), by(eve, NAME, &id));
            let cases: Vec<(&str, Made)> = vec![
                ("an answer of before", Box::new(move |_| captured.clone())),
                ("to another gateway", by(vic, "gateway.example", &id)),
                ("for another client id", by(vic, NAME, "another")),
                (
                    "of another than it names",
                    Box::new(move |nonce| {
                        let mut answer = by_eve(nonce);
                        answer[1..21].copy_from_slice(victim.as_slice());
                        answer
                    }),
                ),
                ("nothing", Box::new(|_| Vec::new())),
                ("the nonce itself", Box::new(|nonce| nonce.to_vec())),
                ("86 octets", Box::new(|_| vec![1; 86])),
                ("too much", Box::new(|_| vec![1; 8_000])),
            ];
            for (what, make) in cases {
                let (mut client, nonce) = stage.asked(way, &id).await?;
                client.send(auth(0x18, METHOD, Some(&make(nonce)))).await?;
                let ended = client.ended(PATIENCE).await?;
                ensure!(
                    matches!(ended.as_slice(), [Got::ConnAck { code: 0x87, .. }]),
                    "{what}: {ended:?}"
                );
            }
        }
        let now = counted(&stage, "flytrap_authentications", &["challenge", "signer"]).await?;
        assert_eq!(now - failures, 8.0, "the wrong signatures were counted");
        assert_eq!(
            stage.site.recorder()?.octets_from_gateway().len(),
            octets,
            "octets to the broker"
        );
        Ok(())
    })
}

/// A14, A15.
#[test]
fn until_there_is_a_session_only_auth_may_come() -> Result<()> {
    run(async {
        let stage = start().await?;
        let octets = stage.site.recorder()?.octets_from_gateway().len();
        let key = &stage.site.wallets.stranger;
        let publish = Publish::new("open/early", b"x").octets(V5);
        let mut cases = 0;
        for way in WAYS {
            let first = asking("early").octets(V5);
            let early = [
                publish.clone(),
                subscribe(V5, 1, &[("open/#", 0)]),
                PINGREQ.to_vec(),
                asking("early").octets(V5),
                auth(0x19, METHOD, None),
                auth(0x19, METHOD, Some(b"x")),
                packet(0xf0, &[]),
                packet(0xf0, &[0x18]),
                packet(0xf1, &[]),
                vec![0x00, 0],
            ];
            for after in &early {
                let (mut client, _) = stage.asked(way, "early").await?;
                client.send(after).await?;
                let ended = client.ended(PATIENCE).await?;
                ensure!(
                    matches!(ended.as_slice(), [Got::ConnAck { code: 0x81 | 0x82, .. }]),
                    "{way:?} {after:02x?}: {ended:?}"
                );
                // In one segment with CONNECT it is no better.
                let mut client = stage.dial(way).await?;
                client.send([first.clone(), after.clone()].concat()).await?;
                let ended = client.ended(PATIENCE).await?;
                ensure!(
                    matches!(ended.as_slice(), [Got::ConnAck { code: 0x82, .. }]),
                    "{way:?} {after:02x?}: {ended:?}"
                );
                cases += 2;
            }
            // Behind the answer, and behind the one-shot form, there is CONNACK to wait for as well.
            let (mut client, nonce) = stage.asked(way, "early").await?;
            let answer = auth(0x18, METHOD, Some(&stage.answer(key, "early", nonce)));
            client.send([answer, publish.clone()].concat()).await?;
            let ended = client.ended(PATIENCE).await?;
            ensure!(matches!(ended.as_slice(), [Got::ConnAck { code: 0x82, .. }]), "{ended:?}");
            let mut client = stage.dial(way).await?;
            let whole = one_shot(&stage.stranger("early")?).octets(V5);
            client.send([whole, publish.clone()].concat()).await?;
            let ended = client.ended(PATIENCE).await?;
            ensure!(matches!(ended.as_slice(), [Got::ConnAck { code: 0x82, .. }]), "{ended:?}");
            // Another method than before.
            let (mut client, nonce) = stage.asked(way, "early").await?;
            client.send(auth(0x18, "OTHER", Some(&stage.answer(key, "early", nonce)))).await?;
            let ended = client.ended(PATIENCE).await?;
            ensure!(matches!(ended.as_slice(), [Got::ConnAck { code: 0x8c, .. }]), "{ended:?}");
        }
        assert_eq!(cases, 40);
        assert_eq!(
            stage.site.recorder()?.octets_from_gateway().len(),
            octets,
            "octets to the broker"
        );
        Ok(())
    })
}

/// A14.
#[test]
fn auth_out_of_place_is_refused_in_every_version() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for way in Way::ALL {
            let mut client = stage.dial(way).await?;
            client.send(auth(0x18, METHOD, Some(b"x"))).await?;
            assert_eq!(client.ended(PATIENCE).await?, [], "{way:?}: before CONNECT");
            for code in [0x18, 0x19] {
                let id = format!("no-method-{code}-{}", way.word());
                let mut client = stage.session(way, &stage.stranger(&id)?).await?;
                client.send(auth(code, METHOD, None)).await?;
                let ended = client.ended(PATIENCE).await?;
                match way.version {
                    V5 => ensure!(
                        matches!(ended.as_slice(), [Got::Disconnect { code: 0x82, .. }]),
                        "{ended:?}"
                    ),
                    _ => assert_eq!(ended, [], "{way:?}"),
                }
            }
        }
        for way in WAYS {
            for (properties, wanted) in [
                ([&[0x16][..], &crate::common::raw::binary(b"x")].concat(), 0x82),
                (property::authentication("SCRAM-SHA-256", None), 0x8c),
                (property::authentication("SCRAM-SHA-256", Some(b"n,,n=a,r=b")), 0x8c),
                (
                    [
                        property::authentication(METHOD, None),
                        property::authentication(METHOD, None),
                    ]
                    .concat(),
                    0x82,
                ),
            ] {
                let mut client = stage.dial(way).await?;
                let code = client.connect(&connect("odd", properties)).await?;
                assert_eq!(code, wanted, "{way:?}");
                assert_eq!(client.ended(PATIENCE).await?, []);
            }
        }
        Ok(())
    })
}

/// W24: the sixth answer in a row that is none bans, as the sixth wrong token does.
#[test]
fn a_wrong_answer_counts_like_a_wrong_token() -> Result<()> {
    run(async {
        let stage = Stage::configured(&format!(
            "[gateway]\nname = \"{NAME}\"\n[limits]\nproof_beats_ban = false"
        ))
        .await?;
        let from = IpAddr::from(Ipv4Addr::new(127, 0, 7, 1));
        for n in 0..6 {
            let mut client = Raw::plain_from(V5, from, stage.site.mqtt()?).await?;
            let connect = match n % 3 {
                // A token in the user properties, the one-shot form, an answer.
                0 => crate::common::proofs::in_properties(&stage.wrong_proof("counted")?),
                1 => one_shot(&stage.wrong_proof("counted")?),
                _ => asking("counted"),
            };
            let got = client.connack(&connect).await?;
            if n % 3 == 2 {
                let nonce = nonce_in(&got)?;
                let key = &stage.site.wallets.stranger;
                client.send(auth(0x18, METHOD, Some(&stage.answer(key, "other", nonce)))).await?;
                ensure!(matches!(client.get().await?, Got::ConnAck { code: 0x87, .. }));
            } else {
                ensure!(matches!(got, Got::ConnAck { code: 0x86, .. }), "{got:?}");
            }
            assert_eq!(client.ended(PATIENCE).await?, []);
        }
        let good = Connect::of(V5, &stage.stranger("counted")?);
        let after = crate::common::raw::attempt(V5, from, stage.site.mqtt()?, &good).await?;
        assert_eq!(after, None, "the origin is banned");
        Ok(())
    })
}

/// THREATS D02 for AUTH.
#[test]
fn whoever_does_not_answer_is_gone_at_the_connect_deadline() -> Result<()> {
    run(async {
        let stage = Stage::configured(&format!(
            "[gateway]\nname = \"{NAME}\"\n[limits]\nconnect_deadline = \"1s\""
        ))
        .await?;
        for way in WAYS {
            let began = Instant::now();
            let (mut client, _) = stage.asked(way, "silent").await?;
            assert_eq!(client.ended(PATIENCE).await?, []);
            ensure!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        }
        Ok(())
    })
}

#[test]
fn a_gateway_without_a_name_challenges_nobody_and_still_takes_tokens() -> Result<()> {
    run(async {
        let stage = Stage::new().await?;
        let mut client = stage.dial(Way::tls(V5)).await?;
        assert_eq!(client.connect(&asking("nameless")).await?, 0x8c);
        let mut client = stage.dial(Way::tls(V5)).await?;
        assert_eq!(client.connect(&one_shot(&stage.stranger("nameless")?)).await?, 0);
        Ok(())
    })
}

/// A client that takes only small packets cannot be asked.
#[test]
fn a_question_that_the_client_does_not_take_is_not_sent() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut small = asking("small");
        small.properties.extend(property::maximum_packet_size(40));
        let mut client = stage.dial(Way::plain(V5)).await?;
        assert_eq!(client.connect(&small).await?, 0x95);
        Ok(())
    })
}

#[test]
fn mqtt_js_answers_by_its_own_means() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for tls in [false, true] {
            let mut client = Foreign::start(Library::MqttJs)?;
            let (key, target) = (&stage.site.wallets.publisher, stage.target(tls)?);
            let id = format!("mqttjs-{tls}");
            let mut order = json!({
                "do": "connect", "host": target.address.ip(), "port": target.address.port(), "version": V5.level(),
                "client_id": id, "ca": target.ca, "clean": true,
            });
            let more = facts(Some(METHOD), None, &[]);
            if let (Some(order), Some(more)) = (order.as_object_mut(), more.as_object()) {
                order.extend(more.clone());
            }
            client.tell(order).await?;
            let asked = client.event("auth").await?;
            let nonce = asked["data"].as_str().ok_or_else(|| eyre!("{asked}"))?;
            let answer = stage.answer(key, &id, B256::from_slice(&hex::decode(nonce)?));
            client
                .tell(json!({ "do": "answer", "method": METHOD, "data": hex::encode(answer) }))
                .await?;
            assert_eq!(client.event("connack").await?["code"], 0);
            assert_eq!(client.subscribe(&[("open/#", 1)]).await?, [1]);
            assert_eq!(client.publish("open/mqttjs", "x", 1, false).await?, 0);
            client.event("message").await?;
        }
        Ok(())
    })
}

#[test]
fn without_tls_an_answer_is_taken_where_tokens_are_not() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let mut gateway = stage.spawn_gateway("strict", |table| {
            if let Some(toml::Value::Array(listeners)) = table.get_mut("listener") {
                for listener in listeners.iter_mut().filter_map(toml::Value::as_table_mut) {
                    listener.remove("allow_tokens_without_tls");
                }
            }
        })?;
        let (address, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
        until("readiness", || async {
            Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
        })
        .await?;
        let login: Login = stage.stranger("strict")?;
        for token in [
            Connect::of(V5, &login),
            one_shot(&login),
            crate::common::proofs::in_properties(&login),
        ] {
            let mut client = Raw::plain(V5, address).await?;
            assert_eq!(client.connect(&token).await?, 0x87);
        }
        let mut client = Raw::plain(V5, address).await?;
        let nonce = nonce_in(&client.connack(&asking("strict")).await?)?;
        let answer = stage.answer(&stage.site.wallets.stranger, "strict", nonce);
        client.send(auth(0x18, METHOD, Some(&answer))).await?;
        match client.get().await? {
            Got::ConnAck { code: 0, .. } => Ok(()),
            other => bail!("{other:?}"),
        }
    })
}
