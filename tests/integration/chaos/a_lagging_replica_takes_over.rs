//! A replica that has heard nothing for a while takes over from its master.

use super::Trial;

pub async fn inject(trial: &mut Trial) {
    let master = trial.some_master().await;
    let replica = trial.cluster().replica_of(master).await;
    trial.redis(replica).lag_behind().await;
    trial.progress(100).await;
    trial.redis_loses(master).await;
    trial.cluster().lose_master(master).await;
    trial.redis_has_lost().await;
    trial.progress(50).await;
    trial.redis(replica).catch_up().await;
    trial.redis(master).start_again().await;
    trial.cluster().eventually_whole().await;
}
