//! What every request passes before anything is looked up: whose it is, how many there were, under which name and from which page it was
//! asked, with which token. And what every answer carries.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use flytrap_policy::{Bucket, Origin, Rate};
use tokio::time::timeout;

use super::Served;
use super::problem::Problem;
use crate::config::{Access, ApiConfig};

/// Octets of the longest path and query.
const LONGEST_URI: usize = 4_096;
/// Origins whose use is remembered; what more there are share one rate.
const MOST_ORIGINS: usize = 16_384;
/// Requests that one with a wrong token or signature counts as, so that none is found by trying.
pub(super) const WRONG_TOKEN: u64 = 20;
/// Requests that one which changes something counts as: all sessions judge again.
pub(super) const CHANGE: u64 = 5;

/// What a request may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    /// Records, not only what the chain tells and sums that name nobody.
    pub(super) records: bool,
}

/// How much each origin has used.
#[derive(Debug)]
pub(super) struct Limiter {
    rate: Rate,
    began: Instant,
    used: Mutex<(HashMap<Origin, Bucket>, Bucket)>,
}

impl Limiter {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, began: Instant::now(), used: Mutex::default() }
    }

    /// Uses so much of an origin's rate; how long to wait if that is not there.
    fn take(&self, origin: Origin, units: u64) -> Result<(), Duration> {
        let now = self.began.elapsed();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let (origins, rest) = &mut *used;
        if origins.len() >= MOST_ORIGINS && !origins.contains_key(&origin) {
            origins.retain(|_, bucket| !bucket.level(now).is_zero());
        }
        let is_full = origins.len() >= MOST_ORIGINS && !origins.contains_key(&origin);
        let bucket = if is_full { rest } else { origins.entry(origin).or_default() };
        if bucket.try_take(&self.rate, units, now) {
            return Ok(());
        }
        let mut after = *bucket;
        Err(after.take(&self.rate, units, now))
    }

    /// Uses so much whether it is there or not.
    pub(super) fn charge(&self, origin: Origin, units: u64) {
        let now = self.began.elapsed();
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = used.0.get_mut(&origin) {
            bucket.take(&self.rate, units, now);
        }
    }
}

/// Around everything: no answer goes out without what this adds.
pub(super) async fn guard(
    State(served): State<Arc<Served>>,
    Extension(Peer(peer)): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let known = request.headers().get(header::IF_NONE_MATCH).cloned();
    let passed = pass(&served, peer, &request);
    let mut response = match passed {
        Err(problem) => problem.into_response(),
        Ok(Passed::Preflight) => StatusCode::NO_CONTENT.into_response(),
        Ok(Passed::On(sight, client)) => {
            request.extensions_mut().insert(sight);
            request.extensions_mut().insert(client);
            match timeout(served.config.request_timeout, next.run(request)).await {
                Ok(response) => not_modified(response, known.as_ref()),
                Err(_) => Problem::later(
                    "the question took too long: narrow it, by time, topic or wallet",
                )
                .after(Duration::from_secs(2))
                .into_response(),
            }
        }
    };
    dress(&served.config, origin, response.headers_mut());
    served.metrics.api_answered(response.status().as_u16());
    response
}

/// Whose connection a request came over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

enum Passed {
    On(Sight, Origin),
    Preflight,
}

fn pass(served: &Served, peer: SocketAddr, request: &Request) -> Result<Passed, Problem> {
    let (config, headers) = (&served.config, request.headers());
    let client = client(config, peer.ip(), headers)?;
    let origin = Origin::from(client);
    served.limiter.take(origin, 1).map_err(|wait| {
        Problem::rate("slow down, or ask the operator for a higher `api.requests_per_second`")
            .after(wait)
    })?;
    is_our_host(config, headers)?;
    if let Some(page) = headers.get(header::ORIGIN)
        && !is_allowed(config, page)
    {
        return Err(Problem::origin("the operator names those that may in `api.allowed_origins`"));
    }
    let uri = request.uri();
    if uri.path().len() + uri.query().map_or(0, str::len) > LONGEST_URI {
        return Err(Problem::long(format!("wanted at most {LONGEST_URI} octets")));
    }
    match (request.method(), super::names::is_signed(uri.path())) {
        (&Method::OPTIONS, _) => return Ok(Passed::Preflight),
        (&Method::GET | &Method::HEAD, false) => {}
        // Whoever signed it may, whoever else may see what.
        (&Method::POST, true) => return Ok(Passed::On(Sight { records: false }, origin)),
        (_, false) => return Err(Problem::method("")),
        (_, true) => return Err(Problem::method("").allowing("POST, OPTIONS")),
    }
    let is_empty = |length: &HeaderValue| length.as_bytes() == b"0";
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| !is_empty(length));
    if has_body {
        return Err(Problem::body(""));
    }
    let given = headers.get(header::AUTHORIZATION).map(|given| {
        let given = given.as_bytes();
        let (scheme, token) = given.split_at_checked(7).unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
    });
    let is_right = |hash: &crate::config::TokenHash| match given {
        None => Ok(false),
        Some(Some(token)) if hash.is_of(token) => Ok(true),
        Some(_) => {
            served.limiter.charge(origin, WRONG_TOKEN);
            Err(Problem::token(
                "it is not the one of this gateway: send `Authorization: Bearer <token>`",
            ))
        }
    };
    // How answers look is in the sources, and no secret.
    let is_description = uri.path() == super::DESCRIPTION;
    let records = match &config.access {
        Access::All => true,
        Access::Aggregated(None) => false,
        Access::Aggregated(Some(hash)) => is_right(hash)?,
        Access::Token(hash) => is_right(hash)?,
    };
    if matches!(config.access, Access::Token(_)) && !records && !is_description {
        return Err(Problem::token("send `Authorization: Bearer <token>`"));
    }
    Ok(Passed::On(Sight { records }, origin))
}

/// Who asks: the other end of the connection, or whom a listed proxy there names.
fn client(config: &ApiConfig, peer: IpAddr, headers: &HeaderMap) -> Result<IpAddr, Problem> {
    if !config.trusted_peers.contains(peer) {
        return Ok(peer);
    }
    let named = crate::proxy::forwarded_for(headers, &config.trusted_peers);
    let named = named.map_err(|()| Problem::parameter("an X-Forwarded-For that cannot be read"))?;
    Ok(named.unwrap_or(peer))
}

/// A page whose own name leads to this machine asks under that name: it is refused, whatever it was promised.
fn is_our_host(config: &ApiConfig, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(Problem::host("wanted one Host"));
    };
    let host = host.to_str().unwrap_or_default().to_ascii_lowercase();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|octet| octet.is_ascii_digit()) => name,
        _ => host.as_str(),
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    // No name server leads a page astray by an address.
    let is_ours = match address {
        Ok(address) => {
            address.is_loopback()
                || address == config.bind.ip()
                || config.bind.ip().is_unspecified()
        }
        Err(_) => name == "localhost",
    };
    if is_ours || config.hosts.iter().any(|known| known == name) {
        return Ok(());
    }
    Err(Problem::host("the operator names those that are in `api.hosts`"))
}

fn is_allowed(config: &ApiConfig, page: &HeaderValue) -> bool {
    config.allowed_origins.iter().any(|allowed| allowed.as_bytes() == page.as_bytes())
}

/// Nothing new for whoever has this answer already.
fn not_modified(response: Response, known: Option<&HeaderValue>) -> Response {
    let (Some(tag), Some(known)) = (response.headers().get(header::ETAG), known) else {
        return response;
    };
    let (tag, known) = (tag.to_str().unwrap_or_default(), known.to_str().unwrap_or_default());
    let is_known = |one: &str| one.trim().trim_start_matches("W/") == tag || one.trim() == "*";
    if !known.split(',').any(is_known) {
        return response;
    }
    let (mut parts, _) = response.into_parts();
    parts.status = StatusCode::NOT_MODIFIED;
    for name in [header::CONTENT_TYPE, header::CONTENT_LENGTH] {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, Body::empty())
}

/// What every answer carries.
fn dress(config: &ApiConfig, page: Option<HeaderValue>, headers: &mut HeaderMap) {
    const ALWAYS: [(HeaderName, &str); 7] = [
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("permissions-policy"), "interest-cohort=()"),
        (header::VARY, "Accept, Authorization, Origin"),
    ];
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let caching =
        if matches!(config.access, Access::All) { "no-cache" } else { "private, no-cache" };
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static(caching));
    let Some(page) = page.filter(|page| is_allowed(config, page)) else { return };
    let cross = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(cross, HeaderValue::from_static("cross-origin"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, page);
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, if-none-match, accept",
        ),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "etag, link, retry-after, flytrap-up-to-record, flytrap-up-to-block",
        ),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn origin(n: u32) -> Origin {
        Origin::from(IpAddr::from(n.to_be_bytes()))
    }

    #[test]
    fn each_origin_has_its_own_rate_and_what_is_past_it_is_told_how_long_to_wait() {
        let limiter = Limiter::new(Rate::new(1, SECOND, 3 * SECOND));
        for _ in 0..3 {
            assert_eq!(limiter.take(origin(1), 1), Ok(()));
        }
        let wait = limiter.take(origin(1), 1).expect_err("used up");
        assert!(wait > Duration::ZERO && wait <= SECOND, "{wait:?}");
        assert_eq!(limiter.take(origin(2), 1), Ok(()));
        limiter.charge(origin(2), WRONG_TOKEN);
        assert!(limiter.take(origin(2), 1).is_err(), "a wrong token costs more");
    }

    #[test]
    fn more_origins_than_are_remembered_share_one_rate() {
        let limiter = Limiter::new(Rate::new(1, 1_000 * SECOND, 1_000 * SECOND));
        for n in 0..u32::try_from(MOST_ORIGINS).expect("few") {
            assert_eq!(limiter.take(origin(n), 1), Ok(()));
        }
        assert_eq!(limiter.take(origin(u32::MAX), 1), Ok(()));
        assert!(limiter.take(origin(u32::MAX - 1), 1).is_err());
        assert_eq!(limiter.used.lock().expect("whole").0.len(), MOST_ORIGINS);
    }
}
