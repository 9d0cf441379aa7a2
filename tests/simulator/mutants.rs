//! Known bugs, planted at the seams: the simulator has to find each of them.

use crate::schedule::Schedule;
use crate::shrink;

/// A known bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// No fence stops anything.
    FenceOff,
    /// A row that was read is as new as `pg_current_wal_lsn()` after it.
    LsnTaggedChunks,
    /// PostgreSQL may forget what was received.
    AckOnReceive,
    /// A node takes the checkpoint, and the data afterwards.
    CheckpointBeforeData,
    /// A call that failed is sent again behind those that followed it.
    RetryOutOfOrder,
    /// Rows of users whom the stream touched meanwhile are written all the same.
    RowsOfTouchedUsersKept,
    /// PostgreSQL may forget what snapshots do not see yet.
    UnseenForgotten,
}

impl Mutant {
    /// What it changes in the script that applies plans, and into what.
    fn in_script(self) -> Option<(&'static str, &'static str)> {
        let seen =
            "local seen = xid == UNKNOWN or xid < xmin or (xid < xmax and not find(running, xid, 1, true))";
        let waits = "if after ~= '' and (not old or sub(old, 1, 32) < after) then return 'w' end";
        match self {
            Mutant::FenceOff => Some(("if not old then return false end", "do return false end")),
            Mutant::LsnTaggedChunks => Some((seen, "local seen = sub(old, 9, 24) < xmax")),
            Mutant::RetryOutOfOrder => Some((waits, "")),
            Mutant::RowsOfTouchedUsersKept => Some((seen, "local seen = true")),
            Mutant::AckOnReceive | Mutant::CheckpointBeforeData | Mutant::UnseenForgotten => None,
        }
    }

    /// The promises that it may break.
    fn breaks(self) -> &'static [&'static str] {
        match self {
            Mutant::FenceOff => &["no key moves backwards", "published once", "published in commit order"],
            Mutant::LsnTaggedChunks | Mutant::RowsOfTouchedUsersKept => {
                &["no key moves backwards", "redis equals postgres"]
            }
            Mutant::AckOnReceive => &["acknowledged after redis held it"],
            Mutant::CheckpointBeforeData => {
                &["acknowledged after redis held it", "every change is published"]
            }
            Mutant::UnseenForgotten => &["redis equals postgres"],
            Mutant::RetryOutOfOrder => &["published in commit order", "every change is published"],
        }
    }

    /// What becomes of a script.
    pub fn script(self, text: &str) -> String {
        self.in_script().map_or_else(|| text.to_owned(), |(of, to)| text.replace(of, to))
    }
}

/// Seeds within which every known bug has to be found.
const SEEDS: u64 = 2_000;

fn is_caught(mutant: Mutant) {
    // Here and not where it is planted: a panic there would pass for a find.
    if let Some((of, _)) = mutant.in_script() {
        let script = include_str!("../../src/sink/apply.lua");
        assert_eq!(script.matches(of).count(), 1, "the script has changed: plant {mutant:?} anew");
    }
    let caught = (0..SEEDS).find_map(|seed| {
        let failure = Schedule::of_seed(seed).with(mutant).run().failure?;
        // What else it may break is not what is asked.
        mutant.breaks().contains(&failure.rule).then_some((seed, failure))
    });
    let (seed, failure) = caught.unwrap_or_else(|| panic!("{mutant:?} is not caught within {SEEDS} seeds"));
    let without = Schedule::of_seed(seed).prepared_for(mutant).run();
    assert_eq!(without.failure, None, "{mutant:?} is not what is caught");
    let shortest = shrink::shrink(Schedule::of_seed(seed).with(mutant), &failure);
    println!("{mutant:?}: seed {seed}, {failure}; {} steps are enough", shortest.steps.len());
}

#[test]
fn a_fence_that_is_off_is_caught() {
    is_caught(Mutant::FenceOff);
}

#[test]
fn a_chunk_tagged_with_a_position_is_caught() {
    is_caught(Mutant::LsnTaggedChunks);
}

#[test]
fn an_acknowledgement_of_what_was_only_received_is_caught() {
    is_caught(Mutant::AckOnReceive);
}

#[test]
fn a_checkpoint_before_its_data_is_caught() {
    is_caught(Mutant::CheckpointBeforeData);
}

#[test]
fn a_retry_out_of_order_is_caught() {
    is_caught(Mutant::RetryOutOfOrder);
}

#[test]
fn rows_of_touched_users_that_are_kept_are_caught() {
    is_caught(Mutant::RowsOfTouchedUsersKept);
}

#[test]
fn an_acknowledgement_of_what_no_snapshot_sees_is_caught() {
    is_caught(Mutant::UnseenForgotten);
}
