//! The way to the database is cut under load, and what was committed meanwhile is caught up with.

use std::time::{Duration, Instant};

use super::super::daemon::measured;
use super::super::latency::{Load, writer};
use super::super::report::{Row, Unit};
use super::super::table::Progress;
use super::super::world::{PATIENCE, World, holds};
use super::line::Line;
use super::promised;
use crate::error::{Error, Result};

/// Transactions a second, before, meanwhile and after.
const RATE: u32 = 1_000;
/// Longest time without the database; shorter where `--events` are fewer.
const MOST_SECONDS: u32 = 10;
/// How long it is written before and after.
const AROUND_SECONDS: u32 = 3;
/// Longest time from its end until Redis holds what was committed meanwhile.
const PROMISED: Duration = Duration::from_secs(3);

/// A cut, and how long it takes after it; and that no transaction is lost or done twice.
pub async fn cut(world: &mut World, progress: &Progress) -> Result<Vec<Row>> {
    let seconds = (world.size.events / RATE).clamp(1, MOST_SECONDS);
    progress.step(&format!("{RATE} transactions a second, {seconds} s of them without the database"));
    let line = Line::to(world.postgres.port()).await?;
    let (from, to) = (format!("127.0.0.1:{}/", world.postgres.port()), format!("127.0.0.1:{}/", line.port()));
    let cuttable = world.installed.beside("cut", |text| text.replace(&from, &to))?;
    let mut lockstep = cuttable.run()?;
    lockstep.is_ready(PATIENCE).await?;
    let before = measured(&mut lockstep).await?.events;

    let load = Load::lasting(RATE, seconds + 2 * AROUND_SECONDS);
    let task = writer::Task { load, written: world.written, users: world.size.users };
    let url = world.postgres.url();
    let cuts = async {
        tokio::time::sleep(Duration::from_secs(AROUND_SECONDS.into())).await;
        line.cut();
        tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        let end = world.wal_end().await?;
        line.mend();
        let mended = Instant::now();
        holds(&mut lockstep, end).await?;
        Ok(mended.elapsed())
    };
    let (_, took) = tokio::try_join!(writer::write(&url, task), cuts)?;
    world.written += load.transactions();
    let end = world.wal_end().await?;
    holds(&mut lockstep, end).await?;
    let events = measured(&mut lockstep).await?.events - before;
    if (events - load.transactions() as f64).abs() > 0.5 {
        let fact = format!("{events} events of {} transactions", load.transactions());
        return Err(Error::definite(fact, "report this as a bug"));
    }
    Ok(vec![
        Row::new("events", events, Unit::Events).beside("written", load.transactions() as f64),
        promised(format!("caught up after a cut of {seconds} s at {RATE}/s"), took, PROMISED),
    ])
}
