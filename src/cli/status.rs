//! `lockstep status`

use serde::Serialize;

use super::Exit;
use super::output::{bytes, say, table};
use crate::catalog::{Catalog, Slot};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sink::Records;
use crate::wire::sql;

/// Show how far the stream is, from the database and Redis themselves
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What there is to say; LSNs as `X/X`.
#[derive(Debug, Serialize)]
struct Status {
    slot: String,
    state: String,
    active_pid: Option<i32>,
    restart_lsn: Option<String>,
    confirmed_flush_lsn: Option<String>,
    retained_wal_bytes: u64,
    lag_bytes: u64,
    wal_status: Option<String>,
    /// One for each master: address, and the position up to which it holds everything.
    checkpoints: Vec<(String, Option<String>)>,
    /// Whether a finished load is marked in Redis.
    loaded: bool,
}

pub(super) async fn run(config: &Config, args: Args) -> Result<Exit> {
    let client = sql::connect(&config.postgres).await?;
    let slot = Catalog::read(&client, config).await?.slot;
    let records = super::sink(config).await?.read_records().await?;
    let status = status(&config.postgres.slot, slot, &records);
    if args.json {
        let text = serde_json::to_string_pretty(&status)
            .map_err(|e| Error::definite(format!("the status is no JSON ({e})"), "leave out --json"))?;
        say(text);
        return Ok(Exit::Done);
    }
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "none".to_owned());
    let mut rows = vec![
        ("slot", status.slot),
        ("state", status.state),
        ("restart LSN", or_none(status.restart_lsn)),
        ("confirmed flush LSN", or_none(status.confirmed_flush_lsn)),
        ("retained WAL", bytes(status.retained_wal_bytes)),
        ("lag", bytes(status.lag_bytes)),
        ("WAL status", or_none(status.wal_status)),
        ("loaded", if status.loaded { "yes" } else { "no" }.to_owned()),
    ];
    for (node, checkpoint) in status.checkpoints {
        rows.push(("checkpoint", format!("{} in {node}", or_none(checkpoint))));
    }
    table(&rows);
    Ok(Exit::Done)
}

fn status(name: &str, slot: Option<Slot>, records: &Records) -> Status {
    let state = match &slot {
        None => "does not exist: run \"lockstep init\"".to_owned(),
        Some(Slot { invalidation: Some(reason), .. }) => format!("invalidated ({reason})"),
        Some(Slot { holder: Some(holder), .. }) => format!("streams to pid {} ({})", holder.pid, holder.who),
        Some(_) => "nobody streams from it".to_owned(),
    };
    let slot = slot.as_ref();
    let positive = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    Status {
        slot: name.to_owned(),
        state,
        active_pid: slot.and_then(|slot| slot.holder.as_ref()).map(|holder| holder.pid),
        restart_lsn: slot.and_then(|slot| slot.restart_lsn).map(|lsn| lsn.to_string()),
        confirmed_flush_lsn: slot.and_then(|slot| slot.confirmed_flush).map(|lsn| lsn.to_string()),
        retained_wal_bytes: slot.map_or(0, |slot| positive(slot.retained_bytes)),
        lag_bytes: slot.map_or(0, |slot| positive(slot.lag_bytes)),
        wal_status: slot.and_then(|slot| slot.wal_status.clone()),
        checkpoints: records
            .nodes
            .iter()
            .map(|node| (node.address.to_string(), node.checkpoint.as_ref().map(|c| c.applied.to_string())))
            .collect(),
        loaded: records.loaded.is_some(),
    }
}
