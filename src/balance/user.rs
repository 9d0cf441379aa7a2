//! Whose balance it is.

use std::sync::Arc;

pub use crate::config::tables::{is_sound_id, is_sound_type};

/// Whose balance it is: the `T:U` of every key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct User {
    /// The user type, `live` or `demo` for example.
    pub user_type: Arc<str>,
    /// The id as PostgreSQL prints it.
    pub id: Arc<str>,
    /// Whether the id column is an integer: it is a JSON number then.
    pub numeric_id: bool,
}
