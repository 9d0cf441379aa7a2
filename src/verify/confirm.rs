//! Whoever differs, looked at again until it is certain or the stream does not come.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::page::Planner;
use super::passed::Stream;
use super::report::{Class, Found};
use super::{Parts, Patience, READERS, Suspect};
use crate::balance::User;
use crate::catalog::query_error;
use crate::error::Result;
use crate::keyplan::{KeyPlan, Step};
use crate::lsn::{Lsn, Xid64};
use crate::resync::read::Which;
use crate::resync::sweep;
use crate::sink::{Difference, Finding, Look, Sink, told_where_to_look};
use crate::wire::Lease;

/// Users who are looked at together.
const BATCH_SUSPECTS: usize = 1_000;
/// Looks in a row that must find the same: a row may go and come back, and a transaction be in one of a user's keys only.
const LOOKS: u32 = 2;
/// Looks after which somebody whose row changes all the time is left alone: the stream writes all of the keys each time.
const MAX_LOOKS: u32 = 12;
/// Shortest time between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// Looks again.
pub(super) struct Confirmer {
    parts: Parts,
    planner: Planner,
    stream: Stream,
}

/// Rows of suspects, and the position behind their reading.
struct Rows {
    /// By user; who is not in it is not in the database.
    plans: HashMap<User, KeyPlan>,
    read_before: Lsn,
}

/// Somebody under suspicion.
struct Open {
    suspect: Suspect,
    /// Looks in a row that found a difference.
    looks: u32,
    /// What the last look found.
    found: Vec<Finding>,
    class: Class,
}

impl Confirmer {
    pub(super) fn new(mut parts: Parts) -> Confirmer {
        // It hears suspects and names none: its own sender would keep it from ending.
        parts.suspects = mpsc::channel(1).0;
        Confirmer { planner: parts.planner(), stream: Stream::new(parts.clone()), parts }
    }

    /// Looks at whoever comes until nobody can come any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Suspect>) -> Result<()> {
        let config = Arc::clone(&self.parts.config);
        let mut lease = Lease::new(&config.postgres);
        let (mut sink, mut patience) = (None, Patience::new(READERS + 1));
        let mut batch = Vec::with_capacity(BATCH_SUSPECTS);
        while lease.while_waiting(inbox.recv_many(&mut batch, BATCH_SUSPECTS)).await > 0 {
            let suspects = joined(std::mem::take(&mut batch));
            while let Err(fault) = self.look_again(&suspects, &mut sink, &mut lease).await {
                patience.after(fault).await?;
                lease = Lease::new(&config.postgres);
            }
            patience.end();
        }
        Ok(())
    }

    async fn look_again(
        &mut self,
        suspects: &[Suspect],
        sink: &mut Option<Sink>,
        lease: &mut Lease<'_>,
    ) -> Result<()> {
        let sink = match sink {
            Some(sink) => sink,
            none => none.insert(lease.while_waiting(self.parts.sink()).await?),
        };
        self.look_at(suspects.to_vec(), sink, lease).await
    }

    async fn look_at(
        &mut self,
        suspects: Vec<Suspect>,
        sink: &mut Sink,
        lease: &mut Lease<'_>,
    ) -> Result<()> {
        let open = |suspect| Open { suspect, looks: 0, found: Vec::new(), class: Class::Wrong };
        let mut open: Vec<Open> = suspects.into_iter().map(open).collect();
        let mut certain = Vec::new();
        let mut before = self.rows(&open, lease).await?;
        for _ in 0..MAX_LOOKS {
            let late = self.stream.pass(sink, lease, before.read_before).await?;
            // Read once more: Redis may be past what was read before, and is compared with what is true now.
            let now = self.rows(&open, lease).await?;
            open = self.look(open, &now, sink, lease).await?;
            if let Some(why) = late {
                // What a later look would find is no more certain.
                self.note(certain, None);
                self.note(open, Some(&why));
                return Ok(());
            }
            if open.is_empty() {
                break;
            }
            let running = running(lease.client().await?).await?;
            let users: Vec<User> = open.iter().map(|open| open.suspect.user.clone()).collect();
            let applied = lease.while_waiting(sink.last_applied(&users)).await.map_err(told_where_to_look)?;
            let after = self.rows(&open, lease).await?;
            for (open, applied) in open.iter_mut().zip(applied) {
                let user = &open.suspect.user;
                let is_ahead = applied.is_some_and(|xid| running.contains(&xid_low(xid)));
                let rests = same(&before, &now, user) && same(&now, &after, user);
                open.looks = if rests && !is_ahead { open.looks + 1 } else { 0 };
            }
            certain.extend(open.extract_if(.., |open| open.looks >= LOOKS));
            before = after;
            if open.is_empty() {
                break;
            }
            lease.while_waiting(tokio::time::sleep(PAUSE)).await;
        }
        self.parts.tally().changing += open.len() as u64;
        self.note(certain, None);
        Ok(())
    }

    /// Reports them; `uncertain` says why it is not certain.
    fn note(&self, open: Vec<Open>, uncertain: Option<&str>) {
        let mut tally = self.parts.tally();
        for Open { suspect, found: findings, class, .. } in open {
            tally.note(Found { user: suspect.user, class, findings, uncertain }, &self.parts.key_map);
        }
    }

    /// Those whose keys do not hold what `rows` say.
    async fn look(
        &self,
        open: Vec<Open>,
        rows: &Rows,
        sink: &mut Sink,
        lease: &mut Lease<'_>,
    ) -> Result<Vec<Open>> {
        let (mut held, gone): (Vec<Open>, Vec<Open>) =
            open.into_iter().partition(|open| rows.plans.contains_key(&open.suspect.user));
        let plans: Vec<KeyPlan> =
            held.iter().filter_map(|open| rows.plans.get(&open.suspect.user).cloned()).collect();
        let looks = lease.while_waiting(sink.look(&plans, &self.parts.timed)).await;
        let looks = looks.map_err(told_where_to_look)?;
        for (open, Look { difference, findings }) in held.iter_mut().zip(looks) {
            open.class = if difference == Difference::Absent { Class::Absent } else { Class::Wrong };
            open.found = findings;
        }
        let keys: Vec<Vec<Bytes>> = gone.iter().map(|open| self.keys_of(&open.suspect)).collect();
        let all: Vec<Bytes> = keys.iter().flatten().cloned().collect();
        let present = lease.while_waiting(sink.present(&all)).await.map_err(told_where_to_look)?;
        let mut present = present.into_iter();
        for (mut open, keys) in gone.into_iter().zip(keys) {
            let left = keys.into_iter().filter(|_| present.next().unwrap_or(false));
            open.class = Class::Orphaned;
            open.found = left.map(|key| Finding { key, field: None, wanted: None, held: None }).collect();
            held.push(open);
        }
        held.retain(|open| !open.found.is_empty());
        Ok(held)
    }

    /// Every key that a user who is gone may have, as far as it is known by its name.
    fn keys_of(&self, suspect: &Suspect) -> Vec<Bytes> {
        let mut keys = suspect.keys.clone();
        for step in self.parts.key_map.keys_of(&suspect.user) {
            if let Step::Delete { key, .. } = step
                && !keys.contains(&key)
            {
                keys.push(key);
            }
        }
        keys
    }

    async fn rows(&mut self, open: &[Open], lease: &mut Lease<'_>) -> Result<Rows> {
        let mut rows = Rows { plans: HashMap::with_capacity(open.len()), read_before: Lsn::ZERO };
        let users: HashSet<&User> = open.iter().map(|open| &open.suspect.user).collect();
        for table in &*Arc::clone(&self.parts.tables) {
            let of_table = users.iter().filter(|user| sweep::may_hold(table, &user.user_type));
            let ids: HashSet<&str> = of_table.map(|user| &*user.id).filter(|id| table.can_hold(id)).collect();
            let which = Which::Ids(ids.into_iter().map(str::to_owned).collect());
            let page = self.planner.read(lease.client().await?, table, &which).await?;
            rows.read_before = rows.read_before.max(page.read_before);
            let wanted = page.plans.into_iter().filter(|plan| users.contains(&plan.user));
            rows.plans.extend(wanted.map(|plan| (plan.user.clone(), plan)));
        }
        Ok(rows)
    }
}

/// Each user once, with all keys that were named.
fn joined(suspects: Vec<Suspect>) -> Vec<Suspect> {
    let mut by_user: HashMap<User, Vec<Bytes>> = HashMap::with_capacity(suspects.len());
    for Suspect { user, keys } in suspects {
        by_user.entry(user).or_default().extend(keys);
    }
    by_user.into_iter().map(|(user, keys)| Suspect { user, keys }).collect()
}

/// Whether a user's row stayed as it was, or stayed away.
fn same(before: &Rows, after: &Rows, user: &User) -> bool {
    match (before.plans.get(user), after.plans.get(user)) {
        (Some(before), Some(after)) => before.steps == after.steps,
        (before, after) => before.is_none() && after.is_none(),
    }
}

fn xid_low(xid: Xid64) -> u32 {
    u32::try_from(xid.0 & u64::from(u32::MAX)).unwrap_or_default()
}

/// Transactions that run, or have committed and are not visible yet: those that hold the lock of their own id.
async fn running(client: &Client) -> Result<HashSet<u32>> {
    const SQL: &str = "SELECT transactionid FROM pg_locks WHERE locktype = 'transactionid' AND granted";
    let failed = |error| query_error("asking for running transactions", &error);
    let messages = client.simple_query(SQL).await.map_err(failed)?;
    let xid = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    };
    Ok(messages.iter().filter_map(xid).collect())
}
