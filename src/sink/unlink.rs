//! Deleting without a fence: plain keys, and derived keys once more.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Sink;
use super::derived::Derived;
use super::lanes::Trouble;
use super::node::Command;
use super::reply::NodeError;
use super::slots::Address;
use crate::error::Result;
use crate::keyplan::{KeyPlan, Step};

/// Keys in one UNLINK.
const UNLINK_KEYS: usize = 512;

/// What is to be deleted, whatever the fences say.
#[derive(Debug, Default)]
pub struct Clearing {
    /// These keys.
    pub keys: Vec<Bytes>,
    /// And those that these plans delete.
    pub plans: Vec<KeyPlan>,
}

impl Sink {
    /// Deletes; what is done leaves `clearing`.
    ///
    /// # Errors
    /// A node that does not answer.
    pub async fn clear(&mut self, clearing: &mut Clearing) -> Result<()> {
        if let Err(trouble) = self.try_to_clear(clearing).await {
            self.lanes.recover(&trouble).await;
            return Err(trouble.into());
        }
        Ok(())
    }

    async fn try_to_clear(&mut self, Clearing { keys, plans }: &mut Clearing) -> Result<(), Trouble> {
        if Derived::is_needed(plans) {
            // Also what was announced just now: nobody comes back for it.
            self.derived.fall_behind();
            self.derived.ready(&self.lanes).await?;
            let matched = self.derived.take(&mut self.lanes, plans).await?;
            keys.extend(matched.into_iter().flatten());
        }
        for plan in plans.drain(..) {
            keys.extend(plan.steps.into_iter().filter_map(|step| match step {
                Step::Delete { key, .. } => Some(key),
                _ => None,
            }));
        }
        self.unlink(keys).await?;
        self.derived.finish();
        Ok(())
    }

    /// Whether flights may have left derived keys of which this process did not hear, since it was asked last.
    pub fn take_misheard(&mut self) -> bool {
        self.derived.take_misheard()
    }

    /// Deletes plain keys, wherever they are; what is done leaves `keys`.
    pub(super) async fn unlink(&mut self, keys: &mut Vec<Bytes>) -> Result<(), Trouble> {
        let mut by_slot: BTreeMap<u16, Vec<Bytes>> = BTreeMap::new();
        for key in keys.iter() {
            by_slot.entry(self.lanes.topology().slot(key)).or_default().push(key.clone());
        }
        let mut by_node: BTreeMap<Address, Vec<Command>> = BTreeMap::new();
        for (slot, keys) in by_slot {
            let owner = self.lanes.topology().owner(slot).cloned().ok_or_else(|| self.lanes.unowned())?;
            let unlinks = keys.chunks(UNLINK_KEYS).map(|keys| Command::new("UNLINK", keys.to_vec()));
            by_node.entry(owner).or_default().extend(unlinks);
        }
        for (address, commands) in by_node {
            let replies = self.lanes.open(&address).await?.node.send(commands).await;
            for error in replies.into_iter().filter_map(Result::err) {
                let asked = match &error {
                    NodeError::Ask { slot, to: Some(to) } => Some((*slot, to.clone())),
                    _ => None,
                };
                match asked {
                    Some((slot, to)) => self.unlink_there(keys, slot, &to).await?,
                    None => return Err(Trouble { address, error }),
                }
            }
        }
        keys.clear();
        Ok(())
    }

    /// Deletes the keys of a slot that is on its way to another node, one by one: a call of several
    /// keys would be refused while only some have arrived.
    async fn unlink_there(&mut self, keys: &[Bytes], slot: u16, to: &Address) -> Result<(), Trouble> {
        let topology = self.lanes.topology();
        let keys: Vec<Bytes> = keys.iter().filter(|key| topology.slot(key) == slot).cloned().collect();
        let unlink = |key: Bytes| [Command::new("ASKING", Vec::new()), Command::new("UNLINK", vec![key])];
        let commands = keys.into_iter().flat_map(unlink).collect();
        let replies = self.lanes.open(to).await?.node.send(commands).await;
        match replies.into_iter().find_map(Result::err) {
            Some(error) => Err(Trouble { address: to.clone(), error }),
            None => Ok(()),
        }
    }
}
