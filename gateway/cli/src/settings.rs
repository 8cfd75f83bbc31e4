//! What a device is given to log in with, in the form that its software wants: ready to paste.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use eyre::{Result, WrapErr, bail, eyre};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;
use serde_json::{Value, json};
use url::Url;
use zeroize::Zeroizing;

/// Whose form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
    /// Variables for a shell, a unit file or a container.
    Env,
    /// A QR code for this terminal, of one URL with everything in it.
    Qr,
    /// Options of mosquitto_pub and mosquitto_sub, for ~/.config/mosquitto_pub.
    Mosquitto,
    /// What the dialogue of Home Assistant's MQTT integration asks for.
    Homeassistant,
    /// Part of Zigbee2MQTT's configuration.yaml.
    Zigbee2mqtt,
    /// A line for Tasmota's console.
    Tasmota,
    /// Part of an ESPHome device's YAML.
    Esphome,
    /// An output of telegraf.conf.
    Telegraf,
}

/// Where and as whom a device connects.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) server: Server,
    /// PEM, where the system of the device does not trust the certificate by itself.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client_id: String,
    /// The device key's address.
    pub(crate) user_name: String,
    pub(crate) password: Zeroizing<String>,
    /// What it publishes to, where its software wants to know.
    pub(crate) topic: Option<String>,
}

/// A gateway's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) tls: bool,
}

impl std::str::FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| format!("`{text}` {why}, wanted such as mqtts://host or mqtts://host:8883");
        let url = Url::parse(text).map_err(|error| wrong(&format!("is no URL ({error})")))?;
        let (tls, usual) = match url.scheme() {
            "mqtts" => (true, 8883),
            "mqtt" => (false, 1883),
            _ => return Err(wrong("is no MQTT URL")),
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong("has no host"))?.to_owned();
        // What goes into other programs' files is a name or an address, whoever wrote the URL on chain.
        let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-._:[]".contains(&octet);
        if !host.bytes().all(is_plain) || !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("has more than host and port, or a host of other characters"));
        }
        Ok(Self { host, port: url.port().unwrap_or(usual), tls })
    }
}

impl Server {
    fn url(&self, plain: &str, tls: &str) -> String {
        format!("{}://{}:{}", if self.tls { tls } else { plain }, self.host, self.port)
    }
}

/// A client id that every form can carry as it is.
pub(crate) fn client_id(text: &str) -> Result<String, String> {
    let is_plain = |octet: u8| octet.is_ascii_alphanumeric() || b"-_.:".contains(&octet);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(is_plain) {
        return Err(format!(
            "`{text}` is no client id for a device: 1 to 64 letters, digits, `-`, `_`, `.` or `:`"
        ));
    }
    Ok(text.to_owned())
}

impl Settings {
    /// In this form.
    ///
    /// # Errors
    /// If the CA file cannot be read and has to be part of it.
    pub(crate) fn render(&self, format: Format) -> Result<Zeroizing<String>> {
        let text = match format {
            Format::Text => self.text(),
            Format::Json => self.json().to_string(),
            Format::Env => self.env(),
            Format::Qr => self.qr()?,
            Format::Mosquitto => self.mosquitto(),
            Format::Homeassistant => self.home_assistant(),
            Format::Zigbee2mqtt => self.zigbee2mqtt(),
            Format::Tasmota => self.tasmota(),
            Format::Esphome => self.esphome()?,
            Format::Telegraf => self.telegraf(),
        };
        Ok(Zeroizing::new(text.trim_end_matches('\n').to_owned()))
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "server": self.server.url("mqtt", "mqtts"), "host": self.server.host, "port": self.server.port, "tls": self.server.tls,
            "caFile": self.ca_file, "clientId": self.client_id, "userName": self.user_name, "password": *self.password, "topic": self.topic,
        })
    }

    fn ca(&self) -> Option<String> {
        self.ca_file.as_deref().map(|file| file.display().to_string())
    }

    fn text(&self) -> String {
        let mut text = format!(
            "server     {}\nclient id  {}\nuser name  {}\npassword   {}\n",
            self.server.url("mqtt", "mqtts"),
            self.client_id,
            self.user_name,
            *self.password
        );
        for (name, value) in [("CA file", self.ca()), ("topic", self.topic.clone())] {
            if let Some(value) = value {
                let _ = writeln!(text, "{name:<9}  {value}");
            }
        }
        text
    }

    fn env(&self) -> String {
        let mut text = String::new();
        let facts = [
            ("MQTT_URL", Some(self.server.url("mqtt", "mqtts"))),
            ("MQTT_HOST", Some(self.server.host.clone())),
            ("MQTT_PORT", Some(self.server.port.to_string())),
            ("MQTT_TLS", Some(u8::from(self.server.tls).to_string())),
            ("MQTT_CA_FILE", self.ca()),
            ("MQTT_CLIENT_ID", Some(self.client_id.clone())),
            ("MQTT_USERNAME", Some(self.user_name.clone())),
            ("MQTT_PASSWORD", Some(self.password.to_string())),
            ("MQTT_TOPIC", self.topic.clone()),
        ];
        for (name, value) in facts {
            if let Some(value) = value {
                // In single quotes a shell takes everything as it is, but a single quote.
                let _ = writeln!(text, "{name}='{}'", value.replace('\'', r"'\''"));
            }
        }
        text
    }

    fn qr(&self) -> Result<String> {
        // Of the characters that an address, a device password and a client id have none needs an escape in a URL.
        let scheme = if self.server.tls { "mqtts" } else { "mqtt" };
        let (user, password) = (&self.user_name, &*self.password);
        let Server { host, port, .. } = &self.server;
        let url = Zeroizing::new(format!(
            "{scheme}://{user}:{password}@{host}:{port}?clientId={}",
            self.client_id
        ));
        let code = QrCode::new(url.as_bytes()).map_err(|error| eyre!("no QR code: {error}"))?;
        // Terminals are dark: what is light on paper is drawn here.
        let mut drawn = code.render::<Dense1x2>();
        Ok(drawn.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build())
    }

    fn mosquitto(&self) -> String {
        let mut lines = vec![
            format!("-h {}", self.server.host),
            format!("-p {}", self.server.port),
            format!("-i {}", self.client_id),
            format!("-u {}", self.user_name),
            format!("-P {}", *self.password),
        ];
        match self.ca() {
            Some(file) => lines.push(format!("--cafile {file}")),
            None if self.server.tls => lines.push("--capath /etc/ssl/certs".to_owned()),
            None => {}
        }
        if let Some(topic) = &self.topic {
            lines.push(format!("-t {topic}"));
        }
        lines.join("\n")
    }

    fn home_assistant(&self) -> String {
        let validation = match (self.server.tls, self.ca()) {
            (false, _) => "Off".to_owned(),
            (true, None) => "Auto".to_owned(),
            (true, Some(file)) => format!("Custom, upload {file}"),
        };
        format!(
            "Settings > Devices & services > Add integration > MQTT, then Advanced options:\n\
             Broker: {}\nPort: {}\nUsername: {}\nPassword: {}\nClient ID: {}\nBroker certificate validation: {validation}\nMQTT protocol: 5\n",
            self.server.host, self.server.port, self.user_name, *self.password, self.client_id
        )
    }

    fn zigbee2mqtt(&self) -> String {
        let mut text = format!(
            "mqtt:\n  base_topic: {}\n  server: {}\n  client_id: {}\n  user: {}\n  password: {}\n",
            quoted(self.topic.as_deref().unwrap_or("zigbee2mqtt")),
            quoted(&self.server.url("mqtt", "mqtts")),
            quoted(&self.client_id),
            quoted(&self.user_name),
            quoted(&self.password)
        );
        if let Some(file) = self.ca() {
            let _ = writeln!(text, "  ca: {}\n  reject_unauthorized: true", quoted(&file));
        }
        text
    }

    fn tasmota(&self) -> String {
        let mut commands = vec![
            format!("MqttHost {}", self.server.host),
            format!("MqttPort {}", self.server.port),
            format!("MqttUser {}", self.user_name),
            format!("MqttPassword {}", *self.password),
            format!("MqttClient {}", self.client_id),
            // TLS; builds without it do not know the option.
            format!("SetOption103 {}", u8::from(self.server.tls)),
        ];
        if let Some(topic) = &self.topic {
            commands.push(format!("Topic {topic}"));
        }
        format!("Backlog {}", commands.join("; "))
    }

    fn esphome(&self) -> Result<String> {
        let mut text = format!(
            "mqtt:\n  broker: {}\n  port: {}\n  client_id: {}\n  username: {}\n  password: {}\n",
            quoted(&self.server.host),
            self.server.port,
            quoted(&self.client_id),
            quoted(&self.user_name),
            quoted(&self.password)
        );
        if let Some(topic) = &self.topic {
            let _ = writeln!(text, "  topic_prefix: {}", quoted(topic));
        }
        if let Some(file) = &self.ca_file {
            text.push_str("  certificate_authority: |\n");
            for line in certificate(file)?.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
        Ok(text)
    }

    fn telegraf(&self) -> String {
        let mut text = format!(
            "[[outputs.mqtt]]\n  servers = [{}]\n  protocol = \"3.1.1\"\n  topic = {}\n  client_id = {}\n  username = {}\n  password = {}\n",
            quoted(&self.server.url("tcp", "ssl")),
            quoted(self.topic.as_deref().unwrap_or("telegraf")),
            quoted(&self.client_id),
            quoted(&self.user_name),
            quoted(&self.password)
        );
        if let Some(file) = self.ca() {
            let _ = writeln!(text, "  tls_ca = {}", quoted(&file));
        }
        text.push_str("  data_format = \"influx\"\n");
        text
    }
}

/// In double quotes, with the escapes that JSON, YAML and TOML have in common. Unquoted, YAML would take an address for a number.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn certificate(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file).wrap_err_with(|| file.display().to_string())?;
    if !text.contains("BEGIN CERTIFICATE") || text.contains("PRIVATE KEY") {
        bail!("{} is no PEM file with certificates only", file.display());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            server: "mqtts://gw.example:8884".parse().expect("a server"),
            ca_file: Some("/etc/ca's.pem".into()),
            client_id: "sensor-7".to_owned(),
            user_name: "0x20DbE58a2016D2e980DAe90bdd7cD46600A9A770".to_owned(),
            password: Zeroizing::new("AAECAwQFBgcICQoLDA0ODxAREhM".to_owned()),
            topic: Some("farm/n1".to_owned()),
        }
    }

    fn rendered(format: Format) -> String {
        settings().render(format).expect("text").to_string()
    }

    #[test]
    fn a_server_is_scheme_host_and_port_and_nothing_else() {
        let server = |text: &str| text.parse::<Server>();
        let with = |host: &str, port, tls| Ok(Server { host: host.into(), port, tls });
        assert_eq!(server("mqtts://gw.example"), with("gw.example", 8883, true));
        assert_eq!(server("mqtt://127.0.0.1:18830"), with("127.0.0.1", 18830, false));
        assert_eq!(server("mqtts://[::1]:1"), with("[::1]", 1, true));
        for wrong in [
            "gw.example",
            "https://gw.example",
            "mqtts://",
            "mqtts://user@gw.example",
            "mqtts://user:word@gw.example",
            "mqtts://gw.example;reboot",
            "mqtts://gw example",
            "mqtts://gw'x",
        ] {
            assert!(server(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_client_id_has_no_character_that_any_form_would_have_to_escape() {
        assert!(client_id("Node_1.b:7-x").is_ok());
        for wrong in ["", "a b", "a;b", "a'b", "a\"b", "a#b", "a\nb", "é", &"x".repeat(65)] {
            assert!(client_id(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_form_has_everything_that_a_login_needs() {
        let wanted = settings();
        let mut forms = 0;
        for format in Format::value_variants() {
            if matches!(format, Format::Qr | Format::Esphome) {
                continue;
            }
            let text = rendered(*format);
            for part in
                ["gw.example", "8884", &wanted.client_id, &wanted.user_name, &wanted.password]
            {
                assert!(text.contains(part), "{format:?} lacks {part}: {text}");
            }
            forms += 1;
        }
        assert_eq!(forms, 8);
    }

    #[test]
    fn programs_read_their_form_as_it_is_meant() {
        let toml: toml::Table = rendered(Format::Telegraf).parse().expect("TOML");
        let output = &toml["outputs"]["mqtt"][0];
        assert_eq!(output["servers"][0].as_str(), Some("ssl://gw.example:8884"));
        assert_eq!(output["username"].as_str(), Some(settings().user_name.as_str()));
        assert_eq!(output["tls_ca"].as_str(), Some("/etc/ca's.pem"));
        let json: Value = serde_json::from_str(&rendered(Format::Json)).expect("JSON");
        assert_eq!(json["port"], 8884);
        let shell = std::process::Command::new("sh")
            .args(["-c", &format!("{}\nprintf %s \"$MQTT_CA_FILE\"", rendered(Format::Env))])
            .output()
            .expect("a shell");
        assert_eq!(String::from_utf8_lossy(&shell.stdout), "/etc/ca's.pem");
        // YAML takes 0x20DbE5… for a number where it is not quoted.
        assert!(rendered(Format::Zigbee2mqtt).contains("user: \"0x20DbE5"));
        assert_eq!(rendered(Format::Tasmota).lines().count(), 1);
    }

    #[test]
    fn esphome_gets_the_certificate_itself_and_never_a_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("ca.pem");
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&file, pem).expect("a file");
        let with = Settings { ca_file: Some(file.clone()), ..settings() };
        let text = with.render(Format::Esphome).expect("text");
        assert!(text.ends_with("    -----END CERTIFICATE-----") && text.contains("\n    AAAA\n"));
        std::fs::write(&file, format!("{pem}-----BEGIN PRIVATE KEY-----\n")).expect("a file");
        assert!(with.render(Format::Esphome).is_err());
    }

    #[test]
    fn a_qr_code_is_square_and_made_of_half_blocks() {
        let text = rendered(Format::Qr);
        let lines: Vec<&str> = text.lines().collect();
        let width = lines[0].chars().count();
        assert!(width > 40 && lines.iter().all(|line| line.chars().count() == width), "{text}");
        assert_eq!(lines.len(), width.div_ceil(2));
        assert!(text.chars().all(|c| " ▀▄█\n".contains(c)), "{text}");
    }
}
