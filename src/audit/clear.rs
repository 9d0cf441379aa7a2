//! What others derived of anybody, deleted once more where nobody knows any more who was changed while nothing was watched.
//!
//! All keys are looked at, not all users: those of a user who is gone are among them.

use std::time::Duration;

use bytes::Bytes;

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::pipeline::{AT_EASE, Errand, Look};
use crate::sink::{Clearing, Walk};

use super::{Auditor, Tracked, while_watched};

/// How often it is looked whether there is something to do.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// From one step to the next: each looks at about a thousand keys and holds up the stream for two round trips.
const STEP_INTERVAL: Duration = Duration::from_millis(20);
/// First and longest delay before a step is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Clears what was derived.
pub(super) struct Clearer {
    pub(super) parts: Auditor,
    pub(super) tracked: Tracked,
}

impl Clearer {
    /// Clears for ever, whenever it is due.
    ///
    /// # Errors
    /// Definite ones of the pipeline.
    pub(super) async fn run(mut self) -> Result<()> {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            while_watched(&mut self.tracked).await;
            let Some(due) = self.parts.ledger.is_everybody_due() else { continue };
            tracing::info!("derived keys of all users are deleted once more: some may be of older balances");
            // What was derived before the last of those changes is written within a grace.
            tokio::time::sleep(self.parts.reader.config.audit.grace).await;
            let deleted = self.clear_all().await?;
            self.parts.ledger.everybody_cleared(due);
            tracing::info!(deleted, "derived keys of all users were deleted once more");
        }
    }

    /// Returns how many keys were deleted.
    async fn clear_all(&mut self) -> Result<usize> {
        let grace = self.parts.reader.config.audit.grace;
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, 6);
        let (mut place, mut deleted) = (Some(Walk::new()), 0);
        while let Some(walk) = place.clone() {
            while_watched(&mut self.tracked).await;
            match self.step(walk).await {
                Ok((keys, next)) => {
                    (place, deleted) = (next, deleted + keys);
                    backoff.reset();
                    // Each key that goes is announced too, and must not crowd out what others write.
                    let rest = grace * u32::try_from(keys).unwrap_or(u32::MAX) / AT_EASE;
                    tokio::time::sleep(STEP_INTERVAL.max(rest)).await;
                }
                // The session ended. What is deleted stays so, and the same step is tried again.
                Err(fault) if fault.is_transient() => tokio::time::sleep(backoff.next_delay()).await,
                Err(fault) => return Err(fault),
            }
        }
        Ok(deleted)
    }

    async fn step(&self, walk: Walk) -> Result<(usize, Option<Walk>)> {
        let look = |done| Errand::Look(Look { walk, done });
        let (keys, next) = self.parts.reader.errand(look).await?;
        let keys: Vec<Bytes> = keys.into_iter().filter(|key| self.is_derived(key)).collect();
        let count = keys.len();
        if count > 0 && !self.parts.clear(Clearing { keys, plans: Vec::new() }).await? {
            return Err(Error::transient("the session ended before derived keys were deleted", ""));
        }
        Ok((count, next))
    }

    fn is_derived(&self, key: &Bytes) -> bool {
        let key = std::str::from_utf8(key).ok();
        let user_type = key.and_then(|key| self.parts.reader.key_map.derived_of(key));
        let tables = &self.parts.reader.config.tables;
        user_type.is_some_and(|of| tables.iter().any(|table| table.is_users() && table.may_hold(of)))
    }
}
