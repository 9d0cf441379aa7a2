//! Who was found in the database, in little memory.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::balance::User;

/// Users that are remembered, 8 bytes each; all others are looked up.
const MAX_KNOWN: usize = 2_000_000;

/// Digests of users: that two of a million share one is as likely as a broken memory cell.
#[derive(Debug, Default)]
pub struct Known(Vec<u64>);

impl Known {
    /// With room for so many.
    pub fn expecting(users: u64) -> Known {
        Known(Vec::with_capacity(usize::try_from(users).unwrap_or(MAX_KNOWN).min(MAX_KNOWN)))
    }

    /// Remembers users, as long as there is room.
    pub fn extend<'u>(&mut self, users: impl Iterator<Item = &'u User>) {
        let room = MAX_KNOWN.saturating_sub(self.0.len());
        self.0.extend(users.take(room).map(|user| digest(&user.user_type, &user.id)));
    }

    /// Makes it ready to be asked.
    pub fn sort(&mut self) {
        self.0.sort_unstable();
    }

    /// Whether somebody is remembered.
    pub fn holds(&self, user_type: &str, id: &str) -> bool {
        self.0.binary_search(&digest(user_type, id)).is_ok()
    }
}

fn digest(user_type: &str, id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (user_type, id).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_found_is_known_and_nobody_else() {
        let user = |id: &str| User { user_type: "live".into(), id: id.into(), numeric_id: true };
        let mut known = Known::expecting(u64::MAX);
        known.extend([user("7"), user("70")].iter());
        known.sort();
        assert!(known.holds("live", "7") && known.holds("live", "70"));
        assert!(!known.holds("live", "77") && !known.holds("demo", "7") && !known.holds("live7", ""));
    }
}
