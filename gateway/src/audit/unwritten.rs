//! How many records are not on the disk yet, so that a gateway that stops without having written them can say what is lost.

use std::sync::atomic::{AtomicU64, Ordering};

use flytrap_record::{Decision, Kind};

use super::fold::Fold;
use super::store::Draft;

/// Records that are on their way to the disk, by class.
#[derive(Debug, Default)]
pub(super) struct Unwritten([AtomicU64; CLASSES]);

/// Records that were not written, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost([u64; CLASSES]);

/// Accesses, refusals, and what the gateway and its operator did.
const CLASSES: usize = 3;

fn class(kind: Kind) -> usize {
    match kind.decision() {
        Some(Decision::Allowed) => 0,
        Some(Decision::Refused) => 1,
        None => 2,
    }
}

impl Unwritten {
    pub(super) fn add<'a>(&self, drafts: impl IntoIterator<Item = &'a Draft>) {
        for draft in drafts {
            self.0[class(draft.record.kind)].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn written<'a>(&self, drafts: impl IntoIterator<Item = &'a Draft>) {
        for draft in drafts {
            self.0[class(draft.record.kind)].fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// With what is folded still. Whoever has it locked keeps records from going from there to here meanwhile.
    pub(super) fn with(&self, fold: &Fold) -> Lost {
        let mut lost = Lost(std::array::from_fn(|class| self.0[class].load(Ordering::Relaxed)));
        for kind in fold.kinds() {
            lost.0[class(kind)] += 1;
        }
        lost
    }
}

impl Lost {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Of accesses.
    #[must_use]
    pub fn accesses(&self) -> u64 {
        self.0[0]
    }

    /// Of refusals and failed proofs.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.0[1]
    }

    /// Of bans, erasures, starts and the like.
    #[must_use]
    pub fn others(&self) -> u64 {
        self.0[2]
    }
}
