//! What the database and Redis say themselves, whether an instance runs or not.

use serde::Serialize;

use crate::catalog::{Catalog, Slot};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::pipeline::quarantine::{self, Entry, State};
use crate::preflight;
use crate::sink::Records;
use crate::wire::sql;

/// What there is to say; LSNs as `X/X`. What a side that cannot be asked would say is `null`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Status {
    pub(super) slot: String,
    pub(super) state: Option<String>,
    pub(super) active_pid: Option<i32>,
    pub(super) restart_lsn: Option<String>,
    pub(super) confirmed_flush_lsn: Option<String>,
    pub(super) retained_wal_bytes: Option<u64>,
    pub(super) lag_bytes: Option<u64>,
    pub(super) wal_status: Option<String>,
    /// One for each master: address, and the position up to which it holds everything.
    pub(super) checkpoints: Vec<(String, Option<String>)>,
    /// Whether a finished load is marked in Redis.
    pub(super) loaded: Option<bool>,
    /// Resyncs that were asked for and are not done.
    pub(super) resyncs: Option<usize>,
    /// What could not be applied as written and is not healed, oldest first.
    pub(super) quarantine: Option<Vec<Entry>>,
    /// What is wrong, each with its cure; empty when nothing is.
    pub(super) faults: Vec<String>,
}

/// Asks both sides.
pub(super) async fn look(config: &Config) -> (Status, Vec<Error>) {
    let (catalog, records) = tokio::join!(catalog(config), records(config));
    let judged = catalog.as_ref().map_err(Error::clone);
    let judged = judged.and_then(|catalog| preflight::refuse_obstacles(&preflight::slot(catalog, config)));
    let faults: Vec<Error> = judged.err().into_iter().chain(records.as_ref().err().cloned()).collect();
    let status = status(&config.postgres.slot, catalog.ok(), records.ok().as_ref(), &faults);
    (status, faults)
}

async fn catalog(config: &Config) -> Result<Catalog> {
    let client = sql::connect(&config.postgres).await?;
    Catalog::read(&client, config).await
}

async fn records(config: &Config) -> Result<Records> {
    crate::cli::sink(config).await?.read_records().await
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
