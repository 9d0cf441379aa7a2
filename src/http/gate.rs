//! Who may ask about users: whoever has the operator's token, so many times a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use ring::hmac;
use ring::rand::SystemRandom;
use serde_json::json;

use super::Facts;
use super::envelope::envelope;
use crate::config;

/// How long the calls that come at once after a pause may be ahead of their rate.
const BURST: Duration = Duration::from_secs(1);

/// The token, and the calls that were let through.
pub(super) struct Gate {
    /// `None`: no token is configured, or there is no randomness to compare it by.
    token: Option<Token>,
    pace: Pace,
}

/// A token, known by its keyed digest: comparing that takes the same time whatever is presented.
struct Token {
    key: hmac::Key,
    tag: hmac::Tag,
}

/// What becomes of a call.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    Granted,
    NoToken,
    Denied,
    Later(Duration),
}

impl Gate {
    pub(super) fn new(http: &config::Http) -> Gate {
        let token = http.token.as_ref().and_then(|token| Token::new(token.expose()));
        Gate { token, pace: Pace::new(http.requests_per_second) }
    }

    fn admit(&self, headers: &HeaderMap, now: Instant) -> Admission {
        let Some(token) = &self.token else { return Admission::NoToken };
        match presented(headers) {
            // Guesses do not use up what is the operator's.
            Some(presented) if token.is(presented) => match self.pace.take(now) {
                Ok(()) => Admission::Granted,
                Err(wait) => Admission::Later(wait),
            },
            _ => Admission::Denied,
        }
    }
}

impl Token {
    fn new(token: &str) -> Option<Token> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok()?;
        let tag = hmac::sign(&key, token.as_bytes());
        Some(Token { key, tag })
    }

    fn is(&self, presented: &[u8]) -> bool {
        hmac::verify(&self.key, presented, self.tag.as_ref()).is_ok()
    }
}

/// The bearer token of a request, where it has exactly one.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.as_bytes().split_at_checked("bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token)
}

/// So many calls a second, and as many at once after a pause.
struct Pace {
    /// Time that one call takes of a second.
    each: Duration,
    /// When all that were let through would be over, each in its time.
    over: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(per_second: usize) -> Pace {
        let per_second = u32::try_from(per_second).unwrap_or(u32::MAX).max(1);
        Pace { each: Duration::from_secs(1) / per_second, over: Mutex::new(None) }
    }

    /// Lets a call through, or tells how long it has to wait.
    fn take(&self, now: Instant) -> Result<(), Duration> {
        let mut over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        let next = over.filter(|over| *over > now).unwrap_or(now) + self.each;
        let ahead = next.saturating_duration_since(now);
        if ahead > BURST {
            return Err(ahead - BURST);
        }
        *over = Some(next);
        Ok(())
    }
}

/// Lets a call through, or says why not.
pub(super) async fn admit(State(facts): State<Facts>, request: Request, next: Next) -> Response {
    let refuse = |status, message: &str| envelope(status, message, &json!({}));
    match facts.gate.admit(request.headers(), Instant::now()) {
        Admission::Granted => next.run(request).await,
        Admission::NoToken => {
            refuse(StatusCode::FORBIDDEN, "no operator's token is configured: set http.token_file")
        }
        Admission::Denied => {
            let mut answer = refuse(StatusCode::UNAUTHORIZED, "the operator's token is missing or wrong");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            answer
        }
        Admission::Later(wait) => {
            let message = "more calls than http.requests_per_second: ask again later";
            let mut answer = refuse(StatusCode::TOO_MANY_REQUESTS, message);
            let seconds = HeaderValue::from(wait.as_secs() + 1);
            answer.headers_mut().insert(header::RETRY_AFTER, seconds);
            answer
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn gate(per_second: usize) -> Gate {
        Gate { token: Token::new(TOKEN), pace: Pace::new(per_second) }
    }

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_the_one_token_is_let_through() {
        let (gate, now) = (gate(10), Instant::now());
        let admit = |values: &[&str]| gate.admit(&headers(values), now);
        for right in [format!("Bearer {TOKEN}"), format!("bearer {TOKEN}"), format!("BEARER {TOKEN}")] {
            assert_eq!(admit(&[&right]), Admission::Granted);
        }
        let longer = format!("Bearer {TOKEN}0");
        let blank = format!("Bearer {TOKEN} ");
        let basic = format!("Basic {TOKEN}");
        for wrong in ["", "Bearer", "Bearer ", TOKEN, &longer, &blank, &basic, "Bearer 0123456789abcdef"] {
            assert_eq!(admit(&[wrong]), Admission::Denied, "{wrong}");
        }
        let right = format!("Bearer {TOKEN}");
        assert_eq!(admit(&[]), Admission::Denied);
        assert_eq!(admit(&[&right, &right]), Admission::Denied, "which of them?");
        let none = Gate { token: None, pace: Pace::new(10) };
        assert_eq!(none.admit(&headers(&[&right]), now), Admission::NoToken);
    }

    #[test]
    fn so_many_calls_are_let_through_in_a_second_and_guesses_use_none_up() {
        let (gate, now) = (gate(10), Instant::now());
        let right = headers(&[&format!("Bearer {TOKEN}")]);
        let granted = |now| (0..100).filter(|_| gate.admit(&right, now) == Admission::Granted).count();
        (0..1_000).for_each(|_| assert_eq!(gate.admit(&headers(&["Bearer guess"]), now), Admission::Denied));
        assert_eq!(granted(now), 10);
        assert_eq!(gate.admit(&right, now), Admission::Later(Duration::from_millis(100)));
        assert_eq!(granted(now + Duration::from_millis(250)), 2);
        assert_eq!(granted(now + Duration::from_secs(60)), 10, "a pause is no credit");
    }
}
