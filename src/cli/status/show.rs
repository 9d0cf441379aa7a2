//! The status for people.

use std::time::Duration;

use super::direct::Status;
use super::rates::Rates;
use crate::cli::output::bytes;
use crate::http::console::state::{self, State};
use crate::pipeline::quarantine::Entry;

/// Entries of the quarantine that are shown to people; --json has all of them.
const SHOWN_ENTRIES: usize = 20;

/// Names and values, one row each.
pub(super) type Rows = Vec<(&'static str, String)>;

/// What the instance says of itself.
pub(super) fn instance(state: &State, rates: &Rates<'_>) -> Rows {
    let State { stream, redis, load, counts, .. } = state;
    let up = span(Duration::from_secs_f64(state.uptime_seconds.max(0.0)));
    let mut rows = vec![
        ("instance", format!("runs, version {}, up {up}", state.version)),
        ("instance's state", state.state.replace('_', " ")),
    ];
    rows.extend(state.reasons.iter().map(|reason| ("", reason.clone())));
    let behind = format!("{} and {:.1} s behind", bytes(stream.lag_bytes), stream.lag_seconds);
    rows.push(("stream", format!("{}, {behind}", stream.state.replace('_', " "))));
    rows.push(("throughput", rates.throughput()));
    rows.push(("commit to Redis", rates.latency()));
    if let Some(masters) = &redis.masters {
        let nodes = masters.nodes.iter().map(|node| {
            let said = if node.answers { "answers" } else { "is silent" };
            let slots: u32 = node.slots.iter().map(|(first, last)| u32::from(last - first) + 1).sum();
            let slots = if masters.cluster { format!(", {slots} slots") } else { String::new() };
            ("Redis", format!("{}:{} {said}{slots}", node.host, node.port))
        });
        rows.extend(nodes);
    }
    if !load.running.is_empty() {
        let expected =
            if load.users_expected > 0 { format!(" of ~{}", load.users_expected) } else { String::new() };
        rows.push(("running", format!("{}, {}{expected} users", load.running.join(", "), load.users)));
    }
    if counts.audited > 0 {
        rows.push(("audit", format!("{} users, {} wrong", counts.audited, counts.mismatches)));
    }
    rows
}

/// One line for a log.
pub(super) fn line(state: &State, rates: &Rates<'_>) -> String {
    let state::Stream { state: stream, lag_bytes, lag_seconds, .. } = &state.stream;
    let State { timestamp, state: word, slot, .. } = state;
    let first = state.reasons.first().map(|reason| format!(", {reason}")).unwrap_or_default();
    format!(
        "{timestamp} {word} {stream}, lag {} {lag_seconds:.1} s, {}, {}, retained WAL {}{first}",
        bytes(*lag_bytes),
        rates.throughput(),
        rates.latency(),
        bytes(slot.retained_bytes),
    )
}

/// What both sides say themselves.
pub(super) fn sides(status: &Status, retained_max: u64) -> Rows {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let retained = |kept: u64| format!("{} of {}", bytes(kept), bytes(retained_max));
    let mut rows = vec![("slot", status.slot.clone())];
    if let Some(state) = &status.state {
        rows.push(("state", state.clone()));
        rows.push(("restart LSN", or_none(&status.restart_lsn)));
        rows.push(("confirmed flush LSN", or_none(&status.confirmed_flush_lsn)));
        rows.push(("retained WAL", or_none(&status.retained_wal_bytes.map(retained))));
        rows.push(("lag", or_none(&status.lag_bytes.map(bytes))));
        rows.push(("WAL status", or_none(&status.wal_status)));
    }
    if let Some(resyncs) = status.resyncs.filter(|resyncs| *resyncs > 0) {
        rows.push(("resyncs to be done", resyncs.to_string()));
    }
    if let Some(loaded) = status.loaded {
        rows.push(("loaded", if loaded { "yes" } else { "no" }.to_owned()));
    }
    for (node, checkpoint) in &status.checkpoints {
        rows.push(("checkpoint", format!("{} in {node}", or_none(checkpoint))));
    }
    if let Some(open) = status.quarantine.as_ref().filter(|open| !open.is_empty()) {
        rows.push(("quarantine", format!("{} open: see \"lockstep resync --quarantined\"", open.len())));
        rows.extend(open.iter().rev().take(SHOWN_ENTRIES).map(|entry| ("", described(entry))));
    }
    rows.extend(status.faults.iter().map(|fault| ("wrong", fault.clone())));
    rows
}

/// An entry of the quarantine for people.
fn described(entry: &Entry) -> String {
    let Entry { reason, commit_lsn, count, .. } = entry;
    let whose = match (&entry.user, &entry.table) {
        (Some((user_type, id)), _) => format!("{user_type}:{id}"),
        (None, table) => table.clone().unwrap_or_default(),
    };
    let times = if *count == 1 { String::new() } else { format!(", {count} times") };
    format!("{whose}: {reason} (at {commit_lsn}{times})")
}

/// A time as people say it.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_its_two_largest_units() {
        let said = [59, 60, 3_660, 90_000].map(|seconds| span(Duration::from_secs(seconds)));
        assert_eq!(said, ["59 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    }
}
