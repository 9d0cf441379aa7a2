//! Whether few users who change often cost less than many: what one leaves to the next is written once.

use super::backlog::Workload;
use super::report::Row;
use super::table::Progress;
use super::world::World;
use super::{Size, compared, drain};
use crate::cli::throwaway::cluster::Layout;
use crate::error::Result;

/// A drain of events four fifths of which are about one user of a hundred, against one about all users alike.
pub async fn skew(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers, loading users");
    let mut world = World::loaded(size, Layout::Single).await?;
    let even = drain::once(&mut world, Workload::Even, progress).await?;
    let skewed = drain::once(&mut world, Workload::Skewed, progress).await?;
    Ok(compared::rows(&skewed, "about all users alike", &even))
}
