//! Applications copy balances by hand, late and wrong, of users who move at the same time and of users who rest.

use super::Trial;
use super::trial::{QUIET, USERS, WATCHED};
use crate::harness::eventually;

const WRONG: &str = "66";

/// What is written while nobody watches is the audit's to find; where watching ended meanwhile, the applications write
/// once more.
pub async fn inject(trial: &mut Trial) {
    loop {
        let watched = async || (metric(trial, "watched").await == 1.0).then_some(());
        eventually("what applications write is watched", watched).await;
        let ends = metric(trial, "unwatched_total").await;
        for resting in QUIET {
            let moving = trial.some(u64::from(WATCHED) + 1, USERS.into());
            write(trial, moving).await;
            write(trial, resting.into()).await;
            trial.progress(20).await;
        }
        let healed_or_unwatched = async || {
            let is_healed = are_healed(trial).await;
            (is_healed || metric(trial, "unwatched_total").await > ends).then_some(is_healed)
        };
        if eventually("those who rest are healed", healed_or_unwatched).await {
            return;
        }
    }
}

async fn metric(trial: &Trial, name: &str) -> f64 {
    trial.world.lockstep.metric(&format!("lockstep_foreign_writes_{name}")).await
}

async fn write(trial: &Trial, id: u64) {
    trial.world.store.hset(&format!("user:{{live:{id}}}:config"), "balance", WRONG).await;
    trial.world.store.set(&format!("user_balance:live:{id}"), WRONG).await;
}

async fn are_healed(trial: &Trial) -> bool {
    let store = &trial.world.store;
    for id in QUIET {
        let hash = store.hash(&format!("user:{{live:{id}}}:config")).await;
        let text = store.get(&format!("user_balance:live:{id}")).await;
        if hash.get("balance").is_none_or(|balance| balance == WRONG) || text.is_none_or(|text| text == WRONG) {
            return false;
        }
    }
    true
}
