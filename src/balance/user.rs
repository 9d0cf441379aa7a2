//! Whose balance it is.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

pub use crate::config::tables::{is_sound_id, is_sound_type};

/// Whose balance it is: the `T:U` of every key.
///
/// Type and id alone tell users apart: `user_transactions` may hold as text the ids that `users` has as numbers.
#[derive(Debug, Clone)]
pub struct User {
    /// The user type, `live` or `demo` for example.
    pub user_type: Arc<str>,
    /// The id as PostgreSQL prints it.
    pub id: Arc<str>,
    /// Whether the id column is an integer: it is a JSON number then. The users table's column decides.
    pub numeric_id: bool,
}

impl User {
    fn name(&self) -> (&str, &str) {
        (&self.user_type, &self.id)
    }
}

impl PartialEq for User {
    fn eq(&self, other: &User) -> bool {
        self.name() == other.name()
    }
}

impl Eq for User {}

impl Hash for User {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl PartialOrd for User {
    fn partial_cmp(&self, other: &User) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for User {
    fn cmp(&self, other: &User) -> Ordering {
        self.name().cmp(&other.name())
    }
}
