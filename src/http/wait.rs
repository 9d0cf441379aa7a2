//! `GET /api/redis-health/wait`: until Redis holds a position, so that an application reads what it wrote.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;

use super::Facts;
use super::envelope::envelope;
use crate::health::progress::{MAX_WAITERS, Waited};
use crate::lsn::Lsn;

/// How long a wait may take where nothing is said.
const DEFAULT_TIMEOUT_MS: u64 = 5_000;
/// How long it may take at most: a position that never comes must not hold a connection for long.
const MAX_TIMEOUT_MS: u64 = 30_000;

/// Both as they came: what is wrong with them is told in words.
#[derive(Debug, Deserialize)]
pub(super) struct Arguments {
    lsn: Option<String>,
    timeout_ms: Option<String>,
}

impl Arguments {
    fn parse(self) -> Result<(Lsn, Duration), String> {
        let lsn = self.lsn.ok_or("say which position: lsn=16/B374D848")?;
        let lsn: Lsn = lsn.parse().map_err(|error| format!("lsn: {error}"))?;
        let timeout_ms = match self.timeout_ms {
            None => Some(DEFAULT_TIMEOUT_MS),
            Some(text) => text.parse().ok().filter(|ms| *ms <= MAX_TIMEOUT_MS),
        };
        let timeout_ms =
            timeout_ms.ok_or_else(|| format!("timeout_ms is no whole number from 0 to {MAX_TIMEOUT_MS}"))?;
        // An insert position of an idle server stands behind a page header that the stream never passes.
        Ok((lsn.before_page_header(), Duration::from_millis(timeout_ms)))
    }
}

pub(super) async fn wait(
    State(facts): State<Facts>,
    arguments: Result<Query<Arguments>, QueryRejection>,
) -> Response {
    let arguments = arguments.map_err(|rejection| rejection.body_text());
    let (lsn, patience) = match arguments.and_then(|Query(arguments)| arguments.parse()) {
        Ok(understood) => understood,
        Err(mistake) => return envelope(StatusCode::BAD_REQUEST, &mistake, &json!({})),
    };
    let data = |applied: Option<Lsn>| json!({ "lsn": lsn.to_string(), "applied_lsn": applied.map(|lsn| lsn.to_string()) });
    match facts.health.progress().wait(lsn, patience).await {
        Waited::Reached(applied) => match facts.health.facts().not_carried().next() {
            None => envelope(StatusCode::OK, &format!("redis holds {lsn}"), &data(Some(applied))),
            Some(reason) => envelope(StatusCode::SERVICE_UNAVAILABLE, &reason, &data(None)),
        },
        Waited::Late(applied) => {
            let message = match applied {
                Some(applied) => format!("redis does not hold {lsn} yet: it is at {applied}"),
                None => "this instance has no stream at the moment, or redis is away".to_owned(),
            };
            envelope(StatusCode::GATEWAY_TIMEOUT, &message, &data(applied))
        }
        Waited::Standby => {
            let message = "another instance holds the slot: ask that one";
            envelope(StatusCode::SERVICE_UNAVAILABLE, message, &data(None))
        }
        Waited::Crowded => {
            let message = format!("{MAX_WAITERS} requests wait already");
            envelope(StatusCode::TOO_MANY_REQUESTS, &message, &data(None))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wrong_argument_is_told() {
        let parse = |lsn: Option<&str>, timeout_ms: Option<&str>| {
            Arguments { lsn: lsn.map(Into::into), timeout_ms: timeout_ms.map(Into::into) }.parse()
        };
        assert_eq!(parse(Some("0/10"), None), Ok((Lsn(16), Duration::from_secs(5))));
        assert_eq!(parse(Some("0/2018"), Some("0")), Ok((Lsn(0x2000), Duration::ZERO)));
        for (lsn, timeout_ms) in [
            (None, None),
            (Some("16"), None),
            (Some("g/1"), None),
            (Some("0/10"), Some("-1")),
            (Some("0/10"), Some("30001")),
            (Some("0/10"), Some("1s")),
            (Some("0/10"), Some("")),
        ] {
            assert!(parse(lsn, timeout_ms).is_err(), "{lsn:?} {timeout_ms:?}");
        }
    }
}
