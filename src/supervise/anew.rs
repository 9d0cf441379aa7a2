//! A slot that was dropped or is of no more use, made anew. What happened since is not in its stream, so that the users
//! are loaded afterwards: the slot first, or changes between the two would be lost.

use std::time::Duration;

use crate::catalog::{self, Slot, query_error};
use crate::config::Postgres;
use crate::error::{Error, Result};
use crate::health::{Health, StreamState};
use crate::wire::{self, Lease, Walsender};

/// How often it is looked at which transactions the new slot waits for.
const BLOCKERS_INTERVAL: Duration = Duration::from_secs(2);

/// Makes the slot.
///
/// Waits for every older transaction, as long as it takes or until the WAL that is retained for it meanwhile is too
/// much: on a walsender, which holds no snapshot and ends at once with the server.
///
/// # Errors
/// The server's; transient where another instance was quicker, or where it is given up for the disk's sake.
pub async fn make(postgres: &Postgres, health: &Health) -> Result<()> {
    let name = &postgres.slot;
    tracing::warn!(slot = name, "the slot is made anew: changes since the last one reach redis by a load");
    let mut walsender = Walsender::connect(postgres).await?;
    let rows = walsender.query("SELECT pg_backend_pid()").await?;
    let pid = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok()).unwrap_or(0);
    let making = walsender.create_slot(name);
    tokio::pin!(making);
    let mut lease = Lease::new(postgres);
    let mut told = Vec::new();
    let made = loop {
        tokio::select! {
            made = &mut making => break made,
            () = lease.while_waiting(tokio::time::sleep(BLOCKERS_INTERVAL)) => {}
        }
        let client = lease.client().await?;
        if retains_too_much(client, postgres).await? {
            // Its client's going alone would leave it waiting.
            let end = client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await;
            end.map_err(|error| query_error("ending the making of the slot", &error))?;
            let fact = format!("the slot {name:?} that was being made retained too much WAL");
            return Err(Error::transient(fact, format!("end what it waited for: {}", told.join("; "))));
        }
        let blockers = catalog::blockers(client, pid).await?;
        if !blockers.is_empty() && blockers != told {
            let waits_for = blockers.join("; ");
            tracing::warn!(slot = name, waits_for, "the new slot waits for older transactions");
            health.tell(|facts| facts.stream = StreamState::MakingSlot { waits_for });
            told = blockers;
        }
    };
    let client = wire::sql::connect(postgres).await?;
    match made {
        Ok(_) => Ok(()),
        Err(_) if Slot::read(&client, name).await?.is_some() => {
            Err(Error::transient(format!("another instance made slot {name:?}"), ""))
        }
        Err(fault) => Err(fault),
    }
}

/// Whether what is retained for the unfinished slot is above `postgres.retained_wal_max`.
async fn retains_too_much(client: &tokio_postgres::Client, postgres: &Postgres) -> Result<bool> {
    let retained = Slot::read(client, &postgres.slot).await?.map_or(0, |slot| slot.retained_bytes);
    Ok(u64::try_from(retained).is_ok_and(|retained| retained > postgres.retained_wal_max))
}

/// Removes this slot and no newer one of its name.
///
/// # Errors
/// The server's; transient where there is no such slot any more.
pub async fn remove(postgres: &Postgres, slot: &Slot) -> Result<()> {
    const SQL: &str = "
        SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
        WHERE slot_name = $1 AND active_pid IS NULL AND NOT pg_is_in_recovery() AND confirmed_flush_lsn::text IS NOT DISTINCT FROM $2";
    let doing = format!("dropping the slot {:?}, which is of no more use", postgres.slot);
    let confirmed = slot.confirmed_flush.map(|lsn| lsn.to_string());
    let client = wire::sql::connect(postgres).await?;
    let dropped = client.execute(SQL, &[&postgres.slot, &confirmed]).await;
    match dropped.map_err(|error| query_error(&doing, &error))? {
        0 => Err(Error::transient(format!("slot {:?} was changed by somebody else", postgres.slot), "")),
        _ => Ok(()),
    }
}
