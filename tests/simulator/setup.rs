//! What a seed is about: the servers, the bounds, and which faults may happen.

use std::sync::Arc;
use std::time::Duration;

use lockstep::config::{self, Config};
use lockstep::keyplan::KeyMap;
use lockstep::metrics::Metrics;

use crate::instance::Blueprint;
use crate::model::redis;
use crate::random::Random;

/// A fault, or something else that does not happen in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Crash,
    Freeze,
    Cut,
    FailOver,
    Flush,
    NodeDown,
    ErrorReply,
    OutOfMemory,
    PostgresRestart,
    WalsenderEnds,
    SlotAnew,
    OtherWriter,
    Truncate,
    NotANumber,
    Resync,
    /// An unchanged TOASTed value is not sent.
    Toast,
    /// Commits wait for a synchronous standby: in WAL and not visible for long.
    StandbyLags,
    /// Checkpoints move to other nodes with their slots, under names that nobody looks for: they are gone, and nothing else is.
    RecordsMove,
}

const FAULTS: [Fault; 17] = [
    Fault::Crash,
    Fault::Freeze,
    Fault::Cut,
    Fault::FailOver,
    Fault::Flush,
    Fault::NodeDown,
    Fault::ErrorReply,
    Fault::OutOfMemory,
    Fault::PostgresRestart,
    Fault::WalsenderEnds,
    Fault::SlotAnew,
    Fault::OtherWriter,
    Fault::Truncate,
    Fault::NotANumber,
    Fault::Resync,
    Fault::Toast,
    Fault::StandbyLags,
];

/// The setting of a run.
#[derive(Debug, Clone)]
pub struct Setup {
    pub nodes: usize,
    /// Whether old rows are sent whole.
    pub full: bool,
    pub pipe_bytes: usize,
    pub window_rows: usize,
    pub flight_events: usize,
    pub chunk_rows: usize,
    /// Users who are there before Lockstep comes.
    pub users: u32,
    /// How long the slot keeps what Redis holds, in ms.
    pub margin_ms: u64,
    pub faults: Vec<Fault>,
}

impl Setup {
    /// Each run has some of the faults: all at once, few things would come to an end.
    pub fn of(random: &mut Random) -> Setup {
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| random.one_in(3)).collect();
        if random.one_in(2) {
            faults.truncate(2);
        }
        Setup {
            nodes: [1, 1, 2, 3][random.below(4)],
            full: random.one_in(4),
            pipe_bytes: [128, 512, 2_048][random.below(3)],
            window_rows: 1 + random.below(4),
            flight_events: 1 + random.below(6),
            chunk_rows: 1 + random.below(3),
            users: random.below(4) as u32,
            margin_ms: [0, 100, 1_000, 10_000][random.below(4)],
            faults,
        }
    }

    pub fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }

    /// Users that an instance may hold at most: a flight, the next one with the window that filled it, an open window,
    /// and what is in the pipe and was read from it. A row can concern two users, and is sent in 50 bytes or more.
    pub fn most_rows(&self) -> usize {
        2 * (2 * self.flight_events + 2 * self.window_rows + 2 + 2 * self.pipe_bytes / 50)
    }

    pub fn blueprint(&self) -> Blueprint {
        thread_local! {
            static BASE: (Config, Arc<KeyMap>, Metrics) = base();
        }
        let (mut config, key_map, metrics) = BASE.with(Clone::clone);
        config.redis = config::Redis::parse(&[redis::urls(self.nodes)]).unwrap();
        config.stream.window_rows = self.window_rows;
        config.stream.flight_events = self.flight_events;
        config.load.chunk_rows = self.chunk_rows;
        config.redis.replay_margin = Duration::from_millis(self.margin_ms);
        Blueprint { config: Arc::new(config), key_map, metrics }
    }
}

fn base() -> (Config, Arc<KeyMap>, Metrics) {
    let text =
        "[postgres]\nurl = \"postgres://lockstep@model/lockstep\"\n[redis]\nurl = \"redis://model:1\"\n";
    let read = Config::read("simulator", text, &|_| None, KeyMap::compile);
    let (config, key_map) = read.unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    (config, Arc::new(key_map), Metrics::new().unwrap())
}
