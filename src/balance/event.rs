//! The rows of one user in one transaction window, joined into one event.

use std::sync::Arc;

use super::{Field, User};
use crate::lsn::Position;
use crate::txn::CommitInfo;

/// What comes of a transaction window, in WAL order.
#[derive(Debug, Clone)]
pub enum Output {
    /// One user's event.
    Event(Box<Event>),
    /// A table of users is empty now.
    Truncated(Truncated),
    /// A row that touches no key: recorded and counted.
    Refused(Refused),
}

/// A row that touches no key.
#[derive(Debug, Clone)]
pub struct Refused {
    /// Schema and name of the table.
    pub table: Arc<str>,
    /// Why.
    pub reason: Refusal,
    /// The commit.
    pub commit: Arc<CommitInfo>,
    /// The commit and the row's place in it.
    pub position: Position,
}

/// Why a row touches no key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Keys of such a user type would collide or lose their hash tag.
    #[error("the user type is empty, too long or holds a brace, a colon or a control character")]
    UserType,
    /// Keys of such an id would collide or lose their hash tag.
    #[error("the user id is empty, too long or holds a brace or a control character")]
    UserId,
    /// The old row came without the user's id or type: whose keys to delete is not known.
    #[error("the old row does not tell its user: the replica identity must cover the id and the user type")]
    Unidentified,
    /// Without this column no row of the table can be followed.
    #[error("column {column} is missing: put it back, or correct [[tables]]")]
    Missing {
        /// The column.
        column: Arc<str>,
    },
}

/// Everything a transaction (window) did to one user.
#[derive(Debug, Clone)]
pub struct Event {
    /// Whose event it is.
    pub user: User,
    /// What happened.
    pub kind: Kind,
    /// The commit.
    pub commit: Arc<CommitInfo>,
    /// The commit, and the user's last row in it.
    pub position: Position,
    /// The mapped columns of the user's last row but its id and type, in relation order, always with the
    /// balance column under its own name; empty for a deleted user and where only completed rows came.
    /// A value in doubt is `Unchanged`.
    pub fields: Vec<Field>,
    /// Name of the balance column, an entry of `fields` unless they are empty.
    pub balance_column: Arc<str>,
    /// Names of the columns that differ from the old row; `None` where the old row is not known.
    pub changed: Option<Vec<Arc<str>>>,
    /// Completed rows of `user_transactions`, in WAL order.
    pub completed: Vec<Completed>,
    /// Why the event cannot be applied as written.
    pub doubt: Option<Doubt>,
}

impl Event {
    /// Whether values of the user's row were not sent.
    pub fn lacks_values(&self) -> bool {
        self.fields.iter().any(|field| field.value == super::Value::Unchanged)
    }
}

/// What happened to the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A new row, or a row that took over this id and type.
    Created,
    /// A changed row.
    Updated,
    /// A row that is gone, or that left for another id or type.
    Deleted,
    /// Only completed rows of `user_transactions`.
    Completed,
    /// Read from the database by the first load: written, not published.
    Loaded,
    /// Read from the database again: published as `balance_change` with this word as `operation_type`
    /// where the stored balance was there and wrong.
    Reread(Reread),
}

impl Kind {
    /// Whether a transaction changed the user's row, and is the one that a snapshot must see to be later.
    pub fn changes_row(self) -> bool {
        matches!(self, Kind::Created | Kind::Updated | Kind::Deleted)
    }
}

/// Why a user was read from the database again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reread {
    /// `resync`
    Resync,
    /// `repair`: an event could not be applied as written.
    Repair,
    /// `heal`: another program wrote something else.
    Heal,
    /// `force_refresh`: an operator asked; published always.
    ForceRefresh,
}

/// A completed row of `user_transactions`; amounts as exact text, text as PostgreSQL prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// All columns of the row that the plan may use, normalised like those of a user
    /// (`transaction_id`, `type`, `amount`, `balance_before`, `balance_after`, `status`, `admin_id`,
    /// `reference_id`, `order_id`, `created_at`, `updated_at`).
    pub fields: Vec<Field>,
}

/// Why an event cannot be applied as written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// A value that never reaches a key (`NaN`, `Infinity`, not of its type); names the column, not the value.
    #[error("column {column} holds a value that never reaches a key")]
    Undecodable {
        /// Schema and name of the table.
        table: Arc<str>,
        /// The column.
        column: Arc<str>,
    },
    /// More than readers and subscribers are sent of one user: the row up to this column is too large.
    #[error("the row is larger than 4 MiB at column {column}")]
    Oversized {
        /// Schema and name of the table.
        table: Arc<str>,
        /// The column.
        column: Arc<str>,
    },
    /// A user that took over this id or type, with an unchanged TOASTed value that was not sent: the new
    /// keys cannot have it. Apply the rest, then read the user afresh.
    #[error("column {column} was not sent")]
    Unsent {
        /// The column.
        column: Arc<str>,
    },
}

impl Doubt {
    /// The table, where it is known.
    pub fn table(&self) -> Option<&Arc<str>> {
        match self {
            Doubt::Undecodable { table, .. } | Doubt::Oversized { table, .. } => Some(table),
            Doubt::Unsent { .. } => None,
        }
    }

    /// Whether nothing of the event may reach a key; else all of it may but what was not sent.
    pub fn is_whole(&self) -> bool {
        !matches!(self, Doubt::Unsent { .. })
    }
}

/// A truncated table of users.
#[derive(Debug, Clone)]
pub struct Truncated {
    /// The constant user type of the table; `None`: each row had its own.
    pub user_type: Option<Arc<str>>,
    /// Constant user types of other tables: where each row had its own, it was none of these.
    pub of_other_tables: Arc<[Arc<str>]>,
    /// Whether its ids are integers.
    pub numeric_id: bool,
    /// The commit.
    pub commit: Arc<CommitInfo>,
    /// The commit and the truncate's place in it.
    pub position: Position,
}

impl Truncated {
    /// Whether users of this type may have been in the table.
    pub fn may_concern(&self, user_type: &str) -> bool {
        match &self.user_type {
            Some(constant) => **constant == *user_type,
            None => !self.of_other_tables.iter().any(|other| **other == *user_type),
        }
    }
}
