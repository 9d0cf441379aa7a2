//! `lockstep status`
//!
//! | file | what it does |
//! |---|---|
//! | `direct` | asks the database and Redis, which say what they hold whether an instance runs or not |
//! | `rates` | what happened between two looks |
//! | `show` | all of it for people |
//! | `watch` | again and again |

mod direct;
mod rates;
mod show;
mod watch;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::output::{say, table};
use super::{Exit, instance};
use crate::config::{Config, Http};
use crate::error::{Error, Result};
use crate::http::console::state::State;
use direct::Status;
use rates::Rates;

/// Longest time for an answer: an instance looks at both sides before it gives one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Show how far the stream is, from the running instance, the database and Redis; exit code 1 if something is wrong
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object; with --watch one a line
    #[arg(long)]
    json: bool,
    /// Look again every second until Ctrl-C; lines where the output is no terminal
    #[arg(long)]
    watch: bool,
}

/// All there is to say.
#[derive(Serialize)]
struct Whole<'s> {
    #[serde(flatten)]
    status: &'s Status,
    /// What the running instance says of itself; `null` where none answers.
    instance: Option<&'s State>,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<Exit> {
    if args.watch {
        return watch::run(config, args.json).await;
    }
    let (instance, (mut status, mut faults)) = tokio::join!(ask(&config.http), direct::look(config));
    note_faults(&mut status, instance.as_ref());
    match args.json {
        true => say(json(&status, instance.as_ref(), true)?),
        false => table(&rows(config, &status, instance.as_ref(), None)),
    }
    let of_instance = status.faults.get(faults.len()).map(|fault| Error::definite(fault.clone(), ""));
    faults.extend(of_instance);
    faults.into_iter().next().map_or(Ok(Exit::Done), Err)
}

#[derive(Deserialize)]
struct Envelope {
    data: State,
}

/// What the instance says of itself; `None` where none answers.
async fn ask(http: &Http) -> Option<State> {
    let answer = instance::get(http, "/api/lockstep/state", ANSWER_TIMEOUT).await.ok()?;
    let Envelope { data } = serde_json::from_slice(&answer.body).ok()?;
    Some(data)
}

/// What the instance finds wrong is wrong, unless it was found already.
fn note_faults(status: &mut Status, instance: Option<&State>) {
    for fault in instance.into_iter().flat_map(|state| &state.faults) {
        if !status.faults.contains(fault) {
            status.faults.push(fault.clone());
        }
    }
}

fn rows(config: &Config, status: &Status, instance: Option<&State>, before: Option<&State>) -> show::Rows {
    let mut rows = match instance {
        Some(state) => show::instance(state, &Rates::between(before, state)),
        None => vec![("instance", format!("none answers at {}", config.http.listen))],
    };
    rows.extend(show::sides(status, config.postgres.retained_wal_max));
    rows
}

fn json(status: &Status, instance: Option<&State>, pretty: bool) -> Result<String> {
    let whole = Whole { status, instance };
    let text = if pretty { serde_json::to_string_pretty(&whole) } else { serde_json::to_string(&whole) };
    text.map_err(|e| Error::definite(format!("the status is no JSON ({e})"), "leave out --json"))
}
