//! The broker behind the gateway: Mosquitto as the machine has it, or aedes from the npm packages.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use eyre::{Result, WrapErr, bail, eyre};

use crate::authority::Identity;
use crate::ground::{Child, Ground};
use crate::tools;

/// Which broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BrokerKind {
    /// Eclipse Mosquitto from the machine: MQTT 3.1, 3.1.1, 5.
    #[default]
    Mosquitto,
    /// aedes from the npm packages: MQTT 3.1, 3.1.1.
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
        let mosquitto = tools::on_path("mosquitto");
        match (options.kind, mosquitto) {
            (BrokerKind::Mosquitto | BrokerKind::Any, Some(program)) => {
                mosquitto_at_free_port(ground, &program, options, identity).await
            }
            (BrokerKind::Mosquitto, None) => {
                bail!(
                    "`mosquitto` was not found: run `make setup`, or install the packages mosquitto and mosquitto-clients"
                )
            }
            (BrokerKind::Aedes | BrokerKind::Any, _) => aedes(ground, root).await,
        }
    }

    /// Which one it is, never [`BrokerKind::Any`].
    #[must_use]
    pub fn kind(&self) -> BrokerKind {
        self.kind
    }

    /// Its name and version, as it says itself.
    #[must_use]
    pub fn describe(&self) -> String {
        let log = self.child.log();
        let version =
            |word: &str| log.split_once(word)?.1.split_whitespace().next().map(str::to_owned);
        match self.kind {
            BrokerKind::Aedes => format!("aedes {}", version("aedes ").unwrap_or_default()),
            _ => format!("Mosquitto {}", version("mosquitto version ").unwrap_or_default()),
        }
    }

    /// Whether it speaks MQTT 5.
    #[must_use]
    pub fn speaks_mqtt5(&self) -> bool {
        self.kind == BrokerKind::Mosquitto
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

/// A port that was free a moment ago. Another program may take it first, so whoever uses it tries again.
fn free_port() -> Result<u16> {
    let probe =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).wrap_err("no free port on 127.0.0.1")?;
    Ok(probe.local_addr()?.port())
}

async fn mosquitto_at_free_port(
    ground: &Arc<Ground>,
    program: &Path,
    options: &BrokerOptions,
    identity: &Identity,
) -> Result<Broker> {
    let mut last = eyre!("no attempt was made");
    for _ in 0..5 {
        let plain = free_port()?;
        let tls = if options.tls { Some(free_port()?) } else { None };
        let file = ground.path("mosquitto.conf");
        fs::write(&file, mosquitto_config(plain, tls, identity, &options.mosquitto_config)?)?;
        let mut command = Command::new(program);
        command.arg("-c").arg(&file);
        let log = ground.path("mosquitto.log");
        let before = fs::read_to_string(&log).map_or(0, |log| log.len());
        let mut child = Child::spawn(ground, "mosquitto", command)?;
        let running =
            |log: &str| log.get(before..).filter(|new| new.contains(" running")).map(drop);
        match child.until_logged("running", Duration::from_secs(15), running).await {
            Ok(()) => {
                let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                return Ok(Broker {
                    child,
                    kind: BrokerKind::Mosquitto,
                    plain: local(plain),
                    tls: tls.map(local),
                });
            }
            Err(error) if child.log().contains("Address already in use") => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last.wrap_err("mosquitto found each of five free ports taken"))
}

fn mosquitto_config(
    plain: u16,
    tls: Option<u16>,
    identity: &Identity,
    more: &str,
) -> Result<String> {
    // As root it would give up its rights and then not be able to read the site's directory.
    let mut text = format!(
        "user root\npersistence false\nallow_anonymous true\nlog_type all\nlistener {plain} 127.0.0.1\n"
    );
    if let Some(port) = tls {
        let Identity { certificate, key } = identity;
        write!(
            text,
            "listener {port} 127.0.0.1\ncertfile {}\nkeyfile {}\n",
            certificate.display(),
            key.display()
        )?;
    }
    text.push_str(more);
    Ok(text)
}

async fn aedes(ground: &Arc<Ground>, root: &Path) -> Result<Broker> {
    let mut child = Child::spawn(ground, "aedes", node_script(root, include_str!("aedes.mjs"))?)?;
    let port = child
        .until_logged("listening", Duration::from_secs(30), |log| {
            log.lines().find_map(|line| line.strip_prefix("listening on ")?.parse::<u16>().ok())
        })
        .await?;
    let plain = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Ok(Broker { child, kind: BrokerKind::Aedes, plain, tls: None })
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
        let spy = Spy::start(broker.address(), "#").await.expect("a spy");
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
