//! A master takes no writes, and keeps what it holds: a single Redis is made a replica of nobody, one of a cluster asks
//! for more replicas than there are.

use super::Trial;
use crate::harness::Store;

pub async fn inject(trial: &mut Trial) {
    let node = trial.some_master().await;
    let (read_only, writable): (&[&str], &[&str]) = match trial.world.store {
        Store::Single(_) => (&["REPLICAOF", "127.0.0.1", "1"], &["REPLICAOF", "NO", "ONE"]),
        Store::Cluster(_) => {
            (&["CONFIG", "SET", "min-replicas-to-write", "9"], &["CONFIG", "SET", "min-replicas-to-write", "0"])
        }
    };
    trial.progress(50).await;
    trial.redis(node).call(read_only).await;
    trial.redis_is_missed().await;
    trial.progress(50).await;
    trial.redis(node).call(writable).await;
    trial.progress(50).await;
}
