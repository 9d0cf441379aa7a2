//! `lockstep demo`: the whole product on throwaway servers, judged by an oracle of its own.
//!
//! It starts PostgreSQL and Redis, lets a small platform move money, runs `lockstep init` and
//! `lockstep run` beside it as an operator would, listens as a subscriber would, and compares at the end.

mod amount;
mod compare;
mod live;
mod platform;
mod report;
mod subscriber;
mod tally;
mod workload;

use std::collections::HashSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Exit;
use super::output::say;
use super::throwaway::cluster::{Layout, RedisSide};
use super::throwaway::lockstep::Lockstep;
use super::throwaway::process::{Account, Folder, LOOK_EVERY};
use super::throwaway::servers::{Postgres, sql};
use super::throwaway::{self, Interruption};
use crate::error::{Error, Result};
use compare::compare;
use live::Live;
use report::{Outcome, Paint, grouped};
use subscriber::{CHANNELS, Subscriber};
use workload::{USERS, Workload};

/// How long the last events may take after the load has ended.
const CATCH_UP: Duration = Duration::from_secs(60);

/// Watch it work: throwaway PostgreSQL and Redis, 10,000 users, a load, and a comparison of every key
///
/// Needs the programs of PostgreSQL and Redis; ./deploy/demo installs what is missing. Everything is on
/// free loopback ports in a temporary folder, and gone at the end.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How long the load lasts
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Redis Cluster, three masters and three replicas, instead of one server
    #[arg(long)]
    cluster: bool,
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Fields are dropped in their order: Lockstep first, the folder last.
struct World {
    lockstep: Lockstep,
    subscriber: Subscriber,
    redis: RedisSide,
    postgres: Postgres,
    folder: Folder,
}

pub(super) async fn run(args: Args) -> Result<Exit> {
    let paint = Paint::detect();
    let mut interruption = Interruption::listen()?;
    let (outcome, mut world) = interruption.or_done(story(&args, paint)).await?;
    if args.keep {
        world.invite(paint);
        tokio::select! {
            ended = world.watched() => ended?,
            _ = interruption.comes() => {}
        }
    }
    if outcome.is_good() {
        return Ok(Exit::Done);
    }
    Err(Error::definite("Redis and the database are not in step", "\"--keep\" leaves everything to look at"))
}

async fn story(args: &Args, paint: Paint) -> Result<(Outcome, World)> {
    say(format_args!("\n  {}  PostgreSQL to Redis, in step\n", paint.bold("lockstep demo")));
    let mut world = build(args, paint).await?;
    let outcome = watch(args, &mut world, paint).await?;
    outcome.print(paint);
    Ok((outcome, world))
}

async fn build(args: &Args, paint: Paint) -> Result<World> {
    let account = Account::for_servers();
    let folder = Folder::create("demo", account)?;
    let since = Instant::now();
    let postgres = Postgres::start(folder.path(), account).await?;
    let client = postgres.connect().await?;
    let version = client.query_one("SHOW server_version", &[]).await.map_err(sql)?;
    let version: String = version.try_get(0).map_err(sql)?;
    let version = version.split(' ').next().unwrap_or_default();
    paint.step(format!("PostgreSQL {version} on 127.0.0.1:{}", postgres.port()), since);

    let since = Instant::now();
    let layout = if args.cluster { Layout::Cluster { replicas: 1 } } else { Layout::Single };
    let redis = RedisSide::start(folder.path(), account, layout).await?;
    let port = redis.ports().next().unwrap_or_default();
    let kind = if args.cluster { "Redis Cluster, 3 masters and 3 replicas," } else { "Redis" };
    paint.step(format!("{kind} on 127.0.0.1:{port}"), since);

    let since = Instant::now();
    throwaway::platform::create(&client, USERS.unsigned_abs()).await?;
    platform::leave_old_keys(&redis.client().await?).await?;
    let users = grouped(u64::from(USERS.unsigned_abs()));
    paint.step(format!("{users} live and demo users, with stale keys of old services"), since);

    let since = Instant::now();
    let subscriber = Subscriber::start(&redis).await?;
    let lockstep = Lockstep::start(folder.path(), &postgres, &redis).await?;
    paint.step("lockstep init, lockstep run: users loaded, stream followed", since);
    say("");
    Ok(World { lockstep, subscriber, redis, postgres, folder })
}

async fn watch(args: &Args, world: &mut World, paint: Paint) -> Result<Outcome> {
    let mut live = Live::start(args.seconds, paint);
    let heard = world.subscriber.heard.clone();
    let begun = Instant::now();
    let workload = Workload::start(&world.postgres).await?;
    let mut seconds = tokio::time::interval_at((begun + live::EVERY).into(), live::EVERY);
    for second in 1..=args.seconds {
        seconds.tick().await;
        world.lockstep.still_runs()?;
        let committed = workload.progress.committed.load(Ordering::Relaxed);
        let arrived = heard.count.load(Ordering::Relaxed);
        live.tick(second, committed, arrived, world.lockstep.measured().await);
    }
    let done = workload.stop().await?;
    let load = begun.elapsed();
    live.end();
    let caught_up = world.caught_up(done.commits.len() as u64).await?;

    let touched: HashSet<i32> = done.commits.iter().map(|commit| commit.user).collect();
    let (database, client) = (world.postgres.connect().await?, world.redis.client().await?);
    let comparison = compare(&database, &client, &touched).await?;
    let arrivals = heard.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let tally = tally::tally(&done.commits, &arrivals);
    let unreadable = heard.unreadable.load(Ordering::Relaxed) + heard.dropped.load(Ordering::Relaxed);
    Ok(Outcome { done, load, caught_up, tally, unreadable, comparison })
}

impl World {
    /// Waits until every expected event has arrived; `None` when that did not happen in time.
    async fn caught_up(&mut self, commits: u64) -> Result<Option<Duration>> {
        let since = Instant::now();
        let expected = commits * CHANNELS.len() as u64;
        while self.subscriber.heard.count.load(Ordering::Relaxed) < expected {
            self.lockstep.still_runs()?;
            if since.elapsed() > CATCH_UP {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(Some(since.elapsed()))
    }

    /// How to look at what is running.
    fn invite(&self, paint: Paint) {
        let port = self.redis.ports().next().unwrap_or_default();
        let cli = if self.redis.is_cluster() { "redis-cli -c" } else { "redis-cli" };
        let program = std::env::current_exe().unwrap_or_else(|_| "lockstep".into());
        let logs =
            format!("logs are in {}; Ctrl-C ends and removes everything", self.folder.path().display());
        let change = "UPDATE users SET wallet_balance = 42 WHERE id = 7";
        say(paint.bold("  everything is still running: listen, change a balance, look"));
        say(format_args!("  {cli} -p {port} subscribe balance_updates"));
        say(format_args!("  psql {} -c '{change}'", self.postgres.url()));
        say(format_args!("  {cli} -p {port} hgetall 'user:{{live:7}}:config'"));
        say(format_args!("  curl {}/metrics", self.lockstep.url()));
        say(format_args!("  {} status --config {}", program.display(), self.lockstep.config().display()));
        say(format_args!("  {}\n", paint.dim(logs)));
    }

    /// Never ends unless Lockstep does.
    async fn watched(&mut self) -> Result<()> {
        loop {
            self.lockstep.still_runs()?;
            tokio::time::sleep(live::EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests;
