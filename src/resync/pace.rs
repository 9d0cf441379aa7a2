//! At most so many users a second, over all who read.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

/// Hands out the time at which the next users may be read.
#[derive(Debug)]
pub struct Pace {
    /// Time that one user takes; zero: as fast as it goes.
    per_user: Duration,
    next: Mutex<Instant>,
}

impl Pace {
    /// So many users a second; 0 is no limit.
    pub fn new(users_per_second: usize) -> Pace {
        let rate = u32::try_from(users_per_second).unwrap_or(u32::MAX);
        let per_user = Duration::from_secs(1).checked_div(rate).unwrap_or_default();
        Pace { per_user, next: Mutex::new(Instant::now()) }
    }

    /// Waits until so many users more may be handed on.
    pub async fn take(&self, users: u64) {
        if self.per_user.is_zero() {
            return;
        }
        let mine = {
            let mut next = self.next.lock().await;
            let mine = (*next).max(Instant::now());
            *next = mine + self.per_user.saturating_mul(u32::try_from(users).unwrap_or(u32::MAX));
            mine
        };
        tokio::time::sleep_until(mine).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn users_are_handed_on_at_the_rate_over_all_who_read() {
        let pace = Pace::new(100);
        let begun = Instant::now();
        for _ in 0..3 {
            pace.take(50).await;
        }
        assert_eq!(begun.elapsed(), Duration::from_secs(1), "the third waits for the first two");
        let unlimited = Pace::new(0);
        unlimited.take(u64::MAX).await;
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
    }
}
