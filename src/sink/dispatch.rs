//! The parts of a flight on their way: which node, which call, written as they are filled.

use std::borrow::Cow;

use bytes::Bytes;

use super::apply::Work;
use super::call::{Batch, CallWriter, Target};
use super::chain;
use super::lanes::Trouble;
use super::node::Sent;
use super::request::Frame;
use super::{Fencing, Flight, Sink};

/// Calls that are written before their replies are read.
const PIPELINE_CALLS: usize = 256;

/// What a round of calls leaves.
pub(super) enum Rest {
    /// Nothing: all was done before.
    Nothing,
    /// Parts for which there was no room.
    More,
    /// Those of its parts that had to wait for another.
    Waiting,
}

impl Sink {
    /// Writes calls as they are filled, so that Redis works while the next are made: each node's in order,
    /// and what is left when they are answered.
    pub(super) async fn start(
        &mut self,
        flight: &Flight,
        works: &[Work],
        derived: &[Vec<Bytes>],
    ) -> (Vec<(Batch, Sent)>, Result<Rest, Trouble>) {
        let mut writer = CallWriter::new(flight, self.frame(flight, false));
        let mut sent = Vec::new();
        let mut rest = Ok(Rest::Nothing);
        let undone = works.iter().enumerate().filter(|(_, work)| work.outcome.is_none());
        let undone: Vec<usize> = undone.map(|(index, _)| index).collect();
        // Behind an ASK each part has its call to itself.
        let joins = |index: usize| works.get(index).filter(|work| work.ask.is_none()).map(|work| &work.part);
        for chain in chain::chains(flight, &undone, joins) {
            if writer.calls() >= PIPELINE_CALLS {
                rest = Ok(Rest::More);
                break;
            }
            rest = Ok(Rest::Waiting);
            if let Err(trouble) = self.add(&mut writer, works, chain, derived).await {
                rest = Err(trouble);
                break;
            }
            self.write(writer.take_full(), &mut sent).await;
        }
        self.write(writer.finish(), &mut sent).await;
        (sent, rest)
    }

    /// Adds parts that are applied together: they have one fence, and so one node.
    async fn add(
        &mut self,
        writer: &mut CallWriter<'_>,
        works: &[Work],
        chain: &[usize],
        derived: &[Vec<Bytes>],
    ) -> Result<(), Trouble> {
        let work = |at: &usize| works.get(*at);
        let Some(first) = chain.first().and_then(work) else { return Ok(()) };
        let target = self.target(first).await?;
        writer.make_room(chain.len(), &target);
        let next = chain.iter().skip(1).map(Some).chain(std::iter::once(None));
        for (index, next) in chain.iter().zip(next) {
            let Some(Work { part, .. }) = work(index) else { continue };
            let keys = derived.get(part.plan).map(Vec::as_slice).unwrap_or_default();
            let next = next.and_then(work).map(|next| &next.part);
            writer.add((*index, part), next, &self.in_slot(keys, part.slot), target.clone());
        }
        Ok(())
    }

    /// What the parts of a flight share; `releases`: their stale keys are only to be deleted.
    pub(super) fn frame(&self, flight: &Flight, releases: bool) -> Frame {
        let snapshot = match &flight.fencing {
            Fencing::Stream => None,
            Fencing::Snapshot { snapshot, present, .. } => Some((snapshot.clone(), *present)),
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
            // The connection is written to by the same thread, and what comes after this takes a while.
            tokio::task::yield_now().await;
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
}
