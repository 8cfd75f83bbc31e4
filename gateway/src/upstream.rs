//! One way to the broker, and the one kind of stream that sessions read and write.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsConnector, client, server};

use crate::config::{BrokerAddress, BrokerConfig, BrokerCredentials, BrokerTls, HostPort};
use crate::proxy::{self, Ends};
use crate::websocket::WebSocket;

/// One connection, to a client or to the broker, plain or TLS, and of clients by WebSocket. `TCP_NODELAY` is on.
#[derive(Debug)]
pub enum Stream {
    /// Plain text, either side.
    Tcp(TcpStream),
    /// A client over TLS.
    Client(Box<server::TlsStream<TcpStream>>),
    /// The broker over TLS.
    Broker(Box<client::TlsStream<TcpStream>>),
    /// A client over WebSocket, over one of the first two.
    WebSocket(Box<WebSocket<Stream>>),
}

impl Stream {
    /// The socket below, for readiness and options; what TLS has buffered it does not know.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Tcp(socket) => socket,
            Self::Client(tls) => tls.get_ref().0,
            Self::Broker(tls) => tls.get_ref().0,
            Self::WebSocket(socket) => socket.get_ref().socket(),
        }
    }

    /// Tells a client why and closes, in a way that the answer arrives although octets of the client lie unread.
    pub(crate) async fn turn_away(mut self, answer: &[u8]) {
        let patience = Duration::from_millis(500);
        let _ = timeout(patience, async {
            self.write_all(answer).await?;
            self.shutdown().await?;
            let (mut unread, mut most) = ([0; 1024], 64);
            while most > 0 && self.read(&mut unread).await? > 0 {
                most -= 1;
            }
            io::Result::Ok(())
        })
        .await;
    }
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Tcp($inner) => {
                let $inner = Pin::new($inner);
                $call
            }
            Stream::Client($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
            Stream::Broker($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
            Stream::WebSocket($inner) => {
                let $inner = Pin::new(&mut **$inner);
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => s.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => s.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(s) => s.is_write_vectored(),
            Self::Client(s) => s.is_write_vectored(),
            Self::Broker(s) => s.is_write_vectored(),
            Self::WebSocket(s) => s.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => s.poll_shutdown(cx))
    }
}

/// Opens connections to one address of the broker.
#[derive(Debug)]
pub struct Upstream {
    address: HostPort,
    label: Arc<str>,
    tls: Option<BrokerTls>,
    connect_timeout: Duration,
    credentials: BrokerCredentials,
    send_proxy: bool,
}

/// Why the broker could not be reached. All of it is the operator's to mend, none of it the client's fault.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No connection in time.
    #[error(
        "no connection to the broker at {address} within {waited:?}: is it up, is `broker.address` right?"
    )]
    Timeout {
        /// `broker.address`.
        address: HostPort,
        /// `broker.connect_timeout`.
        waited: Duration,
    },
    /// The system said no.
    #[error(
        "cannot connect to the broker at {address}: {error}; is it up, is `broker.address` right?"
    )]
    Connect {
        /// `broker.address`.
        address: HostPort,
        /// Of the socket.
        error: io::Error,
    },
    /// The broker's certificate or TLS itself is not as wanted.
    #[error("no TLS with the broker at {address}: {error}; see `broker.tls`")]
    Tls {
        /// `broker.address`.
        address: HostPort,
        /// Of TLS.
        error: io::Error,
    },
}

impl DialError {
    /// A fixed word for metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Timeout { .. } => "timeout",
            Self::Connect { .. } => "unreachable",
            Self::Tls { .. } => "tls",
        }
    }
}

impl Upstream {
    /// As the configuration says.
    pub fn new(config: &BrokerConfig, to: &BrokerAddress) -> Self {
        Self {
            address: to.address.clone(),
            label: to.address.to_string().into(),
            tls: to.tls.clone(),
            connect_timeout: config.connect_timeout,
            credentials: config.credentials.clone(),
            send_proxy: config.send_proxy,
        }
    }

    /// Its address as text: its name in logs and metrics.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// What goes into CONNECT towards the broker.
    pub fn credentials(&self) -> &BrokerCredentials {
        &self.credentials
    }

    /// How long to wait for the broker, for TCP and TLS together and once more for its CONNACK.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Connects, with TLS and its certificate verified where the configuration says so. `ends`: whose connection it is, for brokers that
    /// are told; `None` for one of the gateway's own.
    ///
    /// # Errors
    /// [`DialError`], after at most [`Upstream::connect_timeout`].
    pub async fn dial(&self, ends: Option<Ends>) -> Result<Stream, DialError> {
        let address = || self.address.clone();
        let connected = async {
            let mut socket = TcpStream::connect((self.address.host.as_str(), self.address.port))
                .await
                .map_err(|error| DialError::Connect { address: address(), error })?;
            socket
                .set_nodelay(true)
                .map_err(|error| DialError::Connect { address: address(), error })?;
            if self.send_proxy {
                let sent = socket.write_all(&proxy::header(ends)).await;
                sent.map_err(|error| DialError::Connect { address: address(), error })?;
            }
            let Some(tls) = &self.tls else { return Ok(Stream::Tcp(socket)) };
            let connector = TlsConnector::from(tls.config.clone());
            match connector.connect(tls.server_name.clone(), socket).await {
                Ok(stream) => Ok(Stream::Broker(Box::new(stream))),
                Err(error) => Err(DialError::Tls { address: address(), error }),
            }
        };
        timeout(self.connect_timeout, connected).await.unwrap_or_else(|_| {
            Err(DialError::Timeout { address: address(), waited: self.connect_timeout })
        })
    }
}
