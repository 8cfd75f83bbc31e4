//! From a socket to a session: binds, accepts and hands over.
//!
//! The accept loop waits for nothing but the next connection, so no client can hold it up. Who is let in is decided in [`arrival`],
//! at once where that is possible, and else in the connection's own task.
//!
//! [`arrival`]: crate::arrival

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::arrival::Arrival;
use crate::config::ListenerConfig;
use crate::metrics::{ListenerLabel, Metrics};
use crate::seats::Seats;
use crate::session;
use crate::shared::Shared;

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
            let Some(arrival) = Arrival::admit(socket, addr, &self.config, &shared, &seats) else {
                continue;
            };
            accepted_here.inc();
            let watch = Watch::begin(shared.metrics.clone(), open_here.clone());
            tasks.spawn(attend(Box::new(arrival), watch, shared.clone()));
        }
    }
}

/// One connection to its end. Its arrival comes on the heap: a future keeps the place of what it was handed.
async fn attend(arrival: Box<Arrival>, watch: Watch, shared: Arc<Shared>) {
    let _watch = watch;
    // On the heap, so that what only the handshake needs is given back when it is over.
    let Some((stream, peer, _seat)) = Box::pin(arrival.welcome(&shared)).await else { return };
    session::run(stream, peer, shared).await;
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

/// Counts a connection while it lives, and a panic if that is how it ends: the task contains it, nobody else notices.
struct Watch {
    metrics: Arc<Metrics>,
    open: Gauge,
}

impl Watch {
    fn begin(metrics: Arc<Metrics>, open: Gauge) -> Self {
        open.inc();
        Self { metrics, open }
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

    fn size_of_task<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// There may be tens of thousands of them, mostly idle; with what tokio adds allocators round up to 1,536.
    #[test]
    fn the_task_of_a_connection_is_small() {
        let octets = size_of_task(attend);
        assert!(octets <= 1_408, "{octets} octets");
    }

    #[tokio::test]
    async fn a_panic_in_a_session_is_counted_and_gives_its_seat_back() {
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        let (seats, open) = (Seats::new(1, 1), Gauge::default());
        let watch = Watch::begin(metrics.clone(), open.clone());
        let seat = seats.take().unwrap();
        assert_eq!(open.get(), 1);
        let task = tokio::spawn(async move {
            let (_watch, _seat) = (watch, seat);
            panic!("a fault of ours")
        });
        assert!(task.await.unwrap_err().is_panic());
        assert_eq!((metrics.session_panics.get(), open.get()), (1, 0));
        assert!(seats.take().is_ok());
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
