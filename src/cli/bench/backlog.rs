//! What is written to the database while Lockstep is away, and a second slot that stands before it.

use super::daemon::nobody_streams;
use super::table::Progress;
use super::world::World;
use crate::cli::output::grouped;
use crate::cli::throwaway::servers::sql;
use crate::error::Result;
use crate::lsn::Lsn;

/// The slot of everybody who is not Lockstep. Nothing is ever acknowledged there: it can be read again.
pub const SLOT: &str = "bench";

const EVENTS: &str = include_str!("backlog.sql");
/// Database transactions of one statement.
const PORTION: u64 = 20_000;

/// Committed transactions that Lockstep has not seen.
#[derive(Debug, Clone, Copy)]
pub struct Backlog {
    /// Behind the last of them.
    pub end: Lsn,
    /// Events that they are.
    pub events: u64,
}

/// Tables that nobody follows, `other_0` and on.
pub const OTHER_TABLES: u32 = 1_000;

/// What is written.
#[derive(Debug, Clone, Copy)]
pub enum Workload {
    /// Events about each user as often as about any other.
    Even,
    /// Four of five events are about one user of a hundred.
    Skewed,
    /// Even, and for each event one database transaction in one of the [`OTHER_TABLES`].
    BesideOtherTables,
}

impl Workload {
    /// In SQL, among how many users, from the first on, that of event `n` is.
    fn among(self, users: u32) -> String {
        match self {
            Workload::Even | Workload::BesideOtherTables => users.to_string(),
            Workload::Skewed => {
                format!("(CASE WHEN n % 5 < 4 THEN {} ELSE {users} END)", users.div_ceil(100))
            }
        }
    }

    /// In PL/pgSQL, what is written beside event `n`.
    fn beside(self) -> String {
        match self {
            Workload::Even | Workload::Skewed => String::new(),
            Workload::BesideOtherTables => format!(
                "EXECUTE format('INSERT INTO other_%s VALUES ($1, clock_timestamp())', n % {OTHER_TABLES})
                 USING n; COMMIT;"
            ),
        }
    }
}

/// Writes one database transaction for each event.
pub async fn of_events(world: &mut World, workload: Workload, progress: &Progress) -> Result<Backlog> {
    write(world, u64::from(world.size.events), workload, progress).await
}

/// Writes one event: what is left of a drain is its start.
pub async fn of_one_event(world: &mut World, progress: &Progress) -> Result<Backlog> {
    write(world, 1, Workload::Even, progress).await
}

async fn write(world: &mut World, events: u64, workload: Workload, progress: &Progress) -> Result<Backlog> {
    begin(world).await?;
    let (among, beside) = (workload.among(world.size.users), workload.beside());
    let all = world.written + events;
    while world.written < all {
        let last = all.min(world.written + PORTION);
        progress.step(&format!("writing the backlog, {} of {}", grouped(last), grouped(all)));
        let statement = EVENTS.replace(":first", &(world.written + 1).to_string());
        let statement = statement.replace(":last", &last.to_string()).replace(":among", &among);
        let statement = statement.replace(":beside", &beside);
        world.client.batch_execute(&statement).await.map_err(sql)?;
        world.written = last;
    }
    end(world, events).await
}

/// Changes all users in one database transaction.
pub async fn of_all_users(world: &World) -> Result<Backlog> {
    begin(world).await?;
    let statement = "UPDATE users SET wallet_balance = wallet_balance + 1.25, updated_at = clock_timestamp()";
    let users = world.client.execute(statement, &[]).await.map_err(sql)?;
    end(world, users).await
}

/// Moves the second slot here, and has nobody wait for the disk.
async fn begin(world: &World) -> Result<()> {
    stand_here(world).await?;
    world.client.batch_execute("SET synchronous_commit = off").await.map_err(sql)
}

/// Moves the second slot here.
pub async fn stand_here(world: &World) -> Result<()> {
    nobody_streams(world, SLOT).await?;
    let slot = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{SLOT}';
         SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')"
    );
    world.client.batch_execute(&slot).await.map_err(sql)
}

/// Has everything on disk, the pages of the tables too: nothing of it is written while something is measured.
async fn end(world: &World, events: u64) -> Result<Backlog> {
    let last = "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'bench', 'end')";
    world.client.batch_execute(last).await.map_err(sql)?;
    let end = world.wal_end().await?;
    world.client.batch_execute("CHECKPOINT").await.map_err(sql)?;
    Ok(Backlog { end, events })
}
