//! Single users read again: those whose event could not be applied as written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Reader;
use super::read::{self, Which};
use super::table::{self, Table};
use super::{load, sweep};
use crate::backoff::Backoff;
use crate::balance::{Kind, Reread, User};
use crate::config::UserType;
use crate::error::Result;
use crate::pipeline::ChunkEnd;
use crate::wire::Lease;

/// Users read in one transaction.
const BATCH_USERS: usize = 200;
/// First delay before a batch is read again.
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Longest delay before a batch is read again.
const RETRY_LIMIT: Duration = Duration::from_secs(5);
/// Pause before users are read who were read a moment ago: their commit may wait for a standby, for as long as that takes.
const AGAIN: Duration = Duration::from_millis(500);
/// That moment; all that fit into the queue come round within it.
const MOMENT: Duration = Duration::from_secs(60);
/// Users of whom that is remembered, twice what fits into the queue.
const MOST_READ: usize = 20_000;

/// Reads users as they come until the sender is gone; retries what may pass.
pub async fn repair(mut reader: Reader, mut users: mpsc::Receiver<User>) -> Result<()> {
    let running = reader.metrics.running.with_label_values(&["repair"]);
    let mut batch = Vec::with_capacity(BATCH_USERS);
    let mut read: HashMap<User, Instant> = HashMap::new();
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LIMIT, 1);
    while users.recv_many(&mut batch, BATCH_USERS).await > 0 {
        running.set(1);
        let distinct: HashSet<User> = batch.drain(..).collect();
        read.retain(|_, at| at.elapsed() < MOMENT);
        if read.len() > MOST_READ {
            read.clear();
        }
        if distinct.iter().any(|user| read.contains_key(user)) {
            tokio::time::sleep(AGAIN).await;
        }
        while let Err(fault) = repair_users(&mut reader, &distinct).await {
            if !fault.is_transient() {
                return Err(fault);
            }
            reader.note_fault(&fault, backoff.attempts());
            tokio::time::sleep(backoff.next_delay()).await;
        }
        read.extend(distinct.into_iter().map(|user| (user, Instant::now())));
        backoff.reset();
        reader.note_read();
        running.set(0);
    }
    Ok(())
}

/// Whom no table holds is gone, or came with a transaction that no snapshot sees yet: the fence knows which, and the
/// latter are repaired once more. Who is seen only by the second of the two readings is read again here.
async fn repair_users(reader: &mut Reader, users: &HashSet<User>) -> Result<()> {
    let config = Arc::clone(&reader.config);
    let mut left = users.clone();
    loop {
        let found = read_again(reader, &left, Kind::Reread(Reread::Repair)).await?;
        left.retain(|user| !found.contains(user));
        if left.is_empty() {
            return Ok(());
        }
        let tables: Vec<Table> = load::described(reader).await?.into_iter().map(|(_, table)| table).collect();
        let missing: Vec<User> = left.iter().cloned().collect();
        let mut lease = Lease::new(&config.postgres);
        let absent = sweep::remove_absent(reader, &mut lease, &tables, &missing).await?;
        if absent == missing.len() as u64 {
            return Ok(());
        }
    }
}

/// Reads users afresh and hands them in, each as `kind`; those who are not there are left alone. Returns who is.
pub(super) async fn read_again(
    reader: &mut Reader,
    users: &HashSet<User>,
    kind: Kind,
) -> Result<HashSet<User>> {
    let mut found = HashSet::new();
    let config = Arc::clone(&reader.config);
    let mut lease = Lease::new(&config.postgres);
    for spec in &config.tables {
        let of_table = users.iter().filter(|user| match &spec.user_type {
            UserType::Constant(user_type) => *user.user_type == **user_type,
            UserType::Column(_) => true,
        });
        let mut ids: Vec<String> = of_table.map(|user| user.id.to_string()).collect();
        if ids.is_empty() || !spec.is_users() {
            continue;
        }
        let table = table::describe(lease.client().await?, spec).await?;
        // Whom the table cannot hold is not in it: that user's keys stay deleted.
        ids.retain(|id| table.can_hold(id));
        if ids.is_empty() {
            continue;
        }
        let which = Which::Ids(ids);
        loop {
            let rows = read::read(lease.client().await?, &table, &which).await?;
            found.extend(reader.users_of(&table, &rows));
            let handed_in = reader.hand_in(&table, rows, kind);
            if lease.while_waiting(handed_in).await? == ChunkEnd::Written {
                break;
            }
        }
    }
    Ok(found)
}
