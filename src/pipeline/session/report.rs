//! What a session tells: PostgreSQL, the metrics and the facts behind readiness.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::metrics::{count_gauge, lsn_gauge};
use crate::pipeline::clock;

/// Silence of the server after which the stream counts as cut; at half of it the server is asked for an answer. Longer
/// than `wal_sender_timeout`: the slot is free by then.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

impl Session<'_> {
    /// The regular status update.
    ///
    /// # Errors
    /// Transient where the server does not answer: a connection that is cut without a word would last for ever.
    pub(super) fn tell_status(&mut self, reading: bool) -> Result<()> {
        if !reading {
            self.heard = Instant::now();
        }
        let silence = self.heard.elapsed();
        if silence >= SILENCE_LIMIT {
            let fact = format!("postgres said nothing for {} s", SILENCE_LIMIT.as_secs());
            return Err(Error::transient(fact, "check the network to the database"));
        }
        self.queue_status(silence >= SILENCE_LIMIT / 2);
        Ok(())
    }

    pub(super) fn queue_status(&mut self, reply_requested: bool) {
        let flushed = self.margin.acknowledgeable(self.began.elapsed(), self.pipeline.unseen.first());
        self.pipeline.acknowledged = flushed;
        self.stream.queue_status(self.tracker.received_lsn(), flushed, reply_requested);
    }

    /// Takes in what snapshots see, where that is news.
    pub(super) fn note_snapshot(&mut self) {
        let told = self.pipeline.health.progress().take_snapshot();
        told.into_iter().for_each(|snapshot| self.pipeline.unseen.seen(snapshot));
    }

    /// Tells how things stand.
    ///
    /// # Errors
    /// A Redis node was connected again, or lost its checkpoint: what it remembers has to be compared before the
    /// stream goes on.
    pub(super) fn report(&mut self) -> Result<()> {
        self.pipeline.note_applied(self.tracker.applied_lsn());
        self.pipeline.health.pulse().beat();
        let metrics = &self.pipeline.metrics.stream;
        metrics.turned.set(clock::now().as_secs_f64());
        // What every node holds is no lag, though it is sent again.
        let replays = self.tracker.applied_lsn() < self.pipeline.known.held();
        let applied = self.tracker.applied_lsn().max(self.pipeline.known.held());
        lsn_gauge(&metrics.received_lsn, self.tracker.received_lsn());
        lsn_gauge(&metrics.applied_lsn, applied);
        lsn_gauge(&metrics.confirmed_lsn, self.pipeline.acknowledged);
        let told = Lsn(self.pipeline.server_end.load(Ordering::Relaxed));
        count_gauge(&metrics.lag_bytes, self.server_end.max(told).bytes_since(applied));
        let oldest = self.pipeline.out_since.or(self.queue.oldest_commit()).filter(|_| !replays);
        let lag = oldest.map_or(Duration::ZERO, clock::since);
        metrics.lag_seconds.set(lag.as_secs_f64());
        self.pipeline.health.tell(|facts| facts.lag = lag);
        self.pipeline.note_gaps();
        let loaded = self.pipeline.metrics.load.loaded.get() == 1;
        self.pipeline.ledger.report(lag, loaded, Instant::now().into_std());
        self.refuse_uncompared()
    }
}
