//! ACCEPTANCE US3: the owner of a topic restricts who publishes and who subscribes, filter by filter.
//!
//! Topic `farm`, with `farm/n1` and `farm/secret` registered below it. The publisher may publish on `farm/n1` only, the reader may read
//! `farm` and `farm/n1`. Clients are mosquitto_pub, paho and mqtt.js; the judges are a spy at the broker and the recorder before it.

use crate::common::foreign::{Foreign, Library};
use crate::common::raw::{Connect, Got, Publish, Raw, Will};
use crate::common::stock::{self, Subscriber};
use crate::common::{Right, Stage, V5, V311, Way, run};
use eyre::{Result, bail, ensure};
use flytrap_site::Packet;
use serde_json::json;
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn farm(stage: Stage) -> Result<Stage> {
    let (farm, n1) = (stage.topic("farm").await?, stage.topic("farm/n1").await?);
    stage.topic("farm/secret").await?;
    let (publisher, reader) =
        (stage.site.wallets.publisher.address(), stage.site.wallets.reader.address());
    stage.grant(&n1, publisher, Right::Publish).await?;
    stage.grant(&farm, reader, Right::Subscribe).await?;
    stage.grant(&n1, reader, Right::Subscribe).await?;
    stage.caught_up().await?;
    Ok(stage)
}

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(|| async { farm(Stage::new().await?).await }).await
}

const SIX: [(&str, u8); 6] = [
    ("farm/n1/ph", 0),
    ("farm/#", 1),
    ("$share/g/farm/n1/ph", 2),
    ("#", 0),
    ("$SYS/#", 1),
    ("farm/secret/x", 2),
];

#[test]
fn one_subscribe_with_six_filters_gets_one_code_for_each_in_order() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for way in Way::ALL {
            let id = format!("six-{}", way.word());
            let mut reader = stage.session(way, &stage.reader(&id)?).await?;
            let no = if way.version == V5 { 0x87 } else { 0x80 };
            // `farm/#` lies over `farm/secret`, which the reader may not read: covered filters only, so it is refused as well.
            assert_eq!(reader.subscribe(&SIX).await?, [0, no, 2, no, no, no], "{way:?}");
            let seen = stage.seen_of(&id)?;
            let asked = seen.into_iter().filter_map(|seen| match seen.packet {
                Packet::Subscribe { filters, .. } => Some(filters),
                _ => None,
            });
            let wanted = [("farm/n1/ph".to_owned(), 0), ("$share/g/farm/n1/ph".to_owned(), 2)];
            assert_eq!(
                asked.collect::<Vec<_>>(),
                [wanted.to_vec()],
                "{way:?}: what the broker was asked"
            );
        }
        Ok(())
    })
}

#[test]
fn where_the_site_narrows_a_wide_filter_is_granted_and_the_secret_still_withheld() -> Result<()> {
    run(async {
        let stage = farm(Stage::configured("[access]\nwildcards = \"narrow\"").await?).await?;
        for way in [Way::plain(V311), Way::tls(V5)] {
            let mut reader =
                stage.session(way, &stage.reader(&format!("narrow-{}", way.word()))?).await?;
            let codes = reader.subscribe(&SIX).await?;
            let no = if way.version == V5 { 0x87 } else { 0x80 };
            // `#` is wider than what may be read too, and narrowed like any other.
            assert_eq!(codes, [0, 1, 2, 0, no, no], "{way:?}");
            let mut broker = stage.direct(V311, "").await?;
            broker.publish(&Publish::new("farm/secret/x", b"secret")).await?;
            broker.publish(&Publish::new("elsewhere", b"ungoverned")).await?;
            broker.publish(&Publish::new("farm/n3", b"open")).await?;
            let delivery = reader.delivery().await?;
            assert_eq!(
                (delivery.topic.as_str(), delivery.payload.as_slice()),
                ("farm/n3", &b"open"[..]),
                "{way:?}"
            );
        }
        Ok(())
    })
}

/// ACCEPTANCE W2 and US3: `QoS` 0, 1 and 2, retained or not.
#[test]
fn only_the_granted_name_reaches_the_broker_whatever_the_qos_and_retain_flag() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("farm/#").await?;
        let mut sent = 0;
        for way in Way::ALL {
            let target = stage.target(way.tls)?;
            for qos in ["0", "1", "2"] {
                for retain in [false, true] {
                    let payload = format!("pub-{}-{qos}-{retain}", way.word());
                    let mut more = vec!["-q", qos];
                    more.extend(retain.then_some("-r"));
                    let login = stage.publisher(&payload)?;
                    let refused = stock::publish(
                        &target,
                        way.version,
                        Some(&login),
                        "farm/n2/ph",
                        &format!("no-{payload}"),
                        &more,
                    )
                    .await?;
                    let allowed = stock::publish(
                        &target,
                        way.version,
                        Some(&login),
                        "farm/n1/ph",
                        &payload,
                        &more,
                    )
                    .await?;
                    ensure!(allowed.code == 0, "{payload}: {allowed:?}");
                    // Only MQTT 5 can say that it was refused, and only from QoS 1 on; mosquitto_pub then prints a warning.
                    let told = refused.err.contains("Not authorized")
                        || refused.out.contains("Not authorized");
                    assert_eq!(told, way.version == V5 && qos != "0", "{payload}: {refused:?}");
                    spy.until(crate::common::PATIENCE, |heard| heard.payload == payload.as_bytes())
                        .await?;
                    sent += 1;
                }
            }
        }
        assert_eq!(sent, 24);
        let heard = spy.heard();
        assert_eq!(
            heard.iter().filter(|heard| heard.payload.starts_with(b"pub-")).count(),
            sent,
            "each message once"
        );
        ensure!(
            !heard.iter().any(|heard| heard.topic == "farm/n2/ph"),
            "a refused message came through"
        );
        ensure!(
            !stage.site.recorder()?.saw_publish("farm/n2/ph"),
            "a refused PUBLISH went to the broker"
        );

        // What was refused retained is not there for later subscribers, what was allowed is.
        let mut late = stage.direct(V311, "").await?;
        late.subscribe(&[("farm/n2/ph", 0), ("farm/n1/ph", 0)]).await?;
        late.publish(&Publish::new("farm/n2/ph", b"marker")).await?;
        // Other tests publish on the allowed name meanwhile.
        let mut was_retained = false;
        let marker = loop {
            let delivery = late.delivery().await?;
            if delivery.topic == "farm/n2/ph" {
                break delivery;
            }
            was_retained |= delivery.retain;
        };
        assert_eq!(marker.payload, b"marker", "something was retained on the refused name");
        ensure!(was_retained, "nothing was retained on the allowed name");
        Ok(())
    })
}

async fn library_is_refused_where_it_has_no_grant(library: Library) -> Result<()> {
    let stage = stage().await?;
    let spy = stage.site.spy("farm/#").await?;
    for way in Way::ALL {
        let id = format!("{library:?}-{}", way.word());
        let mut publisher = Foreign::start(library)?;
        let accepted = publisher
            .connect(&stage.target(way.tls)?, way.version, &stage.publisher(&id)?, json!({}))
            .await?;
        assert_eq!(accepted["code"], 0, "{id}: {accepted}");
        for (qos, retain) in [(0, false), (1, true), (2, false)] {
            let refused = publisher.publish("farm/n2/ph", &format!("no-{id}"), qos, retain).await?;
            if way.version == V5 && qos == 1 {
                assert_eq!(refused, 0x87, "{id}");
            } else if way.version == V311 {
                assert_eq!(refused, 0, "{id}: MQTT 3.1.1 knows no refusal");
            }
            assert_eq!(
                publisher.publish("farm/n1/ph", &format!("{id}-{qos}"), qos, retain).await?,
                0,
                "{id}"
            );
            spy.until(crate::common::PATIENCE, |heard| {
                heard.payload == format!("{id}-{qos}").as_bytes()
            })
            .await?;
        }
        let mut reader = Foreign::start(library)?;
        reader
            .connect(
                &stage.target(way.tls)?,
                way.version,
                &stage.reader(&format!("r-{id}"))?,
                json!({}),
            )
            .await?;
        let no = if way.version == V5 { 0x87 } else { 0x80 };
        let codes = reader.subscribe(&[("farm/n1/ph", 1), ("farm/secret/x", 1)]).await?;
        assert_eq!(codes.iter().filter(|code| **code == no).count(), 1, "{id}: {codes:?}");
        let told = publisher.publish("farm/n1/ph", &format!("for-{id}"), 1, false).await?;
        assert_eq!(told, 0);
        loop {
            let message = reader.event("message").await?;
            ensure!(message["topic"] == "farm/n1/ph", "{id}: {message}");
            if message["payload"] == format!("for-{id}") {
                break;
            }
        }
    }
    ensure!(
        !spy.heard()
            .iter()
            .any(|heard| heard.payload.starts_with(format!("no-{library:?}").as_bytes())),
        "a refused message came through"
    );
    Ok(())
}

#[test]
fn paho_is_refused_where_it_has_no_grant_and_served_where_it_has() -> Result<()> {
    run(library_is_refused_where_it_has_no_grant(Library::Paho))
}

#[test]
fn mqtt_js_is_refused_where_it_has_no_grant_and_served_where_it_has() -> Result<()> {
    run(library_is_refused_where_it_has_no_grant(Library::MqttJs))
}

/// ACCEPTANCE W1: judged by what the reader gets, and by what the broker was asked for.
#[test]
fn messages_on_a_refused_topic_never_reach_the_reader() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for way in Way::ALL {
            let mut reader =
                stage.session(way, &stage.reader(&format!("secret-{}", way.word()))?).await?;
            let no = if way.version == V5 { 0x87 } else { 0x80 };
            assert_eq!(
                reader
                    .subscribe(&[("farm/secret/x", 2), ("farm/secret/#", 1), ("farm/n1/#", 2)])
                    .await?,
                [no, no, 2]
            );
            let mut broker = stage.direct(V5, "").await?;
            for qos in 0..3 {
                let secret = Publish::new("farm/secret/x", b"secret").qos(qos, 10 + u16::from(qos));
                let mark = format!("mark-{}-{qos}", way.word());
                broker.publish_whole(&secret).await?;
                broker.publish(&Publish::new("farm/n1/mark", mark.as_bytes())).await?;
                // The broker sends in order, so whatever it had to send of the secret would have come first. Other tests publish too.
                loop {
                    let delivery = reader.delivery().await?;
                    ensure!(delivery.topic.starts_with("farm/n1/"), "{way:?}: {delivery:?}");
                    if delivery.payload == mark.as_bytes() {
                        break;
                    }
                }
            }
            ensure!(
                !stage.site.recorder()?.saw_subscribe("farm/secret/x"),
                "the broker was asked for the secret"
            );
        }
        Ok(())
    })
}

#[test]
fn mosquitto_sub_hears_what_its_wallet_may_read_and_nothing_of_the_secret() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for way in Way::ALL {
            let login = stage.reader(&format!("stock-{}", way.word()))?;
            let target = stage.target(way.tls)?;
            let filters = ["farm/secret/x", "farm/n1/stock"];
            let mut reader =
                Subscriber::start(&target, way.version, Some(&login), &filters, 2, &[])?;
            stage.subscribed(&login.client_id).await?;
            let mut broker = stage.direct(V5, "").await?;
            let mark = format!("mark {}", way.word());
            for qos in 0..3 {
                let id = 10 + u16::from(qos);
                broker.publish_whole(&Publish::new("farm/secret/x", b"no").qos(qos, id)).await?;
            }
            broker.publish_whole(&Publish::new("farm/n1/stock", mark.as_bytes()).qos(2, 1)).await?;
            let line = reader.next().await?;
            assert_eq!(line, format!("farm/n1/stock|2|0|{mark}"), "{way:?}");
        }
        Ok(())
    })
}

/// ACCEPTANCE W9 and US3: the socket dies without a word, which is what lets a will fire.
#[test]
fn a_stranger_with_a_will_is_refused_and_the_will_never_appears() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("farm/#").await?;
        for way in Way::ALL {
            for retain in [false, true] {
                let mut stranger = stage.dial(way).await?;
                let login = stage.stranger(&format!("will-{}-{retain}", way.word()))?;
                let will = Will {
                    topic: "farm/n1/ph".into(),
                    payload: b"my last will".to_vec(),
                    qos: 1,
                    retain,
                };
                let connect = Connect { will: Some(will), ..Connect::of(way.version, &login) };
                let Got::ConnAck { code, reason, .. } = stranger.connack(&connect).await? else {
                    bail!("no CONNACK")
                };
                assert_eq!(code, if way.version == V5 { 0x87 } else { 5 }, "{way:?}");
                assert_eq!(reason.is_some(), way.version == V5, "{way:?}: {reason:?}");
                assert_eq!(stranger.ended(crate::common::PATIENCE).await?, [], "{way:?}");
                let connects = stage.site.recorder()?.connects();
                ensure!(
                    !connects.iter().any(|connect| connect.client_id.ends_with(&login.client_id)),
                    "the broker saw the CONNECT"
                );
            }
        }
        // A will of who may publish does fire, so the spy would have heard the others.
        let will = Will {
            topic: "farm/n1/ph".into(),
            payload: b"an honest will".to_vec(),
            qos: 1,
            retain: false,
        };
        let connect =
            Connect { will: Some(will), ..Connect::of(V311, &stage.publisher("honest-will")?) };
        let client: Raw = stage.session_of(Way::plain(V311), &connect).await?;
        drop(client);
        spy.until(crate::common::PATIENCE, |heard| heard.payload == b"an honest will").await?;
        ensure!(
            !spy.heard().iter().any(|heard| heard.payload == b"my last will"),
            "the will of a stranger fired"
        );
        Ok(())
    })
}
