//! `lockstep health`

use std::time::Duration;

use axum::http::StatusCode;

use super::Exit;
use super::instance::{self, Answer};
use super::output::say;
use crate::config::Config;
use crate::error::{Error, Result};

/// Longest time that the instance may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Ask the instance that runs here whether it lives, as a container's health check does; exit code 1 if it does not
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Ask whether it is ready: it streams, Redis holds all users and is not far behind
    #[arg(long)]
    ready: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<Exit> {
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let address = instance::reachable(config.http.listen);
    let unanswered = |why: String| {
        Error::transient(
            format!("{address} does not answer ({why})"),
            "check that lockstep runs here with this http.listen",
        )
    };
    let Answer { status, body } =
        instance::get(&config.http, path, ANSWER_TIMEOUT).await.map_err(unanswered)?;
    let message = serde_json::from_slice(&body).ok().and_then(|body: serde_json::Value| {
        let message = body.get("message")?.as_str()?;
        Some(message.to_owned())
    });
    match (status, message) {
        (StatusCode::OK, message) => {
            say(message.unwrap_or_default());
            Ok(Exit::Done)
        }
        (StatusCode::SERVICE_UNAVAILABLE, Some(reason)) => Err(Error::transient(reason, "")),
        _ => Err(unanswered("what answers is not lockstep".to_owned())),
    }
}
