//! Asking the running instance for something, through the stream.

use std::time::Duration;

use postgres_protocol::escape::escape_literal;
use tokio_postgres::SimpleQueryMessage;

use crate::catalog::{Slot, query_error};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::pipeline::asked;
use crate::pipeline::quarantine::{self, State};
use crate::resync::asked::Question;
use crate::wire::sql;

/// How often Redis is asked whether it is done.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Returns a position behind the request.
pub(super) async fn ask(config: &Config, question: &Question) -> Result<Lsn> {
    let slot = &config.postgres.slot;
    let client = sql::connect(&config.postgres).await?;
    if Slot::read(&client, slot).await?.is_none() {
        return Err(Error::definite(format!("there is no slot {slot:?}"), "run \"lockstep init\""));
    }
    let text = serde_json::to_string(question).unwrap_or_default();
    let statement = format!(
        "SELECT pg_logical_emit_message(true, {}, {})",
        escape_literal(&asked::prefix(slot)),
        escape_literal(&text)
    );
    let failed = |error| query_error("asking for a resync", &error);
    client.simple_query(&statement).await.map_err(failed)?;
    // After the commit, which is behind the message itself.
    let messages = client.simple_query("SELECT pg_current_wal_insert_lsn()").await.map_err(failed)?;
    let lsn = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    let unexpected = || Error::definite("the database told no position", "report this as a bug");
    lsn.and_then(|lsn| lsn.parse().ok()).map(Lsn::before_page_header).ok_or_else(unexpected)
}

/// Waits until every node is past the request and it is on no record; how many entries of the quarantine are open.
pub(super) async fn done(config: &Config, asked: Lsn) -> Result<usize> {
    let mut sink = super::sink(config).await?;
    loop {
        let records = sink.read_records().await?;
        let passed = records
            .nodes
            .iter()
            .all(|node| node.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.applied >= asked));
        if passed && records.asked.is_none() {
            let entries = quarantine::entries(records.quarantine.as_deref().unwrap_or_default());
            return Ok(entries.iter().filter(|entry| entry.state == State::Open).count());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}
