//! One GET at a time, for the gateway's health and metrics.

use std::net::SocketAddr;
use std::time::Duration;

use eyre::{Result, WrapErr, bail, eyre};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Status and body of a GET.
///
/// # Errors
/// If there is no answer, or it is no HTTP.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
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
    Ok((status.ok_or_else(|| eyre!("GET {path}: no status: {head:?}"))?, body.to_owned()))
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
