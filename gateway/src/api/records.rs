//! What was done: records, each with its proof, and sums.

use std::sync::Arc;

use alloy_primitives::hex;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::response::Response;
use flytrap_record::export::Line;
use flytrap_record::{Decision, leaf, text};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::answer::{self, Page};
use super::asked::{self, Asked, Cursor, Form, KindWord, Moment, Wallet, Word};
use super::guard::Sight;
use super::index::{Batch, Search, Wanted};
use super::problem::{Problem, Problems};
use super::shapes::{
    AnchorState, DecisionWord, Interval, ProvedRecord, RecordItem, StateWord, SumItem,
};
use super::{Served, may_see_records, name_of};

/// The fewest wallets that a sum stands for where no record is shown.
const FEWEST: u64 = 5;
const DAY: u64 = 86_400;

/// In which order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Order {
    /// Newest first.
    #[default]
    Newest,
    /// Oldest first.
    Oldest,
}

/// Which records.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordsAsked {
    /// On this topic, by its name or its id.
    #[param(max_length = 512)]
    topic: Option<String>,
    /// Of this wallet, in any spelling that is valid.
    #[param(value_type = Option<String>, pattern = "^(0[xX])?[0-9a-fA-F]{40}$")]
    wallet: Option<Wallet>,
    /// By this key: a wallet itself, or one of its devices.
    #[param(value_type = Option<String>, pattern = "^(0[xX])?[0-9a-fA-F]{40}$")]
    device: Option<Wallet>,
    /// Only what was allowed, or refused.
    #[param(value_type = Option<DecisionWord>, inline)]
    decision: Option<Decision>,
    /// Only this kind.
    #[param(value_type = Option<String>, pattern = "^(published|delivered|publish-refused|subscribe-refused|delivery-withheld|will-refused|session-ended|proof-failed|started|stopped|erased|banned|ban-lifted|rules-changed|name-disclosed|name-erased)$")]
    kind: Option<KindWord>,
    /// From this country (ISO 3166-1 alpha-2).
    #[param(pattern = "^[A-Z]{2}$")]
    country: Option<String>,
    /// From this second on: of Unix, or in RFC 3339 with its zone; a record counts if any of it was then.
    #[param(inline)]
    from: Option<Moment>,
    /// Up to this second.
    #[param(inline)]
    to: Option<Moment>,
    /// Newest or oldest first.
    #[param(inline)]
    order: Option<Order>,
    /// Rows of a page; the operator may allow fewer.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u64>,
    /// `next` of the page before, with everything else as it was.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})+$", max_length = 512)]
    cursor: Option<Cursor<u64>>,
    /// Instead of the header Accept.
    #[param(inline)]
    #[allow(dead_code, reason = "read with the form of the answer")]
    format: Option<Form>,
}

/// Who accessed what, when, on what ground, from where; and who tried and was refused.
#[utoipa::path(get, path = "/v1/records", tag = "record", params(RecordsAsked), responses(
    (status = 200, description = "A page of records.", content((Page<RecordItem> = "application/json"), (String = "text/csv"))), Problems
))]
pub(super) async fn records(
    State(served): State<Arc<Served>>,
    Extension(sight): Extension<Sight>,
    asked: Asked<RecordsAsked>,
) -> Result<Response, Problem> {
    may_see_records(sight)?;
    let of = &asked.of;
    if let Some(country) = &of.country
        && !matches!(country.as_bytes(), [b'A'..=b'Z', b'A'..=b'Z'])
    {
        return Err(Problem::parameter(format!(
            "country: `{country}` is none, wanted such as `DE`"
        )));
    }
    let wanted = Wanted {
        topic: of
            .topic
            .as_ref()
            .map(|topic| asked::topic(topic, served.facts.broker_id))
            .transpose()?,
        wallet: of.wallet.map(|wallet| wallet.0),
        device: of.device.map(|device| device.0),
        kind: of.kind.map(|kind| kind.0),
        decision: of.decision,
        country: of.country.clone(),
        from: of.from.map(|moment| moment.0),
        to: of.to.map(|moment| moment.0),
        newest_first: of.order.unwrap_or_default() == Order::Newest,
    };
    if let (Some(kind), Some(decision)) = (wanted.kind, wanted.decision)
        && kind.decision() != Some(decision)
    {
        return Err(Problem::parameter("kind and decision: no record is of both"));
    }
    let rows = served.rows(of.limit)?;
    let after = of.cursor.as_ref().map(|cursor| cursor.last(&wanted)).transpose()?;
    let page =
        served.search(move |served, search| page(served, search, &wanted, after, rows)).await?;
    page.written(&served, &asked)
}

fn page(
    served: &Served,
    search: &mut Search,
    wanted: &Wanted,
    after: Option<u64>,
    rows: usize,
) -> Result<Page<RecordItem>, Problem> {
    // Said of what was there before the question, so that no answer claims more than it looked at.
    let as_of = served.as_of(search)?;
    let mut found = search.numbers(wanted, after, rows.saturating_add(1))?;
    let has_more = found.len() > rows;
    found.truncate(rows);
    let last = found.last().map(|(index, _)| *index);
    let next = last.filter(|_| has_more).map(|last| Cursor::<u64>::behind(&last, wanted));
    let view = served.mirror.current();
    let mut items = Vec::with_capacity(found.len());
    for (index, sequence) in found {
        // Of one that retention has just emptied nothing is known any more.
        if let Some(Line::Record(line)) = search.record(index)? {
            let topic = name_of(&view, line.record.topic_id);
            items.push(RecordItem::new(Wallet(served.facts.gateway), sequence, line.record, topic));
        }
    }
    Ok(Page { items, next, as_of: Some(as_of), block: None })
}

/// Nothing beside.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct NothingAsked {}

/// One record with all that proves it against the chain.
#[utoipa::path(get, path = "/v1/records/{gateway}/{number}", tag = "record", params(
    ("gateway" = String, Path, description = "Who wrote it.", pattern = "^(0[xX])?[0-9a-fA-F]{40}$"),
    ("number" = u64, Path, description = "Its number.", minimum = 1),
), responses(
    (status = 200, description = "The record and its proof.", body = ProvedRecord, content_type = "application/json"), Problems
))]
pub(super) async fn record(
    State(served): State<Arc<Served>>,
    Extension(sight): Extension<Sight>,
    place: Result<Path<(String, String)>, PathRejection>,
    _: Asked<NothingAsked>,
) -> Result<Response, Problem> {
    may_see_records(sight)?;
    let Path((gateway, number)) =
        place.map_err(|_| Problem::parameter("the path cannot be read"))?;
    let gateway = text::wallet(&gateway).map_err(|error| Problem::parameter(error.to_string()))?;
    let is_number = !number.is_empty() && number.bytes().all(|octet| octet.is_ascii_digit());
    let number = number.parse::<u64>().ok().filter(|number| is_number && *number > 0);
    let number = number.ok_or_else(|| Problem::parameter("number: wanted 1 or more"))?;
    if gateway != served.facts.gateway {
        return Err(Problem::nothing(format!(
            "the records of gateway {:#x} are here; ask the other gateway",
            served.facts.gateway
        )));
    }
    let proved = served.search(move |served, search| proved(served, search, number)).await?;
    answer::json(&served, &proved)
}

fn proved(served: &Served, search: &mut Search, number: u64) -> Result<ProvedRecord, Problem> {
    let nothing = || Problem::nothing("no closed interval that is kept here has this record");
    let batch = search.batch_of(number)?.ok_or_else(nothing)?;
    let gateway = Wallet(served.facts.gateway);
    let (leaf, shown) = match search.record(number)?.ok_or_else(nothing)? {
        Line::Record(line) => {
            let encoding = line.record.encode();
            let topic = name_of(&served.mirror.current(), line.record.topic_id);
            let item = RecordItem::new(gateway, batch.sequence, line.record, topic);
            (leaf(&encoding), Some((item, hex::encode_prefixed(encoding))))
        }
        Line::Removed(line) => (line.leaf, None),
        Line::Head(_) | Line::Batch(_) | Line::End(_) => return Err(nothing()),
    };
    let path = search.path(&batch, number, leaf)?;
    let anchor = anchored(served, search, &batch)?;
    let Batch { sequence, first, count, before, root } = batch;
    let (record, encoding) = shown.unzip();
    Ok(ProvedRecord {
        record,
        encoding,
        leaf: Word(leaf),
        path: path.into(),
        interval: Interval { sequence, first, count, before: Word(before), root: Word(root) },
        anchor,
    })
}

/// What the chain has of an interval.
fn anchored(served: &Served, search: &Search, batch: &Batch) -> Result<AnchorState, Problem> {
    let facts = &served.facts;
    let on_chain = match facts.anchors {
        true => search.anchor(facts.gateway, batch.sequence)?,
        false => None,
    };
    let state = match &on_chain {
        _ if !facts.anchors => StateWord::None,
        Some(anchor) if (anchor.root, anchor.count) != (batch.root, batch.count) => {
            StateWord::Other
        }
        Some(_) => StateWord::Settled,
        // The index has not read of it yet; of the last one the mirror knows the root.
        None => match served.last_anchor() {
            (last, root) if last == batch.sequence && root == batch.root => StateWord::Settled,
            (last, _) if last == batch.sequence => StateWord::Other,
            _ => StateWord::Pending,
        },
    };
    Ok(AnchorState {
        state,
        chain_id: facts.deployment.chain_id,
        audit_log: Wallet(facts.deployment.audit_log),
        broker_id: facts.broker_id.to_string(),
        transaction: on_chain.map(|anchor| Word(anchor.tx)),
        block: on_chain.map(|anchor| anchor.height),
        time: on_chain.map(|anchor| anchor.time),
    })
}

/// Which sums.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SummaryAsked {
    /// Only of this topic, by its name or its id.
    #[param(max_length = 512)]
    topic: Option<String>,
    /// From the day (UTC) of this second on.
    #[param(inline)]
    from: Option<Moment>,
    /// Up to the day of this second.
    #[param(inline)]
    to: Option<Moment>,
    /// Rows of a page; the operator may allow fewer.
    #[param(minimum = 1, maximum = 10_000)]
    limit: Option<u64>,
    /// `next` of the page before, with everything else as it was.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})+$", max_length = 512)]
    cursor: Option<Cursor<u64>>,
    /// Instead of the header Accept.
    #[param(inline)]
    #[allow(dead_code, reason = "read with the form of the answer")]
    format: Option<Form>,
}

/// Sums by day, topic, kind and country, oldest first.
///
/// Where records are not shown, only of days that are over, and each for at least five wallets: cells of fewer are told together as country
/// `other`, or not at all. Each record is in one cell at most, so that no difference of two tells of a third.
#[utoipa::path(get, path = "/v1/summary", tag = "record", params(SummaryAsked), responses(
    (status = 200, description = "A page of sums.", content((Page<SumItem> = "application/json"), (String = "text/csv"))), Problems
))]
pub(super) async fn summary(
    State(served): State<Arc<Served>>,
    Extension(sight): Extension<Sight>,
    asked: Asked<SummaryAsked>,
) -> Result<Response, Problem> {
    let of = &asked.of;
    let topic =
        of.topic.as_ref().map(|topic| asked::topic(topic, served.facts.broker_id)).transpose()?;
    let from = of.from.map_or(0, |moment| moment.0 / DAY);
    let mut to = of.to.map_or(u64::MAX, |moment| moment.0 / DAY);
    let least = if sight.records { 1 } else { FEWEST };
    if !sight.records {
        // A sum that grows while it is looked at tells who was there just now. What a day counts may come with the next interval.
        to = to.min((served.mirror.now().saturating_sub(DAY / 24) / DAY).saturating_sub(1));
    }
    let question = (topic, of.from, of.to, least);
    let rows = served.rows(of.limit)?;
    let skip = of.cursor.as_ref().map(|cursor| cursor.last(&question)).transpose()?.unwrap_or(0);
    let page = served.search(move |served, search| {
        let as_of = served.as_of(search)?;
        let mut cells = search.cells((from, to), topic, least, skip, rows.saturating_add(1))?;
        let has_more = cells.len() > rows;
        cells.truncate(rows);
        let behind = skip.saturating_add(u64::try_from(rows).unwrap_or(u64::MAX));
        let next = has_more.then(|| Cursor::<u64>::behind(&behind, &question));
        let view = served.mirror.current();
        let items = cells.into_iter().map(|cell| {
            let name = name_of(&view, cell.topic);
            SumItem::new(cell, name)
        });
        Ok(Page { items: items.collect(), next, as_of: Some(as_of), block: None })
    });
    page.await?.written(&served, &asked)
}
