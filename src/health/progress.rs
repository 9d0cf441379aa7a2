//! How far Redis is, for whoever waits for a position there; where the database's WAL ends, for whoever has to prove
//! that Redis is that far; and what its snapshots see, for whoever has to keep what they do not.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::lsn::{Lsn, Snapshot};

/// Most that may wait at the same time; each holds an HTTP connection.
pub const MAX_WAITERS: usize = 1024;

/// Shared by the session, which tells, and those who wait.
#[derive(Debug, Default)]
pub struct Progress {
    held: watch::Sender<Held>,
    /// Positions that somebody waits for, and how many do.
    wanted: Mutex<BTreeMap<Lsn, usize>>,
    /// How many wait in all; read by the session at every turn, so that nobody who waits costs nothing.
    waiters: AtomicUsize,
    /// The end of WAL that was told last and not used yet.
    wal_end: Mutex<Option<WalEnd>>,
    /// The snapshot that was told last and not used yet.
    snapshot: Mutex<Option<Snapshot>>,
    /// Somebody waits for another position, or the end of WAL was told.
    called: Notify,
}

/// The end of the database's WAL at one moment, read on a connection that does not stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalEnd {
    /// Every commit that was answered before `clock` is before it.
    pub lsn: Lsn,
    /// The database's clock just before it was read, in microseconds as the server counts them.
    pub clock: i64,
    /// This machine's, before it was asked for.
    pub asked: Instant,
}

/// What Redis holds.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    place: Place,
    /// Whether it holds every user; until then a change before the stream's begin may be missing.
    loaded: bool,
    /// Whether it is away: what answers next may be a replica that lagged behind.
    away: bool,
}

/// Where this instance is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Without a stream at the moment.
    #[default]
    Nowhere,
    /// Another instance has the stream.
    Standby,
    /// Everything before this position is in Redis.
    At(Lsn),
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// Redis holds everything before this position, which is the one waited for or a later one.
    Reached(Lsn),
    /// Time is over; this is how far it was, where there is a stream and Redis is not away.
    Late(Option<Lsn>),
    /// Another instance streams: it is the one to ask.
    Standby,
    /// Too many wait already.
    Crowded,
}

impl Progress {
    /// Everything before `applied` is in Redis.
    pub fn tell_applied(&self, applied: Lsn) {
        self.held.send_modify(|held| held.place = Place::At(applied));
    }

    /// There is no stream any more.
    pub fn tell_nowhere(&self) {
        self.held.send_modify(|held| held.place = Place::Nowhere);
    }

    /// Another instance has the stream.
    pub fn tell_standby(&self) {
        self.held.send_modify(|held| held.place = Place::Standby);
    }

    /// Whether Redis holds every user.
    pub fn tell_loaded(&self, loaded: bool) {
        self.held.send_modify(|held| held.loaded = loaded);
    }

    /// Whether Redis does not take what it is sent.
    pub fn tell_away(&self, away: bool) {
        self.held.send_modify(|held| held.away = away);
    }

    /// Where WAL ends.
    pub fn tell_wal_end(&self, end: WalEnd) {
        *lock(&self.wal_end) = Some(end);
        self.called.notify_one();
    }

    /// The end of WAL that was told last, once.
    pub fn take_wal_end(&self) -> Option<WalEnd> {
        lock(&self.wal_end).take()
    }

    /// What the database's snapshots see by now.
    pub fn tell_snapshot(&self, snapshot: Snapshot) {
        *lock(&self.snapshot) = Some(snapshot);
    }

    /// The snapshot that was told last, once.
    pub fn take_snapshot(&self) -> Option<Snapshot> {
        lock(&self.snapshot).take()
    }

    /// Whether somebody waits for a position past `applied`.
    pub fn wants_past(&self, applied: Lsn) -> bool {
        self.waiters.load(Ordering::Acquire) > 0
            && lock(&self.wanted).last_key_value().is_some_and(|(lsn, _)| *lsn > applied)
    }

    /// Returns when the session should look again at what is wanted. Cancel-safe.
    pub async fn called(&self) {
        self.called.notified().await;
    }

    /// Waits until Redis holds everything before `lsn`.
    pub async fn wait(&self, lsn: Lsn, patience: Duration) -> Waited {
        let Some(_seat) = Seat::take(self, lsn) else { return Waited::Crowded };
        let mut held = self.held.subscribe();
        let over = |held: &Held| match held.place {
            Place::At(applied) => applied >= lsn && held.loaded && !held.away,
            Place::Standby => true,
            Place::Nowhere => false,
        };
        let waited = tokio::time::timeout(patience, held.wait_for(over)).await;
        let (ended, place) = match waited {
            Ok(Ok(held)) => (true, held.place),
            Ok(Err(_)) | Err(_) => {
                let held = *self.held.borrow();
                (false, if held.away { Place::Nowhere } else { held.place })
            }
        };
        match place {
            Place::At(applied) if ended => Waited::Reached(applied),
            Place::At(applied) => Waited::Late(Some(applied)),
            Place::Standby => Waited::Standby,
            Place::Nowhere => Waited::Late(None),
        }
    }
}

/// One that waits; leaves on drop.
struct Seat<'a> {
    progress: &'a Progress,
    lsn: Lsn,
}

impl Seat<'_> {
    fn take(progress: &Progress, lsn: Lsn) -> Option<Seat<'_>> {
        let room = |count| (count < MAX_WAITERS).then_some(count + 1);
        progress.waiters.fetch_update(Ordering::AcqRel, Ordering::Acquire, room).ok()?;
        *lock(&progress.wanted).entry(lsn).or_insert(0) += 1;
        progress.called.notify_one();
        Some(Seat { progress, lsn })
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut wanted = lock(&self.progress.wanted);
        if let Some(count) = wanted.get_mut(&self.lsn) {
            *count -= 1;
            if *count == 0 {
                wanted.remove(&self.lsn);
            }
        }
        self.progress.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A panic while it was locked leaves what it holds whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);
    const NOW: Duration = Duration::ZERO;

    #[tokio::test]
    async fn a_wait_ends_when_redis_holds_the_position_and_all_users() {
        let progress = Progress::default();
        assert_eq!(progress.wait(Lsn(5), NOW).await, Waited::Late(None));
        progress.tell_applied(Lsn(5));
        assert_eq!(progress.wait(Lsn(5), NOW).await, Waited::Late(Some(Lsn(5))), "not loaded yet");
        progress.tell_loaded(true);
        assert_eq!(progress.wait(Lsn(5), NOW).await, Waited::Reached(Lsn(5)));
        assert_eq!(progress.wait(Lsn(6), NOW).await, Waited::Late(Some(Lsn(5))));
        progress.tell_away(true);
        assert_eq!(progress.wait(Lsn(5), NOW).await, Waited::Late(None), "who knows what it holds");
        progress.tell_away(false);
        let (waited, ()) = tokio::join!(progress.wait(Lsn(6), LONG), async {
            progress.called().await;
            assert!(progress.wants_past(Lsn(5)) && !progress.wants_past(Lsn(6)));
            progress.tell_applied(Lsn(7));
        });
        assert_eq!(waited, Waited::Reached(Lsn(7)));
        assert!(!progress.wants_past(Lsn(0)), "nobody waits any more");
    }

    #[tokio::test]
    async fn who_waits_at_a_standby_is_sent_away_at_once() {
        let progress = Progress::default();
        let (waited, ()) = tokio::join!(progress.wait(Lsn(6), LONG), async { progress.tell_standby() });
        assert_eq!(waited, Waited::Standby);
    }

    #[tokio::test]
    async fn waiters_are_bounded() {
        let progress = Progress::default();
        let seats: Vec<_> = (0..MAX_WAITERS).map(|_| Seat::take(&progress, Lsn(1))).collect();
        assert!(seats.iter().all(Option::is_some));
        assert_eq!(progress.wait(Lsn(1), LONG).await, Waited::Crowded);
        drop(seats);
        assert_eq!(progress.wait(Lsn(1), NOW).await, Waited::Late(None));
    }
}
