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
//!
//! Redis may have lost a fence, and nobody knows yet. So users of whom a commit is [known to be unseen](unseen) by `S` are
//! left out, whatever their fence says: a row's fence would stop that commit when the slot sends it again.

pub mod asked;
pub mod chunks;
mod clock;
mod compared;
mod errand;
mod heal;
pub mod lane;
mod lease;
pub mod ledger;
mod note;
mod patience;
pub mod quarantine;
pub mod queue;
mod recent;
pub mod session;
mod suspect;
mod tempo;
mod truncate;
pub mod unseen;
mod unwatched;

pub use chunks::{Chunk, ChunkEnd, Compares};
pub use errand::{Clear, Errand, ErrandSender, Finished, Look, Mark};
pub use heal::{Cure, Outset};
pub use ledger::{AT_EASE, Ledger};
pub use suspect::Suspect;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::balance::{Mapping, Refusal, User};
use crate::checkpoint::{Checkpoint, Landmark};
use crate::config;
use crate::error::{Error, Result};
use crate::health::Health;
use crate::keyplan::KeyMap;
use crate::lsn::{Lsn, Position};
use crate::metrics::Metrics;
use crate::pgoutput::PgTime;
use crate::sink::{Freshness, LoadMark, Sink, SinkState};
use asked::{Asked, Questions};
use chunks::Chunks;
use lane::{Cargo, Landed, Lane};
use quarantine::Quarantine;
use unseen::Unseen;

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
    fn checkpoint(&self, applied: Lsn, landmark: Option<Landmark>, unwatched: Option<Lsn>) -> Checkpoint {
        let Identity { slot, system_id, timeline } = self.clone();
        Checkpoint { slot, system_id, timeline, applied, landmark, unwatched }
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
    /// What snapshots may not see yet.
    unseen: Unseen,
    errands: mpsc::Receiver<Errand>,
    /// Users to read again; bounded: what does not fit stays deleted, which is safe, and is counted.
    repairs: mpsc::Sender<User>,
    /// Errands that wait for nothing but the lane.
    waiting: VecDeque<Errand>,
    /// Resyncs that were asked for.
    asked: Asked,
    /// What could not be applied as written.
    quarantine: Quarantine,
    /// What was written last, for those who look after other writers.
    ledger: Arc<Ledger>,
    /// Position of the last row of this session that Redis holds.
    present: Position,
    /// What the last session told PostgreSQL to forget.
    acknowledged: Lsn,
    /// How long, and over how many bytes, that stays behind what Redis holds.
    margin: (Duration, u64),
    held_wal_max: u64,
    /// Whether the rows being loaded may hold changes that the stream never carried.
    in_gap: bool,
    /// What Redis is known to have held.
    known: heal::Known,
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
    /// How long, and over how many bytes of WAL, the slot keeps what Redis holds already.
    pub margin: (Duration, u64),
    /// Bytes of WAL, at most, that the slot keeps of what Redis holds, whatever for.
    pub held_wal_max: u64,
    /// Errands of the rest of the program.
    pub errands: mpsc::Receiver<Errand>,
    /// Users to read again.
    pub repairs: mpsc::Sender<User>,
    /// Where resyncs that were asked for are told.
    pub asked: watch::Sender<Questions>,
    /// What was written last.
    pub ledger: Arc<Ledger>,
    /// Counters.
    pub metrics: Metrics,
    /// Facts behind readiness.
    pub health: Arc<Health>,
}

impl Pipeline {
    /// A pipeline that has not seen a stream yet.
    pub fn new(parts: Parts) -> Pipeline {
        let Parts {
            sink,
            mapping,
            key_map,
            limits,
            margin,
            held_wal_max,
            errands,
            repairs,
            asked,
            ledger,
            metrics,
            health,
        } = parts;
        Pipeline {
            quarantine: Quarantine::new(
                metrics.sink.quarantine_open.clone(),
                metrics.sink.quarantine_forgotten.clone(),
            ),
            redis: sink.state(),
            compared: 0,
            server_end: Arc::default(),
            refused: HashSet::new(),
            lane: Lane::Idle(Box::new(sink)),
            mapping,
            key_map,
            limits,
            chunks: Chunks::default(),
            unseen: Unseen::default(),
            waiting: VecDeque::new(),
            errands,
            repairs,
            asked: Asked::new(asked),
            ledger,
            present: Position::default(),
            acknowledged: Lsn::ZERO,
            margin,
            held_wal_max,
            in_gap: false,
            known: heal::Known::default(),
            out_since: None,
            metrics,
            health,
        }
    }

    fn take_errand(&mut self, errand: Errand) {
        match errand {
            Errand::Chunk(mut chunk) => {
                std::mem::take(&mut chunk.refused).into_iter().for_each(|refused| self.note_refused(refused));
                self.chunks.push(chunk);
            }
            // Whoever asked may be gone.
            Errand::Quarantined(done) => drop(done.send(self.quarantine.open())),
            Errand::Rereads(table) => self.quarantine.heal_rows(&table),
            errand => self.waiting.push_back(errand),
        }
    }

    /// The errand whose time has come, when everything before `applied` is in Redis.
    fn errand_due(&mut self, applied: Lsn) -> Option<Cargo> {
        if let Some((record, version)) = self.quarantine.due() {
            return Some(Cargo::Quarantine(record, version));
        }
        // A mark leaves behind a checkpoint, and says that something is done.
        let is_mark = |errand: &Errand| matches!(errand, Errand::Mark(_) | Errand::Finished(_));
        let held_back = self.quarantine.is_dirty() && self.waiting.front().is_some_and(is_mark);
        match if held_back { None } else { self.waiting.pop_front() } {
            Some(Errand::Mark(mark)) => return Some(Cargo::Mark(mark)),
            Some(Errand::Look(look)) => return Some(Cargo::Look(look)),
            Some(Errand::Finished(Finished { line, done })) => {
                let value = self.asked.finish(&line);
                return Some(Cargo::Mark(Mark { mark: LoadMark::Asked, value, done }));
            }
            Some(Errand::Clear(clear)) => return Some(Cargo::Clear(clear)),
            Some(Errand::Chunk(_) | Errand::Quarantined(_) | Errand::Rereads(_)) | None => {}
        }
        while let Some(chunk) = self.chunks.ready(applied) {
            let users = chunk.plans.iter().map(|plan| &plan.user);
            if let Some(hidden) = self.unseen.hidden(&chunk.snapshot, users) {
                let present = self.present.max(Position { commit_lsn: applied, ordinal: 0 });
                return Some(Cargo::Rows { chunk, hidden, present, in_gap: self.in_gap });
            }
            // The reader may be gone: then nobody waits for the answer.
            let _ = chunk.done.send(ChunkEnd::ReadAgain);
        }
        None
    }

    fn depart(&mut self, cargo: Cargo, checkpoint: Option<Checkpoint>, fresh: Option<Freshness>) {
        let mut first = None;
        match &cargo {
            Cargo::Events { plans, committed } => {
                first = plans.first().map(|plan| plan.position.commit_lsn);
                self.out_since = committed.first().copied();
                plans.last().into_iter().for_each(|plan| self.known.note_sent(plan.position));
            }
            Cargo::Truncate(truncated) => {
                // Whose derived keys that may make stale is found out behind it.
                first = Some(Lsn::ZERO);
                self.chunks.truncated(truncated.user_type.clone(), truncated.commit.xid)
            }
            Cargo::Rows { .. }
            | Cargo::Mark(_)
            | Cargo::Look(_)
            | Cargo::Asked(_)
            | Cargo::Quarantine(..)
            | Cargo::Clear(_) => {}
        }
        self.ledger.departs(first);
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

    /// Tells whether Redis holds every user.
    pub fn note_loaded(&self, loaded: bool) {
        self.metrics.load.loaded.set(i64::from(loaded));
        self.health.tell(|facts| facts.loaded = loaded);
        self.health.progress().tell_loaded(loaded);
    }

    /// Goes on with what is in quarantine.
    ///
    /// Users on a list that another instance has left are read once more: it may have died before it did.
    pub fn remember_quarantine(&mut self, record: Option<&str>, wal_end: Lsn) {
        if !self.quarantine.remember(record, wal_end) {
            return;
        }
        for (user_type, id) in self.quarantine.open().users {
            let user = User { user_type: user_type.into(), id: id.into(), numeric_id: false };
            // Where there is no room the user's keys stay deleted, and the entry open.
            let _ = self.repairs.try_send(user);
        }
    }

    /// Goes on with what was asked before and is not done.
    pub fn remember_asked(&mut self, record: Option<&str>, progress: Option<String>) {
        self.asked.remember(record, progress);
    }

    /// A load begins: drops what one that was stopped has handed in. `in_gap`: its rows may hold changes that the
    /// stream never carried.
    pub fn begin_load(&mut self, in_gap: bool) {
        self.in_gap = in_gap;
        self.forget_errands();
    }

    /// Drops what was handed in: whoever waits for it is told to begin again.
    pub fn forget_errands(&mut self) {
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

    /// What was written last.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
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
