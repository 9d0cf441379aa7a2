//! A master is frozen until its replica has taken over, and wakes up as one that does not know it yet.

use super::Trial;
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    let master = trial.some_master().await;
    let replica = trial.cluster().replica_of(master).await;
    trial.progress(50).await;
    trial.redis_loses(master).await;
    trial.redis(master).pause();
    eventually("the replica takes over", async || {
        let role = trial.redis(replica).call(&["ROLE"]).await.items().first()?.text()?;
        (role == "master").then_some(())
    })
    .await;
    trial.progress(50).await;
    trial.redis(master).resume();
    trial.cluster().eventually_whole().await;
}
