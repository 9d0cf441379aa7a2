//! One database transaction that changes every user.

use super::report::Row;
use super::table::Progress;
use super::world::World;
use super::{Size, backlog, drain};
use crate::cli::throwaway::cluster::Layout;
use crate::error::Result;

/// Its drain, against the limits: what matters is that memory stays what it is.
pub async fn huge(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers, loading users");
    let world = World::loaded(size, Layout::Single).await?;
    progress.step("changing all users in one transaction");
    let backlog = backlog::of_all_users(&world).await?;
    drain::against_limits(&world, &backlog, progress).await
}
