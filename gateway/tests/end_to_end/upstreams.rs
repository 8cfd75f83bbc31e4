//! Several addresses of one broker: each new session goes to the one it prefers while that serves, else to the next, and none hangs.
//!
//! The addresses are relays before one Mosquitto, which stand for the nodes of a cluster. A relay that is held is a node that takes
//! connections and says nothing; a listener whose queue is full is one that is not reached at all.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::common::process::{Process, set};
use crate::common::raw::{Connect, Publish, Raw, Will};
use crate::common::relay::Relay;
use crate::common::{PATIENCE, Stage, V5, V311, Version, http, run, until};
use eyre::{Result, ensure};
use flytrap_site::Recorder;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::OnceCell;

static STAGE: OnceCell<Stage> = OnceCell::const_new();

async fn stage() -> Result<&'static Stage> {
    STAGE.get_or_try_init(Stage::open_and_closed).await
}

/// `broker.connect_timeout` here. All of an opening may take twice as long.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What a machine that is busy may add.
const SLACK: Duration = Duration::from_secs(3);

/// A gateway before these addresses.
struct Before {
    gateway: Process,
    mqtt: SocketAddr,
    health: SocketAddr,
}

impl Before {
    async fn start(stage: &Stage, name: &str, addresses: &[SocketAddr]) -> Result<Self> {
        let list: Vec<toml::Value> =
            addresses.iter().map(|address| address.to_string().into()).collect();
        let mut gateway = stage.spawn_gateway(name, |table| {
            set(table, "broker", "address", list);
            set(table, "broker", "connect_timeout", "1s");
        })?;
        let (mqtt, health) = (gateway.listener("mqtt").await?, gateway.health().await?);
        Ok(Self { gateway, mqtt, health })
    }

    async fn status(&self) -> Result<u16> {
        Ok(http::get(self.health, "/readyz").await?.0)
    }

    async fn until_ready(&self) -> Result<()> {
        until("readiness", || async { Ok((self.status().await? == 200).then_some(())) }).await
    }

    /// Waits until the gateway knows whether this address serves.
    async fn until_known(&self, address: SocketAddr, serves: bool) -> Result<()> {
        let line = format!("flytrap_broker_up{{broker=\"{address}\"}} {}", u8::from(serves));
        until(&line, || async {
            let (_, text) = http::get(self.health, "/metrics").await?;
            Ok(text.lines().any(|found| found == line).then_some(()))
        })
        .await
    }

    /// Opens a session; returns it with the code and how long that took.
    async fn connect(&self, version: Version, connect: &Connect) -> Result<(Raw, u8, Duration)> {
        let mut client = Raw::plain(version, self.mqtt).await?;
        let began = Instant::now();
        let code = client.connect(connect).await?;
        Ok((client, code, began.elapsed()))
    }
}

fn ids(prefix: &str, many: u32) -> Vec<String> {
    (0..many).map(|n| format!("{prefix}-{n}")).collect()
}

fn connects_of(relay: &Recorder, id: &str) -> usize {
    let end = format!("-{id}");
    relay.connects().iter().filter(|connect| connect.client_id.ends_with(&end)).count()
}

/// ACCEPTANCE W39, THREATS D08, F07.
#[test]
fn a_session_finds_its_broker_again_and_goes_to_the_next_while_that_one_is_silent() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let broker = stage.site.broker.address();
        let (one, two) = (Recorder::start(broker).await?, Recorder::start(broker).await?);
        let before = Before::start(stage, "two", &[one.address(), two.address()]).await?;
        before.until_known(one.address(), true).await?;
        before.until_known(two.address(), true).await?;
        before.until_ready().await?;
        let (mut of_one, mut of_two) = (Vec::new(), Vec::new());
        for id in ids("same", 24) {
            for _ in 0..3 {
                let connect = Connect::of(V311, &stage.stranger(&id)?);
                let (mut client, code, _) = before.connect(V311, &connect).await?;
                ensure!(code == 0 && client.ping().await?.is_empty(), "{id}: {code}");
            }
            match (connects_of(&one, &id), connects_of(&two, &id)) {
                (3, 0) => of_one.push(id),
                (0, 3) => of_two.push(id),
                both => panic!("{id} was at both: {both:?}"),
            }
        }
        ensure!(!of_one.is_empty() && !of_two.is_empty(), "{of_one:?} {of_two:?}");

        let connect = Connect::of(V5, &stage.stranger(&of_two[0])?);
        let (mut lives_on, ..) = before.connect(V5, &connect).await?;
        one.hold();
        for (n, id) in of_one.iter().enumerate() {
            let connect = Connect::of(V311, &stage.stranger(id)?);
            let (mut client, code, took) = before.connect(V311, &connect).await?;
            ensure!(code == 0 && client.ping().await?.is_empty(), "{id}: {code}");
            ensure!(connects_of(&two, id) == 1, "{id} was not sent to the other");
            // The first finds out, the others need not.
            let bound = if n == 0 { TIMEOUT + SLACK } else { TIMEOUT };
            ensure!(took < bound, "{id}: {took:?}");
        }
        before.until_known(one.address(), false).await?;
        assert_eq!(before.status().await?, 200, "one that serves is enough");
        assert!(lives_on.ping().await?.is_empty());

        one.release();
        before.until_known(one.address(), true).await?;
        let already = connects_of(&one, &of_one[0]);
        let connect = Connect::of(V311, &stage.stranger(&of_one[0])?);
        assert_eq!(before.connect(V311, &connect).await?.1, 0);
        assert_eq!(connects_of(&one, &of_one[0]), already + 1, "it did not come back");
        Ok(())
    })
}

/// ACCEPTANCE W39: connections are not even made, as when a node is cut off from the network.
#[test]
fn a_broker_that_was_never_reached_costs_no_session_a_timeout() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let two = Recorder::start(stage.site.broker.address()).await?;
        let hole = BlackHole::dig().await?;
        let before = Before::start(stage, "hole", &[hole.address, two.address()]).await?;
        before.until_ready().await?;
        for id in ids("hole", 12) {
            let connect = Connect::of(V5, &stage.stranger(&id)?);
            let (mut client, code, took) = before.connect(V5, &connect).await?;
            ensure!(code == 0 && client.ping().await?.is_empty(), "{id}: {code}");
            ensure!(took < TIMEOUT, "{id}: {took:?}");
        }
        before.until_known(hole.address, false).await?;
        let (_, metrics) = http::get(before.health, "/metrics").await?;
        let line = |label: &str| {
            format!("flytrap_broker_dials_total{{broker=\"{label}\",outcome=\"ok\"}} 12")
        };
        let ok = line(&two.address().to_string());
        ensure!(metrics.lines().any(|found| found == ok), "{ok} is not in\n{metrics}");
        Ok(())
    })
}

/// ACCEPTANCE W39, THREATS C29.
#[test]
fn while_every_broker_is_silent_clients_are_told_in_time_and_the_gateway_goes_on() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let broker = stage.site.broker.address();
        let relays = [Recorder::start(broker).await?, Recorder::start(broker).await?];
        let before =
            Before::start(stage, "silent", &[relays[0].address(), relays[1].address()]).await?;
        before.until_ready().await?;
        for relay in &relays {
            relay.hold();
        }
        let waiting = async |version: Version| -> Result<()> {
            let login = stage.stranger(&format!("silent-{}", version.level()))?;
            let connect = Connect::of(version, &login);
            let (_, code, took) = before.connect(version, &connect).await?;
            ensure!(code == if version == V5 { 0x88 } else { 3 }, "{code:#04x}");
            ensure!(took < 2 * TIMEOUT + SLACK, "{took:?}");
            Ok(())
        };
        let meanwhile = async {
            let connect = Connect::of(V5, &stage.wrong_proof("meanwhile")?);
            let (_, code, took) = before.connect(V5, &connect).await?;
            ensure!(code == 0x86 && took < TIMEOUT, "{code:#04x} after {took:?}");
            Ok(())
        };
        tokio::try_join!(waiting(V5), waiting(V311), meanwhile)?;
        until("not ready", || async { Ok((before.status().await? == 503).then_some(())) }).await?;

        for relay in &relays {
            relay.release();
        }
        before.until_ready().await?;
        let connect = Connect::of(V5, &stage.stranger("silent-after")?);
        assert_eq!(before.connect(V5, &connect).await?.1, 0);
        Ok(())
    })
}

/// A broker that reads CONNECT when the client has long been told otherwise must not take the client for lost.
#[test]
fn a_client_that_was_refused_because_the_broker_was_silent_leaves_no_will_behind() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let relay = Recorder::start(stage.site.broker.address()).await?;
        let before = Before::start(stage, "will", &[relay.address()]).await?;
        before.until_ready().await?;
        let spy = stage.site.spy("open/will/#").await?;
        relay.hold();
        for version in [V311, V5] {
            let will = Will {
                topic: "open/will/lost".into(),
                payload: b"lost".to_vec(),
                qos: 0,
                retain: false,
            };
            let login = stage.stranger(&format!("will-{}", version.level()))?;
            let connect = Connect { will: Some(will), ..Connect::of(version, &login) };
            let code = before.connect(version, &connect).await?.1;
            ensure!(code == if version == V5 { 0x88 } else { 3 }, "{code:#04x}");
        }
        relay.release();
        let read = |tape: &Recorder| {
            let both = ["will-4", "will-5"];
            both.iter().all(|id| connects_of(tape, id) == 1) && tape.connections().1 == 0
        };
        relay.until(PATIENCE, read).await?;
        before.until_ready().await?;
        let connect = Connect::of(V5, &stage.stranger("will-after")?);
        let (mut client, code, _) = before.connect(V5, &connect).await?;
        assert_eq!(code, 0);
        client.publish_whole(&Publish::new("open/will/end", b"end").qos(1, 1)).await?;
        spy.until(PATIENCE, |publish| publish.topic == "open/will/end").await?;
        assert!(!spy.heard_on("open/will/lost"), "a will of a session that never was");
        Ok(())
    })
}

/// THREATS F07, F08.
#[test]
fn a_gateway_that_starts_before_its_brokers_waits_and_is_ready_with_the_first() -> Result<()> {
    run(async {
        let stage = stage().await?;
        let broker = stage.site.broker.address();
        let (one, two) = (Relay::start(broker, false).await?, Relay::start(broker, false).await?);
        let mut before = Before::start(stage, "early", &[one.address(), two.address()]).await?;
        before.until_known(one.address(), false).await?;
        assert_eq!(before.status().await?, 503);
        let connect = Connect::of(V5, &stage.stranger("early")?);
        assert_eq!(before.connect(V5, &connect).await?.1, 0x88);
        two.open();
        before.until_ready().await?;
        let (mut client, code, _) = before.connect(V5, &connect).await?;
        assert_eq!(code, 0);
        two.shut();
        let began = Instant::now();
        client.ended(PATIENCE).await?;
        ensure!(began.elapsed() < Duration::from_secs(2), "F07: {:?}", began.elapsed());
        one.open();
        until("a new session", || async {
            Ok((before.connect(V5, &connect).await?.1 == 0).then_some(()))
        })
        .await?;
        ensure!(began.elapsed() < Duration::from_secs(5), "F07: {:?}", began.elapsed());
        assert!(before.gateway.child.ended().is_none());
        Ok(())
    })
}

/// An address where connections wait for ever: its queue is full, so the system answers no more.
struct BlackHole {
    address: SocketAddr,
    _listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    async fn dig() -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(1)?;
        let address = listener.local_addr()?;
        let mut queued = Vec::new();
        let patience = Duration::from_millis(300);
        while let Ok(stream) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
            queued.push(stream?);
            ensure!(queued.len() < 64, "the queue takes everything");
        }
        Ok(Self { address, _listener: listener, _queued: queued })
    }
}
