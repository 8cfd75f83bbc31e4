//! From drafts to what is stored: whom each is about, what is personal sealed, all of it encoded and hashed.
//!
//! Records are independent of each other up to their leaves, so a large transaction is made ready on several threads.

use std::collections::{BTreeMap, HashMap};
use std::{panic, thread};

use alloy_primitives::{Address, B256};
use flytrap_record::seal::Subject;
use flytrap_record::{Record, leaf};

use super::keys::Keys;
use super::packed::pack;
use super::{Draft, Store, StoreError};

/// Records that are worth a thread of their own.
const WORTH: usize = 128;
/// Threads of one transaction, at most: packets go before records.
const MOST_THREADS: usize = 4;

/// A record as it is stored, but for its link.
pub(super) struct Sealed {
    pub(super) leaf: B256,
    pub(super) octets: Vec<u8>,
}

/// Whom drafts are about: the tag of each, where it is about somebody, and for each tag the last second that is told of it.
pub(super) type Subjects = (Vec<Option<B256>>, BTreeMap<B256, u64>);

impl Store {
    pub(super) fn subjects(&self, drafts: &[Draft]) -> Subjects {
        let (mut tags, mut subjects) = (HashMap::new(), BTreeMap::new());
        let tag = |Draft { record, personal }: &Draft| {
            let subject = personal.as_ref()?.0;
            let tag: B256 = *tags
                .entry(subject)
                .or_insert_with(|| Subject::tag(&subject, self.pseudonym_key.expose()));
            let last: &mut u64 = subjects.entry(tag).or_default();
            *last = record.last_at.max(*last);
            Some(tag)
        };
        (drafts.iter().map(tag).collect(), subjects)
    }

    /// Seals, encodes and hashes records that are numbered from `first` on.
    pub(super) fn seal(
        &self,
        first: u64,
        drafts: &[Draft],
        tags: &[Option<B256>],
    ) -> Result<Vec<Sealed>, StoreError> {
        let (keys, gateway) = (&self.keys, self.gateway);
        let threads = thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
        let part = drafts.len().div_ceil(threads).max(WORTH);
        let parts = (first..).step_by(part).zip(drafts.chunks(part).zip(tags.chunks(part)));
        let sealed: Option<Vec<Vec<Sealed>>> = thread::scope(|scope| {
            let work = |(first, (drafts, tags))| move || seal(keys, gateway, first, drafts, tags);
            let mut parts = parts.map(work);
            // The first here, so that a small transaction starts no thread.
            let own = parts.next();
            let others: Vec<_> = parts.map(|work| scope.spawn(work)).collect();
            let own = own.map(|work| work());
            let others = others
                .into_iter()
                .map(|part| part.join().unwrap_or_else(|panic| panic::resume_unwind(panic)));
            own.into_iter().chain(others).collect()
        });
        let sealed = sealed.ok_or_else(|| self.damaged("a key is gone".into()))?;
        Ok(sealed.into_iter().flatten().collect())
    }
}

/// `None` if a key is missing.
fn seal(
    keys: &Keys,
    gateway: Address,
    first: u64,
    drafts: &[Draft],
    tags: &[Option<B256>],
) -> Option<Vec<Sealed>> {
    let one = |(index, (Draft { record, personal }, tag)): (u64, (&Draft, &Option<B256>))| {
        let mut record = Record { index, ..record.clone() };
        if let (Some((_, personal)), Some(tag)) = (personal, tag) {
            record.personal = keys.get(*tag)?.seal(gateway, index, personal);
        }
        let encoding = record.encode();
        Some(Sealed { leaf: leaf(&encoding), octets: pack(encoding) })
    };
    (first..).zip(drafts.iter().zip(tags)).map(one).collect()
}
