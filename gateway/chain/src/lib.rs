//! The chain side: what the contracts say becomes one view in memory, what the gateway has to say becomes transactions.
//!
//! Data runs two ways. In: [`Follower`] asks a node for blocks and logs, [`decode`] turns logs into
//! [`flytrap_policy::Event`]s, the pure [`Chain`] puts them into order, undoes what a reorganisation orphaned, and each
//! new state is published as an immutable [`flytrap_policy::View`]. Out: the gateway hands bans and alerts to a
//! [`Submitter`], which keeps them in files until a transaction that carries them is buried deep enough; people's tools
//! call the contracts through [`Wallet`]. [`history`] reads the past for auditors.
//!
//! No packet ever waits for anything in this crate: sessions read the last view, and [`ChainHealth`] says how old it is. Only who
//! claims to be a contract wallet waits for an answer, of [`ContractWallets`], before there is a session.

pub mod bindings;
mod chain;
mod contract_wallet;
mod decode;
mod deployment;
pub mod entitled;
mod follower;
mod health;
pub mod history;
pub mod keys;
pub mod revert;
mod rpc;
mod sight;
pub mod signer;
pub mod snapshot;
mod submitter;
mod transact;
pub mod wallet;

pub use chain::{Block, Branch, Chain, ChainError, Header, Joined, Settled};
pub use contract_wallet::ContractWallets;
pub use decode::{DecodeError, decode};
pub use deployment::{Deployment, DeploymentError};
pub use follower::{FollowError, Follower, FollowerConfig, Proof};
pub use health::{ChainHealth, NodeHealth};
pub use rpc::{Rpc, RpcError};
pub use sight::Sight;
pub use signer::Signer;
pub use submitter::{
    Alarm, AlertRecord, Anchor, Ban, BanSubject, Intent, IntentId, SubmitError, Submitter,
    SubmitterConfig, SubmitterError, SubmitterHandle, SubmitterHealth,
};
pub use transact::{Done, TransactError};
pub use wallet::{Wallet, WalletError};

#[cfg(test)]
mod tests {
    use super::*;

    const fn may_run_as_a_task<T: Send>(_: &T) {}

    #[test]
    fn everything_that_waits_may_run_as_a_task() {
        // Compiled rather than run.
        let _ = |wallet: Wallet, rpc: Rpc, deployment: Deployment, query: history::Query| {
            may_run_as_a_task(&history::history(&rpc, &deployment, &query));
            may_run_as_a_task(&wallet.create_broker(flytrap_policy::NamingPolicy::Open, ""));
            may_run_as_a_task(&wallet.ban(query.broker_id, &[]));
        };
        let _ = |submitter: Submitter, follower: Follower, handle: SubmitterHandle| {
            may_run_as_a_task(&submitter.run(tokio_util::sync::CancellationToken::new()));
            may_run_as_a_task(&follower.run(tokio_util::sync::CancellationToken::new()));
            may_run_as_a_task(&handle.submit(Intent::Bans(Vec::new())));
        };
    }
}
