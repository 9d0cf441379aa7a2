//! An admin makes replicas the masters, in agreement: nothing is lost.

use super::Trial;

pub async fn inject(trial: &mut Trial) {
    for _ in 0..2 {
        let master = trial.some_master().await;
        trial.progress(50).await;
        trial.cluster().failover(master).await;
        trial.progress(50).await;
        trial.cluster().eventually_whole().await;
    }
}
