//! What others derive of a user: keys that are only ever deleted, and cannot be compared.
//!
//! Where everything is announced, one that was computed before an event is known by the time at which it comes. Where not,
//! whoever was changed has them deleted once more.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Ledger, MAX_REFILLS, REMEMBERED_GRACES, State, Written, pop_due};
use crate::balance::User;
use crate::config::ForeignWrites;
use crate::lsn::Lsn;
use crate::sink::UNHEARD;

impl Ledger {
    pub(super) fn refill(&self, state: &mut State, key: &Bytes, user: User, now: Instant) {
        if let Some((_, announced)) = state.refills.get_mut(key) {
            *announced = now;
        } else if state.refills.len() < MAX_REFILLS {
            // A copy: a key shares the buffer of all that were announced with it.
            let key = Bytes::copy_from_slice(key);
            state.refills_due.push_back((now + self.grace, key.clone()));
            state.refills.insert(key, (user, now));
        } else {
            self.metrics.overflows.inc();
            if state.written.contains_key(&user) {
                // It may be stale; behind which commit is not known.
                self.change(state, user, Lsn::ZERO);
            }
        }
    }

    /// Derived keys to be deleted once more.
    pub fn take_refills(&self, now: Instant) -> Vec<Bytes> {
        let mut state = self.state();
        let mut stale = Vec::new();
        while let Some(key) = pop_due(&mut state.refills_due, now) {
            let Some((user, announced)) = state.refills.remove(&key) else { continue };
            let deleted_by = |written: &&Written| {
                announced <= written.at + self.grace
                    && written.left.as_ref().is_none_or(|left| left.deletes(&key))
            };
            if state.written.get(&user).filter(deleted_by).is_some() {
                stale.push(key);
            }
        }
        stale
    }

    /// Something may not have been announced to those who delete derived keys.
    pub fn misheard(&self) {
        self.miss(&mut self.state());
    }

    /// The break is older than the news of it.
    pub(super) fn miss(&self, state: &mut State) {
        self.metrics.overflows.inc_by(state.unwatched.miss(self.doubtful(), Instant::now()));
    }

    /// How long it is not known whether a change was watched, nor all deleted that was derived before it.
    pub(super) fn doubtful(&self) -> Duration {
        (UNHEARD + self.grace).max(self.settled())
    }

    /// How long it takes to hear what is derived behind a change that is watched, and to delete it.
    fn settled(&self) -> Duration {
        self.grace * REMEMBERED_GRACES
    }

    /// Users were changed unwatched of whom nobody knows who they were.
    pub fn forgot(&self) {
        if self.mode == ForeignWrites::Heal {
            self.state().unwatched.forget();
        }
    }

    /// The commit from which on changes that were not watched wait to be seen to: what an instance that comes after this
    /// one has to be sent again to know whose they are.
    pub fn unwatched_since(&self, now: Instant) -> Option<Lsn> {
        let state = self.state();
        let uncounted = state.out_from;
        let since = [state.unwatched.since(self.settled(), now), uncounted].into_iter().flatten().min();
        since.filter(|_| self.mode == ForeignWrites::Heal)
    }

    /// So many suspects whose changes were not watched are seen to.
    pub fn cleared(&self, users: usize) {
        self.state().unwatched.cleared(users);
    }

    /// They could not be, and wait again.
    pub fn not_cleared(&self, users: Vec<User>) {
        let mut state = self.state();
        let taken = users.len();
        users.into_iter().for_each(|user| self.doubt(&mut state, user));
        state.unwatched.cleared(taken);
    }

    /// One who was changed by a commit that counts already.
    pub(super) fn doubt(&self, state: &mut State, user: User) {
        if !state.unwatched.doubt(user) {
            self.metrics.overflows.inc();
        }
    }

    /// Whether everybody is to be cleared; to be handed back when that is done.
    pub fn is_everybody_due(&self) -> Option<u64> {
        let due = self.state().unwatched.is_everybody_due();
        due.filter(|_| self.mode == ForeignWrites::Heal)
    }

    /// Everybody was cleared, more than a grace after this was asked for.
    pub fn everybody_cleared(&self, due: u64) {
        self.state().unwatched.everybody_cleared(due);
    }
}
