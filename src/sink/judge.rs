//! Deletes of keys in other slots that have a guard: the user's fence decides, before anything is changed.
//!
//! A fence of such a key's own could not: it would know only of the plans that name the key, and derived keys
//! come and go. Read beforehand, the user's fence is the one that the script will find, since one sink at a time
//! moves it on; where another did, the script skips the plan. A plan that is sent again finds it as it was.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::apply::Run;
use super::epochs::Epochs;
use super::fence::{self, Fence};
use super::lanes::Trouble;
use super::node::Command;
use super::reply::{NodeError, Reply};
use super::slots::Address;
use super::{Fencing, Flight, Sink};
use crate::keyplan::{Guard, KeyPlan};

impl Sink {
    /// Moves what is to be deleted to the unconditional deletes; nothing is left to be decided.
    ///
    /// # Errors
    /// A node whose fences cannot be read.
    pub(super) async fn judge(&mut self, flight: &Flight, run: &mut Run) -> Result<(), Trouble> {
        if run.guarded.is_empty() {
            return Ok(());
        }
        let plans = run.guarded.iter().filter_map(|(plan, ..)| flight.plans.get(*plan));
        let fences = self.read_fences(plans.map(fence_of).collect()).await?;
        let changed = changed_by_each(flight, self.epochs(), fences);
        for (plan, guard, key) in std::mem::take(&mut run.guarded) {
            if changed.get(&plan).is_some_and(|changed| is_met(guard, *changed)) {
                run.deletes.push(key);
            }
        }
        Ok(())
    }

    async fn read_fences(&mut self, mut keys: Vec<Bytes>) -> Result<HashMap<Bytes, Fence>, Trouble> {
        keys.sort_unstable();
        keys.dedup();
        let mut by_node: BTreeMap<Address, Vec<Bytes>> = BTreeMap::new();
        for key in keys {
            let topology = self.lanes.topology();
            let owner = topology.owner(topology.slot(&key)).cloned().ok_or_else(|| self.lanes.unowned())?;
            by_node.entry(owner).or_default().push(key);
        }
        let mut fences = HashMap::new();
        for (address, keys) in by_node {
            let questions = keys.iter().map(read_one).collect();
            let replies = self.lanes.open(&address).await?.node.send(questions).await;
            for (key, reply) in keys.into_iter().zip(replies) {
                let reply = match reply {
                    Err(NodeError::Ask { to: Some(to), .. }) => self.read_there(&key, &to).await?,
                    reply => reply.map_err(|error| Trouble { address: address.clone(), error })?,
                };
                let text = reply.list().first().and_then(Reply::text);
                fences.insert(key, text.map(Fence::parse).unwrap_or_default());
            }
        }
        Ok(fences)
    }

    /// Reads a fence whose slot is on its way to another node.
    async fn read_there(&mut self, key: &Bytes, to: &Address) -> Result<Reply, Trouble> {
        let commands = vec![Command::new("ASKING", Vec::new()), read_one(key)];
        let mut replies = self.lanes.open(to).await?.node.send(commands).await;
        let reply = replies.pop().unwrap_or(Err(NodeError::TimedOut));
        reply.map_err(|error| Trouble { address: to.clone(), error })
    }
}

fn fence_of(plan: &KeyPlan) -> Bytes {
    fence::user_key(&plan.user.user_type, &plan.user.id)
}

/// A key of another type reads as absent, as it does in the script.
fn read_one(key: &Bytes) -> Command {
    Command::new("MGET", vec![key.clone()])
}

/// By plan the bits of the watched columns that it changes; not of plans that a fence of these will stop, which
/// have deleted what they had to.
fn changed_by_each(
    flight: &Flight,
    epochs: Epochs,
    mut fences: HashMap<Bytes, Fence>,
) -> HashMap<usize, u32> {
    let mut changed = HashMap::new();
    for (index, plan) in flight.plans.iter().enumerate() {
        let Some(fence) = fences.get_mut(&fence_of(plan)) else { continue };
        let (position, streams) = match &flight.fencing {
            Fencing::Stream => (plan.position, true),
            Fencing::Snapshot { present, .. } => (*present, false),
        };
        let text = fence::text(plan, epochs.at(position.commit_lsn), position);
        // Whether a row of a snapshot passes is left to the script: to delete without need is harmless.
        if streams && text.get(..fence::POSITION_BYTES).is_some_and(|position| fence.has_seen(position)) {
            continue;
        }
        changed.insert(index, fence.changed_by(plan));
        *fence = std::mem::take(fence).after(plan, &text, streams);
    }
    changed
}

fn is_met(guard: Guard, changed: u32) -> bool {
    (guard.any_changed == 0 || changed & guard.any_changed != 0) && changed & guard.none_changed == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_conditions_of_a_guard_must_hold() {
        let guard = |any_changed, none_changed| Guard { any_changed, none_changed, ..Guard::ALWAYS };
        assert!(is_met(guard(0, 0), 0) && is_met(guard(6, 0), 4) && is_met(guard(2, 1), u32::MAX - 1));
        assert!(!is_met(guard(6, 0), 1) && !is_met(guard(2, 1), 3) && !is_met(guard(0, 1), u32::MAX));
    }
}
