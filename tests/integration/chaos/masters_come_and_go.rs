//! A new master joins the cluster, is given slots in use, gives them back and leaves.

use super::Trial;
use crate::harness::resp::slot_of;

pub async fn inject(trial: &mut Trial) {
    let master = trial.some_master().await;
    let cluster = trial.cluster();
    let node = cluster.replica_of(master).await;
    cluster.becomes_an_empty_master(node).await;
    let mut slots: Vec<u16> = Vec::new();
    for user in 1..=4 {
        slots.push(slot_of(&format!("user:{{live:{user}}}:config")));
        slots.push(slot_of(&format!("user_balance:live:{user}")));
    }
    let mut homes = Vec::new();
    for slot in &slots {
        homes.push((*slot, cluster.master_of_slot(*slot).await));
        cluster.move_slot(*slot, node).await;
        trial.progress(10).await;
    }
    trial.progress(50).await;
    for (slot, home) in homes {
        cluster.move_slot(slot, home).await;
        trial.progress(10).await;
    }
    cluster.becomes_a_replica(node, master).await;
    cluster.eventually_whole().await;
}
