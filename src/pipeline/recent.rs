//! What happened last, for whoever looks at the console.

use super::Pipeline;
use super::lane::Landed;
use crate::health::recent::{Happened, KEPT};
use crate::keyplan::EventJson;
use crate::sink::Outcome;

impl Pipeline {
    /// Hands on the last published events of a flight: of a large one most are never looked at, and cost nothing.
    pub(super) fn note_recent(&self, landed: &Landed) {
        let events = landed.plans.iter().zip(&landed.outcomes).zip(&landed.committed).rev();
        let published = events.filter_map(|((plan, outcome), committed)| {
            let Outcome::Applied(applied) = outcome else { return None };
            let json = match &plan.event {
                EventJson::Fixed(text) => (text.clone(), None),
                EventJson::ByBalance { head, tail } => (head.clone(), Some(tail.clone())),
            };
            Some(Happened {
                event_type: plan.event_type(applied.as_update)?,
                committed: committed.0,
                commit_lsn: plan.position.commit_lsn,
                json,
            })
        });
        let mut latest: Vec<Happened> = published.take(KEPT).collect();
        if !latest.is_empty() {
            latest.reverse();
            self.health.recent().note(latest);
        }
    }
}
