//! Whose decisions a change may alter, so that all others need not be taken again.

use std::collections::BTreeSet;

use alloy_primitives::Address;

use crate::{Event, Principal};

/// Whose permits of one state may be others, or none, in the next. Permits end by time besides, see [`Permit::until`](crate::Permit::until);
/// what was denied is asked for again in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concern(
    /// Wallets and keys of the principals; `None` stands for everyone.
    Option<BTreeSet<Address>>,
);

/// More different addresses than this are everyone.
const MOST: usize = 1_024;

impl Concern {
    /// Anybody's.
    pub const EVERYONE: Self = Self(None);
    /// Nobody's.
    pub const NOBODY: Self = Self(Some(BTreeSet::new()));

    /// Must decisions about this principal be taken again?
    #[must_use]
    pub fn includes(&self, who: &Principal) -> bool {
        self.0.as_ref().is_none_or(|named| named.contains(&who.wallet) || named.contains(&who.key))
    }

    /// Adds those whom an event concerns.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::AccessGranted { wallet, .. }
            | Event::AccessBought { wallet, .. }
            | Event::AccessRevoked { wallet, .. }
            | Event::WalletBlocked { wallet, .. }
            | Event::WalletUnblocked { wallet, .. }
            | Event::WalletBanned { wallet, .. }
            | Event::WalletUnbanned { wallet, .. }
            | Event::AllDevicesRevoked { wallet, .. }
            | Event::TokensInvalidated { wallet, .. }
            | Event::ManagerSet { manager: wallet, .. } => self.name([*wallet]),
            Event::DeviceAuthorized { wallet, device, .. }
            | Event::DeviceRevoked { wallet, device } => self.name([*wallet, *device]),
            // Origins are judged at the door, before there is a principal; an offer to a new owner changes nothing until it is taken.
            Event::OriginBanned { .. }
            | Event::OriginUnbanned { .. }
            | Event::TopicOwnershipOffered { .. } => {}
            event if !event.changes_state() => {}
            // Topics and the broker itself: whose filters reach there is not known here.
            _ => self.0 = None,
        }
    }

    /// Adds those whom another change concerns.
    pub fn merge(&mut self, other: &Self) {
        match &other.0 {
            Some(named) => self.name(named.iter().copied()),
            None => self.0 = None,
        }
    }

    fn name(&mut self, addresses: impl IntoIterator<Item = Address>) {
        if let Some(named) = &mut self.0 {
            named.extend(addresses);
            if named.len() > MOST {
                self.0 = None;
            }
        }
    }
}
