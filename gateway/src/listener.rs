//! From a socket to a session: accepts, counts, turns away, and hands over.
//!
//! What is cheap comes first: room for one more connection in all, room for one more of its origin, then the [`door`].
//! Only then does a task exist for it, in which TLS and everything after has to happen before the connect deadline,
//! which counts from accept. The accept loop itself waits for nothing but the next connection, so no client can hold it up.
//!
//! [`door`]: crate::door

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flytrap_policy::Origin;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::config::ListenerConfig;
use crate::door::Verdict;
use crate::metrics::{ListenerLabel, Metrics};
use crate::session;
use crate::shared::{Peer, Shared};
use crate::upstream::Stream;

/// Connections that the system queues while they wait to be accepted.
const BACKLOG: u32 = 1_024;
/// Pauses after a failed accept, such as for too many open files: doubled from one to the other.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// One bound address.
#[derive(Debug)]
pub struct Listener {
    config: Arc<ListenerConfig>,
    socket: TcpListener,
    address: SocketAddr,
}

/// Why a listener could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {bind} (`{name}`): {error}; {advice}")]
pub struct BindError {
    name: String,
    bind: SocketAddr,
    error: io::Error,
    advice: &'static str,
}

/// Binds with what listeners need.
///
/// # Errors
/// [`BindError`], with what to do about it.
pub(crate) fn bind(name: &str, bind: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let listen = || {
        let socket = if bind.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A restart must not wait for connections of the last run to fade.
        socket.set_reuseaddr(true)?;
        socket.bind(bind)?;
        let socket = socket.listen(BACKLOG)?;
        let address = socket.local_addr()?;
        Ok((socket, address))
    };
    listen().map_err(|error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => "another program has this port: end it, or choose another port in `bind`",
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address: correct `bind`",
            io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one, or grant CAP_NET_BIND_SERVICE",
            _ => "correct `bind`",
        };
        BindError { name: name.to_owned(), bind, error, advice }
    })
}

impl Listener {
    /// Binds the address of `config`.
    ///
    /// # Errors
    /// [`BindError`], with what to do about it.
    pub fn bind(config: Arc<ListenerConfig>) -> Result<Self, BindError> {
        let (socket, address) = bind(&config.name, config.bind)?;
        Ok(Self { config, socket, address })
    }

    /// Where it really listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Accepts until the gateway stops. Each connection is a task in `tasks`.
    pub async fn serve(self, shared: Arc<Shared>, seats: Seats, tasks: TaskTracker) {
        let acceptor = self.config.tls.clone().map(TlsAcceptor::from);
        let label = ListenerLabel { listener: self.config.name.as_str().into() };
        let accepted_here = shared.metrics.connections_accepted.get_or_create_owned(&label);
        let open_here = shared.metrics.connections.get_or_create_owned(&label);
        let mut pause = PAUSES.0;
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = shared.stop.cancelled() => return,
            };
            let (socket, addr) = match accepted {
                Ok(connection) => connection,
                Err(error) if is_of_one_connection(&error) => continue,
                Err(error) => {
                    shared.metrics.accept_errors.inc();
                    if pause == PAUSES.0 {
                        warn!(%error, listener = self.name(), "cannot accept connections: raise the limit of open files, or lower `limits.max_connections`");
                    }
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = shared.stop.cancelled() => return,
                    }
                    pause = (pause * 2).min(PAUSES.1);
                    continue;
                }
            };
            pause = PAUSES.0;
            let Some((peer, seat)) = self.admit(&socket, addr, &shared, &seats) else { continue };
            accepted_here.inc();
            let (shared, acceptor, open_here) =
                (shared.clone(), acceptor.clone(), open_here.clone());
            tasks.spawn(async move {
                let _watch = Watch::begin(shared.metrics.clone(), open_here, seat);
                let shared_too = shared.clone();
                // On the heap, so that what only the handshake needs is given back when it is over.
                let Some(stream) = Box::pin(secure(socket, acceptor, &peer, &shared_too)).await
                else {
                    return;
                };
                session::run(stream, peer, shared).await;
            });
        }
    }

    /// Everything that is decided before a single octet is read.
    fn admit(
        &self,
        socket: &TcpStream,
        addr: SocketAddr,
        shared: &Shared,
        seats: &Seats,
    ) -> Option<(Peer, Seat)> {
        let accepted = Instant::now();
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        let origin = Origin::from(addr.ip());
        let turn_away = |reason| {
            shared.metrics.dropped(reason);
            debug!(peer = %addr, reason, "connection dropped unread");
            // Reset rather than closed: an attacker's connections leave nothing behind in our kernel.
            let _ = socket.set_zero_linger();
        };
        let seat = seats.take(origin).map_err(turn_away).ok()?;
        let trial = match shared.door.admit(origin) {
            Verdict::Open => None,
            Verdict::Trial(trial) => Some(trial),
            Verdict::Closed => {
                turn_away("banned");
                return None;
            }
        };
        if let Err(error) = socket.set_nodelay(true) {
            debug!(peer = %addr, %error, "connection was gone before it was accepted");
            return None;
        }
        let peer = Peer {
            addr,
            origin,
            listener: self.config.clone(),
            tls: self.config.tls.is_some(),
            accepted,
            trial,
        };
        Some((peer, seat))
    }
}

/// TLS, where the listener has it, before the connect deadline.
async fn secure(
    socket: TcpStream,
    acceptor: Option<TlsAcceptor>,
    peer: &Peer,
    shared: &Shared,
) -> Option<Stream> {
    let Some(acceptor) = acceptor else { return Some(Stream::Tcp(socket)) };
    let handshake = timeout_at(peer.deadline(&shared.config), acceptor.accept(socket));
    let outcome = tokio::select! {
        outcome = handshake => outcome,
        () = shared.stop.cancelled() => return None,
    };
    let why = match outcome {
        Ok(Ok(stream)) => return Some(Stream::Client(Box::new(stream))),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the deadline passed".to_owned(),
    };
    shared.metrics.dropped("tls");
    debug!(peer = %peer.addr, why, "no TLS session");
    None
}

/// Errors of `accept` that concern only the connection that was to be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted
            | K::ConnectionReset
            | K::ConnectionRefused
            | K::Interrupted
            | K::WouldBlock
            | K::TimedOut
    )
}

/// How many connections there are, in all and by origin.
#[derive(Debug, Clone)]
pub struct Seats {
    taken: Arc<Mutex<Taken>>,
    most: usize,
    most_per_origin: usize,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Never holds a zero, so it is at most as long as `all`.
    by_origin: HashMap<Origin, usize>,
}

/// Room for one connection. Dropping it makes the room free.
#[derive(Debug)]
pub struct Seat {
    origin: Origin,
    taken: Arc<Mutex<Taken>>,
}

impl Seats {
    /// Room for `most` connections, of each origin `most_per_origin`.
    pub fn new(most: usize, most_per_origin: usize) -> Self {
        Self { taken: Arc::default(), most, most_per_origin }
    }

    /// Takes one.
    ///
    /// # Errors
    /// The word for metrics, if there is none.
    pub fn take(&self, origin: Origin) -> Result<Seat, &'static str> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= self.most {
            return Err("full");
        }
        if taken.by_origin.get(&origin).is_some_and(|n| *n >= self.most_per_origin) {
            return Err("origin_full");
        }
        taken.all += 1;
        *taken.by_origin.entry(origin).or_default() += 1;
        Ok(Seat { origin, taken: self.taken.clone() })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all = taken.all.saturating_sub(1);
        if let Some(n) = taken.by_origin.get_mut(&self.origin) {
            *n = n.saturating_sub(1);
            if *n == 0 {
                taken.by_origin.remove(&self.origin);
            }
        }
    }
}

/// Counts a connection while it lives, and a panic if that is how it ends: the task contains it, nobody else notices.
struct Watch {
    metrics: Arc<Metrics>,
    open: Gauge,
    _seat: Seat,
}

impl Watch {
    fn begin(metrics: Arc<Metrics>, open: Gauge, seat: Seat) -> Self {
        open.inc();
        Self { metrics, open, _seat: seat }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.open.dec();
        if std::thread::panicking() {
            self.metrics.session_panics.inc();
            error!(
                "a session ended by a fault of the gateway: please report it with the lines before this one"
            );
        }
    }
}

/// Warns if the system allows fewer open files than the connections that the configuration allows would need.
pub(crate) fn check_open_files(max_connections: usize) {
    let Ok(limits) = std::fs::read_to_string("/proc/self/limits") else { return };
    let Some(most) = open_files(&limits) else { return };
    // One towards the client, one towards the broker, and some for the rest.
    let needed = max_connections.saturating_mul(2).saturating_add(64);
    if most < needed {
        info!(
            most,
            needed,
            "fewer files may be open than `limits.max_connections` would need: raise `ulimit -n` or lower it"
        );
    }
}

fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(last: u8) -> Origin {
        Origin::from(std::net::IpAddr::from([192, 0, 2, last]))
    }

    #[test]
    fn seats_are_bounded_in_all_and_by_origin_and_come_back() {
        let seats = Seats::new(3, 2);
        let first = seats.take(origin(1)).unwrap();
        let _second = seats.take(origin(1)).unwrap();
        assert_eq!(seats.take(origin(1)).unwrap_err(), "origin_full");
        let _third = seats.take(origin(2)).unwrap();
        assert_eq!(seats.take(origin(3)).unwrap_err(), "full");
        drop(first);
        let _again = seats.take(origin(1)).unwrap();
        assert_eq!(seats.take(origin(3)).unwrap_err(), "full");
    }

    #[test]
    fn an_origin_without_connections_is_not_remembered() {
        let seats = Seats::new(10, 2);
        drop(seats.take(origin(1)).unwrap());
        assert!(seats.taken.lock().unwrap().by_origin.is_empty());
    }

    #[tokio::test]
    async fn a_panic_in_a_session_is_counted_and_gives_its_seat_back() {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let (seats, open) = (Seats::new(1, 1), Gauge::default());
        let watch = Watch::begin(metrics.clone(), open.clone(), seats.take(origin(1)).unwrap());
        assert_eq!(open.get(), 1);
        let task = tokio::spawn(async move {
            let _watch = watch;
            panic!("a fault of ours")
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!((metrics.session_panics.get(), open.get()), (1, 0));
        assert!(seats.take(origin(1)).is_ok());
    }

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 524288               files     \n";
        assert_eq!(open_files(text), Some(1024));
        assert_eq!(
            open_files("Max open files            unlimited            unlimited            files"),
            None
        );
    }
}
