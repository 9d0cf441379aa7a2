//! What this instance knows of itself: the facts behind `/readyz` and `/healthz`, and how far Redis is.

pub mod progress;
pub mod pulse;
pub mod recent;

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use progress::Progress;
use pulse::Pulse;
use recent::Recent;

/// Why a position that was given up keeps this instance from being ready.
const GIVEN_UP: &str = "the slot retained more WAL than postgres.retained_wal_max, and its position was given up: all \
    users are loaded again as soon as redis takes them";

/// Shared by the parts that learn a fact and the endpoints that report it.
#[derive(Debug, Default)]
pub struct Health {
    facts: Mutex<Facts>,
    /// Commit time of the last transaction received, in microseconds as the server counts them; 0: none yet.
    last_commit: AtomicI64,
    progress: Progress,
    pulse: Pulse,
    recent: Recent,
}

/// The facts, each told by the part that knows it.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The replication stream.
    pub stream: StreamState,
    /// Whether Redis holds every user of this slot.
    pub loaded: bool,
    /// Why users cannot be read from the database at the moment.
    pub read_fault: Option<String>,
    /// Why Redis cannot be written at the moment.
    pub redis_fault: Option<String>,
    /// Why what Redis holds does not count as kept, though it takes what it is sent.
    pub unkept: Option<String>,
    /// Whether what Redis lost is being sent again.
    pub replaying: bool,
    /// Age of the oldest commit that Redis does not hold; zero when there is none.
    pub lag: Duration,
    /// Whether the slot's position was given up and the load that has to follow has not begun.
    pub given_up: bool,
    /// Followed columns or tables that the stream does not carry, as `table.column`.
    pub gaps: Vec<String>,
    /// Followed tables that the publication does not carry.
    pub unpublished: Vec<String>,
}

/// The replication stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum StreamState {
    /// Not yet asked for.
    #[default]
    Starting,
    /// Another instance holds the slot; this one waits for it.
    Standby,
    /// The slot is made anew.
    MakingSlot {
        /// The older transactions that must end first.
        waits_for: String,
    },
    /// Changes arrive.
    Streaming,
    /// The connection is gone; the fact says why.
    Reconnecting {
        /// Fact and cure.
        fault: String,
    },
}

impl Health {
    /// Changes one or more facts.
    pub fn tell(&self, change: impl FnOnce(&mut Facts)) {
        // A panic while a fact was written leaves it a fact.
        change(&mut self.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// Notes when the transaction at hand committed.
    pub fn note_commit(&self, micros: i64) {
        self.last_commit.store(micros, Ordering::Relaxed);
    }

    /// When the last transaction that was received committed; 0: none was.
    pub fn last_commit(&self) -> i64 {
        self.last_commit.load(Ordering::Relaxed)
    }

    /// How far Redis is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether the data loop turns.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// What happened last.
    pub fn recent(&self) -> &Recent {
        &self.recent
    }

    /// All facts as of now.
    pub fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

impl Facts {
    /// Whether this instance waits for another one's slot, and could go on with it.
    pub fn can_take_over(&self) -> bool {
        self.stream == StreamState::Standby && self.redis_fault.is_none()
    }

    /// Why this instance is not ready; empty when it is: streaming, loaded, complete, and the lag under `bound`.
    pub fn not_ready_because(&self, bound: Duration) -> Vec<String> {
        let mut reasons = Vec::new();
        match &self.stream {
            StreamState::Streaming => {}
            StreamState::Starting => reasons.push("the stream has not started".to_owned()),
            StreamState::Standby => reasons.push("another instance holds the slot".to_owned()),
            StreamState::MakingSlot { waits_for } => {
                reasons.push(format!("the new slot waits for {waits_for}: end what need not be open"));
            }
            StreamState::Reconnecting { fault } => reasons.push(fault.clone()),
        }
        if !self.loaded {
            reasons.push("users are still being loaded".to_owned());
        }
        reasons.extend(self.read_fault.as_ref().map(|fault| format!("users cannot be read: {fault}")));
        reasons.extend(self.redis_fault.clone());
        if self.given_up {
            reasons.push(GIVEN_UP.to_owned());
        }
        reasons.extend(self.unkept.clone());
        if self.replaying {
            reasons.push("what redis lost is still being sent again".to_owned());
        }
        if self.lag > bound {
            reasons.push(format!("redis is {:.1} s behind the database", self.lag.as_secs_f64()));
        }
        reasons.extend(self.not_carried());
        reasons
    }

    /// What is changed and never comes in the stream, as a reason each.
    pub fn not_carried(&self) -> impl Iterator<Item = String> {
        let unpublished =
            |table: &String| format!("the publication does not carry {table}: run \"lockstep init\"");
        let tables = self.unpublished.iter().map(unpublished);
        tables.chain(self.gaps.iter().map(|gap| format!("the stream does not carry {gap}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_streaming_and_loaded_and_under_the_bound() {
        let health = Health::default();
        let bound = Duration::from_secs(10);
        assert_eq!(health.facts().not_ready_because(bound).len(), 2);
        health.tell(|facts| {
            facts.stream = StreamState::Streaming;
            facts.loaded = true;
        });
        assert!(health.facts().not_ready_because(bound).is_empty());
        health.tell(|facts| facts.lag = Duration::from_secs(11));
        assert_eq!(health.facts().not_ready_because(bound), ["redis is 11.0 s behind the database"]);
    }
}
