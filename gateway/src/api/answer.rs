//! How answers are written: JSON or CSV, never beyond the bound, with what caches need.

use std::sync::Arc;

use alloy_primitives::hex;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use flytrap_record::text;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::Served;
use super::asked::{Asked, Form};
use super::problem::Problem;
use super::shapes::AsOf;

/// Says in tables what `asOf` says in objects.
const UP_TO_RECORD: HeaderName = HeaderName::from_static("flytrap-up-to-record");

pub(super) const UP_TO_BLOCK: HeaderName = HeaderName::from_static("flytrap-up-to-block");

/// A row of a list.
pub(super) trait Shown: Serialize {
    /// The columns of its table, which are its fields.
    const COLUMNS: &'static [&'static str];
}

/// A part of a list.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page<T> {
    /// What was asked for.
    pub(super) items: Vec<T>,
    /// The `cursor` that goes on behind them; null if that is all.
    pub(super) next: Option<String>,
    /// Up to where the record is known; null where only the chain was asked, see the header `FlyTrap-Up-To-Block`.
    pub(super) as_of: Option<AsOf>,
    /// Up to which block the chain is known. Not in the body, which would change with every block and never be the same to a cache.
    #[serde(skip)]
    pub(super) block: Option<u64>,
}

impl<T: Shown> Page<T> {
    /// The answer, in the form that was asked for.
    pub(super) fn written<Q>(
        &self,
        served: &Arc<Served>,
        asked: &Asked<Q>,
    ) -> Result<Response, Problem> {
        let mut response = match asked.form {
            Form::Json => json(served, self)?,
            Form::Csv => {
                let mut table = text::csv(T::COLUMNS) + "\r\n";
                for item in &self.items {
                    let row = serde_json::to_value(item).unwrap_or_default();
                    let cells: Vec<String> =
                        T::COLUMNS.iter().map(|name| cell(&row[*name])).collect();
                    table += &(text::csv(&cells) + "\r\n");
                    bounded(served, table.len())?;
                }
                body(served, "text/csv; charset=utf-8; header=present", table)?
            }
        };
        let headers = response.headers_mut();
        if let Some(as_of) = &self.as_of {
            headers.insert(UP_TO_RECORD, as_of.last_record.into());
        }
        if let Some(block) = self.block {
            headers.insert(UP_TO_BLOCK, block.into());
        }
        if let Some(next) = &self.next {
            let rest = asked
                .query
                .split('&')
                .filter(|part| !part.is_empty() && !part.starts_with("cursor="));
            let query = rest.collect::<Vec<_>>().join("&");
            let and = if query.is_empty() { "" } else { "&" };
            let link = format!("<{}?{query}{and}cursor={next}>; rel=\"next\"", asked.path);
            if let Ok(link) = HeaderValue::try_from(link) {
                headers.insert(header::LINK, link);
            }
        }
        Ok(response)
    }
}

/// An answer that is an object.
pub(super) fn json(served: &Served, answer: &impl Serialize) -> Result<Response, Problem> {
    let text = serde_json::to_string(answer).map_err(|_| Problem::fault(""))?;
    body(served, "application/json", text)
}

fn bounded(served: &Served, octets: usize) -> Result<(), Problem> {
    let most = served.config.most_octets;
    if octets > most {
        return Err(Problem::large(format!(
            "it has more than {most} octets: ask for fewer rows with `limit`, or for less"
        )));
    }
    Ok(())
}

fn body(served: &Served, form: &'static str, text: String) -> Result<Response, Problem> {
    bounded(served, text.len())?;
    let hash = Sha256::digest(text.as_bytes());
    let tag = format!("\"{}\"", hex::encode(&hash[..16]));
    Response::builder()
        .status(StatusCode::OK)
        .header(header::CONTENT_TYPE, form)
        .header(header::ETAG, tag)
        .body(Body::from(text))
        .map_err(|_| Problem::fault(""))
}

/// A field as a cell.
fn cell(field: &Value) -> String {
    match field {
        Value::Null => String::new(),
        // What a stranger named can hold what a terminal or a table obeys.
        Value::String(text) => {
            text.chars().map(|c| if text::acts(c) { '\u{fffd}' } else { c }).collect()
        }
        Value::Array(parts) => parts.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
