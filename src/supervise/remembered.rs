//! What the nodes of Redis remember, and this process beside them.

use super::start::{self, RedisSide, ServerSide};
use crate::checkpoint::Checkpoint;
use crate::pipeline::Pipeline;
use crate::resync::cursor;
use crate::sink::{NodeRecord, Records};

/// Both together; `ours` is the last epoch of this process.
pub fn redis_side(pipeline: &Pipeline, server: &ServerSide, (records, ours): (&Records, u32)) -> RedisSide {
    let stored = pipeline.stored(&server.system_id, server.timeline);
    let of_epoch = |node: &&NodeRecord| node.epoch == records.epoch;
    // Those of another epoch may be left from another history.
    let moved: Vec<&NodeRecord> = records.moved.iter().filter(of_epoch).collect();
    let furthest = start::furthest(server, records.nodes.iter().chain(moved.iter().copied()));
    // Not where another instance has drawn a conclusion since.
    let ours = stored.filter(|_| records.epoch == Some(ours));
    let counted = furthest.or(ours).and_then(Checkpoint::counted);
    let told = records.nodes.iter().filter(of_epoch).chain(moved);
    // Where Redis shows no epoch any more it was emptied: a new one stops what was under way before.
    let is_told = match ours {
        Some(_) if records.shown_epoch == records.epoch => true,
        _ => start::furthest(server, told).is_some(),
    };
    let proven = |node: &NodeRecord| node.checkpoint.clone().filter(|_| node.proves);
    let mark = records.loaded.as_ref().or(records.load.as_ref());
    RedisSide {
        node_epoch: records.nodes.iter().filter_map(|node| node.epoch).max(),
        reached: stored.into_iter().chain(furthest).map(|checkpoint| checkpoint.applied).max(),
        is_told,
        counted,
        is_contradicted: pipeline.was_contradicted(counted),
        checkpoints: records.nodes.iter().map(proven).collect(),
        // Beside a mark of progress it may be that of a load before, or of an instance that was frozen since.
        loaded: records.loaded.is_some() && records.load.is_none(),
        published: mark.and_then(|mark| cursor::recorded(mark)),
        epoch: records.epoch,
    }
}

/// Whether the slot stands where this instance left it. Another one may have seen a gap in between: what was read before
/// is too old then, and the stream does not tell.
pub fn is_continued(pipeline: &Pipeline, server: &ServerSide) -> bool {
    server.confirmed_flush <= pipeline.acknowledged()
}
