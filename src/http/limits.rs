//! What one request may be: no call needs a body, a long address or much time.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use serde_json::json;
use tokio::time::timeout;

use super::envelope::envelope;

/// Longest path and query, in bytes.
const ADDRESS_BYTES: usize = 8 << 10;
/// Largest body, in bytes: it is read and thrown away, so that the connection can be used again.
const BODY_BYTES: usize = 16 << 10;
/// How long a client may take to send it.
const BODY: Duration = Duration::from_secs(5);
/// Longest time for an answer: each call has a shorter bound of its own.
const ANSWER: Duration = Duration::from_secs(40);

/// Refuses what is too much of a request, and bounds the time for its answer.
pub(super) async fn bound(request: Request, next: Next) -> Response {
    let refuse = |status, message: String| envelope(status, &message, &json!({}));
    if request.uri().path_and_query().map_or(0, |address| address.as_str().len()) > ADDRESS_BYTES {
        return refuse(StatusCode::URI_TOO_LONG, format!("the address is longer than {ADDRESS_BYTES} bytes"));
    }
    let (head, body) = request.into_parts();
    match timeout(BODY, to_bytes(body, BODY_BYTES)).await {
        Ok(Ok(_)) => {}
        Ok(Err(_)) => {
            let message = format!("the body is larger than {BODY_BYTES} bytes, or broken");
            return refuse(StatusCode::PAYLOAD_TOO_LARGE, message);
        }
        Err(_) => {
            let message = format!("the body did not come within {} s", BODY.as_secs());
            return refuse(StatusCode::REQUEST_TIMEOUT, message);
        }
    }
    let answer = timeout(ANSWER, next.run(Request::from_parts(head, Body::empty()))).await;
    let mut answer = answer.unwrap_or_else(|_| {
        refuse(StatusCode::GATEWAY_TIMEOUT, format!("no answer within {} s", ANSWER.as_secs()))
    });
    answer.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    answer
}
