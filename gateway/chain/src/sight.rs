//! What the submitter believes of the chain: the follower's own blocks, how deep they are, and whom they ban.
//!
//! A node's receipt only says where to look. Whether that block is the chain's, and whether it is settled, the follower knows, which has
//! checked headers and logs; so a node that lies, lags or was left behind by a reorganisation confirms nothing.

use std::sync::Arc;

use alloy::primitives::B256;
use flytrap_policy::View;
use tokio::sync::watch;

use crate::{BanSubject, Chain};

/// Blocks that are remembered here, however many the chain remembers.
const MOST_BLOCKS: usize = 256;

/// Written by the follower with each new state, read by the submitter.
#[derive(Debug, Default)]
pub struct Sight(watch::Sender<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Height and hash, lowest first. There may be gaps among the oldest.
    blocks: Vec<(u64, B256)>,
    settled: Option<u64>,
    view: Option<Arc<View>>,
}

/// Where a block stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Above everything that the follower has seen.
    Ahead,
    /// On the chain.
    Held,
    /// The chain has another block at that height.
    Orphaned,
    /// Below everything that is remembered, where no reorganisation reaches.
    Buried,
}

impl Sight {
    /// The chain as it is now, the height up to which it is settled, and the view that was made of both.
    pub(crate) fn update(&self, chain: &Chain, settled: u64, view: Arc<View>) {
        let mut blocks: Vec<(u64, B256)> = chain
            .heights()
            .take(MOST_BLOCKS)
            .filter_map(|height| Some((height, chain.hash_at(height)?)))
            .collect();
        blocks.reverse();
        self.0.send_replace(Seen { blocks, settled: Some(settled), view: Some(view) });
    }

    /// Wakes its holder with each new state.
    pub(crate) fn changed(&self) -> watch::Receiver<impl Sized + use<>> {
        self.0.subscribe()
    }

    /// Height of the newest block that is settled.
    pub(crate) fn settled(&self) -> Option<u64> {
        self.0.borrow().settled
    }

    pub(crate) fn standing(&self, height: u64, hash: B256) -> Standing {
        let seen = self.0.borrow();
        let Some((tip, _)) = seen.blocks.last() else { return Standing::Ahead };
        if height > *tip {
            return Standing::Ahead;
        }
        match seen.blocks.binary_search_by_key(&height, |(height, _)| *height) {
            Ok(at) if seen.blocks[at].1 == hash => Standing::Held,
            Ok(_) => Standing::Orphaned,
            // Ranges are taken in at once only where they are too old to be undone.
            Err(_) => Standing::Buried,
        }
    }

    /// End of the ban that the settled state has against this subject, if it is in force at `now`.
    pub(crate) fn banned_until(&self, subject: BanSubject, now: u64) -> Option<u64> {
        let seen = self.0.borrow();
        let settled = &seen.view.as_ref()?.settled;
        match subject {
            BanSubject::Wallet(wallet) => settled.wallet_banned_until(wallet, now),
            BanSubject::Origin(pseudonym) => settled.origin_banned_until(pseudonym, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Bloom, U256};
    use flytrap_policy::Options;

    use super::*;
    use crate::{Block, Header};

    fn header(height: u64, branch: u8) -> Header {
        let hash = |height: u64, branch: u8| {
            B256::with_last_byte(u8::try_from(height).unwrap() + branch * 100)
        };
        // The branches have block 1 in common.
        let below = if height == 2 { 0 } else { branch };
        let parent = hash(height - 1, below);
        Header {
            height,
            hash: hash(height, branch),
            parent,
            time: height,
            bloom: Bloom::ZERO,
            receipts: B256::ZERO,
        }
    }

    fn block(height: u64, branch: u8) -> Block {
        Block { header: header(height, branch), events: Vec::new() }
    }

    #[test]
    fn a_block_is_held_only_while_it_is_on_the_followers_own_chain() {
        let sight = Sight::default();
        assert_eq!(sight.standing(3, header(3, 0).hash), Standing::Ahead, "nothing was seen");
        assert_eq!(sight.settled(), None);
        let mut chain = Chain::new(U256::ONE, &header(1, 0), 8);
        chain.adopt(1, &[block(2, 0), block(3, 0)]).unwrap();
        let show = |chain: &Chain| {
            let settled = chain.settled(2).unwrap();
            let (view, _) = chain.view(&settled, Options::default(), 1);
            sight.update(chain, settled.height, Arc::new(view));
        };
        show(&chain);
        assert_eq!(sight.standing(3, header(3, 0).hash), Standing::Held);
        assert_eq!(sight.standing(3, header(3, 1).hash), Standing::Orphaned);
        assert_eq!(sight.standing(4, header(4, 0).hash), Standing::Ahead);
        assert_eq!(sight.standing(0, header(3, 0).hash), Standing::Buried);
        assert_eq!(sight.settled(), Some(1));
        chain.adopt(1, &[block(2, 1), block(3, 1), block(4, 1)]).unwrap();
        show(&chain);
        assert_eq!(sight.standing(3, header(3, 0).hash), Standing::Orphaned);
        assert_eq!(sight.standing(3, header(3, 1).hash), Standing::Held);
        assert_eq!(sight.settled(), Some(2));
    }
}
