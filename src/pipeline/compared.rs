//! Rows that are written only where Redis holds something else.

use super::chunks::Compares;
use super::lane::Landed;
use super::patience::patiently;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::keyplan::{Guard, KeyPlan, Step};
use crate::sink::{Difference, Fencing, Flight, Outcome, Sink};

/// Rows, the fences they are written behind, and how they are compared.
pub struct Compared {
    pub plans: Vec<KeyPlan>,
    pub fencing: Fencing,
    pub compares: Compares,
}

impl Compared {
    /// Compares the rows and writes those that differ. No other flight is out meanwhile.
    pub async fn fly(self, sink: &mut Sink, stored: Option<Checkpoint>) -> Result<Landed> {
        let Compared { plans, fencing, compares: Compares { heals, timed, found } } = self;
        let differences = patiently(sink, async |sink| sink.compare(&plans, &timed).await).await?;
        let mut found_each: Vec<_> = differences.iter().map(|(difference, _)| Some(*difference)).collect();
        let mut wrong = Vec::new();
        let mut places = Vec::new();
        for (place, (mut plan, (difference, elsewhere))) in plans.into_iter().zip(differences).enumerate() {
            if heals && difference != Difference::Equal {
                if elsewhere {
                    tell_anyway(&mut plan);
                }
                wrong.push(plan);
                places.push(place);
            }
        }
        let flight = Flight { plans: wrong, fencing, checkpoint: stored };
        let outcomes = sink.apply(&flight).await?;
        for (place, outcome) in places.iter().zip(&outcomes) {
            if let (Outcome::Skipped, Some(found)) = (outcome, found_each.get_mut(*place)) {
                *found = None;
            }
        }
        // Whoever asked may be gone: then nobody waits for the answer.
        let _ = found.send(found_each);
        Ok(Landed {
            plans: flight.plans,
            outcomes,
            compared: true,
            stored: flight.checkpoint.filter(|_| sink.has_stored()),
            unkept: sink.unkept().cloned(),
            ..Landed::default()
        })
    }
}

/// A wrong balance in a key of another slot is not seen by the script that publishes. Where its reply is lost, the
/// event is published once more, with the same id.
pub fn tell_anyway(plan: &mut KeyPlan) {
    for step in &mut plan.steps {
        if let Step::PublishEvent { guard, .. } | Step::Publish { guard, .. } = step {
            *guard = Guard { stored_balance_differs: false, ..*guard };
        }
    }
}
