//! `GET /api/redis-health/cluster-info`: the masters, and how many keys of users each holds.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::Facts;
use super::envelope::envelope;

pub(super) async fn cluster_info(State(facts): State<Facts>) -> Response {
    match facts.inspector() {
        Ok(inspector) => {
            envelope(StatusCode::OK, "the keys of users on each master", &inspector.count().await)
        }
        Err(answer) => *answer,
    }
}
