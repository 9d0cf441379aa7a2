//! Every user of every table, by several readers: each takes the next range of ids, reads it in a short transaction, and
//! compares it with what Redis holds right after.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::page::Planner;
use super::{Parts, Patience, READERS, died};
use crate::error::Result;
use crate::resync::cursor::{Cursor, Range};
use crate::resync::known::Known;
use crate::resync::progress::Progress;
use crate::resync::read::{self, Which};
use crate::resync::table::Table;
use crate::sink::{Difference, Sink, told_where_to_look};
use crate::wire::Lease;

/// Users read in one transaction: what a reader holds of them is two MB.
const PAGE_USERS: usize = 250;

/// A table, and which of its ranges is the next.
struct Shelf {
    table: Table,
    cursor: Mutex<Cursor>,
}

/// Compares them all; who they are.
pub(super) async fn all(parts: &Parts) -> Result<Known> {
    let tables = parts.tables.iter().filter(|table| parts.wants(table));
    let shelf = |table: &Table| Shelf { table: table.clone(), cursor: Mutex::new(Cursor::new(None)) };
    let shelves: Arc<[Shelf]> = tables.map(shelf).collect();
    let expected = shelves.iter().map(|shelf| shelf.table.expected_rows).sum();
    let progress = Arc::new(Progress::start("comparing users", expected));
    let known = Arc::new(Mutex::new(Known::expecting(expected)));
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let (planner, parts, known) = (parts.planner(), parts.clone(), Arc::clone(&known));
        let (shelves, progress) = (Arc::clone(&shelves), Arc::clone(&progress));
        readers.spawn(Reader { parts, planner, shelves, progress, known, number, sink: None }.run());
    }
    while let Some(ended) = readers.join_next().await {
        ended.map_err(|_| died())??;
    }
    progress.finish();
    let mut known = std::mem::take(&mut *known.lock().await);
    known.sort();
    Ok(known)
}

struct Reader {
    parts: Parts,
    planner: Planner,
    shelves: Arc<[Shelf]>,
    progress: Arc<Progress>,
    known: Arc<Mutex<Known>>,
    number: usize,
    /// `None` before the first page.
    sink: Option<Sink>,
}

impl Reader {
    async fn run(mut self) -> Result<()> {
        let config = Arc::clone(&self.parts.config);
        let mut lease = Lease::new(&config.postgres);
        let mut patience = Patience::new(self.number);
        let shelves = Arc::clone(&self.shelves);
        for shelf in &*shelves {
            let mut unfinished = None;
            while let Err(fault) = self.read_shelf(&mut lease, shelf, &mut unfinished, &mut patience).await {
                patience.after(fault).await?;
                lease = Lease::new(&config.postgres);
            }
        }
        Ok(())
    }

    /// Compares range after range until none is left; after a fault the last one is `unfinished`.
    async fn read_shelf(
        &mut self,
        lease: &mut Lease<'_>,
        shelf: &Shelf,
        unfinished: &mut Option<Range>,
        patience: &mut Patience,
    ) -> Result<()> {
        loop {
            if unfinished.is_none() {
                *unfinished = next(lease, shelf).await?;
            }
            let Some(range) = unfinished.as_ref() else { return Ok(()) };
            self.compare(lease, &shelf.table, range).await?;
            *unfinished = None;
            patience.end();
        }
    }

    async fn compare(&mut self, lease: &mut Lease<'_>, table: &Table, range: &Range) -> Result<()> {
        let which = Which::Range { after: range.after.clone(), up_to: range.up_to.clone() };
        let page = self.planner.read(lease.client().await?, table, &which).await?;
        let sink = match &mut self.sink {
            Some(sink) => sink,
            none => none.insert(lease.while_waiting(self.parts.sink()).await?),
        };
        let found = lease.while_waiting(sink.compare(&page.plans, &self.parts.timed)).await;
        let found = found.map_err(told_where_to_look)?;
        let found: Vec<Difference> = found.into_iter().map(|(difference, _)| difference).collect();
        for user in page.differing(&found) {
            lease.while_waiting(self.parts.suspect(user.clone(), Vec::new())).await;
        }
        let (users, rows) = (page.plans.len() as u64, page.rows as u64);
        {
            let mut tally = self.parts.tally();
            tally.users += users;
            tally.without_keys += page.without_keys as u64;
        }
        self.known.lock().await.extend(page.plans.iter().map(|plan| &plan.user));
        self.progress.add(users);
        drop(page);
        lease.while_waiting(self.parts.pace.take(rows)).await;
        Ok(())
    }
}

/// The end of the next range is looked up under the lock: ranges never overlap.
async fn next(lease: &mut Lease<'_>, shelf: &Shelf) -> Result<Option<Range>> {
    let client = lease.client().await?;
    let mut cursor = shelf.cursor.lock().await;
    let Some(begin) = cursor.begin() else { return Ok(None) };
    let up_to = read::hop(client, &shelf.table, begin.as_deref(), PAGE_USERS).await?;
    Ok(cursor.hand_out(up_to))
}
