//! Where questions to the contracts of wallets queue: so many at once in all, and of each origin.
//!
//! Whoever claims to be a contract wallet can make a gateway ask its node before anything is proved. So there are few such questions
//! at a time; who comes to a full desk is told to come again, which counts as no failure.

use alloy_primitives::{Address, B256};
use flytrap_chain::{ChainHealth, ContractWallets};
use flytrap_policy::Origin;
use url::Url;

use crate::seats::Seats;

/// Questions at a time. Each takes a node some milliseconds, and at most two seconds.
const MOST_QUESTIONS: usize = 16;
/// Of one origin.
const MOST_OF_ONE_ORIGIN: usize = 2;

/// Asks contract wallets whether they have signed.
#[derive(Debug)]
pub struct WalletDesk {
    wallets: ContractWallets,
    seats: Seats,
}

/// Why there is no answer. Never the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Too many are being asked.
    #[error("too many contract wallets are being asked")]
    Busy,
    /// No node says.
    #[error("the wallet's contract could not be asked: {0}")]
    NodeSilent(String),
}

impl WalletDesk {
    /// Asks these nodes.
    pub fn new(urls: Vec<Url>, health: &ChainHealth) -> Self {
        let wallets = ContractWallets::new(urls, health);
        Self { wallets, seats: Seats::new(MOST_QUESTIONS, MOST_OF_ONE_ORIGIN) }
    }

    /// Whether the wallet's contract says that it has signed; after two seconds there is an answer or an error.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn ask(
        &self,
        origin: Origin,
        wallet: Address,
        digest: B256,
        signature: &[u8],
    ) -> Result<bool, Unanswered> {
        let mut seat = self.seats.take().map_err(|_| Unanswered::Busy)?;
        seat.assign(origin).map_err(|_| Unanswered::Busy)?;
        let answer = self.wallets.has_signed(wallet, digest, signature).await;
        answer.map_err(|error| Unanswered::NodeSilent(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    async fn ask(desk: &WalletDesk, origin: Origin) -> Result<bool, Unanswered> {
        desk.ask(origin, Address::repeat_byte(2), B256::ZERO, &[7; 65]).await
    }

    fn origin(number: u8) -> Origin {
        Origin::from(IpAddr::from([192, 0, 2, number]))
    }

    /// A node that takes every connection and never says a word.
    #[tokio::test]
    async fn two_of_one_origin_and_sixteen_in_all_are_asked_at_a_time_and_each_ends_in_time() {
        crate::tls::install_provider();
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap()).parse().unwrap();
        let desk = Arc::new(WalletDesk::new(vec![url], &ChainHealth::default()));
        let began = Instant::now();
        let mut asking = JoinSet::new();
        for number in 0..8 {
            for _ in 0..3 {
                let desk = desk.clone();
                asking.spawn(async move { ask(&desk, origin(number)).await });
            }
        }
        let early: Vec<_> = [asking.join_next().await, asking.join_next().await].into();
        for answer in early {
            assert_eq!(answer.unwrap().unwrap(), Err(Unanswered::Busy));
        }
        let another = ask(&desk, origin(99)).await;
        assert_eq!(another, Err(Unanswered::Busy), "a seventeenth");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        let answers = asking.join_all().await;
        let silent = answers.iter().filter(|a| matches!(a, Err(Unanswered::NodeSilent(_))));
        assert_eq!(silent.count(), 16);
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        assert!(matches!(ask(&desk, origin(0)).await, Err(Unanswered::NodeSilent(_))));
    }
}
