//! One user: the database and Redis side by side, and the keys written again where an operator asks for it.
//!
//! | file | what it does |
//! |---|---|
//! | `who` | whether there can be such a user, and its row |
//! | `look` | reads both sides until they can be compared |
//! | `compare` | what differs, and why; no IO |
//! | `decimal` | by how much |
//! | `report` | what is answered |
//! | `refresh` | hands the row in, to be written beside the stream |
//! | `masters` | which slots each master owns, whether it answers, and what is in quarantine |
//! | `nodes` | the masters: whether they work, and how many keys they hold |
//!
//! # When a difference is one
//! What was read from the database is not in Redis before the stream has passed it, and what is in Redis may be
//! later than what was read. So a row is read with its snapshot `S` and an insert position `C` behind it, as for
//! every row that is read beside the stream ([`crate::pipeline`]); then the stream has to pass `C`; then the keys are
//! read between two readings of their fence. Where both are the same and `S` sees the fence's transaction, the keys
//! are what was written for this row: a difference is one. Else both sides are read again, for up to a second.

mod compare;
mod decimal;
mod look;
mod masters;
mod nodes;
mod refresh;
pub mod report;
mod who;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::error::{Error, Fault};
use crate::keyplan::Timed;
use crate::resync::Reader;
use crate::sink::{Beside, Way};

pub use masters::{MasterNow, Masters};
pub use nodes::{NodeKeys, Probe, event_time, now_iso};
pub use report::{Consistency, Refreshed};
pub use who::Name;

/// Questions about users that are worked on at the same time; each has a connection to the database.
const LOOKUPS: usize = 4;
/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(2);

/// The default key map's user cache and balance cache, as they are written there.
const USER_CACHE: &str = "user:{$type:$id}:config";
const BALANCE_CACHE: &str = "user_balance:$type:$id";

/// Looks at single users and at the masters. Cheap to clone.
#[derive(Clone)]
pub struct Inspector(Arc<Shared>);

struct Shared {
    reader: Reader,
    beside: Beside,
    /// What a comparison leaves out.
    timed: Timed,
    turns: Semaphore,
    nodes: nodes::Nodes,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoAnswer {
    /// The question names nobody who can be.
    Mistake(String),
    /// The database does not hold the user.
    Nobody {
        /// Keys that Redis holds all the same.
        keys: usize,
    },
    /// The row holds what never reaches a key, or Redis refuses it: the keys are deleted.
    Refused(String),
    /// Too many questions at the same time.
    Crowded,
    /// The database, Redis or the stream is not there at the moment.
    Away(Fault),
    /// Not in time.
    Late(Fault),
}

impl From<Error> for NoAnswer {
    fn from(error: Error) -> NoAnswer {
        NoAnswer::Away(error.fault().clone())
    }
}

impl Inspector {
    /// One that reads by `reader`, and Redis by `way`.
    pub fn new(reader: Reader, way: Way) -> Inspector {
        let beside = Beside::new(way, reader.config.postgres.slot.clone());
        let timed = reader.key_map.timed();
        let (turns, nodes) = (Semaphore::new(LOOKUPS), nodes::Nodes::default());
        Inspector(Arc::new(Shared { reader, beside, timed, turns, nodes }))
    }

    /// A turn; given back on drop.
    async fn turn(&self) -> Result<tokio::sync::SemaphorePermit<'_>, NoAnswer> {
        match tokio::time::timeout(TURN, self.0.turns.acquire()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(NoAnswer::Crowded),
        }
    }

    /// A key of the default key map, where this key map has it.
    fn default_key(&self, template: &str, name: &Name) -> Option<Bytes> {
        let templates = self.0.reader.key_map.templates();
        templates.iter().find(|known| known.text() == template)?;
        let (head, rest) = template.split_once("$type")?;
        let (between, tail) = rest.split_once("$id")?;
        Some([head, name.user_type(), between, name.id(), tail].concat().into())
    }
}
