//! Transactions on a fixed schedule, whether or not those before them are answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::Row;

use super::super::apart::apart;
use super::super::world::PATIENCE;
use super::Load;
use super::tally::Sent;
use crate::cli::throwaway::servers::{connect, sql};
use crate::error::{Error, Result};

/// Connections, each of which takes the next transaction that is due. While all of them wait for their answers the
/// schedule runs late, which is told.
const WRITERS: usize = 16;
/// From the first connection to the first transaction. Who is connected later than that is late in the warm-up only.
const LEAD: Duration = Duration::from_millis(500);
/// As the applications have it: COMMIT is answered when it is on disk.
const DURABLE: &str = "SET synchronous_commit = on";
const TRANSACTION: &str = include_str!("writer.sql");

/// What is to be written.
#[derive(Debug, Clone, Copy)]
pub struct Task {
    /// How fast, and how much.
    pub load: Load,
    /// Transactions that were written before: each has a number of its own.
    pub written: u64,
    /// Users in the database.
    pub users: u32,
}

/// Writes it all.
pub async fn write(url: &str, task: Task) -> Result<Vec<Sent>> {
    let (next, begin) = (Arc::<AtomicU64>::default(), Instant::now() + LEAD);
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let writer = Writer { url: url.to_owned(), task, next: Arc::clone(&next), begin };
        writers.spawn(apart(async move || writer.run().await));
    }
    let writes = async {
        let mut all = Vec::new();
        while let Some(written) = writers.join_next().await {
            let written = written
                .map_err(|e| Error::definite(format!("a writer ended: {e}"), "report this as a bug"))?;
            all.extend(written?);
        }
        Ok(all)
    };
    let written = timeout(PATIENCE, writes).await;
    written.unwrap_or_else(|_| {
        Err(Error::definite("postgresql does not take what is written", "choose fewer --events"))
    })
}

struct Writer {
    url: String,
    task: Task,
    next: Arc<AtomicU64>,
    begin: Instant,
}

impl Writer {
    async fn run(self) -> Result<Vec<Sent>> {
        let client = connect(&self.url).await?;
        client.batch_execute(DURABLE).await.map_err(sql)?;
        let statement = client.prepare(TRANSACTION).await.map_err(sql)?;
        let users = i32::try_from(self.task.users).unwrap_or(i32::MAX);
        let mut sent = Vec::new();
        loop {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            if n >= self.task.load.transactions() {
                return Ok(sent);
            }
            let (number, due) = (number(self.task.written + n), self.task.load.due(n));
            // As a thread: the runtime's own clock ticks in milliseconds, and five transactions would come at once.
            std::thread::sleep((self.begin + due).saturating_duration_since(Instant::now()));
            let at = Instant::now();
            let row = client.query_one(&statement, &[&number, &users]).await.map_err(sql)?;
            sent.push(Sent {
                xid: xid(&row)?,
                due,
                late: at.saturating_duration_since(self.begin + due),
                at,
            });
        }
    }
}

/// What the transaction is called by, from 1.
fn number(before: u64) -> i64 {
    i64::try_from(before).unwrap_or(i64::MAX).saturating_add(1)
}

fn xid(row: &Row) -> Result<u64> {
    let text: String = row.try_get(0).map_err(sql)?;
    text.parse()
        .map_err(|_| Error::definite(format!("{text:?} is no transaction id"), "report this as a bug"))
}
