//! A client that sends exactly the octets of a test and reads what comes back.
//!
//! Packets are put together here by hand, so that also what no library would send can be sent; answers are read by `flytrap_mqtt`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use eyre::{Result, WrapErr, bail, eyre};
pub use flytrap_mqtt::Version;
use flytrap_mqtt::{Ack, FromBroker, Properties, frame, read_from_broker};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::Login;

/// How long an answer may take that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// Properties of MQTT 5, as octets without their length.
pub mod property {
    /// Appends a user property.
    pub fn user(name: &str, value: &str) -> Vec<u8> {
        [&[0x26][..], &super::text(name), &super::text(value)].concat()
    }

    /// Appends a topic alias.
    pub fn alias(alias: u16) -> Vec<u8> {
        [&[0x23][..], &alias.to_be_bytes()].concat()
    }

    /// Appends a session expiry, s.
    pub fn session_expiry(seconds: u32) -> Vec<u8> {
        [&[0x11][..], &seconds.to_be_bytes()].concat()
    }

    /// Appends the largest packet that is taken, octets.
    pub fn maximum_packet_size(octets: u32) -> Vec<u8> {
        [&[0x27][..], &octets.to_be_bytes()].concat()
    }

    /// Appends the largest alias that is taken.
    pub fn topic_alias_maximum(most: u16) -> Vec<u8> {
        [&[0x22][..], &most.to_be_bytes()].concat()
    }

    /// Appends an authentication method, and data.
    pub fn authentication(method: &str, data: Option<&[u8]>) -> Vec<u8> {
        let data = data.map(|data| [&[0x16][..], &super::binary(data)].concat());
        [&[0x15][..], &super::text(method), &data.unwrap_or_default()].concat()
    }

    /// Appends whether reason strings are wanted.
    pub fn request_problem_information(wanted: bool) -> Vec<u8> {
        vec![0x17, wanted.into()]
    }
}

/// A length as MQTT writes it.
pub fn length(mut value: usize) -> Vec<u8> {
    let mut octets = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).expect("seven bits");
        value >>= 7;
        octets.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return octets;
        }
    }
}

/// Two octets of length and the octets.
pub fn binary(octets: &[u8]) -> Vec<u8> {
    let count = u16::try_from(octets.len()).expect("at most 65,535 octets");
    [&count.to_be_bytes()[..], octets].concat()
}

/// Two octets of length and the text.
pub fn text(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

/// A whole packet from its first octet and its body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    [&[first][..], &length(body.len()), body].concat()
}

fn properties(version: Version, properties: &[u8]) -> Vec<u8> {
    if version.is_v5() { [&length(properties.len())[..], properties].concat() } else { Vec::new() }
}

/// A will.
#[derive(Clone, Debug)]
pub struct Will {
    /// Its topic.
    pub topic: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its QoS.
    pub qos: u8,
    /// Is it retained?
    pub retain: bool,
}

/// A CONNECT in parts.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Client id.
    pub client_id: String,
    /// User name.
    pub user_name: Option<String>,
    /// Password.
    pub password: Option<Vec<u8>>,
    /// Clean session, clean start.
    pub clean: bool,
    /// s, 0 for none.
    pub keep_alive: u16,
    /// Will.
    pub will: Option<Will>,
    /// MQTT 5 only.
    pub properties: Vec<u8>,
}

impl Connect {
    /// Without a proof.
    pub fn anonymous() -> Self {
        Self {
            client_id: String::new(),
            user_name: None,
            password: None,
            clean: true,
            keep_alive: 0,
            will: None,
            properties: Vec::new(),
        }
    }

    /// With a proof.
    pub fn of(_version: Version, login: &Login) -> Self {
        Self {
            client_id: login.client_id.clone(),
            user_name: Some(login.user_name.clone()),
            password: Some(login.password.clone().into_bytes()),
            ..Self::anonymous()
        }
    }

    /// Its octets.
    pub fn octets(&self, version: Version) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        flags |= u8::from(self.user_name.is_some()) << 7 | u8::from(self.password.is_some()) << 6;
        if let Some(will) = &self.will {
            flags |= 0x04 | will.qos << 3 | u8::from(will.retain) << 5;
        }
        let mut body = text(version.protocol_name());
        body.extend_from_slice(&[version.level(), flags]);
        body.extend_from_slice(&self.keep_alive.to_be_bytes());
        body.extend(properties(version, &self.properties));
        body.extend(text(&self.client_id));
        if let Some(will) = &self.will {
            body.extend(properties(version, &[]));
            body.extend(text(&will.topic));
            body.extend(binary(&will.payload));
        }
        body.extend(self.user_name.iter().flat_map(|name| text(name)));
        body.extend(self.password.iter().flat_map(|password| binary(password)));
        packet(0x10, &body)
    }
}

/// A PUBLISH in parts.
#[derive(Clone, Debug)]
pub struct Publish<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// Payload.
    pub payload: &'a [u8],
    /// QoS.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// DUP flag.
    pub dup: bool,
    /// Packet id, where the QoS wants one.
    pub id: u16,
    /// MQTT 5 only.
    pub properties: Vec<u8>,
}

impl<'a> Publish<'a> {
    /// QoS 0, not retained.
    pub fn new(topic: &'a str, payload: &'a [u8]) -> Self {
        Self { topic, payload, qos: 0, retain: false, dup: false, id: 0, properties: Vec::new() }
    }

    /// With another QoS and a packet id.
    pub fn qos(self, qos: u8, id: u16) -> Self {
        Self { qos, id, ..self }
    }

    /// Retained.
    pub fn retained(self) -> Self {
        Self { retain: true, ..self }
    }

    /// With properties.
    pub fn with(self, properties: Vec<u8>) -> Self {
        Self { properties, ..self }
    }

    /// Its octets.
    pub fn octets(&self, version: Version) -> Vec<u8> {
        let mut body = text(self.topic);
        if self.qos > 0 {
            body.extend_from_slice(&self.id.to_be_bytes());
        }
        body.extend(properties(version, &self.properties));
        body.extend_from_slice(self.payload);
        packet(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }
}

/// A SUBSCRIBE.
pub fn subscribe(version: Version, id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = [&id.to_be_bytes()[..], &properties(version, &[])].concat();
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

/// An UNSUBSCRIBE.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = [&id.to_be_bytes()[..], &properties(version, &[])].concat();
    body.extend(filters.iter().flat_map(|filter| text(filter)));
    packet(0xa2, &body)
}

/// A PUBACK (0x40), PUBREC (0x50), PUBREL (0x62) or PUBCOMP (0x70) that says success.
pub fn acknowledge(first: u8, id: u16) -> Vec<u8> {
    packet(first, &id.to_be_bytes())
}

/// AUTH.
pub fn auth(code: u8, method: &str, data: Option<&[u8]>) -> Vec<u8> {
    let properties = property::authentication(method, data);
    packet(0xf0, &[&[code][..], &length(properties.len()), &properties].concat())
}

/// PINGREQ.
pub const PINGREQ: [u8; 2] = [0xc0, 0];
/// DISCONNECT without a word.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// What came from the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Got {
    /// CONNACK.
    ConnAck {
        /// Session present.
        present: bool,
        /// Code.
        code: u8,
        /// Reason string.
        reason: Option<String>,
        /// Topic alias maximum.
        aliases: u16,
        /// Assigned client id.
        assigned: Option<String>,
        /// Authentication method.
        method: Option<String>,
    },
    /// PUBLISH.
    Publish(Delivery),
    /// PUBACK, PUBREC, PUBREL, PUBCOMP.
    Ack {
        /// Packet type, 4 to 7.
        kind: u8,
        /// Packet id.
        id: u16,
        /// Reason code.
        code: u8,
        /// Reason string.
        reason: Option<String>,
    },
    /// SUBACK.
    SubAck {
        /// Packet id.
        id: u16,
        /// Codes in order.
        codes: Vec<u8>,
        /// Reason string.
        reason: Option<String>,
    },
    /// UNSUBACK.
    UnsubAck {
        /// Packet id.
        id: u16,
    },
    /// PINGRESP.
    PingResp,
    /// DISCONNECT.
    Disconnect {
        /// Reason code.
        code: u8,
        /// Reason string.
        reason: Option<String>,
    },
    /// AUTH.
    Auth {
        /// Reason code.
        code: u8,
        /// Method.
        method: Option<String>,
        /// Data.
        data: Option<Vec<u8>>,
    },
}

/// A PUBLISH that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// DUP flag.
    pub dup: bool,
    /// Packet id, 0 at QoS 0.
    pub id: u16,
    /// Topic alias.
    pub alias: Option<u16>,
    /// The octets of all properties.
    pub properties: Vec<u8>,
    /// User properties in order.
    pub user: Vec<(String, String)>,
}

fn got(version: Version, octets: &[u8]) -> Result<Got> {
    let whole = frame(octets, usize::MAX)?.ok_or_else(|| eyre!("cut short: {octets:02x?}"))?;
    let ack = |kind, ack: Ack<'_>| Got::Ack {
        kind,
        id: ack.packet_id.get(),
        code: ack.reason,
        reason: reason(ack.properties),
    };
    fn reason(properties: Properties<'_>) -> Option<String> {
        properties.reason_string().map(str::to_owned)
    }
    let packet = read_from_broker(version, whole)
        .wrap_err_with(|| format!("an answer that cannot be read: {octets:02x?}"))?;
    Ok(match packet {
        FromBroker::ConnAck(connack) => Got::ConnAck {
            present: connack.session_present,
            code: connack.code,
            reason: reason(connack.properties),
            aliases: connack.topic_alias_maximum,
            assigned: connack.assigned_client_id.map(str::to_owned),
            method: connack.authentication_method.map(str::to_owned),
        },
        FromBroker::Publish(publish) => Got::Publish(Delivery {
            topic: publish.topic.to_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos as u8,
            retain: publish.retain,
            dup: publish.dup,
            id: publish.packet_id.map_or(0, Into::into),
            alias: publish.topic_alias.map(Into::into),
            properties: publish.properties.octets().to_vec(),
            user: publish
                .properties
                .user_properties()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        }),
        FromBroker::PubAck(found) => ack(4, found),
        FromBroker::PubRec(found) => ack(5, found),
        FromBroker::PubRel(found) => ack(6, found),
        FromBroker::PubComp(found) => ack(7, found),
        FromBroker::SubAck(suback) => Got::SubAck {
            id: suback.packet_id.get(),
            codes: suback.codes.to_vec(),
            reason: reason(suback.properties),
        },
        FromBroker::UnsubAck(unsuback) => Got::UnsubAck { id: unsuback.packet_id.get() },
        FromBroker::PingResp => Got::PingResp,
        FromBroker::Disconnect(disconnect) => {
            Got::Disconnect { code: disconnect.reason, reason: reason(disconnect.properties) }
        }
        FromBroker::Auth(auth) => Got::Auth {
            code: auth.reason,
            method: auth.method.map(str::to_owned),
            data: auth.data.map(<[u8]>::to_vec),
        },
    })
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// The client.
pub struct Raw {
    stream: Box<dyn Stream>,
    pending: Vec<u8>,
    /// Which version it speaks.
    pub version: Version,
    next_id: u16,
}

impl Raw {
    /// By TCP.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn plain(version: Version, address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(version, stream))
    }

    /// By TCP from a given address of this machine.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn plain_from(version: Version, from: IpAddr, address: SocketAddr) -> Result<Self> {
        let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(from, 0))?;
        Ok(Self::over(version, socket.connect(address).await?))
    }

    /// By TLS, the certificate checked against `ca`.
    ///
    /// # Errors
    /// If there is no connection or the certificate is not right.
    pub async fn tls(version: Version, address: SocketAddr, ca: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self::tls_with(version, address, Arc::new(config)).await
    }

    /// By TLS with a configuration of one's own.
    ///
    /// # Errors
    /// If there is no connection.
    pub async fn tls_with(
        version: Version,
        address: SocketAddr,
        config: Arc<ClientConfig>,
    ) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        Ok(Self::over(version, TlsConnector::from(config).connect(name, stream).await?))
    }

    /// Over any stream.
    pub fn over(
        version: Version,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        Self { stream: Box::new(stream), pending: Vec::new(), version, next_id: 1_000 }
    }

    /// Sends octets as they are.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send(&mut self, octets: impl AsRef<[u8]>) -> Result<()> {
        self.stream.write_all(octets.as_ref()).await?;
        self.stream.flush().await.wrap_err("sending")
    }

    /// Sends CONNECT and returns the code of the CONNACK.
    ///
    /// # Errors
    /// If something else comes.
    pub async fn connect(&mut self, connect: &Connect) -> Result<u8> {
        match self.connack(connect).await? {
            Got::ConnAck { code, .. } => Ok(code),
            other => bail!("wanted CONNACK, got {other:?}"),
        }
    }

    /// Sends CONNECT and returns what comes.
    ///
    /// # Errors
    /// If nothing comes.
    pub async fn connack(&mut self, connect: &Connect) -> Result<Got> {
        self.send(connect.octets(self.version)).await?;
        self.get().await
    }

    /// Sends a PUBLISH.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn publish(&mut self, publish: &Publish<'_>) -> Result<()> {
        let octets = publish.octets(self.version);
        self.send(octets).await
    }

    /// Sends a PUBLISH and goes through its whole exchange, which is when a broker passes it on at `QoS` 2.
    ///
    /// # Errors
    /// If it is refused, or something else comes.
    pub async fn publish_whole(&mut self, publish: &Publish<'_>) -> Result<()> {
        self.publish(publish).await?;
        let wanted: &[u8] = [&[][..], &[4], &[5, 7]][usize::from(publish.qos)];
        for wanted in wanted {
            match self.get().await? {
                Got::Ack { kind, id, code: 0 | 0x10, .. }
                    if kind == *wanted && id == publish.id => {}
                other => bail!("wanted acknowledgement {wanted} of {}, got {other:?}", publish.id),
            }
            if *wanted == 5 {
                self.send(acknowledge(0x62, publish.id)).await?;
            }
        }
        Ok(())
    }

    /// Subscribes and returns the codes. Only SUBACK may come.
    ///
    /// # Errors
    /// If something else comes.
    pub async fn subscribe(&mut self, filters: &[(&str, u8)]) -> Result<Vec<u8>> {
        self.next_id += 1;
        let wanted = self.next_id;
        self.send(subscribe(self.version, wanted, filters)).await?;
        match self.get().await? {
            Got::SubAck { id, codes, .. } if id == wanted => Ok(codes),
            other => bail!("wanted SUBACK {wanted}, got {other:?}"),
        }
    }

    /// Everything sent before has been decided on when this returns; what came meanwhile.
    ///
    /// # Errors
    /// If there is no PINGRESP.
    pub async fn ping(&mut self) -> Result<Vec<Got>> {
        self.send(PINGREQ).await?;
        let mut before = Vec::new();
        loop {
            match self.get().await? {
                Got::PingResp => return Ok(before),
                other => before.push(other),
            }
        }
    }

    /// The next packet.
    ///
    /// # Errors
    /// If none comes in time, or the connection ends.
    pub async fn get(&mut self) -> Result<Got> {
        match self.next(PATIENCE).await? {
            Some(octets) => got(self.version, &octets),
            None => bail!("the connection ended where a packet was wanted"),
        }
    }

    /// The octets of the next packet, `None` at the end of the connection.
    ///
    /// # Errors
    /// If neither comes in time.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<Vec<u8>>> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(whole) = frame(&self.pending, usize::MAX)? {
                let octets = whole.octets().to_vec();
                self.pending.drain(..octets.len());
                return Ok(Some(octets));
            }
            let read = timeout_at(deadline, self.stream.read_buf(&mut self.pending)).await;
            match read.map_err(|_| {
                eyre!(
                    "neither a packet nor an end within {patience:?}; half read: {:02x?}",
                    self.pending
                )
            })? {
                // A reset is an end as well.
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }

    /// The next PUBLISH, whatever comes before it.
    ///
    /// # Errors
    /// If none comes.
    pub async fn delivery(&mut self) -> Result<Delivery> {
        loop {
            if let Got::Publish(delivery) = self.get().await? {
                return Ok(delivery);
            }
        }
    }

    /// Reads to the end of the connection and returns what came before it.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn ended(&mut self, patience: Duration) -> Result<Vec<Got>> {
        let deadline = Instant::now() + patience;
        let mut before = Vec::new();
        while let Some(octets) =
            self.next(deadline.saturating_duration_since(Instant::now())).await?
        {
            before.push(got(self.version, &octets)?);
        }
        Ok(before)
    }
}

/// Connects from an address of this machine and returns the code of the CONNACK, `None` if the connection ends without one, as a
/// banned origin's does. A refusal has to be the last packet.
///
/// # Errors
/// If something else comes, or nobody listens.
pub async fn attempt(
    version: Version,
    from: IpAddr,
    gateway: SocketAddr,
    connect: &Connect,
) -> Result<Option<u8>> {
    // A banned origin's connection may be reset before it is made, or before the CONNECT is on its way.
    let mut client = match Raw::plain_from(version, from, gateway).await {
        Ok(client) => client,
        Err(error) if is_reset(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if client.send(connect.octets(version)).await.is_err() {
        return Ok(None);
    }
    let Some(octets) = client.next(PATIENCE).await? else { return Ok(None) };
    match got(version, &octets)? {
        Got::ConnAck { code: 0, .. } => Ok(Some(0)),
        Got::ConnAck { code, .. } => match client.ended(PATIENCE).await?.as_slice() {
            [] => Ok(Some(code)),
            more => bail!("after the refusal {code:#04x} came {more:?}"),
        },
        other => bail!("wanted CONNACK, got {other:?}"),
    }
}

fn is_reset(error: &eyre::Report) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::ConnectionReset)
}
