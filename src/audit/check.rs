//! Suspects, compared: with what was written last, then with the database.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::backoff::Backoff;
use crate::balance::{Kind, Reread, User};
use crate::config::ForeignWrites;
use crate::error::{Error, Result};
use crate::keyplan::KeyPlan;
use crate::pipeline::{Chunk, ChunkEnd, Compares, Errand, Suspect};
use crate::resync::read::{self, Rows, Which};
use crate::resync::table::Table;
use crate::resync::{Pace, load, sweep};
use crate::sink::{Announced, Clearing, Difference, Expectation, TrackedReader};
use crate::wire::Lease;

use super::{Auditor, Tracked};

/// Suspects that are looked at together; those that differ are read in one transaction. Enough for a second of them, which
/// is how long rows may wait for the stream.
const BATCH_SUSPECTS: usize = 1_000;
/// How often it is looked whose time has come.
const TICK: Duration = Duration::from_millis(50);
/// Most suspects that are read from the database in a second: a burst of them is no burst there.
const SUSPECTS_PER_SECOND: usize = 2_000;
/// How long the description of the tables is used; a read that fails describes them again at once.
const DESCRIBED: Duration = Duration::from_secs(5);
/// Shortest time between two clearings of derived keys of the unwatched: each holds up the stream for some round trips.
const CLEAR_INTERVAL: Duration = Duration::from_millis(500);
/// First and longest delay before suspects are looked at again after a fault.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Looks at suspects as their time comes.
pub(super) struct Checker {
    parts: Auditor,
    tracked: Tracked,
    /// How fast the database is asked.
    pace: Pace,
    /// Whose derived keys are to be cleared, a second of them at most; and when that was done last.
    unwatched: Vec<User>,
    cleared: Instant,
    described: Option<(Instant, Vec<Table>)>,
}

impl Checker {
    pub(super) fn new(parts: Auditor, tracked: Tracked) -> Checker {
        Checker {
            parts,
            tracked,
            pace: Pace::new(SUSPECTS_PER_SECOND),
            unwatched: Vec::new(),
            cleared: Instant::now(),
            described: None,
        }
    }

    /// Looks for ever.
    ///
    /// # Errors
    /// Definite ones of the database.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, 5);
        let config = Arc::clone(&self.parts.reader.config);
        // Kept from one look to the next: several a second would each cost the database a process.
        let mut lease = Lease::new(&config.postgres);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            lease.while_waiting(tick.tick()).await;
            if self.tracked.borrow().is_none() {
                continue;
            }
            lease.while_waiting(self.clear_refills()).await?;
            lease.while_waiting(self.clear_unwatched()).await?;
            let mut suspects = self.parts.ledger.take_due(BATCH_SUSPECTS, Instant::now());
            if suspects.is_empty() {
                continue;
            }
            // After a full batch there may be more.
            if suspects.len() == BATCH_SUSPECTS {
                tick.reset_immediately();
            }
            self.note_unwatched(&mut suspects);
            match self.look_at(suspects.clone(), &mut lease).await {
                Err(fault) if fault.is_transient() => {
                    self.described = None;
                    lease = Lease::new(&config.postgres);
                    if backoff.attempts() == 0 {
                        tracing::warn!(%fault, "suspects cannot be compared; trying again");
                    }
                    self.parts.ledger.put_back(suspects, Instant::now());
                    tokio::time::sleep(backoff.next_delay()).await;
                }
                Err(fault) => return Err(fault),
                Ok(()) => backoff.reset(),
            }
        }
    }

    /// Derived keys that were computed before an event deleted them.
    async fn clear_refills(&self) -> Result<()> {
        let stale = self.parts.ledger.take_refills(Instant::now());
        if stale.is_empty() {
            return Ok(());
        }
        self.parts.metrics.stale_refills.inc_by(stale.len() as u64);
        if self.parts.ledger.mode() != ForeignWrites::Heal {
            return Ok(());
        }
        // Where the session ends, those who were changed lately are cleared by the next.
        self.parts.clear(Clearing { keys: stale, plans: Vec::new() }).await.map(drop)
    }

    /// Those who were changed while not everything was announced: a derived key that was computed before and written behind it
    /// looks like any other.
    fn note_unwatched(&mut self, suspects: &mut [Suspect]) {
        for suspect in suspects.iter_mut().filter(|suspect| suspect.cause.unwatched) {
            suspect.cause.unwatched = false;
            self.unwatched.push(suspect.user.clone());
        }
    }

    async fn clear_unwatched(&mut self) -> Result<()> {
        if self.unwatched.is_empty() || self.cleared.elapsed() < CLEAR_INTERVAL {
            return Ok(());
        }
        self.cleared = Instant::now();
        let users = std::mem::take(&mut self.unwatched);
        let is_cleared = match self.parts.ledger.mode() {
            ForeignWrites::Heal => {
                let plans = users.iter().map(|user| self.parts.reader.key_map.plan_derived(user));
                self.parts.clear(Clearing { keys: Vec::new(), plans: plans.collect() }).await?
            }
            ForeignWrites::Observe | ForeignWrites::Off => true,
        };
        match is_cleared {
            true => self.parts.ledger.cleared(users.len()),
            false => self.parts.ledger.not_cleared(users),
        }
        Ok(())
    }

    /// Those who do not hold what was written last are compared with the database.
    async fn look_at(&mut self, suspects: Vec<Suspect>, lease: &mut Lease<'_>) -> Result<()> {
        let suspects = lease.while_waiting(self.without_the_expired(suspects)).await?;
        let (known, mut others): (Vec<_>, Vec<_>) =
            suspects.into_iter().partition(|suspect| suspect.written.is_some());
        let left = |suspect: &Suspect| Some((suspect.written.clone()?, suspect.announced.clone()));
        let left: Vec<(Arc<Expectation>, Announced)> = known.iter().filter_map(left).collect();
        let holds = lease.while_waiting(self.reading()?.holds(&left)).await;
        let differs = known.into_iter().zip(holds).filter(|(_, holds)| !holds);
        others.extend(
            differs
                .map(|(suspect, _)| suspect)
                .filter(|suspect| !self.parts.ledger.postpone(suspect, Instant::now())),
        );
        if others.is_empty() {
            return Ok(());
        }
        lease.while_waiting(self.pace.take(others.len() as u64)).await;
        let tables = lease.while_waiting(self.tables()).await?;
        let mut by_user: HashMap<User, Suspect> =
            others.into_iter().map(|suspect| (suspect.user.clone(), suspect)).collect();
        for table in &tables {
            let ids = by_user.keys().filter(|user| sweep::may_hold(table, &user.user_type));
            let ids: Vec<String> =
                ids.filter(|user| table.can_hold(&user.id)).map(|user| user.id.to_string()).collect();
            if !ids.is_empty() {
                let rows = read::read(lease.client().await?, table, &Which::Ids(ids)).await?;
                lease.while_waiting(self.compare_rows(table, rows, &mut by_user)).await?;
            }
        }
        self.compare_absent(&tables, lease, by_user.into_values().collect()).await
    }

    /// A load writes many keys that live equally long, so they expire together: they are absent, and not wrong.
    async fn without_the_expired(&self, suspects: Vec<Suspect>) -> Result<Vec<Suspect>> {
        let only: Vec<Bytes> = suspects.iter().filter_map(|suspect| suspect.only.clone()).collect();
        if only.is_empty() {
            return Ok(suspects);
        }
        let mut absent = self.reading()?.absent(&only).await.into_iter();
        let stays = |suspect: &Suspect| suspect.only.is_none() || !absent.next().unwrap_or(false);
        Ok(suspects.into_iter().filter(stays).collect())
    }

    /// Users that a table holds; they leave `suspects`.
    async fn compare_rows(
        &mut self,
        table: &Table,
        rows: Rows,
        suspects: &mut HashMap<User, Suspect>,
    ) -> Result<()> {
        // A row that touches no key has none to be compared.
        let (plans, _) = self.parts.reader.plans(table, &rows, Kind::Reread(Reread::Heal));
        let (plans, found): (Vec<KeyPlan>, Vec<Suspect>) = plans
            .into_iter()
            .filter_map(|plan| suspects.remove(&plan.user).map(|suspect| (plan, suspect)))
            .unzip();
        let differences = self.compare(&plans).await?;
        let (mut wrong, mut whose) = (Vec::new(), Vec::new());
        for ((plan, suspect), difference) in plans.into_iter().zip(found).zip(differences) {
            if difference == Difference::Equal && self.parts.ledger.is_recent(&suspect, Instant::now()) {
                // A commit may be in the stream and not yet in what was read: only what rests is settled.
                self.parts.ledger.put_back(vec![suspect], Instant::now());
            } else if difference == Difference::Equal {
                self.note(&suspect, Some(Difference::Equal));
            } else if !self.parts.ledger.postpone(&suspect, Instant::now()) {
                wrong.push(plan);
                whose.push(suspect);
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        let heals = self.parts.ledger.mode() == ForeignWrites::Heal;
        let compares = Compares { heals, timed: Arc::clone(self.parts.ledger.timed()), found: tell };
        let Rows { snapshot, read_before, .. } = rows;
        let (plans, refused, compares) = (wrong, Vec::new(), Some(compares));
        let chunk = |done| Chunk { plans, refused, snapshot, read_before, compares, told: None, done };
        let end = self.parts.reader.errand(|done| Errand::Chunk(chunk(done))).await?;
        match (end, told.await) {
            (ChunkEnd::Written, Ok(found)) => {
                for (suspect, found) in whose.iter().zip(found) {
                    // Whom an event has changed since it was read looks different, and is a suspect again.
                    let found =
                        found.filter(|_| heals || !self.parts.ledger.postpone(suspect, Instant::now()));
                    self.note(suspect, found);
                }
            }
            _ => self.parts.ledger.put_back(whose, Instant::now()),
        }
        Ok(())
    }

    /// Users whom no table holds: nothing of theirs is to be there.
    async fn compare_absent(
        &mut self,
        tables: &[Table],
        lease: &mut Lease<'_>,
        suspects: Vec<Suspect>,
    ) -> Result<()> {
        let followed = |suspect: &Suspect| {
            let Suspect { user, .. } = suspect;
            sweep::user(tables, &user.user_type, &user.id).is_some()
        };
        let suspects: Vec<Suspect> = suspects.into_iter().filter(followed).collect();
        let key_map = &self.parts.reader.key_map;
        let plans: Vec<KeyPlan> = suspects.iter().map(|suspect| key_map.plan_absent(&suspect.user)).collect();
        let differences = lease.while_waiting(self.compare(&plans)).await?;
        let mut gone = Vec::new();
        for (suspect, difference) in suspects.iter().zip(differences) {
            if difference == Difference::Equal || !self.parts.ledger.postpone(suspect, Instant::now()) {
                self.note(suspect, Some(difference));
                gone.extend((difference != Difference::Equal).then(|| suspect.user.clone()));
            }
        }
        if self.parts.ledger.mode() == ForeignWrites::Heal && !gone.is_empty() {
            sweep::remove_absent(&mut self.parts.reader, lease, tables, &gone).await?;
        }
        Ok(())
    }

    /// Compares over the connections that are watched: what is written behind it is announced behind it.
    async fn compare(&self, plans: &[KeyPlan]) -> Result<Vec<Difference>> {
        Ok(self.reading()?.compare(plans, self.parts.ledger.timed()).await)
    }

    fn reading(&self) -> Result<TrackedReader> {
        let tracked = self.tracked.borrow().clone();
        tracked.ok_or_else(|| Error::transient("redis is not watched at the moment", ""))
    }

    async fn tables(&mut self) -> Result<Vec<Table>> {
        if let Some((_, tables)) = self.described.as_ref().filter(|(at, _)| at.elapsed() < DESCRIBED) {
            return Ok(tables.clone());
        }
        let tables: Vec<Table> =
            load::described(&self.parts.reader).await?.into_iter().map(|(_, table)| table).collect();
        self.described = Some((Instant::now(), tables.clone()));
        Ok(tables)
    }

    /// Counts what was found.
    fn note(&self, suspect: &Suspect, found: Option<Difference>) {
        let metrics = &self.parts.metrics;
        let heals = self.parts.ledger.mode() == ForeignWrites::Heal;
        let verdict = match found {
            None => return,
            // What we wrote ourselves and could not tell by what was written is announced as well.
            Some(Difference::Equal) if !suspect.cause.announced || suspect.is_ours() => return,
            Some(Difference::Equal) => "harmless",
            Some(Difference::Absent) => "absent",
            Some(Difference::Wrong) if heals => "healed",
            Some(Difference::Wrong) => "observed",
        };
        metrics.foreign_writes.with_label_values(&[verdict]).inc();
        if suspect.cause.audited && found != Some(Difference::Equal) {
            metrics.mismatches.inc();
        }
    }
}
