//! What a session tells of how far Redis is: to those who wait for a position, and to the readers of the lease.

use std::time::Duration;

use super::Session;
use crate::pipeline::lane::Cargo;
use crate::sink::Freshness;

/// How long a stop waits for Redis to take the lease away; it ends by itself where it does not.
const END_LEASE_TIMEOUT: Duration = Duration::from_secs(1);

impl Session<'_> {
    /// Tells how far Redis is, where that is news.
    pub(super) fn tell_applied(&mut self) {
        let (applied, progress) = (self.tracker.applied_lsn(), self.pipeline.health.progress());
        if applied != std::mem::replace(&mut self.told, applied) {
            progress.tell_applied(applied);
        }
        if self.lease.applied(applied) || !self.lease.waits_for_wal() {
            self.lease.take(|| progress.take_wal_end());
            self.lease.applied(applied);
        }
    }

    /// Whether anybody waits for a position past what is applied.
    pub(super) fn waits_for_wal(&self) -> bool {
        let applied = self.tracker.applied_lsn();
        self.lease.waits_for_wal()
            || self.pipeline.chunks.wants_past(applied)
            || self.pipeline.health.progress().wants_past(applied)
    }

    /// What the lease says behind this flight, where a renewal is due and this instance is ready.
    pub(super) fn freshness(&mut self, cargo: &Cargo) -> Option<Freshness> {
        if !cargo.takes_checkpoint() || !self.lease.is_due() {
            return None;
        }
        self.lease.try_later();
        // How late it is, is what the lease has proof of.
        let is_ready = self.pipeline.health.facts().not_ready_because(Duration::MAX).is_empty();
        self.lease.freshness().filter(|_| is_ready)
    }

    /// Takes the lease away. Where Redis does not, it ends by itself.
    pub(super) async fn end_lease(&mut self) {
        let Some(sink) = self.pipeline.lane.sink() else { return };
        if let Ok(Err(fault)) = tokio::time::timeout(END_LEASE_TIMEOUT, sink.end_lease()).await {
            tracing::debug!(%fault, "the lease ends by itself");
        }
    }
}
