//! The HTTP side: metrics for Prometheus, liveness and readiness for whoever runs the process, and a wait for
//! applications that read what they wrote.

mod wait;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;

use crate::config;
use crate::error::{Error, Result};
use crate::health::Health;
use crate::metrics::Metrics;

/// What the endpoints report from.
#[derive(Clone)]
pub struct Facts {
    /// Readiness.
    pub health: Arc<Health>,
    /// The exposition.
    pub metrics: Metrics,
    /// Above this lag the instance is not ready.
    pub ready_lag: Duration,
}

/// Takes the address, so that a taken one is known before anything else starts.
pub async fn listen(http: &config::Http) -> Result<TcpListener> {
    TcpListener::bind(http.listen).await.map_err(|error| {
        Error::definite(
            format!("cannot listen on {}: {error}", http.listen),
            "free the address or set http.listen",
        )
    })
}

/// Answers until the listener fails.
pub async fn serve(listener: TcpListener, facts: Facts) -> Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/api/redis-health/wait", get(wait::wait))
        .with_state(facts);
    axum::serve(listener, router)
        .await
        .map_err(|error| Error::definite(format!("the http listener failed: {error}"), "restart lockstep"))
}

async fn metrics(State(facts): State<Facts>) -> Response {
    match facts.metrics.render() {
        Ok(text) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(facts): State<Facts>) -> Response {
    match facts.health.pulse().is_hung() {
        false => envelope(StatusCode::OK, "alive", json!({})),
        true => envelope(StatusCode::SERVICE_UNAVAILABLE, "the data loop hangs: restart lockstep", json!({})),
    }
}

/// With `?standby=ok` whoever waits for another instance's slot is ready too: it is so for those who update or move a
/// pair, where the one could otherwise never go because the other is never ready.
async fn readyz(State(facts): State<Facts>, RawQuery(query): RawQuery) -> Response {
    let told = facts.health.facts();
    if query.as_deref() == Some("standby=ok") && told.can_take_over() {
        return envelope(StatusCode::OK, "waiting for the slot that another instance holds", json!({}));
    }
    let reasons = told.not_ready_because(facts.ready_lag);
    match reasons.as_slice() {
        [] => envelope(StatusCode::OK, "ready", json!({})),
        [first, ..] => envelope(StatusCode::SERVICE_UNAVAILABLE, first, json!({ "reasons": reasons })),
    }
}

fn envelope(status: StatusCode, message: &str, data: serde_json::Value) -> Response {
    let body = json!({ "success": status.is_success(), "message": message, "data": data });
    (status, axum::Json(body)).into_response()
}
