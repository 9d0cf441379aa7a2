//! Whether the stream has passed a position, as the checkpoints in Redis tell: the daemon is another process.

use std::time::{Duration, Instant};

use super::Parts;
use crate::catalog::Slot;
use crate::error::Result;
use crate::lsn::Lsn;
use crate::sink::{Sink, told_where_to_look};
use crate::wire::Lease;

/// How often Redis is asked; checkpoints are written five times a second at most.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often the database is asked whether anybody streams.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// How long nobody may hold the slot: another instance takes over faster.
const UNHELD: Duration = Duration::from_secs(5);
/// How long the checkpoints may stand still; an idle server flushes what no commit asks for within 15 s.
const STANDSTILL: Duration = Duration::from_secs(20);
/// Longest wait for one position.
const LONGEST: Duration = Duration::from_secs(60);

/// Knows how far the stream is.
pub(super) struct Stream {
    parts: Parts,
    applied: Option<Lsn>,
    /// Why it was given up to wait; it is still looked, once each time.
    stands: Option<String>,
}

impl Stream {
    pub(super) fn new(parts: Parts) -> Stream {
        Stream { parts, applied: None, stands: None }
    }

    /// Waits until every node holds everything before `wanted`; why not, where that does not come.
    ///
    /// # Errors
    /// A side that cannot be asked.
    pub(super) async fn pass(
        &mut self,
        sink: &mut Sink,
        lease: &mut Lease<'_>,
        wanted: Lsn,
    ) -> Result<Option<String>> {
        let begun = Instant::now();
        let (mut moved, mut held, mut asked) = (begun, begun, None::<Instant>);
        loop {
            let applied = lease.while_waiting(sink.applied()).await.map_err(told_where_to_look)?;
            if applied > self.applied {
                (self.applied, moved) = (applied, Instant::now());
            }
            if applied >= Some(wanted) {
                self.stands = None;
                return Ok(None);
            }
            if self.stands.is_none() && asked.is_none_or(|asked| asked.elapsed() >= ASK_INTERVAL) {
                asked = Some(Instant::now());
                let slot = Slot::read(lease.client().await?, &self.parts.config.postgres.slot).await?;
                if slot.is_some_and(|slot| slot.holder.is_some()) {
                    held = Instant::now();
                }
            }
            let place = || applied.map_or("nowhere".to_owned(), |applied| format!("at {applied}"));
            self.stands = match &self.stands {
                None if held.elapsed() >= UNHELD => Some("nothing streams".to_owned()),
                None if moved.elapsed() >= STANDSTILL => Some(format!("the stream stands {}", place())),
                None if begun.elapsed() >= LONGEST => Some(format!("the stream is late, {}", place())),
                stands => stands.clone(),
            };
            if let Some(stands) = &self.stands {
                return Ok(Some(stands.clone()));
            }
            lease.while_waiting(tokio::time::sleep(LOOK_INTERVAL)).await;
        }
    }
}
