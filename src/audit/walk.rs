//! The continuous audit: every user of every table compared, a page at a time, at a rate that nobody feels.
//!
//! It finds what nothing announced: what was written while nothing was watched, or was too much to be remembered. Who
//! differs is a suspect like any other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::error::Result;
use crate::metrics::AuditMetrics;
use crate::pipeline::Ledger;
use crate::resync::read::{self, Which};
use crate::resync::table::Table;
use crate::resync::{Pace, Reader, load};
use crate::verify::page::Planner;
use crate::wire::Lease;

use super::{Auditor, Tracked, while_watched};

/// Fewest and most users read in one transaction; in between as many as in a second.
const PAGE_USERS: (usize, usize) = (100, 1_000);
/// Shortest time from one walk to the next: small tables are not read over and over.
const WALK_INTERVAL: Duration = Duration::from_secs(1);
/// First and longest delay before the walk goes on after a fault.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Walks over all users.
pub(super) struct Walker {
    reader: Reader,
    planner: Planner,
    ledger: Arc<Ledger>,
    metrics: AuditMetrics,
    tracked: Tracked,
    pace: Pace,
    /// Users read in one transaction.
    page_users: usize,
    /// Whether there is to be no walk.
    is_off: bool,
}

impl Walker {
    pub(super) fn new(auditor: &Auditor, tracked: Tracked) -> Walker {
        let rate = auditor.reader.config.audit.users_per_second;
        Walker {
            planner: Planner::new(&auditor.reader.config, Arc::clone(&auditor.reader.key_map)),
            reader: auditor.reader.clone(),
            ledger: Arc::clone(&auditor.ledger),
            metrics: auditor.metrics.clone(),
            tracked,
            pace: Pace::new(rate),
            page_users: rate.clamp(PAGE_USERS.0, PAGE_USERS.1),
            is_off: rate == 0,
        }
    }

    /// Walks for ever.
    ///
    /// # Errors
    /// Definite ones of the database.
    pub(super) async fn run(mut self) -> Result<()> {
        if self.is_off {
            std::future::pending::<()>().await;
        }
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, 4);
        loop {
            tokio::time::sleep(WALK_INTERVAL).await;
            match self.walk_once().await {
                Err(fault) if fault.is_transient() => {
                    tracing::debug!(%fault, "the audit begins again");
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(fault) => return Err(fault),
                Ok(()) => backoff.reset(),
            }
        }
    }

    async fn walk_once(&mut self) -> Result<()> {
        while_watched(&mut self.tracked).await;
        for (_, table) in load::described(&self.reader).await? {
            let mut after = None;
            loop {
                while_watched(&mut self.tracked).await;
                let (users, last) = self.page(&table, after).await?;
                self.pace.take(users).await;
                match last {
                    Some(last) => after = Some(last),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Compares the next users; how many rows were read, and where the next page begins.
    async fn page(&mut self, table: &Table, after: Option<String>) -> Result<(u64, Option<String>)> {
        let config = Arc::clone(&self.reader.config);
        let mut lease = Lease::new(&config.postgres);
        let up_to = read::hop(lease.client().await?, table, after.as_deref(), self.page_users).await?;
        let which = Which::Range { after, up_to: up_to.clone() };
        let page = self.planner.read(lease.client().await?, table, &which).await?;
        // Redis may be slow, and a smart shutdown of the server waits for every connection.
        drop(lease);
        let Some(tracked) = self.tracked.borrow().clone() else { return Ok((0, up_to)) };
        let found = tracked.compare(&page.plans, self.ledger.timed()).await;
        for user in page.differing(&found) {
            self.ledger.suspect(user.clone(), Instant::now());
        }
        self.metrics.audited.inc_by(page.plans.len() as u64);
        Ok((page.rows as u64, up_to))
    }
}
