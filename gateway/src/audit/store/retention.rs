//! What is not kept for ever: whole batches that are anchored and old, from the first on, and before that the content of refusals.
//!
//! Each call is one small transaction, so that nothing that must be written waits for long, and what a kill interrupts goes on at the next
//! start: a batch goes by its row first, and records before the first batch are what is left of those. Of a refusal its leaf
//! stays, by which its batch still verifies. The newest batch stays whatever its age: the next record's link stands on it.

use std::time::{Duration, Instant};

use flytrap_record::{Kind, leaf};

use super::engine::Change;
use super::keys::BEHIND;
use super::packed::Stored;
use super::{Store, StoreError};

/// Records that one call deletes or looks at.
const AT_ONCE: u32 = 250;
/// How often keys are looked through for those that nothing needs any more.
const SWEEP: Duration = Duration::from_secs(3_600);
/// Keys stay so much longer than the records that they open, in seconds, as a batch stays until its last record is old.
const KEYS_LONGER: u64 = 86_400 + BEHIND;

/// How long records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Any record; `None`: for ever.
    pub all: Option<Duration>,
    /// What refusals and failed proofs say; `None`: as long as all.
    pub refusals: Option<Duration>,
}

impl Retention {
    /// Nothing is removed.
    pub const FOR_EVER: Self = Self { all: None, refusals: None };
}

/// What one call did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Batches that are gone.
    pub batches: u64,
    /// Records that are gone.
    pub deleted: u64,
    /// Records of which only the leaf is left.
    pub emptied: u64,
    /// Whether there is more to do.
    pub more: bool,
}

impl Store {
    /// Takes one small step towards keeping nothing longer than it is to be kept. `now`: Unix second; `anchored`: the last batch that the
    /// chain has settled, since nothing that is yet to be proved may go.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was done then, or the whole step.
    pub fn retain(
        &mut self,
        retention: Retention,
        now: u64,
        anchored: u64,
    ) -> Result<Retained, StoreError> {
        self.recover()?;
        let horizon = |life: Option<Duration>| life.map(|life| now.saturating_sub(life.as_secs()));
        let mut done = self.leftovers()?;
        if let Some(horizon) = horizon(retention.all)
            && !done.more
        {
            done = self.oldest_batch(horizon, anchored)?;
            if !done.more {
                self.sweep_keys(horizon)?;
            }
        }
        if let Some(horizon) = horizon(retention.refusals)
            && !done.more
        {
            done = self.refusals(horizon, anchored)?;
        }
        self.holds_removed |= done.deleted + done.emptied > 0;
        if self.holds_removed && !done.more {
            // Somebody who reads keeps it there until the next time.
            self.holds_removed = !self.engine.scrub_records()?;
        }
        Ok(done)
    }

    /// Records whose batch is gone.
    fn leftovers(&mut self) -> Result<Retained, StoreError> {
        let Some(oldest) = self.engine.batches(0, 1)?.into_iter().next() else {
            return Ok(Retained::default());
        };
        if self.first_before(oldest.first)?.is_none() {
            return Ok(Retained::default());
        }
        let change = Change { before: Some((oldest.first, AT_ONCE)), ..Change::default() };
        let deleted = self.engine.apply(change)?.deleted;
        Ok(Retained { deleted, more: deleted > 0, ..Retained::default() })
    }

    /// The first record, if it is before this one.
    fn first_before(&self, before: u64) -> Result<Option<u64>, StoreError> {
        let mut found = None;
        self.engine.records(0, 1, &mut |row| {
            found = Some(row.index);
            false
        })?;
        Ok(found.filter(|index| *index < before))
    }

    /// The oldest batch, if its last record is old, it is settled and not the newest one.
    fn oldest_batch(&mut self, horizon: u64, anchored: u64) -> Result<Retained, StoreError> {
        let [oldest, _] = self.engine.batches(0, 2)?[..] else { return Ok(Retained::default()) };
        let mut is_old = false;
        self.engine.records(oldest.first + oldest.count - 1, 1, &mut |row| {
            is_old = row.last_at < horizon;
            false
        })?;
        if !is_old || oldest.sequence > anchored {
            return Ok(Retained::default());
        }
        self.engine.apply(Change { batch: Some(oldest.sequence), ..Change::default() })?;
        Ok(Retained { batches: 1, more: true, ..Retained::default() })
    }

    /// Keys that nothing is left for.
    fn sweep_keys(&mut self, horizon: u64) -> Result<(), StoreError> {
        if self.keys_swept.is_some_and(|then| then.elapsed() < SWEEP) {
            return Ok(());
        }
        let keys_before = Some(horizon.saturating_sub(KEYS_LONGER));
        // Nothing is to be sealed with a key that is gone.
        self.keys.clear();
        self.engine.apply(Change { keys_before, ..Change::default() })?;
        self.keys_swept = Some(Instant::now());
        Ok(())
    }

    /// The next refusals whose content is old, up to the first record that is not.
    fn refusals(&mut self, horizon: u64, anchored: u64) -> Result<Retained, StoreError> {
        let from = self.engine.refusals_to()? + 1;
        let end = self.end_of(anchored)?;
        let (mut looked, mut to, mut emptied) = (0, None, Vec::new());
        self.engine.records(from, AT_ONCE.into(), &mut |row| {
            if row.index >= end || row.last_at >= horizon {
                return false;
            }
            let kind = u8::try_from(row.kind).ok().and_then(Kind::from_number);
            if kind.is_some_and(is_refusal)
                && let Some(encoding) = Stored::whole(row.octets)
            {
                emptied.push((row.index, leaf(&encoding)));
            }
            (looked, to) = (looked + 1, Some(row.index));
            true
        })?;
        let count = u64::try_from(emptied.len()).unwrap_or(u64::MAX);
        if to.is_some() {
            self.engine.apply(Change { emptied, refusals_to: to, ..Change::default() })?;
        }
        Ok(Retained { emptied: count, more: looked == AT_ONCE, ..Retained::default() })
    }

    /// The first record that is not settled, where this is the last batch that is.
    fn end_of(&self, anchored: u64) -> Result<u64, StoreError> {
        let last = self.engine.last_batch(anchored)?;
        Ok(last.map_or(0, |last| last.first + last.count))
    }
}

fn is_refusal(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::PublishRefused
            | Kind::SubscribeRefused
            | Kind::DeliveryWithheld
            | Kind::WillRefused
            | Kind::SessionEnded
            | Kind::ProofFailed
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alloy_primitives::U256;
    use flytrap_record::export::{Anchor, Checked, Checker, End, Fault, Head, Line, VERSION};

    use super::super::Draft;
    use super::super::tests::{Bed, GATEWAY, NONE, draft, with_each_engine};
    use super::*;

    const DAY: u64 = 86_400;
    const YEAR: Retention = Retention { all: Some(Duration::from_secs(365 * DAY)), refusals: None };
    const BOTH: Retention = Retention { refusals: Some(Duration::from_secs(90 * DAY)), ..YEAR };

    fn at(kind: Kind, day: u64) -> Draft {
        let mut draft = draft(1);
        draft.record.kind = kind;
        (draft.record.first_at, draft.record.last_at) = (day * DAY, day * DAY);
        draft
    }

    /// A delivery and a refusal a day, each day a batch, all anchored.
    fn history(store: &mut Store, days: u64) -> BTreeMap<u64, Anchor> {
        let mut anchors = BTreeMap::new();
        for day in 0..days {
            store.append(&[at(Kind::Delivered, day), at(Kind::PublishRefused, day)]).unwrap();
            let closed = store.close(NONE).unwrap().unwrap();
            let anchor =
                Anchor { root: closed.root, previous: closed.previous, count: closed.count };
            anchors.insert(closed.sequence, anchor);
        }
        anchors
    }

    fn all_steps(store: &mut Store, retention: Retention, now: u64, anchored: u64) -> Retained {
        let mut sum = Retained::default();
        loop {
            let done = store.retain(retention, now, anchored).unwrap();
            sum.batches += done.batches;
            sum.deleted += done.deleted;
            sum.emptied += done.emptied;
            if !done.more {
                return sum;
            }
        }
    }

    fn verified(bed: &Bed, anchors: &BTreeMap<u64, Anchor>) -> Result<Checked, Fault> {
        let reader = bed.reader().unwrap();
        let head = Head {
            flytrap_records: VERSION,
            chain_id: 1,
            audit_log: GATEWAY,
            broker_id: U256::ONE,
            gateway: GATEWAY,
        };
        let mut checker = Checker::default();
        let mut take = |line: &Line| checker.take(&serde_json::to_vec(line).unwrap()).map(drop);
        take(&Line::Head(head))?;
        let (mut batches, mut records) = (0, 0);
        for batch in reader.batches(1, 10_000).unwrap() {
            take(&Line::Batch(batch.clone()))?;
            let mut lines = Vec::new();
            let each = |line| {
                lines.push(line);
                Ok::<_, StoreError>(())
            };
            reader.records(&batch, each).unwrap();
            for line in &lines {
                take(line)?;
                records += 1;
            }
            batches += 1;
        }
        take(&Line::End(End { batches, records }))?;
        checker.finish(anchors)
    }

    with_each_engine! {
        #[test]
        fn old_batches_go_from_the_first_on_and_what_is_left_verifies(bed: &Bed) {
            let mut store = bed.open().unwrap();
            let anchors = history(&mut store, 10);
            // The last second of its life, and the first after.
            assert_eq!(all_steps(&mut store, YEAR, 365 * DAY, 10), Retained::default());
            let done = all_steps(&mut store, YEAR, 365 * DAY + 1, 10);
            assert_eq!((done.batches, done.deleted), (1, 2));
            let done = all_steps(&mut store, YEAR, 368 * DAY + 1, 10);
            assert_eq!((done.batches, done.deleted), (3, 6));
            let checked = verified(bed, &anchors).unwrap();
            assert_eq!((checked.sequences, checked.records, checked.removed), (Some((5, 10)), 12, 0));
            // The chain goes on, also after a restart, and with nothing but the newest batch.
            all_steps(&mut store, YEAR, 9_999 * DAY, 10);
            drop(store);
            let mut store = bed.open().unwrap();
            assert_eq!(store.append(&[draft(1)]).unwrap(), 21);
            let closed = store.close(NONE).unwrap().unwrap();
            assert_eq!(closed.sequence, 11);
            let mut anchors = anchors;
            let anchor = Anchor { root: closed.root, previous: closed.previous, count: 1 };
            anchors.insert(11, anchor);
            assert_eq!(verified(bed, &anchors).unwrap().sequences, Some((10, 11)));
        }

        #[test]
        fn what_the_chain_has_not_settled_stays_however_old(bed: &Bed) {
            let mut store = bed.open().unwrap();
            history(&mut store, 6);
            let done = all_steps(&mut store, BOTH, 9_999 * DAY, 2);
            assert_eq!((done.batches, done.deleted, done.emptied), (2, 4, 0));
            let done = all_steps(&mut store, BOTH, 9_999 * DAY, 3);
            assert_eq!((done.batches, done.deleted), (1, 2));
        }

        #[test]
        fn of_old_refusals_the_leaf_stays_and_nothing_of_what_they_said(bed: &Bed) {
            let mut store = bed.open().unwrap();
            let anchors = history(&mut store, 10);
            assert_eq!(all_steps(&mut store, BOTH, 93 * DAY + 1, 10).emptied, 4);
            let checked = verified(bed, &anchors).unwrap();
            assert_eq!((checked.records, checked.removed), (20, 4));
            assert_eq!(all_steps(&mut store, BOTH, 93 * DAY + 1, 10), Retained::default());
            drop(store);
            let mut store = bed.open().unwrap();
            assert_eq!(
                all_steps(&mut store, BOTH, 95 * DAY + 1, 10).emptied,
                2,
                "it goes on where it was"
            );
            let left = "SELECT count(*) FROM record WHERE length(octets) = 32 AND length(wallet) + length(topic) = 0 AND kind = -1";
            assert_eq!(bed.number(left), 6);
            // In their time they go with their batches.
            assert_eq!(all_steps(&mut store, BOTH, 367 * DAY + 1, 10).batches, 3);
            assert_eq!(verified(bed, &anchors).unwrap().removed, 7);
        }

        #[test]
        fn what_a_kill_interrupted_is_finished_at_the_next_start(bed: &Bed) {
            let mut store = bed.open().unwrap();
            let anchors = history(&mut store, 4);
            let first = store.retain(YEAR, 366 * DAY + 1, 4).unwrap();
            assert_eq!((first.batches, first.deleted, first.more), (1, 0, true));
            drop(store);
            assert_eq!(verified(bed, &anchors).unwrap().sequences, Some((2, 4)));
            let mut store = bed.open().unwrap();
            let done = all_steps(&mut store, YEAR, 366 * DAY + 1, 4);
            assert_eq!((done.batches, done.deleted), (1, 4));
            assert_eq!(verified(bed, &anchors).unwrap().sequences, Some((3, 4)));
        }

        #[test]
        fn keys_go_when_nothing_is_left_that_they_open(bed: &Bed) {
            let mut store = bed.open().unwrap();
            history(&mut store, 2);
            let keys = || bed.number("SELECT count(*) FROM subject");
            all_steps(&mut store, YEAR, 366 * DAY, 2);
            assert_eq!(keys(), 1);
            store.keys_swept = None;
            all_steps(&mut store, YEAR, 367 * DAY + BEHIND, 2);
            assert_eq!(keys(), 1);
            store.keys_swept = None;
            all_steps(&mut store, YEAR, 367 * DAY + BEHIND + 1, 2);
            assert_eq!(keys(), 0);
        }

        #[test]
        fn one_step_is_bounded_whatever_there_is_to_do(bed: &Bed) {
            let mut store = bed.open().unwrap();
            store.append(&vec![at(Kind::PublishRefused, 1); 2_500]).unwrap();
            store.close(NONE).unwrap().unwrap();
            store.append(&[at(Kind::Delivered, 2)]).unwrap();
            store.close(NONE).unwrap().unwrap();
            let done = store.retain(BOTH, 100 * DAY, 2).unwrap();
            assert_eq!((done.emptied, done.more), (u64::from(AT_ONCE), true));
            assert_eq!(all_steps(&mut store, BOTH, 100 * DAY, 2).emptied, 2_500 - u64::from(AT_ONCE));
            store.retain(BOTH, 400 * DAY, 2).unwrap();
            let done = store.retain(BOTH, 400 * DAY, 2).unwrap();
            assert_eq!((done.deleted, done.more), (u64::from(AT_ONCE), true));
        }
    }
}
