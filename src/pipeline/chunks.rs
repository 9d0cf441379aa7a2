//! Rows read from the database beside the stream, held until the stream has passed them.
//!
//! The rule (a snapshot does not see every commit that is already in WAL, so a position alone proves nothing):
//! a chunk waits until the stream has applied past the insert position read after its snapshot; then each
//! row is written where its user has no fence, or the fence's transaction is visible in the snapshot.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::balance::Refused;
use crate::keyplan::{KeyPlan, Timed};
use crate::lsn::{Lsn, Snapshot, Xid64};
use crate::sink::{Difference, Outcome};

/// Rows read in one short REPEATABLE READ transaction on the primary.
#[derive(Debug)]
pub struct Chunk {
    /// One plan a row, published or not as its kind says.
    pub plans: Vec<KeyPlan>,
    /// Rows that touch no key.
    pub refused: Vec<Refused>,
    /// What the transaction saw.
    pub snapshot: Snapshot,
    /// The insert position after it: every commit that the snapshot sees is before.
    pub read_before: Lsn,
    /// Only rows that Redis does not hold as they are are written; `None`: all of them.
    pub compares: Option<Compares>,
    /// Told what became of each row, before the chunk is done, where somebody asks.
    pub told: Option<oneshot::Sender<Vec<Outcome>>>,
    /// Told once the chunk is in Redis, or has to be read again.
    pub done: oneshot::Sender<ChunkEnd>,
}

/// How rows are compared with what Redis holds before they are written.
#[derive(Debug)]
pub struct Compares {
    /// Whether those that differ are written.
    pub heals: bool,
    /// What is left out.
    pub timed: Arc<Timed>,
    /// Told of each row what was found, before the chunk is done; `None` where the fence says that Redis holds a
    /// later one.
    pub found: oneshot::Sender<Vec<Option<Difference>>>,
}

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEnd {
    /// In Redis, row by row or by a later event of the stream.
    Written,
    /// The stream truncated a table that the snapshot still saw full, or a node may have forgotten a fence.
    ReadAgain,
}

/// Chunks that wait for the stream.
#[derive(Debug, Default)]
pub struct Chunks {
    waiting: VecDeque<Chunk>,
    /// The last truncate of each user type (`None`: of every type) that the stream applied.
    truncates: HashMap<Option<Arc<str>>, Xid64>,
}

impl Chunks {
    /// Takes a chunk in.
    pub fn push(&mut self, chunk: Chunk) {
        self.waiting.push_back(chunk);
    }

    /// Drops every chunk, and the truncates that concern chunks read before: their reader was stopped.
    pub fn forget(&mut self) {
        self.waiting.clear();
        self.truncates.clear();
    }

    /// Whether any chunk waits for a position past `applied`: the server is asked for a keepalive then.
    pub fn wants_past(&self, applied: Lsn) -> bool {
        self.waiting.iter().any(|chunk| chunk.read_before > applied)
    }

    /// Remembers a truncate that left for Redis.
    pub fn truncated(&mut self, user_type: Option<Arc<str>>, xid: Xid64) {
        self.truncates.insert(user_type, xid);
    }

    /// The next chunk that the stream has passed. Those that a truncate has emptied are sent back.
    pub fn ready(&mut self, applied: Lsn) -> Option<Chunk> {
        while let Some(index) = self.waiting.iter().position(|chunk| chunk.read_before <= applied) {
            let chunk = self.waiting.remove(index)?;
            // Whoever gave up waiting may have said so.
            if chunk.done.is_closed() {
                continue;
            }
            if self.truncates.values().all(|xid| chunk.snapshot.sees(*xid)) {
                return Some(chunk);
            }
            // The reader may be gone: then nobody waits for the answer.
            let _ = chunk.done.send(ChunkEnd::ReadAgain);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(snapshot: &str, read_before: u64) -> (Chunk, oneshot::Receiver<ChunkEnd>) {
        let (done, end) = oneshot::channel();
        let snapshot = snapshot.parse().unwrap();
        let (plans, refused, read_before) = (Vec::new(), Vec::new(), Lsn(read_before));
        (Chunk { plans, refused, snapshot, read_before, compares: None, told: None, done }, end)
    }

    #[test]
    fn a_chunk_waits_until_the_stream_has_applied_past_its_reading() {
        let mut chunks = Chunks::default();
        let (waiting, _end) = chunk("10:10:", 100);
        chunks.push(waiting);
        assert!(chunks.wants_past(Lsn(99)) && chunks.ready(Lsn(99)).is_none());
        assert!(!chunks.wants_past(Lsn(100)) && chunks.ready(Lsn(100)).is_some());
        assert!(chunks.ready(Lsn(100)).is_none());
    }

    #[test]
    fn a_chunk_read_before_a_truncate_is_read_again() {
        let mut chunks = Chunks::default();
        chunks.truncated(Some("live".into()), Xid64(12));
        let (before, mut end) = chunk("10:20:12", 100);
        chunks.push(before);
        assert!(chunks.ready(Lsn(100)).is_none());
        assert_eq!(end.try_recv(), Ok(ChunkEnd::ReadAgain));
        let (after, _end) = chunk("13:20:", 100);
        chunks.push(after);
        assert!(chunks.ready(Lsn(100)).is_some(), "this one saw the empty table");
    }

    #[test]
    fn a_chunk_that_nobody_waits_for_any_more_is_dropped() {
        let mut chunks = Chunks::default();
        let (left, end) = chunk("10:10:", 100);
        let (waited_for, _end) = chunk("11:11:", 100);
        chunks.push(left);
        chunks.push(waited_for);
        drop(end);
        assert_eq!(chunks.ready(Lsn(100)).map(|chunk| chunk.snapshot.xmin), Some(Xid64(11)));
        assert!(chunks.ready(Lsn(100)).is_none());
    }
}
