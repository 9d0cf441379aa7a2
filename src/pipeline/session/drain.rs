//! A session's end when a stop is asked for.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::{CHECKPOINT_INTERVAL, Session, serve};
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// How long a stop waits for Redis to take what was already received.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

impl Session<'_> {
    /// Brings what was received into Redis, acknowledges it and says goodbye; at once where the server goes too.
    pub(super) async fn drain(mut self, mut server: Pin<Box<dyn Future<Output = Error>>>) -> Result<()> {
        let deadline = tokio::time::sleep(DRAIN_TIMEOUT);
        tokio::pin!(deadline);
        let mut checkpointed = Lsn::ZERO;
        let mut status = tokio::time::interval(self.pipeline.limits.status_interval);
        loop {
            // What was applied since the last checkpoint left makes the next due at once; one that Redis did not
            // take has to wait.
            let applied = self.tracker.applied_lsn();
            if applied > std::mem::replace(&mut checkpointed, applied) {
                self.checkpointed = None;
            }
            if !self.must_compare() {
                self.launch();
            }
            let resting = self.pipeline.lane.is_idle();
            let is_recorded = !self.pipeline.quarantine.is_dirty();
            if resting && is_recorded && self.tracker.applied_lsn() <= self.tracker.stored_lsn() {
                break;
            }
            if resting && is_recorded && self.unkept && self.queue.events() == 0 {
                tracing::warn!(
                    "redis holds everything, but does not keep it as redis.durability asks: the slot keeps its position"
                );
                break;
            }
            if resting && self.must_compare() {
                tracing::warn!(
                    "redis takes no checkpoint before its records are compared: the next start does"
                );
                break;
            }
            tokio::select! {
                landed = self.pipeline.lane.landed() => self.land(landed?).await,
                () = tokio::time::sleep(CHECKPOINT_INTERVAL), if resting => {}
                // The slot stays ours as long as it takes.
                _ = status.tick() => {
                    self.pipeline.health.pulse().beat();
                    self.queue_status(false);
                }
                ended = serve(&mut self.stream, false) => { ended?; }
                _ = &mut server => return Ok(()),
                () = &mut deadline => {
                    tracing::warn!(events = self.queue.events(), "redis did not take everything before the stop: it is sent again at the next start");
                    break;
                }
            }
        }
        self.end_lease().await;
        self.queue_status(false);
        self.stream.close().await;
        Ok(())
    }
}
