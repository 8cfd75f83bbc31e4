//! The state as it is with hidden names that were told.

use std::collections::BTreeMap;
use std::sync::Arc;

use alloy_primitives::B256;

use super::facts::{Hidden, Place, Topic};
use super::{Prefixes, Registry};
use crate::Names;

impl Registry {
    /// The same state, in which the hidden topics that `names` tells of stand at their names and govern there like all others. What
    /// the chain does not tell is in the places only, so this state has the same digest, and finds topics by their ids as before.
    ///
    /// A name that is registered on chain as well is governed by that topic. Where some hidden topic below a hidden one is not told
    /// of, it may lie below any of those that are: below their own names nothing is judged then.
    #[must_use]
    pub(crate) fn with_names(&self, names: &Names) -> Self {
        let mut known = self.clone();
        let mut told = BTreeMap::new();
        for (id, epoch, name) in names.told() {
            let Some(topic) = self.topic_by_id(id).filter(|topic| topic.epoch == epoch) else {
                continue;
            };
            let Some(hidden) = &topic.hidden else { continue };
            known.uncount(hidden);
            let there = told.entry(name).or_insert(topic);
            // Two that claim one name: the same of them everywhere.
            if topic.id < there.id {
                *there = topic;
            }
        }
        let places: Vec<_> =
            told.into_iter().filter_map(|(name, topic)| known.place_of(name, topic)).collect();
        for place in places {
            known.put_place(place);
        }
        known
    }

    fn place_of(&self, name: &str, topic: &Topic) -> Option<Place> {
        let there = self.in_order.get(name);
        if there.is_some_and(|place| place.is_registered) {
            return None;
        }
        let nested = |hidden: &Hidden| self.in_order.get(&hidden.below).map(|at| at.nested_below);
        let astray = topic.hidden.as_ref().and_then(nested).unwrap_or(0);
        let (hidden_below, nested_below) =
            there.map_or((0, 0), |place| (place.hidden_below, place.nested_below));
        let topic = Arc::new(Topic { name: Arc::from(name), ..topic.clone() });
        let hidden_below = hidden_below.saturating_add(astray);
        Some(Place { topic, is_registered: true, hidden_below, nested_below })
    }

    /// Whether another topic that is known stands at the name, or between `above` and it.
    pub(crate) fn is_taken_below(&self, above: &str, name: &str, topic_id: B256) -> bool {
        let mut lower =
            Prefixes::of(name, &self.depths).filter(|(prefix, _)| prefix.len() > above.len());
        lower.any(|(prefix, hash)| {
            self.named(prefix, hash).is_some_and(|topic| topic.id != topic_id)
        })
    }
}
