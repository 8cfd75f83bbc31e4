//! One transaction from its signature until it is settled, and those that were, until no reorganisation reaches them.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use alloy::primitives::{B256, U256};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use super::{
    Alarm, Submitter,
    intents::{Attempt, Flight, Landed, Queue},
    run::{Hitch, Step},
    unix_now,
};
use crate::{
    sight::Standing,
    transact::{self, Draft, Fees, Receipt},
};

/// How often a transaction that is in no block is handed in again.
const RESEND: Duration = Duration::from_secs(5);
/// How often a used nonce without a receipt is looked at before the transaction is given up.
const PATIENT_LOOKS: u32 = 20;
/// So many blocks beyond the settled one a confirmed transaction is remembered, to be sent again if it is orphaned all the same.
const REMEMBERED_BLOCKS: u64 = 64;

/// What is known of the transaction under way, beside what is in its file.
#[derive(Debug, Default)]
pub(super) struct Aloft {
    /// The newest attempt, and since when it has waited for a block.
    waits: Option<(B256, Instant)>,
    /// When orphaned ones were last sent again.
    resent: Option<Instant>,
}

impl Submitter {
    /// Looks after the transaction under way until it has landed, failed, or must be given up.
    pub(super) async fn fly(&mut self, mut flight: Flight) -> Result<Step, Hitch> {
        let mut handed_in: Option<Instant> = None;
        let mut is_contested = false;
        let mut missing = 0;
        loop {
            let mut mined = None;
            for attempt in &flight.attempts {
                mined = mined.or(transact::receipt(&self.rpc, attempt.hash).await?);
            }
            if let Some(receipt) = mined {
                missing = 0;
                if let Some(step) = self.land(&flight, receipt).await? {
                    return Ok(step);
                }
            } else if self.nonce("latest").await? > flight.nonce {
                // The nonce is used, yet by none of ours that the node knows. It may only be slow to tell.
                missing += 1;
                if missing > PATIENT_LOOKS && self.is_lost(&flight).await? {
                    return self.yield_to_another(&flight).await;
                }
            } else if self.look_back().await? {
                missing = 0;
                if !is_contested
                    && self.has_waited_long(&flight)
                    && let Some(dearer) = self.dearer(&flight).await?
                {
                    flight.attempts.push(dearer);
                    let kept = flight.clone();
                    self.with(move |queue| queue.replace(kept)).await?;
                    self.health().replaced.fetch_add(1, Relaxed);
                    handed_in = None;
                }
                if handed_in.is_none_or(|at| at.elapsed() >= RESEND) {
                    // Also what was handed in before: a node may have dropped it.
                    is_contested = self.hand_in(&flight).await?;
                    handed_in = Some(Instant::now());
                }
            }
            sleep(self.look()).await;
        }
    }

    async fn nonce(&self, block: &str) -> Result<u64, Hitch> {
        Ok(transact::nonce(&self.rpc, self.signer.address(), block).await?)
    }

    /// Is the nonce used in the settled part of the chain? Before that a reorganisation could still bring ours on chain, after another
    /// one with the same content was made.
    async fn is_lost(&self, flight: &Flight) -> Result<bool, Hitch> {
        let Some(settled) = self.sight.settled() else { return Ok(false) };
        Ok(self.nonce(&format!("{settled:#x}")).await? > flight.nonce)
    }

    /// Another process has used the nonce: what the transaction carried waits again, a while longer than usual, and not as
    /// long as that other one does.
    async fn yield_to_another(&mut self, flight: &Flight) -> Result<Step, Hitch> {
        let nonce = flight.nonce;
        warn!(nonce, "nonce used by a transaction that is not ours, making a new one");
        let detail = format!(
            "nonce {nonce} was used by a transaction that this gateway has not sent: give each process a key of its own"
        );
        self.health().board.raise(Alarm::KeyUsedElsewhere, detail);
        self.with(Queue::give_up).await?;
        self.health().failed.fetch_add(1, Relaxed);
        let share = RandomState::new().hash_one(nonce) % 1024;
        let share = f64::from(u32::try_from(share).unwrap_or_default()) / 1024.0;
        Ok(Step::Wait(self.config.interval.mul_f64(share)))
    }

    /// Has the newest attempt been on its way for so long that it should pay more? Asked again only after as long again. Kept
    /// outside the flight's own loop: a node that fails now and then must not put it off for ever.
    fn has_waited_long(&mut self, flight: &Flight) -> bool {
        let Some(newest) = flight.attempts.last().map(|attempt| attempt.hash) else { return false };
        match &mut self.aloft.waits {
            Some((hash, since)) if *hash == newest => {
                let long = since.elapsed() >= self.config.replace_after;
                if long {
                    *since = Instant::now();
                }
                long
            }
            waits => {
                *waits = Some((newest, Instant::now()));
                false
            }
        }
    }

    /// Sends the newest attempt. Returns whether someone else's transaction has its nonce: that one is then left alone, since two that outbid
    /// each other would only pay more.
    async fn hand_in(&self, flight: &Flight) -> Result<bool, Hitch> {
        let Some(newest) = flight.attempts.last() else { return Ok(false) };
        match transact::send(&self.rpc, &newest.raw).await {
            Ok(()) => Ok(false),
            // Mined in this moment: the next look tells.
            Err(error) if error.says(&["noncetoolow", "oldnonce"]) => Ok(false),
            Err(error) if error.says(&["underpriced"]) => {
                for attempt in &flight.attempts {
                    if transact::is_known(&self.rpc, attempt.hash).await? {
                        return Ok(false);
                    }
                }
                let detail = Hitch::Contested { nonce: flight.nonce }.to_string();
                self.health().board.raise(Alarm::KeyUsedElsewhere, detail);
                Ok(true)
            }
            // Some nodes take nothing that the next block could not: it is offered again until they do, or until it pays more.
            Err(error) if error.says(&["lessthanblockbasefee", "feetoolow"]) => {
                self.health().board.raise(Alarm::FeeAboveLimit, error.to_string());
                Ok(false)
            }
            Err(error) if error.says(&["insufficientfunds", "insufficientbalance"]) => {
                Err(Hitch::Insufficient(error))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// The same transaction at a price that nodes accept in its place, unless that is above the limit.
    async fn dearer(&self, flight: &Flight) -> Result<Option<Attempt>, Hitch> {
        let Some(last) = flight.attempts.last() else { return Ok(None) };
        let now = transact::fees(&self.rpc, None).await?;
        let limit = self.fee_limit(flight.gas).await?;
        let Some(fees) = bumped(last.max_fee, last.priority, now, limit) else {
            let detail = format!(
                "transaction {} is stuck at {} wei per gas, and the limit of {limit} wei allows no replacement: raise \
                 `max_fee_gwei`, or wait",
                last.hash, last.max_fee
            );
            self.health().board.raise(Alarm::FeeAboveLimit, detail);
            return Ok(None);
        };
        let draft = Draft { to: flight.to, data: flight.data.clone(), value: U256::ZERO };
        let chain = self.config.deployment.chain_id;
        let tx = transact::unsigned(chain, flight.nonce, flight.gas, fees, &draft);
        let (raw, hash) = self.signer.sign(tx).await?;
        info!(tx = %hash, replaces = %last.hash, max_fee_wei = fees.max_fee, "transaction replaced");
        Ok(Some(Attempt { raw, hash, max_fee: fees.max_fee, priority: fees.priority }))
    }

    /// The transaction is in a block, says the node. `None` while the follower has not got it settled.
    async fn land(&mut self, flight: &Flight, receipt: Receipt) -> Result<Option<Step>, Hitch> {
        let height: u64 = receipt.block_number.unwrap_or_default().to();
        let block = receipt.block_hash.unwrap_or_default();
        match self.sight.standing(height, block) {
            Standing::Held if self.sight.settled() >= Some(height) => {}
            Standing::Buried => {}
            Standing::Ahead | Standing::Orphaned | Standing::Held => return Ok(None),
        }
        let (tx, gas, wei) = (receipt.transaction_hash, receipt.gas_used.to(), receipt.fee_wei());
        self.with(move |queue| queue.spend(tx, gas, wei, unix_now())).await?;
        if let Err(failed) = receipt.done() {
            // It waits again; the next estimate says what is wrong.
            self.with(Queue::give_up).await?;
            self.health().failed.fetch_add(1, Relaxed);
            self.blame(&flight.sequences).await?;
            return Err(failed.into());
        }
        let raw = flight.attempts.iter().find(|attempt| attempt.hash == tx);
        let raw = raw.map(|attempt| attempt.raw.clone()).unwrap_or_default();
        let landed = Landed { nonce: flight.nonce, raw, hash: tx, height, block };
        self.with(move |queue| queue.land(landed)).await?;
        self.health().board.clear_passing();
        self.health().confirmed.fetch_add(1, Relaxed);
        self.most = usize::MAX;
        info!(%tx, height, gas, %wei, "transaction confirmed");
        Ok(Some(Step::Wait(Duration::ZERO)))
    }

    /// Is everything that was confirmed still on the follower's chain? What is not is sent again: the same octets, whose nonce makes
    /// sure that they count once. Asks a node only where something is not as it was.
    pub(super) async fn look_back(&mut self) -> Result<bool, Hitch> {
        let landed = self.with(|queue| Ok(queue.landed().to_vec())).await?;
        let settled = self.sight.settled();
        let (mut kept, mut gone) = (Vec::with_capacity(landed.len()), Vec::new());
        for one in &landed {
            match self.sight.standing(one.height, one.block) {
                Standing::Held if settled >= Some(one.height + REMEMBERED_BLOCKS) => {}
                Standing::Held | Standing::Ahead => kept.push(one.clone()),
                // So deep that the follower no longer knows: this gateway was away, and did not see what became of it.
                Standing::Buried if transact::receipt(&self.rpc, one.hash).await?.is_some() => {}
                Standing::Orphaned | Standing::Buried => match self.mined_again(one).await? {
                    Some(again) => kept.push(again),
                    // Asked in this order: it may have come back between the two questions.
                    None if self.is_taken(one).await? && self.mined_again(one).await?.is_none() => {
                        error!(tx = %one.hash, nonce = one.nonce, "an orphaned transaction cannot return, what it carried is lost");
                    }
                    None => {
                        kept.push(one.clone());
                        gone.push(one);
                    }
                },
            }
        }
        if kept != landed {
            self.with(move |queue| queue.remember(kept)).await?;
        }
        let (Some(first), Some(last)) = (gone.first(), gone.last()) else { return Ok(true) };
        if self.aloft.resent.is_none_or(|at| at.elapsed() >= RESEND) {
            self.aloft.resent = Some(Instant::now());
            self.health().orphaned.fetch_add(u64::try_from(gone.len()).unwrap_or(0), Relaxed);
            let detail = format!("nonces {} to {}: raise `confirmations`", first.nonce, last.nonce);
            self.health().board.raise(Alarm::Orphaned, detail);
            for one in gone {
                match transact::send(&self.rpc, &one.raw).await {
                    Err(error) if error.says(&["noncetoolow", "oldnonce", "underpriced"]) => {}
                    sent => sent?,
                }
            }
        }
        Ok(false)
    }

    /// The transaction in another block than the one it was confirmed in, unless that is no block of the follower's either.
    async fn mined_again(&self, landed: &Landed) -> Result<Option<Landed>, Hitch> {
        let Some(found) = transact::receipt(&self.rpc, landed.hash).await? else { return Ok(None) };
        let height = found.block_number.unwrap_or_default().to();
        let block = found.block_hash.unwrap_or_default();
        let is_ours = self.sight.standing(height, block) != Standing::Orphaned;
        Ok(is_ours.then(|| Landed { height, block, ..landed.clone() }))
    }

    /// Has another transaction taken the nonce of this one, and is that settled?
    async fn is_taken(&self, landed: &Landed) -> Result<bool, Hitch> {
        let Some(settled) = self.sight.settled() else { return Ok(false) };
        Ok(self.nonce(&format!("{settled:#x}")).await? > landed.nonce)
    }
}

/// At least an eighth more than before, as nodes want for a replacement, and not less than what is asked for now. `None` if that
/// is above the limit.
fn bumped(max_fee: u128, priority: u128, now: Fees, limit: u128) -> Option<Fees> {
    let eighth = |fee: u128| fee.saturating_add(fee.div_ceil(8)).saturating_add(1);
    let least = eighth(max_fee);
    let max_fee = now.max_fee.max(least).min(limit.max(least));
    let priority = now.priority.max(eighth(priority)).min(max_fee);
    (max_fee <= limit).then_some(Fees { max_fee, priority })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_pays_an_eighth_more_for_both_fees_and_never_above_the_limit() {
        let now = Fees { max_fee: 10, priority: 1 };
        let fees = bumped(1_000, 80, now, 2_000).unwrap();
        assert!(fees.max_fee * 8 >= 1_000 * 9 && fees.priority * 8 >= 80 * 9, "{fees:?}");
        // What is asked for now, if that is more.
        let dear = Fees { max_fee: 1_500, priority: 300 };
        assert_eq!(bumped(1_000, 80, dear, 2_000), Some(dear));
        assert_eq!(
            bumped(1_000, 80, Fees { max_fee: 9_000, priority: 300 }, 2_000).unwrap().max_fee,
            2_000
        );
        // The last limit that leaves room for an eighth, and the first that does not.
        assert_eq!(bumped(1_000, 80, now, 1_126).unwrap().max_fee, 1_126);
        assert_eq!(bumped(1_000, 80, now, 1_125), None);
    }
}
