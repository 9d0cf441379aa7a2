//! The only Redis is made a replica of nobody: it keeps what it holds, and takes no writes.

use super::Trial;
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    trial.progress(50).await;
    trial.redis(0).call(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let connected = async || trial.world.lockstep.metric("lockstep_redis_connected").await;
    eventually("it is noticed", async || (connected().await == 0.0).then_some(())).await;
    trial.progress(50).await;
    trial.redis(0).call(&["REPLICAOF", "NO", "ONE"]).await;
    trial.progress(50).await;
}
