//! A master is killed, its replica takes over without what it had not yet received, and the old master comes back.

use super::Trial;

pub async fn inject(trial: &mut Trial) {
    let master = trial.some_master().await;
    trial.progress(50).await;
    trial.redis_loses(master).await;
    trial.cluster().lose_master(master).await;
    trial.redis_has_lost().await;
    trial.progress(50).await;
    trial.redis(master).start_again().await;
    trial.cluster().eventually_whole().await;
}
