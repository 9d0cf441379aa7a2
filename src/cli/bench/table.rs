//! What people see: a moving line on standard error while it works, tables on standard output.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::report::{Row, Scenario, Unit};
use crate::cli::output::{bytes, complain, grouped, say};

/// Width of the names.
const NAME_WIDTH: usize = 44;
/// Width of the values.
const VALUE_WIDTH: usize = 18;
/// How often the line moves.
const MOVES: Duration = Duration::from_millis(100);

/// What is being done.
#[derive(Debug)]
pub struct Progress {
    scenario: String,
    line: Option<ProgressBar>,
}

impl Progress {
    /// Begins a scenario.
    pub fn start(scenario: String) -> Progress {
        let line = std::io::stderr().is_terminal().then(|| {
            let line = ProgressBar::new_spinner();
            // A template that does not parse would cost the line its looks, nothing else.
            if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg} ({elapsed})") {
                line.set_style(style);
            }
            line.enable_steady_tick(MOVES);
            line
        });
        Progress { scenario, line }
    }

    /// Tells of the next step.
    pub fn step(&self, what: &str) {
        let text = format!("bench: {}: {what}", self.scenario);
        match &self.line {
            Some(line) => line.set_message(text),
            None => complain(text),
        }
    }

    /// Removes the line.
    pub fn end(self) {
        self.line.iter().for_each(ProgressBar::finish_and_clear);
    }
}

/// Prints the figures of a scenario.
pub fn print(scenario: &Scenario) {
    say(format_args!("\n  {}", scenario.name));
    say(format_args!("  {}", "─".repeat(NAME_WIDTH + VALUE_WIDTH + 1)));
    for row in &scenario.rows {
        let value = shown(row.value, row.unit);
        say(format!("  {:<NAME_WIDTH$} {value:>VALUE_WIDTH$}  {}", row.what, beside(row)).trim_end());
    }
}

fn beside(row: &Row) -> String {
    match (&row.limit, row.ratio) {
        (Some(limit), Some(ratio)) => {
            format!("{ratio:.2} of {} ({})", shown(limit.value, row.unit), limit.what)
        }
        _ => String::new(),
    }
}

fn shown(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Events => format!("{} events", grouped(rounded(value))),
        Unit::EventsPerSecond => format!("{} events/s", grouped(rounded(value))),
        Unit::MicrosPerEvent => format!("{value:.2} us/event"),
        Unit::Users => format!("{} users", grouped(rounded(value))),
        Unit::UsersPerSecond => format!("{} users/s", grouped(rounded(value))),
        Unit::MicrosPerUser => format!("{value:.2} us/user"),
        Unit::Messages => format!("{} messages", grouped(rounded(value))),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Milliseconds => format!("{value:.2} ms"),
        Unit::Bytes => bytes(rounded(value)),
        Unit::Percent => format!("{value:.1} %"),
    }
}

/// For people: nobody reads the fraction of an event.
fn rounded(value: f64) -> u64 {
    format!("{:.0}", value.max(0.0)).parse().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_shown_with_its_unit_beside_its_limit() {
        let row = Row::new("drain", 61_234.5, Unit::EventsPerSecond).beside("both at once", 80_000.0);
        assert_eq!(shown(row.value, row.unit), "61,234 events/s");
        assert_eq!(beside(&row), "0.77 of 80,000 events/s (both at once)");
        let shown = [(3.204, Unit::MicrosPerEvent), (1.0, Unit::Seconds), (33e6, Unit::Bytes)];
        let shown = shown.map(|(value, unit)| super::shown(value, unit));
        assert_eq!(shown, ["3.20 us/event", "1.00 s", "31.4 MiB"]);
    }
}
