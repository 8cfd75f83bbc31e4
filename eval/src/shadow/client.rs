//! One client: random operations from a seed, one after the other, on raw sockets.
//!
//! It reads what comes with the recorder's reading of MQTT and not with the gateway's, so that an alias which the gateway misreads is
//! not misread here in the same way.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr};
use flytrap_chain::keys::Key;
use flytrap_site::raw::{self, Version, acknowledge, property};
use flytrap_site::{Packet, Reader, unix_now};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::judge::{Judge, Login, SessionId, Sight, Tag};
use super::names::{Names, filter, name};

/// How a client proves itself.
#[derive(Clone)]
pub(super) enum Proof {
    /// A new token for each session, signed by this key.
    Token(Key),
    /// The device password that stands for the key.
    Password(Key, String),
}

impl Proof {
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Token(key) | Self::Password(key, _) => key,
        }
    }
}

/// What all clients share.
pub(super) struct Ground {
    pub(super) judge: Judge,
    pub(super) address: SocketAddr,
    pub(super) version: Version,
    pub(super) place: flytrap_policy::credential::Site,
    pub(super) names: Names,
    pub(super) seed: u64,
    /// Operations left, of all clients.
    pub(super) left: AtomicU64,
    pub(super) next_id: AtomicU64,
    /// Does the broker itself listen at `address`? Then nobody proves anything.
    pub(super) plain: bool,
}

/// How long an answer may take before the client takes the connection for dead.
const PATIENCE: Duration = Duration::from_secs(20);
/// Aliases that Mosquitto takes.
const ALIASES: u16 = 10;
/// Publishes at QoS 0 before the client asks for an answer.
const UNANSWERED: usize = 8;

struct Pending {
    topic: String,
    retain: bool,
    id: u64,
    from: Instant,
}

struct Session {
    stream: TcpStream,
    reader: Reader,
    session: SessionId,
    /// What came and was not looked at.
    waiting: Vec<(Packet, Vec<u8>)>,
    pending: Vec<Pending>,
    aliases: HashMap<u16, String>,
    heard: Instant,
    packet_id: u16,
}

/// Why a session is over.
enum Over {
    /// The other side closed, with a reason code if it said one.
    Closed(Option<u8>),
}

/// Plays until no operation is left.
pub(super) async fn play(number: u16, proof: Proof, ground: Arc<Ground>) -> Result<()> {
    let seed = ground.seed ^ (u64::from(number) + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut player = Player {
        number,
        proof,
        rng: StdRng::seed_from_u64(seed),
        tag: 600,
        filters: Vec::new(),
        ground,
    };
    while player.ground.left.load(Ordering::Relaxed) > 0 {
        player.ground.judge.pace().await;
        player.session().await.wrap_err_with(|| format!("client {number}"))?;
    }
    Ok(())
}

struct Player {
    number: u16,
    proof: Proof,
    rng: StdRng,
    tag: u16,
    /// Filters that the broker may hold for this client.
    filters: Vec<String>,
    ground: Arc<Ground>,
}

impl Player {
    /// Takes one of the operations that are left.
    fn take(&self) -> bool {
        let left = &self.ground.left;
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn name(&mut self) -> String {
        let key = self.proof.key().address();
        name(&mut self.rng, &self.ground.names, key)
    }

    /// Connects, does things, and leaves in one of the ways in which clients do.
    async fn session(&mut self) -> Result<()> {
        let Some(mut session) = self.connect().await? else { return Ok(()) };
        let judge = self.ground.judge.clone();
        let over = loop {
            if self.rng.random_ratio(1, 25) || !self.take() {
                break None;
            }
            match self.operation(&mut session).await {
                Ok(()) => {}
                Err(Over::Closed(code)) => break Some(code),
            }
        };
        let id = session.session;
        match over {
            Some(code) => {
                let from = session.heard;
                let filters = self.filters.clone();
                judge.saw(Instant::now(), Sight::Ended { session: id, filters, code, from });
            }
            None if self.rng.random_ratio(1, 3) => {
                // As a machine that loses its power: the will fires.
                drop(session);
            }
            None => {
                if session.barrier(&judge).await.is_ok() {
                    let _ = session.stream.write_all(&raw::DISCONNECT).await;
                }
            }
        }
        Ok(())
    }

    async fn connect(&mut self) -> Result<Option<Session>> {
        self.tag = if self.tag == u16::MAX { 600 } else { self.tag + 1 };
        let (id, version) = ((self.number, self.tag), self.ground.version);
        self.take();
        let client_id = format!("c{}", self.number);
        let now = unix_now();
        let life = if self.rng.random_ratio(1, 8) { self.rng.random_range(2..15) } else { 3_600 };
        let address = self.proof.key().address();
        let (password, issued_at, expires_at) = match &self.proof {
            Proof::Token(key) => {
                let place = &self.ground.place;
                let login = flytrap_site::token_between(key, place, &client_id, now, now + life)?;
                (login.password, Some(now), now + life)
            }
            Proof::Password(_, password) => (password.clone(), None, u64::MAX),
        };
        let will = self.rng.random_ratio(1, 4).then(|| (self.name(), self.rng.random_ratio(1, 6)));
        let clean = self.rng.random_ratio(2, 3);
        if clean {
            self.filters.clear();
        }
        let mut properties = Vec::new();
        if version.is_v5() {
            if !clean {
                properties.extend(property::session_expiry(60));
            }
            if self.rng.random_bool(0.3) {
                properties.extend(property::topic_alias_maximum(5));
            }
        }
        let login = Login { key: address, issued_at, expires_at, will: will.clone() };
        let judge = self.ground.judge.clone();
        judge.login(id, login);
        let next = self.ground.next_id.fetch_add(1, Ordering::Relaxed);
        let tag = Tag { is_will: true, session: id, id: next };
        let connect = raw::Connect {
            client_id,
            user_name: (!self.ground.plain).then(|| address.to_string()),
            password: (!self.ground.plain).then(|| password.into_bytes()),
            clean,
            keep_alive: self.tag,
            will: will.map(|(topic, retain)| raw::Will {
                topic,
                payload: tag.write(),
                qos: self.rng.random_range(0..3),
                retain,
            }),
            properties,
        };
        let from = Instant::now();
        let stream = TcpStream::connect(self.ground.address).await.wrap_err("no connection")?;
        stream.set_nodelay(true)?;
        let mut session = Session {
            stream,
            reader: Reader::new(Arc::new(Mutex::new(version.level()))),
            session: id,
            waiting: Vec::new(),
            pending: Vec::new(),
            aliases: HashMap::new(),
            heard: from,
            packet_id: 0,
        };
        let answered = async {
            session.stream.write_all(&connect.octets(version)).await.map_err(closed)?;
            loop {
                let (packet, octets) = session.next(&judge).await?;
                if matches!(packet, Packet::Other { kind: 2, .. }) {
                    return Ok(octets);
                }
            }
        };
        let code = match answered.await {
            Ok(octets) => body(&octets).get(1).copied(),
            Err(Over::Closed(_)) => None,
        };
        if code == Some(0) {
            return Ok(Some(session));
        }
        judge.saw(Instant::now(), Sight::ConnectRefused { session: id, code, from });
        // As a client that is told no: it waits a little.
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(20..120))).await;
        Ok(None)
    }

    async fn operation(&mut self, session: &mut Session) -> Result<(), Over> {
        let judge = self.ground.judge.clone();
        match self.rng.random_range(0..100) {
            0..75 => self.publish(session, &judge).await?,
            75..87 => self.subscribe(session, &judge).await?,
            87..91 => self.unsubscribe(session, &judge).await?,
            _ => session.barrier(&judge).await?,
        }
        if session.pending.len() >= UNANSWERED {
            session.barrier(&judge).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, session: &mut Session, judge: &Judge) -> Result<(), Over> {
        let version = self.ground.version;
        let mut topic = self.name();
        let (retain, qos) = (self.rng.random_ratio(1, 12), self.rng.random_range(0..3_u8));
        let id = self.ground.next_id.fetch_add(1, Ordering::Relaxed);
        let payload = Tag { is_will: false, session: session.session, id }.write();
        let mut properties = Vec::new();
        let mut written = topic.clone();
        if version.is_v5() && self.rng.random_ratio(1, 3) {
            let alias = self.rng.random_range(1..=ALIASES);
            properties = property::alias(alias);
            match session.aliases.get(&alias) {
                Some(meant) if self.rng.random_bool(0.7) => {
                    topic = meant.clone();
                    written = String::new();
                }
                _ => {
                    session.aliases.insert(alias, topic.clone());
                }
            }
        }
        let packet_id = session.next_packet_id();
        let publish = raw::Publish {
            topic: &written,
            payload: &payload,
            qos,
            retain,
            dup: false,
            id: packet_id,
            properties,
        };
        let from = Instant::now();
        session.pending.push(Pending { topic, retain, id, from });
        session.send(&publish.octets(version)).await?;
        match qos {
            0 => return Ok(()),
            1 => drop(session.until(4, packet_id, judge).await?),
            _ => {
                let octets = session.until(5, packet_id, judge).await?;
                // A refusal ends the exchange [MQTT-4.3.3-4]; sometimes it is gone on with nevertheless.
                let refused = body(&octets).get(2).is_some_and(|code| *code >= 0x80);
                if !refused || self.rng.random_ratio(1, 4) {
                    session.send(&acknowledge(0x62, packet_id)).await?;
                    session.until(7, packet_id, judge).await?;
                }
            }
        }
        session.decided(judge);
        Ok(())
    }

    async fn subscribe(&mut self, session: &mut Session, judge: &Judge) -> Result<(), Over> {
        let key = self.proof.key().address();
        let count = self.rng.random_range(1..4);
        let mut wanted: Vec<(String, u8)> = Vec::new();
        for _ in 0..count {
            let filter = filter(&mut self.rng, &self.ground.names, key);
            wanted.push((filter, self.rng.random_range(0..3)));
        }
        let packet_id = session.next_packet_id();
        let filters: Vec<(&str, u8)> =
            wanted.iter().map(|(filter, qos)| (filter.as_str(), *qos)).collect();
        let from = Instant::now();
        session.send(&raw::subscribe(self.ground.version, packet_id, &filters)).await?;
        let octets = session.until(9, packet_id, judge).await?;
        let codes = &octets[octets.len().saturating_sub(wanted.len())..];
        let at = Instant::now();
        for ((filter, _), code) in wanted.into_iter().zip(codes) {
            if *code < 0x80 {
                if !self.filters.contains(&filter) {
                    self.filters.push(filter);
                }
            } else {
                let session = session.session;
                judge.saw(at, Sight::FilterRefused { session, filter, code: *code, from });
            }
        }
        session.decided(judge);
        Ok(())
    }

    async fn unsubscribe(&mut self, session: &mut Session, judge: &Judge) -> Result<(), Over> {
        let Some(filter) = self.filters.choose(&mut self.rng).cloned() else { return Ok(()) };
        let packet_id = session.next_packet_id();
        session.send(&raw::unsubscribe(self.ground.version, packet_id, &[&filter])).await?;
        session.until(11, packet_id, judge).await?;
        self.filters.retain(|held| *held != filter);
        session.decided(judge);
        Ok(())
    }
}

fn closed(_: std::io::Error) -> Over {
    Over::Closed(None)
}

impl Session {
    fn next_packet_id(&mut self) -> u16 {
        self.packet_id = if self.packet_id == u16::MAX { 1 } else { self.packet_id + 1 };
        self.packet_id
    }

    async fn send(&mut self, octets: &[u8]) -> Result<(), Over> {
        match self.stream.write_all(octets).await {
            Ok(()) => Ok(()),
            // What the other side said before it closed is still to be read.
            Err(_) => Err(Over::Closed(None)),
        }
    }

    /// The next packet that is no delivery; deliveries are told to the judge and acknowledged.
    async fn next(&mut self, judge: &Judge) -> Result<(Packet, Vec<u8>), Over> {
        let mut chunk = [0; 16 * 1024];
        loop {
            while !self.waiting.is_empty() {
                let (packet, octets) = self.waiting.remove(0);
                match packet {
                    Packet::Publish(publish) => {
                        if publish.qos > 0 {
                            let first = if publish.qos == 1 { 0x40 } else { 0x50 };
                            self.send(&acknowledge(first, publish.id)).await?;
                        }
                    }
                    Packet::Other { kind: 6, .. } => {
                        let id = packet_id(&octets);
                        self.send(&acknowledge(0x70, id)).await?;
                    }
                    Packet::Other { kind: 14, .. } => {
                        return Err(Over::Closed(Some(
                            body(&octets).first().copied().unwrap_or(0),
                        )));
                    }
                    other => return Ok((other, octets)),
                }
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut chunk)).await;
            let length = match read {
                Ok(Ok(0) | Err(_)) => return Err(Over::Closed(None)),
                Ok(Ok(length)) => length,
                Err(_) => return Err(Over::Closed(Some(0xff))),
            };
            self.heard = Instant::now();
            for (packet, octets) in self.reader.take_whole(&chunk[..length]) {
                if let Packet::Publish(publish) = &packet {
                    let id = Tag::read(&publish.payload).map_or(0, |tag| tag.id);
                    let (session, topic) = (self.session, publish.topic.clone());
                    judge.saw(self.heard, Sight::Delivered { session, topic, id });
                }
                self.waiting.push((packet, octets));
            }
        }
    }

    /// Waits for a packet of this type and with this packet id.
    async fn until(&mut self, wanted: u8, id: u16, judge: &Judge) -> Result<Vec<u8>, Over> {
        loop {
            let (packet, octets) = self.next(judge).await?;
            if matches!(packet, Packet::Other { kind, .. } if kind == wanted)
                && packet_id(&octets) == id
            {
                return Ok(octets);
            }
        }
    }

    /// Everything sent so far has been decided on.
    fn decided(&mut self, judge: &Judge) {
        let at = Instant::now();
        for Pending { topic, retain, id, from } in self.pending.drain(..) {
            let session = self.session;
            judge.saw(at, Sight::Published { session, topic, retain, id, from, to: at });
        }
    }

    /// PINGREQ and its answer: what was sent before has been decided on, what the broker sent before has come.
    async fn barrier(&mut self, judge: &Judge) -> Result<(), Over> {
        let from = Instant::now();
        self.send(&raw::PINGREQ).await?;
        loop {
            if let (Packet::Other { kind: 13, .. }, _) = self.next(judge).await? {
                break;
            }
        }
        self.decided(judge);
        judge.saw(Instant::now(), Sight::Barrier { session: self.session, from });
        Ok(())
    }
}

/// What follows the fixed header.
fn body(octets: &[u8]) -> &[u8] {
    let length = octets.iter().skip(1).take_while(|octet| **octet & 0x80 != 0).count() + 1;
    octets.get(1 + length..).unwrap_or_default()
}

fn packet_id(octets: &[u8]) -> u16 {
    match body(octets) {
        [high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    }
}
