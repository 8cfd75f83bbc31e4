//! Messages from publishers to subscribers through a real broker. Each carries the moment at which it was due, and its latency is
//! counted from there at the subscriber, whatever held it up on the way, this program included.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use eyre::{Result, WrapErr as _, bail, ensure, eyre};
use flytrap_mqtt::{QoS, kind};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::batches::Arrivals;
use super::metronome::Metronome;
use super::wire::{Connection, put};
use super::{Answer, Client, Way};
use crate::packets;

/// Messages that a publisher without a schedule has under way.
const WINDOW: u64 = 10;
/// Connections that are opened at a time.
const AT_ONCE: usize = 32;
/// Octets of the moment at the end of each payload.
const STAMP: usize = 8;

/// What publishers and subscribers share.
struct Shared {
    /// Moments are told as nanoseconds since then.
    began: Instant,
    arrivals: Arrivals,
    latencies: RefCell<Vec<u64>>,
}

impl Shared {
    fn arrived(&self, publish: &[u8]) {
        let Some(stamp) = publish.last_chunk::<STAMP>() else { return };
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.latencies.borrow_mut().push(now.saturating_sub(u64::from_be_bytes(*stamp)));
        self.arrivals.add(1);
    }
}

/// Open connections, and who tells the publishers what is due.
pub(super) struct Flow {
    shared: Rc<Shared>,
    publishers: Vec<mpsc::UnboundedSender<Due>>,
    tasks: JoinSet<Result<()>>,
}

/// What a publisher is told.
enum Due {
    /// One message, due then (nanoseconds since the beginning).
    At(u64),
    /// So many, each when those before it are acknowledged.
    Asap(u64),
}

async fn login(to: &Way, client: Client) -> Result<(Connection, Client)> {
    let connection = Connection::login(to, &client).await;
    Ok((connection.wrap_err_with(|| client.client_id.clone())?, client))
}

/// Connections that have subscribed.
pub(super) async fn listen(
    from: &Way,
    subscribers: Vec<Client>,
    qos: u8,
) -> Result<Vec<Connection>> {
    let subscribed = |client| async move {
        let (mut connection, client) = login(from, client).await?;
        connection.subscribe(&client.topic, qos).await?;
        Ok(connection)
    };
    stream::iter(subscribers).map(subscribed).buffer_unordered(AT_ONCE).try_collect().await
}

pub(super) async fn open(
    to: &Way,
    publishers: Vec<Client>,
    listening: Vec<Connection>,
    qos: u8,
    payload: usize,
) -> Result<Flow> {
    ensure!(payload >= STAMP, "a payload of {payload} octets has no room for a moment");
    let qos = QoS::from_bits(qos).ok_or_else(|| eyre!("no QoS {qos}"))?;
    let shared = Rc::new(Shared {
        began: Instant::now(),
        arrivals: Arrivals::default(),
        latencies: RefCell::default(),
    });
    let mut tasks = JoinSet::new();
    for mut connection in listening {
        let shared = shared.clone();
        tasks.spawn_local(async move {
            loop {
                let each = |first: u8, octets: &[u8]| {
                    if first >> 4 == kind::PUBLISH {
                        shared.arrived(octets);
                    }
                };
                connection.serve(each).await.wrap_err("a subscriber")?;
            }
        });
    }
    let speaking: Vec<(Connection, Client)> = stream::iter(publishers)
        .map(|client| login(to, client))
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let mut told = Vec::new();
    for (connection, client) in speaking {
        let (tell, due) = mpsc::unbounded_channel();
        told.push(tell);
        let shared = shared.clone();
        tasks.spawn_local(async move {
            publish(connection, &client.topic, qos, payload, due, &shared)
                .await
                .wrap_err("a publisher")
        });
    }
    Ok(Flow { shared, publishers: told, tasks })
}

impl Flow {
    pub(super) fn missing(&self) -> String {
        self.shared.arrivals.missing()
    }

    pub(super) async fn run(
        &mut self,
        messages: u64,
        per_second: Option<f64>,
        arrivals: u64,
    ) -> Result<Answer> {
        self.shared.arrivals.expect(arrivals);
        self.shared.latencies.borrow_mut().clear();
        let began = Instant::now();
        let count = self.publishers.len();
        ensure!(count > 0, "nobody publishes");
        let mut telling = match per_second {
            Some(per_second) => Some((Metronome::start(messages, per_second), 0)),
            None => {
                let each = messages.div_ceil(count as u64);
                ensure!(
                    each * count as u64 == messages,
                    "{messages} messages of {count} publishers"
                );
                for publisher in &self.publishers {
                    publisher.send(Due::Asap(each))?;
                }
                None
            }
        };
        loop {
            let next = async {
                match &mut telling {
                    Some((metronome, _)) => metronome.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.arrivals.done.notified() => break,
                due = next => match (due, &mut telling) {
                    (Some(due), Some((_, number))) => {
                        let due = due.saturating_duration_since(self.shared.began);
                        self.publishers[*number % count].send(Due::At(u64::try_from(due.as_nanos())?))?;
                        *number += 1;
                    }
                    _ => telling = None,
                },
                Some(ended) = self.tasks.join_next() => {
                    ended.wrap_err("a client panicked")??;
                    bail!("a client ended");
                }
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        // More than was sent would be as wrong as less.
        ensure!(self.shared.arrivals.count() == arrivals, "{}", self.missing());
        Ok(Answer::Times { nanoseconds: self.shared.latencies.take(), seconds })
    }
}

async fn publish(
    connection: Connection,
    topic: &str,
    qos: QoS,
    payload: usize,
    mut due: mpsc::UnboundedReceiver<Due>,
    shared: &Shared,
) -> Result<()> {
    let Connection { mut inbox, mut writer } = connection;
    let (mut id, mut octets) = (0_u16, Vec::new());
    let mut one = |at: u64, octets: &mut Vec<u8>| {
        id = id.checked_add(1).unwrap_or(1);
        packets::publish(topic, qos, payload, id, octets);
        let end = octets.len();
        octets[end - STAMP..].copy_from_slice(&at.to_be_bytes());
    };
    // Messages still to be sent without a schedule, and those of them under way.
    let (mut left, mut under_way) = (0_u64, 0_u64);
    loop {
        octets.clear();
        // Of QoS 0 nothing comes back, so the window is what the connection takes.
        while left > 0 && under_way < WINDOW {
            let now = u64::try_from(shared.began.elapsed().as_nanos())?;
            one(now, &mut octets);
            left -= 1;
            under_way += u64::from(qos != QoS::AtMostOnce);
            if octets.len() > 64 * 1024 {
                break;
            }
        }
        if !octets.is_empty() {
            put(&mut writer, &octets).await?;
            continue;
        }
        tokio::select! {
            told = due.recv() => {
                let mut told = told;
                while let Some(next) = told {
                    match next {
                        Due::At(at) => one(at, &mut octets),
                        Due::Asap(more) => left += more,
                    }
                    told = due.try_recv().ok();
                }
                if octets.is_empty() && left == 0 {
                    return Ok(());
                }
                put(&mut writer, &octets).await?;
            }
            read = inbox.read(|first, _| {
                let is_last = matches!(first >> 4, kind::PUBACK | kind::PUBCOMP);
                under_way = under_way.saturating_sub(u64::from(is_last));
            }) => {
                read?;
                if !inbox.answers.is_empty() {
                    put(&mut writer, &inbox.answers).await?;
                    inbox.answers.clear();
                }
            }
        }
    }
}
