//! Hidden names that owners of topics have told this gateway, and took back.
//!
//! ```text
//! signed request -> check (chain, time) -> signature (key, or contract at the desk) -> newest of its topic? -> disk -> mirror -> record
//! ```
//!
//! Names are in a file of the state directory and in memory, nowhere else: not in the log, not in the record, not in the snapshot of the mirror.
//! What is taken back is overwritten on the disk and out of every decision before the request is answered. Each gateway is told by itself.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256};
use flytrap_policy::credential::{LONGEST_SIGNATURE, Site, name_request_digest};
use flytrap_policy::{NameEntry, NameRefusal, NameRequest, NameWish, Names, Origin, View};
use flytrap_record::Kind;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::audit::Audit;
use crate::kept_rows::{KeptRows, Table, Unreadable};
use crate::mirror::{Mirror, MirrorWriter};
use crate::wallet_desk::{Unanswered, WalletDesk};

const TABLE: Table = Table {
    name: "hidden_names",
    file: "hidden-names.sqlite",
    key: "topic",
    value: "entry",
    most: Names::MOST,
};
/// How long a request waits for those before it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a topic has to be gone before what its owner said of its name is forgotten: a reorganisation may bring it back.
const GONE_FOR: Duration = Duration::from_secs(3_600);
/// How often that is looked at.
const EVERY: Duration = Duration::from_secs(300);

/// What was known when the gateway was ended, and where it is written down.
#[derive(Debug)]
pub struct Known {
    rows: KeptRows,
    names: Names,
}

impl Known {
    /// Opens `hidden-names.sqlite` in the state directory, made if it is missing.
    ///
    /// # Errors
    /// [`Unreadable`] if any of it is damaged: without it names would come back that were taken back.
    pub fn open(state_dir: &Path) -> Result<Self, Unreadable> {
        let parse = |topic: &str, text: &str| {
            let id: B256 = topic.parse().map_err(|_| "it is about no topic".to_owned())?;
            // What is wrong with it may be told with a part of it.
            let (of, entry) = serde_json::from_str::<(B256, NameEntry)>(text)
                .map_err(|error| format!("column {}", error.column()))?;
            // Damage must not make it one of another topic.
            if of == id { Ok((id, entry)) } else { Err("it was written for another".to_owned()) }
        };
        let (rows, entries) = KeptRows::open(state_dir, TABLE, parse)?;
        Ok(Self { rows, names: entries.into_iter().collect() })
    }

    /// What there is now of these topics, on the disk and then in memory.
    fn change(&mut self, changes: Vec<(B256, Option<NameEntry>)>) -> Result<(), String> {
        let row = |(id, entry): &(B256, Option<NameEntry>)| {
            let text = entry.as_ref().map(|entry| serde_json::to_string(&(id, entry)));
            Ok::<_, serde_json::Error>((id.to_string(), text.transpose()?))
        };
        let rows: Vec<_> =
            changes.iter().map(row).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
        self.rows.write(&rows).map_err(|error| error.to_string())?;
        for (id, entry) in changes {
            match entry {
                Some(entry) => self.names.put(id, entry),
                None => self.names.remove(id),
            }
        }
        Ok(())
    }
}

/// A request as it came, with its signature.
pub struct Signed {
    /// Whose it claims to be.
    pub owner: Address,
    /// The topic.
    pub topic_id: B256,
    /// Its epoch.
    pub epoch: u64,
    /// When it was signed.
    pub issued_at: u64,
    /// When it ends.
    pub expires_at: u64,
    /// Salt and name; `None` to take the name back.
    pub told: Option<(B256, String)>,
    /// Over all of that.
    pub signature: Vec<u8>,
}

impl Signed {
    fn request(&self) -> NameRequest<'_> {
        let wish = match &self.told {
            Some((salt, name)) => NameWish::Disclose { salt: *salt, name },
            None => NameWish::Erase,
        };
        let Self { owner, topic_id, epoch, issued_at, expires_at, .. } = *self;
        NameRequest { owner, topic_id, epoch, issued_at, expires_at, wish }
    }
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.request().fmt(f)
    }
}

/// Why a request was not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfollowed {
    /// It does not count.
    #[error(transparent)]
    Refused(#[from] NameRefusal),
    /// Too little is known of the chain.
    #[error("the gateway does not know enough of the chain at this moment")]
    Unfit,
    /// The contract of the owner could not be asked.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
    /// Others are before it.
    #[error("too many such requests at once: ask again")]
    Busy,
    /// It could not be written down, and is not in force.
    #[error("it cannot be written down: the operator finds why in the log")]
    Disk,
}

/// Follows requests of owners.
#[derive(Debug)]
pub struct HiddenNames {
    site: Site,
    mirror: Arc<Mirror>,
    writer: Arc<MirrorWriter>,
    desk: Option<Arc<WalletDesk>>,
    audit: Audit,
    known: Arc<Mutex<Known>>,
}

impl HiddenNames {
    /// Puts in force what was known before.
    pub fn new(
        known: Known,
        site: Site,
        mirror: Arc<Mirror>,
        writer: Arc<MirrorWriter>,
        desk: Option<Arc<WalletDesk>>,
        audit: Audit,
    ) -> Self {
        let names = known.names.count();
        if names > 0 {
            info!(names, "hidden names that were told in an earlier run are known");
        }
        writer.know(known.names.clone());
        Self { site, mirror, writer, desk, audit, known: Arc::new(Mutex::new(known)) }
    }

    /// What they are laid over.
    pub fn mirror(&self) -> &Arc<Mirror> {
        &self.mirror
    }

    /// Follows a request, which is on the disk and in force then, on open sessions too. `false` if the name was known before as it is now, or
    /// was not.
    ///
    /// # Errors
    /// [`Unfollowed`]: all is as it was.
    pub async fn follow(
        self: &Arc<Self>,
        origin: Origin,
        signed: Signed,
    ) -> Result<bool, Unfollowed> {
        signed.request().check(&*self.view()?, self.mirror.now())?;
        self.prove(origin, &signed).await?;
        let this = self.clone();
        // What was begun is done, though whoever asked may go: disk, decisions and record are to say the same.
        tokio::spawn(async move { this.settle(signed).await })
            .await
            .unwrap_or(Err(Unfollowed::Disk))
    }

    fn view(&self) -> Result<Arc<View>, Unfollowed> {
        let is_fit = self.mirror.fitness().decides();
        is_fit.then(|| self.mirror.current()).ok_or(Unfollowed::Unfit)
    }

    async fn prove(&self, origin: Origin, signed: &Signed) -> Result<(), Unfollowed> {
        let request = signed.request();
        if request.is_signed_by_owner(&self.site, &signed.signature) {
            return Ok(());
        }
        let is_one = (1..=LONGEST_SIGNATURE).contains(&signed.signature.len());
        let Some(desk) = self.desk.as_ref().filter(|_| is_one) else {
            return Err(NameRefusal::Signature.into());
        };
        let digest = name_request_digest(&self.site, &request);
        match desk.ask(origin, request.owner, digest, &signed.signature).await? {
            true => Ok(()),
            false => Err(NameRefusal::Signature.into()),
        }
    }

    async fn settle(&self, signed: Signed) -> Result<bool, Unfollowed> {
        let mut known = self.lock().await?;
        let view = self.view()?;
        // The topic may have changed hands while the contract was asked.
        signed.request().check(&view, self.mirror.now())?;
        let Some(entry) = known.names.judge(&signed.request(), &view)? else { return Ok(false) };
        let Signed { owner, topic_id, epoch, .. } = signed;
        let (is_told, was) = (entry.name.is_some(), known.names.told_in(topic_id));
        let is_new = if is_told { was != Some(epoch) } else { was.is_some() };
        // What begins with a name that is taken back goes with it.
        let below = if is_told { Vec::new() } else { known.names.below(topic_id) };
        let mut changed = vec![(topic_id, epoch)];
        changed.extend(below.iter().map(|(id, entry)| (*id, entry.epoch)));
        let writer = self.writer.clone();
        let done = tokio::task::spawn_blocking(move || {
            let all = below.into_iter().chain([(topic_id, entry)]);
            known.change(all.map(|(id, entry)| (id, Some(entry))).collect())?;
            if is_new {
                writer.know(known.names.clone());
            }
            Ok::<_, String>(known)
        });
        // Kept until it is on its way to the record: that has things in the order in which they were in force.
        let _known = match done.await.unwrap_or_else(|fault| Err(fault.to_string())) {
            Ok(known) => known,
            Err(why) => {
                error!(why, topic = %topic_id, "a hidden name is neither known nor forgotten as its owner asks: mend the disk of `state_dir`");
                return Err(Unfollowed::Disk);
            }
        };
        if is_new {
            let kind = if is_told { Kind::NameDisclosed } else { Kind::NameErased };
            for (topic_id, epoch) in changed {
                self.audit.name(kind, owner, topic_id, epoch).await;
                info!(topic = %topic_id, %owner, what = kind.word(), "followed the owner of a hidden name");
            }
        }
        Ok(is_new)
    }

    async fn lock(&self) -> Result<OwnedMutexGuard<Known>, Unfollowed> {
        timeout(PATIENCE, self.known.clone().lock_owned()).await.map_err(|_| Unfollowed::Busy)
    }

    /// Forgets names of topics that are gone, and what was taken back so long ago that no request about it counts, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut timer = interval(EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gone = HashMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = timer.tick() => self.forget_gone(&mut gone, Instant::now()).await,
            }
        }
    }

    async fn forget_gone(&self, gone: &mut HashMap<B256, Instant>, now: Instant) {
        let (Ok(view), Ok(mut known)) = (self.view(), self.lock().await) else { return };
        let mut forgotten = gone_for_long(gone, known.names.without_topic(&view).collect(), now);
        forgotten.extend(known.names.over(self.mirror.now()));
        if forgotten.is_empty() {
            return;
        }
        // Most are of names that were taken back, and nobody need judge again for those.
        let is_shown = forgotten.iter().any(|id| known.names.told_in(*id).is_some());
        let writer = self.writer.clone();
        let done = tokio::task::spawn_blocking(move || {
            known.change(forgotten.iter().map(|id| (*id, None)).collect())?;
            if is_shown {
                writer.know(known.names.clone());
            }
            Ok::<_, String>(forgotten.len())
        });
        match done.await.unwrap_or_else(|fault| Err(fault.to_string())) {
            Ok(topics) => info!(topics, "what is over of hidden names is forgotten"),
            Err(why) => error!(why, "what is over of hidden names cannot be forgotten"),
        }
    }
}

/// Which of the topics that are missing have been for long. `gone`: since when which are.
fn gone_for_long(
    gone: &mut HashMap<B256, Instant>,
    missing: HashSet<B256>,
    now: Instant,
) -> Vec<B256> {
    gone.retain(|id, _| missing.contains(id));
    let is_long = |id: &B256| now.duration_since(*gone.entry(*id).or_insert(now)) >= GONE_FOR;
    missing.into_iter().filter(is_long).collect()
}

#[cfg(test)]
mod tests {
    use alloy_primitives::U256;
    use flytrap_policy::{
        Concern, Event, NamingPolicy, Offer, OfferMode, Options, Registry, Rules, Stamp, Traits,
        hidden_topic_id, name_commitment, topic_id,
    };
    use prometheus_client::registry::Registry as Series;

    use super::*;
    use crate::bans::Bans;
    use crate::bans::tests::KEY;
    use crate::config::{ChainConfig, Secret};
    use crate::metrics::Metrics;
    use crate::outbox::Outbox;

    const TOPIC: B256 = B256::repeat_byte(7);
    const SALT: B256 = B256::repeat_byte(9);

    fn entry(at: u64, name: Option<&str>) -> NameEntry {
        NameEntry { epoch: 1, at, name: name.map(Into::into) }
    }

    fn octets(dir: &Path) -> Vec<u8> {
        let files = std::fs::read_dir(dir).unwrap();
        files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect()
    }

    fn holds(dir: &Path, text: &str) -> bool {
        octets(dir).windows(text.len()).any(|part| part == text.as_bytes())
    }

    #[test]
    fn what_was_told_is_there_after_a_kill_and_what_was_taken_back_is_overwritten() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let mut known = Known::open(dir.path()).unwrap();
        known.change(vec![(TOPIC, Some(entry(5, Some("ward/jane-doe"))))]).unwrap();
        known.change(vec![(B256::ZERO, Some(entry(6, Some("ward/john"))))]).unwrap();
        // Ended without a word, as by a kill.
        std::mem::forget(known);
        let mut known = Known::open(dir.path()).unwrap();
        assert_eq!([TOPIC, B256::ZERO].map(|id| known.names.told_in(id)), [Some(1); 2]);
        assert!(holds(dir.path(), "jane-doe"));
        known.change(vec![(TOPIC, Some(entry(7, None)))]).unwrap();
        assert!(!holds(dir.path(), "jane-doe") && holds(dir.path(), "john"));
        known.change(vec![(B256::ZERO, None)]).unwrap();
        assert!(!holds(dir.path(), "john"));
        let found = Known::open(dir.path()).unwrap().names;
        assert_eq!(found, [(TOPIC, entry(7, None))].into_iter().collect());
        let mode = std::fs::metadata(dir.path().join("hidden-names.sqlite")).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_told_without_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut known = Known::open(dir.path()).unwrap();
        for harm in [
            "UPDATE hidden_names SET entry = replace(entry, 'jane', 'john')",
            "UPDATE hidden_names SET topic = 'jane'",
            "UPDATE hidden_names SET topic = replace(topic, '7', '8')",
            "UPDATE hidden_names SET entry = entry || hex(zeroblob(9000))",
        ] {
            known.rows.database.execute("DELETE FROM hidden_names", []).unwrap();
            known.change(vec![(TOPIC, Some(entry(5, Some("ward/jane"))))]).unwrap();
            known.rows.database.execute(harm, []).unwrap();
            is_told_without_a_name(dir.path());
        }
        // Of another version, with its checksum.
        let row = format!("[\"{TOPIC}\",{{\"epoch\":\"ward/jane\"}}]");
        known.rows.database.execute("DELETE FROM hidden_names", []).unwrap();
        known.rows.write(&[(TOPIC.to_string(), Some(row))]).unwrap();
        is_told_without_a_name(dir.path());
    }

    fn is_told_without_a_name(dir: &Path) {
        let wrong = Known::open(dir).unwrap_err().to_string();
        assert!(wrong.contains("hidden-names.sqlite"), "{wrong}");
        assert!(!wrong.contains("ward"), "{wrong}");
    }

    /// Names behind a mirror in which a hidden topic is this owner's, and the topic.
    fn names_of(owner: Address, known: Known) -> (Arc<HiddenNames>, B256) {
        let (name, traits) = ("ward".to_owned(), Traits::default());
        let (broker_id, parent_id) = (U256::ONE, topic_id(U256::ONE, &name));
        let offer = Offer { mode: OfferMode::Closed, period: 0, price_wei: 0 };
        let commitment = name_commitment(SALT, "ward/jane");
        let topic_id = hidden_topic_id(broker_id, parent_id, commitment);
        let mut registry = Registry::new(broker_id);
        for event in [
            Event::BrokerCreated { broker_id, owner, policy: NamingPolicy::Open, name: "b".into() },
            Event::TopicRegistered {
                broker_id,
                topic_id: parent_id,
                owner,
                epoch: 1,
                name,
                traits,
                publish_offer: offer,
                subscribe_offer: offer,
            },
            Event::HiddenTopicRegistered {
                broker_id,
                topic_id,
                owner,
                epoch: 1,
                parent_id,
                commitment,
                traits,
                publish_offer: offer,
                subscribe_offer: offer,
            },
        ] {
            registry.apply(&event, Stamp { height: 1, time: 1 }).unwrap();
        }
        let head = Arc::new(registry);
        let (settled, concern, options) = (head.clone(), Concern::EVERYONE, Options::default());
        let view = View { settled, head, height: 1, time: 1, version: 1, concern, options };
        // However long ago a node was seen.
        let [stale_after, distrust_after] = [Duration::MAX; 2];
        let config = ChainConfig { stale_after, distrust_after, ..ChainConfig::for_tests() };
        let (mirror, writer) = Mirror::new(&config, options);
        mirror.trust(Arc::default());
        writer.publish(Arc::new(view));
        let metrics = Metrics::register(&mut Series::default());
        let bans = Arc::new(Bans::new(Secret::new(KEY), Vec::new()));
        let outbox = Outbox::new(true, bans, metrics.clone());
        let (audit, _) = Audit::new(Rules::default(), outbox, mirror.clone(), metrics);
        let site = Site { chain_id: 1, broker_registry: Address::ZERO, broker_id };
        (Arc::new(HiddenNames::new(known, site, mirror, Arc::new(writer), None, audit)), topic_id)
    }

    #[tokio::test]
    async fn who_owns_the_topic_is_looked_at_once_more_when_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let [before, owner] = [1, 2].map(Address::with_last_byte);
        let (names, topic_id) = names_of(owner, Known::open(dir.path()).unwrap());
        let (issued_at, told) = (names.mirror.now(), Some((SALT, "ward/jane".to_owned())));
        let signed = |owner| Signed {
            owner,
            topic_id,
            epoch: 1,
            issued_at,
            expires_at: issued_at + 60,
            told: told.clone(),
            signature: Vec::new(),
        };
        let refused = Unfollowed::Refused(NameRefusal::Owner);
        assert_eq!(names.settle(signed(before)).await, Err(refused));
        assert!(!holds(dir.path(), "jane"));
        assert_eq!(names.settle(signed(owner)).await, Ok(true));
        assert_eq!(names.settle(signed(owner)).await, Ok(false));
        assert!(holds(dir.path(), "jane"));
    }

    #[tokio::test]
    async fn what_was_taken_back_is_forgotten_once_no_request_counts_that_it_keeps_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut known = Known::open(dir.path()).unwrap();
        let (names, topic_id) = names_of(Address::ZERO, Known::open(dir.path()).unwrap());
        let now = names.mirror.now();
        for (age, left) in [(86_300, 1), (86_500, 0)] {
            known.change(vec![(topic_id, Some(entry(now - age, None)))]).unwrap();
            let (names, _) = names_of(Address::ZERO, Known::open(dir.path()).unwrap());
            names.forget_gone(&mut HashMap::new(), Instant::now()).await;
            let rows =
                known
                    .rows
                    .database
                    .query_row("SELECT count(*) FROM hidden_names", [], |row| row.get(0));
            assert_eq!(rows, Ok(left), "{age} s");
        }
    }

    #[test]
    fn a_topic_is_forgotten_an_hour_after_it_is_gone_and_not_if_it_came_back() {
        let (start, mut gone) = (Instant::now(), HashMap::new());
        let missing = || HashSet::from([TOPIC]);
        let nothing: [B256; 0] = [];
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(gone_for_long(&mut gone, missing(), start), nothing);
        assert_eq!(gone_for_long(&mut gone, missing(), later(3_599)), nothing);
        assert_eq!(gone_for_long(&mut gone, missing(), later(3_600)), [TOPIC]);
        assert_eq!(gone_for_long(&mut gone, HashSet::new(), later(3_700)), nothing);
        assert_eq!(gone_for_long(&mut gone, missing(), later(7_200)), nothing);
        assert_eq!(gone_for_long(&mut gone, missing(), later(10_800)), [TOPIC]);
    }
}
