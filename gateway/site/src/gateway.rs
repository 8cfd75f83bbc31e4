//! The gateway process: its configuration, its start, its listeners.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy::primitives::U256;
use eyre::{Result, WrapErr, bail, eyre};
use flytrap_chain::keys::Key;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use toml::{Table, Value};

use crate::authority::write_secret;
use crate::ground::{Child, Ground, TICK};

/// The gateway's listeners by name, as it says in its ready file.
#[derive(Debug, Deserialize)]
struct Ready {
    listeners: BTreeMap<String, SocketAddr>,
    health: SocketAddr,
    api: Option<SocketAddr>,
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    /// The process.
    pub child: Child,
    ready: Ready,
    /// Its configuration file, to be changed between stop and start.
    pub config: PathBuf,
    program: PathBuf,
    name: String,
    ground: Arc<Ground>,
}

/// How long a gateway may take from start to ready.
const PATIENCE: Duration = Duration::from_secs(30);

impl Gateway {
    pub(crate) async fn start(
        ground: &Arc<Ground>,
        program: &Path,
        name: &str,
        table: &Table,
    ) -> Result<Self> {
        let config = ground.path(&format!("{name}.toml"));
        fs::write(&config, toml::to_string(table)?)?;
        let child = launch(ground, program, name, &config)?;
        let ready = Ready {
            listeners: BTreeMap::new(),
            health: SocketAddr::from(([127, 0, 0, 1], 0)),
            api: None,
        };
        let mut gateway = Self {
            child,
            ready,
            config,
            program: program.to_owned(),
            name: name.to_owned(),
            ground: ground.clone(),
        };
        gateway.ready().await?;
        Ok(gateway)
    }

    /// The address of the listener with this name (`mqtt`, `mqtts`, or one of yours).
    ///
    /// # Errors
    /// If it has none of that name.
    pub fn listener(&self, name: &str) -> Result<SocketAddr> {
        let found = self.ready.listeners.get(name).copied();
        found.ok_or_else(|| {
            eyre!("the gateway has no listener `{name}`, only {:?}", self.ready.listeners.keys())
        })
    }

    /// Where it serves the API, if it does.
    #[must_use]
    pub fn api(&self) -> Option<SocketAddr> {
        self.ready.api
    }

    /// Where it serves health and metrics.
    #[must_use]
    pub fn health(&self) -> SocketAddr {
        self.ready.health
    }

    /// Starts it again with the configuration file as it is now, ended before or not. Ports may change.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn restart(&mut self) -> Result<()> {
        self.child.kill();
        let _ = fs::remove_file(self.ready_file());
        self.child = launch(&self.ground, &self.program, &self.name, &self.config)?;
        self.ready().await
    }

    /// Asks its health listener: `readyz`, `healthz` or `metrics`. Returns status and body.
    ///
    /// # Errors
    /// If it does not answer within five seconds.
    pub async fn ask(&self, path: &str) -> Result<(u16, String)> {
        let exchange = async {
            let mut socket = TcpStream::connect(self.health()).await?;
            let request =
                format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            socket.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), exchange).await;
        let answer = answer.wrap_err("no answer in five seconds").and_then(|answer| Ok(answer?));
        let answer =
            answer.wrap_err_with(|| format!("{} at http://{}/{path}", self.name, self.health()))?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status.ok_or_else(|| eyre!("no HTTP: {answer}"))?, body.to_owned()))
    }

    /// The value of a metric without labels, by the end of its name, such as `mirror_height`.
    ///
    /// # Errors
    /// If the gateway does not answer or has no such metric.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let (_, body) = self.ask("metrics").await?;
        let mut lines = body
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once(' '));
        let found = lines
            .find(|(found, _)| found.ends_with(name))
            .and_then(|(_, value)| value.parse().ok());
        found.ok_or_else(|| eyre!("{} has no metric `{name}`", self.name))
    }

    /// Waits until its mirror has come to a block. Returns how long that took.
    ///
    /// # Errors
    /// If it has not within `patience`.
    pub async fn until_height(&self, height: u64, patience: Duration) -> Result<Duration> {
        let start = Instant::now();
        // Heights stay far below the 2^53 up to which a float is exact.
        #[allow(clippy::cast_precision_loss)]
        let height = height as f64;
        loop {
            let at = self.metric("mirror_height").await?;
            if at >= height {
                return Ok(start.elapsed());
            }
            if start.elapsed() >= patience {
                bail!(
                    "{} is at block {at} after {patience:?}, wanted {height}\n{}",
                    self.name,
                    self.child.tail()
                );
            }
            tokio::time::sleep(TICK).await;
        }
    }

    fn ready_file(&self) -> PathBuf {
        ready_file(&self.ground, &self.name)
    }

    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let file = self.ready_file();
        loop {
            // A file that is only half there does not parse and is looked at again.
            if let Some(ready) =
                fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok())
            {
                self.ready = ready;
                return Ok(());
            }
            if let Some(status) = self.child.ended() {
                bail!(
                    "{} ended with {status} before it was ready\n{}",
                    self.name,
                    self.child.tail()
                );
            }
            if Instant::now() >= deadline {
                bail!("{} was not ready in {PATIENCE:?}\n{}", self.name, self.child.tail());
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

fn ready_file(ground: &Ground, name: &str) -> PathBuf {
    ground.path(&format!("{name}-ready.json"))
}

fn launch(ground: &Arc<Ground>, program: &Path, name: &str, config: &Path) -> Result<Child> {
    let mut command = Command::new(program);
    command.arg("run").arg("--config").arg(config);
    command.arg("--ready-file").arg(ready_file(ground, name));
    if std::env::var_os("RUST_LOG").is_none() {
        command.env("RUST_LOG", "info,flytrap=debug");
    }
    Child::spawn(ground, name, command)
}

/// What the site knows and the gateway must be told.
pub(crate) struct Facts<'a> {
    pub(crate) ground: &'a Ground,
    pub(crate) name: &'a str,
    pub(crate) urls: Vec<String>,
    pub(crate) deployment: &'a Path,
    pub(crate) broker_id: U256,
    pub(crate) broker: SocketAddr,
    pub(crate) broker_ca: Option<&'a Path>,
    pub(crate) key: &'a Key,
    pub(crate) identity: &'a crate::authority::Identity,
    pub(crate) ports: Option<(u16, u16)>,
}

/// The site's configuration of a gateway, with `overrides` (TOML) laid over it: tables are merged, all else is replaced.
pub(crate) fn config(facts: &Facts<'_>, overrides: &str) -> Result<Table> {
    let name = facts.name;
    let key_file = facts.ground.path(&format!("{name}.key"));
    write_secret(&key_file, &format!("{}\n", facts.key.signer().to_bytes()))?;
    let state = facts.ground.path(&format!("{name}-state"));
    fs::create_dir_all(&state)?;
    let text = |path: &Path| Value::String(path.display().to_string());
    let mut table: Table = toml::from_str(
        r#"
        [chain]
        poll = "50ms"
        [[listener]]
        name = "mqtt"
        allow_tokens_without_tls = true
        [[listener]]
        name = "mqtts"
        [broker]
        [gateway]
        [audit]
        interval = "1s"
        [health]
        bind = "127.0.0.1:0"
        "#,
    )?;
    table.insert("state_dir".into(), text(&state));
    let identity: Table = [
        ("certificate".to_owned(), text(&facts.identity.certificate)),
        ("key".to_owned(), text(&facts.identity.key)),
    ]
    .into_iter()
    .collect();
    if let Some(Value::Array(listeners)) = table.get_mut("listener") {
        let ports = facts.ports.map_or([0, 0], |(plain, tls)| [plain, tls]);
        for (listener, port) in listeners.iter_mut().filter_map(Value::as_table_mut).zip(ports) {
            listener.insert("bind".into(), Value::String(format!("127.0.0.1:{port}")));
            if listener.get("name").and_then(Value::as_str) == Some("mqtts") {
                listener.insert("tls".into(), Value::Table(identity.clone()));
            }
        }
    }
    let mut set = |section: &str, key: &str, value: Value| {
        if let Some(Value::Table(section)) = table.get_mut(section) {
            section.insert(key.into(), value);
        }
    };
    set("chain", "urls", Value::Array(facts.urls.iter().cloned().map(Value::String).collect()));
    set("chain", "deployment", text(facts.deployment));
    set("chain", "broker_id", Value::Integer(facts.broker_id.to::<u32>().into()));
    set("broker", "address", Value::String(facts.broker.to_string()));
    if let Some(ca) = facts.broker_ca {
        let tls = [
            ("ca".to_owned(), text(ca)),
            ("server_name".to_owned(), Value::String("localhost".into())),
        ];
        set("broker", "tls", Value::Table(tls.into_iter().collect()));
    }
    set("gateway", "key_file", text(&key_file));
    let overrides = overrides.parse().wrap_err("the test's own gateway configuration")?;
    merge(&mut table, overrides);
    Ok(table)
}

pub(crate) fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => drop(base.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_are_merged_into_tables_and_replace_all_else() {
        let mut base: Table = "a = 1\n[b]\nc = 2\nd = [1]".parse().expect("TOML");
        merge(&mut base, "[b]\nd = []\n[e]\nf = 3".parse().expect("TOML"));
        assert_eq!(base, "a = 1\n[b]\nc = 2\nd = []\n[e]\nf = 3".parse::<Table>().expect("TOML"));
    }
}
