//! The continuous audit: every user of every table compared, a page at a time, at a rate that nobody feels.
//!
//! It finds what nothing announced: what was written while nothing was watched, or was too much to be remembered. Who
//! differs is a suspect like any other.
//!
//! What others derived of a user cannot be compared. Where nobody knows any more who was changed unwatched, it is deleted
//! once for everybody, in a walk that is faster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::error::{Error, Result};
use crate::resync::read::{self, Which};
use crate::resync::table::Table;
use crate::resync::{Pace, load};
use crate::verify::page::Planner;
use crate::wire::Lease;

use super::{Auditor, Tracked};

/// Fewest and most users read in one transaction; in between as many as in a second.
const PAGE_USERS: (usize, usize) = (100, 1_000);
/// Users a second, at least, of a walk that clears.
const CLEARED_PER_SECOND: usize = 1_000;
/// Users read in one transaction of such a walk: their derived keys are deleted together, and hold up the stream.
const CLEARED_TOGETHER: usize = 500;
/// Shortest time from one walk to the next: small tables are not read over and over.
const WALK_INTERVAL: Duration = Duration::from_secs(1);
/// First and longest delay before the walk goes on after a fault.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Walks over all users.
pub(super) struct Walker {
    parts: Auditor,
    planner: Planner,
    tracked: Tracked,
    /// Users a second; zero: there is no walk but those that clear.
    rate: usize,
    comparing: Walk,
}

/// How to walk.
#[derive(Clone)]
struct Walk {
    pace: Arc<Pace>,
    /// Users read in one transaction.
    page_users: usize,
    /// Whether derived keys are deleted.
    clears: bool,
}

impl Walk {
    fn comparing(rate: usize) -> Walk {
        Walk {
            pace: Arc::new(Pace::new(rate)),
            page_users: rate.clamp(PAGE_USERS.0, PAGE_USERS.1),
            clears: false,
        }
    }

    fn clearing(rate: usize) -> Walk {
        let pace = Arc::new(Pace::new(rate.max(CLEARED_PER_SECOND)));
        Walk { pace, page_users: CLEARED_TOGETHER, clears: true }
    }
}

impl Walker {
    pub(super) fn new(parts: Auditor, tracked: Tracked) -> Walker {
        let planner = Planner::new(&parts.reader.config, Arc::clone(&parts.reader.key_map));
        let rate = parts.reader.config.audit.users_per_second;
        Walker { planner, tracked, rate, comparing: Walk::comparing(rate), parts }
    }

    /// Walks for ever.
    ///
    /// # Errors
    /// Definite ones of the database.
    pub(super) async fn run(mut self) -> Result<()> {
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
        self.while_watched().await;
        let Some(due) = self.parts.ledger.is_everybody_due() else {
            return match self.rate {
                0 => Ok(()),
                _ => self.walk(self.comparing.clone()).await,
            };
        };
        // What was derived before the last of those changes is written within a grace.
        tokio::time::sleep(self.parts.reader.config.audit.grace).await;
        self.walk(Walk::clearing(self.rate)).await?;
        self.parts.ledger.everybody_cleared(due);
        tracing::info!("derived keys of all users were deleted once more");
        Ok(())
    }

    async fn walk(&mut self, walk: Walk) -> Result<()> {
        for (_, table) in load::described(&self.parts.reader).await? {
            let mut after = None;
            loop {
                self.while_watched().await;
                let (users, last) = self.page(&walk, &table, after).await?;
                walk.pace.take(users).await;
                match last {
                    Some(last) => after = Some(last),
                    None => break,
                }
            }
        }
        Ok(())
    }

    /// Not while there is no way to read Redis: it is busy then, or away.
    async fn while_watched(&mut self) {
        if self.tracked.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Looks at the next users; how many rows were read, and where the next page begins.
    async fn page(
        &mut self,
        walk: &Walk,
        table: &Table,
        after: Option<String>,
    ) -> Result<(u64, Option<String>)> {
        let config = Arc::clone(&self.parts.reader.config);
        let mut lease = Lease::new(&config.postgres);
        let up_to = read::hop(lease.client().await?, table, after.as_deref(), walk.page_users).await?;
        let which = Which::Range { after, up_to: up_to.clone() };
        let page = self.planner.read(lease.client().await?, table, &which).await?;
        // Redis may be slow, and a smart shutdown of the server waits for every connection.
        drop(lease);
        let users = page.plans.iter().map(|plan| &plan.user);
        if walk.clears && !self.parts.clear_derived(users).await? {
            return Err(Error::transient("the session ended before derived keys were deleted", ""));
        }
        let tracked = self.tracked.borrow().clone();
        if let Some(tracked) = tracked {
            let found = tracked.compare(&page.plans, self.parts.ledger.timed()).await;
            for user in page.differing(&found) {
                self.parts.ledger.suspect(user.clone(), Instant::now());
            }
            self.parts.metrics.audited.inc_by(page.plans.len() as u64);
        }
        Ok((page.rows as u64, up_to))
    }
}
