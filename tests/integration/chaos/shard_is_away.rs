//! A master and its replica are frozen: the whole cluster refuses to serve until they are back.

use super::Trial;
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    let master = trial.some_master().await;
    let replica = trial.cluster().replica_of(master).await;
    trial.progress(50).await;
    // The replica first: it must not take over.
    trial.redis(replica).pause();
    trial.redis(master).pause();
    trial.redis_is_missed().await;
    trial.progress(50).await;
    trial.redis(master).resume();
    eventually("the cluster serves again", async || {
        let info = trial.redis(master).call(&["CLUSTER", "INFO"]).await.text()?;
        info.contains("cluster_state:ok").then_some(())
    })
    .await;
    trial.redis(replica).resume();
    trial.cluster().eventually_whole().await;
}
