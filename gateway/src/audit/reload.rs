//! Reads the audit rules again: at SIGHUP, and when the file has changed.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::B256;
use flytrap_policy::Rules;
use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::Audit;
use crate::config::{Problems, RulesFile};
use crate::metrics::{Metrics, OutcomeLabel};

/// How often the file is looked at. By its content, since editors and Kubernetes put another file in its place and clocks step.
const LOOK: Duration = Duration::from_secs(2);

/// Puts the rules of `file` in force whenever they change, until `stop`. One that is wrong changes nothing and is told once.
pub async fn follow_rules(
    mut file: RulesFile,
    mut hangups: Signal,
    audit: Audit,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    warn_of(&Rules::new(file.rules.clone()));
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What was last seen and dealt with, right or wrong; `None` where the file could not be read.
    let mut seen = Some(file.hash);
    loop {
        let told = tokio::select! {
            () = stop.cancelled() => return,
            _ = hangups.recv() => true,
            _ = looks.tick() => false,
        };
        let before = file.clone();
        let read = tokio::task::spawn_blocking(move || read(&before, seen, told)).await;
        let Ok(Some((now, found))) = read else { continue };
        seen = now;
        let outcome = match found {
            Ok(found) => {
                let rules = Rules::new(found.rules.clone());
                info!(file = %found.path.display(), hash = %found.hash, rules = rules.own(), "audit rules read again");
                warn_of(&rules);
                if found.hash != file.hash {
                    audit.exchange_rules(rules, found.hash);
                }
                file = found;
                "ok"
            }
            Err(problems) => {
                for problem in problems.to_string().lines() {
                    error!(problem, "the audit rules stay as they were: correct the file");
                }
                "refused"
            }
        };
        metrics.rules_reloads.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}

/// The file, if it is not what was `seen` or if somebody `told` to read it, and what was seen now.
fn read(
    file: &RulesFile,
    seen: Option<B256>,
    told: bool,
) -> Option<(Option<B256>, Result<RulesFile, Problems>)> {
    let now = RulesFile::hash_now(&file.path);
    (told || now != seen).then(|| (now, file.again()))
}

fn warn_of(rules: &Rules) {
    for warning in rules.warnings() {
        warn!("{warning}");
    }
}
