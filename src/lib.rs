//! Lockstep keeps every Redis key that depends on a balance equal to PostgreSQL.
//!
//! A committed change walks through the rooms in this order; each imports its left neighbour's
//! output type and the leaves, nothing else:
//!
//! | room | hands on | IO |
//! |---|---|---|
//! | [`wire`] | bytes of the logical replication stream | socket |
//! | [`pgoutput`] | [`pgoutput::Message`] | none |
//! | [`txn`] | [`txn::Transaction`]: rows of one commit, in bounded windows | none |
//! | [`balance`] | [`balance::Event`]: one for each user | none |
//! | [`keyplan`] | [`keyplan::KeyPlan`]: what happens to which key | none |
//! | [`sink`] | [`sink::Outcome`], after Redis acknowledged | sockets |
//! | [`checkpoint`] | the LSN PostgreSQL may forget | none |
//!
//! [`pipeline`] is the one data loop: it alone moves data from room to room. Around it, from the
//! start of the program to its end:
//!
//! | room | does |
//! |---|---|
//! | [`cli`] | one file a subcommand: reads the configuration, says results, sets the exit code |
//! | [`app`] | builds every part of `run` once and stops them in order; it only wires |
//! | [`catalog`] | reads what the database says about itself |
//! | [`preflight`] | judges it, and Redis: every precondition with its cure, for `check`, `init` and `run` |
//! | [`setup`] | what `init` creates and `drop` removes, from the templates in `sql/` |
//! | [`supervise`] | takes the slot, compares what both sides remember, runs a session, and again |
//! | [`resync`] | reads users beside the stream: the first load, single users again, resyncs that were asked for |
//! | [`verify`] | the whole database against the whole Redis, for those who only look |
//! | [`audit`] | notices what other programs write, compares it with the database, and has it written again |
//! | [`inspect`] | one user for whoever asks: database and Redis side by side, and its keys written again |
//! | [`health`] | the facts behind `/healthz` and `/readyz`, and how far Redis is for those who wait |
//! | [`http`] | answers them, `/metrics`, waits for a position, what operators ask of Redis and of a user, and the console |
//! | [`notify`] | tells the service manager of them, and that the data loop turns |
//!
//! Leaves, which every room may import: [`lsn`], [`error`], [`backoff`], [`config`], [`metrics`]. A test
//! (`tests/integration/architecture.rs`) holds this plan.
//!
//! Where to change what: the keys and events of a change, `keyplan/default.toml`; its values, [`balance`];
//! how Redis is written, `sink/apply.lua`; a message to operators, [`preflight`] or `wire/sqlstate.rs`.
//!
//! What always holds:
//! - PostgreSQL is told to forget a position only after every Redis node holds a checkpoint at it.
//! - A key changes only together with its fence, and only forwards.
//! - Amounts are text from the database to the key: no float ever holds one.

#![forbid(unsafe_code)]

pub mod app;
pub mod audit;
pub mod backoff;
pub mod balance;
pub mod catalog;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod error;
pub mod health;
pub mod http;
pub mod inspect;
pub mod keyplan;
pub mod lsn;
pub mod metrics;
pub mod notify;
pub mod pgoutput;
pub mod pipeline;
pub mod preflight;
pub mod resync;
pub mod setup;
pub mod sink;
pub mod supervise;
pub mod txn;
pub mod verify;
pub mod wire;
