//! How far a long read is: a bar on a terminal, log lines elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Shortest time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(5);

/// Progress of one read.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    users: AtomicU64,
    expected: u64,
    started: Instant,
    shown: Shown,
}

#[derive(Debug)]
enum Shown {
    Bar(ProgressBar),
    Log { last: Mutex<Instant> },
}

impl Progress {
    /// Begins; `expected` is an estimate, 0 when there is none.
    pub fn start(what: &'static str, expected: u64) -> Progress {
        let started = Instant::now();
        let shown = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(expected);
            let style = "{msg} {wide_bar} {human_pos}/~{human_len} {per_sec} {eta} left";
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(what);
            Shown::Bar(bar)
        } else {
            tracing::info!(expected, "{what}");
            Shown::Log { last: Mutex::new(started) }
        };
        Progress { what, users: AtomicU64::new(0), expected, started, shown }
    }

    /// Counts users that are in Redis.
    pub fn add(&self, users: u64) {
        let users = self.users.fetch_add(users, Ordering::Relaxed) + users;
        match &self.shown {
            Shown::Bar(bar) => bar.set_position(users),
            Shown::Log { last } => {
                let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if last.elapsed() >= LOG_INTERVAL {
                    *last = Instant::now();
                    let (rate, left) = self.pace(users);
                    tracing::info!(
                        users,
                        expected = self.expected,
                        a_second = rate,
                        seconds_left = left,
                        "{}",
                        self.what
                    );
                }
            }
        }
    }

    /// Users a second so far, and at that rate the seconds that are left; 0 where nothing is expected.
    fn pace(&self, users: u64) -> (u64, u64) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = users.saturating_mul(1000) / millis;
        (rate, self.expected.saturating_sub(users) / rate.max(1))
    }

    /// Ends with a line that says how many and how long.
    pub fn finish(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
        let users = self.users.load(Ordering::Relaxed);
        tracing::info!(users, seconds = self.started.elapsed().as_secs_f64(), "{}: done", self.what);
    }
}
