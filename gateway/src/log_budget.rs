//! How many lines of the log clients may cause, so that no flood of theirs fills a disk or hides what matters.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flytrap_policy::{Rate, SharedBucket};
use tracing::warn;

/// Lines a second, in the long run.
const LINES: u64 = 100;
/// As many seconds' worth may come at once.
const BURST: Duration = Duration::from_secs(20);

/// Lines that clients may cause. What is left out is counted and told.
#[derive(Debug)]
pub struct LogBudget {
    rate: Rate,
    used: SharedBucket,
    left_out: AtomicU64,
    began: Instant,
}

impl Default for LogBudget {
    fn default() -> Self {
        Self {
            rate: Rate::new(LINES, Duration::from_secs(1), BURST),
            used: SharedBucket::default(),
            left_out: AtomicU64::new(0),
            began: Instant::now(),
        }
    }
}

impl LogBudget {
    /// Whether one more line may be written.
    pub fn may_say(&self) -> bool {
        let (may, left_out) = self.judge(self.began.elapsed());
        if left_out > 0 {
            warn!(lines = left_out, "lines about clients were left out: too many at once");
        }
        may
    }

    /// Also how many were left out since a line was last written, if that is to be told now.
    fn judge(&self, now: Duration) -> (bool, u64) {
        // Of several at once a few may slip through, which is as good.
        if self.used.level(now) >= BURST {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return (false, 0);
        }
        self.used.take(&self.rate, 1, now);
        (true, self.left_out.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// THREATS D14
    #[test]
    fn a_flood_writes_a_bounded_number_of_lines_and_tells_how_many_it_did_not() {
        let (budget, mut now) = (LogBudget::default(), Duration::from_secs(1));
        let (mut said, mut told) = (0_u64, 0);
        // A hundred thousand a second, ten seconds long.
        for _ in 0..1_000_000 {
            now += Duration::from_micros(10);
            let (may, left_out) = budget.judge(now);
            said += u64::from(may);
            told += left_out;
        }
        assert!((2_900..=3_010).contains(&said), "{said} lines");
        now += Duration::from_secs(1);
        let (may, left_out) = budget.judge(now);
        assert!(may);
        assert_eq!(said + told + left_out, 1_000_000);
    }
}
