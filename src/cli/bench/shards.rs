//! Whether two processes, each with a slot and half of the users, are faster than one, and what that costs the database.

use super::backlog::{self, Workload};
use super::report::Row;
use super::table::Progress;
use super::world::World;
use super::{Size, compared, daemon, drain};
use crate::cli::throwaway::cluster::Layout;
use crate::config::Shard;
use crate::error::Result;

/// How many processes share the users.
const SHARDS: usize = 2;

/// A backlog drained by several shards at once, against the same by one process; the walsenders are summed, as are all
/// others.
pub async fn shards(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers, loading users");
    let mut world = World::loaded(size, Layout::Single).await?;
    let one = drain::once(&mut world, Workload::Even, progress).await?;
    progress.step("loading the users of each shard");
    let mut parts = Vec::new();
    for shard in (0..SHARDS).filter_map(|index| Shard::new(index, SHARDS)) {
        let installed = world.installed.shard(shard).await?;
        world.load(&installed).await?;
        parts.push((installed, shard.name(&world.config.postgres.slot)));
    }
    let backlog = backlog::of_events(&mut world, Workload::Even, progress).await?;
    progress.step("the shards drain the backlog");
    let parts: Vec<_> = parts.iter().map(|(installed, slot)| (installed, slot.as_str())).collect();
    let all = daemon::drain_by(&world, &parts, &backlog).await?;
    Ok(compared::rows(&all, "one process", &one))
}
