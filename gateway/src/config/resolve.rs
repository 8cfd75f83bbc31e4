//! From the shape of the file to [`Config`]: opens what it names, checks what concerns several keys.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::U256;
use flytrap_chain::Proof;
use flytrap_policy::{ConductLimit, Options, Rate};
use toml::Spanned;
use url::Url;
use zeroize::Zeroizing;

use super::file::{self, File};
use super::problem::{Problem, Problems, place};
use super::read::{Readers, pseudonym_key, read};
use super::value::{Addresses, Span};
use super::{
    AuditConfig, BrokerAddress, BrokerConfig, BrokerCredentials, BrokerTls, ChainConfig, Conduct,
    Config, DatabaseConfig, HealthConfig, Limits, ListenerConfig, PseudonymKey, Recording,
    RulesFile, Secret, WebSocketConfig,
};
use crate::audit::Retention;
use crate::proxy::TrustedPeers;
use crate::session::Rates;
use crate::tls::{self, IdentityFiles, ListenerTls, Part, TlsFiles};

const GWEI: u128 = 1_000_000_000;

pub(super) fn resolve(path: &Path, text: &str, file: File) -> Result<Config, Problems> {
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    let mut r = Resolver::new(text, folder);
    let chain = r.chain(file.chain);
    let listeners = r.listeners(file.listener);
    let access = Options { dialect: file.broker.dialect, ..file.access };
    let broker = r.broker(file.broker);
    let recording = r.recording(&file.gateway);
    let name = r.name(file.gateway.get_ref().name.as_ref());
    let limits = r.limits(&file.limits);
    let rates = r.rates(&file.rates);
    let conduct = r.conduct(&file.conduct, &file.rates);
    let countries = r.countries(&file.countries);
    let audit = r.audit(file.audit, chain.broker_id);
    let api = file.api.and_then(|api| r.api(api));
    let config = Config {
        file: path.to_owned(),
        name,
        state_dir: r.at(&file.state_dir),
        chain,
        listeners,
        broker,
        recording: recording.unwrap_or(Recording::Off),
        authentication: file.authentication,
        limits,
        rates,
        conduct,
        access,
        countries,
        audit,
        health: HealthConfig { bind: file.health.bind },
        api,
    };
    let problems = r.into_problems();
    if problems.is_empty() { Ok(config) } else { Err(Problems::new(path, problems)) }
}

const DAY: Duration = Duration::from_secs(86_400);
/// Longest wait for one answer of a node.
const LONGEST_ANSWER: Duration = Duration::from_secs(20);

/// Long times are easier to read in days.
pub(super) fn told(time: Duration) -> String {
    match time.as_secs() / DAY.as_secs() {
        0 => format!("{time:?}"),
        days => format!("{days}d"),
    }
}

pub(super) struct Resolver<'a> {
    text: &'a str,
    /// Relative paths start here.
    folder: PathBuf,
    problems: Vec<Problem>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(text: &'a str, folder: PathBuf) -> Self {
        Self { text, folder, problems: Vec::new() }
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

impl Resolver<'_> {
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    pub(super) fn problem<T>(&mut self, value: &Spanned<T>, message: impl Into<String>) {
        let span = value.span();
        // A default has no place of its own.
        let place = (!span.is_empty()).then(|| place(self.text, &span));
        self.problems.push(Problem { place, message: message.into() });
    }

    /// Reads a file that `key` names.
    pub(super) fn read(
        &mut self,
        key: &str,
        path: &Spanned<PathBuf>,
        readers: Readers,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let full = self.at(path.get_ref());
        match read(&full, readers) {
            Ok(octets) => Some(octets),
            Err(wrong) => {
                self.problem(path, format!("`{key}` = \"{}\": {wrong}", full.display()));
                None
            }
        }
    }

    fn chain(&mut self, chain: file::Chain) -> ChainConfig {
        if chain.urls.get_ref().is_empty() {
            self.problem(
                &chain.urls,
                "`chain.urls` is empty: name at least one node, such as \"http://127.0.0.1:8545\"",
            );
        }
        if let Err(error) = fs::File::open(self.at(chain.deployment.get_ref())) {
            let full = self.at(chain.deployment.get_ref());
            let wrong = format!(
                "`chain.deployment` = \"{}\": {error}; deploy the contracts, which writes this file, or correct the path",
                full.display()
            );
            self.problem(&chain.deployment, wrong);
        }
        let (stale, distrust) = (chain.stale_after.get_ref().0, chain.distrust_after.get_ref().0);
        if distrust < stale {
            let wrong = format!(
                "`chain.distrust_after` is {distrust:?}, shorter than `chain.stale_after` ({stale:?}): make it at least as long"
            );
            let later = if chain.distrust_after.span().is_empty() {
                &chain.stale_after
            } else {
                &chain.distrust_after
            };
            self.problem(later, wrong);
        }
        if chain.poll.0 > stale {
            let wrong = format!(
                "`chain.poll` is {:?}, longer than `chain.stale_after` ({stale:?}): the mirror would be stale between two looks",
                chain.poll.0
            );
            self.problem(&chain.stale_after, wrong);
        }
        let quorum = self.within("chain.quorum", &chain.quorum, 1, 2) == 2;
        if quorum && chain.urls.get_ref().len() < 2 {
            self.problem(
                &chain.quorum,
                "`chain.quorum` is 2, but `chain.urls` names one node: name another one, of another operator",
            );
        }
        if quorum && chain.proof == Proof::Logs {
            self.problem(
                &chain.quorum,
                "`chain.quorum` is 2 with `chain.proof = \"logs\"`: nodes are asked for the same block, and only with \"receipts\" does its hash say what is in it. Take one of the two out",
            );
        }
        if chain.request_timeout.0 > LONGEST_ANSWER {
            let wrong = format!(
                "`chain.request_timeout` is {:?}, wanted at most {LONGEST_ANSWER:?}: until then no other node is asked",
                chain.request_timeout.0
            );
            self.problem(&chain.urls, wrong);
        }
        if chain.prove_history && chain.proof == Proof::Logs {
            self.problem(
                &chain.urls,
                "`chain.prove_history` needs `chain.proof = \"receipts\"`: take one of the two out",
            );
        }
        ChainConfig {
            urls: chain.urls.into_inner().into_iter().map(|url| url.0).collect(),
            deployment: self.at(chain.deployment.get_ref()),
            broker_id: chain.broker_id.0,
            confirmations: chain.confirmations,
            poll: chain.poll.0,
            stale_after: stale,
            distrust_after: distrust,
            max_head_age: chain.max_head_age.map(|age| age.0),
            history: self.within("chain.history", &chain.history, 1, 100_000),
            quorum,
            proof: chain.proof,
            prove_history: chain.prove_history,
            request_timeout: chain.request_timeout.0,
            snapshot_interval: chain.snapshot_interval.0,
        }
    }

    fn listeners(&mut self, listeners: Vec<file::Listener>) -> Vec<Arc<ListenerConfig>> {
        let listeners =
            if listeners.is_empty() { vec![file::Listener::loopback()] } else { listeners };
        let (mut names, mut binds) = (HashSet::new(), HashSet::<SocketAddr>::new());
        let mut resolved = Vec::with_capacity(listeners.len());
        for listener in listeners {
            let name = listener.name.get_ref();
            let plain = !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !plain {
                self.problem(&listener.name, format!("`listener.name` is {name:?}, wanted 1 to 64 letters, digits, `-`, `_` or `.`"));
            } else if !names.insert(name.clone()) {
                self.problem(
                    &listener.name,
                    format!("two listeners are named `{name}`: give each its own name"),
                );
            }
            let bind = *listener.bind.get_ref();
            if bind.port() != 0 && !binds.insert(bind) {
                self.problem(
                    &listener.bind,
                    format!("two listeners bind {bind}: give each its own port"),
                );
            }
            if listener.tls.is_none()
                && !bind.ip().is_loopback()
                && !listener.allow_tokens_without_tls
            {
                let wrong = format!(
                    "listener `{name}` on {bind} is plain text and reachable from outside: add [listener.tls], bind a loopback address, \
                     or accept that credentials can be read on the way with `allow_tokens_without_tls = true`"
                );
                self.problem(&listener.bind, wrong);
            }
            self.check_trust(&listener);
            let tls = listener.tls.as_ref().and_then(|tls| self.listener_tls(tls));
            let networks = listener.trusted_peers.into_inner();
            resolved.push(Arc::new(ListenerConfig {
                name: listener.name.into_inner(),
                bind,
                allow_tokens_without_tls: listener.allow_tokens_without_tls,
                deny_action: listener.deny_action,
                tls,
                websocket: listener.websocket.map(|websocket| self.websocket(websocket)),
                proxy_protocol: *listener.proxy_protocol.get_ref() == file::ProxyProtocol::Required,
                trusted_peers: TrustedPeers::new(networks.into_iter().map(|n| n.0).collect()),
            }));
        }
        resolved
    }

    fn listener_tls(&mut self, tls: &file::ListenerTls) -> Option<ListenerTls> {
        let mut named = vec![(&tls.certificate, &tls.key)];
        named.extend(tls.also.iter().map(|also| (&also.certificate, &also.key)));
        let at = |path: &Spanned<PathBuf>| self.at(path.get_ref());
        let identities = named
            .iter()
            .map(|(certificate, key)| IdentityFiles { certificate: at(certificate), key: at(key) })
            .collect();
        let files = TlsFiles { identities, client_ca: tls.client_ca.as_ref().map(at) };
        let faults = match ListenerTls::open(files) {
            Ok(tls) => return Some(tls),
            Err(faults) => faults,
        };
        for fault in faults {
            let (key, path) = match fault.part {
                Part::Certificate(n) => ("certificate", named[n].0),
                Part::Key(n) => ("key", named[n].1),
                Part::ClientCa => ("client_ca", tls.client_ca.as_ref().unwrap_or(&tls.certificate)),
            };
            self.problem(path, format!("`listener.tls.{key}` = {fault}"));
        }
        None
    }

    fn websocket(&mut self, websocket: file::WebSocket) -> WebSocketConfig {
        let path = websocket.path.get_ref();
        let is_path = path.starts_with('/')
            && path.bytes().all(|b| b.is_ascii_graphic() && !b"?#%\"<>\\^`{|}".contains(&b));
        if !is_path {
            self.problem(
                &websocket.path,
                format!("`listener.websocket.path` is {path:?}, wanted a path such as \"/mqtt\""),
            );
        }
        for origin in &websocket.allowed_origins {
            self.web_origin("listener.websocket.allowed_origins", origin);
        }
        let allowed_origins =
            websocket.allowed_origins.into_iter().map(Spanned::into_inner).collect();
        WebSocketConfig { path: websocket.path.into_inner(), allowed_origins }
    }

    /// As browsers write it, since it is compared octet by octet: lower case, no default port, no path.
    pub(super) fn web_origin(&mut self, key: &str, origin: &Spanned<String>) {
        let given = origin.get_ref();
        let wanted = Url::parse(given).map(|url| url.origin().ascii_serialization());
        match wanted {
            Ok(wanted) if wanted == *given && wanted != "null" => {}
            Ok(wanted) if wanted != "null" => {
                self.problem(
                    origin,
                    format!("`{key}`: browsers write \"{given}\" as \"{wanted}\""),
                );
            }
            _ => self.problem(
                origin,
                format!(
                    "`{key}`: \"{given}\" is no origin, wanted such as \"https://app.example\""
                ),
            ),
        }
    }

    fn check_trust(&mut self, listener: &file::Listener) {
        let is_required = *listener.proxy_protocol.get_ref() == file::ProxyProtocol::Required;
        let trusted = &listener.trusted_peers;
        if is_required && trusted.get_ref().is_empty() {
            self.problem(
                &listener.proxy_protocol,
                "`listener.proxy_protocol` is \"required\" and nobody is believed: name the balancers in `trusted_peers`",
            );
        }
        if !trusted.get_ref().is_empty() && !is_required && listener.websocket.is_none() {
            self.problem(
                trusted,
                "`listener.trusted_peers` has no effect without `proxy_protocol = \"required\"` or [listener.websocket]: add one, or remove it",
            );
        }
    }

    fn broker(&mut self, broker: file::Broker) -> BrokerConfig {
        let addresses = self.broker_addresses(broker.address, broker.tls.as_ref());
        let credentials = match broker.credentials {
            file::Credentials::None => BrokerCredentials::None,
            file::Credentials::Wallet => BrokerCredentials::Wallet,
            file::Credentials::Client => BrokerCredentials::Client,
            file::Credentials::Fixed(fixed) => {
                let mut password = self
                    .password("broker.credentials.fixed.password_file", &fixed.password_file)
                    .unwrap_or_default();
                for (key, octets) in
                    [("user_name", fixed.user_name.len()), ("password", password.len())]
                {
                    if octets > usize::from(u16::MAX) {
                        self.problem(&fixed.password_file, format!("`broker.credentials.fixed`: the {key} has {octets} octets, MQTT carries at most 65535"));
                    }
                }
                BrokerCredentials::Fixed {
                    user_name: fixed.user_name,
                    password: Secret::new(std::mem::take(&mut *password)),
                }
            }
        };
        BrokerConfig {
            addresses,
            credentials,
            connect_timeout: broker.connect_timeout.0,
            probe_interval: broker.probe_interval.0,
            send_proxy: broker.send_proxy,
        }
    }

    fn password(&mut self, key: &str, file: &Spanned<PathBuf>) -> Option<Zeroizing<Vec<u8>>> {
        let mut password = self.read(key, file, Readers::OwnerOnly)?;
        // Editors end a file with a line feed, which is no part of the password.
        while password.last().is_some_and(|last| matches!(last, b'\n' | b'\r')) {
            password.pop();
        }
        Some(password)
    }

    fn broker_addresses(
        &mut self,
        addresses: Addresses,
        tls: Option<&file::BrokerTls>,
    ) -> Vec<BrokerAddress> {
        let client = tls.and_then(|tls| self.broker_roots(tls));
        let mut resolved = Vec::with_capacity(addresses.0.len());
        for address in addresses.0 {
            let name = tls.and_then(|tls| self.server_name(tls, &address));
            let tls = name
                .zip(client.clone())
                .map(|(server_name, config)| BrokerTls { server_name, config });
            resolved.push(BrokerAddress { address, tls });
        }
        resolved
    }

    /// Whom to trust about the broker's certificate.
    fn broker_roots(&mut self, tls: &file::BrokerTls) -> Option<Arc<rustls::ClientConfig>> {
        let unplaced = Spanned::new(0..0, ());
        match &tls.ca {
            Some(ca) => {
                let pem = self.read("broker.tls.ca", ca, Readers::Anyone)?;
                tls::client_config(Some(&pem))
                    .map_err(|wrong| self.problem(ca, format!("`broker.tls.ca`: {wrong}")))
                    .ok()
            }
            None => tls::client_config(None)
                .map_err(|wrong| {
                    let wrong = format!("`broker.tls`: {wrong}; or name a CA file with `ca`");
                    self.problem(&unplaced, wrong);
                })
                .ok(),
        }
    }

    fn server_name(
        &mut self,
        tls: &file::BrokerTls,
        address: &super::HostPort,
    ) -> Option<rustls::pki_types::ServerName<'static>> {
        let unplaced = Spanned::new(0..0, address.host.clone());
        let name = tls.server_name.as_ref().unwrap_or(&unplaced);
        let server_name = rustls::pki_types::ServerName::try_from(name.get_ref().clone());
        if server_name.is_err() {
            self.problem(name, format!("`broker.tls.server_name` = {:?} is no host name or IP address: give the name in the broker's certificate", name.get_ref()));
        }
        server_name.ok()
    }

    /// What clients sign must be what people can read and type.
    fn name(&mut self, name: Option<&Spanned<String>>) -> Option<String> {
        let name = name?;
        let text = name.get_ref();
        if text.is_empty() || text.len() > 253 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            self.problem(name, format!("`gateway.name` is {text:?}, wanted 1 to 253 visible ASCII characters: the host name that clients connect to"));
        }
        Some(text.clone())
    }

    fn limits(&mut self, limits: &file::Limits) -> Limits {
        let mib = 1024 * 1024;
        Limits {
            connect_deadline: limits.connect_deadline.0,
            connect_max_octets: self.within(
                "limits.connect_max_octets",
                &limits.connect_max_octets,
                128,
                mib,
            ),
            max_connections: self.within(
                "limits.max_connections",
                &limits.max_connections,
                1,
                10_000_000,
            ),
            max_connections_per_origin: self.within(
                "limits.max_connections_per_origin",
                &limits.max_connections_per_origin,
                1,
                10_000_000,
            ),
            // A larger packet than MQTT can carry is no limit at all.
            max_packet_octets: self.within(
                "limits.max_packet_octets",
                &limits.max_packet_octets,
                128,
                268_435_460,
            ),
            max_subscriptions: self.within(
                "limits.max_subscriptions",
                &limits.max_subscriptions,
                1,
                100_000,
            ),
            max_in_flight: self.within("limits.max_in_flight", &limits.max_in_flight, 1, u16::MAX),
            session_expiry_cap: self.session_expiry(&limits.session_expiry_cap),
            failures: self.within("limits.failures", &limits.failures, 0, 1_000),
            ban: self.ban("limits.ban", &limits.ban),
            proof_beats_ban: limits.proof_beats_ban,
            longest_token_life: limits.longest_token_life.0,
            drain: limits.drain.0,
        }
    }

    fn ban(&mut self, key: &str, ban: &Spanned<Span>) -> Duration {
        // The contract takes 30 days from the time of its block, which may be behind our clock.
        self.between(key, ban, Duration::from_secs(1), 29 * DAY)
    }

    /// The protocol counts whole seconds, and takes the largest number for "never".
    fn session_expiry(&mut self, cap: &Spanned<Span>) -> u32 {
        let most = Duration::from_secs(u64::from(u32::MAX) - 1);
        let cap = self.between("limits.session_expiry_cap", cap, Duration::from_secs(1), most);
        u32::try_from(cap.as_secs()).unwrap_or(u32::MAX)
    }

    fn rates(&mut self, rates: &file::Rates) -> Rates {
        let burst = self.between("rates.burst", &rates.burst, Duration::from_millis(100), DAY);
        let rate = |units| Rate::new(units, Duration::from_secs(1), burst);
        Rates {
            session_messages: rate(rates.session_messages.into()),
            session_octets: rate(rates.session_octets),
            session_requests: rate(rates.session_requests.into()),
            wallet_messages: rate(rates.wallet_messages.into()),
            wallet_octets: rate(rates.wallet_octets),
        }
    }

    fn conduct(&mut self, conduct: &file::Conduct, rates: &file::Rates) -> Conduct {
        let window = self.between("conduct.window", &conduct.window, Duration::from_secs(1), DAY);
        let burst = rates.burst.get_ref().0;
        Conduct {
            limit: ConductLimit {
                refusals: conduct.refusals,
                faults: conduct.faults,
                connects: conduct.connects,
                window,
                connect_rate: Rate::new(rates.connects.into(), Duration::from_secs(1), burst),
                tracked: 65_536,
            },
            ban: self.ban("conduct.ban", &conduct.ban),
        }
    }

    pub(super) fn between(
        &mut self,
        key: &str,
        value: &Spanned<Span>,
        least: Duration,
        most: Duration,
    ) -> Duration {
        let given = value.get_ref().0;
        if given < least || given > most {
            self.problem(
                value,
                format!("`{key}` is {given:?}, wanted {least:?} to {}", told(most)),
            );
        }
        given
    }

    pub(super) fn within<N: PartialOrd + Copy + std::fmt::Display>(
        &mut self,
        key: &str,
        value: &Spanned<N>,
        least: N,
        most: N,
    ) -> N {
        let given = *value.get_ref();
        if given < least || given > most {
            self.problem(value, format!("`{key}` is {given}, wanted {least} to {most}"));
        }
        given
    }

    /// The rules in the file that the key names; what is wrong with them is told with their own lines.
    fn rules_file(
        &mut self,
        path: &Spanned<PathBuf>,
        broker_id: U256,
        interval: Duration,
    ) -> Option<RulesFile> {
        match RulesFile::load(self.at(path.get_ref()), broker_id, interval) {
            Ok(rules) => Some(rules),
            Err(problems) => {
                for line in problems.to_string().lines() {
                    self.problem(path, format!("`audit.rules`: {line}"));
                }
                None
            }
        }
    }

    fn audit(&mut self, audit: file::Audit, broker_id: U256) -> AuditConfig {
        let rules = audit
            .rules
            .as_ref()
            .and_then(|path| self.rules_file(path, broker_id, audit.interval.0));
        let pseudonym_key = match &audit.pseudonym_key_file {
            None => PseudonymKey::Own,
            Some(path) => {
                let text = self.read("audit.pseudonym_key_file", path, Readers::OwnerOnly);
                match text.as_deref().map(|text| pseudonym_key(text)) {
                    Some(Some(key)) => PseudonymKey::Given(key),
                    Some(None) => {
                        let wrong = "`audit.pseudonym_key_file`: wanted 64 hexadecimal digits; make one with `openssl rand -hex 32`";
                        self.problem(path, wrong);
                        PseudonymKey::Own
                    }
                    None => PseudonymKey::Own,
                }
            }
        };
        AuditConfig {
            interval: audit.interval.0,
            each_message: audit.each_message,
            pseudonym_key,
            max_gas_per_day: audit.max_gas_per_day,
            max_wei_per_day: U256::from(audit.max_gwei_per_day) * U256::from(GWEI),
            // Beyond, the product with a transaction's gas is more ether than there is.
            max_fee_wei: u128::from(self.within(
                "audit.max_fee_gwei",
                &audit.max_fee_gwei,
                1,
                1_000_000_000,
            )) * GWEI,
            replace_after: audit.replace_after.0,
            rules,
            retention: self.retention(&audit.retention),
            database: audit.database.as_ref().and_then(|database| self.database(database)),
        }
    }

    fn database(&mut self, database: &file::Database) -> Option<DatabaseConfig> {
        let mut password = match &database.password_file {
            Some(file) => Some(self.password("audit.database.password_file", file)?),
            None => None,
        };
        let pem = match &database.ca {
            Some(ca) => Some(self.read("audit.database.ca", ca, Readers::Anyone)?),
            None => None,
        };
        let password =
            password.as_mut().map(|password| Secret::new(std::mem::take(&mut **password)));
        match DatabaseConfig::new(
            database.url.get_ref(),
            password,
            pem.as_ref().map(|pem| pem.as_slice()),
        ) {
            Ok(database) => Some(database),
            Err(wrong) => {
                self.problem(&database.url, format!("`audit.database`: {wrong}"));
                None
            }
        }
    }

    fn retention(&mut self, retention: &file::Retention) -> Retention {
        let life = |span: &Option<Spanned<Span>>| span.as_ref().map(|span| span.get_ref().0);
        let (all, refusals) = (life(&retention.all), life(&retention.refusals));
        if let (Some(all), Some(longer), Some(key)) = (all, refusals, &retention.refusals)
            && longer >= all
        {
            self.problem(key, format!("`audit.retention.refusals` is {}, not shorter than `audit.retention.all` ({}), with which they go: shorten or remove it", told(longer), told(all)));
        }
        Retention { all, refusals }
    }
}
