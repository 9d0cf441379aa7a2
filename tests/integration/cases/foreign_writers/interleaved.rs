//! Foreign writes as close to our own as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{NO_AUDIT, watched};
use crate::cases::config_of;
use crate::harness::workload::{Dice, Workload};
use crate::harness::{On, Resp, World};

on_both!(no_foreign_write_is_masked_by_one_of_ours);

const USERS: u32 = 20;

async fn no_foreign_write_is_masked_by_one_of_ours(on: On) {
    let world = watched(on, USERS, NO_AUDIT).await;
    let workload = Workload::start(&world.postgres, 3, 1, USERS).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for seed in 1..=3 {
        writers.push(tokio::spawn(write_stale(connections(&world).await, seed, Arc::clone(&stop))));
    }
    workload.progress(600).await;
    // The last writes are foreign ones, and then they are ours.
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer ends");
    }
    workload.stop().await;
    world.caught_up().await;
    world.eventually_equal().await;
    assert_eq!(world.lockstep.metric("lockstep_audit_overflows_total").await, 0.0);
}

/// By user a connection to the node of the hash and one to that of the string.
async fn connections(world: &World) -> Vec<(Resp, Resp)> {
    let mut connections = Vec::new();
    for id in 1..=USERS {
        let mut of = Vec::new();
        for key in [config_of(&format!("live:{id}")), format!("user_balance:live:{id}")] {
            let node = match &world.store {
                crate::harness::Store::Single(redis) => redis,
                crate::harness::Store::Cluster(cluster) => cluster.node(cluster.master_of(&key).await),
            };
            of.push(node.client().await);
        }
        let balance = of.pop().expect("two");
        connections.push((of.pop().expect("one"), balance));
    }
    connections
}

/// Writes back what it read before, as fast as it goes: often in the same turn of Redis' event loop as an event.
async fn write_stale(mut connections: Vec<(Resp, Resp)>, seed: u64, stop: Arc<AtomicBool>) {
    let mut dice = Dice(seed);
    while !stop.load(Ordering::Relaxed) {
        let id = dice.below(USERS.into()) + 1;
        let (hash, string) = &mut connections[id as usize - 1];
        let (config, balance) = (config_of(&format!("live:{id}")), format!("user_balance:live:{id}"));
        let old = hash.call(&["HGET", &config, "balance"]).await.unwrap().text().unwrap_or("1".into());
        for _ in 0..dice.below(20) {
            hash.call(&["HGET", &config, "balance"]).await.unwrap();
        }
        if dice.below(2) == 0 {
            hash.call(&["HSET", &config, "balance", &old, "wallet_balance", &old]).await.unwrap();
        } else {
            string.call(&["SET", &balance, &old, "EX", "3600"]).await.unwrap();
        }
    }
}
