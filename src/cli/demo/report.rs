//! What the demo prints.

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::super::output::say;
use super::compare::Comparison;
use super::subscriber::CHANNELS;
use super::tally::Tally;
use super::workload::{Done, ROLLED_BACK};

/// Differences that are shown; the others are counted.
const SHOWN_DIFFERENCES: usize = 10;
/// Width of the names in the table.
const NAME_WIDTH: usize = 34;
/// Width of the values in the table.
const VALUE_WIDTH: usize = 12;

/// Colours, where there is a terminal that wants them.
#[derive(Debug, Clone, Copy)]
pub struct Paint {
    terminal: bool,
    colours: bool,
}

impl Paint {
    /// For standard output.
    pub fn detect() -> Paint {
        let terminal = std::io::stdout().is_terminal();
        Paint { terminal, colours: terminal && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Whether lines may be drawn over.
    pub fn terminal(self) -> bool {
        self.terminal
    }

    fn with(self, code: &str, text: impl Display) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    /// What went well.
    pub fn good(self, text: impl Display) -> String {
        self.with("32", text)
    }

    /// What went wrong.
    pub fn bad(self, text: impl Display) -> String {
        self.with("1;31", text)
    }

    /// What can be passed over.
    pub fn dim(self, text: impl Display) -> String {
        self.with("2", text)
    }

    /// What stands out.
    pub fn bold(self, text: impl Display) -> String {
        self.with("1", text)
    }

    /// A finished step with the time it took.
    pub fn step(self, what: impl Display, since: Instant) {
        let took = format!("{:.1} s", since.elapsed().as_secs_f64());
        say(format_args!("  {} {what:<66} {}", self.good("✓"), self.dim(format!("{took:>7}"))));
    }
}

/// All that was measured.
#[derive(Debug)]
pub struct Outcome {
    /// What the writers did.
    pub done: Done,
    /// How long they did it.
    pub load: Duration,
    /// How long the last event took after they stopped; `None`: it never came.
    pub caught_up: Option<Duration>,
    /// Commits against events.
    pub tally: Tally,
    /// Messages that are no event, or that the demo itself was too slow to take.
    pub unreadable: u64,
    /// Redis against the database.
    pub comparison: Comparison,
}

impl Outcome {
    /// Whether all is equal and every event came exactly once.
    pub fn is_good(&self) -> bool {
        let equal = self.comparison.users > 0 && self.comparison.differences.is_empty();
        equal && self.tally.is_clean() && self.unreadable == 0 && self.committed() > 0
    }

    fn committed(&self) -> u64 {
        self.done.kinds.iter().filter(|(kind, _)| **kind != ROLLED_BACK).map(|(_, count)| count).sum()
    }

    /// Prints the table.
    pub fn print(&self, paint: Paint) {
        let table = Table { paint };
        table.rule("what the platform did");
        for (kind, count) in &self.done.kinds {
            let note = if *kind == ROLLED_BACK { "must leave no trace" } else { "" };
            table.row(kind, grouped(*count), note);
        }
        table.total("committed transactions", self.committed());
        let rate = per_second(self.committed(), self.load);
        table.row("committed transactions a second", grouped(rate), "4 connections");

        table.rule("what a subscriber heard");
        self.events(&table);
        let early = match self.tally.early {
            0 => String::new(),
            n => format!("{} came before the answer", grouped(n)),
        };
        table.row("COMMIT answered to event, p50", milliseconds(self.tally.p50), &early);
        table.row("COMMIT answered to event, p99", milliseconds(self.tally.p99), "");
        match self.caught_up {
            Some(wait) => table.row("last event after the load", milliseconds(wait), ""),
            None => table.fault("last event after the load", "never"),
        }

        table.rule("what Redis holds");
        table.row("users compared", grouped(self.comparison.users as u64), "");
        table.row("keys compared", grouped(self.comparison.keys), "field by field");
        table.count("mismatches", self.comparison.differences.len() as u64);
        self.differences(paint);
        self.verdict(paint);
    }

    fn events(&self, table: &Table) {
        let tally = &self.tally;
        for (channel, received) in CHANNELS.iter().zip(tally.received) {
            let expected = format!("of {} expected", grouped(self.done.commits.len() as u64));
            table.row(&format!("events on {channel}"), grouped(received), &expected);
        }
        table.count("missing", tally.missing.iter().sum());
        table.count("duplicates", tally.duplicates.iter().sum());
        table.count("out of order within a user", tally.out_of_order);
        table.count("with another balance", tally.wrong_balance);
        table.count("of no committed change", tally.uncalled + self.unreadable);
    }

    fn differences(&self, paint: Paint) {
        let differences = &self.comparison.differences;
        if !differences.is_empty() {
            say("");
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".to_owned());
        for d in differences.iter().take(SHOWN_DIFFERENCES) {
            let place = paint.bad(&d.place);
            say(format_args!("  {place} is {}, should be {}", text(&d.found), text(&d.wanted)));
        }
        if let Some(more) = differences.len().checked_sub(SHOWN_DIFFERENCES).filter(|more| *more > 0) {
            say(format_args!("  ... and {} more", grouped(more as u64)));
        }
    }

    fn verdict(&self, paint: Paint) {
        let text = if self.is_good() {
            paint.good("✓ every key equals the database, every event came exactly once")
        } else {
            paint.bad("✗ Redis and the database are not in step")
        };
        say(format_args!("\n  {text}\n"));
    }
}

struct Table {
    paint: Paint,
}

impl Table {
    fn rule(&self, title: &str) {
        say(format_args!("\n  {}", self.paint.bold(title)));
        say(format_args!("  {}", self.paint.dim("─".repeat(NAME_WIDTH + VALUE_WIDTH + 1))));
    }

    fn row(&self, name: &str, value: String, note: &str) {
        say(format_args!("  {name:<NAME_WIDTH$} {value:>VALUE_WIDTH$}  {}", self.paint.dim(note)));
    }

    fn total(&self, name: &str, count: u64) {
        let value = self.paint.bold(format!("{:>VALUE_WIDTH$}", grouped(count)));
        say(format_args!("  {name:<NAME_WIDTH$} {value}"));
    }

    /// A count that should be nothing.
    fn count(&self, name: &str, count: u64) {
        match count {
            0 => {
                let none = self.paint.good(format!("{:>VALUE_WIDTH$}", 0));
                say(format_args!("  {name:<NAME_WIDTH$} {none}"));
            }
            _ => self.fault(name, &grouped(count)),
        }
    }

    fn fault(&self, name: &str, value: &str) {
        say(format_args!("  {name:<NAME_WIDTH$} {}", self.paint.bad(format!("{value:>VALUE_WIDTH$}"))));
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn per_second(count: u64, time: Duration) -> u64 {
    let rate = u128::from(count) * 1000 / time.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// `1234567` as `1,234,567`.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        let shown = [0, 12, 999, 1000, 123_456, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
    }
}
