//! The program is killed at any moment, also while it still starts.

use super::Trial;

const TIMES: u64 = 6;

pub async fn inject(trial: &mut Trial) {
    for round in 0..TIMES {
        let (before, meanwhile) = (trial.some(1, 100), trial.some(0, 30));
        trial.progress(before).await;
        trial.kill_9();
        trial.progress(meanwhile).await;
        trial.world.lockstep.spawn(&["run"]);
        if round % 2 == 0 {
            trial.world.lockstep.wait_ready().await;
        }
    }
}
