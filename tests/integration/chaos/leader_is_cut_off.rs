//! The leader loses the network to both sides without being told; another takes over; the network comes back.

use super::{Line, Trial};
use crate::harness::{Lockstep, eventually};

pub async fn inject(trial: &mut Trial) {
    let second = trial.second().await;
    trial.progress(50).await;
    let lines = |line| {
        trial.lines.postgres.set(line);
        trial.lines.redis.set(line);
    };
    lines(Line::Silent);
    trial.takes_over(&second).await;
    trial.progress(50).await;
    // What it had under way arrives now, late.
    lines(Line::Open);
    trial.progress(50).await;
    // Mostly the second. Where a checkpoint came late, over the one that the second had read, it compares what Redis holds
    // once more, and the first may have the slot again before it has.
    let first_leads = eventually("one leads and the other waits", async || {
        match (waits(&trial.world.lockstep).await, waits(&second.lockstep).await) {
            (true, false) => Some(false),
            (false, true) => Some(true),
            _ => None,
        }
    });
    if first_leads.await {
        second.lockstep.kill9();
    } else {
        trial.kill_9();
        trial.goes_on_with(second);
    }
}

async fn waits(lockstep: &Lockstep) -> bool {
    let said = lockstep.http("GET", "/readyz").await;
    said.is_ok_and(|(_, body)| body.contains("another instance holds the slot"))
}
