//! Builds every part once, runs them together, and stops them in order. It only wires.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::audit;
use crate::backoff::Outage;
use crate::balance::Mapping;
use crate::config::{self, Config, Shard};
use crate::error::{Error, Result};
use crate::health::Health;
use crate::http;
use crate::inspect::Inspector;
use crate::keyplan::KeyMap;
use crate::metrics::Metrics;
use crate::notify::Notifier;
use crate::pipeline::asked::Questions;
use crate::pipeline::{Ledger, Parts, Pipeline};
use crate::resync::{self, Reader};
use crate::sink::{self, Sink, SinkState};
use crate::supervise::budget::Budget;
use crate::supervise::{NameLoad, StartLoad, Supervisor};
use crate::wire;

/// Chunks that wait in the channel; each holds about `load.chunk_rows` users.
const ERRANDS: usize = 4;
/// Users in doubt that wait to be read again.
const REPAIRS: usize = 10_000;
/// Faults of the parts beside the stream; the first one ends the program.
const FAULTS: usize = 4;

/// First delay before Redis is tried again.
const CONNECT_FIRST: Duration = Duration::from_millis(100);
/// Longest delay before Redis is tried again.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// How to run.
#[derive(Debug, Clone, Copy)]
pub struct RunOptions {
    /// `--no-snapshot` turns it off: Redis is trusted to match the slot's position.
    pub snapshot: bool,
}

/// Runs until SIGTERM, SIGINT or a definite fault.
///
/// The stream and the connections that it is applied over are this thread's alone: from one thread to another is as far
/// as from the database to here. Everything else has `threads` beside it.
pub async fn run(config: Config, key_map: KeyMap, options: RunOptions, threads: &Handle) -> Result<()> {
    let config = Arc::new(config);
    let metrics = Metrics::new()?;
    let health = Arc::new(Health::default());
    let stop = stop_signal()?;
    let mut stop_of_start = stop.clone();
    let (faults, mut fault_inbox) = mpsc::channel(FAULTS);
    let beside = Beside { threads: threads.clone(), faults };

    let at = config.http.clone();
    let listener = beside.ready(async move { http::listen(&at).await }).await?;
    let facts = http::Facts::new(&config, &health, &metrics);
    beside.start(http::serve(listener, facts.clone()));
    let (told, ready_lag) = (Arc::clone(&health), config.stream.ready_lag);
    beside.start(Notifier::serve(Notifier::from_environment(), told, ready_lag, stop.clone()));

    // Before Redis is reached: that may take long, and the slot retains WAL meanwhile.
    let budget = Arc::new(Budget::new(Arc::clone(&config), Arc::clone(&health), metrics.stream.clone()));
    beside.start(Arc::clone(&budget).guard());

    let key_map = Arc::new(key_map);
    let sink = tokio::select! {
        sink = health.pulse().while_waiting(connect_sink(&config, sink_options(&config, &key_map, &metrics), &health)) => sink?,
        _ = stop_of_start.wait_for(|stop| *stop) => return Ok(()),
    };
    beside.start(tell_redis_state(sink.state(), Arc::clone(&health)));

    let (errands, errand_inbox) = mpsc::channel(ERRANDS);
    let (repairs, repair_inbox) = mpsc::channel(REPAIRS);
    let reader = Reader {
        config: Arc::clone(&config),
        mapping: Mapping::new(&config.tables),
        key_map: Arc::clone(&key_map),
        errands,
        metrics: metrics.load.clone(),
        health: Arc::clone(&health),
        pace: Arc::new(resync::Pace::new(config.load.users_per_second)),
    };
    facts.inspect_by(Inspector::new(reader.clone(), sink.way()));
    let (asked, questions) = watch::channel(Questions::default());
    beside.start(resync::asked::serve(reader.clone(), questions));
    beside.start(resync::repair::repair(reader.clone(), repair_inbox));

    let ledger = Arc::new(Ledger::new(&config.audit, Arc::clone(&key_map), metrics.audit.clone()));
    let auditor = audit::Auditor::new(reader.clone(), Arc::clone(&ledger), metrics.audit.clone());
    beside.start(auditor.run(sink.way()));

    let pipeline = Pipeline::new(Parts {
        sink,
        mapping: Mapping::new(&config.tables),
        key_map,
        limits: config.stream.clone(),
        margin: config.replay_margin(),
        held_wal_max: config.held_wal_max(),
        errands: errand_inbox,
        repairs,
        asked,
        ledger,
        metrics,
        health,
    });
    let start_load = Box::new(move |reached| beside.start(resync::load::load(reader.clone(), reached)));
    let loads = (Box::new(sink::nonce) as NameLoad, start_load as StartLoad);
    let supervisor = Supervisor::new(config, !options.snapshot, budget, loads, stop);
    tokio::select! {
        ended = supervisor.run(pipeline) => ended,
        Some(fault) = fault_inbox.recv() => Err(fault),
    }
}

fn sink_options(config: &Config, key_map: &Arc<KeyMap>, metrics: &Metrics) -> sink::Options {
    let heads = key_map.patterns().map(|pattern| pattern.literal_head().to_owned().into());
    sink::Options {
        derived_prefixes: heads.collect(),
        derived_of: (config.postgres.shard != Shard::WHOLE).then(|| Arc::clone(key_map)),
        ..sink::Options::new(&config.postgres.slot, metrics.sink.clone())
    }
}

/// Connects as often as it takes; a definite fault is one a person must mend. Where Redis is away, the database's
/// refusal is told at once: who mends the one should know of the other.
async fn connect_sink(config: &Config, options: sink::Options, health: &Health) -> Result<Sink> {
    let mut outage = Outage::new(CONNECT_FIRST, CONNECT_LIMIT, u64::from(std::process::id()));
    let mut login_checked = false;
    loop {
        let fault = match Sink::connect(&config.redis, options.clone()).await {
            Err(fault) if fault.is_transient() => fault,
            connected => {
                if outage.end() {
                    tracing::info!("redis is reached");
                }
                return connected;
            }
        };
        if outage.is_news(&fault) {
            tracing::warn!(%fault, "redis cannot be reached; trying again");
        }
        health.tell(|facts| facts.redis_fault = Some(fault.to_string()));
        let pause = tokio::time::sleep(outage.next_delay());
        match std::mem::replace(&mut login_checked, true) {
            true => pause.await,
            false => tokio::join!(pause, login_holds(&config.postgres)).1?,
        }
    }
}

/// Whether the database lets this role in, as far as that can be said now.
async fn login_holds(postgres: &config::Postgres) -> Result<()> {
    match wire::sql::connect(postgres).await {
        Err(refusal) if !refusal.is_transient() => Err(refusal),
        _ => Ok(()),
    }
}

/// Tells readiness what the sink says of Redis; the sink itself logs a fault, once.
async fn tell_redis_state(mut state: watch::Receiver<SinkState>, health: Arc<Health>) -> Result<()> {
    loop {
        let fault = match &*state.borrow_and_update() {
            SinkState::Connected { .. } => None,
            SinkState::Retrying { fault } => Some(fault.to_string()),
        };
        health.progress().tell_away(fault.is_some());
        health.tell(|facts| facts.redis_fault = fault);
        if state.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Where the parts beside the stream run.
struct Beside {
    threads: Handle,
    faults: mpsc::Sender<Error>,
}

impl Beside {
    /// What is to be there before anything else, and is attended to there: connections come in at any rate.
    async fn ready<T: Send + 'static>(
        &self,
        part: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let ready = self.threads.spawn(part).await;
        ready.map_err(|e| Error::definite(format!("a part ended: {e}"), "report this as a bug"))?
    }

    /// Starts a part, whose fault ends the program.
    fn start(&self, part: impl Future<Output = Result<()>> + Send + 'static) -> JoinHandle<()> {
        let faults = self.faults.clone();
        self.threads.spawn(async move {
            if let Err(fault) = part.await {
                // A full channel holds an earlier fault, which ends the program as well.
                let _ = faults.try_send(fault);
            }
        })
    }
}

/// Turns true at the first SIGTERM or SIGINT.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    let listen = |kind| {
        signal(kind).map_err(|error| Error::definite(format!("signals cannot be received: {error}"), ""))
    };
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: what was received is brought into redis first");
        stop.send_replace(true);
    });
    Ok(stopped)
}
