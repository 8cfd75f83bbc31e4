//! The broker's whole history, to look up what a record stood on.

use std::collections::HashMap;

use alloy::primitives::{Address, B256, U256};
use eyre::Result;
use flytrap_chain::history::{self, Entry, Query};
use flytrap_chain::wallet::Contracts;
use flytrap_policy::{Event, OfferMode, Right};
use flytrap_record::{Direction, Kind, Record};

use super::words::Names;

/// Every event of the broker, oldest first, and where to find those about one topic and wallet.
#[derive(Debug)]
pub(super) struct Past {
    pub(super) entries: Vec<Entry>,
    /// By topic and wallet; zero for what is about the topic whoever acts, or about the wallet wherever.
    about: HashMap<(B256, Address), Vec<usize>>,
}

impl Past {
    /// Reads it, and learns the topics' names from it.
    pub(super) async fn read(
        contracts: &Contracts,
        broker_id: U256,
        names: &mut Names,
    ) -> Result<Self> {
        let query = Query { broker_id, ..Query::default() };
        let past =
            Self::of(history::history(contracts.rpc(), contracts.deployment(), &query).await?);
        for entry in &past.entries {
            if let Event::TopicRegistered { topic_id, name, .. } = &entry.event {
                names.topics.insert(*topic_id, name.clone());
            }
        }
        Ok(past)
    }

    pub(super) fn of(entries: Vec<Entry>) -> Self {
        let mut about: HashMap<(B256, Address), Vec<usize>> = HashMap::new();
        for (place, entry) in entries.iter().enumerate() {
            let key = match &entry.event {
                Event::AccessGranted { topic_id, wallet, .. }
                | Event::AccessBought { topic_id, wallet, .. }
                | Event::AccessRevoked { topic_id, wallet, .. }
                | Event::WalletBlocked { topic_id, wallet, .. } => (*topic_id, *wallet),
                Event::TopicRegistered { topic_id, .. }
                | Event::HiddenTopicRegistered { topic_id, .. }
                | Event::TopicOwnershipTransferred { topic_id, .. }
                | Event::OfferSet { topic_id, .. }
                | Event::CountriesSet { topic_id, .. } => (*topic_id, Address::ZERO),
                Event::WalletBanned { wallet, .. } => (B256::ZERO, *wallet),
                _ => continue,
            };
            about.entry(key).or_default().push(place);
        }
        Self { entries, about }
    }

    /// The event that a record's access stood on, or that took it away: the last before the decision that fits the record's rule.
    pub(super) fn ground(&self, record: &Record) -> Option<&Entry> {
        let of_topic = (record.topic_id, Address::ZERO);
        let key = match record.rule.as_str() {
            "grant" | "grant-ended" | "blocked" => (record.topic_id, record.wallet),
            "owner" | "public" | "country" => of_topic,
            "banned" => (B256::ZERO, record.wallet),
            _ => return None,
        };
        let happened = self.about.get(&key)?.iter().rev().map(|place| &self.entries[*place]);
        // A decision that was read at no block is placed by its time.
        let was_before = |entry: &&Entry| match record.height {
            0 => entry.time <= record.last_at,
            height => entry.height <= height,
        };
        happened.filter(was_before).find(|entry| is_ground(&entry.event, record))
    }
}

fn is_ground(event: &Event, record: &Record) -> bool {
    let rule = record.rule.as_str();
    let fits = |of: Right| right(record.kind).is_none_or(|right| right == of);
    match event {
        Event::AccessGranted { right, epoch, .. } | Event::AccessBought { right, epoch, .. } => {
            matches!(rule, "grant" | "grant-ended") && fits(*right) && *epoch == record.epoch
        }
        Event::AccessRevoked { right, .. } => rule == "grant-ended" && fits(*right),
        Event::WalletBlocked { .. } => rule == "blocked",
        Event::WalletBanned { .. } => rule == "banned",
        Event::CountriesSet { .. } => rule == "country",
        Event::OfferSet { right, offer, .. } => {
            rule == "public" && fits(*right) && offer.mode == OfferMode::Public
        }
        Event::TopicRegistered { owner, publish_offer, subscribe_offer, .. }
        | Event::HiddenTopicRegistered { owner, publish_offer, subscribe_offer, .. } => {
            match rule {
                "owner" => *owner == record.wallet,
                "public" => match right(record.kind) {
                    Some(Right::Publish) => publish_offer.mode == OfferMode::Public,
                    _ => subscribe_offer.mode == OfferMode::Public,
                },
                _ => false,
            }
        }
        Event::TopicOwnershipTransferred { new_owner, .. } => {
            rule == "owner" && *new_owner == record.wallet
        }
        _ => false,
    }
}

/// The right that a happening was about; either for the end of a session.
pub(super) fn right(kind: Kind) -> Option<Right> {
    kind.direction().map(|direction| match direction {
        Direction::ToBroker => Right::Publish,
        Direction::ToClient => Right::Subscribe,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::rows::tests::record;

    const READER: Address = Address::with_last_byte(3);

    fn entry(height: u64, event: Event) -> Entry {
        Entry {
            height,
            time: height * 10,
            block: B256::ZERO,
            tx: B256::with_last_byte(u8::try_from(height).expect("low")),
            log_index: 0,
            contract: Address::ZERO,
            event,
        }
    }

    fn granted(right: Right, epoch: u64) -> Event {
        Event::AccessGranted {
            broker_id: U256::ONE,
            topic_id: B256::repeat_byte(5),
            wallet: READER,
            right,
            epoch,
            until: 9_999,
            by: Address::ZERO,
            fee_wei: U256::ZERO,
            purpose: B256::ZERO,
            note: String::new(),
        }
    }

    #[test]
    fn an_access_stands_on_the_last_grant_before_it_of_its_right_and_epoch() {
        let revoked = Event::AccessRevoked {
            broker_id: U256::ONE,
            topic_id: B256::repeat_byte(5),
            wallet: READER,
            right: Right::Subscribe,
            epoch: 1,
            was: 9_999,
            refund_wei: U256::ZERO,
            by: Address::ZERO,
            purpose: B256::ZERO,
            note: String::new(),
        };
        let past = Past::of(vec![
            entry(1, granted(Right::Subscribe, 1)),
            entry(2, granted(Right::Publish, 1)),
            entry(3, granted(Right::Subscribe, 1)),
            entry(4, revoked),
            entry(5, granted(Right::Subscribe, 2)),
        ]);
        let ground = |kind, rule: &str, height| {
            let record =
                Record { kind, rule: rule.to_owned(), height, wallet: READER, ..record(1) };
            past.ground(&record).map(|entry| entry.height)
        };
        assert_eq!(ground(Kind::Delivered, "grant", 2), Some(1));
        assert_eq!(ground(Kind::Delivered, "grant", 9), Some(3), "epoch 2 is another topic");
        assert_eq!(ground(Kind::Published, "grant", 9), Some(2));
        assert_eq!(ground(Kind::Published, "grant", 1), None, "it came later");
        assert_eq!(ground(Kind::DeliveryWithheld, "grant-ended", 9), Some(4));
        assert_eq!(ground(Kind::Delivered, "owner", 9), None);
    }
}
