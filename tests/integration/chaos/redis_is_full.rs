//! A master has no room: what cannot be written is deleted, until there is room.

use super::Trial;

pub async fn inject(trial: &mut Trial) {
    let node = trial.some_master().await;
    trial.progress(50).await;
    trial.keys_may_go();
    trial.redis(node).call(&["CONFIG", "SET", "maxmemory", "1"]).await;
    trial.world.lockstep.is_not_ready_because("out of memory").await;
    trial.progress(50).await;
    trial.redis(node).call(&["CONFIG", "SET", "maxmemory", "0"]).await;
    trial.progress(50).await;
}
