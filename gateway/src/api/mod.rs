//! The REST API, `/v1`: what the record and the chain tell, to whom the operator shows it; and where owners tell hidden names ([`names`]).
//!
//! ```text
//! store (closed batches) ──> index, followed in small steps ──┐
//! mirror (state now) ─────────────────────────────────────────┼─> question, one of few at once, with a deadline ─> answer
//! node (settled past, kept) ──────────────────────────────────┘                                   guard around it all
//! ```
//!
//! Names apart, it writes nothing but its own index, which can be made anew. Sessions know nothing of it: [`serve`] bounds
//! connections, [`guard`] judges each request, and questions run on threads of their own, no more at once than
//! `api.most_queries`. How answers look is generated from this code ([`description`]) and kept in `docs/openapi.json`.

mod answer;
mod asked;
mod chain;
mod entitled;
mod follow;
mod guard;
mod index;
mod names;
mod past;
mod problem;
mod records;
mod serve;
mod shapes;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use alloy_primitives::{Address, B256, U256};
use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use flytrap_chain::{ChainHealth, Deployment};
use flytrap_policy::View;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::audit::Place;
use crate::config::ApiConfig;
use crate::hidden_names::HiddenNames;
use crate::metrics::Metrics;
use crate::mirror::Mirror;
use guard::{Limiter, Sight};
use index::{Index, Search};
use past::Past;
use problem::Problem;

/// Where the description of the API is.
const DESCRIPTION: &str = "/v1/openapi.json";
/// Rows that any gateway could be asked for; its own most may be fewer.
const LARGEST_PAGE: u64 = 10_000;
/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(2);

/// Whose record and which chain the API is about.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The gateway's key, zero without one.
    pub gateway: Address,
    /// Whether its records are anchored.
    pub anchors: bool,
    /// Whether what refusals say is dropped before the rest.
    pub drops_refusals: bool,
    /// The contracts.
    pub deployment: Deployment,
    /// The broker.
    pub broker_id: U256,
    /// Nodes that are asked for the past.
    pub urls: Vec<url::Url>,
    /// Blocks that a reorganisation may undo.
    pub history: u64,
}

/// What answers are made from.
#[derive(Debug)]
struct Served {
    config: ApiConfig,
    facts: Facts,
    mirror: Arc<Mirror>,
    chain: Arc<ChainHealth>,
    names: Arc<HiddenNames>,
    metrics: Arc<Metrics>,
    index: Index,
    past: Past,
    limiter: Limiter,
    turns: Arc<Semaphore>,
}

/// The API, ready to be served.
#[derive(Debug)]
pub struct Api(Arc<Served>);

impl Api {
    /// Over these records, with its index in `state_dir`. Opens nothing yet.
    #[must_use]
    pub fn new(
        config: ApiConfig,
        facts: Facts,
        state_dir: &Path,
        records: Place,
        chain: Arc<ChainHealth>,
        names: Arc<HiddenNames>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mirror = names.mirror().clone();
        let index = Index::new(state_dir, records, facts.gateway);
        let past = Past::new(facts.clone(), chain.clone());
        let limiter = Limiter::new(config.rate);
        let turns = Arc::new(Semaphore::new(config.most_queries));
        Self(Arc::new(Served {
            config,
            facts,
            mirror,
            chain,
            names,
            metrics,
            index,
            past,
            limiter,
            turns,
        }))
    }
}

/// Tells a question that nobody waits for its answer any more.
struct Asking(Arc<AtomicBool>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Served {
    /// Answers a question that takes a processor or a disk, on a thread where it holds up no session. It ends when whoever asked has gone, where
    /// it looks.
    async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &Until) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = timeout(TURN, self.turns.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            let busy = "too many questions at once: ask again";
            return Err(Problem::later(busy).after(TURN));
        };
        let asking = Asking(Arc::default());
        let until = Until {
            is_over: asking.0.clone(),
            deadline: Instant::now() + self.config.request_timeout,
        };
        let served = self.clone();
        let answered = tokio::task::spawn_blocking(move || {
            let answer = work(&served, &until);
            drop(turn);
            answer
        });
        answered.await.unwrap_or_else(|_| Err(Problem::fault("")))
    }

    /// Asks the index.
    async fn search<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&Self, &mut Search) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.work(move |served, until| {
            let mut search = served.index.open(until.is_over.clone(), until.deadline)?;
            ask(served, &mut search)
        })
        .await
    }

    /// What is known of the chain, if that is enough to tell.
    fn view(&self) -> Result<Arc<View>, Problem> {
        if !self.mirror.fitness().decides() {
            return Err(Problem::later(
                "the gateway does not know enough of the chain at this moment",
            )
            .after(Duration::from_secs(5)));
        }
        Ok(self.mirror.current())
    }

    /// Number of the last anchor that is settled on chain; 0 where that is not known.
    fn settled(&self) -> u64 {
        self.last_anchor().0
    }

    /// Number and root of the last anchor that is settled.
    fn last_anchor(&self) -> (u64, B256) {
        self.mirror.peek().anchored(self.facts.gateway)
    }

    fn as_of(&self, search: &Search) -> Result<shapes::AsOf, Problem> {
        let gateway = asked::Wallet(self.facts.gateway);
        let is_complete = !self.index.is_behind();
        Ok(shapes::AsOf::new(gateway, search.coverage()?, self.settled(), is_complete))
    }

    /// Rows of a page, given how many were asked for.
    fn rows(&self, limit: Option<u64>) -> Result<usize, Problem> {
        let most = self.config.most_rows;
        match limit {
            Some(limit) if !(1..=LARGEST_PAGE).contains(&limit) => {
                Err(Problem::parameter(format!("limit: wanted 1 to {LARGEST_PAGE}")))
            }
            Some(limit) => Ok(usize::try_from(limit).unwrap_or(most).min(most)),
            None => Ok(most.min(100)),
        }
    }
}

/// When a question ends without an answer.
struct Until {
    is_over: Arc<AtomicBool>,
    deadline: Instant,
}

impl Until {
    /// To be asked now and then by what takes long.
    fn check(&self) -> Result<(), Problem> {
        if self.is_over.load(Ordering::Relaxed) || Instant::now() >= self.deadline {
            return Err(index::IndexError::Late.into());
        }
        Ok(())
    }
}

/// A topic's name, where it is registered now and not hidden.
fn name_of(view: &View, id: B256) -> Option<String> {
    view.head.topic_by_id(id).and_then(shapes::name_of)
}

/// Only with the token, or where everybody may.
fn may_see_records(sight: Sight) -> Result<(), Problem> {
    if sight.records {
        return Ok(());
    }
    Err(Problem::closed(
        "records are shown to whoever has this gateway's token, if it has one; `/v1/summary` tells sums",
    ))
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "FlyTrap",
        version = "1",
        description = "Who accessed what, when and on what ground, as a gateway recorded it and anchored it on chain; and what the chain tells of topics, grants, offers and bans. Read-only, but for hidden names, which owners tell and take back by signed requests. Personal data is sealed and not shown.",
        license(name = "Apache-2.0 OR MIT")
    ),
    components(schemas(Problem)),
    modifiers(&Secured)
)]
struct Described;

struct Secured;

impl utoipa::Modify for Secured {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{
            HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
        };
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        if let Some(components) = openapi.components.as_mut() {
            components.add_security_scheme("token", SecurityScheme::Http(bearer));
        }
        let token = SecurityRequirement::new("token", Vec::<String>::new());
        openapi.security = Some(vec![SecurityRequirement::default(), token]);
    }
}

fn routes() -> (Router<Arc<Served>>, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Described::openapi())
        .routes(routes!(records::records))
        .routes(routes!(records::record))
        .routes(routes!(records::summary))
        .routes(routes!(chain::topics))
        .routes(routes!(chain::topic))
        .routes(routes!(chain::grants))
        .routes(routes!(entitled::entitled))
        .routes(routes!(chain::offers))
        .routes(routes!(chain::bans))
        .routes(routes!(chain::anchors))
        .routes(routes!(names::disclose))
        .routes(routes!(names::erase))
        .split_for_parts()
}

/// The description of the API (OpenAPI 3.1) as JSON.
#[must_use]
pub fn description() -> String {
    let (_, openapi) = routes();
    let mut text = openapi.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// All routes, behind the guard.
fn router(served: Arc<Served>) -> Router {
    let text: Arc<str> = description().into();
    let describe = move |State(_): State<Arc<Served>>| {
        let text = text.clone();
        async move {
            let form = [(axum::http::header::CONTENT_TYPE, "application/json")];
            (form, text.to_string()).into_response()
        }
    };
    let nothing = async || -> Response {
        Problem::nothing(format!("see {DESCRIPTION} for what there is")).into_response()
    };
    let guarded = axum::middleware::from_fn_with_state(served.clone(), guard::guard);
    let (routes, _) = routes();
    routes
        .route(DESCRIPTION, axum::routing::get(describe))
        .fallback(nothing)
        .layer(guarded)
        .with_state(served)
}
