//! The one data loop, and the rule by which rows read from the database join the stream.
//!
//! A [`session`] moves frames from the socket through the pure rooms into the [`queue`], and flights from the
//! queue down the [`lane`] to Redis; [`crate::supervise`] starts one after the other.
//!
//! # Rows read beside the stream
//! A commit can be in WAL, and in the stream, before any snapshot sees it, so tagging a `SELECT` with a WAL
//! position loses updates. Instead a [`chunk`](chunks) carries its snapshot `S` and an insert position `C` read
//! after it, and waits until the stream has applied past `C`. By then every commit that `S` sees has been
//! applied, and has left its transaction id in the fences of its users. So a row may be written exactly
//! where there is no fence or `S` sees the fence's transaction: in both cases the row is what the stream
//! would have written last. Its new fence is the stream's present position: no replay moves it back.
//! A fence remembers the last transaction that changed the user's *row*: one that only inserted into
//! `user_transactions` takes no lock on the row and may be visible while an earlier change is not yet.

pub mod asked;
pub mod chunks;
mod clock;
mod errand;
pub mod lane;
mod lease;
mod patience;
pub mod queue;
pub mod session;
mod truncate;

pub use chunks::{Chunk, ChunkEnd};
pub use errand::{Errand, ErrandSender, Finished, Look, Mark};

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::{mpsc, watch};

use crate::balance::{Mapping, Refusal, Refused, User};
use crate::checkpoint::Checkpoint;
use crate::config;
use crate::error::{Error, Result};
use crate::health::Health;
use crate::keyplan::{KeyMap, KeyPlan};
use crate::lsn::{Lsn, Position};
use crate::metrics::Metrics;
use crate::pgoutput::PgTime;
use crate::sink::{Freshness, LoadMark, Outcome, Sink, SinkState};
use asked::{Asked, Questions};
use chunks::Chunks;
use lane::{Cargo, Landed, Lane};
use truncate::Tally;

/// Who writes: every checkpoint carries it.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the slot.
    pub slot: String,
    /// System identifier of the server.
    pub system_id: String,
    /// Its timeline.
    pub timeline: u32,
}

impl Identity {
    fn checkpoint(&self, applied: Lsn) -> Checkpoint {
        let Identity { slot, system_id, timeline } = self;
        Checkpoint { slot: slot.clone(), system_id: system_id.clone(), timeline: *timeline, applied }
    }
}

/// Tables and reasons that are remembered as logged.
const REFUSED_KINDS: usize = 64;

/// What outlives a single stream.
pub struct Pipeline {
    lane: Lane,
    mapping: Mapping,
    key_map: Arc<KeyMap>,
    limits: config::Stream,
    chunks: Chunks,
    errands: mpsc::Receiver<Errand>,
    /// Users to read again; bounded: what does not fit stays deleted, which is safe, and is counted.
    repairs: mpsc::Sender<User>,
    /// Errands that wait for nothing but the lane.
    waiting: VecDeque<Errand>,
    /// Resyncs that were asked for.
    asked: Asked,
    /// Position of the last row of this session that Redis holds.
    present: Position,
    /// What the last session told PostgreSQL to forget.
    acknowledged: Lsn,
    /// Whether the rows being loaded may hold changes that the stream never carried.
    in_gap: bool,
    /// Position of the last event of the stream that was counted.
    noted: Position,
    /// When the oldest event of the flight that is out committed.
    out_since: Option<PgTime>,
    /// End of the server's WAL, as far as anyone has heard.
    server_end: Arc<AtomicU64>,
    /// Tables and reasons of rows that touch no key, each logged once.
    refused: HashSet<(Arc<str>, Refusal)>,
    /// Whether Redis takes what it is sent.
    redis: watch::Receiver<SinkState>,
    /// The Redis connections whose memory was compared last.
    compared: u64,
    metrics: Metrics,
    health: Arc<Health>,
}

/// What a pipeline is made of.
pub struct Parts {
    /// The way to Redis.
    pub sink: Sink,
    /// What the rows mean.
    pub mapping: Mapping,
    /// What is to happen to the keys.
    pub key_map: Arc<KeyMap>,
    /// Bounds.
    pub limits: config::Stream,
    /// Errands of the rest of the program.
    pub errands: mpsc::Receiver<Errand>,
    /// Users to read again.
    pub repairs: mpsc::Sender<User>,
    /// Where resyncs that were asked for are told.
    pub asked: watch::Sender<Questions>,
    /// Counters.
    pub metrics: Metrics,
    /// Facts behind readiness.
    pub health: Arc<Health>,
}

impl Pipeline {
    /// A pipeline that has not seen a stream yet.
    pub fn new(parts: Parts) -> Pipeline {
        let Parts { sink, mapping, key_map, limits, errands, repairs, asked, metrics, health } = parts;
        Pipeline {
            redis: sink.state(),
            compared: 0,
            server_end: Arc::default(),
            refused: HashSet::new(),
            lane: Lane::Idle(Box::new(sink)),
            mapping,
            key_map,
            limits,
            chunks: Chunks::default(),
            waiting: VecDeque::new(),
            errands,
            repairs,
            asked: Asked::new(asked),
            present: Position::default(),
            acknowledged: Lsn::ZERO,
            in_gap: false,
            noted: Position::default(),
            out_since: None,
            metrics,
            health,
        }
    }

    fn take_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Chunk(chunk) => self.chunks.push(chunk),
            errand => self.waiting.push_back(errand),
        }
    }

    /// The errand whose time has come, when everything before `applied` is in Redis.
    fn errand_due(&mut self, applied: Lsn) -> Option<Cargo> {
        match self.waiting.pop_front() {
            Some(Errand::Mark(mark)) => return Some(Cargo::Mark(mark)),
            Some(Errand::Look(look)) => return Some(Cargo::Look(look)),
            Some(Errand::Finished(Finished { line, done })) => {
                let value = self.asked.finish(&line);
                return Some(Cargo::Mark(Mark { mark: LoadMark::Asked, value, done }));
            }
            Some(Errand::Chunk(_)) | None => {}
        }
        let chunk = self.chunks.ready(applied)?;
        let present = self.present.max(Position { commit_lsn: applied, ordinal: 0 });
        Some(Cargo::Rows { chunk, present, in_gap: self.in_gap })
    }

    fn depart(&mut self, cargo: Cargo, checkpoint: Option<Checkpoint>, fresh: Option<Freshness>) {
        match &cargo {
            Cargo::Events { committed, .. } => self.out_since = committed.first().copied(),
            Cargo::Truncate(truncated) => {
                self.chunks.truncated(truncated.user_type.clone(), truncated.commit.xid)
            }
            Cargo::Rows { .. } | Cargo::Mark(_) | Cargo::Look(_) | Cargo::Asked(_) => {}
        }
        self.lane.depart(cargo, (checkpoint, fresh), &self.key_map);
    }

    /// Goes on behind what Redis acknowledged.
    fn pass(&mut self, landed: &Landed) {
        if !landed.committed.is_empty() {
            let last = landed.plans.iter().map(|plan| plan.position).max();
            self.present = self.present.max(last.unwrap_or_default());
        }
        self.out_since = None;
    }

    /// Counts what Redis acknowledged, and has the users read again that were in doubt.
    fn note_landed(&mut self, landed: Landed) {
        for committed in &landed.committed {
            self.metrics.sink.apply_latency.observe(clock::since(*committed).as_secs_f64());
        }
        let from_stream = !landed.committed.is_empty();
        for (plan, outcome) in landed.plans.iter().zip(&landed.outcomes) {
            match from_stream {
                true => self.note_event(plan, outcome),
                false => self.note_row(plan, outcome),
            }
        }
        self.note_truncated(&landed.truncated);
        self.metrics.sink.unpublished.inc_by(landed.unpublished);
        if landed.loaded {
            self.note_loaded(true);
        }
        if landed.asked {
            self.asked.tell();
        }
        self.metrics.sink.lease_renewals.inc_by(landed.leased.into());
    }

    /// An event of the stream. One in doubt is counted once, however often it is sent again.
    fn note_event(&mut self, plan: &KeyPlan, outcome: &Outcome) {
        let sink = &self.metrics.sink;
        let sent_again = plan.position <= self.noted;
        self.noted = self.noted.max(plan.position);
        let mut doubt = plan.doubt.as_ref().map(ToString::to_string);
        match outcome {
            Outcome::Skipped => sink.skipped_by_fence.inc(),
            Outcome::Applied(applied) => {
                sink.retyped.inc_by(applied.retyped_keys.into());
                if let Some(event_type) = plan.event_type(applied.as_update) {
                    sink.events.with_label_values(&[event_type]).inc();
                }
            }
            Outcome::Refused { reason } => doubt = Some(reason.clone()),
        }
        let Some(reason) = doubt else { return };
        if !sent_again {
            sink.quarantined.inc();
            tracing::warn!(position = %plan.position, reason, "an event could not be applied as written");
        }
        // Also where the fence has it: whoever was to read the user again may not have come to it.
        self.repair(plan);
    }

    /// A row read from the database. What is in doubt even there stays deleted.
    fn note_row(&mut self, plan: &KeyPlan, outcome: &Outcome) {
        let sink = &self.metrics.sink;
        let doubt = match (outcome, &plan.doubt) {
            (Outcome::Refused { reason }, _) => reason.clone(),
            (_, Some(doubt)) => doubt.to_string(),
            (Outcome::Skipped, None) => {
                sink.skipped_by_fence.inc();
                // The snapshot did not see the user's last change yet: read once more.
                if plan.rereads {
                    self.repair(plan);
                }
                return;
            }
            (Outcome::Applied(applied), None) => {
                sink.retyped.inc_by(applied.retyped_keys.into());
                sink.healed.inc_by(plan.rereads.into());
                return;
            }
        };
        // A user that is read again was counted with the event that put it in doubt.
        sink.quarantined.inc_by((!plan.rereads).into());
        tracing::warn!(position = %plan.position, reason = doubt, "a user's row cannot be written: its keys stay deleted");
    }

    /// Users of a truncated table.
    fn note_truncated(&self, tally: &Tally) {
        let sink = &self.metrics.sink;
        sink.events.with_label_values(&["user_deleted"]).inc_by(tally.published);
        sink.skipped_by_fence.inc_by(tally.skipped);
        sink.retyped.inc_by(tally.retyped_keys);
        sink.quarantined.inc_by(tally.refused);
        if let Some(reason) = &tally.reason {
            tracing::warn!(users = tally.refused, reason, "users of a truncated table could not be told");
        }
    }

    fn repair(&self, plan: &KeyPlan) {
        if self.repairs.try_send(plan.user.clone()).is_err() {
            tracing::warn!(position = %plan.position, "too many users are in doubt: this one's keys stay deleted");
        }
    }

    /// A row whose user has no keys of its own.
    fn note_refused(&mut self, refused: Refused) {
        self.metrics.sink.quarantined.inc();
        let Refused { table, position, reason, .. } = refused;
        if self.refused.len() < REFUSED_KINDS && self.refused.insert((Arc::clone(&table), reason.clone())) {
            tracing::warn!(%table, %position, %reason, "a row touches no key; more of them are only counted");
        }
    }

    /// Tells whether Redis holds every user.
    pub fn note_loaded(&self, loaded: bool) {
        self.metrics.load.loaded.set(i64::from(loaded));
        self.health.tell(|facts| facts.loaded = loaded);
        self.health.progress().tell_loaded(loaded);
    }

    /// Goes on with what was asked before and is not done.
    pub fn remember_asked(&mut self, record: Option<&str>, progress: Option<String>) {
        self.asked.remember(record, progress);
    }

    /// A load begins: drops what one that was stopped has handed in. `in_gap`: its rows may hold changes that the
    /// stream never carried.
    pub fn begin_load(&mut self, in_gap: bool) {
        self.in_gap = in_gap;
        while self.errands.try_recv().is_ok() {}
        self.waiting.clear();
        self.chunks.forget();
    }

    /// The sink, once the flight that is out has landed: between sessions, and only there, it is at hand.
    pub async fn sink(&mut self) -> Result<&mut Sink> {
        if !self.lane.is_idle() {
            let landed = self.lane.landed().await?;
            self.note_landed(landed);
        }
        self.lane.sink().ok_or_else(|| Error::definite("the way to redis is lost", "report this as a bug"))
    }

    /// Remembers that what Redis holds was compared over the present connections.
    pub fn note_compared(&mut self) {
        if let Some(sink) = self.lane.sink() {
            self.compared = sink.compared();
        }
    }

    /// Tells which followed columns the stream does not carry.
    fn note_gaps(&self) {
        let gaps: Vec<String> = self.mapping.gaps().iter().map(ToString::to_string).collect();
        let known = self.health.facts().gaps;
        for gap in known.iter().filter(|gap| !gaps.contains(gap)) {
            self.metrics.stream.mapping_gaps.with_label_values(&[gap]).set(0);
        }
        for gap in gaps.iter().filter(|gap| !known.contains(gap)) {
            tracing::error!(
                column = gap,
                "the stream does not carry a followed column: put it back, or correct [[tables]]"
            );
            self.metrics.stream.mapping_gaps.with_label_values(&[gap]).set(1);
        }
        if known != gaps {
            self.health.tell(|facts| facts.gaps = gaps);
        }
    }

    /// Where the end of the server's WAL is told.
    pub fn server_end(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.server_end)
    }

    /// What the last session told PostgreSQL to forget: the slot stands there or before.
    pub fn acknowledged(&self) -> Lsn {
        self.acknowledged
    }

    /// The counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The facts behind readiness.
    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }
}
