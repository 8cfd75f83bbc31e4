//! One request at a time, for the gateway's health, metrics and API.

use std::net::SocketAddr;
use std::time::Duration;

use eyre::{Result, WrapErr, bail, eyre};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// All before the body, as it came.
    pub head: String,
    /// The rest.
    pub body: String,
}

impl Answer {
    /// A header's value, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let of = |line: &'_ str| {
            line.split_once(": ").map(|(found, _)| found.eq_ignore_ascii_case(name))
        };
        let line = self.head.lines().find(|line| of(line) == Some(true));
        line.and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).wrap_err_with(|| format!("{} {}", self.status, self.body))
    }
}

/// Status and body of a GET.
///
/// # Errors
/// If there is no answer, or it is no HTTP.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let answer = ask(address, "GET", path, &[("Host", &address.to_string())]).await?;
    Ok((answer.status, answer.body))
}

/// A request without a body, with these headers.
///
/// # Errors
/// If there is no answer, or it is no HTTP.
pub async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Answer> {
    send(address, method, path, headers, "").await
}

/// A request with these headers, and a body with its length.
///
/// # Errors
/// If there is no answer, or it is no HTTP.
pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Answer> {
    let mut headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    if !body.is_empty() {
        headers.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    let request = format!("{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n{body}");
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer =
        timeout(Duration::from_secs(10), asked).await.wrap_err_with(|| format!("GET {path}"))??;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| eyre!("GET {path}: no HTTP answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| eyre!("{method} {path}: no status: {head:?}"))?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// The sum of all series of a metric, by its name without labels.
///
/// # Errors
/// If there is none.
pub async fn metric(address: SocketAddr, name: &str) -> Result<f64> {
    let (status, body) = get(address, "/metrics").await?;
    if status != 200 {
        bail!("/metrics: {status}");
    }
    let of = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
    };
    let series: Vec<f64> = body.lines().filter_map(of).collect();
    if series.is_empty() {
        bail!("no metric {name} in:\n{body}");
    }
    Ok(series.iter().sum())
}
