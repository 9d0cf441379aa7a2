//! `GET /api/redis-health/status`: whether Redis is read and written, and how far the stream is.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::Facts;
use super::envelope::envelope;
use crate::error::Fault;
use crate::health::StreamState;
use crate::inspect::{Probe, now_iso};
use crate::lsn::Lsn;

#[derive(Serialize)]
struct Status {
    status: &'static str,
    redis_connected: bool,
    cache_operations: &'static str,
    timestamp: String,
    replication: Replication,
}

#[derive(Serialize)]
struct Replication {
    state: &'static str,
    /// As `/readyz` has it.
    ready: bool,
    reasons: Vec<String>,
    loaded: bool,
    lag_seconds: f64,
    lag_bytes: i64,
    received_lsn: String,
    applied_lsn: String,
}

pub(super) async fn status(State(facts): State<Facts>) -> Response {
    let probe = match facts.inspector.get() {
        Some(inspector) => inspector.probe().await,
        None => not_reached(&facts),
    };
    let is_healthy = probe.is_connected && probe.fault.is_none();
    let status = Status {
        status: if is_healthy { "healthy" } else { "unhealthy" },
        redis_connected: probe.is_connected,
        cache_operations: if probe.fault.is_none() { "working" } else { "failing" },
        timestamp: now_iso(),
        replication: replication(&facts),
    };
    match probe.fault {
        None => envelope(StatusCode::OK, "redis is read and written", &status),
        Some(fault) => envelope(StatusCode::SERVICE_UNAVAILABLE, &fault.to_string(), &status),
    }
}

/// What is known before Redis was reached for the first time.
fn not_reached(facts: &Facts) -> Probe {
    let fact = facts.health.facts().redis_fault;
    let fact = fact.unwrap_or_else(|| "redis was not reached yet".to_owned());
    Probe { is_connected: false, fault: Some(Fault { fact, cure: String::new() }) }
}

/// The stream's state in a word.
pub(super) fn word(stream: &StreamState) -> &'static str {
    match stream {
        StreamState::Starting => "starting",
        StreamState::Standby => "standby",
        StreamState::MakingSlot { .. } => "making_slot",
        StreamState::Streaming => "streaming",
        StreamState::Reconnecting { .. } => "reconnecting",
    }
}

fn replication(facts: &Facts) -> Replication {
    let now = facts.health.facts();
    let reasons = now.not_ready_because(facts.ready_lag);
    let stream = &facts.metrics.stream;
    let lsn = |gauge: i64| Lsn(u64::try_from(gauge).unwrap_or(0)).to_string();
    Replication {
        state: word(&now.stream),
        ready: reasons.is_empty(),
        reasons,
        loaded: now.loaded,
        lag_seconds: stream.lag_seconds.get(),
        lag_bytes: stream.lag_bytes.get(),
        received_lsn: lsn(stream.received_lsn.get()),
        applied_lsn: lsn(stream.applied_lsn.get()),
    }
}
