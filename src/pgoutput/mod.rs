//! Bytes of the logical replication stream -> [`Message`]. No IO.
//!
//! Protocol version 1, text format: <https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html>.

mod cursor;
pub mod message;
pub mod relation;
pub mod tuple;

pub use cursor::DecodeError;
pub use message::{Begin, Commit, Message, PgTime};
pub use relation::{Column, Relation, ReplicaIdentity, builtin_type};
pub use tuple::{Columns, Datum, OldTuple, OversizedRow, Tuple};

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
