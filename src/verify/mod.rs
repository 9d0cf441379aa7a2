//! The whole database against the whole Redis, for those who only look: nothing is written, no slot is opened.
//!
//! | file | what it does |
//! |---|---|
//! | `page` | a page of users as the plans that their keys should follow; the continuous audit reads by it too |
//! | `walk` | every user of every table, by several readers |
//! | `known` | who was found in the database, in little memory |
//! | `orphans` | every key in Redis: whose user is gone |
//! | `confirm` | whoever differs, looked at again until it is certain |
//! | `passed` | waits for the stream to pass a position, as the checkpoints in Redis tell |
//! | `report` | what was found |
//!
//! A difference alone says nothing: the stream may be on its way, or ahead of what a snapshot sees. It is certain where
//! the row stayed the same from before the keys were read, with the stream past that reading, until after it, while
//! no transaction that Redis already holds was still invisible; and that twice in a row.

mod confirm;
mod orphans;
pub mod page;
mod passed;
pub mod report;
mod walk;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::balance::User;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::keyplan::{KeyMap, Timed};
use crate::metrics::SinkMetrics;
use crate::resync::table::Table;
use crate::resync::{Pace, load};
use crate::sink::{Options, Sink, told_where_to_look};
use confirm::Confirmer;
use page::Planner;
use report::{Report, Tally};

/// Readers of the database and of Redis at the same time.
const READERS: usize = 4;
/// Users who differ and wait to be looked at again; whoever finds more waits.
const MAX_SUSPECTS: usize = 4_096;
/// Attempts before a fault ends the verification, and first and longest delay between them: a failover passes.
const ATTEMPTS: u32 = 8;
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// What is verified, and how fast.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Tables of users, `schema.name`; empty: all.
    pub tables: Vec<String>,
    /// Users read from the database in a second; 0: as fast as it goes.
    pub users_per_second: usize,
    /// Whether examples hold values.
    pub shows_values: bool,
}

/// What everybody who looks works with.
#[derive(Clone)]
struct Parts {
    config: Arc<Config>,
    key_map: Arc<KeyMap>,
    timed: Arc<Timed>,
    metrics: SinkMetrics,
    /// Every followed table of users.
    tables: Arc<[Table]>,
    scope: Arc<Scope>,
    pace: Arc<Pace>,
    tally: Arc<Mutex<Tally>>,
    suspects: mpsc::Sender<Suspect>,
}

/// Whoever has to be looked at again.
#[derive(Debug, Clone)]
struct Suspect {
    user: User,
    /// Keys that were found beside those that the key map names.
    keys: Vec<bytes::Bytes>,
}

/// Compares the database and Redis.
pub struct Verifier {
    config: Arc<Config>,
    key_map: Arc<KeyMap>,
    metrics: SinkMetrics,
}

impl Verifier {
    /// One that has not looked yet.
    pub fn new(config: Arc<Config>, key_map: Arc<KeyMap>, metrics: SinkMetrics) -> Verifier {
        Verifier { config, key_map, metrics }
    }

    /// Whether all users were loaded once: before that, some are absent.
    ///
    /// # Errors
    /// As [`verify`](Verifier::verify).
    pub async fn is_loaded(&self) -> Result<bool> {
        let mut patience = Patience::new(READERS + 2);
        loop {
            let records = async { connect(&self.config, &self.metrics).await?.read_records().await };
            match records.await {
                Ok(records) => return Ok(records.loaded.is_some()),
                Err(fault) => patience.after(told_where_to_look(fault)).await?,
            }
        }
    }

    /// Compares every user of the scope, and finds keys of users who are not in the database.
    ///
    /// # Errors
    /// A side that cannot be asked, for longer than a failover takes.
    pub async fn verify(&self, scope: Scope) -> Result<Report> {
        let (parts, inbox) = self.parts(scope).await?;
        let begun = Instant::now();
        let mut looks = JoinSet::new();
        looks.spawn(Confirmer::new(parts.clone()).run(inbox));
        let looker = parts.clone();
        looks.spawn(async move {
            let known = walk::all(&looker).await?;
            orphans::look(looker, &known).await
        });
        finished(parts, looks, begun).await
    }

    /// Compares these users alone.
    ///
    /// # Errors
    /// As [`verify`](Verifier::verify).
    pub async fn verify_users(&self, users: Vec<User>) -> Result<Report> {
        let (parts, inbox) = self.parts(Scope::default()).await?;
        let begun = Instant::now();
        let mut looks = JoinSet::new();
        looks.spawn(Confirmer::new(parts.clone()).run(inbox));
        parts.tally().users = users.len() as u64;
        let names = parts.clone();
        looks.spawn(async move {
            for user in users {
                names.suspect(user, Vec::new()).await;
            }
            Ok(())
        });
        finished(parts, looks, begun).await
    }

    async fn parts(&self, scope: Scope) -> Result<(Parts, mpsc::Receiver<Suspect>)> {
        let tables = load::describe(&self.config).await?.into_iter().map(|(_, table)| table).collect();
        let (suspects, inbox) = mpsc::channel(MAX_SUSPECTS);
        let parts = Parts {
            config: Arc::clone(&self.config),
            timed: Arc::new(self.key_map.timed()),
            key_map: Arc::clone(&self.key_map),
            metrics: self.metrics.clone(),
            tables,
            pace: Arc::new(Pace::new(scope.users_per_second)),
            tally: Arc::new(Mutex::new(Tally::new(scope.shows_values))),
            scope: Arc::new(scope),
            suspects,
        };
        Ok((parts, inbox))
    }
}

impl Parts {
    /// A way into Redis of one's own.
    async fn sink(&self) -> Result<Sink> {
        connect(&self.config, &self.metrics).await.map_err(told_where_to_look)
    }

    fn planner(&self) -> Planner {
        Planner::new(&self.config, Arc::clone(&self.key_map))
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.tally)
    }

    /// Whether a table is to be verified.
    fn wants(&self, table: &Table) -> bool {
        self.scope.tables.is_empty() || self.scope.tables.contains(&table.spec.to_string())
    }

    /// Has somebody looked at again.
    async fn suspect(&self, user: User, keys: Vec<bytes::Bytes>) {
        if self.suspects.send(Suspect { user, keys }).await.is_err() {
            // The second looks have ended with a fault, which is about to end everything.
            std::future::pending().await
        }
    }
}

async fn connect(config: &Config, metrics: &SinkMetrics) -> Result<Sink> {
    Sink::connect(&config.redis, Options::new(&config.postgres.slot, metrics.clone())).await
}

/// Waits for all who look; the first fault ends it.
async fn finished(parts: Parts, mut looks: JoinSet<Result<()>>, begun: Instant) -> Result<Report> {
    let tally = Arc::clone(&parts.tally);
    // The second looks end with the last who may name somebody.
    drop(parts);
    while let Some(ended) = looks.join_next().await {
        ended.map_err(|_| died())??;
    }
    let tally = std::mem::take(&mut *lock(&tally));
    Ok(tally.report(begun.elapsed()))
}

/// Waits between attempts of what only reads, until it has failed too often.
struct Patience {
    backoff: Backoff,
}

impl Patience {
    /// Those who fail together try again apart: each has a number of its own.
    fn new(number: usize) -> Patience {
        Patience { backoff: Backoff::new(RETRY.0, RETRY.1, number as u64) }
    }

    /// Returns when it is time for another attempt.
    ///
    /// # Errors
    /// The fault itself, where it is definite or was one too many.
    async fn after(&mut self, fault: Error) -> Result<()> {
        if !fault.is_transient() || self.backoff.attempts() + 1 >= ATTEMPTS {
            return Err(fault);
        }
        if self.backoff.attempts() == 0 {
            tracing::warn!(%fault, "cannot look at the moment; trying again");
        }
        tokio::time::sleep(self.backoff.next_delay()).await;
        Ok(())
    }

    /// An attempt succeeded.
    fn end(&mut self) {
        self.backoff.reset();
    }
}

fn died() -> Error {
    Error::definite("a reader died", "report this as a bug")
}

/// A panic while it was locked leaves counts that are counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
