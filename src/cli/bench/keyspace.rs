//! Whether keys that nobody touches cost anything.

use super::backlog::{self, Workload};
use super::daemon::{self, Drained};
use super::report::{Row, Unit};
use super::table::Progress;
use super::world::World;
use super::{Size, compared, drain};
use crate::cli::output::grouped;
use crate::cli::throwaway::cluster::Layout;
use crate::cli::throwaway::servers::redis_cli;
use crate::error::{Error, Result};

/// Keys that are written at a time.
const PORTION: u32 = 250_000;
/// Writes the keys of ARGV[1] to ARGV[2]: by Redis itself, which nothing else makes as fast.
const WRITE: &str = "for n = ARGV[1], ARGV[2] do redis.call('SET', 'session:' .. n, 'idle') end";

/// A drain beside millions of keys of others, against one without them; what a start costs stands apart.
pub async fn keyspace(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers, loading users");
    let mut world = World::loaded(size, Layout::Single).await?;
    let (without, _) = after_the_start(&mut world, progress).await?;
    for first in (1..=size.idle_keys).step_by(PORTION as usize) {
        let last = size.idle_keys.min(first.saturating_add(PORTION - 1));
        progress.step(&format!(
            "writing idle keys, {} of {}",
            grouped(last.into()),
            grouped(size.idle_keys.into())
        ));
        let (first, last) = (first.to_string(), last.to_string());
        let written = redis_cli(world.port(), &["eval", WRITE, "0", &first, &last]);
        if written.as_deref() != Some("") {
            let fact = format!("redis does not take the idle keys ({})", written.unwrap_or_default());
            return Err(Error::definite(fact, "see whether the machine is out of memory"));
        }
    }
    let (beside, start) = after_the_start(&mut world, progress).await?;
    let mut rows = compared::rows(&beside, "without idle keys", &without);
    rows.push(Row::new("a start beside them, Redis, CPU", start.cpu.redis.as_secs_f64(), Unit::Seconds));
    Ok(rows)
}

/// A drain without what its start took, and that: the first event has all keys looked through once.
async fn after_the_start(world: &mut World, progress: &Progress) -> Result<(Drained, Drained)> {
    let one = backlog::of_one_event(world, progress).await?;
    progress.step("lockstep starts, and drains one event");
    let start = daemon::drain(world, &one).await?;
    let drained = drain::once(world, Workload::Even, progress).await?;
    Ok((drained.less(&start), start))
}
