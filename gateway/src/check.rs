//! `check-config`: says of each thing that a start would need whether it is there, one line each.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use flytrap_chain::wallet::Contracts;
use flytrap_chain::{Deployment, WalletError};
use flytrap_policy::Rules;

use crate::audit::Retention;
use crate::config::{BrokerCredentials, Config, GatewayKey, Problems, Recording};
use crate::countries::Database;

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it is as wanted.
    pub mark: Mark,
    /// What was looked at, what was found, what to do.
    pub line: String,
}

/// Whether something is as wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is.
    Ok,
    /// The gateway starts with it, but the operator should know.
    Note,
    /// It is not, and the gateway does not start or not do its work.
    Wrong,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.mark {
            Mark::Ok => "ok   ",
            Mark::Note => "NOTE ",
            Mark::Wrong => "WRONG",
        };
        write!(f, "{mark} {}", self.line)
    }
}

fn ok(line: impl Into<String>) -> Finding {
    Finding { mark: Mark::Ok, line: line.into() }
}

fn note(line: impl Into<String>) -> Finding {
    Finding { mark: Mark::Note, line: line.into() }
}

fn wrong(line: impl Into<String>) -> Finding {
    Finding { mark: Mark::Wrong, line: line.into() }
}

/// Checks the file and everything it names; with `chain`, also what is on chain. Changes nothing anywhere.
pub async fn check(path: &Path, chain: bool) -> Vec<Finding> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => return each(&problems),
    };
    let mut findings = describe(&config);
    let deployment = match Deployment::read(&config.chain.deployment) {
        Ok(deployment) => deployment,
        Err(error) => {
            findings.push(wrong(error.to_string()));
            return findings;
        }
    };
    findings.push(ok(format!(
        "deployment {}: chain {}",
        config.chain.deployment.display(),
        deployment.chain_id
    )));
    if chain {
        on_chain(&config, deployment, &mut findings).await;
    }
    findings
}

fn each(problems: &Problems) -> Vec<Finding> {
    problems.to_string().lines().map(wrong).collect()
}

fn describe(config: &Config) -> Vec<Finding> {
    let mut findings = vec![ok(format!("configuration {}", config.file.display()))];
    for listener in &config.listeners {
        let how = match (&listener.tls, listener.allow_tokens_without_tls, &config.name) {
            (Some(tls), ..) if tls.asks_clients() => {
                "TLS, certificate and key match, clients must show a certificate"
            }
            (Some(_), ..) => "TLS, certificate and key match",
            (None, true, _) => "plain text, tokens accepted",
            (None, false, Some(_)) => {
                "plain text, and only answers to challenges are accepted on it"
            }
            (None, false, None) => {
                "plain text, and tokens are refused on it: nobody can log in there"
            }
        };
        let kind = if listener.websocket.is_some() { "WebSocket, " } else { "" };
        let behind =
            if listener.proxy_protocol { ", behind balancers (PROXY protocol)" } else { "" };
        findings
            .push(ok(format!("listener {} {}: {kind}{how}{behind}", listener.name, listener.bind)));
    }
    let credentials = match config.broker.credentials {
        BrokerCredentials::None => "no credentials",
        BrokerCredentials::Fixed { .. } => "fixed credentials",
        BrokerCredentials::Wallet => "the wallet as user name",
        BrokerCredentials::Client => "the client's own user name and password",
    };
    for broker in &config.broker.addresses {
        let tls = if broker.tls.is_some() { "TLS, verified" } else { "plain text" };
        findings.push(ok(format!("broker {}: {tls}, {credentials}", broker.address)));
    }
    let taken = config.access.dialect.taken();
    if !taken.is_empty() {
        findings.push(ok(format!("broker dialect: names with any of `{taken}` are refused")));
    }
    if config.countries.databases.is_empty() {
        let none = "no country database: topics with a country rule are refused to everybody";
        findings.push(ok(none));
    }
    for path in &config.countries.databases {
        findings.push(match Database::read(path) {
            Ok(database) => ok(format!("country database {}: {database}", path.display())),
            Err(fault) => wrong(format!("country database {}: {fault}", path.display())),
        });
    }
    let name = config.name.as_deref().unwrap_or("none: nobody is challenged");
    let proofs = config.authentication;
    let (wallets, once) = (proofs.contract_wallets, proofs.single_use_tokens);
    findings.push(ok(format!(
        "name {name}; contract wallets {}, tokens count {}",
        if wallets { "taken" } else { "not taken" },
        if once { "once" } else { "until their end" }
    )));
    findings.push(ok(match &config.recording {
        Recording::Off => "recording is off: no bans and alerts on chain".to_owned(),
        Recording::On(GatewayKey::Known(signer)) => format!("gateway key {}", signer.address()),
        Recording::On(GatewayKey::AwsKms(key_id)) => format!("gateway key {key_id} at AWS KMS"),
        Recording::On(GatewayKey::GcpKms(key)) => format!("gateway key {} at GCP KMS", key.key),
    }));
    findings.push(ok(match &config.api {
        None => "no [api]: records are read with `flytrap-gateway export` only".to_owned(),
        Some(api) => api.to_string(),
    }));
    rules(config, &mut findings);
    findings.push(match &config.audit.database {
        None => ok("records in a file of `state_dir`"),
        Some(database) if database.is_readable_on_the_way() => note(format!(
            "records in {database}: without TLS, so who is between can read and change them"
        )),
        Some(database) => ok(format!("records in {database}")),
    });
    if let (Recording::Off, Some(_)) = (&config.recording, &config.audit.database) {
        findings.push(note("`gateway.record` is off, so the gateway has no address of its own: only one such can use the database"));
    }
    let Retention { all, refusals } = config.audit.retention;
    let life = |life: Option<Duration>| {
        life.map_or("for ever".to_owned(), |life| format!("{} s", life.as_secs()))
    };
    findings.push(ok(format!(
        "records are kept {}, what refusals say {}",
        life(all),
        life(refusals.or(all))
    )));
    findings
}

/// Each audit rule in a sentence, in the order in which they are asked.
fn rules(config: &Config, findings: &mut Vec<Finding>) {
    let file = config.audit.rules.as_ref();
    let rules = Rules::new(file.map(|file| file.rules.clone()).unwrap_or_default());
    if let Some(file) = file {
        findings.push(ok(format!(
            "audit rules {}: {}, then the built-in ones; the first that matches decides",
            file.path.display(),
            rules.own()
        )));
    }
    for (n, rule) in rules.all().iter().enumerate() {
        let kind = if n < rules.own() { "audit rule" } else { "built-in audit rule" };
        findings.push(ok(format!("{kind} \"{}\": {rule}", rule.name)));
    }
    findings.extend(rules.warnings().into_iter().map(note));
    let tells = rules.all().iter().take(rules.own()).find(|rule| rule.then.chain);
    if let (Recording::Off, Some(rule)) = (&config.recording, tells) {
        findings.push(note(format!(
            "audit rule \"{}\" tells the chain, and `gateway.record` is off: it will not",
            rule.name
        )));
    }
}

async fn on_chain(config: &Config, deployment: Deployment, findings: &mut Vec<Finding>) {
    let chain_id = deployment.chain_id;
    // Each node by itself: the first that answers must not hide that the second is on another chain.
    let mut reader = None;
    for url in &config.chain.urls {
        let host = url.host_str().unwrap_or_default();
        match Contracts::connect(vec![url.clone()], deployment.clone()).await {
            Ok(contracts) => {
                findings.push(ok(format!(
                    "node {host}: chain {}, the contracts have code",
                    deployment.chain_id
                )));
                reader.get_or_insert(contracts);
            }
            Err(error) => findings.push(wrong(format!("node {host}: {error}"))),
        }
    }
    let Some(contracts) = reader else { return };
    let (id, failed) = (config.chain.broker_id, |error: WalletError| wrong(error.to_string()));
    findings.push(match contracts.broker_owner(id).await {
        Ok(owner) if owner.is_zero() => {
            wrong(format!("`chain.broker_id` {id} does not exist: create a broker with `flytrap broker create`, or correct the id"))
        }
        Ok(owner) => ok(format!("broker id {id}: owned by {owner}")),
        Err(error) => failed(error),
    });
    let Recording::On(key) = &config.recording else { return };
    let signer = match key.open().await {
        Ok(signer) => signer,
        Err(error) => return findings.push(wrong(format!("gateway key: {error}"))),
    };
    let address = signer.address();
    if let Err(error) = signer.check(chain_id).await {
        findings.push(wrong(format!("gateway key {address}: {error}")));
    }
    findings.push(match contracts.is_gateway(id, address).await {
        Ok(true) => ok(format!("gateway key {address}: registered for broker {id}")),
        Ok(false) => wrong(format!("gateway key {address} is no gateway of broker {id}: let its owner run `flytrap broker set-gateway`, or correct the key")),
        Err(error) => failed(error),
    });
    findings.push(match contracts.balance(address).await {
        Ok(wei) if wei.is_zero() => wrong(format!("gateway key {address} has no ether: bans and alerts could not be recorded, send it some")),
        Ok(wei) => ok(format!("gateway key {address}: {wei} wei")),
        Err(error) => failed(error),
    });
}
