//! What a cluster costs against one server.

use super::backlog::Workload;
use super::report::Row;
use super::table::Progress;
use super::world::World;
use super::{Size, compared, drain};
use crate::cli::throwaway::cluster::Layout;
use crate::error::Result;

/// A drain into three masters without replicas, which would only share the processors, against one Redis.
pub async fn cluster(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    let single = drained(size, Layout::Single, progress).await?;
    let three = drained(size, Layout::Cluster { replicas: 0 }, progress).await?;
    Ok(compared::rows(&three, "one Redis", &single))
}

async fn drained(size: Size, layout: Layout, progress: &Progress) -> Result<super::daemon::Drained> {
    progress.step("starting servers, loading users");
    let mut world = World::loaded(size, layout).await?;
    drain::once(&mut world, Workload::Even, progress).await
}
