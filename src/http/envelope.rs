//! The form of every answer: `{"success": bool, "message": text, "data": {...}}`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

use crate::inspect::NoAnswer;

/// Seconds after which it is worth asking again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

#[derive(Serialize)]
struct Envelope<'a, T> {
    success: bool,
    message: &'a str,
    data: &'a T,
}

/// An answer.
pub(super) fn envelope<T: Serialize>(status: StatusCode, message: &str, data: &T) -> Response {
    let body = Envelope { success: status.is_success(), message, data };
    (status, axum::Json(body)).into_response()
}

/// An answer that asks for patience.
pub(super) fn later(status: StatusCode, message: &str) -> Response {
    let mut answer = envelope(status, message, &json!({}));
    answer.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    answer
}

/// Why a question about a user has no answer. The user is not named: answers are logged by whoever asks.
pub(super) fn no_answer(why: &NoAnswer) -> Response {
    let plain = |status, message: &str| envelope(status, message, &json!({}));
    match why {
        NoAnswer::Mistake(mistake) => plain(StatusCode::BAD_REQUEST, mistake),
        NoAnswer::Nobody { keys: 0 } => plain(StatusCode::NOT_FOUND, "the database holds no such user"),
        NoAnswer::Nobody { keys } => {
            let message = format!(
                "the database holds no such user, but {keys} of its keys remain in redis: \
                 run \"lockstep resync --user TYPE:ID\""
            );
            envelope(StatusCode::NOT_FOUND, &message, &json!({ "remaining_keys": keys }))
        }
        NoAnswer::Refused(reason) => plain(
            StatusCode::CONFLICT,
            &format!("the user's keys cannot be written and stay deleted: {reason}"),
        ),
        NoAnswer::Crowded => {
            later(StatusCode::TOO_MANY_REQUESTS, "too many users are looked at: ask again in a second")
        }
        NoAnswer::Away(fault) => later(StatusCode::SERVICE_UNAVAILABLE, &fault.to_string()),
        NoAnswer::Late(fault) => plain(StatusCode::GATEWAY_TIMEOUT, &fault.to_string()),
    }
}
