//! A subscriber directly at the broker, past the gateway: what it gets, the broker got.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::ground::TICK;
use crate::wire::{Packet, Publish, Reader};

/// A subscriber of MQTT 3.1.1 at QoS 0.
#[derive(Debug)]
pub struct Spy {
    heard: Arc<Mutex<Vec<Publish>>>,
    task: JoinHandle<()>,
}

impl Drop for Spy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Spy {
    /// Connects to `broker` without a client id, with a login where one is wanted, and subscribes to `filter`.
    ///
    /// # Errors
    /// If there is no CONNACK or SUBACK within ten seconds, or they refuse.
    pub async fn start(
        broker: SocketAddr,
        login: Option<(&str, &str)>,
        filter: &str,
    ) -> Result<Self> {
        let patience = Duration::from_secs(10);
        let opened = tokio::time::timeout(patience, Self::open(broker, login, filter)).await;
        let stream = opened
            .wrap_err("the broker did not answer the spy")?
            .wrap_err("the spy at the broker")?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(listen(stream, heard.clone()));
        Ok(Self { heard, task })
    }

    async fn open(
        broker: SocketAddr,
        login: Option<(&str, &str)>,
        filter: &str,
    ) -> Result<TcpStream> {
        let mut stream = TcpStream::connect(broker).await?;
        // Clean session, no keep alive, no client id.
        let flags = if login.is_some() { 0xc2 } else { 0x02 };
        let mut body = [b"\x00\x04MQTT\x04", &[flags][..], b"\x00\x00\x00\x00"].concat();
        for text in login.iter().flat_map(|(user_name, password)| [user_name, password]) {
            body.extend_from_slice(&u16::try_from(text.len())?.to_be_bytes());
            body.extend_from_slice(text.as_bytes());
        }
        stream.write_all(&[&[0x10, u8::try_from(body.len())?], &body[..]].concat()).await?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack).await?;
        if connack != *b"\x20\x02\x00\x00" {
            bail!("the broker answered CONNECT with {connack:02x?}");
        }
        let mut subscribe = vec![0x82, u8::try_from(5 + filter.len())?, 0, 1];
        subscribe.extend_from_slice(&u16::try_from(filter.len())?.to_be_bytes());
        subscribe.extend_from_slice(filter.as_bytes());
        subscribe.push(0);
        stream.write_all(&subscribe).await?;
        let mut suback = [0; 5];
        stream.read_exact(&mut suback).await?;
        if suback != *b"\x90\x03\x00\x01\x00" {
            bail!("the broker answered SUBSCRIBE with {suback:02x?}");
        }
        Ok(stream)
    }

    /// What it has got, in order.
    #[must_use]
    pub fn heard(&self) -> Vec<Publish> {
        self.lock().clone()
    }

    /// Takes what it has got, in order, and forgets it.
    #[must_use]
    pub fn drain(&self) -> Vec<Publish> {
        std::mem::take(&mut *self.lock())
    }

    /// Has it got a message on `topic`?
    #[must_use]
    pub fn heard_on(&self, topic: &str) -> bool {
        self.lock().iter().any(|publish| publish.topic == topic)
    }

    /// Waits until it has got one that fits.
    ///
    /// # Errors
    /// If none comes within `patience`; says what came instead.
    pub async fn until(
        &self,
        patience: Duration,
        fits: impl Fn(&Publish) -> bool,
    ) -> Result<Publish> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(publish) = self.lock().iter().find(|publish| fits(publish)) {
                return Ok(publish.clone());
            }
            if Instant::now() >= deadline {
                bail!(
                    "the broker did not pass it on within {patience:?}; it passed on: {:#?}",
                    self.heard()
                );
            }
            tokio::time::sleep(TICK).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Publish>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn listen(mut stream: TcpStream, heard: Arc<Mutex<Vec<Publish>>>) {
    let mut reader = Reader::new(Arc::new(Mutex::new(4)));
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        for packet in reader.take(&chunk[..length]) {
            if let Packet::Publish(publish) = packet {
                heard.lock().unwrap_or_else(PoisonError::into_inner).push(publish);
            }
        }
    }
}
