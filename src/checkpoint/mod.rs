//! How far Redis is, and so how far PostgreSQL may forget.
//!
//! The tracker turns applied flights into the position that Redis holds, the margin that into the one that may be
//! acknowledged (no IO). A landmark tells whether the stream goes on with the history that Redis holds.

pub mod landmark;
pub mod margin;
pub mod tracker;

pub use landmark::{Counted, Landmark, Landmarks, Proof};
pub use margin::Margin;
pub use tracker::Tracker;

use crate::lsn::Lsn;

/// The record each Redis node holds: everything up to `applied` is in this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the slot.
    pub slot: String,
    /// `IDENTIFY_SYSTEM`'s system identifier.
    pub system_id: String,
    /// Timeline.
    pub timeline: u32,
    /// End of the last commit, or idle position, up to which all is applied.
    pub applied: Lsn,
    /// The last transaction before it, where one is known.
    pub landmark: Option<Landmark>,
    /// The first commit behind which somebody may still write what he derived before it; `None`: there is none.
    pub unwatched: Option<Lsn>,
}

impl Checkpoint {
    /// The last transaction that it counts, where one is known.
    pub fn counted(&self) -> Option<Counted> {
        self.landmark.map(|landmark| Counted { landmark, until: self.applied })
    }
}
