//! What the contracts say: one variant per event, with the names and fields of `src-sol/interfaces/`.

use alloy_primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};

use crate::{Country, CountryMode};

/// Where in the chain an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Height of its block.
    pub height: u64,
    /// Time of its block, Unix seconds.
    pub time: u64,
}

/// What a grant allows. Each right has its own offer and its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// Send messages to the names that the topic governs.
    Publish,
    /// Receive messages from the names that the topic governs.
    Subscribe,
}

/// Who may register a topic at the top of the name tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamingPolicy {
    /// Registrars anywhere, anyone below the first level that is their own lower-case address.
    #[default]
    OwnBranch,
    /// Registrars only.
    Curated,
    /// Whoever comes first.
    Open,
}

/// How a right can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OfferMode {
    /// The owner grants, nobody buys.
    #[default]
    Closed,
    /// Anyone buys; 0 wei means that anyone claims.
    Priced,
    /// Any authenticated wallet, without a transaction.
    Public,
}

/// Terms for one right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Offer {
    /// How the right can be had.
    pub mode: OfferMode,
    /// Seconds that `price_wei` buys; 0 unless `Priced`.
    pub period: u32,
    /// Wei per period; 0 unless `Priced`.
    #[serde(with = "decimal")]
    pub price_wei: u128,
}

/// What holds for a topic whoever acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Traits {
    /// May messages be retained.
    pub retain: bool,
    /// Personal data: every access is recorded.
    pub sensitive: bool,
    /// A key may use `<topic>/<its lower-case address>` and what is below, nothing else.
    pub own_branch: bool,
}

/// What a proven wallet tried or lost, as it is put on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlertKind {
    /// A PUBLISH was refused.
    PublishRefused,
    /// A filter of a SUBSCRIBE was refused.
    SubscribeRefused,
    /// A will was refused, at CONNECT or when it would have fired.
    WillRefused,
    /// A message was not delivered to a subscriber who had lost the right.
    DeliveryWithheld,
    /// A session was ended because what it stood on had ended.
    SessionEnded,
}

/// An event of one of the contracts, decoded.
///
/// Fields are those of the Solidity event; amounts are wei, times Unix seconds. Events of money, nonces, alerts and
/// anchors are here for those who read histories; they change no state of the [`Registry`](crate::Registry).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all_fields = "camelCase")]
#[allow(
    missing_docs,
    reason = "variants and fields are documented in src-sol/interfaces, whose names they bear"
)]
pub enum Event {
    // IBrokerRegistry
    BrokerCreated {
        broker_id: U256,
        owner: Address,
        policy: NamingPolicy,
        name: String,
    },
    BrokerOwnershipOffered {
        broker_id: U256,
        owner: Address,
        candidate: Address,
    },
    BrokerOwnershipTransferred {
        broker_id: U256,
        previous_owner: Address,
        new_owner: Address,
    },
    NamingPolicySet {
        broker_id: U256,
        policy: NamingPolicy,
    },
    RegistrarSet {
        broker_id: U256,
        registrar: Address,
        allowed: bool,
    },
    GatewaySet {
        broker_id: U256,
        gateway: Address,
        uri: String,
    },
    GatewayRemoved {
        broker_id: U256,
        gateway: Address,
    },
    PublishFeeSet {
        broker_id: U256,
        #[serde(with = "decimal")]
        wei_per_day: u128,
        effective_from: u64,
    },
    SaleFeeSet {
        broker_id: U256,
        #[serde(with = "decimal")]
        basis_points: u128,
        effective_from: u64,
    },
    WalletBanned {
        broker_id: U256,
        wallet: Address,
        by: Address,
        until: u64,
        evidence: B256,
        reason: String,
    },
    WalletUnbanned {
        broker_id: U256,
        wallet: Address,
        by: Address,
    },
    OriginBanned {
        broker_id: U256,
        origin: B256,
        by: Address,
        until: u64,
        evidence: B256,
        reason: String,
    },
    OriginUnbanned {
        broker_id: U256,
        origin: B256,
        by: Address,
    },
    // ITopicRegistry
    TopicRegistered {
        broker_id: U256,
        topic_id: B256,
        owner: Address,
        epoch: u64,
        name: String,
        traits: Traits,
        publish_offer: Offer,
        subscribe_offer: Offer,
    },
    HiddenTopicRegistered {
        broker_id: U256,
        topic_id: B256,
        owner: Address,
        epoch: u64,
        parent_id: B256,
        commitment: B256,
        traits: Traits,
        publish_offer: Offer,
        subscribe_offer: Offer,
    },
    TraitsSet {
        broker_id: U256,
        topic_id: B256,
        traits: Traits,
    },
    OfferSet {
        broker_id: U256,
        topic_id: B256,
        right: Right,
        offer: Offer,
    },
    CountriesSet {
        broker_id: U256,
        topic_id: B256,
        mode: CountryMode,
        codes: Vec<Country>,
    },
    ManagerSet {
        broker_id: U256,
        topic_id: B256,
        manager: Address,
        allowed: bool,
    },
    TopicOwnershipOffered {
        broker_id: U256,
        topic_id: B256,
        candidate: Address,
        owner: Address,
    },
    TopicOwnershipTransferred {
        broker_id: U256,
        topic_id: B256,
        new_owner: Address,
        previous_owner: Address,
    },
    TopicDeleted {
        broker_id: U256,
        topic_id: B256,
        owner: Address,
        epoch: u64,
    },
    // IAccessMarket
    AccessGranted {
        broker_id: U256,
        topic_id: B256,
        wallet: Address,
        right: Right,
        epoch: u64,
        until: u64,
        by: Address,
        fee_wei: U256,
        purpose: B256,
        note: String,
    },
    AccessBought {
        broker_id: U256,
        topic_id: B256,
        wallet: Address,
        right: Right,
        epoch: u64,
        until: u64,
        payer: Address,
        price_wei: U256,
        sale_fee_wei: U256,
        publish_fee_wei: U256,
        purpose: B256,
        note: String,
    },
    AccessRevoked {
        broker_id: U256,
        topic_id: B256,
        wallet: Address,
        right: Right,
        epoch: u64,
        was: u64,
        refund_wei: U256,
        by: Address,
        purpose: B256,
        note: String,
    },
    WalletBlocked {
        broker_id: U256,
        topic_id: B256,
        wallet: Address,
        by: Address,
        purpose: B256,
        note: String,
    },
    WalletUnblocked {
        broker_id: U256,
        topic_id: B256,
        wallet: Address,
        by: Address,
    },
    Credited {
        payee: Address,
        amount_wei: U256,
    },
    PayoutSet {
        payee: Address,
        to: Address,
        is_pull: bool,
    },
    Withdrawn {
        payee: Address,
        to: Address,
        amount_wei: U256,
    },
    // IDeviceRegistry
    DeviceAuthorized {
        wallet: Address,
        device: Address,
        until: u64,
        generation: u64,
    },
    DeviceRevoked {
        wallet: Address,
        device: Address,
    },
    AllDevicesRevoked {
        wallet: Address,
        generation: u64,
    },
    TokensInvalidated {
        wallet: Address,
        before: u64,
    },
    NonceUsed {
        wallet: Address,
        nonce: U256,
    },
    // IAuditLog
    AlertRaised {
        broker_id: U256,
        topic_id: B256,
        wallet: Address,
        gateway: Address,
        kind: AlertKind,
        count: u32,
        first_at: u64,
        last_at: u64,
        evidence: B256,
    },
    Anchored {
        broker_id: U256,
        gateway: Address,
        sequence: u64,
        root: B256,
        previous: B256,
        count: u64,
    },
}

impl Event {
    /// The broker that the event is about, `None` where it concerns all of them (devices, credit).
    #[must_use]
    pub const fn broker_id(&self) -> Option<U256> {
        match self {
            Self::BrokerCreated { broker_id, .. }
            | Self::BrokerOwnershipOffered { broker_id, .. }
            | Self::BrokerOwnershipTransferred { broker_id, .. }
            | Self::NamingPolicySet { broker_id, .. }
            | Self::RegistrarSet { broker_id, .. }
            | Self::GatewaySet { broker_id, .. }
            | Self::GatewayRemoved { broker_id, .. }
            | Self::PublishFeeSet { broker_id, .. }
            | Self::SaleFeeSet { broker_id, .. }
            | Self::WalletBanned { broker_id, .. }
            | Self::WalletUnbanned { broker_id, .. }
            | Self::OriginBanned { broker_id, .. }
            | Self::OriginUnbanned { broker_id, .. }
            | Self::TopicRegistered { broker_id, .. }
            | Self::HiddenTopicRegistered { broker_id, .. }
            | Self::TraitsSet { broker_id, .. }
            | Self::OfferSet { broker_id, .. }
            | Self::CountriesSet { broker_id, .. }
            | Self::ManagerSet { broker_id, .. }
            | Self::TopicOwnershipOffered { broker_id, .. }
            | Self::TopicOwnershipTransferred { broker_id, .. }
            | Self::TopicDeleted { broker_id, .. }
            | Self::AccessGranted { broker_id, .. }
            | Self::AccessBought { broker_id, .. }
            | Self::AccessRevoked { broker_id, .. }
            | Self::WalletBlocked { broker_id, .. }
            | Self::WalletUnblocked { broker_id, .. }
            | Self::AlertRaised { broker_id, .. }
            | Self::Anchored { broker_id, .. } => Some(*broker_id),
            Self::Credited { .. }
            | Self::PayoutSet { .. }
            | Self::Withdrawn { .. }
            | Self::DeviceAuthorized { .. }
            | Self::DeviceRevoked { .. }
            | Self::AllDevicesRevoked { .. }
            | Self::TokensInvalidated { .. }
            | Self::NonceUsed { .. } => None,
        }
    }

    /// Does a [`Registry`](crate::Registry) keep anything of it?
    #[must_use]
    pub const fn is_remembered(&self) -> bool {
        self.changes_state() || matches!(self, Self::Anchored { .. })
    }

    /// Can the event change a decision? Those that cannot need no new version of the view.
    #[must_use]
    pub const fn changes_state(&self) -> bool {
        !matches!(
            self,
            Self::Credited { .. }
                | Self::PayoutSet { .. }
                | Self::Withdrawn { .. }
                | Self::NonceUsed { .. }
                | Self::AlertRaised { .. }
                | Self::Anchored { .. }
        )
    }
}

/// 128 bits as decimal text: JSON numbers of that size are read wrongly by most who read JSON.
mod decimal {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
    pub(super) fn serialize<S: Serializer>(
        number: &u128,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_survive_json_with_their_names_and_amounts() {
        let offer = Offer { mode: OfferMode::Priced, period: 60, price_wei: u128::MAX };
        let registered = Event::TopicRegistered {
            broker_id: U256::from(1),
            topic_id: B256::repeat_byte(1),
            owner: Address::repeat_byte(2),
            epoch: 3,
            name: "a/b".into(),
            traits: Traits { retain: true, ..Traits::default() },
            publish_offer: offer,
            subscribe_offer: Offer::default(),
        };
        let fee = Event::PublishFeeSet {
            broker_id: U256::from(1),
            wei_per_day: 1 << 90,
            effective_from: u64::MAX,
        };
        let countries = Event::CountriesSet {
            broker_id: U256::from(1),
            topic_id: B256::repeat_byte(1),
            mode: CountryMode::Only,
            codes: [*b"DE", *b"GB"].into_iter().filter_map(Country::new).collect(),
        };
        assert!(
            serde_json::to_string(&countries)
                .unwrap()
                .contains(r#""mode":"only","codes":["DE","GB"]"#)
        );
        for event in [registered, fee, countries] {
            let json = serde_json::to_string(&event).unwrap();
            assert!(json.starts_with(r#"{"event":""#), "{json}");
            assert!(json.contains(r#""brokerId":"0x1""#), "{json}");
            assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
        }
    }
}
