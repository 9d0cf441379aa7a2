//! The slots of what Lockstep remembers in Redis move to other masters under load: checkpoints, epoch, lease and the marks of loads.

use super::Trial;
use super::slots_in_use_move::moves;
use crate::harness::eventually;

const FENCES: &str = "lockstep:fence:";

pub async fn inject(trial: &mut Trial) {
    let mut records = trial.world.store.keys("lockstep:*").await;
    records.retain(|key| !key.starts_with(FENCES));
    assert!(records.iter().filter(|key| key.starts_with("lockstep:checkpoint:")).count() > 1, "{records:?}");
    for key in &records {
        moves(trial, key).await;
    }
    trial.cluster().eventually_whole().await;
    eventually("a checkpoint is on every master again", async || {
        let mut with_none = 0;
        for master in trial.cluster().masters().await {
            let kept = trial.redis(master).call(&["KEYS", "lockstep:checkpoint:*"]).await.texts();
            with_none += usize::from(kept.is_empty());
        }
        (with_none == 0).then_some(())
    })
    .await;
}
