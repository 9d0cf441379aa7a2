//! A flight, retried until every plan of it is acknowledged and its checkpoint stored.
//!
//! Order: a plan is only applied once the plan before it of the same fence is, which the script checks
//! itself. So calls may be cut anywhere and all be under way at once, and a call that fails leaves only
//! work that can be sent again.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use super::call::Call;
use super::chain;
use super::derived::{Derived, Fate};
use super::dispatch::Rest;
use super::group::{self, Part};
use super::keep::Stored;
use super::lanes::Trouble;
use super::reply::{NodeError, Reply};
use super::script::Verdict;
use super::slots::Address;
use super::{Applied, Fencing, Flight, Outcome, Sink};
use crate::backoff::Outage;
use crate::error::{Error, Result};
use crate::keyplan::Guard;

/// First and longest delay between attempts: what waits for Redis waits this much longer when it is back.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Redirects that are followed at once before they too wait.
const EAGER_REDIRECTS: u32 = 5;

/// How an attempt ends that meets no fault.
enum Attempt {
    /// All is done.
    Done,
    /// Nothing was sent: the records are to be compared first.
    Uncompared,
}

/// Where one part of a plan stands.
pub(super) struct Work {
    pub(super) part: Part,
    pub(super) outcome: Option<Outcome>,
    /// Whether a guard kept keys that were to be deleted.
    kept: bool,
    /// The node that imports its slot, after an ASK.
    pub(super) ask: Option<Address>,
}

impl Work {
    fn new(part: Part) -> Work {
        Work { part, outcome: None, kept: false, ask: None }
    }
}

/// A flight cut into parts.
#[derive(Default)]
pub(super) struct Run {
    pub(super) deletes: Vec<Bytes>,
    /// Deletes that are yet to be decided on: the plan, the guard, the key.
    pub(super) guarded: Vec<(usize, Guard, Bytes)>,
    pub(super) others: Vec<Work>,
    pub(super) mains: Vec<Work>,
    refused: HashMap<usize, String>,
    /// By plan the keys that were taken out of the index.
    derived: Vec<Vec<Bytes>>,
    /// Derived keys that came up while the flight was applied.
    late: Vec<Bytes>,
    /// Whether the keys were already deleted because Redis was out of memory.
    pub(super) released: bool,
    /// Whether it was told that some of them could not be.
    pub(super) unreleased: bool,
}

impl Run {
    /// By plan, what became of the keys of its patterns.
    fn fates(&self, plans: usize) -> Vec<Fate> {
        let mut fates = vec![Fate::Unknown; plans];
        for work in &self.mains {
            if let (Some(fate), Some(Outcome::Applied(_))) = (fates.get_mut(work.part.plan), &work.outcome) {
                *fate = if work.kept { Fate::GuardedKept } else { Fate::Deleted };
            }
        }
        fates
    }
}

impl Sink {
    /// Applies a flight. Returns once every plan is applied, skipped or refused and the checkpoint is on
    /// every node, where [`Sink::has_stored`]; faults are retried for as long as they last, visibly in [`Sink::state`].
    ///
    /// Dropping the future stops it; a later flight with the same plans is right, since fences stop what
    /// was already done.
    ///
    /// # Errors
    /// Transient where a node was connected again or replaced under way, and so may have lost something: the records
    /// have to be read first, and what was under way is to be sent again. None of Redis' own: they are retried.
    pub async fn apply(&mut self, flight: &Flight) -> Result<Vec<Outcome>> {
        self.derived.begin();
        (self.has_stored, self.unkept) = (false, None);
        self.metrics.in_flight.set(i64::try_from(flight.plans.len()).unwrap_or(i64::MAX));
        let mut run: Option<Run> = None;
        let mut outage = Outage::new(RETRY.0, RETRY.1, self.seed);
        let mut redirects = 0;
        loop {
            match self.attempt(flight, &mut run).await {
                Ok(Attempt::Done) => break,
                Ok(Attempt::Uncompared) => return Err(self.uncompared()),
                Err(Trouble { error: NodeError::LaterEpoch(epoch), .. }) => {
                    match self.has_forgotten(epoch).await {
                        Ok(true) => return Err(self.uncompared()),
                        Ok(false) => {}
                        Err(trouble) => self.pause(trouble, &mut outage).await,
                    }
                }
                Err(trouble) => {
                    let eager = matches!(
                        trouble.error,
                        NodeError::Moved { .. } | NodeError::Ask { .. } | NodeError::NoScript
                    );
                    redirects += u32::from(eager);
                    self.settle(&trouble, flight, run.as_mut()).await;
                    if !eager || redirects > EAGER_REDIRECTS {
                        self.pause(trouble, &mut outage).await;
                    }
                }
            }
        }
        self.derived.finish();
        self.metrics.in_flight.set(0);
        self.report_connected();
        Ok(outcomes(flight, run.unwrap_or_default()))
    }

    /// Keeps ready what the first flight would wait for: connections, slot map and the index of derived keys. Redis may
    /// be away, which [`Sink::state`] tells.
    pub async fn stand_by(&mut self) {
        self.derived.fall_behind();
        match self.lanes.keep_alive().await {
            Ok(()) => {
                self.report_connected();
                self.tend();
            }
            Err(trouble) => {
                let fault = self.tell_away(trouble.into());
                tracing::debug!(%fault, "redis is not ready for a takeover");
            }
        }
    }

    /// Begins to look through all keys where that is to be done; the first plan that needs the index tells what ails it.
    fn tend(&mut self) {
        if let Err(trouble) = self.derived.tend(&self.lanes) {
            tracing::debug!(fault = %Error::from(trouble), "the index of derived keys is not complete");
        }
    }

    /// One try at all that is still to be done.
    async fn attempt(&mut self, flight: &Flight, run: &mut Option<Run>) -> Result<Attempt, Trouble> {
        self.lanes.connect_all().await?;
        if !self.is_compared() && !self.kept.nothing() && !self.lost_nothing().await? {
            return Ok(Attempt::Uncompared);
        }
        if Derived::is_needed(&flight.plans) {
            self.derived.ready(&self.lanes).await?;
        } else {
            self.tend();
        }
        if run.is_none() {
            let derived = self.derived.take(&mut self.lanes, &flight.plans).await?;
            *run = Some(self.cut(flight, derived));
        }
        let Some(run) = run else { return Ok(Attempt::Done) };
        self.judge(flight, run).await?;
        self.unlink(&mut run.deletes).await?;
        self.send(flight, &mut run.others, &run.derived).await?;
        self.send(flight, &mut run.mains, &run.derived).await?;
        let fates = run.fates(flight.plans.len());
        run.late.extend(self.derived.settle(&flight.plans, &fates, std::mem::take(&mut run.derived)));
        self.unlink(&mut run.late).await?;
        if matches!(flight.fencing, Fencing::Snapshot { .. }) && !flight.plans.is_empty() {
            self.kept.count_rows();
        }
        let Some(checkpoint) = flight.checkpoint.as_ref().filter(|_| self.is_compared()) else {
            return Ok(Attempt::Done);
        };
        match self.store_checkpoint(checkpoint).await {
            // The next flight may have stale keys to delete, and must not wait behind this one for room.
            Err(Trouble { error: NodeError::OutOfMemory, .. }) => {}
            stored => match stored? {
                Stored::Everywhere => self.has_stored = true,
                Stored::Unkept(fault) => (self.has_stored, self.unkept) = (true, Some(fault)),
                Stored::Lost => {}
            },
        }
        Ok(Attempt::Done)
    }

    fn cut(&self, flight: &Flight, derived: Vec<Vec<Bytes>>) -> Run {
        let mut run = Run::default();
        for (index, plan) in
            flight.plans.iter().enumerate().filter(|(_, plan)| !flight.fencing.hides(&plan.user))
        {
            let keys = derived.get(index).map(Vec::as_slice).unwrap_or_default();
            match group::cut(plan, index, self.lanes.topology(), keys) {
                Ok(parts) => {
                    run.deletes.extend(parts.deletes);
                    run.guarded.extend(parts.guarded.into_iter().map(|(guard, key)| (index, guard, key)));
                    run.others.extend(parts.others.into_iter().map(Work::new));
                    run.mains.extend(parts.main.map(Work::new));
                }
                Err(reason) => drop(run.refused.insert(index, reason)),
            }
        }
        chain::gather(flight, &mut run.others, |work| &work.part);
        chain::gather(flight, &mut run.mains, |work| &work.part);
        run.derived = derived;
        run
    }

    /// Sends every part that is not done yet, all nodes at the same time.
    async fn send(
        &mut self,
        flight: &Flight,
        works: &mut [Work],
        derived: &[Vec<Bytes>],
    ) -> Result<(), Trouble> {
        loop {
            let (batches, rest) = self.start(flight, works, derived).await;
            let mut worst = None;
            let mut progress = false;
            for (batch, sent) in batches {
                for (call, reply) in batch.answered(sent.replies().await) {
                    match self.read(&call, reply, works) {
                        Ok(any) => progress |= any,
                        Err(trouble) => worst = worse(worst, trouble),
                    }
                }
            }
            match (worst, rest?) {
                (Some(trouble), _) => return Err(trouble),
                (None, Rest::Nothing) => return Ok(()),
                (None, Rest::More) => {}
                // Every plan waits for another: only a fence that vanished in between does that.
                (None, Rest::Waiting) if !progress => {
                    return Err(Trouble { error: NodeError::TryAgain, ..self.lanes.unowned() });
                }
                (None, Rest::Waiting) => {}
            }
        }
    }

    /// Notes what became of a call's plans; whether any is done.
    fn read(
        &self,
        call: &Call,
        reply: Result<Reply, NodeError>,
        works: &mut [Work],
    ) -> Result<bool, Trouble> {
        let trouble = |error| Trouble { address: call.address.clone(), error };
        let reply = reply.inspect_err(|error| {
            let ask = match error {
                NodeError::Ask { to, .. } => to.clone(),
                _ => None,
            };
            for index in &call.works {
                if let Some(work) = works.get_mut(*index) {
                    work.ask.clone_from(&ask);
                }
            }
        });
        let reply = reply.map_err(trouble)?;
        let operations = &self.metrics.operations;
        let mut progress = false;
        let mut failed = None;
        for (index, line) in call.works.iter().zip(reply.list()) {
            match Verdict::parse(line.utf8().unwrap_or_default()) {
                Verdict::Done { outcome, kept } => {
                    progress = true;
                    if let Some(work) = works.get_mut(*index) {
                        work.outcome = Some(outcome);
                        work.kept = kept;
                    }
                }
                // Of a history that somebody else has begun: an old instance is stopped by it, and that is all.
                Verdict::Later(epoch) if epoch <= self.epoch().max(self.other_epoch) => {
                    progress = true;
                    if let Some(work) = works.get_mut(*index) {
                        work.outcome = Some(Outcome::Skipped);
                    }
                }
                Verdict::Later(epoch) => failed = Some(NodeError::LaterEpoch(epoch)),
                Verdict::NotTried => {}
                Verdict::Failed(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => Err(trouble(error)),
            None => {
                operations.with_label_values(&["ok"]).inc();
                Ok(progress)
            }
        }
    }
}

/// Of two faults the one that needs more than a redirect.
fn worse(worst: Option<Trouble>, next: Trouble) -> Option<Trouble> {
    match worst {
        Some(worst) if !matches!(worst.error, NodeError::Moved { .. } | NodeError::Ask { .. }) => Some(worst),
        _ => Some(next),
    }
}

/// The main part, which publishes, decides what became of a plan; a refusal or a replaced key elsewhere shows too.
fn outcomes(flight: &Flight, run: Run) -> Vec<Outcome> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; flight.plans.len()];
    for work in run.mains.into_iter().chain(run.others) {
        let (Some(known), Some(outcome)) = (outcomes.get_mut(work.part.plan), work.outcome) else {
            continue;
        };
        match (&mut *known, outcome) {
            (None, outcome) => *known = Some(outcome),
            (Some(Outcome::Applied(all)), Outcome::Applied(Applied { retyped_keys, .. })) => {
                all.retyped_keys += retyped_keys;
            }
            (Some(_), refused @ Outcome::Refused { .. }) => *known = Some(refused),
            _ => {}
        }
    }
    let mut outcomes: Vec<Outcome> =
        outcomes.into_iter().map(|outcome| outcome.unwrap_or(Outcome::Skipped)).collect();
    for (plan, reason) in run.refused {
        if let Some(known) = outcomes.get_mut(plan) {
            *known = Outcome::Refused { reason };
        }
    }
    outcomes
}
