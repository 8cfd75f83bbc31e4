//! Moves octets between the two connections of a session and its machine.
//!
//! Reads go into a buffer of the thread, not of the session, and what is forwarded as it came is written from there, so that an
//! idle session holds no buffer at all and a busy one copies nothing. Whatever one read brought goes out in one write. A session
//! keeps only the octets of an unfinished frame and what a slow peer has yet to take; it stops reading while the latter is there.
//! Everything happens within one poll, and what survives it is in the pump: dropping the future loses nothing.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use flytrap_policy::View;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::end::End;
use super::lane::Lane;
use super::machine::{Clock, Machine};
use super::pace::Pace;
use crate::mirror::{Fitness, Mirror, Moment};

/// Octets that one read may bring.
const READ_OCTETS: usize = 64 * 1024;
/// An unfinished frame up to this size is put before the next read in the thread's buffer; a longer one grows on its own.
const CARRY_OCTETS: usize = 32 * 1024;
/// Answers that a peer has yet to take, past which nothing more is read that could add to them.
const MOST_UNSENT: usize = 64 * 1024;
/// What a session keeps of an emptied buffer.
const KEPT_OCTETS: usize = 256;

struct Scratch {
    read: Box<[u8]>,
    ahead: Vec<u8>,
    back: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        read: vec![0; CARRY_OCTETS + READ_OCTETS].into_boxed_slice(),
        ahead: Vec::new(),
        back: Vec::new(),
    });
}

/// What a session asks of the world: the time, and the newest state of the chain.
pub(super) struct World<'a> {
    pub(super) mirror: &'a Mirror,
    pub(super) began: Instant,
}

impl World<'_> {
    pub(super) fn clock(&self) -> Clock {
        self.clock_at(Moment::now())
    }

    fn clock_at(&self, moment: Moment) -> Clock {
        let elapsed = moment.at.saturating_duration_since(self.began);
        Clock { now: self.mirror.now_at(moment), elapsed }
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.mirror.current()
    }

    pub(super) fn is_distrusted(&self) -> bool {
        self.is_distrusted_at(Moment::now())
    }

    fn is_distrusted_at(&self, moment: Moment) -> bool {
        matches!(self.mirror.fitness_at(moment), Fitness::Distrusted)
    }
}

/// One connection, with what is unfinished in either direction.
pub(super) struct Side<S> {
    stream: S,
    /// The octets of a frame whose end has not come yet.
    carry: Vec<u8>,
    /// `carry` came in with what was read before the session, and has not been looked at.
    unread: bool,
    /// What the peer has yet to take, oldest first.
    unsent: Vec<u8>,
    /// Octets handed to the stream may wait in it, as they do in TLS.
    unflushed: bool,
    /// Octets that the peer ever took; stands still while it stalls.
    sent: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side<S> {
    /// `carry`: what was read behind the last frame.
    pub(super) fn new(stream: S, carry: Vec<u8>) -> Self {
        let unread = !carry.is_empty();
        Self { stream, carry, unread, unsent: Vec::new(), unflushed: false, sent: 0 }
    }

    /// Octets taken so far, or `None` if nothing waits to be taken.
    pub(super) fn stalled_at(&self) -> Option<u64> {
        (!self.unsent.is_empty() || self.unflushed).then_some(self.sent)
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut written = 0;
        let outcome = loop {
            if written == self.unsent.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut self.stream).poll_write(cx, &self.unsent[written..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => written += n,
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        if written > 0 {
            self.sent += written as u64;
            self.unflushed = true;
            self.unsent.drain(..written);
            give_back(&mut self.unsent);
        }
        ready!(outcome)?;
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what the peer takes now and keeps the rest.
    fn send(&mut self, octets: &[u8], cx: &mut Context<'_>) -> io::Result<()> {
        let mut written = 0;
        while self.unsent.is_empty() && written < octets.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &octets[written..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(n)) => {
                    written += n;
                    self.sent += n as u64;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.unsent.extend_from_slice(&octets[written..]);
        if self.unflushed && self.unsent.is_empty() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Hands over what waits, then `farewell`, and ends the connection in order.
    pub(super) async fn finish(mut self, farewell: &[u8]) -> io::Result<()> {
        self.unsent.extend_from_slice(farewell);
        self.stream.write_all(&self.unsent).await?;
        self.stream.flush().await?;
        self.stream.shutdown().await
    }

    /// Hands over what waits and drops the connection without a goodbye, so that the broker lets the will fire.
    pub(super) async fn abandon(mut self) -> io::Result<()> {
        self.stream.write_all(&self.unsent).await?;
        self.stream.flush().await
    }
}

fn give_back(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > KEPT_OCTETS {
        *buffer = Vec::new();
    }
}

/// Why the pump hands back control.
pub(super) enum Stop {
    End(End),
    /// The machine has a nearer deadline than before, or something for the driver.
    Rearm,
}

pub(super) struct Pump<C, B> {
    pub(super) client: Side<C>,
    pub(super) broker: Side<B>,
}

impl<C, B> Pump<C, B>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    /// Moves octets until neither side has any, or takes any.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        machine: &mut Machine,
        world: &World<'_>,
        pace: &mut Pace,
    ) -> Poll<Stop> {
        // A side that had nothing wakes the task when it has: asking it again before that is in vain.
        let (mut client_is_dry, mut broker_is_dry) = (false, false);
        loop {
            let (mut moved, mut must_rearm) = (false, false);
            if let Err(end) = self.drain(cx) {
                return Poll::Ready(Stop::End(end));
            }
            if !client_is_dry
                && self.broker.unsent.is_empty()
                && self.client.unsent.len() < MOST_UNSENT
                && !pace.holds(|| world.began.elapsed())
            {
                match SCRATCH
                    .with_borrow_mut(|scratch| self.poll_client(cx, machine, world, scratch))
                {
                    Poll::Ready(done) => {
                        let used = std::mem::take(&mut machine.used);
                        if let Err(end) = done.and(pace.charge(used, machine.elapsed())) {
                            return Poll::Ready(Stop::End(end));
                        }
                        moved = true;
                        // The driver has to wake when the client may be read again.
                        must_rearm |= pace.held_until().is_some();
                    }
                    Poll::Pending => client_is_dry = true,
                }
            }
            if !broker_is_dry
                && self.client.unsent.is_empty()
                && self.broker.unsent.len() < MOST_UNSENT
            {
                match SCRATCH
                    .with_borrow_mut(|scratch| self.poll_broker(cx, machine, world, scratch))
                {
                    Poll::Ready(Ok(())) => moved = true,
                    Poll::Ready(Err(end)) => return Poll::Ready(Stop::End(end)),
                    Poll::Pending => broker_is_dry = true,
                }
            }
            if machine.take_rearm() || must_rearm {
                return Poll::Ready(Stop::Rearm);
            }
            if !moved {
                give_back(&mut self.client.carry);
                give_back(&mut self.broker.carry);
                return Poll::Pending;
            }
        }
    }

    /// Hands both sides what they take of what waits for them; reads nothing.
    pub(super) fn drain(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if let Poll::Ready(Err(_)) = self.broker.poll_drain(cx) {
            return Err(End::BrokerLeft);
        }
        if let Poll::Ready(Err(_)) = self.client.poll_drain(cx) {
            return Err(End::ClientLost);
        }
        Ok(())
    }

    fn poll_client(
        &mut self,
        cx: &mut Context<'_>,
        machine: &mut Machine,
        world: &World<'_>,
        scratch: &mut Scratch,
    ) -> Poll<Result<(), End>> {
        let Scratch { read, ahead, back } = scratch;
        // A session that panicked may have left something of its own.
        ahead.clear();
        back.clear();
        let Ok(octets) = ready!(poll_fill(&mut self.client, cx, read)) else {
            return Poll::Ready(Err(End::ClientLost));
        };
        if octets.is_empty() {
            return Poll::Ready(Err(End::ClientLost));
        }
        let (mut to_broker, mut to_client) = (Lane::new(&octets, ahead), Lane::new(&[], back));
        let mut done = catch_up(machine, world, &mut to_broker);
        let mut taken = 0;
        if done.is_ok() {
            (taken, done) = machine.client_octets(&octets, &mut to_broker, &mut to_client);
        }
        // Octets of a frame that never ends keep nobody alive.
        if taken > 0 {
            machine.heard_client(!to_broker.octets().is_empty());
        }
        machine.traffic.packets_to_broker += to_broker.forwarded();
        let sent = self.broker.send(to_broker.octets(), cx).map_err(|_| End::BrokerLeft);
        let replied = self.client.send(to_client.octets(), cx).map_err(|_| End::ClientLost);
        keep_rest(&mut self.client, octets, taken);
        tidy(ahead);
        tidy(back);
        Poll::Ready(done.and(sent).and(replied))
    }

    fn poll_broker(
        &mut self,
        cx: &mut Context<'_>,
        machine: &mut Machine,
        world: &World<'_>,
        scratch: &mut Scratch,
    ) -> Poll<Result<(), End>> {
        let Scratch { read, ahead, back } = scratch;
        // A session that panicked may have left something of its own.
        ahead.clear();
        back.clear();
        let Ok(octets) = ready!(poll_fill(&mut self.broker, cx, read)) else {
            return Poll::Ready(Err(End::BrokerLeft));
        };
        if octets.is_empty() {
            return Poll::Ready(Err(End::BrokerLeft));
        }
        let (mut to_client, mut to_broker) = (Lane::new(&octets, ahead), Lane::new(&[], back));
        let mut done = catch_up(machine, world, &mut to_broker);
        let mut taken = 0;
        if done.is_ok() {
            (taken, done) = machine.broker_octets(&octets, &mut to_client, &mut to_broker);
        }
        machine.traffic.packets_to_client += to_client.forwarded();
        let sent = self.client.send(to_client.octets(), cx).map_err(|_| End::ClientLost);
        let replied = self.broker.send(to_broker.octets(), cx).map_err(|_| End::BrokerLeft);
        keep_rest(&mut self.broker, octets, taken);
        tidy(ahead);
        tidy(back);
        Poll::Ready(done.and(sent).and(replied))
    }

    /// Sends the client what is no answer to its octets.
    pub(super) fn tell_client(&mut self, octets: &[u8]) {
        self.client.unsent.extend_from_slice(octets);
    }

    /// Lets the machine act on the world instead of on octets.
    pub(super) fn act(
        &mut self,
        act: impl FnOnce(&mut Lane<'_>) -> Result<(), End>,
    ) -> Result<(), End> {
        let mut buffer = Vec::new();
        let mut to_broker = Lane::new(&[], &mut buffer);
        let done = act(&mut to_broker);
        self.broker.unsent.extend_from_slice(&buffer);
        done
    }
}

/// Brings the machine up to the newest view, before it decides on what was just read.
fn catch_up(machine: &mut Machine, world: &World<'_>, to_broker: &mut Lane<'_>) -> Result<(), End> {
    let moment = Moment::now();
    machine.set_clock(world.clock_at(moment));
    if world.is_distrusted_at(moment) {
        return Err(End::Distrusted);
    }
    if machine.view_version() != world.mirror.version() || machine.rights_are_due() {
        return machine.follow(world.view(), to_broker);
    }
    Ok(())
}

/// What one read brought, behind what was carried over: in the thread's buffer, or for long frames in the session's own.
pub(super) enum Filled<'a> {
    Shared(&'a [u8]),
    Own(Vec<u8>),
}

impl std::ops::Deref for Filled<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Shared(octets) => octets,
            Self::Own(octets) => octets,
        }
    }
}

/// Reads once. Nothing at all means that the peer has ended its side.
pub(super) fn poll_fill<'a, S: AsyncRead + Unpin>(
    side: &mut Side<S>,
    cx: &mut Context<'_>,
    read: &'a mut [u8],
) -> Poll<io::Result<Filled<'a>>> {
    if std::mem::take(&mut side.unread) {
        return Poll::Ready(Ok(Filled::Own(std::mem::take(&mut side.carry))));
    }
    let carried = side.carry.len();
    let start = if carried <= CARRY_OCTETS { carried } else { 0 };
    let mut buffer = ReadBuf::new(&mut read[start..start + READ_OCTETS]);
    ready!(Pin::new(&mut side.stream).poll_read(cx, &mut buffer))?;
    let n = buffer.filled().len();
    if n == 0 {
        return Poll::Ready(Ok(Filled::Shared(&[])));
    }
    if start == carried {
        read[..carried].copy_from_slice(&side.carry);
        side.carry.clear();
        return Poll::Ready(Ok(Filled::Shared(&read[..carried + n])));
    }
    let mut own = std::mem::take(&mut side.carry);
    own.extend_from_slice(&read[..n]);
    Poll::Ready(Ok(Filled::Own(own)))
}

fn keep_rest<S>(side: &mut Side<S>, octets: Filled<'_>, taken: usize) {
    match octets {
        Filled::Shared(octets) => side.carry.extend_from_slice(&octets[taken..]),
        Filled::Own(mut octets) => {
            octets.drain(..taken);
            side.carry = octets;
        }
    }
}

/// A thread's buffer goes back to an ordinary size after an extraordinary batch.
fn tidy(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(2 * READ_OCTETS);
}
