//! How the gateway is, over HTTP: `/healthz` (does it live), `/readyz` (should clients be sent here), `/metrics`.
//!
//! A part that ended though it should run for ever takes both with it: nothing here says "well" because nobody looked.
//! Answers carry no URL and no address of a client; details for operators are in the log.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flytrap_chain::{Alarm, ChainHealth, NodeHealth, SubmitterHealth};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::mirror::Mirror;
use crate::upstreams::{Broker, BrokerState, Upstreams};

/// What health is judged by.
#[derive(Debug)]
pub struct Vitals {
    /// The mirror, which must be fresh.
    pub mirror: Arc<Mirror>,
    /// The follower's own account.
    pub chain: Arc<ChainHealth>,
    /// The brokers, of which one must serve.
    pub upstreams: Arc<Upstreams>,
    /// The submitter's own account, where there is one.
    pub submitter: Option<Arc<SubmitterHealth>>,
    /// Cancelled when the gateway stops: it then wants no more clients.
    pub stop: CancellationToken,
    ended: Mutex<Vec<&'static str>>,
}

/// Whether clients should be sent here, and what speaks against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// All checks are well.
    pub ready: bool,
    /// Each of them.
    pub checks: Vec<Check>,
    /// What an operator has to see to, though clients are served all the same.
    pub alarms: Vec<String>,
}

/// One thing that must be well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// Whether it is.
    pub ok: bool,
    /// What was found.
    pub detail: String,
}

impl Vitals {
    /// Nothing has ended yet.
    pub fn new(
        mirror: Arc<Mirror>,
        chain: Arc<ChainHealth>,
        upstreams: Arc<Upstreams>,
        submitter: Option<Arc<SubmitterHealth>>,
        stop: CancellationToken,
    ) -> Self {
        Self { mirror, chain, upstreams, submitter, stop, ended: Mutex::default() }
    }

    /// A part that should run as long as the gateway has ended.
    pub fn part_ended(&self, name: &'static str) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push(name);
    }

    /// What only a new process heals.
    fn fatal(&self) -> Option<String> {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if !ended.is_empty() {
            return Some(format!("ended by a fault: {}", ended.join(", ")));
        }
        let stuck = "the follower of the chain stands still and cannot be ended";
        self.chain.is_stuck().then(|| stuck.to_owned())
    }

    /// Looks at everything.
    pub fn readiness(&self) -> Readiness {
        let fitness = self.mirror.fitness();
        let mirror = if fitness.admits() {
            format!("fresh at height {}", self.chain.height())
        } else {
            let seen = match (self.chain.distrusted(), self.chain.last_seen()) {
                (Some(why), _) => why,
                (None, Some(seen)) => {
                    format!("the node last answered {} s ago", seen.elapsed().as_secs())
                }
                (None, None) => "no node has answered fully yet".to_owned(),
            };
            format!("{}: {seen}; new sessions are refused", fitness.word())
        };
        let brokers = self.upstreams.all();
        let told: Vec<_> = brokers.iter().map(|broker| told(broker)).collect();
        let serves = brokers.iter().any(|broker| broker.state().serves());
        let follows = self.chain.is_running();
        let fatal = self.fatal();
        let parts = if let Some(fault) = &fatal {
            format!("{fault}; restart the gateway")
        } else if follows {
            "all run".to_owned()
        } else {
            "the follower of the chain does not run; it is started again".to_owned()
        };
        let stopping = self.stop.is_cancelled();
        let checks = vec![
            Check { name: "mirror", ok: fitness.admits(), detail: mirror },
            Check { name: "broker", ok: serves, detail: told.join("; ") },
            Check { name: "parts", ok: fatal.is_none() && follows, detail: parts },
            Check {
                name: "running",
                ok: !stopping,
                detail: if stopping { "stopping" } else { "running" }.to_owned(),
            },
        ];
        let submitter = self.submitter.iter().flat_map(|submitter| submitter.alarms());
        let submitter = submitter.map(|(alarm, detail)| format!("{}: {detail}", alarm.sentence()));
        let alarms = self.chain.alarm().into_iter().chain(submitter).collect();
        Readiness { ready: checks.iter().all(|check| check.ok), checks, alarms }
    }
}

/// How a broker is, in words.
fn told(broker: &Broker) -> String {
    let how = match broker.state() {
        BrokerState::Serves { speaks_5: true } => "answers CONNECT".to_owned(),
        BrokerState::Serves { speaks_5: false } => "answers CONNECT, not of MQTT 5".to_owned(),
        BrokerState::Unknown => "not asked yet".to_owned(),
        BrokerState::Away(why) => why,
    };
    format!("{}: {how}", broker.upstream.label())
}

/// What the answers are made from.
#[derive(Clone)]
struct Served {
    vitals: Arc<Vitals>,
    registry: Arc<Registry>,
}

/// Serves until `stop`.
///
/// # Errors
/// Those of the socket.
pub async fn serve(
    socket: TcpListener,
    vitals: Arc<Vitals>,
    registry: Registry,
    stop: CancellationToken,
) -> io::Result<()> {
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Served { vitals, registry: Arc::new(registry) });
    let serving =
        axum::serve(socket, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = async { serving.await } => served,
        // A client that keeps its connection open must not keep the gateway from ending.
        () = async { stop.cancelled().await; tokio::time::sleep(Duration::from_millis(500)).await } => Ok(()),
    }
}

async fn healthz(State(served): State<Served>) -> Response {
    match served.vitals.fatal() {
        None => (StatusCode::OK, "alive\n".to_owned()),
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, format!("{fault}\n")),
    }
    .into_response()
}

async fn readyz(State(served): State<Served>) -> Response {
    let readiness = served.vitals.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(readiness)).into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &served.registry) {
        Ok(()) => (
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        )
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Numbers that others keep, read when they are asked for.
#[derive(Debug)]
pub struct VitalsCollector(pub Arc<Vitals>);

impl Collector for VitalsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Vitals { mirror, chain, upstreams, submitter, .. } = &*self.0;
        let is_fresh = mirror.fitness().admits();
        let age = chain.last_seen().map_or(f64::INFINITY, |seen| seen.elapsed().as_secs_f64());
        let age = ConstGauge::new(age);
        let help = "Since a node last confirmed the mirror";
        age.encode(encoder.encode_descriptor(
            "mirror_age_seconds",
            help,
            None,
            age.metric_type(),
        )?)?;
        gauges(
            &mut encoder,
            &[
                ("mirror_height", "Height of the newest block in the mirror", chain.height()),
                (
                    "mirror_settled_height",
                    "Height of the block up to which permissions count",
                    chain.settled_height(),
                ),
                (
                    "mirror_last_reorg_blocks",
                    "Depth of the last reorganisation",
                    chain.last_reorg(),
                ),
                (
                    "mirror_deepest_reorg_blocks",
                    "Depth of the deepest reorganisation",
                    chain.deepest_reorg(),
                ),
                (
                    "mirror_trusted",
                    "0 while what nodes say makes the mirror worthless",
                    chain.distrusted().is_none().into(),
                ),
                (
                    "mirror_snapshot_height",
                    "Height of the block that the snapshot on disk is of",
                    chain.snapshot_height(),
                ),
                (
                    "mirror_lag_blocks",
                    "Blocks that the node has and the mirror has not",
                    chain.lag(),
                ),
                ("mirror_version", "Changes of the mirror's state", mirror.version()),
                ("mirror_fresh", "1 if new sessions are admitted", is_fresh.into()),
            ],
        )?;
        counters(
            &mut encoder,
            &[
                ("mirror_reorgs", "Reorganisations followed", chain.reorgs()),
                ("mirror_resyncs", "Times the mirror was built again", chain.resyncs()),
                ("rpc_errors", "Looks at the chain that failed", chain.errors()),
                (
                    "rpc_contradictions",
                    "Answers that contradicted each other, their proof or the state",
                    chain.inconsistent(),
                ),
                (
                    "quorum_disagreements",
                    "Times that no second node agreed and one contradicted",
                    chain.disagreements(),
                ),
                ("node_switches", "Times that a node was given up", chain.reconnects()),
                (
                    "follower_restarts",
                    "Times that the follower was started again after a fault of its own",
                    chain.starts().saturating_sub(1),
                ),
                ("snapshots_written", "Snapshots written", chain.snapshots_written()),
                ("snapshots_failed", "Snapshots not written", chain.snapshots_failed()),
                ("snapshots_refused", "Snapshots found worthless", chain.snapshots_refused()),
                (
                    "logs_undecodable",
                    "Logs of the contracts that could not be decoded",
                    chain.undecodable(),
                ),
            ],
        )?;
        per_broker(
            &mut encoder,
            upstreams,
            ("broker_up", "1 if the broker answered when it was last asked"),
            |broker| broker.state().serves().into(),
        )?;
        per_broker(
            &mut encoder,
            upstreams,
            ("broker_mqtt5", "1 if the broker speaks MQTT 5"),
            |broker| matches!(broker.state(), BrokerState::Serves { speaks_5: true }).into(),
        )?;
        per_broker(
            &mut encoder,
            upstreams,
            ("broker_sessions", "Sessions that the broker carries for this gateway"),
            Broker::sessions,
        )?;
        let counter_type = ConstCounter::new(0_u64).metric_type();
        let help = "What went wrong with a node";
        let mut family = encoder.encode_descriptor("node_errors", help, None, counter_type)?;
        for node in chain.nodes() {
            ConstCounter::new(node.errors())
                .encode(family.encode_family(&[("node", node.label())])?)?;
        }
        per_node(&mut encoder, chain, ("node_height", "Height of the node's head"), |node| {
            node.height()
        })?;
        per_node(
            &mut encoder,
            chain,
            ("node_in_use", "1 for the node that is followed"),
            |node| node.is_in_use().into(),
        )?;
        let help = "Requests to nodes by method";
        let mut family = encoder.encode_descriptor("rpc_requests", help, None, counter_type)?;
        let of_submitter = submitter.iter().flat_map(|submitter| submitter.requests());
        let mut requests = BTreeMap::<&str, u64>::new();
        for (method, count) in chain.requests().chain(of_submitter) {
            *requests.entry(method).or_default() += count;
        }
        for (method, count) in requests {
            ConstCounter::new(count).encode(family.encode_family(&[("method", method)])?)?;
        }
        let Some(submitter) = submitter else { return Ok(()) };
        gauges(
            &mut encoder,
            &[
                ("submitter_bans_queued", "Bans that wait for the chain", submitter.queued_bans()),
                (
                    "submitter_alerts_queued",
                    "Alerts that wait for the chain",
                    submitter.queued_alerts(),
                ),
                ("submitter_gas_today", "Gas used today (UTC)", submitter.gas_today()),
                ("submitter_gwei_today", "Gwei paid today (UTC)", submitter.gwei_today()),
                (
                    "submitter_balance_gwei",
                    "Gwei in the wallet before the newest transaction",
                    submitter.balance_gwei(),
                ),
            ],
        )?;
        per_alarm(&mut encoder, submitter)?;
        counters(
            &mut encoder,
            &[
                ("transactions_sent", "Transactions handed to a node", submitter.sent()),
                ("transactions_confirmed", "Transactions deep enough", submitter.confirmed()),
                ("transactions_replaced", "Replacements by dearer ones", submitter.replaced()),
                (
                    "transactions_failed",
                    "Transactions that failed or were refused",
                    submitter.failed(),
                ),
                (
                    "submitter_dropped",
                    "Happenings of alerts that found no place",
                    submitter.dropped(),
                ),
                (
                    "submitter_expired",
                    "Bans that ended before they got on chain",
                    submitter.expired(),
                ),
                (
                    "submitter_superseded",
                    "Bans that were on chain already, by someone else",
                    submitter.superseded(),
                ),
                (
                    "submitter_set_aside",
                    "Files that were damaged or that the contracts refuse",
                    submitter.refused(),
                ),
                (
                    "transactions_orphaned",
                    "Confirmed transactions that were orphaned and sent again",
                    submitter.orphaned(),
                ),
            ],
        )
    }
}

/// Which alarms are on, and how often each went on.
fn per_alarm(encoder: &mut DescriptorEncoder<'_>, submitter: &SubmitterHealth) -> fmt::Result {
    let on = submitter.alarms();
    let help = "1 if an operator has to see to it";
    let gauge_type = ConstGauge::new(0_i64).metric_type();
    let mut family = encoder.encode_descriptor("submitter_alarm", help, None, gauge_type)?;
    for alarm in Alarm::ALL {
        let gauge = ConstGauge::new(i64::from(on.iter().any(|(known, _)| *known == alarm)));
        gauge.encode(family.encode_family(&[("alarm", alarm.word())])?)?;
    }
    let help = "How often each alarm went on";
    let counter_type = ConstCounter::new(0_u64).metric_type();
    let mut family =
        encoder.encode_descriptor("submitter_alarms_raised", help, None, counter_type)?;
    for alarm in Alarm::ALL {
        let counter = ConstCounter::new(submitter.raised(alarm));
        counter.encode(family.encode_family(&[("alarm", alarm.word())])?)?;
    }
    Ok(())
}

/// One gauge with scheme, host and port of the node as its label.
fn per_node(
    encoder: &mut DescriptorEncoder<'_>,
    chain: &ChainHealth,
    (name, help): (&str, &str),
    of: impl Fn(&NodeHealth) -> u64,
) -> fmt::Result {
    let gauge_type = ConstGauge::new(0_i64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, gauge_type)?;
    for node in chain.nodes() {
        let gauge = ConstGauge::new(i64::try_from(of(node)).unwrap_or(i64::MAX));
        gauge.encode(family.encode_family(&[("node", node.label())])?)?;
    }
    Ok(())
}

/// One gauge with the broker's address as its label.
fn per_broker(
    encoder: &mut DescriptorEncoder<'_>,
    upstreams: &Upstreams,
    (name, help): (&str, &str),
    of: impl Fn(&Broker) -> u64,
) -> fmt::Result {
    let gauge_type = ConstGauge::new(0_i64).metric_type();
    let mut family = encoder.encode_descriptor(name, help, None, gauge_type)?;
    for broker in upstreams.all() {
        let gauge = ConstGauge::new(i64::try_from(of(broker)).unwrap_or(i64::MAX));
        gauge.encode(family.encode_family(&[("broker", &**broker.upstream.label())])?)?;
    }
    Ok(())
}

type Numbers<'a> = &'a [(&'static str, &'static str, u64)];

fn gauges(encoder: &mut DescriptorEncoder<'_>, numbers: Numbers<'_>) -> fmt::Result {
    for (name, help, number) in numbers {
        let gauge = ConstGauge::new(i64::try_from(*number).unwrap_or(i64::MAX));
        gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
    }
    Ok(())
}

fn counters(encoder: &mut DescriptorEncoder<'_>, numbers: Numbers<'_>) -> fmt::Result {
    for (name, help, number) in numbers {
        let counter = ConstCounter::new(*number);
        counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
    }
    Ok(())
}

/// Why a gateway is not ready, as seen from outside.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The argument.
    #[error("`{0}` is no health address, wanted host:port or http://host:port/path")]
    Address(String),
    /// The connection, or an answer that is none.
    #[error(
        "no answer from {address}: {error}; is the gateway running, is `health.bind` that address?"
    )]
    NoAnswer {
        /// Whom was asked.
        address: String,
        /// What happened.
        error: io::Error,
    },
    /// It answered, and not with 200.
    #[error("not ready (HTTP {status}): {body}")]
    NotReady {
        /// HTTP status.
        status: u16,
        /// The answer.
        body: String,
    },
}

/// Asks a gateway whether it is ready: for `flytrap-gateway health`, which a container without a shell or curl can run.
///
/// # Errors
/// Anything but 200 within `patience`.
pub fn ask(target: &str, patience: Duration) -> Result<String, AskError> {
    use std::io::{Read as _, Write as _};
    use std::net::ToSocketAddrs as _;
    let rest = target.strip_prefix("http://").unwrap_or(target);
    let (host, path) = rest.split_once('/').map_or((rest, "readyz"), |(host, path)| {
        (host, if path.is_empty() { "readyz" } else { path })
    });
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if target.starts_with("https://") || !host.contains(':') || !plain(host) || !plain(path) {
        return Err(AskError::Address(target.to_owned()));
    }
    let no_answer = |error: io::Error| AskError::NoAnswer { address: host.to_owned(), error };
    let exchange = || {
        let address: SocketAddr = host
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let mut socket = std::net::TcpStream::connect_timeout(&address, patience)?;
        socket.set_read_timeout(Some(patience))?;
        socket.set_write_timeout(Some(patience))?;
        write!(socket, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        socket.take(64 * 1024).read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = exchange().map_err(no_answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse::<u16>().ok());
    let status = status.ok_or_else(|| no_answer(io::Error::other("its answer is no HTTP")))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body).trim().to_owned();
    if status == 200 { Ok(body) } else { Err(AskError::NotReady { status, body }) }
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, U256};
    use flytrap_chain::{Deployment, Follower, FollowerConfig};
    use flytrap_policy::Options;

    use super::*;
    use crate::config::ChainConfig;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn vitals() -> Arc<Vitals> {
        let (mirror, _writer) = Mirror::new(&ChainConfig::for_tests(), Options::default());
        let stop = CancellationToken::new();
        let upstreams = Arc::new(Upstreams::for_tests(&["127.0.0.1:1", "127.0.0.1:2"]));
        Arc::new(Vitals::new(mirror, Arc::default(), upstreams, None, stop))
    }

    /// Serves on a free port until the test ends.
    async fn served(vitals: Arc<Vitals>) -> String {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let mut registry = Registry::with_prefix("flytrap");
        registry.register_collector(Box::new(VitalsCollector(vitals.clone())));
        tokio::spawn(serve(socket, vitals, registry, CancellationToken::new()));
        address
    }

    async fn asked(target: String) -> Result<String, AskError> {
        tokio::task::spawn_blocking(move || ask(&target, PATIENCE)).await.unwrap()
    }

    fn check<'a>(readiness: &'a Readiness, name: &str) -> &'a Check {
        readiness.checks.iter().find(|check| check.name == name).unwrap()
    }

    #[test]
    fn a_gateway_that_has_seen_nothing_yet_is_not_ready_and_says_of_what() {
        let readiness = vitals().readiness();
        assert!(!readiness.ready);
        assert!(!check(&readiness, "mirror").ok && !check(&readiness, "broker").ok);
        assert!(check(&readiness, "running").ok);
        assert!(check(&readiness, "parts").detail.contains("does not run"));
    }

    #[test]
    fn one_broker_that_serves_is_enough_and_each_is_told() {
        let vitals = vitals();
        let broker = |n: usize| &vitals.upstreams.all()[n];
        broker(0).found(BrokerState::Away("gone".to_owned()));
        assert!(!check(&vitals.readiness(), "broker").ok);
        broker(1).found(BrokerState::Serves { speaks_5: true });
        let readiness = vitals.readiness();
        let told = check(&readiness, "broker");
        assert!(told.ok, "{told:?}");
        assert_eq!(told.detail, "127.0.0.1:1: gone; 127.0.0.1:2: answers CONNECT");
        broker(1).failed("gone as well");
        assert!(!check(&vitals.readiness(), "broker").ok);
    }

    #[test]
    fn a_part_that_ended_and_a_stop_are_told() {
        let vitals = vitals();
        vitals.part_ended("follower");
        vitals.stop.cancel();
        let readiness = vitals.readiness();
        assert!(!check(&readiness, "parts").ok);
        assert!(check(&readiness, "parts").detail.contains("follower"));
        assert!(!check(&readiness, "running").ok);
    }

    #[tokio::test]
    async fn whoever_asks_is_told_not_ready_with_the_reasons() {
        let address = served(vitals()).await;
        let error = asked(address.clone()).await.unwrap_err();
        let AskError::NotReady { status: 503, body } = &error else { panic!("{error}") };
        assert!(body.contains("\"mirror\"") && body.contains("unsynced"), "{body}");
        assert_eq!(asked(format!("http://{address}/healthz")).await.unwrap(), "alive");
        assert!(asked(format!("{address}/metrics")).await.unwrap().ends_with("# EOF"));
    }

    #[tokio::test]
    async fn an_ended_part_takes_healthz_with_it() {
        let vitals = vitals();
        vitals.part_ended("outbox");
        let address = served(vitals).await;
        let told = asked(format!("{address}/healthz")).await;
        assert!(matches!(told, Err(AskError::NotReady { status: 503, .. })), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_follower_that_cannot_be_ended_is_told_as_what_a_restart_heals() {
        let nowhere = Deployment {
            chain_id: 1,
            block: 1,
            broker_registry: Address::ZERO,
            topic_registry: Address::ZERO,
            access_market: Address::ZERO,
            device_registry: Address::ZERO,
            audit_log: Address::ZERO,
        };
        let urls = vec!["http://127.0.0.1:1".parse().unwrap()];
        let follower = Follower::new(FollowerConfig::new(urls, nowhere, U256::ONE), |_| ());
        let (mirror, _writer) = Mirror::new(&ChainConfig::for_tests(), Options::default());
        let upstreams = Arc::new(Upstreams::for_tests(&[]));
        let stop = CancellationToken::new();
        let vitals = Vitals::new(mirror, follower.health(), upstreams, None, stop.clone());
        // It begins, and never gets on.
        let _ = tokio::time::timeout(Duration::ZERO, follower.run(stop)).await;
        assert_eq!(check(&vitals.readiness(), "parts").detail, "all run");
        tokio::time::advance(Duration::from_secs(200)).await;
        assert!(vitals.fatal().is_some_and(|fault| fault.contains("cannot be ended")));
        assert!(!check(&vitals.readiness(), "parts").ok);
    }

    #[test]
    fn a_target_that_is_no_address_and_one_where_nobody_is_are_told_apart() {
        for target in ["", "host", "https://host:1", "ho st:1", "host:1/a b", "host:1/a\r\nX: y"] {
            assert!(matches!(ask(target, PATIENCE), Err(AskError::Address(_))), "{target:?}");
        }
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let told = ask(&free.to_string(), PATIENCE);
        assert!(matches!(told, Err(AskError::NoAnswer { .. })), "{told:?}");
    }
}
