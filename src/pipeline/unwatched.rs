//! Whom the stream changed while what others write may not have been announced.
//!
//! They become suspects little by little, and their derived keys are cleared. A checkpoint says since when such changes
//! wait: where the slot does not go back that far after a crash, nobody knows any more who they were. They may be anybody
//! then, as they may be where there is no room; everybody's derived keys are cleared.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::balance::User;
use crate::lsn::Lsn;
use crate::sink::UNHEARD;

/// Users who are remembered, 48 bytes each, and changes that were watched, 72 bytes each: those of [`UNHEARD`] at the most at
/// which is watched.
pub(super) const MAX_USERS: usize = 65_536;

/// Whose derived keys wait to be cleared.
#[derive(Default)]
pub(super) struct Unwatched {
    users: HashSet<User>,
    /// Those who were taken and are not cleared yet.
    taken: usize,
    /// Where the first of them all was changed, where that is known.
    since: Option<Lsn>,
    /// Who was changed lately, while somebody listened: a connection that has fallen silent is found out later.
    recent: VecDeque<(Instant, Lsn, User)>,
    /// Whether one of those was forgotten.
    is_recent_forgotten: bool,
    /// How often some were forgotten, and how often they had been when everybody was cleared last.
    forgotten: u64,
    everybody_cleared: u64,
}

impl Unwatched {
    /// A user was changed at this commit, and nobody listened; false where there is no room.
    pub(super) fn change(&mut self, user: User, commit: Lsn) -> bool {
        self.since = Some(self.since.map_or(commit, |since| since.min(commit)));
        self.suspect(user)
    }

    /// A user may have been changed by a commit that is known.
    pub(super) fn suspect(&mut self, user: User) -> bool {
        let has_room = self.users.len() < MAX_USERS || self.users.contains(&user);
        match has_room {
            true => drop(self.users.insert(user)),
            false => self.forget(),
        }
        has_room
    }

    /// Anybody may have been changed.
    pub(super) fn forget(&mut self) {
        self.forgotten += 1;
    }

    /// A user was changed at this commit, and somebody listens, as far as is known. Returns for how many there is no room.
    pub(super) fn watched(&mut self, user: &User, commit: Lsn, grace: Duration, now: Instant) -> u64 {
        let is_over = |at: Instant| at + UNHEARD + grace < now;
        while self.recent.front().is_some_and(|(at, ..)| is_over(*at)) {
            self.recent.pop_front();
        }
        self.is_recent_forgotten &= !self.recent.is_empty();
        self.recent.push_back((now, commit, user.clone()));
        let is_over_full = self.recent.len() > MAX_USERS && self.recent.pop_front().is_some();
        self.is_recent_forgotten |= is_over_full;
        u64::from(is_over_full)
    }

    /// Nobody did. Returns for how many there was no room.
    pub(super) fn miss(&mut self) -> u64 {
        if std::mem::take(&mut self.is_recent_forgotten) {
            self.forget();
        }
        let recent = std::mem::take(&mut self.recent);
        recent.into_iter().map(|(_, commit, user)| u64::from(!self.change(user, commit))).sum()
    }

    /// Takes so many at most, to be cleared.
    pub(super) fn take(&mut self, limit: usize) -> Vec<User> {
        let taken: Vec<User> = self.users.iter().take(limit).cloned().collect();
        for user in &taken {
            self.users.remove(user);
        }
        self.taken += taken.len();
        taken
    }

    /// So many of those who were taken have been cleared.
    pub(super) fn cleared(&mut self, users: usize) {
        self.taken = self.taken.saturating_sub(users);
        if self.users.is_empty() && self.taken == 0 {
            self.since = None;
        }
    }

    /// The commit from which on changes wait; zero where that is not known, `None` where none do.
    pub(super) fn since(&self) -> Option<Lsn> {
        let everybody = self.is_everybody_due().map(|_| Lsn::ZERO);
        everybody.or(self.since)
    }

    /// Whether everybody is to be cleared, because of all that was forgotten up to the number that is returned.
    pub(super) fn is_everybody_due(&self) -> Option<u64> {
        Some(self.forgotten).filter(|forgotten| *forgotten > self.everybody_cleared)
    }

    /// Everybody was cleared because of that.
    pub(super) fn everybody_cleared(&mut self, forgotten: u64) {
        self.everybody_cleared = self.everybody_cleared.max(forgotten);
    }
}
