//! Keeps a stream running: look at the server, take the slot, compare what both sides remember, run a session,
//! and again.

mod anew;
pub mod budget;
mod claim;
mod published;
mod remembered;
mod server;
#[doc(hidden)]
pub mod standby;
#[doc(hidden)]
pub mod start;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::backoff::Outage;
use crate::catalog::Holder;
use crate::checkpoint::Checkpoint;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::health::StreamState;
use crate::lsn::{Lsn, Xid64};
use crate::pipeline::session::{Session, Signals};
use crate::pipeline::{Identity, Outset, Pipeline};
use crate::resync::cursor::{self, Reached};
use crate::sink::{Fencing, Flight, LoadMark, NodeRecord};
use crate::wire::{self, Stream, Tripwire};
use budget::Budget;
use published::Carried;
use start::{LoadReason, ServerSide, Start};

/// First delay before a new connection.
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
/// Longest delay before a new connection.
const RECONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Starts a load; see [`crate::resync::load::load`].
pub type StartLoad = Box<dyn Fn(Reached) -> JoinHandle<()> + Send + Sync>;
/// Names a load as no other ever was, in this process or another.
pub type NameLoad = Box<dyn Fn() -> String + Send + Sync>;

/// What keeps the stream running.
pub struct Supervisor {
    /// The whole configuration: every precondition is looked at before a stream is started.
    config: Arc<Config>,
    /// `--no-snapshot`: Redis already matches the slot's position, at the first session; what it loses afterwards has
    /// to be loaded.
    trust_redis: bool,
    /// Whether a session has begun.
    has_streamed: bool,
    /// Whether it has waited for another instance's session.
    has_stood_by: bool,
    /// How much WAL the slot may retain.
    budget: Arc<Budget>,
    /// Where the slot stood, at most, when its stream failed for ever.
    stuck: Option<Lsn>,
    /// Starts a load behind what an earlier one has reached.
    start_load: StartLoad,
    name_load: NameLoad,
    /// Turns true when the program is to stop.
    stop: watch::Receiver<bool>,
}

/// Whose turn it is to stream.
enum Turn {
    /// Ours.
    Ours(Box<Started>),
    /// Another instance's.
    Theirs(Holder),
    /// To be seen: the slot was made anew.
    Again,
}

/// A stream that is ours, and what is needed to go on with it.
struct Started {
    stream: Stream,
    tripwire: Tripwire,
    identity: Identity,
    carried: Carried,
    from: Lsn,
    xid: Xid64,
}

/// The load that this process runs, if it does.
#[doc(hidden)]
pub type Load = Option<Loading>;

/// A load of this process.
#[doc(hidden)]
pub struct Loading {
    /// What its marks name it.
    name: String,
    task: JoinHandle<()>,
}

impl Supervisor {
    /// One that has not streamed yet.
    pub fn new(
        config: Arc<Config>,
        trust_redis: bool,
        budget: Arc<Budget>,
        (name_load, start_load): (NameLoad, StartLoad),
        stop: watch::Receiver<bool>,
    ) -> Supervisor {
        Supervisor {
            config,
            trust_redis,
            has_streamed: false,
            has_stood_by: false,
            budget,
            stuck: None,
            start_load,
            name_load,
            stop,
        }
    }

    /// Runs sessions until a stop is asked for or a fault is definite.
    pub async fn run(mut self, mut pipeline: Pipeline) -> Result<()> {
        let mut outage = Outage::new(RECONNECT_FIRST, RECONNECT_LIMIT, u64::from(std::process::id()));
        let mut load = None;
        let mut stop = self.stop.clone();
        let ended = loop {
            match self.one_turn(&mut pipeline, &mut load, &mut outage).await {
                Ok(ControlFlow::Break(())) => break Ok(()),
                Ok(ControlFlow::Continue(())) => continue,
                Err(fault) if fault.is_transient() => note_fault(&pipeline, &fault, &mut outage),
                Err(fault) => break Err(fault),
            }
            tokio::select! {
                () = stopped(&mut stop) => break Ok(()),
                () = pipeline.health().pulse().while_waiting(tokio::time::sleep(outage.next_delay())) => {}
            }
        };
        if let Some(load) = load {
            load.task.abort();
        }
        ended
    }

    /// Streams, or waits while another instance does; a break is a stop that was asked for.
    async fn one_turn(
        &mut self,
        pipeline: &mut Pipeline,
        load: &mut Load,
        outage: &mut Outage,
    ) -> Result<ControlFlow<()>> {
        let mut stop = self.stop.clone();
        let health = Arc::clone(pipeline.health());
        let turn = tokio::select! {
            () = stopped(&mut stop) => return Ok(ControlFlow::Break(())),
            turn = health.pulse().while_waiting(self.start(pipeline, load)) => turn?,
        };
        outage.end();
        match turn {
            Turn::Ours(started) => {
                self.has_streamed = true;
                let ended = self.session(pipeline, *started, stop).await;
                pipeline.metrics().stream.leader.set(0);
                pipeline.health().progress().tell_nowhere();
                pipeline.ledger().stand_down();
                match ended {
                    Err(fault) if wire::is_publication_unknown(&fault) => {
                        self.stuck = Some(pipeline.acknowledged());
                        Err(Error::Transient(fault.fault().clone()))
                    }
                    ended => ended.map(ControlFlow::Break),
                }
            }
            Turn::Again => Ok(ControlFlow::Continue(())),
            Turn::Theirs(Holder { pid, who }) => {
                self.has_stood_by = true;
                pipeline.health().tell(|facts| facts.stream = StreamState::Standby);
                pipeline.health().progress().tell_standby();
                pipeline.metrics().stream.forget_lag();
                tracing::info!(pid, who, "another instance holds the slot; this one waits for it");
                tokio::select! {
                    () = stopped(&mut stop) => Ok(ControlFlow::Break(())),
                    free = health.pulse().while_waiting(standby::wait_for_slot(&self.config.postgres)) => {
                        free.map(ControlFlow::Continue)
                    }
                    fault = standby::keep_ready(pipeline) => Err(fault),
                }
            }
        }
    }

    /// Streams until a stop is asked for or a fault.
    async fn session(
        &self,
        pipeline: &mut Pipeline,
        started: Started,
        stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let Started { stream, tripwire, identity, carried, from, xid } = started;
        pipeline.metrics().stream.leader.set(1);
        pipeline.health().tell(|facts| facts.stream = StreamState::Streaming);
        tracing::info!(%from, slot = identity.slot, "streaming");
        let server = server::Watch {
            tripwire,
            slot: identity.slot.clone(),
            retained_max: self.config.postgres.retained_wal_max,
            question: published::Question::new(&self.config),
            carried,
            metrics: pipeline.metrics().stream.clone(),
            health: Arc::clone(pipeline.health()),
            server_end: pipeline.server_end(),
        };
        let signals = Signals { stop, server: Box::pin(server.run()) };
        Session::new(pipeline, stream, identity, from, xid).run(signals).await
    }

    /// Decides whether Redis can be trusted, and starts a load where it cannot.
    ///
    /// `before`: what the nodes said before the server was asked.
    ///
    /// # Errors
    /// A Redis node that does not answer, or another instance that went on meanwhile.
    #[doc(hidden)]
    pub async fn go_on(
        &self,
        pipeline: &mut Pipeline,
        load: &mut Load,
        server: &ServerSide,
        before: &[NodeRecord],
    ) -> Result<()> {
        let sink = pipeline.sink().await?;
        let (ours, records) = (sink.epoch(), sink.read_records().await?);
        if start::is_overtaken(server, before, &records.nodes) {
            return Err(Error::transient("another instance went on while this one compared", ""));
        }
        pipeline.note_compared();
        pipeline.remember_asked(records.asked.as_deref(), records.resync.clone());
        pipeline.remember_quarantine(records.quarantine.as_deref(), server.wal_end);
        let redis = remembered::redis_side(pipeline, server, (&records, ours));
        let Start { epoch, fork, load: reason, outset } =
            start::decide(server, &redis, self.trust_redis && !self.has_streamed);
        let sink = pipeline.sink().await?;
        sink.begin_epoch(epoch);
        sink.set_fork(fork);
        pipeline.set_out(outset);
        if !remembered::is_continued(pipeline, server) {
            pipeline.forget_errands();
            // Whoever streamed knew of changes that nobody watched, and that are not sent again.
            if records.unwatched().is_some_and(|since| since < server.confirmed_flush) {
                pipeline.ledger().forgot();
            }
        }
        pipeline.note_loaded(reason.is_none());
        // From here on the load that follows is the reason not to be ready.
        pipeline.health().tell(|facts| facts.given_up = false);
        if let Some(reason) = reason {
            // A mark may have been written after what it counts was lost: it says nothing beside a lost checkpoint.
            let progress = records.load.filter(|_| redis.forgot_nothing());
            self.begin_load(pipeline, load, (reason, progress), server).await?;
        } else {
            // Another instance has finished it.
            abandon(load).await;
        }
        if !redis.forgot_nothing() || reason.is_some_and(|reason| reason != LoadReason::NeverLoaded) {
            self.first_checkpoint(pipeline, server, &outset).await?;
        }
        // Behind the checkpoint, which keeps the epoch too: the epoch alone would look like a history of which nobody tells
        // any more, and a start that was interrupted would let the next one publish again what it had published.
        pipeline.sink().await?.write_epoch(epoch).await?;
        // Behind the checkpoint: the mark alone would look like a node that forgot.
        if reason.is_none() && !redis.loaded {
            let record = cursor::record(&server.published);
            let sink = pipeline.sink().await?;
            if !sink.write_mark(LoadMark::Loaded, Some(&record)).await? {
                return Err(sink.uncompared());
            }
        }
        Ok(())
    }

    /// Has all users loaded, from the beginning unless an unfinished load can go on.
    async fn begin_load(
        &self,
        pipeline: &mut Pipeline,
        load: &mut Load,
        (reason, progress): (LoadReason, Option<String>),
        server: &ServerSide,
    ) -> Result<()> {
        let found = progress.filter(|_| reason == LoadReason::NeverLoaded);
        let found = found.map(|text| Reached::from_text(&text));
        let running = load
            .as_ref()
            .filter(|load| !load.task.is_finished() && remembered::is_continued(pipeline, server));
        // Redis that has no mark of the running load was emptied since that began; so was one that has another's, and an
        // instance that knew of none has begun its own.
        if running.zip(found.as_ref()).is_some_and(|(running, found)| running.name == found.load) {
            return Ok(());
        }
        abandon(load).await;
        pipeline.begin_load(reason.is_gap());
        let mut reached = found.unwrap_or_default();
        reached.published.clone_from(&server.published);
        if reached.load.is_empty() {
            reached.load = (self.name_load)();
        }
        let sink = pipeline.sink().await?;
        // In this order: stopped between the two, the next start begins again, and not behind an old mark.
        let marked = sink.write_mark(LoadMark::Progress, Some(&reached.to_text())).await?
            && sink.write_mark(LoadMark::Loaded, None).await?;
        if !marked {
            return Err(sink.uncompared());
        }
        tracing::info!(reason = reason.describe(), "loading all users");
        *load = Some(Loading { name: reached.load.clone(), task: (self.start_load)(reached) });
        Ok(())
    }

    /// Every node remembers where the stream began: without it, an idle database's next start would look like a node that
    /// forgot, and nobody would notice that one forgets what the stream brought before its first checkpoint.
    ///
    /// # Errors
    /// A node that was connected again meanwhile, or has none and no memory for one.
    async fn first_checkpoint(
        &self,
        pipeline: &mut Pipeline,
        server: &ServerSide,
        outset: &Outset,
    ) -> Result<()> {
        let checkpoint = Checkpoint {
            slot: self.config.postgres.slot.clone(),
            system_id: server.system_id.clone(),
            timeline: server.timeline,
            applied: outset.held,
            landmark: outset.counted.map(|counted| counted.landmark),
            unwatched: pipeline.ledger().unwatched_since(Instant::now()),
        };
        let sink = pipeline.sink().await?;
        let (plans, checkpoint) = (Vec::new(), Some(checkpoint));
        sink.apply(&Flight { plans, fencing: Fencing::Stream, checkpoint }).await?;
        match sink.is_compared() {
            true if sink.has_checkpoints() => Ok(()),
            true => Err(Error::transient(
                "redis is out of memory: it cannot keep where the stream begins",
                "raise maxmemory or let other keys expire",
            )),
            false => Err(Error::transient("a redis node was connected again while it was compared", "")),
        }
    }
}

/// Ends a load that is not wanted any more.
async fn abandon(load: &mut Load) {
    if let Some(load) = load.take() {
        load.task.abort();
        // Aborted or failed: either way it hands in nothing more.
        let _ = load.task.await;
    }
}

/// Waits for the stop; for ever when whoever could ask for it is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}

/// A fault is logged when it is new; the next attempts are only counted. "streaming" is the end of it.
fn note_fault(pipeline: &Pipeline, fault: &Error, outage: &mut Outage) {
    pipeline.metrics().stream.reconnects.inc();
    if outage.is_news(fault) {
        tracing::warn!(%fault, "the stream ended; connecting again");
    }
    pipeline.health().tell(|facts| facts.stream = StreamState::Reconnecting { fault: fault.to_string() });
}
