//! A master takes no writes, and keeps what it holds: a single Redis is made a replica of nobody, one of a cluster asks
//! for more replicas than there are.

use super::Trial;
use crate::harness::{Store, eventually};

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
    let connected = async || trial.world.lockstep.metric("lockstep_redis_connected").await;
    eventually("it is noticed", async || (connected().await == 0.0).then_some(())).await;
    trial.progress(50).await;
    trial.redis(node).call(writable).await;
    trial.progress(50).await;
}
