//! From an accepted socket to a client: whose connection it is, the door, TLS, WebSocket.
//!
//! What is cheap comes first: room for one more connection in all, then the [`door`] and the share of its origin, as soon as the
//! origin is known. Mostly that is before a task exists for it. A peer that the configuration believes speaks for others: its
//! PROXY header, or the `X-Forwarded-For` of its WebSocket request, says who is judged. Whatever has to be read for that, TLS and the
//! rest have one deadline, which counts from accept.
//!
//! [`door`]: crate::door

use std::net::SocketAddr;
use std::sync::Arc;

use flytrap_policy::Origin;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::config::{ListenerConfig, WebSocketConfig};
use crate::door::{Trial, Verdict};
use crate::proxy;
use crate::seats::{Seat, Seats};
use crate::shared::{Peer, Shared};
use crate::tls::ListenerTls;
use crate::upstream::Stream;
use crate::websocket::{NoUpgrade, Request};

/// A connection that was accepted and not turned away unread.
#[derive(Debug)]
pub(crate) struct Arrival {
    socket: TcpStream,
    reached: SocketAddr,
    listener: Arc<ListenerConfig>,
    accepted: Instant,
    visitor: Visitor,
}

/// Whose connection it is, as far as is known.
#[derive(Debug)]
struct Visitor {
    addr: SocketAddr,
    seat: Seat,
    trial: Option<Trial>,
    /// `addr` is the client's and was let in, rather than that of a balancer which has yet to name one.
    is_judged: bool,
    /// `addr` is the client's own, by the socket or by the word of a balancer, and not the balancer's for want of one.
    is_named: bool,
}

impl Visitor {
    /// Judges the client: room for one more of its origin, and no ban.
    fn judge(&mut self, addr: SocketAddr, shared: &Shared) -> Result<(), &'static str> {
        let origin = Origin::from(addr.ip());
        self.seat.assign(origin)?;
        self.trial = match shared.door.admit(addr.ip()) {
            Verdict::Open => None,
            Verdict::Trial(trial) => Some(trial),
            Verdict::Closed => return Err("banned"),
        };
        (self.addr, self.is_judged) = (addr, true);
        Ok(())
    }
}

impl Arrival {
    /// Everything that is decided before a single octet is read. `None`: turned away.
    pub(crate) fn admit(
        socket: TcpStream,
        addr: SocketAddr,
        listener: &Arc<ListenerConfig>,
        shared: &Shared,
        seats: &Seats,
    ) -> Option<Self> {
        let accepted = Instant::now();
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let admitted = seats.take().and_then(|seat| {
            let (is_judged, is_named) = (false, true);
            let mut visitor = Visitor { addr, seat, trial: None, is_judged, is_named };
            if !listener.speaks_for_others(addr.ip()) {
                // It would be of no use to read what it says about addresses.
                if listener.proxy_protocol {
                    return Err("untrusted_peer");
                }
                visitor.judge(addr, shared)?;
            }
            Ok(visitor)
        });
        let visitor = match admitted {
            Ok(visitor) => visitor,
            Err(reason) => {
                turn_away(&socket, addr, reason, shared);
                return None;
            }
        };
        let reached = socket.set_nodelay(true).and_then(|()| socket.local_addr());
        let reached = match reached {
            Ok(reached) => SocketAddr::new(reached.ip().to_canonical(), reached.port()),
            Err(error) => {
                debug!(peer = %addr, %error, "connection was gone before it was accepted");
                return None;
            }
        };
        Some(Self { socket, reached, listener: listener.clone(), accepted, visitor })
    }

    /// Everything that has to be read before MQTT begins, until the connect deadline. `None`: there is no client. The seat is to be kept
    /// as long as the connection.
    pub(crate) async fn welcome(self, shared: &Shared) -> Option<(Stream, Peer, Seat)> {
        let deadline = self.accepted + shared.config.limits.connect_deadline;
        let addr = self.visitor.addr;
        let welcomed = tokio::select! {
            welcomed = timeout_at(deadline, self.unwrap(shared)) => welcomed,
            () = shared.stop.cancelled() => return None,
        };
        welcomed.unwrap_or_else(|_| {
            shared.metrics.dropped("deadline");
            debug!(peer = %addr, "connection dropped: the deadline passed before MQTT began");
            None
        })
    }

    async fn unwrap(self, shared: &Shared) -> Option<(Stream, Peer, Seat)> {
        let Self { mut socket, reached, listener, accepted, mut visitor } = self;
        if listener.proxy_protocol {
            let client = match proxy::read_header(&mut socket).await {
                Ok(client) => {
                    visitor.is_named = client.is_some();
                    client.unwrap_or(visitor.addr)
                }
                Err(error) => {
                    debug!(%error, "a trusted peer sent no PROXY header");
                    turn_away(&socket, visitor.addr, "proxy_header", shared);
                    return None;
                }
            };
            visitor.addr = client;
            // With WebSocket a chain of believed proxies may go on in the request.
            let goes_on =
                listener.websocket.is_some() && listener.trusted_peers.contains(client.ip());
            if !goes_on && let Err(reason) = visitor.judge(client, shared) {
                turn_away(&socket, client, reason, shared);
                return None;
            }
        }
        let mut stream = secure(socket, listener.tls.as_ref(), &visitor, shared).await?;
        if let Some(config) = &listener.websocket {
            stream = upgrade(stream, config, &listener, &mut visitor, shared).await?;
        }
        let Visitor { addr, seat, trial, is_named, .. } = visitor;
        let (tls, origin) = (listener.tls.is_some(), Origin::from(addr.ip()));
        Some((
            stream,
            Peer { addr, is_named, reached, origin, listener, tls, accepted, trial },
            seat,
        ))
    }
}

/// Drops a connection. Reset rather than closed: an attacker's connections leave nothing behind in our kernel.
fn turn_away(socket: &TcpStream, peer: SocketAddr, reason: &'static str, shared: &Shared) {
    shared.metrics.dropped(reason);
    debug!(%peer, reason, "connection dropped unread");
    let _ = socket.set_zero_linger();
}

/// TLS, where the listener has it.
async fn secure(
    socket: TcpStream,
    tls: Option<&ListenerTls>,
    visitor: &Visitor,
    shared: &Shared,
) -> Option<Stream> {
    let Some(tls) = tls else { return Some(Stream::Tcp(socket)) };
    match tls.accept(socket).await {
        Ok(stream) => Some(Stream::Client(Box::new(stream))),
        Err(error) => {
            shared.metrics.dropped("tls");
            debug!(peer = %visitor.addr, %error, "no TLS session");
            None
        }
    }
}

/// The WebSocket handshake, and the door for clients that a proxy names in it.
async fn upgrade(
    mut stream: Stream,
    config: &WebSocketConfig,
    listener: &ListenerConfig,
    visitor: &mut Visitor,
    shared: &Shared,
) -> Option<Stream> {
    let limits = &shared.config.limits;
    let asked = async {
        let request = Request::read(&mut stream, config, limits.connect_max_octets).await?;
        let client = match visitor.is_judged {
            true => None,
            false => request.forwarded_for(&listener.trusted_peers)?,
        };
        Ok((request, client))
    };
    let (request, client) = match asked.await {
        Ok(asked) => asked,
        Err(refused) => return refuse(stream, refused, visitor.addr, shared).await,
    };
    if !visitor.is_judged {
        visitor.is_named = client.is_some();
        let client = client.map_or(visitor.addr, |ip| SocketAddr::new(ip, 0));
        if let Err(reason) = visitor.judge(client, shared) {
            turn_away(stream.socket(), client, reason, shared);
            return None;
        }
    }
    match request.accept(stream, limits.max_packet_octets).await {
        Ok(websocket) => Some(Stream::WebSocket(Box::new(websocket))),
        Err(gone) => {
            shared.metrics.dropped("upgrade");
            debug!(peer = %visitor.addr, why = %gone, "no WebSocket connection");
            None
        }
    }
}

async fn refuse(
    stream: Stream,
    refused: NoUpgrade,
    peer: SocketAddr,
    shared: &Shared,
) -> Option<Stream> {
    shared.metrics.dropped("upgrade");
    debug!(%peer, why = %refused, "no WebSocket connection");
    stream.turn_away(&refused.answer()).await;
    None
}
