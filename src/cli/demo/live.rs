//! What the demo shows while it works: one moving line on a terminal, which fits 80 columns, a line each
//! second otherwise.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::super::output::say;
use super::super::throwaway::lockstep::Measured;
use super::report::{Paint, grouped};

/// Pause between two looks.
pub const EVERY: Duration = Duration::from_secs(1);

/// The live line.
#[derive(Debug)]
pub struct Live {
    bar: ProgressBar,
    paint: Paint,
    last: (Instant, u64, u64),
}

impl Live {
    /// For a load of so many seconds.
    pub fn start(seconds: u64, paint: Paint) -> Live {
        let bar = if paint.terminal() { ProgressBar::new(seconds) } else { ProgressBar::hidden() };
        // A template that does not parse would cost the bar its looks, nothing else.
        if let Ok(style) = ProgressStyle::with_template("  {bar:8.green/dim} {pos:>2}/{len} s  {msg}") {
            bar.set_style(style.progress_chars("━━─"));
        }
        Live { bar, paint, last: (Instant::now(), 0, 0) }
    }

    /// Shows the second that has passed.
    pub fn tick(&mut self, second: u64, committed: u64, heard: u64, measured: Option<Measured>) {
        let now = Instant::now();
        let (since, committed_before, heard_before) =
            std::mem::replace(&mut self.last, (now, committed, heard));
        let passed = (now - since).as_millis().max(1);
        let rate = |now: u64, before: u64| {
            let count = u128::from(now.saturating_sub(before)) * 1000 / passed;
            grouped(u64::try_from(count).unwrap_or(u64::MAX))
        };
        let lag = measured.map_or_else(
            || "no answer from /metrics".to_owned(),
            |m| {
                let (ms, mib) = (m.lag_seconds * 1e3, m.memory_bytes / 1048576.0);
                format!("lag {ms:.1} ms  {mib:.0} MiB")
            },
        );
        let (written, arrived) = (rate(committed, committed_before), rate(heard, heard_before));
        let line = format!("{written:>6} commits/s  {arrived:>6} messages/s  {lag}");
        if self.paint.terminal() {
            self.bar.set_position(second);
            self.bar.set_message(line);
        } else {
            say(format_args!("  {second:>3} s  {line}"));
        }
    }

    /// Leaves the last line where it is.
    pub fn end(self) {
        self.bar.abandon();
        if self.paint.terminal() {
            // Ends the line where the bar stands.
            say("");
        }
    }
}
