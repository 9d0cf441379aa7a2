//! How long a commit takes to a subscriber at steady rates, beside the least that any consumer of the stream takes.
//!
//! Counted is from when the writer sends a transaction, whose COMMIT is in the same round trip, until a subscriber has
//! read its message. So no time is negative, though a message may come before COMMIT is answered, and the server's own
//! part, the flush of its WAL above all, is in both figures: the floor has the same definition, writer and subscriber.
//!
//! The floor is a bare reader, which publishes the id of each transaction and does nothing else. The two are measured
//! one after the other, since they would take the processors from each other. Where a machine cannot write as fast as it
//! is asked to, which the rows tell, they do not stand under the same load and do not compare.

mod floor;
mod listener;
pub(super) mod tally;
pub(super) mod writer;

use std::time::Duration;

use tokio::sync::oneshot;

use super::report::{Row, Unit};
use super::table::Progress;
use super::world::{PATIENCE, World, holds};
use super::{Size, backlog};
use crate::cli::output::grouped;
use crate::cli::throwaway::cluster::Layout;
use crate::cli::throwaway::servers::sql;
use crate::error::Result;
use listener::Listener;
use tally::Figures;

/// Transactions a second.
const RATES: [u32; 3] = [500, 2_000, 5_000];
/// Seconds that are measured of each rate, unless `--events` are fewer transactions; never less than one.
const MOST_SECONDS: u32 = 10;
/// Seconds before them: connections, plans of statements and caches are warm then.
const WARM_UP_SECONDS: u32 = 1;
/// Where Lockstep tells of a balance, and where the floor does.
const LOCKSTEP: &str = "user_updates";
const FLOOR: &str = "bench_floor";

/// What is written at one rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Transactions a second.
    rate: u32,
    /// Seconds, the first of which only warm up.
    seconds: u32,
}

impl Load {
    fn new(rate: u32, events: u32) -> Load {
        let seconds = (events / rate.max(1)).clamp(1, MOST_SECONDS);
        Load { rate, seconds: WARM_UP_SECONDS + seconds }
    }

    /// One without a warm-up.
    pub(super) fn lasting(rate: u32, seconds: u32) -> Load {
        Load { rate, seconds }
    }

    pub(super) fn seconds(self) -> u32 {
        self.seconds
    }

    pub(super) fn transactions(self) -> u64 {
        u64::from(self.rate) * u64::from(self.seconds)
    }

    /// When a transaction is due, from the beginning.
    fn due(self, n: u64) -> Duration {
        Duration::from_micros(n * 1_000_000 / u64::from(self.rate.max(1)))
    }
}

/// Each rate, for Lockstep and for the floor.
pub async fn latency(size: Size, progress: &Progress) -> Result<Vec<Row>> {
    progress.step("starting servers, loading users");
    let mut world = World::loaded(size, Layout::Single).await?;
    let mut rows = Vec::new();
    for rate in RATES {
        let (load, shown) = (Load::new(rate, size.events), grouped(rate.into()));
        progress.step(&format!("{shown} transactions a second, heard from lockstep"));
        let lockstep = of_lockstep(&mut world, load).await?;
        progress.step(&format!("{shown} transactions a second, heard from a bare reader"));
        let floor = of_floor(&mut world, load).await?;
        rows.extend(compared(rate, &lockstep, &floor));
    }
    Ok(rows)
}

async fn of_lockstep(world: &mut World, load: Load) -> Result<Figures> {
    let mut lockstep = world.installed.run()?;
    lockstep.is_ready(PATIENCE).await?;
    // What was written for the floor before is published by then, and nobody hears it.
    let end = world.wal_end().await?;
    holds(&mut lockstep, end).await?;
    let figures = measured(world, load, LOCKSTEP).await;
    // Whoever died tells more than what was not heard of it.
    lockstep.still_runs()?;
    figures
}

async fn of_floor(world: &mut World, load: Load) -> Result<Figures> {
    backlog::stand_here(world).await?;
    let (stop, stopped) = oneshot::channel();
    let publishes = floor::publish_apart(world.config.postgres.clone(), world.port(), stopped);
    let measures = async move {
        let figures = measured(world, load, FLOOR).await;
        drop(stop);
        figures
    };
    let ((), figures) = tokio::try_join!(publishes, measures)?;
    Ok(figures)
}

/// Writes the load while one subscriber listens to a channel.
async fn measured(world: &mut World, load: Load, channel: &str) -> Result<Figures> {
    // The first change of a page after a checkpoint writes all of it to WAL: neither side has more of these.
    world.client.batch_execute("CHECKPOINT").await.map_err(sql)?;
    let listener = Listener::subscribe(world.port(), channel, load.transactions()).await?;
    let task = writer::Task { load, written: world.written, users: world.size.users };
    let sent = writer::write(&world.postgres.url(), task).await?;
    world.written += load.transactions();
    let heard = listener.heard().await?;
    let warm = load.due(u64::from(load.rate) * u64::from(WARM_UP_SECONDS));
    tally::tally(&sent, &heard, warm)
}

/// What one rate comes to.
fn compared(rate: u32, lockstep: &Figures, floor: &Figures) -> Vec<Row> {
    let name = |what: &str| format!("{}/s: {what}", grouped(rate.into()));
    let heard = |what, of: &Figures| {
        Row::new(name(what), of.heard as f64, Unit::Messages).beside("written", of.written as f64)
    };
    let time = |what, figure: fn(&Figures) -> Duration| {
        let value = |of| figure(of).as_secs_f64() * 1e3;
        Row::new(name(what), value(lockstep), Unit::Milliseconds).beside("bare reader", value(floor))
    };
    let achieved = |what, of: &Figures| {
        Row::new(name(what), of.rate, Unit::EventsPerSecond).beside("asked", rate.into())
    };
    vec![
        heard("heard from lockstep", lockstep),
        time("commit to subscriber, p50", |of| of.p50),
        time("commit to subscriber, p99", |of| of.p99),
        time("commit to subscriber, longest", |of| of.longest),
        achieved("written", lockstep),
        time("sent later than due, p99", |of| of.late),
        heard("heard from the bare reader", floor),
        achieved("written for the bare reader", floor),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lasts_as_long_as_the_events_within_its_bounds_and_a_second_to_warm_up() {
        let seconds = |rate, events| Load::new(rate, events).seconds;
        assert_eq!([seconds(500, 2_000), seconds(5_000, 2_000), seconds(500, 200_000)], [5, 2, 11]);
        assert_eq!(Load::new(500, 2_000).transactions(), 2_500);
    }

    #[test]
    fn transactions_are_due_at_equal_distances() {
        let load = Load::new(2_000, 2_000);
        assert_eq!([0, 1, 2_000].map(|n| load.due(n).as_micros()), [0, 500, 1_000_000]);
    }

    #[test]
    fn every_row_names_its_rate_and_every_time_stands_beside_the_floor() {
        let ms = Duration::from_millis;
        let of = |p50| Figures {
            written: 9,
            heard: 9,
            p50: ms(p50),
            p99: ms(8),
            longest: ms(9),
            rate: 1_999.0,
            late: ms(1),
        };
        let rows = compared(2_000, &of(6), &of(4));
        assert!(rows.iter().all(|row| row.what.starts_with("2,000/s: ")), "{rows:?}");
        assert_eq!((rows[0].value, rows[0].ratio), (9.0, Some(1.0)));
        assert_eq!((rows[1].value, rows[1].ratio), (6.0, Some(1.5)));
    }
}
