//! The leader loses the network to both sides without being told; another takes over; the network comes back.

use super::{Line, Trial};

pub async fn inject(trial: &mut Trial) {
    let second = trial.second().await;
    trial.progress(50).await;
    let lines = |line| {
        trial.lines.postgres.set(line);
        trial.lines.redis.iter().for_each(|redis| redis.set(line));
    };
    lines(Line::Silent);
    trial.takes_over(&second).await;
    trial.progress(50).await;
    // What it had under way arrives now, late.
    lines(Line::Open);
    trial.progress(50).await;
    trial.world.lockstep.is_not_ready_because("another instance holds the slot").await;
    trial.kill_9();
    trial.goes_on_with(second);
}
