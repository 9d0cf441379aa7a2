//! All users of all tables into Redis, beside the running stream.
//!
//! Workers take ranges of ids from one cursor, read each in a short transaction and hand it to the pipeline,
//! which holds it until the stream has passed it. Progress is kept in Redis, so that a killed load goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::Reader;
use super::cursor::{self, Cursor, Range, Reached};
use super::known::Known;
use super::progress::Progress;
use super::read::{self, Which};
use super::sweep;
use super::table::{self, Table};
use crate::backoff::Backoff;
use crate::balance::Kind;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::metrics::count_gauge;
use crate::pipeline::ChunkEnd;
use crate::sink::LoadMark;
use crate::wire::{self, Lease};

/// First delay before a range is read again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest delay before a range is read again.
const RETRY_LIMIT: Duration = Duration::from_secs(5);
/// Shortest time between two marks of progress.
const MARK_INTERVAL: Duration = Duration::from_secs(1);

/// Loads everything behind what was reached, by this load or by one before that it goes on with, and marks it as
/// finished last.
pub async fn load(reader: Reader, reached: Reached) -> Result<()> {
    let running = reader.metrics.running.with_label_values(&["load"]);
    running.set(1);
    let published = reached.published.clone();
    let of = Reached { up_to: None, ..reached.clone() };
    let pass = Pass { kind: Kind::Loaded, mark: LoadMark::Progress, what: "loading users", of };
    pass_over(&reader, pass, None, reached).await?;
    // In this order: a mark of progress beside that of a finished load says that another one has begun.
    reader.keep(LoadMark::Progress, None).await?;
    reader.keep(LoadMark::Loaded, Some(cursor::record(&published))).await?;
    running.set(0);
    Ok(())
}

/// Why all users of some tables are read.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    /// What becomes of a row.
    pub(super) kind: Kind,
    /// Where its progress is kept.
    pub(super) mark: LoadMark,
    /// For the log and the progress bar.
    pub(super) what: &'static str,
    /// Its progress without a place: that of another pass is none of its own.
    pub(super) of: Reached,
}

/// Reads every user of the tables, by default of all, behind what was reached; then removes the keys of users whom
/// no table holds.
pub(super) async fn pass_over(
    reader: &Reader,
    pass: Pass,
    only: Option<&[String]>,
    reached: Reached,
) -> Result<()> {
    reader.metrics.users.set(0);
    let tables = described(reader).await?;
    let wanted = |table: &Table| only.is_none_or(|only| only.contains(&table.spec.to_string()));
    let left = || tables.iter().filter(|(index, table)| *index >= reached.table && wanted(table));
    let expected = left().map(|(_, table)| table.expected_rows).sum();
    count_gauge(&reader.metrics.users_expected, expected);
    let tally = Arc::new(Tally {
        progress: Progress::start(pass.what, expected),
        known: Mutex::new(Known::expecting(expected)),
    });
    for (index, table) in left() {
        let after = reached.up_to.clone().filter(|_| *index == reached.table);
        if after.is_none() {
            reader.rereads(table.spec.to_string()).await?;
        }
        let of_table = Reached { table: *index, ..pass.of.clone() };
        let cursor =
            Mutex::new(Shared { cursor: Cursor::new(after), reached: of_table, marked: Instant::now() });
        load_table(reader, &pass, Arc::new(table.clone()), Arc::new(cursor), &tally).await?;
    }
    let mut known = std::mem::take(&mut *tally.known.lock().await);
    known.sort();
    remove_the_gone(&mut reader.clone(), &known).await?;
    tally.progress.finish();
    Ok(())
}

/// Every table of users by its place in the configuration, as soon as all are there.
pub async fn described(reader: &Reader) -> Result<Vec<(usize, Table)>> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT, 0);
    loop {
        match describe(&reader.config).await {
            Err(fault) if fault.is_transient() => {
                reader.note_fault(&fault, backoff.attempts());
                tokio::time::sleep(backoff.next_delay()).await;
            }
            described => {
                // Whoever asked may have nothing to read and no other news: the audit for example.
                if backoff.attempts() > 0 && described.is_ok() {
                    reader.note_read();
                }
                return described;
            }
        }
    }
}

/// Every table of users by its place in the configuration.
///
/// # Errors
/// As [`table::describe`], and those of the connection.
pub async fn describe(config: &Config) -> Result<Vec<(usize, Table)>> {
    let client = wire::sql::connect(&config.postgres).await?;
    let mut tables = Vec::new();
    for (index, spec) in config.tables.iter().enumerate() {
        if spec.is_users() {
            tables.push((index, table::describe(&client, spec).await?));
        }
    }
    Ok(tables)
}

/// Deletes the keys of users who are not in the database; from the beginning after a fault. Who is `known` is.
async fn remove_the_gone(reader: &mut Reader, known: &Known) -> Result<()> {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT, 1);
    loop {
        let tables: Vec<Table> = described(reader).await?.into_iter().map(|(_, table)| table).collect();
        match sweep::sweep(reader, &tables, known).await {
            Err(fault) if fault.is_transient() => {
                reader.note_fault(&fault, backoff.attempts());
                tokio::time::sleep(backoff.next_delay()).await;
            }
            Err(fault) => return Err(fault),
            Ok(gone) => {
                reader.note_read();
                reader.metrics.users_removed.inc_by(gone);
                if gone > 0 {
                    tracing::info!(users = gone, "removed keys of users who are not in the database");
                }
                return Ok(());
            }
        }
    }
}

/// What a pass has come across.
struct Tally {
    progress: Progress,
    /// Who was read. Nobody of them has to be looked up when all keys are: who is gone since, of that the stream tells.
    known: Mutex<Known>,
}

/// What the workers of one table share.
struct Shared {
    cursor: Cursor,
    /// What is reached, but for the id.
    reached: Reached,
    /// When progress was last kept.
    marked: Instant,
}

async fn load_table(
    reader: &Reader,
    pass: &Pass,
    table: Arc<Table>,
    shared: Arc<Mutex<Shared>>,
    tally: &Arc<Tally>,
) -> Result<()> {
    let mut workers = JoinSet::new();
    for seed in 0..reader.config.load.workers {
        let worker = Worker {
            reader: reader.clone(),
            pass: pass.clone(),
            table: Arc::clone(&table),
            shared: Arc::clone(&shared),
            tally: Arc::clone(tally),
            backoff: Backoff::new(RETRY_FIRST, RETRY_LIMIT, seed as u64),
        };
        workers.spawn(worker.run());
    }
    while let Some(worker) = workers.join_next().await {
        worker.map_err(|_| Error::definite("a worker of the load died", "report this as a bug"))??;
    }
    Ok(())
}

struct Worker {
    reader: Reader,
    pass: Pass,
    table: Arc<Table>,
    shared: Arc<Mutex<Shared>>,
    tally: Arc<Tally>,
    backoff: Backoff,
}

impl Worker {
    /// Loads ranges until none is left. After a fault the connection is made, the table described and the
    /// range read again: it may be DDL that passes, a column that is no more, or a server that restarts.
    async fn run(mut self) -> Result<()> {
        let mut unfinished = None;
        loop {
            match self.load_ranges(&mut unfinished).await {
                Err(fault) if fault.is_transient() => {
                    self.reader.note_fault(&fault, self.backoff.attempts());
                    tokio::time::sleep(self.backoff.next_delay()).await;
                }
                ended => return ended,
            }
        }
    }

    async fn load_ranges(&mut self, unfinished: &mut Option<Range>) -> Result<()> {
        let config = Arc::clone(&self.reader.config);
        let mut lease = Lease::new(&config.postgres);
        if self.backoff.attempts() > 0 {
            self.table = Arc::new(table::describe(lease.client().await?, &self.table.spec).await?);
        }
        loop {
            if unfinished.is_none() {
                *unfinished = self.next_range(lease.client().await?).await?;
            }
            let Some(range) = unfinished.as_ref() else { return Ok(()) };
            let which = Which::Range { after: range.after.clone(), up_to: range.up_to.clone() };
            let client = lease.client().await?;
            let rows = read::read(client, &self.table, &which).await?;
            if !rows.is_flushed
                && let Err(fault) = read::flush(client).await
            {
                // The server does it by itself, only later.
                tracing::debug!(%fault, "the load waits for the WAL writer");
            }
            lease.while_waiting(self.reader.pace.take(rows.rows.len() as u64)).await;
            let planned = self.reader.plans(&self.table, &rows, self.pass.kind);
            let users = (planned.0.len() + planned.1.len()) as u64;
            self.tally.known.lock().await.extend(planned.0.iter().map(|plan| &plan.user));
            let handed_in = self.reader.hand_over(planned, rows);
            if lease.while_waiting(handed_in).await? == ChunkEnd::ReadAgain {
                continue;
            }
            self.backoff.reset();
            self.reader.note_read();
            if let Some(range) = unfinished.take() {
                lease.while_waiting(self.finish(range, users)).await?;
            }
        }
    }

    /// The end of the next range is looked up under the lock: ranges never overlap.
    async fn next_range(&self, client: &tokio_postgres::Client) -> Result<Option<Range>> {
        let mut shared = self.shared.lock().await;
        let Some(begin) = shared.cursor.begin() else { return Ok(None) };
        let up_to =
            read::hop(client, &self.table, begin.as_deref(), self.reader.config.load.chunk_rows).await?;
        Ok(shared.cursor.hand_out(up_to))
    }

    async fn finish(&self, range: Range, users: u64) -> Result<()> {
        self.tally.progress.add(users);
        self.reader.metrics.users.add(i64::try_from(users).unwrap_or(i64::MAX));
        let mut shared = self.shared.lock().await;
        let up_to = shared.cursor.finish(range);
        if up_to.is_none() || shared.marked.elapsed() < MARK_INTERVAL {
            return Ok(());
        }
        shared.marked = Instant::now();
        let reached = Reached { up_to, ..shared.reached.clone() };
        drop(shared);
        self.reader.keep(self.pass.mark, Some(reached.to_text())).await
    }
}
