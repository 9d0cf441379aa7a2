//! `lockstep bench`: how fast this machine lets Lockstep be, and how much of that it is.
//!
//! Every scenario has throwaway servers of its own, and is one function that returns rows of the [`report`]. Beside
//! each figure stands its limit, measured in the same run with the same transactions: what the walsender gives to a
//! reader that decodes nothing, and what Redis takes of ready-made commands that need no consumer.

mod apart;
mod backlog;
mod cluster;
mod commands;
mod compared;
mod daemon;
mod drain;
mod huge;
mod keyspace;
mod latency;
mod limits;
mod pipe;
mod recovery;
mod report;
mod shards;
mod skew;
mod snapshot;
mod stream;
mod subscribers;
mod table;
mod tables;
mod usage;
mod world;

use clap::ValueEnum;

use super::Exit;
use super::throwaway::Interruption;
use crate::error::Result;
use report::{Report, Row, Scenario};
use table::Progress;

/// More would be more WAL, a kilobyte for each event, than the server keeps for a slot.
const MOST_EVENTS: i64 = 3_600_000;
/// More would take most of what the machine has.
const MOST_USERS: i64 = 5_000_000;
/// The same.
const MOST_IDLE_KEYS: i64 = 50_000_000;

/// Measure it on this machine: throwaway PostgreSQL and Redis, and every figure beside its limit
///
/// An event is one database transaction: an UPDATE of a user's balance and an INSERT into user_transactions, which
/// reach every key and both channels. Needs the programs of PostgreSQL and Redis, which ./deploy/demo installs.
/// Everything is on free loopback ports in a temporary folder, and gone at the end.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these scenarios
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_values_t = Name::value_variants().to_vec())]
    only: Vec<Name>,
    /// Database transactions of a backlog, and at each rate of latency, for a second at least and ten at most
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=MOST_EVENTS))]
    events: u32,
    /// Users in the database
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=MOST_USERS))]
    users: u32,
    /// Keys of other programs, which nobody touches, for the scenario that is named after them
    #[arg(long, value_name = "N", default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1..=MOST_IDLE_KEYS))]
    idle_keys: u32,
    /// Print one JSON object, at the end
    #[arg(long)]
    json: bool,
}

/// What can be measured, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// A backlog that was written while Lockstep was away, against the limits
    Drain,
    /// A backlog four fifths of which are about one user of a hundred
    Skew,
    /// The first load of all users
    Snapshot,
    /// One database transaction that changes all users
    Huge,
    /// A backlog beside millions of keys that nobody touches
    Keyspace,
    /// A backlog while a thousand other tables are written
    Tables,
    /// A backlog while fifty subscribers listen
    Subscribers,
    /// A backlog into three masters
    Cluster,
    /// A backlog drained by two shards, against one process
    Shards,
    /// From commit to subscriber at steady rates
    Latency,
    /// Until all is well again: a cut, a takeover, an emptied Redis, foreign writes
    Recovery,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Database transactions of a backlog.
    events: u32,
    /// Users in the database.
    users: u32,
    /// Keys of other programs.
    idle_keys: u32,
}

pub(super) async fn run(args: Args) -> Result<Exit> {
    let mut interruption = Interruption::listen()?;
    let report = interruption.or_done(measure(&args)).await?;
    if args.json {
        report.print_json()?;
    }
    Ok(Exit::Done)
}

async fn measure(args: &Args) -> Result<Report> {
    let size = Size { events: args.events, users: args.users, idle_keys: args.idle_keys };
    let mut report = Report::new(size);
    for name in Name::value_variants().iter().filter(|name| args.only.contains(name)) {
        let progress = Progress::start(name.to_string());
        let rows = scenario(*name, size, &progress).await?;
        progress.end();
        let scenario = Scenario { name: name.to_string(), rows };
        if !args.json {
            table::print(&scenario);
        }
        report.scenarios.push(scenario);
    }
    Ok(report)
}

async fn scenario(name: Name, size: Size, progress: &Progress) -> Result<Vec<Row>> {
    match name {
        Name::Drain => drain::drain(size, progress).await,
        Name::Skew => skew::skew(size, progress).await,
        Name::Snapshot => snapshot::snapshot(size, progress).await,
        Name::Huge => huge::huge(size, progress).await,
        Name::Keyspace => keyspace::keyspace(size, progress).await,
        Name::Tables => tables::tables(size, progress).await,
        Name::Subscribers => subscribers::subscribers(size, progress).await,
        Name::Cluster => cluster::cluster(size, progress).await,
        Name::Shards => shards::shards(size, progress).await,
        Name::Latency => latency::latency(size, progress).await,
        Name::Recovery => recovery::recovery(size, progress).await,
    }
}
