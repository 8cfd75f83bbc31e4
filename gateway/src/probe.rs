//! Asks each broker every few seconds with a real CONNECT whether it serves: an open port alone says nothing.
//!
//! CONNECT is of MQTT 3.1.1, which every broker speaks. Whether it speaks MQTT 5 as well is asked when it comes, and while it does not
//! once a minute: brokers without it hang up, answer in the shape of 3.1.1 or not at all, and log a fault each time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flytrap_mqtt::{FromBroker, Version, encode, frame, read_from_broker, reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::BrokerCredentials;
use crate::upstream::Upstream;
use crate::upstreams::{Broker, BrokerState};

/// An absent broker is asked again after this long, so that its return is soon seen.
const AWAY_INTERVAL: Duration = Duration::from_secs(1);
/// One that does not speak MQTT 5 may have been replaced by one that does.
const SPEAKS_5_INTERVAL: Duration = Duration::from_secs(60);
/// Most octets of a CONNACK that is looked at.
const CONNACK_OCTETS: usize = 4096;

/// Probes at once, then each `every` and whenever a session was not served, until `stop`.
pub async fn run(broker: Arc<Broker>, every: Duration, stop: CancellationToken) {
    let mut asked_5 = None;
    loop {
        let found = tokio::select! {
            () = stop.cancelled() => return,
            found = look(&broker, &mut asked_5) => found,
        };
        let pause = if found.serves() { every } else { every.min(AWAY_INTERVAL) };
        broker.found(found);
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
            // Never faster than this, however many sessions fail.
            () = async { broker.doubted().await; sleep(DOUBT_PAUSE).await } => {}
        }
    }
}

/// Between a session's failure and the probe that it causes.
const DOUBT_PAUSE: Duration = Duration::from_millis(100);

async fn look(broker: &Broker, asked_5: &mut Option<Instant>) -> BrokerState {
    if let Err(why) = probe(&broker.upstream).await {
        return BrokerState::Away(why);
    }
    let known = match broker.state() {
        BrokerState::Serves { speaks_5 } => Some(speaks_5),
        BrokerState::Unknown | BrokerState::Away(_) => None,
    };
    let speaks_5 = match known {
        Some(true) => true,
        Some(false) if asked_5.is_some_and(|at| at.elapsed() < SPEAKS_5_INTERVAL) => false,
        _ => {
            *asked_5 = Some(Instant::now());
            speaks_5(&broker.upstream).await
        }
    };
    BrokerState::Serves { speaks_5 }
}

async fn probe(upstream: &Upstream) -> Result<(), String> {
    let waited = upstream.connect_timeout();
    let connack = match ask(upstream, Version::V311).await? {
        Answer::Octets(connack) => connack,
        Answer::HungUp(why) => {
            return Err(format!(
                "it accepts connections but answers CONNECT with none ({why}): is it an MQTT broker, is TLS as in `broker.tls`?"
            ));
        }
        Answer::Silence => {
            return Err(format!("it accepts connections but sent no CONNACK within {waited:?}"));
        }
    };
    match (connack.as_slice(), upstream.credentials()) {
        ([0x20, 2, _, 0], _) => Ok(()),
        // Under a wallet's or client's name there is no user for a probe, so any CONNACK is a living broker.
        ([0x20, 2, _, 1..=5], BrokerCredentials::Wallet | BrokerCredentials::Client) => Ok(()),
        ([0x20, 2, _, code @ (4 | 5)], _) => Err(format!(
            "it refuses the gateway (CONNACK code {code}): correct `broker.credentials`, or let the gateway in"
        )),
        ([0x20, 2, _, code], _) => Err(format!("it refuses CONNECT (CONNACK code {code})")),
        (other, _) => {
            let other = &other[..other.len().min(16)];
            Err(format!(
                "its answer to CONNECT is no CONNACK ({other:02x?}): is it an MQTT broker?"
            ))
        }
    }
}

/// Whether a broker that speaks 3.1.1 answers CONNECT of MQTT 5 in its shape, accepting or not.
async fn speaks_5(upstream: &Upstream) -> bool {
    let Ok(Answer::Octets(octets)) = ask(upstream, Version::V5).await else { return false };
    let Ok(Some(frame)) = frame(&octets, CONNACK_OCTETS) else { return false };
    match read_from_broker(Version::V5, frame) {
        Ok(FromBroker::ConnAck(connack)) => connack.code != reason::UNSUPPORTED_PROTOCOL_VERSION,
        _ => false,
    }
}

/// What came back.
enum Answer {
    /// A first packet, or the beginning of what is none.
    Octets(Vec<u8>),
    /// The connection ended first.
    HungUp(std::io::Error),
    /// Nothing.
    Silence,
}

async fn ask(upstream: &Upstream, version: Version) -> Result<Answer, String> {
    let mut broker = upstream.dial(None).await.map_err(|e| e.to_string())?;
    let exchange = async {
        broker.write_all(&connect(version, upstream.credentials())).await?;
        broker.flush().await?;
        let mut octets = Vec::new();
        // The first four octets tell what it is; only a CONNACK of MQTT 5 goes on.
        let is_partial =
            |octets: &[u8]| octets[0] == 0x20 && matches!(frame(octets, CONNACK_OCTETS), Ok(None));
        while octets.len() < 4 || is_partial(&octets) {
            if broker.read_buf(&mut octets).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        // DISCONNECT, so that the broker does not log a lost client each time. What comes of it says nothing.
        let _ = broker.write_all(&[0xE0, 0]).await;
        let _ = broker.shutdown().await;
        Ok::<_, std::io::Error>(octets)
    };
    Ok(match timeout(upstream.connect_timeout(), exchange).await {
        Ok(Ok(octets)) => Answer::Octets(octets),
        Ok(Err(error)) => Answer::HungUp(error),
        Err(_) => Answer::Silence,
    })
}

/// CONNECT under a client id of its own, so that gateways do not end each other's probes.
fn connect(version: Version, credentials: &BrokerCredentials) -> Vec<u8> {
    let (user_name, password) = match credentials {
        BrokerCredentials::None | BrokerCredentials::Wallet | BrokerCredentials::Client => {
            (None, None)
        }
        BrokerCredentials::Fixed { user_name, password } => {
            (Some(user_name.as_str()), Some(password.expose().as_slice()))
        }
    };
    let client_id = format!("flytrap-probe-{:08x}", rand::random::<u32>());
    let mut packet = Vec::new();
    encode::connect(version, &client_id, 30, user_name, password, &mut packet);
    packet
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::TcpListener;

    use super::*;
    use crate::config::BrokerConfig;
    use crate::upstreams::Upstreams;

    /// A broker that answers one CONNECT after the other with these octets, and what it read first.
    async fn broker(
        answers: &'static [&'static [u8]],
        credentials: BrokerCredentials,
    ) -> (Arc<Broker>, tokio::task::JoinHandle<Vec<u8>>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let heard = tokio::spawn(async move {
            let mut first = Vec::new();
            for answer in answers {
                let (mut client, _) = socket.accept().await.unwrap();
                let mut connect = vec![0; 256];
                let n = client.read(&mut connect).await.unwrap();
                connect.truncate(n);
                client.write_all(answer).await.unwrap();
                let _ = client.shutdown().await;
                if first.is_empty() {
                    first = connect;
                }
            }
            first
        });
        let config = BrokerConfig { credentials, ..BrokerConfig::for_tests(&[&address]) };
        (Upstreams::new(&config).all()[0].clone(), heard)
    }

    #[tokio::test]
    async fn only_a_connack_that_accepts_is_a_broker_that_serves() {
        let cases: [(&'static [&'static [u8]], _); 5] = [
            (&[&[0x20, 2, 0, 0]], None),
            (&[&[0x20, 2, 0, 5]], Some("correct `broker.credentials`")),
            (&[&[0x20, 2, 0, 3]], Some("refuses CONNECT")),
            (&[b"HTTP/1.1 400"], Some("is it an MQTT broker?")),
            (&[b""], Some("answers CONNECT with none")),
        ];
        for (answers, word) in cases {
            let (broker, _heard) = broker(answers, BrokerCredentials::None).await;
            match (probe(&broker.upstream).await, word) {
                (Ok(()), None) => {}
                (Err(why), Some(word)) => assert!(why.contains(word), "{why}"),
                (found, _) => panic!("{answers:02x?}: {found:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_broker_that_knows_wallets_serves_even_if_it_does_not_know_the_probe() {
        let (broker, _heard) = broker(&[&[0x20, 2, 0, 5]], BrokerCredentials::Wallet).await;
        assert_eq!(probe(&broker.upstream).await, Ok(()));
    }

    #[tokio::test]
    async fn the_probe_carries_the_fixed_credentials() {
        let password = crate::config::Secret::new(b"hunter2".to_vec());
        let fixed = BrokerCredentials::Fixed { user_name: "gateway".to_owned(), password };
        let (broker, heard) = broker(&[&[0x20, 2, 0, 0]], fixed).await;
        assert_eq!(probe(&broker.upstream).await, Ok(()));
        let connect = heard.await.unwrap();
        assert!(connect.ends_with(b"\x00\x07gateway\x00\x07hunter2"), "{connect:02x?}");
    }

    /// As real brokers answer: Mosquitto, one that refuses the probe, aedes, RabbitMQ 3.10, Moquette 0.17, and one that says 0x84.
    #[tokio::test]
    async fn mqtt_5_is_spoken_by_whoever_answers_it_in_its_shape() {
        const ACCEPTS: &[u8] = &[0x20, 2, 0, 0];
        let cases: [(&'static [&'static [u8]], bool); 6] = [
            (&[ACCEPTS, &[0x20, 9, 0, 0, 6, 0x22, 0, 10, 0x21, 0, 20]], true),
            (&[ACCEPTS, &[0x20, 3, 0, 0x87, 0]], true),
            (&[ACCEPTS, &[0x20, 2, 0, 1]], false),
            (&[ACCEPTS, b""], false),
            (&[ACCEPTS, &[0x20, 3, 0, 1, 0]], false),
            (&[ACCEPTS, &[0x20, 3, 0, 0x84, 0]], false),
        ];
        for (answers, speaks_5) in cases {
            let (broker, _heard) = broker(answers, BrokerCredentials::None).await;
            let found = look(&broker, &mut None).await;
            assert_eq!(found, BrokerState::Serves { speaks_5 }, "{answers:02x?}");
        }
    }

    #[tokio::test]
    async fn what_was_found_about_mqtt_5_is_not_asked_again_at_each_probe() {
        let (broker, heard) =
            broker(&[&[0x20, 2, 0, 0], b"", &[0x20, 2, 0, 0]], BrokerCredentials::None).await;
        let mut asked = None;
        for _ in 0..2 {
            let found = look(&broker, &mut asked).await;
            assert_eq!(found, BrokerState::Serves { speaks_5: false });
            broker.found(found);
        }
        heard.await.unwrap();
        assert!(!look(&broker, &mut asked).await.serves());
    }

    #[tokio::test]
    async fn a_session_that_was_not_served_wakes_the_probe() {
        let answers: &'static [&'static [u8]] = &[&[0x20, 2, 0, 0], b"", &[0x20, 2, 0, 0], b""];
        let (broker, heard) = broker(answers, BrokerCredentials::None).await;
        let stop = CancellationToken::new();
        let probing = tokio::spawn(run(broker.clone(), Duration::from_secs(3600), stop.clone()));
        let serves = async || {
            while !broker.state().serves() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(5), serves()).await.unwrap();
        broker.failed("it was black-holed");
        assert!(!broker.state().serves());
        timeout(Duration::from_secs(5), serves()).await.unwrap();
        heard.await.unwrap();
        stop.cancel();
        probing.await.unwrap();
    }
}
