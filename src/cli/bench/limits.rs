//! What there is to reach on this machine: the walsender and Redis without a consumer between them.

use std::time::Duration;

use tokio::task::JoinSet;

use super::backlog::{Backlog, SLOT};
use super::commands::Commands;
use super::daemon::nobody_streams;
use super::report::{Row, Unit};
use super::stream::Read;
use super::table::Progress;
use super::world::World;
use super::{pipe, stream, usage};
use crate::error::{Error, Result};

/// The limits of one backlog.
#[derive(Debug)]
pub struct Limits {
    /// A reader that decodes nothing, alone.
    pub reader: Row,
    /// Ready-made commands, alone.
    pub commands: Row,
    /// Both at once.
    pub both: Row,
    /// Processor time of the walsender that gives to the reader alone.
    pub walsender: Row,
    /// Processor time of Redis that takes the commands alone.
    pub redis: Row,
}

/// Measures them one after the other.
pub async fn measure(
    world: &World,
    backlog: &Backlog,
    commands: Commands,
    progress: &Progress,
) -> Result<Limits> {
    let commands = std::sync::Arc::new(commands);
    progress.step("a bare reader of the stream");
    let mut alone = JoinSet::new();
    alone.spawn(reader(world, backlog));
    let read = next(&mut alone).await?;

    progress.step("ready-made commands");
    let before = usage::cpu_of_all(world.redis.ids())?;
    let mut alone = JoinSet::new();
    alone.spawn(sender(world, &commands));
    let sent = next(&mut alone).await?;
    let redis = usage::cpu_of_all(world.redis.ids())?.saturating_sub(before);

    progress.step("both at once");
    nobody_streams(world, SLOT).await?;
    let mut both = JoinSet::new();
    both.spawn(reader(world, backlog));
    both.spawn(sender(world, &commands));
    let one = next(&mut both).await?;
    let other = next(&mut both).await?;

    let events = backlog.events as f64;
    let rate = |what, time: Duration| Row::new(what, per_second(events, time), Unit::EventsPerSecond);
    let cost = |what, cpu: Duration| Row::new(what, micros_each(events, cpu), Unit::MicrosPerEvent);
    Ok(Limits {
        reader: rate("bare reader of the stream", read.time),
        commands: rate("ready-made commands", sent.time),
        both: rate("bare reader and commands at once", one.time.max(other.time)),
        walsender: cost("walsender, bare reader", read.walsender),
        redis: cost("Redis, ready-made commands", redis),
    })
}

/// Events in a second.
pub fn per_second(events: f64, time: Duration) -> f64 {
    events / time.as_secs_f64().max(1e-9)
}

/// Microseconds of processor time for one event.
pub fn micros_each(events: f64, cpu: Duration) -> f64 {
    cpu.as_secs_f64() * 1e6 / events.max(1.0)
}

fn reader(world: &World, backlog: &Backlog) -> impl Future<Output = Result<Read>> + Send + 'static {
    stream::read_apart(world.config.postgres.clone(), backlog.end)
}

fn sender(
    world: &World,
    commands: &std::sync::Arc<Commands>,
) -> impl Future<Output = Result<Read>> + Send + 'static {
    let (port, commands) = (world.port(), std::sync::Arc::clone(commands));
    async move {
        let time = pipe::send(port, &commands).await?;
        Ok(Read { time, walsender: Duration::ZERO })
    }
}

async fn next(tasks: &mut JoinSet<Result<Read>>) -> Result<Read> {
    match tasks.join_next().await {
        Some(Ok(done)) => done,
        Some(Err(error)) => {
            Err(Error::definite(format!("a measurement ended: {error}"), "report this as a bug"))
        }
        None => Err(Error::definite("a measurement did not take place", "report this as a bug")),
    }
}
