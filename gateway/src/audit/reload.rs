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
/// What has changed counts once two looks found the same, so that no file is taken that is half written.
const LOOK: Duration = Duration::from_secs(1);

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
    let mut seen: Seen = Some(file.hash);
    // What the last look found that is something else.
    let mut fresh = None;
    loop {
        let told = tokio::select! {
            () = stop.cancelled() => return,
            _ = hangups.recv() => true,
            _ = looks.tick() => false,
        };
        let before = file.clone();
        let known = (seen, fresh);
        let Ok(look) = tokio::task::spawn_blocking(move || look(&before, known, told)).await else {
            continue;
        };
        let (now, found) = look;
        fresh = (now != seen).then_some(now);
        let Some(found) = found else { continue };
        (seen, fresh) = (now, None);
        let outcome = match found {
            Ok(found) => {
                let rules = Rules::new(found.rules.clone());
                info!(file = %found.path.display(), hash = %found.hash, rules = rules.own(), "audit rules read again");
                warn_of(&rules);
                if found.hash != file.hash {
                    audit.exchange_rules(rules, found.hash).await;
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

type Seen = Option<B256>;

/// What is there now, and the file read again if somebody `told` to, or if it is not what was `seen` but what the last look found.
fn look(
    file: &RulesFile,
    (seen, fresh): (Seen, Option<Seen>),
    told: bool,
) -> (Seen, Option<Result<RulesFile, Problems>>) {
    let now = RulesFile::hash_now(&file.path);
    let is_due = told || (now != seen && fresh == Some(now));
    (now, is_due.then(|| file.again()))
}

fn warn_of(rules: &Rules) {
    for warning in rules.warnings() {
        warn!("{warning}");
    }
}
