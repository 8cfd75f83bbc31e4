//! Each fault of a node, with live sessions: what clients are answered is what the table in `docs/operations.md` says.

use std::time::{Duration, Instant};

use eyre::{Result, bail, ensure, eyre};
use flytrap_site::{Fault, FaultProxy};
use toml::Value;

use crate::common::process::{Process, set};
use crate::common::raw::{Connect, Got, Publish, Raw};
use crate::common::{PATIENCE, PUBLIC, RETAIN, Stage, V5, V311, Version, http, run, until};

const PAGE: &str = include_str!("../../../docs/operations.md");
const STALE: Duration = Duration::from_secs(5);
const DISTRUST: Duration = Duration::from_secs(10);

/// What a client is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Served,
    Refused,
    Ended,
}

/// One row: CONNECT, PUBLISH, SUBSCRIBE, delivery, each for one or three ages of the mirror.
struct Row {
    fault: String,
    answers: [Vec<Answer>; 4],
}

fn table() -> Result<Vec<Row>> {
    let rows = PAGE.lines().skip_while(|line| !line.starts_with("| fault |")).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [fault, connect, publish, subscribe, delivery, _] = cells[..] else {
            bail!("not six cells: {line}")
        };
        let answers = |cell: &str| {
            let words = cell.split(", ").map(|word| match word {
                "served" => Ok(Answer::Served),
                "refused" => Ok(Answer::Refused),
                "ended" => Ok(Answer::Ended),
                other => Err(eyre!("`{other}` is no answer: {line}")),
            });
            let words = words.collect::<Result<Vec<_>>>()?;
            ensure!(matches!(words.len(), 1 | 3), "neither one answer nor three: {line}");
            Ok(words)
        };
        Ok(Row {
            fault: fault.trim_matches('`').to_owned(),
            answers: [
                answers(connect)?,
                answers(publish)?,
                answers(subscribe)?,
                answers(delivery)?,
            ],
        })
    });
    rows.collect()
}

#[test]
fn every_fault_has_one_row_and_every_row_is_a_fault() -> Result<()> {
    let rows: Vec<String> = table()?.into_iter().map(|row| row.fault).collect();
    let faults: Vec<&str> = Fault::ALL.into_iter().map(Fault::word).collect();
    assert_eq!(rows, faults);
    Ok(())
}

/// Sessions of a gateway whose node is about to fail, and where new ones go.
struct Scene<'a> {
    stage: &'a Stage,
    fault: Fault,
    gateway: Process,
    mqtt: std::net::SocketAddr,
    health: std::net::SocketAddr,
    publisher: Raw,
    subscriber: Raw,
    receiver: Raw,
    /// Where its messages go: other scenes of the same stage have their own.
    topic: String,
}

impl<'a> Scene<'a> {
    async fn open(stage: &'a Stage, fault: Fault, url: String) -> Result<Self> {
        let name =
            format!("node-{}-{}", fault.word(), if url.starts_with("ws") { "ws" } else { "http" });
        let mut gateway = stage.spawn_gateway(&name, |table| {
            set(table, "chain", "urls", Value::Array(vec![url.into()]));
            set(table, "chain", "stale_after", format!("{}s", STALE.as_secs()));
            set(table, "chain", "distrust_after", format!("{}s", DISTRUST.as_secs()));
        })?;
        let (mqtt, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
        until("readiness", || async {
            Ok((http::get(health, "/readyz").await?.0 == 200).then_some(()))
        })
        .await?;
        let session = async |version: Version, role: &str| {
            let login = stage.stranger(&format!("{name}-{role}"))?;
            let mut client = Raw::plain(version, mqtt).await?;
            assert_eq!(client.connect(&Connect::of(version, &login)).await?, 0);
            Ok::<_, eyre::Report>(client)
        };
        let publisher = session(V5, "publisher").await?;
        let subscriber = session(V5, "subscriber").await?;
        let mut receiver = session(V311, "receiver").await?;
        let topic = format!("open/{name}");
        assert_eq!(receiver.subscribe(&[(topic.as_str(), 1)]).await?, [1]);
        Ok(Self { stage, fault, gateway, mqtt, health, publisher, subscriber, receiver, topic })
    }

    /// Does all four things, and compares.
    async fn expect(&mut self, age: &str, wanted: [Answer; 4]) -> Result<()> {
        let what = format!("{} while {age}", self.fault.word());
        let [connect, publish, subscribe, delivery] = wanted;
        for version in [V311, V5] {
            let id = format!("{}-{age}-{}", self.fault.word(), version.level());
            let login = self.stage.stranger(&id)?;
            let code = Raw::plain(version, self.mqtt)
                .await?
                .connect(&Connect::of(version, &login))
                .await?;
            let found = match code {
                0 => Answer::Served,
                code if code == unavailable(version) => Answer::Refused,
                code => bail!("{what}: CONNACK {code:#04x}"),
            };
            ensure!(
                found == connect,
                "{what}: CONNECT of {version:?} {found:?}, wanted {connect:?}"
            );
        }
        let text = |of: &str| format!("{}-{age}-{of}", self.fault.word());
        let (from_client, from_broker) = (text("client"), text("broker"));

        // From a client; the receiver must see it where both are served.
        let spy = self.stage.site.spy(&self.topic).await?;
        let message = Publish::new(&self.topic, from_client.as_bytes()).qos(1, 1);
        if publish == Answer::Served {
            self.publisher.publish(&message).await?;
            let Got::Ack { code: 0 | 0x10, .. } = self.publisher.get().await? else {
                bail!("{what}: PUBLISH was not served")
            };
        } else {
            let _ = self.publisher.publish(&message).await;
            self.publisher.ended(PATIENCE).await?;
        }
        if subscribe == Answer::Served {
            let filter = format!("open/{}/{age}", self.fault.word());
            assert_eq!(self.subscriber.subscribe(&[(filter.as_str(), 0)]).await?, [0], "{what}");
        } else {
            ensure!(
                self.subscriber.subscribe(&[("open/b", 0)]).await.is_err(),
                "{what}: SUBSCRIBE was served"
            );
        }
        // From the broker, so that the receiver has to look.
        let mut broker = self.stage.direct(V311, "").await?;
        broker.publish(&Publish::new(&self.topic, from_broker.as_bytes())).await?;
        if delivery == Answer::Served {
            let mut left = vec![from_broker.clone()];
            if publish == Answer::Served {
                left.push(from_client.clone());
            }
            while !left.is_empty() {
                let payload = self.receiver.delivery().await?.payload;
                left.retain(|text| text.as_bytes() != payload.as_slice());
            }
        } else {
            for got in self.receiver.ended(PATIENCE).await? {
                ensure!(!matches!(got, Got::Publish(_)), "{what}: delivered {got:?}");
            }
        }
        // What was published before is heard before.
        spy.until(PATIENCE, |heard| heard.payload == from_broker.as_bytes()).await?;
        let heard = spy.heard().iter().any(|heard| heard.payload == from_client.as_bytes());
        ensure!(heard == (publish == Answer::Served), "{what}: the broker has heard it: {heard}");
        Ok(())
    }

    async fn age(&self, least: Duration) -> Result<()> {
        until("the mirror to age", || async {
            let age = http::metric(self.health, "flytrap_mirror_age_seconds").await?;
            Ok((age > least.as_secs_f64()).then_some(()))
        })
        .await
    }
}

fn unavailable(version: Version) -> u8 {
    if version == V5 { 0x88 } else { 3 }
}

async fn by_the_table(stage: &Stage, fault: Fault, websocket: bool) -> Result<()> {
    let rows = table()?;
    let row = rows.iter().find(|row| row.fault == fault.word());
    let row = row.ok_or_else(|| eyre!("no row for {fault:?}"))?;
    let at = |age: usize| row.answers.each_ref().map(|answers| answers[age.min(answers.len() - 1)]);
    let proxy = FaultProxy::before(stage.site.chain.http()).await?;
    let url = if websocket { proxy.ws() } else { proxy.http() };
    let mut scene = Scene::open(stage, fault, url).await?;

    let began = Instant::now();
    proxy.set(fault).await?;
    // Something about us, so that a node can be wrong about it, and a few blocks on top.
    let way = if websocket { "ws" } else { "http" };
    stage.topic_with(&format!("noise-{}-{way}", fault.word()), RETAIN, PUBLIC, PUBLIC).await?;
    stage.site.chain.mine(5).await?;
    if at(0)[0] == Answer::Refused {
        until("the end of trust", || async {
            Ok((http::metric(scene.health, "flytrap_mirror_trusted").await? == 0.0).then_some(()))
        })
        .await?;
        scene.expect("distrusted", at(0)).await?;
    } else if row.answers[0].len() == 1 {
        // It goes on for longer than a mirror that is not confirmed would be fresh.
        while began.elapsed() < STALE + Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        scene.expect("at-fault", at(0)).await?;
        ensure!(http::get(scene.health, "/readyz").await?.0 == 200, "{fault:?} ends readiness");
    } else {
        scene.expect("fresh", at(0)).await?;
        ensure!(began.elapsed() < STALE, "too slow to tell: {:?}", began.elapsed());
        scene.age(STALE).await?;
        scene.expect("stale", at(1)).await?;
        ensure!(began.elapsed() < DISTRUST, "too slow to tell: {:?}", began.elapsed());
        let (status, body) = http::get(scene.health, "/readyz").await?;
        ensure!(status == 503, "{body}");
        scene.age(DISTRUST).await?;
        scene.expect("distrusted", at(2)).await?;
    }
    // Well again, it catches up by itself, and has missed nothing.
    proxy.set(Fault::None).await?;
    stage.site.chain.mine(1).await?;
    let height = stage.site.chain.height().await?;
    until("readiness again", || async {
        let is_there = http::metric(scene.health, "flytrap_mirror_height").await? >= height as f64;
        Ok((is_there && http::get(scene.health, "/readyz").await?.0 == 200).then_some(()))
    })
    .await?;
    let login = stage.stranger(&format!("again-{}-{way}", fault.word()))?;
    assert_eq!(Raw::plain(V5, scene.mqtt).await?.connect(&Connect::of(V5, &login)).await?, 0);
    drop(scene.gateway);
    Ok(())
}

async fn open() -> Result<Stage> {
    let mut stage = Stage::new().await?;
    stage.topic_with("open", RETAIN, PUBLIC, PUBLIC).await?;
    stage.caught_up().await?;
    // Only the gateway behind the proxy is of interest.
    stage.site.gateway_mut()?.child.kill();
    Ok(stage)
}

fn alone(fault: Fault) -> Result<()> {
    run(async { by_the_table(&open().await?, fault, false).await })
}

#[test]
fn connections_that_end_at_once_are_answered_by_the_table() -> Result<()> {
    alone(Fault::Down)
}

#[test]
fn requests_without_answers_are_answered_by_the_table() -> Result<()> {
    alone(Fault::Hang)
}

#[test]
fn a_head_that_lags_is_answered_by_the_table() -> Result<()> {
    alone(Fault::Lag)
}

#[test]
fn a_head_that_went_back_is_answered_by_the_table() -> Result<()> {
    alone(Fault::Rewind)
}

#[test]
fn logs_left_out_are_answered_by_the_table() -> Result<()> {
    alone(Fault::Drop)
}

#[test]
fn answers_cut_off_are_answered_by_the_table() -> Result<()> {
    alone(Fault::Truncate)
}

#[test]
fn everything_twice_is_answered_by_the_table() -> Result<()> {
    alone(Fault::Duplicate)
}

#[test]
fn everything_in_the_wrong_order_is_answered_by_the_table() -> Result<()> {
    alone(Fault::Shuffle)
}

#[test]
fn logs_that_nobody_emitted_are_answered_by_the_table() -> Result<()> {
    alone(Fault::Forge)
}

#[test]
fn pages_instead_of_answers_are_answered_by_the_table() -> Result<()> {
    alone(Fault::Garbage)
}

#[test]
fn answers_without_end_are_answered_by_the_table() -> Result<()> {
    alone(Fault::Gigabyte)
}

#[test]
fn too_many_requests_are_answered_by_the_table() -> Result<()> {
    alone(Fault::TooMany)
}

#[test]
fn http_400_filter_not_found_is_answered_by_the_table() -> Result<()> {
    alone(Fault::FilterGone)
}

#[test]
fn another_chain_id_is_answered_by_the_table() -> Result<()> {
    alone(Fault::OtherChain)
}

#[test]
fn answers_that_take_a_second_are_answered_by_the_table() -> Result<()> {
    alone(Fault::Slow)
}

#[test]
fn by_websocket_the_table_is_the_same() -> Result<()> {
    run(async {
        let stage = open().await?;
        // At once: most of each is waiting.
        let faults = [Fault::Down, Fault::Hang, Fault::Drop, Fault::Gigabyte, Fault::Shuffle];
        let all = faults.map(|fault| by_the_table(&stage, fault, true));
        for (fault, outcome) in faults.iter().zip(futures::future::join_all(all).await) {
            outcome.map_err(|error| error.wrap_err(format!("{fault:?} by WebSocket")))?;
        }
        Ok(())
    })
}
