//! Other programs write wrong balances under load: until each is healed, and what the watching costs Redis.
//!
//! Those users are not written to by anybody else, so that each wrong balance is there until it is healed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fred::clients::Client;
use fred::interfaces::HashesInterface;
use tokio::time::{MissedTickBehavior, interval};

use super::super::latency::tally::percentile;
use super::super::latency::{Load, writer};
use super::super::report::{Row, Unit};
use super::super::table::Progress;
use super::super::usage;
use super::super::world::{PATIENCE, World};
use super::promised;
use crate::cli::output::grouped;
use crate::cli::throwaway::cluster::redis;
use crate::cli::throwaway::lockstep::{Installed, Lockstep};
use crate::error::{Error, Result};

/// Transactions a second.
const RATE: u32 = 2_000;
/// Wrong balances a second.
const FOREIGN: u32 = 100;
/// Longest time that is measured; shorter where `--events` are fewer.
const MOST_SECONDS: u32 = 15;
/// How long the transactions run before: nobody watches while a start is caught up with.
const LEAD_SECONDS: u32 = 5;
/// How often it is looked whether one is healed.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// None is looked at before: nobody compares it before its grace, and each look costs Redis.
const GRACE: Duration = Duration::from_millis(900);
/// How often it is asked whether foreign writes are watched.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// Who asks hears of a suspension at most so much earlier than of what was written in it.
const ABOUT: Duration = Duration::from_secs(1);
/// None is waited for any longer.
const LOST: Duration = Duration::from_secs(10);
/// Longest time from a write until it is healed.
const PROMISED: Duration = Duration::from_millis(1_500);
/// Most that it may cost Redis, in percent of one processor.
const PROMISED_PERCENT: f64 = 5.0;
const FIELD: &str = "wallet_balance";
const WRONG: &str = "-777.000001";

/// The load three times: with looks at what is healed; without them; and without anybody who watches.
pub async fn foreign(world: &mut World, progress: &Progress) -> Result<Vec<Row>> {
    let seconds = (world.size.events / RATE).clamp(1, MOST_SECONDS);
    let load = Load::lasting(RATE, LEAD_SECONDS + seconds);
    let rates = format!("{} transactions and {FOREIGN} foreign writes a second", grouped(RATE.into()));
    progress.step(&format!("{rates}, healed"));
    let of = world.installed.beside("heal", str::to_owned)?;
    let (healed, _) = under_load(world, &of, load, true).await?;
    progress.step(&format!("{rates}, healed, nobody looks"));
    let (_, watched) = under_load(world, &of, load, false).await?;
    progress.step(&format!("{rates}, not watched"));
    let off = world.installed.beside("off", |text| format!("{text}\n[audit]\nforeign_writes = \"off\"\n"))?;
    let (_, unwatched) = under_load(world, &off, load, false).await?;

    let mut waits: Vec<Duration> = healed.waits;
    waits.sort_unstable();
    let left = 100.0 * f64::from(healed.left) / f64::from(healed.written.max(1));
    let what = |of: &str| format!("foreign write healed, {of}");
    let cost = Row::new("Redis, CPU for watching and healing", (watched - unwatched).max(0.0), Unit::Percent);
    Ok(vec![
        Row::new("foreign writes healed", waits.len() as f64, Unit::Messages)
            .beside("written while watched", f64::from(healed.written - healed.left)),
        Row::new("left to the audit, for watching was suspended", left, Unit::Percent),
        promised(what("median"), percentile(&waits, 50), PROMISED),
        promised(what("p99"), percentile(&waits, 99), PROMISED),
        promised(what("longest"), percentile(&waits, 100), PROMISED),
        cost.beside("promised at most", PROMISED_PERCENT),
    ])
}

/// What became of wrong balances.
#[derive(Debug, Default)]
struct Healed {
    written: u32,
    waits: Vec<Duration>,
    /// When watching was last seen to be suspended: on a machine that cannot keep up it is, and nobody is told of what is
    /// written then.
    suspended: Option<Instant>,
    left: u32,
}

impl Healed {
    /// Whether watching was suspended when that was written, or before it was given up: nothing is compared then.
    fn was_suspended_since(&self, written: Instant) -> bool {
        self.suspended.is_some_and(|seen| seen + ABOUT >= written)
    }
}

/// Runs an instance under this load; also what Redis took meanwhile, in percent of a processor.
async fn under_load(world: &mut World, of: &Installed, load: Load, looks: bool) -> Result<(Healed, f64)> {
    let mut lockstep = of.run()?;
    lockstep.is_ready(PATIENCE).await?;
    let client = world.redis.client().await?;
    let half = (world.size.users / 2).max(1);
    let task = writer::Task { load, written: world.written, users: half };
    let url = world.postgres.url();
    let disturbs = async {
        tokio::time::sleep(Duration::from_secs(LEAD_SECONDS.into())).await;
        let (begun, before) = (Instant::now(), usage::cpu_of_all(world.redis.ids())?);
        let seconds = load.seconds() - LEAD_SECONDS;
        let watching = looks.then_some(&lockstep);
        let healed = disturb(&client, half..world.size.users, seconds, watching).await?;
        let took = usage::cpu_of_all(world.redis.ids())?.saturating_sub(before);
        Ok((healed, 100.0 * took.as_secs_f64() / begun.elapsed().as_secs_f64()))
    };
    let (_, disturbed) = tokio::try_join!(writer::write(&url, task), disturbs)?;
    world.written += load.transactions();
    lockstep.still_runs()?;
    Ok(disturbed)
}

/// Writes wrong balances of users with ids behind those of the range, one after the other; and, where somebody is `watching`,
/// looks at them until all are healed.
async fn disturb(
    client: &Client,
    users: std::ops::Range<u32>,
    seconds: u32,
    watching: Option<&Lockstep>,
) -> Result<Healed> {
    let mut ids = users.map(|before| before + 1).cycle();
    let (mut healed, mut open) = (Healed::default(), HashMap::new());
    let mut write = interval(Duration::from_secs(1) / FOREIGN);
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ask = interval(ASK_EVERY);
    ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let looks = watching.is_some();
    let begun = Instant::now();
    let lasts = Duration::from_secs(seconds.into());
    while begun.elapsed() < lasts || (looks && !open.is_empty()) {
        tokio::select! {
            _ = write.tick(), if begun.elapsed() < lasts => {
                let Some(key) = ids.next().map(key) else { break };
                let () = client.hset(&key, (FIELD, WRONG)).await.map_err(redis)?;
                if looks && open.insert(key, Instant::now()).is_none() {
                    healed.written += 1;
                }
            }
            _ = look.tick(), if looks => look_at(client, &mut open, &mut healed).await?,
            _ = ask.tick(), if looks => {
                if is_suspended(watching).await {
                    healed.suspended = Some(Instant::now());
                }
            }
        }
    }
    Ok(healed)
}

async fn is_suspended(watching: Option<&Lockstep>) -> bool {
    let Some(lockstep) = watching else { return false };
    lockstep.measured().await.is_some_and(|measured| !measured.watches)
}

async fn look_at(client: &Client, open: &mut HashMap<String, Instant>, healed: &mut Healed) -> Result<()> {
    let due: Vec<String> =
        open.iter().filter(|(_, at)| at.elapsed() >= GRACE).map(|(key, _)| key.clone()).collect();
    if due.is_empty() {
        return Ok(());
    }
    let looks = client.pipeline();
    for key in &due {
        let () = looks.hget(key, FIELD).await.map_err(redis)?;
    }
    let values: Vec<Option<String>> = looks.all().await.map_err(redis)?;
    for (key, value) in due.into_iter().zip(values) {
        let Some(&written) = open.get(&key) else { continue };
        let waited = written.elapsed();
        if value.as_deref() != Some(WRONG) {
            healed.waits.push(waited);
        } else if waited <= LOST {
            continue;
        } else if healed.was_suspended_since(written) {
            healed.left += 1;
        } else {
            return Err(Error::definite(format!("{key} is not healed"), "report this as a bug"));
        }
        open.remove(&key);
    }
    Ok(())
}

/// The platform's users take turns.
fn key(id: u32) -> String {
    let user_type = if id.is_multiple_of(2) { "demo" } else { "live" };
    format!("user:{{{user_type}:{id}}}:config")
}
