//! Packet sequences of every kind, right and wrong, directly at the broker and through the gateway: is the connection open or closed
//! afterwards, and what was said?
//!
//! The project's own sequences run always. Those of Eclipse Mosquitto's broker tests are not ours to hand on: `make conformance VECTORS=folder`
//! takes a folder with their JSON (test/broker/data). What a difference may be, and why, is in docs/mqtt-conformance.md.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use eyre::{OptionExt, Result, WrapErr, bail, ensure, eyre};
use flytrap_mqtt::{ConnectChange, frame, read_connect, rewrite_connect};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::common::raw::{Connect, length, packet, text};
use crate::common::{Stage, V5, V31, V311, Version, run};

/// How a connection stands when all was said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    /// It answers PINGREQ.
    Open,
    /// It was closed.
    Closed,
    /// Neither: it waits for the rest of something.
    Waiting,
}

/// What came of a sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Outcome {
    standing: Standing,
    /// What the client received behind CONNACK, without PINGRESP, which is how its end is told, and DISCONNECT, which is nobody's duty.
    said: Vec<u8>,
}

/// One sequence.
#[derive(Clone, Debug)]
struct Sequence {
    name: String,
    version: Version,
    /// A CONNECT comes first that is not part of it.
    connects: bool,
    steps: Vec<Step>,
    /// As whoever wrote it says.
    closes: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    /// So many octets are awaited.
    Receive(usize),
    /// Another client publishes.
    Elsewhere {
        topic: String,
        qos: u8,
        payload: String,
    },
}

/// Longer than any answer takes; what does not come by then is not coming.
const PATIENCE: Duration = Duration::from_secs(2);

struct Ground<'a> {
    stage: &'a Stage,
    through_gateway: bool,
}

impl Ground<'_> {
    fn address(&self) -> Result<SocketAddr> {
        if self.through_gateway { self.stage.site.mqtt() } else { Ok(self.stage.broker().address) }
    }

    /// A CONNECT as it is, but with a proof where there must be one. What is no CONNECT stays what it is.
    fn proved(&self, octets: &[u8]) -> Result<Vec<u8>> {
        let Ok(Some(first)) = frame(octets, octets.len()) else { return Ok(octets.to_vec()) };
        if !self.through_gateway || first.kind() != 1 || first.octets().len() != octets.len() {
            return Ok(octets.to_vec());
        }
        let Ok(connect) = read_connect(first) else { return Ok(octets.to_vec()) };
        let login = self.stage.stranger(connect.client_id)?;
        let change = ConnectChange {
            user_name: Some(&login.user_name),
            password: Some(login.password.as_bytes()),
            remove_authentication: false,
            ..ConnectChange::new(connect.client_id)
        };
        let mut out = Vec::new();
        rewrite_connect(&connect, &change, &mut out);
        Ok(out)
    }

    async fn play(&self, sequence: &Sequence, client_id: &str) -> Result<Outcome> {
        let mut stream = TcpStream::connect(self.address()?).await?;
        let mut got = Vec::new();
        if sequence.connects {
            let connect = Connect { client_id: client_id.into(), ..Connect::anonymous() };
            stream.write_all(&self.proved(&connect.octets(sequence.version))?).await?;
            let deadline = Instant::now() + 10 * PATIENCE;
            while whole(&got).is_none() {
                let read = timeout_at(deadline, stream.read_buf(&mut got)).await;
                ensure!(read.wrap_err("no CONNACK")?? > 0, "closed before CONNACK");
            }
            let connack = whole(&got).unwrap_or_default();
            ensure!(got[0] == 0x20 && got[3] == 0, "refused: {got:02x?}");
            got.drain(..connack);
        }
        let mut closed = false;
        for step in &sequence.steps {
            match step {
                Step::Send(octets) => {
                    let octets =
                        if sequence.connects { octets.clone() } else { self.proved(octets)? };
                    closed |= stream.write_all(&octets).await.is_err();
                }
                Step::Receive(octets) => {
                    let before = got.len();
                    let deadline = Instant::now() + PATIENCE;
                    while got.len() < before + octets && !closed {
                        match timeout_at(deadline, stream.read_buf(&mut got)).await {
                            Ok(Ok(1..)) => {}
                            Ok(_) => closed = true,
                            Err(_) => break,
                        }
                    }
                }
                Step::Elsewhere { topic, qos, payload } => {
                    self.elsewhere(topic, *qos, payload).await?
                }
            }
        }
        closed |= stream.write_all(&[0xC0, 0]).await.is_err();
        let deadline = Instant::now() + PATIENCE;
        let standing = loop {
            if got.ends_with(&[0xD0, 0]) {
                break Standing::Open;
            }
            match timeout_at(deadline, stream.read_buf(&mut got)).await {
                Ok(Ok(1..)) => {}
                Ok(_) => break Standing::Closed,
                Err(_) if closed => break Standing::Closed,
                Err(_) => break Standing::Waiting,
            }
        };
        Ok(Outcome { standing, said: without_signs(&got) })
    }

    /// Publishes at the broker itself, and returns once the broker has it.
    async fn elsewhere(&self, topic: &str, qos: u8, payload: &str) -> Result<()> {
        let mut stream = TcpStream::connect(self.stage.broker().address).await?;
        let connect = Connect { client_id: "elsewhere".into(), ..Connect::anonymous() };
        let mut body = text(topic);
        if qos > 0 {
            body.extend([0, 1]);
        }
        body.extend(payload.as_bytes());
        let publish = packet(0x30 | qos << 1, &body);
        // A QoS 2 message goes on when it is released.
        let release = if qos == 2 { vec![0x62, 2, 0, 1] } else { vec![] };
        let octets = [connect.octets(V311), publish, release, vec![0xC0, 0]].concat();
        stream.write_all(&octets).await?;
        let mut got = Vec::new();
        while !got.ends_with(&[0xD0, 0]) {
            ensure!(
                timeout(5 * PATIENCE, stream.read_buf(&mut got)).await?? > 0,
                "the broker hung up"
            );
        }
        Ok(())
    }
}

/// Octets of the packet at the front, if all of it is there.
fn whole(octets: &[u8]) -> Option<usize> {
    frame(octets, usize::MAX).ok().flatten().map(|frame| frame.octets().len())
}

fn without_signs(mut octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(length) = whole(octets) {
        if !matches!(octets[0], 0xD0 | 0xE0) {
            out.extend(&octets[..length]);
        }
        octets = &octets[length..];
    }
    out.extend(octets);
    out
}

/// All sequences at both, each with what came of it.
async fn both(stage: &Stage, sequences: &[Sequence]) -> Result<Vec<(Outcome, Outcome)>> {
    let mut outcomes = Vec::new();
    for (nth, sequence) in sequences.iter().enumerate() {
        let client_id = format!("c{nth}");
        let play = |through_gateway| {
            let (ground, client_id) = (Ground { stage, through_gateway }, client_id.clone());
            async move { ground.play(sequence, &client_id).await }
        };
        // One after the other: some sequences use the same topics and the same client identifiers.
        let direct = play(false).await.wrap_err_with(|| format!("direct: {}", sequence.name))?;
        let through = play(true).await.wrap_err_with(|| format!("through: {}", sequence.name))?;
        outcomes.push((direct, through));
    }
    Ok(outcomes)
}

/// Names under no topic are passed, so that only the reading of MQTT decides.
async fn stage() -> Result<Stage> {
    Stage::configured(
        "[access]\nungoverned = \"allow\"\nwildcards = \"narrow\"\n[limits]\nfailures = 1000\n",
    )
    .await
}

/// The project's own sequences: each with whether it ends the connection, by the letter of the standard.
fn own() -> Vec<Sequence> {
    let mut all = Vec::new();
    let mut add = |version: Version, name: &str, octets: Vec<u8>, closes: bool| {
        all.push(Sequence {
            name: format!("{version:?} {name}"),
            version,
            connects: true,
            steps: vec![Step::Send(octets)],
            closes,
        });
    };
    for version in [V31, V311, V5] {
        let none: &[u8] = if version == V5 { &[0] } else { &[] };
        let list = |first, rest: &[u8]| packet(first, &[&[0, 9][..], none, rest].concat());
        let publish = |first, id: &[u8], payload: &[u8]| {
            packet(first, &[&text("own/t")[..], id, none, payload].concat())
        };
        add(version, "nothing", vec![], false);
        add(version, "PUBLISH QoS 0", publish(0x30, &[], b"x"), false);
        add(version, "PUBLISH QoS 1", publish(0x32, &[0, 1], b"x"), false);
        add(version, "PUBLISH QoS 2", publish(0x34, &[0, 1], b"x"), false);
        add(
            version,
            "PUBLISH QoS 2, released",
            [publish(0x34, &[0, 1], b"x"), vec![0x62, 2, 0, 1]].concat(),
            false,
        );
        add(version, "PUBLISH empty", publish(0x30, &[], b""), false);
        add(version, "PUBLISH of 100,000 octets", publish(0x30, &[], &vec![0; 100_000]), false);
        add(version, "PUBLISH QoS 3", publish(0x36, &[0, 1], b"x"), true);
        add(version, "PUBLISH QoS 1 identifier 0", publish(0x32, &[0, 0], b"x"), true);
        add(
            version,
            "PUBLISH to a wildcard",
            packet(0x30, &[&text("own/+")[..], none].concat()),
            true,
        );
        add(version, "PUBLISH to nothing", packet(0x30, &[&text("")[..], none].concat()), true);
        add(version, "PUBLISH with a cut topic", packet(0x30, &[0, 9, b'a']), true);
        add(
            version,
            "PUBLISH to what is no UTF-8",
            packet(0x30, &[&[0, 2, 0xC0, 0xAF][..], none].concat()),
            true,
        );
        add(version, "PUBLISH to U+0000", packet(0x30, &[&text("a\0b")[..], none].concat()), true);
        add(
            version,
            "PUBLISH to a surrogate",
            packet(0x30, &[&[0, 3, 0xED, 0xA0, 0x80][..], none].concat()),
            true,
        );
        add(version, "SUBSCRIBE", list(0x82, b"\x00\x05own/+\x01"), false);
        add(
            version,
            "SUBSCRIBE to three",
            list(0x82, b"\x00\x05own/+\x01\x00\x03o/#\x00\x00\x01z\x02"),
            false,
        );
        add(version, "SUBSCRIBE to nothing", list(0x82, b""), true);
        add(version, "SUBSCRIBE with a # in the middle", list(0x82, b"\x00\x03#/a\x00"), true);
        add(version, "SUBSCRIBE with a + in a level", list(0x82, b"\x00\x02a+\x00"), true);
        add(version, "SUBSCRIBE with QoS 3", list(0x82, b"\x00\x01a\x03"), true);
        add(
            version,
            "SUBSCRIBE identifier 0",
            packet(0x82, &[&[0, 0][..], none, b"\x00\x01a\x00"].concat()),
            true,
        );
        add(version, "SUBSCRIBE flags", list(0x80, b"\x00\x01a\x00"), true);
        add(version, "UNSUBSCRIBE", list(0xA2, b"\x00\x01a"), false);
        add(version, "UNSUBSCRIBE from nothing", list(0xA2, b""), true);
        add(version, "UNSUBSCRIBE flags", list(0xA0, b"\x00\x01a"), true);
        add(version, "PINGREQ", vec![0xC0, 0], false);
        add(version, "PINGREQ flags", vec![0xC1, 0], true);
        add(version, "PINGREQ with a body", vec![0xC0, 1, 0], true);
        add(version, "DISCONNECT", vec![0xE0, 0], true);
        add(version, "a second CONNECT", Connect::anonymous().octets(version), true);
        add(version, "CONNACK", vec![0x20, 2, 0, 0], true);
        add(version, "SUBACK", list(0x90, &[0]), true);
        add(version, "UNSUBACK", list(0xB0, none), true);
        add(version, "PINGRESP", vec![0xD0, 0], true);
        add(version, "packet type 0", vec![0, 0], true);
        add(version, "a length of five octets", vec![0x30, 0x80, 0x80, 0x80, 0x80, 1], true);
        add(version, "PUBREL flags", vec![0x60, 2, 0, 1], true);
        if version == V5 {
            let with = |properties: &[u8]| {
                packet(
                    0x30,
                    &[&text("own/t")[..], &length(properties.len()), properties, b"x"].concat(),
                )
            };
            add(version, "a user property", with(b"\x26\x00\x01a\x00\x01b"), false);
            add(
                version,
                "a user property twice",
                with(b"\x26\x00\x01a\x00\x01b\x26\x00\x01a\x00\x01b"),
                false,
            );
            add(version, "a message expiry", with(&[2, 0, 0, 0, 9]), false);
            add(version, "a message expiry twice", with(&[2, 0, 0, 0, 9, 2, 0, 0, 0, 9]), true);
            add(version, "a topic alias", with(&[0x23, 0, 1]), false);
            add(version, "topic alias 0", with(&[0x23, 0, 0]), true);
            add(version, "a topic alias past the maximum", with(&[0x23, 0xFF, 0xFF]), true);
            add(version, "a subscription identifier from a client", with(&[0x0B, 1]), true);
            add(version, "a property that is none", with(&[0x7E, 1]), true);
            add(version, "a property of CONNECT", with(&[0x21, 0, 1]), true);
            add(
                version,
                "properties past the end",
                packet(0x30, &[&text("own/t")[..], &[9, 2]].concat()),
                true,
            );
            add(version, "a response topic with a wildcard", with(b"\x08\x00\x01#"), true);
            add(version, "No Local on a share", list(0x82, b"\x00\x0A$share/g/a\x04"), true);
            add(version, "retain handling 3", list(0x82, b"\x00\x01a\x30"), true);
            add(version, "AUTH without a method", vec![0xF0, 2, 0x18, 0], true);
        } else {
            add(version, "AUTH", vec![0xF0, 0], true);
        }
    }
    all
}

#[test]
fn own_sequences_end_as_the_standard_says_and_what_goes_on_is_as_without_the_gateway() -> Result<()>
{
    run(async {
        let stage = stage().await?;
        let sequences = own();
        ensure!(sequences.len() > 100);
        let mut wrong = Vec::new();
        for (sequence, (direct, through)) in sequences.iter().zip(both(&stage, &sequences).await?) {
            let wanted = if sequence.closes { Standing::Closed } else { Standing::Open };
            if through.standing != wanted {
                wrong.push(format!("{}: {:?}, wanted {wanted:?}", sequence.name, through.standing));
            } else if wanted == Standing::Open && through != direct {
                wrong.push(format!(
                    "{}: {through:02x?}, without the gateway {direct:02x?}",
                    sequence.name
                ));
            }
        }
        ensure!(wrong.is_empty(), "{wrong:#?}");
        Ok(())
    })
}

/// A group of Mosquitto's sequences.
#[derive(Deserialize)]
struct Group {
    group: String,
    ver: Option<u8>,
    connect: Option<bool>,
    expect_disconnect: Option<bool>,
    tests: Vec<Vector>,
}

#[derive(Deserialize)]
struct Vector {
    name: String,
    ver: Option<u8>,
    connect: Option<bool>,
    expect_disconnect: Option<bool>,
    msgs: Vec<Message>,
}

#[derive(Deserialize)]
struct Message {
    r#type: String,
    payload: String,
    topic: Option<String>,
    qos: Option<u8>,
}

fn read_vectors(folder: &Path) -> Result<Vec<Sequence>> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .wrap_err_with(|| format!("VECTORS={}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let groups: Vec<Group> = serde_json::from_slice(&std::fs::read(&file)?)
            .wrap_err_with(|| file.display().to_string())?;
        for group in groups {
            for test in group.tests {
                let name = format!("{} / {}", group.group, test.name);
                let version = match test.ver.or(group.ver) {
                    Some(3) => V31,
                    Some(4) => V311,
                    Some(5) => V5,
                    other => bail!("{name}: version {other:?}"),
                };
                let steps = test
                    .msgs
                    .iter()
                    .map(step)
                    .collect::<Result<_>>()
                    .wrap_err_with(|| name.clone())?;
                let connects = test.connect.or(group.connect).unwrap_or(true);
                let closes = test.expect_disconnect.or(group.expect_disconnect).unwrap_or(true);
                all.push(Sequence { name, version, connects, steps, closes });
            }
        }
    }
    ensure!(!all.is_empty(), "no sequence in {}", folder.display());
    Ok(all)
}

fn step(message: &Message) -> Result<Step> {
    Ok(match message.r#type.as_str() {
        "send" => Step::Send(octets(&message.payload)?),
        "recv" => Step::Receive(octets(&message.payload)?.len()),
        "external_publish" => Step::Elsewhere {
            topic: message.topic.clone().ok_or_eyre("a topic")?,
            qos: message.qos.unwrap_or(0),
            payload: message.payload.clone(),
        },
        other => bail!("a message of type {other}"),
    })
}

/// The small language of the payloads: text in quotes, numbers behind a letter that says how they are written, everything else in hex.
fn octets(told: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = told.trim();
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('\'') {
            let (text, behind) = quoted.split_once('\'').ok_or_eyre("an open quote")?;
            out.extend(text.as_bytes());
            rest = behind.trim_start();
            continue;
        }
        let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
        rest = behind.trim_start();
        let number = |from: usize| word.get(from..).and_then(|digits| digits.parse::<u32>().ok());
        match (word.chars().next(), number(1)) {
            (Some('r' | 'v'), Some(value)) => out.extend(length(value as usize)),
            (Some('s' | 'm' | 'k' | 'H'), Some(value)) => {
                out.extend(u16::try_from(value)?.to_be_bytes())
            }
            (Some('i'), Some(value)) => out.push(u8::try_from(value)?),
            (Some('L'), Some(value)) => out.extend(value.to_be_bytes()),
            _ => out.extend(hex::decode(word).wrap_err_with(|| format!("{word:?} in {told:?}"))?),
        }
    }
    Ok(out)
}

#[test]
#[ignore = "the sequences are Eclipse Mosquitto's and not part of this repository: make conformance VECTORS=folder"]
fn sequences_of_mosquitto_end_as_it_says_and_never_more_leniently() -> Result<()> {
    let folder = std::env::var_os("VECTORS").filter(|folder| !folder.is_empty()).ok_or_else(|| {
        eyre!("VECTORS is not set: a folder with the JSON files of Eclipse Mosquitto's test/broker/data")
    })?;
    run(async {
        let stage = stage().await?;
        let sequences = read_vectors(Path::new(&folder))?;
        let outcomes = both(&stage, &sequences).await?;
        let mut tally: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let mut count =
            |what: &'static str, name: String| tally.entry(what).or_default().push(name);
        for (sequence, (direct, through)) in sequences.iter().zip(outcomes) {
            let name = format!(
                "{} (wanted {}, direct {:?}, through {:?})",
                sequence.name,
                if sequence.closes { "Closed" } else { "Open" },
                direct.standing,
                through.standing
            );
            let wanted = if sequence.closes { Standing::Closed } else { Standing::Open };
            count("all", name.clone());
            if direct.standing != wanted {
                count("the broker itself ends otherwise", name.clone());
            }
            match (wanted, through.standing) {
                _ if through.standing == wanted => count("as wanted", name.clone()),
                (Standing::Closed, _) => count("MORE LENIENT", name.clone()),
                _ => count("stricter", name.clone()),
            }
            match (direct.standing, through.standing) {
                _ if direct == through => count("as without the gateway, to the octet", name),
                (one, other) if one == other => {
                    count(
                        "same end, other octets",
                        format!("{name}: {:02x?} | {:02x?}", direct.said, through.said),
                    );
                }
                (Standing::Closed, _) => count("open where the broker closes", name),
                _ => count("closed where the broker stays open", name),
            }
        }
        for (what, names) in &tally {
            println!("{:5} {what}", names.len());
        }
        for what in [
            "MORE LENIENT",
            "stricter",
            "open where the broker closes",
            "same end, other octets",
            "closed where the broker stays open",
        ] {
            for name in tally.get(what).into_iter().flatten() {
                println!("{what}: {name}");
            }
        }
        let number = |what: &str| tally.get(what).map_or(0, Vec::len);
        let lenient = tally.get("MORE LENIENT");
        ensure!(lenient.is_none(), "open where the sequences say closed: {lenient:#?}");
        let (right, all) = (number("as wanted"), number("all"));
        ensure!(right * 1000 >= all * 995, "{right} of {all} end as wanted: less than 99.5 %");
        Ok(())
    })
}
