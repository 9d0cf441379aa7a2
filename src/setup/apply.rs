//! Runs the statements of a step so that no writer waits for them.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::{Pace, Statement, Step};
use crate::backoff::Backoff;
use crate::catalog::{blockers, query_error};
use crate::error::{Error, Result};

/// How long a brief statement waits for its lock, and so how long others can queue behind it.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a brief statement is tried.
const LOCK_ATTEMPTS: u32 = 30;
/// Pauses between two attempts, first and longest.
const LOCK_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// How often it is said who holds up a patient statement.
const BLOCKERS_EVERY: Duration = Duration::from_secs(2);

/// Does what is left of a step. `watcher` is a second connection: it names who holds the first one up,
/// through `say`.
pub async fn apply(client: &Client, watcher: &Client, step: &Step, say: &mut dyn FnMut(&str)) -> Result<()> {
    for statement in step.statements() {
        match statement.pace {
            Pace::Brief => brief(client, &step.what, statement).await?,
            Pace::Patient => patient(client, watcher, &step.what, statement, say).await?,
        }
    }
    Ok(())
}

async fn brief(client: &Client, what: &str, statement: &Statement) -> Result<()> {
    set_lock_timeout(client, LOCK_TIMEOUT).await?;
    let mut backoff = Backoff::new(LOCK_PAUSE.0, LOCK_PAUSE.1, 0);
    loop {
        match client.batch_execute(&statement.sql).await {
            Ok(()) => return Ok(()),
            Err(e) if e.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
                if backoff.attempts() >= LOCK_ATTEMPTS {
                    return Err(Error::definite(
                        format!("{what}: another transaction kept the lock during {LOCK_ATTEMPTS} attempts"),
                        "end long transactions on the table, then run the command again",
                    ));
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Err(e) => return Err(query_error(what, &e)),
        }
    }
}

async fn patient(
    client: &Client,
    watcher: &Client,
    what: &str,
    statement: &Statement,
    say: &mut dyn FnMut(&str),
) -> Result<()> {
    set_lock_timeout(client, Duration::ZERO).await?;
    let row = client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(|e| query_error(what, &e))?;
    let pid: i32 = row.get(0);
    let work = client.batch_execute(&statement.sql);
    tokio::pin!(work);
    let mut said = Vec::new();
    loop {
        tokio::select! {
            done = &mut work => return done.map_err(|e| query_error(what, &e)),
            () = tokio::time::sleep(BLOCKERS_EVERY) => {
                let blockers = blockers(watcher, pid).await?;
                if !blockers.is_empty() && blockers != said {
                    say(&format!("{what}: waits for {}", blockers.join("; ")));
                    said = blockers;
                }
            }
        }
    }
}

/// Zero: no limit.
async fn set_lock_timeout(client: &Client, timeout: Duration) -> Result<()> {
    let sql = format!("SET lock_timeout = {}", timeout.as_millis());
    client.batch_execute(&sql).await.map_err(|e| query_error("setting lock_timeout", &e))
}
