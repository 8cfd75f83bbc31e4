//! What is answered instead of an answer (RFC 9457): what was wrong with the request and what to do, and of ourselves no more than that it is us.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{self, ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::index::IndexError;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Problem {
    /// Which problem, for programs.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Which problem, for people.
    title: &'static str,
    /// The HTTP status once more.
    status: u16,
    /// What was found and what was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip)]
    retry_after: Option<u64>,
    #[serde(skip)]
    allow: &'static str,
}

/// The media type of a problem.
pub(super) const PROBLEM: &str = "application/problem+json";

macro_rules! problems {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $kind:literal, $title:literal;)*) => {
        impl Problem {
            $(
                $(#[$doc])*
                pub(super) fn $name(detail: impl Into<String>) -> Self {
                    Self {
                        kind: concat!("urn:flytrap:problem:", $kind),
                        title: $title,
                        status: StatusCode::$status.as_u16(),
                        detail: Some(detail.into()).filter(|detail| !detail.is_empty()),
                        retry_after: None,
                        allow: "GET, HEAD, OPTIONS",
                    }
                }
            )*
        }
    };
}

problems! {
    /// A parameter that cannot be read, or is not known.
    parameter = BAD_REQUEST, "parameter", "a parameter is wrong";
    /// No token, or a wrong one.
    token = UNAUTHORIZED, "token", "a token is needed";
    /// Nobody is shown this here.
    closed = FORBIDDEN, "closed", "this is not shown here";
    /// A page of another web origin.
    origin = FORBIDDEN, "origin", "pages of this origin may not read answers";
    /// There is no such thing.
    nothing = NOT_FOUND, "nothing", "there is no such thing";
    /// Something else than reading.
    method = METHOD_NOT_ALLOWED, "method", "this path does not take this method";
    /// No form of an answer that the client takes.
    form = NOT_ACCEPTABLE, "form", "answers are JSON or CSV";
    /// A request with a body where there is none, or with one that is too long.
    body = PAYLOAD_TOO_LARGE, "body", "the body is too long";
    /// A body that is no JSON.
    media = UNSUPPORTED_MEDIA_TYPE, "media", "a body is JSON";
    /// Something that is known already stands against it.
    conflict = CONFLICT, "conflict", "what is known contradicts this";
    /// A request line that is too long.
    long = URI_TOO_LONG, "long", "the address is too long";
    /// Asked for under a name that is not ours.
    host = MISDIRECTED_REQUEST, "host", "this is not that host";
    /// More than one answer may hold.
    large = UNPROCESSABLE_ENTITY, "large", "the answer would be too large";
    /// Too much of one client.
    rate = TOO_MANY_REQUESTS, "rate", "too many requests";
    /// Our fault.
    fault = INTERNAL_SERVER_ERROR, "fault", "a fault of the gateway";
    /// Not now.
    later = SERVICE_UNAVAILABLE, "later", "there is no answer at this moment";
}

impl Problem {
    /// With the time after which another try may help.
    pub(super) fn after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time.as_secs().saturating_add(1));
        self
    }

    /// With the methods that the path takes.
    pub(super) fn allowing(self, allow: &'static str) -> Self {
        Self { allow, ..self }
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl From<IndexError> for Problem {
    fn from(error: IndexError) -> Self {
        let soon = Duration::from_secs(2);
        match error {
            IndexError::Late => {
                Self::later("the question took too long: narrow it, by time, topic or wallet")
                    .after(soon)
            }
            error => {
                // What follows the record says it once; here everybody could fill the log.
                tracing::debug!(%error, "the API has no answer");
                Self::later("the index of the record is being made").after(soon)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, after, allow) = (self.status(), self.retry_after, self.allow);
        let text = serde_json::to_string(&self).unwrap_or_default();
        let mut response =
            (status, [(header::CONTENT_TYPE, PROBLEM), (header::CACHE_CONTROL, "no-store")], text)
                .into_response();
        let headers = response.headers_mut();
        if let Some(after) = after {
            headers.insert(header::RETRY_AFTER, after.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            let bearer = HeaderValue::from_static("Bearer realm=\"FlyTrap\"");
            headers.insert(header::WWW_AUTHENTICATE, bearer);
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

/// Every problem that a question may meet, for the description.
pub(super) struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let told = [
            (StatusCode::BAD_REQUEST, "A parameter is wrong, or not known."),
            (StatusCode::UNAUTHORIZED, "A token is needed, or another one."),
            (StatusCode::FORBIDDEN, "This is not shown here, or not to pages of this origin."),
            (StatusCode::NOT_FOUND, "There is no such thing."),
            (StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are answered here."),
            (StatusCode::NOT_ACCEPTABLE, "Answers are JSON or CSV."),
            (StatusCode::PAYLOAD_TOO_LARGE, "A request has no body."),
            (StatusCode::URI_TOO_LONG, "The address is too long."),
            (StatusCode::MISDIRECTED_REQUEST, "Asked for under a name that is not this gateway's."),
            (StatusCode::UNPROCESSABLE_ENTITY, "The answer would be too large."),
            (StatusCode::TOO_MANY_REQUESTS, "Too many requests: see Retry-After."),
            (StatusCode::INTERNAL_SERVER_ERROR, "A fault of the gateway."),
            (StatusCode::SERVICE_UNAVAILABLE, "Not at this moment: see Retry-After."),
        ];
        let unchanged =
            ResponseBuilder::new().description("Nothing new: the client has this answer.");
        told.into_iter()
            .map(described)
            .chain([("304".to_owned(), unchanged.build().into())])
            .collect()
    }
}

/// Every problem that a signed request may meet, for the description.
pub(super) struct SignedProblems;

impl IntoResponses for SignedProblems {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let told = [
            (StatusCode::BAD_REQUEST, "Something in it is wrong."),
            (
                StatusCode::FORBIDDEN,
                "The owner did not sign it, or pages of this origin may not ask.",
            ),
            (StatusCode::NOT_FOUND, "There is no such topic, or its name is not hidden."),
            (StatusCode::METHOD_NOT_ALLOWED, "Only POST is answered here."),
            (StatusCode::CONFLICT, "A newer request counts, or the name cannot be where it is."),
            (StatusCode::PAYLOAD_TOO_LARGE, "The body is too long."),
            (StatusCode::URI_TOO_LONG, "The address is too long."),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The body is not said to be JSON."),
            (StatusCode::MISDIRECTED_REQUEST, "Asked for under a name that is not this gateway's."),
            (StatusCode::TOO_MANY_REQUESTS, "Too many requests: see Retry-After."),
            (StatusCode::INTERNAL_SERVER_ERROR, "A fault of the gateway."),
            (StatusCode::SERVICE_UNAVAILABLE, "Not at this moment: see Retry-After."),
        ];
        told.into_iter().map(described).collect()
    }
}

fn described((status, told): (StatusCode, &str)) -> (String, RefOr<openapi::Response>) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new().description(told).content(PROBLEM, content);
    (status.as_u16().to_string(), response.build().into())
}
