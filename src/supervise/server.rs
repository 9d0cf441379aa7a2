//! The server, watched on a connection that does not stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use postgres_protocol::escape::escape_literal;

use crate::error::Error;
use crate::metrics::{StreamMetrics, count_gauge};
use crate::wire::Tripwire;

/// How often the slot and the end of WAL are looked at: what the stream says of the end stands still where the
/// stream is not read.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Longest time that an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Watches until the server shuts down or the connection ends; the fault says which.
///
/// A fast shutdown waits until the stream has acknowledged all it was sent: whoever streams has to close the
/// stream as soon as this ends.
pub async fn watch(
    mut tripwire: Tripwire,
    slot: String,
    metrics: StreamMetrics,
    server_end: Arc<AtomicU64>,
) -> Error {
    let question = format!(
        "SELECT pg_current_wal_lsn() - '0/0', pg_current_wal_lsn() - restart_lsn \
         FROM pg_replication_slots WHERE slot_name = {}",
        escape_literal(&slot)
    );
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            fault = tripwire.tripped() => return fault,
            _ = look.tick() => {}
        }
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, tripwire.query(&question)).await;
        match answer.unwrap_or_else(|_| Err(Error::transient("postgres does not answer", ""))) {
            Ok(rows) => {
                let number = |index: usize| rows.first()?.get(index)?.as_deref()?.parse().ok();
                server_end.fetch_max(number(0).unwrap_or(0), Ordering::Relaxed);
                count_gauge(&metrics.slot_retained_bytes, number(1).unwrap_or(0));
            }
            Err(fault) => return fault,
        }
    }
}
