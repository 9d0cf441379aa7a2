//! The shortest schedule that fails in the same way.

use crate::invariants::Failure;
use crate::schedule::Schedule;

/// Runs that a search may take.
const MOST_RUNS: usize = 600;

/// Leaves steps out for as long as the same promise breaks.
pub fn shrink(schedule: Schedule, failure: &Failure) -> Schedule {
    let mut best = schedule;
    let mut runs = 0;
    let fails = |steps: Vec<u64>, best: &Schedule| {
        let shorter = Schedule { steps, ..best.clone() };
        let found = shorter.run().failure.is_some_and(|found| found.rule == failure.rule);
        found.then_some(shorter)
    };
    let mut piece = best.steps.len().div_ceil(2);
    while piece > 0 && runs < MOST_RUNS {
        let mut at = 0;
        let mut shortened = false;
        while at < best.steps.len() && runs < MOST_RUNS {
            let mut steps = best.steps.clone();
            steps.drain(at..(at + piece).min(steps.len()));
            runs += 1;
            match fails(steps, &best) {
                Some(shorter) => {
                    best = shorter;
                    shortened = true;
                }
                None => at += piece,
            }
        }
        piece = if piece == 1 && shortened { 1 } else { piece / 2 };
    }
    best
}
