//! Batches of messages between clients and the sink, which says when they have arrived.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr as _, bail, ensure, eyre};
use flytrap_mqtt::{QoS, kind};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::wire::{Connection, Inbox, Writer, put};
use super::{Answer, Case, Client, Way};

/// Clients of batches are numbered below this.
const MOST_CLIENTS: usize = 64;
/// What the sink loses once it is told to: one of so many.
const LOSES: u64 = 100;

/// Counts messages that have arrived, and wakes whoever waits for the last.
#[derive(Default)]
pub(super) struct Arrivals {
    count: Cell<u64>,
    wanted: Cell<u64>,
    pub(super) done: Notify,
}

impl Arrivals {
    pub(super) fn add(&self, more: u64) {
        let before = self.count.get();
        self.count.set(before + more);
        // Once only, or a permit would be left over for the next time.
        if before < self.wanted.get() && before + more >= self.wanted.get() {
            self.done.notify_one();
        }
    }

    pub(super) fn expect(&self, wanted: u64) {
        self.count.set(0);
        self.wanted.set(wanted);
    }

    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }

    pub(super) fn missing(&self) -> String {
        format!("only {} of {} messages have arrived", self.count.get(), self.wanted.get())
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
    /// Messages at the sink, if it loses some of them.
    losing: Cell<Option<u64>>,
}

impl Ledger {
    fn add(&self, client: usize, more: u64) {
        self.all.add(more);
        self.each[client % MOST_CLIENTS].add(more);
    }

    /// What is left of so many messages at a sink that may lose some.
    fn kept(&self, arrived: u64) -> u64 {
        let Some(before) = self.losing.get() else { return arrived };
        self.losing.set(Some(before + arrived));
        arrived - ((before + arrived) / LOSES - before / LOSES)
    }

    /// Sends a batch, and in lockstep waits until all of it has arrived.
    async fn send(
        &self,
        client: usize,
        case: Case,
        batch: &[u8],
        writer: &mut Writer,
    ) -> Result<()> {
        if !case.lockstep {
            return put(writer, batch).await;
        }
        let own = &self.each[client % MOST_CLIENTS];
        own.expect(case.batch.into());
        put(writer, batch).await?;
        own.done.notified().await;
        Ok(())
    }
}

/// The broker that costs next to nothing.
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    ledger: Rc<Ledger>,
    /// Deliveries that the sink shall send to each subscriber.
    go: watch::Sender<(Go, Option<Case>)>,
}

/// The clients' connections.
pub(super) struct Clients {
    tasks: JoinSet<Result<()>>,
    go: watch::Sender<Go>,
    case: Case,
    count: u64,
}

impl Sink {
    pub(super) async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let ledger = Rc::new(Ledger {
            all: Arrivals::default(),
            each: (0..MOST_CLIENTS).map(|_| Arrivals::default()).collect(),
            losing: Cell::new(None),
        });
        let (go, told) = watch::channel((Go::default(), None));
        let counting = ledger.clone();
        tokio::task::spawn_local(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    // Out of descriptors, most likely: those that wait will say so by their failure.
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let (counting, told) = (counting.clone(), told.clone());
                // How a connection ended does not matter here: a message that is missing does.
                tokio::task::spawn_local(async move {
                    let _ = sink(Connection::accepted(stream), &counting, told).await;
                });
            }
        });
        Ok(Self { address, ledger, go })
    }

    pub(super) fn lose(&self) {
        self.ledger.losing.set(Some(0));
    }

    pub(super) fn rest(&self) {
        self.go.send_replace((Go::default(), None));
    }

    pub(super) fn missing(&self) -> String {
        self.ledger.all.missing()
    }

    pub(super) async fn open(&self, to: &Way, case: Case, clients: Vec<Client>) -> Result<Clients> {
        ensure!(
            clients.len() <= MOST_CLIENTS,
            "at most {MOST_CLIENTS} clients, not {}",
            clients.len()
        );
        let (go, told) = watch::channel(Go::default());
        let mut tasks = JoinSet::new();
        let count = clients.len() as u64;
        for client in clients {
            let mut connection = Connection::login(to, &client).await?;
            if case.deliver {
                connection.subscribe(&client.topic, 0).await?;
            }
            let (told, ledger) = (told.clone(), self.ledger.clone());
            tasks.spawn_local(async move {
                if case.deliver {
                    listen(connection, number(&client.client_id), &ledger).await
                } else {
                    publish(connection, &client, case, told, &ledger).await
                }
            });
        }
        Ok(Clients { tasks, go, case, count })
    }

    pub(super) async fn run(&self, clients: &mut Clients, each: u64) -> Result<Answer> {
        // Whole batches, so that all sides agree on the number.
        let each = each.div_ceil(u64::from(clients.case.batch)) * u64::from(clients.case.batch);
        let messages = each * clients.count;
        self.ledger.all.expect(messages);
        let go = Go { each };
        let began = Instant::now();
        if clients.case.deliver {
            self.go.send_replace((go, Some(clients.case)));
        } else {
            clients.go.send_replace(go);
        }
        tokio::select! {
            () = self.ledger.all.done.notified() => {}
            Some(ended) = clients.tasks.join_next() => {
                ended.wrap_err("a client panicked")?.wrap_err("a client ended")?;
                bail!("a client was disconnected");
            }
        }
        Ok(Answer::Ran { messages, seconds: began.elapsed().as_secs_f64() })
    }
}

/// The number at the end of a client id, also where a gateway has put something before it.
fn number(client_id: &str) -> usize {
    client_id.rsplit('-').next().and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

async fn publish(
    connection: Connection,
    client: &Client,
    case: Case,
    mut told: watch::Receiver<Go>,
    ledger: &Ledger,
) -> Result<()> {
    let Connection { mut inbox, mut writer } = connection;
    let number = number(&client.client_id);
    let qos = QoS::from_bits(case.qos).ok_or_else(|| eyre!("no QoS {}", case.qos))?;
    let batch = case.packets(&client.topic, qos);
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
            if qos == QoS::AtMostOnce {
                ledger.send(number, case, &batch, &mut writer).await?;
            } else {
                put(&mut writer, &batch).await?;
                acknowledged(&mut inbox, &mut writer, case.batch).await?;
                ledger.add(number, case.batch.into());
            }
        }
    }
}

/// Waits until a whole batch is acknowledged, to the last step: as with a device that has a window.
async fn acknowledged(inbox: &mut Inbox, writer: &mut Writer, batch: u16) -> Result<()> {
    let mut missing = u64::from(batch);
    while missing > 0 {
        inbox
            .read(|first, _| {
                missing -= u64::from(matches!(first >> 4, kind::PUBACK | kind::PUBCOMP));
            })
            .await?;
        if !inbox.answers.is_empty() {
            put(writer, &inbox.answers).await?;
            inbox.answers.clear();
        }
    }
    Ok(())
}

async fn listen(mut connection: Connection, number: usize, ledger: &Ledger) -> Result<()> {
    loop {
        let mut arrived = 0;
        connection.serve(|next, _| arrived += u64::from(next >> 4 == kind::PUBLISH)).await?;
        ledger.add(number, arrived);
    }
}

/// One connection at the sink.
async fn sink(
    mut connection: Connection,
    ledger: &Ledger,
    mut told: watch::Receiver<(Go, Option<Case>)>,
) -> Result<()> {
    let (mut client, mut topic) = (0, None);
    while topic.is_none() {
        let mut arrived = 0;
        connection
            .serve(|first, octets| match first >> 4 {
                // QoS 1 and 2 count where the last acknowledgement arrives.
                kind::PUBLISH => arrived += u64::from(first & 0b110 == 0),
                kind::CONNECT => client = client_id(octets).map_or(0, |id| number(&id)),
                // One octet of length is enough for the filters that are subscribed to here.
                kind::SUBSCRIBE => topic = text(octets.get(4..).unwrap_or_default()),
                _ => {}
            })
            .await?;
        ledger.add(client, ledger.kept(arrived));
    }
    let topic = topic.ok_or_else(|| eyre!("no topic"))?;
    told.mark_unchanged();
    loop {
        tokio::select! {
            changed = told.changed() => changed?,
            served = connection.serve(|_, _| {}) => {
                served?;
                continue;
            }
        }
        let (go, Some(case)) = *told.borrow_and_update() else { continue };
        let batch = case.packets(&topic, QoS::AtMostOnce);
        for _ in 0..go.each / u64::from(case.batch) {
            ledger.send(client, case, &batch, &mut connection.writer).await?;
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
