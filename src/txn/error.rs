//! Messages that cannot stand where they stand.

use crate::error::Error;
use crate::lsn::Lsn;

/// The order of messages is not one that PostgreSQL sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AssemblyError {
    /// Only a transaction may hold it.
    #[error("the stream sent a {what} outside a transaction")]
    OutsideTransaction {
        /// The message.
        what: &'static str,
    },
    /// A transaction began within another.
    #[error("the stream began the transaction of commit {begun} within that of commit {open}")]
    NestedBegin {
        /// The one that is open.
        open: Lsn,
        /// The one that began.
        begun: Lsn,
    },
    /// `Begin` and `Commit` differ.
    #[error("the stream began a transaction of commit {begun} and ended it as commit {committed}")]
    OtherCommit {
        /// By `Begin`.
        begun: Lsn,
        /// By `Commit`.
        committed: Lsn,
    },
    /// A row came before its table was described.
    #[error("the stream sent a row of relation {oid} before describing it")]
    UnknownRelation {
        /// `pg_class.oid`.
        oid: u32,
    },
    /// A row has more or fewer columns than its table was described with.
    #[error("the stream sent a row of {found} columns for relation {oid}, described with {described}")]
    Width {
        /// `pg_class.oid`.
        oid: u32,
        /// Columns of the description.
        described: usize,
        /// Columns of the row.
        found: usize,
    },
    /// Rows are numbered in 32 bits.
    #[error("the transaction of commit {commit_lsn} has more than 4,294,967,295 rows")]
    TooManyRows {
        /// Which transaction.
        commit_lsn: Lsn,
    },
}

impl From<AssemblyError> for Error {
    fn from(error: AssemblyError) -> Error {
        let cure = match error {
            AssemblyError::TooManyRows { .. } => {
                "move the slot past it with pg_replication_slot_advance: the next \"lockstep run\" loads all users"
            }
            _ => {
                "restart lockstep: it begins again at its last checkpoint; if it stops here again, report it \
                 with the PostgreSQL version"
            }
        };
        Error::definite(error.to_string(), cure)
    }
}
