//! Whose keys may not hold what the database says, and what was written last.
//!
//! Redis announces keys that are written, ours among them, and says neither by whom nor what; writes of one turn of
//! its event loop are announced once, and two connections have no order. So announcements are not taken for ours or
//! theirs by counting or by time: each makes its user a suspect, every write of ours does too, and a suspect is looked at
//! a grace after it became one. Whether Redis holds what we wrote last tells our own writes, without asking the
//! database: what was written is remembered that long, and of its keys those are read that were announced, for nobody has
//! touched the others. A write of another program behind the look is announced behind it, and looked at again. So none is
//! masked, whenever it comes.
//!
//! What is only ever deleted (derived keys) cannot be compared. One that is announced within a grace after an event has
//! deleted it was computed from what was true before, and is deleted once more; one that comes later lives.
//!
//! Watching costs Redis something for each of our own events, so it is suspended while there are many or Redis is
//! behind. Users whom the stream changes meanwhile are suspects [afterwards](Unwatched), and their derived keys are deleted
//! once more, or everybody's where it is no longer known who they were. All others are left to the audit.

mod derived;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use crate::balance::User;
use crate::config::{Audit, ForeignWrites};
use crate::keyplan::{Fate, KeyMap, KeyPlan, Timed};
use crate::lsn::Lsn;
use crate::metrics::AuditMetrics;
use crate::sink::{Announced, Expectation, Outcome, Shape};

use super::suspect::{Cause, Seen, Sight, Suspect, Why};
use super::tempo::Tempo;
use super::unwatched::Unwatched;

/// Suspects that are remembered; who comes beyond is left to the audit, and counted.
const MAX_SUSPECTS: usize = 16_384;
/// Of those who were changed unwatched so many become suspects with each look, of which there are twenty in a second: half
/// of what the database is asked at most.
const UNWATCHED_AT_ONCE: usize = 50;
/// Users of whom it is remembered what was written last, about 1 KB each: all events of three graces of a second, at
/// the most at which is watched. Whoever is beyond in a burst is read from the database.
const MAX_WRITTEN: usize = 12_288;
/// Derived keys that were announced and are not judged yet.
const MAX_REFILLS: usize = 16_384;
/// Derived keys that may be announced within a grace because of us, and leave room for those of others.
pub const AT_EASE: u32 = 8_192;

/// A suspect who differs and was written again since is looked at later instead: the write may stand before its own
/// commit. So often, and then no more.
const MAX_POSTPONED: u8 = 2;
/// What was written is remembered for so many graces: a derived key is judged two after the event.
const REMEMBERED_GRACES: u32 = 3;

/// Shared by the pipeline, which writes, by those who hear what is announced, and by those who look.
pub struct Ledger {
    state: Mutex<State>,
    wanted: watch::Sender<bool>,
    mode: ForeignWrites,
    grace: Duration,
    key_map: Arc<KeyMap>,
    timed: Arc<Timed>,
    metrics: AuditMetrics,
}

#[derive(Default)]
struct State {
    /// Whether everything that is written is announced; whether it was when the last flight left; and the one before.
    live: bool,
    out_live: bool,
    landed_live: bool,
    /// The first commit of the last flight, which may not be counted yet.
    out_from: Option<Lsn>,
    /// Since the last flight left, and since the one before did, which may not be counted yet.
    out: Sight,
    landed: Sight,
    suspects: HashMap<User, Why>,
    /// By the time at which each is due.
    due: VecDeque<(Instant, User)>,
    written: HashMap<User, Written>,
    /// By the time at which each may be forgotten, unless it was written again.
    old: VecDeque<(Instant, User)>,
    /// Whose it is, and when it was announced last.
    refills: HashMap<Bytes, (User, Instant)>,
    refills_due: VecDeque<(Instant, Bytes)>,
    unwatched: Unwatched,
    tempo: Tempo,
    /// Of the plan before.
    shape: Option<Arc<Shape>>,
}

struct Written {
    left: Option<Arc<Expectation>>,
    at: Instant,
}

impl State {
    /// Whether all of the flight that is counted next was announced: which of the last two that is, is not told.
    fn is_live(&self) -> bool {
        self.live && self.out_live && self.landed_live
    }
}

impl Ledger {
    /// One that watches nothing yet.
    pub fn new(config: &Audit, key_map: Arc<KeyMap>, metrics: AuditMetrics) -> Ledger {
        let (wanted, _) = watch::channel(false);
        let (mode, grace) = (config.foreign_writes, config.grace);
        let timed = Arc::new(key_map.timed());
        Ledger { state: Mutex::default(), wanted, mode, grace, key_map, timed, metrics }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is written is to be announced.
    pub fn wanted(&self) -> watch::Receiver<bool> {
        self.wanted.subscribe()
    }

    /// What to do about foreign writes.
    pub fn mode(&self) -> ForeignWrites {
        self.mode
    }

    /// What a comparison leaves out.
    pub fn timed(&self) -> &Arc<Timed> {
        &self.timed
    }

    /// A flight leaves that begins with this commit: what is announced from now on may be its own.
    pub fn departs(&self, first: Option<Lsn>) {
        let mut state = self.state();
        state.out_from = first;
        state.landed = std::mem::replace(&mut state.out, Sight::begin());
        (state.landed_live, state.out_live) = (state.out_live, state.live);
    }

    /// Redis acknowledged these plans, which are of the stream or rows that were read.
    pub fn wrote(&self, plans: Vec<KeyPlan>, outcomes: &[Outcome], from_stream: bool, now: Instant) {
        if self.mode == ForeignWrites::Off || plans.is_empty() {
            return;
        }
        let mut state = self.state();
        state.tempo.events += plans.len() as u64;
        let is_live = state.is_live();
        for (plan, outcome) in plans.into_iter().zip(outcomes) {
            let (user, commit) = (plan.user.clone(), plan.position.commit_lsn);
            if from_stream && is_live && *outcome != Outcome::Skipped {
                self.metrics.overflows.inc_by(state.unwatched.watched(&user, commit, self.doubtful(), now));
            } else if from_stream {
                // One that was skipped was sent again: whoever applied it may have watched no longer.
                self.change(&mut state, user.clone(), commit);
            }
            if !is_live {
                continue;
            }
            // Its keys are deleted. To be read and refused once more, for ever, would put nothing right.
            let absent = matches!(outcome, Outcome::Refused { .. }).then(|| self.key_map.plan_absent(&user));
            let is_whole = plan.whole && matches!(outcome, Outcome::Applied(_));
            let left = absent.as_ref().or(is_whole.then_some(&plan));
            // Of a user who is gone nothing is to be there, also of keys that are only ever deleted: those make no
            // suspects when they are announced.
            let is_gone = left.is_some_and(|left| left.deletes_user);
            let is_seen = !is_gone && state.out.has_seen(&user) && state.landed.has_seen(&user);
            let seen = if is_seen { Seen::Announced } else { Seen::Nothing };
            let left = left.map(|left| Expectation::of(left, &self.timed, &mut state.shape));
            // A completed row alone leaves what is compared as it was, and deletes nothing.
            if left.is_some() || plan.row_xid.is_some() || plan.rereads {
                self.remember(&mut state, (&user, commit), left.map(Arc::new), now);
            }
            self.add(&mut state, user, Cause::OURS, seen, now);
        }
        let long = self.grace * REMEMBERED_GRACES;
        while let Some(user) = pop_due(&mut state.old, now) {
            match state.written.get(&user).map(|written| written.at) {
                Some(at) if at + long > now => state.old.push_back((at + long, user)),
                _ => drop(state.written.remove(&user)),
            }
        }
    }

    fn remember(
        &self,
        state: &mut State,
        (user, commit): (&User, Lsn),
        left: Option<Arc<Expectation>>,
        now: Instant,
    ) {
        if let Some(written) = state.written.get_mut(user) {
            *written = Written { left, at: now };
        } else if state.written.len() < MAX_WRITTEN {
            state.written.insert(user.clone(), Written { left, at: now });
            state.old.push_back((now + self.grace * REMEMBERED_GRACES, user.clone()));
        } else {
            // What is derived of him behind it is not known for stale.
            self.change(state, user.clone(), commit);
        }
    }

    /// The stream changed a user before anybody here watched; whoever streamed then may have watched no longer.
    pub fn changed_before(&self, user: User, commit: Lsn) {
        if self.mode != ForeignWrites::Off {
            self.change(&mut self.state(), user, commit);
        }
    }

    fn change(&self, state: &mut State, user: User, commit: Lsn) {
        if !state.unwatched.change(user, commit) {
            self.metrics.overflows.inc();
        }
    }

    fn add(&self, state: &mut State, user: User, cause: Cause, seen: Seen<'_>, now: Instant) {
        if let Some(why) = state.suspects.get_mut(&user) {
            why.cause.join(cause);
            why.last = why.last.max(now);
            why.only = why.only.take().filter(|known| matches!(seen, Seen::Expiring(key) if key == known));
            seen.note(&mut why.announced);
        } else if state.suspects.len() < MAX_SUSPECTS {
            let due = now + self.grace;
            // Mostly the last; who is put off comes before others.
            let at = state.due.partition_point(|(other, _)| *other <= due);
            state.due.insert(at, (due, user.clone()));
            let mut announced = Announced::default();
            seen.note(&mut announced);
            let only = seen.expiring();
            state.suspects.insert(user, Why { cause, only, announced, last: now, postponed: 0 });
        } else {
            state.out.blink();
            state.landed.blink();
            self.metrics.overflows.inc();
        }
    }

    /// Somebody wrote or deleted these keys.
    pub fn announced(&self, keys: &[Bytes], now: Instant) {
        let mut state = self.state();
        for key in keys {
            let whose = std::str::from_utf8(key).ok().and_then(|key| self.key_map.whose(key));
            let Some((user_type, id, fate)) = whose else { continue };
            let user = User { user_type: user_type.into(), id: id.into(), numeric_id: false };
            match fate {
                Fate::Deleted => self.refill(&mut state, key, user, now),
                Fate::Lasts => self.add(&mut state, user, Cause::ANNOUNCED, Seen::Lasting(key), now),
                Fate::Expires => self.add(&mut state, user, Cause::ANNOUNCED, Seen::Expiring(key), now),
            }
        }
    }

    /// The audit found a difference.
    pub fn suspect(&self, user: User, now: Instant) {
        self.add(&mut self.state(), user, Cause::AUDITED, Seen::Nothing, now);
    }

    /// Suspects whose time has come, no more than so many.
    pub fn take_due(&self, limit: usize, now: Instant) -> Vec<Suspect> {
        let mut state = self.state();
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(user) = pop_due(&mut state.due, now)
        {
            let Some(why) = state.suspects.remove(&user) else { continue };
            state.out.forget(&user);
            state.landed.forget(&user);
            let Why { cause, only, announced, last, postponed } = why;
            let written = state.written.get(&user).and_then(|written| written.left.clone());
            taken.push(Suspect { user, cause, written, announced, only, last, postponed });
        }
        // One by one these are read from the database, and who is announced meanwhile must not wait behind them.
        let is_idle = taken.len() < limit && state.suspects.len() < MAX_SUSPECTS / 2;
        if is_idle && state.live {
            // Who is a suspect already would be looked at too early.
            let State { unwatched, suspects, .. } = &mut *state;
            for user in unwatched.take(UNWATCHED_AT_ONCE, |user| !suspects.contains_key(user)) {
                self.add(&mut state, user, Cause::UNWATCHED, Seen::Nothing, now);
            }
        }
        taken
    }

    /// Whether a suspect was written within the last grace: what is found now may not stay so.
    pub fn is_recent(&self, suspect: &Suspect, now: Instant) -> bool {
        suspect.last + self.grace > now || self.state().suspects.contains_key(&suspect.user)
    }

    /// Puts off a suspect who differs and was written within the last grace, until that is over; whether that is done.
    pub fn postpone(&self, suspect: &Suspect, now: Instant) -> bool {
        if suspect.postponed >= MAX_POSTPONED || !self.is_recent(suspect, now) {
            return false;
        }
        let mut state = self.state();
        // Not by a whole grace more: the write that is wrong may be the last one.
        self.add(&mut state, suspect.user.clone(), suspect.cause, Seen::Nothing, suspect.last);
        if let Some(why) = state.suspects.get_mut(&suspect.user) {
            why.postponed = why.postponed.max(suspect.postponed + 1);
        }
        true
    }

    /// Puts back suspects who could not be looked at.
    pub fn put_back(&self, suspects: Vec<Suspect>, now: Instant) {
        let mut state = self.state();
        for Suspect { user, cause, .. } in suspects {
            self.add(&mut state, user, cause, Seen::Nothing, now);
        }
    }

    /// From now on everything that is written is announced.
    pub fn resume(&self) {
        let mut state = self.state();
        state.live = true;
        state.out.blink();
        state.landed.blink();
        self.metrics.watching.set(1);
    }

    /// Something may not have been announced. What was written last is no longer known either.
    pub fn interrupt(&self) {
        let mut state = self.state();
        let State { live, suspects, due, unwatched, mut written, old, tempo, out_from, .. } =
            std::mem::take(&mut *state);
        // That they were written is still known, and that what is derived of them within the grace is stale.
        written.values_mut().for_each(|written| written.left = None);
        let users: Vec<User> = written.keys().cloned().collect();
        *state = State { suspects, due, unwatched, written, old, tempo, out_from, ..State::default() };
        self.miss(&mut state);
        // The commits of those whom the stream changed have just been noted as missed.
        users.into_iter().for_each(|user| self.doubt(&mut state, user));
        self.metrics.watching.set(0);
        self.metrics.unwatched.inc_by(live.into());
    }

    /// How the stream stands: decides whether it is time to watch.
    pub fn report(&self, lag: Duration, is_loaded: bool, now: Instant) {
        if self.mode == ForeignWrites::Off {
            return;
        }
        let is_wanted = *self.wanted.borrow();
        self.want(self.state().tempo.allows(lag, is_loaded, is_wanted, now));
    }

    /// The stream ended: who goes on with it is not known.
    pub fn stand_down(&self) {
        self.state().tempo.forget();
        // What a flight that failed has written was announced before it leaves again. Now, not when the watcher hears of
        // it: the next session may be quicker.
        self.interrupt();
        self.want(false);
    }

    fn want(&self, wanted: bool) {
        let changed = self.wanted.send_replace(wanted) != wanted;
        if changed {
            tracing::debug!(wanted, "watching for foreign writes");
        }
    }
}

/// The first of the queue whose time has come.
fn pop_due<T>(queue: &mut VecDeque<(Instant, T)>, now: Instant) -> Option<T> {
    queue.front().filter(|(due, _)| *due <= now)?;
    queue.pop_front().map(|(_, what)| what)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
