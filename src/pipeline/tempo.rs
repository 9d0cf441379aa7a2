//! Whether there is little enough to do that writes are watched: decided from report to report.

use std::time::{Duration, Instant};

/// Events a second above which nothing is watched: each costs Redis about 10 us more, so that it is 4 % of a core.
const SUSPEND_EVENTS_PER_SECOND: f64 = 4_000.0;
/// Events a second below which watching is resumed. A steady load between the two bounds stays as it is, watched or not.
const RESUME_EVENTS_PER_SECOND: f64 = 3_000.0;
/// What the last report counts for in the rate: after a moment in which the database stood still, much comes at once.
const LAST_REPORT: f64 = 0.25;
/// Lag above which nothing is watched.
const SUSPEND_LAG: Duration = Duration::from_secs(1);
/// Lag below which watching is resumed.
const RESUME_LAG: Duration = Duration::from_millis(500);
/// Calm reports in a row before watching is resumed.
const CALM_REPORTS: u32 = 4;

/// What there was to do lately.
#[derive(Default)]
pub struct Tempo {
    /// Since the last report.
    pub events: u64,
    reported: Option<Instant>,
    /// Events a second, of the last reports.
    rate: f64,
    calm: u32,
}

impl Tempo {
    /// Whether it is time to watch, `is_watched` being how it was; takes the events as reported.
    pub fn allows(&mut self, lag: Duration, is_loaded: bool, is_watched: bool, now: Instant) -> bool {
        let events = std::mem::take(&mut self.events);
        let since = self.reported.replace(now).map_or(Duration::from_secs(1), |before| now - before);
        let latest = events as f64 / since.as_secs_f64().max(0.001);
        self.rate += (latest - self.rate) * LAST_REPORT;
        let is_calm = is_loaded && self.rate < RESUME_EVENTS_PER_SECOND && lag < RESUME_LAG;
        self.calm = if is_calm { self.calm.saturating_add(1) } else { 0 };
        match is_watched {
            true => is_loaded && self.rate <= SUSPEND_EVENTS_PER_SECOND && lag <= SUSPEND_LAG,
            false => self.calm >= CALM_REPORTS,
        }
    }

    /// Whoever watches next begins anew.
    pub fn forget(&mut self) {
        self.calm = 0;
    }
}
