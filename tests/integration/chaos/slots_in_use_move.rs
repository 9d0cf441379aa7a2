//! Slots move to other masters key by key, while they are written.

use super::Trial;
use crate::harness::resp::slot_of;

const TIMES: u64 = 4;

pub async fn inject(trial: &mut Trial) {
    for _ in 0..TIMES {
        let user = trial.some(1, 20);
        for key in [format!("user:{{live:{user}}}:config"), format!("user_balance:live:{user}")] {
            moves(trial, &key).await;
        }
    }
    trial.cluster().eventually_whole().await;
}

/// The slot of this key has another master afterwards.
pub async fn moves(trial: &mut Trial, key: &str) {
    let to = another_master(trial, key).await;
    let cluster = trial.cluster();
    let from = cluster.begin_move(slot_of(key), to).await;
    trial.progress(20).await;
    cluster.migrate_keys(slot_of(key), from, to).await;
    trial.progress(20).await;
    // Keys that were made meanwhile.
    cluster.migrate_keys(slot_of(key), from, to).await;
    cluster.finish_move(slot_of(key), from, to).await;
}

async fn another_master(trial: &mut Trial, key: &str) -> usize {
    let from = trial.cluster().master_of(key).await;
    loop {
        let to = trial.some_master().await;
        if to != from {
            return to;
        }
    }
}
