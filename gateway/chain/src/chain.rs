//! The chain as the mirror has taken it in: a ring of states, one per block, and how a new branch replaces an old one.
//!
//! Pure: whoever drives it fetches headers and logs. A state is O(1) to keep, since the registry shares what did not change, so
//! a reorganisation takes the state at the common ancestor and replays the new branch on it.

use std::{collections::VecDeque, sync::Arc};

use alloy::primitives::{B256, Bloom, U256};
use flytrap_policy::{Concern, Event, Inconsistent, Options, Registry, Stamp, View};

/// What is needed of a block header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its height.
    pub height: u64,
    /// Its hash.
    pub hash: B256,
    /// Hash of the block below.
    pub parent: B256,
    /// Its time, Unix seconds.
    pub time: u64,
    /// Which addresses and topics its logs may have.
    pub bloom: Bloom,
    /// Root of its receipts.
    pub receipts: B256,
}

/// A block with its events in the order of their logs.
#[derive(Debug, Clone)]
pub struct Block {
    /// Its header.
    pub header: Header,
    /// What happened in it.
    pub events: Vec<Event>,
}

/// State after one block.
#[derive(Debug, Clone)]
struct Entry {
    height: u64,
    hash: B256,
    time: u64,
    registry: Arc<Registry>,
    /// Equal for two entries only if no event lies between them.
    revision: u64,
    /// Whose decisions may differ from those of the entry below.
    concern: Concern,
}

/// A state that permissions are judged by.
#[derive(Debug, Clone)]
pub struct Settled {
    /// The block that it is the state after.
    pub height: u64,
    /// Time of that block, Unix seconds.
    pub time: u64,
    /// The state.
    pub registry: Arc<Registry>,
    revision: u64,
}

impl Settled {
    /// The chain that it came from is gone: marks of the next one, which counts anew, do not compare with its own.
    pub(crate) fn of_another_chain(&mut self) {
        self.revision = u64::MAX;
    }
}

/// Why blocks were not taken in. The chain is then as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A block does not follow the one before.
    #[error("block {height} {hash} does not follow the block before it")]
    NotNext {
        /// Its height.
        height: u64,
        /// Its hash.
        hash: B256,
    },
    /// An event contradicts the state.
    #[error("block {height}: {source}")]
    Inconsistent {
        /// The block of the event.
        height: u64,
        /// What is contradictory.
        source: Inconsistent,
    },
}

/// Where a header stands, seen from the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is the tip.
    Tip,
    /// A block below the tip that is on the chain: the node lags behind another one.
    Older,
    /// Below everything that is remembered.
    Forgotten,
    /// At or below the tip with another hash, or above it.
    Ahead,
}

/// Headers that are to become the chain's new end, linked downwards from a head until they meet the chain.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Lowest first.
    headers: VecDeque<Header>,
}

/// What a branch needs to meet the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joined {
    /// Its lowest block follows the chain's block of this height.
    At(u64),
    /// These headers by number, both ends included.
    Needs {
        /// The lowest.
        from: u64,
        /// The highest.
        to: u64,
    },
    /// It leaves the chain below everything that is remembered.
    TooDeep,
}

/// Most headers that are asked for at once.
const MAX_STEP: u64 = 64;

/// The blocks taken in: at least the last `history` states.
#[derive(Debug, Clone)]
pub struct Chain {
    broker_id: U256,
    history: usize,
    /// Never empty. Heights grow; they have gaps where ranges of old blocks were taken in at once.
    ring: VecDeque<Entry>,
    revisions: u64,
}

impl Chain {
    /// An empty state on top of `base`, the last block before the contracts were deployed. Remembers `history` blocks
    /// below the tip.
    #[must_use]
    pub fn new(broker_id: U256, base: &Header, history: usize) -> Self {
        Self::resumed(Registry::new(broker_id), base, history)
    }

    /// A state that is known from before, after the block `base`.
    #[must_use]
    pub fn resumed(registry: Registry, base: &Header, history: usize) -> Self {
        let (broker_id, registry) = (registry.broker_id(), Arc::new(registry));
        let entry = Entry {
            height: base.height,
            hash: base.hash,
            time: base.time,
            registry,
            revision: 0,
            concern: Concern::EVERYONE,
        };
        Self { broker_id, history, ring: VecDeque::from([entry]), revisions: 0 }
    }

    fn tip(&self) -> &Entry {
        self.ring.back().expect("the ring starts with the base and keeps its newest entry")
    }

    fn oldest(&self) -> &Entry {
        self.ring.front().expect("the ring starts with the base and keeps its newest entry")
    }

    /// Height of the newest block.
    #[must_use]
    pub fn height(&self) -> u64 {
        self.tip().height
    }

    /// Hash of the newest block.
    #[must_use]
    pub fn hash(&self) -> B256 {
        self.tip().hash
    }

    /// State after the newest block.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.tip().registry
    }

    /// Hash of the block of this height, if it is remembered.
    #[must_use]
    pub fn hash_at(&self, height: u64) -> Option<B256> {
        let at = self.ring.partition_point(|entry| entry.height < height);
        self.ring.get(at).filter(|entry| entry.height == height).map(|entry| entry.hash)
    }

    /// Heights that are remembered, newest first.
    pub fn heights(&self) -> impl Iterator<Item = u64> + '_ {
        self.ring.iter().rev().map(|entry| entry.height)
    }

    /// Where a head that a node reports stands.
    #[must_use]
    pub fn place(&self, head: &Header) -> Place {
        if head.hash == self.hash() {
            Place::Tip
        } else if head.height < self.oldest().height {
            Place::Forgotten
        } else if self.hash_at(head.height) == Some(head.hash) {
            Place::Older
        } else {
            Place::Ahead
        }
    }

    /// Does the branch meet the chain, and if not, what is missing?
    #[must_use]
    pub fn join(&self, branch: &Branch) -> Joined {
        let Some(lowest) = branch.headers.front() else { return Joined::TooDeep };
        let Some(below) = lowest.height.checked_sub(1) else { return Joined::TooDeep };
        if self.hash_at(below) == Some(lowest.parent) {
            return Joined::At(below);
        }
        let oldest = self.oldest().height;
        if below <= oldest {
            return Joined::TooDeep;
        }
        let step = if below > self.height() {
            below - self.height()
        } else {
            // Most reorganisations are shallow: one block down, then two, then four.
            self.height() - below + 1
        };
        let from = below.saturating_sub(step.clamp(1, MAX_STEP) - 1).max(oldest);
        Joined::Needs { from, to: below }
    }

    /// Puts a branch in place of everything above `ancestor`. Returns how many blocks that orphaned.
    ///
    /// # Errors
    /// [`ChainError`] if the blocks do not follow each other, or an event contradicts the state.
    pub fn adopt(&mut self, ancestor: u64, branch: &[Block]) -> Result<usize, ChainError> {
        let kept = self.ring.partition_point(|entry| entry.height <= ancestor);
        let mut below = match kept.checked_sub(1).map(|at| &self.ring[at]) {
            Some(entry) if entry.height == ancestor => entry.clone(),
            _ => return Err(not_next(branch.first())),
        };
        let mut revisions = self.revisions;
        let mut entries = Vec::with_capacity(branch.len());
        for block in branch {
            let header = &block.header;
            if header.height != below.height + 1 || header.parent != below.hash {
                return Err(not_next(Some(block)));
            }
            // A block is never before the one below it; who says so is not believed.
            let time = header.time.max(below.time);
            let stamp = Stamp { height: header.height, time };
            below = next(
                &below,
                header,
                time,
                block.events.iter().map(|e| (stamp, e)),
                &mut revisions,
            )?;
            entries.push(below.clone());
        }
        let orphaned = self.ring.len() - kept;
        self.ring.truncate(kept);
        self.ring.extend(entries);
        self.revisions = revisions;
        self.forget();
        Ok(orphaned)
    }

    /// Takes in everything up to `to` at once, for blocks so old that no reorganisation reaches them.
    ///
    /// # Errors
    /// [`ChainError`] if `to` is not above the tip, or an event contradicts the state.
    pub fn leap(&mut self, to: &Header, events: &[(Stamp, Event)]) -> Result<(), ChainError> {
        let below = self.tip().clone();
        if to.height <= below.height {
            return Err(ChainError::NotNext { height: to.height, hash: to.hash });
        }
        let mut revisions = self.revisions;
        let time = to.time.max(below.time);
        let entry = next(&below, to, time, events.iter().map(|(at, e)| (*at, e)), &mut revisions)?;
        self.revisions = revisions;
        self.ring.push_back(entry);
        self.forget();
        Ok(())
    }

    /// Goes back to a height that is remembered. Returns whether it was.
    pub fn rewind(&mut self, height: u64) -> bool {
        let kept = self.ring.partition_point(|entry| entry.height <= height);
        let found = kept.checked_sub(1).is_some_and(|at| self.ring[at].height == height);
        if found {
            self.ring.truncate(kept);
        }
        found
    }

    fn forget(&mut self) {
        // One more than `history`: undoing that many blocks needs the state before them.
        while self.ring.len() > self.history.saturating_add(1) {
            self.ring.pop_front();
        }
    }

    /// The state with so many blocks on top; `None` if it is older than what is remembered, and therefore not known.
    #[must_use]
    pub fn settled(&self, confirmations: u64) -> Option<Settled> {
        let deep = self.tip().height.checked_sub(confirmations);
        let entry = deep.and_then(|height| {
            let at = self.ring.partition_point(|entry| entry.height <= height);
            at.checked_sub(1).map(|at| &self.ring[at])
        });
        if entry.is_none() && self.oldest().registry.owner().is_none() {
            // Before the first event nothing was settled either.
            let registry = Arc::new(Registry::new(self.broker_id));
            return Some(Settled { height: 0, time: 0, registry, revision: 0 });
        }
        entry.map(Entry::settled)
    }

    /// The newest state that no reorganisation within what is remembered can undo, with its block; `None` while the chain is
    /// shorter than that.
    #[must_use]
    pub fn deepest(&self) -> Option<(Header, Arc<Registry>)> {
        let deep = self.height().checked_sub(u64::try_from(self.history).ok()?)?;
        let at = self.ring.partition_point(|entry| entry.height <= deep).checked_sub(1)?;
        let Entry { height, hash, time, registry, .. } = &self.ring[at];
        registry.owner()?;
        let unknown = (B256::ZERO, Bloom::ZERO);
        let header = Header {
            height: *height,
            hash: *hash,
            time: *time,
            parent: unknown.0,
            bloom: unknown.1,
            receipts: unknown.0,
        };
        Some((header, registry.clone()))
    }

    /// The view at the tip, and what tells two of them apart: views with the same mark hold the same state.
    #[must_use]
    pub fn view(&self, settled: &Settled, options: Options, version: u64) -> (View, [u64; 2]) {
        let tip = self.tip();
        let view = View {
            settled: settled.registry.clone(),
            head: tip.registry.clone(),
            height: tip.height,
            time: tip.time,
            version,
            concern: Concern::EVERYONE,
            options,
        };
        (view, [settled.revision, tip.revision])
    }

    /// Whose decisions may differ between views with these marks.
    #[must_use]
    pub fn concern(&self, before: [u64; 2], now: [u64; 2]) -> Concern {
        let mut concern = Concern::NOBODY;
        for (before, now) in before.into_iter().zip(now) {
            concern.merge(&self.between(before, now));
        }
        concern
    }

    fn between(&self, before: u64, now: u64) -> Concern {
        let mut concern = Concern::NOBODY;
        if before == now {
            return concern;
        }
        for entry in self.ring.iter().rev().skip_while(|entry| entry.revision != now) {
            if entry.revision == before {
                return concern;
            }
            concern.merge(&entry.concern);
        }
        // Orphaned or forgotten: how one came from it to this is not known.
        Concern::EVERYONE
    }
}

impl Entry {
    fn settled(&self) -> Settled {
        let Self { height, time, registry, revision, .. } = self;
        Settled { height: *height, time: *time, registry: registry.clone(), revision: *revision }
    }
}

fn not_next(block: Option<&Block>) -> ChainError {
    let (height, hash) = block.map_or((0, B256::ZERO), |b| (b.header.height, b.header.hash));
    ChainError::NotNext { height, hash }
}

fn next<'a>(
    below: &Entry,
    header: &Header,
    time: u64,
    events: impl Iterator<Item = (Stamp, &'a Event)>,
    revisions: &mut u64,
) -> Result<Entry, ChainError> {
    let (mut registry, mut decides, mut concern) = (None, false, Concern::NOBODY);
    for (stamp, event) in events.filter(|(_, event)| event.is_remembered()) {
        // Anchors are remembered, but no decision looks at them: sessions need not judge again.
        decides |= event.changes_state();
        concern.add(event);
        registry
            .get_or_insert_with(|| Registry::clone(&below.registry))
            .apply(event, stamp)
            .map_err(|source| ChainError::Inconsistent { height: stamp.height, source })?;
    }
    let registry = registry.map_or_else(|| below.registry.clone(), Arc::new);
    let revision = if decides {
        *revisions += 1;
        *revisions
    } else {
        below.revision
    };
    Ok(Entry { height: header.height, hash: header.hash, time, registry, revision, concern })
}

impl Branch {
    /// A branch that so far has only its head.
    #[must_use]
    pub fn new(head: Header) -> Self {
        Self { headers: VecDeque::from([head]) }
    }

    /// Adds headers below, highest first, until the branch meets the chain.
    ///
    /// # Errors
    /// [`ChainError::NotNext`] if one does not lie directly below: the node has changed its mind in between.
    pub fn extend_down(
        &mut self,
        chain: &Chain,
        below: impl IntoIterator<Item = Header>,
    ) -> Result<(), ChainError> {
        for header in below {
            if let Joined::At(_) = chain.join(self) {
                break;
            }
            let fits = self
                .headers
                .front()
                .is_none_or(|low| low.parent == header.hash && low.height == header.height + 1);
            if !fits {
                return Err(ChainError::NotNext { height: header.height, hash: header.hash });
            }
            self.headers.push_front(header);
        }
        Ok(())
    }

    /// Its headers, lowest first.
    #[must_use]
    pub fn into_headers(self) -> Vec<Header> {
        self.headers.into()
    }
}

#[cfg(test)]
mod tests;
