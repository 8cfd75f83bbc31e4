//! Equal happenings of an interval become one record with their count, so that nobody can fill the disk with refusals.

use std::collections::HashMap;

use alloy_primitives::{Address, B256, Bytes};
use flytrap_policy::Country;
use flytrap_record::seal::{Personal, Subject};
use flytrap_record::{Kind, Record};

use super::{Draft, Happening, NOBODY, Who, record_kind};

/// Different happenings that one interval tells apart; some 200 octets each. The rest counts under its kind alone.
const MOST: usize = 16_384;
/// Records of one interval that stand for themselves, which nobody's doing reaches but that of very many.
const MOST_SINGLES: usize = 4_096;
/// The rule of what could not be told apart any more.
const MANY: &str = "many";

/// What has happened since the last interval.
#[derive(Debug, Default)]
pub(super) struct Fold {
    open: HashMap<Key, Folded>,
    /// What stands for itself, in the order in which it came.
    singles: Vec<Draft>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    kind: Kind,
    rule: &'static str,
    wallet: Address,
    key: Address,
    topic_id: B256,
    origin: B256,
    country: Option<Country>,
}

#[derive(Debug)]
struct Folded {
    count: u64,
    first_at: u64,
    last_at: u64,
    height: u64,
    session: u64,
    client_id: Box<str>,
}

impl Folded {
    fn new(at: u64, height: u64, who: Option<&Who>) -> Self {
        Self {
            count: 0,
            first_at: at,
            last_at: at,
            height,
            session: who.map_or(0, |who| who.session),
            client_id: who.map(|who| who.client_id.clone()).unwrap_or_default(),
        }
    }

    fn add(&mut self, count: u64, at: u64, height: u64) {
        self.count = self.count.saturating_add(count);
        self.first_at = self.first_at.min(at);
        self.last_at = self.last_at.max(at);
        self.height = self.height.max(height);
    }
}

impl Fold {
    pub(super) fn note(&mut self, happening: &Happening<'_>) {
        if happening.count == 0 {
            return;
        }
        let principal = happening.who.map(|who| who.principal);
        let mut key = Key {
            kind: record_kind(happening.kind),
            rule: happening.rule,
            wallet: principal.map_or(NOBODY, |principal| principal.wallet),
            key: principal.map_or(NOBODY, |principal| principal.key),
            topic_id: happening.topic_id.unwrap_or_default(),
            origin: happening.origin,
            country: happening.country,
        };
        let mut who = happening.who;
        if self.open.len() >= MOST && !self.open.contains_key(&key) {
            let (wallet, topic_id, origin) = (NOBODY, B256::ZERO, B256::ZERO);
            key = Key { rule: MANY, wallet, key: NOBODY, topic_id, origin, country: None, ..key };
            who = None;
        }
        let (at, height) = (happening.at, happening.height);
        let folded = self.open.entry(key).or_insert_with(|| Folded::new(at, height, who));
        folded.add(happening.count, at, height);
        if who.is_some_and(|who| who.session != folded.session) {
            // Of more than one session no client id is the right one.
            folded.session = 0;
            folded.client_id = Box::default();
        }
    }

    /// Keeps a record as it is; beyond the bound only that there was one of its kind.
    pub(super) fn keep(&mut self, draft: Draft) {
        if self.singles.len() < MOST_SINGLES {
            self.singles.push(draft);
            return;
        }
        let Record { kind, last_at, height, .. } = draft.record;
        let (wallet, key, topic_id, origin) = (NOBODY, NOBODY, B256::ZERO, B256::ZERO);
        let many = Key { kind, rule: MANY, wallet, key, topic_id, origin, country: None };
        let folded = self.open.entry(many).or_insert_with(|| Folded::new(last_at, height, None));
        folded.add(1, last_at, height);
    }

    /// What it would be drained to, by kind.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind> {
        let singles = self.singles.iter().map(|draft| draft.record.kind);
        singles.chain(self.open.keys().map(|key| key.kind))
    }

    /// Takes out what stands for itself.
    pub(super) fn take_singles(&mut self) -> Vec<Draft> {
        std::mem::take(&mut self.singles)
    }

    /// Takes everything out, as records, the oldest first.
    pub(super) fn drain(&mut self) -> Vec<Draft> {
        let mut drafts: Vec<Draft> =
            self.open.drain().map(|(key, folded)| draft(key, folded)).collect();
        drafts.sort_by_key(|Draft { record: r, .. }| (r.first_at, r.kind, r.wallet, r.topic_id));
        let mut all = self.take_singles();
        all.append(&mut drafts);
        all
    }
}

fn draft(key: Key, folded: Folded) -> Draft {
    let record = Record {
        index: 0,
        kind: key.kind,
        wallet: key.wallet,
        key: key.key,
        session: folded.session,
        topic_id: key.topic_id,
        epoch: 0,
        count: folded.count,
        octets: 0,
        first_at: folded.first_at,
        last_at: folded.last_at,
        height: folded.height,
        rule: key.rule.to_owned(),
        country: key.country.map(|country| country.to_string()).unwrap_or_default(),
        personal: Bytes::new(),
    };
    let subject = match (key.wallet, key.origin) {
        (NOBODY, B256::ZERO) => None,
        (NOBODY, origin) => Some(Subject::Origin(origin)),
        (wallet, _) => Some(Subject::Wallet(wallet)),
    };
    let personal = subject.map(|subject| {
        let client_id = folded.client_id.into_string();
        (subject, Personal { origin: key.origin, client_id, name: String::new() })
    });
    Draft { record, personal }
}

#[cfg(test)]
mod tests {
    use flytrap_policy::{Credential, CredentialKind, HappeningKind, Principal};

    use super::*;

    fn refusal(origin: u32, at: u64) -> Happening<'static> {
        let mut pseudonym = [0; 32];
        pseudonym[..4].copy_from_slice(&(origin + 1).to_be_bytes());
        Happening {
            kind: HappeningKind::ProofFailed,
            rule: "bad-signature",
            topic_id: None,
            count: 1,
            at,
            height: 9,
            who: None,
            country: None,
            origin: pseudonym.into(),
            blames_client: true,
        }
    }

    #[test]
    fn equal_happenings_become_one_record_with_count_and_span() {
        let mut fold = Fold::default();
        for at in [12, 10, 14] {
            fold.note(&refusal(1, at));
        }
        fold.note(&refusal(2, 11));
        fold.note(&Happening { count: 0, ..refusal(3, 11) });
        let records: Vec<_> = fold.drain().into_iter().map(|draft| draft.record).collect();
        let told = |r: &Record| (r.count, r.first_at, r.last_at);
        assert_eq!(records.iter().map(told).collect::<Vec<_>>(), [(3, 10, 14), (1, 11, 11)]);
        assert_eq!(fold.drain(), []);
    }

    #[test]
    fn of_two_sessions_neither_is_named() {
        let credential =
            Credential { kind: CredentialKind::Token, issued_at: 0, expires_at: u64::MAX };
        let wallet = Address::repeat_byte(1);
        let principal = Principal { wallet, key: wallet, credential, country: None };
        let who = |session, client_id: &str| Who {
            principal,
            session,
            origin: B256::repeat_byte(3),
            client_id: client_id.into(),
        };
        let mut fold = Fold::default();
        let mut named = |sessions: &[Who]| {
            for who in sessions {
                fold.note(&Happening { who: Some(who), ..refusal(1, 10) });
            }
            let drafts = fold.drain();
            let [Draft { record, personal: Some((_, personal)) }] = &drafts[..] else {
                panic!("{drafts:?}")
            };
            (record.session, personal.client_id.clone())
        };
        assert_eq!(named(&[who(1, "a"), who(1, "a")]), (1, "a".to_owned()));
        assert_eq!(named(&[who(1, "a"), who(2, "b")]), (0, String::new()));
    }

    #[test]
    fn what_stands_for_itself_goes_first_and_is_bounded_without_loss() {
        let mut fold = Fold::default();
        fold.note(&refusal(1, 1));
        let mut banned = super::super::mark(Kind::Banned, 5);
        for n in 0..MOST_SINGLES + 3 {
            banned.record.rule = format!("{n}");
            fold.keep(banned.clone());
        }
        assert_eq!(fold.take_singles().len(), MOST_SINGLES);
        fold.keep(banned);
        let kinds: Vec<_> =
            fold.drain().into_iter().map(|d| (d.record.kind, d.record.count)).collect();
        assert_eq!(kinds, [(Kind::Banned, 1), (Kind::ProofFailed, 1), (Kind::Banned, 3)]);
    }

    #[test]
    fn beyond_the_bound_nothing_is_told_apart_and_nothing_is_lost() {
        let mut fold = Fold::default();
        let most = u32::try_from(MOST).expect("few");
        for origin in 0..most + 5 {
            fold.note(&refusal(origin, 1));
        }
        // What was told apart before still is.
        fold.note(&refusal(0, 2));
        let drafts = fold.drain();
        assert_eq!(drafts.len(), MOST + 1);
        let total: u64 = drafts.iter().map(|draft| draft.record.count).sum();
        assert_eq!(total, u64::from(most) + 6);
        let many: Vec<_> = drafts.iter().filter(|draft| draft.record.rule == MANY).collect();
        assert!(matches!(many[..], [Draft { record, personal: None }] if record.count == 5));
    }
}
