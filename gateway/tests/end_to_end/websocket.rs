//! MQTT over WebSocket: what is allowed reaches the broker octet by octet as by TCP, and what breaks the rules of WebSocket never does.

use std::time::{Duration, Instant};

use crate::common::foreign::{Foreign, Library};
use crate::common::raw::{
    Connect, DISCONNECT, Got, PINGREQ, Publish, Raw, Will, acknowledge, subscribe,
};
use crate::common::websocket::{
    self as ws, BINARY, CLOSE, GOOD, PING, PONG, TEXT, frame, header, listener, request, unmasked,
};
use crate::common::{
    EVERY_VERSION, PATIENCE, Stage, V5, V31, V311, Version, http, refused_filter, run, until,
};
use eyre::{Result, ensure, eyre};
use flytrap_site::Seen;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(|| Stage::on_the_web("10s")).await
}

/// Long before the connect deadline of the stage, with a busy machine in mind.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Every octet of one session, both ways, with every kind of packet in it.
async fn script(client: &mut Raw, connect: &Connect, topic: &str) -> Result<Vec<Vec<u8>>> {
    let version = client.version;
    let large: Vec<u8> =
        (0..150_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    let mut heard = Vec::new();
    let steps = [
        (connect.octets(version), 1),
        (subscribe(version, 7, &[(topic, 2)]), 1),
        (Publish::new(topic, b"zero").octets(version), 1),
        (Publish::new(topic, b"").qos(1, 11).octets(version), 2),
        (Publish::new(topic, b"two").qos(2, 12).octets(version), 1),
        (acknowledge(0x62, 12), 2),
        (Publish::new(topic, &large).octets(version), 1),
        ([Publish::new("open/elsewhere", b"x").octets(version), PINGREQ.to_vec()].concat(), 1),
    ];
    for (octets, answers) in steps {
        client.send(octets).await?;
        let mut got = Vec::new();
        for _ in 0..answers {
            got.push(client.next(PATIENCE).await?.ok_or_else(|| eyre!("ended"))?);
        }
        // An acknowledgement and a delivery may overtake each other.
        got.sort();
        heard.extend(got);
    }
    client.send(DISCONNECT).await?;
    ensure!(client.next(PATIENCE).await?.is_none(), "something after DISCONNECT");
    Ok(heard)
}

/// [MQTT-6.0.0-2]. The octets to the broker and those to the client are those of the same session directly at the broker, whatever the
/// frames.
#[test]
fn however_packets_lie_in_frames_broker_and_client_get_the_same_octets_as_directly() -> Result<()> {
    run(async {
        // A stage of its own, so that nobody else is on the tape.
        let stage = Stage::on_the_web("10s").await?;
        let recorder = stage.site.recorder()?;
        for version in EVERY_VERSION {
            let login = stage.stranger("same")?;
            let connect = Connect::of(version, &login);
            // What the broker is to see of the login: the wallet in the client id, and no proof.
            let wallet = hex::encode(stage.site.wallets.stranger.address());
            let bare = Connect { client_id: format!("{wallet}-same"), ..Connect::anonymous() };
            let over = || async {
                until("the session to be over", || async {
                    Ok((recorder.connections().1 == 0).then_some(()))
                })
                .await
            };
            over().await?;
            recorder.rewind();
            let mut direct = Raw::plain(version, recorder.address()).await?;
            let heard = script(&mut direct, &bare, "open/same").await?;
            drop(direct);
            over().await?;
            let tape = recorder.octets_from_gateway();
            ensure!(tape.len() > 150_000 && heard.len() == 10, "{} {}", tape.len(), heard.len());
            let mut ways = 0;
            for lengths in [&[][..], &[1], &[2, 3, 5, 7], &[100, 1, 65_535, 65_536], &[1_000_000]] {
                for tls in [false, true] {
                    recorder.rewind();
                    let mut client = match lengths {
                        [] => stage.dial(crate::common::Way { version, tls }).await?,
                        lengths => stage.web_raw(version, tls, lengths).await?,
                    };
                    let other = script(&mut client, &connect, "open/same").await?;
                    over().await?;
                    let other_tape = recorder.octets_from_gateway();
                    ways += 1;
                    let way = format!("{version:?} {lengths:?} {tls}");
                    ensure!(heard == other, "{way}: the client heard other octets");
                    ensure!(tape == other_tape, "{way}: the broker got other octets");
                }
            }
            assert_eq!(ways, 10);
        }
        Ok(())
    })
}

#[test]
fn many_packets_in_one_frame_and_frames_that_did_not_wait_for_the_answer_are_served() -> Result<()>
{
    run(async {
        let stage = stage().await?;
        for (tls, version) in [(false, V311), (true, V5)] {
            let spy = stage.site.spy("open/batch").await?;
            let login = stage.stranger(&format!("batch-{}", version.level()))?;
            let mut packets = Connect::of(version, &login).octets(version);
            for n in 0..200_u8 {
                packets.extend(Publish::new("open/batch", &[n]).octets(version));
            }
            let mut stream = stage.web_dial(tls).await?;
            let all = [request("/mqtt", &GOOD), frame(BINARY, &packets)].concat();
            let (status, text) = ws::ask(&mut stream, &all).await?;
            ensure!(status == 101, "{text}");
            spy.until(PATIENCE, |heard| heard.payload == [199]).await?;
        }
        Ok(())
    })
}

/// Requests that are no WebSocket for MQTT, with the status that says so.
fn bad_requests() -> Vec<(&'static str, Vec<u8>, u16)> {
    let without = |name: &str| {
        let headers: Vec<&str> =
            GOOD.into_iter().filter(|header| !header.starts_with(name)).collect();
        request("/mqtt", &headers)
    };
    let with = |name: &str, header: &str| {
        let headers: Vec<&str> = GOOD
            .into_iter()
            .map(|good| if good.starts_with(name) { header } else { good })
            .collect();
        request("/mqtt", &headers)
    };
    let long = format!("X: {}", "x".repeat(17_000));
    vec![
        ("no sub-protocol", without("Sec-WebSocket-Protocol"), 400),
        (
            "another sub-protocol",
            with("Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: chat"),
            400,
        ),
        ("no upgrade", without("Upgrade"), 426),
        ("an old version", with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8"), 426),
        ("no key", without("Sec-WebSocket-Key"), 426),
        ("another path", request("/", &GOOD), 404),
        ("a page", request("/mqtt", &[]), 426),
        ("too long", [&request("/mqtt", &GOOD)[..20], long.as_bytes()].concat(), 431),
        ("a method", b"POST /mqtt HTTP/1.1\r\n\r\n".to_vec(), 400),
        ("MQTT at once", b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c".to_vec(), 400),
    ]
}

/// THREATS C31, [MQTT-6.0.0-3], [MQTT-6.0.0-4].
#[test]
fn a_request_that_is_not_for_mqtt_is_refused_and_the_next_client_is_served() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for tls in [false, true] {
            for (what, octets, wanted) in bad_requests() {
                let mut stream = stage.web_dial(tls).await?;
                let (status, text) = ws::ask(&mut stream, &octets).await?;
                assert_eq!(status, wanted, "{what}: {text}");
                ensure!(ws::rest(&mut stream, AT_ONCE).await.is_some(), "{what}: still open");
            }
            let mut honest = stage.web_raw(V5, tls, &[1000]).await?;
            assert_eq!(honest.connect(&Connect::of(V5, &stage.stranger("honest")?)).await?, 0);
        }
        Ok(())
    })
}

/// What a client may not send, with the code that says so. Each holds a CONNECT that would be granted, where there is room for one.
fn violations(connect: &[u8]) -> Vec<(&'static str, Vec<u8>, u16)> {
    let huge = |length| header(BINARY, length, Some([1, 2, 3, 4]));
    vec![
        ("a text frame", frame(TEXT, connect), 1003),
        ("a text fragment", frame(0x01, connect), 1003),
        ("an unmasked frame", unmasked(BINARY, connect), 1002),
        ("a reserved bit", frame(BINARY | 0x40, connect), 1002),
        ("a reserved opcode", frame(0x83, connect), 1002),
        ("a continuation of nothing", frame(0x80, connect), 1002),
        ("a message in a message", [frame(0x02, b""), frame(BINARY, connect)].concat(), 1002),
        ("a fragmented ping", frame(0x09, connect), 1002),
        ("a long ping", frame(PING, &[0; 126]), 1002),
        ("a frame beyond the limit", huge(1024 * 1024 + 1), 1009),
        ("a frame of 2^63 octets", huge(1 << 63), 1009),
        ("a flood of pings", frame(PING, b"ping").repeat(200), 1008),
        ("a flood of empty frames", frame(BINARY, b"").repeat(200), 1008),
    ]
}

/// The code of the Close frame with which `octets` end, whatever stands before it.
fn close_code(octets: &[u8]) -> Option<u16> {
    match octets {
        [.., CLOSE, 2, high, low] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// THREATS C31, [MQTT-6.0.0-1].
#[test]
fn whatever_breaks_the_protocol_before_the_proof_ends_at_once_and_the_broker_sees_nothing()
-> Result<()> {
    run(async {
        let stage = stage().await?;
        for tls in [false, true] {
            let login = stage.stranger("never")?;
            let cases = violations(&Connect::of(V311, &login).octets(V311));
            assert_eq!(cases.len(), 13);
            for (what, octets, code) in cases {
                let mut stream = stage.web_dial(tls).await?;
                let (status, text) = ws::ask(&mut stream, &request("/mqtt", &GOOD)).await?;
                ensure!(status == 101, "{text}");
                // It may be refused before all of it is written.
                let _ = stream.write_all(&octets).await;
                let answer = ws::rest(&mut stream, AT_ONCE)
                    .await
                    .ok_or_else(|| eyre!("{what}: still open"))?;
                assert_eq!(close_code(&answer), Some(code), "{what}: {answer:02x?}");
            }
        }
        ensure!(!saw_connect(stage, "never")?, "the broker saw one of them");
        Ok(())
    })
}

fn saw_connect(stage: &Stage, client_id: &str) -> Result<bool> {
    let end = format!("-{client_id}");
    let connects = stage.site.recorder()?.connects();
    Ok(connects.iter().any(|connect| connect.client_id.ends_with(&end)))
}

#[test]
fn a_violation_ends_a_session_and_nothing_of_it_reaches_the_broker() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for (n, tls) in [(0, false), (20, true)] {
            let publish = |topic: &str| Publish::new(topic, b"x").octets(V311);
            for (n, (what, octets, code)) in (n..).zip(violations(&publish("open/smuggled"))) {
                let login = stage.stranger(&format!("violation-{n}"))?;
                let mut stream = stage.web_dial(tls).await?;
                ws::ask(&mut stream, &request("/mqtt", &GOOD)).await?;
                let before = format!("open/before-{n}");
                let packets = [Connect::of(V311, &login).octets(V311), publish(&before)].concat();
                stream.write_all(&frame(BINARY, &packets)).await?;
                stage.site.recorder()?.until(PATIENCE, |tape| tape.saw_publish(&before)).await?;
                let _ = stream.write_all(&octets).await;
                let _ = stream.write_all(&frame(BINARY, &publish("open/smuggled"))).await;
                let answer = ws::rest(&mut stream, PATIENCE)
                    .await
                    .ok_or_else(|| eyre!("{what}: still open"))?;
                assert_eq!(close_code(&answer), Some(code), "{what}: {answer:02x?}");
            }
        }
        ensure!(!stage.site.recorder()?.saw_publish("open/smuggled"), "the broker saw it");
        Ok(())
    })
}

/// THREATS D01 to D03, C31: the deadline counts from accept, whatever stage of the handshake a connection is at.
#[test]
fn half_handshakes_and_trickles_end_at_the_deadline_that_counts_from_accept() -> Result<()> {
    run(async {
        let stage = &Stage::on_the_web("1s").await?;
        for tls in [false, true] {
            let full = request("/mqtt", &GOOD);
            let connect = Connect::of(V311, &stage.stranger("trickle")?).octets(V311);
            let cases: [(&str, Vec<u8>, Vec<u8>); 6] = [
                ("silent", vec![], vec![]),
                ("half a request", full[..40].to_vec(), vec![]),
                ("a request by octets", vec![], full.clone()),
                ("silent after the handshake", full.clone(), vec![]),
                ("a CONNECT by frames of one octet", full.clone(), connect),
                ("pings", full, vec![b'p'; 200]),
            ];
            let mut ended = Vec::new();
            for (what, first, trickle) in cases {
                let mut stream = stage.web_dial(tls).await?;
                let began = Instant::now();
                stream.write_all(&first).await?;
                ended.push(tokio::spawn(async move {
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    let drip = async {
                        for octet in trickle {
                            let octets = match what {
                                "pings" => frame(PING, b""),
                                "a request by octets" => vec![octet],
                                _ => frame(BINARY, &[octet]),
                            };
                            if writer.write_all(&octets).await.is_err() {
                                break;
                            }
                            let _ = writer.flush().await;
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                        std::future::pending::<()>().await;
                    };
                    let mut answer = Vec::new();
                    let read = tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut answer);
                    tokio::select! {
                        _ = read => {}
                        () = drip => {}
                        () = tokio::time::sleep(PATIENCE) => {}
                    }
                    (what, began.elapsed())
                }));
            }
            for ended in ended {
                let (what, after) = ended.await?;
                // With a busy machine in mind.
                ensure!(
                    after < Duration::from_secs(3),
                    "{what} (TLS: {tls}) ended after {after:?}"
                );
                ensure!(after > Duration::from_millis(700), "{what} ended after {after:?} already");
            }
        }
        ensure!(!saw_connect(stage, "trickle")?, "the broker saw it");
        Ok(())
    })
}

/// THREATS D01.
#[test]
fn five_hundred_silent_connections_are_gone_at_the_deadline_and_others_are_served_meanwhile()
-> Result<()> {
    run(async {
        let stage = Stage::on_the_web("1s").await?;
        let health = stage.site.gateway()?.health();
        let mut silent = Vec::new();
        for n in 0..500 {
            let mut stream = match n % 5 {
                // Half a ClientHello.
                4 => ws::dial(stage.web_target(true)?.address, None).await?,
                n => stage.web_dial(n % 2 == 1).await?,
            };
            match n % 5 {
                4 => stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await?,
                2 | 3 => stream.write_all(&request("/mqtt", &GOOD)).await?,
                _ => {}
            }
            silent.push(stream);
        }
        let mut canary = stage.web_raw(V5, true, &[100]).await?;
        assert_eq!(canary.connect(&Connect::of(V5, &stage.stranger("canary")?)).await?, 0);
        for _ in 0..20 {
            let began = Instant::now();
            assert_eq!(canary.ping().await?, []);
            ensure!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        }
        until("all but the canary to be gone", || async {
            Ok((http::metric(health, "flytrap_connections").await? <= 1.0).then_some(()))
        })
        .await?;
        assert_eq!(canary.ping().await?, []);
        drop(silent);
        Ok(())
    })
}

#[test]
fn before_a_proof_no_packet_larger_than_the_limit_is_waited_for_however_it_is_framed() -> Result<()>
{
    run(async {
        let stage = stage().await?;
        for tls in [false, true] {
            let claims = [&[0x10, 0xff, 0xff, 0x3f][..], &[0; 20_000]].concat();
            for lengths in [vec![1], vec![100_000]] {
                let mut stream = stage.web_dial(tls).await?;
                ws::ask(&mut stream, &request("/mqtt", &GOOD)).await?;
                let began = Instant::now();
                for part in claims.chunks(lengths[0]).take(1000) {
                    if stream.write_all(&frame(BINARY, part)).await.is_err() {
                        break;
                    }
                }
                let answer = ws::rest(&mut stream, PATIENCE).await;
                ensure!(answer.is_some(), "still open");
                ensure!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
            }
        }
        Ok(())
    })
}

#[test]
fn a_page_of_a_foreign_origin_is_refused_where_origins_are_listed() -> Result<()> {
    run(async {
        let mut stage = Stage::on_the_web("10s").await?;
        let more = "allow_tokens_without_tls = true\n[websocket]\npath = \"/m\"\nallowed_origins = [\"https://app.example\"]";
        stage.listen_too(vec![listener("picky", more)?]).await?;
        let address = stage.site.gateway()?.listener("picky")?;
        for (origin, wanted) in [
            (Some("Origin: https://app.example"), 101),
            (None, 101),
            (Some("Origin: https://evil.example"), 403),
            (Some("Origin: null"), 403),
        ] {
            let headers: Vec<&str> = GOOD.into_iter().chain(origin).collect();
            let mut stream = ws::dial(address, None).await?;
            let (status, text) = ws::ask(&mut stream, &request("/m", &headers)).await?;
            assert_eq!(status, wanted, "{origin:?}: {text}");
            let (status, _) =
                ws::ask(&mut stage.web_dial(false).await?, &request("/mqtt", &headers)).await?;
            assert_eq!(status, 101, "where none is listed all are allowed");
        }
        Ok(())
    })
}

#[test]
fn pings_are_answered_between_packets_and_a_close_ends_the_session_in_order() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for tls in [false, true] {
            let mut stream = stage.web_dial(tls).await?;
            ws::ask(&mut stream, &request("/mqtt", &GOOD)).await?;
            let login = stage.stranger(&format!("pings-{tls}"))?;
            let connect = Connect::of(V311, &login).octets(V311);
            let (first, second) = connect.split_at(9);
            // Control frames may lie between the fragments of a message (RFC 6455 section 5.4).
            let octets = [frame(0x02, first), frame(PING, b"beat"), frame(0x80, second)].concat();
            stream.write_all(&octets).await?;
            stage
                .site
                .recorder()?
                .until(PATIENCE, |tape| {
                    tape.connects().iter().any(|c| c.client_id.ends_with(&format!("-pings-{tls}")))
                })
                .await?;
            let last = [frame(BINARY, &DISCONNECT), frame(CLOSE, &[3, 232])].concat();
            stream.write_all(&last).await?;
            let answer = ws::rest(&mut stream, PATIENCE).await.ok_or_else(|| eyre!("open"))?;
            let wanted = [
                unmasked(PONG, b"beat"),
                unmasked(BINARY, &[0x20, 2, 0, 0]),
                unmasked(CLOSE, &[3, 232]),
            ];
            assert_eq!(answer, wanted.concat(), "{answer:02x?}");
        }
        Ok(())
    })
}

#[test]
fn a_refused_publish_and_subscribe_over_websocket_never_reach_the_broker() -> Result<()> {
    run(async {
        let stage = stage().await?;
        for (tls, version) in [(false, V311), (true, V311), (false, V5), (true, V5)] {
            let name = format!("refused-{tls}-{}", version.level());
            let mut client = stage.web_raw(version, tls, &[3, 50]).await?;
            let connect = Connect::of(version, &stage.stranger(&name)?);
            assert_eq!(client.connect(&connect).await?, 0);
            let (closed, open) = (format!("closed/{name}"), format!("open/{name}"));
            let codes = client.subscribe(&[(&closed, 1), (&open, 1)]).await?;
            assert_eq!(codes, [refused_filter(version), 1]);
            client.publish(&Publish::new(&closed, b"x").qos(1, 1)).await?;
            let Got::Ack { kind: 4, id: 1, code, .. } = client.get().await? else {
                return Err(eyre!("no PUBACK"));
            };
            assert_eq!(code, if version == V5 { 0x87 } else { 0 });
            client.publish(&Publish::new(&open, b"x")).await?;
            assert_eq!(client.delivery().await?.topic, open);
            let recorder = stage.site.recorder()?;
            ensure!(!recorder.saw_publish(&closed) && !recorder.saw_subscribe(&closed), "{name}");
        }
        Ok(())
    })
}

/// THREATS A32: an end without a goodbye, of MQTT, WebSocket or TLS, lets the will fire.
#[test]
fn a_client_that_is_cut_off_has_its_will_published_and_one_that_disconnects_has_not() -> Result<()>
{
    run(async {
        let stage = stage().await?;
        let spy = stage.site.spy("open/will/#").await?;
        for tls in [false, true] {
            for (how, fires) in [("cut", true), ("close", true), ("disconnect", false)] {
                let name = format!("{how}-{tls}");
                let topic = format!("open/will/{name}");
                let will =
                    Will { topic: topic.clone(), payload: b"gone".to_vec(), qos: 1, retain: false };
                let login = stage.stranger(&name)?;
                let connect = Connect { will: Some(will), ..Connect::of(V311, &login) };
                let mut stream = stage.web_dial(tls).await?;
                ws::ask(&mut stream, &request("/mqtt", &GOOD)).await?;
                stream.write_all(&frame(BINARY, &connect.octets(V311))).await?;
                stage
                    .site
                    .recorder()?
                    .until(PATIENCE, |_| stage.seen_of(&name).is_ok_and(|seen| seen.len() > 1))
                    .await?;
                match how {
                    "close" => stream.write_all(&frame(CLOSE, &[3, 232])).await?,
                    "disconnect" => stream.write_all(&frame(BINARY, &DISCONNECT)).await?,
                    _ => {}
                }
                drop(stream);
                if fires {
                    spy.until(PATIENCE, |heard| heard.topic == topic).await?;
                }
            }
        }
        let mut last = stage.web_raw(V311, false, &[100]).await?;
        assert_eq!(last.connect(&Connect::of(V311, &stage.stranger("last-will")?)).await?, 0);
        last.publish(&Publish::new("open/will/last", b"x")).await?;
        spy.until(PATIENCE, |heard| heard.topic == "open/will/last").await?;
        ensure!(
            !spy.heard_on("open/will/disconnect-false")
                && !spy.heard_on("open/will/disconnect-true")
        );
        Ok(())
    })
}

async fn foreign(library: Library, version: Version, tls: bool) -> Result<()> {
    let stage = stage().await?;
    let name = format!("{library:?}-{}-{tls}", version.level());
    let (open, closed) = (format!("open/{name}"), format!("closed/{name}"));
    let spy = stage.site.spy(&open).await?;
    let mut client = Foreign::start(library)?;
    let (target, login) = (stage.web_target(tls)?, stage.stranger(&name)?);
    let connack = client.connect(&target, version, &login, json!({"websocket": "/mqtt"})).await?;
    assert_eq!(connack["code"], 0, "{name}");
    let codes = client.subscribe(&[(&open, 2), (&closed, 1)]).await?;
    assert_eq!(codes, [2, u64::from(refused_filter(version))], "{name}");
    let large = "0123456789".repeat(20_000);
    for (qos, payload) in [(1, "small"), (2, large.as_str())] {
        assert_eq!(client.publish(&open, payload, qos, false).await?, 0, "{name}");
        let message = client.event("message").await?;
        ensure!(message["payload"] == payload && message["topic"] == open, "{name}");
        spy.until(PATIENCE, |heard| heard.payload == payload.as_bytes()).await?;
    }
    let code = client.publish(&closed, "refused", 1, false).await?;
    assert_eq!(code, if version == V5 { 0x87 } else { 0 }, "{name}");
    client.tell(json!({"do": "disconnect"})).await?;
    client.event("closed").await?;
    ensure!(!stage.site.recorder()?.saw_publish(&closed), "{name}: the broker saw it");
    let seen: Vec<Seen> = stage.seen_of(&name)?;
    ensure!(seen.len() > 5, "{name}: nothing on tape");
    Ok(())
}

#[test]
fn paho_is_served_over_ws_and_wss() -> Result<()> {
    run(async {
        for (version, tls) in [(V311, false), (V311, true), (V5, false), (V5, true)] {
            foreign(Library::Paho, version, tls).await?;
        }
        Ok(())
    })
}

#[test]
fn mqtt_js_is_served_over_ws_and_wss() -> Result<()> {
    run(async {
        for (version, tls) in
            [(V31, false), (V31, true), (V311, false), (V311, true), (V5, false), (V5, true)]
        {
            foreign(Library::MqttJs, version, tls).await?;
        }
        Ok(())
    })
}
