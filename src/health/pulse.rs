//! Whether the data loop turns: what a watchdog and `/healthz` go by.
//!
//! A session beats where it reports, in the loop that moves the data, so that a loop that hangs does not. Between two
//! sessions there is nothing to move: there the same task beats for as long as it is given turns, however long a server
//! is away.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

/// How often there is a beat while a server is waited for.
const BEAT_INTERVAL: Duration = Duration::from_millis(250);

/// How long the loop may stand still before it counts as hung: no step of it takes a second.
const HUNG_AFTER: Duration = Duration::from_secs(30);

/// The beats of one data loop.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    /// Milliseconds from there to the last beat.
    last: AtomicU64,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { began: Instant::now(), last: AtomicU64::new(0) }
    }
}

impl Pulse {
    /// The loop turned.
    pub fn beat(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// When it did last, from some moment on: what does not change between two looks stands still.
    pub fn last_beat(&self) -> Duration {
        Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    /// Whether it stands still for so long that only a restart helps.
    pub fn is_hung(&self) -> bool {
        self.began.elapsed().saturating_sub(self.last_beat()) > HUNG_AFTER
    }

    /// Waits, and beats meanwhile: for what may rightly take long, outside of a session.
    pub async fn while_waiting<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut beat = tokio::time::interval(BEAT_INTERVAL);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return done,
                _ = beat.tick() => self.beat(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_waits_lives_and_one_that_stands_still_is_hung_at_last() {
        let pulse = Pulse::default();
        pulse.while_waiting(tokio::time::sleep(HUNG_AFTER * 10)).await;
        assert!(!pulse.is_hung(), "a server was away");
        tokio::time::sleep(HUNG_AFTER - BEAT_INTERVAL).await;
        assert!(!pulse.is_hung());
        tokio::time::sleep(BEAT_INTERVAL * 2).await;
        assert!(pulse.is_hung());
        pulse.beat();
        assert!(!pulse.is_hung());
    }
}
