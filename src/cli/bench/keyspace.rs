//! Whether keys that nobody touches cost anything.

use super::backlog::Spread;
use super::commands::Writer;
use super::report::Row;
use super::table::Progress;
use super::world::World;
use super::{Size, compared, drain, pipe};
use crate::cli::throwaway::cluster::Layout;
use crate::error::Result;

/// Keys of other programs.
const IDLE_KEYS: u32 = 1_000_000;

/// A drain beside a million keys of others, against one without them.
pub async fn keyspace(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers, loading users");
    let mut world = World::loaded(size, Layout::Single).await?;
    let without = drain::once(&mut world, Spread::Even, progress).await?;
    progress.step("writing idle keys");
    let mut keys = Writer::create(&world.folder.path().join("idle"))?;
    for n in 0..IDLE_KEYS {
        keys.command(&[b"SET", format!("session:{n}").as_bytes(), b"idle"])?;
    }
    pipe::send(world.port(), &keys.finish()?).await?;
    let beside = drain::once(&mut world, Spread::Even, progress).await?;
    Ok(compared::rows(&beside, "without 1,000,000 idle keys", &without))
}
