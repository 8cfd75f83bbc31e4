//! A connection of the rig: plain or TLS, whole packets in, and what has to be answered to them.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use eyre::{Result, WrapErr as _, bail, ensure};
use flytrap_mqtt::{frame, kind};
use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Client, Way};
use crate::packets;

const READ_OCTETS: usize = 64 * 1024;
/// Largest packet that is read.
const LIMIT: usize = 1024 * 1024;

/// The half that is written to.
pub(super) type Writer = Box<dyn AsyncWrite + Unpin>;

/// Writes all of it, and does not keep any.
pub(super) async fn put(writer: &mut Writer, octets: &[u8]) -> Result<()> {
    writer.write_all(octets).await?;
    Ok(writer.flush().await?)
}

/// A connection, seen from the end that it was made from.
pub(super) struct Connection {
    pub(super) inbox: Inbox,
    pub(super) writer: Writer,
}

impl Connection {
    /// At the sink.
    pub(super) fn accepted(stream: TcpStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { inbox: Inbox::new(Box::new(reader)), writer: Box::new(writer) }
    }

    /// To a proxy; nothing is sent yet but what TLS sends.
    pub(super) async fn dial(to: &Way) -> Result<Self> {
        let stream = TcpStream::connect(to.address).await?;
        stream.set_nodelay(true)?;
        let Some(ca) = &to.ca else { return Ok(Self::accepted(stream)) };
        let name = ServerName::try_from("localhost")?;
        let stream = TlsConnector::from(tls(ca)?).connect(name, stream).await?;
        let (reader, writer) = tokio::io::split(stream);
        Ok(Self { inbox: Inbox::new(Box::new(reader)), writer: Box::new(writer) })
    }

    /// A client after a CONNACK that lets it in.
    pub(super) async fn login(to: &Way, client: &Client) -> Result<Self> {
        let mut connection = Self::dial(to).await?;
        let connect = packets::connect(&client.client_id, &client.user_name, &client.password);
        put(&mut connection.writer, &connect).await?;
        let connack = connection.inbox.packet().await.wrap_err("no CONNACK")?;
        ensure!(connack == [0x20, 2, 0, 0], "the CONNACK says {connack:02x?}");
        Ok(connection)
    }

    /// Subscribes to one filter.
    pub(super) async fn subscribe(&mut self, filter: &str, qos: u8) -> Result<()> {
        put(&mut self.writer, &packets::subscribe(filter, qos)).await?;
        let suback = self.inbox.packet().await.wrap_err("no SUBACK")?;
        ensure!(suback.len() == 5 && suback[..4] == [0x90, 3, 0, 1], "no SUBACK: {suback:02x?}");
        ensure!(suback[4] == qos, "the SUBACK for {filter} says {:#04x}", suback[4]);
        Ok(())
    }

    /// Sends a PUBLISH of QoS 1 with packet id 1 and waits for its PUBACK.
    pub(super) async fn publish(&mut self, publish: &[u8]) -> Result<()> {
        put(&mut self.writer, publish).await?;
        let puback = self.inbox.packet().await.wrap_err("no PUBACK")?;
        ensure!(puback == [0x40, 2, 0, 1], "no PUBACK: {puback:02x?}");
        Ok(())
    }

    /// Takes its leave, and waits until the other side has closed.
    pub(super) async fn leave(mut self) -> Result<()> {
        put(&mut self.writer, &[0xE0, 0]).await?;
        // Whether the other side closes politely, or has before, is not what is measured.
        let _ = self.writer.shutdown().await;
        let mut rest = Vec::new();
        let _ = self.inbox.reader.read_to_end(&mut rest).await;
        Ok(())
    }

    /// Reads once and answers what came.
    pub(super) async fn serve(&mut self, each: impl FnMut(u8, &[u8])) -> Result<()> {
        self.inbox.read(each).await?;
        if !self.inbox.answers.is_empty() {
            put(&mut self.writer, &self.inbox.answers).await?;
            self.inbox.answers.clear();
        }
        Ok(())
    }
}

thread_local! {
    /// Reading the root again for each of ten thousand connections would be measured with them.
    static CONFIG: RefCell<Option<(PathBuf, Arc<ClientConfig>)>> = const { RefCell::new(None) };
}

fn tls(ca: &PathBuf) -> Result<Arc<ClientConfig>> {
    let kept = CONFIG.with_borrow(|kept| {
        kept.as_ref().filter(|(file, _)| file == ca).map(|(_, config)| config.clone())
    });
    if let Some(config) = kept {
        return Ok(config);
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    // Devices that come for the first time: a handshake that was resumed would cost a proxy nearly nothing.
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    CONFIG.set(Some((ca.clone(), config.clone())));
    Ok(config)
}

/// Reads whole packets off a connection and collects what is to be answered to them.
pub(super) struct Inbox {
    reader: Box<dyn AsyncRead + Unpin>,
    buffer: Vec<u8>,
    held: usize,
    pub(super) answers: Vec<u8>,
}

impl Inbox {
    fn new(reader: Box<dyn AsyncRead + Unpin>) -> Self {
        // Ten thousand idle connections hold a buffer each.
        Self { reader, buffer: vec![0; 1024], held: 0, answers: Vec::new() }
    }

    /// Reads once and hands each whole packet's first octet and packet to `each`; the answers are collected.
    pub(super) async fn read(&mut self, mut each: impl FnMut(u8, &[u8])) -> Result<()> {
        if self.held == self.buffer.len() {
            ensure!(self.held < LIMIT + READ_OCTETS, "a packet of more than {LIMIT} octets");
            self.buffer.resize(self.held + READ_OCTETS, 0);
        }
        let taken = self.reader.read(&mut self.buffer[self.held..]).await?;
        if taken == 0 {
            bail!("disconnected");
        }
        self.held += taken;
        if self.held == self.buffer.len() && self.held < READ_OCTETS {
            // Much is coming: few and large reads, so that the load costs little beside the proxy.
            self.buffer.resize(2 * READ_OCTETS, 0);
        }
        let mut done = 0;
        while let Some(next) = frame(&self.buffer[done..self.held], LIMIT)? {
            let octets = next.octets();
            done += octets.len();
            each(octets[0], octets);
            answer_to(octets, next.body(), &mut self.answers);
        }
        self.buffer.copy_within(done..self.held, 0);
        self.held -= done;
        Ok(())
    }

    /// The next packet of an exchange in which one question has one answer.
    pub(super) async fn packet(&mut self) -> Result<Vec<u8>> {
        let mut got = Vec::new();
        while got.is_empty() {
            self.read(|_, octets| got.extend_from_slice(octets)).await?;
        }
        Ok(got)
    }
}

/// What a broker or a client answers to a packet, as far as these rounds need it.
fn answer_to(packet: &[u8], body: &[u8], out: &mut Vec<u8>) {
    match packet[0] >> 4 {
        kind::CONNECT => out.extend_from_slice(&[0x20, 2, 0, 0]),
        kind::PUBLISH if packet[0] & 0b110 != 0 => {
            let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let first = if packet[0] & 0b110 == 0b010 { 0x40 } else { 0x50 };
            out.extend_from_slice(&[first, 2, body[2 + topic], body[3 + topic]]);
        }
        kind::PUBREC => out.extend_from_slice(&[0x62, 2, body[0], body[1]]),
        kind::PUBREL => out.extend_from_slice(&[0x70, 2, body[0], body[1]]),
        kind::SUBSCRIBE => {
            let qos = body.last().copied().unwrap_or_default();
            out.extend_from_slice(&[0x90, 3, body[0], body[1], qos]);
        }
        kind::PINGREQ => out.extend_from_slice(&[0xD0, 0]),
        _ => {}
    }
}
