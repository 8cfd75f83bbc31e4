//! A broker that does what real ones hardly ever do: uses topic aliases, knows no MQTT 5, or sends what no broker may.

use std::net::SocketAddr;

use eyre::Result;
use flytrap_mqtt::frame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// How it takes MQTT 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Five {
    /// As it should, and takes ten topic aliases.
    Speaks,
    /// Hangs up on it, as RabbitMQ did.
    HangsUp,
    /// Answers in the shape of 3.1.1 that it does not know the version.
    Refuses,
}

/// The broker; ends when dropped.
pub struct FakeBroker {
    address: SocketAddr,
    say: broadcast::Sender<Vec<u8>>,
    accept: JoinHandle<()>,
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

impl FakeBroker {
    /// Listens on a free port.
    ///
    /// # Errors
    /// If none can be had.
    pub async fn start(five: Five) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (say, _) = broadcast::channel(64);
        let said = say.clone();
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(serve(client, said.subscribe(), five));
            }
        });
        Ok(Self { address, say, accept })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends octets to every session that is open.
    pub fn say(&self, octets: Vec<u8>) {
        // Nobody may be there to hear it.
        let _ = self.say.send(octets);
    }
}

async fn serve(
    mut client: TcpStream,
    mut said: broadcast::Receiver<Vec<u8>>,
    five: Five,
) -> std::io::Result<()> {
    let (mut pending, mut version) = (Vec::new(), 0);
    loop {
        while let Ok(Some(whole)) = frame(&pending, usize::MAX) {
            let octets = whole.octets().to_vec();
            let body = whole.body().to_vec();
            pending.drain(..octets.len());
            let id = body.get(..2).map_or([0, 0], |id| [id[0], id[1]]);
            let answer = match octets[0] >> 4 {
                1 => {
                    version = body.get(6).copied().unwrap_or_default();
                    match (version, five) {
                        (5, Five::Speaks) => vec![0x20, 6, 0, 0, 3, 0x22, 0, 10],
                        (5, Five::HangsUp) => return Ok(()),
                        (5, Five::Refuses) => {
                            client.write_all(&[0x20, 2, 0, 1]).await?;
                            return Ok(());
                        }
                        _ => vec![0x20, 2, 0, 0],
                    }
                }
                // Each SUBSCRIBE of the tests has one filter.
                8 if version == 5 => vec![0x90, 4, id[0], id[1], 0, 0],
                8 => vec![0x90, 3, id[0], id[1], 0],
                12 => vec![0xd0, 0],
                14 => return Ok(()),
                _ => Vec::new(),
            };
            client.write_all(&answer).await?;
        }
        tokio::select! {
            read = client.read_buf(&mut pending) => if read? == 0 { return Ok(()) },
            Ok(octets) = said.recv() => client.write_all(&octets).await?,
        }
    }
}
