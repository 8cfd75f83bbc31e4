//! What the registry holds: topics, devices, fees, and the compact entries of its tables.

use std::num::NonZeroU32;
use std::sync::Arc;

use alloy_primitives::{Address, B256, U256};

use super::names::topic_id;
use super::table::{Entry, stranger_hash};
use crate::{CountryRule, Offer, Right, Traits};

/// One registered topic in its present epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// `keccak256(abi.encode(brokerId, name))`; see [`hidden_topic_id`](crate::hidden_topic_id) for a hidden one.
    pub id: B256,
    /// Its name; where that is hidden, empty unless it was told.
    pub name: Arc<str>,
    /// What is known instead of the name, if that is hidden.
    pub hidden: Option<Hidden>,
    /// Who owns it.
    pub owner: Address,
    /// Which registration of the name this is.
    pub epoch: u64,
    /// What holds whoever acts.
    pub traits: Traits,
    /// Terms for [`Right::Publish`].
    pub publish_offer: Offer,
    /// Terms for [`Right::Subscribe`].
    pub subscribe_offer: Offer,
    /// From where it may be used.
    pub countries: CountryRule,
    /// Number of this registration, never used again: grants and marks are kept under it, so those of an earlier
    /// epoch cannot be found any more.
    pub(super) slot: Slot,
}

impl Topic {
    /// Octets of its name if that is hidden and was told.
    pub(crate) fn veiled(&self) -> u16 {
        match self.hidden {
            None => 0,
            Some(_) => u16::try_from(self.name.len()).unwrap_or(u16::MAX),
        }
    }

    /// Terms for one right.
    #[must_use]
    pub const fn offer(&self, right: Right) -> &Offer {
        match right {
            Right::Publish => &self.publish_offer,
            Right::Subscribe => &self.subscribe_offer,
        }
    }
}

/// What is known of a name that is not on chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hidden {
    /// The topic below whose name it lies, which may be hidden itself.
    pub parent_id: B256,
    /// `keccak256(abi.encodePacked(salt, name))`.
    pub commitment: B256,
    /// The nearest name above that is known.
    pub below: Arc<str>,
}

impl Hidden {
    /// Whether the topic below whose name it lies is hidden itself.
    #[must_use]
    pub fn is_nested(&self, broker_id: U256) -> bool {
        self.parent_id != topic_id(broker_id, &self.below)
    }
}

/// A name at which something begins: a topic, or names that hidden topics may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// The topic of this name; if it was deleted, as it was then.
    pub(super) topic: Arc<Topic>,
    pub(super) is_registered: bool,
    /// How many hidden topics have this name as the nearest one above that is known. They outlive the topic.
    pub(super) hidden_below: u32,
    /// How many of these were registered below another hidden one.
    pub(super) nested_below: u32,
}

impl Place {
    #[inline]
    pub(super) fn registered(&self) -> Option<&Topic> {
        self.is_registered.then_some(&*self.topic)
    }
}

/// A device key and for whom it acts or acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// For whom.
    pub wallet: Address,
    /// Its end, Unix seconds; when it was revoked, the time of that block.
    pub until: u64,
    /// The wallet's generation in which it was authorized.
    pub generation: u64,
}

/// A fee and the one that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Fee {
    pub(super) amount: u128,
    pub(super) next: u128,
    pub(super) next_from: u64,
}

impl Fee {
    pub(super) const fn at(&self, now: u64) -> u128 {
        if now < self.next_from { self.amount } else { self.next }
    }
}

/// Number of one registration of one topic, below 2^31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot(NonZeroU32);

impl Slot {
    pub(super) const FIRST: Self = Self(NonZeroU32::MIN);

    /// The slot with this number, if it is one.
    pub(super) fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).filter(|number| number.get() < 1 << 31).map(Self)
    }

    pub(super) const fn get(self) -> u32 {
        self.0.get()
    }

    /// The next one, until 2^31 are used up.
    pub(super) fn next(self) -> Option<Self> {
        Self::new(self.get() + 1)
    }

    pub(super) const fn with(self, right: Right) -> SlotRight {
        SlotRight(
            self.0
                .saturating_mul(NonZeroU32::new(2).expect("two is not zero"))
                .saturating_add(right as u32),
        )
    }
}

/// A slot and a right in one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SlotRight(NonZeroU32);

impl SlotRight {
    pub(super) fn slot(self) -> Option<Slot> {
        NonZeroU32::new(self.0.get() / 2).map(Slot)
    }

    pub(super) const fn right(self) -> Right {
        if self.0.get() % 2 == Right::Publish as u32 { Right::Publish } else { Right::Subscribe }
    }
}

/// One grant: 32 octets, and as much when it is one of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) key: SlotRight,
    pub(super) wallet: Address,
    pub(super) until: u64,
}

impl Grant {
    pub(super) const fn new(topic: &Topic, wallet: Address, right: Right, until: u64) -> Self {
        Self { key: topic.slot.with(right), wallet, until }
    }
}

impl Entry for Grant {
    #[inline]
    fn hash(&self) -> u64 {
        stranger_hash(self.key.0, self.wallet)
    }

    #[inline]
    fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.wallet == other.wallet
    }
}

/// A wallet that something is said about on one topic: that it is blocked, that it manages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) slot: Slot,
    pub(super) wallet: Address,
}

impl Entry for Mark {
    #[inline]
    fn hash(&self) -> u64 {
        stranger_hash(self.slot.0, self.wallet)
    }

    #[inline]
    fn is_same(&self, other: &Self) -> bool {
        self == other
    }
}

/// What is known of an address beyond single topics, as a wallet and as a device key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Party {
    pub(super) address: Address,
    /// End of its ban, 0 if there is none.
    pub(super) banned_until: u64,
    /// Tokens it issued before are worthless.
    pub(super) tokens_valid_from: u64,
    /// Device keys of earlier generations are dead.
    pub(super) generation: u64,
    /// For whom it acts as a device key, or acted.
    pub(super) device: Option<Device>,
}

impl Party {
    pub(super) const fn new(address: Address) -> Self {
        Self { address, banned_until: 0, tokens_valid_from: 0, generation: 0, device: None }
    }
}

impl Entry for Party {
    #[inline]
    fn hash(&self) -> u64 {
        stranger_hash(NonZeroU32::MIN, self.address)
    }

    #[inline]
    fn is_same(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

/// A topic under its id.
#[derive(Debug, Clone)]
pub(super) struct ById(pub(super) Arc<Topic>);

impl Entry for ById {
    #[inline]
    fn hash(&self) -> u64 {
        id_hash(self.0.id)
    }

    #[inline]
    fn is_same(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

/// An id is a hash already.
pub(super) fn id_hash(id: B256) -> u64 {
    id.0.first_chunk().map_or(0, |octets| u64::from_be_bytes(*octets))
}

/// A place under its name.
#[derive(Debug, Clone)]
pub(super) struct ByName {
    pub(super) hash: u64,
    pub(super) place: Place,
}

impl Entry for ByName {
    #[inline]
    fn hash(&self) -> u64 {
        self.hash
    }

    #[inline]
    fn is_same(&self, other: &Self) -> bool {
        self.hash == other.hash && self.place.topic.name == other.place.topic.name
    }
}
