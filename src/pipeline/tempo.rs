//! Whether there is little enough to do that writes are watched: decided from report to report.

use std::time::{Duration, Instant};

/// Events a second above which nothing is watched: each costs Redis about 10 us more, so that it is 4 % of a core.
const SUSPEND_EVENTS_PER_SECOND: f64 = 4_000.0;
/// Lag above which nothing is watched.
const SUSPEND_LAG: Duration = Duration::from_secs(1);
/// Reports in a row under half of these bounds before watching is resumed.
const CALM_REPORTS: u32 = 4;

/// What there was to do lately.
#[derive(Default)]
pub struct Tempo {
    /// Since the last report.
    pub events: u64,
    reported: Option<Instant>,
    calm: u32,
}

impl Tempo {
    /// Whether it is time to watch, `is_watched` being how it was; takes the events as reported.
    pub fn allows(&mut self, lag: Duration, is_loaded: bool, is_watched: bool, now: Instant) -> bool {
        let events = std::mem::take(&mut self.events);
        let since = self.reported.replace(now).map_or(Duration::from_secs(1), |before| now - before);
        let load = (events as f64 / since.as_secs_f64().max(0.001) / SUSPEND_EVENTS_PER_SECOND)
            .max(lag.as_secs_f64() / SUSPEND_LAG.as_secs_f64());
        self.calm = if is_loaded && load < 0.5 { self.calm.saturating_add(1) } else { 0 };
        match is_watched {
            true => is_loaded && load <= 1.0,
            false => self.calm >= CALM_REPORTS,
        }
    }

    /// Whoever watches next begins anew.
    pub fn forget(&mut self) {
        self.calm = 0;
    }
}
