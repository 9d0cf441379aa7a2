//! How far Redis is, and so how far PostgreSQL may forget.
//!
//! The tracker turns applied flights into the position that Redis holds, the margin that into the one that may be
//! acknowledged (no IO).

pub mod margin;
pub mod tracker;

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
}
