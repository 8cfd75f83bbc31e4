//! Asks the broker every few seconds with a real CONNECT whether it serves: an open port alone says nothing.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flytrap_mqtt::{Version, encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::BrokerCredentials;
use crate::upstream::Upstream;

/// What the last probe found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BrokerState {
    /// None has ended yet.
    #[default]
    Unknown,
    /// It answered with CONNACK.
    Serves,
    /// It did not; the sentence says what happened and what to do.
    Away(String),
}

/// The last probe's outcome, for whoever asks.
#[derive(Debug, Default)]
pub struct BrokerHealth(Mutex<BrokerState>);

impl BrokerHealth {
    /// What the last probe found.
    pub fn state(&self) -> BrokerState {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, state: BrokerState) -> BrokerState {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), state)
    }
}

/// An absent broker is asked again after this long, so that its return is soon seen.
const AWAY_INTERVAL: Duration = Duration::from_secs(1);

/// Probes at once and then each `every`, until `stop`.
pub async fn run(
    upstream: Upstream,
    every: Duration,
    health: &BrokerHealth,
    stop: CancellationToken,
) {
    loop {
        let found = tokio::select! {
            () = stop.cancelled() => return,
            found = probe(&upstream) => found,
        };
        let state = found.map_or_else(BrokerState::Away, |()| BrokerState::Serves);
        let before = health.set(state.clone());
        let pause = if state == BrokerState::Serves { every } else { every.min(AWAY_INTERVAL) };
        match state {
            BrokerState::Serves if before != state => {
                info!(broker = %upstream.address(), "the broker serves")
            }
            BrokerState::Away(why) if !matches!(before, BrokerState::Away(_)) => {
                warn!(broker = %upstream.address(), why, "the broker does not serve");
            }
            _ => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

async fn probe(upstream: &Upstream) -> Result<(), String> {
    let mut broker = upstream.dial().await.map_err(|e| e.to_string())?;
    let waited = upstream.connect_timeout();
    let exchange = async {
        broker.write_all(&connect(upstream.credentials())).await?;
        broker.flush().await?;
        let mut connack = [0; 4];
        broker.read_exact(&mut connack).await?;
        // DISCONNECT, so that the broker does not log a lost client each time.
        broker.write_all(&[0xE0, 0]).await?;
        broker.shutdown().await?;
        Ok::<_, std::io::Error>(connack)
    };
    let connack = match timeout(waited, exchange).await {
        Ok(Ok(connack)) => connack,
        Ok(Err(error)) => {
            return Err(format!(
                "it accepts connections but answers CONNECT with none ({error}): is it an MQTT broker, is TLS as in `broker.tls`?"
            ));
        }
        Err(_) => {
            return Err(format!("it accepts connections but sent no CONNACK within {waited:?}"));
        }
    };
    match (connack, upstream.credentials()) {
        ([0x20, 2, _, 0], _) => Ok(()),
        // Under a wallet's name there is no user for a probe, so any CONNACK is a living broker.
        ([0x20, 2, _, 1..=5], BrokerCredentials::Wallet) => Ok(()),
        ([0x20, 2, _, code @ (4 | 5)], _) => Err(format!(
            "it refuses the gateway (CONNACK code {code}): correct `broker.credentials`, or let the gateway in"
        )),
        ([0x20, 2, _, code], _) => Err(format!("it refuses CONNECT (CONNACK code {code})")),
        (other, _) => Err(format!(
            "its answer to CONNECT is no CONNACK ({other:02x?}): is it an MQTT broker?"
        )),
    }
}

/// CONNECT of MQTT 3.1.1, which every broker speaks, under a client id of its own so that gateways do not end each
/// other's probes.
fn connect(credentials: &BrokerCredentials) -> Vec<u8> {
    let (user_name, password) = match credentials {
        BrokerCredentials::None | BrokerCredentials::Wallet => (None, None),
        BrokerCredentials::Fixed { user_name, password } => {
            (Some(user_name.as_str()), Some(password.expose().as_slice()))
        }
    };
    let client_id = format!("flytrap-probe-{:08x}", rand::random::<u32>());
    let mut packet = Vec::new();
    encode::connect(Version::V311, &client_id, 30, user_name, password, &mut packet);
    packet
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{BrokerConfig, HostPort};

    /// A broker that takes one CONNECT and answers with these octets, and what it read.
    async fn broker(
        answer: &'static [u8],
        credentials: BrokerCredentials,
    ) -> (Upstream, tokio::task::JoinHandle<Vec<u8>>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        let heard = tokio::spawn(async move {
            let (mut client, _) = socket.accept().await.unwrap();
            let mut connect = vec![0; 256];
            let n = client.read(&mut connect).await.unwrap();
            connect.truncate(n);
            client.write_all(answer).await.unwrap();
            let _ = client.shutdown().await;
            connect
        });
        let config = BrokerConfig {
            address: HostPort { host: "127.0.0.1".to_owned(), port },
            tls: None,
            credentials,
            connect_timeout: Duration::from_secs(5),
            probe_interval: Duration::from_secs(5),
        };
        (Upstream::new(&config), heard)
    }

    #[tokio::test]
    async fn only_a_connack_that_accepts_is_a_broker_that_serves() {
        for (answer, word) in [
            (&[0x20, 2, 0, 0][..], None),
            (&[0x20, 2, 0, 5], Some("correct `broker.credentials`")),
            (&[0x20, 2, 0, 3], Some("refuses CONNECT")),
            (b"HTTP/1.1 400", Some("is it an MQTT broker?")),
            (b"", Some("answers CONNECT with none")),
        ] {
            let (upstream, _heard) = broker(answer, BrokerCredentials::None).await;
            match (probe(&upstream).await, word) {
                (Ok(()), None) => {}
                (Err(why), Some(word)) => assert!(why.contains(word), "{why}"),
                (found, _) => panic!("{answer:02x?}: {found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_broker_that_knows_wallets_serves_even_if_it_does_not_know_the_probe() {
        let (upstream, _heard) = broker(&[0x20, 2, 0, 5], BrokerCredentials::Wallet).await;
        assert_eq!(probe(&upstream).await, Ok(()));
    }

    #[tokio::test]
    async fn the_probe_carries_the_fixed_credentials() {
        let password = crate::config::Secret::new(b"hunter2".to_vec());
        let fixed = BrokerCredentials::Fixed { user_name: "gateway".to_owned(), password };
        let (upstream, heard) = broker(&[0x20, 2, 0, 0], fixed).await;
        assert_eq!(probe(&upstream).await, Ok(()));
        let connect = heard.await.unwrap();
        assert!(connect.ends_with(b"\x00\x07gateway\x00\x07hunter2"), "{connect:02x?}");
    }
}
