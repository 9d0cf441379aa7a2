//! Users read from the database beside the running stream: the first load, and users read again.
//!
//! Everything goes one way: rows are read in a short transaction ([`read`]), become plans like any event's,
//! and wait in the pipeline until the stream has passed them. What makes that exact is written in
//! [`crate::pipeline`].

pub mod asked;
pub mod cursor;
pub mod known;
pub mod load;
mod pace;
pub mod progress;
pub mod read;
pub mod repair;
pub mod sweep;
pub mod table;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::balance::{Event, Kind, Mapping, Refused, User};
use crate::catalog::query_error;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::health::Health;
use crate::keyplan::{KeyMap, KeyPlan};
use crate::lsn::Position;
use crate::metrics::LoadMetrics;
use crate::pgoutput::PgTime;
use crate::pipeline::{Chunk, ChunkEnd, Errand, ErrandSender, Mark};
use crate::sink::LoadMark;
use crate::txn::CommitInfo;
pub use pace::Pace;
use read::Rows;
use table::Table;

/// Pause before rows are read again because of a commit that they may not have seen: it may wait for long.
const READ_AGAIN: Duration = Duration::from_millis(100);

/// What reading users works with.
#[derive(Clone)]
pub struct Reader {
    /// The database, the followed tables, and the bounds.
    pub config: Arc<Config>,
    /// What the rows mean.
    pub mapping: Mapping,
    /// What is to happen to the keys.
    pub key_map: Arc<KeyMap>,
    /// Where chunks are handed in.
    pub errands: ErrandSender,
    /// Counters.
    pub metrics: LoadMetrics,
    /// Facts behind readiness.
    pub health: Arc<Health>,
    /// How fast users may be read by loads and resyncs.
    pub pace: Arc<Pace>,
}

impl Reader {
    /// Hands rows to the pipeline and waits until they are in Redis, or have to be read again.
    ///
    /// # Errors
    /// As [`errand`](Reader::errand).
    #[doc(hidden)]
    pub async fn hand_in(&mut self, table: &Table, rows: Rows, kind: Kind) -> Result<ChunkEnd> {
        let planned = self.plans(table, &rows, kind);
        self.hand_over(planned, rows).await
    }

    /// As [`hand_in`](Reader::hand_in), where it was planned before what the rows do.
    async fn hand_over(&self, planned: (Vec<KeyPlan>, Vec<Refused>), rows: Rows) -> Result<ChunkEnd> {
        let ((plans, refused), Rows { snapshot, read_before, .. }) = (planned, rows);
        let chunk = |done| Chunk { plans, refused, snapshot, read_before, compares: None, told: None, done };
        let end = self.errand(|done| Errand::Chunk(chunk(done))).await?;
        if end == ChunkEnd::ReadAgain {
            tokio::time::sleep(READ_AGAIN).await;
        }
        Ok(end)
    }

    /// What these rows do to Redis, and those that touch no key.
    pub fn plans(&mut self, table: &Table, rows: &Rows, kind: Kind) -> (Vec<KeyPlan>, Vec<Refused>) {
        let commit = self.commit_of(rows);
        let Reader { mapping, key_map, .. } = self;
        plans(mapping, table, rows, (kind, &commit), |event| key_map.plan(event))
    }

    /// Whose rows these are; not of those that touch no key.
    fn users_of(&mut self, table: &Table, rows: &Rows) -> Vec<User> {
        let commit = self.commit_of(rows);
        let user =
            |row| self.mapping.row_event(&table.relation, row, Kind::Loaded, &commit).ok().map(|e| e.user);
        rows.rows.iter().filter_map(user).filter(|user| table.spec.shard.holds(&user.id)).collect()
    }

    /// What stands for a commit with rows that were read. It is none of the stream's: the rows' time is their own,
    /// else that of the last commit at hand, and their position the stream's present one.
    fn commit_of(&self, rows: &Rows) -> Arc<CommitInfo> {
        let time = PgTime(self.health.last_commit());
        Arc::new(CommitInfo { commit_lsn: rows.read_before, time, xid: rows.snapshot.xmax })
    }

    /// Tells that users cannot be read at the moment; logged when it is new.
    fn note_fault(&self, fault: &Error, attempts: u32) {
        if attempts == 0 {
            tracing::warn!(%fault, "users cannot be read; trying again");
        }
        self.health.tell(|facts| facts.read_fault = Some(fault.to_string()));
    }

    /// Tells that users can be read.
    fn note_read(&self) {
        self.health.tell(|facts| facts.read_fault = None);
    }

    /// Has Redis keep a mark of the load, or forget it.
    ///
    /// # Errors
    /// As [`errand`](Reader::errand).
    #[doc(hidden)]
    pub async fn keep(&self, mark: LoadMark, value: Option<String>) -> Result<()> {
        self.errand(|done| Errand::Mark(Mark { mark, value, done })).await
    }

    /// Tells that the whole of a table is read from here on.
    async fn rereads(&self, table: String) -> Result<()> {
        let sent = self.errands.send(Errand::Rereads(table)).await;
        sent.map_err(|_| Error::definite("the pipeline stopped", ""))
    }

    /// Sends an errand and waits for its end.
    ///
    /// # Errors
    /// Transient where it was forgotten: a load begins again, and a repair beside it asks once more.
    #[doc(hidden)]
    pub async fn errand<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Errand) -> Result<T> {
        let (done, end) = oneshot::channel();
        let sent = self.errands.send(make(done)).await;
        sent.map_err(|_| Error::definite("the pipeline stopped", ""))?;
        end.await.map_err(|_| Error::transient("the load begins again", ""))
    }
}

/// What rows do to Redis, by `plan`, and those that touch no key; they count as of this kind, and the commit stands for
/// one with them.
pub fn plans(
    mapping: &mut Mapping,
    table: &Table,
    rows: &Rows,
    (kind, commit): (Kind, &Arc<CommitInfo>),
    plan: impl Fn(&Event) -> KeyPlan,
) -> (Vec<KeyPlan>, Vec<Refused>) {
    let (mut plans, mut refused) = (Vec::with_capacity(rows.rows.len()), Vec::new());
    let position = Position { commit_lsn: rows.read_before, ordinal: 0 };
    for row in &rows.rows {
        match mapping.row_event(&table.relation, row, kind, commit) {
            // Of ids of some types SQL cannot say whose they are.
            Ok(event) if !table.spec.shard.holds(&event.user.id) => {}
            Ok(event) => plans.push(plan(&event)),
            Err(reason) => {
                let (table, commit) = (table.spec.to_string().into(), Arc::clone(commit));
                refused.push(Refused { table, reason, commit, position });
            }
        }
    }
    (plans, refused)
}

/// What a failed statement about a followed table means: it may pass, whatever it is, since the table is
/// described again before the next attempt. DDL beside a read ends it by 42703, 42P01 or 42501.
fn passing(doing: &str, error: &tokio_postgres::Error) -> Error {
    Error::Transient(query_error(doing, error).fault().clone())
}
