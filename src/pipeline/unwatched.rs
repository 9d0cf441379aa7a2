//! Whom the stream changed while what others write may not have been announced.
//!
//! They become suspects little by little, and their derived keys are cleared. A checkpoint says since when such changes
//! wait: where the slot does not go back that far after a crash, nobody knows any more who they were. They may be anybody
//! then, as they may be where there is no room; everybody's derived keys are cleared.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::balance::User;
use crate::lsn::Lsn;

/// Users who are remembered, 48 bytes each, and changes that were watched, 72 bytes each: those of
/// [`UNHEARD`](crate::sink::UNHEARD) at the most at which is watched.
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
    /// When the last of those was changed that is forgotten.
    recent_forgotten: Option<Instant>,
    /// How often some were forgotten, and how often they had been when everybody was cleared last.
    forgotten: u64,
    everybody_cleared: u64,
}

impl Unwatched {
    /// A user was changed at this commit, and nobody listened; false where there is no room.
    pub(super) fn change(&mut self, user: User, commit: Lsn) -> bool {
        self.since = Some(self.since.map_or(commit, |since| since.min(commit)));
        self.doubt(user)
    }

    /// A user may have been changed lately, by a commit that counts already; false where there is no room.
    pub(super) fn doubt(&mut self, user: User) -> bool {
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

    /// A user was changed at this commit, and somebody listens, as far as is known; whoever was changed longer ago than is
    /// `doubtful` is let go. Returns for how many there is no room.
    pub(super) fn watched(&mut self, user: &User, commit: Lsn, doubtful: Duration, now: Instant) -> u64 {
        self.let_go(doubtful, now);
        self.recent.push_back((now, commit, user.clone()));
        let forgotten = if self.recent.len() > MAX_USERS { self.recent.pop_front() } else { None };
        self.recent_forgotten = forgotten.as_ref().map(|(at, ..)| *at).or(self.recent_forgotten);
        u64::from(forgotten.is_some())
    }

    fn let_go(&mut self, doubtful: Duration, now: Instant) {
        let is_over = |at: Instant| at + doubtful < now;
        while self.recent.front().is_some_and(|(at, ..)| is_over(*at)) {
            self.recent.pop_front();
        }
        self.recent_forgotten = self.recent_forgotten.filter(|at| !is_over(*at));
    }

    /// Nobody did. Returns for how many there was no room.
    pub(super) fn miss(&mut self, doubtful: Duration, now: Instant) -> u64 {
        self.let_go(doubtful, now);
        if self.recent_forgotten.take().is_some() {
            self.forget();
        }
        let recent = std::mem::take(&mut self.recent);
        recent.into_iter().map(|(_, commit, user)| u64::from(!self.change(user, commit))).sum()
    }

    /// Takes so many at most, to be cleared, of those who are `free`.
    pub(super) fn take(&mut self, limit: usize, free: impl Fn(&User) -> bool) -> Vec<User> {
        let taken: Vec<User> = self.users.iter().filter(|user| free(user)).take(limit).cloned().collect();
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

    /// The commit from which on changes wait; zero where that is not known, `None` where none do. Those that were watched
    /// wait as well until they are `settled`: so long it takes to hear what is derived behind them, and to delete it.
    pub(super) fn since(&self, settled: Duration, now: Instant) -> Option<Lsn> {
        if self.is_everybody_due().is_some() {
            return Some(Lsn::ZERO);
        }
        let first = self.recent.partition_point(|(at, ..)| *at + settled <= now);
        let recent = self.recent.get(first).map(|(_, commit, _)| *commit);
        [self.since, recent].into_iter().flatten().min()
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
