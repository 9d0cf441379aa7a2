//! A backlog that was written while Lockstep was away.

use super::backlog::{self, Backlog, Workload};
use super::daemon::{self, Drained};
use super::limits::{self, Limits, micros_each, per_second};
use super::report::{Row, Unit};
use super::table::Progress;
use super::world::World;
use super::{Size, commands};
use crate::cli::throwaway::cluster::Layout;
use crate::error::Result;

/// One event a database transaction, each of them in Redis before the next start.
pub async fn drain(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers, loading users");
    let mut world = World::loaded(size, Layout::Single).await?;
    let backlog = backlog::of_events(&mut world, Workload::Even, progress).await?;
    against_limits(&world, &backlog, progress).await
}

/// Writes a backlog and drains it.
pub async fn once(world: &mut World, workload: Workload, progress: &Progress) -> Result<Drained> {
    let backlog = backlog::of_events(world, workload, progress).await?;
    progress.step("lockstep drains the backlog");
    daemon::drain(world, &backlog).await
}

/// Drains a backlog, and has the limits drain it too.
pub async fn against_limits(world: &World, backlog: &Backlog, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("encoding ready-made commands");
    let commands = commands::of_backlog(world, backlog).await?;
    progress.step("lockstep drains the backlog");
    let drained = daemon::drain(world, backlog).await?;
    let limits = limits::measure(world, backlog, commands, progress).await?;
    Ok(rows(&drained, limits))
}

fn rows(drained: &Drained, limits: Limits) -> Vec<Row> {
    let Limits { reader, commands, both, walsender, redis } = limits;
    let events = drained.events;
    let cost = |what, cpu| Row::new(what, micros_each(events, cpu), Unit::MicrosPerEvent);
    vec![
        Row::new("events", events, Unit::Events).beside("written", drained.written as f64),
        Row::new("drain", per_second(events, drained.time), Unit::EventsPerSecond).against(&both),
        Row::new("drain time", drained.time.as_secs_f64(), Unit::Seconds),
        cost("walsender, CPU", drained.cpu.walsender).against(&walsender),
        cost("lockstep, CPU", drained.cpu.lockstep),
        cost("Redis, CPU", drained.cpu.redis).against(&redis),
        Row::new("lockstep, peak resident memory", drained.peak as f64, Unit::Bytes),
        reader,
        commands,
        both,
        walsender,
        redis,
    ]
}
