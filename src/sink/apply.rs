//! A flight, retried until every plan of it is acknowledged and its checkpoint stored.
//!
//! Order: a plan is only applied once the plan before it of the same fence is, which the script checks
//! itself. So calls may be cut anywhere and all be under way at once, and a call that fails leaves only
//! work that can be sent again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;

use super::call::{Batch, Call, CallWriter, Target};
use super::derived::Fate;
use super::group::{self, Part};
use super::keep::Stored;
use super::lanes::Trouble;
use super::node::Sent;
use super::reply::{NodeError, Reply};
use super::request::Frame;
use super::script::Verdict;
use super::slots::Address;
use super::{Applied, Fencing, Flight, Outcome, Sink};
use crate::backoff::Outage;
use crate::error::Result;
use crate::keyplan::Guard;

/// Calls that are written before their replies are read.
const PIPELINE_CALLS: usize = 256;
/// First and longest delay between attempts: what waits for Redis waits this much longer when it is back.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Redirects that are followed at once before they too wait.
const EAGER_REDIRECTS: u32 = 5;

/// What a round of calls leaves.
enum Rest {
    /// Nothing: all was done before.
    Nothing,
    /// Parts for which there was no room.
    More,
    /// Those of its parts that had to wait for another.
    Waiting,
}

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
    ask: Option<Address>,
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

    /// One try at all that is still to be done.
    async fn attempt(&mut self, flight: &Flight, run: &mut Option<Run>) -> Result<Attempt, Trouble> {
        self.lanes.connect_all().await?;
        if !self.is_compared() && !self.kept.nothing() && !self.lost_nothing().await? {
            return Ok(Attempt::Uncompared);
        }
        self.derived.ready(&mut self.lanes).await?;
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
                Stored::Unkept(fault) => self.unkept = Some(fault),
                Stored::Lost => {}
            },
        }
        Ok(Attempt::Done)
    }

    fn cut(&self, flight: &Flight, derived: Vec<Vec<Bytes>>) -> Run {
        let mut run = Run::default();
        for (index, plan) in flight.plans.iter().enumerate() {
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

    /// Writes calls as they are filled, so that Redis works while the next are made: each node's in order,
    /// and what is left when they are answered.
    async fn start(
        &mut self,
        flight: &Flight,
        works: &[Work],
        derived: &[Vec<Bytes>],
    ) -> (Vec<(Batch, Sent)>, Result<Rest, Trouble>) {
        let mut writer = CallWriter::new(flight, self.frame(flight, false));
        let mut sent = Vec::new();
        let mut rest = Ok(Rest::Nothing);
        for (index, work) in works.iter().enumerate().filter(|(_, work)| work.outcome.is_none()) {
            if writer.calls() >= PIPELINE_CALLS {
                rest = Ok(Rest::More);
                break;
            }
            rest = Ok(Rest::Waiting);
            match self.target(work).await {
                Ok(target) => {
                    let keys = derived.get(work.part.plan).map(Vec::as_slice).unwrap_or_default();
                    writer.add(index, &work.part, &self.in_slot(keys, work.part.slot), target);
                }
                Err(trouble) => {
                    rest = Err(trouble);
                    break;
                }
            }
            self.write(writer.take_full(), &mut sent).await;
        }
        self.write(writer.finish(), &mut sent).await;
        (sent, rest)
    }

    /// What the parts of a flight share; `releases`: their stale keys are only to be deleted.
    pub(super) fn frame(&self, flight: &Flight, releases: bool) -> Frame {
        let snapshot = match &flight.fencing {
            Fencing::Stream => None,
            Fencing::Snapshot { snapshot, present } => Some((snapshot.clone(), *present)),
        };
        Frame { epochs: self.epochs(), snapshot, releases }
    }

    pub(super) async fn write(&self, batches: Vec<Batch>, sent: &mut Vec<(Batch, Sent)>) {
        for mut batch in batches {
            let commands = batch.take_commands();
            let replies = match self.lanes.get(&batch.address) {
                Some(lane) => lane.node.start(commands).await,
                None => Sent::unsent(commands.len()),
            };
            sent.push((batch, replies));
        }
    }

    /// The node for a part.
    pub(super) async fn target(&mut self, work: &Work) -> Result<Target, Trouble> {
        let (address, asked) = match (&work.ask, self.lanes.topology().owner(work.part.slot)) {
            (Some(target), _) => (target.clone(), true),
            (None, Some(owner)) => (owner.clone(), false),
            (None, None) => return Err(self.lanes.unowned()),
        };
        let scripts = match self.lanes.get(&address) {
            Some(lane) => lane.scripts.clone(),
            None => self.lanes.open(&address).await?.scripts.clone(),
        };
        Ok(Target { address, asked, alone: self.lanes.topology().is_cluster(), scripts })
    }

    /// Those of a plan's derived keys that share its slot.
    fn in_slot<'k>(&self, keys: &'k [Bytes], slot: u16) -> Cow<'k, [Bytes]> {
        let topology = self.lanes.topology();
        match topology.is_cluster() && !keys.is_empty() {
            true => keys.iter().filter(|key| topology.slot(key) == slot).cloned().collect(),
            false => Cow::Borrowed(keys),
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
