//! Client libraries that others wrote, driven from a test: paho-mqtt (Python) and mqtt.js (Node.js).
//!
//! `clients/` has one small program for each. It takes a command per line (JSON) and tells every event in a line of its own, so that
//! the same scenario can be played by either library, directly at the broker and through the gateway, and the tales compared.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use eyre::{Result, WrapErr, bail, eyre};
use flytrap_mqtt::Version;
use flytrap_site::{Login, project_root};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use super::PATIENCE;
use super::stock::Target;

/// Which library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// paho-mqtt, Python.
    Paho,
    /// mqtt.js, Node.js.
    MqttJs,
}

impl Library {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Paho, Self::MqttJs];
}

/// A running client.
pub struct Foreign {
    child: Child,
    commands: ChildStdin,
    events: Lines<BufReader<ChildStdout>>,
    /// Every event so far.
    pub told: Vec<Value>,
    /// Events that a wait for another one has passed over.
    passed: Vec<Value>,
}

impl Foreign {
    /// Starts the program; it connects when told to.
    ///
    /// # Errors
    /// If Python or Node.js or the library is missing.
    pub fn start(library: Library) -> Result<Self> {
        let root = project_root()?;
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let mut command = match library {
            Library::Paho => {
                let python = root.join(".venv/bin/python");
                if !python.exists() {
                    bail!("{} is missing: run `make setup`", python.display());
                }
                let mut command = Command::new(python);
                command.arg("-u").arg(scripts.join("paho_client.py"));
                command
            }
            Library::MqttJs => {
                let mut command = Command::new("node");
                command.arg(scripts.join("mqttjs_client.js"));
                command
            }
        };
        command.current_dir(&root).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().wrap_err_with(|| format!("{library:?}"))?;
        let (Some(commands), Some(out)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("no pipes")
        };
        Ok(Self {
            child,
            commands,
            events: BufReader::new(out).lines(),
            told: Vec::new(),
            passed: Vec::new(),
        })
    }

    /// Connects and returns the CONNACK as the library tells it.
    ///
    /// # Errors
    /// If there is none.
    pub async fn connect(
        &mut self,
        target: &Target,
        version: Version,
        login: &Login,
        more: Value,
    ) -> Result<Value> {
        let mut command = json!({
            "do": "connect",
            "host": target.address.ip(),
            "port": target.address.port(),
            "version": version.level(),
            "client_id": login.client_id,
            "user_name": login.user_name,
            "password": login.password,
            "ca": target.ca,
            "clean": true,
        });
        if let (Some(command), Some(more)) = (command.as_object_mut(), more.as_object()) {
            command.extend(more.clone());
        }
        self.tell(command).await?;
        self.event("connack").await
    }

    /// Gives a command.
    ///
    /// # Errors
    /// If the program is gone.
    pub async fn tell(&mut self, command: Value) -> Result<()> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        self.commands.flush().await.wrap_err("a foreign client")
    }

    /// Subscribes and returns the codes.
    ///
    /// # Errors
    /// If there is no SUBACK.
    pub async fn subscribe(&mut self, filters: &[(&str, u8)]) -> Result<Vec<u64>> {
        self.tell(json!({"do": "subscribe", "filters": filters})).await?;
        let suback = self.event("suback").await?;
        let codes = suback["codes"].as_array().ok_or_else(|| eyre!("{suback}"))?;
        Ok(codes.iter().filter_map(Value::as_u64).collect())
    }

    /// Publishes at QoS 1 or 2 and returns the code of PUBACK or of the refusing PUBREC, 0 where the version knows none.
    ///
    /// # Errors
    /// If there is no acknowledgement.
    pub async fn publish(
        &mut self,
        topic: &str,
        payload: &str,
        qos: u8,
        retain: bool,
    ) -> Result<u64> {
        self.tell(json!({"do": "publish", "topic": topic, "payload": payload, "qos": qos, "retain": retain})).await?;
        let done = self.event("published").await?;
        done["code"].as_u64().ok_or_else(|| eyre!("{done}"))
    }

    /// The next event of a kind; others are kept.
    ///
    /// # Errors
    /// If it does not come in time.
    pub async fn event(&mut self, kind: &str) -> Result<Value> {
        self.event_within(PATIENCE, kind).await
    }

    /// As [`Foreign::event`], with a deadline of one's own.
    ///
    /// # Errors
    /// If it does not come in time.
    pub async fn event_within(&mut self, patience: Duration, kind: &str) -> Result<Value> {
        if let Some(at) = self.passed.iter().position(|event| event["event"] == kind) {
            return Ok(self.passed.remove(at));
        }
        let found = timeout(patience, async {
            loop {
                let Some(line) = self.events.next_line().await? else {
                    bail!("the client ended after {:#?}", self.told)
                };
                let event: Value = serde_json::from_str(&line).wrap_err(line)?;
                self.told.push(event.clone());
                if event["event"] == kind {
                    return Ok(event);
                }
                self.passed.push(event);
            }
        })
        .await;
        match found {
            Ok(found) => found,
            Err(_) => bail!("no event `{kind}` within {patience:?}; so far: {:#?}", self.told),
        }
    }

    /// The messages so far, in order.
    pub fn messages(&self) -> Vec<&Value> {
        self.told.iter().filter(|event| event["event"] == "message").collect()
    }

    /// Ends the program at once; its connection just ends.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.wrap_err("a foreign client")
    }
}
