//! Whose balance it is.

use std::sync::Arc;

/// Longest user type and id, in bytes: they are part of every key and every message.
pub const MAX_NAME_BYTES: usize = 512;

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

/// Whether a text can stand as the `T` of a key: a brace would open or close the hash tag, a colon would
/// make two users one.
pub fn is_sound_type(text: &str) -> bool {
    is_sound_id(text) && !text.contains(':')
}

/// Whether a text can stand as the `U` of a key.
pub fn is_sound_id(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len())
        && !text.chars().any(|c| matches!(c, '{' | '}') || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_break_a_hash_tag_is_no_name() {
        for id in ["1", "a:b", "ünïcode-用户", "*", "[x]?", "a b"] {
            assert!(is_sound_id(id), "{id}");
        }
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for id in ["", "{", "a}b", "a\nb", "\u{7f}", "\u{85}", &long] {
            assert!(!is_sound_id(id), "{id:?}");
            assert!(!is_sound_type(id), "{id:?}");
        }
        assert!(is_sound_type("live") && !is_sound_type("li:ve"));
    }
}
