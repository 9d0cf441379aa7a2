//! A plan, cut by hash slot: each part is applied atomically.

use bytes::Bytes;

use super::fence;
use super::slots::Topology;
use crate::keyplan::{Guard, KeyPlan, Step};

/// The part of a plan that one script call does atomically.
#[derive(Debug, Clone)]
pub struct Part {
    /// Index of the plan in its flight.
    pub plan: usize,
    /// The slot of all its keys.
    pub slot: u16,
    /// Its fence.
    pub fence: Bytes,
    /// Indices of its steps in the plan, in order.
    pub steps: Vec<usize>,
}

/// A plan cut by slot.
#[derive(Debug, Default)]
pub struct Parts {
    /// Behind the user's fence, with the publishes: last.
    pub main: Option<Part>,
    /// Keys in other slots, each behind a fence of its own: before.
    pub others: Vec<Part>,
    /// Keys in other slots that are only deleted; absent is safe, so no fence: before.
    pub deletes: Vec<Bytes>,
    /// Those of them that are deleted only where the user's fence meets a guard.
    pub guarded: Vec<(Guard, Bytes)>,
}

impl Parts {
    fn delete(&mut self, guard: Guard, key: &Bytes) {
        match guard == Guard::ALWAYS {
            true => self.deletes.push(key.clone()),
            false => self.guarded.push((guard, key.clone())),
        }
    }
}

/// Cuts `plan`. `derived` are the keys that its patterns match.
///
/// # Errors
/// A key for which no fence can be named in its slot.
pub fn cut(plan: &KeyPlan, index: usize, topology: &Topology, derived: &[Bytes]) -> Result<Parts, String> {
    let fence = fence::user_key(&plan.user.user_type, &plan.user.id);
    let slot = topology.slot(&fence);
    let mut parts = Parts::default();
    let mut steps = Vec::with_capacity(plan.steps.len());
    for (number, step) in plan.steps.iter().enumerate() {
        let Some(key) = step.key() else {
            steps.push(number);
            continue;
        };
        let own_slot = topology.slot(key);
        if own_slot == slot {
            steps.push(number);
        } else if let Step::Delete { written: false, guard, .. } = step {
            parts.delete(*guard, key);
        } else {
            let fence = fence::own_key(key, |key| topology.slot(key))
                .ok_or_else(|| "a key's braces leave no room for its fence".to_owned())?;
            parts.others.push(Part { plan: index, slot: own_slot, fence, steps: vec![number] });
        }
    }
    for key in derived.iter().filter(|key| topology.slot(key) != slot) {
        for step in &plan.steps {
            if let Step::DeletePattern { prefix, suffix, guard } = step
                && matches(key, prefix, suffix)
            {
                parts.delete(*guard, key);
            }
        }
    }
    parts.main = Some(Part { plan: index, slot, fence, steps });
    Ok(parts)
}

/// Whether a key is prefix, anything, suffix.
pub fn matches(key: &[u8], prefix: &[u8], suffix: &[u8]) -> bool {
    key.len() >= prefix.len() + suffix.len() && key.starts_with(prefix) && key.ends_with(suffix)
}

#[cfg(test)]
#[path = "group_tests.rs"]
pub mod tests;
