//! One record, and the octets that stand for it.

use alloy_primitives::{Address, B256, Bytes};
use alloy_sol_types::{SolValue as _, sol};
use serde::{Deserialize, Serialize};

sol! {
    /// A record as hashes see it: ABI encoding is canonical, and every Ethereum library has it.
    struct Encoded {
        uint64 index;
        uint8 kind;
        address wallet;
        address key;
        uint64 session;
        bytes32 topicId;
        uint64 epoch;
        uint64 count;
        uint64 octets;
        uint64 firstAt;
        uint64 lastAt;
        uint64 height;
        string rule;
        string country;
        bytes personal;
    }
}

/// What a record is about. The numbers are part of the format and never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Messages of the client that went to the broker.
    Published,
    /// Messages that went to the client.
    Delivered,
    /// Messages of the client that did not go to the broker.
    PublishRefused,
    /// Filters that were not asked of the broker.
    SubscribeRefused,
    /// Messages that did not go to the client.
    DeliveryWithheld,
    /// A session that was not opened, or ended, because its will had no right to be.
    WillRefused,
    /// Filters that were taken back, and sessions that ended, because a right did.
    SessionEnded,
    /// Attempts to prove an identity that failed. Nobody is named, for nothing was proved.
    ProofFailed,
    /// The gateway started.
    Started,
    /// The gateway stopped in order: before a start without this it was killed, and what it had counted last may be missing.
    Stopped,
    /// What was personal in the records of a wallet, or of an origin, was made unreadable for ever.
    Erased,
    /// A wallet, a device key or an origin was banned, by this gateway or its operator. The rule says by what and until when.
    Banned,
    /// A ban was lifted before its end.
    BanLifted,
    /// Other audit rules came into force. The rule is the hash of their file.
    RulesChanged,
    /// The gateway was told the hidden name of a topic, by its owner. The record does not have it.
    NameDisclosed,
    /// The gateway was told to forget the hidden name of a topic, and did.
    NameErased,
}

impl Kind {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::Published,
        Self::Delivered,
        Self::PublishRefused,
        Self::SubscribeRefused,
        Self::DeliveryWithheld,
        Self::WillRefused,
        Self::SessionEnded,
        Self::ProofFailed,
        Self::Started,
        Self::Stopped,
        Self::Erased,
        Self::Banned,
        Self::BanLifted,
        Self::RulesChanged,
        Self::NameDisclosed,
        Self::NameErased,
    ];

    /// Its number in the encoding.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The word that stands for it in exports and answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Delivered => "delivered",
            Self::PublishRefused => "publish-refused",
            Self::SubscribeRefused => "subscribe-refused",
            Self::DeliveryWithheld => "delivery-withheld",
            Self::WillRefused => "will-refused",
            Self::SessionEnded => "session-ended",
            Self::ProofFailed => "proof-failed",
            Self::Started => "started",
            Self::Stopped => "stopped",
            Self::Erased => "erased",
            Self::Banned => "banned",
            Self::BanLifted => "ban-lifted",
            Self::RulesChanged => "rules-changed",
            Self::NameDisclosed => "name-disclosed",
            Self::NameErased => "name-erased",
        }
    }

    /// What became of it; nothing where nobody asked for anything.
    #[must_use]
    pub const fn decision(self) -> Option<Decision> {
        match self {
            Self::Published | Self::Delivered => Some(Decision::Allowed),
            Self::PublishRefused
            | Self::SubscribeRefused
            | Self::DeliveryWithheld
            | Self::WillRefused
            | Self::SessionEnded
            | Self::ProofFailed => Some(Decision::Refused),
            Self::Started
            | Self::Stopped
            | Self::Erased
            | Self::Banned
            | Self::BanLifted
            | Self::RulesChanged
            | Self::NameDisclosed
            | Self::NameErased => None,
        }
    }

    /// Which way messages went, or would have gone; either way where a session ended.
    #[must_use]
    pub const fn direction(self) -> Option<Direction> {
        match self {
            Self::Published | Self::PublishRefused | Self::WillRefused => Some(Direction::ToBroker),
            Self::Delivered | Self::SubscribeRefused | Self::DeliveryWithheld => {
                Some(Direction::ToClient)
            }
            Self::SessionEnded
            | Self::ProofFailed
            | Self::Started
            | Self::Stopped
            | Self::Erased
            | Self::Banned
            | Self::BanLifted
            | Self::RulesChanged
            | Self::NameDisclosed
            | Self::NameErased => None,
        }
    }
}

/// What became of what somebody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It was done.
    Allowed,
    /// It was not.
    Refused,
}

/// Which way messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The client publishes.
    ToBroker,
    /// The client receives.
    ToClient,
}

/// What happened, once or many times in a row: equal happenings of an interval are one record with their count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Record {
    /// Number among all records of its gateway, from 1.
    pub index: u64,
    /// What it is about.
    pub kind: Kind,
    /// Whose rights counted; zero where nobody had proved anything.
    pub wallet: Address,
    /// The key that proved it: the wallet itself or one of its devices; zero as `wallet`.
    pub key: Address,
    /// Number of the session at this gateway, 0 where there was none.
    pub session: u64,
    /// The governing topic, zero where none governs or none is meant.
    pub topic_id: B256,
    /// Epoch of the topic, 0 without one.
    pub epoch: u64,
    /// How many times, at least 1.
    pub count: u64,
    /// Octets of payload in all.
    pub octets: u64,
    /// Unix second of the first.
    pub first_at: u64,
    /// Unix second of the last.
    pub last_at: u64,
    /// Height of the newest block that the last decision was read at.
    pub height: u64,
    /// On what it stood (`grant`, `owner`, `public`), or the rule that refused it. At most [`MOST_TEXT`] octets.
    pub rule: String,
    /// ISO 3166-1 alpha-2 code of where the client was, empty where that is not known.
    pub country: String,
    /// Client id, origin and topic name, [sealed](crate::seal); empty where there are none.
    pub personal: Bytes,
}

/// Octets of the longest rule.
pub const MOST_TEXT: usize = 64;
/// Octets of the longest sealed part.
pub const MOST_PERSONAL: usize = 4_096;

/// Octets that stand for no record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Not the ABI encoding of a record.
    #[error("not the encoding of a record: {0}")]
    Abi(String),
    /// A kind that this version does not know.
    #[error("kind {0} is not known: was it written by a newer version?")]
    Kind(u8),
    /// A record that no gateway writes.
    #[error("{what} is {found}, wanted {wanted}")]
    Field {
        /// Which field.
        what: &'static str,
        /// What it holds.
        found: String,
        /// What it may hold.
        wanted: &'static str,
    },
}

impl Record {
    /// The octets that are hashed: `abi.encode` of the fields in their order.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Encoded {
            index: self.index,
            kind: self.kind.number(),
            wallet: self.wallet,
            key: self.key,
            session: self.session,
            topicId: self.topic_id,
            epoch: self.epoch,
            count: self.count,
            octets: self.octets,
            firstAt: self.first_at,
            lastAt: self.last_at,
            height: self.height,
            rule: self.rule.clone(),
            country: self.country.clone(),
            personal: self.personal.clone(),
        }
        .abi_encode()
    }

    /// The record that these octets stand for.
    ///
    /// # Errors
    /// [`Undecodable`]; also where another encoding would have stood for the same record, so that equal records have equal hashes.
    pub fn decode(octets: &[u8]) -> Result<Self, Undecodable> {
        let encoded = Encoded::abi_decode_validate(octets)
            .map_err(|error| Undecodable::Abi(error.to_string()))?;
        let kind = Kind::from_number(encoded.kind).ok_or(Undecodable::Kind(encoded.kind))?;
        let record = Self {
            index: encoded.index,
            kind,
            wallet: encoded.wallet,
            key: encoded.key,
            session: encoded.session,
            topic_id: encoded.topicId,
            epoch: encoded.epoch,
            count: encoded.count,
            octets: encoded.octets,
            first_at: encoded.firstAt,
            last_at: encoded.lastAt,
            height: encoded.height,
            rule: encoded.rule,
            country: encoded.country,
            personal: encoded.personal,
        };
        record.check()?;
        if record.encode() != octets {
            return Err(Undecodable::Abi("it is not the shortest one".to_owned()));
        }
        Ok(record)
    }

    /// Whether a gateway could have written it.
    ///
    /// # Errors
    /// [`Undecodable::Field`] with the first field that it could not.
    pub fn check(&self) -> Result<(), Undecodable> {
        let wrong = |what, found: String, wanted| Err(Undecodable::Field { what, found, wanted });
        if self.index == 0 {
            return wrong("index", "0".to_owned(), "1 or more");
        }
        if self.count == 0 {
            return wrong("count", "0".to_owned(), "1 or more");
        }
        if self.last_at < self.first_at {
            return wrong("lastAt", self.last_at.to_string(), "no less than firstAt");
        }
        if self.rule.len() > MOST_TEXT {
            return wrong("rule", format!("{} octets", self.rule.len()), "64 octets at most");
        }
        let is_country = matches!(self.country.as_bytes(), [] | [b'A'..=b'Z', b'A'..=b'Z']);
        if !is_country {
            return wrong(
                "country",
                format!("{:?}", self.country),
                "nothing or two letters A to Z",
            );
        }
        if self.personal.len() > MOST_PERSONAL {
            let found = format!("{} octets", self.personal.len());
            return wrong("personal", found, "4,096 octets at most");
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        /// Any record that a gateway could write.
        pub(crate) fn records()(
            index in 1..u64::MAX,
            kind in 0..Kind::ALL.len(),
            (wallet, key, topic_id) in any::<([u8; 20], [u8; 20], [u8; 32])>(),
            (session, epoch, octets, height) in any::<(u64, u64, u64, u64)>(),
            count in 1..u64::MAX,
            first_at in any::<u32>(),
            lasts in any::<u32>(),
            rule in "[a-z-]{0,64}",
            country in "([A-Z]{2})?",
            personal in prop::collection::vec(any::<u8>(), 0..200),
        ) -> Record {
            Record {
                index,
                kind: Kind::ALL[kind],
                wallet: wallet.into(),
                key: key.into(),
                session,
                topic_id: topic_id.into(),
                epoch,
                count,
                octets,
                first_at: first_at.into(),
                last_at: u64::from(first_at) + u64::from(lasts),
                height,
                rule,
                country,
                personal: personal.into(),
            }
        }
    }

    #[test]
    fn each_kind_has_its_place_as_its_number() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(kind.number()), place);
            assert_eq!(Kind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(Kind::from_number(16), None);
    }

    proptest! {
        #[test]
        fn a_record_comes_back_from_its_encoding_and_from_json(record in records()) {
            prop_assert_eq!(Record::decode(&record.encode()), Ok(record.clone()));
            let json = serde_json::to_string(&record).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Record>(&json).expect("a record"), record);
        }

        /// Two encodings of one record would be two leaves for one happening.
        #[test]
        fn no_other_octets_stand_for_the_same_record(record in records(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut octets = record.encode();
            let at = at.index(octets.len());
            octets[at] ^= flip;
            prop_assert_ne!(Record::decode(&octets), Ok(record));
        }

        #[test]
        fn octets_from_anywhere_are_refused_without_a_panic(octets in prop::collection::vec(any::<u8>(), 0..1_200)) {
            prop_assert!(Record::decode(&octets).is_err());
        }
    }

    fn valid() -> Record {
        Record {
            index: 1,
            kind: Kind::Published,
            wallet: Address::repeat_byte(1),
            key: Address::repeat_byte(1),
            session: 1,
            topic_id: B256::repeat_byte(2),
            epoch: 1,
            count: 1,
            octets: 0,
            first_at: 5,
            last_at: 5,
            height: 9,
            rule: "grant".to_owned(),
            country: "DE".to_owned(),
            personal: Bytes::new(),
        }
    }

    #[test]
    fn what_no_gateway_writes_is_refused_field_by_field() {
        assert_eq!(valid().check(), Ok(()));
        type Spoil = fn(&mut Record);
        let cases: [(&str, Spoil); 7] = [
            ("index", |r| r.index = 0),
            ("count", |r| r.count = 0),
            ("lastAt", |r| r.last_at = 4),
            ("rule", |r| r.rule = "x".repeat(65)),
            ("country", |r| r.country = "de".to_owned()),
            ("country", |r| r.country = "DEU".to_owned()),
            ("personal", |r| r.personal = vec![0; 4_097].into()),
        ];
        for (wanted, spoil) in cases {
            let mut record = valid();
            spoil(&mut record);
            let found = Record::decode(&record.encode());
            assert!(
                matches!(found, Err(Undecodable::Field { what, .. }) if what == wanted),
                "{wanted}: {found:?}"
            );
        }
    }

    /// The encoding is for ever: another one would make every anchored record unprovable.
    #[test]
    fn the_encoding_of_a_known_record_never_changes() {
        let words = [
            "20", // where the tuple starts
            "1",
            "0",
            "0101010101010101010101010101010101010101",
            "0101010101010101010101010101010101010101",
            "1",
            "0202020202020202020202020202020202020202020202020202020202020202",
            "1",
            "1",
            "0",
            "5",
            "5",
            "9",
            "1e0",
            "220",
            "260",
            "5",
            "GRANT",
            "2",
            "DE",
            "0",
        ];
        let expected: String = words
            .iter()
            .map(|word| match *word {
                "GRANT" => format!("{:0<64}", "6772616e74"),
                "DE" => format!("{:0<64}", "4445"),
                word => format!("{word:0>64}"),
            })
            .collect();
        assert_eq!(alloy_primitives::hex::encode(valid().encode()), expected);
    }
}
