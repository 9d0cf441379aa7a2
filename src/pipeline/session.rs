//! The data loop over one replication stream: socket, decoder, assembler, mapping, key plan, flight,
//! checkpoint, and back to the socket as a standby status update.

mod drain;
mod fresh;
mod report;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::lane::{Cargo, Landed};
use super::lease::Lease;
use super::queue::{Departure, Queue};
use super::unseen::Unseen;
use super::{Identity, Pipeline, asked};
use crate::balance::Output;
use crate::checkpoint::{Checkpoint, Landmark, Landmarks, Margin, Proof, Tracker};
use crate::error::{Error, Result};
use crate::lsn::{Lsn, Position, Xid64};
use crate::pgoutput::Message;
use crate::sink::{Sink, SinkState};
use crate::txn::{Assembler, CommitInfo, Transaction, Window};
use crate::wire::{Frame, Stream};

/// Shortest time between two checkpoints; a crash replays this much and the margin, which the fences skip.
const CHECKPOINT_INTERVAL: Duration = Duration::from_millis(200);

/// Longest time between two checkpoints: by writing one over the last, an idle stream learns whether Redis still
/// holds what it held.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

/// Frames that are taken before Redis is looked after again: less than a millisecond of work.
const TURN_FRAMES: usize = 128;

/// Shortest time between two questions where the WAL ends.
const ASK_INTERVAL: Duration = Duration::from_millis(20);

/// How often lag and state are reported.
const REPORT_INTERVAL: Duration = Duration::from_millis(250);

/// What ends a session from outside.
pub struct Signals {
    /// Turns true when the program is to stop.
    pub stop: watch::Receiver<bool>,
    /// Ends when the server shuts down or is gone.
    pub server: Pin<Box<dyn Future<Output = Error>>>,
}

/// One stream, from `START_REPLICATION` to its end.
pub struct Session<'p> {
    pipeline: &'p mut Pipeline,
    stream: Stream,
    assembler: Assembler,
    tracker: Tracker,
    landmarks: Landmarks,
    /// What the stream has to bring; `None`: nobody knows.
    proof: Option<Proof>,
    margin: Margin,
    /// When the session began: what the margin counts from.
    began: Instant,
    queue: Queue,
    /// End of WAL as the server last said; what lag in bytes is measured against.
    server_end: Lsn,
    /// When the last checkpoint left; `None`: the next is due at once.
    checkpointed: Option<Instant>,
    /// Whether the last one that every node took is not kept as it is to be, so that there is no haste with the next.
    unkept: bool,
    /// The last window that is wholly in Redis once the flight that is out has landed.
    out_completes: Option<u64>,
    identity: Identity,
    /// When the server was last heard, or was not listened to.
    heard: Instant,
    /// The Redis connections whose memory was compared before this session.
    generation: u64,
    /// What the next lease will say.
    lease: Lease,
    /// The position that was told to those who wait.
    told: Lsn,
}

impl<'p> Session<'p> {
    /// A session over a stream that starts at `from`; `xid` is any recent transaction id of the server.
    pub fn new(
        pipeline: &'p mut Pipeline,
        stream: Stream,
        identity: Identity,
        from: Lsn,
        xid: Xid64,
    ) -> Session<'p> {
        // The server sends again what the last session had beyond `from`, and positions of another history
        // may be lower: only what this session applies may stand in the fence of a row that was read.
        pipeline.present = Position::default();
        pipeline.acknowledged = from;
        // Nor does what snapshots of that one saw say anything.
        pipeline.health.progress().take_snapshot();
        pipeline.unseen = Unseen::default();
        pipeline.lane.sink().into_iter().for_each(Sink::begin_term);
        let counted = pipeline.known.counted();
        let limits = &pipeline.limits;
        let window = Window { rows: limits.window_rows, bytes: limits.window_bytes };
        Session {
            assembler: Assembler::new(window, xid, &asked::prefix(&identity.slot)),
            tracker: Tracker::new(from),
            landmarks: Landmarks::new(counted.map(|counted| counted.landmark)),
            proof: counted.map(|counted| Proof::new(counted, from)),
            margin: Margin::new(from, pipeline.margin.0, pipeline.margin.1, pipeline.held_wal_max),
            began: Instant::now(),
            queue: Queue::default(),
            server_end: from,
            checkpointed: Some(Instant::now()),
            unkept: false,
            out_completes: None,
            identity,
            heard: Instant::now(),
            generation: pipeline.compared,
            lease: Lease::default(),
            told: Lsn::ZERO,
            stream,
            pipeline,
        }
    }

    /// Runs until a stop is asked for, PostgreSQL shuts down, or a fault.
    ///
    /// Whatever ends it, the connection is closed: a held stream would hold up the server's shutdown.
    pub async fn run(mut self, mut signals: Signals) -> Result<()> {
        let mut report = tokio::time::interval(REPORT_INTERVAL);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut status = tokio::time::interval(self.pipeline.limits.status_interval);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ask = tokio::time::interval(ASK_INTERVAL);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let health = Arc::clone(&self.pipeline.health);
        loop {
            self.tell_applied();
            self.note_snapshot();
            self.take_buffered()?;
            self.launch();
            self.tell_applied();
            // The connections to Redis are this thread's too: what was launched is written now.
            tokio::task::yield_now().await;
            let reading = self.has_room();
            let waits_for_wal = self.waits_for_wal();
            tokio::select! {
                biased;
                Ok(_) = signals.stop.wait_for(|stop| *stop) => break,
                fault = &mut signals.server => return Err(fault),
                landed = self.pipeline.lane.landed() => {
                    self.land(landed?).await;
                    self.refuse_uncompared()?;
                }
                // Before the stream, which may always have something: these are rare and bounded.
                _ = status.tick() => self.tell_status(reading)?,
                // An idle server says where its WAL ends only when it is asked.
                _ = ask.tick(), if waits_for_wal => self.queue_status(true),
                _ = report.tick() => self.report()?,
                Some(errand) = self.pipeline.errands.recv() => self.pipeline.take_errand(errand),
                () = health.progress().called() => {}
                frame = serve(&mut self.stream, reading) => if let Some(frame) = frame? {
                    self.heard = Instant::now();
                    self.take(frame)?;
                },
            }
        }
        self.drain(signals.server).await
    }

    /// Reading stops when enough waits: the server keeps the rest.
    fn has_room(&self) -> bool {
        self.queue.events() < self.pipeline.limits.flight_events
    }

    fn take_buffered(&mut self) -> Result<()> {
        for _ in 0..TURN_FRAMES {
            if !self.has_room() {
                break;
            }
            let Some(frame) = self.stream.buffered()? else { break };
            self.take(frame)?;
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<()> {
        match frame {
            Frame::XLogData { wal_end, payload, .. } => {
                self.server_end = self.server_end.max(wal_end);
                self.pipeline.metrics.stream.received_bytes.inc_by(payload.len() as u64);
                let message = Message::decode(payload)?;
                if let Some(window) = self.assembler.push(message)? {
                    self.take_window(&window)?;
                }
            }
            Frame::Keepalive { wal_end, reply_requested } => {
                self.server_end = self.server_end.max(wal_end);
                let is_idle = self.assembler.is_idle();
                if is_idle && self.proof.is_some_and(|proof| !proof.passes(wal_end)) {
                    return Err(self.pipeline.known.contradict());
                }
                self.tracker.keepalive(wal_end, is_idle);
                if reply_requested {
                    self.queue_status(false);
                }
            }
            Frame::CopyDone => return Err(Error::transient("postgresql ended the replication stream", "")),
        }
        Ok(())
    }

    fn take_window(&mut self, window: &Transaction) -> Result<()> {
        let landmark = landmark(&window.commit);
        if self.proof.as_mut().is_some_and(|proof| !proof.meets(landmark)) {
            return Err(self.pipeline.known.contradict());
        }
        window.end_lsn.into_iter().for_each(|end| self.landmarks.received(end, landmark));
        let sequence = self.tracker.received(window.end_lsn);
        self.pipeline.health.note_commit(window.commit.time.0);
        // What every node holds already is there, and was asked before: it may be done. Fences would skip it too, but
        // that of a deleted user goes after a day, and a stop may be longer.
        let is_new = window.commit.commit_lsn >= self.pipeline.known.held();
        for output in self.pipeline.mapping.events(window) {
            // One that only completes transactions leaves the row to who reads it.
            if let Output::Event(event) = &output
                && event.kind.changes_row()
            {
                self.pipeline.unseen.changed(window.commit.xid, &event.user);
            }
            match output {
                Output::Event(event) if !is_new => {
                    if event.lacks_values() {
                        self.pipeline.read_what_was_not_sent(&event.user);
                    }
                    self.pipeline.ledger.changed_before(event.user, window.commit.commit_lsn);
                }
                // Planned here, while the flight before is out.
                Output::Event(event) => {
                    self.queue.push_event(self.pipeline.key_map.plan(&event), event.commit.time);
                }
                Output::Truncated(truncated) => self.queue.push_truncate(truncated),
                Output::Refused(refused) => self.pipeline.note_refused(refused),
            }
        }
        for message in window.messages.iter().filter(|_| is_new) {
            if let Some(record) = self.pipeline.asked.take(message, window.commit.commit_lsn) {
                self.queue.push_asked(record);
            }
        }
        self.queue.end_window(sequence);
        if window.end_lsn.is_some() {
            self.pipeline.unseen.received(window.commit.commit_lsn, window.commit.xid);
            self.pipeline.metrics.stream.transactions.inc();
        }
        Ok(())
    }

    /// Sends the next flight when the lane is idle: an errand whose time has come, or what waits in the queue.
    fn launch(&mut self) {
        while self.pipeline.lane.is_idle() {
            let applied = self.tracker.applied_lsn();
            let checkpoint = self.due_checkpoint();
            let departure = match self.pipeline.errand_due(applied) {
                Some(cargo) => Some(Departure { cargo, completes: None }),
                None => self.queue.depart(self.pipeline.limits.flight_events),
            };
            match departure {
                // A checkpoint that may leave now may have to wait again once the windows are passed.
                Some(Departure { cargo, completes })
                    if !cargo.is_empty() || (checkpoint.is_some() && self.pipeline.quarantine.is_dirty()) =>
                {
                    self.out_completes = completes;
                    self.depart(cargo, checkpoint);
                }
                // Windows that brought nothing are in Redis as they are.
                Some(Departure { completes, .. }) => self.tracker.applied(completes.unwrap_or(0)),
                None if checkpoint.is_some() => self.depart(Cargo::none(), checkpoint),
                None => return,
            }
        }
    }

    /// A checkpoint that Redis does not take is tried again after the interval, not at once.
    fn depart(&mut self, cargo: Cargo, checkpoint: Option<Checkpoint>) {
        let is_mark = matches!(cargo, Cargo::Mark(_));
        let checkpoint = checkpoint.filter(|_| is_mark || cargo.takes_checkpoint());
        let checkpoint = checkpoint.or_else(|| is_mark.then(|| self.checkpoint()));
        if checkpoint.is_some() {
            self.checkpointed = Some(Instant::now());
        }
        let fresh = checkpoint.as_ref().and_then(|_| self.freshness(&cargo));
        self.pipeline.depart(cargo, checkpoint, fresh);
    }

    /// A checkpoint at what is applied, when the last one is old enough.
    fn due_checkpoint(&mut self) -> Option<Checkpoint> {
        let checkpoint = self.checkpoint();
        if self.pipeline.quarantine.holds_back(checkpoint.applied) {
            return None;
        }
        let applied = self.tracker.applied_lsn();
        let is_new = applied > self.tracker.stored_lsn() && !self.unkept;
        let interval = if is_new { CHECKPOINT_INTERVAL } else { HEARTBEAT_INTERVAL };
        let due = self.checkpointed.is_none_or(|at| at.elapsed() >= interval) || self.lease.is_due();
        due.then_some(checkpoint)
    }

    /// Never behind what every node held before the session: that is sent again, and still there.
    fn checkpoint(&mut self) -> Checkpoint {
        let (applied, held) = (self.tracker.applied_lsn(), self.pipeline.known.held());
        let landmark = self.landmarks.applied(applied);
        // One from the middle of what is sent again is not the last before what is held.
        let landmark = landmark.filter(|_| applied >= held || self.pipeline.known.counted().is_some());
        let unwatched = self.pipeline.ledger.unwatched_since(std::time::Instant::now());
        self.identity.checkpoint(applied.max(held), landmark, unwatched)
    }

    async fn land(&mut self, landed: Landed) {
        if let Some(sequence) = self.out_completes.take() {
            self.tracker.applied(sequence);
        }
        if let Some(checkpoint) = &landed.stored {
            self.pipeline.note_stored(checkpoint);
            self.unkept = landed.unkept.is_some();
            self.pipeline.note_kept(landed.unkept.as_ref());
            if landed.is_kept() {
                self.tracker.stored(checkpoint.applied);
                self.margin.stored(self.tracker.stored_lsn(), self.began.elapsed());
                self.queue_status(false);
            }
        }
        self.pipeline.pass(&landed);
        self.lease.note(&landed.committed);
        if landed.is_doubtful() || landed.quarantine.is_some() {
            // No checkpoint may leave before it is recorded, and the first one may as soon as it is.
            self.pipeline.note_landed(landed);
            if !self.must_compare() {
                self.launch();
            }
            return self.pipeline.note_applied(self.tracker.applied_lsn());
        }
        // Redis works on the next flight while this one is counted.
        if !self.must_compare() {
            self.launch();
            tokio::task::yield_now().await;
        }
        self.pipeline.note_landed(landed);
        self.pipeline.note_applied(self.tracker.applied_lsn());
    }

    fn refuse_uncompared(&self) -> Result<()> {
        match self.must_compare() {
            true => {
                Err(Error::transient("a redis node may have lost what it held: its records are compared", ""))
            }
            false => Ok(()),
        }
    }

    /// Whether what Redis holds was last compared over other connections, or before it lost something.
    fn must_compare(&self) -> bool {
        let now = &*self.pipeline.redis.borrow();
        matches!(now, SinkState::Connected { generation } if *generation != self.generation)
    }
}

fn landmark(commit: &CommitInfo) -> Landmark {
    // The lower half is what the server calls it.
    let xid = u32::try_from(commit.xid.0 & u64::from(u32::MAX)).unwrap_or_default();
    Landmark { commit_lsn: commit.commit_lsn, xid, time: commit.time.0 }
}

/// Reads the next frame, or only sends status updates while enough waits. Cancel-safe.
async fn serve(stream: &mut Stream, reading: bool) -> Result<Option<Frame>> {
    if reading {
        return stream.next().await.map(Some);
    }
    if stream.has_unsent() {
        stream.flush().await?;
    }
    std::future::pending().await
}
