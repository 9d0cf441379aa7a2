//! What keys hold before a row is written over it: changes inside a gap have no event, and can only be counted so.

use std::collections::BTreeMap;

use super::lanes::Trouble;
use super::node::{Command, keyslot};
use super::reply::NodeError;
use super::slots::Address;
use super::{Sink, fence};
use crate::error::Result;
use crate::keyplan::KeyPlan;

/// What one node is asked, and for each answer the plan and its balance.
#[derive(Default)]
struct Reads<'p> {
    questions: Vec<Command>,
    wanted: Vec<(usize, &'p [u8])>,
}

impl Sink {
    /// For each plan whether Redis holds another balance than the plan writes; not where it holds none.
    ///
    /// # Errors
    /// A node that does not answer.
    pub async fn stored_otherwise(&mut self, plans: &[KeyPlan]) -> Result<Vec<bool>> {
        self.differing(plans, |_, _| true).await
    }

    /// The same of keys in other slots than the user's own, which the script that publishes does not see.
    ///
    /// # Errors
    /// A node that does not answer.
    pub async fn elsewhere_otherwise(&mut self, plans: &[KeyPlan]) -> Result<Vec<bool>> {
        if !self.is_cluster() || !plans.iter().any(|plan| plan.rereads) {
            return Ok(vec![false; plans.len()]);
        }
        let own = |plan: &KeyPlan| fence::user_key(&plan.user.user_type, &plan.user.id);
        self.differing(plans, |plan, key| keyslot(key) != keyslot(&own(plan))).await
    }

    async fn differing(
        &mut self,
        plans: &[KeyPlan],
        wanted: impl Fn(&KeyPlan, &[u8]) -> bool,
    ) -> Result<Vec<bool>> {
        let mut differs = vec![false; plans.len()];
        let mut by_node: BTreeMap<Address, Reads<'_>> = BTreeMap::new();
        for (index, plan) in plans.iter().enumerate() {
            let mut places = plan.steps.iter().filter_map(|step| plan.balance_of(step));
            let Some((key, field, balance)) = places.find(|(key, ..)| wanted(plan, key)) else { continue };
            let question = match field {
                Some(field) => Command::new("HGET", vec![key.clone(), field.into()]),
                None => Command::new("GET", vec![key.clone()]),
            };
            let topology = self.lanes.topology();
            let owner = topology.owner(topology.slot(key)).cloned().ok_or_else(|| self.lanes.unowned())?;
            let reads = by_node.entry(owner).or_default();
            reads.questions.push(question);
            reads.wanted.push((index, balance));
        }
        for (address, Reads { questions, wanted }) in by_node {
            let replies = self.lanes.open(&address).await?.node.send(questions).await;
            for ((index, balance), reply) in wanted.into_iter().zip(replies) {
                let is_other = match reply {
                    Ok(stored) => stored.text().is_some_and(|stored| stored != balance),
                    Err(NodeError::WrongType) => true,
                    Err(error) => {
                        let trouble = Trouble { address, error };
                        self.lanes.recover(&trouble).await;
                        return Err(trouble.into());
                    }
                };
                differs.get_mut(index).into_iter().for_each(|differs| *differs = is_other);
            }
        }
        Ok(differs)
    }
}
