//! Whether Redis can be trusted: decided from what both sides remember. No IO.
//!
//! # A promoted standby whose slot stands before the promotion
//! Its stream sends again what the old primary's has brought to Redis, and then goes on differently: Redis may hold
//! changes from behind the fork that the standby never had, also behind its last checkpoint, so nothing proves that it
//! does not. Therefore the epoch is raised and all users are loaded; but events before the fork, which both histories
//! share, keep [the epoch before](crate::sink::Epochs), so that fences stop those that Redis holds. Rows of the load
//! are read from the new server, and wait until the stream has passed where they were read: behind the fork.
//!
//! The epoch before is always the one less by one, in every session that begins before the fork: the first one writes
//! checkpoints of the new timeline and epoch to every node before it streams, and one that follows a crash finds these,
//! raises nothing, and comes to the same two epochs. Crashed in between, some nodes or only the key of the epoch have the
//! new one: raising it twice would give what is before the fork an epoch that it never had. Where it is raised for
//! another reason it is raised by two: nothing says then that what is before the fork is what Redis holds.

use crate::checkpoint::{Checkpoint, Counted};
use crate::lsn::Lsn;
use crate::pipeline::{Cure, Outset};
use crate::sink::{FIRST_EPOCH, NodeRecord};
use crate::wire::history::Fork;

/// What the slot and the server say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSide {
    /// `IDENTIFY_SYSTEM`'s system identifier.
    pub system_id: String,
    /// Timeline.
    pub timeline: u32,
    /// Where that began; `None`: it is the first, or nobody knows.
    pub fork: Option<Fork>,
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
    /// The last transaction that the furthest of the nodes' checkpoints counts.
    pub counted: Option<Counted>,
    /// Whether the stream was found to be of another history than that one.
    pub is_contradicted: bool,
    /// Whether somebody tells that the epoch's fences are of this history, though no node may prove it: this process, which
    /// wrote them, or a checkpoint that moved with its slot.
    pub is_told: bool,
    /// Whether the marker of a finished load for this slot is there.
    pub loaded: bool,
    /// The mark of the publication under which the users were loaded, where it is known.
    pub published: Option<String>,
    /// The highest epoch that a node or this process knows; `None` when none has one.
    pub epoch: Option<u32>,
    /// The highest epoch of any node's checkpoint: no fence is past it.
    pub node_epoch: Option<u32>,
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
    /// Before it, the epoch is the one before; zero where the stream does not go back that far.
    pub fork: Lsn,
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
pub fn furthest<'n>(
    server: &ServerSide,
    nodes: impl IntoIterator<Item = &'n NodeRecord>,
) -> Option<&'n Checkpoint> {
    let checkpoints = nodes.into_iter().filter_map(|node| node.checkpoint.as_ref());
    let of_this = checkpoints.filter(|c| c.system_id == server.system_id && c.timeline == server.timeline);
    of_this.max_by_key(|c| c.applied)
}

/// Whether the nodes are ahead of the server's WAL only because somebody has written there since it was asked: an
/// instance that is frozen in between loses the slot, and would take the other's progress for a restored server.
pub fn is_overtaken(server: &ServerSide, before: &[NodeRecord], now: &[NodeRecord]) -> bool {
    let is_ahead = |nodes: &'_ [NodeRecord]| {
        furthest(server, nodes).is_some_and(|furthest| furthest.applied > server.wal_end)
    };
    is_ahead(now) && !is_ahead(before)
}

/// Compares the two sides.
///
/// The stream begins at the slot's `confirmed_flush`, whatever position is asked for (an older one is silently
/// fast-forwarded), so a gap has to be seen here. It stays a margin behind what Redis held: a node that lost no more than
/// that gets it again from the stream, and the fences of the others skip it.
pub fn decide(server: &ServerSide, redis: &RedisSide, trust_redis: bool) -> Start {
    let known: Vec<&Checkpoint> = redis.checkpoints.iter().flatten().collect();
    // A copy of the server's files that was put back has the same name and timeline, and less WAL.
    let is_here = |c: &Checkpoint| {
        c.system_id == server.system_id && c.timeline == server.timeline && c.applied <= server.wal_end
    };
    let same_history = known.iter().all(|c| is_here(c)) && !redis.is_contradicted;
    let fork = server.fork.filter(|fork| server.confirmed_flush < fork.at);
    let is_parents = |c: &Checkpoint| {
        c.system_id == server.system_id && fork.is_some_and(|fork| fork.parent == c.timeline)
    };
    // What Redis holds begins as the new history does.
    let forked = fork.filter(|_| {
        !same_history && !redis.is_contradicted && known.iter().all(|c| is_here(c) || is_parents(c))
    });
    let republished = redis.published.as_ref().is_some_and(|published| *published != server.published);
    let applied = known.iter().map(|c| c.applied).min();
    // Of one that was written to for a while the WAL is as long again, and the stream tells.
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
    // Every node's checkpoint is gone where only their slots moved: then the fences are there, and what is sent again must not
    // pass them. Behind a slot that was made anew nothing is, and nobody knows what happened in between.
    let vouched =
        same_history && (applied.is_some() || redis.is_told && !anew && reached >= server.confirmed_flush);
    // After a crash in between, some nodes have the new timeline: and then it was raised.
    let is_raised = vouched || (forked.is_some() && known.iter().any(|c| is_here(c)));
    let epoch = epoch(redis, is_raised, fork.is_some(), forked.is_some());
    let holds_on = forked.is_some() || matches!(load, None | Some(LoadReason::NeverLoaded));
    let common = |lsn: Lsn| forked.map_or(lsn, |fork| lsn.min(fork.at));
    let held = applied
        .filter(|_| holds_on && redis.forgot_nothing())
        .map(common)
        .unwrap_or_default()
        .max(server.confirmed_flush);
    let cure = match load {
        None if held < reached => Some(Cure::Replay),
        None | Some(LoadReason::NeverLoaded) => None,
        Some(_) => Some(Cure::Load),
    };
    let reached = if anew && forked.is_none() { Lsn::ZERO } else { common(reached) };
    // A changed publication may change what is sent again, and behind a gap nobody knows what was last.
    let counted = redis.counted.filter(|c| !anew && !republished && c.until >= server.confirmed_flush);
    let fork = fork.map(|fork| fork.at).unwrap_or_default();
    Start { epoch, fork, load, outset: Outset { held, reached, counted, anew, cure } }
}

/// The epoch of what is written from now on. `is_raised`: that of Redis is of this history. `forks`: what is sent again begins
/// before the server's timeline, and `forked`: in what Redis holds.
fn epoch(redis: &RedisSide, is_raised: bool, forks: bool, forked: bool) -> u32 {
    match (redis.epoch, redis.node_epoch) {
        (None, _) => FIRST_EPOCH,
        // A node that remembers vouches for the history. A higher epoch for the sake of one that forgot would pass
        // the fences of the others, which are right: events that are sent again would be published again.
        (Some(epoch), _) if is_raised => epoch,
        (Some(epoch), Some(of_nodes)) if forked && epoch <= of_nodes.saturating_add(1) => {
            of_nodes.saturating_add(1)
        }
        // Nobody says any more of which history the fences are that may still be there.
        (Some(epoch), _) => epoch.saturating_add(1 + u32::from(forks)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Landmark;
    use crate::sink::slots::Address;

    fn server(confirmed_flush: u64) -> ServerSide {
        ServerSide {
            system_id: "7".into(),
            timeline: 1,
            fork: None,
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
            landmark: None,
            unwatched: None,
        })
    }

    fn redis(checkpoints: Vec<Option<Checkpoint>>, loaded: bool) -> RedisSide {
        RedisSide {
            checkpoints,
            reached: None,
            counted: None,
            is_contradicted: false,
            is_told: false,
            loaded,
            published: None,
            epoch: loaded.then_some(3),
            node_epoch: loaded.then_some(3),
        }
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
        let outset = Outset {
            held: Lsn(110),
            reached: Lsn(130),
            counted: None,
            anew: false,
            cure: Some(Cure::Replay),
        };
        assert_eq!(start, Start { epoch: 3, fork: Lsn::ZERO, load: None, outset });
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

    fn counting() -> RedisSide {
        let landmark = Landmark { commit_lsn: Lsn(110), xid: 7, time: 9 };
        let counted = Some(Counted { landmark, until: Lsn(120) });
        RedisSide { reached: Some(Lsn(120)), counted, ..redis(vec![at(120)], true) }
    }

    #[test]
    fn a_stream_that_contradicts_the_checkpoints_begins_another_history() {
        let start = decide(&server(100), &counting(), false);
        assert_eq!((start.epoch, start.load, start.outset.counted), (3, None, counting().counted));
        let contradicted = RedisSide { is_contradicted: true, ..counting() };
        let start = decide(&server(100), &contradicted, false);
        assert_eq!((start.epoch, start.load), (4, Some(LoadReason::OtherHistory)));
        assert_eq!((start.outset.anew, start.outset.reached, start.outset.counted), (true, Lsn::ZERO, None));
        let start = decide(&ServerSide { timeline: 1, ..promoted(100) }, &contradicted, false);
        assert_eq!(start.epoch, 5, "nothing says that what is before the fork is what redis holds");
    }

    #[test]
    fn of_what_a_stream_need_not_bring_nothing_is_asked() {
        let republished = RedisSide { published: Some("5/7".into()), ..counting() };
        assert_eq!(decide(&server(100), &republished, false).outset.counted, None);
        assert_eq!(decide(&server(121), &counting(), false).outset.counted, None, "a gap");
        let forgot = RedisSide { reached: Some(Lsn(150)), ..counting() };
        assert_eq!(decide(&server(121), &forgot, false).outset.counted, None, "one that only the nodes have");
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
    fn what_another_instance_wrote_since_the_server_was_asked_is_no_restored_server() {
        let node = |applied| {
            let address = Address::new("h", 6379);
            vec![NodeRecord { address, checkpoint: at(applied), proves: true, epoch: Some(3) }]
        };
        assert!(is_overtaken(&server(100), &node(1000), &node(1001)));
        assert!(is_overtaken(&server(100), &[], &node(1001)), "it wrote the first");
        assert!(!is_overtaken(&server(100), &node(1001), &node(1001)), "the server was restored");
        assert!(!is_overtaken(&server(100), &node(900), &node(1000)), "within what the server has");
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
                &RedisSide {
                    checkpoints: nodes,
                    reached: None,
                    counted: None,
                    is_contradicted: false,
                    is_told: false,
                    loaded: false,
                    published: None,
                    epoch,
                    node_epoch: epoch,
                },
                false,
            )
            .epoch
        };
        assert_eq!(epoch(vec![None], None), 1, "the first start");
        assert_eq!(epoch(vec![None, None], Some(3)), 4, "a wiped redis");
        assert_eq!(epoch(vec![at(130), None], Some(3)), 3, "the other node vouches");
    }

    #[test]
    fn where_every_checkpoint_is_gone_who_wrote_them_tells_of_which_history_the_fences_are() {
        let gone = |reached| RedisSide {
            is_told: true,
            reached: Some(Lsn(reached)),
            ..redis(vec![None, None], true)
        };
        let start = decide(&server(100), &gone(130), false);
        assert_eq!((start.epoch, start.load), (3, Some(LoadReason::NodeForgot)));
        assert_eq!((start.outset.held, start.outset.reached), (Lsn(100), Lsn(130)));
        assert_eq!(decide(&server(100), &gone(1001), false).epoch, 4, "the server was restored");
        assert_eq!(decide(&server(131), &gone(130), false).epoch, 4, "a gap");
        let contradicted = RedisSide { is_contradicted: true, ..gone(130) };
        assert_eq!(decide(&server(100), &contradicted, false).epoch, 4);
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
    /// A standby that was promoted at 125, with a slot that stands before.
    fn promoted(confirmed_flush: u64) -> ServerSide {
        let fork = Some(Fork { parent: 1, at: Lsn(125) });
        ServerSide { timeline: 2, fork, ..server(confirmed_flush) }
    }

    fn on_timeline(timeline: u32, applied: u64) -> Option<Checkpoint> {
        at(applied).map(|checkpoint| Checkpoint { timeline, ..checkpoint })
    }

    #[test]
    fn what_is_before_a_promotion_keeps_its_epoch_and_all_users_are_loaded() {
        let start = decide(&promoted(100), &redis(vec![at(130), at(120)], true), false);
        let outset =
            Outset { held: Lsn(120), reached: Lsn(125), counted: None, anew: true, cure: Some(Cure::Load) };
        assert_eq!(start, Start { epoch: 4, fork: Lsn(125), load: Some(LoadReason::OtherHistory), outset });
        let ahead = decide(&promoted(100), &redis(vec![at(130)], true), false);
        assert_eq!(ahead.outset.held, Lsn(125), "what is behind the fork is of the other history");
    }

    #[test]
    fn a_crash_at_a_promotion_raises_the_epoch_only_once() {
        let epoch = |nodes, epoch, of_nodes| {
            let redis = RedisSide { epoch: Some(epoch), node_epoch: of_nodes, ..redis(nodes, true) };
            let start = decide(&promoted(100), &redis, false);
            assert_eq!(start.fork, Lsn(125));
            start.epoch
        };
        assert_eq!(epoch(vec![at(130), at(120)], 4, Some(3)), 4, "the key of the epoch was written");
        assert_eq!(epoch(vec![on_timeline(2, 120), at(120)], 4, Some(4)), 4, "and a node's checkpoint");
        assert_eq!(epoch(vec![on_timeline(2, 120), on_timeline(2, 120)], 4, Some(4)), 4, "and all");
    }

    #[test]
    fn what_is_before_a_promotion_gets_an_epoch_of_its_own_where_nothing_tells_which_it_had() {
        let epoch = |nodes, epoch, of_nodes| {
            let redis = RedisSide { epoch: Some(epoch), node_epoch: of_nodes, ..redis(nodes, true) };
            decide(&promoted(100), &redis, false).epoch
        };
        assert_eq!(epoch(vec![None], 3, None), 5);
        assert_eq!(epoch(vec![on_timeline(7, 120)], 3, Some(3)), 5, "not the timeline before");
        assert_eq!(epoch(vec![at(120)], 3, None), 5, "a checkpoint without an epoch");
        assert_eq!(epoch(vec![at(120)], 5, Some(3)), 7, "raised for another reason since");
    }

    #[test]
    fn a_slot_that_stands_behind_the_promotion_sends_nothing_from_before() {
        let start = decide(&promoted(125), &redis(vec![at(120)], true), false);
        assert_eq!((start.epoch, start.fork), (4, Lsn::ZERO));
        assert_eq!((start.outset.held, start.outset.reached), (Lsn(125), Lsn::ZERO));
    }
}
