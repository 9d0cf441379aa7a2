//! Where log lines go, and how they look.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// The Redis client's name in a filter.
const CLIENT: &str = "fred";

/// The client warns of each lost connection in words of its own; the sink says it too, once and plainly.
fn filter(level: &str) -> EnvFilter {
    let says_otherwise = level.split(',').any(|part| part.trim().starts_with(CLIENT));
    match says_otherwise {
        true => EnvFilter::builder().parse_lossy(level),
        false => EnvFilter::builder().parse_lossy(format!("{level},{CLIENT}=error")),
    }
}

/// Starts logging to standard error, in colours where a person looks on. The filter was checked with the
/// configuration.
pub(super) fn start(log: &Log) {
    let filter = filter(&log.level);
    let colours = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr);
    // Fails only where a subscriber is set already, a test's for example, which then stays.
    let _ = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_heard_only_where_the_filter_names_it() {
        let said = |level| filter(level).to_string();
        assert!(said("info").contains("fred=error") && said("warn,lockstep=debug").contains("fred=error"));
        assert!(
            said("info,fred=debug").contains("fred=debug") && !said("info,fred=debug").contains("fred=error")
        );
    }
}
