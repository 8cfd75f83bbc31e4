//! Behind the gateway stands a broker that does what Mosquitto does not: aliases towards clients, no MQTT 5, octets that are no MQTT.

use std::collections::HashMap;

use crate::common::fake_broker::{FakeBroker, Five};
use crate::common::process::{Process, set};
use crate::common::raw::{Connect, Got, Publish, Raw, packet, property};
use crate::common::{PATIENCE, Right, Stage, V5, V311, Version, http, run, until};
use eyre::{Result, bail, ensure};
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(Stage::open_and_closed).await
}

/// A gateway in front of a broker of this kind, ready.
async fn before(stage: &Stage, name: &str, five: Five) -> Result<(FakeBroker, Process)> {
    let broker = FakeBroker::start(five).await?;
    let address = broker.address().to_string();
    let mut gateway =
        stage.spawn_gateway(name, |table| set(table, "broker", "address", address))?;
    let health = gateway.health().await?;
    until("readiness", || async {
        Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
    })
    .await?;
    Ok((broker, gateway))
}

fn aliased(topic: &str, payload: &str, alias: u16) -> Vec<u8> {
    Publish::new(topic, payload.as_bytes()).with(property::alias(alias)).octets(V5)
}

/// The client must never resolve an alias to another name than the gateway judged, nor to none.
#[test]
fn aliases_towards_the_client_arrive_as_the_broker_means_them_and_never_carry_a_refused_message()
-> Result<()> {
    run(async {
        let stage = stage().await?;
        let later = stage.topic("later").await?;
        let (broker, mut gateway) = before(stage, "aliases", Five::Speaks).await?;
        let mqtt = gateway.listener("mqtt").await?;
        let mut reader = Raw::plain(V5, mqtt).await?;
        let connect = Connect {
            properties: property::topic_alias_maximum(10),
            ..Connect::of(V5, &stage.reader("aliases")?)
        };
        assert_eq!(reader.connect(&connect).await?, 0);
        assert_eq!(reader.subscribe(&[("open/#", 0)]).await?, [0]);
        broker.say(aliased("open/a", "open/a 1", 1));
        broker.say(aliased("", "open/a 2", 1));
        // From here on alias 1 means a name that the reader may not read.
        broker.say(aliased("closed/x", "refused", 1));
        broker.say(aliased("", "refused", 1));
        broker.say(aliased("open/b", "open/b 3", 2));
        // Withheld as well, so the client never sees what set alias 3.
        broker.say(aliased("later/x", "refused", 3));
        broker.say(aliased("open/a", "open/a 4", 1));
        broker.say(aliased("", "open/a 5", 1));
        let mut names = HashMap::new();
        let mut got = Vec::new();
        let mut take = async |reader: &mut Raw, count: usize| -> Result<()> {
            for _ in 0..count {
                let delivery = reader.delivery().await?;
                let name = match delivery.alias {
                    Some(alias) if delivery.topic.is_empty() => names.get(&alias).cloned(),
                    Some(alias) => {
                        names.insert(alias, delivery.topic.clone());
                        Some(delivery.topic)
                    }
                    None => Some(delivery.topic),
                };
                let payload = String::from_utf8(delivery.payload)?;
                let Some(name) = name else { bail!("an alias that was never set: {payload}") };
                ensure!(payload.starts_with(&format!("{name} ")), "{payload} came as {name}");
                got.push(payload);
            }
            Ok(())
        };
        take(&mut reader, 5).await?;
        stage.grant(&later, stage.site.wallets.reader.address(), Right::Subscribe).await?;
        let height = stage.site.chain.height().await?;
        let health = gateway.health().await?;
        until("the grant to be seen", || async {
            let seen = http::metric(health, "flytrap_mirror_height").await?;
            Ok((seen >= height as f64).then_some(()))
        })
        .await?;
        broker.say(aliased("", "later/x 6", 3));
        take(&mut reader, 1).await?;
        let wanted = ["open/a 1", "open/a 2", "open/b 3", "open/a 4", "open/a 5", "later/x 6"];
        assert_eq!(got, wanted);

        // More than the client takes, and one that nobody set.
        for (n, octets) in [aliased("open/a", "?", 11), aliased("", "?", 9)].into_iter().enumerate()
        {
            let mut reader = Raw::plain(V5, mqtt).await?;
            let login = stage.reader(&format!("no-alias-{n}"))?;
            let connect = Connect {
                properties: property::topic_alias_maximum(10),
                ..Connect::of(V5, &login)
            };
            assert_eq!(reader.connect(&connect).await?, 0);
            broker.say(octets);
            let ended = reader.ended(PATIENCE).await?;
            ensure!(!ended.iter().any(|got| matches!(got, Got::Publish(_))), "{ended:?}");
        }
        Ok(())
    })
}

#[test]
fn a_client_of_5_learns_that_the_broker_does_not_speak_it_and_one_of_3_1_1_is_served() -> Result<()>
{
    run(async {
        let stage = stage().await?;
        for (name, five) in [("hangs-up", Five::HangsUp), ("refuses", Five::Refuses)] {
            let (_broker, mut gateway) = before(stage, name, five).await?;
            let mqtt = gateway.listener("mqtt").await?;
            let code = async |version: Version| -> Result<u8> {
                let connect = Connect::of(version, &stage.stranger(name)?);
                Raw::plain(version, mqtt).await?.connect(&connect).await
            };
            assert_eq!(code(V5).await?, 0x84, "{name}");
            assert_eq!(code(V311).await?, 0, "{name}");
        }
        Ok(())
    })
}

#[test]
fn what_no_broker_may_send_ends_that_session_and_never_reaches_the_client() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let (broker, mut gateway) = before(stage, "odd", Five::Speaks).await?;
        let mqtt = gateway.listener("mqtt").await?;
        let cases = [
            ("a second CONNACK", packet(0x20, &[0, 0])),
            ("a SUBSCRIBE", crate::common::raw::subscribe(V311, 1, &[("open/a", 0)])),
            ("a SUBACK nobody asked for", packet(0x90, &[0, 77, 0])),
            ("a wildcard in a name", packet(0x30, &crate::common::raw::text("open/+"))),
            ("QoS 3", packet(0x36, &[&crate::common::raw::text("open/a")[..], &[0, 1]].concat())),
            ("no MQTT at all", b"\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        ];
        for (n, (what, octets)) in cases.into_iter().enumerate() {
            let mut client = Raw::plain(V311, mqtt).await?;
            let connect = Connect::of(V311, &stage.stranger(&format!("odd-{n}"))?);
            assert_eq!(client.connect(&connect).await?, 0, "{what}");
            assert_eq!(client.ping().await?, [], "{what}");
            broker.say(octets);
            assert_eq!(client.ended(PATIENCE).await?, [], "{what}");
        }
        let health = gateway.health().await?;
        assert_eq!(http::get(health, "/healthz").await?.0, 200);
        Ok(())
    })
}
