//! Everything outside the instances, under one lock.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use lockstep::error::Error;
use lockstep::lsn::{Snapshot, Xid64};
use tokio::sync::oneshot;

use crate::invariants::{Checks, text};
use crate::model::postgres::Postgres;
use crate::model::redis::{Executed, Redis};
use crate::mutants::Mutant;

/// A statement that waits for its answer.
pub struct Gate {
    pub instance: usize,
    /// Whether it reads the table, and so waits for whoever has locked it.
    pub reads_table: bool,
    open: oneshot::Sender<()>,
}

/// The servers, and what is known of them.
pub struct World {
    pub postgres: Postgres,
    pub redis: Redis,
    pub gates: Vec<Gate>,
    pub checks: Checks,
    pub mutant: Option<Mutant>,
    /// What happened, where somebody wants to read it.
    pub trace: Option<Vec<String>>,
    /// Loads that were begun, by whomever.
    pub loads: u64,
}

/// The world, as instances and the schedule share it.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>);

impl Shared {
    pub fn new(world: World) -> Shared {
        Shared(Arc::new(Mutex::new(world)))
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A statement of an instance: returns once the schedule has it answered.
    pub async fn sql(&self, instance: usize, reads_table: bool) -> Result<(), Error> {
        let (open, opened) = oneshot::channel();
        self.lock().gates.push(Gate { instance, reads_table, open });
        opened.await.map_err(|_| Error::transient("postgres ended the connection", ""))
    }
}

impl World {
    /// As long as the program's own names.
    pub fn name_load(&mut self) -> String {
        self.loads += 1;
        format!("{:016x}", self.loads)
    }

    pub fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(what());
        }
    }

    /// A client sees what Redis has written.
    pub fn deliver(&mut self, conn: u64, replies: usize) {
        let Some((instance, heard)) = self.redis.deliver(conn, replies) else { return };
        // One that waits is not the one who has to delete it.
        if instance == self.postgres.leader {
            self.checks.heard(&heard, &self.postgres.commits);
        }
    }

    /// Gates that may open.
    pub fn openable(&self) -> Vec<usize> {
        let locked = self.postgres.table_is_locked();
        (0..self.gates.len()).filter(|at| !(locked && self.gates[*at].reads_table)).collect()
    }

    pub fn open(&mut self, gate: usize) {
        if gate < self.gates.len() {
            // Whoever asked may be gone.
            let _ = self.gates.remove(gate).open.send(());
        }
    }

    /// What an instance asked and nobody waits for.
    pub fn forget_gates(&mut self, instance: Option<usize>) {
        self.gates.retain(|gate| instance.is_some_and(|instance| gate.instance != instance));
    }

    /// The server executes a command, and what that did is checked.
    pub fn execute(&mut self, conn: u64) {
        let executed = self.redis.execute_next(conn);
        self.note(executed);
    }

    pub fn note(&mut self, executed: Executed) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("    {}", executed.what));
            let space = &self.redis.nodes[executed.node].space;
            let tell = |key: &Bytes| format!("        {} = {}", text(key), space.show(key));
            trace.extend(executed.touched.iter().map(tell));
        }
        self.checks.executed(&executed, &self.redis, &self.postgres);
    }

    /// What the leader is told that snapshots see.
    pub fn snapshot_told(&self) -> Snapshot {
        let last = Xid64(u64::MAX);
        match self.mutant {
            Some(Mutant::UnseenForgotten) => Snapshot { xmin: last, xmax: last, running: Vec::new() },
            _ => self.postgres.snapshot(),
        }
    }

    /// Bytes between the walsender and its client, both ways.
    pub fn pump(&mut self) {
        let Some(walsender) = &mut self.postgres.walsender else { return };
        let heard = walsender.pump();
        for status in heard.statuses {
            let flushed = match self.mutant {
                Some(Mutant::AckOnReceive) => status.received,
                _ => status.flushed,
            };
            self.say(|| format!("    postgres hears {flushed:X}"));
            self.checks.acknowledged(flushed, &self.postgres);
            if let Some(postgres) = (flushed > self.postgres.confirmed).then_some(&mut self.postgres) {
                postgres.confirmed = flushed;
            }
        }
        if heard.over {
            self.postgres.walsender = None;
        }
        self.checks.received(&self.postgres);
    }
}
