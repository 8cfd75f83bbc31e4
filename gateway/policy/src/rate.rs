//! Rates: what a client may use, as so much a second and so much at once.
//!
//! A bucket is one number, the moment at which it is full again (the generic cell rate algorithm): nothing runs between two uses, and a
//! bucket that several sessions share is one atomic. Time is an argument: any clock that never steps, the same one for each use.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Fractional bits of a unit's cost, so that units much cheaper than a nanosecond still cost something.
const FRACTION: u32 = 16;

/// How much may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds that it takes to earn one unit, in fixed point; 0 for no limit.
    cost: u64,
    /// How far ahead of its earning something may be used, in nanoseconds.
    burst: u64,
}

impl Rate {
    /// No limit.
    pub const UNLIMITED: Self = Self { cost: 0, burst: 0 };

    /// `units` in each `time`, as many as is earned in `burst` at once. 0 units: no limit.
    #[must_use]
    pub fn new(units: u64, time: Duration, burst: Duration) -> Self {
        let cost = (time.as_nanos() << FRACTION) / u128::from(units.max(1));
        let cost = u64::try_from(cost).unwrap_or(u64::MAX).max(1);
        if units == 0 { Self::UNLIMITED } else { Self { cost, burst: nanoseconds(burst) } }
    }

    /// When a bucket that is full at `full_at` will be full again once `units` are used.
    #[inline]
    fn after(&self, full_at: u64, now: u64, units: u64) -> u64 {
        let used = (u128::from(self.cost) * u128::from(units)) >> FRACTION;
        full_at.max(now).saturating_add(u64::try_from(used).unwrap_or(u64::MAX))
    }

    /// How long nothing more may be used; zero if more may be.
    #[inline]
    fn over(&self, full_at: u64, now: u64) -> Duration {
        if *self == Self::UNLIMITED {
            return Duration::ZERO;
        }
        Duration::from_nanos(full_at.saturating_sub(now.saturating_add(self.burst)))
    }
}

/// What one user has used of a [`Rate`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    full_at: u64,
}

impl Bucket {
    /// Uses `units`, whether they are there or not, and answers how long nothing more may be used: zero if the rate was kept.
    #[inline]
    pub fn take(&mut self, rate: &Rate, units: u64, now: Duration) -> Duration {
        let now = nanoseconds(now);
        self.full_at = rate.after(self.full_at, now, units);
        rate.over(self.full_at, now)
    }

    /// Uses `units` if they are there. Whoever is refused owes nothing, and so is not kept out by asking again.
    pub fn try_take(&mut self, rate: &Rate, units: u64, now: Duration) -> bool {
        let mut tried = *self;
        let is_there = tried.take(rate, units, now).is_zero();
        if is_there {
            *self = tried;
        }
        is_there
    }

    /// How long it takes until it is full: zero if it is as good as new.
    #[must_use]
    pub fn level(&self, now: Duration) -> Duration {
        Duration::from_nanos(self.full_at.saturating_sub(nanoseconds(now)))
    }
}

/// A [`Bucket`] that several users share without waiting for one another.
#[derive(Debug, Default)]
pub struct SharedBucket {
    full_at: AtomicU64,
}

impl SharedBucket {
    /// As [`Bucket::take`].
    #[inline]
    pub fn take(&self, rate: &Rate, units: u64, now: Duration) -> Duration {
        let now = nanoseconds(now);
        if *rate == Rate::UNLIMITED || units == 0 {
            return rate.over(self.full_at.load(Ordering::Relaxed), now);
        }
        // Only this number is shared, so no order with other memory is wanted.
        let after = |full_at| Some(rate.after(full_at, now, units));
        let update = self.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, after);
        let (Ok(before) | Err(before)) = update;
        rate.over(rate.after(before, now, units), now)
    }

    /// As [`Bucket::level`].
    #[must_use]
    pub fn level(&self, now: Duration) -> Duration {
        Bucket { full_at: self.full_at.load(Ordering::Relaxed) }.level(now)
    }
}

#[inline]
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const TICK: Duration = Duration::from_nanos(1);

    #[test]
    fn the_burst_is_there_at_once_and_one_more_is_not() {
        let (rate, mut bucket) = (Rate::new(10, SECOND, 2 * SECOND), Bucket::default());
        assert_eq!(bucket.take(&rate, 20, SECOND), Duration::ZERO);
        assert_eq!(bucket.take(&rate, 1, SECOND), SECOND / 10);
        // Earned again to the nanosecond.
        let at = SECOND + SECOND / 10;
        assert_eq!(bucket.take(&rate, 0, at - TICK), TICK);
        assert_eq!(bucket.take(&rate, 0, at), Duration::ZERO);
        assert_eq!(bucket.level(at), 2 * SECOND);
        assert_eq!(bucket.level(at + 2 * SECOND), Duration::ZERO);
    }

    #[test]
    fn whoever_is_refused_owes_nothing() {
        let (rate, mut bucket) = (Rate::new(1, SECOND, SECOND), Bucket::default());
        assert!(bucket.try_take(&rate, 1, SECOND));
        for _ in 0..1_000 {
            assert!(!bucket.try_take(&rate, 1, SECOND));
        }
        assert!(!bucket.try_take(&rate, 1, 2 * SECOND - TICK));
        assert!(bucket.try_take(&rate, 1, 2 * SECOND));
    }

    #[test]
    fn without_a_limit_nothing_is_ever_over() {
        let (rate, later) = (Rate::new(0, SECOND, SECOND), 2 * SECOND);
        let (mut bucket, shared) = (Bucket::default(), SharedBucket::default());
        // Whoever looks at the clock first may come to the bucket second, so that time seems to go back.
        for now in [later, SECOND, later, SECOND - TICK] {
            assert!(bucket.try_take(&rate, 1, now), "{now:?}");
            assert_eq!(bucket.take(&rate, u64::MAX, now), Duration::ZERO, "{now:?}");
            assert_eq!(shared.take(&rate, u64::MAX, now), Duration::ZERO, "{now:?}");
        }
        // Nor is what was used under a limit owed when there is none any more.
        let limit = Rate::new(1, SECOND, SECOND);
        bucket.take(&limit, 60, later);
        shared.take(&limit, 60, later);
        assert_eq!(bucket.take(&rate, 1, later), Duration::ZERO);
        assert_eq!(shared.take(&rate, 1, later), Duration::ZERO);
    }

    #[test]
    fn units_cheaper_than_a_nanosecond_cost_what_they_should() {
        let octets = 100 * 1024 * 1024 * 1024;
        let (rate, mut bucket) = (Rate::new(octets, SECOND, SECOND), Bucket::default());
        bucket.take(&rate, octets, SECOND);
        let level = bucket.level(SECOND);
        assert!((SECOND - SECOND / 1_000..=SECOND).contains(&level), "{level:?}");
    }

    #[test]
    fn sums_do_not_wrap() {
        let rate = Rate::new(1, Duration::from_secs(u64::MAX / 2), Duration::MAX);
        let mut bucket = Bucket::default();
        bucket.take(&rate, u64::MAX, Duration::MAX);
        bucket.take(&rate, u64::MAX, Duration::MAX);
        assert_eq!(bucket.level(Duration::ZERO), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn what_several_take_at_once_is_all_counted() {
        let rate = Rate::new(1_000_000, SECOND, SECOND);
        let shared = SharedBucket::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1_000).map(|_| shared.take(&rate, 10, SECOND)).max());
            }
        });
        assert_eq!(shared.level(SECOND), Duration::from_millis(40));
    }

    proptest! {
        /// However it is cut into uses: in any time no more than the burst and what the time earns.
        #[test]
        fn no_cutting_into_uses_gets_more_than_the_rate_and_the_burst(
            uses in prop::collection::vec((0..5_u64, 0..400_000_000_u64), 1..200),
        ) {
            let rate = Rate::new(10, SECOND, SECOND);
            let (mut bucket, shared) = (Bucket::default(), SharedBucket::default());
            let (mut now, mut taken, begin) = (SECOND, 0, SECOND);
            for (units, pause) in uses {
                now += Duration::from_nanos(pause);
                if bucket.try_take(&rate, units, now) {
                    prop_assert_eq!(shared.take(&rate, units, now), Duration::ZERO);
                    taken += units;
                }
                let earned = 10.0 + (now - begin).as_secs_f64() * 10.0;
                prop_assert!(taken as f64 <= earned + 0.001, "{} of {}", taken, earned);
            }
        }
    }
}
