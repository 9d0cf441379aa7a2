//! Every connection to Redis but those of subscribers is closed, again and again.

use super::Trial;

const TIMES: u64 = 5;

pub async fn inject(trial: &mut Trial) {
    for _ in 0..TIMES {
        let before = trial.some(1, 40);
        trial.progress(before).await;
        for master in trial.world.store.masters().await {
            master.call(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        }
    }
}
