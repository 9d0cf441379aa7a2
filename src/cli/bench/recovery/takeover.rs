//! The first of two instances dies, or is not heard of any more, and the second takes over.

use std::time::{Duration, Instant};

use super::super::report::Row;
use super::super::table::Progress;
use super::super::world::{PATIENCE, World, holds};
use super::promised;
use crate::cli::throwaway::lockstep::{Installed, Lockstep};
use crate::cli::throwaway::servers::sql;
use crate::error::Result;

/// How often the first is killed: the slowest counts.
const KILLS: usize = 5;
/// Longest time from the end of the first until Redis holds what was committed after it.
const AFTER_KILL: Duration = Duration::from_secs(2);
/// The same where the first is alive and not heard of: the server has to give it up first.
const AFTER_SILENCE: Duration = Duration::from_secs(10);
/// Any change of a user.
const CHANGE: &str = "UPDATE users SET wallet_balance = wallet_balance + 1 WHERE id = 1";

/// Kills the first again and again, then freezes one, which to the server is as one that was cut off.
pub async fn takeover(world: &World, progress: &Progress) -> Result<Vec<Row>> {
    let second = world.installed.beside("second", str::to_owned)?;
    let mut leader = world.installed.run()?;
    leader.is_ready(PATIENCE).await?;
    let (mut next, mut slowest) = ([&second, &world.installed].into_iter().cycle(), Duration::ZERO);
    for n in 1..=KILLS {
        progress.step(&format!("kill -9 of the first of two, {n} of {KILLS}"));
        let (standby, took) = takes_over(world, next.next().unwrap_or(&second), &leader, "KILL").await?;
        slowest = slowest.max(took);
        leader = standby;
    }
    progress.step("the first of two falls silent");
    let (_standby, silent) = takes_over(world, next.next().unwrap_or(&second), &leader, "STOP").await?;
    leader.signal("CONT");
    Ok(vec![
        promised(format!("takeover after kill -9, slowest of {KILLS}"), slowest, AFTER_KILL),
        promised("takeover after the first fell silent".to_owned(), silent, AFTER_SILENCE),
    ])
}

/// From the signal until the second has brought to Redis what was committed after it.
async fn takes_over(
    world: &World,
    second: &Installed,
    leader: &Lockstep,
    signal: &str,
) -> Result<(Lockstep, Duration)> {
    let mut standby = second.run()?;
    standby.stands_by(PATIENCE).await?;
    let begun = Instant::now();
    leader.signal(signal);
    world.client.batch_execute(CHANGE).await.map_err(sql)?;
    let end = world.wal_end().await?;
    holds(&mut standby, end).await?;
    Ok((standby, begun.elapsed()))
}
