//! The database's disk comes first: a slot that retains too much WAL is given up, whatever holds it up.
//!
//! It is dropped and made anew. (m) Advancing it would read all that is retained, with a snapshot held meanwhile, and
//! free only a part: of 2,074 MiB the first call left 1,014 MiB and the next ones freed nothing, because `restart_lsn`
//! follows what was confirmed when it was decoded. Where an old transaction holds it, nothing is freed at all.
//!
//! The mark of the resync that has to follow is the new slot itself: it stands past every checkpoint in Redis, which
//! each later start takes for a gap, also that of another instance.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::MissedTickBehavior;

use super::anew;
use crate::backoff::Outage;
use crate::catalog::{Catalog, Slot, query_error};
use crate::config::{self, Config, size};
use crate::error::{Error, Result};
use crate::health::{Health, StreamState};
use crate::metrics::{StreamMetrics, count_gauge};
use crate::preflight;
use crate::wire;

/// How often the slot is looked at while this instance does not stream.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Longest time that a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(20);

/// How much WAL the slot may retain, and what is done about it.
pub struct Budget {
    config: Arc<Config>,
    health: Arc<Health>,
    metrics: StreamMetrics,
    /// Held by who drops or makes the slot, or starts a stream from it: this process does one of it at a time.
    pub(super) hand: Mutex<()>,
    /// Whether a slot was given up and no new one is there yet.
    owed: AtomicBool,
}

impl Budget {
    /// As the configuration has it.
    pub fn new(config: Arc<Config>, health: Arc<Health>, metrics: StreamMetrics) -> Budget {
        count_gauge(&metrics.slot_retained_max_bytes, config.postgres.retained_wal_max);
        Budget { config, health, metrics, hand: Mutex::default(), owed: AtomicBool::new(false) }
    }

    /// Looks after the slot whenever this instance does not stream from it: while Redis is away nothing else does.
    ///
    /// # Errors
    /// None: what fails is tried again.
    pub async fn guard(self: Arc<Self>) -> Result<()> {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut outage = Outage::new(LOOK_INTERVAL, LOOK_INTERVAL, 0);
        loop {
            look.tick().await;
            // A session looks by itself, and who waits for another instance's slot has nothing to look after.
            if matches!(self.health.facts().stream, StreamState::Streaming | StreamState::Standby) {
                continue;
            }
            match self.look().await {
                Ok(()) => drop(outage.end()),
                Err(fault) if outage.is_news(&fault) => {
                    tracing::warn!(%fault, "no new slot in place of the one that was given up; trying again");
                }
                Err(_) => {}
            }
        }
    }

    /// Gives the slot up where nobody streams from it and it retains too much, and has a new one made.
    async fn look(&self) -> Result<()> {
        // Who has the slot in hand looks after it.
        let Ok(_hand) = self.hand.try_lock() else { return Ok(()) };
        // That a server does not answer is told by who waits for it.
        let Ok(Ok(seen)) = tokio::time::timeout(LOOK_TIMEOUT, self.see()).await else { return Ok(()) };
        match seen {
            Some(slot) if self.is_spent(&slot) => self.give_up(&slot).await?,
            None if self.is_owed() => {}
            _ => return Ok(()),
        }
        let client = wire::sql::connect(&self.config.postgres).await?;
        let catalog = Catalog::read(&client, &self.config).await?;
        drop(client);
        // A slot could never decode what was written before they held.
        preflight::refuse_obstacles(&preflight::beside_slot(&catalog, &self.config))?;
        anew::make(&self.config.postgres, &self.health).await?;
        self.metrics.slots_made.inc();
        self.owed.store(false, Ordering::Relaxed);
        // What there is to wait for now is told by who waits for it.
        self.health.tell(|facts| facts.stream = StreamState::Starting);
        Ok(())
    }

    /// The slot as it stands.
    async fn see(&self) -> Result<Option<Slot>> {
        let client = wire::sql::connect(&self.config.postgres).await?;
        let standby = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
        if standby.map_err(|error| query_error("asking what the server is", &error))?.get(0) {
            return Err(Error::transient("the server is a standby, which keeps its primary's slots", ""));
        }
        let seen = Slot::read(&client, &self.config.postgres.slot).await?;
        if let Some(slot) = &seen {
            // One that has a holder may be unfinished yet, and never be.
            if slot.holder.is_none() {
                self.owed.store(false, Ordering::Relaxed);
            }
            count_gauge(&self.metrics.slot_retained_bytes, u64::try_from(slot.retained_bytes).unwrap_or(0));
        }
        Ok(seen)
    }

    /// Whether the slot is one that nobody streams from and that retains more than it may.
    pub(super) fn is_spent(&self, slot: &Slot) -> bool {
        let config::Postgres { slot: name, database, retained_wal_max, .. } = &self.config.postgres;
        let retained = u64::try_from(slot.retained_bytes).unwrap_or(0);
        let is_ours = preflight::foreign_slot(slot, name, database).is_none();
        is_ours && slot.holder.is_none() && retained > *retained_wal_max
    }

    /// Whether the slot is gone because it was given up.
    pub(super) fn is_owed(&self) -> bool {
        self.owed.load(Ordering::Relaxed)
    }

    /// Drops the slot, for the sake of the disk.
    ///
    /// # Errors
    /// The server's; transient where somebody else was quicker.
    pub(super) async fn give_up(&self, slot: &Slot) -> Result<()> {
        anew::remove(&self.config.postgres, slot).await?;
        self.owed.store(true, Ordering::Relaxed);
        self.metrics.given_up.inc();
        self.metrics.slot_retained_bytes.set(0);
        self.health.tell(|facts| facts.given_up = true);
        tracing::error!(
            slot = self.config.postgres.slot,
            retained_bytes = slot.retained_bytes,
            limit = size::show(self.config.postgres.retained_wal_max),
            "the slot retained more WAL than postgres.retained_wal_max: its position is given up, and all users are \
             loaded again as soon as redis takes them"
        );
        Ok(())
    }
}
