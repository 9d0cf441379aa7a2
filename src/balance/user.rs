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
    /// Whether the id is a JSON number. A `user_transactions` that holds ids as text may name `007`, or nobody, where
    /// the ids of `users` are numbers.
    pub fn id_is_number(&self) -> bool {
        let digits = self.id.strip_prefix('-').unwrap_or(&self.id).as_bytes();
        let leads = digits.first().is_some_and(|first| *first != b'0' || digits.len() == 1);
        self.numeric_id && leads && digits.iter().all(u8::is_ascii_digit)
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_json_takes_for_a_number_is_one() {
        let is_number = |id: &str, numeric_id| {
            User { user_type: "live".into(), id: id.into(), numeric_id }.id_is_number()
        };
        for id in ["0", "7", "-7", "18446744073709551616"] {
            assert!(is_number(id, true) && !is_number(id, false), "{id}");
        }
        for id in ["007", "-", "+1", "1.5", "1e5", "x", " 7", ""] {
            assert!(!is_number(id, true), "{id}");
        }
    }
}
