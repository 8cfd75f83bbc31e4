//! Connections: bounded in number, in time and in what a request may be.

use std::io;
use std::time::Duration;

use axum::body::Body;
use flytrap_policy::Origin;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Api, follow, guard, router};
use crate::seats::Seats;

/// How long a client may take for the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection lives, so that none is held for ever by one that reads slowly.
const LIFE: Duration = Duration::from_secs(120);
/// Octets of the longest head of a request.
const LONGEST_HEAD: usize = 16 * 1024;
/// One client has no more than one of so many shares of all connections.
const SHARES: usize = 4;
/// Pause after a failed accept, such as for too many open files.
const PAUSE: Duration = Duration::from_millis(200);

impl Api {
    /// Answers, and follows the record and the chain, until `stop`.
    ///
    /// # Errors
    /// If a part of it ends before.
    pub async fn serve(self, socket: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let served = self.0;
        let mut parts = JoinSet::new();
        parts.spawn(follow::follow(served.clone(), stop.clone()));
        parts.spawn({
            let (served, stop) = (served.clone(), stop.clone());
            async move { served.past.run(stop).await }
        });
        let most = served.config.most_connections;
        let seats = Seats::new(most, most.div_ceil(SHARES));
        let trusted = served.config.trusted_peers.clone();
        let router = TowerToHyperService::new(router(served));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = parts.join_next() => {
                    if stop.is_cancelled() { break }
                    return Err(io::Error::other("what follows the record ended"));
                }
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
                accepted = socket.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            // Whoever has no seat is closed unread. A proxy speaks for many.
            let Ok(mut seat) = seats.take() else { continue };
            if !trusted.contains(peer.ip()) && seat.assign(Origin::from(peer.ip())).is_err() {
                continue;
            }
            let router = router.clone();
            connections.spawn(async move {
                let service = service_fn(move |mut request: hyper::Request<Incoming>| {
                    request.extensions_mut().insert(guard::Peer(peer));
                    router.call(request.map(Body::new))
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .max_buf_size(LONGEST_HEAD)
                    .serve_connection(TokioIo::new(stream), service);
                // How it ended is the client's affair.
                let _ = timeout(LIFE, connection).await;
                drop(seat);
            });
        }
        connections.shutdown().await;
        while parts.join_next().await.is_some() {}
        Ok(())
    }
}
