//! What the gateway counts, for `/metrics`.
//!
//! One struct of plain atomic counters that everyone shares. Labels come only from this program's own words (listener
//! names, rules, methods), never from what a client says: no wallet, topic, client id or address can grow a series.
//! Sessions add up a [`Traffic`] of their own and give it here once per read, so that a forwarded packet costs no
//! shared counter.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    /// Connections that are open now.
    pub connections: Family<ListenerLabel, Gauge>,
    /// Connections accepted since the start.
    pub connections_accepted: Family<ListenerLabel, Counter>,
    /// Connections dropped before MQTT began, by why.
    pub connections_dropped: Family<DropLabel, Counter>,
    /// Sessions that are past CONNECT now.
    pub sessions: Gauge,
    /// Sessions that ended by a panic of ours.
    pub session_panics: Counter,
    /// Failures of `accept`, such as too many open files.
    pub accept_errors: Counter,
    /// Proofs, by method and outcome.
    pub authentications: Family<AuthenticationLabel, Counter>,
    /// Refused actions, and allowed subscriptions and wills, by rule. Packets that were allowed are in [`Traffic`].
    pub authorizations: Family<AuthorizationLabel, Counter>,
    /// Bans of an origin by this gateway.
    pub bans: Counter,
    /// Bans of a wallet or device key by this gateway, by what there was too much of.
    wallet_bans: Family<ForLabel, Counter>,
    /// Times that changes of the bans could not be written to the disk.
    pub bans_unwritten: Counter,
    /// Times that a client was not read for a while because it went past a rate, by which.
    throttled: Family<RateLabel, Counter>,
    /// Sessions that ended, by why.
    sessions_ended: Family<EndLabel, Counter>,
    /// Alerts and bans that did not fit and were only counted.
    pub notes_dropped: Counter,
    /// Records written.
    pub records: Counter,
    /// Records that are past their retention and gone, or empty.
    pub records_removed: Counter,
    /// Records that the disk does not take.
    pub records_waiting: Gauge,
    /// Times that an audit rule decided, by its name.
    rules: Family<RuleLabel, Counter>,
    /// Times that the audit rules were read again, by outcome.
    pub rules_reloads: Family<OutcomeLabel, Counter>,
    /// Times that the certificates of a listener were read again, by outcome.
    pub tls_reloads: Family<ReloadLabel, Counter>,
    /// Country databases read, by outcome.
    country_reads: Family<ReadLabel, Counter>,
    /// Look-ups of a client's country, by answer.
    country_lookups: Family<AnswerLabel, Counter>,
    /// Requests to the API, by status.
    api_requests: Family<StatusLabel, Counter>,
    /// Dials to the broker, by outcome.
    pub broker_dials: Family<DialLabel, Counter>,
    traffic: TrafficCounters,
}

/// What one session has forwarded and refused since it last told.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Traffic {
    /// Packets of any type forwarded from the client to the broker.
    pub packets_to_broker: u64,
    /// Packets of any type forwarded from the broker to the client.
    pub packets_to_client: u64,
    /// Of them PUBLISH packets with a permit, towards the broker.
    pub publishes_allowed: u64,
    /// Of them PUBLISH packets with a permit, towards the client.
    pub deliveries_allowed: u64,
    /// PUBLISH packets of the client that the broker never saw.
    pub publishes_refused: u64,
    /// PUBLISH packets of the broker that the client never saw.
    pub deliveries_withheld: u64,
    /// Payload octets forwarded to the broker.
    pub payload_to_broker: u64,
    /// Payload octets forwarded to the client.
    pub payload_to_client: u64,
}

#[derive(Debug)]
struct TrafficCounters {
    packets_to_broker: Counter,
    packets_to_client: Counter,
    publishes_allowed: Counter,
    deliveries_allowed: Counter,
    publishes_refused: Counter,
    deliveries_withheld: Counter,
    payload_to_broker: Counter,
    payload_to_client: Counter,
}

/// Which listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ListenerLabel {
    /// Its name in the configuration.
    pub listener: Arc<str>,
}

/// Why a connection was dropped before MQTT began.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DropLabel {
    /// `full`, `origin_full`, `banned`, `untrusted_peer`, `proxy_header`, `tls`, `upgrade`, `deadline`.
    pub reason: &'static str,
}

/// How a client tried to prove itself, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuthenticationLabel {
    /// What was accepted: `token`, `device_password`, `challenge`; of what was not: `credential` or `challenge`.
    pub method: &'static str,
    /// `accepted` or the refusal's own word.
    pub outcome: &'static str,
}

/// What was asked for, and by which rule it was answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AuthorizationLabel {
    /// `publish`, `subscribe`, `deliver`, `will`.
    pub action: &'static str,
    /// `allowed` or `Denial::rule`.
    pub outcome: &'static str,
}

/// Whose certificates, and what came of reading them again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReloadLabel {
    /// Name of the listener in the configuration.
    pub listener: Arc<str>,
    /// `ok` or `refused`.
    pub outcome: &'static str,
}

/// Which audit rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabel {
    /// Its name.
    rule: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// `ok` or `refused`.
    pub outcome: &'static str,
}

/// What there was too much of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ForLabel {
    /// `refusals`, `faults`, `connects`, `rule`.
    cause: &'static str,
}

/// Which rate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RateLabel {
    /// `messages`, `octets`, `requests`; of all sessions of a wallet `wallet_messages`, `wallet_octets`; of new ones `connects`.
    rate: &'static str,
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabel {
    /// `End::word`.
    end: &'static str,
}

/// Which way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabel {
    direction: &'static str,
}

/// Which way, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PublishLabel {
    direction: &'static str,
    outcome: &'static str,
}

/// Of a request to the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabel {
    /// HTTP status.
    pub status: u16,
}

/// Where to, and `ok` or what went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DialLabel {
    /// Address of the broker.
    pub broker: Arc<str>,
    /// A fixed word.
    pub outcome: &'static str,
}

/// Reading of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReadLabel {
    /// A fixed word.
    pub outcome: &'static str,
}

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnswerLabel {
    /// A fixed word.
    pub answer: &'static str,
}

impl Metrics {
    /// Makes the counters and names them in `registry`.
    pub fn register(registry: &mut Registry) -> Arc<Self> {
        let m = Self {
            connections: Family::default(),
            connections_accepted: Family::default(),
            connections_dropped: Family::default(),
            sessions: Gauge::default(),
            session_panics: Counter::default(),
            accept_errors: Counter::default(),
            authentications: Family::default(),
            authorizations: Family::default(),
            bans: Counter::default(),
            wallet_bans: Family::default(),
            bans_unwritten: Counter::default(),
            throttled: Family::default(),
            sessions_ended: Family::default(),
            notes_dropped: Counter::default(),
            records: Counter::default(),
            records_removed: Counter::default(),
            records_waiting: Gauge::default(),
            rules: Family::default(),
            rules_reloads: Family::default(),
            tls_reloads: Family::default(),
            country_reads: Family::default(),
            country_lookups: Family::default(),
            api_requests: Family::default(),
            broker_dials: Family::default(),
            traffic: TrafficCounters::register(registry),
        };
        registry.register("connections", "Open client connections", m.connections.clone());
        registry.register(
            "connections_accepted",
            "Accepted client connections",
            m.connections_accepted.clone(),
        );
        registry.register(
            "connections_dropped",
            "Connections dropped before MQTT began",
            m.connections_dropped.clone(),
        );
        registry.register("sessions", "Sessions that are past CONNECT", m.sessions.clone());
        registry.register(
            "session_panics",
            "Sessions that ended by a fault of the gateway",
            m.session_panics.clone(),
        );
        registry.register(
            "accept_errors",
            "Failures to accept a connection",
            m.accept_errors.clone(),
        );
        registry.register(
            "authentications",
            "Proofs by method and outcome",
            m.authentications.clone(),
        );
        registry.register(
            "authorizations",
            "Refusals by rule, and allowed subscriptions and wills",
            m.authorizations.clone(),
        );
        registry.register("bans", "Origins banned by this gateway", m.bans.clone());
        registry.register(
            "wallet_bans",
            "Wallets and device keys banned by this gateway for what they did, by cause",
            m.wallet_bans.clone(),
        );
        registry.register(
            "bans_unwritten",
            "Failures to write changes of the bans to the disk",
            m.bans_unwritten.clone(),
        );
        registry.register(
            "throttled",
            "Clients held up because they went past a rate, by rate",
            m.throttled.clone(),
        );
        registry.register(
            "sessions_ended",
            "Sessions that ended, by why",
            m.sessions_ended.clone(),
        );
        registry.register(
            "notes_dropped",
            "Alerts and bans that did not fit and were only counted",
            m.notes_dropped.clone(),
        );
        registry.register("records", "Records written", m.records.clone());
        registry.register(
            "records_removed",
            "Records removed or emptied by retention",
            m.records_removed.clone(),
        );
        registry.register(
            "records_waiting",
            "Records that cannot be written",
            m.records_waiting.clone(),
        );
        registry.register("rules", "Times that an audit rule decided", m.rules.clone());
        registry.register(
            "rules_reloads",
            "Audit rules read again while running, by outcome",
            m.rules_reloads.clone(),
        );
        registry.register(
            "tls_reloads",
            "Certificates read again while running, by outcome",
            m.tls_reloads.clone(),
        );
        registry.register(
            "country_database_reads",
            "Country databases read, at the start and while running, by outcome",
            m.country_reads.clone(),
        );
        registry.register(
            "country_lookups",
            "Look-ups of a client's country where there is a database, by answer",
            m.country_lookups.clone(),
        );
        registry.register("api_requests", "Requests to the API by status", m.api_requests.clone());
        registry.register(
            "broker_dials",
            "Connections opened to the broker by outcome",
            m.broker_dials.clone(),
        );
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running program", build);
        Arc::new(m)
    }

    /// Adds what a session has counted and sets it back to zero.
    pub fn add(&self, traffic: &mut Traffic) {
        let t = std::mem::take(traffic);
        let to = &self.traffic;
        for (counter, by) in [
            (&to.packets_to_broker, t.packets_to_broker),
            (&to.packets_to_client, t.packets_to_client),
            (&to.publishes_allowed, t.publishes_allowed),
            (&to.deliveries_allowed, t.deliveries_allowed),
            (&to.publishes_refused, t.publishes_refused),
            (&to.deliveries_withheld, t.deliveries_withheld),
            (&to.payload_to_broker, t.payload_to_broker),
            (&to.payload_to_client, t.payload_to_client),
        ] {
            // Most are zero most of the time, and a shared cache line costs more than a comparison.
            if by != 0 {
                counter.inc_by(by);
            }
        }
    }

    /// Counts one proof.
    pub fn authenticated(&self, method: &'static str, outcome: &'static str) {
        self.authentications.get_or_create(&AuthenticationLabel { method, outcome }).inc();
    }

    /// Counts one decision; not for allowed packets, which [`Traffic`] counts.
    pub fn authorized(&self, action: &'static str, outcome: &'static str) {
        self.authorizations.get_or_create(&AuthorizationLabel { action, outcome }).inc();
    }

    /// Counts what an audit rule decided on.
    pub fn decided_by(&self, rule: &str, count: u64) {
        self.rules.get_or_create(&RuleLabel { rule: rule.to_owned() }).inc_by(count);
    }

    /// Counts one ban of a wallet or device key.
    pub fn wallet_banned(&self, cause: &'static str) {
        self.wallet_bans.get_or_create(&ForLabel { cause }).inc();
    }

    #[cfg(test)]
    pub(crate) fn wallet_bans_for(&self, cause: &'static str) -> u64 {
        self.wallet_bans.get_or_create(&ForLabel { cause }).get()
    }

    /// Counts one client that is held up.
    pub fn throttled(&self, rate: &'static str) {
        self.throttled.get_or_create(&RateLabel { rate }).inc();
    }

    /// Counts one reading of a country database.
    pub fn country_database_read(&self, outcome: &'static str) {
        self.country_reads.get_or_create(&ReadLabel { outcome }).inc();
    }

    /// Counts one look-up of a country.
    pub fn country_looked_up(&self, answer: &'static str) {
        self.country_lookups.get_or_create(&AnswerLabel { answer }).inc();
    }

    /// Counts the end of one session.
    pub fn session_ended(&self, end: &'static str) {
        self.sessions_ended.get_or_create(&EndLabel { end }).inc();
    }

    /// Counts one connection dropped before MQTT began.
    pub fn dropped(&self, reason: &'static str) {
        self.connections_dropped.get_or_create(&DropLabel { reason }).inc();
    }

    /// Counts one dial to the broker.
    pub fn dialled(&self, broker: &Arc<str>, outcome: &'static str) {
        let broker = broker.clone();
        self.broker_dials.get_or_create(&DialLabel { broker, outcome }).inc();
    }

    /// A request to the API was answered with this status.
    pub fn api_answered(&self, status: u16) {
        self.api_requests.get_or_create(&StatusLabel { status }).inc();
    }
}

impl TrafficCounters {
    /// The families look a label up only here; from then on each counter is one atomic.
    fn register(registry: &mut Registry) -> Self {
        let packets = Family::<DirectionLabel, Counter>::default();
        let publishes = Family::<PublishLabel, Counter>::default();
        let payload = Family::<DirectionLabel, Counter>::default();
        registry.register("packets", "Forwarded packets of every type", packets.clone());
        registry.register(
            "publishes",
            "PUBLISH packets by direction and outcome",
            publishes.clone(),
        );
        registry.register(
            "payload_octets",
            "Payload octets of forwarded PUBLISH packets",
            payload.clone(),
        );
        let [to_broker, to_client] =
            ["to_broker", "to_client"].map(|direction| DirectionLabel { direction });
        let publish = |direction, outcome| {
            publishes.get_or_create_owned(&PublishLabel { direction, outcome })
        };
        Self {
            packets_to_broker: packets.get_or_create_owned(&to_broker),
            packets_to_client: packets.get_or_create_owned(&to_client),
            publishes_allowed: publish("to_broker", "forwarded"),
            deliveries_allowed: publish("to_client", "forwarded"),
            publishes_refused: publish("to_broker", "refused"),
            deliveries_withheld: publish("to_client", "withheld"),
            payload_to_broker: payload.get_or_create_owned(&to_broker),
            payload_to_client: payload.get_or_create_owned(&to_client),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn traffic_is_added_once_to_the_series_of_its_direction_and_outcome() {
        let mut registry = Registry::with_prefix("flytrap");
        let metrics = Metrics::register(&mut registry);
        let mut traffic =
            Traffic { publishes_allowed: 3, deliveries_withheld: 2, ..Traffic::default() };
        metrics.add(&mut traffic);
        metrics.add(&mut traffic);
        assert_eq!(traffic, Traffic::default());
        let text = text(&registry);
        for line in [
            r#"flytrap_publishes_total{direction="to_broker",outcome="forwarded"} 3"#,
            r#"flytrap_publishes_total{direction="to_client",outcome="withheld"} 2"#,
            r#"flytrap_publishes_total{direction="to_client",outcome="forwarded"} 0"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
