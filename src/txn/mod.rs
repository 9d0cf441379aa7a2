//! Messages -> [`Transaction`]: the rows of one database transaction, in bounded windows. No IO.

pub mod assembler;
pub mod error;

pub use assembler::{Assembler, Window};
pub use error::AssemblyError;

use std::sync::Arc;

use bytes::Bytes;

use crate::lsn::{Lsn, Xid64};
use crate::pgoutput::{OldTuple, PgTime, Relation, Tuple};

/// Rows of one committed database transaction, or of one window of a large one.
#[derive(Debug, Clone)]
pub struct Transaction {
    /// What all windows of the transaction share.
    pub commit: Arc<CommitInfo>,
    /// The window's rows in WAL order.
    pub rows: Vec<Row>,
    /// What was said to us by `pg_logical_emit_message`, in WAL order.
    pub messages: Vec<Bytes>,
    /// `Some` on the last window: once this is applied, the transaction may be acknowledged.
    pub end_lsn: Option<Lsn>,
}

/// The commit that a row belongs to; known from `Begin` on, because pgoutput v1 sends only what committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    /// Start of the commit record: the order of commits, and half of an event's position.
    pub commit_lsn: Lsn,
    /// When it committed.
    pub time: PgTime,
    /// The top-level transaction id, as `pg_current_xact_id()` widens it.
    pub xid: Xid64,
}

/// One changed row.
#[derive(Debug, Clone)]
pub struct Row {
    /// Number of the row within its transaction, from 1.
    pub ordinal: u32,
    /// The table as it stood when the row was written; a column of a domain has the type below the domain.
    ///
    /// A different description of the same OID is another `Arc`, an equal one is the same within a
    /// connection: what was compiled for a table holds while `Arc::ptr_eq` says so. Keep the `Arc` itself
    /// to compare with; a mere address can be used again.
    pub relation: Arc<Relation>,
    /// What happened to it.
    pub change: Change,
}

/// What happened to a row.
#[derive(Debug, Clone)]
pub enum Change {
    /// A new row.
    Insert(Tuple),
    /// A changed row; `old` where the replica identity sent it.
    Update {
        /// The old key or the old row.
        old: Option<OldTuple>,
        /// The row afterwards; TOASTed columns that did not change are absent in it.
        new: Tuple,
    },
    /// A row that is gone, by its old key or old row.
    Delete(OldTuple),
    /// Every row of the table is gone.
    Truncate,
}

impl Change {
    /// The rows that were sent, old before new.
    pub fn tuples(&self) -> impl Iterator<Item = &Tuple> {
        let (old, new) = match self {
            Change::Insert(new) => (None, Some(new)),
            Change::Update { old, new } => (old.as_ref(), Some(new)),
            Change::Delete(old) => (Some(old), None),
            Change::Truncate => (None, None),
        };
        old.map(OldTuple::tuple).into_iter().chain(new)
    }

    /// Bytes of row data that were sent.
    pub fn encoded_len(&self) -> usize {
        self.tuples().map(Tuple::encoded_len).sum()
    }
}

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;
