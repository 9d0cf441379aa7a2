//! Somebody types FLUSHALL.

use super::Trial;

pub async fn inject(trial: &mut Trial) {
    let node = trial.some_master().await;
    trial.progress(50).await;
    trial.redis_loses(node).await;
    trial.redis(node).call(&["FLUSHALL"]).await;
    trial.redis_has_lost().await;
    trial.progress(100).await;
}
