//! Why something is not allowed.

use alloy_primitives::B256;

use crate::credential::Refusal;

/// Why an action, a filter or a session is not allowed.
///
/// `Display` is a short sentence that is safe to send to the client who asked, as an MQTT 5 reason string: it
/// tells what the client could read on chain anyway, and never which check of a proof failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Nothing was proved; why is for the operator's log only.
    #[error("not authenticated")]
    NoProof(Refusal),
    /// The broker has banned the wallet (or its device key) until this second.
    #[error("banned until {until}")]
    Banned {
        /// End of the ban, Unix seconds.
        until: u64,
    },
    /// The device key acts for this wallet no longer: revoked, expired, or for another one now.
    #[error("the device key is no longer authorized")]
    DeviceEnded,
    /// The key proved itself as a wallet of its own and has become a device key since.
    #[error("the key has become a device key, authenticate again")]
    KeyIsDevice,
    /// The wallet ended all tokens that were issued before a later moment.
    #[error("the token was invalidated")]
    TokenInvalidated,
    /// The token has reached its end.
    #[error("the token has expired")]
    CredentialExpired,
    /// The wallet has never had the right on the governing topic (in its present epoch).
    #[error("no grant for topic {topic_id}{}", price(.price_hint))]
    NoGrant {
        /// The governing topic.
        topic_id: B256,
        /// Wei and seconds of one period, where the right is for sale.
        price_hint: Option<(u128, u32)>,
    },
    /// The wallet had the right, and it has ended or was revoked.
    #[error("the grant for topic {topic_id} ended at {until}{}", price(.price_hint))]
    GrantEnded {
        /// The governing topic.
        topic_id: B256,
        /// When it ended, Unix seconds.
        until: u64,
        /// Wei and seconds of one period, where the right is for sale.
        price_hint: Option<(u128, u32)>,
    },
    /// The newest block allows it, but the allowing block has not settled yet. Worth another try soon.
    #[error("the grant has not settled yet, try again shortly")]
    NotSettled,
    /// The topic's owner has blocked the wallet.
    #[error("blocked by the owner of topic {topic_id}")]
    Blocked {
        /// The governing topic.
        topic_id: B256,
    },
    /// No registered topic governs the name.
    #[error("no registered topic governs this name")]
    Ungoverned,
    /// A topic with a hidden name may govern the name instead of the one above, and nobody has told which; or it does, and is not open to who
    /// asks.
    #[error("names below topic {topic_id} may be hidden ones, not known here or of others")]
    HiddenName {
        /// The topic below which there are hidden ones.
        topic_id: B256,
    },
    /// The topic may not be used from the client's country, or has a rule about countries and the client's is not known.
    #[error("topic {topic_id} may not be used from this country, or from an unknown one")]
    Country {
        /// The governing topic.
        topic_id: B256,
    },
    /// The topic takes no retained messages.
    #[error("topic {topic_id} takes no retained messages")]
    RetainNotAllowed {
        /// The governing topic.
        topic_id: B256,
    },
    /// On this topic a key may use its own branch only.
    #[error("on topic {topic_id} a key may only use the branch below its own address")]
    OtherBranch {
        /// The governing topic.
        topic_id: B256,
    },
    /// The name starts with `$`, which belongs to the broker.
    #[error("names that start with $ are reserved")]
    ReservedName,
    /// The name has an empty level although a registered topic lies above it.
    #[error("names with an empty level are not allowed below a registered topic")]
    EmptyLevel,
    /// The name or filter is none: empty, a wildcard in a name, or a misplaced one in a filter.
    #[error("not a valid topic name or filter")]
    InvalidName,
    /// The broker reads this character of the name or filter as another, see [`Dialect`](crate::Dialect).
    #[error(
        "names with {character:?} are not allowed: the broker here takes it for another character"
    )]
    Clash {
        /// The first such character.
        character: char,
    },
    /// The filter lies over more registered topics than one decision may look at.
    #[error("the filter covers more than {most} topics")]
    FilterTooWide {
        /// The most topics that one filter may lie over.
        most: usize,
    },
}

impl Denial {
    /// One word for logs and metrics; there is a fixed set of them.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::NoProof(_) => "no-proof",
            Self::Banned { .. } => "banned",
            Self::DeviceEnded => "device-ended",
            Self::KeyIsDevice => "key-is-device",
            Self::TokenInvalidated => "token-invalidated",
            Self::CredentialExpired => "credential-expired",
            Self::NoGrant { .. } => "no-grant",
            Self::GrantEnded { .. } => "grant-ended",
            Self::NotSettled => "not-settled",
            Self::Blocked { .. } => "blocked",
            Self::Ungoverned => "ungoverned",
            Self::HiddenName { .. } => "hidden-name",
            Self::Country { .. } => "country",
            Self::RetainNotAllowed { .. } => "retain-not-allowed",
            Self::OtherBranch { .. } => "other-branch",
            Self::ReservedName => "reserved-name",
            Self::EmptyLevel => "empty-level",
            Self::InvalidName => "invalid-name",
            Self::Clash { .. } => "clash",
            Self::FilterTooWide { .. } => "filter-too-wide",
        }
    }

    /// Whether only whoever asks can have brought it about. What a topic's owner takes or rules, and what the chain is slow to settle, is
    /// nobody else's fault, however often it is asked for.
    #[must_use]
    pub const fn blames_client(&self) -> bool {
        !matches!(
            self,
            Self::GrantEnded { .. }
                | Self::NotSettled
                | Self::Blocked { .. }
                | Self::HiddenName { .. }
                | Self::Country { .. }
        )
    }

    /// The governing topic, where the denial is about one.
    #[must_use]
    pub const fn topic_id(&self) -> Option<B256> {
        match self {
            Self::NoGrant { topic_id, .. }
            | Self::GrantEnded { topic_id, .. }
            | Self::Blocked { topic_id }
            | Self::HiddenName { topic_id }
            | Self::Country { topic_id }
            | Self::RetainNotAllowed { topic_id }
            | Self::OtherBranch { topic_id } => Some(*topic_id),
            _ => None,
        }
    }

    /// Does it end the whole session, rather than refuse one action?
    #[must_use]
    pub const fn ends_session(&self) -> bool {
        matches!(
            self,
            Self::NoProof(_)
                | Self::Banned { .. }
                | Self::DeviceEnded
                | Self::KeyIsDevice
                | Self::TokenInvalidated
                | Self::CredentialExpired
        )
    }
}

fn price(hint: &Option<(u128, u32)>) -> String {
    match hint {
        Some((0, period)) => format!(", free to claim for {period} s at a time"),
        Some((wei, period)) => format!(", price {wei} wei per {period} s"),
        None => String::new(),
    }
}
