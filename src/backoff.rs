//! Delays between attempts: doubling, bounded, spread; and what is said of them.

use std::time::Duration;

use crate::error::Error;

/// Faults of one outage that are remembered as logged.
const TOLD_FAULTS: usize = 16;

/// A bounded exponential backoff.
///
/// The spread is taken from a counter and not from a clock or a random source, so that a run can be
/// repeated; two instances differ by their `seed`.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    attempt: u32,
    seed: u64,
}

impl Backoff {
    /// Delays that begin at `first` and never exceed `limit`.
    pub fn new(first: Duration, limit: Duration, seed: u64) -> Backoff {
        Backoff { first, limit, attempt: 0, seed }
    }

    /// The delay before the next attempt: between half and all of the doubled previous one.
    pub fn next_delay(&mut self) -> Duration {
        let full =
            self.first.saturating_mul(1_u32.checked_shl(self.attempt.min(16)).unwrap_or(1)).min(self.limit);
        self.attempt = self.attempt.saturating_add(1);
        // A step of SplitMix64: well spread, and the same for the same seed.
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let per_mille = u32::try_from((mixed >> 40) % 500).unwrap_or(0);
        full / 2 + full * per_mille / 1000
    }

    /// Starts again at the first delay: call it once an attempt has succeeded.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }

    /// Attempts since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }
}

/// Attempts that fail: how long to wait for the next, and which fault is worth a line in the log.
#[derive(Debug, Clone)]
pub struct Outage {
    backoff: Backoff,
    told: Vec<String>,
}

impl Outage {
    /// None yet; delays as [`Backoff::new`] has them.
    pub fn new(first: Duration, limit: Duration, seed: u64) -> Outage {
        Outage { backoff: Backoff::new(first, limit, seed), told: Vec::new() }
    }

    /// Whether this outage has not had the fault before: an outage that lasts is one line for each kind of fault.
    pub fn is_news(&mut self, fault: &Error) -> bool {
        let text = fault.to_string();
        let news = self.told.len() < TOLD_FAULTS && !self.told.contains(&text);
        if news {
            self.told.push(text);
        }
        news
    }

    /// The delay before the next attempt.
    pub fn next_delay(&mut self) -> Duration {
        self.backoff.next_delay()
    }

    /// An attempt has succeeded; whether one had failed before.
    pub fn end(&mut self) -> bool {
        self.backoff.reset();
        !std::mem::take(&mut self.told).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_limit_and_start_again() {
        let (first, limit) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(first, limit, 7);
        let delays: Vec<_> = (0..20).map(|_| backoff.next_delay()).collect();
        assert!(delays[0] >= first / 2 && delays[0] <= first);
        assert!(delays.iter().all(|d| *d <= limit));
        assert!(delays[19] >= limit / 2);
        backoff.reset();
        assert!(backoff.next_delay() <= first);
    }

    #[test]
    fn each_fault_of_an_outage_is_news_once() {
        let mut outage = Outage::new(Duration::from_millis(1), Duration::from_millis(2), 0);
        let [refused, timeout] = ["refused", "no answer"].map(|fact| Error::transient(fact, ""));
        assert!(!outage.end());
        assert_eq!(
            [&refused, &refused, &timeout, &refused].map(|f| outage.is_news(f)),
            [true, false, true, false]
        );
        assert!(outage.end() && !outage.end());
        assert!(outage.is_news(&refused), "another outage");
    }
}
