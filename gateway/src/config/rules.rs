//! The file of `audit.rules`: which happenings are recorded, told to the chain, only counted, or answered with a ban.
//!
//! `docs/records.md` explains each key to operators, [`flytrap_policy::Rules`] what is done with them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use alloy_primitives::{Address, B256, U256, keccak256};
use flytrap_policy::{
    Countries, Country, Excess, HappeningKind, NamedTopic, Rule, Then, Whence, is_topic_name,
    topic_id,
};
use serde::Deserialize;
use toml::Spanned;

use super::problem::{Problem, Problems};
use super::read::{Readers, read};
use super::resolve::Resolver;
use super::value::Span;

/// Rules of one file: each is asked about each happening that is not plain telemetry.
const MOST_RULES: usize = 100;
/// Octets of a rule's name, which is a label of metrics.
const MOST_NAME: usize = 64;
/// Intervals that a window over counts of messages has at least, since each count comes as one.
const COUNTS: u32 = 10;
/// Longest window: what it counts is kept in memory.
const LONGEST_WINDOW: Duration = Duration::from_secs(86_400);
/// Longest ban: the contract takes 30 days of a gateway, counted from a clock that may be behind ours.
const LONGEST_BAN: Duration = Duration::from_secs(29 * 86_400);

/// The operator's rules, and the file that they are in.
#[derive(Debug, Clone)]
pub struct RulesFile {
    /// The file.
    pub path: PathBuf,
    /// Whose topics its names are of.
    broker_id: U256,
    /// Time between two counts of messages.
    interval: Duration,
    /// What it says.
    pub rules: Vec<Rule>,
    /// Of its octets: the record tells by it which rules were in force.
    pub hash: B256,
}

impl RulesFile {
    /// Reads a file of the broker's rules.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its line.
    pub fn load(path: PathBuf, broker_id: U256, interval: Duration) -> Result<Self, Problems> {
        let unreadable =
            |message: String| Problems::new(&path, vec![Problem { place: None, message }]);
        let octets = read(&path, Readers::Anyone).map_err(unreadable)?;
        let text = std::str::from_utf8(&octets)
            .map_err(|error| unreadable(format!("is no text: {error}; write it in UTF-8")))?;
        let file: File =
            toml::from_str(text).map_err(|error| Problems::syntax(&path, text, &error))?;
        if file.rule.is_empty() {
            // One that was cut means less than what it was.
            let nothing = "there is no [[rule]] in it: is it whole? Remove `audit.rules` to have the built-in ones alone";
            return Err(unreadable(nothing.to_owned()));
        }
        let mut r = Resolver::new(text, PathBuf::new());
        let rules = r.rules(&file, broker_id, interval);
        let problems = r.into_problems();
        if !problems.is_empty() {
            return Err(Problems::new(&path, problems));
        }
        let hash = keccak256(&*octets);
        Ok(Self { path, broker_id, interval, rules, hash })
    }

    /// The same file as it is now.
    ///
    /// # Errors
    /// As [`RulesFile::load`].
    pub fn again(&self) -> Result<Self, Problems> {
        Self::load(self.path.clone(), self.broker_id, self.interval)
    }

    /// What is in the file now, whatever that is; `None` if it cannot be read.
    pub fn hash_now(path: &Path) -> Option<B256> {
        read(path, Readers::Anyone).ok().map(|octets| keccak256(&*octets))
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Shape>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    name: Spanned<String>,
    on: Spanned<Vec<HappeningKind>>,
    #[serde(default)]
    topics: Vec<Spanned<String>>,
    #[serde(default)]
    branches: Vec<Spanned<String>>,
    sensitive: Option<bool>,
    #[serde(default)]
    wallets: Vec<Address>,
    countries: Option<Spanned<Vec<Country>>>,
    not_countries: Option<Spanned<Vec<Country>>>,
    more_than: Option<Spanned<u64>>,
    within: Option<Spanned<Span>>,
    then: Spanned<Vec<Action>>,
    ban: Option<Spanned<Span>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Record,
    Chain,
    Count,
}

impl Resolver<'_> {
    fn rules(&mut self, file: &File, broker_id: U256, interval: Duration) -> Vec<Rule> {
        if let Some(first_too_many) = file.rule.get(MOST_RULES) {
            let wrong = format!("{} rules, wanted at most {MOST_RULES}", file.rule.len());
            self.problem(&first_too_many.name, wrong);
            return Vec::new();
        }
        let mut names = HashSet::new();
        let mut rules = Vec::with_capacity(file.rule.len());
        for shape in &file.rule {
            let name = shape.name.get_ref();
            if name.is_empty() || name.len() > MOST_NAME || name.chars().any(char::is_control) {
                let wrong = format!("`name` has {} octets, wanted 1 to {MOST_NAME}", name.len());
                self.problem(&shape.name, wrong);
            } else if !names.insert(name) {
                self.problem(
                    &shape.name,
                    format!("two rules are named \"{name}\": give each its own name"),
                );
            }
            if shape.on.get_ref().is_empty() {
                self.problem(&shape.on, "`on` is empty: name what the rule is about");
            }
            rules.push(Rule {
                name: name.clone(),
                on: shape.on.get_ref().clone(),
                topics: shape
                    .topics
                    .iter()
                    .filter_map(|topic| self.topic(topic, broker_id))
                    .collect(),
                branches: shape.branches.iter().filter_map(|branch| self.branch(branch)).collect(),
                sensitive: shape.sensitive,
                wallets: shape.wallets.clone(),
                countries: self.whence(shape),
                excess: self.excess(shape, interval),
                then: self.then(shape),
            });
        }
        rules
    }

    fn topic(&mut self, topic: &Spanned<String>, broker_id: U256) -> Option<NamedTopic> {
        let written = topic.get_ref();
        let id = match written.strip_prefix("0x") {
            Some(digits) if digits.len() == 64 => written.parse().ok(),
            _ if is_topic_name(written) => Some(topic_id(broker_id, written)),
            _ => None,
        };
        if id.is_none() {
            self.problem(topic, format!("`topics`: \"{written}\" is no registered name, wanted such as \"hospital/w1\" without wildcards, or an id (0x and 64 hexadecimal digits)"));
        }
        id.map(|id| NamedTopic { id, written: written.clone() })
    }

    fn branch(&mut self, branch: &Spanned<String>) -> Option<String> {
        let written = branch.get_ref();
        if !is_topic_name(written) {
            self.problem(branch, format!("`branches`: \"{written}\" is no name, wanted such as \"hospital\", without wildcards: what is below is meant as well"));
            return None;
        }
        Some(written.clone())
    }

    fn whence(&mut self, shape: &Shape) -> Option<Whence> {
        let set =
            |codes: &Spanned<Vec<Country>>| codes.get_ref().iter().copied().collect::<Countries>();
        for codes in [&shape.countries, &shape.not_countries].into_iter().flatten() {
            if codes.get_ref().is_empty() {
                self.problem(codes, "the list of countries is empty: name some, or remove it");
            }
        }
        match (&shape.countries, &shape.not_countries) {
            (Some(_), Some(not)) => {
                self.problem(not, "`countries` and `not_countries` in one rule: keep one of them");
                None
            }
            (Some(codes), None) => Some(Whence::In(set(codes))),
            (None, Some(codes)) => Some(Whence::NotIn(set(codes))),
            (None, None) => None,
        }
    }

    fn excess(&mut self, shape: &Shape, interval: Duration) -> Option<Excess> {
        let (more_than, within) = match (&shape.more_than, &shape.within) {
            (Some(more_than), Some(within)) => (more_than, within),
            (None, None) => return None,
            (Some(alone), None) => {
                self.problem(
                    alone,
                    "`more_than` needs `within`: say in which time, such as \"1m\"",
                );
                return None;
            }
            (None, Some(alone)) => {
                self.problem(alone, "`within` needs `more_than`: say how many are borne");
                return None;
            }
        };
        let time = self.between("within", within, Duration::from_secs(1), LONGEST_WINDOW);
        let is_counted = |kind: &HappeningKind| {
            matches!(kind, HappeningKind::Published | HappeningKind::Delivered)
        };
        if time < COUNTS * interval && shape.on.get_ref().iter().any(is_counted) {
            let wanted = COUNTS * interval;
            let wrong = format!(
                "`within` is too short for messages, which are counted once in `audit.interval` ({interval:?}): wanted at least {wanted:?}"
            );
            self.problem(within, wrong);
        }
        Some(Excess { more_than: *more_than.get_ref(), within: time.as_secs().max(1) })
    }

    fn then(&mut self, shape: &Shape) -> Then {
        let then = shape.then.get_ref();
        let has = |action| then.contains(&action);
        let first =
            |wrong: fn(HappeningKind) -> bool| shape.on.get_ref().iter().find(|kind| wrong(**kind));
        if has(Action::Count) && then.len() > 1 {
            self.problem(&shape.then, "`then` has \"count\" beside others: counted is everything; keep the others, or \"count\" alone");
        }
        if then.is_empty() && shape.ban.is_none() {
            self.problem(
                &shape.then,
                "`then` is empty: wanted \"record\", \"chain\" or both, or \"count\"",
            );
        }
        if has(Action::Chain)
            && let Some(kind) = first(|kind| !kind.is_alert())
        {
            let wrong = format!(
                "`then` has \"chain\", which has no alert for `{}`: what went through is anchored there with \"record\", and of a failed proof nobody can be named",
                kind.word()
            );
            self.problem(&shape.then, wrong);
        }
        if let Some(ban) = &shape.ban {
            if let Some(kind) = first(|kind| !kind.is_own_doing()) {
                let wrong =
                    format!("`ban` for `{}`, which is no doing of the client's", kind.word());
                self.problem(ban, wrong);
            }
            self.between("ban", ban, Duration::from_secs(1), LONGEST_BAN);
        }
        Then {
            record: has(Action::Record),
            chain: has(Action::Chain),
            ban: shape.ban.as_ref().map(|ban| ban.get_ref().0),
        }
    }
}
