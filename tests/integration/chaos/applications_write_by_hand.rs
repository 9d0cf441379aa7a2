//! Applications copy balances by hand, late and wrong, of users who move at the same time and of users who rest.

use super::Trial;
use super::trial::{QUIET, USERS, WATCHED};
use crate::harness::eventually;

pub async fn inject(trial: &mut Trial) {
    let healed = async |trial: &Trial| {
        trial.world.lockstep.metric("lockstep_foreign_writes_total{verdict=\"healed\"}").await
    };
    let before = healed(trial).await;
    for resting in QUIET {
        let moving = trial.some(u64::from(WATCHED) + 1, USERS.into());
        for id in [moving, resting.into()] {
            trial.world.store.hset(&format!("user:{{live:{id}}}:config"), "balance", "66").await;
            trial.world.store.set(&format!("user_balance:live:{id}"), "66").await;
        }
        trial.progress(20).await;
    }
    let resting = QUIET.count() as f64;
    let all_healed = async || (healed(trial).await >= before + resting).then_some(());
    eventually("those who rest are healed", all_healed).await;
}
