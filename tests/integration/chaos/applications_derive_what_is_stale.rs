//! Applications compute from a balance that is about to change, and write what they have computed behind the change; once
//! the instance that could tell dies at that moment.

use super::Trial;
use super::trial::QUIET;
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    let mut derived = Vec::new();
    for id in QUIET {
        let change = "UPDATE users SET wallet_balance = wallet_balance + 1";
        let changed = format!("{change} WHERE id = {id} RETURNING trim_scale(wallet_balance)");
        let balance = trial.world.postgres.value(&changed).await;
        let applied = async || {
            (trial.world.store.get(&format!("user_balance:live:{id}")).await == balance).then_some(())
        };
        eventually("the change is in redis", applied).await;
        let keys = [format!("user_stats:live:{id}"), format!("financial_summary:live:{id}:week")];
        if id == *QUIET.end() {
            trial.kill_9();
        }
        for key in keys {
            trial.world.store.set(&key, "of the balance before").await;
            derived.push(key);
        }
        trial.progress(10).await;
    }
    trial.world.lockstep.run().await;
    for key in derived {
        let gone = async || (!trial.world.store.exists(&key).await).then_some(());
        eventually("what was computed from an older balance is gone", gone).await;
    }
}
