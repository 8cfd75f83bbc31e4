//! Who is banned here, by what and until when: one book, in memory for who asks and on the disk for the next start.
//!
//! [`door`](crate::door) (origins, for failed proofs), [`conduct`](crate::conduct) (wallets, for what they did) and the operator
//! ([`crate::control`]) write into it. It is what holds before the chain has taken a ban, where nothing goes on chain, and after a restart. The
//! chain has the last word: a ban that was seen there and is there no longer was lifted.
//!
//! Bounded: [`MOST`] of wallets, of origins and of networks each. When full nothing is pushed out: what does not fit is told and counted.
//! [`shelf`] keeps it on the disk.

mod shelf;
mod subject;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy_primitives::{Address, B256, keccak256};
use flytrap_policy::{Origin, View};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::config::Secret;

pub use shelf::Shelf;
pub use subject::Subject;

/// Bans of each kind. Those of networks are looked through for each connection, so they are fewer.
const MOST: usize = 65_536;
const MOST_NETWORKS: usize = 256;
/// How long whoever must know that a change is on the disk waits for it.
const WRITING: Duration = Duration::from_secs(3);

/// One ban that holds here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// Against whom.
    pub subject: Subject,
    /// Unix second from which it holds no longer.
    pub until: u64,
    /// Unix second of its beginning.
    pub since: u64,
    /// Who made it.
    pub by: By,
    /// Why. Goes on chain, so it names nobody.
    pub reason: String,
    /// What was found, in words. The chain gets only its hash.
    pub evidence: String,
    /// What the chain knows of it.
    pub chain: OnChain,
}

/// Who made a ban.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The gateway itself, by its rules.
    Gateway,
    /// A person, by `flytrap-gateway bans add`.
    Operator,
}

/// How far a ban has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnChain {
    /// The chain is yet to be told, or never will be: nothing is recorded, or the chain has no such thing.
    Untold,
    /// The submitter has it, on its own disk.
    Queued,
    /// It was seen there, so that its absence means that it was lifted.
    Seen,
}

impl Ban {
    /// What the chain gets of the evidence.
    pub fn evidence_hash(&self) -> B256 {
        keccak256(self.evidence.as_bytes())
    }
}

/// The book. See the module.
#[derive(Debug)]
pub struct Bans {
    inner: Mutex<Inner>,
    changed: Notify,
    /// The last change that is on the disk.
    written: watch::Sender<u64>,
    pseudonym_key: Secret<[u8; 32]>,
}

#[derive(Debug, Default)]
struct Inner {
    bans: BTreeMap<Subject, Ban>,
    /// By what the chain knows those that are of origins.
    pseudonyms: BTreeMap<Subject, B256>,
    /// The same that are of networks.
    networks: Vec<(IpNet, u64)>,
    wallets: usize,
    origins: usize,
    /// Not on the disk as they are here.
    unwritten: BTreeSet<Subject>,
    /// Counts what was taken to be written.
    taken: u64,
}

/// There is no room for a ban of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("as many bans of this kind are in force as are kept ({0}): lift some, or let them end")]
pub struct Full(usize);

impl Bans {
    /// A book with what an earlier run left.
    pub fn new(pseudonym_key: Secret<[u8; 32]>, left: Vec<Ban>) -> Self {
        let (inner, changed, written) = (Mutex::default(), Notify::new(), watch::Sender::new(0));
        let book = Self { inner, changed, written, pseudonym_key };
        for ban in left {
            let pseudonym = book.pseudonym(&ban.subject);
            book.lock().insert(ban, pseudonym);
        }
        book
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change below is complete at every point where it could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The end of the ban of `wallet`, or of `key`, if one of them is banned.
    pub fn wallet_until(&self, wallet: Address, key: Address, now: u64) -> Option<u64> {
        let inner = self.lock();
        let until = |who| inner.until(&Subject::Wallet(who), now);
        if wallet == key { until(wallet) } else { until(wallet).max(until(key)) }
    }

    /// The end of the ban by which an operator keeps out whoever comes from `address`.
    pub fn operators_until(&self, address: IpAddr, now: u64) -> Option<u64> {
        let address = address.to_canonical();
        let inner = self.lock();
        let networks = inner
            .networks
            .iter()
            .filter(|(network, until)| now < *until && network.contains(&address));
        let of_network = networks.map(|(_, until)| *until).max();
        let of_origin = inner
            .bans
            .get(&Subject::Origin(Origin::from(address)))
            .filter(|ban| ban.by == By::Operator && now < ban.until);
        of_network.max(of_origin.map(|ban| ban.until))
    }

    /// Writes a ban down; one against the same is replaced.
    ///
    /// # Errors
    /// [`Full`], and nothing is changed.
    pub fn add(&self, ban: Ban, now: u64) -> Result<(), Full> {
        let pseudonym = self.pseudonym(&ban.subject);
        let mut inner = self.lock();
        if !inner.bans.contains_key(&ban.subject) {
            inner.make_room(&ban.subject, now)?;
        }
        inner.unwritten.insert(ban.subject);
        inner.insert(ban, pseudonym);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// Strikes a ban out.
    pub fn remove(&self, subject: &Subject) -> Option<Ban> {
        let removed = self.lock().remove(subject);
        if removed.is_some() {
            self.changed.notify_one();
        }
        removed
    }

    /// The ban against `subject`, if it is in force.
    pub fn get(&self, subject: &Subject, now: u64) -> Option<Ban> {
        self.lock().bans.get(subject).filter(|ban| now < ban.until).cloned()
    }

    /// Bans in force behind `after`, in order, at most `most`.
    pub fn page(&self, after: Option<&Subject>, most: usize, now: u64) -> Vec<Ban> {
        use std::ops::Bound;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let inner = self.lock();
        let all = inner.bans.range::<Subject, _>((from, Bound::Unbounded));
        all.map(|(_, ban)| ban).filter(|ban| now < ban.until).take(most).cloned().collect()
    }

    /// Notes how far bans, by subject and end, have come towards the chain. A longer one that was made meanwhile has not.
    pub fn told(&self, bans: impl IntoIterator<Item = (Subject, u64)>, how: OnChain) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        for (subject, until) in bans {
            let found = inner.bans.get_mut(&subject);
            if let Some(ban) = found.filter(|ban| ban.chain < how && ban.until <= until) {
                ban.chain = how;
                inner.unwritten.insert(subject);
            }
        }
        self.changed.notify_one();
    }

    /// The subject of the ban that the chain knows by this pseudonym.
    pub fn by_pseudonym(&self, pseudonym: B256) -> Option<Subject> {
        let inner = self.lock();
        inner.pseudonyms.iter().find(|(_, known)| **known == pseudonym).map(|(subject, _)| *subject)
    }

    /// By what the chain knows the origins in the book.
    pub fn pseudonyms(&self) -> HashSet<B256> {
        self.lock().pseudonyms.values().copied().collect()
    }

    /// By what the chain knows an origin. It knows nothing of networks.
    pub fn pseudonym(&self, subject: &Subject) -> Option<B256> {
        match subject {
            Subject::Origin(origin) => Some(origin.pseudonym(self.pseudonym_key.expose())),
            Subject::Pseudonym(pseudonym) => Some(*pseudonym),
            Subject::Wallet(_) | Subject::Network(_) => None,
        }
    }

    /// Whether the chain, as `view` has it, bans `subject` now.
    pub fn is_on_chain(&self, subject: &Subject, view: &View, now: u64) -> bool {
        match subject {
            // As of origins: the end of a ban counts once it has settled.
            Subject::Wallet(wallet) => [&view.head, &view.settled]
                .iter()
                .any(|registry| registry.wallet_banned_until(*wallet, now).is_some()),
            _ => {
                self.pseudonym(subject).is_some_and(|pseudonym| view.origin_banned(pseudonym, now))
            }
        }
    }

    /// Strikes out what has ended, and what was seen on chain and is there no longer; returns the latter. Called whenever the mirror moved.
    ///
    /// Seen is what the settled state bans for at least as long: a ban in a block that is orphaned was never there, and a shorter one of
    /// somebody else says nothing of this one when it ends.
    pub fn follow(&self, view: &View, now: u64) -> Vec<Subject> {
        let known: Vec<(Subject, u64, OnChain, Option<B256>)> = {
            let inner = self.lock();
            let pseudonym = |ban: &Ban| inner.pseudonyms.get(&ban.subject).copied();
            let all = inner.bans.values();
            all.map(|ban| (ban.subject, ban.until, ban.chain, pseudonym(ban))).collect()
        };
        let (mut lifted, mut seen, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        for (subject, until, chain, pseudonym) in known {
            let on_chain_until = match (pseudonym, subject) {
                (Some(pseudonym), _) => view.settled.origin_banned_until(pseudonym, now),
                (None, Subject::Wallet(wallet)) => view.settled.wallet_banned_until(wallet, now),
                _ => None,
            };
            if until <= now {
                ended.push(subject);
            } else if on_chain_until.is_some_and(|there| there >= until) {
                seen.extend((chain != OnChain::Seen).then_some((subject, until)));
            } else if chain == OnChain::Seen {
                lifted.push(subject);
            }
        }
        for subject in lifted.iter().chain(&ended) {
            self.remove(subject);
        }
        if !seen.is_empty() {
            self.told(seen, OnChain::Seen);
        }
        lifted
    }

    /// How many bans there are, those included whose end has come since the mirror last moved.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().bans.len()
    }

    /// Waits until everything up to now is on the disk; false if that takes too long.
    pub async fn is_written(&self) -> bool {
        let taken = {
            let inner = self.lock();
            inner.taken + u64::from(!inner.unwritten.is_empty())
        };
        let mut written = self.written.subscribe();
        let waited = timeout(WRITING, written.wait_for(|written| *written >= taken)).await;
        matches!(waited, Ok(Ok(_)))
    }

    /// What is not on the disk yet, each with what is to be there, and the number to say when it is.
    fn take_unwritten(&self) -> (u64, Vec<(Subject, Option<Ban>)>) {
        let mut inner = self.lock();
        let unwritten = std::mem::take(&mut inner.unwritten);
        inner.taken += 1;
        let changes = unwritten.into_iter().map(|s| (s, inner.bans.get(&s).cloned())).collect();
        (inner.taken, changes)
    }

    /// What was taken by this number is on the disk.
    fn wrote(&self, taken: u64) {
        self.written.send_replace(taken);
    }

    /// The disk did not take them: they are offered again, as they are by then.
    fn still_unwritten(&self, subjects: impl Iterator<Item = Subject>) {
        self.lock().unwritten.extend(subjects);
    }
}

impl Inner {
    fn until(&self, subject: &Subject, now: u64) -> Option<u64> {
        self.bans.get(subject).map(|ban| ban.until).filter(|&until| now < until)
    }

    fn insert(&mut self, ban: Ban, pseudonym: Option<B256>) {
        self.remove_row(&ban.subject);
        if let Some(pseudonym) = pseudonym {
            self.pseudonyms.insert(ban.subject, pseudonym);
        }
        match ban.subject {
            Subject::Wallet(_) => self.wallets += 1,
            Subject::Origin(_) => self.origins += 1,
            Subject::Network(network) => self.networks.push((network, ban.until)),
            Subject::Pseudonym(_) => {}
        }
        self.bans.insert(ban.subject, ban);
    }

    fn remove(&mut self, subject: &Subject) -> Option<Ban> {
        let removed = self.remove_row(subject);
        if removed.is_some() {
            self.unwritten.insert(*subject);
        }
        removed
    }

    fn remove_row(&mut self, subject: &Subject) -> Option<Ban> {
        let removed = self.bans.remove(subject)?;
        self.pseudonyms.remove(subject);
        match subject {
            Subject::Wallet(_) => self.wallets -= 1,
            Subject::Origin(_) => self.origins -= 1,
            Subject::Network(network) => self.networks.retain(|(known, _)| known != network),
            Subject::Pseudonym(_) => {}
        }
        Some(removed)
    }

    fn make_room(&mut self, subject: &Subject, now: u64) -> Result<(), Full> {
        let (_, most) = self.taken(subject);
        if self.taken(subject).0 >= most {
            let ended: Vec<Subject> =
                self.bans.values().filter(|ban| ban.until <= now).map(|ban| ban.subject).collect();
            for subject in &ended {
                self.remove(subject);
            }
        }
        if self.taken(subject).0 >= most { Err(Full(most)) } else { Ok(()) }
    }

    fn taken(&self, subject: &Subject) -> (usize, usize) {
        match subject {
            Subject::Wallet(_) => (self.wallets, MOST),
            Subject::Origin(_) => (self.origins, MOST),
            Subject::Network(_) => (self.networks.len(), MOST_NETWORKS),
            Subject::Pseudonym(_) => (0, 0),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use alloy_primitives::U256;
    use flytrap_policy::{Concern, Event, NamingPolicy, Options, Registry, Stamp};
    use std::sync::Arc;

    use super::*;

    pub(crate) const KEY: [u8; 32] = [7; 32];

    pub(crate) fn ban(subject: Subject, until: u64) -> Ban {
        Ban {
            subject,
            until,
            since: 1,
            by: By::Gateway,
            reason: "too many".into(),
            evidence: "seen".into(),
            chain: OnChain::Untold,
        }
    }

    pub(crate) fn wallet(number: u64) -> Subject {
        Subject::Wallet(Address::left_padding_from(&number.to_be_bytes()))
    }

    fn book() -> Bans {
        Bans::new(Secret::new(KEY), Vec::new())
    }

    fn subject(text: &str) -> Subject {
        text.parse().unwrap()
    }

    fn view(events: &[Event]) -> View {
        let mut registry = Registry::new(U256::ONE);
        let created = Event::BrokerCreated {
            broker_id: U256::ONE,
            owner: Address::with_last_byte(1),
            policy: NamingPolicy::OwnBranch,
            name: String::new(),
        };
        for event in std::iter::once(&created).chain(events) {
            registry.apply(event, Stamp { height: 1, time: 1 }).unwrap();
        }
        let registry = Arc::new(registry);
        let (settled, options) = (registry.clone(), Options::default());
        View {
            settled,
            head: registry,
            height: 1,
            time: 1,
            version: 1,
            concern: Concern::EVERYONE,
            options,
        }
    }

    #[test]
    fn a_ban_holds_until_its_end_and_not_in_that_second() {
        let book = book();
        let (one, other) = (Address::with_last_byte(1), Address::with_last_byte(2));
        book.add(ban(Subject::Wallet(one), 100), 1).unwrap();
        assert_eq!(book.wallet_until(one, one, 99), Some(100));
        assert_eq!(book.wallet_until(one, other, 99), Some(100), "a device of the wallet");
        assert_eq!(book.wallet_until(other, one, 99), Some(100), "the device itself");
        assert_eq!(book.wallet_until(other, other, 99), None);
        assert_eq!(book.wallet_until(one, one, 100), None);
    }

    #[test]
    fn an_operators_network_holds_for_every_address_in_it_and_for_no_other() {
        let book = book();
        for text in ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"] {
            book.add(Ban { by: By::Operator, ..ban(subject(text), 100) }, 1).unwrap();
        }
        for (address, until) in [
            ("192.0.2.255", Some(100)),
            ("::ffff:192.0.2.1", Some(100)),
            ("192.0.3.0", None),
            ("2001:db8:ffff::1", Some(100)),
            ("2001:db9::1", None),
            ("198.51.100.7", Some(100)),
            ("198.51.100.8", None),
        ] {
            assert_eq!(book.operators_until(address.parse().unwrap(), 99), until, "{address}");
            assert_eq!(book.operators_until(address.parse().unwrap(), 100), None, "{address}");
        }
        // What failed proofs brought about is the door's, which lets a proof try.
        let book = self::book();
        book.add(ban(subject("198.51.100.7"), 100), 1).unwrap();
        assert_eq!(book.operators_until("198.51.100.7".parse().unwrap(), 1), None);
    }

    /// THREATS A27
    #[test]
    fn a_full_book_takes_no_more_and_gives_up_nobody_before_the_end() {
        let book = book();
        for number in 0..MOST as u64 {
            book.add(ban(wallet(number), 100), 1).unwrap();
        }
        assert_eq!(book.add(ban(wallet(MOST as u64), 100), 99), Err(Full(MOST)));
        book.add(ban(wallet(0), 200), 99).unwrap();
        book.add(ban(subject("192.0.2.1"), 100), 99).unwrap();
        assert_eq!(book.len(), MOST + 1);
        book.add(ban(wallet(MOST as u64), 200), 100).unwrap();
        assert_eq!(book.len(), 2, "those that had ended made room");
    }

    #[test]
    fn what_was_seen_on_chain_and_is_there_no_longer_was_lifted() {
        let book = book();
        let who = Address::with_last_byte(9);
        let banned = Event::WalletBanned {
            broker_id: U256::ONE,
            wallet: who,
            by: Address::ZERO,
            until: 100,
            evidence: B256::ZERO,
            reason: String::new(),
        };
        let unbanned =
            Event::WalletUnbanned { broker_id: U256::ONE, wallet: who, by: Address::ZERO };
        book.add(ban(Subject::Wallet(who), 100), 1).unwrap();
        assert_eq!(book.follow(&view(&[]), 2), [], "not there yet");
        assert_eq!(book.follow(&view(std::slice::from_ref(&banned)), 2), []);
        let there = book.get(&Subject::Wallet(who), 2).unwrap();
        assert_eq!(there.chain, OnChain::Seen);
        let lifted = book.follow(&view(&[banned.clone(), unbanned]), 2);
        assert_eq!(lifted, [Subject::Wallet(who)]);
        assert_eq!(book.wallet_until(who, who, 2), None);
        // A shorter one of somebody else says nothing of this one, also not when it is gone.
        book.add(ban(Subject::Wallet(who), 200), 1).unwrap();
        assert_eq!(book.follow(&view(std::slice::from_ref(&banned)), 2), []);
        assert_eq!(book.get(&Subject::Wallet(who), 2).unwrap().chain, OnChain::Untold);
        assert_eq!(book.follow(&view(&[]), 100), []);
        assert_eq!(book.wallet_until(who, who, 100), Some(200));
        book.remove(&Subject::Wallet(who));
        // One that ended by itself was not lifted.
        book.add(ban(Subject::Wallet(who), 100), 1).unwrap();
        book.follow(&view(&[banned]), 2);
        assert_eq!(book.follow(&view(&[]), 100), []);
        assert_eq!(book.len(), 0);
    }

    #[test]
    fn pages_cover_all_in_order_each_once() {
        let book = book();
        for number in 0..25 {
            book.add(ban(wallet(number), if number == 3 { 10 } else { 100 }), 1).unwrap();
        }
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = book.page(after.as_ref(), 10, 50);
            let Some(last) = page.last() else { break };
            after = Some(last.subject);
            all.extend(page.into_iter().map(|ban| ban.subject));
        }
        let wanted: Vec<_> = (0..25).filter(|number| *number != 3).map(wallet).collect();
        assert_eq!(all, wanted);
    }
}
