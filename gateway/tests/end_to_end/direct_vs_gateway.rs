//! For what is allowed a client cannot tell the gateway from the broker: the same scenario, played by the same library directly at
//! the broker and through the gateway, is told in the same words.

use crate::common::foreign::{Foreign, Library};
use crate::common::raw::Publish;
use crate::common::stock::Target;
use crate::common::{PUBLIC, RETAIN, Stage, V5, V31, V311, Version, run};
use eyre::{Result, ensure};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE
        .get_or_try_init(|| async {
            let stage = Stage::new().await?;
            stage.topic_with("same", RETAIN, PUBLIC, PUBLIC).await?;
            stage.caught_up().await?;
            Ok(stage)
        })
        .await
}

/// What a client was told, without what may differ by chance: acknowledgements come when they come, so each kind is told in its own
/// order, and messages of one topic and `QoS` in theirs.
fn tale(client: &Foreign) -> Value {
    let of = |kind: &str| {
        client.told.iter().filter(|event| event["event"] == kind).cloned().collect::<Vec<_>>()
    };
    let mut messages = of("message");
    messages.sort_by_key(|message| (message["topic"].to_string(), message["qos"].to_string()));
    json!({
        "connack": of("connack"), "suback": of("suback"), "unsuback": of("unsuback"), "published": of("published"),
        "messages": messages, "error": of("error"),
    })
}

/// Plays it and returns what every client was told.
async fn play(
    stage: &Stage,
    target: &Target,
    library: Library,
    version: Version,
    name: &str,
) -> Result<Vec<Value>> {
    let base = format!("same/{name}");
    let topic = |rest: &str| format!("{base}/{rest}");
    let login = |id: &str| stage.stranger(&format!("{name}-{id}"));
    let more = if version == V5 { json!({"session_expiry": 300}) } else { json!({}) };
    let mut tales = Vec::new();

    // A subscriber with a session that lasts, and overlapping filters.
    let mut reader = Foreign::start(library)?;
    let mut keep = more.clone();
    keep["clean"] = json!(false);
    reader.connect(target, version, &login("reader")?, keep.clone()).await?;
    reader.subscribe(&[(&topic("a"), 0), (&topic("b"), 1), (&topic("c"), 2)]).await?;
    reader.subscribe(&[(&topic("deep/+/x"), 1), (&topic("tree/#"), 2)]).await?;

    // A publisher with a will.
    let mut publisher = Foreign::start(library)?;
    let mut will = more.clone();
    will["will"] =
        json!({"topic": topic("tree/will"), "payload": "gone", "qos": 1, "retain": false});
    publisher.connect(target, version, &login("publisher")?, will).await?;
    for qos in 0..3 {
        for name in ["a", "b", "c", "deep/1/x", "deep/2/y", "tree", "tree/1/2"] {
            publisher.publish(&topic(name), &format!("{name} {qos}"), qos, false).await?;
        }
    }
    if version == V5 {
        let user = json!([["n", "1"], ["n", "2"], ["m", ""], ["n", "3"]]);
        publisher.tell(json!({"do": "publish", "topic": topic("c"), "payload": "user", "qos": 2, "retain": false, "user": user})).await?;
        publisher.event("published").await?;
    }
    for qos in 0..3 {
        publisher
            .publish(&topic(&format!("kept/{qos}")), &format!("kept {qos}"), qos, true)
            .await?;
    }
    publisher.publish(&topic("tree/end"), "end", 2, false).await?;
    until_message(&mut reader, "end").await?;

    // Retained messages come with a new subscription, and an empty one deletes.
    reader.subscribe(&[(&topic("kept/#"), 2)]).await?;
    for _ in 0..3 {
        until_message(&mut reader, "kept").await?;
    }
    for qos in 0..3 {
        publisher.publish(&topic(&format!("kept/{qos}")), "", 1, true).await?;
    }

    // Away and back: what came meanwhile is delivered, at QoS 1 and 2.
    reader.tell(json!({"do": "unsubscribe", "filters": [topic("a")]})).await?;
    reader.event("unsuback").await?;
    reader.tell(json!({"do": "disconnect"})).await?;
    reader.event("closed").await?;
    tales.push(tale(&reader));
    for qos in 0..3 {
        publisher.publish(&topic("c"), &format!("missed {qos}"), qos, false).await?;
    }
    let mut again = Foreign::start(library)?;
    let connack = again.connect(target, version, &login("reader")?, keep).await?;
    ensure!(connack["present"] == true || version == V31, "the session was not kept: {connack}");
    until_message(&mut again, "missed 2").await?;

    // The publisher loses its power, and its will is told.
    tales.push(tale(&publisher));
    publisher.kill().await?;
    until_message(&mut again, "gone").await?;
    tales.push(tale(&again));
    // Nothing is left behind for the next play.
    again.tell(json!({"do": "disconnect"})).await?;
    again.event("closed").await?;
    let mut clean = Foreign::start(library)?;
    let mut forget = more;
    forget["clean"] = json!(true);
    if version == V5 {
        forget["session_expiry"] = json!(0);
    }
    clean.connect(target, version, &login("reader")?, forget).await?;
    clean.tell(json!({"do": "disconnect"})).await?;
    clean.event("closed").await?;
    Ok(tales)
}

async fn until_message(client: &mut Foreign, payload: &str) -> Result<()> {
    loop {
        let message = client.event("message").await?;
        if message["payload"].as_str().is_some_and(|found| found.starts_with(payload)) {
            return Ok(());
        }
    }
}

async fn compare(library: Library, version: Version) -> Result<()> {
    let stage = stage().await?;
    for tls in [false, true] {
        let name = format!("{library:?}-{}-{tls}", version.level());
        let direct = play(stage, &stage.broker(), library, version, &name).await?;
        let through = play(stage, &stage.target(tls)?, library, version, &name).await?;
        assert_eq!(direct.len(), 3);
        ensure!(
            direct.iter().any(|tale| tale["messages"]
                .as_array()
                .is_some_and(|messages| messages.len() > 10)),
            "the play is empty: {direct:#?}"
        );
        for (direct, through) in direct.iter().zip(&through) {
            assert_eq!(direct, through, "{name}: directly, and through the gateway");
        }
    }
    Ok(())
}

#[test]
fn paho_sees_the_same_through_the_gateway_as_directly_with_3_1_1() -> Result<()> {
    run(compare(Library::Paho, V311))
}

#[test]
fn paho_sees_the_same_through_the_gateway_as_directly_with_5() -> Result<()> {
    run(compare(Library::Paho, V5))
}

#[test]
fn mqtt_js_sees_the_same_through_the_gateway_as_directly_with_3_1() -> Result<()> {
    run(compare(Library::MqttJs, V31))
}

#[test]
fn mqtt_js_sees_the_same_through_the_gateway_as_directly_with_3_1_1() -> Result<()> {
    run(compare(Library::MqttJs, V311))
}

#[test]
fn mqtt_js_sees_the_same_through_the_gateway_as_directly_with_5() -> Result<()> {
    run(compare(Library::MqttJs, V5))
}

/// Octets, not only tales: what a raw client publishes arrives at a direct subscriber as if it had been published directly.
#[test]
fn a_large_message_arrives_whole_both_ways() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let payload: Vec<u8> = (0..500_000_u32)
            .map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap_or_default())
            .collect();
        for way in crate::common::Way::ALL {
            let mut reader =
                stage.session(way, &stage.stranger(&format!("large-r-{}", way.word()))?).await?;
            let topic = format!("same/large/{}", way.word());
            assert_eq!(reader.subscribe(&[(&topic, 1)]).await?, [1]);
            let mut publisher =
                stage.session(way, &stage.stranger(&format!("large-p-{}", way.word()))?).await?;
            publisher.publish(&Publish::new(&topic, &payload).qos(1, 1)).await?;
            ensure!(reader.delivery().await?.payload == payload, "{way:?}");
        }
        Ok(())
    })
}
