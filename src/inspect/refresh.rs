//! All keys of a user written again from the database, because an operator asks for it.
//!
//! The row goes the way of every row that is read beside the stream: it waits until the stream has passed it and is
//! written behind the fence, so that it moves no key back. Where the fence knows of a change that the reading did not
//! see, nothing is written, and the row is read again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::look::late;
use super::report::Refreshed;
use super::who::{Found, Row, find, tables};
use super::{Inspector, Name, NoAnswer};
use crate::balance::{Kind, Reread};
use crate::error::Fault;
use crate::health::StreamState;
use crate::pipeline::{Chunk, Errand};
use crate::sink::Outcome;
use crate::wire::Lease;

/// Longest time for the whole of it.
const REFRESH: Duration = Duration::from_secs(10);
/// Pause before a row is read again.
const PAUSE: Duration = Duration::from_millis(100);

impl Inspector {
    /// Writes all keys of a user again, clears the derived ones, and publishes.
    ///
    /// # Errors
    /// Why that cannot be done; where it is late it may still be done.
    pub async fn refresh(&self, name: &Name) -> Result<Refreshed, NoAnswer> {
        self.can_write()?;
        let _turn = self.turn().await?;
        let written = tokio::time::timeout(REFRESH, self.write_until_applied(name)).await;
        written.map_err(|_| late("the keys were not written in time; they may still be"))?
    }

    /// Rows are written by the instance that streams, while Redis takes them.
    fn can_write(&self) -> Result<(), NoAnswer> {
        let facts = self.0.reader.health.facts();
        let away = |fact: &str, cure: &str| {
            let (fact, cure) = (fact.to_owned(), cure.to_owned());
            Err(NoAnswer::Away(Fault { fact, cure }))
        };
        match (facts.stream, facts.redis_fault) {
            (StreamState::Streaming, None) => Ok(()),
            (StreamState::Standby, _) => away("another instance holds the slot", "ask that one"),
            (StreamState::Reconnecting { fault }, _) => {
                away(&format!("there is no stream at the moment ({fault})"), "ask again when /readyz is 200")
            }
            (StreamState::Streaming, Some(fault)) => away(&fault, "ask again when /readyz is 200"),
            (StreamState::Starting | StreamState::MakingSlot { .. }, _) => {
                away("the stream has not started", "ask again when /readyz is 200")
            }
        }
    }

    async fn write_until_applied(&self, name: &Name) -> Result<Refreshed, NoAnswer> {
        let mut reader = self.0.reader.clone();
        let config = Arc::clone(&reader.config);
        let mut lease = Lease::new(&config.postgres);
        let tables = tables(&reader, &mut lease, name).await?;
        let kind = Kind::Reread(Reread::ForceRefresh);
        loop {
            let row = match find(&mut reader, &mut lease, &tables, (name, kind)).await? {
                Found::Row(row) => *row,
                Found::Nobody(user, read_before) => return Err(self.nobody(&user, read_before).await),
            };
            let Row { rows, event, plan, .. } = row;
            let (answer, doubt) =
                (Refreshed::of(&event.user, &plan), plan.doubt.as_ref().map(ToString::to_string));
            let (tell, told) = oneshot::channel();
            let (snapshot, read_before) = (rows.snapshot, rows.read_before);
            let (plans, refused, compares, told_to) = (vec![plan], Vec::new(), None, Some(tell));
            let chunk = |done| Chunk { plans, refused, snapshot, read_before, compares, told: told_to, done };
            // Forgotten where the stream ended: then there is nothing to be told, and it is read again.
            let _ = lease.while_waiting(reader.errand(|done| Errand::Chunk(chunk(done)))).await;
            let outcome = told.await.ok().and_then(|outcomes| outcomes.into_iter().next());
            match (outcome, doubt) {
                (Some(Outcome::Refused { reason }), _) => return Err(NoAnswer::Refused(reason)),
                (Some(Outcome::Applied(_)), Some(doubt)) => return Err(NoAnswer::Refused(doubt)),
                (Some(Outcome::Applied(_)), None) => {
                    tracing::info!("an operator had the keys of a user written again");
                    return Ok(answer);
                }
                (Some(Outcome::Skipped) | None, _) => lease.while_waiting(tokio::time::sleep(PAUSE)).await,
            }
            self.can_write()?;
        }
    }
}
