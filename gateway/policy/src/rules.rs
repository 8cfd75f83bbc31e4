//! Audit rules: what becomes of a happening. On chain, in the record, counted only; and whether whoever did it is banned.
//!
//! Rules are asked in their order and the first that matches decides. The operator's come first, [`Rules::built_in`] last, so a file of
//! one rule changes only what that rule is about. Nothing here can be switched off by accident: bans, erasures and starts are no
//! happenings of this kind, and that a rule keeps accesses to sensitive topics out of the record is [told](Rules::warnings).

mod window;

use std::fmt;
use std::time::Duration;

use alloy_primitives::{Address, B256};
use serde::Deserialize;

use crate::{Countries, Country};
use window::Windows;

/// What can happen to, or be done by, a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HappeningKind {
    /// Messages of the client that went to the broker.
    Published,
    /// Messages that went to the client.
    Delivered,
    /// Messages of the client that did not go to the broker.
    PublishRefused,
    /// Filters that were not asked of the broker.
    SubscribeRefused,
    /// A session that was not opened, or ended, because of its will.
    WillRefused,
    /// Messages that did not go to the client.
    DeliveryWithheld,
    /// Filters taken back, and sessions that ended, because a right did.
    SessionEnded,
    /// Attempts to prove an identity that failed.
    ProofFailed,
}

impl HappeningKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Published,
        Self::Delivered,
        Self::PublishRefused,
        Self::SubscribeRefused,
        Self::WillRefused,
        Self::DeliveryWithheld,
        Self::SessionEnded,
        Self::ProofFailed,
    ];

    /// Its word in rules.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Delivered => "delivered",
            Self::PublishRefused => "publish-refused",
            Self::SubscribeRefused => "subscribe-refused",
            Self::WillRefused => "will-refused",
            Self::DeliveryWithheld => "delivery-withheld",
            Self::SessionEnded => "session-ended",
            Self::ProofFailed => "proof-failed",
        }
    }

    /// Whether it went through: a message that had a permit.
    #[must_use]
    pub const fn is_access(self) -> bool {
        matches!(self, Self::Published | Self::Delivered)
    }

    /// Whether the chain has a word for it. What went through is anchored there, and of a failed proof nobody can be named.
    #[must_use]
    pub const fn is_alert(self) -> bool {
        !self.is_access() && !matches!(self, Self::ProofFailed)
    }

    /// Whether the client does it. What others send to it, or take from it, is not its doing.
    #[must_use]
    pub const fn is_own_doing(self) -> bool {
        !matches!(self, Self::Delivered | Self::DeliveryWithheld | Self::SessionEnded)
    }
}

/// Everything about a happening that a rule can ask for.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What.
    pub happening: HappeningKind,
    /// The governing topic, if one governs.
    pub topic: Option<TopicFacts<'a>>,
    /// The wallet and the key that have proved themselves; `None` where nobody had.
    pub who: Option<(Address, Address)>,
    /// What stands for where the client is.
    pub origin: B256,
    /// Country of the client, if it is known.
    pub country: Option<Country>,
    /// How many times, at once.
    pub count: u64,
    /// Unix second of the last.
    pub at: u64,
}

/// What a rule can ask of a topic.
#[derive(Debug, Clone, Copy)]
pub struct TopicFacts<'a> {
    /// Its id.
    pub id: B256,
    /// Its name, unless it is hidden.
    pub name: Option<&'a str>,
    /// Is it marked as sensitive?
    pub is_sensitive: bool,
}

/// When a rule matches, and what is done then. Empty conditions hold always.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// For the log, metrics and messages.
    pub name: String,
    /// One of these happened.
    pub on: Vec<HappeningKind>,
    /// The governing topic is one of these, or at or below one of `branches`.
    pub topics: Vec<NamedTopic>,
    /// See `topics`.
    pub branches: Vec<String>,
    /// The governing topic is marked as sensitive, or is not.
    pub sensitive: Option<bool>,
    /// The wallet or the key is one of these.
    pub wallets: Vec<Address>,
    /// The client is there.
    pub countries: Option<Whence>,
    /// There were so many.
    pub excess: Option<Excess>,
    /// What is done.
    pub then: Then,
}

/// A topic as a rule names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTopic {
    /// Its id.
    pub id: B256,
    /// As it was written: its name or its id.
    pub written: String,
}

/// Where a client is, as a rule asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whence {
    /// In one of these.
    In(Countries),
    /// Somewhere else, or nobody knows where.
    NotIn(Countries),
}

/// More of what a rule is about than this, by the same key, or from the same origin where nobody has proved anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Excess {
    /// As many as are borne.
    pub more_than: u64,
    /// In so many seconds, at least 1. Counted in tenths of it: up to a tenth longer.
    pub within: u64,
}

/// What is done with a happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Then {
    /// It is written into the record.
    pub record: bool,
    /// An alert goes on chain with the next transaction.
    pub chain: bool,
    /// Whoever did it is banned for so long.
    pub ban: Option<Duration>,
}

impl Rule {
    /// A rule about these happenings that asks for nothing else.
    #[must_use]
    pub fn on(name: impl Into<String>, on: &[HappeningKind], then: Then) -> Self {
        Self {
            name: name.into(),
            on: on.to_vec(),
            topics: Vec::new(),
            branches: Vec::new(),
            sensitive: None,
            wallets: Vec::new(),
            countries: None,
            excess: None,
            then,
        }
    }

    /// Whether all holds but the number of times.
    fn is_about(&self, facts: &Facts<'_>) -> bool {
        let is_sensitive = facts.topic.is_some_and(|topic| topic.is_sensitive);
        self.on.contains(&facts.happening)
            && self.sensitive.is_none_or(|wanted| wanted == is_sensitive)
            && self.is_about_topic(facts.topic.as_ref())
            && (self.wallets.is_empty()
                || facts.who.is_some_and(|(wallet, key)| {
                    self.wallets.contains(&wallet) || self.wallets.contains(&key)
                }))
            && match &self.countries {
                None => true,
                Some(Whence::In(set)) => facts.country.is_some_and(|c| set.contains(c)),
                Some(Whence::NotIn(set)) => facts.country.is_none_or(|c| !set.contains(c)),
            }
    }

    fn is_about_topic(&self, topic: Option<&TopicFacts<'_>>) -> bool {
        if self.topics.is_empty() && self.branches.is_empty() {
            return true;
        }
        topic.is_some_and(|topic| {
            self.topics.iter().any(|named| named.id == topic.id)
                || topic
                    .name
                    .is_some_and(|name| self.branches.iter().any(|branch| is_in(branch, name)))
        })
    }

    /// Whether it may be about messages that went through on a topic that is not sensitive, and does more than count them.
    fn wants_plain_accesses(&self) -> bool {
        let does_something = self.then != Then::default();
        does_something && self.sensitive != Some(true) && self.on.iter().any(|on| on.is_access())
    }

    /// Whether it keeps accesses to sensitive topics out of the record.
    fn hides_sensitive(&self) -> bool {
        !self.then.record
            && self.sensitive != Some(false)
            && self.on.iter().any(|happening| happening.is_access())
    }
}

/// Whether a name is `branch` or below it.
fn is_in(branch: &str, name: &str) -> bool {
    name.strip_prefix(branch).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Rules in force, and what they count.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    /// How many of them are the operator's.
    own: usize,
    windows: Vec<Option<Windows>>,
}

impl Default for Rules {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Rules {
    /// The operator's rules, with [`Rules::built_in`] after them.
    #[must_use]
    pub fn new(own: Vec<Rule>) -> Self {
        let (count, mut rules) = (own.len(), own);
        rules.extend(Self::built_in());
        let windows = rules.iter().map(|rule| rule.excess.map(Windows::new)).collect();
        Self { rules, own: count, windows }
    }

    /// What is done where no rule of the operator says otherwise: accesses to sensitive topics and failed proofs are recorded, other
    /// accesses only counted, refusals recorded and told to the chain.
    #[must_use]
    pub fn built_in() -> [Rule; 4] {
        use HappeningKind::*;
        let record = Then { record: true, ..Then::default() };
        let sensitive = Rule::on("sensitive topics", &[Published, Delivered], record);
        let refusals =
            [PublishRefused, SubscribeRefused, WillRefused, DeliveryWithheld, SessionEnded];
        [
            Rule { sensitive: Some(true), ..sensitive },
            Rule::on("telemetry", &[Published, Delivered], Then::default()),
            Rule::on("refusals", &refusals, Then { chain: true, ..record }),
            Rule::on("failed proofs", &[ProofFailed], record),
        ]
    }

    /// The first rule that matches, which is what is done. Counts the happening for every rule up to it.
    pub fn judge(&mut self, facts: &Facts<'_>) -> Option<&Rule> {
        let who = facts.who.map_or(facts.origin, |(_, key)| key.into_word());
        for (rule, windows) in self.rules.iter().zip(&mut self.windows) {
            let matches = rule.is_about(facts)
                && match windows {
                    None => true,
                    Some(windows) => windows.exceeds(who, facts.count, facts.at),
                };
            if matches {
                return Some(rule);
            }
        }
        None
    }

    /// All rules in their order, the operator's first.
    #[must_use]
    pub fn all(&self) -> &[Rule] {
        &self.rules
    }

    /// How many are the operator's.
    #[must_use]
    pub const fn own(&self) -> usize {
        self.own
    }

    /// Whether messages on topics that are not sensitive have to be counted one by one for some rule.
    #[must_use]
    pub fn want_plain_accesses(&self) -> bool {
        self.rules.iter().any(Rule::wants_plain_accesses)
    }

    /// What a reader of the rules should know and might not see, each in a sentence.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let own = self.rules.iter().take(self.own);
        own.filter(|rule| rule.hides_sensitive())
            .map(|rule| {
                format!(
                    "rule \"{}\" keeps accesses to sensitive topics out of the record: say `sensitive = false` in it, or add \"record\" to its `then`",
                    rule.name
                )
            })
            .collect()
    }
}

impl fmt::Display for Rule {
    /// One sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on: Vec<&str> = self.on.iter().map(|happening| happening.word()).collect();
        match self.excess {
            None => f.write_str("each ")?,
            Some(Excess { more_than, within }) => {
                write!(f, "more than {more_than} in {within} s by one key or origin of ")?;
            }
        }
        f.write_str(&on.join(", "))?;
        match self.sensitive {
            Some(true) => f.write_str(" on a sensitive topic")?,
            Some(false) => f.write_str(" not on a sensitive topic")?,
            None => {}
        }
        let mut places: Vec<String> =
            self.topics.iter().map(|named| named.written.clone()).collect();
        places.extend(self.branches.iter().map(|branch| format!("{branch}/#")));
        if !places.is_empty() {
            write!(f, " governed by {}", places.join(" or "))?;
        }
        if !self.wallets.is_empty() {
            let wallets: Vec<String> = self.wallets.iter().map(ToString::to_string).collect();
            write!(f, " by {}", wallets.join(" or "))?;
        }
        let listed = |set: &Countries| {
            set.iter().map(|country| country.to_string()).collect::<Vec<_>>().join(", ")
        };
        match &self.countries {
            None => {}
            Some(Whence::In(set)) => write!(f, " from {}", listed(set))?,
            Some(Whence::NotIn(set)) => {
                write!(f, " from elsewhere than {}, or unknown", listed(set))?;
            }
        }
        let mut done = Vec::new();
        if self.then.record {
            done.push("recorded".to_owned());
        }
        if self.then.chain {
            done.push("told to the chain".to_owned());
        }
        if let Some(ban) = self.then.ban {
            done.push(format!("answered with a ban of {} s", ban.as_secs()));
        }
        if !self.then.record {
            done.push("otherwise only counted".to_owned());
        }
        write!(
            f,
            " is {}",
            if done.len() == 1 && !self.then.record {
                "only counted".to_owned()
            } else {
                done.join(", ")
            }
        )
    }
}

#[cfg(test)]
mod tests;
