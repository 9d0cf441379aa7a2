//! One Lockstep process: the program's own parts on a runtime whose clock the schedule moves.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lockstep::backoff::Outage;
use lockstep::balance::Mapping;
use lockstep::config::Config;
use lockstep::error::{Error, Result};
use lockstep::health::Health;
use lockstep::keyplan::KeyMap;
use lockstep::lsn::Lsn;
use lockstep::metrics::Metrics;
use lockstep::pipeline::asked::Questions;
use lockstep::pipeline::session::{Session, Signals};
use lockstep::pipeline::{Identity, Ledger, Parts, Pipeline};
use lockstep::resync::{Pace, Reader};
use lockstep::sink::node::Login;
use lockstep::sink::{self, Sink};
use lockstep::supervise::budget::Budget;
use lockstep::supervise::standby::keep_ready;
use lockstep::supervise::start::ServerSide;
use lockstep::supervise::{Load, NameLoad, StartLoad, Supervisor};
use lockstep::wire::Stream;
use tokio::io::DuplexStream;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::carrier::ToModel;
use crate::loader::{Loader, table};
use crate::world::Shared;

/// As `app` has them.
const ERRANDS: usize = 4;
const REPAIRS: usize = 10_000;
/// As `supervise` has them.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
const COMPARE_TIMEOUT: Duration = Duration::from_secs(4);
/// How often an instance that stands by looks.
const STANDBY: Duration = Duration::from_millis(200);
/// How often the leader asks what snapshots see.
const SNAPSHOT: Duration = Duration::from_millis(500);
/// The mark of the publication.
const PUBLISHED: &str = "5/6";

/// What every instance of a run is made of.
#[derive(Clone)]
pub struct Blueprint {
    pub config: Arc<Config>,
    pub key_map: Arc<KeyMap>,
    pub metrics: Metrics,
}

/// A process.
pub struct Instance {
    /// Before the runtime: its tasks go first.
    tasks: LocalSet,
    runtime: Runtime,
    /// Whether it is stopped, as by SIGSTOP.
    pub frozen: bool,
}

impl Instance {
    pub fn start(number: usize, world: &Shared, blueprint: &Blueprint) -> Instance {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let tasks = LocalSet::new();
        let process = Process {
            number,
            world: world.clone(),
            blueprint: blueprint.clone(),
            outage: Outage::new(RECONNECT.0, RECONNECT.1, number as u64),
        };
        let world = world.clone();
        tasks.spawn_local(async move {
            if let Err(fault) = process.run().await {
                let gave_up = || format!("instance {number} ended: {fault}");
                world.lock().checks.fail("a fault is no end", gave_up);
            }
        });
        Instance { tasks, runtime: runtime.unwrap(), frozen: false }
    }

    /// Lets it run for a while, though no time passes.
    pub fn run(&self, turns: usize) {
        self.block_on(async {
            for _ in 0..turns {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Time passes for it.
    pub fn advance(&self, time: Duration) {
        self.block_on(tokio::time::advance(time));
    }

    fn block_on(&self, until: impl Future<Output = ()>) {
        self.tasks.block_on(&self.runtime, until);
    }
}

struct Process {
    number: usize,
    world: Shared,
    blueprint: Blueprint,
    outage: Outage,
}

impl Process {
    /// As `app::run`.
    async fn run(mut self) -> Result<()> {
        let Blueprint { config, key_map, metrics } = self.blueprint.clone();
        let sink = self.connect().await?;
        let health = Arc::new(Health::default());
        let (errands, errand_inbox) = mpsc::channel(ERRANDS);
        let (repairs, repair_inbox) = mpsc::channel(REPAIRS);
        let reader = Reader {
            config: Arc::clone(&config),
            mapping: Mapping::new(&config.tables),
            key_map: Arc::clone(&key_map),
            errands,
            metrics: metrics.load.clone(),
            health: Arc::clone(&health),
            pace: Arc::new(Pace::new(0)),
        };
        let table = Arc::new(table(&reader));
        let loader = Loader { world: self.world.clone(), instance: self.number, reader, table };
        let (asked, questions) = watch::channel(Questions::default());
        let ledger = Ledger::new(&config.audit, Arc::clone(&key_map), metrics.audit.clone());
        let budget = Budget::new(Arc::clone(&config), Arc::clone(&health), metrics.stream.clone());
        let parts = Parts {
            sink,
            mapping: Mapping::new(&config.tables),
            key_map,
            limits: config.stream.clone(),
            margin: (config.redis.replay_margin, config.redis.replay_margin_bytes),
            held_wal_max: config.held_wal_max(),
            errands: errand_inbox,
            repairs,
            asked,
            ledger: Arc::new(ledger),
            metrics,
            health,
        };
        self.spawn(loader.clone().serve(questions));
        self.spawn(loader.clone().repair(repair_inbox));
        let (world, number) = (self.world.clone(), self.number);
        let start_load = Box::new(move |reached| {
            let load = loader.clone().load(reached);
            tokio::spawn(watched(world.clone(), number, load))
        });
        let (_stop, stopped) = watch::channel(false);
        let world = self.world.clone();
        let name_load = Box::new(move || world.lock().name_load());
        let loads = (name_load as NameLoad, start_load as StartLoad);
        let supervisor = Supervisor::new(config, false, Arc::new(budget), loads, stopped.clone());
        let (mut pipeline, mut load) = (Pipeline::new(parts), None);
        loop {
            match self.turn(&supervisor, &mut pipeline, &mut load, stopped.clone()).await {
                Err(fault) if fault.is_transient() => {
                    self.world.lock().say(|| format!("    instance {number}: {fault}"));
                    tokio::time::sleep(self.outage.next_delay()).await;
                }
                Err(fault) => return Err(fault),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn spawn(&self, part: impl Future<Output = Result<()>> + Send + 'static) {
        tokio::spawn(watched(self.world.clone(), self.number, part));
    }

    async fn connect(&mut self) -> Result<Sink> {
        let Blueprint { config, key_map, metrics } = &self.blueprint;
        let heads = key_map.patterns().map(|pattern| pattern.literal_head().to_owned().into());
        let options = sink::Options {
            derived_prefixes: heads.collect(),
            ..sink::Options::new(&config.postgres.slot, metrics.sink.clone())
        };
        loop {
            let carrier = ToModel { world: self.world.clone(), instance: self.number };
            let login = Login::over(Arc::new(carrier));
            match Sink::log_in(&config.redis, login, options.clone(), self.number as u64).await {
                Err(fault) if fault.is_transient() => tokio::time::sleep(self.outage.next_delay()).await,
                connected => return connected,
            }
        }
    }

    /// As `supervise::Supervisor::one_turn`.
    async fn turn(
        &mut self,
        supervisor: &Supervisor,
        pipeline: &mut Pipeline,
        load: &mut Load,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let before = pipeline.sink().await?.read_records().await?;
        let (wal_end, memory) = self.claim(pipeline).await?;
        let compared = tokio::time::timeout(COMPARE_TIMEOUT, async {
            self.world.sql(self.number, false).await?;
            let (from, xid) = {
                let postgres = &self.world.lock().postgres;
                (Lsn(postgres.confirmed), postgres.xid())
            };
            let wal_end = wal_end.max(from);
            let (system_id, published) = ("7".to_owned(), PUBLISHED.to_owned());
            let server =
                ServerSide { system_id, timeline: 1, confirmed_flush: from, wal_end, published, fork: None };
            supervisor.go_on(pipeline, load, &server, &before.nodes).await?;
            Ok::<_, Error>((from, xid))
        });
        let late = |_| Error::transient("redis did not answer while the slot was compared with it", "");
        let (from, xid) = compared.await.map_err(late)??;
        self.outage.end();
        let config = &self.blueprint.config;
        let stream = Stream::over(memory, &config.postgres);
        let slot = config.postgres.slot.clone();
        let identity = Identity { slot, system_id: "7".to_owned(), timeline: 1 };
        let signals = Signals {
            stop,
            server: Box::pin(tell_snapshots(self.world.clone(), Arc::clone(pipeline.health()))),
        };
        Session::new(pipeline, stream, identity, from, xid).run(signals).await
    }
}

impl Process {
    /// Takes the slot, as soon as nobody else has it: what IDENTIFY_SYSTEM said of the end of WAL, and the stream.
    async fn claim(&self, pipeline: &mut Pipeline) -> Result<(Lsn, DuplexStream)> {
        loop {
            self.world.sql(self.number, false).await?;
            if self.is_held() {
                tokio::select! {
                    fault = keep_ready(pipeline) => return Err(fault),
                    free = self.wait_for_slot() => free?,
                }
            }
            self.world.sql(self.number, false).await?;
            let wal_end = Lsn(self.world.lock().postgres.wal);
            self.world.sql(self.number, false).await?;
            if let Some(memory) = self.world.lock().postgres.start_replication(self.number) {
                return Ok((wal_end, memory));
            }
        }
    }

    /// As `standby::wait_for_slot`.
    async fn wait_for_slot(&self) -> Result<()> {
        while self.is_held() {
            tokio::time::sleep(STANDBY).await;
            self.world.sql(self.number, false).await?;
        }
        Ok(())
    }

    fn is_held(&self) -> bool {
        self.world.lock().postgres.walsender.is_some()
    }
}

/// As `supervise::server`: each is told when the next one is due, for answers take time.
async fn tell_snapshots(world: Shared, health: Arc<Health>) -> Error {
    loop {
        let snapshot = world.lock().snapshot_told();
        tokio::time::sleep(SNAPSHOT).await;
        health.progress().tell_snapshot(snapshot);
    }
}

/// A part whose fault would end the program.
async fn watched(world: Shared, number: usize, part: impl Future<Output = Result<()>>) {
    if let Err(fault) = part.await
        && !fault.is_transient()
        && fault.fault().fact != "the pipeline stopped"
    {
        let gave_up = || format!("instance {number} ended: {fault}");
        world.lock().checks.fail("a fault is no end", gave_up);
    }
}
