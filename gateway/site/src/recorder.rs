//! A relay between gateway and broker that keeps everything that passes.
//!
//! Its reading of MQTT is its own and deliberately simple, so that a test which asks "did the broker ever see this?" does
//! not ask the code under test. What it cannot read it keeps as [`Packet::Other`]; the octets are kept in any case.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use eyre::{Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ground::TICK;
use crate::wire::{Connect, Packet, Publish, Reader};

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the gateway to the broker.
    ToBroker,
    /// From the broker to the gateway.
    ToGateway,
}

/// A packet and where it was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Number of the connection, from 0.
    pub connection: usize,
    /// Which way.
    pub direction: Direction,
    /// When it was complete.
    pub at: Instant,
    /// What.
    pub packet: Packet,
}

#[derive(Debug, Default)]
struct Tape {
    seen: Vec<Seen>,
    to_broker: Vec<u8>,
    to_gateway: Vec<u8>,
    opened: usize,
    open: usize,
    stopped: bool,
}

/// A running relay.
#[derive(Debug)]
pub struct Recorder {
    address: SocketAddr,
    tape: Arc<Mutex<Tape>>,
    /// `true` while nothing passes.
    hold: watch::Sender<bool>,
    /// Counts the times that all connections were cut.
    cut: watch::Sender<u64>,
    accept: JoinHandle<()>,
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl Recorder {
    /// Listens on a free port and relays to `broker`.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(broker: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tape = Arc::new(Mutex::new(Tape::default()));
        let (hold, held) = watch::channel(false);
        let (cut, cuts) = watch::channel(0);
        let shared = tape.clone();
        let accept = tokio::spawn(async move {
            loop {
                let Ok((gateway, _)) = listener.accept().await else {
                    tokio::time::sleep(TICK).await;
                    continue;
                };
                let relay = Relay { tape: shared.clone(), held: held.clone() };
                let mut cuts = cuts.clone();
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        () = relay.run(gateway, broker) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Ok(Self { address, tape, hold, cut, accept })
    }

    /// Where the gateway finds it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets nothing pass from now on, new connections included, as a broker that hangs.
    pub fn hold(&self) {
        self.hold.send_replace(true);
    }

    /// Ends [`Recorder::hold`].
    pub fn release(&self) {
        self.hold.send_replace(false);
    }

    /// Cuts all connections, as a broker that dies.
    pub fn cut(&self) {
        self.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Everything so far, in the order of arrival.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.lock().seen.clone()
    }

    /// Forgets everything so far and records no more; connections go on. For a site that stays up without end.
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.rewind();
    }

    /// Takes everything so far, in the order of arrival, and forgets it. For judges that look while traffic flows.
    #[must_use]
    pub fn drain(&self) -> Vec<Seen> {
        let mut tape = self.lock();
        tape.to_broker.clear();
        tape.to_gateway.clear();
        std::mem::take(&mut tape.seen)
    }

    /// Forgets everything so far; connections go on.
    pub fn rewind(&self) {
        let mut tape = self.lock();
        tape.seen.clear();
        tape.to_broker.clear();
        tape.to_gateway.clear();
    }

    /// Connections made since the start, and those open now.
    #[must_use]
    pub fn connections(&self) -> (usize, usize) {
        let tape = self.lock();
        (tape.opened, tape.open)
    }

    /// Every octet that went to the broker, connections mixed in the order of arrival.
    #[must_use]
    pub fn octets_from_gateway(&self) -> Vec<u8> {
        self.lock().to_broker.clone()
    }

    /// Every octet that came from the broker.
    #[must_use]
    pub fn octets_from_broker(&self) -> Vec<u8> {
        self.lock().to_gateway.clone()
    }

    /// Did these octets go to the broker, in one piece?
    #[must_use]
    pub fn saw_octets(&self, wanted: &[u8]) -> bool {
        !wanted.is_empty()
            && self.lock().to_broker.windows(wanted.len()).any(|window| window == wanted)
    }

    /// Did a PUBLISH to `topic` go to the broker?
    #[must_use]
    pub fn saw_publish(&self, topic: &str) -> bool {
        self.publishes().iter().any(|publish| publish.topic == topic)
    }

    /// Did a SUBSCRIBE with `filter` go to the broker?
    #[must_use]
    pub fn saw_subscribe(&self, filter: &str) -> bool {
        self.subscribed().iter().any(|(seen, _)| seen == filter)
    }

    /// Did an UNSUBSCRIBE with `filter` go to the broker?
    #[must_use]
    pub fn saw_unsubscribe(&self, filter: &str) -> bool {
        self.to_broker().iter().any(
            |packet| matches!(packet, Packet::Unsubscribe { filters, .. } if filters.iter().any(|seen| seen == filter)),
        )
    }

    /// What the broker was sent as CONNECT.
    #[must_use]
    pub fn connects(&self) -> Vec<Connect> {
        let connect =
            |packet| if let Packet::Connect(connect) = packet { Some(connect) } else { None };
        self.to_broker().into_iter().filter_map(connect).collect()
    }

    /// What the broker was sent as PUBLISH.
    #[must_use]
    pub fn publishes(&self) -> Vec<Publish> {
        let publish =
            |packet| if let Packet::Publish(publish) = packet { Some(publish) } else { None };
        self.to_broker().into_iter().filter_map(publish).collect()
    }

    /// What the broker sent as PUBLISH.
    #[must_use]
    pub fn deliveries(&self) -> Vec<Publish> {
        let of = |seen: &Seen| match &seen.packet {
            Packet::Publish(publish) if seen.direction == Direction::ToGateway => {
                Some(publish.clone())
            }
            _ => None,
        };
        self.lock().seen.iter().filter_map(of).collect()
    }

    /// Every filter that the broker was asked for, with its options.
    #[must_use]
    pub fn subscribed(&self) -> Vec<(String, u8)> {
        let filters = |packet| {
            if let Packet::Subscribe { filters, .. } = packet { filters } else { Vec::new() }
        };
        self.to_broker().into_iter().flat_map(filters).collect()
    }

    /// The packets that went to the broker.
    #[must_use]
    pub fn to_broker(&self) -> Vec<Packet> {
        let of = |seen: &Seen| (seen.direction == Direction::ToBroker).then(|| seen.packet.clone());
        self.lock().seen.iter().filter_map(of).collect()
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    /// If it does not within `patience`; says what was seen instead.
    pub async fn until(&self, patience: Duration, condition: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !condition(self) {
            if Instant::now() >= deadline {
                bail!(
                    "not seen within {patience:?}; what went to the broker: {:#?}",
                    self.to_broker()
                );
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Relay {
    tape: Arc<Mutex<Tape>>,
    held: watch::Receiver<bool>,
}

impl Relay {
    async fn run(self, gateway: TcpStream, broker: SocketAddr) {
        let mut held = self.held.clone();
        if held.wait_for(|held| !held).await.is_err() {
            return;
        }
        let connection = {
            let mut tape = self.lock();
            tape.opened += 1;
            tape.open += 1;
            tape.opened - 1
        };
        let _open = Open(self.tape.clone());
        let Ok(upstream) = TcpStream::connect(broker).await else { return };
        // Otherwise the relay would add delays that neither side causes.
        let _ = (gateway.set_nodelay(true), upstream.set_nodelay(true));
        let ((from_gateway, to_gateway), (from_broker, to_broker)) =
            (gateway.into_split(), upstream.into_split());
        // The level decides how packets of both directions are read.
        let level = Arc::new(Mutex::new(4));
        let up =
            Side { direction: Direction::ToBroker, connection, reader: Reader::new(level.clone()) };
        let down = Side { direction: Direction::ToGateway, connection, reader: Reader::new(level) };
        tokio::join!(
            self.copy(from_gateway, to_broker, up),
            self.copy(from_broker, to_gateway, down)
        );
    }

    async fn copy(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut side: Side) {
        let mut held = self.held.clone();
        let mut chunk = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut chunk).await {
            if held.wait_for(|held| !held).await.is_err() {
                break;
            }
            side.take(&chunk[..length], &mut self.lock());
            if to.write_all(&chunk[..length]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }

    fn lock(&self) -> MutexGuard<'_, Tape> {
        self.tape.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a connection as open while it lives, however its task ends.
struct Open(Arc<Mutex<Tape>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).open -= 1;
    }
}

/// One direction of one connection.
struct Side {
    direction: Direction,
    connection: usize,
    reader: Reader,
}

impl Side {
    fn take(&mut self, octets: &[u8], tape: &mut Tape) {
        if tape.stopped {
            return;
        }
        let Self { direction, connection, reader } = self;
        match direction {
            Direction::ToBroker => tape.to_broker.extend_from_slice(octets),
            Direction::ToGateway => tape.to_gateway.extend_from_slice(octets),
        }
        let at = Instant::now();
        let seen = |packet| Seen { connection: *connection, direction: *direction, at, packet };
        tape.seen.extend(reader.take(octets).into_iter().map(seen));
    }
}
