//! A plan, cut by hash slot, and each cut as the arguments of the script.

use std::time::Duration;

use bytes::Bytes;

use super::fence;
use super::script::number;
use super::slots::Topology;
use crate::keyplan::{EventJson, Guard, KeyPlan, Step};
use crate::lsn::Position;

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
        let key = match step {
            Step::Hash { key, .. } | Step::Set { key, .. } | Step::Delete { key, .. } => key,
            Step::DeletePattern { .. } | Step::PublishEvent { .. } | Step::Publish { .. } => {
                steps.push(number);
                continue;
            }
        };
        let own_slot = topology.slot(key);
        if own_slot == slot {
            steps.push(number);
        } else if matches!(step, Step::Delete { .. }) && !plan.deletes_user {
            parts.deletes.push(key.clone());
        } else {
            let fence = fence::own_key(key, |key| topology.slot(key))
                .ok_or_else(|| "a key's braces leave no room for its fence".to_owned())?;
            parts.others.push(Part { plan: index, slot: own_slot, fence, steps: vec![number] });
        }
    }
    parts.deletes.extend(derived.iter().filter(|key| topology.slot(key) != slot).cloned());
    parts.main = Some(Part { plan: index, slot, fence, steps });
    Ok(parts)
}

/// What all parts of a flight share.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// The history the positions belong to.
    pub epoch: u32,
    /// The stream's position, for rows of a snapshot; else each plan's own.
    pub present: Option<Position>,
}

/// Appends the part's keys and arguments as `apply.lua` reads them. `derived` are the plan's derived
/// keys in this slot; `after` is the position its fence must have reached first.
pub fn encode(
    (plan, part): (&KeyPlan, &Part),
    frame: Frame,
    (derived, after): (&[Bytes], Option<Bytes>),
    keys: &mut Vec<Bytes>,
    args: &mut Vec<Bytes>,
) -> Bytes {
    let (first_key, first_arg) = (keys.len(), args.len());
    let text = fence::text(plan, frame.epoch, frame.present.unwrap_or(plan.position));
    keys.push(part.fence.clone());
    let (head, tail) = match &plan.event {
        EventJson::Fixed(json) => (json.clone(), Bytes::new()),
        EventJson::ByBalance { head, tail } => (head.clone(), tail.clone()),
    };
    args.extend([Bytes::new(), Bytes::new(), text.clone(), flags(plan), head, tail]);
    args.push(after.unwrap_or_default());
    let steps = || part.steps.iter().filter_map(|step| plan.steps.get(*step));
    if steps().any(|step| guard(step).stored_balance_differs) {
        steps().find_map(stored_balance).into_iter().for_each(|(key, field, balance)| {
            keys.push(key);
            args.extend([Bytes::from_static(b"B"), field, balance]);
        });
    }
    steps().for_each(|step| encode_step(step, derived, keys, args));
    let counts = [number(args.len() - first_arg), number(keys.len() - first_key)];
    for (slot, count) in args.iter_mut().skip(first_arg).zip(counts) {
        *slot = count;
    }
    text.slice(..fence::POSITION_BYTES)
}

/// The letters that make the script do more than compare and set the fence.
fn flags(plan: &KeyPlan) -> Bytes {
    let asks = matches!(plan.event, EventJson::ByBalance { .. })
        || plan.steps.iter().any(|step| *guard(step) != Guard::ALWAYS);
    let merges = plan.watched.is_empty() || plan.watched.iter().any(Option::is_none);
    Bytes::from_static(match (plan.row_xid.is_none(), merges, asks) {
        (false, false, false) => b"",
        (false, false, true) => b"c",
        (false, true, _) => b"wc",
        (true, false, _) => b"xc",
        (true, true, _) => b"xwc",
    })
}

fn guard(step: &Step) -> &Guard {
    match step {
        Step::Hash { guard, .. }
        | Step::Set { guard, .. }
        | Step::Delete { guard, .. }
        | Step::DeletePattern { guard, .. }
        | Step::PublishEvent { guard, .. }
        | Step::Publish { guard, .. } => guard,
    }
}

/// Where a step stores the balance, and what it writes there: the key, the field of a hash, the value.
fn stored_balance(step: &Step) -> Option<(Bytes, Bytes, Bytes)> {
    match step {
        Step::Hash { key, set, .. } => {
            let (field, balance) = set.iter().find(|(field, _)| &**field == b"balance")?;
            Some((key.clone(), field.clone(), balance.clone()))
        }
        Step::Set { key, value, .. } => Some((key.clone(), Bytes::new(), value.clone())),
        _ => None,
    }
}

fn encode_step(step: &Step, derived: &[Bytes], keys: &mut Vec<Bytes>, args: &mut Vec<Bytes>) {
    let word = Bytes::from_static;
    let guard = guard(step);
    if *guard != Guard::ALWAYS {
        let Guard { any_changed, none_changed, stored_balance_differs } = *guard;
        let wrong = word(if stored_balance_differs { b"1" } else { b"" });
        args.extend([word(b"G"), any_changed.to_string().into(), none_changed.to_string().into(), wrong]);
    }
    match step {
        Step::Hash { key, set, remove, if_exists, .. } => {
            keys.push(key.clone());
            args.push(word(if *if_exists { b"E" } else { b"H" }));
            args.extend([number(set.len() * 2), number(remove.len())]);
            for (field, value) in set {
                args.extend([field.clone(), value.clone()]);
            }
            args.extend(remove.iter().cloned());
        }
        Step::Set { key, value, ttl, .. } => {
            keys.push(key.clone());
            match ttl {
                Some(ttl) => args.extend([word(b"T"), value.clone(), milliseconds(*ttl)]),
                None => args.extend([word(b"S"), value.clone()]),
            }
        }
        Step::Delete { key, .. } => {
            keys.push(key.clone());
            args.extend([word(b"D"), number(1)]);
        }
        Step::DeletePattern { prefix, suffix, .. } => {
            let before = keys.len();
            keys.extend(derived.iter().filter(|key| matches(key, prefix, suffix)).cloned());
            args.extend([word(b"D"), number(keys.len() - before)]);
        }
        Step::PublishEvent { channel, .. } => args.extend([word(b"V"), channel.clone()]),
        Step::Publish { channel, payload, .. } => {
            args.extend([word(b"P"), channel.clone(), payload.clone()]);
        }
    }
}

/// Whether a key is prefix, anything, suffix.
pub fn matches(key: &[u8], prefix: &[u8], suffix: &[u8]) -> bool {
    key.len() >= prefix.len() + suffix.len() && key.starts_with(prefix) && key.ends_with(suffix)
}

fn milliseconds(ttl: Duration) -> Bytes {
    // SET refuses 0.
    ttl.as_millis().max(1).to_string().into()
}

#[cfg(test)]
#[path = "group_tests.rs"]
mod tests;
