//! An admin terminates the walsender, again as soon as there is a new one.

use super::Trial;

const TIMES: u64 = 5;

pub async fn inject(trial: &mut Trial) {
    for _ in 0..TIMES {
        let before = trial.some(1, 60);
        trial.progress(before).await;
        trial.world.sql("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active").await;
    }
}
