//! What the chain tells at this moment, as the mirror has it: topics, grants, offers, bans; and anchors, which the index keeps.

use std::sync::Arc;

use alloy_primitives::{Address, B256};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use flytrap_policy::{OfferMode, Registry, Right, Topic, View};
use serde::Deserialize;
use utoipa::IntoParams;

use super::answer::{self, Page, Shown, UP_TO_BLOCK};
use super::asked::{self, Asked, Cursor, Form, Wallet};
use super::problem::{Problem, Problems};
use super::records::NothingAsked;
use super::shapes::{AnchorItem, BanItem, GrantItem, OfferItem, TopicItem};
use super::{Served, Until};

/// Entries between two looks at the clock.
const LOOK_EVERY: usize = 1_024;

/// The next rows of a list in the order of their keys: those of `all` after `after`, at most `rows`, and the key behind which there are more. Holds
/// no more than a page, however long the list is. `None` stands for what is not wanted, so that a long way to little can be cut short as well.
fn next_rows<K: Ord + Copy, T>(
    all: impl Iterator<Item = Option<(K, T)>>,
    after: Option<K>,
    rows: usize,
    until: &Until,
) -> Result<(Vec<T>, Option<K>), Problem> {
    let mut kept = std::collections::BTreeMap::new();
    for (n, entry) in all.enumerate() {
        if n % LOOK_EVERY == 0 {
            until.check()?;
        }
        let Some((key, row)) = entry else { continue };
        if after.is_some_and(|after| key <= after) {
            continue;
        }
        let is_behind =
            kept.len() > rows && kept.last_key_value().is_some_and(|(last, _)| key > *last);
        if is_behind {
            continue;
        }
        kept.insert(key, row);
        if kept.len() > rows + 1 {
            kept.pop_last();
        }
    }
    let has_more = kept.len() > rows;
    if has_more {
        kept.pop_last();
    }
    let last = kept.last_key_value().map(|(key, _)| *key).filter(|_| has_more);
    Ok((kept.into_values().collect(), last))
}

/// A page of what a list of the mirror holds.
async fn listed<K, T, Q>(
    served: &Arc<Served>,
    asked: &Asked<Q>,
    limit: Option<u64>,
    cursor: Option<&Cursor<K>>,
    question: impl std::fmt::Debug + Send + 'static,
    all: impl FnOnce(&View, u64, &Until, Option<K>, usize) -> Result<(Vec<T>, Option<K>), Problem>
    + Send
    + 'static,
) -> Result<Response, Problem>
where
    K: serde::Serialize + serde::de::DeserializeOwned + Send + 'static,
    T: Shown + Send + 'static,
{
    let rows = served.rows(limit)?;
    let after = cursor.map(|cursor| cursor.last(&question)).transpose()?;
    let view = served.view()?;
    let page = served.work(move |served, until| {
        let (items, last) = all(&view, served.mirror.now(), until, after, rows)?;
        let next = last.map(|last| Cursor::behind(&last, &question));
        Ok(Page { items, next, as_of: None, block: Some(view.height) })
    });
    page.await?.written(served, asked)
}

fn every(registry: &Registry) -> impl Iterator<Item = &Topic> {
    registry.topics().chain(registry.hidden_topics())
}

/// Which topics.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicsAsked {
    /// Only those of this wallet.
    #[param(value_type = Option<String>, pattern = "^(0[xX])?[0-9a-fA-F]{40}$")]
    owner: Option<Wallet>,
    /// Rows of a page; the operator may allow fewer.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u64>,
    /// `next` of the page before, with everything else as it was.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})+$", max_length = 512)]
    cursor: Option<Cursor<B256>>,
    /// Instead of the header Accept.
    #[param(inline)]
    #[allow(dead_code, reason = "read with the form of the answer")]
    format: Option<Form>,
}

/// The topics that are registered now, in the order of their ids.
#[utoipa::path(get, path = "/v1/topics", tag = "chain", params(TopicsAsked), responses(
    (status = 200, description = "A page of topics.", content((Page<TopicItem> = "application/json"), (String = "text/csv"))), Problems
))]
pub(super) async fn topics(
    State(served): State<Arc<Served>>,
    asked: Asked<TopicsAsked>,
) -> Result<Response, Problem> {
    let owner = asked.of.owner.map(|owner| owner.0);
    let (limit, cursor) = (asked.of.limit, asked.of.cursor.as_ref());
    listed(&served, &asked, limit, cursor, ("topics", owner), move |view, _, until, after, rows| {
        let is_chosen = |topic: &Topic| owner.is_none_or(|owner| topic.owner == owner);
        let chosen = every(&view.head).map(|topic| is_chosen(topic).then_some((topic.id, topic)));
        let (topics, last) = next_rows(chosen, after, rows, until)?;
        Ok((topics.into_iter().map(TopicItem::new).collect(), last))
    })
    .await
}

/// The topic that a path names.
pub(super) fn named(
    served: &Served,
    given: Result<Path<String>, PathRejection>,
) -> Result<B256, Problem> {
    let Path(given) = given.map_err(|_| Problem::parameter("the path cannot be read"))?;
    asked::topic(&given, served.facts.broker_id)
}

fn not_registered() -> Problem {
    Problem::nothing("no topic is registered under this id or exactly this name")
}

/// One topic.
#[utoipa::path(get, path = "/v1/topics/{topic}", tag = "chain", params(
    ("topic" = String, Path, description = "Its id, or its name with `/` written as `%2F`.", min_length = 1, max_length = 512),
), responses(
    (status = 200, description = "The topic.", body = TopicItem, content_type = "application/json"), Problems
))]
pub(super) async fn topic(
    State(served): State<Arc<Served>>,
    given: Result<Path<String>, PathRejection>,
    _: Asked<NothingAsked>,
) -> Result<Response, Problem> {
    let (id, view) = (named(&served, given)?, served.view()?);
    let item = view.head.topic_by_id(id).map(TopicItem::new).ok_or_else(not_registered)?;
    let mut response = answer::json(&served, &item)?;
    response.headers_mut().insert(UP_TO_BLOCK, view.height.into());
    Ok(response)
}

/// How much of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantsAsked {
    /// Rows of a page; the operator may allow fewer.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u64>,
    /// `next` of the page before, with everything else as it was.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})+$", max_length = 512)]
    cursor: Option<Cursor<(Address, Right)>>,
    /// Instead of the header Accept.
    #[param(inline)]
    #[allow(dead_code, reason = "read with the form of the answer")]
    format: Option<Form>,
}

/// Every grant there ever was in the topic's present epoch, ended or not, in the order of wallets.
#[utoipa::path(get, path = "/v1/topics/{topic}/grants", tag = "chain", params(
    ("topic" = String, Path, description = "Its id, or its name with `/` written as `%2F`.", min_length = 1, max_length = 512), GrantsAsked
), responses(
    (status = 200, description = "A page of grants.", content((Page<GrantItem> = "application/json"), (String = "text/csv"))), Problems
))]
pub(super) async fn grants(
    State(served): State<Arc<Served>>,
    given: Result<Path<String>, PathRejection>,
    asked: Asked<GrantsAsked>,
) -> Result<Response, Problem> {
    let id = named(&served, given)?;
    let (limit, cursor) = (asked.of.limit, asked.of.cursor.as_ref());
    listed(&served, &asked, limit, cursor, ("grants", id), move |view, now, until, after, rows| {
        let registry = &view.settled;
        if view.head.topic_by_id(id).is_none() {
            return Err(not_registered());
        }
        let of_topic = registry.grants().map(|(topic, wallet, right, end)| {
            (topic.id == id).then_some(((wallet, right), (wallet, right, end)))
        });
        let (found, last) = next_rows(of_topic, after, rows, until)?;
        let item = |(wallet, right, granted): (Address, Right, u64)| {
            // A restriction counts at first sight.
            let until = view.head.grant(id, wallet, right).map_or(0, |head| head.min(granted));
            let blocked = view.head.is_blocked(id, wallet);
            let banned = view.head.wallet_banned_until(wallet, now).is_some();
            let holds = now < until && !blocked && !banned;
            GrantItem { wallet: Wallet(wallet), right, until, holds, blocked }
        };
        Ok((found.into_iter().map(item).collect(), last))
    })
    .await
}

/// How much of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct OffersAsked {
    /// Rows of a page; the operator may allow fewer.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u64>,
    /// `next` of the page before, with everything else as it was.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})+$", max_length = 512)]
    cursor: Option<Cursor<(B256, Right)>>,
    /// Instead of the header Accept.
    #[param(inline)]
    #[allow(dead_code, reason = "read with the form of the answer")]
    format: Option<Form>,
}

/// Every right that can be bought, claimed or used without asking the topic's owner, in the order of topics' ids.
#[utoipa::path(get, path = "/v1/offers", tag = "chain", params(OffersAsked), responses(
    (status = 200, description = "A page of offers.", content((Page<OfferItem> = "application/json"), (String = "text/csv"))), Problems
))]
pub(super) async fn offers(
    State(served): State<Arc<Served>>,
    asked: Asked<OffersAsked>,
) -> Result<Response, Problem> {
    let (limit, cursor) = (asked.of.limit, asked.of.cursor.as_ref());
    listed(&served, &asked, limit, cursor, "offers", move |view, _, until, after, rows| {
        let both = |topic| {
            [Right::Publish, Right::Subscribe].map(|right| ((topic_id(topic), right), topic))
        };
        let all = every(&view.settled).flat_map(both);
        let keyed = all.map(|(key, topic)| {
            let is_open = topic.offer(key.1).mode != OfferMode::Closed;
            is_open.then_some((key, (topic, key.1)))
        });
        let (found, last) = next_rows(keyed, after, rows, until)?;
        let item =
            |(topic, right): (&Topic, Right)| OfferItem::new(topic, right, topic.offer(right));
        Ok((found.into_iter().map(item).collect(), last))
    })
    .await
}

const fn topic_id(topic: &Topic) -> B256 {
    topic.id
}

/// How much of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct BansAsked {
    /// Rows of a page; the operator may allow fewer.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u64>,
    /// `next` of the page before, with everything else as it was.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})+$", max_length = 512)]
    cursor: Option<Cursor<Address>>,
    /// Instead of the header Accept.
    #[param(inline)]
    #[allow(dead_code, reason = "read with the form of the answer")]
    format: Option<Form>,
}

/// Wallets and device keys that are banned at the broker on chain now. Origins are not told, not even by their pseudonyms.
#[utoipa::path(get, path = "/v1/bans", tag = "chain", params(BansAsked), responses(
    (status = 200, description = "A page of bans.", content((Page<BanItem> = "application/json"), (String = "text/csv"))), Problems
))]
pub(super) async fn bans(
    State(served): State<Arc<Served>>,
    asked: Asked<BansAsked>,
) -> Result<Response, Problem> {
    let (limit, cursor) = (asked.of.limit, asked.of.cursor.as_ref());
    listed(&served, &asked, limit, cursor, "bans", move |view, now, until, after, rows| {
        let bans = view.head.wallet_bans(now).into_iter();
        let item = |(wallet, end)| (wallet, BanItem { wallet: Wallet(wallet), until: end });
        next_rows(bans.map(item).map(Some), after, rows, until)
    })
    .await
}

/// Which anchors.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AnchorsAsked {
    /// Only those of this gateway.
    #[param(value_type = Option<String>, pattern = "^(0[xX])?[0-9a-fA-F]{40}$")]
    gateway: Option<Wallet>,
    /// Rows of a page; the operator may allow fewer.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u64>,
    /// `next` of the page before, with everything else as it was.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})+$", max_length = 512)]
    cursor: Option<Cursor<(Address, u64)>>,
    /// Instead of the header Accept.
    #[param(inline)]
    #[allow(dead_code, reason = "read with the form of the answer")]
    format: Option<Form>,
}

/// Anchors of the broker's gateways that are settled on chain, in the order of gateways and their numbers.
#[utoipa::path(get, path = "/v1/anchors", tag = "chain", params(AnchorsAsked), responses(
    (status = 200, description = "A page of anchors.", content((Page<AnchorItem> = "application/json"), (String = "text/csv"))), Problems
))]
pub(super) async fn anchors(
    State(served): State<Arc<Served>>,
    asked: Asked<AnchorsAsked>,
) -> Result<Response, Problem> {
    let gateway = asked.of.gateway.map(|gateway| gateway.0);
    let rows = served.rows(asked.of.limit)?;
    let question = ("anchors", gateway);
    let after = asked.of.cursor.as_ref().map(|cursor| cursor.last(&question)).transpose()?;
    let page = served.search(move |_, search| {
        let block = search.anchors_to()?;
        let mut found = search.anchors(gateway, after, rows.saturating_add(1))?;
        let has_more = found.len() > rows;
        found.truncate(rows);
        let last =
            found.last().filter(|_| has_more).map(|anchor| (anchor.gateway, anchor.sequence));
        let next = last.map(|last| Cursor::behind(&last, &question));
        let items = found.into_iter().map(AnchorItem::from).collect();
        Ok(Page { items, next, as_of: None, block: Some(block) })
    });
    page.await?.written(&served, &asked)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use super::*;

    fn until(patience: Duration) -> Until {
        Until { is_over: Arc::new(AtomicBool::new(false)), deadline: Instant::now() + patience }
    }

    #[test]
    fn pages_of_any_size_add_up_to_the_whole_list_in_order() {
        let all: Vec<u32> = (0..100).map(|n| (n * 37) % 101).collect();
        let mut sorted = all.clone();
        sorted.sort_unstable();
        for rows in [1, 2, 7, 99, 100, 101] {
            let (mut seen, mut after) = (Vec::new(), None);
            loop {
                let keyed = all.iter().flat_map(|n| [None, Some((*n, *n))]);
                let page = next_rows(keyed, after, rows, &until(Duration::from_secs(60)));
                let (found, last) = page.expect("in time");
                assert!(found.len() <= rows);
                seen.extend(found);
                match last {
                    Some(last) => after = Some(last),
                    None => break,
                }
            }
            assert_eq!(seen, sorted, "by {rows}");
        }
    }

    #[test]
    fn a_question_whose_time_is_over_has_no_answer() {
        let all = (0..10).map(|n| Some((n, n)));
        assert!(next_rows(all, None, 5, &until(Duration::ZERO)).is_err());
        // Also on a long way to nothing.
        let none = (0..10_000_000).map(|_| None::<(u32, u32)>);
        assert!(next_rows(none, None, 5, &until(Duration::from_millis(1))).is_err());
    }
}
