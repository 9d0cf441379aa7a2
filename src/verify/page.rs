//! A page of users, as the plans that their keys should follow.

use std::sync::Arc;

use tokio_postgres::Client;

use crate::balance::{Event, Kind, Mapping, Reread, User};
use crate::config::Config;
use crate::error::Result;
use crate::keyplan::{KeyMap, KeyPlan};
use crate::lsn::Lsn;
use crate::pgoutput::PgTime;
use crate::resync;
use crate::resync::read::{self, Rows, Which};
use crate::resync::table::Table;
use crate::sink::Difference;
use crate::txn::CommitInfo;

/// Knows what rows mean.
#[derive(Clone)]
pub struct Planner {
    mapping: Mapping,
    key_map: Arc<KeyMap>,
}

/// Users of one reading.
#[derive(Debug)]
pub struct Page {
    /// What their keys should hold.
    pub plans: Vec<KeyPlan>,
    /// Rows that touch no key.
    pub without_keys: usize,
    /// Rows that were read, those of users whom another shard follows among them.
    pub rows: usize,
    /// The insert position behind the reading.
    pub read_before: Lsn,
}

impl Planner {
    /// One for the followed tables.
    pub fn new(config: &Config, key_map: Arc<KeyMap>) -> Planner {
        Planner { mapping: Mapping::new(&config.tables), key_map }
    }

    /// Reads users of a table.
    ///
    /// # Errors
    /// As [`read::read`].
    pub async fn read(&mut self, client: &Client, table: &Table, which: &Which) -> Result<Page> {
        let rows = read::read(client, table, which).await?;
        Ok(self.page(table, &rows))
    }

    fn page(&mut self, table: &Table, rows: &Rows) -> Page {
        let (commit_lsn, xid) = (rows.read_before, rows.snapshot.xmax);
        let commit = Arc::new(CommitInfo { commit_lsn, time: PgTime(0), xid });
        let (Planner { mapping, key_map }, kind) = (self, Kind::Reread(Reread::Heal));
        let plan = |event: &Event| key_map.plan_keys(event);
        let (mut plans, refused) = resync::plans(mapping, table, rows, (kind, &commit), plan);
        for plan in plans.iter_mut().filter(|plan| plan.doubt.is_some()) {
            // What cannot be written as it is has no keys: readers ask the database.
            *plan = key_map.plan_absent(&plan.user);
        }
        let (without_keys, read) = (refused.len(), rows.rows.len());
        Page { plans, without_keys, rows: read, read_before: rows.read_before }
    }
}

impl Page {
    /// The users of whom `found`, one for each plan, says that they differ.
    pub fn differing<'p>(&'p self, found: &'p [Difference]) -> impl Iterator<Item = &'p User> {
        let differing = self.plans.iter().zip(found).filter(|(_, found)| **found != Difference::Equal);
        differing.map(|(plan, _)| &plan.user)
    }
}
