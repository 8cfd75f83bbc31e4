//! How long to wait between attempts, and how many blocks to ask for at once.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use crate::rpc::RpcError;

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Rests of a node that wants fewer requests and does not say for how long.
const MAX_REST: Duration = Duration::from_secs(15);
const FIRST_REST: Duration = Duration::from_secs(1);

/// Widest range of blocks that logs are asked for at once.
const MAX_SPAN: u64 = 50_000;
const FIRST_SPAN: u64 = 2_000;
/// After so many answers the width that was once too much is tried again.
const TRIES: u32 = 64;

/// Pauses that grow and differ between gateways that fail together.
#[derive(Debug)]
pub(super) struct Pauses {
    seed: u64,
}

impl Pauses {
    pub(super) fn new() -> Self {
        Self::seeded(RandomState::new().hash_one(0))
    }

    pub(super) const fn seeded(seed: u64) -> Self {
        Self { seed }
    }

    /// Other ones that follow from these.
    pub(super) fn others(&mut self) -> Self {
        self.some_of(FIRST_PAUSE);
        Self::seeded(self.seed ^ 1)
    }

    /// After so many failures in a row.
    pub(super) fn after(&mut self, failures: u32) -> Duration {
        self.some_of(grown(FIRST_PAUSE, failures, MAX_PAUSE))
    }

    /// Of a node that has wanted fewer requests so many times in a row.
    pub(super) fn rest(&mut self, said: Duration, times: u32) -> Duration {
        let own = grown(FIRST_REST, times, MAX_REST);
        // Never less than it said.
        said.max(self.some_of(own)) + self.some_of(FIRST_PAUSE)
    }

    /// Between half and all of it.
    fn some_of(&mut self, full: Duration) -> Duration {
        // SplitMix64: any spread is good enough.
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let part = u32::try_from((mixed ^ (mixed >> 31)) % 512).unwrap_or(0);
        full.mul_f64(0.5 + f64::from(part) / 1024.0)
    }
}

fn grown(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1 << times.min(10)).min(most)
}

/// How many blocks at once a node takes: found by trying, since none says so beforehand.
#[derive(Debug)]
pub(super) struct Span {
    blocks: u64,
    /// The most that was answered, and the least that was refused, not tried again for a while.
    good: u64,
    too_wide: u64,
    since: u32,
}

impl Span {
    pub(super) const fn new() -> Self {
        Self { blocks: FIRST_SPAN, good: 0, too_wide: MAX_SPAN + 1, since: 0 }
    }

    pub(super) const fn blocks(&self) -> u64 {
        self.blocks
    }

    /// The node has answered: more next time, halfway at most to what was too much before.
    pub(super) fn answered(&mut self) {
        self.good = self.good.max(self.blocks);
        self.since += 1;
        if self.since > TRIES {
            (self.since, self.too_wide) = (0, MAX_SPAN + 1);
        }
        // Close enough: what is left to gain is not worth a refusal.
        if self.too_wide - self.blocks > self.blocks / 8 {
            let more = self.blocks + self.blocks / 2 + 1;
            self.blocks = more.min(self.blocks.midpoint(self.too_wide)).min(MAX_SPAN);
        }
    }

    /// The node has refused so many blocks. Answers whether fewer are worth trying.
    pub(super) fn refused(&mut self, error: &RpcError, asked: u64) -> bool {
        if asked <= 1 || !error.may_be_too_much() {
            return false;
        }
        if self.good >= asked {
            // What counts may be the logs in them, not the blocks.
            self.good = 0;
        }
        (self.since, self.too_wide) = (0, asked);
        self.blocks = error.proposed_span(asked).unwrap_or(self.good.max(asked / 2)).max(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_limit_and_are_never_longer() {
        let mut pauses = Pauses::seeded(7);
        for failures in 0..40 {
            let pause = pauses.after(failures);
            let full = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(MAX_PAUSE);
            assert!(pause >= full / 2 && pause < full, "{failures}: {pause:?}");
        }
    }

    #[test]
    fn a_node_rests_as_long_as_it_says_and_longer_each_time_that_it_does_not_say() {
        let mut pauses = Pauses::seeded(7);
        let said = Duration::from_secs(30);
        for times in 0..20 {
            let rest = pauses.rest(said, times);
            assert!(rest >= said && rest < said + MAX_REST + FIRST_PAUSE, "{rest:?}");
            let rest = pauses.rest(Duration::ZERO, times);
            assert!(rest >= FIRST_REST / 2 && rest < MAX_REST + FIRST_PAUSE, "{rest:?}");
        }
        assert!(pauses.rest(Duration::ZERO, 9) >= MAX_REST / 2);
    }

    #[test]
    fn a_span_settles_just_below_what_a_node_takes_and_asks_rarely_for_more() {
        for most in [1, 3, 100, 1_000, 10_000] {
            let mut span = Span::new();
            let (mut refused, mut blocks) = (0_u32, 0_u64);
            for _ in 0..300 {
                let asked = span.blocks();
                if asked <= most {
                    blocks += asked;
                    span.answered();
                } else {
                    refused += 1;
                    let error = RpcError::Timeout {
                        node: String::new(),
                        method: "eth_getLogs",
                        waited: Duration::ZERO,
                    };
                    assert!(span.refused(&error, asked), "{asked}");
                }
            }
            assert!(refused < 60, "{refused} refusals of 300 at {most}");
            assert!(blocks > most * 100, "{blocks} at {most}");
        }
    }

    #[test]
    fn one_block_that_is_refused_is_no_matter_of_width() {
        let error = RpcError::Unusable {
            node: String::new(),
            method: "eth_getLogs",
            detail: String::new(),
        };
        assert!(!Span::new().refused(&error, 1));
    }
}
