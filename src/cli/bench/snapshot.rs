//! The first load of all users into an empty Redis.

use super::limits::{micros_each, per_second};
use super::report::{Row, Unit};
use super::table::Progress;
use super::world::World;
use super::{Size, commands, daemon, pipe, usage};
use crate::cli::throwaway::cluster::Layout;
use crate::error::Result;

/// The load, against the commands of the same users, ready-made.
pub async fn snapshot(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers");
    let world = World::build(size, Layout::Single).await?;
    progress.step("encoding ready-made commands");
    let commands = commands::of_users(&world).await?;
    progress.step("ready-made commands");
    let before = usage::cpu_of_all(world.redis.ids())?;
    let sent = pipe::send(world.port(), &commands).await?;
    let redis = usage::cpu_of_all(world.redis.ids())?.saturating_sub(before);
    world.empty_redis()?;
    progress.step("lockstep loads all users");
    let loaded = daemon::load(&world).await?;

    let users = f64::from(size.users);
    let limit = Row::new("ready-made commands", per_second(users, sent), Unit::UsersPerSecond);
    let cost = |what, cpu| Row::new(what, micros_each(users, cpu), Unit::MicrosPerUser);
    let limit_cost = cost("Redis, ready-made commands", redis);
    Ok(vec![
        Row::new("users", loaded.events, Unit::Users).beside("in the database", users),
        Row::new("load", per_second(users, loaded.time), Unit::UsersPerSecond).against(&limit),
        Row::new("load time", loaded.time.as_secs_f64(), Unit::Seconds)
            .beside("ready-made commands", sent.as_secs_f64()),
        cost("lockstep, CPU", loaded.cpu.lockstep),
        cost("Redis, CPU", loaded.cpu.redis).against(&limit_cost),
        Row::new("lockstep, peak resident memory", loaded.peak as f64, Unit::Bytes),
        limit,
        limit_cost,
    ])
}
