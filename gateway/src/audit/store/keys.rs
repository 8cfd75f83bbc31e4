//! The subjects' keys that were used last, so that a record costs no look-up.

use std::collections::{BTreeMap, HashMap};

use alloy_primitives::B256;
use flytrap_record::seal::SubjectKey;

use super::StoreError;
use super::engine::{Engine, KeyRow};

/// Keys that are kept in memory.
const MOST: usize = 16_384;
/// How far the second that is written beside a key may be behind its last use, so that it is not written with each record.
pub(super) const BEHIND: u64 = 3_600;

/// What is in the database, or will be with the transaction under way; empty after one that failed.
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<B256, KeyRow>);

impl Keys {
    /// Sees to it that there is a key for each of these, who are told something of at that second. Returns what is to be written: new keys, and
    /// those whose second is too old. The key of `erased` is not taken over from the database.
    pub(super) fn fetch(
        &mut self,
        subjects: &BTreeMap<B256, u64>,
        erased: Option<B256>,
        engine: &dyn Engine,
    ) -> Result<Vec<KeyRow>, StoreError> {
        if self.0.len() + subjects.len() > MOST {
            self.clear();
        }
        let unknown: Vec<B256> = subjects
            .keys()
            .filter(|tag| !self.0.contains_key(*tag) && Some(**tag) != erased)
            .copied()
            .collect();
        if !unknown.is_empty() {
            let found = engine.keys(unknown)?;
            self.0.extend(found.into_iter().map(|row| (row.tag, row)));
        }
        let mut changed = Vec::new();
        for (&tag, &last_at) in subjects {
            let is_new = !self.0.contains_key(&tag);
            let row = self.0.entry(tag).or_insert_with(|| {
                let key = SubjectKey::new(rand::random());
                KeyRow { tag, key, last_at }
            });
            if is_new || last_at > row.last_at.saturating_add(BEHIND) {
                row.last_at = last_at;
                changed.push(row.clone());
            }
        }
        Ok(changed)
    }

    pub(super) fn get(&self, tag: B256) -> Option<&SubjectKey> {
        self.0.get(&tag).map(|row| &row.key)
    }

    pub(super) fn forget(&mut self, tag: B256) {
        self.0.remove(&tag);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
