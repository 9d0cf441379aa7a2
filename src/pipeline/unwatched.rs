//! Whom the stream changed while what others write may not have been announced.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::balance::User;
use crate::sink::UNHEARD;

/// Users who are remembered, 48 bytes each, and changes that were watched, 64 bytes each: those of [`UNHEARD`] at the most at
/// which is watched.
pub(super) const MAX_USERS: usize = 65_536;

/// They become suspects little by little.
#[derive(Default)]
pub(super) struct Unwatched {
    users: HashSet<User>,
    /// Who was changed lately, while somebody listened: a connection that has fallen silent is found out later.
    recent: VecDeque<(Instant, User)>,
}

impl Unwatched {
    /// A user was changed, and nobody listened; false where there is no room.
    pub(super) fn change(&mut self, user: User) -> bool {
        let has_room = self.users.len() < MAX_USERS || self.users.contains(&user);
        if has_room {
            self.users.insert(user);
        }
        has_room
    }

    /// A user was changed, and somebody listens, as far as is known. Returns for how many there is no room.
    pub(super) fn watched(&mut self, user: &User, grace: Duration, now: Instant) -> u64 {
        let is_over = |at: Instant| at + UNHEARD + grace < now;
        while self.recent.front().is_some_and(|(at, _)| is_over(*at)) {
            self.recent.pop_front();
        }
        self.recent.push_back((now, user.clone()));
        let is_over_full = self.recent.len() > MAX_USERS;
        u64::from(is_over_full && self.recent.pop_front().is_some())
    }

    /// Nobody did. Returns for how many there was no room.
    pub(super) fn miss(&mut self) -> u64 {
        let recent = std::mem::take(&mut self.recent);
        recent.into_iter().map(|(_, user)| u64::from(!self.change(user))).sum()
    }

    /// Takes so many at most.
    pub(super) fn take(&mut self, limit: usize) -> Vec<User> {
        let taken: Vec<User> = self.users.iter().take(limit).cloned().collect();
        for user in &taken {
            self.users.remove(user);
        }
        taken
    }
}
