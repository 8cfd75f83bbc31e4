//! WebSocket from the client's side, by hand, so that also what no library would send can be sent.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use eyre::{Result, WrapErr, bail, ensure};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use toml::{Table, Value};

use super::raw::Raw;
use super::{PATIENCE, Stage, Version};

/// Opcodes with the bit that says that the message ends with this frame.
pub const TEXT: u8 = 0x81;
/// Binary.
pub const BINARY: u8 = 0x82;
/// Close.
pub const CLOSE: u8 = 0x88;
/// Ping.
pub const PING: u8 = 0x89;
/// Pong.
pub const PONG: u8 = 0x8a;

const MASK: [u8; 4] = [0x5a, 0x01, 0xfe, 0x80];

/// The header of a frame that claims a length.
pub fn header(first: u8, length: u64, mask: Option<[u8; 4]>) -> Vec<u8> {
    let bit = if mask.is_some() { 0x80 } else { 0 };
    let mut octets = vec![first];
    match length {
        0..126 => octets.push(bit | u8::try_from(length).expect("below 126")),
        126..=0xffff => {
            octets.push(bit | 126);
            octets.extend(u16::try_from(length).expect("two octets").to_be_bytes());
        }
        _ => {
            octets.push(bit | 127);
            octets.extend(length.to_be_bytes());
        }
    }
    octets.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
    octets
}

/// A frame as a client must send it.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut octets = header(first, payload.len() as u64, Some(MASK));
    octets.extend(payload.iter().zip(MASK.iter().cycle()).map(|(octet, mask)| octet ^ mask));
    octets
}

/// A frame without a mask, as only a server may send it.
pub fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    [header(first, payload.len() as u64, None), payload.to_vec()].concat()
}

/// Headers of a request that asks for MQTT.
pub const GOOD: [&str; 5] = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: mqtt",
];

/// A request for a path with these headers.
pub fn request(path: &str, headers: &[&str]) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// A stream of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection for WebSocket, nothing sent yet.
///
/// # Errors
/// If there is none.
pub async fn dial(address: SocketAddr, ca: Option<&Path>) -> Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let Some(ca) = ca else { return Ok(Box::new(stream)) };
    let config = flytrap_gateway::tls::client_config(Some(&std::fs::read(ca)?))?;
    let name = ServerName::try_from("localhost")?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// Sends a request and reads the head of the answer: its status and its text.
///
/// # Errors
/// If there is no answer.
pub async fn ask(stream: &mut impl Stream, request: &[u8]) -> Result<(u16, String)> {
    stream.write_all(request).await?;
    let mut head = Vec::new();
    let read = async {
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        io::Result::Ok(())
    };
    timeout(PATIENCE, read).await.wrap_err("no answer")?.wrap_err("half an answer")?;
    let text = String::from_utf8(head)?;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    match status {
        Some(status) => Ok((status, text)),
        None => bail!("no HTTP: {text}"),
    }
}

/// Everything until the connection ends, or `None` if it does not within `patience`.
pub async fn rest(stream: &mut impl Stream, patience: Duration) -> Option<Vec<u8>> {
    let mut octets = Vec::new();
    // A reset is an end as well.
    timeout(patience, stream.read_to_end(&mut octets)).await.ok()?.ok();
    Some(octets)
}

/// A WebSocket connection as a stream of octets, whose frames are of the given lengths in turn.
pub struct Framed {
    stream: Box<dyn Stream>,
    lengths: Arc<[usize]>,
    turn: usize,
    out: Vec<u8>,
    raw: Vec<u8>,
    payload: VecDeque<u8>,
}

impl Framed {
    /// Asks for MQTT at `/mqtt` and goes on in frames.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn open(mut stream: Box<dyn Stream>, lengths: &[usize]) -> Result<Self> {
        let (status, text) = ask(&mut stream, &request("/mqtt", &GOOD)).await?;
        ensure!(status == 101, "{text}");
        ensure!(text.to_ascii_lowercase().contains("sec-websocket-protocol: mqtt\r\n"), "{text}");
        Ok(Self {
            stream,
            lengths: lengths.into(),
            turn: 0,
            out: Vec::new(),
            raw: Vec::new(),
            payload: VecDeque::new(),
        })
    }

    /// Moves whole frames to `payload`. Only what a server may send to a client that did not ping passes.
    fn unframe(&mut self) -> io::Result<()> {
        loop {
            let (length, start) = match self.raw[..] {
                [_, 126, high, low, ..] => (usize::from(u16::from_be_bytes([high, low])), 4),
                [_, 127, a, b, c, d, e, f, g, h, ..] => {
                    let length = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
                    (usize::try_from(length).unwrap_or(usize::MAX), 10)
                }
                [_, short @ ..126, ..] => (usize::from(short), 2),
                _ => return Ok(()),
            };
            if self.raw.len() - start < length {
                return Ok(());
            }
            match self.raw[0] {
                BINARY => self.payload.extend(&self.raw[start..start + length]),
                CLOSE => {}
                other => return Err(io::Error::other(format!("a frame {other:#04x}"))),
            }
            self.raw.drain(..start + length);
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out))?;
            self.out.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Framed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.payload.is_empty() {
            let mut chunk = [0; 4096];
            let mut read = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.raw.extend_from_slice(read.filled());
            this.unframe()?;
        }
        let n = buf.remaining().min(this.payload.len());
        let octets: Vec<u8> = this.payload.drain(..n).collect();
        buf.put_slice(&octets);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Framed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(cx))?;
        let mut rest = buf;
        while !rest.is_empty() {
            let length = self.lengths[self.turn % self.lengths.len()].min(rest.len());
            self.turn += 1;
            let octets = frame(BINARY, &rest[..length]);
            self.out.extend(octets);
            rest = &rest[length..];
        }
        match self.poll_drain(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(buf.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// One more listener on a free port.
pub fn listener(name: &str, more: &str) -> Result<Table> {
    let mut table: Table = more.parse()?;
    table.insert("name".into(), name.into());
    table.entry("bind").or_insert("127.0.0.1:0".into());
    Ok(table)
}

impl Stage {
    /// Certificate and key of the site's gateway, as a listener's `tls`.
    pub fn identity(&self) -> Value {
        let file = |name: &str| Value::String(self.site.dir().join(name).display().to_string());
        let table: Table = [
            ("certificate".to_owned(), file("server.pem")),
            ("key".to_owned(), file("server.key")),
        ]
        .into_iter()
        .collect();
        Value::Table(table)
    }

    /// Changes the configuration of the site's gateway and starts it again.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn reconfigure(&mut self, edit: impl FnOnce(&mut Table) -> Result<()>) -> Result<()> {
        let mut table = self.config()?;
        edit(&mut table)?;
        std::fs::write(&self.site.gateway()?.config, toml::to_string(&table)?)?;
        self.site.gateway_mut()?.restart().await
    }

    /// Adds listeners to the site's gateway.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn listen_too(&mut self, listeners: Vec<Table>) -> Result<()> {
        self.reconfigure(|table| {
            let Some(all) = table.get_mut("listener").and_then(Value::as_array_mut) else {
                bail!("no listeners")
            };
            all.extend(listeners.into_iter().map(Value::Table));
            Ok(())
        })
        .await?;
        self.caught_up().await
    }

    /// As [`Stage::open_and_closed`], with the listeners `ws` and `wss` besides, and this connect deadline.
    ///
    /// # Errors
    /// If something does not start.
    pub async fn on_the_web(connect_deadline: &str) -> Result<Self> {
        let mut stage = Self::open_and_closed().await?;
        stage
            .reconfigure(|table| {
                super::process::set(table, "limits", "connect_deadline", connect_deadline);
                Ok(())
            })
            .await?;
        let plain = listener("ws", "allow_tokens_without_tls = true\nwebsocket = {}")?;
        let mut secure = listener("wss", "websocket = {}")?;
        secure.insert("tls".into(), stage.identity());
        stage.listen_too(vec![plain, secure]).await?;
        Ok(stage)
    }

    /// Where WebSocket clients connect.
    ///
    /// # Errors
    /// If there is no such listener.
    pub fn web_target(&self, tls: bool) -> Result<super::stock::Target> {
        let address = self.site.gateway()?.listener(if tls { "wss" } else { "ws" })?;
        Ok(super::stock::Target { address, ca: tls.then(|| self.site.ca_file().to_owned()) })
    }

    /// A connection for WebSocket, nothing sent yet.
    ///
    /// # Errors
    /// If there is none.
    pub async fn web_dial(&self, tls: bool) -> Result<Box<dyn Stream>> {
        let target = self.web_target(tls)?;
        dial(target.address, target.ca.as_deref()).await
    }

    /// A raw client over WebSocket; its frames are of the given lengths in turn.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn web_raw(&self, version: Version, tls: bool, lengths: &[usize]) -> Result<Raw> {
        Ok(Raw::over(version, Framed::open(self.web_dial(tls).await?, lengths).await?))
    }
}
