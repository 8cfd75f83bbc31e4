//! Load generator and sink in one process, so that one pinned core holds both and neither asks the system much.
//!
//! The sink is a broker that costs next to nothing: it accepts every CONNECT, acknowledges, counts, and sends what it is told to.
//! The load goes through whatever proxy it is pointed at, to the sink or to a real broker behind it. A [`Rig`] is the handle: orders go to
//! the process as JSON lines, answers come back the same way, one for each order. Connections are opened before the clock starts,
//! except where opening is what is measured.
//!
//! Four kinds of order: batches through a proxy to or from the sink ([`batches`]); messages at their scheduled times from publishers to
//! subscribers, whose latency counts from the moment at which each was due ([`flow`]); round trips, so scheduled as well
//! ([`trips`]); and many connections at once, to come and go or to stay ([`storm`]).

mod batches;
mod flow;
mod metronome;
mod storm;
mod trips;
mod wire;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use eyre::{Result, WrapErr as _, bail, eyre};
use flytrap_mqtt::QoS;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::packets;
use crate::process::{Pinning, cpu_time};

/// One kind of traffic between clients and sink.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    /// Whether the messages come from the clients or go to them.
    pub deliver: bool,
    /// 0, or 1 and 2 from the clients only.
    pub qos: u8,
    /// Octets of each message's payload.
    pub payload: usize,
    /// Whether each second message is an octet shorter, so that none begins like the one before.
    pub two_lengths: bool,
    /// Messages in one write.
    pub batch: u16,
    /// Whether each connection waits until a write has arrived before the next, so that no proxy can read more than one at
    /// once. QoS 1 and 2 always do.
    pub lockstep: bool,
    /// Messages per second and connection; as fast as they are taken if there is no number.
    pub pace: Option<u32>,
}

impl Case {
    /// Ten messages in a write, from the clients to the sink.
    pub const SMALL: Self = Self {
        deliver: false,
        qos: 0,
        payload: 64,
        two_lengths: false,
        batch: 10,
        lockstep: true,
        pace: None,
    };

    fn packets(&self, topic: &str, qos: QoS) -> Vec<u8> {
        if self.two_lengths {
            packets::publishes_of_two_lengths(topic, qos, self.payload, self.batch)
        } else {
            packets::publishes(topic, qos, self.payload, self.batch)
        }
    }
}

/// Who connects: one connection each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Client {
    /// Ends in `-` and a number of its own.
    pub client_id: String,
    /// What the gateway or the broker is told.
    pub user_name: String,
    /// The proof.
    pub password: String,
    /// What it publishes to, or subscribes to.
    pub topic: String,
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// The proxy, or the broker itself.
    pub address: SocketAddr,
    /// PEM with the root that the certificate must lead to: with it the connection is TLS, each with a full handshake.
    pub ca: Option<PathBuf>,
}

impl Way {
    /// By TCP as it is.
    #[must_use]
    pub fn plain(address: SocketAddr) -> Self {
        Self { address, ca: None }
    }
}

/// What a round trip is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trip {
    /// A new connection, CONNECT to CONNACK.
    Connect,
    /// SUBSCRIBE to SUBACK.
    Subscribe,
    /// PUBLISH of QoS 1 to PUBACK.
    Publish,
    /// PINGREQ to PINGRESP.
    Ping,
    /// A new connection, CONNECT, SUBSCRIBE, ten PUBLISH of QoS 1, DISCONNECT.
    Session,
}

/// What the rig is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each order says what its fields are")]
pub enum Order {
    /// Connect all clients for batches.
    Open { to: Way, case: Case, clients: Vec<Client> },
    /// Move so many messages for each client.
    Run { each: u64 },
    /// Connect publishers and subscribers for messages at scheduled times, these by a way of their own.
    OpenFlow {
        to: Way,
        publishers: Vec<Client>,
        from: Way,
        subscribers: Vec<Client>,
        qos: u8,
        payload: usize,
    },
    /// Publish so many messages in all, so many in a second (as fast as they are acknowledged without a number), of which so many must arrive.
    Flow { messages: u64, per_second: Option<f64>, arrivals: u64 },
    /// Round trips of one client at scheduled times.
    Trips { to: Way, client: Client, trip: Trip, count: u32, per_second: f64 },
    /// Connects each client, so many at a time, lets it publish or not, and leave.
    Storm { to: Way, clients: Vec<Client>, at_once: usize, publish: bool },
    /// Connects each client and keeps it until [`Order::Close`].
    Hold { to: Way, clients: Vec<Client> },
    /// Drop all connections.
    Close,
    /// From now on the sink loses one message in a hundred: whoever measures must notice.
    Lose,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each answer says what its fields are")]
pub enum Answer {
    /// The sink's address, once, unasked.
    Sink(SocketAddr),
    /// Done.
    Done,
    /// Moved.
    Ran { messages: u64, seconds: f64 },
    /// Times of what was asked for, each from when it was due, in the order in which they came, and how long all took.
    Times { nanoseconds: Vec<u64>, seconds: f64 },
    /// It did not work.
    Failed(String),
}

/// Times of one order.
#[derive(Clone, Debug)]
pub struct Times {
    /// Each, microseconds, sorted.
    pub micros: Vec<f64>,
    /// From the first to the last.
    pub seconds: f64,
}

/// One round through one proxy.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Messages that arrived, per second.
    pub per_second: f64,
    /// CPU time of the proxy per message, nanoseconds.
    pub cpu_ns: f64,
}

/// The process with load and sink. It ends when dropped.
#[derive(Debug)]
pub struct Rig {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Where the sink listens.
    pub sink: SocketAddr,
}

impl Rig {
    /// Starts `program rig <patience>`, which has to call [`serve`].
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(program: &Path, pinning: &Pinning, patience: Duration) -> Result<Self> {
        let mut command = pinning.command(program);
        command.arg("rig").arg(patience.as_secs().to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().ok_or_else(|| eyre!("no pipe to the rig"))?;
        let answers =
            BufReader::new(child.stdout.take().ok_or_else(|| eyre!("no pipe from the rig"))?);
        let mut rig = Self { child, orders, answers, sink: SocketAddr::from(([127, 0, 0, 1], 0)) };
        match rig.hear()? {
            Answer::Sink(address) => rig.sink = address,
            other => bail!("the rig says {other:?}"),
        }
        Ok(rig)
    }

    fn hear(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).wrap_err("the rig has ended")
    }

    /// Gives an order and waits until it is done.
    ///
    /// # Errors
    /// If it was not done, above all if something that was sent did not arrive.
    pub fn tell(&mut self, order: &Order) -> Result<Answer> {
        serde_json::to_writer(&mut self.orders, order)?;
        writeln!(self.orders)?;
        self.orders.flush()?;
        match self.hear()? {
            Answer::Failed(why) => bail!("{why}"),
            said => Ok(said),
        }
    }

    /// Gives an order that is answered with times.
    ///
    /// # Errors
    /// As [`Rig::tell`].
    pub fn times(&mut self, order: &Order) -> Result<Times> {
        let Answer::Times { nanoseconds, seconds } = self.tell(order)? else {
            bail!("no times for {order:?}")
        };
        let mut micros: Vec<f64> =
            nanoseconds.into_iter().map(|nanoseconds| nanoseconds as f64 / 1e3).collect();
        micros.sort_by(f64::total_cmp);
        Ok(Times { micros, seconds })
    }

    /// Opens, moves `each` messages for each client, closes; what the process `pid` has cost in between.
    ///
    /// # Errors
    /// If not everything arrives.
    pub fn round(
        &mut self,
        to: &Way,
        pid: Option<u32>,
        case: Case,
        clients: &[Client],
        each: u64,
    ) -> Result<Round> {
        self.tell(&Order::Open { to: to.clone(), case, clients: clients.to_vec() })?;
        // The first messages settle leases and buffers, and are no steady state.
        self.tell(&Order::Run { each: u64::from(case.batch) })?;
        let before = pid.map(cpu_time).transpose()?.unwrap_or_default();
        let said = self.tell(&Order::Run { each })?;
        let spent = pid.map(cpu_time).transpose()?.unwrap_or_default().saturating_sub(before);
        self.tell(&Order::Close)?;
        let Answer::Ran { messages, seconds } = said else { bail!("the rig says {said:?}") };
        let messages = messages as f64;
        Ok(Round { per_second: messages / seconds, cpu_ns: spent.as_secs_f64() * 1e9 / messages })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves orders until standard input ends. No order may take longer than `patience`.
///
/// # Errors
/// If an order is none, or an answer cannot be written.
pub fn serve(patience: Duration) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (orders, mut incoming) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if orders.send(line).is_err() {
                return;
            }
        }
    });
    LocalSet::new().block_on(&runtime, async {
        let sink = batches::Sink::start().await?;
        answer(&Answer::Sink(sink.address))?;
        let mut open = Open::default();
        while let Some(line) = incoming.recv().await {
            let order: Order = serde_json::from_str(&line)?;
            let moves = matches!(order, Order::Run { .. } | Order::Flow { .. });
            let said = timeout(patience, obey(order, &sink, &mut open)).await;
            answer(&match said {
                Ok(Ok(said)) => said,
                Ok(Err(error)) => Answer::Failed(format!("{error:#}")),
                Err(_) if moves => {
                    Answer::Failed(format!("after {patience:?} {}", open.missing(&sink)))
                }
                Err(_) => Answer::Failed(format!("not done in {patience:?}")),
            })?;
        }
        Ok(())
    })
}

/// The clients' connections, until they are closed.
#[derive(Default)]
struct Open {
    batches: Option<batches::Clients>,
    flow: Option<flow::Flow>,
    held: Vec<wire::Connection>,
}

impl Open {
    /// What has not arrived, for a failure that says more than that time ran out.
    fn missing(&self, sink: &batches::Sink) -> String {
        match &self.flow {
            Some(flow) => flow.missing(),
            None => sink.missing(),
        }
    }
}

async fn obey(order: Order, sink: &batches::Sink, open: &mut Open) -> Result<Answer> {
    match order {
        Order::Open { to, case, clients } => {
            open.batches = Some(sink.open(&to, case, clients).await?);
        }
        Order::Run { each } => {
            let clients = open.batches.as_mut().ok_or_else(|| eyre!("nothing is open"))?;
            return sink.run(clients, each).await;
        }
        Order::OpenFlow { to, publishers, from, subscribers, qos, payload } => {
            let listening = flow::listen(&from, subscribers, qos).await?;
            open.flow = Some(flow::open(&to, publishers, listening, qos, payload).await?);
        }
        Order::Flow { messages, per_second, arrivals } => {
            let flow = open.flow.as_mut().ok_or_else(|| eyre!("no flow is open"))?;
            return flow.run(messages, per_second, arrivals).await;
        }
        Order::Trips { to, client, trip, count, per_second } => {
            return trips::run(&to, &client, trip, count, per_second).await;
        }
        Order::Storm { to, clients, at_once, publish } => {
            return storm::run(&to, clients, at_once, publish).await;
        }
        Order::Hold { to, clients } => open.held.extend(storm::hold(&to, clients).await?),
        Order::Close => {
            *open = Open::default();
            sink.rest();
        }
        Order::Lose => sink.lose(),
    }
    Ok(Answer::Done)
}

fn answer(said: &Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, said)?;
    writeln!(out)?;
    Ok(out.flush()?)
}
