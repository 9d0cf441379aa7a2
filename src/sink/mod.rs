//! [`KeyPlan`]s -> Redis, in order and fenced.
//!
//! | file | what it knows |
//! |---|---|
//! | `node` | one ordered connection; alone names fred |
//! | `carrier` | another way to the servers, for the simulator |
//! | `reply` | replies and what to do about errors |
//! | `slots` | who owns which hash slot |
//! | `lanes` | the connections to all masters, made again as they break |
//! | `group`, `fence`, `request`, `call`, `script` | plans as calls of `apply.lua` |
//! | `epochs` | which of two histories a position belongs to |
//! | `chain` | changes of one user, brought together |
//! | `apply`, `dispatch`, `judge`, `unlink`, `settle` | a flight, retried until all of it is acknowledged |
//! | `keyspace` | walking over all keys in bounded steps |
//! | `derived`, `key_set` | which keys a pattern matches, without a SCAN per event |
//! | `records`, `keep`, `proof` | Lockstep's own keys, and what they prove |
//! | `seeds` | what there is, and which of several servers is the master |
//! | `quarantine` | the record of what could not be applied as written |
//! | `lease` | the key by which readers tell a fresh Redis from a frozen one |
//! | `tracking` | what anybody writes, as Redis announces it |
//! | `beside` | reading one user's keys, and whether each master works, beside all of this |
//! | `stored`, `compare`, `expect` | what a row is written over, whether it need be written at all, what was written |
//! | `look` | what differs, for those who only look |
//! | `acl` | what this user may do |

mod acl;
mod apply;
mod beside;
mod call;
#[doc(hidden)]
pub mod carrier;
mod chain;
mod compare;
mod derived;
mod dispatch;
pub mod epochs;
mod expect;
pub mod fence;
mod group;
mod judge;
mod keep;
mod key_set;
mod keyspace;
mod lanes;
mod lease;
mod look;
mod marks;
pub mod node;
mod proof;
mod quarantine;
pub mod records;
pub mod reply;
mod request;
mod script;
mod seeds;
mod settle;
pub mod slots;
mod stored;
mod tracking;
mod unlink;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use crate::balance::User;
use crate::checkpoint::Checkpoint;
use crate::config;
use crate::error::{Error, Fault, Result};
use crate::keyplan::{KeyMap, KeyPlan};
use crate::lsn::{Lsn, Position, Snapshot};
use crate::metrics::SinkMetrics;

pub use beside::{Beside, Held, Seen, Wanted};
pub use compare::{Difference, Question};
pub use epochs::Epochs;
pub use expect::{Announced, Expectation, Shape};
pub use fence::Written;
pub use keyspace::Walk;
pub use lease::{Freshness, PROOF_LIMIT, Renewed, nonce};
pub use look::{Finding, Look, told_where_to_look};
pub use marks::LoadMark;
pub use records::{NodeFacts, NodeRecord, Records};
pub use tracking::{TrackedReader, Tracker, UNHEARD, Way};
pub use unlink::Clearing;

/// The epoch of the first database history.
pub const FIRST_EPOCH: u32 = 1;

/// Plans that travel to Redis together: one is out at a time, the next is gathered meanwhile.
#[derive(Debug)]
pub struct Flight {
    /// In commit order.
    pub plans: Vec<KeyPlan>,
    /// What the fence is compared with.
    pub fencing: Fencing,
    /// Written to every node after the plans, on the same connections.
    pub checkpoint: Option<Checkpoint>,
}

/// What a plan's fence is compared with.
#[derive(Debug, Clone)]
pub enum Fencing {
    /// Rows of the stream: written where the fence is older than the plan's position.
    Stream,
    /// Rows read in a snapshot: written where there is no fence, or `snapshot` sees the fence's
    /// transaction; the new fence is `present`, the stream's applied position.
    Snapshot {
        /// What the reading transaction saw.
        snapshot: Snapshot,
        /// Users of whom it is known not to have seen everything: their rows are skipped.
        hidden: HashSet<User>,
        /// The stream's applied position; ordinal as of the last applied row.
        present: Position,
    },
}

impl Fencing {
    /// Whether a row of this user is skipped, whatever the fence says.
    fn hides(&self, user: &User) -> bool {
        matches!(self, Fencing::Snapshot { hidden, .. } if hidden.contains(user))
    }
}

/// What became of one plan, in the order of [`Flight::plans`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Written and published.
    Applied(Applied),
    /// The fence was at or past it: nothing was done.
    Skipped,
    /// Could not be applied as written; the user's keys were deleted, with the fence at the plan's position, or further on
    /// where one stopped a row that Redis may have lost.
    Refused {
        /// Redis' words or ours, without values.
        reason: String,
    },
}

/// What only Redis knew of an applied plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Whether an event [by balance](crate::keyplan::EventJson::ByBalance) became a `user_update`.
    pub as_update: bool,
    /// Keys that held another type and were replaced.
    pub retyped_keys: u32,
}

/// Whether Redis takes what it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkState {
    /// Every node answers. The number grows with every change of the masters, every loss of a checkpoint, and every
    /// reconnect that does not lead to the same process with all it held: where it is not the one [compared](Sink::compared), the nodes' records are to be compared again.
    Connected {
        /// Such events so far.
        generation: u64,
    },
    /// A flight waits for this fault to pass.
    Retrying {
        /// The last attempt's.
        fault: Fault,
    },
}

/// The slot of the default configuration: some of its keys have plain names.
const DEFAULT_SLOT: &str = "lockstep";

/// What a sink is told besides the address.
#[derive(Clone)]
pub struct Options {
    /// The literal text before the user in every pattern that is deleted: `financial_summary:`.
    pub derived_prefixes: Vec<Bytes>,
    /// Says whose keys under them are followed; `None`: everybody's.
    pub derived_of: Option<Arc<KeyMap>>,
    /// How many of these keys are remembered; where there are more, each change of a user looks for them.
    pub derived_keys_max: usize,
    /// Name of the replication slot: it is part of the names of the records.
    pub slot: String,
    /// Where to count.
    pub metrics: SinkMetrics,
}

impl Options {
    /// Where nothing is deleted by a pattern.
    pub fn new(slot: &str, metrics: SinkMetrics) -> Options {
        Options {
            derived_prefixes: Vec::new(),
            derived_of: None,
            derived_keys_max: derived::MAX_KEYS,
            slot: slot.to_owned(),
            metrics,
        }
    }
}

/// The way into Redis. One task uses it at a time.
pub struct Sink {
    lanes: lanes::Lanes,
    derived: derived::Derived,
    /// `None`: neither Redis nor this process has one yet.
    epoch: Option<u32>,
    /// The highest epoch that Redis was known to keep.
    kept_epoch: Option<u32>,
    /// One that another instance has begun; zero where none has.
    other_epoch: u32,
    /// Where the epoch begins, if the stream begins before; else zero.
    fork: Lsn,
    /// The generation up to which the records were read.
    compared: u64,
    /// Doubts that came to nothing.
    forgiven: u64,
    /// What each node keeps, by the key of its checkpoint.
    kept: keep::Kept,
    /// The quarantine as it was read or written last.
    quarantined: Option<Bytes>,
    /// The records about loads as they were read or written last, empty where there was none.
    marks: HashMap<LoadMark, Bytes>,
    /// What this session's term is known by; `None`: it has none yet.
    token: Option<Bytes>,
    /// Whether the last flight's checkpoint is on every node.
    has_stored: bool,
    /// Why PostgreSQL may not forget what is before the last one, though every node took it.
    unkept: Option<Fault>,
    durability: config::Durability,
    slot: String,
    /// Spreads the delays between attempts.
    seed: u64,
    state: watch::Sender<SinkState>,
    metrics: SinkMetrics,
}

impl Sink {
    /// Connects to every master and loads the scripts.
    ///
    /// # Errors
    /// Transient where the servers are away; definite where the login, the version, the certificates or
    /// the database number are wrong.
    pub async fn connect(redis: &config::Redis, options: Options) -> Result<Sink> {
        Sink::log_in(redis, node::Login::new(redis)?, options, u64::from(std::process::id())).await
    }

    /// Connects with this login; delays between attempts are spread by `seed`.
    ///
    /// # Errors
    /// As [`connect`](Sink::connect).
    #[doc(hidden)]
    pub async fn log_in(
        redis: &config::Redis,
        login: node::Login,
        options: Options,
        seed: u64,
    ) -> Result<Sink> {
        let lanes = lanes::Lanes::connect(redis, login, options.metrics.clone()).await?;
        let (state, _) = watch::channel(SinkState::Connected { generation: lanes.doubts() });
        options.metrics.connected.set(1);
        let mut sink = Sink {
            lanes,
            derived: derived::Derived::new(
                options.derived_prefixes,
                options.derived_of,
                options.derived_keys_max,
                options.metrics.clone(),
            ),
            epoch: None,
            kept_epoch: None,
            other_epoch: 0,
            marks: HashMap::new(),
            fork: Lsn::ZERO,
            compared: 0,
            forgiven: 0,
            kept: keep::Kept::default(),
            quarantined: None,
            token: None,
            has_stored: false,
            unkept: None,
            durability: redis.durability,
            slot: options.slot,
            seed,
            state,
            metrics: options.metrics,
        };
        sink.kept_epoch = sink.read_records().await?.epoch;
        sink.epoch = sink.kept_epoch;
        Ok(sink)
    }

    /// Watches whether Redis takes what it is sent.
    pub fn state(&self) -> watch::Receiver<SinkState> {
        self.state.subscribe()
    }

    /// How to reach the masters beside this sink, and who they are from now on.
    pub fn way(&self) -> Way {
        self.lanes.way()
    }

    /// The generation, as [`SinkState::Connected`] counts, up to which the records were read last.
    pub fn compared(&self) -> u64 {
        self.compared
    }

    /// What [`SinkState::Connected`] counts.
    fn generation(&self) -> u64 {
        self.lanes.doubts() - self.forgiven
    }

    /// Whether the records were read over the present connections, so that a checkpoint may be written.
    ///
    /// A node that came back empty must not get one before: it would pass for one that forgot nothing.
    pub fn is_compared(&self) -> bool {
        self.generation() == self.compared
    }

    /// Something says that Redis lost what it held, though it stayed connected; told at once, for what is held back until
    /// then may be all that would tell.
    fn doubt(&mut self) {
        self.lanes.doubt();
        self.report_connected();
    }

    /// Nothing may be written before the records are compared: what a node lost is sent again, and the fences would
    /// take it for older than what came to it since.
    pub fn uncompared(&self) -> Error {
        self.metrics.in_flight.set(0);
        self.report_connected();
        Error::transient("a redis node may have lost what it held: its records are compared", "")
    }

    /// Why PostgreSQL may not forget what is before the last checkpoint, though every node took it.
    pub fn unkept(&self) -> Option<&Fault> {
        self.unkept.as_ref()
    }

    /// Whether the last flight left its checkpoint on every node; not where memory had no room for it, and
    /// not over connections that are yet to be compared.
    pub fn has_stored(&self) -> bool {
        self.has_stored
    }

    /// The database history that fences belong to.
    pub fn epoch(&self) -> u32 {
        self.epoch.unwrap_or(FIRST_EPOCH)
    }

    /// The stream begins before the fork of two histories; zero where it does not.
    pub fn set_fork(&mut self, fork: Lsn) {
        self.fork = fork;
    }

    /// The database history of each position.
    fn epochs(&self) -> Epochs {
        Epochs { now: self.epoch(), fork: self.fork }
    }
}
