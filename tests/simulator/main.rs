//! A deterministic simulator: the program's own session, lane, sink, scripts, checkpoints and comparisons, at the other
//! end of which are models of PostgreSQL and Redis. A seed decides what happens next, at every await point.
//!
//! | file | what it is |
//! |---|---|
//! | `model/` | the servers: WAL, snapshots and the slot; keyspaces, sockets and failover |
//! | `lua` | the scripts, run as they are by a Lua 5.1 |
//! | `carrier`, `instance`, `loader` | a process of Lockstep, and what it is connected to |
//! | `workload` | what applications do |
//! | `setup`, `schedule`, `drain` | what a seed is about, its steps, and how it ends |
//! | `invariants` | the promises |
//! | `mutants` | known bugs, each of which has to be found |
//! | `shrink`, `report` | a failing seed made short, and many seeds counted |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "a test fails by panicking"
)]

mod carrier;
mod drain;
mod instance;
mod invariants;
mod loader;
mod lua;
mod model;
mod mutants;
mod random;
mod regressions;
mod report;
mod schedule;
mod setup;
mod shrink;
mod workload;
mod world;

/// A step allocates a hundred times, and the program's own allocator takes less time for it.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;
