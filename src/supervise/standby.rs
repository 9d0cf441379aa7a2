//! Waiting for a slot that another instance holds.

use std::time::Duration;

use postgres_protocol::escape::escape_literal;

use crate::config::Postgres;
use crate::error::{Error, Result};
use crate::pipeline::Pipeline;
use crate::wire::Tripwire;

/// How often the slot is looked at. With the start behind it, this is all that a takeover waits for: the server frees
/// the slot as soon as it sees the socket closed.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Longest time that an answer of the server may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How often the way to Redis is looked after meanwhile.
const READY_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the way to Redis ready meanwhile, so that the first flight after a takeover need not look through all keys.
/// Redis may be away for as long. Comes back only with the fault that ended the last session's flight.
pub async fn keep_ready(pipeline: &mut Pipeline) -> Error {
    loop {
        match pipeline.sink().await {
            Ok(sink) => sink.stand_by().await,
            Err(fault) => return fault,
        }
        tokio::time::sleep(READY_INTERVAL).await;
    }
}

/// Waits until nobody streams from the slot, or it is gone.
///
/// On a connection that holds up no shutdown of the server, and is kept: no process is forked for a look.
///
/// # Errors
/// The server's, or that it shuts down or does not answer.
pub async fn wait_for_slot(postgres: &Postgres) -> Result<()> {
    let question = format!(
        "SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = {} AND active_pid IS NOT NULL",
        escape_literal(&postgres.slot)
    );
    let late = |_| Error::transient("postgres does not say who holds the slot", "");
    let mut tripwire = Tripwire::connect(postgres).await?;
    while !tokio::time::timeout(ANSWER_TIMEOUT, tripwire.query(&question)).await.map_err(late)??.is_empty() {
        tokio::select! {
            fault = tripwire.tripped() => return Err(fault),
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
    Ok(())
}
