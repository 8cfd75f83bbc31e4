//! Which states may have been in force when.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
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
        let mut last = Err(No::Ungoverned);
        for moment in self.in_force(from, to, bound) {
            for now in self.clock(from, to, bound) {
                last = allows(&moment.acl, now);
                if last.is_ok() {
                    return last;
                }
            }
        }
        last
    }

    /// Was it allowed in every state that may have been in force in this stretch of time? `slack`: as above.
    #[must_use]
    pub fn certain(
        &self,
        from: Instant,
        to: Instant,
        slack: Duration,
        allows: impl Fn(&Acl, u64) -> Result<(), No>,
    ) -> bool {
        // The bound counts for what was given as well: a permission may be that late.
        let bound = self.bound + slack;
        let mut states = self.in_force(from, to, bound).peekable();
        states.peek().is_some()
            && states.all(|moment| {
                let (first, last) = self.clock(from, to, bound).into_inner();
                // A second more, since clocks are read in whole ones.
                (first..=last + 1).all(|now| allows(&moment.acl, now).is_ok())
            })
    }

    /// What a gateway's clock may have said in this stretch of time: the wall's, or a block's time if that is later. Each second of
    /// it counts, since grants end and so do bans.
    fn clock(&self, from: Instant, to: Instant, bound: Duration) -> RangeInclusive<u64> {
        let earliest = from.checked_sub(bound).unwrap_or(from);
        let known = |moment: &&Moment| moment.visible + bound <= from;
        let known = self.moments.iter().take_while(known).last();
        let seen = self.moments.iter().take_while(|moment| moment.earliest <= to).last();
        let time = |moment: Option<&Moment>| moment.map_or(0, |moment| moment.time);
        self.unix(earliest).max(time(known))..=self.unix(to).max(time(seen))
    }

    fn in_force(
        &self,
        from: Instant,
        to: Instant,
        bound: Duration,
    ) -> impl Iterator<Item = &Moment> {
        let followed = self.moments.iter().skip(1).map(|moment| Some(moment.visible));
        let all = self.moments.iter().zip(followed.chain([None]));
        let in_force = all.filter(move |(moment, next)| {
            moment.earliest <= to && next.is_none_or(|next| from <= next + bound)
        });
        in_force.map(|(moment, _)| moment)
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

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, U256};

    use super::*;
    use crate::Contracts;

    const BOUND: Duration = Duration::from_millis(250);

    fn acl() -> Arc<Acl> {
        let at = Address::ZERO;
        let at =
            Contracts { brokers: at, topics: at, market: at, devices: at, broker_id: U256::ZERO };
        Arc::new(Acl::new(at))
    }

    /// Two states of which only one allows: told apart by which `Acl` it is.
    #[test]
    fn a_state_counts_until_the_bound_after_its_successor_could_be_seen_and_not_before_it_could() {
        let ms = Duration::from_millis;
        let mut timeline = Timeline::new(BOUND);
        let start = timeline.began.0;
        let (first, second) = (acl(), acl());
        timeline.push(start, start, 0, first.clone());
        timeline.push(start + ms(1_000), start + ms(1_020), 0, second.clone());
        let only = |wanted: &Arc<Acl>| {
            let wanted = Arc::as_ptr(wanted);
            move |acl: &Acl, _| if std::ptr::eq(acl, wanted) { Ok(()) } else { Err(No::NoRight) }
        };
        let possible = |at: Duration, wanted: &Arc<Acl>| {
            let at = start + at;
            timeline.possible(at, at, Duration::ZERO, only(wanted)).is_ok()
        };
        assert!(possible(ms(1_270), &first), "the last moment of the first");
        assert!(!possible(ms(1_271), &first));
        assert!(
            timeline.possible(start + ms(1_280), start + ms(1_280), ms(10), only(&first)).is_ok()
        );
        assert!(!possible(ms(999), &second), "the block was not there");
        assert!(possible(ms(1_000), &second));
        let certain = |from, to, wanted: &Arc<Acl>| {
            timeline.certain(start + ms(from), start + ms(to), Duration::ZERO, only(wanted))
        };
        assert!(certain(500, 999, &first) && !certain(500, 1_000, &first));
        assert!(certain(1_271, 2_000, &second) && !certain(1_270, 2_000, &second));
    }
}
