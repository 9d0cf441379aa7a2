//! The configuration: parsed whole, every mistake reported at once, then typed.

mod audit;
mod durability;
mod duration;
mod http;
pub mod keys;
mod mistake;
pub mod postgres;
mod read;
mod read_tables;
pub mod redis;
pub mod secret;
mod section;
mod shard;
mod show;
pub mod size;
pub mod tables;
mod token;

pub use audit::{Audit, ForeignWrites};
pub use durability::Durability;
pub use http::{Http, Tls};
pub use keys::KeyMapSpec;
pub use mistake::ConfigErrors;
pub use postgres::{Endpoint, Postgres, TlsMode};
pub use redis::Redis;
pub use secret::Secret;
pub use shard::Shard;
pub use tables::{TableKind, TableSpec, UserType};

use std::time::Duration;

/// Everything Lockstep can be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The database and the slot.
    pub postgres: Postgres,
    /// The Redis server or cluster.
    pub redis: Redis,
    /// The HTTP listener.
    pub http: Http,
    /// Log output.
    pub log: Log,
    /// The followed tables.
    pub tables: Vec<TableSpec>,
    /// What an event does to which key.
    pub key_map: KeyMapSpec,
    /// The same, as it was written.
    pub key_map_toml: String,
    /// Bounds of the stream.
    pub stream: Stream,
    /// Bounds of the load.
    pub load: Load,
    /// What is done about keys that other programs wrote.
    pub audit: Audit,
    /// What is odd, but no mistake; logged once.
    pub warnings: Vec<String>,
}

impl Config {
    /// How long, and over how many bytes of WAL, the slot keeps what Redis holds already: at most half of what it may
    /// retain, or its position would be given up with nothing wrong.
    pub fn replay_margin(&self) -> (Duration, u64) {
        (self.redis.replay_margin, self.redis.replay_margin_bytes.min(self.held_wal_max()))
    }

    /// Over how many bytes of WAL, at most, the slot keeps what Redis holds already, whatever for.
    pub fn held_wal_max(&self) -> u64 {
        self.postgres.retained_wal_max / 2
    }
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// A `tracing` filter: `info`, `lockstep=debug`.
    pub level: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `[stream]`: bounds between the walsender and Redis.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Rows of one transaction that are joined into one event a user; a larger one is cut into windows.
    pub window_rows: usize,
    /// Bytes of rows that are held for one window.
    pub window_bytes: usize,
    /// Events in one flight to Redis.
    pub flight_events: usize,
    /// Longest time between two standby status updates.
    pub status_interval: Duration,
    /// Above this lag `/readyz` answers 503.
    pub ready_lag: Duration,
}

/// `[load]`: bounds of the first load and of every resync.
#[derive(Debug, Clone)]
pub struct Load {
    /// Connections that read chunks at the same time.
    pub workers: usize,
    /// Users in one chunk, read in one short transaction.
    pub chunk_rows: usize,
    /// Most users that all workers read in a second; 0: no limit.
    pub users_per_second: usize,
}
