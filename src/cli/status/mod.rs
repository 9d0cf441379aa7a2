//! `lockstep status`

use serde::Serialize;

use super::Exit;
use super::output::{bytes, say, table};
use crate::catalog::{Catalog, Slot};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::pipeline::quarantine::{self, Entry, State};
use crate::preflight;
use crate::sink::Records;
use crate::wire::sql;

/// Entries of the quarantine that are shown to people; --json has all of them.
const SHOWN_ENTRIES: usize = 20;

/// Show how far the stream is, from the database and Redis themselves; exit code 1 if something is wrong
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What there is to say; LSNs as `X/X`. What a side that cannot be asked would say is `null`.
#[derive(Debug, Serialize)]
struct Status {
    slot: String,
    state: Option<String>,
    active_pid: Option<i32>,
    restart_lsn: Option<String>,
    confirmed_flush_lsn: Option<String>,
    retained_wal_bytes: Option<u64>,
    lag_bytes: Option<u64>,
    wal_status: Option<String>,
    /// One for each master: address, and the position up to which it holds everything.
    checkpoints: Vec<(String, Option<String>)>,
    /// Whether a finished load is marked in Redis.
    loaded: Option<bool>,
    /// Resyncs that were asked for and are not done.
    resyncs: Option<usize>,
    /// What could not be applied as written and is not healed, oldest first.
    quarantine: Option<Vec<Entry>>,
    /// What is wrong, each with its cure; empty when nothing is.
    faults: Vec<String>,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<Exit> {
    let (catalog, records) = tokio::join!(catalog(config), records(config));
    let judged = catalog.as_ref().map_err(Error::clone);
    let judged = judged.and_then(|catalog| preflight::refuse_obstacles(&preflight::slot(catalog, config)));
    let faults: Vec<Error> = judged.err().into_iter().chain(records.as_ref().err().cloned()).collect();
    let status = status(&config.postgres.slot, catalog.ok(), records.ok().as_ref(), &faults);
    match args.json {
        true => say(serde_json::to_string_pretty(&status)
            .map_err(|e| Error::definite(format!("the status is no JSON ({e})"), "leave out --json"))?),
        false => print(status),
    }
    faults.into_iter().next().map_or(Ok(Exit::Done), Err)
}

async fn catalog(config: &Config) -> Result<Catalog> {
    let client = sql::connect(&config.postgres).await?;
    Catalog::read(&client, config).await
}

async fn records(config: &Config) -> Result<Records> {
    super::sink(config).await?.read_records().await
}

fn print(status: Status) {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let mut rows = vec![("slot", status.slot)];
    if let Some(state) = status.state {
        rows.push(("state", state));
        rows.push(("restart LSN", or_none(status.restart_lsn)));
        rows.push(("confirmed flush LSN", or_none(status.confirmed_flush_lsn)));
        rows.push(("retained WAL", or_none(status.retained_wal_bytes.map(bytes))));
        rows.push(("lag", or_none(status.lag_bytes.map(bytes))));
        rows.push(("WAL status", or_none(status.wal_status)));
    }
    if let Some(resyncs) = status.resyncs.filter(|resyncs| *resyncs > 0) {
        rows.push(("resyncs to be done", resyncs.to_string()));
    }
    if let Some(loaded) = status.loaded {
        rows.push(("loaded", if loaded { "yes" } else { "no" }.to_owned()));
    }
    for (node, checkpoint) in status.checkpoints {
        rows.push(("checkpoint", format!("{} in {node}", or_none(checkpoint))));
    }
    if let Some(open) = status.quarantine.filter(|open| !open.is_empty()) {
        rows.push(("quarantine", format!("{} open: see \"lockstep resync --quarantined\"", open.len())));
        rows.extend(open.iter().rev().take(SHOWN_ENTRIES).map(|entry| ("", described(entry))));
    }
    rows.extend(status.faults.into_iter().map(|fault| ("wrong", fault)));
    table(&rows);
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

fn status(name: &str, catalog: Option<Catalog>, records: Option<&Records>, faults: &[Error]) -> Status {
    let state = catalog.as_ref().map(|catalog| match &catalog.slot {
        None => "does not exist".to_owned(),
        Some(Slot { invalidation: Some(reason), .. }) => format!("invalidated ({reason})"),
        Some(Slot { holder: Some(holder), .. }) => format!("streams to pid {} ({})", holder.pid, holder.who),
        Some(_) => "nobody streams from it".to_owned(),
    });
    let slot = catalog.and_then(|catalog| catalog.slot);
    let slot = slot.as_ref();
    let positive = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    let nodes = records.into_iter().flat_map(|records| &records.nodes);
    Status {
        slot: name.to_owned(),
        state,
        active_pid: slot.and_then(|slot| slot.holder.as_ref()).map(|holder| holder.pid),
        restart_lsn: slot.and_then(|slot| slot.restart_lsn).map(|lsn| lsn.to_string()),
        confirmed_flush_lsn: slot.and_then(|slot| slot.confirmed_flush).map(|lsn| lsn.to_string()),
        retained_wal_bytes: slot.map(|slot| positive(slot.retained_bytes)),
        lag_bytes: slot.map(|slot| positive(slot.lag_bytes)),
        wal_status: slot.and_then(|slot| slot.wal_status.clone()),
        checkpoints: nodes
            .map(|node| (node.address.to_string(), node.checkpoint.as_ref().map(|c| c.applied.to_string())))
            .collect(),
        loaded: records.map(|records| records.loaded.is_some()),
        resyncs: records.map(|records| records.asked.iter().flat_map(|asked| asked.lines()).count()),
        quarantine: records.map(|records| {
            let entries = quarantine::entries(records.quarantine.as_deref().unwrap_or_default());
            entries.into_iter().filter(|entry| entry.state == State::Open).collect()
        }),
        faults: faults.iter().map(ToString::to_string).collect(),
    }
}
