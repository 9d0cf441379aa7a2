//! What is printed: figures, each beside its limit.

use std::borrow::Cow;

use serde::Serialize;

use super::Size;
use crate::cli::output::say;
use crate::error::{Error, Result};

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// This program's version.
    pub version: &'static str,
    /// Processors that it may use.
    pub processors: usize,
    /// Database transactions of a backlog.
    pub events: u32,
    /// Users in the database.
    pub users: u32,
    /// Keys of other programs, in the scenario `keyspace`.
    pub idle_keys: u32,
    /// In the order in which they were measured.
    pub scenarios: Vec<Scenario>,
}

/// What was measured on one set of servers.
#[derive(Debug, Serialize)]
pub struct Scenario {
    /// As `--only` takes it.
    pub name: String,
    /// Its figures.
    pub rows: Vec<Row>,
}

/// One figure.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What it is.
    pub what: Cow<'static, str>,
    /// How much, in `unit`.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
    /// What it is measured against; `null` for what has no limit, and for limits.
    pub limit: Option<Limit>,
    /// `value` by the limit's.
    pub ratio: Option<f64>,
}

/// What a figure is measured against, in the same unit.
#[derive(Debug, Serialize)]
pub struct Limit {
    /// What it is.
    pub what: Cow<'static, str>,
    /// How much.
    pub value: f64,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Events.
    #[serde(rename = "events")]
    Events,
    /// Events in a second.
    #[serde(rename = "events/s")]
    EventsPerSecond,
    /// Processor time for one event.
    #[serde(rename = "us/event")]
    MicrosPerEvent,
    /// Users.
    #[serde(rename = "users")]
    Users,
    /// Users in a second.
    #[serde(rename = "users/s")]
    UsersPerSecond,
    /// Processor time for one user.
    #[serde(rename = "us/user")]
    MicrosPerUser,
    /// Messages of Pub/Sub.
    #[serde(rename = "messages")]
    Messages,
    /// Time.
    #[serde(rename = "s")]
    Seconds,
    /// Time of one message.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Memory.
    #[serde(rename = "bytes")]
    Bytes,
    /// Of one processor.
    #[serde(rename = "percent")]
    Percent,
}

impl Row {
    /// A figure without a limit.
    pub fn new(what: impl Into<Cow<'static, str>>, value: f64, unit: Unit) -> Row {
        Row { what: what.into(), value, unit, limit: None, ratio: None }
    }

    /// A figure against a row of the same unit.
    pub fn against(self, limit: &Row) -> Row {
        self.beside(limit.what.clone(), limit.value)
    }

    /// A figure against another of the same unit.
    pub fn beside(self, what: impl Into<Cow<'static, str>>, value: f64) -> Row {
        let ratio = (value > 0.0).then(|| self.value / value);
        Row { limit: Some(Limit { what: what.into(), value }), ratio, ..self }
    }
}

impl Report {
    /// One without figures.
    pub fn new(size: Size) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            processors: std::thread::available_parallelism().map_or(0, Into::into),
            events: size.events,
            users: size.users,
            idle_keys: size.idle_keys,
            scenarios: Vec::new(),
        }
    }

    /// Prints it as one JSON object.
    pub fn print_json(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self);
        say(text.map_err(|e| Error::definite(format!("the report is no JSON ({e})"), "leave out --json"))?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_quotient_of_what_stands_beside_it() {
        let limit = Row::new("limit", 80.0, Unit::EventsPerSecond);
        let row = Row::new("drain", 60.0, Unit::EventsPerSecond).against(&limit);
        assert_eq!((row.ratio, row.limit.unwrap().value), (Some(0.75), 80.0));
        let nothing = Row::new("drain", 60.0, Unit::Seconds).beside("nothing", 0.0);
        assert_eq!(nothing.ratio, None);
    }
}
