//! Which states may have been in force when.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{Acl, No};

/// States older than this are forgotten: nothing is judged so late.
const KEPT: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct Moment {
    /// The block was not there yet at this moment, so no one could know it.
    earliest: Instant,
    /// It was there at this moment.
    visible: Instant,
    /// Time of the block, Unix seconds.
    time: u64,
    acl: Arc<Acl>,
}

/// The states after the last blocks, each with the moments between which its block appeared.
///
/// A state may be in force from the moment before which its block could not be seen, and no longer than the bound after its
/// successor's block could.
#[derive(Debug)]
pub struct Timeline {
    moments: VecDeque<Moment>,
    bound: Duration,
    began: (Instant, SystemTime),
}

impl Timeline {
    /// With this much time for a change to take effect after its block can be seen.
    #[must_use]
    pub fn new(bound: Duration) -> Self {
        Self { moments: VecDeque::new(), bound, began: (Instant::now(), SystemTime::now()) }
    }

    /// Adds the state after a block that appeared between these moments.
    pub fn push(&mut self, earliest: Instant, visible: Instant, time: u64, acl: Arc<Acl>) {
        self.moments.push_back(Moment { earliest, visible, time, acl });
        while self.moments.len() > 2 && self.moments[1].visible + KEPT < visible {
            self.moments.pop_front();
        }
    }

    /// The newest state.
    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Acl>> {
        self.moments.back().map(|moment| &moment.acl)
    }

    /// Was it allowed in a state that may have been in force in this stretch of time? `slack`: more time than the bound, where the
    /// observer itself was late.
    ///
    /// # Errors
    /// Why not, as the last of these states says.
    pub fn possible(
        &self,
        from: Instant,
        to: Instant,
        slack: Duration,
        allows: impl Fn(&Acl, u64) -> Result<(), No>,
    ) -> Result<(), No> {
        let bound = self.bound + slack;
        // The gateway's clock is the wall's or a block's, whichever is later; what may still be used has an end after the earlier.
        let wall = self.unix(from.checked_sub(bound).unwrap_or(from));
        let mut last = Err(No::Ungoverned);
        for (moment, _) in self.in_force(from, to, bound) {
            last = allows(&moment.acl, wall.max(self.time_before(from, bound)));
            if last.is_ok() {
                return last;
            }
        }
        last
    }

    /// Was it allowed in every state that may have been in force in this stretch of time?
    #[must_use]
    pub fn certain(
        &self,
        from: Instant,
        to: Instant,
        allows: impl Fn(&Acl, u64) -> Result<(), No>,
    ) -> bool {
        // A second more, since clocks are read in whole ones.
        let newest = self.moments.back().map_or(0, |moment| moment.time);
        let wall = self.unix(to).max(newest) + 1;
        // The bound counts for what was given as well: a permission may be that late.
        let mut states = self.in_force(from, to, self.bound).peekable();
        states.peek().is_some() && states.all(|(moment, _)| allows(&moment.acl, wall).is_ok())
    }

    fn in_force(
        &self,
        from: Instant,
        to: Instant,
        bound: Duration,
    ) -> impl Iterator<Item = (&Moment, Option<Instant>)> {
        let followed = self.moments.iter().skip(1).map(|moment| Some(moment.visible));
        self.moments.iter().zip(followed.chain([None])).filter(move |(moment, next)| {
            moment.earliest <= to && next.is_none_or(|next| from <= next + bound)
        })
    }

    /// The time of the newest block that everyone must have known at this moment.
    fn time_before(&self, at: Instant, bound: Duration) -> u64 {
        let known = self.moments.iter().take_while(|moment| moment.visible + bound <= at);
        known.last().map_or(0, |moment| moment.time)
    }

    /// Unix seconds, whole ones.
    fn unix(&self, at: Instant) -> u64 {
        let (instant, system) = self.began;
        let system = if at >= instant {
            system + at.duration_since(instant)
        } else {
            system - instant.duration_since(at)
        };
        system.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}
