//! What happened between two looks at an instance.

use crate::http::console::state::{Latency, State};

/// Between an earlier look and the present one; since the start where there was none.
pub(super) struct Rates<'s> {
    now: &'s State,
    before: Option<&'s State>,
}

impl<'s> Rates<'s> {
    /// An earlier look at another run of the program counts for nothing.
    pub(super) fn between(before: Option<&'s State>, now: &'s State) -> Rates<'s> {
        let before = before.filter(|before| before.uptime_seconds < now.uptime_seconds);
        Rates { now, before }
    }

    fn events(&self) -> u64 {
        let all = |state: &State| state.counts.events.values().sum::<u64>();
        all(self.now).saturating_sub(self.before.map_or(0, all))
    }

    /// Events in a second; all of them where there is no earlier look.
    pub(super) fn throughput(&self) -> String {
        let Some(before) = self.before else { return format!("{} events since the start", self.events()) };
        // A count of events passes 2^53 after thousands of years.
        let events = u32::try_from(self.events()).unwrap_or(u32::MAX);
        format!("{:.0} events/s", f64::from(events) / (self.now.uptime_seconds - before.uptime_seconds))
    }

    /// Percentiles from commit to Redis acknowledgement.
    pub(super) fn latency(&self) -> String {
        let before = self.before.map(|before| &before.latency);
        let at = |percent| percentile(&self.now.latency, before, percent);
        match (at(50), at(95), at(99)) {
            (Some(p50), Some(p95), Some(p99)) => {
                format!("p50 {}, p95 {}, p99 {}", seconds(p50), seconds(p95), seconds(p99))
            }
            _ => "no event".to_owned(),
        }
    }
}

fn seconds(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

/// Within its bucket an event is taken to be where its rank is.
fn percentile(now: &Latency, before: Option<&Latency>, percent: u32) -> Option<f64> {
    let earlier = |at: usize| before.and_then(|before| before.within.get(at)).copied().unwrap_or(0);
    let number = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let all = now.count.saturating_sub(before.map_or(0, |before| before.count));
    if all == 0 {
        return None;
    }
    let wanted = number(all) * f64::from(percent) / 100.0;
    let (mut low, mut below) = (0.0, 0.0);
    for (at, (bound, within)) in now.bounds.iter().zip(&now.within).enumerate() {
        let within = number(within.saturating_sub(earlier(at)));
        if within >= wanted {
            return Some(low + (bound - low) * (wanted - below) / (within - below));
        }
        (low, below) = (*bound, within);
    }
    // Beyond the last bound nothing more is known.
    Some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn latency(within: [u64; 3], count: u64) -> Latency {
        Latency { bounds: vec![0.001, 0.002, 0.004], within: within.to_vec(), count }
    }

    #[test]
    fn a_percentile_lies_where_its_rank_is_in_its_bucket() {
        let all = latency([50, 100, 100], 100);
        assert_eq!(percentile(&all, None, 50), Some(0.001));
        assert_eq!(percentile(&all, None, 75), Some(0.0015));
        assert_eq!(percentile(&latency([0, 0, 0], 0), None, 50), None);
        assert_eq!(percentile(&latency([0, 0, 0], 7), None, 50), Some(0.004), "beyond the last bound");
    }

    #[test]
    fn what_was_before_counts_for_nothing() {
        let (before, now) = (latency([100, 100, 100], 100), latency([100, 110, 110], 110));
        assert_eq!(percentile(&now, Some(&before), 50), Some(0.0015));
        assert_eq!(percentile(&now, Some(&now), 50), None);
    }
}
