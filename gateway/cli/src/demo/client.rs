//! Clients that others wrote: Mosquitto's, or mqtt.js from the npm packages where those are missing.
//!
//! What they say on their standard output is read into [`Event`]s; the tour shows it as evidence.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use eyre::{Result, eyre};
use flytrap_site::{Child, Login, Site, on_path};
use serde_json::{Value, json};

/// Something that a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// CONNACK with its code.
    Connack(u8),
    /// SUBACK with the code of its one filter.
    Suback(u8),
    /// PUBACK with its reason code.
    Puback(u8),
    /// A message that was delivered.
    Message { topic: String, payload: String },
    /// DISCONNECT from the server.
    Disconnect(u8),
}

impl Event {
    /// Is it a message with this payload?
    pub(crate) fn is_message(&self, wanted: &str) -> bool {
        matches!(self, Self::Message { payload, .. } if payload == wanted)
    }
}

/// Which client there is, and the version it speaks.
#[derive(Debug)]
pub(crate) struct Stock {
    tool: Tool,
    /// 5, or 4 for MQTT 3.1.1.
    version: u8,
    count: AtomicU32,
}

#[derive(Debug)]
enum Tool {
    Mosquitto { publish: PathBuf, subscribe: PathBuf, stdbuf: PathBuf },
    MqttJs { node: PathBuf },
}

/// How a client reaches the gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    /// The listener.
    pub(crate) to: SocketAddr,
    /// With TLS, trusting this certificate authority.
    pub(crate) ca: Option<&'a Path>,
    /// From this address of the machine, instead of the usual one.
    pub(crate) from: Option<&'a str>,
}

impl Stock {
    /// Finds a client, only in the npm packages if `npm`. `mqtt5` says whether the broker behind the gateway speaks it.
    pub(crate) fn find(mqtt5: bool, npm: bool) -> Result<Self> {
        // Into a file, Mosquitto's clients say what they have seen only after a message; `stdbuf` makes them say it at once.
        let tool = match (on_path("mosquitto_pub"), on_path("mosquitto_sub"), on_path("stdbuf")) {
            (Some(publish), Some(subscribe), Some(stdbuf)) if !npm => Tool::Mosquitto { publish, subscribe, stdbuf },
            _ => Tool::MqttJs {
                node: on_path("node").ok_or_else(|| {
                    eyre!("neither mosquitto_pub and mosquitto_sub nor node was found: run `make setup`")
                })?,
            },
        };
        Ok(Self { tool, version: if mqtt5 { 5 } else { 4 }, count: AtomicU32::new(0) })
    }

    /// What it is called, for the tour.
    pub(crate) fn describe(&self) -> String {
        let tool = match self.tool {
            Tool::Mosquitto { .. } => "mosquitto_pub and mosquitto_sub",
            Tool::MqttJs { .. } => "mqtt.js from npm",
        };
        format!("{tool}, {}", if self.version == 5 { "MQTT 5" } else { "MQTT 3.1.1" })
    }

    /// Are reasons told in the answers to CONNECT, SUBSCRIBE and PUBLISH?
    pub(crate) fn hears_reasons(&self) -> bool {
        self.version == 5
    }

    /// Publishes one message at QoS 1 and waits until the client has ended.
    pub(crate) async fn publish(
        &self,
        site: &Site,
        way: Way<'_>,
        login: &Login,
        topic: &str,
        payload: &str,
    ) -> Result<Run> {
        let command = match &self.tool {
            Tool::Mosquitto { publish, stdbuf, .. } => {
                let mut command = self.mosquitto(stdbuf, publish, way, login, topic);
                command.args(["-m", payload]);
                command
            }
            Tool::MqttJs { node } => self.mqtt_js(
                site,
                node,
                way,
                login,
                json!({ "publish": topic, "payload": payload }),
            ),
        };
        let mut run = self.start(site, "publish", command)?;
        run.child.wait(PATIENCE).await?;
        Ok(run)
    }

    /// Subscribes at QoS 1; the client stays until the run is dropped, or ends when it is refused.
    pub(crate) async fn subscribe(
        &self,
        site: &Site,
        way: Way<'_>,
        login: &Login,
        filter: &str,
    ) -> Result<Run> {
        let command = match &self.tool {
            Tool::Mosquitto { subscribe, stdbuf, .. } => {
                let mut command = self.mosquitto(stdbuf, subscribe, way, login, filter);
                command.args(["-F", "MESSAGE %t %p"]);
                command
            }
            Tool::MqttJs { node } => {
                self.mqtt_js(site, node, way, login, json!({ "subscribe": filter }))
            }
        };
        let mut run = self.start(site, "subscribe", command)?;
        let answered = |event: &Event| match event {
            Event::Suback(_) => true,
            Event::Connack(code) => *code != 0,
            _ => false,
        };
        run.until("an answer to its SUBSCRIBE", PATIENCE, answered).await?;
        Ok(run)
    }

    /// The command that a person would type.
    pub(crate) fn shown(
        &self,
        program: &str,
        way: Way<'_>,
        login: &Login,
        topic: &str,
        more: &str,
    ) -> String {
        let version = if self.version == 5 { "mqttv5" } else { "mqttv311" };
        let ca = way.ca.map(|file| format!(" --cafile {}", file.display())).unwrap_or_default();
        let from = way.from.map(|from| format!(" -A {from}")).unwrap_or_default();
        format!(
            "{program} -V {version} -h {} -p {}{ca}{from} -i {} -u {} -P '{}' -q 1 -t '{topic}'{more}",
            if way.ca.is_some() { "localhost".to_owned() } else { way.to.ip().to_string() },
            way.to.port(),
            login.client_id,
            login.user_name,
            login.password,
        )
    }

    fn start(&self, site: &Site, what: &str, command: Command) -> Result<Run> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        Ok(Run { child: site.spawn(&format!("client-{number}-{what}"), command)? })
    }

    fn mosquitto(
        &self,
        stdbuf: &Path,
        program: &Path,
        way: Way<'_>,
        login: &Login,
        topic: &str,
    ) -> Command {
        let mut command = Command::new(stdbuf);
        command.arg("-oL").arg(program);
        command.args([
            "-d",
            "-V",
            if self.version == 5 { "mqttv5" } else { "mqttv311" },
            "-q",
            "1",
            "-t",
            topic,
        ]);
        let host = if way.ca.is_some() { "localhost".to_owned() } else { way.to.ip().to_string() };
        command.args(["-h", &host, "-p", &way.to.port().to_string()]);
        if let Some(ca) = way.ca {
            command.arg("--cafile").arg(ca);
        }
        if let Some(from) = way.from {
            command.args(["-A", from]);
        }
        // The list of processes shows the password, as it does for whoever uses these clients.
        command.args(["-i", &login.client_id, "-u", &login.user_name, "-P", &login.password]);
        command
    }

    fn mqtt_js(
        &self,
        site: &Site,
        node: &Path,
        way: Way<'_>,
        login: &Login,
        mut order: Value,
    ) -> Command {
        let common = json!({
            "host": way.to.ip().to_string(), "port": way.to.port(), "version": self.version,
            "clientId": login.client_id, "userName": login.user_name, "password": login.password,
        });
        for (key, value) in common.as_object().into_iter().flatten() {
            order[key] = value.clone();
        }
        if let Some(ca) = way.ca {
            order["ca"] = ca.display().to_string().into();
        }
        if let Some(from) = way.from {
            order["from"] = from.into();
        }
        let mut command = Command::new(node);
        command.current_dir(site.root()).args([
            "--input-type=module",
            "--eval",
            include_str!("client.mjs"),
            "--",
        ]);
        command.arg(order.to_string());
        command
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

/// A client that was started.
#[derive(Debug)]
pub(crate) struct Run {
    child: Child,
}

impl Run {
    /// What it has seen so far.
    pub(crate) fn events(&self) -> Vec<Event> {
        events(&self.child.log())
    }

    /// The first code of a kind, such as that of its PUBACK.
    pub(crate) fn code(&self, pick: impl Fn(&Event) -> Option<u8>) -> Option<u8> {
        self.events().iter().find_map(pick)
    }

    /// Its CONNACK.
    pub(crate) fn connack(&self) -> Option<u8> {
        self.code(|event| if let Event::Connack(code) = event { Some(*code) } else { None })
    }

    /// Its SUBACK.
    pub(crate) fn suback(&self) -> Option<u8> {
        self.code(|event| if let Event::Suback(code) = event { Some(*code) } else { None })
    }

    /// Its PUBACK.
    pub(crate) fn puback(&self) -> Option<u8> {
        self.code(|event| if let Event::Puback(code) = event { Some(*code) } else { None })
    }

    /// The payloads it was delivered.
    pub(crate) fn messages(&self) -> Vec<String> {
        let message =
            |event| if let Event::Message { payload, .. } = event { Some(payload) } else { None };
        self.events().into_iter().filter_map(message).collect()
    }

    /// Waits for something among what it sees.
    pub(crate) async fn until(
        &mut self,
        what: &str,
        patience: Duration,
        fits: impl Fn(&Event) -> bool,
    ) -> Result<()> {
        let found = |log: &str| events(log).iter().any(&fits).then_some(());
        self.child.until_logged(what, patience, found).await
    }
}

fn events(log: &str) -> Vec<Event> {
    // The last line may be half written.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole.lines().filter_map(event).collect()
}

fn event(line: &str) -> Option<Event> {
    if let Some(message) = line.strip_prefix("MESSAGE ") {
        let (topic, payload) = message.split_once(' ').unwrap_or((message, ""));
        return Some(Event::Message { topic: topic.into(), payload: payload.into() });
    }
    let number = |text: &str| {
        let digits: String = text
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse::<u8>().ok()
    };
    // mqtt.js through our script.
    for (word, make) in [
        ("CONNACK ", Event::Connack as fn(u8) -> Event),
        ("SUBACK ", Event::Suback),
        ("PUBACK ", Event::Puback),
        ("DISCONNECT ", Event::Disconnect),
    ] {
        if let Some(rest) = line.strip_prefix(word) {
            return number(rest).map(make);
        }
    }
    // Mosquitto's clients with -d.
    if let Some((_, code)) = line.split_once(" received CONNACK (") {
        return number(code).map(Event::Connack);
    }
    if let Some((_, code)) =
        line.strip_prefix("Subscribed (mid: ").and_then(|rest| rest.split_once("): "))
    {
        return number(code).map(Event::Suback);
    }
    if let Some((_, rest)) = line.split_once(" received PUBACK (") {
        return number(rest.split_once("RC:")?.1).map(Event::Puback);
    }
    if let Some(code) = line.strip_prefix("Received DISCONNECT (") {
        return number(code).map(Event::Disconnect);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mosquitto_says_is_understood() {
        let log = "Client (null) sending CONNECT\nClient a received CONNACK (0)\nClient a received SUBACK\n\
            Subscribed (mid: 1): 135\nClient a received PUBACK (Mid: 12, RC:135)\nMESSAGE a/b hello world\n\
            Received DISCONNECT (152)\nMESSAGE half";
        let wanted = [
            Event::Connack(0),
            Event::Suback(135),
            Event::Puback(135),
            Event::Message { topic: "a/b".into(), payload: "hello world".into() },
            Event::Disconnect(152),
        ];
        assert_eq!(events(log), wanted);
    }

    #[test]
    fn what_mqtt_js_says_is_understood() {
        let wanted =
            [Event::Connack(134), Event::Suback(128), Event::Puback(16), Event::Disconnect(139)];
        assert_eq!(
            events("CONNACK 134\nSUBACK 128 \"no grant\"\nPUBACK 16\nDISCONNECT 139\nCLOSED\n"),
            wanted
        );
    }
}
