//! The shapes of answers. Times are Unix seconds, money is wei as decimal text.

use flytrap_policy::{Offer, OfferMode, Right, Topic};
use flytrap_record::{Decision, Path, Record};
use serde::Serialize;
use utoipa::ToSchema;

use super::answer::Shown;
use super::asked::{KindWord, Wallet, Word};
use super::index::{AnchorRow, Cell, Coverage, Use};

/// Up to where the record is known here. Only closed intervals show, each record of them once.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AsOf {
    /// Whose record.
    pub(super) gateway: Wallet,
    /// The oldest record that is kept; 0 if there is none.
    pub(super) first_record: u64,
    /// The newest record that shows; 0 if there is none.
    pub(super) last_record: u64,
    /// Its interval.
    pub(super) last_sequence: u64,
    /// The last interval whose anchor is settled on chain.
    pub(super) settled_sequence: u64,
    /// False while the index still takes in older records than these.
    pub(super) complete: bool,
}

impl AsOf {
    pub(super) fn new(gateway: Wallet, coverage: Coverage, settled: u64, complete: bool) -> Self {
        let Coverage { first, last, sequence } = coverage;
        Self {
            gateway,
            first_record: first,
            last_record: last,
            last_sequence: sequence,
            settled_sequence: settled,
            complete,
        }
    }
}

/// One record: who did what, when, on what ground, from where. What is personal in it is sealed and not shown.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RecordItem {
    /// Who wrote it.
    pub(super) gateway: Wallet,
    /// Its number at this gateway.
    pub(super) number: u64,
    /// The interval that it is anchored in.
    pub(super) sequence: u64,
    /// What it is about.
    pub(super) kind: KindWord,
    /// What became of it; null where nobody asked for anything.
    #[schema(value_type = Option<DecisionWord>)]
    pub(super) decision: Option<Decision>,
    /// Whose rights counted; null where nobody had proved anything.
    pub(super) wallet: Option<Wallet>,
    /// The key that proved it.
    pub(super) key: Option<Wallet>,
    /// Number of the session at this gateway, 0 without one.
    pub(super) session: u64,
    /// The governing topic.
    pub(super) topic_id: Option<Word>,
    /// Its name, where that is registered now and not hidden.
    pub(super) topic: Option<String>,
    /// Epoch of the topic, 0 without one.
    pub(super) epoch: u64,
    /// How many times.
    pub(super) count: u64,
    /// Octets of payload in all.
    pub(super) octets: u64,
    /// Second of the first.
    pub(super) first_at: u64,
    /// Second of the last.
    pub(super) last_at: u64,
    /// Block that the last decision was read at.
    pub(super) height: u64,
    /// What it stood on, or the rule that refused it.
    pub(super) rule: String,
    /// ISO 3166-1 alpha-2; null where that is not known.
    pub(super) country: Option<String>,
    /// Where its proof is.
    pub(super) proof: String,
}

impl RecordItem {
    pub(super) fn new(
        gateway: Wallet,
        sequence: u64,
        record: Record,
        topic: Option<String>,
    ) -> Self {
        let wallet = |of: alloy_primitives::Address| (!of.is_zero()).then_some(Wallet(of));
        Self {
            gateway,
            number: record.index,
            sequence,
            kind: KindWord(record.kind),
            decision: record.kind.decision(),
            wallet: wallet(record.wallet),
            key: wallet(record.key),
            session: record.session,
            topic_id: (!record.topic_id.is_zero()).then_some(Word(record.topic_id)),
            topic,
            epoch: record.epoch,
            count: record.count,
            octets: record.octets,
            first_at: record.first_at,
            last_at: record.last_at,
            height: record.height,
            rule: record.rule,
            country: Some(record.country).filter(|country| !country.is_empty()),
            proof: format!("/v1/records/{:#x}/{}", gateway.0, record.index),
        }
    }
}

impl Shown for RecordItem {
    const COLUMNS: &'static [&'static str] = &[
        "gateway", "number", "sequence", "kind", "decision", "wallet", "key", "session", "topicId",
        "topic", "epoch", "count", "octets", "firstAt", "lastAt", "height", "rule", "country",
        "proof",
    ];
}

/// What became of what somebody asked for.
#[derive(Debug, Clone, Copy, ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
pub(super) enum DecisionWord {
    /// It was done.
    Allowed,
    /// It was not.
    Refused,
}

/// A right of a topic.
#[derive(Debug, Clone, Copy, ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
pub(super) enum RightWord {
    /// Send messages.
    Publish,
    /// Receive messages.
    Subscribe,
}

/// How a right can be had.
#[derive(Debug, Clone, Copy, ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code, reason = "only its schema is used")]
pub(super) enum ModeWord {
    /// The owner grants, nobody buys.
    Closed,
    /// Anyone buys; 0 wei means that anyone claims.
    Priced,
    /// Any authenticated wallet, without a transaction.
    Public,
}

/// A record with all that proves it. With `keccak` of Ethereum and `|` for octets put one behind the other:
///
/// 1. `leaf = keccak(0x00 | encoding)`.
/// 2. Up the tree by `beside` as in RFC 9162 section 2.1.3.2, with `node = keccak(0x01 | left | right)`, from `place` of `leaves` to `top`.
/// 3. `root = keccak(0x03 | first as 8 octets | count as 8 octets | before | top)`, numbers big-endian.
/// 4. `root` is in the event `Anchored` of `auditLog` with this broker, gateway and sequence.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProvedRecord {
    /// What it says; null where only its leaf is kept.
    pub(super) record: Option<RecordItem>,
    /// The octets that are hashed, `abi.encode` of its fields, what is personal sealed; null as `record`.
    pub(super) encoding: Option<String>,
    /// Hash of the record.
    pub(super) leaf: Word,
    /// The way from the leaf to the top.
    pub(super) path: PathShape,
    /// The interval that it is in.
    pub(super) interval: Interval,
    /// What the chain has of that.
    pub(super) anchor: AnchorState,
}

/// The way from a leaf to the top of the tree.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PathShape {
    /// Place of the leaf, from 0.
    pub(super) place: u64,
    /// Leaves in all.
    pub(super) leaves: u64,
    /// What stands beside the way, from the leaf up.
    pub(super) beside: Vec<Word>,
}

impl From<Path> for PathShape {
    fn from(path: Path) -> Self {
        let beside = path.beside.into_iter().map(Word).collect();
        Self { place: path.place, leaves: path.leaves, beside }
    }
}

/// Records that are anchored together.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Interval {
    /// Number of its anchor.
    pub(super) sequence: u64,
    /// Number of its first record.
    pub(super) first: u64,
    /// How many they are.
    pub(super) count: u64,
    /// Link of the record before the first.
    pub(super) before: Word,
    /// What goes on chain.
    pub(super) root: Word,
}

/// What the chain has of an interval.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnchorState {
    /// `settled`: on chain, and deep enough; `pending`: on its way, or not deep enough; `none`: this gateway anchors nothing; `other`: the chain has another root.
    pub(super) state: StateWord,
    /// The chain.
    pub(super) chain_id: u64,
    /// The contract.
    pub(super) audit_log: Wallet,
    /// The broker, a decimal number.
    pub(super) broker_id: String,
    /// The transaction, where it is known yet.
    pub(super) transaction: Option<Word>,
    /// Its block.
    pub(super) block: Option<u64>,
    /// Time of that.
    pub(super) time: Option<u64>,
}

/// How an anchor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum StateWord {
    /// On chain, and deep enough.
    Settled,
    /// On its way, or not deep enough.
    Pending,
    /// This gateway anchors nothing.
    None,
    /// The chain has another root under this number.
    Other,
}

/// A sum over the records of one day, topic, kind and country.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SumItem {
    /// The day (UTC) on which they began.
    pub(super) day: String,
    /// The governing topic.
    pub(super) topic_id: Option<Word>,
    /// Its name, where that is registered now and not hidden.
    pub(super) topic: Option<String>,
    /// What they are about.
    pub(super) kind: KindWord,
    /// ISO 3166-1 alpha-2, `unknown`, or `other`: several, or nobody's.
    pub(super) country: String,
    /// How many wallets, 0 where nobody had proved anything.
    pub(super) wallets: u64,
    /// How many records.
    pub(super) records: u64,
    /// How many times in all.
    pub(super) count: u64,
    /// Octets of payload in all.
    pub(super) octets: u64,
}

impl SumItem {
    pub(super) fn new(cell: Cell, topic: Option<String>) -> Self {
        Self {
            day: flytrap_record::text::day(cell.day),
            topic_id: (!cell.topic.is_zero()).then_some(Word(cell.topic)),
            topic,
            kind: KindWord(cell.kind),
            country: match cell.country {
                None => "other".to_owned(),
                Some(country) if country.is_empty() => "unknown".to_owned(),
                Some(country) => country,
            },
            wallets: cell.wallets,
            records: cell.records,
            count: cell.count,
            octets: cell.octets,
        }
    }
}

impl Shown for SumItem {
    const COLUMNS: &'static [&'static str] =
        &["day", "topicId", "topic", "kind", "country", "wallets", "records", "count", "octets"];
}

/// A topic as the chain has it now.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TopicItem {
    /// Its id.
    pub(super) topic_id: Word,
    /// Its name; null while that is hidden.
    pub(super) name: Option<String>,
    /// Whether its name is hidden.
    pub(super) hidden: bool,
    /// The topic below which it was hidden.
    pub(super) parent_id: Option<Word>,
    /// Whom it belongs to.
    pub(super) owner: Wallet,
    /// Which registration of the name this is.
    pub(super) epoch: u64,
    /// Whether messages may be retained.
    pub(super) retain: bool,
    /// Whether every access is recorded.
    pub(super) sensitive: bool,
    /// Whether a key may use its own branch only.
    pub(super) own_branch: bool,
    /// How the right to publish can be had.
    #[schema(value_type = ModeWord)]
    pub(super) publish: OfferMode,
    /// How the right to subscribe can be had.
    #[schema(value_type = ModeWord)]
    pub(super) subscribe: OfferMode,
    /// `any`, `only` the countries, or all `except` them.
    #[schema(pattern = "^(any|only|except)$")]
    pub(super) countries_mode: String,
    /// ISO 3166-1 alpha-2.
    pub(super) countries: Vec<String>,
}

impl TopicItem {
    pub(super) fn new(topic: &Topic) -> Self {
        let (mode, set) = (topic.countries.mode(), topic.countries.countries());
        Self {
            topic_id: Word(topic.id),
            name: name_of(topic),
            hidden: topic.hidden.is_some(),
            parent_id: topic.hidden.as_ref().map(|hidden| Word(hidden.parent_id)),
            owner: Wallet(topic.owner),
            epoch: topic.epoch,
            retain: topic.traits.retain,
            sensitive: topic.traits.sensitive,
            own_branch: topic.traits.own_branch,
            publish: topic.publish_offer.mode,
            subscribe: topic.subscribe_offer.mode,
            countries_mode: format!("{mode:?}").to_lowercase(),
            countries: set
                .map(|set| set.iter().map(|one| one.to_string()).collect())
                .unwrap_or_default(),
        }
    }
}

impl Shown for TopicItem {
    const COLUMNS: &'static [&'static str] = &[
        "topicId",
        "name",
        "hidden",
        "parentId",
        "owner",
        "epoch",
        "retain",
        "sensitive",
        "ownBranch",
        "publish",
        "subscribe",
        "countriesMode",
        "countries",
    ];
}

/// A topic's name, unless it is hidden.
pub(super) fn name_of(topic: &Topic) -> Option<String> {
    (topic.hidden.is_none() && !topic.name.is_empty()).then(|| topic.name.to_string())
}

/// A right that can be had without asking its owner.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct OfferItem {
    /// The topic.
    pub(super) topic_id: Word,
    /// Its name; null while that is hidden.
    pub(super) name: Option<String>,
    /// To whom it belongs.
    pub(super) owner: Wallet,
    /// Which right.
    #[schema(value_type = RightWord)]
    pub(super) right: Right,
    /// How it can be had.
    #[schema(value_type = ModeWord)]
    pub(super) mode: OfferMode,
    /// Seconds that the price buys, 0 unless it is priced.
    pub(super) period: u32,
    /// Wei for a period.
    pub(super) price_wei: String,
}

impl OfferItem {
    pub(super) fn new(topic: &Topic, right: Right, offer: &Offer) -> Self {
        Self {
            topic_id: Word(topic.id),
            name: name_of(topic),
            owner: Wallet(topic.owner),
            right,
            mode: offer.mode,
            period: offer.period,
            price_wei: offer.price_wei.to_string(),
        }
    }
}

impl Shown for OfferItem {
    const COLUMNS: &'static [&'static str] =
        &["topicId", "name", "owner", "right", "mode", "period", "priceWei"];
}

/// A grant of the topic's present epoch.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct GrantItem {
    /// Who has or had it.
    pub(super) wallet: Wallet,
    /// Which right.
    #[schema(value_type = RightWord)]
    pub(super) right: Right,
    /// First second at which it holds no longer.
    pub(super) until: u64,
    /// Whether it holds now: not ended, and the wallet neither blocked nor banned.
    pub(super) holds: bool,
    /// Whether the wallet is blocked on the topic.
    pub(super) blocked: bool,
}

impl Shown for GrantItem {
    const COLUMNS: &'static [&'static str] = &["wallet", "right", "until", "holds", "blocked"];
}

/// A wallet or device key that is banned at the broker.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct BanItem {
    /// Whom.
    pub(super) wallet: Wallet,
    /// First second at which it is banned no longer.
    pub(super) until: u64,
}

impl Shown for BanItem {
    const COLUMNS: &'static [&'static str] = &["wallet", "until"];
}

/// An anchor as the chain has it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnchorItem {
    /// Who made it.
    pub(super) gateway: Wallet,
    /// Its number.
    pub(super) sequence: u64,
    /// Root over the records.
    pub(super) root: Word,
    /// Root of the anchor before.
    pub(super) previous: Word,
    /// How many records.
    pub(super) count: u64,
    /// Its block.
    pub(super) block: u64,
    /// Time of that.
    pub(super) time: u64,
    /// The transaction.
    pub(super) transaction: Word,
}

impl From<AnchorRow> for AnchorItem {
    fn from(row: AnchorRow) -> Self {
        Self {
            gateway: Wallet(row.gateway),
            sequence: row.sequence,
            root: Word(row.root),
            previous: Word(row.previous),
            count: row.count,
            block: row.height,
            time: row.time,
            transaction: Word(row.tx),
        }
    }
}

impl Shown for AnchorItem {
    const COLUMNS: &'static [&'static str] =
        &["gateway", "sequence", "root", "previous", "count", "block", "time", "transaction"];
}

/// Who could use a topic at one second, and who did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EntitledAnswer {
    /// The topic.
    pub(super) topic_id: Word,
    /// Its name, where that was not hidden.
    pub(super) topic: Option<String>,
    /// Which registration of the name it was.
    pub(super) epoch: u64,
    /// The second.
    pub(super) at: u64,
    /// Block of the last event that counts for it.
    pub(super) block: u64,
    /// Whether every access was recorded.
    pub(super) sensitive: bool,
    /// Rights that any wallet had that was neither blocked nor banned.
    #[schema(value_type = Vec<RightWord>)]
    pub(super) public: Vec<Right>,
    /// Who was entitled.
    pub(super) entitled: Vec<EntitledItem>,
    /// Who had been entitled and was not at that second.
    pub(super) was_entitled: Vec<EntitledItem>,
    /// Who did use it then, by the record; null where records are not shown.
    pub(super) used: Option<Vec<UseItem>>,
    /// Who tried and was refused then, by the record; null where records are not shown.
    pub(super) refused: Option<Vec<UseItem>>,
    /// Who was entitled and is in no record as having used it ever; null where records are not shown, or accesses were not recorded.
    pub(super) never_used: Option<Vec<HolderItem>>,
    /// Up to where the record is known; null where records are not shown.
    pub(super) as_of: Option<AsOf>,
}

/// A right, what it stood on and why it did not count.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct EntitledItem {
    /// Who.
    pub(super) wallet: Wallet,
    /// `owner` (both rights), `manager` (none) or `grant`.
    #[schema(pattern = "^(owner|manager|grant)$")]
    pub(super) ground: &'static str,
    /// Which right.
    #[schema(value_type = Option<RightWord>)]
    pub(super) right: Option<Right>,
    /// First second at which it holds no longer; null for owners and managers.
    pub(super) until: Option<u64>,
    /// `banned`, `blocked` or `ended`, where it did not count.
    pub(super) but: Option<&'static str>,
    /// The transaction that gave it, or took it away.
    pub(super) transaction: Option<Word>,
    /// Its block.
    pub(super) block: Option<u64>,
    /// Time of that.
    pub(super) time: Option<u64>,
}

/// Who held a right.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct HolderItem {
    /// Who.
    pub(super) wallet: Wallet,
    /// Which right.
    #[schema(value_type = RightWord)]
    pub(super) right: Right,
}

/// How much one wallet did of one kind.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UseItem {
    /// Who; null where nobody had proved anything.
    pub(super) wallet: Option<Wallet>,
    /// What.
    pub(super) kind: KindWord,
    /// In how many records.
    pub(super) records: u64,
    /// How many times.
    pub(super) count: u64,
    /// Octets of payload.
    pub(super) octets: u64,
    /// Second of the first.
    pub(super) first_at: u64,
    /// Second of the last.
    pub(super) last_at: u64,
}

impl From<&Use> for UseItem {
    fn from(of: &Use) -> Self {
        Self {
            wallet: (!of.wallet.is_zero()).then_some(Wallet(of.wallet)),
            kind: KindWord(of.kind),
            records: of.records,
            count: of.count,
            octets: of.octets,
            first_at: of.first_at,
            last_at: of.last_at,
        }
    }
}
