//! Load generator and sink in one process, so that one pinned core holds both and neither asks the system much.
//!
//! The sink is a broker that costs next to nothing: it accepts every CONNECT, acknowledges, counts, and sends what it is told to.
//! The load goes through whatever proxy it is pointed at. Orders come as JSON lines on standard input, answers go out the same
//! way, one for each order. Connections are opened before the clock starts.

use std::cell::Cell;
use std::io::{BufRead as _, Write as _};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, bail, eyre};
use flytrap_mqtt::{QoS, frame, kind};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::packets;

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Case {
    /// Whether the messages come from the clients or go to them.
    pub(crate) deliver: bool,
    /// 0, or 1 from the clients only.
    pub(crate) qos: u8,
    /// Octets of each message's payload.
    pub(crate) payload: usize,
    /// Messages in one write.
    pub(crate) batch: u16,
    /// Whether each connection waits until a write has arrived before the next, so that no proxy can read more than one at
    /// once. QoS 1 always does.
    pub(crate) lockstep: bool,
    /// Messages per second and connection; as fast as they are taken if there is no number.
    pub(crate) pace: Option<u32>,
}

/// Who connects: one connection each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Client {
    pub(crate) client_id: String,
    pub(crate) user_name: String,
    pub(crate) password: String,
    pub(crate) topic: String,
}

/// What the rig is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Connect all clients through the proxy.
    Open { proxy: SocketAddr, case: Case, clients: Vec<Client> },
    /// Move so many messages for each client.
    Run { each: u64 },
    /// Drop all connections.
    Close,
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The sink's address, once, unasked.
    Sink(SocketAddr),
    /// Done.
    Done,
    /// Moved.
    Ran { messages: u64, seconds: f64 },
    /// It did not work.
    Failed(String),
}

/// Longer than any round can take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients are numbered below this.
const MOST_CLIENTS: usize = 64;
const READ_OCTETS: usize = 64 * 1024;
/// Largest packet that is read.
const LIMIT: usize = 1024 * 1024;

/// Serves orders until standard input ends.
pub(crate) fn serve() -> Result<()> {
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
        let rig = Rig::new().await?;
        answer(&Answer::Sink(rig.address))?;
        let mut open = None;
        while let Some(line) = incoming.recv().await {
            let order = serde_json::from_str(&line)?;
            let said = timeout(PATIENCE, rig.obey(order, &mut open)).await;
            answer(&match said {
                Ok(Ok(said)) => said,
                Ok(Err(error)) => Answer::Failed(format!("{error:#}")),
                Err(_) => Answer::Failed(format!("not done in {PATIENCE:?}")),
            })?;
        }
        Ok(())
    })
}

fn answer(said: &Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, said)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// Counts messages that have arrived, and wakes whoever waits for the last.
#[derive(Default)]
struct Arrivals {
    count: Cell<u64>,
    wanted: Cell<u64>,
    done: Notify,
}

impl Arrivals {
    fn add(&self, more: u64) {
        let before = self.count.get();
        self.count.set(before + more);
        // Once only, or a permit would be left over for the next time.
        if before < self.wanted.get() && before + more >= self.wanted.get() {
            self.done.notify_one();
        }
    }

    fn expect(&self, wanted: u64) {
        self.count.set(0);
        self.wanted.set(wanted);
    }
}

/// What a connection is told: how many messages to send.
#[derive(Clone, Copy, Default)]
struct Go {
    each: u64,
}

/// What has arrived: of everyone, and of each client by its number.
struct Ledger {
    all: Arrivals,
    each: Vec<Arrivals>,
}

impl Ledger {
    fn new() -> Self {
        Self {
            all: Arrivals::default(),
            each: (0..MOST_CLIENTS).map(|_| Arrivals::default()).collect(),
        }
    }

    fn add(&self, client: usize, more: u64) {
        self.all.add(more);
        self.each[client % MOST_CLIENTS].add(more);
    }

    /// Sends a batch, and in lockstep waits until all of it has arrived.
    async fn send(
        &self,
        client: usize,
        case: Case,
        batch: &[u8],
        writer: &mut OwnedWriteHalf,
    ) -> Result<()> {
        if !case.lockstep {
            return Ok(writer.write_all(batch).await?);
        }
        let own = &self.each[client % MOST_CLIENTS];
        own.expect(case.batch.into());
        writer.write_all(batch).await?;
        own.done.notified().await;
        Ok(())
    }
}

struct Rig {
    address: SocketAddr,
    ledger: Rc<Ledger>,
    /// Deliveries that the sink shall send to each subscriber.
    sink_go: watch::Sender<(Go, Option<Case>)>,
}

/// The clients' connections.
struct Open {
    clients: JoinSet<Result<()>>,
    go: watch::Sender<Go>,
    case: Case,
    count: u64,
}

impl Rig {
    async fn new() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let ledger = Rc::new(Ledger::new());
        let (sink_go, told) = watch::channel((Go::default(), None));
        let counting = ledger.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (counting, told) = (counting.clone(), told.clone());
                // How a connection ended does not matter here: a message that is missing does.
                tokio::task::spawn_local(async move {
                    let _ = sink(stream, &counting, told).await;
                });
            }
        });
        Ok(Self { address, ledger, sink_go })
    }

    async fn obey(&self, order: Order, open: &mut Option<Open>) -> Result<Answer> {
        match order {
            Order::Open { proxy, case, clients } => {
                let (go, told) = watch::channel(Go::default());
                let mut tasks = JoinSet::new();
                let count = clients.len() as u64;
                for client in clients {
                    let client = connect(proxy, case, client).await?;
                    let (told, ledger) = (told.clone(), self.ledger.clone());
                    tasks.spawn_local(async move {
                        if case.deliver {
                            listen(client, &ledger).await
                        } else {
                            publish(client, case, told, &ledger).await
                        }
                    });
                }
                *open = Some(Open { clients: tasks, go, case, count });
                Ok(Answer::Done)
            }
            Order::Run { each } => {
                let open = open.as_mut().ok_or_else(|| eyre!("nothing is open"))?;
                // Whole batches, so that all sides agree on the number.
                let each = each.div_ceil(u64::from(open.case.batch)) * u64::from(open.case.batch);
                let messages = each * open.count;
                self.ledger.all.expect(messages);
                let go = Go { each };
                let began = Instant::now();
                if open.case.deliver {
                    self.sink_go.send_replace((go, Some(open.case)));
                } else {
                    open.go.send_replace(go);
                }
                tokio::select! {
                    () = self.ledger.all.done.notified() => {}
                    Some(ended) = open.clients.join_next() => {
                        ended.wrap_err("a client panicked")?.wrap_err("a client ended")?;
                        bail!("a client was disconnected");
                    }
                }
                Ok(Answer::Ran { messages, seconds: began.elapsed().as_secs_f64() })
            }
            Order::Close => {
                *open = None;
                self.sink_go.send_replace((Go::default(), None));
                Ok(Answer::Done)
            }
        }
    }
}

/// A client after its CONNACK, and SUBACK if it is to listen.
struct Connected {
    stream: TcpStream,
    topic: String,
    number: usize,
}

/// The number at the end of a client id, also where a gateway has put something before it.
fn number(client_id: &str) -> usize {
    client_id.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

async fn connect(proxy: SocketAddr, case: Case, client: Client) -> Result<Connected> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    stream
        .write_all(&packets::connect(&client.client_id, &client.user_name, &client.password))
        .await?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await.wrap_err("no CONNACK")?;
    if connack != [0x20, 2, 0, 0] {
        bail!("the CONNACK says {connack:02x?}");
    }
    if case.deliver {
        stream.write_all(&packets::subscribe(&client.topic)).await?;
        let mut suback = [0; 5];
        stream.read_exact(&mut suback).await.wrap_err("no SUBACK")?;
        if suback[4] > 2 {
            bail!("the SUBACK says {suback:02x?}");
        }
    }
    Ok(Connected { stream, topic: client.topic, number: number(&client.client_id) })
}

async fn publish(
    client: Connected,
    case: Case,
    mut told: watch::Receiver<Go>,
    ledger: &Ledger,
) -> Result<()> {
    let (mut reader, mut writer) = client.stream.into_split();
    let qos = QoS::from_bits(case.qos).ok_or_else(|| eyre!("no QoS {}", case.qos))?;
    let batch = packets::publishes(&client.topic, qos, case.payload, case.batch);
    loop {
        told.changed().await?;
        let batches = told.borrow_and_update().each / u64::from(case.batch);
        let mut clock = case.pace.map(|pace| {
            let mut clock =
                interval(Duration::from_secs_f64(f64::from(case.batch) / f64::from(pace)));
            clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
            clock
        });
        for _ in 0..batches {
            if let Some(clock) = &mut clock {
                clock.tick().await;
            }
            if qos == QoS::AtLeastOnce {
                writer.write_all(&batch).await?;
                acknowledged(&mut reader, case.batch).await?;
                ledger.add(client.number, case.batch.into());
            } else {
                ledger.send(client.number, case, &batch, &mut writer).await?;
            }
        }
    }
}

/// Waits until a whole batch is acknowledged: as with a device that has a window.
async fn acknowledged(reader: &mut OwnedReadHalf, batch: u16) -> Result<()> {
    const PUBACK_OCTETS: usize = 4;
    let mut buffer = [0; 4096];
    let mut missing = usize::from(batch) * PUBACK_OCTETS;
    while missing > 0 {
        let most = missing.min(buffer.len());
        let taken = reader.read(&mut buffer[..most]).await?;
        if taken == 0 {
            bail!("disconnected");
        }
        missing -= taken;
    }
    Ok(())
}

async fn listen(client: Connected, ledger: &Ledger) -> Result<()> {
    let mut inbox = Inbox::new(client.stream.into_split());
    loop {
        let mut arrived = 0;
        inbox.read(|next, _| arrived += u64::from(next >> 4 == kind::PUBLISH)).await?;
        ledger.add(client.number, arrived);
    }
}

/// Reads whole packets off a connection and collects what is to be answered to them.
struct Inbox {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
    buffer: Vec<u8>,
    held: usize,
    answers: Vec<u8>,
}

impl Inbox {
    fn new((reader, writer): (OwnedReadHalf, OwnedWriteHalf)) -> Self {
        Self { reader, writer, buffer: vec![0; 2 * READ_OCTETS], held: 0, answers: Vec::new() }
    }

    /// Reads once and hands each whole packet's first octet and packet to `each`, then sends the answers.
    async fn read(&mut self, mut each: impl FnMut(u8, &[u8])) -> Result<()> {
        let taken = self.reader.read(&mut self.buffer[self.held..]).await?;
        if taken == 0 {
            bail!("disconnected");
        }
        self.held += taken;
        let mut done = 0;
        while let Some(next) = frame(&self.buffer[done..self.held], LIMIT)? {
            let octets = next.octets();
            done += octets.len();
            each(octets[0], octets);
            answer_to(octets, next.body(), &mut self.answers);
        }
        self.buffer.copy_within(done..self.held, 0);
        self.held -= done;
        if !self.answers.is_empty() {
            self.writer.write_all(&self.answers).await?;
            self.answers.clear();
        }
        Ok(())
    }
}

/// What a broker answers to a packet, as far as these rounds need it.
fn answer_to(packet: &[u8], body: &[u8], out: &mut Vec<u8>) {
    match packet[0] >> 4 {
        kind::CONNECT => out.extend_from_slice(&[0x20, 2, 0, 0]),
        kind::PUBLISH if packet[0] & 0b110 == 0b010 => {
            let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
            out.extend_from_slice(&[0x40, 2, body[2 + topic], body[3 + topic]]);
        }
        kind::SUBSCRIBE => out.extend_from_slice(&[0x90, 3, body[0], body[1], 0]),
        kind::PINGREQ => out.extend_from_slice(&[0xD0, 0]),
        _ => {}
    }
}

/// One connection at the sink.
async fn sink(
    stream: TcpStream,
    ledger: &Ledger,
    mut told: watch::Receiver<(Go, Option<Case>)>,
) -> Result<()> {
    let mut inbox = Inbox::new(stream.into_split());
    let (mut client, mut topic) = (0, None);
    while topic.is_none() {
        let mut arrived = 0;
        inbox
            .read(|first, octets| match first >> 4 {
                // QoS 1 counts where its acknowledgement arrives.
                kind::PUBLISH => arrived += u64::from(first & 0b110 == 0),
                kind::CONNECT => client = client_id(octets).map_or(0, |id| number(&id)),
                // One octet of length is enough for the filters that are subscribed to here.
                kind::SUBSCRIBE => topic = text(octets.get(4..).unwrap_or_default()),
                _ => {}
            })
            .await?;
        ledger.add(client, arrived);
    }
    let topic = topic.ok_or_else(|| eyre!("no topic"))?;
    told.mark_unchanged();
    loop {
        tokio::select! {
            changed = told.changed() => changed?,
            read = inbox.read(|_, _| {}) => {
                read?;
                continue;
            }
        }
        let (go, Some(case)) = *told.borrow_and_update() else { continue };
        let batch = packets::publishes(&topic, QoS::AtMostOnce, case.payload, case.batch);
        for _ in 0..go.each / u64::from(case.batch) {
            ledger.send(client, case, &batch, &mut inbox.writer).await?;
        }
    }
}

/// The client id in a CONNECT of MQTT 3.1.1: behind the header, "MQTT", level, flags and keep alive.
fn client_id(connect: &[u8]) -> Option<String> {
    let body = connect.iter().skip(1).position(|octet| octet & 0x80 == 0)? + 2;
    text(connect.get(body + 10..)?)
}

/// A text with its length before it.
fn text(octets: &[u8]) -> Option<String> {
    let (length, rest) = octets.split_first_chunk::<2>()?;
    let text = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
    Some(String::from_utf8_lossy(text).into_owned())
}
