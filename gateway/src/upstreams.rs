//! All ways to the broker: which of them serve, and which one a session is given.
//!
//! Each address is asked by the [probe](crate::probe); what a session finds out by itself counts at once. Every session has an order of
//! preference of its own that depends on its client id and on nothing that changes, so that a session kept at the broker is found again
//! by whichever gateway the client comes through, and clients spread evenly. It goes to the first that serves.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy_primitives::keccak256;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::config::{BrokerConfig, BrokerCredentials};
use crate::upstream::Upstream;

/// What is known of a broker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BrokerState {
    /// It has not been asked yet.
    #[default]
    Unknown,
    /// It answered with CONNACK.
    Serves {
        /// Whether it answered MQTT 5 as well.
        speaks_5: bool,
    },
    /// It did not; the sentence says what happened and what to do.
    Away(String),
}

impl BrokerState {
    /// Whether sessions should go there.
    pub fn serves(&self) -> bool {
        matches!(self, Self::Serves { .. })
    }
}

/// One address of the broker, how it is, and what it carries.
#[derive(Debug)]
pub struct Broker {
    /// The way there.
    pub upstream: Upstream,
    state: Mutex<BrokerState>,
    /// Wakes its probe.
    doubt: Notify,
    sessions: Arc<AtomicU64>,
}

impl Broker {
    fn new(upstream: Upstream) -> Self {
        let (state, doubt, sessions) = (Mutex::default(), Notify::new(), Arc::default());
        Self { upstream, state, doubt, sessions }
    }

    /// What is known of it.
    pub fn state(&self) -> BrokerState {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes note of what was found. Only changes are told.
    pub fn found(&self, state: BrokerState) {
        let mut known = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, state.clone());
        drop(known);
        let broker = self.upstream.label();
        match state {
            BrokerState::Serves { speaks_5 } if before != state => {
                info!(%broker, mqtt5 = speaks_5, "the broker serves");
            }
            BrokerState::Away(why) if !matches!(before, BrokerState::Away(_)) => {
                warn!(%broker, why, "the broker does not serve");
            }
            _ => {}
        }
    }

    /// A session was not served: others go elsewhere until the probe, which asks at once, has found otherwise.
    pub fn failed(&self, why: &str) {
        self.found(BrokerState::Away(why.to_owned()));
        self.doubt.notify_one();
    }

    /// Waits until a session was not served.
    pub async fn doubted(&self) {
        self.doubt.notified().await;
    }

    /// Sessions that it carries.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Counts a session while what is returned lives.
    pub fn carry(&self) -> Carried {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Carried(self.sessions.clone())
    }
}

/// A session that a broker carries.
#[derive(Debug)]
pub struct Carried(Arc<AtomicU64>);

impl Drop for Carried {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Every address of the broker; at least one.
#[derive(Debug)]
pub struct Upstreams {
    all: Vec<Arc<Broker>>,
    credentials: BrokerCredentials,
    connect_timeout: Duration,
}

impl Upstreams {
    /// As the configuration says.
    pub fn new(config: &BrokerConfig) -> Self {
        let broker = |to| Arc::new(Broker::new(Upstream::new(config, to)));
        Self {
            all: config.addresses.iter().map(broker).collect(),
            credentials: config.credentials.clone(),
            connect_timeout: config.connect_timeout,
        }
    }

    /// All of them, in the order of the configuration.
    pub fn all(&self) -> &[Arc<Broker>] {
        &self.all
    }

    /// What goes into CONNECT towards each of them.
    pub fn credentials(&self) -> &BrokerCredentials {
        &self.credentials
    }

    /// How long to wait for one of them, for TCP and TLS together and once more for its CONNACK.
    pub fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// In which order to try them for the session with this client id (as the broker is told it). None of those that are known not to
    /// speak MQTT 5 if the session does.
    pub fn for_session(&self, client_id: &str, is_v5: bool) -> Vec<&Arc<Broker>> {
        let rank = |broker: &Broker| match broker.state() {
            BrokerState::Serves { speaks_5 } if is_v5 && !speaks_5 => None,
            BrokerState::Serves { .. } => Some(0),
            BrokerState::Unknown => Some(1),
            BrokerState::Away(_) => Some(2),
        };
        let mut ranked: Vec<_> = self
            .all
            .iter()
            .filter_map(|broker| {
                Some(((rank(broker)?, Reverse(weight(broker, client_id))), broker))
            })
            .collect();
        ranked.sort_by_key(|(key, _)| *key);
        ranked.into_iter().map(|(_, broker)| broker).collect()
    }
}

/// The broker with the highest weight is preferred. If one is added or removed, only its own share of sessions moves (rendezvous hashing).
fn weight(broker: &Broker, client_id: &str) -> [u8; 32] {
    keccak256([broker.upstream.label().as_bytes(), &[0], client_id.as_bytes()].concat()).0
}

#[cfg(test)]
impl Upstreams {
    /// With these addresses, plain, no credentials.
    pub(crate) fn for_tests(addresses: &[&str]) -> Self {
        Self::new(&BrokerConfig::for_tests(addresses))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR: [&str; 4] = ["a:1", "b:1", "c:1", "d:1"];
    const SERVES: BrokerState = BrokerState::Serves { speaks_5: true };

    fn away() -> BrokerState {
        BrokerState::Away("gone".to_owned())
    }

    fn order(upstreams: &Upstreams, client_id: &str) -> Vec<String> {
        let brokers = upstreams.for_session(client_id, false);
        brokers.into_iter().map(|broker| broker.upstream.label().to_string()).collect()
    }

    #[test]
    fn a_client_id_has_one_order_of_preference_whatever_the_order_in_the_file() {
        let mut other = FOUR;
        other.reverse();
        let (upstreams, other) = (Upstreams::for_tests(&FOUR), Upstreams::for_tests(&other));
        let mut first = std::collections::HashMap::<String, u32>::new();
        for n in 0..1000 {
            let client_id = format!("wallet-{n}");
            let found = order(&upstreams, &client_id);
            assert_eq!(found, order(&other, &client_id), "{client_id}");
            *first.entry(found[0].clone()).or_default() += 1;
        }
        assert_eq!(first.len(), 4);
        assert!(first.values().all(|count| (200..300).contains(count)), "{first:?}");
    }

    #[test]
    fn when_one_goes_away_only_its_sessions_move_and_they_come_back_with_it() {
        let upstreams = Upstreams::for_tests(&FOUR);
        for broker in upstreams.all() {
            broker.found(SERVES);
        }
        let ids: Vec<String> = (0..200).map(|n| format!("wallet-{n}")).collect();
        let before: Vec<_> = ids.iter().map(|id| order(&upstreams, id)).collect();
        upstreams.all()[1].failed("gone");
        for (id, before) in ids.iter().zip(&before) {
            let mut wanted = before.clone();
            wanted.retain(|label| label != "b:1");
            wanted.push("b:1".to_owned());
            assert_eq!(&order(&upstreams, id), &wanted, "{id}");
        }
        upstreams.all()[1].found(SERVES);
        assert_eq!(ids.iter().map(|id| order(&upstreams, id)).collect::<Vec<_>>(), before);
    }

    #[test]
    fn who_serves_comes_before_who_was_not_asked_and_who_is_away_comes_last() {
        let upstreams = Upstreams::for_tests(&FOUR);
        upstreams.all()[2].found(SERVES);
        upstreams.all()[0].found(away());
        let found = order(&upstreams, "x");
        assert_eq!((found[0].as_str(), found[3].as_str()), ("c:1", "a:1"));
    }

    #[test]
    fn a_session_of_mqtt_5_is_not_sent_to_a_broker_without_it() {
        let upstreams = Upstreams::for_tests(&FOUR[..2]);
        upstreams.all()[0].found(BrokerState::Serves { speaks_5: false });
        let labels = |is_v5| upstreams.for_session("x", is_v5).len();
        assert_eq!((labels(false), labels(true)), (2, 1));
        upstreams.all()[1].found(BrokerState::Serves { speaks_5: false });
        assert_eq!((labels(false), labels(true)), (2, 0));
    }

    #[test]
    fn a_session_counts_as_carried_until_it_ends() {
        let upstreams = Upstreams::for_tests(&FOUR[..1]);
        let broker = &upstreams.all()[0];
        let (one, two) = (broker.carry(), broker.carry());
        assert_eq!(broker.sessions(), 2);
        drop((one, two));
        assert_eq!(broker.sessions(), 0);
    }
}
