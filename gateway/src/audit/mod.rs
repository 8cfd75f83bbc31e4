//! The record: what happened here, on disk and provable, see [`flytrap_record`].
//!
//! ```text
//! session: messages on sensitive topics, counted -> Audit::access (waits for room) ──┐
//! session, door: refusals, failed proofs, bans -> folded, bounded ── each interval ──┼─> Writer -> Store (SQLite, chained)
//!                                                                                    └─> batch -> anchor -> submitter -> chain
//! ```
//!
//! Whoever may act on this machine has what is personal about somebody erased ([`Audit::erase`]), which is a record itself.
//!
//! Which happenings become records: every message on a sensitive topic, counted per session, topic and interval; every refusal, failed
//! proof and ban, equal ones of an interval as one; starts. Plain telemetry moves counters only. When the disk is slower than
//! what must be recorded, sessions wait for it; what may be folded is folded.

mod anchors;
mod export;
mod fold;
mod store;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use alloy_primitives::{Address, B256, Bytes};
use flytrap_policy::{AlertKind, Country, Principal, Right};
use flytrap_record::seal::{Personal, Subject};
use flytrap_record::{Kind, Record};
use tokio::sync::{mpsc, oneshot};

pub use export::{ExportError, export};
pub use store::{Closed, Draft, Reader, Store, StoreError, file_in};
pub use writer::{Anchors, Terms, Writer};

use crate::session::Tally;
use fold::Fold;

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
    fold: Arc<Mutex<Fold>>,
    session: Arc<AtomicU64>,
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

/// One refusal or other happening that is folded.
#[derive(Debug, Clone, Copy)]
pub struct Happening<'a> {
    /// What.
    pub kind: Kind,
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
}

impl Audit {
    /// Both ends: what is left here, [`Writer::run`] writes into `store`.
    #[must_use]
    pub fn new(store: Store) -> (Self, Writer) {
        let (sender, waiting) = mpsc::channel(MOST_WAITING);
        let fold = Arc::new(Mutex::new(Fold::default()));
        // Microseconds since 1970, so that no two runs have a session of the same number, and JSON readers keep it exact.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let first = u64::try_from(since.as_micros()).unwrap_or(1);
        let audit =
            Self { work: sender, fold: fold.clone(), session: Arc::new(AtomicU64::new(first)) };
        (audit, Writer::new(store, waiting, fold))
    }

    /// A number for a session that begins.
    #[must_use]
    pub fn next_session(&self) -> u64 {
        self.session.fetch_add(1, Ordering::Relaxed)
    }

    /// Records what a session let through. Waits for as long as the disk is behind, and the session with it.
    pub async fn access(&self, who: &Who, tallies: Vec<Tally>) {
        if tallies.is_empty() {
            return;
        }
        let drafts = tallies.into_iter().map(|tally| access(who, tally)).collect();
        // The writer ends after all sessions have; without one there is nothing to wait for.
        let _ = self.work.send(Work::Append(drafts)).await;
    }

    /// Records that something came into use which later records rest on: `what` names it. Returns when it is on its way to the disk, ahead of
    /// whatever is recorded from then on.
    pub async fn began(&self, what: String, at: u64) {
        let mut mark = writer::mark(Kind::Started, at);
        mark.record.rule = what;
        // As with `access`.
        let _ = self.work.send(Work::Append(vec![mark])).await;
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

    /// Notes something that is folded with its like.
    pub fn note(&self, happening: &Happening<'_>) {
        self.fold.lock().unwrap_or_else(PoisonError::into_inner).note(happening);
    }
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

/// What a refusal that alerts know by `kind` is in the record.
#[must_use]
pub fn kind_of(kind: AlertKind) -> Kind {
    match kind {
        AlertKind::PublishRefused => Kind::PublishRefused,
        AlertKind::SubscribeRefused => Kind::SubscribeRefused,
        AlertKind::WillRefused => Kind::WillRefused,
        AlertKind::DeliveryWithheld => Kind::DeliveryWithheld,
        AlertKind::SessionEnded => Kind::SessionEnded,
    }
}

/// Nobody.
const NOBODY: Address = Address::ZERO;
