//! What an operator has to see to: one word and one fixed sentence for each condition, the same in log, health and metrics.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tracing::{error, info};

/// A condition that keeps things from getting on chain, or that someone should know of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// No node takes transactions.
    NodeAway,
    /// The node is on another chain.
    WrongChain,
    /// The wallet cannot pay for the next transaction.
    WalletEmpty,
    /// The wallet can pay for few transactions more.
    WalletLow,
    /// The key is no gateway of the broker (any longer).
    RoleLost,
    /// Gas costs more than may be paid.
    FeeAboveLimit,
    /// The day's gas or wei are used up.
    BudgetSpent,
    /// The signer gives no signature.
    SignerAway,
    /// The signer answered with something else than what was asked for.
    SignerWrong,
    /// Another process sends transactions with the same key.
    KeyUsedElsewhere,
    /// A transaction failed in its block.
    TransactionFailed,
    /// A transaction that had been confirmed is no longer on chain.
    Orphaned,
    /// The contracts will never take something; it is in `refused/`.
    SetAside,
    /// The state directory cannot be written.
    Disk,
    /// A file in the state directory is damaged.
    Damaged,
    /// More waits than may: something was not taken, or was dropped.
    QueueFull,
}

impl Alarm {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::NodeAway,
        Self::WrongChain,
        Self::WalletEmpty,
        Self::WalletLow,
        Self::RoleLost,
        Self::FeeAboveLimit,
        Self::BudgetSpent,
        Self::SignerAway,
        Self::SignerWrong,
        Self::KeyUsedElsewhere,
        Self::TransactionFailed,
        Self::Orphaned,
        Self::SetAside,
        Self::Disk,
        Self::Damaged,
        Self::QueueFull,
    ];

    /// For metrics and searches.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::NodeAway => "node_away",
            Self::WrongChain => "wrong_chain",
            Self::WalletEmpty => "wallet_empty",
            Self::WalletLow => "wallet_low",
            Self::RoleLost => "role_lost",
            Self::FeeAboveLimit => "fee_above_limit",
            Self::BudgetSpent => "budget_spent",
            Self::SignerAway => "signer_away",
            Self::SignerWrong => "signer_wrong",
            Self::KeyUsedElsewhere => "key_used_elsewhere",
            Self::TransactionFailed => "transaction_failed",
            Self::Orphaned => "orphaned",
            Self::SetAside => "set_aside",
            Self::Disk => "disk",
            Self::Damaged => "damaged",
            Self::QueueFull => "queue_full",
        }
    }

    /// The sentence that the log has.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NodeAway => "no node takes the gateway's transactions",
            Self::WrongChain => "the node is on another chain than the contracts",
            Self::WalletEmpty => "the gateway's wallet cannot pay for its next transaction",
            Self::WalletLow => "the gateway's wallet can pay for few transactions more",
            Self::RoleLost => "the gateway's key has no right to write for its broker",
            Self::FeeAboveLimit => "gas costs more than the gateway may pay",
            Self::BudgetSpent => "the gateway's budget of the day is spent",
            Self::SignerAway => "the signer gives no signature",
            Self::SignerWrong => "the signer signed something else than it was asked to",
            Self::KeyUsedElsewhere => "someone else sends transactions with the gateway's key",
            Self::TransactionFailed => "a transaction of the gateway failed in its block",
            Self::Orphaned => {
                "a confirmed transaction of the gateway is no longer on chain and is sent again"
            }
            Self::SetAside => "the contracts will never take what is now set aside",
            Self::Disk => "the submitter's directory cannot be written",
            Self::Damaged => "a file of the submitter is damaged",
            Self::QueueFull => "more waits for the chain than may",
        }
    }

    /// Is it over as soon as things get on chain again? What happened once and was told stays until a restart.
    const fn passes(self) -> bool {
        !matches!(self, Self::SetAside | Self::Damaged | Self::WalletLow | Self::QueueFull)
    }
}

/// The alarms that are on, and how often each went on.
#[derive(Debug, Default)]
pub(super) struct Board(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    on: BTreeMap<Alarm, String>,
    raised: BTreeMap<Alarm, u64>,
}

impl Board {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes on. Logged when it was off; the newest detail is what health shows.
    pub(super) fn raise(&self, alarm: Alarm, detail: impl Into<String>) {
        let detail = detail.into();
        let is_new = self.with(|state| {
            let is_new = state.on.insert(alarm, detail.clone()).is_none();
            if is_new {
                *state.raised.entry(alarm).or_default() += 1;
            }
            is_new
        });
        if is_new {
            error!(alarm = alarm.word(), detail, "{}", alarm.sentence());
        }
    }

    pub(super) fn clear(&self, alarm: Alarm) {
        if self.with(|state| state.on.remove(&alarm)).is_some() {
            info!(alarm = alarm.word(), "alarm is over");
        }
    }

    /// Things get on chain: whatever can pass has passed.
    pub(super) fn clear_passing(&self) {
        Alarm::ALL.into_iter().filter(|alarm| alarm.passes()).for_each(|alarm| self.clear(alarm));
    }

    pub(super) fn on(&self) -> Vec<(Alarm, String)> {
        self.with(|state| state.on.iter().map(|(alarm, detail)| (*alarm, detail.clone())).collect())
    }

    pub(super) fn raised(&self, alarm: Alarm) -> u64 {
        self.with(|state| state.raised.get(&alarm).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_alarm_has_a_word_and_a_sentence_of_its_own() {
        let words: BTreeSet<_> = Alarm::ALL.iter().map(|alarm| alarm.word()).collect();
        let sentences: BTreeSet<_> = Alarm::ALL.iter().map(|alarm| alarm.sentence()).collect();
        assert_eq!((words.len(), sentences.len()), (Alarm::ALL.len(), Alarm::ALL.len()));
    }

    #[test]
    fn an_alarm_counts_when_it_goes_on_and_not_while_it_is() {
        let board = Board::default();
        board.raise(Alarm::WalletEmpty, "0 wei");
        board.raise(Alarm::WalletEmpty, "1 wei");
        board.raise(Alarm::Damaged, "a file");
        assert_eq!(board.raised(Alarm::WalletEmpty), 1);
        board.clear_passing();
        assert_eq!(board.on(), [(Alarm::Damaged, "a file".to_owned())]);
        board.raise(Alarm::WalletEmpty, "0 wei");
        assert_eq!(board.raised(Alarm::WalletEmpty), 2);
    }
}
