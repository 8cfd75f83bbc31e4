//! Where a client of MQTT 5 may carry its token besides user name and password, and what the broker gets then: ACCEPTANCE W18, US9;
//! THREATS A21, A34.

use crate::common::foreign::{Foreign, Library};
use crate::common::proofs::{METHOD, data_of, facts, in_properties, one_shot};
use crate::common::raw::{Connect, Got, Publish, binary, property, text};
use crate::common::stock::{self, Said};
use crate::common::{FAR, PATIENCE, PUBLIC, RETAIN, Stage, V5, V311, Way, run};
use eyre::{Result, bail, ensure};
use flytrap_site::Login;
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn start(config: &str) -> Result<Stage> {
    let config = format!("[broker]\nprobe_interval = \"1h\"\n{config}\n[limits]\nfailures = 1000");
    let stage = Stage::configured(&config).await?;
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.caught_up().await?;
    Ok(stage)
}

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(|| start("")).await
}

#[test]
fn user_properties_and_the_one_shot_form_open_a_session_and_never_reach_the_broker() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let owner = stage.site.wallets.spare[0].address();
        for way in [Way::plain(V5), Way::tls(V5)] {
            let seed = 40 + u8::from(way.tls);
            let device = stage.device(owner, seed, &format!("device-{}", way.word()), FAR).await?;
            stage.caught_up().await?;
            for (n, login) in [
                stage.stranger(&format!("properties-{}", way.word()))?,
                stage.stranger(&format!("data-{}", way.word()))?,
                device.login.clone(),
            ]
            .into_iter()
            .enumerate()
            {
                let mut connect = if n == 1 { one_shot(&login) } else { in_properties(&login) };
                connect.properties.extend(property::user("kept", "as it came"));
                let mut client = stage.dial(way).await?;
                let Got::ConnAck { code: 0, method, .. } = client.connack(&connect).await? else {
                    bail!("{way:?}: {n} was refused")
                };
                assert_eq!(method.as_deref(), (n == 1).then_some(METHOD), "{way:?}");
                assert_eq!(client.subscribe(&[("open/#", 0)]).await?, [0]);
                let seen = stage.site.recorder()?;
                for secret in [&login.password, "flytrap-token", "flytrap-address", METHOD] {
                    ensure!(!seen.saw_octets(secret.as_bytes()), "{secret} went to the broker");
                }
                ensure!(!seen.saw_octets(login.user_name.as_bytes()));
                ensure!(seen.saw_octets(b"as it came"), "another user property was lost");
            }
        }
        Ok(())
    })
}

/// Of two proofs one may be wrong, and somebody could not say which was believed.
#[test]
fn proofs_in_several_places_are_refused_also_if_all_are_right() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for way in [Way::plain(V5), Way::tls(V5)] {
            let login = stage.stranger("several")?;
            let by_login = Connect::of(V5, &login);
            let (carried, shot) = (in_properties(&login), one_shot(&login));
            let both = |one: &Connect, other: &Connect| Connect {
                properties: [one.properties.clone(), other.properties.clone()].concat(),
                ..if one.user_name.is_some() { one.clone() } else { other.clone() }
            };
            let asking = crate::common::proofs::asking("several");
            let token = property::user("flytrap-token", &login.password);
            let address = property::user("flytrap-address", &login.user_name);
            let more = |connect: &Connect, property: &[u8]| Connect {
                properties: [&connect.properties[..], property].concat(),
                ..connect.clone()
            };
            let cases = [
                both(&by_login, &carried),
                both(&by_login, &shot),
                both(&by_login, &asking),
                both(&carried, &shot),
                both(&carried, &asking),
                more(&by_login, &token),
                more(&by_login, &address),
                more(&carried, &token),
                more(&carried, &address),
                // A user name alone is half a second proof.
                Connect { user_name: Some("factory".into()), ..carried.clone() },
                Connect { password: Some(b"secret".to_vec()), ..shot.clone() },
            ];
            for (n, connect) in cases.iter().enumerate() {
                let mut client = stage.dial(way).await?;
                assert_eq!(client.connect(connect).await?, 0x86, "{way:?}: case {n}");
                assert_eq!(client.ended(PATIENCE).await?, []);
            }
            for half in [token, address] {
                let mut client = stage.dial(way).await?;
                let connect = crate::common::proofs::connect("several", half);
                assert_eq!(client.connect(&connect).await?, 0x86, "{way:?}: half a proof");
            }
        }
        ensure!(stage.seen_of("several")?.is_empty(), "the broker saw one of them");
        Ok(())
    })
}

/// The broker needs its own user name and password from the client, which proves itself otherwise.
#[test]
fn the_clients_own_login_is_passed_on_where_configured_and_only_beside_another_proof() -> Result<()>
{
    run(async {
        let stage = start("credentials = \"client\"").await?;
        let own = |connect: Connect| Connect {
            user_name: Some("factory".into()),
            password: Some(b"broker-secret".to_vec()),
            ..connect
        };
        for (n, connect) in [
            own(in_properties(&stage.stranger("own-0")?)),
            own(one_shot(&stage.stranger("own-1")?)),
            in_properties(&stage.stranger("own-2")?),
            Connect::of(V5, &stage.stranger("own-3")?),
        ]
        .iter()
        .enumerate()
        {
            let mut client = stage.session_of(Way::tls(V5), connect).await?;
            client.ping().await?;
            let end = format!("-own-{n}");
            let connects = stage.site.recorder()?.connects();
            let seen = connects.iter().find(|connect| connect.client_id.ends_with(&end));
            let Some(seen) = seen else { bail!("no CONNECT of own-{n}: {connects:?}") };
            let wanted = (n < 2).then_some("factory");
            assert_eq!(seen.user_name.as_deref(), wanted, "own-{n}");
            let wanted = (n < 2).then_some(&b"broker-secret"[..]);
            assert_eq!(seen.password.as_deref(), wanted, "own-{n}");
        }
        let mut old = stage.session(Way::tls(V311), &stage.stranger("own-old")?).await?;
        old.ping().await?;
        let connects = stage.site.recorder()?.connects();
        let old = connects.iter().find(|connect| connect.client_id.ends_with("-own-old"));
        assert_eq!(old.map(|connect| connect.user_name.clone()), Some(None), "3.1.1");
        // What is passed on must not be a proof.
        let login = stage.publisher("leak")?;
        let leak = Connect {
            user_name: Some(login.user_name.clone()),
            password: Some(login.password.clone().into_bytes()),
            ..in_properties(&stage.stranger("leak")?)
        };
        let mut client = stage.dial(Way::tls(V5)).await?;
        assert_eq!(client.connect(&leak).await?, 0x86);
        ensure!(!stage.site.recorder()?.saw_octets(login.password.as_bytes()));
        Ok(())
    })
}

#[test]
fn what_is_no_proof_is_refused_in_every_place_alike() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let wrong = stage.wrong_proof("alike")?;
        for connect in [Connect::of(V5, &wrong), in_properties(&wrong), one_shot(&wrong)] {
            let mut client = stage.dial(Way::tls(V5)).await?;
            assert_eq!(client.connect(&connect).await?, 0x86);
        }
        for data in [&b""[..], b":", b"0x:", b"\xff\xfe:\xff", &[b'a'; 4_000]] {
            let properties = property::authentication(METHOD, Some(data));
            let mut client = stage.dial(Way::tls(V5)).await?;
            let code = client.connect(&crate::common::proofs::connect("alike", properties)).await?;
            assert_eq!(code, 0x86, "{data:02x?}");
        }
        ensure!(stage.seen_of("alike")?.is_empty(), "the broker saw one of them");
        Ok(())
    })
}

/// A will's own properties go on: they are what its readers get.
#[test]
fn a_token_beside_a_will_leaves_the_will_as_it_came() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("open/#").await?;
        let login = stage.stranger("willing")?;
        let mut connect = in_properties(&login);
        connect.will = Some(crate::common::raw::Will {
            topic: "open/will".into(),
            payload: b"gone".to_vec(),
            qos: 1,
            retain: false,
        });
        drop(stage.session_of(Way::plain(V5), &connect).await?);
        spy.until(PATIENCE, |heard| heard.payload == b"gone").await?;
        Ok(())
    })
}

#[test]
fn mosquitto_pub_carries_a_token_in_properties_and_in_the_method() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("open/#").await?;
        for tls in [false, true] {
            let target = stage.target(tls)?;
            let login = stage.publisher(&format!("stock-{tls}"))?;
            let data = String::from_utf8(data_of(&login))?;
            let forms: [Vec<&str>; 2] = [
                vec![
                    "-D",
                    "connect",
                    "user-property",
                    "flytrap-address",
                    &login.user_name,
                    "-D",
                    "connect",
                    "user-property",
                    "flytrap-token",
                    &login.password,
                ],
                vec![
                    "-D",
                    "connect",
                    "authentication-method",
                    METHOD,
                    "-D",
                    "connect",
                    "authentication-data",
                    &data,
                ],
            ];
            for (n, form) in forms.into_iter().enumerate() {
                let payload = format!("stock {n} {tls}");
                let more = [&["-i", &login.client_id, "-q", "1"][..], &form].concat();
                let said: Said =
                    stock::publish(&target, V5, None, "open/stock", &payload, &more).await?;
                assert_eq!(said.code, 0, "{n}: {}", said.err);
                spy.until(PATIENCE, |heard| heard.payload == payload.as_bytes()).await?;
            }
        }
        Ok(())
    })
}

#[test]
fn paho_and_mqtt_js_carry_a_token_in_properties_and_in_the_method() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("open/#").await?;
        for library in Library::ALL {
            for n in 0..2 {
                let login = stage.publisher(&format!("{library:?}-{n}"))?;
                let user: &[(&str, &str)] =
                    &[("flytrap-address", &login.user_name), ("flytrap-token", &login.password)];
                let data = data_of(&login);
                let more = match n {
                    0 => facts(None, None, user),
                    _ => facts(Some(METHOD), Some(&data), &[]),
                };
                let mut client = Foreign::start(library)?;
                let nobody = Login {
                    user_name: String::new(),
                    password: String::new(),
                    client_id: login.client_id.clone(),
                };
                let mut more = more;
                more["user_name"] = serde_json::Value::Null;
                more["password"] = serde_json::Value::Null;
                let connack = client.connect(&stage.target(true)?, V5, &nobody, more).await?;
                assert_eq!(connack["code"], 0, "{library:?} {n}");
                let payload = format!("{library:?} {n}");
                assert_eq!(client.publish("open/foreign", &payload, 1, false).await?, 0);
                spy.until(PATIENCE, |heard| heard.payload == payload.as_bytes()).await?;
            }
        }
        Ok(())
    })
}

/// US9: what a small client has to send.
#[test]
fn a_connect_with_a_token_fits_the_buffer_of_small_clients() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let login = stage.publisher("dev1")?;
        for (form, most) in
            [(Connect::of(V311, &login).octets(V311), 256), (one_shot(&login).octets(V5), 256)]
        {
            ensure!(form.len() <= most, "{} octets", form.len());
        }
        let device = crate::common::device_of(77, "dev1")?;
        ensure!(Connect::of(V311, &device.login).octets(V311).len() <= 128);
        // FR6: nothing is added to a PUBLISH.
        let mut client = stage.session(Way::tls(V311), &login).await?;
        let publish = Publish::new("open/dev1", b"22 %");
        client.publish(&publish).await?;
        client.ping().await?;
        let octets = publish.octets(V311);
        assert_eq!(octets.len(), 2 + text("open/dev1").len() + b"22 %".len());
        ensure!(stage.site.recorder()?.saw_octets(&octets), "it went on as it came");
        ensure!(binary(&data_of(&login)).len() < 600);
        Ok(())
    })
}
