//! The only requests that change something: owners of hidden topics tell a gateway a name, or have it forget one. Their signature is what
//! lets them, so no token is asked for. Nothing of a name is in a path, an answer or the log.

use std::sync::Arc;
use std::time::Duration;

use alloy_primitives::{Address, B256, Bytes};
use axum::Json;
use axum::body::to_bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use flytrap_policy::{NameRefusal, Origin};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Served;
use super::asked::{Wallet, Word};
use super::problem::{Problem, SignedProblems};
use crate::hidden_names::{Signed, Unfollowed};

/// Octets of the longest request: a name, and the signature of a contract wallet.
const LONGEST_BODY: usize = 8 * 1_024;

/// Whether requests to this path are such.
pub(super) fn is_signed(path: &str) -> bool {
    let named = path.strip_prefix("/v1/topics/").and_then(|rest| rest.split_once('/'));
    named.is_some_and(|(_, rest)| matches!(rest, "name" | "name/erase"))
}

/// The hidden name of a topic, signed by its owner as `DiscloseName`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NameDisclosure {
    /// Who owns the topic.
    #[schema(value_type = Wallet)]
    owner: Address,
    /// Epoch of the topic.
    epoch: u64,
    /// What the name was hashed with.
    #[schema(value_type = Word)]
    salt: B256,
    /// The whole name.
    #[schema(min_length = 1, max_length = 256)]
    name: String,
    /// Unix second in which it was signed.
    issued_at: u64,
    /// Unix second from which it is worthless, at most a day later.
    expires_at: u64,
    /// Of the owner's key, as r, s and v of 27 or 28; or what the owner's contract takes.
    #[schema(value_type = String, pattern = "^0x([0-9a-fA-F]{2}){1,2048}$")]
    signature: Bytes,
}

/// That the hidden name of a topic is to be forgotten, signed by its owner as `EraseName`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NameErasure {
    /// Who owns the topic.
    #[schema(value_type = Wallet)]
    owner: Address,
    /// Epoch of the topic.
    epoch: u64,
    /// Unix second in which it was signed.
    issued_at: u64,
    /// Unix second from which it is worthless, at most a day later.
    expires_at: u64,
    /// Of the owner's key, as r, s and v of 27 or 28; or what the owner's contract takes.
    #[schema(value_type = String, pattern = "^0x([0-9a-fA-F]{2}){1,2048}$")]
    signature: Bytes,
}

/// What became of a request about a hidden name.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NameAnswer {
    /// The topic.
    topic_id: Word,
    /// Whether this gateway knows its name now.
    known: bool,
    /// Whether that is new; false if it was so before.
    changed: bool,
}

/// Tells this gateway the hidden name of a topic. When it answers, the name is on its disk and in force.
#[utoipa::path(post, path = "/v1/topics/{topic}/name", tag = "names", params(
    ("topic" = String, Path, description = "Its id.", pattern = "^0x[0-9a-fA-F]{64}$"),
), request_body = NameDisclosure, responses(
    (status = 200, description = "It is known.", body = NameAnswer, content_type = "application/json"), SignedProblems
))]
pub(super) async fn disclose(
    State(served): State<Arc<Served>>,
    Extension(origin): Extension<Origin>,
    given: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let topic_id = id(given)?;
    let NameDisclosure { owner, epoch, salt, name, issued_at, expires_at, signature } =
        body(request).await?;
    let told = Some((salt, name));
    let signature = signature.to_vec();
    let signed = Signed { owner, topic_id, epoch, issued_at, expires_at, told, signature };
    follow(&served, origin, signed).await
}

/// Has this gateway forget the hidden name of a topic. When it answers, the name is in no file of it, and nothing is decided by it any more.
#[utoipa::path(post, path = "/v1/topics/{topic}/name/erase", tag = "names", params(
    ("topic" = String, Path, description = "Its id.", pattern = "^0x[0-9a-fA-F]{64}$"),
), request_body = NameErasure, responses(
    (status = 200, description = "It is not known.", body = NameAnswer, content_type = "application/json"), SignedProblems
))]
pub(super) async fn erase(
    State(served): State<Arc<Served>>,
    Extension(origin): Extension<Origin>,
    given: Result<Path<String>, PathRejection>,
    request: Request,
) -> Result<Response, Problem> {
    let topic_id = id(given)?;
    let NameErasure { owner, epoch, issued_at, expires_at, signature } = body(request).await?;
    let signature = signature.to_vec();
    let signed = Signed { owner, topic_id, epoch, issued_at, expires_at, told: None, signature };
    follow(&served, origin, signed).await
}

/// A name in its place could be the hidden one, and is in every proxy's log by then.
fn id(given: Result<Path<String>, PathRejection>) -> Result<B256, Problem> {
    let digits = given.ok().filter(|Path(given)| given.starts_with("0x") && given.len() == 66);
    let id = digits.and_then(|Path(given)| given.parse().ok());
    id.ok_or_else(|| {
        Problem::parameter("topic: wanted its id, 0x and 64 hexadecimal digits, never its name")
    })
}

async fn body<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    if !is_json(request.headers()) {
        return Err(Problem::media("wanted `Content-Type: application/json`"));
    }
    let octets = to_bytes(request.into_body(), LONGEST_BODY).await;
    let octets = octets
        .map_err(|_| Problem::body(format!("wanted at most {LONGEST_BODY} octets, all of them")))?;
    // Of what is wrong with it only where: what would hold parts of it.
    serde_json::from_slice(&octets).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        Problem::parameter(format!("the body is not as described, at line {line} column {column}"))
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let named = headers.get(header::CONTENT_TYPE).and_then(|named| named.to_str().ok());
    let named = named.and_then(|named| named.split(';').next());
    named.is_some_and(|named| named.trim().eq_ignore_ascii_case("application/json"))
}

async fn follow(served: &Arc<Served>, origin: Origin, signed: Signed) -> Result<Response, Problem> {
    let (topic_id, known) = (Word(signed.topic_id), signed.told.is_some());
    match served.names.follow(origin, signed).await {
        Ok(changed) => {
            if changed {
                served.limiter.charge(origin, super::guard::CHANGE);
            }
            Ok(Json(NameAnswer { topic_id, known, changed }).into_response())
        }
        Err(why) => {
            if why == Unfollowed::Refused(NameRefusal::Signature) {
                served.limiter.charge(origin, super::guard::WRONG_TOKEN);
            }
            Err(problem(&why))
        }
    }
}

fn problem(why: &Unfollowed) -> Problem {
    let told = why.to_string();
    let soon = Duration::from_secs(2);
    match why {
        Unfollowed::Refused(refusal) => match refusal {
            NameRefusal::Unknown | NameRefusal::NotHidden => Problem::nothing(told),
            NameRefusal::Owner | NameRefusal::Signature => Problem::closed(told),
            NameRefusal::NotSettled => Problem::later(told).after(Duration::from_secs(15)),
            NameRefusal::Full => Problem::later(told).after(Duration::from_secs(3_600)),
            NameRefusal::Superseded { .. }
            | NameRefusal::Epoch { .. }
            | NameRefusal::Above
            | NameRefusal::Elsewhere => Problem::conflict(told),
            NameRefusal::Life
            | NameRefusal::NotYetValid
            | NameRefusal::Expired
            | NameRefusal::Commitment
            | NameRefusal::NoName => Problem::parameter(told),
        },
        Unfollowed::Unanswered(_) => {
            Problem::later("the owner's contract cannot be asked at this moment").after(soon)
        }
        Unfollowed::Unfit | Unfollowed::Busy | Unfollowed::Disk => Problem::later(told).after(soon),
    }
}
