//! Where log lines go, and how they look.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Starts logging to standard error, in colours where a person looks on. The filter was checked with the
/// configuration.
pub(super) fn start(log: &Log) {
    let filter = EnvFilter::builder().parse_lossy(&log.level);
    let colours = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(io::stderr);
    // Fails only where a subscriber is set already, a test's for example, which then stays.
    let _ = match log.format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
