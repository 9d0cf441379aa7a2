//! Changes of one user, brought together: in one call the last one's values are written, and every event is published.
//!
//! A call is applied wholly or not at all as far as one user is concerned, so that nobody sees a key between two of its
//! plans. Events of one user are applied and published in commit order; those of others have no order among them.

use std::collections::HashMap;

use super::call::{CALL_BYTES, CALL_PLANS};
use super::group::Part;
use super::{Fencing, Flight};
use crate::keyplan::KeyPlan;

/// Brings the parts with the same fence together, in their order, each to where the first of them stands.
pub fn gather<W>(flight: &Flight, works: &mut [W], part: impl Fn(&W) -> &Part) {
    if !matches!(flight.fencing, Fencing::Stream) {
        return;
    }
    let mut first = HashMap::with_capacity(works.len());
    for (at, work) in works.iter().enumerate() {
        first.entry(part(work).fence.clone()).or_insert(at);
    }
    if first.len() < works.len() {
        works.sort_by_key(|work| first.get(&part(work).fence).copied());
    }
}

/// Cuts what was gathered where a call may end. What `part` does not tell of stays alone, and large events do: a call has
/// its bounds.
pub fn chains<'w, 'p>(
    flight: &Flight,
    works: &'w [usize],
    part: impl Fn(usize) -> Option<&'p Part>,
) -> Vec<&'w [usize]> {
    let fence = |work: usize| {
        let part = part(work).filter(|_| matches!(flight.fencing, Fencing::Stream))?;
        let plan = flight.plans.get(part.plan)?;
        (plan.event.len() <= CALL_BYTES / CALL_PLANS).then_some(&part.fence)
    };
    let together = |one: &usize, next: &usize| fence(*one).is_some_and(|known| fence(*next) == Some(known));
    works.chunk_by(together).flat_map(|run| run.chunks(CALL_PLANS)).collect()
}

/// The part without what the next one makes over.
pub fn left_by((next_plan, next): (&KeyPlan, &Part), (plan, part): (&KeyPlan, &Part)) -> Part {
    let later = || next.steps.iter().filter_map(|step| next_plan.steps.get(*step));
    let is_left = |step: &&usize| {
        plan.steps.get(**step).is_none_or(|before| !later().any(|later| later.makes_over(before)))
    };
    Part { steps: part.steps.iter().filter(is_left).copied().collect(), ..part.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::group::cut;
    use super::super::group::tests::{plan, steps};
    use super::super::slots::{Address, Topology};
    use super::*;
    use crate::keyplan::{EventJson, Step};
    use crate::lsn::{Lsn, Snapshot};

    /// A flight of these users' plans, and a part of each.
    fn flight(users: &[&str], fencing: Fencing) -> (Flight, Vec<Part>) {
        let mut plans = vec![plan(steps()); users.len()];
        plans.iter_mut().zip(users).for_each(|(plan, id)| plan.user.id = (*id).into());
        let whole = Topology::Single(Address::new("a", 1));
        let parts =
            plans.iter().enumerate().map(|(at, plan)| cut(plan, at, &whole, &[]).unwrap().main.unwrap());
        let parts = parts.collect();
        (Flight { plans, fencing, checkpoint: None }, parts)
    }

    fn gathered(users: &[&str], fencing: Fencing) -> (Vec<usize>, Vec<usize>) {
        let (flight, mut parts) = flight(users, fencing);
        gather(&flight, &mut parts, |part| part);
        let all: Vec<usize> = (0..parts.len()).collect();
        let chains = chains(&flight, &all, |at| parts.get(at));
        let lengths = chains.into_iter().map(<[usize]>::len).collect();
        (parts.iter().map(|part| part.plan).collect(), lengths)
    }

    #[test]
    fn a_users_changes_come_together_in_their_order_where_the_first_stands() {
        assert_eq!(
            gathered(&["7", "8", "7", "9", "8", "7"], Fencing::Stream),
            (vec![0, 2, 5, 1, 4, 3], vec![3, 2, 1])
        );
    }

    #[test]
    fn a_chain_is_never_longer_than_a_call() {
        let (_, lengths) = gathered(&["7"; CALL_PLANS + 3], Fencing::Stream);
        assert_eq!(lengths, [CALL_PLANS, 3]);
    }

    #[test]
    fn rows_that_were_read_stay_as_they_are() {
        let snapshot: Snapshot = "10:10:".parse().unwrap();
        let rows = Fencing::Snapshot {
            snapshot,
            hidden: Default::default(),
            present: crate::lsn::Position { commit_lsn: Lsn(1), ordinal: 0 },
        };
        assert_eq!(gathered(&["7", "8", "7"], rows), (vec![0, 1, 2], vec![1, 1, 1]));
    }

    #[test]
    fn a_large_event_has_its_call_to_itself() {
        let (mut flight, parts) = flight(&["7", "7", "7"], Fencing::Stream);
        flight.plans[1].event = EventJson::Fixed(vec![b'x'; CALL_BYTES].into());
        assert_eq!(chains(&flight, &[0, 1, 2], |at| parts.get(at)), [[0], [1], [2]]);
    }

    #[test]
    fn what_the_next_change_makes_over_is_left_out_and_every_event_is_published() {
        let (flight, parts) = flight(&["7", "7"], Fencing::Stream);
        let left = left_by((&flight.plans[1], &parts[1]), (&flight.plans[0], &parts[0]));
        let left: Vec<&Step> = left.steps.iter().map(|step| &flight.plans[0].steps[*step]).collect();
        assert!(left.len() < parts[0].steps.len(), "{left:?}");
        let publishes = |step: &&Step| matches!(step, Step::PublishEvent { .. } | Step::Publish { .. });
        let published = flight.plans[0].steps.iter().filter(publishes).count();
        assert_eq!(left.iter().filter(|step| publishes(step)).count(), published);
    }
}
