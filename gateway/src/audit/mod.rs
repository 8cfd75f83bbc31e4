//! The record: what happened here, on disk and provable, see [`flytrap_record`].
//!
//! ```text
//! session: messages that went through, counted -> Audit::access (or wait for room) ─┐
//! session, door: refusals, failed proofs -> rules -> folded, bounded ── interval ─┼─> Writer -> Store (chained; SQLite or PostgreSQL)
//!                                            └─> alert -> outbox, penalty          └─> batch -> anchor -> submitter -> chain
//! door, conduct, operator: bans and their ends -> outbox, and a record of its own, at once
//! ```
//!
//! Whoever may act on this machine has what is personal about somebody erased ([`Audit::erase`]), which is a record itself.
//!
//! What becomes of a happening the [`Rules`] say, by default: every message on a sensitive topic is recorded, counted per session, topic
//! and interval; every refusal and failed proof, equal ones of an interval as one; plain telemetry moves counters only. Bans, erasures,
//! starts and changed rules are records whatever the rules say. When the disk is slower than what must be recorded, sessions
//! wait for it; what may be folded is folded.

mod anchors;
mod export;
mod fold;
mod reload;
mod relocation;
mod store;
mod unwritten;
mod writer;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, Bytes};
use flytrap_policy::{
    AlertKind, Country, Facts, HappeningKind, Principal, Right, Rules, TopicFacts,
};
use flytrap_record::seal::{Personal, Subject};
use flytrap_record::{Kind, Record};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};

pub use export::{ExportError, export};
pub use reload::follow_rules;
pub use relocation::{MoveError, Relocated, move_records};
pub use store::{Closed, Draft, Place, Reader, Retained, Retention, Store, StoreError, file_in};
pub use unwritten::Lost;
pub use writer::{Anchors, Terms, Writer};

use crate::bans::{Ban, Subject as Banned};
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use crate::outbox::Outbox;
use crate::session::Tally;
use fold::Fold;
use unwritten::Unwritten;

/// What the writer is to do.
#[derive(Debug)]
enum Work {
    Append(Vec<Draft>),
    Erase { subject: Subject, done: oneshot::Sender<Result<bool, String>> },
}

/// Batches of records that may wait for the disk before sessions do.
const MOST_WAITING: usize = 1_024;

/// Where sessions and the door leave what happened. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    work: mpsc::Sender<Work>,
    unwritten: Arc<Unwritten>,
    fold: Arc<Mutex<Fold>>,
    /// That something is in `fold` which does not wait for the interval.
    soon: Arc<Notify>,
    session: Arc<AtomicU64>,
    rules: Arc<Mutex<Rules>>,
    wants_plain: Arc<AtomicBool>,
    outbox: Outbox,
    mirror: Arc<Mirror>,
    metrics: Arc<Metrics>,
}

/// What was left for the [`Writer`].
#[derive(Debug)]
pub struct Inbox {
    waiting: mpsc::Receiver<Work>,
    unwritten: Arc<Unwritten>,
    fold: Arc<Mutex<Fold>>,
    soon: Arc<Notify>,
}

/// Done when the record has room for what it holds.
pub type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What came of what a session let through.
#[must_use = "who goes on without waiting is faster than the disk, and what waits is lost when it is dropped"]
pub struct Accessed {
    /// A rule bans the client for it.
    pub penalty: Option<Penalty>,
    /// The record has no room for it: nothing more may be let through until this is done.
    pub waits: Option<Waiting>,
}

/// A rule bans whoever did it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "a penalty that is dropped bans nobody"]
pub struct Penalty {
    /// The rule's name.
    pub rule: String,
    /// For how long.
    pub ban: Duration,
}

/// Whom a session's records are about.
#[derive(Debug, Clone)]
pub struct Who {
    /// Who has proved itself.
    pub principal: Principal,
    /// Number of the session, see [`Audit::next_session`].
    pub session: u64,
    /// Keyed pseudonym of the client's address.
    pub origin: B256,
    /// Client id as sent.
    pub client_id: Box<str>,
}

/// One refusal or failed proof.
#[derive(Debug, Clone, Copy)]
pub struct Happening<'a> {
    /// What.
    pub kind: HappeningKind,
    /// The rule that decided.
    pub rule: &'static str,
    /// The governing topic, if one governs.
    pub topic_id: Option<B256>,
    /// How many times.
    pub count: u64,
    /// Unix second of the last.
    pub at: u64,
    /// Height of the newest block then.
    pub height: u64,
    /// Who had proved itself; `None` where nobody had.
    pub who: Option<&'a Who>,
    /// Where the client was, if that is known.
    pub country: Option<Country>,
    /// Keyed pseudonym of the client's address.
    pub origin: B256,
    /// Whether it can be held against the client.
    pub blames_client: bool,
}

impl Audit {
    /// Both ends: what is left here, and the rules let through, a [`Writer`] takes out of the other.
    #[must_use]
    pub fn new(
        rules: Rules,
        outbox: Outbox,
        mirror: Arc<Mirror>,
        metrics: Arc<Metrics>,
    ) -> (Self, Inbox) {
        let (work, waiting) = mpsc::channel(MOST_WAITING);
        let (fold, soon) = (Arc::new(Mutex::new(Fold::default())), Arc::new(Notify::new()));
        // Microseconds since 1970, so that no two runs have a session of the same number, and JSON readers keep it exact.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(since.as_micros()).unwrap_or(1);
        let unwritten = Arc::<Unwritten>::default();
        let inbox =
            Inbox { waiting, unwritten: unwritten.clone(), fold: fold.clone(), soon: soon.clone() };
        let audit = Self {
            work,
            unwritten,
            fold,
            soon,
            session: Arc::new(AtomicU64::new(first)),
            wants_plain: Arc::new(AtomicBool::new(rules.want_plain_accesses())),
            rules: Arc::new(Mutex::new(rules)),
            outbox,
            mirror,
            metrics,
        };
        (audit, inbox)
    }

    /// A number for a session that begins.
    #[must_use]
    pub fn next_session(&self) -> u64 {
        self.session.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether messages on topics that are not sensitive have to be counted too, because a rule does something with them.
    #[must_use]
    pub fn wants_plain(&self) -> bool {
        self.wants_plain.load(Ordering::Relaxed)
    }

    /// Judges what a session let through, and records it.
    pub fn access(&self, who: &Who, tallies: Vec<Tally>) -> Accessed {
        let (mut drafts, mut penalty) = (Vec::with_capacity(tallies.len()), None);
        for tally in tallies {
            let kind = match tally.right {
                Right::Publish => HappeningKind::Published,
                Right::Subscribe => HappeningKind::Delivered,
            };
            let topic_id = Some(tally.topic_id).filter(|id| !id.is_zero());
            let judged = self.judge(
                &Happening {
                    kind,
                    rule: tally.basis.as_str(),
                    topic_id,
                    count: tally.count,
                    at: tally.last_at,
                    height: tally.height,
                    who: Some(who),
                    country: who.principal.country,
                    origin: who.origin,
                    blames_client: kind.is_own_doing(),
                },
                Some(tally.sensitive),
            );
            penalty = penalty.or(judged.penalty);
            if judged.record {
                drafts.push(access(who, tally));
            }
        }
        let waits = if drafts.is_empty() { None } else { self.append(drafts) };
        Accessed { penalty, waits }
    }

    /// Puts records on their way to the disk, if need be by waiting for room.
    fn append(&self, drafts: Vec<Draft>) -> Option<Waiting> {
        self.unwritten.add(&drafts);
        match self.work.try_send(Work::Append(drafts)) {
            // The writer ends after all sessions have; without one there is nothing to wait for.
            Ok(()) | Err(TrySendError::Closed(_)) => None,
            Err(TrySendError::Full(work)) => {
                let queue = self.work.clone();
                Some(Box::pin(async move {
                    // As above.
                    let _ = queue.send(work).await;
                }))
            }
        }
    }

    /// What has been left here and is not known to be on the disk. Once the writer has ended, that is lost.
    #[must_use]
    pub fn unwritten(&self) -> Lost {
        self.unwritten.with(&self.fold())
    }

    /// Records that something came into use which later records rest on: `what` names it. Returns when it is on its way to the disk, ahead of
    /// whatever is recorded from then on.
    pub async fn began(&self, what: String, at: u64) {
        let mut began = mark(Kind::Started, at);
        began.record.rule = what;
        self.appended(began).await;
    }

    async fn appended(&self, draft: Draft) {
        if let Some(waits) = self.append(vec![draft]) {
            waits.await;
        }
    }

    /// Records that the owner of a topic told its hidden name, or took it back. Returns when it is on its way to the disk, ahead of whatever
    /// is recorded from then on.
    pub async fn name(&self, kind: Kind, owner: Address, topic_id: B256, epoch: u64) {
        let mut told = mark(kind, self.mirror.now());
        (told.record.wallet, told.record.key) = (owner, owner);
        (told.record.topic_id, told.record.epoch) = (topic_id, epoch);
        told.record.height = self.mirror.peek().height;
        self.appended(told).await;
    }

    /// Makes unreadable for ever what is personal in all records so far about `subject`. Says whether there was anything.
    ///
    /// # Errors
    /// Why it was not done, as a sentence.
    pub async fn erase(&self, subject: Subject) -> Result<bool, String> {
        let (done, answer) = oneshot::channel();
        let gone = || "the gateway stops and writes no more records".to_owned();
        self.work.send(Work::Erase { subject, done }).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Judges a refusal or failed proof: it is folded with its like for the record, told to the chain, or only counted.
    pub fn note(&self, happening: &Happening<'_>) -> Option<Penalty> {
        let judged = self.judge(happening, None);
        if judged.record {
            self.fold().note(happening);
        }
        judged.penalty
    }

    /// `sensitive`: what the permit said of the topic; else it is looked up.
    fn judge(&self, happening: &Happening<'_>, sensitive: Option<bool>) -> Judged {
        let view = self.mirror.peek();
        let topic = happening.topic_id.map(|id| {
            let known = view.head.topic_by_id(id);
            let traits = known.map(|topic| topic.traits.sensitive);
            TopicFacts {
                id,
                name: known.map(|topic| &*topic.name).filter(|name| !name.is_empty()),
                is_sensitive: sensitive.or(traits).unwrap_or_default(),
            }
        });
        let principal = happening.who.map(|who| who.principal);
        let facts = Facts {
            happening: happening.kind,
            topic,
            who: principal.map(|principal| (principal.wallet, principal.key)),
            origin: happening.origin,
            country: happening.country,
            count: happening.count,
            at: happening.at,
        };
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rule) = rules.judge(&facts) else { return Judged::default() };
        self.metrics.decided_by(&rule.name, happening.count);
        let then = rule.then;
        let ban = then.ban.filter(|_| happening.blames_client);
        let penalty = ban.map(|ban| Penalty { rule: rule.name.clone(), ban });
        drop(rules);
        if let (true, Some(kind), Some(principal)) =
            (then.chain, alert_kind(happening.kind), principal)
        {
            let count = u32::try_from(happening.count).unwrap_or(u32::MAX);
            self.outbox.alert(kind, principal.wallet, happening.topic_id, count, happening.at);
        }
        Judged { record: then.record, penalty }
    }

    /// Notes a ban that was just made, for the record and the chain. `cause` is a word for what was done, or by whom.
    pub fn banned(&self, ban: &Ban, cause: &str) {
        self.outbox.ban(ban);
        let mut draft = self.about(Kind::Banned, &ban.subject, ban.since);
        draft.record.rule = format!("{cause} until {}", ban.until);
        self.keep(draft);
    }

    /// Notes that a ban was lifted, by `operator` or on `chain`.
    pub fn ban_lifted(&self, subject: &Banned, by: &str) {
        let mut draft = self.about(Kind::BanLifted, subject, self.mirror.now());
        by.clone_into(&mut draft.record.rule);
        self.keep(draft);
    }

    /// Puts other rules in force: from the next happening on, and what was counted for the old ones is forgotten. `hash`: of their file.
    pub async fn exchange_rules(&self, rules: Rules, hash: B256) {
        let mut changed = mark(Kind::RulesChanged, self.mirror.now());
        changed.record.rule = rules_word(hash);
        // On its way to the disk ahead of whatever the new rules decide.
        self.appended(changed).await;
        self.wants_plain.store(rules.want_plain_accesses(), Ordering::Relaxed);
        *self.rules.lock().unwrap_or_else(PoisonError::into_inner) = rules;
    }

    /// A record about whom a ban is, or was, against.
    fn about(&self, kind: Kind, subject: &Banned, at: u64) -> Draft {
        let mut draft = mark(kind, at);
        draft.record.height = self.mirror.peek().height;
        match subject {
            Banned::Wallet(wallet) => (draft.record.wallet, draft.record.key) = (*wallet, *wallet),
            _ => {
                let origin = self.outbox.pseudonym(subject);
                draft.personal = origin.map(|origin| {
                    (Subject::Origin(origin), Personal { origin, ..Personal::default() })
                });
            }
        }
        draft
    }

    fn keep(&self, draft: Draft) {
        self.fold().keep(draft);
        self.soon.notify_one();
    }

    fn fold(&self) -> MutexGuard<'_, Fold> {
        self.fold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the rules say of one happening.
#[derive(Debug, Default)]
struct Judged {
    record: bool,
    penalty: Option<Penalty>,
}

fn access(who: &Who, tally: Tally) -> Draft {
    let kind = match tally.right {
        Right::Publish => Kind::Published,
        Right::Subscribe => Kind::Delivered,
    };
    let Principal { wallet, key, country, .. } = who.principal;
    let record = Record {
        index: 0,
        kind,
        wallet,
        key,
        session: who.session,
        topic_id: tally.topic_id,
        epoch: tally.epoch,
        count: tally.count,
        octets: tally.octets,
        first_at: tally.first_at,
        last_at: tally.last_at,
        height: tally.height,
        rule: tally.basis.as_str().to_owned(),
        country: country.map(|country| country.to_string()).unwrap_or_default(),
        personal: Bytes::new(),
    };
    let name = tally.name.map(|name| String::from_utf8_lossy(&name).into_owned());
    let personal = Personal {
        origin: who.origin,
        client_id: who.client_id.to_string(),
        name: name.unwrap_or_default(),
    };
    Draft { record, personal: Some((Subject::Wallet(wallet), personal)) }
}

/// What a refusal that alerts know by `kind` is to the rules.
#[must_use]
pub fn kind_of(kind: AlertKind) -> HappeningKind {
    match kind {
        AlertKind::PublishRefused => HappeningKind::PublishRefused,
        AlertKind::SubscribeRefused => HappeningKind::SubscribeRefused,
        AlertKind::WillRefused => HappeningKind::WillRefused,
        AlertKind::DeliveryWithheld => HappeningKind::DeliveryWithheld,
        AlertKind::SessionEnded => HappeningKind::SessionEnded,
    }
}

/// What it is to the chain, which has no word for some.
fn alert_kind(kind: HappeningKind) -> Option<AlertKind> {
    match kind {
        HappeningKind::PublishRefused => Some(AlertKind::PublishRefused),
        HappeningKind::SubscribeRefused => Some(AlertKind::SubscribeRefused),
        HappeningKind::WillRefused => Some(AlertKind::WillRefused),
        HappeningKind::DeliveryWithheld => Some(AlertKind::DeliveryWithheld),
        HappeningKind::SessionEnded => Some(AlertKind::SessionEnded),
        HappeningKind::Published | HappeningKind::Delivered | HappeningKind::ProofFailed => None,
    }
}

/// What it is in the record.
fn record_kind(kind: HappeningKind) -> Kind {
    match kind {
        HappeningKind::Published => Kind::Published,
        HappeningKind::Delivered => Kind::Delivered,
        HappeningKind::PublishRefused => Kind::PublishRefused,
        HappeningKind::SubscribeRefused => Kind::SubscribeRefused,
        HappeningKind::WillRefused => Kind::WillRefused,
        HappeningKind::DeliveryWithheld => Kind::DeliveryWithheld,
        HappeningKind::SessionEnded => Kind::SessionEnded,
        HappeningKind::ProofFailed => Kind::ProofFailed,
    }
}

/// A record about the gateway itself. One that starts without having stopped was killed, and counts of its last interval may be missing.
fn mark(kind: Kind, now: u64) -> Draft {
    let record = Record {
        index: 0,
        kind,
        wallet: Address::ZERO,
        key: Address::ZERO,
        session: 0,
        topic_id: B256::ZERO,
        epoch: 0,
        count: 1,
        octets: 0,
        first_at: now,
        last_at: now,
        height: 0,
        rule: String::new(),
        country: String::new(),
        personal: Bytes::new(),
    };
    Draft { record, personal: None }
}

/// The hash of a rules file as a record carries it, without `0x` since that is as long as a rule may be; empty without a file.
fn rules_word(hash: B256) -> String {
    if hash.is_zero() { String::new() } else { alloy_primitives::hex::encode(hash) }
}

/// Nobody.
const NOBODY: Address = Address::ZERO;

#[cfg(test)]
mod tests {
    use flytrap_policy::{Credential, CredentialKind, Options, Rule, Then};
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::bans::Bans;
    use crate::bans::tests::{KEY, ban, wallet};
    use crate::config::{ChainConfig, Secret};

    fn audit(rules: Vec<Rule>) -> (Audit, Inbox) {
        let metrics = Metrics::register(&mut Registry::default());
        let (mirror, _writer) = Mirror::new(&ChainConfig::for_tests(), Options::default());
        let bans = Arc::new(Bans::new(Secret::new(KEY), Vec::new()));
        let outbox = Outbox::new(true, bans, metrics.clone());
        Audit::new(Rules::new(rules), outbox, mirror, metrics)
    }

    fn who() -> Who {
        let credential =
            Credential { kind: CredentialKind::Token, issued_at: 0, expires_at: u64::MAX };
        let [wallet, key] = [1, 2].map(Address::with_last_byte);
        let principal = Principal { wallet, key, credential, country: None };
        Who { principal, session: 1, origin: B256::repeat_byte(3), client_id: "c".into() }
    }

    fn refusal(who: &Who, blames_client: bool) -> Happening<'_> {
        Happening {
            kind: HappeningKind::PublishRefused,
            rule: "no-grant",
            topic_id: None,
            count: 1,
            at: 10,
            height: 1,
            who: Some(who),
            country: who.principal.country,
            origin: who.origin,
            blames_client,
        }
    }

    fn tally(sensitive: bool) -> Tally {
        Tally {
            right: Right::Publish,
            basis: flytrap_policy::Basis::Grant,
            topic_id: B256::repeat_byte(5),
            sensitive,
            epoch: 1,
            count: 3,
            octets: 30,
            first_at: 10,
            last_at: 11,
            height: 1,
            name: None,
        }
    }

    fn kinds(inbox: &Inbox) -> Vec<(Kind, String)> {
        let drafts = inbox.fold.lock().unwrap().drain();
        drafts.into_iter().map(|draft| (draft.record.kind, draft.record.rule)).collect()
    }

    #[tokio::test]
    async fn a_rule_punishes_only_what_the_client_is_to_blame_for() {
        let ban = Some(Duration::from_secs(60));
        let then = Then { record: false, chain: false, ban };
        let (audit, mut inbox) =
            audit(vec![Rule::on("strict", &[HappeningKind::PublishRefused], then)]);
        let who = who();
        assert_eq!(audit.note(&refusal(&who, false)), None);
        let penalty = audit.note(&refusal(&who, true)).expect("a penalty");
        assert_eq!((penalty.rule.as_str(), Some(penalty.ban)), ("strict", ban));
        assert_eq!(kinds(&inbox), [], "the rule does not record");
        audit.exchange_rules(Rules::default(), B256::repeat_byte(0xAB)).await;
        assert_eq!(audit.note(&refusal(&who, true)), None);
        assert_eq!(kinds(&inbox), [(Kind::PublishRefused, "no-grant".to_owned())]);
        // Ahead of all that the new rules decide.
        let Some(Work::Append(drafts)) = inbox.waiting.recv().await else { panic!("no work") };
        let told: Vec<_> = drafts.iter().map(|d| (d.record.kind, d.record.rule.clone())).collect();
        assert_eq!(told, [(Kind::RulesChanged, "ab".repeat(32))]);
    }

    /// The topic is not in the mirror any more when it is judged; what the permit said counts.
    #[tokio::test]
    async fn accesses_are_sensitive_as_their_permit_was() {
        let (audit, mut inbox) = audit(Vec::new());
        assert!(!audit.wants_plain());
        let accessed = audit.access(&who(), vec![tally(false), tally(true)]);
        assert!(accessed.penalty.is_none() && accessed.waits.is_none());
        let Some(Work::Append(drafts)) = inbox.waiting.recv().await else { panic!("no work") };
        assert_eq!(drafts.iter().map(|draft| draft.record.count).collect::<Vec<_>>(), [3]);
        assert!(inbox.waiting.try_recv().is_err());
    }

    /// One that is counted on the disk and was not before would make the whole count wrong.
    #[tokio::test]
    async fn whatever_is_on_its_way_to_the_disk_is_counted_until_it_is_there() {
        let (audit, mut inbox) = audit(Vec::new());
        audit.name(Kind::NameErased, Address::with_last_byte(1), B256::ZERO, 1).await;
        audit.began("a database".to_owned(), 1).await;
        audit.exchange_rules(Rules::default(), B256::ZERO).await;
        assert!(audit.access(&who(), vec![tally(true)]).waits.is_none());
        let lost = audit.unwritten();
        assert_eq!((lost.accesses(), lost.refusals(), lost.others()), (1, 0, 3));
        while let Ok(Work::Append(drafts)) = inbox.waiting.try_recv() {
            inbox.unwritten.written(&drafts);
        }
        assert!(audit.unwritten().is_empty());
    }

    #[test]
    fn bans_and_their_ends_are_records_of_their_own_and_name_no_address() {
        let (audit, inbox) = audit(Vec::new());
        let origin: Banned = "192.0.2.7".parse().expect("an origin");
        audit.banned(&ban(wallet(1), 100), "operator");
        audit.banned(&ban(origin, 200), "failed-proofs");
        audit.ban_lifted(&origin, "chain");
        let drafts = inbox.fold.lock().unwrap().take_singles();
        let told: Vec<_> = drafts.iter().map(|d| (d.record.kind, d.record.rule.as_str())).collect();
        let wanted = [
            (Kind::Banned, "operator until 100"),
            (Kind::Banned, "failed-proofs until 200"),
            (Kind::BanLifted, "chain"),
        ];
        assert_eq!(told, wanted);
        assert_eq!(drafts[0].record.wallet, Address::with_last_byte(1));
        assert!(drafts[1].record.wallet.is_zero());
        assert!(matches!(drafts[1].personal, Some((Subject::Origin(p), _)) if !p.is_zero()));
        assert!(drafts.into_iter().all(|d| Record { index: 1, ..d.record }.check().is_ok()));
    }
}
