//! Who could use a topic at one second, and who did: the chain's past beside the record.

use std::sync::Arc;

use alloy_primitives::{Address, B256};
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use flytrap_chain::entitled::{self as rights, But, Entitled};
use flytrap_chain::history::Entry;
use flytrap_policy::Right;
use flytrap_record::{Decision, Kind};
use serde::Deserialize;
use utoipa::IntoParams;

use super::Served;
use super::answer::{self, UP_TO_BLOCK};
use super::asked::{Asked, Moment, Wallet, Word};
use super::chain::named;
use super::guard::Sight;
use super::index::{Search, Use};
use super::past::Known;
use super::problem::{Problem, Problems};
use super::shapes::{EntitledAnswer, EntitledItem, HolderItem, UseItem, name_of};

/// Wallets that an answer tells of at most.
const MOST: usize = 10_000;
/// Longest time around the second, in seconds.
const LONGEST: u64 = 7 * 86_400;
/// A second so long ago is settled on every chain, and no node is asked about it.
const RECENT: u64 = 86_400;

/// Which second.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct EntitledAsked {
    /// The second: of Unix, or in RFC 3339 with its zone.
    #[param(inline)]
    at: Option<Moment>,
    /// Instead of `at`: the second of this block.
    block: Option<u64>,
    /// Accesses count that were so many seconds before or after.
    #[param(maximum = 604_800)]
    within: Option<u64>,
}

/// Who was entitled at a second or block, who did use the topic then, who tried and was refused, and who could and never did.
///
/// The first comes from the settled chain alone, the rest from this gateway's record.
#[utoipa::path(get, path = "/v1/topics/{topic}/entitled", tag = "record", params(
    ("topic" = String, Path, description = "Its id, or its name with `/` written as `%2F`.", min_length = 1, max_length = 512), EntitledAsked
), responses(
    (status = 200, description = "Who could, and who did.", body = EntitledAnswer, content_type = "application/json"), Problems
))]
pub(super) async fn entitled(
    State(served): State<Arc<Served>>,
    Extension(sight): Extension<Sight>,
    given: Result<Path<String>, PathRejection>,
    asked: Asked<EntitledAsked>,
) -> Result<Response, Problem> {
    let id = named(&served, given)?;
    let EntitledAsked { at, block, within } = asked.of;
    let within = within.unwrap_or(0);
    if within > LONGEST {
        return Err(Problem::parameter(format!("within: wanted at most {LONGEST} seconds")));
    }
    let past = served.past.now().await?;
    let (at, count) = match (at, block) {
        (Some(Moment(at)), None) => {
            // What is not settled can still become otherwise, and what is to come nobody knows.
            if at.saturating_add(RECENT) > served.mirror.now() {
                let settled = served.past.time_of(past.to).await?;
                if at > settled {
                    let told = format!("at: {settled} is the last second that is settled");
                    return Err(Problem::parameter(told));
                }
            }
            (at, past.entries.partition_point(|entry| entry.time <= at))
        }
        (None, Some(block)) if block <= past.to => {
            let count = past.entries.partition_point(|entry| entry.height <= block);
            (served.past.time_of(block).await?, count)
        }
        (None, Some(_)) => {
            let newest = past.to;
            return Err(Problem::parameter(format!(
                "block: block {newest} is the last that is settled"
            )));
        }
        _ => return Err(Problem::parameter("wanted `at` or `block`, and not both")),
    };
    let settled = past.to;
    let question = Question { id, at, within, count, past };
    let answer = match sight.records {
        true => served.search(move |served, search| told(served, Some(search), &question)).await?,
        false => served.work(move |served, _| told(served, None, &question)).await?,
    };
    let mut response = answer::json(&served, &answer)?;
    response.headers_mut().insert(UP_TO_BLOCK, settled.into());
    Ok(response)
}

struct Question {
    id: B256,
    at: u64,
    within: u64,
    /// So many events were before.
    count: usize,
    past: Known,
}

fn told(
    served: &Served,
    search: Option<&mut Search>,
    question: &Question,
) -> Result<EntitledAnswer, Problem> {
    let Question { id, at, within, count, past } = question;
    let entries = past.entries.get(..*count).unwrap_or_default();
    let registry = rights::replay(served.facts.broker_id, entries).map_err(|(entry, why)| {
        tracing::warn!(%why, tx = %entry.tx, "the past that the node tells contradicts itself");
        Problem::later("the node tells a past that contradicts itself")
    })?;
    let topic = registry.topic_by_id(*id).ok_or_else(|| {
        Problem::nothing("no topic was registered then under this id or exactly this name")
    })?;
    let all = rights::entitled(&registry, entries, topic, *at);
    let items = |still: bool| -> Vec<EntitledItem> {
        all.iter().filter(|of| of.but.is_none() == still).map(item).collect()
    };
    few(all.len())?;
    let mut answer = EntitledAnswer {
        topic_id: Word(*id),
        topic: name_of(topic),
        epoch: topic.epoch,
        at: *at,
        block: entries.last().map_or(0, |entry| entry.height),
        sensitive: topic.traits.sensitive,
        public: rights::public(topic),
        entitled: items(true),
        was_entitled: items(false),
        used: None,
        refused: None,
        never_used: None,
        as_of: None,
    };
    let Some(search) = search else { return Ok(answer) };
    answer.as_of = Some(served.as_of(search)?);
    let (from, to) = (at.saturating_sub(*within), at.saturating_add(*within));
    let uses = search.uses(*id, from, to, MOST + 1)?;
    few(uses.len())?;
    let of = |wanted: Decision| -> Vec<UseItem> {
        let fits = |of: &&Use| of.kind.decision() == Some(wanted);
        uses.iter().filter(fits).map(UseItem::from).collect()
    };
    (answer.used, answer.refused) = (Some(of(Decision::Allowed)), Some(of(Decision::Refused)));
    // Of other topics messages were counted, and not recorded for anybody.
    if topic.traits.sensitive {
        answer.never_used = Some(never(search, *id, &all)?);
    }
    Ok(answer)
}

fn never(search: &Search, id: B256, all: &[Entitled<'_>]) -> Result<Vec<HolderItem>, Problem> {
    let holders: Vec<(Address, Right)> = rights::idle(all, |_, _| false).collect();
    let mut never = Vec::new();
    for (wallet, right) in holders {
        let kind = match right {
            Right::Publish => Kind::Published,
            Right::Subscribe => Kind::Delivered,
        };
        if !search.has_done(id, wallet, kind)? {
            never.push(HolderItem { wallet: Wallet(wallet), right });
        }
    }
    Ok(never)
}

fn few(count: usize) -> Result<(), Problem> {
    if count > MOST {
        return Err(Problem::large(format!(
            "it would tell of more than {MOST} wallets: use `flytrap audit at`"
        )));
    }
    Ok(())
}

fn item(of: &Entitled<'_>) -> EntitledItem {
    let since: Option<&Entry> = of.since;
    EntitledItem {
        wallet: Wallet(of.wallet),
        ground: of.ground.word(),
        right: of.right,
        until: of.until,
        but: of.but.map(But::word),
        transaction: since.map(|entry| Word(entry.tx)),
        block: since.map(|entry| entry.height),
        time: since.map(|entry| entry.time),
    }
}
