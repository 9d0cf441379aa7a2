//! The server, watched on a connection that does not stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use postgres_protocol::escape::escape_literal;
use tokio::time::MissedTickBehavior;

use super::published::{self, Carried, Question};
use crate::error::{Error, Result};
use crate::health::Health;
use crate::health::progress::WalEnd;
use crate::lsn::Lsn;
use crate::metrics::{StreamMetrics, count_gauge};
use crate::wire::Tripwire;

/// How often the end of WAL is read, for what the stream says of it stands still where the stream is not read; what snapshots
/// see; and whether the publication was changed, of which the stream says nothing.
const END_INTERVAL: Duration = Duration::from_millis(500);

/// How often the slot is looked at, and the publication's tables.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The clock first: a commit that was answered before it is before the end that is read after it. In microseconds
/// since 2000, as the stream counts them.
const END: &str = "SELECT (extract(epoch FROM clock_timestamp() - timestamptz '2000-01-01 00:00:00+00') * 1000000)::bigint, \
     pg_current_wal_insert_lsn(), pg_current_snapshot()";

/// Longest time that an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What is watched, and who is told.
pub struct Watch {
    /// The connection.
    pub tripwire: Tripwire,
    /// Name of the slot.
    pub slot: String,
    /// WAL that it may retain, in bytes.
    pub retained_max: u64,
    /// The SQL that asks for the publication.
    pub question: Question,
    /// The publication when the stream was started.
    pub carried: Carried,
    /// Told of the slot and of missing tables.
    pub metrics: StreamMetrics,
    /// Told of missing tables, the end of WAL and snapshots.
    pub health: Arc<Health>,
    /// Told of the end of WAL.
    pub server_end: Arc<AtomicU64>,
}

impl Watch {
    /// Watches until the server shuts down, the connection ends, the publication was changed or the slot retains too
    /// much; the fault says which.
    ///
    /// A fast shutdown waits until the stream has acknowledged all it was sent: whoever streams has to close the
    /// stream as soon as this ends.
    pub async fn run(mut self) -> Error {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut end = tokio::time::interval(END_INTERVAL);
        end.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_end = tokio::select! {
                fault = self.tripwire.tripped() => return fault,
                _ = look.tick() => false,
                _ = end.tick() => true,
            };
            let looked = async { if is_end { self.read_end().await } else { self.look().await } };
            let looked = tokio::time::timeout(ANSWER_TIMEOUT, looked).await;
            if let Err(fault) =
                looked.unwrap_or_else(|_| Err(Error::transient("postgres does not answer", "")))
            {
                return fault;
            }
        }
    }

    /// The end is told only where the publication, read behind it, is what it was when the stream was started: who has
    /// everything before an end has every change.
    async fn read_end(&mut self) -> Result<()> {
        let asked = Instant::now();
        let rows = self.tripwire.query(END).await?;
        let text = |index: usize| rows.first()?.get(index)?.as_deref();
        let clock = text(0).and_then(|text| text.parse().ok());
        let lsn = text(1).and_then(|text| text.parse::<Lsn>().ok());
        let snapshot = text(2).and_then(|text| text.parse().ok());
        snapshot.into_iter().for_each(|snapshot| self.health.progress().tell_snapshot(snapshot));
        if published::read_mark(&mut self.tripwire, &self.question).await? != self.carried.mark {
            return self.look_at_publication().await;
        }
        if let Some((clock, lsn)) = clock.zip(lsn).filter(|_| self.carried.is_whole()) {
            let lsn = lsn.before_page_header();
            self.health.progress().tell_wal_end(WalEnd { lsn, clock, asked });
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<()> {
        let question = format!(
            "SELECT pg_current_wal_lsn() - '0/0', pg_current_wal_lsn() - restart_lsn \
             FROM pg_replication_slots WHERE slot_name = {}",
            escape_literal(&self.slot)
        );
        let rows = self.tripwire.query(&question).await?;
        let number = |index: usize| rows.first()?.get(index)?.as_deref()?.parse().ok();
        self.server_end.fetch_max(number(0).unwrap_or(0), Ordering::Relaxed);
        let retained = number(1).unwrap_or(0);
        count_gauge(&self.metrics.slot_retained_bytes, retained);
        if retained > self.retained_max {
            return Err(Error::transient("the slot retains more WAL than postgres.retained_wal_max", ""));
        }
        self.look_at_publication().await
    }

    async fn look_at_publication(&mut self) -> Result<()> {
        let carried = published::read(&mut self.tripwire, &self.question).await?;
        if carried.is_whole() && carried.mark != self.carried.mark {
            return Err(Error::transient("the publication was changed: all users are loaded again", ""));
        }
        // Until it is whole again the stream goes on with the rest: a held one would keep WAL.
        self.tell_missing(carried.missing);
        Ok(())
    }

    fn tell_missing(&self, missing: Vec<String>) {
        let known = self.health.facts().unpublished;
        for table in missing.iter().filter(|table| !known.contains(table)) {
            tracing::error!(table, "the publication does not carry a followed table: run \"lockstep init\"");
        }
        count_gauge(&self.metrics.unpublished_tables, missing.len() as u64);
        self.health.tell(|facts| facts.unpublished = missing);
    }
}
