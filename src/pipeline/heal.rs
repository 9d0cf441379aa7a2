//! What Redis is known to have held, and how what it lost of that comes back.

use std::time::Instant;

use super::Pipeline;
use crate::checkpoint::{Checkpoint, Counted};
use crate::error::{Error, Fault};
use crate::lsn::{Lsn, Position};

/// What a session begins with, as the comparison of both sides told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outset {
    /// Every node holds everything before it, however far back the stream begins.
    pub held: Lsn,
    /// Some node held everything before it, once.
    pub reached: Lsn,
    /// The last transaction that Redis holds, where the stream has to bring it if it brings what is before.
    pub counted: Option<Counted>,
    /// Whether another history of the database begins, in which positions mean something else.
    pub anew: bool,
    /// How what was lost comes back; `None`: nothing is known to be lost, or a running load goes on.
    pub cure: Option<Cure>,
}

/// How Redis gets back what it lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cure {
    /// The slot still has all of it: it is sent again.
    Replay,
    /// All users are read from the database.
    Load,
}

impl Cure {
    /// The label of the counter.
    fn label(self) -> &'static str {
        match self {
            Cure::Replay => "replay",
            Cure::Load => "load",
        }
    }
}

/// What this process knows beside the records in Redis.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The furthest checkpoint that every node took.
    stored: Option<Checkpoint>,
    outset: Outset,
    /// Position of the last event of the stream that was counted.
    noted: Position,
    /// Position of the last event of the stream that was sent to Redis, now and when Redis last lost some of what it held.
    sent: Position,
    sent_before_loss: Position,
    /// The last row that touches no key and was counted, now and before this session.
    refused: Position,
    refused_before: Position,
    /// Since when what was lost is coming back.
    healing: Option<(Cure, Instant)>,
    /// What a stream contradicted.
    contradicted: Option<Counted>,
}

impl Known {
    /// Every node holds everything before it.
    pub(super) fn held(&self) -> Lsn {
        self.outset.held
    }

    /// The last transaction that Redis holds, where the stream has to bring it.
    pub(super) fn counted(&self) -> Option<Counted> {
        self.outset.counted
    }

    /// The stream contradicts what Redis holds.
    pub(super) fn contradict(&mut self) -> Error {
        self.contradicted = self.outset.counted;
        Error::transient(
            "the database is not the one that redis holds: an older state of it was restored",
            "",
        )
    }

    /// Notes an event that leaves.
    pub(super) fn note_sent(&mut self, position: Position) {
        self.sent = self.sent.max(position);
    }

    /// Redis lost some of what it held.
    fn note_loss(&mut self) {
        self.sent_before_loss = self.sent;
    }

    /// Whether an event there may have been published before: also what Redis was sent, did, and never acknowledged.
    pub(super) fn had_or_lost(&self, position: Position) -> bool {
        self.had(position) || position <= self.sent_before_loss
    }

    /// Notes an event; whether it was in Redis before, as far as anybody knows.
    pub(super) fn note_event(&mut self, position: Position) -> bool {
        let again = self.had(position);
        self.noted = self.noted.max(position);
        again
    }

    /// Whether an event there was in Redis before, as far as anybody knows.
    pub(super) fn had(&self, position: Position) -> bool {
        position <= self.noted || position.commit_lsn < self.outset.reached
    }

    /// Notes a row that touches no key; whether it was counted in an earlier session, or by whoever wrote a checkpoint
    /// behind it.
    pub(super) fn note_refused(&mut self, position: Position) -> bool {
        self.refused = self.refused.max(position);
        position <= self.refused_before || position.commit_lsn < self.outset.reached
    }
}

impl Pipeline {
    /// A session begins.
    pub fn set_out(&mut self, outset: Outset) {
        if outset.anew {
            self.known = Known::default();
        }
        self.known.refused_before = self.known.refused;
        self.known.outset = outset;
        if let Some(cure) = outset.cure {
            self.known.note_loss();
            let since = self.known.healing.map_or_else(Instant::now, |(_, since)| since);
            let before = self.known.healing.replace((cure, since)).map(|(cure, _)| cure);
            if before != Some(cure) {
                self.metrics.sink.heals.with_label_values(&[cure.label()]).inc();
                let Outset { held, reached, .. } = outset;
                tracing::warn!(%held, %reached, by = cure.label(), "redis lacks what it held or should hold");
            }
        }
        self.tell_healing();
    }

    /// Every node took a checkpoint.
    pub(super) fn note_stored(&mut self, checkpoint: &Checkpoint) {
        let is_further = |stored: &Checkpoint| checkpoint.applied > stored.applied;
        if self.known.stored.as_ref().is_none_or(is_further) {
            self.known.stored = Some(checkpoint.clone());
        }
    }

    /// The furthest checkpoint that this process had every node take, in this history of this server.
    pub fn stored(&self, system_id: &str, timeline: u32) -> Option<&Checkpoint> {
        let stored = self.known.stored.as_ref();
        stored.filter(|stored| stored.system_id == system_id && stored.timeline == timeline)
    }

    /// Whether a stream was of another history than a Redis that holds this. Another instance may have drawn the
    /// conclusion since: then Redis holds something else.
    pub fn was_contradicted(&self, counted: Option<Counted>) -> bool {
        counted.is_some() && self.known.contradicted == counted
    }

    /// Everything before `applied` is in Redis.
    pub(super) fn note_applied(&mut self, applied: Lsn) {
        let lost_until = self.known.outset.reached.max(self.known.noted.commit_lsn);
        if matches!(self.known.healing, Some((Cure::Replay, _))) && applied >= lost_until {
            self.note_healed();
        }
    }

    /// Redis holds again all that it lacked.
    pub(super) fn note_healed(&mut self) {
        let Some((cure, since)) = self.known.healing.take() else { return };
        let seconds = since.elapsed().as_secs_f64();
        self.metrics.sink.heal_seconds.set(seconds);
        tracing::info!(seconds, by = cure.label(), "redis holds again what it lacked");
        self.tell_healing();
    }

    /// Whether the last checkpoint is kept as it is to be kept; logged when it is new.
    pub(super) fn note_kept(&self, unkept: Option<&Fault>) {
        let told = unkept.map(ToString::to_string);
        let before = self.health.facts().unkept;
        match (&told, &before) {
            (Some(fault), None) => {
                tracing::warn!(fault, "the slot keeps its position until redis keeps what it holds")
            }
            (None, Some(_)) => tracing::info!("redis keeps what it holds again"),
            _ => {}
        }
        self.health.tell(|facts| facts.unkept = told);
    }

    fn tell_healing(&self) {
        self.metrics.sink.healing.set(i64::from(self.known.healing.is_some()));
        let replaying = matches!(self.known.healing, Some((Cure::Replay, _)));
        self.health.tell(|facts| facts.replaying = replaying);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_was_there_before_if_it_was_counted_or_lies_before_a_checkpoint() {
        let at = |lsn, ordinal| Position { commit_lsn: Lsn(lsn), ordinal };
        let outset = Outset { reached: Lsn(100), ..Outset::default() };
        let mut known = Known { outset, ..Known::default() };
        assert!(known.note_event(at(99, 1)));
        assert!(!known.note_event(at(100, 1)), "the checkpoint is the end of what was before it");
        assert!(known.note_event(at(100, 1)));
        assert!(!known.note_event(at(100, 2)));
    }

    #[test]
    fn what_was_sent_and_not_acknowledged_may_have_been_there_before_redis_lost_it() {
        let at = |lsn| Position { commit_lsn: Lsn(lsn), ordinal: 1 };
        let mut known = Known::default();
        known.note_sent(at(7));
        assert!(!known.had_or_lost(at(6)), "sent again after a fault: the fence stops what was there");
        known.note_loss();
        assert!(known.had_or_lost(at(7)) && !known.had_or_lost(at(8)) && !known.had(at(7)));
    }

    #[test]
    fn a_row_that_touches_no_key_is_counted_once() {
        let at = |lsn| Position { commit_lsn: Lsn(lsn), ordinal: 1 };
        let mut known = Known::default();
        assert!(!known.note_refused(at(5)) && !known.note_refused(at(4)), "in any order");
        known.refused_before = known.refused;
        assert!(known.note_refused(at(4)) && !known.note_refused(at(6)));
        known.outset.reached = Lsn(8);
        assert!(known.note_refused(at(7)) && !known.note_refused(at(8)), "the margin is sent again");
    }
}
