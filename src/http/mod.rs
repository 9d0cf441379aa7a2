//! The HTTP side: metrics for Prometheus, liveness and readiness for whoever runs the process, a wait for
//! applications that read what they wrote, and what operators ask about Redis and about one user.
//!
//! | file | what it does |
//! |---|---|
//! | `server` | accepts connections, so many and no more |
//! | `limits` | bounds what one request may be |
//! | `gate` | the operator's token, and how often it may be used |
//! | `envelope` | the form of every answer |
//! | `status`, `nodes`, `user`, `wait` | the calls |
//! | `console` | the page at `/`, and what it shows |
//! | `openapi.json` | all of them, for programs |

pub mod console;
mod envelope;
mod gate;
mod limits;
mod nodes;
mod server;
mod status;
mod user;
mod wait;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::json;

use crate::config;
use crate::error::Result;
use crate::health::Health;
use crate::inspect::Inspector;
use crate::metrics::Metrics;
use console::Console;
use envelope::envelope;
use gate::Gate;
pub use server::{Listener, listen};

/// What the endpoints report from.
#[derive(Clone)]
pub struct Facts {
    /// Readiness.
    pub health: Arc<Health>,
    /// The exposition.
    pub metrics: Metrics,
    /// Above this lag the instance is not ready.
    pub ready_lag: Duration,
    /// Who may ask about users.
    gate: Arc<Gate>,
    /// Looks at users and nodes; not before Redis was reached for the first time.
    inspector: Arc<OnceLock<Inspector>>,
    /// What those who look at the console share.
    console: Arc<Console>,
}

impl Facts {
    /// Of an instance that has not reached Redis yet.
    pub fn new(config: &config::Config, health: &Arc<Health>, metrics: &Metrics) -> Facts {
        Facts {
            health: Arc::clone(health),
            metrics: metrics.clone(),
            ready_lag: config.stream.ready_lag,
            gate: Arc::new(Gate::new(&config.http)),
            inspector: Arc::default(),
            console: Arc::new(Console::new(config)),
        }
    }

    /// Users and nodes can be looked at from now on.
    pub fn inspect_by(&self, inspector: Inspector) {
        // Told once; a second one would be as good.
        let _ = self.inspector.set(inspector);
    }

    /// Who looks at users and nodes.
    ///
    /// # Errors
    /// The answer where nobody can yet.
    fn inspector(&self) -> Result<&Inspector, Box<Response>> {
        self.inspector.get().ok_or_else(|| {
            let message = "redis was not reached since the start: ask again when /readyz is 200";
            Box::new(envelope(StatusCode::SERVICE_UNAVAILABLE, message, &json!({})))
        })
    }
}

/// Answers for ever.
pub async fn serve(listener: Listener, facts: Facts) -> Result<()> {
    server::serve(listener, router(facts)).await
}

/// Every call.
pub fn router(facts: Facts) -> Router {
    const USER: &str = "/api/redis-health/user/{user_id}";
    let guarded = Router::new()
        .route(&format!("{USER}/consistency"), get(user::consistency))
        .route(&format!("{USER}/force-refresh"), post(user::refresh))
        .route("/api/redis-health/cluster-info", get(nodes::cluster_info))
        .merge(console::guarded())
        .route_layer(from_fn_with_state(facts.clone(), gate::admit));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/openapi.json", get(openapi))
        .route("/api/redis-health/status", get(status::status))
        .route("/api/redis-health/wait", get(wait::wait))
        .merge(console::open())
        .merge(guarded)
        .method_not_allowed_fallback(no_such_method)
        .fallback(nothing_here)
        .layer(from_fn(limits::bound))
        .with_state(facts)
}

async fn metrics(State(facts): State<Facts>) -> Response {
    match facts.metrics.render() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => envelope(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string(), &json!({})),
    }
}

async fn healthz(State(facts): State<Facts>) -> Response {
    match facts.health.pulse().is_hung() {
        false => envelope(StatusCode::OK, "alive", &json!({})),
        true => {
            envelope(StatusCode::SERVICE_UNAVAILABLE, "the data loop hangs: restart lockstep", &json!({}))
        }
    }
}

/// With `?standby=ok` whoever waits for another instance's slot is ready too: it is so for those who update or move a
/// pair, where the one could otherwise never go because the other is never ready.
async fn readyz(State(facts): State<Facts>, RawQuery(query): RawQuery) -> Response {
    let told = facts.health.facts();
    if query.as_deref() == Some("standby=ok") && told.can_take_over() {
        return envelope(StatusCode::OK, "waiting for the slot that another instance holds", &json!({}));
    }
    let reasons = told.not_ready_because(facts.ready_lag);
    match reasons.as_slice() {
        [] => envelope(StatusCode::OK, "ready", &json!({})),
        [first, ..] => envelope(StatusCode::SERVICE_UNAVAILABLE, first, &json!({ "reasons": reasons })),
    }
}

/// What can be asked, for programs. Not in an envelope: it is a document.
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

async fn nothing_here() -> Response {
    envelope(StatusCode::NOT_FOUND, "nothing is here: see /api/openapi.json", &json!({}))
}

async fn no_such_method() -> Response {
    let message = "this is asked for by another method: see /api/openapi.json";
    envelope(StatusCode::METHOD_NOT_ALLOWED, message, &json!({}))
}
