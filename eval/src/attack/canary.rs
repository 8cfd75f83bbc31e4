//! An honest publisher and subscriber beside each attack.
//!
//! They have a thread of their own, so that what the attacker's side computes does not delay what is measured. Messages are due at
//! fixed moments, and latency counts from then: a stall is not hidden by messages that were not sent meanwhile.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use eyre::{Result, bail, eyre};
use flytrap_bench::spread::quantile;
use flytrap_site::raw::{Connect, Publish, Raw, Version, acknowledge};

use super::Side;
use super::arena::{Arena, CANARY};

/// Time between two messages.
const PACE: Duration = Duration::from_millis(20);

/// What became of the messages of a stretch of time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fate {
    pub(crate) sent: usize,
    pub(crate) lost: usize,
    pub(crate) p99: Duration,
}

#[derive(Debug, Default)]
struct Tape {
    /// When each was due, and how long it took to arrive.
    messages: Vec<(Instant, Option<Duration>)>,
    fault: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Canary {
    tape: Arc<Mutex<Tape>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Canary {
    pub(crate) fn start(arena: &Arena, side: Side) -> Result<Self> {
        let (address, connects) = arena.canary(side)?;
        let (tape, stop) =
            (Arc::new(Mutex::new(Tape::default())), Arc::new(AtomicBool::new(false)));
        let (written, told) = (tape.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("canary".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let done = runtime.map_err(eyre::Report::from).and_then(|runtime| {
                let done = runtime.block_on(sing(address, connects, &written, &told));
                runtime.shutdown_timeout(Duration::from_millis(100));
                done
            });
            if let Err(error) = done {
                lock(&written).fault = Some(format!("{error:#}"));
            }
        })?;
        Ok(Self { tape, stop, thread: Some(thread) })
    }

    pub(crate) async fn until_running(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            {
                let tape = lock(&self.tape);
                if let Some(fault) = &tape.fault {
                    bail!("the honest pair: {fault}");
                }
                if tape.messages.iter().filter(|(_, took)| took.is_some()).count() >= 5 {
                    return Ok(());
                }
            }
            if Instant::now() >= deadline {
                bail!("the honest pair does not get going");
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// Ends it, and says what became of what was due in this stretch of time.
    pub(crate) async fn stop(mut self, from: Instant, to: Instant) -> Fate {
        // The last ones may still be under way.
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline && self.fate(from, to).lost > 0 {
            tokio::time::sleep(PACE).await;
        }
        self.stop.store(true, Ordering::Relaxed);
        let fate = self.fate(from, to);
        if let Some(thread) = self.thread.take() {
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        fate
    }

    fn fate(&self, from: Instant, to: Instant) -> Fate {
        let tape = lock(&self.tape);
        let of: Vec<&(Instant, Option<Duration>)> = tape
            .messages
            .iter()
            .filter(|(due, _)| *due >= from.checked_sub(PACE).unwrap_or(from) && *due <= to)
            .collect();
        let mut took: Vec<f64> =
            of.iter().filter_map(|(_, took)| took.map(|took| took.as_secs_f64())).collect();
        took.sort_by(f64::total_cmp);
        let p99 = if took.is_empty() { 0.0 } else { quantile(&took, 0.99) };
        Fate { sent: of.len(), lost: of.len() - took.len(), p99: Duration::from_secs_f64(p99) }
    }
}

fn lock(tape: &Mutex<Tape>) -> std::sync::MutexGuard<'_, Tape> {
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn open(address: SocketAddr, connect: &Connect) -> Result<Raw> {
    let mut client = Raw::plain(Version::V5, address).await?;
    match client.connect(connect).await? {
        0 => Ok(client),
        code => bail!("refused with {code:#04x}"),
    }
}

async fn sing(
    address: SocketAddr,
    [publisher, subscriber]: [Connect; 2],
    tape: &Mutex<Tape>,
    stop: &AtomicBool,
) -> Result<()> {
    let mut listening = open(address, &subscriber).await?;
    if listening.subscribe(&[(CANARY, 1)]).await? != [1] {
        bail!("the subscriber was refused");
    }
    let mut singing = open(address, &publisher).await?;
    let mut due = tokio::time::interval(PACE);
    let mut number = 0_u32;
    while !stop.load(Ordering::Relaxed) {
        tokio::select! {
            at = due.tick() => {
                let at = at.into_std();
                lock(tape).messages.push((at, None));
                let payload = number.to_be_bytes();
                number += 1;
                let id = u16::try_from(number % 60_000)? + 1;
                // What the broker does not take is as lost as what it does not deliver.
                if singing.publish(&Publish::new(CANARY, &payload).qos(1, id)).await.is_err() {
                    bail!("the publisher was disconnected");
                }
            }
            got = listening.next(Duration::from_secs(600)) => {
                let octets = got?.ok_or_else(|| eyre!("the subscriber was disconnected"))?;
                if octets[0] >> 4 == 3 {
                    heard(&octets, tape);
                    let at = 2 + 2 + CANARY.len();
                    let id = u16::from_be_bytes([octets[at], octets[at + 1]]);
                    listening.send(acknowledge(0x40, id)).await?;
                }
            }
            // Acknowledgements are taken, so that none fills a buffer.
            got = singing.next(Duration::from_secs(600)) => {
                got?.ok_or_else(|| eyre!("the publisher was disconnected"))?;
            }
        }
    }
    Ok(())
}

fn heard(octets: &[u8], tape: &Mutex<Tape>) {
    let Some(number) = octets.last_chunk().map(|last| u32::from_be_bytes(*last)) else { return };
    let mut tape = lock(tape);
    let at = usize::try_from(number).unwrap_or(usize::MAX);
    if let Some((due, took)) = tape.messages.get_mut(at) {
        took.get_or_insert(due.elapsed());
    }
}
