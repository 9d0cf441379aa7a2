//! Taking the slot: what has to hold, and who else wants it.

use std::sync::Arc;
use std::time::Duration;

use super::start::ServerSide;
use super::{Load, Started, Supervisor, Turn, anew, published};
use crate::catalog::{Catalog, Holder, Slot, query_error};
use crate::error::{Error, Result};
use crate::lsn::{Lsn, Snapshot, Xid64};
use crate::pipeline::{Identity, Pipeline};
use crate::preflight::{self, Item};
use crate::sink::Records;
use crate::wire::{self, Tripwire, Walsender};

/// Longest time between `START_REPLICATION` and the first read: the walsender is not answered meanwhile, and gives
/// up after 6 s.
const COMPARE_TIMEOUT: Duration = Duration::from_secs(4);

/// How the slot was found.
enum Found {
    /// Free.
    Free,
    /// Another instance streams from it.
    Held(Holder),
    /// Gone, or dropped because it was of no more use.
    Gone,
}

impl Supervisor {
    /// Takes the slot and compares what it and Redis remember.
    pub(super) async fn start(&self, pipeline: &mut Pipeline, load: &mut Load) -> Result<Turn> {
        let postgres = &self.config.postgres;
        // Redis first: a walsender that is started while Redis is away would not be answered.
        let sink = pipeline.sink().await?;
        let records = sink.read_records().await?;
        preflight::refuse_obstacles(&preflight::durability(sink, &self.config).await?)?;
        preflight::refuse_obstacles(&[preflight::permissions(sink, &self.config).await?])?;
        let budget = Arc::clone(&self.budget);
        let _hand = budget.hand.lock().await;
        let client = wire::sql::connect(postgres).await?;
        match self.look(&client, &records).await? {
            Found::Free => {}
            Found::Held(holder) => return Ok(Turn::Theirs(holder)),
            Found::Gone => {
                // An ordinary connection that is kept for long holds up a smart shutdown.
                drop(client);
                let made = anew::make(postgres, pipeline.health()).await;
                pipeline.metrics().stream.slots_made.inc_by(made.is_ok().into());
                return made.map(|()| Turn::Again).map_err(|fault| self.bearable(fault));
            }
        }
        let mut walsender = Walsender::connect(postgres).await?;
        let system = walsender.identify_system().await?;
        let (system_id, timeline) = (system.system_id, system.timeline);
        let fork = walsender.fork(timeline).await.unwrap_or_else(|fault| {
            tracing::warn!(%fault, "events from before the promotion may be published again");
            None
        });
        let mut tripwire = Tripwire::connect(postgres).await?;
        let carried = published::read(&mut tripwire, &published::Question::new(&self.config)).await?;
        let started = walsender.start_replication(&postgres.slot, Lsn::ZERO, &postgres.publication).await;
        let stream = match started {
            Ok(stream) => stream,
            Err(fault) => return self.refused(&client, fault).await,
        };
        let compared = tokio::time::timeout(COMPARE_TIMEOUT, async {
            let (from, xid) = position(&client, &postgres.slot).await?;
            let server = ServerSide {
                system_id: system_id.clone(),
                timeline,
                fork,
                confirmed_flush: from,
                wal_end: system.xlog_pos.max(from),
                published: carried.mark.clone(),
            };
            self.go_on(pipeline, load, &server, &records.nodes).await?;
            Ok::<_, Error>((from, xid))
        });
        let late = |_| Error::transient("redis did not answer while the slot was compared with it", "");
        let (from, xid) = tokio::select! {
            fault = tripwire.tripped() => return Err(fault),
            compared = compared => compared.map_err(late)??,
        };
        let identity = Identity { slot: postgres.slot.clone(), system_id, timeline };
        Ok(Turn::Ours(Box::new(Started { stream, tripwire, identity, carried, from, xid })))
    }

    /// Looks at the slot and, unless another instance holds it, refuses if a precondition is an obstacle.
    async fn look(&self, client: &tokio_postgres::Client, records: &Records) -> Result<Found> {
        let config = &self.config;
        if let Some(holder) = holder(client, &config.postgres.slot).await? {
            return Ok(Found::Held(holder));
        }
        let catalog = Catalog::read(client, config).await?;
        // Never streamed from, it is "init" that makes the slot: the name may be mistyped.
        let is_ours_to_make = self.has_streamed || self.budget.is_owed() || is_known(records);
        let gone = match &catalog.slot {
            None => is_ours_to_make,
            Some(slot) if self.budget.is_spent(slot) => {
                self.budget.give_up(slot).await?;
                true
            }
            Some(slot) if is_ours_to_make && self.is_useless(slot, &catalog) => {
                self.refuse_obstacles(&preflight::beside_slot(&catalog, config))?;
                anew::remove(&config.postgres, slot).await?;
                true
            }
            Some(_) => false,
        };
        match gone {
            true => self.refuse_obstacles(&preflight::beside_slot(&catalog, config))?,
            false => self.refuse_obstacles(&preflight::database(&catalog, config))?,
        }
        Ok(if gone { Found::Gone } else { Found::Free })
    }

    /// Whether nothing can be streamed from the slot any more; not where it is somebody else's.
    fn is_useless(&self, slot: &Slot, catalog: &Catalog) -> bool {
        let ours =
            preflight::foreign_slot(slot, &self.config.postgres.slot, &catalog.server.database).is_none();
        let is_stuck =
            self.stuck.is_some_and(|told| slot.confirmed_flush.is_some_and(|stands| stands <= told));
        ours && (slot.lost_because().is_some() || is_stuck)
    }

    /// The first obstacle, as an error.
    fn refuse_obstacles(&self, items: &[Item]) -> Result<()> {
        preflight::refuse_obstacles(items).map_err(|fault| self.bearable(fault))
    }

    /// What stops a start is waited for once the slot has been streamed from in this instance's life: then somebody is
    /// changing the database, and readiness says what is to be mended.
    fn bearable(&self, fault: Error) -> Error {
        match fault {
            Error::Definite(fault) if self.has_streamed || self.has_stood_by => Error::Transient(fault),
            fault => fault,
        }
    }

    /// What a refused stream means: another instance was quicker, or the slot went meanwhile.
    async fn refused(&self, client: &tokio_postgres::Client, fault: Error) -> Result<Turn> {
        match Slot::read(client, &self.config.postgres.slot).await? {
            Some(Slot { holder: Some(holder), .. }) => Ok(Turn::Theirs(holder)),
            Some(slot) if slot.lost_because().is_none() => Err(self.bearable(fault)),
            _ => Err(Error::Transient(fault.fault().clone())),
        }
    }
}

/// Whether Redis remembers this slot.
fn is_known(records: &Records) -> bool {
    let streamed = records.nodes.iter().any(|node| node.checkpoint.is_some());
    streamed || records.loaded.is_some() || records.load.is_some()
}

/// Who streams from the slot.
async fn holder(client: &tokio_postgres::Client, slot: &str) -> Result<Option<Holder>> {
    Ok(Slot::read(client, slot).await?.and_then(|slot| slot.holder))
}

/// Where the stream of the slot begins, and a transaction id of now.
async fn position(client: &tokio_postgres::Client, slot: &str) -> Result<(Lsn, Xid64)> {
    let gone = || Error::transient(format!("slot {slot:?} is gone"), "run \"lockstep init\"");
    let confirmed = Slot::read(client, slot).await?.and_then(|slot| slot.confirmed_flush).ok_or_else(gone)?;
    let row = client.query_one("SELECT pg_current_snapshot()::text", &[]).await;
    let row = row.map_err(|error| query_error("reading a snapshot", &error))?;
    let snapshot = row.get::<_, String>(0).parse::<Snapshot>();
    let snapshot = snapshot.map_err(|error| Error::definite(error.to_string(), "report this as a bug"))?;
    Ok((confirmed, snapshot.xmax))
}
