//! A TCP relay that can be shut and opened, and that counts the HTTP requests passing it: before the node, or before the broker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use eyre::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The relay; ends when dropped.
pub struct Relay {
    address: SocketAddr,
    open: watch::Sender<bool>,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    accept: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accept.abort();
    }
}

/// What every request of JSON-RPC over HTTP begins with.
const REQUEST: &[u8] = b"POST / HTTP/1.1";

impl Relay {
    /// Listens on a free port, in front of `target`; while it is not open, connections end as soon as they are made.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn start(target: SocketAddr, open: bool) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (open, state) = watch::channel(open);
        let (requests, connections) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, made) = (requests.clone(), connections.clone());
        let accept = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                made.fetch_add(1, Ordering::Relaxed);
                let (mut state, counted) = (state.clone(), counted.clone());
                if !*state.borrow_and_update() {
                    continue;
                }
                tokio::spawn(async move {
                    tokio::select! {
                        _ = pass(client, target, counted) => {}
                        _ = state.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Ok(Self { address, open, requests, connections, accept })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends all connections, and new ones as soon as they are made.
    pub fn shut(&self) {
        self.open.send_replace(false);
    }

    /// Lets everything pass again.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// HTTP requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

async fn pass(
    client: TcpStream,
    target: SocketAddr,
    counted: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let up = async {
        let (mut chunk, mut tail) = (vec![0; 64 * 1024], Vec::new());
        loop {
            let length = from_client.read(&mut chunk).await?;
            if length == 0 {
                return to_server.shutdown().await;
            }
            // A request line may be cut in two by the network.
            tail.extend_from_slice(&chunk[..length]);
            let found = tail.windows(REQUEST.len()).filter(|window| *window == REQUEST).count();
            counted.fetch_add(found, Ordering::Relaxed);
            let keep = tail.len().saturating_sub(REQUEST.len() - 1);
            tail.drain(..keep);
            to_server.write_all(&chunk[..length]).await?;
        }
    };
    let down = async {
        tokio::io::copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(drop)
}
