//! Whether Redis can be trusted: decided from what both sides remember. No IO.

use crate::checkpoint::Checkpoint;
use crate::lsn::Lsn;
use crate::pipeline::{Cure, Outset};
use crate::sink::{FIRST_EPOCH, NodeRecord};

/// What the slot and the server say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSide {
    /// `IDENTIFY_SYSTEM`'s system identifier.
    pub system_id: String,
    /// Timeline.
    pub timeline: u32,
    /// The slot's `confirmed_flush_lsn`.
    pub confirmed_flush: Lsn,
    /// The end of WAL.
    pub wal_end: Lsn,
    /// The mark of the publication.
    pub published: String,
}

/// What the Redis nodes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSide {
    /// The checkpoint of each node; `None` where it has none, or one that proves nothing.
    pub checkpoints: Vec<Option<Checkpoint>>,
    /// The furthest position up to which all nodes held everything once, in this history, as any node or this process
    /// knows it.
    pub reached: Option<Lsn>,
    /// Whether the marker of a finished load for this slot is there.
    pub loaded: bool,
    /// The mark of the publication under which the users were loaded, where it is known.
    pub published: Option<String>,
    /// The highest epoch that a node or this process knows; `None` when none has one.
    pub epoch: Option<u32>,
}

impl RedisSide {
    /// Whether every node still holds a checkpoint, and so all that was written before it.
    pub fn forgot_nothing(&self) -> bool {
        self.checkpoints.iter().all(Option::is_some)
    }
}

/// How to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The epoch of every fence from now on.
    pub epoch: u32,
    /// Why the users have to be loaded; `None`: Redis holds them.
    pub load: Option<LoadReason>,
    /// What the session is told.
    pub outset: Outset,
}

/// Why the users have to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadReason {
    /// Redis has no marker of a finished load: the first start, or an interrupted one, which goes on.
    NeverLoaded,
    /// A node has no checkpoint, or an older one than the slot goes back to: it was emptied, is new, or lost too much.
    NodeForgot,
    /// The slot was made or moved past what Redis holds: changes in between are not in the stream.
    Gap,
    /// The publication was changed: what changed while a table was out of it is not in the stream.
    Republished,
    /// Another server, or another history of it: positions mean something else.
    OtherHistory,
}

impl LoadReason {
    /// Whether the database may hold changes that never were in the stream.
    pub fn is_gap(self) -> bool {
        matches!(self, LoadReason::Gap | LoadReason::Republished | LoadReason::OtherHistory)
    }

    /// In words, for the log.
    pub fn describe(self) -> &'static str {
        match self {
            LoadReason::NeverLoaded => "redis has no marker of a finished load",
            LoadReason::NodeForgot => {
                "a redis node lost what it held, and the slot does not go back that far"
            }
            LoadReason::Gap => {
                "the slot stands past the last checkpoint, so changes between them are not in the stream"
            }
            LoadReason::Republished => "the publication was changed since the users were loaded",
            LoadReason::OtherHistory => "the checkpoint is of another server, timeline or restored state",
        }
    }
}

/// The furthest checkpoint of this history that any node has, whatever it proves of the node.
pub fn furthest(server: &ServerSide, nodes: &[NodeRecord]) -> Option<Lsn> {
    let checkpoints = nodes.iter().filter_map(|node| node.checkpoint.as_ref());
    let of_this = checkpoints.filter(|c| c.system_id == server.system_id && c.timeline == server.timeline);
    of_this.map(|c| c.applied).max()
}

/// Compares the two sides.
///
/// The stream begins at the slot's `confirmed_flush`, whatever position is asked for (an older one is silently
/// fast-forwarded), so a gap has to be seen here. It stays a margin behind what Redis held: a node that lost no more than
/// that gets it again from the stream, and the fences of the others skip it.
pub fn decide(server: &ServerSide, redis: &RedisSide, trust_redis: bool) -> Start {
    let known: Vec<&Checkpoint> = redis.checkpoints.iter().flatten().collect();
    // A copy of the server's files that was put back has the same name and timeline, and less WAL.
    let same_history = known.iter().all(|c| {
        c.system_id == server.system_id && c.timeline == server.timeline && c.applied <= server.wal_end
    });
    let republished = redis.published.as_ref().is_some_and(|published| *published != server.published);
    let applied = known.iter().map(|c| c.applied).min();
    let anew = !same_history || redis.reached > Some(server.wal_end);
    let reached = redis.reached.filter(|_| !anew);
    let reached = reached.max(known.iter().map(|c| c.applied).max()).unwrap_or_default();
    let load = match applied {
        _ if !same_history => Some(LoadReason::OtherHistory),
        _ if trust_redis && !redis.loaded => None,
        // Before "never loaded": what an unfinished load has reached is no longer true either.
        Some(_) if reached < server.confirmed_flush => Some(LoadReason::Gap),
        Some(_) if republished => Some(LoadReason::Republished),
        Some(applied) if applied < server.confirmed_flush || !redis.forgot_nothing() => {
            Some(LoadReason::NodeForgot)
        }
        // What this process had written is gone: that is no first start.
        None if redis.reached.is_some() => Some(LoadReason::NodeForgot),
        _ if !redis.loaded => Some(LoadReason::NeverLoaded),
        None => Some(LoadReason::NodeForgot),
        Some(_) => None,
    };
    let epoch = match redis.epoch {
        None => FIRST_EPOCH,
        // A node that remembers vouches for the history. A higher epoch for the sake of one that forgot would pass
        // the fences of the others, which are right: events that are sent again would be published again.
        Some(epoch) if same_history && applied.is_some() => epoch,
        // Nobody says any more of which history the fences are that may still be there.
        Some(epoch) => epoch.saturating_add(1),
    };
    let goes_on = matches!(load, None | Some(LoadReason::NeverLoaded)) && redis.forgot_nothing();
    let held = applied.filter(|_| goes_on).unwrap_or_default().max(server.confirmed_flush);
    let cure = match load {
        None if held < reached => Some(Cure::Replay),
        None | Some(LoadReason::NeverLoaded) => None,
        Some(_) => Some(Cure::Load),
    };
    let reached = if anew { Lsn::ZERO } else { reached };
    Start { epoch, load, outset: Outset { held, reached, anew, cure } }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(confirmed_flush: u64) -> ServerSide {
        ServerSide {
            system_id: "7".into(),
            timeline: 1,
            confirmed_flush: Lsn(confirmed_flush),
            wal_end: Lsn(1000),
            published: "5/6".into(),
        }
    }

    fn at(applied: u64) -> Option<Checkpoint> {
        Some(Checkpoint {
            slot: "lockstep".into(),
            system_id: "7".into(),
            timeline: 1,
            applied: Lsn(applied),
        })
    }

    fn redis(checkpoints: Vec<Option<Checkpoint>>, loaded: bool) -> RedisSide {
        RedisSide { checkpoints, reached: None, loaded, published: None, epoch: loaded.then_some(3) }
    }

    #[test]
    fn the_first_start_loads() {
        let start = decide(&server(100), &redis(vec![None], false), false);
        assert_eq!((start.epoch, start.load, start.outset.cure), (1, Some(LoadReason::NeverLoaded), None));
    }

    #[test]
    fn no_snapshot_trusts_redis_on_the_first_start_only() {
        assert_eq!(decide(&server(100), &redis(vec![None], false), true).load, None);
        assert_eq!(decide(&server(100), &redis(vec![at(90)], true), true).load, Some(LoadReason::Gap));
    }

    #[test]
    fn a_restart_goes_on_without_a_load() {
        let start = decide(&server(100), &redis(vec![at(130), at(120)], true), false);
        assert_eq!((start.epoch, start.load), (3, None));
        assert_eq!((start.outset.held, start.outset.reached), (Lsn(120), Lsn(130)));
    }

    #[test]
    fn a_slot_past_every_checkpoint_is_a_gap() {
        let start = decide(&server(131), &redis(vec![at(130), at(120)], true), false);
        assert_eq!((start.epoch, start.load), (3, Some(LoadReason::Gap)));
        assert_eq!((start.outset.held, start.outset.cure), (Lsn(131), Some(Cure::Load)));
    }

    #[test]
    fn a_node_that_lost_no_more_than_the_slot_has_gets_it_again() {
        let start = decide(&server(100), &redis(vec![at(130), at(110)], true), false);
        let outset = Outset { held: Lsn(110), reached: Lsn(130), anew: false, cure: Some(Cure::Replay) };
        assert_eq!(start, Start { epoch: 3, load: None, outset });
        let mut alone = redis(vec![at(110)], true);
        alone.reached = Some(Lsn(130));
        assert_eq!(decide(&server(100), &alone, false).outset, outset, "only this process knows");
    }

    #[test]
    fn a_node_that_lost_more_than_the_slot_has_means_loading_again_and_is_no_gap() {
        let mut alone = redis(vec![at(90)], true);
        alone.reached = Some(Lsn(130));
        for redis in [alone, redis(vec![at(130), at(90)], true)] {
            let start = decide(&server(100), &redis, false);
            assert_eq!((start.epoch, start.load), (3, Some(LoadReason::NodeForgot)));
            assert_eq!((start.outset.held, start.outset.cure), (Lsn(100), Some(Cure::Load)));
        }
    }

    #[test]
    fn a_publication_that_was_changed_means_loading_again() {
        let under = |mark: &str| {
            let mut redis = redis(vec![at(130)], true);
            redis.published = Some(mark.into());
            decide(&server(100), &redis, false).load
        };
        assert_eq!([under("5/6"), under("5/7")], [None, Some(LoadReason::Republished)]);
    }

    #[test]
    fn a_server_whose_wal_ends_before_the_checkpoint_was_restored() {
        let mut restored = server(100);
        restored.wal_end = Lsn(129);
        let start = decide(&restored, &redis(vec![at(130)], true), false);
        assert_eq!((start.epoch, start.load), (4, Some(LoadReason::OtherHistory)));
        assert!(start.outset.anew && start.outset.reached == Lsn::ZERO);
    }

    #[test]
    fn an_emptied_node_means_loading_again() {
        for nodes in [vec![at(130), None], vec![None]] {
            let start = decide(&server(100), &redis(nodes, true), false);
            assert_eq!(start.load, Some(LoadReason::NodeForgot));
        }
        let mut wiped = redis(vec![None], false);
        wiped.reached = Some(Lsn(130));
        assert_eq!(decide(&server(100), &wiped, false).load, Some(LoadReason::NodeForgot));
    }

    #[test]
    fn the_epoch_is_past_every_known_one_where_nothing_tells_of_which_history_they_were() {
        let epoch = |nodes: Vec<_>, epoch| {
            decide(
                &server(100),
                &RedisSide { checkpoints: nodes, reached: None, loaded: false, published: None, epoch },
                false,
            )
            .epoch
        };
        assert_eq!(epoch(vec![None], None), 1, "the first start");
        assert_eq!(epoch(vec![None, None], Some(3)), 4, "a wiped redis");
        assert_eq!(epoch(vec![at(130), None], Some(3)), 3, "the other node vouches");
    }

    #[test]
    fn an_interrupted_load_goes_on_only_where_nothing_was_lost() {
        let reason = |nodes| decide(&server(100), &redis(nodes, false), false).load;
        assert_eq!(reason(vec![at(130), at(120)]), Some(LoadReason::NeverLoaded));
        assert_eq!(reason(vec![at(130), None]), Some(LoadReason::NodeForgot));
        assert_eq!(reason(vec![at(130), at(90)]), Some(LoadReason::NodeForgot));
        assert_eq!(reason(vec![at(95), at(90)]), Some(LoadReason::Gap));
    }

    #[test]
    fn another_history_raises_the_epoch_even_when_redis_is_trusted() {
        let mut promoted = server(100);
        promoted.timeline = 2;
        for trust in [false, true] {
            let start = decide(&promoted, &redis(vec![at(130)], true), trust);
            assert_eq!((start.epoch, start.load), (4, Some(LoadReason::OtherHistory)));
        }
    }
}
