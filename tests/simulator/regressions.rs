//! Schedules that failed once, each with what was wrong.

use crate::schedule::Schedule;
use crate::setup::Setup;

/// A schedule with a name.
struct Known {
    what: &'static str,
    setup: Setup,
    steps: &'static [u64],
}

fn known() -> Vec<Known> {
    vec![]
}

#[test]
fn what_failed_once_does_not_fail_again() {
    for Known { what, setup, steps } in known() {
        let schedule = Schedule { setup, steps: steps.to_vec(), mutant: None, traced: false };
        assert_eq!(schedule.run().failure, None, "{what}");
    }
}
