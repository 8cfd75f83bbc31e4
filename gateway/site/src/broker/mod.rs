//! The broker behind the gateway: six makers' brokers as they come, each on a free port of this machine.
//!
//! Mosquitto and aedes are what a machine needs for the tests; the others come with `script/setup brokers`. Each is started with the
//! least configuration that lets the gateway in, and is asked nothing before its log says that it serves.

mod erlang;
mod java;
mod mosquitto;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use eyre::{Result, WrapErr, bail, eyre};
use toml::Table;

use crate::authority::{Identity, write_secret};
use crate::ground::{Child, Ground};
use crate::tools;

/// Which broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BrokerKind {
    /// Eclipse Mosquitto from the machine: MQTT 3.1, 3.1.1, 5.
    #[default]
    Mosquitto,
    /// RabbitMQ with its MQTT plugin from the machine: MQTT 3.1, 3.1.1.
    RabbitMq,
    /// ejabberd with `mod_mqtt` from the machine: MQTT 3.1.1, 5.
    Ejabberd,
    /// HiveMQ CE from Maven Central: MQTT 3.1, 3.1.1, 5.
    HiveMq,
    /// Moquette from Maven Central: MQTT 3.1.1.
    Moquette,
    /// aedes from the npm packages: MQTT 3.1.1.
    Aedes,
    /// Mosquitto, or aedes where it is missing.
    Any,
}

/// How the broker is set up.
#[derive(Clone, Debug, Default)]
pub struct BrokerOptions {
    /// Which one.
    pub kind: BrokerKind,
    /// Should the gateway reach it by TLS? (Mosquitto only; spies still find a plain port.)
    pub tls: bool,
    /// Further lines of `mosquitto.conf`.
    pub mosquitto_config: String,
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    /// The process.
    pub child: Child,
    /// What must run beside it.
    _beside: Option<Child>,
    kind: BrokerKind,
    plain: SocketAddr,
    tls: Option<SocketAddr>,
}

impl Broker {
    pub(crate) async fn start(
        ground: &Arc<Ground>,
        root: &Path,
        options: &BrokerOptions,
        identity: &Identity,
    ) -> Result<Self> {
        let kind = match options.kind {
            BrokerKind::Any if tools::on_path("mosquitto").is_some() => BrokerKind::Mosquitto,
            BrokerKind::Any => BrokerKind::Aedes,
            kind => kind,
        };
        match kind {
            BrokerKind::RabbitMq => erlang::rabbitmq(ground).await,
            BrokerKind::Ejabberd => erlang::ejabberd(ground).await,
            BrokerKind::HiveMq => java::hivemq(ground, root).await,
            BrokerKind::Moquette => java::moquette(ground, root).await,
            BrokerKind::Aedes => aedes(ground, root).await,
            BrokerKind::Mosquitto | BrokerKind::Any => {
                mosquitto::start(ground, options, identity).await
            }
        }
    }

    fn new(child: Child, kind: BrokerKind, port: u16) -> Self {
        Self { child, _beside: None, kind, plain: local(port), tls: None }
    }

    /// Which one it is, never [`BrokerKind::Any`].
    #[must_use]
    pub fn kind(&self) -> BrokerKind {
        self.kind
    }

    /// Its name and version, as it says itself.
    #[must_use]
    pub fn describe(&self) -> String {
        let (name, before) = match self.kind {
            BrokerKind::Mosquitto | BrokerKind::Any => ("Mosquitto", "mosquitto version "),
            BrokerKind::RabbitMq => ("RabbitMQ", "Starting RabbitMQ "),
            BrokerKind::Ejabberd => ("ejabberd", "ejabberd "),
            BrokerKind::HiveMq => ("HiveMQ CE", "HiveMQ CE "),
            BrokerKind::Moquette => ("Moquette", "Server started, version "),
            BrokerKind::Aedes => ("aedes", "aedes "),
        };
        let log = self.child.log();
        let version = log.split_once(before).and_then(|(_, rest)| rest.split_whitespace().next());
        format!("{name} {}", version.unwrap_or("of an unknown version"))
    }

    /// Whether it speaks MQTT 3.1 with client ids as long as the gateway's: aedes and Moquette take 23 octets then.
    #[must_use]
    pub fn speaks_mqtt31(&self) -> bool {
        matches!(self.kind, BrokerKind::Mosquitto | BrokerKind::RabbitMq | BrokerKind::HiveMq)
    }

    /// Whether it speaks MQTT 5.
    #[must_use]
    pub fn speaks_mqtt5(&self) -> bool {
        matches!(self.kind, BrokerKind::Mosquitto | BrokerKind::Ejabberd | BrokerKind::HiveMq)
    }

    /// What a client of its own must log in with, where it lets nobody in without.
    #[must_use]
    pub fn login(&self) -> Option<(&'static str, &'static str)> {
        (self.kind == BrokerKind::Ejabberd).then_some(("gateway", "let the gateway in"))
    }

    /// What the gateway must be told of it besides its address.
    pub(crate) fn gateway_config(&self, ground: &Ground) -> Result<Table> {
        let mut text = String::new();
        if self.kind == BrokerKind::RabbitMq {
            text += "[broker]\ndialect = \"rabbitmq\"\n";
        }
        if let Some((user_name, password)) = self.login() {
            let file = ground.path("broker-password");
            write_secret(&file, password)?;
            text += &format!(
                "[broker.credentials.fixed]\nuser_name = \"{user_name}\"\npassword_file = \"{}\"\n",
                file.display()
            );
        }
        Ok(text.parse()?)
    }

    /// Its plain port, where spies listen directly.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.plain
    }

    /// Its TLS port, if it was asked for.
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls
    }
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A port that was free a moment ago. Another program may take it first, so whoever uses it tries again.
pub(crate) fn free_port() -> Result<u16> {
    let probe =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).wrap_err("no free port on 127.0.0.1")?;
    Ok(probe.local_addr()?.port())
}

/// Starts a program at a free port and waits until its log has each of these words, in their order.
async fn at_free_port(
    ground: &Arc<Ground>,
    name: &str,
    patience: Duration,
    words: &[&str],
    mut command: impl FnMut(u16) -> Result<Command>,
) -> Result<(Child, u16)> {
    let mut last = eyre!("no attempt was made");
    for _ in 0..5 {
        let port = free_port()?;
        let log = ground.path(&format!("{name}.log"));
        let before = fs::read(&log).map_or(0, |log| log.len());
        let mut child = Child::spawn(ground, name, command(port)?)?;
        let serves = |log: &str| {
            let new = log.get(before..)?;
            words.iter().try_fold(new, |rest, word| Some(rest.split_once(word)?.1)).map(drop)
        };
        match child.until_logged("the end of its start", patience, serves).await {
            Ok(()) => return Ok((child, port)),
            Err(error) if is_taken(&child.log()) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last.wrap_err(format!("{name} found each of five free ports taken")))
}

/// As the systems and languages say it.
fn is_taken(log: &str) -> bool {
    ["already in use", "eaddrinuse", "BindException"].iter().any(|word| log.contains(word))
}

/// The program, or what to do about it.
fn wanted(name: &str, what: &str) -> Result<PathBuf> {
    tools::on_path(name).ok_or_else(|| eyre!("`{name}` was not found: {what}"))
}

/// What brings the brokers that not every machine needs.
const SETUP: &str =
    "run `script/setup brokers`, which installs the brokers that `make e2e BROKER=...` starts";

async fn aedes(ground: &Arc<Ground>, root: &Path) -> Result<Broker> {
    let script = node_script(root, include_str!("../aedes.mjs"))?;
    let mut child = Child::spawn(ground, "aedes", script)?;
    let port = child
        .until_logged("listening", Duration::from_secs(30), |log| {
            log.lines().find_map(|line| line.strip_prefix("listening on ")?.parse::<u16>().ok())
        })
        .await?;
    Ok(Broker::new(child, BrokerKind::Aedes, port))
}

/// A program for Node.js that finds the project's npm packages.
pub(crate) fn node_script(root: &Path, script: &str) -> Result<Command> {
    let node: PathBuf = tools::on_path("node")
        .ok_or_else(|| eyre!("`node` was not found: install Node.js 20 or newer"))?;
    if !root.join("node_modules/aedes").is_dir() {
        bail!("{} has no npm packages: run `make setup`", root.display());
    }
    let mut command = Command::new(node);
    command.current_dir(root).args(["--input-type=module", "--eval", script, "--"]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::{Authority, Recorder, Spy};

    async fn start(kind: BrokerKind) -> (Arc<Ground>, Broker) {
        let ground = Ground::new().expect("a directory");
        let identity = Authority::new(&ground)
            .and_then(|authority| authority.identify("server"))
            .expect("a certificate");
        let root = tools::project_root().expect("the project");
        let options = BrokerOptions { kind, ..BrokerOptions::default() };
        let broker = Broker::start(&ground, &root, &options, &identity).await.expect("a broker");
        (ground, broker)
    }

    async fn what_goes_through_the_recorder_is_on_tape_and_reaches_the_spy(kind: BrokerKind) {
        let (_ground, broker) = start(kind).await;
        let recorder = Recorder::start(broker.address()).await.expect("a recorder");
        let spy = Spy::start(broker.address(), broker.login(), "#").await.expect("a spy");
        let mut client = TcpStream::connect(recorder.address()).await.expect("the recorder");
        client.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01c").await.expect("CONNECT");
        let mut connack = [0; 4];
        client.read_exact(&mut connack).await.expect("CONNACK");
        client.write_all(b"\x30\x06\x00\x03a/bx").await.expect("PUBLISH");
        let heard = spy
            .until(Duration::from_secs(10), |publish| publish.topic == "a/b")
            .await
            .expect("the message");
        assert_eq!(heard.payload, b"x");
        assert!(recorder.saw_publish("a/b") && !recorder.saw_publish("a"));
        assert_eq!(recorder.connects()[0].client_id, "c");
        assert!(recorder.octets_from_gateway().ends_with(b"a/bx"));

        recorder.hold();
        client.write_all(b"\x30\x06\x00\x03a/cx").await.expect("PUBLISH");
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!recorder.saw_publish("a/c") && !spy.heard_on("a/c"));
        recorder.release();
        recorder
            .until(Duration::from_secs(10), |tape| tape.saw_publish("a/c"))
            .await
            .expect("after the release");

        recorder.cut();
        assert_eq!(client.read(&mut connack).await.unwrap_or(0), 0);
        recorder
            .until(Duration::from_secs(10), |tape| tape.connections() == (1, 0))
            .await
            .expect("closed");
    }

    #[tokio::test]
    async fn recorder_and_spy_tell_what_mosquitto_got() {
        what_goes_through_the_recorder_is_on_tape_and_reaches_the_spy(BrokerKind::Mosquitto).await;
    }

    #[tokio::test]
    async fn recorder_and_spy_tell_what_aedes_got() {
        what_goes_through_the_recorder_is_on_tape_and_reaches_the_spy(BrokerKind::Aedes).await;
    }
}
