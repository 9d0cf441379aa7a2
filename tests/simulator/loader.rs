//! Reading users beside the stream: what `lockstep::resync` does, with the model where that has SQL.

use std::sync::Arc;
use std::time::Duration;

use lockstep::balance::{Kind, Reread, User};
use lockstep::error::{Error, Result};
use lockstep::lsn::{Lsn, Snapshot, Xid64};
use lockstep::pgoutput::{Column, Datum, Relation, ReplicaIdentity, Tuple};
use lockstep::pipeline::asked::Questions;
use lockstep::pipeline::{Chunk, ChunkEnd, Errand, Finished, Look};
use lockstep::resync::Reader;
use lockstep::resync::cursor::{self, Cursor, Range, Reached};
use lockstep::resync::known::Known;
use lockstep::resync::read::Rows;
use lockstep::resync::table::Table;
use lockstep::sink::{LoadMark, Walk};
use tokio::sync::{Mutex, mpsc, watch};

use crate::model::pgoutput::{USERS, USERS_COLUMNS};
use crate::model::postgres::{self, Row};
use crate::mutants::Mutant;
use crate::world::Shared;

/// Delay before something is read again.
const RETRY: Duration = Duration::from_millis(100);
/// Users in doubt that are read together.
const BATCH: usize = 200;

/// Reads the users of the one table.
#[derive(Clone)]
pub struct Loader {
    pub world: Shared,
    pub instance: usize,
    pub reader: Reader,
    pub table: Arc<Table>,
}

/// The table, as SQL would describe it.
pub fn table(reader: &Reader) -> Table {
    let spec = reader.config.tables.iter().find(|spec| spec.is_users()).expect("a table of users").clone();
    let columns = USERS_COLUMNS.map(|(name, type_oid, is_key)| Column {
        is_key,
        name: name.into(),
        type_oid,
        type_modifier: -1,
    });
    let relation = Relation {
        oid: USERS,
        schema: "public".into(),
        name: "users".into(),
        identity: ReplicaIdentity::Default,
        columns: columns.into(),
    };
    Table {
        spec,
        qualified: "users".into(),
        select_list: String::new(),
        id_column: "id".into(),
        relation: Arc::new(relation),
        expected_rows: 0,
    }
}

type Cursors = Arc<Mutex<(Cursor, Reached, Known)>>;

impl Loader {
    /// All users, behind what was reached before; as `resync::load::load`.
    pub async fn load(self, reached: Reached) -> Result<()> {
        let published = reached.published.clone();
        let of = Reached { up_to: None, ..reached.clone() };
        self.pass_over(Kind::Loaded, LoadMark::Progress, of, reached).await?;
        self.reader.keep(LoadMark::Progress, None).await?;
        self.reader.keep(LoadMark::Loaded, Some(cursor::record(&published))).await
    }

    /// Users whose event could not be applied as written; as `resync::repair::repair`.
    pub async fn repair(self, mut users: mpsc::Receiver<User>) -> Result<()> {
        let mut batch = Vec::new();
        while users.recv_many(&mut batch, BATCH).await > 0 {
            let users: Vec<User> = std::mem::take(&mut batch);
            while let Err(fault) = self.repair_users(&users).await {
                transient(fault)?;
                tokio::time::sleep(RETRY).await;
            }
        }
        Ok(())
    }

    /// Resyncs of everything, as they are asked for; as `resync::asked::serve`.
    pub async fn serve(self, mut asked: watch::Receiver<Questions>) -> Result<()> {
        while asked.wait_for(|questions| !questions.lines.is_empty()).await.is_ok() {
            let Questions { lines, progress } = asked.borrow().clone();
            let Some(line) = lines.into_iter().next() else { continue };
            if let Err(fault) = self.answer(line, progress).await {
                transient(fault)?;
                tokio::time::sleep(RETRY).await;
            }
        }
        Ok(())
    }

    async fn answer(&self, line: String, progress: Option<String>) -> Result<()> {
        let reached = progress.map(|text| Reached::from_text(&text));
        let reached = reached.filter(|reached| reached.question.as_ref() == Some(&line));
        let of = Reached { question: Some(line.clone()), ..Reached::default() };
        let kind = Kind::Reread(Reread::Resync);
        self.pass_over(kind, LoadMark::Resync, of, reached.unwrap_or_default()).await?;
        self.reader.keep(LoadMark::Resync, None).await?;
        self.reader.errand(|done| Errand::Finished(Finished { line, done })).await
    }

    async fn pass_over(&self, kind: Kind, mark: LoadMark, of: Reached, reached: Reached) -> Result<()> {
        let cursors = Arc::new(Mutex::new((Cursor::new(reached.up_to), of, Known::default())));
        let worker = || self.clone().work(kind, mark, Arc::clone(&cursors));
        tokio::try_join!(worker(), worker())?;
        let mut known = std::mem::take(&mut cursors.lock().await.2);
        known.sort();
        while let Err(fault) = self.sweep(&known).await {
            transient(fault)?;
            tokio::time::sleep(RETRY).await;
        }
        Ok(())
    }

    /// Ranges until none is left.
    async fn work(mut self, kind: Kind, mark: LoadMark, cursors: Cursors) -> Result<()> {
        let mut unfinished = None;
        loop {
            match self.work_on(kind, mark, &cursors, &mut unfinished).await {
                Err(fault) => {
                    transient(fault)?;
                    tokio::time::sleep(RETRY).await;
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn work_on(
        &mut self,
        kind: Kind,
        mark: LoadMark,
        cursors: &Cursors,
        unfinished: &mut Option<Range>,
    ) -> Result<()> {
        loop {
            if unfinished.is_none() {
                let mut shared = cursors.lock().await;
                let Some(begin) = shared.0.begin().cloned() else { return Ok(()) };
                let up_to = self.hop(begin.as_deref()).await?;
                *unfinished = shared.0.hand_out(up_to);
            }
            let Some(range) = unfinished.as_ref() else { return Ok(()) };
            let bound = |id: &Option<String>| id.as_ref().and_then(|id| id.parse::<u32>().ok());
            let (after, up_to) = (bound(&range.after), bound(&range.up_to));
            let wanted =
                |id: u32| after.is_none_or(|after| id > after) && up_to.is_none_or(|up_to| id <= up_to);
            let rows = self.read(wanted).await?;
            let table = Arc::clone(&self.table);
            let (plans, _) = self.reader.plans(&table, &rows, kind);
            cursors.lock().await.2.extend(plans.iter().map(|plan| &plan.user));
            if self.reader.hand_in(&table, rows, kind).await? == ChunkEnd::ReadAgain {
                continue;
            }
            let Some(range) = unfinished.take() else { continue };
            let mut shared = cursors.lock().await;
            if let Some(up_to) = shared.0.finish(range) {
                let reached = Reached { up_to: Some(up_to), ..shared.1.clone() };
                drop(shared);
                self.reader.keep(mark, Some(reached.to_text())).await?;
            }
        }
    }

    /// The id so many users behind `after`.
    async fn hop(&self, after: Option<&str>) -> Result<Option<String>> {
        self.world.sql(self.instance, true).await?;
        let world = self.world.lock();
        let after = after.and_then(|after| after.parse::<u32>().ok());
        let rows = world.postgres.read(&world.postgres.snapshot());
        let mut beyond =
            rows.iter().map(|(user, _)| user.id).filter(|id| after.is_none_or(|after| *id > after));
        Ok(beyond.nth(self.reader.config.load.chunk_rows - 1).map(|id| id.to_string()))
    }

    /// One short transaction, and the insert position after it: each is a moment of its own.
    async fn read_users(
        &self,
        wanted: impl Fn(u32) -> bool,
    ) -> Result<(Snapshot, Vec<(postgres::User, Row)>, Lsn)> {
        self.world.sql(self.instance, false).await?;
        let snapshot = self.world.lock().postgres.snapshot();
        self.world.sql(self.instance, true).await?;
        let mut users = self.world.lock().postgres.read(&snapshot);
        users.retain(|(user, _)| wanted(user.id));
        self.world.sql(self.instance, false).await?;
        let mut world = self.world.lock();
        let end = world.postgres.wal;
        world.say(|| format!("    read {} users with {snapshot:?} before {end:X}", users.len()));
        let snapshot = match world.mutant {
            Some(Mutant::LsnTaggedChunks) => {
                Snapshot { xmin: Xid64(0), xmax: Xid64(end), running: Vec::new() }
            }
            _ => snapshot,
        };
        Ok((snapshot, users, Lsn(end).before_page_header()))
    }

    async fn read(&self, wanted: impl Fn(u32) -> bool) -> Result<Rows> {
        let (snapshot, users, read_before) = self.read_users(wanted).await?;
        let tuple = |(user, row): (postgres::User, Row)| {
            let (id, email, balance) = (user.id.to_string(), row.email_text(), row.balance_text());
            let columns = [id.as_str(), user.kind, &email, &balance].map(|text| Datum::Text(text.as_bytes()));
            Tuple::from_columns(&columns).expect("a small row")
        };
        let rows = users.into_iter().map(tuple).collect();
        Ok(Rows { snapshot, rows, read_before, is_flushed: true })
    }

    async fn repair_users(&self, users: &[User]) -> Result<()> {
        let mut left = users.to_vec();
        loop {
            let found = self.read_again(&left).await?;
            left.retain(|user| !found.contains(user));
            if left.is_empty() || self.remove_absent(&left).await? == left.len() {
                return Ok(());
            }
        }
    }

    /// Returns who was there.
    async fn read_again(&self, users: &[User]) -> Result<Vec<User>> {
        let mut reader = self.reader.clone();
        let is_meant = |id: &u32| users.iter().any(|user| *user.id == *id.to_string());
        let mut found = Vec::new();
        loop {
            let rows = self.read(|id| is_meant(&id)).await?;
            let (plans, _) = reader.plans(&self.table, &rows, Kind::Loaded);
            found.extend(plans.into_iter().map(|plan| plan.user));
            let kind = Kind::Reread(Reread::Repair);
            if reader.hand_in(&self.table, rows, kind).await? == ChunkEnd::Written {
                return Ok(found);
            }
        }
    }

    /// Keys of users who are gone, none of those who were read; as `resync::sweep`.
    async fn sweep(&self, known: &Known) -> Result<()> {
        let mut place = Some(Walk::new());
        while let Some(walk) = place {
            let (keys, next) = self.reader.errand(|done| Errand::Look(Look { walk, done })).await?;
            place = next;
            let users = keys.iter().filter_map(|key| {
                let (user_type, id) = self.reader.key_map.parse_key(std::str::from_utf8(key).ok()?)?;
                let user = User { user_type: user_type.into(), id: id.into(), numeric_id: true };
                (!known.holds(user_type, id)).then_some(user)
            });
            let users: std::collections::BTreeSet<User> = users.collect();
            self.remove_absent(&users.into_iter().collect::<Vec<_>>()).await?;
        }
        Ok(())
    }

    /// Keys of those whom the table does not hold; how many they are. As `resync::sweep::remove_absent`.
    async fn remove_absent(&self, users: &[User]) -> Result<usize> {
        loop {
            let (snapshot, present, read_before) = self.read_users(|_| true).await?;
            let present: Vec<String> = present.iter().map(|(user, _)| user.to_string()).collect();
            let absent =
                users.iter().filter(|user| !present.contains(&format!("{}:{}", user.user_type, user.id)));
            let plans: Vec<_> = absent.map(|user| self.reader.key_map.plan_absent(user)).collect();
            let count = plans.len();
            if count == 0 {
                return Ok(0);
            }
            let chunk = |done| {
                let refused = Vec::new();
                Errand::Chunk(Chunk {
                    plans,
                    refused,
                    snapshot,
                    read_before,
                    compares: None,
                    told: None,
                    done,
                })
            };
            if self.reader.errand(chunk).await? == ChunkEnd::Written {
                return Ok(count);
            }
        }
    }
}

fn transient(fault: Error) -> Result<()> {
    if fault.is_transient() { Ok(()) } else { Err(fault) }
}
