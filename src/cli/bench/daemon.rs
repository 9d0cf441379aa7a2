//! Lockstep at work, measured from outside.

use std::time::{Duration, Instant};

use super::backlog::Backlog;
use super::usage;
use super::world::{PATIENCE, World, holds};
use crate::cli::throwaway::lockstep::{Installed, Lockstep, Measured};
use crate::cli::throwaway::servers::sql;
use crate::error::{Error, Result};

/// Pause between two looks whether it streams.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// How long its metrics may take.
const ANSWER: Duration = Duration::from_secs(60);
const STREAMS: &str = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";

/// How a backlog was drained.
#[derive(Debug, Clone, Copy)]
pub struct Drained {
    /// Events that Lockstep counted.
    pub events: f64,
    /// How many there were.
    pub written: u64,
    /// From the beginning of the stream until Redis held the last event.
    pub time: Duration,
    /// What it took of the processors.
    pub cpu: Cpu,
    /// Most memory that Lockstep had resident, of all its processes, in bytes.
    pub peak: u64,
}

/// Processor time of each party, of all its processes.
#[derive(Debug, Clone, Copy)]
pub struct Cpu {
    /// The walsender.
    pub walsender: Duration,
    /// Lockstep.
    pub lockstep: Duration,
    /// All Redis servers.
    pub redis: Duration,
}

impl Drained {
    /// This without the time and the processor time of `other`.
    pub fn less(&self, other: &Drained) -> Drained {
        Drained { time: self.time.saturating_sub(other.time), cpu: self.cpu.since(&other.cpu), ..*self }
    }
}

/// Starts Lockstep, and ends it when Redis holds the backlog.
pub async fn drain(world: &World, backlog: &Backlog) -> Result<Drained> {
    drain_by(world, &[(&world.installed, &world.config.postgres.slot)], backlog).await
}

/// Starts several that share the users, each with its slot, and ends them when Redis holds the backlog.
pub async fn drain_by(world: &World, parts: &[(&Installed, &str)], backlog: &Backlog) -> Result<Drained> {
    let mut running = Vec::new();
    for (installed, slot) in parts {
        nobody_streams(world, slot).await?;
        running.push(installed.run()?);
    }
    let mut processes = Vec::new();
    for ((_, slot), lockstep) in parts.iter().zip(&mut running) {
        processes.push((streams(world, slot, lockstep).await?, lockstep.id()));
    }
    let begun = Instant::now();
    let before = Cpu::so_far(world, &processes)?;
    for lockstep in &mut running {
        holds(lockstep, backlog.end).await?;
    }
    let time = begun.elapsed();
    let cpu = Cpu::so_far(world, &processes)?.since(&before);
    let (mut events, mut peak) = (0.0, 0);
    for lockstep in &mut running {
        events += measured(lockstep).await?.events;
        peak += usage::peak_memory(lockstep.id())?;
    }
    if (events - backlog.events as f64).abs() >= 1.0 {
        let fact = format!("lockstep counts {events} events where {} were written", backlog.events);
        return Err(Error::definite(fact, "report this as a bug"));
    }
    Ok(Drained { events, written: backlog.events, time, cpu, peak })
}

impl Cpu {
    /// Of each walsender and its Lockstep.
    fn so_far(world: &World, processes: &[(u32, u32)]) -> Result<Cpu> {
        Ok(Cpu {
            walsender: usage::cpu_of_all(processes.iter().map(|(walsender, _)| *walsender))?,
            lockstep: usage::cpu_of_all(processes.iter().map(|(_, lockstep)| *lockstep))?,
            redis: usage::cpu_of_all(world.redis.ids())?,
        })
    }

    fn since(&self, before: &Cpu) -> Cpu {
        Cpu {
            walsender: self.walsender.saturating_sub(before.walsender),
            lockstep: self.lockstep.saturating_sub(before.lockstep),
            redis: self.redis.saturating_sub(before.redis),
        }
    }
}

/// Starts Lockstep where nobody is loaded, and ends it when everybody is; `events` are the users that it counted.
pub async fn load(world: &World) -> Result<Drained> {
    let slot = &world.config.postgres.slot;
    nobody_streams(world, slot).await?;
    let mut lockstep = world.installed.run()?;
    let processes = [(streams(world, slot, &mut lockstep).await?, lockstep.id())];
    let begun = Instant::now();
    let before = Cpu::so_far(world, &processes)?;
    lockstep.is_ready(PATIENCE).await?;
    let time = begun.elapsed();
    let cpu = Cpu::so_far(world, &processes)?.since(&before);
    let events = measured(&mut lockstep).await?.loaded;
    let peak = usage::peak_memory(lockstep.id())?;
    let written = u64::from(world.size.users);
    Ok(Drained { events, written, time, cpu, peak })
}

/// What it says of itself; a busy machine may keep it from answering at once.
pub async fn measured(lockstep: &mut Lockstep) -> Result<Measured> {
    let deadline = Instant::now() + ANSWER;
    loop {
        if let Some(measured) = lockstep.measured().await {
            return Ok(measured);
        }
        lockstep.still_runs()?;
        if Instant::now() >= deadline {
            return Err(Error::definite(
                "lockstep does not tell its metrics",
                "try again when less else runs",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits until it streams; the walsender's process id.
async fn streams(world: &World, slot: &str, lockstep: &mut Lockstep) -> Result<u32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(process) = walsender(world, slot).await? {
            return Ok(process);
        }
        lockstep.still_runs()?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Error::definite("lockstep does not stream", "see its log with \"lockstep demo --keep\""))
}

/// Waits until the walsender of the run before is gone: it would pass for the next one's, or keep the slot from it.
pub async fn nobody_streams(world: &World, slot: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while walsender(world, slot).await?.is_some() {
        if Instant::now() >= deadline {
            return Err(Error::definite("the slot stays in use", "try again when less else runs"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// The process id of who streams from a slot.
async fn walsender(world: &World, slot: &str) -> Result<Option<u32>> {
    let Some(row) = world.client.query_opt(STREAMS, &[&slot]).await.map_err(sql)? else { return Ok(None) };
    let process: Option<i32> = row.try_get(0).map_err(sql)?;
    Ok(process.map(i32::unsigned_abs))
}
