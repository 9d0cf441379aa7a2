//! How long it takes until Redis is as the database again, after what happens in production, beside what is promised.

mod cut;
mod emptied;
mod foreign;
mod line;
mod takeover;

use std::time::Duration;

use super::Size;
use super::report::{Row, Unit};
use super::table::Progress;
use super::world::World;
use crate::cli::throwaway::cluster::Layout;
use crate::error::Result;

/// Each fault in turn.
pub async fn recovery(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers, loading users");
    let mut world = World::loaded(size, Layout::Single).await?;
    let mut rows = cut::cut(&mut world, progress).await?;
    rows.extend(takeover::takeover(&world, progress).await?);
    rows.extend(emptied::emptied(&world, progress).await?);
    rows.extend(foreign::foreign(&mut world, progress).await?);
    Ok(rows)
}

/// A time beside the longest that is promised.
fn promised(what: String, took: Duration, longest: Duration) -> Row {
    Row::new(what, took.as_secs_f64(), Unit::Seconds).beside("promised at most", longest.as_secs_f64())
}
