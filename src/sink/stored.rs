//! What keys hold before a row is written over it: changes inside a gap have no event, and can only be counted so.

use std::collections::BTreeMap;

use super::Sink;
use super::lanes::Trouble;
use super::node::Command;
use super::reply::NodeError;
use super::slots::Address;
use crate::error::Result;
use crate::keyplan::{KeyPlan, Step};

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
        let mut differs = vec![false; plans.len()];
        let mut by_node: BTreeMap<Address, Reads<'_>> = BTreeMap::new();
        for (index, plan) in plans.iter().enumerate() {
            let Some((key, field, balance)) = plan.steps.iter().find_map(Step::balance) else { continue };
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
