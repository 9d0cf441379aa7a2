//! The connection to PostgreSQL: bytes of the logical replication stream, and SQL beside it.
//!
//! Everything goes through one connect path (`socket`, `tls`) and one table of errors (`sqlstate`).
//! A [`Walsender`] becomes a [`Stream`]; a [`Tripwire`] tells of a shutdown that the stream would hold up;
//! [`sql`] is for ordinary statements, a [`Lease`] for many of them.

mod auth;
mod binding;
mod framing;
pub mod history;
mod lease;
mod link;
mod session;
mod socket;
pub mod sql;
mod sqlstate;
mod stream;
mod tls;
mod trace;
mod tripwire;
mod walsender;

pub use lease::Lease;
pub use sqlstate::{is_publication_unknown, is_transient, quotes_values};
pub use stream::{Frame, Stream};
pub use tripwire::Tripwire;
pub use walsender::{CreatedSlot, SystemIdentity, Walsender};
