//! `mosquitto_pub` and `mosquitto_sub` as anyone starts them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use eyre::{Result, WrapErr, bail};
use flytrap_mqtt::Version;
use flytrap_site::Login;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::PATIENCE;

/// Where a client connects.
#[derive(Clone, Debug)]
pub struct Target {
    /// Address and port.
    pub address: SocketAddr,
    /// Certificate authority for TLS.
    pub ca: Option<PathBuf>,
}

/// What a client that ended has said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code, -1 if a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Errors.
    pub err: String,
}

fn command(program: &str, target: &Target, version: Version, login: Option<&Login>) -> Command {
    let mut command = Command::new(program);
    let word = match version {
        Version::V31 => "mqttv31",
        Version::V311 => "mqttv311",
        Version::V5 => "mqttv5",
    };
    command.args([
        "-V",
        word,
        "-h",
        &target.address.ip().to_string(),
        "-p",
        &target.address.port().to_string(),
    ]);
    if let Some(ca) = &target.ca {
        command.arg("--cafile").arg(ca);
    }
    if let Some(login) = login {
        command.args(["-i", &login.client_id, "-u", &login.user_name, "-P", &login.password]);
    }
    // What it prints is read in any case, so that it never waits for a reader.
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn finish(child: Child, patience: Duration) -> Result<Said> {
    let done = timeout(patience, child.wait_with_output())
        .await
        .wrap_err("a stock client did not end")??;
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    Ok(Said {
        code: done.status.code().unwrap_or(-1),
        out: text(&done.stdout),
        err: text(&done.stderr),
    })
}

/// One message by `mosquitto_pub`, with more options.
///
/// # Errors
/// If it cannot be started or does not end.
pub async fn publish(
    target: &Target,
    version: Version,
    login: Option<&Login>,
    topic: &str,
    payload: &str,
    more: &[&str],
) -> Result<Said> {
    let mut command = command("mosquitto_pub", target, version, login);
    command.args(["-t", topic, "-m", payload]).args(more);
    finish(command.spawn().wrap_err("mosquitto_pub")?, PATIENCE).await
}

/// `mosquitto_pub -l`: a message for each line.
///
/// # Errors
/// If it cannot be started or does not end.
pub async fn publish_lines(
    target: &Target,
    version: Version,
    login: &Login,
    topic: &str,
    qos: u8,
    lines: String,
) -> Result<Said> {
    use tokio::io::AsyncWriteExt;
    let mut command = command("mosquitto_pub", target, version, Some(login));
    command.args(["-t", topic, "-q", &qos.to_string(), "-l"]).stdin(Stdio::piped());
    let mut child = command.spawn().wrap_err("mosquitto_pub")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes()).await?;
    }
    finish(child, PATIENCE).await
}

/// A `mosquitto_sub` that runs to its end by itself.
///
/// # Errors
/// If it cannot be started or does not end.
pub async fn subscribe_to_end(
    target: &Target,
    version: Version,
    login: &Login,
    more: &[&str],
) -> Result<Said> {
    let mut command = command("mosquitto_sub", target, version, Some(login));
    command.args(more);
    finish(command.spawn().wrap_err("mosquitto_sub")?, PATIENCE).await
}

/// A `mosquitto_sub` that stays.
pub struct Subscriber {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Every line so far.
    pub heard: Vec<String>,
}

/// One line per message: topic, QoS, retain flag, payload.
const FORMAT: &str = "%t|%q|%r|%p";

impl Subscriber {
    /// Starts it. It is subscribed once the recorder has seen the SUBSCRIBE.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(
        target: &Target,
        version: Version,
        login: Option<&Login>,
        filters: &[&str],
        qos: u8,
        more: &[&str],
    ) -> Result<Self> {
        let mut command = command("mosquitto_sub", target, version, login);
        command.args(["-F", FORMAT, "-q", &qos.to_string()]).args(more);
        for filter in filters {
            command.args(["-t", filter]);
        }
        command.stderr(Stdio::null());
        let mut child = command.spawn().wrap_err("mosquitto_sub")?;
        let Some(out) = child.stdout.take() else { bail!("mosquitto_sub has no output") };
        Ok(Self { child, lines: BufReader::new(out).lines(), heard: Vec::new() })
    }

    /// The next line.
    ///
    /// # Errors
    /// If none comes in time, or the client ends.
    pub async fn next(&mut self) -> Result<String> {
        self.next_within(PATIENCE)
            .await?
            .ok_or_else(|| eyre::eyre!("mosquitto_sub ended after {:?}", self.heard))
    }

    /// The next line, `None` at the client's end.
    ///
    /// # Errors
    /// If neither comes in time.
    pub async fn next_within(&mut self, patience: Duration) -> Result<Option<String>> {
        let line = timeout(patience, self.lines.next_line()).await;
        let line = line.wrap_err_with(|| {
            format!("mosquitto_sub printed nothing more after {:?}", self.heard)
        })??;
        self.heard.extend(line.clone());
        Ok(line)
    }

    /// Waits for a payload and returns all lines up to it, that one included.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn until_payload(&mut self, payload: &str) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        loop {
            let line = self.next().await?;
            let found = line.ends_with(&format!("|{payload}"));
            lines.push(line);
            if found {
                return Ok(lines);
            }
        }
    }

    /// Ends it at once, as a device that loses its power.
    ///
    /// # Errors
    /// If it cannot be ended.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.wrap_err("mosquitto_sub")
    }
}
