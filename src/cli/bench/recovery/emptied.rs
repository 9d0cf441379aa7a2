//! Redis loses everything while it stays connected.

use std::time::{Duration, Instant};

use super::super::report::Row;
use super::super::table::Progress;
use super::super::world::{PATIENCE, World};
use super::promised;
use crate::cli::output::grouped;
use crate::cli::throwaway::process::LOOK_EVERY;
use crate::cli::throwaway::servers::redis_cli;
use crate::error::{Error, Result};

/// The mark of a finished load, which goes with all the rest.
const LOADED: &str = "lockstep:loaded:lockstep";
/// Longest time until all users are there again, with 100,000 of them.
const PROMISED: Duration = Duration::from_secs(10);

/// From FLUSHALL until every user is in Redis again; nobody says that it happened.
pub async fn emptied(world: &World, progress: &Progress) -> Result<Vec<Row>> {
    let users = grouped(world.size.users.into());
    progress.step(&format!("FLUSHALL with {users} users"));
    let mut lockstep = world.installed.run()?;
    lockstep.is_ready(PATIENCE).await?;
    world.empty_redis()?;
    let begun = Instant::now();
    while redis_cli(world.port(), &["exists", LOADED]).as_deref() != Some("1") {
        lockstep.still_runs()?;
        if begun.elapsed() > PATIENCE {
            return Err(Error::definite("the users do not come back", "report this as a bug"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(vec![promised(format!("FLUSHALL healed, {users} users"), begun.elapsed(), PROMISED)])
}
