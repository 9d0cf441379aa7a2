//! What a node's checkpoint proves of what the node holds.
//!
//! Everything before a checkpoint was written to its node before it, so that whoever holds it (the node, a replica that
//! took over, a server that read an older file) holds all of that. A key that only moved with its slot proves nothing,
//! and rows that were read beside the stream are in no stream that could bring them again: they are counted.

use serde::{Deserialize, Serialize};

use super::reply::{Reply, info_field};
use crate::checkpoint::{Checkpoint, Landmark};

/// Which process, and which history of replication, a node's data set belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Life {
    run: String,
    history: String,
    history_before: String,
}

impl Life {
    /// Whether both are the same process under the same history.
    pub(super) fn goes_on_as(&self, now: &Life) -> bool {
        !self.run.is_empty() && self == now
    }

    /// From `INFO SERVER` and `INFO REPLICATION`.
    pub(super) fn read(server: &Reply, replication: &Reply) -> Life {
        let field = |info, name| info_field(info, name).unwrap_or_default().to_owned();
        Life {
            run: field(server, "run_id"),
            history: field(replication, "master_replid"),
            history_before: field(replication, "master_replid2"),
        }
    }
}

/// A checkpoint as a node keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredCheckpoint {
    pub(super) slot: String,
    pub(super) system_id: String,
    pub(super) timeline: u32,
    pub(super) applied: String,
    pub(super) node: String,
    /// The key of the epoch lies on one node of a cluster, which may forget it.
    #[serde(default)]
    pub(super) epoch: Option<u32>,
    /// The last transaction that it counts.
    #[serde(default)]
    pub(super) last: Option<StoredLandmark>,
    /// The first commit behind which somebody may still write what he derived before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) unwatched: Option<String>,
    /// Flights of rows read beside the stream that were written before it, to whatever node.
    #[serde(default)]
    pub(super) rows: u64,
    #[serde(default)]
    run: String,
    #[serde(default)]
    history: String,
}

/// A landmark as a node keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StoredLandmark {
    commit_lsn: String,
    xid: u32,
    time: i64,
}

impl StoredLandmark {
    fn of(landmark: Landmark) -> StoredLandmark {
        let Landmark { commit_lsn, xid, time } = landmark;
        StoredLandmark { commit_lsn: commit_lsn.to_string(), xid, time }
    }

    /// `None` where it is none.
    pub(super) fn read(&self) -> Option<Landmark> {
        Some(Landmark { commit_lsn: self.commit_lsn.parse().ok()?, xid: self.xid, time: self.time })
    }
}

impl StoredCheckpoint {
    /// A node's, of no life yet.
    pub(super) fn new(
        checkpoint: &Checkpoint,
        node: String,
        epoch: Option<u32>,
        rows: u64,
    ) -> StoredCheckpoint {
        let Checkpoint { slot, system_id, timeline, applied, landmark, unwatched } = checkpoint.clone();
        let (run, history) = (String::new(), String::new());
        StoredCheckpoint {
            slot,
            system_id,
            timeline,
            applied: applied.to_string(),
            node,
            epoch,
            last: landmark.map(StoredLandmark::of),
            unwatched: unwatched.map(|since| since.to_string()),
            rows,
            run,
            history,
        }
    }

    /// Of the life that its node leads.
    #[must_use]
    pub(super) fn of(self, life: &Life) -> StoredCheckpoint {
        StoredCheckpoint { run: life.run.clone(), history: life.history.clone(), ..self }
    }

    /// Whether the node, named `id` by its cluster, holds all that was written before; `rows` are the flights of rows
    /// that anybody knows of.
    pub(super) fn proves(&self, id: &str, life: &Life, rows: u64) -> bool {
        let known = |history: &str| !history.is_empty() && history == self.history;
        let same_process = self.node == id && !self.run.is_empty() && self.run == life.run;
        // The same process under the same history has lost nothing but what it was told to.
        if same_process && known(&life.history) {
            return true;
        }
        let took_over = known(&life.history_before) || known(&life.history);
        (self.node == id || took_over) && self.rows >= rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(run: &str, history: &str, before: &str) -> Life {
        Life { run: run.into(), history: history.into(), history_before: before.into() }
    }

    fn stored(rows: u64) -> StoredCheckpoint {
        let text = r#"{"slot":"s","system_id":"7","timeline":1,"applied":"0/1","node":"a"}"#;
        let stored: StoredCheckpoint = serde_json::from_str(text).unwrap();
        StoredCheckpoint { rows, ..stored }.of(&life("r1", "h1", "0"))
    }

    #[test]
    fn a_node_that_went_on_or_was_restarted_or_replaced_by_its_replica_holds_what_is_before() {
        let checkpoint = stored(5);
        assert!(checkpoint.proves("a", &life("r1", "h1", "0"), 9), "it lost nothing, rows neither");
        assert!(checkpoint.proves("a", &life("r2", "h2", "0"), 5), "restarted");
        assert!(checkpoint.proves("b", &life("r3", "h2", "h1"), 5), "a replica took over");
    }

    #[test]
    fn lost_rows_and_a_key_that_only_moved_are_no_proof() {
        let checkpoint = stored(5);
        assert!(!checkpoint.proves("a", &life("r2", "h2", "0"), 6));
        assert!(!checkpoint.proves("b", &life("r3", "h2", "h1"), 6));
        assert!(!checkpoint.proves("b", &life("r3", "h3", "h2"), 5), "of another shard");
        assert!(!checkpoint.proves("b", &life("", "", ""), 5));
    }
}
